//! What a disk is to be written to.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::in_use::{refuse_device_in_use, refuse_file_in_use};
use super::partial::folder_of;
use crate::error::{Error, Result};

/// What is at the path of a target, all symbolic links followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Nothing.
    New(PathBuf),
    /// A regular file.
    File(PathBuf),
    /// A block device of so many bytes.
    Device(PathBuf, u64),
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
                let real = path.canonicalize().map_err(fail)?;
                let kind = real.metadata().map_err(fail)?.file_type();
                if kind.is_file() {
                    refuse_file_in_use(&real)?;
                    Ok(Self::File(real))
                } else if kind.is_block_device() {
                    let mut device = File::open(&real).map_err(fail)?;
                    refuse_device_in_use(&device, &real)?;
                    let end = device.seek(SeekFrom::End(0)).map_err(fail)?;
                    Ok(Self::Device(real, end))
                } else {
                    let what = "neither a regular file nor a block device";
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
            if let Some(other) = seen.insert(target.identity()?, path) {
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
            Self::Device(path, _) => (true, stat(path)?.rdev(), 0, PathBuf::new()),
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

/// Opens a device that nobody uses: not mounted, nor part of a volume group or the like.
pub(super) fn open_device(path: &Path, device_size: u64, size: u64) -> Result<File> {
    if device_size < size {
        let path = path.display();
        let what = format!("{path}: has {device_size} bytes, and the disk has {size}");
        return Err(Error::Usage(what));
    }
    let flags = i32::try_from(rustix::fs::OFlags::EXCL.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let file = file.map_err(|e| match e.kind() {
        io::ErrorKind::ResourceBusy => {
            let path = path.display();
            Error::Usage(format!("{path}: in use (mounted, or part of something: see `lsblk`)"))
        }
        _ => Error::io(path, e),
    })?;
    // The user may have taken his time to answer.
    refuse_device_in_use(&file, path)?;
    Ok(file)
}
