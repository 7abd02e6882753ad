//! A mount that goes away whatever happens to the test.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::run::{Outcome, Run, User, copy_of_qcowfs, is_root, scratch};
use super::watch::holds_within;

/// Seconds that a mount, an unmount and the daemon's end may take.
pub(crate) const LIMIT: u64 = 30;

/// A mounted view.
#[derive(Debug)]
pub(crate) struct Mount {
    point: PathBuf,
    user: User,
    program: PathBuf,
    _folder: TempDir,
}

impl Mount {
    /// Mounts `source` on a new mount point; panics when that fails.
    pub(crate) fn of(source: &Path) -> Self {
        Self::with(source, User::Own, &[])
    }

    /// Mounts `source` as `user`, with further options.
    pub(crate) fn with(source: &Path, user: User, options: &[&str]) -> Self {
        let mount = Self::prepare(user);
        mount.command(source, options).ok();
        mount.must_be_up();
        mount
    }

    /// A mount point with nothing on it yet, and the guard for what will be.
    pub(crate) fn prepare(user: User) -> Self {
        let folder = scratch();
        let point = folder.path().join("view");
        std::fs::create_dir(&point).expect("a mount point");
        give(&point, user);
        // The name under which the kernel will list it.
        let point = point.canonicalize().expect("a mount point");
        let program = match user {
            User::Own => PathBuf::from(env!("CARGO_BIN_EXE_qcowfs")),
            User::Ordinary => copy_of_qcowfs(folder.path()),
        };
        Self { point, user, program, _folder: folder }
    }

    /// The program under test, run as the user who mounts.
    pub(crate) fn qcowfs(&self) -> Run {
        Run::new(&self.program).user(self.user).seconds(LIMIT)
    }

    /// The command that mounts `source` here.
    pub(crate) fn command(&self, source: &Path, options: &[&str]) -> Run {
        self.qcowfs().arg("mount").args(options).arg(source).arg(&self.point)
    }

    /// Panics unless the mount is listed and its daemon runs.
    pub(crate) fn must_be_up(&self) {
        assert!(is_mounted(&self.point), "qcowfs said 0, but nothing is mounted");
        assert!(!daemons(&self.point).is_empty(), "mounted, but no daemon was found");
    }

    /// The program under test, where the user who mounts can run it.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    pub(crate) fn point(&self) -> &Path {
        &self.point
    }

    /// A path in the view.
    pub(crate) fn path(&self, within: impl AsRef<Path>) -> PathBuf {
        self.point.join(within)
    }

    /// The daemon.
    pub(crate) fn daemon(&self) -> Pid {
        match daemons(&self.point).as_slice() {
            [pid] => *pid,
            other => panic!("one daemon was expected for {:?}: {other:?}", self.point),
        }
    }

    /// A program run as the user who mounted: others may not look into the mount.
    pub(crate) fn run(&self, program: &str) -> Run {
        Run::new(program).user(self.user)
    }

    /// `qcowfs umount`, and its outcome.
    pub(crate) fn umount_command(&self) -> Outcome {
        self.qcowfs().arg("umount").arg(&self.point).outcome()
    }

    /// Unmounts as a user does; panics unless the mount and its daemon are gone then.
    pub(crate) fn unmount(self) {
        self.take_down();
    }

    /// The same, for a mount point that is used again.
    pub(crate) fn take_down(&self) {
        let mut outcome = self.umount_command();
        // A test that starts a program at this moment hands it, until it has been executed, a copy
        // of every descriptor of this process, those in the mount too.
        holds_within(10, || {
            let busy = outcome.code != Some(0) && outcome.stderr.contains("busy");
            if busy {
                outcome = self.umount_command();
            }
            !busy
        });
        assert_eq!(outcome.code, Some(0), "qcowfs umount: {}", outcome.stderr);
        self.must_go();
    }

    /// Panics unless the mount and its daemon go within the limit.
    pub(crate) fn must_go(&self) {
        assert!(holds_within(LIMIT, || !is_mounted(&self.point)), "still mounted: {self:?}");
        assert!(holds_within(LIMIT, || daemons(&self.point).is_empty()), "the daemon stays");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // The daemon first: whoever waits for an answer from it gets an error then, and a busy
        // mount can go.
        for pid in daemons(&self.point) {
            let _ = kill_process(pid, Signal::TERM);
            if !holds_within(2, || !lives(pid)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if is_mounted(&self.point) {
            let command = if is_root() {
                Run::new("umount").arg("-l")
            } else {
                Run::new("fusermount3").args(["-u", "-z"])
            };
            // A second panic while the first one unwinds would end the whole program.
            let point = self.point.clone();
            let _ = std::thread::spawn(move || command.arg(point).seconds(10).outcome()).join();
        }
    }
}

/// Gives a path to the user who shall own it.
pub(crate) fn give(path: &Path, user: User) {
    if user == User::Ordinary && is_root() {
        let owner = format!("{0}:{0}", super::run::NOBODY);
        Run::new("chown").args(["-R", "-h"]).arg(owner).arg(path).ok();
    }
}

/// The mount points that the kernel lists. Nothing is asked of the mounts themselves, so that a
/// hung one cannot hang us.
pub(crate) fn mount_table() -> Vec<PathBuf> {
    let table = std::fs::read("/proc/self/mountinfo").expect("the mount table");
    let lines = table.split(|b| *b == b'\n');
    lines.filter_map(|l| l.split(|b| *b == b' ').nth(4)).map(unescape).collect()
}

/// How often `point` is mounted on.
pub(crate) fn mounted_times(point: &Path) -> usize {
    mount_table().iter().filter(|p| p.as_path() == point).count()
}

pub(crate) fn is_mounted(point: &Path) -> bool {
    mounted_times(point) > 0
}

/// Undoes the kernel's octal escapes (space, tab, newline, backslash).
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let value = octal.and_then(|o| std::str::from_utf8(o).ok());
        if let Some(byte) = value.and_then(|o| u8::from_str_radix(o, 8).ok()) {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// The processes of the program under test that have `point` among their arguments.
pub(crate) fn daemons(point: &Path) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // A process that ended meanwhile, or is not ours to look at, is none of ours. A zombie
        // has an empty command line.
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|b| *b == 0);
        let program = words.next().unwrap_or_default();
        let ours = program.ends_with(b"/qcowfs");
        if ours && words.any(|w| w == point.as_os_str().as_bytes()) {
            found.push(pid);
        }
    }
    found
}

/// Whether a process runs (a zombie does not).
pub(crate) fn lives(pid: Pid) -> bool {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let stat = std::fs::read_to_string(path).unwrap_or_default();
    // The name in parentheses may hold anything, parentheses too.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|s| s != 'Z' && s != 'X')
}
