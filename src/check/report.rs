//! What a check says in the end, for people and for programs.

use std::collections::BTreeSet;

use serde::Serialize;

use super::file::Outcome;
use super::jobs::{Job, Jobs};
use super::spoiled::{Rank, RestorePoints};
use crate::chain::catalog::Catalog;
use crate::layer::findings::{Finding, Findings, Severity};
use crate::tree::plan::Plan;

/// Everything that a check found. Its JSON:
///
/// ```json
/// {
///   "files": [
///     { "path": "vm1/INC-1706260646-sda",
///       "kind": "qcow2",
///       "state": "damaged",
///       "problems": [ { "severity": "damage", "offset": 262144, "what": "..." } ],
///       "spoils": [ "vm1/sda/INC-1706260646", "vm1/sda/INC-1706260653" ] }
///   ],
///   "checkpoints_spoiled": [ "vm1/sda/INC-1706260646", "vm1/sda/INC-1706260653" ],
///   "ignored": [ { "path": "disk.vmdk", "reason": "..." } ],
///   "summary": { "files": 14, "damaged": 1, "warnings": 0, "checkpoints": 20, "spoiled": 2 }
/// }
/// ```
///
/// Paths are those within the source; what is not UTF-8 in them is replaced. A restore point is
/// named as the view does: the path of its disk's folder, and its own folder's name.
#[derive(Debug, Serialize)]
pub struct Report {
    /// All files that were looked at, in the order of their paths.
    pub files: Vec<FileReport>,
    /// All restore points that damage reaches, in the order of `qcowfs ls`.
    pub checkpoints_spoiled: Vec<String>,
    /// What is in the source and was not looked at.
    pub ignored: Vec<Ignored>,
    /// Counts.
    pub summary: Summary,
}

/// One file. Its `kind` is one of `qcow2`, `raw`, `data` (an external data file), `stream`, `unreadable`,
/// `checksum` (a `.chksum` that says nothing, or of a file that is missing), `folder` (one that
/// cannot be read), `other` (no disk, but it has a checksum).
#[derive(Debug, Serialize)]
pub struct FileReport {
    /// Path within the source.
    pub path: String,
    /// What it is.
    pub kind: &'static str,
    /// The worst of what was found.
    pub state: State,
    /// All that was found: damage first, each in the order of the file.
    pub problems: Vec<Problem>,
    /// The restore points that its damage reaches, with all that stand on these.
    pub spoils: Vec<String>,
}

/// How a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing is wrong with it.
    Ok,
    /// Something is lost or wrong, or its chain is not whole.
    Damaged,
    /// Something is odd, or it could not be verified.
    Warning,
}

/// One thing that is wrong with a file.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// `damage` or `warning`.
    pub severity: &'static str,
    /// The byte of the file where the wrong value stands; none where it is not one place.
    pub offset: Option<u64>,
    /// What is wrong there.
    pub what: String,
}

/// Something that was not looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Ignored {
    /// Path within the source.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Counts of what was found.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Files that were looked at.
    pub files: usize,
    /// Those of them that are damaged, or whose chain is not whole.
    pub damaged: usize,
    /// Those of them that are not damaged, and of which something is to be known.
    pub warnings: usize,
    /// Restore points of which every file was looked at, and those that are spoiled; without
    /// unfinished ones.
    pub checkpoints: usize,
    /// Those of them that damage reaches.
    pub spoiled: usize,
}

impl Report {
    pub(super) fn new(catalog: &Catalog, plan: &Plan, jobs: &Jobs, outcomes: Vec<Outcome>) -> Self {
        let points = RestorePoints::new(catalog, plan);
        let mut files = Vec::with_capacity(outcomes.len());
        let (mut spoiled, mut verified) = (BTreeSet::new(), BTreeSet::new());
        for (job, outcome) in jobs.list.iter().zip(outcomes) {
            if let Some((id, findings)) = outcome.bad_checksum {
                let path = catalog.inventory.file(id).path.to_string_lossy().into_owned();
                files.push(FileReport::new(path, "checksum", findings, Vec::new()));
            }
            verified.extend(job.file.filter(|_| !outcome.is_closed));
            let reached = job.file.map(|id| points.reached(id, &outcome.spoiled));
            let reached = reached.unwrap_or_default();
            let names = reached.iter().map(|rank| points.name(*rank)).collect();
            spoiled.extend(reached);
            files.push(FileReport::new(shown(job), outcome.kind, outcome.findings, names));
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let verified = points.verified(&verified);
        let summary = Summary::of(&files, verified.union(&spoiled).count(), &spoiled);
        let checkpoints_spoiled = spoiled.iter().map(|rank| points.name(*rank)).collect();
        Self { files, checkpoints_spoiled, ignored: jobs.ignored.clone(), summary }
    }

    /// Whether anything is damaged, or a chain is not whole.
    pub fn is_damaged(&self) -> bool {
        self.summary.damaged > 0
    }
}

fn shown(job: &Job) -> String {
    job.path.to_string_lossy().into_owned()
}

impl Summary {
    fn of(files: &[FileReport], checkpoints: usize, spoiled: &BTreeSet<Rank>) -> Self {
        let count = |state: State| files.iter().filter(|file| file.state == state).count();
        Self {
            files: files.len(),
            damaged: count(State::Damaged),
            warnings: count(State::Warning),
            checkpoints,
            spoiled: spoiled.len(),
        }
    }
}

impl FileReport {
    fn new(path: String, kind: &'static str, findings: Findings, spoils: Vec<String>) -> Self {
        let state = match findings.worst() {
            None => State::Ok,
            Some(Severity::Warning) => State::Warning,
            Some(Severity::Damage) => State::Damaged,
        };
        let problem = |found: Finding| Problem {
            severity: match found.severity {
                Severity::Damage => "damage",
                Severity::Warning => "warning",
            },
            offset: found.offset,
            what: found.what,
        };
        let problems = findings.into_list().into_iter().map(problem).collect();
        Self { path, kind, state, problems, spoils }
    }
}
