//! Files of the source, opened when they are read and closed when others need the
//! descriptors: a source may hold far more files than a process may have open.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use rustix::fs::SeekFrom;
use rustix::io::retry_on_intr;

use super::root::{FileStat, file_stat};
use super::roots::Roots;
use super::{Allocation, AllocationState, Cloned, Hold, Source};
use crate::error::{Error, Result};
use crate::sys;

/// Descriptors kept free for everything else: the FUSE device, folders, logs.
const RESERVED_DESCRIPTORS: u64 = 64;
/// More open files than this gain nothing: so many that may be closed, and so many that are held.
const MOST_DESCRIPTORS: u64 = 8192;

/// Where QEMU locks byte 100 + n of an image it holds permission n of (block/file-posix.c).
const QEMU_LOCK_WRITE: Range<i64> = 101..102;

/// The open files of one source, at most as many as the process may have.
#[derive(Debug)]
struct Descriptors {
    roots: Arc<Roots>,
    open: Cache<u64, Arc<File>>,
    next_id: AtomicU64,
    /// How many files are held, and how many may be.
    held: AtomicUsize,
    most_held: usize,
}

/// A file that stays open for as long as somebody holds it.
#[derive(Debug)]
struct HeldFile {
    file: Arc<File>,
    descriptors: Arc<Descriptors>,
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        self.descriptors.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A regular file beneath one of the roots, pinned by device, inode, size and mtime.
#[derive(Debug)]
pub struct LocalFile {
    descriptors: Arc<Descriptors>,
    id: u64,
    path: PathBuf,
    stat: FileStat,
    held: Mutex<Weak<HeldFile>>,
}

/// Hands out the files of one source.
#[derive(Debug, Clone)]
pub struct LocalFiles {
    descriptors: Arc<Descriptors>,
}

impl LocalFiles {
    /// The files beneath `roots`.
    pub fn new(roots: impl Into<Arc<Roots>>) -> Self {
        let roots = roots.into();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let room = limit.unwrap_or(MOST_DESCRIPTORS).saturating_sub(RESERVED_DESCRIPTORS);
        let half = usize::try_from((room / 2).clamp(8, MOST_DESCRIPTORS)).unwrap_or(8);
        make_room(half);
        let open = Cache::new(half);
        let (next_id, held) = (AtomicU64::new(0), AtomicUsize::new(0));
        let descriptors = Descriptors { roots, open, next_id, held, most_held: half };
        Self { descriptors: Arc::new(descriptors) }
    }

    /// Opens and pins the file at `path`: relative to the source, or absolute beneath another root.
    pub fn open(&self, path: &Path) -> Result<LocalFile> {
        let (file, stat) = self.descriptors.roots.open_file(path)?;
        let id = self.descriptors.next_id.fetch_add(1, Ordering::Relaxed);
        self.descriptors.open.insert(id, Arc::new(file));
        let descriptors = Arc::clone(&self.descriptors);
        let held = Mutex::new(Weak::new());
        Ok(LocalFile { descriptors, id, path: path.to_path_buf(), stat, held })
    }
}

/// Lets the process's table of descriptors grow to its size at once: with several threads, the kernel
/// takes some 10 ms each time that the table gets twice as large.
fn make_room(descriptors: usize) {
    let Ok(last) = i32::try_from(descriptors) else { return };
    // Too few are allowed: then there is less to grow, too.
    let _grown = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), last);
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        // A file that nobody knows any more must not keep its place on the disk.
        self.close();
    }
}

impl LocalFile {
    /// What `stat` said when the file was pinned.
    pub fn stat(&self) -> &FileStat {
        &self.stat
    }

    /// A number that no other opened file of these has.
    pub fn number(&self) -> u64 {
        self.id
    }

    /// Whether a QEMU process holds the image open for writing.
    pub fn is_in_use(&self) -> Result<bool> {
        let file = self.file()?;
        sys::is_locked(&file, QEMU_LOCK_WRITE).map_err(|e| Error::io(&self.path, e))
    }

    /// Gives the descriptor back; a later read opens the file again, and fails if it is another
    /// by then. Who does not read a file keeps its file system busy otherwise.
    pub fn close(&self) {
        self.descriptors.open.remove(&self.id);
    }

    /// The open file, opened again where its descriptor had to make room for others.
    fn file(&self) -> Result<Arc<File>> {
        if let Some(file) = self.descriptors.open.get(&self.id) {
            return Ok(file);
        }
        if let Some(held) = self.held.lock().upgrade() {
            return Ok(Arc::clone(&held.file));
        }
        let (file, stat) = self.descriptors.roots.open_file(&self.path)?;
        self.check_unchanged(&stat)?;
        let file = Arc::new(file);
        self.descriptors.open.insert(self.id, Arc::clone(&file));
        Ok(file)
    }

    fn check_unchanged(&self, now: &FileStat) -> Result<()> {
        let then = &self.stat;
        if now.is_same_file(then) {
            return Ok(());
        }
        let what = if now.id == then.id { "changed" } else { "was replaced" };
        let reason = format!("the file {what} since it was found; open it again to see it anew");
        Err(Error::io(&self.path, io::Error::other(reason)))
    }

    /// Proves that what was just read belongs to the file as it was pinned. It comes after the
    /// read: a change between the two shows as well.
    fn verify(&self, file: &File) -> Result<()> {
        let stat =
            retry_on_intr(|| rustix::fs::fstat(file)).map_err(|e| Error::io(&self.path, e))?;
        self.check_unchanged(&file_stat(&stat))
    }

    fn fiemap(&self, file: &File, range: &Range<u64>) -> Result<Option<Vec<Allocation>>> {
        let mut found = AllocationList::new(range);
        while found.next < range.end {
            let left = range.end - found.next;
            let batch = match sys::fiemap(file, found.next, left) {
                Ok(batch) => batch,
                Err(e) if is_unsupported(&e) => return Ok(None),
                Err(e) => return Err(Error::io_at(&self.path, found.next, e)),
            };
            let before = found.next;
            let last = batch.last().is_none_or(|extent| extent.last);
            for extent in batch {
                let end = extent.logical.saturating_add(extent.length);
                if extent.unwritten {
                    self.push_unwritten(file, &mut found, extent.logical, end)?;
                } else {
                    found.push(extent.logical, end, AllocationState::Data);
                }
            }
            // No extent, or none that goes further: the rest is a hole.
            if last || found.next == before {
                break;
            }
        }
        Ok(Some(found.finish()))
    }

    /// An unwritten extent whose pages were written a moment ago, and not yet to the disk, is
    /// still reported as unwritten. What has pages in memory is therefore data: at worst that
    /// reads zeros where nothing was written. Forcing the pages to the disk instead would change
    /// the file's blocks.
    fn push_unwritten(
        &self,
        file: &File,
        found: &mut AllocationList,
        start: u64,
        end: u64,
    ) -> Result<()> {
        let (start, end) = (start.clamp(found.next, found.end), end.clamp(found.next, found.end));
        found.push_until(start, AllocationState::Hole);
        for Allocation { range, state } in self.seek_holes(file, &(start..end))? {
            let state = match state {
                AllocationState::Hole => AllocationState::Unwritten,
                in_memory => in_memory,
            };
            found.push_until(range.end, state);
        }
        Ok(())
    }

    fn seek_holes(&self, file: &File, range: &Range<u64>) -> Result<Vec<Allocation>> {
        let mut found = AllocationList::new(range);
        while found.next < range.end {
            let at = found.next;
            let data = match retry_on_intr(|| rustix::fs::seek(file, SeekFrom::Data(at))) {
                Ok(data) => data,
                // No data from here on.
                Err(rustix::io::Errno::NXIO) => break,
                Err(e) => return Err(Error::io_at(&self.path, at, e)),
            };
            if data >= range.end {
                break;
            }
            let hole = retry_on_intr(|| rustix::fs::seek(file, SeekFrom::Hole(data)))
                .map_err(|e| Error::io_at(&self.path, data, e))?;
            found.push(data, hole, AllocationState::Data);
            if found.next <= at {
                break;
            }
        }
        Ok(found.finish())
    }
}

impl Source for LocalFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.stat.size
    }

    fn allocated(&self) -> u64 {
        self.stat.allocated
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(self.stat.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buf.len().min(left);
        let file = self.file()?;
        let mut got = 0;
        while let Some(rest) = buf.get_mut(got..wanted).filter(|rest| !rest.is_empty()) {
            let at = offset + got as u64;
            match file.read_at(rest, at) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io_at(&self.path, at, e)),
            }
        }
        self.verify(&file)?;
        Ok(got)
    }

    fn allocation(&self, range: Range<u64>) -> Result<Vec<Allocation>> {
        let range = range.start..range.end.min(self.stat.size);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let file = self.file()?;
        let found = match self.fiemap(&file, &range)? {
            Some(found) => found,
            None => self.seek_holes(&file, &range)?,
        };
        self.verify(&file)?;
        Ok(found)
    }

    fn clone_to(&self, range: Range<u64>, to: &File, at: u64) -> Result<Cloned> {
        // A length of 0 would mean the rest of the file.
        if range.is_empty() || range.end > self.stat.size {
            return Ok(Cloned::No);
        }
        let file = self.file()?;
        let cloned = sys::clone_range(&file, range.start, range.end - range.start, to, at);
        self.verify(&file)?;
        Ok(match cloned {
            Ok(()) => Cloned::Yes,
            // Some offset or length is not one of this file system's blocks.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Cloned::No,
            Err(_) => Cloned::Never,
        })
    }

    fn next_data(&self, offset: u64) -> Result<u64> {
        let file = self.file()?;
        let next = match retry_on_intr(|| rustix::fs::seek(&*file, SeekFrom::Data(offset))) {
            Ok(next) => next,
            Err(rustix::io::Errno::NXIO) => u64::MAX,
            Err(e) => return Err(Error::io_at(&self.path, offset, e)),
        };
        self.verify(&file)?;
        Ok(next)
    }

    fn open_for_kernel(&self) -> Result<Option<File>> {
        let file = self.file()?;
        let opened = match sys::reopen_without_atime(&file) {
            Ok(opened) => opened,
            Err(e) => {
                log::debug!("{}: cannot be opened apart from its mount: {e}", self.path.display());
                return Ok(None);
            }
        };
        self.verify(&opened)?;
        Ok(Some(opened))
    }

    fn hold(&self) -> Option<Hold> {
        if let Some(held) = self.held.lock().upgrade() {
            return Some(Hold(held));
        }
        let file = self.file().ok()?;
        let mut shared = self.held.lock();
        if let Some(held) = shared.upgrade() {
            return Some(Hold(held));
        }
        let descriptors = Arc::clone(&self.descriptors);
        let one_more = |held| (held < descriptors.most_held).then_some(held + 1);
        descriptors.held.try_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        let held = Arc::new(HeldFile { file, descriptors });
        *shared = Arc::downgrade(&held);
        Some(Hold(held))
    }

    fn knows_unwritten(&self) -> bool {
        self.file().is_ok_and(|file| match sys::fiemap(&file, 0, 1) {
            Ok(_) => true,
            Err(e) => !is_unsupported(&e),
        })
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS | libc::EINVAL)
    )
}

/// Gathers ascending extents of a range and fills what lies between them with holes.
struct AllocationList {
    next: u64,
    end: u64,
    list: Vec<Allocation>,
}

impl AllocationList {
    fn new(range: &Range<u64>) -> Self {
        Self { next: range.start, end: range.end, list: Vec::new() }
    }

    fn push(&mut self, start: u64, end: u64, state: AllocationState) {
        let start = start.clamp(self.next, self.end);
        let end = end.clamp(self.next, self.end);
        self.push_until(start, AllocationState::Hole);
        self.push_until(end, state);
    }

    fn push_until(&mut self, end: u64, state: AllocationState) {
        if end <= self.next {
            return;
        }
        match self.list.last_mut() {
            Some(last) if last.state == state => last.range.end = end,
            _ => self.list.push(Allocation { range: self.next..end, state }),
        }
        self.next = end;
    }

    fn finish(mut self) -> Vec<Allocation> {
        self.push_until(self.end, AllocationState::Hole);
        self.list
    }
}
