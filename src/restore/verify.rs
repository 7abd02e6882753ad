//! What was written, read again and compared with the disk.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, SeekFrom, fadvise, seek};

use super::Progress;
use super::partial::{Partial, folder_of};
use super::sink::is_zeros;
use super::units::{Stop, Unit, each_unit};
use crate::error::{Error, Result};
use crate::layer::clusters::ClusterCache;
use crate::layer::qcow2::{Header, Qcow2Image, Qcow2Layer};
use crate::map::{ChainMap, MapCache, Node, NodeId};
use crate::page_buffer::PageBuffer;
use crate::source::{Allocation, AllocationState, LocalFiles, Roots, Source};
use crate::view::{Content, DiskImage};

/// Bytes that are compared at a time.
const BUFFER: usize = 256 << 10;
/// Bytes of maps, and of decompressed clusters.
const CACHE: u64 = 16 << 20;

/// What can be read back.
trait Written: Sync {
    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()>;

    /// Where the next data may be.
    fn next_data(&self, at: u64) -> u64;
}

struct Bytes<'a> {
    file: &'a File,
    path: &'a Path,
}

impl Written for Bytes<'_> {
    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(bytes, at).map_err(|e| Error::io_at(self.path, at, e))
    }

    fn next_data(&self, at: u64) -> u64 {
        match seek(self.file, SeekFrom::Data(at)) {
            Ok(next) => next,
            Err(rustix::io::Errno::NXIO) => u64::MAX,
            Err(_) => at,
        }
    }
}

struct Image(DiskImage);

impl Written for Image {
    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.0.read_at(at, bytes).map(drop).map_err(|e| e.error)
    }

    fn next_data(&self, at: u64) -> u64 {
        self.0.seek_data(at).unwrap_or(u64::MAX)
    }
}

/// Compares a raw file or a device with a disk.
pub(super) fn verify_bytes(
    image: &DiskImage,
    file: &File,
    path: &Path,
    stop: &Stop,
    progress: &dyn Progress,
) -> Result<()> {
    forget(file);
    compare(image, &Bytes { file, path }, path, stop, progress)
}

/// Compares an image in a file, read as any other image is, with a disk.
pub(super) fn verify_qcow2(
    image: &DiskImage,
    partial: &Partial,
    stop: &Stop,
    progress: &dyn Progress,
) -> Result<()> {
    forget(partial.file());
    let path = partial.path();
    let roots = Arc::new(Roots::open(folder_of(path), &[])?);
    let name = path.file_name().unwrap_or_default();
    let file = Arc::new(LocalFiles::new(roots).open(Path::new(name))?);
    compare(image, &disk_of(file)?, partial.target(), stop, progress)
}

/// The same of one on a device.
pub(super) fn verify_qcow2_on_device(
    image: &DiskImage,
    device: &File,
    path: &Path,
    stop: &Stop,
    progress: &dyn Progress,
) -> Result<()> {
    forget(device);
    let fail = |e| Error::io(path, e);
    let file = device.try_clone().map_err(fail)?;
    let len = seek(&file, SeekFrom::End(0)).map_err(|e| Error::io(path, e))?;
    let file = Arc::new(DeviceBytes { file, path: path.to_path_buf(), len });
    compare(image, &disk_of(file)?, path, stop, progress)
}

fn disk_of(file: Arc<dyn Source>) -> Result<Image> {
    let header = Header::read(file.as_ref())?;
    let written = Qcow2Image::new(file, header, None, Arc::new(ClusterCache::new(CACHE)))?;
    let layer = Arc::new(Qcow2Layer::active(&written));
    let size = written.header().virtual_size;
    let node = Node { layer, parent: None };
    let map = ChainMap::new(vec![node], Arc::new(MapCache::new(CACHE)));
    let map = map.map_err(|e| Error::Usage(e.to_string()))?;
    Ok(Image(DiskImage::new(Arc::new(map), NodeId(0), size)))
}

/// A device that an image was written to.
#[derive(Debug)]
struct DeviceBytes {
    file: File,
    path: PathBuf,
    len: u64,
}

impl Source for DeviceBytes {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn allocated(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io_at(&self.path, offset, e)),
            }
        }
        Ok(done)
    }

    fn allocation(&self, range: Range<u64>) -> Result<Vec<Allocation>> {
        Ok(vec![Allocation { range, state: AllocationState::Data }])
    }

    fn knows_unwritten(&self) -> bool {
        false
    }
}

/// What is read shall come from the disk, and not from memory.
fn forget(file: &File) {
    // If it cannot be had, it is compared all the same.
    let _kept = fadvise(file, 0, None, Advice::DontNeed);
}

fn compare(
    image: &DiskImage,
    written: &dyn Written,
    path: &Path,
    stop: &Stop,
    progress: &dyn Progress,
) -> Result<()> {
    let differs = |at: u64| {
        let path = path.display();
        Error::Usage(format!("{path}: verifying it failed: byte {at} is not what was written"))
    };
    let new_work = || {
        let (mut one, mut other) = (PageBuffer::zeroed(BUFFER), PageBuffer::zeroed(BUFFER));
        move |unit: Range<u64>| {
            let parts = image.parts(unit);
            for part in &parts {
                stop.check()?;
                let is_hole = matches!(part.content, Content::Hole);
                let mut at = part.range.start;
                while at < part.range.end {
                    if is_hole {
                        at = written.next_data(at).clamp(at, part.range.end);
                    }
                    let len = usize::try_from(part.range.end - at).unwrap_or(BUFFER).min(BUFFER);
                    let seen = one.get_mut(..len).unwrap_or_default();
                    written.read(at, seen)?;
                    let wanted = other.get_mut(..len).unwrap_or_default();
                    let is_right = if is_hole {
                        is_zeros(seen)
                    } else {
                        image.read_at(at, wanted).map_err(|e| e.error)?;
                        seen == wanted
                    };
                    if !is_right {
                        return Err(differs(at + first_difference(seen, wanted, is_hole)));
                    }
                    at += len as u64;
                }
                progress.tick(part.range.end - part.range.start);
            }
            let is_hole = parts.iter().all(|part| matches!(part.content, Content::Hole));
            Ok(if is_hole { Unit::Empty } else { Unit::Filled })
        }
    };
    let skip = |range: Range<u64>| {
        // A unit at a time, for a device tells nothing of its holes.
        let mut buffer = PageBuffer::zeroed(BUFFER);
        let mut at = range.start;
        while at < range.end {
            stop.check()?;
            let next = written.next_data(at).clamp(at, range.end);
            let len = usize::try_from(range.end - next).unwrap_or(BUFFER).min(BUFFER);
            let seen = buffer.get_mut(..len).unwrap_or_default();
            written.read(next, seen)?;
            if !is_zeros(seen) {
                return Err(differs(next + first_difference(seen, &[], true)));
            }
            progress.tick(next + len as u64 - at);
            at = next + len as u64;
        }
        Ok(())
    };
    each_unit(image, stop, new_work, skip)
}

fn first_difference(seen: &[u8], wanted: &[u8], is_hole: bool) -> u64 {
    let zeros = std::iter::repeat(&0);
    let wanted: Box<dyn Iterator<Item = &u8>> =
        if is_hole { Box::new(zeros) } else { Box::new(wanted.iter()) };
    seen.iter().zip(wanted).position(|(a, b)| a != b).unwrap_or(0) as u64
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Silent, disk, disk_bytes};
    use super::*;

    fn verified(change: Option<usize>) -> Result<()> {
        let mut bytes = disk_bytes();
        if let Some(at) = change {
            bytes[at] ^= 1;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        verify_bytes(&disk(), file.as_file(), Path::new("it"), &Stop::default(), &Silent)
    }

    #[test]
    fn one_wrong_byte_is_found_in_data_and_in_holes() {
        verified(None).unwrap();
        for at in [0, 39_999, 40_000, 45_000, 49_999, 50_000, 99_999] {
            let told = verified(Some(at)).unwrap_err().to_string();
            assert!(told.contains(&format!("byte {at} is not")), "{told}");
        }
    }

    #[test]
    fn a_file_that_ends_early_is_no_copy() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0; 45_000]).unwrap();
        let verify =
            verify_bytes(&disk(), file.as_file(), Path::new("it"), &Stop::default(), &Silent);
        assert!(verify.is_err());
    }
}
