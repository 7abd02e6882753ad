//! Where everything goes in the view: the one place that `ls` and the mounted tree share.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::names::{Taken, escape};
use super::times::{TIMES, VmPlan, Vms};
use crate::chain::catalog::{Catalog, CheckpointId, Disk, State};
use crate::chain::place::Kind;

/// Names that a disk's folder holds beside its checkpoints.
pub const LATEST: &str = "latest";
/// The folder of links named by time.
pub const BY_TIME: &str = "by-time";

/// Where a disk goes.
#[derive(Debug, Default)]
pub struct DiskPlan {
    /// Path of the disk's folder in the view.
    pub path: PathBuf,
    /// Its folder in the source.
    pub source_folder: PathBuf,
    /// The name that the tool knows it by, made safe.
    pub name: String,
    /// The same as it was found.
    pub raw_name: OsString,
    /// Its checkpoints in order, each with its folder's name.
    pub checkpoints: Vec<(CheckpointId, String)>,
    /// The newest that can be assembled.
    pub latest: Option<String>,
    /// Names by time, and the checkpoint's folder that each leads to.
    pub by_time: Vec<(String, String)>,
    /// Its backups in the order of `checkpoints`.
    pub backups: Vec<Backup>,
}

/// A checkpoint that was made to be gone back to: neither the live disk nor an unfinished backup.
#[derive(Debug, Clone)]
pub struct Backup {
    /// When it was made.
    pub time: SystemTime,
    /// Its folder's name.
    pub name: String,
    /// Whether all of its chain is there.
    pub is_whole: bool,
}

/// Where everything goes.
#[derive(Debug)]
pub struct Plan {
    /// The disks in the order of their paths in the source.
    pub disks: Vec<DiskPlan>,
    /// The folders of several disks that belong together.
    pub vms: Vec<VmPlan>,
    places: HashMap<CheckpointId, (usize, String)>,
}

impl Plan {
    /// Plans the view of a catalog.
    pub fn new(catalog: &Catalog) -> Self {
        let mut folders = Folders::new(catalog);
        let mut disks = Vec::with_capacity(catalog.disks.len());
        let mut places = HashMap::new();
        for disk in &catalog.disks {
            let path = folders.place(disk);
            let plan = plan_disk(catalog, disk, path);
            for (id, name) in &plan.checkpoints {
                places.insert(*id, (disks.len(), name.clone()));
            }
            disks.push(plan);
        }
        let mut within: HashMap<&Path, Vec<usize>> = HashMap::new();
        for (number, disk) in disks.iter().enumerate() {
            within.entry(disk.path.parent().unwrap_or(Path::new(""))).or_default().push(number);
        }
        let vm = |(folder, name): (PathBuf, String)| {
            VmPlan::new(&folder, name, within.get(folder.as_path())?, &disks)
        };
        let vms = folders.times().into_iter().filter_map(vm).collect();
        Self { disks, vms, places }
    }

    /// The disk of a checkpoint.
    pub fn disk_of(&self, id: CheckpointId) -> Option<&DiskPlan> {
        self.places.get(&id).and_then(|(disk, _)| self.disks.get(*disk))
    }

    /// The name of a checkpoint's folder.
    pub fn name_of(&self, id: CheckpointId) -> Option<&str> {
        self.places.get(&id).map(|(_, name)| name.as_str())
    }

    /// What `from` calls the checkpoint `to`: its folder's name on the same disk, its path in the
    /// view on another.
    pub fn reference(&self, from: CheckpointId, to: CheckpointId) -> Option<String> {
        let (from_disk, _) = self.places.get(&from)?;
        let (disk, name) = self.places.get(&to)?;
        if from_disk == disk {
            return Some(name.clone());
        }
        let path = self.disks.get(*disk)?.path.join(name);
        Some(format!("/{}", path.display()))
    }
}

/// Which names are taken in each folder of the view.
#[derive(Default)]
struct Folders {
    /// Disks by folder of the source.
    disks_in: BTreeMap<PathBuf, usize>,
    taken: HashMap<PathBuf, Taken>,
    vms: Vms,
}

impl Folders {
    fn new(catalog: &Catalog) -> Self {
        let mut folders = Self::default();
        for disk in &catalog.disks {
            *folders.disks_in.entry(disk.key.folder.clone()).or_default() += 1;
        }
        // Mirrored folders have their names before any disk takes one.
        for disk in &catalog.disks {
            let mut path = PathBuf::new();
            for part in &disk.key.folder {
                let folder = path.clone();
                let name = escape(part);
                path.push(&name);
                folders.taken.entry(folder).or_default().reserve(&name);
            }
        }
        for disk in &catalog.disks {
            let folder = folders.above(disk);
            folders.vms.count(folder);
        }
        folders
    }

    /// The folders of the view that are taken for VMs, and what the one of moments is called there:
    /// so unless a folder of the source or a disk has that name. All disks have their names before.
    fn times(self) -> Vec<(PathBuf, String)> {
        let Self { vms, mut taken, .. } = self;
        let name = |folder: &Path| {
            let name = taken.entry(folder.to_path_buf()).or_default().give(TIMES);
            (folder.to_path_buf(), name)
        };
        vms.folders().map(name).collect()
    }

    /// The folder of the view that holds a disk's folder.
    fn above(&self, disk: &Disk) -> PathBuf {
        let mut folder: PathBuf = disk.key.folder.iter().map(escape).collect();
        if self.is_its_own(disk) {
            folder.pop();
        }
        folder
    }

    /// Whether a folder of the source holds this disk alone and bears its name: it is the disk's
    /// folder then.
    fn is_its_own(&self, disk: &Disk) -> bool {
        disk.key.folder.file_name() == Some(&disk.key.name) && self.is_alone(&disk.key.folder)
    }

    /// The path of a disk's folder.
    fn place(&mut self, disk: &Disk) -> PathBuf {
        let folder: PathBuf = disk.key.folder.iter().map(escape).collect();
        if self.is_its_own(disk) {
            return folder;
        }
        let name = self.taken.entry(folder.clone()).or_default().give(&escape(&disk.key.name));
        folder.join(name)
    }

    fn is_alone(&self, folder: &Path) -> bool {
        let within = self.disks_in.range(folder.to_path_buf()..);
        within
            .take_while(|(other, _)| other.starts_with(folder))
            .map(|(_, count)| count)
            .sum::<usize>()
            == 1
    }
}

fn plan_disk(catalog: &Catalog, disk: &Disk, path: PathBuf) -> DiskPlan {
    let mut taken = Taken::new(&[LATEST, BY_TIME]);
    let name = |id: &CheckpointId| (*id, taken.give(&escape(&label(catalog, *id))));
    let checkpoints: Vec<(CheckpointId, String)> = disk.checkpoints.iter().map(name).collect();
    let latest = catalog.latest(disk);
    let latest = checkpoints.iter().find(|(id, _)| Some(*id) == latest).map(|(_, n)| n.clone());
    let backup = |(id, name): &(CheckpointId, String)| {
        let checkpoint = catalog.checkpoint(*id);
        let is_whole = checkpoint.state == State::Whole;
        let is_backup = !matches!(checkpoint.kind, Kind::Live | Kind::Partial);
        is_backup.then(|| Backup { time: checkpoint.time, name: name.clone(), is_whole })
    };
    let backups: Vec<Backup> = checkpoints.iter().filter_map(backup).collect();
    let mut times = Taken::new(&[]);
    let whole = backups.iter().filter(|backup| backup.is_whole);
    let by_time =
        whole.map(|backup| (times.give(&rfc3339(backup.time)), backup.name.clone())).collect();
    DiskPlan {
        path,
        source_folder: disk.key.folder.clone(),
        name: escape(&disk.key.name),
        raw_name: disk.key.name.clone(),
        checkpoints,
        latest,
        by_time,
        backups,
    }
}

/// An unfinished backup keeps the mark that its tool gave it.
fn label(catalog: &Catalog, id: CheckpointId) -> OsString {
    let checkpoint = catalog.checkpoint(id);
    match checkpoint.kind {
        Kind::Partial => catalog.file_of(id).path.file_name().unwrap_or(OsStr::new("")).into(),
        _ => checkpoint.label.clone(),
    }
}

/// A time in UTC, to the second.
pub fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::from_second(second(time)).unwrap_or_default().to_string()
}

/// The second since 1970 in which a time lies; 0 where a date cannot tell it.
pub fn second(time: SystemTime) -> i64 {
    let timestamp = jiff::Timestamp::try_from(time).unwrap_or_default();
    timestamp.as_nanosecond().div_euclid(1_000_000_000).try_into().unwrap_or(0)
}
