//! What stays as it was when a source changes, and what must go.

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
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use common::Run;
use common::changing::{Source, disk, eventually, first_byte};
use common::layered::Layered;
use common::mount::LIMIT;
use common::paged::{PAGE, page};
use common::shown::must_follow;
use common::watch::{holds_within, within};

#[test]
fn what_did_not_change_keeps_its_inode_number_and_what_was_replaced_has_another() {
    let source = Source::new();
    source.image("overlay.qcow2", Some("base.qcow2"), 2);
    let mount = source.mounted(&[]);
    let (base, overlay) = (disk(&mount, "base.qcow2"), disk(&mount, "overlay.qcow2"));
    let latest = mount.path("base.qcow2/latest/disk.img");
    let number = |path: &Path| path.metadata().expect("stat").ino();
    let before = (number(&base), number(&overlay));
    assert_eq!((first_byte(&base), first_byte(&overlay), first_byte(&latest)), (1, 2, 2));

    source.image("newest.qcow2", Some("overlay.qcow2"), 3);
    must_follow(mount.point(), &source.root(), "a new overlay");
    assert_eq!((number(&base), number(&overlay)), before);
    assert_eq!(first_byte(&latest), 3, "latest does not follow");
    let newest = number(&disk(&mount, "newest.qcow2"));
    assert!(newest != before.0 && newest != before.1, "two paths share a number");

    // Another file of the same size: what the kernel keeps of the old one is not its own.
    source.image("away", Some("base.qcow2"), 4);
    std::fs::rename(source.file("away"), source.file("overlay.qcow2")).expect("the new file");
    must_follow(mount.point(), &source.root(), "a replaced file");
    assert_eq!(number(&base), before.0);
    assert_ne!(number(&overlay), before.1, "a replaced file is the old inode");
    assert_ne!(number(&disk(&mount, "newest.qcow2")), newest, "it stands on a replaced file");
    assert_eq!((first_byte(&base), first_byte(&overlay)), (1, 4));
    mount.unmount();
}

#[test]
fn an_open_disk_keeps_its_bytes_when_its_files_are_gone() {
    for (renamed, descriptors) in [(false, 1024), (true, 1024), (false, 80), (true, 80)] {
        let source = Source::new();
        let layers = Layered::create(&source.file("chain"), 3, 5);
        for other in 0..60 {
            source.image(&format!("other{other}.qcow2"), None, 7);
        }
        let mount = source.mounted_with(descriptors);
        let path = mount.path("chain/layer0.qcow2/layer2.qcow2/disk.img");
        let file = File::open(&path).expect("a disk");
        // Other files' descriptors drive away all that is not held.
        for other in 0..60 {
            let name = format!("other{other}.qcow2");
            assert_eq!(first_byte(&mount.path(&name).join(&name).join("disk.img")), 7);
        }
        if renamed {
            std::fs::rename(source.file("chain"), source.beside().join("away")).expect("away");
        } else {
            std::fs::remove_dir_all(source.file("chain")).expect("their end");
        }
        eventually("the restore point is gone", || !path.exists());
        let what = format!("renamed: {renamed}, {descriptors} descriptors");
        assert_eq!(file.metadata().expect("stat").len(), layers.disks[2].len() as u64, "{what}");
        for number in 0..layers.disks[2].len() / PAGE {
            let seen = page(&file, number).unwrap_or_else(|e| panic!("{what}: page {number}: {e}"));
            assert!(seen == layers.disks[2][number * PAGE..][..PAGE], "{what}: page {number}");
        }
        drop(file);
        mount.unmount();
    }
}

/// Only who asks for the one path sees what the kernel keeps: to list the folder would renew it.
#[test]
fn attributes_that_the_kernel_keeps_follow() {
    let source = Source::new();
    let mount = source.mounted(&[]);
    let folder = mount.path("base.qcow2/base.qcow2");
    let mode = || folder.metadata().expect("stat").mode() & 0o7777;
    let link = || std::fs::read_link(mount.path("base.qcow2/latest")).ok();
    let missing = mount.path("base.qcow2/overlay.qcow2");
    for permissions in [0o600, 0o644, 0o640] {
        let before = mode();
        std::fs::set_permissions(
            source.file("base.qcow2"),
            std::os::unix::fs::PermissionsExt::from_mode(permissions),
        )
        .expect("chmod");
        eventually("other permissions", || mode() != before);
    }
    assert_eq!(link(), Some("base.qcow2".into()));
    assert!(!missing.exists());
    source.image("overlay.qcow2", Some("base.qcow2"), 2);
    eventually("a name that there was not", || missing.exists());
    eventually("another link", || link() == Some("overlay.qcow2".into()));
    mount.unmount();
}

#[test]
fn a_folder_that_is_gone_under_somebody_is_stale_and_nothing_worse() {
    let source = Source::new();
    std::fs::create_dir(source.file("vm")).expect("a folder");
    source.image("vm/one.qcow2", None, 5);
    let mount = source.mounted(&[]);
    let inside = mount.path("vm");
    // A shell that stays in the folder.
    let (go, script) =
        (source.beside().join("go"), "cd \"$1\" && while ! [ -e \"$2\" ]; do sleep 0.1; done; ls");
    let shell = Run::new("sh").args(["-c", script, "sh"]).arg(&inside).arg(&go);
    let shell = thread::spawn(move || shell.outcome());
    thread::sleep(Duration::from_millis(500));
    std::fs::remove_dir_all(source.file("vm")).expect("its end");
    eventually("the folder is gone", || !inside.exists());
    std::fs::write(go, "").expect("a file");
    let outcome = shell.join().expect("a shell");
    assert!(outcome.text().is_empty(), "{}", outcome.text());
    assert_eq!(first_byte(&disk(&mount, "base.qcow2")), 1);
    mount.unmount();
}

#[test]
fn few_descriptors_are_enough_for_many_files_that_change() {
    let source = Source::new();
    for number in 0..400 {
        std::fs::create_dir(source.file(&format!("d{number}"))).expect("a folder");
        source.image(&format!("d{number}/one.qcow2"), None, 9);
    }
    let mount = source.mounted_with(256);
    let held: Vec<File> = (0..120)
        .map(|n| File::open(mount.path(format!("d{n}/one.qcow2/one.qcow2/disk.img"))).unwrap())
        .collect();
    for number in 0..400 {
        source.image(&format!("d{number}/two.qcow2"), Some("one.qcow2"), 10);
    }
    must_follow(mount.point(), &source.root(), "400 files more");
    for file in &held {
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).expect("a byte");
        assert_eq!(byte, [9]);
    }
    drop(held);
    mount.unmount();
}

/// The kernel keeps pages of a disk for as long as its inode number.
#[test]
fn pages_of_a_disk_that_did_not_change_stay_in_the_cache() {
    let source = Source::new();
    let layers = Layered::create(&source.file("chain"), 2, 8);
    let mount = source.mounted(&["-o", "nopassthrough"]);
    let path = mount.path("chain/layer0.qcow2/layer1.qcow2/disk.img");
    let pages = layers.disks[1].len() / PAGE;
    let first = File::open(&path).expect("a disk");
    for number in 0..pages {
        page(&first, number).expect("a page");
    }
    drop(first);
    source.image("another.qcow2", None, 1);
    must_follow(mount.point(), &source.root(), "another image");
    let again = File::open(&path).expect("a disk");
    // Who has its pages need not ask the daemon.
    kill_process(mount.daemon(), Signal::STOP).expect("a signal");
    let kept = within(LIMIT, "reading from the cache", move || {
        (0..pages).all(|number| page(&again, number).is_ok())
    });
    kill_process(mount.daemon(), Signal::CONT).expect("a signal");
    assert!(kept);
    mount.unmount();
}

/// What was deleted must free its place on the disk, and what the view does not show must not keep
/// its file system busy.
#[test]
fn nothing_stays_open_that_the_view_does_not_show() {
    let source = Source::new();
    let mount = source.mounted(&["-o", "refresh=off"]);
    let open = || {
        let folder = format!("/proc/{}/fd", mount.daemon().as_raw_nonzero());
        let files = std::fs::read_dir(folder).expect("descriptors").flatten();
        let files = files.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let beneath = files.filter(|path| path.starts_with(source.root()));
        beneath.filter(|path| path != &source.root()).collect::<Vec<PathBuf>>()
    };
    let refreshed = |what: &str, holds: &dyn Fn() -> bool| {
        kill_process(mount.daemon(), Signal::HUP).expect("a signal");
        eventually(what, holds);
    };
    let base = disk(&mount, "base.qcow2");
    assert_eq!(first_byte(&base), 1);
    std::fs::write(source.file("notes"), "no backup").expect("a file");
    std::fs::write(source.file("qcowfs.toml"), "").expect("a file");
    for number in 2..8 {
        let name = format!("overlay{number}.qcow2");
        source.image(&name, Some("base.qcow2"), number);
        let overlay = disk(&mount, &name);
        refreshed("a new overlay", &|| overlay.exists());
        assert_eq!(first_byte(&overlay), number);
        assert!(open().contains(&source.file(&name)), "{:?}", open());
        std::fs::remove_file(source.file(&name)).expect("its end");
        refreshed("its end", &|| !overlay.exists());
    }
    let shown = [source.file("base.qcow2"), source.file("qcowfs.toml")];
    let rest = || open().into_iter().filter(|path| !shown.contains(path)).collect::<Vec<_>>();
    assert!(holds_within(LIMIT, || rest().is_empty()), "{:?}", rest());
    assert!(open().len() <= 2, "one file, opened several times: {:?}", open());
    mount.unmount();
}
