//! Every file of the source, looked at once: names, `stat`, and the headers of images. Files
//! outside of it come in one by one ([`super::outside`]), under their absolute paths.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::content::Looked;
pub use super::content::{Content, Foreign, QcowFacts, StreamFacts};
use super::folders::{FOLDER_DEPTH, MOST_LOOKERS, list_all};
use super::found::Seen;
pub use super::found::{Before, FoundFile};
use super::skipped;
pub use super::skipped::{Skipped, Why};
use crate::error::{Error, Result};
use crate::layout::checkpoint_xml::CheckpointXml;
use crate::layout::copying::is_copying;
use crate::layout::sidecar::{self, Declaration, DeclaredFormat, DeclaredParent};
use crate::source::{
    EntryKind, FileStat, FoundEntry, LocalFiles, Located, OpenWriters, Roots, Source, SourceRoot,
};
use crate::workers;

/// Larger sidecars are not sidecars.
const SIDECAR_LIMIT: u64 = 1 << 20;

/// A file of the inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub usize);

/// A checkpoint description, and where it lies.
#[derive(Debug)]
pub struct FoundCheckpoint {
    /// Its folder within the source.
    pub folder: PathBuf,
    /// What it says.
    pub checkpoint: CheckpointXml,
}

/// Everything in the source.
#[derive(Debug)]
pub struct Inventory {
    roots: Arc<Roots>,
    local: LocalFiles,
    folders: BTreeMap<PathBuf, FileStat>,
    files: Vec<FoundFile>,
    by_path: HashMap<PathBuf, FileId>,
    declarations: BTreeMap<PathBuf, Declaration>,
    wrong_sidecars: BTreeMap<PathBuf, String>,
    /// Every `qcowfs.toml`, by its folder.
    declared_in: BTreeMap<PathBuf, FileStat>,
    noted_formats: BTreeMap<PathBuf, String>,
    checkpoint_xml: Vec<FoundCheckpoint>,
    skipped: Vec<Skipped>,
    /// Why files outside of the source that are allowed were not taken in.
    refused: HashMap<PathBuf, String>,
}

impl Inventory {
    /// Looks at everything in the source. A folder or file that cannot be read is noted; only a
    /// source that cannot be read and a wrong `qcowfs.toml` in it are errors. What another process
    /// has open for writing is taken for being written.
    pub fn take(roots: Arc<Roots>) -> Result<Self> {
        let local = LocalFiles::new(Arc::clone(&roots));
        let writers = OpenWriters::now();
        let mut is_being_written = |_: &Path, stat: &FileStat| writers.write_to(stat);
        Self::look(roots, local, &mut Before::nothing(&mut is_being_written))
    }

    /// Looks at everything again. Also a folder that fails in a way which may pass (a server that
    /// does not answer) is an error.
    pub(super) fn take_again(earlier: &Self, before: &mut Before<'_>) -> Result<Self> {
        Self::look(Arc::clone(&earlier.roots), earlier.local.clone(), before)
    }

    fn look(roots: Arc<Roots>, local: LocalFiles, before: &mut Before<'_>) -> Result<Self> {
        let mut inventory = Self {
            local,
            roots,
            folders: BTreeMap::new(),
            files: Vec::new(),
            by_path: HashMap::new(),
            declarations: BTreeMap::new(),
            wrong_sidecars: BTreeMap::new(),
            declared_in: BTreeMap::new(),
            noted_formats: BTreeMap::new(),
            checkpoint_xml: Vec::new(),
            skipped: Vec::new(),
            refused: HashMap::new(),
        };
        let found = inventory.walk(before)?;
        inventory.read_sidecars(&found)?;
        inventory.look_at_all(found, before);
        inventory.locate_declared_parents();
        inventory.number();
        Ok(inventory)
    }

    /// Gives the files their numbers, in the order of their paths. Earlier numbers mean nothing
    /// any more.
    pub(super) fn number(&mut self) {
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        let paths = self.files.iter().enumerate();
        self.by_path = paths.map(|(n, file)| (file.path.clone(), FileId(n))).collect();
    }

    /// The source folder.
    pub fn root(&self) -> &SourceRoot {
        self.roots.source()
    }

    /// The source folder and those that are allowed beside it.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// All folders, by path within the source; the root's is empty. Those on the way to files
    /// outside of the source by their absolute paths.
    pub fn folders(&self) -> &BTreeMap<PathBuf, FileStat> {
        &self.folders
    }

    /// All files, in the order of their paths.
    pub fn files(&self) -> impl Iterator<Item = (FileId, &FoundFile)> {
        self.files.iter().enumerate().map(|(n, file)| (FileId(n), file))
    }

    /// How many files there are.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// One file.
    ///
    /// # Panics
    /// If the number is not from this inventory.
    #[allow(clippy::indexing_slicing)] // ids are made here and are never derived from a file
    pub fn file(&self, id: FileId) -> &FoundFile {
        &self.files[id.0]
    }

    /// The file at a path within the source, or at an absolute one outside of it.
    pub fn at(&self, path: &Path) -> Option<FileId> {
        self.by_path.get(path).copied()
    }

    /// What a path may mean within the source: as it is, or as it lies in the file system.
    pub fn paths_of(&self, path: &Path) -> Vec<PathBuf> {
        let plain = |part: &Component<'_>| matches!(part, Component::Normal(_));
        let real = path.canonicalize().ok();
        let real = real.as_deref().and_then(|real| real.strip_prefix(self.root().path()).ok());
        let real = real.map(Path::to_path_buf);
        [Some(path.components().filter(plain).collect()), real].into_iter().flatten().collect()
    }

    /// What the user declares of a file.
    pub fn declaration(&self, path: &Path) -> Option<&Declaration> {
        self.declarations.get(path)
    }

    /// What the user declares, by path within the source.
    pub fn declarations(&self) -> &BTreeMap<PathBuf, Declaration> {
        &self.declarations
    }

    /// The folders of every `qcowfs.toml` that may speak of a file, and its stat.
    pub fn declared_in<'a>(
        &'a self,
        path: &'a Path,
    ) -> impl Iterator<Item = (&'a Path, &'a FileStat)> {
        let folders = path.ancestors().skip(1);
        folders.filter_map(|folder| Some((folder, self.declared_in.get(folder)?)))
    }

    /// All checkpoint descriptions.
    pub fn checkpoint_xml(&self) -> &[FoundCheckpoint] {
        &self.checkpoint_xml
    }

    /// The format that qmpbackup noted for the disk of this name (`<disk>.config`), beside the
    /// folder or in it.
    pub fn noted_format(&self, folder: &Path, disk: &OsStr) -> Option<&str> {
        let mut name = disk.to_os_string();
        name.push(".config");
        let beside = folder.parent().map(|parent| parent.join(&name));
        let paths = [Some(folder.join(&name)), beside];
        paths
            .into_iter()
            .flatten()
            .find_map(|path| self.noted_formats.get(&path))
            .map(String::as_str)
    }

    /// Why nothing in this folder can be trusted: a `qcowfs.toml` above it that is wrong.
    pub fn wrong_sidecar(&self, folder: &Path) -> Option<&str> {
        folder.ancestors().find_map(|folder| self.wrong_sidecars.get(folder)).map(String::as_str)
    }

    /// Takes files for the raw bytes that others know them to be, whatever they look like: a guest
    /// can write anything into a raw disk.
    pub(super) fn treat_as_raw(&mut self, files: &[FileId]) {
        for id in files {
            if let Some(file) = self.files.get_mut(id.0)
                && matches!(file.content, Content::Qcow2(_) | Content::Foreign(_))
            {
                file.content = Content::Plain;
            }
        }
    }

    /// Takes in a file outside of the source. It has a number, after all others, until
    /// [`Self::number`].
    pub(super) fn take_outside(
        &mut self,
        path: &Path,
        format: Option<DeclaredFormat>,
        before: &mut Before<'_>,
    ) {
        let opened = self.local.open(path);
        let opened = opened.and_then(|file| Ok((file, self.roots.folders_on_the_way(path)?)));
        match opened {
            Ok((source, folders)) => {
                self.folders.extend(folders);
                self.by_path.insert(path.to_path_buf(), FileId(self.files.len()));
                self.add(path.to_path_buf(), Looked::into(source, format), format, before);
            }
            Err(e) => self.refuse_outside(path, e.to_string()),
        }
    }

    /// Notes why a file outside of the source is not taken in.
    pub(super) fn refuse_outside(&mut self, path: &Path, reason: String) {
        self.refused.insert(path.to_path_buf(), reason);
    }

    /// Why a file outside of the source was not taken in, though it is allowed.
    pub fn refusal(&self, path: &Path) -> Option<&str> {
        self.refused.get(path).map(String::as_str)
    }

    /// Replaces the absolute paths in declarations by those that files have here.
    fn locate_declared_parents(&mut self) {
        for declaration in self.declarations.values_mut() {
            if let Some(DeclaredParent::File(path)) = &mut declaration.parent
                && let Located::Source(found) | Located::Allowed(found) =
                    self.roots.locate(Path::new(""), path)
            {
                *path = found;
            }
        }
    }

    /// What is not shown.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    fn skip(&mut self, path: &Path, why: Why, reason: impl Into<String>) {
        let (path, reason) = (path.to_path_buf(), reason.into());
        self.skipped.push(Skipped { path, reason, why });
    }

    /// All files of the source, in the order of their paths.
    fn walk(&mut self, before: &Before<'_>) -> Result<Vec<(PathBuf, FoundEntry)>> {
        let mut found = Vec::new();
        let root_stat = self.root().stat_folder(Path::new(""))?;
        self.folders.insert(PathBuf::new(), root_stat);
        let mut listed = list_all(self.root(), before)?;
        let mut open = Vec::new();
        if let Some(entries) = listed.remove(Path::new("")) {
            open.push((PathBuf::new(), entries?.into_iter()));
        }
        while let Some((folder, entries)) = open.last_mut() {
            let Some(entry) = entries.next() else {
                open.pop();
                continue;
            };
            let path = folder.join(&entry.name);
            match entry.kind {
                EntryKind::File => found.push((path, entry)),
                EntryKind::Folder if Some(path.as_path()) == before.passed_over => {}
                EntryKind::Folder => {
                    let Some(entries) = listed.remove(&path) else {
                        // Else its name was listed twice.
                        if open.len() > FOLDER_DEPTH {
                            self.skip(&path, Why::Rule, "folders this deep are not looked into");
                        }
                        continue;
                    };
                    self.folders.insert(path.clone(), entry.stat);
                    match entries {
                        Ok(entries) => open.push((path, entries.into_iter())),
                        Err(e) => {
                            let why =
                                if skipped::is_of_system(&path) { Why::Rule } else { Why::Fault };
                            let reason = format!("the folder cannot be read: {}", e.advised());
                            self.skip(&path, why, reason);
                        }
                    }
                }
                EntryKind::Link => self.skip(&path, Why::Link, "a symbolic link is never followed"),
                EntryKind::Other => self.skip(&path, Why::Rule, "neither a file nor a folder"),
                EntryKind::Unreadable => self.skip(&path, Why::Fault, "it cannot be looked at"),
            }
        }
        Ok(found)
    }

    fn read_sidecars(&mut self, found: &[(PathBuf, FoundEntry)]) -> Result<()> {
        let ending =
            |path: &Path| matches!(path.extension(), Some(e) if e == "xml" || e == "config");
        let is_sidecar =
            |path: &Path| ending(path) || path.file_name() == Some(sidecar::NAME.as_ref());
        let mut sidecars: Vec<_> = found.iter().filter(|(path, _)| is_sidecar(path)).collect();
        // Of two declarations of a file the one nearer to it counts: it comes later.
        sidecars.sort_by_key(|(path, _)| path.components().count());
        sidecars.into_iter().try_for_each(|(path, entry)| self.read_sidecar(path, entry))
    }

    fn read_sidecar(&mut self, path: &Path, entry: &FoundEntry) -> Result<()> {
        let folder = path.parent().unwrap_or(Path::new(""));
        if path.file_name() == Some(OsStr::new(sidecar::NAME)) {
            // Who may not read it does not see the names that it gives.
            let stat = self.root().with_acl(path, &entry.stat);
            self.declared_in.insert(folder.to_path_buf(), stat);
            return self.read_declarations(path, folder);
        }
        let ending = path.extension().and_then(OsStr::to_str);
        if !matches!(ending, Some("xml" | "config")) || entry.stat.size > SIDECAR_LIMIT {
            return Ok(());
        }
        let Ok(text) = read_text(&self.local, path) else { return Ok(()) };
        if ending == Some("xml") {
            let found = CheckpointXml::parse(&text);
            let found = found
                .map(|checkpoint| FoundCheckpoint { folder: folder.to_path_buf(), checkpoint });
            self.checkpoint_xml.extend(found);
        } else if let Some(format) = noted_format(&text) {
            self.noted_formats.insert(path.to_path_buf(), format);
        }
        Ok(())
    }

    fn read_declarations(&mut self, path: &Path, folder: &Path) -> Result<()> {
        let declared = read_text(&self.local, path).and_then(|text| {
            let wrong = |what| Error::Usage(format!("{}: {what}", path.display()));
            sidecar::parse(folder, &text).map_err(wrong)
        });
        match declared {
            Ok(declared) => self.declarations.extend(declared),
            Err(e) if folder.as_os_str().is_empty() => return Err(e),
            // Somebody else's folder must not keep this one's owner from his backups.
            Err(e) => {
                let reason = format!("the declarations that hold for it are wrong: {e}");
                self.wrong_sidecars.insert(folder.to_path_buf(), reason);
            }
        }
        Ok(())
    }

    fn look_at_all(&mut self, found: Vec<(PathBuf, FoundEntry)>, before: &mut Before<'_>) {
        let mut wanted = Vec::new();
        for (path, entry) in found {
            let declaration = self.declarations.get(&path);
            if declaration.is_some_and(|declared| declared.ignore) {
                self.skip(&path, Why::Rule, "qcowfs.toml says to ignore it");
                continue;
            }
            if declaration.is_none() && path.file_name().is_some_and(is_copying) {
                self.skip(&path, Why::Rule, skipped::COPYING);
                // When it gets its own name, it is known how long it has been as it is.
                (before.is_being_written)(&path, &entry.stat);
                continue;
            }
            let format = declaration.and_then(|declared| declared.format);
            match before.same(&path, &entry.stat, format) {
                Some(same) => {
                    let stat = self.root().with_acl(&path, &entry.stat);
                    self.add_again(same, stat, before);
                }
                None => wanted.push((path, entry.stat, format)),
            }
        }
        let looked = workers::map(&wanted, MOST_LOOKERS, |(path, _, format)| {
            self.local.open(path).map(|source| Looked::into(source, *format))
        });
        for ((path, stat, format), looked) in wanted.into_iter().zip(looked) {
            match looked {
                Ok(looked) => self.add(path, looked, format, before),
                Err(e) => self.add_unreadable(path, &stat, format, &e),
            }
        }
    }

    fn add_unreadable(
        &mut self,
        path: PathBuf,
        listed: &FileStat,
        format: Option<DeclaredFormat>,
        error: &Error,
    ) {
        let content = Content::Unreadable(error.advised());
        self.files.push(FoundFile {
            stat: self.root().with_acl(&path, listed),
            path,
            source: None,
            content: content.clone(),
            warning: None,
            is_being_written: false,
            is_in_use: false,
            seen: Seen { declared: format, content },
        });
    }

    /// A file that is what it was; its owner and its permissions may be others.
    fn add_again(&mut self, same: &FoundFile, stat: FileStat, before: &mut Before<'_>) {
        let is_being_written = (before.is_being_written)(&same.path, &stat);
        self.note_foreign(&same.path, &same.seen.content);
        self.files.push(FoundFile {
            path: same.path.clone(),
            stat,
            source: same.source.clone(),
            content: same.seen.content.clone(),
            warning: same.warning,
            is_being_written,
            is_in_use: same.is_in_use_now(),
            seen: same.seen.clone(),
        });
    }

    fn add(
        &mut self,
        path: PathBuf,
        looked: Looked,
        format: Option<DeclaredFormat>,
        before: &mut Before<'_>,
    ) {
        let Looked { source, content, warning, is_in_use } = looked;
        if let Some(same) = before.same(&path, source.stat(), format) {
            return self.add_again(same, *source.stat(), before);
        }
        let is_being_written = (before.is_being_written)(&path, source.stat());
        self.note_foreign(&path, &content);
        let (stat, source) = (*source.stat(), Some(Arc::new(source)));
        let seen = Seen { declared: format, content: content.clone() };
        self.files.push(FoundFile {
            path,
            stat,
            source,
            content,
            warning,
            is_being_written,
            is_in_use,
            seen,
        });
    }

    /// A disk in a format that is not read.
    fn note_foreign(&mut self, path: &Path, content: &Content) {
        if let Content::Foreign(format @ Foreign { is_disk: true, .. }) = content
            && path.is_relative()
        {
            self.skip(path, Why::Rule, format!("a {}, which qcowfs does not read", format.name));
        }
    }
}

fn read_text(files: &LocalFiles, path: &Path) -> Result<String> {
    let file = files.open(path)?;
    if file.len() > SIDECAR_LIMIT {
        return Err(Error::Usage(format!("{}: larger than 1 MiB", path.display())));
    }
    let mut bytes = vec![0; usize::try_from(file.len()).unwrap_or(0)];
    file.read_exact(0, &mut bytes)?;
    String::from_utf8(bytes)
        .map_err(|_| Error::Usage(format!("{}: not a UTF-8 text", path.display())))
}

/// The disk's format in the text of a `<disk>.config`: the output of `qemu-img info`.
fn noted_format(text: &str) -> Option<String> {
    let info: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(info.get("format")?.as_str()?.to_owned())
}
