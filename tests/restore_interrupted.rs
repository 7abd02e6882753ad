//! What is left of a `qcowfs restore` that is interrupted, and what is said meanwhile.

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

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use common::Run;
use common::report::root_or_skip;
use common::run::{end, scratch};
use common::watch::holds_within;

fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Starts a restore that takes a while, and returns when its partial file is there.
fn begin(source: &Path, folder: &Path) -> (Child, PathBuf) {
    // Whoever runs the tests with nohup or in the background has some signals ignored.
    let run = Run::new("env").arg("--default-signal").arg(env!("CARGO_BIN_EXE_qcowfs"));
    let run = run.args(["restore", "-O", "qcow2", "--compress"]);
    let child = run.arg(source).arg("@latest").arg(folder.join("copy.qcow2")).start();
    let partial = folder.join(format!(".copy.qcow2.qcowfs-partial-{}", child.id()));
    let begun = || partial.metadata().is_ok_and(|stat| stat.len() > 0);
    assert!(holds_within(30, begun), "no partial file: {:?}", names(folder));
    (child, partial)
}

/// A disk of 1 TiB in a file of some MiB: every cluster is one and the same. Nobody compresses it
/// before he is interrupted, however late that comes; and it compresses well, so that little is
/// written until then.
fn endless() -> TempDir {
    const CLUSTER: usize = 2 << 20;
    const DISK: u64 = 1 << 40;
    let folder = scratch();
    let path = folder.path().join("disk.qcow2");
    let create = ["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M"];
    Run::new("qemu-img").args(create).arg(&path).arg(DISK.to_string()).ok();
    let image = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    // One L2 table is a cluster of entries of 8 bytes.
    let data = image.metadata().unwrap().len().next_multiple_of(CLUSTER as u64);
    let l2 = data + CLUSTER as u64;
    let tables = DISK / CLUSTER as u64 / (CLUSTER as u64 / 8);
    let pattern: Vec<u8> = (1..=251).collect();
    image.write_all_at(&pattern.repeat(CLUSTER / 251 + 1)[..CLUSTER], data).unwrap();
    let mut l1 = [0; 8];
    image.read_exact_at(&mut l1, 40).unwrap();
    for n in 0..tables {
        let table = l2 + n * CLUSTER as u64;
        image.write_all_at(&data.to_be_bytes().repeat(CLUSTER / 8), table).unwrap();
        image.write_all_at(&table.to_be_bytes(), u64::from_be_bytes(l1) + n * 8).unwrap();
    }
    folder
}

#[test]
fn an_interrupted_restore_leaves_nothing() {
    let source = endless();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let folder = scratch();
        let (child, _) = begin(source.path(), folder.path());
        assert_eq!(end(child, signal), Some(1), "{signal:?}");
        assert!(names(folder.path()).is_empty(), "{signal:?}: {:?}", names(folder.path()));
    }
}

#[test]
fn a_killed_restore_leaves_only_what_says_that_it_is_partial() {
    let source = endless();
    let folder = scratch();
    let (child, partial) = begin(source.path(), folder.path());
    assert_eq!(end(child, Signal::KILL), None);
    assert_eq!(names(folder.path()), [partial.file_name().unwrap().to_str().unwrap()]);
    let opened = Run::new("qemu-img").args(["info", "-f", "qcow2"]).arg(&partial).outcome();
    assert_ne!(opened.code, Some(0), "half an image opens");
    // The next one says so.
    let small = scratch();
    Run::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(small.path().join("disk.qcow2"))
        .arg("1M")
        .ok();
    let run = Run::qcowfs().args(["restore", "-O", "qcow2"]).arg(small.path()).arg("@latest");
    let told = run.arg(folder.path().join("copy.qcow2")).ok().stderr;
    assert!(told.contains("was killed left") && told.contains(partial.to_str().unwrap()), "{told}");
    assert_eq!(names(folder.path()).len(), 2, "it is somebody's");
}

/// A file system that takes no write; it is well again, and gone, when it goes out of scope.
struct Frozen(PathBuf);

impl Frozen {
    fn mount(folder: &Path) -> Self {
        let (disk, point) = (folder.join("disk"), folder.join("ext4"));
        Run::new("truncate").args(["-s", "256M"]).arg(&disk).ok();
        Run::new("mkfs.ext4").arg("-q").arg(&disk).ok();
        std::fs::create_dir(&point).unwrap();
        Run::new("mount").args(["-o", "loop"]).arg(&disk).arg(&point).ok();
        Self(point)
    }

    fn set(&self, frozen: bool) {
        let run = Run::new("fsfreeze").arg(if frozen { "-f" } else { "-u" }).arg(&self.0);
        let _ = std::thread::spawn(move || run.ok()).join();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.set(false);
        let run = Run::new("umount").arg("-l").arg(&self.0).seconds(10);
        // A second panic while the first one unwinds would end the whole program.
        let _ = std::thread::spawn(move || run.outcome()).join();
    }
}

#[test]
fn who_waits_for_the_end_of_an_interrupted_restore_is_told_for_what() {
    if !root_or_skip("who_waits_for_the_end_of_an_interrupted_restore_is_told_for_what") {
        return;
    }
    let (source, folder) = (endless(), scratch());
    let target = Frozen::mount(folder.path());
    let said = folder.path().join("said");
    let mut child = Command::new("env")
        .arg("--default-signal")
        .arg(env!("CARGO_BIN_EXE_qcowfs"))
        .args(["restore", "-q", "-O", "qcow2", "--compress"])
        .arg(source.path())
        .arg("@latest")
        .arg(target.0.join("copy.qcow2"))
        .stdin(Stdio::null())
        .stderr(File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let partial = target.0.join(format!(".copy.qcow2.qcowfs-partial-{}", child.id()));
    assert!(holds_within(30, || partial.exists()), "no partial file");
    target.set(true);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let is_told = || std::fs::read_to_string(&said).unwrap().contains("waiting for the target");
    assert!(holds_within(10, is_told), "nothing is said but {:?}", std::fs::read_to_string(&said));
    target.set(false);
    assert!(holds_within(30, || child.try_wait().unwrap().is_some()), "it goes on");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(names(&target.0), ["lost+found"]);
}
