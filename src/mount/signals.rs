//! The signals of a mounted view: SIGTERM and SIGINT unmount it, as soon as nobody uses it. A
//! second one does not wait: it detaches the view, and who reads in it may finish. SIGHUP has the
//! source looked at again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use log::{error, info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::service;
use super::unmount::{Outcome, OwnMount, Standing};
use super::watch::Bell;
use crate::error::Result;

/// Between two attempts to unmount a busy view.
const RETRY: Duration = Duration::from_millis(250);

/// What the end of the terminal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// The same as SIGTERM: in the foreground of a terminal.
    Unmount,
    /// Nothing, for there is none: SIGHUP has the source looked at again.
    Refresh,
}

/// From here on the signals wait for [`obey`] instead of killing the process, which would leave a
/// dead mount.
pub(super) fn hold() -> io::Result<Signals> {
    Signals::new([SIGTERM, SIGINT, SIGHUP])
}

/// Serves the signals in a thread of its own, which ends with the process. `ended` says that the
/// session is over, and with it the right to unmount anything.
pub(super) fn obey(
    mut signals: Signals,
    hangup: Hangup,
    mount: Arc<OwnMount>,
    ended: Arc<AtomicBool>,
    bell: Bell,
) -> io::Result<()> {
    let ends = move |signal| {
        let ends = signal != SIGHUP || hangup == Hangup::Unmount;
        if !ends {
            bell.ring();
        }
        ends
    };
    let serve = move || {
        while !ended.load(Ordering::Acquire) {
            let asked = signals.wait().any(&ends);
            if asked {
                service::stopping("waits until nobody uses the view any more");
            }
            let mut again = || signals.pending().any(&ends);
            if asked && unmount_when_free(&mount, &ended, &mut again) {
                // Whatever is mounted there from now on is not ours.
                break;
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(serve).map(drop)
}

/// Returns whether the mount is done with. `again` says whether another signal asks for its end.
fn unmount_when_free(
    mount: &OwnMount,
    ended: &AtomicBool,
    again: &mut impl FnMut() -> bool,
) -> bool {
    let path = mount.path.display();
    let (mut told, mut lazy) = (false, false);
    while !ended.load(Ordering::Acquire) {
        match attempt(mount, lazy) {
            Ok(Attempt::Done) if lazy => {
                warn!("{path}: detached: served until its last user lets go");
                return true;
            }
            Ok(Attempt::Done) => {
                info!("{path}: unmounted");
                return true;
            }
            Ok(Attempt::Nothing) => {
                warn!("{path}: detached or moved away: served until its last user lets go");
                return false;
            }
            Ok(Attempt::Busy) if !told => {
                warn!(
                    "{path}: busy (`fuser -vm {path}` shows who uses it): still served, and \
                     unmounted when nobody uses it; a second SIGTERM or Ctrl-C detaches it at once"
                );
                told = true;
            }
            Ok(Attempt::Busy) => {}
            Err(e) => {
                error!("{path}: cannot unmount, still served: {e}");
                return false;
            }
        }
        thread::sleep(RETRY);
        lazy |= again();
    }
    true
}

enum Attempt {
    Done,
    Busy,
    Nothing,
}

fn attempt(mount: &OwnMount, lazy: bool) -> Result<Attempt> {
    Ok(match mount.standing()? {
        Standing::Elsewhere => Attempt::Nothing,
        Standing::Covered => Attempt::Busy,
        Standing::InPlace => match mount.unmount(lazy)? {
            Outcome::Unmounted => Attempt::Done,
            Outcome::Busy => Attempt::Busy,
        },
    })
}
