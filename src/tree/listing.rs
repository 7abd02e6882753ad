//! Who may see the names in a folder of the view: nobody who would not see them in the source.
//!
//! The names of the view mostly are those of files and folders, or parts of them: who may list the
//! folder of the source may know them. But a snapshot's name, a stream's checkpoint and disk, the
//! live disk's name in a header, and what a `qcowfs.toml` declares come from inside a file. The
//! folder in which such a name shows is for those who may read that file.

use std::path::Path;

use super::access::Access;
use super::plan::DiskPlan;
use crate::chain::catalog::{Catalog, CheckpointId};
use crate::chain::inventory::FoundFile;
use crate::chain::place::Kind;

/// Who may read a file: whom its own bits let, and those of every folder of the source on the way.
pub(super) fn readers(catalog: &Catalog, file: &FoundFile) -> Access {
    beneath(catalog, file.folder(), Access::file(&file.stat))
}

/// Who may know the names of a disk's checkpoints; none: whoever may list the source's folder.
pub(super) fn of_checkpoints(catalog: &Catalog, disk: &DiskPlan) -> Option<Access> {
    let of = |(id, _): &(CheckpointId, String)| {
        let file = catalog.file_of(*id);
        let elsewhere = file.folder() != disk.source_folder;
        let listed = elsewhere.then(|| listers(catalog, file.folder())).flatten();
        let read = (!tells_label(catalog, *id)).then(|| tellers(catalog, file));
        both(listed, read)
    };
    disk.checkpoints.iter().map(of).reduce(both).flatten()
}

/// Who may know the name of a disk; none: whoever may list the folder that it lies in.
pub(super) fn of_disk(catalog: &Catalog, disk: &DiskPlan) -> Option<Access> {
    let raw_name = disk.raw_name.as_encoded_bytes();
    let files = || disk.checkpoints.iter().map(|(id, _)| catalog.file_of(*id));
    let root = catalog.inventory.root().path().file_name();
    let is_root = root.is_some_and(|name| name.as_encoded_bytes() == raw_name);
    if is_root || files().any(|file| tells(&file.path, raw_name)) {
        return None;
    }
    files().map(|file| Some(tellers(catalog, file))).reduce(both).flatten()
}

/// Whether a checkpoint's file tells the checkpoint's name to all who see the file's own.
fn tells_label(catalog: &Catalog, id: CheckpointId) -> bool {
    let checkpoint = catalog.checkpoint(id);
    let label = checkpoint.label.as_encoded_bytes();
    checkpoint.kind == Kind::Partial || tells(&catalog.file_of(id).path, label)
}

/// Whether a part of `path` holds `name`.
fn tells(path: &Path, name: &[u8]) -> bool {
    let holds = |part: &[u8]| !name.is_empty() && part.windows(name.len()).any(|at| at == name);
    path.iter().any(|part| holds(part.as_encoded_bytes()))
}

/// Who may read what is in a file, and what is declared of it.
fn tellers(catalog: &Catalog, file: &FoundFile) -> Access {
    let declared = catalog.inventory.declared_in(&file.path);
    let declared = declared.map(|(folder, stat)| beneath(catalog, folder, Access::file(stat)));
    declared.fold(readers(catalog, file), Access::and)
}

/// Who may list a folder of the source; none: nothing is known of it.
fn listers(catalog: &Catalog, folder: &Path) -> Option<Access> {
    let stat = catalog.inventory.folders().get(folder)?;
    Some(beneath(catalog, folder, Access::file(stat)))
}

/// `access` for what lies in `folder`.
fn beneath(catalog: &Catalog, folder: &Path, access: Access) -> Access {
    let stats = folder.ancestors().filter_map(|folder| catalog.inventory.folders().get(folder));
    // Outside of the source all folders on the way are noted, up to `/`.
    let above = if folder.is_absolute() { &[] } else { catalog.inventory.root().above() };
    stats.chain(above).fold(access, Access::within)
}

fn both(a: Option<Access>, b: Option<Access>) -> Option<Access> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.and(b)),
        (a, b) => a.or(b),
    }
}
