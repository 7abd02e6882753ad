//! A raw disk to the standard output: for a pipe, or for a file that the shell has opened.
//!
//! It goes there in one piece, from its start to its end, and nothing of it can be taken back.

use std::fs::File;
use std::io::{self, IsTerminal, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl};

use super::batch::{Done, refuse_lost, zeros_for_lost};
use super::copy::{BUFFER, unreadable};
use super::protected::Protected;
use super::sink::runs;
use super::units::{Stop, UNIT};
use super::{Phase, Progress};
use crate::error::{Error, Result};
use crate::page_buffer::PageBuffer;
use crate::view::{Content, DiskImage};

/// What it is called in messages.
const NAME: &str = "standard output";
/// Zeros shorter than that are no holes.
const BLOCK: usize = 4096;
/// Bytes of a write of zeros.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Where the bytes go.
#[derive(Debug)]
pub struct Output {
    file: File,
    /// It is brought to the disk in the end.
    is_file: bool,
    /// Nothing lies behind the place that is written to: zeros may be passed over.
    takes_holes: bool,
}

impl Output {
    /// The standard output. Refused: a terminal, a file of the source, and a block device, of which
    /// more would have to be known.
    pub fn standard(protected: &Protected) -> Result<Self> {
        let out = io::stdout();
        if out.is_terminal() {
            let what = "a disk is not written to a terminal: say `| ...` or `> FILE`";
            return Err(Error::Usage(what.into()));
        }
        let fail = |e| Error::io(NAME, e);
        Self::new(out.as_fd().try_clone_to_owned().map_err(fail)?.into(), protected)
    }

    fn new(mut file: File, protected: &Protected) -> Result<Self> {
        let fail = |e| Error::io(NAME, e);
        let stat = file.metadata().map_err(fail)?;
        if stat.file_type().is_block_device() {
            let what = "is a block device: name it as the TARGET instead of `-`";
            return Err(Error::Usage(format!("{NAME}: {what}")));
        }
        let is_file = stat.is_file();
        let mut takes_holes = false;
        if is_file {
            protected.refuse_open_file(&file, Path::new(NAME))?;
            let appends = fcntl_getfl(&file).map_err(|e| fail(e.into()))?.contains(OFlags::APPEND);
            takes_holes = !appends && file.stream_position().map_err(fail)? >= stat.len();
        }
        Ok(Self { file, is_file, takes_holes })
    }

    /// Writes a disk.
    pub fn write(
        mut self,
        image: &DiskImage,
        stop: &Stop,
        progress: &dyn Progress,
    ) -> Result<Done> {
        refuse_lost(image)?;
        progress.begin(Phase::Copy, image.size());
        let mut buffer = PageBuffer::zeroed(usize::try_from(BUFFER).unwrap_or(0));
        let (mut at, mut written) = (0, 0);
        while at < image.size() {
            let empty = image.empty_until(at);
            self.zeros(empty - at, stop)?;
            progress.tick(empty - at);
            let unit = empty..empty.saturating_add(UNIT).min(image.size());
            at = unit.end;
            for part in image.parts(unit) {
                if matches!(part.content, Content::Hole) {
                    self.zeros(part.range.end - part.range.start, stop)?;
                    progress.tick(part.range.end - part.range.start);
                } else {
                    written += self.data(image, part.range, &mut buffer, stop, progress)?;
                }
            }
        }
        progress.begin(Phase::Sync, 0);
        self.finish().map_err(|e| Error::io(NAME, e))?;
        Ok(Done { size: image.size(), written, cloned: 0, lost: zeros_for_lost(image), left: 0 })
    }

    fn data(
        &mut self,
        image: &DiskImage,
        range: Range<u64>,
        buffer: &mut [u8],
        stop: &Stop,
        progress: &dyn Progress,
    ) -> Result<u64> {
        let (mut at, mut written) = (range.start, 0);
        while at < range.end {
            stop.check()?;
            let len = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buffer.len());
            let bytes = buffer.get_mut(..len).unwrap_or_default();
            let read = image.read_at(at, bytes);
            read.map_err(|e| unreadable(image, at + e.done as u64, &e.error))?;
            for (_, run, is_zero) in runs(bytes, BLOCK) {
                if is_zero {
                    self.zeros(run.len() as u64, stop)?;
                } else {
                    self.file.write_all(run).map_err(|e| Error::io(NAME, e))?;
                    written += run.len() as u64;
                }
            }
            progress.tick(len as u64);
            at += len as u64;
        }
        Ok(written)
    }

    fn zeros(&mut self, bytes: u64, stop: &Stop) -> Result<()> {
        let fail = |e| Error::io(NAME, e);
        if self.takes_holes {
            let by = i64::try_from(bytes).unwrap_or(i64::MAX);
            return self.file.seek(SeekFrom::Current(by)).map(drop).map_err(fail);
        }
        let mut left = bytes;
        while left > 0 {
            stop.check()?;
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
            self.file.write_all(ZEROS.get(..len).unwrap_or_default()).map_err(fail)?;
            left -= len as u64;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.takes_holes {
            let end = self.file.stream_position()?;
            // What was passed over last is not there yet.
            self.file.set_len(end.max(self.file.metadata()?.len()))?;
        }
        if self.is_file { self.file.sync_all() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::tests::{Silent, disk, disk_bytes};
    use super::*;

    fn written(file: &File) {
        let protected = Protected::nothing();
        let output = Output::new(file.try_clone().unwrap(), &protected).unwrap();
        output.write(&disk(), &Stop::default(), &Silent).unwrap();
    }

    #[test]
    fn a_fresh_file_gets_holes_and_one_with_something_in_it_gets_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"before").unwrap();
        written(&file);
        file.write_all(b"behind").unwrap();
        let wanted = [b"before".as_slice(), &disk_bytes(), b"behind"].concat();
        assert!(std::fs::read(&path).unwrap() == wanted);
        assert!(path.metadata().unwrap().blocks() * 512 < 64 << 10, "not sparse");
        // Opened for writing without being cut, and for appending.
        for append in [false, true] {
            std::fs::write(&path, vec![0xa5; 200_000]).unwrap();
            let mut file = File::options().write(true).append(append).open(&path).unwrap();
            let start = if append { 200_000 } else { 0 };
            file.seek(SeekFrom::Start(start)).unwrap();
            written(&file);
            let mut wanted = vec![0xa5; 200_000];
            let start = usize::try_from(start).unwrap();
            wanted.resize(wanted.len().max(start + 100_000), 0);
            wanted[start..start + 100_000].copy_from_slice(&disk_bytes());
            assert!(std::fs::read(&path).unwrap() == wanted, "append: {append}");
        }
    }
}
