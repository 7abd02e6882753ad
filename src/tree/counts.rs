//! What a view holds, in numbers.

use serde::Serialize;

use super::Tree;
use crate::chain::catalog::State;
use crate::hits::CacheUse;

/// Disks and restore points of a view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Disks.
    pub disks: usize,
    /// Restore points of all disks.
    pub checkpoints: usize,
    /// Of these: whole.
    pub whole: usize,
    /// Of these: without a disk, and with the reason instead.
    pub broken: usize,
    /// Of these: shown, although something of them is lost.
    pub incomplete: usize,
    /// Files and folders of the source that could not be read.
    pub unreadable: usize,
}

/// How the caches of a view are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CachesUse {
    /// The maps of the disks.
    pub maps: CacheUse,
    /// Tables and decompressed data.
    pub data: CacheUse,
}

impl Tree {
    /// Counts what there is.
    pub fn counts(&self) -> Counts {
        let unreadable = self.catalog.skipped().iter().filter(|skipped| skipped.is_fault).count();
        let mut counts = Counts { disks: self.plan.disks.len(), unreadable, ..Counts::default() };
        for (id, _) in self.plan.disks.iter().flat_map(|disk| &disk.checkpoints) {
            let is_shown = self.images.shown(&self.catalog, *id).is_ok();
            let is_whole = self.catalog.checkpoint(*id).state == State::Whole;
            counts.checkpoints += 1;
            counts.whole += usize::from(is_whole && is_shown);
            counts.broken += usize::from(!is_shown);
            counts.incomplete += usize::from(is_shown && !is_whole);
        }
        counts
    }

    /// How the caches are used now.
    pub fn caches_use(&self) -> CachesUse {
        CachesUse { maps: self.caches.maps.usage(), data: self.caches.clusters.usage() }
    }
}
