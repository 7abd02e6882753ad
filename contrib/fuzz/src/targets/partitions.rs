//! A disk of any size whose beginning and end are any bytes: what its partition tables say lies on
//! the disk, is bounded, and is the same each time.

use std::collections::HashSet;

use qcowfs::partition::{Content, Found, MOST_PARTITIONS, Reader, find};

/// What comes before the bytes of the disk: its size, and how many of the bytes are its first ones.
const HEAD: usize = 10;
/// The most bytes that a look may read.
const MOST_READ: usize = 8 << 20;

/// A disk that is zeros between its first and its last bytes.
struct Disk<'a> {
    size: u64,
    first: &'a [u8],
    last: &'a [u8],
}

impl<'a> Disk<'a> {
    fn parse(data: &'a [u8]) -> Option<Self> {
        let (head, bytes) = data.split_at_checked(HEAD)?;
        let size = u64::from_le_bytes(head[..8].try_into().ok()?);
        let split = usize::from(u16::from_le_bytes([head[8], head[9]])).min(bytes.len());
        let (first, last) = bytes.split_at(split);
        Some(Self { size, first, last })
    }

    fn byte(&self, at: u64) -> u8 {
        let in_last = at.checked_sub(self.size.saturating_sub(self.last.len() as u64));
        let byte = in_last.and_then(|at| self.last.get(usize::try_from(at).ok()?));
        let first = || self.first.get(usize::try_from(at).ok()?);
        byte.or_else(first).copied().unwrap_or(0)
    }

    fn find(&self) -> Found {
        let mut read = 0;
        let found = find(&mut Reader::new(self.size, |offset, buf| {
            assert!(offset + buf.len() as u64 <= self.size, "a read past the end");
            read += buf.len();
            for (at, byte) in (offset..).zip(buf) {
                *byte = self.byte(at);
            }
            Ok(())
        }));
        assert!(read <= MOST_READ, "{read} bytes were read");
        found
    }
}

/// Tries one input.
pub fn run(data: &[u8]) {
    let Some(disk) = Disk::parse(data) else { return };
    let found = disk.find();
    assert!(found.is_complete);
    assert_eq!(found, disk.find(), "the same disk is another");
    for range in &found.read {
        assert!(range.start <= range.end && range.end <= disk.size, "{range:?}");
    }
    let partitions = &found.partitions;
    assert!(partitions.list.len() <= MOST_PARTITIONS && partitions.warnings.len() < 20);
    assert!(partitions.warnings.iter().all(|warning| warning.len() < 200));
    assert!(partitions.list.is_empty() || partitions.scheme.is_some());
    let mut numbers = HashSet::new();
    for partition in &partitions.list {
        let range = &partition.range;
        assert!(range.start < range.end && range.end <= disk.size, "{range:?}");
        assert!(partition.number > 0 && numbers.insert(partition.number), "a number twice");
        assert!(partition.label.as_ref().is_none_or(|label| label.len() <= 3 * 36));
        assert!(!partition.kind.to_string().is_empty());
        assert!(partition.kind.name().is_none_or(str::is_ascii));
        assert!(!partition.content.map_or("-", Content::name).is_empty());
        assert_eq!(partitions.get(partition.number), Some(partition));
    }
}

/// Puts the checksums of a GPT right, where there is one, at both ends of the disk.
pub fn mend(data: &mut [u8]) {
    let Some(disk) = Disk::parse(data) else { return };
    let (size, split) = (disk.size, disk.first.len());
    let Some(bytes) = data.get_mut(HEAD..) else { return };
    let (first, last) = bytes.split_at_mut(split);
    let behind = size.saturating_sub(last.len() as u64);
    for sector in [512, 4096] {
        mend_one(first, sector, 0, sector);
        if let Some(header) = (size / sector).checked_sub(1) {
            mend_one(last, (header * sector).saturating_sub(behind), behind, sector);
        }
    }
}

/// Mends the header at `at` of bytes that begin at `start` of the disk.
fn mend_one(bytes: &mut [u8], at: u64, start: u64, sector: u64) -> Option<()> {
    let at = usize::try_from(at).ok()?;
    let header = bytes.get(at..at.checked_add(92)?)?;
    let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or_default());
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    let table = u64::from_le_bytes(header[72..80].try_into().ok()?).checked_mul(sector)?;
    let table = usize::try_from(table.checked_sub(start)?).ok()?;
    let len = usize::try_from(u64::from(number(80)) * u64::from(number(84))).ok()?;
    let header_len = usize::try_from(number(12)).ok()?;
    if let Some(entries) = bytes.get(table..table.checked_add(len)?) {
        let sum = crc32(entries).to_le_bytes();
        bytes.get_mut(at + 88..at + 92)?.copy_from_slice(&sum);
    }
    bytes.get_mut(at + 16..at + 20)?.fill(0);
    let sum = crc32(bytes.get(at..at.checked_add(header_len)?)?).to_le_bytes();
    bytes.get_mut(at + 16..at + 20)?.copy_from_slice(&sum);
    Some(())
}

/// The sum of a GPT, bit by bit: another one than that of the program.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            let carry = if sum & 1 == 1 { 0xEDB8_8320 } else { 0 };
            (sum >> 1) ^ carry
        })
    })
}
