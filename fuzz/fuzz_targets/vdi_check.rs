//! Fuzz target: see `diskimage_fuzz::vdi_check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| diskimage_fuzz::vdi_check(data));
