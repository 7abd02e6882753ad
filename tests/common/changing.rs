//! Sources that change under a mounted view.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::mount::LIMIT;
use super::qcow2_writer::{CLUSTER, Overlay};
use super::run::scratch;
use super::watch::holds_within;
use super::{Mount, Run, User};

/// A source in a folder of its own, so that other files can lie beside it.
pub(crate) struct Source(TempDir);

impl Source {
    pub(crate) fn new() -> Self {
        let source = Self(scratch());
        std::fs::create_dir(source.root()).expect("a folder");
        source.image("base.qcow2", None, 1);
        source
    }

    /// The folder beside it.
    pub(crate) fn beside(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.0.path().join("source")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// An image whose first cluster is filled with a byte.
    pub(crate) fn image(&self, name: &str, backing: Option<&str>, byte: u8) {
        let backing = backing.map(|name| (name, "qcow2"));
        let data = Some((0, [byte; CLUSTER]));
        let overlay = Overlay { virtual_size: 16 << 10, backing, data };
        overlay.write(&self.file(name));
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.path().join("log")
    }

    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).expect("a log")
    }

    /// Mounts it with a log that says what changes.
    pub(crate) fn mounted(&self, options: &[&str]) -> Mount {
        let mount = Mount::prepare(User::Own);
        let log = self.log();
        let log = ["-v", "--log-file", log.to_str().expect("a plain path")];
        mount.command(&self.root(), &[&log[..], options].concat()).ok();
        mount.must_be_up();
        mount
    }

    /// Mounts it with so many descriptors.
    pub(crate) fn mounted_with(&self, descriptors: u32) -> Mount {
        let mount = Mount::prepare(User::Own);
        let script = format!("ulimit -n {descriptors}; exec \"$0\" mount \"$1\" \"$2\"");
        let shell = Run::new("bash").args(["-c", &script]).arg(mount.program());
        shell.arg(self.root()).arg(mount.point()).ok();
        mount
    }
}

pub(crate) fn disk(mount: &Mount, name: &str) -> PathBuf {
    mount.path("base.qcow2").join(name).join("disk.img")
}

pub(crate) fn first_byte(path: &Path) -> u8 {
    byte(path, 0).unwrap_or_else(|| panic!("{path:?} cannot be read"))
}

/// A byte of what may not be there.
pub(crate) fn byte(path: &Path, at: u64) -> Option<u8> {
    let mut byte = [0];
    File::open(path).ok()?.read_exact_at(&mut byte, at).ok()?;
    Some(byte[0])
}

pub(crate) fn eventually(what: &str, holds: impl FnMut() -> bool) {
    assert!(holds_within(LIMIT, holds), "not within {LIMIT} s: {what}");
}

/// Nothing tells of something that does not happen but time.
pub(crate) fn does_not_happen(what: &str, mut happens: impl FnMut() -> bool) {
    assert!(!holds_within(2, &mut happens), "{what}");
}
