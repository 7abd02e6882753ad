//! A disk taken apart into units, for several threads.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::view::DiskImage;

/// Bytes of a unit: as much as the largest packed chunk of a stream, so that mostly one thread
/// unpacks all of one; and a multiple of every cluster size.
pub(super) const UNIT: u64 = 32 << 20;

/// More threads have not been seen to help.
const MOST_THREADS: usize = 8;

/// Set by whoever wants a restore to end before it is done.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// The flag, for a handler of signals.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// An error if it is to end.
    pub(super) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Error::Usage("interrupted".into()));
        }
        Ok(())
    }
}

/// What came of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// There was nothing but holes in it.
    Empty,
    /// There was something in it.
    Filled,
}

/// Hands out the units of a disk to several threads, each of which has a `work` of its own; what is
/// known to be nothing but holes is not handed out but told to `skip`. Ends at the first error.
pub(super) fn each_unit<W>(
    image: &DiskImage,
    stop: &Stop,
    new_work: impl Fn() -> W + Sync,
    skip: impl Fn(Range<u64>) -> Result<()> + Sync,
) -> Result<()>
where
    W: FnMut(Range<u64>) -> Result<Unit>,
{
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let failure: Mutex<Option<(u64, Error)>> = Mutex::new(None);
    let one = |start: u64, work: &mut W| -> Result<()> {
        stop.check()?;
        let unit = start..(start + UNIT).min(image.size());
        if work(unit.clone())? == Unit::Empty {
            let empty = image.empty_until(unit.end);
            let empty = empty - if empty == image.size() { 0 } else { empty % UNIT };
            // Others may have taken units from there meanwhile, which they will see to.
            let from = next.fetch_max(empty, Ordering::Relaxed);
            if from < empty {
                skip(from..empty)?;
            }
        }
        Ok(())
    };
    let run = || {
        let mut work = new_work();
        while !failed.load(Ordering::Relaxed) {
            let start = next.fetch_add(UNIT, Ordering::Relaxed);
            if start >= image.size() {
                break;
            }
            if let Err(e) = one(start, &mut work) {
                failed.store(true, Ordering::Relaxed);
                let mut first = failure.lock();
                if first.as_ref().is_none_or(|(at, _)| start < *at) {
                    *first = Some((start, e));
                }
            }
        }
    };
    let units = usize::try_from(image.size().div_ceil(UNIT)).unwrap_or(usize::MAX);
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    // Two on one processor: the one reads while the other writes.
    let threads = cpus.clamp(2, MOST_THREADS).min(units);
    thread::scope(|scope| {
        for _ in 1..threads {
            // Without the thread, the others do its work.
            let _none = thread::Builder::new().spawn_scoped(scope, run).is_err();
        }
        run();
    });
    failure.into_inner().map_or(Ok(()), |(_, e)| Err(e))
}
