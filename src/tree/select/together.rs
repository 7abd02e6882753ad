//! All disks of a VM, or of a folder of VMs: `vm1@TIME`, `vm1/@times/TIME`.
//!
//! A folder that holds disks directly is a VM, as for `@times` in the view, and these are its disks:
//! what lies in folders beneath it is another VM, or an archive. One that holds none directly is a
//! store, and all beneath it is meant.

use std::collections::BTreeSet;

use super::moment::Part;
use super::{Disk, Names, Refusal, ends_with, listed, plain, trimmed};
use crate::chain::catalog::CheckpointId;

/// Disks that belong together, at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Together {
    /// Each disk's path beneath the folder, and its restore point.
    pub disks: Vec<(String, CheckpointId)>,
    /// What somebody might miss among them, in words.
    pub without: Vec<String>,
}

impl Names {
    /// The disks in a folder of the view, each with its restore point of that time: `vm1@latest`,
    /// `vm1/@times/TIME`. An empty folder (`@latest`) is the whole source. `None` if it is not a
    /// folder with disks that is meant.
    pub fn pick_all(&self, wanted: &str) -> Result<Option<Together>, Refusal> {
        let (wanted, file) = (plain(wanted), trimmed(wanted));
        if self.named(wanted)?.is_some() {
            return Ok(None);
        }
        if let Some((moments, time, part)) = self.moment(file)? {
            let disks = moments.disks().filter_map(|number| self.disks.get(number));
            return (part == Part::Whole).then(|| of_moment(disks, time)).transpose();
        }
        // A path may have an `@`, and no time has a `/`.
        let (folder, when) = match wanted.rsplit_once('@') {
            Some((folder, when)) if !when.contains('/') => (folder, when),
            _ => return Ok(None),
        };
        if let Some(disk) = self.disks.iter().find(|disk| beneath(wanted, disk).is_some()) {
            let path = &disk.path;
            return Err(format!(
                "`{wanted}` is a folder, too: say {wanted}@{when} or {wanted}@latest for the disks in it \
                 (such as {path}), and {folder}@TIME with another way to write the time otherwise"
            ));
        }
        let folder = folder.trim_end_matches('/');
        if folder.is_empty() && self.disks.len() <= 1 && self.unread.is_empty() {
            return Ok(None);
        }
        let Some(folder) = self.folder(folder)? else { return Ok(None) };
        self.refuse_unread_in(folder, when)?;
        let within = |disk| Some((disk, own_name(beneath(folder, disk)?)));
        let within: Vec<_> = self.disks.iter().filter_map(within).collect();
        let (direct, deeper): (Vec<_>, Vec<_>) =
            within.into_iter().partition(|(_, rest)| !rest.contains('/'));
        let (meant, left) = if direct.is_empty() { (deeper, direct) } else { (direct, deeper) };
        let pick = |(disk, rest): (&Disk, &str)| Ok((rest.to_owned(), disk.at(when)?));
        let disks = meant.into_iter().map(pick).collect::<Result<_, Refusal>>()?;
        let left: Vec<_> = left.iter().map(|(disk, _)| disk.path.as_str()).collect();
        let mut without = Vec::new();
        if !left.is_empty() {
            let left = listed(left.iter().copied());
            without
                .push(format!("the disks in folders beneath, which may be of another VM: {left}"));
        }
        without.extend(self.links_in(folder));
        Ok(Some(Together { disks, without }))
    }

    /// What to say of the symbolic links in a folder; an empty one is the whole source.
    pub fn links_in(&self, folder: &str) -> Option<String> {
        let links: Vec<_> = self.links.iter().filter(|link| holds(folder, link)).collect();
        if links.is_empty() {
            return None;
        }
        let links = listed(links.iter().map(|link| link.as_str()));
        Some(format!("what these symbolic links lead to, which are never followed: {links}"))
    }

    /// Refuses the disks of a folder where there may be more, which nobody could look at.
    fn refuse_unread_in(&self, folder: &str, when: &str) -> Result<(), Refusal> {
        let unread = self
            .unread
            .iter()
            .filter(|unread| holds(folder, unread) || *unread == folder || holds(unread, folder));
        let unread: Vec<_> = unread.map(String::as_str).collect();
        if unread.is_empty() {
            return Ok(());
        }
        let unread = listed(unread.iter().copied());
        let one = self.first_in(folder).map_or_else(String::new, |disk| {
            format!("; or take the disks one by one, such as {disk}@{when}")
        });
        Err(format!(
            "there may be more disks than can be seen, for this of the source cannot be read: {unread}; \
             try it as root{one}"
        ))
    }

    /// What to say of the name of a folder with disks, `when` being what may stand behind it; none if
    /// it is none.
    pub(super) fn is_folder(&self, wanted: &str, when: &str) -> Option<Refusal> {
        let folder = self.folder(wanted).ok().flatten().filter(|folder| !folder.is_empty())?;
        let disk = self.first_in(folder)?;
        Some(format!(
            "`{wanted}` is a folder with disks: say which, and which restore point of it, such as \
             {disk}@{when}; `qcowfs restore` also takes all of them: {folder}@{when}"
        ))
    }

    /// The path of a disk in a folder.
    pub(super) fn first_in(&self, folder: &str) -> Option<&str> {
        let disk = self.disks.iter().find(|disk| beneath(folder, disk).is_some())?;
        Some(&disk.path)
    }

    /// The paths of all folders with disks, but for the source's own.
    pub(super) fn folders(&self) -> BTreeSet<&str> {
        let paths = self.disks.iter().map(|disk| disk.path.as_str());
        let all =
            paths.flat_map(|path| path.match_indices('/').map(move |(at, _)| path.split_at(at)));
        all.map(|(folder, _)| folder).collect()
    }

    /// The path of the one folder with disks that is meant; none if it is none, or a disk's.
    fn folder(&self, wanted: &str) -> Result<Option<&str>, Refusal> {
        let mut folders = self.folders();
        folders.insert("");
        if let Some(folder) = folders.get(wanted) {
            return Ok(Some(folder));
        }
        let is_disk = |disk: &Disk| disk.path == wanted || ends_with(&disk.path, wanted);
        if wanted.is_empty() || self.disks.iter().any(is_disk) {
            return Ok(None);
        }
        let found: Vec<_> = folders.into_iter().filter(|path| ends_with(path, wanted)).collect();
        match found.as_slice() {
            [] => Ok(None),
            [folder] => self.refuse_unread(wanted, folder).map(|()| Some(*folder)),
            several => {
                let paths = listed(several.iter().copied());
                Err(format!("`{wanted}` may be any of: {paths}; say which"))
            }
        }
    }
}

/// Whether a path lies in a folder, or deeper.
pub(super) fn holds(folder: &str, path: &str) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// The rest of a disk's path behind that of a folder that holds it.
fn beneath<'d>(folder: &str, disk: &'d Disk) -> Option<&'d str> {
    if folder.is_empty() {
        return Some(&disk.path);
    }
    disk.path.strip_prefix(folder)?.strip_prefix('/')
}

/// The name of a disk in the folder of a VM. Where other disks lie in the disk's own folder, the view
/// has it one further down, under the same name.
fn own_name(rest: &str) -> &str {
    rest.split_once('/').filter(|(folder, name)| folder == name).map_or(rest, |(_, name)| name)
}

/// The disks that had a restore point at a moment. One whose newest is broken is among them: who
/// takes its disk is told why there is none, and gets no VM that lacks it.
fn of_moment<'d>(disks: impl Iterator<Item = &'d Disk>, time: &str) -> Result<Together, Refusal> {
    let mut together = Together::default();
    let mut later = Vec::new();
    for disk in disks {
        let name = disk.path.rsplit('/').next().unwrap_or_default();
        match disk.until(time.parse()?) {
            Some(id) => together.disks.push((name.to_owned(), id)),
            None => later.push(disk.path.as_str()),
        }
    }
    if !later.is_empty() {
        let later = listed(later.iter().copied());
        let what = format!("the disks that have no restore point of that time or before: {later}");
        together.without.push(what);
    }
    Ok(together)
}
