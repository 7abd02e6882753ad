//! The partitions of the disks of a view: found out about when somebody looks, and kept.
//!
//! An increment mostly leaves the table of its parent alone. Where the maps say that all bytes that
//! the parent's partitions were read from are the child's, too, from the same places of the same
//! files, nothing is read again.

use std::ops::Range;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::reuse::Line;
use crate::partition::{self, Found, Partitions, Reader};
use crate::view::DiskImage;

/// Bytes of what is known of partitions that are kept.
const MEMORY: u64 = 4 << 20;
/// What an entry takes beyond its lists.
const ENTRY: u64 = 128;

/// What is known of the partitions of disks.
pub(super) struct Glances(Cache<Line, Glance, ByMemory>);

/// A disk, and what tells it from all others.
#[derive(Clone, Copy)]
pub(super) struct Disk<'a> {
    pub(super) line: Line,
    pub(super) image: &'a Arc<DiskImage>,
}

#[derive(Clone)]
struct Glance {
    partitions: Arc<Partitions>,
    read: Arc<[Range<u64>]>,
    /// Whether it was found out about for another disk.
    is_shared: bool,
}

#[derive(Clone)]
struct ByMemory;

impl Weighter<Line, Glance> for ByMemory {
    fn weight(&self, _: &Line, glance: &Glance) -> u64 {
        let ranges = size_of_val::<[Range<u64>]>(&glance.read) as u64;
        let own = if glance.is_shared { 0 } else { glance.partitions.memory() + ranges };
        own + ENTRY
    }
}

impl Default for Glances {
    fn default() -> Self {
        Self(Cache::with_weighter(1 << 12, MEMORY, ByMemory))
    }
}

impl Glances {
    /// The partitions of a disk that stands on another.
    pub(super) fn of(&self, disk: Disk<'_>, parent: Option<Disk<'_>>) -> Arc<Partitions> {
        if let Some(known) = self.0.get(&disk.line) {
            return known.partitions;
        }
        let same = parent.and_then(|parent| {
            let known = self.0.get(&parent.line)?;
            disk.image.has_in_common(parent.image, &known.read).then_some(known)
        });
        if let Some(known) = same {
            let glance = Glance { is_shared: true, ..known };
            self.0.insert(disk.line, glance.clone());
            return glance.partitions;
        }
        let Found { partitions, read, is_complete } = look(disk.image);
        let partitions = Arc::new(partitions);
        // What could not be read a moment ago is read again.
        if is_complete {
            let (partitions, read) = (Arc::clone(&partitions), read.into());
            self.0.insert(disk.line, Glance { partitions, read, is_shared: false });
        }
        partitions
    }
}

fn look(image: &DiskImage) -> Found {
    let read_at = |offset, buf: &mut [u8]| image.peek(offset, buf).map_err(|e| e.to_string());
    partition::find(&mut Reader::new(image.size(), read_at))
}

/// The name of the file of a partition.
pub fn file_name(number: u16) -> String {
    format!("p{number}.img")
}

/// The number in the name of a partition's file.
pub fn number_in(name: &str) -> Option<u16> {
    let number = name.strip_prefix('p')?.strip_suffix(".img")?.parse().ok()?;
    // `p01.img` and `p+1.img` are none.
    (number > 0 && file_name(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_one_name() {
        assert_eq!(number_in("p1.img"), Some(1));
        assert_eq!(number_in("p128.img"), Some(128));
        for name in ["p0.img", "p01.img", "p+1.img", "p.img", "p65536.img", "p1", "1.img", "P1.img"]
        {
            assert_eq!(number_in(name), None, "{name}");
        }
    }
}
