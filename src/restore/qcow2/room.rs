//! How much room an image takes.

use super::finish::refcount_clusters;
use super::{ENTRY, bits_for, reach};
use crate::error::Result;
use crate::restore::units::UNIT;
use crate::view::{Content, DiskImage};

/// The most bytes that an image of a disk takes, without compression: all clusters with data, of which
/// some may turn out to be zeros, and the tables. Nothing but the maps is read.
pub(in crate::restore) fn room(image: &DiskImage) -> Result<u64> {
    let bits = bits_for(image.size())?;
    let cluster = 1_u64 << bits;
    let (mut clusters, mut tables, mut last_table) = (0, 0, None);
    let mut at = 0;
    while at < image.size() {
        let empty = image.empty_until(at);
        if empty >= image.size() {
            break;
        }
        let start = empty - empty % UNIT;
        at = start.saturating_add(UNIT).min(image.size());
        let mut counted = start;
        let parts = image.parts(start..at);
        for part in parts.iter().filter(|part| !matches!(part.content, Content::Hole)) {
            let from = (part.range.start - part.range.start % cluster).max(counted);
            let to = part.range.end.next_multiple_of(cluster);
            clusters += to.saturating_sub(from) / cluster;
            counted = counted.max(to);
        }
        if counted > start && last_table != Some(start / reach(bits)) {
            last_table = Some(start / reach(bits));
            tables += 1;
        }
    }
    let l1 = (image.size().div_ceil(reach(bits)).max(1) * ENTRY).div_ceil(cluster);
    // The header's is one.
    let used = 1 + clusters + tables + l1;
    let (blocks, table) = refcount_clusters(used, cluster);
    Ok((used + blocks + table) * cluster)
}
