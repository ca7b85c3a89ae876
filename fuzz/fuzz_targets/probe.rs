//! Fuzz target: see `diskimage_fuzz::probe_any`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| diskimage_fuzz::probe_any(data));
