//! What is said of a name that no restore point has.

use std::collections::BTreeSet;

use super::super::partitions::number_in;
use super::near::nearest;
use super::{Disk, LATEST, Names, Point, Refusal, ends_with};

/// How many names a refusal lists.
const MOST_LISTED: usize = 6;

impl Names {
    /// What to say of a name that no restore point has; `typed` is how the user wrote it.
    pub(super) fn unknown(&self, wanted: &str, typed: &str) -> Refusal {
        if wanted.is_empty() {
            return "no restore point is named; `qcowfs ls SOURCE` lists them".into();
        }
        let told = self.is_disk(wanted).or_else(|| self.is_folder(wanted, LATEST));
        told.or_else(|| self.is_partition(wanted)).unwrap_or_else(|| {
            let near = self.near(wanted);
            let near: Vec<&str> = near.iter().map(String::as_str).collect();
            format!("there is no restore point `{typed}`{}", or_near(&near))
        })
    }

    /// The name of a disk, or of several.
    fn is_disk(&self, wanted: &str) -> Option<Refusal> {
        let is_it = |disk: &&Disk| disk.path == wanted || ends_with(&disk.path, wanted);
        let disks: Vec<&str> = self.disks.iter().filter(is_it).map(|d| d.path.as_str()).collect();
        let first = disks.first()?;
        let such = format!("which restore point of it, such as {first}@{LATEST}");
        if disks.len() == 1 {
            return Some(format!("`{wanted}` is a disk: say {such}"));
        }
        let all = listed(disks.iter().copied());
        Some(format!("`{wanted}` may be any of: {all}; say which, and {such}"))
    }

    /// A file of the view that is a part of a disk.
    fn is_partition(&self, wanted: &str) -> Option<Refusal> {
        let (point, file) = wanted.rsplit_once('/')?;
        number_in(file)?;
        let point = self.anywhere(point)?;
        Some(format!(
            "`{wanted}` is a partition, and here a whole disk is meant: {point}; a mounted view has \
             {file} as a file"
        ))
    }

    /// The restore point of this name, also where the view is mounted (`/mnt/view/vm1/sda/latest`).
    fn anywhere(&self, wanted: &str) -> Option<String> {
        let starts = wanted.match_indices('/').map(|(at, _)| at + 1);
        let mut ends = std::iter::once(0).chain(starts).filter_map(|at| wanted.get(at..));
        let is_known = |end: &str| {
            self.named(end).is_ok_and(|id| id.is_some())
                || self.moment(end).is_ok_and(|moment| moment.is_some())
        };
        ends.find(|end| end.contains('/') && is_known(end)).map(str::to_owned)
    }

    fn near(&self, wanted: &str) -> Vec<String> {
        if let Some(name) = self.anywhere(wanted) {
            return vec![name];
        }
        let own = |(disk, point): (&Disk, &Point)| {
            let name = point.names.first().map_or("", String::as_str);
            format!("{}/{name}", disk.path)
        };
        let points: Vec<String> = self.points().map(own).collect();
        let paths = || self.disks.iter().map(|disk| disk.path.as_str());
        let (disks, vms): (BTreeSet<&str>, _) = (paths().collect(), self.folders());
        let names = points.iter().map(String::as_str);
        let near = nearest(wanted, names.chain(disks.iter().chain(&vms).copied()));
        // Of a disk or a VM the newest state is meant most likely.
        let newest = |near: &str| match self.first_in(near) {
            _ if disks.contains(near) => format!("{near}@{LATEST}"),
            // Whoever wants one disk cannot take a whole VM.
            Some(disk) if vms.contains(near) => {
                format!("{disk}@{LATEST} (`qcowfs restore` takes all of {near}@{LATEST}, too)")
            }
            _ => near.to_owned(),
        };
        near.into_iter().map(newest).collect()
    }
}

/// Names, of which not all are told where they are many.
pub(super) fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(MOST_LISTED);
    let mut text = names.take(MOST_LISTED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text = format!("{text}, and {more} more");
    }
    text
}

/// The end of a refusal: what may be meant.
pub(super) fn or_near(near: &[&str]) -> String {
    if near.is_empty() {
        return "; `qcowfs ls SOURCE` lists them".into();
    }
    format!("; is it {}?", near.join(" or "))
}
