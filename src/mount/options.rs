//! How a view is mounted.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use fuser::SessionACL;
use rustix::mount::MountFlags;

use super::SUBTYPE;
use super::refresh::Refresh;

/// Who may look into the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only the user who mounted it.
    Owner,
    /// That user and root.
    OwnerAndRoot,
    /// Everybody.
    Everybody,
}

/// The options of a mount, checked for sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// Who may look in.
    pub access: Access,
    /// Have the kernel check owners and permission bits, if only the owner has access; with
    /// others allowed in it always does.
    pub check_permissions: bool,
    /// What the mount table shows as the source instead of the source's path.
    pub fsname: Option<OsString>,
    /// Let the kernel read disks that are one raw file by itself, where it can.
    pub passthrough: bool,
    /// Take the view away when its process dies without having done so.
    pub auto_unmount: bool,
    /// When the source is looked at again.
    pub refresh: Refresh,
    /// The kernel's flags: always read-only.
    pub flags: MountFlags,
    /// All options in words, for those who ask the view: see [`crate::fuse::About`].
    pub told: Vec<String>,
}

/// The kernel's flags, and what they are called.
const FLAGS: [(MountFlags, &str); 5] = [
    (MountFlags::RDONLY, "ro"),
    (MountFlags::NODEV, "nodev"),
    (MountFlags::NOSUID, "nosuid"),
    (MountFlags::NOEXEC, "noexec"),
    (MountFlags::NOATIME, "noatime"),
];

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            access: Access::Owner,
            check_permissions: false,
            fsname: None,
            passthrough: true,
            auto_unmount: false,
            refresh: Refresh::Auto,
            told: Vec::new(),
            flags: MountFlags::RDONLY
                | MountFlags::NODEV
                | MountFlags::NOSUID
                | MountFlags::NOATIME,
        }
    }
}

impl MountOptions {
    pub(super) fn acl(&self) -> SessionACL {
        match self.access {
            Access::Owner => SessionACL::Owner,
            Access::OwnerAndRoot => SessionACL::RootAndOwner,
            Access::Everybody => SessionACL::All,
        }
    }

    /// The options that FUSE itself understands, for the kernel and for fusermount3 alike.
    pub(super) fn fuse_options(&self) -> Vec<&'static str> {
        let others = self.access != Access::Owner;
        let mut options = Vec::new();
        if others || self.check_permissions {
            options.push("default_permissions");
        }
        // The kernel knows no `allow_root`: fuser turns the others away.
        if others {
            options.push("allow_other");
        }
        options
    }

    fn flag_names(&self) -> impl Iterator<Item = &'static str> {
        FLAGS.iter().filter(|(flag, _)| self.flags.contains(*flag)).map(|(_, name)| *name)
    }

    /// These options as words of `-o`, but for the name of the source.
    pub fn words(&self) -> Vec<String> {
        let access = match self.access {
            Access::Owner => None,
            Access::OwnerAndRoot => Some("allow_root"),
            Access::Everybody => Some("allow_other"),
        };
        let others = [
            (self.check_permissions, "default_permissions"),
            (self.auto_unmount, "auto_unmount"),
            (!self.passthrough, "nopassthrough"),
        ];
        let others = others.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name);
        self.flag_names().chain(access).chain(others).map(str::to_owned).collect()
    }

    /// All options in fusermount3's form: comma-separated, commas and backslashes in names escaped.
    pub(super) fn for_fusermount(&self, fsname: &OsStr) -> OsString {
        let mut list = format!("subtype={SUBTYPE}").into_bytes();
        for option in self.flag_names().chain(self.fuse_options()) {
            list.push(b',');
            list.extend_from_slice(option.as_bytes());
        }
        list.extend_from_slice(b",fsname=");
        for byte in fsname.as_bytes() {
            if matches!(byte, b',' | b'\\') {
                list.push(b'\\');
            }
            list.push(*byte);
        }
        OsString::from_vec(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_read_only_without_devices_and_set_user_id() {
        let list = MountOptions::default().for_fusermount(OsStr::new("/srv"));
        assert_eq!(list, "subtype=qcowfs,ro,nodev,nosuid,noatime,fsname=/srv");
    }

    #[test]
    fn a_comma_in_the_name_cannot_become_an_option() {
        let list = MountOptions::default().for_fusermount(OsStr::new("a,dev\\"));
        assert!(list.as_bytes().ends_with(b",fsname=a\\,dev\\\\"));
    }

    #[test]
    fn letting_others_in_turns_permission_checks_on() {
        for access in [Access::OwnerAndRoot, Access::Everybody] {
            let options = MountOptions { access, ..MountOptions::default() };
            assert_eq!(options.fuse_options(), ["default_permissions", "allow_other"]);
        }
        assert!(MountOptions::default().fuse_options().is_empty());
    }
}
