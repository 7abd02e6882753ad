//! A chain of 4096 layers: it opens, also with few file descriptors, and its top is right.

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

use std::path::Path;

use qcowfs::tree::{Ino, Opened, Tree, ViewOptions};

use common::content::{bytes, data_ranges, must_equal};
use common::prng::Prng;
use common::qcow2_writer::{CLUSTER, LARGEST, Overlay};
use common::run::scratch;
use common::watch::within;
use common::{Mount, Run, User, View};

const LAYERS: usize = 4096;

/// The cluster that a layer writes: each one another, in no simple order.
fn cluster_of(layer: usize) -> usize {
    (layer * 1237 + 5) % 4096
}

fn content_of(layer: usize) -> [u8; CLUSTER] {
    let bytes = Prng::new(layer as u64).bytes(CLUSTER);
    bytes.try_into().expect("a cluster")
}

fn name_of(layer: usize) -> String {
    format!("layer-{layer:04}.qcow2")
}

/// Writes the chain: every layer holds one cluster, the first one stands on nothing.
fn build(folder: &Path) {
    for layer in 0..LAYERS {
        let below = layer.checked_sub(1).map(name_of);
        let backing = below.as_deref().map(|name| (name, "qcow2"));
        let data = Some((cluster_of(layer) as u64, content_of(layer)));
        let overlay = Overlay { virtual_size: LARGEST, backing, data };
        overlay.write(&folder.join(name_of(layer)));
    }
}

/// The disk as it is from a layer's point of view.
fn wanted(top: usize) -> Vec<u8> {
    let mut disk = vec![0; usize::try_from(LARGEST).expect("a size")];
    for layer in 0..=top {
        let at = cluster_of(layer) * CLUSTER;
        disk[at..at + CLUSTER].copy_from_slice(&content_of(layer));
    }
    disk
}

/// Compares the top, the bottom and some layers between.
fn check(mount: &Mount, source: &Path) {
    let listed = View::listed(source);
    assert_eq!(listed.checkpoints.len(), LAYERS, "checkpoints");
    let names: Vec<_> = listed.checkpoints.iter().map(|c| c.file().to_path_buf()).collect();
    assert!(names.is_sorted(), "the order of ls is not that of the chain");
    for layer in [LAYERS - 1, 0, 1, 255, LAYERS / 2, LAYERS - 2] {
        let seen = listed.of_file(name_of(layer));
        assert!(seen.whole, "layer {layer}: {:?}", seen.error);
        let image = mount.path(seen.image());
        let content = bytes(&image);
        must_equal(&format!("layer {layer}"), &content, &wanted(layer));
        common::content::holes_must_be_zero("holes", &content, &data_ranges(&image));
    }
}

#[test]
fn four_thousand_layers_open_and_read_right() {
    let source = scratch();
    build(source.path());
    let mount = Mount::of(source.path());
    let listed = Run::new("ls").arg("-lR").arg(mount.point()).seconds(60).ok().text();
    assert_eq!(listed.matches(" disk.img\n").count(), LAYERS);
    check(&mount, source.path());
    mount.unmount();
}

#[test]
fn four_thousand_layers_need_no_more_than_256_descriptors() {
    let source = scratch();
    build(source.path());
    let mount = Mount::prepare(User::Own);
    let script = "ulimit -n 256 && exec \"$0\" mount \"$1\" \"$2\"";
    let run = Run::new("sh").args(["-c", script]).arg(env!("CARGO_BIN_EXE_qcowfs"));
    run.arg(source.path()).arg(mount.point()).ok();
    mount.must_be_up();
    check(&mount, source.path());
    mount.unmount();
}

/// The longest chain that is shown, in layers, and one more. Each layer is an empty overlay, but for
/// the lowest and the two highest.
#[test]
fn a_chain_of_65536_layers_is_shown_and_one_of_65537_is_refused() {
    const LONGEST: usize = 65_536;
    let source = scratch();
    let name = |layer: usize| format!("{layer:05}.qcow2");
    for layer in 0..=LONGEST {
        let below = layer.checked_sub(1).map(name);
        let backing = below.as_deref().map(|name| (name, "qcow2"));
        let holds = layer == 0 || layer + 2 > LONGEST;
        let data = holds.then(|| (layer as u64 % 64, content_of(layer)));
        Overlay { virtual_size: 32_768, backing, data }.write(&source.path().join(name(layer)));
    }
    let folder = source.path().to_path_buf();
    within(300, "looking at 65537 layers", move || {
        let tree = Tree::from_source(&folder, &ViewOptions::default()).expect("a view");
        let seen = |layer: usize, file: &str| {
            let disk = tree.lookup(Ino::ROOT, name(0).as_ref()).expect("one disk");
            let checkpoint = tree.lookup(disk, name(layer).as_ref()).expect("its checkpoint");
            tree.lookup(checkpoint, file.as_ref()).and_then(|ino| tree.open(ino))
        };
        let Some(Opened::Image(image)) = seen(LONGEST - 1, "disk.img") else {
            panic!("the longest chain is not shown")
        };
        let mut disk = vec![1; 32_768];
        assert_eq!(image.read_at(0, &mut disk).expect("a read"), disk.len());
        let mut wanted = vec![0; disk.len()];
        for layer in [0, LONGEST - 1] {
            let at = layer % 64 * CLUSTER;
            wanted[at..at + CLUSTER].copy_from_slice(&content_of(layer));
        }
        must_equal("the longest chain", &disk, &wanted);
        assert!(seen(LONGEST, "disk.img").is_none(), "a longer chain is shown");
        let Some(Opened::Text(error)) = seen(LONGEST, "error.txt") else { panic!("no reason") };
        let error = String::from_utf8(error.to_vec()).expect("UTF-8");
        assert!(error.contains("its chain is longer than 65536 images"), "{error}");
    });
}

#[test]
fn five_thousand_files_need_no_more_than_256_descriptors() {
    const FILES: usize = 5000;
    let source = scratch();
    for n in 0..FILES {
        let data = Some((0, content_of(n)));
        let image = Overlay { virtual_size: LARGEST, backing: None, data };
        image.write(&source.path().join(name_of(n)));
    }
    let mount = Mount::prepare(User::Own);
    let script = "ulimit -n 256 && exec \"$0\" mount \"$1\" \"$2\"";
    let run = Run::new("sh").args(["-c", script]).arg(env!("CARGO_BIN_EXE_qcowfs"));
    run.arg(source.path()).arg(mount.point()).ok();
    let listed = Run::new("ls").arg("-lR").arg(mount.point()).seconds(120).ok().text();
    assert_eq!(listed.matches(" disk.img\n").count(), FILES);
    // More than there are descriptors, so that files are closed and opened again.
    for n in (0..FILES).step_by(7).chain([0, 1]) {
        let image = mount.path(name_of(n)).join(name_of(n)).join("disk.img");
        must_equal(&name_of(n), &common::content::range(&image, 0, CLUSTER), &content_of(n));
    }
    mount.unmount();
}

#[test]
fn a_chain_that_is_a_loop_is_refused_and_hangs_nobody() {
    let source = scratch();
    for (name, below) in [("a.qcow2", "b.qcow2"), ("b.qcow2", "a.qcow2"), ("c.qcow2", "c.qcow2")] {
        let backing = Some((below, "qcow2"));
        let overlay = Overlay { virtual_size: LARGEST, backing, data: Some((0, [7; CLUSTER])) };
        overlay.write(&source.path().join(name));
    }
    let mount = Mount::of(source.path());
    let view = View::walk(mount.point());
    assert_eq!(view.checkpoints.len(), 3, "{:?}", view.folders());
    for seen in &view.checkpoints {
        assert!(!seen.whole, "{:?} is whole, but its chain is a loop", seen.folder);
    }
    mount.unmount();
}
