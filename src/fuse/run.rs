//! What was asked for of one open file, as far as it is in order.

use std::ops::Range;

/// The kernel may have asked for so much more than what has been taken from its queue: its own
/// read-ahead (see `raise_read_ahead`). Bytes.
const ASKED_FOR: u64 = 4 << 20;
/// Nothing is read ahead before so much was read in order: there are readers of large blocks
/// anywhere. Bytes.
const LEAST: u64 = 8 << 20;
/// So much is read ahead at a time at most, and never more than was asked for before: what nobody
/// wants in the end is no more than what somebody wanted. Bytes.
const MOST: u64 = 32 << 20;

/// Requests that come one after the other. Bytes.
#[derive(Debug, Default)]
pub(super) struct Run {
    start: u64,
    end: u64,
    /// How much of it the reader has read, what was read ahead included.
    seen: u64,
    /// Until where it was read ahead.
    ahead: u64,
}

impl Run {
    /// Notes what the kernel asks for on its reader's behalf. Several threads take its requests, so
    /// they come a little out of order; what was read ahead is not asked for.
    pub(super) fn note(&mut self, offset: u64, size: u32) {
        let end = offset.saturating_add(u64::from(size));
        let known = self.end.max(self.ahead);
        let reach = self.end.saturating_sub(ASKED_FOR)..=known.saturating_add(ASKED_FOR);
        if !reach.contains(&offset) {
            *self = Self { start: offset, end, ..Self::default() };
        }
        self.start = self.start.min(offset);
        self.seen += offset.min(self.ahead).saturating_sub(self.end) + u64::from(size);
        self.end = self.end.max(end);
    }

    /// What is to be read ahead now, of a file of `size` bytes, if anything is.
    pub(super) fn next(&mut self, size: u64) -> Option<Range<u64>> {
        // Who leaps on and on is in order, too, but wants only what he asks for.
        if self.seen < LEAST.max((self.end - self.start) / 2) {
            return None;
        }
        let first = self.end.checked_add(ASKED_FOR)?;
        let end = first.saturating_add(self.seen.min(MOST)).min(size);
        let start = self.ahead.max(first);
        // Many small steps would be a message each.
        let least = if end == size { 1 } else { LEAST };
        if end.saturating_sub(start) < least {
            return None;
        }
        self.ahead = end;
        Some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = 256 << 10;
    const SIZE: u64 = 1 << 50;

    fn note(run: &mut Run, at: u64) {
        run.note(at, u32::try_from(STEP).unwrap());
    }

    fn run(requests: impl IntoIterator<Item = u64>) -> Run {
        let mut run = Run::default();
        for request in requests {
            note(&mut run, request * STEP);
        }
        run
    }

    #[test]
    fn nothing_is_read_ahead_before_the_reader_has_shown_an_order() {
        let least = LEAST / STEP;
        assert_eq!(run(0..least - 1).next(SIZE), None);
        let first = LEAST + ASKED_FOR;
        assert_eq!(run(0..least).next(SIZE), Some(first..first + LEAST));
        assert_eq!(run((0..10_000).map(|n| n * 7919 % 100_000)).next(SIZE), None);
    }

    #[test]
    fn who_leaps_is_not_read_ahead_for() {
        for leap in [16 << 10, 1 << 20, 3 << 20, 30 << 20] {
            let mut leaps = Run::default();
            for n in 0..20_000 {
                leaps.note(n * leap, 4096);
                assert_eq!(leaps.next(SIZE), None, "the {n}th of leaps of {leap}");
            }
        }
    }

    #[test]
    fn requests_may_overtake_each_other() {
        let first = LEAST + ASKED_FOR;
        let swapped = (0..LEAST / STEP).map(|n| n ^ 3);
        assert_eq!(run(swapped).next(SIZE), Some(first..first + LEAST));
    }

    #[test]
    fn it_goes_no_further_than_the_reader_came_and_than_the_most() {
        for seen in [LEAST, 2 * LEAST, MOST, 2 * MOST] {
            let mut run = run(0..seen / STEP);
            let ahead = run.next(SIZE).unwrap();
            assert_eq!(ahead.end - ahead.start, seen.min(MOST));
            assert_eq!(run.next(SIZE), None);
        }
    }

    #[test]
    fn it_goes_on_from_what_was_read_ahead_when_the_reader_is_in_it_or_behind_it() {
        for behind in [false, true] {
            let mut run = run(0..MOST / STEP);
            let ahead = run.next(SIZE).unwrap();
            let middle = ahead.start + (ahead.end - ahead.start) / 2;
            let at = if behind { ahead.end } else { middle };
            note(&mut run, at);
            let start = ahead.end.max(at + STEP + ASKED_FOR);
            assert_eq!(run.next(SIZE), Some(start..at + STEP + ASKED_FOR + MOST));
        }
    }

    #[test]
    fn another_place_is_another_run() {
        for elsewhere in [0, 1 << 40] {
            let mut run = run(100_000..100_000 + MOST / STEP);
            assert!(run.next(SIZE).is_some());
            note(&mut run, elsewhere);
            assert_eq!(run.next(SIZE), None);
            for n in 1..LEAST / STEP {
                note(&mut run, elsewhere + n * STEP);
            }
            let first = elsewhere + LEAST + ASKED_FOR;
            assert_eq!(run.next(SIZE), Some(first..first + LEAST));
        }
    }

    #[test]
    fn it_ends_with_the_file() {
        let size = LEAST + ASKED_FOR + 512;
        let mut ended = run(0..LEAST / STEP);
        assert_eq!(ended.next(size), Some(size - 512..size));
        assert_eq!(ended.next(size), None);
        assert_eq!(run(0..LEAST / STEP).next(LEAST), None);
    }

    #[test]
    fn the_end_of_all_numbers_is_no_reason_to_panic() {
        let mut run = run([]);
        for back in (0..2 * LEAST / STEP).rev() {
            note(&mut run, u64::MAX - back * STEP);
            let _next = run.next(u64::MAX);
        }
    }
}
