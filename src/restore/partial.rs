//! A file that has its name only when it is whole.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

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
    /// What is there that it takes the place of. It is kept open: a file that is gone would leave its
    /// number to the next one.
    replaces: Option<File>,
    place: Place,
}

/// Where the file is, and what was there before it.
#[derive(Debug)]
enum Place {
    /// Under its own name.
    Apart,
    /// Under the target's, which nothing had.
    New,
    /// Under the target's; the old file has the name that this one had.
    Exchanged,
    /// Under the target's; the old file has a name of its own.
    Beside(PathBuf),
    /// Under the target's; the old file is gone.
    Over,
    /// It was withdrawn, or has its name for good.
    Settled,
}

impl Partial {
    /// An empty file beside `target`. What it replaces has its owner and mode.
    pub(super) fn new(target: &Path, replaces: bool) -> Result<Self> {
        let (file, path) = create(target)?;
        let target = target.to_path_buf();
        let mut partial = Self { file, path, target, replaces: None, place: Place::Apart };
        if replaces {
            let fail = |e| Error::io(&partial.target, e);
            let flags = i32::try_from(OFlags::PATH.bits()).unwrap_or(0);
            let old = File::options().read(true).custom_flags(flags).open(&partial.target);
            let old = old.map_err(fail)?;
            partial.take_after(&old.metadata().map_err(fail)?)?;
            partial.replaces = Some(old);
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

    fn take_after(&self, old: &Metadata) -> Result<()> {
        // An ordinary user cannot give files away: it is his then. What only the old file's group
        // could read is not for another group.
        let kept = fchown(&self.file, Some(old.uid()), Some(old.gid()))
            .or_else(|_| fchown(&self.file, None, Some(old.gid())));
        let bits = if kept.is_ok() { 0o777 } else { 0o707 };
        let mode = Permissions::from_mode(old.mode() & bits);
        self.file.set_permissions(mode).map_err(|e| Error::io(&self.path, e))
    }

    /// Gives it the name of its target. All of it is on the disk already. What had the name is kept
    /// until it is settled, where the file system can do so.
    pub(super) fn publish(&mut self) -> Result<()> {
        if !self.is_ours(&self.path) {
            let path = self.path.display();
            let what = format!("{path}: somebody replaced or removed it");
            return Err(Error::Usage(what));
        }
        if self.replaces.is_none() {
            self.rename_to_new().map_err(|e| Error::io(&self.target, e))?;
            self.place = Place::New;
            return Ok(());
        }
        // A virtual machine may have been started while this was written, or the file replaced.
        self.refuse_changed(&self.target)?;
        let exchange = renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::EXCHANGE);
        match exchange {
            Ok(()) => self.place = Place::Exchanged,
            // Not every file system knows the flag.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => return self.rename_over(),
            Err(e) => return Err(Error::io(&self.target, e)),
        }
        // Or at the very last moment. From now on the name leads to the new one.
        self.refuse_changed(&self.path).inspect_err(|_| _ = self.withdraw())
    }

    fn refuse_changed(&self, path: &Path) -> Result<()> {
        if !self.is_old(path) {
            let what = "was replaced or removed while it was being restored, and is left so";
            return Err(Error::Usage(format!("{}: {what}", self.target.display())));
        }
        refuse_file_in_use(path).map_err(|e| Error::Usage(e.to_string()))
    }

    /// Whether this is the name of our file, and of no other that somebody put there.
    fn is_ours(&self, path: &Path) -> bool {
        is_name_of(path, &self.file)
    }

    /// Whether this is the name of what is replaced.
    fn is_old(&self, path: &Path) -> bool {
        self.replaces.as_ref().is_some_and(|old| is_name_of(path, old))
    }

    fn rename_to_new(&self) -> io::Result<()> {
        match renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::NOREPLACE) {
            // Not every file system knows the flag.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                if self.target.symlink_metadata().is_ok() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                std::fs::rename(&self.path, &self.target)
            }
            other => other.map_err(io::Error::from),
        }
    }

    /// Puts it over the old file, which gets another name first, if it can have one.
    fn rename_over(&mut self) -> Result<()> {
        let kept = self.target.with_file_name(name_beside(&self.target, "old", 0));
        let is_kept = std::fs::hard_link(&self.target, &kept).is_ok();
        if let Err(e) = std::fs::rename(&self.path, &self.target) {
            if is_kept {
                let _gone = std::fs::remove_file(&kept);
            }
            return Err(Error::io(&self.target, e));
        }
        self.place = if is_kept { Place::Beside(kept) } else { Place::Over };
        Ok(())
    }

    /// Takes the name back, and gives it to what had it before. Whether the target is now what it was.
    pub(super) fn withdraw(&mut self) -> bool {
        let is_there = self.is_ours(&self.target);
        let undone = match &self.place {
            Place::Apart | Place::Settled => return true,
            Place::Over => return false,
            _ if !is_there => return false,
            Place::New => std::fs::remove_file(&self.target),
            Place::Exchanged => {
                renameat_with(CWD, &self.path, CWD, &self.target, RenameFlags::EXCHANGE)
                    .map_err(io::Error::from)
            }
            Place::Beside(kept) => std::fs::rename(kept, &self.target),
        };
        let is_undone = undone.is_ok();
        if is_undone {
            self.place = Place::Apart;
        }
        is_undone
    }

    /// It keeps the name: what had it before is not needed any more.
    pub(super) fn settle(&mut self) {
        let old = match std::mem::replace(&mut self.place, Place::Settled) {
            Place::Exchanged => Some(self.path.clone()),
            Place::Beside(kept) => Some(kept),
            _ => None,
        };
        if let Some(old) = old.filter(|old| self.is_old(old))
            && let Err(e) = std::fs::remove_file(&old)
        {
            log::warn!("{}: what was replaced is still here: {e}", old.display());
        }
    }

    /// Brings its name to the disk.
    pub(super) fn sync_name(&self) -> Result<()> {
        sync_folder(folder_of(&self.target))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if matches!(self.place, Place::Apart) && self.is_ours(&self.path) {
            // Whoever cannot remove it is told by its name what it is.
            let _gone = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether a name, links not followed, is that of an open file.
fn is_name_of(path: &Path, file: &File) -> bool {
    let of = |stat: Metadata| (stat.dev(), stat.ino());
    let wanted = file.metadata().map(of).ok();
    wanted.is_some() && wanted == path.symlink_metadata().map(of).ok()
}

/// Brings the names in a folder to the disk.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    let sync = File::open(folder).and_then(|folder| folder.sync_all());
    match sync {
        // Some file systems have no such thing.
        Err(e) if e.kind() != io::ErrorKind::InvalidInput => Err(Error::io(folder, e)),
        _ => Ok(()),
    }
}

/// The folder that a file is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What killed restores left of a file of this name: each with its size in bytes.
pub fn left_behind(target: &Path) -> Vec<(PathBuf, u64)> {
    let Some(name) = target.file_name() else { return Vec::new() };
    let start = [b".", name.as_bytes(), b".qcowfs-partial-"].concat();
    let mut left = Vec::new();
    for entry in folder_of(target).read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(number) = name.as_bytes().strip_prefix(start.as_slice()) else { continue };
        let number = number.split(|byte| *byte == b'-').next().unwrap_or_default();
        let is_running = Path::new("/proc").join(std::ffi::OsStr::from_bytes(number)).exists();
        if let Ok(stat) = entry.metadata()
            && stat.is_file()
            && !is_running
        {
            left.push((entry.path(), stat.blocks() * 512));
        }
    }
    left.sort();
    left
}

/// An empty file beside `target`. What a killed process of the same number left stays there.
fn create(target: &Path) -> Result<(File, PathBuf)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(MODE);
    let mut number = 0;
    loop {
        let path = target.with_file_name(name_beside(target, "partial", number));
        match options.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && number < MOST_LEFT => number += 1,
            other => return Ok((other.map_err(|e| Error::io(&path, e))?, path)),
        }
    }
}

/// `.NAME.qcowfs-partial-PID`, the name cut where that is too long; the next ones end in `-1`, `-2`.
fn name_beside(target: &Path, what: &str, number: u32) -> OsString {
    let mut end = format!(".qcowfs-{what}-{}", std::process::id());
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
        let left = folder.path().join(name_beside(&target, "partial", 0));
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

    /// A file that takes the place of another, which it says is `old`.
    fn replacing(target: &Path) -> Partial {
        std::fs::write(target, "old").unwrap();
        let partial = Partial::new(target, true).unwrap();
        std::fs::write(partial.path(), "new").unwrap();
        partial
    }

    #[test]
    fn the_old_file_comes_back_until_it_is_settled() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk");
        let content = || std::fs::read_to_string(&target).unwrap();
        let exchange: fn(&mut Partial) -> Result<()> = Partial::publish;
        for publish in [exchange, Partial::rename_over] {
            let mut partial = replacing(&target);
            publish(&mut partial).unwrap();
            assert_eq!((content().as_str(), names(folder.path()).len()), ("new", 2));
            assert!(partial.withdraw());
            drop(partial);
            assert_eq!((content().as_str(), names(folder.path()).len()), ("old", 1));
            let mut partial = replacing(&target);
            publish(&mut partial).unwrap();
            partial.settle();
            drop(partial);
            assert_eq!((content().as_str(), names(folder.path()).len()), ("new", 1));
        }
    }

    #[test]
    fn only_what_was_to_be_replaced_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("disk");
        let mut partial = replacing(&target);
        std::fs::write(folder.path().join("other"), "somebody's").unwrap();
        std::fs::rename(folder.path().join("other"), &target).unwrap();
        let told = partial.publish().unwrap_err().to_string();
        assert!(told.contains("was replaced or removed while"), "{told}");
        drop(partial);
        assert_eq!(std::fs::read(&target).unwrap(), b"somebody's");
        assert_eq!(names(folder.path()), ["disk"]);
    }
}
