//! A file of the inventory, and what is known of it from an earlier look.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::content::{Content, QcowFacts};
use super::inventory::Inventory;
use crate::error::Error;
use crate::layout::sidecar::DeclaredFormat;
use crate::source::{FileStat, LocalFile, SourceRoot};

/// One regular file of the source, or one outside of it that is needed.
#[derive(Debug)]
pub struct FoundFile {
    /// Path within the source; absolute outside of it.
    pub path: PathBuf,
    /// As `stat` saw it.
    pub stat: FileStat,
    /// Its bytes; none if it could not be opened.
    pub source: Option<Arc<LocalFile>>,
    /// What its first bytes are.
    pub content: Content,
    /// What a user should know of a declaration that its bytes contradict.
    pub warning: Option<&'static str>,
    /// It changes: what its bytes are now they will not be in a moment.
    pub is_being_written: bool,
    /// Whether a QEMU process had it open for writing when it was looked at.
    pub is_in_use: bool,
    /// What was seen in it, before anybody said that it is something else.
    pub(super) seen: Seen,
}

/// What a look into a file came to.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) declared: Option<DeclaredFormat>,
    pub(super) content: Content,
}

/// What is known before everything is looked at.
pub struct Before<'a> {
    /// What an earlier look found: files that are the same still are not read again.
    pub earlier: Option<&'a Inventory>,
    /// A folder of the source that does not belong to it.
    pub passed_over: Option<&'a Path>,
    /// Whether the file at a path, with this stat, is being written to.
    pub is_being_written: &'a mut dyn FnMut(&Path, &FileStat) -> bool,
}

impl fmt::Debug for Before<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Before").finish_non_exhaustive()
    }
}

impl<'a> Before<'a> {
    /// Nothing is known of before.
    pub fn nothing(is_being_written: &'a mut impl FnMut(&Path, &FileStat) -> bool) -> Self {
        Self { earlier: None, passed_over: None, is_being_written }
    }

    /// The file as it was found earlier, if it is the same still.
    pub(super) fn same(
        &self,
        path: &Path,
        stat: &FileStat,
        declared: Option<DeclaredFormat>,
    ) -> Option<&'a FoundFile> {
        let earlier = self.earlier?;
        let file = earlier.file(earlier.at(path)?);
        let is_same = file.stat.is_same_file(stat) && file.seen.declared == declared;
        // What could not be read a moment ago is read again.
        let is_readable = !matches!(file.seen.content, Content::Unreadable(_));
        (is_same && is_readable).then_some(file)
    }
}

impl FoundFile {
    /// The file's name.
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// Whether it lies outside of the source.
    pub fn is_outside(&self) -> bool {
        self.path.is_absolute()
    }

    /// The folder that holds it, within the source; absolute outside of it.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Whether a QEMU process has it open for writing now.
    pub fn is_in_use_now(&self) -> bool {
        self.source.as_ref().is_some_and(|source| is_in_use(source))
    }

    /// Where the L1 table of a qcow2 image would end, if the file ends before.
    pub fn end_of_cut_table(&self) -> Option<u64> {
        let header = &self.qcow2()?.header;
        let end = header.l1_offset.saturating_add(u64::from(header.l1_size) * 8);
        Some(end).filter(|&end| end > self.stat.size)
    }

    /// Its qcow2 metadata, if that is what it is.
    pub fn qcow2(&self) -> Option<&QcowFacts> {
        match &self.content {
            Content::Qcow2(facts) => Some(facts),
            _ => None,
        }
    }

    /// Whether it may be a raw image: bytes without a known header.
    pub fn is_plain(&self) -> bool {
        matches!(self.content, Content::Plain)
    }

    /// The name of its folder, as a name for the disk in it.
    pub fn folder_name(&self, root: &SourceRoot) -> OsString {
        let name = self.folder().file_name().or_else(|| root.path().file_name());
        name.unwrap_or(OsStr::new("disk")).to_os_string()
    }
}

/// Whether a QEMU process has a file open for writing. One that cannot be asked is not.
pub(super) fn is_in_use(source: &LocalFile) -> bool {
    source.is_in_use().unwrap_or_else(|e| {
        log::debug!("cannot tell whether a VM has it open: {e}");
        false
    })
}

/// Whether a folder may well be read another time: it is there, and what it lies on does not answer.
pub(super) fn may_pass(error: &Error) -> bool {
    let Error::Io { source, .. } = error else { return false };
    let gone = [libc::ENOENT, libc::ENOTDIR, libc::EACCES, libc::EPERM, libc::ELOOP, libc::EXDEV];
    !source.raw_os_error().is_some_and(|number| gone.contains(&number))
}
