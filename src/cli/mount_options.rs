//! The words of `mount -o`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use rustix::mount::MountFlags;

use crate::error::{Error, Result};
use crate::mount::{Access, MountOptions, Refresh};
use crate::tree::caches::CacheSizes;
use crate::tree::missing::Missing;

/// What an unknown option is answered with.
const KNOWN: &str = "missing=hide|eio|zero, allow_other, allow_root, default_permissions, \
                     auto_unmount, fsname=NAME, follow=DIR, threads=N, log_file=FILE, \
                     refresh=auto|off|SECONDS, map_cache=SIZE, data_cache=SIZE, nopassthrough, \
                     ro, noexec, exec, nodev, dev, \
                     nosuid, suid, noatime, atime";
/// As many threads as can be asked for.
pub(super) const MOST_THREADS: u16 = 64;

/// What all `-o` say together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Of the mount.
    pub(super) mount: MountOptions,
    /// What becomes of restore points that are not whole.
    pub(super) missing: Option<Missing>,
    /// Memory of the daemon.
    pub(super) caches: CacheSizes,
    /// Folders outside of the source that headers may lead to.
    pub(super) follow: Vec<PathBuf>,
    /// Threads that answer the kernel.
    pub(super) threads: Option<u16>,
    /// Where the log goes.
    pub(super) log_file: Option<PathBuf>,
}

impl Options {
    /// All that holds, as words of `-o`, for those who ask a mounted view.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = self.mount.words();
        words.push(format!("missing={}", self.missing.unwrap_or_default()));
        words.push(match self.mount.refresh {
            Refresh::Auto => "refresh=auto".to_owned(),
            Refresh::Every(interval) => format!("refresh={}", interval.as_secs()),
            Refresh::Off => "refresh=off".to_owned(),
        });
        words.push(format!("map_cache={}", self.caches.maps));
        words.push(format!("data_cache={}", self.caches.data));
        words.extend(self.follow.iter().map(|dir| format!("follow={}", dir.display())));
        words
    }
}

/// Parses the values of all `-o`, in their order: later ones win.
pub(super) fn parse(lists: &[OsString]) -> Result<Options> {
    let mut options = Options::default();
    for word in lists.iter().flat_map(|list| split(list)) {
        apply(&mut options, &word)?;
    }
    Ok(options)
}

fn apply(options: &mut Options, word: &OsStr) -> Result<()> {
    if let Some(missing) = word.to_str().and_then(|word| word.strip_prefix("missing=")) {
        let wrong = |e| Error::Usage(format!("mount option missing=: {e}"));
        options.missing = Some(missing.parse().map_err(wrong)?);
        return Ok(());
    }
    if let Some(name) = word.as_bytes().strip_prefix(b"fsname=") {
        options.mount.fsname = Some(checked_name(name)?);
        return Ok(());
    }
    if let Some(value) = word.to_str().and_then(|word| word.strip_prefix("refresh=")) {
        options.mount.refresh = refresh(value)?;
        return Ok(());
    }
    for (name, size) in
        [("map_cache", &mut options.caches.maps), ("data_cache", &mut options.caches.data)]
    {
        let value = word.as_bytes().strip_prefix(name.as_bytes());
        if let Some(value) = value.and_then(|rest| rest.strip_prefix(b"=")) {
            *size = cache_size(name, OsStr::from_bytes(value))?;
            return Ok(());
        }
    }
    if apply_daemon(options, word)? {
        return Ok(());
    }
    apply_mount(&mut options.mount, word)
}

/// What `--allow-root`, `--threads` and `--log-file` say, too: fstab has no place for these.
fn apply_daemon(options: &mut Options, word: &OsStr) -> Result<bool> {
    let value = |name: &str| word.as_bytes().strip_prefix(name.as_bytes()).map(OsStr::from_bytes);
    if let Some(dir) = value("follow=") {
        options.follow.push(path("follow", dir, "a folder")?);
    } else if let Some(file) = value("log_file=") {
        options.log_file = Some(path("log_file", file, "a file")?);
    } else if let Some(count) = value("threads=") {
        let threads = count.to_str().and_then(|text| text.parse().ok());
        let threads = threads.filter(|threads| (1..=MOST_THREADS).contains(threads));
        if threads.is_none() {
            let count = count.display();
            return usage(&format!(
                "the option threads= needs a number from 1 to {MOST_THREADS}: `{count}`"
            ));
        }
        options.threads = threads;
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn path(name: &str, value: &OsStr, what: &str) -> Result<PathBuf> {
    if value.is_empty() {
        return usage(&format!("the option {name}= needs {what}"));
    }
    Ok(value.into())
}

/// A word that has no value.
fn apply_mount(options: &mut MountOptions, word: &OsStr) -> Result<()> {
    let flags = &mut options.flags;
    match word.to_str() {
        Some("allow_other") => options.access = Access::Everybody,
        Some("allow_root") => options.access = Access::OwnerAndRoot,
        Some("default_permissions") => options.check_permissions = true,
        Some("auto_unmount") => options.auto_unmount = true,
        Some("passthrough") => options.passthrough = true,
        Some("nopassthrough") => options.passthrough = false,
        Some("ro") => {}
        Some("rw") => {
            return usage("the option rw cannot be, as a view is read-only: leave it away");
        }
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
        return usage("the option fsname= needs a name, such as fsname=backups");
    }
    Ok(OsString::from_vec(name.to_vec()))
}

/// When the source is looked at again.
fn refresh(value: &str) -> Result<Refresh> {
    let wrong = || {
        usage(&format!(
            "the option refresh= is auto, off, or a number of seconds from 1 on: `{value}`"
        ))
    };
    match value {
        "auto" => Ok(Refresh::Auto),
        "off" => Ok(Refresh::Off),
        // `parse` would take a sign.
        _ if !value.bytes().all(|b| b.is_ascii_digit()) => wrong(),
        _ => match value.parse::<u32>() {
            Ok(seconds @ 1..) => Ok(Refresh::Every(Duration::from_secs(seconds.into()))),
            _ => wrong(),
        },
    }
}

/// A size of memory: a number of bytes, or with a letter of KiB, MiB or GiB.
fn cache_size(name: &str, value: &OsStr) -> Result<u64> {
    let parsed = value.to_str().and_then(|text| {
        let unit = text.bytes().next_back().map(|letter| letter.to_ascii_uppercase());
        let shift = match unit? {
            b'K' => 10,
            b'M' => 20,
            b'G' => 30,
            _ => 0,
        };
        let digits = if shift == 0 { text } else { text.get(..text.len() - 1)? };
        // `parse` would take a sign.
        let digits = digits.bytes().all(|b| b.is_ascii_digit()).then_some(digits)?;
        digits.parse::<u64>().ok()?.checked_mul(1 << shift)
    });
    match parsed {
        Some(size) if size < CacheSizes::LEAST => {
            let value = value.display();
            usage(&format!("the option {name}={value} is too little: 1M is the least"))
        }
        Some(size) if isize::try_from(size).is_ok() => Ok(size),
        _ => {
            let value = value.display();
            usage(&format!(
                "the option {name}= needs a size, such as 64M (K, M, G: powers of 1024): `{value}`"
            ))
        }
    }
}

fn usage<T>(what: &str) -> Result<T> {
    Err(Error::Usage(what.to_owned()))
}

/// The words between the commas. A backslash takes the meaning from a comma or a backslash.
pub(super) fn split(list: &OsStr) -> Vec<OsString> {
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
    fn the_source_is_looked_at_when_it_is_said() {
        let refresh = |list: &str| parsed(&[list]).unwrap().refresh;
        assert_eq!(refresh("ro"), Refresh::Auto);
        assert_eq!(refresh("refresh=off"), Refresh::Off);
        assert_eq!(refresh("refresh=off,refresh=auto"), Refresh::Auto);
        assert_eq!(refresh("refresh=30"), Refresh::Every(Duration::from_secs(30)));
        for wrong in ["refresh=", "refresh=0", "refresh=-1", "refresh=+1", "refresh=1s"] {
            assert!(told(wrong).contains("number of seconds"), "{wrong}");
        }
    }

    #[test]
    fn what_becomes_of_the_missing_is_one_of_three() {
        assert_eq!(all(&["ro"]).unwrap().missing, None);
        assert_eq!(all(&["missing=zero,ro", "missing=eio"]).unwrap().missing, Some(Missing::Eio));
        let told = told("missing=zeros");
        assert!(told.contains("`zeros`") && told.contains("hide, eio, zero"), "{told}");
    }

    #[test]
    fn caches_have_the_size_that_is_asked_for() {
        let sizes = |list: &str| all(&[list]).unwrap().caches;
        let default = CacheSizes::default();
        assert_eq!(sizes("map_cache=64M"), CacheSizes { maps: 64 << 20, ..default });
        assert_eq!(sizes("data_cache=2g"), CacheSizes { data: 2 << 30, ..default });
        assert_eq!(sizes("map_cache=1024K,map_cache=1048577").maps, (1 << 20) + 1);
    }

    #[test]
    fn a_size_that_is_none_or_too_small_is_refused_with_the_reason() {
        for wrong in ["", "M", "64Q", "-1M", "+64M", "1.5G", "64 M", "64MB", "99999999999G"] {
            let told = told(&format!("map_cache={wrong}"));
            assert!(told.contains("map_cache= needs a size, such as 64M"), "{wrong}: {told}");
            assert!(told.contains(&format!("`{wrong}`")), "{told}");
        }
        for small in ["0", "1023K", "1048575"] {
            let told = told(&format!("data_cache={small}"));
            assert!(told.contains("too little: 1M is the least"), "{small}: {told}");
        }
        assert!(told("map_cache").contains("unknown mount option"));
    }

    #[test]
    fn what_the_flags_say_can_be_said_as_an_option() {
        let options = all(&["threads=3,follow=/a,follow=/b\\,c", "log_file=/l"]).unwrap();
        assert_eq!(options.threads, Some(3));
        assert_eq!(options.follow, [PathBuf::from("/a"), PathBuf::from("/b,c")]);
        assert_eq!(options.log_file, Some("/l".into()));
        for wrong in ["threads=0", "threads=65", "threads=", "threads=-1", "follow=", "log_file="] {
            assert!(told(wrong).contains("needs a"), "{wrong}");
        }
    }

    #[test]
    fn the_words_of_a_view_say_what_was_asked_for() {
        let options = all(&["allow_root,auto_unmount,missing=eio,noexec,follow=/f"]).unwrap();
        let words = options.words();
        for word in ["ro", "allow_root", "auto_unmount", "missing=eio", "noexec", "follow=/f"] {
            assert!(words.iter().any(|w| w == word), "{word} is not in {words:?}");
        }
        assert_eq!(parse(&[words.join(",").into()]).unwrap().words(), words, "read again");
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_known_ones() {
        for unknown in [
            "auto_umount",
            "fsnam=x",
            "threads",
            "follow",
            "subtype=x",
            "RO",
            "default_permissions=1",
        ] {
            let told = told(unknown);
            assert!(told.contains(&format!("`{unknown}`")), "{told}");
            assert!(told.contains("allow_other") && told.contains("noatime"), "{told}");
        }
    }
}
