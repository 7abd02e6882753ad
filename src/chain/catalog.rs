//! The restore points of a source: by disk, in order, each whole or with the reason why not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::evidence::{Basis, Evidence};
use super::inventory::{Before, Content, FileId, FoundFile, Inventory, Skipped};
use super::link::{self, Links};
use super::order::{natural, parents_first};
use super::place::{DiskKey, Kind, Parent, Place, TimeBasis};
use super::state::{self, Condition};
pub use super::state::{Left, State};
use crate::error::{Error, Result};
use crate::layer::qcow2::Snapshot;
use crate::layout::sidecar;
use crate::source::Roots;

/// Longer chains are refused. Nothing in the code grows with the square of it; it only keeps a
/// hostile source from making the tables of a single chain its weapon.
pub const LONGEST_CHAIN: usize = 65_536;

/// A checkpoint of the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointId(pub usize);

/// All restore points of a source.
#[derive(Debug)]
pub struct Catalog {
    /// The files that they are made of.
    pub inventory: Inventory,
    /// The disks, in the order of their folders and names.
    pub disks: Vec<Disk>,
    checkpoints: Vec<Checkpoint>,
}

/// The restore points of one disk.
#[derive(Debug)]
pub struct Disk {
    /// Where it lies and what it is called.
    pub key: DiskKey,
    /// Oldest first, parents before children; the live disk last.
    pub checkpoints: Vec<CheckpointId>,
}

/// One restore point.
#[derive(Debug)]
pub struct Checkpoint {
    /// The image.
    pub file: FileId,
    /// The snapshot within it, by its number in the table; none: the image's own state.
    pub snapshot: Option<usize>,
    /// The tool's label, the snapshot's name, or the file's name.
    pub label: OsString,
    /// What kind of restore point it is.
    pub kind: Kind,
    /// When it was made.
    pub time: SystemTime,
    /// Where that was read.
    pub time_basis: TimeBasis,
    /// Bytes of the disk at that time; unknown where the image cannot be read.
    pub virtual_size: Option<u64>,
    /// The link to what it stands on.
    pub parent: Option<ParentLink>,
    /// The external data file that it needs.
    pub data_file: Option<FileId>,
    /// What of the image itself can be used.
    pub left: Left,
    /// It stands on something that is not in the source, or not an image that can be read.
    pub base_is_lost: bool,
    /// Whether it can be assembled.
    pub state: State,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// A link from a checkpoint to what it stands on.
#[derive(Debug, Clone)]
pub struct ParentLink {
    /// The checkpoint: always an image's own state.
    pub checkpoint: CheckpointId,
    /// The parent's bytes are the disk's, whatever they look like; then nothing lies below it.
    pub as_raw: bool,
    /// Why.
    pub evidence: Evidence,
}

/// The `qcowfs.toml` in the source's own folder keeps all from being shown: the error names it so
/// that it is found from anywhere.
fn with_whole_path(error: Error, folder: &Path) -> Error {
    match error {
        Error::Usage(what) if what.starts_with(sidecar::NAME) => {
            Error::Usage(format!("{}/{what}", folder.display()))
        }
        Error::Io { file, offset, source } if file == Path::new(sidecar::NAME) => {
            Error::Io { file: folder.join(file), offset, source }
        }
        other => other,
    }
}

impl Catalog {
    /// Looks at the source and decides about everything in it.
    pub fn read(roots: Arc<Roots>) -> Result<Self> {
        let folder = roots.source().path().to_path_buf();
        let inventory = Inventory::take(roots).map_err(|e| with_whole_path(e, &folder))?;
        Ok(Self::decide(inventory, &mut Before::nothing(&mut |_, _| false)))
    }

    /// The same again, where all may have changed meanwhile: what is the same still is not read
    /// again.
    pub fn read_again(earlier: &Self, mut before: Before<'_>) -> Result<Self> {
        let folder = earlier.inventory.root().path();
        let inventory = Inventory::take_again(&earlier.inventory, &mut before)
            .map_err(|e| with_whole_path(e, folder))?;
        Ok(Self::decide(inventory, &mut before))
    }

    fn decide(mut inventory: Inventory, before: &mut Before<'_>) -> Self {
        let links = link::link(&mut inventory, before);
        let mut builder = Builder { inventory: &inventory, links: &links, made: BTreeMap::new() };
        let checkpoints = builder.checkpoints();
        let disks = disks(&inventory, &links, &checkpoints);
        let catalog = Self { inventory, disks, checkpoints };
        catalog.close_all_but(catalog.checkpoints.iter());
        catalog
    }

    /// Closes the files that none of these checkpoints is made of.
    fn close_all_but<'a>(&self, checkpoints: impl Iterator<Item = &'a Checkpoint>) {
        let used = checkpoints.flat_map(|checkpoint| [Some(checkpoint.file), checkpoint.data_file]);
        let used: BTreeSet<FileId> = used.flatten().collect();
        for (id, file) in self.inventory.files() {
            if let Some(source) = file.source.as_ref().filter(|_| !used.contains(&id)) {
                source.close();
            }
        }
    }

    /// Leaves only the image at `path` and what it stands on.
    pub fn keep_only(&mut self, path: &Path) {
        let wanted = self.inventory.at(path);
        let mut keep: BTreeSet<CheckpointId> = BTreeSet::new();
        for (n, checkpoint) in self.checkpoints.iter().enumerate() {
            if Some(checkpoint.file) == wanted {
                keep.insert(CheckpointId(n));
                keep.extend(self.ancestors(CheckpointId(n)));
            }
        }
        for disk in &mut self.disks {
            disk.checkpoints.retain(|id| keep.contains(id));
        }
        self.disks.retain(|disk| !disk.checkpoints.is_empty());
        self.close_all_but(keep.iter().map(|id| self.checkpoint(*id)));
    }

    /// One checkpoint.
    ///
    /// # Panics
    /// If the number is not from this catalog.
    #[allow(clippy::indexing_slicing)] // ids are made here and are never derived from a file
    pub fn checkpoint(&self, id: CheckpointId) -> &Checkpoint {
        &self.checkpoints[id.0]
    }

    /// The file of a checkpoint.
    pub fn file_of(&self, id: CheckpointId) -> &FoundFile {
        self.inventory.file(self.checkpoint(id).file)
    }

    /// What lies below a checkpoint, nearest first.
    pub fn ancestors(&self, id: CheckpointId) -> impl Iterator<Item = CheckpointId> {
        let below = |id: &CheckpointId| {
            let parent = self.checkpoint(*id).parent.as_ref();
            parent.map(|link| (link.checkpoint, link.as_raw))
        };
        let first = below(&id);
        std::iter::successors(first, move |(id, as_raw)| if *as_raw { None } else { below(id) })
            .map(|(id, _)| id)
            // The builder breaks loops; this only makes it plain that there is an end.
            .take(LONGEST_CHAIN)
    }

    /// What the shown checkpoints stand on outside of the source, by whatever way.
    pub fn needed_outside(&self) -> BTreeSet<CheckpointId> {
        let shown = self.disks.iter().flat_map(|disk| disk.checkpoints.iter().copied());
        let mut needed = BTreeSet::new();
        for id in shown {
            let outside = self.ancestors(id).take_while(|id| self.file_of(*id).is_outside());
            for id in outside {
                if !needed.insert(id) {
                    break;
                }
            }
        }
        needed
    }

    /// How many checkpoints there are, shown or not.
    pub fn len(&self) -> usize {
        self.checkpoints.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.checkpoints.is_empty()
    }

    /// What is in the source and not shown.
    pub fn skipped(&self) -> &[Skipped] {
        self.inventory.skipped()
    }

    /// The newest checkpoint of a disk that can be assembled; never the live disk.
    pub fn latest(&self, disk: &Disk) -> Option<CheckpointId> {
        disk.checkpoints.iter().rev().copied().find(|&id| {
            let checkpoint = self.checkpoint(id);
            checkpoint.kind != Kind::Live && checkpoint.state == State::Whole
        })
    }
}

struct Builder<'a> {
    inventory: &'a Inventory,
    links: &'a Links,
    /// The checkpoint of each image's own state.
    made: BTreeMap<FileId, CheckpointId>,
}

impl Builder<'_> {
    /// All checkpoints; parents come first.
    fn checkpoints(&mut self) -> Vec<Checkpoint> {
        let files: Vec<(FileId, &Place)> =
            self.links.places.iter().map(|(id, place)| (*id, place)).collect();
        let rank: BTreeMap<FileId, usize> =
            files.iter().enumerate().map(|(n, (id, _))| (*id, n)).collect();
        let parent = |n: usize| match files.get(n).map(|(_, place)| &place.parent) {
            Some(Parent::File { file, .. }) => rank.get(file).copied(),
            _ => None,
        };
        let order = parents_first(files.len(), parent, |n| n);
        let mut checkpoints = Vec::new();
        let mut depth: Vec<usize> = Vec::new();
        for (id, place) in order.iter().filter_map(|&n| files.get(n)) {
            self.add_file(*id, place, &mut checkpoints, &mut depth);
        }
        let left_out: BTreeSet<usize> = (0..files.len())
            .collect::<BTreeSet<_>>()
            .difference(&order.into_iter().collect())
            .copied()
            .collect();
        for (id, place) in left_out.iter().filter_map(|&n| files.get(n)) {
            let reason = "its chain of backing files leads back to itself".to_owned();
            let place = Place { parent: Parent::Missing(reason), ..(*place).clone() };
            self.add_file(*id, &place, &mut checkpoints, &mut depth);
        }
        checkpoints
    }

    fn add_file(
        &mut self,
        id: FileId,
        place: &Place,
        checkpoints: &mut Vec<Checkpoint>,
        depth: &mut Vec<usize>,
    ) {
        let parent = match &place.parent {
            Parent::File { file, as_raw, evidence } => self.made.get(file).map(|&checkpoint| {
                ParentLink { checkpoint, as_raw: *as_raw, evidence: evidence.clone() }
            }),
            _ => None,
        };
        let below = match &parent {
            None => 0,
            Some(link) if link.as_raw => 1,
            Some(link) => depth.get(link.checkpoint.0).copied().unwrap_or(0),
        };
        let condition = self.condition(id, place, parent.as_ref(), below, checkpoints);
        let mut made = self.snapshots(id, place, parent.as_ref(), &condition);
        made.push(self.image(id, place, parent, condition));
        depth.resize(checkpoints.len() + made.len(), below + 1);
        checkpoints.extend(made);
        self.made.insert(id, CheckpointId(checkpoints.len() - 1));
    }

    fn image(
        &self,
        id: FileId,
        place: &Place,
        parent: Option<ParentLink>,
        condition: Condition,
    ) -> Checkpoint {
        let file = self.inventory.file(id);
        let mut warnings = place.warnings.clone();
        warnings.extend(file.qcow2().into_iter().flat_map(|facts| facts.warnings.clone()));
        warnings.extend(file.warning.map(str::to_owned));
        if let Some(Ok(found)) = self.links.data_files.get(&id)
            && found.evidence.basis != Basis::Header
        {
            warnings.push(found.evidence.text.clone());
        }
        let virtual_size = match &file.content {
            Content::Qcow2(facts) => Some(facts.header.virtual_size),
            Content::Stream(facts) => Some(facts.meta.virtual_size),
            // A file that should be an image and is none tells nothing of its disk.
            Content::Plain if condition.left == Left::Nothing => None,
            Content::Plain => Some(file.stat.size),
            Content::Unreadable(_) | Content::Foreign(_) => None,
        };
        Checkpoint {
            file: id,
            snapshot: None,
            label: place.label.clone(),
            kind: place.kind,
            time: place.time,
            time_basis: place.time_basis,
            virtual_size,
            parent,
            data_file: self.data_file(id),
            left: condition.left,
            base_is_lost: condition.base_is_lost,
            state: condition.state,
            warnings,
        }
    }

    fn snapshots(
        &self,
        id: FileId,
        place: &Place,
        parent: Option<&ParentLink>,
        condition: &Condition,
    ) -> Vec<Checkpoint> {
        let entries = self.inventory.file(id).qcow2().map_or(&[][..], |facts| &facts.snapshots);
        let checkpoint = |(n, entry): (usize, &Result<Snapshot, _>)| {
            let (label, time, time_basis, virtual_size, condition) = match entry {
                Ok(snapshot) => {
                    let time = Duration::new(u64::from(snapshot.seconds), snapshot.nanos);
                    let time = SystemTime::UNIX_EPOCH + time;
                    let size = Some(snapshot.virtual_size);
                    let label = snapshot_label(n, snapshot);
                    (label, time, TimeBasis::Metadata, size, condition.clone())
                }
                Err(defect) => {
                    let reason = format!("this internal snapshot cannot be used: {defect}");
                    let label = format!("snapshot-{}", n + 1).into();
                    (label, place.time, place.time_basis, None, Condition::unusable(reason))
                }
            };
            Checkpoint {
                file: id,
                snapshot: Some(n),
                label,
                kind: Kind::Snapshot,
                time,
                time_basis,
                virtual_size,
                parent: parent.cloned(),
                data_file: self.data_file(id),
                left: condition.left,
                base_is_lost: condition.base_is_lost,
                state: condition.state,
                warnings: Vec::new(),
            }
        };
        entries.iter().enumerate().map(checkpoint).collect()
    }

    fn data_file(&self, id: FileId) -> Option<FileId> {
        self.links.data_files.get(&id)?.as_ref().ok().map(|found| found.file)
    }

    /// What of an image can be used, and whether the whole can be assembled.
    fn condition(
        &self,
        id: FileId,
        place: &Place,
        parent: Option<&ParentLink>,
        below: usize,
        checkpoints: &[Checkpoint],
    ) -> Condition {
        let found = state::examine(self.inventory, self.links, id, place);
        if found.left == Left::Nothing {
            return found;
        }
        if below >= LONGEST_CHAIN {
            let reason = format!("its chain is longer than {LONGEST_CHAIN} images");
            return Condition::unusable(reason);
        }
        let base = match &place.parent {
            Parent::File { file, .. } if parent.is_none() => {
                let path = self.inventory.file(*file).path.display();
                return found.without_base(format!(
                    "what it stands on, {path}, is not an image that can be read"
                ));
            }
            _ => parent.filter(|link| !link.as_raw),
        };
        match base.and_then(|link| checkpoints.get(link.checkpoint.0)) {
            Some(Checkpoint { state: State::Broken(reason), file, .. })
                if found.state == State::Whole =>
            {
                let path = &self.inventory.file(*file).path;
                Condition { state: State::above(path, reason), ..found }
            }
            _ => found,
        }
    }
}

fn snapshot_label(number: usize, snapshot: &Snapshot) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    let name = if snapshot.name.is_empty() { &snapshot.id } else { &snapshot.name };
    if name.is_empty() {
        return format!("snapshot-{}", number + 1).into();
    }
    OsString::from_vec(name.clone())
}

fn disks(inventory: &Inventory, links: &Links, checkpoints: &[Checkpoint]) -> Vec<Disk> {
    let mut disks: HashMap<&DiskKey, Vec<usize>> = HashMap::new();
    for (n, checkpoint) in checkpoints.iter().enumerate() {
        let is_shown = !inventory.file(checkpoint.file).is_outside();
        if let Some(place) = links.places.get(&checkpoint.file).filter(|_| is_shown) {
            disks.entry(&place.disk).or_default().push(n);
        }
    }
    let ordered = |(key, members): (&DiskKey, Vec<usize>)| {
        let checkpoints = in_order(inventory, checkpoints, &members);
        Disk { key: key.clone(), checkpoints }
    };
    BTreeMap::from_iter(disks).into_iter().map(ordered).collect()
}

/// Oldest first. An image's snapshots come before its own state, its parent before both, and the
/// live disk last.
fn in_order(
    inventory: &Inventory,
    checkpoints: &[Checkpoint],
    members: &[usize],
) -> Vec<CheckpointId> {
    let of = |n: usize| members.get(n).and_then(|&id| Some((id, checkpoints.get(id)?)));
    let rank: BTreeMap<usize, usize> = members.iter().enumerate().map(|(n, id)| (*id, n)).collect();
    let parent = |n: usize| {
        let (id, checkpoint) = of(n)?;
        let before = id.checked_sub(1).filter(|before| {
            let same_file = |other: &Checkpoint| other.file == checkpoint.file;
            checkpoints.get(*before).is_some_and(same_file)
        });
        let before = before.or(checkpoint.parent.as_ref().map(|link| link.checkpoint.0));
        before.and_then(|id| rank.get(&id).copied())
    };
    let names: Vec<NaturalName> = members
        .iter()
        .map(|&id| {
            let file = checkpoints.get(id).map(|checkpoint| inventory.file(checkpoint.file));
            NaturalName(file.map(|file| file.path.clone()).unwrap_or_default().into_os_string())
        })
        .collect();
    let key = |n: usize| {
        let (live, time) = of(n).map_or((false, SystemTime::UNIX_EPOCH), |(_, checkpoint)| {
            (checkpoint.kind == Kind::Live, checkpoint.time)
        });
        (live, time, names.get(n))
    };
    let order = parents_first(members.len(), parent, key);
    order.into_iter().filter_map(|n| members.get(n)).map(|&id| CheckpointId(id)).collect()
}

#[derive(PartialEq, Eq)]
struct NaturalName(OsString);

impl Ord for NaturalName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        natural(self.0.as_encoded_bytes(), other.0.as_encoded_bytes())
    }
}

impl PartialOrd for NaturalName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
