//! The same for an ordinary user, through fusermount3: `nobody` when the tests run as root.

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

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use rustix::process::{Signal, kill_process};

use common::mount::{give, is_mounted};
use common::report::{root_or_skip, skipped};
use common::source_state::SourceState;
use common::{Case, Mount, Run, User, View};

/// Whether an ordinary user can mount at all; says that `test` is skipped where none can.
fn can_mount_or_skip(test: &str) -> bool {
    let device = std::fs::metadata("/dev/fuse").expect("/dev/fuse");
    let open = device.permissions().mode() & 0o006 == 0o006;
    if !open {
        skipped("/dev/fuse is closed to ordinary users, and chmod 666 would open it", test);
    }
    open
}

/// A case whose files the ordinary user owns, its view mounted by that user.
struct Theirs {
    case: Case,
    mount: Mount,
}

impl Theirs {
    fn mount(name: &str, options: &[&str]) -> Self {
        let case = Case::unpack(name);
        give(&case.folder(), User::Ordinary);
        let mount = Mount::with(&case.backups(), User::Ordinary, options);
        Self { case, mount }
    }

    /// disk.img of a file, as `ls` names it: only the user who mounted can look into the mount.
    fn image(&self, file: &str) -> PathBuf {
        let listed = View::listed(&self.case.backups());
        self.mount.path(listed.of_file(file).image())
    }
}

#[test]
fn an_ordinary_user_reads_every_checkpoint() {
    if !can_mount_or_skip("an_ordinary_user_reads_every_checkpoint") {
        return;
    }
    let case = Case::unpack("qmpbackup-new");
    give(&case.folder(), User::Ordinary);
    let before = SourceState::of(&case.backups());
    let theirs = Theirs { mount: Mount::with(&case.backups(), User::Ordinary, &[]), case };
    for wanted in theirs.case.truth().checkpoints() {
        let image = theirs.image(wanted.file.to_str().expect("a plain name"));
        let said = theirs.mount.run("sha256sum").arg(&image).ok().text();
        assert_eq!(said.split(' ').next(), Some(wanted.sha256.as_str()), "{image:?}");
    }
    theirs.mount.unmount();
    before.must_still_hold(&theirs.case.backups());
}

#[test]
fn an_entry_that_cannot_be_looked_at_is_named_and_hides_nothing_else() {
    let case = Case::unpack("qmpbackup-partial");
    let shut = case.backups().join("shut");
    std::fs::create_dir(&shut).expect("a folder");
    std::fs::write(shut.join("disk.qcow2"), "").expect("a file");
    // To be listed, but not to be entered: `stat` fails for what is in it.
    std::fs::set_permissions(&shut, Permissions::from_mode(0o444)).expect("mode 444");
    give(&case.folder(), User::Ordinary);
    let listing = Mount::prepare(User::Ordinary).qcowfs().arg("ls").arg(case.backups()).ok();
    let said = listing.text();
    std::fs::set_permissions(&shut, Permissions::from_mode(0o755)).expect("mode 755");
    assert!(said.contains("not shown: \"shut/disk.qcow2\": it cannot be looked at"), "{said}");
    assert!(said.contains("vm-root.qcow2"), "the rest is not shown: {said}");
}

#[test]
fn an_ordinary_user_reads_files_with_debugfs() {
    if !can_mount_or_skip("an_ordinary_user_reads_files_with_debugfs") {
        return;
    }
    let theirs = Theirs::mount("qmpbackup-new", &[]);
    let mut sizes = Vec::new();
    for backup in ["FULL-1795161271", "INC-1795161280"] {
        let image = theirs.image(&format!("vm-root.qcow2/{backup}-vm-root.qcow2"));
        let mut target = image.into_os_string();
        target.push("?offset=1048576");
        let cat = theirs.mount.run("debugfs").args(["-R", "cat /system.log"]).arg(target).ok();
        sizes.push(cat.stdout.len());
    }
    assert_eq!(sizes, [64_910, 259_248], "the file before and after");
    theirs.mount.unmount();
}

#[test]
fn an_ordinary_user_cannot_write() {
    if !can_mount_or_skip("an_ordinary_user_cannot_write") {
        return;
    }
    let theirs = Theirs::mount("qmpbackup-partial", &[]);
    let image = theirs.image("vm-root.qcow2/FULL-1795161317-vm-root.qcow2");
    for (program, args) in [("touch", &[][..]), ("truncate", &["-s", "0"]), ("rm", &["-f"])] {
        let outcome = theirs.mount.run(program).args(args).arg(&image).outcome();
        assert_ne!(outcome.code, Some(0), "{program}");
        assert!(outcome.stderr.contains("Read-only file system"), "{program}: {}", outcome.stderr);
    }
    theirs.mount.unmount();
}

#[test]
fn sigterm_ends_an_ordinary_users_mount() {
    if !can_mount_or_skip("sigterm_ends_an_ordinary_users_mount") {
        return;
    }
    let theirs = Theirs::mount("qmpbackup-partial", &[]);
    kill_process(theirs.mount.daemon(), Signal::TERM).expect("a signal to the daemon");
    theirs.mount.must_go();
}

#[test]
fn an_ordinary_user_is_told_what_cannot_be_mounted() {
    if !can_mount_or_skip("an_ordinary_user_is_told_what_cannot_be_mounted") {
        return;
    }
    let case = Case::unpack("qmpbackup-partial");
    give(&case.folder(), User::Ordinary);
    let mount = Mount::prepare(User::Ordinary);
    let mut refused = vec![vec!["-o", "sparkling"], vec!["-o", "rw"]];
    let conf = std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if !conf.lines().any(|l| l.trim() == "user_allow_other") {
        refused.push(vec!["-o", "allow_other"]);
    }
    for options in refused {
        let outcome = mount.command(&case.backups(), &options).outcome();
        assert!(outcome.code.is_some_and(|c| c != 0), "{options:?}: {:?}", outcome.code);
        assert!(!outcome.stderr.trim().is_empty(), "{options:?}: no reason");
        assert!(!is_mounted(mount.point()), "{options:?}");
    }
}

#[test]
fn a_backup_that_may_not_be_read_is_said_to_be_so() {
    if !can_mount_or_skip("a_backup_that_may_not_be_read_is_said_to_be_so") {
        return;
    }
    if !root_or_skip("a_backup_that_may_not_be_read_is_said_to_be_so") {
        return;
    }
    let case = Case::unpack("qmpbackup-partial");
    give(&case.folder(), User::Ordinary);
    // Root's own, and closed to everybody else.
    let full = case.backups().join("vm-root.qcow2/FULL-1795161317-vm-root.qcow2");
    std::os::unix::fs::chown(&full, Some(0), Some(0)).expect("chown");
    std::fs::set_permissions(&full, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let mount = Mount::with(&case.backups(), User::Ordinary, &[]);
    let found = mount.run("find").arg(mount.point()).args(["-name", "disk.img"]).ok().text();
    assert_eq!(found, "", "disks that stand on a file which cannot be read");
    let said = mount.run("grep").args(["-rl", "ermission", "--include=error.txt"]);
    assert!(!said.arg(mount.point()).outcome().stdout.is_empty(), "no error.txt says why");
    mount.unmount();
}

/// A user that every system has and that runs nothing: the limit counts all processes of a user.
const IDLE_USER: &str = "games";

#[test]
fn where_few_threads_can_be_had_the_view_is_served_by_fewer() {
    let test = "where_few_threads_can_be_had_the_view_is_served_by_fewer";
    // Root has as many processes as there are, and is the one who can become somebody else.
    if !root_or_skip(test) || !can_mount_or_skip(test) {
        return;
    }
    let case = Case::unpack("qmpbackup-partial");
    give(&case.folder(), User::Ordinary);
    let mount = Mount::prepare(User::Ordinary);
    Run::new("chown").arg(IDLE_USER).arg(mount.point()).ok();
    let as_user = |script: &str| {
        let user = ["--reuid", IDLE_USER, "--regid", "nogroup", "--clear-groups", "bash", "-c"];
        let run = Run::new("setpriv").args(user).arg(script);
        let run = run.arg(mount.program()).arg(case.backups());
        run.arg(mount.point()).seconds(30)
    };
    let options = "-o refresh=off --log-file /dev/null";
    let wished = format!("ulimit -u 10; exec \"$0\" mount --threads 8 {options} \"$1\" \"$2\"");
    let refused = as_user(&wished).outcome();
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("say --threads with a smaller number"), "{}", refused.stderr);
    as_user(&format!("ulimit -u 10; exec \"$0\" mount {options} \"$1\" \"$2\"")).ok();
    mount.must_be_up();
    let status = as_user("exec \"$0\" status --json \"$2\"").ok().text();
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let threads = status["threads"].as_u64().expect("a number");
    assert!((1..=2).contains(&threads), "{threads} threads");
    // Whatever wants a thread, and when: with so many processes there is none for somebody.
    for (limit, words) in (1..14).flat_map(|limit| {
        ["check \"$1\"", "status \"$2\"", "mount \"$1\" \"$2\""].map(|words| (limit, words))
    }) {
        let tried = as_user(&format!("ulimit -u {limit}; exec \"$0\" {words}")).outcome();
        let told = format!("{words} with {limit} processes: {:?} {}", tried.code, tried.stderr);
        assert!(
            tried.code.is_some_and(|code| code <= 1) && !tried.stderr.contains("panic"),
            "{told}"
        );
    }
    kill_process(mount.daemon(), Signal::TERM).expect("a signal");
    mount.must_go();
}
