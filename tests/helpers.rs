//! The helpers of the other tests: what they would not notice, nobody would.

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
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rustix::process::{Signal, kill_process};

use common::content::{data_ranges, holes_must_be_zero, must_equal, sha256, sha256_of};
use common::prng::Prng;
use common::qcow2_writer::{CLUSTER, LARGEST, Overlay};
use common::run::scratch;
use common::source_state::SourceState;
use common::watch::{holds_within, within};
use common::{Case, Mount, Run, User};

fn panics(work: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(work)).is_err()
}

#[test]
fn a_program_that_does_not_end_is_killed_with_its_children() {
    let marker = "86399.125";
    let hang = format!("sleep {marker} & sleep {marker}");
    assert!(panics(|| drop(Run::new("sh").args(["-c", &hang]).seconds(1).outcome())));
    let alive = || Run::new("pgrep").args(["-f", &format!("^sleep {marker}")]).outcome().code;
    assert!(holds_within(10, || alive() == Some(1)), "a child was left");
}

#[test]
fn a_program_that_leaves_a_daemon_behind_does_not_keep_us_waiting() {
    // The one left behind holds the output open for longer than the limit.
    let outcome = Run::new("sh").args(["-c", "sleep 20 & echo said"]).seconds(10).ok();
    assert_eq!(outcome.text(), "said\n");
}

#[test]
fn what_takes_too_long_panics_and_what_panics_is_passed_on() {
    assert_eq!(within(10, "a sum", || 1 + 1), 2);
    let endless = || loop {
        std::thread::park();
    };
    assert!(panics(|| within(1, "nothing", endless)));
    assert!(panics(|| within(10, "a panic", || panic!("expected"))));
    assert!(panics(|| drop(Run::new("false").ok())));
}

#[test]
fn hashes_are_those_of_sha256sum() {
    let folder = scratch();
    let path = folder.path().join("x");
    let content = Prng::new(1).bytes(3_000_001);
    std::fs::write(&path, &content).expect("a file");
    let said = Run::new("sha256sum").arg(&path).ok().text();
    assert_eq!(said.split(' ').next(), Some(sha256(&path).as_str()));
    assert_eq!(sha256(&path), sha256_of(&content));
}

#[test]
fn data_ranges_are_those_that_were_written() {
    let folder = scratch();
    let path = folder.path().join("sparse");
    let file = File::create(&path).expect("a file");
    file.set_len(10 << 20).expect("its size");
    file.write_all_at(&vec![1; 65536], 1 << 20).expect("data");
    file.write_all_at(&vec![2; 65536], (10 << 20) - 65536).expect("data");
    let data = data_ranges(&path);
    let (first, last) = (1 << 20, (10 << 20) - 65536);
    assert_eq!(data, [first..first + 65536, last..last + 65536]);
    let content = std::fs::read(&path).expect("the file");
    holes_must_be_zero("as written", &content, &data);
    assert!(panics(|| holes_must_be_zero("the first range left out", &content, &data[1..])));
    assert!(panics(|| holes_must_be_zero("the last range left out", &content, &data[..1])));
}

#[test]
fn contents_that_differ_are_noticed() {
    must_equal("same", b"abc", b"abc");
    assert!(panics(|| must_equal("shorter", b"ab", b"abc")));
    assert!(panics(|| must_equal("different", b"abd", b"abc")));
}

#[test]
fn a_change_of_the_source_is_noticed() {
    let change = |change: &dyn Fn(&Path)| {
        let folder = scratch();
        std::fs::write(folder.path().join("a"), "1").expect("a file");
        let state = SourceState::of(folder.path());
        change(folder.path());
        panics(|| state.must_still_hold(folder.path()))
    };
    assert!(!change(&|_| {}));
    assert!(!change(&|f| drop(std::fs::read(f.join("a")))));
    assert!(change(&|f| std::fs::write(f.join("a"), "2").expect("a write")));
    assert!(change(&|f| std::fs::write(f.join("b"), "").expect("a new file")));
    assert!(change(&|f| std::fs::remove_file(f.join("a")).expect("a removal")));
    let touch = |f: &Path| drop(Run::new("touch").args(["-d", "@0"]).arg(f.join("a")).ok());
    assert!(change(&touch));
}

#[test]
fn a_mount_guard_unmounts_and_finds_nothing_where_nothing_is() {
    let mount = Mount::prepare(User::Own);
    assert!(common::mount::daemons(mount.point()).is_empty());
    assert!(!common::mount::is_mounted(mount.point()));
    assert!(common::mount::is_mounted(Path::new("/proc")));
    if !common::report::root_or_skip("a_mount_guard_unmounts_and_finds_nothing_where_nothing_is") {
        return;
    }
    let point = mount.point().to_path_buf();
    Run::new("mount").args(["-t", "tmpfs", "none"]).arg(&point).ok();
    assert!(common::mount::is_mounted(&point));
    drop(mount);
    assert!(!common::mount::is_mounted(&point));
}

#[test]
fn the_overlays_that_we_write_are_what_qemu_reads() {
    let folder = scratch();
    let base = folder.path().join("base.raw");
    let mut wanted = Prng::new(3).bytes(usize::try_from(LARGEST).expect("a size"));
    std::fs::write(&base, &wanted).expect("the base");
    let mut below = (String::from("base.raw"), "raw");
    for (number, cluster) in [(0, 0), (1, 64), (2, 4095), (3, 64)] {
        let byte = u8::try_from(200 + number).expect("a byte");
        let name = format!("layer{number}.qcow2");
        let path = folder.path().join(&name);
        let data = Some((cluster, [byte; CLUSTER]));
        Overlay { virtual_size: LARGEST, backing: Some((&below.0, below.1)), data }.write(&path);
        Run::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&path).ok();
        let at = usize::try_from(cluster).expect("an index") * CLUSTER;
        wanted[at..at + CLUSTER].fill(byte);
        below = (name, "qcow2");
    }
    // One that holds nothing at all.
    let top = folder.path().join("top.qcow2");
    let backing = Some((below.0.as_str(), "qcow2"));
    Overlay { virtual_size: LARGEST, backing, data: None }.write(&top);
    Run::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&top).ok();
    let raw = folder.path().join("raw");
    Run::new("qemu-img").args(["convert", "-O", "raw"]).arg(&top).arg(&raw).ok();
    must_equal("the chain", &std::fs::read(&raw).expect("raw"), &wanted);
}

#[test]
fn every_case_unpacks() {
    let mut names = Vec::new();
    for entry in common::corpus::data().read_dir().expect("tests/data") {
        let name = entry.expect("an entry").file_name().into_string().expect("a plain name");
        names.extend(name.strip_suffix(".tar.zst").map(str::to_owned));
    }
    assert_eq!(names.len(), 15, "{names:?}");
    for name in names {
        let case = Case::unpack(&name);
        for file in case.truth().checkpoints().map(|c| &c.file) {
            let path = case.backups().join(file);
            assert!(path.is_file(), "{name}: {file:?}");
        }
    }
}

#[test]
fn a_mount_that_hangs_neither_hangs_a_test_nor_stays() {
    let case = Case::unpack("qmpbackup-partial");
    let mount = Mount::of(&case.backups());
    let image = mount.path("vm-root.qcow2/latest/disk.img");
    // A stopped daemon answers nothing.
    kill_process(mount.daemon(), Signal::STOP).expect("SIGSTOP");
    let read = image.clone();
    assert!(panics(|| within(1, "a read", move || drop(std::fs::read(read)))));
    assert!(panics(|| drop(Run::new("cat").arg(&image).seconds(1).outcome())));
    let point = mount.point().to_path_buf();
    drop(mount);
    assert!(!common::mount::is_mounted(&point), "still mounted");
    assert!(holds_within(10, || common::mount::daemons(&point).is_empty()), "the daemon stays");
}
