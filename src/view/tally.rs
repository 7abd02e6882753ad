//! How much of an image was found to be data, region by region.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a region of an image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// Nothing but zeros.
    Holes,
    /// Both.
    Mixed,
    /// Nothing but data.
    Data,
}

/// Two bits for each region: not known yet, or what it holds.
#[derive(Debug)]
pub(super) struct Tally {
    states: Box<[AtomicU64]>,
    unknown: AtomicU64,
    data: AtomicU64,
}

const STATE: u64 = 3;
const PER_WORD: u64 = u64::BITS as u64 / 2;

impl Tally {
    /// Regions that a tally is kept of, in 512 KiB of memory for each checkpoint that somebody
    /// reads: a disk of 64 TiB in the usual regions of 32 MiB, of 4 TiB in those of 4 KiB
    /// clusters, of 512 GiB in the smallest. A larger disk is searched anew each time, and its
    /// allocated bytes stay an estimate.
    pub(super) const MOST: u64 = 1 << 21;

    /// Nothing is known of any of `regions`.
    pub(super) fn new(regions: u64) -> Self {
        let states = (0..regions.div_ceil(PER_WORD)).map(|_| AtomicU64::new(0)).collect();
        Self { states, unknown: AtomicU64::new(regions), data: AtomicU64::new(0) }
    }

    /// What is known of a region.
    pub(super) fn held(&self, region: u64) -> Option<Held> {
        let (word, shift) = self.place(region)?;
        match (word.load(Ordering::Relaxed) >> shift) & STATE {
            0 => None,
            1 => Some(Held::Holes),
            2 => Some(Held::Mixed),
            _ => Some(Held::Data),
        }
    }

    /// A region holds `held`, of which `data` bytes are data. Only the first word on it counts.
    pub(super) fn note(&self, region: u64, held: Held, data: u64) {
        let code = match held {
            Held::Holes => 1,
            Held::Mixed => 2,
            Held::Data => 3,
        };
        let Some((word, shift)) = self.place(region) else { return };
        // Whoever notes this region says the same, so that setting bits twice is harmless.
        let before = word.fetch_or(code << shift, Ordering::Relaxed);
        if before & (STATE << shift) == 0 {
            self.data.fetch_add(data, Ordering::Relaxed);
            self.unknown.fetch_sub(1, Ordering::Release);
        }
    }

    /// Bytes of data, once every region is known.
    pub(super) fn total(&self) -> Option<u64> {
        let known = self.unknown.load(Ordering::Acquire) == 0;
        known.then(|| self.data.load(Ordering::Relaxed))
    }

    fn place(&self, region: u64) -> Option<(&AtomicU64, u64)> {
        let word = usize::try_from(region / PER_WORD).ok()?;
        Some((self.states.get(word)?, region % PER_WORD * 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_known_once_every_region_is_and_each_counts_once() {
        let tally = Tally::new(34);
        for region in 0..33 {
            tally.note(region, Held::Mixed, 10);
            tally.note(region, Held::Mixed, 10);
        }
        assert_eq!(tally.total(), None);
        assert_eq!((tally.held(32), tally.held(33)), (Some(Held::Mixed), None));
        tally.note(33, Held::Data, 1);
        assert_eq!((tally.total(), tally.held(33)), (Some(331), Some(Held::Data)));
    }
}
