//! Which files are complete: those that nobody has written to for a moment.
//!
//! A backup tool writes for minutes or hours, and what it has written so far may well have a sound
//! header. Only some give the file its name at the end. So a file that is new, or changed since the
//! last look, is left alone until its size and time have stayed the same for a while, and until its
//! writer has closed it where a watcher sees that. What was there at the first look counts as
//! complete, unless a process was seen to have it open for writing.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::source::FileStat;

/// How long a file must stay the same.
const MOMENT: Duration = Duration::from_secs(1);
/// After so many doublings a file that changes from look to look is not looked at less often.
const MOST_DOUBLINGS: u32 = 3;
/// How long a writer that was never seen to close the file is waited for, once it does not write any
/// more. A file that is cut by its name (`truncate`) has no writer that could close it.
const PATIENCE: Duration = Duration::from_mins(1);
/// To write again after this time is news, also if the writer never closed the file.
const PAUSE: Duration = Duration::from_secs(10);

/// What a watcher saw of the writers of files: by path within the source, absolute outside of it.
#[derive(Debug, Default, Clone)]
pub struct Writers {
    seen: HashMap<PathBuf, Writer>,
}

/// The last that was seen of a file's writers.
#[derive(Debug, Clone, Copy)]
struct Writer {
    at: Instant,
    is_open: bool,
}

impl Writers {
    /// Somebody wrote to the file. Returns whether that is news: it was not being written before.
    pub fn wrote(&mut self, path: &Path, at: Instant) -> bool {
        let before = self.seen.insert(path.to_path_buf(), Writer { at, is_open: true });
        !before.is_some_and(|writer| writer.is_open && at < writer.at + PAUSE)
    }

    /// A writer closed the file.
    pub fn closed(&mut self, path: &Path, at: Instant) {
        self.seen.insert(path.to_path_buf(), Writer { at, is_open: false });
    }

    /// The path is that of another file now, or of none.
    pub fn moved(&mut self, path: &Path) {
        self.seen.retain(|seen, _| !seen.starts_with(path));
    }

    /// Events were missed.
    pub fn forget_all(&mut self) {
        self.seen.clear();
    }

    /// Forgets those who have not been seen for so long that it does not matter.
    pub fn forget_old(&mut self, now: Instant) {
        self.seen.retain(|_, writer| now < writer.at + 2 * PATIENCE);
    }
}

/// What is known of the files' changes.
#[derive(Debug, Default)]
pub(super) struct Settling {
    files: HashMap<(u64, u64), Seen>,
    round: u64,
}

#[derive(Debug)]
struct Seen {
    /// A hash of its path.
    path: u64,
    size: u64,
    mtime: std::time::SystemTime,
    /// When it is complete, unless it changes; none: it is.
    due: Option<Instant>,
    doublings: u32,
    round: u64,
}

impl Seen {
    fn is_same(&self, stat: &FileStat) -> bool {
        (self.size, self.mtime) == (stat.size, stat.mtime)
    }
}

impl Settling {
    /// A file that is complete.
    pub(super) fn is_complete(&mut self, path: &Path, stat: &FileStat) {
        let (path, size, mtime, round) = (hash(path), stat.size, stat.mtime, self.round);
        self.files.insert(stat.id, Seen { path, size, mtime, due: None, doublings: 0, round });
    }

    /// A file that somebody has open for writing.
    pub(super) fn is_open(&mut self, path: &Path, stat: &FileStat, now: Instant) {
        self.is_complete(path, stat);
        if let Some(seen) = self.files.get_mut(&stat.id) {
            seen.due = Some(now + PATIENCE);
        }
    }

    /// A new look at everything begins.
    pub(super) fn begin(&mut self) {
        self.round += 1;
    }

    /// The look is over: what it did not come to is not there any more.
    pub(super) fn end(&mut self) {
        let round = self.round;
        self.files.retain(|_, seen| seen.round == round);
    }

    /// Whether a file is not complete yet.
    pub(super) fn is_being_written(
        &mut self,
        path: &Path,
        stat: &FileStat,
        writers: &Writers,
        now: Instant,
    ) -> bool {
        let writer = writers.seen.get(path);
        let (round, hashed) = (self.round, hash(path));
        let before = self.files.get_mut(&stat.id);
        let doublings = match before {
            Some(seen) if seen.is_same(stat) => {
                seen.round = round;
                // Who writes on gives no other name; and who closed the old one was forgotten with it.
                if seen.path != hashed {
                    seen.path = hashed;
                    seen.due = seen.due.map(|due| due.min(now + MOMENT));
                }
                // It was closed since, or its writer goes on.
                if let (Some(due), Some(writer)) = (seen.due, writer) {
                    let wait = if writer.is_open { PATIENCE } else { MOMENT };
                    seen.due = Some(if writer.is_open {
                        due.max(writer.at + wait)
                    } else {
                        writer.at + wait
                    });
                }
                seen.due = seen.due.filter(|due| now < *due);
                return seen.due.is_some();
            }
            Some(seen) if seen.due.is_some() => (seen.doublings + 1).min(MOST_DOUBLINGS),
            _ => 0,
        };
        let due = match writer {
            Some(Writer { at, is_open: true }) => *at + PATIENCE,
            Some(Writer { at, is_open: false }) => *at + MOMENT,
            None => now + MOMENT * 2_u32.pow(doublings),
        };
        // Also what was closed long ago may have changed since, without anybody seeing it.
        let due = due.max(now + Duration::from_millis(1));
        let (size, mtime, due) = (stat.size, stat.mtime, Some(due));
        self.files.insert(stat.id, Seen { path: hashed, size, mtime, due, doublings, round });
        true
    }

    /// When the file will be complete, if it stays as it is.
    pub(super) fn due(&self, stat: &FileStat) -> Option<Instant> {
        self.files.get(&stat.id)?.due
    }
}

fn hash(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn stat(size: u64) -> FileStat {
        let mtime = SystemTime::UNIX_EPOCH;
        FileStat { id: (1, 2), size, allocated: size, mtime, mode: 0o600, uid: 0, gid: 0 }
    }

    struct Watch {
        settling: Settling,
        writers: Writers,
        start: Instant,
    }

    impl Watch {
        fn new() -> Self {
            let (settling, writers) = (Settling::default(), Writers::default());
            Self { settling, writers, start: Instant::now() }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn look(&mut self, millis: u64, size: u64) -> bool {
            let now = self.at(millis);
            self.settling.begin();
            let path = Path::new("a");
            let written = self.settling.is_being_written(path, &stat(size), &self.writers, now);
            self.settling.end();
            written
        }
    }

    #[test]
    fn a_file_is_complete_when_it_stayed_the_same_for_a_moment() {
        let mut watch = Watch::new();
        assert!(watch.look(0, 1), "new");
        assert!(watch.look(900, 1), "too early");
        assert!(!watch.look(1000, 1), "the same for a moment");
        assert!(!watch.look(1001, 1), "and still");
        assert!(watch.look(1100, 2), "it changed");
        assert!(watch.look(2000, 2));
        assert!(!watch.look(2100, 2));
    }

    #[test]
    fn what_was_there_at_first_is_complete_until_it_changes() {
        let mut watch = Watch::new();
        watch.settling.is_complete(Path::new("a"), &stat(1));
        assert!(!watch.look(0, 1));
        assert!(watch.look(1, 2));
    }

    #[test]
    fn a_file_that_grows_from_look_to_look_is_waited_for_longer() {
        let mut watch = Watch::new();
        assert!(watch.look(0, 1));
        assert!(watch.look(1000, 2));
        assert!(watch.look(2500, 2), "it changed once before");
        assert!(!watch.look(3000, 2));
    }

    #[test]
    fn a_writer_that_has_the_file_open_is_waited_for_and_not_for_ever() {
        let mut watch = Watch::new();
        let path = Path::new("a");
        assert!(watch.writers.wrote(path, watch.at(0)), "news");
        assert!(!watch.writers.wrote(path, watch.at(1)), "no news");
        assert!(watch.writers.wrote(path, watch.at(10_001)), "after a pause");
        assert!(!watch.writers.wrote(path, watch.at(10_002)), "it goes on");
        assert!(watch.look(100, 1));
        assert!(watch.look(60_500, 1), "the writer rests");
        watch.writers.closed(path, watch.at(61_000));
        assert!(watch.look(61_500, 1), "closed a moment ago");
        assert!(!watch.look(62_000, 1), "closed");
        watch.writers.wrote(path, watch.at(70_000));
        assert!(watch.look(70_100, 2));
        assert!(!watch.look(130_100, 2), "nobody closes it");
    }

    #[test]
    fn a_copy_is_complete_soon_after_it_gets_its_own_name() {
        let mut watch = Watch::new();
        let temporary = Path::new("a");
        for (size, at) in [(1, 0), (2, 500), (3, 1000), (4, 1500)] {
            watch.writers.wrote(temporary, watch.at(at));
            assert!(watch.look(at, size), "it grows");
        }
        // Closed and renamed at once: the record of its writer goes with the name.
        watch.writers.closed(temporary, watch.at(1600));
        watch.writers.moved(temporary);
        let mut look = |millis: u64| {
            let now = watch.start + Duration::from_millis(millis);
            let settling = &mut watch.settling;
            settling.is_being_written(Path::new("b"), &stat(4), &watch.writers, now)
        };
        assert!(look(1700), "it was open when it was last looked at");
        assert!(!look(2700), "a moment later");
    }

    #[test]
    fn a_file_that_got_another_name_is_as_complete_as_it_was() {
        let mut watch = Watch::new();
        assert!(watch.look(0, 1));
        watch.writers.moved(Path::new("a"));
        let now = watch.at(1100);
        watch.settling.begin();
        let other = Path::new("b");
        assert!(!watch.settling.is_being_written(other, &stat(1), &watch.writers, now));
    }
}
