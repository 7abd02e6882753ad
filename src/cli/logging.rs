//! Where the log goes, and how much of it.

use std::collections::HashSet;
use std::env;
use std::io::{self, Write};
use std::path::Path;
use std::process;

use clap::Args;
use env_logger::{Builder, Logger, Target};
use log::{Level, Log, Metadata, Record};
use parking_lot::Mutex;
use syslog::{BasicLogger, Facility, Formatter3164};

use super::log_file::LogFile;
use crate::error::{Error, Result};

/// Overrides the options, in `env_logger`'s language.
const VARIABLE: &str = "RUST_LOG";

/// Where options come in the help that all commands have: behind their own, before `--help`.
const LAST: usize = 900;

/// How much is logged.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Verbosity {
    /// Log more: -v what happens, -vv details, -vvv every request
    #[arg(short, long, action = clap::ArgAction::Count, global = true, display_order = LAST)]
    verbose: u8,

    /// Log errors only; no notes, no progress, and no summary of a restore
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = LAST)]
    quiet: bool,
}

impl Verbosity {
    /// Whether only errors are wanted.
    pub(super) fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Says what is good to know, unless only errors are wanted.
    pub(super) fn note(self, what: &str) {
        if !self.quiet {
            super::complain(&format!("note: {what}"));
        }
    }

    /// In `env_logger`'s language. What fuser says is seldom for users: it stays two steps behind.
    fn filters(self) -> &'static str {
        match (self.quiet, self.verbose) {
            (true, _) => "error",
            (false, 0) => "warn,fuser=error",
            (false, 1) => "info,fuser=error",
            (false, 2) => "debug,fuser=warn",
            (false, _) => "trace,fuser=debug",
        }
    }
}

/// Where the log goes.
#[derive(Debug)]
pub(super) enum Destination {
    /// The standard error.
    Terminal,
    /// The same, of a command that ends: what it says more than once is read once.
    TerminalOnce,
    /// The end of a file.
    File(LogFile),
    /// The system's log, if there is one.
    Syslog,
}

impl Destination {
    /// Opens a file to append to.
    pub(super) fn append_to(path: &Path) -> Result<Self> {
        LogFile::open(path).map(Self::File).map_err(|e| {
            let path = path.display();
            Error::Usage(format!("{path}: the log cannot go there: {e}; name another --log-file"))
        })
    }
}

/// Starts logging; once per process.
pub(super) fn start(verbosity: Verbosity, destination: Destination) -> Result<()> {
    let mut builder = Builder::new();
    let overridden = env::var(VARIABLE).ok().filter(|filters| !filters.is_empty());
    builder.parse_filters(overridden.as_deref().unwrap_or(verbosity.filters()));
    let filter = match destination {
        Destination::Terminal if is_journal() => builder.format(for_journal).build(),
        Destination::Terminal => builder.build(),
        Destination::TerminalOnce => return start_once(builder.build()),
        Destination::File(file) => builder.target(Target::Pipe(Box::new(file))).build(),
        Destination::Syslog => return start_syslog(builder.build()),
    };
    let level = filter.filter();
    set(Box::new(filter))?;
    log::set_max_level(level);
    Ok(())
}

/// Whether the standard error leads to systemd's journal, which knows the time and wants to know how
/// important a line is (`systemd.exec(5)`, `sd-daemon(3)`).
pub(super) fn is_journal() -> bool {
    let stream = env::var("JOURNAL_STREAM").unwrap_or_default();
    let Some((device, inode)) = stream.split_once(':') else { return false };
    let own = rustix::fs::fstat(io::stderr());
    own.is_ok_and(|own| device.parse() == Ok(own.st_dev) && inode.parse() == Ok(own.st_ino))
}

/// What the journal takes for the importance of a line; syslog's numbers.
pub(super) fn journal_mark(level: Level) -> &'static str {
    match level {
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

fn for_journal(out: &mut env_logger::fmt::Formatter, record: &Record<'_>) -> io::Result<()> {
    let mark = journal_mark(record.level());
    let text = record.args().to_string();
    text.lines().try_for_each(|line| writeln!(out, "{mark}{line}"))
}

/// Whether the system has a log that takes messages.
pub(super) fn has_syslog() -> bool {
    syslog::unix(formatter()).is_ok()
}

fn formatter() -> Formatter3164 {
    Formatter3164 {
        facility: Facility::LOG_DAEMON,
        hostname: None,
        process: "qcowfs".to_owned(),
        pid: process::id(),
    }
}

fn start_syslog(filter: Logger) -> Result<()> {
    // Containers have none: the view is served all the same, and the user was told.
    let Ok(logger) = syslog::unix(formatter()) else { return Ok(()) };
    let level = filter.filter();
    set(Box::new(Filtered { filter, syslog: BasicLogger::new(logger) }))?;
    log::set_max_level(level);
    Ok(())
}

fn start_once(logger: Logger) -> Result<()> {
    let level = logger.filter();
    set(Box::new(Once { logger, told: Mutex::default() }))?;
    log::set_max_level(level);
    Ok(())
}

/// Says each thing once.
struct Once {
    logger: Logger,
    told: Mutex<HashSet<String>>,
}

impl Log for Once {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.logger.matches(record) && self.told.lock().insert(record.args().to_string()) {
            self.logger.log(record);
        }
    }

    fn flush(&self) {
        self.logger.flush();
    }
}

fn set(logger: Box<dyn Log>) -> Result<()> {
    log::set_boxed_logger(logger).map_err(|e| Error::Usage(e.to_string()))
}

/// The syslog crate knows one level for all modules; this adds the filters.
struct Filtered {
    filter: Logger,
    syslog: BasicLogger,
}

impl Log for Filtered {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.filter.matches(record) {
            self.syslog.log(record);
        }
    }

    fn flush(&self) {
        self.syslog.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(quiet: bool, verbose: u8, target: &str, level: Level) -> bool {
        let mut builder = Builder::new();
        builder.parse_filters(Verbosity { verbose, quiet }.filters());
        builder.build().enabled(&Metadata::builder().target(target).level(level).build())
    }

    #[test]
    fn each_v_shows_one_level_more_of_ours() {
        let shown = |verbose, level| logs(false, verbose, "qcowfs::fuse", level);
        let levels = [Level::Warn, Level::Info, Level::Debug, Level::Trace];
        for (verbose, level) in (0..).zip(levels) {
            assert!(shown(verbose, level));
            assert!(verbose == 0 || !shown(verbose - 1, level));
        }
    }

    #[test]
    fn fuser_is_silent_but_for_errors_unless_details_are_asked_for() {
        for verbose in [0, 1] {
            assert!(logs(false, verbose, "fuser::session", Level::Error));
            assert!(!logs(false, verbose, "fuser::session", Level::Warn));
        }
        assert!(logs(false, 2, "fuser::session", Level::Warn));
    }

    #[test]
    fn quiet_shows_errors_only() {
        assert!(logs(true, 0, "qcowfs::fuse", Level::Error));
        assert!(!logs(true, 0, "qcowfs::fuse", Level::Warn));
    }
}
