//! Fuzz target: see `diskimage_fuzz::TARGETS`.
#![no_main]

diskimage_fuzz::target!("qcow2_change");
