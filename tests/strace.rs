//! What the daemon asks of the kernel while it serves: nothing outside of the source but what the
//! program itself needs, and nothing that would change the source.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::unnecessary_debug_formatting,
    reason = "a test stops where something is not as it must be, and shows names escaped"
)]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use common::mount::{LIMIT, is_mounted};
use common::source_state::SourceState;
use common::watch::holds_within;
use common::{Case, Mount, Run, User, View};

/// Calls that name a file, or write to one, or change one.
const CALLS: &str = "trace=%file,openat2,write,writev,pwrite64,pwritev,pwritev2,ftruncate,fallocate,\
     copy_file_range,sendfile,splice,fchmod,fchown,fsetxattr,fremovexattr,flock,fcntl,ioctl,\
     io_uring_setup,execve,execveat";

/// What the program may name outside of the source: itself and its libraries, the kernel's tables,
/// FUSE, the time zone, the log.
const OWN: [&str; 17] = [
    "/dev/fuse",
    "/dev/log",
    "/var/run/syslog",
    "/dev/null",
    "/proc/self/",
    "/proc/stat",
    "/proc/mounts",
    "/sys/class/bdi/",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu/",
    "/etc/ld.so.",
    "/etc/localtime",
    "/etc/timezone",
    "/usr/share/zoneinfo",
    "/usr/lib",
    "/lib",
    "/usr/share/lib/zoneinfo",
];

/// Which of them are opened for writing: the device, and the mount's read-ahead.
const WRITTEN: [&str; 3] = ["/dev/fuse", "/dev/null", "/sys/class/bdi/"];

/// A call: its name, and its arguments as strace shows them.
struct Call<'a> {
    name: &'a str,
    args: &'a str,
    line: &'a str,
}

impl<'a> Call<'a> {
    /// Takes a line of `strace -f -y` apart: `1234 openat(AT_FDCWD</x>, "y", O_RDONLY) = 3</x/y>`.
    fn parse(line: &'a str) -> Option<Self> {
        let (_pid, call) = line.split_once(' ')?;
        let (name, args) = call.trim_start().split_once('(')?;
        name.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            .then_some(())?;
        Some(Self { name, args, line })
    }

    /// The path that it names; relative ones after what their descriptor stands for.
    fn path(&self) -> Option<PathBuf> {
        let (before, rest) = self.args.split_once('"')?;
        let named = rest.split_once('"')?.0;
        let at = before.rsplit_once('<').and_then(|(_, at)| at.split_once('>')).map(|(at, _)| at);
        Some(Path::new(at.unwrap_or("/")).join(named))
    }

    /// Whether it opens a disk of the view itself, by a mount that is nowhere in the tree of folders:
    /// to read ahead.
    fn reads_ahead(&self) -> bool {
        let disk = self.path().is_some_and(|path| path.extension() == Some("img".as_ref()));
        let within = "RESOLVE_NO_XDEV|RESOLVE_NO_SYMLINKS|RESOLVE_BENEATH";
        disk && self.args.split_once(", ").is_some_and(|(at, _)| at.ends_with("</>"))
            && self.args.contains(within)
    }

    /// Whether it opens something to write to it.
    fn writes(&self) -> bool {
        ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"].iter().any(|flag| self.args.contains(flag))
    }
}

/// When each path beneath a folder was read last.
fn access_times(folder: &Path) -> BTreeMap<PathBuf, (i64, i64)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![folder.to_path_buf()];
    while let Some(path) = pending.pop() {
        let stat = path.symlink_metadata().expect("a path of the source");
        if stat.is_dir() {
            pending.extend(path.read_dir().expect("a folder").map(|e| e.expect("an entry").path()));
        } else {
            found.insert(path, (stat.atime(), stat.atime_nsec()));
        }
    }
    found
}

/// Mounts a case under strace, lists it and reads all of it; returns what strace wrote.
fn trace(case: &Case, mount: &Mount, log: &Path) -> String {
    Run::new("strace").arg("-V").ok();
    // cargo has the loader look into folders of its own.
    let strace =
        Run::new("env").args(["-u", "LD_LIBRARY_PATH", "strace", "-f", "-y", "-s", "4096"]);
    let strace = strace.args(["-e", CALLS, "-o"]).arg(log);
    let program = strace.arg(env!("CARGO_BIN_EXE_qcowfs"));
    let run =
        program.args(["mount", "-f", "--threads", "2"]).arg(case.backups()).arg(mount.point());
    let mut child = run.start();
    let up = || is_mounted(mount.point()) && !common::mount::daemons(mount.point()).is_empty();
    assert!(holds_within(LIMIT, up), "strace's qcowfs does not mount");
    Run::new("ls").arg("-lR").arg(mount.point()).ok();
    let view = View::walk(mount.point());
    let whole = view.checkpoints.iter().filter(|seen| seen.whole);
    for seen in whole {
        common::content::sha256(&mount.path(seen.image()));
    }
    assert!(view.checkpoints.iter().any(|seen| seen.whole), "nothing was read");
    Run::qcowfs().arg("umount").arg(mount.point()).ok();
    assert!(holds_within(LIMIT, || child.try_wait().expect("strace").is_some()), "strace stays");
    std::fs::read_to_string(log).expect("what strace saw")
}

fn is_own(path: &Path, mount: &Mount) -> bool {
    let text = path.to_string_lossy();
    // Of the mount point and what lies above it only the stat is asked for.
    OWN.iter().any(|own| text.starts_with(own))
        || path == Path::new(env!("CARGO_BIN_EXE_qcowfs"))
        || mount.point().starts_with(path)
}

fn must_leave_alone(name: &str) {
    let case = Case::unpack(name);
    let source = case.backups().canonicalize().expect("the source");
    let scratch = tempfile::tempdir().expect("a folder");
    let before = SourceState::of(&source);
    let read_before = access_times(&source);
    let mount = Mount::prepare(User::Own);
    let log = trace(&case, &mount, &scratch.path().join("strace"));
    let (mut opened, mut faults) = (0, Vec::new());
    for call in log.lines().filter_map(Call::parse) {
        let path = call.path();
        let in_source = path.as_ref().is_some_and(|path| path.starts_with(&source));
        let on_source = call.args.contains(&format!("<{}", source.display()));
        let fine = match call.name {
            "open" | "openat" | "openat2" if in_source => {
                opened += 1;
                !call.writes()
            }
            "openat2" if call.reads_ahead() => !call.writes(),
            "open" | "openat" | "openat2" => path.as_deref().is_some_and(|path| {
                let written = WRITTEN.iter().any(|own| path.starts_with(own.trim_end_matches('/')));
                // Folders above the source are looked at for their permissions, not opened.
                is_own(path, &mount) && (written || !call.writes())
            }),
            "stat" | "lstat" | "statx" | "newfstatat" | "readlink" | "readlinkat" | "access"
            | "faccessat" | "faccessat2" | "getxattr" | "lgetxattr" | "getcwd" | "statfs"
            | "inotify_init" | "inotify_init1" | "inotify_rm_watch" => true,
            "write" | "writev" => !on_source,
            // Of the locks that QEMU holds the daemon only asks.
            "fcntl" => !on_source || !call.args.contains("SETLK"),
            "ioctl" => !on_source || call.args.contains("FS_IOC_FIEMAP"),
            // Changes of the source are watched, and of nothing else.
            "inotify_add_watch" => in_source,
            "execve" => path.as_deref() == Some(Path::new(env!("CARGO_BIN_EXE_qcowfs"))),
            // A mount of one file that nobody sees, for the kernel to read it by; one of the view.
            "open_tree" => {
                (on_source || path.as_deref() == Some(mount.point()))
                    && call.args.contains("OPEN_TREE_CLONE")
            }
            "mount_setattr" => call.args.contains("MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOATIME"),
            "mount" | "umount2" => path.is_some(),
            _ => false,
        };
        if !fine {
            faults.push(call.line);
        }
    }
    assert!(opened > 3, "strace saw hardly any open: {log}");
    assert!(faults.is_empty(), "{name}:\n{}", faults.join("\n"));
    assert_eq!(access_times(&source), read_before, "{name}: read without leaving a trace");
    before.must_still_hold(&source);
}

#[test]
fn a_mount_opens_nothing_but_the_source_and_writes_nothing_to_it() {
    // The second has absolute names of another machine in its headers.
    for name in ["qmpbackup-partial", "libvirt-extsnap", "virtnbdbackup-rawdisk"] {
        must_leave_alone(name);
    }
}
