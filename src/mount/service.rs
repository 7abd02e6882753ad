//! What a service manager is told (`sd_notify(3)`): that the view answers, and that it ends.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};

use log::warn;

/// Names the socket that the manager listens at.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Whoever was not told of our start is not told of our end: in the background we are not the
/// process that the manager started.
static IS_SERVICE: AtomicBool = AtomicBool::new(false);

/// Whether a service manager waits to be told that we are ready.
pub fn is_waited_for() -> bool {
    env::var_os(VARIABLE).is_some_and(|socket| !socket.is_empty())
}

/// Tells the service manager, if there is one, that the view answers.
pub fn ready(status: &str) {
    if is_waited_for() {
        IS_SERVICE.store(true, Ordering::Relaxed);
        tell(&format!("READY=1\nSTATUS={status}"));
    }
}

/// Tells the service manager that was told of our start that the view goes.
pub(super) fn stopping(status: &str) {
    if IS_SERVICE.load(Ordering::Relaxed) {
        tell(&format!("STOPPING=1\nSTATUS={status}"));
    }
}

fn tell(state: &str) {
    let Some(socket) = env::var_os(VARIABLE) else { return };
    if let Err(e) = send(&socket, state) {
        warn!("the service manager is not told `{}`: {e}", state.replace('\n', "; "));
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 128];
        let len = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    #[test]
    fn a_socket_may_have_a_path_or_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(received(&socket), "READY=1");
        let name = format!("qcowfs-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();
        assert_eq!(received(&socket), "STOPPING=1");
    }
}
