//! System calls that fail while a disk is converted, made to fail by strace.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use common::*;
use tempfile::TempDir;

/// How a file system without nameless files answers: the first call that opens the folder asks.
const NO_NAMELESS: &str = if cfg!(target_arch = "x86_64") {
    "open:error=EOPNOTSUPP:when=1"
} else {
    "openat:error=EOPNOTSUPP:when=1"
};

/// A folder to convert into, and the target in it.
fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    (dir, target)
}

/// `diskimage convert` with a fault: see [`watched::started`].
fn started(
    fault: &str,
    path: Option<&Path>,
    args: &[&str],
) -> Option<(Child, tempfile::NamedTempFile)> {
    watched::started(fault, path, &[&["convert"], args].concat())
}

fn with_fault(fault: &str, path: Option<&Path>, args: &[&str]) -> Option<Ran> {
    watched::with_fault(fault, path, &[&["convert"], args].concat())
}

#[test]
fn a_file_system_without_nameless_files_gets_a_temporary_name() {
    let (dir, target) = place();
    let image = fixture("qcow2/v3-zlib-64k.qcow2");
    let out = target.to_str().unwrap();
    for _new_then_replaced in 0..2 {
        let Some(ran) = with_fault(NO_NAMELESS, Some(dir.path()), &[image.text(), out]) else {
            return;
        };
        ran.ok();
        assert_eq!(entries(dir.path()), ["out.raw"]);
        assert_eq!(Some(sha256(&std::fs::read(&target).unwrap())), image.guest_sha256);
    }
    // an error removes it
    let cut = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(cut.path(), &image.bytes()[..0x51000]).unwrap();
    let args = [cut.path().to_str().unwrap(), out];
    let Some(ran) = with_fault(NO_NAMELESS, Some(dir.path()), &args) else { return };
    ran.refused(1, cut.path(), &["(at offset 0x"]);
    assert_eq!(entries(dir.path()), ["out.raw"]);
}

#[test]
fn a_signal_removes_the_temporary_name() {
    let (dir, target) = place();
    let image = fixture("qcow2/v3-sparse-8G.qcow2");
    let args = ["-S", "0", image.text(), target.to_str().unwrap()];
    let Some((mut child, log)) = started(NO_NAMELESS, Some(dir.path()), &args) else { return };
    while entries(dir.path()).is_empty() {
        if child.try_wait().unwrap().is_some() {
            let ran = finished(child);
            return skipped(&format!("tracing is not permitted: {}", ran.stderr.trim()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let hidden = entries(dir.path());
    assert!(hidden[0].starts_with(".out.raw.") && hidden[0].ends_with(".part"), "{hidden:?}");
    let log = std::fs::read_to_string(log.path()).unwrap();
    let process = log.split_whitespace().next().unwrap();
    let script = format!("kill -INT {process}");
    assert_eq!(ran(Command::new("sh").args(["-c", &script])).code, Some(0));
    assert_eq!(finished(child).code, Some(130));
    assert!(entries(dir.path()).is_empty(), "{:?}", entries(dir.path()));
}

#[test]
fn a_failed_write_sync_or_link_leaves_nothing() {
    let (dir, target) = place();
    let image = fixture("cloud.qcow2");
    let args = [image.text(), target.to_str().unwrap()];
    for (fault, words) in [
        ("pwrite64:error=EIO:when=3", ["cannot write: Input/output error", "(at offset 0x"]),
        ("pwrite64:error=EDQUOT:when=2", ["cannot write: Disk quota exceeded", "(at offset 0x"]),
        ("fsync:error=EIO:when=1", ["cannot write the file to its medium", "Input/output error"]),
        ("ftruncate:error=ENOSPC", ["cannot set the size", "No space left on device"]),
        ("linkat:error=EACCES", ["cannot give the file its name", "Permission denied"]),
    ] {
        let Some(ran) = with_fault(fault, None, &args) else { return };
        ran.refused(1, &target, &words);
        assert!(entries(dir.path()).is_empty(), "{fault}");
    }
    // an older file survives the failure to replace it
    std::fs::write(&target, "old").unwrap();
    let Some(ran) = with_fault("rename:error=EACCES", None, &args) else { return };
    ran.refused(1, &target, &["cannot give the file its name"]);
    assert_eq!(std::fs::read(&target).unwrap(), b"old");
    assert_eq!(entries(dir.path()), ["out.raw"]);
}

#[test]
fn a_call_that_is_interrupted_is_made_again() {
    let (_dir, target) = place();
    let image = fixture("cloud.qcow2");
    let args = [image.text(), target.to_str().unwrap()];
    // reads of the image only, since the loader of the program reads too
    for (call, path) in [("pread64", Some(&*image.path)), ("pwrite64", None)] {
        let fault = format!("{call}:error=EINTR:when=2+3");
        let Some(ran) = with_fault(&fault, path, &args) else { return };
        ran.ok();
        assert_eq!(Some(sha256(&std::fs::read(&target).unwrap())), image.guest_sha256, "{call}");
    }
}

#[test]
fn a_medium_that_fails_is_no_damage_of_the_image_but_can_be_salvaged() {
    let (dir, target) = place();
    let image = fixture("qcow2/v3-prealloc-full.qcow2");
    let args = ["--threads=1", "--reflink=never", image.text(), target.to_str().unwrap()];
    let fault = "pread64:error=EIO:when=12+";
    let Some(ran) = with_fault(fault, Some(&image.path), &args) else { return };
    ran.refused(1, &image.path, &["cannot read: Input/output error", "(at offset 0x"]);
    assert!(entries(dir.path()).is_empty());
    let salvage = [&["--salvage", "--output=json"][..], &args].concat();
    let Some(ran) = with_fault(fault, Some(&image.path), &salvage) else { return };
    assert_eq!(ran.code, Some(3), "{ran:?}");
    let whole = diskimage(["convert", image.text(), "-"]).ok().stdout;
    let mut wanted = whole.clone();
    for lost in ran.json()["lost"].as_array().unwrap() {
        let number = |key: &str| lost[key].as_u64().unwrap() as usize;
        wanted[number("start")..number("start") + number("length")].fill(0);
    }
    assert!(std::fs::read(&target).unwrap() == wanted && wanted != whole);
}

#[test]
fn what_the_kernel_does_not_copy_is_read_and_written() {
    let (_dir, target) = place();
    let image = fixture("qcow2/v3-prealloc-full.qcow2");
    let args = [image.text(), target.to_str().unwrap()];
    for how in ["error=EIO", "error=EXDEV", "error=ENOSPC", "error=EINTR:when=1", "retval=0"] {
        let fault = format!("copy_file_range:{how}");
        let Some(ran) = with_fault(&fault, None, &args) else { return };
        ran.ok();
        let sum = sha256(&std::fs::read(&target).unwrap());
        assert_eq!(Some(sum), image.guest_sha256, "{how}");
        std::fs::remove_file(&target).unwrap();
    }
}
