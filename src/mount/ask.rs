//! Asking a mounted view how it is doing.

use std::path::Path;
use std::time::Duration;

use super::unmount::find;
use crate::error::{Error, Result};
use crate::fuse::{STATUS_FILE, STATUS_FOLDER};
use crate::workers::within;

/// A view that is not stuck answers sooner.
const ANSWER: Duration = Duration::from_secs(10);

/// The `.qcowfs/status.json` of the view that is mounted at a path. An error says what is wrong with
/// the mount, and what to do.
pub fn read_status(path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let mount = find(path)?;
    if !mount.is_qcowfs() {
        return Err(Error::Usage(format!(
            "{shown}: not a qcowfs mount, but {} of {}: name the mount point of a view",
            mount.fs_type.display(),
            mount.source.display()
        )));
    }
    let file = mount.path.join(STATUS_FOLDER).join(STATUS_FILE);
    let answer = within(ANSWER, || std::fs::read(file));
    match answer.map_err(|e| Error::io(path, e))? {
        None => Err(Error::Usage(format!(
            "{shown}: mounted, but the view does not answer: its process is stopped, or waits for \
             a slow source (`ps -C qcowfs` shows it)"
        ))),
        Some(Ok(text)) => Ok(text),
        Some(Err(e)) => Err(Error::Usage(match e.raw_os_error() {
            Some(libc::ENOTCONN | libc::ECONNABORTED) => format!(
                "{shown}: the process of this view is gone: mount it again, which takes away what is \
                 left of it; `qcowfs umount {shown}` does so, too"
            ),
            Some(libc::EACCES | libc::EPERM) => {
                format!("{shown}: only the user who mounted this view may ask for its status")
            }
            Some(libc::ENOENT) => format!(
                "{shown}: this view has no status: the source has a folder {STATUS_FOLDER} of its \
                 own, or it is served by an older qcowfs"
            ),
            _ => format!("{shown}: cannot read its status: {e}"),
        })),
    }
}
