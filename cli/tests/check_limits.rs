//! How much memory and time a check may take, and what it shows meanwhile.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::{Path, PathBuf};

use common::watched::*;
use common::*;

const MIB: u64 = 1 << 20;

/// Checks an image with several numbers of threads, within the bounds. Gives the exit code.
#[track_caller]
fn bounded(path: &Path) -> Option<i32> {
    let mut codes = Vec::new();
    for threads in ["1", "16"] {
        let args = ["check", "--threads", threads, "--output=json", path.to_str().unwrap()];
        let (ran, peak, seconds) = measured(&args)?;
        let place = path.display();
        assert!(peak < 64 * MIB, "{place} with {threads} threads: {} KiB", peak >> 10);
        // on a slow and busy machine too
        assert!(seconds < 20.0, "{place} with {threads} threads: {seconds} s");
        codes.push(ran.code.unwrap());
    }
    assert_eq!(codes[0], codes[1], "threads make a difference");
    Some(codes[0])
}

/// An image made by qemu-img, if that is there.
fn made(folder: &Path, format: &str, size: &str, options: &str) -> Option<PathBuf> {
    if !has("qemu-img") {
        return None;
    }
    let name = format!("image.{format}");
    let options = if options.is_empty() { vec![] } else { vec!["-o", options] };
    output_of(
        folder,
        "qemu-img",
        &[&["create", "-q", "-f", format], &options[..], &[&*name, size]].concat(),
    );
    Some(folder.join(name))
}

#[test]
fn memory_stays_bounded_on_huge_images() {
    for name in ["8G", "1T", "64T"] {
        let image = fixture(&format!("qcow2/v3-sparse-{name}.qcow2"));
        let Some(code) = bounded(&image.path) else { return };
        assert_eq!(code, 0, "{name}");
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (format, size, options) in [
        ("vhdx", "64T", ""),
        ("vpc", "2040G", ""),
        ("vmdk", "2T", ""),
        ("vdi", "2T", ""),
        ("qcow2", "64G", "preallocation=metadata"),
        ("qcow2", "2G", "preallocation=metadata,cluster_size=4k,refcount_bits=64"),
    ] {
        let Some(path) = made(folder.path(), format, size, options) else { return };
        let Some(code) = bounded(&path) else { return };
        assert_eq!(code, 0, "{format} {size} {options}");
        std::fs::remove_file(path).unwrap();
    }
}

/// A VDI image whose map of `blocks` entries, each of a MiB, is one hole: every block lies at the
/// same place, that of the first.
fn hostile_vdi(folder: &Path, blocks: u32) -> PathBuf {
    let mut bytes = fixture("vdi/oracle.vdi").bytes();
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let map = 512;
    let data = (map + 4 * blocks).next_multiple_of(1 << 20);
    put(0x154, &(map).to_le_bytes());
    put(0x158, &data.to_le_bytes());
    put(0x170, &(u64::from(blocks) << 20).to_le_bytes());
    put(0x178, &(1u32 << 20).to_le_bytes());
    put(0x17c, &0u32.to_le_bytes());
    put(0x180, &blocks.to_le_bytes());
    put(0x184, &blocks.to_le_bytes());
    let path = folder.join("hostile.vdi");
    std::fs::write(&path, &bytes[..512]).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(u64::from(data) + (1 << 20)).unwrap();
    path
}

#[test]
fn a_hostile_map_takes_no_more_memory() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = hostile_vdi(folder.path(), 32 << 20);
    let Some(code) = bounded(&path) else { return };
    assert_eq!(code, 2, "every block lies where the first does");
}

#[test]
fn progress_is_shown_only_when_it_takes_longer_than_a_second() {
    let image = fixture("qcow2/v3-plain-64k.qcow2");
    let quick = diskimage(["check", "-p", image.text()]).ok();
    assert!(!quick.text().contains("/100%"), "{quick:?}");
    let slow = "pread64:delay_enter=1500000:when=2";
    let Some(ran) = with_fault(slow, Some(&image.path), &["check", "-p", image.text()]) else {
        return;
    };
    assert!(ran.text().contains("(100.00/100%)\n"), "{ran:?}");
    let Some(silent) = with_fault(slow, Some(&image.path), &["check", image.text()]) else {
        return;
    };
    assert!(!silent.ok().text().contains("/100%"));
    // the answer to a program stays whole
    let args = ["check", "-p", "--output=json", image.text()];
    let Some(ran) = with_fault(slow, Some(&image.path), &args) else { return };
    assert!(ran.json()["check-errors"] == 0 && ran.stderr.contains("/100%"), "{ran:?}");
}
