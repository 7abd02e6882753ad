//! One disk or several that belong together: all of them, or none.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::block_device::BlockDevice;
use super::copy::{Copied, copy};
use super::device::Device;
use super::folders::NewFolders;
use super::partial::{Partial, folder_of};
use super::protected::Protected;
use super::qcow2::{Qcow2File, room};
use super::raw::RawFile;
use super::sink::Sink;
use super::target::Target;
use super::units::Stop;
use super::verify::{verify_bytes, verify_qcow2, verify_qcow2_on_device};
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
pub struct Batch<'a> {
    options: Options,
    protected: &'a Protected,
    stop: Stop,
    partials: Vec<Partial>,
    /// Devices that were written to.
    devices: Vec<PathBuf>,
    /// They come after the files, which go away first.
    folders: NewFolders,
}

impl<'a> Batch<'a> {
    /// Nothing yet. `stop` ends it before its time.
    pub fn new(options: Options, protected: &'a Protected, stop: Stop) -> Self {
        let (partials, devices, folders) = (Vec::new(), Vec::new(), NewFolders::default());
        Self { options, protected, stop, partials, devices, folders }
    }

    /// Makes the folders that targets are to be in. They go away if nothing comes to be in them.
    pub fn make_folders<'t>(&mut self, targets: impl Iterator<Item = &'t Target>) -> Result<()> {
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
            Target::Device(path, device) => {
                let file = device.open(path)?;
                // What it is made of may be something else by now, too.
                self.protected.refuse_device(path, device.number)?;
                refuse_larger(image, path, device, self.options.format)?;
                let copied = match self.options.format {
                    Format::Raw => self.write_device(image, &file, path, progress)?,
                    Format::Qcow2 { compressed } => {
                        self.write_image_on_device(image, &file, path, compressed, progress)?
                    }
                };
                self.devices.push(path.clone());
                let is_raw = self.options.format == Format::Raw;
                (copied, if is_raw { device.size - image.size() } else { 0 })
            }
            Target::New(path) | Target::File(path) => {
                let partial = Partial::new(path, matches!(target, Target::File(_)))?;
                let copied = self.write_file(image, &partial, progress)?;
                self.partials.push(partial);
                (copied, 0)
            }
        };
        let Copied { written, cloned } = copied;
        Ok(Done { size: image.size(), written, cloned, lost: zeros_for_lost(image), left })
    }

    /// Writes a disk to a device that is open.
    pub(super) fn write_device(
        &self,
        image: &DiskImage,
        file: &File,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<Copied> {
        let spoiled = |e: Error| spoiled(path, &e);
        let sink = Device::new(file, path.to_path_buf(), image.size(), &self.stop);
        let sink = sink.map_err(spoiled)?;
        let copied = self.fill(image, &sink, progress).map_err(spoiled)?;
        let verified =
            self.verify(image, progress, || verify_bytes(image, file, path, &self.stop, progress));
        self.judge(verified, path, || sink.spoil()).map(|()| copied)
    }

    /// Writes a disk as an image to a device that is open.
    pub(super) fn write_image_on_device(
        &self,
        image: &DiskImage,
        file: &File,
        path: &Path,
        compressed: bool,
        progress: &dyn Progress,
    ) -> Result<Copied> {
        let spoiled = |e: Error| spoiled(path, &e);
        let sink = Qcow2File::on_device(file, path.to_path_buf(), image.size(), compressed);
        let sink = sink.map_err(spoiled)?;
        let copied = self.fill(image, &sink, progress).map_err(spoiled)?;
        let verified = self.verify(image, progress, || {
            verify_qcow2_on_device(image, file, path, &self.stop, progress)
        });
        self.judge(verified, path, || sink.spoil()).map(|()| copied)
    }

    /// What the verification of a device came to.
    fn judge(
        &self,
        verified: Result<()>,
        path: &Path,
        spoil: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        match verified {
            Ok(()) => Ok(()),
            Err(e) if self.stop.check().is_err() => {
                let path = path.display();
                Err(Error::Usage(format!("{e}; {path} holds all of the disk, not yet verified")))
            }
            Err(e) => {
                // If it cannot be cleared, it is told all the same what it is.
                let _cleared = spoil();
                Err(spoiled(path, &e))
            }
        }
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

    /// Gives all files their names, or none.
    pub fn publish(mut self) -> Result<()> {
        let published = self.stop.check().and_then(|()| self.publish_files());
        if let Err(e) = published {
            let kept = self.partials.iter_mut().rev().filter_map(|partial| {
                (!partial.withdraw()).then(|| partial.target().to_path_buf())
            });
            let mut new: Vec<_> = kept.collect();
            new.append(&mut self.devices);
            return Err(half_done(&e, &new, self.partials.len()));
        }
        self.partials.iter_mut().for_each(Partial::settle);
        Ok(())
    }

    fn publish_files(&mut self) -> Result<()> {
        self.partials.iter_mut().try_for_each(Partial::publish)?;
        self.folders.sync_names()?;
        self.partials.iter().try_for_each(Partial::sync_name)
    }
}

/// What is lost of a disk, and zeros in its place.
pub(super) fn zeros_for_lost(image: &DiskImage) -> u64 {
    let zeros = image.lost_reads() == LostReads::Zeros;
    image.lost().filter(|_| zeros).map_or(0, |lost| lost.bytes)
}

/// Tells of what failed in the end which targets have their new disks nevertheless.
fn half_done(error: &Error, new: &[PathBuf], files: usize) -> Error {
    let what = match new {
        [] if files > 1 => format!("{error}; no disk was restored, all targets are as they were"),
        [] => format!("{error}; nothing was restored"),
        new => {
            let new: Vec<_> = new.iter().map(|path| path.display().to_string()).collect();
            format!("{error}; restored nevertheless, and complete: {}; no other", new.join(", "))
        }
    };
    Error::Usage(what)
}

/// Refuses a disk that would fail half way, or that the target cannot take: of a file nothing is left
/// then, but what was on a device would be gone.
pub fn refuse_unfit(image: &DiskImage, target: &Target, format: Format) -> Result<()> {
    let Target::Device(path, device) = target else { return Ok(()) };
    refuse_larger(image, path, device, format)?;
    refuse_lost(image).map_err(|e| Error::Usage(format!("{}: {e}", path.display())))
}

/// Refuses what a device has no room for. How small compressed clusters become is known when they are.
fn refuse_larger(
    image: &DiskImage,
    path: &Path,
    device: &BlockDevice,
    format: Format,
) -> Result<()> {
    match format {
        Format::Raw => device.refuse_larger(image.size(), path),
        Format::Qcow2 { compressed: true } => Ok(()),
        Format::Qcow2 { compressed: false } => {
            let (room, size) = (room(image)?, device.size);
            if room <= size {
                return Ok(());
            }
            let path = path.display();
            let what =
                format!("has {size} bytes, and the image may take {room}: name a larger one");
            Err(Error::Usage(format!("{path}: {what}")))
        }
    }
}

/// Refuses a disk of which something is lost, if that fails.
pub(super) fn refuse_lost(image: &DiskImage) -> Result<()> {
    let fails = image.lost_reads() != LostReads::Zeros;
    let Some(lost) = image.lost().filter(|lost| fails && lost.bytes > 0) else { return Ok(()) };
    let bytes = lost.bytes;
    Err(Error::Usage(format!(
        "nothing is written, for {bytes} bytes of the disk are lost: see `qcowfs map`; `--missing \
         zero` restores the rest with zeros in their place"
    )))
}

/// What was on the device is gone, and what was to be there is not.
fn spoiled(path: &Path, error: &Error) -> Error {
    Error::Usage(format!("{error}; {} holds no usable disk now", path.display()))
}
