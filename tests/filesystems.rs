//! The file systems inside the disks, mounted by the kernel from disk.img: they need root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::unnecessary_debug_formatting,
    reason = "a test stops where something is not as it must be, and shows names escaped"
)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use common::content::sha256;
use common::report::root_or_skip;
use common::run::scratch;
use common::watch::within;
use common::{Case, Mount, Run, View};

/// A file system mounted from an image; unmounts when it goes out of scope.
struct LoopMount {
    point: PathBuf,
    _folder: TempDir,
}

impl LoopMount {
    fn new(image: &Path, kind: &str, options: &str) -> Self {
        let folder = scratch();
        let point = folder.path().join("disk");
        std::fs::create_dir(&point).expect("a mount point");
        let mount = Self { point, _folder: folder };
        let run = Run::new("mount").args(["-t", kind, "-o"]).arg(format!("ro,loop,{options}"));
        run.arg(image).arg(&mount.point).ok();
        mount
    }

    /// Every path with what it is: a file's hash, a link's target.
    fn files(&self) -> BTreeMap<PathBuf, String> {
        let root = self.point.clone();
        within(120, "reading a file system in a disk", move || {
            let mut found = BTreeMap::new();
            let mut open = vec![root.clone()];
            while let Some(folder) = open.pop() {
                for entry in folder.read_dir().expect("a folder") {
                    let path = entry.expect("an entry").path();
                    let kind = path.symlink_metadata().expect("stat");
                    let what = if kind.is_dir() {
                        open.push(path.clone());
                        String::from("folder")
                    } else if kind.is_symlink() {
                        format!("-> {:?}", path.read_link().expect("a link"))
                    } else {
                        sha256(&path)
                    };
                    found.insert(path.strip_prefix(&root).expect("a prefix").to_path_buf(), what);
                }
            }
            found
        })
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        let run = Run::new("umount").arg(&self.point).seconds(30);
        // A second panic while the first one unwinds would end the whole program.
        let _ = std::thread::spawn(move || run.outcome()).join();
    }
}

/// Copies of a chain's files, stacked by qemu-img and made one raw image: the same disk as it is
/// without this program.
fn converted(case: &Case, files: &[&Path], folder: &Path) -> PathBuf {
    let mut below: Option<PathBuf> = None;
    for (number, file) in files.iter().enumerate() {
        let copy = folder.join(format!("layer{number}"));
        std::fs::copy(case.backups().join(file), &copy).expect("a copy");
        if let Some(below) = &below {
            let rebase = Run::new("qemu-img").args(["rebase", "-u", "-F", "qcow2", "-b"]);
            rebase.arg(below).arg(&copy).ok();
        }
        below = Some(copy);
    }
    let raw = folder.join("raw");
    let top = below.expect("a chain");
    Run::new("qemu-img").args(["convert", "-O", "raw"]).arg(top).arg(&raw).ok();
    raw
}

/// Compares the files of each checkpoint of a disk with those of the converted chain, and shows
/// that they change from one checkpoint to the next.
fn must_hold_the_same_files(disk: &str, kind: &str, options: &str) {
    let case = Case::unpack("qmpbackup-new");
    let mount = Mount::of(&case.backups());
    let view = View::walk(mount.point());
    let disk = case.truth().disks.iter().find(|d| d.name == disk).expect("the disk");
    let files: Vec<_> = disk.checkpoints.iter().map(|c| c.file.as_path()).collect();
    let mut before = BTreeMap::new();
    for number in 0..files.len() {
        let oracle = scratch();
        let raw = converted(&case, &files[..=number], oracle.path());
        let wanted = LoopMount::new(&raw, kind, options).files();
        let image = mount.path(view.of_file(files[number]).image());
        let seen = LoopMount::new(&image, kind, options).files();
        assert!(seen.len() > 10, "{:?}: hardly any files", files[number]);
        for (path, what) in &wanted {
            assert_eq!(seen.get(path), Some(what), "{:?}: {path:?}", files[number]);
        }
        assert_eq!(seen.len(), wanted.len(), "{:?}", files[number]);
        assert_ne!(seen, before, "{:?}: the same files as before", files[number]);
        before = seen;
    }
    mount.unmount();
}

/// Offsets of the two partitions of vm-root.
const PARTITIONS: [u64; 2] = [2048 * 512, 133_120 * 512];

#[test]
fn ext4_in_each_partition_holds_the_same_files_as_a_converted_disk() {
    if !root_or_skip("ext4_in_each_partition_holds_the_same_files_as_a_converted_disk") {
        return;
    }
    for offset in PARTITIONS {
        must_hold_the_same_files("vm-root.qcow2", "ext4", &format!("noload,offset={offset}"));
    }
}

#[test]
fn xfs_holds_the_same_files_as_a_converted_disk() {
    if !root_or_skip("xfs_holds_the_same_files_as_a_converted_disk") {
        return;
    }
    must_hold_the_same_files("vm-data.qcow2", "xfs", "norecovery,nouuid");
}

#[test]
fn a_mounted_file_system_keeps_the_view_busy_but_alive() {
    if !root_or_skip("a_mounted_file_system_keeps_the_view_busy_but_alive") {
        return;
    }
    let case = Case::unpack("qmpbackup-new");
    let mount = Mount::of(&case.backups());
    let view = View::walk(mount.point());
    let image = mount.path(view.of_file("vm-data.qcow2/INC-1795161274-vm-data.qcow2").image());
    let disk = LoopMount::new(&image, "xfs", "norecovery,nouuid");
    rustix::process::kill_process(mount.daemon(), rustix::process::Signal::TERM).expect("SIGTERM");
    assert!(disk.files().len() > 10, "after SIGTERM the loop mount is not served");
    drop(disk);
    mount.must_go();
}

#[test]
fn e2fsck_and_the_partition_table_are_clean_in_every_checkpoint() {
    let case = Case::unpack("qmpbackup-new");
    let mount = Mount::of(&case.backups());
    let view = View::walk(mount.point());
    let disk = case.truth().disks.iter().find(|d| d.name == "vm-root.qcow2").expect("the disk");
    for checkpoint in &disk.checkpoints {
        let image = mount.path(view.of_file(&checkpoint.file).image());
        for offset in PARTITIONS {
            let mut target = image.clone().into_os_string();
            target.push(format!("?offset={offset}"));
            Run::new("e2fsck").arg("-fn").arg(target).ok();
        }
        let table = Run::new("sfdisk").arg("-d").arg(&image).ok().text();
        assert!(table.contains("label: gpt"), "{table}");
        assert!(table.contains("name=\"rootfs\"") && table.contains("name=\"data\""), "{table}");
    }
    mount.unmount();
}
