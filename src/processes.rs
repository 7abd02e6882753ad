//! What `/proc` tells of other processes. Who is not root sees only his own.

use std::path::{Path, PathBuf};

/// Another process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) number: String,
    folder: PathBuf,
}

/// All others that there are.
pub(crate) fn others() -> impl Iterator<Item = Process> {
    let own = std::process::id().to_string();
    let processes = Path::new("/proc").read_dir().into_iter().flatten().flatten();
    processes.filter_map(move |entry| {
        let number = entry.file_name().to_string_lossy().into_owned();
        let is_other = number.starts_with(|c: char| c.is_ascii_digit()) && number != own;
        is_other.then(|| Process { number, folder: entry.path() })
    })
}

impl Process {
    /// The name of its program.
    pub(crate) fn program(&self) -> String {
        let name = std::fs::read_to_string(self.folder.join("comm")).unwrap_or_default();
        name.trim().to_owned()
    }

    /// Links to the files that it has open for writing, of those that are meant. Whoever decides that
    /// must not ask a file on a dead network share, which would not answer.
    pub(crate) fn written(
        &self,
        is_meant: impl Fn(&Path) -> bool,
    ) -> impl Iterator<Item = PathBuf> {
        let open = self.folder.join("fd").read_dir().into_iter().flatten().flatten();
        open.filter_map(move |open| {
            let link = open.path();
            let info = || self.folder.join("fdinfo").join(open.file_name());
            (is_meant(&link) && is_writable(&info())).then_some(link)
        })
    }
}

/// Whether `/proc/PID/fdinfo/N` says so.
fn is_writable(info: &Path) -> bool {
    let text = std::fs::read_to_string(info).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & rustix::fs::OFlags::ACCMODE.bits() != 0)
}
