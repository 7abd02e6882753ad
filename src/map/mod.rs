//! The flattened maps of whole trees of layers: built lazily, kept, bounded.
//!
//! A reader of a checkpoint wants to know, for each byte, the one layer of its chain that has the
//! last word on it. Asking the chain from top to bottom costs the depth of the chain for every
//! read; keeping a flat map per checkpoint costs checkpoints x disk. So:
//!
//! - the tree is taken apart into *trunks* (paths; a query crosses at most log2(nodes) of them),
//!   and guest space into *regions* of a size that suits how finely the layers are cut;
//! - one `RegionHistory` per (trunk, region) answers (offset, rank) for every rank of
//!   the trunk. Its memory grows with the extents of the layers alone, and a look-up takes three
//!   short searches whatever the rank;
//! - a history knows the ranks up to the highest that was asked for, and is extended from there,
//!   one layer after the other: each layer is asked once per region. Layers are asked outside of
//!   all locks; of two threads that asked at the same time the later one's answer is dropped;
//! - all histories of all maps live in one [`MapCache`] of bounded size. Eviction only costs
//!   building again;
//! - tables that could not be read ([`Fault::Unreadable`]) are an answer for the one query: they
//!   are laid onto a copy of the history that is then dropped. Other faults are facts about the
//!   file, and are kept.
//!
//! # Sizes
//!
//! A layer has no word past its virtual size; what lies there is zeros for it and for all above
//! it, until one of them says otherwise. So a disk that grew reads zeros past its parent's end, and
//! what was cut off by a shrinking layer never comes back.
//!
//! # Regions
//!
//! A region is what is asked for, kept and dropped as a whole. It is as large as 512 of the
//! finest extents that any layer of the map can speak of ([`Layer::granularity`]): of such a region
//! each layer reads a few KiB of an L2 table, and adds less than 24 KiB to its history, however
//! small its clusters are. A history that outgrew the cache would be built anew for each query:
//! with the usual budget of 64 MiB that takes thousands of layers each of which wrote all of the
//! region.

mod cache;
mod flat;
mod history;
#[cfg(test)]
mod history_tests;
mod lay;
mod origin;
mod overlay;
mod page;
mod piece;
mod said;
mod trunk;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

pub use cache::MapCache;
pub use flat::ChainMap;
pub use origin::Origin;
pub use piece::{Piece, Resolved};

#[cfg(doc)]
use crate::extent::Fault;
use crate::layer::Layer;

/// The largest region, which maps of layers in the usual clusters of 64 KiB have.
pub const LARGEST_REGION: NonZeroU32 = non_zero(32 << 20);

/// The smallest region: less would make more regions than their fixed cost is worth.
pub const SMALLEST_REGION: NonZeroU32 = non_zero(256 << 10);

/// How many of the finest extents a region has room for.
const EXTENTS: u64 = 512;

/// What an allocation costs beyond its bytes.
const ALLOCATION: usize = 16;

const fn non_zero(bytes: u32) -> NonZeroU32 {
    match NonZeroU32::new(bytes) {
        Some(bytes) => bytes,
        None => NonZeroU32::MIN,
    }
}

/// The size of the regions of a map of layers of these granularities (bytes): a power of two.
fn region_for(granularities: impl Iterator<Item = u64>) -> NonZeroU32 {
    let finest = granularities.min().unwrap_or(u64::MAX);
    let wanted = finest.saturating_mul(EXTENTS).min(LARGEST_REGION.get().into());
    let wanted = u32::try_from(wanted).unwrap_or(LARGEST_REGION.get());
    // The next power of two of at most 32 MiB is at most that.
    wanted.checked_next_power_of_two().map_or(LARGEST_REGION, non_zero).max(SMALLEST_REGION)
}

/// A layer of a [`ChainMap`]: its index in the list that the map was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// A layer, and the one below it.
#[derive(Clone)]
pub struct Node {
    /// The layer.
    pub layer: Arc<dyn Layer>,
    /// What lies below it: a node that comes before this one.
    pub parent: Option<NodeId>,
}

/// A list of nodes in which one does not come after its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotATree {
    /// Index of that node.
    pub node: usize,
}

impl fmt::Display for NotATree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {} does not come after the one below it", self.node)
    }
}

impl std::error::Error for NotATree {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_has_room_for_512_of_the_finest_extents_within_its_bounds() {
        let region = |granularities: &[u64]| region_for(granularities.iter().copied()).get();
        assert_eq!(region(&[64 << 10]), 32 << 20);
        assert_eq!(region(&[64 << 10, 4096, 2 << 20]), 2 << 20);
        assert_eq!(region(&[512]), 256 << 10);
        assert_eq!(region(&[1]), 256 << 10);
        assert_eq!(region(&[0]), 256 << 10);
        assert_eq!(region(&[3000]), 2 << 20, "a power of two");
        assert_eq!(region(&[2 << 20]), 32 << 20);
        assert_eq!(region(&[u64::MAX]), 32 << 20);
        assert_eq!(region(&[]), 32 << 20);
    }
}
