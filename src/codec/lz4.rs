//! lz4 frames taken apart (lz4's `doc/lz4_Frame_format.md`), so that a reader can
//! stop and go on between two blocks; the blocks themselves are decoded by `lz4_flex`, with its
//! checked decoder.
//!
//! A frame: magic, descriptor, blocks, end mark, the checksum of the content. A block: a word of
//! 32 bits with its size (0 is the end mark; the highest bit says that it is stored unpacked), its
//! bytes, their checksum. All integers are little-endian.

use super::xxh32::xxh32;
use crate::error::Defect;

/// Bytes of the longest header: magic, FLG, BD, content size, dictionary's number, checksum.
pub const LONGEST_HEADER: usize = 4 + 2 + 8 + 4 + 1;
/// How far back a block may refer into the blocks before it.
pub const WINDOW: usize = 64 << 10;

const MAGIC: u32 = 0x184D_2204;
const LEGACY_MAGIC: u32 = 0x184C_2102;
/// The lowest four bits are free.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;

const FLG_VERSION: u8 = 0xC0;
const FLG_VERSION_1: u8 = 0x40;
const FLG_INDEPENDENT: u8 = 0x20;
const FLG_BLOCK_CHECKSUMS: u8 = 0x10;
const FLG_CONTENT_SIZE: u8 = 0x08;
const FLG_CONTENT_CHECKSUM: u8 = 0x04;
const FLG_RESERVED: u8 = 0x02;
const FLG_DICTIONARY: u8 = 0x01;
const BD_RESERVED: u8 = 0x8F;

/// What the header of a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the header itself: the first block's word comes next.
    pub len: u32,
    /// Whether a block may refer to the ones before it.
    pub linked: bool,
    /// Whether a checksum follows each block.
    pub block_checksums: bool,
    /// Whether a checksum of the unpacked bytes follows the end mark.
    pub content_checksum: bool,
    /// Unpacked bytes of the frame.
    pub content_size: Option<u64>,
    /// The most bytes of a block, packed or not: 64 KiB, 256 KiB, 1 MiB or 4 MiB.
    pub block_size: u32,
}

impl FrameHeader {
    /// The header at the start of `bytes`, which stand at `at` of their file: as many of them as
    /// there are, up to [`LONGEST_HEADER`].
    pub fn parse(bytes: &[u8], at: u64) -> Result<Self, Defect> {
        let cut = || Defect::corrupt(at, "the header of an lz4 frame is cut");
        check_magic(u32_at(bytes, 0).ok_or_else(cut)?, at)?;
        let (flags, block) =
            (byte_at(bytes, 4).ok_or_else(cut)?, byte_at(bytes, 5).ok_or_else(cut)?);
        if flags & FLG_VERSION != FLG_VERSION_1 {
            let what = format!("an lz4 frame of version {}", flags >> 6);
            return Err(Defect::unsupported(at.saturating_add(4), what));
        }
        let has_size = flags & FLG_CONTENT_SIZE != 0;
        let has_dictionary = flags & FLG_DICTIONARY != 0;
        let end = 6 + if has_size { 8 } else { 0 } + if has_dictionary { 4 } else { 0 };
        let descriptor = bytes.get(4..end).ok_or_else(cut)?;
        let [_, wanted, ..] = xxh32(descriptor).to_le_bytes();
        if byte_at(bytes, end).ok_or_else(cut)? != wanted {
            return Err(Defect::corrupt(at, "the checksum of an lz4 frame's header is wrong"));
        }
        if has_dictionary {
            return Err(Defect::unsupported(at, "an lz4 frame that needs a dictionary"));
        }
        let (reserved, code) = (flags & FLG_RESERVED != 0 || block & BD_RESERVED != 0, block >> 4);
        if reserved || !(4..=7).contains(&code) {
            let what = format!("an lz4 frame with the unknown flags {flags:#04x} {block:#04x}");
            return Err(Defect::unsupported(at.saturating_add(4), what));
        }
        Ok(Self {
            // Less than `LONGEST_HEADER`.
            len: u32::try_from(end + 1).unwrap_or(u32::MAX),
            linked: flags & FLG_INDEPENDENT == 0,
            block_checksums: flags & FLG_BLOCK_CHECKSUMS != 0,
            content_checksum: flags & FLG_CONTENT_CHECKSUM != 0,
            content_size: if has_size { u64_at(bytes, 6) } else { None },
            block_size: 1 << (8 + 2 * u32::from(code)),
        })
    }
}

/// The word before a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockWord(pub u32);

impl BlockWord {
    /// Whether no block follows, but the end of the frame.
    pub fn is_end_mark(self) -> bool {
        self.0 == 0
    }

    /// Whether the block is stored as it is.
    pub fn is_stored(self) -> bool {
        self.0 >> 31 == 1
    }

    /// Bytes of the block in the file, its checksum not counted.
    pub fn size(self) -> u32 {
        self.0 & 0x7FFF_FFFF
    }
}

/// Fills `output` from one packed block. `window` is what it may refer to: the end of what was
/// unpacked before it.
///
/// # Errors
///
/// A sentence without the file's name.
pub fn unpack_block(block: &[u8], window: &[u8], output: &mut [u8]) -> Result<(), String> {
    let wanted = output.len();
    let got = if window.is_empty() {
        lz4_flex::block::decompress_into(block, output)
    } else {
        lz4_flex::block::decompress_into_with_dict(block, output, window)
    };
    match got {
        Ok(got) if got == wanted => Ok(()),
        Ok(got) => Err(format!("an lz4 block holds {got} bytes instead of {wanted}")),
        Err(e) => Err(format!("not an lz4 block of {wanted} bytes: {e}")),
    }
}

fn check_magic(magic: u32, at: u64) -> Result<(), Defect> {
    match magic {
        MAGIC => Ok(()),
        LEGACY_MAGIC => Err(Defect::unsupported(at, "an lz4 frame of the legacy format")),
        other if other & !0xF == SKIPPABLE_MAGIC => {
            Err(Defect::unsupported(at, "a skippable lz4 frame where data should be"))
        }
        _ => Err(Defect::corrupt(at, format!("no lz4 frame starts with {magic:#010x}"))),
    }
}

fn byte_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header that virtnbdbackup writes: linked blocks of 64 KiB, both checksums, the size.
    fn header() -> Vec<u8> {
        with_checksum(&[0x5c, 0x40, 0, 0, 3, 0, 0, 0, 0, 0])
    }

    fn with_checksum(descriptor: &[u8]) -> Vec<u8> {
        let checksum = xxh32(descriptor).to_le_bytes()[1];
        [&MAGIC.to_le_bytes(), descriptor, &[checksum]].concat()
    }

    fn refused(bytes: &[u8]) -> Defect {
        FrameHeader::parse(bytes, 100).unwrap_err()
    }

    #[test]
    fn a_header_says_what_follows() {
        let parsed = FrameHeader {
            len: 15,
            linked: true,
            block_checksums: true,
            content_checksum: true,
            content_size: Some(0x30000),
            block_size: 64 << 10,
        };
        assert_eq!(FrameHeader::parse(&header(), 0), Ok(parsed));
        // The checksum byte is that of a file written by the tool.
        assert_eq!(header().last(), Some(&0xd1));
    }

    #[test]
    fn a_header_may_say_nothing_but_the_size_of_blocks() {
        let parsed = FrameHeader {
            len: 7,
            linked: false,
            block_checksums: false,
            content_checksum: false,
            content_size: None,
            block_size: 4 << 20,
        };
        assert_eq!(FrameHeader::parse(&with_checksum(&[0x60, 0x70]), 0), Ok(parsed));
    }

    #[test]
    fn one_changed_byte_of_a_header_is_one_exact_error() {
        let checksum = || Defect::corrupt(100, "the checksum of an lz4 frame's header is wrong");
        for (at, byte, defect) in [
            (0, 0x05, Defect::corrupt(100, "no lz4 frame starts with 0x184d2205")),
            (4, 0x9c, Defect::unsupported(104, "an lz4 frame of version 2")),
            (4, 0x4c, checksum()),
            (4, 0x58, checksum()),
            (5, 0x50, checksum()),
            (6, 1, checksum()),
            (14, 0xd0, checksum()),
        ] {
            let mut bytes = header();
            bytes[at] = byte;
            assert_eq!(refused(&bytes), defect, "byte {at}");
        }
    }

    #[test]
    fn what_the_format_reserves_or_we_do_not_do_is_unsupported() {
        for (descriptor, defect) in [
            (
                &[0x62, 0x40][..],
                Defect::unsupported(104, "an lz4 frame with the unknown flags 0x62 0x40"),
            ),
            (
                &[0x60, 0xc0],
                Defect::unsupported(104, "an lz4 frame with the unknown flags 0x60 0xc0"),
            ),
            (
                &[0x60, 0x41],
                Defect::unsupported(104, "an lz4 frame with the unknown flags 0x60 0x41"),
            ),
            (
                &[0x60, 0x30],
                Defect::unsupported(104, "an lz4 frame with the unknown flags 0x60 0x30"),
            ),
            (
                &[0x61, 0x40, 1, 2, 3, 4],
                Defect::unsupported(100, "an lz4 frame that needs a dictionary"),
            ),
        ] {
            assert_eq!(refused(&with_checksum(descriptor)), defect);
        }
        let legacy = Defect::unsupported(100, "an lz4 frame of the legacy format");
        assert_eq!(refused(&LEGACY_MAGIC.to_le_bytes()), legacy);
        let skippable = Defect::unsupported(100, "a skippable lz4 frame where data should be");
        assert_eq!(refused(&(SKIPPABLE_MAGIC + 7).to_le_bytes()), skippable);
    }

    #[test]
    fn a_cut_header_is_an_error() {
        for len in 0..header().len() {
            let defect = Defect::corrupt(100, "the header of an lz4 frame is cut");
            assert_eq!(refused(&header()[..len]), defect, "{len}");
        }
    }

    #[test]
    fn a_block_unpacks_with_what_came_before_it() {
        let window = b"what came before the block, and is long enough to be referred to".repeat(4);
        let plain = [&window[20..90], b"something new"].concat();
        let block = lz4_flex::block::compress_with_dict(&plain, &window);
        let mut output = vec![0; plain.len()];
        unpack_block(&block, &window, &mut output).unwrap();
        assert_eq!(output, plain);
        assert!(unpack_block(&block, &[], &mut output).is_err());
    }

    #[test]
    fn a_block_of_another_length_is_an_error() {
        let block = lz4_flex::block::compress(&[7; 1000]);
        let short = unpack_block(&block, &[], &mut [0; 1001]).unwrap_err();
        assert_eq!(short, "an lz4 block holds 1000 bytes instead of 1001");
        let long = unpack_block(&block, &[], &mut [0; 999]).unwrap_err();
        assert!(long.starts_with("not an lz4 block of 999 bytes"), "{long}");
        assert!(unpack_block(&[], &[], &mut [0; 9]).is_err());
    }

    #[test]
    fn a_block_word_holds_a_size_and_whether_it_is_stored() {
        assert!(BlockWord(0).is_end_mark());
        let stored = BlockWord(0x8000_1234);
        assert!(stored.is_stored() && stored.size() == 0x1234 && !stored.is_end_mark());
        let packed = BlockWord(0x1234);
        assert!(!packed.is_stored() && packed.size() == 0x1234);
    }
}
