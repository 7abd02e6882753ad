//! A file in memory: the smallest [`Source`], for tests and benchmarks of what lies above.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{Allocation, AllocationState, Source};
use crate::error::Result;

/// Bytes in memory under a name.
#[derive(Debug)]
pub struct MemoryFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl MemoryFile {
    /// A file of this name and content.
    pub fn new(path: impl Into<PathBuf>, bytes: Vec<u8>) -> Self {
        Self { path: path.into(), bytes }
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
