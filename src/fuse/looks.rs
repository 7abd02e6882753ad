//! How long looks at the source take, and when one takes too long.

use std::time::{Duration, SystemTime};

/// A look may always take this long.
const LEAST_PATIENCE: Duration = Duration::from_mins(1);
/// After so long it is told of in any case: the last look may have hung, too, or the clock was set.
const MOST_PATIENCE: Duration = Duration::from_hours(1);
/// A large source on a slow file system takes its time, and the next look about as long.
const LONGER: u32 = 4;

/// The looks at a source: one at a time.
#[derive(Default)]
pub(super) struct Looks {
    /// When the one began that is under way.
    since: Option<SystemTime>,
    /// What the last took that succeeded.
    last: Duration,
}

impl Looks {
    /// After a first look, which nobody had to wait for here.
    pub(super) fn after(first_took: Duration) -> Self {
        Self { since: None, last: first_took }
    }

    pub(super) fn begin(&mut self, now: SystemTime) {
        self.since = Some(now);
    }

    pub(super) fn fail(&mut self) {
        self.since = None;
    }

    pub(super) fn succeed(&mut self, now: SystemTime) {
        let since = self.since.take();
        self.last = since.and_then(|since| now.duration_since(since).ok()).unwrap_or_default();
    }

    /// When the look began that is under way, if it should be over: a network file system may never
    /// answer.
    pub(super) fn overdue(&self, now: SystemTime) -> Option<SystemTime> {
        let patience = self.last.saturating_mul(LONGER).clamp(LEAST_PATIENCE, MOST_PATIENCE);
        self.since.filter(|since| now.duration_since(*since).unwrap_or_default() > patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_look_is_one_before_the_others() {
        let mut looks = Looks::after(Duration::from_mins(2));
        let at = |minute: u64| SystemTime::UNIX_EPOCH + Duration::from_mins(minute);
        looks.begin(at(0));
        assert_eq!((looks.overdue(at(8)), looks.overdue(at(9))), (None, Some(at(0))));
    }

    #[test]
    fn a_look_is_overdue_that_takes_much_longer_than_the_one_before() {
        let mut looks = Looks::default();
        let at = |minute: u64| SystemTime::UNIX_EPOCH + Duration::from_mins(minute);
        looks.begin(at(0));
        assert_eq!((looks.overdue(at(1)), looks.overdue(at(2))), (None, Some(at(0))));
        looks.succeed(at(2));
        assert_eq!(looks.overdue(at(99)), None, "none is under way");
        looks.begin(at(10));
        assert_eq!((looks.overdue(at(18)), looks.overdue(at(19))), (None, Some(at(10))));
        looks.fail();
        looks.begin(at(20));
        assert_eq!(looks.overdue(at(28)), None, "a failure says nothing of how long it takes");
        looks.succeed(at(20));
        looks.begin(at(30));
        assert_eq!(looks.overdue(at(32)), Some(at(30)), "the last one counts");
        looks.succeed(at(1000));
        looks.begin(at(2000));
        assert_eq!((looks.overdue(at(2060)), looks.overdue(at(2061))), (None, Some(at(2000))));
    }
}
