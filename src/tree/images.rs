//! The disks behind `disk.img`: layers and maps for every checkpoint of which something is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::caches::Caches;
use super::missing::Missing;
use super::partitions::{self, Glances};
use super::reuse::{LayerKey, Line, Made, NodeKey};
use crate::chain::catalog::{Catalog, Checkpoint, CheckpointId, Left, State};
use crate::chain::inventory::{Content, FileId, FoundFile, QcowFacts};
use crate::chain::place::Kind;
use crate::error::{Error, Result};
use crate::layer::Layer;
use crate::layer::lost::{LostLayer, TablesOnly};
use crate::layer::qcow2::{Qcow2Image, Qcow2Layer};
use crate::layer::raw::RawLayer;
use crate::layer::stream::StreamLayer;
use crate::map::{ChainMap, Node, NodeId};
use crate::partition::Partitions;
use crate::source::{LocalFile, Source};
use crate::view::{DiskImage, Lost, LostReads};

/// The disks of all checkpoints; of a broken one, what is left of it.
pub struct Images {
    /// In the order of the checkpoints' numbers; where there is nothing, the reason.
    left: Vec<Result<Arc<DiskImage>, String>>,
    made: Made,
    missing: Missing,
    /// What was found to be lost, as long as there is room.
    lost: Cache<CheckpointId, Arc<Lost>, ByMemory>,
    /// What tells each disk from all others; none where there is nothing.
    lines: Vec<Option<Line>>,
    /// What is known of partitions, by line; shared with the images of later looks.
    glances: Arc<Glances>,
}

/// A disk, and what tells it from all others.
type Marked = (Line, Arc<DiskImage>);

/// Bytes of lists of what is lost that are kept.
const LOST_LISTS: u64 = 4 << 20;

#[derive(Clone)]
struct ByMemory;

impl Weighter<CheckpointId, Arc<Lost>> for ByMemory {
    fn weight(&self, _: &CheckpointId, lost: &Arc<Lost>) -> u64 {
        lost.memory()
    }
}

impl Images {
    /// The disks of a catalog.
    ///
    /// With those of an earlier look at the same source, all that stayed the same is shared.
    pub fn new(
        catalog: &Catalog,
        caches: &Caches,
        missing: Missing,
        earlier: Option<&Self>,
    ) -> Self {
        let nothing = Made::default();
        let glances = earlier.map(|images| Arc::clone(&images.glances)).unwrap_or_default();
        let earlier = earlier.map_or(&nothing, |images| &images.made);
        let (images, made) = build(catalog, caches, missing.lost_reads(), earlier);
        let lost = Cache::with_weighter(images.len().min(1 << 16), LOST_LISTS, ByMemory);
        let lines = images.iter().map(|image| image.as_ref().ok().map(|(line, _)| *line)).collect();
        let left = images.into_iter().map(|image| image.map(|(_, disk)| disk)).collect();
        Self { left, made, missing, lost, lines, glances }
    }

    /// The partitions of the disk that a reader of the view is to see; none if there is none.
    /// Found out about when it is first asked for, and kept as long as there is room.
    pub fn partitions(&self, catalog: &Catalog, id: CheckpointId) -> Option<Arc<Partitions>> {
        let disk = |id: CheckpointId| {
            let line = self.lines.get(id.0).copied().flatten()?;
            Some(partitions::Disk { line, image: self.shown(catalog, id).ok()? })
        };
        let parent = catalog.checkpoint(id).parent.as_ref().and_then(|link| disk(link.checkpoint));
        Some(self.glances.of(disk(id)?, parent))
    }

    /// What is lost of a checkpoint; none if that cannot be said.
    pub fn lost(&self, id: CheckpointId) -> Option<Arc<Lost>> {
        let image = self.left(id).ok()?;
        self.lost.get_or_insert_with(&id, || image.lost().map(Arc::new).ok_or(())).ok()
    }

    /// What becomes of restore points that are not whole.
    pub fn missing(&self) -> Missing {
        self.missing
    }

    /// The disk of a checkpoint, whole or not; if there is nothing of it, the reason.
    pub fn left(&self, id: CheckpointId) -> Result<&Arc<DiskImage>, &str> {
        match self.left.get(id.0) {
            Some(Ok(image)) => Ok(image),
            Some(Err(reason)) => Err(reason),
            None => Err("unknown"),
        }
    }

    /// The disk that a reader of the view is to see; if none, the reason.
    pub fn shown<'a>(
        &'a self,
        catalog: &'a Catalog,
        id: CheckpointId,
    ) -> Result<&'a Arc<DiskImage>, &'a str> {
        match &catalog.checkpoint(id).state {
            State::Broken(reason) if self.missing == Missing::Hide => Err(reason),
            _ => self.left(id),
        }
    }

    /// All that a reader is to see.
    pub fn all_shown<'a>(
        &'a self,
        catalog: &'a Catalog,
    ) -> impl Iterator<Item = &'a Arc<DiskImage>> {
        (0..self.left.len()).filter_map(|n| self.shown(catalog, CheckpointId(n)).ok())
    }
}

fn build(
    catalog: &Catalog,
    caches: &Caches,
    lost: LostReads,
    earlier: &Made,
) -> (Vec<Result<Marked, String>>, Made) {
    let mut builder = Builder {
        catalog,
        caches,
        lost,
        earlier,
        made: Made::default(),
        trees: BTreeMap::new(),
        places: BTreeMap::new(),
        images: BTreeMap::new(),
    };
    let placed: Vec<Result<Place, String>> =
        (0..catalog.len()).map(|n| builder.place(CheckpointId(n))).collect();
    let Builder { trees, mut made, .. } = builder;
    let mut maps: BTreeMap<usize, Result<Arc<ChainMap>, String>> = BTreeMap::new();
    for (tree, (keys, nodes)) in trees {
        let new = || ChainMap::new(nodes, Arc::clone(&caches.maps)).map(Arc::new);
        let map = earlier.map(&keys).map_or_else(new, Ok).map_err(|e| e.to_string());
        if let Ok(map) = &map {
            made.keep_map(keys, map);
        }
        maps.insert(tree, map);
    }
    let changes = changing(catalog);
    let image = |(n, place): (usize, Result<Place, String>)| {
        let state = &catalog.checkpoint(CheckpointId(n)).state;
        if let (State::Broken(reason), Some(true)) = (state, changes.get(n)) {
            return Err(reason.clone());
        }
        let Place { tree, node, size, line } = place?;
        let map = maps.get(&tree).ok_or("its map was not built")?.clone()?;
        let disk = earlier.disk(line, DiskImage::new(map, node, size).with_lost(lost));
        made.keep_disk(line, &disk);
        Ok((line, disk))
    };
    (placed.into_iter().enumerate().map(image).collect(), made)
}

/// Which checkpoints stand on a file that somebody writes to: nothing of that is lost, and zeros in its
/// place would be wrong.
fn changing(catalog: &Catalog) -> Vec<bool> {
    let changes = |id: FileId| {
        let file = catalog.inventory.file(id);
        file.is_being_written || file.is_in_use
    };
    let mut all: Vec<bool> = Vec::with_capacity(catalog.len());
    for checkpoint in (0..catalog.len()).map(|n| catalog.checkpoint(CheckpointId(n))) {
        // Parents have smaller numbers.
        let parent = checkpoint.parent.as_ref().map(|link| link.checkpoint.0);
        let parent = parent.is_some_and(|n| all.get(n).copied().unwrap_or(false));
        all.push(parent || changes(checkpoint.file) || checkpoint.data_file.is_some_and(changes));
    }
    all
}

/// A checkpoint's place in the maps.
#[derive(Debug, Clone, Copy)]
struct Place {
    tree: usize,
    node: NodeId,
    size: u64,
    line: Line,
}

struct Builder<'a> {
    catalog: &'a Catalog,
    caches: &'a Caches,
    lost: LostReads,
    earlier: &'a Made,
    made: Made,
    /// The layers of each tree, parents first; a tree is numbered by its root checkpoint.
    trees: BTreeMap<usize, (Vec<NodeKey>, Vec<Node>)>,
    places: BTreeMap<CheckpointId, Place>,
    /// Images that several checkpoints share: an image and its snapshots.
    images: BTreeMap<FileId, Arc<Qcow2Image>>,
}

impl Builder<'_> {
    /// Places a checkpoint. Parents have smaller numbers, so that they are placed already.
    fn place(&mut self, id: CheckpointId) -> Result<Place, String> {
        let checkpoint = self.catalog.checkpoint(id);
        let layer = match (&checkpoint.state, checkpoint.left) {
            // What stands on it must know where it is; nobody sees it itself.
            (State::Broken(reason), Left::Nothing) => Err(reason.clone()),
            _ => self.layer(checkpoint).map_err(|e| e.to_string()),
        };
        let below = match (&layer, &checkpoint.parent) {
            (Err(_), _) => None,
            (_, Some(link)) if link.as_raw => {
                Some(self.place_raw(id, self.catalog.checkpoint(link.checkpoint).file)?)
            }
            (_, Some(link)) => {
                let place = self.places.get(&link.checkpoint).copied();
                Some(place.ok_or_else(|| self.unusable(link.checkpoint))?)
            }
            (_, None) if checkpoint.base_is_lost => Some(self.place_lost(id, None)?),
            (_, None) => None,
        };
        let (place, shown) = match layer {
            Ok(layer) => (self.add(id.0, below, layer)?, Ok(())),
            Err(reason) => (self.place_lost(id, checkpoint.virtual_size)?, Err(reason)),
        };
        self.places.insert(id, place);
        shown.map(|()| place)
    }

    fn unusable(&self, id: CheckpointId) -> String {
        format!("it stands on {}, which cannot be used", self.catalog.file_of(id).path.display())
    }

    /// A file's bytes as they are, as the bottom of a tree of its own.
    fn place_raw(&mut self, id: CheckpointId, file: FileId) -> Result<Place, String> {
        match source_of(self.catalog.inventory.file(file)) {
            Ok(source) => {
                let key = LayerKey::Raw { file: source.number(), is_increment: false };
                let layer = self.made_or(&key, || Ok(Arc::new(RawLayer::full(source))));
                self.add(id.0, None, (key, layer.map_err(|e| e.to_string())?))
            }
            Err(_) => self.place_lost(id, None),
        }
    }

    /// The place of a file that cannot be used, or that is not there, as the bottom of a tree.
    fn place_lost(&mut self, id: CheckpointId, size: Option<u64>) -> Result<Place, String> {
        let path = &self.catalog.file_of(id).path;
        let layer = LostLayer::new(path, size, self.lost == LostReads::Zeros);
        let key = LayerKey::Lost { path: path.clone(), size };
        self.add(id.0, None, (key, Arc::new(layer)))
    }

    fn add(
        &mut self,
        number: usize,
        below: Option<Place>,
        (key, layer): (LayerKey, Arc<dyn Layer>),
    ) -> Result<Place, String> {
        let tree = below.map_or(number, |place| place.tree);
        let size = layer.virtual_size();
        let (keys, nodes) = self.trees.entry(tree).or_default();
        let node = u32::try_from(nodes.len()).map_err(|_| "too many layers".to_owned())?;
        let line = Line::over(below.map(|place| place.line), &key);
        let parent = below.map(|place| place.node);
        keys.push(NodeKey { layer: key, parent });
        nodes.push(Node { layer, parent });
        Ok(Place { tree, node: NodeId(node), size, line })
    }

    /// The layer that was made of the same before, or a new one.
    fn made_or(
        &mut self,
        key: &LayerKey,
        make: impl FnOnce() -> Result<Arc<dyn Layer>>,
    ) -> Result<Arc<dyn Layer>> {
        let layer = self.earlier.layer(key).map_or_else(make, Ok)?;
        self.made.layers.insert(key.clone(), Arc::clone(&layer));
        Ok(layer)
    }

    fn layer(&mut self, checkpoint: &Checkpoint) -> Result<(LayerKey, Arc<dyn Layer>)> {
        let key = self.key(checkpoint)?;
        let layer = match self.earlier.layer(&key) {
            Some(layer) => layer,
            None => self.new_layer(checkpoint)?,
        };
        self.made.layers.insert(key.clone(), Arc::clone(&layer));
        Ok((key, layer))
    }

    fn key(&self, checkpoint: &Checkpoint) -> Result<LayerKey> {
        let found = self.catalog.inventory.file(checkpoint.file);
        let file = source_of(found)?.number();
        Ok(match &found.content {
            Content::Qcow2(_) => {
                let data = checkpoint.data_file.map(|id| self.catalog.inventory.file(id));
                let data = data.and_then(|data| Some(data.source.as_ref()?.number()));
                let (snapshot, left) = (checkpoint.snapshot, checkpoint.left);
                LayerKey::Qcow2 { file, snapshot, data, left }
            }
            Content::Stream(_) => LayerKey::Stream { file },
            _ => LayerKey::Raw { file, is_increment: checkpoint.kind == Kind::Incremental },
        })
    }

    fn new_layer(&mut self, checkpoint: &Checkpoint) -> Result<Arc<dyn Layer>> {
        let file = self.catalog.inventory.file(checkpoint.file);
        match &file.content {
            Content::Qcow2(facts) => {
                let image = self.image(checkpoint, facts)?;
                let layer: Arc<dyn Layer> =
                    Arc::new(match checkpoint.snapshot.and_then(|n| facts.snapshots.get(n)) {
                        Some(Ok(snapshot)) => Qcow2Layer::of_snapshot(&image, snapshot),
                        _ => Qcow2Layer::active(&image),
                    });
                Ok(match checkpoint.left {
                    Left::Tables(fault) => Arc::new(TablesOnly::new(layer, fault)),
                    _ => layer,
                })
            }
            Content::Stream(facts) => {
                let clusters = Arc::clone(&self.caches.clusters);
                Ok(Arc::new(StreamLayer::new(source_of(file)?, facts.meta.clone(), clusters)))
            }
            _ if checkpoint.kind == Kind::Incremental => {
                Ok(Arc::new(RawLayer::increment(source_of(file)?)))
            }
            _ => Ok(Arc::new(RawLayer::full(source_of(file)?))),
        }
    }

    fn image(&mut self, checkpoint: &Checkpoint, facts: &QcowFacts) -> Result<Arc<Qcow2Image>> {
        if let Some(image) = self.images.get(&checkpoint.file) {
            return Ok(Arc::clone(image));
        }
        let source = source_of(self.catalog.inventory.file(checkpoint.file))?;
        if let Left::Tables(_) = checkpoint.left {
            let clusters = Arc::clone(&self.caches.clusters);
            let image = Qcow2Image::tables_only(source, facts.header.clone(), clusters);
            self.images.insert(checkpoint.file, Arc::clone(&image));
            return Ok(image);
        }
        let data = checkpoint.data_file.map(|id| source_of(self.catalog.inventory.file(id)));
        let data = data.transpose()?.map(|file| -> Arc<dyn Source> { file });
        let clusters = Arc::clone(&self.caches.clusters);
        let image = Qcow2Image::new(source, facts.header.clone(), data, clusters)?;
        self.images.insert(checkpoint.file, Arc::clone(&image));
        Ok(image)
    }
}

fn source_of(file: &FoundFile) -> Result<Arc<LocalFile>> {
    file.source.clone().ok_or_else(|| Error::MissingLayer {
        file: file.path.clone(),
        what: "it cannot be opened".into(),
    })
}
