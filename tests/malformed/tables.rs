//! Entries of L1 and L2 tables, and the bytes of compressed clusters.

use std::io::Write as _;

use crate::bases::{
    CLUSTER, DATA_FILE, DEFLATED, EXTENDED, EXTENDED_DEFLATED, MIB, OVERLAY, REACH, SIZE, Sound,
    V2, V3, ZSTD,
};
use crate::common::prng::Prng;
use crate::common::qcow2_editor::{Editor, Entry};
use crate::row::Outcome::{self, LikeQemu, Sound as Same};
use crate::row::{Row, Rows, eio};

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Where the descriptor of an image with clusters of 4 KiB has its number of sectors.
const SECTORS: u32 = 62 - (12 - 8);

pub(crate) fn rows(rows: &mut Rows) {
    l1_entries(rows);
    l2_entries(rows);
    compressed(rows);
    packed_bytes(rows);
    extended(rows);
    data_file(rows);
}

/// What is at the end of the file, where no table and no cluster can start.
fn end(sound: &Sound) -> u64 {
    (sound.image.len() as u64).next_multiple_of(CLUSTER)
}

fn l1_entries(rows: &mut Rows) {
    rows.group("L1 entry");
    let [first, second, third] = V3.editor().l1()[..] else { panic!("three tables") };
    let set = |entry: Entry, value: u64| move |i: &mut Editor| i.put(entry.at, value);
    let add = |bits: u64| move |i: &mut Editor| i.put(first.at, first.value | bits);
    rows.add("misaligned", &V3, add(512), eio(0..REACH));
    rows.add("misaligned by half a cluster", &V3, set(second, second.value + 2048), {
        eio(REACH..2 * REACH)
    });
    rows.add("all ones", &V3, set(first, u64::MAX), eio(0..REACH));
    rows.add("all ones, the last", &V3, set(third, u64::MAX), eio(2 * REACH..SIZE));
    // The law: a table past the end of the file is a truncated backup. QEMU reads it as empty.
    rows.add("at the end of the file", &V3, set(first, end(&V3)), eio(0..REACH)).stricter();
    let far = COPIED | 1 << 55;
    rows.add("far past the end", &V3, set(third, far), eio(2 * REACH..SIZE)).stricter();
    let most = 0x00ff_ffff_ffff_f000;
    rows.add("at the largest offset", &V3, set(first, most), eio(0..REACH)).stricter();

    rows.add("none", &V3, set(first, 0), LikeQemu);
    rows.add("nowhere, and copied", &V3, set(first, COPIED), LikeQemu);
    rows.add("in the refcount table", &V3, set(first, COPIED | CLUSTER), LikeQemu);
    // Refcounts of 1 as entries: zero clusters.
    rows.add("in the refcounts", &V3, set(first, COPIED | (2 * CLUSTER)), LikeQemu);
    // The tables as data clusters.
    let l1 = V3.editor().u64(40);
    rows.add("in the L1 table itself", &V3, set(first, COPIED | l1), LikeQemu);
    rows.add("another's table", &V3, set(first, third.value), LikeQemu);
    let data = V3.editor().first_data().offset();
    // Letters as entries: bit 62 is set in each, and what they pack is past the end of the file.
    let letters = eio(0..REACH);
    rows.add("in a data cluster", &V3, set(first, COPIED | data), letters);
    for bit in [0, 1, 8, 56, 61, 62] {
        rows.add(format!("reserved bit {bit}"), &V3, add(1 << bit), Same);
    }
    rows.add("not copied", &V3, |i| i.flip(first.at, 0x80), Same);
    let own = OVERLAY.editor().l1()[0];
    rows.add("misaligned, of an overlay", &OVERLAY, |i| i.put(own.at, own.value + 512), {
        eio(0..REACH)
    });
    rows.add("none, of an overlay", &OVERLAY, set(own, 0), LikeQemu);
}

fn l2_entries(rows: &mut Rows) {
    rows.group("L2 entry");
    let first = V3.editor().first_data();
    let one = || eio(0..CLUSTER);
    let set = |value: u64| move |i: &mut Editor| i.put(first.at, value);
    let add = |bits: u64| set(first.value | bits);
    rows.add("misaligned", &V3, add(512), one());
    rows.add("misaligned by half a cluster", &V3, add(2048), one());
    rows.add("all ones but compressed", &V3, set(!COMPRESSED), one());
    // The law: a whole cluster past the end of the file is a truncated backup.
    rows.add("at the end of the file", &V3, set(COPIED | end(&V3)), one()).stricter();
    rows.add("far past the end", &V3, set(COPIED | 1 << 55), one()).stricter();
    rows.add("at the largest offset", &V3, set(0x00ff_ffff_ffff_f000), one()).stricter();
    rows.add("misaligned and past the end", &V3, set(COPIED | 1 << 55 | 512), one());

    rows.add("none", &V3, set(0), LikeQemu);
    rows.add("nowhere, and copied", &V3, set(COPIED), LikeQemu);
    rows.add("zero, at its place", &V3, add(1), LikeQemu);
    rows.add("zero, nowhere", &V3, set(1), LikeQemu);
    rows.add("zero, misaligned", &V3, add(513), one());
    rows.add("a zero cluster of version 2", &V2, |i| i.put(V2.editor().first_data().at, 1), one());
    let v2 = V2.editor().first_data();
    rows.add("zero at its place, version 2", &V2, |i| i.put(v2.at, v2.value | 1), one());
    rows.add("in the refcounts", &V3, set(COPIED | (2 * CLUSTER)), LikeQemu);
    rows.add("in the L1 table", &V3, set(COPIED | V3.editor().u64(40)), LikeQemu);
    rows.add("in its own table", &V3, set(COPIED | V3.editor().l1()[0].offset()), LikeQemu);
    let second = V3.editor().l2(&V3.editor().l1())[1].value;
    rows.add("another's cluster", &V3, set(second), LikeQemu);
    for bit in [1, 8, 56, 61] {
        rows.add(format!("reserved bit {bit}"), &V3, add(1 << bit), Same);
    }
    rows.add("not copied", &V3, |i| i.flip(first.at, 0x80), Same);
    // Its first byte starts no deflate stream.
    rows.add("called compressed", &V3, add(COMPRESSED), one());
    rows.add("all ones", &V3, set(u64::MAX), one());
    let last = *V3.editor().l2(&V3.editor().l1()).last().expect("an entry");
    let end = SIZE - CLUSTER..SIZE;
    rows.add("misaligned, the last one", &V3, |i| i.put(last.at, last.value + 512), eio(end));
    let own = OVERLAY.editor().first_data();
    let range = CLUSTER..2 * CLUSTER;
    rows.add("misaligned, of an overlay", &OVERLAY, |i| i.put(own.at, own.value + 512), {
        eio(range)
    });
    rows.add("none, of an overlay", &OVERLAY, |i| i.put(own.at, 0), LikeQemu);
}

/// Descriptors of compressed clusters. The one that is changed is that of the first cluster.
fn compressed(rows: &mut Rows) {
    for (group, sound) in [("deflated cluster", &*DEFLATED), ("zstd cluster", &*ZSTD)] {
        rows.group(group);
        let image = sound.editor();
        let first = image.first_packed();
        let at = first.packed_offset(12);
        let sectors = first.value >> SECTORS & 15;
        assert!(sectors >= 2, "the first cluster takes several sectors");
        let one = || eio(0..CLUSTER);
        let set = |value: u64| move |i: &mut Editor| i.put(first.at, value);
        let place = |at: u64| set(COMPRESSED | sectors << SECTORS | at);
        let sized = |sectors: u64| set(COMPRESSED | sectors << SECTORS | at);
        rows.add("at the end of the file", sound, place(image.len()), one());
        rows.add("far past the end", sound, place(1 << 50), one());
        rows.add("at the largest offset", sound, place((1 << SECTORS) - 1), one());
        rows.add("in the header", sound, place(0), one());
        // Zeros are neither a deflate stream nor a zstd frame.
        rows.add("among zeros", sound, place(3 * CLUSTER + 1024), one());
        rows.add("a sector only", sound, sized(0), one());
        rows.add("a sector less", sound, sized(sectors - 1), one());
        rows.add("as many sectors as can be", sound, sized(15), Same);
        rows.add("all ones", sound, set(u64::MAX), one());
        rows.add("copied", sound, set(first.value | COPIED), Same);
        let second = sound.editor().l2(&sound.editor().l1())[1].value;
        rows.add("another's", sound, set(second), LikeQemu);
        let last = sound.editor().l2(&sound.editor().l1()).pop().expect("an entry");
        rows.add("the last one past the end", sound, |i| i.put(last.at, last.value | 1 << 50), {
            eio(SIZE - CLUSTER..SIZE)
        });
    }
}

fn letters(len: usize) -> Vec<u8> {
    let mut prng = Prng::new(99);
    (0..len).map(|_| b'a' + prng.below(8) as u8).collect()
}

fn deflate(plain: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::best();
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
    encoder.write_all(plain).expect("packed");
    encoder.finish().expect("packed")
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, 9).expect("packed")
}

/// What the first compressed cluster holds instead, at the end of the file, in as many sectors as
/// it needs.
fn packed<'a>(
    rows: &'a mut Rows,
    name: &str,
    sound: &Sound,
    bytes: &[u8],
    wanted: Outcome,
) -> &'a mut Row {
    let edit = |i: &mut Editor| {
        let first = i.first_packed();
        let at = i.len().next_multiple_of(512);
        i.bytes.resize(at as usize, 0);
        i.bytes.extend(bytes);
        i.bytes.resize(i.bytes.len().next_multiple_of(512).max(at as usize + 512), 0);
        let sectors = (i.len() - at) / 512 - 1;
        assert!(sectors < 16, "more than a descriptor can say");
        i.put(first.at, COMPRESSED | sectors << SECTORS | at);
    };
    rows.add(name, sound, edit, wanted)
}

fn packed_bytes(rows: &mut Rows) {
    let cluster = CLUSTER as usize;
    let one = || eio(0..CLUSTER);
    let filled = |plain: &[u8]| {
        let mut content = crate::bases::content();
        content[..cluster].copy_from_slice(plain);
        content
    };
    let plain = letters(2 * cluster);
    rows.group("deflated bytes");
    let sound = &*DEFLATED;
    packed(rows, "another stream", sound, &deflate(&plain[..cluster]), Same)
        .content(filled(&plain[..cluster]));
    // One cluster of output, whatever the stream says: as QEMU has it.
    packed(rows, "a byte too many", sound, &deflate(&plain[..=cluster]), Same)
        .content(filled(&plain[..cluster]));
    packed(rows, "a bomb", sound, &deflate(&vec![b'b'; 6 << 20]), Same)
        .content(filled(&vec![b'b'; cluster]));
    packed(rows, "a byte too few", sound, &deflate(&plain[..cluster - 1]), one());
    packed(rows, "an empty stream", sound, &deflate(b""), one());
    packed(rows, "zeros", sound, &[0; 512], one());
    packed(rows, "ones", sound, &[0xff; 512], one());
    packed(rows, "a reserved kind of block", sound, &[0b110; 512], one());
    let stored = [&[1, 0, 16, 0xff, 0xef], &plain[..cluster]].concat();
    packed(rows, "a stored block", sound, &stored, Same).content(filled(&plain[..cluster]));
    let wrong = [&[1, 0, 16, 0xff, 0xee], &plain[..cluster]].concat();
    packed(rows, "a stored block with a wrong check", sound, &wrong, one());
    packed(rows, "a distance too far back", sound, &[0x63, 0x00, 0x82, 0x00], one());
    packed(rows, "a zstd frame", sound, &zstd(&plain[..cluster]), one());
    let zlib = [&[0x78, 0x9c], &deflate(&plain[..cluster])[..]].concat();
    packed(rows, "with a zlib header", sound, &zlib, one());

    rows.group("zstd bytes");
    let sound = &*ZSTD;
    let half = cluster / 2;
    packed(rows, "another frame", sound, &zstd(&plain[..cluster]), Same)
        .content(filled(&plain[..cluster]));
    let two = [zstd(&plain[..half]), zstd(&plain[half..cluster])].concat();
    packed(rows, "two frames", sound, &two, Same).content(filled(&plain[..cluster]));
    packed(rows, "a byte too many", sound, &zstd(&plain[..=cluster]), one());
    packed(rows, "a bomb", sound, &zstd(&vec![b'b'; 64 << 20]), one());
    packed(rows, "a byte too few", sound, &zstd(&plain[..cluster - 1]), one());
    packed(rows, "half of it", sound, &zstd(&plain[..half]), one());
    packed(rows, "an empty frame", sound, &zstd(b""), one());
    packed(rows, "zeros", sound, &[0; 512], one());
    packed(rows, "ones", sound, &[0xff; 512], one());
    packed(
        rows,
        "a skippable frame that never ends",
        sound,
        b"\x50\x2a\x4d\x18\xff\xff\xff\xff",
        one(),
    );
    // A window of 3.75 TiB, and then nothing.
    packed(rows, "a giant window", sound, b"\x28\xb5\x2f\xfd\x00\xff\x01\x00\x00", one());
    packed(rows, "a deflate stream", sound, &deflate(&plain[..cluster]), one());
    let mut wrong = zstd(&plain[..cluster]);
    let len = wrong.len();
    wrong[4] ^= 0x08;
    packed(rows, "a reserved bit of the frame", sound, &wrong, one());
    wrong[4] ^= 0x08;
    wrong.truncate(len / 2);
    packed(rows, "half of the frame", sound, &wrong, one());
}

/// Where the entry for a guest offset is in an image with clusters of 16 KiB and one L2 table.
fn extended_at(image: &Editor, guest: u64) -> u64 {
    image.l1()[0].offset() + guest / (16 << 10) * 16
}

fn extended(rows: &mut Rows) {
    rows.group("extended L2 entry");
    let sound = &*EXTENDED;
    let image = sound.editor();
    let big = 16 << 10;
    let one = || eio(0..big);
    // All 32 parts have data; of the other, four have data and two are zeros.
    let (all, some) = (extended_at(&image, 0), extended_at(&image, MIB));
    assert_eq!(image.u64(all + 8), 0xffff_ffff, "all parts have data");
    assert_eq!(image.u64(some + 8), 0x30_0000_000f, "some parts have data");
    let set = |at: u64, value: u64| move |i: &mut Editor| i.put(at, value);
    let entry = image.u64(all);
    rows.add("all parts both", sound, set(all + 8, u64::MAX), one());
    rows.add("one part both", sound, set(all + 8, 1 << 32 | 0xffff_ffff), one());
    let partly = || eio(MIB..MIB + big);
    rows.add("one part both, of few", sound, set(some + 8, 0x31_0000_000f), partly());
    rows.add("data without a place", sound, set(all, 0), one());
    rows.add("data without a place, of few", sound, set(some, 0), partly());
    rows.add("one part of data in an empty entry", sound, set(some + 16 + 8, 1), {
        eio(MIB + big..MIB + 2 * big)
    });
    rows.add("misaligned", sound, set(all, entry | 512), one());
    rows.add("misaligned by half a cluster", sound, set(all, entry | 8192), one());
    // Zero parts have no place that could be wrong, but QEMU looks at the entry as a whole.
    rows.add("misaligned, of few", sound, set(some, image.u64(some) | 512), partly());
    let far = COPIED | 1 << 50;
    rows.add("past the end", sound, set(all, far), one()).stricter();
    // Only the parts with data: nothing is lost of the others.
    let few = eio(MIB..MIB + 2048);
    rows.add("past the end, of few", sound, set(some, far), few).stricter();
    rows.add("no part", sound, set(all + 8, 0), LikeQemu);
    rows.add("all parts zero", sound, set(all + 8, !0xffff_ffff), LikeQemu);
    rows.add("zero without a place", sound, set(some + 16 + 8, 1 << 63), Same);
    rows.add("bit 0 of the entry", sound, set(all, entry | 1), Same);
    rows.add("reserved bits of the entry", sound, set(all, entry | 0x3f << 56 | 0x1fe), Same);
    rows.add("called compressed", sound, set(all, entry | COMPRESSED), one());
    let packed = &*EXTENDED_DEFLATED;
    let at = extended_at(&packed.editor(), 0);
    rows.add("parts of a compressed cluster", packed, set(at + 8, u64::MAX), Same);
    rows.add("parts of data of a compressed one", packed, set(at + 8, 1), Same);
    rows.add("a compressed cluster past the end", packed, set(at, COMPRESSED | 1 << 50), one());
}

fn data_file(rows: &mut Rows) {
    rows.group("cluster of a data file");
    let sound = &*DATA_FILE;
    let image = sound.editor();
    let entries = image.l2(&image.l1());
    let second = entries.iter().find(|e| e.offset() == CLUSTER).expect("the second cluster");
    let set = |value: u64| move |i: &mut Editor| i.put(second.at, value);
    let one = || eio(CLUSTER..2 * CLUSTER);
    rows.add("at another's place", sound, set(COPIED | (2 * CLUSTER)), one());
    rows.add("at the place of the first", sound, set(COPIED), one());
    rows.add("misaligned", sound, set(second.value | 512), one());
    rows.add("compressed", sound, set(COMPRESSED | CLUSTER), one());
    rows.add("far past the end", sound, set(COPIED | 1 << 50), one());
    // What the first cluster's entry is without the bit that says that it exists at 0.
    let first = image.l1()[0].offset();
    rows.add("the first not copied", sound, |i| i.put(first, 0), LikeQemu);
    rows.add("zero", sound, set(second.value | 1), LikeQemu);
    rows.add("none", sound, set(0), LikeQemu);
    let l1 = image.l1()[0];
    rows.add("a table past the end", sound, |i| i.put(l1.at, COPIED | 1 << 50), eio(0..REACH))
        .stricter();
    rows.add("a table misaligned", sound, |i| i.put(l1.at, l1.value | 512), eio(0..REACH));
}
