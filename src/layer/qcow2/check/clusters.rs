//! L2 tables and the clusters that they lead to.

use std::collections::HashSet;

use super::super::bytes::to_usize;
use super::super::table::{Decoder, SUBCLUSTERS, host_of, without_owner};
use super::TableUse;
use super::cluster_set::ClusterSet;
use super::faults::{Faults, L2Entry, Wrong};
use super::reads::Reads;
use super::{Error, Findings, Qcow2Image, Result};
use crate::extent::{HostOffset, Slot, Word};

/// More than this is not remembered of one L1 index: an image that has more was made for that.
const MOST_REMEMBERED: usize = 1 << 22;

/// Checks table after table.
pub(super) struct Clusters<'a> {
    image: &'a Qcow2Image,
    decoder: Decoder,
    roots: &'a ClusterSet,
    tables: &'a ClusterSet,
    tick: &'a dyn Fn(u64),
    reads: Reads<'a>,
    /// Data clusters that some part of a disk has; none once too many would have to be told apart.
    owned: Option<ClusterSet>,
    /// What the tables of one L1 index share. Not kept where there is only one.
    shared: Option<Shared>,
    unpacked: Vec<u8>,
}

/// What was seen in the tables of one L1 index, by the number of the entry.
#[derive(Default)]
struct Shared {
    /// Entries (and bitmaps) that were found to be right.
    right: HashSet<(u64, u64, u64)>,
    /// Host clusters.
    hosts: HashSet<(u64, u64)>,
}

/// A table on its way through the check.
struct Table<'f> {
    end: u64,
    faults: Faults,
    findings: &'f mut Findings,
    damaged: bool,
}

impl<'a> Clusters<'a> {
    pub(super) fn new(
        image: &'a Qcow2Image,
        roots: &'a ClusterSet,
        tables: &'a ClusterSet,
        tick: &'a dyn Fn(u64),
    ) -> Self {
        let file = image.file().as_ref();
        let decoder = image.decoder();
        let owned = (!decoder.has_data_file)
            .then(|| ClusterSet::new(file.len(), decoder.geometry.cluster_bits));
        let reads = Reads::new(file, tick);
        let unpacked = Vec::new();
        Self { image, decoder, roots, tables, tick, reads, owned, shared: None, unpacked }
    }

    /// What follows belongs to another L1 index, at which there are so many tables.
    pub(super) fn start_index(&mut self, tables: usize) {
        self.shared = (tables > 1).then(Shared::default);
    }

    /// Checks a table which maps the disk from `base` on; whether it is damaged.
    pub(super) fn check_table(
        &mut self,
        TableUse { table, end }: TableUse,
        base: u64,
        findings: &mut Findings,
    ) -> bool {
        let mut check = Table { end, faults: Faults::default(), findings, damaged: false };
        match self.read_table(table, base, &mut check) {
            Ok(entries) => self.check_entries(&entries, table, base, &mut check),
            Err(e) => check.error(&e),
        }
        if let Err(e) = self.reads.flush() {
            check.error(&e);
        }
        let Table { faults, findings, damaged, .. } = check;
        faults.report(self.decoder.geometry.cluster_bits, findings) || damaged
    }

    /// The entries that the disk needs and the file has.
    fn read_table(&self, table: u64, base: u64, check: &mut Table<'_>) -> Result<Vec<u8>> {
        let geometry = self.decoder.geometry;
        let clusters = check.end.saturating_sub(base).div_ceil(geometry.cluster_size());
        let wanted = clusters.min(geometry.l2_entries()) * geometry.l2_entry_size();
        let file = self.image.file();
        let here = wanted.min(file.len().saturating_sub(table));
        let mut entries = vec![0; to_usize(here)];
        file.read_exact(table, &mut entries)?;
        (self.tick)(here);
        if here < wanted {
            let lost = base + here / geometry.l2_entry_size() * geometry.cluster_size();
            let what = format!(
                "the file ends within the L2 table at {table} (truncated?): the bytes from {lost} \
                 to {} of the disk are lost",
                check.end
            );
            check.damage(table + here, what);
        }
        Ok(entries)
    }

    fn check_entries(&mut self, entries: &[u8], table: u64, base: u64, check: &mut Table<'_>) {
        let geometry = self.decoder.geometry;
        let (size, entry_size) = (geometry.cluster_size(), geometry.l2_entry_size());
        for (n, bytes) in (0..).zip(entries.chunks_exact(to_usize(entry_size))) {
            let words = bytes.as_chunks().0;
            let word = |n: usize| words.get(n).map_or(0, |word| u64::from_be_bytes(*word));
            let (value, bitmap) = (word(0), word(1));
            if value == 0 && bitmap == 0 {
                continue;
            }
            let entry = L2Entry { at: table + n * entry_size, value, guest: base + n * size };
            self.note_owner(n, entry, bitmap, check);
            let key = (n, without_owner(value), bitmap);
            if self.shared.as_ref().is_some_and(|shared| shared.right.contains(&key)) {
                continue;
            }
            if self.check_entry(entry, bitmap, check)
                && let Some(shared) = &mut self.shared
                && shared.right.len() < MOST_REMEMBERED
            {
                shared.right.insert(key);
            }
        }
    }

    /// Checks one entry and what it leads to; whether it is known to be right.
    fn check_entry(&mut self, entry: L2Entry, bitmap: u64, check: &mut Table<'_>) -> bool {
        if !self.decoder.geometry.extended {
            let size = self.decoder.geometry.cluster_size();
            let word = self.decoder.cluster(entry.value, entry.guest);
            return self.check_word(word, entry, 0, size, check);
        }
        let part = self.decoder.geometry.cluster_size() / u64::from(SUBCLUSTERS);
        let parts = self.decoder.subclusters(entry.value, bitmap, entry.guest);
        let (mut right, mut done) = (true, 0);
        while done < SUBCLUSTERS {
            let (word, until) = parts.run_from(done);
            let (from, to) = (u64::from(done) * part, u64::from(until) * part);
            right &= self.check_word(word, entry, from, to, check);
            done = until;
        }
        right
    }

    /// Checks what an entry says of the bytes `from..to` of its cluster.
    fn check_word(
        &mut self,
        word: Word,
        entry: L2Entry,
        from: u64,
        to: u64,
        check: &mut Table<'_>,
    ) -> bool {
        match word {
            Word::Below | Word::Zero => true,
            Word::Bad(fault) => check.fault(Wrong::Fault(fault), entry),
            Word::At(Slot::Packed(descriptor)) => self.check_packed(descriptor, entry, check),
            Word::At(Slot::Host(HostOffset(at))) => {
                // Nobody reads past the end of the disk.
                let to = to.min(check.end - entry.guest);
                from >= to || self.check_data(at, from, to, entry, check)
            }
        }
    }

    fn check_data(
        &mut self,
        at: u64,
        from: u64,
        to: u64,
        entry: L2Entry,
        check: &mut Table<'_>,
    ) -> bool {
        let len = self.image.cluster_file().len();
        if at >= len {
            return check.fault(Wrong::PastDataFile, entry);
        }
        let end = at.saturating_add(to);
        if end > len {
            check.fault(Wrong::Cut(end - len), entry);
        }
        if self.decoder.has_data_file {
            // Its bytes are read as those of a file of their own.
            return end <= len;
        }
        if self.is_metadata(at) {
            return check.fault(Wrong::OnMetadata, entry);
        }
        let start = at.saturating_add(from);
        let mut read = self.reads.push(start, end.min(len).saturating_sub(start));
        // What is remembered as right was read.
        if read.is_ok() && self.shared.is_some() {
            read = self.reads.flush();
        }
        if let Err(e) = &read {
            check.error(e);
        }
        end <= len && read.is_ok()
    }

    fn check_packed(&mut self, descriptor: u64, entry: L2Entry, check: &mut Table<'_>) -> bool {
        if self.is_metadata(host_of(entry.value, self.decoder.geometry.cluster_bits)) {
            return check.fault(Wrong::OnMetadata, entry);
        }
        self.unpacked.resize(to_usize(self.decoder.geometry.cluster_size()), 0);
        match self.image.check_packed(descriptor, &mut self.unpacked) {
            Ok(read) => {
                (self.tick)(read);
                true
            }
            Err(Error::Corrupt { offset, what, .. }) => {
                let guest = entry.guest;
                let what = format!("the compressed cluster for byte {guest} of the disk: {what}");
                check.damage(offset, what);
                false
            }
            Err(e) => {
                check.error(&e);
                false
            }
        }
    }

    fn is_metadata(&self, at: u64) -> bool {
        self.roots.contains(at) || self.tables.contains(at)
    }

    /// Notes that this part of the disk has its cluster. What several tables have for the same part
    /// is one owner.
    fn note_owner(&mut self, n: u64, entry: L2Entry, bitmap: u64, check: &mut Table<'_>) {
        let Some(owned) = &mut self.owned else { return };
        let Some(at) = data_cluster(self.decoder, entry, bitmap) else { return };
        if let Some(shared) = &mut self.shared {
            if !shared.hosts.insert((n, at)) {
                return;
            }
            if shared.hosts.len() >= MOST_REMEMBERED {
                self.owned = None;
                return;
            }
        }
        if !owned.insert(at) {
            check.faults.add(Wrong::Shared, entry);
        }
    }
}

/// The data cluster that an entry has, if it is one that can be read.
fn data_cluster(decoder: Decoder, entry: L2Entry, bitmap: u64) -> Option<u64> {
    let word = if decoder.geometry.extended {
        let parts = decoder.subclusters(entry.value, bitmap, entry.guest);
        let first = bitmap.trailing_zeros();
        if first < SUBCLUSTERS { parts.run_from(first).0 } else { Word::Below }
    } else {
        decoder.cluster(entry.value, entry.guest)
    };
    match word {
        Word::At(Slot::Host(HostOffset(at))) => Some(at),
        _ => None,
    }
}

impl Table<'_> {
    /// Notes a wrong entry; false, for it is not right.
    fn fault(&mut self, wrong: Wrong, entry: L2Entry) -> bool {
        self.faults.add(wrong, entry);
        false
    }

    fn damage(&mut self, offset: u64, what: String) {
        self.findings.damage(offset, what);
        self.damaged = true;
    }

    fn error(&mut self, error: &Error) {
        self.findings.error(error);
        self.damaged = true;
    }
}
