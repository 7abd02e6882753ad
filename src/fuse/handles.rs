//! What the kernel has open: numbers it hands back to us, and what they stand for.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use fuser::{BackingId, FileHandle};
use parking_lot::{Mutex, RwLock};

use super::run::Run;
use crate::source::Hold;
use crate::tree::{Ino, NodeKind, Opened, Tree};

/// Open files, or open folders.
#[derive(Debug)]
pub(super) struct Handles<T> {
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Handles<T> {
    pub(super) fn new() -> Self {
        Self { next: AtomicU64::new(1), open: RwLock::new(HashMap::new()) }
    }

    pub(super) fn insert(&self, value: T) -> FileHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().insert(number, Arc::new(value));
        FileHandle(number)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.open.read().len()
    }

    /// What a number stands for, until its release and for as long as the caller holds it.
    pub(super) fn get(&self, handle: FileHandle) -> Option<Arc<T>> {
        self.open.read().get(&handle.0).cloned()
    }

    /// What it stood for is let go by the caller: it may be large.
    pub(super) fn remove(&self, handle: FileHandle) -> Option<Arc<T>> {
        self.open.write().remove(&handle.0)
    }
}

/// A file that somebody has open.
pub(super) struct OpenFile {
    pub(super) file: Opened,
    /// What was read of it in order.
    pub(super) run: Mutex<Run>,
    /// Whether it is read ahead of somebody else.
    pub(super) is_ours: bool,
    /// Whether something was read ahead for it.
    pub(super) is_helped: AtomicBool,
    /// Must live as long, where the kernel reads by itself.
    #[expect(dead_code, reason = "held, and never asked")]
    backing: Option<Arc<BackingId>>,
    /// Keeps its bytes readable, whatever becomes of the names of its files.
    #[expect(dead_code, reason = "held, and never asked")]
    held: Vec<Hold>,
}

impl OpenFile {
    /// A file that was just opened.
    pub(super) fn new(file: Opened, backing: Option<Arc<BackingId>>, is_ours: bool) -> Self {
        let held = match &file {
            Opened::Image(image) => image.hold(),
            Opened::Slice(slice) => slice.hold(),
            Opened::Text(_) => Vec::new(),
        };
        let (run, is_helped) = (Mutex::new(Run::new(Instant::now())), AtomicBool::new(false));
        Self { file, run, is_ours, is_helped, backing, held }
    }
}

/// A folder that somebody has open.
#[derive(Debug, Default)]
pub(super) struct OpenFolder(Mutex<Arc<Listing>>);

impl OpenFolder {
    /// What to tell a reader from an offset on: who starts again sees what is there by now (`list`),
    /// who goes on sees what he began with.
    pub(super) fn listing(&self, offset: u64, list: impl FnOnce() -> Listing) -> Arc<Listing> {
        let mut listing = self.0.lock();
        if offset == 0 || listing.0.is_empty() {
            *listing = Arc::new(list());
        }
        Arc::clone(&listing)
    }
}

/// The entries of a folder as they were when it was opened, with `.` and `..`. An entry's place
/// is its offset, so a reader that goes on or comes back finds the same order.
#[derive(Debug, Default)]
pub(super) struct Listing(Vec<Listed>);

#[derive(Debug)]
pub(super) struct Listed {
    pub(super) name: OsString,
    pub(super) ino: Ino,
    pub(super) kind: NodeKind,
}

impl Listing {
    /// `None`: not a folder.
    pub(super) fn of(tree: &Tree, folder: Ino) -> Option<Self> {
        let entries = tree.entries(folder)?;
        let parent = tree.parent(folder).unwrap_or(folder);
        let dots = [(".", folder), ("..", parent)];
        let dots =
            dots.map(|(name, ino)| Listed { name: name.into(), ino, kind: NodeKind::Folder });
        let entries = entries.into_iter().map(|entry| Listed {
            name: entry.name.into_owned(),
            ino: entry.ino,
            kind: entry.kind,
        });
        Some(Self(dots.into_iter().chain(entries).collect()))
    }

    /// A folder that is not the tree's.
    pub(super) fn new(entries: Vec<Listed>) -> Self {
        Self(entries)
    }

    /// The entries from an offset on, each with the offset behind it.
    pub(super) fn from(&self, offset: u64) -> impl Iterator<Item = (&Listed, u64)> {
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        self.0.iter().zip(1..).skip(skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_number_is_never_given_again() {
        let handles = Handles::new();
        let first = handles.insert("first");
        handles.remove(first);
        let second = handles.insert("second");
        assert_ne!(first, second);
        assert_eq!(handles.get(first), None);
        assert_eq!(handles.get(second).as_deref(), Some(&"second"));
    }

    #[test]
    fn a_listing_goes_on_where_the_last_offset_points() {
        let listed = |name: &str| Listed { name: name.into(), ino: Ino(7), kind: NodeKind::File };
        let listing = Listing([".", "..", "a", "b"].map(listed).into());
        let all: Vec<_> = listing.from(0).map(|(entry, next)| (&entry.name, next)).collect();
        for (name, next) in &all {
            let rest: Vec<_> =
                listing.from(*next).map(|(entry, next)| (&entry.name, next)).collect();
            let at = all.iter().position(|(n, _)| n == name).unwrap();
            assert_eq!(rest, all[at + 1..]);
        }
        assert_eq!(listing.from(u64::MAX).count(), 0);
    }
}
