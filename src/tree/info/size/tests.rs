use std::ffi::OsStr;
use std::path::Path;

use crate::tree::info::LISTED;
use crate::tree::{Ino, Opened, Tree, ViewOptions};

#[allow(dead_code, reason = "the integration tests use more of it")]
#[path = "../../../../tests/common/qcow2_writer.rs"]
mod qcow2_writer;

use qcow2_writer::{CLUSTER, LARGEST, Overlay};

fn name(layer: usize) -> String {
    // Some names need escapes in JSON.
    let mark = if layer.is_multiple_of(3) { "\"ü\\" } else { "" };
    format!("layer-{layer}{mark}.qcow2")
}

/// Chains: of `layers` overlays, one over a raw file that lies elsewhere, one whose base is gone.
fn source(folder: &Path, layers: usize) {
    let write = |path: &str, below: Option<(&str, &str)>| {
        let data = Some((1, [7; CLUSTER]));
        let mut image = Overlay { virtual_size: LARGEST, backing: below, data }.bytes();
        // The corrupt bit: a warning to all that stand on it.
        image[79] = if path == "other/over-it.qcow2" { 2 } else { 0 };
        std::fs::write(folder.join(path), image).unwrap();
    };
    for layer in 0..layers {
        let below = layer.checked_sub(1).map(name);
        write(&name(layer), below.as_deref().map(|name| (name, "qcow2")));
    }
    std::fs::create_dir(folder.join("other")).unwrap();
    std::fs::write(folder.join("base.raw"), [3; 2 * CLUSTER]).unwrap();
    write("over-raw.qcow2", Some(("base.raw", "raw")));
    // An absolute path of another machine: a link with a warning.
    write("other/over-it.qcow2", Some(("/srv/images/over-raw.qcow2", "qcow2")));
    write("other/top.qcow2", Some(("over-it.qcow2", "qcow2")));
    write("other/over-nothing.qcow2", Some(("gone.qcow2", "qcow2")));
}

/// Every `info.json` beneath a folder.
fn info_files(tree: &Tree, folder: Ino, found: &mut Vec<Ino>) {
    for entry in tree.entries(folder).unwrap_or_default() {
        if entry.name == OsStr::new("info.json") {
            found.push(entry.ino);
        }
        info_files(tree, entry.ino, found);
    }
}

fn text_of(tree: &Tree, ino: Ino) -> Vec<u8> {
    match tree.open(ino) {
        Some(Opened::Text(text)) => text.to_vec(),
        _ => panic!("not a text"),
    }
}

fn tree_of(layers: usize) -> (tempfile::TempDir, Tree, Vec<Ino>) {
    let folder = tempfile::tempdir().unwrap();
    source(folder.path(), layers);
    let tree = Tree::from_source(folder.path(), &ViewOptions::default()).unwrap();
    let mut files = Vec::new();
    info_files(&tree, Ino::ROOT, &mut files);
    assert!(files.len() >= layers + 4, "{} checkpoints", files.len());
    (folder, tree, files)
}

#[test]
fn the_size_is_that_of_the_text() {
    let (_folder, tree, files) = tree_of(20);
    for pass in 0..2 {
        for &ino in &files {
            let text = text_of(&tree, ino);
            let shown = String::from_utf8_lossy(&text);
            assert_eq!(tree.attr(ino).unwrap().size, text.len() as u64, "pass {pass}: {shown}");
        }
        // Then what is allocated is known to the byte.
        for image in tree.images.all_shown(&tree.catalog) {
            let mut buf = vec![0; usize::try_from(image.size()).unwrap()];
            image.read_at(0, &mut buf).unwrap();
        }
    }
    let all: Vec<u8> = files.iter().flat_map(|ino| text_of(&tree, *ino)).collect();
    let all = String::from_utf8_lossy(&all);
    for word in ["\"exact\"", "\"raw\"", "\"warnings\": [\n"] {
        assert!(all.contains(word), "no {word} in {all}");
    }
}

#[test]
fn asking_for_all_sizes_of_a_chain_lists_each_file_a_few_times() {
    let (_folder, tree, files) = tree_of(400);
    let before = LISTED.get();
    for _ in 0..3 {
        for &ino in &files {
            assert!(tree.attr(ino).unwrap().size > 0);
        }
    }
    let listed = LISTED.get() - before;
    assert!(listed <= 6 * files.len(), "{listed} files listed for {} sizes", 3 * files.len());
}

/// Each disk, and each `error.txt`, beneath a folder.
fn told(tree: &Tree, folder: Ino, found: &mut Vec<Ino>) {
    for entry in tree.entries(folder).unwrap_or_default() {
        if entry.name == OsStr::new("disk.img") || entry.name == OsStr::new("error.txt") {
            found.push(entry.ino);
        }
        told(tree, entry.ino, found);
    }
}

#[test]
fn names_of_attributes_are_those_that_have_a_value_and_are_told_without_the_chain() {
    let (_folder, tree, files) = tree_of(400);
    let mut disks = Vec::new();
    told(&tree, Ino::ROOT, &mut disks);
    assert_eq!(disks.len(), files.len());
    let before = LISTED.get();
    let names: Vec<_> = disks.iter().map(|ino| tree.xattr_names(*ino)).collect();
    let listed = LISTED.get() - before;
    assert!(listed <= 3 * disks.len(), "{listed} files listed for {} disks", disks.len());
    for (ino, names) in disks.iter().zip(&names) {
        for name in ["name", "reason", "parent", "known_bytes"] {
            assert_eq!(tree.xattr(*ino, name).is_some(), names.contains(&name), "{name}");
        }
        for list in ["chain", "evidence", "warnings"] {
            assert!(!names.contains(&list), "{list} is copied by whoever copies what is listed");
        }
    }
    let with = |name| names.iter().filter(|names| names.contains(&name)).count();
    assert_eq!([with("reason"), with("known_bytes")], [3, 3], "three are broken");
    let known = |name| disks.iter().filter(|ino| tree.xattr(**ino, name).is_some()).count();
    assert_eq!(known("chain"), disks.len());
    assert!(known("warnings") > 1 && known("warnings") < 10, "{}", known("warnings"));
    assert!(known("evidence") > 399 && known("evidence") < disks.len());
}
