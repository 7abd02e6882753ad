//! Entries of L1 and L2 tables as words (qcow2 specification, "Cluster mapping", "Extended L2
//! entries"). Pure: whoever read the entry says where its file ends.

use crate::extent::{Fault, HostOffset, Slot, Word};

/// Bits 9 to 55 of an L1 or L2 entry.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// Refcount is exactly one. With an external data file: the cluster exists, even at offset 0.
const COPIED: u64 = 1 << 63;
const ZERO: u64 = 1;
const PACKED_SECTOR: u64 = 512;
const LOWER_HALF: u64 = u32::MAX as u64;

/// How many 32nd parts a cluster has.
pub(super) const SUBCLUSTERS: u32 = 32;

/// How the tables of an image cut its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// 9 to 21.
    pub(super) cluster_bits: u32,
    /// Extended L2 entries: 16 bytes instead of 8.
    pub(super) extended: bool,
}

impl Geometry {
    pub(super) fn cluster_size(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of what an entry, or a bit of it, can speak of: a cluster or a subcluster.
    pub(super) fn granularity(self) -> u64 {
        let parts = if self.extended { SUBCLUSTERS } else { 1 };
        self.cluster_size() / u64::from(parts)
    }

    pub(super) fn l2_entry_size(self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    pub(super) fn l2_entries(self) -> u64 {
        self.cluster_size() / self.l2_entry_size()
    }

    /// Guest bytes that one L2 table maps: at most 2^39.
    pub(super) fn table_reach(self) -> u64 {
        self.cluster_size() * self.l2_entries()
    }

    pub(super) fn l1_entries_for(self, virtual_size: u64) -> u64 {
        virtual_size.div_ceil(self.table_reach())
    }
}

/// What an L1 entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TableAt {
    /// No table: nothing is allocated.
    Nowhere,
    Offset(u64),
    Bad(Fault),
}

/// What it takes to understand the entries of one image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoder {
    pub(super) geometry: Geometry,
    /// Whether bit 0 means zeros: since version 3.
    pub(super) has_zero_flag: bool,
    /// Whether the clusters are in an external data file.
    pub(super) has_data_file: bool,
    /// Length of the image file.
    pub(super) image_end: u64,
}

/// Where the allocated bytes of a cluster are, before anybody looked at the subclusters.
enum Host {
    Nowhere,
    At(u64),
    Bad(Fault),
}

impl Decoder {
    pub(super) fn l1_entry(&self, entry: u64) -> TableAt {
        match entry & OFFSET {
            0 => TableAt::Nowhere,
            table if !self.is_aligned(table) => TableAt::Bad(Fault::Misaligned),
            table if table >= self.image_end => TableAt::Bad(Fault::PastEnd),
            table => TableAt::Offset(table),
        }
    }

    /// What a standard L2 entry says of the cluster at `guest`; the word is that of its first
    /// byte.
    #[inline]
    pub(super) fn cluster(&self, entry: u64, guest: u64) -> Word {
        if entry & COMPRESSED != 0 {
            return self.packed(entry);
        }
        let zero = entry & ZERO != 0;
        if zero && !self.has_zero_flag {
            return Word::Bad(Fault::ZeroInVersion2);
        }
        if zero && entry & OFFSET == 0 {
            return Word::Zero;
        }
        // QEMU refuses a preallocated zero cluster at an impossible offset, too.
        match self.host(entry, guest) {
            Host::Bad(fault) => Word::Bad(fault),
            _ if zero => Word::Zero,
            Host::Nowhere => Word::Below,
            Host::At(at) => self.data(at),
        }
    }

    /// What an extended L2 entry says of the cluster at `guest`.
    pub(super) fn subclusters(&self, entry: u64, bitmap: u64, guest: u64) -> Subclusters {
        if entry & COMPRESSED != 0 {
            return Subclusters::all(self.packed(entry));
        }
        let (allocated, zero) = (bitmap & LOWER_HALF, bitmap >> 32);
        let contradiction = Subclusters::all(Word::Bad(Fault::Subclusters));
        match self.host(entry, guest) {
            _ if allocated & zero != 0 => contradiction,
            Host::Nowhere if allocated != 0 => contradiction,
            Host::Nowhere => Subclusters { allocated, zero, data: Word::Below },
            Host::At(at) => Subclusters { allocated, zero, data: self.data(at) },
            Host::Bad(fault) => Subclusters::all(Word::Bad(fault)),
        }
    }

    /// Where an L2 entry keeps room for the cluster at `guest`, and which 32nd parts of it are not
    /// there as data: bit n for part n. A standard entry has such room for all of its zeros or for
    /// none.
    pub(super) fn room(&self, entry: u64, bitmap: u64, guest: u64) -> Option<(u64, u64)> {
        if entry & COMPRESSED != 0 {
            return None;
        }
        let spare = if self.geometry.extended {
            !bitmap & LOWER_HALF
        } else {
            let is_kept = self.has_zero_flag && entry & ZERO != 0 && entry & OFFSET != 0;
            if is_kept { LOWER_HALF } else { 0 }
        };
        match self.host(entry, guest) {
            Host::At(at) if spare != 0 => Some((at, spare)),
            _ => None,
        }
    }

    fn host(&self, entry: u64, guest: u64) -> Host {
        let at = entry & OFFSET;
        if at == 0 && !(self.has_data_file && entry & COPIED != 0) {
            return Host::Nowhere;
        }
        if !self.is_aligned(at) {
            return Host::Bad(Fault::Misaligned);
        }
        if self.has_data_file && at != guest {
            return Host::Bad(Fault::DataFileOffset);
        }
        Host::At(at)
    }

    fn is_aligned(&self, at: u64) -> bool {
        at.is_multiple_of(self.geometry.cluster_size())
    }

    fn data(&self, at: u64) -> Word {
        // A short data file reads as zeros past its end.
        if at >= self.image_end && !self.has_data_file {
            return Word::Bad(Fault::PastEnd);
        }
        Word::At(Slot::Host(HostOffset(at)))
    }

    fn packed(&self, entry: u64) -> Word {
        if self.has_data_file {
            return Word::Bad(Fault::PackedInDataFile);
        }
        let descriptor = entry & (COMPRESSED - 1);
        if Packed::from_descriptor(descriptor, self.geometry.cluster_bits).offset >= self.image_end
        {
            return Word::Bad(Fault::PastEnd);
        }
        Word::At(Slot::Packed(descriptor))
    }
}

/// Whether an L2 entry, standard or the first word of an extended one, is a compressed cluster.
pub(super) fn is_compressed(entry: u64) -> bool {
    entry & COMPRESSED != 0
}

/// The host offset that an L1 or L2 entry holds, whatever it is worth; of a compressed cluster,
/// where its bytes start.
pub(super) fn host_of(entry: u64, cluster_bits: u32) -> u64 {
    if is_compressed(entry) {
        Packed::from_descriptor(entry & (COMPRESSED - 1), cluster_bits).offset
    } else {
        entry & OFFSET
    }
}

/// An L2 entry without the mark that its cluster has one owner: the same in all tables that share
/// the cluster.
pub(super) fn without_owner(entry: u64) -> u64 {
    entry & !COPIED
}

/// What is said of the 32 parts of one cluster: bit n for part n, no bit above the 32nd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subclusters {
    allocated: u64,
    zero: u64,
    /// The word of the cluster's first byte, where that is allocated.
    data: Word,
}

impl Subclusters {
    fn all(data: Word) -> Self {
        Self { allocated: LOWER_HALF, zero: 0, data }
    }

    /// What is said of subcluster `first` (below 32), and the first subcluster after it of which
    /// something else is said (at most 32). Data is that of the cluster's first byte.
    pub(super) fn run_from(&self, first: u32) -> (Word, u32) {
        let (allocated, zero) = (self.allocated >> first, self.zero >> first);
        // All ones where the lowest bit is set: what differs from it then is set in the xor.
        let same = |bits: u64| bits ^ (bits & 1).wrapping_neg();
        let changes = same(allocated) | same(zero);
        let end = (first + changes.trailing_zeros()).min(SUBCLUSTERS);
        let word = match (allocated & 1, zero & 1) {
            (0, 0) => Word::Below,
            (0, _) => Word::Zero,
            _ => self.data,
        };
        (word, end)
    }

    /// The fault of the cluster, if any part of it cannot be read.
    pub(super) fn fault(&self) -> Option<Fault> {
        match self.data {
            Word::Bad(fault) if self.allocated != 0 => Some(fault),
            _ => None,
        }
    }
}

/// Where a compressed cluster's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) offset: u64,
    /// An upper bound: the writer rounds up to sectors of the file.
    pub(super) len: u64,
}

impl Packed {
    /// From the lower 62 bits of an L2 entry.
    pub(super) fn from_descriptor(descriptor: u64, cluster_bits: u32) -> Self {
        let offset_bits = 62 - (cluster_bits - 8);
        let offset = descriptor & ((1 << offset_bits) - 1);
        let sectors = (descriptor >> offset_bits) + 1;
        Self { offset, len: sectors * PACKED_SECTOR - offset % PACKED_SECTOR }
    }
}

#[cfg(test)]
mod tests;
