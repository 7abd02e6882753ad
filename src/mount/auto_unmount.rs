//! `auto_unmount`: a small process beside the daemon that takes the view away when the daemon dies
//! without having done so.
//!
//! Its standard input is a pipe that the daemon holds the other end of and never writes to: the end
//! of the pipe is the end of the daemon, whatever ended it.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use log::{error, info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::check::is_dead;
use super::mountinfo::MountTable;
use super::unmount::{OwnMount, Standing};
use crate::error::{Error, Result};

/// The hidden command that is the watcher.
pub const WATCH: &str = "watch-mount";

const PROGRAM: &str = "/proc/self/exe";
/// Between two looks at a view whose daemon has ended, and how many: the kernel may take a moment
/// to notice.
const PAUSE: Duration = Duration::from_millis(100);
const LOOKS: u32 = 100;

/// The watcher of a mount; it does nothing before this process ends.
#[derive(Debug)]
pub(super) struct Watcher {
    _process: Child,
}

impl Watcher {
    pub(super) fn start(own: &OwnMount) -> Result<Self> {
        let process = Command::new(PROGRAM)
            .arg0("qcowfs")
            .arg(WATCH)
            .arg(word(own))
            .current_dir("/")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // The terminal's Ctrl-C is for the daemon, which unmounts by itself then.
            .process_group(0)
            .spawn()
            .map_err(|e| {
                Error::Usage(format!("cannot have auto_unmount: {e}; mount without it"))
            })?;
        Ok(Self { _process: process })
    }
}

/// Which mount is meant, in one word: the numbers of its device, and its path.
fn word(own: &OwnMount) -> OsString {
    let (major, minor) = own.device;
    let mut word = format!("{major}:{minor}:").into_bytes();
    word.extend_from_slice(own.path.as_os_str().as_bytes());
    OsString::from_vec(word)
}

fn mount_of(word: &OsStr) -> Option<OwnMount> {
    let mut parts = word.as_bytes().splitn(3, |byte| *byte == b':');
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse().ok();
    let device = (number()?, number()?);
    let path = PathBuf::from(OsStr::from_bytes(parts.next()?));
    Some(OwnMount { path, device })
}

/// Waits for the daemon's end; then detaches its mount, if that is still there and dead.
pub fn watch(word: &OsStr) -> Result<()> {
    let Some(own) = mount_of(word) else {
        return Err(Error::Usage(format!("{WATCH} is for qcowfs itself, not for users")));
    };
    // Who ends all processes of a service means the daemon: this one ends after it.
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))
            .map_err(|e| Error::io(&own.path, e))?;
    }
    io::stdin().read_to_end(&mut Vec::new()).map_err(|e| Error::io(&own.path, e))?;
    let path = own.path.display();
    for _ in 0..LOOKS {
        if own.standing()? == Standing::Elsewhere {
            info!("{path}: unmounted by its daemon");
            return Ok(());
        }
        // The number may be another's by now: one that is alive, or that is being mounted.
        let table = MountTable::read()?;
        let there = table.top(&own.path).filter(|top| top.device == own.device);
        if there.is_some_and(is_dead) {
            own.unmount(true).inspect_err(|e| error!("{path}: cannot unmount: {e}"))?;
            warn!("{path}: its daemon died: unmounted");
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
    warn!("{path}: its daemon ended, and something else is mounted there: left alone");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_mount_is_one_word_whatever_its_path_holds() {
        for path in ["/mnt/view", "/mnt/a:b c\n", "/"] {
            let own = OwnMount { path: path.into(), device: (0, 45) };
            let read = mount_of(&word(&own)).unwrap();
            assert_eq!((read.path.as_path(), read.device), (Path::new(path), (0, 45)));
        }
        for wrong in ["", "0:45", "x:1:/mnt", "/mnt/view"] {
            assert!(mount_of(OsStr::new(wrong)).is_none(), "{wrong}");
        }
    }
}
