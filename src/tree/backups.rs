//! The restore points of a source for the commands that do not mount it: picked by name, and
//! refused where they are not whole.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use super::caches::Caches;
use super::images::Images;
use super::missing::Missing;
use super::plan::Plan;
use super::select::{Names, Together};
use super::{ViewOptions, read_catalog};
use crate::chain::catalog::{Catalog, CheckpointId, State};
use crate::chain::inventory::Why;
use crate::error::{Error, Result};
use crate::view::DiskImage;

/// A source, its names, and its disks.
pub struct Backups {
    /// What is there.
    pub catalog: Catalog,
    /// What it is called.
    pub plan: Plan,
    /// Its disks.
    pub images: Images,
    /// All that can be picked.
    pub names: Names,
}

impl Backups {
    /// Looks at a source: a folder, or one image whose chain is looked for in its folder.
    pub fn open(source: &Path, options: &ViewOptions) -> Result<Self> {
        let catalog = read_catalog(source, &options.allowed)?;
        let plan = Plan::new(&catalog);
        let images = Images::new(&catalog, &Caches::new(options.caches), options.missing, None);
        let names = Names::new(&catalog, &plan);
        Ok(Self { catalog, plan, images, names })
    }

    /// The one restore point that is meant: by its name, or by its file.
    pub fn pick(&self, wanted: &str) -> Result<CheckpointId> {
        let by_name = self.names.pick(wanted);
        by_name.or_else(|e| self.of_file(wanted).ok_or_else(|| self.not_found(e)))
    }

    /// The restore point that a file of the source is, named within it or as it lies in the file
    /// system.
    fn of_file(&self, wanted: &str) -> Option<CheckpointId> {
        let files = self.catalog.inventory.paths_of(Path::new(wanted));
        let file = files.iter().find_map(|path| self.catalog.inventory.at(path))?;
        let points = self.plan.disks.iter().flat_map(|disk| &disk.checkpoints);
        let mut points = points.map(|(id, _)| *id);
        points.find(|id| {
            let point = self.catalog.checkpoint(*id);
            point.file == file && point.snapshot.is_none()
        })
    }

    /// All disks of a VM at one moment; none if it is one restore point that is meant.
    pub fn pick_all(&self, wanted: &str) -> Result<Option<Together>> {
        self.names.pick_all(wanted).map_err(|e| self.not_found(e))
    }

    /// What is not found may be in a folder that nobody could look into.
    fn not_found(&self, mut what: String) -> Error {
        if what.contains("cannot be read") {
            return Error::Usage(what);
        }
        let mut faults = self.catalog.skipped().iter().filter(|skipped| skipped.why == Why::Fault);
        if let Some(fault) = faults.next() {
            let (path, more) = (fault.path.display(), faults.count());
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            let _ = write!(
                what,
                "; this of the source cannot be read: {path}{more} (`qcowfs ls` says why)"
            );
        }
        Error::Usage(what)
    }

    /// The path of a restore point in the view.
    pub fn name(&self, id: CheckpointId) -> String {
        let disk = self.plan.disk_of(id).map(|disk| disk.path.as_path());
        let name = self.plan.name_of(id).unwrap_or_default();
        disk.unwrap_or(Path::new("")).join(name).display().to_string()
    }

    /// Its disk. An error that says what is left of it and how to get at that, if it is not whole.
    pub fn image(&self, id: CheckpointId) -> Result<&Arc<DiskImage>> {
        self.images.shown(&self.catalog, id).map_err(|reason| self.refusal(id, reason))
    }

    fn refusal(&self, id: CheckpointId, reason: &str) -> Error {
        let mut what = format!("{} is not whole: {reason}", self.name(id));
        if let Ok(image) = self.images.left(id)
            && self.images.missing() == Missing::Hide
        {
            if let Some(lost) = image.lost() {
                let (known, size) = (image.size().saturating_sub(lost.bytes), image.size());
                let _ = write!(what, "; the files that are there hold {known} of its {size} bytes");
            }
            what += "; `--missing zero` has zeros for what is lost, `--missing eio` stops there";
        }
        let latest = self.plan.disk_of(id).and_then(|disk| disk.latest.as_deref());
        if let Some(latest) = latest.filter(|latest| Some(*latest) != self.plan.name_of(id)) {
            let _ = write!(what, "; the newest that is whole: {latest}");
        }
        Error::Usage(what)
    }

    /// The backups of its disk that are newer, and not whole.
    pub fn newer_and_broken(&self, id: CheckpointId) -> Vec<&str> {
        let Some(disk) = self.plan.disk_of(id) else { return Vec::new() };
        let time = self.catalog.checkpoint(id).time;
        let newer = disk.backups.iter().filter(|backup| !backup.is_whole && backup.time > time);
        newer.map(|backup| backup.name.as_str()).collect()
    }

    /// Whether its chain is whole.
    pub fn is_whole(&self, id: CheckpointId) -> bool {
        self.catalog.checkpoint(id).state == State::Whole
    }
}
