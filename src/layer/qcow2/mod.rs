//! qcow2 images, versions 2 and 3, as QEMU's docs/interop/qcow2 specifies them.
//!
//! [`Header`] is what the first cluster says. A [`Qcow2Image`] is an opened image with its data
//! file; a [`Qcow2Layer`] is the disk that one L1 table of it maps: the active one or a
//! snapshot's. [`check_image`] looks at all that these may ever reach. Refcounts are never read: a
//! reader needs none.
//!
//! QEMU reads zeros past the end of a file, tables included, so that an image cut to its header
//! opens as an empty disk. Here a table or a cluster that starts at or past the end is a
//! [`crate::extent::Fault::PastEnd`]; only the tail that the last cluster lacks reads as zeros.

mod bitmap;
mod bytes;
mod check;
mod header;
mod image;
mod l1;
mod layer;
mod reserved;
mod snapshot;
mod table;
#[cfg(test)]
mod testimage;

pub use bitmap::{Bitmap, read_bitmaps};
pub use check::{ImageCheck, check_image};
pub use header::{BitmapDirectory, Compression, Encryption, Header, is_qcow2};
pub use image::Qcow2Image;
pub use layer::Qcow2Layer;
pub use snapshot::{Snapshot, read_snapshots};
