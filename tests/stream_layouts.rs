//! Which of virtnbdbackup's streams stands on which: their own metadata decide, not their names.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where something is not as it must be"
)]

use std::path::Path;

use qcowfs::tree::info::Info;
use qcowfs::tree::plan::Plan;
use qcowfs::tree::read_catalog;
use serde_json::{Value, json};

const DISK: u64 = 1 << 20;

/// A stream without data: what counts here is its metadata.
fn stream(meta: &Value) -> Vec<u8> {
    let meta = serde_json::to_vec_pretty(meta).expect("serialises");
    let header = |kind: &str, start: u64, len: u64| format!("{kind} {start:016x} {len:016x}\r\n");
    let mut bytes = header("meta", 0, meta.len() as u64).into_bytes();
    bytes.extend(meta);
    bytes.extend(b"\r\n");
    if !bytes.windows(20).any(|window| window == b"\"incremental\": true,") {
        bytes.extend(header("zero", 0, DISK).into_bytes());
    }
    bytes.extend(header("stop", 0, 0).into_bytes());
    bytes
}

fn meta(disk: &str, checkpoint: &str, parent: &Value, date: &str) -> Value {
    json!({
        "virtualSize": DISK, "dataSize": 0, "date": date, "diskName": disk, "diskFormat": "qcow2",
        "checkpointName": checkpoint, "compressed": false, "compressionMethod": "lz4",
        "parentCheckpoint": parent, "incremental": parent != &json!(false), "streamVersion": 2,
    })
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a scratch folder"))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> &Self {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().expect("has a folder")).expect("a folder");
        std::fs::write(path, bytes).expect("is written");
        self
    }

    fn full(&self, disk: &str) -> &Self {
        let meta = meta(disk, "virtnbdbackup.0", &json!(false), "2026-11-20T07:00:00.5");
        self.write(&format!("{disk}.full.data"), &stream(&meta))
    }

    fn inc(&self, disk: &str, number: u32) -> &Self {
        let checkpoint = format!("virtnbdbackup.{number}");
        let parent = json!(format!("virtnbdbackup.{}", number - 1));
        let meta = meta(disk, &checkpoint, &parent, &format!("2026-11-20T07:{number:02}:00.5"));
        self.write(&format!("{disk}.inc.{checkpoint}.data"), &stream(&meta))
    }

    fn view(&self) -> Vec<(String, Info)> {
        view(self.0.path())
    }
}

fn view(source: &Path) -> Vec<(String, Info)> {
    let catalog = read_catalog(source, &[]).expect("the source is read");
    let plan = Plan::new(&catalog);
    let checkpoints = plan.disks.iter().flat_map(|disk| {
        let path = disk.path.to_string_lossy().into_owned();
        disk.checkpoints.iter().map(move |(id, name)| (format!("{path}/{name}"), *id))
    });
    checkpoints.map(|(name, id)| (name, Info::new(&catalog, &plan, id))).collect()
}

fn parent<'a>(view: &'a [(String, Info)], checkpoint: &str) -> Option<&'a str> {
    let info = one(view, checkpoint);
    assert_eq!(info.state, "whole", "{checkpoint}: {:?}", info.reason);
    info.parent.as_deref()
}

fn broken(view: &[(String, Info)], checkpoint: &str, because: &str) {
    let reason = one(view, checkpoint).reason.as_deref().expect("is broken");
    assert!(reason.contains(because), "{checkpoint}: {reason}");
}

fn one<'a>(view: &'a [(String, Info)], checkpoint: &str) -> &'a Info {
    let names: Vec<&str> = view.iter().map(|(name, _)| name.as_str()).collect();
    let found = view.iter().find(|(name, _)| name == checkpoint);
    &found.unwrap_or_else(|| panic!("no {checkpoint} in {names:?}")).1
}

#[test]
fn the_tenth_increment_comes_after_the_ninth() {
    let folder = Folder::new();
    folder.full("vda");
    for number in 1..=11 {
        folder.inc("vda", number);
    }
    let view = folder.view();
    assert_eq!(parent(&view, "vda/virtnbdbackup.10"), Some("virtnbdbackup.9"));
    assert_eq!(view[10].0, "vda/virtnbdbackup.10");
    assert_eq!(view.last().expect("some").0, "vda/virtnbdbackup.11");
}

/// A differential of the checkpoint before it, at a minute past 07:01 and some seconds.
fn diff(folder: &Folder, seconds: u64) {
    let meta = meta(
        "vda",
        "virtnbdbackup.2",
        &json!("virtnbdbackup.1"),
        &format!("2026-11-20T07:01:{seconds:02}"),
    );
    folder.write(&format!("vda.diff.{}.data", 1_795_158_060 + seconds), &stream(&meta));
}

#[test]
fn a_differential_is_nobodys_parent_although_it_has_the_next_ones_name() {
    let folder = Folder::new();
    folder.full("vda").inc("vda", 1);
    diff(&folder, 20);
    diff(&folder, 40);
    folder.inc("vda", 2).inc("vda", 3);
    let view = folder.view();
    assert_eq!(parent(&view, "vda/diff.1795158080"), Some("virtnbdbackup.1"));
    assert_eq!(parent(&view, "vda/diff.1795158100"), Some("virtnbdbackup.1"));
    assert_eq!(parent(&view, "vda/virtnbdbackup.2"), Some("virtnbdbackup.1"));
    assert_eq!(parent(&view, "vda/virtnbdbackup.3"), Some("virtnbdbackup.2"));
    // Not even where the increment of its name is lost.
    std::fs::remove_file(folder.0.path().join("vda.inc.virtnbdbackup.2.data")).expect("is removed");
    broken(&folder.view(), "vda/virtnbdbackup.3", "checkpoint virtnbdbackup.2");
}

#[test]
fn an_increment_that_names_itself_as_its_parent_stands_on_the_one_before() {
    let folder = Folder::new();
    folder.full("vda").inc("vda", 1);
    let own = meta("vda", "virtnbdbackup.1", &json!("virtnbdbackup.1"), "2026-11-20T09:00:00");
    folder.write("vda.inc.virtnbdbackup.1.offline.data", &stream(&own));
    let view = folder.view();
    let offline = view.iter().find(|(_, info)| info.file.contains("offline")).expect("is shown");
    assert_eq!(offline.1.parent.as_deref(), Some("virtnbdbackup.1"));
    assert_eq!(offline.1.state, "whole");
}

#[test]
fn a_missing_increment_breaks_all_that_stands_on_it_and_nothing_before() {
    let folder = Folder::new();
    folder.full("vda").inc("vda", 1).inc("vda", 3).inc("vda", 4);
    let view = folder.view();
    assert_eq!(parent(&view, "vda/virtnbdbackup.1"), Some("virtnbdbackup.0"));
    broken(&view, "vda/virtnbdbackup.3", "checkpoint virtnbdbackup.2");
    broken(&view, "vda/virtnbdbackup.4", "checkpoint virtnbdbackup.2");
}

#[test]
fn renamed_files_are_still_known_by_their_metadata() {
    let folder = Folder::new();
    folder.full("vda").inc("vda", 1);
    for (from, to) in [("vda.full.data", "monday.bin"), ("vda.inc.virtnbdbackup.1.data", "x.bin")] {
        std::fs::rename(folder.0.path().join(from), folder.0.path().join(to)).expect("renames");
    }
    assert_eq!(parent(&folder.view(), "vda/virtnbdbackup.1"), Some("virtnbdbackup.0"));
}

#[test]
fn a_stream_without_its_end_is_broken_and_the_ones_before_are_not() {
    let folder = Folder::new();
    folder.full("vda").inc("vda", 1);
    let file = folder.0.path().join("vda.inc.virtnbdbackup.1.data");
    let bytes = std::fs::read(&file).expect("is read");
    folder.write("vda.inc.virtnbdbackup.1.data", &bytes[..bytes.len() - 40]);
    let view = folder.view();
    assert_eq!(parent(&view, "vda/virtnbdbackup.0"), None);
    broken(&view, "vda/virtnbdbackup.1", "stop");
}

#[test]
fn what_stands_beside_a_stream_tells_its_time_zone() {
    let folder = Folder::new();
    // 07:00 UTC, written in a zone five and a half hours ahead.
    let meta = meta("vda", "virtnbdbackup.0", &json!(false), "2026-11-20T12:30:00.25");
    folder.write("vda.full.data", &stream(&meta));
    let xml = "<domaincheckpoint><name>virtnbdbackup.0</name>\
         <creationTime>1795157999</creationTime></domaincheckpoint>";
    folder.write("checkpoints/virtnbdbackup.0.xml", xml.as_bytes());
    let view = folder.view();
    let full = one(&view, "vda/virtnbdbackup.0");
    assert_eq!(full.time, "2026-11-20T07:00:00Z");
    assert!(full.warnings.is_empty(), "{:?}", full.warnings);
}

#[test]
fn a_number_in_a_name_that_is_no_time_tells_no_zone() {
    let folder = Folder::new();
    folder.full("vda").inc("vda", 1);
    let meta = meta("vda", "virtnbdbackup.2", &json!("virtnbdbackup.1"), "-000300-11-20T07:01:20");
    for number in [i64::MIN, i64::MAX, 5] {
        folder.write(&format!("vda.diff.{number}.data"), &stream(&meta));
    }
    let view = folder.view();
    let full = one(&view, "vda/virtnbdbackup.0");
    // In the zone of this machine, whatever that is.
    assert!(full.time.starts_with("2026-11-"), "{}", full.time);
    assert_eq!(parent(&view, "vda/virtnbdbackup.1"), Some("virtnbdbackup.0"));
}

#[test]
fn a_date_without_any_hint_of_its_zone_is_shown_with_a_warning() {
    let folder = Folder::new();
    folder.full("vda");
    let view = folder.view();
    let warnings = &one(&view, "vda/virtnbdbackup.0").warnings;
    assert!(warnings.iter().any(|warning| warning.contains("time zone")), "{warnings:?}");
}

#[test]
fn a_newer_full_backup_is_not_the_parent_of_older_increments() {
    let folder = Folder::new();
    folder.inc("vda", 1).inc("vda", 2);
    let newer = meta("vda", "virtnbdbackup.0", &json!(false), "2026-11-21T07:00:00");
    folder.write("vda.full.data", &stream(&newer));
    let view = folder.view();
    broken(&view, "vda/virtnbdbackup.1", "checkpoint virtnbdbackup.0");
    broken(&view, "vda/virtnbdbackup.2", "checkpoint virtnbdbackup.0");
}

#[test]
fn a_stream_that_lost_its_beginning_is_broken_where_it_stands() {
    let folder = Folder::new();
    folder.full("vda").inc("vda", 1).inc("vda", 2);
    folder.write("vda.inc.virtnbdbackup.1.data", &[0; 1024]);
    folder.write("vdb.full.data", &[0; 1024]).write("vdb.virtnbdbackup.0.qcow.json", b"{}");
    folder.write("vdc.copy.data", &[0; 1024]);
    let view = folder.view();
    broken(&view, "vda/inc.virtnbdbackup.1", "does not begin as one");
    broken(&view, "vda/virtnbdbackup.2", "does not begin as one");
    broken(&view, "vdb/full", "does not begin as one");
    assert_eq!(parent(&view, "vdc/copy"), None);
}

#[test]
fn disks_that_join_later_have_chains_of_their_own() {
    let folder = Folder::new();
    folder.full("vda").inc("vda", 1).inc("vda", 2);
    let joined = meta("vdb", "virtnbdbackup.1", &json!(false), "2026-11-20T07:01:00");
    folder.write("vdb.full.data", &stream(&joined)).inc("vdb", 2);
    let view = folder.view();
    assert_eq!(parent(&view, "vdb/virtnbdbackup.2"), Some("virtnbdbackup.1"));
    assert_eq!(parent(&view, "vda/virtnbdbackup.2"), Some("virtnbdbackup.1"));
}

#[test]
fn metadata_that_cannot_be_understood_is_the_reason() {
    let folder = Folder::new();
    let mut other = meta("vda", "virtnbdbackup.0", &json!(false), "2026-11-20T07:00:00");
    other["compressed"] = json!(1);
    other["compressionMethod"] = json!("brotli");
    folder.write("vda.full.data", &stream(&other));
    let view = folder.view();
    let (_, info) = view.first().expect("is shown");
    assert!(info.reason.as_deref().expect("is broken").contains("brotli"), "{:?}", info.reason);
}
