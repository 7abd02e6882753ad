//! The short forms of contrib/soak: many readers at once, and a daemon with little memory.

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

use common::report::{root_or_skip, skipped};
use common::run::Outcome;
use common::{Mount, Run, User};

/// Runs a script of contrib/soak on a mount point that is cleaned up whatever happens to it.
fn soak(script: &str, settings: &[&str], args: &[&str]) -> Outcome {
    let mount = Mount::prepare(User::Own);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/soak");
    let run = Run::new("env")
        .arg("QCOWFS_NO_INSTALL=1")
        .arg(concat!("QCOWFS_SOAK_PROGRAM=", env!("CARGO_BIN_EXE_qcowfs")))
        .arg(format!("QCOWFS_SOAK_MOUNT_POINT={}", mount.point().display()))
        .args(settings)
        .arg(folder.join(script))
        .args(args);
    run.seconds(180).outcome()
}

/// A number that a line of the script's output gives: `name=N`.
fn number(said: &str, name: &str) -> u64 {
    let words = said.split_whitespace().filter_map(|word| word.strip_prefix(name));
    let number = words.filter_map(|rest| rest.strip_prefix('=')).next_back();
    let number = number.unwrap_or_else(|| panic!("no {name}= in {said}"));
    number.parse().unwrap_or_else(|e| panic!("{name}={number}: {e}"))
}

#[test]
fn eight_readers_of_twenty_checkpoints_read_no_wrong_byte() {
    // So little memory that maps and data are thrown out and made again all the time.
    let settings = ["QCOWFS_SOAK_OPTIONS=map_cache=1M,data_cache=1M"];
    let outcome = soak("soak.sh", &settings, &["4", "8", "20", "8"]);
    let said = outcome.text();
    assert_eq!(outcome.code, Some(0), "{said}\n{}", outcome.stderr);
    assert!(number(&said, "reads") > 100, "{said}");
    assert_eq!(number(&said, "wrong"), 0, "{said}");
}

#[test]
fn a_wholly_fragmented_disk_is_read_right_with_128_mib_of_memory() {
    let test = "a_wholly_fragmented_disk_is_read_right_with_128_mib_of_memory";
    if !root_or_skip(test) {
        return;
    }
    // As many tables as would fill the maps several times over.
    let outcome = soak("memory.sh", &[], &["4", "512", "4"]);
    let said = outcome.text();
    if outcome.code == Some(77) {
        return skipped(said.trim(), test);
    }
    assert_eq!(outcome.code, Some(0), "{said}\n{}", outcome.stderr);
    assert!(number(&said, "reads") > 100, "{said}");
    assert_eq!((number(&said, "wrong"), number(&said, "oom_kills")), (0, 0), "{said}");
    let (anon, limit) = (number(&said, "anon"), number(&said, "limit"));
    assert_eq!(limit, 128 << 20, "{said}");
    assert!(anon < limit * 3 / 4, "the daemon's own memory: {said}");
}

#[test]
fn the_caches_are_as_large_as_the_options_say() {
    let test = "the_caches_are_as_large_as_the_options_say";
    if !root_or_skip(test) {
        return;
    }
    let settings = ["QCOWFS_SOAK_OPTIONS=map_cache=2M,data_cache=2M"];
    let outcome = soak("memory.sh", &settings, &["4", "512", "4"]);
    let said = outcome.text();
    if outcome.code == Some(77) {
        return skipped(said.trim(), test);
    }
    assert_eq!(outcome.code, Some(0), "{said}\n{}", outcome.stderr);
    // With 48 MiB of maps, as without the option, it is more.
    assert!(number(&said, "anon") < 24 << 20, "{said}");
}
