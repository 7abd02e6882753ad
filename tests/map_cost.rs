//! What maps cost: counted questions and bytes, no clocks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;

use qcowfs::extent::{Extent, HostOffset, Slot, Word};
use qcowfs::layer::MemoryLayer;
use qcowfs::map::{ChainMap, MapCache, Node, NodeId, REGION};

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
fn clusters(size: u64, cluster: u64, mut numbers: Vec<u64>) -> Arc<MemoryLayer> {
    numbers.sort_unstable();
    numbers.dedup();
    let extent = |(at, number): (u64, u64)| Extent {
        range: number * cluster..(number + 1) * cluster,
        // Two units apart, so that neighbours are not one extent.
        word: Word::At(Slot::Host(HostOffset(2 * at * cluster))),
    };
    let extents: Vec<_> = (0..).zip(numbers).map(extent).collect();
    Arc::new(MemoryLayer::new("layer", size, &extents, Vec::new()).unwrap())
}

/// One extent over all of the disk.
fn wide(size: u64) -> Arc<MemoryLayer> {
    let word = Word::At(Slot::Host(HostOffset(0)));
    let extents = [Extent { range: 0..size, word }];
    Arc::new(MemoryLayer::new("layer", size, &extents, Vec::new()).unwrap())
}

fn chain(layers: &[Arc<MemoryLayer>]) -> (ChainMap, Arc<MapCache>) {
    let cache = Arc::new(MapCache::new(1 << 30));
    let parents = std::iter::once(None).chain((0..).map(|parent| Some(NodeId(parent))));
    let node = |(layer, parent): (&Arc<MemoryLayer>, _)| Node { layer: layer.clone(), parent };
    let nodes = layers.iter().zip(parents).map(node).collect();
    (ChainMap::new(nodes, cache.clone()).unwrap(), cache)
}

/// Resolves every region of every checkpoint, in a scattered order.
fn touch_all(map: &ChainMap, layers: usize, size: u64) {
    let region = u64::from(REGION.get());
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
    let regions = size.div_ceil(u64::from(REGION.get()));
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
    let size = 4 * u64::from(REGION.get());
    let region = u64::from(REGION.get()) / CLUSTER;
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
    let size = u64::from(REGION.get());
    let fine = clusters(size, 4096, (0..size / 4096).collect());
    assert!(bytes_per_extent(&[fine], size, size / 4096) <= 30);
}

#[test]
fn wide_layers_over_and_under_finely_cut_ones_stay_linear() {
    let size = u64::from(REGION.get());
    let fine = || clusters(size, 4096, (0..size / 4096).collect());
    let mut layers: Vec<_> = (0..200).map(|_| wide(size)).collect();
    layers.push(fine());
    assert!(bytes_per_extent(&layers, size, size / 4096 + 200) <= 60);
    let layers: Vec<_> = (0..20).flat_map(|_| [fine(), wide(size)]).collect();
    assert!(bytes_per_extent(&layers, size, 20 * (size / 4096 + 1)) <= 60);
}

#[test]
fn a_fine_grained_year_of_512_byte_clusters_is_kept_in_100_bytes_each() {
    let size = u64::from(REGION.get());
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    let mut day = |_| clusters(size, 512, (0..200).map(|_| random.below(size / 512)).collect());
    let layers: Vec<_> = std::iter::once(wide(size)).chain((1..365).map(&mut day)).collect();
    assert!(bytes_per_extent(&layers, size, 364 * 200) <= 100);
}

#[test]
fn layers_that_say_nothing_cost_nothing() {
    let size = u64::from(REGION.get());
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
    let size = 16 * u64::from(REGION.get());
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
