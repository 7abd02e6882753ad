//! The operations that would change something: each is refused with `EROFS`.

/// The methods of [`fuser::Filesystem`] that write, for use within its `impl`. A trait has to be
/// implemented in one place; these have nothing to say there.
macro_rules! read_only {
    () => {
        fn setattr(
            &self,
            _request: &Request,
            _ino: INodeNo,
            _mode: Option<u32>,
            _uid: Option<u32>,
            _gid: Option<u32>,
            _size: Option<u64>,
            _atime: Option<fuser::TimeOrNow>,
            _mtime: Option<fuser::TimeOrNow>,
            _ctime: Option<std::time::SystemTime>,
            _handle: Option<FileHandle>,
            _crtime: Option<std::time::SystemTime>,
            _chgtime: Option<std::time::SystemTime>,
            _bkuptime: Option<std::time::SystemTime>,
            _flags: Option<fuser::BsdFileFlags>,
            reply: ReplyAttr,
        ) {
            reply.error(Errno::EROFS);
        }

        fn mknod(
            &self,
            _request: &Request,
            _parent: INodeNo,
            _name: &OsStr,
            _mode: u32,
            _umask: u32,
            _rdev: u32,
            reply: ReplyEntry,
        ) {
            reply.error(Errno::EROFS);
        }

        fn mkdir(
            &self,
            _request: &Request,
            _parent: INodeNo,
            _name: &OsStr,
            _mode: u32,
            _umask: u32,
            reply: ReplyEntry,
        ) {
            reply.error(Errno::EROFS);
        }

        fn unlink(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
            reply.error(Errno::EROFS);
        }

        fn rmdir(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
            reply.error(Errno::EROFS);
        }

        fn symlink(
            &self,
            _request: &Request,
            _parent: INodeNo,
            _name: &OsStr,
            _target: &std::path::Path,
            reply: ReplyEntry,
        ) {
            reply.error(Errno::EROFS);
        }

        fn rename(
            &self,
            _request: &Request,
            _parent: INodeNo,
            _name: &OsStr,
            _new_parent: INodeNo,
            _new_name: &OsStr,
            _flags: fuser::RenameFlags,
            reply: ReplyEmpty,
        ) {
            reply.error(Errno::EROFS);
        }

        fn link(
            &self,
            _request: &Request,
            _ino: INodeNo,
            _new_parent: INodeNo,
            _new_name: &OsStr,
            reply: ReplyEntry,
        ) {
            reply.error(Errno::EROFS);
        }

        fn create(
            &self,
            _request: &Request,
            _parent: INodeNo,
            _name: &OsStr,
            _mode: u32,
            _umask: u32,
            _flags: i32,
            reply: fuser::ReplyCreate,
        ) {
            reply.error(Errno::EROFS);
        }

        fn write(
            &self,
            _request: &Request,
            _ino: INodeNo,
            _handle: FileHandle,
            _offset: u64,
            _data: &[u8],
            _write_flags: fuser::WriteFlags,
            _flags: OpenFlags,
            _lock_owner: Option<LockOwner>,
            reply: fuser::ReplyWrite,
        ) {
            reply.error(Errno::EROFS);
        }

        fn fallocate(
            &self,
            _request: &Request,
            _ino: INodeNo,
            _handle: FileHandle,
            _offset: u64,
            _length: u64,
            _mode: i32,
            reply: ReplyEmpty,
        ) {
            reply.error(Errno::EROFS);
        }

        fn copy_file_range(
            &self,
            _request: &Request,
            _ino_in: INodeNo,
            _handle_in: FileHandle,
            _offset_in: u64,
            _ino_out: INodeNo,
            _handle_out: FileHandle,
            _offset_out: u64,
            _length: u64,
            _flags: fuser::CopyFileRangeFlags,
            reply: fuser::ReplyWrite,
        ) {
            reply.error(Errno::EROFS);
        }

        fn setxattr(
            &self,
            _request: &Request,
            _ino: INodeNo,
            _name: &OsStr,
            _value: &[u8],
            _flags: i32,
            _position: u32,
            reply: ReplyEmpty,
        ) {
            reply.error(Errno::EROFS);
        }

        fn removexattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
            reply.error(Errno::EROFS);
        }
    };
}

pub(super) use read_only;
