//! A folder's state, to show that nobody touched it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::content::sha256;

/// Everything about each path beneath a folder but when it was last read, and its count of blocks:
/// a file system may settle that some time after the files were written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SourceState(BTreeMap<PathBuf, Entry>);

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    content: String,
}

impl SourceState {
    pub(crate) fn of(folder: &Path) -> Self {
        let mut found = BTreeMap::new();
        visit(folder, &mut found);
        Self(found)
    }

    /// Panics with the first difference when `folder` is not as it was.
    pub(crate) fn must_still_hold(&self, folder: &Path) {
        let now = Self::of(folder);
        for (path, entry) in &self.0 {
            assert_eq!(Some(entry), now.0.get(path), "{path:?} changed");
        }
        let new: Vec<_> = now.0.keys().filter(|p| !self.0.contains_key(*p)).collect();
        assert!(new.is_empty(), "new in the source: {new:?}");
    }
}

fn visit(path: &Path, found: &mut BTreeMap<PathBuf, Entry>) {
    let stat = path.symlink_metadata().expect("a path of the source");
    let content = if stat.is_symlink() {
        format!("{:?}", path.read_link().expect("a link"))
    } else if stat.is_file() {
        sha256(path)
    } else {
        String::new()
    };
    let entry = Entry {
        inode: stat.ino(),
        mode: stat.mode(),
        owner: (stat.uid(), stat.gid()),
        size: stat.size(),
        modified: (stat.mtime(), stat.mtime_nsec()),
        changed: (stat.ctime(), stat.ctime_nsec()),
        content,
    };
    found.insert(path.to_path_buf(), entry);
    if stat.is_dir() {
        for child in path.read_dir().expect("a folder of the source") {
            visit(&child.expect("an entry").path(), found);
        }
    }
}
