//! The command line: options in, one clear line and an exit code out.

mod background;
mod check;
mod diff;
mod info;
mod log_file;
mod logging;
mod ls;
mod map;
mod mount;
mod mount_helper;
mod mount_options;
mod paint;
mod points;
mod progress;
mod restore;
mod size;
mod status;
mod umount;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use log::Level;

use crate::error::{Error, Result};
use crate::mount::{WATCH, watch};
use logging::Verbosity;
use mount_helper::{HelperArgs, MOUNT_FAILED, WRONG_USAGE};

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
  mount -o ro,noload,loop /mnt/view/vm1/sda/latest/p1.img /mnt/files
  qcowfs status /mnt/view                how it is doing
  qcowfs umount /mnt/view                hide it again
  qcowfs restore /backups vm1/sda@latest /var/lib/libvirt/images/sda.raw
  qcowfs check /backups                  can they be relied on?

Exit codes:
  0  done
  1  failed, and one line on the standard error says why and what to do;
     or `check` found damage
  2  wrong usage";

#[derive(Debug, Subcommand)]
enum Command {
    Mount(mount::MountArgs),
    Umount(umount::UmountArgs),
    Status(status::StatusArgs),
    Ls(LsArgs),
    Info(info::InfoArgs),
    Map(map::MapArgs),
    Diff(diff::DiffArgs),
    Restore(restore::RestoreArgs),
    Check(check::CheckArgs),
    /// Take a view away when its process has died: started by `mount -o auto_unmount`
    #[command(name = WATCH, hide = true)]
    Watch {
        /// Which mount is meant
        mount: OsString,
    },
}

/// List what a source holds: disks, restore points, and what is wrong with them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qcowfs ls /backups           what can be restored, oldest first:
      vm1/sda
        CHECKPOINT      TIME (UTC)            SIZE    KIND         STATE  ...
        FULL-1706260639 2024-01-26T09:17:19Z  40 GiB  full         whole  ...
        INC-1706260646  2024-01-26T09:17:26Z  40 GiB  incremental  whole  ...
        latest -> INC-1706260646
  qcowfs ls /backups --json    the same for programs, with what links rest on
  qcowfs ls --allow-root /var/lib/libvirt/images /backups
      the backups stand on images outside of /backups

A checkpoint whose state is `broken` cannot be shown; the line below says why.")]
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

/// The program's command line, for those who write its manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The command line of the program where mount(8) calls it.
pub fn mount_helper_command() -> clap::Command {
    HelperArgs::command()
}

/// Runs the program: parses the command line, does what it says, and tells how it went.
pub fn run() -> ExitCode {
    let words: Vec<OsString> = env::args_os().collect();
    if mount_helper::is_called(&words) {
        return run_as_helper(&words);
    }
    let cli = Cli::parse_from(&words);
    match dispatch(&cli, &words) {
        Ok(code) => code,
        Err(error) => {
            complain(&told(&error));
            ExitCode::FAILURE
        }
    }
}

/// Mounts for mount(8), whose exit codes are others than ours.
fn run_as_helper(words: &[OsString]) -> ExitCode {
    let args = match HelperArgs::try_parse_from(words) {
        Ok(args) => args,
        Err(told) => {
            // If nobody can read it, the exit code still tells.
            let _unread = told.print();
            return if told.use_stderr() { WRONG_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let failed = |error: Error, code: u8| {
        complain(&told(&error));
        ExitCode::from(code)
    };
    match mount_helper::translate(&args) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(words)) => match dispatch(&Cli::parse_from(&words), &words) {
            Ok(code) => code,
            Err(error) => failed(error, MOUNT_FAILED),
        },
        Err(error) => failed(error, WRONG_USAGE),
    }
}

fn dispatch(cli: &Cli, words: &[OsString]) -> Result<ExitCode> {
    let verbosity = cli.verbosity;
    let to_terminal = || logging::start(verbosity, logging::Destination::TerminalOnce);
    let done = match &cli.command {
        // These decide themselves where the log goes.
        Command::Mount(args) => {
            return mount::run(args, verbosity, cli.background_child, words);
        }
        Command::Watch { mount } => {
            logging::start(verbosity, logging::Destination::Syslog)?;
            return watch(mount).map(|()| ExitCode::SUCCESS);
        }
        Command::Check(args) => return to_terminal().and_then(|()| check::run(args, verbosity)),
        Command::Umount(args) => to_terminal().and_then(|()| umount::run(args)),
        Command::Status(args) => to_terminal().and_then(|()| status::run(args)),
        Command::Ls(args) => to_terminal().and_then(|()| ls::run(args)),
        Command::Info(args) => to_terminal().and_then(|()| info::run(args)),
        Command::Map(args) => to_terminal().and_then(|()| map::run(args)),
        Command::Diff(args) => to_terminal().and_then(|()| diff::run(args, verbosity)),
        Command::Restore(args) => to_terminal().and_then(|()| restore::run(args, verbosity)),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// An error, and what to do about it where the error itself cannot know.
fn told(error: &Error) -> String {
    advice(error).map_or_else(|| error.to_string(), |advice| format!("{error}: {advice}"))
}

fn advice(error: &Error) -> Option<&'static str> {
    match error {
        Error::Io { source, .. } => match source.kind() {
            io::ErrorKind::NotFound => Some("is the path right, and its file system mounted?"),
            io::ErrorKind::PermissionDenied => Some("try it as root, or as the owner"),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Some("make room, or choose another place")
            }
            io::ErrorKind::FileTooLarge => {
                Some("no file there may be that long: see `ulimit -f`, or choose another place")
            }
            io::ErrorKind::ReadOnlyFilesystem => Some("choose another place"),
            io::ErrorKind::NotADirectory => Some("a part of the path is no folder"),
            _ if source.raw_os_error() == Some(libc::EIO) => {
                Some("`dmesg` may say more about the device")
            }
            _ => None,
        },
        Error::Corrupt { .. } => Some("`qcowfs check` tells which restore points that spoils"),
        Error::About { error, .. } => advice(error),
        Error::Unsupported { .. } | Error::MissingLayer { .. } | Error::Usage(_) => None,
    }
}

/// A line on the standard error. If nobody can read it, the exit code still tells.
fn complain(what: &str) {
    let line = what.replace('\n', "; ");
    let mark = match what.starts_with("note:") {
        _ if !logging::is_journal() => "",
        true => logging::journal_mark(Level::Warn),
        false => logging::journal_mark(Level::Error),
    };
    let _unread = writeln!(io::stderr(), "{mark}qcowfs: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// What is wider is broken in odd places on a terminal of 80 columns.
    #[test]
    fn examples_and_tables_of_the_help_fit_80_columns() {
        let mut program = command();
        program.build();
        let helper = mount_helper_command();
        let all = [&program, &helper].into_iter().chain(program.get_subcommands());
        for command in all {
            let text = |text: Option<&clap::builder::StyledStr>| text.map(ToString::to_string);
            let end = text(command.get_after_help()).unwrap_or_default();
            // What is not broken into lines by hand has one line for each paragraph.
            let about = text(command.get_long_about()).filter(|about| about.contains("\n "));
            let long = command.get_arguments().filter_map(clap::Arg::get_long_help);
            let tables = long.map(ToString::to_string).filter(|help| help.contains("\n  "));
            // The help of an option is shifted by 10.
            let tables: Vec<_> = tables.map(|table| (table, 70)).collect();
            for (text, width) in
                tables.into_iter().chain([(end, 80)]).chain(about.map(|about| (about, 80)))
            {
                let wide = text.lines().find(|line| line.chars().count() > width);
                assert_eq!(wide, None, "{}", command.get_name());
            }
        }
    }

    #[test]
    fn verbosity_is_understood_on_either_side_of_the_command() {
        for words in [["qcowfs", "-v", "ls", "/b"], ["qcowfs", "ls", "-v", "/b"]] {
            Cli::try_parse_from(words).unwrap();
        }
        assert!(Cli::try_parse_from(["qcowfs", "-v", "-q", "ls", "/b"]).is_err());
    }
}
