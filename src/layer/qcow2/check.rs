//! Whether everything is there, and is what it must be, that a reader may ever reach in an image:
//! the tables of its own state and of every snapshot, every cluster within the virtual disk, and
//! what compressed clusters unpack to. Uncompressed clusters are read, for only that finds what
//! the medium has lost; what their bytes should be nobody can tell.
//!
//! Trees of snapshots share most of their tables and clusters. So the trees are walked side by
//! side, index by index of their L1 tables: what several of them have in the same place is looked
//! at once, and only what is known of one L1 index is kept at a time.

mod cluster_set;
mod clusters;
mod faults;
mod reads;
#[cfg(test)]
mod tests;
mod trees;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use self::cluster_set::ClusterSet;
use self::clusters::Clusters;
use self::faults::the_same_with;
use self::trees::{DiskOf, Entry, Tree};
use super::bitmap::read_bitmaps;
use super::image::Qcow2Image;
use super::snapshot::{Snapshot, read_snapshots};
use super::table::{Decoder, TableAt};
use crate::error::{Error, Result};
use crate::extent::Fault;
use crate::layer::findings::Findings;
use crate::source::Source;

/// Where the header says where the L1 table is.
const L1_AT: u64 = 40;
/// Where the header has its incompatible features.
const FEATURES_AT: u64 = 72;

/// What a check of an image found.
#[derive(Debug, Default)]
pub struct ImageCheck {
    /// All that is wrong; offsets are those of the image file.
    pub findings: Findings,
    /// Whether damage reaches the image's own state.
    pub active: bool,
    /// The snapshots that damage reaches, by their numbers in the table.
    pub snapshots: BTreeSet<usize>,
}

impl ImageCheck {
    fn spoil(&mut self, disk: DiskOf) {
        match disk {
            DiskOf::Active => self.active = true,
            DiskOf::Snapshot(number) => {
                self.snapshots.insert(number);
            }
        }
    }
}

/// Checks an image with all its snapshots. `tick` is told of bytes that were read.
///
/// Memory: a few buffers of a cluster each, and a few bits for each cluster of the file.
pub fn check_image(image: &Qcow2Image, tick: &dyn Fn(u64)) -> ImageCheck {
    let mut check = ImageCheck::default();
    check_flags(image, &mut check.findings);
    let mut roots = ClusterSet::new(image.file().len(), image.header().cluster_bits);
    let trees = trees(image, &mut roots, &mut check);
    let mut walk = Walk::new(image, &trees, roots);
    walk.check_l1_tables(&mut check);
    walk.check_l2_tables(&mut check, tick);
    check
}

fn check_flags(image: &Qcow2Image, findings: &mut Findings) {
    let header = image.header();
    if header.is_corrupt() {
        let what = "QEMU marked this image as corrupt: what is read may be wrong";
        findings.warning(FEATURES_AT, what);
    }
    if header.is_dirty() {
        let what = "it was not closed properly (dirty): reading is none the worse for it";
        findings.warning(FEATURES_AT, what);
    }
    // A reader needs no bitmap.
    match read_bitmaps(image.file().as_ref(), header) {
        Ok(_) => {}
        Err(Error::Corrupt { offset, what, .. }) => findings.warning(offset, what),
        Err(e) => findings.warning(None, format!("its bitmaps cannot be read: {e}")),
    }
}

/// The trees of the image, and the clusters of the header and their L1 tables. A tree whose L1
/// table overlaps another is left out: all that is left together is no larger than the file.
fn trees(image: &Qcow2Image, roots: &mut ClusterSet, check: &mut ImageCheck) -> Vec<Tree> {
    let header = image.header();
    roots.insert(0);
    if header.snapshot_count > 0 {
        roots.insert(header.snapshots_offset);
    }
    let mut trees = all_trees(image, check);
    trees.retain(|tree| {
        let is_alone = roots.insert_range(tree.l1_range());
        if !is_alone {
            let (disk, at) = (tree.disk, tree.l1_offset);
            let what = format!("the L1 table of {disk}, at {at}, overlaps another table");
            check.findings.damage(at, what);
            check.spoil(disk);
        }
        is_alone
    });
    trees
}

fn all_trees(image: &Qcow2Image, check: &mut ImageCheck) -> Vec<Tree> {
    let file = image.file().as_ref();
    let mut trees = vec![Tree::active(image)];
    let snapshots = read_snapshots(file, image.header()).unwrap_or_else(|e| {
        check.findings.error(&e);
        Vec::new()
    });
    for (number, entry) in snapshots.into_iter().enumerate() {
        match entry {
            Ok(snapshot) => trees.push(Tree::of_snapshot(image, number, &snapshot)),
            Err(defect) => {
                check.findings.error(&defect.in_file(file.path()));
                check.snapshots.insert(number);
            }
        }
    }
    trees
}

/// An L2 table up to the end of the disk that it maps: trees that share both share all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TableUse {
    table: u64,
    /// Where the disk, or the reach of the table, ends.
    end: u64,
}

/// The first of the L1 entries of a disk that have one fault, and how many there are.
#[derive(Debug)]
struct L1Fault {
    at: u64,
    index: u64,
    value: u64,
    count: u64,
}

/// One image on its way through a check.
struct Walk<'a> {
    image: &'a Qcow2Image,
    decoder: Decoder,
    trees: &'a [Tree],
    /// Clusters of the header, the L1 tables, the table of snapshots.
    roots: ClusterSet,
    /// Clusters of the L2 tables.
    tables: ClusterSet,
    faults: HashMap<(DiskOf, Fault), L1Fault>,
}

impl<'a> Walk<'a> {
    fn new(image: &'a Qcow2Image, trees: &'a [Tree], roots: ClusterSet) -> Self {
        let tables = ClusterSet::new(image.file().len(), image.header().cluster_bits);
        Self { image, decoder: image.decoder(), trees, roots, tables, faults: HashMap::new() }
    }

    fn file(&self) -> &dyn Source {
        self.image.file().as_ref()
    }

    /// Checks the L1 tables, and learns where the L2 tables are.
    fn check_l1_tables(&mut self, check: &mut ImageCheck) {
        for tree in self.trees.iter().filter(|tree| tree.is_cut()) {
            let (disk, at, len) = (tree.disk, tree.l1_offset, self.file().len());
            if tree.l1_range().is_empty() {
                let what = format!(
                    "the L1 table of {disk} is at {at}, past the end of the file ({len} bytes; \
                     truncated?)"
                );
                check.findings.damage((disk == DiskOf::Active).then_some(L1_AT), what);
            } else {
                let what = format!("the file ends within the L1 table of {disk} (truncated?)");
                check.findings.damage(tree.l1_range().end, what);
            }
            check.spoil(disk);
        }
        let (file, trees) = (self.image.file().as_ref(), self.trees);
        trees::each_index(file, trees, |entries| match entries {
            Ok(entries) => self.check_l1_entries(entries, check),
            Err((tree, e)) => {
                check.findings.error(&e);
                check.spoil(tree.disk);
            }
        });
        let reach = self.decoder.geometry.table_reach();
        for ((disk, fault), first) in std::mem::take(&mut self.faults) {
            let L1Fault { at, index, value, count } = first;
            let (guest, more) = (index * reach, the_same_with(count - 1));
            let what = format!("the L1 entry for byte {guest} of {disk} says {value:#x}: {fault}");
            check.findings.damage(at, what + &more);
            check.spoil(disk);
        }
    }

    /// Checks what the L1 tables have at one index.
    fn check_l1_entries(&mut self, entries: &[Entry<'_>], check: &mut ImageCheck) {
        let mut tables = BTreeMap::new();
        for entry in entries {
            let at = entry.offset();
            match self.decoder.l1_entry(entry.value) {
                TableAt::Nowhere => {}
                TableAt::Bad(fault) => {
                    let first = L1Fault { at, index: entry.index, value: entry.value, count: 0 };
                    self.faults.entry((entry.tree.disk, fault)).or_insert(first).count += 1;
                }
                TableAt::Offset(table) if self.roots.contains(table) => {
                    let what = format!(
                        "an L1 entry of {} says that its L2 table is at {table}, where the header \
                         or another table is",
                        entry.tree.disk
                    );
                    check.findings.damage(at, what);
                    check.spoil(entry.tree.disk);
                }
                TableAt::Offset(table) => {
                    tables.entry(table).or_insert(at);
                }
            }
        }
        for (table, at) in tables {
            if !self.tables.insert(table) {
                let what = format!("the L2 table at {table} is that of another part, too");
                check.findings.warning(at, what);
            }
        }
    }

    /// Checks all L2 tables and what they lead to.
    fn check_l2_tables(&self, check: &mut ImageCheck, tick: &dyn Fn(u64)) {
        let mut clusters = Clusters::new(self.image, &self.roots, &self.tables, tick);
        trees::each_index(self.file(), self.trees, |entries| {
            // The errors are known.
            let Ok(entries) = entries else { return };
            let uses = self.uses(entries);
            clusters.start_index(uses.len());
            for (table, trees) in uses {
                let base = entries.first().map_or(0, |entry| entry.index)
                    * self.decoder.geometry.table_reach();
                if clusters.check_table(table, base, &mut check.findings) {
                    for disk in trees {
                        check.spoil(disk);
                    }
                }
            }
        });
    }

    /// The sound tables of one index, each with the disks that use it.
    fn uses(&self, entries: &[Entry<'_>]) -> BTreeMap<TableUse, Vec<DiskOf>> {
        let reach = self.decoder.geometry.table_reach();
        let mut uses: BTreeMap<TableUse, Vec<DiskOf>> = BTreeMap::new();
        for entry in entries {
            if let TableAt::Offset(table) = self.decoder.l1_entry(entry.value)
                && !self.roots.contains(table)
            {
                let end = ((entry.index + 1) * reach).min(entry.tree.virtual_size);
                uses.entry(TableUse { table, end }).or_default().push(entry.tree.disk);
            }
        }
        uses
    }
}
