//! Read-only bytes by offset. Knows nothing of formats or chains.
//!
//! A [`Source`] is one file whose identity (device, inode, size, mtime) was pinned when it was
//! found. Whoever reads it later gets the bytes of that very file as it was, or an error: a file
//! that was replaced, cut or rewritten since is never mixed in.

mod acl;
mod local;
mod memory;
mod root;
mod roots;
mod writers;

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub use local::{LocalFile, LocalFiles};
pub use memory::MemoryFile;
pub use root::{EntryKind, FileStat, FoundEntry, SourceRoot};
pub use roots::{Located, Roots};
pub use writers::OpenWriters;

use crate::error::{Error, Result};

/// Bytes of one file.
pub trait Source: Send + Sync + fmt::Debug {
    /// The file's path within the source folder, for messages; absolute outside of it.
    fn path(&self) -> &Path;

    /// Size in bytes, as pinned.
    fn len(&self) -> u64;

    /// Whether there is no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the file occupies on its disk: less than [`Self::len`] where it has holes.
    fn allocated(&self) -> u64;

    /// Fills `buf` from `offset` on and returns how many bytes that were: fewer than asked for
    /// only where the file ends.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// What the file system holds in `range` (cut at the end of the file): ascending and
    /// contiguous.
    fn allocation(&self, range: Range<u64>) -> Result<Vec<Allocation>>;

    /// A byte at or after `offset` before which all is holes: `offset` itself where nothing is
    /// known, `u64::MAX` where no data follows.
    fn next_data(&self, offset: u64) -> Result<u64> {
        Ok(offset)
    }

    /// The file itself, for a kernel that reads it on its own: it is what was pinned now, and nobody
    /// looks later. Reading it leaves its access time alone. None where that cannot be had.
    fn open_for_kernel(&self) -> Result<Option<File>> {
        Ok(None)
    }

    /// Keeps the file open, whatever becomes of its name: its bytes can be read for as long as
    /// somebody holds it. None where that cannot be had, because too many are held already.
    fn hold(&self) -> Option<Hold> {
        None
    }

    /// Whether [`Self::allocation`] can tell a hole from an unwritten extent.
    fn knows_unwritten(&self) -> bool;

    /// Has `to` share `range` of this file, from its byte `at` on, without copying (a reflink). An
    /// error only if the file is not any more what it was.
    fn clone_to(&self, range: Range<u64>, to: &File, at: u64) -> Result<Cloned> {
        let _ = (range, to, at);
        Ok(Cloned::Never)
    }

    /// [`Self::read_at`], and zeros for what lies past the end of the file.
    fn read_padded(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let got = self.read_at(offset, buf)?;
        buf.get_mut(got..).unwrap_or_default().fill(0);
        Ok(())
    }

    /// [`Self::read_at`] of exactly `buf`; [`Error::Corrupt`] where the file ends before.
    fn read_exact(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let wanted = buf.len();
        let got = self.read_at(offset, buf)?;
        if got == wanted {
            return Ok(());
        }
        Err(Error::Corrupt {
            file: self.path().to_path_buf(),
            offset,
            what: format!("{wanted} bytes are needed here, the file ends after {got} (truncated?)"),
        })
    }
}

/// A file that stays open.
#[derive(Debug, Clone)]
pub struct Hold(
    #[expect(dead_code, reason = "held, and never asked")] Arc<dyn fmt::Debug + Send + Sync>,
);

/// What became of an attempt to share a range of a file with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloned {
    /// They share it.
    Yes,
    /// Not this range.
    No,
    /// No range of these two: the file system cannot, or they lie on two.
    Never,
}

/// A range of a file, and what the file system has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// Bytes of the file.
    pub range: Range<u64>,
    /// What is there.
    pub state: AllocationState,
}

/// What a file system holds for a range of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocationState {
    /// Nothing was ever written here.
    Hole,
    /// Space was reserved and reads as zeros (`fallocate`).
    Unwritten,
    /// Bytes.
    Data,
}
