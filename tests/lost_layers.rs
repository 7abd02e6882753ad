//! A layer in the middle of a chain that cannot be used, for one reason after the other: exactly the
//! restore points behind it lose exactly what it held.

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
use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::Run;
use common::qcow2_editor::Editor;
use common::run::scratch;
use common::stream_writer::StreamWriter;
use qcowfs::tree::missing::Missing;
use qcowfs::tree::{Ino, Opened, Tree, ViewOptions};
use qcowfs::view::DiskImage;
use tempfile::TempDir;

/// Bytes of a cluster, and of one block of the pictures below.
const BLOCK: usize = 64 << 10;
const BLOCKS: usize = 8;

/// base, middle and top; each block filled with a letter of its layer, or left to the layer below.
/// `0` in the middle layer is a zero cluster.
const BASE: &str = "bbbbbbbb";
const MIDDLE: &str = ".mm0.m..";
const TOP: &str = "..t.t...";

fn qemu_img(args: &[&str], folder: &Path) {
    Run::new("qemu-img").args(args).folder(folder).ok();
}

fn fill(folder: &Path, image: &str, picture: &str) {
    for (n, letter) in picture.chars().enumerate().filter(|(_, letter)| *letter != '.') {
        let (at, len) = (n * BLOCK, BLOCK);
        let write = match letter {
            '0' => format!("write -z {at} {len}"),
            letter => format!("write -P {} {at} {len}", letter as u32),
        };
        Run::new("qemu-io").args(["-f", "qcow2", "-c", &write, image]).folder(folder).ok();
    }
}

/// The chain, and one that shares its base: its restore points must never change.
fn chain() -> TempDir {
    let folder = scratch();
    let at = folder.path();
    let size = (BLOCK * BLOCKS).to_string();
    qemu_img(&["create", "-q", "-f", "qcow2", "base.qcow2", &size], at);
    fill(at, "base.qcow2", BASE);
    for (image, below, picture) in [
        ("middle.qcow2", "base.qcow2", MIDDLE),
        ("top.qcow2", "middle.qcow2", TOP),
        ("other.qcow2", "base.qcow2", "o......."),
    ] {
        qemu_img(&["create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", image], at);
        fill(at, image, picture);
    }
    folder
}

/// The disk of the restore point of this name, at any depth of the view.
fn disk(tree: &Tree, name: &str) -> Option<Arc<DiskImage>> {
    fn find(tree: &Tree, folder: Ino, name: &OsStr) -> Option<Ino> {
        tree.lookup(folder, name)
            .filter(|ino| tree.lookup(*ino, "info.json".as_ref()).is_some())
            .or_else(|| {
                let entries = tree.entries(folder)?;
                entries.iter().find_map(|entry| find(tree, entry.ino, name))
            })
    }
    let folder = find(tree, Ino::ROOT, name.as_ref()).unwrap_or_else(|| panic!("no {name}"));
    match tree.open(tree.lookup(folder, "disk.img".as_ref())?)? {
        Opened::Image(image) => Some(image),
        Opened::Text(_) | Opened::Slice(_) => None,
    }
}

/// A disk as a picture: the letter of each block, `0` for zeros, `!` for an error.
fn picture(image: &DiskImage) -> String {
    let mut blocks = String::new();
    let mut bytes = vec![0; BLOCK];
    for n in 0..image.size().div_ceil(BLOCK as u64) {
        bytes.fill(0xee);
        let letter = match image.read_at(n * BLOCK as u64, &mut bytes) {
            Err(_) => '!',
            Ok(_) if bytes.iter().all(|byte| *byte == bytes[0]) => match bytes[0] {
                0 => '0',
                letter => letter as char,
            },
            Ok(_) => '?',
        };
        blocks.push(letter);
    }
    blocks
}

/// What a source shows of a restore point, with each answer to what is missing.
fn shown(source: &Path, name: &str) -> [Option<String>; 3] {
    [Missing::Hide, Missing::Eio, Missing::Zero].map(|missing| {
        let tree =
            Tree::from_source(source, &ViewOptions { missing, ..Default::default() }).unwrap();
        disk(&tree, name).map(|image| picture(&image))
    })
}

fn must_show(source: &Path, name: &str, wanted: [Option<&str>; 3]) {
    let seen = shown(source, name);
    assert_eq!(seen.each_ref().map(Option::as_deref), wanted, "{name}: hide, eio, zero");
}

fn nothing_else_changed(source: &Path) {
    for (name, right) in [("base.qcow2", BASE), ("other.qcow2", "obbbbbbb")] {
        must_show(source, name, [Some(right); 3]);
    }
}

#[test]
fn the_whole_chain_reads_as_drawn() {
    let chain = chain();
    nothing_else_changed(chain.path());
    must_show(chain.path(), "middle.qcow2", [Some("bmm0bmbb"); 3]);
    must_show(chain.path(), "top.qcow2", [Some("bmt0tmbb"); 3]);
}

#[test]
fn of_a_missing_layer_nothing_is_known_nor_of_what_it_stood_on() {
    let chain = chain();
    fs::remove_file(chain.path().join("middle.qcow2")).unwrap();
    nothing_else_changed(chain.path());
    must_show(chain.path(), "top.qcow2", [None, Some("!!t!t!!!"), Some("00t0t000")]);
}

#[test]
fn of_a_layer_with_an_unknown_feature_nothing_is_known() {
    let chain = chain();
    let mut middle = Editor::open(chain.path().join("middle.qcow2"));
    let features = middle.u64(72);
    middle.put(72, features | 1 << 40);
    middle.save();
    nothing_else_changed(chain.path());
    must_show(chain.path(), "middle.qcow2", [None; 3]);
    must_show(chain.path(), "top.qcow2", [None, Some("!!t!t!!!"), Some("00t0t000")]);
}

#[test]
fn of_a_layer_that_is_no_image_any_more_nothing_is_known() {
    for len in [0, 3, 100] {
        let chain = chain();
        let mut middle = Editor::open(chain.path().join("middle.qcow2"));
        middle.truncate(len);
        middle.save();
        nothing_else_changed(chain.path());
        must_show(chain.path(), "middle.qcow2", [None; 3]);
        must_show(chain.path(), "top.qcow2", [None, Some("!!t!t!!!"), Some("00t0t000")]);
    }
}

#[test]
fn of_an_encrypted_layer_the_clusters_are_lost_and_not_what_it_leaves_to_those_below() {
    let chain = chain();
    let mut middle = Editor::open(chain.path().join("middle.qcow2"));
    let word = middle.u64(32);
    middle.put(32, word | 1 << 32);
    middle.save();
    nothing_else_changed(chain.path());
    must_show(chain.path(), "middle.qcow2", [None, Some("b!!0b!bb"), Some("b000b0bb")]);
    must_show(chain.path(), "top.qcow2", [None, Some("b!t0t!bb"), Some("b0t0t0bb")]);
}

#[test]
fn without_its_data_file_a_layer_loses_its_clusters_alone() {
    let chain = chain();
    let at = chain.path();
    fs::remove_file(at.join("middle.qcow2")).unwrap();
    let create = ["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2"];
    let data = ["-o", "data_file=middle.data", "middle.qcow2"];
    qemu_img(&[&create[..], &data].concat(), at);
    fill(at, "middle.qcow2", MIDDLE);
    must_show(at, "top.qcow2", [Some("bmt0tmbb"); 3]);
    fs::remove_file(at.join("middle.data")).unwrap();
    nothing_else_changed(at);
    must_show(at, "middle.qcow2", [None, Some("b!!0b!bb"), Some("b000b0bb")]);
    must_show(at, "top.qcow2", [None, Some("b!t0t!bb"), Some("b0t0t0bb")]);
}

#[test]
fn a_layer_cut_behind_its_tables_loses_the_clusters_that_were_there() {
    let chain = chain();
    let mut middle = Editor::open(chain.path().join("middle.qcow2"));
    let l1 = middle.l1();
    let last = middle.l2(&l1).iter().filter(|entry| entry.is_data()).map(|e| e.offset()).max();
    middle.truncate(last.unwrap());
    middle.save();
    nothing_else_changed(chain.path());
    // Its headers are sound, so that it is taken for whole: what is cut off fails when it is read.
    must_show(chain.path(), "middle.qcow2", [Some("bmm0b!bb"), Some("bmm0b!bb"), Some("bmm0b0bb")]);
    must_show(chain.path(), "top.qcow2", [Some("bmt0t!bb"), Some("bmt0t!bb"), Some("bmt0t0bb")]);
}

#[test]
fn a_layer_cut_within_its_tables_is_hidden_with_all_that_stands_on_it() {
    let chain = chain();
    let mut middle = Editor::open(chain.path().join("middle.qcow2"));
    let l1 = middle.l1()[0].at;
    middle.truncate(l1 + 4);
    middle.save();
    nothing_else_changed(chain.path());
    must_show(chain.path(), "middle.qcow2", [None, Some("!!!!!!!!"), Some("00000000")]);
    must_show(chain.path(), "top.qcow2", [None, Some("!!t!t!!!"), Some("00t0t000")]);
}

#[test]
fn a_loop_of_backing_files_leaves_each_what_it_holds() {
    let chain = chain();
    let at = chain.path();
    qemu_img(
        &["rebase", "-u", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", "middle.qcow2"],
        at,
    );
    nothing_else_changed(at);
    let seen = shown(at, "top.qcow2");
    assert_eq!(seen[0], None);
    assert!(["!!t!t!!!", "!mt0tm!!"].contains(&seen[1].as_deref().unwrap()), "{seen:?}");
}

/// A full stream and two increments, of [`BLOCKS`] blocks.
fn streams() -> (TempDir, Vec<u8>) {
    let folder = scratch();
    let block = |letter: u8| vec![letter; BLOCK];
    let write = |mut writer: StreamWriter, picture: &str| {
        for (n, letter) in picture.bytes().enumerate().filter(|(_, letter)| *letter != b'.') {
            writer.data((n * BLOCK) as u64, &block(letter));
        }
        writer.finish()
    };
    let size = (BLOCK * BLOCKS) as u64;
    let middle = write(StreamWriter::increment(size, 1), ".mm..m..");
    let files = [
        ("vda.full.data", write(StreamWriter::full(size), BASE)),
        ("vda.inc.virtnbdbackup.1.data", middle.clone()),
        ("vda.inc.virtnbdbackup.2.data", write(StreamWriter::increment(size, 2), "..t.t...")),
    ];
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    (folder, middle)
}

const STREAMS: [&str; 3] = ["virtnbdbackup.0", "virtnbdbackup.1", "virtnbdbackup.2"];

#[test]
fn of_a_missing_stream_nothing_is_known() {
    let (folder, _) = streams();
    must_show(folder.path(), STREAMS[2], [Some("bmtbtmbb"); 3]);
    fs::remove_file(folder.path().join("vda.inc.virtnbdbackup.1.data")).unwrap();
    must_show(folder.path(), STREAMS[0], [Some(BASE); 3]);
    must_show(folder.path(), STREAMS[2], [None, Some("!!t!t!!!"), Some("00t0t000")]);
}

#[test]
fn of_a_stream_that_is_cut_the_frames_before_the_cut_are_known() {
    let (folder, middle) = streams();
    let path = folder.path().join("vda.inc.virtnbdbackup.1.data");
    // Within the third frame, which is that of block 5.
    fs::write(&path, &middle[..middle.len() - BLOCK / 2]).unwrap();
    must_show(folder.path(), STREAMS[0], [Some(BASE); 3]);
    must_show(folder.path(), STREAMS[1], [None, Some("bmm!!!!!"), Some("bmm00000")]);
    must_show(folder.path(), STREAMS[2], [None, Some("bmt!t!!!"), Some("bmt0t000")]);
}

/// A chain as qmpbackup names it.
fn renamed() -> TempDir {
    let chain = chain();
    let at = chain.path();
    for (from, to) in
        [("base", "FULL-1700000000"), ("middle", "INC-1700000100"), ("top", "INC-1700000200")]
    {
        let to = format!("{to}-d.qcow2");
        fs::rename(at.join(format!("{from}.qcow2")), at.join(&to)).unwrap();
        qemu_img(&["rebase", "-u", "-f", "qcow2", "-b", "", &to], at);
    }
    fs::remove_file(at.join("other.qcow2")).unwrap();
    chain
}

#[test]
fn the_length_of_a_file_that_is_no_image_tells_nothing_of_its_disk() {
    for len in [0, 3, 100_000] {
        let chain = renamed();
        must_show(chain.path(), "INC-1700000200", [Some("bmt0tmbb"); 3]);
        fs::write(chain.path().join("FULL-1700000000-d.qcow2"), vec![0; len]).unwrap();
        must_show(chain.path(), "INC-1700000100", [None, Some("!mm0!m!!"), Some("0mm00m00")]);
        must_show(chain.path(), "INC-1700000200", [None, Some("!mt0tm!!"), Some("0mt0tm00")]);
    }
    for is_empty in [true, false] {
        let (folder, _) = streams();
        let path = folder.path().join("vda.full.data");
        let mut bytes = fs::read(&path).unwrap();
        bytes[..64].fill(0);
        fs::write(&path, if is_empty { Vec::new() } else { bytes }).unwrap();
        must_show(folder.path(), STREAMS[1], [None, Some("!mm!!m!!"), Some("0mm00m00")]);
    }
}

#[test]
fn a_damaged_overlay_over_what_is_no_image_keeps_its_base_lost() {
    let folder = scratch();
    let at = folder.path();
    let size = (BLOCK * BLOCKS).to_string();
    qemu_img(&["create", "-q", "-f", "vmdk", "disk.vmdk", &size], at);
    qemu_img(
        &["create", "-q", "-u", "-f", "qcow2", "-b", "disk.vmdk", "-F", "raw", "top.qcow2", &size],
        at,
    );
    fill(at, "top.qcow2", "..t.t...");
    let mut top = Editor::open(at.join("top.qcow2"));
    // No format of the backing file any more: an extension that nobody knows.
    let format = top.u64(112);
    assert_eq!(format >> 32, 0xe279_2aca, "{format:x}");
    top.put(112, format ^ 1 << 40);
    top.save();
    must_show(at, "top.qcow2", [None, Some("!!t!t!!!"), Some("00t0t000")]);
    let crypt = top.u64(32);
    top.put(32, crypt | 1 << 32);
    top.save();
    must_show(at, "top.qcow2", [None, Some("!!!!!!!!"), Some("00000000")]);
}

/// A stream of a huge disk that says little: what a search costs must not grow with the disk.
#[test]
fn a_search_in_the_disk_of_a_small_file_ends() {
    for missing in [Missing::Hide, Missing::Eio, Missing::Zero] {
        for full in [true, false] {
            let folder = scratch();
            let size = 1 << 62;
            let (name, mut writer) = if full {
                ("vda.full.data", StreamWriter::full(size))
            } else {
                ("vda.inc.virtnbdbackup.1.data", StreamWriter::increment(size, 1))
            };
            writer.data(0, &[7; 4096]);
            fs::write(folder.path().join(name), writer.finish()).unwrap();
            let options = ViewOptions { missing, ..ViewOptions::default() };
            let tree = Tree::from_source(folder.path(), &options).unwrap();
            let name = if full { STREAMS[0] } else { STREAMS[1] };
            let Some(image) = disk(&tree, name) else { continue };
            common::watch::within(60, "searching", move || {
                assert_eq!(image.seek_data(0), Some(0));
                image.seek_data(4096);
                image.seek_hole(0);
                image.seek_data(1 << 61);
                image.seek_hole(1 << 61);
            });
        }
    }
}

#[test]
fn what_is_lost_never_counts_as_a_disk_without_data() {
    let folder = scratch();
    let size = (BLOCK * BLOCKS) as u64;
    let mut writer = StreamWriter::full(size).set("dataSize", 0.into());
    writer.data(0, &[7; 4096]);
    let whole = writer.finish();
    // Without its `stop`.
    fs::write(folder.path().join("vda.full.data"), &whole[..whole.len() - 42]).unwrap();
    let options = ViewOptions { missing: Missing::Eio, ..ViewOptions::default() };
    let tree = Tree::from_source(folder.path(), &options).unwrap();
    let image = disk(&tree, STREAMS[0]).expect("a disk");
    assert!(image.allocated().bytes > 0, "tar would not read it");
}
