//! What of a source is not shown.

use std::path::{Path, PathBuf};

/// What is said of a copy.
pub(super) const COPYING: &str = "by its name it is being copied, or was left of that: it is shown when it has its \
                       own name; if this is its own, declare it in qcowfs.toml (format = \"qcow2\")";

/// Something in the source that is not shown, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Path within the source.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
    /// What kind of reason that is.
    pub why: Why,
}

/// What kept something from being shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It should have been possible to look at it.
    Fault,
    /// It is a symbolic link.
    Link,
    /// It is nothing to be shown.
    Rule,
}

/// Whether a folder has the name of one that file systems, desktops and storage servers make for
/// themselves, in which nobody keeps backups. Most may not look into it.
pub(super) fn is_of_system(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let known =
        ["lost+found", "System Volume Information", "@eaDir", "#recycle", "#snapshot", ".snapshot"];
    known.contains(&&*name) || name.starts_with(".Trash-")
}
