//! Fuzz target: see `diskimage_fuzz::qed_check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| diskimage_fuzz::qed_check(data));
