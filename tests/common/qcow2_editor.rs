//! Finds its way through a qcow2 image, to damage a certain part of it.

use std::path::{Path, PathBuf};

use super::content::index;

/// Bits 9 to 55 of an entry.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;

/// An image with standard L2 entries, in memory until it is saved.
pub(crate) struct Editor {
    path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

/// An entry of a table: where it stands, and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) at: u64,
    pub(crate) value: u64,
}

impl Entry {
    pub(crate) fn offset(self) -> u64 {
        self.value & OFFSET
    }

    pub(crate) fn is_compressed(self) -> bool {
        self.value & COMPRESSED != 0
    }

    /// Whether it has a cluster of its own with data that a reader gets.
    pub(crate) fn is_data(self) -> bool {
        !self.is_compressed() && self.offset() != 0 && self.value & 1 == 0
    }

    /// Where the bytes of a compressed cluster start.
    pub(crate) fn packed_offset(self, cluster_bits: u32) -> u64 {
        self.value & ((1 << (62 - (cluster_bits - 8))) - 1)
    }
}

impl Editor {
    pub(crate) fn open(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_path_buf();
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        assert!(bytes.starts_with(b"QFI\xfb"), "{path:?} is no qcow2 image");
        Self { path, bytes }
    }

    /// An image that is nowhere yet.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self { path: PathBuf::from("(memory)"), bytes }
    }

    pub(crate) fn save(&self) {
        std::fs::write(&self.path, &self.bytes).unwrap_or_else(|e| panic!("{:?}: {e}", self.path));
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(crate) fn u32(&self, at: u64) -> u32 {
        let at = index(at);
        u32::from_be_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }

    pub(crate) fn u64(&self, at: u64) -> u64 {
        let at = index(at);
        u64::from_be_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    pub(crate) fn put(&mut self, at: u64, value: u64) {
        self.write(at, &value.to_be_bytes());
    }

    pub(crate) fn put32(&mut self, at: u64, value: u32) {
        self.write(at, &value.to_be_bytes());
    }

    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        let at = index(at);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Flips bits of one byte.
    pub(crate) fn flip(&mut self, at: u64, bits: u8) {
        self.bytes[index(at)] ^= bits;
    }

    pub(crate) fn truncate(&mut self, len: u64) {
        assert!(len < self.len(), "nothing is cut off");
        self.bytes.truncate(index(len));
    }

    pub(crate) fn cluster_bits(&self) -> u32 {
        self.u32(20)
    }

    pub(crate) fn cluster(&self) -> u64 {
        1 << self.cluster_bits()
    }

    /// The entries of the active L1 table that lead to a table.
    pub(crate) fn l1(&self) -> Vec<Entry> {
        self.entries(self.u64(40), self.u32(36).into())
    }

    /// The entries of the L1 table of a snapshot, by its number in the table.
    pub(crate) fn snapshot_l1(&self, number: usize) -> Vec<Entry> {
        let mut at = self.u64(64);
        for _ in 0..number {
            let lengths = self.u32(at + 12);
            let text = u64::from(lengths >> 16) + u64::from(lengths & 0xffff);
            at = (at + 40 + u64::from(self.u32(at + 36)) + text).next_multiple_of(8);
        }
        self.entries(self.u64(at), self.u32(at + 8).into())
    }

    /// All L2 entries that say anything, of all tables of an L1 table.
    pub(crate) fn l2(&self, l1: &[Entry]) -> Vec<Entry> {
        l1.iter().flat_map(|table| self.entries(table.offset(), self.cluster() / 8)).collect()
    }

    /// The first L2 entry of the active disk that has a data cluster.
    pub(crate) fn first_data(&self) -> Entry {
        let found = self.l2(&self.l1()).into_iter().find(|entry| entry.is_data());
        found.unwrap_or_else(|| panic!("{:?} has no data", self.path))
    }

    /// The first L2 entry of the active disk that has a compressed cluster.
    pub(crate) fn first_packed(&self) -> Entry {
        let found = self.l2(&self.l1()).into_iter().find(|entry| entry.is_compressed());
        found.unwrap_or_else(|| panic!("{:?} has no compressed cluster", self.path))
    }

    fn entries(&self, at: u64, count: u64) -> Vec<Entry> {
        let entries = (0..count).map(|n| at + n * 8).map(|at| Entry { at, value: self.u64(at) });
        entries.filter(|entry| entry.value != 0).collect()
    }
}
