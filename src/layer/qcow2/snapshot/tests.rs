use super::super::testimage::{fixed_header, put};
use super::*;
use crate::source::MemoryFile;

const TABLE: u64 = 0x10000;
const FILE: usize = 0x40000;

/// An entry as QEMU writes it, with its padding.
fn entry(l1: u64, id: &str, name: &[u8], extra: &[u64]) -> Vec<u8> {
    let extra: Vec<u8> = extra.iter().flat_map(|word| word.to_be_bytes()).collect();
    let mut bytes = l1.to_be_bytes().to_vec();
    bytes.extend(2_u32.to_be_bytes());
    bytes.extend(u16::try_from(id.len()).unwrap().to_be_bytes());
    bytes.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
    bytes.extend(1_795_161_228_u32.to_be_bytes());
    bytes.extend(5_u32.to_be_bytes());
    bytes.extend(9_u64.to_be_bytes());
    bytes.extend(77_u32.to_be_bytes());
    bytes.extend(u32::try_from(extra.len()).unwrap().to_be_bytes());
    bytes.extend(extra);
    bytes.extend(id.as_bytes());
    bytes.extend(name);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn three() -> [Vec<u8>; 3] {
    [
        entry(0x20000, "1", b"first", &[0, 16 << 20]),
        entry(0x30000, "2", b"second, with spaces", &[1 << 33, 20 << 20, 0]),
        entry(0x20000, "3", "third/ümläut".as_bytes(), &[]),
    ]
}

fn header(count: u32) -> Header {
    let mut bytes = fixed_header(16, 1 << 30, 2);
    put(&mut bytes, 60, &count.to_be_bytes());
    put(&mut bytes, 64, &TABLE.to_be_bytes());
    Header::parse(&bytes, FILE as u64).unwrap()
}

fn read_file(bytes: Vec<u8>, count: u32) -> Vec<Result<Snapshot, Defect>> {
    read_snapshots(&MemoryFile::new("disk.qcow2", bytes), &header(count)).unwrap()
}

fn read_table(table: &[u8], count: u32) -> Vec<Result<Snapshot, Defect>> {
    let mut bytes = vec![0; FILE];
    put(&mut bytes, to_usize(TABLE), table);
    read_file(bytes, count)
}

fn names(list: &[Result<Snapshot, Defect>]) -> Vec<Result<&str, &Defect>> {
    let name = |s: &'_ Snapshot| s.id.len();
    assert!(list.iter().flatten().all(|s| name(s) == 1));
    list.iter().map(|s| s.as_ref().map(|s| std::str::from_utf8(&s.id).unwrap())).collect()
}

#[test]
fn a_table_is_its_entries_in_order() {
    let list = read_table(&three().concat(), 3);
    let first = Snapshot {
        id: b"1".to_vec(),
        name: b"first".to_vec(),
        l1_offset: 0x20000,
        l1_size: 2,
        seconds: 1_795_161_228,
        nanos: 5,
        virtual_size: 16 << 20,
        vm_state_size: 0,
    };
    assert_eq!(list[0], Ok(first));
    let second = list[1].as_ref().unwrap();
    assert_eq!((second.virtual_size, second.vm_state_size), (20 << 20, 1 << 33));
    assert_eq!(second.name, b"second, with spaces");
}

#[test]
fn an_entry_without_extra_data_has_todays_size_and_the_short_vm_state_size() {
    let list = read_table(&three().concat(), 3);
    let third = list[2].as_ref().unwrap();
    assert_eq!((third.virtual_size, third.vm_state_size), (1 << 30, 77));
}

#[test]
fn a_broken_entry_spoils_only_itself() {
    let at = TABLE + three()[0].len() as u64;
    let cases: [(usize, &[u8], Defect); 6] = [
        (
            0,
            &0x30200_u64.to_be_bytes(),
            Defect::corrupt(at, "a snapshot's L1 table is at 197120, which cannot be"),
        ),
        (
            0,
            &0_u64.to_be_bytes(),
            Defect::corrupt(at, "a snapshot's L1 table is at 0, which cannot be"),
        ),
        (
            0,
            &(u64::MAX << 16).to_be_bytes(),
            Defect::corrupt(
                at,
                "a snapshot's L1 table is at 18446744073709486080, past the end of the file",
            ),
        ),
        (
            0,
            &0x40000_u64.to_be_bytes(),
            Defect::corrupt(at, "a snapshot's L1 table is at 262144, past the end of the file"),
        ),
        (
            8,
            &4_194_305_u32.to_be_bytes(),
            Defect::corrupt(at + 8, "a snapshot's L1 table of 4194305 entries (at most 4194304)"),
        ),
        (
            48,
            &(1_u64 << 63).to_be_bytes(),
            Defect::corrupt(at + 48, "a snapshot's disk of 9223372036854775808 bytes"),
        ),
    ];
    for (field, to, defect) in cases {
        let mut entries = three();
        put(&mut entries[1], field, to);
        let list = read_table(&entries.concat(), 3);
        assert_eq!(names(&list), [Ok("1"), Err(&defect), Ok("3")], "{to:x?} at {field}");
    }
}

#[test]
fn a_cut_table_keeps_the_entries_before_the_cut() {
    let entries = three();
    let second = entries[0].len();
    let third = second + entries[1].len();
    let table = entries.concat();
    let cut = |len: usize| {
        let mut bytes = vec![0; FILE];
        put(&mut bytes, to_usize(TABLE), &table);
        // The L1 tables of the entries lie past this end, so they are moved before it.
        for entry in [0, second, third] {
            put(&mut bytes, to_usize(TABLE) + entry, &TABLE.to_be_bytes());
        }
        bytes.truncate(to_usize(TABLE) + len);
        read_file(bytes, 3)
    };
    let defect = |entry: usize| {
        let at = TABLE + entry as u64;
        let what = format!("the snapshot table is cut in the entry that starts at {at}");
        Defect::corrupt(at, what)
    };
    // Up to the last byte of the first name.
    let first_end = 40 + 16 + 1 + 5;
    for len in [1, 39, 40, first_end - 1] {
        assert_eq!(names(&cut(len)), [Err(&defect(0))], "cut at {len}");
    }
    for len in [first_end, second, second + 39, third - 8] {
        assert_eq!(names(&cut(len)), [Ok("1"), Err(&defect(second))], "cut at {len}");
    }
    for len in [third, third + 39] {
        assert_eq!(names(&cut(len)), [Ok("1"), Ok("2"), Err(&defect(third))], "cut at {len}");
    }
    assert_eq!(names(&cut(table.len())), [Ok("1"), Ok("2"), Ok("3")]);
}

#[test]
fn an_entry_longer_than_the_file_ends_the_list() {
    let mut entries = three();
    put(&mut entries[1], 36, &u32::MAX.to_be_bytes());
    let at = TABLE + entries[0].len() as u64;
    let what = format!("the snapshot table is cut in the entry that starts at {at}");
    let list = read_table(&entries.concat(), 3);
    assert_eq!(names(&list), [Ok("1"), Err(&Defect::corrupt(at, what))]);
}

#[test]
fn a_table_that_cannot_be_where_it_is_said_to_be_is_one_error() {
    let cases = [
        (0, "the snapshot table is at 0, which cannot be"),
        (TABLE + 512, "the snapshot table is at 66048, which cannot be"),
        (FILE as u64, "the snapshot table is at 262144, past the end of the file"),
    ];
    for (at, what) in cases {
        let mut header = header(3);
        header.snapshots_offset = at;
        let file = MemoryFile::new("disk.qcow2", vec![0; FILE]);
        let list = read_snapshots(&file, &header).unwrap();
        assert_eq!(list, [Err(Defect::corrupt(64, what))]);
    }
}

#[test]
fn an_image_without_snapshots_has_none_wherever_their_table_is() {
    assert_eq!(read_table(&[], 0), []);
}

#[test]
fn a_table_much_longer_than_usual_is_read_to_its_end() {
    let name = vec![b'x'; 65_535];
    let table = [entry(0x20000, "1", &name, &[]), entry(0x20000, "2", &name, &[])].concat();
    let list = read_table(&table, 2);
    assert_eq!(names(&list), [Ok("1"), Ok("2")]);
    assert!(list.iter().all(|s| s.as_ref().unwrap().name == name));
}

#[test]
fn no_changed_byte_of_a_table_panics() {
    let table = three().concat();
    for at in 0..table.len() {
        for to in [0, 1, 0x80, 0xff] {
            let mut table = table.clone();
            table[at] = to;
            assert!(read_table(&table, 3).len() <= 3);
        }
    }
}
