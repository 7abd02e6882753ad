//! Which runs of the tool each VM's disks took part in: both disks of one run share the epoch. An
//! increment of which nothing is left but those of the other disks comes to light.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::{Disks, Member, vm_folder};
use crate::chain::place::DiskKey;
use crate::layout::names::QmpLevel;

/// The runs of all disks, VM by VM.
pub(super) struct Runs<'a> {
    by_vm: BTreeMap<PathBuf, Vec<DiskRuns<'a>>>,
    vm_of: BTreeMap<&'a DiskKey, PathBuf>,
}

/// The runs that disks took part in, all of them in the same ones: that is the usual case, and
/// such disks have nothing to tell of each other.
struct DiskRuns<'a> {
    disks: BTreeSet<&'a DiskKey>,
    all: BTreeSet<u64>,
    incremental: BTreeSet<u64>,
}

/// What the other disks of a VM tell of one of its disks.
#[derive(Default)]
pub(super) struct Others {
    /// The runs that they have an increment of, and this one has nothing.
    lacking: BTreeSet<u64>,
    /// It lacks most of them, time and again.
    often: bool,
}

/// A run in which other disks took part and this one did not.
pub(super) struct Gap {
    /// Whether this disk usually takes part in the same runs as the others.
    pub(super) usual: bool,
    pub(super) reason: String,
}

impl<'a> Runs<'a> {
    pub(super) fn new(disks: &'a Disks) -> Self {
        let mut runs = Self { by_vm: BTreeMap::new(), vm_of: BTreeMap::new() };
        for (disk, members) in disks {
            let epoch = |member: &Member| member.name.epoch;
            let increments = members.iter().filter(|member| member.name.level == QmpLevel::Inc);
            let vm = vm_folder(disks, disk);
            let all: BTreeSet<u64> = members.iter().map(epoch).collect();
            let incremental: BTreeSet<u64> = increments.map(epoch).collect();
            let of_vm = runs.by_vm.entry(vm.clone()).or_default();
            let same =
                of_vm.iter_mut().find(|of| (&of.all, &of.incremental) == (&all, &incremental));
            match same {
                Some(same) => {
                    same.disks.insert(disk);
                }
                None => of_vm.push(DiskRuns { disks: [disk].into(), all, incremental }),
            }
            runs.vm_of.insert(disk, vm);
        }
        runs
    }

    /// What the other disks of its VM tell of a disk.
    pub(super) fn beside(&self, disk: &DiskKey) -> Others {
        let groups = self.vm_of.get(disk).and_then(|vm| self.by_vm.get(vm));
        let groups = groups.map(Vec::as_slice).unwrap_or_default();
        let own = groups.iter().find(|runs| runs.disks.contains(disk)).map(|runs| &runs.all);
        let Some((own, (first, last))) =
            own.and_then(|own| Some((own, (own.first()?, own.last()?))))
        else {
            return Others::default();
        };
        // Disks that never took part in the same run are not of the same VM.
        let others =
            groups.iter().filter(|of| !of.disks.contains(disk) && !of.all.is_disjoint(own));
        let theirs: BTreeSet<u64> =
            others.flat_map(|runs| runs.incremental.range(first..=last).copied()).collect();
        let lacking: BTreeSet<u64> = theirs.difference(own).copied().collect();
        let gaps: BTreeSet<_> = lacking.iter().map(|run| own.range(..run).next_back()).collect();
        let often = gaps.len() > 1 && lacking.len() * 2 > theirs.union(own).count();
        Others { lacking, often }
    }
}

impl Others {
    /// What speaks against the increment at `to` standing on the backup at `from`: other disks of
    /// the VM have an increment of a run between them. A disk that lacks most of the others' runs,
    /// time and again, may have a schedule of its own; else its increment is missing.
    pub(super) fn missing_between(&self, from: u64, to: u64) -> Option<Gap> {
        let missing =
            *self.lacking.range(from.checked_add(1)?..).next().filter(|run| **run < to)?;
        let when = jiff::Timestamp::try_from(SystemTime::UNIX_EPOCH + Duration::from_secs(missing));
        let when = when.map_or_else(|_| missing.to_string(), |time| time.to_string());
        let reason = if self.often {
            format!(
                "other disks of this VM have an increment of the run at {when} (INC-{missing}), \
                 this disk has none; if it was lost, what is shown here is wrong"
            )
        } else {
            format!(
                "an increment is missing before it: the other disks of this VM have one of the run \
                 at {when} (INC-{missing}), this disk has none; without it the bytes would be \
                 wrong. If this disk was left out of that run on purpose, declare the parent in \
                 qcowfs.toml"
            )
        };
        Some(Gap { usual: !self.often, reason })
    }
}
