//! Containers that are cut off, and media that fail under them: the same disk, or an error.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use common::*;
use diskimage::container::Spill;
use diskimage::storage::{Fault, FaultStorage, MemoryStorage};
use diskimage::{ErrorKind, OpenOptions, Result};

const DISK: usize = 300 << 10;

/// A raw disk with a partition table, data, and a hole.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; DISK];
    for (at, byte) in disk.iter_mut().enumerate().skip(512) {
        if !(100_000..180_000).contains(&at) {
            *byte = ((at * at) >> 7) as u8;
        }
    }
    disk[446 + 4] = 0x83;
    disk[446 + 8] = 1;
    disk[446 + 12] = 100;
    disk[510..512].copy_from_slice(b"\x55\xaa");
    disk
}

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    content: Vec<u8>,
}

/// Containers of each kind that the installed programs make.
fn cases() -> Vec<Case> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let run = |program: &str, args: &[&str]| {
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        tool_output(program, &args)
    };
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    write_sparse(&path("disk.raw"), &disk());
    let (raw, here) = (text("disk.raw"), folder.path().to_str().unwrap().to_owned());
    let mut cases = Vec::new();
    let mut add = |name, bytes: Option<Vec<u8>>, content: &[u8]| {
        let content = content.to_vec();
        cases.extend(bytes.map(|bytes| Case { name, bytes, content }));
    };
    let tar = |args: &[&str]| run("tar", &[&["-C", &here, "-cf", "-"][..], args].concat());
    for (name, kind) in [
        ("tar", &["--format=posix"][..]),
        ("old sparse tar", &["--format=oldgnu", "-S"]),
        ("sparse tar 1.0", &["--format=posix", "-S", "--sparse-version=1.0"]),
    ] {
        add(name, tar(&[kind, &["disk.raw"]].concat()), &disk());
    }
    add("tar.gz", tar(&["--format=oldgnu", "-S", "-z", "disk.raw"]), &disk());
    add("gzip", run("gzip", &["-c", &raw]), &disk());
    #[cfg(feature = "bzip2")]
    add("bzip2", run("bzip2", &["-c", &raw]), &disk());
    #[cfg(feature = "xz")]
    for (name, block) in [("xz", "--block-size=0"), ("xz of several blocks", "--block-size=65536")]
    {
        add(name, run("xz", &["-c", "--check=crc64", block, &raw]), &disk());
    }
    #[cfg(feature = "zstd")]
    {
        add("zstd", run("zstd", &["-q", "-c", &raw]), &disk());
        let frames = disk().chunks(70_000).flat_map(frame).collect::<Vec<_>>();
        add("zstd of several frames", Some(frames), &disk());
    }
    let vmdk = small_fixtures()
        .find(|f| f.format == "vmdk" && f.parents.is_empty() && f.virtual_size <= 4 << 20)
        .unwrap();
    std::fs::copy(&vmdk.path, path("d.vmdk")).unwrap();
    let ovf = r#"<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References><File ovf:href="d.vmdk" ovf:id="f"/></References><DiskSection><Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="1"/></DiskSection></Envelope>"#;
    std::fs::write(path("a.ovf"), ovf).unwrap();
    let content = content(&open_fixture(vmdk).unwrap()).unwrap();
    add("ova", tar(&["--format=ustar", "a.ovf", "d.vmdk"]), &content);
    cases
}

/// A frame that tells the size of its content, and has a checksum.
#[cfg(feature = "zstd")]
fn frame(data: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::bulk::Compressor::new(3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.compress(data).unwrap()
}

/// What the disk in it reads as, and how many reads that took.
fn read(bytes: &[u8], fault: Fault) -> (Result<Vec<u8>>, u64) {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(FaultStorage::new(MemoryStorage::new(bytes.to_vec()), fault));
    let options = OpenOptions::new().spill(Arc::new(Spill::new(folder.path(), 16 << 20)));
    let disk = options.open_storage(Arc::clone(&storage) as _, Path::new("container"));
    (disk.and_then(|disk| content(&disk)), storage.reads())
}

const NONE: Fault = Fault::NthRead(u64::MAX);

#[test]
fn what_is_cut_off_is_the_same_disk_or_an_error() {
    for case in cases() {
        assert!(read(&case.bytes, NONE).0.unwrap() == case.content, "{}", case.name);
        let length = case.bytes.len();
        let even = (0..20).map(|part| length * part / 20);
        for cut in even.chain([1, 20, 511, 513, 1024, length - 513, length - 9, length - 1]) {
            match read(&case.bytes[..cut], NONE).0 {
                Ok(got) => assert!(got == case.content, "{} cut at {cut}: other bytes", case.name),
                Err(error) => {
                    let fine = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::InvalidInput);
                    assert!(fine, "{} cut at {cut}: {error:?}", case.name);
                    assert!(error.file().is_some(), "{} cut at {cut}: {error:?}", case.name);
                }
            }
        }
    }
}

#[test]
fn a_read_that_fails_is_an_error_of_the_medium_or_makes_no_difference() {
    for case in cases() {
        let reads = read(&case.bytes, NONE).1;
        let mut failed = 0;
        for number in (0..reads).step_by(reads as usize / 40 + 1) {
            match read(&case.bytes, Fault::NthRead(number)).0 {
                Ok(got) => assert!(got == case.content, "{}, read {number}", case.name),
                Err(error) => {
                    assert_eq!(
                        error.kind(),
                        ErrorKind::Io,
                        "{}, read {number}: {error}",
                        case.name
                    );
                    failed += 1;
                }
            }
        }
        assert!(failed > 0, "{}: none of {reads} reads mattered", case.name);
    }
}
