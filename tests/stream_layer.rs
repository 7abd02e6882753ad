//! Sparse streams as layers: the tool's own against what it restores from them, random ones
//! against plain arrays of bytes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::cast_possible_truncation,
    clippy::unnecessary_debug_formatting,
    reason = "a test that cannot go on has failed, and its disks are small"
)]

mod common;

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use lz4_flex::frame::BlockSize;
use proptest::prelude::*;
use qcowfs::layer::clusters::ClusterCache;
use qcowfs::layer::stream::{Index, StreamLayer, StreamMeta, is_stream};
use qcowfs::map::{ChainMap, MapCache, Node, NodeId};
use qcowfs::source::{LocalFiles, MemoryFile, Roots, Source};
use qcowfs::view::DiskImage;
use serde_json::{Value, json};

use common::Case;
use common::content::sha256_of;
use common::prng::Prng;
use common::stream_writer::{Lz4, StreamWriter};

fn layer(file: Arc<dyn Source>, cache: &Arc<ClusterCache>) -> Arc<StreamLayer> {
    let meta = StreamMeta::read(file.as_ref()).unwrap();
    Arc::new(StreamLayer::new(file, meta, Arc::clone(cache)))
}

fn memory(bytes: Vec<u8>) -> Arc<dyn Source> {
    Arc::new(MemoryFile::new("vda.data", bytes))
}

/// The topmost of these layers, oldest first, as a disk.
fn image(layers: &[Arc<StreamLayer>], region: u32) -> DiskImage {
    let parents = std::iter::once(None).chain((0..).map(|parent| Some(NodeId(parent))));
    let nodes = layers.iter().zip(parents);
    let nodes =
        nodes.map(|(layer, parent)| Node { layer: Arc::<StreamLayer>::clone(layer), parent });
    let size = layers.last().unwrap().meta().virtual_size;
    let maps = Arc::new(MapCache::new(16 << 20));
    let region = NonZeroU32::new(region).unwrap();
    let map = ChainMap::with_region(nodes.collect(), maps, region).unwrap();
    DiskImage::new(Arc::new(map), NodeId(layers.len() as u32 - 1), size)
}

fn read(image: &DiskImage, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xAA; len];
    let got = image.read_at(at, &mut bytes).unwrap_or_else(|e| panic!("{len} bytes at {at}: {e}"));
    bytes.truncate(got);
    bytes
}

fn whole(image: &DiskImage) -> Vec<u8> {
    read(image, 0, image.size() as usize)
}

struct Folder {
    case: Case,
    files: LocalFiles,
}

impl Folder {
    fn unpack(name: &str) -> Self {
        let case = Case::unpack(name);
        let roots = Roots::open(&case.backups(), &[]).unwrap();
        Self { files: LocalFiles::new(roots), case }
    }

    fn file(&self, name: &str) -> Arc<dyn Source> {
        Arc::new(self.files.open(Path::new(name)).unwrap())
    }

    /// The checkpoints, each as it stands in truth.json.
    fn checkpoints(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.case.folder().join("truth.json")).unwrap();
        let truth: Value = serde_json::from_str(&text).unwrap();
        let disks = truth["disks"].as_array().unwrap().iter();
        disks.flat_map(|disk| disk["checkpoints"].as_array().unwrap().clone()).collect()
    }
}

const CASES: [&str; 4] = [
    "virtnbdbackup-stream",
    "virtnbdbackup-stream-upstream",
    "virtnbdbackup-lz4",
    "virtnbdbackup-rawdisk",
];

fn first_bytes(file: &dyn Source) -> Vec<u8> {
    let mut head = vec![0; 40];
    file.read_exact(0, &mut head).unwrap();
    head
}

#[test]
fn the_streams_of_the_tool_are_whole() {
    let mut streams = 0;
    for case in CASES {
        let folder = Folder::unpack(case);
        let names = std::fs::read_dir(folder.case.backups()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        for name in names.filter(|name| Path::new(name).extension() == Some("data".as_ref())) {
            let file = folder.file(&name);
            assert_eq!(is_stream(&first_bytes(file.as_ref())), name != "vdb.copy.data", "{name}");
            if name == "vdb.copy.data" {
                continue;
            }
            let layer = layer(file, &Arc::new(ClusterCache::new(1 << 20)));
            let index = layer.index().unwrap_or_else(|e| panic!("{case}: {e}"));
            assert!(index.flaws().is_empty(), "{case}/{name}: {:?}", index.flaws());
            assert_eq!(Some(index.data_size()), layer.meta().data_size);
            for chunk in index.chunks() {
                layer.check_chunk(&chunk).unwrap();
            }
            let packed = index.chunks().count() > 0;
            assert_eq!(packed, layer.meta().compression.is_some(), "{case}/{name}");
            streams += 1;
        }
    }
    assert_eq!(streams, 28);
}

#[test]
fn checkpoints_are_what_the_tool_restores() {
    let mut checked = 0;
    for case in CASES {
        let folder = Folder::unpack(case);
        for checkpoint in folder.checkpoints() {
            let text = |key: &str| checkpoint[key].as_str().map(str::to_owned);
            if text("file").unwrap() == "vdb.copy.data" {
                continue;
            }
            let cache = Arc::new(ClusterCache::new(4 << 20));
            let chain = checkpoint["chain"].as_array().unwrap().iter();
            let layers: Vec<_> =
                chain.map(|name| layer(folder.file(name.as_str().unwrap()), &cache)).collect();
            let image = image(&layers, 32 << 20);
            let wanted = text("sha256_recoverable").or(text("sha256")).unwrap();
            assert_eq!(image.size(), checkpoint["virtual_size"].as_u64().unwrap());
            assert_eq!(sha256_of(&whole(&image)), wanted, "{case}: {checkpoint}");
            checked += 1;
        }
    }
    assert_eq!(checked, 28);
}

/// One stream of a chain.
#[derive(Debug, Clone)]
struct Spec {
    size: u64,
    packed: Option<Lz4>,
    version_1: bool,
    parts: Vec<Part>,
}

/// A gap, and then a range that a frame speaks for.
#[derive(Debug, Clone)]
struct Part {
    gap: u64,
    len: u64,
    zero: bool,
    seed: u64,
}

fn part() -> impl Strategy<Value = Part> {
    let gap = prop_oneof![Just(0_u64), 1..3000_u64, 10_000..200_000_u64];
    let len = prop_oneof![1..5000_u64, Just(65_536_u64), 60_000..400_000_u64];
    (gap, len, prop::bool::weighted(0.2), any::<u64>()).prop_map(|(gap, len, zero, seed)| Part {
        gap,
        len,
        zero,
        seed,
    })
}

fn packing() -> impl Strategy<Value = Lz4> {
    let chunk = prop_oneof![Just(70_000_usize), Just(131_072), Just(1 << 20)];
    let block = prop_oneof![4 => Just(BlockSize::Max64KB), 1 => Just(BlockSize::Max256KB)];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (chunk, block, flags).prop_map(|(chunk, block, flags)| {
        let (linked, block_checksums, content_checksum, content_size) = flags;
        // Whoever reads a chunk without its size takes it for as large as the tool's.
        let chunk = if content_size { chunk } else { Lz4::TOOL.chunk };
        Lz4 { chunk, block, linked, block_checksums, content_checksum, content_size }
    })
}

fn spec() -> impl Strategy<Value = Spec> {
    let size = prop_oneof![1 => 0..5000_u64, 4 => 300_000..900_000_u64];
    let parts = prop::collection::vec(part(), 0..6);
    (size, prop::option::weighted(0.7, packing()), any::<bool>(), parts)
        .prop_map(|(size, packed, version_1, parts)| Spec { size, packed, version_1, parts })
}

/// Bytes that can be packed, but not away: short words out of few, and noise.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut prng = Prng::new(seed);
    let mut bytes = Vec::with_capacity(len + 40);
    while bytes.len() < len {
        let word = prng.below(50);
        let length = 3 + prng.below(30) as usize;
        if prng.one_in(9) {
            bytes.extend(prng.bytes(length));
        } else {
            bytes.extend(Prng::new(word).bytes(length));
        }
    }
    bytes.truncate(len);
    bytes
}

impl Spec {
    /// The stream, and what its checkpoint must read as on top of `below`.
    fn write(&self, number: usize, below: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut writer = match number {
            0 => StreamWriter::full(self.size),
            number => StreamWriter::increment(self.size, number),
        };
        match self.packed {
            Some(lz4) => writer = writer.compressed(lz4),
            None if self.version_1 => writer = writer.version_1(),
            None => {}
        }
        let mut model = below.to_vec();
        model.resize(self.size as usize, 0);
        let mut at = 0;
        for part in &self.parts {
            let start = (at + part.gap).min(self.size);
            let end = (start + part.len).min(self.size);
            at = end;
            let disk = &mut model[start as usize..end as usize];
            if start == end {
                break;
            } else if part.zero {
                writer.zero(start, end - start);
                disk.fill(0);
            } else {
                let bytes = content(part.seed, disk.len());
                writer.data(start, &bytes);
                disk.copy_from_slice(&bytes);
            }
        }
        (writer.finish(), model)
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_checkpoint_of_a_random_chain_reads_as_its_model(
        specs in prop::collection::vec(spec(), 1..5),
        reads in prop::collection::vec((any::<prop::sample::Index>(), 1..200_000_usize), 1..20),
        region in prop_oneof![Just(100_000_u32), Just(1 << 20)],
        budget in prop_oneof![Just(0_u64), Just(1 << 20), Just(64 << 20)],
    ) {
        let cache = Arc::new(ClusterCache::new(budget));
        let (mut layers, mut below) = (Vec::new(), Vec::new());
        for (number, spec) in specs.iter().enumerate() {
            let (stream, model) = spec.write(number, &below);
            layers.push(layer(memory(stream), &cache));
            let image = image(&layers, region);
            for (at, len) in &reads {
                let at = at.index(model.len() + 1);
                let wanted = &model[at..model.len().min(at + len)];
                prop_assert!(read(&image, at as u64, *len) == wanted, "{} bytes at {}", len, at);
            }
            prop_assert!(whole(&image) == model);
            prop_assert!(cache.bytes() <= budget);
            below = model;
        }
    }
}

fn index_of(bytes: Vec<u8>) -> Index {
    let file = memory(bytes);
    let meta = StreamMeta::read(file.as_ref()).unwrap();
    Index::build(file.as_ref(), &meta).unwrap()
}

#[test]
fn an_increment_without_changes_is_its_parent() {
    let plain = content(1, 200_000);
    let mut full = StreamWriter::full(200_000).compressed(Lz4::TOOL);
    full.data(0, &plain);
    let cache = Arc::new(ClusterCache::new(1 << 20));
    for empty in [
        StreamWriter::increment(200_000, 1),
        StreamWriter::increment(200_000, 1).compressed(Lz4::TOOL),
    ] {
        let layers =
            [layer(memory(full.clone().finish()), &cache), layer(memory(empty.finish()), &cache)];
        assert!(whole(&image(&layers, 1 << 20)) == plain);
        assert!(layers[1].index().unwrap().flaws().is_empty());
    }
}

#[test]
fn what_a_full_backup_leaves_out_hides_what_is_below_it() {
    let mut first = StreamWriter::full(1000);
    first.data(0, &[1; 1000]);
    let mut second = StreamWriter::full(1000);
    second.data(500, &[2; 100]);
    let cache = Arc::new(ClusterCache::new(1 << 20));
    let layers = [first, second].map(|stream| layer(memory(stream.finish()), &cache));
    let wanted = [vec![0; 500], vec![2; 100], vec![0; 400]].concat();
    assert!(whole(&image(&layers, 1 << 20)) == wanted);
}

#[test]
fn payloads_of_32_mib_and_more_are_cut_into_chunks() {
    const MIB: usize = 1 << 20;
    let plain = content(3, 70 * MIB);
    for lz4 in [Lz4::TOOL, Lz4 { content_size: false, ..Lz4::TOOL }] {
        let mut stream = StreamWriter::full(70 << 20).compressed(lz4);
        stream.data(0, &plain);
        let stream = stream.finish();
        let index = index_of(stream.clone());
        let sizes: Vec<_> = index.chunks().map(|chunk| chunk.len as usize / MIB).collect();
        assert_eq!(sizes, [32, 32, 6]);
        let layers = [layer(memory(stream), &Arc::new(ClusterCache::new(8 << 20)))];
        let image = image(&layers, 32 << 20);
        for at in [0, 32 * MIB - 2000, 50 * MIB + 77, 64 * MIB - 1, 70 * MIB - 4096] {
            assert!(read(&image, at as u64, 4096) == plain[at..at + 4096], "at {at}");
        }
    }
}

#[test]
fn data_are_counted_from_the_metadata_and_never_beyond_the_disk() {
    use qcowfs::layer::Layer as _;
    let cache = Arc::new(ClusterCache::new(0));
    let mut stream = StreamWriter::full(1000);
    stream.data(0, &[1; 100]);
    for (size, wanted) in [(json!(100), 100), (json!(5000), 1000)] {
        let stream = stream.clone().set("dataSize", size).finish();
        assert_eq!(layer(memory(stream), &cache).allocated_at_most(), wanted);
    }
}

#[test]
fn threads_that_read_one_chunk_at_random_all_read_right() {
    let plain = content(9, 4 << 20);
    let mut stream = StreamWriter::full(4 << 20).compressed(Lz4::TOOL);
    stream.data(0, &plain);
    for budget in [0, 1 << 20, 64 << 20] {
        let layers = [layer(memory(stream.clone().finish()), &Arc::new(ClusterCache::new(budget)))];
        let image = image(&layers, 1 << 20);
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let (image, plain) = (&image, &plain);
                scope.spawn(move || {
                    let mut prng = Prng::new(seed);
                    for _ in 0..40 {
                        let at = prng.below(4 << 20) as usize;
                        let end = plain.len().min(at + 1 + prng.below(200_000) as usize);
                        assert!(read(image, at as u64, end - at) == plain[at..end]);
                    }
                });
            }
        });
    }
}
