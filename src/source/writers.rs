//! Who writes to the files of a source while it is looked at.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, makedev, statx};

use super::FileStat;
use crate::processes;

/// A file that has not changed for so long has no writer that is at work.
const RECENT: Duration = Duration::from_hours(1);

/// The files that other processes have open for writing. They are looked for when the first file of a
/// file system is asked for that changed of late: an archive takes no look at all.
#[derive(Debug)]
pub struct OpenWriters {
    now: SystemTime,
    /// Inode numbers, by device.
    files: RefCell<HashMap<u64, HashSet<u64>>>,
}

impl OpenWriters {
    /// As of now.
    pub fn now() -> Self {
        Self { now: SystemTime::now(), files: RefCell::default() }
    }

    /// Whether somebody has this file open for writing who may be at work.
    pub fn write_to(&self, stat: &FileStat) -> bool {
        // A time to come is of a clock that is wrong.
        let is_recent = self.now.duration_since(stat.mtime).is_ok_and(|age| age < RECENT)
            || stat.mtime >= self.now;
        let (device, inode) = stat.id;
        is_recent
            && self
                .files
                .borrow_mut()
                .entry(device)
                .or_insert_with(|| look(device))
                .contains(&inode)
    }
}

/// The inode numbers of the regular files of a device that somebody has open for writing.
fn look(device: u64) -> HashSet<u64> {
    let of = |link: &Path| {
        // What is known of it here: a server is not asked, which may be dead.
        let flags = AtFlags::STATX_DONT_SYNC;
        let stat = statx(CWD, link, flags, StatxFlags::TYPE | StatxFlags::INO).ok()?;
        let is_file = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
        let is_of_device = makedev(stat.stx_dev_major, stat.stx_dev_minor) == device;
        (is_file && is_of_device).then_some(stat.stx_ino)
    };
    let all = processes::others().flat_map(|process| {
        let written: Vec<u64> =
            process.written(|link| of(link).is_some()).filter_map(|link| of(&link)).collect();
        written
    });
    all.collect()
}
