//! Fuzz target: see `diskimage_fuzz::parallels_read`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| diskimage_fuzz::parallels_read(data));
