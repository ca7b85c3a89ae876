//! `diskimage info --contents` from end to end, and `probe` over folders and in Glance's words.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::Path;

use common::*;
use serde_json::{Value, json};

fn contents(file: &Path) -> Value {
    let args = ["info", "--contents", "-f", "raw", "--output=json", file.to_str().unwrap()];
    diskimage(args).ok().json()["disk-contents"].clone()
}

/// A disk of 1 MiB with an MBR, the second partition of which holds swap space of this label.
fn swap_disk(label: &[u8]) -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[440..444].copy_from_slice(&0xcafe_1234u32.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (slot, kind, start, count) in [(0, 0x83, 64u32, 64u32), (1, 0x82, 128, 256)] {
        let at = 446 + slot * 16;
        disk[at + 4] = kind;
        disk[at + 8..][..4].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..][..4].copy_from_slice(&count.to_le_bytes());
    }
    let swap = &mut disk[128 * 512..];
    swap[4086..4096].copy_from_slice(b"SWAPSPACE2");
    swap[1024] = 1;
    swap[1028] = 31;
    swap[1036..1052].fill(0xab);
    swap[1052..][..label.len()].copy_from_slice(label);
    disk
}

#[test]
fn partitions_are_listed_for_programs_by_stable_keys() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, swap_disk(b"mine")).unwrap();
    let answer = contents(&path);
    let id = "abababab-abab-abab-abab-abababababab";
    assert_eq!(
        answer["partitions"][1],
        json!({
            "number": 2, "role": "primary", "start": 65536, "size": 131_072,
            "type": "0x82", "type-name": "Linux swap", "uuid": "cafe1234-02", "name": null,
            "bootable": false, "attributes": 0,
            "superblocks": [{
                "type": "swap", "description": "Linux swap space", "usage": "other",
                "version": "1", "label": "mine", "uuid": id, "uuid-sub": null,
                "size": 131_072, "block-size": 4096, "offset": 65536 + 4086,
            }],
        })
    );
    assert_eq!(
        answer["partition-table"],
        json!({ "type": "dos", "id": "cafe1234", "sector-size": 512, "hybrid": false })
    );
    assert_eq!((&answer["size"], &answer["superblocks"]), (&json!(1 << 20), &json!([])));
    assert_eq!(answer["boot"]["bios"], false);
    assert_eq!(answer["findings"], json!([]));
}

#[test]
fn people_get_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, swap_disk(b"mine")).unwrap();
    let ran = diskimage(["info", "--contents", path.to_str().unwrap()]).ok();
    let (_, table) = ran.text().split_once("disk contents:\n").unwrap();
    let wanted = "    MBR, sectors of 512 bytes, id cafe1234
    #   start     size  type        content  label  UUID
    1  32 KiB   32 KiB  Linux       -
    2  64 KiB  128 KiB  Linux swap  swap 1   mine   abababab-abab-abab-abab-abababababab
    nothing to boot from was found
";
    assert_eq!(table, wanted);
    // without the option there is none
    let ran = diskimage(["info", path.to_str().unwrap()]).ok();
    assert!(!ran.text().contains("disk contents"));
}

#[test]
fn a_label_that_a_terminal_would_obey_is_escaped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, swap_disk(b"\x1b[31m\n\x9b")).unwrap();
    for output in ["human", "json"] {
        let ran = diskimage(["info", "--contents", "--output", output, path.to_str().unwrap()]);
        let text = ran.ok();
        assert!(!text.text().contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
    assert_eq!(contents(&path)["partitions"][1]["superblocks"][0]["label"], "\\x1b[31m\\x0a\\x9b");
}

#[test]
fn every_image_that_is_read_can_be_looked_at() {
    let mut tables = 0;
    for fixture in fixtures() {
        if fixture.expect != "ok" || !fixture.parents.is_empty() || fixture.is("extent") {
            continue;
        }
        let args = ["info", "--contents", "-f", &fixture.format, "--output=json", fixture.text()];
        let ran = diskimage(args);
        if ran.code != Some(0) {
            // one that is described but not read has no disk to look at
            assert_eq!(ran.code, Some(1), "{ran:?}");
            continue;
        }
        let answer = ran.ok().json();
        let found = &answer["disk-contents"];
        assert_eq!(found["size"], answer["virtual-size"], "{}", fixture.file);
        assert!(found["bytes-read"].as_u64().unwrap() <= 1 << 20);
        tables += u32::from(found["partition-table"].is_object());
    }
    assert!(tables >= 2, "only {tables}");
}

#[test]
fn folders_are_probed_in_one_call_without_following_links() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), b"QFI\xfb\0\0\0\x03").unwrap();
    let top = dir.path().join("top");
    std::fs::create_dir_all(top.join("b/deep")).unwrap();
    for (name, bytes) in [
        ("c.vdi", &b"conectix"[..]),
        ("a", b"QFI\xfb\0\0\0\x03"),
        ("b/deep/kernel", b"070701"),
        ("b/archive.gz", b"\x1f\x8b\x08"),
    ] {
        std::fs::write(top.join(name), bytes).unwrap();
    }
    std::os::unix::fs::symlink(&outside, top.join("link")).unwrap();
    std::os::unix::fs::symlink(outside.join("secret"), top.join("file-link")).unwrap();
    if has("mkfifo") {
        output_of(&top, "mkfifo", &["pipe"]);
    }
    let words = ["probe", "--recursive", "--glance", top.to_str().unwrap()];
    let ran = diskimage(words).ok();
    let wanted = format!(
        "{0}/a: disk_format qcow2, container_format bare
{0}/b/archive.gz: disk_format -, container_format compressed
{0}/b/deep/kernel: disk_format ari, container_format ari
{0}/c.vdi: disk_format vhd, container_format bare
",
        top.display()
    );
    assert_eq!(ran.text(), wanted);
    let ran = diskimage(words.into_iter().chain(["--output=json"])).ok();
    let answers = ran.json();
    let words: Vec<_> = answers
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["disk_format"].clone(), one["container_format"].clone()))
        .collect();
    assert_eq!(
        words,
        [
            (json!("qcow2"), json!("bare")),
            (json!(null), json!("compressed")),
            (json!("ari"), json!("ari")),
            (json!("vhd"), json!("bare")),
        ]
    );
    // an empty folder has nothing to tell, and a folder without the option is no file
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let empty = dir.path().join("empty");
    assert_eq!(
        diskimage(["probe", "-r", "--output=json", empty.to_str().unwrap()]).ok().json(),
        json!([])
    );
    diskimage(["probe".as_ref(), top.as_os_str()]).refused(2, &top, &["directory"]);
}

#[test]
fn glances_names_are_taken_wherever_a_format_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    std::fs::write(&raw, swap_disk(b"")).unwrap();
    for name in ["raw", "ami", "gpt", "iso", "AMI", "img"] {
        let answer = diskimage(["info", "--output=json", "-f", name, raw.to_str().unwrap()]).ok();
        assert_eq!(answer.json()["format"], "raw", "{name}");
    }
    let image = fixtures().iter().find(|f| f.format == "vpc" && f.expect == "ok").unwrap();
    for name in ["vpc", "vhd"] {
        diskimage(["info", "-f", name, image.text()]).ok();
    }
}
