//! The file system that the source lies on goes away, and system calls on it are interrupted.

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

use std::path::{Path, PathBuf};
use std::process::Child;

use rustix::process::Pid;

use common::layered::Layered;
use common::mount::lives;
use common::paged::{How, must_be_right, pages};
use common::report::root_or_skip;
use common::run::scratch;
use common::watch::{holds_within, within};
use common::{FileSystem, Mount, Run, View};

fn images(mount: &Mount, layers: &Layered) -> Vec<PathBuf> {
    let view = View::walk(mount.point());
    let image = |n| mount.path(view.of_file(format!("layer{n}.qcow2")).image());
    (0..layers.disks.len()).map(image).collect()
}

/// The daemon holds what it has found: until it ends, the file system lives on out of sight.
fn must_read_on_after_a_lazy_unmount(source: &FileSystem) {
    let layers = Layered::create(&source.0.join("backups"), 3, 31);
    let mount = Mount::of(&source.0.join("backups"));
    let images = images(&mount, &layers);
    source.unmount_lazily();
    assert!(!source.0.join("backups").exists(), "the source is still there");
    for (image, disk) in images.iter().zip(&layers.disks) {
        must_be_right(image, disk);
    }
    mount.unmount();
}

#[test]
fn a_source_on_a_tmpfs_that_is_unmounted_lazily_reads_on() {
    if !root_or_skip("a_source_on_a_tmpfs_that_is_unmounted_lazily_reads_on") {
        return;
    }
    let folder = scratch();
    let source = FileSystem::mount(&folder.path().join("tmpfs"), &["-t", "tmpfs", "none"]);
    must_read_on_after_a_lazy_unmount(&source);
}

#[test]
fn a_source_on_a_loop_device_that_is_unmounted_lazily_reads_on() {
    if !root_or_skip("a_source_on_a_loop_device_that_is_unmounted_lazily_reads_on") {
        return;
    }
    let folder = scratch();
    let disk = folder.path().join("disk");
    Run::new("truncate").args(["-s", "64M"]).arg(&disk).ok();
    Run::new("mkfs.ext4").arg("-q").arg(&disk).ok();
    let disk = disk.to_str().expect("a plain path");
    let source = FileSystem::mount(&folder.path().join("ext4"), &["-o", "loop", disk]);
    must_read_on_after_a_lazy_unmount(&source);
}

/// Has every third call of each of these that the daemon makes fail with EINTR.
fn interrupt_calls(daemon: Pid, calls: &str, log: &Path) -> Child {
    let inject = format!("inject={calls}:error=EINTR:when=1+3");
    let strace = Run::new("strace").args(["-f", "-e", &format!("trace={calls}"), "-e", &inject]);
    let strace = strace.arg("-o").arg(log).arg("-p").arg(daemon.as_raw_nonzero().to_string());
    let strace = strace.start();
    let attached = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.as_raw_nonzero()));
        tasks.expect("its threads").flatten().all(|task| {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        })
    };
    assert!(holds_within(20, attached), "strace does not attach");
    strace
}

#[test]
fn interrupted_calls_on_the_source_are_made_again() {
    if !root_or_skip("interrupted_calls_on_the_source_are_made_again") {
        return;
    }
    let folder = scratch();
    let layers = Layered::create(&folder.path().join("backups"), 3, 41);
    let mount = Mount::prepare(common::User::Own);
    // With few descriptors the files are opened again, too.
    let others = folder.path().join("backups/others");
    std::fs::create_dir(&others).expect("a folder");
    for number in 0..40 {
        let overlay =
            common::qcow2_writer::Overlay { virtual_size: 4096, backing: None, data: None };
        overlay.write(&others.join(format!("other{number}.qcow2")));
    }
    let shell = Run::new("bash").args(["-c", "ulimit -n 80; exec \"$0\" mount \"$1\" \"$2\""]);
    shell.arg(mount.program()).arg(folder.path().join("backups")).arg(mount.point()).ok();
    let images = images(&mount, &layers);
    let listed = View::listed(&folder.path().join("backups"));
    let image = |n| listed.of_file(format!("others/other{n}.qcow2")).image();
    let others: Vec<_> = (0..40).map(|n| mount.path(image(n))).collect();
    let log = folder.path().join("strace");
    let calls = "pread64,fstat,newfstatat,openat2,lseek";
    let mut strace = interrupt_calls(mount.daemon(), calls, &log);
    let seen = std::panic::catch_unwind(|| {
        for (image, disk) in images.iter().zip(&layers.disks) {
            must_be_right(image, disk);
        }
        // More of them than may be open at the same time.
        for image in &others {
            must_be_right(image, &[0; 4096]);
        }
    });
    let _ = rustix::process::kill_process(Pid::from_child(&strace), rustix::process::Signal::TERM);
    within(20, "the end of strace", move || strace.wait()).expect("its end");
    seen.expect("right bytes");
    let log = std::fs::read_to_string(log).expect("strace's log");
    for call in ["pread64", "fstat", "openat2"] {
        let interrupted = log.lines().any(|l| l.contains(call) && l.contains("EINTR"));
        assert!(interrupted, "no {call} was interrupted");
    }
    mount.unmount();
}

/// What the kernel keeps of a disk needs no source; what it does not keep is asked for.
#[test]
fn a_source_folder_that_is_deleted_gives_errors_or_right_bytes() {
    let folder = scratch();
    let source = folder.path().join("backups");
    let layers = Layered::create(&source, 3, 51);
    let mount = Mount::of(&source);
    let images = images(&mount, &layers);
    std::fs::remove_dir_all(&source).expect("the end of the source");
    for (image, disk) in images.iter().zip(&layers.disks) {
        let numbers = (0..disk.len() / 4096).step_by(9).collect();
        for (page, outcome) in pages(image, How::Direct, numbers) {
            match outcome {
                Ok(seen) => assert!(seen == disk[page * 4096..(page + 1) * 4096], "page {page}"),
                Err(errno) => assert_eq!(errno, libc::EIO, "page {page}"),
            }
        }
    }
    assert!(lives(mount.daemon()));
    mount.unmount();
}
