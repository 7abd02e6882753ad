//! The moments of a VM as the view has them: `vm1/@times/TIME`, `vm1/@times/TIME/sda.img`.

use super::super::times::VmPlan;
use super::{Disk, Names, Refusal, When, ends_with, listed, nearest, or_near};

/// A folder of moments.
#[derive(Debug)]
pub(super) struct Moments {
    /// Its path in the view.
    path: String,
    /// The names of the moments, oldest first.
    times: Vec<String>,
    /// The links that any of them may have: each with the number of its disk.
    links: Vec<(String, usize)>,
}

/// What of a moment is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All disks.
    Whole,
    /// The disk of this number.
    Disk(usize),
}

impl Moments {
    pub(super) fn new(plan: &VmPlan) -> Self {
        let links = plan.links_of_disks().map(|(disk, link)| (link.to_owned(), disk)).collect();
        Self {
            path: plan.folder.join(&plan.name).to_string_lossy().into_owned(),
            times: plan.moments.iter().map(|moment| moment.name.clone()).collect(),
            links,
        }
    }

    /// The numbers of its disks.
    pub(super) fn disks(&self) -> impl Iterator<Item = usize> {
        self.links.iter().map(|(_, disk)| *disk)
    }

    /// The name of a disk at a moment.
    pub(super) fn example(&self, time: &str) -> String {
        let link = self.links.first().map_or("", |(link, _)| link.as_str());
        format!("{}/{time}/{link}", self.path)
    }

    /// What a name has behind the path of this folder, of which the first parts may be left out.
    fn behind<'w>(&self, wanted: &'w str) -> Option<&'w str> {
        let starts = self.path.match_indices('/').map(|(at, _)| at + 1);
        let ends = std::iter::once(0).chain(starts).filter_map(|at| self.path.get(at..));
        let behind =
            ends.into_iter().find_map(|end| wanted.strip_prefix(end)?.strip_prefix('/'))?;
        // A folder of the source may have the name, too: what is no time is in that one.
        let time = behind.split('/').next().unwrap_or_default();
        time.parse::<When>().is_ok().then_some(behind)
    }

    fn time_and_part(&self, behind: &str) -> Result<(&str, Part), Refusal> {
        let (time, link) = behind.split_once('/').map_or((behind, None), |(t, l)| (t, Some(l)));
        let Some(known) = self.times.iter().find(|known| *known == time) else {
            let path = &self.path;
            let near = nearest(time, self.times.iter().map(String::as_str));
            return Err(format!("there is no moment `{time}` in {path}{}", or_near(&near)));
        };
        let Some(link) = link else { return Ok((known, Part::Whole)) };
        let found = self.links.iter().find(|(name, _)| name == link);
        let (_, disk) = found.ok_or_else(|| {
            let all = listed(self.links.iter().map(|(name, _)| name.as_str()));
            format!("there is no disk `{link}` in {}/{time}; there may be: {all}", self.path)
        })?;
        Ok((known, Part::Disk(*disk)))
    }
}

impl Names {
    /// The moment that a name means, and what of it; none if it is not the name of one.
    pub(super) fn moment(&self, wanted: &str) -> Result<Option<(&Moments, &str, Part)>, Refusal> {
        let found = self.moments.iter().filter_map(|all| Some((all, all.behind(wanted)?)));
        let found: Vec<_> = found.collect();
        let is_whole = |path: &str| wanted.strip_prefix(path).is_some_and(|r| r.starts_with('/'));
        let exact = found.iter().find(|(all, _)| is_whole(&all.path));
        let (all, behind) = match (exact, found.as_slice()) {
            (Some(one), _) => *one,
            (None, [one]) => {
                self.refuse_unread(wanted, &one.0.path)?;
                *one
            }
            (None, []) => return self.without_time(wanted).map_or(Ok(None), Err),
            (None, several) => {
                let paths = several.iter().map(|(all, _)| all.path.as_str());
                return Err(format!("`{wanted}` may be in any of: {}", listed(paths)));
            }
        };
        let (time, part) = all.time_and_part(behind)?;
        Ok(Some((all, time, part)))
    }

    /// What to say of the name of a folder of moments that says none of them.
    fn without_time(&self, wanted: &str) -> Option<Refusal> {
        let is_it = |all: &&Moments| all.path == wanted || ends_with(&all.path, wanted);
        let is_folder =
            |disk: &Disk| disk.path.strip_prefix(wanted).is_some_and(|r| r.starts_with('/'));
        let all = self.moments.iter().find(is_it)?;
        let newest = all.times.last()?;
        let has_other = self.disks.iter().any(is_folder);
        (!has_other).then(|| {
            let path = &all.path;
            format!("`{wanted}` has moments: say which, such as the newest, {path}/{newest}")
        })
    }
}
