use super::super::testimage::{extension, fixed_header, put};
use super::*;
use crate::source::MemoryFile;

const NAME_AT: usize = 0x800;

/// A valid header of everything that does not exclude the rest: 64 KiB clusters, 1 GiB.
fn valid() -> Vec<u8> {
    let mut bytes = fixed_header(16, 1 << 30, 2);
    put(&mut bytes, 8, &(NAME_AT as u64).to_be_bytes());
    put(&mut bytes, 16, &10_u32.to_be_bytes());
    let mut names = vec![0; 96];
    put(&mut names, 0, b"\0\x05time\ntravel");
    put(&mut names, 48, b"\x01\x07not this one");
    let extensions = [
        extension(0xe279_2aca, b"qcow2"),
        extension(0x1234_5678, b"of somebody else"),
        extension(0x6803_f857, &names),
        extension(0x2385_2875, &bitmaps(3, 96, 0x50000)),
        extension(0, b""),
    ];
    put(&mut bytes, 112, &extensions.concat());
    put(&mut bytes, NAME_AT, b"base.qcow2");
    bytes
}

fn bitmaps(count: u32, size: u64, offset: u64) -> Vec<u8> {
    let mut data = count.to_be_bytes().to_vec();
    data.extend([0; 4]);
    data.extend(size.to_be_bytes());
    data.extend(offset.to_be_bytes());
    data
}

fn valid_v2() -> Vec<u8> {
    let mut bytes = valid();
    put(&mut bytes, 4, &be32(2));
    // What were version 3's fields and extensions.
    bytes[72..NAME_AT].fill(0);
    put(&mut bytes, 72, &extension(0xe279_2aca, b"raw"));
    bytes
}

fn be32(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn be64(value: u64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn parse(bytes: &[u8]) -> Result<Header, Defect> {
    Header::parse(bytes, bytes.len() as u64)
}

fn changed(bytes: &[u8], at: usize, to: &[u8]) -> Result<Header, Defect> {
    let mut bytes = bytes.to_vec();
    put(&mut bytes, at, to);
    parse(&bytes)
}

/// Each change is one field of a valid header.
fn expect_defects(cases: &[(usize, Vec<u8>, Defect)]) {
    for (at, to, defect) in cases {
        assert_eq!(changed(&valid(), *at, to).as_ref(), Err(defect), "{to:02x?} at {at}");
    }
}

fn corrupt(offset: u64, what: &str) -> Defect {
    Defect::corrupt(offset, what)
}

fn unsupported(offset: u64, what: &str) -> Defect {
    Defect::unsupported(offset, what)
}

#[test]
fn a_valid_header_is_what_it_says() {
    let expected = Header {
        version: 3,
        cluster_bits: 16,
        virtual_size: 1 << 30,
        backing_file: Some(b"base.qcow2".to_vec()),
        backing_format: Some("qcow2".into()),
        data_file: None,
        data_file_is_raw: false,
        encryption: None,
        compression: Compression::Deflate,
        extended_l2: false,
        l1_offset: 0x30000,
        l1_size: 2,
        snapshot_count: 0,
        snapshots_offset: 0,
        bitmaps: None,
        incompatible_features: 0,
    };
    assert_eq!(parse(&valid()), Ok(expected));
}

#[test]
fn a_header_of_version_2_has_no_features() {
    let header = parse(&valid_v2()).unwrap();
    assert_eq!((header.version, header.backing_format.as_deref()), (2, Some("raw")));
    assert_eq!(header.backing_file.as_deref(), Some(&b"base.qcow2"[..]));
    // The same bytes would be an unknown feature in version 3; here they are an extension.
    assert!(changed(&valid_v2(), 4, &be32(3)).is_err());
}

#[test]
fn one_changed_field_of_the_start_is_one_exact_defect() {
    expect_defects(&[
        (0, b"qfi\xfb".to_vec(), corrupt(0, "not a qcow2 image: its magic is missing")),
        (4, be32(0), unsupported(4, "qcow2 version 0")),
        (4, be32(1), unsupported(4, "qcow version 1 (it is no qcow2)")),
        (4, be32(4), unsupported(4, "qcow2 version 4")),
        (20, be32(0), corrupt(20, "clusters of 2^0 bytes (at least 2^9)")),
        (20, be32(8), corrupt(20, "clusters of 2^8 bytes (at least 2^9)")),
        (20, be32(22), unsupported(20, "clusters of 2^22 bytes (at most 2^21)")),
        (20, be32(u32::MAX), unsupported(20, "clusters of 2^4294967295 bytes (at most 2^21)")),
        (100, be32(0), corrupt(100, "a header of 0 bytes (at least 104)")),
        (100, be32(103), corrupt(100, "a header of 103 bytes (at least 104)")),
        (100, be32(65_537), corrupt(100, "a header of 65537 bytes in a cluster of 65536")),
        (96, be32(7), corrupt(96, "refcounts of 2^7 bits (at most 2^6)")),
        (60, be32(65_537), corrupt(60, "65537 snapshots (at most 65536)")),
    ]);
}

#[test]
fn one_changed_field_of_the_features_is_one_exact_defect() {
    let bit = |bit: u64| be64(1 << bit);
    expect_defects(&[
        (72, bit(5), unsupported(72, r"unknown incompatible feature: bit 5 (time\ntravel)")),
        (72, bit(7), unsupported(72, "unknown incompatible feature: bit 7")),
        (72, bit(63), unsupported(72, "unknown incompatible feature: bit 63")),
        (
            72,
            be64(0b1110_0001),
            unsupported(72, r"unknown incompatible feature: bit 5 (time\ntravel), bit 6, bit 7"),
        ),
        (72, bit(2), corrupt(72, "the image has an external data file, but not its name")),
        (72, bit(3), corrupt(72, "the compression type bit is set, but the type is deflate")),
        (104, vec![1], corrupt(72, "the compression type is zstd, but its bit is not set")),
        (104, vec![2], unsupported(104, "compression type 2")),
        (32, be32(2), corrupt(32, "encrypted by LUKS, but there is no LUKS header")),
        (32, be32(3), unsupported(32, "encryption method 3")),
    ]);
    let mut small = fixed_header(13, 1 << 20, 1);
    put(&mut small, 72, &bit(4));
    let what = "extended L2 entries with clusters of 2^13 bytes (at least 2^14)";
    assert_eq!(parse(&small), Err(corrupt(20, what)));
}

#[test]
fn one_changed_field_of_the_l1_table_is_one_exact_defect() {
    let most = u64::from(MOST_L1_ENTRIES) << 29;
    let needs = |size: u64, needed: u64| {
        corrupt(
            36,
            &format!("an L1 table of 2 entries for a disk of {size} bytes (it needs {needed})"),
        )
    };
    expect_defects(&[
        (36, be32(4_194_305), corrupt(36, "an L1 table of 4194305 entries (at most 4194304)")),
        (
            36,
            be32(1),
            corrupt(36, "an L1 table of 1 entries for a disk of 1073741824 bytes (it needs 2)"),
        ),
        (
            36,
            be32(0),
            corrupt(36, "an L1 table of 0 entries for a disk of 1073741824 bytes (it needs 2)"),
        ),
        (24, be64((1 << 30) + 1), needs((1 << 30) + 1, 3)),
        (24, be64(most), needs(most, 4_194_304)),
        (24, be64(u64::MAX), needs(u64::MAX, 1 << 35)),
        (
            40,
            be64(0x30200),
            corrupt(40, "the L1 table is at 197120, which is no multiple of the cluster size"),
        ),
        (40, be64(0), corrupt(40, "the L1 table is at 0, where the header is")),
        (40, be64(1 << 63), corrupt(40, "the L1 table is at 9223372036854775808, past any file")),
    ]);
}

#[test]
fn one_changed_field_of_the_backing_name_is_one_exact_defect() {
    let beyond =
        |at: u64| corrupt(8, &format!("the backing file's name is at {at}, past the cluster"));
    expect_defects(&[
        (8, be64(65_537), beyond(65_537)),
        (8, be64(u64::MAX), beyond(u64::MAX)),
        (8, be64(65_530), corrupt(16, "the backing file's name has 10 bytes (here at most 6)")),
        (16, be32(1024), corrupt(16, "the backing file's name has 1024 bytes (here at most 1023)")),
        (
            16,
            be32(u32::MAX),
            corrupt(16, "the backing file's name has 4294967295 bytes (here at most 1023)"),
        ),
        (16, be32(1023), corrupt(2048, "the file ends within the backing file's name")),
        (8, be64(2056), corrupt(2056, "the file ends within the backing file's name")),
    ]);
}

#[test]
fn one_changed_field_of_an_extension_is_one_exact_defect() {
    // The second extension starts at 128.
    expect_defects(&[
        (116, be32(16), corrupt(120, "the backing format's name has 16 bytes (at most 15)")),
        (132, be32(1913), corrupt(128, "a header extension of 1913 bytes does not end by 2048")),
        (
            132,
            be32(u32::MAX),
            corrupt(128, "a header extension of 4294967295 bytes does not end by 2048"),
        ),
        (8, be64(132), corrupt(128, "a header extension of 0 bytes does not end by 132")),
        (128, be32(0x0537_be77), corrupt(32, "a LUKS header, but not encrypted by LUKS")),
        (
            112,
            be32(0x0537_be77),
            corrupt(120, "the LUKS header extension has 5 bytes instead of 16"),
        ),
    ]);
}

#[test]
fn a_wrong_extension_of_bitmaps_spoils_only_the_bitmaps() {
    let kind = be32(0x2385_2875);
    let right = valid().windows(4).rposition(|window| window == kind).unwrap();
    for (at, data, len) in [(112, 120, 5), (128, 136, 16)] {
        let mut bytes = valid();
        put(&mut bytes, at, &kind);
        assert_eq!(parse(&bytes).unwrap().bitmaps, None, "they are stale");
        put(&mut bytes, 88, &be64(1));
        let directory = BitmapDirectory { count: 3, size: 96, offset: 0x50000 };
        assert_eq!(parse(&bytes).unwrap().bitmaps, Some(Ok(directory)), "the last one counts");
        put(&mut bytes, right, &be32(1));
        let what = format!("the bitmaps extension has {len} bytes instead of 24");
        assert_eq!(parse(&bytes).unwrap().bitmaps, Some(Err(corrupt(data, &what))));
    }
}

#[test]
fn a_header_that_is_cut_is_a_defect_that_says_where() {
    let cut = |len: usize| parse(&valid()[..len]);
    let within = |len: u64| {
        Err(corrupt(len, &format!("the file ends within its header, after {len} bytes")))
    };
    let extension = |at| Err(corrupt(at, "the file ends within a header extension"));
    let name = || Err(corrupt(2048, "the file ends within the backing file's name"));
    assert_eq!(cut(0), Err(corrupt(0, "not a qcow2 image: its magic is missing")));
    assert_eq!(cut(3), Err(corrupt(0, "not a qcow2 image: its magic is missing")));
    for len in [4, 7, 71, 72, 103, 104] {
        assert_eq!(cut(len), within(len as u64));
    }
    assert_eq!(cut(112), name());
    for len in [113, 119, 120, 124] {
        assert_eq!(cut(len), extension(112));
    }
    assert_eq!(cut(140), extension(128));
    assert_eq!(cut(2048), name());
    assert_eq!(cut(2057), name());
    assert!(cut(2058).is_ok());
}

#[test]
fn no_cut_and_no_changed_byte_of_a_header_panics() {
    let valid = valid();
    for len in 0..valid.len() {
        let _ = parse(&valid[..len]);
        let _ = Header::bytes_needed(&valid[..len]);
    }
    for at in 0..400 {
        for to in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = valid.clone();
            bytes[at] = to;
            let _ = parse(&bytes);
            let _ = Header::bytes_needed(&bytes);
        }
    }
}

#[test]
fn limits_are_within_what_is_allowed() {
    assert_eq!(changed(&valid(), 60, &be32(65_536)).unwrap().snapshot_count, 65_536);
    assert_eq!(changed(&valid(), 36, &be32(4_194_304)).unwrap().l1_size, 4_194_304);
    assert!(changed(&valid(), 96, &be32(6)).is_ok());
    assert!(changed(&valid(), 132, &be32(1912)).is_ok());
    let mut long = valid();
    put(&mut long, 16, &be32(1023));
    put(&mut long, NAME_AT, &[b'x'; 1023]);
    assert_eq!(parse(&long).unwrap().backing_file, Some(vec![b'x'; 1023]));
    for cluster_bits in 9..=21 {
        let header = parse(&fixed_header(cluster_bits, 512, 1)).unwrap();
        assert_eq!(header.cluster_size(), 1 << cluster_bits);
    }
}

#[test]
fn a_disk_without_bytes_needs_no_l1_table() {
    let mut bytes = fixed_header(16, 0, 0);
    put(&mut bytes, 40, &be64(0));
    assert_eq!(parse(&bytes).unwrap().virtual_size, 0);
}

#[test]
fn a_size_that_is_no_multiple_of_512_is_cut_to_one() {
    assert_eq!(changed(&valid(), 24, &be64(1023)).unwrap().virtual_size, 512);
    assert_eq!(changed(&valid(), 24, &be64(511)).unwrap().virtual_size, 0);
}

#[test]
fn an_image_without_a_backing_name_has_no_backing_file() {
    assert_eq!(changed(&valid(), 8, &be64(0)).unwrap().backing_file, None);
    assert_eq!(changed(&valid(), 16, &be32(0)).unwrap().backing_file, None);
}

#[test]
fn dirty_and_corrupt_images_are_readable() {
    let dirty = changed(&valid(), 72, &be64(1)).unwrap();
    assert!(dirty.is_dirty() && !dirty.is_corrupt());
    let corrupt = changed(&valid(), 72, &be64(2)).unwrap();
    assert!(corrupt.is_corrupt() && !corrupt.is_dirty());
}

#[test]
fn unknown_compatible_and_autoclear_features_are_ignored() {
    assert!(changed(&valid(), 80, &be64(u64::MAX)).is_ok());
    let header = changed(&valid(), 88, &be64(u64::MAX)).unwrap();
    assert!(!header.data_file_is_raw, "there is no data file");
}

#[test]
fn bitmaps_count_only_with_their_autoclear_bit() {
    let header = changed(&valid(), 88, &be64(1)).unwrap();
    let directory = BitmapDirectory { count: 3, size: 96, offset: 0x50000 };
    assert_eq!(header.bitmaps, Some(Ok(directory)));
    assert_eq!(changed(&valid(), 88, &be64(2)).unwrap().bitmaps, None);
}

#[test]
fn zstd_is_a_type_and_a_bit() {
    let mut bytes = valid();
    put(&mut bytes, 72, &be64(8));
    put(&mut bytes, 104, &[1]);
    assert_eq!(parse(&bytes).unwrap().compression, Compression::Zstd);
    // A header of 104 bytes ends before the type.
    put(&mut bytes, 100, &be32(104));
    put(&mut bytes, 104, &extension(0, b""));
    let what = "the compression type bit is set, but the type is deflate";
    assert_eq!(parse(&bytes), Err(corrupt(72, what)));
}

#[test]
fn a_data_file_has_a_bit_and_a_name() {
    let mut bytes = fixed_header(16, 1 << 20, 1);
    put(&mut bytes, 112, &extension(0x4441_5441, b"disk.data"));
    assert_eq!(parse(&bytes).unwrap().data_file, None, "the bit decides");
    put(&mut bytes, 72, &be64(4));
    let header = parse(&bytes).unwrap();
    assert_eq!((header.data_file, header.data_file_is_raw), (Some(b"disk.data".to_vec()), false));
    put(&mut bytes, 88, &be64(2));
    assert!(parse(&bytes).unwrap().data_file_is_raw);
}

#[test]
fn encryption_is_told() {
    assert_eq!(changed(&valid(), 32, &be32(1)).unwrap().encryption, Some(Encryption::Aes));
    let mut bytes = fixed_header(16, 1 << 20, 1);
    put(&mut bytes, 32, &be32(2));
    put(&mut bytes, 112, &extension(0x0537_be77, &[be64(0x40000), be64(1234)].concat()));
    let luks = Encryption::Luks { offset: 0x40000, length: 1234 };
    assert_eq!(parse(&bytes).unwrap().encryption, Some(luks));
}

#[test]
fn extended_l2_needs_twice_the_l1_table() {
    let mut bytes = valid();
    put(&mut bytes, 72, &be64(16));
    let what = "an L1 table of 2 entries for a disk of 1073741824 bytes (it needs 4)";
    assert_eq!(parse(&bytes), Err(corrupt(36, what)));
    put(&mut bytes, 36, &be32(4));
    assert!(parse(&bytes).unwrap().extended_l2);
}

#[test]
fn extensions_end_where_the_backing_name_starts() {
    let mut bytes = fixed_header(16, 1 << 20, 1);
    put(&mut bytes, 8, &be64(112));
    put(&mut bytes, 16, &be32(4));
    put(&mut bytes, 112, b"\xe2\x79\x2a\xca");
    let header = parse(&bytes).unwrap();
    assert_eq!(header.backing_file.as_deref(), Some(&b"\xe2\x79\x2a\xca"[..]));
    assert_eq!(header.backing_format, None);
}

#[test]
fn a_name_past_the_first_4_kib_is_read() {
    let mut bytes = valid();
    put(&mut bytes, 8, &be64(60_000));
    put(&mut bytes, 60_000, b"base.qcow2");
    assert_eq!(Header::bytes_needed(&bytes[..4096]), 60_010);
    let file = MemoryFile::new("disk.qcow2", bytes);
    assert_eq!(Header::read(&file).unwrap().backing_file, Some(b"base.qcow2".to_vec()));
}

#[test]
fn extensions_past_the_first_4_kib_are_read() {
    let mut bytes = fixed_header(16, 1 << 20, 1);
    let long = [extension(9, &[1; 5000]), extension(0xe279_2aca, b"raw")].concat();
    put(&mut bytes, 112, &long);
    bytes.resize(1 << 17, 0);
    assert!(Header::bytes_needed(&bytes[..4096]) > 4096);
    let file = MemoryFile::new("disk.qcow2", bytes);
    assert_eq!(Header::read(&file).unwrap().backing_format.as_deref(), Some("raw"));
}

#[test]
fn no_more_than_one_cluster_is_ever_needed() {
    assert_eq!(Header::bytes_needed(&changed_bytes(8, &be64(u64::MAX))), 65_536);
    assert_eq!(Header::bytes_needed(&changed_bytes(132, &be32(u32::MAX))), 65_536);
    assert_eq!(Header::bytes_needed(&changed_bytes(20, &be32(40))), 0);
    assert_eq!(Header::bytes_needed(&valid()), 2058);
    assert_eq!(Header::bytes_needed(&[]), 0);
}

fn changed_bytes(at: usize, to: &[u8]) -> Vec<u8> {
    let mut bytes = valid();
    put(&mut bytes, at, to);
    bytes
}

#[test]
fn a_defect_names_its_file_when_it_was_read_from_one() {
    let file = MemoryFile::new("vm1/disk.qcow2", b"QFI\xfb\0\0\0\x09".to_vec());
    let e = Header::read(&file).unwrap_err().to_string();
    assert_eq!(e, "vm1/disk.qcow2: unsupported at byte 4: qcow2 version 9");
}

#[test]
fn the_magic_makes_a_qcow2_file() {
    assert!(is_qcow2(&valid()));
    assert!(!is_qcow2(b"QFI"));
    assert!(!is_qcow2(b"meta 0000"));
}
