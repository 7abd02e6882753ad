//! The header's fixed fields, with the specification's names.

use super::super::bytes::{u32_at, u64_at};
use crate::error::Defect;

pub(super) const MAGIC: &[u8] = b"QFI\xfb";
const V2_LENGTH: u32 = 72;
const V3_LENGTH: u32 = 104;

/// Fixed fields; where version 2 has none, what stands for their absence.
#[derive(Debug)]
pub(super) struct RawHeader {
    pub(super) version: u32,
    pub(super) backing_file_offset: u64,
    pub(super) backing_file_size: u32,
    pub(super) cluster_bits: u32,
    pub(super) size: u64,
    pub(super) crypt_method: u32,
    pub(super) l1_size: u32,
    pub(super) l1_table_offset: u64,
    pub(super) nb_snapshots: u32,
    pub(super) snapshots_offset: u64,
    pub(super) incompatible_features: u64,
    pub(super) autoclear_features: u64,
    pub(super) refcount_order: u32,
    pub(super) header_length: u32,
    pub(super) compression_type: u8,
}

impl RawHeader {
    /// Only the magic and the version are checked, for they say what the rest is.
    pub(super) fn from_bytes(bytes: &[u8], file_len: u64) -> Result<Self, Defect> {
        if !bytes.starts_with(MAGIC) {
            return Err(Defect::corrupt(0, "not a qcow2 image: its magic is missing"));
        }
        let cut = || {
            let what = format!("the file ends within its header, after {file_len} bytes");
            Defect::corrupt(file_len, what)
        };
        match u32_at(bytes, 4).ok_or_else(cut)? {
            2 => Self::version_2(bytes).ok_or_else(cut),
            3 => Self::version_3(bytes).ok_or_else(cut),
            1 => Err(Defect::unsupported(4, "qcow version 1 (it is no qcow2)")),
            other => Err(Defect::unsupported(4, format!("qcow2 version {other}"))),
        }
    }

    fn version_2(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            version: u32_at(bytes, 4)?,
            backing_file_offset: u64_at(bytes, 8)?,
            backing_file_size: u32_at(bytes, 16)?,
            cluster_bits: u32_at(bytes, 20)?,
            size: u64_at(bytes, 24)?,
            crypt_method: u32_at(bytes, 32)?,
            l1_size: u32_at(bytes, 36)?,
            l1_table_offset: u64_at(bytes, 40)?,
            // 48: refcount_table_offset, 56: refcount_table_clusters. A reader needs neither.
            nb_snapshots: u32_at(bytes, 60)?,
            snapshots_offset: u64_at(bytes, 64)?,
            incompatible_features: 0,
            autoclear_features: 0,
            refcount_order: 4,
            header_length: V2_LENGTH,
            compression_type: 0,
        })
    }

    fn version_3(bytes: &[u8]) -> Option<Self> {
        let header_length = u32_at(bytes, 100)?;
        let compression_type = if header_length > V3_LENGTH { *bytes.get(104)? } else { 0 };
        Some(Self {
            incompatible_features: u64_at(bytes, 72)?,
            // 80: compatible_features. None of them concerns a reader.
            autoclear_features: u64_at(bytes, 88)?,
            refcount_order: u32_at(bytes, 96)?,
            header_length,
            compression_type,
            ..Self::version_2(bytes)?
        })
    }

    /// What `header_length` must be at least.
    pub(super) fn shortest_length(&self) -> u32 {
        if self.version == 2 { V2_LENGTH } else { V3_LENGTH }
    }

    /// Of a `cluster_bits` that was checked, else anything.
    pub(super) fn cluster_size(&self) -> u64 {
        1_u64.checked_shl(self.cluster_bits).unwrap_or(0)
    }

    /// Where the extensions end at the latest: at the backing file's name, if there is one.
    pub(super) fn extensions_end(&self) -> u64 {
        if self.backing_file_offset == 0 { self.cluster_size() } else { self.backing_file_offset }
    }
}
