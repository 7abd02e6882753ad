//! Pages of 2 MiB for a file on a tmpfs.
//!
//! In the pages of 4 KiB that a tmpfs has unless it is mounted otherwise, making the pages takes more
//! time than filling them. `MADV_COLLAPSE` (Linux 6.1) turns a range of a file into one large page,
//! holes included, whatever the system's settings for large pages say: they are about what happens
//! unasked. It is asked for only where all of a large page is data, so no memory is taken but what
//! the data takes anyway. Where it cannot be had, or not soon (the kernel has to move others' pages, or
//! the host of a virtual machine has to give the memory first), small pages do.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::debug;
use parking_lot::Mutex;

use crate::sys::Mapping;

/// Bytes of a large page, on the processors that have this size.
const LARGE: u64 = 2 << 20;
const SIZE_FILE: &str = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
/// `linux/magic.h`.
const TMPFS_MAGIC: i128 = 0x0102_1994;

/// What small pages for as much take; a large one that is at hand takes a fifth of it.
const TOO_LONG: Duration = Duration::from_millis(1);
/// So many are made before it is said how long they take.
const FEW: u32 = 4;

/// Whether large pages are asked for.
#[derive(Debug)]
pub(super) struct LargePages {
    are_to_be_had: AtomicBool,
    /// How many there are, and how long they took.
    made: Mutex<(u32, Duration)>,
}

impl LargePages {
    /// For a new file.
    pub(super) fn of(file: &File) -> Self {
        let is_tmpfs = || {
            let stat = rustix::fs::fstatfs(file);
            stat.is_ok_and(|stat| i128::from(stat.f_type) & 0xffff_ffff == TMPFS_MAGIC)
        };
        let has_size = || {
            let size = std::fs::read_to_string(SIZE_FILE).ok();
            size.and_then(|size| size.trim().parse().ok()) == Some(LARGE)
        };
        let are_to_be_had = AtomicBool::new(is_tmpfs() && has_size());
        Self { are_to_be_had, made: Mutex::default() }
    }

    /// Bytes of a large page; `None` where there are none.
    pub(super) fn size(&self) -> Option<u64> {
        self.are_to_be_had.load(Ordering::Relaxed).then_some(LARGE)
    }

    /// Makes the pages beneath a range that is about to be written, as far as they lie in it as a
    /// whole. `mapping` is that of the part of the file around it, for the next time.
    pub(super) fn make(
        &self,
        file: &File,
        unit: &Range<u64>,
        range: Range<u64>,
        mapping: &mut Option<Mapping>,
    ) {
        let (mut at, end) = (range.start.next_multiple_of(LARGE), range.end - range.end % LARGE);
        while at < end && self.size().is_some() {
            match one(file, unit, at, mapping) {
                Ok(took) => self.judge(took),
                // Somebody else looks at the pages just now: this one stays small.
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.judge(2 * TOO_LONG),
                // It would be as dear to fail as to succeed.
                Err(e) => self.give_up(&e.to_string()),
            }
            at += LARGE;
        }
    }

    fn judge(&self, took: Duration) {
        let mut made = self.made.lock();
        let (count, all) = (made.0.saturating_add(1), made.1 + took);
        *made = (count, all);
        if count >= FEW && all / count > TOO_LONG {
            self.give_up(&format!("{count} large ones took {all:?}"));
        }
    }

    fn give_up(&self, why: &str) {
        debug!("small pages from here on: {why}");
        self.are_to_be_had.store(false, Ordering::Relaxed);
    }
}

/// Makes the large page at an offset. Returns how long it took.
fn one(
    file: &File,
    unit: &Range<u64>,
    at: u64,
    mapping: &mut Option<Mapping>,
) -> io::Result<Duration> {
    let mapping = match mapping {
        Some(mapping) => mapping,
        None => mapping.insert(Mapping::new(file, unit.clone(), LARGE)?),
    };
    // Of a range that has nothing at all the kernel makes no page.
    file.write_all_at(&[0], at)?;
    // To wait for who else writes to the file is not what it takes.
    let begun = Instant::now();
    mapping.collapse(at..at + LARGE)?;
    Ok(begun.elapsed())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn pages() -> LargePages {
        LargePages { are_to_be_had: AtomicBool::new(true), made: Mutex::default() }
    }

    #[test]
    fn pages_that_come_slowly_are_given_up() {
        let pages = pages();
        (1..FEW).for_each(|_| pages.judge(TOO_LONG * 2));
        assert_eq!(pages.size(), Some(LARGE));
        pages.judge(TOO_LONG * 2);
        assert_eq!(pages.size(), None);
    }

    #[test]
    fn one_slow_page_among_others_is_no_reason() {
        let pages = pages();
        (0..100).for_each(|_| pages.judge(TOO_LONG / 5));
        pages.judge(TOO_LONG * 50);
        assert_eq!(pages.size(), Some(LARGE));
    }

    #[test]
    fn pages_keep_the_bytes_that_are_there_and_are_zeros_otherwise() {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(4 * LARGE + 1).unwrap();
        let mut model = vec![0; usize::try_from(4 * LARGE + 1).unwrap()];
        for at in [0, LARGE + 1, LARGE + 70_000, 4 * LARGE] {
            file.write_all_at(b"s", at).unwrap();
            model[usize::try_from(at).unwrap()] = b's';
        }
        let (pages, mut mapping) = (LargePages::of(&file), None);
        pages.make(&file, &(0..4 * LARGE + 1), LARGE - 1..4 * LARGE + 1, &mut mapping);
        let mut found = vec![1; model.len()];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == model);
        // What is not whole within the range is left alone.
        let taken = file.metadata().unwrap().blocks() * 512;
        // More where the whole tmpfs is of large ones.
        let least = if pages.size().is_none() { 0 } else { LARGE };
        assert!((least..=5 * LARGE).contains(&taken), "{taken}");
    }

    #[test]
    fn a_file_elsewhere_has_none() {
        let file = File::open("/proc/self/stat").unwrap();
        assert_eq!(LargePages::of(&file).size(), None);
    }
}
