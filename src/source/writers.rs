//! Who writes to the files of a source while it is looked at.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::FileStat;
use crate::processes;

/// A file that has not changed for so long has no writer that is at work.
const RECENT: Duration = Duration::from_hours(1);

/// The files beneath a folder that other processes have open for writing. They are looked for when
/// the first file is asked for that changed of late: an archive takes no look at all.
#[derive(Debug)]
pub struct OpenWriters {
    folder: PathBuf,
    now: SystemTime,
    files: OnceCell<HashSet<PathBuf>>,
}

impl OpenWriters {
    /// Of the files beneath a folder, whose path has no links.
    pub fn beneath(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), now: SystemTime::now(), files: OnceCell::new() }
    }

    /// Whether somebody has this file open for writing who may be at work.
    pub fn write_to(&self, path: &Path, stat: &FileStat) -> bool {
        // A time to come is of a clock that is wrong.
        let is_recent = self.now.duration_since(stat.mtime).is_ok_and(|age| age < RECENT)
            || stat.mtime >= self.now;
        is_recent && self.files.get_or_init(|| self.look()).contains(path)
    }

    fn look(&self) -> HashSet<PathBuf> {
        let within = |path: &Path, _: &Path| path.starts_with(&self.folder);
        let relative = |path: PathBuf| path.strip_prefix(&self.folder).ok().map(Path::to_path_buf);
        let all = processes::others().flat_map(|process| {
            let written: Vec<_> = process.written(within).filter_map(relative).collect();
            written
        });
        all.collect()
    }
}
