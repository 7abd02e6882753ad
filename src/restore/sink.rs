//! Where the bytes of a disk go.

use std::ops::Range;

use super::copy::BUFFER;
use crate::error::Result;
use crate::source::{Cloned, Source};

/// What takes the bytes of a disk: a file, a device, an image. Units are written by several threads
/// at a time, each by one.
pub(super) trait Sink: Sync {
    /// Bytes of which it takes only whole multiples, counted from the start of the disk, but for
    /// the end of the disk: a power of two.
    fn granularity(&self) -> u64;

    /// Bytes that it takes best at a time: a power of two, and a multiple of the above.
    fn piece(&self) -> u64 {
        BUFFER
    }

    /// Begins with a unit of the disk.
    fn unit(&self, unit: Range<u64>) -> Box<dyn UnitWriter + '_>;

    /// Takes a range for zeros, which nobody writes.
    fn zero(&self, range: Range<u64>) -> Result<()>;

    /// Whether [`UnitWriter::share`] may come to anything.
    fn shares(&self) -> bool {
        false
    }

    /// All units are done with: writes what is left to be written, and brings all of it to the
    /// disk.
    fn finish(&self) -> Result<()>;
}

/// Takes the bytes of one unit, each range once, ascending, but for ranges that are shared, which
/// come first.
pub(super) trait UnitWriter {
    /// Takes bytes, and returns how many of them are data: zeros may become holes.
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<u64>;

    /// Takes a range for zeros.
    fn zero(&mut self, range: Range<u64>) -> Result<()>;

    /// Shares a range with a file that has its bytes from `from` on.
    fn share(&mut self, file: &dyn Source, from: u64, range: Range<u64>) -> Result<Cloned> {
        let _ = (file, from, range);
        Ok(Cloned::Never)
    }

    /// The unit is done with.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Cuts bytes into runs of zeros and of others, in blocks of `block` bytes: the offset of each run,
/// its bytes, and whether they are zeros.
pub(super) fn runs(bytes: &[u8], block: usize) -> impl Iterator<Item = (usize, &[u8], bool)> {
    let mut at = 0;
    let is_zero = move |at: usize| {
        let block = bytes.get(at..(at + block).min(bytes.len()));
        block.filter(|block| !block.is_empty()).map(is_zeros)
    };
    std::iter::from_fn(move || {
        let zero = is_zero(at)?;
        let mut end = at + block;
        while is_zero(end) == Some(zero) {
            end += block;
        }
        let run = bytes.get(at..end.min(bytes.len()))?;
        let start = std::mem::replace(&mut at, end);
        Some((start, run, zero))
    })
}

/// Whether all bytes are zeros. Other data mostly tells within its first bytes.
pub(super) fn is_zeros(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|word| word.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_everything_and_tell_zeros_block_by_block() {
        let mut bytes = vec![0; 10];
        bytes[5] = 1;
        let found: Vec<_> = runs(&bytes, 4).map(|(at, run, zero)| (at, run.len(), zero)).collect();
        assert_eq!(found, [(0, 4, true), (4, 4, false), (8, 2, true)]);
        assert_eq!(runs(&[], 4).count(), 0);
        assert_eq!(runs(&[0; 12], 4).count(), 1);
        assert_eq!(runs(&[1; 13], 4).count(), 1);
    }

    #[test]
    fn one_byte_anywhere_is_no_zero() {
        for len in [1, 63, 64, 65, 200] {
            let mut bytes = vec![0; len];
            assert!(is_zeros(&bytes));
            for at in 0..len {
                bytes[at] = 0x80;
                assert!(!is_zeros(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }
}
