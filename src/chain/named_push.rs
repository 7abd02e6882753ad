//! `virsh backup-begin` with names that the user gave: any name at all.
//!
//! What is left to know them by: increments whose headers name the same live disk, which is gone
//! or holds the checkpoints' bitmaps; and names that hold a checkpoint's name, a time, or a word
//! for full and incremental beside what names the disk (`vda-full.qcow2`, `vda-inc1.qcow2`). With
//! a folder for each run it is the folder that has such a name (`full/vda.qcow2`,
//! `inc1/vda.qcow2`). Their order is that of the times in checkpoint descriptions or names, or of
//! the numbers behind the word; a bitmap directory has none. Where there is no order, no link is
//! made.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::evidence::{Basis, Evidence};
use super::headers::HeaderLink;
use super::inventory::{FileId, FoundFile};
use super::link::Linker;
use super::place::{DiskKey, Kind, Parent, Place, TimeBasis, plain_place};
use crate::layout::names::{MarkNumber, MarkedName, is_epoch};

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

    /// What tells the backup at this path from the others in its home.
    fn name(self, path: &Path) -> Option<String> {
        let name = path.file_name()?.to_str()?;
        match self {
            Self::File => Some(name.to_owned()),
            Self::Folder => Some(format!("{}.{name}", path.parent()?.file_name()?.to_str()?)),
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

/// A checkpoint that a description or a live disk's bitmap tells of.
#[derive(Debug, Clone)]
struct Known {
    name: String,
    parent: Option<String>,
    /// Seconds since 1970.
    created: Option<u64>,
}

/// Where a backup stands in the order of a disk's backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Position {
    /// Nowhere in particular. A single full backup comes first.
    Unknown,
    /// A number behind the mark.
    Count(u64),
    /// A date behind the mark, from year to second.
    Date(u64),
    /// Seconds since 1970.
    Time(u64),
}

/// A backup that the user named.
#[derive(Debug, Clone)]
struct Member {
    id: FileId,
    full: bool,
    key: String,
    checkpoint: Option<Known>,
    position: Position,
}

fn place_by(linker: &mut Linker<'_>, naming: Naming) {
    let fulls = fulls_by_home(linker, naming);
    for ((home, live_path), increments) in increments_by_live_disk(linker, naming) {
        let Some(fulls) = fulls.get(&home) else { continue };
        let known = known_checkpoints(linker, &home, &live_path, &increments);
        let named = |ids: &[FileId]| -> Vec<Member> {
            ids.iter().filter_map(|&id| member(linker, id, naming, &live_path, &known)).collect()
        };
        let fulls = named(fulls);
        let mut disks: BTreeMap<String, Vec<Member>> = BTreeMap::new();
        for member in named(&increments) {
            disks.entry(member.key.clone()).or_default().push(member);
        }
        let name = live_path.file_name().unwrap_or_default().to_os_string();
        for (key, mut members) in disks {
            members.extend(fulls.iter().filter(|full| full.key == key).cloned());
            if members.iter().any(|member| member.full) {
                let disk = DiskKey { folder: home.clone(), name: name.clone() };
                place_disk(linker, &disk, naming, members, &known);
            }
        }
    }
}

/// Undecided images over a live disk, or over something that is not there, by home and by the path
/// of that disk.
fn increments_by_live_disk(
    linker: &Linker<'_>,
    naming: Naming,
) -> BTreeMap<(PathBuf, PathBuf), Vec<FileId>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (id, file) in linker.free_images() {
        let is_candidate = match linker.header(id) {
            HeaderLink::To { file: backing, .. } => {
                linker.is_increment_of_live(id, *backing) || leads_outside(linker, id)
            }
            HeaderLink::Missing { path, .. } => !path.as_os_str().is_empty(),
            HeaderLink::None => false,
        };
        let path = linker.backing_path(id).filter(|_| is_candidate);
        if let Some((home, path)) = naming.home(file).zip(path) {
            groups.entry((home.to_path_buf(), path.to_path_buf())).or_default().push(id);
        }
    }
    groups
}

/// Undecided images without a backing file, by home.
fn fulls_by_home(linker: &Linker<'_>, naming: Naming) -> BTreeMap<PathBuf, Vec<FileId>> {
    let mut fulls: BTreeMap<PathBuf, Vec<FileId>> = BTreeMap::new();
    for (id, file) in linker.free_images() {
        let stands_alone = matches!(linker.header(id), HeaderLink::None);
        if file.qcow2().is_some() && stands_alone && !linker.live.contains(&id) {
            let home = naming.home(file).map(Path::to_path_buf);
            fulls.entry(home.unwrap_or_default()).or_default().push(id);
        }
    }
    fulls
}

/// The checkpoints that are known of a live disk: from descriptions, and from its bitmaps.
fn known_checkpoints(
    linker: &Linker<'_>,
    home: &Path,
    live_path: &Path,
    increments: &[FileId],
) -> Vec<Known> {
    let seconds =
        |time: SystemTime| Some(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs());
    let described = linker.checkpoints_of(live_path, home);
    let mut known: Vec<Known> = described
        .into_iter()
        .map(|xml| Known {
            name: xml.name.clone(),
            parent: xml.parent.clone(),
            created: xml.created.and_then(seconds),
        })
        .collect();
    let live = increments.iter().find_map(|&id| match linker.header(id) {
        HeaderLink::To { file, .. } => linker.inventory.file(*file).qcow2(),
        _ => None,
    });
    for bitmap in live.map_or(&[][..], |facts| &facts.bitmaps) {
        if !known.iter().any(|known| known.name == *bitmap) {
            let created = Some(bitmap).filter(|name| is_epoch(name)).and_then(|n| n.parse().ok());
            known.push(Known { name: bitmap.clone(), parent: None, created });
        }
    }
    known
}

/// What an image's name says, if it says anything. One over a missing image that has a name of the
/// same kind stands on that: it is no increment of a live disk.
fn member(
    linker: &Linker<'_>,
    id: FileId,
    naming: Naming,
    live_path: &Path,
    known: &[Known],
) -> Option<Member> {
    let file = linker.inventory.file(id);
    let full = matches!(linker.header(id), HeaderLink::None);
    let (key, checkpoint, position, incremental) = understand(&naming.name(&file.path)?, known)?;
    let is_lost_sibling = !full
        && naming
            .name(live_path)
            .and_then(|name| understand(&name, known))
            .is_some_and(|(other, ..)| other == key);
    let contradicts = incremental.is_some_and(|incremental| incremental == full);
    let member = Member { id, full, key, checkpoint, position };
    (!is_lost_sibling && !contradicts).then_some(member)
}

type Understood = (String, Option<Known>, Position, Option<bool>);

/// Takes a name apart: what names the disk, the checkpoint, the place in the order, and whether
/// the name says that the backup is an increment.
fn understand(name: &str, known: &[Known]) -> Option<Understood> {
    let unmarked = |key: String| match MarkedName::parse(OsStr::new(&key)) {
        Some(marked) => (marked.key, Some(marked.incremental)),
        None => (key, None),
    };
    let token = known
        .iter()
        .filter_map(|known| Some((known, without_token(name, &known.name)?)))
        .max_by_key(|(known, _)| known.name.len());
    if let Some((checkpoint, key)) = token {
        let (key, incremental) = unmarked(key);
        let position = checkpoint.created.map_or(Position::Unknown, Position::Time);
        return Some((key, Some(checkpoint.clone()), position, incremental));
    }
    let epoch = name.split(BORDERS).find(|token| is_epoch(token));
    if let Some((epoch, key)) = epoch.and_then(|epoch| Some((epoch, without_token(name, epoch)?))) {
        let (key, incremental) = unmarked(key);
        return Some((key, None, Position::Time(epoch.parse().ok()?), incremental));
    }
    let marked = MarkedName::parse(OsStr::new(name))?;
    let position = match marked.number {
        None => Position::Unknown,
        Some(MarkNumber::Count(number)) => Position::Count(number),
        Some(MarkNumber::Date(date)) => Position::Date(date),
    };
    Some((marked.key, None, position, Some(marked.incremental)))
}

/// What parts the words of a name.
const BORDERS: [char; 4] = ['.', '-', '_', ' '];

/// `name` without `token`, if it stands there as a word of its own.
fn without_token(name: &str, token: &str) -> Option<String> {
    let is_border = |c: Option<char>| c.is_none_or(|c| BORDERS.contains(&c));
    if token.is_empty() {
        return None;
    }
    let at = name.rfind(token)?;
    let (before, rest) = name.split_at_checked(at)?;
    let after = rest.get(token.len()..)?;
    if !is_border(before.chars().next_back()) || !is_border(after.chars().next()) {
        return None;
    }
    let (before, after) = (before.trim_end_matches(BORDERS), after.trim_start_matches(BORDERS));
    Some([before, after].join(".").to_ascii_lowercase())
}

fn place_disk(
    linker: &mut Linker<'_>,
    disk: &DiskKey,
    naming: Naming,
    mut members: Vec<Member>,
    known: &[Known],
) {
    forget_odd_position(&mut members);
    members.sort_by_key(|member| (member.position, !member.full));
    let ordered = has_order(&members);
    let mut before: Option<&Member> = None;
    for member in &members {
        let file = linker.inventory.file(member.id);
        let parent = match before {
            _ if member.full => Parent::None,
            _ if !ordered => Parent::Missing(NO_ORDER.into()),
            _ if leads_outside(linker, member.id) => Parent::Missing(CONTRADICTION.into()),
            None => Parent::Missing("there is no full backup of this disk before it".into()),
            Some(before) => parent_of(member, before, &members, known),
        };
        let mut place = Place {
            disk: disk.clone(),
            label: naming.label(file),
            kind: if member.full { Kind::Full } else { Kind::Incremental },
            ..plain_place(file, parent)
        };
        if let Position::Time(seconds) = member.position {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            (place.time, place.time_basis) = (time, TimeBasis::Metadata);
        }
        linker.places.insert(member.id, place);
        before = Some(member);
    }
}

const NO_ORDER: &str = "its header names the VM's live disk, on which a push backup does not \
     stand, and nothing tells the order of the backups: no checkpoint descriptions, and no times \
     or numbers in the names; declare the parents in qcowfs.toml";

const CONTRADICTION: &str = "its header leads to a file outside of the source, and its name makes it \
     an increment of the full backup here: the header of a push backup is not true, that of an \
     overlay is; declare its parent in qcowfs.toml";

/// Whether an image's header leads out of the source, to something that nothing shows to be a live
/// disk.
fn leads_outside(linker: &Linker<'_>, id: FileId) -> bool {
    matches!(linker.header(id), HeaderLink::To { file, .. }
        if linker.inventory.file(*file).is_outside() && !linker.live.contains(file))
}

/// A single full backup whose position cannot be compared with those of its increments has none: it
/// comes first.
fn forget_odd_position(members: &mut [Member]) {
    let kind = |position: Position| std::mem::discriminant(&position);
    let others: Vec<_> = members.iter().filter(|m| !m.full).map(|m| kind(m.position)).collect();
    let mut fulls = members.iter_mut().filter(|member| member.full);
    if let (Some(full), None) = (fulls.next(), fulls.next())
        && !others.contains(&kind(full.position))
    {
        full.position = Position::Unknown;
    }
}

/// Whether it is certain which backup comes after which: all have positions of the same kind. A
/// single full backup needs none, nor does its only increment.
fn has_order(members: &[Member]) -> bool {
    let fulls = members.iter().filter(|member| member.full).count();
    if fulls == 1 && members.len() == 2 {
        return members.first().is_some_and(|member| member.full);
    }
    let needs_none =
        |member: &&Member| fulls == 1 && member.full && member.position == Position::Unknown;
    let mut positions = members.iter().filter(|m| !needs_none(m)).map(|member| member.position);
    let first = positions.next().unwrap_or(Position::Unknown);
    let same_kind = |position| std::mem::discriminant(&position) == std::mem::discriminant(&first);
    first != Position::Unknown && positions.all(same_kind)
}

/// The link to the backup before, unless one between the two is missing.
fn parent_of(member: &Member, before: &Member, members: &[Member], known: &[Known]) -> Parent {
    let is_there = |name: &str| {
        members.iter().any(|m| m.checkpoint.as_ref().is_some_and(|known| known.name == name))
    };
    let missing =
        |what: String| Parent::Missing(format!("{what}; without it the bytes would be wrong"));
    let described = member.checkpoint.as_ref().and_then(|known| known.parent.as_deref());
    if let Some(parent) = described.filter(|parent| !is_there(parent)) {
        return missing(format!("the backup of the checkpoint {parent} before it is missing"));
    }
    match (before.position, member.position) {
        (Position::Time(from), Position::Time(to)) => {
            let between = |known: &&Known| known.created.is_some_and(|at| from < at && at < to);
            let lost = known.iter().filter(between).find(|known| !is_there(&known.name));
            if let Some(Known { name, .. }) = lost {
                return missing(format!(
                    "the backup of the checkpoint {name} before it is missing"
                ));
            }
        }
        (Position::Count(from), Position::Count(to)) if to != from + 1 => {
            return missing(format!(
                "an increment is missing before it: number {to} follows number {from}"
            ));
        }
        (Position::Unknown, Position::Count(first)) if first > 1 => {
            return missing(format!(
                "an increment is missing before it: number {first} follows the full backup"
            ));
        }
        _ => {}
    }
    let last = before.checkpoint.as_ref().map(|known| known.name.as_str());
    let (basis, text) = match described {
        Some(parent) if Some(parent) == last => (
            Basis::CheckpointXml,
            format!("the checkpoint's description names its parent, {parent}"),
        ),
        _ => {
            let text = "virsh backup-begin: it stands on the backup before it, which the names \
                        tell; its header names the live disk instead";
            (Basis::NamingRule, text.to_owned())
        }
    };
    Parent::File { file: before.id, as_raw: false, evidence: Evidence::new(basis, text) }
}
