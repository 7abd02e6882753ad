//! The sample backups of `tests/data`.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::run::{Run, scratch};
use super::truth::Truth;

/// One case, unpacked into a scratch folder.
#[derive(Debug)]
pub(crate) struct Case {
    name: String,
    folder: TempDir,
    truth: Truth,
}

/// The folder with the archives.
pub(crate) fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

impl Case {
    pub(crate) fn unpack(name: &str) -> Self {
        let folder = scratch();
        let archive = data().join(format!("{name}.tar.zst"));
        // The archive needs zstd's program as well as tar's: say which one is missing.
        Run::new("zstd").arg("--version").ok();
        // S keeps the holes, which mean something in raw increments.
        Run::new("tar")
            .args(["--zstd", "--no-same-owner", "-xSf"])
            .arg(archive)
            .arg("-C")
            .arg(folder.path())
            .ok();
        let truth = Truth::read(&folder.path().join(name).join("truth.json"));
        Self { name: name.to_owned(), folder, truth }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn truth(&self) -> &Truth {
        &self.truth
    }

    /// The case's folder: `backups/`, truth.json and sidecars.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    /// What the backup tool left.
    pub(crate) fn backups(&self) -> PathBuf {
        self.folder().join("backups")
    }
}
