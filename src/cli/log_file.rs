//! A log in a file, which goes on under its name when what had the name is moved away.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, openat, statat};

/// The end of a file. A view is mounted for years, and logrotate renames its log.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    /// What is followed; none where it is no regular file.
    name: Option<Name>,
}

/// A name in a folder that is open: a view that is mounted over the folder's path is never asked.
#[derive(Debug)]
struct Name {
    folder: OwnedFd,
    name: OsString,
}

impl LogFile {
    /// Opens a file to append to, or makes it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let name = if file.metadata()?.is_file() { Name::of(path) } else { None };
        Ok(Self { file, name })
    }

    /// Opens what has the name, if that is another file than it was, or makes it. Where that cannot
    /// be, the old one goes on.
    fn follow(&mut self) {
        let Some(name) = &self.name else { return };
        if !name.is_of(&self.file)
            && let Ok(file) = name.open()
        {
            self.file = file;
        }
    }
}

impl Name {
    fn of(path: &Path) -> Option<Self> {
        // Where a link leads now: it is what is behind it that is renamed.
        let path = &path.canonicalize().ok()?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, folder.unwrap_or(Path::new(".")), flags, Mode::empty()).ok()?;
        Some(Self { folder, name: path.file_name()?.to_os_string() })
    }

    /// Whether this is the file's name; also if another has it that is no regular file.
    fn is_of(&self, file: &File) -> bool {
        let Ok(named) = statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) else {
            return false;
        };
        let is_it =
            |open: rustix::fs::Stat| (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino);
        FileType::from_raw_mode(named.st_mode) != FileType::RegularFile
            || fstat(file).is_ok_and(is_it)
    }

    fn open(&self) -> io::Result<File> {
        // A pipe that has taken the name meanwhile is not waited for.
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        Ok(openat(&self.folder, &self.name, flags, Mode::from_raw_mode(0o666))?.into())
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.follow();
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_moved_away_goes_on_under_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut log = LogFile::open(&path).unwrap();
        log.write_all(b"one\n").unwrap();
        std::fs::rename(&path, &moved).unwrap();
        log.write_all(b"two\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        log.write_all(b"three\n").unwrap();
        assert_eq!(std::fs::read(&moved).unwrap(), b"one\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
    }

    #[test]
    fn where_it_cannot_go_on_under_its_name_the_old_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut log = LogFile::open(&path).unwrap();
        std::fs::rename(&path, &moved).unwrap();
        // Nobody reads it: to open it would take for ever.
        rustix::fs::mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        log.write_all(b"one\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere/log", &path).unwrap();
        log.write_all(b"two\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(std::fs::read(&moved).unwrap(), b"one\ntwo\n");
        std::fs::remove_file(&moved).unwrap();
        std::fs::remove_dir(folder.path()).unwrap();
        log.write_all(b"three\n").unwrap();
    }

    #[test]
    fn what_is_no_file_is_not_followed() {
        let mut log = LogFile::open(Path::new("/dev/null")).unwrap();
        assert!(log.name.is_none());
        log.write_all(b"one\n").unwrap();
    }
}
