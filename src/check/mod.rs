//! Whether the backups can be relied on: every file verified, and the restore points that are
//! spoiled by what is wrong.
//!
//! [`Check::new`] decides which files to look at and how, [`Check::run`] looks at them with a few
//! threads, and [`Report`] says what came out, in the order of the files' paths. A file's format is
//! walked by its layer ([`crate::layer`]); this module knows files, chains and checksums.

mod checksum;
mod file;
mod jobs;
mod meter;
mod reading;
mod report;
mod spoiled;
mod subset;
mod trouble;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use self::file::Outcome;
use self::jobs::{Job, Jobs};
pub use self::report::{FileReport, Ignored, Problem, Report, State, Summary};
use self::subset::Subset;
use crate::chain::catalog::Catalog;
use crate::error::{Error, Result};
use crate::tree::plan::Plan;

/// More threads only make a disk seek.
const MOST_THREADS: usize = 8;

/// A check that was not run yet.
#[derive(Debug)]
pub struct Check<'a> {
    catalog: &'a Catalog,
    jobs: Jobs,
}

impl<'a> Check<'a> {
    /// All that there is to verify in a source.
    pub fn new(catalog: &'a Catalog) -> Self {
        Self { catalog, jobs: Jobs::new(catalog) }
    }

    /// The part of it that these words name: files and folders of the source, disks and restore
    /// points of the view, with their chains.
    pub fn of(catalog: &'a Catalog, plan: &Plan, words: &[PathBuf]) -> Result<Self> {
        let mut check = Self::new(catalog);
        Subset::new(catalog, plan, words)?.keep(&mut check.jobs);
        if check.jobs.list.is_empty() {
            let words: Vec<_> = words.iter().map(|word| word.display().to_string()).collect();
            let what = format!("there is nothing to verify in {}", words.join(", "));
            return Err(Error::Usage(what));
        }
        Ok(check)
    }

    /// How many bytes [`Self::run`] will say that it has read: an estimate of those that it has to.
    pub fn bytes(&self) -> u64 {
        self.jobs.list.iter().map(|job| job.bytes).fold(0, u64::saturating_add)
    }

    /// Verifies everything. `tick` is told of the bytes read, by several threads. `plan` has the
    /// names of the restore points.
    pub fn run(&self, plan: &Plan, tick: &(dyn Fn(u64) + Sync)) -> Report {
        let outcomes = self.outcomes(tick);
        Report::new(self.catalog, plan, &self.jobs, outcomes)
    }

    /// One outcome for each job, in their order.
    fn outcomes(&self, tick: &(dyn Fn(u64) + Sync)) -> Vec<Outcome> {
        let jobs: &[Job] = &self.jobs.list;
        let mut order: Vec<usize> = (0..jobs.len()).collect();
        // The largest file must not be begun last, when all others are done.
        order.sort_by_key(|&n| std::cmp::Reverse(jobs.get(n).map_or(0, |job| job.bytes)));
        let done: Vec<OnceLock<Outcome>> = jobs.iter().map(|_| OnceLock::new()).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(&n) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let (Some(job), Some(slot)) = (jobs.get(n), done.get(n)) {
                    slot.get_or_init(|| file::check(self.catalog, job, tick));
                }
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 1..threads.min(MOST_THREADS).min(jobs.len()) {
                // Those that can be had do all.
                let _none = thread::Builder::new().spawn_scoped(scope, work).is_err();
            }
            work();
        });
        done.into_iter().map(|slot| slot.into_inner().unwrap_or_default()).collect()
    }
}
