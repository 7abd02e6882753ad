//! A raw file, in which zeros are holes.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::copy::BUFFER;
use super::large_pages::LargePages;
use super::partial::Partial;
use super::sink::{Sink, UnitWriter, runs};
use crate::error::{Error, Result};
use crate::source::{Cloned, Source};
use crate::sys::Mapping;

/// Zeros become holes in blocks of so many bytes, which are those of most file systems.
const BLOCK: u64 = 4096;

/// A new file, all of it a hole.
#[derive(Debug)]
pub(super) struct RawFile<'a> {
    file: &'a File,
    /// What it will be called.
    path: PathBuf,
    block: u64,
    large_pages: LargePages,
}

impl<'a> RawFile<'a> {
    /// Makes an empty file one of `size` bytes.
    pub(super) fn new(partial: &'a Partial, size: u64) -> Result<Self> {
        let (file, path) = (partial.file(), partial.target().to_path_buf());
        file.set_len(size).map_err(|e| Error::io(&path, e))?;
        let stat = rustix::fs::fstatvfs(file).map_err(|e| Error::io(&path, e))?;
        let block = stat.f_frsize.max(BLOCK);
        let block = if block.is_power_of_two() { block } else { BLOCK };
        Ok(Self { file, path, block: block.min(BUFFER), large_pages: LargePages::of(file) })
    }
}

impl Sink for RawFile<'_> {
    fn granularity(&self) -> u64 {
        self.block
    }

    fn piece(&self) -> u64 {
        self.large_pages.size().unwrap_or(BUFFER)
    }

    fn unit(&self, unit: Range<u64>) -> Box<dyn UnitWriter + '_> {
        Box::new(RawUnit { sink: self, unit, mapping: None })
    }

    fn zero(&self, _: Range<u64>) -> Result<()> {
        Ok(())
    }

    fn shares(&self) -> bool {
        true
    }

    fn finish(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io(&self.path, e))
    }
}

struct RawUnit<'a> {
    sink: &'a RawFile<'a>,
    unit: Range<u64>,
    mapping: Option<Mapping>,
}

impl UnitWriter for RawUnit<'_> {
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<u64> {
        let RawFile { file, path, large_pages, .. } = self.sink;
        let mut data = 0;
        for (from, run, is_zero) in runs(bytes, 4096) {
            if !is_zero {
                let at = at + from as u64;
                large_pages.make(file, &self.unit, at..at + run.len() as u64, &mut self.mapping);
                file.write_all_at(run, at).map_err(|e| Error::io_at(path, at, e))?;
                data += run.len() as u64;
            }
        }
        Ok(data)
    }

    fn zero(&mut self, _: Range<u64>) -> Result<()> {
        Ok(())
    }

    fn share(&mut self, file: &dyn Source, from: u64, range: Range<u64>) -> Result<Cloned> {
        let len = range.end - range.start;
        file.clone_to(from..from + len, self.sink.file, range.start)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
