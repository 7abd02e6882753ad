//! What reads of compressed streams cost: bytes read from the file, each of which is unpacked.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unnecessary_debug_formatting,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed, and its disks are small"
)]

mod common;

use std::sync::Arc;

use qcowfs::extent::{GuestOffset, Slot};
use qcowfs::layer::Layer as _;
use qcowfs::layer::clusters::ClusterCache;
use qcowfs::layer::stream::{StreamLayer, StreamMeta};
use qcowfs::source::MemoryFile;
use qcowfs::tree::caches::CacheSizes;

use common::prng::Prng;
use common::stream_writer::{Lz4, StreamWriter};

const DISK: u64 = 8 << 20;
/// Bytes of one of the kernel's requests when it reads ahead.
const REQUEST: u64 = 128 << 10;

/// Bytes that are read from the file for these requests to the one chunk of a stream.
fn cost(stream: &[u8], requests: impl IntoIterator<Item = u64>) -> u64 {
    let file = Arc::new(MemoryFile::new("vda.data", stream.to_vec()));
    let meta = StreamMeta::read(file.as_ref()).unwrap();
    let cache = Arc::new(ClusterCache::new(CacheSizes::default().data));
    let layer = StreamLayer::new(Arc::<MemoryFile>::clone(&file), meta, cache);
    layer.index().unwrap();
    let before = file.bytes_read();
    let mut buf = vec![0; REQUEST as usize];
    for request in requests {
        layer.read(Slot::Packed(0), GuestOffset(request * REQUEST), &mut buf).unwrap();
    }
    file.bytes_read() - before
}

#[test]
fn requests_that_overtake_each_other_unpack_nothing_twice() {
    let mut plain = vec![0; DISK as usize];
    let mut prng = Prng::new(3);
    plain.fill_with(|| prng.below(16) as u8);
    let mut stream = StreamWriter::full(DISK).compressed(Lz4::TOOL);
    stream.data(0, &plain);
    let stream = stream.finish();

    let all = DISK / REQUEST;
    let in_order = cost(&stream, 0..all);
    assert!(in_order <= stream.len() as u64);
    for together in [2, 4] {
        let overtaken = (0..all).map(|n| n / together * together + together - 1 - n % together);
        assert_eq!(cost(&stream, overtaken), in_order, "{together} at a time");
    }
}
