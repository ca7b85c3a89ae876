//! Fuzz target: see `diskimage_fuzz::raw_contents`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| diskimage_fuzz::raw_contents(data));
