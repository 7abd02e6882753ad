//! One disk or several that belong together: all of them, or none.

use std::path::Path;

use super::copy::{Copied, copy};
use super::device::Device;
use super::folders::NewFolders;
use super::partial::{Partial, folder_of};
use super::qcow2::Qcow2File;
use super::raw::RawFile;
use super::sink::Sink;
use super::target::{Target, open_device};
use super::units::Stop;
use super::verify::{verify_bytes, verify_qcow2};
use super::{Format, Phase, Progress};
use crate::error::{Error, Result};
use crate::view::{DiskImage, LostReads};

/// How to write.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What.
    pub format: Format,
    /// Whether to read everything again and compare it.
    pub verify: bool,
}

/// What was done for one disk. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Of the disk.
    pub size: u64,
    /// Data that was written.
    pub written: u64,
    /// Data that the target shares with the backup.
    pub cloned: u64,
    /// What is lost, and zeros in its place.
    pub lost: u64,
    /// What of a device is behind the disk, and was left as it is.
    pub left: u64,
}

/// Disks on their way.
#[derive(Debug)]
pub struct Batch {
    options: Options,
    stop: Stop,
    partials: Vec<Partial>,
    /// They come after the files, which go away first.
    folders: NewFolders,
}

impl Batch {
    /// Nothing yet. `stop` ends it before its time.
    pub fn new(options: Options, stop: Stop) -> Self {
        Self { options, stop, partials: Vec::new(), folders: NewFolders::default() }
    }

    /// Makes the folders that targets are to be in. They go away if nothing comes to be in them.
    pub fn make_folders<'a>(&mut self, targets: impl Iterator<Item = &'a Target>) -> Result<()> {
        for target in targets {
            self.folders.make(folder_of(target.path()))?;
        }
        Ok(())
    }

    /// Writes a disk, but does not give a file its name yet.
    pub fn write(
        &mut self,
        image: &DiskImage,
        target: &Target,
        progress: &dyn Progress,
    ) -> Result<Done> {
        let (copied, left) = match target {
            Target::Device(path, device_size) => {
                if self.options.format != Format::Raw {
                    let path = path.display();
                    let what = format!("{path}: on a block device only a raw disk makes sense");
                    return Err(Error::Usage(what));
                }
                let size = image.size();
                let file = open_device(path, *device_size, size)?;
                let copied = Device::new(&file, path.clone(), size, &self.stop)
                    .and_then(|sink| self.fill(image, &sink, progress))
                    .map_err(|e| spoiled(path, &e))?;
                self.verify(image, progress, || {
                    verify_bytes(image, &file, path, &self.stop, progress)
                })?;
                (copied, device_size - size)
            }
            Target::New(path) | Target::File(path) => {
                let partial = Partial::new(path, matches!(target, Target::File(_)))?;
                let copied = self.write_file(image, &partial, progress)?;
                self.partials.push(partial);
                (copied, 0)
            }
        };
        let zeros = image.lost_reads() == LostReads::Zeros;
        let lost = image.lost().filter(|_| zeros).map_or(0, |lost| lost.bytes);
        let Copied { written, cloned } = copied;
        Ok(Done { size: image.size(), written, cloned, lost, left })
    }

    fn write_file(
        &self,
        image: &DiskImage,
        partial: &Partial,
        progress: &dyn Progress,
    ) -> Result<Copied> {
        let (file, path) = (partial.file(), partial.target().to_path_buf());
        let (stop, size) = (&self.stop, image.size());
        match self.options.format {
            Format::Raw => {
                let sink = RawFile::new(partial, size)?;
                let copied = self.fill(image, &sink, progress)?;
                self.verify(image, progress, || verify_bytes(image, file, &path, stop, progress))?;
                Ok(copied)
            }
            Format::Qcow2 { compressed } => {
                let sink = Qcow2File::new(file, path, size, compressed)?;
                let copied = self.fill(image, &sink, progress)?;
                self.verify(image, progress, || verify_qcow2(image, partial, stop, progress))?;
                Ok(copied)
            }
        }
    }

    fn fill(&self, image: &DiskImage, sink: &dyn Sink, progress: &dyn Progress) -> Result<Copied> {
        progress.begin(Phase::Copy, image.size());
        let copied = copy(image, sink, &self.stop, progress)?;
        progress.begin(Phase::Sync, 0);
        self.stop.check()?;
        sink.finish()?;
        Ok(copied)
    }

    fn verify(
        &self,
        image: &DiskImage,
        progress: &dyn Progress,
        verify: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if !self.options.verify {
            return Ok(());
        }
        progress.begin(Phase::Verify, image.size());
        verify()
    }

    /// Gives all files their names.
    pub fn publish(mut self) -> Result<()> {
        self.stop.check()?;
        let mut failure = None;
        for partial in &mut self.partials {
            if let Err(e) = partial.publish() {
                failure = Some(e);
                break;
            }
        }
        if let Some(e) = failure {
            self.partials.iter_mut().for_each(Partial::withdraw);
            return Err(e);
        }
        self.partials.iter().try_for_each(Partial::sync_name)
    }
}

/// Refuses a disk of which something is lost that would fail half way: of a file nothing is left
/// then, but what was on a device would be gone.
pub fn refuse_lost(image: &DiskImage, target: &Target) -> Result<()> {
    let Target::Device(path, _) = target else { return Ok(()) };
    if image.lost_reads() == LostReads::Zeros {
        return Ok(());
    }
    let Some(lost) = image.lost().filter(|lost| lost.bytes > 0) else { return Ok(()) };
    let (path, bytes) = (path.display(), lost.bytes);
    Err(Error::Usage(format!(
        "{path}: nothing is written, for {bytes} bytes of the disk are lost: see `qcowfs map`; \
         `--missing zero` restores the rest with zeros in their place"
    )))
}

/// What was on the device is gone, and what was to be there is not.
fn spoiled(path: &Path, error: &Error) -> Error {
    Error::Usage(format!("{error}; {} holds no usable disk now", path.display()))
}
