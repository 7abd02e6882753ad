//! What all commands have in common that take a restore point by its name.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::AllowedRoots;
use crate::error::{Error, Result};
use crate::tree::ViewOptions;
use crate::tree::backups::Backups;
use crate::tree::missing::Missing;

/// How a restore point is named, for the help texts.
const HOW_TO_NAME: &str = "\
CHECKPOINT is a restore point as `qcowfs ls` prints it:
  vm1/sda/INC-1706260646     the first parts may be left out where only one is
                             meant
  vm1/sda@latest             the newest that is whole
  vm1/sda@2024-01-26T10:00   the newest not later than that; UTC unless it says
                             +02:00 or the like
  vm1/sda@2024-01-26         the newest of that day or before
or as a mounted view has it:
  vm1/@times/2024-01-26T09:17:26Z/sda.img
With a source of one disk, the disk may be left out: @latest";

/// The end of a help text: examples, and how a restore point is named.
pub(super) fn with_names(examples: &str) -> String {
    format!("{examples}\n\n{HOW_TO_NAME}")
}

/// A source, and what to do with restore points of which something is lost.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// Folder of backups, or one backup file
    pub(super) source: PathBuf,

    /// Where a part of the chain is lost: refuse it all (hide; if not given), fail where it is lost
    /// (eio), or take zeros there (zero)
    #[arg(long, value_name = "hide|eio|zero", default_value = "hide", hide_default_value = true)]
    pub(super) missing: Missing,

    #[command(flatten)]
    allowed: AllowedRoots,
}

impl SourceArgs {
    pub(super) fn open(&self) -> Result<Backups> {
        let allowed = self.allowed.list.clone();
        let options = ViewOptions { allowed, missing: self.missing, ..ViewOptions::default() };
        Backups::open(&self.source, &options)
    }
}

/// Has `write` write to the standard output. A reader that has seen enough (`... | head`) is no
/// failure.
pub(super) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Error::io("standard output", e)),
    }
}
