//! The layers of the code: arrows go down only.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::unnecessary_debug_formatting,
    reason = "a test stops where something is not as it must be, and shows names escaped"
)]

use std::path::{Path, PathBuf};

/// The modules, top to bottom: each may use those below it, and itself.
const ORDER: [&str; 23] = [
    "cli",
    "mount",
    "fuse",
    "errno",
    "check",
    "restore",
    "tree",
    "view",
    "partition",
    "chain",
    "layout",
    "map",
    "layer",
    "codec",
    "source",
    "extent",
    "error",
    "fault_log",
    "hits",
    "page_buffer",
    "processes",
    "workers",
    "sys",
];

/// Where the FUSE crate may be named.
const FUSER: [&str; 3] = ["fuse", "errno", "mount"];

/// Where `unsafe` may be written.
const UNSAFE: &str = "sys.rs";

#[test]
fn modules_use_only_what_lies_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    assert!(files.len() > 5, "hardly any source was found");
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source file");
        let name = file.strip_prefix(&src).expect("a file in src");
        found.extend(violations(name, &text));
    }
    assert!(found.is_empty(), "arrows that go up:\n{}", found.join("\n"));
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// What a file, named relative to `src`, does that it must not do: `file:line: what`.
fn violations(file: &Path, text: &str) -> Vec<String> {
    let names: Vec<_> = file.iter().map(|n| n.to_str().expect("a plain name")).collect();
    let module = names[0].strip_suffix(".rs").unwrap_or(names[0]);
    // Tests may reach for whatever they need; lib.rs declares the modules.
    if module == "lib" || names.iter().any(|n| *n == "tests.rs" || *n == "tests") {
        return Vec::new();
    }
    let code = without_tests(&without_text(text));
    let line_of = |at: usize| code[..at].matches('\n').count() + 1;
    let mut found = Vec::new();
    let mut report = |at: usize, what: String| {
        found.push(format!("src/{}:{}: {what}", file.display(), line_of(at)));
    };
    let own = ORDER.iter().position(|m| *m == module);
    if own.is_none() && module != "main" {
        report(0, format!("module {module} has no place in the order"));
    }
    for (at, used) in crate_names(&code) {
        match (own, ORDER.iter().position(|m| *m == used)) {
            (Some(own), Some(other)) if own <= other => {}
            _ => report(at, format!("{module} uses {used}")),
        }
    }
    for (at, hops) in super_chains(&code) {
        let last = names.last().is_some_and(|n| *n == "mod.rs");
        if hops >= names.len() - usize::from(last) {
            report(at, "`super` leads out of the module: write `crate::`".into());
        }
    }
    for at in words(&code, "fuser") {
        if !FUSER.contains(&module) {
            report(at, format!("{module} names fuser"));
        }
    }
    for at in words(&code, "unsafe") {
        if file != Path::new(UNSAFE) {
            report(at, "unsafe".into());
        }
    }
    for at in words(&code, "qcowfs") {
        let cli = code[at..].starts_with("qcowfs::cli");
        if module == "main" && !cli {
            report(at, "main uses more than cli".into());
        }
    }
    found
}

/// Where `word` stands by itself.
fn words(code: &str, word: &str) -> Vec<usize> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let alone = |at: &usize| {
        let before = code[..*at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    };
    code.match_indices(word).map(|(at, _)| at).filter(alone).collect()
}

/// The modules named after `crate::`, groups in braces taken apart.
fn crate_names(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in words(code, "crate") {
        // `pub(crate)` is not a path.
        let Some(rest) = code[at + 5..].strip_prefix("::") else { continue };
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            let mut taken = false;
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 && c == ',' {
                    found.push((at, std::mem::take(&mut name)));
                    taken = false;
                } else if c == ':' {
                    taken = true;
                } else if !taken && !c.is_whitespace() {
                    name.push(c);
                }
            }
            found.push((at, name));
        } else {
            let part = |c: &char| c.is_alphanumeric() || *c == '_';
            found.push((at, rest.chars().take_while(part).collect()));
        }
    }
    // A trailing comma leaves an empty name behind.
    found.retain(|(_, name)| !name.is_empty());
    found
}

/// Each `super::super::...` and its length.
fn super_chains(code: &str) -> Vec<(usize, usize)> {
    let starts = words(code, "super").into_iter().filter(|at| !code[..*at].ends_with("super::"));
    starts
        .filter_map(|at| {
            let mut rest = &code[at..];
            let mut hops = 0;
            while let Some(next) = rest.strip_prefix("super::") {
                hops += 1;
                rest = next;
            }
            // `pub(super)` is not a path.
            (hops > 0).then_some((at, hops))
        })
        .collect()
}

/// The code with comments, strings and characters blanked; line breaks stay.
fn without_text(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let word = code.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            string_len(rest)
        } else if c == 'r' && !word {
            raw_string_len(rest)
        } else if c == '\'' {
            char_len(rest)
        } else {
            0
        };
        if skip == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.extend(rest[..skip].chars().map(|c| if c == '\n' { c } else { ' ' }));
            rest = &rest[skip..];
        }
    }
    code
}

fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string_len(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let from = 2 + hashes;
    text[from..].find(&end).map_or(text.len(), |at| from + at + end.len())
}

/// The length of a character literal; 0 for a lifetime.
fn char_len(text: &str) -> usize {
    let mut inner = text.char_indices().skip(1);
    match inner.next() {
        // The escaped character itself may be a quote.
        Some((_, '\\')) => text[3..].find('\'').map_or(0, |at| at + 4),
        Some(_) => inner.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// The code with each item behind `#[cfg(test)]` blanked.
fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        let item = &rest[at..];
        let len = item_len(item);
        kept.extend(item[..len].chars().map(|c| if c == '\n' { c } else { ' ' }));
        rest = &item[len..];
    }
    kept + rest
}

/// The length of an item: to its semicolon, or to the brace that closes its first one.
fn item_len(item: &str) -> usize {
    let mut depth = 0;
    for (at, c) in item.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    item.len()
}

#[test]
fn arrows_that_go_up_are_found() {
    let of = |file: &str, text: &str| violations(Path::new(file), text);
    let one = |file: &str, text: &str, wanted: &str| assert_eq!(of(file, text), [wanted]);
    one("map/region.rs", "\nuse crate::view::Image;\n", "src/map/region.rs:2: map uses view");
    one("layout/mod.rs", "use crate::chain::Link;", "src/layout/mod.rs:1: layout uses chain");
    one("view.rs", "use crate::{map::A, tree::{B, C}, error::D};", "src/view.rs:1: view uses tree");
    one("view.rs", "fn f(x: crate::fuse::X) {}", "src/view.rs:1: view uses fuse");
    one("tree/mod.rs", "use fuser::FileType;", "src/tree/mod.rs:1: tree names fuser");
    one("map.rs", "fn f() { unsafe { g() } }", "src/map.rs:1: unsafe");
    one("new.rs", "", "src/new.rs:1: module new has no place in the order");
    one("main.rs", "use qcowfs::tree::T;", "src/main.rs:1: main uses more than cli");
    let out = "`super` leads out of the module: write `crate::`";
    one("view.rs", "use super::tree::T;", &format!("src/view.rs:1: {out}"));
    one("map/a.rs", "use super::super::tree::T;", &format!("src/map/a.rs:1: {out}"));
    one("map/mod.rs", "use super::tree::T;", &format!("src/map/mod.rs:1: {out}"));
}

#[test]
fn arrows_that_go_down_comments_strings_and_tests_are_let_be() {
    for (file, text) in [
        ("chain/mod.rs", "use crate::layout::Rule;\nuse crate::error::{Error, Result};"),
        ("map/a.rs", "use super::B; pub(crate) fn f() {}"),
        ("map/b/c.rs", "use super::super::a::A; pub(super) struct B;"),
        ("map.rs", "//! See [`crate::view`].\n/* crate::tree */ fn f() {}"),
        ("map.rs", "fn f() { g(\"crate::view \\\" unsafe\", r#\"crate::\"tree\"#, '\"', '\\'') }"),
        ("map.rs", "fn f<'a>(x: &'a str) {}\n#[cfg(test)]\nmod tests { use crate::view::V; }"),
        ("map.rs", "#[cfg(test)]\nuse crate::view::V;\nfn f() {}"),
        ("map/tests.rs", "use crate::view::V;"),
        ("fuse.rs", "use fuser::Request; use crate::tree::T;"),
        ("sys.rs", "fn f() { unsafe { g() } }"),
        ("main.rs", "fn main() -> ExitCode { qcowfs::cli::run() }"),
    ] {
        let found = violations(Path::new(file), text);
        assert!(found.is_empty(), "{file}: {text}\n{found:?}");
    }
}
