//! The end of an image: L1 table, refcounts, header.

use std::sync::atomic::Ordering;

use super::{COPIED, ENTRY, Qcow2File, big_endian, reach};
use crate::error::{Error, Result};

const VERSION: u32 = 3;
/// Refcounts of 16 bits.
const REFCOUNT_ORDER: u32 = 4;
const REFCOUNT: u64 = 2;
/// The header up to and with the compression type, padded.
const HEADER: u32 = 112;
/// The incompatible feature "compression type", for which there is a byte in the header.
const COMPRESSION_TYPE: u64 = 1 << 3;
const ZSTD: u8 = 1;

/// Where the tables are that the header tells of.
struct Places {
    l1: u64,
    l1_entries: u64,
    refcounts: u64,
    refcount_clusters: u64,
}

impl Qcow2File<'_> {
    /// Writes everything that is left. Nobody writes to it any more.
    pub(super) fn write_end(&self) -> Result<()> {
        let l1_entries = self.virtual_size.div_ceil(reach(self.bits)).max(1);
        let l1 = self.write_l1(l1_entries)?;
        let (refcounts, refcount_clusters) = self.write_refcounts()?;
        let sync = || self.file.sync_all().map_err(|e| Error::io(&self.path, e));
        if !self.is_device {
            let end = self.next.load(Ordering::Relaxed);
            self.file.set_len(end).map_err(|e| Error::io(&self.path, e))?;
        }
        sync()?;
        self.write(0, &self.header(&Places { l1, l1_entries, refcounts, refcount_clusters }))?;
        sync()
    }

    fn write_l1(&self, entries: u64) -> Result<u64> {
        let at = self.append_table(entries * ENTRY)?;
        for (number, table) in &*self.tables.lock() {
            self.write(at + number * ENTRY, &big_endian(&[COPIED | table]))?;
        }
        Ok(at)
    }

    /// Writes the refcount of every cluster of the file; where the refcount table is, and how many
    /// clusters it has.
    fn write_refcounts(&self) -> Result<(u64, u64)> {
        let cluster = self.cluster();
        let in_block = cluster / REFCOUNT;
        let used = self.next.load(Ordering::Relaxed) / cluster;
        let (blocks, tables) = refcount_clusters(used, cluster);
        let first = self.append((blocks + tables) * cluster);
        let table = first + blocks * cluster;
        let addresses: Vec<u64> = (0..blocks).map(|n| first + n * cluster).collect();
        let whole = |mut bytes: Vec<u8>| {
            bytes.resize(bytes.len().next_multiple_of(usize::try_from(cluster).unwrap_or(1)), 0);
            bytes
        };
        self.write(table, &whole(big_endian(&addresses)))?;
        let mut packed = std::mem::take(&mut *self.packed.lock());
        for unused in self.unused.drain() {
            let count = usize::try_from((unused.end - unused.start) / cluster).unwrap_or(0);
            packed.push((unused.start / cluster, vec![0; count]));
        }
        packed.sort_by_key(|(first, _)| *first);
        let each = packed.into_iter().flat_map(|(first, run)| (first..).zip(run));
        let mut each = each.peekable();
        for (number, at) in (0..).zip(addresses) {
            let from = number * in_block;
            let to = (from + in_block).min(used + blocks + tables);
            let mut bytes = Vec::with_capacity(usize::try_from(cluster).unwrap_or(0));
            for cluster in from..to {
                let known = each.next_if(|(known, _)| *known == cluster);
                bytes.extend(known.map_or(1, |(_, count)| count).to_be_bytes());
            }
            self.write(at, &whole(bytes))?;
        }
        Ok((table, tables))
    }

    fn header(&self, places: &Places) -> Vec<u8> {
        let mut header = Vec::with_capacity(128);
        let word = |header: &mut Vec<u8>, value: u32| header.extend(value.to_be_bytes());
        let long = |header: &mut Vec<u8>, value: u64| header.extend(value.to_be_bytes());
        let short = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        header.extend(b"QFI\xfb");
        word(&mut header, VERSION);
        // No backing file.
        long(&mut header, 0);
        word(&mut header, 0);
        word(&mut header, self.bits);
        long(&mut header, self.virtual_size);
        // No encryption.
        word(&mut header, 0);
        word(&mut header, short(places.l1_entries));
        long(&mut header, places.l1);
        long(&mut header, places.refcounts);
        word(&mut header, short(places.refcount_clusters));
        // No snapshots.
        word(&mut header, 0);
        long(&mut header, 0);
        long(&mut header, if self.compressed { COMPRESSION_TYPE } else { 0 });
        // No compatible and no autoclear features.
        long(&mut header, 0);
        long(&mut header, 0);
        word(&mut header, REFCOUNT_ORDER);
        word(&mut header, HEADER);
        header.push(if self.compressed { ZSTD } else { 0 });
        // Padding, and the end of the header's extensions.
        header.resize(HEADER as usize + 8, 0);
        header
    }
}

/// The clusters of the refcount blocks, and of their table, that `used` clusters take. The blocks have
/// refcounts, too, and so has the table.
pub(super) fn refcount_clusters(used: u64, cluster: u64) -> (u64, u64) {
    let (mut blocks, mut tables) = (0, 0);
    loop {
        let more = (used + blocks + tables).div_ceil(cluster / REFCOUNT);
        let table = (more * ENTRY).div_ceil(cluster);
        if (more, table) == (blocks, tables) {
            return (blocks, tables);
        }
        (blocks, tables) = (more.max(blocks), table.max(tables));
    }
}
