//! What of a source is not shown.

use std::path::PathBuf;

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
