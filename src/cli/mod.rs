//! The command line: options in, one clear line and an exit code out.

mod background;
mod check;
mod diff;
mod info;
mod logging;
mod ls;
mod map;
mod mount;
mod mount_options;
mod points;
mod progress;
mod restore;
mod size;
mod umount;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::error::Result;
use logging::Verbosity;

/// Shows a folder of VM-disk backups as the disks that they hold
///
/// Every restore point of every chain of qcow2 and raw backups appears as a folder with a raw
/// disk.img in it. The backups are only read: nothing is rebased, replayed or converted.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    verbosity: Verbosity,

    /// This is the process that a mount leaves in the background
    #[arg(long = background::FLAG, hide = true)]
    background_child: bool,

    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  qcowfs ls /backups                     what is there, without mounting it
  qcowfs mount /backups /mnt/view        show it
  mount -o ro,noload,loop,offset=1048576 /mnt/view/vm1/sda/latest/disk.img /mnt/files
  qcowfs umount /mnt/view                hide it again
  qcowfs restore /backups vm1/sda@latest /var/lib/libvirt/images/sda.raw
  qcowfs check /backups                  can they be relied on?

Exit codes: 0 done, 1 failed (one line on the standard error says why), 2 wrong usage.
`check` exits with 1 as well where it found damage.";

#[derive(Debug, Subcommand)]
enum Command {
    Mount(mount::MountArgs),
    Umount(umount::UmountArgs),
    Ls(LsArgs),
    Info(info::InfoArgs),
    Map(map::MapArgs),
    Diff(diff::DiffArgs),
    Restore(restore::RestoreArgs),
    Check(check::CheckArgs),
}

/// List what a source holds: disks, restore points, and what is wrong with them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qcowfs ls /backups           what can be restored, oldest first
  qcowfs ls /backups --json    the same for programs, with what each link of a chain rests on

A checkpoint whose state is `broken` cannot be shown; the line below it says why.")]
struct LsArgs {
    /// Folder of backups, or one backup file
    source: PathBuf,

    #[command(flatten)]
    allowed: AllowedRoots,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Folders outside of the source.
#[derive(Debug, Args)]
struct AllowedRoots {
    /// Open files beneath DIR, too, where headers or qcowfs.toml lead to them; may be repeated
    ///
    /// Backing files and external data files may lie outside of the source on purpose: beneath DIR
    /// they are followed, by their own path. Nothing else there is looked at or shown.
    #[arg(long = "allow-root", value_name = "DIR")]
    list: Vec<PathBuf>,
}

/// Runs the program: parses the command line, does what it says, and tells how it went.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(&cli) {
        Ok(code) => code,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        Command::Mount(args) => mount::run(args, cli.verbosity, cli.background_child),
        Command::Umount(args) => {
            logging::start(cli.verbosity, logging::Destination::Terminal)?;
            umount::run(args).map(|()| ExitCode::SUCCESS)
        }
        Command::Ls(args) => {
            logging::start(cli.verbosity, logging::Destination::Terminal)?;
            ls::run(args).map(|()| ExitCode::SUCCESS)
        }
        Command::Info(args) => {
            logging::start(cli.verbosity, logging::Destination::Terminal)?;
            info::run(args).map(|()| ExitCode::SUCCESS)
        }
        Command::Map(args) => {
            logging::start(cli.verbosity, logging::Destination::Terminal)?;
            map::run(args).map(|()| ExitCode::SUCCESS)
        }
        Command::Diff(args) => {
            logging::start(cli.verbosity, logging::Destination::Terminal)?;
            diff::run(args).map(|()| ExitCode::SUCCESS)
        }
        Command::Restore(args) => {
            logging::start(cli.verbosity, logging::Destination::Terminal)?;
            restore::run(args, cli.verbosity).map(|()| ExitCode::SUCCESS)
        }
        Command::Check(args) => {
            logging::start(cli.verbosity, logging::Destination::Terminal)?;
            check::run(args, cli.verbosity)
        }
    }
}

/// A line on the standard error. If nobody can read it, the exit code still tells.
fn complain(what: &str) {
    let line = what.replace('\n', "; ");
    let _unread = writeln!(io::stderr(), "qcowfs: {line}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn verbosity_is_understood_on_either_side_of_the_command() {
        for words in [["qcowfs", "-v", "ls", "/b"], ["qcowfs", "ls", "-v", "/b"]] {
            Cli::try_parse_from(words).unwrap();
        }
        assert!(Cli::try_parse_from(["qcowfs", "-v", "-q", "ls", "/b"]).is_err());
    }
}
