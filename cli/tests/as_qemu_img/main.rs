//! The command called as `qemu-img`, beside qemu-img itself: the same arguments to both, and the
//! same answers, exit codes, silence and images, but for what docs/qemu-img.md tells to differ.
#![cfg(unix)]
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests may panic; parts of one")]

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod callers;
mod commit;
mod dd;
mod errors;
mod in_place;
mod lab;
mod rebase;
mod safety;
