//! Decompressed clusters and blocks of tables, kept for all readers within a bound of bytes.
//!
//! Clusters that can be unpacked by themselves live in a cache that evicts what is used least.
//! Such a cache drops what is new and was used once before anything else. But who unpacks a chunk
//! block after block needs exactly the newest block for the next one: so blocks first pass
//! through a queue, which drops none of them before it was overtaken by many others.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::error::Result;
use crate::hits::{CacheUse, Hits};

/// The largest cluster of any format (qcow2: 2 MiB).
const LARGEST_CLUSTER: u64 = 2 << 20;
/// The usual one, from which the number of entries is estimated.
const USUAL_CLUSTER: u64 = 64 << 10;

/// Which part of which file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterKey {
    /// The opened file: a number that no other opened file has.
    pub file: u64,
    /// What of it.
    pub part: Part,
}

impl ClusterKey {
    /// A number that no other opened file has.
    pub fn new_file() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }
}

/// The part of all bytes that the queue has.
const QUEUE_PART: u64 = 8;
/// The longest queue: it is searched from end to end.
const QUEUE_LENGTH: usize = 128;

/// What is kept of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// A compressed cluster, by what the file's layers call it ([`crate::extent::Slot::Packed`]):
    /// what it unpacks to.
    Packed(u64),
    /// Bytes of a table, as they are in the file.
    Table {
        /// Where in the file.
        offset: u64,
        /// How many were asked for: the file may have fewer.
        len: u64,
    },
}

/// A bounded cache of decompressed clusters and blocks of tables, shared by all layers and
/// threads.
pub struct ClusterCache {
    clusters: Cache<ClusterKey, Arc<[u8]>, Bytes>,
    newest: Mutex<Queue>,
    hits: Hits,
}

/// The newest blocks, in the order they came.
struct Queue {
    blocks: VecDeque<(ClusterKey, Arc<[u8]>)>,
    bytes: u64,
    capacity: u64,
}

impl Queue {
    fn get(&self, key: &ClusterKey) -> Option<Arc<[u8]>> {
        let mut blocks = self.blocks.iter().rev();
        blocks.find(|(of, _)| of == key).map(|(_, block)| Arc::clone(block))
    }

    fn push(&mut self, key: ClusterKey, block: Arc<[u8]>) {
        self.bytes += block.len() as u64;
        self.blocks.push_back((key, block));
    }

    /// The oldest block, if there are too many.
    fn overtaken(&mut self) -> Option<(ClusterKey, Arc<[u8]>)> {
        if self.bytes <= self.capacity && self.blocks.len() <= QUEUE_LENGTH {
            return None;
        }
        let oldest = self.blocks.pop_front()?;
        self.bytes -= oldest.1.len() as u64;
        Some(oldest)
    }
}

#[derive(Debug, Clone, Copy)]
struct Bytes;

impl Weighter<ClusterKey, Arc<[u8]>> for Bytes {
    fn weight(&self, _: &ClusterKey, cluster: &Arc<[u8]>) -> u64 {
        cluster.len() as u64
    }
}

impl ClusterCache {
    /// A cache of at most `bytes` bytes of clusters. A cluster larger than that is handed out
    /// but not kept.
    pub fn new(bytes: u64) -> Self {
        let capacity = bytes / QUEUE_PART;
        let queue = Queue { blocks: VecDeque::new(), bytes: 0, capacity };
        let bytes = bytes - capacity;
        // Each shard has its part of the bytes and must have room for a few of the largest.
        let shards = usize::try_from(bytes / (4 * LARGEST_CLUSTER)).unwrap_or(64).clamp(1, 64);
        let shards = 1 << shards.ilog2();
        let items = usize::try_from(bytes / USUAL_CLUSTER).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        let mut options = OptionsBuilder::new();
        options.shards(shards).estimated_items_capacity(items).weight_capacity(bytes);
        let clusters = match options.build() {
            Ok(options) => Cache::with_options(
                options,
                Bytes,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
            // Only without the two sizes that are given above.
            Err(_) => Cache::with_weighter(items, bytes, Bytes),
        };
        Self { clusters, newest: Mutex::new(queue), hits: Hits::default() }
    }

    /// The block, if it is kept.
    pub fn get(&self, key: &ClusterKey) -> Option<Arc<[u8]>> {
        let newest = self.newest.lock().get(key);
        let found = newest.or_else(|| self.clusters.get(key));
        self.hits.count(found.is_some());
        found
    }

    /// Keeps a block that was not kept: the next ones may need it to be unpacked.
    pub fn insert(&self, key: ClusterKey, block: Arc<[u8]>) {
        let mut newest = self.newest.lock();
        newest.push(key, block);
        while let Some((key, block)) = newest.overtaken() {
            self.clusters.insert(key, block);
        }
    }

    /// The cluster from the cache, or else from `unpack`, which runs without any lock: only who
    /// wants the same cluster waits for it. An error is not remembered.
    pub fn get_or_try_insert_with(
        &self,
        key: ClusterKey,
        unpack: impl FnOnce() -> Result<Arc<[u8]>>,
    ) -> Result<Arc<[u8]>> {
        let mut is_hit = true;
        let unpack = || {
            is_hit = false;
            unpack()
        };
        let found = self.clusters.get_or_insert_with(&key, unpack);
        self.hits.count(is_hit);
        found
    }

    /// How it is used: a hit is a cluster or a block that was there already.
    pub fn usage(&self) -> CacheUse {
        self.hits.of_cache(self.bytes(), self.newest.lock().capacity + self.clusters.capacity())
    }

    /// Bytes of the clusters and blocks that are kept just now.
    pub fn bytes(&self) -> u64 {
        self.newest.lock().bytes + self.clusters.weight()
    }
}

impl fmt::Debug for ClusterCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CacheUse { bytes, capacity, .. } = self.usage();
        write!(f, "ClusterCache({bytes} of {capacity} bytes)")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::error::Error;

    fn key(token: u64) -> ClusterKey {
        ClusterKey { file: 1, part: Part::Packed(token) }
    }

    fn cluster(byte: u8, len: usize) -> Arc<[u8]> {
        vec![byte; len].into()
    }

    #[test]
    fn a_cluster_is_unpacked_once() {
        let cache = ClusterCache::new(1 << 20);
        cache.get_or_try_insert_with(key(1), || Ok(cluster(1, 4096))).unwrap();
        let again = cache.get_or_try_insert_with(key(1), || panic!("it is there")).unwrap();
        assert_eq!(again[0], 1);
        assert_eq!(cache.bytes(), 4096);
    }

    #[test]
    fn the_same_token_of_two_files_is_two_clusters() {
        let cache = ClusterCache::new(1 << 20);
        for file in [1, 2] {
            let key = ClusterKey { file, part: Part::Packed(9) };
            let byte = u8::try_from(file).unwrap();
            let got = cache.get_or_try_insert_with(key, || Ok(cluster(byte, 512))).unwrap();
            assert_eq!(got[0], byte);
        }
    }

    #[test]
    fn a_table_is_never_taken_for_the_cluster_whose_token_is_its_offset() {
        let cache = ClusterCache::new(1 << 20);
        let parts = [Part::Packed(512), Part::Table { offset: 512, len: 8 }];
        for (part, byte) in parts.into_iter().zip(1..) {
            let key = ClusterKey { file: 1, part };
            let got = cache.get_or_try_insert_with(key, || Ok(cluster(byte, 8))).unwrap();
            assert_eq!(got[0], byte);
        }
    }

    #[test]
    fn an_error_is_not_remembered() {
        let cache = ClusterCache::new(1 << 20);
        let failed = cache.get_or_try_insert_with(key(1), || Err(Error::Usage("no".into())));
        assert!(failed.is_err());
        assert!(cache.get_or_try_insert_with(key(1), || Ok(cluster(1, 512))).is_ok());
    }

    #[test]
    fn the_bound_holds_for_all_sizes_of_clusters() {
        for bound in [0, 1 << 20, 8 << 20, 64 << 20] {
            let cache = ClusterCache::new(bound);
            for token in 0..200 {
                let len = if token % 3 == 0 { 2 << 20 } else { 4096 };
                cache.get_or_try_insert_with(key(token), || Ok(cluster(0, len))).unwrap();
                assert!(cache.bytes() <= bound, "{} of {bound}", cache.bytes());
            }
        }
    }

    #[test]
    fn the_bound_holds_for_blocks_too() {
        for bound in [0, 1 << 20, 8 << 20, 64 << 20] {
            let cache = ClusterCache::new(bound);
            for token in 0..400 {
                let len = if token % 7 == 0 { 4 << 20 } else { 64 << 10 };
                cache.insert(key(token), cluster(0, len));
                assert!(cache.bytes() <= bound, "{} of {bound}", cache.bytes());
            }
        }
    }

    #[test]
    fn a_new_block_outlives_many_others_in_a_full_cache() {
        let cache = ClusterCache::new(64 << 20);
        // What was used again is worth more to the cache than what is new.
        for token in 0..1000 {
            cache.insert(key(token), cluster(0, 64 << 10));
            assert!(cache.get(&key(token)).is_some());
        }
        for _ in 0..3 {
            (0..1000).for_each(|token| drop(cache.get(&key(token))));
        }
        for token in 2000..3000 {
            cache.insert(key(token), cluster(1, 64 << 10));
            for recent in (token - 50).max(2000)..=token {
                assert!(cache.get(&key(recent)).is_some(), "{recent} of {token}");
            }
        }
    }

    #[test]
    fn the_largest_clusters_are_kept_in_a_small_cache() {
        let cache = ClusterCache::new(8 << 20);
        for _ in 0..2 {
            cache.get_or_try_insert_with(key(5), || Ok(cluster(0, 2 << 20))).unwrap();
        }
        assert_eq!(cache.bytes(), 2 << 20);
    }

    #[test]
    fn two_clusters_are_unpacked_at_the_same_time() {
        let cache = ClusterCache::new(1 << 20);
        // Each waits for the other within its unpacking: a lock around it would never end.
        let both = Barrier::new(2);
        std::thread::scope(|scope| {
            for token in 0..2 {
                let (cache, both) = (&cache, &both);
                scope.spawn(move || {
                    cache.get_or_try_insert_with(key(token), || {
                        both.wait();
                        Ok(cluster(0, 512))
                    })
                });
            }
        });
        assert_eq!(cache.bytes(), 1024);
    }
}
