//! A restore point by what a person calls it: `vm1/sda/INC-1706260646`, `sda@latest`,
//! `vm1@2024-01-26T10:00`.
//!
//! A name is the restore point's path in the view, of which any folders in front may be left out
//! as long as only one restore point is meant; so is the name of a disk in front of an `@`. The
//! links of a moment in the view (`vm1/@times/TIME/sda.img`) are names, too.

mod moment;
mod near;
mod together;
mod unknown;
mod when;

use std::collections::HashMap;
use std::time::SystemTime;

use super::plan::{BY_TIME, DiskPlan, LATEST, Plan, rfc3339};
use crate::chain::catalog::{Catalog, CheckpointId};
use crate::chain::inventory::{Skipped, Why};
use crate::chain::place::Kind;
use moment::{Moments, Part};
use near::nearest;
pub use together::Together;
use together::holds;
use unknown::{listed, or_near};
pub use when::When;

/// All restore points of a source, to be picked from.
#[derive(Debug, Default)]
pub struct Names {
    disks: Vec<Disk>,
    moments: Vec<Moments>,
    /// What of the source could not be looked at: there may be more disks.
    unread: Vec<String>,
    /// The symbolic links of the source.
    links: Vec<String>,
}

#[derive(Debug)]
struct Disk {
    /// Its path in the view.
    path: String,
    latest: Option<CheckpointId>,
    points: Vec<Point>,
}

#[derive(Debug)]
struct Point {
    id: CheckpointId,
    /// What it is called in its disk's folder: its own name first, then `latest` and its times.
    names: Vec<String>,
    time: SystemTime,
    /// Whether it was made to be gone back to: not the live disk, nor an unfinished backup.
    is_backup: bool,
}

/// Why nothing was picked.
type Refusal = String;

impl Names {
    /// The names that a plan gives.
    pub fn new(catalog: &Catalog, plan: &Plan) -> Self {
        let disks = plan.disks.iter().map(|disk| Disk::new(catalog, disk)).collect();
        let skipped = |which: fn(&Skipped) -> bool| {
            let skipped = catalog.skipped().iter().filter(|skipped| which(skipped));
            skipped.map(|skipped| skipped.path.to_string_lossy().into_owned()).collect()
        };
        Self {
            disks,
            moments: plan.vms.iter().map(Moments::new).collect(),
            unread: skipped(|skipped| skipped.why == Why::Fault),
            links: skipped(|skipped| skipped.why == Why::Link),
        }
    }

    /// The one restore point that is meant.
    pub fn pick(&self, typed: &str) -> Result<CheckpointId, Refusal> {
        let (wanted, file) = (plain(typed), trimmed(typed));
        if let Some(found) = self.named(wanted)? {
            return Ok(found);
        }
        if let Some((moments, time, part)) = self.moment(file)? {
            let Part::Disk(number) = part else {
                let one = moments.example(time);
                return Err(format!("`{wanted}` is all disks of a VM: name one, such as {one}"));
            };
            return self.disks.get(number).ok_or_else(|| self.unknown(wanted, typed))?.at(time);
        }
        match wanted.rsplit_once('@') {
            // A path of the view may have an `@`, and no time has a `/`.
            Some((disk, when)) if !when.contains('/') => {
                self.disk(disk.trim_end_matches('/'), Some(when))?.at(when)
            }
            _ => Err(self.unknown(wanted, typed)),
        }
    }

    /// All restore points of the disk of this name; none if there is no such disk, or several.
    pub fn points_of(&self, disk: &str) -> Option<Vec<CheckpointId>> {
        let found = self.disk(plain(disk), None).ok().filter(|_| !plain(disk).is_empty())?;
        Some(found.points.iter().map(|point| point.id).collect())
    }

    /// The one restore point of this name; an error if several have it.
    fn named(&self, wanted: &str) -> Result<Option<CheckpointId>, Refusal> {
        let mut found = Vec::new();
        for (disk, point) in self.points() {
            for name in &point.names {
                let full = format!("{}/{name}", disk.path);
                if full == wanted {
                    return Ok(Some(point.id));
                }
                if ends_with(&full, wanted) {
                    found.push((full, point.id));
                }
            }
        }
        let [first, others @ ..] = found.as_slice() else { return Ok(None) };
        // Its disk is what may be another one.
        self.refuse_unread(wanted.rsplit_once('/').map_or(wanted, |(disk, _)| disk), &first.0)?;
        if others.iter().all(|other| other.1 == first.1) {
            return Ok(Some(first.1));
        }
        let names = found.iter().map(|(name, _)| name.as_str());
        Err(format!("`{wanted}` may be any of: {}; say which", listed(names)))
    }

    /// The disk of this name. `when`: which restore point of it is meant, for what is said if there is
    /// no such disk.
    fn disk(&self, wanted: &str, when: Option<&str>) -> Result<&Disk, Refusal> {
        let paths = || self.disks.iter().map(|disk| disk.path.as_str());
        if wanted.is_empty() {
            return match self.disks.as_slice() {
                [disk] => Ok(disk),
                [] => Err("no VM-disk backup was found: is the path of the source right, and its file system \
                           mounted?"
                    .into()),
                _ => Err(format!("say which disk, before the `@`: {}", listed(paths()))),
            };
        }
        if let Some(disk) = self.disks.iter().find(|disk| disk.path == wanted) {
            return Ok(disk);
        }
        let found: Vec<&Disk> =
            self.disks.iter().filter(|disk| ends_with(&disk.path, wanted)).collect();
        match found.as_slice() {
            [disk] => self.refuse_unread(wanted, &disk.path).map(|()| *disk),
            [] => {
                if let Some(told) = self.is_folder(wanted, when.unwrap_or(LATEST)) {
                    return Err(told);
                }
                let near = nearest(wanted, paths().chain(self.folders()));
                let end = when.map(|when| format!("@{when}")).unwrap_or_default();
                let near: Vec<String> = near.iter().map(|near| format!("{near}{end}")).collect();
                let near: Vec<&str> = near.iter().map(String::as_str).collect();
                Err(format!("there is no disk or VM `{wanted}`{}", or_near(&near)))
            }
            several => {
                let names = several.iter().map(|disk| disk.path.as_str());
                Err(format!("`{wanted}` may be any of: {}; say which", listed(names)))
            }
        }
    }

    /// Refuses to take a name for the end of `found`'s, where what bears it as its whole name may be
    /// among what could not be read: that is meant most likely.
    fn refuse_unread(&self, wanted: &str, found: &str) -> Result<(), Refusal> {
        let may_be = |unread: &&String| {
            *unread == wanted
                || ends_with(unread, wanted)
                || holds(unread, wanted)
                || holds(wanted, unread)
        };
        self.unread.iter().find(may_be).map_or(Ok(()), |unread| {
            Err(format!(
                "`{wanted}` could be {found}, but {unread} of the source cannot be read, and may be \
                 what is meant: say the whole name if {found} is"
            ))
        })
    }

    fn points(&self) -> impl Iterator<Item = (&Disk, &Point)> {
        self.disks.iter().flat_map(|disk| disk.points.iter().map(move |point| (disk, point)))
    }
}

impl Disk {
    fn new(catalog: &Catalog, plan: &DiskPlan) -> Self {
        let mut latest = None;
        let times: HashMap<&str, &str> =
            plan.by_time.iter().map(|(time, of)| (of.as_str(), time.as_str())).collect();
        let point = |(id, name): &(CheckpointId, String)| {
            let checkpoint = catalog.checkpoint(*id);
            let mut names = vec![name.clone()];
            if plan.latest.as_ref() == Some(name) {
                latest = Some(*id);
                names.push(LATEST.into());
            }
            names.extend(times.get(name.as_str()).map(|time| format!("{BY_TIME}/{time}")));
            let is_backup = !matches!(checkpoint.kind, Kind::Live | Kind::Partial);
            Point { id: *id, names, time: checkpoint.time, is_backup }
        };
        let points = plan.checkpoints.iter().map(point).collect();
        Self { path: plan.path.to_string_lossy().into_owned(), latest, points }
    }

    /// Its restore point of that time. It may be one that is not whole, as `latest` is where none is:
    /// to go back further without a word is not for us to decide.
    fn at(&self, when: &str) -> Result<CheckpointId, Refusal> {
        let path = &self.path;
        if let Some(id) = self.until(when.parse()?) {
            return Ok(id);
        }
        Err(match self.backups().min_by_key(|point| point.time) {
            Some(oldest) => {
                let time = rfc3339(oldest.time);
                let name = oldest.names.first().map_or("", String::as_str);
                format!(
                    "{path} has no restore point of {when} or before: the oldest is {name}, of {time}"
                )
            }
            None => format!("{path} has no finished backup"),
        })
    }

    fn until(&self, when: When) -> Option<CheckpointId> {
        match when {
            // Where none is whole, who asks for its disk is told why, and what is left of it.
            When::Latest => {
                let newest = || self.backups().max_by_key(|point| point.time);
                self.latest.or_else(|| newest().map(|point| point.id))
            }
            When::Until(end) => {
                let before = self.backups().filter(|point| point.time < end);
                before.max_by_key(|point| point.time).map(|point| point.id)
            }
        }
    }

    fn backups(&self) -> impl Iterator<Item = &Point> {
        self.points.iter().filter(|point| point.is_backup)
    }
}

/// Without what leads to a file of the view, and to the view.
fn plain(wanted: &str) -> &str {
    let wanted = trimmed(wanted);
    wanted.strip_suffix("/disk.img").unwrap_or(wanted).trim_matches('/')
}

/// The same, but for the file: the link of a disk that is called `disk` is `disk.img`, too.
fn trimmed(wanted: &str) -> &str {
    wanted.strip_prefix("./").unwrap_or(wanted).trim_matches('/')
}

/// Whether a path ends with these parts.
fn ends_with(path: &str, parts: &str) -> bool {
    path.strip_suffix(parts).is_some_and(|rest| rest.ends_with('/'))
}

#[cfg(test)]
mod tests;
