//! `qcowfs status` and `.qcowfs/status.json`.

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

use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use common::content::sha256;
use common::mount::{LIMIT, lives};
use common::report::root_or_skip;
use common::run::scratch;
use common::watch::holds_within;
use common::{Case, Mount, Run, User, View};

const FULL: &str = "vm-root.qcow2/FULL-1795161271-vm-root.qcow2";

fn status(mount: &Mount) -> Value {
    let told = mount.qcowfs().args(["status", "--json"]).arg(mount.point()).ok();
    serde_json::from_slice(&told.stdout).expect("JSON")
}

fn number(status: &Value, pointer: &str) -> u64 {
    status.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer}: {status}"))
}

#[test]
fn it_says_what_is_mounted_and_how_many_restore_points_there_are() {
    let case = Case::unpack("qmpbackup-partial");
    let mount = Mount::with(&case.backups(), User::Own, &["-o", "noexec,missing=hide,threads=3"]);
    let status = status(&mount);
    let listed = View::listed(&case.backups()).checkpoints;
    let whole = listed.iter().filter(|checkpoint| checkpoint.whole).count();
    assert!(whole > 0 && whole < listed.len(), "the sample shows nothing");
    assert_eq!(number(&status, "/checkpoints"), listed.len() as u64);
    assert_eq!(number(&status, "/whole"), whole as u64);
    let unfinished = listed.iter().filter(|checkpoint| checkpoint.kind() == "partial").count();
    assert_eq!(number(&status, "/unfinished"), unfinished as u64);
    assert_eq!(number(&status, "/broken"), (listed.len() - whole - unfinished) as u64);
    assert_eq!(number(&status, "/threads"), 3);
    let pid = mount.daemon().as_raw_nonzero().get();
    assert_eq!(number(&status, "/pid"), u64::try_from(pid).expect("a process"));
    assert_eq!(status["source"].as_str(), case.backups().canonicalize().unwrap().to_str());
    assert_eq!(status["mount_point"].as_str(), mount.point().to_str());
    let options = status["options"].as_array().expect("options");
    assert!(options.contains(&"noexec".into()) && options.contains(&"missing=hide".into()));
    let told = mount.qcowfs().arg("status").arg(mount.point()).ok().text();
    assert!(told.contains(&format!("{} restore points", listed.len())), "{told}");
    assert!(told.contains(&format!(", {unfinished} of them unfinished")), "{told}");
    assert!(!told.contains('\x1b'), "colours, and no terminal: {told}");
    mount.unmount();
}

#[test]
fn it_counts_reads_and_bytes_and_what_is_open() {
    let case = Case::unpack("qmpbackup-new");
    let mount = Mount::of(&case.backups());
    let before = status(&mount);
    assert_eq!((number(&before, "/reads/requests"), number(&before, "/reads/bytes")), (0, 0));
    let image = mount.path(View::walk(mount.point()).of_file(FULL).image());
    sha256(&image);
    let size = image.metadata().expect("its size").len();
    let after = status(&mount);
    // Each page once: the kernel keeps them, but for a few where others need the memory.
    let read = number(&after, "/reads/bytes");
    assert!((size..size + size / 4).contains(&read), "{read} bytes were read of {size}");
    assert!(number(&after, "/reads/requests") > 0 && number(&after, "/reads/failed") == 0);
    for cache in ["maps", "data"] {
        let of = |what: &str| number(&after, &format!("/caches/{cache}/{what}"));
        assert!(of("hits") > 0 && of("misses") > 0, "{cache}: {after}");
        assert!(of("bytes") > 0 && of("bytes") <= of("capacity"), "{cache}: {after}");
    }
    let open = || number(&status(&mount), "/open/files");
    // The kernel releases files a moment after they were closed.
    assert!(holds_within(LIMIT, || open() == 0), "files stay open");
    let held = [&image, &image].map(|path| File::open(path).expect("disk.img"));
    assert_eq!(open(), 2);
    drop(held);
    assert!(holds_within(LIMIT, || open() == 0), "files stay open");
    mount.unmount();
}

#[test]
fn it_tells_errors_by_file() {
    let case = Case::unpack("qmpbackup-new");
    let mount = Mount::of(&case.backups());
    let image = mount.path(View::walk(mount.point()).of_file(FULL).image());
    let file = File::options().append(true).open(case.backups().join(FULL)).expect("the backup");
    file.set_len(4096).expect("a backup that is cut");
    assert!(std::fs::read(&image).is_err(), "a backup that is cut reads");
    let status = status(&mount);
    let errors = status["errors"].as_array().expect("errors");
    assert_eq!(errors.len(), 1, "{status}");
    assert_eq!(errors[0]["file"].as_str(), Some(FULL));
    assert!(errors[0]["last"].as_str().is_some_and(|last| last.contains(FULL)), "{status}");
    assert_eq!(number(&status, "/reads/failed"), number(&status, "/errors/0/count"));
    let told = mount.qcowfs().arg("status").arg(mount.point()).ok().text();
    assert!(told.contains(&format!("in {FULL}")), "{told}");
    mount.unmount();
}

#[test]
fn the_folder_is_there_for_who_knows_it_and_nobody_meets_it() {
    let case = Case::unpack("qmpbackup-partial");
    let mount = Mount::of(&case.backups());
    let names = || std::fs::read_dir(mount.point()).expect("the root").flatten();
    assert!(names().all(|entry| entry.file_name() != ".qcowfs"), "it is listed");
    let folder = mount.path(".qcowfs");
    let entries = std::fs::read_dir(&folder).expect("the folder").flatten();
    let entries: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    assert_eq!(entries, ["status.json"]);
    let file = folder.join("status.json");
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o500);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o400);
    assert_ne!(file.metadata().unwrap().ino(), folder.metadata().unwrap().ino());
    assert!(mount.path(".qcowfs/other").metadata().is_err());
    assert!(mount.path("vm-root.qcow2/.qcowfs").metadata().is_err(), "not in the root alone");
    mount.unmount();
}

#[test]
fn others_who_may_look_in_may_not_ask() {
    if !root_or_skip("others_who_may_look_in_may_not_ask") {
        return;
    }
    let case = Case::unpack("qmpbackup-partial");
    let mount = Mount::with(&case.backups(), User::Own, &["-o", "allow_other"]);
    let as_other = |program: &str| Run::new(program).user(User::Ordinary).seconds(LIMIT);
    as_other("ls").arg(mount.point()).ok();
    let said = as_other("cat").arg(mount.path(".qcowfs/status.json")).outcome();
    assert!(said.stderr.contains("Permission denied"), "{}", said.stderr);
    let folder = scratch();
    let program = common::run::copy_of_qcowfs(folder.path());
    let said = as_other(program.to_str().expect("plain")).arg("status").arg(mount.point());
    let said = said.outcome();
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("only the user who mounted this view"), "{}", said.stderr);
    mount.unmount();
}

#[test]
fn what_is_no_living_view_is_told_apart() {
    let status_of = |path: &Path| {
        let outcome = Run::qcowfs().arg("status").arg(path).seconds(LIMIT).outcome();
        assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
        outcome.stderr
    };
    let folder = scratch();
    assert!(status_of(folder.path()).contains("nothing is mounted there"));
    assert!(status_of(Path::new("/proc")).contains("not a qcowfs mount"));
    let case = Case::unpack("qmpbackup-partial");
    let mount = Mount::of(&case.backups());
    let daemon = mount.daemon();
    kill_process(daemon, Signal::KILL).expect("a signal to the daemon");
    assert!(holds_within(LIMIT, || !lives(daemon)));
    let said = status_of(mount.point());
    assert!(said.contains("is gone") && said.contains("qcowfs umount"), "{said}");
}

#[test]
fn a_folder_of_that_name_in_the_source_comes_first() {
    let case = Case::unpack("qmpbackup-partial");
    let source = case.backups();
    std::fs::rename(source.join("vm-root.qcow2"), source.join(".qcowfs")).expect("a name");
    let mount = Mount::of(&source);
    assert!(!View::walk(mount.point()).checkpoints.is_empty());
    let outcome = mount.qcowfs().arg("status").arg(mount.point()).outcome();
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("a folder .qcowfs of its own"), "{}", outcome.stderr);
    mount.unmount();
}
