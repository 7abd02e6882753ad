//! The partition table in the first sector, and the chain of those of the logical partitions.

use super::content;
use super::kind::Kind;
use super::reader::{Reader, part, u32_at};
use super::{Entry, Partitions, Scheme, add, glance_at_each};

/// Where the four records are in a sector, and how long each is; bytes.
const FIRST: usize = 446;
const RECORD: usize = 16;
/// What a sector with such a table ends with.
const MARK: [u8; 2] = [0x55, 0xAA];
/// More logical partitions are not looked for.
const MOST_LOGICAL: u16 = 128;
/// The number of the first of them.
const FIRST_LOGICAL: u16 = 5;
/// Bytes in a sector: nothing in the table says which, so both are tried.
const SECTORS: [u64; 2] = [512, 4096];

/// The four records of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Records([Record; 4]);

#[derive(Debug, Clone, Copy)]
struct Record {
    kind: u8,
    start: u32,
    sectors: u32,
}

impl Record {
    fn is_used(self) -> bool {
        self.kind != 0 && self.sectors != 0
    }

    fn is_container(self) -> bool {
        Kind::Mbr(self.kind).is_container()
    }

    fn entry(self, number: u16, from: u64) -> Entry {
        let (start, sectors) = (from.saturating_add(self.start.into()), self.sectors.into());
        Entry { number, start, sectors, kind: Kind::Mbr(self.kind), label: None }
    }
}

impl Records {
    /// The records of a sector; none if it is not one that has any.
    pub(super) fn parse(sector: &[u8]) -> Option<Self> {
        if part(sector, 510)? != MARK {
            return None;
        }
        let record = |n: usize| {
            let bytes = part::<RECORD>(sector, FIRST + n * RECORD)?;
            let is_record = matches!(bytes.first()?, 0 | 0x80);
            let (start, sectors) = (u32_at(&bytes, 8)?, u32_at(&bytes, 12)?);
            is_record.then_some(Record { kind: *bytes.get(4)?, start, sectors })
        };
        Some(Self([record(0)?, record(1)?, record(2)?, record(3)?]))
    }

    /// Whether the disk has a GPT, which this table only protects from old programs.
    pub(super) fn is_protective(&self) -> bool {
        self.0.iter().any(|record| record.kind == Kind::PROTECTIVE)
    }

    fn used(&self) -> impl Iterator<Item = (u16, Record)> {
        (1..).zip(self.0).filter(|(_, record)| record.is_used())
    }
}

/// The partitions of a disk with these records; none if they are not what they look like: the
/// boot sector of a file system ends like a table, and `is_boot_sector` says that it looks like one.
pub(super) fn look(
    disk: &mut Reader<'_>,
    records: &Records,
    is_boot_sector: bool,
) -> Option<Partitions> {
    records.used().next()?;
    let sector = sector_of(disk, records);
    let fits = |record: Record| {
        let end = (u64::from(record.start) + u64::from(record.sectors)) * sector;
        record.start > 0 && end <= disk.size()
    };
    if is_boot_sector && !records.used().all(|(_, record)| fits(record)) {
        return None;
    }
    let scheme = Some(Scheme::Mbr);
    let mut found = Partitions { scheme, sector, ..Partitions::default() };
    let mut next = FIRST_LOGICAL;
    for (number, record) in records.used() {
        add(&mut found, disk.size(), &record.entry(number, 0));
    }
    for (_, record) in records.used().filter(|(_, record)| record.is_container()) {
        follow(disk, record, &mut next, &mut found);
    }
    glance_at_each(disk, &mut found);
    Some(found)
}

/// The logical partitions in an extended one: a chain of tables, each with one partition, in
/// sectors from the table on, and the place of the next one, in sectors from the extended
/// partition on.
fn follow(disk: &mut Reader<'_>, container: Record, next: &mut u16, found: &mut Partitions) {
    let first = u64::from(container.start);
    let mut at = first;
    let mut seen = Vec::new();
    loop {
        if seen.contains(&at) {
            found.warnings.push("the chain of its logical partitions is a loop".into());
            return;
        }
        seen.push(at);
        if seen.len() > usize::from(MOST_LOGICAL) || *next >= FIRST_LOGICAL + MOST_LOGICAL {
            found.warnings.push(format!("it has more than {MOST_LOGICAL} logical partitions"));
            return;
        }
        let table = at.checked_mul(found.sector).map(|offset| disk.read(offset, 512));
        let records = match table {
            Some(Ok(sector)) => Records::parse(&sector),
            Some(Err(_)) => {
                let what = "the chain of its logical partitions cannot be read to its end";
                found.warnings.push(what.into());
                return;
            }
            None => None,
        };
        let Some(records) = records else {
            // An extended partition that was never used may have none.
            if seen.len() > 1 {
                found.warnings.push("the chain of its logical partitions breaks off".into());
            }
            return;
        };
        let used = || records.used().map(|(_, record)| record);
        if let Some(record) = used().find(|record| !record.is_container()) {
            add(found, disk.size(), &record.entry(*next, at));
            *next += 1;
        }
        let Some(link) = used().find(|record| record.is_container()) else { return };
        at = first.saturating_add(link.start.into());
    }
}

/// Bytes in a sector: 512, unless only sectors of 4096 bytes lead to something that is known, in a
/// partition that is whole then. Another one may go past the end: disks are cut.
fn sector_of(disk: &mut Reader<'_>, records: &Records) -> u64 {
    let [usual, large] = SECTORS;
    let leads = |disk: &mut Reader<'_>, sector: u64| {
        records.used().any(|(_, record)| {
            let start = u64::from(record.start) * sector;
            if record.is_container() {
                let table = disk.read(start, 512).ok();
                return table.is_some_and(|table| Records::parse(&table).is_some());
            }
            let end = start + u64::from(record.sectors) * sector;
            let is_whole = sector == usual || end <= disk.size();
            let range = start..end.min(disk.size());
            is_whole && !range.is_empty() && content::glance(disk, &range, None).is_some()
        })
    };
    if !leads(disk, usual) && leads(disk, large) { large } else { usual }
}
