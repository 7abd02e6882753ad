//! Into the background without `fork`: the program starts itself once more and waits for its word.
//!
//! The parent starts the same program with the same words and a hidden flag, and reads the
//! child's standard output. The child says one line, either that the view answers or why not, and
//! only then cuts itself loose: until then the terminal's signals reach both.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use log::debug;

use crate::error::{Error, Result};
use crate::sys;

/// The hidden flag, without its dashes.
pub(super) const FLAG: &str = "background-child";
const PROGRAM: &str = "/proc/self/exe";
/// The child's line if all is well; any other line is the reason of its failure.
const READY: &str = "ready";
const FAILED: &str = "failed: ";

/// Starts the child with the words of a command line, the program's name first; returns when its
/// view answers.
pub(super) fn start(words: &[OsString]) -> Result<()> {
    // A descriptor that was left open would be held, and what is locked with it, until the view is
    // unmounted.
    sys::keep_descriptors_to_ourselves().map_err(fail)?;
    let (name, arguments) = match words {
        [name, arguments @ ..] => (name.as_os_str(), arguments),
        [] => (OsStr::new("qcowfs"), &[][..]),
    };
    let mut child = Command::new(PROGRAM)
        .arg0(name)
        // In front: behind the others it could follow a `--`.
        .arg(format!("--{FLAG}"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    let mut line = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_until(b'\n', &mut line).map_err(fail)?;
    }
    let line = String::from_utf8_lossy(&line);
    match line.strip_suffix('\n') {
        Some(READY) => Ok(()),
        Some(other) => {
            // It ends right after its line; not every container has somebody else to reap it.
            child.wait().map_err(fail)?;
            let reason = other.strip_prefix(FAILED).unwrap_or(other);
            Err(Error::Usage(reason.to_owned()))
        }
        None => {
            let status = child.wait().map_err(fail)?;
            let what = format!(
                "the background process ended without a word ({status}); \
                                say --foreground to see what happens"
            );
            Err(Error::Usage(what))
        }
    }
}

/// The parent, as the child sees it.
#[derive(Debug)]
pub(super) struct Parent {
    is_waiting: bool,
}

impl Parent {
    pub(super) fn new() -> Self {
        // By way of /proc/self/exe the kernel calls the process "exe".
        if let Err(e) = rustix::thread::set_name(c"qcowfs") {
            debug!("the process keeps its name: {e}");
        }
        Self { is_waiting: true }
    }

    /// Tells the parent that the view answers, and leaves its terminal, session and folder. An
    /// error means that the parent is not there any more.
    pub(super) fn leave(&mut self) -> Result<()> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(fail)?;
        rustix::process::setsid().map_err(fail)?;
        rustix::process::chdir("/").map_err(fail)?;
        say(READY).map_err(fail)?;
        self.is_waiting = false;
        rustix::stdio::dup2_stdin(&null).map_err(fail)?;
        rustix::stdio::dup2_stdout(&null).map_err(fail)?;
        rustix::stdio::dup2_stderr(&null).map_err(fail)?;
        Ok(())
    }

    /// Tells the parent why nothing is mounted; the log, if it is not waiting any more.
    pub(super) fn tell_failure(&self, error: &Error) {
        if !self.is_waiting {
            return log::error!("{error}");
        }
        let line = super::told(error).replace('\n', "; ");
        if let Err(e) = say(&format!("{FAILED}{line}")) {
            log::error!("{error}; and the parent process did not listen: {e}");
        }
    }
}

fn fail(error: impl Into<io::Error>) -> Error {
    Error::Usage(format!("cannot go into the background: {}; say --foreground", error.into()))
}

fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}
