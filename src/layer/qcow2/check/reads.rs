//! Reading clusters for the sake of reading them: neighbours in one go.

use super::super::bytes::to_usize;
use crate::error::Result;
use crate::page_buffer::PageBuffer;
use crate::source::Source;

/// As much as the largest cluster has.
const BUFFER: u64 = 2 << 20;

/// Bytes of a file that are to be read, and thrown away.
pub(super) struct Reads<'a> {
    file: &'a dyn Source,
    tick: &'a dyn Fn(u64),
    start: u64,
    len: u64,
    buffer: PageBuffer,
}

impl<'a> Reads<'a> {
    pub(super) fn new(file: &'a dyn Source, tick: &'a dyn Fn(u64)) -> Self {
        Self { file, tick, start: 0, len: 0, buffer: PageBuffer::new() }
    }

    /// Asks for `len` bytes, at most a cluster, which the file has. The error may be of what was
    /// asked for before.
    pub(super) fn push(&mut self, at: u64, len: u64) -> Result<()> {
        if self.start.saturating_add(self.len) == at && self.len + len <= BUFFER {
            self.len += len;
            return Ok(());
        }
        let before = self.flush();
        (self.start, self.len) = (at, len);
        before
    }

    /// Reads what was asked for and not read yet.
    pub(super) fn flush(&mut self) -> Result<()> {
        let len = std::mem::take(&mut self.len);
        if len == 0 {
            return Ok(());
        }
        // As large as it will ever be: it does not grow step by step.
        let buffer = self.buffer.first(to_usize(BUFFER));
        self.file.read_exact(self.start, buffer.get_mut(..to_usize(len)).unwrap_or_default())?;
        (self.tick)(len);
        Ok(())
    }
}
