//! `.qcowfs/status.json` in the root of the view: what is mounted, and how it is doing.
//!
//! The folder can be entered by its name and is not listed, so that who walks the view (`cp -r`,
//! `find`) does not meet it. It names files, so it is for the one who mounted the view alone. A
//! folder of that name in the source comes first.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustix::process::{getegid, geteuid};
use serde::Serialize;

use super::handles::{Listed, Listing};
use super::live::Stale;
use crate::error::Error;
use crate::tree::plan::rfc3339;
use crate::tree::{Attr, CachesUse, Counts, Ino, NodeKind, Opened, Tree};

/// The folder's name in the root of the view.
pub const FOLDER: &str = ".qcowfs";
/// The file's name in the folder.
pub const FILE: &str = "status.json";

/// Numbers that the tree, which counts from 1 on, does not come to.
const FOLDER_INO: Ino = Ino(1 << 63);
const FILE_INO: Ino = Ino((1 << 63) + 1);

/// Source files whose errors are told one by one.
const MOST_FILES: usize = 256;

/// What a view does not know of its mount by itself.
#[derive(Debug, Clone)]
pub struct About {
    /// The folder or file that is shown.
    pub source: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The options that hold, as words of `mount -o`.
    pub options: Vec<String>,
    /// Threads that answer the kernel.
    pub threads: usize,
    /// How long it took to look at the source.
    pub first_look: Duration,
}

/// The folder, the file in it, and what is counted for it.
#[derive(Debug)]
pub(super) struct Status {
    about: About,
    since: SystemTime,
    reads: AtomicU64,
    bytes: AtomicU64,
    faults: Mutex<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    files: HashMap<PathBuf, FaultsOfFile>,
    others: u64,
}

#[derive(Debug)]
struct FaultsOfFile {
    count: u64,
    last: String,
    at: SystemTime,
}

/// What the status does not count itself.
pub(super) struct Now {
    pub(super) stale: Option<Stale>,
    pub(super) bytes_ahead: u64,
    pub(super) files: usize,
    pub(super) folders: usize,
}

/// The content of the file.
#[derive(Debug, Serialize)]
struct Told<'a> {
    version: &'static str,
    pid: u32,
    since: String,
    source: String,
    mount_point: String,
    options: &'a [String],
    threads: usize,
    stale: Option<ToldStale>,
    #[serde(flatten)]
    counts: Counts,
    reads: Reads,
    errors: Vec<ToldFault>,
    errors_of_other_files: u64,
    caches: CachesUse,
    open: Open,
}

/// Since when and why the view is not what the source holds.
#[derive(Debug, Serialize)]
struct ToldStale {
    since: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Reads {
    requests: u64,
    bytes: u64,
    /// Those among the bytes that nobody had asked for yet.
    bytes_ahead: u64,
    failed: u64,
}

#[derive(Debug, Serialize)]
struct ToldFault {
    file: String,
    count: u64,
    last: String,
    last_time: String,
}

#[derive(Debug, Serialize)]
struct Open {
    files: usize,
    folders: usize,
}

impl Status {
    pub(super) fn new(about: About) -> Self {
        Self {
            about,
            since: SystemTime::now(),
            reads: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            faults: Mutex::default(),
        }
    }

    /// Counts what was answered to a read of a disk. Sums alone are of interest: no order between
    /// threads is asked for, and none is paid for.
    pub(super) fn count_read(&self, file: &Opened, bytes: usize) {
        if let Opened::Image(_) | Opened::Slice(_) = file {
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Notes that something of a source file could not be read.
    pub(super) fn count_fault(&self, fault: &Error) {
        let file = fault.file().unwrap_or(Path::new(""));
        let (last, at) = (fault.to_string(), SystemTime::now());
        let mut faults = self.faults.lock();
        if let Some(known) = faults.files.get_mut(file) {
            *known = FaultsOfFile { count: known.count + 1, last, at };
        } else if faults.files.len() < MOST_FILES {
            faults.files.insert(file.to_path_buf(), FaultsOfFile { count: 1, last, at });
        } else {
            faults.others += 1;
        }
    }

    /// What `stat` tells of the folder and the file. The file's size is not known before it is
    /// opened: as in `/proc`, it is 0.
    pub(super) fn attr(&self, ino: Ino) -> Option<Attr> {
        let (kind, mode, links) = match ino {
            FOLDER_INO => (NodeKind::Folder, 0o500, 2),
            FILE_INO => (NodeKind::File, 0o400, 1),
            _ => return None,
        };
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let (mtime, settled) = (self.since, true);
        Some(Attr { ino, kind, size: 0, allocated: 0, mtime, mode, uid, gid, links, settled })
    }

    /// The folder in the root, and the file in the folder.
    pub(super) fn lookup(folder: Ino, name: &OsStr) -> Option<Ino> {
        match folder {
            Ino::ROOT if name == FOLDER => Some(FOLDER_INO),
            FOLDER_INO if name == FILE => Some(FILE_INO),
            _ => None,
        }
    }

    pub(super) fn is_folder(ino: Ino) -> bool {
        ino == FOLDER_INO
    }

    /// The folder's entries.
    pub(super) fn listing(ino: Ino) -> Option<Listing> {
        let listed = |name: &str, ino, kind| Listed { name: name.into(), ino, kind };
        let entries = || {
            vec![
                listed(".", FOLDER_INO, NodeKind::Folder),
                listed("..", Ino::ROOT, NodeKind::Folder),
                listed(FILE, FILE_INO, NodeKind::File),
            ]
        };
        (ino == FOLDER_INO).then(|| Listing::new(entries()))
    }

    /// The file as of now.
    pub(super) fn open(&self, ino: Ino, tree: &Tree, now: impl FnOnce() -> Now) -> Option<Opened> {
        (ino == FILE_INO).then(|| Opened::Text(self.text(tree, now()).into()))
    }

    fn text(&self, tree: &Tree, now: Now) -> Vec<u8> {
        let Now { stale, bytes_ahead, files, folders } = now;
        let (errors, errors_of_other_files) = self.told_faults();
        let failed = errors.iter().map(|fault| fault.count).sum::<u64>() + errors_of_other_files;
        let told = Told {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            since: rfc3339(self.since),
            source: self.about.source.to_string_lossy().into_owned(),
            mount_point: self.about.mount_point.to_string_lossy().into_owned(),
            options: &self.about.options,
            threads: self.about.threads,
            stale: stale.map(|Stale { since, reason }| ToldStale { since: rfc3339(since), reason }),
            counts: tree.counts(),
            reads: Reads {
                requests: self.reads.load(Ordering::Relaxed),
                bytes: self.bytes.load(Ordering::Relaxed),
                bytes_ahead,
                failed,
            },
            errors,
            errors_of_other_files,
            caches: tree.caches_use(),
            open: Open { files, folders },
        };
        // Names and numbers: nothing of it can fail.
        let mut text = serde_json::to_vec_pretty(&told).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Those of the most errors first.
    fn told_faults(&self) -> (Vec<ToldFault>, u64) {
        let faults = self.faults.lock();
        let mut told: Vec<ToldFault> = faults
            .files
            .iter()
            .map(|(file, of)| ToldFault {
                file: file.to_string_lossy().into_owned(),
                count: of.count,
                last: of.last.clone(),
                last_time: rfc3339(of.at),
            })
            .collect();
        told.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.file.cmp(&b.file)));
        (told, faults.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let (source, mount_point) = ("/backups".into(), "/mnt/view".into());
        let first_look = Duration::ZERO;
        Status::new(About { source, mount_point, options: Vec::new(), threads: 1, first_look })
    }

    fn fault(file: &str, what: &str) -> Error {
        Error::Corrupt { file: file.into(), offset: 0, what: what.to_owned() }
    }

    #[test]
    fn errors_are_told_by_file_the_worst_first_with_the_last_reason() {
        let status = status();
        for (file, what) in [("b", "old"), ("a", "x"), ("c", "y"), ("b", "new")] {
            status.count_fault(&fault(file, what));
        }
        let (told, others) = status.told_faults();
        let told: Vec<_> = told.iter().map(|f| (f.file.as_str(), f.count)).collect();
        assert_eq!((told.as_slice(), others), (&[("b", 2), ("a", 1), ("c", 1)][..], 0));
        assert!(status.told_faults().0[0].last.contains("new"));
    }

    #[test]
    fn errors_of_any_number_of_files_take_bounded_memory() {
        let status = status();
        for file in 0..MOST_FILES + 10 {
            status.count_fault(&fault(&file.to_string(), "x"));
        }
        let (told, others) = status.told_faults();
        assert_eq!((told.len(), others), (MOST_FILES, 10));
    }

    #[test]
    fn only_the_owner_of_the_mount_can_look_in() {
        let status = status();
        for ino in [FOLDER_INO, FILE_INO] {
            assert_eq!(status.attr(ino).unwrap().mode & 0o277, 0);
        }
        assert_eq!(Status::lookup(Ino::ROOT, OsStr::new(FOLDER)), Some(FOLDER_INO));
        assert_eq!(Status::lookup(Ino(2), OsStr::new(FOLDER)), None);
    }
}
