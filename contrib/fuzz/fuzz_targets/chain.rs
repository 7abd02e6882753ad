#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use qcowfs_fuzz::targets::{chain, lz4_checksums};

fuzz_target!(|data: &[u8]| chain::run(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let size = fuzzer_mutate(data, size, max_size);
    if !seed.is_multiple_of(8) {
        lz4_checksums::put_right(&mut data[..size]);
    }
    size
});
