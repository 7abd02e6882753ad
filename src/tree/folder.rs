//! The entries of a folder of the view that do not change as long as its tree is there.

use std::sync::Arc;

use super::Ino;

/// Entries by name. Most folders are those of restore points, and have two.
#[derive(Default)]
pub(super) struct Children {
    /// In the order of their names once all are there.
    entries: Vec<(Arc<str>, Ino)>,
    /// How many of them are folders: counted once, as every lookup asks for it.
    folders: u32,
}

impl Children {
    /// Adds one. [`Self::sort`] comes after the last.
    pub(super) fn add(&mut self, name: Arc<str>, ino: Ino, is_folder: bool) {
        self.entries.push((name, ino));
        self.folders += u32::from(is_folder);
    }

    /// Brings them into their order: the folder is complete.
    pub(super) fn sort(&mut self) {
        self.entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        // Of two of one name the later counts.
        self.entries.dedup_by(|later, earlier| {
            let is_twice = later.0 == earlier.0;
            if is_twice {
                earlier.1 = later.1;
            }
            is_twice
        });
        self.entries.shrink_to_fit();
    }

    /// The entry of this name.
    pub(super) fn get(&self, name: &str) -> Option<Ino> {
        let at = self.entries.binary_search_by(|(other, _)| (**other).cmp(name)).ok()?;
        self.entries.get(at).map(|(_, ino)| *ino)
    }

    /// All, in the order of their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Ino)> {
        self.entries.iter().map(|(name, ino)| (&**name, *ino))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many of them are folders.
    pub(super) fn folders(&self) -> u32 {
        self.folders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_name_and_listed_in_order() {
        let mut children = Children::default();
        for (n, name) in ["c", "a", "b", "é", "B"].into_iter().enumerate() {
            children.add(name.into(), Ino(n as u64), n < 2);
        }
        children.sort();
        let names: Vec<&str> = children.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["B", "a", "b", "c", "é"]);
        assert_eq!((children.get("c"), children.get("é")), (Some(Ino(0)), Some(Ino(3))));
        assert_eq!((children.get("d"), children.get("")), (None, None));
        assert_eq!((children.len(), children.folders()), (5, 2));
    }

    #[test]
    fn a_name_is_there_once_and_means_what_was_added_last() {
        let mut children = Children::default();
        for (n, name) in ["b", "a", "b", "b"].into_iter().enumerate() {
            children.add(name.into(), Ino(n as u64), false);
        }
        children.sort();
        assert_eq!(children.iter().collect::<Vec<_>>(), [("a", Ino(1)), ("b", Ino(3))]);
    }
}
