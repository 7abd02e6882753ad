//! A raw image as a layer: its bytes are the disk's.
//!
//! What a hole means depends on the file's role. In a full image it is zeros. In a raw increment
//! (qmpbackup) it means "unchanged", while zeros are an extent that is reserved but unwritten.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use log::Level;

use super::{Layer, Reserved};
use crate::error::{Error, Result};
use crate::extent::{Fault, GuestOffset, HostOffset, Slot, Word, Words};
use crate::fault_log;
use crate::source::{Allocation, AllocationState, Hold, Source};

/// A raw image: a whole disk, or an increment.
#[derive(Debug)]
pub struct RawLayer {
    file: Arc<dyn Source>,
    hole: Word,
}

impl RawLayer {
    /// A whole disk: its holes are zeros, and nothing below it counts.
    pub fn full(file: Arc<dyn Source>) -> Self {
        Self { file, hole: Word::Zero }
    }

    /// An increment: what its holes would hold is in the layer below.
    pub fn increment(file: Arc<dyn Source>) -> Self {
        Self { file, hole: Word::Below }
    }

    fn word(&self, state: AllocationState, at: u64) -> Word {
        match state {
            AllocationState::Hole => self.hole,
            AllocationState::Unwritten => Word::Zero,
            AllocationState::Data => Word::At(Slot::Host(HostOffset(at))),
        }
    }
}

impl Layer for RawLayer {
    fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file's length. QEMU pads a length that is no multiple of 512; nothing is added here.
    fn virtual_size(&self) -> u64 {
        self.file.len()
    }

    fn hold(&self, held: &mut Vec<Hold>) {
        held.extend(self.file.hold());
    }

    fn words(&self, words: &mut Words) {
        let end = words.range().end.min(self.file.len());
        let range = words.next()..end;
        if range.is_empty() {
            return;
        }
        match self.file.allocation(range) {
            Ok(allocations) => {
                for Allocation { range, state } in allocations {
                    // A gap in the answer is a hole, as it is for the file system.
                    words.push_until(range.start.min(end), self.hole);
                    let word = self.word(state, words.next());
                    words.push_until(range.end.min(end), word);
                }
                words.push_until(end, self.hole);
            }
            Err(e) => {
                if fault_log::admits(Level::Error, self.file.path()) {
                    log::error!("what the file holds between its holes cannot be found out: {e}");
                }
                words.push_until(end, Word::Bad(Fault::Unreadable));
            }
        }
    }

    fn empty_until(&self, offset: u64) -> u64 {
        self.file.next_data(offset).unwrap_or(offset)
    }

    fn read(&self, slot: Slot, _: GuestOffset, buf: &mut [u8]) -> Result<()> {
        match slot {
            Slot::Host(HostOffset(at)) => self.file.read_padded(at, buf),
            Slot::Packed(token) => Err(Error::Corrupt {
                file: self.file.path().to_path_buf(),
                offset: 0,
                what: format!("a raw image has no packed cluster {token:#x}"),
            }),
        }
    }

    fn whole_file(&self) -> Option<&dyn Source> {
        (self.hole == Word::Zero).then_some(self.file.as_ref())
    }

    fn plain_file(&self) -> Option<&Arc<dyn Source>> {
        Some(&self.file)
    }

    /// Every byte has its place in the file, be it a hole.
    fn reserved(&self, range: Range<u64>) -> Vec<Reserved> {
        let range = range.start..range.end.min(self.file.len());
        let at = HostOffset(range.start);
        if range.is_empty() { Vec::new() } else { vec![Reserved { range, at }] }
    }

    /// What the file occupies: a file is never mapped where it occupies nothing.
    fn allocated_at_most(&self) -> u64 {
        self.file.allocated().min(self.file.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::ops::Range;
    use std::path::Path;

    use super::*;
    use crate::extent::Extent;

    /// A file of 1000 bytes: a hole, data, an unwritten extent, data up to the end.
    #[derive(Debug)]
    struct Sparse {
        fails: bool,
    }

    impl Source for Sparse {
        fn path(&self) -> &Path {
            Path::new("disk.raw")
        }

        fn len(&self) -> u64 {
            1000
        }

        fn allocated(&self) -> u64 {
            4096
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
            let len = buf.len().min(usize::try_from(1000 - offset).unwrap());
            buf[..len].fill(7);
            Ok(len)
        }

        fn allocation(&self, range: Range<u64>) -> Result<Vec<Allocation>> {
            if self.fails {
                return Err(Error::io(self.path(), io::Error::other("no")));
            }
            let states = [
                (0..100, AllocationState::Hole),
                (100..300, AllocationState::Data),
                (300..600, AllocationState::Unwritten),
                (600..1000, AllocationState::Data),
            ];
            Ok(states
                .into_iter()
                .map(|(r, state)| (r.start.max(range.start)..r.end.min(range.end), state))
                .filter(|(range, _)| !range.is_empty())
                .map(|(range, state)| Allocation { range, state })
                .collect())
        }

        fn knows_unwritten(&self) -> bool {
            true
        }
    }

    fn words(layer: &RawLayer, range: Range<u64>) -> Vec<Extent> {
        let mut words = Words::new(range);
        layer.words(&mut words);
        words.finish()
    }

    fn at(range: Range<u64>) -> Extent {
        Extent { word: Word::At(Slot::Host(HostOffset(range.start))), range }
    }

    fn says(range: Range<u64>, word: Word) -> Extent {
        Extent { range, word }
    }

    #[test]
    fn holes_of_a_full_image_are_zeros() {
        let layer = RawLayer::full(Arc::new(Sparse { fails: false }));
        assert_eq!(
            words(&layer, 0..1000),
            [says(0..100, Word::Zero), at(100..300), says(300..600, Word::Zero), at(600..1000)]
        );
    }

    #[test]
    fn holes_of_an_increment_are_below_and_unwritten_extents_are_zeros() {
        let layer = RawLayer::increment(Arc::new(Sparse { fails: false }));
        assert_eq!(
            words(&layer, 50..700),
            [says(50..100, Word::Below), at(100..300), says(300..600, Word::Zero), at(600..700)]
        );
    }

    #[test]
    fn nothing_is_said_past_the_end_of_the_file() {
        let layer = RawLayer::full(Arc::new(Sparse { fails: false }));
        assert_eq!(words(&layer, 900..2000), [at(900..1000), says(1000..2000, Word::Below)]);
        assert_eq!(words(&layer, 1000..2000), [says(1000..2000, Word::Below)]);
    }

    #[test]
    fn a_file_system_that_gives_no_answer_makes_the_range_unreadable() {
        let layer = RawLayer::increment(Arc::new(Sparse { fails: true }));
        assert_eq!(words(&layer, 0..1000), [says(0..1000, Word::Bad(Fault::Unreadable))]);
    }

    #[test]
    fn bytes_past_the_end_of_the_file_read_as_zeros() {
        let layer = RawLayer::full(Arc::new(Sparse { fails: false }));
        let mut buf = [1; 4];
        layer.read(Slot::Host(HostOffset(998)), GuestOffset(998), &mut buf).unwrap();
        assert_eq!(buf, [7, 7, 0, 0]);
        assert!(layer.read(Slot::Packed(1), GuestOffset(0), &mut buf).is_err());
    }

    #[test]
    fn no_more_is_allocated_than_the_disk_has() {
        assert_eq!(RawLayer::full(Arc::new(Sparse { fails: false })).allocated_at_most(), 1000);
    }
}
