//! The tree that is served, and another in its place while it is.
//!
//! # What the kernel remembers
//!
//! A name and its attributes for an hour; what it read under an inode number, for ever. So after
//! another tree was put in place each name that leads elsewhere, or that there was not, is taken
//! from the kernel, and so are attributes that changed. Bytes are not: another content has another
//! number.
//!
//! The kernel takes a name out with its folder locked, and waits for those who look something up
//! there, who wait for our answer. So names are taken from it by the thread that put the tree in
//! place, with no lock of ours held, and never while a request is answered. It is done after that:
//! a look-up that was answered from the old tree is over when the name goes, and a later one sees
//! the new tree.
//!
//! The names of partitions are not in the tree; the kernel may keep them for a second, and does not
//! remember that there is none of a name.
//!
//! # What is gone
//!
//! A node that the kernel still refers to (somebody has it open, or is in that folder) keeps its
//! attributes until it is forgotten: without them the kernel would not read on in an open file. To
//! look something up in such a folder, to list it, and to open such a file again is `ESTALE`, on
//! which the kernel walks the path once more.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{INodeNo, Notifier};
use parking_lot::{Mutex, RwLock};

use super::looks::Looks;
use crate::tree::change::Changes;
use crate::tree::{Attr, Ino, Tree};

/// The tree that is served.
pub struct Live {
    tree: RwLock<Arc<Tree>>,
    nodes: Mutex<Nodes>,
    stale: Mutex<Option<Stale>>,
    looks: Mutex<Looks>,
}

/// The tree is not what the source holds now: the source cannot be looked at.
#[derive(Debug, Clone)]
pub(super) struct Stale {
    /// The first look that failed, of those since the last one that did not.
    pub(super) since: SystemTime,
    /// Why the last one did.
    pub(super) reason: String,
}

/// What the kernel knows of.
#[derive(Default)]
struct Nodes {
    /// How often each inode number was handed out and not taken back.
    known: HashMap<Ino, u64>,
    /// Those that no tree has any more.
    gone: HashMap<Ino, Attr>,
}

impl Live {
    /// `first_took`: how long it took to look at what the tree shows.
    pub(super) fn new(tree: Arc<Tree>, first_took: Duration) -> Self {
        let (nodes, stale) = (Mutex::default(), Mutex::default());
        let looks = Mutex::new(Looks::after(first_took));
        Self { tree: RwLock::new(tree), nodes, stale, looks }
    }

    /// A look at the source begins; [`Self::go_stale`] or [`Self::go_fresh`] tells how it ended.
    pub fn begin_look(&self, now: SystemTime) {
        self.looks.lock().begin(now);
    }

    /// The source could not be looked at. Returns whether that is new, or for another reason.
    pub fn go_stale(&self, reason: &str) -> bool {
        self.looks.lock().fail();
        let mut stale = self.stale.lock();
        if stale.as_ref().is_some_and(|stale| stale.reason == reason) {
            return false;
        }
        let since = stale.as_ref().map_or_else(SystemTime::now, |stale| stale.since);
        *stale = Some(Stale { since, reason: reason.to_owned() });
        true
    }

    /// The tree is what the source holds. Returns whether it was not before.
    pub fn go_fresh(&self) -> bool {
        self.looks.lock().succeed(SystemTime::now());
        self.stale.lock().take().is_some()
    }

    /// Since when and why the tree is not what the source holds; none if it is, as far as known.
    pub(super) fn stale(&self) -> Option<Stale> {
        let known = self.stale.lock().clone();
        known.or_else(|| {
            let since = self.looks.lock().overdue(SystemTime::now())?;
            Some(Stale { since, reason: "it is being looked at, and has not answered".to_owned() })
        })
    }

    /// The tree as it is now.
    pub(super) fn tree(&self) -> Arc<Tree> {
        Arc::clone(&self.tree.read())
    }

    /// What `stat` tells, also of what is gone.
    pub(super) fn attr(&self, ino: Ino) -> Option<Attr> {
        self.tree().attr(ino).or_else(|| self.nodes.lock().gone.get(&ino).copied())
    }

    /// The kernel is told of a node.
    pub(super) fn hand_out(&self, ino: Ino) {
        *self.nodes.lock().known.entry(ino).or_default() += 1;
    }

    /// The kernel does not know so many of these any more. Returns whether it forgot the node.
    pub(super) fn take_back(&self, ino: Ino, times: u64) -> bool {
        let mut nodes = self.nodes.lock();
        let left = nodes.known.get(&ino).map_or(0, |count| count.saturating_sub(times));
        if left > 0 {
            nodes.known.insert(ino, left);
            return false;
        }
        nodes.known.remove(&ino);
        nodes.gone.remove(&ino);
        true
    }

    fn knows(&self, ino: Ino) -> bool {
        ino == Ino::ROOT || self.nodes.lock().known.contains_key(&ino)
    }

    /// What the kernel knows of that belongs to nodes which a tree does not have.
    fn children_without(&self, tree: &Tree) -> Vec<Ino> {
        let nodes = self.nodes.lock();
        let children = nodes.known.keys().filter(|ino| ino.split().1 > 0);
        children.filter(|ino| tree.parent(**ino).is_none()).copied().collect()
    }

    /// Puts another tree in place, which differs by `changes`, and has the kernel forget what is not
    /// true any more. Not to be called by a thread that answers the kernel, or with a lock held.
    ///
    /// # Errors
    ///
    /// If the kernel is not there any more.
    pub fn replace(&self, tree: Arc<Tree>, changes: &Changes, kernel: &Notifier) -> io::Result<()> {
        let earlier = self.tree();
        // Before the tree is in place, for it may take reading, and nobody should wait for that.
        let known = changes.gone.iter().filter(|ino| self.knows(**ino)).copied();
        let known = known.chain(self.children_without(&tree));
        let gone: Vec<(Ino, Attr)> =
            known.filter_map(|ino| Some((ino, earlier.attr(ino)?))).collect();
        {
            let mut nodes = self.nodes.lock();
            let Nodes { known, gone: all } = &mut *nodes;
            all.extend(gone.into_iter().filter(|(ino, _)| known.contains_key(ino)));
        }
        *self.tree.write() = tree;
        drop(earlier);
        for (folder, name) in &changes.names {
            if self.knows(*folder) {
                kernel.inval_entry(INodeNo(folder.0), OsStr::new(name)).or_else(harmless)?;
            }
        }
        self.forget_attributes(&changes.attributes, kernel)
    }

    /// Takes the attributes of these nodes from the kernel, as [`Self::replace`] does. Of a node that
    /// was handed out for the first time while the tree was replaced the kernel may have old ones
    /// all the same: so this is to be done once more when whatever was under way is over.
    ///
    /// # Errors
    ///
    /// If the kernel is not there any more.
    pub fn forget_attributes(&self, nodes: &[Ino], kernel: &Notifier) -> io::Result<()> {
        for ino in nodes.iter().filter(|ino| self.knows(**ino)) {
            // A negative offset: the attributes alone.
            kernel.inval_inode(INodeNo(ino.0), -1, 0).or_else(harmless)?;
        }
        Ok(())
    }
}

/// The kernel may not know the name, or not let go of it just now: something is mounted there.
fn harmless(error: io::Error) -> io::Result<()> {
    if let Some(libc::ENODEV | libc::ENOTCONN | libc::EBADF) = error.raw_os_error() {
        return Err(error);
    }
    log::debug!("the kernel does not forget a name: {error}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tree::ViewOptions;

    #[test]
    fn a_view_is_stale_from_the_first_failure_until_a_look_succeeds() {
        let source = tempfile::tempdir().unwrap();
        let tree = Tree::from_source(source.path(), &ViewOptions::default()).unwrap();
        let live = Live::new(Arc::new(tree), Duration::ZERO);
        let told = || live.stale().map(|stale| stale.reason);
        live.begin_look(SystemTime::now());
        assert_eq!(told(), None, "a look that has just begun");
        assert!(live.go_stale("gone") && !live.go_stale("gone"), "the same is news once");
        let since = live.stale().unwrap().since;
        assert!(live.go_stale("wrong"));
        assert_eq!((told().unwrap(), live.stale().unwrap().since), ("wrong".to_owned(), since));
        assert!(live.go_fresh() && !live.go_fresh());
        assert_eq!(told(), None);
        live.begin_look(SystemTime::now() - Duration::from_mins(2));
        assert!(told().unwrap().contains("has not answered"));
        live.go_fresh();
        assert_eq!(told(), None);
    }
}
