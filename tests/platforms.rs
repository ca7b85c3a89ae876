//! Packages and platforms by the library alone: what is written is read again, and what is damaged is
//! never taken for whole.
#![cfg(feature = "checksum")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::path::Path;
use std::sync::Arc;

use diskimage::container::{GceOptions, OvaOptions, OvaTarget};
use diskimage::disk::GrownDisk;
use diskimage::format::vmdk::{Subformat, VmdkOptions};
use diskimage::platform::{Lint, Platform, Report};
use diskimage::storage::MemoryStorage;
use diskimage::target::FileTarget;
use diskimage::{Convert, Format, OpenOptions, Storage, Target, VirtualDisk};

/// A disk of 2 MiB that says what it is, and has data and holes.
fn disk() -> diskimage::Chain {
    let mut bytes = vec![0u8; 2 << 20];
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    // one partition, all of the disk
    bytes[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 3, 0, 1, 0, 0, 0, 0xff, 0xf, 0, 0]);
    for (at, byte) in bytes[700_000..900_000].iter_mut().enumerate() {
        *byte = ((at * at) >> 5) as u8;
    }
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes));
    let options = OpenOptions::new().format(Format::Raw);
    options.open_storage(storage, Path::new("disk")).unwrap()
}

fn lint(platform: Platform, bytes: Vec<u8>) -> Report {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes));
    Lint::new(platform).storage(storage, Path::new("image")).unwrap()
}

fn ova(folder: &Path) -> Vec<u8> {
    let (disk, path) = (disk(), folder.join("machine.ova"));
    let machine = OvaOptions::new().name("machine").cpus(2).efi(true);
    let stream = VmdkOptions::new().subformat(Subformat::StreamOptimized);
    let writer = stream.name(machine.disk_name()).writer(disk.size()).unwrap();
    let file = Box::new(FileTarget::create(&path, 0).unwrap().durable(false));
    let target = OvaTarget::new(file, &machine, writer.size()).unwrap();
    Convert::new().image(&disk, writer, None, &target).unwrap();
    Box::new(target).finish().unwrap();
    std::fs::read(path).unwrap()
}

fn archive(folder: &Path) -> Vec<u8> {
    let (disk, path) = (disk(), folder.join("disk.tar.gz"));
    let size = Platform::Gce.rounded_size(disk.size()).unwrap();
    let target = FileTarget::create(&path, 0).unwrap().durable(false);
    let writer = Box::new(GceOptions::new().writer(size).unwrap());
    let grown = GrownDisk::new(&disk, size);
    Convert::new().image(&grown, writer, None, &target).unwrap();
    Box::new(target).finish().unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn a_disk_that_grows_is_a_disk() {
    let disk = disk();
    let mut content = vec![0; (2 << 20) + 70_001];
    disk.read_exact_at(&mut content[..2 << 20], 0).unwrap();
    let grown = GrownDisk::new(&disk, content.len() as u64);
    diskimage::conformance::check(&grown, Some(&content)).unwrap();
    assert_eq!(GrownDisk::new(&disk, 5).size(), 2 << 20, "it never shrinks");
}

#[test]
fn what_the_library_writes_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let report = lint(Platform::Gce, archive(folder.path()));
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    for platform in [Platform::Vsphere, Platform::Aws, Platform::VirtualBox] {
        let report = lint(platform, ova(folder.path()));
        assert!(report.problems.is_empty(), "{platform}: {:?}", report.problems);
    }
    let report = lint(Platform::Azure, ova(folder.path()));
    assert!(report.is_refused());
    let problem = &report.problems[0];
    assert_eq!(problem.rule, "format");
    assert!(problem.source.unwrap().url.starts_with("https://"));
}

#[test]
fn a_package_that_is_cut_off_is_never_taken() {
    let folder = tempfile::tempdir().unwrap();
    let whole = archive(folder.path());
    for length in (0..whole.len()).rev().take(40).chain((0..whole.len()).step_by(997)) {
        let report = lint(Platform::Gce, whole[..length].to_vec());
        assert!(report.is_refused(), "{length} of {} bytes", whole.len());
    }
    // a disk that is cut off; what only marks the archive's end may be missing
    let whole = ova(folder.path());
    for length in (0..whole.len() - 12_000).step_by(1499) {
        let report = lint(Platform::Vsphere, whole[..length].to_vec());
        assert!(report.is_refused(), "{length} of {} bytes", whole.len());
    }
}

#[test]
fn damage_is_told_and_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let whole = archive(folder.path());
    for at in (0..whole.len()).step_by(211) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        // six bytes of the header say nothing of the content
        let harmless = (4..10).contains(&at);
        assert_eq!(lint(Platform::Gce, bytes).is_refused(), !harmless, "byte {at}");
    }
    let whole = ova(folder.path());
    for at in (0..whole.len()).step_by(509) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        for &platform in Platform::ALL {
            let report = lint(platform, bytes.clone());
            for problem in &report.problems {
                assert!(!problem.sentence.contains(char::is_control), "{problem:?}");
            }
        }
    }
}
