//! The folders, files and names of the view.
//!
//! A tree is built once from a catalog and does not change; a later one that shares the same
//! [`inode::Inodes`] keeps the numbers of all that stayed the same ([`live`]).

pub mod access;
pub mod backups;
pub mod caches;
pub mod change;
pub mod images;
pub mod info;
pub mod inode;
pub mod live;
pub mod map_entry;
pub mod missing;
pub mod names;
pub mod partitions;
pub mod plan;
pub mod select;
pub mod settle;
pub mod times;
pub mod xattrs;

mod build;
mod children;
mod counts;
mod folder;
mod listing;
mod loss;
mod reuse;

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use access::Access;
use caches::{CacheSizes, Caches};
pub use counts::{CachesUse, Counts};
use folder::Children;
use images::Images;
use inode::ByIno;
pub use inode::Ino;
use missing::Missing;
use plan::Plan;

use crate::chain::catalog::{Catalog, CheckpointId};
use crate::error::{Error, Result};
use crate::source::Roots;
use crate::view::{DiskImage, Slice};

/// What a user decides about a view.
#[derive(Debug, Clone, Default)]
pub struct ViewOptions {
    /// Folders outside of the source that headers may lead to.
    pub allowed: Vec<PathBuf>,
    /// What becomes of restore points that are not whole.
    pub missing: Missing,
    /// How much memory may be kept.
    pub caches: CacheSizes,
}

/// What kind of thing a node of the view is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
}

/// What `stat` tells of a node.
#[derive(Debug, Clone, Copy)]
pub struct Attr {
    /// Its number.
    pub ino: Ino,
    /// What it is.
    pub kind: NodeKind,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that are not holes; an upper estimate until `settled`.
    pub allocated: u64,
    /// When the backup was made.
    pub mtime: SystemTime,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub links: u32,
    /// Whether nothing of this will change any more.
    pub settled: bool,
}

/// An entry of a folder.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// Its name.
    pub name: Cow<'a, OsStr>,
    /// Its number.
    pub ino: Ino,
    /// What it is.
    pub kind: NodeKind,
}

/// A file, opened.
#[derive(Clone)]
pub enum Opened {
    /// A disk.
    Image(Arc<DiskImage>),
    /// A partition of one.
    Slice(Slice),
    /// A text, as it was when it was opened.
    Text(Arc<[u8]>),
}

/// Sums over the whole view.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Virtual sizes of all disks, bytes.
    pub bytes: u64,
    /// Nodes.
    pub files: u64,
}

struct Node {
    parent: Ino,
    body: Body,
    access: Access,
    mtime: SystemTime,
}

enum Body {
    Folder(Children),
    Image(CheckpointId, Arc<DiskImage>),
    Info(CheckpointId),
    Error(CheckpointId),
    Link(String),
    /// All disks of a VM at one moment: their numbers in the plan.
    Moment {
        vm: usize,
        moment: usize,
    },
}

/// The view of one catalog.
pub struct Tree {
    catalog: Catalog,
    plan: Plan,
    images: Images,
    nodes: ByIno<Node>,
    totals: Totals,
    /// By its folder, what tells each restore point from another of that path.
    points: ByIno<u64>,
    info_sizes: OnceLock<info::Sizes>,
    caches: Caches,
}

impl Tree {
    /// The view of a source: a folder, or one image whose chain is looked for in its folder; and
    /// beneath the folders that the options allow, where headers lead there.
    pub fn from_source(source: &Path, options: &ViewOptions) -> Result<Self> {
        let catalog = read_catalog(source, &options.allowed)?;
        let mut inodes = inode::Inodes::default();
        let caches = Caches::new(options.caches);
        Ok(build::tree(catalog, &caches, options.missing, &mut inodes, None))
    }

    /// The entry of this name.
    pub fn lookup(&self, folder: Ino, name: &OsStr) -> Option<Ino> {
        let name = name.to_str()?;
        let Some(children) = self.folder(folder) else {
            return self.link_named(folder, name);
        };
        children.get(name).or_else(|| self.partition_named(children, name))
    }

    /// Whether there will not be an entry of this name, where there is none now.
    pub fn is_never(&self, folder: Ino, name: &OsStr) -> bool {
        let number = name.to_str().and_then(partitions::number_in);
        let disk = self.folder(folder).and_then(|children| self.disk_in(children));
        number.is_none() || disk.is_none()
    }

    /// Whether a node is a folder.
    pub fn is_folder(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|node| kind_of(&node.body) == NodeKind::Folder)
    }

    fn folder(&self, ino: Ino) -> Option<&Children> {
        match &self.nodes.get(&ino)?.body {
            Body::Folder(children) => Some(children),
            _ => None,
        }
    }

    /// What `stat` tells.
    pub fn attr(&self, ino: Ino) -> Option<Attr> {
        if let (owner, number @ 1..) = ino.split() {
            return self.child_attr(owner, number);
        }
        let node = self.nodes.get(&ino)?;
        let (size, allocated, settled) = match &node.body {
            Body::Image(_, image) => {
                let allocated = image.allocated();
                (image.size(), allocated.bytes, allocated.exact)
            }
            Body::Info(id) => {
                let size = self.info_size(*id);
                (size, size, false)
            }
            Body::Error(id) => {
                let size = self.error_text(*id).len() as u64;
                (size, size, false)
            }
            Body::Link(target) => (target.len() as u64, 0, true),
            Body::Folder(_) | Body::Moment { .. } => (0, 0, true),
        };
        let links = match &node.body {
            Body::Folder(children) => children.folders().saturating_add(2),
            Body::Moment { .. } => 2,
            _ => 1,
        };
        let kind = kind_of(&node.body);
        Some(Attr { kind, size, allocated, links, settled, ..node.attr(ino) })
    }

    /// The folder that holds a node; the root's is the root.
    pub fn parent(&self, ino: Ino) -> Option<Ino> {
        let (owner, child) = ino.split();
        let node = self.nodes.get(&owner)?;
        // A partition lies beside its disk, a link in the folder of its moment.
        let is_within = child > 0 && matches!(node.body, Body::Moment { .. });
        Some(if is_within { owner } else { node.parent })
    }

    /// Where a node is in the view, for people.
    pub fn path(&self, ino: Ino) -> PathBuf {
        let mut at = ino;
        if self.parent(at).is_none() {
            return PathBuf::from("(not in the view any more)");
        }
        let mut names: Vec<OsString> = Vec::new();
        while let Some(parent) = self.parent(at).filter(|parent| *parent != at) {
            let siblings = self.entries(parent).unwrap_or_default();
            let name = siblings.iter().find(|entry| entry.ino == at).map(|entry| &*entry.name);
            names.push(name.unwrap_or(OsStr::new("?")).to_owned());
            at = parent;
        }
        names.iter().rev().collect()
    }

    /// The entries of a folder in the order of their names, without `.` and `..`; partitions come
    /// last.
    pub fn entries(&self, folder: Ino) -> Option<Vec<Entry<'_>>> {
        let Some(children) = self.folder(folder) else { return self.links_in(folder) };
        let mut entries = Vec::with_capacity(children.len());
        for (name, ino) in children.iter() {
            let kind = kind_of(&self.nodes.get(&ino)?.body);
            entries.push(Entry { name: Cow::Borrowed(OsStr::new(name)), ino, kind });
        }
        entries.extend(self.partitions_in(children));
        Some(entries)
    }

    /// Where a symbolic link leads.
    pub fn link_target(&self, ino: Ino) -> Option<Cow<'_, OsStr>> {
        if let (owner, number @ 1..) = ino.split() {
            return self.target(owner, number).map(|target| Cow::Owned(target.into()));
        }
        match &self.nodes.get(&ino)?.body {
            Body::Link(target) => Some(Cow::Borrowed(OsStr::new(target))),
            _ => None,
        }
    }

    /// Opens a file; `None` if the node is none.
    pub fn open(&self, ino: Ino) -> Option<Opened> {
        if let (owner, number @ 1..) = ino.split() {
            return Some(Opened::Slice(self.slice(owner, number)?));
        }
        match &self.nodes.get(&ino)?.body {
            Body::Image(_, image) => Some(Opened::Image(Arc::clone(image))),
            Body::Info(id) => Some(Opened::Text(self.info_text(*id).into())),
            Body::Error(id) => Some(Opened::Text(self.error_text(*id).into())),
            Body::Folder(_) | Body::Moment { .. } | Body::Link(_) => None,
        }
    }

    /// Sums over the whole view.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The catalog that it shows.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn info_size(&self, id: CheckpointId) -> u64 {
        self.info_sizes().of(&self.catalog, &self.plan, id, &self.images)
    }

    fn info_sizes(&self) -> &info::Sizes {
        self.info_sizes.get_or_init(|| info::Sizes::new(&self.catalog))
    }

    fn info_text(&self, id: CheckpointId) -> Vec<u8> {
        info::info_json(&self.catalog, &self.plan, id, &self.images)
    }

    fn error_text(&self, id: CheckpointId) -> Vec<u8> {
        info::error_txt(&self.catalog, &self.plan, id, &self.images)
    }
}

fn kind_of(body: &Body) -> NodeKind {
    match body {
        Body::Folder(_) | Body::Moment { .. } => NodeKind::Folder,
        Body::Image(..) | Body::Info(_) | Body::Error(_) => NodeKind::File,
        Body::Link(_) => NodeKind::Link,
    }
}

/// Reads the catalog of a source: a folder, or one image whose chain is looked for in its folder; and
/// beneath the folders `allowed`, where headers lead there.
pub fn read_catalog(source: &Path, allowed: &[PathBuf]) -> Result<Catalog> {
    let live::Place { folder, only } = live::Place::of(source)?;
    let mut catalog = Catalog::read(Arc::new(Roots::open(&folder, allowed)?))?;
    let Some(name) = only else { return Ok(catalog) };
    catalog.keep_only(&name);
    if catalog.disks.is_empty() {
        if let Some(skipped) = catalog.skipped().iter().find(|skipped| skipped.path == *name) {
            return Err(Error::Usage(format!("{}: {}", source.display(), skipped.reason)));
        }
        let what = format!(
            "{}: not an image that qcowfs knows; if it is a raw one, declare it in a qcowfs.toml \
             beside it: [image.\"{}\"] format = \"raw\"",
            source.display(),
            name.display()
        );
        return Err(Error::Usage(what));
    }
    Ok(catalog)
}
