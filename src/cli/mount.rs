//! `qcowfs mount`.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use clap::Args;

use super::AllowedRoots;
use super::background::{self, Parent};
use super::logging::{self, Destination, Verbosity};
use super::mount_options::{self, Options};
use crate::error::{Error, Result};
use crate::mount::{Hangup, Mounted, Place, raise_open_files_limit, service};
use crate::tree::live::Live;
use crate::tree::missing::Missing;
use crate::tree::{Tree, ViewOptions};

/// At most 70 columns: clap shifts it by 10, and what does not fit a terminal of 80 it breaks.
const OPTIONS_HELP: &str = "\
Mount options, comma-separated; may be repeated, and later ones win:
  missing=hide|eio|zero     of restore points that lost something:
                            show no disk (hide; if not given), fail
                            where it is lost (eio), or read zeros
                            there (zero; info.json lists where)
  allow_other, allow_root   let others look in, as far as owners and
                            permission bits say
  default_permissions       have these checked for yourself, too
  auto_unmount              take the view away when its process dies
                            (SIGKILL, no memory)
  follow=DIR                the same as --allow-root DIR; not to be
                            confused with allow_root
  threads=N, log_file=FILE  the same as --threads and --log-file,
                            for fstab
  fsname=NAME               the source in the mount table (a comma
                            in it as `\\,`)
  map_cache=SIZE            memory for the maps of the disks: 48M if
                            not given
  data_cache=SIZE           memory for tables and decompressed data:
                            32M if not given
  nopassthrough             do not let the kernel read plain raw
                            files by itself
  refresh=auto|off|SECONDS  when the source is looked at again: as
                            it changes, on SIGHUP alone, or every so
                            many seconds; auto if not given
  ro, noexec, exec, nodev, nosuid, noatime, atime
  dev, suid                 for root only";

/// Said where nobody would ever see why a read failed.
const NO_SYSLOG: &str =
    "there is no syslog here; say --log-file FILE to keep the reasons of read errors";

/// One thread for each processor, and so many more: who waits for the source keeps none of them busy.
/// With more, the kernel wakes the one that slept longest, with the least in the processor's caches
/// (contrib/bench/README.md has the numbers).
const SPARE_THREADS: usize = 1;
/// More threads than this have not been seen to help.
const MOST_THREADS: usize = 8;

/// Threads beside those that answer: the session's own, the one for signals, the two that look after
/// changes, and the one that reads ahead.
const OWN_THREADS: usize = 5;
/// Processes that are started beside: fusermount3, and the one that watches over `auto_unmount`.
const HELPERS: usize = 2;

/// Mount a view of a source, read-only
///
/// Returns when the view answers, and leaves a process in the background that serves it until it
/// is unmounted (by `qcowfs umount`, `umount` or SIGTERM; a second SIGTERM detaches a busy one).
/// What a killed qcowfs left at the mount point is removed first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qcowfs mount /backups /mnt/view
      prints nothing if all is shown, or a line such as:
      qcowfs: note: restore points that cannot be shown: 1; see `qcowfs ls ...`
      then /mnt/view/vm1/sda/latest/disk.img is the newest state of the disk
  qcowfs mount -o allow_other,auto_unmount /backups /mnt/view
      others may look in, and the view goes away should its process be killed
  qcowfs mount -o missing=zero /backups /mnt/view
      show also what lost a part of its chain
  qcowfs mount -f -v /backups /mnt/view
      stay, and say what happens

`mount -t qcowfs` and lines of fstab take the same -o: see mount.qcowfs(8).

Exit codes:
  0  the view answers; with --foreground: it was unmounted
  1  nothing is mounted; one line says why and what to do
  2  wrong usage")]
pub(super) struct MountArgs {
    /// Folder of backups, or one backup file
    source: PathBuf,

    /// Existing folder, outside of the source, to show the view at
    #[arg(value_name = "MOUNTPOINT")]
    mount_point: PathBuf,

    /// Mount options, comma-separated; may be repeated, and later ones win
    #[arg(short, value_name = "OPTIONS", long_help = OPTIONS_HELP)]
    options: Vec<OsString>,

    /// Where a part of a chain is lost: the same as -o missing=
    #[arg(long, value_name = "hide|eio|zero")]
    missing: Option<Missing>,

    #[command(flatten)]
    allowed: AllowedRoots,

    /// Stay in the foreground, with the log on the standard error
    #[arg(short, long)]
    foreground: bool,

    /// Threads that answer the kernel [default: one for each CPU and one more, at most 8, or
    /// fewer where a user may not have so many]
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
    words: &[OsString],
) -> Result<ExitCode> {
    let options = args.all_options()?;
    if args.foreground {
        serve(args, options, verbosity, None)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !is_background_child {
        background::start(words)?;
        if options.log_file.is_none() && !logging::has_syslog() {
            verbosity.note(NO_SYSLOG);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut parent = Parent::new();
    Ok(match serve(args, options, verbosity, Some(&mut parent)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            parent.tell_failure(&error);
            ExitCode::FAILURE
        }
    })
}

impl MountArgs {
    /// All options, those with a flag of their own included: the flag counts more than the word.
    /// What becomes of the missing, though, is not to be guessed.
    fn all_options(&self) -> Result<Options> {
        let mut options = mount_options::parse(&self.options)?;
        options.follow.extend_from_slice(&self.allowed.list);
        if let (Some(flag), Some(word)) = (self.missing, options.missing)
            && flag != word
        {
            let what = format!("--missing {flag} and -o missing={word}: say one of the two");
            return Err(Error::Usage(what));
        }
        options.missing = self.missing.or(options.missing);
        options.threads = self.threads.or(options.threads);
        options.log_file = self.log_file.clone().or(options.log_file);
        options.mount.told = options.words();
        Ok(options)
    }
}

/// Mounts and serves; with a parent, in the background as soon as the view answers.
fn serve(
    args: &MountArgs,
    options: Options,
    verbosity: Verbosity,
    parent: Option<&mut Parent>,
) -> Result<()> {
    let destination = match (&options.log_file, &parent) {
        (Some(file), _) => Destination::append_to(file)?,
        (None, None) => Destination::Terminal,
        (None, Some(_)) => Destination::Syslog,
    };
    logging::start(verbosity, destination)?;
    raise_open_files_limit();
    let place = Place::check(&args.source, &args.mount_point, &options.mount)?;
    let Options { mount, missing, caches, follow: allowed, threads, .. } = options;
    let view = ViewOptions { allowed, missing: missing.unwrap_or_default(), caches };
    let live = Live::new(place.source(), &view)?;
    let tree = live.tree();
    check_not_hidden(tree, &place)?;
    let is_hiding = hides_something(place.mount_point());
    // A service manager sends SIGHUP to have a service look again, not to end it.
    let on_terminal = io::stdin().is_terminal() || io::stderr().is_terminal();
    let is_kept = parent.is_some() || service::is_waited_for() || !on_terminal;
    let hangup = if is_kept { Hangup::Refresh } else { Hangup::Unmount };
    let threads = threads.and_then(|n| NonZeroUsize::new(n.into()));
    let threads = threads.map_or_else(|| default_threads(verbosity), all_threads)?;
    if let Some(missing) = tree.shortfall() {
        let allowed = view.allowed.iter().map(|dir| format!("--allow-root {} ", dir.display()));
        let (allowed, source) = (allowed.collect::<String>(), args.source.display());
        verbosity.note(&format!("{missing}; see `qcowfs ls {allowed}{source}`"));
    }
    let counts = tree.counts();
    let mounted = Mounted::new(&place, live, &mount, threads, hangup)?;
    if is_hiding {
        // That may be meant.
        let path = place.mount_point().display();
        verbosity.note(&format!(
            "{path} is not empty: what is in it is out of sight until `qcowfs umount {path}`"
        ));
    }
    match parent {
        Some(parent) => {
            if let Err(error) = parent.leave() {
                mounted.abandon();
                return Err(error);
            }
        }
        None => service::ready(&format!(
            "{} at {}: disks: {}, restore points: {}",
            place.source().display(),
            place.mount_point().display(),
            counts.disks,
            counts.checkpoints
        )),
    }
    mounted.serve()
}

/// Whether something lies in the mount point itself, which cannot be seen while the view is there.
fn hides_something(mount_point: &Path) -> bool {
    mount_point.read_dir().is_ok_and(|mut entries| entries.next().is_some())
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

/// So many threads, if they can be had. Once it is mounted, a view without them would answer nobody,
/// not even the one who wants to unmount it.
fn all_threads(wanted: NonZeroUsize) -> Result<NonZeroUsize> {
    match threads_to_be_had(wanted.get() + OWN_THREADS + HELPERS) {
        (_, Some(e)) => {
            let what =
                format!("cannot have {wanted} threads: {e}; say --threads with a smaller number");
            Err(Error::Usage(what))
        }
        (_, None) => Ok(wanted),
    }
}

/// As many threads as help, or fewer where those cannot be had: nobody asked for a number.
fn default_threads(verbosity: Verbosity) -> Result<NonZeroUsize> {
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let most = processors.saturating_add(SPARE_THREADS).min(MOST_THREADS);
    let (had, failure) = threads_to_be_had(most + OWN_THREADS + HELPERS);
    let Some(failure) = failure else {
        return Ok(NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN));
    };
    let threads = had.saturating_sub(OWN_THREADS + HELPERS);
    let threads = NonZeroUsize::new(threads).ok_or_else(|| {
        Error::Usage(format!(
            "cannot have the {} threads that a view takes at least: {failure}; raise the limit of \
             processes (`ulimit -u`, or TasksMax= of the service)",
            1 + OWN_THREADS + HELPERS
        ))
    })?;
    verbosity.note(&format!(
        "this user may not have more processes: the view is served by {threads} threads instead \
         of {most}"
    ));
    Ok(threads)
}

/// How many of so many threads can be had at once, and why not all.
fn threads_to_be_had(wanted: usize) -> (usize, Option<io::Error>) {
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Arc::new(parking_lot::Mutex::new(wait));
    let mut started = Vec::with_capacity(wanted);
    let mut failure = None;
    while started.len() < wanted && failure.is_none() {
        let wait = std::sync::Arc::clone(&wait);
        match thread::Builder::new().spawn(move || wait.lock().recv().is_ok()) {
            Ok(thread) => started.push(thread),
            Err(e) => failure = Some(e),
        }
    }
    let had = started.len();
    drop(stop);
    for thread in started {
        // Nothing in it can fail.
        let _ended = thread.join();
    }
    (had, failure)
}
