//! qmpbackup's folders: `FULL-`, `INC-` and `COPY-` files in all the layouts that it had.
//!
//! Its headers name no parent; the order of the epochs in the names does. An increment stands on
//! the newest full one or increment before it; a copy is nobody's parent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::evidence::{Basis, Evidence};
use super::headers::HeaderLink;
use super::inventory::{FileId, FoundFile, Inventory};
use super::link::{DiskKey, Kind, Linker, Parent, Place, TimeBasis, from_epoch, plain_place};
use super::push::is_live;
use crate::layout::names::{QmpLevel, QmpName};

/// A backup of a disk, as its name tells.
struct Member {
    id: FileId,
    name: QmpName,
}

type Disks = BTreeMap<DiskKey, Vec<Member>>;

/// Decides about every file with one of qmpbackup's names.
pub(super) fn place(linker: &mut Linker<'_>) {
    let disks = members(linker);
    let runs = Runs::new(&disks);
    for (disk, members) in &disks {
        let bare = bare_full(linker, disk);
        if let Some(id) = bare {
            let file = linker.inventory.file(id);
            let place = Place { disk: disk.clone(), ..plain_place(file, Parent::None) };
            linker.places.insert(id, place);
        }
        for (n, member) in members.iter().enumerate() {
            let before = members.get(..n).unwrap_or_default();
            let parent = parent_of(linker, disk, member, before, bare, &runs);
            insert(linker, disk, member, parent);
        }
    }
}

/// The place of an unfinished file: disk and time are those of the name before its ending.
pub(super) fn unfinished(inventory: &Inventory, file: &FoundFile, place: Place) -> Place {
    let stem = Path::new(file.name()).file_stem().unwrap_or(file.name());
    match QmpName::parse(stem) {
        Some(name) => Place {
            disk: disk_key(inventory, file, &name),
            time: from_epoch(name.epoch),
            time_basis: TimeBasis::Name,
            ..place
        },
        None => place,
    }
}

fn disk_key(inventory: &Inventory, file: &FoundFile, name: &QmpName) -> DiskKey {
    let disk = name.disk.clone().unwrap_or_else(|| file.folder_name(inventory.root()));
    DiskKey { folder: file.folder().to_path_buf(), name: disk }
}

/// All backups by disk, each disk's in the order of their epochs.
fn members(linker: &Linker<'_>) -> Disks {
    let mut disks = Disks::new();
    for (id, file) in linker.free_images() {
        let Some(name) = QmpName::parse(file.name()) else { continue };
        if file.stat.size == 0 {
            continue;
        }
        let key = disk_key(linker.inventory, file, &name);
        disks.entry(key).or_default().push(Member { id, name });
    }
    for members in disks.values_mut() {
        members.sort_by_key(|member| (member.name.epoch, member.name.level != QmpLevel::Full));
    }
    disks
}

/// The full backup that `--no-timestamp` leaves: a file with the disk's own name beside the
/// increments, which is not the live disk itself.
fn bare_full(linker: &Linker<'_>, disk: &DiskKey) -> Option<FileId> {
    let id = linker.inventory.at(&disk.folder.join(&disk.name))?;
    let file = linker.inventory.file(id);
    let stands_alone = matches!(linker.header(id), HeaderLink::None);
    let is_image = file.is_plain() || file.qcow2().is_some();
    (linker.is_free(id) && stands_alone && is_image && !is_live(linker.inventory, id)).then_some(id)
}

fn insert(linker: &mut Linker<'_>, disk: &DiskKey, member: &Member, parent: Parent) {
    let file = linker.inventory.file(member.id);
    let mut warnings = Vec::new();
    let kind = match member.name.level {
        QmpLevel::Full => Kind::Full,
        QmpLevel::Copy => Kind::Copy,
        QmpLevel::Inc => Kind::Incremental,
    };
    if kind == Kind::Incremental && file.is_plain() {
        warnings.push(raw_increment_warning(file));
    }
    let place = Place {
        disk: disk.clone(),
        label: member.name.label(),
        kind,
        time: from_epoch(member.name.epoch),
        time_basis: TimeBasis::Name,
        parent,
        warnings,
    };
    linker.places.insert(member.id, place);
}

fn parent_of(
    linker: &Linker<'_>,
    disk: &DiskKey,
    member: &Member,
    before: &[Member],
    bare: Option<FileId>,
    runs: &Runs,
) -> Parent {
    let by_name = match member.name.level {
        QmpLevel::Full | QmpLevel::Copy => Parent::None,
        QmpLevel::Inc => parent_by_name(linker, disk, member, before, bare, runs),
    };
    match linker.header(member.id) {
        // After a rebase the header says it too, and says it best.
        HeaderLink::To { file, .. } if !is_live(linker.inventory, *file) => {
            linker.header_parent(member.id)
        }
        HeaderLink::Missing { name, .. } if QmpName::parse(name).is_some() => {
            linker.header_parent(member.id)
        }
        _ => by_name,
    }
}

fn parent_by_name(
    linker: &Linker<'_>,
    disk: &DiskKey,
    member: &Member,
    before: &[Member],
    bare: Option<FileId>,
    runs: &Runs,
) -> Parent {
    let last = before.iter().rfind(|other| other.name.level != QmpLevel::Copy);
    let bare = bare.filter(|&id| {
        let made = linker.inventory.file(id).stat.mtime;
        last.is_none_or(|last| {
            last.name.level == QmpLevel::Full
                && made > from_epoch(last.name.epoch)
                && made < from_epoch(member.name.epoch)
        })
    });
    if let Some(file) = bare {
        let text = "qmpbackup: an increment stands on the full backup with the disk's own name";
        return Parent::File {
            file,
            as_raw: false,
            evidence: Evidence::new(Basis::NamingRule, text),
        };
    }
    let Some(last) = last else {
        return Parent::Missing(format!(
            "there is no full backup (FULL-...) of {:?} before it in this folder",
            disk.name.to_string_lossy()
        ));
    };
    if let Some(reason) = runs.missing_between(disk, last.name.epoch, member.name.epoch) {
        return Parent::Missing(reason);
    }
    let text = format!(
        "qmpbackup: an increment stands on the newest backup before it, {}",
        last.name.label().to_string_lossy()
    );
    let evidence = Evidence::new(Basis::NamingRule, text);
    Parent::File { file: last.id, as_raw: false, evidence }
}

fn raw_increment_warning(file: &FoundFile) -> String {
    if file.stat.allocated >= file.stat.size {
        return "this raw increment has no holes left: a copy that did not keep them has made all \
                of it data, and it hides everything below; take it from the original backup"
            .into();
    }
    "a raw increment tells 'unchanged' from 'zeroed' by holes and unwritten extents, which cp, \
     rsync and tar do not keep: if this file was ever copied, ranges that the guest zeroed may show \
     older bytes"
        .into()
}

/// Which runs of the tool each VM's disks took part in: both disks of one run share the epoch.
struct Runs {
    by_vm: BTreeMap<PathBuf, Vec<DiskRuns>>,
}

/// The runs that one disk took part in.
struct DiskRuns {
    disk: DiskKey,
    all: BTreeSet<u64>,
    incremental: BTreeSet<u64>,
}

impl Runs {
    fn new(disks: &Disks) -> Self {
        let mut by_vm: BTreeMap<_, Vec<DiskRuns>> = BTreeMap::new();
        for (disk, members) in disks {
            let epoch = |member: &Member| member.name.epoch;
            let increments = members.iter().filter(|member| member.name.level == QmpLevel::Inc);
            by_vm.entry(vm_folder(disk)).or_default().push(DiskRuns {
                disk: disk.clone(),
                all: members.iter().map(epoch).collect(),
                incremental: increments.map(epoch).collect(),
            });
        }
        Self { by_vm }
    }

    /// Why the increment at `to` cannot stand on the backup at `from`: other disks of the VM have
    /// an increment of a run between them, and this disk usually takes part in the same runs. Two
    /// disks on different schedules (this one lacks most of the others' runs) prove nothing.
    fn missing_between(&self, disk: &DiskKey, from: u64, to: u64) -> Option<String> {
        let disks = self.by_vm.get(&vm_folder(disk))?;
        let own = &disks.iter().find(|runs| runs.disk == *disk)?.all;
        let (first, last) = (*own.first()?, *own.last()?);
        let others = disks.iter().filter(|runs| runs.disk != *disk);
        let theirs: BTreeSet<u64> =
            others.flat_map(|runs| runs.incremental.range(first..=last).copied()).collect();
        let lacking = theirs.difference(own).count();
        let missing = *theirs.difference(own).find(|&&run| from < run && run < to)?;
        let when = jiff::Timestamp::try_from(SystemTime::UNIX_EPOCH + Duration::from_secs(missing));
        let when = when.map_or_else(|_| missing.to_string(), |time| time.to_string());
        (lacking * 2 <= theirs.union(own).count()).then(|| {
            format!(
                "an increment is missing before it: the other disks of this VM have one of the run \
                 at {when} (INC-{missing}), this disk has none; without it the bytes would be \
                 wrong. If this disk was left out of that run on purpose, declare the parent in \
                 qcowfs.toml"
            )
        })
    }
}

/// The folder that holds the disks of one VM: each disk has a folder of its own in it, or (with
/// `--no-subdir`) all share it.
fn vm_folder(disk: &DiskKey) -> PathBuf {
    match disk.folder.file_name() {
        Some(name) if name == disk.name => {
            disk.folder.parent().unwrap_or(Path::new("")).to_path_buf()
        }
        _ => disk.folder.clone(),
    }
}
