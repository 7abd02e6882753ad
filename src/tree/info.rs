//! What is told about a checkpoint: `info.json`, `error.txt`, and the lines of `ls`.

mod partitions;
mod size;

use std::fmt::Write;

use serde::Serialize;

use super::images::Images;
use super::loss;
pub use super::loss::LossInfo;
use super::names::printable;
use super::plan::{Plan, rfc3339};
use crate::chain::catalog::{Catalog, CheckpointId, State};
use crate::chain::evidence::{Basis, Certainty};
use crate::chain::inventory::Content;
use crate::chain::place::{Kind, TimeBasis};

pub use partitions::{PartitionInfo, PartitionsInfo};
pub use size::Sizes;

/// Everything that is known of a checkpoint. Sizes are bytes.
#[derive(Debug, Serialize)]
pub struct Info {
    /// The name of its folder in the view.
    pub name: String,
    /// The tool's label, a snapshot's name, or the file's name.
    pub label: String,
    /// Path within the source of the file that it is.
    pub file: String,
    /// Its number in that file's table, if it is an internal snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<usize>,
    /// What kind of restore point it is.
    pub kind: Kind,
    /// When it was made, RFC 3339, UTC.
    pub time: String,
    /// Where that was read.
    pub time_basis: TimeBasis,
    /// Size of the disk at that time.
    pub virtual_size: Option<u64>,
    /// `whole`, or `broken`; in `info.json` also `incomplete`: there is a disk, and parts of it are
    /// lost.
    pub state: &'static str,
    /// Why it is broken.
    pub reason: Option<String>,
    /// The checkpoint that it stands on: its folder's name, or its path in the view if it is one
    /// of another disk; outside of the source, the absolute path of the file.
    pub parent: Option<String>,
    /// Why it is taken to stand on its parent; in `info.json` each link of the chain below, too.
    pub evidence: Vec<LinkInfo>,
    /// What a user should know of this file; in `info.json` of those below, too.
    pub warnings: Vec<String>,
}

/// One link of a chain.
#[derive(Debug, Serialize)]
pub struct LinkInfo {
    /// The image.
    pub file: String,
    /// What it stands on.
    pub parent: String,
    /// What that rests on.
    pub basis: Basis,
    /// How sure it is.
    pub certainty: Certainty,
    /// The same in words.
    pub text: String,
}

/// One file of a chain. Sizes are bytes.
#[derive(Debug, Serialize)]
pub struct ChainFile {
    /// Path within the source.
    pub file: String,
    /// What it is read as.
    pub format: &'static str,
    /// Size of the file.
    pub size: u64,
    /// The external data file that it needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file: Option<String>,
}

/// `info.json`.
#[derive(Debug, Serialize)]
pub struct InfoFile {
    /// The restore point, with the evidence and the warnings of its whole chain.
    #[serde(flatten)]
    pub info: Info,
    /// Bytes of the disk that are not holes.
    pub allocated: Option<u64>,
    /// `exact`, or `at-most` while the map is not known.
    pub allocated_is: Option<&'static str>,
    /// What is lost, where that may be anything.
    #[serde(flatten)]
    pub loss: Option<LossInfo>,
    /// How the disk is divided; none where there is no disk.
    #[serde(flatten)]
    pub partitions: Option<PartitionsInfo>,
    /// All files that it is made of, base first.
    pub chain: Vec<ChainFile>,
}

impl Info {
    /// What is known of a checkpoint.
    pub fn new(catalog: &Catalog, plan: &Plan, id: CheckpointId) -> Self {
        let checkpoint = catalog.checkpoint(id);
        let (state, reason) = match &checkpoint.state {
            State::Whole => ("whole", None),
            State::Broken(reason) => ("broken", Some(reason.clone())),
        };
        let parent = checkpoint.parent.as_ref();
        Self {
            name: plan.name_of(id).unwrap_or_default().to_owned(),
            label: checkpoint.label.to_string_lossy().into_owned(),
            file: shown(catalog, id),
            snapshot: checkpoint.snapshot,
            kind: checkpoint.kind,
            time: rfc3339(checkpoint.time),
            time_basis: checkpoint.time_basis,
            virtual_size: checkpoint.virtual_size,
            state,
            reason,
            parent: parent.and_then(|link| {
                let outside = || shown_outside(catalog, link.checkpoint);
                plan.reference(id, link.checkpoint).or_else(outside)
            }),
            evidence: link_info(catalog, id).into_iter().collect(),
            warnings: checkpoint.warnings.clone(),
        }
    }
}

/// The text of `info.json`.
pub fn info_json(catalog: &Catalog, plan: &Plan, id: CheckpointId, images: &Images) -> Vec<u8> {
    InfoFile::new(catalog, plan, id, images).text()
}

impl InfoFile {
    /// All that is to be told of a checkpoint.
    pub fn new(catalog: &Catalog, plan: &Plan, id: CheckpointId, images: &Images) -> Self {
        let mut file = Self::alone(catalog, plan, id, images);
        for below in catalog.ancestors(id) {
            file.info.evidence.extend(link_info(catalog, below));
            file.info.warnings.extend(warnings_above(catalog, below));
        }
        file.chain = chain(catalog, id);
        file
    }

    /// Without the lists of what lies below.
    pub(super) fn alone(catalog: &Catalog, plan: &Plan, id: CheckpointId, images: &Images) -> Self {
        let mut info = Info::new(catalog, plan, id);
        let allocated = images.shown(catalog, id).ok().map(|image| image.allocated());
        let loss = loss::of(catalog, images, id);
        let is_shown = allocated.is_some();
        let is_whole = catalog.checkpoint(id).state == State::Whole;
        if is_shown && (!is_whole || loss.as_ref().is_some_and(LossInfo::is_any)) {
            info.state = "incomplete";
            info.reason.get_or_insert_with(|| "a file that it is made of is damaged".into());
        }
        let found = images.partitions(catalog, id);
        if let Some(found) = &found {
            info.warnings.extend(found.warnings.iter().cloned());
        }
        Self {
            info,
            loss,
            partitions: found.map(|found| PartitionsInfo::new(&found)),
            allocated: allocated.map(|known| known.bytes),
            allocated_is: allocated.map(|known| if known.exact { "exact" } else { "at-most" }),
            chain: Vec::new(),
        }
    }

    fn text(&self) -> Vec<u8> {
        let mut text = json(self);
        text.push(b'\n');
        text
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Plain structures of strings and numbers always serialise.
    serde_json::to_vec_pretty(value).unwrap_or_default()
}

/// A checkpoint's warnings in the `info.json` of those that stand on it.
fn warnings_above(catalog: &Catalog, id: CheckpointId) -> impl Iterator<Item = String> {
    let warnings = catalog.checkpoint(id).warnings.iter();
    warnings.map(move |warning| format!("{}: {warning}", shown(catalog, id)))
}

/// The text of `error.txt`.
pub fn error_txt(catalog: &Catalog, plan: &Plan, id: CheckpointId, images: &Images) -> Vec<u8> {
    let checkpoint = catalog.checkpoint(id);
    let reason = images.shown(catalog, id).err().unwrap_or("unknown");
    let mut text = format!(
        "This restore point cannot be shown.\n\nFile:   {}\n",
        printable(&shown(catalog, id))
    );
    let _ = writeln!(text, "Kind:   {}", checkpoint.kind.name());
    let _ = writeln!(text, "Time:   {}", rfc3339(checkpoint.time));
    let _ = writeln!(text, "Reason: {}", printable(reason));
    let latest = plan.disk_of(id).and_then(|disk| disk.latest.as_deref());
    let _ = match latest {
        Some(name) => {
            writeln!(text, "\nThe newest restore point of this disk that is whole: {name}")
        }
        None => writeln!(text, "\nNo restore point of this disk is whole."),
    };
    text.push_str(&loss::describe(images, id));
    text.into_bytes()
}

/// A path of the source as text. JSON holds no other bytes; what is not UTF-8 is replaced.
fn shown(catalog: &Catalog, id: CheckpointId) -> String {
    catalog.file_of(id).path.to_string_lossy().into_owned()
}

fn shown_outside(catalog: &Catalog, id: CheckpointId) -> Option<String> {
    catalog.file_of(id).is_outside().then(|| shown(catalog, id))
}

fn link_info(catalog: &Catalog, id: CheckpointId) -> Option<LinkInfo> {
    let link = catalog.checkpoint(id).parent.as_ref()?;
    Some(LinkInfo {
        file: shown(catalog, id),
        parent: shown(catalog, link.checkpoint),
        basis: link.evidence.basis,
        certainty: link.evidence.basis.certainty(),
        text: link.evidence.text.clone(),
    })
}

fn chain(catalog: &Catalog, id: CheckpointId) -> Vec<ChainFile> {
    let mut as_raw = false;
    let mut files = Vec::new();
    for id in std::iter::once(id).chain(catalog.ancestors(id)) {
        files.push(chain_file(catalog, id, as_raw));
        as_raw = catalog.checkpoint(id).parent.as_ref().is_some_and(|link| link.as_raw);
    }
    files.reverse();
    files
}

/// A checkpoint's file as a part of a chain, in which its bytes may count as they are.
fn chain_file(catalog: &Catalog, id: CheckpointId, as_raw: bool) -> ChainFile {
    #[cfg(test)]
    LISTED.set(LISTED.get() + 1);
    let file = catalog.file_of(id);
    let format = match file.content {
        Content::Qcow2(_) if !as_raw => "qcow2",
        Content::Stream(_) if !as_raw => "virtnbdbackup-stream",
        Content::Unreadable(_) => "unreadable",
        _ => "raw",
    };
    let data_file = catalog.checkpoint(id).data_file.filter(|_| !as_raw);
    let data_file = data_file.map(|id| catalog.inventory.file(id));
    ChainFile {
        file: shown(catalog, id),
        format,
        size: file.stat.size,
        data_file: data_file.map(|file| file.path.to_string_lossy().into_owned()),
    }
}

#[cfg(test)]
thread_local! {
    /// How many files were listed.
    static LISTED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}
