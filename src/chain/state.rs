//! Whether an image can be used, and what is left of it where not.

use std::path::Path;

use super::inventory::{Content, FileId, FoundFile, Inventory};
use super::link::Links;
use super::place::{Kind, Parent, Place};
use crate::extent::Fault;
use crate::layer::qcow2::Encryption;

/// Whether a checkpoint can be assembled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Yes.
    Whole,
    /// Not all of it: the reason, and what to do.
    Broken(String),
}

/// What of an image can be used, whatever it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Left {
    /// What it has: all, or all up to where it is cut.
    All,
    /// Its tables, but not the clusters: why not.
    Tables(Fault),
    /// Nothing.
    Nothing,
}

/// What was found out about one image.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    pub(super) left: Left,
    pub(super) base_is_lost: bool,
    pub(super) state: State,
}

impl State {
    /// That of what stands on the image at `path`, which is broken for this reason. At any depth
    /// it names the first cause, and the image that has it.
    pub(super) fn above(path: &Path, reason: &str) -> Self {
        if reason.starts_with(STANDS_ON) {
            return Self::Broken(reason.to_owned());
        }
        Self::Broken(format!("{STANDS_ON}{}{BROKEN}{reason}", path.display()))
    }
}

const BEING_WRITTEN: &str = "it is still being written; it is shown as soon as it is complete, and \
                             nobody has written to it for a moment";
const IN_USE: &str = "a running VM (or another QEMU process) has it open for writing: what is in it changes \
                      while it is read; stop the VM, or look at a backup of it";
const STANDS_ON: &str = "it stands on ";
const BROKEN: &str = ", which cannot be assembled: ";

impl Condition {
    const SOUND: Self = Self { left: Left::All, base_is_lost: false, state: State::Whole };

    pub(super) fn unusable(reason: String) -> Self {
        Self::damaged(Left::Nothing, reason)
    }

    /// The same without what it stands on; the reason is that of the loss, unless there is one of
    /// its own.
    pub(super) fn without_base(self, reason: String) -> Self {
        let state = match self.state {
            State::Whole => State::Broken(reason),
            broken @ State::Broken(_) => broken,
        };
        Self { base_is_lost: true, state, ..self }
    }

    fn damaged(left: Left, reason: String) -> Self {
        Self { left, state: State::Broken(reason), ..Self::SOUND }
    }
}

/// Looks at one image, and not at what it stands on.
pub(super) fn examine(
    inventory: &Inventory,
    links: &Links,
    id: FileId,
    place: &Place,
) -> Condition {
    let file = inventory.file(id);
    // What its tool marks as unfinished has that as its reason, also when nobody writes to it.
    if place.kind != Kind::Partial
        && let Some(changing) = being_written(inventory, links, id, place)
    {
        let reason = if changing.is_in_use { IN_USE } else { BEING_WRITTEN };
        let state = if changing.path == file.path {
            State::Broken(reason.to_owned())
        } else {
            State::above(&changing.path, reason)
        };
        return Condition { state, left: Left::Nothing, ..Condition::SOUND };
    }
    if let Some(reason) = unusable(inventory, file, place) {
        return Condition::unusable(reason);
    }
    let found = damage(links, id, file).unwrap_or(Condition::SOUND);
    match &place.parent {
        Parent::Missing(reason) => found.without_base(reason.clone()),
        _ => found,
    }
}

/// The file that is being written to, of those whose bytes nothing else vouches for: the image, its
/// data file, and what it takes for raw bytes.
fn being_written<'a>(
    inventory: &'a Inventory,
    links: &Links,
    id: FileId,
    place: &Place,
) -> Option<&'a FoundFile> {
    let data = links.data_files.get(&id).and_then(|found| Some(found.as_ref().ok()?.file));
    let raw = match place.parent {
        Parent::File { file, as_raw: true, .. } => Some(file),
        _ => None,
    };
    let mut files = [Some(id), data, raw].into_iter().flatten().map(|id| inventory.file(id));
    files.find(|file| file.is_being_written)
}

/// Why nothing of an image can be used.
fn unusable(inventory: &Inventory, file: &FoundFile, place: &Place) -> Option<String> {
    match &file.content {
        Content::Unreadable(reason) => return Some(reason.clone()),
        Content::Foreign(format) if format.is_disk => {
            return Some(format!("it is a {}, which qcowfs does not read", format.name));
        }
        Content::Foreign(format) => {
            return Some(format!("it is a {}, not an image; unpack it first", format.name));
        }
        Content::Qcow2(_) | Content::Stream(_) | Content::Plain => {}
    }
    if file.is_in_use {
        return Some(IN_USE.into());
    }
    if let Some(reason) = inventory.wrong_sidecar(file.folder()) {
        return Some(reason.to_owned());
    }
    match &place.parent {
        Parent::Unusable(reason) => Some(reason.clone()),
        _ => None,
    }
}

/// What is wrong with an image of which something is left.
fn damage(links: &Links, id: FileId, file: &FoundFile) -> Option<Condition> {
    if let Some(encryption) = file.qcow2().and_then(|facts| facts.header.encryption) {
        let method = match encryption {
            Encryption::Aes => "AES",
            Encryption::Luks { .. } => "LUKS",
        };
        let reason = format!(
            "it is encrypted ({method}), and its content cannot be shown without the key; \
             qemu-img can read it: see `qemu-img convert --object secret,...`"
        );
        return Some(Condition::damaged(Left::Tables(Fault::Encrypted), reason));
    }
    if let Some(end) = file.end_of_cut_table() {
        let reason = format!(
            "the file is cut: it ends at byte {}, before the end of its L1 table at {end}; take it \
             from the original backup",
            file.stat.size
        );
        return Some(Condition::damaged(Left::All, reason));
    }
    if let Content::Stream(facts) = &file.content
        && let Some(fault) = &facts.fault
    {
        return Some(Condition::damaged(Left::All, fault.clone()));
    }
    if let Some(Err(reason)) = links.data_files.get(&id) {
        return Some(Condition::damaged(Left::Tables(Fault::NoDataFile), reason.clone()));
    }
    None
}
