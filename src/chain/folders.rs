//! What is in the folders of a source, listed before anybody walks through them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::found::{Before, may_pass};
use crate::error::Result;
use crate::source::{EntryKind, FoundEntry, SourceRoot};
use crate::workers;

/// Deeper folders are not looked into.
pub(super) const FOLDER_DEPTH: usize = 64;
/// Files that are looked into, or folders that are listed, at the same time: on a slow source each
/// look is a wait.
pub(super) const MOST_LOOKERS: usize = 8;

/// What is in each folder of the source that is looked into: those that lie too deep are not in it.
/// Several are listed at once. An error is one of a later look that may pass: nothing more is asked
/// of a server that does not answer.
pub(super) fn list_all(
    root: &SourceRoot,
    before: &Before<'_>,
) -> Result<HashMap<PathBuf, Result<Vec<FoundEntry>>>> {
    let (earlier, passed_over) = (before.earlier.is_some(), before.passed_over);
    let is_over = AtomicBool::new(false);
    let list = |folder: &PathBuf| {
        let entries = (!is_over.load(Ordering::Relaxed)).then(|| root.list(folder));
        if earlier && matches!(&entries, Some(Err(e)) if may_pass(e)) {
            is_over.store(true, Ordering::Relaxed);
        }
        entries
    };
    let mut all = HashMap::new();
    let mut level = vec![PathBuf::new()];
    for _ in 0..=FOLDER_DEPTH {
        let listed = workers::map(&level, MOST_LOOKERS, list);
        let mut below = Vec::new();
        for (folder, entries) in level.into_iter().zip(listed) {
            match entries {
                Some(Err(e)) if earlier && may_pass(&e) => return Err(e),
                Some(entries) => {
                    let folders = entries.iter().flatten();
                    let folders = folders.filter(|entry| entry.kind == EntryKind::Folder);
                    below.extend(folders.map(|entry| folder.join(&entry.name)));
                    all.insert(folder, entries);
                }
                // The error is one of those that follow.
                None => {}
            }
        }
        below.retain(|folder| Some(folder.as_path()) != passed_over);
        level = below;
    }
    Ok(all)
}
