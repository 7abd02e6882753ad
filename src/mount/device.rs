//! Mounting: from a place and options to an open FUSE device that serves it.
//!
//! This is done here and not by fuser, whose sessions unmount when they are dropped (lazily, where
//! fusermount3 is needed, even under a reader) and which gives no subtype to mounts of root.

use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{geteuid, getgid, getuid};

use super::options::MountOptions;
use super::{FS_TYPE, fusermount};
use crate::error::{Error, Result};

const DEVICE: &str = "/dev/fuse";

/// Mounts: root directly, everybody else by fusermount3.
pub(super) fn mount(mount_point: &Path, fsname: &OsStr, options: &MountOptions) -> Result<OwnedFd> {
    if geteuid().is_root() {
        mount_directly(mount_point, fsname, options)
    } else {
        fusermount::mount(mount_point, &options.for_fusermount(fsname))
    }
}

/// Whether the device is there for this user: fusermount3 opens it with the user's own rights.
pub(super) fn check() -> Result<()> {
    match open() {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let device = if geteuid().is_root() {
                "the container does not let anybody open it: pass the device to it"
            } else {
                "ordinary users cannot open it: mount as root, or `chmod 666 /dev/fuse`"
            };
            Err(Error::Usage(format!("{DEVICE}: {device}")))
        }
        Err(e) if is_absent(&e) => Err(no_device()),
        Err(e) => Err(Error::io(DEVICE, e)),
    }
}

/// No such file, or one without a driver behind it.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO))
}

fn mount_directly(mount_point: &Path, fsname: &OsStr, options: &MountOptions) -> Result<OwnedFd> {
    let device = open().map_err(|e| Error::io(DEVICE, e))?;
    let root_mode = std::fs::metadata(mount_point).map_err(|e| Error::io(mount_point, e))?.mode();
    let mut data = format!(
        "fd={},rootmode={root_mode:o},user_id={},group_id={}",
        device.as_raw_fd(),
        getuid().as_raw(),
        getgid().as_raw()
    );
    for option in options.fuse_options() {
        data.push(',');
        data.push_str(option);
    }
    let data = CString::new(data).map_err(|e| Error::io(mount_point, e))?;
    rustix::mount::mount(fsname, mount_point, FS_TYPE, options.flags, Some(data.as_c_str()))
        .map_err(|e| refused(mount_point, e))?;
    Ok(device.into())
}

fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(DEVICE)
}

fn refused(mount_point: &Path, error: rustix::io::Errno) -> Error {
    match error {
        rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => Error::Usage(format!(
            "{}: mounting is not permitted here: a container needs CAP_SYS_ADMIN and {DEVICE} \
             for it",
            mount_point.display()
        )),
        rustix::io::Errno::NODEV => no_device(),
        other => Error::io(mount_point, other),
    }
}

fn no_device() -> Error {
    Error::Usage(format!(
        "there is no FUSE here ({DEVICE}): `modprobe fuse`, or pass the device to the container"
    ))
}
