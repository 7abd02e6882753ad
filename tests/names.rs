//! Hostile sources: names that no folder can bear, and things that must never be opened.

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
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use common::content::range;
use common::prng::Prng;
use common::qcow2_writer::{CLUSTER, LARGEST, Overlay};
use common::run::{is_root, scratch};
use common::watch::{Watched, within};
use common::{Mount, Run, View};

/// Names as bytes: each becomes an image.
fn hostile_names() -> Vec<Vec<u8>> {
    let plain: [&[u8]; 17] = [
        b"new\nline.qcow2",
        b"\xff\xfe not utf-8.qcow2",
        b"\xff\xfd not utf-8.qcow2",
        b"%",
        b"100%25.qcow2",
        b"100%.qcow2",
        b"latest",
        b"by-time",
        b"disk.img",
        b"info.json",
        b"error.txt",
        b"...",
        b"-rf",
        b" spaces at the ends ",
        b"tab\tand \x1b[31mred\x07.qcow2",
        b"new%0aline.qcow2",
        "\u{202e}gnp.qcow2".as_bytes(),
    ];
    let mut names: Vec<_> = plain.iter().map(|n| n.to_vec()).collect();
    names.push(vec![b'a'; 255]);
    names.push([vec![b'a'; 254], vec![b'b']].concat());
    // Every byte of these has to be escaped, if any: what comes out must still be short enough.
    names.push(vec![0xfe; 255]);
    names.push([vec![0xfe; 254], vec![0xfd]].concat());
    names
}

/// An image with a content of its own.
fn image(number: u64, path: &Path) -> Vec<u8> {
    let content: [u8; CLUSTER] = Prng::new(number).bytes(CLUSTER).try_into().expect("a cluster");
    Overlay { virtual_size: LARGEST, backing: None, data: Some((0, content)) }.write(path);
    content.to_vec()
}

/// The first cluster of every disk.img, and where it is. Panics where a name is not fit to be
/// shown.
fn seen(mount: &Mount) -> BTreeMap<Vec<u8>, PathBuf> {
    let view = View::walk(mount.point());
    let links = view.links.keys();
    for path in view.checkpoints.iter().map(|c| &c.folder).chain(&view.others).chain(links) {
        for name in path {
            let name = name.as_bytes();
            assert!(name.len() <= 255 && !name.is_empty(), "{path:?}: a name of {}", name.len());
            assert!(!name.iter().any(u8::is_ascii_control), "{path:?}: control characters");
        }
    }
    let mut found = BTreeMap::new();
    for checkpoint in view.checkpoints.iter().filter(|c| c.whole) {
        let content = range(&mount.path(checkpoint.image()), 0, CLUSTER);
        let before = found.insert(content, checkpoint.folder.clone());
        assert_eq!(before, None, "{:?}: the same image twice", checkpoint.folder);
    }
    found
}

#[test]
fn images_of_any_name_are_visible_under_names_that_stay() {
    let source = scratch();
    // The folder's own name is hostile too.
    let folder = source.path().join(OsStr::from_bytes(b"vm\n\xff%"));
    std::fs::create_dir(&folder).expect("a folder");
    let mut wanted = Vec::new();
    for (number, name) in hostile_names().iter().enumerate() {
        let name = OsStr::from_bytes(name);
        wanted.push(image(number as u64, &source.path().join(name)));
        wanted.push(image(1000 + number as u64, &folder.join(name)));
    }
    let mount = Mount::of(source.path());
    let first = seen(&mount);
    for content in &wanted {
        assert!(first.contains_key(content), "an image is not in the view: {:#?}", first.values());
    }
    assert_eq!(first.len(), wanted.len(), "more than there is: {:#?}", first.values());
    mount.unmount();

    let mount = Mount::of(source.path());
    assert_eq!(seen(&mount), first, "names changed from one mount to the next");
    mount.unmount();
}

#[test]
fn ls_writes_no_control_characters_to_a_terminal() {
    let source = scratch();
    for (number, name) in hostile_names().iter().enumerate() {
        image(number as u64, &source.path().join(OsStr::from_bytes(name)));
    }
    let text = Run::qcowfs().arg("ls").arg(source.path()).ok();
    let control = |b: &u8| b.is_ascii_control() && *b != b'\n';
    assert!(!text.stdout.iter().any(control), "{:?}", text.text());
    // And the machine's form is JSON whatever the names are.
    View::listed(source.path());
}

#[test]
fn disks_whose_folders_collide_are_kept_apart() {
    let source = scratch();
    // A folder that is a disk's, images in it that are other disks, and beside it backups of a
    // disk of that name.
    let mut wanted = Vec::new();
    let disk = source.path().join("disk.qcow2");
    std::fs::create_dir(&disk).expect("a folder");
    wanted.push(image(1, &disk.join("FULL-1700000000-disk.qcow2")));
    wanted.push(image(2, &disk.join("disk.qcow2")));
    wanted.push(image(3, &disk.join("FULL-1700000000")));
    wanted.push(image(4, &disk.join("other.qcow2")));
    wanted.push(image(5, &source.path().join("disk.qcow2.1700000000")));
    wanted.push(image(6, &source.path().join("FULL-1700000000-disk.qcow2")));
    let mount = Mount::of(source.path());
    let found = seen(&mount);
    for (number, content) in wanted.iter().enumerate() {
        assert!(
            found.contains_key(content),
            "image {} is hidden: {:#?}",
            number + 1,
            found.values()
        );
    }
    mount.unmount();
    let mount = Mount::of(source.path());
    assert_eq!(seen(&mount), found, "names changed from one mount to the next");
    mount.unmount();
}

#[test]
fn the_watch_itself_notices() {
    let folder = scratch();
    let path = folder.path().join("x");
    std::fs::write(&path, "x").expect("a file");
    let watched = Watched::new(std::slice::from_ref(&path));
    let _ = path.metadata();
    assert!(!watched.was_touched());
    let _ = std::fs::read(&path);
    assert!(watched.was_touched());
}

#[test]
fn links_pipes_devices_and_sockets_are_never_opened() {
    let (source, outside) = (scratch(), scratch());
    let root = source.path();
    let secret = outside.path().join("secret.qcow2");
    image(9, &secret);
    let real = image(1, &root.join("real.qcow2"));
    symlink(&secret, root.join("link.qcow2")).expect("a link");
    symlink(&secret, root.join("FULL-1700000000-real.qcow2")).expect("a link");
    symlink("/etc/passwd", root.join("passwd")).expect("a link");
    symlink("missing", root.join("dangling")).expect("a link");
    symlink(outside.path(), root.join("folder")).expect("a link");
    symlink(".", root.join("loop")).expect("a link");
    let pipe = root.join("FULL-1700000001-pipe.qcow2");
    Run::new("mkfifo").arg(&pipe).ok();
    let mut never = vec![secret, pipe];
    let _socket = UnixListener::bind(root.join("socket.qcow2")).expect("a socket");
    if is_root() {
        for (name, kind) in [("zero.raw", ["c", "1", "5"]), ("loop.raw", ["b", "7", "250"])] {
            Run::new("mknod").arg(root.join(name)).args(kind).ok();
            never.push(root.join(name));
        }
    }
    let watched = Watched::new(&never);
    View::listed(root);
    let mount = Mount::of(root);
    let found = seen(&mount);
    assert!(found.contains_key(&real), "the one real image is not in the view");
    assert_eq!(found.len(), 1, "more than the one real image: {:#?}", found.values());
    mount.unmount();
    assert!(!watched.was_touched(), "something was opened that must not be");
}

#[test]
fn files_outside_of_the_source_are_never_opened_because_a_header_names_them() {
    let folder = scratch();
    let root = folder.path().join("source");
    std::fs::create_dir(&root).expect("a folder");
    let outside = folder.path().join("outside.raw");
    std::fs::write(&outside, vec![7; usize::try_from(LARGEST).expect("a size")]).expect("a file");
    let absolute = outside.to_str().expect("a plain path");
    let named = [
        absolute.to_owned(),
        String::from("../outside.raw"),
        format!("file:{absolute}"),
        format!("json:{{\"driver\":\"file\",\"filename\":\"{absolute}\"}}"),
        String::from("nbd://127.0.0.1:1/x"),
        String::from("/etc/passwd"),
    ];
    for (number, name) in named.iter().enumerate() {
        // Long names have no room in a header cluster of 512 bytes.
        assert!(name.len() < 300, "{name}");
        let backing = Some((name.as_str(), "raw"));
        let overlay = Overlay { virtual_size: LARGEST, backing, data: None };
        overlay.write(&root.join(format!("overlay{number}.qcow2")));
    }
    let watched = Watched::new(&[outside]);
    let mount = Mount::of(&root);
    let point = mount.point().to_path_buf();
    let view = within(60, "walking the view", move || View::walk(&point));
    assert_eq!(view.checkpoints.len(), named.len(), "{:?}", view.folders());
    for seen in &view.checkpoints {
        assert!(!seen.whole, "{:?} shows a file from outside", seen.folder);
    }
    mount.unmount();
    assert!(!watched.was_touched(), "a file outside of the source was opened");
}
