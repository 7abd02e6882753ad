//! A file that has its name only when it is whole.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::in_use::refuse_file_in_use;
use crate::error::{Error, Result};

/// Longest name that file systems take, in bytes.
const LONGEST: usize = 255;
/// Nobody else reads what is in a disk, unless its owner says so.
const MODE: u32 = 0o600;
/// Leftovers of one process number that are worked around.
const MOST_LEFT: u32 = 1000;

/// A file under a name of its own, which goes away unless it gets that of its target.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    /// Whether something is there that it takes the place of.
    replaces: bool,
    is_published: bool,
}

impl Partial {
    /// An empty file beside `target`. What it replaces has its owner and mode.
    pub(super) fn new(target: &Path, replaces: bool) -> Result<Self> {
        let (file, path) = create(target)?;
        let partial =
            Self { file, path, target: target.to_path_buf(), replaces, is_published: false };
        if replaces {
            partial.take_after(target)?;
        }
        Ok(partial)
    }

    /// The file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// What it will be.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn take_after(&self, old: &Path) -> Result<()> {
        let stat = old.metadata().map_err(|e| Error::io(old, e))?;
        // An ordinary user cannot give files away: it is his then.
        let _his = fchown(&self.file, Some(stat.uid()), Some(stat.gid()));
        let mode = Permissions::from_mode(stat.mode() & 0o777);
        self.file.set_permissions(mode).map_err(|e| Error::io(&self.path, e))
    }

    /// Gives it the name of its target. All of it is on the disk already.
    pub(super) fn publish(&mut self) -> Result<()> {
        if self.replaces {
            // A virtual machine may have been started while this was written.
            refuse_file_in_use(&self.target)?;
        }
        if !self.is_ours(&self.path) {
            let path = self.path.display();
            let what = format!("{path}: somebody replaced or removed it; nothing was restored");
            return Err(Error::Usage(what));
        }
        let flags = if self.replaces { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let renamed = match renameat_with(CWD, &self.path, CWD, &self.target, flags) {
            // Not every file system knows the flag.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => self.rename_unless_there(),
            other => other.map_err(io::Error::from),
        };
        renamed.map_err(|e| Error::io(&self.target, e))?;
        self.is_published = true;
        Ok(())
    }

    /// Whether this is the name of our file, and of no other that somebody put there.
    fn is_ours(&self, path: &Path) -> bool {
        let of = |stat: std::fs::Metadata| (stat.dev(), stat.ino());
        let ours = self.file.metadata().map(of).ok();
        ours.is_some() && ours == path.symlink_metadata().map(of).ok()
    }

    fn rename_unless_there(&self) -> io::Result<()> {
        if !self.replaces && self.target.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        std::fs::rename(&self.path, &self.target)
    }

    /// Takes the name back, if nothing had it before.
    pub(super) fn withdraw(&mut self) {
        if self.is_published && !self.replaces && self.is_ours(&self.target) {
            // It is only tried: that it failed before is what the user is told.
            let _gone = std::fs::remove_file(&self.target);
        }
    }

    /// Brings its name to the disk.
    pub(super) fn sync_name(&self) -> Result<()> {
        let folder = folder_of(&self.target);
        let sync = File::open(folder).and_then(|folder| folder.sync_all());
        match sync {
            // Some file systems have no such thing.
            Err(e) if e.kind() != io::ErrorKind::InvalidInput => Err(Error::io(folder, e)),
            _ => Ok(()),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_published && self.is_ours(&self.path) {
            // Whoever cannot remove it is told by its name what it is.
            let _gone = std::fs::remove_file(&self.path);
        }
    }
}

/// The folder that a file is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// An empty file beside `target`. What a killed process of the same number left stays there.
fn create(target: &Path) -> Result<(File, PathBuf)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(MODE);
    let mut number = 0;
    loop {
        let path = target.with_file_name(partial_name(target, number));
        match options.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && number < MOST_LEFT => number += 1,
            other => return Ok((other.map_err(|e| Error::io(&path, e))?, path)),
        }
    }
}

/// `.NAME.qcowfs-partial-PID`, the name cut where that is too long; the next ones end in `-1`, `-2`.
fn partial_name(target: &Path, number: u32) -> OsString {
    let mut end = format!(".qcowfs-partial-{}", std::process::id());
    if number > 0 {
        end = format!("{end}-{number}");
    }
    let name = target.file_name().unwrap_or_default().as_bytes();
    let cut = name.len().min(LONGEST - 1 - end.len());
    let name = name.get(..cut).unwrap_or_default();
    OsString::from_vec([b".", name, end.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        let mut names: Vec<_> =
            folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn it_says_what_it_is_until_it_gets_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk.raw");
        let mut partial = Partial::new(&target, false).unwrap();
        let name = format!(".disk.raw.qcowfs-partial-{}", std::process::id());
        assert_eq!(names(folder.path()), [OsString::from(name)]);
        assert_eq!(partial.file().metadata().unwrap().mode() & 0o777, 0o600);
        partial.publish().unwrap();
        drop(partial);
        assert_eq!(names(folder.path()), ["disk.raw"]);
    }

    #[test]
    fn it_goes_away_without_its_name() {
        let folder = tempfile::tempdir().unwrap();
        drop(Partial::new(&folder.path().join("x".repeat(255)), false).unwrap());
        assert!(names(folder.path()).is_empty());
        let mut partial = Partial::new(&folder.path().join("disk"), false).unwrap();
        partial.publish().unwrap();
        partial.withdraw();
        drop(partial);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn what_appeared_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk");
        let mut partial = Partial::new(&target, false).unwrap();
        std::fs::write(&target, "somebody's").unwrap();
        assert!(partial.publish().is_err());
        drop(partial);
        assert_eq!(std::fs::read(&target).unwrap(), b"somebody's");
        assert_eq!(names(folder.path()), ["disk"]);
    }

    #[test]
    fn what_a_vm_opened_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk");
        std::fs::write(&target, "in use").unwrap();
        let mut partial = Partial::new(&target, true).unwrap();
        let vm = OpenOptions::new().write(true).open(&target).unwrap();
        rustix::fs::fcntl_lock(&vm, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(partial.publish().unwrap_err().to_string().contains("a running VM"));
        drop(partial);
        assert_eq!(std::fs::read(&target).unwrap(), b"in use");
    }

    #[test]
    fn only_its_own_file_gets_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk");
        let mut partial = Partial::new(&target, false).unwrap();
        std::fs::remove_file(partial.path()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", partial.path()).unwrap();
        assert!(partial.publish().unwrap_err().to_string().contains("somebody replaced"));
        assert!(!target.is_symlink());
    }

    #[test]
    fn a_leftover_of_the_same_process_number_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk");
        let left = folder.path().join(partial_name(&target, 0));
        std::fs::write(&left, "half a disk").unwrap();
        Partial::new(&target, false).unwrap().publish().unwrap();
        assert!(target.exists());
        assert_eq!(std::fs::read(&left).unwrap(), b"half a disk");
    }

    #[test]
    fn what_is_replaced_leaves_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk");
        std::fs::write(&target, "old").unwrap();
        std::fs::set_permissions(&target, Permissions::from_mode(0o640)).unwrap();
        Partial::new(&target, true).unwrap().publish().unwrap();
        let stat = target.metadata().unwrap();
        assert_eq!((stat.len(), stat.mode() & 0o777), (0, 0o640));
    }
}
