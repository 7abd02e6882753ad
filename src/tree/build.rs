//! Builds the tree: mirrored folders, disks, checkpoints, and the links between them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use super::access::Access;
use super::caches::Caches;
use super::children::DISK;
use super::folder::Children;
use super::images::Images;
use super::inode::{ByIno, Ino, Inodes, by_ino};
use super::listing::{self, readers};
use super::missing::Missing;
use super::plan::{BY_TIME, DiskPlan, LATEST, Plan};
use super::times::{Moment, VmPlan};
use super::{Body, Node, Totals, Tree};
use crate::chain::catalog::{Catalog, CheckpointId};
use crate::workers;

/// Links may be read by everybody who may list their folder.
pub(super) const LINK: u16 = 0o777;

/// Nodes of the usual restore point: its folder, two files in it, its link in `by-time`.
const NODES_OF_POINT: usize = 4;

pub(super) fn tree(
    catalog: Catalog,
    caches: &Caches,
    missing: Missing,
    inodes: &mut Inodes,
    earlier: Option<&Images>,
) -> Tree {
    let ((plan, traits), images) = workers::both(
        || (Plan::new(&catalog), traits(&catalog)),
        || Images::new(&catalog, caches, missing, earlier),
    );
    let points = catalog.len();
    if earlier.is_none() {
        inodes.reserve(points * NODES_OF_POINT);
    }
    let mut builder = Builder {
        catalog: &catalog,
        images: &images,
        inodes,
        nodes: by_ino(points * NODES_OF_POINT),
        folders: HashMap::new(),
        points: by_ino(points),
        traits,
        usual: Usual::default(),
    };
    builder.add_root();
    for disk in &plan.disks {
        builder.add_disk(disk);
    }
    for (number, vm) in plan.vms.iter().enumerate() {
        builder.add_vm(number, vm, &plan.disks);
    }
    let Builder { mut nodes, points, .. } = builder;
    for node in nodes.values_mut() {
        if let Body::Folder(children) = &mut node.body {
            children.sort();
        }
    }
    let sizes = images.all_shown(&catalog).map(|image| image.size());
    let bytes = sizes.fold(0, u64::saturating_add);
    let totals = Totals { bytes, files: nodes.len() as u64 };
    let caches = caches.clone();
    Tree { catalog, plan, images, nodes, totals, points, info_sizes: OnceLock::new(), caches }
}

struct Builder<'a> {
    catalog: &'a Catalog,
    images: &'a Images,
    inodes: &'a mut Inodes,
    nodes: ByIno<Node>,
    folders: HashMap<PathBuf, Ino>,
    points: ByIno<u64>,
    traits: Vec<Traits>,
    usual: Usual,
}

/// The names that every disk and restore point has in its folder.
struct Usual {
    disk: Arc<str>,
    error: Arc<str>,
    info: Arc<str>,
    latest: Arc<str>,
    by_time: Arc<str>,
}

impl Default for Usual {
    fn default() -> Self {
        Self {
            disk: DISK.into(),
            error: "error.txt".into(),
            info: "info.json".into(),
            latest: LATEST.into(),
            by_time: BY_TIME.into(),
        }
    }
}

/// What a checkpoint has from all files of its chain.
#[derive(Clone, Copy)]
struct Traits {
    access: Access,
    /// Tells its content from that of any other.
    content: u64,
}

/// The traits of all checkpoints, in the order of their numbers: parents come first.
fn traits(catalog: &Catalog) -> Vec<Traits> {
    let mut all: Vec<Traits> = Vec::with_capacity(catalog.len());
    for id in (0..catalog.len()).map(CheckpointId) {
        let checkpoint = catalog.checkpoint(id);
        let file = catalog.file_of(id);
        let mut access = readers(catalog, file);
        let mut hash = DefaultHasher::new();
        (file.stat.id, file.stat.size, file.stat.mtime, checkpoint.snapshot).hash(&mut hash);
        // The same bytes can be taken for another disk.
        (mem::discriminant(&file.content), checkpoint.kind, checkpoint.left).hash(&mut hash);
        if let Some(data) = checkpoint.data_file.map(|id| catalog.inventory.file(id)) {
            access = access.and(readers(catalog, data));
            (data.stat.id, data.stat.size, data.stat.mtime).hash(&mut hash);
        }
        let below = checkpoint.parent.as_ref().and_then(|link| all.get(link.checkpoint.0));
        if let Some(below) = below {
            access = access.and(below.access);
            below.content.hash(&mut hash);
            checkpoint.parent.as_ref().map(|link| link.as_raw).hash(&mut hash);
        }
        all.push(Traits { access, content: hash.finish() });
    }
    all
}

/// Tells a content from others.
fn mark(content: &impl Hash) -> u64 {
    let mut hash = DefaultHasher::new();
    content.hash(&mut hash);
    hash.finish()
}

impl Builder<'_> {
    fn add_root(&mut self) {
        let (access, mtime) = self.source_folder(Path::new(""));
        // Whoever cannot reach the source's folder shall not see in the view what is in it.
        let above = self.catalog.inventory.root().above().iter().filter_map(Access::searchers);
        let access = above.fold(access, Access::limited_to);
        let body = Body::Folder(Children::default());
        self.nodes.insert(Ino::ROOT, Node { parent: Ino::ROOT, body, access, mtime });
        self.folders.insert(PathBuf::new(), Ino::ROOT);
    }

    /// Permissions and time of a folder of the source.
    fn source_folder(&self, folder: &Path) -> (Access, SystemTime) {
        match self.catalog.inventory.folders().get(folder) {
            Some(stat) => (Access::folder(stat), stat.mtime),
            None => (Access { mode: 0o500, uid: 0, gid: 0 }, SystemTime::UNIX_EPOCH),
        }
    }

    /// The folder at `path` of the view, made with all above it where it is new. `source` is the
    /// folder of the source that it mirrors or lies in.
    fn folder(&mut self, path: &Path, source: &Path) -> Ino {
        if let Some(ino) = self.folders.get(path) {
            return *ino;
        }
        let mut parent = Ino::ROOT;
        let mut so_far = PathBuf::new();
        let mut source_parts = source.iter();
        let mut in_source = PathBuf::new();
        for part in path {
            so_far.push(part);
            in_source.extend(source_parts.next());
            if let Some(ino) = self.folders.get(&so_far) {
                parent = *ino;
                continue;
            }
            let (access, mtime) = self.source_folder(&in_source);
            let body = Body::Folder(Children::default());
            let name = part.to_string_lossy().into();
            parent = self.add(parent, name, 0, body, access, mtime);
            self.folders.insert(so_far.clone(), parent);
        }
        parent
    }

    fn add(
        &mut self,
        parent: Ino,
        name: Arc<str>,
        content: u64,
        body: Body,
        access: Access,
        mtime: SystemTime,
    ) -> Ino {
        let ino = self.inodes.number(parent, &name, content);
        let is_folder = matches!(body, Body::Folder(_) | Body::Moment { .. });
        self.nodes.insert(ino, Node { parent, body, access, mtime });
        if let Some(Node { body: Body::Folder(children), .. }) = self.nodes.get_mut(&parent) {
            children.add(name, ino, is_folder);
        }
        ino
    }

    fn add_disk(&mut self, disk: &DiskPlan) {
        let folder = self.folder(&disk.path, &disk.source_folder);
        let access = self.limit_names(disk, folder);
        let newest = disk.checkpoints.iter().map(|(id, _)| self.catalog.checkpoint(*id).time).max();
        let mtime = newest.unwrap_or(SystemTime::UNIX_EPOCH);
        if let Some(node) = self.nodes.get_mut(&folder) {
            node.mtime = mtime;
        }
        for (id, name) in &disk.checkpoints {
            self.add_checkpoint(folder, *id, name, access);
        }
        let link = Access { mode: LINK.into(), ..access };
        if let Some(latest) = &disk.latest {
            let name = Arc::clone(&self.usual.latest);
            self.add(folder, name, mark(latest), Body::Link(latest.clone()), link, mtime);
        }
        if !disk.by_time.is_empty() {
            let body = Body::Folder(Children::default());
            let name = Arc::clone(&self.usual.by_time);
            let by_time = self.add(folder, name, 0, body, access, mtime);
            for (name, checkpoint) in &disk.by_time {
                let body = Body::Link(format!("../{checkpoint}"));
                self.add(by_time, name.as_str().into(), mark(checkpoint), body, link, mtime);
            }
        }
    }

    /// The moments of a VM: for those who may know the names of all restore points of its disks, and
    /// their times.
    fn add_vm(&mut self, number: usize, vm: &VmPlan, disks: &[DiskPlan]) {
        let Some(&parent) = self.folders.get(&vm.folder) else { return };
        let Some(mut access) = self.nodes.get(&parent).map(|node| node.access) else { return };
        for disk in vm.disks.iter().filter_map(|disk| disks.get(*disk)) {
            let folder = self.folders.get(&disk.path).and_then(|ino| self.nodes.get(ino));
            let Some(disk) = folder.map(|node| node.access) else { return };
            let search = Access { mode: (disk.mode & 0o111) << 2, ..disk };
            access = access.limited_to(Access { mode: disk.mode & 0o444, ..disk }.and(search));
        }
        let newest = vm.moments.last().map_or(SystemTime::UNIX_EPOCH, |moment| moment.time);
        let body = Body::Folder(Children::default());
        let times = self.add(parent, vm.name.as_str().into(), 0, body, access, newest);
        for (moment, Moment { name, time, mark, .. }) in vm.moments.iter().enumerate() {
            let body = Body::Moment { vm: number, moment };
            self.add(times, name.as_str().into(), *mark, body, access, *time);
        }
    }

    /// Leaves a disk's folder, and the one that shows its name, to those who may know the names in
    /// it. Returns what is left of the disk's folder.
    fn limit_names(&mut self, disk: &DiskPlan, folder: Ino) -> Access {
        let (mut access, _) = self.source_folder(&disk.source_folder);
        if let Some(who) = listing::of_checkpoints(self.catalog, disk) {
            access = access.limited_to(who);
        }
        let who = listing::of_disk(self.catalog, disk);
        let parent = self.nodes.get_mut(&folder).map(|node| {
            node.access = access;
            node.parent
        });
        if let Some(who) = who
            && let Some(node) = parent.and_then(|parent| self.nodes.get_mut(&parent))
        {
            node.access = node.access.limited_to(who);
        }
        access
    }

    fn add_checkpoint(&mut self, disk: Ino, id: CheckpointId, name: &str, access: Access) {
        let checkpoint = self.catalog.checkpoint(id);
        let mtime = checkpoint.time;
        let Some(&Traits { access: files, content }) = self.traits.get(id.0) else { return };
        let body = Body::Folder(Children::default());
        // Even the size of the disk is told by files that not everybody may read.
        let access = access.limited_to(files);
        let folder = self.add(disk, name.into(), 0, body, access, mtime);
        let shown = self.images.shown(self.catalog, id);
        let (name, body) = match shown {
            Ok(image) => (Arc::clone(&self.usual.disk), Body::Image(id, Arc::clone(image))),
            Err(_) => (Arc::clone(&self.usual.error), Body::Error(id)),
        };
        self.add(folder, name, content, body, files, mtime);
        let name = Arc::clone(&self.usual.info);
        self.add(folder, name, content, Body::Info(id), files, mtime);
        self.points.insert(folder, mark(&(content, shown.is_ok())));
    }
}
