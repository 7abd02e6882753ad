#![no_main]

use libfuzzer_sys::fuzz_target;
use qcowfs_fuzz::targets::image;

fuzz_target!(|data: &[u8]| image::run(data));
