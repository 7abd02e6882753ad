#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use qcowfs_fuzz::targets::partitions;

fuzz_target!(|data: &[u8]| partitions::run(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let size = fuzzer_mutate(data, size, max_size);
    // Some sums stay wrong: to refuse them is tried, too.
    if !seed.is_multiple_of(8) {
        partitions::mend(&mut data[..size]);
    }
    size
});
