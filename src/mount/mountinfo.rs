//! What is mounted where, as `/proc/self/mountinfo` has it (`proc_pid_mountinfo(5)`).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::FS_TYPE;
use crate::error::{Error, Result};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Major and minor number.
pub(super) type Device = (u32, u32);

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    id: u64,
    parent: u64,
    pub(super) device: Device,
    /// Where it is mounted.
    pub(super) path: PathBuf,
    pub(super) fs_type: OsString,
    /// What it calls its source (`fsname`).
    pub(super) source: OsString,
    /// `user_id` of a FUSE mount: who mounted it.
    pub(super) user: Option<u32>,
}

impl Mount {
    /// Whether this program mounted it.
    pub(super) fn is_qcowfs(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// Whether any FUSE daemon mounted it.
    pub(super) fn is_fuse(&self) -> bool {
        let fs_type = self.fs_type.as_bytes();
        fs_type == b"fuse" || fs_type == b"fuseblk" || fs_type.starts_with(b"fuse.")
    }
}

/// All mounts of this mount namespace.
#[derive(Debug)]
pub(super) struct MountTable(Vec<Mount>);

impl MountTable {
    /// The mounts as they are now.
    pub(super) fn read() -> Result<Self> {
        let text = std::fs::read(MOUNTINFO).map_err(|e| Error::io(MOUNTINFO, e))?;
        Ok(Self::parse(&text))
    }

    /// Lines that are not as the kernel writes them are passed over.
    fn parse(text: &[u8]) -> Self {
        Self(text.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
    }

    /// The uppermost mount at a path without symbolic links: the one that nothing else covers.
    pub(super) fn top(&self, path: &Path) -> Option<&Mount> {
        let here = || self.0.iter().filter(|mount| mount.path == path);
        here().rev().find(|mount| !here().any(|other| other.parent == mount.id))
    }

    /// The mount of a device at a path, covered or not.
    pub(super) fn of_device(&self, path: &Path, device: Device) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.device == device && mount.path == path)
    }
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = parse_device(fields.next()?)?;
    let _root = fields.next()?;
    let path = PathBuf::from(unescape(fields.next()?));
    // Options and any number of optional fields, up to a lone dash.
    fields.find(|field| *field == b"-")?;
    let fs_type = unescape(fields.next()?);
    let source = unescape(fields.next()?);
    let user = parse_user(fields.next().unwrap_or_default());
    Some(Mount { id, parent, device, path, fs_type, source, user })
}

fn parse_device(field: &[u8]) -> Option<Device> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn parse_user(options: &[u8]) -> Option<u32> {
    let mut options = std::str::from_utf8(options).ok()?.split(',');
    options.find_map(|option| option.strip_prefix("user_id="))?.parse().ok()
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Blanks, line ends and backslashes are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        if let (b'\\', Some((digits, behind))) = (byte, tail.split_first_chunk::<3>())
            && let Some(escaped) = octal(*digits)
        {
            plain.push(escaped);
            rest = behind;
        } else {
            plain.push(byte);
            rest = tail;
        }
    }
    OsString::from_vec(plain)
}

fn octal(digits: [u8; 3]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value.checked_mul(8)?.checked_add(digit)
    })
}

/// A path with everything but its last name resolved, without touching what is mounted there: a
/// dead or hung file system can be named, but not looked at. `None`: it ends in `..` or is `/`.
pub(super) fn untouched(path: &Path) -> Option<PathBuf> {
    let name: &OsStr = path.file_name()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
    Some(folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"\
22 1 0:21 / /proc rw,nosuid shared:5 - proc proc rw
36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue
40 1 0:50 / /mnt/a\\040b\\134c ro,nosuid,nodev - fuse.qcowfs /srv/my\\040backups ro,user_id=1000,group_id=1000
41 40 0:51 / /mnt/a\\040b\\134c rw - tmpfs tmpfs rw
42 1 0:52 / /mnt/sshfs rw - fuse.sshfs host:/ rw,user_id=0,group_id=0
not a line of mountinfo
50 1 0:60 / /mnt/cut rw";

    fn table() -> MountTable {
        MountTable::parse(SAMPLE)
    }

    #[test]
    fn a_line_with_and_without_optional_fields_gives_the_same_fields() {
        let table = table();
        let mount = table.top(Path::new("/mnt2")).unwrap();
        assert_eq!(mount.device, (98, 0));
        assert_eq!(mount.fs_type, "ext3");
        assert_eq!(mount.source, "/dev/root");
        assert_eq!(mount.user, None);
        let mount = table.top(Path::new("/mnt/sshfs")).unwrap();
        assert_eq!((mount.fs_type.as_os_str(), mount.user), (OsStr::new("fuse.sshfs"), Some(0)));
    }

    #[test]
    fn malformed_lines_are_passed_over() {
        assert_eq!(table().0.len(), 5);
        assert_eq!(table().top(Path::new("/mnt/cut")), None);
    }

    #[test]
    fn octal_escapes_are_undone_in_paths_and_sources() {
        let table = table();
        let mount = table.of_device(Path::new("/mnt/a b\\c"), (0, 50)).unwrap();
        assert_eq!(mount.source, "/srv/my backups");
        assert_eq!(mount.user, Some(1000));
    }

    #[test]
    fn what_only_looks_like_an_escape_stays_as_it_is() {
        for same in ["\\", "\\0", "\\04", "\\08x", "\\777", "a\\b"] {
            assert_eq!(unescape(same.as_bytes()), same);
        }
        assert_eq!(unescape(b"\\303\\274"), "ü");
    }

    #[test]
    fn the_uppermost_mount_covers_the_one_below_it() {
        let table = table();
        let path = Path::new("/mnt/a b\\c");
        assert_eq!(table.top(path).unwrap().fs_type, "tmpfs");
        assert!(table.of_device(path, (0, 50)).unwrap().is_qcowfs());
    }

    #[test]
    fn every_fuse_mount_counts_as_one_but_only_ours_as_ours() {
        let kind = |fs_type: &str| {
            let mount = Mount {
                id: 1,
                parent: 0,
                device: (0, 1),
                path: "/mnt".into(),
                fs_type: fs_type.into(),
                source: "x".into(),
                user: None,
            };
            (mount.is_fuse(), mount.is_qcowfs())
        };
        assert_eq!(kind("fuse.qcowfs"), (true, true));
        assert_eq!(kind("fuse.sshfs"), (true, false));
        assert_eq!(kind("fuse"), (true, false));
        assert_eq!(kind("fuseblk"), (true, false));
        assert_eq!(kind("fusectl"), (false, false));
        assert_eq!(kind("ext4"), (false, false));
    }

    #[test]
    fn a_path_is_resolved_up_to_its_last_name() {
        assert_eq!(
            untouched(Path::new("/usr/../tmp/no such mount")),
            Some("/tmp/no such mount".into())
        );
        assert_eq!(untouched(Path::new("/tmp/x/")), Some("/tmp/x".into()));
        assert_eq!(untouched(Path::new("/")), None);
        assert_eq!(untouched(Path::new("/tmp/..")), None);
    }
}
