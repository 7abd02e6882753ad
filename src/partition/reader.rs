//! The bytes of a disk, and which of them were asked for.

use std::ops::Range;

/// Reads a disk's bytes at an offset into all of a buffer; the reason, if that cannot be.
type ReadAt<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), String> + 'a;

/// A disk whose partitions are looked for.
pub struct Reader<'a> {
    size: u64,
    read_at: Box<ReadAt<'a>>,
    /// What was read, and what it was: a table is looked at more than once.
    seen: Vec<(u64, Vec<u8>)>,
    failed: bool,
}

/// Why something could not be read.
#[derive(Debug)]
pub(super) struct Unread(pub(super) String);

impl<'a> Reader<'a> {
    /// A disk of `size` bytes.
    pub fn new(size: u64, read_at: impl FnMut(u64, &mut [u8]) -> Result<(), String> + 'a) -> Self {
        Self { size, read_at: Box::new(read_at), seen: Vec::new(), failed: false }
    }

    /// Bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// So many bytes from `offset` on; fewer only where the disk ends.
    pub(super) fn read(&mut self, offset: u64, len: u64) -> Result<Vec<u8>, Unread> {
        let end = offset.saturating_add(len).min(self.size);
        let len = usize::try_from(end.saturating_sub(offset)).unwrap_or(0);
        if len == 0 {
            return Ok(Vec::new());
        }
        if let Some((_, bytes)) = self.seen.iter().find(|(at, b)| *at == offset && b.len() == len) {
            return Ok(bytes.clone());
        }
        let mut bytes = vec![0; len];
        (self.read_at)(offset, &mut bytes).map_err(|reason| {
            self.failed = true;
            Unread(reason)
        })?;
        self.seen.push((offset, bytes.clone()));
        Ok(bytes)
    }

    /// What was read.
    pub(super) fn ranges(&self) -> Vec<Range<u64>> {
        self.seen.iter().map(|(at, bytes)| *at..*at + bytes.len() as u64).collect()
    }

    /// Whether nothing failed.
    pub(super) fn all_was_read(&self) -> bool {
        !self.failed
    }
}

/// A part of `bytes` of a known length.
pub(super) fn part<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// A number of 32 bits, little-endian, as everything in these tables.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    part(bytes, at).map(u32::from_le_bytes)
}

/// A number of 64 bits.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    part(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_past_the_end_of_the_disk_was_not_read() {
        let mut disk = Reader::new(10, |_, _| Ok(()));
        assert_eq!(disk.read(512, 512).map_err(|e| e.0), Ok(Vec::new()));
        assert_eq!(disk.read(8, 512).map_err(|e| e.0), Ok(vec![0; 2]));
        assert_eq!(disk.ranges().len(), 1);
        assert_eq!(disk.ranges().first(), Some(&(8..10)));
    }
}
