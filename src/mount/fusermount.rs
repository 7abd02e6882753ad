//! fusermount3: the set-user-ID helper that mounts and unmounts for ordinary users.
//!
//! It hands over the open FUSE device through a socket whose number it finds in its environment.

use std::ffi::OsStr;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::error::{Error, Result};

const NAME: &str = "fusermount3";
/// Where it is if the search path does not lead to it (services have short ones).
const PLACES: [&str; 3] =
    ["/usr/bin/fusermount3", "/bin/fusermount3", "/usr/local/bin/fusermount3"];
/// The variable that names the socket's descriptor.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

/// Mounts, and returns the open device.
pub(super) fn mount(mount_point: &Path, options: &OsStr) -> Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair().map_err(|e| Error::io(NAME, e))?;
    let mut child = spawn(|command| {
        let socket = theirs.try_clone()?;
        command.arg("-o").arg(options).arg("--").arg(mount_point);
        // As its standard input, the socket needs no descriptor that other children could inherit.
        command.stdin(OwnedFd::from(socket)).env(SOCKET_VARIABLE, "0");
        Ok(())
    })?;
    // With this end open here, the helper's death would not end the wait.
    drop(theirs);
    let device = receive(&ours);
    let said = finish(&mut child).map_err(|e| Error::io(NAME, e))?;
    match device {
        Ok(Some(device)) => Ok(device),
        Ok(None) => Err(Error::Usage(explain(mount_point, &said))),
        Err(e) => Err(Error::io(NAME, e)),
    }
}

/// Unmounts; `Err` holds what the helper said.
pub(super) fn unmount(mount_point: &Path, lazy: bool) -> Result<Result<(), String>> {
    let mut child = spawn(|command| {
        command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(mount_point);
        command.stdin(Stdio::null());
        Ok(())
    })?;
    let said = read_all(&mut child).map_err(|e| Error::io(NAME, e))?;
    let status = child.wait().map_err(|e| Error::io(NAME, e))?;
    Ok(if status.success() { Ok(()) } else { Err(said) })
}

fn spawn(prepare: impl Fn(&mut Command) -> io::Result<()>) -> Result<Child> {
    for program in [NAME].into_iter().chain(PLACES) {
        let mut command = Command::new(program);
        // Its messages are read by this program: they must not be translated.
        command.env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::piped());
        prepare(&mut command).map_err(|e| Error::io(NAME, e))?;
        match command.spawn() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other.map_err(|e| Error::io(program, e)),
        }
    }
    let what = "fusermount3 is not installed, and only root mounts without it: \
                install the package fuse3";
    Err(Error::Usage(what.to_owned()))
}

/// The descriptor that came with the one byte of message; `None`: the helper gave up.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8];
    loop {
        let mut message = [IoSliceMut::new(&mut byte)];
        match recvmsg(socket, &mut message, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

fn finish(child: &mut Child) -> io::Result<String> {
    let said = read_all(child)?;
    child.wait()?;
    Ok(said)
}

/// What it writes to its standard error, on one line.
fn read_all(child: &mut Child) -> io::Result<String> {
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_end(&mut said)?;
    }
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Ok(lines.join("; "))
}

/// What to do about a refusal.
fn explain(mount_point: &Path, said: &str) -> String {
    let mount_point = mount_point.display();
    if said.contains("user_allow_other") {
        return "ordinary users may use allow_other and allow_root only if the system allows it: \
                add the line `user_allow_other` to /etc/fuse.conf"
            .to_owned();
    }
    if said.contains("no write access") || said.contains("not owner") {
        return format!(
            "{mount_point}: ordinary users mount only on a folder that is theirs and writable \
             ({said})"
        );
    }
    if said.is_empty() {
        return format!("{mount_point}: fusermount3 gave up without a word: try it as root");
    }
    format!("{mount_point}: cannot mount: {said}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_allow_other_names_the_line_to_add() {
        let said = "fusermount3: option allow_other only allowed if 'user_allow_other' is set in \
                    /etc/fuse.conf";
        let told = explain(Path::new("/mnt"), said);
        assert!(told.contains("add the line `user_allow_other` to /etc/fuse.conf"), "{told}");
    }

    #[test]
    fn any_other_refusal_is_passed_on() {
        let told = explain(Path::new("/mnt"), "fusermount3: something new");
        assert_eq!(told, "/mnt: cannot mount: fusermount3: something new");
    }
}
