//! Which files are verified, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::report::Ignored;
use crate::chain::catalog::{Catalog, Checkpoint, CheckpointId};
use crate::chain::inventory::{Content, FileId, FoundFile};
use crate::layout::names;
use crate::layout::sidecar::DeclaredFormat;

/// What a checksum file has behind the name of its file.
const CHECKSUM_ENDING: &[u8] = b".chksum";

/// One file to verify.
#[derive(Debug, Default)]
pub(super) struct Job {
    pub(super) file: Option<FileId>,
    /// Its path within the source; absolute outside of it.
    pub(super) path: PathBuf,
    /// The restore points that it is.
    pub(super) checkpoints: Vec<CheckpointId>,
    /// Whether its bytes are those of a disk whatever they look like: an external data file, or
    /// what an image with the backing format `raw` stands on.
    pub(super) as_raw: bool,
    /// Whether it is an external data file.
    pub(super) is_data_file: bool,
    /// The file that has its checksum.
    pub(super) checksum: Option<FileId>,
    /// What is wrong with it before anybody looked into it: a checksum of nothing, a folder.
    pub(super) known: Option<Known>,
    /// Bytes that have to be read, about.
    pub(super) bytes: u64,
}

/// What is known to be wrong without a look into any file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// A checksum file whose file is not there.
    Orphan,
    /// A folder that cannot be read: the reason.
    Folder(String),
}

/// All that is verified, and all that is not.
#[derive(Debug)]
pub(super) struct Jobs {
    /// In the order of their paths.
    pub(super) list: Vec<Job>,
    pub(super) ignored: Vec<Ignored>,
}

impl Jobs {
    pub(super) fn new(catalog: &Catalog) -> Self {
        let mut jobs: BTreeMap<FileId, Job> = BTreeMap::new();
        for id in catalog.disks.iter().flat_map(|disk| &disk.checkpoints) {
            add_checkpoint(catalog, *id, &mut jobs);
        }
        for id in catalog.needed_outside() {
            add_checkpoint(catalog, id, &mut jobs);
        }
        let whole = is_whole_source(catalog);
        if whole {
            add_lost(catalog, &mut jobs);
        }
        add_checksums(catalog, whole, &mut jobs);
        let listed: BTreeSet<FileId> = jobs.keys().copied().collect();
        let mut list: Vec<Job> = Vec::with_capacity(jobs.len());
        for (id, mut job) in jobs {
            let file = catalog.inventory.file(id);
            (job.file, job.path) = (Some(id), file.path.clone());
            job.bytes = bytes(file, &job);
            list.push(job);
        }
        let mut ignored = Vec::new();
        if whole {
            for skipped in catalog.skipped() {
                let (path, reason) = (skipped.path.clone(), skipped.reason.clone());
                // It was seen to be a folder, and what is in it nobody knows.
                if catalog.inventory.folders().contains_key(&path) {
                    let known = Some(Known::Folder(reason));
                    list.push(Job { path, known, ..Job::default() });
                } else if !catalog.inventory.at(&path).is_some_and(|id| listed.contains(&id)) {
                    ignored.push(Ignored { path: path.to_string_lossy().into_owned(), reason });
                }
            }
        }
        list.sort_by(|a, b| a.path.cmp(&b.path));
        ignored.sort_by(|a, b| a.path.cmp(&b.path));
        Self { list, ignored }
    }
}

/// Whether the catalog was not narrowed to one image.
fn is_whole_source(catalog: &Catalog) -> bool {
    let shown = catalog.disks.iter().map(|disk| disk.checkpoints.len()).sum::<usize>();
    let is_within = |n: &usize| !catalog.file_of(CheckpointId(*n)).is_outside();
    shown == (0..catalog.len()).filter(is_within).count()
}

fn add_checkpoint(catalog: &Catalog, id: CheckpointId, jobs: &mut BTreeMap<FileId, Job>) {
    let Checkpoint { file, data_file, parent, .. } = catalog.checkpoint(id);
    jobs.entry(*file).or_default().checkpoints.push(id);
    if let Some(data_file) = data_file {
        let job = jobs.entry(*data_file).or_default();
        (job.as_raw, job.is_data_file) = (true, true);
    }
    if let Some(link) = parent.as_ref().filter(|link| link.as_raw) {
        jobs.entry(catalog.checkpoint(link.checkpoint).file).or_default().as_raw = true;
    }
}

/// Files that are no restore point because they are damaged, so that nobody could tell what they
/// are.
fn add_lost(catalog: &Catalog, jobs: &mut BTreeMap<FileId, Job>) {
    for (id, file) in catalog.inventory.files().filter(|(_, file)| !file.is_outside()) {
        let lost = match file.content {
            // A checksum that cannot be read is spoken of with its file.
            Content::Unreadable(_) => checksum_of(&file.path).is_none(),
            Content::Plain => lacks_its_magic(catalog, file),
            Content::Qcow2(_) | Content::Stream(_) | Content::Foreign(_) => false,
        };
        if lost {
            jobs.entry(id).or_default();
        }
    }
}

/// Whether a file has the name of a qcow2 image, and its bytes do not begin as one.
pub(super) fn lacks_its_magic(catalog: &Catalog, file: &FoundFile) -> bool {
    let declared = catalog.inventory.declaration(&file.path).and_then(|d| d.format);
    let ending = Path::new(file.name()).extension();
    file.is_plain()
        && declared != Some(DeclaredFormat::Raw)
        && !names::is_unfinished(file.name())
        && ending.is_some_and(|ending| ending.eq_ignore_ascii_case("qcow2"))
}

fn add_checksums(catalog: &Catalog, whole: bool, jobs: &mut BTreeMap<FileId, Job>) {
    let images: BTreeSet<FileId> = jobs.keys().copied().collect();
    for (id, file) in catalog.inventory.files() {
        let Some(of) = checksum_of(&file.path) else { continue };
        if images.contains(&id) || !matches!(file.content, Content::Plain | Content::Unreadable(_))
        {
            continue;
        }
        match catalog.inventory.at(&of) {
            Some(of) if whole || images.contains(&of) => {
                jobs.entry(of).or_default().checksum = Some(id);
            }
            None if whole => jobs.entry(id).or_default().known = Some(Known::Orphan),
            _ => {}
        }
    }
}

/// The file that a checksum file is of, by its name.
fn checksum_of(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.as_bytes().strip_suffix(CHECKSUM_ENDING)?;
    (!name.is_empty()).then(|| path.with_file_name(OsStr::from_bytes(name)))
}

fn bytes(file: &FoundFile, job: &Job) -> u64 {
    let allocated = file.stat.allocated.min(file.stat.size);
    let sum = if job.checksum.is_some() { file.stat.size } else { 0 };
    match &file.content {
        Content::Qcow2(_) | Content::Stream(_) | Content::Foreign(_) => {
            allocated.saturating_add(sum)
        }
        // Read once, for both.
        Content::Plain => sum.max(if job.known.is_none() { allocated } else { 0 }),
        Content::Unreadable(_) => sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_file_has_the_name_of_its_file() {
        let of = |name: &str| checksum_of(Path::new(name));
        assert_eq!(of("vm/vda.full.data.chksum"), Some("vm/vda.full.data".into()));
        assert_eq!(of("vm/.chksum"), None);
        assert_eq!(of("vm/vda.full.data"), None);
    }
}
