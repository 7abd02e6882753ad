//! Images made of bytes, for the tests of this module.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::{Header, Qcow2Image, Qcow2Layer};
use crate::error::{Error, Result};
use crate::extent::{Extent, GuestOffset, HostOffset, Slot, Word, Words};
use crate::layer::Layer;
use crate::layer::clusters::ClusterCache;
use crate::source::{Allocation, MemoryFile, Source};

/// Writes `what` at `at`; the bytes grow as they have to.
pub(super) fn put(bytes: &mut Vec<u8>, at: usize, what: &[u8]) {
    bytes.resize(bytes.len().max(at + what.len()), 0);
    bytes[at..at + what.len()].copy_from_slice(what);
}

pub(super) fn put_u64(bytes: &mut Vec<u8>, at: u64, value: u64) {
    put(bytes, usize::try_from(at).unwrap(), &value.to_be_bytes());
}

/// A header extension with its padding.
pub(super) fn extension(kind: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    let mut bytes = [kind.to_be_bytes(), len.to_be_bytes()].concat();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// Fixed fields of a version 3 image without features, whose L1 table is in the fourth cluster.
pub(super) fn fixed_header(cluster_bits: u32, size: u64, l1_size: u32) -> Vec<u8> {
    let mut bytes = vec![0; 112];
    put(&mut bytes, 0, b"QFI\xfb");
    put(&mut bytes, 4, &3_u32.to_be_bytes());
    put(&mut bytes, 20, &cluster_bits.to_be_bytes());
    put(&mut bytes, 24, &size.to_be_bytes());
    put(&mut bytes, 36, &l1_size.to_be_bytes());
    put(&mut bytes, 40, &(3_u64 << cluster_bits).to_be_bytes());
    put(&mut bytes, 48, &(1_u64 << cluster_bits).to_be_bytes());
    put(&mut bytes, 56, &1_u32.to_be_bytes());
    put(&mut bytes, 96, &4_u32.to_be_bytes());
    put(&mut bytes, 100, &112_u32.to_be_bytes());
    bytes
}

/// An image of small clusters that a test fills entry by entry. Clusters of the file: 0 header,
/// 3 L1 table, the rest as the test likes.
pub(super) struct TestImage {
    pub(super) bytes: Vec<u8>,
    pub(super) cluster_bits: u32,
}

impl TestImage {
    pub(super) fn new(cluster_bits: u32, size: u64, l1_size: u32) -> Self {
        let mut bytes = fixed_header(cluster_bits, size, l1_size);
        bytes.resize(4 << cluster_bits, 0);
        Self { bytes, cluster_bits }
    }

    /// Offset of a cluster of the file.
    pub(super) fn at(&self, cluster: u64) -> u64 {
        cluster << self.cluster_bits
    }

    /// Makes the file end after so many clusters.
    pub(super) fn clusters(&mut self, count: u64) {
        self.bytes.resize(usize::try_from(self.at(count)).unwrap(), 0);
    }

    pub(super) fn l1(&mut self, index: u64, entry: u64) {
        let at = self.at(3) + index * 8;
        put_u64(&mut self.bytes, at, entry);
    }

    /// Writes an 8-byte word of the table in this cluster of the file.
    pub(super) fn l2(&mut self, cluster: u64, index: u64, entry: u64) {
        let at = self.at(cluster) + index * 8;
        put_u64(&mut self.bytes, at, entry);
    }

    pub(super) fn layer(self) -> Qcow2Layer {
        active(Arc::new(MemoryFile::new("disk.qcow2", self.bytes)), None)
    }
}

/// The active layer of an image of which these bytes cannot be read, once its header was.
pub(super) fn failing(image: TestImage, bad: Range<u64>) -> Qcow2Layer {
    let file = MemoryFile::new("disk.qcow2", image.bytes);
    let header = Header::read(&file).unwrap();
    let cache = Arc::new(ClusterCache::new(0));
    let file = Arc::new(FailingFile { file, bad });
    Qcow2Layer::active(&Qcow2Image::new(file, header, None, cache).unwrap())
}

/// The active layer of an image in a file.
pub(super) fn active(file: Arc<dyn Source>, data_file: Option<Arc<dyn Source>>) -> Qcow2Layer {
    let header = Header::read(file.as_ref()).unwrap();
    let cache = Arc::new(ClusterCache::new(1 << 20));
    Qcow2Layer::active(&Qcow2Image::new(file, header, data_file, cache).unwrap())
}

pub(super) fn words(layer: &dyn Layer, range: Range<u64>) -> Vec<Extent> {
    let mut words = Words::new(range);
    layer.words(&mut words);
    words.finish()
}

pub(super) fn says(range: Range<u64>, word: Word) -> Extent {
    Extent { range, word }
}

pub(super) fn host(at: u64) -> Word {
    Word::At(Slot::Host(HostOffset(at)))
}

/// What the layer's word for the byte at `guest` leads to.
pub(super) fn read(layer: &dyn Layer, guest: u64, len: usize) -> Result<Vec<u8>> {
    let mut buf = vec![0xee; len];
    match words(layer, guest..guest + len as u64)[0].word {
        Word::At(slot) => layer.read(slot, GuestOffset(guest), &mut buf)?,
        other => panic!("{other:?} at {guest}"),
    }
    Ok(buf)
}

/// A file of which some bytes cannot be read.
#[derive(Debug)]
struct FailingFile {
    file: MemoryFile,
    bad: Range<u64>,
}

impl Source for FailingFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    fn allocated(&self) -> u64 {
        self.file.allocated()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let end = offset + buf.len() as u64;
        if offset < self.bad.end && end > self.bad.start {
            return Err(Error::io_at(self.path(), offset, std::io::Error::other("bad sector")));
        }
        self.file.read_at(offset, buf)
    }

    fn allocation(&self, range: Range<u64>) -> Result<Vec<Allocation>> {
        self.file.allocation(range)
    }

    fn knows_unwritten(&self) -> bool {
        true
    }
}
