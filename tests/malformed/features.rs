//! Feature bits and the compression type.

use crate::bases::{DATA_FILE, EXTENDED, OVERLAY, V3, ZSTD};
use crate::common::qcow2_editor::Editor;
use crate::extensions::extensions;
use crate::row::Outcome::Sound;
use crate::row::{Rows, refused_at};

const INCOMPATIBLE: u64 = 72;
const COMPATIBLE: u64 = 80;
const AUTOCLEAR: u64 = 88;
const COMPRESSION: u64 = 104;
const FEATURE_NAMES: u32 = 0x6803_f857;

pub(crate) fn rows(rows: &mut Rows) {
    single_bits(rows);
    known(rows);
    names(rows);
    harmless(rows);
    compression(rows);
}

fn incompatible(bits: u64) -> impl FnOnce(&mut Editor) {
    move |i| i.put(INCOMPATIBLE, bits)
}

fn single_bits(rows: &mut Rows) {
    rows.group("one feature bit");
    for bit in 5..64 {
        let text = format!("unknown incompatible feature: bit {bit}").leak();
        let name = format!("incompatible {bit}");
        rows.add(name, &V3, incompatible(1 << bit), refused_at(72, text));
    }
}

fn known(rows: &mut Rows) {
    rows.group("features");
    rows.add("dirty", &V3, incompatible(1), Sound);
    rows.add("corrupt", &V3, incompatible(2), Sound).warned("QEMU marked this image as corrupt");
    rows.add("dirty and corrupt", &V3, incompatible(3), Sound).warned("as corrupt");
    let nameless = refused_at(72, "an external data file, but not its name");
    rows.add("a data file without a name", &V3, incompatible(4), nameless);
    let own = refused_at(72, "unknown incompatible feature");
    rows.add("all bits", &V3, incompatible(u64::MAX), own);
    let small = refused_at(20, "extended L2 entries with clusters of 2^12 bytes (at least 2^14)");
    rows.add("extended L2 with clusters of 4 KiB", &V3, incompatible(16), small);
    let unknown = |text| refused_at(72, text);
    rows.add("a known and an unknown", &EXTENDED, incompatible(16 | 32), unknown("bit 5"));
    rows.add("an unknown of an overlay", &OVERLAY, incompatible(1 << 63), unknown("bit 63"));
}

fn names(rows: &mut Rows) {
    rows.group("feature names");
    let table = |name: &[u8]| {
        let mut entry = vec![0, 9];
        entry.extend(name);
        entry.resize(48, 0);
        entry
    };
    let named = |tables: Vec<u8>| {
        move |i: &mut Editor| {
            extensions(i, &[(FEATURE_NAMES, &tables)]);
            i.put(INCOMPATIBLE, 1 << 9);
        }
    };
    let wanted = |text| refused_at(72, text);
    rows.add("a name", &V3, named(table(b"wobbly")), wanted("bit 9 (wobbly)"));
    let long = "bit 9 (nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn)";
    rows.add("a name without an end", &V3, named(table(&[b'n'; 46])), wanted(long));
    let steering = "bit 9 (a\\u{1b}[2J\\nb)";
    rows.add("a name that steers", &V3, named(table(b"a\x1b[2J\nb")), wanted(steering));
    rows.add("no name", &V3, named(table(b"")), wanted("feature: bit 9"));
    let mut other = table(b"other");
    other[0] = 1;
    rows.add("the name of another kind", &V3, named(other), wanted("feature: bit 9"));
    rows.add("a cut table", &V3, named(table(b"cut")[..47].to_vec()), wanted("feature: bit 9"));
    let two = [table(b"first"), table(b"second")[..20].to_vec()].concat();
    rows.add("no multiple of 48", &V3, named(two), wanted("bit 9 (first)"));
    let lone = |len: usize| move |i: &mut Editor| extensions(i, &[(FEATURE_NAMES, &vec![7; len])]);
    for len in [1, 47, 100] {
        rows.add(format!("{len} bytes, and nothing to name"), &V3, lone(len), Sound);
    }
}

fn harmless(rows: &mut Rows) {
    rows.group("harmless features");
    let put = |at: u64, bits: u64| move |i: &mut Editor| i.put(at, bits);
    rows.add("compatible: all", &V3, put(COMPATIBLE, u64::MAX), Sound);
    rows.add("compatible: lazy refcounts", &V3, put(COMPATIBLE, 1), Sound);
    rows.add("compatible: bit 63", &V3, put(COMPATIBLE, 1 << 63), Sound);
    rows.add("autoclear: bit 2", &V3, put(AUTOCLEAR, 1 << 2), Sound);
    rows.add("autoclear: all unknown", &V3, put(AUTOCLEAR, !3), Sound);
    rows.add("autoclear: bitmaps without any", &V3, put(AUTOCLEAR, 1), Sound);
    // The bit speaks of a data file, and there is none. QEMU refuses it.
    rows.add("autoclear: raw without a data file", &V3, put(AUTOCLEAR, 2), Sound).kinder();
    rows.add("autoclear: raw with a data file", &DATA_FILE, put(AUTOCLEAR, 2), Sound);
}

fn compression(rows: &mut Rows) {
    rows.group("compression type");
    let kind = |kind: u8| move |i: &mut Editor| i.write(COMPRESSION, &[kind]);
    let both = |kind: u8| {
        move |i: &mut Editor| {
            i.put(INCOMPATIBLE, 8);
            i.write(COMPRESSION, &[kind]);
        }
    };
    let no_type = "the compression type bit is set, but the type is deflate";
    rows.add("its bit without a type", &V3, incompatible(8), refused_at(72, no_type));
    let no_bit = "the compression type is zstd, but its bit is not set";
    rows.add("zstd without its bit", &V3, kind(1), refused_at(72, no_bit));
    rows.add("2 without its bit", &V3, kind(2), refused_at(104, "compression type 2"));
    rows.add("2 with its bit", &V3, both(2), refused_at(104, "compression type 2"));
    rows.add("255 with its bit", &V3, both(255), refused_at(104, "compression type 255"));
    rows.add("zstd, and nothing compressed", &V3, both(1), Sound);
    rows.add("zstd's bit lost", &ZSTD, incompatible(0), refused_at(72, no_bit));
    rows.add("zstd's type lost", &ZSTD, kind(0), refused_at(72, no_type));
    // The header ends before the type: there is none.
    let short = |i: &mut Editor| i.put32(100, 104);
    rows.add("zstd's type left out", &ZSTD, short, refused_at(72, no_type));
}
