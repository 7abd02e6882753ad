//! `virsh backup-begin` in push mode with its default names: `<live disk's file>.<checkpoint>`.
//!
//! Every increment's header names the VM's *live* disk as its backing file. Followed, it would
//! show today's clusters below yesterday's. The parent is the checkpoint before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::evidence::{Basis, Evidence};
use super::headers::HeaderLink;
use super::inventory::{Content, FileId, FoundFile};
use super::link::{Linker, no_qcow2_header};
use super::place::{DiskKey, Kind, Parent, Place, TimeBasis, from_epoch, plain_place};
use crate::layout::names::{PushName, has_raw_ending};

/// The backups of one live disk, by checkpoint.
type Group = BTreeMap<u64, FileId>;

/// Decides about every group of files named in this way that really is one of push backups.
pub(super) fn place(linker: &mut Linker<'_>) {
    let mut groups: BTreeMap<DiskKey, Group> = BTreeMap::new();
    for (id, file) in linker.free_images() {
        let Some(name) = PushName::parse(file.name()) else { continue };
        if !matches!(file.content, Content::Foreign(_)) {
            let disk = DiskKey { folder: file.folder().to_path_buf(), name: name.stem };
            groups.entry(disk).or_default().insert(name.epoch, id);
        }
    }
    groups.retain(|disk, group| are_images(linker, disk, group));
    for (disk, group) in &groups {
        let live = live_disk(linker, disk, group);
        if !is_push(linker, disk, group, live) {
            continue;
        }
        let runs = known_runs(linker, &groups, disk, group);
        for (&epoch, &id) in group {
            let place = place_member(linker, disk, group, live, &runs, epoch, id);
            linker.places.insert(id, place);
        }
        let disk = disk.clone();
        if let Some(id) = live.filter(|&id| linker.is_free(id)) {
            let parent = linker.header_parent(id);
            let file = linker.inventory.file(id);
            // Where it lies elsewhere it is a disk of its own.
            let beside = file.folder() == disk.folder;
            let own = plain_place(file, parent);
            let disk = if beside { disk } else { own.disk.clone() };
            linker.places.insert(id, Place { disk, kind: Kind::Live, ..own });
        }
    }
}

/// The live disk that a group are backups of: beside them, or where their headers lead.
fn live_disk(linker: &Linker<'_>, disk: &DiskKey, group: &Group) -> Option<FileId> {
    let beside = linker.inventory.at(&disk.folder.join(&disk.name));
    let named = group.values().filter_map(|&id| match linker.header(id) {
        HeaderLink::To { file, .. } => Some(*file),
        _ => None,
    });
    let named = named.filter(|&id| linker.inventory.file(id).name() == disk.name);
    let is_named = group.values().any(|&id| names_live_disk(linker, disk, id));
    // A copy made while the VM runs may lack the bitmaps: they are in the file when QEMU closes it.
    let beside = beside.filter(|id| is_named || linker.live.contains(id));
    beside.or_else(|| named.into_iter().find(|id| linker.live.contains(id)))
}

/// Whether a backup's header names the disk that the backup's own name begins with. libvirt's
/// overlays of snapshots have the disk's ending replaced: they are never called like this.
fn names_live_disk(linker: &Linker<'_>, disk: &DiskKey, id: FileId) -> bool {
    let named = linker.backing_path(id).and_then(Path::file_name);
    named == Some(&disk.name) && Path::new(&disk.name).extension().is_some()
}

/// The runs that are known of a disk, from what is not its own backups: those of the VM's other
/// disks beside it, and the bitmaps of live disks with its name, where they share a run.
fn known_runs(
    linker: &Linker<'_>,
    groups: &BTreeMap<DiskKey, Group>,
    disk: &DiskKey,
    group: &Group,
) -> BTreeSet<u64> {
    let others = groups.iter().filter(|(other, _)| other.folder == disk.folder && *other != disk);
    let others = others.map(|(_, other)| other.keys().copied().collect::<BTreeSet<u64>>());
    let lives = linker.live.iter().map(|&id| linker.inventory.file(id));
    let lives = lives.filter(|file| file.name() == disk.name).filter_map(FoundFile::qcow2);
    let lives = lives.map(|facts| facts.bitmaps.iter().filter_map(|b| b.parse().ok()).collect());
    others
        .chain(lives)
        .filter(|runs| runs.iter().any(|run| group.contains_key(run)))
        .flatten()
        .collect()
}

/// Whether files with such names are images at all: rotated logs have them, too. One that is not
/// among others that are is a damaged one.
fn are_images(linker: &Linker<'_>, disk: &DiskKey, group: &Group) -> bool {
    let raw = |file: &FoundFile| {
        file.is_plain() && file.stat.size > 0 && file.stat.size.is_multiple_of(512)
    };
    let mut files = group.values().map(|&id| linker.inventory.file(id));
    let ending = Path::new(&disk.name).extension();
    let named_raw = has_raw_ending(&disk.name) || ending.is_some_and(|ending| ending == "qcow2");
    files.any(|file| file.qcow2().is_some() || (named_raw && raw(file)))
}

/// Whether the files are backups of a live disk, and not overlays of snapshots that happen to have
/// a number for a name: the live disk knows them, or there is a full one without a backing file.
fn is_push(linker: &Linker<'_>, disk: &DiskKey, group: &Group, live: Option<FileId>) -> bool {
    let full = group.values().any(|&id| matches!(linker.header(id), HeaderLink::None));
    let described = group.iter().any(|(epoch, &id)| {
        let all = linker.backing_path(id).map(|path| linker.checkpoints_of(path, &disk.folder));
        all.into_iter().flatten().any(|xml| xml.name == epoch.to_string())
    });
    let named = group.values().any(|&id| names_live_disk(linker, disk, id));
    live.is_some() || full || described || named
}

fn place_member(
    linker: &Linker<'_>,
    disk: &DiskKey,
    group: &Group,
    live: Option<FileId>,
    runs: &BTreeSet<u64>,
    epoch: u64,
    id: FileId,
) -> Place {
    let file = linker.inventory.file(id);
    let siblings = group.values().copied().chain(live);
    let parent = match linker.header(id) {
        _ if file.is_plain() && !is_raw_backup(linker, file, siblings) => {
            Parent::Unusable(no_qcow2_header(file))
        }
        HeaderLink::None => Parent::None,
        // Neither the live disk nor called like it: then the header is true.
        HeaderLink::To { file, .. }
            if !linker.live.contains(file) && linker.inventory.file(*file).name() != disk.name =>
        {
            linker.header_parent(id)
        }
        HeaderLink::Missing { path, .. } if path.file_name() != Some(&disk.name) => {
            linker.header_parent(id)
        }
        _ => checkpoint_before(linker, disk, group, runs, epoch),
    };
    let kind = if matches!(parent, Parent::None) { Kind::Full } else { Kind::Incremental };
    Place {
        disk: disk.clone(),
        label: epoch.to_string().into(),
        kind,
        time: from_epoch(epoch),
        time_basis: TimeBasis::Name,
        ..plain_place(file, parent)
    }
}

/// Whether bytes without a header are a backup in raw format, which libvirt writes on demand: it
/// has exactly the disk's size, as the other backups or the live disk know it.
fn is_raw_backup(
    linker: &Linker<'_>,
    file: &FoundFile,
    siblings: impl Iterator<Item = FileId>,
) -> bool {
    let images = siblings.filter_map(|id| linker.inventory.file(id).qcow2());
    let mut sizes = images.map(|facts| facts.header.virtual_size).peekable();
    let unknown = sizes.peek().is_none();
    file.stat.size.is_multiple_of(512) && (unknown || sizes.any(|size| size == file.stat.size))
}

fn checkpoint_before(
    linker: &Linker<'_>,
    disk: &DiskKey,
    group: &Group,
    runs: &BTreeSet<u64>,
    epoch: u64,
) -> Parent {
    let described: Option<u64> = group.get(&epoch).and_then(|&id| {
        let live_path = linker.backing_path(id)?;
        let name = epoch.to_string();
        let all = linker.checkpoints_of(live_path, &disk.folder);
        all.into_iter().find(|xml| xml.name == name)?.parent.as_deref()?.parse().ok()
    });
    let known = runs.iter().copied().chain(group.keys().copied()).chain(described);
    let known: BTreeSet<u64> = known.collect();
    let Some(before) = known.range(..epoch).next_back() else {
        return Parent::Missing(format!(
            "there is no backup of {:?} before it in this folder; its header names the live disk, \
             which is not what it stands on",
            disk.name.to_string_lossy()
        ));
    };
    let Some(&file) = group.get(before) else {
        return Parent::Missing(missing_checkpoint(disk, &before.to_string()));
    };
    let evidence = match described {
        Some(parent) if parent == *before => {
            let text = format!("the checkpoint's description names its parent, {parent}");
            Evidence::new(Basis::CheckpointXml, text)
        }
        // An increment since an older checkpoint holds all that the ones between hold, too.
        Some(parent) => {
            let text = format!(
                "virsh backup-begin: it stands on the checkpoint before it, {before}; its \
                 description names {parent}, which lies below that"
            );
            Evidence::new(Basis::NamingRule, text)
        }
        None => {
            let text = format!(
                "virsh backup-begin: an increment stands on the checkpoint before it, {before}; \
                 its header names the live disk instead"
            );
            Evidence::new(Basis::NamingRule, text)
        }
    };
    Parent::File { file, as_raw: false, evidence }
}

fn missing_checkpoint(disk: &DiskKey, checkpoint: &str) -> String {
    let disk = disk.name.to_string_lossy();
    format!(
        "the backup of the checkpoint {checkpoint} before it is missing ({disk}.{checkpoint}); \
         without it the bytes would be wrong. If that checkpoint never was a backup, declare the \
         parent in qcowfs.toml"
    )
}
