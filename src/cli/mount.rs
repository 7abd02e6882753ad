//! `qcowfs mount`.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::Args;

use super::AllowedRoots;
use super::background::{self, Parent};
use super::logging::{self, Destination, Verbosity};
use super::mount_options;
use crate::error::{Error, Result};
use crate::mount::{Hangup, Mounted, Place, raise_open_files_limit};
use crate::tree::live::Live;
use crate::tree::{Tree, ViewOptions};

const OPTIONS_HELP: &str = "\
Mount options, comma-separated; may be repeated, and later ones win:
  missing=hide|eio|zero     restore points of which something is lost: there is no disk (hide,
                            as without this option); what is lost cannot be read (eio), or
                            reads as zeros (zero; info.json lists where)
  allow_other, allow_root   let others look in, as far as owners and permission bits say
  default_permissions       have these checked for yourself too
  fsname=NAME               the source in the mount table (a comma in it as `\\,`)
  map_cache=SIZE            memory for the maps of the disks: 48M if not given
  data_cache=SIZE           memory for tables and decompressed data: 32M if not given
  nopassthrough             do not let the kernel read plain raw files by itself
  refresh=auto|off|SECONDS  when the source is looked at again: as it changes, every so many
                            seconds, or on SIGHUP alone
  ro, noexec, exec, nodev, nosuid, noatime, atime
  dev, suid                 for root only";

/// Said where nobody would ever see why a read failed.
const NO_SYSLOG: &str =
    "note: there is no syslog here; say --log-file FILE to keep the reasons of read errors";

/// More threads than this have not been seen to help.
const MOST_THREADS: usize = 8;

/// Mount a view of a source, read-only
///
/// Returns when the view answers, and leaves a process in the background that serves it until it
/// is unmounted (by `qcowfs umount`, `umount` or SIGTERM; a second SIGTERM detaches a busy one).
/// What a killed qcowfs left at the mount point is removed first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qcowfs mount /backups /mnt/view
  qcowfs mount -o allow_other /backups /mnt/view         let other users look in
  qcowfs mount -o missing=zero /backups /mnt/view        show also what lost a part of its chain
  qcowfs mount -f -v /backups /mnt/view                  stay, and say what happens")]
pub(super) struct MountArgs {
    /// Folder of backups, or one backup file
    source: PathBuf,

    /// Existing folder, outside of the source, to show the view at
    #[arg(value_name = "MOUNTPOINT")]
    mount_point: PathBuf,

    /// Mount options, comma-separated; may be repeated, and later ones win
    #[arg(short, value_name = "OPTIONS", long_help = OPTIONS_HELP)]
    options: Vec<OsString>,

    #[command(flatten)]
    allowed: AllowedRoots,

    /// Stay in the foreground, with the log on the standard error
    #[arg(short, long)]
    foreground: bool,

    /// Threads that answer the kernel [default: one for each CPU, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: Option<u16>,

    /// Append the log to a file instead of syslog (or the standard error, in the foreground)
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
}

pub(super) fn run(
    args: &MountArgs,
    verbosity: Verbosity,
    is_background_child: bool,
) -> Result<ExitCode> {
    if args.foreground {
        serve(args, verbosity, None)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !is_background_child {
        background::start()?;
        if args.log_file.is_none() && !logging::has_syslog() {
            super::complain(NO_SYSLOG);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut parent = Parent::new();
    Ok(match serve(args, verbosity, Some(&mut parent)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            parent.tell_failure(&error);
            ExitCode::FAILURE
        }
    })
}

/// Mounts and serves; with a parent, in the background as soon as the view answers.
fn serve(args: &MountArgs, verbosity: Verbosity, parent: Option<&mut Parent>) -> Result<()> {
    let destination = match (&args.log_file, &parent) {
        (Some(file), _) => Destination::append_to(file)?,
        (None, None) => Destination::Terminal,
        (None, Some(_)) => Destination::Syslog,
    };
    logging::start(verbosity, destination)?;
    raise_open_files_limit();
    let options = mount_options::parse(&args.options)?;
    let place = Place::check(&args.source, &args.mount_point, &options.mount)?;
    let allowed = args.allowed.list.clone();
    let view = ViewOptions { allowed, missing: options.missing, caches: options.caches };
    let live = Live::new(place.source(), &view)?;
    let tree = live.tree();
    check_not_hidden(tree, &place)?;
    let on_terminal = io::stdin().is_terminal() || io::stderr().is_terminal();
    let hangup = if parent.is_none() && on_terminal { Hangup::Unmount } else { Hangup::Refresh };
    let threads = args.threads.and_then(|n| NonZeroUsize::new(n.into()));
    let threads = threads.unwrap_or_else(default_threads);
    check_threads(threads)?;
    if let Some(missing) = tree.shortfall() {
        let allowed =
            args.allowed.list.iter().map(|dir| format!("--allow-root {} ", dir.display()));
        let (allowed, source) = (allowed.collect::<String>(), args.source.display());
        super::complain(&format!("note: {missing}; see `qcowfs ls {allowed}{source}`"));
    }
    let mounted = Mounted::new(&place, live, &options.mount, threads, hangup)?;
    if let Some(parent) = parent
        && let Err(error) = parent.leave()
    {
        mounted.abandon();
        return Err(error);
    }
    mounted.serve()
}

/// A file outside of the source must not be one that the mount hides: it could not be opened again.
fn check_not_hidden(tree: &Tree, place: &Place) -> Result<()> {
    let mut files = tree.catalog().inventory.files();
    match files.find(|(_, file)| file.path.starts_with(place.mount_point())) {
        None => Ok(()),
        Some((_, file)) => Err(Error::Usage(format!(
            "{}: the mount point would hide {}, on which backups stand: use a folder elsewhere",
            place.mount_point().display(),
            file.path.display()
        ))),
    }
}

/// Makes sure that the threads can be had. Once it is mounted, a view without them would answer
/// nobody, not even the one who wants to unmount it.
fn check_threads(threads: NonZeroUsize) -> Result<()> {
    // The session's own, the one for signals, and the two that look after changes come on top.
    let wanted = threads.get() + 4;
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Arc::new(parking_lot::Mutex::new(wait));
    let mut started = Vec::with_capacity(wanted);
    let mut failure = None;
    for _ in 0..wanted {
        let wait = std::sync::Arc::clone(&wait);
        match thread::Builder::new().spawn(move || wait.lock().recv().is_ok()) {
            Ok(thread) => started.push(thread),
            Err(e) => failure = Some(e),
        }
    }
    drop(stop);
    for thread in started {
        // Nothing in it can fail.
        let _ended = thread.join();
    }
    failure.map_or(Ok(()), |e| {
        let what =
            format!("cannot have {wanted} threads: {e}; say --threads with a smaller number");
        Err(Error::Usage(what))
    })
}

fn default_threads() -> NonZeroUsize {
    let most = NonZeroUsize::new(MOST_THREADS).unwrap_or(NonZeroUsize::MIN);
    thread::available_parallelism().map_or(NonZeroUsize::MIN, |cpus| cpus.min(most))
}
