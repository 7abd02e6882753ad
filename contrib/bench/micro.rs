//! Micro-benchmarks: maps of chains built and asked, one cluster of each codec unpacked.
//!
//! `cargo bench --bench micro`; a word behind it (`map`, `look-up`, `unpack`) chooses.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that cannot go on has failed")]

use std::hint::black_box;
use std::io::Write as _;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use qcowfs::codec;
use qcowfs::extent::{Extent, HostOffset, Slot, Word};
use qcowfs::layer::MemoryLayer;
use qcowfs::map::{ChainMap, MapCache, Node, NodeId};

const CLUSTER: u64 = 64 << 10;
/// One region of 512 clusters.
const DISK: u64 = 512 * CLUSTER;
const DEPTHS: [u32; 3] = [1, 32, 128];

/// A xorshift generator.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(0x1234_5678_9ABC_DEF1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) % end
    }
}

/// A full layer under layers of 64 clusters anywhere.
fn layers(depth: u32) -> Vec<Arc<MemoryLayer>> {
    let mut random = Random::new();
    let layer = |numbers: Vec<u64>| {
        let extent = |(at, number): (u64, u64)| Extent {
            range: number * CLUSTER..(number + 1) * CLUSTER,
            // Two units apart, so that neighbours are not one extent.
            word: Word::At(Slot::Host(HostOffset(2 * at * CLUSTER))),
        };
        let extents: Vec<_> = (0..).zip(numbers).map(extent).collect();
        Arc::new(MemoryLayer::new("layer", DISK, &extents, Vec::new()).unwrap())
    };
    let mut increment = || {
        let mut numbers: Vec<_> = (0..64).map(|_| random.below(DISK / CLUSTER)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        layer(numbers)
    };
    let full = layer((0..DISK / CLUSTER).collect());
    std::iter::once(full).chain((1..depth).map(|_| increment())).collect()
}

/// A map that knows nothing yet.
fn map_of(layers: &[Arc<MemoryLayer>]) -> ChainMap {
    let parents = std::iter::once(None).chain((0..).map(|parent| Some(NodeId(parent))));
    let node = |(layer, parent): (&Arc<MemoryLayer>, _)| Node { layer: layer.clone(), parent };
    let nodes = layers.iter().zip(parents).map(node).collect();
    ChainMap::new(nodes, Arc::new(MapCache::new(1 << 30))).unwrap()
}

fn maps(c: &mut Criterion) {
    for depth in DEPTHS {
        let (layers, top) = (layers(depth), NodeId(depth - 1));
        let build = |map: ChainMap| {
            black_box(map.resolve(top, 0..4096));
            map
        };
        c.bench_function(&format!("map of a region, depth {depth}"), |b| {
            b.iter_batched(|| map_of(&layers), build, BatchSize::SmallInput);
        });
        let map = build(map_of(&layers));
        let mut random = Random::new();
        c.bench_function(&format!("look-up of 4 KiB, depth {depth}"), |b| {
            b.iter(|| {
                let at = random.below(DISK / 4096) * 4096;
                map.resolve(top, at..at + 4096)
            });
        });
        c.bench_function(&format!("look-up of 1 MiB, depth {depth}"), |b| {
            b.iter(|| {
                let at = random.below(DISK >> 20) << 20;
                map.resolve(top, at..at + (1 << 20))
            });
        });
    }
}

/// A cluster that packs to a third or so, as text does.
fn plain() -> Vec<u8> {
    let mut random = Random::new();
    let words = ["backup ", "of ", "the ", "disk ", "cluster ", "is ", "found ", "where ", "0x"];
    let mut text = Vec::new();
    while text.len() < 64 << 10 {
        let number = random.below(12);
        match usize::try_from(number).ok().and_then(|number| words.get(number)) {
            Some(word) => text.extend_from_slice(word.as_bytes()),
            None => text.extend_from_slice(&random.below(100_000).to_string().into_bytes()),
        }
    }
    text.truncate(64 << 10);
    text
}

fn codecs(c: &mut Criterion) {
    let plain = plain();
    let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
    deflate.write_all(&plain).unwrap();
    let deflated = deflate.finish().unwrap();
    let zstd = zstd::bulk::compress(&plain, 3).unwrap();
    let lz4 = lz4_flex::block::compress(&plain);
    let mut out = vec![0; plain.len()];
    let mut group = c.benchmark_group("unpack 64 KiB");
    group.throughput(Throughput::Bytes(plain.len() as u64));
    group.bench_function("deflate", |b| {
        b.iter(|| codec::inflate_raw(black_box(&deflated), &mut out).unwrap());
    });
    group.bench_function("deflate, to its exact end", |b| {
        b.iter(|| codec::inflate_raw_exactly(black_box(&deflated), &mut out).unwrap());
    });
    group.bench_function("zstd", |b| b.iter(|| codec::unzstd(black_box(&zstd), &mut out).unwrap()));
    group.bench_function("lz4 block", |b| {
        b.iter(|| codec::lz4::unpack_block(black_box(&lz4), &[], &mut out).unwrap());
    });
    group.finish();
}

criterion_group!(benches, maps, codecs);
criterion_main!(benches);
