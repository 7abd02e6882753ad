//! What the first bytes of a file are, and what the metadata there says.

use std::sync::Arc;

use super::found::is_in_use;
use crate::error::{Defect, Result};
use crate::layer::qcow2::{Header, Snapshot, is_qcow2, read_bitmaps, read_snapshots};
use crate::layer::stream::{self, Index, StreamMeta};
use crate::layout::backing_name::BackingName;
use crate::layout::sidecar::DeclaredFormat;
use crate::source::{LocalFile, Source};

/// What a file's first bytes are.
#[derive(Debug, Clone)]
pub enum Content {
    /// A qcow2 image.
    Qcow2(Arc<QcowFacts>),
    /// A virtnbdbackup stream.
    Stream(Arc<StreamFacts>),
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

impl QcowFacts {
    /// The format of its backing file: as the header says, or else the name in it.
    pub fn backing_format(&self) -> Option<&str> {
        let header = self.header.backing_format.as_deref().filter(|format| !format.is_empty());
        header.or(match self.backing {
            Some(BackingName::Path { format, .. }) => format,
            _ => None,
        })
    }
}

/// A file that was opened, and what was seen in it.
pub(super) struct Looked {
    pub(super) source: LocalFile,
    pub(super) content: Content,
    /// What a user should know of a declaration that its bytes contradict.
    pub(super) warning: Option<&'static str>,
    pub(super) is_in_use: bool,
}

impl Looked {
    /// Looks into a file of which `format` is declared.
    pub(super) fn into(source: LocalFile, format: Option<DeclaredFormat>) -> Self {
        let content =
            look_into(&source, format).unwrap_or_else(|e| Content::Unreadable(e.advised()));
        let is_declared = format == Some(DeclaredFormat::Raw) && source.path().is_relative();
        let warning = if is_declared { contradicted(&source) } else { None };
        Self { is_in_use: is_in_use(&source), source, content, warning }
    }
}

fn look_into(file: &LocalFile, declared: Option<DeclaredFormat>) -> Result<Content> {
    let mut start = vec![0; Header::FIRST_READ];
    let got = file.read_at(0, &mut start)?;
    start.truncate(got);
    match declared {
        Some(DeclaredFormat::Raw) => return Ok(Content::Plain),
        None if stream::is_stream(&start) => {
            return Ok(Content::Stream(Arc::new(stream_facts(file)?)));
        }
        None if !is_qcow2(&start) => {
            return Ok(foreign(&start).map_or(Content::Plain, Content::Foreign));
        }
        Some(DeclaredFormat::Qcow2) | None => {}
    }
    Ok(Content::Qcow2(Arc::new(qcow_facts(file, start)?)))
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

fn qcow_facts(file: &LocalFile, start: Vec<u8>) -> Result<QcowFacts> {
    let header = Header::read_on(file, start)?;
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
