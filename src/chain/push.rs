//! `virsh backup-begin` in push mode with its default names: `<live disk's file>.<checkpoint>`.
//!
//! Every increment's header names the VM's *live* disk as its backing file. Followed, it would
//! show today's clusters below yesterday's. The parent is the checkpoint before.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;

use super::evidence::{Basis, Evidence};
use super::headers::HeaderLink;
use super::inventory::{FileId, FoundFile, Inventory};
use super::link::{DiskKey, Kind, Linker, Parent, Place, TimeBasis, from_epoch, plain_place};
use crate::layout::checkpoint_xml::CheckpointXml;
use crate::layout::names::{PushName, has_raw_ending, is_tools_bitmap};

/// The backups of one live disk, by checkpoint.
type Group = BTreeMap<u64, FileId>;

/// Decides about every group of files named in this way that really is one of push backups.
pub(super) fn place(linker: &mut Linker<'_>) {
    let mut groups: BTreeMap<DiskKey, Group> = BTreeMap::new();
    for (id, file) in linker.free_images() {
        if let Some(name) = PushName::parse(file.name()).filter(|name| may_be_image(file, name)) {
            let disk = DiskKey { folder: file.folder().to_path_buf(), name: name.stem };
            groups.entry(disk).or_default().insert(name.epoch, id);
        }
    }
    for (disk, group) in groups {
        let live = linker.inventory.at(&disk.folder.join(&disk.name));
        let live = live.filter(|&id| is_push_live(linker.inventory, id));
        if !is_push(linker, &disk, &group, live) {
            continue;
        }
        for (&epoch, &id) in &group {
            let place = place_member(linker, &disk, &group, live, epoch, id);
            linker.places.insert(id, place);
        }
        if let Some(id) = live.filter(|&id| linker.is_free(id)) {
            let parent = linker.header_parent(id);
            let file = linker.inventory.file(id);
            let place = Place { disk, kind: Kind::Live, ..plain_place(file, parent) };
            linker.places.insert(id, place);
        }
    }
}

/// Whether an image is a VM's own disk beside its backups: it holds bitmaps that a backup tool
/// keeps, or bitmaps named as the checkpoints of the files beside it.
pub(super) fn is_live(inventory: &Inventory, id: FileId) -> bool {
    let bitmaps = inventory.file(id).qcow2().map_or(&[][..], |facts| &facts.bitmaps);
    bitmaps.iter().any(|bitmap| is_tools_bitmap(bitmap)) || is_push_live(inventory, id)
}

/// Whether an image holds bitmaps with the names of push backups beside it.
pub(super) fn is_push_live(inventory: &Inventory, id: FileId) -> bool {
    let file = inventory.file(id);
    let bitmaps = file.qcow2().map_or(&[][..], |facts| &facts.bitmaps);
    bitmaps.iter().any(|bitmap| {
        let mut backup = file.name().to_os_string();
        backup.push(".");
        backup.push(bitmap);
        !bitmap.contains('/') && inventory.at(&file.folder().join(backup)).is_some()
    })
}

fn may_be_image(file: &FoundFile, name: &PushName) -> bool {
    let raw = file.is_plain() && file.stat.size > 0 && file.stat.size.is_multiple_of(512);
    let disk_like = has_raw_ending(&name.stem)
        || std::path::Path::new(&name.stem).extension() == Some(OsStr::new("qcow2"));
    file.qcow2().is_some() || (raw && disk_like)
}

/// Whether the files are backups of a live disk, and not overlays of snapshots that happen to have
/// a number for a name: the live disk knows them, or there is a full one without a backing file.
fn is_push(linker: &Linker<'_>, disk: &DiskKey, group: &Group, live: Option<FileId>) -> bool {
    let full = group.values().any(|&id| matches!(linker.header(id), HeaderLink::None));
    let described = group.keys().any(|&epoch| xml(linker, disk, epoch).is_some());
    live.is_some() || full || described
}

fn place_member(
    linker: &Linker<'_>,
    disk: &DiskKey,
    group: &Group,
    live: Option<FileId>,
    epoch: u64,
    id: FileId,
) -> Place {
    let parent = match linker.header(id) {
        HeaderLink::None => Parent::None,
        // Rebased by hand onto another backup: then the header is true.
        HeaderLink::To { file, .. } if group.values().any(|member| member == file) => {
            linker.header_parent(id)
        }
        HeaderLink::Missing { name, .. } if *name != disk.name => linker.header_parent(id),
        _ => checkpoint_before(linker, disk, group, live, epoch),
    };
    let kind = if matches!(parent, Parent::None) { Kind::Full } else { Kind::Incremental };
    Place {
        disk: disk.clone(),
        label: epoch.to_string().into(),
        kind,
        time: from_epoch(epoch),
        time_basis: TimeBasis::Name,
        ..plain_place(linker.inventory.file(id), parent)
    }
}

fn checkpoint_before(
    linker: &Linker<'_>,
    disk: &DiskKey,
    group: &Group,
    live: Option<FileId>,
    epoch: u64,
) -> Parent {
    let described = xml(linker, disk, epoch).and_then(|xml| xml.parent.as_deref());
    if let Some(parent) = described {
        let file = parent.parse().ok().and_then(|parent: u64| group.get(&parent));
        let Some(&file) = file else {
            return Parent::Missing(missing_checkpoint(disk, parent));
        };
        let text = format!("the checkpoint's description names its parent, {parent}");
        let evidence = Evidence::new(Basis::CheckpointXml, text);
        return Parent::File { file, as_raw: false, evidence };
    }
    let bitmaps = live.and_then(|id| linker.inventory.file(id).qcow2()).map(|facts| &facts.bitmaps);
    let known = bitmaps.into_iter().flatten().filter_map(|bitmap| bitmap.parse().ok());
    let known: BTreeSet<u64> = known.chain(group.keys().copied()).collect();
    let Some(before) = known.range(..epoch).next_back() else {
        return Parent::Missing(format!(
            "there is no backup of {:?} before it in this folder; its header names the live disk, \
             which is not what it stands on",
            disk.name.to_string_lossy()
        ));
    };
    match group.get(before) {
        Some(&file) => {
            let text = format!(
                "virsh backup-begin: an increment stands on the checkpoint before it, {before}; \
                 its header names the live disk instead"
            );
            let evidence = Evidence::new(Basis::NamingRule, text);
            Parent::File { file, as_raw: false, evidence }
        }
        None => Parent::Missing(missing_checkpoint(disk, &before.to_string())),
    }
}

fn missing_checkpoint(disk: &DiskKey, checkpoint: &str) -> String {
    let disk = disk.name.to_string_lossy();
    format!(
        "the backup of the checkpoint {checkpoint} before it is missing ({disk}.{checkpoint}); \
         without it the bytes would be wrong. If that checkpoint never was a backup, declare the \
         parent in qcowfs.toml"
    )
}

fn xml<'a>(linker: &'a Linker<'_>, disk: &DiskKey, epoch: u64) -> Option<&'a CheckpointXml> {
    let name = epoch.to_string();
    let disk = disk.name.to_string_lossy();
    linker.inventory.checkpoint_xml().iter().find(|xml| {
        xml.name == name
            && (xml.disk_files.is_empty() || xml.disk_files.iter().any(|file| *file == disk))
    })
}
