//! What must hold before anything is mounted; each refusal says what to do.

use std::fs::FileType;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::warn;
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::process::geteuid;

use super::device;
use super::mountinfo::{Mount, MountTable, untouched};
use super::options::MountOptions;
use super::unmount::unmount;
use crate::error::{Error, Result};
use crate::workers::within;

/// A view that answers does so sooner.
const ANSWER: Duration = Duration::from_secs(5);

/// A source and a mount point that fit together: absolute, without symbolic links.
#[derive(Debug, Clone)]
pub struct Place {
    pub(super) source: PathBuf,
    pub(super) mount_point: PathBuf,
}

impl Place {
    /// Checks both, and what mounting needs.
    pub fn check(source: &Path, mount_point: &Path, options: &MountOptions) -> Result<Self> {
        check_rights(options)?;
        let source = check_source(source)?;
        let mount_point = check_mount_point(mount_point)?;
        check_apart(&source, &mount_point)?;
        device::check()?;
        Ok(Self { source, mount_point })
    }

    /// The folder or file to show.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Where to show it.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }
}

fn refuse<T>(path: &Path, why: &str) -> Result<T> {
    Err(Error::Usage(format!("{}: {why}", path.display())))
}

fn check_rights(options: &MountOptions) -> Result<()> {
    let guarded = MountFlags::NODEV | MountFlags::NOSUID;
    if geteuid().is_root() || options.flags.contains(guarded) {
        return Ok(());
    }
    Err(Error::Usage("the options dev and suid are for root only: leave them away".to_owned()))
}

fn check_source(path: &Path) -> Result<PathBuf> {
    let (real, kind) = match resolve(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return refuse(
                path,
                "the source does not exist: is the path right, and its file system mounted?",
            );
        }
        other => other.map_err(|e| Error::io(path, e))?,
    };
    if !kind.is_dir() && !kind.is_file() {
        return refuse(
            path,
            "the source is neither a folder nor a regular file: name the folder of the backups, or \
             one of them",
        );
    }
    Ok(real)
}

fn check_mount_point(path: &Path) -> Result<PathBuf> {
    if let Some(real) = untouched(path) {
        check_free(path, &real)?;
    }
    let fail = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Error::Usage(format!(
            "{}: the mount point does not exist: create the folder first",
            path.display()
        )),
        _ => Error::io(path, e),
    };
    // By way of a symbolic link it may be another name.
    let real = path.canonicalize().map_err(fail)?;
    check_free(path, &real)?;
    if !real.metadata().map_err(fail)?.is_dir() {
        return refuse(path, "the mount point is not a folder: name one");
    }
    Ok(real)
}

fn resolve(path: &Path) -> io::Result<(PathBuf, FileType)> {
    let real = path.canonicalize()?;
    let kind = real.metadata()?.file_type();
    Ok((real, kind))
}

/// Another kind of file system may be mounted over; a FUSE mount is most likely a mistake, but
/// for a view that a killed process of this program left there: it goes away. `path` is the name
/// that the user gave to `real`.
fn check_free(path: &Path, real: &Path) -> Result<()> {
    loop {
        let table = MountTable::read()?;
        let Some(mount) = table.top(real).filter(|mount| mount.is_fuse()) else { return Ok(()) };
        let (shown, source) = (path.display(), mount.source.display());
        if !mount.is_qcowfs() {
            let fs_type = mount.fs_type.display();
            let why = format!(
                "already a mount point ({fs_type} of {source}): `fusermount3 -u {shown}` first"
            );
            return refuse(path, &why);
        }
        if !is_dead(mount) {
            let why = format!("already mounted (from {source}): `qcowfs umount {shown}` first");
            return refuse(path, &why);
        }
        // Its users get nothing but errors any more: nobody is served by waiting for them.
        unmount(real, true).map_err(|e| {
            Error::Usage(format!(
                "{shown}: a view is still mounted there whose process is gone: \
                 `qcowfs umount --lazy {shown}` first ({e})"
            ))
        })?;
        warn!("{shown}: a view of {source} was still mounted there whose process is gone: removed");
    }
}

/// Whether nobody serves it any more. Not `stat`: the kernel may answer that from its cache long
/// after the daemon's death.
pub(super) fn is_dead(mount: &Mount) -> bool {
    let path = mount.path.clone();
    let answer = within(ANSWER, move || rustix::fs::statfs(&path).map(drop));
    // One that does not answer is not dead: it may be stopped, or wait for its source. Who asked a
    // daemon that was just ending is told that the connection was aborted.
    matches!(answer, Ok(Some(Err(Errno::NOTCONN | Errno::CONNABORTED))))
}

fn check_apart(source: &Path, mount_point: &Path) -> Result<()> {
    if mount_point.starts_with(source) {
        return refuse(
            mount_point,
            "the mount point lies within the source, and the view would contain itself: \
             use a folder elsewhere",
        );
    }
    if source.starts_with(mount_point) {
        return refuse(
            mount_point,
            "the mount point contains the source and would hide it: use a folder elsewhere",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(source: &str, mount_point: &str) -> String {
        match check_apart(Path::new(source), Path::new(mount_point)) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn source_and_mount_point_must_lie_apart() {
        assert!(told("/backups", "/backups/view").contains("contain itself"));
        assert!(told("/backups", "/backups").contains("contain itself"));
        assert!(told("/srv/backups", "/srv").contains("hide it"));
        assert!(told("/srv/backups/a.qcow2", "/srv/backups").contains("hide it"));
        assert_eq!(told("/srv/backups", "/srv/backups-view"), "");
        assert_eq!(told("/srv/backups/a.qcow2", "/srv/backups/view"), "");
    }

    #[test]
    fn what_is_missing_is_said_by_its_role() {
        let scratch = tempfile::tempdir().unwrap();
        let missing = scratch.path().join("no such folder");
        let error = check_source(&missing).unwrap_err();
        assert!(error.to_string().contains("the source does not exist"), "{error}");
        let error = check_mount_point(&missing).unwrap_err();
        assert!(error.to_string().contains("the mount point does not exist"), "{error}");
    }

    #[test]
    fn a_file_is_a_source_but_not_a_mount_point() {
        let scratch = tempfile::NamedTempFile::new().unwrap();
        check_source(scratch.path()).unwrap();
        let error = check_mount_point(scratch.path()).unwrap_err();
        assert!(error.to_string().contains("not a folder"), "{error}");
    }

    #[test]
    fn a_device_is_no_source() {
        let error = check_source(Path::new("/dev/null")).unwrap_err();
        assert!(error.to_string().contains("neither a folder nor a regular file"), "{error}");
    }
}
