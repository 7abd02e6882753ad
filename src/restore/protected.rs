//! The source, which is never written to, whatever a target calls it: a bind mount shows its
//! folders under other names, a loop device the bytes of its files.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::in_use::refuse_file_of_vm;
use super::sysfs::backing_files;
use super::target::Target;
use crate::chain::inventory::Inventory;
use crate::error::{Error, Result};

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
            Target::Device(path, device) => return self.refuse_device(path, device.number),
        };
        reason.map_or(Ok(()), |reason| Err(Error::Usage(format!("{}: {reason}", path.display()))))
    }

    /// Refuses an open file that is part of the source; `name` is what to call it.
    pub(super) fn refuse_open_file(&self, file: &File, name: &Path) -> Result<()> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let path = std::fs::read_link(path).unwrap_or_default();
        let stat = file.metadata().map_err(|e| Error::io(name, e))?;
        let of_source = self.files.contains(&id_of(&stat)).then_some(IN_SOURCE);
        of_source.or_else(|| self.why_no_file(&path)).map_or(Ok(()), |reason| {
            Err(Error::Usage(format!("{}: {} {reason}", name.display(), path.display())))
        })
    }

    /// For tests that have no source.
    #[cfg(test)]
    pub(super) fn nothing() -> Self {
        let (source, allowed) = (Folders::default(), Folders::default());
        Self { source, source_is_folder: true, allowed, files: HashSet::new() }
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

    /// Refuses a device whose bytes are those of a file of the source, or of one that a virtual
    /// machine has open.
    pub(super) fn refuse_device(&self, path: &Path, number: u64) -> Result<()> {
        for file in backing_files(number) {
            let told = |reason: &str| {
                let (path, file) = (path.display(), file.display());
                Error::Usage(format!("{path}: its bytes are those of {file}, which {reason}"))
            };
            if let Some(reason) = self.why_no_file(&file) {
                return Err(told(reason));
            }
            refuse_file_of_vm(&file).map_err(|_| told("a running VM has open"))?;
        }
        Ok(())
    }
}

const IN_SOURCE: &str = "lies in the source, which is never written to";

fn id_of(stat: &Metadata) -> Id {
    (stat.dev(), stat.ino())
}
