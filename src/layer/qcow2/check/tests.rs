use std::io::Write;
use std::sync::Arc;

use super::super::testimage::{TestImage, active, extension, failing, put, put_u64};
use super::*;
use crate::layer::findings::Severity;
use crate::source::MemoryFile;

/// 512-byte clusters: an L2 table has 64 entries and maps 32 KiB.
const SMALL: u64 = 512;
const REACH: u64 = 32 << 10;
const COMPRESSED: u64 = 1 << 62;

/// A disk of three L2 tables, in clusters 4, 5 and 6 of a file of 20.
fn three_tables() -> TestImage {
    let mut image = TestImage::new(9, 3 * REACH, 3);
    image.clusters(20);
    for (index, cluster) in [(0, 4), (1, 5), (2, 6)] {
        image.l1(index, image.at(cluster));
    }
    image
}

/// Adds snapshots (first cluster of the L1 table, its entries, size of the disk): their table is in
/// the next cluster that is free.
fn add_snapshots(image: &mut TestImage, snapshots: &[(u64, u32, u64)]) {
    let table = image.bytes.len();
    put(&mut image.bytes, 60, &u32::try_from(snapshots.len()).unwrap().to_be_bytes());
    put_u64(&mut image.bytes, 64, table as u64);
    for (cluster, entries, size) in snapshots {
        let at = image.bytes.len();
        let mut entry = vec![0; 64];
        put_u64(&mut entry, 0, image.at(*cluster));
        put(&mut entry, 8, &entries.to_be_bytes());
        put(&mut entry, 12, &1_u16.to_be_bytes());
        put(&mut entry, 36, &16_u32.to_be_bytes());
        put_u64(&mut entry, 48, *size);
        entry[56] = b'1';
        put(&mut image.bytes, at, &entry);
    }
    let clusters = (image.bytes.len() as u64).div_ceil(image.at(1));
    image.clusters(clusters);
}

fn check(image: TestImage) -> ImageCheck {
    check_image(image.layer().image(), &|_| {})
}

/// What was found, each with its severity and byte; and that it spoils what it must.
fn found(check: ImageCheck, active: bool, snapshots: &[usize]) -> Vec<(Severity, u64, String)> {
    assert_eq!(check.active, active, "{check:?}");
    assert!(check.snapshots.iter().eq(snapshots), "{check:?}");
    let list = check.findings.into_list().into_iter();
    list.map(|found| (found.severity, found.offset.unwrap_or(u64::MAX), found.what)).collect()
}

/// The one finding, which is damage of the active disk.
fn one(image: TestImage) -> (u64, String) {
    let mut list = found(check(image), true, &[]);
    assert_eq!(list.len(), 1, "{list:?}");
    let (severity, offset, what) = list.remove(0);
    assert_eq!(severity, Severity::Damage);
    (offset, what)
}

fn nothing(image: TestImage) {
    let list = found(check(image), false, &[]);
    assert!(list.is_empty(), "{list:?}");
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// The L2 entry of a compressed cluster of at most two sectors.
fn packed_at(at: u64) -> u64 {
    COMPRESSED | 1 << 61 | at
}

#[test]
fn a_sound_image_is_sound() {
    let mut image = three_tables();
    let packed = deflated(&[7; 512]);
    put(&mut image.bytes, 10 * 512 + 100, &packed);
    image.l2(4, 0, image.at(12));
    image.l2(4, 1, image.at(13) | 1 << 63);
    image.l2(4, 2, 1);
    // A zero cluster that keeps its place.
    image.l2(4, 3, image.at(14) | 1);
    image.l2(5, 63, packed_at(10 * SMALL + 100));
    nothing(image);
    nothing(TestImage::new(9, 0, 0));
    nothing(TestImage::new(9, 3 * REACH, 3));
}

#[test]
fn a_bad_entry_is_found_at_its_own_byte() {
    for (entry, what) in [
        (20 * SMALL, "its cluster at 10240 lies past the end of the file (truncated?)"),
        (1 << 50, "its cluster at 1125899906842624 lies past the end of the file (truncated?)"),
        (packed_at(20 * SMALL), "its cluster at 10240 lies past the end of the file (truncated?)"),
        (0, ""),
        (3 * SMALL, "its cluster at 1536 is the header's, or one of a table"),
        (6 * SMALL, "its cluster at 3072 is the header's, or one of a table"),
        (packed_at(6 * SMALL + 9), "its cluster at 3081 is the header's, or one of a table"),
    ] {
        let mut image = three_tables();
        image.l2(5, 7, entry);
        if what.is_empty() {
            nothing(image);
        } else {
            let guest = REACH + 7 * SMALL;
            let what = format!("the L2 entry for byte {guest} of the disk: {what}");
            assert_eq!(one(image), (5 * SMALL + 7 * 8, what));
        }
    }
}

#[test]
fn a_misaligned_entry_and_a_zero_flag_of_version_2_are_found() {
    let mut image = TestImage::new(12, 1 << 20, 1);
    image.clusters(8);
    image.l1(0, image.at(4));
    image.l2(4, 1, image.at(6) + 512);
    let what = "its cluster cannot be at 25088, which is no multiple of the cluster size";
    assert_eq!(
        one(image),
        (4 * 4096 + 8, format!("the L2 entry for byte 4096 of the disk: {what}"))
    );
    let mut image = three_tables();
    put(&mut image.bytes, 4, &2_u32.to_be_bytes());
    image.l2(4, 0, 1);
    let (at, what) = one(image);
    assert_eq!(at, 4 * SMALL);
    assert!(what.ends_with("a zero cluster is claimed in an image of version 2"), "{what}");
}

#[test]
fn many_bad_entries_of_a_table_are_one_finding_for_each_kind() {
    let mut image = three_tables();
    for n in 10..30 {
        image.l2(4, n, image.at(30));
    }
    image.l2(4, 30, image.at(3));
    image.l2(5, 1, image.at(30));
    image.l2(5, 2, image.at(31));
    let list = found(check(image), true, &[]);
    let [first, other_kind, other_table] = &list[..] else { panic!("{list:?}") };
    assert_eq!(first.1, 4 * SMALL + 80);
    assert!(first.2.ends_with("; the same with 19 more entries of this table"), "{first:?}");
    assert_eq!(other_kind.1, 4 * SMALL + 240);
    assert_eq!(other_table.1, 5 * SMALL + 8);
    assert!(other_table.2.ends_with("; the same with another entry of this table"));
}

#[test]
fn bad_l1_entries_are_found_at_their_own_bytes() {
    for (entry, what) in [
        (
            20 * SMALL,
            "the L1 entry for byte 32768 of the disk says 0x2800: a table or cluster lies",
        ),
        (
            3 * SMALL,
            "an L1 entry of the disk says that its L2 table is at 1536, where the header or",
        ),
    ] {
        let mut image = three_tables();
        image.l1(1, entry);
        let (at, found) = one(image);
        assert_eq!(at, 3 * SMALL + 8);
        assert!(found.starts_with(what), "{found}");
    }
}

#[test]
fn what_a_cut_file_has_lost_is_found_at_its_end() {
    // Within the data, before it, within a table, within the L1 table, after the header.
    let mut image = three_tables();
    for n in 0..8 {
        image.l2(6, n, image.at(12 + n));
    }
    let cut = |len: usize| {
        let mut image = TestImage { bytes: image.bytes.clone(), cluster_bits: 9 };
        image.bytes.truncate(len);
        one(image)
    };
    let entry = |n: u64| 6 * SMALL + n * 8;
    let l2 = |n: u64| format!("the L2 entry for byte {} of the disk: ", 2 * REACH + n * SMALL);
    assert_eq!(
        cut(20 * 512 - 1),
        (
            entry(7),
            l2(7)
                + "its cluster at 9728 lacks 1 bytes, which read as zeros: the file ends there \
                   (truncated?)"
        )
    );
    assert_eq!(
        cut(19 * 512),
        (entry(7), l2(7) + "its cluster at 9728 lies past the end of the file (truncated?)")
    );
    assert_eq!(
        cut(17 * 512),
        (
            entry(5),
            l2(5)
                + "its cluster at 8704 lies past the end of the file (truncated?); the same with 2 \
                   more entries of this table"
        )
    );
    let (at, what) = cut(3 * 512);
    assert_eq!(at, 40, "{what}");
    assert!(what.starts_with("the L1 table of the disk is at 1536, past the end"), "{what}");
    assert_eq!(cut(112).0, 40);
    image.bytes.truncate(3 * 512 + 16);
    let list = found(check(image), true, &[]);
    let [entries, table] = &list[..] else { panic!("{list:?}") };
    assert_eq!((entries.1, table.1), (3 * SMALL, 3 * SMALL + 16));
    assert!(entries.2.ends_with("; the same with another entry of this table"), "{entries:?}");
}

#[test]
fn a_table_that_the_file_ends_in_is_found_with_what_it_maps() {
    let mut image = three_tables();
    image.bytes.truncate(6 * 512 + 80);
    let what = format!(
        "the file ends within the L2 table at 3072 (truncated?): the bytes from {} to {} of the \
         disk are lost",
        2 * REACH + 10 * SMALL,
        3 * REACH
    );
    assert_eq!(one(image), (6 * SMALL + 80, what));
    // The disk needs no more than these.
    let mut image = three_tables();
    put_u64(&mut image.bytes, 24, 2 * REACH + 10 * SMALL);
    image.bytes.truncate(6 * 512 + 80);
    nothing(image);
}

#[test]
fn what_lies_past_the_end_of_the_disk_is_nobodys() {
    let mut image = three_tables();
    put_u64(&mut image.bytes, 24, REACH + 5 * SMALL);
    image.l2(5, 5, image.at(90));
    image.l1(2, image.at(90));
    nothing(image);
    // The last cluster is needed up to the end of the disk.
    let mut image = TestImage::new(12, 4096 + 512, 1);
    image.clusters(8);
    image.l1(0, image.at(4));
    image.l2(4, 1, image.at(7));
    image.bytes.truncate(7 * 4096 + 512);
    nothing(image);
}

#[test]
fn a_compressed_cluster_must_unpack_to_one_cluster() {
    let sound = deflated(&[7; 512]);
    let mut flipped = sound.clone();
    // A block of the kind that there is none of.
    flipped[0] |= 6;
    for (packed, what) in [
        (flipped, "not a deflate stream"),
        (deflated(&[7; 513]), "the deflate stream holds more than 512 bytes"),
        (deflated(&[7; 511]), "the deflate stream holds 511 bytes instead of 512"),
        (sound[..2].to_vec(), "the deflate stream is cut after"),
    ] {
        let mut image = three_tables();
        // The sector before the end of the file.
        image.bytes.truncate(19 * 512);
        let at = image.bytes.len() as u64;
        put(&mut image.bytes, 19 * 512, &packed);
        image.l2(4, 3, packed_at(at));
        let (offset, found) = one(image);
        assert_eq!(offset, at);
        let wanted = format!("the compressed cluster for byte 1536 of the disk: {what}");
        assert!(found.starts_with(&wanted), "{found}");
    }
}

#[test]
fn a_cluster_of_two_parts_of_a_disk_is_odd_and_no_damage() {
    let mut image = three_tables();
    image.l2(4, 0, image.at(12));
    image.l2(5, 9, image.at(12));
    let list = found(check(image), false, &[]);
    let what = format!(
        "the L2 entry for byte {} of the disk: its cluster at 6144 is that of another part of the \
         disk, too",
        REACH + 9 * SMALL
    );
    assert_eq!(list, [(Severity::Warning, 5 * SMALL + 72, what)]);
    let mut image = three_tables();
    image.l1(2, image.at(5));
    let list = found(check(image), false, &[]);
    let what = "the L2 table at 2560 is that of another part, too".to_owned();
    assert_eq!(list, [(Severity::Warning, 3 * SMALL + 16, what)]);
}

/// An image with a snapshot that has the first table and a copy of the second, whose first cluster
/// is that of the active disk.
fn with_snapshot() -> TestImage {
    let mut image = three_tables();
    image.l2(4, 0, image.at(12));
    image.l2(5, 0, image.at(13) | 1 << 63);
    image.l2(7, 0, image.at(13));
    image.l2(7, 1, image.at(14));
    let (first, copy) = (image.at(4), image.at(7));
    image.l2(8, 0, first);
    image.l2(8, 1, copy);
    add_snapshots(&mut image, &[(8, 3, 3 * REACH)]);
    image
}

#[test]
fn what_a_snapshot_shares_with_the_disk_is_neither_odd_nor_read_twice() {
    let sum = std::cell::Cell::new(0);
    let layer = with_snapshot().layer();
    let check = check_image(layer.image(), &|bytes| sum.set(sum.get() + bytes));
    assert!(found(check, false, &[]).is_empty());
    // Four tables and three clusters.
    assert_eq!(sum.get(), 7 * SMALL);
}

#[test]
fn damage_spoils_those_disks_that_it_reaches() {
    // Of both; of the snapshot; of the active disk; in the L1 table of the snapshot.
    for (table, index, entry, active, snapshots) in [
        (4, 5, 90, true, &[0][..]),
        (7, 5, 90, false, &[0]),
        (5, 5, 90, true, &[]),
        (8, 1, 90, false, &[0]),
    ] {
        let mut image = with_snapshot();
        image.l2(table, index, image.at(entry));
        let at = image.at(table) + index * 8;
        let list = found(check(image), active, snapshots);
        assert_eq!(list.len(), 1, "{list:?}");
        assert_eq!(list[0].1, at);
    }
}

#[test]
fn a_damaged_cluster_spoils_all_that_share_it_and_is_told_once() {
    let mut image = with_snapshot();
    for table in [5, 7] {
        image.l2(table, 9, packed_at(15 * SMALL));
    }
    put(&mut image.bytes, 15 * 512, &[0xff; 8]);
    let list = found(check(image), true, &[0]);
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!(list[0].1, 15 * SMALL);
}

#[test]
fn a_snapshot_of_another_size_is_checked_up_to_its_own_end() {
    let mut image = three_tables();
    image.l2(4, 20, image.at(90));
    for l1 in [8, 9] {
        let first = image.at(4);
        image.l2(l1, 0, first);
    }
    // The bad entry is the 21st: past the end of the first snapshot, not of the second.
    add_snapshots(&mut image, &[(8, 1, 20 * SMALL), (9, 1, 21 * SMALL)]);
    let list = found(check(image), true, &[1]);
    assert_eq!(list.len(), 1, "{list:?}");
}

#[test]
fn a_broken_entry_of_the_snapshot_table_spoils_that_snapshot() {
    let mut image = with_snapshot();
    let table = 20 * SMALL;
    put_u64(&mut image.bytes, table, 8 * SMALL + 1);
    let list = found(check(image), false, &[0]);
    assert_eq!(list[0].1, table, "{list:?}");
    assert!(list[0].2.starts_with("a snapshot's L1 table is at 4097"), "{list:?}");
}

#[test]
fn l1_tables_that_overlap_are_damage_and_walked_once() {
    let mut image = three_tables();
    // The second has that of the first, the third that of the active disk.
    add_snapshots(&mut image, &[(8, 3, 3 * REACH), (8, 2, 2 * REACH), (3, 3, 3 * REACH)]);
    let list = found(check(image), false, &[1, 2]);
    assert_eq!(list[0].1, 3 * SMALL);
    let what = "the L1 table of snapshot 2, at 4096, overlaps another table";
    assert_eq!((list[1].1, list[1].2.as_str()), (8 * SMALL, what));
}

#[test]
fn what_the_medium_has_lost_is_found_in_every_disk_that_needs_it() {
    for (bad, active, snapshots) in [
        // A cluster of both, one of the snapshot alone, a table of the snapshot, its L1 table.
        (13, true, &[0][..]),
        (14, false, &[0]),
        (7, false, &[0]),
        (8, false, &[0]),
        // The active L1 table.
        (3, true, &[]),
    ] {
        let image = with_snapshot();
        let range = image.at(bad)..image.at(bad + 1);
        let layer = failing(image, range.clone());
        let list = found(check_image(layer.image(), &|_| {}), active, snapshots);
        assert_eq!(list.len(), 1, "{list:?}");
        assert_eq!(list[0].1, range.start);
        assert_eq!(list[0].2, "it cannot be read: bad sector");
    }
}

#[test]
fn flags_are_warnings() {
    for (flags, what) in [(1, "it was not closed properly"), (2, "QEMU marked this image")] {
        let mut image = three_tables();
        put_u64(&mut image.bytes, 72, flags);
        let list = found(check(image), false, &[]);
        assert_eq!((list[0].0, list[0].1), (Severity::Warning, 72));
        assert!(list[0].2.starts_with(what), "{list:?}");
    }
}

/// Clusters of 16 KiB with extended L2 entries: subclusters of 512 bytes.
fn extended(bitmap: u64, clusters: u64) -> TestImage {
    let mut image = TestImage::new(14, 16 << 20, 1);
    put_u64(&mut image.bytes, 72, 16);
    image.clusters(clusters);
    image.l1(0, image.at(4));
    image.l2(4, 6, image.at(5));
    image.l2(4, 7, bitmap);
    image
}

#[test]
fn subclusters_must_not_contradict_each_other_and_be_there_where_allocated() {
    nothing(extended(0xf, 6));
    let (at, what) = one(extended(0x1_0000_0001, 6));
    assert_eq!(at, (4 << 14) + 48);
    assert!(what.contains("contradicts itself"), "{what}");
    // The file may end after the last allocated subcluster, not before.
    let mut image = extended(0xf, 6);
    image.bytes.truncate((5 << 14) + 4 * 512);
    nothing(image);
    let mut image = extended(0x1f, 6);
    image.bytes.truncate((5 << 14) + 4 * 512);
    let (_, what) = one(image);
    assert!(what.contains("lacks 512 bytes"), "{what}");
}

#[test]
fn clusters_of_subclusters_have_one_owner_each() {
    let mut image = extended(0xf0, 6);
    image.l2(4, 10, image.at(5));
    image.l2(4, 11, 1);
    let list = found(check(image), false, &[]);
    assert_eq!((list[0].0, list[0].1), (Severity::Warning, (4 << 14) + 80));
}

#[test]
fn a_short_data_file_is_damage_of_the_image() {
    let mut image = three_tables();
    put_u64(&mut image.bytes, 72, 4);
    put(&mut image.bytes, 112, &extension(0x4441_5441, b"data"));
    for n in 0..4 {
        image.l2(4, n, (n * SMALL) | (1 << 63));
    }
    let list = |len| {
        let data = Arc::new(MemoryFile::new("data", vec![0; len]));
        let file = Arc::new(MemoryFile::new("disk.qcow2", image.bytes.clone()));
        check_image(active(file, Some(data)).image(), &|_| {})
    };
    assert!(found(list(2048), false, &[]).is_empty());
    let cut = found(list(2000), true, &[]);
    assert_eq!(cut[0].1, 4 * SMALL + 24);
    assert!(cut[0].2.contains("lacks 48 bytes"), "{cut:?}");
    let lost = found(list(1000), true, &[]);
    assert_eq!(lost[0].1, 4 * SMALL + 8, "{lost:?}");
    assert_eq!(lost[1].1, 4 * SMALL + 16, "{lost:?}");
    assert!(lost[1].2.contains("past the end of the data file"), "{lost:?}");
}
