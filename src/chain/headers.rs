//! Where the file is that a qcow2 header names: in the source, beneath a folder that is allowed beside
//! it, or not at all.
//!
//! An absolute path of another machine is found again by name: beside the image that names it, or where the
//! source has the same last folders and name. A file that shares nothing but its name and lies
//! elsewhere is not taken; the error names it, for the user to decide.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use super::evidence::{Basis, Evidence};
use super::inventory::{FileId, FoundFile, Inventory};
use super::outside::why_missing;
use crate::layout::backing_name::BackingName;
use crate::source::Located;

/// What became of the file that a header names.
#[derive(Debug, Clone)]
pub(super) enum HeaderLink {
    /// The header names none.
    None,
    /// It is this file.
    To {
        file: FileId,
        evidence: Evidence,
        /// A file of the source that has the same name, where this one lies outside. Without it, it
        /// would be taken for the one.
        rival: Option<FileId>,
    },
    /// It is not there: what is missing and where it was looked for.
    Missing { path: PathBuf, reason: String },
}

/// Finds the files that headers name.
pub(super) struct Finder<'a> {
    inventory: &'a Inventory,
    by_name: HashMap<&'a OsStr, Vec<FileId>>,
    /// What lies in the source and is not read, and why.
    unread: HashMap<&'a Path, &'a str>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(inventory: &'a Inventory) -> Self {
        let mut by_name: HashMap<&OsStr, Vec<FileId>> = HashMap::new();
        for (id, file) in inventory.files().filter(|(_, file)| !file.is_outside()) {
            by_name.entry(file.name()).or_default().push(id);
        }
        let skipped = inventory.skipped().iter();
        let unread = skipped.map(|s| (s.path.as_path(), s.reason.as_str())).collect();
        Self { inventory, by_name, unread }
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
        if let Some(to) = self.exact(file, path).filter(|&id| id != image) {
            let text = format!("its header names the {what} {}", path.display());
            let is_outside = self.inventory.file(to).is_outside();
            let rival = if is_outside { self.by_last_parts(image, path) } else { None };
            return HeaderLink::To {
                file: to,
                evidence: Evidence::new(Basis::Header, text),
                rival,
            };
        }
        match self.by_last_parts(image, path) {
            Some(to) => {
                let here = self.inventory.file(to).path.display();
                let text = format!(
                    "its header names the {what} {}, which is {here} in this source",
                    path.display()
                );
                let evidence = Evidence::new(Basis::HeaderByName, text);
                HeaderLink::To { file: to, evidence, rival: None }
            }
            None => {
                HeaderLink::Missing { path: path.clone(), reason: self.missing(file, path, what) }
            }
        }
    }

    /// The file that the path leads to where it was written down: relative to the image's folder,
    /// or absolute; in the source, or outside of it where that is allowed.
    fn exact(&self, image: &FoundFile, path: &Path) -> Option<FileId> {
        match self.inventory.roots().locate(image.folder(), path) {
            Located::Source(path) | Located::Allowed(path) => self.inventory.at(&path),
            Located::Elsewhere(_) | Located::Unclear => None,
        }
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
        let beside = self.inventory.at(&folder.join(name)).filter(|&id| id != image);
        if let Some(id) = beside.filter(|&id| !self.inventory.file(id).is_outside()) {
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
        let mut reason = format!("its {what} {} is missing: ", path.display());
        reason += &self.looked_for(image, path);
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

    /// What was found where the file should be.
    fn looked_for(&self, image: &FoundFile, path: &Path) -> String {
        let roots = self.inventory.roots();
        if let Located::Source(here) = roots.locate(image.folder(), path)
            && let Some(why) = self.unread.get(here.as_path())
        {
            return format!("{:?} is there, but is not read: {why}", here.to_string_lossy());
        }
        let folder = image.folder();
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let not_here = format!(
            "there is no {:?} in the folder {:?} of this source",
            path.file_name().unwrap_or_default().to_string_lossy(),
            folder.to_string_lossy(),
        );
        match why_missing(self.inventory, image.folder(), path) {
            Some(outside) if path.is_relative() => outside,
            Some(outside) => format!("{outside}; {not_here}"),
            None => format!("{not_here}, nor under its own path"),
        }
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
