//! Real backups: every checkpoint of every case is what truth.json says, and nothing else is shown.

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

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use common::content::sha256;
use common::report::{say, skipped};
use common::run::scratch;
use common::source_state::SourceState;
use common::truth::{Truth, TruthCheckpoint};
use common::view::Checkpoint;
use common::{Case, Mount, Run, View};

/// What the tests of one case expect beyond truth.json.
struct Expected {
    /// Images that truth.json does not list: bases, and external data files. They may be shown,
    /// with the content that qemu-img gives them.
    unlisted: &'static [&'static str],
    /// Whether zeros that became zero can be told from what did not change (unwritten extents).
    knows_unwritten: bool,
}

const PLAIN: Expected = Expected { unlisted: &[], knows_unwritten: false };

fn check(name: &str, expected: &Expected) {
    check_case(&Case::unpack(name), expected);
}

/// Mounts a case and compares it, in every respect, with its truth.
fn check_case(case: &Case, expected: &Expected) {
    let source = case.backups();
    let before = SourceState::of(&source);
    let listed = View::listed(&source);
    let mount = Mount::of(&source);
    let view = View::walk(mount.point());

    let right = check_contents(case, &mount, &view, expected);
    check_order(case.truth(), &listed);
    check_agreement(&listed, &view);
    check_links(&view);
    check_times(case, &view);

    mount.unmount();
    before.must_still_hold(&source);
    say(&format!("{}: {right} checkpoints right", case.name()));
}

/// Compares every disk.img with the truth; returns how many checkpoints of truth.json are right.
fn check_contents(case: &Case, mount: &Mount, view: &View, expected: &Expected) -> usize {
    let truth = case.truth();
    let mut right = 0;
    for checkpoint in &view.checkpoints {
        let file = checkpoint.file();
        if truth.is_incomplete(file) {
            assert!(!checkpoint.whole, "{file:?} has a disk.img, but its chain is not whole");
        } else if let Some(wanted) = find(truth, checkpoint) {
            right += usize::from(check_one(mount, checkpoint, wanted, expected));
        } else {
            assert!(truth.of_file(file).next().is_none(), "{file:?} is more than truth.json knows");
            check_unlisted(case, mount, checkpoint, expected);
        }
    }
    let possible = truth.checkpoints().filter(|c| !truth.is_incomplete(&c.file) && !c.encrypted);
    let missing: Vec<_> = possible
        .filter(|c| !view.checkpoints.iter().any(|v| find(truth, v).is_some_and(|t| same(t, c))))
        .map(|c| (&c.file, &c.label))
        .collect();
    assert!(missing.is_empty(), "not in the view: {missing:?}");
    right
}

/// The checkpoint of truth.json that a checkpoint of the view must be.
fn find<'a>(truth: &'a Truth, seen: &'a Checkpoint) -> Option<&'a TruthCheckpoint> {
    truth.of_file(seen.file()).find(|c| match &c.snapshot {
        Some(name) => seen.kind() == "snapshot" && seen.label() == name,
        None => seen.kind() != "snapshot",
    })
}

fn same(a: &TruthCheckpoint, b: &TruthCheckpoint) -> bool {
    a.file == b.file && a.snapshot == b.snapshot
}

/// Checks one checkpoint that truth.json knows; true when its content was compared.
fn check_one(
    mount: &Mount,
    seen: &Checkpoint,
    wanted: &TruthCheckpoint,
    expected: &Expected,
) -> bool {
    let what = format!("{:?} ({:?}, {:?})", seen.folder, wanted.file, wanted.label);
    if wanted.encrypted {
        assert!(!seen.whole, "{what}: a disk.img of an encrypted image");
        let said = seen.error.as_deref().unwrap_or_default().to_lowercase();
        assert!(said.contains("encrypted"), "{what}: {said}");
        return false;
    }
    assert!(seen.whole, "{what}: {:?}", seen.error);
    assert_eq!(seen.info["virtual_size"].as_u64(), Some(wanted.virtual_size), "{what}: info.json");
    let image = mount.path(seen.image());
    assert_eq!(image.metadata().expect(&what).len(), wanted.virtual_size, "{what}: size");
    let hash = sha256(&image);
    assert!(!wanted.wrong.contains(&hash), "{what}: the header was trusted");
    let recoverable = wanted.recoverable.as_ref().filter(|_| !expected.knows_unwritten);
    assert_eq!(&hash, recoverable.unwrap_or(&wanted.sha256), "{what}: content");
    true
}

/// Checks a checkpoint that truth.json does not list.
fn check_unlisted(case: &Case, mount: &Mount, seen: &Checkpoint, expected: &Expected) {
    let file = seen.file();
    if !seen.whole {
        return;
    }
    let known = expected.unlisted.iter().any(|f| Path::new(f) == file);
    assert!(known, "{file:?} is shown as a disk, but is none that truth.json knows");
    let oracle = scratch();
    let raw = oracle.path().join("raw");
    let path = case.backups().join(file);
    let format = if file.extension().is_some_and(|e| e == "qcow2") { "qcow2" } else { "raw" };
    let convert = Run::new("qemu-img").args(["convert", "-f", format, "-O", "raw"]);
    convert.arg(path).arg(&raw).ok();
    assert_eq!(sha256(&mount.path(seen.image())), sha256(&raw), "{file:?}: content");
}

/// The checkpoints of each disk come in the order of truth.json.
fn check_order(truth: &Truth, listed: &View) {
    for disk in &truth.disks {
        let places: Vec<_> = disk
            .checkpoints
            .iter()
            .filter_map(|wanted| {
                let is = |seen| find(truth, seen).is_some_and(|found| same(found, wanted));
                Some((listed.checkpoints.iter().position(is)?, &wanted.label))
            })
            .collect();
        let known: BTreeSet<_> = disk.checkpoints.iter().map(|c| (&c.file, &c.snapshot)).collect();
        let named: BTreeSet<_> = places.iter().map(|(at, _)| at).collect();
        assert_eq!(named.len(), known.len(), "{}: ls lacks some: {places:?}", disk.name);
        assert!(places.is_sorted_by_key(|(at, _)| *at), "{}: order of ls: {places:?}", disk.name);
    }
}

/// `ls` and the mounted tree tell the same.
fn check_agreement(listed: &View, view: &View) {
    let by_folder = |v: &View| -> BTreeMap<PathBuf, String> {
        let told = |c: &Checkpoint| {
            let keys = ["label", "file", "kind", "time", "virtual_size", "parent"];
            let values = keys.map(|key| format!("{key}={}", c.info[key]));
            format!("whole={} {}", c.whole, values.join(" "))
        };
        v.checkpoints.iter().map(|c| (c.folder.clone(), told(c))).collect()
    };
    let (listed_all, mounted) = (by_folder(listed), by_folder(view));
    for (folder, told) in &listed_all {
        assert_eq!(Some(told), mounted.get(folder), "{folder:?}: ls and the mount differ");
    }
    let more: Vec<_> = mounted.keys().filter(|f| !listed_all.contains_key(*f)).collect();
    assert!(more.is_empty(), "mounted, but not in ls: {more:?}");
    for seen in &view.checkpoints {
        let state = if seen.whole { "whole" } else { "broken" };
        assert_eq!(seen.text("state"), Some(state), "{:?}: info.json", seen.folder);
        assert_eq!(seen.text("name"), Some(seen.name()), "{:?}: info.json", seen.folder);
    }
}

/// Every link leads to a checkpoint of its own disk; `latest` to a whole one that is not live.
fn check_links(view: &View) {
    let mut disks_with_latest = BTreeSet::new();
    for (link, target) in &view.links {
        let folder = link.parent().expect("a link in a folder");
        if link.iter().any(|part| part == "@times") {
            check_moment(view, link, target);
            continue;
        }
        let reached = match target.strip_prefix("..") {
            Ok(rest) => folder.parent().expect("a folder above by-time").join(rest),
            Err(_) => folder.join(target),
        };
        let found = view.checkpoints.iter().find(|c| c.folder == reached);
        let found = found.unwrap_or_else(|| panic!("{link:?} -> {target:?} leads nowhere"));
        if link.file_name().is_some_and(|n| n == "latest") {
            assert!(found.whole, "{link:?} leads to a broken checkpoint");
            assert_ne!(found.kind(), "live", "{link:?} leads to the live disk");
            disks_with_latest.insert(folder.to_path_buf());
        } else {
            assert!(folder.ends_with("by-time"), "what is {link:?}?");
        }
    }
    for seen in view.checkpoints.iter().filter(|c| c.whole && c.kind() != "live") {
        let disk = seen.disk();
        assert!(disks_with_latest.contains(disk), "{disk:?} has no latest");
    }
}

/// A link of a moment leads to the newest backup of its disk that is not later, which is whole.
fn check_moment(view: &View, link: &Path, target: &Path) {
    let moment = link.parent().expect("a moment");
    let time = moment.file_name().and_then(|name| name.to_str()).expect("a time");
    let vm = moment.parent().and_then(Path::parent).expect("the VM's folder");
    let reached = vm.join(target.strip_prefix("../..").expect("a link out of @times"));
    let folder = reached.parent().expect("a restore point");
    let may_be = |seen: &&Checkpoint| {
        seen.disk() == folder.parent().expect("a disk")
            && !["live", "partial"].contains(&seen.kind())
            && seen.text("time").is_some_and(|at| at <= time)
    };
    let newest = view.checkpoints.iter().filter(may_be).filter_map(|seen| seen.text("time")).max();
    let found = view.checkpoints.iter().find(|seen| seen.folder == folder);
    let found = found.unwrap_or_else(|| panic!("{link:?} -> {target:?} leads nowhere"));
    assert!(found.whole && may_be(&found), "{link:?} -> {target:?}: {}", found.info);
    assert_eq!(found.text("time"), newest, "{link:?} -> {target:?}");
}

/// Where names hold the time, info.json, the link in by-time and the mtime are that time.
fn check_times(case: &Case, view: &View) {
    if !case.name().starts_with("qmpbackup") && case.name() != "libvirt-push" {
        return;
    }
    for seen in view.checkpoints.iter().filter(|c| c.whole && c.kind() != "live") {
        let wanted = find(case.truth(), seen).expect("known, as was checked before");
        assert_eq!(seen.text("time"), Some(wanted.time().as_str()), "{:?}: time", seen.folder);
        let link = seen.disk().join("by-time").join(wanted.time());
        let target = view.links.get(&link).unwrap_or_else(|| panic!("no {link:?}"));
        assert_eq!(target, &Path::new("..").join(seen.name()), "{link:?}");
    }
}

/// The view of a case, for what only that case has.
fn view_of(case: &Case) -> View {
    let mount = Mount::of(&case.backups());
    let view = View::walk(mount.point());
    mount.unmount();
    view
}

/// Kinds and parents of a disk whose files are a full one and its increments.
fn must_be_full_and_increments(view: &View, files: &[&Path]) {
    let mut parent: Option<String> = None;
    for file in files {
        let seen = view.of_file(file);
        let kind = if parent.is_some() { "incremental" } else { "full" };
        assert_eq!(seen.kind(), kind, "{file:?}");
        match (&parent, seen.text("parent")) {
            (None, None) => {}
            (Some(wanted), Some(got)) if Path::new(got).ends_with(wanted) => {}
            (wanted, got) => panic!("{file:?}: the parent is {got:?}, not {wanted:?}"),
        }
        parent = Some(seen.name().to_owned());
    }
}

fn must_be_chains(case: &Case, is_full: impl Fn(&TruthCheckpoint) -> bool) {
    let view = view_of(case);
    for disk in &case.truth().disks {
        let backups: Vec<_> = disk.checkpoints.iter().filter(|c| !is_live(c)).collect();
        for chain in backups.chunk_by(|_, next| !is_full(next)) {
            let files: Vec<_> = chain.iter().map(|c| c.file.as_path()).collect();
            must_be_full_and_increments(&view, &files);
        }
    }
}

fn is_live(checkpoint: &TruthCheckpoint) -> bool {
    checkpoint.label.starts_with("live image")
}

#[test]
fn virtnbdbackup_streams_are_right() {
    check("virtnbdbackup-stream", &PLAIN);
}

#[test]
fn virtnbdbackup_streams_of_today_are_what_its_own_restore_makes_of_them() {
    check("virtnbdbackup-stream-upstream", &PLAIN);
}

#[test]
fn virtnbdbackup_compressed_streams_are_right() {
    check("virtnbdbackup-lz4", &PLAIN);
}

#[test]
fn virtnbdbackup_raw_disks_are_right_beside_streams() {
    check("virtnbdbackup-rawdisk", &PLAIN);
}

#[test]
fn qmpbackup_new_is_right() {
    check("qmpbackup-new", &PLAIN);
}

#[test]
fn qmpbackup_new_has_the_names_that_the_manual_shows() {
    let case = Case::unpack("qmpbackup-new");
    let view = view_of(&case);
    let disk = Path::new("vm-root.qcow2");
    let file = disk.join("FULL-1795161271-vm-root.qcow2");
    assert_eq!(view.of_file(file).folder, disk.join("FULL-1795161271"));
    assert_eq!(view.links[&disk.join("latest")], Path::new("INC-1795161280"));
}

#[test]
fn qmpbackup_monthly_is_right() {
    check("qmpbackup-monthly", &PLAIN);
}

#[test]
fn qmpbackup_raw_is_right_where_the_copy_lost_unwritten_extents() {
    check("qmpbackup-raw", &PLAIN);
}

#[test]
fn qmpbackup_raw_is_right_with_its_unwritten_extents() {
    let test = "qmpbackup_raw_is_right_with_its_unwritten_extents";
    let case = Case::unpack("qmpbackup-raw");
    Run::new("python3")
        .arg(common::corpus::data().join("restore-extents.py"))
        .arg(case.folder())
        .ok();
    let increment = case.backups().join("disk3.raw/INC-1795161308-disk3.raw");
    let extents = Run::new("filefrag").args(["-s", "-v"]).arg(&increment).outcome();
    if !extents.text().contains("unwritten") {
        return skipped("the file system keeps no unwritten extents", test);
    }
    // Puts the file's pages into the cache, after which SEEK_DATA calls unwritten extents data.
    sha256(&increment);
    check_case(&case, &Expected { knows_unwritten: true, ..PLAIN });
}

#[test]
fn qmpbackup_partial_is_right_and_the_partial_file_is_no_disk() {
    let case = Case::unpack("qmpbackup-partial");
    check_case(&case, &PLAIN);
    let listed = View::listed(&case.backups());
    let partial = Path::new("vm-root.qcow2/INC-1795161320-vm-root.qcow2.partial");
    for seen in listed.checkpoints.iter().filter(|c| c.file() == partial) {
        assert!(!seen.whole, "a partial file is shown as a disk");
        assert_eq!(seen.kind(), "partial");
    }
    let text = Run::qcowfs().arg("ls").arg(case.backups()).arg("--json").ok().text();
    assert!(text.contains(".partial"), "ls does not mention the partial file:\n{text}");
}

#[test]
fn qmpbackup_old_is_right() {
    check("qmpbackup-old", &PLAIN);
}

#[test]
fn qmpbackup_chains_are_a_full_backup_and_its_increments() {
    for name in ["qmpbackup-new", "qmpbackup-monthly", "qmpbackup-raw", "qmpbackup-old"] {
        must_be_chains(&Case::unpack(name), |c| c.label.ends_with("full"));
    }
}

#[test]
fn libvirt_push_is_right() {
    check("libvirt-push", &PLAIN);
}

#[test]
fn libvirt_push_live_disk_is_nobodys_parent() {
    let case = Case::unpack("libvirt-push");
    must_be_chains(&case, |c| c.label == "full");
    let view = view_of(&case);
    for live in case.truth().checkpoints().filter(|c| is_live(c)) {
        let live = view.of_file(&live.file);
        assert_eq!(live.kind(), "live", "{:?}", live.folder);
        for other in view.checkpoints.iter().filter(|c| c.kind() != "live") {
            let chain = other.info["chain"].to_string();
            let file = format!("\"{}\"", live.file().display());
            assert!(!chain.contains(&file), "{:?} stands on the live disk: {chain}", other.folder);
        }
    }
}

#[test]
fn libvirt_push_is_right_beside_its_checkpoint_files() {
    let case = Case::unpack("libvirt-push");
    let mount = Mount::of(&case.folder());
    let view = View::walk(mount.point());
    for wanted in case.truth().checkpoints() {
        let seen = view.of_file(Path::new("backups").join(&wanted.file));
        assert!(seen.whole, "{:?}: {:?}", seen.folder, seen.error);
        assert_eq!(sha256(&mount.path(seen.image())), wanted.sha256, "{:?}", seen.folder);
    }
    mount.unmount();
}

#[test]
fn libvirt_extsnap_is_right() {
    check("libvirt-extsnap", &PLAIN);
}

#[test]
fn backing_chain_is_right() {
    check("backing-chain", &PLAIN);
}

#[test]
fn lvm_is_right() {
    check("lvm", &PLAIN);
}

#[test]
fn missing_base_shows_only_what_is_whole() {
    let case = Case::unpack("missing-base");
    check_case(&case, &PLAIN);
    let view = view_of(&case);
    for wanted in case.truth().checkpoints() {
        let Some(missing) = &wanted.missing else { continue };
        let seen = view.of_file(&wanted.file);
        let said = seen.error.as_deref().unwrap_or_else(|| panic!("{:?}", seen.folder));
        let file = missing.file_name().and_then(|n| n.to_str()).expect("a name");
        // The missing file itself, or what it is that stands on the missing file.
        let base = "gone-base.qcow2";
        assert!(said.contains(file) || said.contains(base), "{:?}: {said}", seen.folder);
    }
}

#[test]
fn features_are_right() {
    let unlisted =
        &["zero-base.raw", "extl2-base.raw", "datafile-raw-on.data", "datafile-raw-off.data"];
    check("features", &Expected { unlisted, ..PLAIN });
}

/// The helpers themselves: the truth files are read whole, and wrong answers are told from right
/// ones.
#[test]
fn truth_files_are_read_whole() {
    let count = |name: &str| Case::unpack(name).truth().checkpoints().count();
    assert_eq!(count("qmpbackup-new"), 8);
    assert_eq!(count("missing-base"), 8);
    let push = Case::unpack("libvirt-push");
    assert_eq!(push.truth().checkpoints().filter(|c| !c.wrong.is_empty()).count(), 6);
    assert_eq!(push.truth().checkpoints().filter(|c| is_live(c)).count(), 2);
    let raw = Case::unpack("qmpbackup-raw");
    assert_eq!(raw.truth().checkpoints().filter(|c| c.recoverable.is_some()).count(), 1);
    let first = raw.truth().checkpoints().next().expect("a checkpoint");
    assert_eq!(sha256(&raw.backups().join(&first.file)), first.sha256);
    assert_eq!(first.time(), "2026-11-20T07:55:02Z");
}
