//! Clusters that were taken and not used: what could not be shared with the backup after all.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// Ranges of the file; bytes, whole clusters.
#[derive(Debug, Default)]
pub(super) struct Unused {
    /// Mostly there are none: then nobody waits for the lock.
    are_any: AtomicBool,
    ranges: Mutex<Vec<Range<u64>>>,
}

impl Unused {
    /// Takes a range back.
    pub(super) fn give_back(&self, range: Range<u64>) {
        self.ranges.lock().push(range);
        self.are_any.store(true, Ordering::Relaxed);
    }

    /// Where so many bytes start, if there are as many in one piece.
    pub(super) fn take(&self, bytes: u64) -> Option<u64> {
        if bytes == 0 || !self.are_any.load(Ordering::Relaxed) {
            return None;
        }
        let mut ranges = self.ranges.lock();
        let fits = |range: &Range<u64>| range.end - range.start >= bytes;
        let found = ranges.iter().position(fits)?;
        let range = ranges.get_mut(found)?;
        let start = range.start;
        range.start += bytes;
        if range.is_empty() {
            ranges.swap_remove(found);
        }
        Some(start)
    }

    /// All that are left.
    pub(super) fn drain(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut *self.ranges.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_taken_again_once() {
        let unused = Unused::default();
        assert_eq!(unused.take(64), None);
        unused.give_back(64..192);
        unused.give_back(640..704);
        assert_eq!(unused.take(0), None);
        assert_eq!(unused.take(256), None, "not in one piece");
        assert_eq!(unused.take(64), Some(64));
        assert_eq!(unused.take(64), Some(128));
        assert_eq!(unused.drain().as_slice(), std::slice::from_ref(&(640..704)));
        assert_eq!(unused.take(64), None);
    }
}
