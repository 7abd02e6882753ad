//! The bounded memory that all disks of a view share.

use std::sync::Arc;

use crate::layer::clusters::ClusterCache;
use crate::map::MapCache;

/// How many bytes each cache may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSizes {
    /// Of region maps.
    pub maps: u64,
    /// Of decompressed clusters and blocks of tables.
    pub data: u64,
}

impl CacheSizes {
    /// Less would keep hardly one large cluster, and do everything twice.
    pub const LEAST: u64 = 1 << 20;
}

impl Default for CacheSizes {
    /// Together with all else that a daemon takes, less than 96 MiB of a machine's 128 MiB. So many
    /// maps hold the hardest chain of `tests/map_cost.rs`.
    fn default() -> Self {
        Self { maps: 48 << 20, data: 32 << 20 }
    }
}

/// What all disks of a view share.
#[derive(Clone)]
pub struct Caches {
    /// Region maps.
    pub maps: Arc<MapCache>,
    /// Decompressed clusters and blocks of tables.
    pub clusters: Arc<ClusterCache>,
}

impl Caches {
    /// Empty caches of these sizes.
    pub fn new(sizes: CacheSizes) -> Self {
        Self {
            maps: Arc::new(MapCache::new(sizes.maps)),
            clusters: Arc::new(ClusterCache::new(sizes.data)),
        }
    }
}
