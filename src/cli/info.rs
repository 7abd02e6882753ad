//! `qcowfs info`: what is known of one restore point, or of each disk.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use super::points::{SourceArgs, print, with_names};
use super::size::human_size;
use crate::chain::catalog::State;
use crate::error::{Error, Result};
use crate::tree::backups::Backups;
use crate::tree::info::{InfoFile, LossInfo, PartitionsInfo, info_json};
use crate::tree::names::printable;
use crate::tree::plan::{DiskPlan, rfc3339};

const EXAMPLES: &str = "\
Examples:
  qcowfs info /backups                                 each disk in short:
      vm1/sda: 40 GiB
        restore points: 4, in 14.2 GiB of files
        times:          2024-01-26T09:17:19Z to 2024-01-29T09:17:26Z
        latest:         INC-1706519846
  qcowfs info /backups vm1/sda/INC-1706260646
      one restore point, with its files
  qcowfs info /backups vm1/sda@latest --json
      the same as the view's info.json";

/// Tell what a restore point is made of: its size, its files, and what that rests on
///
/// Without a restore point: a summary of each disk.
#[derive(Debug, Args)]
#[command(after_help = with_names(EXAMPLES))]
pub(super) struct InfoArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// The restore point, as `qcowfs ls` prints it
    checkpoint: Option<String>,

    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// One disk in short.
#[derive(Debug, Serialize)]
struct Summary {
    path: String,
    name: String,
    checkpoints: usize,
    whole: usize,
    latest: Option<String>,
    oldest_time: Option<String>,
    newest_time: Option<String>,
    virtual_size: Option<u64>,
    /// Bytes of the files that its checkpoints are.
    files_size: u64,
}

pub(super) fn run(args: &InfoArgs) -> Result<()> {
    let backups = args.source.open()?;
    let Some(wanted) = &args.checkpoint else { return summaries(&backups, args.json) };
    let id = backups.pick(wanted)?;
    if args.json {
        let text = info_json(&backups.catalog, &backups.plan, id, &backups.images);
        return print(|out| out.write_all(&text));
    }
    let info = InfoFile::new(&backups.catalog, &backups.plan, id, &backups.images);
    print(|out| tell(out, &backups.name(id), &info))
}

fn summaries(backups: &Backups, json: bool) -> Result<()> {
    let disks: Vec<Summary> =
        backups.plan.disks.iter().map(|disk| Summary::new(backups, disk)).collect();
    if json {
        let text = serde_json::to_vec_pretty(&disks).map_err(|e| Error::Usage(e.to_string()))?;
        return print(|out| out.write_all(&text).and_then(|()| out.write_all(b"\n")));
    }
    print(|out| {
        if disks.is_empty() {
            writeln!(
                out,
                "No VM-disk backup was found: is the path right, and its file system mounted?"
            )?;
        }
        disks.iter().try_for_each(|disk| disk.tell(out))
    })
}

impl Summary {
    fn new(backups: &Backups, plan: &DiskPlan) -> Self {
        let catalog = &backups.catalog;
        let points = || plan.checkpoints.iter().map(|(id, _)| catalog.checkpoint(*id));
        let mut files: Vec<_> = points().map(|point| point.file).collect();
        files.sort_unstable();
        files.dedup();
        let size = |file| catalog.inventory.file(file).stat.size;
        let times = || points().map(|point| point.time);
        let mut newest = plan.checkpoints.iter().rev().map(|(id, _)| catalog.checkpoint(*id));
        Self {
            path: plan.path.to_string_lossy().into_owned(),
            name: plan.name.clone(),
            checkpoints: points().count(),
            whole: points().filter(|point| point.state == State::Whole).count(),
            latest: plan.latest.clone(),
            oldest_time: times().min().map(rfc3339),
            newest_time: times().max().map(rfc3339),
            virtual_size: newest.find_map(|point| point.virtual_size),
            files_size: files.into_iter().map(size).sum(),
        }
    }

    fn tell(&self, out: &mut dyn Write) -> io::Result<()> {
        let size = self.virtual_size.map_or("of unknown size".to_owned(), human_size);
        writeln!(out, "{}: {size}", self.path)?;
        let (all, whole) = (self.checkpoints, self.whole);
        let broken = all - whole;
        let broken =
            if broken > 0 { format!(", {broken} of them not whole") } else { String::new() };
        let files = human_size(self.files_size);
        writeln!(out, "  restore points: {all}{broken}, in {files} of files")?;
        if let (Some(oldest), Some(newest)) = (&self.oldest_time, &self.newest_time) {
            writeln!(out, "  times:          {oldest} to {newest}")?;
        }
        writeln!(out, "  latest:         {}", self.latest.as_deref().unwrap_or("none is whole"))
    }
}

fn tell(out: &mut dyn Write, name: &str, file: &InfoFile) -> io::Result<()> {
    let info = &file.info;
    writeln!(out, "{name}")?;
    let size = info.virtual_size.map_or("unknown".to_owned(), exact);
    writeln!(out, "  size:       {size}")?;
    if let (Some(bytes), Some(is)) = (file.allocated, file.allocated_is) {
        let most = if is == "exact" { "" } else { "at most " };
        writeln!(out, "  allocated:  {most}{}", exact(bytes))?;
    }
    writeln!(out, "  time:       {} (from the {})", info.time, word(&info.time_basis))?;
    writeln!(out, "  kind:       {}", info.kind.name())?;
    writeln!(out, "  state:      {}", info.state)?;
    if let Some(reason) = &info.reason {
        writeln!(out, "  reason:     {}", printable(reason))?;
    }
    if let Some(loss) = &file.loss {
        tell_loss(out, loss)?;
    }
    if let Some(partitions) = &file.partitions {
        tell_partitions(out, partitions)?;
    }
    writeln!(out, "  parent:     {}", info.parent.as_deref().unwrap_or("-"))?;
    writeln!(out, "  files, base first:")?;
    for file in &file.chain {
        let size = human_size(file.size);
        writeln!(out, "    {} ({}, {size})", printable(&file.file), file.format)?;
        if let Some(data) = &file.data_file {
            writeln!(out, "      with its data in {}", printable(data))?;
        }
    }
    if !info.evidence.is_empty() {
        writeln!(out, "  evidence:")?;
    }
    for link in &info.evidence {
        let (basis, sure) = (word(&link.basis), word(&link.certainty));
        writeln!(out, "    {basis} ({sure}): {}", printable(&link.text))?;
    }
    for warning in &info.warnings {
        writeln!(out, "  warning: {}", printable(warning))?;
    }
    Ok(())
}

fn tell_partitions(out: &mut dyn Write, disk: &PartitionsInfo) -> io::Result<()> {
    let Some(table) = disk.partition_table else {
        let content = disk.content.unwrap_or("nothing that is known");
        return writeln!(out, "  content:    {content}, not partitioned");
    };
    writeln!(out, "  partitions: {} ({})", disk.partitions.len(), table.to_uppercase())?;
    for partition in &disk.partitions {
        let file = partition.file.as_deref().unwrap_or("-");
        let size = human_size(partition.size);
        let kind = partition.type_name.unwrap_or(&partition.partition_type);
        let content = partition.content.unwrap_or("-");
        let label = partition.label.as_deref().unwrap_or_default();
        let line = format!("    {file:<9} {size:>9}  {content:<8} {kind}  {}", printable(label));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn tell_loss(out: &mut dyn Write, loss: &LossInfo) -> io::Result<()> {
    let reads = match loss.lost_reads_as {
        Some("zeros") => ", which reads as zeros",
        Some(_) => ", which cannot be read",
        None => "",
    };
    writeln!(out, "  lost:       {}{reads}", exact(loss.lost_bytes))
}

/// A size for people and to the byte.
fn exact(bytes: u64) -> String {
    if bytes < 1024 {
        format!("{bytes} bytes")
    } else {
        format!("{} ({bytes} bytes)", human_size(bytes))
    }
}

/// The word that stands for it in JSON.
fn word(value: &impl Serialize) -> String {
    let word = serde_json::to_value(value).ok();
    word.and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}
