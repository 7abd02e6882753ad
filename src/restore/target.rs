//! What a disk is to be written to.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use super::block_device::BlockDevice;
use super::in_use::refuse_file_in_use;
use super::partial::folder_of;
use super::sysfs::overlapping;
use crate::error::{Error, Result};

/// What is at the path of a target, all symbolic links followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Nothing.
    New(PathBuf),
    /// A regular file.
    File(PathBuf),
    /// A block device.
    Device(PathBuf, BlockDevice),
}

impl Target {
    /// Looks at a path.
    pub fn look_at(path: &Path) -> Result<Self> {
        let fail = |e| Error::io(path, e);
        let Some(name) = path.file_name() else {
            return Err(Error::Usage(format!("{}: not the name of a file", path.display())));
        };
        match path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let folder = folder_of(path);
                let real = folder.canonicalize().map_err(|e| Error::io(folder, e))?;
                Ok(Self::New(real.join(name)))
            }
            Err(e) => Err(fail(e)),
            Ok(_) => {
                let real = path.canonicalize().map_err(|e| match path.read_link() {
                    Ok(to) if e.kind() == io::ErrorKind::NotFound => Error::Usage(format!(
                        "{}: is a symbolic link to {}, which is not there: name the file itself",
                        path.display(),
                        to.display()
                    )),
                    _ => fail(e),
                })?;
                let kind = real.metadata().map_err(fail)?.file_type();
                if kind.is_file() {
                    refuse_file_in_use(&real)?;
                    Ok(Self::File(real))
                } else if kind.is_block_device() {
                    let device = BlockDevice::look_at(&real)?;
                    Ok(Self::Device(real, device))
                } else {
                    let what = "neither a regular file nor a block device: name a file, a device of \
                                `lsblk`, or - for the standard output";
                    Err(Error::Usage(format!("{}: {what}", path.display())))
                }
            }
        }
    }

    /// Looks at a path whose folders may be yet to be made.
    pub fn look_ahead(path: &Path) -> Result<Self> {
        let folder = folder_of(path);
        let is_missing = |folder: &Path| match folder.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(Error::io(folder, e)),
            Ok(_) => Ok(false),
        };
        let mut there = folder;
        while is_missing(there)? {
            there = folder_of(there);
        }
        if there == folder {
            return Self::look_at(path);
        }
        let rest = path.strip_prefix(there).unwrap_or(path);
        if rest.components().any(|part| !matches!(part, Component::Normal(_))) {
            let what = format!("{}: leads through a folder that is not there", path.display());
            return Err(Error::Usage(what));
        }
        let real = there.canonicalize().map_err(|e| Error::io(there, e))?;
        Ok(Self::New(real.join(rest)))
    }

    /// Refuses targets of which two are one and the same.
    pub fn refuse_same<'a>(targets: impl Iterator<Item = &'a Self>) -> Result<()> {
        let mut seen: HashMap<_, &Path> = HashMap::new();
        for target in targets {
            let path = target.path();
            let mut other = seen.insert(target.identity()?, path);
            if let Self::Device(_, device) = target {
                // A partition and its disk, too.
                for number in overlapping(device.number).into_iter().filter(|n| *n != device.number)
                {
                    other = other.or(seen.get(&device_identity(number)).copied());
                }
            }
            if let Some(other) = other {
                let (path, other) = (path.display(), other.display());
                let what = format!("{path}: two disks would be written to it (also as {other})");
                return Err(Error::Usage(what));
            }
        }
        Ok(())
    }

    /// What it is, by whatever name: numbers, and a name where nothing has any yet.
    fn identity(&self) -> Result<(bool, u64, u64, PathBuf)> {
        let stat = |path: &Path| path.metadata().map_err(|e| Error::io(path, e));
        Ok(match self {
            Self::Device(_, device) => device_identity(device.number),
            Self::File(path) => {
                let stat = stat(path)?;
                (false, stat.dev(), stat.ino(), PathBuf::new())
            }
            Self::New(path) => {
                let folder = path.ancestors().skip(1).find(|folder| folder.exists());
                let folder = folder.unwrap_or(Path::new("/"));
                let rest = path.strip_prefix(folder).unwrap_or(path).to_path_buf();
                let stat = stat(folder)?;
                (false, stat.dev(), stat.ino(), rest)
            }
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::New(path) | Self::File(path) | Self::Device(path, _) => path,
        }
    }

    /// What is there and will be gone, in words.
    pub fn what_is_lost(&self) -> Option<String> {
        match self {
            Self::New(_) => None,
            Self::File(path) => Some(format!("{} exists", path.display())),
            Self::Device(path, _) => Some(format!("{} is a block device", path.display())),
        }
    }
}

fn device_identity(number: u64) -> (bool, u64, u64, PathBuf) {
    (true, number, 0, PathBuf::new())
}
