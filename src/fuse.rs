//! The kernel's requests: decode, call the tree or the image, reply.
//!
//! Everything is read-only. The kernel refuses most writes by itself, as the mount is read-only;
//! what still comes through is refused here, each by name.

mod ahead;
mod attributes;
mod content;
mod handles;
mod live;
mod looks;
mod passthrough;
mod refusals;
mod run;
mod status;
mod waiting;

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fuser::{
    AccessFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request,
};
use log::{Level, debug, error};

use crate::errno::errno;
use crate::error::Error;
use crate::fault_log;
use crate::tree::xattrs::PREFIX;
use crate::tree::{Attr, Ino, NodeKind, Opened, Tree};
pub use ahead::Ahead;
use attributes::{BLOCK_SIZE, file_attr, file_type, lifetime, nothing};
use content::Target;
use handles::{Handles, Listing, OpenFile, OpenFolder};
pub use live::Live;
use passthrough::Backings;
pub use status::{About, FILE as STATUS_FILE, FOLDER as STATUS_FOLDER};
use status::{Now, Status};

/// The largest request, and so the largest read that comes whole; bytes. The kernel sends the parts
/// of a larger one at the same time: several threads share the work of one reader, and each has its
/// part in the processor's cache. Half as much again was read so in a second as with 1 MiB.
const LARGEST_REQUEST: u32 = 256 << 10;
/// Read-ahead requests that the kernel may have under way: others wait behind them.
const MAX_BACKGROUND: u16 = 32;
/// Longest name; bytes.
const NAME_MAX: u32 = 255;
/// An inode number is never used for anything else while mounted.
const GENERATION: Generation = Generation(0);

/// A tree as a file system.
pub struct View {
    live: Arc<Live>,
    files: Handles<OpenFile>,
    folders: Handles<OpenFolder>,
    backings: Backings,
    ahead: Arc<Ahead>,
    may_pass_through: bool,
    status: Status,
}

impl View {
    /// Makes a tree ready to be mounted. `may_pass_through`: the kernel may read plain raw files by
    /// itself, where it can. `about`: what its status says of the mount.
    pub fn new(tree: Arc<Tree>, may_pass_through: bool, about: About) -> Self {
        Self {
            live: Arc::new(Live::new(tree, about.first_look)),
            files: Handles::new(),
            folders: Handles::new(),
            backings: Backings::default(),
            ahead: Arc::default(),
            may_pass_through,
            status: Status::new(about),
        }
    }

    /// The tree that is served, for whoever is to put another in its place.
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live)
    }

    /// Who reads ahead, once the view is mounted.
    pub fn ahead(&self) -> Arc<Ahead> {
        Arc::clone(&self.ahead)
    }

    fn attr(&self, ino: INodeNo) -> Option<Attr> {
        let ino = Ino(ino.0);
        self.status.attr(ino).or_else(|| self.live.attr(ino))
    }

    fn opened(&self, ino: Ino) -> Option<Opened> {
        let tree = self.live.tree();
        let now = || Now {
            stale: self.live.stale(),
            bytes_ahead: self.ahead.bytes(),
            files: self.files.count().saturating_sub(self.ahead.files()),
            folders: self.folders.count(),
        };
        self.status.open(ino, &tree, now).or_else(|| tree.open(ino))
    }

    /// What is in a folder: nothing in one that is gone.
    fn list(tree: &Tree, ino: Ino) -> Listing {
        Status::listing(ino).or_else(|| Listing::of(tree, ino)).unwrap_or_default()
    }

    /// What to say where the tree has no such node: it is gone, or it is another kind of node.
    fn without(&self, ino: INodeNo, other: Errno) -> Errno {
        if self.live.tree().parent(Ino(ino.0)).is_none() { Errno::ESTALE } else { other }
    }

    fn log_fault(&self, ino: INodeNo, request: fmt::Arguments<'_>, fault: &Error) {
        self.status.count_fault(fault);
        if fault_log::admits(Level::Error, fault.file().unwrap_or(Path::new(""))) {
            error!("{}: {request}: {fault}", self.live.tree().path(Ino(ino.0)).display());
        }
    }
}

/// Answers a question for bytes: how many there are, where the asker has no room yet.
fn answer(reply: ReplyXattr, room: u32, bytes: &[u8]) {
    match u32::try_from(bytes.len()) {
        Ok(len) if room == 0 => reply.size(len),
        Ok(len) if len <= room => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for View {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_CACHE_SYMLINKS
            // Lets the end of the session tell "aborted, still mounted" from "unmounted".
            | InitFlags::FUSE_ABORT_ERROR;
        let known = wanted & config.capabilities();
        if let Err(refused) = config.add_capabilities(known) {
            debug!("the kernel refuses {refused:?}");
        }
        // It bounds reads too: both are counted in pages per request.
        if let Err(nearest) = config.set_max_write(LARGEST_REQUEST) {
            debug!("requests are bounded by {nearest} bytes");
        }
        if self.may_pass_through
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok()
        {
            self.backings.allow();
        }
        if let Err(nearest) = config.set_max_background(MAX_BACKGROUND) {
            debug!("background requests are bounded by {nearest}");
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let tree = self.live.tree();
        let attr = |ino| self.status.attr(ino).or_else(|| tree.attr(ino));
        let Some(folder) = attr(Ino(parent.0)) else { return reply.error(Errno::ESTALE) };
        if folder.kind != NodeKind::Folder {
            return reply.error(Errno::ENOTDIR);
        }
        let found = tree.lookup(folder.ino, name);
        let found = found.or_else(|| Status::lookup(folder.ino, name));
        match found.and_then(attr) {
            Some(attr) => {
                self.live.hand_out(attr.ino);
                reply.entry(&lifetime(attr.settled), &file_attr(&attr), GENERATION);
            }
            None if tree.is_never(folder.ino, name) => {
                reply.entry(&lifetime(folder.settled), &nothing(), GENERATION);
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, times: u64) {
        if self.live.take_back(Ino(ino.0), times) {
            self.backings.forget(ino);
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match self.attr(ino) {
            Some(attr) => reply.attr(&lifetime(attr.settled), &file_attr(&attr)),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.live.tree().link_target(Ino(ino.0)) {
            Some(target) => reply.data(target.as_encoded_bytes()),
            None => reply.error(self.without(ino, Errno::EINVAL)),
        }
    }

    fn access(&self, _request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        match self.attr(ino) {
            None => reply.error(Errno::ESTALE),
            Some(_) if mask.contains(AccessFlags::W_OK) => reply.error(Errno::EROFS),
            Some(attr)
                if mask.contains(AccessFlags::X_OK)
                    && attr.kind == NodeKind::File
                    && attr.mode & 0o111 == 0 =>
            {
                reply.error(Errno::EACCES);
            }
            // Who may look in at all, the kernel has decided (see `allow_other`).
            Some(_) => reply.ok(),
        }
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if !Status::is_folder(Ino(ino.0)) && !self.live.tree().is_folder(Ino(ino.0)) {
            return reply.error(self.without(ino, Errno::ENOTDIR));
        }
        // The kernel does not keep it: of what is being put into such a cache while another tree
        // comes, nobody could say whether it is old.
        reply.opened(self.folders.insert(OpenFolder::default()), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(folder) = self.folders.get(handle) else { return reply.error(Errno::EBADF) };
        let listing = folder.listing(offset, || Self::list(&self.live.tree(), Ino(ino.0)));
        for (entry, next) in listing.from(offset) {
            if reply.add(INodeNo(entry.ino.0), next, file_type(entry.kind), &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(folder) = self.folders.get(handle) else { return reply.error(Errno::EBADF) };
        let tree = self.live.tree();
        let listing = folder.listing(offset, || Self::list(&tree, Ino(ino.0)));
        for (entry, next) in listing.from(offset) {
            // Gone since the folder was opened: as if it had never been there.
            let attr = self.status.attr(entry.ino).or_else(|| tree.attr(entry.ino));
            let Some(attr) = attr else { continue };
            let (ttl, ino) = (lifetime(attr.settled), INodeNo(entry.ino.0));
            if reply.add(ino, next, &entry.name, &ttl, &file_attr(&attr), GENERATION) {
                break;
            }
            // The kernel does not count those two.
            if !matches!(entry.name.as_encoded_bytes(), b"." | b"..") {
                self.live.hand_out(entry.ino);
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.folders.remove(handle);
        reply.ok();
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & libc::O_TRUNC != 0 {
            return reply.error(Errno::EROFS);
        }
        let Some(file) = self.opened(Ino(ino.0)) else {
            return reply.error(self.without(ino, Errno::EISDIR));
        };
        let how = match &file {
            // The bytes behind an image's inode never change: keep what was read before.
            Opened::Image(_) | Opened::Slice(_) => FopenFlags::FOPEN_KEEP_CACHE,
            // A text is made when it is opened: what an earlier one left in the cache is another.
            Opened::Text(_) => FopenFlags::FOPEN_DIRECT_IO,
        };
        let how = how | FopenFlags::FOPEN_NOFLUSH;
        match self.backings.of(ino, &file, &reply) {
            Ok(None) => {
                let is_ours = self.ahead.asks(request);
                if is_ours {
                    self.ahead.count_files(1);
                }
                let handle = OpenFile::new(file, None, is_ours);
                reply.opened(self.files.insert(handle), how);
            }
            Ok(Some(backing)) => {
                let handle = OpenFile::new(file, Some(Arc::clone(&backing)), false);
                // What the kernel cached is the file's own, and not ours to keep.
                let how = how - FopenFlags::FOPEN_KEEP_CACHE;
                reply.opened_passthrough(self.files.insert(handle), how, &backing);
            }
            Err(e) => {
                self.log_fault(ino, format_args!("cannot open"), &e);
                reply.error(errno(&e));
            }
        }
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(file) = self.files.get(handle) else { return reply.error(Errno::EBADF) };
        let direct = flags.0 & libc::O_DIRECT != 0;
        if !direct {
            self.ahead
                .note(handle, &file, (offset, size), || (ino, self.live.tree().path(Ino(ino.0))));
        }
        let reply = if direct { waiting::hold(request.pid(), reply) } else { Some(reply) };
        content::read(&file.file, offset, size, |piece| {
            let Some(reply) = reply.or_else(waiting::take) else { return };
            self.status.count_read(&file.file, piece.bytes.len());
            if file.is_ours {
                self.ahead.count(piece.bytes.len() as u64);
            }
            let Some(fault) = piece.fault else { return reply.data(piece.bytes) };
            self.log_fault(ino, format_args!("cannot read {size} bytes at {offset}"), &fault);
            // A short reply to a buffered read would make the kernel take the file for shorter.
            // It asks again page by page instead, so only the unreadable pages are lost.
            if direct && !piece.bytes.is_empty() {
                reply.data(piece.bytes);
            } else {
                reply.error(errno(&fault));
            }
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let target = match whence {
            libc::SEEK_DATA => Target::Data,
            libc::SEEK_HOLE => Target::Hole,
            // The kernel answers the others itself.
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let Some(file) = self.files.get(handle) else { return reply.error(Errno::EBADF) };
        match content::seek(&file.file, offset, target).map(i64::try_from) {
            Some(Ok(found)) => reply.offset(found),
            Some(Err(_)) => reply.error(Errno::EOVERFLOW),
            None => reply.error(Errno::ENXIO),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(closed) = self.files.remove(handle) {
            if closed.is_ours {
                self.ahead.count_files(-1);
            }
            if closed.is_helped.load(Ordering::Relaxed) {
                self.ahead.close(handle);
            }
        }
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let totals = self.live.tree().totals();
        let blocks = totals.bytes.div_ceil(u64::from(BLOCK_SIZE));
        reply.statfs(blocks, 0, 0, totals.files, 0, BLOCK_SIZE, NAME_MAX, BLOCK_SIZE);
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        // The kernel asks for others with every `ls -l`.
        let ours = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        match ours.and_then(|name| self.live.tree().xattr(Ino(ino.0), name)) {
            Some(value) => answer(reply, size, value.as_bytes()),
            None => reply.error(Errno::NO_XATTR),
        }
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.live.tree().xattr_names(Ino(ino.0));
        let names: String = names.iter().flat_map(|name| [PREFIX, name, "\0"]).collect();
        answer(reply, size, names.as_bytes());
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    refusals::read_only!();
}
