//! Reads ahead of who reads in order, by a reader of our own.
//!
//! The kernel reads ahead by itself, but in the reader's time: it makes the pages, sends the requests
//! and copies what comes, while the daemon waits for the next request. Here a thread asks for what
//! comes next (`POSIX_FADV_WILLNEED`), on another processor, where it has only to be copied. A piece
//! in the middle of that is left out: where the reader comes to it, the kernel asks, and that says
//! how far he is.
//!
//! # A daemon that reads its own view
//!
//! must neither keep it from being unmounted nor wait for itself when it is killed:
//!
//! - The files are opened by a mount of the thread's own, which is nowhere in the tree of folders, so
//!   that the view is not in use by it (takes root; without it, nothing is read ahead). File and
//!   mount are let go with the reader's own file: what is left keeps the unmounted view alive.
//! - The thread has descriptors of its own, and none of those of the rest of the process. If that is
//!   killed while the thread waits for an answer, the last descriptor of the connection goes with the
//!   other threads, and the kernel ends the wait. (To put pages into the kernel's cache with
//!   `FUSE_NOTIFY_STORE` instead was measured to be as fast. It waits uninterruptibly for requests
//!   for these pages, with a descriptor of the connection in hand: a daemon that is killed then
//!   is never gone, nor is its mount.)
//! - A process that dumps its memory waits for all threads before it lets go of descriptors: it does
//!   not dump any.
//! - So nothing that it drops may hold a descriptor of somebody else's: orders are plain words.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{FileHandle, INodeNo, Request};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{
    Advice, AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, fadvise, fstat, openat2, statx,
};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::content;
use super::handles::OpenFile;
use super::run::left_out;
use crate::sys;
use crate::tree::Opened;

/// Asked for at a time: as much as the kernel takes in one go. Bytes.
const PIECE: u64 = 2 << 20;
/// Orders that wait. Readers of more files at once share neither memory nor processor well.
const MOST_ORDERS: usize = 8;
/// Who has had no order for so long is taken to be at another place by now.
const IDLE: Duration = Duration::from_secs(5);

/// Who reads ahead, and for whom.
#[derive(Debug, Default)]
pub struct Ahead {
    queue: Mutex<Queue>,
    is_more: Condvar,
    /// The number of the thread, which is how the kernel calls it; 0 if there is none.
    thread: AtomicU32,
    bytes: AtomicU64,
    files: AtomicIsize,
}

#[derive(Debug, Default)]
struct Queue {
    /// Nothing is ordered before somebody serves it, and after that.
    is_open: bool,
    orders: VecDeque<Order>,
    /// Whose order is worked on; none if he has gone meanwhile.
    served: Option<u64>,
}

#[derive(Debug)]
enum Order {
    /// To read a range of the file of a reader's handle.
    Read { handle: u64, file: Place, range: Range<u64> },
    /// The handle is gone.
    Close(u64),
}

/// Where a file is in the view, and its inode number.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    ino: u64,
}

impl Ahead {
    /// Starts the thread for a view that is mounted, unless there is only one processor: that has
    /// other work.
    pub fn start(self: &Arc<Self>, mount_point: &Path, device: (u32, u32)) -> io::Result<()> {
        if thread::available_parallelism().map_or(1, usize::from) < 2 {
            return Ok(());
        }
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        let (ahead, mount_point) = (Arc::clone(self), mount_point.to_path_buf());
        let serve = move || {
            if sys::leave_descriptors_behind().is_err() {
                return ahead.end();
            }
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            ahead.thread.store(tid.unsigned_abs(), Ordering::Relaxed);
            let (mount, open) = (None, HashMap::new());
            Helper { ahead: &ahead, mount_point, device, mount, open }.serve();
        };
        self.queue.lock().is_open = true;
        let started = thread::Builder::new().name("ahead".to_owned()).spawn(serve);
        started.map(drop).inspect_err(|_| self.end())
    }

    /// Lets the thread end.
    pub fn end(&self) {
        let mut queue = self.queue.lock();
        queue.is_open = false;
        queue.orders.clear();
        queue.served = None;
        self.is_more.notify_all();
    }

    /// Whether it is the thread that asks.
    pub(super) fn asks(&self, request: &Request) -> bool {
        let thread = self.thread.load(Ordering::Relaxed);
        thread != 0 && request.pid() == thread
    }

    /// Counts bytes that the thread asked for.
    pub(super) fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that the thread asked for so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Files that it has open.
    pub(super) fn files(&self) -> usize {
        usize::try_from(self.files.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Counts files that it opens, or closes.
    pub(super) fn count_files(&self, more: isize) {
        self.files.fetch_add(more, Ordering::Relaxed);
    }

    /// Notes what the kernel asks for on a reader's behalf, and has what comes next read ahead where that
    /// is in order. `place`: the file's inode number and path in the view.
    pub(super) fn note(
        &self,
        handle: FileHandle,
        file: &OpenFile,
        read: (u64, u32),
        place: impl FnOnce() -> (INodeNo, PathBuf),
    ) {
        if file.is_ours || matches!(file.file, Opened::Text(_)) || !self.takes_orders() {
            return;
        }
        let wanted = file.run.lock().note(read, content::size(&file.file), Instant::now());
        // To unpack takes more time than to ask for it; and who is asked at two places of a stream at
        // once unpacks parts of it twice.
        let wanted = wanted.map(|range| content::plain(&file.file, range));
        if let Some(range) = wanted.filter(|range| !range.is_empty()) {
            file.is_helped.store(true, Ordering::Relaxed);
            let (ino, path) = place();
            self.order(handle, ino, path, range);
        }
    }

    /// Whether orders are taken.
    fn takes_orders(&self) -> bool {
        let queue = self.queue.lock();
        queue.is_open && queue.orders.len() < MOST_ORDERS
    }

    /// Orders that a range of the file of a handle be read.
    fn order(&self, handle: FileHandle, ino: INodeNo, path: PathBuf, range: Range<u64>) {
        let file = Place { path, ino: ino.0 };
        self.push(Order::Read { handle: handle.0, file, range });
    }

    /// The handle of a reader, for whom something was ordered, is gone.
    pub(super) fn close(&self, handle: FileHandle) {
        let mut queue = self.queue.lock();
        let is_his =
            |order: &Order| matches!(order, Order::Read { handle: of, .. } if *of == handle.0);
        queue.orders.retain(|order| !is_his(order));
        queue.served.take_if(|served| *served == handle.0);
        drop(queue);
        self.push(Order::Close(handle.0));
    }

    /// Whether the one whose order is worked on still wants it.
    fn is_wanted(&self) -> bool {
        self.queue.lock().served.is_some()
    }

    fn push(&self, order: Order) {
        let mut queue = self.queue.lock();
        if queue.is_open {
            queue.orders.push_back(order);
            self.is_more.notify_one();
        }
    }
}

/// The thread.
struct Helper<'a> {
    ahead: &'a Ahead,
    mount_point: PathBuf,
    /// Major and minor number of the view's device.
    device: (u32, u32),
    /// The view's root, by a mount that nobody else sees.
    mount: Option<OwnedFd>,
    /// The files of readers' handles.
    open: HashMap<u64, File>,
}

/// What the thread is woken for.
enum Woken {
    Order(Order),
    Idle,
    Over,
}

impl Helper<'_> {
    fn serve(mut self) {
        loop {
            match self.wait() {
                Woken::Order(Order::Read { handle, file, range }) => {
                    // It is only help: whoever reads is told what is wrong.
                    let _helped = self.read(handle, &file, range);
                }
                Woken::Order(Order::Close(handle)) => drop(self.open.remove(&handle)),
                Woken::Idle => self.open.clear(),
                Woken::Over => return,
            }
            if self.open.is_empty() {
                self.mount = None;
            }
        }
    }

    fn wait(&self) -> Woken {
        let mut queue = self.ahead.queue.lock();
        loop {
            if !queue.is_open {
                return Woken::Over;
            }
            if let Some(order) = queue.orders.pop_front() {
                queue.served = match order {
                    Order::Read { handle, .. } => Some(handle),
                    Order::Close(_) => None,
                };
                return Woken::Order(order);
            }
            if self.open.is_empty() {
                self.ahead.is_more.wait(&mut queue);
            } else if self.ahead.is_more.wait_for(&mut queue, IDLE).timed_out() {
                return Woken::Idle;
            }
        }
    }

    fn read(&mut self, handle: u64, file: &Place, range: Range<u64>) -> io::Result<()> {
        if !self.open.contains_key(&handle) {
            let opened = self.open(file)?;
            self.open.insert(handle, opened);
        }
        let Some(file) = self.open.get(&handle) else { return Ok(()) };
        for piece in pieces(range) {
            if !self.ahead.is_wanted() {
                break;
            }
            let len = NonZeroU64::new(piece.end - piece.start);
            fadvise(file, piece.start, len, Advice::WillNeed)?;
        }
        Ok(())
    }

    fn open(&mut self, file: &Place) -> io::Result<File> {
        let mount = if let Some(mount) = self.mount.take() { mount } else { self.own_mount()? };
        let mount = self.mount.insert(mount);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let only = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let opened = File::from(openat2(mount, &file.path, flags, Mode::empty(), only)?);
        // Something else may be there by now.
        if fstat(&opened)?.st_ino == file.ino {
            Ok(opened)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    /// The view's root by a mount of our own.
    fn own_mount(&self) -> io::Result<OwnedFd> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_NO_AUTOMOUNT;
        let mount = open_tree(CWD, &self.mount_point, flags)?;
        // It may be gone by now, or covered by another one, which is not to be asked for anything.
        let how = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = statx(&mount, c"", how, StatxFlags::empty())?;
        if (stat.stx_dev_major, stat.stx_dev_minor) == self.device {
            Ok(mount)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }
}

/// The pieces of an order, without what is left out of it.
fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let left_out = left_out(&range);
    let halves = [range.start..left_out.start, left_out.end..range.end];
    halves.into_iter().flat_map(|half| {
        let starts = (half.start..half.end).step_by(usize::try_from(PIECE).unwrap_or(usize::MAX));
        starts.map(move |at| at..half.end.min(at + PIECE))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_but_the_middle() {
        for len in [0, 1, PIECE, PIECE + 1, 7 * PIECE, 32 << 20] {
            let range = 5..5 + len;
            let left_out = left_out(&range);
            let mut at = range.start;
            for piece in pieces(range.clone()) {
                assert!(piece.end - piece.start <= PIECE && piece.start < piece.end);
                if piece.start != at {
                    assert_eq!(at..piece.start, left_out);
                }
                at = piece.end;
            }
            assert_eq!(at, range.end);
        }
    }

    #[test]
    fn nothing_is_taken_before_the_start_and_after_the_end() {
        let ahead = Ahead::default();
        assert!(!ahead.takes_orders());
        ahead.close(FileHandle(1));
        assert!(ahead.queue.lock().orders.is_empty());
        ahead.queue.lock().is_open = true;
        ahead.order(FileHandle(1), INodeNo(2), "a".into(), 0..1);
        assert!(ahead.takes_orders());
        ahead.end();
        assert!(!ahead.takes_orders() && ahead.queue.lock().orders.is_empty());
    }
}
