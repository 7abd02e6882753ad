//! `qcowfs map` agrees with `qemu-img map` on every chain whose headers are true, and says what is
//! lost of the others.

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

use std::path::{Path, PathBuf};

use common::prng::Prng;
use common::report::say;
use common::run::scratch;
use common::view::Checkpoint;
use common::{Case, Run, View};
use serde_json::Value;

/// What both know of a range. Offsets and lengths are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    start: u64,
    length: u64,
    depth: u64,
    present: bool,
    zero: bool,
    data: bool,
    /// Not told by a qemu-img before 8.2 (Debian 12 has 7.2).
    compressed: Option<bool>,
    offset: Option<u64>,
}

impl Entry {
    fn read(json: &Value) -> Self {
        let number = |key: &str| json[key].as_u64().unwrap_or_else(|| panic!("{key}: {json}"));
        let flag = |key: &str| json[key].as_bool().unwrap_or_else(|| panic!("{key}: {json}"));
        Self {
            start: number("start"),
            length: number("length"),
            depth: number("depth"),
            present: flag("present"),
            // qemu-img asks the file system, too, whether a cluster of data is a hole of the file.
            zero: flag("zero") && !flag("data"),
            data: flag("data"),
            compressed: json.get("compressed").map(|_| flag("compressed")),
            offset: json.get("offset").map(|_| number("offset")),
        }
    }

    fn goes_on_with(&self, next: &Self) -> bool {
        let offset = self.offset.map(|at| at + self.length);
        let same = Self { start: next.start, length: next.length, offset, ..self.clone() };
        self.start + self.length == next.start && same == *next
    }
}

/// The entries of a map, those joined that only go on.
fn entries(json: &[u8]) -> Vec<Entry> {
    let json: Value = serde_json::from_slice(json).expect("JSON");
    let mut joined: Vec<Entry> = Vec::new();
    for entry in json.as_array().expect("a list").iter().map(Entry::read) {
        match joined.last_mut() {
            // Of a disk without a byte qemu-img has one entry, also without.
            _ if entry.length == 0 => {}
            Some(last) if last.goes_on_with(&entry) => last.length += entry.length,
            _ => joined.push(entry),
        }
    }
    joined
}

fn map(source: &Path, point: &Path, options: &[&str]) -> Vec<u8> {
    let run = Run::qcowfs().args(["map", "--output=json"]).args(options);
    run.arg(source).arg(point).ok().stdout
}

fn must_agree(source: &Path, seen: &Checkpoint) -> usize {
    let file = source.join(seen.file());
    let format = if is_qcow2(&file) { "qcow2" } else { "raw" };
    let run = Run::new("qemu-img").folder(file.parent().unwrap());
    let run = run.args(["map", "--output=json", "-f", format]).arg(&file);
    let wanted = entries(&run.ok().stdout);
    let knows_compressed = wanted.iter().all(|entry| entry.compressed.is_some());
    let mut ours = entries(&map(source, &seen.folder, &[]));
    if !knows_compressed {
        for entry in &mut ours {
            entry.compressed = None;
        }
    }
    for (ours, wanted) in ours.iter().zip(&wanted) {
        assert_eq!(ours, wanted, "{:?}", seen.folder);
    }
    assert_eq!(ours.len(), wanted.len(), "{:?}", seen.folder);
    wanted.len()
}

fn is_qcow2(path: &Path) -> bool {
    std::fs::read(path).unwrap().starts_with(b"QFI\xfb")
}

#[test]
fn maps_of_real_chains_are_those_of_qemu_img() {
    let (mut points, mut all) = (0, 0);
    for name in ["backing-chain", "features", "libvirt-extsnap"] {
        let case = Case::unpack(name);
        for seen in &View::listed(&case.backups()).checkpoints {
            // qemu-img has no maps of snapshots, and opens nothing by a path of another machine.
            let links = seen.info["evidence"].as_array().unwrap();
            let is_true = links.iter().all(|link| link["basis"] == "header");
            let file = case.backups().join(seen.file());
            let info = Run::new("qemu-img").folder(file.parent().unwrap()).arg("info");
            let opens = info.arg("--backing-chain").arg(&file).outcome();
            if !seen.whole || seen.kind() == "snapshot" || !is_true || opens.code != Some(0) {
                continue;
            }
            all += must_agree(&case.backups(), seen);
            points += 1;
        }
    }
    say(&format!("map: {points} real restore points, {all} entries as of qemu-img"));
    assert!(points >= 20 && all > 100, "hardly anything was compared: {points}, {all}");
}

/// A chain of random shapes and writes, zeros of all sorts among them.
fn random_chain(folder: &Path, prng: &mut Prng) {
    let qemu = |program: &str| Run::new(program).folder(folder);
    let mut below: Option<(String, &str)> = None;
    if prng.one_in(2) {
        let size = usize::try_from(512 * (1 + prng.below(4096))).unwrap();
        let mut bytes = prng.bytes(size);
        bytes[size / 3..2 * size / 3].fill(0);
        std::fs::write(folder.join("base.raw"), bytes).unwrap();
        qemu("fallocate").args(["--dig-holes", "base.raw"]).ok();
        below = Some(("base.raw".into(), "raw"));
    }
    std::fs::write(folder.join("text"), vec![b'x'; 4096]).unwrap();
    for number in 0..2 + prng.below(4) {
        let name = format!("layer{number}.qcow2");
        let cluster = *prng.pick(&[512_u64, 4096, 65536, 65536, 1 << 18]);
        let mut options = format!("cluster_size={cluster}");
        if cluster >= 16384 && prng.one_in(2) {
            options += ",extended_l2=on";
        }
        let size = 512 * (1 + prng.below(4096));
        let mut run = qemu("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", &options]);
        if let Some((file, format)) = &below {
            run = run.args(["-b", file, "-F", format]);
        }
        run.arg(&name).arg(size.to_string()).ok();
        let mut run = qemu("qemu-io").args(["-f", "qcow2", "-d", "unmap", "-t", "unsafe"]);
        if size > cluster {
            let at = prng.below(size / cluster) * cluster;
            run = run.args(["-c", &format!("write -c -P 9 {at} {cluster}")]);
        }
        for _ in 0..prng.below(8) {
            let at = prng.below(size) / 512 * 512;
            let len = (512 * (1 + prng.below(200))).min(size - at);
            let how = *prng.pick(&["write -z", "write -z -u", "discard", "write", "write"]);
            run = run.args(["-c", &format!("{how} {at} {len}")]);
        }
        // A compressed write is refused where something is already.
        run.arg(&name).outcome();
        below = Some((name, "qcow2"));
    }
    std::fs::remove_file(folder.join("text")).unwrap();
}

#[test]
fn maps_of_random_chains_are_those_of_qemu_img() {
    let seed = std::env::var("QCOWFS_TEST_SEED").ok();
    let seed = seed.map_or(20_261_120, |text| text.parse().expect("QCOWFS_TEST_SEED is a number"));
    say(&format!("map: QCOWFS_TEST_SEED={seed}"));
    let (mut points, mut all) = (0, 0);
    for number in 0..24 {
        let folder = scratch();
        random_chain(folder.path(), &mut Prng::new(seed + number));
        for seen in &View::listed(folder.path()).checkpoints {
            all += must_agree(folder.path(), seen);
            points += 1;
        }
    }
    say(&format!("map: {points} random restore points, {all} entries as of qemu-img"));
    assert!(points > 48 && all > 200, "hardly anything was compared: {points}, {all}");
}

#[test]
fn every_entry_names_the_file_that_has_it() {
    let case = Case::unpack("qmpbackup-new");
    let json = map(&case.backups(), Path::new("vm-root.qcow2@latest"), &[]);
    let json: Value = serde_json::from_slice(&json).unwrap();
    let info = Run::qcowfs().args(["info", "--json"]).arg(case.backups());
    let info = info.arg("vm-root.qcow2@latest").ok().stdout;
    let info: Value = serde_json::from_slice(&info).unwrap();
    let mut chain: Vec<&Value> = info["chain"].as_array().unwrap().iter().collect();
    chain.reverse();
    let data: Vec<&Value> =
        json.as_array().unwrap().iter().filter(|entry| entry["data"] == true).collect();
    assert!(data.len() > 10);
    for entry in data {
        let depth = usize::try_from(entry["depth"].as_u64().unwrap()).unwrap();
        assert_eq!(entry["filename"], chain[depth]["file"], "{entry}");
    }
}

#[test]
fn what_is_lost_is_neither_present_nor_data_and_says_why() {
    let case = Case::unpack("missing-base");
    let point = Path::new("overlay-on-raw.qcow2");
    for (missing, zero) in [("eio", false), ("zero", true)] {
        let json = map(&case.backups(), point, &["--missing", missing]);
        let json: Value = serde_json::from_slice(&json).unwrap();
        let of = |lost: bool| {
            let all = json.as_array().unwrap().iter();
            all.filter(move |entry| (entry["lost"] == true) == lost)
                .map(|entry| entry["length"].as_u64().unwrap())
                .sum::<u64>()
        };
        assert_eq!((of(true), of(false)), (66_453_504, 655_360), "{missing}");
        for entry in json.as_array().unwrap().iter().filter(|entry| entry["lost"] == true) {
            assert_eq!(entry["present"], false, "{entry}");
            assert_eq!(entry["data"], false, "{entry}");
            assert_eq!(entry["zero"], zero, "{entry}");
            assert!(entry["reason"].as_str().unwrap().contains("missing"), "{entry}");
        }
    }
    let run = Run::qcowfs().arg("map").arg(case.backups()).arg(point);
    assert!(run.outcome().stderr.contains("is not whole"));
    let run = Run::qcowfs().args(["map", "--missing=eio"]).arg(case.backups()).arg(point);
    let table = run.ok().text();
    assert!(table.contains("640 KiB of data, 63.4 MiB lost"), "{table}");
}

#[test]
fn packed_chunks_of_streams_are_compressed_and_have_no_offset() {
    let case = Case::unpack("virtnbdbackup-lz4");
    let listed = View::listed(&case.backups());
    let mut seen = 0;
    for point in listed.checkpoints.iter().filter(|c| c.whole) {
        for entry in entries(&map(&case.backups(), &point.folder, &[])) {
            let compressed = entry.compressed.expect("it is told");
            assert!(entry.data || !compressed, "{entry:?}");
            assert_eq!(entry.offset.is_none(), compressed || !entry.data, "{entry:?}");
            seen += usize::from(compressed);
        }
    }
    assert!(seen > 3, "no compressed chunk: {seen}");
}

#[test]
fn info_says_what_info_json_says_and_what_people_want_to_know() {
    let case = Case::unpack("qmpbackup-new");
    let mount = common::Mount::of(&case.backups());
    for seen in &View::walk(mount.point()).checkpoints {
        let path: PathBuf = seen.folder.clone();
        let json = Run::qcowfs().args(["info", "--json"]).arg(case.backups()).arg(&path).ok();
        let json: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(json, seen.info, "{path:?}");
        let text = Run::qcowfs().arg("info").arg(case.backups()).arg(&path).ok().text();
        for part in [path.to_str().unwrap(), seen.kind(), "whole", seen.file().to_str().unwrap()] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }
    mount.unmount();
    let text = Run::qcowfs().arg("info").arg(case.backups()).ok().text();
    assert!(text.contains("vm-root.qcow2: 128 MiB\n  restore points: 4, in "), "{text}");
    let json = Run::qcowfs().args(["info", "--json"]).arg(case.backups()).ok().stdout;
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json[0]["whole"], 4);
    let case = Case::unpack("missing-base");
    let run = Run::qcowfs().arg("info").arg(case.backups()).arg("overlay-on-raw.qcow2");
    let text = run.ok().text();
    assert!(text.contains("state:      broken") && text.contains("lost:       63.4 MiB"), "{text}");
}
