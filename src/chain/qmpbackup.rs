//! qmpbackup's folders: `FULL-`, `INC-` and `COPY-` files in all the layouts that it had.
//!
//! Its headers name no parent; the order of the epochs in the names does. An increment stands on
//! the newest full one or increment before it; a copy is nobody's parent.

mod runs;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use runs::{Gap, Others, Runs};

use super::evidence::{Basis, Evidence};
use super::headers::HeaderLink;
use super::inventory::{Content, FileId, FoundFile, Inventory};
use super::link::{Linker, no_qcow2_header};
use super::place::{DiskKey, Kind, Parent, Place, TimeBasis, from_epoch, plain_place};
use crate::layout::names::{QmpLevel, QmpName};
use crate::source::Source;

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
        let group = Group { disk, members, bare, others: runs.beside(disk) };
        for n in 0..members.len() {
            if let Some((member, place)) = group.place(linker, n) {
                linker.places.insert(member, place);
            }
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
    let mut disks: HashMap<DiskKey, Vec<Member>> = HashMap::new();
    for (id, file) in linker.free_images() {
        let Some(mut name) = QmpName::parse(file.name()) else { continue };
        if matches!(file.content, Content::Foreign(_)) {
            // Packed afterwards (`INC-...-vm.qcow2.zst`): it has its place, and is broken there.
            name.disk = name.disk.map(|disk| Path::new(&disk).with_extension("").into());
        }
        let key = disk_key(linker.inventory, file, &name);
        disks.entry(key).or_default().push(Member { id, name });
    }
    let mut disks = Disks::from_iter(disks);
    // Checksums and notes may have such names, too.
    let is_image = |member: &Member| {
        let file = linker.inventory.file(member.id);
        !file.is_plain() || is_whole_sectors(file)
    };
    disks.retain(|disk, members| {
        members.iter().any(is_image) || linker.should_be_qcow2(disk, std::iter::empty())
    });
    for members in disks.values_mut() {
        members.sort_by_key(|member| (member.name.epoch, member.name.level != QmpLevel::Full));
    }
    disks
}

fn is_whole_sectors(file: &FoundFile) -> bool {
    file.stat.size > 0 && file.stat.size.is_multiple_of(512)
}

/// The full backup that `--no-timestamp` leaves: a file with the disk's own name beside the
/// increments, which is not the live disk itself.
fn bare_full(linker: &Linker<'_>, disk: &DiskKey) -> Option<FileId> {
    let id = linker.inventory.at(&disk.folder.join(&disk.name))?;
    let file = linker.inventory.file(id);
    let stands_alone = matches!(linker.header(id), HeaderLink::None);
    let is_image = file.is_plain() || file.qcow2().is_some();
    (linker.is_free(id) && stands_alone && is_image && !linker.live.contains(&id)).then_some(id)
}

/// The backups of one disk.
struct Group<'a> {
    disk: &'a DiskKey,
    members: &'a [Member],
    bare: Option<FileId>,
    others: Others,
}

impl Group<'_> {
    /// Decides about the backup of this number.
    fn place(&self, linker: &Linker<'_>, n: usize) -> Option<(FileId, Place)> {
        let member = self.members.get(n)?;
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
        let parent = match self.damage(linker, file) {
            Some(reason) => Parent::Unusable(reason),
            None => self.parent(linker, member, n, &mut warnings),
        };
        let place = Place {
            disk: self.disk.clone(),
            label: member.name.label(),
            kind,
            time: from_epoch(member.name.epoch),
            time_basis: TimeBasis::Name,
            parent,
            warnings,
        };
        Some((member.id, place))
    }

    /// Why a file cannot be what its name says: a damaged qcow2 image looks like a raw one.
    fn damage(&self, linker: &Linker<'_>, file: &FoundFile) -> Option<String> {
        if !file.is_plain() || linker.inventory.declaration(&file.path).is_some() {
            return None;
        }
        let siblings = self.members.iter().map(|member| member.id);
        if linker.should_be_qcow2(self.disk, siblings) {
            return Some(no_qcow2_header(file));
        }
        (!is_whole_sectors(file)).then(|| {
            "its size is not a multiple of 512 bytes: it is cut, or not the image of a disk".into()
        })
    }

    fn parent(
        &self,
        linker: &Linker<'_>,
        member: &Member,
        n: usize,
        warnings: &mut Vec<String>,
    ) -> Parent {
        let by_name = match member.name.level {
            QmpLevel::Full | QmpLevel::Copy => Parent::None,
            QmpLevel::Inc => self.parent_by_name(linker, member, n, warnings),
        };
        match linker.header(member.id) {
            // After a rebase the header says it too, and says it best.
            HeaderLink::To { file, .. } if !linker.live.contains(file) => {
                warnings.extend(disagreement(linker, *file, &by_name));
                linker.header_parent(member.id)
            }
            HeaderLink::Missing { path, .. }
                if path.file_name().is_some_and(|name| QmpName::parse(name).is_some()) =>
            {
                linker.header_parent(member.id)
            }
            _ => by_name,
        }
    }

    fn parent_by_name(
        &self,
        linker: &Linker<'_>,
        member: &Member,
        n: usize,
        warnings: &mut Vec<String>,
    ) -> Parent {
        let before = self.members.get(..n).unwrap_or_default();
        let last = before.iter().rfind(|other| other.name.level != QmpLevel::Copy);
        if let Some(parent) = self.bare_parent(linker, member, last, warnings) {
            return parent;
        }
        let Some(last) = last else {
            return Parent::Missing(format!(
                "there is no full backup (FULL-...) of {:?} before it in this folder",
                self.disk.name.to_string_lossy()
            ));
        };
        match self.others.missing_between(last.name.epoch, member.name.epoch) {
            Some(Gap { usual: true, reason }) => return Parent::Missing(reason),
            Some(Gap { usual: false, reason }) => warnings.push(reason),
            None => {}
        }
        let (file, below) = (linker.inventory.file(member.id), linker.inventory.file(last.id));
        if file.is_plain() && below.is_plain() && file.stat.size < below.stat.size {
            return Parent::Unusable(format!(
                "it is shorter than the backup before it, {}: a raw increment has the whole disk's \
                 size, so it was cut; if the disk really shrank, declare its parent in qcowfs.toml",
                last.name.label().to_string_lossy()
            ));
        }
        let text = format!(
            "qmpbackup: an increment stands on the newest backup before it, {}",
            last.name.label().to_string_lossy()
        );
        let evidence = Evidence::new(Basis::NamingRule, text);
        Parent::File { file: last.id, as_raw: false, evidence }
    }

    /// The full backup with the disk's own name, if the increment stands on that: only its
    /// modification time tells when it was made, and each new one overwrites it.
    fn bare_parent(
        &self,
        linker: &Linker<'_>,
        member: &Member,
        last: Option<&Member>,
        warnings: &mut Vec<String>,
    ) -> Option<Parent> {
        let bare = self.bare?;
        let made = linker.inventory.file(bare).stat.mtime;
        let run = from_epoch(member.name.epoch);
        let after_last = last.is_none_or(|last| made > from_epoch(last.name.epoch));
        let (bare_file, file) = (linker.inventory.file(bare), linker.inventory.file(member.id));
        if made <= run {
            // Before every other backup: the start of the chain, which `last` stands on.
            return after_last.then(|| link_to_bare(bare));
        }
        if last.is_some_and(|last| last.name.level == QmpLevel::Full) {
            return None;
        }
        if came_later(bare_file, file, run) {
            return Some(Parent::Missing(
                "the full backup with the disk's own name is newer than this increment: it took \
                 the place of the one that this increment stands on"
                    .into(),
            ));
        }
        if last.is_some() {
            return None;
        }
        warnings.push(
            "the modification times here are those of a copy: whether the full backup with the \
             disk's own name is the one that this increment stands on, they cannot tell"
                .into(),
        );
        let evidence = Evidence::new(Basis::TimeOrder, "it is the only full backup of this disk");
        Some(Parent::File { file: bare, as_raw: false, evidence })
    }
}

/// What to say where the header and the names disagree.
fn disagreement(linker: &Linker<'_>, header: FileId, by_name: &Parent) -> Option<String> {
    let path = |id: FileId| linker.inventory.file(id).path.display();
    match by_name {
        Parent::File { file, .. } if *file != header => Some(format!(
            "its header names {} as what it stands on, the epochs in the names say {}; the header \
             is followed",
            path(header),
            path(*file)
        )),
        _ => None,
    }
}

fn link_to_bare(file: FileId) -> Parent {
    let text = "qmpbackup: an increment stands on the full backup with the disk's own name";
    Parent::File { file, as_raw: false, evidence: Evidence::new(Basis::NamingRule, text) }
}

/// Whether `newer` was written in a later run, and not copied together with `file`: it came longer
/// after `file` than `file` after the run in its name.
fn came_later(newer: &FoundFile, file: &FoundFile, run: SystemTime) -> bool {
    let after = newer.stat.mtime.duration_since(file.stat.mtime).ok();
    let took = file.stat.mtime.duration_since(run).ok();
    after.zip(took).is_some_and(|(after, took)| after > took)
}

fn raw_increment_warning(file: &FoundFile) -> String {
    if file.stat.allocated >= file.stat.size {
        return "this raw increment has no holes left: a copy that did not keep them has made all \
                of it data, and it hides everything below; take it from the original backup"
            .into();
    }
    if file.source.as_ref().is_some_and(|source| !source.knows_unwritten()) {
        return "this raw increment lies on a file system that cannot tell 'zeroed' from \
                'unchanged': ranges that the guest zeroed show older bytes; take it from the \
                original backup"
            .into();
    }
    "a raw increment tells 'unchanged' from 'zeroed' by holes and unwritten extents, which cp, \
     rsync and tar do not keep: if this file was ever copied, ranges that the guest zeroed may show \
     older bytes"
        .into()
}

/// The folder that holds the disks of one VM: each disk has a folder of its own in it, whatever that
/// is called, or (with `--no-subdir`) all share it.
fn vm_folder(disks: &Disks, disk: &DiskKey) -> PathBuf {
    let first = DiskKey { folder: disk.folder.clone(), name: OsString::new() };
    let beside = disks.range(first..).take_while(|(other, _)| other.folder == disk.folder);
    let shared = beside.take(2).count() > 1;
    match disk.folder.parent() {
        Some(parent) if !shared => parent.to_path_buf(),
        _ => disk.folder.clone(),
    }
}
