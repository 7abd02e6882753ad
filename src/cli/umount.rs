//! `qcowfs umount`.

use std::path::PathBuf;

use clap::Args;

use crate::error::Result;

/// Unmount a view, alive or dead
///
/// Only mounts of qcowfs are touched. Returns when the view is gone from the mount table.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qcowfs umount /mnt/view
      prints nothing, or who is in the way:
      qcowfs: /mnt/view: busy: `fuser -vm /mnt/view` shows who uses it; ...
  qcowfs umount --lazy /mnt/view
      although somebody still uses it: they may finish

A loop device on a disk.img keeps the view busy, too: `losetup -a` shows it,
`losetup -d` ends it.")]
pub(super) struct UmountArgs {
    /// Where the view is mounted
    #[arg(value_name = "MOUNTPOINT")]
    mount_point: PathBuf,

    /// Detach a view that is in use: it goes on, out of sight, until its last user lets go
    #[arg(short, long)]
    lazy: bool,
}

pub(super) fn run(args: &UmountArgs) -> Result<()> {
    crate::mount::unmount(&args.mount_point, args.lazy)
}
