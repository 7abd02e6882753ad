//! Random access to packed chunks: lz4 frames of up to 64 MiB whose blocks refer back to the
//! blocks before them.
//!
//! Block n needs the end of block n-1, and stands where that one ended; so a chunk is unpacked
//! from its start, and no further than a reader needs. What was unpacked goes into the shared
//! cache, each block with what it takes to go on after it ([`Block`]): the block that was asked
//! for and those close before it, and on the way to them one for each [`RESUME`] bytes. So reading
//! on unpacks no block twice, the first read in the midst of a chunk costs the chunk up to
//! there, and later ones nearby at most [`RESUME`] bytes. The kernel reads ahead with several
//! requests at once, and the later one may come first: what it passes over, the others want.
//!
//! # Never wrong bytes
//!
//! virtnbdbackup writes a checksum after each block, over its packed bytes, and one after the
//! frame, over all unpacked ones. The former are verified before a block is unpacked: whatever a
//! reader gets comes from verified blocks, each from the one before it, and each of exactly the
//! length that it must have. The checksum of the content is verified by whoever unpacks the last
//! block, for the hash of everything before it travels along with the blocks; until somebody gets
//! there, it has not been looked at. Once it was found to be wrong, nothing of the chunk is handed
//! out any more.
//!
//! A frame without checksums of its blocks is unpacked to its end, and the checksum of its content
//! verified, before the first byte is handed out. A frame without either is taken as it is.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::index::Chunk;
use super::lz4_block::{Block, Decoder};
use crate::codec::lz4::LONGEST_HEADER;
use crate::error::{Defect, Error, Result};
use crate::layer::clusters::{ClusterCache, ClusterKey, Part};
use crate::source::Source;

/// Where a later reader can go on: one block in so many bytes is kept on the way.
const RESUME: u32 = 1 << 20;
/// Readers of one chunk take turns, those of different chunks hardly ever.
const TURNS: usize = 8;
/// Blocks of a chunk are numbered below this, for they are of 64 KiB at least.
const HEADER_NUMBER: u64 = (1 << TOKEN_SHIFT) - 1;
const TOKEN_SHIFT: u32 = 11;

/// Reads bytes of packed chunks of one file.
#[derive(Debug)]
pub(super) struct ChunkReader {
    /// The key of its blocks in the cache.
    id: u64,
    file: Arc<dyn Source>,
    cache: Arc<ClusterCache>,
    /// Held while blocks of a chunk are unpacked: a second reader would need the same ones.
    turns: [Mutex<()>; TURNS],
    /// What is known of a chunk as a whole, where it matters.
    known: RwLock<HashMap<u64, Known>>,
}

#[derive(Debug, Clone)]
enum Known {
    /// The checksum of its content is right.
    Right,
    /// The chunk as a whole is not what it says.
    Wrong(Defect),
}

impl ChunkReader {
    pub(super) fn new(file: Arc<dyn Source>, cache: Arc<ClusterCache>) -> Self {
        let id = ClusterKey::new_file();
        Self { id, file, cache, turns: Default::default(), known: RwLock::default() }
    }

    /// Fills `buf` from byte `from` of the chunk on.
    pub(super) fn read(&self, chunk: &Chunk, from: u32, buf: &mut [u8]) -> Result<()> {
        let decoder = self.decoder(chunk)?;
        self.check_known(chunk, &decoder)?;
        let mut at = from;
        let end = from.saturating_add(u32::try_from(buf.len()).unwrap_or(u32::MAX));
        let mut rest = buf;
        let mut blocks = Vec::new().into_iter();
        while !rest.is_empty() {
            let Some(block) = blocks.next() else {
                blocks = self.blocks(&decoder, at, end)?.into_iter();
                continue;
            };
            let inside = (at % decoder.block_size()) as usize;
            let bytes = block.bytes().get(inside..).filter(|bytes| !bytes.is_empty());
            let bytes = bytes.ok_or_else(|| self.corrupt(chunk, "a read past a chunk's end"))?;
            let len = bytes.len().min(rest.len());
            let (part, after) = rest.split_at_mut(len);
            part.copy_from_slice(bytes.get(..len).unwrap_or_default());
            rest = after;
            // At most the size of a block.
            at += u32::try_from(len).unwrap_or(u32::MAX);
        }
        Ok(())
    }

    /// Unpacks the whole chunk, past all caches, and verifies all that it can be held against.
    pub(super) fn check(&self, chunk: &Chunk) -> Result<()> {
        let mut head = [0; LONGEST_HEADER + 4];
        let got = self.file.read_at(chunk.at, &mut head)?;
        let decoder = self.new_decoder(chunk, head.get(..got).unwrap_or_default())?;
        let mut block = None;
        for number in 0..decoder.blocks() {
            block = Some(decoder.unpack(self.file.as_ref(), number, block.as_ref())?);
        }
        block.map_or(Ok(()), |last| decoder.check_end(self.file.as_ref(), &last))
    }

    fn corrupt(&self, chunk: &Chunk, what: &str) -> Error {
        Defect::corrupt(chunk.at, what).in_file(self.file.path())
    }

    fn key(&self, chunk: &Chunk, number: u64) -> ClusterKey {
        ClusterKey { file: self.id, part: Part::Packed(chunk.token << TOKEN_SHIFT | number) }
    }

    fn decoder(&self, chunk: &Chunk) -> Result<Decoder> {
        let head = self.cache.get_or_try_insert_with(self.key(chunk, HEADER_NUMBER), || {
            let mut head = [0; LONGEST_HEADER + 4];
            let got = self.file.read_at(chunk.at, &mut head)?;
            Ok(head.get(..got).unwrap_or_default().into())
        })?;
        self.new_decoder(chunk, &head)
    }

    fn new_decoder(&self, chunk: &Chunk, head: &[u8]) -> Result<Decoder> {
        Decoder::new(chunk, head).map_err(|defect| defect.in_file(self.file.path()))
    }

    /// Whether the chunk may be handed out, block by block.
    fn check_known(&self, chunk: &Chunk, decoder: &Decoder) -> Result<()> {
        match self.known.read().get(&chunk.token) {
            Some(Known::Right) => return Ok(()),
            Some(Known::Wrong(defect)) => return Err(defect.clone().in_file(self.file.path())),
            None if decoder.checks_blocks() => return Ok(()),
            None => {}
        }
        // Whoever has the last block has verified the content.
        self.blocks(decoder, chunk.len.saturating_sub(1), chunk.len)?;
        self.known.write().insert(chunk.token, Known::Right);
        Ok(())
    }

    /// The block that byte `from` of the chunk is in: out of the cache, or unpacked from the nearest
    /// one before it, and then those behind it, too, up to byte `end` or for [`RESUME`] bytes: the same
    /// reader wants them next, and turns are dear.
    fn blocks(&self, decoder: &Decoder, from: u32, end: u32) -> Result<Vec<Block>> {
        let number = from / decoder.block_size();
        if let Some(block) = self.kept(decoder, number) {
            return Ok(vec![block]);
        }
        let turn = decoder.chunk().token % TURNS as u64;
        let _turn = self.turns.get(super::to_usize(turn)).map(Mutex::lock);
        // It may have come while we waited.
        if let Some(block) = self.kept(decoder, number) {
            return Ok(vec![block]);
        }
        let close = RESUME / decoder.block_size();
        let behind = end.div_ceil(decoder.block_size()).min(number + close).min(decoder.blocks());
        let (first, mut before) = self.nearest(decoder, number);
        let mut wanted = Vec::new();
        for next in first..behind.max(number + 1) {
            if next > number && self.kept(decoder, next).is_some() {
                break;
            }
            let unpacked = match self.unpack(decoder, next, before.as_ref()) {
                Ok(unpacked) => unpacked,
                // Told to whoever comes to it.
                Err(_) if !wanted.is_empty() => break,
                Err(e) => return Err(e),
            };
            if next + close > number || resumes_after(decoder, next) {
                self.cache.insert(self.key(decoder.chunk(), next.into()), unpacked.kept());
            }
            if next >= number {
                wanted.push(unpacked.clone());
            }
            before = Some(unpacked);
        }
        if wanted.is_empty() {
            return Err(self.corrupt(decoder.chunk(), "a chunk without blocks"));
        }
        Ok(wanted)
    }

    fn unpack(&self, decoder: &Decoder, number: u32, before: Option<&Block>) -> Result<Block> {
        let unpacked = decoder.unpack(self.file.as_ref(), number, before)?;
        if number + 1 == decoder.blocks() {
            self.check_end(decoder, &unpacked)?;
        }
        Ok(unpacked)
    }

    fn kept(&self, decoder: &Decoder, number: u32) -> Option<Block> {
        let key = self.key(decoder.chunk(), number.into());
        self.cache.get(&key).and_then(Block::from_kept)
    }

    /// The number of the first block that is to be unpacked to get to `number`, and the block
    /// before it.
    fn nearest(&self, decoder: &Decoder, number: u32) -> (u32, Option<Block>) {
        let close = number.saturating_sub(RESUME / decoder.block_size());
        for before in (0..number).rev() {
            if (before >= close || resumes_after(decoder, before))
                && let Some(block) = self.kept(decoder, before)
            {
                return (before + 1, Some(block));
            }
        }
        (0, None)
    }

    fn check_end(&self, decoder: &Decoder, last: &Block) -> Result<()> {
        let checked = decoder.check_end(self.file.as_ref(), last);
        if let Err(Error::Corrupt { offset, what, .. }) = &checked {
            let wrong = Known::Wrong(Defect::corrupt(*offset, what.clone()));
            self.known.write().insert(decoder.chunk().token, wrong);
        }
        checked
    }
}

/// Whether a block is kept for those who want one further on.
fn resumes_after(decoder: &Decoder, number: u32) -> bool {
    let every = (RESUME / decoder.block_size()).max(1);
    number % every == every - 1
}
