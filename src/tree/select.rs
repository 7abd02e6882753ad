//! A restore point by what a person calls it: `vm1/sda/INC-1706260646`, `sda@latest`,
//! `vm1@2024-01-26T10:00`.
//!
//! A name is the restore point's path in the view, of which any folders in front may be left out
//! as long as only one restore point is meant; so is the name of a disk in front of an `@`.

mod near;
mod when;

use std::collections::HashMap;
use std::time::SystemTime;

use super::plan::{BY_TIME, DiskPlan, LATEST, Plan, rfc3339};
use crate::chain::catalog::{Catalog, CheckpointId};
use crate::chain::place::Kind;
use near::nearest;
pub use when::When;

/// How many names a refusal lists.
const MOST_LISTED: usize = 6;

/// All restore points of a source, to be picked from.
#[derive(Debug)]
pub struct Names {
    disks: Vec<Disk>,
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
        Self { disks: plan.disks.iter().map(|disk| Disk::new(catalog, disk)).collect() }
    }

    /// The one restore point that is meant.
    pub fn pick(&self, wanted: &str) -> Result<CheckpointId, Refusal> {
        let wanted = plain(wanted);
        if let Some(found) = self.named(wanted)? {
            return Ok(found);
        }
        match wanted.rsplit_once('@') {
            Some((disk, when)) => self.disk(disk)?.at(when),
            None => Err(self.unknown(wanted)),
        }
    }

    /// Of each disk in a folder of the view the restore point of that time, with the disk's path:
    /// `vm1@latest`. An empty folder (`@latest`) is the whole source. `None` if it is not a folder
    /// with disks that is meant.
    pub fn pick_all(&self, wanted: &str) -> Result<Option<Vec<(String, CheckpointId)>>, Refusal> {
        let wanted = plain(wanted);
        let Some((folder, when)) = wanted.rsplit_once('@') else { return Ok(None) };
        if self.named(wanted)?.is_some() || (folder.is_empty() && self.disks.len() == 1) {
            return Ok(None);
        }
        let within = |disk: &&Disk| {
            let rest = disk.path.strip_prefix(folder);
            folder.is_empty() || rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let found: Vec<_> = self.disks.iter().filter(within).collect();
        if found.is_empty() {
            return Ok(None);
        }
        let pick = |disk: &&Disk| Ok((disk.path.clone(), disk.at(when)?));
        found.iter().map(pick).collect::<Result<_, _>>().map(Some)
    }

    /// All restore points of the disk of this name; none if there is no such disk, or several.
    pub fn points_of(&self, disk: &str) -> Option<Vec<CheckpointId>> {
        let found = self.disk(plain(disk)).ok().filter(|_| !plain(disk).is_empty())?;
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
        if others.iter().all(|other| other.1 == first.1) {
            return Ok(Some(first.1));
        }
        let names = found.iter().map(|(name, _)| name.as_str());
        Err(format!("`{wanted}` may be any of: {}", listed(names)))
    }

    fn disk(&self, wanted: &str) -> Result<&Disk, Refusal> {
        let paths = || self.disks.iter().map(|disk| disk.path.as_str());
        if wanted.is_empty() {
            return match self.disks.as_slice() {
                [disk] => Ok(disk),
                [] => Err("no VM-disk backup was found".into()),
                _ => Err(format!("say which disk, before the `@`: {}", listed(paths()))),
            };
        }
        if let Some(disk) = self.disks.iter().find(|disk| disk.path == wanted) {
            return Ok(disk);
        }
        let found: Vec<&Disk> =
            self.disks.iter().filter(|disk| ends_with(&disk.path, wanted)).collect();
        match found.as_slice() {
            [disk] => Ok(disk),
            [] => {
                let near = nearest(wanted, paths());
                Err(format!("there is no disk `{wanted}`{}", or_near(&near)))
            }
            several => {
                let names = several.iter().map(|disk| disk.path.as_str());
                Err(format!("`{wanted}` may be any of: {}", listed(names)))
            }
        }
    }

    /// What to say of a name that nothing has.
    fn unknown(&self, wanted: &str) -> Refusal {
        let is_it = |disk: &&Disk| disk.path == wanted || ends_with(&disk.path, wanted);
        if let Some(disk) = self.disks.iter().find(is_it) {
            let path = &disk.path;
            return format!(
                "`{wanted}` is a disk: say which restore point of it, such as {path}@latest"
            );
        }
        let own = |(disk, point): (&Disk, &Point)| {
            let name = point.names.first().map_or("", String::as_str);
            format!("{}/{name}", disk.path)
        };
        let names: Vec<String> = self.points().map(own).collect();
        let near = nearest(wanted, names.iter().map(String::as_str));
        format!("there is no restore point `{wanted}`{}", or_near(&near))
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

    /// Its restore point of that time. It may be one that is not whole: to go back further without
    /// a word is not for us to decide.
    fn at(&self, when: &str) -> Result<CheckpointId, Refusal> {
        let path = &self.path;
        match when.parse()? {
            When::Latest => self.latest.ok_or_else(|| {
                format!("no restore point of {path} is whole: pick one by its name")
            }),
            When::Until(end) => {
                let backups = || self.points.iter().filter(|point| point.is_backup);
                let newest = backups().filter(|point| point.time < end).max_by_key(|p| p.time);
                if let Some(point) = newest {
                    return Ok(point.id);
                }
                Err(match backups().min_by_key(|point| point.time) {
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
        }
    }
}

/// Without what leads to a file of the view, and to the view.
fn plain(wanted: &str) -> &str {
    let wanted = wanted.strip_prefix("./").unwrap_or(wanted);
    let wanted = wanted.strip_suffix("/disk.img").unwrap_or(wanted);
    wanted.trim_matches('/')
}

/// Whether a path ends with these parts.
fn ends_with(path: &str, parts: &str) -> bool {
    path.strip_suffix(parts).is_some_and(|rest| rest.ends_with('/'))
}

fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(MOST_LISTED);
    let mut text = names.take(MOST_LISTED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text = format!("{text}, and {more} more");
    }
    text
}

fn or_near(near: &[&str]) -> String {
    if near.is_empty() {
        return "; see `qcowfs ls`".into();
    }
    format!("; is it {}?", near.join(" or "))
}

#[cfg(test)]
mod tests;
