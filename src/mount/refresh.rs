//! Keeps a mounted view up to date: when the source is looked at again, and what is said of it.
//!
//! One thread does it, so that there is one look at a time. It waits for the bell (inotify, SIGHUP)
//! or for the next time that it is due: a poll, a file that should be complete by then, another
//! attempt after a look that failed. Many events make one look, and a look that took long is
//! followed by a rest, so that a source in which something happens all the time costs a part of one
//! processor and no more.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fuser::Notifier;
use log::{debug, error, info, warn};

use super::watch::{Bell, Ear, Seen, Watch, bell, is_shared_with_others};
use crate::fuse;
use crate::tree::Ino;
use crate::tree::live::Live;

/// Events that come one after the other within this time make one look.
const QUIET: Duration = Duration::from_millis(100);
/// Longer than this nobody waits for an end of the events.
const LONGEST_DIN: Duration = Duration::from_millis(500);
/// How many times as long as a look took it rests after it.
const REST: u32 = 2;
/// The longest rest, and the time between two looks when events were missed.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// Between two looks where nothing tells of changes.
const POLL: Duration = Duration::from_secs(10);
/// Between attempts after a look that failed: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// After this time whatever was under way when the tree was replaced is over.
const AFTERMATH: Duration = Duration::from_secs(1);

/// When the source is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refresh {
    /// When inotify tells of a change; where it cannot, every few seconds.
    #[default]
    Auto,
    /// At these intervals.
    Every(Duration),
    /// On SIGHUP alone.
    Off,
}

/// Starts the thread; it ends when the bell says so.
pub(super) fn start(
    live: Live,
    refresh: Refresh,
    served: Arc<fuse::Live>,
    kernel: Notifier,
) -> io::Result<Bell> {
    let (bell, ear) = bell();
    let ring = bell.clone();
    let run = move || {
        let mut refresher = Refresher {
            live,
            served,
            kernel,
            ear,
            seen: Arc::default(),
            watch: None,
            poll: None,
            retry: None,
            again: None,
            rest_until: None,
        };
        refresher.prepare(refresh, ring);
        refresher.run();
    };
    thread::Builder::new().name("refresh".to_owned()).spawn(run)?;
    Ok(bell)
}

struct Refresher {
    live: Live,
    served: Arc<fuse::Live>,
    kernel: Notifier,
    ear: Ear,
    seen: Arc<Seen>,
    watch: Option<Watch>,
    poll: Option<Duration>,
    /// How long to wait after a look that failed.
    retry: Option<Duration>,
    /// When to look once more, or to take attributes from the kernel once more.
    again: Option<(Instant, Vec<Ino>)>,
    rest_until: Option<Instant>,
}

impl Refresher {
    fn prepare(&mut self, refresh: Refresh, bell: Bell) {
        match refresh {
            Refresh::Off => return,
            Refresh::Every(interval) => self.poll = Some(interval),
            Refresh::Auto => {
                let watch = Watch::new(self.live.folder(), Arc::clone(&self.seen), bell);
                match watch {
                    Ok(watch) => self.watch = Some(watch),
                    Err(e) => self.fall_back(&e.to_string()),
                }
                self.watch_what_there_is();
            }
        }
        // What changed since the first look, and before anybody watched.
        self.again = Some((Instant::now(), Vec::new()));
    }

    fn fall_back(&mut self, why: &str) {
        warn!(
            "{}: changes cannot be watched ({why}): it is looked at every {} seconds instead; \
             `sysctl fs.inotify` and `ulimit -u` show the limits",
            self.live.folder().display(),
            POLL.as_secs()
        );
        self.watch = None;
        self.poll = Some(POLL);
    }

    /// Others' changes on a network file system come without an event.
    fn poll_what_is_shared(&mut self) {
        if self.poll.is_some() || self.watch.is_none() {
            return;
        }
        let mut devices = HashSet::new();
        let all = self.live.tree().catalog().inventory.folders().iter();
        let one_each = all.filter(|(_, stat)| devices.insert(stat.id.0));
        let folders = one_each.map(|(path, _)| self.live.folder().join(path));
        let shared = folders.into_iter().find(|folder| is_shared_with_others(folder));
        if let Some(folder) = shared {
            info!(
                "{}: on a file system that others may change unseen: the source is looked at \
                 every {} seconds",
                folder.display(),
                POLL.as_secs()
            );
            self.poll = Some(POLL);
        }
    }

    fn run(&mut self) {
        loop {
            self.wait();
            if self.ear.is_over() {
                return;
            }
            if let Some((_, attributes)) = self.again.take_if(|(at, _)| *at <= Instant::now())
                && self.served.forget_attributes(&attributes, &self.kernel).is_err()
            {
                return;
            }
            if let Err(e) = self.look() {
                debug!("the kernel is gone: {e}");
                return;
            }
        }
    }

    /// Until there is a reason to look.
    fn wait(&self) {
        let now = Instant::now();
        let again = self.again.as_ref().map(|(at, _)| at.saturating_duration_since(now));
        // While looks fail, nothing else that is due can be had.
        let complete = self.live.complete_in(now).filter(|_| self.retry.is_none());
        let due = [self.poll, self.retry, again, complete].into_iter().flatten().min();
        if self.ear.wait(due) {
            let end = Instant::now() + LONGEST_DIN;
            while Instant::now() < end && !self.ear.is_over() && self.ear.wait(Some(QUIET)) {}
        }
        while let Some(until) = self.rest_until
            && let Some(rest) = until.checked_duration_since(Instant::now())
            && !rest.is_zero()
            && !self.ear.is_over()
        {
            self.ear.wait(Some(rest));
        }
    }

    /// Looks, and serves what there is. An error means that there is nobody to serve any more.
    fn look(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        let missed = self.seen.missed();
        let writers = {
            let mut writers = self.seen.writers.lock();
            if missed {
                writers.forget_all();
            }
            writers.forget_old(begun);
            writers.clone()
        };
        self.served.begin_look(SystemTime::now());
        let looked = self.live.look_again(&writers, begun);
        let took = begun.elapsed();
        let rest = if missed { LONGEST_REST } else { (took * REST).min(LONGEST_REST) };
        self.rest_until = Some(begun + took + rest);
        match looked {
            Err(e) => self.complain(&e.to_string()),
            Ok(changes) => {
                debug!("looked at the source in {took:?}");
                let tree = Arc::clone(self.live.tree());
                // Also where nothing changed that the kernel keeps: reasons may have.
                self.served.replace(tree, &changes, &self.kernel)?;
                self.recover();
                if !changes.is_empty() {
                    info!("refreshed: {}", changes.points);
                    self.again = Some((Instant::now() + AFTERMATH, changes.attributes));
                }
                self.watch_what_there_is();
            }
        }
        Ok(())
    }

    fn watch_what_there_is(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        match watch.only(self.live.folders_to_watch()) {
            Ok(is_more) => {
                if is_more && self.again.is_none() {
                    self.again = Some((Instant::now(), Vec::new()));
                }
                self.poll_what_is_shared();
            }
            Err(e) => self.fall_back(&e.to_string()),
        }
    }

    fn complain(&mut self, reason: &str) {
        // It is tried again and again, and said once.
        if self.served.go_stale(reason) {
            error!("the view stays as it was: {reason}");
        }
        let (first, longest) = RETRY;
        self.retry = Some(self.retry.map_or(first, |before| (before * 2).min(longest)));
    }

    fn recover(&mut self) {
        if self.served.go_fresh() {
            // As loud as what it ends.
            error!("the source can be looked at again: the view follows it");
        }
        self.retry = None;
    }
}
