//! The words of `mount -o`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::mount::MountFlags;

use crate::error::{Error, Result};
use crate::mount::{Access, MountOptions};
use crate::tree::missing::Missing;

/// What an unknown option is answered with.
const KNOWN: &str = "missing=hide|eio|zero, allow_other, allow_root, default_permissions, \
                     fsname=NAME, ro, noexec, exec, nodev, dev, nosuid, suid, noatime, atime";

/// What all `-o` say together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Of the mount.
    pub(super) mount: MountOptions,
    /// What becomes of restore points that are not whole.
    pub(super) missing: Missing,
}

/// Parses the values of all `-o`, in their order: later ones win.
pub(super) fn parse(lists: &[OsString]) -> Result<Options> {
    let mut options = Options::default();
    for word in lists.iter().flat_map(|list| split(list)) {
        match word.to_str().and_then(|word| word.strip_prefix("missing=")) {
            Some(missing) => {
                let wrong = |e| Error::Usage(format!("mount option missing=: {e}"));
                options.missing = missing.parse().map_err(wrong)?;
            }
            None => apply(&mut options.mount, &word)?,
        }
    }
    Ok(options)
}

fn apply(options: &mut MountOptions, word: &OsStr) -> Result<()> {
    if let Some(name) = word.as_bytes().strip_prefix(b"fsname=") {
        options.fsname = Some(checked_name(name)?);
        return Ok(());
    }
    let flags = &mut options.flags;
    match word.to_str() {
        Some("allow_other") => options.access = Access::Everybody,
        Some("allow_root") => options.access = Access::OwnerAndRoot,
        Some("default_permissions") => options.check_permissions = true,
        Some("ro") => {}
        Some("rw") => return usage("the option rw cannot be: the view is read-only"),
        Some("noexec") => flags.insert(MountFlags::NOEXEC),
        Some("exec") => flags.remove(MountFlags::NOEXEC),
        Some("nodev") => flags.insert(MountFlags::NODEV),
        Some("dev") => flags.remove(MountFlags::NODEV),
        Some("nosuid") => flags.insert(MountFlags::NOSUID),
        Some("suid") => flags.remove(MountFlags::NOSUID),
        Some("noatime") => flags.insert(MountFlags::NOATIME),
        Some("atime") => flags.remove(MountFlags::NOATIME),
        _ => {
            let word = word.display();
            return usage(&format!("unknown mount option `{word}`; there are: {KNOWN}"));
        }
    }
    Ok(())
}

fn checked_name(name: &[u8]) -> Result<OsString> {
    if name.is_empty() {
        return usage("the option fsname= needs a name");
    }
    Ok(OsString::from_vec(name.to_vec()))
}

fn usage<T>(what: &str) -> Result<T> {
    Err(Error::Usage(what.to_owned()))
}

/// The words between the commas. A backslash takes the meaning from a comma or a backslash.
fn split(list: &OsStr) -> Vec<OsString> {
    let mut words = vec![Vec::new()];
    let mut bytes = list.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let is_escaped = |next: &u8| byte == b'\\' && matches!(next, b',' | b'\\');
        let escaped = bytes.next_if(is_escaped);
        if byte == b',' {
            words.push(Vec::new());
        } else if let Some(word) = words.last_mut() {
            word.push(escaped.unwrap_or(byte));
        }
    }
    // As for mount(8), an empty word is nothing.
    words.retain(|word| !word.is_empty());
    words.into_iter().map(OsString::from_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lists: &[&str]) -> Result<Options> {
        let lists: Vec<OsString> = lists.iter().map(OsString::from).collect();
        parse(&lists)
    }

    fn parsed(lists: &[&str]) -> Result<MountOptions> {
        all(lists).map(|options| options.mount)
    }

    fn told(list: &str) -> String {
        parsed(&[list]).unwrap_err().to_string()
    }

    #[test]
    fn without_options_the_defaults_hold() {
        assert_eq!(parsed(&[]).unwrap(), MountOptions::default());
        assert_eq!(parsed(&["", "ro,nodev,,nosuid,noatime,"]).unwrap(), MountOptions::default());
    }

    #[test]
    fn repeated_options_add_up_and_later_ones_win() {
        let options = parsed(&["noexec,atime,allow_root", "exec,noexec", "allow_other"]).unwrap();
        assert_eq!(options.access, Access::Everybody);
        assert!(options.flags.contains(MountFlags::NOEXEC));
        assert!(!options.flags.contains(MountFlags::NOATIME));
    }

    #[test]
    fn the_view_stays_read_only_whatever_is_asked() {
        assert!(told("rw").contains("read-only"));
        let options = parsed(&["dev,suid,exec,atime"]).unwrap();
        assert_eq!(options.flags, MountFlags::RDONLY);
    }

    #[test]
    fn a_name_may_hold_escaped_commas_and_backslashes() {
        let name = |list: &str| parsed(&[list]).unwrap().fsname;
        assert_eq!(name("noexec,fsname=a\\,b,exec"), Some("a,b".into()));
        assert_eq!(name("fsname=a\\\\,exec"), Some("a\\".into()));
        assert_eq!(name("fsname=a\\b"), Some("a\\b".into()));
        assert_eq!(name("fsname=first,fsname=last=one"), Some("last=one".into()));
        assert!(told("fsname=").contains("needs a name"));
    }

    #[test]
    fn a_name_need_not_be_text() {
        let list = OsString::from_vec(b"fsname=\xff\xfe".to_vec());
        let options = parse(&[list]).unwrap().mount;
        assert_eq!(options.fsname, Some(OsString::from_vec(b"\xff\xfe".to_vec())));
    }

    #[test]
    fn what_becomes_of_the_missing_is_one_of_three() {
        assert_eq!(all(&["ro"]).unwrap().missing, Missing::Hide);
        assert_eq!(all(&["missing=zero,ro", "missing=eio"]).unwrap().missing, Missing::Eio);
        let told = told("missing=zeros");
        assert!(told.contains("`zeros`") && told.contains("hide, eio, zero"), "{told}");
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_known_ones() {
        for unknown in ["auto_unmount", "fsnam=x", "subtype=x", "RO", "default_permissions=1"] {
            let told = told(unknown);
            assert!(told.contains(&format!("`{unknown}`")), "{told}");
            assert!(told.contains("allow_other") && told.contains("noatime"), "{told}");
        }
    }
}
