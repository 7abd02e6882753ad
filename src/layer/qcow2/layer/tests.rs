mod damaged;
mod snapshots;

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
