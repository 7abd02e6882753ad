//! The extended attributes of what the view shows.

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

use std::ffi::OsStr;
use std::path::Path;

use common::content::bytes;
use common::qcow2_writer::{LARGEST, Overlay};
use common::run::scratch;
use common::{Case, Mount, Run, User, View};
use qcowfs::tree::{Ino, Tree, ViewOptions};
use rustix::fs::{
    XattrFlags, getxattr, getxattr_query, listxattr, listxattr_query, removexattr, setxattr,
};
use rustix::io::Errno;
use serde_json::Value;

fn get(path: &Path, name: &str) -> Result<String, Errno> {
    let mut value = vec![0; 1 << 16];
    let len = getxattr(path, format!("user.qcowfs.{name}"), &mut value)?;
    value.truncate(len);
    Ok(String::from_utf8(value).unwrap())
}

fn names(path: &Path) -> Vec<String> {
    let mut list = vec![0; 1 << 16];
    let len = listxattr(path, &mut list).unwrap();
    // Asked without room, it tells how much it takes; with too little, that it is too little.
    assert_eq!(listxattr_query(path), Ok(len));
    if len > 0 {
        assert_eq!(listxattr(path, &mut vec![0; len - 1][..]), Err(Errno::RANGE));
    }
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect()
}

/// The attributes of a disk that are single words or numbers of `info.json`.
const SINGLE: [&str; 16] = [
    "name",
    "label",
    "file",
    "snapshot",
    "kind",
    "state",
    "reason",
    "time",
    "time_basis",
    "virtual_size",
    "parent",
    "known_bytes",
    "lost_bytes",
    "partition_table",
    "sector_size",
    "content",
];

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// A file has all that `info.json` says of the whole disk. Its list of names is what it has, but for
/// the long lists: copies with attributes must have room for what is listed.
fn must_say_what_is_said_of_the_disk(path: &Path, info: &Value) {
    for name in SINGLE {
        assert_eq!(get(path, name).ok(), text(&info[name]), "{path:?} {name}");
    }
    must_say_what_lists_say(path, info);
    for name in ["allocated", "allocated_is"] {
        assert_eq!(get(path, name).is_ok(), !info[name].is_null(), "{path:?} {name}");
    }
    let known = SINGLE.into_iter().chain(["allocated", "allocated_is", "lost_reads_as"]);
    let mut wanted: Vec<_> = known.filter(|name| get(path, name).is_ok()).collect();
    wanted.sort_unstable();
    assert_eq!(own_names(path), wanted, "{path:?}");
}

fn must_say_what_lists_say(path: &Path, info: &Value) {
    let list = |name: &str| info[name].as_array().unwrap().iter();
    let files: Vec<&str> = list("chain").map(|file| file["file"].as_str().unwrap()).collect();
    assert_eq!(get(path, "chain").unwrap(), files.join("\n"));
    let links = list("evidence").map(|link| {
        let part = |name: &str| link[name].as_str().unwrap();
        format!("{}: {}", part("file"), part("text"))
    });
    let links = links.collect::<Vec<_>>().join("\n");
    assert_eq!(get(path, "evidence").unwrap_or_default(), links, "{path:?}");
    let warnings: Vec<&str> = list("warnings").map(|warning| warning.as_str().unwrap()).collect();
    assert_eq!(get(path, "warnings").unwrap_or_default(), warnings.join("\n"), "{path:?}");
}

/// The names of all attributes, without what they begin with.
fn own_names(path: &Path) -> Vec<String> {
    let own = |name: String| name.strip_prefix("user.qcowfs.").unwrap().to_owned();
    let mut own: Vec<_> = names(path).into_iter().map(own).collect();
    own.sort_unstable();
    own
}

/// Each restore point of a case; returns how many there are, and how many of them are broken.
fn must_say_what_info_json_says(case: &str) -> (usize, usize) {
    let case = Case::unpack(case);
    let mount = Mount::of(&case.backups());
    let view = View::walk(mount.point());
    for point in &view.checkpoints {
        let (folder, info) = (mount.path(&point.folder), &point.info);
        let file = if point.whole { "disk.img" } else { "error.txt" };
        must_say_what_is_said_of_the_disk(&folder.join(file), info);
        for none in [folder.join("info.json"), folder.clone()] {
            assert_eq!(names(&none), [""; 0]);
            assert_eq!(get(&none, "kind"), Err(Errno::NODATA));
        }
        for partition in info["partitions"].as_array().into_iter().flatten() {
            let Some(file) = partition["file"].as_str() else { continue };
            let path = folder.join(file);
            for name in ["number", "start", "size", "type", "type_name", "label"] {
                let value = get(&path, &format!("partition.{name}"));
                assert_eq!(value.ok(), text(&partition[name]), "{path:?} {name}");
            }
            for name in ["name", "time", "virtual_size", "state"] {
                assert_eq!(get(&path, name).ok(), text(&info[name]), "{path:?} {name}");
            }
            assert_eq!(get(&path, "content").ok(), text(&partition["content"]), "{path:?}");
            assert_eq!(get(&path, "partition_table"), Err(Errno::NODATA));
            must_say_what_lists_say(&path, info);
            assert!(own_names(&path).iter().any(|name| name == "partition.size"), "{path:?}");
        }
    }
    assert_eq!(names(mount.point()), [""; 0]);
    mount.unmount();
    (view.checkpoints.len(), view.checkpoints.iter().filter(|point| !point.whole).count())
}

#[test]
fn attributes_say_what_info_json_says() {
    let (all, broken) = must_say_what_info_json_says("qmpbackup-new");
    assert!(all > 4 && broken == 0, "{all} {broken}");
    let (all, broken) = must_say_what_info_json_says("missing-base");
    assert!(all > broken && broken > 0, "{all} {broken}");
}

#[test]
fn a_name_with_a_line_break_is_one_line() {
    let folder = scratch();
    let image = |name: &str, backing: Option<&str>| {
        let backing = backing.map(|name| (name, "qcow2"));
        Overlay { virtual_size: LARGEST, backing, data: None }.write(&folder.path().join(name));
    };
    image("a\nb\u{1b}[31m.qcow2", None);
    image("over.qcow2", Some("a\nb\u{1b}[31m.qcow2"));
    let mount = Mount::of(folder.path());
    let view = View::walk(mount.point());
    let over = view.checkpoints.iter().find(|point| point.label() == "over.qcow2").unwrap();
    let disk = mount.path(over.image());
    assert_eq!(get(&disk, "chain").unwrap(), "a\\nb\\u{1b}[31m.qcow2\nover.qcow2");
    assert_eq!(get(&disk, "evidence").unwrap().lines().count(), 1);
    mount.unmount();
}

#[test]
fn getfattr_dumps_them() {
    let case = Case::unpack("qmpbackup-new");
    let mount = Mount::of(&case.backups());
    let partition = mount.path("vm-root.qcow2/latest/p1.img");
    let dumped = Run::new("getfattr").args(["-d", "--absolute-names"]).arg(&partition).ok().text();
    for wanted in ["user.qcowfs.kind=\"incremental\"", "user.qcowfs.content=\"ext4\""] {
        assert!(dumped.contains(wanted), "{wanted}: {dumped}");
    }
    let listed = names(&partition);
    assert_eq!(dumped.matches("user.qcowfs.").count(), listed.len(), "{dumped}");
    mount.unmount();
}

/// The kernel may ask for one under a number that it was told before the disk had other partitions.
#[test]
fn a_partition_that_is_not_there_has_none() {
    let case = Case::unpack("qmpbackup-new");
    let tree = Tree::from_source(&case.backups(), &ViewOptions::default()).unwrap();
    let within = |folder, name: &str| tree.lookup(folder, OsStr::new(name)).unwrap();
    let disk = within(Ino::ROOT, "vm-root.qcow2");
    let point = tree.entries(disk).unwrap().remove(0).ino;
    let image = within(point, "disk.img");
    assert_eq!(within(point, "p2.img"), image.child(2));
    for name in ["kind", "chain"] {
        assert!(tree.xattr(image.child(2), name).is_some(), "{name}");
        assert_eq!(tree.xattr(image.child(3), name), None, "{name}");
    }
}

#[test]
fn a_buffer_that_is_too_small_and_a_name_that_is_not_there_are_told() {
    let case = Case::unpack("qmpbackup-new");
    let mount = Mount::of(&case.backups());
    let disk = mount.path("vm-root.qcow2/latest/disk.img");
    let kind = "user.qcowfs.kind";
    assert_eq!(getxattr_query(&disk, kind), Ok("incremental".len()));
    let mut room = vec![0; "incremental".len()];
    assert_eq!(getxattr(&disk, kind, &mut room[..]), Ok(room.len()));
    assert_eq!(room, b"incremental");
    assert_eq!(getxattr(&disk, kind, &mut room[1..]), Err(Errno::RANGE));
    for name in ["user.qcowfs.kin", "user.qcowfs.", "user.other", "security.selinux"] {
        assert_eq!(getxattr(&disk, name, &mut room[..]), Err(Errno::NODATA), "{name}");
    }
    mount.unmount();
}

#[test]
fn broken_restore_points_tell_why() {
    let folder = scratch();
    let path = folder.path().join("over.qcow2");
    let backing = Some(("gone.qcow2", "qcow2"));
    Overlay { virtual_size: LARGEST, backing, data: None }.write(&path);
    let shown = [
        (vec![], "error.txt", "broken", None),
        (vec!["-o", "missing=eio"], "disk.img", "incomplete", Some("error")),
        (vec!["-o", "missing=zero"], "disk.img", "incomplete", Some("zeros")),
    ];
    for (options, file, state, reads_as) in shown {
        let mount = Mount::with(folder.path(), User::Own, &options);
        let point = mount.path("over.qcow2/over.qcow2");
        let info: Value = serde_json::from_slice(&bytes(&point.join("info.json"))).unwrap();
        let file = point.join(file);
        must_say_what_is_said_of_the_disk(&file, &info);
        assert_eq!(get(&file, "state").as_deref(), Ok(state));
        assert!(get(&file, "reason").unwrap().contains("gone.qcow2"));
        assert_eq!(get(&file, "lost_bytes").unwrap(), LARGEST.to_string());
        assert_eq!(get(&file, "lost_reads_as").ok().as_deref(), reads_as);
        mount.unmount();
    }
}

#[test]
fn they_cannot_be_changed() {
    let case = Case::unpack("qmpbackup-new");
    let mount = Mount::of(&case.backups());
    let disk = mount.path("vm-root.qcow2/latest/disk.img");
    for name in ["user.qcowfs.kind", "user.other"] {
        let set = setxattr(&disk, name, b"full", XattrFlags::empty());
        assert_eq!(set, Err(Errno::ROFS), "{name}");
        assert_eq!(removexattr(&disk, name), Err(Errno::ROFS), "{name}");
    }
    assert_eq!(get(&disk, "kind").as_deref(), Ok("incremental"));
    mount.unmount();
}
