//! Every command of the tutorials and of README.md, run as it is written, in a place where the
//! paths that it speaks of exist; what comes back is compared with what is written below it.
//!
//! How a document marks what cannot run here: [`document`]. How it is run: [`room`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::unnecessary_debug_formatting,
    reason = "a test stops where something is not as it must be, and shows names escaped"
)]

#[path = "../common/mod.rs"]
mod common;

mod document;
mod room;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use common::report::{root_or_skip, say, skipped};
use document::{Mark, Session, Step, matches, read, read_file};

/// Documents with commands, but for the tutorials: each file in contrib/tutorials is one.
const README: &str = "README.md";
const TUTORIALS: &str = "contrib/tutorials";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn tutorials() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository().join(TUTORIALS)).expect("the tutorials");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> = paths.filter(|p| p.extension().is_some_and(|e| e == "md")).collect();
    found.sort();
    found
}

/// What is missing here for commands that need `what`, several being parted by commas.
fn missing(what: &str) -> Option<String> {
    let missing = what.split(", ").filter(|what| {
        let there = match *what {
            "device-mapper" => "/sys/class/misc/device-mapper",
            "nbd" => "/sys/block/nbd0",
            other => panic!("nobody knows how to look for {other:?}"),
        };
        !Path::new(there).exists()
    });
    let missing: Vec<_> = missing.collect();
    (!missing.is_empty()).then(|| format!("this kernel has not: {}", missing.join(", ")))
}

fn reason_not_to_run(mark: &Mark) -> Option<String> {
    match mark {
        Mark::Runs | Mark::Fails => None,
        Mark::NotRun(why) => Some(why.clone()),
        Mark::Needs(what) => missing(what),
    }
}

/// Runs documents, and panics with all that did not come back as written.
fn check(paths: &[PathBuf]) {
    let wrong: Vec<_> = paths.iter().flat_map(|path| wrong_in(path)).collect();
    assert!(wrong.is_empty(), "not as written:\n\n{}", wrong.join("\n"));
}

fn wrong_in(path: &Path) -> Vec<String> {
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    let mut wrong = Vec::new();
    if !root_or_skip(&name) {
        return wrong;
    }
    let (mut run, mut not_run) = (0, 0);
    for session in read_file(path) {
        for step in &session.steps {
            if let Some(why) = reason_not_to_run(&step.mark) {
                let command = step.command.replace("\\\n", "");
                skipped(&why, &format!("{name}:{}: $ {command}", step.line));
                not_run += 1;
            } else {
                run += 1;
            }
        }
        wrong.extend(faults(&name, &session));
    }
    say(&format!("{name}: {run} commands run, {not_run} not"));
    wrong
}

fn faults(name: &str, session: &Session) -> Vec<String> {
    let answers = room::answers(session, |mark| reason_not_to_run(mark).is_none());
    let mut found = Vec::new();
    for (step, answer) in session.steps.iter().zip(&answers.steps) {
        match answer {
            Some(answer) if is_right(step, answer) => {}
            Some(answer) => found.push(format!(
                "{name}:{}: $ {}\n  exit code {}\n  written:\n{}\n  came back:\n{}\n",
                step.line,
                step.command,
                answer.code,
                step.expected.join("\n"),
                answer.lines.join("\n")
            )),
            None if reason_not_to_run(&step.mark).is_some() => {}
            None => found.push(format!("{name}:{}: the session ended before it", step.line)),
        }
    }
    if !answers.left.is_empty() {
        found.push(format!("{name}: left behind at the end:\n{}", answers.left));
    }
    found
}

fn is_right(step: &Step, answer: &room::Answer) -> bool {
    let fails = step.mark == Mark::Fails;
    (answer.code != 0) == fails && matches(&step.expected, &answer.lines)
}

#[test]
fn every_command_of_the_tutorials_does_what_is_written() {
    let found = tutorials();
    assert!(found.len() >= 8, "tutorials are missing: {found:?}");
    check(&found);
}

#[test]
fn every_command_of_the_readme_does_what_is_written() {
    check(&[repository().join(README)]);
}

#[test]
fn the_readme_leads_to_every_tutorial() {
    let text = std::fs::read_to_string(repository().join(README)).expect("README.md");
    for path in tutorials() {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(
            text.contains(&format!("]({TUTORIALS}/{name})")),
            "README.md has no link to {name}"
        );
    }
}

#[test]
fn a_document_is_read_as_it_is_meant() {
    let text = "
<!-- sample: one at /backups/a -->
<!-- sample: two at /backups/b -->

```console
$ first \\
> --more
said
> said, too
```

 1. Text.

    <!-- fails -->
    ```console
    $ well
    $ badly
      indented
    ```
<!-- not run: it is only a test -->
```console
$ never
```
<!-- sample: three at /backups -->
```console
$ again
```
";
    let sessions = read("text", text);
    let samples: Vec<_> = sessions[0].samples.iter().map(|s| s.folder.as_str()).collect();
    assert_eq!(samples, ["/backups/a", "/backups/b"]);
    assert_eq!(sessions[1].samples[0].case, "three");
    let steps = &sessions[0].steps;
    let commands: Vec<_> = steps.iter().map(|s| s.command.as_str()).collect();
    assert_eq!(commands, ["first \\\n--more", "well", "badly", "never"]);
    assert_eq!(steps[0].expected, ["said", "> said, too"]);
    assert_eq!(steps[2].expected, ["  indented"]);
    assert_eq!((&steps[1].mark, &steps[2].mark), (&Mark::Runs, &Mark::Fails));
    assert_eq!(steps[3].mark, Mark::NotRun("it is only a test".to_owned()));
    assert_eq!(steps[0].line, 6);
}

#[test]
fn a_command_that_would_not_be_run_is_found() {
    for text in ["```sh\nls\n```\n", "    $ ls\n", "<!-- skip: it -->\n", "```console\n$ ls\n"] {
        let reading = std::panic::catch_unwind(|| read("text", text));
        assert!(reading.is_err(), "{text:?} was read");
    }
}

#[test]
fn dots_stand_for_what_varies_and_for_nothing_else() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let same = |expected: &str, came: &str| matches(&lines(expected), &lines(came));
    assert!(same("a\n...\nd", "a\nb\nc\nd") && same("a\n...", "a") && same("a ... c", "a b c"));
    assert!(same("...b...", "abc") && same("", ""));
    assert!(!same("a\n...\nd", "a\nb\nc") && !same("a ... c", "a b d") && !same("a", "a\nb"));
    assert!(!same("", "a") && !same("a", ""));
}

#[test]
fn what_is_not_as_written_is_told() {
    if !root_or_skip("what_is_not_as_written_is_told") {
        return;
    }
    let text = "
<!-- sample: missing-base at /backups -->
```console
$ true
$ false
$ echo as written
as written
$ echo other
as written
$ mount -t tmpfs none /mnt/files
```
<!-- fails -->
```console
$ true
```
";
    let told = faults("text", &read("text", text).remove(0)).join("\n");
    let lines: BTreeSet<_> = told.lines().filter(|l| l.starts_with("text:")).collect();
    let wanted = ["text:5: $ false", "text:8: $ echo other", "text:14: $ true"];
    assert!(wanted.iter().all(|w| lines.contains(w)), "{told}");
    assert!(lines.contains("text: left behind at the end:"), "{told}");
    assert!(told.contains("mounted: /mnt/files") && lines.len() == 4, "{told}");
}
