//! Whether QEMU has a target open.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};
use crate::sys;

/// Where QEMU locks byte 100 + n of an image it holds permission n (block/file-posix.c).
const QEMU_LOCK_WRITE: Range<i64> = 101..102;
/// Every permission that QEMU can hold, and from 200 on what it allows to nobody else.
const QEMU_LOCKS: Range<i64> = 100..300;

/// Refuses a file that a virtual machine would write on to, and never see what was restored. Who
/// only reads it keeps the old one.
pub(super) fn refuse_file_in_use(path: &Path) -> Result<()> {
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
