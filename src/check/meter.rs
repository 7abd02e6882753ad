//! How far the check of one file is.

use std::cell::Cell;

/// Passes bytes on until a file's estimate is used up, and what is left of it at the end: so all
/// files together make exactly the sum of their estimates.
pub(super) struct Meter<'a> {
    tick: &'a dyn Fn(u64),
    left: Cell<u64>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(tick: &'a dyn Fn(u64), estimate: u64) -> Self {
        Self { tick, left: Cell::new(estimate) }
    }

    pub(super) fn add(&self, bytes: u64) {
        let bytes = bytes.min(self.left.get());
        self.left.set(self.left.get() - bytes);
        if bytes > 0 {
            (self.tick)(bytes);
        }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.add(self.left.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_for_what_it_was_estimated_at() {
        for read in [[10, 20], [70, 80], [0, 0]] {
            let sum = Cell::new(0);
            let tick = |bytes| sum.set(sum.get() + bytes);
            let meter = Meter::new(&tick, 100);
            for bytes in read {
                meter.add(bytes);
            }
            drop(meter);
            assert_eq!(sum.get(), 100);
        }
    }
}
