//! The disk that one L1 table of an image maps.
//!
//! Of the L1 table only the blocks that are needed are read, and kept within the bound of the
//! cache of clusters. L2 tables are not kept, since the map above keeps what was made of them; of
//! an L2 table only the entries of the asked range are read, in one go.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use log::Level;

use super::bytes::to_usize;
use super::image::Qcow2Image;
use super::l1::{Block, L1Table};
use super::snapshot::Snapshot;
use super::table::{Decoder, SUBCLUSTERS, TableAt, is_compressed};
use crate::error::Result;
use crate::extent::{Fault, GuestOffset, Slot, Word, Words};
use crate::fault_log;
use crate::layer::{Layer, Reserved};
use crate::source::{Hold, Source};

/// An entry of an L2 table that maps nothing; its word is the same at every cluster.
const EMPTY: [u8; 8] = [0; 8];

/// The active disk of an image, or that of one of its snapshots.
#[derive(Debug)]
pub struct Qcow2Layer {
    pub(super) image: Arc<Qcow2Image>,
    pub(super) decoder: Decoder,
    virtual_size: u64,
    /// A snapshot's table may have fewer entries than the virtual size needs: what they would map
    /// is unallocated.
    pub(super) l1: L1Table,
    /// [`Layer::allocated_at_most`], once it is known.
    allocated: OnceLock<u64>,
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
            l1: L1Table {
                offset: l1_offset,
                len: decoder.geometry.l1_entries_for(virtual_size).min(l1_size.into()),
            },
            allocated: OnceLock::new(),
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

    /// What the L1 entry `index` says.
    fn table_at(&self, index: u64, entry: u64) -> TableAt {
        let table = self.decoder.l1_entry(entry);
        if let TableAt::Bad(fault) = table {
            let at = self.l1.entry_offset(index);
            let name = self.file().path().display();
            if fault_log::admits(Level::Warn, self.file().path()) {
                log::warn!("{name}: entry {index} of the L1 table, at byte {at}: {fault}");
            }
        }
        table
    }

    fn say_tables(&self, end: u64, words: &mut Words) {
        // No product of an index and this can overflow: there are at most 2^22 indices, and it is
        // at most 2^39.
        let reach = self.decoder.geometry.table_reach();
        while words.next() < end {
            let index = words.next() / reach;
            if index >= self.l1.len {
                return words.push_until(end, Word::Below);
            }
            match self.l1.block_around(index, &self.image) {
                Ok(block) => self.say_block(&block, end, words),
                Err(e) => {
                    let from = self.l1.offset;
                    if fault_log::admits(Level::Error, self.file().path()) {
                        log::error!("part of the L1 table at byte {from} cannot be read: {e}");
                    }
                    let block_end = self.l1.indices_around(index).end * reach;
                    words.push_until(block_end.min(end), Word::Bad(Fault::Unreadable));
                }
            }
        }
    }

    /// Speaks for what a block of the L1 table maps, up to `end`.
    fn say_block(&self, block: &Block, end: u64, words: &mut Words) {
        let reach = self.decoder.geometry.table_reach();
        let block_end = (block.indices.end * reach).min(end);
        while words.next() < block_end {
            let index = words.next() / reach;
            let Some(entry) = block.get(index) else {
                // Nor does the file have any block that follows.
                return self.say_lost_tables(end.min(self.l1.len * reach), words);
            };
            let table_end = ((index + 1) * reach).min(end);
            match self.table_at(index, entry) {
                TableAt::Nowhere => words.push_until(table_end, Word::Below),
                TableAt::Bad(fault) => words.push_until(table_end, Word::Bad(fault)),
                TableAt::Offset(table) => self.say_clusters(table, table_end, words),
            }
        }
    }

    /// Speaks for what those entries of the L1 table map that the file does not have.
    fn say_lost_tables(&self, end: u64, words: &mut Words) {
        let (name, at) = (self.file().path().display(), self.l1.offset);
        let fault = Fault::PastEnd;
        if fault_log::admits(Level::Warn, self.file().path()) {
            log::warn!("{name}: the L1 table at byte {at}: {fault}");
        }
        words.push_until(end, Word::Bad(fault));
    }

    /// Speaks for the bytes up to `end`, all of which the L2 table at `table` maps.
    fn say_clusters(&self, table: u64, end: u64, words: &mut Words) {
        let geometry = self.decoder.geometry;
        let index = |guest: u64| (guest >> geometry.cluster_bits) % geometry.l2_entries();
        let (first, last) = (index(words.next()), index(end - 1));
        let offset = table + first * geometry.l2_entry_size();
        let wanted = (last - first + 1) * geometry.l2_entry_size();
        let entries = match self.image.read_table(offset, wanted) {
            Ok(entries) => entries,
            Err(e) => {
                if fault_log::admits(Level::Error, self.file().path()) {
                    log::error!("part of the L2 table at byte {table} cannot be read: {e}");
                }
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
        // Of an increment's tables nearly all is nothing: what is alike is said in one go.
        for run in entries.as_chunks::<8>().0.chunk_by(|a, b| *a == EMPTY && *b == EMPTY) {
            let run_end = cluster + run.len() as u64 * size;
            let Some(entry) = run.first() else { continue };
            let word = self.decoder.cluster(u64::from_be_bytes(*entry), cluster);
            if let Word::Bad(fault) = word {
                faults.count(fault, cluster);
            }
            let inside = words.next() - cluster;
            words.push_until(run_end.min(end), advance(word, inside));
            cluster = run_end;
        }
    }

    fn say_extended(&self, entries: &[u8], end: u64, words: &mut Words, faults: &mut Faults) {
        let size = self.decoder.geometry.cluster_size();
        let part = self.decoder.geometry.granularity();
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

    /// Looks through the whole L1 table.
    fn existing_tables(&self) -> Result<ExistingTables> {
        let mut existing = ExistingTables { count: 0, first: None };
        let mut index = 0;
        while index < self.l1.len {
            let block = self.l1.block_around(index, &self.image)?;
            for entry in block.entries() {
                let table = self.decoder.l1_entry(entry);
                existing.count += u64::from(table != TableAt::Nowhere);
                if let (None, TableAt::Offset(at)) = (existing.first, table) {
                    existing.first = Some(at);
                }
            }
            if block.is_cut() {
                break;
            }
            index = block.indices.end;
        }
        Ok(existing)
    }

    /// Whether an L2 table has a compressed cluster.
    fn has_packed(&self, table: u64) -> Result<bool> {
        let geometry = self.decoder.geometry;
        let bytes = self.image.read_table(table, geometry.cluster_size())?;
        let entries = bytes.as_chunks().0.iter().copied().map(u64::from_be_bytes);
        Ok(entries.step_by(to_usize(geometry.l2_entry_size() / 8)).any(is_compressed))
    }
}

/// What the L1 table says of the L2 tables.
struct ExistingTables {
    /// How many there are, bad ones too.
    count: u64,
    /// Where the first good one is.
    first: Option<u64>,
}

impl Layer for Qcow2Layer {
    fn path(&self) -> &Path {
        self.image.file().path()
    }

    fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    fn hold(&self, held: &mut Vec<Hold>) {
        held.extend(self.image.files().filter_map(|file| file.hold()));
    }

    fn granularity(&self) -> u64 {
        self.decoder.geometry.granularity()
    }

    fn words(&self, words: &mut Words) {
        let end = words.range().end.min(self.virtual_size);
        if words.next() >= end {
            return;
        }
        self.say_tables(end, words);
    }

    fn empty_until(&self, offset: u64) -> u64 {
        let reach = self.decoder.geometry.table_reach();
        let mut index = offset / reach;
        while index < self.l1.len {
            // What cannot be read or was cut off is not empty but unknown.
            let Ok(block) = self.l1.block_around(index, &self.image) else { break };
            let empty = block
                .entries_from(index)
                .take_while(|(_, entry)| self.decoder.l1_entry(*entry) == TableAt::Nowhere);
            index = empty.last().map_or(index, |(last, _)| last + 1);
            if index < block.indices.end {
                break;
            }
        }
        if index >= self.l1.len {
            return u64::MAX;
        }
        (index * reach).max(offset)
    }

    fn read(&self, slot: Slot, guest: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.image.read(slot, guest, buf)
    }

    fn plain_file(&self) -> Option<&Arc<dyn Source>> {
        Some(self.image.cluster_file())
    }

    fn reserved(&self, range: Range<u64>) -> Vec<Reserved> {
        self.find_reserved(range)
    }

    /// What the file that holds the clusters occupies, at most the virtual size. Where the first
    /// L2 table has compressed clusters, that would be too little: then it is all that the
    /// existing L2 tables could map. Reads the L1 table and one L2 table, once.
    fn allocated_at_most(&self) -> u64 {
        let occupied = self.image.cluster_file().allocated().min(self.virtual_size);
        if self.decoder.has_data_file {
            return occupied;
        }
        if let Some(known) = self.allocated.get() {
            return *known;
        }
        let Ok(existing) = self.existing_tables() else { return self.virtual_size };
        let reach = self.decoder.geometry.table_reach();
        let mapped = existing.count.saturating_mul(reach).min(self.virtual_size);
        match existing.first.map_or(Ok(false), |table| self.has_packed(table)) {
            Ok(packed) => {
                let most = if packed { mapped } else { mapped.min(occupied) };
                *self.allocated.get_or_init(|| most)
            }
            Err(_) => mapped,
        }
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
        if fault_log::admits(Level::Warn, file.path()) {
            log::warn!(
                "{name}: the L2 table at byte {table}: {count} bad entries, the first of them for \
                 the cluster at {guest} of the disk: {fault}"
            );
        }
    }
}

#[cfg(test)]
mod tests;
