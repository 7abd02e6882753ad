//! Clusters packed by zstd, one after the other.

use std::ops::Range;

use zstd::bulk::Compressor;

use crate::error::{Error, Result};

/// zstd's own default.
const LEVEL: i32 = 3;
/// A run is written when it has so many bytes.
const FULL: usize = 4 << 20;

/// Packs clusters into a run.
pub(super) struct Packer {
    compressor: Option<Compressor<'static>>,
    cluster: usize,
    bytes: Vec<u8>,
    clusters: Vec<(u64, Range<u64>)>,
    /// The last cluster of a disk that is no whole one.
    padded: Vec<u8>,
}

/// Packed clusters: their bytes, and for each its offset on the disk and its part of the bytes.
pub(super) struct Run {
    pub(super) bytes: Vec<u8>,
    pub(super) clusters: Vec<(u64, Range<u64>)>,
}

impl Packer {
    pub(super) fn new(bits: u32) -> Self {
        Self {
            compressor: None,
            cluster: 1 << bits,
            bytes: Vec::new(),
            clusters: Vec::new(),
            padded: Vec::new(),
        }
    }

    pub(super) fn cluster(&self) -> usize {
        self.cluster
    }

    /// Packs a cluster. False if that does not make it smaller.
    pub(super) fn add(&mut self, at: u64, bytes: &[u8]) -> Result<bool> {
        let failed = |e| Error::io("zstd", e);
        let bytes = if bytes.len() < self.cluster {
            self.padded.clear();
            self.padded.extend_from_slice(bytes);
            self.padded.resize(self.cluster, 0);
            &self.padded
        } else {
            bytes
        };
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(Compressor::new(LEVEL).map_err(failed)?),
        };
        let start = self.bytes.len();
        // Room for one byte less than a cluster: what needs more is not packed.
        self.bytes.resize(start + self.cluster - 1, 0);
        let room = self.bytes.get_mut(start..).unwrap_or_default();
        let packed = compressor.compress_to_buffer(bytes, room).unwrap_or(0);
        self.bytes.truncate(start + packed);
        if packed > 0 {
            self.clusters.push((at, start as u64..self.bytes.len() as u64));
        }
        Ok(packed > 0)
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= FULL
    }

    /// What was packed since it was asked last.
    pub(super) fn take(&mut self) -> Option<Run> {
        let (bytes, clusters) =
            (std::mem::take(&mut self.bytes), std::mem::take(&mut self.clusters));
        (!clusters.is_empty()).then_some(Run { bytes, clusters })
    }
}
