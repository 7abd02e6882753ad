//! What of a checkpoint is lost.

use std::collections::HashMap;
use std::ops::Range;

use super::DiskImage;
use crate::extent::Fault;
use crate::map::{NodeId, Resolved};

/// What is lost of a disk: with a file of the chain, or in a damaged one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lost {
    /// Bytes.
    pub bytes: u64,
    /// The first of them, ascending: at most [`Lost::MOST_RANGES`].
    pub ranges: Vec<LostRange>,
    /// How many more ranges there are.
    pub more: u64,
}

/// A range of the disk that is lost, and whose loss it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRange {
    /// Bytes of the disk.
    pub range: Range<u64>,
    /// Layers above the one that would hold it: 0 is the checkpoint's own.
    pub depth: u32,
    /// Why.
    pub fault: Fault,
}

impl Lost {
    /// More ranges are counted, and not listed: a list that nobody reads should not fill the memory.
    pub const MOST_RANGES: usize = 1000;

    /// Bytes of memory.
    pub fn memory(&self) -> u64 {
        (size_of::<Self>() + self.ranges.capacity() * size_of::<LostRange>()) as u64
    }

    fn push(&mut self, found: LostRange) {
        self.bytes += found.range.end - found.range.start;
        if let Some(last) = self.ranges.last_mut()
            && last.range.end == found.range.start
            && (last.depth, last.fault) == (found.depth, found.fault)
        {
            last.range.end = found.range.end;
        } else if self.ranges.len() < Self::MOST_RANGES {
            self.ranges.push(found);
        } else {
            self.more += 1;
        }
    }
}

impl DiskImage {
    /// Larger disks (in the usual regions of 32 MiB: 8 TiB) are not looked through.
    const MOST_REGIONS: u64 = 1 << 18;

    /// What is lost: looks at the maps of the whole disk. `None` if that cannot be said, for a table
    /// could not be read just now, or the disk is so large that nobody would wait.
    pub fn lost(&self) -> Option<Lost> {
        let regions = self.size.div_ceil(self.map.region_size());
        if regions > Self::MOST_REGIONS {
            return None;
        }
        let depths: HashMap<NodeId, u32> = self.map.line(self.node).zip(0..).collect();
        let mut lost = Lost::default();
        for region in 0..regions {
            // Past the tally, which takes memory for each disk that somebody reads.
            for piece in self.map.resolve(self.node, self.region(region)) {
                let Resolved::Bad { layer, fault } = piece.resolved else { continue };
                if fault == Fault::Unreadable {
                    return None;
                }
                let depth = depths.get(&layer).copied().unwrap_or(0);
                lost.push(LostRange { range: piece.range, depth, fault });
            }
        }
        Some(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_ranges_than_the_list_holds_are_counted_to_the_byte() {
        let mut lost = Lost::default();
        for start in (0..3000).step_by(2) {
            lost.push(LostRange { range: start..start + 1, depth: 1, fault: Fault::Lost });
        }
        assert_eq!((lost.bytes, lost.ranges.len(), lost.more), (1500, Lost::MOST_RANGES, 500));
    }
}
