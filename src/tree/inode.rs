//! Inode numbers that outlive a rescan: the same name with the same content keeps its number, and
//! a replaced file gets a new one, so that the kernel's caches are never wrong.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::{fast, quality};

/// An inode number of the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root folder.
    pub const ROOT: Self = Self(1);
    /// So many bits hold the numbers that are given; those above tell what belongs to one of them.
    const GIVEN: u32 = 48;

    /// The number of a thing that belongs to this one and is found out about later, such as a
    /// partition of a disk. It means the same as long as this one does. `child` is not 0.
    #[must_use]
    pub fn child(self, child: u16) -> Self {
        Self(self.0 | u64::from(child) << Self::GIVEN)
    }

    /// What a number belongs to, and as what: the reverse of [`Self::child`], with 0 for what
    /// belongs to nothing.
    pub fn split(self) -> (Self, u16) {
        let child = u16::try_from(self.0 >> Self::GIVEN).unwrap_or(0);
        (Self(self.0 & ((1 << Self::GIVEN) - 1)), child)
    }
}

/// Something for each of many numbers. They are given here: nobody can choose ones that collide, and
/// the fast way of hashing them will do. Names are chosen by others; they get the thorough one.
pub type ByIno<T> = HashMap<Ino, T, fast::RandomState>;

/// An empty one, with room for so many.
pub fn by_ino<T>(room: usize) -> ByIno<T> {
    ByIno::with_capacity_and_hasher(room, fast::RandomState::default())
}

/// What an inode stands for: a name in a folder, and a mark of the content behind it.
type Key = (Ino, Arc<str>, u64);

/// Numbers given so far. Never reused.
#[derive(Debug)]
pub struct Inodes {
    given: HashMap<Key, Ino, quality::RandomState>,
    next: u64,
}

impl Default for Inodes {
    fn default() -> Self {
        Self { given: HashMap::default(), next: Ino::ROOT.0 + 1 }
    }
}

impl Inodes {
    /// The number of `name` in `folder`. `content` tells contents apart; 0 where it does not
    /// matter.
    pub fn number(&mut self, folder: Ino, name: &Arc<str>, content: u64) -> Ino {
        let next = &mut self.next;
        *self.given.entry((folder, Arc::clone(name), content)).or_insert_with(|| {
            let number = Ino(*next);
            *next += 1;
            number
        })
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, more: usize) {
        self.given.reserve(more);
    }

    /// Forgets what the numbers stood for that `is_used` does not know. They are not given again.
    pub fn keep(&mut self, is_used: impl Fn(Ino) -> bool) {
        self.given.retain(|_, ino| is_used(*ino));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_number_is_told_apart() {
        for child in [1, 2, u16::MAX] {
            assert_eq!(Ino(7).child(child).split(), (Ino(7), child));
        }
        assert_eq!(Ino(7).split(), (Ino(7), 0));
    }

    #[test]
    fn a_number_stays_with_its_name_and_content() {
        let mut inodes = Inodes::default();
        let (named_a, named_b) = (Arc::from("a"), Arc::from("b"));
        let a = inodes.number(Ino::ROOT, &named_a, 7);
        let b = inodes.number(Ino::ROOT, &named_b, 7);
        assert_ne!(a, b);
        assert_eq!(inodes.number(Ino::ROOT, &named_a, 7), a);
        assert_eq!(inodes.number(Ino::ROOT, &Arc::from("a"), 7), a, "a name is what it says");
        assert_ne!(inodes.number(Ino::ROOT, &named_a, 8), a, "replaced");
        assert_ne!(inodes.number(a, &named_a, 7), a, "another folder");
        inodes.keep(|ino| ino == b);
        assert_eq!(inodes.number(Ino::ROOT, &named_b, 7), b);
        assert!(inodes.number(Ino::ROOT, &named_a, 7) > b, "a number is given twice");
    }
}
