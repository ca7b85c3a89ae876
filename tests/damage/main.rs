//! Damage by the byte, on every format but QCOW2: what a check must find, at which offset and in
//! which structure; and that a repair, stopped after any of its writes, leaves an image that is no
//! worse, and done to its end the content from before the damage, or says why it does not.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "../common/mod.rs"]
mod common;
mod good;
mod raw;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use common::*;
use diskimage::check::{DryRun, MemoryPatch, Repaired};
use diskimage::storage::MemoryStorage;
use diskimage::{
    CheckReport, Checking, Code, Format, Image, OpenOptions, RepairScope, Result, Storage,
    VirtualDisk,
};

/// What must be found: code, offset, structure.
type Found<'a> = (Code, u64, &'a str);

/// What must become of it.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// A repair gives back the content from before.
    Mended,
    /// A repair writes nothing, and says so with this code.
    Refused(Code),
}

fn storage(bytes: &[u8]) -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new(bytes.to_vec()))
}

fn image(format: Format, bytes: &[u8]) -> Image {
    let options = OpenOptions::new().format(format);
    options.open_image_storage(storage(bytes), Path::new("image")).unwrap()
}

fn check(format: Format, bytes: &[u8]) -> CheckReport {
    image(format, bytes).check(Checking::new()).unwrap()
}

/// The hash of the disk, or why it cannot be read.
fn hash(format: Format, bytes: &[u8]) -> Result<String> {
    let options = OpenOptions::new().format(format);
    sha256_of(&options.open_storage(storage(bytes), Path::new("image"))?)
}

fn repair(
    format: Format,
    bytes: &[u8],
    stop_after: Option<u64>,
) -> (Vec<u8>, u64, Option<Repaired>) {
    let mut patch = MemoryPatch::new(bytes.to_vec());
    if let Some(count) = stop_after {
        patch = patch.stop_after(count);
    }
    let repaired = image(format, bytes).repair(RepairScope::All, &Checking::new(), &mut patch);
    let writes = patch.writes();
    (patch.into_bytes(), writes, repaired.ok())
}

fn put(bytes: &mut [u8], at: u64, value: &[u8]) {
    bytes[at as usize..at as usize + value.len()].copy_from_slice(value);
}

fn le32(bytes: &[u8], at: u64) -> u32 {
    u32::from_le_bytes(bytes[at as usize..at as usize + 4].try_into().unwrap())
}

fn le64(bytes: &[u8], at: u64) -> u64 {
    u64::from_le_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap())
}

/// Damages the fixture `file` and holds what is found and what becomes of it against what must be.
#[track_caller]
fn damaged(file: &str, what: &str, then: Then, found: &[Found<'_>], change: impl Fn(&mut Vec<u8>)) {
    let fixture = fixture(file);
    let format: Format = fixture.format.parse().unwrap();
    let good = std::fs::read(&fixture.path).unwrap();
    let mut bytes = good.clone();
    change(&mut bytes);
    assert!(bytes != good, "{what}: nothing was damaged");
    judge(format, &format!("{file}: {what}"), &good, &bytes, then, found);
}

#[track_caller]
fn judge(format: Format, what: &str, good: &[u8], bytes: &[u8], then: Then, found: &[Found<'_>]) {
    let report = check(format, bytes);
    assert_eq!(report, check(format, bytes), "{what}: another answer");
    assert!(!report.is_clean(), "{what}: nothing is found");
    for (code, at, structure) in found {
        let same = report.findings.iter().any(|f| {
            (f.code, f.offset, f.structure.as_deref()) == (*code, Some(*at), Some(*structure))
        });
        assert!(same, "{what}: no {code} at {at:#x} in {structure}: {:#?}", report.findings);
    }
    let (after, writes, repaired) = repair(format, bytes, None);
    let repaired = repaired.unwrap();
    match then {
        Then::Refused(code) => {
            assert_eq!(writes, 0, "{what}: was written to");
            assert!(repaired.refused.iter().any(|f| f.code == code), "{what}: {repaired:#?}");
        }
        Then::Mended => mended(format, what, good, bytes, &after, &repaired),
    }
}

#[track_caller]
fn mended(
    format: Format,
    what: &str,
    good: &[u8],
    bytes: &[u8],
    after: &[u8],
    repaired: &Repaired,
) {
    assert!(repaired.corruptions_fixed + repaired.leaks_fixed > 0, "{what}: {repaired:#?}");
    assert_eq!(repaired.refused, [], "{what}");
    let mut plan = DryRun::new();
    image(format, bytes).repair(RepairScope::All, &Checking::new(), &mut plan).unwrap();
    for (at, _) in after.iter().zip(bytes).enumerate().filter(|(_, (new, old))| new != old) {
        let planned = |w: &diskimage::check::PlannedWrite| {
            (w.offset..w.offset + w.length).contains(&(at as u64))
        };
        assert!(plan.writes.iter().any(planned), "{what}: {at:#x} was not announced");
    }
    let whole = |bytes: &[u8], when: &str| {
        let report = check(format, bytes);
        assert!(report.is_clean(), "{what}, {when}: {:#?}", report.findings);
        // a partition table is the guest's own, and must be what it was
        if format == Format::Raw {
            assert!(bytes == good, "{what}, {when}: the disk is another one");
        }
        assert_eq!(hash(format, bytes).unwrap(), hash(format, good).unwrap(), "{what}, {when}");
    };
    whole(after, "repaired");
    let (again, writes, _) = repair(format, after, None);
    assert!(writes == 0 && again == after, "{what}: a second repair finds something");
    let before = hash(format, bytes).ok();
    for count in 0..plan.writes.len() as u64 {
        let (partial, done, repaired) = repair(format, bytes, Some(count));
        assert!(done == count && repaired.is_none(), "{what}: it did not stop after {count}");
        if format != Format::Raw {
            let now = hash(format, &partial);
            assert!(before.is_none() || now.ok() == before, "{what}: worse after {count} writes");
        }
        whole(&repair(format, &partial, None).0, &format!("repaired after {count} writes"));
    }
}

/// qemu-img reads what was repaired to the same content, and finds nothing wrong where it checks.
fn qemu_img_agrees(format: Format, good: &[u8], bytes: &[u8]) {
    let (after, _, _) = repair(format, bytes, None);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, raw) = (folder.path().join("image"), folder.path().join("raw"));
    write_sparse(&path, &after);
    let convert = ["convert", "-f", format.name(), "-O", "raw"].map(OsStr::new);
    let paths = [path.as_os_str(), raw.as_os_str()];
    if tool_output("qemu-img", &[&convert[..], &paths].concat()).is_none() {
        return;
    }
    let disk = OpenOptions::new().format(format).open_storage(storage(good), Path::new("image"));
    let disk = disk.unwrap();
    let mut theirs = std::fs::read(&raw).unwrap();
    theirs.truncate(disk.size() as usize);
    assert!(theirs == content(&disk).unwrap(), "qemu-img reads another content");
    if format != Format::Vhd && format != Format::Raw {
        let args = ["check", "-f", format.name()].map(OsStr::new);
        tool_output("qemu-img", &[&args[..], &[path.as_os_str()]].concat());
    }
}
