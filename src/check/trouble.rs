//! Why a restore point cannot be assembled: what kind of trouble that is.

use crate::chain::catalog::{Catalog, CheckpointId, State};
use crate::chain::inventory::Content;
use crate::chain::place::Kind;

/// What is wrong with a restore point, apart from the bytes of its file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble<'a> {
    /// Nothing; or nothing of its own: what it stands on is in trouble.
    None,
    /// It cannot be verified, and nobody said that it is damaged: encrypted, in use, unfinished.
    Unverifiable(&'a str),
    /// Its chain is not whole.
    Broken(&'a str),
}

/// The trouble of a restore point.
pub(super) fn of(catalog: &Catalog, id: CheckpointId) -> Trouble<'_> {
    let checkpoint = catalog.checkpoint(id);
    let State::Broken(reason) = &checkpoint.state else { return Trouble::None };
    let file = catalog.file_of(id);
    let facts = file.qcow2();
    let is_closed = facts.is_some_and(|facts| facts.header.encryption.is_some())
        || file.is_being_written
        || file.is_in_use_now();
    // Said with its offset by the walk over its frames.
    if matches!(&file.content, Content::Stream(facts) if facts.fault.is_some()) {
        return Trouble::None;
    }
    if is_closed || checkpoint.kind == Kind::Partial {
        return Trouble::Unverifiable(reason);
    }
    // Said with its offset by the walk over its tables.
    if file.end_of_cut_table().is_some() {
        return Trouble::None;
    }
    let lacks_data = facts.is_some_and(|facts| facts.header.data_file.is_some())
        && checkpoint.data_file.is_none();
    // Said of the image itself, with the byte where its table of snapshots is wrong.
    let is_bad_snapshot = checkpoint
        .snapshot
        .is_some_and(|n| facts.is_some_and(|facts| matches!(facts.snapshots.get(n), Some(Err(_)))));
    if is_bad_snapshot || (!lacks_data && stands_on_trouble(catalog, id)) {
        return Trouble::None;
    }
    Trouble::Broken(reason)
}

fn stands_on_trouble(catalog: &Catalog, id: CheckpointId) -> bool {
    let parent = catalog.checkpoint(id).parent.as_ref();
    parent.is_some_and(|link| {
        !link.as_raw && catalog.checkpoint(link.checkpoint).state != State::Whole
    })
}
