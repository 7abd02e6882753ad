//! Who reads in order gets the bytes of the disk, also those that the daemon asked for itself
//! before; and its reading of its own view stands in nobody's way.

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
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use common::content::{bytes, index, must_equal};
use common::mount::{LIMIT as MOUNT_LIMIT, is_mounted, lives};
use common::paged::forget;
use common::prng::Prng;
use common::qcow2_editor::Editor;
use common::report::root_or_skip;
use common::run::{is_root, scratch};
use common::watch::{holds_within, within};
use common::{Mount, Run, User};
use rustix::process::{Signal, kill_process};

/// Bytes of the disk: more than what is read ahead at a time; the last page is not whole.
const SIZE: usize = (96 << 20) + 512;
const MIB: usize = 1 << 20;
const CLUSTER: usize = 64 << 10;
/// Seconds that a read of it may take.
const LIMIT: u64 = 120;

/// A disk of random bytes, as a qcow2 image in a folder by itself.
fn image() -> (TempDir, PathBuf, Vec<u8>) {
    let folder = scratch();
    let disk = Prng::new(62).bytes(SIZE);
    let raw = folder.path().join("raw");
    std::fs::write(&raw, &disk).expect("a file");
    let source = folder.path().join("source");
    std::fs::create_dir(&source).expect("a folder");
    let convert = Run::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]);
    convert.arg(raw).arg(source.join("disk.qcow2")).ok();
    (folder, source, disk)
}

fn disk_of(mount: &Mount) -> PathBuf {
    mount.path("disk.qcow2/disk.qcow2/disk.img")
}

fn bytes_ahead(mount: &Mount) -> u64 {
    let told = mount.qcowfs().args(["status", "--json"]).arg(mount.point()).ok();
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    told.pointer("/reads/bytes_ahead").and_then(Value::as_u64).expect("a number")
}

/// Reads until something was read ahead, and then some more. That comes when a processor is free for
/// it, which a short read may not live to see; a single processor always has other work, and it takes
/// root.
fn read_with_help(mount: &Mount, read: impl Fn(&Path)) {
    let image = disk_of(mount);
    let again = || {
        forget(&image);
        read(&image);
    };
    let has_help = || {
        again();
        bytes_ahead(mount) > 0
    };
    let processors = thread::available_parallelism().expect("a number").get();
    let is_helped = processors > 1 && is_root();
    assert_eq!((0..50).any(|_| has_help()), is_helped, "{processors} processors");
    again();
    again();
}

#[test]
fn a_reader_in_order_gets_the_bytes_of_the_disk() {
    let (_folder, source, disk) = image();
    for options in [&[][..], &["--threads", "1"]] {
        let mount = Mount::with(&source, common::User::Own, options);
        read_with_help(&mount, |image| must_equal("read in order", &bytes(image), &disk));
        mount.unmount();
    }
}

#[test]
fn readers_of_several_places_at_once_get_the_bytes_of_the_disk() {
    let (_folder, source, disk) = image();
    let mount = Mount::of(&source);
    let disk = Arc::new(disk);
    let from = |image: &Path, first: usize| {
        let (file, disk) = (File::open(image).expect("the disk"), Arc::clone(&disk));
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            for at in (first..disk.len()).step_by(buffer.len()) {
                let got = file.read_at(&mut buffer, at as u64).expect("bytes");
                must_equal("one of three", &buffer[..got], &disk[at..at + got]);
            }
        })
    };
    read_with_help(&mount, |image| {
        let readers = [0, 21 << 20, 42 << 20].map(|first| from(image, first));
        within(LIMIT, "three readers", || {
            readers.map(|reader| reader.join().expect("a reader whose bytes are right"))
        });
    });
    mount.unmount();
}

#[test]
fn what_cannot_be_read_is_an_error_for_those_who_read_it_alone() {
    let (_folder, source, disk) = image();
    let mut editor = Editor::open(source.join("disk.qcow2"));
    let l1 = editor.l1();
    let bad = 700;
    let entry = editor.l2(&l1)[bad];
    editor.put(entry.at, (1 << 63) | (editor.len().next_multiple_of(1 << 16) + (1 << 30)));
    editor.save();
    let mount = Mount::of(&source);
    read_with_help(&mount, |image| {
        let (image, disk) = (image.to_path_buf(), disk.clone());
        within(LIMIT, "a disk with one bad cluster", move || {
            let file = File::open(&image).expect("the disk");
            let mut buffer = vec![0; CLUSTER];
            for cluster in 0..disk.len() / CLUSTER {
                let at = cluster * CLUSTER;
                match file.read_exact_at(&mut buffer, at as u64) {
                    Ok(()) => must_equal("a good one", &buffer, &disk[at..at + CLUSTER]),
                    Err(e) => {
                        assert_eq!((e.raw_os_error(), cluster), (Some(libc::EIO), bad), "{e}");
                        continue;
                    }
                }
                assert_ne!(cluster, bad, "read as if there were nothing wrong with it");
            }
        });
    });
    mount.unmount();
}

#[test]
fn who_does_not_read_in_order_is_left_alone() {
    let (_folder, source, disk) = image();
    let mount = Mount::of(&source);
    let image = disk_of(&mount);
    let file = File::open(&image).expect("the disk");
    let mut prng = Prng::new(63);
    within(LIMIT, "reads anywhere", move || {
        let mut buffer = [0; 4096];
        for n in 0..10_000 {
            if n % 200 == 0 {
                // Where it has pages close by, the kernel itself takes it for an order.
                forget(&image);
            }
            let at = prng.below(SIZE as u64 / 4096) * 4096;
            file.read_exact_at(&mut buffer, at).expect("a page");
            let start = usize::try_from(at).expect("an index");
            must_equal("a page", &buffer, &disk[start..start + 4096]);
        }
    });
    assert!(!holds_within(1, || bytes_ahead(&mount) > 0), "something was read ahead");
    mount.unmount();
}

#[test]
fn what_has_to_be_unpacked_is_not_read_ahead() {
    let folder = scratch();
    let mut disk = Prng::new(64).bytes(48 * MIB);
    disk.chunks_mut(4096).for_each(|page| page[1024..].fill(7));
    std::fs::write(folder.path().join("raw"), &disk).expect("a file");
    let source = folder.path().join("source");
    std::fs::create_dir(&source).expect("a folder");
    let convert = Run::new("qemu-img").args(["convert", "-c", "-f", "raw", "-O", "qcow2"]);
    convert.arg(folder.path().join("raw")).arg(source.join("disk.qcow2")).ok();
    let mount = Mount::of(&source);
    for _ in 0..5 {
        forget(&disk_of(&mount));
        must_equal("a packed disk", &bytes(&disk_of(&mount)), &disk);
    }
    assert!(!holds_within(1, || bytes_ahead(&mount) > 0), "it was read ahead");
    mount.unmount();
}

#[test]
fn a_partition_is_read_ahead_of_its_reader_too() {
    if !root_or_skip("a_partition_is_read_ahead_of_its_reader_too") {
        return;
    }
    let (_folder, source, _) = image();
    let raw = source.parent().expect("a folder").join("raw");
    Run::new("sh").arg("-c").arg("echo 2048,,L | sfdisk -q \"$1\"").arg("sh").arg(&raw).ok();
    let convert = Run::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]);
    convert.arg(&raw).arg(source.join("disk.qcow2")).ok();
    let disk = std::fs::read(&raw).expect("the disk");
    let mount = Mount::of(&source);
    let partition = mount.path("disk.qcow2/disk.qcow2/p1.img");
    let has_help = || {
        forget(&partition);
        let got = bytes(&partition);
        must_equal("the partition", &got, &disk[MIB..][..got.len()]);
        bytes_ahead(&mount) > 0
    };
    assert!((0..50).any(|_| has_help()), "nothing was read ahead");
    mount.unmount();
}

#[test]
fn an_ordinary_users_view_is_read_without() {
    if !root_or_skip("an_ordinary_users_view_is_read_without") {
        return;
    }
    let (folder, source, _) = image();
    common::mount::give(folder.path(), User::Ordinary);
    let mount = Mount::with(&source, User::Ordinary, &[]);
    mount.run("cmp").arg(disk_of(&mount)).arg(folder.path().join("raw")).ok();
    assert_eq!(bytes_ahead(&mount), 0);
    mount.unmount();
}

#[test]
fn a_view_is_unmounted_right_after_it_was_read() {
    let (_folder, source, disk) = image();
    for _ in 0..10 {
        let mount = Mount::of(&source);
        read_with_help(&mount, |image| must_equal("read in order", &bytes(image), &disk));
        let daemon = mount.daemon();
        let image = disk_of(&mount);
        forget(&image);
        drop(bytes(&image));
        Run::new("umount").arg(mount.point()).seconds(MOUNT_LIMIT).ok();
        assert!(holds_within(10, || !lives(daemon)), "the daemon outlives its view");
    }
}

#[test]
fn a_daemon_that_is_killed_while_it_reads_ahead_goes_and_so_does_its_mount() {
    if !root_or_skip("a_daemon_that_is_killed_while_it_reads_ahead_goes_and_so_does_its_mount") {
        return;
    }
    let (_folder, source, _) = image();
    let mut read_ahead = 0;
    for round in 0..30 {
        let mount = Mount::of(&source);
        let (image, daemon) = (disk_of(&mount), mount.daemon());
        let reader = thread::spawn(move || {
            // Until it fails, for the daemon is gone.
            while let Ok(mut file) = File::open(&image) {
                let _dropped = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
                if std::io::copy(&mut file, &mut std::io::sink()).is_err() {
                    break;
                }
            }
        });
        thread::sleep(std::time::Duration::from_millis(5 * round));
        if round > 20 {
            read_ahead += bytes_ahead(&mount);
        }
        let signals = [Signal::KILL, Signal::ABORT, Signal::QUIT];
        kill_process(daemon, signals[index(round) % 3]).expect("to kill the daemon");
        assert!(holds_within(10, || !lives(daemon)), "round {round}: it does not go");
        within(10, "the reader's end", move || reader.join().expect("a reader"));
        mount.take_down();
        assert!(!is_mounted(mount.point()), "round {round}");
    }
    assert!(read_ahead > 0, "nothing was read ahead");
}
