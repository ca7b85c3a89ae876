//! `diskimage check`: exit codes, answers, repairs, and what is refused.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::qcow2::*;
use common::*;
use serde_json::Value;

/// What is done to an image.
type Damage = fn(&mut [u8]);

/// A copy of an image without damage, to be damaged.
fn copy(folder: &Path, damage: impl FnOnce(&mut [u8])) -> PathBuf {
    let mut bytes = fixture("qcow2/v3-plain-64k.qcow2").bytes();
    damage(&mut bytes);
    let path = folder.join("image.qcow2");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The first data cluster is no longer referred to.
fn leak(bytes: &mut [u8]) {
    let at = l2_entry(bytes, 0);
    set_entry(bytes, at, 0);
}

/// The first data cluster lies beyond the end.
fn beyond(bytes: &mut [u8]) {
    let at = l2_entry(bytes, 0);
    set_entry(bytes, at, 1 << 63 | 1 << 40);
}

/// The first L2 entry lacks its flag.
fn flag(bytes: &mut [u8]) {
    let at = l2_entry(bytes, 0);
    let value = be64(bytes, at);
    set_entry(bytes, at, value & !(1 << 63));
}

fn check(path: &Path, more: &[&str]) -> Ran {
    let args = [&["check"], more, &[path.to_str().unwrap()]].concat();
    ran(&mut command(args))
}

fn json(ran: &Ran) -> Value {
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

#[test]
fn exit_codes_and_numbers_are_those_of_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(Damage, i32); 4] = [(|_| {}, 0), (leak, 3), (beyond, 2), (flag, 2)];
    for (damage, code) in cases {
        let path = copy(dir.path(), damage);
        let ours = check(&path, &["--output", "json"]);
        assert_eq!(ours.code, Some(code), "{ours:?}");
        assert!(ours.stderr.is_empty());
        let mut ours = json(&ours);
        for own in ["findings", "more-findings"] {
            assert!(ours.as_object_mut().unwrap().remove(own).is_some());
        }
        if has("qemu-img") {
            let mut command = Command::new("qemu-img");
            let theirs = ran(command.args(["check", "--output=json"]).arg(&path));
            assert_eq!(theirs.code, Some(code));
            assert_eq!(ours, json(&theirs));
        }
    }
}

#[test]
fn people_get_a_line_for_each_finding_and_a_summary() {
    let dir = tempfile::tempdir().unwrap();
    let clean = check(&copy(dir.path(), |_| {}), &[]);
    assert!(clean.text().starts_with("No errors were found on the image.\n"), "{clean:?}");
    assert!(clean.text().contains("% fragmented, 0.00% compressed clusters\n"));
    assert!(clean.text().contains("Image end offset: "));
    let broken = check(&copy(dir.path(), beyond), &[]);
    assert!(!broken.text().contains("No errors"));
    assert!(broken.text().contains("error: beyond-end at 0x"), "{}", broken.text());
    assert!(broken.text().contains("2 errors were found on the image.\n"));
    assert!(broken.text().contains("1 leaked clusters were found on the image.\n"));
}

#[test]
fn a_mark_is_never_no_errors() {
    for file in ["qcow2/v3-corrupt-bit.qcow2", "qcow2/v3-dirty.qcow2"] {
        let ran = check(&fixture(file).path, &[]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(!ran.text().contains("No errors"), "{ran:?}");
    }
}

#[test]
fn what_cannot_be_opened_or_checked_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.qcow2");
    check(&missing, &[]).refused(1, &missing, &["open the file"]);
    let path = copy(dir.path(), |bytes| bytes[4..8].copy_from_slice(&9u32.to_be_bytes()));
    check(&path, &[]).refused(1, &path, &["version 9"]);
    assert_eq!(check(&path, &["--dry-run"]).code, Some(2), "it takes --repair");
}

#[test]
fn a_dry_run_tells_what_a_repair_does_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = copy(dir.path(), flag);
    let before = std::fs::read(&path).unwrap();
    let plan = check(&path, &["-r", "all", "--dry-run"]);
    assert_eq!(plan.code, Some(2));
    assert!(plan.text().contains("would write 8 bytes at 0x"), "{}", plan.text());
    assert!(plan.text().contains("set the flag COPIED in an L2 table"), "{}", plan.text());
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let done = check(&path, &["-r", "all", "--output", "json"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let done = json(&done);
    assert_eq!(done["corruptions-fixed"], 1);
    assert!(done.get("corruptions").is_none());
    assert_eq!(
        json(&check(&path, &["-r", "all", "--output", "json"])).get("corruptions-fixed"),
        None
    );
    let after = std::fs::read(&path).unwrap();
    let changed = (0..after.len()).filter(|&i| after[i] != before[i]).count();
    assert_eq!(changed, 1, "one flag");
}

#[test]
fn what_is_not_repaired_is_named_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = copy(dir.path(), beyond);
    let ran = check(&path, &["-r", "all"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.text().contains("not repaired: error: beyond-end"), "{}", ran.text());
    let leaks = copy(dir.path(), leak);
    let ran = check(&leaks, &["-r", "leaks"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.text().contains("Repaired: 0 errors, 1 leaked clusters."), "{}", ran.text());
}

#[test]
fn an_image_in_use_is_not_written_to() {
    if !has("qemu-io") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = copy(dir.path(), leak);
    let before = std::fs::read(&path).unwrap();
    let mut user = Command::new("qemu-io")
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // it answers when the image is open
    let mut stdin = user.stdin.take().unwrap();
    stdin.write_all(b"length\n").unwrap();
    let mut answer = [0; 1];
    std::io::Read::read_exact(user.stdout.as_mut().unwrap(), &mut answer).unwrap();
    let ran = check(&path, &["-r", "leaks"]);
    ran.refused(1, &path, &["is in use", "lock"]);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    drop(stdin);
    user.wait().unwrap();
    assert_eq!(check(&path, &["-r", "leaks"]).code, Some(0));
}
