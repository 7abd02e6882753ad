//! What reading streams costs: counted bytes, no clocks; and, on demand, the clock.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::unnecessary_debug_formatting,
    reason = "a test that cannot go on has failed, and its disks are small"
)]

mod common;

use std::fs;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use qcowfs::extent::{Extent, GuestOffset, Slot, Word, Words};
use qcowfs::layer::Layer;
use qcowfs::layer::clusters::ClusterCache;
use qcowfs::layer::stream::{Index, StreamLayer, StreamMeta};
use qcowfs::source::{LocalFiles, MemoryFile, Roots, Source};

use common::Run;
use common::prng::Prng;
use common::report::say;
use common::stream_writer::{Lz4, StreamWriter};

const MIB: u64 = 1 << 20;

/// One chunk of 32 MiB that packing makes hardly smaller, and its slot.
struct OneChunk {
    file: Arc<MemoryFile>,
    layer: StreamLayer,
    slot: Slot,
    plain: Vec<u8>,
}

impl OneChunk {
    fn new(cache: u64) -> Self {
        let plain = Prng::new(7).bytes(32 << 20);
        let mut writer = StreamWriter::full(32 << 20).compressed(Lz4::TOOL);
        writer.data(0, &plain);
        let file = Arc::new(MemoryFile::new("vda.full.data", writer.finish()));
        let layer = open(file.clone(), cache);
        let slot = extents(&layer).find_map(|(_, slot)| slot).unwrap();
        Self { file, layer, slot, plain }
    }

    /// Bytes that were read of the file for these of the disk.
    fn cost(&self, at: u64, len: usize) -> u64 {
        let before = self.file.bytes_read();
        let mut buf = vec![0; len];
        self.layer.read(self.slot, GuestOffset(at), &mut buf).unwrap();
        let at = at as usize;
        assert!(buf == self.plain[at..at + len], "{len} bytes at {at}");
        self.file.bytes_read() - before
    }
}

fn open(file: Arc<dyn Source>, cache: u64) -> StreamLayer {
    let meta = StreamMeta::read(file.as_ref()).unwrap();
    StreamLayer::new(file, meta, Arc::new(ClusterCache::new(cache)))
}

fn extents(layer: &StreamLayer) -> impl Iterator<Item = (Range<u64>, Option<Slot>)> {
    let mut words = Words::new(0..layer.virtual_size());
    layer.words(&mut words);
    words.finish().into_iter().map(|Extent { range, word }| match word {
        Word::At(slot) => (range, Some(slot)),
        _ => (range, None),
    })
}

#[test]
fn a_read_unpacks_no_further_than_it_must() {
    let chunk = OneChunk::new(64 << 20);
    assert!(chunk.cost(0, 4096) < 66_000);
    assert!(chunk.cost(65_536 - 2048, 4096) < 66_000);
    assert_eq!(chunk.cost(1000, 100_000), 0);
}

#[test]
fn reading_on_in_small_pieces_reads_the_file_once() {
    // Of a cache that holds a small part of the chunk too.
    for cache in [64 << 20, 4 << 20] {
        let chunk = OneChunk::new(cache);
        let cost: u64 = (0..32 * MIB).step_by(4096).map(|at| chunk.cost(at, 4096)).sum();
        assert!(cost < chunk.file.len() + 4096, "{cost} bytes read");
    }
}

#[test]
fn two_readers_of_a_full_cache_do_not_drive_each_other_back_to_the_start() {
    let chunk = OneChunk::new(8 << 20);
    let cost: u64 = (0..15 * MIB)
        .step_by(16 << 10)
        .map(|at| chunk.cost(at, 16 << 10) + chunk.cost(16 * MIB + at, 16 << 10))
        .sum();
    // The second one's way to its start is read by the first one again.
    assert!(cost < 47 * MIB, "{cost} bytes read");
}

#[test]
fn a_chunk_that_was_touched_is_entered_again_nearby() {
    let chunk = OneChunk::new(64 << 20);
    let first = chunk.cost(31 * MIB, 4096);
    assert!(first > 31 * MIB && first < 32 * MIB, "{first} bytes read");
    let mut prng = Prng::new(1);
    for _ in 0..200 {
        let at = prng.below(31 * MIB);
        let cost = chunk.cost(at, 4096);
        assert!(cost < MIB + 200_000, "{cost} bytes read for 4096 at {at}");
    }
}

#[test]
fn an_index_reads_headers_and_no_payloads() {
    let payload = vec![1; 700_000];
    let mut writer = StreamWriter::full(64 * MIB);
    for number in 0..64 {
        writer.data(number * MIB, &payload);
        writer.zero(number * MIB + 700_000, MIB - 700_000);
    }
    let file = MemoryFile::new("vda.full.data", writer.finish());
    let meta = StreamMeta::read(&file).unwrap();
    let index = Index::build(&file, &meta).unwrap();
    assert_eq!(index.ranges(), 128);
    let taken = file.bytes_read();
    assert!(taken < 129 * 1024, "{taken} bytes read of {}", file.len());
}

/// Writes frames of `len` bytes, each with a hole of the disk after it. Payloads stay holes of
/// the file.
fn write_frames(path: &Path, frames: u64, len: u64) {
    let writer =
        StreamWriter::increment(frames * 2 * len, 1).set("dataSize", (frames * len).into());
    let (stream, _) = writer.parts();
    let file = fs::File::create(path).unwrap();
    let (meta, stop) = stream.split_at(stream.len() - 40);
    let mut at = 0;
    let mut before = meta.to_vec();
    for number in 0..frames {
        before.extend(common::stream_writer::header("data", number * 2 * len, len));
        file.write_all_at(&before, at).unwrap();
        at += before.len() as u64 + len;
        before = b"\r\n".to_vec();
    }
    before.extend(stop);
    file.write_all_at(&before, at).unwrap();
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn local(folder: &Path, name: &str) -> Arc<dyn Source> {
    let roots = Roots::open(folder, &[]).unwrap();
    Arc::new(LocalFiles::new(roots).open(Path::new(name)).unwrap())
}

#[test]
#[ignore = "prints figures: cargo test --release --test stream_cost -- --ignored --nocapture"]
fn figures_of_an_index_of_a_million_frames() {
    let folder = tempfile::tempdir().unwrap();
    for len in [512, 4096, 65_536] {
        write_frames(&folder.path().join("vda.data"), 1_000_000, len);
        let file = local(folder.path(), "vda.data");
        let meta = StreamMeta::read(file.as_ref()).unwrap();
        let (before, start) = (resident(), Instant::now());
        let index = Index::build(file.as_ref(), &meta).unwrap();
        let seconds = start.elapsed().as_secs_f64();
        say(&format!(
            "1,000,000 frames of {len} bytes: {seconds:.2} s, {:.1} MiB kept, peak of the process \
             {:.1} -> {:.1} MiB",
            index.memory() as f64 / MIB as f64,
            before as f64 / MIB as f64,
            resident() as f64 / MIB as f64,
        ));
    }
    // A compressed one: the trailer is a megabyte of numbers.
    let mut writer = StreamWriter::increment(1_000_000 * 1024, 1).compressed(Lz4::TOOL);
    (0..1_000_000).for_each(|number| writer.data(number * 1024, &[number as u8; 512]));
    fs::write(folder.path().join("vdb.data"), writer.finish()).unwrap();
    let file = local(folder.path(), "vdb.data");
    let meta = StreamMeta::read(file.as_ref()).unwrap();
    let start = Instant::now();
    let index = Index::build(file.as_ref(), &meta).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let memory = index.memory() as f64 / MIB as f64;
    say(&format!("1,000,000 compressed frames: {seconds:.2} s, {memory:.1} MiB kept"));
}

/// Seconds that this process has had of all processors: on a busy machine the better clock.
fn processor_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// What is read in a second, and in a second of one processor: each of `threads` reads its share
/// from end to end.
fn throughput(layer: &StreamLayer, threads: u64, step: u64) -> (f64, f64) {
    let parts: Vec<_> =
        extents(layer).filter_map(|(range, slot)| slot.map(|slot| (range, slot))).collect();
    let bytes: u64 = parts.iter().map(|(range, _)| range.end - range.start).sum();
    let next = AtomicU64::new(0);
    let (start, had) = (Instant::now(), processor_seconds());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buf = vec![0; step as usize];
                while let Some((range, slot)) =
                    parts.get(next.fetch_add(1, Ordering::Relaxed) as usize)
                {
                    for at in range.clone().step_by(step as usize) {
                        let len = step.min(range.end - at) as usize;
                        let slot = slot.advance(at - range.start);
                        layer.read(slot, GuestOffset(at), &mut buf[..len]).unwrap();
                    }
                }
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    (bytes as f64 / seconds, bytes as f64 / (processor_seconds() - had))
}

/// A file with the contents of ordinary files, up to a gigabyte of them.
fn ordinary_bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut folders = vec![Path::new("/usr").to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                bytes.extend(fs::read(entry.path()).unwrap_or_default());
            }
        }
        if bytes.len() >= 1 << 30 {
            break;
        }
    }
    bytes.truncate(1 << 30);
    bytes
}

#[test]
#[ignore = "prints figures: cargo test --release --test stream_cost -- --ignored --nocapture"]
fn figures_of_reading_a_compressed_stream() {
    let folder = tempfile::tempdir().unwrap();
    let plain = ordinary_bytes();
    let mut writer = StreamWriter::full(plain.len() as u64).compressed(Lz4::TOOL);
    writer.data(0, &plain);
    fs::write(folder.path().join("vda.data"), writer.finish()).unwrap();
    let mut lz4 = fs::File::create(folder.path().join("plain.lz4")).unwrap();
    for chunk in plain.chunks(Lz4::TOOL.chunk) {
        lz4.write_all(&Lz4::TOOL.pack(chunk)).unwrap();
    }
    let size = plain.len() as f64;
    drop(plain);
    for round in 0..3 {
        for (threads, step) in [(1, 128 << 10), (2, 128 << 10), (2, MIB)] {
            let layer = open(local(folder.path(), "vda.data"), 64 << 20);
            let (speed, per_core) = throughput(&layer, threads, step);
            say(&format!(
                "round {round}: {threads} threads, {step} at a time: {:.2} GB/s, {:.2} per core",
                speed / 1e9,
                per_core / 1e9
            ));
        }
        let start = Instant::now();
        let path = folder.path().join("plain.lz4");
        Run::new("lz4").args(["-d", "-q", "-f"]).arg(path).arg("/dev/null").ok();
        let speed = size / start.elapsed().as_secs_f64() / 1e9;
        say(&format!("round {round}: lz4 -d: {speed:.2} GB/s"));
    }
    let layer = open(local(folder.path(), "vda.data"), 64 << 20);
    let parts: Vec<_> = extents(&layer).collect();
    let (mut prng, mut buf) = (Prng::new(3), [0; 4096]);
    let start = Instant::now();
    for _ in 0..3000 {
        let (range, slot) = prng.pick(&parts);
        let at = range.start + prng.below(range.end - range.start - 4096);
        layer.read(slot.unwrap(), GuestOffset(at), &mut buf).unwrap();
    }
    let each = start.elapsed().as_secs_f64() / 3000.0 * 1e3;
    say(&format!("random 4 KiB over all of it: {each:.3} ms each"));
}
