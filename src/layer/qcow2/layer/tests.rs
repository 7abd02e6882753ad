use std::io::Write;

use super::super::l1::BLOCK;
use super::super::testimage::{
    TestImage, active, extension, failing, host, put, put_u64, read, says, words,
};
use super::*;
use crate::error::Error;
use crate::layer::clusters::ClusterCache;
use crate::layer::qcow2::Header;
use crate::source::MemoryFile;

/// 512-byte clusters: an L2 table has 64 entries and maps 32 KiB.
const SMALL: u64 = 512;
const REACH: u64 = 32 << 10;

/// A disk of three L2 tables of which the second does not exist.
fn three_tables() -> TestImage {
    let mut image = TestImage::new(9, 3 * REACH, 3);
    image.clusters(20);
    image.l1(0, image.at(4));
    image.l1(2, image.at(5));
    image
}

fn bad(fault: Fault) -> Word {
    Word::Bad(fault)
}

#[test]
fn neighbours_in_the_file_are_one_extent_across_tables() {
    let mut image = three_tables();
    image.l1(1, image.at(6));
    image.l2(4, 62, image.at(10));
    image.l2(4, 63, image.at(11));
    image.l2(6, 0, image.at(12));
    image.l2(6, 2, 1);
    let layer = image.layer();
    assert_eq!(
        words(&layer, 0..3 * REACH),
        [
            says(0..REACH - 1024, Word::Below),
            says(REACH - 1024..REACH + 512, host(10 * SMALL)),
            says(REACH + 512..REACH + 1024, Word::Below),
            says(REACH + 1024..REACH + 1536, Word::Zero),
            says(REACH + 1536..3 * REACH, Word::Below),
        ]
    );
}

#[test]
fn a_range_may_begin_and_end_anywhere() {
    let mut image = three_tables();
    image.l2(4, 0, image.at(10));
    image.l2(4, 1, image.at(11));
    image.l2(4, 2, image.at(15));
    image.l2(5, 0, image.at(9));
    let layer = image.layer();
    let whole = words(&layer, 0..3 * REACH);
    let edges = [0, 1, 511, 512, 513, 1000, 1024, 1535, 1536, REACH - 1, REACH, 2 * REACH + 7];
    for start in edges {
        for end in edges.into_iter().chain([3 * REACH]).filter(|end| *end > start) {
            let expected: Vec<_> = whole
                .iter()
                .filter(|e| e.range.start < end && e.range.end > start)
                .map(|e| {
                    let from = e.range.start.max(start);
                    let word = advance(e.word, from - e.range.start);
                    says(from..e.range.end.min(end), word)
                })
                .collect();
            assert_eq!(words(&layer, start..end), expected, "{start}..{end}");
        }
    }
}

#[test]
fn nothing_is_said_past_the_virtual_size() {
    let mut image = three_tables();
    put_u64(&mut image.bytes, 24, 2 * REACH + 512);
    image.l2(5, 0, image.at(9));
    image.l2(5, 1, image.at(10));
    let layer = image.layer();
    let size = 2 * REACH + 512;
    assert_eq!(layer.virtual_size(), size);
    assert_eq!(
        words(&layer, 2 * REACH..9 * REACH),
        [says(2 * REACH..size, host(9 * SMALL)), says(size..9 * REACH, Word::Below)]
    );
    assert_eq!(words(&layer, size..u64::MAX), [says(size..u64::MAX, Word::Below)]);
}

#[test]
fn a_bad_entry_spoils_exactly_its_cluster() {
    let mut image = three_tables();
    image.cluster_bits = 9;
    image.l2(4, 0, image.at(10));
    image.l2(4, 1, image.at(20));
    image.l2(4, 2, image.at(12));
    image.l2(4, 3, 1 << 62 | (20 * SMALL));
    image.l2(4, 4, image.at(14));
    let layer = image.layer();
    assert_eq!(
        words(&layer, 0..2560),
        [
            says(0..512, host(10 * SMALL)),
            says(512..1024, bad(Fault::PastEnd)),
            says(1024..1536, host(12 * SMALL)),
            says(1536..2048, bad(Fault::PastEnd)),
            says(2048..2560, host(14 * SMALL)),
        ]
    );
}

#[test]
fn a_bad_l1_entry_spoils_exactly_what_its_table_maps() {
    let mut image = TestImage::new(12, 4 << 21, 4);
    let reach = 2 << 20;
    image.l1(0, image.at(3) + 512);
    image.l1(2, image.at(4));
    assert_eq!(image.at(4), image.bytes.len() as u64);
    let layer = image.layer();
    assert_eq!(
        words(&layer, 0..4 * reach),
        [
            says(0..reach, bad(Fault::Misaligned)),
            says(reach..2 * reach, Word::Below),
            says(2 * reach..3 * reach, bad(Fault::PastEnd)),
            says(3 * reach..4 * reach, Word::Below),
        ]
    );
}

#[test]
fn an_image_cut_to_its_header_is_no_empty_disk() {
    for len in [112, 512, 3 * 512] {
        let mut image = three_tables();
        image.bytes.truncate(len);
        let layer = image.layer();
        assert_eq!(words(&layer, 0..3 * REACH), [says(0..3 * REACH, bad(Fault::PastEnd))]);
    }
}

#[test]
fn an_image_cut_in_its_l1_table_keeps_what_the_rest_maps() {
    for cut in [8, 9, 15] {
        let mut image = three_tables();
        image.bytes.truncate(3 * 512 + cut);
        put_u64(&mut image.bytes, 3 * SMALL, 0);
        let layer = image.layer();
        assert_eq!(
            words(&layer, 0..3 * REACH),
            [says(0..REACH, Word::Below), says(REACH..3 * REACH, bad(Fault::PastEnd))]
        );
    }
}

#[test]
fn an_image_cut_in_an_l2_table_keeps_what_the_rest_maps() {
    for cut in [0, 1, 7] {
        let mut image = three_tables();
        image.l2(5, 0, image.at(4));
        image.l2(5, 1, 1);
        image.bytes.truncate(5 * 512 + 16 + cut);
        let layer = image.layer();
        let second = 2 * REACH;
        assert_eq!(
            words(&layer, second..3 * REACH),
            [
                says(second..second + 512, host(4 * SMALL)),
                says(second + 512..second + 1024, Word::Zero),
                says(second + 1024..3 * REACH, bad(Fault::PastEnd)),
            ]
        );
    }
}

#[test]
fn an_image_cut_in_its_last_cluster_reads_zeros_there() {
    let mut image = three_tables();
    image.l2(4, 0, image.at(10));
    put(&mut image.bytes, 10 * 512, &[7; 512]);
    image.bytes.truncate(10 * 512 + 100);
    let layer = image.layer();
    assert_eq!(words(&layer, 0..512), [says(0..512, host(10 * SMALL))]);
    assert_eq!(read(&layer, 0, 512).unwrap(), [vec![7; 100], vec![0; 412]].concat());
    assert_eq!(read(&layer, 90, 20).unwrap(), [[7; 10], [0; 10]].concat());
}

#[test]
fn an_image_cut_before_its_last_cluster_has_lost_it() {
    let mut image = three_tables();
    image.l2(4, 0, image.at(10));
    image.clusters(10);
    assert_eq!(words(&image.layer(), 0..512), [says(0..512, bad(Fault::PastEnd))]);
}

#[test]
fn a_table_that_cannot_be_read_is_unreadable_for_what_it_maps_and_asked_again() {
    let mut image = three_tables();
    image.l2(4, 0, image.at(10));
    image.l2(5, 0, image.at(11));
    // Entries 1 to 63 of the first table.
    let layer = failing(image, 4 * 512 + 8..5 * 512);
    assert_eq!(words(&layer, 0..512), [says(0..512, host(10 * SMALL))]);
    assert_eq!(
        words(&layer, 0..2 * REACH + 512),
        [
            says(0..REACH, bad(Fault::Unreadable)),
            says(REACH..2 * REACH, Word::Below),
            says(2 * REACH..2 * REACH + 512, host(11 * SMALL)),
        ]
    );
    assert_eq!(words(&layer, 0..512), [says(0..512, host(10 * SMALL))]);
}

#[test]
fn an_l1_table_that_cannot_be_read_makes_the_whole_disk_unreadable() {
    let layer = failing(three_tables(), 3 * 512..3 * 512 + 1);
    assert_eq!(
        words(&layer, 7..4 * REACH),
        [says(7..3 * REACH, bad(Fault::Unreadable)), says(3 * REACH..4 * REACH, Word::Below)]
    );
    assert_eq!(layer.allocated_at_most(), 3 * REACH);
}

/// 16 KiB clusters with extended L2 entries: subclusters of 512 bytes.
fn extended() -> TestImage {
    let mut image = TestImage::new(14, 1 << 20, 1);
    put_u64(&mut image.bytes, 72, 1 << 4);
    image.clusters(8);
    image.l1(0, image.at(4));
    image
}

#[test]
fn subclusters_are_extents_wherever_the_range_begins() {
    let mut image = extended();
    image.l2(4, 0, image.at(5));
    image.l2(4, 1, 0x0000_00f0_ffff_ff00);
    image.l2(4, 2, image.at(6));
    image.l2(4, 3, 0x0000_0000_ffff_ffff);
    let layer = image.layer();
    let at = 5 << 14;
    assert_eq!(
        words(&layer, 0..40_000),
        [
            says(0..2048, Word::Below),
            says(2048..4096, Word::Zero),
            says(4096..32_768, host(at + 4096)),
            says(32_768..40_000, Word::Below),
        ]
    );
    assert_eq!(
        words(&layer, 3000..5000),
        [says(3000..4096, Word::Zero), says(4096..5000, host(at + 4096))]
    );
    assert_eq!(words(&layer, 16_000..20_000), [says(16_000..20_000, host(at + 16_000))]);
}

#[test]
fn a_cut_extended_entry_is_lost_as_a_whole() {
    let mut image = extended();
    image.bytes.truncate((4 << 14) + 24);
    assert_eq!(
        words(&image.layer(), 0..32_768),
        [says(0..16_384, Word::Below), says(16_384..32_768, bad(Fault::PastEnd))]
    );
}

fn deflated(plain: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(plain).unwrap();
    out.finish().unwrap()
}

/// One compressed cluster of 4 KiB at byte 100 of the fifth cluster, in the first table.
fn packed_image(stream: &[u8]) -> TestImage {
    let mut image = TestImage::new(12, 4 << 20, 2);
    image.clusters(5);
    let at = image.at(5) + 100;
    put(&mut image.bytes, usize::try_from(at).unwrap(), stream);
    let sectors = (100 + stream.len() as u64).div_ceil(512) - 1;
    image.l1(0, image.at(4));
    image.l2(4, 3, 1 << 62 | sectors << 58 | at);
    image
}

#[test]
fn a_compressed_cluster_is_read_from_any_byte_of_it() {
    let plain: Vec<u8> = (0..4096_u32).map(|i| (i * i % 251) as u8).collect();
    let layer = packed_image(&deflated(&plain)).layer();
    let start = 3 * 4096;
    assert_eq!(words(&layer, start..start + 9000).len(), 2);
    assert!(read(&layer, start, 4096).unwrap() == plain);
    assert!(read(&layer, start + 1000, 50).unwrap() == plain[1000..1050]);
    assert!(read(&layer, start + 4095, 1).unwrap() == plain[4095..]);
}

#[test]
fn a_compressed_cluster_that_is_no_cluster_is_an_error_at_its_offset() {
    let layer = packed_image(&deflated(&[5; 4095])).layer();
    for _ in 0..2 {
        let e = read(&layer, 3 * 4096, 1).unwrap_err().to_string();
        assert_eq!(
            e,
            "disk.qcow2: damaged at byte 20580: the deflate stream holds 4095 bytes instead of 4096"
        );
    }
}

#[test]
fn a_read_across_the_end_of_a_compressed_cluster_is_an_error() {
    let layer = packed_image(&deflated(&[5; 4096])).layer();
    let slot = match words(&layer, 3 * 4096..3 * 4096 + 1)[0].word {
        Word::At(slot) => slot,
        other => panic!("{other:?}"),
    };
    let e = layer.read(slot, GuestOffset(3 * 4096 + 1), &mut [0; 4096]).unwrap_err();
    assert!(matches!(e, Error::Corrupt { offset: 20_580, .. }), "{e}");
}

#[test]
fn what_compression_could_hide_is_counted_in_full() {
    let layer = packed_image(&deflated(&[5; 4096])).layer();
    // One of two tables, each of which maps 2 MiB.
    assert_eq!(layer.allocated_at_most(), 2 << 20);
    let mut image = three_tables();
    image.l2(4, 0, image.at(10));
    assert_eq!(image.layer().allocated_at_most(), 20 * 512);
    // Never more than the tables that exist could map.
    let mut image = three_tables();
    image.clusters(1000);
    assert_eq!(image.layer().allocated_at_most(), 2 * REACH, "two of the three tables exist");
}

/// An image with an external data file of three and a half clusters.
fn with_data_file() -> (TestImage, Arc<dyn Source>) {
    let mut image = three_tables();
    put_u64(&mut image.bytes, 72, 1 << 2);
    put(&mut image.bytes, 112, &extension(0x4441_5441, b"disk.data"));
    let data = MemoryFile::new("disk.data", vec![9; 1792]);
    (image, Arc::new(data))
}

#[test]
fn clusters_of_a_data_file_are_read_from_it_and_zeros_past_its_end() {
    let (mut image, data) = with_data_file();
    image.l2(4, 0, 1 << 63);
    image.l2(4, 3, 3 * 512);
    image.l2(5, 0, 2 * REACH);
    image.l2(5, 1, 512);
    let layer = active(Arc::new(MemoryFile::new("disk.qcow2", image.bytes)), Some(data));
    assert_eq!(words(&layer, 0..1024), [says(0..512, host(0)), says(512..1024, Word::Below)]);
    assert_eq!(read(&layer, 0, 512).unwrap(), [9; 512]);
    assert_eq!(read(&layer, 1536, 512).unwrap(), [[9; 256], [0; 256]].concat());
    assert_eq!(read(&layer, 2 * REACH, 4).unwrap(), [0; 4]);
    assert_eq!(
        words(&layer, 2 * REACH + 512..2 * REACH + 1024),
        [says(2 * REACH + 512..2 * REACH + 1024, bad(Fault::DataFileOffset))]
    );
    assert_eq!(layer.allocated_at_most(), 1792);
}

#[test]
fn an_image_without_its_data_file_or_with_encryption_is_no_layer() {
    let open = |image: TestImage| {
        let file: Arc<dyn Source> = Arc::new(MemoryFile::new("disk.qcow2", image.bytes));
        let header = Header::read(file.as_ref()).unwrap();
        Qcow2Image::new(file, header, None, Arc::new(ClusterCache::new(0)))
    };
    let message = |image| open(image).unwrap_err().to_string();
    let (image, _) = with_data_file();
    assert_eq!(message(image), "disk.qcow2: its data file `disk.data` is missing");
    let mut image = three_tables();
    put(&mut image.bytes, 32, &1_u32.to_be_bytes());
    assert_eq!(message(image), "disk.qcow2: unsupported at byte 32: the image is encrypted (AES)");
    let mut image = three_tables();
    put(&mut image.bytes, 32, &2_u32.to_be_bytes());
    put(&mut image.bytes, 112, &extension(0x0537_be77, &[0; 16]));
    assert_eq!(message(image), "disk.qcow2: unsupported at byte 32: the image is encrypted (LUKS)");
}

fn snapshot_layer(image: TestImage, l1_offset: u64, l1_size: u32, size: u64) -> Qcow2Layer {
    let snapshot = Snapshot {
        id: b"1".to_vec(),
        name: b"first".to_vec(),
        l1_offset,
        l1_size,
        seconds: 0,
        nanos: 0,
        virtual_size: size,
        vm_state_size: 0,
    };
    Qcow2Layer::of_snapshot(image.layer().image(), &snapshot)
}

#[test]
fn what_a_short_l1_table_of_a_snapshot_lacks_is_unallocated() {
    let mut image = three_tables();
    let l1 = image.at(7);
    put_u64(&mut image.bytes, l1, 4 * SMALL);
    image.l2(4, 63, image.at(10));
    let huge = 1 << 62;
    let layer = snapshot_layer(image, l1, 1, huge);
    assert_eq!(layer.virtual_size(), huge);
    assert_eq!(
        words(&layer, REACH - 512..huge),
        [says(REACH - 512..REACH, host(10 * SMALL)), says(REACH..huge, Word::Below)]
    );
}

#[test]
fn a_snapshot_of_a_disk_that_was_smaller_ends_where_that_did() {
    let mut image = three_tables();
    image.l2(4, 0, image.at(10));
    image.l2(4, 1, image.at(11));
    let l1 = image.at(3);
    let layer = snapshot_layer(image, l1, 3, 512);
    assert_eq!(
        words(&layer, 0..1024),
        [says(0..512, host(10 * SMALL)), says(512..1024, Word::Below)]
    );
}

#[test]
fn layers_of_one_image_share_its_clusters_in_the_cache() {
    let image = packed_image(&deflated(&[5; 4096]));
    let l1 = image.at(3);
    let file: Arc<dyn Source> = Arc::new(MemoryFile::new("disk.qcow2", image.bytes));
    let header = Header::read(file.as_ref()).unwrap();
    let cache = Arc::new(ClusterCache::new(1 << 20));
    let open = || {
        let file = Arc::clone(&file);
        Qcow2Image::new(file, header.clone(), None, Arc::clone(&cache)).unwrap()
    };
    let image = open();
    let layer = Qcow2Layer::active(&image);
    read(&layer, 3 * 4096, 1).unwrap();
    // The cluster, and the two entries of the L1 table.
    assert_eq!(cache.bytes(), 4096 + 16);
    read(&Qcow2Layer::new(&image, l1, 2, 4 << 20), 3 * 4096, 1).unwrap();
    assert_eq!(cache.bytes(), 4096 + 16);
    // Opened once more it is another image, for the file may be another by then.
    read(&Qcow2Layer::active(&open()), 3 * 4096, 1).unwrap();
    assert_eq!(cache.bytes(), 2 * (4096 + 16));
}

/// A disk whose L1 table takes three blocks and a bit; of its L2 tables only `table` exists, with
/// one cluster in its first entry.
fn large_l1(table: u64) -> TestImage {
    let entries = 3 * BLOCK + 5;
    let mut image = TestImage::new(9, entries * REACH, u32::try_from(entries).unwrap());
    let first_free = 3 + (entries * 8).div_ceil(SMALL);
    image.clusters(first_free + 2);
    image.l1(table, image.at(first_free));
    image.l2(first_free, 0, image.at(first_free + 1));
    image
}

#[test]
fn what_lies_in_any_block_of_a_large_l1_table_is_found() {
    for table in [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK - 1, 3 * BLOCK, 3 * BLOCK + 4] {
        let image = large_l1(table);
        let data = image.bytes.len() as u64 - SMALL;
        let layer = image.layer();
        let (from, end) = (table * REACH, (3 * BLOCK + 5) * REACH);
        let mut expected = vec![
            says(0..from, Word::Below),
            says(from..from + SMALL, host(data)),
            says(from + SMALL..end, Word::Below),
        ];
        expected.retain(|extent| !extent.range.is_empty());
        assert_eq!(words(&layer, 0..end), expected);
        assert_eq!(layer.empty_until(0), from);
        assert_eq!(layer.empty_until(from), from);
        let after = layer.empty_until(from + REACH);
        assert_eq!(after, u64::MAX, "nothing follows table {table}");
        assert_eq!(layer.allocated_at_most(), REACH);
    }
}

#[test]
fn a_large_l1_table_is_read_where_it_is_needed_and_cut_where_the_file_is() {
    let second = BLOCK * REACH;
    let bytes_of_block = usize::try_from(BLOCK * 8).unwrap();
    // The third block cannot be read: the others say what they always said.
    let from = 3 * 512 + 2 * BLOCK * 8;
    let layer = failing(large_l1(BLOCK + 1), from..from + 1);
    assert_eq!(words(&layer, second..second + REACH).len(), 1);
    assert_eq!(
        words(&layer, 2 * second..u64::MAX)[0],
        says(2 * second..3 * second, bad(Fault::Unreadable))
    );
    assert_eq!(layer.empty_until(0), second + REACH);
    assert_eq!(layer.empty_until(second + 2 * REACH), 2 * second);
    assert_eq!(layer.allocated_at_most(), layer.virtual_size());
    // The file ends within the second block, after two entries of it.
    let mut image = large_l1(3 * BLOCK);
    image.bytes.truncate(3 * 512 + bytes_of_block + 16);
    let layer = image.layer();
    let end = (3 * BLOCK + 5) * REACH;
    assert_eq!(
        words(&layer, 0..end),
        [
            says(0..second + 2 * REACH, Word::Below),
            says(second + 2 * REACH..end, bad(Fault::PastEnd)),
        ]
    );
    assert_eq!(layer.empty_until(5), second + 2 * REACH);
    assert_eq!(layer.empty_until(2 * second + 5), 2 * second + 5);
}

#[test]
fn a_hundred_snapshots_of_one_large_l1_table_keep_no_more_than_the_cache_may() {
    const MOST: u64 = 256 << 10;
    let entries = 1 << 20;
    let mut bytes = TestImage::new(9, entries * REACH, 1 << 20).bytes;
    bytes.resize(3 * 512 + (8 << 20), 0);
    let file: Arc<dyn Source> = Arc::new(MemoryFile::new("disk.qcow2", bytes));
    let header = Header::read(file.as_ref()).unwrap();
    let cache = Arc::new(ClusterCache::new(MOST));
    let image = Qcow2Image::new(file, header, None, Arc::clone(&cache)).unwrap();
    let layers: Vec<_> =
        (0..100).map(|_| Qcow2Layer::new(&image, 3 * SMALL, 1 << 20, entries * REACH)).collect();
    for (layer, number) in layers.iter().zip(0..) {
        let at = number * (entries / 100) * REACH;
        assert_eq!(words(layer, at..at + REACH), [says(at..at + REACH, Word::Below)]);
        assert!((1..=MOST).contains(&cache.bytes()), "{} bytes", cache.bytes());
    }
    assert_eq!(layers[0].empty_until(0), u64::MAX);
    assert_eq!(layers[0].allocated_at_most(), 0);
    assert!(cache.bytes() <= MOST, "{} bytes", cache.bytes());
}
