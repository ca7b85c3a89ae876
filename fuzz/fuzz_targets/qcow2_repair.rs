//! Fuzz target: see `diskimage_fuzz::qcow2_repair`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| diskimage_fuzz::qcow2_repair(data));
