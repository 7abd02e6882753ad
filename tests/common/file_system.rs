//! A file system of a test's own, and a loop device.

use std::path::{Path, PathBuf};

use super::Run;
use super::mount::is_mounted;

/// A mounted file system; unmounts when it goes out of scope.
pub(crate) struct FileSystem(pub(crate) PathBuf);

impl FileSystem {
    /// Mounts at `point`, which is made, what `what` says in the words of mount(8).
    pub(crate) fn mount(point: &Path, what: &[&str]) -> Self {
        std::fs::create_dir(point).expect("a mount point");
        Run::new("mount").args(what).arg(point).ok();
        Self(point.canonicalize().expect("a mount point"))
    }

    pub(crate) fn unmount_lazily(&self) {
        Run::new("umount").arg("-l").arg(&self.0).ok();
        assert!(!is_mounted(&self.0));
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        if is_mounted(&self.0) {
            let run = Run::new("umount").arg("-l").arg(&self.0).seconds(10);
            // A second panic while the first one unwinds would end the whole program.
            let _ = std::thread::spawn(move || run.outcome()).join();
        }
    }
}

/// A loop device on a file; goes away when it goes out of scope.
pub(crate) struct Loop(pub(crate) PathBuf);

impl Loop {
    pub(crate) fn of(file: &Path) -> Self {
        let told = Run::new("losetup").args(["--find", "--show"]).arg(file).ok().text();
        Self(told.trim().into())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let run = Run::new("losetup").arg("-d").arg(&self.0).seconds(30);
        // A second panic while the first one unwinds would end the whole program.
        let _ = std::thread::spawn(move || run.outcome()).join();
    }
}
