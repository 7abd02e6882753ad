#![no_main]

use libfuzzer_sys::fuzz_target;
use qcowfs_fuzz::targets::names;

fuzz_target!(|data: &[u8]| names::run(data));
