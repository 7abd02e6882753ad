#![no_main]

use libfuzzer_sys::fuzz_target;
use qcowfs_fuzz::targets::header;

fuzz_target!(|data: &[u8]| header::run(data));
