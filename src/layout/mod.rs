//! Layouts: what the backup tools' names and sidecars say. Pure rules over names and text; which
//! of them decides is [`crate::chain`]'s business.

pub mod backing_name;
pub mod checkpoint_xml;
pub mod copying;
pub mod names;
pub mod sidecar;
