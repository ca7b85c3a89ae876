//! `diskimage map` from end to end, held against qemu-img.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use common::*;
use serde_json::Value;

fn map(args: &[&str]) -> Value {
    let allow = allow();
    let fixed = ["map", "--output=json", "--assume-raw", &allow];
    diskimage(fixed.iter().chain(args)).ok().json()
}

fn qemu_map(fixture: &Fixture, args: &[&str]) -> Vec<Value> {
    let fixed = ["map", "--output=json", "-f", &fixture.format, fixture.text()];
    let args: Vec<&str> = fixed.iter().chain(args).copied().collect();
    // in the image's folder, since qemu-img looks for data files in the caller's
    let mut answer: Value =
        serde_json::from_slice(&output_of(fixture.folder(), "qemu-img", &args)).unwrap();
    // where there is nothing to map qemu-img still shows an entry, of no length
    answer.as_array_mut().unwrap().retain(|entry| entry["length"] != 0);
    joined(&answer)
}

/// Cuts a map at `end`.
fn cut(entries: Vec<Value>, end: u64) -> Vec<Value> {
    let number = |value: &Value, key: &str| value[key].as_u64().unwrap();
    let inside = entries.into_iter().filter(|entry| number(entry, "start") < end);
    inside
        .map(|mut entry| {
            let length = number(&entry, "length").min(end - number(&entry, "start"));
            entry["length"] = length.into();
            entry
        })
        .collect()
}

#[test]
fn every_map_is_that_of_qemu_img() {
    if !has("qemu-img") {
        return;
    }
    let mut seen = 0;
    for fixture in readable() {
        let mut ours = joined(&map(&["-f", &fixture.format, fixture.text()]));
        let mut qemu = qemu_map(fixture, &[]);
        let end = |map: &[Value]| {
            map.last().map_or(0, |e| e["start"].as_u64().unwrap() + e["length"].as_u64().unwrap())
        };
        assert_eq!(end(&ours), fixture.virtual_size, "{}", fixture.file);
        match &*fixture.file {
            // qemu-img rounds disks to whole sectors: raw ones up, which adds a hole that is not
            // in the file; others down, which loses bytes of the disk
            _ if fixture.qemu == "rounds-size" => {
                let common = end(&ours).min(end(&qemu));
                (ours, qemu) = (cut(ours, common), cut(qemu, common));
            }
            // the same with a parent: the file ends at 1,000,001, so that what follows is nowhere,
            // not in the parent
            "qcow2/overlay-odd-parent.qcow2" => {
                let at = qemu.iter().position(|e| e["start"] == 1_000_001).unwrap();
                assert_eq!((&qemu[at]["depth"], &qemu[at]["length"]), (&1.into(), &447.into()));
                qemu.remove(at);
                qemu[at]["start"] = 1_000_001.into();
                qemu[at]["length"] = (qemu[at]["length"].as_u64().unwrap() + 447).into();
            }
            _ => {}
        }
        assert_eq!(ours, qemu, "{}", fixture.file);
        seen += 1;
    }
    assert!(seen > 80, "only {seen}");
}

#[test]
fn a_part_of_the_map_is_what_qemu_img_says_of_that_part() {
    if !has("qemu-img") {
        return;
    }
    for file in [
        "qcow2/v3-zeros.qcow2",
        "qcow2/overlay-chain.qcow2",
        "qcow2/v3-extl2-64k.qcow2",
        "raw/sparse.raw",
    ] {
        let fixture = fixture(file);
        for (start, length) in [
            ("0", "1"),
            ("4k", "64k"),
            ("65536", "1M"),
            ("100000", "12345"),
            ("1M", "1T"),
            ("2097151", "1"),
        ] {
            let part = [&format!("--start-offset={start}")[..], &format!("--max-length={length}")];
            let ours =
                joined(&map(&[&["-f", &fixture.format, fixture.text()][..], &part].concat()));
            assert_eq!(ours, qemu_map(fixture, &part), "{file} {part:?}");
        }
    }
    let image = fixture("qcow2/v3-zeros.qcow2").text();
    assert_eq!(map(&[image, "-s", "2M"]), serde_json::json!([]), "nothing lies behind the end");
    assert_eq!(map(&[image, "-s", "0", "-l", "0"]), serde_json::json!([]));
}

#[test]
fn people_get_a_table() {
    let image = fixture("qcow2/overlay-chain.qcow2");
    let ran = diskimage(["map", &allow(), "--assume-raw", image.text()]).ok();
    let mut lines = ran.text().lines();
    let titles: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(titles, ["START", "LENGTH", "KIND", "OFFSET", "FILE"]);
    let mut end = 0;
    for line in lines {
        let fields: Vec<_> = line.split_whitespace().collect();
        let number =
            |text: &str| u64::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap();
        assert_eq!(number(fields[0]), end, "{line}");
        end += number(fields[1]);
        assert!(!line.ends_with(' '), "{line:?}");
    }
    assert_eq!(end, image.virtual_size);
    let at = |name: &str| format!("{}/qcow2/{name}", unpacked().display());
    for file in ["overlay-chain.qcow2", "base.raw"] {
        assert!(
            ran.text().lines().any(|l| l.contains(" data ") && l.ends_with(&at(file))),
            "{file}"
        );
    }
}

#[test]
fn a_snapshot_has_its_own_map() {
    let image = fixture("qcow2/v3-snapshots.qcow2");
    for snapshot in &image.snapshots {
        let name = snapshot["name"].as_str().unwrap();
        let entries = map(&[image.text(), "--snapshot", name]);
        let total: u64 =
            entries.as_array().unwrap().iter().map(|e| e["length"].as_u64().unwrap()).sum();
        assert_eq!(total, snapshot["virtual_size"]);
    }
    assert_ne!(map(&[image.text(), "--snapshot=first"]), map(&[image.text(), "--snapshot=zeros"]));
    diskimage(["map", image.text(), "--snapshot=none"]).refused(
        1,
        &image.path,
        &["has no snapshot 'none'"],
    );
}

#[test]
fn the_map_of_a_damaged_image_ends_with_an_error_and_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.qcow2");
    let mut bytes = fixture("qcow2/v3-prealloc-full.qcow2").bytes();
    let at = qcow2::l2_entry(&bytes, 5 * 65_536);
    qcow2::set_entry(&mut bytes, at, 1 << 63 | 1 << 40);
    std::fs::write(&path, bytes).unwrap();
    let ran = diskimage(["map", "--output=json", path.to_str().unwrap()]);
    assert_eq!(ran.code, Some(1));
    let told = ran.json();
    let last = told.as_array().unwrap().last().unwrap();
    assert_eq!(last["start"].as_u64().unwrap() + last["length"].as_u64().unwrap(), 5 * 65_536);
    ran.told(&path, &["(at offset 0x10000000000)", "fetch it again"]);
}
