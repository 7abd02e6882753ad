//! What was asked for of one open file, as far as it is in order.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

/// The kernel may have asked for so much more than what has been taken from its queue: its own
/// read-ahead (see `raise_read_ahead`). Bytes.
const ASKED_FOR: u64 = 4 << 20;
/// Nothing is read ahead before so much was read in order: there are readers of large blocks
/// anywhere. Bytes.
const LEAST: u64 = 8 << 20;
/// Of the kernel's cache; bytes.
const PAGE: u64 = 4096;
/// So much is read ahead at a time at most, and never more than was asked for before: what nobody
/// wants in the end is no more than what somebody wanted. Bytes.
const MOST: u64 = 32 << 20;
/// So long everybody else may have to wait for what is read ahead, for the kernel's requests are
/// answered in their order. Who reads less than [`LEAST`] in this time waits for the source or has
/// work of its own, and gains nothing.
const WAIT: Duration = Duration::from_millis(40);

/// What is left out of what is read ahead, where that is long: the reader comes by there, and has to
/// ask. Bytes.
const LEFT_OUT: u64 = 128 << 10;

/// The part of what is to be read ahead that is left to its reader: in its middle, and empty where it
/// is short.
pub(super) fn left_out(ahead: &Range<u64>) -> Range<u64> {
    let len = ahead.end - ahead.start;
    let middle = ahead.start + (len / 2).next_multiple_of(PAGE).min(len);
    if len < LEAST { middle..middle } else { middle..middle + LEFT_OUT }
}

/// Requests that come one after the other. Bytes.
#[derive(Debug)]
pub(super) struct Run {
    start: u64,
    end: u64,
    /// How much of it the reader has read, what was read ahead included.
    seen: u64,
    /// Until where it was read ahead.
    ahead: u64,
    /// What was left out of that, and not asked for yet.
    left_out: VecDeque<u64>,
    /// When the reader's speed was looked at last, and how much it had read then.
    mark: (Instant, u64),
}

impl Run {
    /// Of a file from whose start on nobody has read yet.
    pub(super) fn new(now: Instant) -> Self {
        Self::at(0, now)
    }

    fn at(start: u64, now: Instant) -> Self {
        Self { start, end: start, seen: 0, ahead: 0, left_out: VecDeque::new(), mark: (now, 0) }
    }

    /// Notes what the kernel asks for on its reader's behalf, and tells what is to be read ahead for
    /// it, if anything is, of a file of `size` bytes. Several threads take the kernel's requests, so
    /// they come a little out of order; what was read ahead is not asked for.
    pub(super) fn note(&mut self, read: (u64, u32), size: u64, now: Instant) -> Option<Range<u64>> {
        let (offset, len) = (read.0, u64::from(read.1));
        let known = self.end.max(self.ahead);
        let reach = self.end.saturating_sub(ASKED_FOR)..=known.saturating_add(ASKED_FOR);
        let end = offset.saturating_add(len);
        while self.left_out.pop_front_if(|left_out| (offset..end).contains(left_out)).is_some() {}
        // Who passes that by leaps.
        let is_leap = self.left_out.front().is_some_and(|left_out| *left_out < offset);
        if is_leap || !reach.contains(&offset) {
            *self = Self::at(offset, now);
        }
        self.start = self.start.min(offset);
        self.seen += offset.min(self.ahead).saturating_sub(self.end) + len;
        self.end = self.end.max(end);
        if self.seen - self.mark.1 < LEAST {
            return None;
        }
        let most = self.in_time(now);
        self.mark = (now, self.seen);
        self.next(most, size)
    }

    /// How much the reader reads in the time that others may have to wait.
    fn in_time(&self, now: Instant) -> u64 {
        let took = now.saturating_duration_since(self.mark.0).as_nanos().max(1);
        let read = u128::from(self.seen - self.mark.1) * WAIT.as_nanos() / took;
        u64::try_from(read).unwrap_or(u64::MAX).min(MOST)
    }

    fn next(&mut self, most: u64, size: u64) -> Option<Range<u64>> {
        // Who leaps on and on is in order, too, but wants only what he asks for.
        if most < LEAST || self.seen < (self.end - self.start) / 2 {
            return None;
        }
        let first = self.end.checked_add(ASKED_FOR)?;
        let end = first.saturating_add(self.seen.min(most)).min(size);
        let start = self.ahead.max(first);
        if start >= end {
            return None;
        }
        self.ahead = end;
        self.left_out.extend(
            Some(left_out(&(start..end))).filter(|part| !part.is_empty()).map(|part| part.start),
        );
        Some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = 256 << 10;
    const SIZE: u64 = 1 << 50;

    /// A run, and what was to be read ahead after each request of a step: the number of each step,
    /// and how long one takes.
    struct Seen {
        run: Run,
        now: Instant,
        takes: Duration,
        ahead: Vec<Range<u64>>,
    }

    impl Seen {
        fn new(takes: Duration) -> Self {
            let now = Instant::now();
            Self { run: Run::new(now), now, takes, ahead: Vec::new() }
        }

        fn fast() -> Self {
            Self::new(Duration::from_micros(1))
        }

        fn read(&mut self, at: u64, len: u64, size: u64) {
            self.now += self.takes;
            self.ahead.extend(self.run.note((at, u32::try_from(len).unwrap()), size, self.now));
        }

        fn steps(mut self, steps: impl IntoIterator<Item = u64>) -> Self {
            steps.into_iter().for_each(|step| self.read(step * STEP, STEP, SIZE));
            self
        }
    }

    fn ahead_of(steps: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
        Seen::fast().steps(steps).ahead
    }

    #[test]
    fn nothing_is_read_ahead_before_the_reader_has_shown_an_order() {
        let least = LEAST / STEP;
        assert_eq!(ahead_of(0..least - 1), []);
        let first = LEAST + ASKED_FOR;
        assert_eq!(ahead_of(0..least), vec![first..first + LEAST]);
        assert_eq!(ahead_of((0..10_000).map(|n| n * 7919 % 100_000)), []);
    }

    #[test]
    fn who_leaps_is_not_read_ahead_for() {
        for leap in [16 << 10, 1 << 20, 3 << 20, 30 << 20] {
            let mut leaps = Seen::fast();
            (0..20_000).for_each(|n| leaps.read(n * leap, 4096, SIZE));
            assert_eq!(leaps.ahead, [], "leaps of {leap}");
        }
    }

    #[test]
    fn who_passes_by_what_was_left_out_leaps() {
        let mut seen = Seen::fast().steps(0..MOST / STEP);
        let before = seen.ahead.clone();
        for _ in 0..100 {
            let at = seen.run.ahead.max(seen.run.end) - 4096;
            seen.read(at, 4096, SIZE);
        }
        assert_eq!(seen.ahead, before);
    }

    #[test]
    fn who_waits_for_the_source_makes_nobody_else_wait_longer() {
        let mib_in = |millis| Seen::new(Duration::from_millis(millis) / 4).steps(0..4096).ahead;
        assert_eq!(mib_in(20), [], "50 MiB/s");
        assert_eq!(mib_in(6), [], "167 MiB/s");
        assert!(mib_in(4).iter().all(|ahead| ahead.end - ahead.start < 11 << 20), "250 MiB/s");
        assert!(!mib_in(4).is_empty() && !mib_in(0).is_empty());
    }

    #[test]
    fn requests_may_overtake_each_other() {
        let first = LEAST + ASKED_FOR;
        assert_eq!(ahead_of((0..LEAST / STEP).map(|n| n ^ 3)), vec![first..first + LEAST]);
    }

    #[test]
    fn it_goes_no_further_than_the_reader_came_and_than_the_most() {
        let seen = Seen::fast().steps(0..(4 * MOST) / STEP);
        for ahead in &seen.ahead {
            assert!(ahead.end <= 2 * ahead.start && ahead.end - ahead.start <= MOST, "{ahead:?}");
        }
        let last = seen.ahead.last().unwrap();
        assert_eq!(last.end, 4 * MOST + ASKED_FOR + MOST);
        assert!(seen.ahead.windows(2).all(|two| two[0].end == two[1].start), "{:?}", seen.ahead);
    }

    #[test]
    fn it_goes_on_behind_what_was_read_ahead_when_the_reader_asks_for_what_was_left_out() {
        let mut seen = Seen::fast().steps(0..(2 * MOST) / STEP);
        let ahead = seen.ahead.last().unwrap().clone();
        for left_out in seen.run.left_out.clone() {
            seen.read(left_out, LEFT_OUT, SIZE);
        }
        let end = left_out(&ahead).end + ASKED_FOR + MOST;
        assert_eq!(seen.ahead.last().unwrap().end, end);
        assert!(seen.ahead.windows(2).all(|two| two[0].end == two[1].start), "{:?}", seen.ahead);
    }

    #[test]
    fn another_place_is_another_run() {
        for elsewhere in [0, 1 << 40] {
            let mut seen = Seen::fast().steps(100_000..100_000 + MOST / STEP);
            let before = seen.ahead.len();
            for n in 0..LEAST / STEP {
                assert_eq!(seen.ahead.len(), before);
                seen.read(elsewhere + n * STEP, STEP, SIZE);
            }
            let first = elsewhere + LEAST + ASKED_FOR;
            assert_eq!(seen.ahead.last(), Some(&(first..first + LEAST)));
        }
    }

    #[test]
    fn it_ends_with_the_file() {
        let size = LEAST + ASKED_FOR + 512;
        let mut seen = Seen::fast();
        (0..size / STEP).for_each(|step| seen.read(step * STEP, STEP, size));
        assert_eq!(seen.ahead, vec![size - 512..size]);
    }

    #[test]
    fn the_end_of_all_numbers_is_no_reason_to_panic() {
        let mut seen = Seen::fast();
        for back in (0..2 * LEAST / STEP).rev() {
            seen.read(u64::MAX - back * STEP, STEP, u64::MAX);
        }
        seen.read(u64::MAX, STEP, u64::MAX);
    }
}
