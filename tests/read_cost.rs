//! What reads of checkpoints cost: reads of the files beneath, counted, whatever the depth.

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

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use qcowfs::error::Result;
use qcowfs::extent::{GuestOffset, Slot, Word, Words};
use qcowfs::layer::Layer;
use qcowfs::layer::clusters::ClusterCache;
use qcowfs::layer::qcow2::{Header, Qcow2Image, Qcow2Layer};
use qcowfs::layer::raw::RawLayer;
use qcowfs::map::{ChainMap, Node, NodeId};
use qcowfs::source::MemoryFile;
use qcowfs::tree::caches::{CacheSizes, Caches};
use qcowfs::view::DiskImage;

use common::Run;
use common::prng::Prng;
use common::qcow2_editor::Editor;
use common::qcow2_writer::{CLUSTER, LARGEST, Overlay};
use common::run::scratch;

/// Of each overlay: one block of its L1 table, one piece of its L2 table.
const TABLE_READS: u64 = 2;

fn image_of(layers: Vec<Arc<dyn Layer>>, caches: &Caches) -> DiskImage {
    let size = layers.last().unwrap().virtual_size();
    let top = NodeId(layers.len() as u32 - 1);
    let parents = std::iter::once(None).chain((0..).map(|parent| Some(NodeId(parent))));
    let nodes = layers.into_iter().zip(parents).map(|(layer, parent)| Node { layer, parent });
    let map = ChainMap::new(nodes.collect(), Arc::clone(&caches.maps)).unwrap();
    DiskImage::new(Arc::new(map), top, size)
}

fn qcow2_layer(file: &Arc<MemoryFile>, cache: &Arc<ClusterCache>) -> Arc<dyn Layer> {
    let header = Header::read(file.as_ref()).unwrap();
    let image = Qcow2Image::new(file.clone(), header, None, Arc::clone(cache)).unwrap();
    Arc::new(Qcow2Layer::active(&image))
}

/// A raw full backup under overlays of one cluster each.
struct Chain {
    files: Vec<Arc<MemoryFile>>,
    image: DiskImage,
    disk: Vec<u8>,
    /// The layer that each cluster is in.
    owners: Vec<usize>,
    counted: u64,
}

impl Chain {
    fn new(overlays: usize) -> Self {
        let mut prng = Prng::new(5);
        let caches = Caches::new(CacheSizes::default());
        let mut disk = prng.bytes(LARGEST as usize);
        let mut owners = vec![0; disk.len() / CLUSTER];
        let full = Arc::new(MemoryFile::new("full.raw", disk.clone()));
        let mut layers: Vec<Arc<dyn Layer>> = vec![Arc::new(RawLayer::full(full.clone()))];
        let mut files = vec![full];
        for layer in 1..=overlays {
            let place = prng.below(owners.len() as u64);
            let bytes: [u8; CLUSTER] = prng.bytes(CLUSTER).try_into().unwrap();
            let at = place as usize * CLUSTER;
            disk[at..at + CLUSTER].copy_from_slice(&bytes);
            owners[place as usize] = layer;
            let overlay =
                Overlay { virtual_size: LARGEST, backing: None, data: Some((place, bytes)) };
            let file = Arc::new(MemoryFile::new(format!("{layer}.qcow2"), overlay.bytes()));
            layers.push(qcow2_layer(&file, &caches.clusters));
            files.push(file);
        }
        let mut chain = Self { files, image: image_of(layers, &caches), disk, owners, counted: 0 };
        chain.taken();
        chain
    }

    /// Reads of all files since the last question.
    fn taken(&mut self) -> u64 {
        let all = self.files.iter().map(|file| file.times_read()).sum();
        all - std::mem::replace(&mut self.counted, all)
    }

    /// Reads of the files for these clusters of the disk.
    fn cost(&mut self, first: usize, clusters: usize) -> u64 {
        let (at, len) = (first * CLUSTER, clusters * CLUSTER);
        let mut buf = vec![0; len];
        assert_eq!(self.image.read_at(at as u64, &mut buf).unwrap(), len);
        assert!(buf == self.disk[at..at + len], "{clusters} clusters from {first} on");
        self.taken()
    }

    /// Pieces of these clusters that lie together in one file.
    fn pieces(&self, first: usize, clusters: usize) -> u64 {
        let owners = &self.owners[first..first + clusters];
        1 + owners.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64
    }
}

#[test]
fn every_table_is_read_once_and_each_contiguous_piece_of_data_in_one_go() {
    for overlays in [0, 1, 32, 128, 365] {
        let mut chain = Chain::new(overlays);
        let all = chain.owners.len();
        let mut first_pass = 0;
        let mut pieces = 0;
        for at in (0..all).step_by(128) {
            first_pass += chain.cost(at, 128);
            pieces += chain.pieces(at, 128);
        }
        assert_eq!(first_pass - pieces, overlays as u64 * TABLE_READS, "{overlays} overlays");
        for at in (0..all).step_by(128) {
            assert_eq!(chain.cost(at, 128), chain.pieces(at, 128), "{overlays} overlays, again");
        }
    }
}

#[test]
fn a_read_in_a_known_region_costs_one_read_of_data_at_any_depth() {
    for overlays in [0, 128, 365] {
        let mut chain = Chain::new(overlays);
        chain.cost(0, chain.owners.len());
        let mut prng = Prng::new(9);
        for _ in 0..1000 {
            let at = prng.below(chain.owners.len() as u64) as usize;
            assert_eq!(chain.cost(at, 1), 1, "cluster {at} over {overlays} overlays");
        }
    }
}

#[test]
fn the_first_read_of_a_region_costs_no_more_than_the_tables_that_speak_of_it() {
    let mut chain = Chain::new(365);
    // Eight regions; the one block of each L1 table is read with the first of them.
    let region = chain.owners.len() / 8;
    let first = chain.cost(0, 1) - 1;
    let tables = |chain: &Chain, number: usize| {
        // Of layers whose cluster another one covers it is not known where it was.
        let own = &chain.owners[number * region..(number + 1) * region];
        own.iter().filter(|owner| **owner > 0).count() as u64
    };
    assert!(first >= 365 + tables(&chain, 0), "{first} table reads");
    let mut sum = first;
    for number in 1..8 {
        let cost = chain.cost(number * region, 1) - 1;
        assert!(cost >= tables(&chain, number) && cost < 100, "{cost} table reads");
        sum += cost;
    }
    assert_eq!(sum, 365 * TABLE_READS);
}

/// A compressed image of 64 clusters of 64 KiB.
struct Packed {
    file: Arc<MemoryFile>,
    disk: Vec<u8>,
    image: DiskImage,
    caches: Caches,
}

const PACKED_CLUSTER: usize = 64 << 10;
const PACKED_CLUSTERS: usize = 64;

impl Packed {
    fn new(how: &str, data_cache: u64, damage: impl FnOnce(&mut Editor)) -> Self {
        let folder = scratch();
        let mut prng = Prng::new(11);
        let mut disk = vec![0; PACKED_CLUSTERS * PACKED_CLUSTER];
        disk.fill_with(|| b'a' + prng.below(16) as u8);
        std::fs::write(folder.path().join("disk.raw"), &disk).unwrap();
        let convert =
            Run::new("qemu-img").args(["convert", "-c", "-f", "raw", "-O", "qcow2", "-o"]);
        let convert = convert.arg(format!("compression_type={how}"));
        convert.args(["disk.raw", "disk.qcow2"]).folder(folder.path()).ok();
        let mut editor = Editor::open(folder.path().join("disk.qcow2"));
        damage(&mut editor);
        let file = Arc::new(MemoryFile::new("disk.qcow2", editor.bytes));
        let caches = Caches::new(CacheSizes { data: data_cache, ..CacheSizes::default() });
        let layer = qcow2_layer(&file, &caches.clusters);
        Self { image: image_of(vec![layer], &caches), file, disk, caches }
    }

    /// Reads of the file for these bytes of the disk.
    fn cost(&self, at: usize, len: usize) -> u64 {
        let before = self.file.times_read();
        let mut buf = vec![0; len];
        assert_eq!(self.image.read_at(at as u64, &mut buf).unwrap(), len);
        assert!(buf == self.disk[at..at + len], "{len} bytes at {at}");
        self.file.times_read() - before
    }
}

#[test]
fn each_compressed_cluster_of_a_read_is_fetched_once() {
    for how in ["zlib", "zstd"] {
        let packed = Packed::new(how, 32 << 20, |_| ());
        packed.cost(0, 512);
        // Those at the ends are not taken as a whole; the first one is there already.
        let len = 16 * PACKED_CLUSTER;
        assert_eq!(packed.cost(1000, len), 16, "{how}");
        assert_eq!(packed.cost(len, 1000), 0, "{how}");
        assert_eq!(packed.cost(2 * len, len), 16, "{how}");
    }
}

#[test]
fn clusters_that_are_read_as_a_whole_take_no_memory_and_parts_stay() {
    let packed = Packed::new("zlib", 32 << 20, |_| ());
    packed.cost(0, PACKED_CLUSTERS * PACKED_CLUSTER);
    let tables = packed.caches.clusters.bytes();
    assert!(tables < PACKED_CLUSTER as u64, "{tables} bytes kept");
    for part in 0..16 {
        let cost = packed.cost(part * 4096, 4096);
        assert_eq!(cost, u64::from(part == 0), "part {part}");
    }
    assert_eq!(packed.cost(0, PACKED_CLUSTER), 0, "what is kept is not unpacked again");
    assert_eq!(packed.caches.clusters.bytes(), tables + PACKED_CLUSTER as u64);
}

#[test]
fn a_damaged_cluster_among_many_is_an_error_exactly_there_each_time() {
    const BAD: [usize; 2] = [21, 40];
    for how in ["zlib", "zstd"] {
        let packed = Packed::new(how, 1 << 20, |editor| {
            let entries = editor.l2(&editor.l1());
            for bad in BAD {
                let at = entries[bad].packed_offset(16);
                editor.write(at, &[0xff; 64]);
            }
        });
        let mut buf = vec![0; packed.disk.len()];
        for _ in 0..20 {
            buf.fill(0);
            let stopped = packed.image.read_at(0, &mut buf).unwrap_err();
            assert_eq!(stopped.done, BAD[0] * PACKED_CLUSTER, "{how}: {stopped}");
            assert!(buf[..stopped.done] == packed.disk[..stopped.done]);
        }
        // All around them is as it should be.
        packed.cost((BAD[0] + 1) * PACKED_CLUSTER, (BAD[1] - BAD[0] - 1) * PACKED_CLUSTER);
        packed.cost((BAD[1] + 1) * PACKED_CLUSTER, 10 * PACKED_CLUSTER);
    }
}

#[test]
fn many_readers_of_compressed_clusters_at_once_get_the_right_bytes() {
    let packed = Packed::new("zlib", 1 << 20, |_| ());
    std::thread::scope(|scope| {
        for seed in 0..6 {
            let packed = &packed;
            scope.spawn(move || {
                let mut prng = Prng::new(seed);
                for _ in 0..40 {
                    let len = 1 + prng.below(1 << 20) as usize;
                    let at = prng.below((packed.disk.len() - len) as u64) as usize;
                    let mut buf = vec![0; len];
                    assert_eq!(packed.image.read_at(at as u64, &mut buf).unwrap(), len);
                    assert!(buf == packed.disk[at..at + len], "{len} bytes at {at}");
                }
            });
        }
    });
    assert!(packed.caches.clusters.bytes() <= 1 << 20);
}

/// Packed clusters that take a while to unpack; it sees how many of them are unpacked at a time.
#[derive(Default)]
struct Slow {
    under_way: AtomicUsize,
    together: AtomicUsize,
}

impl Layer for Slow {
    fn path(&self) -> &Path {
        Path::new("slow")
    }

    fn virtual_size(&self) -> u64 {
        1 << 20
    }

    fn words(&self, words: &mut Words) {
        while words.next() < words.range().end.min(self.virtual_size()) {
            let cluster = words.next() / PACKED_CLUSTER as u64;
            let end = (cluster + 1) * PACKED_CLUSTER as u64;
            words.push_until(end, Word::At(Slot::Packed(cluster)));
        }
    }

    fn read(&self, _: Slot, _: GuestOffset, _: &mut [u8]) -> Result<()> {
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.together.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(1));
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }

    fn allocated_at_most(&self) -> u64 {
        self.virtual_size()
    }
}

#[test]
fn one_reader_of_packed_clusters_has_several_processors_at_work() {
    if std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1) {
        return common::report::say("SKIPPED (there is one processor)");
    }
    let layer = Arc::new(Slow::default());
    let image = image_of(vec![layer.clone()], &Caches::new(CacheSizes::default()));
    let start = Instant::now();
    // The other tests may keep all helpers busy for a while.
    while layer.together.load(Ordering::SeqCst) < 2 {
        assert!(start.elapsed() < Duration::from_mins(1), "one cluster after the other");
        assert_eq!(image.read_at(0, &mut vec![0; 1 << 20]).unwrap(), 1 << 20);
    }
}
