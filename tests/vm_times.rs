//! `@times`: all disks of a VM as they were at one moment.

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

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use common::content::bytes;
use common::prng::Prng;
use common::qcow2_writer::{CLUSTER, LARGEST, Overlay};
use common::report::root_or_skip;
use common::run::scratch;
use common::shown::must_follow;
use common::watch::{holds_within, within};
use common::{Mount, Run, User};
use tempfile::TempDir;

const START: u64 = 1_795_161_000;

struct Source {
    folder: TempDir,
    prng: Prng,
}

impl Source {
    fn new() -> Self {
        Self { folder: scratch(), prng: Prng::new(1) }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A backup of a disk as qmpbackup leaves it, so many seconds after the start.
    fn backup(&mut self, disk: &str, level: &str, second: u64) {
        let folder = self.path().join(disk);
        std::fs::create_dir_all(&folder).unwrap();
        let name = folder.file_name().unwrap().to_str().unwrap();
        let bytes: [u8; CLUSTER] = self.prng.bytes(CLUSTER).try_into().unwrap();
        let data = Some((second % 16, bytes));
        let file = folder.join(format!("{level}-{}-{name}", START + second));
        Overlay { virtual_size: LARGEST, backing: None, data }.write(&file);
    }

    fn image(&mut self, name: &str) {
        let bytes: [u8; CLUSTER] = self.prng.bytes(CLUSTER).try_into().unwrap();
        let data = Some((0, bytes));
        Overlay { virtual_size: LARGEST, backing: None, data }.write(&self.path().join(name));
    }
}

/// Two disks: backed up together, then one alone, then together again; a third one came later.
fn vm() -> Source {
    let mut source = Source::new();
    for (disk, level, second) in [
        ("vm1/sda", "FULL", 0),
        ("vm1/vdb", "FULL", 0),
        ("vm1/sda", "INC", 10),
        ("vm1/sda", "INC", 20),
        ("vm1/vdb", "FULL", 20),
        ("vm1/vdc", "FULL", 30),
    ] {
        source.backup(disk, level, second);
    }
    source
}

/// What lies in a folder, with the targets of links.
fn listed(folder: &Path) -> BTreeMap<String, Option<String>> {
    let folder = folder.to_path_buf();
    within(30, "listing", move || {
        let entries = folder.read_dir().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let target = entry.path().read_link().ok();
            let target = target.map(|target| target.to_str().unwrap().to_owned());
            (entry.file_name().into_string().unwrap(), target)
        });
        entries.collect()
    })
}

fn time(second: u64) -> String {
    jiff::Timestamp::from_second(i64::try_from(START + second).unwrap()).unwrap().to_string()
}

#[test]
fn each_moment_has_all_disks_as_they_were_then() {
    let source = vm();
    let mount = Mount::of(source.path());
    let times = mount.path("vm1/@times");
    let names: Vec<String> = listed(&times).into_keys().collect();
    assert_eq!(names, [0, 10, 20, 30].map(time));
    let point = |level: &str, second: u64| format!("{level}-{}", START + second);
    let all = [
        (0, vec![("sda", point("FULL", 0)), ("vdb", point("FULL", 0))]),
        (10, vec![("sda", point("INC", 10)), ("vdb", point("FULL", 0))]),
        (20, vec![("sda", point("INC", 20)), ("vdb", point("FULL", 20))]),
        (
            30,
            vec![("sda", point("INC", 20)), ("vdb", point("FULL", 20)), ("vdc", point("FULL", 30))],
        ),
    ];
    for (second, wanted) in &all {
        let second = *second;
        let folder = times.join(time(second));
        assert_eq!(u64::try_from(folder.metadata().unwrap().mtime()).unwrap(), START + second);
        let links = wanted.iter().map(|(disk, point)| {
            (format!("{disk}.img"), Some(format!("../../{disk}/{point}/disk.img")))
        });
        assert_eq!(listed(&folder), links.collect());
        assert!(!folder.join("vdd.img").exists());
        // The very disks that a restore of the whole VM writes; it refuses where one has none yet.
        let target = scratch();
        let restore = Run::qcowfs().arg("restore").arg("-q").arg(source.path());
        let restore = restore.arg(format!("vm1@{}", time(second))).arg(target.path()).outcome();
        assert_eq!(restore.code == Some(0), wanted.len() == 3, "{}", restore.stderr);
        for (disk, _) in wanted.iter().filter(|_| restore.code == Some(0)) {
            let restored = bytes(&target.path().join(format!("{disk}.raw")));
            assert!(bytes(&folder.join(format!("{disk}.img"))) == restored, "{second}: {disk}");
        }
        // By the name of the moment: what it has, and a note about the others.
        let target = scratch();
        let moment = format!("vm1/@times/{}", time(second));
        let restore = Run::qcowfs().arg("restore").arg(source.path()).arg(&moment);
        let said = restore.arg(target.path()).ok().stderr;
        assert_eq!(said.contains("note: without"), wanted.len() < 3, "{said}");
        let written = listed(target.path()).into_keys();
        let disks = wanted.iter().map(|(disk, _)| format!("{disk}.raw"));
        assert_eq!(written.collect::<Vec<_>>(), disks.collect::<Vec<_>>());
        let one =
            Run::qcowfs().arg("info").arg(source.path()).arg(format!("{moment}/sda.img")).ok();
        assert!(one.text().starts_with(&format!("vm1/sda/{}", wanted[0].1)), "{}", one.text());
    }
    mount.unmount();
}

#[test]
fn a_disk_whose_newest_is_broken_is_absent() {
    let mut source = vm();
    source.backup("vm2/a", "FULL", 0);
    source.backup("vm2/b", "FULL", 5);
    source.backup("vm2/b", "INC", 9);
    source.backup("vm2/a", "INC", 20);
    std::fs::write(source.path().join(format!("vm2/b/INC-{}-b", START + 9)), "QFI\u{fb}").unwrap();
    let mount = Mount::of(source.path());
    let times = mount.path("vm2/@times");
    let linked = [(0, vec!["a.img"]), (5, vec!["a.img", "b.img"]), (20, vec!["a.img"])];
    assert_eq!(listed(&times).into_keys().collect::<Vec<_>>(), [0, 5, 20].map(time));
    for (second, wanted) in linked {
        let names: Vec<_> = listed(&times.join(time(second))).into_keys().collect();
        assert_eq!(names, wanted, "{second}");
    }
    // As `restore` refuses it.
    let restore = Run::qcowfs().arg("restore").arg("-q").arg(source.path());
    let target = scratch();
    let restore = restore.arg(format!("vm2@{}", time(20))).arg(target.path()).outcome();
    assert_ne!(restore.code, Some(0));
    mount.unmount();
}

#[test]
fn one_disk_is_no_vm_and_neither_are_very_many() {
    let mut source = Source::new();
    source.backup("single/sda", "FULL", 0);
    for number in 0..33 {
        source.backup(&format!("many/d{number}"), "FULL", 0);
    }
    for number in 0..32 {
        source.backup(&format!("large/d{number}"), "FULL", 0);
    }
    let mount = Mount::of(source.path());
    assert_eq!(listed(mount.point()).into_keys().collect::<Vec<_>>(), ["large", "many", "single"]);
    for (vm, is_one) in [("single", false), ("many", false), ("large", true)] {
        assert_eq!(listed(&mount.path(vm)).contains_key("@times"), is_one, "{vm}");
    }
    assert_eq!(listed(&mount.path("large/@times").join(time(0))).len(), 32);
    mount.unmount();
}

#[test]
fn a_folder_of_the_source_keeps_its_name_and_so_does_a_disk() {
    let mut source = vm();
    std::fs::create_dir(source.path().join("vm1/@times")).unwrap();
    source.image("vm1/@times/inner.qcow2");
    source.image("@times");
    source.image("other");
    let mount = Mount::of(source.path());
    let names = |folder: &str| listed(&mount.path(folder)).into_keys().collect::<Vec<_>>();
    assert_eq!(names("vm1"), ["@times", "@times~2", "sda", "vdb", "vdc"]);
    assert_eq!(names("vm1/@times"), ["inner.qcow2"]);
    assert_eq!(names("vm1/@times~2"), [0, 10, 20, 30].map(time));
    assert_eq!(names(""), ["@times", "@times~2", "other", "vm1"]);
    assert_eq!(names("@times"), ["@times", "by-time", "latest"], "a disk of that name");
    assert!(names("@times~2").iter().all(|name| name.ends_with('Z')));
    mount.unmount();
}

#[test]
fn moments_follow_the_source() {
    let mut source = vm();
    let mount = Mount::of(source.path());
    must_follow(mount.point(), source.path(), "at first");
    let inode = |second: u64| -> Option<u64> {
        mount.path("vm1/@times").join(time(second)).metadata().ok().map(|stat| stat.ino())
    };
    let before = [0, 20].map(inode);
    source.backup("vm1/vdb", "INC", 20 + 40);
    must_follow(mount.point(), source.path(), "another increment");
    assert_eq!([0, 20].map(inode), before, "moments in which nothing changed");
    // The backup of the second disk that was made together with one of the first.
    let backup = format!("vm1/vdb/FULL-{}-vdb", START + 20);
    std::fs::remove_file(source.path().join(backup)).unwrap();
    must_follow(mount.point(), source.path(), "a backup less");
    assert_eq!(inode(0), before[0]);
    assert_ne!(inode(20), before[1], "another content under the same number");
    mount.unmount();
}

#[test]
fn owners_of_links_follow_those_of_the_disks() {
    if !root_or_skip("owners_of_links_follow_those_of_the_disks") {
        return;
    }
    let source = vm();
    let own = |folder: &str, owner| chown(source.path().join(folder), Some(owner), None).unwrap();
    for folder in ["vm1", "vm1/sda", "vm1/vdb", "vm1/vdc"] {
        own(folder, 1000);
    }
    let mount = Mount::of(source.path());
    let moment = mount.path("vm1/@times").join(time(0));
    let owners = move || {
        let owner = |path: &Path| path.symlink_metadata().unwrap().uid();
        let moment = moment.clone();
        within(30, "asking for owners", move || [owner(&moment), owner(&moment.join("sda.img"))])
    };
    assert_eq!(owners(), [1000, 1000]);
    own("vm1/vdb", 1001);
    assert!(holds_within(30, || owners() == [0, 0]), "{:?}", owners());
    mount.unmount();
}

#[test]
fn moments_are_for_those_who_may_list_all_disks() {
    if !root_or_skip("moments_are_for_those_who_may_list_all_disks") {
        return;
    }
    for (mode, may) in [(0o755, true), (0o711, false), (0o744, false), (0o700, false)] {
        let source = vm();
        let vdb: PathBuf = source.path().join("vm1/vdb");
        std::fs::set_permissions(&vdb, Permissions::from_mode(mode)).unwrap();
        for folder in ["vm1", "vm1/sda", "vm1/vdc"] {
            let open = Permissions::from_mode(0o755);
            std::fs::set_permissions(source.path().join(folder), open).unwrap();
        }
        let mount = Mount::with(source.path(), User::Own, &["-o", "allow_other"]);
        let list = Run::new("ls").arg(mount.path("vm1/@times")).user(User::Ordinary).outcome();
        assert_eq!(list.code == Some(0), may, "{mode:o}: {}", list.stderr);
        let ls = Run::new("ls").arg(mount.path("vm1/sda")).user(User::Ordinary).outcome();
        assert_eq!(ls.code, Some(0), "{}", ls.stderr);
        mount.unmount();
    }
}
