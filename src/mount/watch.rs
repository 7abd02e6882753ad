//! What tells that the source changed: inotify, where it works.

use std::collections::BTreeSet;
use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use log::{debug, warn};
use notify::event::{AccessKind, AccessMode, DataChange, ModifyKind};
use notify::{Config, ErrorKind, EventKind, INotifyWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;

use crate::tree::settle::Writers;

/// File systems on which others change files without this kernel's knowledge (`linux/magic.h`).
const SHARED_WITH_OTHERS: [i128; 10] = [
    0x6969,      // nfs
    0xff53_4d42, // cifs
    0xfe53_4d42, // smb2
    0x517b,      // smb
    0x0102_1997, // 9p
    0x6573_5546, // fuse
    0x00c3_6400, // ceph
    0x0bd0_0bd0, // lustre
    0x5346_414f, // afs
    0x786f_4256, // vboxsf
];

/// Wakes the one who looks at the source again.
#[derive(Debug, Clone)]
pub(super) struct Bell {
    ring: SyncSender<()>,
    ended: Arc<AtomicBool>,
}

/// What the bell is heard with.
#[derive(Debug)]
pub(super) struct Ear {
    rung: Receiver<()>,
    ended: Arc<AtomicBool>,
}

/// A bell, and who hears it.
pub(super) fn bell() -> (Bell, Ear) {
    // One that has not been heard yet says all that there is to say.
    let (ring, rung) = sync_channel(1);
    let ended = Arc::new(AtomicBool::new(false));
    (Bell { ring, ended: Arc::clone(&ended) }, Ear { rung, ended })
}

impl Bell {
    /// The source may have changed.
    pub(super) fn ring(&self) {
        let _full_or_gone = self.ring.try_send(());
    }

    /// Nobody needs to look any more.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.ring();
    }
}

impl Ear {
    /// Waits for the bell, for so long at most. Returns whether it rang.
    pub(super) fn wait(&self, at_most: Option<Duration>) -> bool {
        let rung = match at_most {
            Some(at_most) => self.rung.recv_timeout(at_most),
            None => self.rung.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        if rung == Err(RecvTimeoutError::Disconnected) {
            // Whoever served the view would have rung it.
            self.ended.store(true, Ordering::Release);
        }
        rung.is_ok()
    }

    /// Whether nobody needs to look any more.
    pub(super) fn is_over(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// What watching came to.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) writers: Mutex<Writers>,
    /// Paths that are those of other files or folders now, or of none.
    moved: Mutex<Vec<PathBuf>>,
    /// More happened at once than the kernel notes.
    missed: AtomicBool,
}

impl Seen {
    /// Whether events were missed since this was asked last.
    pub(super) fn missed(&self) -> bool {
        self.missed.swap(false, Ordering::AcqRel)
    }
}

/// Watches folders, each by itself: what is in a new one is found by looking, and then it is watched,
/// too. That way nothing is watched that is not looked at, and one that may not be read keeps nobody
/// from watching the others.
pub(super) struct Watch {
    inotify: INotifyWatcher,
    folders: BTreeSet<PathBuf>,
    seen: Arc<Seen>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("folders", &self.folders).finish_non_exhaustive()
    }
}

impl Watch {
    /// Watches nothing yet. Paths beneath `source` are noted relative to it.
    pub(super) fn new(source: &Path, seen: Arc<Seen>, bell: Bell) -> notify::Result<Self> {
        let source = source.to_path_buf();
        let events = Arc::clone(&seen);
        let handle = move |event: notify::Result<notify::Event>| {
            if is_news(&events, &source, event) {
                bell.ring();
            }
        };
        let config = Config::default().with_follow_symlinks(false);
        // Where it cannot have its thread, it panics when it is used, and when it is dropped.
        let mut inotify = ManuallyDrop::new(INotifyWatcher::new(handle, config)?);
        let probe = AssertUnwindSafe(|| drop(inotify.unwatch(Path::new("/"))));
        // Nobody is to read of a panic where nothing but a thread is missing.
        let told = take_hook();
        set_hook(Box::new(|_| {}));
        let probed = catch_unwind(probe);
        set_hook(told);
        if probed.is_err() {
            return Err(notify::Error::generic("no thread can be had for it"));
        }
        let inotify = ManuallyDrop::into_inner(inotify);
        Ok(Self { inotify, folders: BTreeSet::new(), seen })
    }

    /// Watches these folders, and those of before no more. Returns whether one is new: what happened
    /// in it before nobody noted.
    pub(super) fn only(&mut self, folders: BTreeSet<PathBuf>) -> notify::Result<bool> {
        // With its name a folder lost its watch, also if it has the name again.
        for moved in std::mem::take(&mut *self.seen.moved.lock()) {
            self.folders.retain(|folder| !folder.starts_with(&moved));
        }
        for folder in self.folders.difference(&folders) {
            // It may be gone, and with it its watch.
            if let Err(e) = self.inotify.unwatch(folder) {
                debug!("{}: {e}", folder.display());
            }
        }
        let new: Vec<PathBuf> = folders.difference(&self.folders).cloned().collect();
        self.folders = folders;
        for folder in &new {
            match self.inotify.watch(folder, RecursiveMode::NonRecursive) {
                Err(e) if is_limit(&e) => return Err(e),
                Err(e) => debug!("{}: {e}", folder.display()),
                Ok(()) => {}
            }
        }
        Ok(!new.is_empty())
    }
}

fn is_limit(error: &notify::Error) -> bool {
    matches!(error.kind, ErrorKind::MaxFilesWatch)
}

/// Notes what happened. Returns whether somebody should look.
fn is_news(seen: &Seen, source: &Path, event: notify::Result<notify::Event>) -> bool {
    let event = match event {
        Ok(event) => event,
        Err(e) => {
            warn!("{}: watching it: {e}", source.display());
            return true;
        }
    };
    if event.need_rescan() {
        seen.missed.store(true, Ordering::Release);
        return true;
    }
    let now = Instant::now();
    let mut writers = seen.writers.lock();
    let paths = event.paths.iter().map(|path| path.strip_prefix(source).unwrap_or(path));
    match event.kind {
        // We do that ourselves all the time.
        EventKind::Access(AccessKind::Open(_) | AccessKind::Read) => false,
        EventKind::Modify(ModifyKind::Data(DataChange::Any)) => {
            paths.filter(|path| writers.wrote(path, now)).count() > 0
        }
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
            paths.for_each(|path| writers.closed(path, now));
            true
        }
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => {
            paths.for_each(|path| writers.moved(path));
            seen.moved.lock().extend(event.paths.iter().cloned());
            true
        }
        _ => true,
    }
}

/// Whether others may change what lies in this folder without the kernel's knowledge.
pub(super) fn is_shared_with_others(folder: &Path) -> bool {
    let Ok(stat) = rustix::fs::statfs(folder) else { return false };
    SHARED_WITH_OTHERS.contains(&(i128::from(stat.f_type) & 0xffff_ffff))
}
