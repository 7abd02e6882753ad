//! Layers: one file (or one snapshot in it) and what it says about its virtual disk.
//!
//! A layer never opens another layer, and knows nothing of chains: that is [`crate::chain`]'s
//! business. Its words are put together by [`crate::map`].

pub mod clusters;
pub mod findings;
pub mod lost;
pub mod qcow2;
pub mod raw;
pub mod stream;

mod memory;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub use memory::{Disordered, MemoryLayer};

use crate::error::Result;
use crate::extent::{GuestOffset, HostOffset, Slot, Words};
use crate::source::{Hold, Source};

/// The cluster size of most qcow2 images; raw increments are copied in such units, too.
const USUAL_GRANULARITY: u64 = 64 << 10;

/// One layer of a chain.
pub trait Layer: Send + Sync {
    /// The file's path within the source folder, for messages.
    fn path(&self) -> &Path;

    /// Bytes of the virtual disk, as this layer knows it.
    fn virtual_size(&self) -> u64;

    /// Bytes of the finest extent that this layer can speak of, where that is known: it decides how
    /// much of the disk a map takes in at a time. What is cut finer is served as well, in more
    /// memory.
    fn granularity(&self) -> u64 {
        USUAL_GRANULARITY
    }

    /// Says what this layer holds in `words.range()`, which may reach past the virtual size (the
    /// map cuts there). A table that cannot be read becomes [`crate::extent::Fault::Unreadable`]
    /// for the ranges it maps, and a line in the log.
    fn words(&self, words: &mut Words);

    /// A byte at or after `offset` before which this layer says nothing but [`Word::Below`] and
    /// [`Word::Zero`]: what lies between needs no look. `offset` itself where nothing is known.
    /// It lets a seek pass over the emptiness of a huge disk, and must stay cheap.
    ///
    /// [`Word::Below`]: crate::extent::Word::Below
    /// [`Word::Zero`]: crate::extent::Word::Zero
    fn empty_until(&self, offset: u64) -> u64 {
        offset
    }

    /// Fills `buf` with the bytes at `guest`, which lie in one extent of this layer; `slot` is
    /// that of the first byte.
    fn read(&self, slot: Slot, guest: GuestOffset, buf: &mut [u8]) -> Result<()>;

    /// The file whose bytes are the disk's, from the first to the last, if it is no more than that
    /// and needs no layer below.
    fn whole_file(&self) -> Option<&dyn Source> {
        None
    }

    /// The file that the offsets of [`Slot::Host`] count in, for whoever copies the bytes without
    /// looking at them. None where there is no such file.
    fn plain_file(&self) -> Option<&Arc<dyn Source>> {
        None
    }

    /// Adds to `held` what keeps its files open.
    fn hold(&self, held: &mut Vec<Hold>) {
        let _ = held;
    }

    /// Where the file keeps room for parts of `range` which this layer says to be zeros or nothing:
    /// ascending, and empty where it cannot be told. No reader needs it: it is for those who want to
    /// know the layout.
    fn reserved(&self, range: Range<u64>) -> Vec<Reserved> {
        let _ = range;
        Vec::new()
    }

    /// An upper estimate of the bytes that this layer itself maps, from sizes alone where
    /// possible: it must stay cheap.
    fn allocated_at_most(&self) -> u64;
}

/// Room in a file for bytes that are not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// Guest bytes.
    pub range: Range<u64>,
    /// Where the room for the first of them is; it advances with the guest's offset.
    pub at: HostOffset,
}

impl Reserved {
    /// Appends to `list`, or to the last of it if this only goes on with it.
    pub(super) fn join(self, list: &mut Vec<Self>) {
        match list.last_mut() {
            Some(last)
                if last.range.end == self.range.start
                    && last.at.0 + (last.range.end - last.range.start) == self.at.0 =>
            {
                last.range.end = self.range.end;
            }
            _ => list.push(self),
        }
    }
}
