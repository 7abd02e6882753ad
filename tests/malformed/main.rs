//! Malformed images, one changed field each, against the outcome that the format's law states.
//!
//! A row is a sound image, one edit, and what must come of it ([`row::Outcome`]). Whatever the row
//! says of the disk, qemu-img is asked as well: it refuses what we refuse and reads what we read,
//! unless the row says in which direction we differ on purpose ([`row::Qemu`]).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::cast_possible_truncation,
    clippy::too_many_lines,
    clippy::unnecessary_debug_formatting,
    reason = "tables of rows are long, and a test that cannot go on has failed"
)]

#[path = "../common/mod.rs"]
mod common;

mod backing;
mod bases;
mod cuts;
mod extensions;
mod features;
mod header;
mod look;
mod mounted;
mod row;
mod run;
mod snapshots;
mod streams;
mod tables;

use std::collections::BTreeMap;

use common::report::say;
use row::Rows;

/// The rows, without those of single feature bits, which are all alike.
const LEAST: usize = 600;
/// Those of streams.
const LEAST_OF_STREAMS: usize = 130;

fn rows() -> Rows {
    let mut rows = Rows::default();
    header::rows(&mut rows);
    features::rows(&mut rows);
    extensions::rows(&mut rows);
    tables::rows(&mut rows);
    backing::rows(&mut rows);
    snapshots::rows(&mut rows);
    cuts::rows(&mut rows);
    streams::rows(&mut rows);
    rows
}

#[test]
fn every_malformed_image_comes_out_as_stated() {
    let rows = rows().done();
    let mut names: Vec<_> = rows.iter().map(|row| (row.group, &row.name)).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "two rows of one name");

    let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    let mut differ: Vec<String> = Vec::new();
    for row in &rows {
        *groups.entry(row.group).or_default() += 1;
        *outcomes.entry(row.kind()).or_default() += 1;
    }
    differ.extend(run::all_differences(&rows));
    say(&format!("malformed images: {count} rows, {groups:?}; {outcomes:?}"));
    let single_bits = groups.get("one feature bit").copied().unwrap_or(0);
    assert!(count - single_bits >= LEAST, "only {count} rows, {single_bits} of single bits");
    let streams = groups.iter().filter(|(group, _)| group.starts_with("stream"));
    let streams: usize = streams.map(|(_, count)| count).sum();
    assert!(streams >= LEAST_OF_STREAMS, "only {streams} rows of streams");
    assert!(differ.is_empty(), "{} differences:\n{}", differ.len(), differ.join("\n"));
}
