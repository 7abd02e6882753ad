//! The length of an lz4 frame in a file, found from block to block without unpacking any.

use super::failure::Failure;
use super::window::Window;
use crate::codec::lz4::{BlockWord, FrameHeader, LONGEST_HEADER};
use crate::error::Defect;

/// What an lz4 frame takes in the file, and what it says it unpacks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Walked {
    pub(super) packed: u64,
    pub(super) content_size: Option<u64>,
}

/// The unpacked size that the header of the lz4 frame at `at` gives.
pub(super) fn content_size(window: &mut Window<'_>, at: u64) -> Result<Option<u64>, Failure> {
    let header = FrameHeader::parse(window.take(at, LONGEST_HEADER)?, at)?;
    Ok(header.content_size)
}

/// Walks the lz4 frame at `at`.
pub(super) fn walk(window: &mut Window<'_>, at: u64) -> Result<Walked, Failure> {
    let header = FrameHeader::parse(window.take(at, LONGEST_HEADER)?, at)?;
    let mut next = at.saturating_add(header.len.into());
    loop {
        let Some(word) = window.take(next, 4)?.first_chunk().copied().map(u32::from_le_bytes)
        else {
            let what = "the file ends within an lz4 frame (truncated?)";
            return Err(Defect::corrupt(next.min(window.file().len()), what).into());
        };
        let word = BlockWord(word);
        let checksum =
            if word.is_end_mark() { header.content_checksum } else { header.block_checksums };
        if word.size() > header.block_size {
            let (size, most) = (word.size(), header.block_size);
            let what = format!("an lz4 block of {size} bytes, of {most} at most");
            return Err(Defect::corrupt(next, what).into());
        }
        // Forward by at least the word: the walk ends with the file.
        next = next.saturating_add(4 + u64::from(word.size())).saturating_add(if checksum {
            4
        } else {
            0
        });
        if word.is_end_mark() {
            return Ok(Walked { packed: next - at, content_size: header.content_size });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

    use super::*;
    use crate::source::MemoryFile;

    fn frame(info: FrameInfo, len: usize) -> Vec<u8> {
        let plain: Vec<u8> = (0..len).map(|i| u8::try_from(i * i % 241).unwrap()).collect();
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&plain).unwrap();
        encoder.finish().unwrap()
    }

    fn all_checksums() -> FrameInfo {
        FrameInfo::new()
            .block_size(BlockSize::Max64KB)
            .block_mode(BlockMode::Linked)
            .block_checksums(true)
            .content_checksum(true)
    }

    fn walk_at(bytes: Vec<u8>, at: u64) -> Result<Walked, Failure> {
        let file = MemoryFile::new("f", bytes);
        walk(&mut Window::new(&file), at)
    }

    #[test]
    fn a_frame_ends_where_it_ends() {
        for (info, len) in [
            (all_checksums(), 200_000),
            (all_checksums().content_size(Some(200_000)), 200_000),
            (FrameInfo::new().block_size(BlockSize::Max256KB), 1_000_000),
            (all_checksums(), 0),
        ] {
            let content_size = info.content_size;
            let frame = frame(info, len);
            let packed = frame.len() as u64;
            let bytes = [b"before".as_slice(), &frame, b"after"].concat();
            assert_eq!(walk_at(bytes, 6).unwrap(), Walked { packed, content_size });
        }
    }

    #[test]
    fn a_frame_that_the_file_cuts_is_an_error() {
        let whole = frame(all_checksums(), 100_000);
        for len in [10, whole.len() / 2] {
            let bytes = whole[..len].to_vec();
            let Err(Failure::Defect(defect)) = walk_at(bytes, 0) else { panic!("cut at {len}") };
            assert!(defect.to_string().contains("within an lz4 frame (truncated?)"), "{defect}");
        }
    }

    #[test]
    fn a_block_larger_than_the_header_allows_is_an_error() {
        let mut bytes = frame(all_checksums(), 100_000);
        bytes[7..11].copy_from_slice(&0x0001_0001_u32.to_le_bytes());
        let Err(Failure::Defect(defect)) = walk_at(bytes, 0) else { panic!("walked on") };
        let what = "an lz4 block of 65537 bytes, of 65536 at most";
        assert_eq!(defect, Defect::corrupt(7, what));
    }
}
