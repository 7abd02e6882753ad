//! Work that other threads do: on many things at once, or what may not come back.

use std::io;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

/// What `one` makes of each of `items`, in their order. At most `most` threads take one after the
/// other, the caller among them; where fewer can be had, those that there are do all.
pub(crate) fn map<T: Sync, R: Send>(
    items: &[T],
    most: usize,
    one: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Vec::with_capacity(items.len()));
    let work = || {
        let mut done = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(n) else { break };
            done.push((n, one(item)));
        }
        all.lock().append(&mut done);
    };
    thread::scope(|scope| {
        for _ in 1..most.min(items.len()) {
            let _none = thread::Builder::new().spawn_scoped(scope, work).is_err();
        }
        work();
    });
    let mut all = all.into_inner();
    all.sort_unstable_by_key(|(n, _)| *n);
    all.into_iter().map(|(_, made)| made).collect()
}

/// What both make: at the same time, where a thread more can be had.
pub(crate) fn both<A: Send, B>(aside: impl Fn() -> A + Sync, here: impl FnOnce() -> B) -> (A, B) {
    thread::scope(|scope| {
        let helper = thread::Builder::new().spawn_scoped(scope, &aside);
        let here = here();
        let made = match helper {
            Ok(helper) => helper.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => aside(),
        };
        (made, here)
    })
}

/// What comes of a question that may never be answered; none if it was not in time. The thread that
/// asked is left to wait then.
///
/// # Errors
///
/// If no thread can be had.
pub(crate) fn within<R: Send + 'static>(
    time: Duration,
    ask: impl FnOnce() -> R + Send + 'static,
) -> io::Result<Option<R>> {
    let (tell, answer) = channel();
    thread::Builder::new().spawn(move || tell.send(ask()))?;
    Ok(answer.recv_timeout(time).ok())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let items: Vec<usize> = (0..1000).collect();
        for most in [1, 2, 7, 2000] {
            assert_eq!(
                map(&items, most, |n| n * 2),
                items.iter().map(|n| n * 2).collect::<Vec<_>>()
            );
        }
        assert!(map(&[] as &[usize], 4, |n| *n).is_empty());
    }

    #[test]
    fn as_many_items_are_worked_on_at_once_as_is_said() {
        // Each waits for the two others: with fewer threads it would never end.
        let three = Barrier::new(3);
        assert_eq!(map(&[(); 3], 3, |()| three.wait()).len(), 3);
    }

    #[test]
    fn both_are_worked_on_at_once() {
        // Each waits for the other.
        let two = Barrier::new(2);
        let wait = |name: &'static str| {
            two.wait();
            name
        };
        assert_eq!(both(|| wait("aside"), || wait("here")), ("aside", "here"));
    }

    #[test]
    #[should_panic(expected = "what it panics with")]
    fn a_panic_aside_is_one_here() {
        both(|| panic!("what it panics with"), || ());
    }
}
