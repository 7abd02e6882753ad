//! Who has the last word on each byte of a checkpoint: the layers asked from the top, each once
//! for a range.
//!
//! A reader needs no more than the flattened map, in which zeros are zeros whoever says them. For
//! those who want to know the layout, this is the plain way: it costs the depth of the chain, and
//! keeps nothing.

use std::ops::Range;

use super::{ChainMap, NodeId};
use crate::extent::{Word, Words};

/// A range, never empty, and the layer that has the last word on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Guest bytes.
    pub range: Range<u64>,
    /// Layers above it: 0 is the checkpoint's own.
    pub depth: u32,
    /// The layer; if nobody says anything, the lowest one that reaches so far.
    pub layer: NodeId,
    /// What it says of the first byte. [`Word::Below`] if nobody says anything: zeros.
    pub word: Word,
}

impl ChainMap {
    /// Who has the last word on each byte of `range` of the checkpoint `node`: ascending,
    /// contiguous, exactly `range`.
    pub fn origins(&self, node: NodeId, range: Range<u64>) -> Vec<Origin> {
        let mut found = Vec::new();
        let mut gaps = vec![range];
        let mut above = None;
        for (layer, depth) in self.line(node).zip(0..) {
            let size = self.layer(layer).virtual_size();
            // What this layer does not reach was the end of the one above it.
            let (id, at) = above.unwrap_or((layer, depth));
            gaps.retain_mut(|gap| {
                let past = gap.start.max(size)..gap.end;
                if !past.is_empty() {
                    found.push(Origin { range: past, depth: at, layer: id, word: Word::Below });
                }
                gap.end = gap.end.min(size);
                !gap.is_empty()
            });
            gaps = self.ask(layer, depth, &gaps, &mut found);
            if gaps.is_empty() {
                break;
            }
            above = Some((layer, depth));
        }
        let (layer, depth) = above.unwrap_or((node, 0));
        let rest = gaps.into_iter();
        found.extend(rest.map(|range| Origin { range, depth, layer, word: Word::Below }));
        found.sort_by_key(|origin| origin.range.start);
        found
    }

    /// Adds what a layer says of the gaps, and returns those that it leaves.
    fn ask(
        &self,
        layer: NodeId,
        depth: u32,
        gaps: &[Range<u64>],
        found: &mut Vec<Origin>,
    ) -> Vec<Range<u64>> {
        let (Some(first), Some(last)) = (gaps.first(), gaps.last()) else { return Vec::new() };
        let mut words = Words::new(first.start..last.end);
        self.layer(layer).words(&mut words);
        let mut left: Vec<Range<u64>> = Vec::new();
        let mut gaps = gaps.iter().peekable();
        for extent in words.finish() {
            while let Some(gap) = gaps.peek() {
                let range = gap.start.max(extent.range.start)..gap.end.min(extent.range.end);
                if !range.is_empty() {
                    let by = range.start - extent.range.start;
                    match extent.word.advance(by) {
                        Word::Below => match left.last_mut() {
                            Some(last) if last.end == range.start => last.end = range.end,
                            _ => left.push(range),
                        },
                        word => found.push(Origin { range, depth, layer, word }),
                    }
                }
                if gap.end > extent.range.end {
                    break;
                }
                gaps.next();
            }
        }
        left
    }
}
