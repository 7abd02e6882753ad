//! Disks that are one plain raw file: the kernel reads them by itself, and nobody notices.

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

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::content::{bytes, must_equal};
use common::prng::Prng;
use common::report::skipped;
use common::run::{is_root, scratch};
use common::watch::within;
use common::{Mount, User};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const SIZE: usize = 3 << 20;

/// A source of one raw full backup, and its bytes.
fn source() -> (TempDir, PathBuf, Vec<u8>) {
    let folder = scratch();
    let path = folder.path().join("disk.raw");
    let content = Prng::new(7).bytes(SIZE);
    fs::write(&path, &content).unwrap();
    (folder, path, content)
}

fn image(mount: &Mount) -> PathBuf {
    mount.path("disk.raw/disk.raw/disk.img")
}

/// Linux 6.9 was the first, for root alone.
fn is_possible() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().unwrap().parse::<u32>().unwrap();
    is_root() && (next(), next()) >= (6, 9)
}

/// A daemon that does not run while this lives.
struct Stopped(Pid);

impl Stopped {
    fn new(daemon: Pid) -> Self {
        kill_process(daemon, Signal::STOP).unwrap();
        Self(daemon)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _gone = kill_process(self.0, Signal::CONT);
    }
}

#[test]
fn the_daemon_need_not_run_for_the_kernel_to_read_a_raw_full_backup() {
    if !is_possible() {
        return skipped(
            "it takes root and Linux 6.9",
            "a raw file that the kernel reads by itself",
        );
    }
    let (folder, _, content) = source();
    let mount = Mount::of(folder.path());
    let path = image(&mount);
    let file = within(10, "opening", move || File::open(path).unwrap());
    let stopped = Stopped::new(mount.daemon());
    let read = within(10, "reading without the daemon", move || {
        let mut read = vec![0; SIZE];
        file.read_exact_at(&mut read, 0).unwrap();
        read
    });
    drop(stopped);
    must_equal("disk.img", &read, &content);
    mount.unmount();
}

#[test]
fn the_bytes_are_right_with_and_without_it_for_everybody() {
    for (user, options) in
        [(User::Own, &[][..]), (User::Own, &["-o", "nopassthrough"]), (User::Ordinary, &[])]
    {
        let (folder, path, content) = source();
        common::mount::give(folder.path(), user);
        common::mount::give(&path, user);
        let mount = Mount::with(folder.path(), user, options);
        let seen = mount.run("sha256sum").arg(image(&mount)).ok().text();
        let wanted = common::content::sha256_of(&content);
        assert!(seen.starts_with(&wanted), "{user:?} {options:?}");
        mount.unmount();
    }
}

#[test]
fn the_access_time_of_the_source_stays_as_it_was() {
    let (folder, path, content) = source();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    // Older than the modification, so that a mount with relatime would set it anew.
    File::open(&path).unwrap().set_times(fs::FileTimes::new().set_accessed(old)).unwrap();
    let mount = Mount::of(folder.path());
    must_equal("disk.img", &bytes(&image(&mount)), &content);
    mount.unmount();
    assert_eq!(path.metadata().unwrap().atime(), 1_000_000_000);
}

fn opened_late(path: &Path) -> Option<i32> {
    let path = path.to_path_buf();
    within(10, "opening or reading a changed file", move || {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) => return e.raw_os_error(),
        };
        file.read_at(&mut [0; 4096], 0).err().and_then(|e| e.raw_os_error())
    })
}

#[test]
fn a_file_that_changed_since_it_was_found_is_not_opened() {
    for options in [["-o", "refresh=off"], ["-o", "nopassthrough,refresh=off"]] {
        let (folder, path, mut content) = source();
        let mount = Mount::with(folder.path(), User::Own, &options);
        content[0] ^= 1;
        fs::write(&path, &content).unwrap();
        assert_eq!(opened_late(&image(&mount)), Some(libc::EIO), "{options:?}");
        mount.unmount();
    }
}

#[test]
fn several_readers_share_what_the_kernel_has_open() {
    let (folder, _, content) = source();
    let mount = Mount::of(folder.path());
    let path = image(&mount);
    let files: Vec<File> = (0..20).map(|_| File::open(&path).unwrap()).collect();
    for (n, file) in files.into_iter().enumerate() {
        let mut read = vec![0; 4096];
        file.read_exact_at(&mut read, (n * 8192) as u64).unwrap();
        must_equal("a part", &read, &content[n * 8192..][..4096]);
    }
    must_equal("opened again", &bytes(&path), &content);
    mount.unmount();
}
