//! virtnbdbackup's sparse streams, versions 1 and 2: a full backup, an increment or a
//! differential of one disk, compressed or not.
//!
//! A stream is a row of frames: [`StreamMeta`] is what the first one says, an [`Index`] what all
//! of them say, and a [`StreamLayer`] the disk that they describe. What no frame covers is in the
//! layer below, or zeros if the stream is a full backup (there it is what the tool's own restore
//! leaves, which starts from an empty image).
//!
//! # When a stream is not what it should be
//!
//! The frames say where they lie, one after the other, and nothing else does: a header that
//! contradicts the others makes all that follows doubtful. So an index is whole, or there is none
//! and with it no layer: frames that overlap or are out of order, that reach past the disk or the
//! file, data that are more or less than the metadata say.
//!
//! A stream that was cut is another thing: the file does not end as one does, and the frames up to
//! there are as good as they ever were. They are read, and what would follow is lost.
//!
//! A defect *within* a payload is that payload's alone. And two defects leave the disk whole: a
//! damaged trailer (the sizes it holds can be found again by walking the lz4 frames) and bytes
//! after the end. They are [`Index::flaws`].
//!
//! What nothing in the stream contradicts cannot be found out here: bytes of an uncompressed
//! payload, and the start of an increment's frame that moved into a gap.

mod build;
mod check;
mod chunk;
mod failure;
mod frame;
mod index;
mod layer;
mod lz4_block;
mod lz4_walk;
mod meta;
mod trailer;
mod window;

use crate::error::Result;
use crate::source::Source;

pub use check::{StreamCheck, check_stream};
pub use frame::{FrameHeader, FrameKind, HEADER_LEN};
pub use index::{Chunk, Index};
pub use layer::StreamLayer;
pub use meta::{StreamCompression, StreamMeta, is_stream};

/// Whether the file ends as a whole stream does: in its `stop`, or in the frame that tells the size
/// of a trailer behind it. Only the last bytes are read.
///
/// # Errors
///
/// Where the file cannot be read.
pub fn has_end(file: &dyn Source) -> Result<bool> {
    let mut last = [0; 40];
    let at = file.len().saturating_sub(HEADER_LEN);
    let got = file.read_at(at, &mut last)?;
    let header = FrameHeader::parse(last.get(..got).unwrap_or_default(), at);
    Ok(header.is_ok_and(|header| matches!(header.kind, FrameKind::Stop | FrameKind::Comp)))
}

/// A size that fits in memory, where it was bounded before; else the largest, which no buffer
/// has.
fn to_usize(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}
