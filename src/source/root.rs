//! The source folder: everything in it is opened beneath it, whatever names and links say.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::retry_on_intr;

use super::acl::{ACL, sure_bits};
use crate::error::{Error, Result};

/// A folder opened once; all else is opened relative to it, and never outside of it.
#[derive(Debug)]
pub struct SourceRoot {
    dir: OwnedFd,
    path: PathBuf,
    above: Vec<FileStat>,
}

/// What `stat` says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// Device and inode number.
    pub id: (u64, u64),
    /// Size in bytes.
    pub size: u64,
    /// Bytes on disk.
    pub allocated: u64,
    /// Last modification.
    pub mtime: SystemTime,
    /// Permission bits; where there is a POSIX ACL, only those that hold for everybody whom they
    /// speak of ([`super::acl`]).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl FileStat {
    /// Whether the other one is of the same file, with the same bytes: by device, inode, size and
    /// modification time.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.id, self.size, self.mtime) == (other.id, other.size, other.mtime)
    }
}

/// File systems whose regular files are none (`linux/magic.h`): to read some of them, or only to
/// open them, does things.
const KERNEL_MADE: [i128; 15] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x6270_6673, // bpf, older
    0xcafe_4a11, // bpf
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6265_6570, // configfs
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinuxfs
    0x4249_4e4d, // binfmt_misc
    0xde5e_81e4, // efivarfs
    0x6165_676c, // pstore
    0x6e73_6673, // nsfs
];

/// What is known of a file that `stat` fails for.
const UNKNOWN: FileStat = FileStat {
    id: (0, 0),
    size: 0,
    allocated: 0,
    mtime: SystemTime::UNIX_EPOCH,
    mode: 0,
    uid: 0,
    gid: 0,
};

/// What kind of thing a folder entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, which is never followed.
    Link,
    /// A device, pipe or socket, which is never opened.
    Other,
    /// Something that `stat` fails for: its reason is in the log.
    Unreadable,
}

/// An entry of a folder of the source.
#[derive(Debug, Clone)]
pub struct FoundEntry {
    /// Its name in the folder.
    pub name: OsString,
    /// What it is.
    pub kind: EntryKind,
    /// What `stat` says of it (of the link itself, not its target); nothing, and nobody may read
    /// it, where that is [`EntryKind::Unreadable`]. Of a file the permission bits alone, which leave
    /// out its ACL: see [`SourceRoot::with_acl`].
    pub stat: FileStat,
}

impl SourceRoot {
    /// Opens the folder at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let real = path.canonicalize().map_err(|e| Error::io(path, e))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&real, flags, Mode::empty()).map_err(|e| Error::io(path, e))?;
        let stat = |folder: &Path| {
            let mut stat = file_stat(&rustix::fs::stat(folder)?);
            stat.mode = sure_bits(stat.mode, |acl| rustix::fs::getxattr(folder, ACL, acl));
            Ok(stat)
        };
        let above = real.ancestors().skip(1).map(stat).collect::<rustix::io::Result<_>>();
        let above = above.map_err(|e| Error::io(path, e))?;
        Ok(Self { dir, path: real, above })
    }

    /// The folder's absolute path, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its path still leads to it: not to nothing, and not to what lay beneath a mount.
    pub fn is_in_place(&self) -> bool {
        let id = |stat: Stat| (stat.st_dev, stat.st_ino);
        let (now, then) = (rustix::fs::stat(&self.path), rustix::fs::fstat(&self.dir));
        matches!((now, then), (Ok(now), Ok(then)) if id(now) == id(then))
    }

    /// The folders above it, as they were when it was opened: who may not pass them may not read
    /// what lies beneath.
    pub fn above(&self) -> &[FileStat] {
        &self.above
    }

    /// The entries of a folder (an empty path is the root), by their names. One that cannot be looked
    /// at does not hide the others.
    pub fn list(&self, folder: &Path) -> Result<Vec<FoundEntry>> {
        let fail = |e: rustix::io::Errno| Error::io(self.shown(folder), e);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = self.openat2(folder, flags).map_err(fail)?;
        let mut found = Vec::new();
        // Not `read_from`: that opens the folder once more, for which a right to list it does not
        // suffice.
        let listed = fd.try_clone().map_err(|e| Error::io(self.shown(folder), e))?;
        for entry in Dir::new(listed).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match look_at(&fd, name) {
                Ok((kind, stat)) => found.push(FoundEntry { name: owned(name), kind, stat }),
                // Gone since the folder was read: as if it had never been there.
                Err(rustix::io::Errno::NOENT) => {}
                Err(e) => {
                    let (name, kind) = (owned(name), EntryKind::Unreadable);
                    log::warn!("{}: {e}", folder.join(&name).display());
                    found.push(FoundEntry { name, kind, stat: UNKNOWN });
                }
            }
        }
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// What was listed of a file, with its ACL taken into account. Who opens it anyway is told that
    /// with less work.
    pub fn with_acl(&self, file: &Path, listed: &FileStat) -> FileStat {
        let mode = sure_bits(listed.mode, |acl| {
            let fd = self.openat2(file, OFlags::PATH | OFlags::CLOEXEC)?;
            let this = format!("/proc/self/fd/{}", fd.as_raw_fd());
            rustix::fs::getxattr(this, ACL, acl)
        });
        FileStat { mode, ..*listed }
    }

    /// What `stat` says of a folder (an empty path is the root).
    pub fn stat_folder(&self, folder: &Path) -> Result<FileStat> {
        let fail = |e: rustix::io::Errno| Error::io(self.shown(folder), e);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = self.openat2(folder, flags).map_err(fail)?;
        let mut stat = file_stat(&retry_on_intr(|| rustix::fs::fstat(&fd)).map_err(fail)?);
        // What was opened by its path alone has no `fgetxattr`.
        let this = by_descriptor(&fd, c".");
        stat.mode = sure_bits(stat.mode, |acl| rustix::fs::lgetxattr(this, ACL, acl));
        Ok(stat)
    }

    /// Refuses what is no regular file of a disk, and does so without opening it: that alone makes
    /// some devices act.
    pub(super) fn check_regular(&self, file: &Path) -> Result<()> {
        let fail = |e: rustix::io::Errno| Error::io(file, e);
        let fd = self.openat2(file, OFlags::PATH | OFlags::CLOEXEC).map_err(fail)?;
        let stat = rustix::fs::fstat(&fd).map_err(fail)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::io(file, not_regular()));
        }
        let kind = i128::from(rustix::fs::fstatfs(&fd).map_err(fail)?.f_type) & 0xffff_ffff;
        if KERNEL_MADE.contains(&kind) {
            let reason = "the kernel makes its content up: it is no file of a disk";
            return Err(Error::io(file, io::Error::new(io::ErrorKind::InvalidInput, reason)));
        }
        Ok(())
    }

    /// Opens a regular file for reading, and nothing else: no link, no pipe, no device.
    pub fn open_file(&self, file: &Path) -> Result<(File, FileStat)> {
        let fail = |e: rustix::io::Errno| Error::io(file, e);
        // NONBLOCK: opening a pipe must not wait for a writer; it is refused right below.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        // NOATIME is allowed to the owner and to root alone.
        let fd = match self.openat2(file, flags | OFlags::NOATIME) {
            Err(rustix::io::Errno::PERM) => self.openat2(file, flags),
            other => other,
        }
        .map_err(fail)?;
        let stat = retry_on_intr(|| rustix::fs::fstat(&fd)).map_err(fail)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::io(file, not_regular()));
        }
        let mut stat = file_stat(&stat);
        stat.mode = sure_bits(stat.mode, |acl| rustix::fs::fgetxattr(&fd, ACL, acl));
        Ok((File::from(fd), stat))
    }

    fn openat2(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        retry_on_intr(|| rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve))
    }

    /// `folder` as a person would name it.
    fn shown(&self, folder: &Path) -> PathBuf {
        if folder.as_os_str().is_empty() { self.path.clone() } else { folder.to_path_buf() }
    }
}

/// What an entry of the folder that is open as `fd` is.
fn look_at(fd: &OwnedFd, name: &CStr) -> rustix::io::Result<(EntryKind, FileStat)> {
    let stat = retry_on_intr(|| rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Folder,
        FileType::Symlink => EntryKind::Link,
        _ => EntryKind::Other,
    };
    let mut stat = file_stat(&stat);
    if kind == EntryKind::Folder {
        let this = by_descriptor(fd, name);
        stat.mode = sure_bits(stat.mode, |acl| rustix::fs::lgetxattr(this, ACL, acl));
    }
    Ok((kind, stat))
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

fn owned(name: &CStr) -> OsString {
    OsString::from_vec(name.to_bytes().to_vec())
}

/// `name` in the folder that is open as `fd`.
fn by_descriptor(fd: &OwnedFd, name: &CStr) -> PathBuf {
    let folder = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    folder.join(OsStr::from_bytes(name.to_bytes()))
}

/// Made of `stat` alone: [`FileStat::mode`] knows nothing of an ACL yet.
pub(super) fn file_stat(stat: &Stat) -> FileStat {
    let seconds = stat.st_mtime;
    let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let mtime = if seconds >= 0 {
        SystemTime::UNIX_EPOCH + Duration::new(seconds.unsigned_abs(), nanos)
    } else {
        SystemTime::UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs())
            + Duration::from_nanos(u64::from(nanos))
    };
    FileStat {
        id: (stat.st_dev, stat.st_ino),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
        mtime,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::XattrFlags;

    use super::*;

    const DENIED: u32 = 65_534;

    /// What `setfacl` makes of mode 0755 for the owning group (`g::---`) or for one user
    /// (`u:65534:---`).
    fn set_acl(path: &Path, named: bool) {
        let mut entries: Vec<(u16, u16, u32)> = vec![(1, 7, !0)];
        if named {
            entries.push((2, 0, DENIED));
        }
        entries.extend([(4, if named { 5 } else { 0 }, !0), (0x10, 5, !0), (0x20, 5, !0)]);
        let mut acl = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            acl.extend(tag.to_le_bytes());
            acl.extend(permissions.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        rustix::fs::setxattr(path, ACL, &acl, XattrFlags::empty())
            .expect("scratch files on a file system with POSIX ACLs");
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "the mask is not in the mode");
    }

    #[test]
    fn bits_that_an_acl_makes_doubtful_are_not_shown() {
        let scratch = tempfile::tempdir().unwrap();
        let root = SourceRoot::open(scratch.path()).unwrap();
        for name in ["plain", "mask", "named"] {
            let (folder, file) = (scratch.path().join(name), scratch.path().join(name).join("f"));
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(&file, "").unwrap();
            for path in [&folder, &file] {
                std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
                if name != "plain" {
                    set_acl(path, name == "named");
                }
            }
        }
        for (name, mode) in [("plain", 0o755), ("mask", 0o705), ("named", 0o700)] {
            let folder = Path::new(name);
            assert_eq!(root.stat_folder(folder).unwrap().mode, mode, "{name}, the folder");
            assert_eq!(root.open_file(&folder.join("f")).unwrap().1.mode, mode, "{name}, the file");
            let listed = root.list(folder).unwrap();
            let listed = root.with_acl(&folder.join("f"), &listed[0].stat);
            assert_eq!(listed.mode, mode, "{name}, the listed file");
            let listed = root.list(Path::new("")).unwrap();
            let listed = listed.iter().find(|entry| entry.name == name).unwrap();
            assert_eq!(listed.stat.mode, mode, "{name}, the listed folder");
            std::fs::create_dir(scratch.path().join(name).join("below")).unwrap();
            let below = SourceRoot::open(&scratch.path().join(name).join("below")).unwrap();
            assert_eq!(below.above()[0].mode, mode, "{name}, above a source");
        }
    }
}
