//! A raw file, in which zeros are holes.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::copy::BUFFER;
use super::partial::Partial;
use super::sink::{Sink, UnitWriter, runs};
use crate::error::{Error, Result};
use crate::source::{Cloned, Source};

/// Zeros become holes in blocks of so many bytes, which are those of most file systems.
const BLOCK: u64 = 4096;

/// A new file, all of it a hole.
#[derive(Debug)]
pub(super) struct RawFile<'a> {
    file: &'a File,
    /// What it will be called.
    path: PathBuf,
    block: u64,
}

impl<'a> RawFile<'a> {
    /// Makes an empty file one of `size` bytes.
    pub(super) fn new(partial: &'a Partial, size: u64) -> Result<Self> {
        let (file, path) = (partial.file(), partial.target().to_path_buf());
        file.set_len(size).map_err(|e| Error::io(&path, e))?;
        let stat = rustix::fs::fstatvfs(file).map_err(|e| Error::io(&path, e))?;
        let block = stat.f_frsize.max(BLOCK);
        let block = if block.is_power_of_two() { block } else { BLOCK };
        Ok(Self { file, path, block: block.min(BUFFER) })
    }
}

impl Sink for RawFile<'_> {
    fn granularity(&self) -> u64 {
        self.block
    }

    fn unit(&self, _: Range<u64>) -> Box<dyn UnitWriter + '_> {
        Box::new(RawUnit { sink: self, own: None })
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
    /// The file once more, with a position of its own; opened when it is needed.
    own: Option<File>,
}

impl UnitWriter for RawUnit<'_> {
    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<u64> {
        let RawFile { file, path, .. } = self.sink;
        let mut data = 0;
        for (from, run, is_zero) in runs(bytes, 4096) {
            if !is_zero {
                let at = at + from as u64;
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

    fn send(&mut self, file: &dyn Source, from: u64, range: Range<u64>) -> Result<u64> {
        if self.own.is_none() {
            // Not by its name: in a folder of others that may lead elsewhere by now.
            let same = format!("/proc/self/fd/{}", self.sink.file.as_raw_fd());
            self.own = File::options().write(true).open(same).ok();
        }
        let Some(own) = &self.own else { return Ok(0) };
        file.send_to(from..from + (range.end - range.start), own, range.start)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{LocalFiles, Roots};

    #[test]
    fn nothing_is_sent_to_what_took_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("from"), [7; 4096]).unwrap();
        std::fs::write(at("victim"), "somebody's").unwrap();
        let partial = Partial::new(&at("disk"), false).unwrap();
        let sink = RawFile::new(&partial, 4096).unwrap();
        std::fs::remove_file(partial.path()).unwrap();
        std::os::unix::fs::symlink(at("victim"), partial.path()).unwrap();
        let roots = Roots::open(folder.path(), &[]).unwrap();
        let from = LocalFiles::new(roots).open("from".as_ref()).unwrap();
        let sent = sink.unit(0..4096).send(&from, 0, 0..4096).unwrap();
        assert_eq!(std::fs::read(at("victim")).unwrap(), b"somebody's");
        let mut seen = vec![0; usize::try_from(sent).unwrap()];
        partial.file().read_exact_at(&mut seen, 0).unwrap();
        assert!(seen.iter().all(|byte| *byte == 7));
    }
}
