//! A tutorial's text, taken apart into what is typed and what must come back.
//!
//! Fenced blocks of the kind `console` hold commands: lines that start with `$ `, each with its
//! further lines (`> `), and what it prints. `...` stands for what varies: alone on a line for any
//! number of lines, within one for any text.
//!
//! Comments (`<!-- ... -->`, alone on a line) say what a reader need not see:
//!
//! | comment | what it means |
//! |---|---|
//! | `sample: NAME at FOLDER` | the sample backups `NAME` of tests/data lie at `FOLDER`; a new session begins |
//! | `fails` | the last command of the next block ends with an error |
//! | `not run: WHY` | the next block cannot be run by a test |
//! | `needs: WHAT` | the next block can only be run where the kernel has `WHAT`: `device-mapper`, `nbd` or both |

use std::path::Path;

/// What is done with a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It runs, and ends well.
    Runs,
    /// It runs, and ends with an error.
    Fails,
    /// It cannot run in a test, and why.
    NotRun(String),
    /// It runs where this is there.
    Needs(String),
}

/// A command, and what must come back.
#[derive(Debug)]
pub(crate) struct Step {
    /// Line of the document, from 1.
    pub(crate) line: usize,
    pub(crate) command: String,
    pub(crate) expected: Vec<String>,
    pub(crate) mark: Mark,
}

/// Sample backups, and the folder that the document has them in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) case: String,
    pub(crate) folder: String,
}

/// Commands that are typed into one shell.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) samples: Vec<Sample>,
    pub(crate) steps: Vec<Step>,
}

/// The sessions of a document; panics where it is not written as it must be.
pub(crate) fn read(name: &str, text: &str) -> Vec<Session> {
    let mut reader = Reader { name, ..Reader::default() };
    for (number, line) in text.lines().enumerate() {
        reader.take(number + 1, line);
    }
    assert!(reader.fence.is_none(), "{name}: a block is not closed");
    assert!(reader.next.is_none(), "{name}: a comment at the end has no block");
    reader.sessions
}

/// The same of a file.
pub(crate) fn read_file(path: &Path) -> Vec<Session> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    read(&path.file_name().expect("a name").to_string_lossy(), &text)
}

#[derive(Default)]
struct Reader<'a> {
    name: &'a str,
    sessions: Vec<Session>,
    /// The mark of the next block.
    next: Option<Mark>,
    /// The block that is open.
    fence: Option<Fence>,
    /// Whether the last line was a comment with a sample: then a further one joins it.
    joins: bool,
}

struct Fence {
    /// What the block's lines are indented by.
    indent: usize,
    console: bool,
    mark: Mark,
    steps: Vec<Step>,
}

impl Reader<'_> {
    fn take(&mut self, number: usize, line: &str) {
        let text = line.trim();
        if let Some(fence) = &mut self.fence {
            if text == "```" {
                self.close();
            } else if fence.console {
                let indent = fence.indent.min(line.len() - line.trim_start().len());
                fence.line(self.name, number, line[indent..].trim_end());
            }
        } else if let Some(kind) = text.strip_prefix("```") {
            self.open(number, line.len() - line.trim_start().len(), kind);
        } else if let Some(comment) = text.strip_prefix("<!--").and_then(|t| t.strip_suffix("-->"))
        {
            self.comment(number, comment.trim());
        } else {
            self.must_be_no_command(number, line);
            self.joins &= text.is_empty();
        }
    }

    fn open(&mut self, number: usize, indent: usize, kind: &str) {
        let console = kind == "console";
        let known = console || ["toml", "text", "json"].contains(&kind);
        assert!(
            known,
            "{}:{number}: a block of the kind {kind:?}: its commands would not be run",
            self.name
        );
        let mark = self.next.take().unwrap_or(Mark::Runs);
        assert!(console || mark == Mark::Runs, "{}:{number}: a marked block of text", self.name);
        self.fence = Some(Fence { indent, console, mark, steps: Vec::new() });
    }

    fn close(&mut self) {
        let fence = self.fence.take().expect("an open block");
        let mut steps = fence.steps;
        let last = steps.len().saturating_sub(1);
        for (number, step) in steps.iter_mut().enumerate() {
            let failure_of_another = fence.mark == Mark::Fails && number != last;
            step.mark = if failure_of_another { Mark::Runs } else { fence.mark.clone() };
        }
        assert!(!fence.console || !steps.is_empty(), "{}: an empty block", self.name);
        if self.sessions.is_empty() {
            self.sessions.push(Session::default());
        }
        self.sessions.last_mut().expect("a session").steps.append(&mut steps);
        self.joins = false;
    }

    fn comment(&mut self, number: usize, comment: &str) {
        let place = format!("{}:{number}", self.name);
        if let Some(sample) = comment.strip_prefix("sample: ") {
            let parts = sample.split_once(" at ").unwrap_or_else(|| panic!("{place}: no folder"));
            let (case, folder) = (parts.0.to_owned(), parts.1.to_owned());
            if !self.joins {
                self.sessions.push(Session::default());
            }
            self.sessions.last_mut().expect("a session").samples.push(Sample { case, folder });
            self.joins = true;
            return;
        }
        let mark = if comment == "fails" {
            Mark::Fails
        } else if let Some(why) = comment.strip_prefix("not run: ") {
            Mark::NotRun(why.to_owned())
        } else if let Some(what) = comment.strip_prefix("needs: ") {
            Mark::Needs(what.to_owned())
        } else {
            panic!("{place}: a comment that is not known: {comment:?}")
        };
        assert!(self.next.replace(mark).is_none(), "{place}: two marks for one block");
    }

    /// A command outside of a block of commands would not be run.
    fn must_be_no_command(&self, number: usize, line: &str) {
        let is_code = line.starts_with("    ");
        let is_command = is_code && line.trim_start().starts_with("$ ");
        assert!(!is_command, "{}:{number}: a command that is not run: {line}", self.name);
    }
}

impl Fence {
    fn line(&mut self, name: &str, number: usize, text: &str) {
        if let Some(command) = text.strip_prefix("$ ") {
            let command = command.to_owned();
            self.steps.push(Step { line: number, command, expected: Vec::new(), mark: Mark::Runs });
            return;
        }
        let step = self.steps.last_mut();
        let step = step.unwrap_or_else(|| panic!("{name}:{number}: output before a command"));
        match text.strip_prefix("> ").or((text == ">").then_some("")) {
            Some(more) if step.expected.is_empty() => {
                step.command.push('\n');
                step.command.push_str(more);
            }
            _ => step.expected.push(text.to_owned()),
        }
    }
}

/// Whether lines are as expected, `...` being what varies.
pub(crate) fn matches(expected: &[String], lines: &[String]) -> bool {
    let Some((first, rest)) = expected.split_first() else { return lines.is_empty() };
    if first == "..." {
        return (0..=lines.len()).any(|n| matches(rest, &lines[n..]));
    }
    let Some((line, others)) = lines.split_first() else { return false };
    line_matches(first, line) && matches(rest, others)
}

fn line_matches(expected: &str, line: &str) -> bool {
    let Some((before, after)) = expected.split_once("...") else { return expected == line };
    let Some(rest) = line.strip_prefix(before) else { return false };
    let starts = (0..=rest.len()).filter(|n| rest.is_char_boundary(*n));
    starts.into_iter().any(|n| line_matches(after, &rest[n..]))
}
