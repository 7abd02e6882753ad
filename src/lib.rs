//! qcowfs mounts a directory of VM-disk backups and shows every restore point as a raw disk.
//!
//! # What lives where (arrows go down only)
//!
//! | module     | what it is                                                                   |
//! |------------|------------------------------------------------------------------------------|
//! | [`cli`]    | options, logging, the commands and their exit codes                          |
//! | [`mount`]  | mounting, unmounting, signals                                                |
//! | [`fuse`]   | the kernel's requests: decode, call, reply                                   |
//! | [`errno`]  | the one table from our errors to the kernel's numbers                        |
//! | [`check`]  | every file verified, and the restore points that damage reaches             |
//! | [`restore`] | a checkpoint written to a file or a device, raw or as qcow2                 |
//! | [`tree`]   | the folders, files and names of the view; inode numbers; info.json           |
//! | [`view`]   | a checkpoint as a disk: read, seek to data or hole                           |
//! | [`partition`] | the partitions of a disk, and what they hold, at a glance                  |
//! | [`chain`]  | found files -> trees of checkpoints, with the evidence for each link         |
//! | [`layout`] | the rules of each backup tool: names and sidecars                            |
//! | [`map`]    | the flattened maps of a whole chain, region by region                        |
//! | [`layer`]  | one file -> what it says about a range: qcow2, sparse stream, raw            |
//! | [`codec`]  | deflate, zstd, lz4                                                           |
//! | [`source`] | read-only bytes of the files beneath the source folder                       |
//! | [`extent`] | ranges and what is said about them                                           |
//! | [`error`]  | what can go wrong                                                            |
//! | `fault_log` | how much of it goes to the log                                              |
//! | [`hits`]   | how often a cache had what was asked for                                     |
//! | `page_buffer` | where what is read of files is put first                                |
//! | `processes` | what other processes have open                                            |
//! | `workers`  | the same work on many things, by several threads                             |
//! | `sys`      | the system calls that take `unsafe`, which is written nowhere else           |
//!
//! # The way of a read
//!
//! [`fuse`] finds the image behind an inode ([`tree`]), asks it for bytes ([`view`]), also ahead of
//! who reads in order; the view has
//! the range resolved by the chain's map ([`map`]), which asks each layer ([`layer`]) at most once
//! per region, and then has the owning layer fetch each piece from its file ([`source`]).

pub mod chain;
pub mod check;
pub mod cli;
pub mod codec;
pub mod errno;
pub mod error;
pub mod extent;
mod fault_log;
pub mod fuse;
pub mod hits;
pub mod layer;
pub mod layout;
pub mod map;
pub mod mount;
mod page_buffer;
pub mod partition;
mod processes;
pub mod restore;
pub mod source;
mod sys;
pub mod tree;
pub mod view;
mod workers;
