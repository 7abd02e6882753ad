//! The disk that one L1 table of an image maps.
//!
//! The L1 table is read at the first question and kept, for there is one for each 512 MiB of a
//! usual disk; L2 tables are not kept, since the map above keeps what was made of them. Of an L2
//! table only the entries of the asked range are read, in one go.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::bytes::to_usize;
use super::image::Qcow2Image;
use super::snapshot::Snapshot;
use super::table::{Decoder, SUBCLUSTERS, TableAt, is_compressed};
use crate::error::Result;
use crate::extent::{Fault, GuestOffset, Slot, Word, Words};
use crate::layer::Layer;
use crate::source::Source;

/// The active disk of an image, or that of one of its snapshots.
#[derive(Debug)]
pub struct Qcow2Layer {
    image: Arc<Qcow2Image>,
    decoder: Decoder,
    virtual_size: u64,
    l1_offset: u64,
    /// Entries that the table claims to have and the virtual size needs. A snapshot's table may
    /// have fewer than that: what they would map is unallocated.
    l1_len: u64,
    /// Those of them that the file has.
    l1: OnceLock<Box<[u64]>>,
    has_packed: OnceLock<bool>,
}

impl Qcow2Layer {
    /// The disk as it was when the image was last written.
    pub fn active(image: &Arc<Qcow2Image>) -> Self {
        let header = image.header();
        Self::new(image, header.l1_offset, header.l1_size, header.virtual_size)
    }

    /// The disk as it was when the snapshot was taken, of the size that it had.
    pub fn of_snapshot(image: &Arc<Qcow2Image>, snapshot: &Snapshot) -> Self {
        Self::new(image, snapshot.l1_offset, snapshot.l1_size, snapshot.virtual_size)
    }

    fn new(image: &Arc<Qcow2Image>, l1_offset: u64, l1_size: u32, virtual_size: u64) -> Self {
        let decoder = image.decoder();
        Self {
            decoder,
            virtual_size,
            l1_offset,
            l1_len: decoder.geometry.l1_entries_for(virtual_size).min(l1_size.into()),
            l1: OnceLock::new(),
            has_packed: OnceLock::new(),
            image: Arc::clone(image),
        }
    }

    /// The image that it is a layer of.
    pub fn image(&self) -> &Arc<Qcow2Image> {
        &self.image
    }

    fn file(&self) -> &dyn Source {
        self.image.file().as_ref()
    }

    /// The entries that the file has. Two threads may both read them; both read the same.
    fn l1(&self) -> Result<&[u64]> {
        if let Some(l1) = self.l1.get() {
            return Ok(l1);
        }
        let bytes = self.read_table(self.l1_offset, self.l1_len * 8)?;
        let entries = bytes.as_chunks().0.iter().copied().map(u64::from_be_bytes).collect();
        Ok(self.l1.get_or_init(|| entries))
    }

    /// The bytes of a table that the file has: never more memory than that.
    fn read_table(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let file = self.file();
        let len = len.min(file.len().saturating_sub(offset));
        let mut bytes = vec![0; to_usize(len)];
        let got = file.read_at(offset, &mut bytes)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    /// What the L1 entry `index` says.
    fn table_at(&self, index: u64, entry: u64) -> TableAt {
        let table = self.decoder.l1_entry(entry);
        if let TableAt::Bad(fault) = table {
            let at = self.l1_offset.saturating_add(index * 8);
            let name = self.file().path().display();
            log::warn!("{name}: entry {index} of the L1 table, at byte {at}: {fault}");
        }
        table
    }

    fn say_tables(&self, l1: &[u64], end: u64, words: &mut Words) {
        let reach = self.decoder.geometry.table_reach();
        while words.next() < end {
            let index = words.next() / reach;
            if index >= self.l1_len {
                return words.push_until(end, Word::Below);
            }
            // Cannot overflow: `l1_len` is at most 2^22, and `reach` at most 2^39.
            let Some(entry) = l1.get(to_usize(index)) else {
                self.say_lost_tables(end.min(self.l1_len * reach), words);
                continue;
            };
            let table_end = ((index + 1) * reach).min(end);
            match self.table_at(index, *entry) {
                TableAt::Nowhere => words.push_until(table_end, Word::Below),
                TableAt::Bad(fault) => words.push_until(table_end, Word::Bad(fault)),
                TableAt::Offset(table) => self.say_clusters(table, table_end, words),
            }
        }
    }

    /// Speaks for what those entries of the L1 table map that the file does not have.
    fn say_lost_tables(&self, end: u64, words: &mut Words) {
        let (name, at) = (self.file().path().display(), self.l1_offset);
        let fault = Fault::PastEnd;
        log::warn!("{name}: the L1 table at byte {at}: {fault}");
        words.push_until(end, Word::Bad(fault));
    }

    /// Speaks for the bytes up to `end`, all of which the L2 table at `table` maps.
    fn say_clusters(&self, table: u64, end: u64, words: &mut Words) {
        let geometry = self.decoder.geometry;
        let index = |guest: u64| (guest >> geometry.cluster_bits) % geometry.l2_entries();
        let (first, last) = (index(words.next()), index(end - 1));
        let offset = table + first * geometry.l2_entry_size();
        let wanted = (last - first + 1) * geometry.l2_entry_size();
        let entries = match self.read_table(offset, wanted) {
            Ok(entries) => entries,
            Err(e) => {
                log::error!("part of the L2 table at byte {table} cannot be read: {e}");
                return words.push_until(end, Word::Bad(Fault::Unreadable));
            }
        };
        let mut faults = Faults::default();
        if geometry.extended {
            self.say_extended(&entries, end, words, &mut faults);
        } else {
            self.say_standard(&entries, end, words, &mut faults);
        }
        if words.next() < end {
            faults.count(Fault::PastEnd, words.next());
            words.push_until(end, Word::Bad(Fault::PastEnd));
        }
        faults.log(self.file(), table);
    }

    fn say_standard(&self, entries: &[u8], end: u64, words: &mut Words, faults: &mut Faults) {
        let size = self.decoder.geometry.cluster_size();
        let mut cluster = words.next() - words.next() % size;
        for entry in entries.as_chunks().0 {
            let word = self.decoder.cluster(u64::from_be_bytes(*entry), cluster);
            if let Word::Bad(fault) = word {
                faults.count(fault, cluster);
            }
            let inside = words.next() - cluster;
            words.push_until((cluster + size).min(end), advance(word, inside));
            cluster += size;
        }
    }

    fn say_extended(&self, entries: &[u8], end: u64, words: &mut Words, faults: &mut Faults) {
        let size = self.decoder.geometry.cluster_size();
        let part = size / u64::from(SUBCLUSTERS);
        let mut cluster = words.next() - words.next() % size;
        let (entries, _) = entries.as_chunks().0.as_chunks();
        for [entry, bitmap] in entries {
            let (entry, bitmap) = (u64::from_be_bytes(*entry), u64::from_be_bytes(*bitmap));
            let parts = self.decoder.subclusters(entry, bitmap, cluster);
            if let Some(fault) = parts.fault() {
                faults.count(fault, cluster);
            }
            let mut done = 0;
            while done < SUBCLUSTERS {
                let (word, until) = parts.run_from(done);
                let run_end = (cluster + u64::from(until) * part).min(end);
                // Nothing is pushed where the asked range begins after this run.
                let inside = words.next() - cluster;
                words.push_until(run_end, advance(word, inside));
                done = until;
            }
            cluster += size;
        }
    }

    /// Whether the first L2 table has a compressed cluster. `None`: it cannot be told.
    fn has_packed(&self, l1: &[u64]) -> Option<bool> {
        if let Some(known) = self.has_packed.get() {
            return Some(*known);
        }
        let geometry = self.decoder.geometry;
        let first = l1.iter().find_map(|entry| match self.decoder.l1_entry(*entry) {
            TableAt::Offset(table) => Some(table),
            _ => None,
        });
        let found = match first {
            None => false,
            Some(table) => {
                let bytes = self.read_table(table, geometry.cluster_size()).ok()?;
                let entries = bytes.as_chunks().0.iter().copied().map(u64::from_be_bytes);
                entries.step_by(to_usize(geometry.l2_entry_size() / 8)).any(is_compressed)
            }
        };
        Some(*self.has_packed.get_or_init(|| found))
    }
}

impl Layer for Qcow2Layer {
    fn path(&self) -> &Path {
        self.image.file().path()
    }

    fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    fn words(&self, words: &mut Words) {
        let end = words.range().end.min(self.virtual_size);
        if words.next() >= end {
            return;
        }
        match self.l1() {
            Ok(l1) => self.say_tables(l1, end, words),
            Err(e) => {
                log::error!("the L1 table at byte {} cannot be read: {e}", self.l1_offset);
                words.push_until(end, Word::Bad(Fault::Unreadable));
            }
        }
    }

    fn read(&self, slot: Slot, guest: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.image.read(slot, guest, buf)
    }

    /// What the file that holds the clusters occupies, at most the virtual size. Where the first
    /// L2 table has compressed clusters, that would be too little: then it is all that the
    /// existing L2 tables could map. Reads the L1 table and one L2 table, once.
    fn allocated_at_most(&self) -> u64 {
        let occupied = self.image.cluster_file().allocated().min(self.virtual_size);
        if self.decoder.has_data_file {
            return occupied;
        }
        let Ok(l1) = self.l1() else { return self.virtual_size };
        let packed = self.has_packed(l1) != Some(false);
        let reach = self.decoder.geometry.table_reach();
        let tables = l1.iter().filter(|e| self.decoder.l1_entry(**e) != TableAt::Nowhere).count();
        let mapped = (tables as u64).saturating_mul(reach).min(self.virtual_size);
        if packed { mapped } else { mapped.min(occupied) }
    }
}

/// The word of a byte that lies `by` further on in the same cluster.
fn advance(word: Word, by: u64) -> Word {
    match word {
        Word::At(slot) => Word::At(slot.advance(by)),
        other => other,
    }
}

/// The clusters of one L2 table that cannot be read: one line in the log, not one for each.
#[derive(Default)]
struct Faults {
    first: Option<(Fault, u64)>,
    count: u64,
}

impl Faults {
    fn count(&mut self, fault: Fault, guest: u64) {
        self.first.get_or_insert((fault, guest));
        self.count += 1;
    }

    fn log(&self, file: &dyn Source, table: u64) {
        let Some((fault, guest)) = self.first else { return };
        let (name, count) = (file.path().display(), self.count);
        log::warn!(
            "{name}: the L2 table at byte {table}: {count} bad entries, the first of them for \
             the cluster at {guest} of the disk: {fault}"
        );
    }
}

#[cfg(test)]
mod tests;
