//! A source that is looked at again and again, and the tree of its last look.
//!
//! # How a view stays up to date
//!
//! Each look makes a new [`Tree`], which never changes; whoever serves it puts the new one in the
//! place of the old one, and goes on with the old one where he has begun with it. What makes that
//! cheap, and safe for readers and for what the kernel remembers:
//!
//! - **Files**: one that is the same (path, device, inode, size, modification time) is not opened
//!   or parsed again ([`Catalog::read_again`]). Which links hold is decided anew from all that was
//!   found, for a new file can change what others stand on.
//! - **Layers and maps**: the disks of a chain in which nothing changed are the very same, with all
//!   that their maps know. A chain that changed gets a new map over the layers that it had; what
//!   was found out about the data of a restore point that stays is kept ([`super::images`]).
//! - **Inode numbers**: a number belongs to a name in a folder and to the content behind it (the
//!   files of the whole chain, and how they are put together), is kept as long as both stay, and is
//!   never given again. So the kernel may keep what it read under a number for ever, two paths
//!   never share one, and a replaced file is a new one.
//! - **Names and attributes** that the kernel keeps are taken from it one by one ([`Changes`]),
//!   after the new tree is in place and with no lock held.
//! - **Open files** hold their disk, its layers, and the descriptors of their files: they have their
//!   bytes, whatever becomes of names.
//! - **Files that are being written** are shown as broken until they are complete
//!   ([`super::settle`]), and so is what stands on them.
//! - **A look that fails as a whole** changes nothing: a source whose file system was unmounted, that
//!   does not answer, whose `qcowfs.toml` is wrong. The old view stays.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::caches::Caches;
use super::change::Changes;
use super::inode::Inodes;
use super::settle::{Settling, Writers};
use super::{Tree, ViewOptions, build};
use crate::chain::catalog::{Catalog, CheckpointId};
use crate::chain::inventory::{Before, FileId, FoundFile};
use crate::error::{Error, Result};
use crate::source::Roots;

/// A source, and the view of it as it was at the last look.
pub struct Live {
    place: Place,
    options: ViewOptions,
    caches: Caches,
    inodes: Inodes,
    settling: Settling,
    passed_over: Option<PathBuf>,
    tree: Arc<Tree>,
    first_took: Duration,
}

/// Where a source is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    /// The one image in it that is asked for.
    pub(super) only: Option<PathBuf>,
}

impl Place {
    pub(super) fn of(source: &Path) -> Result<Self> {
        let real = source.canonicalize().map_err(|e| Error::io(source, e))?;
        let stat = real.metadata().map_err(|e| Error::io(source, e))?;
        if stat.is_dir() {
            return Ok(Self { folder: real, only: None });
        }
        if !stat.is_file() {
            let what = "neither a folder nor a regular file: name the folder of the backups, or one of \
                        them";
            return Err(Error::Usage(format!("{}: {what}", source.display())));
        }
        let folder = real.parent().unwrap_or(Path::new("/")).to_path_buf();
        Ok(Self { folder, only: real.file_name().map(PathBuf::from) })
    }
}

impl Live {
    /// Looks at a source for the first time. What nobody is seen to write to counts as complete.
    pub fn new(source: &Path, options: &ViewOptions) -> Result<Self> {
        let begun = Instant::now();
        let place = Place::of(source)?;
        let catalog = super::read_catalog(source, &options.allowed)?;
        let mut settling = Settling::default();
        for (_, file) in catalog.inventory.files() {
            if file.is_being_written {
                settling.is_open(&file.path, &file.stat, begun);
            } else {
                settling.is_complete(&file.path, &file.stat);
            }
        }
        let caches = Caches::new(options.caches);
        let mut inodes = Inodes::default();
        let tree = build::tree(catalog, &caches, options.missing, &mut inodes, None);
        let (options, tree) = (options.clone(), Arc::new(tree));
        let (passed_over, first_took) = (None, begun.elapsed());
        Ok(Self { place, options, caches, inodes, settling, passed_over, tree, first_took })
    }

    /// How long the first look took.
    pub fn first_took(&self) -> Duration {
        self.first_took
    }

    /// The tree of the last look.
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// The folder that holds all of the source.
    pub fn folder(&self) -> &Path {
        &self.place.folder
    }

    /// Has later looks pass over a folder: the view must not be taken for a part of its source.
    pub fn pass_over(&mut self, folder: &Path) {
        self.passed_over = folder.strip_prefix(&self.place.folder).ok().map(Path::to_path_buf);
    }

    /// Looks again, and returns what changed. After an error all is as it was.
    pub fn look_again(&mut self, writers: &Writers, now: Instant) -> Result<Changes> {
        self.check_in_place()?;
        self.settling.begin();
        let settling = &mut self.settling;
        let before = Before {
            earlier: Some(&self.tree.catalog().inventory),
            passed_over: self.passed_over.as_deref(),
            is_being_written: &mut |path, stat| settling.is_being_written(path, stat, writers, now),
        };
        let mut catalog = Catalog::read_again(self.tree.catalog(), before)?;
        self.settling.end();
        if let Some(name) = &self.place.only {
            catalog.keep_only(name);
        }
        let (missing, earlier) = (self.options.missing, Some(&self.tree.images));
        let tree = build::tree(catalog, &self.caches, missing, &mut self.inodes, earlier);
        let changes = Changes::between(&self.tree, &tree);
        self.inodes.keep(|ino| tree.nodes.contains_key(&ino));
        self.tree = Arc::new(tree);
        Ok(changes)
    }

    /// How long it takes, from `now` on, until the first of the files that are being written may be
    /// complete.
    pub fn complete_in(&self, now: Instant) -> Option<Duration> {
        let catalog = self.tree.catalog();
        let all = (0..catalog.len()).map(|n| catalog.checkpoint(CheckpointId(n)));
        let files: BTreeSet<FileId> =
            all.flat_map(|c| [Some(c.file), c.data_file]).flatten().collect();
        let files = files.into_iter().map(|id| catalog.inventory.file(id));
        let written = files.filter(|file| file.is_being_written);
        let due = written.filter_map(|file| self.settling.due(&file.stat)).min()?;
        Some(due.saturating_duration_since(now))
    }

    /// The folders in which something can happen that changes the view: those of the source (of one
    /// image: its own, and those of what it stands on), and those of files outside that are needed.
    pub fn folders_to_watch(&self) -> BTreeSet<PathBuf> {
        let catalog = self.tree.catalog();
        let files = catalog.inventory.files().map(|(_, file)| file);
        let outside = files.filter(|file| file.is_outside()).map(FoundFile::folder);
        let mut folders: BTreeSet<PathBuf> = outside.map(Path::to_path_buf).collect();
        if self.place.only.is_some() {
            let shown = catalog.disks.iter().flat_map(|disk| &disk.checkpoints);
            folders.extend(shown.map(|id| self.place.folder.join(catalog.file_of(*id).folder())));
            folders.insert(self.place.folder.clone());
        } else {
            let all = catalog.inventory.folders().keys().filter(|path| path.is_relative());
            folders.extend(all.map(|path| self.place.folder.join(path)));
        }
        folders
    }

    fn roots(&self) -> &Roots {
        self.tree.catalog().inventory.roots()
    }

    fn check_in_place(&self) -> Result<()> {
        let all = std::iter::once(self.roots().source()).chain(self.roots().allowed());
        for root in all {
            if !root.is_in_place() {
                let path = root.path().display();
                let what = format!(
                    "{path}: not the folder any more that it was (unmounted, or replaced?)"
                );
                return Err(Error::Usage(what));
            }
        }
        Ok(())
    }
}
