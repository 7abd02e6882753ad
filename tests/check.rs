//! `qcowfs check`: nothing is wrong with sound backups, and whatever is damaged is named with its
//! byte and exactly those restore points that it spoils.

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

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use common::qcow2_editor::{Editor, Entry};
use common::report::root_or_skip;
use common::run::{copy_of_qcowfs, scratch};
use common::source_state::SourceState;
use common::{Case, Run, User, View};

/// What `qcowfs check --json` says.
struct Checked(Value);

/// One file of it.
struct File<'a>(&'a Value);

impl Checked {
    /// Checks a source. The exit code must be that of the summary, and nothing may be said on the
    /// standard error.
    fn of(source: &Path) -> Self {
        let run = Run::qcowfs().arg("check").arg("--json").arg(source).outcome();
        assert_eq!(run.stderr, "");
        let json: Value = serde_json::from_slice(&run.stdout).expect("JSON");
        let damaged = json["summary"]["damaged"].as_u64().expect("a count");
        assert_eq!(run.code, Some(i32::from(damaged > 0)), "{json:#}");
        let states = |state: &str| {
            let files = json["files"].as_array().expect("files");
            files.iter().filter(|file| file["state"] == state).count() as u64
        };
        assert_eq!(damaged, states("damaged"));
        assert_eq!(json["summary"]["warnings"].as_u64(), Some(states("warning")));
        Self(json)
    }

    fn files(&self) -> impl Iterator<Item = File<'_>> {
        self.0["files"].as_array().expect("files").iter().map(File)
    }

    fn file(&self, path: &str) -> File<'_> {
        let mut found = self.files().filter(|file| file.0["path"] == path);
        let file = found.next().unwrap_or_else(|| panic!("no {path}: {:#}", self.0));
        assert!(found.next().is_none(), "{path} twice");
        file
    }

    fn in_state(&self, state: &str) -> BTreeSet<&str> {
        self.files().filter(|f| f.state() == state).map(|f| f.text("path")).collect()
    }

    fn spoiled(&self) -> BTreeSet<&str> {
        texts(&self.0["checkpoints_spoiled"])
    }

    /// Exactly this file is damaged, and spoils exactly these restore points.
    fn only(&self, path: &str, spoils: &BTreeSet<String>) -> File<'_> {
        assert_eq!(self.in_state("damaged"), BTreeSet::from([path]), "{:#}", self.0);
        let spoils: BTreeSet<&str> = spoils.iter().map(String::as_str).collect();
        let file = self.file(path);
        assert_eq!(texts(&file.0["spoils"]), spoils, "{:#}", self.0);
        assert_eq!(self.spoiled(), spoils);
        assert_eq!(self.0["summary"]["spoiled"].as_u64(), Some(spoils.len() as u64));
        file
    }

    fn nothing_damaged(&self) {
        assert!(self.in_state("damaged").is_empty(), "{:#}", self.0);
        assert!(self.spoiled().is_empty());
        assert_eq!(self.0["summary"]["spoiled"], 0);
    }
}

impl<'a> File<'a> {
    fn text(&self, key: &str) -> &'a str {
        self.0[key].as_str().unwrap_or_else(|| panic!("no {key}: {:#}", self.0))
    }

    fn state(&self) -> &'a str {
        self.text("state")
    }

    /// One of its problems is at this byte, and says this.
    fn says(&self, severity: &str, offset: Option<u64>, what: &str) -> &Self {
        let problems = self.0["problems"].as_array().expect("problems");
        let found = problems.iter().any(|problem| {
            problem["severity"] == severity
                && problem["offset"].as_u64() == offset
                && problem["what"].as_str().expect("words").contains(what)
        });
        assert!(found, "no {severity} at {offset:?} that says {what:?}: {:#}", self.0);
        self
    }
}

fn texts(list: &Value) -> BTreeSet<&str> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("text")).collect()
}

/// The restore points of a file with all that stand on them, by what `qcowfs ls` says of parents.
fn stands_on(source: &Path, file: &str) -> BTreeSet<String> {
    let view = View::listed(source);
    let mut reached = BTreeSet::new();
    for checkpoint in view.checkpoints.iter().filter(|c| c.file() == Path::new(file)) {
        reached.insert(checkpoint.folder.clone());
    }
    assert!(!reached.is_empty(), "{file} is no restore point");
    loop {
        let before = reached.len();
        for checkpoint in &view.checkpoints {
            let Some(parent) = checkpoint.text("parent") else { continue };
            let parent = match parent.strip_prefix('/') {
                Some(path) => path.into(),
                None => checkpoint.disk().join(parent),
            };
            if reached.contains(&parent) {
                reached.insert(checkpoint.folder.clone());
            }
        }
        if reached.len() == before {
            let names = reached.into_iter().map(|path| path.to_str().expect("UTF-8").to_owned());
            return names.collect();
        }
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn sound(name: &str, warnings: &[&str]) {
    let case = Case::unpack(name);
    let before = SourceState::of(&case.backups());
    let checked = Checked::of(&case.backups());
    checked.nothing_damaged();
    assert_eq!(checked.in_state("warning"), warnings.iter().copied().collect(), "{:#}", checked.0);
    for checkpoint in case.truth().checkpoints() {
        checked.file(checkpoint.file.to_str().expect("UTF-8"));
    }
    before.must_still_hold(&case.backups());
}

#[test]
fn sound_overlays_are_sound() {
    sound("backing-chain", &[]);
    sound("libvirt-extsnap", &[]);
}

#[test]
fn sound_push_backups_are_sound() {
    sound("libvirt-push", &[]);
}

#[test]
fn sound_qmpbackups_are_sound() {
    sound("qmpbackup-new", &[]);
    sound("qmpbackup-old", &[]);
    sound("qmpbackup-monthly", &[]);
    sound("qmpbackup-raw", &[]);
}

#[test]
fn sound_streams_are_sound() {
    sound("virtnbdbackup-stream", &[]);
    sound("virtnbdbackup-stream-upstream", &[]);
    sound("virtnbdbackup-lz4", &[]);
}

#[test]
fn an_image_of_every_feature_is_sound_and_what_cannot_be_verified_is_a_warning() {
    let odd = ["aes-legacy.qcow2", "corrupt-bit.qcow2", "lazy-refcounts-dirty.qcow2", "luks.qcow2"];
    sound("features", &odd);
}

#[test]
fn an_unfinished_backup_is_a_warning_and_no_restore_point() {
    let case = Case::unpack("qmpbackup-partial");
    let checked = Checked::of(&case.backups());
    checked.nothing_damaged();
    let partial = "vm-root.qcow2/INC-1795161320-vm-root.qcow2.partial";
    assert_eq!(checked.in_state("warning"), BTreeSet::from([partial]));
    assert_eq!(checked.0["summary"]["checkpoints"], 2);
}

#[test]
fn a_chain_that_is_not_whole_is_damage_with_the_reason() {
    let case = Case::unpack("missing-base");
    let checked = Checked::of(&case.backups());
    for (file, missing) in [
        ("mid/m3.qcow2", "m2.qcow2 is missing"),
        ("overlay-extl2.qcow2", "gone-base.qcow2 is missing"),
        ("overlay-on-qcow2.qcow2", "gone-base.qcow2 is missing"),
        ("overlay-on-raw.qcow2", "gone-base.raw is missing"),
    ] {
        checked.file(file).says("damage", None, missing);
        let spoils: BTreeSet<String> =
            texts(&checked.file(file).0["spoils"]).into_iter().map(str::to_owned).collect();
        assert_eq!(spoils, stands_on(&case.backups(), file));
    }
    assert_eq!(checked.0["summary"]["damaged"], 4);
    assert_eq!(checked.0["summary"]["spoiled"], 5);
    // It stands on one that is damaged, and is sound by itself.
    assert_eq!(checked.file("overlay-second.qcow2").state(), "ok");
}

#[test]
fn a_lost_increment_spoils_what_comes_after_it() {
    let case = Case::unpack("libvirt-extsnap");
    let after = "vm-root.monday";
    let spoiled = stands_on(&case.backups(), after);
    fs::remove_file(case.backups().join("vm-root.before-upgrade")).unwrap();
    // Without it, the overlay is on a disk of its own.
    assert_eq!(spoiled, names(&["vm-root.qcow2/vm-root.monday"]));
    Checked::of(&case.backups()).only(after, &names(&["vm-root.monday/vm-root.monday"])).says(
        "damage",
        None,
        "vm-root.before-upgrade is missing",
    );
}

/// The files of one disk of qmpbackup-new: full, and three increments.
const CHAIN: [&str; 4] = [
    "vm-root.qcow2/FULL-1795161271-vm-root.qcow2",
    "vm-root.qcow2/INC-1795161274-vm-root.qcow2",
    "vm-root.qcow2/INC-1795161277-vm-root.qcow2",
    "vm-root.qcow2/INC-1795161280-vm-root.qcow2",
];

#[test]
fn a_damaged_file_spoils_itself_and_what_stands_on_it() {
    for (n, file) in CHAIN.into_iter().enumerate() {
        let case = Case::unpack("qmpbackup-new");
        let mut image = Editor::open(case.backups().join(file));
        let entry = image.first_data();
        image.put(entry.at, image.len().next_multiple_of(image.cluster()) | 1 << 63);
        image.save();
        let spoiled = stands_on(&case.backups(), file);
        assert_eq!(spoiled.len(), CHAIN.len() - n);
        Checked::of(&case.backups()).only(file, &spoiled).says(
            "damage",
            Some(entry.at),
            "past the end of the file",
        );
    }
}

#[test]
fn damage_of_a_base_reaches_every_branch_and_damage_of_a_branch_no_other() {
    for (file, count) in [("layer2.qcow2", 6), ("branch2b.qcow2", 2), ("layer4.qcow2", 2)] {
        let case = Case::unpack("backing-chain");
        let mut image = Editor::open(case.backups().join(file));
        // The L1 entry is flipped to an odd sector.
        let entry = image.l1()[0];
        image.put(entry.at, entry.value ^ 512);
        image.save();
        let spoiled = stands_on(&case.backups(), file);
        assert_eq!(spoiled.len(), count);
        Checked::of(&case.backups()).only(file, &spoiled).says(
            "damage",
            Some(entry.at),
            "misaligned",
        );
    }
}

#[test]
fn a_flipped_offset_is_found_whatever_bit_it_was() {
    let case = Case::unpack("qmpbackup-new");
    let file = CHAIN[1];
    let path = case.backups().join(file);
    let sound = Editor::open(&path);
    let entry = sound.first_data();
    let data = sound.l2(&sound.l1()).into_iter().filter(|e| e.is_data()).map(Entry::offset);
    let data: BTreeSet<u64> = data.collect();
    let mut metadata = BTreeSet::from([0, sound.u64(40)]);
    metadata.extend(sound.l1().into_iter().map(Entry::offset));
    let spoiled = stands_on(&case.backups(), file);
    for bit in 9..56 {
        let flipped = entry.offset() ^ 1 << bit;
        let mut image = Editor::open(&path);
        image.put(entry.at, entry.value ^ 1 << bit);
        image.save();
        let checked = Checked::of(&case.backups());
        let damage = |what| {
            checked.only(file, &spoiled).says("damage", Some(entry.at), what);
        };
        if !flipped.is_multiple_of(sound.cluster()) {
            damage("no multiple of the cluster size");
        } else if flipped >= sound.len() {
            damage("past the end of the file");
        } else if metadata.contains(&flipped) {
            damage("the header's, or one of a table");
        } else {
            // On a cluster of another part of the disk; or on one that nobody has, which nobody can
            // tell from the right one.
            checked.nothing_damaged();
            let wanted = if data.contains(&flipped) { "warning" } else { "ok" };
            assert_eq!(checked.file(file).state(), wanted, "{flipped}");
        }
    }
    sound.save();
    Checked::of(&case.backups()).nothing_damaged();
}

#[test]
fn a_flipped_byte_of_a_compressed_cluster_is_found_at_the_cluster() {
    let case = Case::unpack("qmpbackup-monthly");
    let file = "2026-11/vm-root.qcow2/FULL-1793584800-vm-root.qcow2";
    let mut image = Editor::open(case.backups().join(file));
    let entry = image.first_packed();
    let at = entry.packed_offset(image.cluster_bits());
    // The kind of the first block becomes one that there is not.
    let kind = image.bytes[usize::try_from(at).unwrap()] & 6;
    image.flip(at, 6 ^ kind);
    image.save();
    let spoiled = stands_on(&case.backups(), file);
    assert_eq!(spoiled.len(), 3);
    Checked::of(&case.backups())
        .only(file, &spoiled)
        .says("damage", Some(at), "the compressed cluster for byte")
        .says("damage", Some(at), "not a deflate stream");
}

#[test]
fn a_flipped_byte_of_a_zstd_cluster_is_found_at_the_cluster() {
    let case = Case::unpack("features");
    let file = "compressed-zstd.qcow2";
    let mut image = Editor::open(case.backups().join(file));
    let at = image.first_packed().packed_offset(image.cluster_bits());
    image.flip(at, 1);
    image.save();
    Checked::of(&case.backups()).only(file, &stands_on(&case.backups(), file)).says(
        "damage",
        Some(at),
        "not a zstd frame",
    );
}

#[test]
fn a_truncated_file_is_found_wherever_it_ends() {
    let file = CHAIN[2];
    let case = Case::unpack("qmpbackup-new");
    let path = case.backups().join(file);
    let image = Editor::open(&path);
    let spoiled = stands_on(&case.backups(), file);
    let last = image.l2(&image.l1()).into_iter().filter(|entry| entry.is_data());
    let last = last.max_by_key(|entry| entry.offset()).expect("data");
    let end = last.offset() + image.cluster();
    assert_eq!(image.len(), end, "the last cluster is one of data");
    let table = image.l1()[0];
    for (len, at, what) in [
        // To nothing but the header: the rest of it may be a valid empty image.
        (512, 40, "past the end of the file"),
        (image.u64(40), 40, "past the end of the file"),
        (image.u64(40) + 8, table.at, "lies past the end"),
        (table.offset(), table.at, "lies past the end"),
        (table.offset() + 4096, table.offset() + 4096, "the file ends within the L2 table"),
        (last.offset(), last.at, "lies past the end of the file"),
        (end - 4096, last.at, "lacks 4096 bytes"),
        (end - 1, last.at, "lacks 1 bytes"),
    ] {
        let mut cut = Editor::open(&path);
        cut.truncate(len);
        cut.save();
        Checked::of(&case.backups()).only(file, &spoiled).says("damage", Some(at), what);
        image.save();
    }
    Checked::of(&case.backups()).nothing_damaged();
}

#[test]
fn a_damaged_header_is_found_at_its_field() {
    let file = CHAIN[1];
    let case = Case::unpack("qmpbackup-new");
    let path = case.backups().join(file);
    let image = Editor::open(&path);
    let spoiled = stands_on(&case.backups(), file);
    for (at, bits, field, what) in [
        (0, 1, 0, "its name is that of a qcow2 image, but it does not begin as one"),
        (7, 64, 4, "qcow2 version 67"),
        (23, 128, 20, "clusters of 2^144 bytes"),
        (42, 128, 40, "the L1 table of the disk is at 140737488551936, past"),
        (76, 1, 72, "unknown incompatible feature"),
    ] {
        let mut flipped = Editor::open(&path);
        flipped.flip(at, bits);
        fs::write(&path, &flipped.bytes).unwrap();
        let checked = Checked::of(&case.backups());
        assert_eq!(checked.in_state("damaged"), BTreeSet::from([file]), "byte {at}");
        checked.file(file).says("damage", Some(field), what);
        assert_eq!(checked.spoiled(), spoiled.iter().map(String::as_str).collect(), "byte {at}");
        image.save();
    }
    // And what is not even a header any more.
    fs::write(&path, &image.bytes[..50]).unwrap();
    Checked::of(&case.backups()).only(file, &spoiled).says("damage", Some(50), "within its header");
    // An empty file keeps its place in the chain.
    fs::write(&path, b"").unwrap();
    let checked = Checked::of(&case.backups());
    assert_eq!(checked.in_state("damaged"), BTreeSet::from([file]));
    checked.file(file).says("damage", Some(0), "does not begin");
}

#[test]
fn a_qcow2_image_without_its_magic_is_named_though_ls_shows_nothing_of_it() {
    let case = Case::unpack("features");
    let file = "cluster-64k.qcow2";
    let mut image = Editor::open(case.backups().join(file));
    image.flip(3, 0xff);
    image.save();
    let checked = Checked::of(&case.backups());
    assert_eq!(checked.in_state("damaged"), BTreeSet::from([file]));
    checked.file(file).says("damage", Some(0), "does not begin as one");
}

#[test]
fn damage_of_a_snapshot_spoils_that_snapshot_alone() {
    let case = Case::unpack("features");
    let file = "snapshots.qcow2";
    let view = View::listed(&case.backups());
    let snapshots: Vec<_> = view
        .checkpoints
        .iter()
        .filter(|c| c.file() == Path::new(file) && c.kind() == "snapshot")
        .collect();
    assert!(snapshots.len() >= 2);
    let second = snapshots.iter().find(|c| c.info["snapshot"] == 1).expect("a second snapshot");
    let mut image = Editor::open(case.backups().join(file));
    let entry = image.snapshot_l1(1)[0];
    image.put(entry.at, entry.value | 512);
    image.save();
    Checked::of(&case.backups()).only(file, &names(&[second.folder.to_str().unwrap()])).says(
        "damage",
        Some(entry.at),
        "of snapshot 2",
    );
}

#[test]
fn a_cluster_that_two_parts_of_a_disk_have_is_a_warning() {
    let case = Case::unpack("qmpbackup-new");
    let mut image = Editor::open(case.backups().join(CHAIN[1]));
    let data: Vec<_> = image.l2(&image.l1()).into_iter().filter(|e| e.is_data()).collect();
    image.put(data[1].at, data[0].value);
    image.save();
    let checked = Checked::of(&case.backups());
    checked.nothing_damaged();
    checked.file(CHAIN[1]).says("warning", Some(data[1].at), "that of another part of the disk");
}

#[test]
fn a_truncated_data_file_is_damage_of_its_image() {
    let case = Case::unpack("features");
    let data = case.backups().join("datafile-raw-off.data");
    let image = Editor::open(case.backups().join("datafile-raw-off.qcow2"));
    let last = image.l2(&image.l1()).into_iter().filter(|e| e.offset() != 0);
    let last = last.max_by_key(|entry| entry.offset()).expect("data");
    let file = fs::File::options().write(true).open(&data).unwrap();
    file.set_len(last.offset()).unwrap();
    Checked::of(&case.backups())
        .only("datafile-raw-off.qcow2", &stands_on(&case.backups(), "datafile-raw-off.qcow2"))
        .says("damage", Some(last.at), "past the end of the data file");
    fs::remove_file(&data).unwrap();
    Checked::of(&case.backups())
        .only("datafile-raw-off.qcow2", &stands_on(&case.backups(), "datafile-raw-off.qcow2"))
        .says("damage", None, "datafile-raw-off.data");
}

#[test]
fn a_checksum_is_held_against_its_file() {
    let folder = scratch();
    let (image, sum) = (folder.path().join("disk.img"), folder.path().join("disk.img.chksum"));
    fs::write(&image, [0xff; 512]).unwrap();
    // 1 + 512 * 255 mod 65521, and the sum of those sums.
    fs::write(&sum, "1124728961").unwrap();
    let wrong = Checked::of(folder.path());
    let right = wrong.file("disk.img").0["problems"][0]["what"].as_str().unwrap();
    let right = right.strip_prefix("its checksum is ").unwrap().split(',').next().unwrap();
    assert_eq!(right, adler32(&[0xff; 512]).to_string());
    wrong.only("disk.img", &names(&["disk.img/disk.img"])).says(
        "damage",
        None,
        "and 1124728961 by",
    );
    fs::write(&sum, right).unwrap();
    Checked::of(folder.path()).nothing_damaged();
    fs::write(&image, [&[0xfe][..], &[0xff; 511]].concat()).unwrap();
    Checked::of(folder.path()).only("disk.img", &names(&["disk.img/disk.img"]));
}

#[test]
fn a_checksum_that_says_nothing_is_damage_of_its_own() {
    let folder = scratch();
    fs::write(folder.path().join("disk.img"), [1; 512]).unwrap();
    for nonsense in [&b""[..], b"none", b"99999999999", &[b'7'; 5000], &[0xff; 8]] {
        fs::write(folder.path().join("disk.img.chksum"), nonsense).unwrap();
        let checked = Checked::of(folder.path());
        checked.only("disk.img.chksum", &names(&[])).says("damage", Some(0), "no checksum");
        assert_eq!(checked.file("disk.img.chksum").text("kind"), "checksum");
        assert_eq!(checked.file("disk.img").state(), "ok");
    }
}

#[test]
fn a_checksum_without_its_file_tells_that_the_file_is_lost() {
    let case = Case::unpack("virtnbdbackup-stream-upstream");
    let lost = "vdb.inc.virtnbdbackup.2.data";
    fs::remove_file(case.backups().join(lost)).unwrap();
    let checked = Checked::of(&case.backups());
    checked.file(&format!("{lost}.chksum")).says("damage", None, "is missing");
}

fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1, 0), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    b << 16 | a
}

#[test]
fn a_flipped_byte_of_an_uncompressed_payload_is_found_by_its_checksum() {
    let case = Case::unpack("virtnbdbackup-stream-upstream");
    let file = "vda.inc.virtnbdbackup.1.data";
    let path = case.backups().join(file);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let checked = Checked::of(&case.backups());
    assert_eq!(checked.in_state("damaged"), BTreeSet::from([file]));
    checked.file(file).says("damage", None, "its checksum is");
}

#[test]
fn a_flipped_byte_anywhere_in_a_compressed_stream_is_found_and_named() {
    let case = Case::unpack("virtnbdbackup-lz4");
    let file = "vda.full.data";
    let path = case.backups().join(file);
    let sound = fs::read(&path).unwrap();
    let find = |what: &[u8]| sound.windows(what.len()).position(|w| w == what).expect("is there");
    let data = find(b"\r\ndata ") + 2;
    let trailer = sound.len() - 60;
    for (what, at) in [
        ("the metadata", 40),
        ("the size of the disk", find(b"virtualSize")),
        ("the header of the metadata", 30),
        ("a frame's header", data + 12),
        ("the length in a frame's header", data + 36),
        ("the start of a chunk", data + 40),
        ("the midst of a chunk", data + 40 + 5000),
        ("the end of the stream", find(b"\r\nstop ") + 3),
        ("the trailer", trailer),
        ("the header of the trailer", sound.len() - 10),
    ] {
        let mut bytes = sound.clone();
        bytes[at] ^= 8;
        fs::write(&path, &bytes).unwrap();
        let checked = Checked::of(&case.backups());
        assert_eq!(checked.in_state("damaged"), BTreeSet::from([file]), "{what}");
        let problems = checked.file(file).0["problems"].as_array().unwrap();
        let offset = problems[0]["offset"].as_u64();
        assert!(offset.is_some(), "{what}: {problems:?}");
    }
}

#[test]
fn a_truncated_stream_is_found_wherever_it_ends() {
    for case in ["virtnbdbackup-lz4", "virtnbdbackup-stream"] {
        let case = Case::unpack(case);
        let file = "vdb.inc.virtnbdbackup.1.data";
        let path = case.backups().join(file);
        let sound = fs::read(&path).unwrap();
        for len in [100, 1000, sound.len() / 2, sound.len() - 41, sound.len() - 1] {
            fs::write(&path, &sound[..len]).unwrap();
            let checked = Checked::of(&case.backups());
            assert_eq!(checked.in_state("damaged"), BTreeSet::from([file]), "{len}");
            assert!(checked.file(file).0["problems"][0]["offset"].is_u64(), "{len}");
        }
    }
}

#[test]
fn one_image_is_checked_with_what_it_stands_on_and_nothing_else() {
    let case = Case::unpack("libvirt-extsnap");
    let checked = Checked::of(&case.backups().join("vm-root.before-upgrade"));
    checked.nothing_damaged();
    let files: Vec<_> = checked.files().map(|file| file.text("path")).collect();
    assert_eq!(files, ["vm-root.before-upgrade", "vm-root.qcow2"]);
    assert_eq!(checked.0["summary"]["checkpoints"], 2);
    // Damage of another image is not looked for.
    fs::write(case.backups().join("vm-raw.monday"), b"QFI\xfb").unwrap();
    Checked::of(&case.backups().join("vm-root.before-upgrade")).nothing_damaged();
}

#[test]
fn what_cannot_be_opened_is_told() {
    if !root_or_skip("what_cannot_be_opened_is_told") {
        return;
    }
    let folder = scratch();
    let program = copy_of_qcowfs(folder.path());
    let source = folder.path().join("source");
    fs::create_dir_all(source.join("closed")).unwrap();
    let lost = ["disk.img", "disk.qcow2", "whatever"];
    for name in lost {
        fs::write(source.join(name), [7; 512]).unwrap();
        fs::set_permissions(source.join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    fs::set_permissions(source.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
    let run = Run::new(program).args(["check", "--json"]).arg(&source).user(User::Ordinary);
    let run = run.outcome();
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let checked = Checked(serde_json::from_slice(&run.stdout).expect("JSON"));
    assert_eq!(checked.in_state("damaged"), BTreeSet::from(["closed", "disk.img", "disk.qcow2"]));
    assert_eq!(checked.in_state("warning"), BTreeSet::from(["whatever"]));
    assert_eq!(checked.file("closed").text("kind"), "folder");
    checked.file("disk.img").says("damage", None, "denied");
}

#[test]
fn the_report_is_the_same_each_time() {
    let case = Case::unpack("missing-base");
    let run = || Run::qcowfs().args(["check", "--json"]).arg(case.backups()).outcome().stdout;
    let first = run();
    for _ in 0..5 {
        assert_eq!(run(), first);
    }
}

#[test]
fn people_are_told_the_file_the_byte_the_restore_points_and_the_sum() {
    let case = Case::unpack("qmpbackup-new");
    let mut image = Editor::open(case.backups().join(CHAIN[2]));
    let entry = image.first_data();
    image.put(entry.at, entry.value ^ 512);
    image.save();
    let run = Run::qcowfs().arg("check").arg(case.backups()).outcome();
    assert_eq!((run.code, run.stderr.as_str()), (Some(1), ""));
    let text = run.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("{}: damaged", CHAIN[2]));
    assert!(lines[1].starts_with(&format!("    at byte {}: the L2 entry for byte", entry.at)));
    assert_eq!(lines[2], "    spoils vm-root.qcow2/INC-1795161277");
    assert_eq!(lines[3], "           vm-root.qcow2/INC-1795161280");
    assert_eq!(lines[4], "8 files checked, 1 damaged, 2 of 8 restore points spoiled");
    assert_eq!(lines.len(), 5);
}

#[test]
fn quiet_hides_warnings_and_no_damage() {
    let case = Case::unpack("features");
    let check = |quiet: &[&str]| Run::qcowfs().arg("check").args(quiet).arg(case.backups());
    assert!(check(&[]).ok().text().contains("aes-legacy.qcow2: warning\n"));
    let quiet = check(&["-q"]).ok().text();
    assert_eq!(
        quiet,
        "49 files checked, 0 damaged, 4 with warnings, 0 of 52 restore points spoiled\n"
    );
    let mut image = Editor::open(case.backups().join("cluster-64k.qcow2"));
    image.truncate(512);
    image.save();
    let run = check(&["-q"]).outcome();
    assert_eq!(run.code, Some(1));
    assert!(run.text().starts_with("cluster-64k.qcow2: damaged\n    at byte "), "{}", run.text());
}

#[test]
fn a_terminal_gets_a_progress_bar_unless_quiet() {
    let case = Case::unpack("qmpbackup-new");
    let on_terminal = |variable: &str, quiet: &str| {
        let program = env!("CARGO_BIN_EXE_qcowfs");
        let command = format!("{variable} {program} check {quiet} '{}'", case.backups().display());
        // All that the terminal got, bar and report.
        Run::new("script").args(["-q", "-e", "-c", &command, "/dev/null"]).ok().text()
    };
    let loud = on_terminal("TERM=xterm", "");
    assert!(loud.contains("checking ["), "{loud:?}");
    assert!(loud.contains("8 files checked, 0 damaged"), "{loud:?}");
    let said = "8 files checked, 0 damaged, 0 of 8 restore points spoiled";
    let green = format!("\x1b[32m{said}\x1b[0m");
    for (variables, wanted) in [
        ("NO_COLOR= TERM=xterm", green.as_str()),
        ("NO_COLOR=1 TERM=xterm", said),
        ("NO_COLOR= TERM=dumb", said),
    ] {
        assert_eq!(on_terminal(variables, "-q").trim_end(), wanted, "{variables}");
    }
}

#[test]
fn help_tells_the_exit_codes_and_wrong_sources_are_refused() {
    let help = Run::qcowfs().args(["check", "--help"]).ok().text();
    for code in ["0  nothing is damaged", "1  something is damaged", "2  wrong usage"] {
        assert!(help.contains(code), "{help}");
    }
    let gone = Run::qcowfs().args(["check", "/nowhere/at/all"]).outcome();
    assert_eq!(gone.code, Some(1));
    assert!(gone.stderr.starts_with("qcowfs: /nowhere/at/all: "), "{}", gone.stderr);
    assert_eq!(Run::qcowfs().arg("check").outcome().code, Some(2));
}
