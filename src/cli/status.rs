//! `qcowfs status`: how a mounted view is doing.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::paint::{Painter, Tone};
use super::points::print;
use super::size::{human_size, plural};
use crate::error::{Error, Result};
use crate::mount::read_status;
use crate::tree::names::printable;

/// Tell how a mounted view is doing: what it shows, reads, errors, caches
///
/// For the user who mounted it; the mount options decide whether root may look in as well. The same
/// is in the file `.qcowfs/status.json` of the view, which no listing shows.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qcowfs status /mnt/view
    /mnt/view: /backups, by process 4711 since 2026-11-20T07:54:31Z (qcowfs ...)
      options:        ro, nodev, nosuid, noatime, allow_other, missing=hide
      disks:          3, with 41 restore points, 1 of them broken
      reads:          24013 requests, 1.4 GiB; 2 failed
      map cache:      1.2 MiB of 48 MiB; 99.6 % of 31870 were there
      data cache:     20 MiB of 28 MiB; 71.3 % of 1502 were there
      open:           2 files, 0 folders
      errors:         2 in vm1/sda/INC-9.qcow2, the last one 2026-11-20T09:...
  qcowfs status /mnt/view --json | jq .reads.failed
      for programs that watch it
  qcowfs status /mnt/view >/dev/null || mail ...
      1 if it is not mounted, dead, or hangs

If the source cannot be looked at any more, the view stays as it was, and a line
says since when and why:
      source:         NOT FOLLOWED since 2026-11-20T09:00:00Z: /backups: not ...

Reads are those that qcowfs was asked for: what the kernel had in its cache, or
reads by itself (passthrough), is not among them.

Exit codes:
  0  it answers
  1  it does not: not mounted, its process is gone, or it hangs; one line says
     which
  2  wrong usage")]
pub(super) struct StatusArgs {
    /// Where the view is mounted
    #[arg(value_name = "MOUNTPOINT")]
    mount_point: PathBuf,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &StatusArgs) -> Result<()> {
    let text = read_status(&args.mount_point)?;
    if args.json {
        return print(|out| out.write_all(&text));
    }
    let status: Value = serde_json::from_slice(&text).map_err(|e| {
        let path = args.mount_point.display();
        Error::Usage(format!(
            "{path}: its status is of another version of qcowfs ({e}): see --json"
        ))
    })?;
    print(|out| tell(out, &status, Painter::of_stdout()))
}

fn tell(out: &mut dyn Write, status: &Value, painter: Painter) -> io::Result<()> {
    let text = |key: &str| printable(status[key].as_str().unwrap_or("?")).into_owned();
    let number = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let (point, source) = (painter.paint(Tone::Heading, &text("mount_point")), text("source"));
    let (pid, since, version) = (number("/pid"), text("since"), text("version"));
    writeln!(out, "{point}: {source}, by process {pid} since {since} (qcowfs {version})")?;
    let mut row = |name: &str, value: &str| writeln!(out, "  {name:<15} {value}");
    if let Some(reason) = status.pointer("/stale/reason").and_then(Value::as_str) {
        let since = status.pointer("/stale/since").and_then(Value::as_str).unwrap_or("?");
        let told = format!("NOT FOLLOWED since {}: {}", printable(since), printable(reason));
        row("source:", &painter.paint(Tone::Bad, &told))?;
    }
    let options = status["options"].as_array().into_iter().flatten();
    let options: Vec<_> = options.filter_map(Value::as_str).map(printable).collect();
    row("options:", &options.join(", "))?;
    row("threads:", &number("/threads").to_string())?;
    let points = plural(number("/checkpoints"), "restore point");
    let mut disks = format!("{}, with {points}", number("/disks"));
    for what in ["broken", "incomplete", "unfinished"] {
        let count = number(&format!("/{what}"));
        if count > 0 {
            disks.push_str(&painter.paint(Tone::Doubtful, &format!(", {count} of them {what}")));
        }
    }
    if number("/unreadable") > 0 {
        let more = format!("; unreadable files or folders: {}", number("/unreadable"));
        disks.push_str(&painter.paint(Tone::Bad, &more));
    }
    row("disks:", &disks)?;
    let (requests, bytes) = (number("/reads/requests"), human_size(number("/reads/bytes")));
    let requests = plural(requests, "request");
    let failed = format!("{} failed", number("/reads/failed"));
    let tone = if number("/reads/failed") > 0 { Tone::Bad } else { Tone::Good };
    row("reads:", &format!("{requests}, {bytes}; {}", painter.paint(tone, &failed)))?;
    for (name, key) in [("map cache:", "maps"), ("data cache:", "data")] {
        let of = |what: &str| number(&format!("/caches/{key}/{what}"));
        row(name, &cache(of("bytes"), of("capacity"), of("hits"), of("misses")))?;
    }
    let (files, folders) = (number("/open/files"), number("/open/folders"));
    row("open:", &format!("{}, {}", plural(files, "file"), plural(folders, "folder")))?;
    for error in status["errors"].as_array().into_iter().flatten() {
        let text = |key: &str| printable(error[key].as_str().unwrap_or("?")).into_owned();
        let count = error["count"].as_u64().unwrap_or(0);
        let (file, at, last) = (text("file"), text("last_time"), text("last"));
        let told = format!("{count} in {file}, the last one {at}: {last}");
        row("errors:", &painter.paint(Tone::Bad, &told))?;
    }
    match number("/errors_of_other_files") {
        0 => Ok(()),
        more => row("", &format!("and {more} in other files")),
    }
}

fn cache(bytes: u64, capacity: u64, hits: u64, misses: u64) -> String {
    let (bytes, capacity) = (human_size(bytes), human_size(capacity));
    let all = hits.saturating_add(misses);
    match hits.saturating_mul(1000).checked_div(all) {
        None => format!("{bytes} of {capacity}; not asked yet"),
        Some(rate) => {
            let (whole, tenth) = (rate / 10, rate % 10);
            format!("{bytes} of {capacity}; {whole}.{tenth} % of {all} were there")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_a_cache_is_in_tenths_of_a_percent() {
        assert_eq!(cache(0, 1 << 20, 0, 0), "0 B of 1 MiB; not asked yet");
        assert_eq!(cache(512, 1 << 20, 2, 1), "512 B of 1 MiB; 66.6 % of 3 were there");
        assert!(cache(0, 0, u64::MAX, 1).contains("were there"));
    }

    #[test]
    fn what_is_missing_from_a_status_does_no_harm() {
        let mut out = Vec::new();
        let odd = serde_json::json!({"errors": [{"file": "a\nb"}], "reads": 7});
        tell(&mut out, &odd, Painter::of_stdout()).unwrap();
        assert!(String::from_utf8(out).unwrap().lines().count() < 12);
    }
}
