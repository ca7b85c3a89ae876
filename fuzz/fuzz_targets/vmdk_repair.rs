//! Fuzz target: see `diskimage_fuzz::vmdk_repair`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| diskimage_fuzz::vmdk_repair(data));
