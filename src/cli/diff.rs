//! `qcowfs diff`: where two restore points differ.

use std::io::{self, Write};
use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::logging::Verbosity;
use super::points::{SourceArgs, print, with_names};
use super::size::human_size;
use crate::error::{Error, Result};
use crate::view::{Difference, DiskImage, Side};

const EXAMPLES: &str = "\
Examples:
  qcowfs diff /backups vm1/sda/INC-1706260646 vm1/sda@latest
      0x100000           0x30000        data     data
      192 KiB may differ, in 1 range
  qcowfs diff /backups sda@2024-01-25 sda@2024-01-26 --content
      only bytes that really differ
  qcowfs diff /backups sda@2024-01-25 sda@2024-01-26 --json

Without --content nothing but tables is read: a range is listed if both have its
bytes from different places, even if they are the same bytes; all others are the
same for sure.

JSON: {\"a\": {\"name\", \"size\"}, \"b\": {\"name\", \"size\"}, \"same_disk\", \"content\",
  \"bytes\", \"ranges\": [{\"start\", \"length\", \"a\", \"b\"}]}; `a` and `b` of a range
  are what each has there: data, zero, lost, or nothing (the disk ends before)";

/// Tell which ranges of a disk changed from one restore point to another
#[derive(Debug, Args)]
#[command(after_help = with_names(EXAMPLES))]
pub(super) struct DiffArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// One restore point, as `qcowfs ls` prints it
    #[arg(value_name = "CHECKPOINT_A")]
    a: String,

    /// The other one
    #[arg(value_name = "CHECKPOINT_B")]
    b: String,

    /// Read what may differ, and list only what does, to 512 bytes
    #[arg(long)]
    content: bool,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Listing {
    a: Point,
    b: Point,
    /// Two points in time of one disk, or two disks.
    same_disk: bool,
    content: bool,
    bytes: u64,
    ranges: Vec<ListedRange>,
}

#[derive(Debug, Serialize)]
struct Point {
    name: String,
    size: u64,
}

#[derive(Debug, Serialize)]
struct ListedRange {
    start: u64,
    length: u64,
    a: &'static str,
    b: &'static str,
}

pub(super) fn run(args: &DiffArgs, verbosity: Verbosity) -> Result<()> {
    let backups = args.source.open()?;
    let (a, b) = (backups.pick(&args.a)?, backups.pick(&args.b)?);
    let (one, two) = (backups.image(a)?, backups.image(b)?);
    let disks = [a, b].map(|id| backups.plan.disk_of(id).map(|disk| disk.path.as_path()));
    let [disk_a, disk_b] = disks;
    // Each file of a chain of overlays may be a disk by itself.
    let same_disk = disk_a == disk_b || one.is_of_one_chain_with(two);
    if !same_disk {
        let [a, b] = disks.map(|disk| disk.unwrap_or(Path::new("")).display());
        verbosity.note(&format!("these are two disks, {a} and {b}, not one at two times"));
    }
    let mut found = one.differences(two);
    if args.content {
        found = really(one, two, &found)?;
    }
    let listing = Listing {
        a: Point { name: backups.name(a), size: one.size() },
        b: Point { name: backups.name(b), size: two.size() },
        same_disk,
        content: args.content,
        bytes: found.iter().map(|found| found.range.end - found.range.start).sum(),
        ranges: found.iter().map(ListedRange::new).collect(),
    };
    if args.json {
        let text = serde_json::to_vec_pretty(&listing).map_err(|e| Error::Usage(e.to_string()))?;
        return print(|out| out.write_all(&text).and_then(|()| out.write_all(b"\n")));
    }
    print(|out| tell(out, &listing))
}

/// What of these differences are bytes that differ. What only one of the disks reaches, does.
fn really(one: &DiskImage, two: &DiskImage, found: &[Difference]) -> Result<Vec<Difference>> {
    let mut really: Vec<Difference> = Vec::new();
    for difference in found {
        if matches!((difference.a, difference.b), (Side::Nothing, _) | (_, Side::Nothing)) {
            really.push(difference.clone());
            continue;
        }
        let start = difference.range.start;
        let sectors = one.differing_sectors(two, &difference.range).map_err(|e| {
            let what = e.error;
            Error::Usage(format!("from byte {start} on, they cannot be compared: {what}"))
        })?;
        for mut range in sectors {
            // Two differences may share a sector.
            let before = really.last().map_or(0, |last| last.range.end);
            range.start = range.start.max(before);
            if !range.is_empty() {
                really.push(Difference { range, ..difference.clone() });
            }
        }
    }
    Ok(really)
}

impl ListedRange {
    fn new(found: &Difference) -> Self {
        let (start, length) = (found.range.start, found.range.end - found.range.start);
        Self { start, length, a: word(found.a), b: word(found.b) }
    }
}

fn word(side: Side) -> &'static str {
    match side {
        Side::Data => "data",
        Side::Zero => "zero",
        Side::Lost => "lost",
        Side::Nothing => "nothing",
    }
}

fn tell(out: &mut dyn Write, listing: &Listing) -> io::Result<()> {
    writeln!(out, "A: {} ({})", listing.a.name, human_size(listing.a.size))?;
    writeln!(out, "B: {} ({})", listing.b.name, human_size(listing.b.size))?;
    if !listing.ranges.is_empty() {
        writeln!(out, "{:<18} {:<14} {:<8} B", "START", "LENGTH", "A")?;
    }
    for ListedRange { start, length, a, b } in &listing.ranges {
        let (start, length) = (format!("{start:#x}"), format!("{length:#x}"));
        writeln!(out, "{start:<18} {length:<14} {a:<8} {b}")?;
    }
    let (bytes, count) = (human_size(listing.bytes), listing.ranges.len());
    let how = if listing.content { "differ" } else { "may differ" };
    let ranges = if count == 1 { "range" } else { "ranges" };
    writeln!(out, "{bytes} {how}, in {count} {ranges}")
}
