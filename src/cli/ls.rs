//! `qcowfs ls`: the restore points of a source, without mounting it.

use std::io::{self, Write};

use serde::Serialize;

use super::LsArgs;
use super::paint::{Painter, Tone};
use super::size::human_size;
use crate::chain::catalog::Catalog;
use crate::error::{Error, Result};
use crate::tree::info::Info;
use crate::tree::names::printable;
use crate::tree::plan::Plan;
use crate::tree::read_catalog;

#[derive(Serialize)]
struct Listing {
    source: String,
    disks: Vec<DiskListing>,
    ignored: Vec<Ignored>,
}

#[derive(Serialize)]
struct DiskListing {
    path: String,
    name: String,
    latest: Option<String>,
    checkpoints: Vec<Info>,
}

#[derive(Serialize)]
struct Ignored {
    path: String,
    reason: String,
}

/// Prints the listing to standard output.
pub(super) fn run(args: &LsArgs) -> Result<()> {
    let catalog = read_catalog(&args.source, &args.allowed.list)?;
    let listing = listing(&catalog);
    let mut text = Vec::new();
    if args.json {
        serde_json::to_writer_pretty(&mut text, &listing)
            .map_err(|e| Error::Usage(e.to_string()))?;
        text.push(b'\n');
    } else {
        print_text(&mut text, &listing, Painter::of_stdout())
            .map_err(|e| Error::io("standard output", e))?;
    }
    match io::stdout().lock().write_all(&text) {
        // The reader has seen enough (`qcowfs ls | head`).
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Error::io("standard output", e)),
    }
}

fn listing(catalog: &Catalog) -> Listing {
    let plan = Plan::new(catalog);
    let disks = plan.disks.iter().map(|disk| DiskListing {
        path: disk.path.to_string_lossy().into_owned(),
        name: disk.name.clone(),
        latest: disk.latest.clone(),
        checkpoints: disk
            .checkpoints
            .iter()
            .map(|(id, _)| Info::new(catalog, &plan, *id))
            .collect(),
    });
    let ignored = catalog.skipped().iter().map(|skipped| Ignored {
        path: skipped.path.to_string_lossy().into_owned(),
        reason: skipped.reason.clone(),
    });
    Listing {
        source: catalog.inventory.root().path().to_string_lossy().into_owned(),
        disks: disks.collect(),
        ignored: ignored.collect(),
    }
}

fn print_text(out: &mut Vec<u8>, listing: &Listing, painter: Painter) -> io::Result<()> {
    if listing.disks.is_empty() {
        writeln!(
            out,
            "No VM-disk backup was found in {}: is the path right, and its file system mounted?",
            listing.source
        )?;
    }
    for disk in &listing.disks {
        writeln!(out, "{}", painter.paint(Tone::Heading, &disk.path))?;
        print_disk(out, disk, painter)?;
        writeln!(out)?;
    }
    for Ignored { path, reason } in &listing.ignored {
        let line = format!("not shown: {path:?}: {}", printable(reason));
        writeln!(out, "{}", painter.paint(Tone::Doubtful, &line))?;
    }
    Ok(())
}

const HEADINGS: [&str; 7] =
    ["CHECKPOINT", "TIME (UTC)", "SIZE", "KIND", "STATE", "PARENT", "EVIDENCE"];

fn print_disk(out: &mut Vec<u8>, disk: &DiskListing, painter: Painter) -> io::Result<()> {
    let rows: Vec<[String; 7]> = disk.checkpoints.iter().map(row).collect();
    let mut widths = HEADINGS.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = line(&HEADINGS.map(str::to_owned), &widths);
    writeln!(out, "{}", painter.paint(Tone::Heading, &line))?;
    for (checkpoint, row) in disk.checkpoints.iter().zip(&rows) {
        let line = self::line(row, &widths);
        let is_whole = checkpoint.reason.is_none();
        let line = if is_whole { line } else { painter.paint(Tone::Bad, &line) };
        writeln!(out, "{line}")?;
        if let Some(reason) = &checkpoint.reason {
            let line = format!("    broken: {}", printable(reason));
            writeln!(out, "{}", painter.paint(Tone::Bad, &line))?;
        }
        for warning in &checkpoint.warnings {
            let line = format!("    warning: {}", printable(warning));
            writeln!(out, "{}", painter.paint(Tone::Doubtful, &line))?;
        }
    }
    if let Some(latest) = &disk.latest {
        writeln!(out, "  latest -> {latest}")?;
    }
    Ok(())
}

fn line(row: &[String; 7], widths: &[usize; 7]) -> String {
    let cell = |(cell, width): (&String, &usize)| format!("  {cell:<width$}");
    let line: String = row.iter().zip(widths).map(cell).collect();
    line.trim_end().to_owned()
}

fn row(checkpoint: &Info) -> [String; 7] {
    let evidence = checkpoint.evidence.first();
    let evidence = evidence.map(|link| format!("{} ({})", link.basis, link.certainty));
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    [
        checkpoint.name.clone(),
        checkpoint.time.clone(),
        or_dash(checkpoint.virtual_size.map(human_size)),
        checkpoint.kind.name().to_owned(),
        checkpoint.state.to_owned(),
        or_dash(checkpoint.parent.clone()),
        or_dash(evidence),
    ]
}
