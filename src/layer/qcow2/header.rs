//! The header: what the first cluster of an image says about the rest (qcow2 specification,
//! "Header", "Header extensions").

mod extensions;
mod raw;
#[cfg(test)]
mod tests;

use self::extensions::{Extensions, Parts, feature_names};
use self::raw::RawHeader;
use super::bytes::{for_message, to_usize};
use super::table::Geometry;
use crate::error::{Defect, Result};
use crate::source::Source;

const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Below 16 KiB a subcluster would be less than a sector.
const EXTENDED_L2_CLUSTER_BITS: u32 = 14;
/// 32 MiB of entries, as QEMU has it.
const MOST_L1_ENTRIES: u32 = (32 << 20) / 8;
const MOST_SNAPSHOTS: u32 = 65_536;
const LONGEST_BACKING_NAME: u32 = 1023;
const HIGHEST_REFCOUNT_ORDER: u32 = 6;
const SECTOR: u64 = 512;

mod incompatible {
    pub(super) const DIRTY: u64 = 1;
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const DATA_FILE: u64 = 1 << 2;
    pub(super) const COMPRESSION: u64 = 1 << 3;
    pub(super) const EXTENDED_L2: u64 = 1 << 4;
    pub(super) const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

mod autoclear {
    pub(super) const BITMAPS: u64 = 1;
    pub(super) const RAW_DATA_FILE: u64 = 1 << 1;
}

/// Whether a file that begins so claims to be a qcow2 image (of any version).
pub fn is_qcow2(bytes: &[u8]) -> bool {
    bytes.starts_with(raw::MAGIC)
}

/// What a valid header says. Offsets and sizes are bytes; offsets are those of the image file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Binary logarithm of the cluster size: 9 to 21.
    pub cluster_bits: u32,
    /// Size of the virtual disk. Like QEMU, it leaves out what exceeds a multiple of 512.
    pub virtual_size: u64,
    /// Name of the backing file, as written: a hint from whoever wrote the image.
    pub backing_file: Option<Vec<u8>>,
    /// Format of the backing file, where the image names it.
    pub backing_format: Option<String>,
    /// Name of the external data file; it holds the clusters if there is one.
    pub data_file: Option<Vec<u8>>,
    /// Whether the external data file alone is the disk, too.
    pub data_file_is_raw: bool,
    /// How the clusters are encrypted.
    pub encryption: Option<Encryption>,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// Whether L2 entries have bits for each 32nd part of a cluster.
    pub extended_l2: bool,
    /// Where the active L1 table starts.
    pub l1_offset: u64,
    /// Entries of the active L1 table: enough for the virtual size.
    pub l1_size: u32,
    /// Number of internal snapshots.
    pub snapshot_count: u32,
    /// Where the table of snapshots starts.
    pub snapshots_offset: u64,
    /// Where the names of the bitmaps are, or why that cannot be told; `None` as well where they are
    /// stale.
    pub bitmaps: Option<Result<BitmapDirectory, Defect>>,
    incompatible_features: u64,
}

/// Compression type of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate streams.
    Deflate,
    /// zstd frames.
    Zstd,
}

/// Encryption of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// The old AES-CBC.
    Aes,
    /// LUKS, whose own header lies in the image.
    Luks {
        /// Where that header starts.
        offset: u64,
        /// Its bytes.
        length: u64,
    },
}

/// Where the directory of bitmaps is. Nothing in it was checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitmapDirectory {
    /// Number of bitmaps.
    pub count: u32,
    /// Bytes of the directory.
    pub size: u64,
    /// Where it starts.
    pub offset: u64,
}

impl Header {
    /// Bytes from the start of a file that are enough for the header of nearly every image.
    pub const FIRST_READ: usize = 4096;

    /// Reads and parses the header of `file`: 4 KiB of it, or its first cluster where extensions
    /// or the backing file's name go further.
    pub fn read(file: &dyn Source) -> Result<Self> {
        Self::read_on(file, read_start(file, Self::FIRST_READ as u64)?)
    }

    /// The same, where the beginning of the file was read already: [`Self::FIRST_READ`] bytes, or all
    /// that there are.
    pub fn read_on(file: &dyn Source, start: Vec<u8>) -> Result<Self> {
        let mut bytes = start;
        if Self::bytes_needed(&bytes) > bytes.len() as u64 && (bytes.len() as u64) < file.len() {
            let cluster_bits = RawHeader::from_bytes(&bytes, file.len())
                .map_or(0, |raw| raw.cluster_bits.min(*CLUSTER_BITS.end()));
            bytes = read_start(file, 1 << cluster_bits)?;
        }
        Self::parse(&bytes, file.len()).map_err(|defect| defect.in_file(file.path()))
    }

    /// How many bytes from the start of the file [`Self::parse`] has to be given, as far as
    /// `prefix` can tell: never more than one cluster. Once it is no more than `prefix` has, that
    /// is enough.
    pub fn bytes_needed(prefix: &[u8]) -> u64 {
        match RawHeader::from_bytes(prefix, prefix.len() as u64) {
            Ok(raw) if CLUSTER_BITS.contains(&raw.cluster_bits) => {
                let end = Extensions::new(prefix, &raw).end_of_list();
                let name_end = raw.backing_file_offset.saturating_add(raw.backing_file_size.into());
                end.max(name_end).min(raw.cluster_size())
            }
            _ => 0,
        }
    }

    /// Parses a header from the beginning of a file of `file_len` bytes: all that
    /// [`Self::bytes_needed`] asks for, or all that there is.
    pub fn parse(bytes: &[u8], file_len: u64) -> Result<Self, Defect> {
        let raw = RawHeader::from_bytes(bytes, file_len)?;
        check_cluster_bits(&raw)?;
        check_header_length(&raw)?;
        check_features(&raw, bytes)?;
        check_limits(&raw)?;
        let compression = compression(&raw)?;
        check_l1(&raw)?;
        let name_end = check_backing_name(&raw)?;
        let parts = Parts::collect(Extensions::new(bytes, &raw))?;
        let backing_file = match name_end {
            Some(end) => Some(backing_name(&raw, end, bytes)?),
            None => None,
        };
        let data_file = data_file(&raw, parts.data_file)?;
        Ok(Self {
            version: raw.version,
            cluster_bits: raw.cluster_bits,
            virtual_size: raw.size - raw.size % SECTOR,
            backing_file,
            backing_format: parts.backing_format,
            data_file_is_raw: data_file.is_some()
                && raw.autoclear_features & autoclear::RAW_DATA_FILE != 0,
            data_file,
            encryption: encryption(&raw, parts.luks)?,
            compression,
            extended_l2: raw.incompatible_features & incompatible::EXTENDED_L2 != 0,
            l1_offset: raw.l1_table_offset,
            l1_size: raw.l1_size,
            snapshot_count: raw.nb_snapshots,
            snapshots_offset: raw.snapshots_offset,
            // Without the bit, somebody wrote to the image who knew nothing of bitmaps.
            bitmaps: parts.bitmaps.filter(|_| raw.autoclear_features & autoclear::BITMAPS != 0),
            incompatible_features: raw.incompatible_features,
        })
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Whether refcounts may be out of date. Reading is none the worse for it.
    pub fn is_dirty(&self) -> bool {
        self.incompatible_features & incompatible::DIRTY != 0
    }

    /// Whether QEMU found the metadata damaged and marked the image so.
    pub fn is_corrupt(&self) -> bool {
        self.incompatible_features & incompatible::CORRUPT != 0
    }

    pub(super) fn geometry(&self) -> Geometry {
        Geometry { cluster_bits: self.cluster_bits, extended: self.extended_l2 }
    }
}

fn read_start(file: &dyn Source, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; to_usize(len.min(file.len()))];
    let got = file.read_at(0, &mut bytes)?;
    bytes.truncate(got);
    Ok(bytes)
}

fn check_cluster_bits(raw: &RawHeader) -> Result<(), Defect> {
    let bits = raw.cluster_bits;
    if bits < *CLUSTER_BITS.start() {
        return Err(Defect::corrupt(20, format!("clusters of 2^{bits} bytes (at least 2^9)")));
    }
    if bits > *CLUSTER_BITS.end() {
        return Err(Defect::unsupported(20, format!("clusters of 2^{bits} bytes (at most 2^21)")));
    }
    Ok(())
}

fn check_header_length(raw: &RawHeader) -> Result<(), Defect> {
    let (length, cluster) = (raw.header_length, raw.cluster_size());
    if length < raw.shortest_length() {
        let what = format!("a header of {length} bytes (at least {})", raw.shortest_length());
        return Err(Defect::corrupt(100, what));
    }
    if u64::from(length) > cluster {
        let what = format!("a header of {length} bytes in a cluster of {cluster}");
        return Err(Defect::corrupt(100, what));
    }
    Ok(())
}

fn check_features(raw: &RawHeader, bytes: &[u8]) -> Result<(), Defect> {
    let unknown = raw.incompatible_features & !incompatible::KNOWN;
    if unknown != 0 {
        let names = feature_names(Extensions::new(bytes, raw));
        let listed: Vec<String> = (0..64_u8)
            .filter(|bit| unknown >> bit & 1 == 1)
            .map(|bit| match names.iter().find(|(named, _)| *named == bit) {
                Some((_, name)) => format!("bit {bit} ({})", for_message(name)),
                None => format!("bit {bit}"),
            })
            .collect();
        let what = format!("unknown incompatible feature: {}", listed.join(", "));
        return Err(Defect::unsupported(72, what));
    }
    let extended = raw.incompatible_features & incompatible::EXTENDED_L2 != 0;
    if extended && raw.cluster_bits < EXTENDED_L2_CLUSTER_BITS {
        let what = format!("extended L2 entries with clusters of 2^{} bytes", raw.cluster_bits);
        return Err(Defect::corrupt(20, format!("{what} (at least 2^14)")));
    }
    Ok(())
}

fn check_limits(raw: &RawHeader) -> Result<(), Defect> {
    if raw.refcount_order > HIGHEST_REFCOUNT_ORDER {
        let what = format!("refcounts of 2^{} bits (at most 2^6)", raw.refcount_order);
        return Err(Defect::corrupt(96, what));
    }
    if raw.nb_snapshots > MOST_SNAPSHOTS {
        let what = format!("{} snapshots (at most {MOST_SNAPSHOTS})", raw.nb_snapshots);
        return Err(Defect::corrupt(60, what));
    }
    Ok(())
}

fn compression(raw: &RawHeader) -> Result<Compression, Defect> {
    let flagged = raw.incompatible_features & incompatible::COMPRESSION != 0;
    match (raw.compression_type, flagged) {
        (0, false) => Ok(Compression::Deflate),
        (1, true) => Ok(Compression::Zstd),
        (0, true) => {
            Err(Defect::corrupt(72, "the compression type bit is set, but the type is deflate"))
        }
        (1, false) => {
            Err(Defect::corrupt(72, "the compression type is zstd, but its bit is not set"))
        }
        (other, _) => Err(Defect::unsupported(104, format!("compression type {other}"))),
    }
}

fn check_l1(raw: &RawHeader) -> Result<(), Defect> {
    let (entries, offset) = (raw.l1_size, raw.l1_table_offset);
    if entries > MOST_L1_ENTRIES {
        let what = format!("an L1 table of {entries} entries (at most {MOST_L1_ENTRIES})");
        return Err(Defect::corrupt(36, what));
    }
    if !offset.is_multiple_of(raw.cluster_size()) {
        let what = format!("the L1 table is at {offset}, which is no multiple of the cluster size");
        return Err(Defect::corrupt(40, what));
    }
    if offset == 0 && entries > 0 {
        return Err(Defect::corrupt(40, "the L1 table is at 0, where the header is"));
    }
    if i64::try_from(offset).is_err() {
        return Err(Defect::corrupt(40, format!("the L1 table is at {offset}, past any file")));
    }
    let extended = raw.incompatible_features & incompatible::EXTENDED_L2 != 0;
    let needed = Geometry { cluster_bits: raw.cluster_bits, extended }.l1_entries_for(raw.size);
    if u64::from(entries) < needed {
        let what = format!("an L1 table of {entries} entries for a disk of {} bytes", raw.size);
        return Err(Defect::corrupt(36, format!("{what} (it needs {needed})")));
    }
    Ok(())
}

/// Where the backing file's name ends, if there is one.
fn check_backing_name(raw: &RawHeader) -> Result<Option<u64>, Defect> {
    let (offset, length) = (raw.backing_file_offset, raw.backing_file_size);
    if offset == 0 {
        return Ok(None);
    }
    let room = raw.cluster_size().checked_sub(offset).ok_or_else(|| {
        Defect::corrupt(8, format!("the backing file's name is at {offset}, past the cluster"))
    })?;
    if length > LONGEST_BACKING_NAME || u64::from(length) > room {
        let most = room.min(LONGEST_BACKING_NAME.into());
        let what = format!("the backing file's name has {length} bytes (here at most {most})");
        return Err(Defect::corrupt(16, what));
    }
    Ok((length > 0).then_some(offset + u64::from(length)))
}

fn backing_name(raw: &RawHeader, end: u64, bytes: &[u8]) -> Result<Vec<u8>, Defect> {
    let range = to_usize(raw.backing_file_offset)..to_usize(end);
    bytes.get(range).map(<[u8]>::to_vec).ok_or_else(|| {
        Defect::corrupt(raw.backing_file_offset, "the file ends within the backing file's name")
    })
}

fn data_file(raw: &RawHeader, name: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Defect> {
    if raw.incompatible_features & incompatible::DATA_FILE == 0 {
        return Ok(None);
    }
    match name {
        Some(name) if !name.is_empty() => Ok(Some(name)),
        _ => Err(Defect::corrupt(72, "the image has an external data file, but not its name")),
    }
}

fn encryption(raw: &RawHeader, luks: Option<(u64, u64)>) -> Result<Option<Encryption>, Defect> {
    match (raw.crypt_method, luks) {
        (2, Some((offset, length))) => Ok(Some(Encryption::Luks { offset, length })),
        (2, None) => Err(Defect::corrupt(32, "encrypted by LUKS, but there is no LUKS header")),
        (0 | 1, Some(_)) => Err(Defect::corrupt(32, "a LUKS header, but not encrypted by LUKS")),
        (0, None) => Ok(None),
        (1, None) => Ok(Some(Encryption::Aes)),
        (other, _) => Err(Defect::unsupported(32, format!("encryption method {other}"))),
    }
}
