//! The one bounded memory that all maps share.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::ALLOCATION;
use super::history::RegionHistory;
use crate::hits::{CacheUse, Hits};

/// A history that is being built; whoever reads it shares the lock.
pub(super) type Cell = RwLock<RegionHistory>;

/// What a history is kept under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RegionKey {
    pub(super) map: u64,
    pub(super) region: u64,
    pub(super) trunk: u32,
}

/// A cell, and what it weighed when it was put here: the cache asks again when it takes it out,
/// and must be told the same.
#[derive(Debug, Clone)]
struct Held {
    cell: Arc<Cell>,
    weight: u64,
}

impl Held {
    fn new(cell: &Arc<Cell>) -> Self {
        let weight = (cell.read_recursive().bytes() + AROUND) as u64;
        Self { cell: Arc::clone(cell), weight }
    }
}

/// What a cell costs beyond its history: lock, counters, and its place in the cache's tables.
const AROUND: usize =
    size_of::<Cell>() - size_of::<RegionHistory>() + 3 * ALLOCATION + 2 * size_of::<RegionKey>();

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<RegionKey, Held> for Weight {
    fn weight(&self, _: &RegionKey, held: &Held) -> u64 {
        held.weight
    }
}

/// Bounds the memory of all maps that are made with it; what was used least goes first, and is
/// built again when it is needed.
pub struct MapCache {
    cells: Cache<RegionKey, Held, Weight>,
    maps: AtomicU64,
    hits: Hits,
}

impl MapCache {
    /// At most `bytes` of memory are kept. What does not fit is served and forgotten.
    pub fn new(bytes: u64) -> Self {
        // A shard keeps nothing that is larger than itself, and chance may give it more than its
        // part of the histories: so there are few, and only one of a usual budget.
        let shards = usize::try_from(bytes >> 26).unwrap_or(usize::MAX).clamp(1, 16);
        let items = usize::try_from(bytes >> 14).unwrap_or(usize::MAX).clamp(32, 1 << 20);
        let mut options = OptionsBuilder::new();
        options.shards(shards).estimated_items_capacity(items).weight_capacity(bytes);
        let hash = DefaultHashBuilder::default();
        let cells = match options.build() {
            Ok(options) => Cache::with_options(options, Weight, hash, DefaultLifecycle::default()),
            Err(_) => Cache::with(items, bytes, Weight, hash, DefaultLifecycle::default()),
        };
        Self { cells, maps: AtomicU64::new(0), hits: Hits::default() }
    }

    /// Bytes of memory that are kept now.
    pub fn used_bytes(&self) -> u64 {
        self.cells.weight()
    }

    /// How it is used: a hit is a region whose map was there already.
    pub fn usage(&self) -> CacheUse {
        self.hits.of_cache(self.cells.weight(), self.cells.capacity())
    }

    /// A number for a new map.
    pub(super) fn new_map(&self) -> u64 {
        self.maps.fetch_add(1, Ordering::Relaxed)
    }

    /// The cell under `key`, made of `history` if there is none: the same one for all who ask at
    /// the same time.
    pub(super) fn cell(
        &self,
        key: &RegionKey,
        history: impl FnOnce() -> RegionHistory,
    ) -> Arc<Cell> {
        let mut is_hit = true;
        let fresh = || {
            is_hit = false;
            Ok::<_, Infallible>(Held::new(&Arc::new(RwLock::new(history()))))
        };
        let Ok(held) = self.cells.get_or_insert_with(key, fresh);
        self.hits.count(is_hit);
        held.cell
    }

    /// Keeps `cell`, which has grown, and lets others go for it.
    pub(super) fn keep(&self, key: RegionKey, cell: &Arc<Cell>) {
        // While this lock is held nobody grows the cell, so that of several who keep it the last
        // one knows its true weight.
        let _shared = cell.read();
        self.cells.insert(key, Held::new(cell));
    }

    /// Forgets a map that is gone.
    pub(super) fn forget(&self, map: u64) {
        self.cells.retain(|key, _| key.map != map);
    }
}
