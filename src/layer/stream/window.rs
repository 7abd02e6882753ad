//! A moving piece of a file in memory, for readers that look at little, further and further on.

use super::to_usize;
use crate::error::Result;
use crate::source::Source;

/// Read at once where what is looked at lies far apart.
const LEAST: usize = 512;
/// Read at once where it lies close together.
const MOST: usize = 256 << 10;
/// Up to here, reading what lies between costs less than another system call.
const CLOSE: u64 = 16 << 10;

/// Reads ahead as far as it pays.
pub(super) struct Window<'a> {
    file: &'a dyn Source,
    start: u64,
    bytes: Vec<u8>,
    ahead: usize,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn Source) -> Self {
        Self { file, start: 0, bytes: Vec::new(), ahead: LEAST }
    }

    pub(super) fn file(&self) -> &'a dyn Source {
        self.file
    }

    /// The `len` bytes at `at`: fewer only where the file ends.
    pub(super) fn take(&mut self, at: u64, len: usize) -> Result<&[u8]> {
        let end = self.start + self.bytes.len() as u64;
        let wanted_end = at.saturating_add(len as u64).min(self.file.len());
        if at < self.start || wanted_end > end {
            let near = at >= self.start && at <= end.saturating_add(CLOSE);
            let close = near && !self.bytes.is_empty();
            self.ahead = if close { (self.ahead * 4).min(MOST) } else { LEAST };
            self.fill(at, self.ahead.max(len))?;
        }
        let from = to_usize(at - self.start);
        let there = self.bytes.get(from..).unwrap_or_default();
        Ok(there.get(..len).unwrap_or(there))
    }

    fn fill(&mut self, at: u64, len: usize) -> Result<()> {
        let left = to_usize(self.file.len().saturating_sub(at));
        self.start = at;
        self.bytes.resize(len.min(left), 0);
        let got = self.file.read_at(at, &mut self.bytes);
        self.bytes.truncate(*got.as_ref().unwrap_or(&0));
        got.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemoryFile;

    fn file(len: usize) -> MemoryFile {
        MemoryFile::new("f", (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect())
    }

    /// Takes 40 bytes every `step` bytes; how many reads and bytes that cost.
    fn cost(len: usize, step: usize) -> (u64, u64) {
        let file = file(len);
        let mut window = Window::new(&file);
        for at in (0..len).step_by(step) {
            let end = (at + 40).min(len);
            let wanted: Vec<_> = (at..end).map(|i| u8::try_from(i % 251).unwrap()).collect();
            assert_eq!(window.take(at as u64, 40).unwrap(), wanted);
        }
        (file.times_read(), file.bytes_read())
    }

    #[test]
    fn what_lies_close_is_read_in_large_pieces() {
        let (reads, _) = cost(4 << 20, 4138);
        assert!(reads < 30, "{reads} reads for 1013 headers");
    }

    #[test]
    fn what_lies_far_apart_is_read_alone() {
        let (reads, bytes) = cost(4 << 20, 100_000);
        assert_eq!((reads, bytes), (42, 42 * LEAST as u64));
    }

    #[test]
    fn a_window_may_go_back_and_past_the_end() {
        let file = file(1000);
        let mut window = Window::new(&file);
        assert_eq!(window.take(990, 40).unwrap().len(), 10);
        assert_eq!(window.take(3, 2).unwrap(), [3, 4]);
        assert!(window.take(1000, 1).unwrap().is_empty());
        assert!(window.take(u64::MAX, 5).unwrap().is_empty());
    }
}
