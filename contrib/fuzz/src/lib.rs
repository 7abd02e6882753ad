//! What the fuzzer tries. The same code runs without a fuzzer on the saved inputs
//! (`tests/fuzz_corpus.rs`), so nothing in it may need libFuzzer.

pub mod targets;
