//! What no safe library offers: FIEMAP, cloning ranges, large pages, asking who holds a lock,
//! descriptors by number, and mounts of one file.
//!
//! The only module of the crate with `unsafe` code.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::ops::Range;
use std::os::fd::AsRawFd;

use rustix::mount::{OpenTreeFlags, open_tree};

/// One extent as FIEMAP reports it; bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FiemapExtent {
    pub(crate) logical: u64,
    pub(crate) length: u64,
    pub(crate) unwritten: bool,
    pub(crate) last: bool,
}

/// Extents asked for in one call.
const BATCH: usize = 128;
/// `_IOWR('f', 11, struct fiemap)`: the size is that of the 32-byte header alone.
const FS_IOC_FIEMAP: libc::c_ulong = 0xC020_660B;
const FIEMAP_EXTENT_LAST: u32 = 0x1;
const FIEMAP_EXTENT_UNWRITTEN: u32 = 0x800;

// libc has these as wider integers than the fields of its own `flock`.
#[allow(clippy::cast_possible_truncation)]
const WRITE_LOCK: libc::c_short = libc::F_WRLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation)]
const FROM_START: libc::c_short = libc::SEEK_SET as libc::c_short;

/// linux/fiemap.h, `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// linux/fiemap.h, `struct fiemap`, with room for a batch.
#[repr(C)]
struct RawFiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [RawExtent; BATCH],
}

/// The next batch of extents that touch `start..start + length`. An empty one means that there is
/// no more. Nothing is synced first, so a range that was written a moment ago may be reported as
/// unwritten. `EOPNOTSUPP` and `ENOTTY` mean that this file system cannot tell.
pub(crate) fn fiemap(file: &File, start: u64, length: u64) -> io::Result<Vec<FiemapExtent>> {
    // SAFETY: all-zero bytes are a valid value of this plain-data structure.
    let mut map: RawFiemap = unsafe { zeroed() };
    map.start = start;
    map.length = length;
    map.extent_count = u32::try_from(BATCH).unwrap_or(0);
    loop {
        // SAFETY: the descriptor is open for as long as `file` is borrowed; the kernel writes at
        // most `extent_count` extents behind the header, and `map` has room for as many.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP as _, &raw mut map) };
        if result == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let count = usize::try_from(map.mapped_extents).unwrap_or(0).min(BATCH);
    Ok(map
        .extents
        .iter()
        .take(count)
        .map(|raw| FiemapExtent {
            logical: raw.logical,
            length: raw.length,
            unwritten: raw.flags & FIEMAP_EXTENT_UNWRITTEN != 0,
            last: raw.flags & FIEMAP_EXTENT_LAST != 0,
        })
        .collect())
}

/// Has `to` share `length` bytes of `from`, which then lie in both files and on the disk once. Offsets
/// and length are multiples of the file system's block size, but for a length that ends with `from`.
pub(crate) fn clone_range(
    from: &File,
    from_offset: u64,
    length: u64,
    to: &File,
    to_offset: u64,
) -> io::Result<()> {
    let range = libc::file_clone_range {
        src_fd: from.as_raw_fd().into(),
        src_offset: from_offset,
        src_length: length,
        dest_offset: to_offset,
    };
    // SAFETY: both descriptors are open for as long as the files are borrowed; the kernel only reads
    // the structure.
    let result = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONERANGE as _, &raw const range) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A part of a file in the address space, to tell the kernel about its pages. Nobody can read or write
/// the file by it, so it does not matter what becomes of the file.
#[derive(Debug)]
pub(crate) struct Mapping {
    file: Range<u64>,
    /// Where the part begins.
    address: usize,
    /// All that has to be given back.
    reserved: Range<usize>,
}

impl Mapping {
    /// Maps a part of a file that begins at a multiple of `alignment`, at an address that is one, too.
    pub(crate) fn new(file: &File, part: Range<u64>, alignment: u64) -> io::Result<Self> {
        let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let len = usize::try_from(part.end - part.start).map_err(too_large)?;
        let alignment = usize::try_from(alignment).map_err(too_large)?;
        let offset = libc::off_t::try_from(part.start).map_err(too_large)?;
        let room = len.checked_add(alignment).ok_or(io::ErrorKind::InvalidInput)?;
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let anywhere = std::ptr::null_mut();
        // SAFETY: a new mapping, at an address that the kernel chooses, of nothing.
        let start = unsafe { libc::mmap(anywhere, room, libc::PROT_NONE, private, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let reserved = start as usize..start as usize + room;
        let mapping =
            Self { file: part, address: reserved.start.next_multiple_of(alignment), reserved };
        let (to, fixed) =
            (mapping.address as *mut libc::c_void, libc::MAP_SHARED | libc::MAP_FIXED);
        // SAFETY: it replaces a part of the mapping above, which is ours and which nobody uses;
        // PROT_NONE keeps everybody from using this one.
        let put = unsafe { libc::mmap(to, len, libc::PROT_NONE, fixed, file.as_raw_fd(), offset) };
        if put == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(mapping) }
    }

    /// Has the kernel keep a range of the file in pages that are as large as can be (Linux 6.1),
    /// with zeros where there is nothing yet.
    pub(crate) fn collapse(&self, range: Range<u64>) -> io::Result<()> {
        if range.start < self.file.start || range.end > self.file.end || range.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let within = |offset: u64| {
            usize::try_from(offset - self.file.start).map_err(|_| io::ErrorKind::InvalidInput)
        };
        let (from, to) = (within(range.start)?, within(range.end)?);
        let at = (self.address + from) as *mut libc::c_void;
        // SAFETY: the range lies within our mapping, and its bytes stay what they are.
        let result = unsafe { libc::madvise(at, to - from, libc::MADV_COLLAPSE) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let Range { start, end } = self.reserved;
        // SAFETY: it is ours, and nothing points into it.
        let _unmapped = unsafe { libc::munmap(start as *mut libc::c_void, end - start) };
    }
}

/// Whether another process holds a lock on any of these bytes of the file.
pub(crate) fn is_locked(file: &File, bytes: Range<i64>) -> io::Result<bool> {
    // SAFETY: all-zero bytes are a valid value of this plain-data structure.
    let mut lock: libc::flock = unsafe { zeroed() };
    (lock.l_type, lock.l_whence) = (WRITE_LOCK, FROM_START);
    lock.l_start = bytes.start;
    lock.l_len = bytes.end - bytes.start;
    // SAFETY: the descriptor is open for as long as `file` is borrowed; F_OFD_GETLK reads and
    // writes this one structure, whose `l_pid` is 0 as it must be.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// Keeps every descriptor above the standard error from the programs that this one becomes or
/// starts: whoever started us may have left some open.
pub(crate) fn keep_descriptors_to_ourselves() -> io::Result<()> {
    let first: libc::c_uint = 3;
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: the call takes three numbers. No descriptor is closed; each is only marked.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) };
    if result == 0 {
        return Ok(());
    }
    // Before Linux 5.11: one after the other.
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<libc::c_int>().ok());
        if let Some(number) = number.filter(|number| *number > 2) {
            // SAFETY: the call takes three numbers; the descriptor is only marked.
            if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Gives the calling thread a table of descriptors of its own, with nothing in it above the standard
/// error, and keeps signals from it, whose handlers would use those of the process. Descriptors of
/// others do not exist for it from now on: it must neither use nor drop what has one.
pub(crate) fn leave_descriptors_behind() -> io::Result<()> {
    let first: libc::c_uint = 3;
    // Linux 5.9.
    let own_table = libc::CLOSE_RANGE_UNSHARE;
    // SAFETY: the set of signals is on the stack, and filled before it is used; of signals and
    // descriptors only this thread's own are changed: the last call makes the table a copy first.
    let done = unsafe {
        let mut all: libc::sigset_t = zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, own_table)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const _: () = assert!(size_of::<RawExtent>() == 56);
/// Opens a file once more, on a mount of its own that nobody else sees: whoever reads by this
/// descriptor leaves the file's access time alone, whatever his own flags say. Takes root.
pub(crate) fn reopen_without_atime(file: &File) -> io::Result<File> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = open_tree(file, c"", flags)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_NOATIME | libc::MOUNT_ATTR_RDONLY,
        attr_clr: libc::MOUNT_ATTR__ATIME,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a string that ends in NUL, and the attributes are a whole structure of
    // the size that is told; both are only read, during the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    File::open(format!("/proc/self/fd/{}", mount.as_raw_fd()))
}
