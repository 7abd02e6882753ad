//! The `qcowfs` program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    qcowfs::cli::run()
}
