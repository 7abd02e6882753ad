use std::collections::HashSet;

use flate2::Crc;

use super::*;

/// Sectors of the disk, of 512 bytes.
const SECTORS: u64 = 20480;

struct Disk(Vec<u8>);

impl Disk {
    fn new() -> Self {
        Self(vec![0; usize::try_from(SECTORS * 512).unwrap()])
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> &mut Self {
        let at = usize::try_from(at).unwrap();
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// The records of a table: kind, first sector, sectors.
    fn table(&mut self, sector: u64, unit: u64, records: &[(u8, u32, u32)]) -> &mut Self {
        for (n, (kind, start, sectors)) in (0..).zip(records) {
            let mut record = [0; 16];
            record[4] = *kind;
            record[8..12].copy_from_slice(&start.to_le_bytes());
            record[12..].copy_from_slice(&sectors.to_le_bytes());
            self.put(sector * unit + 446 + n * 16, &record);
        }
        self.put(sector * unit + 510, &[0x55, 0xAA])
    }

    /// A GPT and its backup.
    fn gpt(&mut self, unit: u64, entry_size: u64, entries: &[(u8, u64, u64)]) -> &mut Self {
        self.table(0, unit, &[(0xEE, 1, u32::MAX)]);
        let last = SECTORS * 512 / unit - 1;
        let table = self.entries(unit, 2, entry_size, entries);
        self.header(unit, 1, last, 2, entry_size, &table);
        let sectors = (table.len() as u64).div_ceil(unit);
        let table = self.entries(unit, last - sectors, entry_size, entries);
        self.header(unit, last, 1, last - sectors, entry_size, &table)
    }

    fn entries(&mut self, unit: u64, at: u64, size: u64, entries: &[(u8, u64, u64)]) -> Vec<u8> {
        let mut table = vec![0; usize::try_from(size * 128).unwrap()];
        for (entry, (kind, first, last)) in
            table.chunks_mut(usize::try_from(size).unwrap()).zip(entries)
        {
            entry[..16].fill(*kind);
            entry[16..32].fill(7);
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
            entry[56..60].copy_from_slice(b"r\0\xfc\0");
        }
        self.put(at * unit, &table);
        table
    }

    fn header(
        &mut self,
        unit: u64,
        at: u64,
        other: u64,
        first: u64,
        size: u64,
        table: &[u8],
    ) -> &mut Self {
        let mut header = [0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[10] = 1;
        header[12] = 92;
        header[24..32].copy_from_slice(&at.to_le_bytes());
        header[32..40].copy_from_slice(&other.to_le_bytes());
        header[72..80].copy_from_slice(&first.to_le_bytes());
        let count = u32::try_from(table.len() as u64 / size).unwrap();
        header[80..84].copy_from_slice(&count.to_le_bytes());
        header[84..88].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
        header[88..92].copy_from_slice(&sum(table).to_le_bytes());
        self.put(at * unit, &header);
        self.sum_header(at * unit)
    }

    /// Puts a header's own checksum right.
    fn sum_header(&mut self, at: u64) -> &mut Self {
        let start = usize::try_from(at).unwrap();
        self.put(at + 16, &[0; 4]);
        let sum = sum(&self.0[start..start + 92]);
        self.put(at + 16, &sum.to_le_bytes())
    }

    fn find(&self) -> Found {
        find_in(&self.0, self.0.len() as u64, &(0..0))
    }

    fn shown(&self) -> Vec<(u16, u64, u64)> {
        let found = self.find().partitions;
        let unit = found.sector.max(1);
        let each = |p: &Partition| (p.number, p.range.start / unit, p.range.end / unit);
        found.list.iter().map(each).collect()
    }

    fn warnings(&self) -> String {
        self.find().partitions.warnings.join("\n")
    }
}

fn sum(bytes: &[u8]) -> u32 {
    let mut sum = Crc::new();
    sum.update(bytes);
    sum.sum()
}

/// Looks at a disk that begins with `bytes`; what lies in `lost` cannot be read.
fn find_in(bytes: &[u8], size: u64, lost: &Range<u64>) -> Found {
    let mut reads = 0;
    let found = find(&mut Reader::new(size, |offset, buf| {
        let end = offset + buf.len() as u64;
        assert!(end <= size, "a read past the end of the disk");
        reads += buf.len();
        if lost.start < end && offset < lost.end {
            return Err("lost".into());
        }
        let at = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let there = &bytes[at..bytes.len().min(at.saturating_add(buf.len()))];
        buf.fill(0);
        buf[..there.len()].copy_from_slice(there);
        Ok(())
    }));
    assert!(reads < 8 << 20, "{reads} bytes were read");
    must_be_sound(&found, size);
    found
}

fn must_be_sound(found: &Found, size: u64) {
    let list = &found.partitions.list;
    let numbers: HashSet<u16> = list.iter().map(|partition| partition.number).collect();
    assert!(numbers.len() == list.len() && !numbers.contains(&0), "{numbers:?}");
    assert!(list.len() <= MOST_PARTITIONS);
    assert!(found.partitions.warnings.len() <= MOST_WARNINGS + 1);
    for Partition { range, .. } in list {
        assert!(range.start < range.end && range.end <= size, "{range:?} of {size}");
    }
}

#[test]
fn a_gpt_is_found_whatever_the_size_of_sectors_and_entries() {
    for (unit, entry_size) in [(512, 128), (4096, 128), (512, 256), (4096, 4096)] {
        let mut disk = Disk::new();
        disk.gpt(unit, entry_size, &[(1, 200, 299), (0, 9, 9), (2, 300, 300)]);
        assert_eq!(disk.shown(), [(1, 200, 300), (3, 300, 301)], "{unit} {entry_size}");
        let found = disk.find().partitions;
        assert_eq!((found.scheme, found.sector), (Some(Scheme::Gpt), unit));
        assert_eq!(found.list[0].label.as_deref(), Some("rü"));
        assert_eq!(found.warnings, [""; 0]);
    }
}

#[test]
fn the_backup_counts_where_the_first_gpt_is_damaged_or_cannot_be_read() {
    for unit in [512, 4096] {
        let mut disk = Disk::new();
        disk.gpt(unit, 128, &[(1, 200, 299)]);
        // The header, its checksum's range, an entry.
        for at in [unit, unit + 60, 2 * unit + 32] {
            let mut damaged = Disk(disk.0.clone());
            let byte = damaged.0[usize::try_from(at).unwrap()];
            damaged.put(at, &[byte ^ 1]);
            assert_eq!(damaged.shown(), [(1, 200, 300)], "{at}");
            assert!(damaged.warnings().contains("backup"), "{}", damaged.warnings());
        }
        let lost = 0..8192;
        let found = find_in(&disk.0, disk.0.len() as u64, &lost);
        assert_eq!(found.partitions.list.len(), 1);
        assert!(!found.is_complete);
        // Both.
        let last = SECTORS * 512 - unit;
        disk.put(unit, b"x").put(last, b"x");
        assert_eq!(disk.shown(), []);
        assert!(disk.warnings().contains("neither"), "{}", disk.warnings());
    }
}

#[test]
fn a_gpt_of_an_absurd_size_is_none() {
    let fields: [(u64, &[u8]); 7] = [
        (80, &u32::MAX.to_le_bytes()),
        (80, &8193_u32.to_le_bytes()),
        (84, &0_u32.to_le_bytes()),
        (84, &127_u32.to_le_bytes()),
        (84, &u32::MAX.to_le_bytes()),
        (72, &(1_u64 << 63).to_le_bytes()),
        (72, &u64::MAX.to_le_bytes()),
    ];
    for (at, value) in fields {
        let mut disk = Disk::new();
        disk.gpt(512, 128, &[(1, 200, 299)]);
        for header in [512, (SECTORS - 1) * 512] {
            disk.put(header + at, value).sum_header(header);
        }
        assert_eq!(disk.shown(), [], "{at} {value:?}");
        assert!(!disk.warnings().is_empty());
    }
}

#[test]
fn partitions_that_are_not_wholly_on_the_disk_are_not_shown() {
    let mut disk = Disk::new();
    let last = SECTORS - 1;
    disk.gpt(
        512,
        128,
        &[
            (1, 100, last),
            (1, 100, SECTORS),
            (1, 101, 100),
            (1, 102, 100),
            (1, 1 << 63, (1 << 63) + 1),
            (1, 0, u64::MAX),
            (1, u64::MAX, u64::MAX),
        ],
    );
    assert_eq!(disk.shown(), [(1, 100, SECTORS)]);
    let warnings = disk.find().partitions.warnings;
    assert_eq!(warnings.len(), 6, "{warnings:#?}");
    assert!(warnings[1].contains("partition 3 is empty"), "{warnings:#?}");
}

#[test]
fn overlapping_partitions_are_shown_with_a_warning() {
    let mut disk = Disk::new();
    disk.gpt(512, 128, &[(1, 100, 900), (1, 200, 300), (1, 800, 1000), (1, 1001, 1001)]);
    assert_eq!(disk.shown().len(), 4);
    let warnings = disk.find().partitions.warnings;
    assert_eq!(warnings, ["its partitions 1 and 2 overlap", "its partitions 1 and 3 overlap"]);
}

#[test]
fn a_disk_of_large_sectors_that_was_cut_keeps_its_sectors() {
    let mut disk = Disk::new();
    disk.put(100 * 4096, b"XFSB");
    disk.table(0, 512, &[(0x83, 100, 1000), (0x83, 1100, 1 << 20)]);
    let found = disk.find().partitions;
    let first = found.list.first().map(|p| (p.number, p.range.start / 4096, p.range.end / 4096));
    assert_eq!((first, found.list.len()), (Some((1, 100, 1100)), 1));
    assert_ne!(disk.warnings(), "", "nothing tells of the second one");
}

#[test]
fn sectors_that_would_take_a_partition_past_the_end_are_not_taken() {
    let mut disk = Disk::new();
    // Nothing is known of what it holds; where it began in large sectors is something that is.
    disk.put(100 * 4096, b"XFSB");
    for (sectors, wanted) in [(1000, (1, 100 * 8, 1100 * 8)), (5000, (1, 100, 5100))] {
        disk.table(0, 512, &[(0x83, 100, sectors)]);
        let found = disk.find().partitions;
        let shown = found.list.iter().map(|p| (p.number, p.range.start / 512, p.range.end / 512));
        assert_eq!(shown.collect::<Vec<_>>(), [wanted]);
        assert_eq!(disk.warnings(), "");
    }
}

#[test]
fn logical_partitions_are_counted_from_five_on() {
    for unit in [512, 4096] {
        let mut disk = Disk::new();
        disk.table(0, unit, &[(0x83, 100, 100), (5, 1000, 1000), (0, 0, 0), (0x8E, 300, 100)]);
        disk.table(1000, unit, &[(0x83, 10, 90), (5, 200, 100)]);
        // One without a partition of its own, and one that links back.
        disk.table(1200, unit, &[(0, 0, 0), (5, 100, 100)]);
        disk.table(1100, unit, &[(0x82, 10, 90), (5, 300, 100)]);
        disk.table(1300, unit, &[(0x83, 1, 1)]);
        let shown = disk.shown();
        let wanted = [
            (1, 100, 200),
            (2, 1000, 2000),
            (4, 300, 400),
            (5, 1010, 1100),
            (6, 1110, 1200),
            (7, 1301, 1302),
        ];
        assert_eq!(shown, wanted, "{unit}");
        assert_eq!(disk.warnings(), "");
    }
}

#[test]
fn a_loop_of_logical_partitions_ends() {
    let mut disk = Disk::new();
    disk.table(0, 512, &[(0x0F, 1000, 1000)]);
    disk.table(1000, 512, &[(0x83, 10, 90), (5, 200, 100)]);
    disk.table(1200, 512, &[(0x83, 10, 90), (5, 0, 100)]);
    assert_eq!(disk.shown().len(), 3);
    assert!(disk.warnings().contains("loop"));
    // A chain without an end: each table is its predecessor's neighbour.
    for sector in 1000..1300 {
        disk.table(sector, 512, &[(0x83, 1, 1), (5, u32::try_from(sector - 999).unwrap(), 1)]);
    }
    assert_eq!(disk.shown().len(), 1 + 128);
    assert!(disk.warnings().contains("more than 128"), "{}", disk.warnings());
    // It leads past the end, or to nothing.
    disk.table(1000, 512, &[(0x83, u32::MAX, u32::MAX), (5, u32::MAX, u32::MAX)]);
    assert_eq!(disk.shown().len(), 1);
    assert!(disk.warnings().contains("breaks off"), "{}", disk.warnings());
}

#[test]
fn a_file_system_without_a_table_is_named() {
    let cases: [(u64, &[u8], &str); 12] = [
        (0, b"XFSB", "XFS"),
        (0, b"LUKS\xba\xbe", "LUKS"),
        (512, b"LABELONE", "LVM2 PV"),
        (1024 + 56, b"\x53\xef", "ext2"),
        (3, b"NTFS    ", "NTFS"),
        (82, b"FAT32   ", "FAT"),
        (3, b"EXFAT   ", "exFAT"),
        (65536 + 64, b"_BHRfS_M", "btrfs"),
        (4086, b"SWAPSPACE2", "swap"),
        (65526, b"SWAPSPACE2", "swap"),
        (4096, b"\xfc\x4e\x2b\xa9", "mdraid"),
        (32769, b"CD001", "ISO 9660"),
    ];
    for (at, signature, name) in cases {
        let mut disk = Disk::new();
        // Such a sector ends like one with a table, and has code where that would be.
        disk.put(446, &[0x80, 1, 2, 3, 0x90, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        disk.put(510, &[0x55, 0xAA]).put(at, signature);
        let found = disk.find().partitions;
        let is_divided = found.scheme.is_some();
        let ends_so = matches!(name, "NTFS" | "FAT" | "exFAT");
        if ends_so {
            assert_eq!((found.content.map(Content::name), is_divided), (Some(name), false));
        }
        let mut disk = Disk::new();
        disk.put(510, &[0x55, 0xAA]).put(at, signature);
        let found = disk.find().partitions;
        assert_eq!(found.content.map(Content::name), Some(name));
        assert_eq!((found.scheme, found.list.len()), (None, 0));
        // The same in a partition.
        let mut disk = Disk::new();
        disk.gpt(512, 128, &[(1, 2048, 4095)]).put(2048 * 512 + at, signature);
        disk.put(2048 * 512 + 510, &[0x55, 0xAA]);
        assert_eq!(disk.find().partitions.list[0].content.map(Content::name), Some(name));
    }
}

#[test]
fn ext_file_systems_are_told_apart() {
    for (compatible, incompatible, name) in [(0, 2, "ext2"), (4, 2, "ext3"), (4, 0x242, "ext4")] {
        let mut disk = Disk::new();
        disk.put(1024 + 56, b"\x53\xef").put(1024 + 0x5c, &[compatible, 0]);
        disk.put(1024 + 0x60, &u16::to_le_bytes(incompatible));
        assert_eq!(disk.find().partitions.content.map(Content::name), Some(name));
    }
}

#[test]
fn a_raid_with_its_superblock_at_the_end_is_seen_where_the_type_says_so() {
    let raid = b"\xfc\x4e\x2b\xa9";
    for place in [2048 * 512 - 8192, 2048 * 512 - 65536] {
        let mut disk = Disk::new();
        disk.table(0, 512, &[(0xFD, 2048, 2048)]).put(2048 * 512 + place, raid);
        assert_eq!(disk.find().partitions.list[0].content, Some(Content::MdRaid));
    }
}

#[test]
fn a_first_sector_that_cannot_be_read_is_told() {
    let disk = Disk::new();
    let found = find_in(&disk.0, disk.0.len() as u64, &(0..512));
    assert_eq!(found.partitions.list, []);
    assert!(found.partitions.warnings[0].contains("cannot be read: lost"));
    assert!(!found.is_complete);
    // What a partition holds may be lost, and the partition is there.
    let mut disk = Disk::new();
    disk.table(0, 512, &[(0x83, 2048, 2048)]);
    let found = find_in(&disk.0, disk.0.len() as u64, &(2048 * 512..2049 * 512));
    assert_eq!((found.partitions.list.len(), found.is_complete), (1, false));
}

#[test]
fn types_are_written_as_sfdisk_does() {
    let efi = [
        0x28, 0x73, 0x2A, 0xC1, 0x1F, 0xF8, 0xD2, 0x11, 0xBA, 0x4B, 0, 0xA0, 0xC9, 0x3E, 0xC9, 0x3B,
    ];
    assert_eq!(Kind::Gpt(efi).to_string(), "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
    assert_eq!(Kind::Gpt(efi).name(), Some("EFI system"));
    assert_eq!((Kind::Mbr(7).to_string(), Kind::Mbr(0x83).to_string()), ("7".into(), "83".into()));
}

/// Any damage of any table: nothing panics, takes long, or lies outside of the disk.
#[test]
fn hostile_tables_do_no_harm() {
    let mut gpt = Disk::new();
    gpt.gpt(512, 128, &[(1, 200, 299), (2, 300, 400), (3, 401, SECTORS - 40)]);
    let mut large = Disk::new();
    large.gpt(4096, 256, &[(1, 200, 299), (2, 300, 400)]);
    let mut mbr = Disk::new();
    mbr.table(0, 512, &[(0x83, 100, 100), (5, 1000, 1000), (0, 0, 0), (0xFD, 300, 100)]);
    mbr.table(1000, 512, &[(0x83, 10, 90), (5, 200, 100)]);
    mbr.table(1200, 512, &[(0x83, 10, 90), (5, 300, 100)]);
    mbr.table(1300, 512, &[(0x83, 10, 90)]);
    let mut seed = 1_u64;
    let mut random = |end: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % end
    };
    let places = [0..512, 512..604, 1024..1664, 4096..4188, 8192..9000, 512_000..512_512];
    let last = usize::try_from((SECTORS - 1) * 512).unwrap();
    for round in 0..6000 {
        let base = [&gpt, &large, &mbr][random(3)];
        let mut damaged: Vec<(usize, u8)> = Vec::new();
        for _ in 0..=random(12) {
            let place = &places[random(places.len())];
            let at = place.start + random(place.len());
            for by in 0..=random(8) {
                damaged.push((at + by, [0, 1, 0x7f, 0x80, 0xff, 0x0f, 5][random(7)]));
            }
        }
        let mut disk = base.0[..1 << 20].to_vec();
        for (at, byte) in damaged {
            disk[at] = byte;
        }
        // Half of the time the checksums of the first GPT fit.
        if round % 2 == 0 {
            let mut whole = Disk(disk);
            whole.sum_header(512).sum_header(4096);
            disk = whole.0;
        }
        let sizes = [base.0.len() as u64, 1 << 20, 513, 4096, 0, u64::MAX >> 1, u64::MAX];
        let size = sizes[random(sizes.len())];
        disk.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        let found = find_in(&disk, size, &(0..0));
        assert_eq!(found, find_in(&disk, size, &(0..0)), "the same disk is another");
    }
    assert_eq!(gpt.0.len(), last + 512);
}
