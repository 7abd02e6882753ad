//! Readers that were told to stop while the source lets them wait.
//!
//! The kernel tells a file system of a signal by `FUSE_INTERRUPT`, which the FUSE library refuses
//! and keeps to itself; and of an `O_DIRECT` read, which it waits for uninterruptibly, not even that.
//! A reader that bypasses the page cache (ddrescue, dd) could then not be stopped, not even killed,
//! until a stuck device answers. So the requests of such readers lie open while they are worked
//! on, and those that wait are looked after: where a signal that asks the reader to stop is pending,
//! EINTR is the answer, at once. What the source gives later is thrown away.
//!
//! Readers by way of the page cache are left alone: the kernel ends those that are killed by
//! itself, no file system interrupts the others, and a page fault could not take the error.

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use fuser::{Errno, ReplyData};
use log::warn;
use parking_lot::Mutex;

/// Between two looks at who waits. A reader that is there at both has waited for long.
const INTERVAL: Duration = Duration::from_millis(250);

/// Signals by which somebody wants a program to end: HUP, INT, QUIT, KILL, TERM. Others (timers,
/// children, windows) are no reason to fail a read of a program that is not made for it.
const STOPPING: u64 = 1 << (libc::SIGHUP - 1)
    | 1 << (libc::SIGINT - 1)
    | 1 << (libc::SIGQUIT - 1)
    | 1 << (libc::SIGKILL - 1)
    | 1 << (libc::SIGTERM - 1);

static WATCH: LazyLock<Watch> = LazyLock::new(Watch::start);

thread_local! {
    /// A thread that serves the kernel works on one request at a time.
    static DESK: Arc<Desk> = WATCH.desk();
}

/// The request that one thread works on, if its reader can be told to go.
#[derive(Default)]
struct Desk {
    request: Mutex<Option<Open>>,
    /// Requests that were put here so far.
    count: AtomicU64,
}

struct Open {
    reader: u32,
    reply: ReplyData,
}

/// All desks, and the thread that looks at them.
struct Watch {
    desks: Arc<Mutex<Vec<Arc<Desk>>>>,
    asleep: Arc<AtomicBool>,
    /// None where it could not be started: then nobody is told to go.
    thread: Option<Thread>,
}

impl Watch {
    fn start() -> Self {
        let desks = Arc::<Mutex<Vec<Arc<Desk>>>>::default();
        let asleep = Arc::<AtomicBool>::default();
        let watched = (Arc::clone(&desks), Arc::clone(&asleep));
        let started = thread::Builder::new()
            .name("waiting".to_owned())
            .spawn(move || watch(&watched.0, &watched.1));
        if let Err(e) = &started {
            warn!("readers of a source that does not answer will not be interrupted: {e}");
        }
        Self { desks, asleep, thread: started.ok().map(|handle| handle.thread().clone()) }
    }

    fn desk(&self) -> Arc<Desk> {
        let desk = Arc::<Desk>::default();
        self.desks.lock().push(Arc::clone(&desk));
        desk
    }

    fn wake(&self) {
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.swap(false, Ordering::AcqRel)
            && let Some(thread) = &self.thread
        {
            thread.unpark();
        }
    }
}

/// Puts aside the reply to a request of `reader` (a thread's number) while the caller works on it,
/// for [`take`]. Gives back those of readers that nobody could look at.
pub(super) fn hold(reader: u32, reply: ReplyData) -> Option<ReplyData> {
    if reader == 0 || WATCH.thread.is_none() {
        return Some(reply);
    }
    DESK.with(|desk| {
        *desk.request.lock() = Some(Open { reader, reply });
        desk.count.fetch_add(1, Ordering::Relaxed);
    });
    WATCH.wake();
    None
}

/// Takes back what this thread put aside; `None` where the reader has had its answer.
pub(super) fn take() -> Option<ReplyData> {
    DESK.with(|desk| desk.request.lock().take()).map(|open| open.reply)
}

fn watch(desks: &Mutex<Vec<Arc<Desk>>>, asleep: &AtomicBool) {
    let mut seen: Vec<u64> = Vec::new();
    loop {
        let now = desks.lock().clone();
        let counts: Vec<_> = now.iter().map(|desk| desk.count.load(Ordering::Relaxed)).collect();
        for (desk, _) in now.iter().zip(counts.iter().zip(&seen)).filter(|(_, (a, b))| a == b) {
            desk.look();
        }
        if counts == seen && now.iter().all(|desk| desk.request.lock().is_none()) {
            // One that comes now finds us asleep, and wakes us.
            asleep.store(true, Ordering::Release);
            thread::park_timeout(INTERVAL * 240);
        }
        seen = counts;
        thread::sleep(INTERVAL);
    }
}

impl Desk {
    fn look(&self) {
        let Some(reader) = self.request.lock().as_ref().map(|open| open.reader) else { return };
        if !is_told_to_stop(reader) {
            return;
        }
        let mut request = self.request.lock();
        // Another reader's may lie there by now.
        if request.as_ref().is_some_and(|open| open.reader == reader)
            && let Some(open) = request.take()
        {
            open.reply.error(Errno::EINTR);
        }
    }
}

/// Whether a signal that asks to stop is pending for a thread that does not block it. A thread
/// that cannot be seen from here (another PID namespace, `hidepid`) is left alone.
fn is_told_to_stop(thread: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    pending(&status) & STOPPING != 0
}

/// The signals that a thread's `status` (`proc_pid_status(5)`) says are pending and not blocked.
fn pending(status: &str) -> u64 {
    let mask = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        value.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
    };
    (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(own: u64, shared: u64, blocked: u64) -> String {
        format!(
            "Name:\tdd\nPid:\t7\nSigQ:\t1/95797\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\n\
             SigBlk:\t{blocked:016x}\nSigIgn:\t0000000000000000\n"
        )
    }

    #[test]
    fn signals_of_the_thread_and_of_its_process_count_unless_blocked() {
        let int = 1 << (libc::SIGINT - 1);
        assert_eq!(pending(&status(0, 0, 0)), 0);
        assert_eq!(pending(&status(int, 0, 0)), int);
        assert_eq!(pending(&status(0, int, 0)), int);
        assert_eq!(pending(&status(int, int, int)), 0);
        assert_eq!(pending("no such line"), 0);
    }

    #[test]
    fn a_timer_or_a_child_stops_nobody() {
        for signal in [libc::SIGALRM, libc::SIGPROF, libc::SIGCHLD, libc::SIGWINCH, libc::SIGURG] {
            assert_eq!(STOPPING & (1 << (signal - 1)), 0, "signal {signal}");
        }
        assert_ne!(STOPPING & (1 << (libc::SIGKILL - 1)), 0);
    }
}
