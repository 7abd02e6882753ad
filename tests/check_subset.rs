//! `qcowfs check SOURCE PATH...`: a file, a folder, a disk, a restore point with its chain.

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

use std::path::Path;

use common::content::index;
use common::run::scratch;
use common::{Case, Run};
use serde_json::Value;

const FULL: &str = "vm-root.qcow2/FULL-1795161271-vm-root.qcow2";
const INC: &str = "vm-root.qcow2/INC-1795161277-vm-root.qcow2";

fn check(source: &Path, words: &[&str]) -> (Option<i32>, Vec<String>) {
    let outcome = Run::qcowfs().args(["check", "--json"]).arg(source).args(words).outcome();
    let json: Value = serde_json::from_slice(&outcome.stdout)
        .unwrap_or_else(|e| panic!("{words:?}: {e}: {}", outcome.stderr));
    let files = json["files"].as_array().unwrap().iter();
    (outcome.code, files.map(|file| file["path"].as_str().unwrap().to_owned()).collect())
}

#[test]
fn each_sort_of_name_checks_what_it_names() {
    let case = Case::unpack("qmpbackup-new");
    let source = case.backups();
    let of = |words: &[&str]| check(&source, words).1;
    assert_eq!(of(&[]).len(), 8);
    assert_eq!(of(&[INC]), [INC]);
    assert_eq!(of(&[source.join(INC).to_str().unwrap()]), [INC]);
    assert_eq!(of(&["vm-root.qcow2"]).len(), 4);
    assert_eq!(of(&["vm-root.qcow2/"]).len(), 4);
    // A restore point stands on its chain.
    assert_eq!(of(&["vm-root.qcow2/INC-1795161277"]).len(), 3);
    assert_eq!(of(&["vm-root.qcow2@latest"]).len(), 4);
    assert_eq!(of(&["vm-root.qcow2/FULL-1795161271", INC]), [FULL, INC]);
    let wrong =
        Run::qcowfs().arg("check").arg(&source).arg("vm-root.qcow2/INC-179516127").outcome();
    assert_eq!(wrong.code, Some(1));
    for part in ["is it vm-root.qcow2/INC-1795161274", "nor is it a file"] {
        assert!(wrong.stderr.contains(part), "{}", wrong.stderr);
    }
}

#[test]
fn damage_elsewhere_does_not_count_and_what_it_spoils_is_told() {
    let case = Case::unpack("qmpbackup-new");
    let source = case.backups();
    let damaged = source.join(INC);
    let bytes = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, &bytes[..bytes.len() - index(1 << 20)]).unwrap();
    assert_eq!(check(&source, &[]).0, Some(1));
    assert_eq!(check(&source, &["vm-data.qcow2"]).0, Some(0));
    assert_eq!(check(&source, &["vm-root.qcow2/INC-1795161274"]).0, Some(0));
    assert_eq!(check(&source, &["vm-root.qcow2@latest"]).0, Some(1));
    let text = Run::qcowfs().args(["check", "-q"]).arg(&source).arg(INC).outcome().text();
    assert!(text.contains("1 file checked, 1 damaged, 2 of 2 restore points spoiled"), "{text}");
}

#[test]
fn only_restore_points_count_of_which_every_file_was_looked_at() {
    let case = Case::unpack("qmpbackup-new");
    let text = |part: &str| Run::qcowfs().arg("check").arg(case.backups()).arg(part).ok().text();
    let told = text("vm-root.qcow2/INC-1795161277");
    assert!(
        told.ends_with("3 files checked, 0 damaged, 0 of 3 restore points spoiled\n"),
        "{told}"
    );
    let told = text(FULL);
    assert!(told.ends_with("1 file checked, 0 damaged, 0 of 1 restore point spoiled\n"), "{told}");
    let told = text(INC);
    assert!(told.contains("1 file checked, 0 damaged, 0 of 0 restore points spoiled"), "{told}");
    assert!(told.contains("name it as `qcowfs ls` prints it"), "{told}");
}

/// An empty folder is what a file system that is not mounted leaves: no success for a timer.
#[test]
fn a_source_without_a_backup_is_no_success() {
    let folder = scratch();
    std::fs::write(folder.path().join("notes.txt"), "no backup").unwrap();
    let outcome = Run::qcowfs().arg("check").arg(folder.path()).outcome();
    assert_eq!(outcome.code, Some(1), "{}", outcome.text());
    assert!(outcome.stderr.contains("no backup was found"), "{}", outcome.stderr);
}
