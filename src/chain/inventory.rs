//! Every file of the source, looked at once: names, `stat`, and the headers of images.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Defect, Error, Result};
use crate::layer::qcow2::{Header, Snapshot, is_qcow2, read_bitmaps, read_snapshots};
use crate::layer::stream::{self, Index, StreamMeta};
use crate::layout::backing_name::BackingName;
use crate::layout::checkpoint_xml::CheckpointXml;
use crate::layout::sidecar::{self, Declaration, DeclaredFormat};
use crate::source::{EntryKind, FileStat, FoundEntry, LocalFile, LocalFiles, Source, SourceRoot};

/// Larger sidecars are not sidecars.
const SIDECAR_LIMIT: u64 = 1 << 20;
/// Deeper folders are not looked into.
const FOLDER_DEPTH: usize = 64;

/// A file of the inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub usize);

/// One regular file of the source.
#[derive(Debug)]
pub struct FoundFile {
    /// Path within the source.
    pub path: PathBuf,
    /// As `stat` saw it.
    pub stat: FileStat,
    /// Its bytes; none if it could not be opened.
    pub source: Option<Arc<LocalFile>>,
    /// What its first bytes are.
    pub content: Content,
    /// What a user should know of a declaration that its bytes contradict.
    pub warning: Option<&'static str>,
}

/// What a file's first bytes are.
#[derive(Debug)]
pub enum Content {
    /// A qcow2 image.
    Qcow2(Box<QcowFacts>),
    /// A virtnbdbackup stream.
    Stream(Box<StreamFacts>),
    /// An image whose header is refused, or a file that cannot be read: the reason.
    Unreadable(String),
    /// Bytes without a known header: a raw image, or no image at all.
    Plain,
    /// A known format that is no raw image.
    Foreign(Foreign),
}

/// What the beginning and the end of a stream say.
#[derive(Debug)]
pub struct StreamFacts {
    /// The metadata.
    pub meta: StreamMeta,
    /// Why it cannot be read, where that shows already.
    pub fault: Option<String>,
}

/// A format that must not be taken for the bytes of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    /// What people call it.
    pub name: &'static str,
    /// Whether it holds a disk.
    pub is_disk: bool,
}

/// What the metadata at the beginning of a qcow2 image says.
#[derive(Debug)]
pub struct QcowFacts {
    /// The header.
    pub header: Header,
    /// What it calls its backing file.
    pub backing: Option<BackingName>,
    /// What it calls its external data file.
    pub data_file: Option<BackingName>,
    /// Internal snapshots; an entry that cannot be used keeps its reason.
    pub snapshots: Vec<Result<Snapshot, Defect>>,
    /// Names of the dirty bitmaps, in the order of their directory.
    pub bitmaps: Vec<String>,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// A checkpoint description, and where it lies.
#[derive(Debug)]
pub struct FoundCheckpoint {
    /// Its folder within the source.
    pub folder: PathBuf,
    /// What it says.
    pub checkpoint: CheckpointXml,
}

/// Something in the source that is not shown, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Path within the source.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
    /// Whether it should have been possible to look at it.
    pub is_fault: bool,
}

/// Everything in the source.
#[derive(Debug)]
pub struct Inventory {
    root: Arc<SourceRoot>,
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
}

impl Inventory {
    /// Looks at everything beneath `root`. A folder or file that cannot be read is noted; only a
    /// root that cannot be read and a wrong `qcowfs.toml` in it are errors.
    pub fn take(root: Arc<SourceRoot>) -> Result<Self> {
        let mut inventory = Self {
            root: Arc::clone(&root),
            folders: BTreeMap::new(),
            files: Vec::new(),
            by_path: HashMap::new(),
            declarations: BTreeMap::new(),
            wrong_sidecars: BTreeMap::new(),
            declared_in: BTreeMap::new(),
            noted_formats: BTreeMap::new(),
            checkpoint_xml: Vec::new(),
            skipped: Vec::new(),
        };
        let mut found = inventory.walk()?;
        // Of two declarations of a file the one nearer to it counts: it comes later.
        found.sort_by(|(a, _), (b, _)| {
            (a.components().count(), a).cmp(&(b.components().count(), b))
        });
        let files = LocalFiles::new(root);
        for (path, entry) in &found {
            inventory.read_sidecar(&files, path, entry)?;
        }
        for (path, entry) in found {
            inventory.look_at(&files, path, &entry);
        }
        inventory.files.sort_by(|a, b| a.path.cmp(&b.path));
        let paths = inventory.files.iter().enumerate();
        inventory.by_path = paths.map(|(n, file)| (file.path.clone(), FileId(n))).collect();
        Ok(inventory)
    }

    /// The source folder.
    pub fn root(&self) -> &SourceRoot {
        &self.root
    }

    /// All folders, by path within the source; the root's is empty.
    pub fn folders(&self) -> &BTreeMap<PathBuf, FileStat> {
        &self.folders
    }

    /// All files, in the order of their paths.
    pub fn files(&self) -> impl Iterator<Item = (FileId, &FoundFile)> {
        self.files.iter().enumerate().map(|(n, file)| (FileId(n), file))
    }

    /// One file.
    ///
    /// # Panics
    /// If the number is not from this inventory.
    #[allow(clippy::indexing_slicing)] // ids are made here and are never derived from a file
    pub fn file(&self, id: FileId) -> &FoundFile {
        &self.files[id.0]
    }

    /// The file at a path within the source.
    pub fn at(&self, path: &Path) -> Option<FileId> {
        self.by_path.get(path).copied()
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

    /// What is not shown.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    fn skip(&mut self, path: &Path, reason: impl Into<String>) {
        let (path, reason) = (path.to_path_buf(), reason.into());
        self.skipped.push(Skipped { path, reason, is_fault: false });
    }

    fn skip_fault(&mut self, path: &Path, reason: impl Into<String>) {
        self.skip(path, reason);
        if let Some(skipped) = self.skipped.last_mut() {
            skipped.is_fault = true;
        }
    }

    fn walk(&mut self) -> Result<Vec<(PathBuf, FoundEntry)>> {
        let mut found = Vec::new();
        let root_stat = self.root.stat_folder(Path::new(""))?;
        self.folders.insert(PathBuf::new(), root_stat);
        let mut pending = vec![PathBuf::new()];
        while let Some(folder) = pending.pop() {
            let entries = match self.root.list(&folder) {
                Ok(entries) => entries,
                Err(e) if folder.as_os_str().is_empty() => return Err(e),
                Err(e) => {
                    self.skip_fault(&folder, format!("the folder cannot be read: {e}"));
                    continue;
                }
            };
            for entry in entries {
                let path = folder.join(&entry.name);
                match entry.kind {
                    EntryKind::File => found.push((path, entry)),
                    EntryKind::Folder if path.components().count() > FOLDER_DEPTH => {
                        self.skip(&path, "folders this deep are not looked into");
                    }
                    EntryKind::Folder => {
                        self.folders.insert(path.clone(), entry.stat);
                        pending.push(path);
                    }
                    EntryKind::Link => self.skip(&path, "a symbolic link is never followed"),
                    EntryKind::Other => self.skip(&path, "neither a file nor a folder"),
                    EntryKind::Unreadable => self.skip_fault(&path, "it cannot be looked at"),
                }
            }
        }
        Ok(found)
    }

    fn read_sidecar(&mut self, files: &LocalFiles, path: &Path, entry: &FoundEntry) -> Result<()> {
        let folder = path.parent().unwrap_or(Path::new(""));
        if path.file_name() == Some(OsStr::new(sidecar::NAME)) {
            self.declared_in.insert(folder.to_path_buf(), entry.stat);
            return self.read_declarations(files, path, folder);
        }
        let ending = path.extension().and_then(OsStr::to_str);
        if !matches!(ending, Some("xml" | "config")) || entry.stat.size > SIDECAR_LIMIT {
            return Ok(());
        }
        let Ok(text) = read_text(files, path) else { return Ok(()) };
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

    fn read_declarations(&mut self, files: &LocalFiles, path: &Path, folder: &Path) -> Result<()> {
        let declared = read_text(files, path).and_then(|text| {
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

    fn look_at(&mut self, files: &LocalFiles, path: PathBuf, entry: &FoundEntry) {
        let declaration = self.declarations.get(&path);
        if declaration.is_some_and(|declared| declared.ignore) {
            self.skip(&path, "qcowfs.toml says to ignore it");
            return;
        }
        let format = declaration.and_then(|declared| declared.format);
        let (source, stat, content) = match files.open(&path) {
            Ok(source) => {
                let content = look_into(&source, format)
                    .unwrap_or_else(|e| Content::Unreadable(e.to_string()));
                let stat = *source.stat();
                (Some(Arc::new(source)), stat, content)
            }
            Err(e) => (None, entry.stat, Content::Unreadable(e.to_string())),
        };
        if let Content::Foreign(format @ Foreign { is_disk: true, .. }) = content {
            self.skip(&path, format!("a {}, which qcowfs does not read", format.name));
        }
        let warning = source.as_ref().filter(|_| format == Some(DeclaredFormat::Raw));
        let warning = warning.and_then(|source| contradicted(source));
        self.files.push(FoundFile { path, stat, source, content, warning });
    }
}

impl FoundFile {
    /// The file's name.
    pub fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// The folder that holds it, within the source.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Whether a QEMU process has it open for writing. One that cannot be asked is not.
    pub fn is_in_use(&self) -> bool {
        let asked = self.source.as_ref().map_or(Ok(false), |source| source.is_in_use());
        asked.unwrap_or_else(|e| {
            log::debug!("cannot tell whether a VM has it open: {e}");
            false
        })
    }

    /// Where the L1 table of a qcow2 image would end, if the file ends before.
    pub fn end_of_cut_table(&self) -> Option<u64> {
        let header = &self.qcow2()?.header;
        let end = header.l1_offset.saturating_add(u64::from(header.l1_size) * 8);
        Some(end).filter(|&end| end > self.stat.size)
    }

    /// Its qcow2 metadata, if that is what it is.
    pub fn qcow2(&self) -> Option<&QcowFacts> {
        match &self.content {
            Content::Qcow2(facts) => Some(facts),
            _ => None,
        }
    }

    /// Whether it may be a raw image: bytes without a known header.
    pub fn is_plain(&self) -> bool {
        matches!(self.content, Content::Plain)
    }

    /// The name of its folder, as a name for the disk in it.
    pub fn folder_name(&self, root: &SourceRoot) -> OsString {
        let name = self.folder().file_name().or_else(|| root.path().file_name());
        name.unwrap_or(OsStr::new("disk")).to_os_string()
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

fn look_into(file: &LocalFile, declared: Option<DeclaredFormat>) -> Result<Content> {
    let mut start = [0; 512];
    let got = file.read_at(0, &mut start)?;
    let start = start.get(..got).unwrap_or_default();
    match declared {
        Some(DeclaredFormat::Raw) => return Ok(Content::Plain),
        None if stream::is_stream(start) => {
            return Ok(Content::Stream(Box::new(stream_facts(file)?)));
        }
        None if !is_qcow2(start) => {
            return Ok(foreign(start).map_or(Content::Plain, Content::Foreign));
        }
        Some(DeclaredFormat::Qcow2) | None => {}
    }
    Ok(Content::Qcow2(Box::new(qcow_facts(file)?)))
}

/// What to say of a file that is declared to be raw and begins like something else.
fn contradicted(file: &LocalFile) -> Option<&'static str> {
    let mut start = [0; 512];
    let got = file.read_at(0, &mut start).ok()?;
    let start = start.get(..got)?;
    (is_qcow2(start) || stream::is_stream(start) || foreign(start).is_some()).then_some(
        "qcowfs.toml declares it to be raw, but it begins like another format: what is shown is the \
         file itself, not the disk in it",
    )
}

fn stream_facts(file: &LocalFile) -> Result<StreamFacts> {
    let meta = StreamMeta::read(file)?;
    // A stream that ends as it should is taken at its word until it is read.
    let fault = if stream::has_end(file)? { None } else { Index::build(file, &meta).err() };
    let fault = fault.map(|e| e.to_string());
    Ok(StreamFacts { meta, fault })
}

fn qcow_facts(file: &LocalFile) -> Result<QcowFacts> {
    let header = Header::read(file)?;
    let mut warnings = Vec::new();
    if header.is_corrupt() {
        warnings.push(
            "QEMU marked this image as corrupt: what is read here may be wrong; compare it with \
             another restore point"
                .to_owned(),
        );
    }
    let snapshots = read_snapshots(file, &header).unwrap_or_else(|e| {
        warnings.push(format!("its internal snapshots cannot be read: {e}"));
        Vec::new()
    });
    let bitmaps = read_bitmaps(file, &header).unwrap_or_else(|e| {
        warnings.push(format!("its bitmaps cannot be read: {e}"));
        Vec::new()
    });
    let bitmaps = bitmaps.iter().map(|bitmap| String::from_utf8_lossy(&bitmap.name).into_owned());
    Ok(QcowFacts {
        backing: header.backing_file.as_deref().map(BackingName::parse),
        data_file: header.data_file.as_deref().map(BackingName::parse),
        header,
        snapshots,
        bitmaps: bitmaps.collect(),
        warnings,
    })
}

/// The known format that a file's first bytes tell, if it is one that must not be taken for the
/// bytes of a disk.
fn foreign(start: &[u8]) -> Option<Foreign> {
    let known: [(&[u8], &'static str, bool); 11] = [
        (b"KDMV", "VMDK image", true),
        (b"# Disk DescriptorFile", "VMDK descriptor", true),
        (b"vhdxfile", "VHDX image", true),
        (b"conectix", "VHD image", true),
        (b"QED\0", "QED image", true),
        (b"<<< ", "VDI image", true),
        (b"\x1f\x8b", "gzip file", false),
        (b"\xfd7zXZ\0", "xz file", false),
        (b"\x28\xb5\x2f\xfd", "zstd file", false),
        (b"\x04\x22\x4d\x18", "lz4 file", false),
        (b"BZh", "bzip2 file", false),
    ];
    let (_, name, is_disk) = known.into_iter().find(|(magic, ..)| start.starts_with(magic))?;
    Some(Foreign { name, is_disk })
}
