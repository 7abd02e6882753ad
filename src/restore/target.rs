//! What a disk is to be written to.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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
