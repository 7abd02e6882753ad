//! How often a cache had what was asked for.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Counted without order between threads: nothing but the sums is ever looked at.
#[derive(Debug, Default)]
pub(crate) struct Hits {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Hits {
    pub(crate) fn count(&self, is_hit: bool) {
        let counter = if is_hit { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn of_cache(&self, bytes: u64, capacity: u64) -> CacheUse {
        let (hits, misses) =
            (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed));
        CacheUse { bytes, capacity, hits, misses }
    }
}

/// How a cache is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CacheUse {
    /// Memory that it has now, bytes.
    pub bytes: u64,
    /// Memory that it may have, bytes.
    pub capacity: u64,
    /// How often it had what was asked for.
    pub hits: u64,
    /// How often it had not.
    pub misses: u64,
}
