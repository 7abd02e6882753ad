//! A chain of qcow2 overlays of which it is known what each page of each checkpoint is, and which
//! file it comes from.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::paged::{PAGE, page_of};
use super::prng::Prng;
use super::qcow2_editor::{Editor, Entry};
use super::run::Run;

/// Bytes of each disk: four L2 tables of clusters that are as large as pages.
const SIZE: usize = 8 << 20;
const PAGES: usize = SIZE / PAGE;
/// Pages that one L2 table maps.
const REACH: usize = PAGE / 8;

/// A full image and its overlays: `layer0.qcow2`, `layer1.qcow2`, ...
#[derive(Debug)]
pub(crate) struct Layered {
    folder: PathBuf,
    /// The disk at each checkpoint.
    pub(crate) disks: Vec<Vec<u8>>,
    /// For each checkpoint, the layer that each page is in.
    owners: Vec<Vec<usize>>,
}

impl Layered {
    pub(crate) fn create(folder: &Path, layers: usize, seed: u64) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let mut prng = Prng::new(seed);
        let raw = folder.join("raw");
        let first = prng.bytes(SIZE);
        std::fs::write(&raw, &first).expect("a file");
        let convert = Run::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]);
        convert.args(["-o", "cluster_size=4096"]).arg(&raw).arg("layer0.qcow2").folder(folder).ok();
        std::fs::remove_file(raw).expect("a file");
        let folder = folder.canonicalize().expect("a folder");
        let mut chain = Self { folder, disks: vec![first], owners: vec![vec![0; PAGES]] };
        for layer in 1..layers {
            chain.overlay(layer, &mut prng);
        }
        chain
    }

    fn overlay(&mut self, layer: usize, prng: &mut Prng) {
        let name = format!("layer{layer}.qcow2");
        let below = format!("layer{}.qcow2", layer - 1);
        let create = Run::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "qcow2"]);
        create.args(["-o", "cluster_size=4096", "-b", &below, &name]).folder(&self.folder).ok();
        let (mut disk, mut owner) = (self.disks[layer - 1].clone(), self.owners[layer - 1].clone());
        let mut write = Run::new("qemu-io").args(["-f", "qcow2"]);
        for _ in 0..60 {
            let start = prng.below(PAGES as u64 - 16);
            let len = 1 + prng.below(16);
            let byte = u8::try_from(1 + prng.below(255)).expect("a byte");
            let offset = start * PAGE as u64;
            let bytes = len * PAGE as u64;
            write = write.arg("-c").arg(format!("write -P {byte} {offset} {bytes}"));
            let pages = page_of(offset)..page_of(offset + bytes);
            disk[pages.start * PAGE..pages.end * PAGE].fill(byte);
            owner[pages].fill(layer);
        }
        write.arg(&name).folder(&self.folder).ok();
        self.disks.push(disk);
        self.owners.push(owner);
    }

    /// The file of a layer.
    pub(crate) fn file(&self, layer: usize) -> PathBuf {
        self.folder.join(format!("layer{layer}.qcow2"))
    }

    /// The layer that a page of a checkpoint is in.
    pub(crate) fn owner(&self, checkpoint: usize, page: usize) -> usize {
        self.owners[checkpoint][page]
    }

    /// A page that a checkpoint has in its own layer.
    pub(crate) fn own_page(&self, checkpoint: usize) -> usize {
        let found = self.owners[checkpoint].iter().position(|owner| *owner == checkpoint);
        found.expect("a page of its own")
    }

    /// The bytes of a sound image with the same tables as a layer's, but other data.
    pub(crate) fn with_other_data(&self, layer: usize) -> Vec<u8> {
        let editor = Editor::open(self.file(layer));
        let mut bytes = editor.bytes.clone();
        for (host, _) in data(&editor) {
            let start = page_of(host) * PAGE;
            bytes[start..start + PAGE].iter_mut().for_each(|byte| *byte = !*byte);
        }
        bytes
    }

    /// Some data clusters of a layer that lie together in its file: where, and the pages in them.
    pub(crate) fn clusters(&self, layer: usize) -> (Range<u64>, Vec<usize>) {
        let clusters = data(&Editor::open(self.file(layer)));
        let some = &clusters[clusters.len() / 2..clusters.len() / 2 + 24];
        let range = some[0].0..some[23].0 + PAGE as u64;
        (range, some.iter().map(|(_, page)| *page).collect())
    }

    /// The third L2 table of a layer: where it lies, and the pages that it maps.
    pub(crate) fn table(&self, layer: usize) -> (Range<u64>, Range<usize>) {
        let tables = tables(&Editor::open(self.file(layer)));
        let (first, at) = tables[2];
        (at..at + PAGE as u64, first..first + REACH)
    }
}

/// The L2 tables of an image: the first page that each maps, and where it lies.
fn tables(editor: &Editor) -> Vec<(usize, u64)> {
    let start = editor.u64(40);
    let index = |at: u64| usize::try_from((at - start) / 8).expect("an index");
    editor.l1().iter().map(|entry| (index(entry.at) * REACH, entry.offset())).collect()
}

/// The data clusters of an image in the order of its file: where each lies, and which page it is.
fn data(editor: &Editor) -> Vec<(u64, usize)> {
    let mut found = Vec::new();
    for (first, table) in tables(editor) {
        let entries = (0..REACH).map(|n| (first + n, table + 8 * n as u64));
        let entries = entries.map(|(page, at)| (Entry { at, value: editor.u64(at) }, page));
        found.extend(
            entries.filter(|(entry, _)| entry.is_data()).map(|(e, page)| (e.offset(), page)),
        );
    }
    found.sort_unstable();
    found
}
