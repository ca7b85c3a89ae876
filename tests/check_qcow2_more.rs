//! The check of QCOW2 images: damage of bitmaps, external data files, subclusters, snapshots and of
//! the header's refcount table, by the byte.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use common::qemu::*;
use common::repair::{check, crash_safe, image};
use common::*;
use diskimage::check::{Checking, DryRun, RepairScope};
use diskimage::{Code, ErrorKind, Format, OpenOptions};

const Q: Format = Format::Qcow2;

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// What is written over an image, and where that must be found.
struct Edit {
    at: usize,
    bytes: Vec<u8>,
    found: usize,
}

impl Edit {
    /// It is told of what begins so many bytes before.
    fn before(self, bytes: usize) -> Self {
        Self { found: self.at - bytes, ..self }
    }

    fn apply(&self, bytes: &mut [u8]) {
        bytes[self.at..self.at + self.bytes.len()].copy_from_slice(&self.bytes);
    }

    fn found(self, found: usize) -> Self {
        Self { found, ..self }
    }
}

fn word(at: usize, value: u64) -> Edit {
    Edit { at, bytes: value.to_be_bytes().to_vec(), found: at }
}

fn half(at: usize, value: u32) -> Edit {
    Edit { at, bytes: value.to_be_bytes().to_vec(), found: at }
}

fn byte(at: usize, value: u8) -> Edit {
    Edit { at, bytes: vec![value], found: at }
}

/// Where the first L2 table lies.
fn l2(bytes: &[u8]) -> usize {
    (be64(bytes, be64(bytes, 40) as usize) & OFFSET) as usize
}

/// What qemu-img is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theirs {
    /// The same numbers as we.
    Same,
    /// Other ones, or none: why it is wrong is said beside the case.
    Other,
}
use Theirs::{Other, Same};

/// What is done to an image.
type Damage = fn(&[u8]) -> Edit;

struct Case(&'static str, Damage, Code, (u64, u64), Theirs);

/// Tries the cases on an image: found at its place with these numbers, which are qemu-img's; what is
/// repaired is whole, crash-safe and accepted by qemu-img, and nothing is given free in doubt.
#[track_caller]
fn each(file: &str, cases: &[Case]) {
    let good = std::fs::read(&fixture(file).path).unwrap();
    assert!(check(Q, &good).is_clean());
    let folder = folder();
    // what the image names is opened by qemu-img
    for parent in &fixture(file).parents {
        let path = &fixture(parent).path;
        std::fs::copy(path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    for Case(name, damage, code, numbers_wanted, qemu) in cases {
        let mut bytes = good.clone();
        let edit = damage(&good);
        let at = edit.found as u64;
        edit.apply(&mut bytes);
        let report = check(Q, &bytes);
        let found = report.findings.iter().any(|f| f.code == *code && f.offset == Some(at));
        assert!(found, "{name}: not at {at:#x}: {:#?}", report.findings);
        assert_eq!(
            (report.corruptions, report.leaks, report.check_errors),
            (numbers_wanted.0, numbers_wanted.1, 0),
            "{name}: {:#?}",
            report.findings
        );
        if let Some((_, value)) = qemu_check(&written(&folder, &bytes)) {
            let same = !value.is_null() && {
                let (ours, theirs) = (numbers(&report), theirs(value.clone()));
                let of = |value: &serde_json::Value, key: &str| value[key].as_u64().unwrap_or(0);
                ["corruptions", "leaks", "check-errors"]
                    .iter()
                    .all(|k| of(&ours, k) == of(&theirs, k))
            };
            assert_eq!(same, *qemu == Same, "{name}: {value} {:#?}", report.findings);
        }
        let (whole, repaired) = crash_safe(Q, &bytes, RepairScope::All);
        let after = check(Q, &whole);
        assert_eq!(after.is_clean(), repaired.refused.is_empty(), "{name}: {repaired:#?}");
        if after.is_clean() {
            assert_eq!(repaired.corruptions_fixed, report.corruptions, "{name}");
            if let Some((code, value)) = qemu_check(&written(&folder, &whole)) {
                assert_eq!(code, 0, "{name}: {value}");
            }
        } else {
            assert_eq!(after.leaks, report.leaks, "{name}: given free in doubt");
        }
    }
}

/// Where the data of the bitmaps extension lie.
fn bitmaps(bytes: &[u8]) -> usize {
    let mut at = be32(bytes, 100) as usize;
    while be32(bytes, at) != 0x2385_2875 {
        at += 8 + (be32(bytes, at + 4) as usize).next_multiple_of(8);
    }
    at + 8
}

/// The first directory entry, and the first entry of its table, which has a cluster.
fn bitmap(bytes: &[u8]) -> (usize, usize) {
    let entry = be64(bytes, bitmaps(bytes) + 16) as usize;
    (entry, be64(bytes, entry) as usize)
}

/// On `v3-bitmaps.qcow2`. Where qemu-img counts otherwise, it does not open the image at all.
const BITMAPS: &[Case] = &[
    Case("a cluster beyond the end", |b| word(bitmap(b).1, 1 << 40), Code::BeyondEnd, (1, 1), Same),
    Case(
        "a cluster between two",
        |b| word(bitmap(b).1, be64(b, bitmap(b).1) + 512),
        Code::BitmapsInconsistent,
        (1, 1),
        Other,
    ),
    Case(
        "reserved bits of a table entry",
        |b| word(bitmap(b).1, be64(b, bitmap(b).1) | 1 << 60),
        Code::BitmapsInconsistent,
        (1, 1),
        Other,
    ),
    Case(
        "all ones, and a cluster",
        |b| word(bitmap(b).1, be64(b, bitmap(b).1) | 1),
        Code::BitmapsInconsistent,
        (1, 1),
        Other,
    ),
    Case(
        "a leaked cluster",
        |b| word(bitmap(b).1, 0).found(be64(b, bitmap(b).1) as usize),
        Code::LeakedCluster,
        (0, 1),
        Same,
    ),
    Case(
        "a cluster on the L1 table",
        |b| word(bitmap(b).1, be64(b, 40)).found(be64(b, 40) as usize),
        Code::Overlap,
        (1, 1),
        Same,
    ),
    Case(
        "a cluster on guest data",
        |b| {
            let data = be64(b, l2(b)) & OFFSET;
            word(bitmap(b).1, data).found(data as usize)
        },
        Code::Overlap,
        (1, 1),
        Same,
    ),
    Case("a table beyond the end", |b| word(bitmap(b).0, 1 << 40), Code::BeyondEnd, (1, 2), Same),
    Case(
        "a table between two clusters",
        |b| word(bitmap(b).0, be64(b, bitmap(b).0) + 512),
        Code::Misaligned,
        (1, 2),
        Other,
    ),
    Case(
        "no table",
        |b| half(bitmap(b).0 + 8, 0).before(8),
        Code::BitmapsInconsistent,
        (1, 2),
        Other,
    ),
    Case(
        "a table that is too long",
        |b| half(bitmap(b).0 + 8, 2).before(8),
        Code::BitmapsInconsistent,
        (1, 0),
        Other,
    ),
    Case(
        "reserved flags",
        |b| half(bitmap(b).0 + 12, 32).before(12),
        Code::BitmapsInconsistent,
        (1, 0),
        Other,
    ),
    Case(
        "a reserved type",
        |b| byte(bitmap(b).0 + 16, 2).before(16),
        Code::BitmapsInconsistent,
        (1, 0),
        Other,
    ),
    Case(
        "a granularity of 2^70 bytes",
        |b| byte(bitmap(b).0 + 17, 70).before(17),
        Code::InvalidEntry,
        (1, 3),
        Other,
    ),
    Case(
        "a name that is longer than the directory",
        |b| byte(bitmap(b).0 + 18, 9).found(bitmap(b).0 + 24),
        Code::Truncated,
        (1, 3),
        Other,
    ),
    Case(
        "a directory beyond the end",
        |b| word(bitmaps(b) + 16, 1 << 40).before(16),
        Code::BeyondEnd,
        (1, 4),
        Other,
    ),
    Case(
        "a directory between two clusters",
        |b| word(bitmaps(b) + 16, be64(b, bitmaps(b) + 16) + 512).before(16),
        Code::Misaligned,
        (1, 4),
        Other,
    ),
];

#[test]
fn damaged_bitmaps_are_found() {
    each("qcow2/v3-bitmaps.qcow2", BITMAPS);
}

/// On both images with an external data file. "the offset must be the guest offset" (Standard Cluster
/// Descriptor, with an external data file): qemu-img does not look.
const DATA_FILE: &[Case] = &[
    Case(
        "another cluster",
        |b| word(l2(b), be64(b, l2(b)) + 0x1_0000),
        Code::InvalidEntry,
        (1, 0),
        Other,
    ),
    Case(
        "a cluster far away",
        |b| word(l2(b), 1 << 63 | 1 << 40),
        Code::InvalidEntry,
        (1, 0),
        Other,
    ),
    Case(
        "a missing flag",
        |b| {
            let at = (l2(b) + 8..).step_by(8).find(|&at| be64(b, at) != 0).unwrap();
            word(at, be64(b, at) & !(1 << 63))
        },
        Code::CopiedFlag,
        (1, 0),
        Same,
    ),
    Case(
        "a compressed cluster",
        |b| word(l2(b), 1 << 62 | 0x5_0000),
        Code::InvalidEntry,
        (1, 0),
        Same,
    ),
    Case(
        "a cluster between two",
        |b| word(l2(b), be64(b, l2(b)) + 512),
        Code::Misaligned,
        (1, 0),
        Same,
    ),
    Case(
        "reserved bits",
        |b| word(l2(b), be64(b, l2(b)) | 1 << 57),
        Code::ReservedBits,
        (1, 0),
        Same,
    ),
];

#[test]
fn wrong_entries_of_an_external_data_file_are_found() {
    each("qcow2/data-file.qcow2", DATA_FILE);
    each("qcow2/data-file-raw.qcow2", DATA_FILE);
}

/// The first extended entry with data.
fn extended(bytes: &[u8]) -> usize {
    let has_data = |&at: &usize| be64(bytes, at) & OFFSET != 0 && be64(bytes, at + 8) as u32 != 0;
    (l2(bytes)..).step_by(16).find(has_data).unwrap()
}

#[test]
fn wrong_subcluster_bits_are_found() {
    each(
        "qcow2/v3-extl2-64k.qcow2",
        &[
            Case(
                "both bits",
                |b| {
                    let at = extended(b);
                    let bit = 1 << be64(b, at + 8).trailing_zeros();
                    word(at + 8, be64(b, at + 8) | bit << 32).before(8)
                },
                Code::SubclusterBits,
                (1, 0),
                Same,
            ),
            Case(
                "data without a cluster",
                |b| word(extended(b), 0),
                Code::SubclusterBits,
                (1, 1),
                Same,
            ),
            // "Bit 0: always 0 with extended L2 entries": qemu-img does not look
            Case(
                "the zero flag",
                |b| word(extended(b), be64(b, extended(b)) | 1),
                Code::ReservedBits,
                (1, 0),
                Other,
            ),
        ],
    );
    // qemu-img does not count what such an entry refers to, and calls it leaked; freeing it loses it
    let compressed: Damage = |b| word(l2(b) + 8, 1 << 32).before(8);
    each(
        "qcow2/v3-extl2-zlib-64k.qcow2",
        &[Case("bits of a compressed cluster", compressed, Code::SubclusterBits, (1, 0), Other)],
    );
}

/// Where the entry of a snapshot lies.
fn snapshot(bytes: &[u8], index: usize) -> usize {
    let mut at = be64(bytes, 64) as usize;
    for _ in 0..index {
        let (lengths, extra) = (be32(bytes, at + 12), be32(bytes, at + 36));
        let names = (lengths >> 16) + (lengths & 0xffff);
        at += (40 + names + extra).next_multiple_of(8) as usize;
    }
    at
}

/// On `v3-snapshots.qcow2`.
const SNAPSHOTS: &[Case] = &[
    Case(
        "an L1 table beyond the end",
        |b| word(snapshot(b, 0), 1 << 40),
        Code::BeyondEnd,
        (1, 13),
        Same,
    ),
    Case(
        "an L1 table between two clusters",
        |b| word(snapshot(b, 0), be64(b, snapshot(b, 0)) + 512),
        Code::Misaligned,
        (1, 13),
        Same,
    ),
    Case(
        "an L1 table of 8 GiB",
        |b| half(snapshot(b, 0) + 8, 1 << 30).before(8),
        Code::InvalidEntry,
        (1, 13),
        Same,
    ),
    // qemu-img has leaks only, and frees what the snapshot holds
    Case(
        "an L1 table without entries",
        |b| half(snapshot(b, 0) + 8, 0).before(8),
        Code::InvalidEntry,
        (1, 13),
        Other,
    ),
    // "Version 3 images must include extra data at least up to the disk size"
    Case(
        "one snapshot too many",
        |b| half(60, 4).found(snapshot(b, 3)),
        Code::InvalidEntry,
        (1, 0),
        Same,
    ),
    // qemu-img stops with an error of its own at these
    Case(
        "extra data of a MiB",
        |b| half(snapshot(b, 0) + 36, 1 << 20).before(36),
        Code::InvalidEntry,
        (1, 22),
        Other,
    ),
    Case(
        "a table between two clusters",
        |b| word(64, be64(b, 64) + 512),
        Code::Misaligned,
        (1, 22),
        Other,
    ),
    Case("a thousand million snapshots", |_| half(60, 1 << 30), Code::InvalidEntry, (1, 22), Other),
    // and takes these for zeros, so that each snapshot is incomplete
    Case("a table beyond the end", |_| word(64, 1 << 40), Code::BeyondEnd, (1, 22), Other),
];

#[test]
fn a_damaged_snapshot_table_is_found_and_nothing_given_free() {
    each("qcow2/v3-snapshots.qcow2", SNAPSHOTS);
    // an entry that is cut off with the file
    let mut bytes = std::fs::read(&fixture("qcow2/v3-snapshots.qcow2").path).unwrap();
    let table = be64(&bytes, 64) as usize;
    let end = snapshot(&bytes, 2) + 20;
    // the table is moved to the end
    let tail = bytes[table..end].to_vec();
    bytes.extend(tail);
    let moved = bytes.len() - (end - table);
    put64(&mut bytes, 64, moved as u64);
    let report = check(Q, &bytes);
    let cut = report.findings.iter().find(|f| f.code == Code::Truncated).unwrap();
    assert!(cut.offset.unwrap() as usize >= moved + (end - table) - 20, "{cut:?}");
    let (_, repaired) = crash_safe(Q, &bytes, RepairScope::All);
    assert!(repaired.refused.iter().any(|f| f.code == Code::LeakedCluster), "{repaired:?}");
    assert_eq!(repaired.leaks_fixed, 0);
}

/// On `v3-plain-64k.qcow2`. qemu-img opens not all of them, and counts each cluster once more of the
/// others, where one thing is wrong.
const REFCOUNT_TABLE: &[Case] = &[
    Case("between two clusters", |b| word(48, be64(b, 48) + 512), Code::Misaligned, (1, 0), Other),
    Case("beyond the end", |_| word(48, 1 << 40), Code::BeyondEnd, (1, 0), Other),
    Case("at the header", |_| word(48, 0), Code::InvalidEntry, (1, 0), Other),
    Case("none", |_| half(56, 0), Code::InvalidEntry, (1, 0), Other),
    Case("longer than any", |_| half(56, 1000), Code::InvalidEntry, (1, 0), Other),
    Case("longer than the file", |_| half(56, 100).before(8), Code::BeyondEnd, (1, 0), Other),
];

#[test]
fn a_lost_refcount_table_is_found_and_written_anew() {
    each("qcow2/v3-plain-64k.qcow2", REFCOUNT_TABLE);
    for file in
        ["v3-plain-64k", "v3-snapshots", "v3-bitmaps", "v3-refcount-1", "v3-zlib-4k", "v2-snapshot"]
    {
        let good = std::fs::read(&fixture(&format!("qcow2/{file}.qcow2")).path).unwrap();
        for Case(name, damage, ..) in REFCOUNT_TABLE {
            let mut bytes = good.clone();
            damage(&good).apply(&mut bytes);
            let (whole, repaired) = crash_safe(Q, &bytes, RepairScope::All);
            assert!(check(Q, &whole).is_clean(), "{file}, {name}: {repaired:#?}");
            same_as_qemu_img(&folder(), &bytes, &whole, &format!("{file}, {name}"));
        }
    }
}

#[test]
fn what_is_broken_opens_by_force_only_and_leaks_are_not_freed() {
    let mut bytes = std::fs::read(&fixture("qcow2/v3-plain-64k.qcow2").path).unwrap();
    put64(&mut bytes, 48, 0);
    let folder = folder();
    let path = written(&folder, &bytes);
    let refused = OpenOptions::new().open_image(&path).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    let trusted = OpenOptions::new().trust_broken(true).open_image(&path).unwrap();
    assert!(trusted.findings().unwrap().iter().any(|f| f.offset == Some(48)));
    let mut plan = DryRun::new();
    image(Q, &bytes).repair(RepairScope::Leaks, &Checking::new(), &mut plan).unwrap();
    assert!(plan.writes.is_empty());
}
