//! `diskimage check` on formats other than QCOW2: exit codes, JSON, dry runs and repairs of files.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::{Path, PathBuf};

use common::*;
use serde_json::Value;

/// A copy of an image of `testdata/` in `folder`, changed.
fn damaged(folder: &Path, file: &str, change: impl Fn(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = std::fs::read(&fixture(file).path).unwrap();
    change(&mut bytes);
    let path = folder.join(Path::new(file).file_name().unwrap());
    std::fs::write(&path, bytes).unwrap();
    path
}

fn check<'a>(path: &'a Path, more: &[&'a str]) -> Ran {
    diskimage(["check"].iter().copied().chain(more.iter().copied()).chain([path.to_str().unwrap()]))
}

fn codes(json: &Value) -> Vec<&str> {
    json["findings"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect()
}

type Damage = (&'static str, fn(&mut Vec<u8>), &'static str);

/// What is mended, format by format.
const MENDED: &[Damage] = &[
    ("vhd/qemu-dynamic.vhd", |b| b[..512].fill(0), "footer-missing"),
    ("vhd/qemu-dynamic.vhd", |b| b.truncate(b.len() - 512), "footer-missing"),
    ("vhdx/plain.vhdx", |b| b[128 << 10] ^= 1, "redundant-copy-damaged"),
    ("vhdx/plain.vhdx", |b| b[192 << 10] ^= 1, "redundant-copy-damaged"),
    ("vhdx/log.vhdx", |_| {}, "log-dirty"),
    ("vmdk/qemu-sparse.vmdk", |b| b[26 * 512..27 * 512].fill(0x5a), "redundant-copy-damaged"),
    ("vdi/oracle.vdi", |b| b[0x184] = 1, "check-error"),
    ("raw/gpt.raw", |b| b[512] = 0, "redundant-copy-damaged"),
    ("raw/gpt.raw", |b| b[1024] ^= 1, "checksum-mismatch"),
];

#[test]
fn damage_is_found_announced_mended_and_gone() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (file, change, code) in MENDED {
        let path = damaged(folder.path(), file, change);
        let before = std::fs::read(&path).unwrap();
        let found = check(&path, &["--output", "json"]);
        assert_eq!(found.code, Some(2), "{file}: {found:?}");
        assert!(codes(&found.json()).contains(code), "{file}: {found:?}");
        let plan = check(&path, &["--repair", "all", "--dry-run"]);
        assert_eq!(plan.code, Some(2), "{file}: {plan:?}");
        assert!(plan.text().contains("would write"), "{file}: {plan:?}");
        assert!(std::fs::read(&path).unwrap() == before, "{file}: a dry run wrote");
        let repaired = check(&path, &["--repair", "all"]);
        assert_eq!(repaired.code, Some(0), "{file}: {repaired:?}");
        assert_eq!(check(&path, &[]).code, Some(0), "{file}");
        let good = fixture(file);
        assert_eq!(converted(&path), converted(&good.path), "{file}: other content");
        let after = std::fs::read(&path).unwrap();
        assert_eq!(check(&path, &["--repair", "all"]).code, Some(0), "{file}");
        assert!(std::fs::read(&path).unwrap() == after, "{file}: a second repair wrote");
    }
}

/// The hash of what a conversion makes of the image.
fn converted(path: &Path) -> String {
    let out = path.parent().unwrap().join(format!("converted-{}", std::process::id()));
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let out = folder.path().join(out.file_name().unwrap());
    diskimage(["convert", path.to_str().unwrap(), out.to_str().unwrap()]).ok();
    sha256(&std::fs::read(out).unwrap())
}

#[test]
fn what_cannot_be_proven_is_refused_with_its_reason() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = damaged(folder.path(), "vhdx/plain.vhdx", |bytes| {
        let entry: [u8; 8] = bytes[3 << 20..(3 << 20) + 8].try_into().unwrap();
        bytes[(3 << 20) + 8..(3 << 20) + 16].copy_from_slice(&entry);
    });
    let before = std::fs::read(&path).unwrap();
    let ran = check(&path, &["--repair", "all"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.text().contains("not repaired"), "{ran:?}");
    assert!(ran.text().contains("nothing in the image proves what would be right"), "{ran:?}");
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn leaks_have_their_own_code_and_repair() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = damaged(folder.path(), "vdi/oracle.vdi", |bytes| {
        bytes.extend(vec![0; 1 << 20]);
        bytes[0x184] = 5;
    });
    let ran = check(&path, &["--output", "json"]);
    assert_eq!((ran.code, ran.json()["leaks"].as_u64()), (Some(3), Some(1)), "{ran:?}");
    assert_eq!(check(&path, &["--repair", "leaks"]).code, Some(0));
    assert_eq!(check(&path, &[]).code, Some(0));
}

#[test]
fn a_raw_disk_without_a_table_cannot_be_checked() {
    let ran = check(&fixture("raw/sparse.raw").path, &["-f", "raw"]);
    assert_eq!(ran.code, Some(63), "{ran:?}");
    assert_eq!(check(&fixture("raw/mbr.raw").path, &[]).code, Some(0));
}

#[test]
fn what_is_known_by_name_only_cannot_be_checked() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [("a.zip", &b"PK\x03\x04"[..]), ("a.E01", b"EVF\x09\x0d\x0a\xff\x00")] {
        let path = folder.path().join(name);
        std::fs::write(&path, [bytes, &[0; 4096]].concat()).unwrap();
        check(&path, &[]).refused(63, &path, &["not read yet"]);
    }
}

#[test]
fn an_extent_of_a_split_disk_is_checked_by_its_own_name() {
    let ran = check(&fixture("vmdk/multi-sparse.vmdk").path, &["--output", "json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(codes(&ran.json()).contains(&"not-checked"), "{ran:?}");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let files = [
        "vmdk/multi-sparse-s001.vmdk",
        "vmdk/vmfs-sparse-delta.vmdk",
        "vmdk/se-sparse-sesparse.vmdk",
    ];
    for file in files {
        let ran = check(&fixture(file).path, &["--output", "json"]);
        assert_eq!(ran.code, Some(0), "{file}: {ran:?}");
        assert!(ran.json()["total-clusters"].as_u64() > Some(0), "{file}: {ran:?}");
    }
    let path = damaged(folder.path(), files[0], |bytes| {
        let directory = u64::from_le_bytes(bytes[56..64].try_into().unwrap()) as usize * 512;
        bytes[directory..directory + 4].fill(0xff);
    });
    assert_eq!(check(&path, &[]).code, Some(2));
    assert_eq!(check(&path, &["--repair", "all"]).code, Some(0));
    assert!(std::fs::read(&path).unwrap() == std::fs::read(&fixture(files[0]).path).unwrap());
}
