//! Mounting a view, serving it, keeping it up to date, unmounting it.

mod ask;
mod auto_unmount;
mod check;
mod device;
mod fusermount;
mod mountinfo;
mod options;
mod refresh;
pub mod service;
mod signals;
mod unmount;
mod watch;

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackgroundSession, Config, Session};
use log::{debug, error, info};
use rustix::process::{Resource, getrlimit, setrlimit};

pub use ask::read_status;
pub use auto_unmount::{WATCH, watch};
pub use check::Place;
pub use options::{Access, MountOptions};
pub use refresh::Refresh;
pub use signals::Hangup;
pub use unmount::unmount;

use crate::error::{Error, Result};
use crate::fault_log;
use crate::fuse::{About, Ahead, View};
use crate::tree::live::Live;
use auto_unmount::Watcher;
use mountinfo::MountTable;
use unmount::{OwnMount, Standing};
use watch::Bell;

/// How the mount table tells our mounts from those of other FUSE daemons.
const SUBTYPE: &str = "qcowfs";
const FS_TYPE: &str = "fuse.qcowfs";

/// A view that is mounted and answers.
#[derive(Debug)]
pub struct Mounted {
    own: Arc<OwnMount>,
    session: BackgroundSession,
    ended: Arc<AtomicBool>,
    /// Waits for our end, with `auto_unmount`.
    _watcher: Option<Watcher>,
    bell: Bell,
    /// None where the kernel does not let us.
    ahead: Option<Arc<Ahead>>,
}

impl Mounted {
    /// Mounts the view of a source and waits until the mount answers. After an error nothing is
    /// mounted.
    pub fn new(
        place: &Place,
        mut live: Live,
        options: &MountOptions,
        threads: NonZeroUsize,
        hangup: Hangup,
    ) -> Result<Self> {
        let path = place.mount_point.clone();
        let before = device_at(&path)?;
        let signals = signals::hold().map_err(|e| Error::io(&path, e))?;
        let fsname = options.fsname.as_deref().unwrap_or(place.source.as_os_str());
        let fuse = device::mount(&path, fsname, options)?;
        let device = mounted_device(&path)?;
        let own = Arc::new(OwnMount { path, device });
        live.pass_over(&own.path);
        let about = About {
            source: place.source.clone(),
            mount_point: place.mount_point.clone(),
            options: options.told.clone(),
            threads: threads.get(),
            first_look: live.first_took(),
        };
        let view = View::new(Arc::clone(live.tree()), options.passthrough, about);
        let (served, ahead) = (view.live(), view.ahead());
        let started = start(fuse, view, options, threads, &own);
        let ended = Arc::new(AtomicBool::new(false));
        let answers = started.and_then(|session| {
            check_answer(&own, before)?;
            let may_read_ahead = raise_read_ahead(own.device);
            let bell = refresh::start(live, options.refresh, served, session.notifier())
                .map_err(|e| Error::io(&own.path, e))?;
            signals::obey(signals, hangup, own.clone(), ended.clone(), bell.clone())
                .map_err(|e| Error::io(&own.path, e))?;
            let watcher = options.auto_unmount.then(|| Watcher::start(&own)).transpose()?;
            Ok((session, bell, watcher, may_read_ahead.then_some(ahead)))
        });
        match answers {
            Ok((session, bell, watcher, ahead)) => {
                Ok(Self { own, session, ended, _watcher: watcher, bell, ahead })
            }
            Err(e) => {
                give_up(&own);
                Err(e)
            }
        }
    }

    /// Serves until the view is unmounted, by a signal or from outside.
    pub fn serve(self) -> Result<()> {
        let path = &self.own.path;
        // Not before: its thread keeps the standard output that there is then.
        if let Some(ahead) = &self.ahead
            && let Err(e) = ahead.start(path, self.own.device)
        {
            debug!("nothing is read ahead: {e}");
        }
        let over = self.session.join();
        service::stopping("the view is gone");
        fault_log::flush();
        self.ended.store(true, Ordering::Release);
        self.bell.end();
        self.ahead.iter().for_each(|ahead| ahead.end());
        if let Err(e) = over {
            // It was not unmounted, so its device number is still its own.
            give_up(&self.own);
            let what = format!("the connection to the kernel broke: {e}");
            return Err(Error::io(path, io::Error::other(what)));
        }
        info!("{}: the view is gone", path.display());
        Ok(())
    }

    /// Takes back a mount that nobody has been told of.
    pub fn abandon(self) {
        give_up(&self.own);
    }
}

/// Lets the process hold as many files open as it may: a chain can have hundreds.
pub fn raise_open_files_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        debug!("the limit of open files stays as it is: {e}");
    }
}

fn start(
    fuse: OwnedFd,
    view: View,
    options: &MountOptions,
    threads: NonZeroUsize,
    own: &OwnMount,
) -> Result<BackgroundSession> {
    let mut config = Config::default();
    config.acl = options.acl();
    config.n_threads = Some(threads.get());
    config.clone_fd = threads.get() > 1;
    let fail = |e: io::Error| Error::io(&own.path, e);
    let session = Session::from_fd(view, fuse, options.acl(), config).map_err(fail)?;
    session.spawn().map_err(fail)
}

/// What is mounted at a path, without asking it anything: it does not answer yet.
fn mounted_device(path: &Path) -> Result<mountinfo::Device> {
    let table = MountTable::read()?;
    let ours = table.top(path).filter(|mount| mount.is_qcowfs());
    ours.map(|mount| mount.device).ok_or_else(|| not_there(path))
}

fn check_answer(own: &OwnMount, before: mountinfo::Device) -> Result<()> {
    let now = device_at(&own.path)?;
    if now == own.device && now != before { Ok(()) } else { Err(not_there(&own.path)) }
}

/// Lets the kernel read ahead of a reader in order by more than the 128 KiB that it allows a new
/// mount: fewer and larger requests. Root may; for others it stays as it is. Returns whether it did.
fn raise_read_ahead((major, minor): mountinfo::Device) -> bool {
    const KIB: &str = "4096";
    let knob = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    let raised = std::fs::write(&knob, KIB);
    raised.inspect_err(|e| debug!("{knob} stays as it is: {e}")).is_ok()
}

fn device_at(path: &Path) -> Result<mountinfo::Device> {
    let stat = rustix::fs::stat(path).map_err(|e| Error::io(path, e))?;
    Ok((rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev)))
}

fn not_there(path: &Path) -> Error {
    let path = path.display();
    Error::Usage(format!(
        "{path}: mounted, but the view does not appear there: `findmnt {path}` shows what covers it"
    ))
}

/// Unmounts what nobody should use any more; lazily, because there is nobody left to serve it.
fn give_up(own: &OwnMount) {
    let in_place = own.standing().map(|standing| standing == Standing::InPlace);
    let done =
        in_place.and_then(|in_place| if in_place { own.unmount(true).map(drop) } else { Ok(()) });
    if let Err(e) = done {
        error!("{}: cannot unmount: {e}", own.path.display());
    }
}
