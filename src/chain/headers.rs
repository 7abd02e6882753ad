//! Where the file is that a qcow2 header names: in the source, or not at all.
//!
//! An absolute path of another machine is found again by name: beside the image that names it, or where the
//! source has the same last folders and name. A file that shares nothing but its name and lies
//! elsewhere is not taken; the error names it, for the user to decide.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Component, Path, PathBuf};

use super::evidence::{Basis, Evidence};
use super::inventory::{FileId, FoundFile, Inventory};
use crate::layout::backing_name::BackingName;
use crate::layout::sidecar::normalise;

/// What became of the file that a header names.
#[derive(Debug, Clone)]
pub(super) enum HeaderLink {
    /// The header names none.
    None,
    /// It is this file.
    To { file: FileId, evidence: Evidence },
    /// It is not in the source: what is missing and where it was looked for.
    Missing { path: PathBuf, reason: String },
}

/// Finds the files that headers name.
pub(super) struct Finder<'a> {
    inventory: &'a Inventory,
    by_name: HashMap<&'a OsStr, Vec<FileId>>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(inventory: &'a Inventory) -> Self {
        let mut by_name: HashMap<&OsStr, Vec<FileId>> = HashMap::new();
        for (id, file) in inventory.files() {
            by_name.entry(file.name()).or_default().push(id);
        }
        Self { inventory, by_name }
    }

    /// The backing files of all images.
    pub(super) fn backing_links(&self) -> BTreeMap<FileId, HeaderLink> {
        let images = self.inventory.files().filter_map(|(id, file)| Some((id, file.qcow2()?)));
        images
            .map(|(id, facts)| (id, self.find(id, facts.backing.as_ref(), "backing file")))
            .collect()
    }

    /// The file that `image` calls by this name.
    pub(super) fn find(&self, image: FileId, name: Option<&BackingName>, what: &str) -> HeaderLink {
        let path = match name {
            None => return HeaderLink::None,
            Some(BackingName::Refused(reason)) => {
                let reason = format!("its {what} is refused: {reason}");
                return HeaderLink::Missing { path: PathBuf::new(), reason };
            }
            Some(BackingName::Path { path, .. }) => path,
        };
        let file = self.inventory.file(image);
        let found = self.exact(file, path).filter(|&id| id != image).map(|id| {
            let text = format!("its header names the {what} {}", path.display());
            (id, Evidence::new(Basis::Header, text))
        });
        let found = found.or_else(|| {
            let id = self.by_last_parts(image, path)?;
            let here = self.inventory.file(id).path.display();
            let text = format!(
                "its header names the {what} {}, which is {here} in this source",
                path.display()
            );
            Some((id, Evidence::new(Basis::HeaderByName, text)))
        });
        match found {
            Some((file, evidence)) => HeaderLink::To { file, evidence },
            None => {
                HeaderLink::Missing { path: path.clone(), reason: self.missing(file, path, what) }
            }
        }
    }

    /// The file that the path leads to where it was written down: relative to the image's folder,
    /// or absolute and beneath the source folder.
    fn exact(&self, image: &FoundFile, path: &Path) -> Option<FileId> {
        let within = if path.is_absolute() {
            path.strip_prefix(self.inventory.root().path()).ok()?.to_path_buf()
        } else {
            image.folder().join(path)
        };
        self.inventory.at(&normalise(&within)?)
    }

    /// The file with the same name beside the image, or the only one elsewhere with the same name
    /// in a folder of the same name.
    /// A relative path is of this place, and what it does not lead to is not there.
    fn by_last_parts(&self, image: FileId, path: &Path) -> Option<FileId> {
        if path.is_relative() {
            return None;
        }
        let folder = self.inventory.file(image).folder();
        let name = path.file_name()?;
        if let Some(id) = self.inventory.at(&folder.join(name)).filter(|&id| id != image) {
            return Some(id);
        }
        // The image lies in the folder that the path names, and the file is not beside it.
        if path.parent().and_then(Path::file_name) == folder.file_name() {
            return None;
        }
        let named = self.by_name.get(name)?.iter().copied().filter(|&id| id != image);
        let shared: Vec<(usize, FileId)> =
            named.map(|id| (shared_parts(path, &self.inventory.file(id).path), id)).collect();
        let most = shared.iter().map(|(parts, _)| *parts).max().filter(|&parts| parts >= 2)?;
        let mut best = shared.into_iter().filter(|(parts, _)| *parts == most);
        let (_, id) = best.next()?;
        best.next().is_none().then_some(id)
    }

    fn missing(&self, image: &FoundFile, path: &Path, what: &str) -> String {
        let name = path.file_name().unwrap_or_default();
        let folder = image.folder();
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let mut reason = format!(
            "its {what} {} is missing: there is no {:?} in the folder {:?} of this source, nor \
             under its own path",
            path.display(),
            name.to_string_lossy(),
            folder.to_string_lossy(),
        );
        let others = self.by_name.get(name).into_iter().flatten();
        if let Some(&other) =
            others.into_iter().find(|&&id| self.inventory.file(id).path != image.path)
        {
            let other = self.inventory.file(other).path.display().to_string();
            let _ = write!(
                reason,
                "; {other:?} has the same name but lies elsewhere: if it is the one, declare it as \
                 parent in qcowfs.toml"
            );
        }
        if !reason.ends_with("qcowfs.toml") {
            reason += "; if you know what it stands on, declare that in qcowfs.toml";
        }
        reason
    }
}

/// How many components two paths share, counted from their ends.
fn shared_parts(a: &Path, b: &Path) -> usize {
    let normal = |part: &Component<'_>| matches!(part, Component::Normal(_));
    let b: Vec<PathBuf> =
        b.components().rev().filter(normal).map(|part| PathBuf::from(part.as_os_str())).collect();
    let a = a.components().rev().filter(normal);
    a.zip(b).take_while(|(a, b)| a.as_os_str() == b.as_os_str()).count()
}
