//! Entries of the snapshot table. A broken one spoils only itself.

use crate::bases::{SIZE, SNAPSHOTS};
use crate::common::qcow2_editor::Editor;
use crate::row::Outcome::{Size, Sound};
use crate::row::{Outcome, Row, Rows, refused_at};

const L1_SIZE: u64 = 8;
const ID_LENGTH: u64 = 12;
const NAME_LENGTH: u64 = 14;
const SECONDS: u64 = 16;
const NANOS: u64 = 20;
const VM_STATE: u64 = 32;
const EXTRA: u64 = 36;
const LARGE_VM_STATE: u64 = 40;
const DISK_SIZE: u64 = 48;

/// Where the first entry is, and the bytes of its name.
fn places() -> (u64, u64) {
    let image = SNAPSHOTS.editor();
    let entry = image.u64(64);
    let id = u64::from(image.u32(entry + ID_LENGTH) >> 16);
    let name = entry + 40 + u64::from(image.u32(entry + EXTRA)) + id;
    assert_eq!(&image.bytes[name as usize..][..5], b"first");
    (entry, name)
}

/// A row whose first snapshot comes out so.
fn first<'a>(
    rows: &'a mut Rows,
    name: &str,
    edit: impl FnOnce(&mut Editor),
    outcome: Outcome,
) -> &'a mut Row {
    rows.add(name, &SNAPSHOTS, edit, Sound).snapshot(0, outcome)
}

pub(crate) fn rows(rows: &mut Rows) {
    l1(rows);
    lengths(rows);
    numbers(rows);
    names(rows);
}

fn l1(rows: &mut Rows) {
    rows.group("L1 table of a snapshot");
    let (at, _) = places();
    let offset = |offset: u64| move |i: &mut Editor| i.put(at, offset);
    let entries = |entries: u32| move |i: &mut Editor| i.put32(at + L1_SIZE, entries);
    let cannot = || refused_at(at, "which cannot be");
    let past = || refused_at(at, "past the end of the file");
    first(rows, "at 0", offset(0), cannot());
    first(rows, "misaligned", offset(4096 + 512), cannot());
    first(rows, "at 2^64-1", offset(u64::MAX), cannot());
    first(rows, "at 2^64-4096", offset(u64::MAX - 4095), past());
    first(rows, "at 1 TiB", offset(1 << 40), past());
    let end = SNAPSHOTS.image.len() as u64;
    first(rows, "at the end of the file", offset(end.next_multiple_of(4096)), past());
    let many = || refused_at(at + 8, "(at most 4194304)");
    first(rows, "32 MiB of entries and one", entries((4 << 20) + 1), many());
    first(rows, "2^32-1 entries", entries(u32::MAX), many());
    // What it does not map is not allocated.
    let nothing = |row: &mut Row| {
        let wanted = row.wanted.iter_mut().find(|w| w.snapshot == Some(0)).expect("the first");
        wanted.content = vec![0; SIZE as usize].into();
    };
    nothing(first(rows, "no entries", entries(0), Sound));
    let now = SNAPSHOTS.editor().u64(40);
    let row = first(rows, "that of the disk as it is now", offset(now), Sound);
    row.wanted[1].content = SNAPSHOTS.content.clone();
}

fn lengths(rows: &mut Rows) {
    rows.group("lengths in a snapshot");
    let (at, _) = places();
    let put16 = |at: u64, length: u16| move |i: &mut Editor| i.write(at, &length.to_be_bytes());
    let extra = |length: u32| move |i: &mut Editor| i.put32(at + EXTRA, length);
    let cut = || refused_at(at, "the snapshot table is cut in the entry that starts at");
    // Where the next entry starts cannot be told any more.
    let mut lost = |name: &str, edit: &dyn Fn(&mut Editor)| {
        let row = first(rows, name, |i| edit(i), cut());
        row.forget_snapshots_from(1);
        row.no_qemu();
    };
    lost("an id of 65535 bytes", &|i| put16(at + ID_LENGTH, u16::MAX)(i));
    lost("a name of 65535 bytes", &|i| put16(at + NAME_LENGTH, u16::MAX)(i));
    lost("extra data of 2^32-1 bytes", &|i| extra(u32::MAX)(i));
    lost("extra data of 2^31 bytes", &|i| extra(1 << 31)(i));
    lost("extra data of 64 MiB", &|i| extra(64 << 20)(i));
    // Without extra data, nothing tells how large the disk was.
    first(rows, "no extra data", extra(0), Sound).forget_snapshots_from(1).no_qemu();
    first(rows, "extra data without the disk's size", extra(8), Sound)
        .forget_snapshots_from(1)
        .no_qemu();
    // The file goes on behind the table: the name takes what follows.
    let long = |i: &mut Editor| {
        put16(at + NAME_LENGTH, u16::MAX)(i);
        i.bytes.resize(at as usize + 200_000, b'x');
    };
    first(rows, "a name of 65535 bytes that are there", long, Sound)
        .forget_snapshots_from(1)
        .no_qemu();
    let row = first(rows, "a name of no bytes", put16(at + NAME_LENGTH, 0), Sound);
    row.snapshot_named(0, "1");
    row.forget_snapshots_from(1);
    let last = |i: &mut Editor| i.put32(60, 3);
    let row = rows.add("one more than there are", &SNAPSHOTS, last, Sound);
    row.no_qemu();
    let last = |i: &mut Editor| i.put32(60, 65_536);
    let row = rows.add("65536, of which two are there", &SNAPSHOTS, last, Sound);
    row.no_qemu();
}

fn numbers(rows: &mut Rows) {
    rows.group("numbers in a snapshot");
    let (at, _) = places();
    let put = |field: u64, value: u64| move |i: &mut Editor| i.put(at + field, value);
    let put32 = |field: u64, value: u32| move |i: &mut Editor| i.put32(at + field, value);
    first(rows, "a disk of no bytes", put(DISK_SIZE, 0), Size(0));
    first(rows, "a disk of 511 bytes", put(DISK_SIZE, 511), Size(0));
    first(rows, "a disk of 513 bytes", put(DISK_SIZE, 513), Size(512));
    first(rows, "a larger disk", put(DISK_SIZE, 6 << 20), Size(6 << 20));
    let disk = || refused_at(at + DISK_SIZE, "a snapshot's disk of");
    first(rows, "a disk of 2^63 bytes", put(DISK_SIZE, 1 << 63), disk());
    first(rows, "a disk of 2^64-1 bytes", put(DISK_SIZE, u64::MAX), disk());
    let most = (1 << 63) - 512;
    first(rows, "a disk of 2^63-1 bytes", put(DISK_SIZE, (1 << 63) - 1), Size(most));
    first(rows, "in 2106", put32(SECONDS, u32::MAX), Sound);
    first(rows, "in 1970", put32(SECONDS, 0), Sound);
    first(rows, "2^32-1 nanoseconds", put32(NANOS, u32::MAX), Sound);
    first(rows, "a VM's state of 4 GiB", put32(VM_STATE, u32::MAX), Sound);
    first(rows, "a VM's state of 2^64-1 bytes", put(LARGE_VM_STATE, u64::MAX), Sound);
    first(rows, "a clock of 2^64-1", put(24, u64::MAX), Sound);
}

/// Names of snapshots become names of folders.
fn names(rows: &mut Rows) {
    rows.group("name of a snapshot");
    let (_, at) = places();
    for (name, wanted) in [
        (&b"a/../b"[..], "a%2F..%2Fb"),
        (b"/etc/", "%2Fetc%2F"),
        (b"a\nb\x1bc", "a%0Ab%1Bc"),
        (b"a\0b", "a%00b"),
        (b"\xff\xfe", "%FF%FE"),
        (b"../", "..%2F"),
        (b"..", "%2E%2E"),
        (b".", "%2E"),
        (b"latest", "latest~2"),
        (b"by-time", "by-time~2"),
        (b"second", "second"),
        ("a\u{202e}b".as_bytes(), "a%E2%80%AEb"),
        (b"%2F", "%252F"),
    ] {
        // Of the same length as the padding allows: the next entry stays where it is.
        let edit = |i: &mut Editor| {
            assert!(name.len() <= 7, "longer than the padding");
            let entry = i.u64(64);
            i.write(entry + NAME_LENGTH, &(name.len() as u16).to_be_bytes());
            i.write(at, name);
        };
        let what = String::from_utf8_lossy(name).escape_debug().to_string();
        first(rows, &what, edit, Sound).snapshot_named(0, wanted);
    }
}
