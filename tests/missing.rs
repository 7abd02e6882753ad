//! Chains that lost a part: `-o missing=hide|eio|zero`. What is there reads right, what is lost
//! fails or reads as zeros, and nothing else changes.

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

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use common::content::{bytes, data_ranges, index, must_equal, sha256, sha256_of};
use common::report::say;
use common::run::scratch;
use common::source_state::SourceState;
use common::view::Checkpoint;
use common::watch::within;
use common::{Case, Mount, Run, User, View};
use rustix::fs::{Advice, fadvise};
use serde_json::Value;

/// The checkpoints of missing-base whose chain is not whole, each with its chain of existing files.
const BROKEN: [(&str, &[&str]); 5] = [
    ("overlay-on-raw.qcow2", &["overlay-on-raw.qcow2"]),
    ("overlay-on-qcow2.qcow2", &["overlay-on-qcow2.qcow2"]),
    ("overlay-second.qcow2", &["overlay-second.qcow2", "overlay-on-qcow2.qcow2"]),
    ("overlay-extl2.qcow2", &["overlay-extl2.qcow2"]),
    ("mid/m3.qcow2", &["mid/m3.qcow2"]),
];

fn mount(source: &Path, missing: &str) -> Mount {
    Mount::with(source, User::Own, &["-o", &format!("missing={missing}")])
}

/// The ranges that the files of a chain hold, by truth.json: ascending, joined.
fn held(case: &Case, chain: &[&str]) -> Vec<Range<u64>> {
    let text = fs::read_to_string(case.folder().join("truth.json")).unwrap();
    let truth: Value = serde_json::from_str(&text).unwrap();
    let all = truth["disks"].as_array().unwrap().iter();
    let all = all.flat_map(|disk| disk["checkpoints"].as_array().unwrap());
    let mut ranges: Vec<Range<u64>> = all
        .filter(|c| chain.contains(&c["file"].as_str().unwrap()))
        .flat_map(|c| c["allocated"].as_array().into_iter().flatten())
        .map(|range| {
            let start = range[0].as_u64().unwrap();
            start..start + range[1].as_u64().unwrap()
        })
        .collect();
    assert!(!ranges.is_empty(), "{chain:?}: truth.json says nothing of them");
    ranges.sort_by_key(|range| range.start);
    joined(&ranges)
}

fn joined(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range.clone()),
        }
    }
    out
}

fn complement(ranges: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let mut out = Vec::new();
    let mut next = 0;
    for range in ranges {
        if range.start > next {
            out.push(next..range.start);
        }
        next = range.end;
    }
    if next < size {
        out.push(next..size);
    }
    out
}

fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// The ranges that `info.json` calls lost.
fn told_lost(checkpoint: &Checkpoint) -> Vec<Range<u64>> {
    let lost = checkpoint.info["lost"].as_array().expect("info.json: lost");
    lost.iter()
        .map(|entry| {
            assert_eq!(entry["present"], false, "{entry}");
            let start = entry["start"].as_u64().unwrap();
            start..start + entry["length"].as_u64().unwrap()
        })
        .collect()
}

#[test]
fn with_zeros_every_checkpoint_without_base_is_what_truth_says() {
    let case = Case::unpack("missing-base");
    let before = SourceState::of(&case.backups());
    let mount = mount(&case.backups(), "zero");
    let view = View::walk(mount.point());
    for seen in &view.checkpoints {
        // Of two truths of one file the later one counts: with the layers that are there.
        let wanted = case.truth().of_file(seen.file()).last().expect("a truth");
        assert!(seen.whole, "{:?}", seen.folder);
        assert_eq!(sha256(&mount.path(seen.image())), wanted.sha256, "{:?}", seen.folder);
    }
    assert_eq!(view.checkpoints.len(), 7);
    for (file, chain) in BROKEN {
        let seen = view.of_file(file);
        let image = mount.path(seen.image());
        let lost = complement(&held(&case, chain), image.metadata().unwrap().len());
        assert_eq!(joined(&told_lost(seen)), lost, "{file}: info.json");
        assert_eq!(seen.info["lost_bytes"].as_u64(), Some(total(&lost)), "{file}");
        let size = image.metadata().unwrap().len();
        assert_eq!(seen.info["known_bytes"].as_u64(), Some(size - total(&lost)), "{file}");
        assert_eq!(seen.info["lost_reads_as"], "zeros", "{file}");
        assert_eq!(seen.info["state"], "incomplete", "{file}");
        for data in data_ranges(&image) {
            let overlaps = lost.iter().any(|lost| lost.start < data.end && data.start < lost.end);
            assert!(!overlaps, "{file}: what reads as zeros is a hole, and not data: {data:?}");
        }
    }
    say(&format!("missing-base: {} checkpoints right", view.checkpoints.len()));
    mount.unmount();
    before.must_still_hold(&case.backups());
}

/// Reads a disk in steps of 4 KiB: the bytes, and the ranges that failed with EIO.
fn read_in_steps(image: PathBuf) -> (Vec<u8>, Vec<Range<u64>>) {
    const STEP: usize = 4096;
    within(120, "reading around what is lost", move || {
        let file = File::open(&image).unwrap();
        // Else each step would have the kernel read ahead through what is lost.
        fadvise(&file, 0, None, Advice::Random).unwrap();
        let mut all = vec![0; index(file.metadata().unwrap().len())];
        let mut failed = Vec::new();
        for (n, part) in all.chunks_mut(STEP).enumerate() {
            let at = (n * STEP) as u64;
            match file.read_exact_at(part, at) {
                Ok(()) => {}
                Err(e) if e.raw_os_error() == Some(libc::EIO) => {
                    part.fill(0);
                    failed.push(at..at + part.len() as u64);
                }
                Err(e) => panic!("{image:?} at {at}: {e}"),
            }
        }
        (all, joined(&failed))
    })
}

#[test]
fn what_becomes_of_it_can_be_said_as_for_the_other_commands() {
    let case = Case::unpack("missing-base");
    // Which one is meant is not to be guessed.
    let mount = Mount::prepare(User::Own);
    let both =
        mount.command(&case.backups(), &["--missing", "zero", "-o", "missing=eio"]).outcome();
    assert_eq!(both.code, Some(1), "{}", both.stderr);
    assert!(both.stderr.contains("--missing zero and -o missing=eio"), "{}", both.stderr);
    let options = ["--missing", "zero", "-o", "missing=zero"];
    let mount = Mount::with(&case.backups(), User::Own, &options);
    let status = mount.qcowfs().arg("status").arg(mount.point()).ok().text();
    assert!(status.contains("missing=zero"), "{status}");
    mount.unmount();
}

#[test]
fn with_eio_every_known_byte_is_right_and_every_lost_one_fails() {
    let case = Case::unpack("missing-base");
    let mount = mount(&case.backups(), "eio");
    let view = View::walk(mount.point());
    for (file, chain) in BROKEN {
        let seen = view.of_file(file);
        let wanted = case.truth().of_file(seen.file()).last().expect("a truth");
        let image = mount.path(seen.image());
        let (content, failed) = read_in_steps(image.clone());
        let lost = complement(&held(&case, chain), content.len() as u64);
        assert_eq!(failed, lost, "{file}: what fails");
        // With zeros for what fails it is the disk of truth.json.
        assert_eq!(sha256_of(&content), wanted.sha256, "{file}: what reads");
        assert_eq!(joined(&told_lost(seen)), lost, "{file}: info.json");
        assert_eq!(seen.info["lost_reads_as"], "error", "{file}");
        for lost in &lost {
            let covered = data_ranges(&image);
            let inside = covered.iter().any(|d| d.start <= lost.start && lost.end <= d.end);
            assert!(inside, "{file}: what is lost is no hole, or a copy would make zeros of it");
        }
    }
    // What is whole is as ever.
    for file in ["mid/gone-base.qcow2", "mid/m1.qcow2"] {
        let wanted = case.truth().of_file(Path::new(file)).last().unwrap();
        let seen = view.of_file(file);
        assert_eq!(sha256(&mount.path(seen.image())), wanted.sha256, "{file}");
        assert_eq!(seen.info["state"], "whole", "{file}");
        assert_eq!(seen.info["lost_bytes"], 0, "{file}");
    }
    mount.unmount();
}

#[test]
fn a_hidden_checkpoint_says_what_is_missing_who_needs_it_how_much_is_left_and_how_to_see_it() {
    let case = Case::unpack("missing-base");
    let mount = mount(&case.backups(), "hide");
    let view = View::walk(mount.point());
    for (file, chain) in BROKEN {
        let seen = view.of_file(file);
        assert!(!seen.whole, "{file}");
        let told = seen.error.as_deref().unwrap();
        let size = case.truth().of_file(seen.file()).last().unwrap().virtual_size;
        let left = total(&held(&case, chain));
        for part in [
            format!("hold {left} of its {size} bytes"),
            "-o missing=eio".into(),
            "-o missing=zero".into(),
            "/srv/vmstore/images/".into(),
            "there is no \"".into(),
            (*chain.last().unwrap()).to_owned(),
        ] {
            assert!(told.contains(&part), "{file}: {part:?} is not in\n{told}");
        }
    }
    mount.unmount();
}

#[test]
fn ddrescue_finds_the_ranges_that_info_json_lists() {
    const CLUSTER: &str = "65536";
    let case = Case::unpack("missing-base");
    let mount = mount(&case.backups(), "eio");
    let view = View::walk(mount.point());
    let seen = view.of_file("overlay-second.qcow2");
    let out = scratch();
    let (copy, map) = (out.path().join("copy"), out.path().join("map"));
    Run::new("ddrescue")
        .args(["-q", "-b", CLUSTER, "-c", "1", "-N"])
        .args([&mount.path(seen.image()), &copy, &map])
        .seconds(120)
        .ok();
    let text = fs::read_to_string(&map).unwrap();
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#')).skip(1);
    let mut bad = Vec::new();
    for line in lines {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let start = number(fields[0]);
        match fields[2] {
            "-" => bad.push(start..start + number(fields[1])),
            "+" => {}
            other => panic!("ddrescue left {other:?} in {line:?}"),
        }
    }
    assert_eq!(joined(&bad), joined(&told_lost(seen)));
    let wanted = case.truth().of_file(seen.file()).last().unwrap();
    let mut content = bytes(&copy);
    content.resize(index(wanted.virtual_size), 0);
    assert_eq!(sha256_of(&content), wanted.sha256, "what ddrescue saved");
    mount.unmount();
}

#[test]
fn a_whole_source_reads_alike_with_every_answer_to_what_is_missing() {
    let case = Case::unpack("qmpbackup-new");
    let mut seen = Vec::new();
    for missing in ["hide", "eio", "zero"] {
        let mount = mount(&case.backups(), missing);
        let view = View::walk(mount.point());
        let disks = view.checkpoints.iter().map(|checkpoint| {
            let content = bytes(&mount.path(checkpoint.image()));
            (checkpoint.folder.clone(), sha256_of(&content))
        });
        seen.push(disks.collect::<Vec<_>>());
        mount.unmount();
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
    assert_eq!(seen[0].len(), 8);
}

#[test]
fn after_a_lost_increment_only_what_the_later_ones_hold_is_known() {
    let case = Case::unpack("qmpbackup-new");
    let backups = case.backups();
    let listed = View::listed(&backups);
    let disk = listed.checkpoints[0].disk().to_path_buf();
    let chain: Vec<&Checkpoint> = listed.checkpoints.iter().filter(|c| c.disk() == disk).collect();
    let whole = mount(&backups, "hide");
    let right: Vec<Vec<u8>> = chain.iter().map(|c| bytes(&whole.path(c.image()))).collect();
    whole.unmount();
    fs::remove_file(backups.join(chain[1].file())).unwrap();

    let mount = mount(&backups, "eio");
    let view = View::walk(mount.point());
    assert!(view.of_file(chain[0].file()).info["state"] == "whole");
    for n in 2..chain.len() {
        let seen = view.of_file(chain[n].file());
        assert_eq!(seen.info["state"], "incomplete", "{:?}", seen.folder);
        let (content, failed) = read_in_steps(mount.path(seen.image()));
        let size = content.len() as u64;
        let known = complement(&failed, size);
        assert!(!failed.is_empty() && !known.is_empty(), "{:?}: {known:?}", seen.folder);
        for range in &known {
            let range = index(range.start)..index(range.end);
            must_equal("a known range", &content[range.clone()], &right[n][range]);
        }
        assert_eq!(seen.info["known_bytes"].as_u64(), Some(total(&known)));
    }
    mount.unmount();
}

/// It is all there: zeros in its place would be a wrong disk that looks right.
#[test]
fn what_somebody_writes_to_is_not_lost_and_has_no_zeros_in_its_place() {
    let folder = scratch();
    let create = |name: &str, more: &[&str]| {
        let run = Run::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).folder(folder.path());
        run.args(more).arg(name).arg("1M").ok();
    };
    create("base.qcow2", &[]);
    create("top.qcow2", &["-F", "qcow2", "-b", "base.qcow2"]);
    let base = folder.path().join("base.qcow2");
    let writer = File::options().read(true).write(true).open(&base).unwrap();
    let elsewhere = scratch();
    let target = elsewhere.path().join("disk.raw");
    for name in ["top.qcow2", "base.qcow2/base.qcow2"] {
        for missing in ["hide", "zero", "eio"] {
            let run = Run::qcowfs().args(["restore", "--missing", missing]).arg(folder.path());
            let refused = run.arg(name).arg(&target).outcome();
            assert_eq!(refused.code, Some(1), "{name}, {missing}: {}", refused.text());
            let told = &refused.stderr;
            assert!(told.contains("still being written") && !told.contains("--missing"), "{told}");
        }
    }
    let checked = Run::qcowfs().arg("check").arg(folder.path()).ok().text();
    assert!(checked.contains("0 of 0 restore points spoiled"), "not looked at: {checked}");
    drop(writer);
    let checked = Run::qcowfs().arg("check").arg(folder.path()).ok().text();
    assert!(checked.contains("0 of 2 restore points spoiled"), "{checked}");
}
