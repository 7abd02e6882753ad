//! `qcowfs restore`: a restore point, or all disks of a VM, to files or a device.

mod orders;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::logging::Verbosity;
use super::points::{SourceArgs, print, with_names};
use super::progress::Teller;
use super::size::human_size;
use crate::chain::catalog::CheckpointId;
use crate::error::{Error, Result};
use crate::restore::{Batch, Done, Format, Options, Output, Protected, Stop, Target, refuse_unfit};
use crate::tree::backups::Backups;
use crate::tree::plan::rfc3339;
use orders::{Order, note_newer, orders};

const EXAMPLES: &str = "\
Examples:
  qcowfs restore /backups vm1/sda@latest /var/lib/libvirt/images/sda.raw
      .../sda.raw: vm1/sda/INC-1706260646 of 2024-01-26T09:17:26Z (raw)
        40 GiB: 11.2 GiB of data, 28.8 GiB of zeros; 14.1 s
  qcowfs restore /backups vm1/sda/INC-1706260646 /dev/vg0/sda --verify
  qcowfs restore /backups vm1/sda@2024-01-26 sda.qcow2 -O qcow2 --compress
  qcowfs restore /backups vm1@2024-01-26T10:00 /var/lib/libvirt/images/
      all disks of vm1, each the newest not later than that, to sda.raw, ...
  qcowfs restore /backups vm1/@times/2024-01-26T09:17:26Z DIR/
      the same by its name in a mounted view: the disks that vm1 had then
  qcowfs restore /backups vm1/sda@latest - | ssh other 'dd of=/dev/sdb bs=1M'
      to the standard output; the copy is whole only if this exits with 0

A file gets its name when all of it is on the disk; until then it is
.NAME.qcowfs-partial-PID in the same folder, which goes away if the restore is
interrupted or fails. Of several disks none gets its name before all are done.
Holes stay holes; on a device, what is zeros is made to read as zeros. Where
source and target lie on one file system with reflinks (XFS, btrfs), data is
shared and not copied.

All disks of FOLDER are those that it holds directly, as in its @times; if it
holds none so, all beneath it.";

/// Write a restore point to a file or a block device
#[derive(Debug, Args)]
#[command(after_help = with_names(EXAMPLES))]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// The restore point, as `qcowfs ls` prints it; or FOLDER@WHEN for all disks of a VM
    checkpoint: String,

    /// File or block device; a folder, for files named after the disks; - for the standard output
    /// (raw, one disk)
    target: PathBuf,

    /// What to write [default: raw]
    #[arg(short = 'O', value_name = "FORMAT", value_enum)]
    output: Option<OutputFormat>,

    /// Compress the clusters of a qcow2 image
    #[arg(short = 'c', value_name = "METHOD", value_enum)]
    method: Option<Method>,

    /// The same as -c zstd
    #[arg(long)]
    compress: bool,

    /// Overwrite what is there without asking
    #[arg(short, long)]
    force: bool,

    /// Read everything again in the end, and compare
    #[arg(long)]
    verify: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    Raw,
    Qcow2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    Zstd,
}

pub(super) fn run(args: &RestoreArgs, verbosity: Verbosity) -> Result<()> {
    let format = args.format()?;
    outlive_long_files()?;
    let backups = args.source.open()?;
    let protected = Protected::new(&backups.catalog.inventory, args.source.source.is_dir())?;
    if args.target == Path::new(STANDARD_OUTPUT) {
        return to_standard_output(args, &backups, &protected, format, verbosity);
    }
    let orders = orders(args, &backups, format, verbosity)?;
    orders.iter().try_for_each(|order| protected.refuse(&order.target))?;
    Target::refuse_same(orders.iter().map(|order| &order.target))?;
    orders.iter().try_for_each(|order| refuse_unfit(order.image, &order.target, format))?;
    confirm(&orders, args.force)?;
    // Until here nothing is there to clean up, and who waits for an answer would see no signal.
    let stop = obey_signals()?;
    let teller = Teller::new(verbosity.is_quiet());
    let options = Options { format, verify: args.verify };
    let batch = Batch::new(options, &protected, stop);
    let done = aside(|| write(&orders, batch, &teller));
    teller.clear();
    let done = done?;
    if verbosity.is_quiet() {
        return Ok(());
    }
    print(|out| {
        let tell = |((order, done), took): ((&Order<'_>, &Done), &Duration)| {
            let target = order.target.path().display().to_string();
            tell(out, &backups, (order.id, &target), done, options, *took)
        };
        orders.iter().zip(&done.0).zip(&done.1).try_for_each(tell)
    })
}

/// An end that takes no longer is not told of beforehand.
const PATIENCE: Duration = Duration::from_secs(1);

/// The target that stands for the standard output; a file of that name is `./-`.
const STANDARD_OUTPUT: &str = "-";

fn to_standard_output(
    args: &RestoreArgs,
    backups: &Backups,
    protected: &Protected,
    format: Format,
    verbosity: Verbosity,
) -> Result<()> {
    let usage = |what: &str| Err(Error::Usage(format!("-: {what}; a file of that name is ./-")));
    if format != Format::Raw {
        return usage("only a raw disk goes to the standard output");
    }
    if args.verify {
        return usage("what went to the standard output cannot be read again: leave --verify out");
    }
    if backups.pick_all(&args.checkpoint)?.is_some() {
        return usage("only one disk goes to the standard output");
    }
    let id = backups.pick(&args.checkpoint)?;
    let image = backups.image(id)?;
    note_newer(&args.checkpoint, backups, id, verbosity);
    let output = Output::standard(protected)?;
    // A reader that takes nothing may keep us in a write for ever. There is nothing to clean up, and
    // so no reason to wait for the end of it.
    end_at_a_signal()?;
    let start = Instant::now();
    let teller = Teller::new(verbosity.is_quiet());
    teller.about(&backups.name(id));
    let done = output.write(image, &Stop::default(), &teller);
    teller.clear();
    let done = done.map_err(|e| e.about(backups.name(id)))?;
    if !verbosity.is_quiet() {
        let options = Options { format, verify: false };
        let target = (id, "standard output");
        // If nobody can read it, the disk is written all the same.
        let _unread = tell(&mut io::stderr(), backups, target, &done, options, start.elapsed());
    }
    Ok(())
}

impl RestoreArgs {
    fn format(&self) -> Result<Format> {
        let usage = |what: &str| Err(Error::Usage(what.to_owned()));
        let compressed = self.compress || self.method.is_some();
        let ending = self.target.extension().unwrap_or_default().to_string_lossy();
        let ending = ending.to_ascii_lowercase();
        let is_file = !self.target.is_dir();
        match self.output {
            Some(OutputFormat::Qcow2) => Ok(Format::Qcow2 { compressed }),
            _ if compressed => usage("only a qcow2 image has compressed clusters: say -O qcow2"),
            None if ending == "qcow2" && is_file => {
                usage("the target's name ends in .qcow2: say -O qcow2, or -O raw if that is meant")
            }
            None if is_foreign(&ending) && is_file => Err(Error::Usage(format!(
                "the target's name ends in .{ending}, and only raw and qcow2 can be written: say -O raw if \
                 that is meant; `qemu-img convert` makes other formats of it"
            ))),
            _ => Ok(Format::Raw),
        }
    }
}

/// Whether files of this ending, in small letters, are disks in a format that is not written here.
fn is_foreign(ending: &str) -> bool {
    ["vmdk", "vdi", "vhd", "vhdx", "vpc", "qcow", "qed", "hdd"].contains(&ending)
}

/// Those of SIGINT, SIGTERM and SIGHUP that are not ignored: what was (`nohup`, a shell's background)
/// stays so.
fn signals_to_obey() -> impl Iterator<Item = i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let is_ignored = move |signal: i32| ignored >> (signal - 1) & 1 == 1;
    [SIGINT, SIGTERM, SIGHUP].into_iter().filter(move |signal| !is_ignored(*signal))
}

/// A signal ends the work and has it clean up, of which is told if it takes long (a disk that is slow
/// to take what was written); a second one ends the process.
fn obey_signals() -> Result<Stop> {
    let stop = Stop::default();
    let flag = stop.flag();
    on_signals(move |signals| {
        signals.next();
        flag.store(true, Ordering::Relaxed);
        // Where there is no thread for it, nothing is said.
        let _none = thread::Builder::new().spawn(|| {
            thread::sleep(PATIENCE);
            super::complain(
                "interrupted: waiting for the target (or the source) to answer, then nothing is left of \
                 it. A second Ctrl-C does not wait, and leaves a file .NAME.qcowfs-partial-PID",
            );
        });
        signals.next();
    })?;
    Ok(stop)
}

/// A signal ends the process, whatever it waits for.
fn end_at_a_signal() -> Result<()> {
    on_signals(|signals| {
        signals.next();
        super::complain("interrupted: what came out is not the whole disk: start again");
    })
}

/// A file longer than `ulimit -f` allows is an error as any other, and not the end of the process, which
/// would leave what there is of it.
fn outlive_long_files() -> Result<()> {
    let registered = signal_hook::flag::register(SIGXFSZ, Arc::default());
    registered.map(drop).map_err(|e| Error::io("signals", e))
}

/// Works in another thread, if there is one. Signals come to this one first: it must be there to take
/// them, whatever a disk lets that one wait for.
fn aside<R: Send>(work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    let work = Mutex::new(Some(work));
    let once = || {
        let work = work.lock().take();
        work.map_or_else(|| Err(Error::Usage("interrupted".into())), |work| work())
    };
    thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, once) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(_) => once(),
    })
}

/// Has a thread of its own wait for signals, which then ends the process.
fn on_signals(wait: impl FnOnce(&mut dyn Iterator<Item = i32>) + Send + 'static) -> Result<()> {
    let fail = |e| {
        let what = format!("no thread for Ctrl-C can be had: {e}; more are allowed by `ulimit -u`");
        Error::Usage(what)
    };
    let mut signals = Signals::new(signals_to_obey()).map_err(fail)?;
    let wait = move || {
        wait(&mut signals.forever());
        std::process::exit(1);
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop).map_err(fail)
}

/// Asks before anything is overwritten; refuses where nobody can answer.
fn confirm(orders: &[Order<'_>], force: bool) -> Result<()> {
    let lost: Vec<String> = orders.iter().filter_map(|order| order.target.what_is_lost()).collect();
    if lost.is_empty() || force {
        return Ok(());
    }
    let lost = lost.join(", ");
    let refused = |what: &str| Err(Error::Usage(format!("{lost}: {what}")));
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return refused("say --force to overwrite it");
    }
    let mut answer = String::new();
    write!(io::stderr(), "{lost}. Overwrite it? [y/N] ")
        .and_then(|()| io::stdin().read_line(&mut answer))
        .map_err(|e| Error::io("terminal", e))?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        return refused("not overwritten: name another target, or answer y");
    }
    Ok(())
}

fn write(
    orders: &[Order<'_>],
    mut batch: Batch<'_>,
    teller: &Teller,
) -> Result<(Vec<Done>, Vec<Duration>)> {
    batch.make_folders(orders.iter().map(|order| &order.target))?;
    let (mut done, mut took) = (Vec::new(), Vec::new());
    for order in orders {
        let start = Instant::now();
        teller.about(&order.name);
        let written = batch.write(order.image, &order.target, teller);
        done.push(written.map_err(|e| e.about(&order.name))?);
        took.push(start.elapsed());
    }
    batch.publish()?;
    Ok((done, took))
}

fn tell(
    out: &mut dyn Write,
    backups: &Backups,
    (id, target): (CheckpointId, &str),
    done: &Done,
    options: Options,
    took: Duration,
) -> io::Result<()> {
    let time = rfc3339(backups.catalog.checkpoint(id).time);
    let format = match options.format {
        Format::Raw => "raw",
        Format::Qcow2 { compressed: false } => "qcow2",
        Format::Qcow2 { compressed: true } => "qcow2, zstd",
    };
    writeln!(out, "{target}: {} of {time} ({format})", backups.name(id))?;
    let data = done.written + done.cloned;
    let (size, holes) = (human_size(done.size), human_size(done.size.saturating_sub(data)));
    let verified = if options.verify { ", verified" } else { "" };
    let (data_size, seconds) = (human_size(data), took.as_secs_f64());
    writeln!(out, "  {size}: {data_size} of data, {holes} of zeros; {seconds:.1} s{verified}")?;
    if done.cloned > 0 {
        writeln!(out, "  cloned {} of {data} bytes", done.cloned)?;
    }
    if done.lost > 0 {
        writeln!(out, "  {} bytes are lost, with zeros in their place", done.lost)?;
    }
    if done.left > 0 {
        writeln!(out, "  {} bytes of the device behind it were left as they are", done.left)?;
    }
    Ok(())
}
