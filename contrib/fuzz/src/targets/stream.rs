//! Any bytes as a sparse stream: nothing panics, every answer is whole, and no byte depends on how
//! it was asked for. What passes all checksums is what another reader of lz4 frames makes of it.

use std::io::Read as _;
use std::sync::Arc;

use lz4_flex::frame::FrameDecoder;
use qcowfs::extent::{Extent, Fault, Slot, Word};
use qcowfs::layer::Layer as _;
use qcowfs::layer::clusters::ClusterCache;
use qcowfs::layer::stream::{Chunk, Index, StreamLayer, StreamMeta, has_end};
use qcowfs::source::{MemoryFile, Source};

use super::random::Random;
use super::words::{places, read, read_in_pieces, same_in_parts, step, words};

/// Bytes read of one stream.
const BUDGET: u64 = 512 << 10;
/// What the other reader is given at most.
const MOST_UNPACKED: u32 = 1 << 20;

/// Tries one input.
pub fn run(data: &[u8]) {
    let file: Arc<dyn Source> = Arc::new(MemoryFile::new("stream", data.to_vec()));
    let has_end = has_end(file.as_ref()).expect("memory can be read");
    let Ok(meta) = StreamMeta::read(file.as_ref()) else { return };
    let layer = |cache| {
        StreamLayer::new(Arc::clone(&file), meta.clone(), Arc::new(ClusterCache::new(cache)))
    };
    let (first, second) = (layer(16 << 20), layer(0));
    let end = meta.virtual_size + 4096;
    let all = words(&first, 0, end);
    let mut random = Random::of(data);
    same_in_parts(&first, &all, random.below(end));
    let is_sound = Index::build(file.as_ref(), &meta).is_ok();
    let bad_from = |from| {
        let within = all.iter().filter(|extent| extent.range.start < meta.virtual_size);
        let bad = |extent: &Extent| extent.word == Word::Bad(Fault::Frames);
        within.for_each(|extent| assert_eq!(bad(extent), extent.range.start >= from));
    };
    let Ok(index) = first.index() else {
        assert!(!is_sound);
        return bad_from(0);
    };
    // One that was cut is good up to there.
    match index.lost_from() {
        None => assert!(is_sound),
        Some(from) => {
            assert!(!is_sound && !has_end);
            bad_from(from);
        }
    }
    check_index(index, &first, &all);
    let step = step(random.any());
    let mut budget = BUDGET;
    for place in places(&all, &mut budget) {
        let (whole, pieces) = (read(&first, place), read_in_pieces(&second, place, step));
        let Slot::Packed(token) = place.slot else {
            assert!(whole.is_some(), "a payload that is in the file cannot be read");
            assert_eq!(whole, pieces);
            continue;
        };
        // A wrong checksum of the content comes to light only with the last block.
        if let (Some(whole), Some(pieces)) = (&whole, &pieces) {
            assert_eq!(whole, pieces);
        }
        let chunk = index.chunk(token).expect("a chunk that was spoken of");
        if first.check_chunk(&chunk).is_ok() {
            assert!(whole.is_some() && pieces.is_some(), "a good chunk cannot be read");
            check_unpacked(data, &chunk, place.guest, &whole.unwrap_or_default());
        }
    }
}

/// The index says what the layer says.
fn check_index(index: &Index, layer: &StreamLayer, all: &[Extent]) {
    let data = |extent: &&Extent| matches!(extent.word, Word::At(_));
    let sum: u64 = all.iter().filter(data).map(|e| e.range.end - e.range.start).sum();
    assert_eq!(sum, index.data_size());
    assert!(sum <= layer.virtual_size());
    let packed = |extent: &&Extent| matches!(extent.word, Word::At(Slot::Packed(_)));
    assert_eq!(index.chunks().count(), all.iter().filter(packed).count());
}

/// The other reader finds the same bytes in the chunk.
fn check_unpacked(data: &[u8], chunk: &Chunk, guest: u64, bytes: &[u8]) {
    if chunk.len > MOST_UNPACKED {
        return;
    }
    let frame = &data[chunk.at as usize..][..chunk.packed as usize];
    let mut unpacked = Vec::new();
    let got =
        FrameDecoder::new(frame).take(2 * u64::from(MOST_UNPACKED)).read_to_end(&mut unpacked);
    got.expect("the other reader finds the chunk good, too");
    assert_eq!(unpacked.len(), chunk.len as usize);
    assert_eq!(&unpacked[(guest - chunk.guest) as usize..][..bytes.len()], bytes);
}
