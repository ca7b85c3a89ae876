//! Damaged images: an error by default, and with `--salvage` an exact list of what was lost.
#![allow(
    clippy::unwrap_used,
    clippy::single_range_in_vec_init,
    reason = "tests may panic; one range is a list of ranges too"
)]

mod common;

use std::ops::Range;
use std::path::{Path, PathBuf};

use common::*;
use serde_json::Value;
use tempfile::TempDir;

/// A damaged image in a folder of its own.
struct Damaged {
    dir: TempDir,
    path: PathBuf,
    /// The disk as it was.
    content: Vec<u8>,
}

impl Damaged {
    fn new(file: &str, damage: impl FnOnce(&mut Vec<u8>)) -> Self {
        let fixture = fixture(file);
        let content = diskimage(["convert", fixture.text(), "-"]).ok().stdout;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("damaged.qcow2");
        let mut bytes = fixture.bytes();
        damage(&mut bytes);
        write_sparse(&path, &bytes);
        Self { dir, path, content }
    }

    /// Without `--salvage` it is refused and nothing is left; with it, exactly `lost` is lost.
    #[track_caller]
    fn loses(&self, lost: &[Range<u64>], offset: u64) {
        let target = self.dir.path().join("out.raw");
        let before = entries(self.dir.path());
        let (source, out) = (self.path.to_str().unwrap(), target.to_str().unwrap());
        for threads in ["1", "3"] {
            let threads = format!("--threads={threads}");
            // several threads may meet other damage first
            let first = threads.ends_with("=1") || lost.len() == 1;
            let place = if first { format!("{offset:#x})") } else { "0x".into() };
            let words = [&*format!("(at offset {place}"), ": the file is "];
            diskimage(["convert", &threads, "--allow-external", source, out])
                .refused(1, &self.path, &words);
            assert_eq!(entries(self.dir.path()), before);

            let ran = diskimage([
                "convert",
                &threads,
                "--allow-external",
                "--salvage",
                "--output=json",
                source,
                out,
            ]);
            assert_eq!(ran.code, Some(3), "{ran:?}");
            let lines: Vec<_> = lost
                .iter()
                .map(|range| {
                    let length = range.end - range.start;
                    format!(
                        "diskimage: {source}: lost {length} bytes at guest offset {:#x}",
                        range.start
                    )
                })
                .collect();
            assert_eq!(ran.stderr.lines().collect::<Vec<_>>(), lines);
            let told: Vec<_> = lost.iter().map(|range| serde_json::json!({"start": range.start, "length": range.end - range.start})).collect();
            assert_eq!(ran.json()["lost"], Value::Array(told));
            self.check(&std::fs::read(&target).unwrap(), lost);
            std::fs::remove_file(&target).unwrap();

            let ran =
                diskimage(["convert", &threads, "--allow-external", "--salvage", source, "-"]);
            assert_eq!(ran.code, Some(3));
            assert_eq!(ran.stderr.lines().collect::<Vec<_>>(), lines, "to a stream");
            self.check(&ran.stdout, lost);
        }
    }

    #[track_caller]
    fn check(&self, bytes: &[u8], lost: &[Range<u64>]) {
        let mut wanted = self.content.clone();
        for range in lost {
            wanted[range.start as usize..range.end as usize].fill(0);
        }
        assert!(bytes == wanted, "something else was lost, or not");
    }
}

/// The guest ranges whose bytes lie at or behind `end` in the file, neighbours joined.
fn behind(file: &str, end: u64) -> Vec<Range<u64>> {
    let map = diskimage(["map", "--output=json", fixture(file).text()]).ok().json();
    let mut lost: Vec<Range<u64>> = Vec::new();
    for entry in map.as_array().unwrap().iter().filter(|entry| entry["data"] == true) {
        let number = |key: &str| entry[key].as_u64().unwrap();
        let (start, length, offset) = (number("start"), number("length"), number("offset"));
        let whole = end.saturating_sub(offset).min(length);
        match lost.last_mut() {
            Some(last) if whole == 0 && last.end == start => last.end = start + length,
            _ if whole < length => lost.push(start + whole..start + length),
            _ => {}
        }
    }
    lost
}

#[test]
fn a_truncated_image_loses_what_lay_behind_its_end() {
    for (file, end) in [
        ("qcow2/v3-plain-64k.qcow2", 0xb0000),
        ("qcow2/v3-plain-64k.qcow2", 0xb4e00),
        ("qcow2/v3-prealloc-full.qcow2", 0xc0200),
        ("qcow2/v3-cluster-2M.qcow2", (9 << 20) + 512),
        ("qcow2/v3-zeros.qcow2", 0x120000),
    ] {
        let lost = behind(file, end);
        assert!(!lost.is_empty(), "{file} has nothing behind {end:#x}");
        let damaged = Damaged::new(file, |bytes| bytes.truncate(end as usize));
        // the first that is missed is the first in guest order, which is behind the end somewhere
        let ran = diskimage(["convert", damaged.path.to_str().unwrap(), "-"]);
        let (_, offset) = ran.stderr.split_once("(at offset 0x").unwrap();
        let offset = u64::from_str_radix(offset.split_once(')').unwrap().0, 16).unwrap();
        assert!(offset >= end, "{ran:?}");
        damaged.loses_at_any_offset(&lost);
    }
}

impl Damaged {
    /// The same where threads meet different damage first.
    #[track_caller]
    fn loses_at_any_offset(&self, lost: &[Range<u64>]) {
        let ran = diskimage(["convert", "--threads=1", self.path.to_str().unwrap(), "-"]);
        let (_, offset) = ran.stderr.split_once("(at offset 0x").unwrap();
        let offset = u64::from_str_radix(offset.split_once(')').unwrap().0, 16).unwrap();
        self.loses(lost, offset);
    }
}

#[test]
fn a_spoiled_compressed_cluster_costs_itself() {
    for file in [
        "qcow2/v3-zlib-64k.qcow2",
        "qcow2/v3-zstd-64k.qcow2",
        "qcow2/v3-zlib-4k.qcow2",
        "qcow2/v3-zlib-2M.qcow2",
        "qcow2/v3-zlib-512.qcow2",
    ] {
        let bytes = fixture(file).bytes();
        let size = 1 << qcow2::cluster_bits(&bytes);
        let clusters = qcow2::compressed_clusters(&bytes);
        let spoiled = clusters[clusters.len() / 2];
        let damaged = Damaged::new(file, |bytes| qcow2::spoil_compressed(bytes, spoiled));
        damaged.loses(&[spoiled..spoiled + size], qcow2::compressed_start(&bytes, spoiled) as u64);
    }
}

#[test]
fn several_spoiled_clusters_are_listed_apart_and_neighbours_together() {
    let file = "qcow2/v3-zlib-4k.qcow2";
    let bytes = fixture(file).bytes();
    let clusters = qcow2::compressed_clusters(&bytes);
    let pair = clusters
        .windows(2)
        .find(|pair| pair[0] + 4096 == pair[1] && pair[0] > clusters[2] + 8192)
        .unwrap();
    let spoiled = [clusters[0], pair[0], pair[1]];
    let damaged = Damaged::new(file, |bytes| {
        spoiled.iter().for_each(|&at| qcow2::spoil_compressed(bytes, at))
    });
    damaged.loses_at_any_offset(&[spoiled[0]..spoiled[0] + 4096, pair[0]..pair[1] + 4096]);
}

#[test]
fn an_entry_that_points_beyond_the_end_costs_its_cluster() {
    let far = 1 << 40;
    for (file, guest) in
        [("qcow2/v3-prealloc-full.qcow2", 5 * 65_536), ("qcow2/v3-size-1000448.qcow2", 15 * 65_536)]
    {
        let mut end = guest + 65_536;
        end = end.min(fixture(file).virtual_size);
        let damaged = Damaged::new(file, |bytes| {
            let at = qcow2::l2_entry(bytes, guest);
            qcow2::set_entry(bytes, at, 1 << 63 | far);
        });
        damaged.loses(&[guest..end], far);
    }
    // a reserved bit, and an offset that is not at a cluster's start
    for value in [1 << 63 | 0x50000 | 1 << 56, 1 << 63 | 0x50200] {
        let guest = 3 * 65_536;
        let mut at = 0;
        let damaged = Damaged::new("qcow2/v3-prealloc-full.qcow2", |bytes| {
            at = qcow2::l2_entry(bytes, guest);
            qcow2::set_entry(bytes, at, value);
        });
        damaged.loses(&[guest..guest + 65_536], at as u64);
    }
}

#[test]
fn a_table_that_is_missing_costs_all_that_it_maps() {
    // clusters of 512 bytes: a table maps 32 KiB
    let file = "qcow2/v3-cluster-512.qcow2";
    let (guest, far) = (32_768, 1 << 40);
    let damaged = Damaged::new(file, |bytes| {
        let at = qcow2::l1_entry(bytes, guest);
        qcow2::set_entry(bytes, at, 1 << 63 | far);
    });
    damaged.loses(&[guest..2 * guest], far);
}

#[test]
fn a_spoiled_cluster_of_a_parent_costs_its_own_size_not_the_childs() {
    let parent = fixture("qcow2/v3-zlib-4k.qcow2").bytes();
    let overlay = fixture("qcow2/overlay-zlib.qcow2");
    let content = |folder: &Path| {
        let image = folder.join("overlay.qcow2");
        diskimage(["convert", "--allow-external", image.to_str().unwrap(), "-"])
    };
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = overlay.bytes();
    qcow2::set_backing_name(&mut bytes, b"parent.qcow2");
    write_sparse(&dir.path().join("overlay.qcow2"), &bytes);
    write_sparse(&dir.path().join("parent.qcow2"), &parent);
    let whole = content(dir.path()).ok().stdout;
    // one that the child does not hide, which it does in clusters of 64 KiB
    let shown = |guest: &u64| qcow2::be64(&bytes, qcow2::l2_entry(&bytes, *guest)) == 0;
    let spoiled = qcow2::compressed_clusters(&parent).into_iter().filter(shown).nth(2).unwrap();
    let mut spoilt = parent.clone();
    qcow2::spoil_compressed(&mut spoilt, spoiled);
    write_sparse(&dir.path().join("parent.qcow2"), &spoilt);
    let place = format!("(at offset {:#x})", qcow2::compressed_start(&parent, spoiled));
    let failed = content(dir.path());
    assert_eq!(failed.code, Some(1));
    failed.told(&dir.path().join("parent.qcow2"), &[&place]);

    let [image, target] = ["overlay.qcow2", "out.raw"].map(|name| dir.path().join(name));
    let (image, target) = (image.to_str().unwrap(), target.to_str().unwrap());
    let args = ["convert", "--allow-external", "--salvage", "--output=json", image, target];
    let ran = diskimage(args);
    assert_eq!(ran.json()["lost"], serde_json::json!([{ "start": spoiled, "length": 4096 }]));
    let mut wanted = whole;
    wanted[spoiled as usize..spoiled as usize + 4096].fill(0);
    assert!(std::fs::read(target).unwrap() == wanted);
}

#[test]
fn salvage_of_a_whole_image_loses_nothing_and_never_opens_what_is_denied() {
    let image = fixture("cloud.qcow2");
    let ran = diskimage(["convert", "--salvage", image.text(), "-"]).ok();
    assert_eq!(Some(sha256(&ran.stdout)), image.guest_sha256);
    let overlay = fixture("qcow2/overlay-raw.qcow2");
    diskimage(["convert", "--salvage", overlay.text(), "-"]).refused(
        1,
        &overlay.path,
        &["needs the backing file"],
    );
    // a damaged header leaves nothing to salvage
    let encrypted = fixture("qcow2/v3-luks.qcow2");
    diskimage(["convert", "--salvage", encrypted.text(), "-"]).refused(
        1,
        &encrypted.path,
        &["is encrypted"],
    );
}
