//! The disk that the frames of one stream describe.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use log::Level;
use parking_lot::Mutex;

use super::chunk::ChunkReader;
use super::failure::Failure;
use super::index::{Chunk, Index};
use super::meta::StreamMeta;
use crate::error::{Defect, Error, Result};
use crate::extent::{Fault, GuestOffset, HostOffset, Slot, Word, Words};
use crate::fault_log;
use crate::layer::Layer;
use crate::layer::clusters::ClusterCache;
use crate::source::{Hold, Source};

/// One stream as a layer. Its frames are indexed at the first question; what is found out then,
/// good or bad, is kept, unless the file could just not be read.
#[derive(Debug)]
pub struct StreamLayer {
    file: Arc<dyn Source>,
    meta: StreamMeta,
    chunks: ChunkReader,
    index: OnceLock<Result<Index, Defect>>,
    /// Held while the index is built: it is built once.
    building: Mutex<()>,
}

impl StreamLayer {
    /// The disk of the stream that `file` holds and `meta` describes. Nothing is read yet.
    pub fn new(file: Arc<dyn Source>, meta: StreamMeta, cache: Arc<ClusterCache>) -> Self {
        let chunks = ChunkReader::new(Arc::clone(&file), cache);
        Self { file, meta, chunks, index: OnceLock::new(), building: Mutex::new(()) }
    }

    /// What the stream says of itself.
    pub fn meta(&self) -> &StreamMeta {
        &self.meta
    }

    /// The file.
    pub fn file(&self) -> &Arc<dyn Source> {
        &self.file
    }

    /// What the frames say: built now, if it was not before. No payload is read.
    ///
    /// # Errors
    ///
    /// The file cannot be read just now, or its frames are all there and contradict each other:
    /// then there is nothing that this layer could say of its disk.
    pub fn index(&self) -> Result<&Index> {
        let index = match self.index.get() {
            Some(index) => index,
            None => self.build()?,
        };
        index.as_ref().map_err(|defect| defect.clone().in_file(self.file.path()))
    }

    /// Unpacks all of a chunk, past the cache, and verifies every checksum of it.
    pub fn check_chunk(&self, chunk: &Chunk) -> Result<()> {
        self.chunks.check(chunk)
    }

    fn build(&self) -> Result<&Result<Index, Defect>> {
        let _building = self.building.lock();
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let index = match Index::salvage(self.file.as_ref(), &self.meta) {
            Ok(index) => Ok(index),
            Err(Failure::Defect(defect)) => Err(defect),
            Err(Failure::Unreadable(error)) => return Err(error),
        };
        let name = self.file.path().display();
        match &index {
            Ok(index) => {
                index.flaws().iter().for_each(|flaw| log::warn!("{name}: {flaw}"));
                if let Some(from) = index.lost_from() {
                    log::error!("{name}: what it holds of the disk from byte {from} on is lost");
                }
            }
            Err(defect) => log::error!("{name}: {defect}: nothing of the stream can be used"),
        }
        Ok(self.index.get_or_init(|| index))
    }

    /// What is said of bytes that no frame covers.
    fn gap(&self) -> Word {
        if self.meta.incremental { Word::Below } else { Word::Zero }
    }

    fn read_packed(&self, token: u64, guest: GuestOffset, buf: &mut [u8]) -> Result<()> {
        let corrupt =
            |what: String| Error::Corrupt { file: self.file.path().to_path_buf(), offset: 0, what };
        let chunk = self.index()?.chunk(token);
        let chunk = chunk.ok_or_else(|| corrupt(format!("the stream has no chunk {token}")))?;
        let from = guest.0.checked_sub(chunk.guest).and_then(|from| u32::try_from(from).ok());
        let from = from.filter(|from| u64::from(*from) + buf.len() as u64 <= u64::from(chunk.len));
        let from = from.ok_or_else(|| {
            let (len, guest) = (buf.len(), guest.0);
            corrupt(format!("{len} bytes at {guest} of the disk are not those of chunk {token}"))
        })?;
        self.chunks.read(&chunk, from, buf)
    }
}

impl Layer for StreamLayer {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn virtual_size(&self) -> u64 {
        self.meta.virtual_size
    }

    fn hold(&self, held: &mut Vec<Hold>) {
        held.extend(self.file.hold());
    }

    fn words(&self, words: &mut Words) {
        let end = words.range().end.min(self.meta.virtual_size);
        if words.next() >= end {
            return;
        }
        match self.index() {
            Ok(index) => index.say(words, end, self.gap()),
            // In the log since it was found out.
            Err(Error::Corrupt { .. } | Error::Unsupported { .. }) => {
                words.push_until(end, Word::Bad(Fault::Frames));
            }
            Err(e) => {
                if fault_log::admits(Level::Error, self.file.path()) {
                    log::error!("the frames of the stream cannot be read: {e}");
                }
                words.push_until(end, Word::Bad(Fault::Unreadable));
            }
        }
    }

    /// Zero frames that follow each other are one range, so that this looks at few.
    fn empty_until(&self, offset: u64) -> u64 {
        match self.index() {
            Ok(index) => index.empty_until(offset),
            Err(_) => offset,
        }
    }

    /// A payload that the file no longer has is an error: frames are whole, so nothing of them
    /// reads as zeros.
    fn read(&self, slot: Slot, guest: GuestOffset, buf: &mut [u8]) -> Result<()> {
        match slot {
            Slot::Host(HostOffset(at)) => self.file.read_exact(at, buf),
            Slot::Packed(token) => self.read_packed(token, guest, buf),
        }
    }

    fn plain_file(&self) -> Option<&Arc<dyn Source>> {
        Some(&self.file)
    }

    /// What the metadata say, for it costs nothing.
    fn allocated_at_most(&self) -> u64 {
        let disk = self.meta.virtual_size;
        self.meta.data_size.map_or(disk, |data| data.min(disk))
    }
}
