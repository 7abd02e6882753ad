//! Any bytes as a folder with an image, what it stands on, and a sidecar: put together by the
//! program's own rules, each restore point reads as its layers laid on each other one by one.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qcowfs::chain::catalog::{Catalog, Checkpoint, CheckpointId, State};
use qcowfs::chain::inventory::{Content, FileId};
use qcowfs::chain::place::Kind;
use qcowfs::layer::Layer;
use qcowfs::layer::clusters::ClusterCache;
use qcowfs::layer::qcow2::{Header, Qcow2Image, Qcow2Layer};
use qcowfs::layer::raw::RawLayer;
use qcowfs::layer::stream::StreamLayer;
use qcowfs::layout::backing_name::BackingName;
use qcowfs::source::{MemoryFile, Source};
use qcowfs::tree::caches::{CacheSizes, Caches};
use qcowfs::tree::images::Images;
use qcowfs::tree::missing::Missing;
use qcowfs::tree::{Ino, NodeKind, Opened, Tree, ViewOptions, read_catalog};
use qcowfs::view::DiskImage;

use super::disk;
use super::random::Random;

/// What stands between the parts of an input: choices, the image, its base, the sidecar.
pub const MARK: &[u8] = b"\n--8<--\n";
/// Restore points looked into.
const DISKS: usize = 6;
/// Where a folder is made for each input, if this is not set: in memory, if there is room for that.
const SCRATCH: &str = "QCOWFS_FUZZ_SCRATCH";

/// What files are called. The first byte of the choices picks the image's name, the second that of
/// its base.
const NAMES: [&str; 16] = [
    "overlay.qcow2",
    "base.qcow2",
    "base.raw",
    "vm/INC-1795161320-vda.qcow2",
    "vm/FULL-1795161274-vda.qcow2",
    "INC-1795161320",
    "FULL-1795161274",
    "vda.qcow2.1795161372",
    "vda.qcow2",
    "vda-inc1.qcow2",
    "vda-full.qcow2",
    "vda.inc.virtnbdbackup.1.data",
    "vda.full.data",
    "vda.diff.1795161421.data",
    "INC-1795161330-vda.qcow2.partial",
    "2026-11/vda/COPY-1795161274-vda.qcow2",
];

/// What the sidecar is called: the fourth byte picks one.
const SIDECARS: [&str; 4] =
    ["qcowfs.toml", "checkpoints/one.xml", "vm/vda.qcow2.config", "vda.config"];

/// Tries one input.
pub fn run(data: &[u8]) {
    let folder = Folder::new().expect("a scratch folder");
    fill(&folder.0, data).expect("the scratch folder can be written to");
    let Ok(catalog) = read_catalog(&folder.0, &[]) else { return };
    let mut random = Random::of(data);
    let caches = Caches::new(CacheSizes::default());
    let images = Images::new(&catalog, &caches, Missing::Hide, None);
    let good =
        (0..catalog.len()).map(CheckpointId).filter_map(|id| match images.shown(&catalog, id) {
            Ok(image) => Some((id, image)),
            Err(reason) => {
                assert!(!reason.is_empty() && reason.len() < 64 << 10, "{} bytes", reason.len());
                None
            }
        });
    for (id, image) in good.take(DISKS) {
        check_image(&catalog, id, image, &mut random);
    }
    for missing in [Missing::Hide, Missing::Eio, Missing::Zero] {
        let options = ViewOptions { missing, ..ViewOptions::default() };
        let tree = Tree::from_source(&folder.0, &options).expect("it could be read just now");
        check_folder(&tree, Ino::ROOT, 0);
    }
}

fn check_image(catalog: &Catalog, id: CheckpointId, image: &DiskImage, random: &mut Random) {
    assert_eq!(catalog.checkpoint(id).state, State::Whole);
    let layers = layers(catalog, id);
    assert_eq!(layers.last().map(|top| top.virtual_size()), Some(image.size()));
    let layers: Vec<&dyn Layer> = layers.iter().map(|layer| &**layer).collect();
    disk::check(image, &layers, random);
}

/// The layers of a restore point, the lowest first, each made for itself.
fn layers(catalog: &Catalog, id: CheckpointId) -> Vec<Box<dyn Layer>> {
    let mut layers = Vec::new();
    let (mut next, mut as_raw) = (Some(id), false);
    while let Some(id) = next {
        let checkpoint = catalog.checkpoint(id);
        layers.push(layer(catalog, checkpoint, as_raw));
        let below = checkpoint.parent.as_ref().filter(|_| !as_raw);
        next = below.map(|link| link.checkpoint);
        as_raw = below.is_some_and(|link| link.as_raw);
    }
    layers.reverse();
    layers
}

fn layer(catalog: &Catalog, checkpoint: &Checkpoint, as_raw: bool) -> Box<dyn Layer> {
    let source = |id: FileId| -> Arc<dyn Source> {
        Arc::clone(catalog.inventory.file(id).source.as_ref().expect("an open file")) as _
    };
    let file = source(checkpoint.file);
    let cache = Arc::new(ClusterCache::new(0));
    match &catalog.inventory.file(checkpoint.file).content {
        _ if as_raw => Box::new(RawLayer::full(file)),
        Content::Qcow2(facts) => {
            let data = checkpoint.data_file.map(source);
            let image = Qcow2Image::new(file, facts.header.clone(), data, cache);
            let image = image.expect("an image that is shown");
            let snapshot = checkpoint.snapshot.map(|number| facts.snapshots[number].as_ref());
            Box::new(match snapshot {
                Some(snapshot) => {
                    Qcow2Layer::of_snapshot(&image, snapshot.expect("a snapshot that is shown"))
                }
                None => Qcow2Layer::active(&image),
            })
        }
        Content::Stream(facts) => Box::new(StreamLayer::new(file, facts.meta.clone(), cache)),
        _ if checkpoint.kind == Kind::Incremental => Box::new(RawLayer::increment(file)),
        _ => Box::new(RawLayer::full(file)),
    }
}

/// Looks at all that the mounted tree would show.
fn check_folder(tree: &Tree, folder: Ino, depth: usize) {
    assert!(depth < 12, "deeper than the source");
    for entry in tree.entries(folder).expect("a folder") {
        let name = entry.name.to_str().expect("names are UTF-8");
        assert!((1..=255).contains(&name.len()) && name != "." && name != "..", "{name:?}");
        assert!(!name.contains('/') && !name.contains(char::is_control), "{name:?}");
        assert_eq!(tree.lookup(folder, &entry.name), Some(entry.ino));
        assert_eq!(tree.parent(entry.ino), Some(folder));
        let attr = tree.attr(entry.ino).expect("attributes");
        assert_eq!(attr.kind, entry.kind);
        match entry.kind {
            NodeKind::Folder => check_folder(tree, entry.ino, depth + 1),
            NodeKind::Link => {
                let target = tree.link_target(entry.ino).expect("a link");
                let step = |at: Ino, part: &OsStr| match part.as_encoded_bytes() {
                    b".." => tree.parent(at),
                    _ => tree.lookup(at, part),
                };
                let end = Path::new(&*target).iter().try_fold(folder, step);
                assert!(end.is_some(), "a dead link {target:?}");
            }
            NodeKind::File => match tree.open(entry.ino).expect("a file") {
                Opened::Image(image) => assert_eq!(image.size(), attr.size),
                Opened::Slice(partition) => assert_eq!(partition.size(), attr.size),
                Opened::Text(text) => {
                    assert_eq!(text.len() as u64, attr.size);
                    let text = std::str::from_utf8(&text).expect("texts are UTF-8");
                    assert!(name != "info.json" || text.ends_with("\n}\n"), "{text}");
                }
            },
        }
    }
}

/// A folder that goes away.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let shm = || Some(PathBuf::from("/dev/shm")).filter(|path| path.is_dir());
        let above = std::env::var_os(SCRATCH).map(PathBuf::from).or_else(shm);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("qcowfs-fuzz-{}-{number}", std::process::id());
        let path = above.unwrap_or_else(std::env::temp_dir).join(name);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes the files that an input stands for.
fn fill(folder: &Path, data: &[u8]) -> io::Result<()> {
    let mut parts = parts(data).into_iter();
    let mut next = || parts.next().unwrap_or_default();
    let (choices, image, base, sidecar) = (next(), next(), next(), next());
    let choice = |at: usize| choices.get(at).map_or(at, |byte| usize::from(*byte));
    let name = Path::new(NAMES[choice(0) % NAMES.len()]);
    let mut base_name = PathBuf::from(NAMES[choice(1) % NAMES.len()]);
    // Mutated names hardly ever agree.
    if choice(2) % 2 == 1
        && let Some(backing) = backing_name(image)
    {
        base_name = name.parent().unwrap_or(name).join(backing);
    }
    if base_name == name {
        base_name.set_extension("base");
    }
    write_sparse(&folder.join(base_name), base)?;
    write_sparse(&folder.join(name), image)?;
    if !sidecar.is_empty() {
        write_sparse(&folder.join(SIDECARS[choice(3) % SIDECARS.len()]), sidecar)?;
    }
    Ok(())
}

fn parts(data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) {
        parts.push(&rest[..at]);
        rest = &rest[at + MARK.len()..];
    }
    parts.push(rest);
    parts
}

/// The name that the image's header gives its backing file, if it can be that of a file beside it.
fn backing_name(image: &[u8]) -> Option<PathBuf> {
    let header = Header::read(&MemoryFile::new("image", image.to_vec())).ok()?;
    let BackingName::Path { path, .. } = BackingName::parse(&header.backing_file?) else {
        return None;
    };
    let is_plain = matches!(path.components().next_back()?, Component::Normal(_));
    let name = path.file_name().filter(|name| is_plain && name.len() <= 255)?;
    Some(name.into())
}

/// Blocks of zeros become holes, as the tools leave them.
fn write_sparse(path: &Path, bytes: &[u8]) -> io::Result<()> {
    const BLOCK: usize = 4096;
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let file = File::create(path)?;
    file.set_len(bytes.len() as u64)?;
    for (number, block) in bytes.chunks(BLOCK).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, (number * BLOCK) as u64)?;
        }
    }
    Ok(())
}
