//! What the disks of an earlier tree leave to those of a later one.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use crate::chain::catalog::Left;
use crate::layer::Layer;
use crate::map::{ChainMap, NodeId};
use crate::view::DiskImage;

/// What a layer is made of: two of the same say the same. Files go by the numbers that no other
/// opened file has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum LayerKey {
    Qcow2 { file: u64, snapshot: Option<usize>, data: Option<u64>, left: Left },
    Stream { file: u64 },
    Raw { file: u64, is_increment: bool },
    Lost { path: PathBuf, size: Option<u64> },
}

/// A layer of a map, and the one below it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct NodeKey {
    pub(super) layer: LayerKey,
    pub(super) parent: Option<NodeId>,
}

/// The layers, maps and disks that there are.
#[derive(Default)]
pub(super) struct Made {
    pub(super) layers: HashMap<LayerKey, Arc<dyn Layer>>,
    maps: HashMap<Vec<NodeKey>, Arc<ChainMap>>,
    disks: HashMap<Line, Arc<DiskImage>>,
}

/// All layers that a disk is made of, from the bottom up, in a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Line(u64);

impl Line {
    /// The line of a layer over another line.
    pub(super) fn over(below: Option<Self>, layer: &LayerKey) -> Self {
        let mut hash = DefaultHasher::new();
        (below, layer).hash(&mut hash);
        Self(hash.finish())
    }
}

impl Made {
    /// A layer that was made before.
    pub(super) fn layer(&self, key: &LayerKey) -> Option<Arc<dyn Layer>> {
        self.layers.get(key).cloned()
    }

    /// The map of exactly these layers.
    pub(super) fn map(&self, nodes: &[NodeKey]) -> Option<Arc<ChainMap>> {
        self.maps.get(nodes).cloned()
    }

    pub(super) fn keep_map(&mut self, nodes: Vec<NodeKey>, map: &Arc<ChainMap>) {
        self.maps.insert(nodes, Arc::clone(map));
    }

    pub(super) fn keep_disk(&mut self, line: Line, disk: &Arc<DiskImage>) {
        self.disks.insert(line, Arc::clone(disk));
    }

    /// The disk itself if it was made before; if only its map is another, `new` with all that was
    /// found out about the same bytes.
    pub(super) fn disk(&self, line: Line, new: DiskImage) -> Arc<DiskImage> {
        match self.disks.get(&line) {
            Some(old) if old.is_same_disk(&new) => Arc::clone(old),
            Some(old) => Arc::new(new.knowing_what_is_known_of(old)),
            None => Arc::new(new),
        }
    }
}
