//! What maps cost: counted questions and bytes, no clocks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;

use qcowfs::extent::{Extent, HostOffset, Slot, Word};
use qcowfs::layer::MemoryLayer;
use qcowfs::map::{ChainMap, LARGEST_REGION, MapCache, Node, NodeId};
use qcowfs::tree::caches::CacheSizes;

const CLUSTER: u64 = 64 << 10;

/// A xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) % end
    }
}

/// A layer that holds these clusters one after the other in a file.
fn clusters(size: u64, cluster: u64, numbers: Vec<u64>) -> Arc<MemoryLayer> {
    Arc::new(layer_of(size, cluster, numbers))
}

/// The same, of a map that knows how finely it is cut.
fn fine(size: u64, cluster: u64, numbers: Vec<u64>) -> Arc<MemoryLayer> {
    Arc::new(layer_of(size, cluster, numbers).with_granularity(cluster))
}

fn layer_of(size: u64, cluster: u64, mut numbers: Vec<u64>) -> MemoryLayer {
    numbers.sort_unstable();
    numbers.dedup();
    let extent = |(at, number): (u64, u64)| Extent {
        range: number * cluster..(number + 1) * cluster,
        // Two units apart, so that neighbours are not one extent.
        word: Word::At(Slot::Host(HostOffset(2 * at * cluster))),
    };
    let extents: Vec<_> = (0..).zip(numbers).map(extent).collect();
    MemoryLayer::new("layer", size, &extents, Vec::new()).unwrap()
}

/// One extent over all of the disk.
fn wide(size: u64) -> Arc<MemoryLayer> {
    let word = Word::At(Slot::Host(HostOffset(0)));
    let extents = [Extent { range: 0..size, word }];
    Arc::new(MemoryLayer::new("layer", size, &extents, Vec::new()).unwrap())
}

fn chain(layers: &[Arc<MemoryLayer>]) -> (ChainMap, Arc<MapCache>) {
    let cache = Arc::new(MapCache::new(1 << 30));
    (chain_in(layers, &cache).0, cache)
}

/// The map of a chain, and the topmost of its layers.
fn chain_in(layers: &[Arc<MemoryLayer>], cache: &Arc<MapCache>) -> (ChainMap, NodeId) {
    let parents = std::iter::once(None).chain((0..).map(|parent| Some(NodeId(parent))));
    let node = |(layer, parent): (&Arc<MemoryLayer>, _)| Node { layer: layer.clone(), parent };
    let nodes = layers.iter().zip(parents).map(node).collect();
    let top = NodeId(u32::try_from(layers.len() - 1).unwrap());
    (ChainMap::new(nodes, cache.clone()).unwrap(), top)
}

/// Resolves every region of every checkpoint, in a scattered order.
fn touch_all(map: &ChainMap, layers: usize, size: u64) {
    let region = u64::from(LARGEST_REGION.get());
    for number in 0..layers {
        let node = NodeId(u32::try_from(number * 151 % layers).unwrap());
        for start in (0..size).step_by(1 << 25) {
            let pieces = map.resolve(node, start..(start + region).min(size));
            assert!(!pieces.is_empty());
        }
    }
}

fn bytes_per_extent(layers: &[Arc<MemoryLayer>], size: u64, extents: u64) -> u64 {
    let (map, cache) = chain(layers);
    touch_all(&map, layers.len(), size);
    let regions = size.div_ceil(u64::from(LARGEST_REGION.get()));
    for layer in layers {
        assert!(layer.times_asked() <= regions, "each layer is asked once per region");
    }
    let each = cache.used_bytes() / extents;
    println!("{each} bytes for each of {extents} extents");
    assert!(each >= 24, "each extent has an entry of 24 bytes, whose memory must be counted");
    each
}

#[test]
fn a_year_of_64_random_clusters_a_day_is_asked_for_once_and_kept_in_100_bytes_each() {
    let size = 2 << 30;
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    let mut day =
        |_| clusters(size, CLUSTER, (0..64).map(|_| random.below(size / CLUSTER)).collect());
    let layers: Vec<_> = std::iter::once(wide(size)).chain((1..365).map(&mut day)).collect();
    assert!(bytes_per_extent(&layers, size, 364 * 64) <= 100);
}

#[test]
fn a_year_of_64_random_clusters_a_day_in_every_region_is_kept_in_100_bytes_each() {
    let size = 4 * u64::from(LARGEST_REGION.get());
    let region = u64::from(LARGEST_REGION.get()) / CLUSTER;
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    let mut day = |_| {
        let numbers = (0..4 * 64).map(|number| number / 64 * region + random.below(region));
        clusters(size, CLUSTER, numbers.collect())
    };
    let layers: Vec<_> = std::iter::once(wide(size)).chain((1..365).map(&mut day)).collect();
    assert!(bytes_per_extent(&layers, size, 364 * 4 * 64) <= 100);
}

#[test]
fn one_finely_cut_layer_alone_takes_little_more_than_its_entries() {
    let size = u64::from(LARGEST_REGION.get());
    let cut = clusters(size, 4096, (0..size / 4096).collect());
    assert!(bytes_per_extent(&[cut], size, size / 4096) <= 30);
}

#[test]
fn wide_layers_over_and_under_finely_cut_ones_stay_linear() {
    let size = u64::from(LARGEST_REGION.get());
    let cut = || clusters(size, 4096, (0..size / 4096).collect());
    let mut layers: Vec<_> = (0..200).map(|_| wide(size)).collect();
    layers.push(cut());
    assert!(bytes_per_extent(&layers, size, size / 4096 + 200) <= 60);
    let layers: Vec<_> = (0..20).flat_map(|_| [cut(), wide(size)]).collect();
    assert!(bytes_per_extent(&layers, size, 20 * (size / 4096 + 1)) <= 60);
}

#[test]
fn a_fine_grained_year_of_512_byte_clusters_is_kept_in_100_bytes_each() {
    let size = u64::from(LARGEST_REGION.get());
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    let mut day = |_| clusters(size, 512, (0..200).map(|_| random.below(size / 512)).collect());
    let layers: Vec<_> = std::iter::once(wide(size)).chain((1..365).map(&mut day)).collect();
    assert!(bytes_per_extent(&layers, size, 364 * 200) <= 100);
}

#[test]
fn layers_that_say_nothing_cost_nothing() {
    let size = u64::from(LARGEST_REGION.get());
    let mut layers = vec![wide(size)];
    let (map, cache) = chain(&layers);
    touch_all(&map, 1, size);
    let alone = cache.used_bytes();
    layers.extend((1..365).map(|_| clusters(size, CLUSTER, Vec::new())));
    let (map, cache) = chain(&layers);
    touch_all(&map, 365, size);
    assert_eq!(cache.used_bytes(), alone);
}

#[test]
fn a_budget_holds_and_what_it_evicts_is_asked_for_again() {
    let size = 16 * u64::from(LARGEST_REGION.get());
    let every_third = (0..size / CLUSTER).step_by(3).collect();
    let layer = clusters(size, CLUSTER, every_third);
    let cache = Arc::new(MapCache::new(64 << 10));
    let nodes = vec![Node { layer: layer.clone(), parent: None }];
    let map = ChainMap::new(nodes, cache.clone()).unwrap();
    for _ in 0..3 {
        touch_all(&map, 1, size);
        assert!((8 << 10..=64 << 10).contains(&cache.used_bytes()), "{}", cache.used_bytes());
    }
    assert!(layer.times_asked() > 16, "asked {} times", layer.times_asked());
}

/// The topmost checkpoint of a chain of these layers, twice from one end of the disk to the other,
/// as a copy reads it and then another: how often each layer was asked, by pass, and the bytes that
/// are kept.
fn two_passes(layers: &[Arc<MemoryLayer>], size: u64) -> ([u64; 2], u64) {
    let cache = Arc::new(MapCache::new(CacheSizes::default().maps));
    let (map, top) = chain_in(layers, &cache);
    let mut asked = [0; 2];
    let count = || layers.iter().map(|layer| layer.times_asked()).sum::<u64>();
    for pass in &mut asked {
        let before = count();
        for at in (0..size).step_by(4096) {
            assert!(!map.resolve(top, at..at + 4096).is_empty());
        }
        *pass = count() - before;
    }
    println!("asked {asked:?} times, {} bytes kept", cache.used_bytes());
    (asked, cache.used_bytes())
}

/// Layers of which each holds every second cluster, odd and even ones in turn.
fn checkered(layers: u64, size: u64, cluster: u64) -> Vec<Arc<MemoryLayer>> {
    let layer = |rank: u64| {
        let numbers = (rank % 2..size / cluster).step_by(2).collect();
        fine(size, cluster, numbers)
    };
    (0..layers).map(layer).collect()
}

#[test]
fn three_hundred_layers_of_every_second_4_kib_cluster_are_asked_once() {
    let size = 32 << 20;
    let layers = checkered(300, size, 4096);
    let regions = size / (2 << 20);
    let (asked, kept) = two_passes(&layers, size);
    assert_eq!(asked, [300 * regions, 0]);
    assert!(kept >= 300 * size / 4096 / 2 * 24, "an entry has 24 bytes: {kept}");
}

#[test]
fn a_year_of_fully_written_512_byte_clusters_is_not_asked_for_each_read() {
    // More than the budget holds: but what a reader is about to read next stays, or nearly always.
    let size = 4 << 20;
    let layers: Vec<_> = (0..365).map(|_| fine(size, 512, (0..size / 512).collect())).collect();
    let (asked, _) = two_passes(&layers, size);
    let once = 365 * size / (256 << 10);
    for asked in asked {
        assert!(asked <= once * 3 / 2, "{asked} times instead of {once}");
    }
}
