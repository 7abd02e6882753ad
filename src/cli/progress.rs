//! How far a long work is: a bar on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use super::size::human_size;
use crate::restore::{Phase, Progress};

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(10);

const WORKING: &str = "{msg} [{bar:25}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
const WAITING: &str = "{msg} {elapsed}";

/// Tells of the work on one disk after the other.
pub(super) struct Teller {
    shows: Shows,
    name: Mutex<String>,
    doing: Mutex<Doing>,
    done: AtomicU64,
}

enum Shows {
    Nothing,
    Bar(ProgressBar),
    Lines,
}

struct Doing {
    what: &'static str,
    all: u64,
    since: Instant,
    told: Instant,
}

impl Teller {
    /// One that is silent if that is wanted.
    pub(super) fn new(quiet: bool) -> Self {
        let shows = if quiet {
            Shows::Nothing
        } else if io::stderr().is_terminal() {
            Shows::Bar(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()))
        } else {
            Shows::Lines
        };
        let now = Instant::now();
        let doing = Mutex::new(Doing { what: "", all: 0, since: now, told: now });
        Self { shows, name: Mutex::default(), doing, done: AtomicU64::new(0) }
    }

    /// What comes is about this disk.
    pub(super) fn about(&self, name: &str) {
        name.clone_into(&mut self.name.lock());
    }

    /// Leaves the terminal to others.
    pub(super) fn clear(&self) {
        if let Shows::Bar(bar) = &self.shows {
            bar.finish_and_clear();
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
    fn line(&self, doing: &Doing) {
        let done = self.done.load(Ordering::Relaxed);
        let seconds = doing.since.elapsed().as_secs_f64().max(0.001);
        let rate = human_size((done as f64 / seconds) as u64);
        let percent = done.saturating_mul(100) / doing.all.max(1);
        let (name, what) = (self.name.lock(), doing.what);
        let left = seconds * doing.all.saturating_sub(done) as f64 / done.max(1) as f64;
        // What would take centuries has just not begun.
        let left = Duration::try_from_secs_f64(left.round()).unwrap_or_default();
        let (left, done, all) = (HumanDuration(left), human_size(done), human_size(doing.all));
        // If nobody can read it, the work goes on.
        let _unread = writeln!(
            io::stderr(),
            "{what} {name}: {done} of {all} ({percent} %), {rate}/s, {left} left"
        );
    }
}

impl Progress for Teller {
    fn begin(&self, phase: Phase, bytes: u64) {
        let what = match phase {
            Phase::Copy => "restoring",
            Phase::Sync => "waiting for the disk:",
            Phase::Verify => "verifying",
        };
        self.done.store(0, Ordering::Relaxed);
        let now = Instant::now();
        *self.doing.lock() = Doing { what, all: bytes, since: now, told: now };
        if let Shows::Bar(bar) = &self.shows {
            // Nobody knows how long a disk takes to write what it was given.
            let how = if bytes == 0 { WAITING } else { WORKING };
            if let Ok(style) = ProgressStyle::with_template(how) {
                bar.set_style(style);
            }
            bar.reset();
            bar.set_length(bytes);
            bar.set_message(format!("{what} {}", self.name.lock()));
        }
    }

    fn tick(&self, bytes: u64) {
        match &self.shows {
            Shows::Nothing => {}
            Shows::Bar(bar) => bar.inc(bytes),
            Shows::Lines => {
                self.done.fetch_add(bytes, Ordering::Relaxed);
                if let Some(mut doing) = self.doing.try_lock()
                    && doing.told.elapsed() >= PAUSE
                {
                    doing.told = Instant::now();
                    self.line(&doing);
                }
            }
        }
    }
}
