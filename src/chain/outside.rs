//! The files outside of the source that images stand on, beneath folders that the user allows.
//!
//! Their folders are not walked, and they are no disks of the view: each is opened because a header
//! or a declaration leads to it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::catalog::LONGEST_CHAIN;
use super::inventory::{Before, FileId, Inventory};
use crate::layout::backing_name::BackingName;
use crate::layout::sidecar::{DeclaredFormat, DeclaredParent};
use crate::source::{Located, Roots};

/// More files than this are not opened: no chain needs them.
const MOST: usize = LONGEST_CHAIN;

/// Takes in all files that are needed, with what they stand on themselves.
pub(super) fn take_in(inventory: &mut Inventory, before: &mut Before<'_>) {
    if !inventory.roots().allow_any() {
        return;
    }
    let mut outside = Outside { room: MOST, inventory, before };
    for path in outside.declared() {
        outside.take(&path, None);
    }
    // What comes in is at the end, and has its turn.
    let mut raw = BTreeSet::new();
    let mut next = 0;
    while next < outside.inventory.len() {
        let named = named_by(outside.inventory, FileId(next));
        if let Some(path) = named.image {
            outside.take(&path, None);
        }
        raw.extend(named.raw);
        next += 1;
    }
    // A guest can write anything into a raw disk: it is not asked what it is.
    for path in raw {
        outside.take(&path, Some(DeclaredFormat::Raw));
    }
    outside.inventory.number();
}

struct Outside<'a, 'b> {
    inventory: &'a mut Inventory,
    before: &'a mut Before<'b>,
    room: usize,
}

impl Outside<'_, '_> {
    fn take(&mut self, path: &Path, format: Option<DeclaredFormat>) {
        if self.inventory.at(path).is_some() || self.inventory.refusal(path).is_some() {
            return;
        }
        if let Some(room) = self.room.checked_sub(1) {
            self.room = room;
            self.inventory.take_outside(path, format, self.before);
        } else {
            let reason = format!("more than {MOST} files outside of the source are not opened");
            self.inventory.refuse_outside(path, reason);
        }
    }

    fn declared(&self) -> Vec<PathBuf> {
        let parents = self.inventory.declarations().values().filter_map(|d| match &d.parent {
            Some(DeclaredParent::File(path)) => Some(path),
            _ => None,
        });
        parents.filter_map(|path| allowed(self.inventory.roots(), Path::new(""), path)).collect()
    }
}

/// The files outside of the source that an image names.
#[derive(Default)]
struct Named {
    /// What may be an image, with a header of its own.
    image: Option<PathBuf>,
    /// Bytes of a disk, whatever they look like.
    raw: Vec<PathBuf>,
}

fn named_by(inventory: &Inventory, id: FileId) -> Named {
    let file = inventory.file(id);
    let Some(facts) = file.qcow2() else { return Named::default() };
    let path = |name: Option<&BackingName>| match name? {
        BackingName::Path { path, .. } => allowed(inventory.roots(), file.folder(), path),
        BackingName::Refused(_) => None,
    };
    let backing = path(facts.backing.as_ref());
    let mut raw: Vec<PathBuf> = path(facts.data_file.as_ref()).into_iter().collect();
    if facts.backing_format() == Some("raw") {
        raw.extend(backing);
        return Named { image: None, raw };
    }
    Named { image: backing, raw }
}

fn allowed(roots: &Roots, folder: &Path, name: &Path) -> Option<PathBuf> {
    match roots.locate(folder, name) {
        Located::Allowed(path) => Some(path),
        _ => None,
    }
}

/// Why what `image` calls by this name is not there, if it lies outside of the source; and what to
/// do.
pub(super) fn why_missing(inventory: &Inventory, folder: &Path, name: &Path) -> Option<String> {
    match inventory.roots().locate(folder, name) {
        Located::Source(_) => None,
        Located::Allowed(path) => {
            let refusal = inventory.refusal(&path).unwrap_or("it is not opened");
            Some(format!("it lies beneath an --allow-root, and there: {refusal}"))
        }
        Located::Elsewhere(path) => Some(format!(
            "it lies outside of the source; if it is meant, add --allow-root {}",
            shell_word(path.parent().unwrap_or(&path))
        )),
        Located::Unclear => Some(
            "it leads out of the source with a `..` behind a folder, which may be a symbolic link \
             and is not followed"
                .into(),
        ),
    }
}

/// A path as a word for the shell: quoted where it has anything but harmless characters.
fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@%,".contains(c);
    if text.chars().all(is_plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_is_one_word_for_the_shell() {
        assert_eq!(shell_word(Path::new("/srv/images-1.0")), "/srv/images-1.0");
        assert_eq!(shell_word(Path::new("/srv/my images")), "'/srv/my images'");
        assert_eq!(
            shell_word(Path::new("/a'; rm -rf ~; '/$(x)")),
            r"'/a'\''; rm -rf ~; '\''/$(x)'"
        );
    }
}
