//! A checkpoint written to a file or a block device, raw or as qcow2.
//!
//! # The way of a byte
//!
//! The disk is cut into units, which a few threads take one after the other (`units`). Of each
//! unit the chain's map says what is data and what is a hole; data is read through the view and
//! handed to a `sink`, or shared with the backup's own file where both lie on one file system
//! that can do so (`copy`).
//!
//! # Whole or not at all
//!
//! A file is written under a name that says what it is, in the target's folder; only when all of it
//! is on the disk it gets its name (`partial`). Of several disks none gets its name before all
//! are done, and none keeps it unless all get theirs ([`Batch`]). A block device has no other name:
//! its first MiB and the disk's last, where partition tables and the like are, are cleared first and
//! written last (`device`).
//!
//! # What is not written to
//!
//! What somebody has open (`in_use`, `block_device`), and the source by whatever name
//! ([`Protected`], `sysfs`).

mod batch;
mod block_device;
mod copy;
mod device;
mod folders;
mod in_use;
mod large_pages;
mod partial;
mod protected;
mod qcow2;
mod raw;
mod sink;
mod stream;
mod sysfs;
mod target;
mod units;
mod verify;

pub use batch::{Batch, Done, Options, refuse_unfit};
pub use block_device::BlockDevice;
pub use partial::left_behind;
pub use protected::Protected;
pub use stream::Output;
pub use target::Target;
pub use units::Stop;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes.
    Raw,
    /// A qcow2 image without a backing file.
    Qcow2 {
        /// With clusters compressed by zstd.
        compressed: bool,
    },
}

/// What is done to a disk just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is read and written.
    Copy,
    /// What was written is brought to the disk. It does not tick.
    Sync,
    /// What was written is read and compared.
    Verify,
}

/// Whoever wants to know how far it is. Called by several threads.
pub trait Progress: Sync {
    /// A phase begins that will take in so many bytes of the disk.
    fn begin(&self, phase: Phase, bytes: u64);

    /// So many more bytes of the disk are done with.
    fn tick(&self, bytes: u64);
}

#[cfg(test)]
mod tests;
