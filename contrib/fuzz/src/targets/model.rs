//! The bytes of a piece of a disk, by the plainest of rules: layer upon layer, byte by byte.

use std::mem::discriminant;
use std::ops::Range;

use qcowfs::extent::{GuestOffset, Slot, Word};
use qcowfs::layer::Layer;

use super::words::words;

/// What a reader must get for one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Byte {
    /// Zero, and a hole.
    Hole,
    /// This, and data.
    Data(u8),
    /// An error, and data.
    Bad,
    /// Data, in something packed that cannot be unpacked as a whole: an error, or what its good
    /// part holds.
    Unsure,
}

/// A window of a disk.
pub struct Model {
    /// Where it starts.
    pub start: u64,
    laid: Vec<Byte>,
    /// What a reader gets, where that is sure; else 0.
    pub bytes: Vec<u8>,
    /// Bytes of one kind, one range after the other: there are few, where there are many bytes.
    pub runs: Vec<Run>,
}

/// A range of bytes of one kind.
#[derive(Debug, Clone)]
pub struct Run {
    /// Bytes of the disk.
    pub range: Range<u64>,
    /// One of them.
    pub byte: Byte,
}

impl Model {
    /// The window of a disk whose layers are these, the lowest first.
    pub fn of(range: Range<u64>, layers: &[&dyn Layer]) -> Self {
        let len = (range.end - range.start) as usize;
        // Below the lowest layer all is holes.
        let laid = vec![Byte::Hole; len];
        let mut model = Self { start: range.start, laid, bytes: vec![0; len], runs: Vec::new() };
        for layer in layers {
            model.lay(*layer);
        }
        model.sum_up();
        model
    }

    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.start + self.laid.len() as u64
    }

    /// The runs from `guest` on, the first of them cut there.
    pub fn runs_from(&self, guest: u64) -> impl Iterator<Item = Run> {
        let cut = move |run: &Run| Run { range: run.range.start.max(guest)..run.range.end, ..*run };
        let first = self.runs.partition_point(|run| run.range.end <= guest);
        self.runs[first..].iter().map(cut)
    }

    fn sum_up(&mut self) {
        for (at, byte) in self.laid.iter().enumerate() {
            if let Byte::Data(value) = byte {
                self.bytes[at] = *value;
            }
            let guest = self.start + at as u64;
            match self.runs.last_mut() {
                Some(last) if discriminant(&last.byte) == discriminant(byte) => {
                    last.range.end += 1;
                }
                _ => self.runs.push(Run { range: guest..guest + 1, byte: *byte }),
            }
        }
    }

    fn lay(&mut self, layer: &dyn Layer) {
        let inside = layer.virtual_size().clamp(self.start, self.end());
        for extent in words(layer, self.start, inside) {
            let here = self.part(extent.range.clone());
            match extent.word {
                Word::Below => {}
                Word::Zero => here.fill(Byte::Hole),
                Word::Bad(_) => here.fill(Byte::Bad),
                Word::At(slot) => {
                    let mut bytes = vec![0xA5; here.len()];
                    let read = layer.read(slot, GuestOffset(extent.range.start), &mut bytes);
                    match (read, slot) {
                        (Ok(()), _) => {
                            here.iter_mut()
                                .zip(bytes)
                                .for_each(|(to, byte)| *to = Byte::Data(byte));
                        }
                        (Err(_), Slot::Packed(_)) => here.fill(Byte::Unsure),
                        (Err(_), Slot::Host(_)) => here.fill(Byte::Bad),
                    }
                }
            }
        }
        // What lies past the end of a layer is zeros for it and for all above.
        self.part(inside..self.end()).fill(Byte::Hole);
    }

    fn part(&mut self, range: Range<u64>) -> &mut [Byte] {
        let at = |guest: u64| (guest - self.start) as usize;
        let (from, to) = (at(range.start), at(range.end));
        &mut self.laid[from..to]
    }
}
