//! The source, which is never written to, whatever a target calls it: a bind mount shows its
//! folders under other names, a loop device the bytes of its files.

use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

use super::target::Target;
use crate::chain::inventory::Inventory;
use crate::error::{Error, Result};

/// Devices on devices on devices.
const DEPTH: usize = 8;

/// Device and inode number.
type Id = (u64, u64);

/// Folders, by what they are and by their names: some file systems change their inode numbers.
#[derive(Debug, Default)]
struct Folders {
    ids: HashSet<Id>,
    paths: Vec<PathBuf>,
}

impl Folders {
    fn hold(&self, path: &Path) -> bool {
        let is_known =
            |folder: &Path| folder.metadata().is_ok_and(|stat| self.ids.contains(&id_of(&stat)));
        self.paths.iter().any(|folder| path.starts_with(folder)) || path.ancestors().any(is_known)
    }
}

/// What no target may be.
#[derive(Debug)]
pub struct Protected {
    source: Folders,
    /// Where the source is a folder, nothing is written into it, either; where it is one file, only
    /// no other file beside it is overwritten.
    source_is_folder: bool,
    allowed: Folders,
    files: HashSet<Id>,
}

impl Protected {
    /// What belongs to a source.
    pub fn new(inventory: &Inventory, source_is_folder: bool) -> Result<Self> {
        let roots = inventory.roots();
        // Those on the way to files outside of the source have absolute paths.
        let within = inventory.folders().iter().filter(|(path, _)| path.is_relative());
        let source = Folders {
            ids: within.map(|(_, stat)| stat.id).collect(),
            paths: vec![roots.source().path().to_path_buf()],
        };
        let mut allowed = Folders::default();
        for root in roots.allowed() {
            allowed.ids.insert(root.stat_folder(Path::new(""))?.id);
            allowed.paths.push(root.path().to_path_buf());
        }
        let files = inventory.files().map(|(_, file)| file.stat.id).collect();
        Ok(Self { source, source_is_folder, allowed, files })
    }

    /// Refuses a target that is part of the source.
    pub fn refuse(&self, target: &Target) -> Result<()> {
        let path = target.path();
        let reason = match target {
            Target::New(path) => {
                (self.source_is_folder && self.source.hold(path)).then_some(IN_SOURCE)
            }
            Target::File(path) => self.why_no_file(path),
            Target::Device(path, _) => return self.refuse_device(path),
        };
        reason.map_or(Ok(()), |reason| Err(Error::Usage(format!("{}: {reason}", path.display()))))
    }

    /// Why an existing file is not to be written.
    fn why_no_file(&self, path: &Path) -> Option<&'static str> {
        let is_of_source = || path.metadata().is_ok_and(|stat| self.files.contains(&id_of(&stat)));
        if self.source.hold(path) {
            Some(IN_SOURCE)
        } else if is_of_source() {
            Some("is a file of the source, which is never written to")
        } else if self.allowed.hold(path) {
            Some("lies beneath an --allow-root, where no file is overwritten")
        } else {
            None
        }
    }

    fn refuse_device(&self, path: &Path) -> Result<()> {
        let stat = path.metadata().map_err(|e| Error::io(path, e))?;
        let (major, minor) = (major(stat.rdev()), minor(stat.rdev()));
        for file in backing_files(&format!("{major}:{minor}"), DEPTH) {
            if let Some(reason) = self.why_no_file(&file) {
                let (path, file) = (path.display(), file.display());
                let what = format!("{path}: its bytes are those of {file}, which {reason}");
                return Err(Error::Usage(what));
            }
        }
        Ok(())
    }
}

const IN_SOURCE: &str = "lies in the source, which is never written to";

fn id_of(stat: &Metadata) -> Id {
    (stat.dev(), stat.ino())
}

/// The files that a block device, or what it is made of, has its bytes in.
fn backing_files(device: &str, depth: usize) -> Vec<PathBuf> {
    let folder = Path::new("/sys/dev/block").join(device);
    // A partition lies in the folder of its device.
    let places = ["loop/backing_file", "../loop/backing_file"];
    let named = places.iter().filter_map(|place| std::fs::read_to_string(folder.join(place)).ok());
    let mut files: Vec<_> = named.map(|name| PathBuf::from(name.trim_end_matches('\n'))).collect();
    let below = folder.join("slaves").read_dir().into_iter().flatten().flatten();
    for below in below.filter(|_| depth > 0) {
        if let Ok(device) = std::fs::read_to_string(below.path().join("dev")) {
            files.extend(backing_files(device.trim(), depth - 1));
        }
    }
    files
}
