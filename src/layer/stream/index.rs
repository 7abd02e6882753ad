//! What the frames of a stream say, kept compactly: 24 bytes for each range.

use std::ops::Range;

use super::build::{self, Walked};
use super::failure::Failure;
use super::has_end;
use super::meta::StreamMeta;
use crate::error::{Defect, Result};
use crate::extent::{Fault, HostOffset, Slot, Word, Words};
use crate::source::Source;

/// The most unpacked bytes of a chunk: twice what the tool makes of them.
pub(super) const LARGEST_CHUNK: u64 = 64 << 20;

/// All ranges of the disk that the frames of one stream speak for, in ascending order and without
/// overlap.
#[derive(Debug)]
pub struct Index {
    entries: Vec<Entry>,
    flaws: Vec<Defect>,
    /// From this byte of the disk on nothing is known, for the stream is cut.
    lost_from: Option<u64>,
}

/// A packed piece of a payload: one lz4 frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// What a slot of this chunk holds ([`Slot::Packed`]).
    pub token: u64,
    /// First byte of the disk.
    pub guest: u64,
    /// Bytes of the disk.
    pub len: u32,
    /// Where in the file it is.
    pub at: u64,
    /// Bytes in the file.
    pub packed: u32,
}

/// A range and where its bytes are.
#[derive(Debug, Clone, Copy)]
struct Entry {
    guest: u64,
    at: u64,
    /// Two bits of tag; the length, or 31 bits of packed and 31 bits of unpacked length.
    size: u64,
}

/// What is to become an entry.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Zero,
    Host { at: u64 },
    Packed { at: u64, packed: u32 },
}

const TAG_SHIFT: u32 = 62;
const ZERO: u64 = 0;
const HOST: u64 = 1;
const PACKED: u64 = 2;
const LOW_62: u64 = (1 << TAG_SHIFT) - 1;
const LOW_31: u64 = (1 << 31) - 1;

impl Entry {
    fn new(guest: u64, len: u64, place: Place) -> Self {
        let (tag, at, size) = match place {
            Place::Zero => (ZERO, 0, len),
            Place::Host { at } => (HOST, at, len),
            Place::Packed { at, packed } => (PACKED, at, u64::from(packed) << 31 | (len & LOW_31)),
        };
        Self { guest, at, size: tag << TAG_SHIFT | size }
    }

    fn tag(self) -> u64 {
        self.size >> TAG_SHIFT
    }

    fn len(self) -> u64 {
        self.size & if self.tag() == PACKED { LOW_31 } else { LOW_62 }
    }

    fn end(self) -> u64 {
        self.guest + self.len()
    }

    /// What is said of the byte that lies `by` bytes further on.
    fn word(self, token: usize, by: u64) -> Word {
        match self.tag() {
            ZERO => Word::Zero,
            HOST => Word::At(Slot::Host(HostOffset(self.at + by))),
            _ => Word::At(Slot::Packed(token as u64)),
        }
    }

    fn chunk(self, token: usize) -> Option<Chunk> {
        let part = |bits: u64| u32::try_from(bits & LOW_31).ok();
        let (len, packed) = (part(self.size)?, part(self.size >> 31)?);
        let Self { guest, at, .. } = self;
        (self.tag() == PACKED).then_some(Chunk { token: token as u64, guest, len, at, packed })
    }
}

impl Index {
    /// Reads the headers of all frames of `file`, and of a compressed stream the trailer.
    ///
    /// # Errors
    ///
    /// [`crate::error::Error::Corrupt`] for frames that contradict each other, the metadata or the
    /// file; see the module's text for why there is no index then.
    pub fn build(file: &dyn Source, meta: &StreamMeta) -> Result<Self> {
        Self::try_build(file, meta).map_err(|failure| failure.in_file(file.path()))
    }

    pub(super) fn try_build(file: &dyn Source, meta: &StreamMeta) -> Result<Self, Failure> {
        match build::build(file, meta)? {
            Walked { defect: Some(defect), .. } => Err(defect.into()),
            Walked { index, .. } => Ok(index),
        }
    }

    /// [`Self::build`], or of a stream that is cut all that stands before the cut. What was found
    /// there is the last of [`Self::flaws`].
    ///
    /// A stream that has its end and contradicts itself on the way there is none that was cut: it
    /// may be any frame that is wrong, also one that looks right.
    pub(super) fn salvage(file: &dyn Source, meta: &StreamMeta) -> Result<Self, Failure> {
        let Walked { mut index, defect } = build::build(file, meta)?;
        match defect {
            Some(defect) if has_end(file)? => return Err(defect.into()),
            cut => index.flaws.extend(cut),
        }
        Ok(index)
    }

    /// The byte of the disk from which on nothing is known, for the stream is cut.
    pub fn lost_from(&self) -> Option<u64> {
        self.lost_from
    }

    /// What is wrong with the stream although all of it can be read.
    pub fn flaws(&self) -> &[Defect] {
        &self.flaws
    }

    /// Bytes of the disk that are in the stream.
    pub fn data_size(&self) -> u64 {
        let data = self.entries.iter().filter(|entry| entry.tag() != ZERO);
        data.map(|entry| entry.len()).sum()
    }

    /// Ranges that are kept: one for each uncompressed data frame, each row of zero frames, each
    /// chunk.
    pub fn ranges(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    /// All packed chunks.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> {
        let entries = self.entries.iter().enumerate();
        entries.filter_map(|(token, entry)| entry.chunk(token))
    }

    /// The chunk of a [`Slot::Packed`].
    pub fn chunk(&self, token: u64) -> Option<Chunk> {
        let token = usize::try_from(token).ok()?;
        self.entries.get(token)?.chunk(token)
    }

    /// A byte at or after `offset` before which there are no bytes in the stream.
    pub(super) fn empty_until(&self, offset: u64) -> u64 {
        let first = self.entries.partition_point(|entry| entry.end() <= offset);
        let data = self.entries.get(first..).unwrap_or_default();
        let data = data.iter().find(|entry| entry.tag() != ZERO).map(|entry| entry.guest);
        let next = data.into_iter().chain(self.lost_from).min().unwrap_or(u64::MAX);
        next.max(offset)
    }

    /// Speaks for the bytes up to `end`; `gap` is what is said of those that no frame covers.
    pub(super) fn say(&self, words: &mut Words, end: u64, gap: Word) {
        self.say_known(words, end.min(self.lost_from.unwrap_or(end)), gap);
        words.push_until(end, Word::Bad(Fault::Frames));
    }

    fn say_known(&self, words: &mut Words, end: u64, gap: Word) {
        let first = self.entries.partition_point(|entry| entry.end() <= words.next());
        for (token, entry) in self.entries.iter().enumerate().skip(first) {
            if entry.guest >= end {
                break;
            }
            words.push_until(entry.guest, gap);
            let by = words.next() - entry.guest;
            words.push_until(entry.end().min(end), entry.word(token, by));
        }
        words.push_until(end, gap);
    }
}

/// Gathers ranges as the frames come.
#[derive(Debug, Default)]
pub(super) struct IndexBuilder {
    entries: Vec<Entry>,
    end: u64,
    data: u64,
    left_out: u64,
    first_left_out: u64,
}

impl IndexBuilder {
    /// The first byte after all ranges so far.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes of data so far.
    pub(super) fn data(&self) -> u64 {
        self.data
    }

    /// A range that does not begin before [`Self::end`], not empty, on a disk of at most 2^62
    /// bytes; packed ones of at most [`LARGEST_CHUNK`].
    pub(super) fn push(&mut self, range: Range<u64>, place: Place) {
        let len = range.end - range.start;
        self.leave_out_until(range.start);
        self.end = range.end;
        if !matches!(place, Place::Zero) {
            self.data += len;
        } else if let Some(last) = self.entries.last_mut()
            && last.tag() == ZERO
            && last.end() == range.start
        {
            *last = Entry::new(last.guest, range.end - last.guest, Place::Zero);
            return;
        }
        self.entries.push(Entry::new(range.start, len, place));
    }

    fn leave_out_until(&mut self, next: u64) {
        if next > self.end {
            if self.left_out == 0 {
                self.first_left_out = self.end;
            }
            self.left_out += next - self.end;
        }
    }

    /// How many bytes of the disk no frame covers, and which is the first of them.
    pub(super) fn left_out(&mut self, disk: u64) -> Option<(u64, u64)> {
        self.leave_out_until(disk);
        (self.left_out > 0).then_some((self.left_out, self.first_left_out))
    }

    /// What there is before the next data frame.
    pub(super) fn mark(&self) -> Mark {
        Mark { entries: self.entries.len(), end: self.end }
    }

    /// Forgets the data frame that came after `mark`.
    pub(super) fn take_back(&mut self, mark: Mark) {
        self.entries.truncate(mark.entries);
        self.end = mark.end;
    }

    /// `is_cut`: the frames that follow are not known.
    pub(super) fn finish(self, flaws: Vec<Defect>, is_cut: bool) -> Index {
        let mut entries = self.entries;
        entries.shrink_to_fit();
        Index { entries, flaws, lost_from: is_cut.then_some(self.end) }
    }
}

/// A place to go back to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    entries: usize,
    end: u64,
}

/// The most bytes that an lz4 frame of `len` unpacked bytes takes: every block stored as it is, in
/// the smallest blocks, with all checksums.
pub(super) fn most_packed(len: u64) -> u64 {
    const BLOCK: u64 = 64 << 10;
    let around = crate::codec::lz4::LONGEST_HEADER as u64 + 8;
    len + 8 * len.div_ceil(BLOCK) + around
}

/// The unpacked sizes of the chunks of one payload of `len` bytes. `known` are those that the lz4
/// frames give; where one does not, or its header is damaged, it has what the tool puts into a
/// chunk, and the last such has the rest. `None` if no such sizes add up to `len`.
pub(super) fn chunk_sizes(len: u64, known: &[Option<u64>]) -> Option<Vec<u32>> {
    const USUAL_CHUNK: u64 = 32 << 20;
    let given = known.iter().flatten().try_fold(0_u64, |sum, size| sum.checked_add(*size))?;
    let mut rest = len.checked_sub(given)?;
    let mut unknown = known.iter().filter(|size| size.is_none()).count();
    let mut sizes = Vec::with_capacity(known.len());
    for size in known {
        let size = if let Some(size) = size {
            *size
        } else {
            unknown -= 1;
            let size = if unknown == 0 { rest } else { USUAL_CHUNK };
            rest = rest.checked_sub(size)?;
            size
        };
        let fits = size > 0 && size <= LARGEST_CHUNK;
        sizes.push(u32::try_from(size).ok().filter(|_| fits)?);
    }
    (rest == 0).then_some(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::Extent;

    #[test]
    fn an_entry_takes_24_bytes() {
        assert_eq!(size_of::<Entry>(), 24);
    }

    fn index(ranges: &[(Range<u64>, Place)]) -> Index {
        let mut builder = IndexBuilder::default();
        for (range, place) in ranges {
            builder.push(range.clone(), *place);
        }
        builder.finish(Vec::new(), false)
    }

    fn words(index: &Index, range: Range<u64>, gap: Word) -> Vec<Extent> {
        let end = range.end;
        let mut words = Words::new(range);
        index.say(&mut words, end, gap);
        words.finish()
    }

    fn says(range: Range<u64>, word: Word) -> Extent {
        Extent { range, word }
    }

    fn host(at: u64) -> Word {
        Word::At(Slot::Host(HostOffset(at)))
    }

    #[test]
    fn every_place_comes_back_as_it_was() {
        let chunk = Place::Packed { at: 1 << 61, packed: u32::MAX >> 1 };
        let most = LARGEST_CHUNK;
        let index = index(&[
            (0..1 << 61, Place::Host { at: 7 }),
            (1 << 61..(1 << 61) + most, chunk),
            ((1 << 61) + most..1 << 62, Place::Zero),
        ]);
        let end = 1 << 62;
        assert_eq!(
            words(&index, 5..end, Word::Below),
            [
                says(5..1 << 61, host(12)),
                says(1 << 61..(1 << 61) + most, Word::At(Slot::Packed(1))),
                says((1 << 61) + most..end, Word::Zero),
            ]
        );
        let chunk = Chunk {
            token: 1,
            guest: 1 << 61,
            len: u32::try_from(most).unwrap(),
            at: 1 << 61,
            packed: u32::MAX >> 1,
        };
        assert_eq!(index.chunk(1), Some(chunk));
        assert_eq!(index.chunks().collect::<Vec<_>>(), [chunk]);
        assert_eq!((index.chunk(0), index.chunk(2), index.chunk(3)), (None, None, None));
        assert_eq!(index.data_size(), (1 << 61) + most);
    }

    #[test]
    fn a_range_may_begin_and_end_anywhere() {
        let index = index(&[
            (10..20, Place::Host { at: 100 }),
            (20..30, Place::Packed { at: 200, packed: 15 }),
            (50..60, Place::Zero),
        ]);
        for gap in [Word::Below, Word::Zero] {
            let packed = Word::At(Slot::Packed(1));
            assert_eq!(words(&index, 0..5, gap), [says(0..5, gap)]);
            assert_eq!(words(&index, 15..22, gap), [says(15..20, host(105)), says(20..22, packed)]);
            assert_eq!(words(&index, 29..40, gap), [says(29..30, packed), says(30..40, gap)]);
            assert_eq!(words(&index, 60..90, gap), [says(60..90, gap)]);
        }
        let zero = [says(40..50, Word::Below), says(50..60, Word::Zero), says(60..70, Word::Below)];
        assert_eq!(words(&index, 40..70, Word::Below), zero);
    }

    #[test]
    fn rows_of_zero_frames_are_one_range() {
        let index = index(&[
            (0..10, Place::Zero),
            (10..30, Place::Zero),
            (40..50, Place::Zero),
            (50..60, Place::Host { at: 9 }),
        ]);
        assert_eq!(index.ranges(), 3);
        assert_eq!(
            words(&index, 0..60, Word::Below),
            [
                says(0..30, Word::Zero),
                says(30..40, Word::Below),
                says(40..50, Word::Zero),
                says(50..60, host(9)),
            ]
        );
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let mut builder = IndexBuilder::default();
        builder.push(0..10, Place::Zero);
        assert_eq!(builder.left_out(10), None);
        builder.push(15..20, Place::Zero);
        builder.push(30..40, Place::Host { at: 1 });
        assert_eq!(builder.left_out(41), Some((16, 10)));
    }

    #[test]
    fn sizes_of_chunks_add_up_to_the_payload() {
        const MIB: u64 = 1 << 20;
        let mib = |sizes: &[u32]| Some(sizes.iter().map(|size| size << 20).collect::<Vec<_>>());
        assert_eq!(chunk_sizes(70 * MIB, &[None, None, None]), mib(&[32, 32, 6]));
        assert_eq!(
            chunk_sizes(70 * MIB, &[Some(32 * MIB), None, Some(6 * MIB)]),
            mib(&[32, 32, 6])
        );
        assert_eq!(
            chunk_sizes(70 * MIB, &[None, Some(32 * MIB), Some(6 * MIB)]),
            mib(&[32, 32, 6])
        );
        assert_eq!(chunk_sizes(9 * MIB, &[Some(4 * MIB), Some(5 * MIB)]), mib(&[4, 5]));
        assert_eq!(chunk_sizes(9 * MIB, &[None]), mib(&[9]));
        for (len, known) in [
            (9 * MIB, &[Some(4 * MIB)][..]),
            (9 * MIB, &[Some(10 * MIB)]),
            (9 * MIB, &[Some(9 * MIB), None]),
            (64 * MIB, &[None, None, None]),
            (70 * MIB, &[None]),
            (9 * MIB, &[Some(9 * MIB), Some(0)]),
            (1, &[Some(u64::MAX), Some(2)]),
        ] {
            assert_eq!(chunk_sizes(len, known), None, "{len} {known:?}");
        }
    }
}
