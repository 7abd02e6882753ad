//! A log in a file, which goes on under its name when what had the name is moved away.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The end of a file. A view is mounted for years, and logrotate renames its log.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    /// Opens a file to append to, or makes it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // Whoever serves in the background is in another folder soon.
        let path = std::path::absolute(path)?;
        Ok(Self { file: append_to(&path)?, path })
    }

    /// Opens what has the name, if that is another file than it was, or makes it. Where that cannot
    /// be, the old one goes on.
    fn follow(&mut self) {
        let id = |stat: std::fs::Metadata| (stat.dev(), stat.ino());
        let (named, open) = (self.path.metadata().map(id), self.file.metadata().map(id));
        let is_same = matches!((named, open), (Ok(named), Ok(open)) if named == open);
        if !is_same && let Ok(file) = append_to(&self.path) {
            self.file = file;
        }
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

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
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
        // There is no folder to make it in: what is open is written to.
        let other = folder.path().join("gone");
        std::fs::create_dir(&other).unwrap();
        let mut log = LogFile::open(&other.join("log")).unwrap();
        std::fs::remove_file(other.join("log")).unwrap();
        std::fs::remove_dir(&other).unwrap();
        log.write_all(b"four\n").unwrap();
    }
}
