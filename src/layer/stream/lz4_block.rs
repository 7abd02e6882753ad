//! One lz4 frame of a chunk, unpacked block by block.

use std::sync::Arc;

use super::failure::Failure;
use super::index::Chunk;
use super::to_usize;
use crate::codec::lz4::{BlockWord, FrameHeader, WINDOW, unpack_block};
use crate::codec::xxh32::{STRIPE, Xxh32, xxh32};
use crate::error::{Defect, Result};
use crate::source::Source;

/// Bytes of a block's word, and of each checksum.
const WORD: usize = 4;
const WORD_U32: u32 = 4;
/// What is kept after the bytes of a block.
const TAIL: usize = STRIPE + 2 * WORD;

/// An unpacked block, and what it takes to unpack the next one: where that is, the word that was
/// read before it, and the hash of everything up to here. In the cache that is one row of bytes.
#[derive(Debug, Clone)]
pub(super) struct Block {
    kept: Arc<[u8]>,
    next: Next,
}

/// Where to go on.
#[derive(Debug, Clone, Copy)]
struct Next {
    /// Where in the chunk the bytes of the next block are, after their word.
    at: u32,
    word: BlockWord,
    hash: Xxh32,
}

impl Block {
    pub(super) fn kept(&self) -> Arc<[u8]> {
        Arc::clone(&self.kept)
    }

    pub(super) fn from_kept(kept: Arc<[u8]>) -> Option<Self> {
        let (_, tail) = kept.split_last_chunk::<TAIL>()?;
        let (hash, tail) = tail.split_first_chunk()?;
        let (at, word) = tail.split_first_chunk()?;
        let next = Next {
            at: u32::from_le_bytes(*at),
            word: BlockWord(u32::from_le_bytes(*word.first_chunk()?)),
            hash: Xxh32::from_bytes(hash),
        };
        Some(Self { kept, next })
    }

    /// The bytes of the disk.
    pub(super) fn bytes(&self) -> &[u8] {
        self.kept.split_last_chunk::<TAIL>().map_or(&[], |(bytes, _)| bytes)
    }

    /// What the next block may refer to.
    fn window(&self) -> &[u8] {
        let bytes = self.bytes();
        bytes.get(bytes.len().saturating_sub(WINDOW)..).unwrap_or(bytes)
    }
}

impl Next {
    fn put(self, tail: &mut [u8; TAIL]) {
        let parts = [&self.hash.to_bytes()[..], &self.at.to_le_bytes(), &self.word.0.to_le_bytes()];
        tail.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, from)| *to = *from);
    }
}

/// A chunk and what the header of its lz4 frame says.
#[derive(Debug)]
pub(super) struct Decoder {
    chunk: Chunk,
    header: FrameHeader,
    first: BlockWord,
}

impl Decoder {
    /// `head`: the first bytes of the chunk, as many as there are up to the longest header and a
    /// block's word.
    pub(super) fn new(chunk: &Chunk, head: &[u8]) -> Result<Self, Defect> {
        let within = head.get(..to_usize(chunk.packed.into())).unwrap_or(head);
        let header = FrameHeader::parse(within, chunk.at)?;
        if let Some(size) = header.content_size.filter(|size| *size != u64::from(chunk.len)) {
            let what = format!("an lz4 frame of {size} bytes stands for {} of the disk", chunk.len);
            return Err(Defect::corrupt(chunk.at, what));
        }
        let first = within.get(header.len as usize..).and_then(|rest| rest.first_chunk());
        let first = first.ok_or_else(|| Defect::corrupt(chunk.at, "an lz4 frame is cut"))?;
        Ok(Self { chunk: *chunk, header, first: BlockWord(u32::from_le_bytes(*first)) })
    }

    pub(super) fn chunk(&self) -> &Chunk {
        &self.chunk
    }

    pub(super) fn block_size(&self) -> u32 {
        self.header.block_size
    }

    pub(super) fn blocks(&self) -> u32 {
        self.chunk.len.div_ceil(self.header.block_size)
    }

    /// Whether each block has its own checksum, so that it can be trusted before the frame's
    /// end is seen.
    pub(super) fn checks_blocks(&self) -> bool {
        self.header.block_checksums
    }

    /// Unpacks block `number`, which comes after `before`.
    pub(super) fn unpack(
        &self,
        file: &dyn Source,
        number: u32,
        before: Option<&Block>,
    ) -> Result<Block> {
        let unpacked = self.try_unpack(file, number, before);
        unpacked.map_err(|failure| failure.in_file(file.path()))
    }

    fn try_unpack(
        &self,
        file: &dyn Source,
        number: u32,
        before: Option<&Block>,
    ) -> Result<Block, Failure> {
        let here = before.map_or_else(|| self.start(), |block| block.next);
        let at = self.chunk.at + u64::from(here.at);
        let corrupt = |what: String| Defect::corrupt(at, what);
        let len = self.block_len(number);
        let taken = self.check_word(here, number).map_err(corrupt)?;
        let mut input = vec![0; taken as usize];
        file.read_exact(at, &mut input)?;
        let (block, rest) = input.split_at(here.word.size() as usize);
        let next_word = check_block(block, rest).map_err(corrupt)?;
        let mut kept: Arc<[u8]> = std::iter::repeat_n(0, len + TAIL).collect();
        let mut hash = here.hash;
        // Nobody else has it yet: nothing is copied.
        if let Some((output, tail)) = Arc::make_mut(&mut kept).split_last_chunk_mut::<TAIL>() {
            if here.word.is_stored() {
                output.copy_from_slice(block);
            } else {
                let window = before.filter(|_| self.header.linked).map_or(&[][..], Block::window);
                unpack_block(block, window, output).map_err(corrupt)?;
            }
            if self.header.content_checksum {
                // Only the last block leaves a rest; `check_end` takes that.
                hash.update(output);
            }
            Next { at: here.at + taken, word: next_word, hash }.put(tail);
        }
        Ok(Block { kept, next: Next { at: here.at + taken, word: next_word, hash } })
    }

    /// Bytes from the start of a block up to that of the next one.
    fn check_word(&self, here: Next, number: u32) -> Result<u32, String> {
        let (size, most, len) = (here.word.size(), self.header.block_size, self.block_len(number));
        if here.word.is_end_mark() {
            let before = u64::from(number) * u64::from(most);
            return Err(format!(
                "an lz4 frame ends after {before} of its {} bytes",
                self.chunk.len
            ));
        }
        if size > most {
            return Err(format!("an lz4 block of {size} bytes, of {most} at most"));
        }
        if here.word.is_stored() && size as usize != len {
            return Err(format!("an lz4 block holds {size} bytes instead of {len}"));
        }
        let checksum = if self.header.block_checksums { WORD_U32 } else { 0 };
        let taken = size + checksum + WORD_U32;
        let end = here.at.checked_add(taken).filter(|end| *end <= self.chunk.packed);
        end.map(|_| taken)
            .ok_or_else(|| "an lz4 block reaches past the end of its chunk".to_owned())
    }

    /// Verifies what stands after the last block: the end mark, the checksum of the content, and
    /// that the chunk ends there.
    pub(super) fn check_end(&self, file: &dyn Source, last: &Block) -> Result<()> {
        let end = last.next.at;
        let at = self.chunk.at + u64::from(end);
        let wrong = |what: String| Err(Defect::corrupt(at, what).in_file(file.path()));
        if !last.next.word.is_end_mark() {
            return wrong(format!("an lz4 frame goes on after its {} bytes", self.chunk.len));
        }
        let mut checksum = [0; WORD];
        let after = if self.header.content_checksum { WORD } else { 0 };
        let left = self.chunk.packed - end.min(self.chunk.packed);
        if left as usize != after {
            return wrong(format!("an lz4 frame ends here, {left} bytes before its chunk"));
        }
        if !self.header.content_checksum {
            return Ok(());
        }
        file.read_exact(at, &mut checksum)?;
        let len = u64::from(self.chunk.len);
        let (_, rest) = last.bytes().as_chunks::<STRIPE>();
        if last.next.hash.digest(len, rest) != u32::from_le_bytes(checksum) {
            return wrong("the checksum of an lz4 frame's content is wrong".to_owned());
        }
        Ok(())
    }

    fn start(&self) -> Next {
        let at = self.header.len + WORD_U32;
        Next { at, word: self.first, hash: Xxh32::default() }
    }

    /// Unpacked bytes of block `number`: all but the last are full. (The format allows short ones
    /// in between; writers of whole buffers make none, and with them nobody could tell where a
    /// block belongs without unpacking all before it.)
    fn block_len(&self, number: u32) -> usize {
        let from = number.saturating_mul(self.header.block_size);
        self.chunk.len.saturating_sub(from).min(self.header.block_size) as usize
    }
}

/// Verifies a block's checksum; `rest` is what follows the block. Returns the next word.
fn check_block(block: &[u8], rest: &[u8]) -> Result<BlockWord, String> {
    let words = rest.as_chunks::<WORD>().0;
    let (checksum, next) = match words {
        [next] => (None, next),
        [checksum, next] => (Some(checksum), next),
        _ => return Err("an lz4 block is cut".to_owned()),
    };
    match checksum.map(|bytes| u32::from_le_bytes(*bytes)) {
        Some(wanted) if wanted != xxh32(block) => {
            Err("the checksum of an lz4 block is wrong".to_owned())
        }
        _ => Ok(BlockWord(u32::from_le_bytes(*next))),
    }
}
