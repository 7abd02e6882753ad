//! A file in memory: the smallest [`Source`], for tests and benchmarks of what lies above.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Allocation, AllocationState, Source};
use crate::error::Result;

/// Bytes in memory under a name. It counts what is read of it.
#[derive(Debug)]
pub struct MemoryFile {
    path: PathBuf,
    bytes: Vec<u8>,
    times_read: AtomicU64,
    bytes_read: AtomicU64,
}

impl MemoryFile {
    /// A file of this name and content.
    pub fn new(path: impl Into<PathBuf>, bytes: Vec<u8>) -> Self {
        let (times_read, bytes_read) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { path: path.into(), bytes, times_read, bytes_read }
    }

    /// How often it was read.
    pub fn times_read(&self) -> u64 {
        self.times_read.load(Ordering::Relaxed)
    }

    /// Bytes that were asked for in all these reads.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
}

impl Source for MemoryFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn allocated(&self) -> u64 {
        self.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.times_read.fetch_add(1, Ordering::Relaxed);
        self.bytes_read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.bytes.get(from..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        if let (Some(to), Some(bytes)) = (buf.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(bytes);
        }
        Ok(len)
    }

    fn allocation(&self, range: Range<u64>) -> Result<Vec<Allocation>> {
        let range = range.start..range.end.min(self.len());
        if range.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![Allocation { range, state: AllocationState::Data }])
    }

    fn knows_unwritten(&self) -> bool {
        true
    }
}
