//! Buffers for reading files that begin where a page does.
//!
//! Some processors (measured: AMD EPYC of family 25) copy memory at a sixth of their speed to where
//! the last twelve bits of the address are 1 to 31 beyond those of the source: `rep movsb`, with which
//! the kernel copies out of its cache. What lies in the cache mostly begins at a page, and what the libc
//! allocates 16 bytes behind one, as soon as it is large enough to have pages of its own.

use std::ops::{Deref, DerefMut};

/// Bytes of a page, or of a part of one.
const PAGE: usize = 4096;

/// Bytes that begin at a page.
#[derive(Debug, Default)]
pub(crate) struct PageBuffer {
    /// Never grows: its bytes stay where they are.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl PageBuffer {
    /// One without any bytes.
    pub(crate) const fn new() -> Self {
        Self { bytes: Vec::new(), start: 0, len: 0 }
    }

    /// One of `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        let bytes = vec![0; len.saturating_add(PAGE - 1)];
        let start = bytes.as_ptr().align_offset(PAGE).min(PAGE - 1);
        Self { bytes, start, len }
    }

    /// The first `len` bytes. Where it has fewer, it is made anew: as long as that, all zeros.
    pub(crate) fn first(&mut self, len: usize) -> &mut [u8] {
        if self.len < len {
            *self = Self::zeroed(len);
        }
        self.get_mut(..len).unwrap_or_default()
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.start + self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_a_page_wherever_it_lies() {
        for len in [1, 100, 4096, 100_000, 256 << 10, 2 << 20] {
            // Several at once, none of which can lie where another one does.
            let all: [PageBuffer; 4] = std::array::from_fn(|_| PageBuffer::zeroed(len));
            for buffer in &all {
                assert_eq!(buffer.len(), len);
                assert!(buffer.as_ptr().addr().is_multiple_of(PAGE), "{len}");
                assert!(buffer.iter().all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn it_grows_when_more_is_wanted_and_keeps_what_is_there_otherwise() {
        let mut buffer = PageBuffer::new();
        assert!(buffer.is_empty() && buffer.first(0).is_empty());
        buffer.first(10).fill(1);
        assert_eq!(buffer.first(3), [1; 3]);
        assert_eq!(buffer.first(10), [1; 10]);
        assert_eq!(buffer.first(5000), [0; 5000]);
        assert!(buffer.as_ptr().addr().is_multiple_of(PAGE));
    }
}
