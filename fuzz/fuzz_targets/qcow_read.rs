//! Fuzz target: see `diskimage_fuzz::qcow_read`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| diskimage_fuzz::qcow_read(data));
