//! `qcowfs restore` of real backups: every restore point of every case is what truth.json says, raw
//! and as qcow2.

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

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use common::content::{bytes, must_equal, sha256, sha256_of};
use common::mount::give;
use common::report::{root_or_skip, say};
use common::run::scratch;
use common::source_state::SourceState;
use common::truth::{Truth, TruthCheckpoint};
use common::view::Checkpoint;
use common::{Case, Run, User, View};

const CASES: [&str; 14] = [
    "backing-chain",
    "features",
    "libvirt-extsnap",
    "libvirt-push",
    "missing-base",
    "qmpbackup-monthly",
    "qmpbackup-new",
    "qmpbackup-old",
    "qmpbackup-partial",
    "qmpbackup-raw",
    "virtnbdbackup-lz4",
    "virtnbdbackup-rawdisk",
    "virtnbdbackup-stream",
    "virtnbdbackup-stream-upstream",
];

fn restore(source: &Path, point: &Path, target: &Path, options: &[&str]) -> Run {
    let run = Run::qcowfs().arg("restore").args(options).arg(source).arg(point).arg(target);
    run.seconds(120)
}

/// The checkpoint of truth.json that a listed one must be.
fn find<'a>(truth: &'a Truth, seen: &'a Checkpoint) -> Option<&'a TruthCheckpoint> {
    truth.of_file(seen.file()).find(|c| match &c.snapshot {
        Some(name) => seen.kind() == "snapshot" && seen.label() == name,
        None => seen.kind() != "snapshot",
    })
}

fn hash(wanted: &TruthCheckpoint) -> &String {
    // The archives do not keep unwritten extents.
    wanted.recoverable.as_ref().unwrap_or(&wanted.sha256)
}

/// Restores a checkpoint in all formats.
fn must_be_right(source: &Path, seen: &Checkpoint, wanted: &TruthCheckpoint, folder: &Path) {
    let what = &seen.folder;
    let raw = folder.join("disk.raw");
    let told = restore(source, what, &raw, &["--verify"]).ok().text();
    assert!(told.contains(", verified"), "{told}");
    assert_eq!(raw.metadata().unwrap().len(), wanted.virtual_size, "{what:?}: size");
    let content = bytes(&raw);
    assert_eq!(&sha256_of(&content), hash(wanted), "{what:?}: raw");
    // The kernel copies up to 128 KiB as they are, zeros among them.
    let written = content.chunks(128 << 10).filter(|b| b.iter().any(|b| *b != 0)).count();
    let most = 2 * (written as u64) * (128 << 10) + (1 << 20);
    assert!(raw.metadata().unwrap().blocks() * 512 <= most, "{what:?}: not sparse");
    for options in [&["-O", "qcow2", "--verify"][..], &["-O", "qcow2", "--verify", "-c", "zstd"]] {
        let image = folder.join("disk.qcow2");
        restore(source, what, &image, options).ok();
        Run::new("qemu-img").arg("check").arg(&image).ok();
        // As qemu-img reads it, it is the disk that was just found to be right.
        let compare = Run::new("qemu-img").args(["compare", "-f", "raw", "-F", "qcow2"]);
        compare.arg(&raw).arg(&image).ok();
        let info = Run::new("qemu-img").args(["info", "--output=json"]).arg(&image).ok().stdout;
        let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
        assert_eq!(info["virtual-size"].as_u64(), Some(wanted.virtual_size), "{what:?}: size");
        std::fs::remove_file(&image).unwrap();
    }
    std::fs::remove_file(&raw).unwrap();
}

#[test]
fn every_checkpoint_of_every_case_is_restored_raw_and_as_qcow2() {
    let mut all = 0;
    for name in CASES {
        let case = Case::unpack(name);
        let source = case.backups();
        let before = SourceState::of(&source);
        let folder = scratch();
        let mut right = 0;
        for seen in &View::listed(&source).checkpoints {
            let Some(wanted) = find(case.truth(), seen).filter(|_| seen.whole) else { continue };
            must_be_right(&source, seen, wanted, folder.path());
            right += 1;
        }
        let truth = case.truth();
        let possible =
            truth.checkpoints().filter(|c| !truth.is_incomplete(&c.file) && !c.encrypted);
        assert_eq!(right, possible.count(), "{name}: not all were restored");
        before.must_still_hold(&source);
        all += right;
    }
    say(&format!("restore: {all} restore points right in each of three formats"));
}

#[test]
fn what_is_lost_is_refused_told_or_zeros() {
    let case = Case::unpack("missing-base");
    let folder = scratch();
    let target = folder.path().join("disk");
    let broken: Vec<_> =
        View::listed(&case.backups()).checkpoints.into_iter().filter(|c| !c.whole).collect();
    assert_eq!(broken.len(), 5);
    for seen in &broken {
        let run = |options: &[&str]| restore(&case.backups(), &seen.folder, &target, options);
        let hidden = run(&[]).outcome();
        assert_eq!(hidden.code, Some(1), "{:?}", seen.folder);
        for part in ["is not whole", "hold ", "--missing zero", "--missing eio"] {
            assert!(hidden.stderr.contains(part), "{part}: {}", hidden.stderr);
        }
        let failed = run(&["--missing", "eio"]).outcome();
        assert_eq!(failed.code, Some(1), "{:?}", seen.folder);
        for part in ["of the disk are lost", "bytes ", "--missing zero"] {
            assert!(failed.stderr.contains(part), "{part}: {}", failed.stderr);
        }
        assert_eq!(failed.stderr.matches("missing or unusable").count(), 1, "{}", failed.stderr);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "something was left behind");
        let told = run(&["--missing", "zero", "--verify"]).ok().text();
        assert!(told.contains("bytes are lost, with zeros in their place"), "{told}");
        let wanted = case.truth().of_file(seen.file()).last().expect("a truth");
        assert_eq!(sha256(&target), wanted.sha256, "{:?}", seen.folder);
        std::fs::remove_file(&target).unwrap();
    }
    let whole = Path::new("m1.qcow2");
    let told = restore(&case.backups(), whole, &target, &["--missing", "zero"]).ok().text();
    assert!(!told.contains("lost"), "{told}");
}

#[test]
fn a_whole_vm_goes_back_to_one_point_in_time() {
    let case = Case::unpack("qmpbackup-new");
    let listed = View::listed(&case.backups());
    let folder = scratch();
    let disks = |folder: &Path, when: &str| {
        Run::qcowfs().arg("restore").arg(case.backups()).arg(when).arg(folder)
    };
    let second = "@2026-11-20T07:54:36Z";
    for (when, count) in [("@latest", 4), (second, 2), ("@2026-11-20", 4)] {
        let vm = folder.path().join(when);
        let told = disks(&vm, when).ok().stderr;
        assert!(!told.contains("of the same time"), "{told}");
        let mut names: Vec<_> =
            vm.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["vm-data.qcow2.raw", "vm-root.qcow2.raw"], "{when}");
        for disk in ["vm-data.qcow2", "vm-root.qcow2"] {
            let chain: Vec<_> =
                listed.checkpoints.iter().filter(|c| c.disk() == Path::new(disk)).collect();
            let wanted = find(case.truth(), chain[count - 1]).unwrap();
            assert_eq!(sha256(&vm.join(format!("{disk}.raw"))), wanted.sha256, "{when} {disk}");
        }
    }
    // In a folder of the source, as qcow2, whose name is not doubled.
    let vm = folder.path().join("as-qcow2");
    let run = Run::qcowfs().args(["restore", "-O", "qcow2"]).arg(case.folder());
    run.arg("backups@latest").arg(&vm).ok();
    for disk in ["vm-data.qcow2", "vm-root.qcow2"] {
        Run::new("qemu-img").arg("check").arg(vm.join(disk)).ok();
    }
    // One that is not to be had is reason enough to write none.
    let early = disks(&folder.path().join("none"), "@2020-01-01").outcome();
    assert_eq!(early.code, Some(1));
    assert!(early.stderr.contains("has no restore point of 2020-01-01"), "{}", early.stderr);
    assert!(!folder.path().join("none").exists());
}

#[test]
fn disks_of_a_vm_that_are_not_of_the_same_time_are_told() {
    let case = Case::unpack("qmpbackup-new");
    let listed = View::listed(&case.backups()).checkpoints;
    let is_data = |c: &&Checkpoint| c.disk() == Path::new("vm-data.qcow2");
    let newest = listed.iter().rfind(is_data).expect("a restore point");
    std::fs::remove_file(case.backups().join(newest.file())).unwrap();
    let folder = scratch();
    let restored = Run::qcowfs().arg("restore").arg(case.backups()).arg("@latest");
    let told = restored.arg(folder.path().join("vm")).ok().stderr;
    for part in ["not of the same time: vm-data.qcow2 of 2026-", ", vm-root.qcow2 of 2026-"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

/// A disk that lies elsewhere by a link, or in a folder that is not for everybody, is one that a
/// restored machine would lack.
#[test]
fn a_disk_of_a_vm_that_is_out_of_sight_is_not_left_out_without_a_word() {
    let case = Case::unpack("qmpbackup-new");
    let folder = scratch();
    let data = case.backups().join("vm-data.qcow2");
    let elsewhere = folder.path().join("elsewhere");
    std::fs::rename(&data, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &data).unwrap();
    let restored = Run::qcowfs().arg("restore").arg(case.folder()).arg("backups@latest");
    let told = restored.arg(folder.path().join("vm")).ok().stderr;
    assert!(told.contains("never followed: backups/vm-data.qcow2"), "{told}");
    let restored = Run::qcowfs().arg("restore").arg(case.backups()).arg("@latest");
    let told = restored.arg(folder.path().join("one.raw")).ok().stderr;
    assert!(told.contains("never followed: vm-data.qcow2"), "of one disk: {told}");
    let empty = scratch();
    let refused = Run::qcowfs().arg("restore").arg(empty.path()).arg("@latest");
    let refused = refused.arg(folder.path().join("disk.raw")).outcome();
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("no VM-disk backup was found"), "{}", refused.stderr);
    if !root_or_skip("a_disk_of_a_vm_that_is_out_of_sight_is_not_left_out_without_a_word") {
        return;
    }
    std::fs::remove_file(&data).unwrap();
    std::fs::rename(&elsewhere, &data).unwrap();
    give(&case.folder(), User::Ordinary);
    Run::new("chown").arg("root").arg(&data).ok();
    Run::new("chmod").arg("700").arg(&data).ok();
    for name in ["backups@latest", "backups@2026-11-21", "@latest"] {
        let run = Run::qcowfs().user(User::Ordinary).arg("restore").arg(case.folder()).arg(name);
        let refused = run.arg(folder.path().join("half")).outcome();
        assert_eq!(refused.code, Some(1), "{name}: {}", refused.stderr);
        assert!(
            refused.stderr.contains("cannot be read: backups/vm-data.qcow2"),
            "{}",
            refused.stderr
        );
    }
}

#[test]
fn a_newer_backup_that_is_broken_is_told_of_and_a_file_is_a_name() {
    let case = Case::unpack("qmpbackup-new");
    let listed = View::listed(&case.backups()).checkpoints;
    let mut of_root = listed.iter().filter(|c| c.disk() == Path::new("vm-root.qcow2"));
    let newest = of_root.next_back().unwrap();
    let before = of_root.next_back().unwrap();
    std::fs::write(case.backups().join(newest.file()), b"cut").unwrap();
    let folder = scratch();
    let restore = |name: &str, to: &str| {
        let run = Run::qcowfs().arg("restore").arg(case.backups()).arg(name);
        run.arg(folder.path().join(to)).ok()
    };
    let told = restore("vm-root.qcow2@latest", "disk.raw").stderr;
    let wanted =
        format!("{} of this disk is newer than vm-root.qcow2/{}", newest.name(), before.name());
    assert!(told.contains(&wanted), "{told}");
    assert_eq!(restore("vm-data.qcow2@latest", "data.raw").stderr, "");
    // What Tab completes.
    let file = before.file().to_str().unwrap();
    let by_file = restore(file, "by-file.raw");
    assert!(
        by_file.text().contains(&format!("vm-root.qcow2/{}", before.name())),
        "{}",
        by_file.text()
    );
    restore(case.backups().join(file).to_str().unwrap(), "by-path.raw");
    for other in ["by-file.raw", "by-path.raw"] {
        must_equal(
            other,
            &bytes(&folder.path().join(other)),
            &bytes(&folder.path().join("disk.raw")),
        );
    }
}

#[test]
fn of_a_vm_no_disk_gets_its_name_unless_all_do() {
    let case = Case::unpack("qmpbackup-new");
    // The last cluster of one disk's first increment is cut off: it opens, and cannot be read.
    let listed = View::listed(&case.backups());
    let damaged: PathBuf = listed
        .checkpoints
        .iter()
        .find(|c| c.disk() == Path::new("vm-root.qcow2") && c.kind() == "incremental")
        .map(|c| case.backups().join(c.file()))
        .unwrap();
    let len = damaged.metadata().unwrap().len();
    std::fs::File::options().write(true).open(&damaged).unwrap().set_len(len - (1 << 20)).unwrap();
    let folder = scratch();
    let vm = folder.path().join("vm");
    let run = Run::qcowfs().arg("restore").arg(case.backups()).arg("@2026-11-20T07:54:36Z");
    let failed = run.arg(&vm).outcome();
    assert_eq!(failed.code, Some(1));
    assert!(failed.stderr.contains("are lost"), "{}", failed.stderr);
    assert!(!vm.exists(), "something of half a VM was left");
}
