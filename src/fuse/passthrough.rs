//! Files that the kernel reads by itself: disks that are one plain raw file.
//!
//! Where it may not be (without root, before Linux 6.9, on file systems that are stacked already),
//! everything goes on through us, and nobody notices but by the clock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use fuser::{BackingId, INodeNo, ReplyOpen};
use log::{debug, warn};
use parking_lot::Mutex;

use crate::error::Result;
use crate::tree::Opened;

/// The files that were handed to the kernel. All who have an inode open share one.
#[derive(Debug, Default)]
pub(super) struct Backings {
    is_possible: AtomicBool,
    by_inode: Mutex<HashMap<INodeNo, Backing>>,
}

#[derive(Debug)]
enum Backing {
    Shared(Weak<BackingId>),
    /// The kernel refused it once. It must not be asked again: it has the inode open otherwise.
    Refused,
}

impl Backings {
    /// From now on files may be handed over.
    pub(super) fn allow(&self) {
        self.is_possible.store(true, Ordering::Relaxed);
    }

    /// Nobody has the inode open, and it is not known any more.
    pub(super) fn forget(&self, ino: INodeNo) {
        self.by_inode.lock().remove(&ino);
    }

    /// What the kernel is to read instead of asking us, if it may. An error is about the file
    /// itself.
    pub(super) fn of(
        &self,
        ino: INodeNo,
        file: &Opened,
        reply: &ReplyOpen,
    ) -> Result<Option<Arc<BackingId>>> {
        if !self.is_possible.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Opened::Image(image) = file else { return Ok(None) };
        let Some(source) = image.plain_file() else { return Ok(None) };
        let mut by_inode = self.by_inode.lock();
        let shared = match by_inode.get(&ino) {
            Some(Backing::Refused) => return Ok(None),
            Some(Backing::Shared(backing)) => backing.upgrade(),
            None => None,
        };
        // Also who shares it must know that the file is still the one that was found.
        let Some(opened) = source.open_for_kernel()? else {
            by_inode.insert(ino, Backing::Refused);
            return Ok(None);
        };
        if shared.is_some() {
            return Ok(shared);
        }
        match reply.open_backing(&opened) {
            Ok(backing) => {
                let backing = Arc::new(backing);
                by_inode.insert(ino, Backing::Shared(Arc::downgrade(&backing)));
                Ok(Some(backing))
            }
            Err(e) => {
                let name = source.path().display();
                match e.raw_os_error() {
                    Some(libc::EPERM | libc::ENOTTY | libc::EOPNOTSUPP) => {
                        debug!("no file is handed to the kernel: {e}");
                        self.is_possible.store(false, Ordering::Relaxed);
                    }
                    _ => warn!("{name} is not handed to the kernel: {e}"),
                }
                by_inode.insert(ino, Backing::Refused);
                Ok(None)
            }
        }
    }
}
