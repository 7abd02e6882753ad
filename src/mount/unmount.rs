//! Unmounting: never by force, and never anything that is not meant.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::{geteuid, getuid};

use super::fusermount;
use super::mountinfo::{Device, Mount, MountTable, untouched};
use crate::error::{Error, Result};

/// How an attempt to unmount went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is not mounted any more.
    Unmounted,
    /// Somebody uses it.
    Busy,
}

/// Our own mount, as its daemon knows it.
#[derive(Debug)]
pub(super) struct OwnMount {
    pub(super) path: PathBuf,
    /// While the session lives, no other mount has this number.
    pub(super) device: Device,
}

/// Where our own mount is now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Where it was mounted.
    InPlace,
    /// There, but below another mount.
    Covered,
    /// Not there: detached, or moved.
    Elsewhere,
}

impl OwnMount {
    /// Whether unmounting the path would unmount us.
    pub(super) fn standing(&self) -> Result<Standing> {
        let table = MountTable::read()?;
        Ok(if table.of_device(&self.path, self.device).is_none() {
            Standing::Elsewhere
        } else if table.top(&self.path).is_some_and(|top| top.device == self.device) {
            Standing::InPlace
        } else {
            Standing::Covered
        })
    }

    /// Unmounts; only to be called while the session lives and the mount is in place.
    pub(super) fn unmount(&self, lazy: bool) -> Result<Outcome> {
        detach(&self.path, lazy)
    }
}

fn detach(path: &Path, lazy: bool) -> Result<Outcome> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(path, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(Outcome::Unmounted),
        Err(Errno::BUSY) => Ok(Outcome::Busy),
        Err(Errno::PERM) => match fusermount::unmount(path, lazy)? {
            Ok(()) => Ok(Outcome::Unmounted),
            Err(said) if said.contains("busy") => Ok(Outcome::Busy),
            Err(said) => Err(Error::Usage(format!("{}: cannot unmount: {said}", path.display()))),
        },
        Err(other) => Err(Error::io(path, other)),
    }
}

/// Unmounts a view, alive or dead, and returns when it is gone from the mount table. `lazy`
/// detaches one that is in use: it lives on, out of sight, until its last user lets go.
pub fn unmount(path: &Path, lazy: bool) -> Result<()> {
    let mount = find(path)?;
    check_ours(path, &mount)?;
    match detach(&mount.path, lazy)? {
        Outcome::Busy => Err(Error::Usage(busy(path))),
        Outcome::Unmounted => {
            let table = MountTable::read()?;
            if table.top(&mount.path) == Some(&mount) {
                let what = "still mounted, by somebody else since: try again";
                return Err(Error::Usage(format!("{}: {what}", path.display())));
            }
            Ok(())
        }
    }
}

/// The mount at a path. The path itself is only looked at if nothing is mounted under its name.
pub(super) fn find(path: &Path) -> Result<Mount> {
    let table = MountTable::read()?;
    let by_name = untouched(path).and_then(|path| table.top(&path).cloned());
    if let Some(mount) = by_name {
        return Ok(mount);
    }
    let real = path.canonicalize().map_err(|e| Error::io(path, e))?;
    let not_mounted = || {
        let path = path.display();
        let what = "nothing is mounted there; `findmnt -t fuse.qcowfs` lists all views";
        Error::Usage(format!("{path}: {what}"))
    };
    table.top(&real).cloned().ok_or_else(not_mounted)
}

fn check_ours(path: &Path, mount: &Mount) -> Result<()> {
    let path = path.display();
    if !mount.is_qcowfs() {
        return Err(Error::Usage(format!(
            "{path}: not a qcowfs mount, but {} of {}: left alone (`umount` is for it)",
            mount.fs_type.display(),
            mount.source.display()
        )));
    }
    match mount.user {
        Some(user) if !geteuid().is_root() && user != getuid().as_raw() => {
            Err(Error::Usage(format!(
                "{path}: mounted by the user with ID {user}: only they and root can unmount it"
            )))
        }
        _ => Ok(()),
    }
}

fn busy(path: &Path) -> String {
    let path = path.display();
    format!(
        "{path}: busy: `fuser -vm {path}` or `lsof {path}` shows who uses it, `losetup -a` which \
         loop devices do (unmount or detach these first); `qcowfs umount --lazy {path}` detaches it \
         all the same"
    )
}
