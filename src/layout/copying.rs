//! Names that programs give a file while they copy it, or to what they cannot remove yet.
//!
//! Such a file holds a part of a backup under another name: taken for a backup, it would be a disk
//! of its own, with wrong bytes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Ends that mark a file that is on its way: of `WinSCP`, `FileZilla` and browsers. What backup tools
/// themselves mark so is not among them, see [`super::names::is_unfinished`]; nor are `.tmp` and `.part`:
/// an overlay has them, too, if its snapshot is called so.
const ENDINGS: [&[u8]; 2] = [b".filepart", b".crdownload"];
/// What NFS and FUSE call a file that somebody removed while another has it open.
const REMOVED: [&[u8]; 2] = [b".nfs0", b".fuse_hidden"];
/// Our own restores into a folder, while they run or after they were killed.
const RESTORES: [&[u8]; 2] = [b".qcowfs-partial-", b".qcowfs-old-"];
/// Letters that rsync puts behind the name, and a dot before it: `.disk.qcow2.Ab3dE9`.
const OF_RSYNC: usize = 6;
/// Letters of `mktemp`: `tmp.Ab3dE9Fg1h`.
const OF_MKTEMP: usize = 10;

/// Whether a file of this name is a copy that is not complete, or something that is gone already.
pub fn is_copying(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let is_hidden = name.starts_with(b".");
    let holds = |part: &&[u8]| name.windows(part.len()).any(|window| window == *part);
    ends_with(name, &ENDINGS)
        || REMOVED.iter().any(|start| name.starts_with(start))
        || is_hidden && RESTORES.iter().any(holds)
        || is_hidden && has_letters_behind_dot(name.get(1..).unwrap_or_default(), OF_RSYNC)
        || name.starts_with(b"tmp.") && has_letters_behind_dot(name, OF_MKTEMP)
}

fn ends_with(name: &[u8], endings: &[&[u8]]) -> bool {
    endings.iter().any(|ending| name.len() > ending.len() && name.ends_with(ending))
}

/// Whether a name has this many letters and digits behind its last dot, taken at random, and something
/// before it. A word or a date has no capitals, and hardly one in thirty of what is random has none.
fn has_letters_behind_dot(name: &[u8], count: usize) -> bool {
    let dot = name.iter().rposition(|byte| *byte == b'.');
    let Some((before, after)) = dot.and_then(|dot| name.split_at_checked(dot)) else {
        return false;
    };
    // The dot is the first of these.
    let letters = after.get(1..).unwrap_or_default();
    !before.is_empty()
        && letters.len() == count
        && letters.iter().all(u8::is_ascii_alphanumeric)
        && letters.iter().any(u8::is_ascii_uppercase)
        && !letters.iter().all(u8::is_ascii_uppercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_known_by_their_names() {
        let copies = [
            ".INC-1795161290-vm-root.qcow2.Ab12Cd",
            ".vda.full.data.x0Y1z2",
            "vda.qcow2.filepart",
            "Unconfirmed 12345.crdownload",
            "tmp.Zq81hGj0Pa",
            ".nfs000000000013a4f200000001",
            ".fuse_hidden0000004500000001",
            ".vda.raw.qcowfs-partial-4711",
            ".vda.raw.qcowfs-old-4711-1",
        ];
        for name in copies {
            assert!(is_copying(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn backups_of_odd_names_are_none() {
        let backups = [
            "vda.backup",
            ".vda.qcow2",
            ".backup",
            "..backup",
            ".disk.backup",
            ".disk.240125",
            ".disk.LATEST",
            ".tmp",
            "vm.tmp",
            "vm.part",
            "tmp.qcow2",
            "tmp.disk-of-mail",
            "vda.qcow2~",
            "qcowfs-partial-1.qcow2",
            "INC-1795161320-vm-root.qcow2.partial",
            "",
            ".",
        ];
        for name in backups {
            assert!(!is_copying(OsStr::new(name)), "{name}");
        }
    }
}
