//! What mount(8) calls for `-t qcowfs`, `-t fuse.qcowfs` and lines of fstab: the same program under
//! the name `mount.qcowfs` or `mount.fuse.qcowfs`.
//!
//! Where neither is installed, fuse3's `mount.fuse` calls `qcowfs SOURCE MOUNTPOINT -o OPTIONS`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::Parser;

use super::mount_options::{parse, split};
use crate::error::{Error, Result};

/// What mount(8) itself exits with where a mount fails.
pub(super) const MOUNT_FAILED: u8 = 32;
/// What mount(8) itself exits with where it was called wrongly.
pub(super) const WRONG_USAGE: u8 = 1;

/// The names of a mount helper begin so.
const NAMES: &str = "mount.";

/// What mount(8) understands itself and passes on all the same, or what says nothing about a view
/// that is read-only and holds neither devices nor programs.
const FOR_OTHERS: [&str; 32] = [
    "_netdev",
    "async",
    "auto",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "group",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noauto",
    "nodiratime",
    "nofail",
    "nogroup",
    "noiversion",
    "nolazytime",
    "nomand",
    "noowner",
    "norelatime",
    "nostrictatime",
    "nouser",
    "owner",
    "relatime",
    "rw",
    "silent",
    "strictatime",
    "suid",
    "sync",
    "user",
    "users",
];
const FOR_OTHERS_WITH_VALUE: [&str; 7] =
    ["x-", "X-", "comment=", "group=", "helper=", "uhelper=", "user="];

/// Mount a view of a source, called by mount(8)
///
/// Shows the restore points of a source at a mount point, as `qcowfs mount` does,
/// and takes the same options. It is what makes these work:
///
///  mount -t qcowfs /backups /mnt/view
///  mount -t fuse.qcowfs -o allow_other,missing=zero /backups /mnt/view
///
/// and the same as a line of /etc/fstab. Options that are mount(8)'s own (defaults,
/// noauto, user, _netdev, nofail, x-systemd.*) are taken and left to it. A view is
/// read-only, with and without `ro`, and has neither devices nor set-user-ID
/// programs, with and without `dev` and `suid`.
#[allow(clippy::doc_markdown, reason = "the help shows the text as it is, backticks too")]
#[derive(Debug, Parser)]
#[command(name = "mount.qcowfs", version, verbatim_doc_comment, after_help = EXAMPLES)]
pub(super) struct HelperArgs {
    /// Folder of backups, or one backup file
    source: PathBuf,

    /// Existing folder, outside of the source, to show the view at
    #[arg(value_name = "MOUNTPOINT")]
    mount_point: PathBuf,

    /// Mount options, comma-separated: see qcowfs-mount(1)
    #[arg(short, value_name = "OPTIONS", allow_hyphen_values = true)]
    options: Vec<OsString>,

    /// Pass over options that are not understood
    #[arg(short)]
    sloppy: bool,

    /// Look at the options, and mount nothing
    #[arg(short)]
    fake: bool,

    /// Write no /etc/mtab: it never is written
    #[arg(short)]
    no_mtab: bool,

    /// Log what happens
    #[arg(short, action = clap::ArgAction::Count)]
    verbose: u8,

    /// The type of the file system: there is but one
    #[arg(short = 't', value_name = "TYPE")]
    fs_type: Option<OsString>,

    /// Another mount namespace: not possible; use nsenter(1)
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  mount -t qcowfs /backups /mnt/view
  mount -t fuse.qcowfs -o allow_other,missing=zero /backups /mnt/view

  A line of /etc/fstab, in which the options are one word; `mount /mnt/view`
  mounts it, and so does the next start of the machine:
  /backups /mnt/view fuse.qcowfs allow_other,nofail 0 0
  With x-systemd.requires-mounts-for=/backups it waits for the source's mount.

Exit codes:
  0   the view answers
  1   wrong usage: an option that there is not, or a value that cannot be
  32  it could not be mounted; one line on the standard error says why";

/// Whether mount(8) or mount.fuse called the program with these words.
pub(super) fn is_called(words: &[OsString]) -> bool {
    let name = words.first().and_then(|word| Path::new(word).file_name());
    if name.is_some_and(|name| name.as_bytes().starts_with(NAMES.as_bytes())) {
        return true;
    }
    let is_path = |word: &OsString| word.as_bytes().contains(&b'/');
    match words {
        [_, source, mount_point] => is_path(source) && is_path(mount_point),
        [_, source, mount_point, flag, ..] => {
            is_path(source) && is_path(mount_point) && flag == "-o"
        }
        _ => false,
    }
}

/// The same as words of `qcowfs mount`; nothing if there is nothing to do.
pub(super) fn translate(args: &HelperArgs) -> Result<Option<Vec<OsString>>> {
    if args.namespace.is_some() {
        let what = "-N (another namespace) cannot be: use `nsenter --mount=FILE mount ...`";
        return Err(Error::Usage(what.to_owned()));
    }
    let options = own_options(args)?;
    if args.fake {
        return Ok(None);
    }
    let mut words = vec![program()];
    words.extend((0..args.verbose).map(|_| OsString::from("-v")));
    words.extend(["mount".into(), "-o".into(), options, "--".into()]);
    words.extend([args.source.clone().into(), args.mount_point.clone().into()]);
    Ok(Some(words))
}

/// The options that are not for others, all of them understood.
fn own_options(args: &HelperArgs) -> Result<OsString> {
    let mut list = Vec::new();
    for word in args.options.iter().flat_map(|list| split(list)) {
        if word == "remount" {
            let what = "a view cannot be remounted with other options: unmount it, and mount it";
            return Err(Error::Usage(what.to_owned()));
        }
        if is_for_others(&word) {
            continue;
        }
        let word = escaped(&word);
        match parse(std::slice::from_ref(&word)) {
            Ok(_) => {}
            Err(_) if args.sloppy => continue,
            Err(e) => return Err(e),
        }
        if !list.is_empty() {
            list.push(b',');
        }
        list.extend_from_slice(word.as_bytes());
    }
    Ok(OsString::from_vec(list))
}

fn is_for_others(word: &OsStr) -> bool {
    let starts = |start: &&str| word.as_bytes().starts_with(start.as_bytes());
    FOR_OTHERS.iter().any(|other| word == *other) || FOR_OTHERS_WITH_VALUE.iter().any(starts)
}

/// As it has to be written in a list.
fn escaped(word: &OsStr) -> OsString {
    let mut bytes = Vec::with_capacity(word.len());
    for byte in word.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            bytes.push(b'\\');
        }
        bytes.push(*byte);
    }
    OsString::from_vec(bytes)
}

/// The program's own name, for who looks at the list of processes.
fn program() -> OsString {
    env::current_exe().map_or_else(|_| "qcowfs".into(), PathBuf::into_os_string)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn translated(line: &str) -> Result<Option<Vec<String>>> {
        let args = HelperArgs::try_parse_from(words(line)).expect("the form of mount(8)");
        let words = translate(&args)?;
        let text = |word: OsString| word.to_string_lossy().into_owned();
        Ok(words.map(|words| words.into_iter().skip(1).map(text).collect()))
    }

    fn options(list: &str) -> Result<String> {
        let line = format!("mount.qcowfs /b /v -o {list}");
        Ok(translated(&line)?.unwrap().join(" ").replacen("mount -o ", "", 1))
    }

    #[test]
    fn the_helper_is_well_formed() {
        HelperArgs::command().debug_assert();
    }

    #[test]
    fn the_name_or_the_form_tells_who_calls() {
        for line in [
            "/sbin/mount.qcowfs /b /v -o rw",
            "mount.fuse.qcowfs b v",
            "mount.qcowfs",
            "qcowfs /b /v",
            "qcowfs /b /v -o rw,dev,suid",
        ] {
            assert!(is_called(&words(line)), "{line}");
        }
        for line in ["qcowfs", "qcowfs ls /b", "qcowfs /b", "qcowfs mount /b /v", "qcowfs ls /b -v"]
        {
            assert!(!is_called(&words(line)), "{line}");
        }
    }

    #[test]
    fn what_mount_passes_on_is_left_to_it() {
        let list =
            "rw,noauto,user=me,_netdev,nofail,x-systemd.automount,comment=a,dev,suid,defaults";
        assert_eq!(options(list).unwrap(), " -- /b /v");
        let list = "rw,noexec,nodev,allow_other,missing=zero,map_cache=64M,follow=/f,threads=2";
        assert_eq!(
            options(list).unwrap(),
            "noexec,nodev,allow_other,missing=zero,map_cache=64M,follow=/f,threads=2 -- /b /v"
        );
    }

    #[test]
    fn a_comma_in_a_value_stays_in_it() {
        assert_eq!(options(r"rw,fsname=a\,dev\\b,ro").unwrap(), r"fsname=a\,dev\\b,ro -- /b /v");
    }

    #[test]
    fn what_is_not_understood_is_refused_unless_that_is_allowed() {
        assert!(options("rw,sparkling").unwrap_err().to_string().contains("`sparkling`"));
        assert!(options("remount,ro").unwrap_err().to_string().contains("unmount it"));
        let sloppy = translated("mount.qcowfs /b /v -s -o sparkling,noexec").unwrap().unwrap();
        assert_eq!(sloppy.join(" "), "mount -o noexec -- /b /v");
    }

    #[test]
    fn all_that_mount_can_add_is_taken() {
        let all = translated("mount.qcowfs /b /v -s -n -v -o rw -t fuse.qcowfs").unwrap().unwrap();
        assert_eq!(all.join(" "), "-v mount -o  -- /b /v");
        assert!(translated("mount.qcowfs /b /v -f -o rw").unwrap().is_none(), "-f mounts nothing");
        assert!(translated("mount.qcowfs /b /v -N /proc/1/ns/mnt").is_err());
    }
}
