//! What the tests share: running programs with a time limit, mounting, the sample backups and
//! what they must hold.
//!
//! Nothing here may hang: programs run through [`run::Run`], which kills their process group when
//! their time is over; files of a mount are read within [`watch::within`]; [`mount::Mount`]
//! unmounts, and kills the daemon, when it goes out of scope.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part of this")]

pub(crate) mod changing;
pub(crate) mod content;
pub(crate) mod corpus;
pub(crate) mod device;
pub(crate) mod file_system;
pub(crate) mod layered;
pub(crate) mod mount;
pub(crate) mod paged;
pub(crate) mod prng;
pub(crate) mod qcow2_editor;
pub(crate) mod qcow2_writer;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod shown;
pub(crate) mod source_state;
pub(crate) mod stream_writer;
pub(crate) mod truth;
pub(crate) mod view;
pub(crate) mod watch;

pub(crate) use corpus::Case;
pub(crate) use file_system::{FileSystem, Loop};
pub(crate) use mount::Mount;
pub(crate) use run::{Run, User};
pub(crate) use view::View;
