//! The fixed fields of the header.

use crate::bases::{BITMAP, MIB, OVERLAY, SIZE, V2, V3};
use crate::common::qcow2_editor::Editor;
use crate::row::Outcome::{LikeQemu, Sound};
use crate::row::{Outcome, Row, Rows, refused, refused_at};

const VERSION: u64 = 4;
const BACKING_OFFSET: u64 = 8;
const BACKING_LENGTH: u64 = 16;
const CLUSTER_BITS: u64 = 20;
const VIRTUAL_SIZE: u64 = 24;
const CRYPT: u64 = 32;
const L1_SIZE: u64 = 36;
const L1_OFFSET: u64 = 40;
const REFCOUNT_OFFSET: u64 = 48;
const REFCOUNT_CLUSTERS: u64 = 56;
const SNAPSHOTS: u64 = 60;
const SNAPSHOTS_OFFSET: u64 = 64;
const REFCOUNT_ORDER: u64 = 96;
const HEADER_LENGTH: u64 = 100;

pub(crate) fn rows(rows: &mut Rows) {
    identity(rows);
    backing_place(rows);
    cluster_bits(rows);
    virtual_size(rows);
    crypt(rows);
    l1(rows);
    refcounts(rows);
    snapshot_table(rows);
    header_length(rows);
}

fn identity(rows: &mut Rows) {
    rows.group("magic and version");
    let no_magic = "does not begin with a qcow2 header";
    rows.add("first byte of the magic", &V3, |i| i.flip(0, 1), refused(no_magic));
    rows.add("last byte of the magic", &V3, |i| i.flip(3, 1), refused(no_magic));
    for (name, version, text) in [
        ("version 0", 0, "qcow2 version 0"),
        ("version 1", 1, "qcow version 1"),
        ("version 4", 4, "qcow2 version 4"),
        ("version 2^31", 1 << 31, "qcow2 version 2147483648"),
        ("version 2^32-1", u32::MAX, "qcow2 version 4294967295"),
    ] {
        rows.add(name, &V3, |i| i.put32(VERSION, version), refused_at(4, text));
    }
    // The features are where a header of version 2 has extensions: their list ends at once.
    rows.add("3 called 2", &V3, |i| i.put32(VERSION, 2), Sound);
    let short = refused_at(100, "a header of 0 bytes (at least 104)");
    rows.add("2 called 3", &V2, |i| i.put32(VERSION, 3), short);
}

fn backing_place(rows: &mut Rows) {
    rows.group("place of the backing name");
    let at = |offset: u64, length: u32| {
        move |i: &mut Editor| {
            i.put(BACKING_OFFSET, offset);
            i.put32(BACKING_LENGTH, length);
        }
    };
    rows.add("no offset, but a length", &V3, |i| i.put32(BACKING_LENGTH, 5), Sound);
    rows.add("an offset, but no length", &V3, |i| i.put(BACKING_OFFSET, 512), Sound);
    rows.add("no length, at the cluster's end", &V3, |i| i.put(BACKING_OFFSET, 4096), Sound);
    let past = "past the cluster";
    rows.add("just past cluster 0", &V3, |i| i.put(BACKING_OFFSET, 4097), refused_at(8, past));
    rows.add("offset 2^63", &V3, |i| i.put(BACKING_OFFSET, 1 << 63), refused_at(8, past));
    rows.add("offset 2^64-1", &V3, |i| i.put(BACKING_OFFSET, u64::MAX), refused_at(8, past));
    let most = "bytes (here at most";
    rows.add("ends past cluster 0", &V3, at(4000, 97), refused_at(16, most));
    rows.add("a byte past cluster 0", &V3, at(4096, 1), refused_at(16, most));
    rows.add("1024 bytes", &V3, at(2048, 1024), refused_at(16, "1024 bytes (here at most 1023)"));
    rows.add("2^32-1 bytes", &V3, at(2048, u32::MAX), refused_at(16, most));
    // "QFI" and a byte that is no UTF-8.
    rows.add("the magic as its name", &V3, at(0, 4), Sound);
    rows.add("the fields as its name", &V3, at(1, 4), refused("backing file"));
    // QEMU takes what ends at the first NUL, here nothing at all.
    rows.add("a NUL byte as its name", &V3, at(512, 1), refused("NUL byte")).stricter();
}

fn cluster_bits(rows: &mut Rows) {
    rows.group("cluster bits");
    let bits = |bits: u32| move |i: &mut Editor| i.put32(CLUSTER_BITS, bits);
    for (number, text) in
        [(0, "clusters of 2^0 bytes (at least 2^9)"), (8, "clusters of 2^8 bytes (at least 2^9)")]
    {
        rows.add(number.to_string(), &V3, bits(number), refused_at(20, text));
    }
    for number in [22, 31, 32, 63, 64, u32::MAX] {
        let text = "bytes (at most 2^21)";
        rows.add(number.to_string(), &V3, bits(number), refused_at(20, text));
    }
    // Sound by themselves, but the L1 table has too few entries then, or is misaligned.
    rows.add("9", &V3, bits(9), refused_at(36, "it needs 160"));
    rows.add("11", &V3, bits(11), refused_at(36, "it needs 10"));
    rows.add("13", &V3, bits(13), refused_at(40, "no multiple of the cluster size"));
    rows.add("21", &V3, bits(21), refused_at(40, "no multiple of the cluster size"));
}

fn virtual_size(rows: &mut Rows) {
    rows.group("virtual size");
    let size = |size: u64| move |i: &mut Editor| i.put(VIRTUAL_SIZE, size);
    rows.add("0", &V3, size(0), LikeQemu).content(Vec::new());
    rows.add("1", &V3, size(1), LikeQemu);
    rows.add("511", &V3, size(511), LikeQemu);
    rows.add("512", &V3, size(512), LikeQemu);
    rows.add("a byte more", &V3, size(SIZE + 1), Sound);
    rows.add("511 bytes more", &V3, size(SIZE + 511), Sound);
    rows.add("a byte less", &V3, size(SIZE - 1), LikeQemu);
    rows.add("all that the L1 table maps", &V3, size(6 * MIB), LikeQemu);
    let small = "an L1 table of 3 entries";
    rows.add("a byte more than that", &V3, size(6 * MIB + 1), refused_at(36, small));
    rows.add("a sector more than that", &V3, size(6 * MIB + 512), refused_at(36, small));
    rows.add("2^62", &V3, size(1 << 62), refused_at(36, small));
    rows.add("2^63-1", &V3, size(i64::MAX as u64), refused_at(36, small));
    rows.add("2^63", &V3, size(1 << 63), refused_at(36, small));
    rows.add("2^64-1", &V3, size(u64::MAX), refused_at(36, small));
}

fn crypt(rows: &mut Rows) {
    rows.group("encryption method");
    let method = |method: u32| move |i: &mut Editor| i.put32(CRYPT, method);
    rows.add("1", &V3, method(1), refused("it is encrypted (AES)"));
    rows.add("2 without a header", &V3, method(2), refused_at(32, "there is no LUKS header"));
    rows.add("3", &V3, method(3), refused_at(32, "encryption method 3"));
    rows.add("2^31", &V3, method(1 << 31), refused_at(32, "encryption method 2147483648"));
}

fn l1(rows: &mut Rows) {
    rows.group("L1 table");
    let entries = |entries: u32| move |i: &mut Editor| i.put32(L1_SIZE, entries);
    let offset = |offset: u64| move |i: &mut Editor| i.put(L1_OFFSET, offset);
    rows.add("0 entries", &V3, entries(0), refused_at(36, "it needs 3"));
    rows.add("2 entries", &V3, entries(2), refused_at(36, "it needs 3"));
    rows.add("more entries, empty", &V3, entries(4), Sound);
    rows.add("entries to the end of its cluster", &V3, entries(512), Sound);
    rows.add("entries that are another table's", &V3, entries(513), Sound);
    // The law: the table ends past the end of the file, which is cut.
    let cut = "before the end of its L1 table";
    rows.add("32 MiB of entries", &V3, entries(4 << 20), refused(cut)).stricter();
    rows.add("32 MiB and one", &V3, entries((4 << 20) + 1), refused_at(36, "at most 4194304"));
    rows.add("2^32-1 entries", &V3, entries(u32::MAX), refused_at(36, "at most 4194304"));

    rows.add("at 0", &V3, offset(0), refused_at(40, "where the header is")).stricter();
    rows.add("within the header", &V3, offset(512), refused_at(40, "no multiple"));
    rows.add("a byte on", &V3, |i| i.flip(47, 1), refused_at(40, "no multiple"));
    rows.add("a sector on", &V3, |i| i.flip(46, 2), refused_at(40, "no multiple"));
    let end = V3.image.len() as u64;
    let end = end.next_multiple_of(4096);
    rows.add("at the end of the file", &V3, offset(end), refused(cut)).stricter();
    rows.add("at 1 GiB", &V3, offset(1 << 30), refused(cut)).stricter();
    rows.add("at 2^55", &V3, offset(1 << 55), refused(cut)).stricter();
    rows.add("at 2^63", &V3, offset(1 << 63), refused_at(40, "past any file"));
    rows.add("at 2^64-4096", &V3, offset(u64::MAX - 4095), refused_at(40, "past any file"));
    // The refcount table: one entry, whose refcounts of 1 read as zero clusters.
    rows.add("in the refcount table", &V3, offset(4096), LikeQemu);
    // The refcounts: as entries, they point past the end of the file.
    let all = crate::row::eio(0..SIZE);
    rows.add("in the refcounts", &V3, offset(8192), all).stricter();
}

/// A reader needs none.
fn refcounts(rows: &mut Rows) {
    rows.group("refcounts");
    let table = |offset: u64| move |i: &mut Editor| i.put(REFCOUNT_OFFSET, offset);
    let clusters = |clusters: u32| move |i: &mut Editor| i.put32(REFCOUNT_CLUSTERS, clusters);
    let order = |order: u32| move |i: &mut Editor| i.put32(REFCOUNT_ORDER, order);
    rows.add("table at 0", &V3, table(0), Sound);
    rows.add("table past the end", &V3, table(1 << 40), Sound);
    rows.add("table misaligned", &V3, table(4097), Sound).kinder();
    rows.add("table at 2^64-1", &V3, table(u64::MAX), Sound).kinder();
    rows.add("table of 0 clusters", &V3, clusters(0), Sound).kinder();
    rows.add("table of 2^32-1 clusters", &V3, clusters(u32::MAX), Sound).kinder();
    rows.add("table entry garbage", &V3, |i| i.put(4096, u64::MAX), Sound);
    rows.add("refcounts garbage", &V3, |i| i.write(8192, &[0xa5; 4096]), Sound);
    rows.add("refcounts all 0", &V3, |i| i.write(8192, &[0; 4096]), Sound);
    rows.add("of 1 bit", &V3, order(0), Sound);
    rows.add("of 64 bits", &V3, order(6), Sound);
    rows.add("of 128 bits", &V3, order(7), refused_at(96, "refcounts of 2^7 bits"));
    rows.add("order 64", &V3, order(64), refused_at(96, "refcounts of 2^64 bits"));
    rows.add("order 2^32-1", &V3, order(u32::MAX), refused_at(96, "(at most 2^6)"));
}

/// Of two snapshots, nothing is known but one reason.
fn two(row: &mut Row, outcome: Outcome) -> &mut Row {
    row.forget_snapshots_from(0).snapshot(0, outcome)
}

fn snapshot_table(rows: &mut Rows) {
    rows.group("snapshot table");
    let count = |count: u32| move |i: &mut Editor| i.put32(SNAPSHOTS, count);
    let table = |offset: u64| move |i: &mut Editor| i.put(SNAPSHOTS_OFFSET, offset);
    // A broken table spoils only the snapshots.
    let nowhere = refused_at(64, "the snapshot table is at 0, which cannot be");
    rows.add("one at 0", &V3, count(1), Sound).snapshot(0, nowhere.clone());
    rows.add("65536 at 0", &V3, count(65_536), Sound).snapshot(0, nowhere.clone()).kinder();
    rows.add("65537", &V3, count(65_537), refused_at(60, "65537 snapshots (at most 65536)"));
    rows.add("2^32-1", &V3, count(u32::MAX), refused_at(60, "4294967295 snapshots"));
    rows.add("none, at 2^64-1", &V3, table(u64::MAX), Sound).kinder();

    let sound = &*crate::bases::SNAPSHOTS;
    // QEMU reads the header for a table, and zeros for one past the end.
    two(rows.add("two at 0", sound, table(0), Sound), nowhere);
    let at = sound.editor().u64(SNAPSHOTS_OFFSET);
    let cannot = refused_at(64, "which cannot be");
    two(rows.add("two misaligned", sound, table(at + 8), Sound), cannot.clone()).kinder();
    two(rows.add("two at 2^64-8", sound, table(u64::MAX - 7), Sound), cannot).kinder();
    let past = refused_at(64, "past the end of the file");
    two(rows.add("two past the end", sound, table(1 << 40), Sound), past);
    rows.add("two, of which one is counted", sound, count(1), Sound).forget_snapshots_from(1);
    rows.add("two, and none is counted", sound, count(0), Sound).forget_snapshots_from(0);
}

fn header_length(rows: &mut Rows) {
    rows.group("header length");
    let length = |length: u32| move |i: &mut Editor| i.put32(HEADER_LENGTH, length);
    rows.add("0", &V3, length(0), refused_at(100, "a header of 0 bytes (at least 104)"));
    rows.add("72", &V3, length(72), refused_at(100, "a header of 72 bytes (at least 104)"));
    rows.add("103", &V3, length(103), refused_at(100, "a header of 103 bytes (at least 104)"));
    rows.add("104", &V3, length(104), Sound);
    rows.add("105", &V3, length(105), Sound);
    rows.add("a whole cluster", &V3, length(4096), Sound);
    rows.add("a byte more", &V3, length(4097), refused_at(100, "in a cluster of 4096"));
    rows.add("2^32-1", &V3, length(u32::MAX), refused_at(100, "in a cluster of 4096"));
    // It starts in the midst of the extension of the backing format.
    let odd = refused_at(116, "a header extension of");
    rows.add("within an extension", &OVERLAY, length(116), odd);
    // Past the extension: the directory of bitmaps is not looked for, and reads need none.
    rows.add("past the bitmaps", &BITMAP, length(2048), Sound);
}
