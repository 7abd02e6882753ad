//! `qcowfs map`: which bytes of a restore point are data, and where they are.

use std::io::{self, Write};

use clap::{Args, ValueEnum};

use super::points::{SourceArgs, print, with_names};
use super::size::human_size;
use crate::error::Result;
use crate::tree::map_entry::{MapEntry, map_entries};
use crate::tree::names::printable;
use crate::view::DiskImage;

const EXAMPLES: &str = "\
Examples:
  qcowfs map /backups vm1/sda@latest
      data and what is lost; all else is zeros:
        START     LENGTH   DEPTH  WHAT  OFFSET    FILE
        0x0       0x10000  3      data  0x140000  vm1/sda/FULL-1706260639-sda
        0x100000  0x30000  0      data  0x1b0000  vm1/sda/INC-1706260646-sda
  qcowfs map /backups vm1/sda@latest --output=json
      everything, as `qemu-img map` has it

JSON: as of `qemu-img map --output=json`; `depth` counts files of the chain from
the top. Beside that, `filename` is the file that says it, within the source.
What is lost has `\"lost\": true` and the `reason`; its `zero` says
how it reads: true with --missing zero.";

/// Tell which parts of a restore point are data, and which file has them
#[derive(Debug, Args)]
#[command(after_help = with_names(EXAMPLES))]
pub(super) struct MapArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// The restore point, as `qcowfs ls` prints it
    checkpoint: String,

    /// For people or for programs
    #[arg(long, value_enum, default_value = "human")]
    output: Output,

    /// The same as --output=json
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Human,
    Json,
}

pub(super) fn run(args: &MapArgs) -> Result<()> {
    let backups = args.source.open()?;
    let id = backups.pick(&args.checkpoint)?;
    let image = backups.image(id)?;
    match args.output {
        Output::Human if !args.json => print(|out| print_table(out, image)),
        _ => print(|out| print_json(out, image)),
    }
}

/// One entry on each line, as it is found: a map may be long.
fn print_json(out: &mut dyn Write, image: &DiskImage) -> io::Result<()> {
    let mut before = "[";
    map_entries(image, |entry| {
        out.write_all(before.as_bytes())?;
        before = ",\n";
        serde_json::to_writer(&mut *out, entry).map_err(io::Error::from)
    })?;
    if before == "[" {
        out.write_all(b"[")?;
    }
    out.write_all(b"]\n")
}

fn print_table(out: &mut dyn Write, image: &DiskImage) -> io::Result<()> {
    let line = |out: &mut dyn Write, words: [&str; 6]| {
        let [start, length, depth, what, offset, file] = words;
        writeln!(out, "{start:<18} {length:<14} {depth:<5} {what:<10} {offset:<18} {file}")
    };
    line(out, ["START", "LENGTH", "DEPTH", "WHAT", "OFFSET", "FILE"])?;
    let (mut data, mut lost) = (0, 0);
    map_entries(image, |entry| {
        let what = match entry {
            MapEntry { lost: true, .. } => "lost",
            MapEntry { compressed: true, .. } => "compressed",
            MapEntry { data: true, .. } => "data",
            _ => return Ok(()),
        };
        *(if entry.lost { &mut lost } else { &mut data }) += entry.length;
        let offset = entry.offset.map_or("-".into(), |at| format!("{at:#x}"));
        let (start, length) = (format!("{:#x}", entry.start), format!("{:#x}", entry.length));
        let file = printable(entry.filename.as_deref().unwrap_or("-"));
        let file = match &entry.reason {
            Some(reason) => format!("{file}: {reason}"),
            None => file.into_owned(),
        };
        line(out, [&start, &length, &entry.depth.to_string(), what, &offset, &file])
    })?;
    let lost = if lost > 0 { format!(", {} lost", human_size(lost)) } else { String::new() };
    let (data, size) = (human_size(data), human_size(image.size()));
    writeln!(out, "{data} of data{lost}; the rest of the {size} is zeros")
}
