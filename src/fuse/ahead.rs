//! Brings what a reader in order will want next into the kernel's cache before it is asked for.
//!
//! The kernel reads ahead by itself, but the reader's processor does most of that: it makes the pages,
//! sends the requests and waits. Here a thread of its own puts bytes into the cache
//! (`FUSE_NOTIFY_STORE`) in front of what the kernel has asked for: reader and daemon share the
//! work of one stream. The reader is the faster of the two, as it only has to copy what it finds; when
//! it comes to the end of what was put there, the kernel asks again, and that says how far it is.
//!
//! Nothing rests on it: what it does not bring the kernel asks for, and what it could not read is
//! told to the one who asks. It must be no thread that serves the kernel: a page is put into the
//! cache only when no request for it is under way any more.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;

use fuser::{INodeNo, Notifier};
use log::debug;
use parking_lot::{Condvar, Mutex};

use super::content;
use super::handles::OpenFile;
use crate::tree::Opened;

/// Bytes that are put into the cache at a time.
const STEP: u32 = 256 << 10;
/// The kernel has asked for so much more than what has been taken from its queue, at most: its
/// own read-ahead (see `raise_read_ahead`). Bytes.
const ASKED_FOR: u64 = 4 << 20;
/// Nothing is brought before so much was read in order; bytes.
const LEAST: u64 = 4 << 20;
/// So far in front of the reader it goes at most, and never further than it has seen the reader
/// come: what nobody wants in the end is no more than what somebody wanted. Bytes.
const MOST: u64 = 16 << 20;
/// Readers that are served at once. Those of more share neither memory nor processor well.
const MOST_READERS: usize = 4;

/// Who puts bytes into the cache, and for whom.
#[derive(Debug, Default)]
pub struct Ahead {
    queue: Mutex<Queue>,
    is_more: Condvar,
    bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    /// Nobody is taken in before somebody serves them, and after that.
    is_open: bool,
    readers: VecDeque<(INodeNo, Weak<OpenFile>)>,
}

impl Ahead {
    /// Starts the thread, unless there is only one processor: that has other work.
    pub fn start(self: &Arc<Self>, kernel: Notifier) -> io::Result<()> {
        if thread::available_parallelism().map_or(1, usize::from) < 2 {
            return Ok(());
        }
        let ahead = Arc::clone(self);
        let serve = move || ahead.serve(&kernel);
        self.queue.lock().is_open = true;
        let started = thread::Builder::new().name("ahead".to_owned()).spawn(serve);
        started.map(drop).inspect_err(|_| self.end())
    }

    /// Lets the thread end.
    pub fn end(&self) {
        let mut queue = self.queue.lock();
        queue.is_open = false;
        queue.readers.clear();
        self.is_more.notify_all();
    }

    /// Bytes that were put into the cache so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Notes that the kernel asked for a range on its reader's behalf.
    pub(super) fn note(&self, ino: INodeNo, file: &Arc<OpenFile>, offset: u64, size: u32) {
        if matches!(file.file, Opened::Text(_)) {
            return;
        }
        let mut run = file.run.lock();
        run.note(offset, size);
        if run.is_queued || run.next().is_none() {
            return;
        }
        let mut queue = self.queue.lock();
        if queue.is_open && queue.readers.len() < MOST_READERS {
            run.is_queued = true;
            queue.readers.push_back((ino, Arc::downgrade(file)));
            self.is_more.notify_one();
        }
    }

    fn serve(&self, kernel: &Notifier) {
        while let Some((ino, reader)) = self.first() {
            // One that was closed wants nothing.
            let Some(file) = reader.upgrade() else { continue };
            let Some(at) = file.run.lock().begin() else { continue };
            let brought = bring(kernel, ino, &file, at).unwrap_or_else(|e| {
                debug!("nothing is read ahead any more: {e}");
                self.end();
                0
            });
            self.bytes.fetch_add(brought, Ordering::Relaxed);
            if file.run.lock().end(at, brought) {
                self.queue.lock().readers.push_back((ino, reader));
            }
        }
    }

    /// Who is next, or `None` at the end.
    fn first(&self) -> Option<(INodeNo, Weak<OpenFile>)> {
        let mut queue = self.queue.lock();
        loop {
            if !queue.is_open {
                return None;
            }
            match queue.readers.pop_front() {
                Some(reader) => return Some(reader),
                None => self.is_more.wait(&mut queue),
            }
        }
    }
}

/// Puts one step into the cache. Returns how many bytes: none at the end of the file, or where it
/// cannot be read, which is told to whoever asks for it. An error means that the kernel takes nothing.
fn bring(kernel: &Notifier, ino: INodeNo, file: &OpenFile, at: u64) -> io::Result<u64> {
    content::read(&file.file, at, STEP, |piece| {
        if piece.fault.is_some() || piece.bytes.is_empty() {
            return Ok(0);
        }
        kernel.store(ino, at, piece.bytes)?;
        Ok(piece.bytes.len() as u64)
    })
}

/// What was asked for of one open file, as far as it is in order; bytes.
#[derive(Debug, Default)]
pub(super) struct Run {
    start: u64,
    end: u64,
    /// How much was asked for.
    seen: u64,
    /// Until where something was put into the cache.
    brought: u64,
    /// The end of the file, or bytes that cannot be read.
    is_over: bool,
    is_queued: bool,
    /// The step that is under way.
    under_way: Option<u64>,
}

impl Run {
    /// Requests come from several threads, so a little out of order, and what was brought is not
    /// asked for.
    fn note(&mut self, offset: u64, size: u32) {
        let end = offset.saturating_add(u64::from(size));
        let reach = self.end.saturating_sub(ASKED_FOR)
            ..=self.end.max(self.brought).saturating_add(ASKED_FOR);
        if reach.contains(&offset) && offset >= self.start {
            self.end = self.end.max(end);
        } else {
            *self = Self { start: offset, end, is_queued: self.is_queued, ..Self::default() };
        }
        self.seen += u64::from(size);
    }

    /// Where the next step begins, if one is wanted.
    fn next(&self) -> Option<u64> {
        if self.is_over || self.seen < LEAST {
            return None;
        }
        let first = self.end.checked_add(ASKED_FOR)?.checked_next_multiple_of(u64::from(STEP))?;
        let next = self.brought.max(first);
        (next < first.saturating_add(self.seen.min(MOST))).then_some(next)
    }

    /// Where to begin the next step, for the one who makes it.
    fn begin(&mut self) -> Option<u64> {
        let next = self.next();
        self.is_queued = next.is_some();
        self.under_way = next;
        next
    }

    /// Notes what a step came to. Returns whether there may be another one to be made.
    fn end(&mut self, at: u64, brought: u64) -> bool {
        // The reader may have gone elsewhere meanwhile.
        if self.under_way.take() == Some(at) {
            self.brought = self.brought.max(at + brought);
            self.is_over = brought == 0;
        }
        self.is_queued = !self.is_over;
        self.is_queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = super::STEP as u64;

    fn run(requests: impl IntoIterator<Item = u64>) -> Run {
        let mut run = Run::default();
        for request in requests {
            run.note(request * STEP, super::STEP);
        }
        run
    }

    #[test]
    fn nothing_is_brought_before_the_reader_has_shown_an_order() {
        let least = LEAST / STEP;
        assert_eq!(run(0..least - 1).next(), None);
        assert_eq!(run(0..least).next(), Some(LEAST + ASKED_FOR));
        assert_eq!(run((0..1000).map(|n| n * 7919 % 100_000)).next(), None);
        let mut leaps = Run::default();
        for leap in 0..100 {
            leaps.note(leap * (3 << 20), 4096);
        }
        assert_eq!(leaps.next(), None);
    }

    #[test]
    fn requests_may_overtake_each_other() {
        let swapped = (0..LEAST / STEP).map(|n| n ^ 3);
        assert_eq!(run(swapped).next(), Some(LEAST + ASKED_FOR));
    }

    #[test]
    fn it_goes_no_further_than_the_reader_came_and_than_the_most() {
        for seen in [LEAST, 2 * LEAST, MOST, 2 * MOST] {
            let mut run = run(0..seen / STEP);
            let mut steps = 0;
            while let Some(next) = run.next() {
                run.brought = next + STEP;
                steps += 1;
            }
            assert_eq!(steps * STEP, seen.min(MOST));
        }
    }

    #[test]
    fn what_was_brought_is_not_asked_for_and_the_run_goes_on_behind_it() {
        let mut run = run(0..MOST / STEP);
        while let Some(next) = run.next() {
            run.brought = next + STEP;
        }
        let behind = run.brought;
        run.note(behind, super::STEP);
        assert_eq!(run.next(), Some(behind + STEP + ASKED_FOR));
    }

    #[test]
    fn a_reader_that_overtakes_is_not_brought_what_it_has() {
        let mut run = run(0..MOST / STEP);
        run.brought = run.next().unwrap() + STEP;
        let there = run.brought + ASKED_FOR;
        run.note(there, super::STEP);
        assert_eq!(run.next(), Some(there + STEP + ASKED_FOR));
    }

    #[test]
    fn another_place_is_another_run() {
        for elsewhere in [0, 1 << 40] {
            let mut run = run(100_000..100_000 + MOST / STEP);
            run.is_over = true;
            run.note(elsewhere, super::STEP);
            assert_eq!(run.next(), None);
            for n in 1..LEAST / STEP {
                run.note(elsewhere + n * STEP, super::STEP);
            }
            assert_eq!(run.next(), Some(elsewhere + LEAST + ASKED_FOR));
        }
    }

    #[test]
    fn a_step_that_ends_when_the_reader_is_elsewhere_says_nothing_of_there() {
        for brought in [0, STEP] {
            let mut run = run(100_000..100_000 + MOST / STEP);
            let at = run.begin().unwrap();
            for n in 0..LEAST / STEP {
                run.note(n * STEP, super::STEP);
            }
            assert!(run.end(at, brought));
            assert_eq!(run.begin(), Some(LEAST + ASKED_FOR));
        }
    }

    #[test]
    fn nothing_more_is_brought_behind_the_end() {
        let mut run = run(0..MOST / STEP);
        let at = run.begin().unwrap();
        assert!(run.end(at, 512));
        let at = run.begin().unwrap();
        assert!(!run.end(at, 0));
        assert_eq!(run.begin(), None);
    }

    #[test]
    fn the_end_of_all_numbers_is_no_reason_to_panic() {
        let mut run = run([]);
        for back in (0..2 * LEAST / STEP).rev() {
            run.note(u64::MAX - back * STEP, super::STEP);
            let _next = run.next();
        }
    }
}
