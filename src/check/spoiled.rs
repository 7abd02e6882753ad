//! Which restore points the damage of a file reaches.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::chain::catalog::{Catalog, CheckpointId};
use crate::chain::inventory::FileId;
use crate::chain::place::Kind;
use crate::tree::plan::Plan;

/// What of a file is damaged.
#[derive(Debug, Default)]
pub(super) struct Spoiled {
    /// Its bytes, whatever they are taken for.
    pub(super) bytes: bool,
    /// The disk that it is.
    pub(super) active: bool,
    /// Its internal snapshots, by number.
    pub(super) snapshots: BTreeSet<usize>,
}

/// A restore point's place in the order of `qcowfs ls`.
pub(super) type Rank = usize;

/// The restore points of a source, and what stands on what.
#[derive(Debug)]
pub(super) struct RestorePoints {
    names: Vec<String>,
    ranks: HashMap<CheckpointId, Rank>,
    /// What each file is needed for, directly.
    users: BTreeMap<FileId, Vec<User>>,
    /// What stands on each.
    children: HashMap<CheckpointId, Vec<CheckpointId>>,
}

#[derive(Debug, Clone, Copy)]
struct User {
    checkpoint: CheckpointId,
    needs: Needs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// The file's bytes, as they are.
    Bytes,
    /// The disk that it is.
    Active,
    Snapshot(usize),
}

impl RestorePoints {
    pub(super) fn new(catalog: &Catalog, plan: &Plan) -> Self {
        let mut points = Self {
            names: Vec::new(),
            ranks: HashMap::new(),
            users: BTreeMap::new(),
            children: HashMap::new(),
        };
        for disk in &plan.disks {
            for (id, name) in &disk.checkpoints {
                // What the tool did not finish is no restore point.
                if catalog.checkpoint(*id).kind == Kind::Partial {
                    continue;
                }
                points.ranks.insert(*id, points.names.len());
                points.names.push(format!("{}/{name}", disk.path.display()));
                points.add(catalog, *id);
            }
        }
        for id in catalog.needed_outside() {
            points.add(catalog, id);
        }
        points
    }

    fn add(&mut self, catalog: &Catalog, id: CheckpointId) {
        let checkpoint = catalog.checkpoint(id);
        let mut needs = |file: FileId, needs: Needs| {
            self.users.entry(file).or_default().push(User { checkpoint: id, needs });
        };
        needs(checkpoint.file, checkpoint.snapshot.map_or(Needs::Active, Needs::Snapshot));
        if let Some(file) = checkpoint.data_file {
            needs(file, Needs::Bytes);
        }
        match &checkpoint.parent {
            Some(link) if link.as_raw => {
                needs(catalog.checkpoint(link.checkpoint).file, Needs::Bytes);
            }
            Some(link) => self.children.entry(link.checkpoint).or_default().push(id),
            None => {}
        }
    }

    /// Those of which every file is among `verified`.
    pub(super) fn verified(&self, verified: &BTreeSet<FileId>) -> BTreeSet<Rank> {
        let all = Spoiled { bytes: true, ..Spoiled::default() };
        let others = self.users.keys().filter(|file| !verified.contains(file));
        let in_doubt: BTreeSet<Rank> = others.flat_map(|file| self.reached(*file, &all)).collect();
        (0..self.names.len()).filter(|rank| !in_doubt.contains(rank)).collect()
    }

    /// The disk's path in the view, and the checkpoint's name.
    pub(super) fn name(&self, rank: Rank) -> String {
        self.names.get(rank).cloned().unwrap_or_default()
    }

    /// All that damage of a file reaches, with all that stands on it.
    pub(super) fn reached(&self, file: FileId, spoiled: &Spoiled) -> BTreeSet<Rank> {
        let is_hit = |user: &&User| match user.needs {
            _ if spoiled.bytes => true,
            Needs::Bytes => false,
            Needs::Active => spoiled.active,
            Needs::Snapshot(number) => spoiled.snapshots.contains(&number),
        };
        let users = self.users.get(&file).into_iter().flatten();
        let mut pending: Vec<CheckpointId> =
            users.filter(is_hit).map(|user| user.checkpoint).collect();
        let mut reached = BTreeSet::new();
        while let Some(id) = pending.pop() {
            if reached.insert(id) {
                pending.extend(self.children.get(&id).into_iter().flatten());
            }
        }
        // What lies outside of the source is no restore point itself.
        reached.iter().filter_map(|id| self.ranks.get(id).copied()).collect()
    }
}
