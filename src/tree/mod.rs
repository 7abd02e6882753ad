//! Temporary: a hard-coded tree.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::Result;
use crate::view::DiskImage;

/// Inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root folder.
    pub const ROOT: Self = Self(1);
}

/// Kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// Folder.
    Folder,
    /// File.
    File,
    /// Link.
    Link,
}

/// Attributes.
#[derive(Debug, Clone)]
pub struct Attr {
    /// Inode.
    pub ino: Ino,
    /// Kind.
    pub kind: NodeKind,
    /// Bytes.
    pub size: u64,
    /// Bytes on disk.
    pub allocated: u64,
    /// Time.
    pub mtime: SystemTime,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Links.
    pub links: u32,
    /// Final.
    pub settled: bool,
}

/// Entry.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Name.
    pub name: &'a OsStr,
    /// Inode.
    pub ino: Ino,
    /// Kind.
    pub kind: NodeKind,
}

/// Totals.
#[derive(Debug, Clone, Copy)]
pub struct Totals {
    /// Bytes.
    pub bytes: u64,
    /// Files.
    pub files: u64,
}

/// Opened.
#[derive(Debug)]
pub enum Opened {
    /// Image.
    Image(Arc<DiskImage>),
    /// Text.
    Text(Arc<[u8]>),
}

/// Tree: / -> vm1/ (sda/ (INC-1/ (disk.img, info.json), latest -> INC-1)), many/ with 3000 links.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<(u64, OsString, NodeKind)>,
    image: Arc<DiskImage>,
}

impl Tree {
    /// Builds.
    pub fn from_source(_path: &Path) -> Result<Self> {
        use NodeKind::{File, Folder, Link};
        let mut nodes: Vec<(u64, OsString, NodeKind)> = vec![
            (0, "".into(), Folder),
            (0, "".into(), Folder),
            (1, "vm1".into(), Folder),
            (2, "sda".into(), Folder),
            (3, "INC-1".into(), Folder),
            (4, "disk.img".into(), File),
            (4, "info.json".into(), File),
            (3, "latest".into(), Link),
            (1, "many".into(), Folder),
        ];
        nodes.extend((0..3000).map(|i| (8, format!("entry-{i:05}").into(), Link)));
        Ok(Self { nodes, image: Arc::new(DiskImage) })
    }

    fn node(&self, ino: Ino) -> Option<&(u64, OsString, NodeKind)> {
        self.nodes.get(usize::try_from(ino.0).ok()?).filter(|_| ino.0 > 0)
    }

    /// Looks up.
    pub fn lookup(&self, folder: Ino, name: &OsStr) -> Option<Ino> {
        let found = self.entries(folder)?.into_iter().find(|e| e.name == name)?;
        Some(found.ino)
    }

    /// Attributes.
    pub fn attr(&self, ino: Ino) -> Option<Attr> {
        let (_, name, kind) = self.node(ino)?;
        let size = match kind {
            NodeKind::File if name == "disk.img" => 16 << 20,
            NodeKind::File => 14,
            NodeKind::Link => 5,
            NodeKind::Folder => 0,
        };
        Some(Attr {
            ino,
            kind: *kind,
            size,
            allocated: if size > 1000 { 12 << 20 } else { size },
            mtime: SystemTime::UNIX_EPOCH + Duration::from_secs(1_706_260_646),
            mode: if *kind == NodeKind::Folder { 0o555 } else { 0o444 },
            uid: 0,
            gid: 0,
            links: 1,
            settled: name != "info.json",
        })
    }

    /// Parent.
    pub fn parent(&self, ino: Ino) -> Option<Ino> {
        self.node(ino).map(|node| Ino(node.0)).filter(|ino| ino.0 > 0)
    }

    /// Entries.
    pub fn entries(&self, folder: Ino) -> Option<Vec<Entry<'_>>> {
        self.node(folder).filter(|node| node.2 == NodeKind::Folder)?;
        let all = self.nodes.iter().zip(0..).skip(2).filter(|(node, _)| node.0 == folder.0);
        Some(all.map(|(n, i)| Entry { name: &n.1, ino: Ino(i), kind: n.2 }).collect())
    }

    /// Target.
    pub fn link_target(&self, ino: Ino) -> Option<&OsStr> {
        self.node(ino).filter(|node| node.2 == NodeKind::Link).map(|_| OsStr::new("INC-1"))
    }

    /// Opens.
    pub fn open(&self, ino: Ino) -> Option<Opened> {
        let node = self.node(ino).filter(|node| node.2 == NodeKind::File)?;
        Some(if node.1 == "disk.img" {
            Opened::Image(self.image.clone())
        } else {
            Opened::Text(Arc::from(&b"{\"hello\": 17}\n"[..]))
        })
    }

    /// Totals.
    pub fn totals(&self) -> Totals {
        Totals { bytes: 16 << 20, files: self.nodes.len() as u64 }
    }
}
