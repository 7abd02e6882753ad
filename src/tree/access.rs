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

    /// Reading what lies in a folder, as its own permission to search it allows; everything where
    /// nobody is denied.
    #[must_use]
    pub fn within(self, folder: &FileStat) -> Self {
        if folder.mode & 0o111 == 0o111 {
            return self;
        }
        let search = Self { mode: (folder.mode & 0o111) << 2, uid: folder.uid, gid: folder.gid };
        self.and(search)
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
}
