//! Which disks a restore writes, and where to: all that can be refused before anything is touched.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::Arc;

use super::{RestoreArgs, is_foreign};
use crate::chain::catalog::CheckpointId;
use crate::cli::logging::Verbosity;
use crate::cli::size::human_size;
use crate::error::{Error, Result};
use crate::restore::{Format, Target, left_behind};
use crate::tree::backups::Backups;
use crate::tree::missing::Missing;
use crate::tree::plan::{LATEST, rfc3339};
use crate::tree::select::Together;
use crate::view::DiskImage;

/// One disk to write.
pub(super) struct Order<'a> {
    pub(super) id: CheckpointId,
    pub(super) name: String,
    pub(super) image: &'a Arc<DiskImage>,
    pub(super) target: Target,
}

impl<'a> Order<'a> {
    fn new(backups: &'a Backups, id: CheckpointId, target: Target) -> Result<Self> {
        let (name, image) = (backups.name(id), backups.image(id)?);
        if backups.images.missing() == Missing::Eio {
            refuse_lost(&name, image)?;
        }
        refuse_no_device(&target)?;
        Ok(Self { id, name, image, target })
    }
}

/// The disks that are asked for, in the order of their names.
pub(super) fn orders<'a>(
    args: &RestoreArgs,
    backups: &'a Backups,
    format: Format,
    verbosity: Verbosity,
) -> Result<Vec<Order<'a>>> {
    let orders = match backups.pick_all(&args.checkpoint)? {
        Some(all) => all_orders(args, backups, format, verbosity, &all)?,
        None => vec![one_order(args, backups, format)?],
    };
    // The whole source is meant also where it has one disk.
    if let [_] = orders.as_slice()
        && args.checkpoint.starts_with('@')
        && let Some(links) = backups.names.links_in("")
    {
        verbosity.note(&format!("without {links}"));
    }
    for order in &orders {
        note_newer(&args.checkpoint, backups, order.id, verbosity);
        for (path, bytes) in left_behind(order.target.path()) {
            let (path, size) = (path.display(), human_size(bytes));
            verbosity.note(&format!(
                "a restore that was killed left {path} ({size}): if none is running elsewhere, remove it"
            ));
        }
    }
    Ok(orders)
}

/// Who asks for the newest that is whole is told of a newer one that is not.
pub(super) fn note_newer(wanted: &str, backups: &Backups, id: CheckpointId, verbosity: Verbosity) {
    let broken = backups.newer_and_broken(id);
    let Some(newest) = broken.last().filter(|_| wanted.ends_with(LATEST)) else { return };
    let (name, more) = (backups.name(id), broken.len() - 1);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    verbosity.note(&format!(
        "{newest}{more} of this disk is newer than {name}, and not whole: `qcowfs ls` says why"
    ));
}

fn one_order<'a>(args: &RestoreArgs, backups: &'a Backups, format: Format) -> Result<Order<'a>> {
    let id = backups.pick(&args.checkpoint)?;
    let disk = backups.plan.disk_of(id).map(|disk| disk.path.as_path());
    let name = disk.and_then(Path::file_name).unwrap_or_default();
    let within = args.target.join(file_name(&name.to_string_lossy(), format));
    let target = if args.target.is_dir() || says_folder(&args.target) {
        // One that is not there is made, as for the disks of a VM.
        Target::look_ahead(&within)?
    } else {
        Target::look_at(&args.target)?
    };
    Order::new(backups, id, target)
}

fn all_orders<'a>(
    args: &RestoreArgs,
    backups: &'a Backups,
    format: Format,
    verbosity: Verbosity,
    all: &Together,
) -> Result<Vec<Order<'a>>> {
    let folder = args.target.as_path();
    if folder.exists() && !folder.is_dir() {
        let what = "all disks of a VM go to a folder: name one, or a single disk";
        return Err(Error::Usage(format!("{}: {what}", folder.display())));
    }
    if !folder.exists() && !says_folder(folder) && says_disk(folder) {
        let disks: Vec<_> = all.disks.iter().map(|(_, id)| backups.name(*id)).collect();
        let (what, disks) = (&args.checkpoint, disks.join(", "));
        return Err(Error::Usage(format!(
            "{}: would be a folder, for {what} is all of these: {disks}; name one of them, or add a / to \
             the target if a folder is meant",
            folder.display()
        )));
    }
    for without in &all.without {
        verbosity.note(&format!("without {without}"));
    }
    if let Some(times) = different_times(backups, &all.disks) {
        verbosity.note(&format!("the disks are not of the same time: {times}"));
    }
    let mut orders = Vec::with_capacity(all.disks.len());
    let mut names = BTreeSet::new();
    for (path, id) in &all.disks {
        let target = folder.join(file_name(path, format));
        if !names.insert(target.clone()) {
            let what = format!(
                "{}: two disks would have this name: restore them one by one",
                target.display()
            );
            return Err(Error::Usage(what));
        }
        let order = Order::new(backups, *id, Target::look_ahead(&target)?);
        orders.push(order.map_err(|e| and_the_others(e, backups, *id, &all.disks))?);
    }
    Ok(orders)
}

/// When each disk of a VM was backed up, oldest first, unless that was at the same second: one that
/// lacks a backup which the others have would be older than they are.
fn different_times(backups: &Backups, all: &[(String, CheckpointId)]) -> Option<String> {
    let time = |id: &CheckpointId| rfc3339(backups.catalog.checkpoint(*id).time);
    let mut times: Vec<_> = all.iter().map(|(disk, id)| (time(id), disk)).collect();
    times.sort();
    if times.first()?.0 == times.last()?.0 {
        return None;
    }
    let told: Vec<_> = times.iter().map(|(time, disk)| format!("{disk} of {time}")).collect();
    Some(told.join(", "))
}

/// What is wrong with one disk of a VM keeps the others back, too: says how to get at them.
fn and_the_others(
    error: Error,
    backups: &Backups,
    one: CheckpointId,
    all: &[(String, CheckpointId)],
) -> Error {
    let whole = all.iter().map(|(_, id)| *id).filter(|id| backups.is_whole(*id));
    let others: Vec<String> = whole.map(|id| backups.name(id)).collect();
    if backups.is_whole(one) || others.is_empty() {
        return error;
    }
    let others = others.join(", ");
    let what = "no disk of the VM is restored then, but each of these can be by itself";
    Error::Usage(format!("{error}; {what}: {others}"))
}

/// With `--missing eio`, what is lost would end the work when it comes to it, and leave nothing: that
/// can be said before.
fn refuse_lost(name: &str, image: &DiskImage) -> Result<()> {
    let Some(lost) = image.lost() else { return Ok(()) };
    let Some(first) = lost.ranges.first() else { return Ok(()) };
    let (start, end, fault, all) = (first.range.start, first.range.end, first.fault, lost.bytes);
    Err(Error::Usage(format!(
        "{name}: nothing is written, for bytes {start} to {end} of the disk are lost: {fault}; {all} \
         bytes are lost in all: see `qcowfs map`; `--missing zero` restores the rest with zeros in \
         their place"
    )))
}

/// A slip in the name of a device would make a file there, which fills the memory.
fn refuse_no_device(target: &Target) -> Result<()> {
    match target {
        Target::New(path) if path.starts_with("/dev") && !path.starts_with("/dev/shm") => {
            let what = "there is no such device: `lsblk` lists those that there are";
            Err(Error::Usage(format!("{}: {what}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Whether a path can only be meant for a folder.
fn says_folder(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    let is_name = matches!(path.components().next_back(), Some(Component::Normal(_)));
    !is_name || bytes.ends_with(b"/") || bytes.ends_with(b"/.")
}

/// Whether a path has the name of a disk's file.
fn says_disk(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    ending.is_some_and(|ending| ["raw", "img", "qcow2"].contains(&&*ending) || is_foreign(&ending))
}

/// The name of the file of a disk.
fn file_name(disk: &str, format: Format) -> String {
    let end = if format == Format::Raw { ".raw" } else { ".qcow2" };
    if disk.ends_with(end) { disk.to_owned() } else { format!("{disk}{end}") }
}
