//! What an image is, and what it stands on: the decision that the linker makes about each.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::evidence::Evidence;
use super::inventory::{FileId, FoundFile};

/// What kind of restore point a checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Holds the whole disk.
    Full,
    /// A full one beside the chain.
    Copy,
    /// Holds what changed since its parent.
    Incremental,
    /// Holds what changed since its parent, and is nobody's parent itself.
    Differential,
    /// A state kept inside an image.
    Snapshot,
    /// An image over a backing file.
    Overlay,
    /// The VM's own disk, beside its backups.
    Live,
    /// In progress, or failed.
    Partial,
}

impl Kind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Copy => "copy",
            Self::Incremental => "incremental",
            Self::Differential => "differential",
            Self::Snapshot => "snapshot",
            Self::Overlay => "overlay",
            Self::Live => "live",
            Self::Partial => "partial",
        }
    }
}

/// Where a time was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeBasis {
    /// In `qcowfs.toml`.
    Declared,
    /// In the file's name.
    Name,
    /// In metadata: a snapshot table, a checkpoint description.
    Metadata,
    /// The file's last modification, which a copy may have changed.
    Mtime,
}

impl TimeBasis {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::Name => "name",
            Self::Metadata => "metadata",
            Self::Mtime => "mtime",
        }
    }
}

/// The disk that an image belongs to: a folder of the view.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskKey {
    /// The folder of the source that holds it.
    pub folder: PathBuf,
    /// The name that the tool knows it by.
    pub name: OsString,
}

/// What an image stands on.
#[derive(Debug, Clone)]
pub enum Parent {
    /// Nothing: what it does not hold reads as zeros.
    None,
    /// Another image.
    File {
        /// Which.
        file: FileId,
        /// Its bytes are the disk's, whatever they look like (backing format `raw`).
        as_raw: bool,
        /// Why.
        evidence: Evidence,
    },
    /// Something that is not there: the reason. What the image itself holds is good.
    Missing(String),
    /// Nothing that counts, for the image itself is not what it should be: the reason.
    Unusable(String),
}

/// What an image is, and what it stands on.
#[derive(Debug, Clone)]
pub struct Place {
    /// The disk that it belongs to.
    pub disk: DiskKey,
    /// The tool's own label, or the file's name.
    pub label: OsString,
    /// What kind of restore point it is.
    pub kind: Kind,
    /// When it was made.
    pub time: SystemTime,
    /// Where that was read.
    pub time_basis: TimeBasis,
    /// What it stands on.
    pub parent: Parent,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// An image on its own: named and dated as its file.
pub(super) fn plain_place(file: &FoundFile, parent: Parent) -> Place {
    Place {
        disk: DiskKey { folder: file.folder().to_path_buf(), name: file.name().to_os_string() },
        label: file.name().to_os_string(),
        kind: Kind::Full,
        time: file.stat.mtime,
        time_basis: TimeBasis::Mtime,
        parent,
        warnings: Vec::new(),
    }
}

/// The time that a name holds.
pub(super) fn from_epoch(epoch: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(epoch)
}
