//! A qcow2 image of its own: version 3, no backing file, zeros not allocated (qemu's
//! docs/interop/qcow2).
//!
//! Clusters are taken from the end of the file, run by run, by whichever thread needs some. Of the
//! L2 tables nothing is kept in memory: a unit of the disk lies in one table, and its entries are
//! written with it. Compressed clusters lie one after the other in runs that begin with a cluster
//! of the file; only for these clusters something is kept, the number of those that lie in each, for
//! their refcounts. The header comes last: without it the file is no image.

mod finish;
mod pack;
mod room;
mod unused;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use self::pack::Packer;
pub(super) use self::room::room;
use self::unused::Unused;
use super::copy::BUFFER;
use super::sink::{Sink, UnitWriter, runs};
use super::units::UNIT;
use crate::error::{Error, Result};
use crate::source::{Cloned, Source};

/// The usual cluster size.
const LEAST_BITS: u32 = 16;
/// What is read at a time has to be whole clusters: larger ones are not written.
const MOST_BITS: u32 = BUFFER.ilog2();
/// As QEMU has it.
const MOST_L1_ENTRIES: u64 = (32 << 20) / 8;
/// The cluster belongs to this entry alone.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ENTRY: u64 = 8;
const SECTOR: u64 = 512;
/// What is cleared of a device: labels and superblocks of most kinds lie in as many bytes of its start.
const EDGE: u64 = 1 << 20;

/// An image in the making.
pub(super) struct Qcow2File<'a> {
    file: &'a File,
    path: PathBuf,
    bits: u32,
    virtual_size: u64,
    compressed: bool,
    /// What is not written there is what was there before, and no zeros.
    is_device: bool,
    /// Where the next cluster of the file starts.
    next: AtomicU64,
    /// Where the L2 tables are.
    tables: Mutex<BTreeMap<u64, u64>>,
    /// Of each run of compressed clusters: the first cluster of the file, and how many lie in it
    /// and in those that follow.
    packed: Mutex<Vec<(u64, Vec<u16>)>>,
    unused: Unused,
}

impl<'a> Qcow2File<'a> {
    /// An image of a disk of `size` bytes in an empty file. `path` is what to call it in messages.
    pub(super) fn new(file: &'a File, path: PathBuf, size: u64, compressed: bool) -> Result<Self> {
        let bits = bits_for(size)?;
        Ok(Self {
            file,
            path,
            bits,
            virtual_size: size.next_multiple_of(SECTOR),
            compressed,
            is_device: false,
            // The header's.
            next: AtomicU64::new(1 << bits),
            tables: Mutex::default(),
            packed: Mutex::default(),
            unused: Unused::default(),
        })
    }

    /// The same on a block device, whose start is cleared: without the header, and with nothing of
    /// what was there, it looks like no disk.
    pub(super) fn on_device(
        device: &'a File,
        path: PathBuf,
        size: u64,
        compressed: bool,
    ) -> Result<Self> {
        let image = Self { is_device: true, ..Self::new(device, path, size, compressed)? };
        image.spoil()?;
        Ok(image)
    }

    /// Makes what is on the device no image.
    pub(super) fn spoil(&self) -> Result<()> {
        self.write(0, &vec![0; usize::try_from(EDGE).unwrap_or(0)])?;
        self.file.sync_all().map_err(|e| Error::io(&self.path, e))
    }

    /// Takes clusters as for a range that could not be shared then.
    #[cfg(test)]
    pub(super) fn tried_in_vain(&self, bytes: u64) -> u64 {
        let at = self.take(bytes);
        self.unused.give_back(at..at + bytes);
        at
    }

    fn cluster(&self) -> u64 {
        1 << self.bits
    }

    /// Takes as many clusters as these bytes need, and returns where the first one starts.
    fn take(&self, bytes: u64) -> u64 {
        let bytes = bytes.next_multiple_of(self.cluster());
        self.unused.take(bytes).unwrap_or_else(|| self.append(bytes))
    }

    /// The same, at the end of the file.
    fn append(&self, bytes: u64) -> u64 {
        self.next.fetch_add(bytes.next_multiple_of(self.cluster()), Ordering::Relaxed)
    }

    /// The same for a table, of which not all is written: the rest is zeros. What was taken before is
    /// none: an attempt to share that failed may have left something there.
    fn append_table(&self, bytes: u64) -> Result<u64> {
        let (at, end) = (self.append(bytes), bytes.next_multiple_of(self.cluster()));
        if self.is_device {
            let zeros = vec![0; usize::try_from(self.cluster()).unwrap_or(0)];
            let mut clusters = (0..end).step_by(zeros.len());
            clusters.try_for_each(|from| self.write(at + from, &zeros))?;
        }
        Ok(at)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, at).map_err(|e| Error::io_at(&self.path, at, e))
    }

    /// Writes entries of the L2 table that maps the cluster `first` of the disk and those after it.
    fn write_entries(&self, first: u64, entries: &[u64]) -> Result<()> {
        let in_table = reach(self.bits) / self.cluster();
        let table = match self.tables.lock().entry(first / in_table) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => *new.insert(self.append_table(self.cluster())?),
        };
        self.write(table + first % in_table * ENTRY, &big_endian(entries))
    }
}

/// The size of the clusters of an image of a disk of `size` bytes, as a power of two.
fn bits_for(size: u64) -> Result<u32> {
    let fits = |bits: &u32| size.div_ceil(reach(*bits)) <= MOST_L1_ENTRIES;
    (LEAST_BITS..=MOST_BITS).find(fits).ok_or_else(|| {
        let most = MOST_L1_ENTRIES * reach(MOST_BITS);
        Error::Usage(format!(
            "a disk of {size} bytes is too large for a qcow2 image, which takes up to {most}: say -O raw"
        ))
    })
}

/// Bytes of the disk that one L2 table maps.
fn reach(bits: u32) -> u64 {
    (1 << bits) * ((1 << bits) / ENTRY)
}

fn big_endian(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}

impl Sink for Qcow2File<'_> {
    fn granularity(&self) -> u64 {
        self.cluster()
    }

    fn unit(&self, unit: Range<u64>) -> Box<dyn UnitWriter + '_> {
        let first = unit.start / self.cluster();
        let count = usize::try_from(UNIT / self.cluster()).unwrap_or(0);
        let packer = self.compressed.then(|| Packer::new(self.bits));
        Box::new(Qcow2Unit { sink: self, first, entries: vec![0; count], packer })
    }

    fn zero(&self, _: Range<u64>) -> Result<()> {
        Ok(())
    }

    fn shares(&self) -> bool {
        !self.compressed && !self.is_device
    }

    fn finish(&self) -> Result<()> {
        self.write_end()
    }
}

struct Qcow2Unit<'a> {
    sink: &'a Qcow2File<'a>,
    /// The first cluster of the disk in this unit.
    first: u64,
    /// The L2 entries of the unit.
    entries: Vec<u64>,
    packer: Option<Packer>,
}

impl Qcow2Unit<'_> {
    /// Points the entries of the clusters from the one at `guest` on to the file's from `host` on.
    fn point(&mut self, guest: u64, host: u64, bytes: usize) {
        let cluster = self.sink.cluster();
        let from = usize::try_from(guest / cluster - self.first).unwrap_or(usize::MAX);
        let count = bytes.div_ceil(usize::try_from(cluster).unwrap_or(usize::MAX));
        let entries = self.entries.iter_mut().skip(from).take(count);
        for (number, entry) in (0..).zip(entries) {
            *entry = COPIED | (host + number * cluster);
        }
    }

    fn put_plain(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let host = self.sink.take(bytes.len() as u64);
        self.sink.write(host, bytes)?;
        let (len, cluster) = (bytes.len() as u64, self.sink.cluster());
        if !len.is_multiple_of(cluster) {
            // The disk ends within it.
            let rest = usize::try_from(len.next_multiple_of(cluster) - len).unwrap_or(0);
            self.sink.write(host + len, &vec![0; rest])?;
        }
        self.point(at, host, bytes.len());
        Ok(())
    }

    fn put_packed(&mut self, mut packer: Packer, at: u64, bytes: &[u8]) -> Result<Packer> {
        let cluster = self.sink.cluster();
        let size = usize::try_from(cluster).unwrap_or(usize::MAX);
        for (number, bytes) in (0..).zip(bytes.chunks(size)) {
            let at = at + number * cluster;
            if !packer.add(at, bytes)? {
                self.put_plain(at, bytes)?;
            }
            if packer.is_full() {
                self.flush(&mut packer)?;
            }
        }
        Ok(packer)
    }

    /// Writes what was packed.
    fn flush(&mut self, packer: &mut Packer) -> Result<()> {
        let Some(run) = packer.take() else { return Ok(()) };
        let cluster = self.sink.cluster();
        let host = self.sink.take(run.bytes.len() as u64);
        self.sink.write(host, &run.bytes)?;
        let mut counts = vec![0_u16; run.bytes.len().div_ceil(packer.cluster())];
        for (guest, part) in run.clusters {
            let (start, end) = (host + part.start, host + part.end);
            let from = usize::try_from(guest / cluster - self.first).unwrap_or(usize::MAX);
            if let Some(entry) = self.entries.get_mut(from) {
                let sectors = (end - 1) / SECTOR - start / SECTOR;
                *entry = COMPRESSED | sectors << (62 - (self.sink.bits - 8)) | start;
            }
            // Its last sector may reach into the next cluster only if its bytes do.
            let of = |at: u64| usize::try_from(at / cluster).unwrap_or(usize::MAX);
            let touched = counts.iter_mut().take(of(part.end - 1) + 1).skip(of(part.start));
            touched.for_each(|count| *count += 1);
        }
        self.sink.packed.lock().push((host / cluster, counts));
        Ok(())
    }
}

impl UnitWriter for Qcow2Unit<'_> {
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<u64> {
        let size = usize::try_from(self.sink.cluster()).unwrap_or(usize::MAX);
        let mut data = 0;
        for (from, run, is_zero) in runs(bytes, size) {
            if is_zero {
                continue;
            }
            let at = at + from as u64;
            data += run.len() as u64;
            match self.packer.take() {
                Some(packer) => self.packer = Some(self.put_packed(packer, at, run)?),
                None => self.put_plain(at, run)?,
            }
        }
        Ok(data)
    }

    fn zero(&mut self, _: Range<u64>) -> Result<()> {
        Ok(())
    }

    fn share(&mut self, file: &dyn Source, from: u64, range: Range<u64>) -> Result<Cloned> {
        let len = range.end - range.start;
        let host = self.sink.take(len);
        let cloned = file.clone_to(from..from + len, self.sink.file, host);
        if let Ok(Cloned::Yes) = cloned {
            self.point(range.start, host, usize::try_from(len).unwrap_or(0));
        } else {
            self.sink.unused.give_back(host..host + len);
        }
        cloned
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        if let Some(mut packer) = self.packer.take() {
            self.flush(&mut packer)?;
        }
        if self.entries.iter().all(|entry| *entry == 0) {
            return Ok(());
        }
        self.sink.write_entries(self.first, &self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_never_larger_than_what_is_read_at_a_time() {
        let file = tempfile::tempfile().unwrap();
        let image = |size| Qcow2File::new(&file, "it".into(), size, false);
        let granularity = |size| image(size).unwrap().granularity();
        assert_eq!(granularity(0), 64 << 10);
        assert_eq!(granularity(2 << 50), 64 << 10);
        assert_eq!(granularity((2 << 50) + 1), 128 << 10);
        assert_eq!(granularity(32 << 50), BUFFER);
        let told = image((32 << 50) + 1).err().unwrap().to_string();
        assert!(told.contains("say -O raw"), "{told}");
    }
}
