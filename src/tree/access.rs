//! Who may read what in the view: nobody who could not read the files behind it.

use crate::source::FileStat;

/// Owner, group and permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Access {
    /// Reading a file, as its own permissions allow.
    pub fn file(stat: &FileStat) -> Self {
        Self { mode: stat.mode & 0o444, uid: stat.uid, gid: stat.gid }
    }

    /// Entering and listing a folder, as its own permissions allow.
    pub fn folder(stat: &FileStat) -> Self {
        Self { mode: stat.mode & 0o555, uid: stat.uid, gid: stat.gid }
    }

    /// What may be read only by those who may read both. Where the owners differ it belongs to
    /// root: nobody else is the owner of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (uid, owner) = if self.uid == other.uid {
            (self.uid, self.mode & other.mode & 0o700)
        } else {
            (0, 0o400)
        };
        let (mut group, mut everybody) =
            (self.mode & other.mode & 0o070, self.mode & other.mode & 0o007);
        let mut gid = self.gid;
        // Who was an owner or of a group is now one of the rest: what he was denied stays denied.
        if self.gid != other.gid {
            gid = 0;
            everybody &= group >> 3;
            group = everybody << 3;
        }
        if self.uid != other.uid {
            let owners = self.mode & other.mode & 0o700;
            group &= owners >> 3;
            everybody &= owners >> 6;
        }
        Self { mode: owner | group | everybody, uid, gid }
    }

    /// A folder as it is, for those alone who also have `readers`: a right to read files.
    #[must_use]
    pub fn limited_to(self, readers: Self) -> Self {
        let list = Self { mode: self.mode & 0o444, ..self }.and(readers);
        let search = Self { mode: (self.mode & 0o111) << 2, ..self }.and(readers);
        Self { mode: list.mode | search.mode >> 2, ..list }
    }

    /// Reading what lies in a folder, as its own permission to search it allows; everything where
    /// nobody is denied.
    #[must_use]
    pub fn within(self, folder: &FileStat) -> Self {
        Self::searchers(folder).map_or(self, |search| self.and(search))
    }

    /// Who may pass a folder, as a right to read; none: everybody.
    pub fn searchers(folder: &FileStat) -> Option<Self> {
        let search = (folder.mode & 0o111) << 2;
        (search != 0o444).then_some(Self { mode: search, uid: folder.uid, gid: folder.gid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(mode: u32, uid: u32, gid: u32) -> Access {
        Access { mode, uid, gid }
    }

    #[test]
    fn the_narrowest_of_a_chain_counts() {
        let both = access(0o444, 7, 7).and(access(0o400, 7, 7));
        assert_eq!(both, access(0o400, 7, 7));
    }

    #[test]
    fn different_owners_leave_it_to_root() {
        assert_eq!(access(0o400, 7, 7).and(access(0o400, 8, 7)), access(0o400, 0, 7));
        assert_eq!(access(0o440, 7, 7).and(access(0o440, 7, 8)), access(0o400, 7, 0));
        assert_eq!(access(0o404, 7, 7).and(access(0o444, 7, 8)), access(0o400, 7, 0));
        assert_eq!(access(0o444, 7, 7).and(access(0o444, 8, 8)), access(0o444, 0, 0));
    }

    /// Whether a user may do what these bits say (4: read, 1: search), as the kernel decides.
    fn may(access: Access, uid: u32, gids: &[u32], bits: u32) -> bool {
        let class = if access.uid == uid {
            access.mode >> 6
        } else if gids.contains(&access.gid) {
            access.mode >> 3
        } else {
            access.mode
        };
        class & bits == bits
    }

    /// Every owner, group and mode of `bits` in each class.
    fn all_of(bits: u32) -> impl Iterator<Item = Access> {
        let owners = (1..3).flat_map(|uid| (1..3).map(move |gid| (uid, gid)));
        let class = move |n: u32| if n == 0 { 0 } else { bits };
        let modes = (0..8).map(move |n| class(n & 4) << 6 | class(n & 2) << 3 | class(n & 1));
        owners.flat_map(move |(uid, gid)| modes.clone().map(move |mode| access(mode, uid, gid)))
    }

    fn users() -> impl Iterator<Item = (u32, Vec<u32>)> {
        let groups = [vec![], vec![1], vec![2], vec![1, 2], vec![3]];
        (1..4).flat_map(move |uid| groups.clone().into_iter().map(move |gids| (uid, gids)))
    }

    #[test]
    fn nobody_may_read_three_files_together_who_may_not_read_each() {
        for (a, b) in all_of(4).flat_map(|a| all_of(4).map(move |b| (a, b))) {
            let two = a.and(b);
            for (c, (uid, gids)) in all_of(4).flat_map(|c| users().map(move |user| (c, user))) {
                let each = [a, b, c].iter().all(|file| may(*file, uid, &gids, 4));
                let together = may(two.and(c), uid, &gids, 4);
                assert!(each || !together, "{a:?} {b:?} {c:?}: {uid} {gids:?}");
            }
        }
    }

    #[test]
    fn a_limited_folder_is_for_those_who_have_both_rights() {
        for (folder, file) in all_of(5).flat_map(|a| all_of(4).map(move |b| (a, b))) {
            let limited = folder.limited_to(file);
            for (uid, gids) in users() {
                for bits in [4, 1] {
                    let both = may(folder, uid, &gids, bits) && may(file, uid, &gids, 4);
                    let allowed = may(limited, uid, &gids, bits);
                    assert!(both || !allowed, "{folder:?} {file:?}: {uid} {gids:?}");
                }
            }
        }
        let open = access(0o555, 7, 7);
        assert_eq!(open.limited_to(access(0o444, 7, 7)), open);
        assert_eq!(open.limited_to(access(0o400, 7, 7)), access(0o500, 7, 7));
        assert_eq!(open.limited_to(access(0o400, 8, 8)), access(0o500, 0, 0));
        assert_eq!(access(0o511, 7, 7).limited_to(access(0o444, 7, 7)), access(0o511, 7, 7));
    }
}
