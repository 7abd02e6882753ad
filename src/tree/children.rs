//! What is in the view and not among the nodes of its tree: the partitions of a disk, which nobody
//! knows before somebody looks, and the links to all disks of a VM at one moment, which are many.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::ops::Range;
use std::sync::Arc;

use super::build::LINK;
use super::partitions::{file_name, number_in};
use super::times::{Moment, VmPlan};
use super::{Attr, Body, Children, Entry, Ino, Node, NodeKind, Tree};
use crate::chain::catalog::CheckpointId;
use crate::view::{DiskImage, Slice};

/// The name of a disk in the folder of its restore point.
pub(super) const DISK: &str = "disk.img";

impl Node {
    /// An attribute of a small file here, as far as it comes from the backup.
    pub(super) fn attr(&self, ino: Ino) -> Attr {
        Attr {
            ino,
            kind: NodeKind::File,
            size: 0,
            allocated: 0,
            mtime: self.mtime,
            mode: u16::try_from(self.access.mode).unwrap_or(0),
            uid: self.access.uid,
            gid: self.access.gid,
            links: 1,
            settled: false,
        }
    }
}

impl Tree {
    /// The disk in the folder of a restore point.
    pub(super) fn disk_in(&self, folder: &Children) -> Option<(Ino, CheckpointId)> {
        let ino = folder.get(DISK)?;
        let (id, _) = self.image(ino)?;
        Some((ino, id))
    }

    fn image(&self, ino: Ino) -> Option<(CheckpointId, &Arc<DiskImage>)> {
        match &self.nodes.get(&ino)?.body {
            Body::Image(id, image) => Some((*id, image)),
            _ => None,
        }
    }

    /// The numbers of the partitions that there are files of.
    fn numbers(&self, id: CheckpointId) -> Vec<u16> {
        let Some(found) = self.images.partitions(&self.catalog, id) else { return Vec::new() };
        let shown = found.list.iter().filter(|partition| !partition.kind.is_container());
        shown.map(|partition| partition.number).collect()
    }

    /// The partition of this name; nothing is read for other names.
    pub(super) fn partition_named(&self, folder: &Children, name: &str) -> Option<Ino> {
        let number = number_in(name)?;
        let (disk, id) = self.disk_in(folder)?;
        self.numbers(id).contains(&number).then(|| disk.child(number))
    }

    /// The partitions of the disk in a folder.
    pub(super) fn partitions_in(&self, folder: &Children) -> Vec<Entry<'static>> {
        let Some((disk, id)) = self.disk_in(folder) else { return Vec::new() };
        let entry = |number: u16| Entry {
            name: Cow::Owned(file_name(number).into()),
            ino: disk.child(number),
            kind: NodeKind::File,
        };
        self.numbers(id).into_iter().map(entry).collect()
    }

    /// What `stat` tells of a partition of the disk `owner`, or of a link in the folder `owner`.
    pub(super) fn child_attr(&self, owner: Ino, number: u16) -> Option<Attr> {
        let attr = self.nodes.get(&owner)?.attr(owner.child(number));
        if let Some(target) = self.target(owner, number) {
            let (kind, size) = (NodeKind::Link, target.len() as u64);
            return Some(Attr { kind, size, mode: LINK, settled: true, ..attr });
        }
        let slice = self.slice(owner, number)?;
        let (size, allocated) = (slice.size(), slice.allocated().bytes);
        Some(Attr { size, allocated, ..attr })
    }

    fn moment(&self, folder: Ino) -> Option<(&VmPlan, &Moment)> {
        let Body::Moment { vm, moment } = self.nodes.get(&folder)?.body else { return None };
        let vm = self.plan.vms.get(vm)?;
        Some((vm, vm.moments.get(moment)?))
    }

    /// The link of this name in the folder of a moment.
    pub(super) fn link_named(&self, folder: Ino, name: &str) -> Option<Ino> {
        let (vm, moment) = self.moment(folder)?;
        let (number, ..) = vm.links(moment).find(|(_, link, _)| *link == name)?;
        Some(folder.child(number))
    }

    /// The links in the folder of a moment; none if it is not one.
    pub(super) fn links_in(&self, folder: Ino) -> Option<Vec<Entry<'_>>> {
        let (vm, moment) = self.moment(folder)?;
        let entry = |(number, name, _)| Entry {
            name: Cow::Borrowed(OsStr::new(name)),
            ino: folder.child(number),
            kind: NodeKind::Link,
        };
        Some(vm.links(moment).map(entry).collect())
    }

    /// Where a link in the folder of a moment leads.
    pub(super) fn target(&self, folder: Ino, number: u16) -> Option<String> {
        let (vm, moment) = self.moment(folder)?;
        let (.., target) = vm.links(moment).find(|(link, ..)| *link == number)?;
        Some(target)
    }

    /// A partition of the disk `owner`.
    pub(super) fn slice(&self, owner: Ino, number: u16) -> Option<Slice> {
        let (id, image) = self.image(owner)?;
        Some(Slice::new(Arc::clone(image), self.range_of(id, number)?))
    }

    fn range_of(&self, id: CheckpointId, number: u16) -> Option<Range<u64>> {
        let found = self.images.partitions(&self.catalog, id)?;
        found.get(number).map(|partition| partition.range.clone())
    }
}
