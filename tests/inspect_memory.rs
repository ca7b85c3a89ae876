//! A stream takes little memory, whatever the image. In a program of its own, whose allocator counts.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::alloc::System;
use std::io::Read;
use std::path::Path;

use cap::Cap;
use common::*;
use diskimage::inspect::{Inspect, Policy};

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

const PIECE: usize = 64 << 10;
/// What a stream may take.
const MOST: usize = 512 << 10;

/// The most memory that was taken between two pieces, and how much could be had at all.
fn peak(path: &Path) -> usize {
    let mut file = std::fs::File::open(path).unwrap();
    let mut buf = vec![0; PIECE];
    let before = MEMORY.allocated();
    let mut stream = Inspect::new(Policy::permissive()).stream();
    let mut most = 0;
    loop {
        let length = file.read(&mut buf).unwrap();
        if length == 0 || stream.push(&buf[..length]).is_refused() {
            break;
        }
        most = most.max(MEMORY.allocated() - before);
    }
    drop(stream.finish());
    most
}

#[test]
fn a_stream_takes_less_than_512_kib() {
    let mut images: Vec<_> = fixtures().iter().map(|fixture| fixture.path.clone()).collect();
    images.extend(hostile_files());
    images.retain(|path| path.metadata().is_ok_and(|m| m.is_file() && m.len() < 64 << 20));
    let mut most = (0, Path::new(""));
    for path in &images {
        most = most.max((peak(path), path));
    }
    eprintln!("{} KiB: {}", most.0 >> 10, most.1.display());
    assert!(most.0 < MOST, "{} KiB for {}", most.0 >> 10, most.1.display());
}
