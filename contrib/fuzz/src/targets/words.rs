//! What must hold for the answers of any layer, whatever its file holds.

use qcowfs::extent::{Extent, GuestOffset, Slot, Word, Words};
use qcowfs::layer::Layer;

/// The most bytes of one extent that are read at a time.
const MOST_OF_ONE: u64 = 64 << 10;

/// What the layer says of a range: all of it, in order, without a gap, never an empty extent.
pub fn words(layer: &dyn Layer, start: u64, end: u64) -> Vec<Extent> {
    let mut words = Words::new(start..end);
    layer.words(&mut words);
    let extents = words.finish();
    let mut next = start;
    for extent in &extents {
        assert_eq!(extent.range.start, next, "a gap or an overlap");
        assert!(extent.range.end > next, "an empty extent");
        next = extent.range.end;
    }
    assert_eq!(next, end, "not the range that was asked for");
    extents
}

/// What is said of a range does not depend on how much was asked for at a time.
pub fn same_in_parts(layer: &dyn Layer, whole: &[Extent], cut: u64) {
    let (Some(first), Some(last)) = (whole.first(), whole.last()) else { return };
    let (start, end) = (first.range.start, last.range.end);
    if cut <= start || cut >= end {
        return;
    }
    let parts = words(layer, start, cut).into_iter().chain(words(layer, cut, end));
    for part in parts {
        let at = whole.partition_point(|extent| extent.range.end <= part.range.start);
        let around = &whole[at];
        assert!(part.range.end <= around.range.end, "{part:?} of {around:?}");
        let by = part.range.start - around.range.start;
        let word = match around.word {
            Word::At(slot) => Word::At(slot.advance(by)),
            other => other,
        };
        assert_eq!(part.word, word, "at {}", part.range.start);
    }
}

/// A place to read.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub slot: Slot,
    pub guest: u64,
    pub len: u64,
}

/// Both ends of every extent that has bytes, within a budget of bytes.
pub fn places(extents: &[Extent], budget: &mut u64) -> Vec<Place> {
    let mut places = Vec::new();
    for extent in extents {
        let Word::At(slot) = extent.word else { continue };
        let all = extent.range.end - extent.range.start;
        let len = all.min(MOST_OF_ONE).min(*budget);
        if len == 0 {
            break;
        }
        places.push(Place { slot, guest: extent.range.start, len });
        *budget -= len;
        let tail = (all - len).min(4096).min(*budget);
        if tail > 0 {
            let by = all - tail;
            let slot = slot.advance(by);
            places.push(Place { slot, guest: extent.range.start + by, len: tail });
            *budget -= tail;
        }
    }
    places
}

/// The bytes of a place, read in one go.
pub fn read(layer: &dyn Layer, place: Place) -> Option<Vec<u8>> {
    let mut bytes = vec![0xA5; place.len as usize];
    layer.read(place.slot, GuestOffset(place.guest), &mut bytes).ok()?;
    Some(bytes)
}

/// The same, in pieces of up to `step` bytes, the last one first.
pub fn read_in_pieces(layer: &dyn Layer, place: Place, step: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0x5A; place.len as usize];
    let mut pieces: Vec<_> = bytes.chunks_mut(step as usize).enumerate().collect();
    pieces.reverse();
    for (number, piece) in pieces {
        let by = number as u64 * step;
        layer.read(place.slot.advance(by), GuestOffset(place.guest + by), piece).ok()?;
    }
    Some(bytes)
}

/// The size of pieces. Each may cost as much as a whole chunk, so there must not be too many.
pub fn step(random: u64) -> u64 {
    700 + random % 9000
}
