//! All that a view shows, for comparing a mounted one with a fresh look at its source.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use qcowfs::tree::{Ino, NodeKind, Opened, Tree, ViewOptions, partitions};
use serde_json::Value;

use super::watch::within;

/// Seconds after which a view that does not follow its source never will.
const LIMIT: u64 = 30;

/// What is at a path.
#[derive(Clone, PartialEq)]
pub(crate) enum Thing {
    Folder,
    Link(PathBuf),
    Disk(Vec<u8>),
    Info(Value),
    Text(String),
}

impl fmt::Debug for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder => f.write_str("a folder"),
            Self::Link(to) => write!(f, "-> {to:?}"),
            Self::Disk(bytes) => {
                write!(f, "a disk of {} bytes, {}", bytes.len(), super::content::sha256_of(bytes))
            }
            Self::Info(value) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// A path's permissions, time in seconds, links, and what it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shown {
    mode: u32,
    time: i64,
    links: u64,
    pub(crate) thing: Thing,
}

/// Everything, by path.
pub(crate) type Everything = BTreeMap<PathBuf, Shown>;

/// What there is of a name and its bytes.
fn thing(name: &Path, bytes: Vec<u8>) -> Thing {
    let text = |bytes| String::from_utf8(bytes).expect("a text");
    match name.file_name().and_then(|name| name.to_str()) {
        Some("disk.img") => Thing::Disk(bytes),
        Some(name) if partitions::number_in(name).is_some() => Thing::Disk(bytes),
        Some("info.json") => {
            let mut info: Value = serde_json::from_slice(&bytes).expect("JSON");
            let fields = info.as_object_mut().expect("an object");
            // They depend on what was read.
            for field in ["allocated", "allocated_is"] {
                fields.remove(field);
            }
            Thing::Info(info)
        }
        _ => Thing::Text(text(bytes)),
    }
}

/// What a mount shows; an error where something goes while it is looked at.
pub(crate) fn mounted(point: &Path) -> io::Result<Everything> {
    let root = point.to_path_buf();
    within(60, "walking the view", move || {
        let mut all = Everything::new();
        visit(&root, Path::new(""), &mut all).map(|()| all)
    })
}

fn visit(root: &Path, folder: &Path, all: &mut Everything) -> io::Result<()> {
    for entry in root.join(folder).read_dir()? {
        let path = folder.join(entry?.file_name());
        let full = root.join(&path);
        let stat = full.symlink_metadata()?;
        let thing = if stat.is_dir() {
            visit(root, &path, all)?;
            Thing::Folder
        } else if stat.is_symlink() {
            Thing::Link(full.read_link()?)
        } else {
            thing(&path, std::fs::read(&full)?)
        };
        let (mode, time, links) = (stat.mode() & 0o7777, stat.mtime(), stat.nlink());
        all.insert(path, Shown { mode, time, links, thing });
    }
    Ok(())
}

/// What a new mount of this source would show.
pub(crate) fn fresh(source: &Path) -> Everything {
    let tree = Tree::from_source(source, &ViewOptions::default()).expect("a view");
    let mut all = Everything::new();
    gather(&tree, Ino::ROOT, Path::new(""), &mut all);
    all
}

fn gather(tree: &Tree, folder: Ino, path: &Path, all: &mut Everything) {
    for entry in tree.entries(folder).expect("a folder") {
        let path = path.join(entry.name);
        let thing = match entry.kind {
            NodeKind::Folder => {
                gather(tree, entry.ino, &path, all);
                Thing::Folder
            }
            NodeKind::Link => {
                let target = tree.link_target(entry.ino).expect("a link");
                Thing::Link(target.into_owned().into())
            }
            NodeKind::File => {
                let size = tree.attr(entry.ino).expect("attributes").size;
                let size = usize::try_from(size).expect("a small disk");
                let bytes = match tree.open(entry.ino).expect("a file") {
                    Opened::Text(text) => text.to_vec(),
                    Opened::Image(disk) => {
                        let mut bytes = vec![0; size];
                        disk.read_at(0, &mut bytes).expect("a disk");
                        bytes
                    }
                    Opened::Slice(partition) => {
                        let mut bytes = vec![0; size];
                        partition.read_at(0, &mut bytes).expect("a partition");
                        bytes
                    }
                };
                thing(&path, bytes)
            }
        };
        let attr = tree.attr(entry.ino).expect("attributes");
        let time = attr.mtime.duration_since(UNIX_EPOCH).expect("a time").as_secs();
        let time = i64::try_from(time).expect("a time");
        let (mode, links) = (attr.mode.into(), attr.links.into());
        all.insert(path, Shown { mode, time, links, thing });
    }
}

/// Waits until a mount shows what a fresh look at the source does, and returns that.
pub(crate) fn must_follow(point: &Path, source: &Path, what: &str) -> Everything {
    let wanted = fresh(source);
    let end = Instant::now() + Duration::from_secs(LIMIT);
    loop {
        let seen = mounted(point);
        if seen.as_ref().is_ok_and(|seen| *seen == wanted) {
            return wanted;
        }
        if Instant::now() > end {
            let seen = seen.unwrap_or_else(|e| panic!("{what}: {e}"));
            let extra = seen.iter().filter(|(path, shown)| wanted.get(*path) != Some(*shown));
            let lacking = wanted.iter().filter(|(path, shown)| seen.get(*path) != Some(*shown));
            panic!(
                "{what}: the view does not follow its source: it has {:#?} where there should be \
                 {:#?}",
                extra.collect::<Vec<_>>(),
                lacking.collect::<Vec<_>>()
            );
        }
        thread::sleep(Duration::from_millis(50));
    }
}
