//! virtnbdbackup's sparse streams: each names its checkpoint and its parent itself.
//!
//! A differential names as its parent the checkpoint before it, and takes the *next* checkpoint's
//! name: names are not unique, and a differential is nobody's parent.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::evidence::{Basis, Evidence};
use super::inventory::{Content, FileId, FoundFile};
use super::link::Linker;
use super::place::{DiskKey, Kind, Parent, Place, TimeBasis, plain_place};
use crate::layer::stream::StreamMeta;
use crate::layout::names::{StreamLevel, StreamName};

/// A stream, or the raw image that the tool saves of a raw disk.
struct Member {
    id: FileId,
    level: StreamLevel,
    /// Whether it says something of itself.
    is_stream: bool,
    /// What the stream says of itself; a raw image says nothing.
    checkpoint: Option<String>,
    parent: Option<String>,
    time: SystemTime,
    time_basis: TimeBasis,
}

/// Decides about every stream.
pub(super) fn place(linker: &mut Linker<'_>) {
    let zones = Zones::new(linker);
    let mut disks: BTreeMap<DiskKey, Vec<Member>> = BTreeMap::new();
    for (id, file) in linker.free_images() {
        if let Some((device, member)) = member(&zones, id, file) {
            let disk = DiskKey { folder: file.folder().to_path_buf(), name: device };
            disks.entry(disk).or_default().push(member);
        }
    }
    for (disk, mut members) in disks {
        members.sort_by_key(|member| (member.time, member.level));
        for (n, member) in members.iter().enumerate() {
            let file = linker.inventory.file(member.id);
            let parent = match &file.content {
                Content::Unreadable(reason) => Parent::Unusable(reason.clone()),
                Content::Plain if !is_raw_disk(linker, &disk, file, member, &members) => {
                    Parent::Unusable(NO_STREAM_HEADER.into())
                }
                _ => parent_of(member, n, &members),
            };
            let place = Place {
                disk: disk.clone(),
                label: label(file, member),
                kind: kind(member.level),
                time: member.time,
                time_basis: member.time_basis,
                warnings: zones.warning(file, member),
                ..plain_place(file, parent)
            };
            linker.places.insert(member.id, place);
        }
    }
}

fn member(zones: &Zones, id: FileId, file: &FoundFile) -> Option<(OsString, Member)> {
    let name = StreamName::parse(file.name());
    match &file.content {
        Content::Stream(facts) => {
            let meta = &facts.meta;
            let level = match &name {
                Some(name) if name.level == StreamLevel::Diff => StreamLevel::Diff,
                _ if meta.incremental => StreamLevel::Inc,
                Some(name) if name.level == StreamLevel::Copy => StreamLevel::Copy,
                _ => StreamLevel::Full,
            };
            let (time, time_basis) = zones.time(file, meta);
            let checkpoint = meta.checkpoint_name.clone();
            let parent = meta.parent_checkpoint.clone();
            Some((
                device(name.as_ref(), &meta.disk_name),
                Member { id, level, is_stream: true, checkpoint, parent, time, time_basis },
            ))
        }
        // A raw disk is saved as it is, under the same names; a damaged stream looks like one. Of
        // that the name still tells whose place it has.
        Content::Plain | Content::Unreadable(_) => {
            let StreamName { device, level, tag } = name?;
            let tag = tag.as_ref().and_then(|tag| tag.to_str()).map(str::to_owned);
            let checkpoint = match level {
                StreamLevel::Full => Some("virtnbdbackup.0".to_owned()),
                StreamLevel::Inc => tag,
                StreamLevel::Copy | StreamLevel::Diff => None,
            };
            let (time, time_basis) = (file.stat.mtime, TimeBasis::Mtime);
            let member =
                Member { id, level, is_stream: false, checkpoint, parent: None, time, time_basis };
            Some((device, member))
        }
        _ => None,
    }
}

const NO_STREAM_HEADER: &str = "its name is that of a virtnbdbackup stream, and it does not begin \
     as one: it is damaged";

/// Whether a file without the header of a stream is the copy of a raw disk: a full one of whole
/// sectors, and nothing beside it says that the disk is saved in streams.
fn is_raw_disk(
    linker: &Linker<'_>,
    disk: &DiskKey,
    file: &FoundFile,
    member: &Member,
    members: &[Member],
) -> bool {
    let is_format_note = |name: &[u8]| {
        let device = name.strip_prefix(disk.name.as_encoded_bytes());
        device.is_some_and(|rest| rest.starts_with(b".") && rest.ends_with(b".qcow.json"))
    };
    let mut beside = linker.inventory.files().filter(|(_, other)| other.folder() == file.folder());
    matches!(member.level, StreamLevel::Full | StreamLevel::Copy)
        && file.stat.size > 0
        && file.stat.size.is_multiple_of(512)
        && !members.iter().any(|other| other.is_stream)
        && !beside.any(|(_, other)| is_format_note(other.name().as_encoded_bytes()))
}

/// The disk's name: the tool's, with what somebody put in front of it in the file's name.
fn device(name: Option<&StreamName>, disk_name: &str) -> OsString {
    let longer = name.filter(|name| {
        let prefix = name.device.as_encoded_bytes().strip_suffix(disk_name.as_bytes());
        prefix.is_some_and(|prefix| prefix.ends_with(b".") || prefix.ends_with(b"-"))
    });
    longer.map_or_else(|| disk_name.into(), |name| name.device.clone())
}

fn kind(level: StreamLevel) -> Kind {
    match level {
        StreamLevel::Full => Kind::Full,
        StreamLevel::Copy => Kind::Copy,
        StreamLevel::Inc => Kind::Incremental,
        StreamLevel::Diff => Kind::Differential,
    }
}

/// The checkpoint's name; a differential's, whose checkpoint never was, is that of its file.
fn label(file: &FoundFile, member: &Member) -> OsString {
    let name = StreamName::parse(file.name());
    match (member.level, &member.checkpoint, name) {
        (StreamLevel::Inc | StreamLevel::Full, Some(checkpoint), _)
            if member.is_stream && !checkpoint.is_empty() =>
        {
            checkpoint.into()
        }
        (_, _, Some(name)) => name.label(),
        (_, Some(checkpoint), None) if !checkpoint.is_empty() => checkpoint.into(),
        _ => file.name().to_os_string(),
    }
}

fn parent_of(member: &Member, n: usize, members: &[Member]) -> Parent {
    if matches!(member.level, StreamLevel::Full | StreamLevel::Copy) {
        return Parent::None;
    }
    let before = || members.get(..n).unwrap_or_default().iter().filter(|o| is_of_chain(o, member));
    let Some(wanted) = member.parent.as_deref().filter(|name| !name.is_empty()) else {
        return match before().next_back() {
            Some(last) => {
                let text = "the stream names no parent; it is the backup before it in time";
                link(last, Basis::TimeOrder, text.into())
            }
            None => Parent::Missing("there is no full backup of this disk before it".into()),
        };
    };
    // Made while the VM was off: there was no new checkpoint, and it names its own.
    let is_its_own = member.checkpoint.as_deref() == Some(wanted);
    let named = |other: &&Member| other.checkpoint.as_deref() == Some(wanted);
    // A later backup of that name belongs to another chain: the names begin anew with each.
    // A damaged one has no time of its own, and whatever stands on it is as broken.
    let damaged = || members.iter().filter(|other| !other.is_stream && is_of_chain(other, member));
    let found = before().rfind(named).or_else(|| damaged().find(named));
    match (found, before().next_back()) {
        (Some(other), _) => {
            link(other, Basis::Metadata, format!("the stream names its parent, {wanted}"))
        }
        (None, Some(last)) if is_its_own => {
            let text = "the stream names itself as its parent, as increments of a VM that is off \
                        do; it is the backup before it";
            link(last, Basis::TimeOrder, text.into())
        }
        _ => Parent::Missing(format!(
            "the backup of the checkpoint {wanted}, on which it stands, is missing in this folder"
        )),
    }
}

/// Whether a backup may be the parent of another one.
fn is_of_chain(other: &Member, member: &Member) -> bool {
    other.id != member.id && matches!(other.level, StreamLevel::Full | StreamLevel::Inc)
}

fn link(member: &Member, basis: Basis, text: String) -> Parent {
    Parent::File { file: member.id, as_raw: false, evidence: Evidence::new(basis, text) }
}

/// Where each folder's clock stood. The streams' dates are local times without a zone; what
/// stands beside them has absolute ones: a checkpoint's description, a differential's name.
struct Zones {
    /// By file, where something tells of that very backup.
    own: BTreeMap<PathBuf, i64>,
    /// By folder.
    offsets: BTreeMap<PathBuf, i64>,
}

/// Zones differ from UTC by multiples of this, seconds.
const QUARTER: i64 = 15 * 60;
/// And by less than this. A time that is further off is not that of the same backup.
const FARTHEST: u64 = 24 * 60 * 60;

impl Zones {
    fn new(linker: &Linker<'_>) -> Self {
        let (mut own, mut offsets) = (BTreeMap::new(), BTreeMap::new());
        for (_, file) in linker.inventory.files() {
            let Content::Stream(facts) = &file.content else { continue };
            let meta = &facts.meta;
            let absolute = absolute_time(linker, file, meta);
            let apart = absolute.zip(local_seconds(meta)).and_then(|(absolute, local)| {
                local.checked_sub(absolute).filter(|apart| apart.unsigned_abs() < FARTHEST)
            });
            if let Some(apart) = apart {
                let quarters = (apart + QUARTER / 2).div_euclid(QUARTER);
                own.insert(file.path.clone(), quarters * QUARTER);
                offsets.insert(file.folder().to_path_buf(), quarters * QUARTER);
            }
        }
        Self { own, offsets }
    }

    fn time(&self, file: &FoundFile, meta: &StreamMeta) -> (SystemTime, TimeBasis) {
        let Some(local) = local_seconds(meta) else {
            return (file.stat.mtime, TimeBasis::Mtime);
        };
        // What tells of this very backup counts first: summer time comes and goes.
        let offset = self.own.get(&file.path).or_else(|| self.offsets.get(file.folder()));
        let seconds = match offset {
            Some(offset) => local - offset,
            None => in_this_zone(meta).unwrap_or(local),
        };
        let seconds = u64::try_from(seconds).unwrap_or(0);
        (SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), TimeBasis::Metadata)
    }

    fn warning(&self, file: &FoundFile, member: &Member) -> Vec<String> {
        if member.time_basis != TimeBasis::Metadata || self.offsets.contains_key(file.folder()) {
            return Vec::new();
        }
        vec![
            "its date has no time zone, and nothing beside it tells one: it is taken for a time in \
             this machine's zone"
                .into(),
        ]
    }
}

/// A time of this stream's backup that is certain: that of its checkpoint, or of its name.
fn absolute_time(linker: &Linker<'_>, file: &FoundFile, meta: &StreamMeta) -> Option<i64> {
    let name = StreamName::parse(file.name());
    if let Some(StreamName { level: StreamLevel::Diff, tag: Some(tag), .. }) = name {
        return tag.to_str()?.parse().ok();
    }
    let checkpoint = meta.checkpoint_name.as_deref()?;
    let found = linker.inventory.checkpoint_xml().iter().find(|found| {
        found.checkpoint.name == checkpoint && found.folder.starts_with(file.folder())
    });
    let created = found?.checkpoint.created?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    created.as_secs().try_into().ok()
}

/// The date as written, as if it were UTC; seconds since 1970.
fn local_seconds(meta: &StreamMeta) -> Option<i64> {
    let date: jiff::civil::DateTime = meta.date.as_deref()?.parse().ok()?;
    Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

/// The date as a time in this machine's zone; seconds since 1970.
fn in_this_zone(meta: &StreamMeta) -> Option<i64> {
    let date: jiff::civil::DateTime = meta.date.as_deref()?.parse().ok()?;
    Some(date.to_zoned(jiff::tz::TimeZone::system()).ok()?.timestamp().as_second())
}
