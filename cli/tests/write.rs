//! What `convert`, `create` and `measure` write, from end to end: options, standard output, backing
//! files, sizes; and what stays behind when they are stopped.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::*;
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn same(folder: &Path, first: &Path, second: &Path) {
    diskimage(["compare", "--allow-external", text(first), text(second)]).ok_with("identical");
    if has("qemu-img") {
        // it takes a fixed VHD for a raw disk unless it is told
        let info = diskimage(["info", "--allow-external", "--output=json", text(second)]).json();
        let format = info["format"].as_str().unwrap();
        let args = ["compare", "-q", "-F", format, text(first), text(second)];
        output_of(folder, "qemu-img", &args);
    }
}

trait OkWith {
    fn ok_with(self, word: &str);
}

impl OkWith for Ran {
    #[track_caller]
    fn ok_with(self, word: &str) {
        assert_eq!((self.code, &*self.stderr), (Some(0), ""), "{self:?}");
        assert!(self.text().contains(word), "{self:?}");
    }
}

#[test]
fn every_target_has_the_disk_and_is_found_whole() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("cloud.qcow2");
    for (name, args) in [
        ("plain.qcow2", &["-O", "qcow2"][..]),
        ("packed.qcow2", &["-O", "qcow2", "-c", "-o", "level=9,cluster_size=2M"]),
        ("zstd.qcow2", &["-O", "qcow2", "-c", "-o", "compression_type=zstd,extended_l2=on"]),
        ("old.qcow2", &["-O", "qcow2", "-o", "compat=0.10"]),
        ("room.qcow2", &["-O", "qcow2", "--preallocation=falloc"]),
        ("all.qcow2", &["-O", "qcow2", "-S", "0"]),
        ("sparse.vmdk", &["-O", "vmdk"]),
        ("dynamic.vhd", &["-O", "vpc"]),
        ("fixed.vhd", &["-O", "vhd", "-o", "subformat=fixed"]),
        ("dynamic.vhdx", &["-O", "vhdx"]),
        ("fixed.vhdx", &["-O", "vhdx", "-o", "subformat=fixed,block_size=1M"]),
        ("dynamic.vdi", &["-O", "vdi"]),
        ("stream.vmdk", &["-O", "vmdk", "-c", "-o", "subformat=streamOptimized"]),
        ("flat.vmdk", &["-O", "vmdk", "-o", "subformat=monolithicFlat"]),
        ("pieces.vmdk", &["-O", "vmdk", "-o", "subformat=twoGbMaxExtentFlat"]),
        ("split.vmdk", &["-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"]),
    ] {
        let target = dir.path().join(name);
        diskimage([&["convert"], args, &[image.text(), text(&target)]].concat()).ok();
        same(dir.path(), &image.path, &target);
        assert_eq!(diskimage(["check", text(&target)]).code, Some(0), "{name}");
        if has("qemu-img") && !name.ends_with("vhd") {
            output_of(dir.path(), "qemu-img", &["check", "-q", name]);
        }
        // the same on standard output, where it may need a temporary file and says so
        let ran = diskimage([&["convert"], args, &[image.text(), "-"]].concat());
        if ["flat.vmdk", "pieces.vmdk", "split.vmdk"].contains(&name) {
            ran.refused(1, &image.path, &["consists of 2 files, and standard output is one"]);
            continue;
        }
        if name.starts_with("room") {
            ran.refused(1, &image.path, &["room can be set aside in a file only"]);
            continue;
        }
        let spills = ["sparse.vmdk", "dynamic.vhd", "dynamic.vhdx", "fixed.vhdx", "dynamic.vdi"]
            .contains(&name)
            || args.contains(&"-c") && name.ends_with("qcow2");
        assert_eq!(ran.code, Some(0), "{name}: {}", ran.stderr);
        assert_eq!(ran.stderr.contains("temporary file of at most"), spills, "{}", ran.stderr);
        let piped = dir.path().join("piped");
        std::fs::write(&piped, &ran.stdout).unwrap();
        same(dir.path(), &image.path, &piped);
    }
}

/// Through every pair of formats the disk stays the same, and so does its size.
#[test]
fn every_format_becomes_every_other() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("cloud.qcow2");
    let formats: [(&str, &[&str]); 7] = [
        ("raw", &["-O", "raw"]),
        ("qcow2", &["-O", "qcow2", "-c"]),
        ("vmdk", &["-O", "vmdk"]),
        ("stream.vmdk", &["-O", "vmdk", "-o", "subformat=streamOptimized"]),
        ("vhd", &["-O", "vpc"]),
        ("vhdx", &["-O", "vhdx"]),
        ("vdi", &["-O", "vdi"]),
    ];
    let convert = |args: &[&str], from: &Path, to: &Path| {
        diskimage([&["convert"], args, &[text(from), text(to)]].concat()).ok();
    };
    for (from, args) in formats {
        let first = dir.path().join(format!("first.{from}"));
        convert(args, &image.path, &first);
        for (to, args) in formats {
            let second = dir.path().join(format!("second.{to}"));
            convert(args, &first, &second);
            same(dir.path(), &image.path, &second);
            let info = diskimage(["info", "--output=json", text(&second)]).json();
            assert_eq!(info["virtual-size"], image.virtual_size, "{from} to {to}");
        }
    }
}

#[test]
fn checksums_are_those_of_the_disk_inside() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.qcow2");
    let image = fixture("qcow2/v3-zlib-2M.qcow2");
    let args = ["convert", "-O", "qcow2", "-c", "--checksum", "sha256", "--output=json"];
    let ran = diskimage(args.iter().chain(&[image.text(), text(&target)]));
    let answer = ran.json();
    let digest = &answer["content-checksums"]["sha256"];
    assert_eq!(digest.as_str(), image.guest_sha256.as_deref(), "{answer}");
    // of the file, whose bytes are others, nothing is told
    assert_eq!(answer["file-checksums"], Value::Null, "{answer}");
}

#[test]
fn create_makes_empty_images_of_the_size_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for (format, size, bytes) in [
        ("raw", "1G", 1 << 30),
        ("qcow2", "10T", 10 << 40),
        ("qcow2", "0", 0),
        ("vmdk", "3M", 3 << 20),
    ] {
        let file = dir.path().join(format!("{size}.{format}"));
        diskimage(["create", "-f", format, text(&file), size]).ok();
        let info = diskimage(["info", "-f", format, "--output=json", text(&file)]).ok().json();
        assert_eq!(
            (info["format"].as_str(), info["virtual-size"].as_u64()),
            (Some(format), Some(bytes))
        );
        let code = if format == "raw" { 63 } else { 0 };
        assert_eq!(diskimage(["check", "-f", format, text(&file)]).code, Some(code), "{format}");
        if has("qemu-img") {
            let answer = output_of(
                dir.path(),
                "qemu-img",
                &["info", "-f", format, "--output=json", text(&file)],
            );
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(answer["virtual-size"], bytes);
        }
    }
    let file = dir.path().join("x");
    diskimage(["create", "-f", "qcow2", text(&file)]).refused(1, &file, &["no size is given"]);
    diskimage(["create", "-f", "qed", text(&file), "1G"]).refused(1, &file, &["not written yet"]);
    assert!(!file.exists());
}

#[test]
fn a_backing_file_is_there_of_its_format_and_shows_through() {
    let dir = tempfile::tempdir().unwrap();
    let (base, top) = (dir.path().join("base.qcow2"), dir.path().join("top.qcow2"));
    std::fs::copy(&fixture("cloud.qcow2").path, &base).unwrap();
    diskimage(["create", "-f", "qcow2", "-b", "base.qcow2", text(&top)]).ok();
    same(dir.path(), &base, &top);
    let info = diskimage(["info", "--output=json", text(&top)]).json();
    assert_eq!(info["backing-filename-format"], "qcow2");
    // nothing differs, so nothing is written but tables
    let again = dir.path().join("again.qcow2");
    let args = ["convert", "-O", "qcow2", "-B", "base.qcow2", "-F", "qcow2"];
    diskimage(args.iter().chain(&[text(&base), text(&again)])).ok();
    same(dir.path(), &base, &again);
    assert!(std::fs::metadata(&again).unwrap().len() <= 4 << 16);
    // what is not there, is of another format or has none is refused before anything is written
    let refuse = |args: &[&str], word: &str| {
        let out = dir.path().join("out.qcow2");
        let ran = diskimage([&["create", "-f", "qcow2"], args, &[text(&out), "1M"]].concat());
        assert!(ran.code == Some(1) && ran.stderr.contains(word), "{ran:?}");
        assert!(!out.exists());
    };
    refuse(&["-b", "nowhere.qcow2"], "cannot open the file");
    refuse(&["-b", "base.qcow2", "-F", "vmdk"], "no VMDK");
    std::fs::write(dir.path().join("text"), "no disk").unwrap();
    refuse(&["-b", "text"], "in no format that is known");
    refuse(&["-F", "raw"], "without a backing file");
    refuse(&["-b", "base.qcow2", "-o", "preallocation=full"], "set aside");
    // an image cannot become its own backing file's
    let own = diskimage(["create", "-f", "qcow2", "-b", "base.qcow2", text(&base)]);
    own.refused(1, &base, &["is the image that is read"]);
    let args = ["create", "-f", "vdi", "-b", "base.qcow2", text(&top)];
    diskimage(args).refused(1, &top, &["has no backing file"]);
}

/// What qemu calls dirty in a bitmap of an image.
fn dirty(folder: &Path, image: &str, bitmap: &str) -> Value {
    // the name of a socket must be short
    let (socket, pid) = (folder.join("socket"), folder.join("pid"));
    let _ = std::fs::remove_file(&socket);
    let pid_file = format!("--pid-file={}", text(&pid));
    let args = ["-r", "-f", "qcow2", "-B", bitmap, "-k", text(&socket), "--fork", &pid_file, image];
    output_of(folder, "qemu-nbd", &args);
    let server = std::fs::read_to_string(&pid).unwrap();
    let options = format!(
        "driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:{bitmap}",
        text(&socket)
    );
    let map = output_of(folder, "qemu-img", &["map", "--output=json", "--image-opts", &options]);
    // it ends with its last client, but not if that left too early
    let _ = std::process::Command::new("kill").arg(server.trim()).output();
    serde_json::from_slice(&map).unwrap()
}

#[test]
fn bitmaps_are_copied_bit_by_bit() {
    if !has("qemu-img") || !has("qemu-nbd") || !has("qemu-io") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let run = |program: &str, args: &[&str]| drop(output_of(folder, program, args));
    run("qemu-img", &["create", "-q", "-f", "qcow2", "a.qcow2", "1100M"]);
    run("qemu-img", &["bitmap", "--add", "-g", "64k", "a.qcow2", "b0"]);
    run("qemu-img", &["bitmap", "--add", "-g", "512", "a.qcow2", "b1"]);
    let writes = ["write 1M 64k", "write 5M 4k", "write 1000M 70k", "write 1126399k 1k"];
    let writes: Vec<_> = writes.iter().flat_map(|write| ["-c", write]).collect();
    run("qemu-io", &[&writes[..], &["a.qcow2"]].concat());
    run("qemu-io", &["-c", "discard 300M 200M", "a.qcow2"]);
    run("qemu-img", &["bitmap", "--disable", "a.qcow2", "b0"]);
    let bitmaps = |name: &str| {
        let info = output_of(folder, "qemu-img", &["info", "--output=json", name]);
        let info: Value = serde_json::from_slice(&info).unwrap();
        info["format-specific"]["data"]["bitmaps"].clone()
    };
    let (b0, b1) = (dirty(folder, "a.qcow2", "b0"), dirty(folder, "a.qcow2", "b1"));
    assert!(b1.as_array().unwrap().len() > 6, "{b1}");
    for args in [&["-o", "cluster_size=4k"][..], &["-c"], &["--dedupe", "-o", "cluster_size=512"]] {
        let (from, to) = (folder.join("a.qcow2"), folder.join("out.qcow2"));
        let base = ["convert", "-O", "qcow2", "--bitmaps", text(&from), text(&to)];
        diskimage(base.iter().chain(args)).ok();
        same(folder, &from, &to);
        run("qemu-img", &["check", "-q", "out.qcow2"]);
        assert_eq!(diskimage(["check", text(&to)]).code, Some(0));
        assert_eq!(bitmaps("out.qcow2"), bitmaps("a.qcow2"), "{args:?}");
        assert_eq!(dirty(folder, "out.qcow2", "b0"), b0, "{args:?}");
        assert_eq!(dirty(folder, "out.qcow2", "b1"), b1, "{args:?}");
    }
    // what has none, and what was not saved properly
    let refuse = |args: &[&str], word: &str| {
        let out = folder.join("refused");
        let ran = diskimage([&["convert", "--bitmaps"], args, &[text(&out)]].concat());
        assert!(ran.code == Some(1) && ran.stderr.contains(word), "{ran:?}");
        assert!(!out.exists());
    };
    let (image, vdi) = (folder.join("a.qcow2"), folder.join("a.vdi"));
    diskimage(["convert", "-O", "vdi", text(&image), text(&vdi)]).ok();
    refuse(&["-O", "vdi", text(&image)], "has no bitmaps");
    refuse(&["-O", "qcow2", text(&vdi)], "has no bitmaps");
    refuse(&["-O", "qcow2", "-o", "compat=0.10", text(&image)], "version 3");
    let broken = in_use(&image);
    std::fs::write(&image, broken).unwrap();
    refuse(&["-O", "qcow2", text(&image)], "not saved properly");
    let args = ["convert", "-O", "qcow2", "--bitmaps", "--skip-broken-bitmaps"];
    diskimage(args.iter().chain(&[text(&image), text(&folder.join("out.qcow2"))])).ok();
    assert_eq!(bitmaps("out.qcow2"), Value::Null);
}

/// The image with its bitmaps in use.
fn in_use(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    let be64 = |bytes: &[u8], at: usize| {
        u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
    };
    let magic = 0x2385_2875u32.to_be_bytes();
    let extension = bytes.windows(4).position(|window| window == magic).unwrap();
    let mut at = be64(&bytes, extension + 24);
    let end = at + be64(&bytes, extension + 16);
    while at < end {
        bytes[at + 15] |= 1;
        let name = usize::from(bytes[at + 18]) << 8 | usize::from(bytes[at + 19]);
        at = (at + 24 + name).next_multiple_of(8);
    }
    bytes
}

/// A VMDK, VHD or VHDX has a parent of its own format, which `info` names.
#[test]
fn a_parent_of_the_same_format_shows_through() {
    for (format, name) in [("vmdk", "vmdk"), ("vpc", "vhd"), ("vhdx", "vhdx")] {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(format!("{name}.{format}"));
        let (base, top, empty) = (path("base"), path("top"), path("empty"));
        let (first, second) = (fixture("cloud.qcow2"), dir.path().join("second.raw"));
        diskimage(["convert", "-O", format, first.text(), text(&base)]).ok();
        diskimage(["convert", first.text(), text(&second)]).ok();
        let mut bytes = std::fs::read(&second).unwrap();
        let half = bytes.len() / 2;
        bytes[half..half + 70_000].fill(0);
        bytes[..3].copy_from_slice(b"new");
        std::fs::write(&second, bytes).unwrap();
        let parent = format!("base.{format}");
        let args = ["convert", "-f", "raw", "-O", format, "-B", &parent];
        diskimage(args.iter().chain(&[text(&second), text(&top)])).ok();
        let open = ["--allow-external"];
        let args = [&["compare"], &open[..], &["-f", "raw", text(&second), text(&top)]].concat();
        diskimage(args).ok_with("identical");
        assert!(std::fs::metadata(&top).unwrap().len() < 8 << 20, "only what differs is in it");
        assert_eq!(diskimage(["check", text(&top)]).code, Some(0), "{format}");
        let info = diskimage(["info", "--output=json", text(&top)]).json();
        assert_eq!(info["format"], format, "{info}");
        assert!(info["backing-filename"].as_str().unwrap().ends_with(&parent), "{info}");
        diskimage(["create", "-f", format, "-b", &parent, text(&empty)]).ok();
        let args = [&["compare"], &open[..], &[text(&base), text(&empty)]].concat();
        diskimage(args).ok_with("identical");
        if format == "vmdk" {
            for kind in ["twoGbMaxExtentSparse", "streamOptimized"] {
                let (other, options) = (path(kind), format!("subformat={kind}"));
                let args = ["convert", "-f", "raw", "-O", format, "-B", &parent, "-o", &options];
                diskimage(args.iter().chain(&[text(&second), text(&other)])).ok();
                let args = [&["compare"], &open[..], &["-f", "raw", text(&second), text(&other)]];
                diskimage(args.concat()).ok_with("identical");
                if has("qemu-img") {
                    let args = ["compare", "-q", "-f", "raw", "-F", format];
                    let args = [&args[..], &[text(&second), text(&other)]].concat();
                    output_of(dir.path(), "qemu-img", &args);
                }
            }
        }
        // what is no parent of it is refused before anything is written
        let refuse = |args: &[&str], file: &Path, word: &str| {
            let out = path("out");
            let ran = diskimage([&["create", "-f", format], args, &[text(&out)]].concat());
            ran.refused(1, file, &[word]);
            assert!(!out.exists(), "{format}");
        };
        let nowhere = dir.path().join("nowhere");
        refuse(&["-b", "nowhere"], &nowhere, "cannot open the file");
        std::fs::copy(&first.path, dir.path().join("other")).unwrap();
        let word = format!("the parent of a {name} must be one, too, and this is a qcow2");
        let word = if name == "vhd" { word.replace("a vhd", "a vpc") } else { word };
        refuse(&["-b", "other"], &dir.path().join("other"), &word);
        let ran = diskimage(["create", "-f", format, "-b", &parent, text(&path("out")), "512"]);
        ran.refused(1, &path("out"), &["the parent's disk has"]);
    }
}

#[test]
fn a_vmdk_of_several_files_appears_whole_and_replaces_no_extents() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk.vmdk");
    let image = fixture("cloud.qcow2");
    let options = ["-O", "vmdk", "-o", "subformat=monolithicFlat"];
    let convert =
        |target: &str| diskimage([&["convert"], &options[..], &[image.text(), target]].concat());
    // a descriptor is replaced as any file is
    std::fs::write(&file, "old").unwrap();
    convert(text(&file)).ok();
    assert_eq!(entries(dir.path()), ["disk-flat.vmdk", "disk.vmdk"]);
    same(dir.path(), &image.path, &file);
    let before = std::fs::read(&file).unwrap();
    // and the extents of what is there are kept
    let extent = dir.path().join("disk-flat.vmdk");
    convert(text(&file)).refused(1, &extent, &["exists, and may belong to another image"]);
    std::fs::remove_file(&file).unwrap();
    convert(text(&file)).refused(1, &extent, &["exists, and may belong to another image"]);
    assert_eq!(entries(dir.path()), ["disk-flat.vmdk"]);
    std::fs::write(&file, before).unwrap();
    same(dir.path(), &image.path, &file);
    // the image cannot be written over itself, nor to what is no file
    convert(text(dir.path())).refused(1, dir.path(), &["is no regular file"]);
    let args = ["convert", "-n", "-O", "vmdk", "-o", "subformat=monolithicFlat"];
    let ran = diskimage(args.iter().chain(&[image.text(), text(&file)]));
    ran.refused(1, &image.path, &["only a raw disk is written into what exists"]);
}

#[test]
fn an_empty_vmdk_of_several_files_has_the_size_that_measure_tells() {
    for (kind, size, names) in [
        ("twoGbMaxExtentSparse", "5G", &["-s001.vmdk", "-s002.vmdk", "-s003.vmdk", ".vmdk"][..]),
        ("twoGbMaxExtentFlat", "2G", &["-f001.vmdk", "-f002.vmdk", ".vmdk"]),
        ("monolithicFlat", "1", &["-flat.vmdk", ".vmdk"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk.vmdk");
        let names: Vec<String> = names.iter().map(|name| format!("disk{name}")).collect();
        let option = format!("subformat={kind}");
        diskimage(["create", "-f", "vmdk", "-o", &option, text(&file), size]).ok();
        assert_eq!(entries(dir.path()), names);
        let mut lengths = 0;
        for name in &names {
            lengths += std::fs::metadata(dir.path().join(name)).unwrap().len();
        }
        let args = ["measure", "-O", "vmdk", "-o", &option, "--size", size, "--output=json"];
        assert_eq!(diskimage(args).json()["required"], lengths, "{kind}");
        let info = diskimage(["info", "--output=json", "--allow-external", text(&file)]).json();
        let meant = [("5G", 5u64 << 30), ("2G", 2 << 30), ("1", 512)];
        let meant = meant.iter().find(|(word, _)| *word == size).unwrap().1;
        assert_eq!(info["virtual-size"], meant, "{kind}");
        if has("qemu-img") {
            let args = ["info", "-f", "vmdk", "--output=json", "disk.vmdk"];
            let answer = output_of(dir.path(), "qemu-img", &args);
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(answer["virtual-size"], meant, "{kind}");
            assert_eq!(answer["format-specific"]["data"]["create-type"], kind);
        }
    }
    // a name without an ending
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x");
    diskimage(["create", "-f", "vmdk", "-o", "subformat=monolithicFlat", text(&file), "1M"]).ok();
    assert_eq!(entries(dir.path()), ["x", "x-flat"]);
}

#[test]
fn measure_tells_the_size_that_convert_writes_and_no_more_than_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("qcow2/v3-zlib-64k.qcow2");
    for options in ["cluster_size=64k", "cluster_size=512", "extended_l2=on,refcount_bits=1"] {
        let args = ["measure", "-O", "qcow2", "-o", options, "--output=json", image.text()];
        let sizes = diskimage(args).ok().json();
        let target = dir.path().join("out.qcow2");
        diskimage(["convert", "-O", "qcow2", "-o", options, image.text(), text(&target)]).ok();
        let length = std::fs::metadata(&target).unwrap().len();
        assert!(length <= sizes["required"].as_u64().unwrap(), "{options}: {length}, {sizes}");
        let options = format!("{options},preallocation=metadata");
        diskimage(["convert", "-O", "qcow2", "-o", &options, image.text(), text(&target)]).ok();
        let length = std::fs::metadata(&target).unwrap().len();
        assert_eq!(sizes["fully-allocated"], length, "{options}");
        if has("qemu-img") {
            let args = ["measure", "-O", "qcow2", "-o", &options, "--output=json", image.text()];
            let theirs: Value =
                serde_json::from_slice(&output_of(dir.path(), "qemu-img", &args)).unwrap();
            assert_eq!(theirs["fully-allocated"], sizes["fully-allocated"], "{options}");
            assert!(theirs["required"].as_u64() >= sizes["required"].as_u64(), "{theirs} {sizes}");
        }
    }
    // compressed, it is an estimate
    let sizes =
        diskimage(["measure", "-c", "-O", "qcow2", "--output=json", image.text()]).ok().json();
    let target = dir.path().join("packed.qcow2");
    diskimage(["convert", "-c", "-O", "qcow2", image.text(), text(&target)]).ok();
    let length = std::fs::metadata(&target).unwrap().len() as f64;
    let estimate = sizes["compressed-estimate"].as_u64().unwrap() as f64;
    assert!((0.8..1.25).contains(&(estimate / length)), "{estimate} of {length}");
    // without an image: an empty disk
    let sizes = diskimage(["measure", "--size", "1G", "-O", "qcow2"]).ok();
    assert_eq!(sizes.text(), "required size: 262144\nfully allocated size: 1074135040\n");
    let raw = diskimage(["measure", "--size", "1G"]).ok();
    assert_eq!(raw.text(), "required size: 0\nfully allocated size: 1073741824\n");
}

#[test]
fn options_are_told_and_nonsense_is_refused() {
    let image = fixture("cloud.qcow2");
    for command in ["convert", "create", "measure"] {
        let format = if command == "create" { "-f" } else { "-O" };
        let ran = diskimage([command, format, "qcow2", "-o", "help", image.text(), "1"]);
        if command != "measure" {
            ran.ok_with("cluster_size=SIZE");
        }
    }
    for (options, word) in [
        ("cluster=64k", "no option 'cluster': choose among compat, cluster_size"),
        ("cluster_size=banana", "'banana', which must be a size"),
        ("cluster_size=1000", "1000 bytes"),
        ("lazy_refcounts=perhaps", "on or off"),
        ("compat=7", "0.10 or 1.1"),
        ("compression_type=lzma", "zlib or zstd"),
        ("preallocation=some", "off|metadata|falloc|full"),
        ("level=99", "level"),
        ("compat=0.10,extended_l2=on", "version 3"),
    ] {
        let args = ["convert", "-c", "-O", "qcow2", "-o", options, image.text(), "/nowhere/x"];
        diskimage(args).refused(1, &image.path, &[word]);
    }
    let args = ["convert", "-c", image.text(), "/nowhere/x"];
    diskimage(args).refused(1, &image.path, &["'raw' has no compression"]);
    let args = ["convert", "-c", "-O", "vmdk", image.text(), "/nowhere/x"];
    diskimage(args).refused(1, &image.path, &["streamOptimized"]);
}

#[test]
fn killed_at_any_moment_it_leaves_a_whole_image_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    let image = fixture("qcow2/v3-zlib-2M.qcow2");
    let mut outcomes = [0, 0];
    for round in 0..40u64 {
        let kinds: [&[&str]; 2] = [&["qcow2", "-c"], &["vmdk", "-o", "subformat=streamOptimized"]];
        let args = [&["convert", "-O"], kinds[round as usize % 2], &[image.text(), text(&target)]];
        let mut child = command(args.concat()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(round * round * 60));
        child.kill().unwrap();
        child.wait().unwrap();
        match &entries(dir.path())[..] {
            [] => outcomes[0] += 1,
            [only] if only == "out" => {
                let sum = diskimage(["checksum", text(&target)]).ok();
                let meant = image.guest_sha256.as_deref().unwrap();
                assert!(sum.text().starts_with(meant), "round {round}");
                std::fs::remove_file(&target).unwrap();
                outcomes[1] += 1;
            }
            other => panic!("round {round}: {other:?}"),
        }
    }
    assert!(outcomes[0] > 0, "it was never killed in time: {outcomes:?}");
}

#[test]
fn killed_at_any_moment_it_leaves_all_files_or_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    let image = fixture("qcow2/v3-zlib-2M.qcow2");
    let mut outcomes = [0, 0];
    for round in 0..24u64 {
        let args = ["convert", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"];
        let paths = [image.text(), text(&target)];
        let mut child = command(args.iter().chain(&paths)).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(round * round * 160));
        child.kill().unwrap();
        child.wait().unwrap();
        let left = entries(dir.path());
        if left.contains(&"out".to_owned()) {
            let sum = diskimage(["checksum", "--allow-external", text(&target)]).ok();
            let meant = image.guest_sha256.as_deref().unwrap();
            assert!(sum.text().starts_with(meant), "round {round}");
            outcomes[1] += 1;
        } else {
            // between the two names: an extent that is whole, and that no one takes for a disk
            assert!(left.is_empty() || left == ["out-s001"], "round {round}: {left:?}");
            outcomes[0] += 1;
        }
        left.iter().for_each(|name| std::fs::remove_file(dir.path().join(name)).unwrap());
    }
    assert!(outcomes[0] > 0, "it was never killed in time: {outcomes:?}");
}

#[test]
fn a_full_disk_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("cloud.qcow2");
    if !has("unshare") {
        return;
    }
    let script = "mount -t tmpfs -o size=300k tmpfs \"$0\" && cd \"$0\" || exit 99
        \"$1\" convert -O $3 \"$2\" out; code=$?; ls -A; exit $code";
    for format in ["qcow2", "vmdk", "vmdk -o subformat=monolithicFlat"] {
        for flags in ["-m", "-rm"] {
            let mut command = Command::new("unshare");
            command.args([flags, "sh", "-c", script]).arg(dir.path());
            let ran = ran(command.args([DISKIMAGE, image.text(), format]));
            if ran.stderr.contains("unshare") || ran.code == Some(99) {
                continue;
            }
            let file = if format.contains("Flat") { "out-flat" } else { "out" };
            ran.refused(1, Path::new(file), &["No space left on device"]);
            break;
        }
    }
}
