//! Ways to notice that a source changed.

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
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use common::changing::{Source, byte, disk, does_not_happen, eventually, first_byte};
use common::mount::{give, lives};
use common::qcow2_writer::{CLUSTER, Overlay};
use common::report::skipped;
use common::shown::must_follow;
use common::watch::holds_within;
use common::{Mount, Run, User};

#[test]
fn a_signal_is_enough_where_nobody_watches() {
    let source = Source::new();
    let mount = source.mounted(&["-o", "refresh=off"]);
    source.image("overlay.qcow2", Some("base.qcow2"), 2);
    let new = disk(&mount, "overlay.qcow2");
    does_not_happen("refresh=off refreshes", || new.exists());
    kill_process(mount.daemon(), Signal::HUP).expect("a signal");
    eventually("SIGHUP", || new.exists());
    assert_eq!(first_byte(&new), 2);
    // The second one, which nothing but SIGHUP tells of either.
    std::fs::remove_file(source.file("overlay.qcow2")).expect("its end");
    kill_process(mount.daemon(), Signal::HUP).expect("a signal");
    eventually("SIGHUP again", || !new.exists());
    assert!(lives(mount.daemon()));
    mount.unmount();
}

#[test]
fn a_signal_refreshes_also_in_the_foreground_without_a_terminal() {
    let source = Source::new();
    let mount = Mount::prepare(User::Own);
    let mut daemon = mount.command(&source.root(), &["-f", "-o", "refresh=off"]).start();
    eventually("it is mounted", || common::mount::is_mounted(mount.point()));
    eventually("it serves", || disk(&mount, "base.qcow2").exists());
    source.image("overlay.qcow2", Some("base.qcow2"), 2);
    kill_process(Pid::from_child(&daemon), Signal::HUP).expect("a signal");
    eventually("SIGHUP", || disk(&mount, "overlay.qcow2").exists());
    mount.unmount();
    assert!(daemon.wait().expect("its end").success());
}

#[test]
fn what_somebody_is_writing_at_the_mount_is_not_shown_until_he_is_done() {
    let source = Source::new();
    source.image("overlay.qcow2", Some("base.qcow2"), 2);
    let path = source.file("overlay.qcow2");
    let whole = std::fs::read(&path).expect("an image");
    let (half, rest) = whole.split_at(whole.len() / 2);
    let mut copy = File::create(&path).expect("a file");
    copy.write_all(half).expect("half of it");
    let listed = || listing(&source.root());
    assert!(listed().contains("it is still being written"), "{}", listed());
    let mount = source.mounted(&[]);
    let new = disk(&mount, "overlay.qcow2");
    assert!(disk(&mount, "base.qcow2").exists());
    // Its writer may rest for longer than it takes to take a file for complete.
    does_not_happen("half a file is shown", || new.exists());
    copy.write_all(rest).expect("the rest");
    drop(copy);
    eventually("it is complete", || new.exists());
    assert_eq!(first_byte(&new), 2);
    assert!(!listed().contains("being written"), "{}", listed());
    mount.unmount();
}

fn listing(source: &Path) -> String {
    Run::qcowfs().arg("ls").arg(source).ok().text()
}

#[test]
fn a_source_is_looked_at_every_so_many_seconds() {
    let source = Source::new();
    let mount = source.mounted(&["-o", "refresh=1"]);
    source.image("overlay.qcow2", Some("base.qcow2"), 2);
    must_follow(mount.point(), &source.root(), "a poll");
    let said = source.logged();
    assert!(said.contains("refreshed: 1 restore point new"), "{said}");
    std::fs::remove_file(source.file("overlay.qcow2")).expect("its end");
    must_follow(mount.point(), &source.root(), "another poll");
    assert!(source.logged().contains("refreshed: 1 restore point gone"));
    mount.unmount();
}

#[test]
fn a_look_that_fails_leaves_the_view_as_it_was_and_is_told_once() {
    let source = Source::new();
    let mount = source.mounted(&[]);
    std::fs::write(source.file("qcowfs.toml"), "[image.\n").expect("a file");
    eventually("it is told", || source.logged().contains("the view stays as it was"));
    source.image("overlay.qcow2", Some("base.qcow2"), 2);
    does_not_happen("a broken qcowfs.toml counts", || disk(&mount, "overlay.qcow2").exists());
    assert_eq!(first_byte(&disk(&mount, "base.qcow2")), 1);
    assert_eq!(
        source.logged().matches("the view stays as it was").count(),
        1,
        "{}",
        source.logged()
    );
    let json = || {
        let told = mount.qcowfs().args(["status", "--json"]).arg(mount.point()).ok().text();
        serde_json::from_str::<serde_json::Value>(&told).expect("JSON")
    };
    let told = || mount.qcowfs().arg("status").arg(mount.point()).ok().text();
    let stale = json()["stale"].clone();
    assert!(stale["reason"].as_str().is_some_and(|r| r.contains("qcowfs.toml: line 1")), "{stale}");
    let since = stale["since"].as_str().expect("a time");
    let row = format!("source:         NOT FOLLOWED since {since}: ");
    assert!(told().contains(&row), "{}", told());
    std::fs::remove_file(source.file("qcowfs.toml")).expect("its end");
    must_follow(mount.point(), &source.root(), "once it is well again");
    assert!(json()["stale"].is_null() && !told().contains("NOT FOLLOWED"), "{}", told());
    mount.unmount();
}

#[test]
fn a_source_folder_that_is_gone_leaves_the_view_as_it_was() {
    let source = Source::new();
    let mount = source.mounted(&[]);
    let file = File::open(disk(&mount, "base.qcow2")).expect("a disk");
    std::fs::rename(source.root(), source.beside().join("away")).expect("away");
    eventually("it is told", || source.logged().contains("the view stays as it was"));
    // As an unmounted file system leaves it.
    std::fs::create_dir(source.root()).expect("an empty folder");
    kill_process(mount.daemon(), Signal::HUP).expect("a signal");
    does_not_happen("an empty folder is shown", || !disk(&mount, "base.qcow2").exists());
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).expect("a byte");
    assert_eq!(byte, [1]);
    drop(file);
    mount.unmount();
}

#[test]
fn a_view_is_unmounted_while_its_source_changes_all_the_time() {
    let source = Arc::new(Source::new());
    let over = Arc::new(AtomicBool::new(false));
    let changes = {
        let (source, over) = (Arc::clone(&source), Arc::clone(&over));
        thread::spawn(move || {
            let mut number = 0_u8;
            while !over.load(Ordering::Relaxed) {
                number = number.wrapping_add(1);
                source.image(&format!("o{number}.qcow2"), Some("base.qcow2"), number);
                let _ = std::fs::remove_file(
                    source.file(&format!("o{}.qcow2", number.wrapping_sub(9))),
                );
                thread::sleep(Duration::from_millis(5));
            }
        })
    };
    for _ in 0..5 {
        let mount = source.mounted(&[]);
        eventually("it is refreshed", || source.logged().contains("refreshed:"));
        mount.unmount();
        std::fs::remove_file(source.log()).expect("the log's end");
    }
    over.store(true, Ordering::Relaxed);
    changes.join().expect("its end");
}

/// Names of folders go from one to the other: what is in them must be noticed all the same.
#[test]
fn folders_that_change_their_names_are_watched_on() {
    let source = Source::new();
    for name in ["a", "b"] {
        std::fs::create_dir_all(source.file(name).join("deep")).expect("a folder");
        source.image(&format!("{name}/deep/{name}.qcow2"), None, 1);
    }
    let mount = source.mounted(&[]);
    let shown = |path: &str| mount.path(path).exists();
    eventually("it watches", || {
        source.image("a/deep/tried.qcow2", None, 2);
        holds_within(1, || shown("a/deep/tried.qcow2"))
    });
    for (from, to) in [("a", "c"), ("b", "a"), ("c", "b")] {
        std::fs::rename(source.file(from), source.file(to)).expect("another name");
    }
    must_follow(mount.point(), &source.root(), "names that were exchanged");
    for name in ["a", "b"] {
        source.image(&format!("{name}/deep/more.qcow2"), None, 3);
        must_follow(mount.point(), &source.root(), &format!("more in {name}"));
    }
    std::fs::create_dir_all(source.file("new/and/deep")).expect("folders");
    source.image("new/and/deep/one.qcow2", None, 4);
    must_follow(mount.point(), &source.root(), "new folders");
    source.image("new/and/deep/two.qcow2", None, 5);
    must_follow(mount.point(), &source.root(), "more in a new folder");
    mount.unmount();
}

/// A user's own source, with a folder that he may not read.
#[test]
fn a_folder_that_may_not_be_read_keeps_nobody_from_watching() {
    let name = "a_folder_that_may_not_be_read_keeps_nobody_from_watching";
    let device = std::fs::metadata("/dev/fuse").expect("/dev/fuse");
    if std::os::unix::fs::PermissionsExt::mode(&device.permissions()) & 0o006 != 0o006 {
        return skipped("/dev/fuse is closed to ordinary users, and chmod 666 would open it", name);
    }
    let source = Source::new();
    let closed = source.file("lost+found");
    std::fs::create_dir(&closed).expect("a folder");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o000);
    std::fs::set_permissions(&closed, mode).expect("chmod");
    give(&source.root(), User::Ordinary);
    let mount = Mount::with(&source.root(), User::Ordinary, &[]);
    let list = || mount.run("ls").arg(mount.path("base.qcow2")).outcome().text();
    eventually("it serves", || list().contains("base.qcow2"));
    source.image("overlay.qcow2", Some("base.qcow2"), 2);
    give(&source.root(), User::Ordinary);
    eventually("a new overlay", || list().contains("overlay.qcow2"));
    mount.unmount();
}

#[test]
fn the_view_of_one_image_follows_its_folder() {
    let source = Source::new();
    source.image("overlay.qcow2", Some("base.qcow2"), 2);
    let mount = Mount::of(&source.file("overlay.qcow2"));
    let (base, overlay) = (disk(&mount, "base.qcow2"), disk(&mount, "overlay.qcow2"));
    source.image("another.qcow2", Some("base.qcow2"), 3);
    source.image("away", None, 4);
    std::fs::rename(source.file("away"), source.file("base.qcow2")).expect("the new base");
    eventually("the new base", || byte(&base, 0) == Some(4));
    eventually("what stands on it", || byte(&overlay, 0) == Some(2));
    assert!(!disk(&mount, "another.qcow2").exists(), "it was not asked for");
    std::fs::remove_file(source.file("overlay.qcow2")).expect("its end");
    eventually("the image is gone", || !overlay.exists());
    mount.unmount();
}

#[test]
fn what_lies_beneath_an_allowed_root_is_watched() {
    let source = Source::new();
    let outside = source.beside().canonicalize().expect("a path").join("outside");
    std::fs::create_dir(&outside).expect("a folder");
    let base = Overlay { virtual_size: 16 << 10, backing: None, data: Some((1, [6; CLUSTER])) };
    base.write(&outside.join("golden"));
    let name = outside.join("golden");
    source.image("overlay.qcow2", name.to_str(), 2);
    let mount = source.mounted(&["--allow-root", outside.to_str().expect("a plain path")]);
    let path = mount.path("overlay.qcow2/overlay.qcow2/disk.img");
    let second = |path: &Path| byte(path, CLUSTER as u64);
    assert_eq!(second(&path), Some(6));
    let other = Overlay { data: Some((1, [8; CLUSTER])), ..base };
    other.write(&outside.join("new"));
    std::fs::rename(outside.join("new"), &name).expect("the new file");
    eventually("the new base", || second(&path) == Some(8));
    std::fs::remove_file(&name).expect("its end");
    eventually("its end", || !path.exists());
    mount.unmount();
}
