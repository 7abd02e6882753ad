//! Running programs with a time limit.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process, kill_process_group};
use tempfile::TempDir;

use super::watch::holds_within;

/// The uid and gid of the ordinary user: `nobody` everywhere.
pub(crate) const NOBODY: u32 = 65534;

/// Who runs a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// Whoever runs the tests.
    Own,
    /// An ordinary user: `nobody` when the tests run as root.
    Ordinary,
}

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// A program to run.
#[derive(Debug)]
pub(crate) struct Run {
    program: OsString,
    args: Vec<OsString>,
    seconds: u64,
    user: User,
    folder: Option<PathBuf>,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Run {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            seconds: 60,
            user: User::Own,
            folder: None,
        }
    }

    /// The program under test.
    pub(crate) fn qcowfs() -> Self {
        Self::new(env!("CARGO_BIN_EXE_qcowfs"))
    }

    #[must_use]
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    #[must_use]
    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub(crate) fn seconds(mut self, seconds: u64) -> Self {
        self.seconds = seconds;
        self
    }

    #[must_use]
    pub(crate) fn user(mut self, user: User) -> Self {
        self.user = user;
        self
    }

    #[must_use]
    pub(crate) fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_path_buf());
        self
    }

    fn command(&self) -> Command {
        let mut command = if self.user == User::Ordinary && is_root() {
            let mut command = Command::new("setpriv");
            command.arg(format!("--reuid={NOBODY}")).arg(format!("--regid={NOBODY}"));
            command.arg("--clear-groups").arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        let path = std::env::var("PATH").unwrap_or_default();
        command.args(&self.args).env("LC_ALL", "C").env_remove("RUST_LOG");
        command.env("PATH", format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin"));
        command.stdin(Stdio::null()).process_group(0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }

    /// Starts it and leaves it running, its output thrown away.
    pub(crate) fn start(self) -> Child {
        let mut command = self.command();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap_or_else(|e| self.cannot_start(&e))
    }

    /// Runs it to its end. Panics when it cannot be started, or when its time is over.
    ///
    /// Its output goes to files, not pipes: a program that leaves a daemon behind which still
    /// holds its output must not keep us waiting.
    pub(crate) fn outcome(self) -> Outcome {
        let mut stdout = tempfile::tempfile().expect("a scratch file");
        let mut stderr = tempfile::tempfile().expect("a scratch file");
        let mut command = self.command();
        command.stdout(stdout.try_clone().expect("a descriptor"));
        command.stderr(stderr.try_clone().expect("a descriptor"));
        let mut child = command.spawn().unwrap_or_else(|e| self.cannot_start(&e));
        let group = Pid::from_child(&child);
        let (send, receive) = channel();
        thread::spawn(move || {
            let _ = send.send(child.wait());
        });
        let Ok(status) = receive.recv_timeout(Duration::from_secs(self.seconds)) else {
            let _ = kill_process_group(group, Signal::KILL);
            let said = String::from_utf8_lossy(&whole(&mut stderr)).into_owned();
            panic!("not done after {} s: {self:?}\n{said}", self.seconds);
        };
        Outcome {
            code: status.expect("a child's status").code(),
            stdout: whole(&mut stdout),
            stderr: String::from_utf8_lossy(&whole(&mut stderr)).into_owned(),
        }
    }

    /// Runs it to its end and panics unless it succeeds.
    pub(crate) fn ok(self) -> Outcome {
        let shown = format!("{self:?}");
        let outcome = self.outcome();
        assert_eq!(outcome.code, Some(0), "{shown}\n{}\n{}", outcome.text(), outcome.stderr);
        outcome
    }

    fn cannot_start(&self, error: &std::io::Error) -> ! {
        let name = self.command().get_program().to_string_lossy().into_owned();
        let package = package_of(&name);
        panic!("cannot run {name}: {error} (Debian package {package})")
    }
}

fn whole(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().expect("a scratch file");
    file.read_to_end(&mut bytes).expect("a scratch file");
    bytes
}

/// The Debian package that has a program.
fn package_of(program: &str) -> &str {
    match program {
        "qemu-img" | "qemu-io" | "qemu-nbd" => "qemu-utils",
        "fusermount3" => "fuse3",
        "debugfs" | "e2fsck" | "mkfs.ext4" | "filefrag" => "e2fsprogs",
        "mkfs.xfs" => "xfsprogs",
        "sfdisk" => "fdisk",
        "setfattr" | "getfattr" => "attr",
        "setfacl" => "acl",
        "nbdfuse" => "libnbd-bin",
        "ddrescue" => "gddrescue",
        "mount" | "umount" | "losetup" => "mount",
        "script" => "bsdutils",
        "setpriv" | "fallocate" | "unshare" | "mkswap" => "util-linux",
        "sha256sum" | "cp" | "truncate" | "mkfifo" | "mknod" => "coreutils",
        "cmp" => "diffutils",
        other => other,
    }
}

/// A copy of the program under test in `folder`, where every user can reach it: the build folder
/// may lie in somebody's home.
pub(crate) fn copy_of_qcowfs(folder: &Path) -> PathBuf {
    let copy = folder.join("qcowfs");
    std::fs::copy(env!("CARGO_BIN_EXE_qcowfs"), &copy).expect("a copy of the program");
    open_to_all(&copy);
    copy
}

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("mode 755");
}

/// A scratch folder that every user can reach.
pub(crate) fn scratch() -> TempDir {
    let folder = tempfile::Builder::new().prefix("qcowfs-test.").tempdir().expect("a folder");
    open_to_all(folder.path());
    folder
}

/// Sends a signal to a program that must end by it, and returns its exit code.
pub(crate) fn end(mut child: Child, signal: Signal) -> Option<i32> {
    kill_process(Pid::from_child(&child), signal).expect("a signal");
    let is_over = || child.try_wait().expect("a child").is_some();
    assert!(holds_within(30, is_over), "it goes on");
    child.wait().expect("a child").code()
}
