//! What a reader of a checkpoint gets.

use std::ops::Range;

use super::NodeId;
use crate::extent::{Fault, Slot};

/// What a range of a checkpoint is, all layers considered. There is no "below" here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// Zeros.
    Zero,
    /// Bytes of this layer.
    At {
        /// Whose bytes.
        layer: NodeId,
        /// Where that layer has them.
        slot: Slot,
    },
    /// Not to be read.
    Bad {
        /// Whose fault.
        layer: NodeId,
        /// Which.
        fault: Fault,
    },
}

impl Resolved {
    /// What the byte `by` bytes further on in the same piece is.
    fn advance(self, by: u64) -> Self {
        match self {
            Self::At { layer, slot } => Self::At { layer, slot: slot.advance(by) },
            other => other,
        }
    }
}

/// A range of guest bytes, never empty, that is one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Guest bytes.
    pub range: Range<u64>,
    /// What they are; a slot is that of the first one.
    pub resolved: Resolved,
}

impl Piece {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether the piece has no byte: none that a map hands out.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Whether there is something other than zeros, readable or not.
    pub fn is_data(&self) -> bool {
        self.resolved != Resolved::Zero
    }

    /// The part of the piece that lies in `range`.
    #[must_use]
    pub fn within(&self, range: &Range<u64>) -> Option<Self> {
        let part = self.range.start.max(range.start)..self.range.end.min(range.end);
        let by = part.start.checked_sub(self.range.start)?;
        (!part.is_empty()).then(|| Self { range: part, resolved: self.resolved.advance(by) })
    }

    /// Appends to `pieces`, or to the last of them if this one only goes on with it. Packed
    /// pieces stay apart: each stands for one cluster or frame.
    pub(super) fn join(self, pieces: &mut Vec<Self>) {
        if let Some(last) = pieces.last_mut()
            && last.range.end == self.range.start
            && !matches!(self.resolved, Resolved::At { slot: Slot::Packed(_), .. })
            && last.resolved.advance(last.len()) == self.resolved
        {
            last.range.end = self.range.end;
        } else {
            pieces.push(self);
        }
    }
}
