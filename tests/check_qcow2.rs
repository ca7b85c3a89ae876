//! The check and the repair of QCOW2 images: against qemu-img where that is installed, and against
//! damage whose place is known.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use common::qemu::*;
use common::repair::{Content, apply, assert_kept, check, content, crash_safe, repair};
use common::*;
use diskimage::check::{Checking, RepairScope};
use diskimage::{Code, Format, OpenOptions};
use serde_json::Value;

const Q: Format = Format::Qcow2;

/// Where things lie in a small image of 64 KiB clusters and 16-bit counts.
struct Places {
    l1: usize,
    l2: usize,
    /// The L2 entries with a standard cluster.
    data: Vec<usize>,
    table: usize,
    block: usize,
}

fn places(bytes: &[u8]) -> Places {
    let l1 = be64(bytes, 40) as usize;
    let l2 = (be64(bytes, l1) & OFFSET) as usize;
    let plain = |&at: &usize| be64(bytes, at) & OFFSET != 0 && be64(bytes, at) >> 62 & 1 == 0;
    let data = (l2..l2 + 65_536).step_by(8).filter(plain).collect();
    let table = be64(bytes, 48) as usize;
    Places { l1, l2, data, table, block: be64(bytes, table) as usize }
}

fn without_bits(bytes: &[u8]) -> bool {
    bytes[7] < 3 || be64(bytes, 72) & 3 == 0
}

#[test]
fn every_fixture_has_the_numbers_of_qemu_img() {
    let mut compared = 0;
    for fixture in fixtures().iter().filter(|f| f.format == "qcow2") {
        let bytes = std::fs::read(&fixture.path).unwrap();
        let Ok(image) = OpenOptions::new().format(Q).open_image(&fixture.path) else { continue };
        let report = image.check(Checking::new().threads(threads(2))).unwrap();
        let mut ours = report.clone();
        if !without_bits(&bytes) {
            // qemu-img has no errors to tell of where the image is marked corrupt or dirty
            assert!(report.codes.contains(&Code::Corrupt) || report.codes.contains(&Code::Dirty));
            ours.corruptions -= 1;
        }
        let Some((code, value)) = qemu_check(&fixture.path) else { return };
        if value.is_null() {
            continue; // encrypted, or a feature it does not know
        }
        let mut value = theirs(value);
        if fixture.virtual_size % 512 != 0 {
            // qemu-img rounds the size down to sectors of 512 bytes
            value["total-clusters"] = ours.total_clusters.unwrap().into();
        }
        assert_eq!(numbers(&ours), value, "{}: {:?}", fixture.file, report.findings);
        let expected = if ours.corruptions > 0 {
            2
        } else if ours.leaks > 0 {
            3
        } else {
            0
        };
        assert_eq!(code, expected, "{}", fixture.file);
        compared += 1;
    }
    assert!(compared > 70, "only {compared} were compared");
}

#[test]
fn third_party_images_have_the_numbers_of_their_oracle() {
    let mut compared = 0;
    for image in corpus_images(|format, _| format == "qcow2") {
        let oracle = corpus().unwrap().join("oracles").join(format!("{}.json", image.name));
        let Ok(opened) = OpenOptions::new().format(Q).open_image(&image.path) else { continue };
        let report = opened.check(Checking::new()).unwrap();
        let oracle: Value = serde_json::from_slice(&std::fs::read(&oracle).unwrap()).unwrap();
        let check = &oracle["check"];
        if check["json"].is_object() {
            let theirs = theirs(check["json"].clone());
            assert_eq!(numbers(&report), theirs, "{}: {:?}", image.name, report.findings);
            compared += 1;
        }
    }
    assert!(compared > 3 || corpus().is_none(), "only {compared} were compared");
}

/// What is done to an image.
type Damage = fn(&mut Vec<u8>, &Places) -> usize;

/// A kind of damage: what is done, what must be found (the offset is what the damage returns), how
/// many corruptions and leaks qemu-img counts, and whether all of it can be repaired.
struct Case {
    name: &'static str,
    damage: Damage,
    code: Code,
    corruptions: u64,
    leaks: u64,
    mended: bool,
}

const fn case(
    name: &'static str,
    damage: Damage,
    code: Code,
    numbers: (u64, u64),
    mended: bool,
) -> Case {
    Case { name, damage, code, corruptions: numbers.0, leaks: numbers.1, mended }
}

fn set(bytes: &mut [u8], at: usize, value: u64) -> usize {
    put64(bytes, at, value);
    at
}

fn change(bytes: &mut [u8], at: usize, how: fn(u64) -> u64) -> usize {
    let value = how(be64(bytes, at));
    set(bytes, at, value)
}

fn set_count(bytes: &mut [u8], p: &Places, cluster: usize, count: u16) {
    bytes[p.block + 2 * cluster..][..2].copy_from_slice(&count.to_be_bytes());
}

/// The cluster of the first data entry.
fn first_data(bytes: &[u8], p: &Places) -> usize {
    (be64(bytes, p.data[0]) & OFFSET) as usize >> 16
}

/// On `v3-plain-64k.qcow2`.
const CASES: &[Case] = &[
    case(
        "a data cluster beyond the end",
        |b, p| set(b, p.data[0], 1 << 63 | 1 << 40),
        Code::BeyondEnd,
        (2, 1),
        false,
    ),
    case(
        "a data cluster between two",
        |b, p| change(b, p.data[0], |value| value + 512),
        Code::Misaligned,
        (2, 0),
        false,
    ),
    case(
        "reserved bits of an L2 entry",
        |b, p| change(b, p.data[0], |value| value | 1 << 57),
        Code::ReservedBits,
        (1, 0),
        false,
    ),
    case(
        "a missing flag",
        |b, p| change(b, p.data[0], |value| value & !(1 << 63)),
        Code::CopiedFlag,
        (1, 0),
        true,
    ),
    case(
        "a missing flag in the L1 table",
        |b, p| change(b, p.l1, |value| value & !(1 << 63)),
        Code::CopiedFlag,
        (1, 0),
        true,
    ),
    case(
        "reserved bits of an L1 entry",
        |b, p| change(b, p.l1, |value| value | 1),
        Code::ReservedBits,
        (1, 0),
        false,
    ),
    case(
        "a cluster used twice",
        |b, p| {
            let at = (be64(b, p.data[1]) & OFFSET) as usize;
            let other = be64(b, p.data[1]);
            set(b, p.data[0], other);
            at
        },
        Code::RefcountMismatch,
        (1, 1),
        true,
    ),
    case(
        "data on the L1 table",
        |b, p| {
            set(b, p.data[0], 1 << 63 | p.l1 as u64);
            p.l1
        },
        Code::Overlap,
        (1, 1),
        false,
    ),
    case(
        "data on the L2 table",
        |b, p| {
            set(b, p.data[0], 1 << 63 | p.l2 as u64);
            p.l2
        },
        Code::Overlap,
        (1, 1),
        false,
    ),
    case(
        "data on the header",
        |b, p| {
            // offset 0 is none, so a compressed cluster
            set(b, p.data[0], 1 << 62 | 512);
            0
        },
        Code::Overlap,
        (1, 1),
        false,
    ),
    case(
        "data on the refcount table",
        |b, p| {
            set(b, p.data[0], 1 << 63 | p.table as u64);
            p.table
        },
        Code::Overlap,
        (1, 1),
        false,
    ),
    case(
        "data on the refcount block",
        |b, p| {
            set(b, p.data[0], 1 << 63 | p.block as u64);
            p.block
        },
        Code::Overlap,
        (2, 1),
        true,
    ),
    case(
        "a count too low",
        |b, p| {
            let cluster = first_data(b, p);
            set_count(b, p, cluster, 0);
            cluster << 16
        },
        Code::RefcountMismatch,
        (2, 0),
        true,
    ),
    case(
        "a count too high",
        |b, p| {
            let cluster = first_data(b, p);
            set_count(b, p, cluster, 2);
            cluster << 16
        },
        Code::LeakedCluster,
        (1, 1),
        true,
    ),
    case(
        "a leaked cluster",
        |b, p| {
            let at = (be64(b, p.data[0]) & OFFSET) as usize;
            set(b, p.data[0], 0);
            at
        },
        Code::LeakedCluster,
        (0, 1),
        true,
    ),
    case(
        "no count of an L2 table",
        |b, p| {
            set_count(b, p, p.l2 >> 16, 0);
            p.l2
        },
        Code::RefcountMismatch,
        (2, 0),
        true,
    ),
    case(
        "reserved bits of a refcount table entry",
        |b, p| change(b, p.table, |value| value | 1),
        Code::ReservedBits,
        (1, 1),
        true,
    ),
    case(
        "a refcount block beyond the end that nothing needs",
        |b, p| set(b, p.table + 8, 1 << 40),
        Code::BeyondEnd,
        (1, 0),
        true,
    ),
    case(
        "a compressed cluster with the flag",
        |b, p| {
            let host = be64(b, p.data[0]) & OFFSET;
            set(b, p.data[0], 3 << 62 | host)
        },
        Code::CopiedFlag,
        (1, 0),
        true,
    ),
    case(
        "a compressed cluster beyond the end",
        |b, p| set(b, p.data[0], 1 << 62 | 1 << 40),
        Code::BeyondEnd,
        (1, 1),
        false,
    ),
];

fn plain() -> (Vec<u8>, Places) {
    let bytes = std::fs::read(&fixture("qcow2/v3-plain-64k.qcow2").path).unwrap();
    let places = places(&bytes);
    (bytes, places)
}

#[test]
fn each_kind_of_damage_is_found_at_its_place_with_the_numbers_of_qemu_img() {
    let (good, places) = plain();
    assert!(check(Q, &good).is_clean());
    let folder = folder();
    for case in CASES {
        let mut bytes = good.clone();
        let at = (case.damage)(&mut bytes, &places) as u64;
        let report = check(Q, &bytes);
        let found = report.findings.iter().any(|f| f.code == case.code && f.offset == Some(at));
        assert!(found, "{}: not at {at:#x}: {:#?}", case.name, report.findings);
        assert_eq!(
            (report.corruptions, report.leaks),
            (case.corruptions, case.leaks),
            "{}",
            case.name
        );
        if let Some((_, value)) = qemu_check(&written(&folder, &bytes)) {
            assert_eq!(numbers(&report), theirs(value), "{}", case.name);
        }
    }
}

/// Damage that qemu-img sees otherwise, and why it is wrong.
#[test]
fn what_qemu_img_misses_is_found() {
    let (good, places) = plain();
    let finds = |bytes: &[u8], code: Code, at: usize| {
        let report = check(Q, bytes);
        let found = report.findings.iter().any(|f| f.code == code && f.offset == Some(at as u64));
        assert!(found && report.corruptions > 0, "{code}: {:#?}", report.findings);
    };
    // "bit 63: 0 for a cluster that is unused" (Standard Cluster Descriptor)
    let mut bytes = good.clone();
    put64(&mut bytes, places.data[0], 1 << 63);
    finds(&bytes, Code::InvalidEntry, places.data[0]);
    // a misplaced L2 table is not one to be read: qemu-img goes on into the garbage
    let mut bytes = good.clone();
    put64(&mut bytes, places.l1, be64(&good, places.l1) + 512);
    finds(&bytes, Code::Misaligned, places.l1);
    // marks, which the program that wrote it set for a reason
    for (bit, code) in [(1, Code::Dirty), (2, Code::Corrupt)] {
        let mut bytes = good.clone();
        put64(&mut bytes, 72, bit);
        finds(&bytes, code, 72);
    }
    // counts that agree with what lies on each other
    let mut bytes = good.clone();
    put64(&mut bytes, places.data[0], places.l1 as u64);
    set_count(&mut bytes, &places, places.l1 >> 16, 2);
    finds(&bytes, Code::Overlap, places.l1);
    // the end of the last cluster's data is gone
    let last = bytes.len() - 65_536;
    let entry = places.data.iter().copied().find(|&at| be64(&good, at) & OFFSET == last as u64);
    if let Some(entry) = entry {
        finds(&good[..good.len() - 512], Code::Truncated, entry);
    }
    // one wrong entry of a table that three snapshots share is one, and qemu-img counts three
}

#[test]
fn counts_that_cannot_be_read_are_written_anew_behind_all_that_is_used() {
    let (good, places) = plain();
    let mut bytes = good.clone();
    change(&mut bytes, places.table, |value| value + 512);
    let report = check(Q, &bytes);
    // qemu-img has an error for each cluster instead
    assert_eq!((report.corruptions, report.leaks), (1, 0), "{:#?}", report.findings);
    assert_eq!(report.image_end_offset, check(Q, &good).image_end_offset);
    for marks in [0, 3] {
        put64(&mut bytes, 72, marks);
        let (whole, repaired) = crash_safe(Q, &bytes, RepairScope::All);
        assert!(check(Q, &whole).is_clean() && repaired.refused.is_empty(), "{repaired:?}");
        same_as_qemu_img(&folder(), &bytes, &whole, "a broken block");
    }
}

#[test]
fn what_is_repaired_is_whole_and_what_is_not_is_refused_with_the_reason() {
    let (good, places) = plain();
    let folder = folder();
    for case in CASES {
        let mut bytes = good.clone();
        (case.damage)(&mut bytes, &places);
        let (whole, repaired) = crash_safe(Q, &bytes, RepairScope::All);
        let report = check(Q, &whole);
        assert_eq!(report.is_clean(), case.mended, "{}: {:#?}", case.name, report.findings);
        assert_eq!(repaired.refused.is_empty(), case.mended, "{}: {repaired:#?}", case.name);
        assert!(repaired.refused.iter().all(|finding| finding.fix.is_some()), "{}", case.name);
        if case.mended {
            assert_eq!(repaired.corruptions_fixed, case.corruptions, "{}", case.name);
            assert_eq!(repaired.leaks_fixed, case.leaks, "{}", case.name);
            same_as_qemu_img(&folder, &bytes, &whole, case.name);
        }
    }
}

#[test]
fn leaks_are_freed_without_touching_the_rest() {
    let (good, places) = plain();
    let mut bytes = good.clone();
    let at = (be64(&bytes, places.data[0]) & OFFSET) as usize;
    put64(&mut bytes, places.data[0], 0);
    let (whole, repaired) = crash_safe(Q, &bytes, RepairScope::Leaks);
    assert_eq!((repaired.leaks_fixed, repaired.refused.len()), (1, 0));
    assert!(check(Q, &whole).is_clean());
    let changed: Vec<_> = (0..whole.len()).filter(|&i| whole[i] != bytes[i]).collect();
    assert_eq!(changed, [places.block + 2 * (at >> 16) + 1]);
    // and where not all references can be read, none is freed
    change(&mut bytes, places.data[1], |value| value | 1 << 57);
    let (same, repaired) = crash_safe(Q, &bytes, RepairScope::Leaks);
    assert_eq!(same, bytes);
    assert_eq!(repaired.leaks_fixed, 0);
    assert!(repaired.refused.iter().any(|f| f.code == Code::LeakedCluster), "{repaired:?}");
}

#[test]
fn marks_go_when_all_is_proven_and_stay_when_not() {
    let (good, places) = plain();
    let mut bytes = good.clone();
    put64(&mut bytes, 72, 3);
    set_count(&mut bytes, &places, places.l2 >> 16, 0);
    let (whole, repaired) = crash_safe(Q, &bytes, RepairScope::All);
    assert_eq!(be64(&whole, 72), 0);
    // two marks, a count, and the flag that relied on it
    assert_eq!(repaired.corruptions_fixed, 4);
    change(&mut bytes, places.data[0], |value| value | 1 << 57);
    let (whole, _) = crash_safe(Q, &bytes, RepairScope::All);
    assert_eq!(be64(&whole, 72), 3);
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// Damages something in the tables of any image.
fn damaged(good: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let cluster = 1usize << u32::from_be_bytes(bytes[20..24].try_into().unwrap());
    let extended = bytes[7] == 3 && be64(&bytes, 72) & 16 != 0;
    let l1 = be64(&bytes, 40) as usize;
    let entries = u32::from_be_bytes(bytes[36..40].try_into().unwrap()) as usize;
    let table = be64(&bytes, 48) as usize;
    let used: Vec<_> =
        (0..entries).map(|i| l1 + 8 * i).filter(|&at| be64(&bytes, at) != 0).collect();
    for _ in 0..1 + random.below(3) {
        match random.below(8) {
            0..=2 if !used.is_empty() => {
                let l2 = (be64(&bytes, used[random.below(used.len())]) & OFFSET) as usize;
                let step = if extended { 16 } else { 8 };
                let end = (l2 + cluster).min(bytes.len() - 16);
                let full: Vec<_> =
                    (l2..end).step_by(step).filter(|&at| be64(&bytes, at) != 0).collect();
                if full.is_empty() {
                    continue;
                }
                let at = full[random.below(full.len())];
                let value = be64(&bytes, at);
                let other = be64(&bytes, full[random.below(full.len())]);
                let new = [0, value ^ 1 << 63, other, value ^ 1 << (9 + random.below(30))];
                put64(&mut bytes, at, new[random.below(4)]);
            }
            3..=5 => {
                let block = be64(&bytes, table) as usize;
                if block + cluster <= bytes.len() && block > 0 {
                    let near = (bytes.len() / cluster * 2).clamp(8, cluster);
                    bytes[block + random.below(near)] ^= 1 << random.below(8);
                }
            }
            6 => {
                let value = be64(&bytes, table);
                let new = [0, value + 512, value | 1, 1 << 40, l1 as u64];
                put64(&mut bytes, table, new[random.below(5)]);
            }
            _ if !used.is_empty() => {
                let at = used[random.below(used.len())];
                let value = be64(&bytes, at);
                put64(&mut bytes, at, value ^ 1 << 63);
            }
            _ => {}
        }
    }
    bytes
}

#[test]
fn random_damage_is_repaired_or_refused_and_nothing_is_lost_at_any_stop() {
    let mut random = Random(11);
    let folder = folder();
    let (mut mended, mut left) = (0, 0);
    for fixture in fixtures().iter().filter(|f| f.format == "qcow2" && f.is_small()) {
        let good = std::fs::read(&fixture.path).unwrap();
        if good.len() > 3 << 20 || OpenOptions::new().open_image(&fixture.path).is_err() {
            continue;
        }
        for round in 0..3 {
            let bytes = damaged(&good, &mut random);
            let name = format!("{} {round}", fixture.file);
            let before: Content = content(Q, &bytes);
            let report = check(Q, &bytes);
            if report.is_clean() {
                continue;
            }
            let (repaired, steps) = repair(Q, &bytes, RepairScope::All);
            let mut whole = bytes.clone();
            steps.iter().for_each(|step| apply(&mut whole, step));
            assert_kept(&before, &content(Q, &whole), &name);
            let after = check(Q, &whole);
            assert_eq!(
                after.is_clean(),
                repaired.refused.is_empty(),
                "{name}: {repaired:#?} {:#?}",
                after.findings
            );
            if after.is_clean() {
                mended += 1;
                assert_eq!(repaired.corruptions_fixed, report.corruptions, "{name}");
                if fixture.parents.is_empty() && !fixture.is("encrypted") && round < 2 {
                    same_as_qemu_img(&folder, &bytes, &whole, &name);
                }
            } else {
                left += 1;
            }
            if steps.len() < 9 && good.len() < 1 << 19 {
                crash_safe(Q, &bytes, RepairScope::All);
                crash_safe(Q, &bytes, RepairScope::Leaks);
            }
        }
    }
    assert!(mended > 40 && left > 10, "{mended} mended, {left} left");
}
