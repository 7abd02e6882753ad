//! A layer in memory: the smallest [`Layer`], for tests and benchmarks of what lies above.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Layer, USUAL_GRANULARITY};
use crate::error::{Error, Result};
use crate::extent::{Extent, Fault, GuestOffset, HostOffset, Slot, Word, Words};

/// Extents and the bytes of a data file in memory.
///
/// A packed extent's token is the offset in the data file of what the whole extent unpacks to, so
/// that a read which mixes up extents gets wrong bytes.
#[derive(Debug)]
pub struct MemoryLayer {
    path: PathBuf,
    size: u64,
    granularity: u64,
    extents: Vec<Extent>,
    bytes: Vec<u8>,
    unreadable: AtomicBool,
    asked: AtomicU64,
}

/// Extents that are empty, overlap, or are not ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disordered;

impl fmt::Display for Disordered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the extents of a layer must be ascending, without overlap, and not empty")
    }
}

impl std::error::Error for Disordered {}

impl MemoryLayer {
    /// A layer of `size` virtual bytes that says `extents`, and nothing between them. Slots are
    /// offsets in `bytes`.
    pub fn new(
        path: impl Into<PathBuf>,
        size: u64,
        extents: &[Extent],
        bytes: Vec<u8>,
    ) -> Result<Self, Disordered> {
        let mut words = Words::new(0..extents.last().map_or(0, |last| last.range.end));
        for extent in extents {
            if extent.range.start < words.next() || extent.range.is_empty() {
                return Err(Disordered);
            }
            words.push_until(extent.range.start, Word::Below);
            words.push_until(extent.range.end, extent.word);
        }
        let mut extents = words.finish();
        extents.retain(|extent| extent.word != Word::Below);
        Ok(Self {
            path: path.into(),
            size,
            granularity: USUAL_GRANULARITY,
            extents,
            bytes,
            unreadable: AtomicBool::new(false),
            asked: AtomicU64::new(0),
        })
    }

    /// The same layer with another [`Layer::granularity`] than 64 KiB.
    #[must_use]
    pub fn with_granularity(self, granularity: u64) -> Self {
        Self { granularity, ..self }
    }

    /// From now on the tables of this layer can be read, or not.
    pub fn set_unreadable(&self, unreadable: bool) {
        self.unreadable.store(unreadable, Ordering::SeqCst);
    }

    /// How often this layer was asked for its words.
    pub fn times_asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// The extent that holds the byte at `guest`.
    fn extent_at(&self, guest: u64) -> Option<&Extent> {
        let next = self.extents.partition_point(|extent| extent.range.end <= guest);
        self.extents.get(next).filter(|extent| extent.range.contains(&guest))
    }

    /// Where in the data file the bytes of `slot` are, if `guest` and the `len` bytes from there
    /// on lie in the extent of that slot.
    fn locate(&self, slot: Slot, guest: u64, len: u64) -> Option<usize> {
        let extent = self.extent_at(guest)?;
        let by = guest - extent.range.start;
        let fits = guest.checked_add(len)? <= extent.range.end;
        let Word::At(first) = extent.word else { return None };
        if !fits || first.advance(by) != slot {
            return None;
        }
        let at = match slot {
            Slot::Host(HostOffset(at)) => at,
            Slot::Packed(token) => token.checked_add(by)?,
        };
        usize::try_from(at).ok()
    }
}

impl Layer for MemoryLayer {
    fn path(&self) -> &Path {
        &self.path
    }

    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn granularity(&self) -> u64 {
        self.granularity
    }

    fn words(&self, words: &mut Words) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let range = words.range();
        if self.unreadable.load(Ordering::SeqCst) {
            return words.push_until(range.end, Word::Bad(Fault::Unreadable));
        }
        let first = self.extents.partition_point(|extent| extent.range.end <= range.start);
        for extent in self.extents.iter().skip(first) {
            if extent.range.start >= range.end {
                break;
            }
            words.push_until(extent.range.start, Word::Below);
            let by = words.next() - extent.range.start;
            let word = match extent.word {
                Word::At(slot) => Word::At(slot.advance(by)),
                other => other,
            };
            words.push_until(extent.range.end, word);
        }
    }

    fn empty_until(&self, offset: u64) -> u64 {
        if self.unreadable.load(Ordering::SeqCst) {
            return offset;
        }
        let first = self.extents.partition_point(|extent| extent.range.end <= offset);
        let says = |extent: &&Extent| !matches!(extent.word, Word::Below | Word::Zero);
        let next = self.extents.get(first..).unwrap_or_default().iter().find(says);
        next.map_or(u64::MAX, |extent| extent.range.start.max(offset))
    }

    fn read(&self, slot: Slot, guest: GuestOffset, buf: &mut [u8]) -> Result<()> {
        let at = self.locate(slot, guest.0, buf.len() as u64);
        let bytes = at.and_then(|at| self.bytes.get(at..)?.get(..buf.len()));
        let Some(bytes) = bytes else {
            let what = format!("{} bytes at {slot:?} are not one extent's", buf.len());
            return Err(Error::Corrupt { file: self.path.clone(), offset: guest.0, what });
        };
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn allocated_at_most(&self) -> u64 {
        let is_data = |extent: &&Extent| matches!(extent.word, Word::At(_) | Word::Bad(_));
        let data = self.extents.iter().filter(is_data);
        data.map(|extent| extent.range.end - extent.range.start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer() -> MemoryLayer {
        let host = Word::At(Slot::Host(HostOffset(1)));
        let extents = [
            Extent { range: 10..14, word: host },
            Extent { range: 14..20, word: Word::At(Slot::Packed(0)) },
        ];
        MemoryLayer::new("a", 30, &extents, (0..8).collect()).unwrap()
    }

    #[test]
    fn words_are_cut_to_the_range_that_is_asked_for() {
        let mut words = Words::new(12..16);
        layer().words(&mut words);
        let host = Word::At(Slot::Host(HostOffset(3)));
        assert_eq!(
            words.finish(),
            [
                Extent { range: 12..14, word: host },
                Extent { range: 14..16, word: Word::At(Slot::Packed(0)) },
            ]
        );
    }

    #[test]
    fn a_read_across_two_extents_or_of_the_wrong_slot_is_an_error() {
        let layer = layer();
        let mut buf = [0; 3];
        layer.read(Slot::Host(HostOffset(2)), GuestOffset(11), &mut buf).unwrap();
        assert_eq!(buf, [2, 3, 4]);
        layer.read(Slot::Packed(0), GuestOffset(15), &mut buf).unwrap();
        assert_eq!(buf, [1, 2, 3]);
        assert!(layer.read(Slot::Host(HostOffset(3)), GuestOffset(12), &mut buf).is_err());
        assert!(layer.read(Slot::Host(HostOffset(3)), GuestOffset(11), &mut buf).is_err());
    }

    #[test]
    fn extents_that_overlap_are_refused() {
        let extents =
            [Extent { range: 0..2, word: Word::Zero }, Extent { range: 1..3, word: Word::Zero }];
        assert_eq!(MemoryLayer::new("a", 3, &extents, Vec::new()).unwrap_err(), Disordered);
    }
}
