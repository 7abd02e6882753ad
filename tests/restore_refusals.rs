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
use std::path::{Path, PathBuf};
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use common::content::bytes;
use common::report::root_or_skip;
use common::run::scratch;
use common::watch::holds_within;
use common::{Case, Run};

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

/// A loop device on a file; goes away when it goes out of scope.
struct Loop(PathBuf);

impl Loop {
    fn of(file: &Path) -> Self {
        let told = Run::new("losetup").args(["--find", "--show"]).arg(file).ok().text();
        Self(told.trim().into())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let run = Run::new("losetup").arg("-d").arg(&self.0).seconds(30);
        // A second panic while the first one unwinds would end the whole program.
        let _ = std::thread::spawn(move || run.outcome()).join();
    }
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
