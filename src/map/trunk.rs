//! A tree of layers taken apart into trunks, so that one history serves a whole line of ranks.

#![expect(clippy::indexing_slicing, reason = "parents are checked before anything is indexed")]

use super::{Node, NodeId, NotATree};

/// Where a node is: its trunk, and its rank there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) trunk: u32,
    pub(super) rank: u32,
}

/// A path downwards through the tree.
#[derive(Debug)]
pub(super) struct Trunk {
    /// By rank: each the parent of the next.
    pub(super) nodes: Vec<NodeId>,
    /// The parent of the first one.
    pub(super) below: Option<Place>,
}

/// Every node in one trunk. A trunk goes on into the child with the most descendants: whoever
/// leaves it for another child is left with less than half of the nodes, so that no node has more
/// than log2(nodes) trunks below it.
#[derive(Debug)]
pub(super) struct Trunks {
    pub(super) trunks: Vec<Trunk>,
    pub(super) places: Vec<Place>,
}

impl Trunks {
    pub(super) fn new(nodes: &[Node]) -> Result<Self, NotATree> {
        let heirs = heirs(&parents(nodes)?);
        let mut made = Self { trunks: Vec::new(), places: Vec::with_capacity(nodes.len()) };
        for (id, node) in (0..).map(NodeId).zip(nodes) {
            let below = node.parent.map(|parent| made.places[parent.index()]);
            let is_heir = node.parent.is_some_and(|parent| heirs[parent.index()] == Some(id));
            let place = match below {
                Some(below) if is_heir => Place { rank: below.rank + 1, ..below },
                _ => made.new_trunk(below),
            };
            made.trunks[place.trunk as usize].nodes.push(id);
            made.places.push(place);
        }
        Ok(made)
    }

    #[expect(clippy::cast_possible_truncation, reason = "there are at most as many as nodes")]
    fn new_trunk(&mut self, below: Option<Place>) -> Place {
        self.trunks.push(Trunk { nodes: Vec::new(), below });
        Place { trunk: self.trunks.len() as u32 - 1, rank: 0 }
    }
}

/// The parent of each node, once it is sure that each comes before its child.
fn parents(nodes: &[Node]) -> Result<Vec<Option<NodeId>>, NotATree> {
    let check = |(node, held): (usize, &Node)| match held.parent {
        Some(parent) if parent.index() >= node => Err(NotATree { node }),
        _ if u32::try_from(node).is_err() => Err(NotATree { node }),
        parent => Ok(parent),
    };
    nodes.iter().enumerate().map(check).collect()
}

/// For each node the child that its trunk goes on into.
fn heirs(parents: &[Option<NodeId>]) -> Vec<Option<NodeId>> {
    let mut descendants = vec![1_u64; parents.len()];
    for (node, parent) in parents.iter().enumerate().rev() {
        if let Some(parent) = parent {
            descendants[parent.index()] += descendants[node];
        }
    }
    let mut heirs: Vec<Option<NodeId>> = vec![None; parents.len()];
    for (id, parent) in (0..).map(NodeId).zip(parents) {
        if let Some(parent) = parent {
            let heir = &mut heirs[parent.index()];
            let most = heir.map_or(0, |heir| descendants[heir.index()]);
            if descendants[id.index()] > most {
                *heir = Some(id);
            }
        }
    }
    heirs
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::layer::MemoryLayer;

    fn tree(parents: &[Option<u32>]) -> Result<Trunks, NotATree> {
        let layer = Arc::new(MemoryLayer::new("layer", 0, &[], Vec::new()).unwrap());
        let node = |parent: &Option<u32>| Node { layer: layer.clone(), parent: parent.map(NodeId) };
        Trunks::new(&parents.iter().map(node).collect::<Vec<_>>())
    }

    #[test]
    fn the_trunk_goes_on_into_the_child_with_the_most_descendants() {
        let trunks = tree(&[None, Some(0), Some(0), Some(2), None]).unwrap();
        let nodes: Vec<_> = trunks.trunks.iter().map(|trunk| trunk.nodes.clone()).collect();
        assert_eq!(
            nodes,
            [vec![NodeId(0), NodeId(2), NodeId(3)], vec![NodeId(1)], vec![NodeId(4)]]
        );
        assert_eq!(trunks.trunks[1].below, Some(Place { trunk: 0, rank: 0 }));
        assert_eq!(trunks.trunks[2].below, None);
    }

    #[test]
    fn a_parent_that_does_not_come_first_is_refused() {
        assert_eq!(tree(&[None, Some(1)]).unwrap_err().node, 1);
        assert_eq!(tree(&[Some(7)]).unwrap_err().node, 0);
    }

    #[test]
    fn no_node_of_a_full_binary_tree_has_more_than_log2_trunks_below_it() {
        let parents: Vec<_> =
            (0..1023_u32).map(|node| node.checked_sub(1).map(|n| n / 2)).collect();
        let trunks = tree(&parents).unwrap();
        for place in &trunks.places {
            let below = |place: &Place| trunks.trunks[place.trunk as usize].below;
            assert!(std::iter::successors(Some(*place), below).count() <= 10);
        }
    }
}
