//! Folders that are made for targets.

use std::io;
use std::path::{Path, PathBuf};

use super::partial::{folder_of, sync_folder};
use crate::error::{Error, Result};

/// New folders. Those that nothing is in go away again.
#[derive(Debug, Default)]
pub(super) struct NewFolders(Vec<PathBuf>);

impl NewFolders {
    /// Makes a folder and those above it, if they are not there.
    pub(super) fn make(&mut self, folder: &Path) -> Result<()> {
        let missing: Vec<_> = folder.ancestors().take_while(|folder| !folder.is_dir()).collect();
        for folder in missing.into_iter().rev() {
            match std::fs::create_dir(folder) {
                Ok(()) => self.0.push(folder.to_path_buf()),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
                Err(e) => return Err(Error::io(folder, e)),
            }
        }
        Ok(())
    }

    /// Brings their names to the disk: those of what is in them do not lead there otherwise.
    pub(super) fn sync_names(&self) -> Result<()> {
        self.0.iter().try_for_each(|folder| sync_folder(folder_of(folder)))
    }
}

impl Drop for NewFolders {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            // It only succeeds where nothing is in it.
            let _gone = std::fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_that_are_new_and_empty_go_away() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("old")).unwrap();
        let mut new = NewFolders::default();
        for name in ["old", "a/b/c", "a/d"] {
            new.make(&at(name)).unwrap();
        }
        std::fs::write(at("a/d/disk"), "it").unwrap();
        drop(new);
        assert!(at("old").exists() && at("a/d/disk").exists() && !at("a/b").exists());
    }
}
