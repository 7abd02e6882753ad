//! Bytes of an open file for one request of the kernel.

use std::cell::Cell;
use std::ops::Range;

use crate::error::Error;
use crate::page_buffer::PageBuffer;
use crate::tree::Opened;
use crate::view::ReadError;

thread_local! {
    /// Each of the few threads that serve the kernel keeps its buffer from read to read.
    static BUFFER: Cell<PageBuffer> = const { Cell::new(PageBuffer::new()) };
}

/// What is there of a requested range.
pub(super) struct Piece<'a> {
    /// Bytes from the start of the range on: all of them, unless the file ends or `fault` is set.
    pub(super) bytes: &'a [u8],
    /// What stopped the read behind these bytes.
    pub(super) fault: Option<Error>,
}

/// Reads `size` bytes at `offset` and hands them to `reply`.
pub(super) fn read<R>(
    file: &Opened,
    offset: u64,
    size: u32,
    reply: impl FnOnce(Piece<'_>) -> R,
) -> R {
    match file {
        Opened::Text(text) => {
            let range = clip(offset, size, text.len() as u64);
            let start = usize::try_from(range.start).unwrap_or(usize::MAX);
            let end = usize::try_from(range.end).unwrap_or(usize::MAX);
            reply(Piece { bytes: text.get(start..end).unwrap_or_default(), fault: None })
        }
        Opened::Image(image) => {
            let range = clip(offset, size, image.size());
            read_disk(|buf| image.read_at(range.start, buf), &range, reply)
        }
        Opened::Slice(slice) => {
            let range = clip(offset, size, slice.size());
            read_disk(|buf| slice.read_at(range.start, buf), &range, reply)
        }
    }
}

/// How many bytes it has.
pub(super) fn size(file: &Opened) -> u64 {
    match file {
        Opened::Text(text) => text.len() as u64,
        Opened::Image(image) => image.size(),
        Opened::Slice(slice) => slice.size(),
    }
}

/// The part of a range, from its start on, that has to be copied only.
pub(super) fn plain(file: &Opened, range: Range<u64>) -> Range<u64> {
    match file {
        Opened::Text(_) => range,
        Opened::Image(image) => image.plain(range),
        Opened::Slice(slice) => slice.plain(range),
    }
}

fn read_disk<R>(
    read: impl FnOnce(&mut [u8]) -> Result<usize, ReadError>,
    range: &Range<u64>,
    reply: impl FnOnce(Piece<'_>) -> R,
) -> R {
    let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let mut buffer = BUFFER.take();
    let (got, fault) = match read(buffer.first(wanted)) {
        Ok(got) => (got, None),
        Err(stopped) => (stopped.done, Some(stopped.error)),
    };
    let replied = reply(Piece { bytes: buffer.get(..got).unwrap_or_default(), fault });
    BUFFER.set(buffer);
    replied
}

/// The part of a requested range that lies within the file.
fn clip(offset: u64, size: u32, end: u64) -> Range<u64> {
    let start = offset.min(end);
    start..offset.saturating_add(u64::from(size)).min(end)
}

/// Where the next data or the next hole begins; `None` past the end (`lseek(2)`, `ENXIO`). A text
/// is all data.
pub(super) fn seek(file: &Opened, offset: u64, target: Target) -> Option<u64> {
    match (file, target) {
        (Opened::Image(image), Target::Data) => image.seek_data(offset),
        (Opened::Image(image), Target::Hole) => image.seek_hole(offset),
        (Opened::Slice(slice), Target::Data) => slice.seek_data(offset),
        (Opened::Slice(slice), Target::Hole) => slice.seek_hole(offset),
        (Opened::Text(text), target) => {
            let end = text.len() as u64;
            let found = if target == Target::Data { offset } else { end };
            (offset < end).then_some(found)
        }
    }
}

/// What a seek looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Data,
    Hole,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn text() -> Opened {
        Opened::Text(Arc::from(&b"0123456789"[..]))
    }

    fn bytes(offset: u64, size: u32) -> Vec<u8> {
        read(&text(), offset, size, |piece| piece.bytes.to_vec())
    }

    #[test]
    fn a_read_is_cut_at_the_end_of_the_file() {
        assert_eq!(bytes(0, 4), b"0123");
        assert_eq!(bytes(8, 4), b"89");
        assert_eq!(bytes(10, 4), b"");
        assert_eq!(bytes(u64::MAX, u32::MAX), b"");
    }

    #[test]
    fn a_text_has_its_one_hole_at_its_end() {
        assert_eq!(seek(&text(), 3, Target::Data), Some(3));
        assert_eq!(seek(&text(), 3, Target::Hole), Some(10));
        assert_eq!(seek(&text(), 10, Target::Data), None);
        assert_eq!(seek(&text(), 10, Target::Hole), None);
    }
}
