//! The partitions of a disk: GPT and MBR tables, and what a glance at the first bytes of each says.
//!
//! Everything here is about disks that nobody vouches for. So what is read is bounded (a GPT of at
//! most 1 MiB, a chain of at most 128 logical partitions, each link of it once), every number
//! is checked before it is used, and a partition that is not wholly on the disk is not one.
//!
//! # Why a parser of our own
//!
//! The crates for these tables are made to edit disks that one owns. As of their versions of 2026
//! gptman reserves memory for as many entries as the header claims (2^32 - 1 of them: hundreds of
//! GiB), gpt panics where an entry is not of 128 bytes and reserves what the header claims, and
//! mbrman adds sectors without a check, follows links that ascend for as long as the disk is large,
//! and refuses a whole table for one that does not. None says which ranges it read, which is what
//! tells that an increment left a table alone.

mod content;
mod gpt;
mod kind;
mod mbr;
mod reader;

use std::ops::Range;

pub use content::Content;
pub use kind::Kind;
pub use reader::Reader;
use reader::Unread;

/// More partitions are not listed.
pub const MOST_PARTITIONS: usize = 256;
/// More warnings are counted, and not told.
const MOST_WARNINGS: usize = 16;

/// How a disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// GUID partition table (UEFI specification, chapter 5).
    Gpt,
    /// The table in the first sector, as of DOS.
    Mbr,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1 on, as Linux counts them.
    pub number: u16,
    /// Bytes of the disk; never empty, and never past its end.
    pub range: Range<u64>,
    /// What the table says that it is for.
    pub kind: Kind,
    /// Its name in the table; only a GPT has names.
    pub label: Option<String>,
    /// What it holds, by its first bytes.
    pub content: Option<Content>,
}

/// What is known of the partitions of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partitions {
    /// How the disk is divided; none: it is not.
    pub scheme: Option<Scheme>,
    /// Bytes in a sector, as the table counts them.
    pub sector: u64,
    /// In the order of their numbers; at most [`MOST_PARTITIONS`].
    pub list: Vec<Partition>,
    /// What the disk itself holds, where it is not divided.
    pub content: Option<Content>,
    /// What a user should know, in words.
    pub warnings: Vec<String>,
}

/// All that was found, and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What is known.
    pub partitions: Partitions,
    /// The bytes of the disk that it was read from.
    pub read: Vec<Range<u64>>,
    /// Whether all of them could be read.
    pub is_complete: bool,
}

/// Looks for partitions. Never fails: what cannot be read or made sense of is a warning.
pub fn find(disk: &mut Reader<'_>) -> Found {
    let mut partitions = match look(disk) {
        Ok(found) => found,
        Err(Unread(reason)) => Partitions {
            warnings: vec![format!("its partition table cannot be read: {reason}")],
            ..Partitions::default()
        },
    };
    warn_of_overlaps(&mut partitions);
    limit(&mut partitions.warnings);
    Found { partitions, read: disk.ranges(), is_complete: disk.all_was_read() }
}

impl Partitions {
    /// The partition of this number.
    pub fn get(&self, number: u16) -> Option<&Partition> {
        self.list.iter().find(|partition| partition.number == number)
    }

    /// Bytes of memory.
    pub fn memory(&self) -> u64 {
        let texts = self.list.iter().filter_map(|partition| partition.label.as_ref());
        let texts = texts.chain(&self.warnings).map(String::len).sum::<usize>();
        let lists =
            self.list.len() * size_of::<Partition>() + self.warnings.len() * size_of::<String>();
        (size_of::<Self>() + lists + texts) as u64
    }
}

fn look(disk: &mut Reader<'_>) -> Result<Partitions, Unread> {
    let first = disk.read(0, 512);
    let records = first.as_ref().ok().and_then(|sector| mbr::Records::parse(sector));
    if let Some(records) = &records
        && !records.is_protective()
    {
        let sector = first.as_deref().unwrap_or_default();
        if let Some(found) = mbr::look(disk, records, content::is_boot_sector(sector)) {
            return Ok(found);
        }
    }
    let is_protected = records.is_some_and(|records| records.is_protective());
    if !is_protected {
        // A file system leaves the place of a GPT to itself.
        let content = content::glance(disk, &(0..disk.size()), None);
        if content.is_some() {
            return Ok(Partitions { content, ..Partitions::default() });
        }
    }
    if let Some(found) = gpt::look(disk, is_protected) {
        return Ok(found);
    }
    first?;
    let mut found = Partitions::default();
    if is_protected {
        let what = "its first sector announces a GPT, but neither the first nor the backup one is \
                    sound";
        found.warnings.push(what.into());
    }
    Ok(found)
}

fn warn_of_overlaps(found: &mut Partitions) {
    let disk = found.list.iter().filter(|partition| !partition.kind.is_container());
    let mut list: Vec<&Partition> = disk.collect();
    list.sort_by_key(|partition| partition.range.start);
    let mut furthest: Option<&Partition> = None;
    for partition in list {
        if let Some(before) = furthest.filter(|before| before.range.end > partition.range.start) {
            let (a, b) = (before.number, partition.number);
            found.warnings.push(format!("its partitions {a} and {b} overlap"));
        }
        if furthest.is_none_or(|before| before.range.end < partition.range.end) {
            furthest = Some(partition);
        }
    }
}

fn limit(warnings: &mut Vec<String>) {
    let more = warnings.len().saturating_sub(MOST_WARNINGS);
    if more > 0 {
        warnings.truncate(MOST_WARNINGS);
        warnings.push(format!("and {more} more of that kind in its partition table"));
    }
}

/// Adds a partition of the table, unless there is something wrong with it. In sectors.
fn add(found: &mut Partitions, disk_size: u64, new: &Entry) {
    let Entry { number, start, sectors, .. } = *new;
    let start_byte = start.checked_mul(found.sector);
    let end = start.checked_add(sectors).and_then(|end| end.checked_mul(found.sector));
    let wrong = match (start_byte, end) {
        _ if sectors == 0 => Some("is empty"),
        (Some(start), Some(end)) if start < end && end <= disk_size => None,
        _ => Some("goes past the end of the disk"),
    };
    if let Some(wrong) = wrong {
        let what =
            format!("its partition {number} {wrong} ({sectors} sectors from {start}): not shown");
        found.warnings.push(what);
        return;
    }
    if found.list.len() == MOST_PARTITIONS {
        let what = format!("its partition {number} is not shown: there are too many");
        found.warnings.push(what);
        return;
    }
    let range = start_byte.unwrap_or(0)..end.unwrap_or(0);
    let Entry { kind, ref label, .. } = *new;
    let (label, content) = (label.clone(), None);
    found.list.push(Partition { number, range, kind, label, content });
}

/// Looks at what each partition holds.
fn glance_at_each(disk: &mut Reader<'_>, found: &mut Partitions) {
    for partition in found.list.iter_mut().filter(|partition| !partition.kind.is_container()) {
        partition.content = content::glance(disk, &partition.range, Some(partition.kind));
    }
}

/// A partition as its table has it.
struct Entry {
    number: u16,
    /// First sector.
    start: u64,
    /// How many.
    sectors: u64,
    kind: Kind,
    label: Option<String>,
}

#[cfg(test)]
mod tests;
