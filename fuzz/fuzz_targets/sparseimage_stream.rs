//! Fuzz target: see `diskimage_fuzz::TARGETS`.
#![no_main]

diskimage_fuzz::target!("sparseimage_stream");
