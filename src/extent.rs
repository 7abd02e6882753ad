//! Extents: what one layer says about ranges of a guest disk.
//!
//! All offsets and lengths are bytes. A [`Word`] is shallow: it speaks for one layer alone, and
//! [`Word::Below`] ("ask the layer below") must never reach a reader; what a reader gets is
//! [`crate::map::Resolved`], which has no such case.

use std::fmt;
use std::ops::Range;

/// A byte offset in a virtual disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestOffset(pub u64);

/// A byte offset in a file of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostOffset(pub u64);

/// Where the bytes of an extent are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// As they are, from this offset of the layer's data file on: the offset advances with the
    /// guest's. Below 2^62.
    Host(HostOffset),
    /// Packed (compressed): a token that only the owning layer understands, the same for every
    /// byte of the extent. Below 2^62.
    Packed(u64),
}

impl Slot {
    /// The slot of the byte that lies `by` bytes further on in the same extent.
    #[must_use]
    pub fn advance(self, by: u64) -> Self {
        match self {
            Self::Host(HostOffset(at)) => Self::Host(HostOffset(at + by)),
            Self::Packed(token) => Self::Packed(token),
        }
    }
}

/// Why a range of a layer can never be read right. Reading it is EIO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Fault {
    /// The table could not be read just now; never remembered.
    Unreadable,
    /// A table or a cluster starts at or past the end of its file.
    PastEnd,
    /// An offset in a table is not a multiple of the cluster size.
    Misaligned,
    /// The subcluster bits of an extended L2 entry contradict each other.
    Subclusters,
    /// A compressed cluster in an image with an external data file.
    PackedInDataFile,
    /// A cluster of an external data file that does not lie at its guest offset.
    DataFileOffset,
    /// A cluster is flagged as zeros in a qcow2 image of version 2, which has no such flag.
    ZeroInVersion2,
    /// The frames of a stream contradict each other, or the stream is cut.
    Frames,
    /// The file that would know is missing, or nothing in it can be read.
    Lost,
    /// The clusters are encrypted.
    Encrypted,
    /// The clusters are in an external data file that is missing.
    NoDataFile,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 11] = [
        Self::Unreadable,
        Self::PastEnd,
        Self::Misaligned,
        Self::Subclusters,
        Self::PackedInDataFile,
        Self::DataFileOffset,
        Self::ZeroInVersion2,
        Self::Frames,
        Self::Lost,
        Self::Encrypted,
        Self::NoDataFile,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "its cluster table cannot be read",
            Self::PastEnd => "a table or cluster lies past the end of the file (truncated?)",
            Self::Misaligned => "a cluster table holds a misaligned offset",
            Self::Subclusters => "an extended L2 entry contradicts itself",
            Self::PackedInDataFile => "a compressed cluster is claimed in an external data file",
            Self::DataFileOffset => "a cluster of the data file does not lie at its guest offset",
            Self::ZeroInVersion2 => "a zero cluster is claimed in an image of version 2",
            Self::Frames => "its frames contradict each other, or are not all there (truncated?)",
            Self::Lost => "the file of the chain that would hold it is missing or unusable",
            Self::Encrypted => "the cluster is encrypted",
            Self::NoDataFile => "the cluster is in an external data file that is missing",
        })
    }
}

/// What one layer says about a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    /// Nothing: the layer below decides.
    Below,
    /// It reads as zeros.
    Zero,
    /// Its bytes are here.
    At(Slot),
    /// It cannot be read.
    Bad(Fault),
}

impl Word {
    /// The word of the byte that lies `by` bytes further on in the same extent.
    #[must_use]
    pub fn advance(self, by: u64) -> Self {
        match self {
            Self::At(slot) => Self::At(slot.advance(by)),
            other => other,
        }
    }
}

/// A range of guest bytes about which one layer says one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Guest bytes, never empty.
    pub range: Range<u64>,
    /// What the layer says; a slot is that of the first byte.
    pub word: Word,
}

/// The words of one layer for one range: ascending, contiguous, coalesced, never longer than the
/// range. Layers speak only through this builder.
#[derive(Debug)]
pub struct Words {
    range: Range<u64>,
    extents: Vec<Extent>,
    next: u64,
}

impl Words {
    /// An empty answer for `range`.
    pub fn new(range: Range<u64>) -> Self {
        Self { next: range.start, range, extents: Vec::new() }
    }

    /// The range that is asked for.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The first byte not yet spoken for.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether the whole range is spoken for.
    pub fn is_full(&self) -> bool {
        self.next >= self.range.end
    }

    /// Speaks for all bytes from [`Self::next`] up to `end`; what lies past the range is cut off.
    /// `word` is that of the byte at [`Self::next`].
    pub fn push_until(&mut self, end: u64, word: Word) {
        let end = end.min(self.range.end);
        if end <= self.next {
            return;
        }
        match self.extents.last_mut() {
            Some(last) if continues(last, word) => last.range.end = end,
            _ => self.extents.push(Extent { range: self.next..end, word }),
        }
        self.next = end;
    }

    /// What was said; what was not said is [`Word::Below`].
    pub fn finish(mut self) -> Vec<Extent> {
        self.push_until(self.range.end, Word::Below);
        self.extents
    }
}

/// Whether `word`, said of the byte after `last`, only goes on with what `last` says. Packed
/// extents never merge: a token stands for one cluster or frame.
fn continues(last: &Extent, word: Word) -> bool {
    match (last.word, word) {
        (Word::At(Slot::Packed(_)), _) | (_, Word::At(Slot::Packed(_))) => false,
        (before, now) => before.advance(last.range.end - last.range.start) == now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(at: u64) -> Word {
        Word::At(Slot::Host(HostOffset(at)))
    }

    #[test]
    fn what_goes_on_where_it_left_off_becomes_one_extent() {
        let mut words = Words::new(100..400);
        words.push_until(200, host(5000));
        words.push_until(300, host(5100));
        words.push_until(350, host(9000));
        assert_eq!(
            words.finish(),
            [
                Extent { range: 100..300, word: host(5000) },
                Extent { range: 300..350, word: host(9000) },
                Extent { range: 350..400, word: Word::Below },
            ]
        );
    }

    #[test]
    fn packed_extents_never_merge() {
        let mut words = Words::new(0..20);
        words.push_until(10, Word::At(Slot::Packed(7)));
        words.push_until(20, Word::At(Slot::Packed(7)));
        assert_eq!(words.finish().len(), 2);
    }

    #[test]
    fn nothing_is_said_past_the_range_or_twice() {
        let mut words = Words::new(0..10);
        words.push_until(50, Word::Zero);
        words.push_until(60, host(1));
        assert!(words.is_full());
        assert_eq!(words.finish(), [Extent { range: 0..10, word: Word::Zero }]);
    }
}
