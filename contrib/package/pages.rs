//! Writes what is made from the definition of the command line: a manual page for the program, one
//! for each command and one for the mount helper, and completions for bash, zsh and fish.
//!
//!     cargo run --example pages -- DIR
//!
//! DIR gets `man/` and `completions/`.

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// What ends every page that says nothing else of it.
const EXIT_CODES: &str =
    "  0  done\n  1  failed; one line on the standard error says why\n  2  wrong usage";

const FILES: [(&str, &str); 4] = [
    ("qcowfs.toml", "in any folder of the source: declares what only its owner can know (README)"),
    ("/etc/qcowfs/NAME.conf", "source, mount point and options of the service qcowfs@NAME"),
    ("/etc/fuse.conf", "user_allow_other lets ordinary users say allow_other and allow_root"),
    ("MOUNTPOINT/.qcowfs/status.json", "what `qcowfs status` tells; no listing shows it"),
];

const ENVIRONMENT: [(&str, &str); 3] = [
    ("RUST_LOG", "what is logged, as for env_logger: it counts more than -v and -q"),
    ("NO_COLOR", "if it is not empty, there are no colours, not even on a terminal"),
    (
        "NOTIFY_SOCKET, JOURNAL_STREAM",
        "set by systemd: it is told when the view answers, and how important a line of the log is",
    ),
];

/// The commands that have a page.
pub(crate) fn commands(program: &Command) -> impl Iterator<Item = &Command> {
    program.get_subcommands().filter(|command| !command.is_hide_set())
}

/// The command line without what is for the program itself.
pub(crate) fn program() -> Command {
    let whole = qcowfs::cli::command();
    let told = |text: Option<&clap::builder::StyledStr>| text.cloned().unwrap_or_default();
    Command::new("qcowfs")
        .version(env!("CARGO_PKG_VERSION"))
        .about(told(whole.get_about()))
        .long_about(told(whole.get_long_about()))
        .after_help(told(whole.get_after_help()))
        .args(whole.get_arguments().filter(|arg| !arg.is_hide_set()).cloned())
        .subcommands(commands(&whole).cloned())
        .subcommand_required(true)
        .disable_help_subcommand(true)
}

/// Writes everything beneath `folder`.
pub(crate) fn write_all(folder: &Path) -> io::Result<()> {
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let mut program = program();
    program.build();
    let mut pages: Vec<_> =
        commands(&program).map(|c| format!("qcowfs-{}(1)", c.get_name())).collect();
    pages.insert(0, "qcowfs(1)".to_owned());
    pages.extend(["mount.qcowfs(8)", "mount(8)", "qemu-img(1)"].map(str::to_owned));
    write_page(&man, program.clone(), "1", &pages)?;
    for command in commands(&program) {
        // The name with a blank is how it is called, the one with a dash is what its page is.
        let name = format!("qcowfs-{}", command.get_name());
        write_page(&man, command.clone().display_name(name), "1", &pages)?;
    }
    write_page(&man, qcowfs::cli::mount_helper_command(), "8", &pages)?;
    // The same helper under the other name that mount(8) looks for.
    fs::write(man.join("mount.fuse.qcowfs.8"), ".so man8/mount.qcowfs.8\n")?;
    for (shell, name) in
        [(Shell::Bash, "qcowfs"), (Shell::Zsh, "_qcowfs"), (Shell::Fish, "qcowfs.fish")]
    {
        let mut file = fs::File::create(completions.join(name))?;
        clap_complete::generate(shell, &mut self::program(), "qcowfs", &mut file);
    }
    Ok(())
}

fn write_page(
    folder: &Path,
    mut command: Command,
    section: &str,
    pages: &[String],
) -> io::Result<()> {
    let usage = command.render_usage().to_string();
    let (command, tables) = without_tables(command);
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let parts = Parts::of(&command.get_after_help().map(ToString::to_string).unwrap_or_default());
    let man = Man::new(command.clone())
        .title(&name)
        .section(section)
        .source(format!("qcowfs {}", env!("CARGO_PKG_VERSION")))
        .manual("qcowfs");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    let usage = usage.trim_start_matches("Usage: ");
    Roff::new().control("SH", ["SYNOPSIS"]).text([roman(usage)]).to_writer(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut rest = Roff::new();
    for (title, table) in &tables {
        verbatim(rest.control("SH", [title.as_str()]), table);
    }
    if commands(&command).next().is_some() {
        rest.control("SH", ["COMMANDS"]);
        for of in commands(&command) {
            let about = of.get_about().map(ToString::to_string).unwrap_or_default();
            tagged(&mut rest, &format!("qcowfs-{}(1)", of.get_name()), &about);
        }
    }
    verbatim(rest.control("SH", ["EXAMPLES"]), &parts.examples);
    if !parts.notes.is_empty() {
        verbatim(rest.control("SH", ["NOTES"]), &parts.notes);
    }
    let codes = if parts.exit_codes.is_empty() { EXIT_CODES } else { &parts.exit_codes };
    verbatim(rest.control("SH", ["EXIT STATUS"]), codes);
    for (title, table) in [("ENVIRONMENT", &ENVIRONMENT[..]), ("FILES", &FILES[..])] {
        rest.control("SH", [title]);
        for (what, text) in table {
            tagged(&mut rest, what, text);
        }
    }
    let own = format!("{name}({section})");
    let others: Vec<_> = pages.iter().filter(|page| **page != own).map(String::as_str).collect();
    rest.control("SH", ["SEE ALSO"]).text([roman(others.join(", "))]);
    rest.to_writer(&mut page)?;
    fs::write(folder.join(format!("{name}.{section}")), page)
}

/// Takes the tables out of the options' texts, which would not survive being filled: each gets a
/// section of its own, with the first line of the text as its name.
fn without_tables(mut command: Command) -> (Command, Vec<(String, String)>) {
    let mut tables = Vec::new();
    let args: Vec<_> = command.get_arguments().cloned().collect();
    for arg in args {
        let text = arg.get_long_help().map(ToString::to_string).unwrap_or_default();
        let Some((first, table)) = text.split_once('\n').filter(|(_, rest)| rest.starts_with("  "))
        else {
            continue;
        };
        let title = first.split(',').next().unwrap_or(first).to_uppercase();
        let help = format!("{}: see {title} below", first.trim_end_matches(':'));
        tables.push((title, table.to_owned()));
        command = command.mut_arg(arg.get_id(), |arg| arg.help(help.clone()).long_help(help));
    }
    (command, tables)
}

fn tagged(page: &mut Roff, what: &str, text: &str) {
    page.control("TP", []).text([bold(what)]).text([roman(text)]);
}

/// Lines as they are: examples and tables would not survive being filled.
fn verbatim(page: &mut Roff, text: &str) {
    // As wide as the help, for which a terminal of 80 columns has no room beside an indent.
    page.control("in", ["0"]);
    page.control("nf", []);
    for line in text.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
}

/// The parts of the text behind a command's help.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) examples: String,
    pub(crate) exit_codes: String,
    pub(crate) notes: String,
}

impl Parts {
    /// `Examples:` and `Exit codes:` at the start of a line begin their parts, which go on for as
    /// long as lines are indented or empty; all else is notes.
    pub(crate) fn of(text: &str) -> Self {
        let mut parts = Self::default();
        let mut part = &mut parts.notes;
        for line in text.lines() {
            match line {
                "Examples:" => {
                    part = &mut parts.examples;
                    continue;
                }
                "Exit codes:" => {
                    part = &mut parts.exit_codes;
                    continue;
                }
                _ if line.is_empty() || line.starts_with(' ') => {}
                _ => part = &mut parts.notes,
            }
            part.push_str(line);
            part.push('\n');
        }
        for part in [&mut parts.examples, &mut parts.exit_codes, &mut parts.notes] {
            *part = part.trim_matches('\n').to_owned();
        }
        parts
    }
}

#[allow(dead_code, reason = "its tests take the rest of this file as a module")]
fn main() -> ExitCode {
    let done = match env::args_os().nth(1) {
        Some(folder) => write_all(Path::new(&folder)),
        None => Err(io::Error::other("usage: cargo run --example pages -- DIR")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // If nobody can read it, the exit code still tells.
            let _unread = writeln!(io::stderr(), "pages: {e}");
            ExitCode::FAILURE
        }
    }
}
