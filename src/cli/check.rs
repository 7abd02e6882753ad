//! `qcowfs check`: whether the backups can be relied on.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::AllowedRoots;
use super::logging::Verbosity;
use super::paint::{Painter, Tone};
use super::size::plural;
use crate::check::{Check, FileReport, Report, State};
use crate::error::{Error, Result};
use crate::tree::plan::Plan;
use crate::tree::read_catalog;

/// Of one file, for people: the first ones tell what happened.
const MOST_PROBLEMS: usize = 20;

/// Verify the backups: every file, every chain, every checksum
///
/// Headers and tables are walked, every cluster that a restore point needs is read, compressed ones
/// are unpacked, and files that have a .chksum beside them (virtnbdbackup) are summed up. What is
/// damaged is named with the byte and the restore points that it spoils. Nothing is ever written.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qcowfs check /backups             verify everything:
      8 files checked, 0 damaged, 0 of 8 restore points spoiled
  qcowfs check /backups vm1/sda
      only this disk (or a restore point, a VM as vm1@latest, a file, a folder)
  qcowfs check -q /backups
      no progress, no warnings: only what is damaged, and the sum
  qcowfs check /backups --json      the same for programs

Exit codes:
  0  nothing is damaged (there may be warnings)
  1  something is damaged, or a chain is not whole; or the source cannot be
     read, or has no backup
  2  wrong usage

JSON: {\"files\": [{\"path\", \"kind\", \"state\": \"ok\" | \"damaged\" | \"warning\",
  \"problems\": [{\"severity\": \"damage\" | \"warning\", \"offset\", \"what\"}],
  \"spoils\": [\"disk/checkpoint\"]}],
  \"checkpoints_spoiled\": [\"disk/checkpoint\"], \"ignored\": [{\"path\", \"reason\"}],
  \"summary\": {\"files\", \"damaged\", \"warnings\", \"checkpoints\", \"spoiled\"}}

An encrypted image, one that a VM has open, and a backup that was not finished
cannot be verified: that is a warning.")]
pub(super) struct CheckArgs {
    /// Folder of backups, or one backup file
    source: PathBuf,

    /// Only these: files or folders of the source; disks or restore points as `qcowfs ls` prints
    /// them, with the chains that they stand on
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    allowed: AllowedRoots,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// What is said where files alone were checked.
const WITHOUT_CHAIN: &str = "no restore point was checked with all that it stands on: for that, name it as \
                             `qcowfs ls` prints it";

/// Checks the source and prints what was found. Failure if anything is damaged.
pub(super) fn run(args: &CheckArgs, verbosity: Verbosity) -> Result<ExitCode> {
    let catalog = read_catalog(&args.source, &args.allowed.list)?;
    let plan = Plan::new(&catalog);
    let check = match args.paths.as_slice() {
        [] => Check::new(&catalog),
        paths => Check::of(&catalog, &plan, paths)?,
    };
    let quiet = verbosity.is_quiet();
    let bar = progress(check.bytes(), quiet);
    let report = check.run(&plan, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let text = if args.json { json(&report)? } else { text(&report, quiet, Painter::of_stdout()) };
    match io::stdout().lock().write_all(&text) {
        // The reader has seen enough (`qcowfs check | head`).
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.map_err(|e| Error::io("standard output", e))?,
    }
    // Whoever checks every night must hear of a file system that is not mounted.
    let is_empty = report.summary.files == 0;
    if is_empty {
        let source = args.source.display();
        super::complain(&format!(
            "{source}: no backup was found: is the path right, and its file system mounted?"
        ));
    }
    let is_bad = report.is_damaged() || is_empty;
    Ok(if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A bar on the standard error, or one that shows nothing where nobody would see it.
fn progress(bytes: u64, quiet: bool) -> ProgressBar {
    let is_seen = !quiet && io::stderr().is_terminal();
    let target = if is_seen { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    let style = ProgressStyle::with_template(
        "checking [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
    );
    let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.tick();
    bar
}

fn json(report: &Report) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(report).map_err(|e| Error::Usage(e.to_string()))?;
    text.push(b'\n');
    Ok(text)
}

fn text(report: &Report, quiet: bool, painter: Painter) -> Vec<u8> {
    let mut out = String::new();
    for file in &report.files {
        if file.state == State::Damaged || (file.state == State::Warning && !quiet) {
            print_file(&mut out, file, quiet, painter);
        }
    }
    for ignored in report.ignored.iter().filter(|_| !quiet) {
        line(&mut out, &format!("not checked: {:?}: {}", ignored.path, ignored.reason));
    }
    let summary = &report.summary;
    let (files, points) =
        (plural(summary.files, "file"), plural(summary.checkpoints, "restore point"));
    let warnings = match summary.warnings {
        0 => String::new(),
        count => format!(", {count} with warnings"),
    };
    let (damaged, spoiled) = (summary.damaged, summary.spoiled);
    let sum =
        format!("{files} checked, {damaged} damaged{warnings}, {spoiled} of {points} spoiled");
    let tone = if report.is_damaged() { Tone::Bad } else { Tone::Good };
    out.push_str(&painter.paint(tone, &sum));
    out.push('\n');
    if summary.checkpoints == 0 && summary.files > 0 && summary.warnings == 0 && !quiet {
        line(&mut out, WITHOUT_CHAIN);
    }
    out.into_bytes()
}

fn print_file(out: &mut String, file: &FileReport, quiet: bool, painter: Painter) {
    let is_damaged = file.state == State::Damaged;
    let (state, tone) =
        if is_damaged { ("damaged", Tone::Bad) } else { ("warning", Tone::Doubtful) };
    let mut heading = String::new();
    line(&mut heading, &format!("{}: {state}", file.path));
    out.push_str(&painter.paint(tone, heading.trim_end_matches('\n')));
    out.push('\n');
    let told = || file.problems.iter().filter(|p| !quiet || p.severity == "damage");
    for problem in told().take(MOST_PROBLEMS) {
        let mark = if problem.severity == "damage" { "" } else { "warning: " };
        let at = problem.offset.map(|offset| format!("at byte {offset}: ")).unwrap_or_default();
        line(out, &format!("    {mark}{at}{}", problem.what));
    }
    let more = told().count().saturating_sub(MOST_PROBLEMS);
    if more > 0 {
        line(out, &format!("    and {more} more: see --json"));
    }
    for (n, name) in file.spoils.iter().enumerate() {
        let start = if n == 0 { "spoils" } else { "      " };
        line(out, &format!("    {start} {name}"));
    }
}

/// One line, whatever the names in it hold.
fn line(out: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_begin_a_line_of_its_own() {
        let mut out = String::new();
        line(&mut out, "a\nall is well\u{1b}[2J");
        assert_eq!(out, "a\\nall is well\\u{1b}[2J\n");
    }
}
