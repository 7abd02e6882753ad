//! Idle processors that lend a hand to a read which computes more than it copies.
//!
//! One reader in order waits for each answer before it asks again, so the other threads that serve
//! the kernel have nothing to do meanwhile. Where all of them are at work already, more would only
//! get in each other's way: a helper takes a place that is free, or does not start.

use std::num::NonZero;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use log::debug;
use parking_lot::Mutex;
use rayon_core::{ThreadPool, ThreadPoolBuilder};

/// More at a time than this have not been seen to help.
const MOST_PLACES: usize = 8;

/// Helpers, fewer by one than there are places to work at.
pub(super) struct Crew {
    helpers: Option<ThreadPool>,
    places: usize,
    taken: AtomicUsize,
}

/// A place to work at, until dropped.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Crew {
    /// The crew that all reads share, with a place for each processor. Its threads start when it is
    /// asked for first.
    pub(super) fn shared() -> &'static Self {
        static SHARED: OnceLock<Crew> = OnceLock::new();
        SHARED.get_or_init(|| {
            let places = thread::available_parallelism().map_or(1, NonZero::get);
            Self::new(places.min(MOST_PLACES))
        })
    }

    /// A crew with so many places. Where its threads cannot be had, callers work alone.
    fn new(places: usize) -> Self {
        let threads = ThreadPoolBuilder::new()
            .num_threads(places.saturating_sub(1))
            .thread_name(|number| format!("helper-{number}"));
        // None would stand for as many as there are processors.
        let helpers = if places > 1 { Some(threads.build()) } else { None };
        let helpers = helpers.and_then(|built| {
            built.inspect_err(|e| debug!("no threads to help with unpacking: {e}")).ok()
        });
        Self { helpers, places, taken: AtomicUsize::new(0) }
    }

    /// Does `jobs`, on this thread and on those that are free. After one has failed, no other one
    /// is begun.
    ///
    /// # Errors
    ///
    /// The number of the first one, in their order, that failed, and how. All before it are done.
    pub(super) fn run<J: Send, E: Send>(
        &self,
        jobs: Vec<J>,
        one: impl Fn(J) -> Result<(), E> + Sync,
    ) -> Result<(), (usize, E)> {
        let helpers = jobs.len().saturating_sub(1);
        let next = Mutex::new(jobs.into_iter().enumerate());
        let failed: Mutex<Option<(usize, E)>> = Mutex::new(None);
        self.together(helpers, &|| {
            loop {
                let job = next.lock().next();
                let Some((number, job)) = job else { break };
                let Err(error) = one(job) else { continue };
                // They are handed out in order: all before this one are done or under way.
                *next.lock() = Vec::new().into_iter().enumerate();
                let mut failed = failed.lock();
                if failed.as_ref().is_none_or(|(first, _)| number < *first) {
                    *failed = Some((number, error));
                }
            }
        });
        failed.into_inner().map_or(Ok(()), Err)
    }

    /// Runs `work` on this thread, and at the same time on up to `most` others.
    fn together(&self, most: usize, work: &(impl Fn() + Sync)) {
        let Some(helpers) = &self.helpers else { return work() };
        self.taken.fetch_add(1, Ordering::Relaxed);
        let _own = Place(&self.taken);
        let free: Vec<_> = std::iter::from_fn(|| self.free_place()).take(most).collect();
        if free.is_empty() {
            return work();
        }
        helpers.in_place_scope(|scope| {
            for place in free {
                scope.spawn(move |_| {
                    let _place = place;
                    work();
                });
            }
            work();
        });
    }

    /// There are never more helpers with a place than threads for them: their caller has one, too.
    fn free_place(&self) -> Option<Place<'_>> {
        let next = |taken| (taken < self.places).then_some(taken + 1);
        let taken = self.taken.try_update(Ordering::Relaxed, Ordering::Relaxed, next);
        taken.ok().map(|_| Place(&self.taken))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::time::Duration;

    use super::*;

    fn places_taken(crew: &Crew) -> usize {
        crew.taken.load(Ordering::Relaxed)
    }

    #[test]
    fn every_job_is_done_once_whatever_the_number_of_places() {
        for places in [1, 2, 5] {
            let crew = Crew::new(places);
            let mut done = vec![0; 1000];
            let outcome = crew.run(done.iter_mut().collect(), |job| {
                *job += 1;
                Ok::<_, ()>(())
            });
            assert_eq!(outcome, Ok(()));
            assert!(done.iter().all(|times| *times == 1));
            assert_eq!(places_taken(&crew), 0);
        }
    }

    #[test]
    fn two_jobs_are_under_way_at_the_same_time() {
        // Each waits for the other: one after the other they would never end.
        let both = Barrier::new(2);
        let outcome = Crew::new(2).run(vec![(), ()], |()| {
            both.wait();
            Ok::<_, ()>(())
        });
        assert_eq!(outcome, Ok(()));
    }

    #[test]
    fn who_finds_no_place_free_works_alone() {
        let crew = Crew::new(2);
        // Both places have somebody at work.
        crew.taken.store(2, Ordering::Relaxed);
        let here = thread::current().id();
        let outcome = crew
            .run(vec![(); 100], |()| if thread::current().id() == here { Ok(()) } else { Err(()) });
        assert_eq!(outcome, Ok(()));
        assert_eq!(places_taken(&crew), 2);
    }

    #[test]
    fn the_first_failure_counts_and_all_before_it_is_done() {
        let crew = Crew::new(3);
        for first in [0, 1, 40, 99] {
            let mut done = [false; 100];
            let jobs = done.iter_mut().enumerate().collect();
            let outcome = crew.run(jobs, |(number, job): (usize, &mut bool)| {
                *job = true;
                if number >= first { Err(number) } else { Ok(()) }
            });
            assert_eq!(outcome, Err((first, first)));
            assert!(done[..first].iter().all(|done| *done));
            assert!(done[first..].iter().filter(|done| **done).count() <= 3);
            assert_eq!(places_taken(&crew), 0);
        }
    }

    #[test]
    fn of_two_failures_the_one_that_comes_first_in_order_counts() {
        let both = Barrier::new(2);
        let outcome = Crew::new(2).run(vec![0, 1], |number| {
            both.wait();
            if number == 0 {
                // So that it nearly always fails after the other one.
                thread::sleep(Duration::from_millis(50));
            }
            Err(number)
        });
        assert_eq!(outcome, Err((0, 0)));
    }
}
