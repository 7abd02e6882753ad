//! truth.json: what each checkpoint of a case must hold.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// What a case holds.
#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) disks: Vec<TruthDisk>,
}

#[derive(Debug)]
pub(crate) struct TruthDisk {
    pub(crate) name: String,
    /// Oldest first.
    pub(crate) checkpoints: Vec<TruthCheckpoint>,
}

#[derive(Debug)]
pub(crate) struct TruthCheckpoint {
    pub(crate) label: String,
    /// Relative to `backups/`.
    pub(crate) file: PathBuf,
    pub(crate) virtual_size: u64,
    /// The disk at that moment.
    pub(crate) sha256: String,
    /// What can be had of it from the files as they were packed, where that is something else.
    pub(crate) recoverable: Option<String>,
    /// Wrong answers that a reader who trusts the headers would give.
    pub(crate) wrong: Vec<String>,
    /// Seconds since 1970.
    pub(crate) timestamp: i64,
    /// The internal snapshot's name.
    pub(crate) snapshot: Option<String>,
    pub(crate) encrypted: bool,
    /// The file's chain is not whole: this one is missing.
    pub(crate) missing: Option<PathBuf>,
}

impl Truth {
    pub(crate) fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("truth.json");
        let json: Value = serde_json::from_str(&text).expect("truth.json is JSON");
        let disks: Vec<_> = array(&json, "disks").iter().map(TruthDisk::parse).collect();
        assert!(!disks.is_empty(), "{path:?} names no disk");
        Self { disks }
    }

    pub(crate) fn checkpoints(&self) -> impl Iterator<Item = &TruthCheckpoint> {
        self.disks.iter().flat_map(|d| &d.checkpoints)
    }

    /// The checkpoints that are in this file: several for internal snapshots.
    pub(crate) fn of_file<'a>(
        &'a self,
        file: &'a Path,
    ) -> impl Iterator<Item = &'a TruthCheckpoint> {
        self.checkpoints().filter(move |c| c.file == file)
    }

    /// Whether nothing of this file may be shown: a file of its chain is missing.
    pub(crate) fn is_incomplete(&self, file: &Path) -> bool {
        self.of_file(file).any(|c| c.missing.is_some())
    }
}

impl TruthDisk {
    fn parse(json: &Value) -> Self {
        let checkpoints: Vec<_> =
            array(json, "checkpoints").iter().map(TruthCheckpoint::parse).collect();
        assert!(!checkpoints.is_empty(), "a disk without checkpoints");
        Self { name: text(json, "name").expect("a disk's name"), checkpoints }
    }
}

impl TruthCheckpoint {
    fn parse(json: &Value) -> Self {
        let wrong = ["sha256_if_header_backing_is_followed", "qemu_img_convert_sha256"];
        Self {
            label: text(json, "label").expect("a label"),
            file: text(json, "file").expect("a file").into(),
            virtual_size: json["virtual_size"].as_u64().expect("a size"),
            sha256: text(json, "sha256").expect("a hash"),
            recoverable: text(json, "sha256_recoverable"),
            wrong: wrong.iter().filter_map(|key| text(json, key)).collect(),
            timestamp: json["timestamp"].as_i64().expect("a time"),
            snapshot: text(json, "snapshot_name"),
            encrypted: json.get("passphrase").is_some(),
            missing: text(json, "missing_backing").map(PathBuf::from),
        }
    }

    /// The time as the view shows it.
    pub(crate) fn time(&self) -> String {
        jiff::Timestamp::from_second(self.timestamp).expect("a time").to_string()
    }
}

fn text(json: &Value, key: &str) -> Option<String> {
    json.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn array<'a>(json: &'a Value, key: &str) -> &'a [Value] {
    json.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
