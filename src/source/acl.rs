//! POSIX ACLs: which permission bits of a file mean what they say.
//!
//! Where there is an ACL, the group's bits are its mask; and a user or group that it names may have
//! fewer rights than everybody else. The view has no ACLs of its own, so that it shows the bits
//! that deny at least as much.

use std::ffi::CStr;

use rustix::io::Errno;

/// Where Linux keeps the ACL of a file that has more than permission bits (acl(5)).
pub(super) const ACL: &CStr = c"system.posix_acl_access";

/// The permission bits of the group.
const GROUP: u32 = 0o070;
/// Those of all but the owner.
const ALL_OTHERS: u32 = 0o077;

/// The attribute begins with its version, and each entry has two bytes each for tag and
/// permissions, four for the id (`linux/posix_acl_xattr.h`).
const HEADER: usize = 4;
const ENTRY: usize = 8;
const VERSION: u32 = 2;
/// Tags of entries for a user, and for a group, by name.
const NAMED: [u16; 2] = [0x02, 0x08];

/// The bits of `mode` that hold for everybody whom they speak of. `read` reads the attribute
/// [`ACL`] into the buffer.
pub(super) fn sure_bits(
    mode: u32,
    read: impl FnOnce(&mut [u8]) -> rustix::io::Result<usize>,
) -> u32 {
    if mode & ALL_OTHERS == 0 {
        return mode;
    }
    let mut buffer = [0; 1024];
    match read(&mut buffer) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => mode,
        Ok(len) if buffer.get(..len).is_some_and(names_nobody) => mode & !GROUP,
        // One that is too long for the buffer names many.
        Ok(_) | Err(_) => mode & !ALL_OTHERS,
    }
}

/// Whether an ACL has only entries that permission bits could express, and the mask.
fn names_nobody(acl: &[u8]) -> bool {
    let Some((version, entries)) = acl.split_first_chunk::<HEADER>() else { return false };
    let (entries, rest) = entries.as_chunks::<ENTRY>();
    let tags = entries.iter().map(|[low, high, ..]| u16::from_le_bytes([*low, *high]));
    u32::from_le_bytes(*version) == VERSION
        && rest.is_empty()
        && tags.into_iter().all(|tag| !NAMED.contains(&tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(tags: &[u16]) -> Vec<u8> {
        let mut acl = VERSION.to_le_bytes().to_vec();
        for tag in tags {
            acl.extend(tag.to_le_bytes());
            acl.extend([4, 0, 0xff, 0xff, 0xff, 0xff]);
        }
        acl
    }

    fn bits(mode: u32, acl: rustix::io::Result<Vec<u8>>) -> u32 {
        sure_bits(mode, |buffer| {
            let acl = acl?;
            let to = buffer.get_mut(..acl.len()).ok_or(Errno::RANGE)?;
            to.copy_from_slice(&acl);
            Ok(acl.len())
        })
    }

    #[test]
    fn whom_an_acl_names_may_be_denied_what_everybody_else_may() {
        let plain: &[u16] = &[0x01, 0x04, 0x10, 0x20];
        assert_eq!(bits(0o754, Err(Errno::NODATA)), 0o754);
        assert_eq!(bits(0o754, Err(Errno::OPNOTSUPP)), 0o754);
        assert_eq!(bits(0o754, Ok(acl(plain))), 0o704);
        assert_eq!(bits(0o754, Ok(acl(&[0x01, 0x02, 0x04, 0x10, 0x20]))), 0o700);
        assert_eq!(bits(0o754, Ok(acl(&[0x01, 0x04, 0x08, 0x10, 0x20]))), 0o700);
    }

    #[test]
    fn what_cannot_be_read_or_understood_is_taken_for_the_worst() {
        assert_eq!(bits(0o754, Err(Errno::ACCESS)), 0o700);
        assert_eq!(bits(0o754, Ok(acl(&[0x02; 1000]))), 0o700);
        assert_eq!(bits(0o754, Ok(Vec::new())), 0o700);
        assert_eq!(bits(0o754, Ok(vec![3, 0, 0, 0])), 0o700);
        assert_eq!(bits(0o754, Ok(vec![2, 0, 0, 0, 1])), 0o700);
    }
}
