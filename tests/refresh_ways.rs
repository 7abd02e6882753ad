//! Ways to notice that a source changed, and what stays as it was.

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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use common::layered::Layered;
use common::mount::{LIMIT, give, lives};
use common::paged::{PAGE, page};
use common::qcow2_writer::{CLUSTER, Overlay};
use common::report::{root_or_skip, skipped};
use common::run::scratch;
use common::shown::must_follow;
use common::watch::{holds_within, within};
use common::{Mount, Run, User};

/// A source in a folder of its own, so that other files can lie beside it.
struct Source(TempDir);

impl Source {
    fn new() -> Self {
        let source = Self(scratch());
        std::fs::create_dir(source.root()).expect("a folder");
        source.image("base.qcow2", None, 1);
        source
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("source")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// An image whose first cluster is filled with a byte.
    fn image(&self, name: &str, backing: Option<&str>, byte: u8) {
        let backing = backing.map(|name| (name, "qcow2"));
        let data = Some((0, [byte; CLUSTER]));
        let overlay = Overlay { virtual_size: 16 << 10, backing, data };
        overlay.write(&self.file(name));
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("log")
    }

    fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).expect("a log")
    }

    /// Mounts it with a log that says what changes.
    fn mounted(&self, options: &[&str]) -> Mount {
        let mount = Mount::prepare(User::Own);
        let log = self.log();
        let log = ["-v", "--log-file", log.to_str().expect("a plain path")];
        mount.command(&self.root(), &[&log[..], options].concat()).ok();
        mount.must_be_up();
        mount
    }

    /// Mounts it with so many descriptors.
    fn mounted_with(&self, descriptors: u32) -> Mount {
        let mount = Mount::prepare(User::Own);
        let script = format!("ulimit -n {descriptors}; exec \"$0\" mount \"$1\" \"$2\"");
        let shell = Run::new("bash").args(["-c", &script]).arg(mount.program());
        shell.arg(self.root()).arg(mount.point()).ok();
        mount
    }
}

fn disk(mount: &Mount, name: &str) -> PathBuf {
    mount.path("base.qcow2").join(name).join("disk.img")
}

fn first_byte(path: &Path) -> u8 {
    byte(path, 0).unwrap_or_else(|| panic!("{path:?} cannot be read"))
}

/// A byte of what may not be there.
fn byte(path: &Path, at: u64) -> Option<u8> {
    let mut byte = [0];
    File::open(path).ok()?.read_exact_at(&mut byte, at).ok()?;
    Some(byte[0])
}

fn eventually(what: &str, holds: impl FnMut() -> bool) {
    assert!(holds_within(LIMIT, holds), "not within {LIMIT} s: {what}");
}

/// Nothing tells of something that does not happen but time.
fn does_not_happen(what: &str, mut happens: impl FnMut() -> bool) {
    assert!(!holds_within(2, &mut happens), "{what}");
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
            std::fs::rename(source.file("chain"), source.0.path().join("away")).expect("away");
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
        (source.0.path().join("go"), "cd \"$1\" && while ! [ -e \"$2\" ]; do sleep 0.1; done; ls");
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
    std::fs::remove_file(source.file("qcowfs.toml")).expect("its end");
    must_follow(mount.point(), &source.root(), "once it is well again");
    mount.unmount();
}

#[test]
fn a_source_folder_that_is_gone_leaves_the_view_as_it_was() {
    let source = Source::new();
    let mount = source.mounted(&[]);
    let file = File::open(disk(&mount, "base.qcow2")).expect("a disk");
    std::fs::rename(source.root(), source.0.path().join("away")).expect("away");
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

#[test]
fn where_no_folder_can_be_watched_the_source_is_looked_at_every_few_seconds() {
    if !root_or_skip("where_no_folder_can_be_watched_the_source_is_looked_at_every_few_seconds") {
        return;
    }
    let source = Source::new();
    source.image("overlay", Some("base.qcow2"), 2);
    let mount = Mount::prepare(User::Own);
    let script = r#"
        set -e
        echo 0 > /proc/sys/user/max_inotify_watches
        "$0" mount -v --log-file "$3" "$1" "$2"
        mv "$1/overlay" "$1/overlay.qcow2"
        tries=0
        while ! [ -e "$2/base.qcow2/overlay.qcow2/disk.img" ] && [ $tries -lt 300 ]; do
            sleep 0.1
            tries=$((tries + 1))
        done
        ls "$2/base.qcow2/overlay.qcow2"
        "$0" umount "$2"
    "#;
    let shell = Run::new("unshare").args(["-U", "-r", "-m", "sh", "-c", script]);
    let shell = shell.arg(mount.program()).arg(source.root()).arg(mount.point()).arg(source.log());
    let outcome = shell.ok();
    assert!(outcome.text().contains("disk.img"), "{}\n{}", outcome.text(), source.logged());
    let said = source.logged();
    assert_eq!(said.matches("changes cannot be watched").count(), 1, "{said}");
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
    let outside = source.0.path().canonicalize().expect("a path").join("outside");
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
