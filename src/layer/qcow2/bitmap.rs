//! The names of the dirty bitmaps in an image (qcow2 specification, "Bitmaps"). They say which
//! checkpoints the image was the live disk of; their bits are never read.

use super::bytes::{to_usize, u16_at, u32_at};
use super::header::{BitmapDirectory, Header};
use crate::error::{Defect, Result};
use crate::source::Source;

/// QEMU's limits: 65535 bitmaps of at most 1024 bytes in the directory each.
const MOST_BITMAPS: u32 = 65_535;
const LARGEST_DIRECTORY: u64 = 1024 * MOST_BITMAPS as u64;
const FIXED: usize = 24;
const IN_USE: u32 = 1;

/// A dirty bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name: any bytes; libvirt gives it the checkpoint's.
    pub name: Vec<u8>,
    /// Whether it was not saved properly: its bits are void, its name is not.
    pub in_use: bool,
}

/// Reads the directory of bitmaps of an image, in its order. An image without one has none.
pub fn read_bitmaps(file: &dyn Source, header: &Header) -> Result<Vec<Bitmap>> {
    let Some(directory) = &header.bitmaps else { return Ok(Vec::new()) };
    let named = |defect: Defect| defect.in_file(file.path());
    let directory = directory.clone().map_err(named)?;
    check(directory, header.cluster_size(), file.len()).map_err(named)?;
    let mut bytes = vec![0; to_usize(directory.size)];
    file.read_exact(directory.offset, &mut bytes)?;
    parse(&bytes, directory).map_err(named)
}

fn check(directory: BitmapDirectory, cluster_size: u64, file_len: u64) -> Result<(), Defect> {
    let BitmapDirectory { count, size, offset } = directory;
    let wrong = |what: String| Err(Defect::corrupt(offset, what));
    if count == 0 || count > MOST_BITMAPS {
        return wrong(format!("a directory of {count} bitmaps (1 to {MOST_BITMAPS})"));
    }
    if size > LARGEST_DIRECTORY {
        return wrong(format!("a bitmap directory of {size} bytes (at most {LARGEST_DIRECTORY})"));
    }
    if offset == 0 || !offset.is_multiple_of(cluster_size) {
        return wrong(format!("the bitmap directory is at {offset}, which cannot be"));
    }
    if offset.checked_add(size).is_none_or(|end| end > file_len) {
        return wrong(format!("the bitmap directory at {offset} ends past the end of the file"));
    }
    Ok(())
}

/// The entries of a directory: as many as it claims, and nothing else.
fn parse(bytes: &[u8], directory: BitmapDirectory) -> Result<Vec<Bitmap>, Defect> {
    let offset = |at: usize| directory.offset + at as u64;
    let mut bitmaps = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (bitmap, end) = entry(bytes, at).ok_or_else(|| {
            Defect::corrupt(offset(at), "an entry of the bitmap directory does not fit in it")
        })?;
        if bitmap.name.is_empty() {
            return Err(Defect::corrupt(offset(at), "a bitmap without a name"));
        }
        bitmaps.push(bitmap);
        at = end;
    }
    if bitmaps.len() as u64 == u64::from(directory.count) {
        return Ok(bitmaps);
    }
    let what = format!("{} bitmaps in a directory of {}", bitmaps.len(), directory.count);
    Err(Defect::corrupt(directory.offset, what))
}

/// The entry at `at`, and where its padding ends.
fn entry(bytes: &[u8], at: usize) -> Option<(Bitmap, usize)> {
    let entry = bytes.get(at..)?;
    let flags = u32_at(entry, 12)?;
    let name_len = usize::from(u16_at(entry, 18)?);
    let extra_len = usize::try_from(u32_at(entry, 20)?).ok()?;
    let name = entry.get(FIXED..)?.get(extra_len..)?.get(..name_len)?;
    let len = (FIXED + extra_len + name_len).next_multiple_of(8);
    if len > entry.len() {
        return None;
    }
    Some((Bitmap { name: name.to_vec(), in_use: flags & IN_USE != 0 }, at + len))
}

#[cfg(test)]
mod tests;
