use super::super::testimage::{extension, fixed_header, put};
use super::*;
use crate::source::MemoryFile;

const OFFSET: u64 = 0x10000;

fn entry(name: &[u8], flags: u32, extra: &[u8]) -> Vec<u8> {
    let mut bytes = 0x20000_u64.to_be_bytes().to_vec();
    bytes.extend(1_u32.to_be_bytes());
    bytes.extend(flags.to_be_bytes());
    bytes.extend([1, 16]);
    bytes.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
    bytes.extend(u32::try_from(extra.len()).unwrap().to_be_bytes());
    bytes.extend(extra);
    bytes.extend(name);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn read(directory: &[u8], claimed: BitmapDirectory) -> Result<Vec<Bitmap>> {
    let mut bytes = fixed_header(16, 1 << 20, 1);
    put(&mut bytes, 88, &1_u64.to_be_bytes());
    let mut data = claimed.count.to_be_bytes().to_vec();
    data.extend([0; 4]);
    data.extend(claimed.size.to_be_bytes());
    data.extend(claimed.offset.to_be_bytes());
    put(&mut bytes, 112, &extension(0x2385_2875, &data));
    put(&mut bytes, to_usize(OFFSET), directory);
    let file = MemoryFile::new("disk.qcow2", bytes);
    let header = Header::read(&file).unwrap();
    read_bitmaps(&file, &header)
}

fn two() -> Vec<u8> {
    [entry(b"1795161326", 0, b""), entry("b\n\u{fc}".as_bytes(), 3, &[9; 12])].concat()
}

fn claim(count: u32, directory: &[u8]) -> BitmapDirectory {
    BitmapDirectory { count, size: directory.len() as u64, offset: OFFSET }
}

fn bitmap(name: &[u8], in_use: bool) -> Bitmap {
    Bitmap { name: name.to_vec(), in_use }
}

fn message(result: Result<Vec<Bitmap>>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_directory_is_its_names_in_order() {
    let bitmaps = read(&two(), claim(2, &two())).unwrap();
    assert_eq!(bitmaps, [bitmap(b"1795161326", false), bitmap("b\n\u{fc}".as_bytes(), true)]);
}

#[test]
fn an_image_without_bitmaps_has_none() {
    let file = MemoryFile::new("disk.qcow2", fixed_header(16, 1 << 20, 1));
    let header = Header::read(&file).unwrap();
    assert_eq!(read_bitmaps(&file, &header).unwrap(), []);
}

#[test]
fn a_directory_that_cannot_be_is_an_error_at_its_offset() {
    let right = claim(2, &two());
    let cases = [
        (BitmapDirectory { count: 0, ..right }, "a directory of 0 bitmaps (1 to 65535)"),
        (BitmapDirectory { count: 65_536, ..right }, "a directory of 65536 bitmaps (1 to 65535)"),
        (BitmapDirectory { count: 1, ..right }, "2 bitmaps in a directory of 1"),
        (BitmapDirectory { count: 3, ..right }, "2 bitmaps in a directory of 3"),
        (
            BitmapDirectory { size: (64 << 20) - 1023, ..right },
            "a bitmap directory of 67107841 bytes (at most 67107840)",
        ),
        (
            BitmapDirectory { size: right.size + 1, ..right },
            "the bitmap directory at 65536 ends past the end of the file",
        ),
    ];
    for (claimed, what) in cases {
        let expected = format!("disk.qcow2: damaged at byte 65536: {what}");
        assert_eq!(message(read(&two(), claimed)), expected);
    }
    for (offset, what) in [
        (0, "the bitmap directory is at 0, which cannot be"),
        (OFFSET + 8, "the bitmap directory is at 65544, which cannot be"),
        (
            u64::MAX << 16,
            "the bitmap directory at 18446744073709486080 ends past the end of the file",
        ),
    ] {
        let expected = format!("disk.qcow2: damaged at byte {offset}: {what}");
        assert_eq!(message(read(&two(), BitmapDirectory { offset, ..right })), expected);
    }
}

#[test]
fn an_entry_that_does_not_fit_is_an_error_at_its_offset() {
    let second = OFFSET + entry(b"1795161326", 0, b"").len() as u64;
    let expected = format!(
        "disk.qcow2: damaged at byte {second}: an entry of the bitmap directory does not fit in it"
    );
    let mut long_name = two();
    put(&mut long_name, to_usize(second - OFFSET) + 18, &u16::MAX.to_be_bytes());
    let mut long_extra = two();
    put(&mut long_extra, to_usize(second - OFFSET) + 20, &u32::MAX.to_be_bytes());
    let cut = two()[..two().len() - 8].to_vec();
    for directory in [long_name, long_extra, cut] {
        assert_eq!(message(read(&directory, claim(2, &directory))), expected);
    }
}

#[test]
fn a_bitmap_has_a_name() {
    let directory = entry(b"", 0, b"");
    assert_eq!(
        message(read(&directory, claim(1, &directory))),
        "disk.qcow2: damaged at byte 65536: a bitmap without a name"
    );
}
