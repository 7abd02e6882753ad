//! Files cut at the bounds of their structures: what they lack is lost, and nothing else is.

use std::ops::Range;

use crate::bases::{CLUSTER, DEFLATED, OVERLAY, REACH, SIZE, SNAPSHOTS, Sound, V2, V3};
use crate::row::Outcome::{self, Eio};
use crate::row::{Qemu, Rows, eio, refused, refused_at};

/// What the law says of an image of 4 KiB clusters that is cut to `len` bytes, its L1 table in
/// one piece: the clusters whose table, entry or first byte the file lacks, and the disk otherwise.
fn lost(sound: &Sound, len: u64) -> (Vec<Range<u64>>, Vec<u8>) {
    let image = sound.editor();
    let mut content = sound.content.to_vec();
    let mut bad: Vec<Range<u64>> = Vec::new();
    for guest in (0..SIZE).step_by(CLUSTER as usize) {
        let table = image.u64(image.u64(40) + guest / REACH * 8) & 0x00ff_ffff_ffff_fe00;
        if table == 0 {
            continue;
        }
        let entry_at = table + guest % REACH / CLUSTER * 8;
        let host = image.u64(entry_at) & 0x00ff_ffff_ffff_fe00;
        if table >= len || entry_at + 8 > len || host != 0 && host >= len {
            match bad.last_mut() {
                Some(last) if last.end == guest => last.end += CLUSTER,
                _ => bad.push(guest..guest + CLUSTER),
            }
        } else if host != 0 && host + CLUSTER > len {
            let there = (len - host) as usize;
            content[guest as usize..][there..CLUSTER as usize].fill(0);
        }
    }
    (bad, content)
}

pub(crate) fn rows(rows: &mut Rows) {
    headers(rows);
    tables(rows);
    others(rows);
}

fn headers(rows: &mut Rows) {
    rows.group("cut");
    let cut = |len: usize| V3.image[..len].to_vec();
    let empty = refused("the file is empty");
    rows.add_bytes("to nothing", &V3, cut(0), empty);
    let no_magic = "does not begin with a qcow2 header";
    rows.add_bytes("in the magic", &V3, cut(3), refused(no_magic));
    let text = |len: u64| {
        let text = format!("the file ends within its header, after {len} bytes").leak();
        refused_at(len, text)
    };
    for (name, len) in [
        ("behind the magic", 4),
        ("in the version", 7),
        ("behind the version", 8),
        ("in the snapshots' offset", 71),
        ("behind the fields of version 2", 72),
        ("in the header's length", 103),
    ] {
        rows.add_bytes(name, &V3, cut(len as usize), text(len));
    }
    let table = || refused("before the end of its L1 table");
    // QEMU reads an empty disk: the law is stricter.
    let mut stricter = |name: &str, sound: &Sound, len: u64, wanted: Outcome| {
        rows.add_bytes(name, sound, sound.image[..len as usize].to_vec(), wanted).stricter();
    };
    stricter("before the compression type", &V3, 104, text(104));
    stricter("version 2 in its header", &V2, 71, text(71));
    stricter("behind the compression type", &V3, 105, table());
    stricter("behind the header", &V3, 112, table());
    stricter("version 2 behind its header", &V2, 72, table());
    stricter("behind the first cluster", &V3, CLUSTER, table());
    stricter("behind the refcount table", &V3, 2 * CLUSTER, table());
    stricter("behind the refcounts", &V3, 3 * CLUSTER, table());
    let l1 = V3.editor().u64(40);
    assert_eq!(l1, 3 * CLUSTER);
    stricter("in an entry of the L1 table", &V3, l1 + 12, table());
    stricter("before the last byte of the L1 table", &V3, l1 + 23, table());
    let name = OVERLAY.editor().u64(8);
    let within = refused_at(name, "the file ends within the backing file's name");
    rows.add_bytes(
        "in the backing name",
        &OVERLAY,
        OVERLAY.image[..name as usize + 3].to_vec(),
        within,
    );
    let extension = refused_at(112, "the file ends within a header extension");
    rows.add_bytes("in an extension", &OVERLAY, OVERLAY.image[..118].to_vec(), extension)
        .stricter();
}

fn tables(rows: &mut Rows) {
    let image = V3.editor();
    let l1 = image.l1();
    let entries = image.l2(&l1);
    let host = |n: usize| entries[n].offset();
    let last = entries.iter().map(|e| e.offset()).max().expect("a cluster");
    for (name, len) in [
        ("behind the L1 table", image.u64(40) + 24),
        ("before the first L2 table", l1[0].offset()),
        ("a byte into the first L2 table", l1[0].offset() + 1),
        ("behind the first entry", l1[0].offset() + 8),
        ("in the middle of the first L2 table", l1[0].offset() + 2048),
        ("before the end of the first L2 table", l1[0].offset() + CLUSTER - 1),
        ("behind the first L2 table", l1[0].offset() + CLUSTER),
        ("behind the first data cluster", host(0) + CLUSTER),
        ("in a data cluster", host(2) + 700),
        ("a byte into a data cluster", host(2) + 1),
        ("before the second L2 table", l1[1].offset()),
        ("in the middle of the third L2 table", l1[2].offset() + 100),
        ("before the last data cluster", last),
    ] {
        let (bad, content) = lost(&V3, len);
        assert!(!bad.is_empty(), "{name}: nothing is lost");
        let bytes = V3.image[..len as usize].to_vec();
        rows.add_bytes(name, &V3, bytes, Eio(bad)).content(content).stricter();
    }
    // A tail that the last cluster lacks reads as zeros, for QEMU writes such files.
    for (name, len) in [
        ("a byte into the last data cluster", last + 1),
        ("in the middle of the last data cluster", last + 2000),
        ("before the last byte", last + CLUSTER - 1),
    ] {
        let (bad, content) = lost(&V3, len);
        assert!(bad.is_empty(), "{name}: {bad:?}");
        let bytes = V3.image[..len as usize].to_vec();
        rows.add_bytes(name, &V3, bytes, Outcome::Sound).content(content);
    }
}

fn others(rows: &mut Rows) {
    // The last compressed cluster ends with the file; its sectors may end later.
    let image = DEFLATED.editor();
    let entries = image.l2(&image.l1());
    let last = entries.iter().max_by_key(|e| e.packed_offset(12)).expect("a cluster");
    let at = last.packed_offset(12);
    let end = eio(SIZE - CLUSTER..SIZE);
    let cut = |len: u64| DEFLATED.image[..len as usize].to_vec();
    rows.add_bytes("before the last compressed cluster", &DEFLATED, cut(at), end.clone());
    rows.add_bytes("a byte into it", &DEFLATED, cut(at + 1), end.clone());
    // QEMU takes the zeros that it finds past the end for the rest of the stream.
    rows.add_bytes("in its middle", &DEFLATED, cut(at + 500), end).stricter();
    // The snapshot table: of two entries, one is there.
    let table = SNAPSHOTS.editor().u64(64);
    let mut bytes = SNAPSHOTS.image.clone();
    bytes.truncate(table as usize + 100);
    let (bad, _) = lost(&SNAPSHOTS, bytes.len() as u64);
    let wanted = if bad.is_empty() { Outcome::Sound } else { Eio(bad) };
    let row =
        rows.add_bytes("in the second entry of the snapshot table", &SNAPSHOTS, bytes, wanted);
    row.qemu = Qemu::NotAsked;
    row.snapshot(1, refused("the snapshot table is cut in the entry"));
}
