//! Whether somebody has a target open: QEMU, by its locks; for a device anybody who writes to it.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::sysfs::{overlapping, writable_loop_on};
use crate::error::{Error, Result};
use crate::processes;
use crate::sys;

/// Where QEMU locks byte 100 + n of an image it holds permission n (block/file-posix.c).
const QEMU_LOCK_WRITE: Range<i64> = 101..102;
/// Every permission that QEMU can hold, and from 200 on what it allows to nobody else.
const QEMU_LOCKS: Range<i64> = 100..300;

/// How often a device is looked at again that somebody writes to: programs that manage devices open
/// them for a moment.
const LOOKS: u32 = 10;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Refuses a file that a virtual machine or a loop device would write on to, and never see what was
/// restored. Who only reads it keeps the old one.
pub(super) fn refuse_file_in_use(path: &Path) -> Result<()> {
    refuse_file_of_vm(path)?;
    let Some(device) = writable_loop_on(path) else { return Ok(()) };
    let (path, device) = (path.display(), device.display());
    let what = format!("{path}: {device} stands on it: unmount it, then `losetup -d {device}`");
    Err(Error::Usage(what))
}

/// Refuses a file that a virtual machine has open.
pub(super) fn refuse_file_of_vm(path: &Path) -> Result<()> {
    // Who may not read it may still have the right to replace it.
    let Ok(file) = File::open(path) else { return Ok(()) };
    refuse_locked(&file, QEMU_LOCK_WRITE, path)
}

/// Refuses a device that QEMU has open: it is written to in place, so readers see it, too.
pub(super) fn refuse_device_in_use(device: &File, path: &Path) -> Result<()> {
    refuse_locked(device, QEMU_LOCKS, path)
}

fn refuse_locked(file: &File, locks: Range<i64>, path: &Path) -> Result<()> {
    if sys::is_locked(file, locks).unwrap_or(false) {
        let path = path.display();
        let what = format!("{path}: a running VM has it open; stop the VM first");
        return Err(Error::Usage(what));
    }
    Ok(())
}

/// Refuses a device that another process has open for writing. QEMU holds no device for itself, and its
/// locks are those of the node that it opened: libvirt gives each machine nodes of its own. Who is
/// not root sees only his own processes.
pub(super) fn refuse_device_written(number: u64, path: &Path) -> Result<()> {
    let numbers = overlapping(number);
    let mut writer = writer_of(&numbers);
    for _ in 0..LOOKS {
        if writer.is_none() {
            return Ok(());
        }
        thread::sleep(PAUSE);
        writer = writer_of(&numbers);
    }
    let Some((process, program)) = writer else { return Ok(()) };
    Err(Error::Usage(format!(
        "{}: {program} (process {process}) has it open for writing; stop that first",
        path.display()
    )))
}

/// Another process that has one of these devices open for writing: its number and its name.
fn writer_of(numbers: &BTreeSet<u64>) -> Option<(String, String)> {
    let is_meant = |link: &Path| {
        let is_it = |stat: std::fs::Metadata| {
            stat.file_type().is_block_device() && numbers.contains(&stat.rdev())
        };
        let is_device = std::fs::read_link(link).is_ok_and(|path| path.starts_with("/dev"));
        is_device && std::fs::metadata(link).is_ok_and(is_it)
    };
    let writer = processes::others().find(|process| process.written(is_meant).next().is_some())?;
    let program = writer.program();
    Some((writer.number, program))
}
