//! A part of a source, as a user names it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::jobs::{Job, Jobs};
use crate::chain::catalog::{Catalog, CheckpointId};
use crate::chain::inventory::FileId;
use crate::error::{Error, Result};
use crate::tree::plan::Plan;
use crate::tree::select::Names;

/// Files and folders.
#[derive(Debug, Default)]
pub(super) struct Subset {
    files: BTreeSet<FileId>,
    folders: Vec<PathBuf>,
}

/// The restore point of this name, or those of all disks of a VM.
fn points_named(names: &Names, text: &str) -> Result<Vec<CheckpointId>, String> {
    match names.pick_all(text)? {
        Some(all) => Ok(all.disks.into_iter().map(|(_, id)| id).collect()),
        None => Ok(vec![names.pick(text)?]),
    }
}

impl Subset {
    /// What all these words name: files and folders of the source; disks and restore points of the
    /// view, with their chains.
    pub(super) fn new(catalog: &Catalog, plan: &Plan, words: &[PathBuf]) -> Result<Self> {
        let names = Names::new(catalog, plan);
        let mut subset = Self::default();
        for word in words {
            let is_path = subset.add_path(catalog, word);
            let text = word.to_string_lossy();
            let points = match names.points_of(&text) {
                Some(points) => points,
                None if is_path => continue,
                None => points_named(&names, &text).map_err(|e| {
                    Error::Usage(format!("{e}; nor is it a file or folder of the source"))
                })?,
            };
            for id in points {
                subset.add_chain(catalog, id);
            }
        }
        Ok(subset)
    }

    /// Adds a file or folder, named within the source or as it lies in the file system.
    fn add_path(&mut self, catalog: &Catalog, word: &Path) -> bool {
        for path in &catalog.inventory.paths_of(word) {
            if let Some(file) = catalog.inventory.at(path) {
                self.files.insert(file);
                return true;
            }
            if catalog.inventory.folders().contains_key(path) {
                self.folders.push(path.clone());
                return true;
            }
        }
        false
    }

    fn add_chain(&mut self, catalog: &Catalog, id: CheckpointId) {
        for id in std::iter::once(id).chain(catalog.ancestors(id)) {
            let point = catalog.checkpoint(id);
            self.files.insert(point.file);
            self.files.extend(point.data_file);
        }
    }

    /// Drops the jobs of all other files.
    pub(super) fn keep(&self, jobs: &mut Jobs) {
        let within = |path: &Path| self.folders.iter().any(|folder| path.starts_with(folder));
        let is_meant = |job: &Job| {
            job.file.is_some_and(|file| self.files.contains(&file)) || within(&job.path)
        };
        jobs.list.retain(is_meant);
        jobs.ignored.retain(|ignored| within(Path::new(&ignored.path)));
    }
}
