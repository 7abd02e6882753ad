//! A set of clusters of a file: one bit for each.

use std::ops::Range;

/// 16 TiB of usual clusters, in 32 MiB of memory. Of a file that could have more, nothing is
/// noted: it is sparse beyond reason, or its clusters are the smallest.
const MOST_CLUSTERS: u64 = 1 << 28;

/// Some clusters of one file, by the offsets of their bytes.
#[derive(Debug)]
pub(super) struct ClusterSet {
    bits: Vec<u64>,
    cluster_bits: u32,
}

impl ClusterSet {
    /// None of the clusters of a file of `len` bytes.
    pub(super) fn new(len: u64, cluster_bits: u32) -> Self {
        let clusters = len.div_ceil(1 << cluster_bits);
        let words = if clusters > MOST_CLUSTERS { 0 } else { clusters.div_ceil(64) };
        Self { bits: vec![0; usize::try_from(words).unwrap_or(0)], cluster_bits }
    }

    /// Adds the cluster that this byte is in. False if it was in the set; true as well where
    /// nothing is noted.
    pub(super) fn insert(&mut self, offset: u64) -> bool {
        let (word, bit) = self.place(offset);
        match self.bits.get_mut(word) {
            Some(word) if *word & bit != 0 => false,
            Some(word) => {
                *word |= bit;
                true
            }
            None => true,
        }
    }

    /// Adds all clusters that have a byte of this range. False if one of them was in the set.
    pub(super) fn insert_range(&mut self, range: Range<u64>) -> bool {
        let mut at = range.start;
        let mut all_new = true;
        while at < range.end {
            all_new &= self.insert(at);
            at = ((at >> self.cluster_bits) + 1) << self.cluster_bits;
        }
        all_new
    }

    /// Whether the cluster that this byte is in was added.
    pub(super) fn contains(&self, offset: u64) -> bool {
        let (word, bit) = self.place(offset);
        self.bits.get(word).is_some_and(|word| word & bit != 0)
    }

    fn place(&self, offset: u64) -> (usize, u64) {
        let cluster = offset >> self.cluster_bits;
        (usize::try_from(cluster / 64).unwrap_or(usize::MAX), 1 << (cluster % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_added_once_by_any_of_its_bytes() {
        let mut set = ClusterSet::new(100 << 16, 16);
        assert!(set.insert((70 << 16) + 5));
        assert!(!set.insert(70 << 16));
        assert!(set.contains((71 << 16) - 1));
        assert!(!set.contains(71 << 16) && !set.contains(6 << 16));
    }

    #[test]
    fn a_range_takes_its_first_and_its_last_cluster() {
        let mut set = ClusterSet::new(1 << 20, 9);
        assert!(set.insert_range(512 * 3 + 1..512 * 5 + 1));
        let found: Vec<u64> = (0..10).filter(|n| set.contains(n * 512)).collect();
        assert_eq!(found, [3, 4, 5]);
        assert!(set.insert_range(8 * 512..8 * 512));
        assert!(!set.contains(8 * 512));
        assert!(!set.insert_range(5 * 512..7 * 512));
        assert!(set.contains(6 * 512));
    }

    #[test]
    fn a_file_of_endless_holes_takes_no_memory() {
        let mut set = ClusterSet::new(u64::MAX, 9);
        assert!(set.insert(0) && set.insert(0) && !set.contains(0));
        assert!(set.bits.is_empty());
    }
}
