//! A view that is left mounted: by mount(8) and fstab, by a service manager, and taken away when its
//! process dies.

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

use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use common::mount::{LIMIT, is_mounted, lives, mounted_times};
use common::report::root_or_skip;
use common::run::scratch;
use common::watch::{holds_within, within};
use common::{Case, Mount, Run, User, View};

/// The program under test where mount(8) looks for helpers, under names that nobody else uses.
struct Helpers {
    kind: String,
    links: Vec<PathBuf>,
}

impl Helpers {
    fn install(of: &str) -> Self {
        let kind = format!("qcowfs-test-{of}-{}", std::process::id());
        let mut helpers = Self { links: Vec::new(), kind };
        for name in [format!("mount.{}", helpers.kind), format!("mount.fuse.{}", helpers.kind)] {
            let link = Path::new("/sbin").join(name);
            symlink(env!("CARGO_BIN_EXE_qcowfs"), &link).expect("a link in /sbin");
            helpers.links.push(link);
        }
        helpers
    }

    /// The types that mount(8) knows us by.
    fn types(&self) -> [String; 2] {
        [self.kind.clone(), format!("fuse.{}", self.kind)]
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        for link in &self.links {
            let _ = std::fs::remove_file(link);
        }
    }
}

/// The options of the mount table.
fn listed(point: &Path) -> String {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let point = point.to_str().expect("a plain path");
    table.lines().find(|line| line.contains(point)).expect("our mount").to_owned()
}

fn mount_as(kind: &str, options: &str, source: &Path, point: &Path) -> Run {
    Run::new("mount").args(["-t", kind, "-o", options]).arg(source).arg(point).seconds(LIMIT)
}

/// The watchers of a mount point.
fn watchers(point: &Path) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let pid = entry.file_name().to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw);
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("\0watch-mount\0") && line.contains(point.to_str().expect("plain")) {
            found.extend(pid);
        }
    }
    found
}

#[test]
fn mount_mounts_views_under_both_types_and_umount_unmounts_them() {
    if !root_or_skip("mount_mounts_views_under_both_types_and_umount_unmounts_them") {
        return;
    }
    let case = Case::unpack("qmpbackup-partial");
    let helpers = Helpers::install("types");
    for kind in helpers.types() {
        let mount = Mount::prepare(User::Own);
        let options = "noexec,_netdev,nofail,x-systemd.automount,dev,suid,fsname=a b";
        mount_as(&kind, options, &case.backups(), mount.point()).ok();
        mount.must_be_up();
        let line = listed(mount.point());
        assert!(line.contains("fuse.qcowfs") && line.contains("a\\040b"), "{kind}: {line}");
        for word in ["ro", "noexec", "nodev", "nosuid"] {
            assert!(line.contains(word), "{kind}: not {word}: {line}");
        }
        assert!(!View::walk(mount.point()).checkpoints.is_empty());
        Run::new("umount").arg(mount.point()).seconds(LIMIT).ok();
        mount.must_go();
    }
}

#[test]
fn a_line_of_fstab_mounts_once() {
    if !root_or_skip("a_line_of_fstab_mounts_once") {
        return;
    }
    let case = Case::unpack("qmpbackup-partial");
    let helpers = Helpers::install("fstab");
    let mount = Mount::prepare(User::Own);
    let folder = scratch();
    let table = folder.path().join("fstab");
    let [_, kind] = helpers.types();
    let (source, point) = (case.backups(), mount.point().to_path_buf());
    let (source, shown) = (source.display(), point.display());
    let mut line = format!("{source} {shown} {kind} ");
    writeln!(line, "defaults,nofail,allow_other,x-systemd.requires-mounts-for={source} 0 0")
        .expect("a line");
    std::fs::write(&table, line).expect("a table");
    Run::new("mount").arg("-T").arg(&table).arg(&point).seconds(LIMIT).ok();
    mount.must_be_up();
    assert!(listed(&point).contains("allow_other"));
    Run::new("mount").arg("-T").arg(&table).arg("-a").seconds(LIMIT).ok();
    assert_eq!(mounted_times(&point), 1, "`mount -a` mounted it again");
    mount.unmount();
}

#[test]
fn fuse3_finds_the_program_by_its_name() {
    if !root_or_skip("fuse3_finds_the_program_by_its_name") {
        return;
    }
    let case = Case::unpack("qmpbackup-partial");
    let mount = Mount::prepare(User::Own);
    let folder = Path::new(env!("CARGO_BIN_EXE_qcowfs")).parent().expect("its folder");
    let path = format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", folder.display());
    let run = Run::new("env").arg(path).arg("mount.fuse3").arg(case.backups()).arg(mount.point());
    run.args(["-t", "fuse.qcowfs", "-o", "rw,noexec"]).seconds(LIMIT).ok();
    mount.must_be_up();
    let line = listed(mount.point());
    assert!(line.contains("nodev") && line.contains("nosuid") && line.contains("noexec"), "{line}");
    mount.unmount();
}

#[test]
fn what_the_helper_cannot_do_it_says_with_the_codes_of_mount() {
    let case = Case::unpack("qmpbackup-partial");
    let folder = scratch();
    let helper = folder.path().join("mount.qcowfs");
    symlink(env!("CARGO_BIN_EXE_qcowfs"), &helper).expect("a link");
    let (source, mount) = (case.backups(), Mount::prepare(User::Own));
    let missing = folder.path().join("missing");
    let with = |source: &Path, options: &[&str]| {
        let run = Run::new(&helper).arg(source).arg(mount.point()).args(options);
        let outcome = run.seconds(LIMIT).outcome();
        (outcome.code, outcome.stderr)
    };
    for (code, source, options, said) in [
        (1, &source, &["-o", "rw,sparkling"][..], "`sparkling`"),
        (1, &source, &["-o", "threads=0"], "from 1 to 64"),
        (1, &source, &["-o", "remount,ro"], "unmount it"),
        (1, &source, &["--frobnicate"], "--frobnicate"),
        (32, &missing, &["-o", "rw"], "does not exist"),
        (0, &source, &["-f", "-o", "rw"], ""),
    ] {
        let (got, told) = with(source, options);
        assert_eq!(got, Some(code), "{options:?}: {told}");
        assert!(told.contains(said), "{options:?}: {told}");
        assert!(!is_mounted(mount.point()), "{options:?}");
    }
}

/// Mounts with `auto_unmount`, as the helper does it.
fn with_watcher(source: &Path, user: User) -> Mount {
    let mount = Mount::with(source, user, &["-o", "auto_unmount"]);
    assert_eq!(watchers(mount.point()).len(), 1, "no watcher");
    mount
}

fn without_watchers(point: &Path) -> bool {
    holds_within(LIMIT, || watchers(point).is_empty())
}

/// Whether a process has handlers for SIGTERM, SIGINT and SIGHUP.
fn catches_signals(process: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero()));
    let status = status.expect("a process that lives");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask");
    let caught = u64::from_str_radix(caught.trim(), 16).expect("hexadecimal digits");
    let wanted = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
    wanted.iter().all(|signal| caught >> (signal - 1) & 1 == 1)
}

#[test]
fn with_auto_unmount_the_view_goes_when_its_process_is_killed() {
    let case = Case::unpack("qmpbackup-partial");
    for user in [User::Own, User::Ordinary] {
        let mount = with_watcher(&case.backups(), user);
        let watcher = watchers(mount.point())[0];
        // It has just been started: before it catches them it would be ended by them.
        assert!(holds_within(LIMIT, || catches_signals(watcher)), "{user:?}: they would end it");
        // Who ends all of a service ends the daemon alone by this: somebody must be left.
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            kill_process(watcher, signal).expect("a signal to the watcher");
        }
        assert!(lives(watcher));
        kill_process(mount.daemon(), Signal::KILL).expect("a signal to the daemon");
        mount.must_go();
        assert!(without_watchers(mount.point()), "{user:?}: the watcher stays");
    }
}

#[test]
fn a_watcher_ends_with_its_view_and_leaves_the_next_one_alone() {
    let case = Case::unpack("qmpbackup-partial");
    let mount = with_watcher(&case.backups(), User::Own);
    mount.take_down();
    // It may have the same number of a device as the first one.
    mount.command(&case.backups(), &[]).ok();
    assert!(without_watchers(mount.point()), "the watcher stays");
    mount.must_be_up();
    assert!(!View::walk(mount.point()).checkpoints.is_empty());
    mount.unmount();
}

/// A service manager's socket.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = scratch();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Self { socket, path, _folder: folder }
    }

    /// What it is told within some time.
    fn told_within(&self, limit: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(limit)).expect("a time limit");
        let mut bytes = [0; 4096];
        let len = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..len]).into_owned())
    }

    fn told(&self) -> String {
        self.told_within(Duration::from_secs(LIMIT)).expect("nothing is told")
    }

    /// `env`, with its socket.
    fn env(&self) -> Run {
        Run::new("env").arg(format!("NOTIFY_SOCKET={}", self.path.display()))
    }
}

#[test]
fn a_service_manager_is_told_when_the_view_answers_and_when_it_ends() {
    let case = Case::unpack("qmpbackup-partial");
    let (mount, manager) = (Mount::prepare(User::Own), Manager::new());
    let run = manager.env().arg(env!("CARGO_BIN_EXE_qcowfs")).args(["mount", "-f"]);
    let mut child = run.arg(case.backups()).arg(mount.point()).start();
    let told = manager.told();
    assert!(told.starts_with("READY=1\nSTATUS="), "{told}");
    assert!(told.contains("disks: 1, restore points: 3"), "{told}");
    mount.must_be_up();
    // Not the end of a terminal: what a service is asked by this, it must survive.
    kill_process(mount.daemon(), Signal::HUP).expect("a signal to the daemon");
    assert_eq!(manager.told_within(Duration::from_secs(1)), None, "SIGHUP ended it");
    assert!(!View::walk(mount.point()).checkpoints.is_empty());
    kill_process(mount.daemon(), Signal::TERM).expect("a signal to the daemon");
    let told = manager.told();
    assert!(told.starts_with("STOPPING=1\nSTATUS="), "{told}");
    assert!(within(LIMIT, "its end", move || child.wait()).expect("its end").success());
}

/// Nothing in it may be asked for by the process that answers.
#[test]
fn a_log_beneath_the_mount_point_hangs_nobody_and_one_elsewhere_may_be_rotated() {
    let case = Case::unpack("qmpbackup-partial");
    let mount = Mount::prepare(User::Own);
    let hidden = mount.point().join("log");
    let run = mount.command(&case.backups(), &["-vvv", "--log-file", hidden.to_str().unwrap()]);
    run.seconds(LIMIT).ok();
    assert!(!listed(mount.point()).is_empty());
    mount.unmount();

    let folder = scratch();
    let (log, moved) = (folder.path().join("log"), folder.path().join("log.1"));
    let mount = Mount::prepare(User::Own);
    mount
        .command(&case.backups(), &["-v", "--log-file", log.to_str().unwrap()])
        .seconds(LIMIT)
        .ok();
    std::fs::rename(&log, &moved).unwrap();
    mount.unmount();
    let said = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    assert!(holds_within(LIMIT, || said(&log).contains("the view is gone")), "{}", said(&moved));
}

#[test]
fn in_the_background_nobody_but_the_user_is_told() {
    let case = Case::unpack("qmpbackup-partial");
    let (mount, manager) = (Mount::prepare(User::Own), Manager::new());
    let run = manager.env().arg(env!("CARGO_BIN_EXE_qcowfs")).arg("mount");
    run.arg(case.backups()).arg(mount.point()).seconds(LIMIT).ok();
    mount.take_down();
    assert_eq!(manager.told_within(Duration::from_millis(1)), None);
}

#[test]
fn the_journal_gets_how_important_each_line_is_and_no_time() {
    let case = Case::unpack("qmpbackup-partial");
    let folder = scratch();
    let (log, mount) = (folder.path().join("log"), Mount::prepare(User::Own));
    let script = "exec 2>\"$1\"; JOURNAL_STREAM=$(stat -L -c %d:%i \"$1\") exec \"${@:2}\"";
    let in_journal = |words: &[&str]| {
        let run = Run::new("bash").args(["-c", script, "bash"]).arg(&log);
        run.arg(env!("CARGO_BIN_EXE_qcowfs")).args(words).seconds(LIMIT)
    };
    in_journal(&["mount", "/no/such/source", "/mnt"]).outcome();
    let said = std::fs::read_to_string(&log).expect("the log");
    assert!(said.starts_with("<3>qcowfs: /no/such/source"), "{said}");

    let (source, point) = (case.backups(), mount.point().to_path_buf());
    let words =
        ["-v", "mount", "-f", source.to_str().expect("plain"), point.to_str().expect("plain")];
    let mut child = in_journal(&words).start();
    assert!(holds_within(LIMIT, || is_mounted(&point)), "nothing is mounted");
    mount.take_down();
    within(LIMIT, "its end", move || child.wait()).expect("its end");
    let said = std::fs::read_to_string(&log).expect("the log");
    assert!(said.lines().any(|line| line.starts_with("<6>")), "{said}");
    for line in said.lines() {
        assert!(["<3>", "<4>", "<6>"].iter().any(|mark| line.starts_with(mark)), "{said}");
        assert!(!line.contains("T0") && !line.contains("Z INFO"), "a time: {line}");
    }
    // Elsewhere nothing is marked.
    let plain = Run::qcowfs().args(["ls", "/no/such/source"]).outcome().stderr;
    assert!(plain.starts_with("qcowfs: "), "{plain}");
}
