//! What each image is, and what it stands on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::evidence::{Basis, Evidence};
use super::headers::{Finder, HeaderLink};
use super::inventory::{Before, Content, FileId, FoundCheckpoint, FoundFile, Inventory, QcowFacts};
use super::order::parents_first;
use super::place::{DiskKey, Kind, Parent, Place, TimeBasis, plain_place};
use super::{live, named_push, outside, push, qmpbackup, streams};
use crate::layout::backing_name::BackingName;
use crate::layout::checkpoint_xml::CheckpointXml;
use crate::layout::names;
use crate::layout::sidecar::{Declaration, DeclaredParent};

/// The decisions about all images of a source.
#[derive(Debug)]
pub struct Links {
    /// By image.
    pub places: BTreeMap<FileId, Place>,
    /// External data files, by the image that needs one; an error is the reason why it is missing.
    pub data_files: BTreeMap<FileId, Result<DataFile, String>>,
}

/// An external data file, found.
#[derive(Debug, Clone)]
pub struct DataFile {
    /// The file.
    pub file: FileId,
    /// Why it is this one.
    pub evidence: Evidence,
    /// A file of the source with the same name, which is not it.
    rival: Option<FileId>,
}

/// What the deciders share.
pub(super) struct Linker<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) headers: BTreeMap<FileId, HeaderLink>,
    /// The VMs' own disks.
    pub(super) live: BTreeSet<FileId>,
    pub(super) places: BTreeMap<FileId, Place>,
}

/// Decides about all images of the inventory.
pub(super) fn link(inventory: &mut Inventory, before: &mut Before<'_>) -> Links {
    let raw = read_as_raw_beside(inventory);
    inventory.treat_as_raw(&raw);
    if inventory.roots().allow_any() {
        outside::take_in(inventory, before);
        let raw = read_as_raw_beside(inventory);
        inventory.treat_as_raw(&raw);
    }
    let inventory = &*inventory;
    let finder = Finder::new(inventory);
    let data_files = data_files(inventory, &finder);
    let headers = finder.backing_links();
    let live = live::disks(inventory, &headers);
    let mut linker = Linker { inventory, headers, live, places: BTreeMap::new() };
    let used = data_files.values().flatten().map(|found| found.file).collect();
    linker.place_unfinished();
    qmpbackup::place(&mut linker);
    streams::place(&mut linker);
    push::place(&mut linker);
    named_push::place(&mut linker);
    let plain = linker.place_plain(&used);
    linker.apply_declarations();
    linker.gather_disks(&plain);
    linker.warn_of_rivals(&data_files);
    Links { places: linker.places, data_files }
}

/// Data files, and backing files of the format `raw`, that lie beside the image which says so. A
/// guest can write a qcow2 header into them; another folder's image has no say about them.
fn read_as_raw_beside(inventory: &Inventory) -> Vec<FileId> {
    let finder = Finder::new(inventory);
    let images = inventory.files().filter_map(|(id, file)| Some((id, file, file.qcow2()?)));
    let mut raw = Vec::new();
    for (id, image, facts) in images {
        let backing = facts.backing.as_ref();
        let backing = backing.filter(|_| facts.backing_format() == Some("raw"));
        for name in [facts.data_file.as_ref(), backing] {
            if let HeaderLink::To { file, .. } = finder.find(id, name, "file")
                && inventory.file(file).folder() == image.folder()
            {
                raw.push(file);
            }
        }
    }
    raw
}

fn data_files(
    inventory: &Inventory,
    finder: &Finder<'_>,
) -> BTreeMap<FileId, Result<DataFile, String>> {
    let images = inventory.files().filter_map(|(id, file)| Some((id, file.qcow2()?)));
    images
        .filter_map(|(id, facts)| {
            match finder.find(id, facts.data_file.as_ref(), "external data file") {
                HeaderLink::None => None,
                HeaderLink::To { file, evidence, rival } => {
                    Some((id, Ok(DataFile { file, evidence, rival })))
                }
                HeaderLink::Missing { reason, .. } => Some((id, Err(reason))),
            }
        })
        .collect()
}

impl Linker<'_> {
    pub(super) fn is_free(&self, id: FileId) -> bool {
        !self.places.contains_key(&id)
    }

    /// The images that nobody has decided about, in the order of their paths.
    pub(super) fn free_images(&self) -> impl Iterator<Item = (FileId, &FoundFile)> {
        self.inventory.files().filter(|(id, _)| self.is_free(*id))
    }

    /// The link that the image's header makes.
    pub(super) fn header(&self, id: FileId) -> &HeaderLink {
        self.headers.get(&id).unwrap_or(&HeaderLink::None)
    }

    /// A link to `file` for this evidence, which reads it as the header's backing format says.
    pub(super) fn parent(&self, image: FileId, file: FileId, evidence: Evidence) -> Parent {
        let format = self.inventory.file(image).qcow2().and_then(QcowFacts::backing_format);
        let follows_header =
            matches!(self.header(image), HeaderLink::To { file: to, .. } if *to == file);
        // Why a damaged image cannot be read is told by itself.
        let may_be_qcow2 =
            matches!(self.inventory.file(file).content, Content::Qcow2(_) | Content::Unreadable(_));
        match format.filter(|_| follows_header) {
            Some("raw") => Parent::File { file, as_raw: true, evidence },
            Some("qcow2") if !may_be_qcow2 => Parent::Missing(format!(
                "its backing file {} should be a qcow2 image and is none",
                self.inventory.file(file).path.display()
            )),
            Some(other) if other != "qcow2" => Parent::Missing(format!(
                "the format of its backing file {} should be {other:?}, which qcowfs does not read; \
                 if it is a raw or a qcow2 image, declare it as the parent in qcowfs.toml",
                self.inventory.file(file).path.display()
            )),
            None if self.inventory.file(file).is_plain()
                && is_called_qcow2(self.inventory.file(file))
                && !self.is_declared(self.inventory.file(file)) =>
            {
                Parent::Missing(format!(
                    "what it stands on, {}, is called a qcow2 image, but {NO_QCOW2_HEADER}",
                    self.inventory.file(file).path.display()
                ))
            }
            _ => Parent::File { file, as_raw: false, evidence },
        }
    }

    /// The parent that the header names.
    pub(super) fn header_parent(&self, image: FileId) -> Parent {
        match self.header(image) {
            HeaderLink::None => Parent::None,
            HeaderLink::To { file, evidence, .. } => self.parent(image, *file, evidence.clone()),
            HeaderLink::Missing { reason, .. } => Parent::Missing(reason.clone()),
        }
    }

    fn place_unfinished(&mut self) {
        let unfinished: Vec<FileId> = self
            .inventory
            .files()
            .filter(|(_, file)| names::is_unfinished(file.name()) && is_image_like(file))
            .map(|(id, _)| id)
            .collect();
        for id in unfinished {
            let file = self.inventory.file(id);
            let reason = "the backup of this name is in progress or failed: the tool had not \
                          finished it; use the restore point before it";
            let parent = Parent::Unusable(reason.into());
            let place = Place { kind: Kind::Partial, ..plain_place(file, parent) };
            self.places.insert(id, qmpbackup::unfinished(self.inventory, file, place));
        }
    }

    /// Everything that no tool's rule claims: backing chains, and raw images on their own.
    fn place_plain(&mut self, data_files: &BTreeSet<FileId>) -> BTreeSet<FileId> {
        let free: BTreeSet<FileId> = self.free_images().map(|(id, _)| id).collect();
        let needed = self.needed_as_parents();
        for &id in free.difference(data_files) {
            let file = self.inventory.file(id);
            let place = match &file.content {
                Content::Qcow2(_) => self.plain_qcow2(id),
                Content::Plain if is_called_qcow2(file) && !self.is_declared(file) => {
                    plain_place(file, Parent::Unusable(no_qcow2_header(file)))
                }
                Content::Plain if needed.contains(&id) || self.is_raw_image(file) => {
                    plain_place(file, Parent::None)
                }
                Content::Unreadable(reason) if is_image_like(file) => {
                    plain_place(file, Parent::Unusable(reason.clone()))
                }
                _ => continue,
            };
            self.places.insert(id, place);
        }
        free
    }

    fn plain_qcow2(&self, id: FileId) -> Place {
        let file = self.inventory.file(id);
        let parent = match self.header(id) {
            HeaderLink::To { file, .. } if self.is_increment_of_live(id, *file) => {
                Parent::Missing(format!(
                    "its header names {}, a VM's own disk (it holds bitmaps for incremental \
                     backups, or a VM has it open): a push backup does not stand on it, and what it stands on cannot \
                     be known from its name; declare its parent in qcowfs.toml",
                    self.inventory.file(*file).path.display()
                ))
            }
            _ => self.header_parent(id),
        };
        let kind = match parent {
            Parent::None if self.live.contains(&id) => Kind::Live,
            Parent::None => Kind::Full,
            _ => Kind::Overlay,
        };
        Place { kind, ..plain_place(file, parent) }
    }

    /// Whether an image over a live disk may be a push backup, whose header is not true. The
    /// overlay of a snapshot takes the bitmaps along; a backup has none.
    pub(super) fn is_increment_of_live(&self, id: FileId, backing: FileId) -> bool {
        let own_bitmaps = self.inventory.file(id).qcow2().is_some_and(|f| !f.bitmaps.is_empty());
        self.live.contains(&backing) && !own_bitmaps
    }

    /// Whether the backups of a disk are qcow2 images, so that one without that header is damaged.
    pub(super) fn should_be_qcow2(
        &self,
        disk: &DiskKey,
        siblings: impl IntoIterator<Item = FileId>,
    ) -> bool {
        let node = disk.folder.file_name().unwrap_or(&disk.name);
        let noted = self.inventory.noted_format(&disk.folder, &disk.name);
        let noted = noted.or_else(|| self.inventory.noted_format(&disk.folder, node));
        Path::new(&disk.name).extension().is_some_and(|ending| ending == "qcow2")
            || noted == Some("qcow2")
            || siblings.into_iter().any(|id| self.inventory.file(id).qcow2().is_some())
    }

    /// The checkpoints that are described of the live disk at `live_path` (on the VM's machine). A
    /// description that names no disk counts within its own folder.
    pub(super) fn checkpoints_of(&self, live_path: &Path, folder: &Path) -> Vec<&CheckpointXml> {
        let speaks_of_it = |found: &&FoundCheckpoint| {
            let paths = &found.checkpoint.disk_paths;
            let near = found.folder.starts_with(folder) || folder.starts_with(&found.folder);
            paths.iter().any(|path| Path::new(path) == live_path) || (paths.is_empty() && near)
        };
        let found = self.inventory.checkpoint_xml().iter().filter(speaks_of_it);
        found.map(|found| &found.checkpoint).collect()
    }

    /// The path that the image's header names.
    pub(super) fn backing_path(&self, id: FileId) -> Option<&Path> {
        match self.inventory.file(id).qcow2()?.backing.as_ref()? {
            BackingName::Path { path, .. } => Some(path),
            BackingName::Refused(_) => None,
        }
    }

    fn is_raw_image(&self, file: &FoundFile) -> bool {
        file.stat.size > 0 && (self.is_declared(file) || names::has_raw_ending(file.name()))
    }

    fn is_declared(&self, file: &FoundFile) -> bool {
        self.inventory.declaration(&file.path).is_some()
    }

    /// The files that headers and declarations lead to.
    fn needed_as_parents(&self) -> BTreeSet<FileId> {
        let headers = self.headers.values().filter_map(|link| match link {
            HeaderLink::To { file, .. } => Some(*file),
            _ => None,
        });
        let declared = self.inventory.declarations().values().filter_map(|d| match &d.parent {
            Some(DeclaredParent::File(path)) => self.inventory.at(path),
            _ => None,
        });
        headers.chain(declared).collect()
    }

    /// An image that no tool's rule placed belongs to its parent's disk where both lie in the
    /// same folder, unless the user declares another.
    fn gather_disks(&mut self, plain: &BTreeSet<FileId>) {
        let files: Vec<FileId> = self.places.keys().copied().collect();
        let parent_of = |id: FileId| match self.places.get(&id).map(|place| &place.parent) {
            Some(Parent::File { file, .. }) => Some(*file),
            _ => None,
        };
        let rank = |id: FileId| files.binary_search(&id).ok();
        let parent = |n: usize| files.get(n).and_then(|id| rank(parent_of(*id)?));
        let order = parents_first(files.len(), parent, |n| n);
        for id in order.into_iter().filter_map(|n| files.get(n)) {
            let file = self.inventory.file(*id);
            let declared = self.inventory.declaration(&file.path).and_then(|d| d.disk.as_ref());
            let parent = match self.places.get(id).map(|place| &place.parent) {
                Some(Parent::File { file, .. }) if plain.contains(id) && declared.is_none() => {
                    *file
                }
                _ => continue,
            };
            let beside = self.inventory.file(parent).folder() == file.folder();
            let disk = self.places.get(&parent).filter(|_| beside).map(|place| place.disk.clone());
            if let (Some(disk), Some(place)) = (disk, self.places.get_mut(id)) {
                place.disk = disk;
            }
        }
    }

    fn apply_declarations(&mut self) {
        for (path, declaration) in self.inventory.declarations() {
            let Some(id) = self.inventory.at(path) else {
                if !declaration.ignore {
                    log::warn!("qcowfs.toml speaks of {}, which is not there", path.display());
                }
                continue;
            };
            let file = self.inventory.file(id);
            let mut place =
                self.places.get(&id).cloned().unwrap_or_else(|| plain_place(file, Parent::None));
            apply(&mut place, declaration, |path| self.declared_parent(path));
            self.places.insert(id, place);
        }
    }

    /// Two files with the name that a header holds: it may be either that was meant.
    fn warn_of_rivals(&mut self, data_files: &BTreeMap<FileId, Result<DataFile, String>>) {
        for (id, place) in &mut self.places {
            let backing = match (self.headers.get(id), &place.parent) {
                (Some(HeaderLink::To { file, rival, .. }), Parent::File { file: parent, .. })
                    if file == parent =>
                {
                    rival.map(|rival| (*file, rival))
                }
                _ => None,
            };
            let data = data_files.get(id).and_then(|found| found.as_ref().ok());
            let data = data.and_then(|found| Some((found.file, found.rival?)));
            for (file, rival) in backing.into_iter().chain(data) {
                let path = |id: FileId| self.inventory.file(id).path.display();
                place.warnings.push(format!(
                    "its header names {}, and that is what it is read with; {} of this source has \
                     the same name. If that is the one, leave --allow-root out, or declare it in \
                     qcowfs.toml",
                    path(file),
                    path(rival)
                ));
            }
        }
    }

    fn declared_parent(&self, path: &Path) -> Parent {
        if let Some(file) = self.inventory.at(path) {
            let evidence = Evidence::new(Basis::Declared, "qcowfs.toml names the parent");
            return Parent::File { file, as_raw: false, evidence };
        }
        let why = outside::why_missing(self.inventory, Path::new(""), path);
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        let path = path.display();
        Parent::Missing(format!(
            "qcowfs.toml declares {path} as its parent, which is not there{why}"
        ))
    }
}

fn apply(place: &mut Place, declared: &Declaration, parent: impl Fn(&Path) -> Parent) {
    match &declared.parent {
        Some(DeclaredParent::None) => (place.parent, place.kind) = (Parent::None, Kind::Full),
        Some(DeclaredParent::File(path)) => {
            place.parent = parent(path);
            if matches!(place.kind, Kind::Full | Kind::Copy | Kind::Live | Kind::Partial) {
                place.kind = Kind::Incremental;
            }
        }
        None => {}
    }
    if let Some(name) = &declared.name {
        place.label = name.into();
    }
    if let Some(disk) = &declared.disk {
        place.disk.name = disk.into();
    }
    if let Some(time) = declared.time {
        (place.time, place.time_basis) = (time, TimeBasis::Declared);
    }
}

const NO_QCOW2_HEADER: &str = "it does not begin with a qcow2 header: it is damaged, or a raw image \
     with a wrong name; if it is raw, declare format = \"raw\" in qcowfs.toml";

/// Why a file that should be a qcow2 image and does not begin as one is not shown.
pub(super) fn no_qcow2_header(file: &FoundFile) -> String {
    if file.stat.size == 0 {
        return "the file is empty: the backup failed, or its copy; take it from the original, or \
                use the restore point before it"
            .into();
    }
    NO_QCOW2_HEADER.into()
}

/// Whether a file's name says that it is a qcow2 image.
fn is_called_qcow2(file: &FoundFile) -> bool {
    Path::new(file.name()).extension().is_some_and(|e| e.eq_ignore_ascii_case("qcow2"))
}

/// Whether a file that cannot be read is worth a line: its name is one of an image.
fn is_image_like(file: &FoundFile) -> bool {
    let name = file.name();
    match file.content {
        Content::Qcow2(_) | Content::Stream(_) => true,
        Content::Foreign(_) => false,
        Content::Plain => names::is_unfinished(name),
        Content::Unreadable(_) => {
            names::has_raw_ending(name)
                || names::QmpName::parse(name).is_some()
                || names::StreamName::parse(name).is_some()
                || Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case("qcow2"))
                || file.source.is_some()
        }
    }
}
