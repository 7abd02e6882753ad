//! An opened image: its header, its file, its data file, and how clusters are fetched from them.

use std::sync::Arc;

use super::bytes::{for_message, to_usize};
use super::header::{Compression, Encryption, Header};
use super::table::{Decoder, Packed};
use crate::codec;
use crate::error::{Defect, Error, Result};
use crate::extent::{GuestOffset, HostOffset, Slot};
use crate::layer::clusters::{ClusterCache, ClusterKey, Part};
use crate::source::Source;

/// An image that can be read: not encrypted, with its data file if it needs one. Its layers (the
/// active one and those of its snapshots) share it.
#[derive(Debug)]
pub struct Qcow2Image {
    /// No other opened image has it: the key of its clusters and tables in the cache.
    id: u64,
    file: Arc<dyn Source>,
    header: Header,
    data_file: Option<Arc<dyn Source>>,
    cache: Arc<ClusterCache>,
}

impl Qcow2Image {
    /// An image of this header in this file. `data_file` is what the header's name of an external
    /// data file leads to; where the header has none, it is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for an encrypted image, [`Error::MissingLayer`] without the data
    /// file that it needs.
    pub fn new(
        file: Arc<dyn Source>,
        header: Header,
        data_file: Option<Arc<dyn Source>>,
        cache: Arc<ClusterCache>,
    ) -> Result<Arc<Self>> {
        if let Some(encryption) = header.encryption {
            let method = match encryption {
                Encryption::Aes => "AES",
                Encryption::Luks { .. } => "LUKS",
            };
            let what = format!("the image is encrypted ({method})");
            return Err(Defect::unsupported(32, what).in_file(file.path()));
        }
        let data_file = match (&header.data_file, data_file) {
            (None, _) => None,
            (Some(name), None) => {
                let what = format!("its data file `{}` is missing", for_message(name));
                return Err(Error::MissingLayer { file: file.path().to_path_buf(), what });
            }
            (Some(_), data_file) => data_file,
        };
        Ok(Arc::new(Self { id: ClusterKey::new_file(), file, header, data_file, cache }))
    }

    /// An image of which only the tables are to be read: encrypted, or without the data file that
    /// it needs. Its clusters must be taken for lost ([`crate::layer::lost::TablesOnly`]).
    pub fn tables_only(
        file: Arc<dyn Source>,
        header: Header,
        cache: Arc<ClusterCache>,
    ) -> Arc<Self> {
        Arc::new(Self { id: ClusterKey::new_file(), file, header, data_file: None, cache })
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The image file.
    pub fn file(&self) -> &Arc<dyn Source> {
        &self.file
    }

    /// The image file, and the external data file.
    pub fn files(&self) -> impl Iterator<Item = &Arc<dyn Source>> {
        [Some(&self.file), self.data_file.as_ref()].into_iter().flatten()
    }

    /// The file that the offsets of uncompressed clusters count in.
    pub fn cluster_file(&self) -> &Arc<dyn Source> {
        self.data_file.as_ref().unwrap_or(&self.file)
    }

    pub(super) fn decoder(&self) -> Decoder {
        Decoder {
            geometry: self.header.geometry(),
            has_zero_flag: self.header.version >= 3,
            has_data_file: self.header.data_file.is_some(),
            image_end: self.file.len(),
        }
    }

    pub(super) fn read(&self, slot: Slot, guest: GuestOffset, buf: &mut [u8]) -> Result<()> {
        match slot {
            Slot::Host(HostOffset(at)) => self.cluster_file().read_padded(at, buf),
            Slot::Packed(descriptor) => self.read_packed(descriptor, guest, buf),
        }
    }

    fn read_packed(&self, descriptor: u64, guest: GuestOffset, buf: &mut [u8]) -> Result<()> {
        let key = ClusterKey { file: self.id, part: Part::Packed(descriptor) };
        let from = to_usize(guest.0 % self.header.cluster_size());
        if from == 0 && buf.len() == to_usize(self.header.cluster_size()) {
            return self.read_whole(descriptor, &key, buf);
        }
        let cluster = self.cache.get_or_try_insert_with(key, || self.unpack(descriptor))?;
        let bytes = cluster.get(from..).and_then(|rest| rest.get(..buf.len()));
        let bytes = bytes.ok_or_else(|| Error::Corrupt {
            file: self.file.path().to_path_buf(),
            offset: self.packed(descriptor).offset,
            what: format!("a read of {} bytes crosses a compressed cluster's end", buf.len()),
        })?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    /// Fills `buf`, as long as a cluster. Who takes a cluster as a whole has all of it and goes on:
    /// it is unpacked to where it is wanted, and does not take the place of what others come back
    /// for.
    fn read_whole(&self, descriptor: u64, key: &ClusterKey, buf: &mut [u8]) -> Result<()> {
        match self.cache.get(key) {
            Some(cluster) if cluster.len() == buf.len() => buf.copy_from_slice(&cluster),
            _ => self.unpack_to(descriptor, buf)?,
        }
        Ok(())
    }

    /// The bytes of a table that the file has: never more memory than that.
    pub(super) fn read_table(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let len = len.min(self.file.len().saturating_sub(offset));
        let mut bytes = vec![0; to_usize(len)];
        let got = self.file.read_at(offset, &mut bytes)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    /// [`Self::read_table`] by way of the cache. An error is not remembered.
    pub(super) fn table_block(&self, offset: u64, len: u64) -> Result<Arc<[u8]>> {
        if offset >= self.file.len() {
            // What weighs nothing would never leave the cache.
            return Ok(Arc::default());
        }
        let key = ClusterKey { file: self.id, part: Part::Table { offset, len } };
        self.cache.get_or_try_insert_with(key, || self.read_table(offset, len).map(Arc::from))
    }

    fn packed(&self, descriptor: u64) -> Packed {
        Packed::from_descriptor(descriptor, self.header.cluster_bits)
    }

    /// The compressed bytes that a descriptor stands for, and where they start. The last sector
    /// may lie past the end of the file, for sizes are rounded up.
    fn packed_bytes(&self, descriptor: u64) -> Result<(u64, Vec<u8>)> {
        let Packed { offset, len } = self.packed(descriptor);
        let len = len.min(self.file.len().saturating_sub(offset));
        let mut bytes = vec![0; to_usize(len)];
        self.file.read_exact(offset, &mut bytes)?;
        Ok((offset, bytes))
    }

    /// Whether a descriptor stands for exactly one cluster. `cluster` has room for it; returns how
    /// many bytes of the file were read.
    pub(super) fn check_packed(&self, descriptor: u64, cluster: &mut [u8]) -> Result<u64> {
        let (offset, input) = self.packed_bytes(descriptor)?;
        match self.header.compression {
            Compression::Deflate => codec::inflate_raw_exactly(&input, cluster),
            Compression::Zstd => codec::unzstd(&input, cluster),
        }
        .map_err(|what| Defect::corrupt(offset, what).in_file(self.file.path()))?;
        Ok(input.len() as u64)
    }

    /// The one cluster that a descriptor stands for.
    fn unpack(&self, descriptor: u64) -> Result<Arc<[u8]>> {
        let size = to_usize(self.header.cluster_size());
        let mut cluster: Arc<[u8]> = std::iter::repeat_n(0, size).collect();
        self.unpack_to(descriptor, Arc::make_mut(&mut cluster))?;
        Ok(cluster)
    }

    /// The same, into a buffer as long as a cluster.
    fn unpack_to(&self, descriptor: u64, cluster: &mut [u8]) -> Result<()> {
        let (offset, input) = self.packed_bytes(descriptor)?;
        match self.header.compression {
            Compression::Deflate => codec::inflate_raw(&input, cluster),
            Compression::Zstd => codec::unzstd(&input, cluster),
        }
        .map_err(|what| Defect::corrupt(offset, what).in_file(self.file.path()))
    }
}
