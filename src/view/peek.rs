//! A look at a few bytes of many disks: nothing is kept of it.

use std::ops::Range;
use std::sync::Arc;

use super::DiskImage;
use crate::error::Error;

impl DiskImage {
    /// Fills `buf` from `offset` on, all of which must lie within the disk. Past the tally, which
    /// takes memory for each disk that somebody reads.
    pub fn peek(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let end = offset.saturating_add(buf.len() as u64).min(self.size);
        let mut rest = buf;
        for piece in self.map.resolve(self.node, offset..end.max(offset)) {
            let len = usize::try_from(piece.len()).unwrap_or(usize::MAX).min(rest.len());
            let (bytes, after) = rest.split_at_mut(len);
            self.read_piece(&piece, bytes)?;
            rest = after;
        }
        Ok(())
    }

    /// Whether another disk has its bytes of these ranges from the very same places. No byte is
    /// read; `false` also where they are alike all the same.
    pub fn has_in_common(&self, other: &Self, ranges: &[Range<u64>]) -> bool {
        let same_in = |range: &Range<u64>| {
            let pieces = |image: &Self| self.map.resolve(image.node, range.clone());
            pieces(self) == pieces(other)
        };
        Arc::ptr_eq(&self.map, &other.map)
            && (self.size, self.lost_reads) == (other.size, other.lost_reads)
            && ranges.iter().all(same_in)
    }
}
