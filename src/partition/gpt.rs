//! The GUID partition table: UEFI specification 2.10, chapter 5.3.

use flate2::Crc;

use super::kind::Kind;
use super::reader::{Reader, part, u32_at, u64_at};
use super::{Entry, Partitions, Scheme, add, glance_at_each};

/// What every header begins with.
const SIGNATURE: &[u8] = b"EFI PART";
/// The least header, and the least entry; bytes.
const HEADER: usize = 92;
const ENTRY: u64 = 128;
/// The largest entry, and the largest table, that anybody has need of; bytes.
const MOST_OF_ENTRY: u64 = 4096;
const MOST_OF_TABLE: u64 = 1 << 20;
/// Sizes of sectors; bytes.
const SECTORS: [u64; 2] = [512, 4096];

/// A sound header, and the entries that it tells of.
struct Table {
    sector: u64,
    entry_size: u64,
    entries: Vec<u8>,
}

/// The first table or, where that is not sound, the one at the end of the disk.
/// `is_protected`: the disk's first sector says that there is one.
pub(super) fn look(disk: &mut Reader<'_>, is_protected: bool) -> Option<Partitions> {
    let first = SECTORS.into_iter().find_map(|sector| table(disk, sector, 1));
    let mut warnings = Vec::new();
    let table = if let Some(table) = first {
        table
    } else {
        let backup = SECTORS.into_iter().find_map(|sector| {
            let last = (disk.size() / sector).checked_sub(1)?;
            table(disk, sector, last)
        })?;
        warnings.push("its first GPT is damaged: the partitions are those of the backup".into());
        backup
    };
    if !is_protected {
        warnings.push("its first sector does not announce the GPT (no protective MBR)".into());
    }
    let scheme = Some(Scheme::Gpt);
    let mut found = Partitions { scheme, sector: table.sector, warnings, ..Partitions::default() };
    let size = usize::try_from(table.entry_size).unwrap_or(usize::MAX);
    for (number, entry) in (1..=u16::MAX).zip(table.entries.chunks_exact(size)) {
        if let Some(entry) = parse_entry(number, entry) {
            add(&mut found, disk.size(), &entry);
        }
    }
    glance_at_each(disk, &mut found);
    Some(found)
}

/// The table whose header is in the sector `at`; none if it is not sound.
fn table(disk: &mut Reader<'_>, sector: u64, at: u64) -> Option<Table> {
    let header = disk.read(at.checked_mul(sector)?, sector).ok()?;
    let (size, sum) = (u32_at(&header, 12)?, u32_at(&header, 16)?);
    let size = usize::try_from(size).ok().filter(|size| *size >= HEADER)?;
    let mut summed = header.get(..size)?.to_vec();
    summed.get_mut(16..20)?.fill(0);
    if !header.starts_with(SIGNATURE) || crc32(&summed) != sum || u64_at(&header, 24)? != at {
        return None;
    }
    let (first, count) = (u64_at(&header, 72)?, u64::from(u32_at(&header, 80)?));
    let (entry_size, sum) = (u64::from(u32_at(&header, 84)?), u32_at(&header, 88)?);
    let is_usual = entry_size.is_power_of_two() && (ENTRY..=MOST_OF_ENTRY).contains(&entry_size);
    let len = count.checked_mul(entry_size).filter(|len| is_usual && *len <= MOST_OF_TABLE)?;
    let entries = disk.read(first.checked_mul(sector)?, len).ok()?;
    let is_whole = entries.len() as u64 == len && crc32(&entries) == sum;
    is_whole.then_some(Table { sector, entry_size, entries })
}

fn parse_entry(number: u16, entry: &[u8]) -> Option<Entry> {
    let kind = part::<16>(entry, 0).filter(|guid| *guid != [0; 16])?;
    let (start, last) = (u64_at(entry, 32)?, u64_at(entry, 40)?);
    let sectors = last.checked_sub(start).map_or(0, |more| more.saturating_add(1));
    let (units, _) = entry.get(56..128)?.as_chunks();
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    let label = Some(String::from_utf16_lossy(&units)).filter(|label| !label.is_empty());
    Some(Entry { number, start, sectors, kind: Kind::Gpt(kind), label })
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = Crc::new();
    sum.update(bytes);
    sum.sum()
}
