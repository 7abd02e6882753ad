//! Where two disks differ: by their maps alone, or by their bytes.

use std::ops::Range;
use std::sync::Arc;

use super::{DiskImage, ReadError};
use crate::map::{Piece, Resolved};
use crate::page_buffer::PageBuffer;

/// The unit of a disk that is the same or is not.
const SECTOR: u64 = 512;
/// Bytes that are compared at a time.
const BUFFER: u64 = 256 << 10;

/// A range, never empty, of which two disks have different things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Bytes of the disks.
    pub range: Range<u64>,
    /// What the first one has there.
    pub a: Side,
    /// What the other one has.
    pub b: Side,
}

/// What one of two disks has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Bytes.
    Data,
    /// Zeros.
    Zero,
    /// Something that is lost, or cannot be read just now.
    Lost,
    /// Nothing: the disk ends before.
    Nothing,
}

impl Difference {
    fn join(self, list: &mut Vec<Self>) {
        match list.last_mut() {
            Some(last)
                if last.range.end == self.range.start && (last.a, last.b) == (self.a, self.b) =>
            {
                last.range.end = self.range.end;
            }
            _ => list.push(self),
        }
    }
}

impl DiskImage {
    /// Whether both stand on files of one tree of backups.
    pub fn is_of_one_chain_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.map, &other.map)
    }

    /// The ranges of which `other` has bytes from elsewhere: ascending. No byte is read, so that what
    /// was written anew with the same bytes is among them. No other byte differs.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        let common = self.size.min(other.size);
        let mut at = 0;
        while at < common {
            // Where both are empty for long, nothing is looked at.
            let empty = self.empty_until(at).min(other.empty_until(at)).min(common);
            if empty > at {
                at = empty;
                continue;
            }
            let end = |image: &Self| image.region(at / image.map.region_size()).end;
            let end = end(self).min(end(other)).min(common);
            self.compare(other, at..end, &mut found);
            at = end;
        }
        for (image, end) in [(self, self.size), (other, other.size)] {
            let mut at = common;
            while at < end {
                let part = at..image.region(at / image.map.region_size()).end.min(end);
                at = part.end;
                for piece in image.pieces(part) {
                    let (mine, none) = (side(&piece), Side::Nothing);
                    let (a, b) = if end == self.size { (mine, none) } else { (none, mine) };
                    Difference { range: piece.range, a, b }.join(&mut found);
                }
            }
        }
        found
    }

    /// Compares a range that lies in one region of each.
    fn compare(&self, other: &Self, range: Range<u64>, found: &mut Vec<Difference>) {
        let (ours, theirs) = (self.pieces(range.clone()), other.pieces(range.clone()));
        let (mut ours, mut theirs) = (ours.iter().peekable(), theirs.iter().peekable());
        let mut at = range.start;
        while let (Some(a), Some(b)) = (ours.peek(), theirs.peek()) {
            let part = at..a.range.end.min(b.range.end);
            at = part.end;
            if let (Some(one), Some(two)) = (a.within(&part), b.within(&part))
                && !self.is_same(&one, other, &two)
            {
                Difference { range: part, a: side(&one), b: side(&two) }.join(found);
            }
            let (a_ends, b_ends) = (a.range.end == at, b.range.end == at);
            if a_ends {
                ours.next();
            }
            if b_ends {
                theirs.next();
            }
        }
    }

    /// Whether two pieces of the same range are the same bytes of the same file.
    fn is_same(&self, one: &Piece, other: &Self, two: &Piece) -> bool {
        match (one.resolved, two.resolved) {
            (Resolved::Zero, Resolved::Zero) => true,
            (Resolved::At { layer: a, slot: one }, Resolved::At { layer: b, slot: two }) => {
                // An image and its snapshots are layers of one file, and share clusters.
                one == two && self.layer(a).path() == other.layer(b).path()
            }
            (Resolved::Bad { layer: a, fault: one }, Resolved::Bad { layer: b, fault: two }) => {
                // Of one layer it is the same that is lost.
                self.is_of_one_chain_with(other) && (a, one) == (b, two)
            }
            _ => false,
        }
    }

    /// The sectors of a range of which `other` has other bytes: ascending, joined. The range ends
    /// where the shorter disk ends.
    pub fn differing_sectors(
        &self,
        other: &Self,
        range: &Range<u64>,
    ) -> Result<Vec<Range<u64>>, ReadError> {
        let mut found: Vec<Range<u64>> = Vec::new();
        let end = range.end.next_multiple_of(SECTOR).min(self.size).min(other.size);
        let mut at = range.start - range.start % SECTOR;
        let (mut our_buffer, mut their_buffer) = (PageBuffer::new(), PageBuffer::new());
        while at < end {
            let len = usize::try_from((end - at).min(BUFFER)).unwrap_or(0);
            let (ours, theirs) = (our_buffer.first(len), their_buffer.first(len));
            self.read_at(at, ours)?;
            other.read_at(at, theirs)?;
            let sectors = ours.chunks(512).zip(theirs.chunks(512));
            for (number, (ours, theirs)) in (0..).zip(sectors) {
                if ours != theirs {
                    let start = at + number * SECTOR;
                    let sector = start..(start + SECTOR).min(end);
                    match found.last_mut() {
                        Some(last) if last.end == sector.start => last.end = sector.end,
                        _ => found.push(sector),
                    }
                }
            }
            at += len as u64;
        }
        Ok(found)
    }
}

fn side(piece: &Piece) -> Side {
    match piece.resolved {
        Resolved::Zero => Side::Zero,
        Resolved::At { .. } => Side::Data,
        Resolved::Bad { .. } => Side::Lost,
    }
}
