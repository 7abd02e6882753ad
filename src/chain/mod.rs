//! From found files to trees of checkpoints, with the evidence for each link.
//!
//! Three steps: [`inventory`] looks at every file once (headers only), [`link`] gives each image
//! its [`place`]: what it is and what it stands on, and takes in what lies outside of the source on
//! purpose ([`outside`]); [`catalog`] orders the restore points of each
//! disk and says which can be assembled.
//!
//! # Which evidence decides
//!
//! Strongest first: what the user declares (`qcowfs.toml`); a backing-file header that leads to a
//! file of the source, or beneath an allowed root, which is not the live disk of a push backup; a checkpoint description that
//! the tool left; the naming rule of a known tool; order in time. Where nothing supports a link,
//! none is made: the image is shown as a checkpoint that cannot be assembled, with the reason.

pub mod catalog;
pub mod evidence;
pub mod inventory;
pub mod link;
pub mod order;
pub mod place;

mod content;
mod folders;
mod found;
mod headers;
mod live;
mod named_push;
mod outside;
mod push;
mod qmpbackup;
mod skipped;
mod state;
mod streams;
