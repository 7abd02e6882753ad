//! One tree of layers, flattened.

#![expect(clippy::indexing_slicing, reason = "nodes, trunks and ranks are checked when made")]

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::cache::{Cell, MapCache, RegionKey};
use super::history::RegionHistory;
use super::overlay::Laid;
use super::piece::{Piece, Resolved};
use super::said::Said;
use super::trunk::{Place, Trunk, Trunks};
use super::{Node, NodeId, NotATree, region_for};
use crate::extent::{Fault, Word, Words};
use crate::layer::Layer;

/// What every byte of every checkpoint of a tree of layers is.
pub struct ChainMap {
    layers: Vec<Arc<dyn Layer>>,
    parents: Vec<Option<NodeId>>,
    /// Upper estimates of what each node and those below it map, made when first asked for: a
    /// layer may have to read a table for its own.
    allocated: Vec<OnceLock<u64>>,
    trunks: Trunks,
    region: NonZeroU32,
    id: u64,
    cache: Arc<MapCache>,
}

/// The words of one layer for one region.
struct Gathered {
    laid: Vec<Laid>,
    /// Whether to remember them: what could not be read just now may be readable later.
    lasting: bool,
}

impl ChainMap {
    /// The map of one or more trees. Parents come before their children. The finer one of the
    /// layers can be cut, the smaller are the regions.
    pub fn new(nodes: Vec<Node>, cache: Arc<MapCache>) -> Result<Self, NotATree> {
        let region = region_for(nodes.iter().map(|node| node.layer.granularity()));
        Self::with_region(nodes, cache, region)
    }

    /// [`Self::new`] with regions of another size, for tests of what happens at their boundaries.
    pub fn with_region(
        nodes: Vec<Node>,
        cache: Arc<MapCache>,
        region: NonZeroU32,
    ) -> Result<Self, NotATree> {
        let trunks = Trunks::new(&nodes)?;
        let allocated = nodes.iter().map(|_| OnceLock::new()).collect();
        let parents = nodes.iter().map(|node| node.parent).collect();
        let layers = nodes.into_iter().map(|node| node.layer).collect();
        Ok(Self { layers, parents, allocated, trunks, region, id: cache.new_map(), cache })
    }

    /// A node's layer.
    ///
    /// # Panics
    ///
    /// Here as everywhere, if the node is not one of this map.
    pub fn layer(&self, node: NodeId) -> &Arc<dyn Layer> {
        &self.layers[node.index()]
    }

    /// An upper estimate of the bytes that a node and those below it map.
    pub fn allocated_at_most(&self, node: NodeId) -> u64 {
        let unknown: Vec<NodeId> = self
            .line(node)
            .take_while(|node| self.allocated[node.index()].get().is_none())
            .collect();
        let known = unknown.last().map_or(Some(node), |lowest| self.parents[lowest.index()]);
        let mut sum =
            known.and_then(|node| self.allocated[node.index()].get()).copied().unwrap_or(0);
        for node in unknown.into_iter().rev() {
            sum = self.layers[node.index()].allocated_at_most().saturating_add(sum);
            // Another thread found the same.
            sum = *self.allocated[node.index()].get_or_init(|| sum);
        }
        sum
    }

    /// A byte at or after `offset` before which a node reads as zeros: see [`Layer::empty_until`].
    pub fn empty_until(&self, node: NodeId, offset: u64) -> u64 {
        let mut next = u64::MAX;
        for node in self.line(node) {
            next = next.min(self.layers[node.index()].empty_until(offset));
            if next <= offset {
                // No layer can say less.
                return offset;
            }
        }
        next
    }

    /// A node and all below it, downwards.
    pub fn line(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        std::iter::successors(Some(node), |node| self.parents[node.index()])
    }

    /// Bytes in a region.
    pub fn region_size(&self) -> u64 {
        u64::from(self.region.get())
    }

    /// What `range` of the checkpoint `node` is: ascending, contiguous, exactly `range`. As long
    /// as its pieces are many: ask for about a region at a time.
    pub fn resolve(&self, node: NodeId, range: Range<u64>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let region = at / self.region_size();
            let end = self.region_range(region).end.min(range.end);
            self.resolve_within(region, node, &(at..end), &mut pieces);
            at = end;
        }
        pieces
    }

    /// Guest bytes of a region.
    fn region_range(&self, region: u64) -> Range<u64> {
        let start = region * self.region_size();
        start..start.saturating_add(self.region_size())
    }

    fn resolve_within(
        &self,
        region: u64,
        node: NodeId,
        part: &Range<u64>,
        pieces: &mut Vec<Piece>,
    ) {
        let start = self.region_range(region).start;
        let piece = |range: &Range<u32>, resolved| Piece {
            range: start + u64::from(range.start)..start + u64::from(range.end),
            resolved,
        };
        let mut found = Vec::new();
        let mut gaps = Vec::new();
        join_gap(&mut gaps, within(start, part.start)..within(start, part.end));
        let mut place = Some(self.trunks.places[node.index()]);
        while let Some(here) = place.filter(|_| !gaps.is_empty()) {
            let trunk = self.trunk(here);
            let mut deeper = Vec::new();
            self.with_history(here, region, |history| {
                for gap in &gaps {
                    history.pieces(here.rank, gap, |range, said| match resolved(trunk, said) {
                        Some(resolved) => found.push(piece(&range, resolved)),
                        None => join_gap(&mut deeper, range),
                    });
                }
            });
            gaps = deeper;
            place = trunk.below;
        }
        // Below the lowest layer there is nothing but zeros.
        found.extend(gaps.iter().map(|gap| piece(gap, Resolved::Zero)));
        found.sort_by_key(|piece| piece.range.start);
        for piece in found {
            piece.join(pieces);
        }
    }

    fn trunk(&self, place: Place) -> &Trunk {
        &self.trunks.trunks[place.trunk as usize]
    }

    /// Calls `look` with a history that is built up to `place`.
    fn with_history<R>(
        &self,
        place: Place,
        region: u64,
        look: impl FnOnce(&RegionHistory) -> R,
    ) -> R {
        let key = RegionKey { map: self.id, region, trunk: place.trunk };
        let cell = self.cache.cell(&key, || {
            let bottom = if self.trunk(place).below.is_some() { Said::BELOW } else { Said::ZERO };
            RegionHistory::new(self.region.get(), bottom)
        });
        {
            let history = cell.read();
            if history.built() > place.rank {
                return look(&history);
            }
        }
        let scratch = self.build(&cell, place, region);
        self.cache.keep(key, &cell);
        match scratch {
            Some(scratch) => look(&scratch),
            None => look(&cell.read()),
        }
    }

    /// Builds a cell up to `place`. If a layer on the way gives no lasting answer, the cell is
    /// left below that layer, and a copy that is to be dropped after use is returned.
    fn build(&self, cell: &Cell, place: Place, region: u64) -> Option<RegionHistory> {
        loop {
            let rank = cell.read().built();
            if rank > place.rank {
                return None;
            }
            let gathered = self.gather(Place { rank, ..place }, region);
            if !gathered.lasting {
                let scratch = cell.read().clone();
                return Some(self.build_scratch(scratch, place, region));
            }
            let mut history = cell.write();
            if history.built() == rank {
                history.lay(&gathered.laid);
            }
        }
    }

    fn build_scratch(
        &self,
        mut scratch: RegionHistory,
        place: Place,
        region: u64,
    ) -> RegionHistory {
        while scratch.built() <= place.rank {
            let next = Place { rank: scratch.built(), ..place };
            scratch.lay(&self.gather(next, region).laid);
        }
        scratch
    }

    /// Asks one layer for its words on one region.
    fn gather(&self, place: Place, region: u64) -> Gathered {
        let layer = self.layer(self.trunk(place).nodes[place.rank as usize]);
        let range = self.region_range(region);
        let end = layer.virtual_size().clamp(range.start, range.end);
        let mut laid = Vec::new();
        let mut lasting = true;
        if range.start < end {
            let mut words = Words::new(range.start..end);
            layer.words(&mut words);
            for extent in words.finish() {
                if extent.word == Word::Below {
                    continue;
                }
                lasting &= extent.word != Word::Bad(Fault::Unreadable);
                let len = extent.range.end - extent.range.start;
                laid.push(Laid {
                    range: within(range.start, extent.range.start)
                        ..within(range.start, extent.range.end),
                    said: Said::new(place.rank, extent.word, len),
                });
            }
        }
        if end < range.end {
            let rest = within(range.start, end)..within(range.start, range.end);
            laid.push(Laid { range: rest, said: Said::ZERO });
        }
        Gathered { laid, lasting }
    }
}

impl Drop for ChainMap {
    fn drop(&mut self) {
        self.cache.forget(self.id);
    }
}

/// What a trunk's layers make of a byte, unless they leave it to what lies below the trunk.
fn resolved(trunk: &Trunk, said: Said) -> Option<Resolved> {
    let layer = || trunk.nodes[said.layer as usize];
    match said.word() {
        Word::Below => None,
        Word::Zero => Some(Resolved::Zero),
        Word::At(slot) => Some(Resolved::At { layer: layer(), slot }),
        Word::Bad(fault) => Some(Resolved::Bad { layer: layer(), fault }),
    }
}

/// Where `offset`, which lies in the region that starts at `start` or at its end, lies in it.
#[expect(clippy::cast_possible_truncation, reason = "a region's size is a u32")]
fn within(start: u64, offset: u64) -> u32 {
    (offset - start) as u32
}

fn join_gap(gaps: &mut Vec<Range<u32>>, range: Range<u32>) {
    match gaps.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => gaps.push(range),
    }
}
