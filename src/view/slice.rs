//! A part of a disk as a disk of its own.

use std::ops::Range;
use std::sync::Arc;

use super::{Allocated, DiskImage, ReadError};
use crate::source::Hold;

/// A range of a disk, from the first byte on which it is read like the whole.
#[derive(Clone)]
pub struct Slice {
    image: Arc<DiskImage>,
    range: Range<u64>,
}

impl Slice {
    /// A range of a disk. What of it is past the disk's end is not there.
    pub fn new(image: Arc<DiskImage>, range: Range<u64>) -> Self {
        let end = range.end.min(image.size());
        Self { range: range.start.min(end)..end, image }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// As [`DiskImage::read_at`].
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, ReadError> {
        let left = self.size().saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let (wanted, _) = buf.split_at_mut(len);
        self.image.read_at(self.range.start.saturating_add(offset), wanted)
    }

    /// As [`DiskImage::plain`].
    pub fn plain(&self, range: Range<u64>) -> Range<u64> {
        let start = self.range.start;
        let plain = self.image.plain(start + range.start..start + range.end);
        plain.start - start..plain.end - start
    }

    /// As [`DiskImage::seek_data`].
    pub fn seek_data(&self, offset: u64) -> Option<u64> {
        self.seek(offset, true)
    }

    /// As [`DiskImage::seek_hole`].
    pub fn seek_hole(&self, offset: u64) -> Option<u64> {
        if offset >= self.size() {
            return None;
        }
        self.seek(offset, false).or(Some(self.size()))
    }

    fn seek(&self, offset: u64, for_data: bool) -> Option<u64> {
        let from = self.range.start.checked_add(offset)?;
        let found = self.image.seek(from, self.range.end, for_data)?;
        found.checked_sub(self.range.start)
    }

    /// How many bytes are data, at most: no more than of the whole disk.
    pub fn allocated(&self) -> Allocated {
        let bytes = self.image.allocated().bytes.min(self.size());
        Allocated { bytes, exact: bytes == 0 }
    }

    /// As [`DiskImage::hold`].
    pub fn hold(&self) -> Vec<Hold> {
        self.image.hold()
    }
}
