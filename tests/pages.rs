//! What is made from the command line's definition: help, manual pages, completions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::unnecessary_debug_formatting,
    reason = "a test stops where something is not as it must be, and shows names escaped"
)]

#[path = "../contrib/package/pages.rs"]
mod pages;

use clap::Command;

use pages::Parts;

/// The program and all that users can call, each with its name.
fn all() -> Vec<(String, Command)> {
    let mut program = pages::program();
    program.build();
    let mut all = vec![
        ("qcowfs".to_owned(), program.clone()),
        ("mount.qcowfs".to_owned(), qcowfs::cli::mount_helper_command()),
    ];
    for command in pages::commands(&program) {
        all.push((format!("qcowfs-{}", command.get_name()), command.clone()));
    }
    assert!(all.len() > 9, "hardly any command");
    all
}

#[test]
fn every_command_and_option_says_what_it_does() {
    for (name, command) in all() {
        assert!(command.get_about().is_some(), "{name} has no text");
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.len() > 4, "{name}: {} has no text", arg.get_id());
        }
    }
}

#[test]
fn every_command_teaches_by_examples_that_the_program_understands() {
    for (name, command) in all() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples = Parts::of(&help).examples;
        let lines: Vec<_> = examples.lines().filter_map(|line| line.strip_prefix("  ")).collect();
        let commands: Vec<_> = lines.iter().filter(|line| !line.starts_with(' ')).collect();
        assert!(commands.len() > 1, "{name}: too few examples:\n{help}");
        for line in commands.iter().filter(|line| line.starts_with("qcowfs ")) {
            // What follows two blanks explains, what follows a sign of the shell is for others.
            let ends = ["  ", "|", ">"].into_iter().filter_map(|end| line.find(end));
            let words = line[..ends.min().unwrap_or(line.len())].split_whitespace();
            let parsed = qcowfs::cli::command().try_get_matches_from(words);
            assert!(parsed.is_ok(), "{name}: {line}: {}", parsed.unwrap_err());
        }
    }
}

#[test]
fn every_command_has_a_page_with_all_its_sections() {
    let folder = tempfile::tempdir().unwrap();
    pages::write_all(folder.path()).unwrap();
    for (name, command) in all() {
        let section = if name == "mount.qcowfs" { 8 } else { 1 };
        let path = folder.path().join(format!("man/{name}.{section}"));
        let page = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let titles = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "FILES"];
        for title in titles.into_iter().chain(["\"EXIT STATUS\"", "\"SEE ALSO\""]) {
            assert!(page.contains(&format!("\n.SH {title}\n")), "{name} has no {title}");
        }
        for arg in command.get_arguments().filter_map(clap::Arg::get_long) {
            let arg = arg.replace('-', "\\-");
            assert!(page.contains(&format!("\\-\\-{arg}")), "{name}: --{arg} is not in the page");
        }
        for hidden in ["watch\\-mount", "background\\-child"] {
            assert!(!page.contains(hidden), "{name} shows {hidden}");
        }
    }
}

#[test]
fn completions_know_the_commands_and_nothing_that_is_hidden() {
    let folder = tempfile::tempdir().unwrap();
    pages::write_all(folder.path()).unwrap();
    for name in ["qcowfs", "_qcowfs", "qcowfs.fish"] {
        let text = std::fs::read_to_string(folder.path().join("completions").join(name)).unwrap();
        for word in ["restore", "status", "umount", "allow-root", "log-file"] {
            assert!(text.contains(word), "{name} does not know {word}");
        }
        for word in ["watch-mount", "background-child"] {
            assert!(!text.contains(word), "{name} shows {word}");
        }
    }
}

#[test]
fn the_parts_of_a_help_text_are_told_apart() {
    let parts = Parts::of("Examples:\n  a\n\n  b\nplain\n  c\nExit codes:\n  0  d\n\nmore");
    assert_eq!(parts.examples, "  a\n\n  b");
    assert_eq!(parts.exit_codes, "  0  d");
    assert_eq!(parts.notes, "plain\n  c\nmore");
}
