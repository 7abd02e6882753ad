//! The check of one file.

use std::sync::Arc;

use super::checksum;
use super::jobs::{Job, Known, lacks_its_magic};
use super::meter::Meter;
use super::reading::read_data;
use super::spoiled::Spoiled;
use super::trouble::{self, Trouble};
use crate::chain::catalog::Catalog;
use crate::chain::inventory::{Content, FileId, FoundFile, QcowFacts};
use crate::chain::place::Kind;
use crate::error::{Error, Result};
use crate::layer::clusters::ClusterCache;
use crate::layer::findings::Findings;
use crate::layer::qcow2::{Header, Qcow2Image, check_image, is_qcow2};
use crate::layer::stream::{StreamMeta, check_stream, is_stream};
use crate::layout::names::PushName;
use crate::layout::sidecar::DeclaredFormat;
use crate::source::Source;

const SECTOR: u64 = 512;

/// What came out of the check of one file.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// What kind of file it is: `qcow2`, `raw`, `data`, `stream`, `unreadable`, `checksum`, `folder`, `other`.
    pub(super) kind: &'static str,
    pub(super) findings: Findings,
    pub(super) spoiled: Spoiled,
    /// Whether it could not be looked into: encrypted, in use, unfinished.
    pub(super) is_closed: bool,
    /// A checksum file of it that says nothing, and what is wrong with that.
    pub(super) bad_checksum: Option<(FileId, Findings)>,
}

/// Checks one file. `tick` is told of bytes that were read: `job.bytes` in all.
pub(super) fn check(catalog: &Catalog, job: &Job, tick: &(dyn Fn(u64) + Sync)) -> Outcome {
    let tick = |bytes| tick(bytes);
    let meter = Meter::new(&tick, job.bytes);
    let mut outcome = Outcome::default();
    match (&job.known, job.file) {
        (Some(Known::Folder(reason)), _) => {
            outcome.kind = "folder";
            outcome.findings.damage(None, reason);
        }
        (Some(Known::Orphan), _) => {
            outcome.kind = "checksum";
            let what = "the file that this is the checksum of is missing";
            outcome.findings.damage(None, what);
        }
        (None, Some(id)) => {
            let file = catalog.inventory.file(id);
            FileCheck { catalog, job, file, meter: &meter, outcome: &mut outcome }.run();
        }
        (None, None) => {}
    }
    outcome
}

struct FileCheck<'a> {
    catalog: &'a Catalog,
    job: &'a Job,
    file: &'a FoundFile,
    meter: &'a Meter<'a>,
    outcome: &'a mut Outcome,
}

impl FileCheck<'_> {
    fn run(mut self) {
        let verifiable = self.check_chain();
        let was_read = self.check_checksum();
        match &self.file.content {
            Content::Qcow2(facts) => {
                self.outcome.kind = "qcow2";
                if verifiable && !self.job.checkpoints.is_empty() {
                    self.check_qcow2(facts);
                }
                if self.job.as_raw {
                    self.check_raw(was_read);
                }
            }
            Content::Plain if self.is_disk() => {
                self.outcome.kind = if self.job.is_data_file { "data" } else { "raw" };
                self.check_name();
                self.check_size();
                self.check_raw(was_read);
            }
            Content::Unreadable(reason) => {
                self.outcome.kind = "unreadable";
                if verifiable {
                    self.check_unreadable(reason);
                }
            }
            Content::Stream(facts) => {
                self.outcome.kind = "stream";
                self.check_stream(&facts.meta, was_read);
            }
            // Known to be no disk, or one of a format that is not read; only its checksum counts.
            Content::Plain | Content::Foreign(_) => self.outcome.kind = "other",
        }
    }

    fn is_disk(&self) -> bool {
        let is_needed = !self.job.checkpoints.is_empty() || self.job.as_raw;
        is_needed || lacks_its_magic(self.catalog, self.file)
    }

    /// Notes why its restore points cannot be assembled. Whether a look into it is worth while.
    fn check_chain(&mut self) -> bool {
        let mut verifiable = true;
        for &id in &self.job.checkpoints {
            match trouble::of(self.catalog, id) {
                Trouble::None => {}
                Trouble::Unverifiable(reason) => {
                    self.outcome.findings.warning(None, format!("not verified: {reason}"));
                    verifiable = false;
                    self.outcome.is_closed = true;
                }
                Trouble::Broken(reason) => {
                    match self.catalog.checkpoint(id).snapshot {
                        Some(number) => {
                            self.outcome.spoiled.snapshots.insert(number);
                        }
                        None => self.outcome.spoiled.active = true,
                    }
                    // What is wrong with the bytes is said with their offset.
                    if !matches!(self.file.content, Content::Unreadable(_)) {
                        self.outcome.findings.damage(None, reason);
                    }
                }
            }
        }
        verifiable
    }

    fn check_qcow2(&mut self, facts: &QcowFacts) {
        let image = match self.image(facts) {
            Ok(image) => image,
            // Said with its chain.
            Err(Error::MissingLayer { .. }) => return,
            Err(e) => {
                self.outcome.findings.error(&e);
                self.outcome.spoiled.bytes = true;
                return;
            }
        };
        let check = check_image(&image, &|bytes| self.meter.add(bytes));
        self.outcome.findings.extend(check.findings);
        self.outcome.spoiled.active |= check.active;
        self.outcome.spoiled.snapshots.extend(check.snapshots);
    }

    fn image(&self, facts: &QcowFacts) -> Result<Arc<Qcow2Image>> {
        let source = |file: &FoundFile| {
            let what = "it cannot be opened".to_owned();
            let missing = Error::MissingLayer { file: file.path.clone(), what };
            file.source.clone().map(|file| -> Arc<dyn Source> { file }).ok_or(missing)
        };
        let first = self.job.checkpoints.first();
        let data_file = first.and_then(|id| self.catalog.checkpoint(*id).data_file);
        let data_file = data_file.map(|id| source(self.catalog.inventory.file(id))).transpose()?;
        // Nothing is read twice: no cluster is worth keeping.
        let cache = Arc::new(ClusterCache::new(0));
        Qcow2Image::new(source(self.file)?, facts.header.clone(), data_file, cache)
    }

    fn check_stream(&mut self, meta: &StreamMeta, was_read: bool) {
        let Some(source) = self.file.source.clone() else { return };
        let file: Arc<dyn Source> = source;
        let check = check_stream(&file, meta, &|bytes| self.meter.add(bytes));
        self.outcome.findings.extend(check.findings);
        self.outcome.spoiled.active |= check.spoiled;
        // What is compressed was read to be unpacked.
        self.check_raw(was_read || meta.compression.is_some());
    }

    /// Reads it, if that was not done before.
    fn check_raw(&mut self, was_read: bool) {
        let Some(source) = self.file.source.as_deref().filter(|_| !was_read) else { return };
        let mut findings = Findings::default();
        read_data(source, &|bytes| self.meter.add(bytes), &mut findings);
        self.outcome.spoiled.bytes |= findings.worst().is_some();
        self.outcome.findings.extend(findings);
    }

    /// A qcow2 image that lost its first bytes looks like any raw file.
    fn check_name(&mut self) {
        let what = "its name is that of a qcow2 image, but it does not begin as one";
        let stem = PushName::parse(self.file.name()).map(|name| name.stem);
        let is_push = stem.is_some_and(|stem| stem.as_encoded_bytes().ends_with(b".qcow2"));
        if lacks_its_magic(self.catalog, self.file) {
            self.outcome.findings.damage(0, what);
            self.outcome.spoiled.bytes = true;
        } else if is_push && !self.job.is_data_file {
            // libvirt gives this name to raw backups of a qcow2 disk, too.
            self.outcome.findings.warning(0, what);
        }
    }

    fn check_size(&mut self) {
        let size = self.file.stat.size;
        if !size.is_multiple_of(SECTOR) || size == 0 {
            let what = format!("{size} bytes are no whole number of sectors (truncated?)");
            self.outcome.findings.warning(size, what);
        }
        for &id in &self.job.checkpoints {
            let checkpoint = self.catalog.checkpoint(id);
            let parent = checkpoint.parent.as_ref().map(|l| self.catalog.checkpoint(l.checkpoint));
            let below = parent.and_then(|parent| parent.virtual_size).unwrap_or(0);
            if checkpoint.kind == Kind::Incremental && size < below {
                let what = format!(
                    "its {size} bytes are fewer than the {below} of what it stands on: it is \
                     truncated, or the disk had shrunk"
                );
                self.outcome.findings.warning(size, what);
            }
        }
    }

    fn check_unreadable(&mut self, reason: &str) {
        if self.job.checkpoints.is_empty() {
            let what = format!("not verified, for it cannot be told what it is: {reason}");
            self.outcome.findings.warning(None, what);
            return;
        }
        self.outcome.spoiled.bytes = true;
        match self.header_error() {
            Some(e) => self.outcome.findings.error(&e),
            None => self.outcome.findings.damage(None, reason),
        }
    }

    /// What is wrong with its header: the inventory keeps only the words for it.
    fn header_error(&self) -> Option<Error> {
        let source = self.file.source.as_deref()?;
        let declared = self.catalog.inventory.declaration(&self.file.path).and_then(|d| d.format);
        let mut start = [0; 512];
        let start = match source.read_at(0, &mut start) {
            Ok(got) => start.get(..got).unwrap_or_default(),
            Err(e) => return Some(e),
        };
        if is_stream(start) && declared.is_none() {
            return StreamMeta::read(source).err();
        }
        let claims = is_qcow2(start) || declared == Some(DeclaredFormat::Qcow2);
        Header::read(source).err().filter(|_| claims)
    }

    /// Verifies its checksum, if it has one. Whether every byte of it was read.
    fn check_checksum(&mut self) -> bool {
        let Some(id) = self.job.checksum else { return false };
        let sums = self.catalog.inventory.file(id);
        let wanted = match (&sums.source, &sums.content) {
            (Some(source), _) => checksum::wanted(source.as_ref()),
            (None, Content::Unreadable(reason)) => Ok(Err(reason.clone())),
            (None, _) => Ok(Err("it cannot be opened".into())),
        };
        let mut bad = Findings::default();
        match wanted {
            Ok(Ok(wanted)) => return self.check_sum(wanted),
            Ok(Err(what)) => bad.damage(0, what),
            Err(e) => bad.error(&e),
        }
        self.outcome.bad_checksum = Some((id, bad));
        false
    }

    fn check_sum(&mut self, wanted: u32) -> bool {
        // Said with its content.
        let Some(source) = self.file.source.as_deref() else { return false };
        match checksum::actual(source, &|bytes| self.meter.add(bytes)) {
            Ok(sum) if sum == wanted => {}
            Ok(sum) => {
                let what = format!(
                    "its checksum is {sum}, and {wanted} by the .chksum file beside it: some of \
                     its bytes are not those that the backup wrote"
                );
                self.outcome.findings.damage(None, what);
                self.outcome.spoiled.bytes = true;
            }
            Err(e) => {
                self.outcome.findings.error(&e);
                self.outcome.spoiled.bytes = true;
            }
        }
        true
    }
}
