//! What a view holds, in numbers.

use serde::Serialize;

use super::Tree;
use super::missing::Missing;
use crate::chain::catalog::State;
use crate::chain::inventory::Why;
use crate::chain::place::Kind;
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
    /// Of these: backups that were never finished, which nobody misses.
    pub unfinished: usize,
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
        let unreadable =
            self.catalog.skipped().iter().filter(|skipped| skipped.why == Why::Fault).count();
        let mut counts = Counts { disks: self.plan.disks.len(), unreadable, ..Counts::default() };
        for (id, _) in self.plan.disks.iter().flat_map(|disk| &disk.checkpoints) {
            let is_shown = self.images.shown(&self.catalog, *id).is_ok();
            let checkpoint = self.catalog.checkpoint(*id);
            let count = match (checkpoint.kind, is_shown, &checkpoint.state) {
                (Kind::Partial, ..) => &mut counts.unfinished,
                (_, false, _) => &mut counts.broken,
                (_, true, State::Whole) => &mut counts.whole,
                (_, true, _) => &mut counts.incomplete,
            };
            *count += 1;
            counts.checkpoints += 1;
        }
        counts
    }

    /// What of the source the view does not show, in words; `None` if it shows all of it.
    pub fn shortfall(&self) -> Option<String> {
        let counts = self.counts();
        let mut parts = Vec::new();
        if counts.disks == 0 {
            parts.push("no VM-disk backup was found".to_owned());
        }
        if counts.broken > 0 {
            parts.push(format!("restore points that cannot be shown: {}", counts.broken));
        }
        if counts.incomplete > 0 {
            let reads = match self.images.missing() {
                Missing::Zero => "reads as zeros",
                Missing::Hide | Missing::Eio => "cannot be read",
            };
            parts.push(format!(
                "restore points of which something is lost, which {reads}: {}",
                counts.incomplete
            ));
        }
        if counts.unreadable > 0 {
            parts.push(format!("files or folders that cannot be read: {}", counts.unreadable));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// How the caches are used now.
    pub fn caches_use(&self) -> CachesUse {
        CachesUse { maps: self.caches.maps.usage(), data: self.caches.clusters.usage() }
    }
}
