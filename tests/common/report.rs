//! Lines that must be seen whether or not a test passes.

use std::io::Write as _;

/// Writes a line past the test harness, which hides the output of tests that pass.
pub(crate) fn say(line: &str) {
    // One write for the whole line: tests run at the same time.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Says that a test did not run, and why. `contrib/test.sh` counts these lines.
pub(crate) fn skipped(why: &str, test: &str) {
    say(&format!("SKIPPED ({why}): {test}"));
}

/// Whether this process is root; says that `test` is skipped where it is not.
pub(crate) fn root_or_skip(test: &str) -> bool {
    let root = super::run::is_root();
    if !root {
        skipped("needs root", test);
    }
    root
}
