//! A small disk for the tests of restoring, and what becomes of one that comes out wrong.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::extent::{Extent, HostOffset, Slot, Word};
use crate::layer::MemoryLayer;
use crate::map::{ChainMap, MapCache, Node, NodeId};
use crate::view::DiskImage;

pub(super) struct Silent;

impl Progress for Silent {
    fn begin(&self, _: Phase, _: u64) {}

    fn tick(&self, _: u64) {}
}

/// A disk of 100,000 bytes, of which those from 40,000 to 50,000 are not zeros.
pub(super) fn disk() -> DiskImage {
    let data = Word::At(Slot::Host(HostOffset(0)));
    let extents = [Extent { range: 40_000..50_000, word: data }];
    let layer = MemoryLayer::new("a", 100_000, &extents, vec![7; 10_000]).unwrap();
    let node = Node { layer: Arc::new(layer), parent: None };
    let map = ChainMap::new(vec![node], Arc::new(MapCache::new(1 << 20))).unwrap();
    DiskImage::new(Arc::new(map), NodeId(0), 100_000)
}

/// Its bytes.
pub(super) fn disk_bytes() -> Vec<u8> {
    let mut bytes = vec![0; 100_000];
    bytes[40_000..50_000].fill(7);
    bytes
}

/// Changes a byte of the file once it was written, or has the work stopped then.
struct Spoiler<'a> {
    file: &'a File,
    at: u64,
    stop: Option<Stop>,
}

impl Progress for Spoiler<'_> {
    fn begin(&self, phase: Phase, _: u64) {
        match &self.stop {
            _ if phase != Phase::Verify => {}
            Some(stop) => stop.flag().store(true, std::sync::atomic::Ordering::Relaxed),
            None => self.file.write_all_at(b"x", self.at).unwrap(),
        }
    }

    fn tick(&self, _: u64) {}
}

#[test]
fn a_device_with_a_wrong_byte_looks_like_no_disk() {
    let options = Options { format: Format::Raw, verify: true };
    let protected = Protected::nothing();
    for is_stopped in [false, true] {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100_000).unwrap();
        let stop = Stop::default();
        let batch = Batch::new(options, &protected, stop.clone());
        let spoiler = Spoiler { file: &file, at: 45_000, stop: is_stopped.then_some(stop) };
        let told = batch.write_device(&disk(), &file, Path::new("it"), &spoiler);
        let told = told.unwrap_err().to_string();
        let mut seen = vec![0; 100_000];
        file.read_exact_at(&mut seen, 0).unwrap();
        if is_stopped {
            assert!(told.contains("all of the disk, not yet verified"), "{told}");
            assert!(seen == disk_bytes());
        } else {
            assert!(told.contains("byte 45000 is not"), "{told}");
            assert!(told.contains("holds no usable disk now"), "{told}");
            assert!(seen.iter().all(|byte| *byte == 0), "it looks whole");
        }
    }
}

#[test]
fn an_image_on_a_device_with_a_wrong_byte_looks_like_none() {
    let options = Options { format: Format::Qcow2 { compressed: false }, verify: true };
    let protected = Protected::nothing();
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&vec![0xa5; 2 << 20], 0).unwrap();
    let batch = Batch::new(options, &protected, Stop::default());
    let write = |progress: &dyn Progress| {
        batch.write_image_on_device(&disk(), &file, Path::new("it"), false, progress)
    };
    write(&Silent).unwrap();
    // The first cluster of the disk lies behind the header's.
    let told = write(&Spoiler { file: &file, at: 65_536 + 45_000, stop: None }).unwrap_err();
    let told = told.to_string();
    assert!(told.contains("byte 45000 is not") && told.contains("no usable disk now"), "{told}");
    let mut seen = vec![1; 1 << 20];
    file.read_exact_at(&mut seen, 0).unwrap();
    assert!(seen.iter().all(|byte| *byte == 0), "it looks whole");
}

/// An attempt to share a range may fail after it has shared some of it.
#[test]
fn what_a_failed_attempt_to_share_left_is_in_no_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let image = qcow2::Qcow2File::new(&file, "it".into(), 100_000, false).unwrap();
    let dirty = image.tried_in_vain(5 << 16);
    file.write_all_at(&vec![0xa5; 5 << 16], dirty).unwrap();
    copy::copy(&disk(), &image, &Stop::default(), &Silent).unwrap();
    sink::Sink::finish(&image).unwrap();
    verify::verify_qcow2_on_device(&disk(), &file, &path, &Stop::default(), &Silent).unwrap();
    let check = std::process::Command::new("qemu-img").arg("check").arg(&path).output();
    let check = check.expect("qemu-img (Debian package qemu-utils)");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

#[test]
fn an_image_takes_no_more_room_than_it_is_said_to() {
    let file = tempfile::tempfile().unwrap();
    let image = qcow2::Qcow2File::new(&file, "it".into(), 100_000, false).unwrap();
    let copied = copy::copy(&disk(), &image, &Stop::default(), &Silent).unwrap();
    sink::Sink::finish(&image).unwrap();
    assert_eq!((copied.written, copied.cloned), (65_536, 0));
    assert_eq!(file.metadata().unwrap().len(), qcow2::room(&disk()).unwrap());
}

#[test]
fn of_several_files_the_first_are_as_before_if_the_last_one_fails() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let options = Options { format: Format::Raw, verify: false };
    let protected = Protected::nothing();
    let mut batch = Batch::new(options, &protected, Stop::default());
    std::fs::write(at("old"), "as before").unwrap();
    std::fs::write(at("last"), "as before").unwrap();
    for name in ["old", "new", "last"] {
        batch.write(&disk(), &Target::look_at(&at(name)).unwrap(), &Silent).unwrap();
    }
    std::fs::remove_file(at("last")).unwrap();
    std::fs::create_dir(at("last")).unwrap();
    let told = batch.publish().unwrap_err().to_string();
    assert!(told.contains("no disk was restored, all targets are as they were"), "{told}");
    assert_eq!(std::fs::read(at("old")).unwrap(), b"as before");
    let mut names: Vec<_> =
        folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["last", "old"]);
}
