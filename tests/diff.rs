//! `qcowfs diff`: no byte that differs is left out, and with `--content` the list is exact.

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
use std::ops::Range;
use std::path::{Path, PathBuf};

use common::content::bytes;
use common::report::say;
use common::run::scratch;
use common::{Case, Run, View};
use serde_json::Value;

fn diff(source: &Path, a: &Path, b: &Path, options: &[&str]) -> Value {
    let run = Run::qcowfs().args(["diff", "--json"]).args(options).arg(source).arg(a).arg(b);
    serde_json::from_slice(&run.ok().stdout).expect("JSON")
}

fn ranges(json: &Value) -> Vec<Range<u64>> {
    let mut last = 0;
    let mut found: Vec<Range<u64>> = Vec::new();
    for range in json["ranges"].as_array().expect("ranges") {
        let start = range["start"].as_u64().unwrap();
        let end = start + range["length"].as_u64().unwrap();
        assert!(last <= start && start < end, "not ascending: {json}");
        last = end;
        match found.last_mut() {
            Some(before) if before.end == start => before.end = end,
            _ => found.push(start..end),
        }
    }
    found
}

/// The sectors that differ, joined; what only one of them has differs.
fn really(a: &[u8], b: &[u8]) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    let longest = a.len().max(b.len());
    for start in (0..longest).step_by(512) {
        let of = |bytes: &[u8]| {
            bytes.get(start.min(bytes.len())..(start + 512).min(bytes.len())).map(<[u8]>::to_vec)
        };
        if of(a) != of(b) {
            let (start, end) = (start as u64, (start + 512).min(longest) as u64);
            match found.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => found.push(start..end),
            }
        }
    }
    found
}

fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

#[test]
fn every_byte_that_differs_is_listed_and_by_content_no_other() {
    let (mut pairs, mut listed_bytes, mut real_bytes) = (0, 0, 0);
    for name in ["backing-chain", "features", "qmpbackup-new", "virtnbdbackup-lz4"] {
        let case = Case::unpack(name);
        let source = case.backups();
        let work = scratch();
        let mut disks: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        for point in View::listed(&source).checkpoints.iter().filter(|c| c.whole) {
            disks.entry(point.disk().into()).or_default().push(point.folder.clone());
        }
        for points in disks.values() {
            let content = |point: &Path| {
                let raw = work.path().join("raw");
                let run = Run::qcowfs().args(["restore", "-f", "-q"]).arg(&source);
                run.arg(point).arg(&raw).ok();
                bytes(&raw)
            };
            for pair in points.windows(2) {
                let (a, b) = (content(&pair[0]), content(&pair[1]));
                let wanted = really(&a, &b);
                let quick = ranges(&diff(&source, &pair[0], &pair[1], &[]));
                for range in &wanted {
                    assert!(is_covered(&quick, range), "{pair:?}: {range:?} is not listed");
                }
                let json = diff(&source, &pair[0], &pair[1], &["--content"]);
                assert_eq!(ranges(&json), wanted, "{pair:?}: by content");
                assert_eq!(json["bytes"].as_u64(), Some(total(&wanted)), "{pair:?}");
                pairs += 1;
                listed_bytes += total(&quick);
                real_bytes += total(&wanted);
            }
        }
    }
    say(&format!("diff: {pairs} pairs, {real_bytes} bytes differ of {listed_bytes} listed"));
    assert!(pairs > 20 && real_bytes > 0);
    // Not everything is listed, or the maps would be of no use.
    assert!(listed_bytes < 40 * real_bytes, "{listed_bytes} of {real_bytes}");
}

/// Whether several listed ranges together cover one.
fn is_covered(listed: &[Range<u64>], range: &Range<u64>) -> bool {
    let mut at = range.start;
    for part in listed {
        if part.start <= at && at < part.end {
            at = part.end;
        }
    }
    at >= range.end
}

#[test]
fn one_point_does_not_differ_from_itself_and_a_write_is_found_where_it_was() {
    let folder = scratch();
    let image = |name: &str| folder.path().join(name);
    let size = 8 << 20;
    let create = |name: &str, below: Option<&str>| {
        let run = Run::new("qemu-img").folder(folder.path()).args(["create", "-q", "-f", "qcow2"]);
        let run = below.into_iter().fold(run, |run, below| run.args(["-F", "qcow2", "-b", below]));
        run.arg(name).arg(size.to_string()).ok();
    };
    let write = |name: &str, command: &str| {
        Run::new("qemu-io").args(["-f", "qcow2", "-c", command]).arg(image(name)).ok();
    };
    create("a", None);
    write("a", "write -P 1 0 8M");
    create("b", Some("a"));
    write("b", "write -P 2 1048576 512");
    write("b", "write -z 4194304 65536");
    create("c", Some("b"));
    // The same bytes once more: another place, no other content.
    write("c", "write -P 1 6291456 65536");
    Run::new("qemu-img").args(["resize", "-q"]).arg(image("c")).arg("9M").ok();
    let of = |a: &str, b: &str, options: &[&str]| {
        ranges(&diff(folder.path(), Path::new(a), Path::new(b), options))
    };
    let point = |name: &str| format!("{name}/{name}");
    let (a, b, c) = (point("a"), point("a").replace("/a", "/b"), point("a").replace("/a", "/c"));
    assert!(of(&a, &a, &[]).is_empty() && of(&c, &c, &["--content"]).is_empty());
    let cluster = 65_536;
    assert_eq!(of(&a, &b, &[]), [1 << 20..(1 << 20) + cluster, 4 << 20..(4 << 20) + cluster]);
    assert_eq!(
        of(&a, &b, &["--content"]),
        [1 << 20..(1 << 20) + 512, 4 << 20..(4 << 20) + cluster]
    );
    assert_eq!(of(&b, &c, &[]), [6 << 20..(6 << 20) + cluster, 8 << 20..9 << 20]);
    assert_eq!(of(&b, &c, &["--content"]), std::slice::from_ref(&(8 << 20..9 << 20)));
    let json = diff(folder.path(), Path::new(&c), Path::new(&b), &["--content"]);
    assert_eq!(json["ranges"][0]["a"], "zero");
    assert_eq!(json["ranges"][0]["b"], "nothing");
    // Each layer of a chain is a disk by itself here, and the same disk all the same.
    assert_eq!(json["same_disk"], true);
    let run = Run::qcowfs().arg("diff").arg(folder.path()).arg(&a).arg(&b).arg("--content");
    let text = run.ok().text();
    assert!(text.contains("64.5 KiB differ, in 2 ranges"), "{text}");
    assert!(text.contains("A: a/a (8 MiB)"), "{text}");
}

#[test]
fn points_of_two_disks_are_told_apart() {
    let case = Case::unpack("qmpbackup-new");
    let run = |b: &str| {
        let run = Run::qcowfs().args(["diff", "--json"]).arg(case.backups());
        let told = run.arg("vm-root.qcow2@2026-11-20T07:54:31Z").arg(b).ok();
        let json: Value = serde_json::from_slice(&told.stdout).expect("JSON");
        (json["same_disk"].as_bool(), told.stderr)
    };
    assert_eq!(run("vm-root.qcow2@latest"), (Some(true), String::new()));
    let (same, note) = run("vm-data.qcow2@latest");
    assert_eq!(same, Some(false));
    assert!(note.contains("note: these are two disks, vm-root.qcow2 and vm-data.qcow2"), "{note}");
}

#[test]
fn what_is_lost_is_told_and_cannot_be_compared_unless_it_is_zeros() {
    let case = Case::unpack("missing-base");
    let b = Path::new("overlay-second.qcow2");
    let json = diff(&case.backups(), Path::new("overlay-on-raw.qcow2"), b, &["--missing=eio"]);
    assert!(json["ranges"].as_array().unwrap().iter().any(|range| range["a"] == "lost"));
    // What both lost alike is no difference; what only one of them lost cannot be compared.
    let run = |options: &[&str]| {
        let run = Run::qcowfs().args(["diff", "--content"]).args(options).arg(case.backups());
        run.arg("overlay-on-qcow2.qcow2/overlay-on-qcow2.qcow2").arg(b).outcome()
    };
    assert!(run(&[]).stderr.contains("is not whole"));
    let failed = run(&["--missing", "eio"]);
    assert_eq!(failed.code, Some(1), "{}", failed.text());
    assert!(failed.stderr.contains("they cannot be compared"), "{}", failed.stderr);
    assert_eq!(run(&["--missing", "zero"]).code, Some(0));
}
