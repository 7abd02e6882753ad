//! The view as it is mounted, and as `qcowfs ls --json` tells it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::run::Run;
use super::watch::within;

/// A whole view: its checkpoints, and the links beside them.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Every folder that holds an info.json, in the order of the paths.
    pub(crate) checkpoints: Vec<Checkpoint>,
    /// Every symbolic link, and where it points.
    pub(crate) links: BTreeMap<PathBuf, PathBuf>,
    /// Every other path.
    pub(crate) others: Vec<PathBuf>,
}

/// A checkpoint: from the mount, or from `ls --json`.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The checkpoint's folder, relative to the mount point.
    pub(crate) folder: PathBuf,
    /// info.json, or the entry of `ls --json`.
    pub(crate) info: Value,
    /// Whether there is a disk.img (in `ls --json`: `state` is `whole`).
    pub(crate) whole: bool,
    /// error.txt (in `ls --json`: `reason`).
    pub(crate) error: Option<String>,
}

impl Checkpoint {
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.info.get(key).and_then(Value::as_str)
    }

    /// The file, within the source, that this checkpoint is.
    pub(crate) fn file(&self) -> &Path {
        let file = self.text("file");
        Path::new(file.unwrap_or_else(|| panic!("{:?} names no file: {}", self.folder, self.info)))
    }

    pub(crate) fn label(&self) -> &str {
        self.text("label").unwrap_or_default()
    }

    pub(crate) fn kind(&self) -> &str {
        self.text("kind").unwrap_or_default()
    }

    /// The folder's own name.
    pub(crate) fn name(&self) -> &str {
        self.folder.file_name().and_then(|n| n.to_str()).unwrap_or_default()
    }

    /// The disk's folder.
    pub(crate) fn disk(&self) -> &Path {
        self.folder.parent().unwrap_or(Path::new(""))
    }

    /// disk.img, relative to the mount point.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("disk.img")
    }
}

impl View {
    /// Walks a mount.
    pub(crate) fn walk(point: &Path) -> Self {
        let root = point.to_path_buf();
        within(60, "walking the view", move || {
            let mut view = Self::default();
            view.visit(&root, Path::new(""), 0);
            view.checkpoints.sort_by(|a, b| a.folder.cmp(&b.folder));
            view
        })
    }

    fn visit(&mut self, root: &Path, folder: &Path, depth: usize) {
        assert!(depth < 64, "the view is a loop: {folder:?}");
        let full = root.join(folder);
        let entries = full.read_dir().unwrap_or_else(|e| panic!("{full:?}: {e}"));
        let mut is_checkpoint = false;
        for entry in entries {
            let entry = entry.unwrap_or_else(|e| panic!("{full:?}: {e}"));
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().unwrap_or_else(|e| panic!("{path:?}: {e}"));
            // A disk may be called info.json, and is a folder then.
            is_checkpoint |= entry.file_name() == "info.json" && kind.is_file();
            if kind.is_dir() {
                self.visit(root, &path, depth + 1);
            } else if kind.is_symlink() {
                let target =
                    root.join(&path).read_link().unwrap_or_else(|e| panic!("{path:?}: {e}"));
                self.links.insert(path, target);
            } else {
                self.others.push(path);
            }
        }
        if is_checkpoint {
            self.checkpoints.push(Checkpoint::read(root, folder));
        }
    }

    /// What `qcowfs ls SOURCE --json` says, in its order.
    pub(crate) fn listed(source: &Path) -> Self {
        Self::listed_with(source, &[])
    }

    /// The same with further options.
    pub(crate) fn listed_with(source: &Path, options: &[&str]) -> Self {
        let run = Run::qcowfs().arg("ls").args(options).arg(source).arg("--json").ok();
        let json: Value = serde_json::from_slice(&run.stdout)
            .unwrap_or_else(|e| panic!("ls --json is not JSON: {e}\n{}", run.text()));
        let mut view = Self::default();
        for disk in json["disks"].as_array().expect("ls --json: disks") {
            let path = Path::new(disk["path"].as_str().expect("ls --json: a disk's path"));
            for entry in disk["checkpoints"].as_array().expect("ls --json: checkpoints") {
                view.checkpoints.push(Checkpoint::listed(path, entry));
            }
        }
        view
    }

    /// The one checkpoint of a file (not of a snapshot in it). Panics when there is none.
    pub(crate) fn of_file(&self, file: impl AsRef<Path>) -> &Checkpoint {
        let file = file.as_ref();
        let mut found =
            self.checkpoints.iter().filter(|c| c.kind() != "snapshot" && c.file() == file);
        match (found.next(), found.next()) {
            (Some(one), None) => one,
            (None, _) => panic!("{file:?} is not in the view: {:#?}", self.folders()),
            (Some(a), Some(b)) => panic!("{file:?} is {:?} and {:?}", a.folder, b.folder),
        }
    }

    /// All checkpoints' folders.
    pub(crate) fn folders(&self) -> Vec<&Path> {
        self.checkpoints.iter().map(|c| c.folder.as_path()).collect()
    }
}

impl Checkpoint {
    fn read(root: &Path, folder: &Path) -> Self {
        let full = root.join(folder);
        let text = std::fs::read_to_string(full.join("info.json"))
            .unwrap_or_else(|e| panic!("{folder:?}/info.json: {e}"));
        let info = serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{folder:?}/info.json is not JSON: {e}\n{text}"));
        let whole = full.join("disk.img").is_file();
        let error = std::fs::read_to_string(full.join("error.txt")).ok();
        assert_ne!(whole, error.is_some(), "{folder:?}: either disk.img or error.txt");
        Self { folder: folder.to_path_buf(), info, whole, error }
    }

    fn listed(disk: &Path, entry: &Value) -> Self {
        let name = entry["name"].as_str().expect("ls --json: a checkpoint's name");
        let state = entry["state"].as_str().expect("ls --json: a checkpoint's state");
        assert!(matches!(state, "whole" | "broken"), "ls --json: state {state}");
        let error = entry["reason"].as_str().map(str::to_owned);
        Self { folder: disk.join(name), info: entry.clone(), whole: state == "whole", error }
    }
}
