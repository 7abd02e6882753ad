//! The flattened maps of whole trees of layers: built lazily, kept, bounded.
//!
//! A reader of a checkpoint wants to know, for each byte, the one layer of its chain that has the
//! last word on it. Asking the chain from top to bottom costs the depth of the chain for every
//! read; keeping a flat map per checkpoint costs checkpoints x disk. So:
//!
//! - the tree is taken apart into *trunks* (paths; a query crosses at most log2(nodes) of them),
//!   and guest space into *regions* of [`REGION`] bytes;
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

mod cache;
mod flat;
mod history;
#[cfg(test)]
mod history_tests;
mod lay;
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
pub use piece::{Piece, Resolved};

#[cfg(doc)]
use crate::extent::Fault;
use crate::layer::Layer;

/// Bytes of guest space that are mapped at a time: a part of what one L2 table reaches, so that a
/// first touch reads no more tables than it must, and small enough to be kept or dropped whole.
pub const REGION: NonZeroU32 = match NonZeroU32::new(32 << 20) {
    Some(bytes) => bytes,
    None => NonZeroU32::MIN,
};

/// What an allocation costs beyond its bytes.
const ALLOCATION: usize = 16;

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
