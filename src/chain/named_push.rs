//! `virsh backup-begin` with names that the user gave: any name at all.
//!
//! What is left to know them by: increments whose headers name the same live disk, which is gone
//! or holds the checkpoints' bitmaps; and names that hold a checkpoint's name, or a word for full
//! and incremental beside what names the disk (`vda-full.qcow2`, `vda-inc1.qcow2`). With a folder
//! for each run it is the folder that has such a name (`full/vda.qcow2`, `inc1/vda.qcow2`). Where
//! neither is there, no link is made.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::evidence::{Basis, Evidence};
use super::headers::HeaderLink;
use super::inventory::{FileId, FoundFile};
use super::link::{DiskKey, Kind, Linker, Parent, Place, TimeBasis, plain_place};
use super::push::is_push_live;
use crate::layout::names::MarkedName;

/// A checkpoint that a description or a live disk's bitmap tells of.
#[derive(Debug, Clone)]
struct Known {
    name: String,
    parent: Option<String>,
    created: Option<SystemTime>,
    rank: usize,
}

/// A backup that the user named.
#[derive(Debug, Clone)]
struct Member {
    id: FileId,
    full: bool,
    key: String,
    checkpoint: Option<Known>,
    number: Option<u64>,
}

/// Decides about increments of live disks with names of the user's choice, and their full ones.
pub(super) fn place(linker: &mut Linker<'_>) {
    place_by(linker, Naming::File);
    place_by(linker, Naming::Folder);
}

/// Whose name tells what a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// The file's own.
    File,
    /// The folder's, one for each run; the files in it have the same names each time.
    Folder,
}

impl Naming {
    /// The folder that holds all backups of the disk.
    fn home(self, file: &FoundFile) -> Option<&Path> {
        match self {
            Self::File => Some(file.folder()),
            Self::Folder => file.folder().parent(),
        }
    }

    /// What tells this backup from the others in its home.
    fn name(self, file: &FoundFile) -> Option<String> {
        let name = file.name().to_str()?;
        match self {
            Self::File => Some(name.to_owned()),
            Self::Folder => Some(format!("{}.{name}", file.folder().file_name()?.to_str()?)),
        }
    }

    /// The name of the restore point.
    fn label(self, file: &FoundFile) -> OsString {
        match self {
            Self::File => file.name().to_os_string(),
            Self::Folder => file.folder().file_name().unwrap_or(file.name()).to_os_string(),
        }
    }
}

fn place_by(linker: &mut Linker<'_>, naming: Naming) {
    for ((folder, live), increments) in increments_by_live_disk(linker, naming) {
        let known = known_checkpoints(linker, &folder, &live);
        let named = |id| member(linker, id, naming, &known);
        let increments: Vec<Member> = increments.into_iter().filter_map(named).collect();
        let fulls: Vec<Member> = linker
            .free_images()
            .filter(|(_, file)| naming.home(file) == Some(&folder))
            .filter(|(id, file)| is_full(linker, *id, file))
            .filter_map(|(id, _)| named(id))
            .collect();
        let mut disks: BTreeMap<String, Vec<Member>> = BTreeMap::new();
        for member in increments {
            disks.entry(member.key.clone()).or_default().push(member);
        }
        for (key, mut members) in disks {
            members.extend(fulls.iter().filter(|full| full.key == key).cloned());
            if members.iter().any(|member| member.full) {
                let disk = DiskKey { folder: folder.clone(), name: live.clone() };
                place_disk(linker, &disk, naming, members);
            }
        }
    }
}

/// Undecided images over a live disk, or over something that is not there, by folder and by the
/// name of that disk.
fn increments_by_live_disk(
    linker: &Linker<'_>,
    naming: Naming,
) -> BTreeMap<(PathBuf, OsString), Vec<FileId>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (id, file) in linker.free_images() {
        let live = match linker.header(id) {
            HeaderLink::To { file, .. } => {
                let backing = linker.inventory.file(*file);
                let has_bitmaps = backing.qcow2().is_some_and(|facts| !facts.bitmaps.is_empty());
                if !has_bitmaps && !is_push_live(linker.inventory, *file) {
                    continue;
                }
                backing.name().to_os_string()
            }
            HeaderLink::Missing { name, .. } if !name.is_empty() => name.clone(),
            _ => continue,
        };
        if let Some(home) = naming.home(file) {
            groups.entry((home.to_path_buf(), live)).or_default().push(id);
        }
    }
    groups
}

fn is_full(linker: &Linker<'_>, id: FileId, file: &FoundFile) -> bool {
    let image = file.qcow2().is_some() || file.is_plain();
    image && matches!(linker.header(id), HeaderLink::None) && !is_push_live(linker.inventory, id)
}

/// The checkpoints that are known of a live disk: from descriptions, and from its bitmaps.
fn known_checkpoints(linker: &Linker<'_>, folder: &Path, live: &OsStr) -> Vec<Known> {
    let speaks_of =
        |files: &[String]| files.is_empty() || files.iter().any(|file| OsStr::new(file) == live);
    let mut known: Vec<Known> = linker
        .inventory
        .checkpoint_xml()
        .iter()
        .filter(|xml| speaks_of(&xml.disk_files))
        .map(|xml| Known {
            name: xml.name.clone(),
            parent: xml.parent.clone(),
            created: xml.created,
            rank: 0,
        })
        .collect();
    let image = linker.inventory.at(&folder.join(live)).map(|id| linker.inventory.file(id));
    let bitmaps = image.and_then(FoundFile::qcow2).map_or(&[][..], |facts| &facts.bitmaps);
    for (rank, bitmap) in bitmaps.iter().enumerate() {
        match known.iter_mut().find(|known| known.name == *bitmap) {
            Some(known) => known.rank = rank,
            None => known.push(Known { name: bitmap.clone(), parent: None, created: None, rank }),
        }
    }
    known
}

/// What an image's name says, if it says anything.
fn member(linker: &Linker<'_>, id: FileId, naming: Naming, known: &[Known]) -> Option<Member> {
    let file = linker.inventory.file(id);
    let full = matches!(linker.header(id), HeaderLink::None);
    let name = naming.name(file)?;
    let token = known
        .iter()
        .filter_map(|known| Some((known, without_token(&name, &known.name)?)))
        .max_by_key(|(known, _)| known.name.len());
    if let Some((checkpoint, key)) = token {
        let key = MarkedName::parse(OsStr::new(&key)).map_or(key, |marked| marked.key);
        let checkpoint = Some(checkpoint.clone());
        return Some(Member { id, full, key, checkpoint, number: None });
    }
    let marked = MarkedName::parse(OsStr::new(&name))?;
    (marked.incremental != full).then_some(Member {
        id,
        full,
        key: marked.key,
        checkpoint: None,
        number: marked.number,
    })
}

/// `name` without `token`, if it stands there as a word of its own.
fn without_token(name: &str, token: &str) -> Option<String> {
    let is_border = |c: Option<char>| c.is_none_or(|c| matches!(c, '.' | '-' | '_' | ' '));
    if token.is_empty() {
        return None;
    }
    let at = name.rfind(token)?;
    let (before, rest) = name.split_at_checked(at)?;
    let after = rest.get(token.len()..)?;
    if !is_border(before.chars().next_back()) || !is_border(after.chars().next()) {
        return None;
    }
    let before = before.trim_end_matches(['.', '-', '_', ' ']);
    Some([before, after.trim_start_matches(['.', '-', '_', ' '])].join(".").to_ascii_lowercase())
}

fn place_disk(linker: &mut Linker<'_>, disk: &DiskKey, naming: Naming, mut members: Vec<Member>) {
    members.sort_by_key(|member| sort_key(linker, member));
    let mut before: Vec<Member> = Vec::new();
    for member in members {
        let file = linker.inventory.file(member.id);
        let parent = if member.full { Parent::None } else { parent_of(linker, &member, &before) };
        let mut place = Place {
            disk: disk.clone(),
            label: naming.label(file),
            kind: if member.full { Kind::Full } else { Kind::Incremental },
            ..plain_place(file, parent)
        };
        if let Some(created) = member.checkpoint.as_ref().and_then(|known| known.created) {
            (place.time, place.time_basis) = (created, TimeBasis::Metadata);
        }
        if let Parent::File { evidence: Evidence { basis: Basis::TimeOrder, .. }, .. } =
            place.parent
        {
            place.warnings.push(
                "only the order of modification times says what this increment stands on, and a \
                 copy may have changed them; verify what you restore, or declare the parent in \
                 qcowfs.toml"
                    .into(),
            );
        }
        linker.places.insert(member.id, place);
        before.push(member);
    }
}

/// Full ones without a place in the order come first; then what is known of the checkpoint, then
/// the number in the name, then the time.
fn sort_key(
    linker: &Linker<'_>,
    member: &Member,
) -> (Option<SystemTime>, usize, Option<u64>, SystemTime) {
    let created = member.checkpoint.as_ref().and_then(|known| known.created);
    let rank = member.checkpoint.as_ref().map_or(0, |known| known.rank);
    (created, rank, member.number, linker.inventory.file(member.id).stat.mtime)
}

fn parent_of(linker: &Linker<'_>, member: &Member, before: &[Member]) -> Parent {
    let described = member.checkpoint.as_ref().and_then(|known| known.parent.as_deref());
    if let Some(parent) = described {
        let named = |other: &&Member| other.checkpoint.as_ref().is_some_and(|k| k.name == parent);
        return match before.iter().find(named) {
            Some(other) => {
                let text = format!("the checkpoint's description names its parent, {parent}");
                link_to(other, Basis::CheckpointXml, text)
            }
            None => Parent::Missing(format!(
                "the backup of the checkpoint {parent}, on which it stands, is missing"
            )),
        };
    }
    let Some(last) = before.last() else {
        return linker.header_parent(member.id);
    };
    if member.checkpoint.is_some() && last.checkpoint.is_some() {
        let text = "the live disk's bitmaps give the order of the checkpoints";
        return link_to(last, Basis::NamingRule, text.into());
    }
    match (member.number, last.number) {
        (Some(number), Some(before)) if number == before + 1 => {
            link_to(last, Basis::NamingRule, "the numbers in the names give the order".into())
        }
        (Some(number), Some(before)) if number > before => Parent::Missing(format!(
            "an increment is missing before it: number {number} follows number {before}"
        )),
        (Some(0 | 1), None) if last.full => {
            link_to(last, Basis::NamingRule, "the first increment after the full backup".into())
        }
        (Some(number), None) if last.full => Parent::Missing(format!(
            "an increment is missing before it: number {number} follows the full backup"
        )),
        _ => link_to(last, Basis::TimeOrder, "the backup before it in time".into()),
    }
}

fn link_to(member: &Member, basis: Basis, text: String) -> Parent {
    Parent::File { file: member.id, as_raw: false, evidence: Evidence::new(basis, text) }
}
