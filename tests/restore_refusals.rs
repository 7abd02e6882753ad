//! What `qcowfs restore` does not write to: what is in use, the source however it is called, and
//! what cannot come out whole.

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

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use common::content::bytes;
use common::report::root_or_skip;
use common::run::scratch;
use common::source_state::SourceState;
use common::watch::holds_within;
use common::{Case, FileSystem, Loop, Run};

const MIB: usize = 1 << 20;
const POINT: &str = "vm-root.qcow2@latest";

fn restore(source: &Path, point: &str, target: &Path) -> Run {
    Run::qcowfs().arg("restore").arg(source).arg(point).arg(target).seconds(120)
}

/// Fails, and says so.
fn must_refuse(run: Run, told: &str) {
    let refused = run.outcome();
    assert_eq!(refused.code, Some(1), "{told}: {}\n{}", refused.text(), refused.stderr);
    assert!(refused.stderr.contains(told), "{told}: {}", refused.stderr);
}

/// A QEMU process that has something open; ends when it goes out of scope.
struct Qemu(Child);

impl Qemu {
    fn with(target: &Path, folder: &Path, options: &[&str]) -> Self {
        let socket = folder.join("socket");
        let _none = std::fs::remove_file(&socket);
        let run = Run::new("qemu-nbd").args(["-f", "raw", "-t", "-k"]).arg(&socket).args(options);
        let qemu = Self(run.arg(target).start());
        assert!(holds_within(30, || socket.exists()), "qemu-nbd does not start");
        qemu
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _gone = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _code = self.0.wait();
    }
}

#[test]
fn what_qemu_has_open_is_refused() {
    if !root_or_skip("what_qemu_has_open_is_refused") {
        return;
    }
    let case = Case::unpack("qmpbackup-new");
    let folder = scratch();
    let file = folder.path().join("device");
    File::create(&file).unwrap().set_len(512 * MIB as u64).unwrap();
    let device = Loop::of(&file);
    let run = |target: &Path| restore(&case.backups(), POINT, target).arg("--force");
    for options in [&[][..], &["-r"]] {
        let _qemu = Qemu::with(&device.0, folder.path(), options);
        must_refuse(run(&device.0), "a running VM has it open");
    }
    assert!(bytes(&file).iter().all(|byte| *byte == 0), "it was written to");
    run(&device.0).ok();
    let plain = folder.path().join("disk.raw");
    std::fs::write(&plain, vec![7; MIB]).unwrap();
    let _qemu = Qemu::with(&plain, folder.path(), &[]);
    must_refuse(run(&plain), "a running VM has it open");
    assert_eq!(bytes(&plain), vec![7; MIB]);
}

#[test]
fn a_device_that_somebody_writes_to_is_refused_whatever_locks_he_has() {
    if !root_or_skip("a_device_that_somebody_writes_to_is_refused_whatever_locks_he_has") {
        return;
    }
    let case = Case::unpack("qmpbackup-new");
    let folder = scratch();
    let file = folder.path().join("device");
    File::create(&file).unwrap().set_len(512 * MIB as u64).unwrap();
    let device = Loop::of(&file);
    let run = || restore(&case.backups(), POINT, &device.0).arg("--force");
    let open = |how: &str| {
        // Said once the device is open.
        let said = folder.path().join("open");
        let _none = std::fs::remove_file(&said);
        let line = format!("exec 3{how}\"$1\"; : > \"$2\"; exec sleep 300");
        let writer = Run::new("sh").args(["-c", &line, "sh"]).arg(&device.0).arg(&said).start();
        let writer = Qemu(writer);
        assert!(holds_within(30, || said.exists()), "nobody opens the device");
        writer
    };
    for how in ["<>", ">>"] {
        let _writer = open(how);
        must_refuse(run(), "sleep (process ");
    }
    assert!(bytes(&file).iter().all(|byte| *byte == 0), "it was written to");
    // The file behind it, which a virtual machine has open.
    {
        let _qemu = Qemu::with(&file, folder.path(), &[]);
        must_refuse(run(), "a running VM has open");
    }
    let _reader = open("<");
    run().ok();
}

/// A bind mount of a folder; unmounts when it goes out of scope.
struct Mounted(PathBuf);

impl Mounted {
    fn bind(what: &Path, point: PathBuf) -> Self {
        std::fs::create_dir(&point).unwrap();
        Run::new("mount").arg("--bind").arg(what).arg(&point).ok();
        Self(point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let run = Run::new("umount").arg(&self.0).seconds(30);
        let _ = std::thread::spawn(move || run.outcome()).join();
    }
}

#[test]
fn the_source_is_known_by_other_names() {
    if !root_or_skip("the_source_is_known_by_other_names") {
        return;
    }
    let case = Case::unpack("qmpbackup-new");
    let folder = scratch();
    let full = "FULL-1795161271-vm-root.qcow2";
    let disk = case.backups().join("vm-root.qcow2");
    let run = |target: &Path| restore(&case.backups(), POINT, target).args(["-f", "-O", "raw"]);
    let linked = folder.path().join("linked");
    std::fs::hard_link(disk.join(full), &linked).unwrap();
    must_refuse(run(&linked), "is a file of the source");
    std::fs::remove_file(&linked).unwrap();
    let before = SourceState::of(&case.backups());
    {
        let whole = Mounted::bind(&case.backups(), folder.path().join("whole"));
        let part = Mounted::bind(&disk, folder.path().join("part"));
        for target in [whole.0.join("new.raw"), part.0.join("new.raw"), part.0.join(full)] {
            must_refuse(run(&target), "lies in the source");
        }
        must_refuse(restore(&case.backups(), "@latest", &part.0), "lies in the source");
    }
    let device = Loop::of(&disk.join(full));
    must_refuse(run(&device.0), "its bytes are those of");
    drop(device);
    // The standard output, too.
    let into = Run::new("sh").args(["-c", "\"$1\" restore \"$2\" \"$3\" - >> \"$4\"", "sh"]);
    let into = into.arg(env!("CARGO_BIN_EXE_qcowfs")).arg(case.backups()).arg(POINT);
    must_refuse(into.arg(disk.join(full)), "in the source, which is never written to");
    before.must_still_hold(&case.backups());
}

#[test]
fn no_file_beneath_an_allowed_folder_is_overwritten() {
    let case = Case::unpack("qmpbackup-new");
    let folder = scratch();
    let run = |target: &Path| {
        let run = restore(&case.backups(), POINT, target).arg("--force");
        run.arg("--allow-root").arg(folder.path())
    };
    let base = folder.path().join("base.raw");
    std::fs::write(&base, "a base").unwrap();
    must_refuse(run(&base), "beneath an --allow-root");
    assert_eq!(bytes(&base), b"a base");
    run(&folder.path().join("new.raw")).ok();
}

#[test]
fn a_disk_too_large_for_an_image_is_refused() {
    let folder = scratch();
    let create = Run::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).folder(folder.path());
    create.args(["-o", "cluster_size=2M", "huge.qcow2", "33P"]).ok();
    let out = scratch();
    let target = out.path().join("copy.qcow2");
    let run = restore(folder.path(), "@latest", &target).args(["-O", "qcow2"]);
    must_refuse(run, "too large for a qcow2 image");
    assert!(out.path().read_dir().unwrap().next().is_none());
}

#[test]
fn what_does_not_fit_a_device_is_refused_before_any_other_disk_is_written() {
    if !root_or_skip("what_does_not_fit_a_device_is_refused_before_any_other_disk_is_written") {
        return;
    }
    let source = two_disks();
    let folder = scratch();
    let out = folder.path().join("out");
    for name in ["a", "b"] {
        std::fs::create_dir_all(out.join(name)).unwrap();
    }
    let files = [2 * MIB, MIB / 2].map(|size| {
        let file = folder.path().join(size.to_string());
        std::fs::write(&file, vec![0xa5; size]).unwrap();
        file
    });
    let devices = files.each_ref().map(|file| Loop::of(file));
    for (name, device) in ["a", "b"].iter().zip(&devices) {
        symlink(&device.0, out.join(name).join("disk.raw")).unwrap();
    }
    must_refuse(restore(source.path(), "@latest", &out).arg("--force"), "and the disk has 1048576");
    assert!(bytes(&devices[0].0).iter().all(|byte| *byte == 0xa5), "it was written to");
}

#[test]
fn the_disks_of_a_vm_are_all_new_or_all_as_they_were() {
    if !root_or_skip("the_disks_of_a_vm_are_all_new_or_all_as_they_were") {
        return;
    }
    let source = two_disks();
    let out = scratch();
    let file = |name: &str| out.path().join(name).join("disk.raw");
    for name in ["a", "b"] {
        std::fs::create_dir(out.path().join(name)).unwrap();
        std::fs::write(file(name), format!("old {name}")).unwrap();
    }
    let run = || restore(source.path(), "@latest", out.path()).arg("--force");
    {
        // What is mounted over cannot get another name.
        let other = out.path().join("other");
        std::fs::write(&other, "other").unwrap();
        Run::new("mount").arg("--bind").arg(&other).arg(file("b")).ok();
        let _mounted = Mounted(file("b"));
        must_refuse(run(), "no disk was restored, all targets are as they were");
        std::fs::remove_file(&other).unwrap();
    }
    for name in ["a", "b"] {
        assert_eq!(bytes(&file(name)), format!("old {name}").into_bytes());
        assert_eq!(out.path().join(name).read_dir().unwrap().count(), 1, "something was left");
    }
    run().ok();
    for name in ["a", "b"] {
        assert_eq!(bytes(&file(name)), vec![b'x'; MIB]);
        assert_eq!(out.path().join(name).read_dir().unwrap().count(), 1, "something was left");
    }
}

/// Two raw disks, each in a folder of its own.
fn two_disks() -> TempDir {
    let folder = scratch();
    for name in ["a", "b"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        std::fs::write(folder.path().join(name).join("disk"), vec![b'x'; MIB]).unwrap();
    }
    let declared = ["a", "b"].map(|name| format!("[image.\"{name}/disk\"]\nformat = \"raw\"\n"));
    std::fs::write(folder.path().join("qcowfs.toml"), declared.concat()).unwrap();
    folder
}

#[test]
fn no_folder_is_made_for_what_is_refused() {
    let source = two_disks();
    let before = SourceState::of(source.path());
    let out = scratch();
    let run = |target: PathBuf| restore(source.path(), "@latest", &target);
    // The second of two disks would be written into the source.
    symlink(source.path(), out.path().join("b")).unwrap();
    must_refuse(run(out.path().into()), "lies in the source");
    assert!(!out.path().join("a").exists());
    let name = source.path().file_name().unwrap();
    must_refuse(run(out.path().join("none/../..").join(name).join("new")), "is not there");
    assert!(!out.path().join("none").exists());
    // Both go to one file, or to one that is to be.
    std::fs::remove_file(out.path().join("b")).unwrap();
    std::fs::create_dir(out.path().join("a")).unwrap();
    symlink("a", out.path().join("b")).unwrap();
    must_refuse(run(out.path().into()), "two disks would be written to it");
    std::fs::write(out.path().join("a/disk.raw"), "old").unwrap();
    must_refuse(run(out.path().into()).arg("--force"), "two disks would be written to it");
    assert_eq!(bytes(&out.path().join("a/disk.raw")), b"old");
    before.must_still_hold(source.path());
    run(out.path().join("new/vm")).ok();
    assert_eq!(bytes(&out.path().join("new/vm/b/disk.raw")), vec![b'x'; MIB]);
}

#[test]
fn a_device_is_left_alone_where_the_disk_would_fail_half_way() {
    if !root_or_skip("a_device_is_left_alone_where_the_disk_would_fail_half_way") {
        return;
    }
    let case = Case::unpack("qmpbackup-new");
    let full = case.backups().join("vm-root.qcow2/FULL-1795161271-vm-root.qcow2");
    std::fs::remove_file(full).unwrap();
    let folder = scratch();
    let file = folder.path().join("device");
    std::fs::write(&file, vec![0xa5; 512 * MIB]).unwrap();
    let device = Loop::of(&file);
    let run = |missing| {
        let run = restore(&case.backups(), "vm-root.qcow2/INC-1795161280", &device.0);
        run.args(["--force", "--missing", missing])
    };
    must_refuse(run("eio"), "nothing is written, for ");
    assert!(bytes(&device.0).iter().all(|byte| *byte == 0xa5), "it was written to");
    run("zero").ok();
}

/// What would be written through it would go to a file without a name.
#[test]
fn a_file_that_a_loop_device_writes_to_is_refused() {
    if !root_or_skip("a_file_that_a_loop_device_writes_to_is_refused") {
        return;
    }
    let case = Case::unpack("qmpbackup-new");
    let folder = scratch();
    let target = folder.path().join("disk.raw");
    std::fs::write(&target, vec![7; MIB]).unwrap();
    let run = || restore(&case.backups(), POINT, &target).arg("--force");
    {
        let device = Loop::of(&target);
        must_refuse(run(), &format!("{} stands on it", device.0.display()));
        assert_eq!(bytes(&target), vec![7; MIB]);
    }
    run().ok();
}

#[test]
fn a_limit_of_the_length_of_files_is_told_and_nothing_is_left() {
    let case = Case::unpack("qmpbackup-new");
    let folder = scratch();
    for (target, words) in [("disk.raw", ""), ("disk.qcow2", "-O qcow2"), ("-", "> ./out")] {
        // Blocks of 512 bytes, or of 1 KiB.
        let script = format!("ulimit -f 1000 && exec \"$@\" {words}");
        let limited = Run::new("sh").folder(folder.path()).args(["-c", &script, "sh"]);
        let limited = limited.arg(env!("CARGO_BIN_EXE_qcowfs")).arg("restore");
        must_refuse(limited.arg(case.backups()).args([POINT, target]), "see `ulimit -f`");
    }
    let left: Vec<_> = folder.path().read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["out"], "only what the shell made");
}

#[test]
fn a_target_without_room_is_told_with_what_to_do_and_nothing_is_left() {
    if !root_or_skip("a_target_without_room_is_told_with_what_to_do_and_nothing_is_left") {
        return;
    }
    let case = Case::unpack("qmpbackup-new");
    let folder = scratch();
    let small =
        FileSystem::mount(&folder.path().join("small"), &["-t", "tmpfs", "-o", "size=1m", "none"]);
    for words in [&[][..], &["-O", "qcow2"]] {
        let target = small.0.join("disk");
        let refused = restore(&case.backups(), POINT, &target).args(words);
        must_refuse(refused, "make room, or choose another place");
        assert_eq!(small.0.read_dir().unwrap().count(), 0, "something is left");
    }
}
