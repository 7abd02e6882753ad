//! A block device that is to be written to: that it is what was looked at, and nobody's.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::in_use::{refuse_device_in_use, refuse_device_written};
use crate::error::{Error, Result};

/// What tells a block device from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its number, major and minor in one.
    pub number: u64,
    /// Bytes.
    pub size: u64,
}

impl BlockDevice {
    /// Looks at the device at a path, and refuses one that somebody writes to.
    pub(super) fn look_at(path: &Path) -> Result<Self> {
        let device = File::open(path).map_err(|e| Error::io(path, e))?;
        Self::of_nobody(&device, path)
    }

    /// Opens it for writing: not mounted, nor part of a volume group or the like, and still the one
    /// that was looked at. Its name may lead to another one by now: a removed volume's number is
    /// given to the next one, and the user may have taken his time to answer.
    pub(super) fn open(&self, path: &Path) -> Result<File> {
        let flags = i32::try_from(rustix::fs::OFlags::EXCL.bits()).unwrap_or(0);
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
        let file = file.map_err(|e| match e.kind() {
            io::ErrorKind::ResourceBusy => {
                let path = path.display();
                Error::Usage(format!("{path}: in use (mounted, or part of something: see `lsblk`)"))
            }
            _ => Error::io(path, e),
        })?;
        if Self::of_nobody(&file, path)? == *self {
            return Ok(file);
        }
        let what = "is another device now than when this began; nothing was written to it";
        Err(Error::Usage(format!("{}: {what}", path.display())))
    }

    fn of_nobody(mut device: &File, path: &Path) -> Result<Self> {
        let fail = |e| Error::io(path, e);
        let number = number_of(&device.metadata().map_err(fail)?, path)?;
        refuse_device_in_use(device, path)?;
        refuse_device_written(number, path)?;
        let size = device.seek(SeekFrom::End(0)).map_err(fail)?;
        Ok(Self { number, size })
    }

    /// Refuses a disk that it has no room for.
    pub(super) fn refuse_larger(&self, size: u64, path: &Path) -> Result<()> {
        if size <= self.size {
            return Ok(());
        }
        let (path, own) = (path.display(), self.size);
        Err(Error::Usage(format!(
            "{path}: has {own} bytes, and the disk has {size}: name a larger one"
        )))
    }
}

fn number_of(stat: &Metadata, path: &Path) -> Result<u64> {
    if stat.file_type().is_block_device() {
        return Ok(stat.rdev());
    }
    Err(Error::Usage(format!("{}: is no block device any more", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_the_name_of_a_device_is_not_opened_as_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let device = BlockDevice { number: 7 << 8, size: 4096 };
        let told = device.open(file.path()).unwrap_err().to_string();
        assert!(told.contains("no block device any more"), "{told}");
    }

    #[test]
    fn only_a_disk_that_fits_is_taken() {
        let device = BlockDevice { number: 0, size: 4096 };
        device.refuse_larger(4096, Path::new("it")).unwrap();
        assert!(device.refuse_larger(4097, Path::new("it")).is_err());
    }
}
