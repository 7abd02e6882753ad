//! `@times`: all disks of a VM as they were at one moment, for who restores the whole of it.
//!
//! A folder of the view that holds several disks is taken for a VM: `qcowfs restore SOURCE vm1@TIME`
//! takes it so, too. Beside its disks it has a folder for each second of which one of them has a
//! whole restore point, and in that a link to each disk: to its restore point of that second or,
//! where it has none, to the newest from before. Never to the VM's live disk. Where that newest one
//! is broken there is no link: an older one in its place would pass for what the disk was at that
//! time, and a VM would be put together from disks that never were together.
//!
//! Many disks in one folder are a store of many VMs, of which nothing tells which disks belong
//! together; all of them at each second would be more links than anybody could list. There is no such
//! folder then.
//!
//! The links are not among the nodes of the tree: there are as many as disks times moments. What
//! tells the folder of a moment from others is all that its links say, so that a link means the
//! same as long as its folder does.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::children::DISK;
use super::names::Taken;
use super::plan::{Backup, DiskPlan, rfc3339, second};

/// The folder of moments.
pub const TIMES: &str = "@times";
/// So many disks of a folder may be those of one VM.
const VM: std::ops::RangeInclusive<usize> = 2..=32;
/// What the names of the links end with, and how long they may be without it.
const ENDING: &str = ".img";
const LONGEST: usize = 240;

/// The moments of the disks of one folder.
#[derive(Debug)]
pub struct VmPlan {
    /// Path of the folder in the view that holds the disks.
    pub folder: PathBuf,
    /// What the folder of moments is called in it.
    pub name: String,
    /// Oldest first.
    pub moments: Vec<Moment>,
    /// The disks, by their numbers in the plan.
    pub disks: Vec<usize>,
    lines: Vec<Line>,
}

/// A second of which there is a restore point.
#[derive(Debug, Clone)]
pub struct Moment {
    /// The name of its folder.
    pub name: String,
    /// Its time.
    pub time: SystemTime,
    /// Tells its links from others.
    pub mark: u64,
    second: i64,
}

/// A disk's restore points.
#[derive(Debug)]
struct Line {
    /// The name of the links to them.
    link: String,
    /// The name of its folder.
    disk: String,
    /// Ascending: when, and the name of the folder; none of one that is broken.
    points: Vec<(i64, Option<String>)>,
}

impl Line {
    /// The newest restore point that is not later, if it is whole.
    fn at(&self, second: i64) -> Option<&str> {
        let after = self.points.partition_point(|(at, _)| *at <= second);
        self.points.get(after.checked_sub(1)?)?.1.as_deref()
    }

    fn target(&self, point: &str) -> String {
        format!("../../{}/{point}/{DISK}", self.disk)
    }
}

/// How many disks each folder of the view holds.
#[derive(Debug, Default)]
pub(super) struct Vms(BTreeMap<PathBuf, usize>);

impl Vms {
    /// Another disk in this folder.
    pub(super) fn count(&mut self, folder: PathBuf) {
        *self.0.entry(folder).or_default() += 1;
    }

    /// The folders that are taken for VMs.
    pub(super) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter(|(_, count)| VM.contains(count)).map(|(folder, _)| folder.as_path())
    }
}

impl VmPlan {
    /// The moments of the disks of these numbers, all of which lie in a folder; none if none of them
    /// has a whole restore point. `name` is free in the folder.
    pub(super) fn new(
        folder: &Path,
        name: String,
        numbers: &[usize],
        disks: &[DiskPlan],
    ) -> Option<Self> {
        let mut taken = Taken::default();
        let within: Vec<&DiskPlan> = numbers.iter().filter_map(|n| disks.get(*n)).collect();
        let lines: Vec<Line> = within.iter().map(|disk| line(disk, &mut taken)).collect();
        let mut times = BTreeMap::new();
        let backups = within.iter().flat_map(|disk| &disk.backups);
        for Backup { time, .. } in backups.filter(|backup| backup.is_whole) {
            times.entry(second(*time)).or_insert(*time);
        }
        let mut marks = Marks::new(&lines);
        let moments = times.into_iter().map(|(second, time)| {
            let (name, mark) = (rfc3339(time), marks.at(second));
            Moment { name, time, mark, second }
        });
        let moments: Vec<Moment> = moments.collect();
        let (disks, folder) = (numbers.to_vec(), folder.to_path_buf());
        (!moments.is_empty()).then_some(Self { folder, name, moments, disks, lines })
    }

    /// The disks by their numbers in the plan, each with the name of the links to it.
    pub fn links_of_disks(&self) -> impl Iterator<Item = (usize, &str)> {
        self.disks.iter().copied().zip(self.lines.iter().map(|line| line.link.as_str()))
    }

    /// The links of a moment in the order of the disks, each with the number that it always has
    /// there: its name, and where it leads.
    pub fn links<'a>(
        &'a self,
        moment: &'a Moment,
    ) -> impl Iterator<Item = (u16, &'a str, String)> + 'a {
        (1..).zip(&self.lines).filter_map(|(number, line)| {
            let point = line.at(moment.second)?;
            Some((number, line.link.as_str(), line.target(point)))
        })
    }
}

fn line(disk: &DiskPlan, taken: &mut Taken) -> Line {
    let name = disk.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = name.strip_suffix(ENDING).unwrap_or(&name);
    let stem = stem.get(..stem.floor_char_boundary(LONGEST)).unwrap_or(stem);
    // As the copies are called that `restore` makes of all disks: the ending comes last.
    let link = format!("{}{ENDING}", taken.give(stem));
    let mut backups: Vec<(i64, &Backup)> =
        disk.backups.iter().map(|backup| (second(backup.time), backup)).collect();
    // Of those of one second the last one counts, as for `restore`; of one time, the last in order.
    backups.sort_by_key(|(second, backup)| (*second, backup.time));
    let point =
        |(second, backup): (i64, &Backup)| (second, backup.is_whole.then(|| backup.name.clone()));
    let points = backups.into_iter().map(point).collect();
    Line { link, disk: name, points }
}

/// The marks of moments one after the other, each from the one before.
struct Marks<'a> {
    lines: &'a [Line],
    /// When each restore point comes, of which line.
    events: std::vec::IntoIter<(i64, usize)>,
    next: Option<(i64, usize)>,
    now: Vec<u64>,
    all: u64,
}

impl<'a> Marks<'a> {
    fn new(lines: &'a [Line]) -> Self {
        let of = |(number, line): (usize, &'a Line)| {
            line.points.iter().map(move |(second, _)| (*second, number))
        };
        let mut events: Vec<_> = lines.iter().enumerate().flat_map(of).collect();
        events.sort_unstable();
        let mut events = events.into_iter();
        let next = events.next();
        Self { lines, events, next, now: vec![0; lines.len()], all: 0 }
    }

    /// That of a second, which is later than the one before.
    fn at(&mut self, second: i64) -> u64 {
        while let Some((_, number)) = self.next.filter(|(at, _)| *at <= second) {
            self.next = self.events.next();
            let Some((line, now)) = self.lines.get(number).zip(self.now.get_mut(number)) else {
                continue;
            };
            let mut hash = DefaultHasher::new();
            (number, &line.link, &line.disk, line.at(second)).hash(&mut hash);
            self.all ^= *now ^ hash.finish();
            *now = hash.finish();
        }
        self.all
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A disk with restore points: when, and their names, which begin with `!` if they are broken.
    fn disk(path: &str, points: &[(u64, &str)]) -> DiskPlan {
        let backup = |(at, name): &(u64, &str)| Backup {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(*at),
            name: (*name).to_owned(),
            is_whole: !name.starts_with('!'),
        };
        let backups = points.iter().map(backup).collect();
        DiskPlan { path: path.into(), backups, ..DiskPlan::default() }
    }

    fn plan(folder: &str, numbers: &[usize], disks: &[DiskPlan]) -> VmPlan {
        VmPlan::new(Path::new(folder), TIMES.into(), numbers, disks).unwrap()
    }

    fn told(plan: &VmPlan) -> Vec<String> {
        let moment = |moment: &Moment| {
            let links = plan.links(moment).map(|(n, name, to)| format!("{n} {name} -> {to}"));
            format!("{}: {}", moment.name, links.collect::<Vec<_>>().join(", "))
        };
        plan.moments.iter().map(moment).collect()
    }

    #[test]
    fn each_moment_has_the_newest_of_each_disk_that_is_not_later() {
        let disks = [
            disk("vm/sda", &[(10, "A"), (30, "C")]),
            disk("other/sda", &[(1, "X")]),
            disk("vm/b.img", &[(30, "C"), (20, "B")]),
        ];
        let plan = plan("vm", &[0, 2], &disks);
        let wanted = [
            "1970-01-01T00:00:10Z: 1 sda.img -> ../../sda/A/disk.img",
            "1970-01-01T00:00:20Z: 1 sda.img -> ../../sda/A/disk.img, 2 b.img -> ../../b.img/B/disk.img",
            "1970-01-01T00:00:30Z: 1 sda.img -> ../../sda/C/disk.img, 2 b.img -> ../../b.img/C/disk.img",
        ];
        assert_eq!(told(&plan), wanted);
    }

    #[test]
    fn a_disk_whose_newest_is_broken_is_absent_until_it_has_a_whole_one_again() {
        let disks = [
            disk("a", &[(10, "A"), (20, "B"), (30, "C")]),
            disk("b", &[(10, "K"), (20, "!L"), (25, "!M"), (30, "N")]),
        ];
        let plan = plan("", &[0, 1], &disks);
        let linked = |moment: &Moment| plan.links(moment).map(|(n, ..)| n).collect::<Vec<_>>();
        let linked: Vec<_> = plan.moments.iter().map(|m| (m.second, linked(m))).collect();
        assert_eq!(linked, [(10, vec![1, 2]), (20, vec![1]), (30, vec![1, 2])]);
    }

    #[test]
    fn of_one_second_the_last_counts() {
        let mut a = disk("a", &[(10, "A"), (10, "B"), (10, "C")]);
        a.backups[1].time += Duration::from_millis(900);
        a.backups[2].time += Duration::from_millis(500);
        let disks = [a, disk("b", &[(10, "K"), (10, "L")])];
        let wanted =
            "1970-01-01T00:00:10Z: 1 a.img -> ../../a/B/disk.img, 2 b.img -> ../../b/L/disk.img";
        assert_eq!(told(&plan("", &[0, 1], &disks)), [wanted]);
    }

    #[test]
    fn a_mark_is_that_of_what_the_links_say() {
        let marks = |b: &[(u64, &str)]| {
            let disks = [disk("sda", &[(10, "A"), (30, "C")]), disk("sdb", b)];
            let plan = plan("", &[0, 1], &disks);
            plan.moments.iter().map(|moment| moment.mark).collect::<Vec<_>>()
        };
        let (plain, later, renamed) =
            (marks(&[(10, "A")]), marks(&[(10, "A"), (30, "D")]), marks(&[(10, "B")]));
        assert_eq!(plain[0], later[0], "nothing else is there at that time");
        assert_ne!(plain[1], later[1]);
        let broken = marks(&[(10, "A"), (30, "!D")]);
        assert!(broken[1] != plain[1] && broken[1] != later[1], "one link less");
        assert!(plain[0] != renamed[0] && plain[1] != renamed[1] && plain[0] != plain[1]);
    }

    #[test]
    fn disks_that_would_share_a_name_do_not() {
        let disks = [disk("a", &[(1, "x")]), disk("a.img", &[(1, "y")])];
        let plan = plan("", &[0, 1], &disks);
        let names: Vec<_> = plan.links(&plan.moments[0]).map(|(_, name, _)| name).collect();
        assert_eq!(names, ["a.img", "a~2.img"]);
    }
}
