//! How a disk is put together: for maps and for copies, not for readers.

use std::ops::Range;

use super::DiskImage;
use crate::extent::Slot;
use crate::layer::Layer;
use crate::map::{NodeId, Origin, Resolved};
use crate::source::Source;

/// A part of a disk, never empty, as whoever copies it sees it.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// Bytes of the disk.
    pub range: Range<u64>,
    /// What is there.
    pub content: Content<'a>,
}

/// What a part of a disk is.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// Zeros.
    Hole,
    /// What [`DiskImage::read_at`] gives, be it an error.
    Data,
    /// The same, which are the bytes of this file from this offset on, as far as it reaches.
    Plain(&'a dyn Source, u64),
}

impl DiskImage {
    /// What lies in `range`, which must lie within the disk: ascending and contiguous.
    pub fn parts(&self, range: Range<u64>) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = self.region(at / self.map.region_size()).end.min(range.end);
            if end <= at {
                break;
            }
            for piece in self.pieces(at..end) {
                let plain = |layer| self.map.layer(layer).plain_file();
                let content = match piece.resolved {
                    _ if !self.is_data(&piece) => Content::Hole,
                    Resolved::At { layer, slot: Slot::Host(offset) } => plain(layer)
                        .map_or(Content::Data, |file| Content::Plain(file.as_ref(), offset.0)),
                    _ => Content::Data,
                };
                parts.push(Part { range: piece.range, content });
            }
            at = end;
        }
        parts
    }

    /// The part of a range, which must lie within the disk, from its start on of which all bytes are
    /// zeros or just lie in files: nothing has to be unpacked to get them.
    pub fn plain(&self, range: Range<u64>) -> Range<u64> {
        let parts = self.parts(range.clone());
        let packed = parts.iter().find(|part| matches!(part.content, Content::Data));
        range.start..packed.map_or(range.end, |packed| packed.range.start)
    }

    /// A byte at or after `offset` before which all is zeros: `offset` itself where nothing is
    /// known. Cheap.
    pub fn empty_until(&self, offset: u64) -> u64 {
        self.map.empty_until(self.node, offset).min(self.size).max(offset)
    }

    /// Who has the last word on each byte: ascending, contiguous, the whole disk. Looks at every
    /// table of every layer that counts.
    pub fn origins(&self) -> impl Iterator<Item = Origin> {
        let mut at = 0;
        let part = move || {
            if at >= self.size {
                return None;
            }
            // What is empty is passed over as one, however large the disk.
            let end = self.region(at / self.map.region_size()).end.max(self.empty_until(at));
            let origins = self.map.origins(self.node, at..end);
            at = end;
            Some(origins)
        };
        std::iter::from_fn(part).flatten()
    }

    /// A layer of its chain.
    pub fn layer(&self, layer: NodeId) -> &dyn Layer {
        self.map.layer(layer).as_ref()
    }
}
