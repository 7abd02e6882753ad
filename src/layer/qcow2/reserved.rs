//! Host clusters that are kept for zeros, or for parts of a cluster that were never written.

use std::ops::Range;

use super::layer::Qcow2Layer;
use super::table::{SUBCLUSTERS, TableAt};
use crate::extent::HostOffset;
use crate::layer::{Layer, Reserved};

impl Qcow2Layer {
    pub(super) fn find_reserved(&self, range: Range<u64>) -> Vec<Reserved> {
        let mut found = Vec::new();
        let reach = self.decoder.geometry.table_reach();
        let end = range.end.min(self.virtual_size());
        let mut at = range.start;
        while at < end {
            let index = at / reach;
            let table_end = ((index + 1) * reach).min(end);
            if index >= self.l1.len {
                break;
            }
            // What cannot be read was told by who asked for the words.
            let block = self.l1.block_around(index, &self.image).ok();
            let entry = block.and_then(|block| block.get(index)).unwrap_or(0);
            if let TableAt::Offset(table) = self.decoder.l1_entry(entry) {
                self.find_in_table(table, at..table_end, &mut found);
            }
            at = table_end;
        }
        found
    }

    fn find_in_table(&self, table: u64, range: Range<u64>, found: &mut Vec<Reserved>) {
        let geometry = self.decoder.geometry;
        let size = geometry.cluster_size();
        let index = |guest: u64| (guest >> geometry.cluster_bits) % geometry.l2_entries();
        let (first, last) = (index(range.start), index(range.end - 1));
        let entry_size = geometry.l2_entry_size();
        let wanted = (last - first + 1) * entry_size;
        let offset = table + first * entry_size;
        let Ok(bytes) = self.image.read_table(offset, wanted) else { return };
        let mut words = bytes.as_chunks().0.iter().copied().map(u64::from_be_bytes);
        let mut cluster = range.start - range.start % size;
        while cluster < range.end {
            let Some(entry) = words.next() else { return };
            let bitmap = if geometry.extended { words.next().unwrap_or(0) } else { 0 };
            if let Some((at, spare)) = self.decoder.room(entry, bitmap, cluster) {
                push_spare(at, spare, cluster, size, &range, found);
            }
            cluster += size;
        }
    }
}

/// Adds the parts of a cluster that `spare` has bits for, as far as they lie in `range`.
fn push_spare(
    at: u64,
    spare: u64,
    cluster: u64,
    size: u64,
    range: &Range<u64>,
    found: &mut Vec<Reserved>,
) {
    let part = size / u64::from(SUBCLUSTERS);
    // Of a standard entry all bits are alike: its clusters may be too small for parts.
    let (part, parts) =
        if spare.count_ones() == SUBCLUSTERS { (size, 1) } else { (part, SUBCLUSTERS) };
    for number in (0..parts).filter(|number| spare >> number & 1 == 1) {
        let from = cluster + u64::from(number) * part;
        let wanted = from.max(range.start)..(from + part).min(range.end);
        if !wanted.is_empty() {
            let at = HostOffset(at + (wanted.start - cluster));
            Reserved { range: wanted, at }.join(found);
        }
    }
}
