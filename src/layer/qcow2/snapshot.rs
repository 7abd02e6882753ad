//! The table of internal snapshots (qcow2 specification, "Snapshots"). An entry that is wrong
//! spoils only itself, as long as it can be told where the next one starts.

use super::bytes::{to_usize, u16_at, u32_at, u64_at};
use super::header::Header;
use crate::error::{Defect, Result};
use crate::source::Source;

/// QEMU's limit for the whole table.
const LARGEST_TABLE: u64 = 64 << 20;
/// 32 MiB of entries.
const MOST_L1_ENTRIES: u32 = (32 << 20) / 8;
const FIXED: usize = 40;
/// A usual entry: fixed fields, extra data, a number and a short name.
const USUAL_ENTRY: u64 = 128;
const FIRST_READ: u64 = 4096;
const SECTOR: u64 = 512;

/// An internal snapshot: an older state of the disk in the same image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number, as text: unique in the image.
    pub id: Vec<u8>,
    /// The name that a user gave it: any bytes, not always unique.
    pub name: Vec<u8>,
    /// Where its L1 table starts in the image file.
    pub l1_offset: u64,
    /// Entries of its L1 table.
    pub l1_size: u32,
    /// When it was taken: seconds since 1970 UTC.
    pub seconds: u32,
    /// And nanoseconds.
    pub nanos: u32,
    /// Bytes of the virtual disk at that time, or today's where the table does not say.
    pub virtual_size: u64,
    /// Bytes of the saved state of a running VM; 0 if there is none.
    pub vm_state_size: u64,
}

/// Reads the snapshots of an image: as many as the header says, in the order of the table, or
/// fewer with one error at the end where the table is cut or broken beyond recognition.
///
/// # Errors
///
/// Only where the file cannot be read.
pub fn read_snapshots(file: &dyn Source, header: &Header) -> Result<Vec<Result<Snapshot, Defect>>> {
    let table = Table { header, file_len: file.len() };
    if header.snapshot_count == 0 {
        return Ok(Vec::new());
    }
    if let Err(defect) = table.check_offset() {
        return Ok(vec![Err(defect)]);
    }
    let most = (file.len() - header.snapshots_offset).min(LARGEST_TABLE);
    let mut len = FIRST_READ.max(u64::from(header.snapshot_count) * USUAL_ENTRY).min(most);
    loop {
        let mut bytes = vec![0; to_usize(len)];
        let got = file.read_at(header.snapshots_offset, &mut bytes)?;
        bytes.truncate(got);
        let (mut snapshots, cut) = table.parse(&bytes);
        match cut {
            Some(_) if len < most => len = len.saturating_mul(4).min(most),
            Some(entry) => {
                snapshots.push(Err(table.cut(entry)));
                return Ok(snapshots);
            }
            None => return Ok(snapshots),
        }
    }
}

struct Table<'a> {
    header: &'a Header,
    file_len: u64,
}

/// One entry, and where the next one starts.
struct Entry {
    fields: Fields,
    end: usize,
}

struct Fields {
    snapshot: Snapshot,
    l1_end: Option<u64>,
}

impl Table<'_> {
    fn check_offset(&self) -> Result<(), Defect> {
        let at = self.header.snapshots_offset;
        if at == 0 || !at.is_multiple_of(self.header.cluster_size()) {
            let what = format!("the snapshot table is at {at}, which cannot be");
            return Err(Defect::corrupt(64, what));
        }
        if at >= self.file_len {
            let what = format!("the snapshot table is at {at}, past the end of the file");
            return Err(Defect::corrupt(64, what));
        }
        Ok(())
    }

    /// The entries in `bytes`, which start where the table does; and the offset in them of the
    /// entry that they do not have in full, if there is one.
    fn parse(&self, bytes: &[u8]) -> (Vec<Result<Snapshot, Defect>>, Option<usize>) {
        let mut snapshots = Vec::new();
        let mut at = 0;
        for _ in 0..self.header.snapshot_count {
            let Some(Entry { fields, end }) = self.entry(bytes, at) else {
                return (snapshots, Some(at));
            };
            snapshots.push(self.check(fields, at));
            // The padding of the last entry may be missing.
            at = end.next_multiple_of(8);
        }
        (snapshots, None)
    }

    fn entry(&self, bytes: &[u8], at: usize) -> Option<Entry> {
        let entry = bytes.get(at..)?;
        let id_len = usize::from(u16_at(entry, 12)?);
        let name_len = usize::from(u16_at(entry, 14)?);
        let extra_len = usize::try_from(u32_at(entry, 36)?).ok()?;
        let (extra, rest) = entry.get(FIXED..)?.split_at_checked(extra_len)?;
        let (id, rest) = rest.split_at_checked(id_len)?;
        let name = rest.get(..name_len)?;
        let (l1_offset, l1_size) = (u64_at(entry, 0)?, u32_at(entry, 8)?);
        let vm_state_size = match u64_at(extra, 0) {
            Some(size) => size,
            None => u32_at(entry, 32)?.into(),
        };
        let virtual_size = u64_at(extra, 8).unwrap_or(self.header.virtual_size);
        let snapshot = Snapshot {
            id: id.to_vec(),
            name: name.to_vec(),
            l1_offset,
            l1_size,
            seconds: u32_at(entry, 16)?,
            nanos: u32_at(entry, 20)?,
            virtual_size: virtual_size - virtual_size % SECTOR,
            vm_state_size,
        };
        let l1_end = l1_offset.checked_add(u64::from(l1_size) * 8);
        let end = at + FIXED + extra_len + id_len + name_len;
        Some(Entry { fields: Fields { snapshot, l1_end }, end })
    }

    fn check(&self, fields: Fields, at: usize) -> Result<Snapshot, Defect> {
        let Fields { snapshot, l1_end } = fields;
        let wrong = |field: usize, what: String| {
            Err(Defect::corrupt(self.header.snapshots_offset + (at + field) as u64, what))
        };
        let (l1, entries) = (snapshot.l1_offset, snapshot.l1_size);
        if entries > MOST_L1_ENTRIES {
            let what = format!("a snapshot's L1 table of {entries} entries");
            return wrong(8, format!("{what} (at most {MOST_L1_ENTRIES})"));
        }
        if !l1.is_multiple_of(self.header.cluster_size())
            || l1_end.is_none()
            || (l1 == 0 && entries > 0)
        {
            return wrong(0, format!("a snapshot's L1 table is at {l1}, which cannot be"));
        }
        if entries > 0 && l1 >= self.file_len {
            return wrong(0, format!("a snapshot's L1 table is at {l1}, past the end of the file"));
        }
        if i64::try_from(snapshot.virtual_size).is_err() {
            let what = format!("a snapshot's disk of {} bytes", snapshot.virtual_size);
            return wrong(FIXED + 8, what);
        }
        Ok(snapshot)
    }

    fn cut(&self, entry: usize) -> Defect {
        let at = self.header.snapshots_offset + entry as u64;
        let what = format!("the snapshot table is cut in the entry that starts at {at}");
        Defect::corrupt(at, what)
    }
}

#[cfg(test)]
mod tests;
