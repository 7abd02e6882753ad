//! An L1 table, read block by block.
//!
//! A table may have 32 MiB, and an image as many tables as snapshots: none is held as a whole.
//! Its blocks live in the bounded cache that the image's clusters are in, under their place in
//! the file, so that layers which share a table share its blocks.

use std::ops::Range;
use std::sync::Arc;

use super::image::Qcow2Image;
use crate::error::Result;

/// Entries that are read and kept together: 32 KiB. One block maps 2 TiB of a disk with 64 KiB
/// clusters.
pub(super) const BLOCK: u64 = 4096;

const ENTRY_SIZE: u64 = 8;

/// Where an L1 table is, and how many entries of it count.
#[derive(Debug, Clone, Copy)]
pub(super) struct L1Table {
    /// Bytes of the image file.
    pub(super) offset: u64,
    /// Entries that the table claims to have and the virtual size needs: at most 2^22.
    pub(super) len: u64,
}

/// A part of an L1 table.
pub(super) struct Block {
    /// Which entries it should have. The file may end before.
    pub(super) indices: Range<u64>,
    bytes: Arc<[u8]>,
}

impl L1Table {
    /// Where an entry is in the file.
    pub(super) fn entry_offset(&self, index: u64) -> u64 {
        self.offset.saturating_add(index * ENTRY_SIZE)
    }

    /// The indices of the block that holds `index`, which is below [`Self::len`].
    pub(super) fn indices_around(&self, index: u64) -> Range<u64> {
        let first = index - index % BLOCK;
        first..(first + BLOCK).min(self.len)
    }

    /// The block that holds `index`, which is below [`Self::len`].
    pub(super) fn block_around(&self, index: u64, image: &Qcow2Image) -> Result<Block> {
        let indices = self.indices_around(index);
        let len = (indices.end - indices.start) * ENTRY_SIZE;
        let bytes = image.table_block(self.entry_offset(indices.start), len)?;
        Ok(Block { indices, bytes })
    }
}

impl Block {
    /// The entry `index` of the table; none if the file ends before it.
    pub(super) fn get(&self, index: u64) -> Option<u64> {
        let at = usize::try_from(index.checked_sub(self.indices.start)?).ok()?;
        self.bytes.as_chunks().0.get(at).copied().map(u64::from_be_bytes)
    }

    /// The entries that the file has.
    pub(super) fn entries(&self) -> impl Iterator<Item = u64> + '_ {
        self.bytes.as_chunks().0.iter().copied().map(u64::from_be_bytes)
    }

    /// Those from `index` on, with their indices.
    pub(super) fn entries_from(&self, index: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        (index..self.indices.end).map_while(|index| Some((index, self.get(index)?)))
    }

    /// Whether the file ends before the block does.
    pub(super) fn is_cut(&self) -> bool {
        (self.bytes.len() as u64) / ENTRY_SIZE < self.indices.end - self.indices.start
    }
}
