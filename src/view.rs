//! A checkpoint as a disk: bytes, data and holes.

mod crew;
mod diff;
mod layout;
mod lost;
mod peek;
mod slice;
mod tally;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::error::Error;
use crate::extent::{Fault, GuestOffset, Slot};
use crate::map::{ChainMap, NodeId, Piece, Resolved};
use crate::source::{Hold, Source};
use crew::Crew;
pub use diff::{Difference, Side};
pub use layout::{Content, Part};
pub use lost::{Lost, LostRange};
pub use slice::Slice;
use tally::{Held, Tally};

/// Bytes that a search for data or a hole looks at first; it looks at twice as many each time, so
/// that a search costs what it passes over, and not what is left of the region.
const FIRST_LOOK: u64 = 256 << 10;

/// How often one search looks, on a disk too large for a tally, before it gives up: over 2 TiB in
/// the usual regions. A small file can claim far more than anybody could wait for.
const MOST_LOOKS: u32 = 1 << 16;

/// Bytes of the least block that `stat` can tell of.
const LEAST_ALLOCATED: u64 = 512;

/// One checkpoint of a chain, as its reader sees it.
pub struct DiskImage {
    map: Arc<ChainMap>,
    node: NodeId,
    size: u64,
    lost_reads: LostReads,
    tally: OnceLock<Arc<Tally>>,
}

/// What a reader gets for what is lost with a file of the chain, or in a damaged one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostReads {
    /// An error.
    Fail,
    /// Zeros, and holes. What cannot be read for another reason still fails.
    Zeros,
}

/// How many bytes of an image are data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocated {
    /// That many, or fewer.
    pub bytes: u64,
    /// Not fewer.
    pub exact: bool,
}

/// A read that failed somewhere.
#[derive(Debug)]
pub struct ReadError {
    /// Bytes of the buffer, from its start, that are right nevertheless.
    pub done: usize,
    /// What is wrong with the next one.
    pub error: Error,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} bytes: {}", self.done, self.error)
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Whether what has this fault is lost: what could just not be read is not.
pub fn is_lost(fault: Fault) -> bool {
    fault != Fault::Unreadable
}

impl DiskImage {
    /// The checkpoint whose topmost layer is `node`, as a disk of `size` bytes.
    pub fn new(map: Arc<ChainMap>, node: NodeId, size: u64) -> Self {
        Self { map, node, size, lost_reads: LostReads::Fail, tally: OnceLock::new() }
    }

    /// The same with other bytes for what is lost than an error.
    #[must_use]
    pub fn with_lost(self, lost_reads: LostReads) -> Self {
        Self { lost_reads, ..self }
    }

    /// Whether it is the same disk in the same map.
    pub fn is_same_disk(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.map, &other.map)
            && (self.node, self.size, self.lost_reads) == (other.node, other.size, other.lost_reads)
    }

    /// The same with what was found out about another disk, which has the same bytes from the same
    /// layers in another map.
    #[must_use]
    pub fn knowing_what_is_known_of(self, other: &Self) -> Self {
        let unit = |image: &Self| (image.map.region_size(), image.size, image.lost_reads);
        let known = other.tally.get().filter(|_| unit(&self) == unit(other));
        Self { tally: known.map_or_else(OnceLock::new, |known| Arc::clone(known).into()), ..self }
    }

    /// What readers get for what is lost.
    pub fn lost_reads(&self) -> LostReads {
        self.lost_reads
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Keeps all files of its chain open, as far as so many may be: whoever holds this reads their
    /// bytes also when they have lost their names.
    pub fn hold(&self) -> Vec<Hold> {
        let mut held = Vec::new();
        for node in self.map.line(self.node) {
            self.map.layer(node).hold(&mut held);
        }
        held
    }

    /// The file whose bytes these are, if they are no more than that.
    pub fn plain_file(&self) -> Option<&dyn Source> {
        let is_alone = self.map.line(self.node).nth(1).is_none();
        let file = self.map.layer(self.node).whole_file().filter(|_| is_alone);
        file.filter(|file| file.len() == self.size)
    }

    /// Fills `buf` from `offset` on and returns how many bytes that were: fewer than asked for
    /// only where the disk ends.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, ReadError> {
        let end = self.size.min(offset.saturating_add(buf.len() as u64));
        let mut rest = &mut *buf;
        let mut done = 0;
        let mut at = offset;
        while at < end {
            let region = self.region(at / self.map.region_size());
            let part = at..region.end.min(end);
            at = part.end;
            let pieces = self.pieces(part);
            let wanted = pieces.iter().map(to_len).sum::<usize>().min(rest.len());
            let (bytes, after) = rest.split_at_mut(wanted);
            self.read_pieces(&pieces, bytes).map_err(|ReadError { done: more, error }| {
                ReadError { done: done + more, error }
            })?;
            done += wanted;
            rest = after;
        }
        Ok(done)
    }

    /// The first byte of data at or after `offset`, as `lseek` has it: none if there is no data
    /// any more, or if the disk ends at `offset` or before. What cannot be read is data; so is, on
    /// a disk of many TiB, what a search of bounded length did not come to.
    pub fn seek_data(&self, offset: u64) -> Option<u64> {
        self.seek(offset, self.size, true)
    }

    /// The first byte of a hole at or after `offset`, as `lseek` has it: the end of the disk
    /// counts as one. None if the disk ends at `offset` or before.
    pub fn seek_hole(&self, offset: u64) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        self.seek(offset, self.size, false).or(Some(self.size))
    }

    /// How many bytes are data: cheap, and an estimate until every region was looked at.
    pub fn allocated(&self) -> Allocated {
        if let Some(bytes) = self.tally.get().and_then(|tally| tally.total()) {
            return Allocated { bytes, exact: true };
        }
        let bytes = self.map.allocated_at_most(self.node).min(self.size);
        if bytes > 0 {
            return Allocated { bytes, exact: false };
        }
        // Who is told that there is nothing does not read: that must be true, whatever the files'
        // metadata say.
        match self.seek_data(0) {
            None => Allocated { bytes: 0, exact: true },
            Some(_) => Allocated { bytes: LEAST_ALLOCATED, exact: false },
        }
    }

    /// How many bytes are data, in ranges that could not be looked at too: looks at every region.
    pub fn count_data(&self) -> u64 {
        let regions = 0..self.size.div_ceil(self.map.region_size());
        let data = |region| {
            let pieces = self.pieces(self.region(region));
            pieces.iter().filter(|piece| self.is_data(piece)).map(Piece::len).sum::<u64>()
        };
        regions.map(data).sum()
    }

    /// Nothing at or after `limit`, which lies within the disk, is found.
    fn seek(&self, offset: u64, limit: u64, for_data: bool) -> Option<u64> {
        let mut at = offset;
        let mut look = FIRST_LOOK;
        let mut looks = 0;
        while at < limit {
            let region = at / self.map.region_size();
            let end = self.region(region).end;
            match self.tally().and_then(|tally| tally.held(region)) {
                Some(Held::Holes) if for_data => at = end,
                Some(Held::Data) if !for_data => at = end,
                Some(Held::Holes | Held::Data) => return Some(at),
                _ if looks == MOST_LOOKS && self.tally().is_none() => {
                    return for_data.then_some(at);
                }
                _ => {
                    looks = looks.saturating_add(1);
                    let part = at..end.min(at.saturating_add(look));
                    at = part.end;
                    look = look.saturating_mul(2);
                    let pieces = self.pieces(part);
                    if let Some(found) = pieces.iter().find(|piece| self.is_data(piece) == for_data)
                    {
                        return Some(found.range.start).filter(|found| *found < limit);
                    }
                    if for_data && at == end {
                        at = self.skip_empty_regions(at);
                    }
                }
            }
        }
        None
    }

    /// The first region at or after `at`, the start of one, that may hold data: its first byte, or
    /// the end of the disk.
    fn skip_empty_regions(&self, at: u64) -> u64 {
        let next = self.map.empty_until(self.node, at).min(self.size);
        if next <= at {
            return at;
        }
        let size = self.map.region_size();
        let after = if next == self.size { next.div_ceil(size) } else { next / size };
        if let Some(tally) = self.tally() {
            for region in at / size..after {
                tally.note(region, Held::Holes, 0);
            }
        }
        after.saturating_mul(size).min(self.size).max(at)
    }

    /// The bytes of a region, cut at the end of the disk.
    fn region(&self, region: u64) -> Range<u64> {
        let start = region * self.map.region_size();
        start..start.saturating_add(self.map.region_size()).min(self.size)
    }

    /// What `part` is, which lies in one region. The first time that a region is looked at, all
    /// of it is, for the tally.
    fn pieces(&self, part: Range<u64>) -> Vec<Piece> {
        let region = part.start / self.map.region_size();
        match self.tally() {
            Some(tally) if tally.held(region).is_none() => {
                let pieces = self.map.resolve(self.node, self.region(region));
                self.note(tally, region, &pieces);
                pieces.iter().filter_map(|piece| piece.within(&part)).collect()
            }
            _ => self.map.resolve(self.node, part),
        }
    }

    /// None for a disk so large that nobody will ever have looked at all of it.
    fn tally(&self) -> Option<&Tally> {
        let regions = self.size.div_ceil(self.map.region_size());
        (regions <= Tally::MOST)
            .then(|| &**self.tally.get_or_init(|| Arc::new(Tally::new(regions))))
    }

    /// Fills `buf` with what `pieces` are, one after the other. Where several have to be unpacked,
    /// idle processors help.
    fn read_pieces(&self, pieces: &[Piece], buf: &mut [u8]) -> Result<(), ReadError> {
        let read = |(piece, bytes): (&Piece, &mut [u8])| self.read_piece(piece, bytes);
        let mut rest = buf;
        let jobs = pieces.iter().map(|piece| {
            let len = to_len(piece).min(rest.len());
            (piece, rest.split_off_mut(..len).unwrap_or_default())
        });
        let outcome = if pieces.iter().filter(|piece| is_packed(piece)).nth(1).is_some() {
            Crew::shared().run(jobs.collect(), read)
        } else {
            let mut jobs = jobs.enumerate();
            jobs.try_for_each(|(number, job)| read(job).map_err(|error| (number, error)))
        };
        outcome.map_err(|(number, error)| {
            let done = pieces.iter().take(number).map(to_len).sum();
            ReadError { done, error }
        })
    }

    fn read_piece(&self, piece: &Piece, buf: &mut [u8]) -> Result<(), Error> {
        match piece.resolved {
            Resolved::Zero => {
                buf.fill(0);
                Ok(())
            }
            Resolved::At { layer, slot } => {
                self.map.layer(layer).read(slot, GuestOffset(piece.range.start), buf)
            }
            Resolved::Bad { fault, .. } if self.reads_as_zeros(fault) => {
                buf.fill(0);
                Ok(())
            }
            Resolved::Bad { layer, fault } => Err(self.describe(layer, fault, piece.range.start)),
        }
    }

    fn describe(&self, layer: NodeId, fault: Fault, offset: u64) -> Error {
        let file = self.map.layer(layer).path().to_path_buf();
        let what = format!("(of its virtual disk) {fault}");
        match fault {
            Fault::Unreadable => Error::io_at(file, offset, io::Error::other(what)),
            Fault::Lost | Fault::Encrypted | Fault::NoDataFile => {
                let what = format!("byte {offset} of its virtual disk is lost: {fault}");
                Error::MissingLayer { file, what }
            }
            _ => Error::Corrupt { file, offset, what },
        }
    }

    /// Whether there is something other than zeros for a reader, or an error.
    fn is_data(&self, piece: &Piece) -> bool {
        match piece.resolved {
            Resolved::Bad { fault, .. } => !self.reads_as_zeros(fault),
            Resolved::Zero | Resolved::At { .. } => piece.is_data(),
        }
    }

    fn reads_as_zeros(&self, fault: Fault) -> bool {
        self.lost_reads == LostReads::Zeros && is_lost(fault)
    }

    /// Notes what a region was found to hold, unless some of it could not be looked at.
    fn note(&self, tally: &Tally, region: u64, pieces: &[Piece]) {
        let unreadable = |piece: &Piece| {
            matches!(piece.resolved, Resolved::Bad { fault: Fault::Unreadable, .. })
        };
        if pieces.iter().any(unreadable) {
            return;
        }
        let bytes = |is_data| {
            let those = pieces.iter().filter(|piece| self.is_data(piece) == is_data);
            those.map(Piece::len).sum::<u64>()
        };
        let (data, holes) = (bytes(true), bytes(false));
        let held = match (data, holes) {
            (0, _) => Held::Holes,
            (_, 0) => Held::Data,
            _ => Held::Mixed,
        };
        tally.note(region, held, data);
    }
}

fn to_len(piece: &Piece) -> usize {
    usize::try_from(piece.len()).unwrap_or(usize::MAX)
}

/// Whether reading the piece takes computing.
fn is_packed(piece: &Piece) -> bool {
    matches!(piece.resolved, Resolved::At { slot: Slot::Packed(_), .. })
}
