//! The L1 tables of an image, walked side by side.

use std::fmt;
use std::ops::Range;

use super::super::bytes::to_usize;
use super::{Qcow2Image, Snapshot};
use crate::error::{Error, Result};
use crate::source::Source;

/// Entries of each L1 table that are held at a time.
const WINDOW: u64 = 64;

/// Which disk of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum DiskOf {
    /// The image's own state.
    Active,
    /// That of a snapshot, by its number in the table.
    Snapshot(usize),
}

impl fmt::Display for DiskOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("the disk"),
            Self::Snapshot(number) => write!(f, "snapshot {}", number.saturating_add(1)),
        }
    }
}

/// What one L1 table maps.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) disk: DiskOf,
    pub(super) l1_offset: u64,
    pub(super) virtual_size: u64,
    /// Entries that the table claims and the virtual size needs.
    wanted: u64,
    /// Those of them that the file has.
    here: u64,
}

/// An entry of an L1 table that is not empty.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) tree: &'a Tree,
    pub(super) index: u64,
    pub(super) value: u64,
}

impl Entry<'_> {
    /// Where it stands in the file.
    pub(super) fn offset(&self) -> u64 {
        self.tree.l1_offset.saturating_add(self.index * 8)
    }
}

impl Tree {
    pub(super) fn active(image: &Qcow2Image) -> Self {
        let header = image.header();
        let (offset, size) = (header.l1_offset, header.virtual_size);
        Self::new(image, DiskOf::Active, offset, header.l1_size, size)
    }

    pub(super) fn of_snapshot(image: &Qcow2Image, number: usize, snapshot: &Snapshot) -> Self {
        let (offset, size) = (snapshot.l1_offset, snapshot.virtual_size);
        Self::new(image, DiskOf::Snapshot(number), offset, snapshot.l1_size, size)
    }

    fn new(image: &Qcow2Image, disk: DiskOf, l1_offset: u64, l1_size: u32, size: u64) -> Self {
        let geometry = image.header().geometry();
        let wanted = geometry.l1_entries_for(size).min(l1_size.into());
        let here = wanted.min(image.file().len().saturating_sub(l1_offset) / 8);
        Self { disk, l1_offset, virtual_size: size, wanted, here }
    }

    /// Whether the file has less of the table than the disk needs.
    pub(super) fn is_cut(&self) -> bool {
        self.here < self.wanted
    }

    /// The bytes of the table that the file has.
    pub(super) fn l1_range(&self) -> Range<u64> {
        self.l1_offset..self.l1_offset.saturating_add(self.here * 8)
    }

    /// Entries from `first` on.
    fn window(&self, file: &dyn Source, first: u64) -> Result<Vec<u64>> {
        let count = WINDOW.min(self.here.saturating_sub(first));
        let mut bytes = vec![0; to_usize(count * 8)];
        file.read_exact(self.l1_offset.saturating_add(first * 8), &mut bytes)?;
        Ok(bytes.as_chunks().0.iter().copied().map(u64::from_be_bytes).collect())
    }
}

/// Calls `visit` for each index at which a tree has an entry, with all entries there are; and for
/// each part of a table that cannot be read.
pub(super) fn each_index(
    file: &dyn Source,
    trees: &[Tree],
    mut visit: impl FnMut(Result<&[Entry<'_>], (&Tree, Error)>),
) {
    let end = trees.iter().map(|tree| tree.here).max().unwrap_or(0);
    let mut first = 0;
    while first < end {
        let mut windows = Vec::new();
        for tree in trees.iter().filter(|tree| first < tree.here) {
            match tree.window(file, first) {
                Ok(values) if values.iter().all(|value| *value == 0) => {}
                Ok(values) => windows.push((tree, values)),
                Err(e) => visit(Err((tree, e))),
            }
        }
        for index in first..(first + WINDOW).min(end) {
            let at = to_usize(index - first);
            let entries: Vec<Entry<'_>> = windows
                .iter()
                .filter_map(|(tree, values)| Some((*tree, *values.get(at)?)))
                .filter(|(_, value)| *value != 0)
                .map(|(tree, value)| Entry { tree, index, value })
                .collect();
            if !entries.is_empty() {
                visit(Ok(&entries));
            }
        }
        first += WINDOW;
    }
}
