//! Which images are VMs' own disks, beside or among their backups.
//!
//! A live disk holds the dirty bitmaps of its incremental backups. It is never the parent of a
//! backup and never the latest restore point, whatever headers say.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};

use super::headers::HeaderLink;
use super::inventory::{FileId, FoundFile, Inventory};
use crate::layout::names::{is_epoch, is_tools_bitmap};

/// The live disks of a source: images with bitmaps that a backup tool keeps, that bear the names
/// of checkpoints or of files, or on which something without bitmaps claims to stand. Outside of the
/// source, a disk that a VM has open is one, too: its bitmaps may not be in the file yet.
pub(super) fn disks(
    inventory: &Inventory,
    headers: &BTreeMap<FileId, HeaderLink>,
) -> BTreeSet<FileId> {
    let files: HashSet<&OsStr> = inventory.files().map(|(_, file)| file.name()).collect();
    let described: HashSet<&str> =
        inventory.checkpoint_xml().iter().map(|found| found.checkpoint.name.as_str()).collect();
    let backing = claimed_as_backing(inventory, headers);
    let is_live = |id: FileId, file: &FoundFile| {
        let bitmaps = file.qcow2().map_or(&[][..], |facts| &facts.bitmaps);
        backing.contains(&id) && (!bitmaps.is_empty() || file.is_outside() && file.is_in_use)
            || bitmaps.iter().any(|bitmap| {
                is_tools_bitmap(bitmap)
                    || is_epoch(bitmap)
                    || described.contains(bitmap.as_str())
                    || files.contains(backup_name(file, bitmap).as_os_str())
            })
    };
    inventory.files().filter(|(id, file)| is_live(*id, file)).map(|(id, _)| id).collect()
}

/// The images that something without bitmaps of its own claims to stand on, and copies of them in
/// the source.
fn claimed_as_backing(
    inventory: &Inventory,
    headers: &BTreeMap<FileId, HeaderLink>,
) -> BTreeSet<FileId> {
    let claims = headers.iter().filter_map(|(id, link)| match link {
        HeaderLink::To { file, rival, .. } => Some([Some((*id, *file)), rival.map(|r| (*id, r))]),
        _ => None,
    });
    let claims = claims.flatten().flatten();
    let bare = |id| inventory.file(id).qcow2().is_some_and(|facts| facts.bitmaps.is_empty());
    claims.filter(|(id, _)| bare(*id)).map(|(_, backing)| backing).collect()
}

/// What libvirt calls the push backup of a disk for a checkpoint.
fn backup_name(file: &FoundFile, checkpoint: &str) -> OsString {
    let mut name = file.name().to_os_string();
    name.push(".");
    name.push(checkpoint);
    name
}
