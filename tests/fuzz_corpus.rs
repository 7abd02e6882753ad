//! The fuzzer's saved inputs, and mutations of them, through all of its targets: without the
//! fuzzer. `QCOWFS_TEST_SEED` gives other mutations.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::unnecessary_debug_formatting,
    reason = "a test stops where something is not as it must be, and shows names escaped"
)]

#[allow(unreachable_pub, dead_code, reason = "the fuzzer uses it from outside, and all of it")]
#[path = "../contrib/fuzz/src/targets/mod.rs"]
mod targets;

mod common;

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use common::Run;
use common::run::scratch;
use targets::{ALL, Random, Target};

/// Mutations tried on each target.
const MUTATIONS: usize = 6000;
/// A mutation grows an input no further.
const LONGEST: usize = 64 << 10;

#[test]
fn header() {
    try_target("header");
}

#[test]
fn image() {
    try_target("image");
}

#[test]
fn chain() {
    try_target("chain");
}

#[test]
fn stream() {
    try_target("stream");
}

#[test]
fn names() {
    try_target("names");
}

#[test]
fn partitions() {
    try_target("partitions");
}

fn try_target(name: &str) {
    let target = ALL.iter().find(|target| target.name == name).expect("a target");
    let saved = saved(name);
    for (input, bytes) in &saved {
        try_input(target, bytes, &|| format!("saved input {input}"));
    }
    let seed = std::env::var("QCOWFS_TEST_SEED").unwrap_or_else(|_| "1".into());
    let mut random = Random::of(seed.as_bytes());
    for number in 0..MUTATIONS {
        let mut bytes = saved[random.index(saved.len())].1.clone();
        for _ in 0..=random.below(4) {
            mutate(&mut bytes, &saved[random.index(saved.len())].1, &mut random);
        }
        if random.below(8) > 0 {
            (target.mend)(&mut bytes);
        }
        let made = || format!("mutation {number} of QCOWFS_TEST_SEED={seed}");
        try_input(target, &bytes, &made);
    }
    println!("{name}: {} saved inputs and {MUTATIONS} mutations of them hold", saved.len());
}

/// The saved inputs of a target, in the order of their names.
fn saved(target: &str) -> Vec<(String, Vec<u8>)> {
    let saved = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/fuzz/saved");
    let folder = scratch();
    // The archive needs zstd's program as well as tar's: say which one is missing.
    Run::new("zstd").arg("--version").ok();
    let archive = saved.join(format!("{target}.tar.zst"));
    Run::new("tar").args(["--zstd", "-xf"]).arg(archive).arg("-C").arg(folder.path()).ok();
    let entries = folder.path().read_dir().unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    });
    let mut inputs: Vec<_> = entries.collect();
    inputs.sort();
    assert!(inputs.len() >= 50, "hardly any input is saved for {target}");
    inputs
}

/// An input that fails is kept, to be tried again with `contrib/fuzz/run.sh`.
fn try_input(target: &Target, bytes: &[u8], made: &dyn Fn() -> String) {
    if panic::catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_err() {
        let kept = std::env::temp_dir().join(format!("qcowfs-{}-finding", target.name));
        let kept_at = fs::write(&kept, bytes).map(|()| kept);
        panic!("{}: {} does not hold (the bytes: {kept_at:?})", target.name, made());
    }
}

/// Changes something, as the fuzzer would.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.index(bytes.len());
    match random.below(8) {
        0 => flip(bytes, at, random),
        1 => overwrite(bytes, at, &random.any().to_be_bytes()[..=random.index(8)]),
        2 => overwrite(bytes, at, &interesting(random).to_be_bytes()[random.index(8)..]),
        3 => bytes.truncate(at),
        4 => {
            let end = (at + 1 + random.index(64)).min(bytes.len());
            bytes.drain(at.min(end)..end);
        }
        5 => {
            let part = part_of(other, random);
            bytes.splice(at..at, part.iter().copied());
        }
        6 => overwrite(bytes, at, part_of(other, random)),
        _ => {
            let part = part_of(bytes, random).to_vec();
            overwrite(bytes, at, &part);
        }
    }
    bytes.truncate(LONGEST);
}

fn flip(bytes: &mut [u8], at: usize, random: &mut Random) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes.iter_mut().skip(at).zip(with).for_each(|(to, byte)| *to = *byte);
}

/// Numbers at which something may change its meaning.
fn interesting(random: &mut Random) -> u64 {
    let power = 1_u64 << random.below(64);
    [0, u64::MAX, power, power - 1, power.wrapping_neg()][random.index(5)]
}

fn part_of<'a>(bytes: &'a [u8], random: &mut Random) -> &'a [u8] {
    let from = random.index(bytes.len());
    let most = [8, 64, 1024][random.index(3)];
    &bytes[from..(from + 1 + random.index(most)).min(bytes.len())]
}
