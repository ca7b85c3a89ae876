//! Fuzz target: see `diskimage_fuzz::qcow2_check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| diskimage_fuzz::qcow2_check(data));
