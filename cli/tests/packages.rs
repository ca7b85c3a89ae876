//! Disks in packages: Compute Engine's tar.gz and OVAs, read by others.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use common::*;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A disk of this size with some data at these places.
fn disk(folder: &Path, name: &str, size: u64, places: &[u64]) -> PathBuf {
    let path = folder.join(name);
    let mut file = File::create(&path).unwrap();
    file.set_len(size).unwrap();
    for &place in places {
        let bytes: Vec<u8> =
            (0..5000u64.min(size - place)).map(|at| ((at * at + place) >> 3) as u8 | 1).collect();
        file.seek(SeekFrom::Start(place)).unwrap();
        file.write_all(&bytes).unwrap();
    }
    path
}

/// Unpacked by GNU tar, the disk is what it was.
fn unpacks(folder: &Path, archive: &str, disk: &Path) {
    if has("gzip") {
        output_of(folder, "gzip", &["-t", archive]);
    }
    if has("7z") {
        output_of(folder, "7z", &["t", archive]);
    }
    if !has("tar") {
        return;
    }
    let out = folder.join("unpacked");
    std::fs::create_dir_all(&out).unwrap();
    output_of(&out, "tar", &["-xzSf", text(&folder.join(archive))]);
    assert_eq!(entries(&out), ["disk.raw"]);
    output_of(folder, "cmp", &[text(disk), "unpacked/disk.raw"]);
    std::fs::remove_dir_all(&out).unwrap();
}

#[test]
fn compute_engines_archive_is_what_gnu_tar_reads() {
    let dir = tempfile::tempdir().unwrap();
    let unit = 256 << 10;
    for (number, (size, places)) in [
        (0, &[][..]),
        (1, &[0]),
        (1, &[]),
        (511, &[0]),
        (1_000_000, &[0, 999_999]),
        (unit, &[0]),
        (unit + 1, &[unit]),
        (10 * unit - 3, &[unit, 5 * unit - 1, 10 * unit - 4]),
        (10 << 20, &[]),
        // more runs than a header holds
        (60 * unit + 77, &[0, 4 * unit, 8 * unit, 12 * unit, 16 * unit, 20 * unit, 24 * unit]),
    ]
    .into_iter()
    .enumerate()
    {
        let disk = disk(dir.path(), "disk", size, places);
        let name = format!("{number}.tar.gz");
        let target = dir.path().join(&name);
        diskimage(["convert", "-f", "raw", "-O", "gce", text(&disk), text(&target)]).ok();
        unpacks(dir.path(), &name, &disk);
        // our own reader: of an empty disk, or one without a signature, only if it is told
        let member = format!("{}#disk.raw", text(&target));
        let args = ["compare", "-f", "raw", "-F", "raw", text(&disk), &member];
        let ran = diskimage(args);
        assert_eq!(ran.code, Some(0), "{size}: {ran:?}");
    }
}

#[test]
fn an_archive_of_a_disk_beyond_8_gib_says_so_in_base_256() {
    let dir = tempfile::tempdir().unwrap();
    let size = (9 << 30) + 513;
    let disk = disk(dir.path(), "disk", size, &[0, (8 << 30) + 12_345, size - 100]);
    let target = dir.path().join("disk.tar.gz");
    diskimage(["convert", "-f", "raw", "-O", "gce", text(&disk), text(&target)]).ok();
    assert!(std::fs::metadata(&target).unwrap().len() < 100_000);
    if has("tar") {
        let listed = output_of(dir.path(), "tar", &["-tvzf", "disk.tar.gz"]);
        let listed = String::from_utf8(listed).unwrap();
        assert!(listed.contains(&format!(" {size} ")) && listed.contains("disk.raw"), "{listed}");
        let args = ["-xzf", "disk.tar.gz"];
        output_of(dir.path(), "tar", &args);
        let raw = dir.path().join("disk.raw");
        assert!(allocated(&raw) < 4 << 20, "its holes are holes");
        let args = ["compare", "-f", "raw", "-F", "raw", text(&disk), text(&raw)];
        diskimage(args).ok();
    }
    let member = format!("{}#disk.raw", text(&target));
    let args = ["compare", "-f", "raw", "-F", "raw", text(&disk), &member];
    assert_eq!(diskimage(args).code, Some(0));
}

#[test]
fn packages_are_the_same_bytes_by_any_number_of_threads_and_to_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("qcow2/v3-zlib-2M.qcow2");
    for format in ["gce", "ova"] {
        let made = |name: &str, threads: &str, epoch: Option<&str>| {
            let path = dir.path().join(name).join("machine");
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let args = ["convert", "-m", threads, "-O", format, image.text(), text(&path)];
            let mut command = command(args);
            if let Some(epoch) = epoch {
                command.env("SOURCE_DATE_EPOCH", epoch);
            }
            ran(&mut command).ok();
            sha256(&std::fs::read(&path).unwrap())
        };
        let one = made("1", "1", None);
        for (name, threads) in [("2", "2"), ("3", "3"), ("7", "7")] {
            assert_eq!(made(name, threads, None), one, "{format}: {threads} threads");
        }
        assert_ne!(made("e", "2", Some("1700000000")), one, "{format}: the time is another");
        let ran = diskimage(["convert", "-O", format, "-o", "level=6", image.text(), "-"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        // an OVA's description comes first, and is known last
        assert_eq!(ran.stderr.contains("temporary file of at most"), format == "ova", "{ran:?}");
        if format == "gce" {
            assert_eq!(sha256(&ran.stdout), one, "to a pipe");
        } else {
            let args = ["convert", "-O", "ova", "-o", "name=machine", image.text(), "-"];
            assert_eq!(sha256(&diskimage(args).stdout), one, "to a pipe");
        }
    }
}

#[test]
fn an_ova_is_in_order_and_its_hashes_are_right() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("cloud.qcow2");
    let target = dir.path().join("web 1.ova");
    let args = ["convert", "-O", "ova", "-o", "cpus=2,memory=2G", image.text(), text(&target)];
    diskimage(args).ok();
    diskimage(["check", text(&target)]).ok();
    diskimage(["lint", "--for", "vsphere", text(&target)]).ok();
    let info = diskimage(["info", "--output=json", text(&target)]).ok().json();
    let data = &info["format-specific"]["data"];
    assert_eq!(data["name"], "web 1", "{info}");
    assert_eq!(data["disks"][0]["capacity"], 64 << 20, "{info}");
    // the disk of an OVA is what stands for it
    let ran = diskimage(["compare", image.text(), text(&target)]).ok();
    assert!(ran.text().contains("identical"), "{ran:?}");
    if has("tar") {
        let listed = output_of(dir.path(), "tar", &["-tf", "web 1.ova"]);
        assert_eq!(listed, b"web_1.ovf\nweb_1-disk1.vmdk\nweb_1.mf\n");
        output_of(dir.path(), "tar", &["-xf", "web 1.ova"]);
        // sha256sum takes the lines of the manifest as they are, but for the blank that is missing
        let manifest = std::fs::read_to_string(dir.path().join("web_1.mf")).unwrap();
        for name in ["web_1.ovf", "web_1-disk1.vmdk"] {
            let hash = sha256(&std::fs::read(dir.path().join(name)).unwrap());
            assert!(manifest.contains(&format!("SHA256({name})= {hash}\n")), "{manifest}");
        }
        assert_eq!(manifest.lines().count(), 2, "{manifest}");
        let ovf = std::fs::read_to_string(dir.path().join("web_1.ovf")).unwrap();
        let length = std::fs::metadata(dir.path().join("web_1-disk1.vmdk")).unwrap().len();
        assert!(ovf.contains(&format!("ovf:size=\"{length}\"")), "{ovf}");
        assert!(ovf.contains("<rasd:VirtualQuantity>2048</rasd:VirtualQuantity>"), "{ovf}");
        if has("qemu-img") {
            let args = ["compare", "-q", image.text(), "web_1-disk1.vmdk"];
            output_of(dir.path(), "qemu-img", &args);
        }
        if has("7z") {
            output_of(dir.path(), "7z", &["t", "web 1.ova"]);
            output_of(dir.path(), "7z", &["t", "web_1-disk1.vmdk"]);
        }
    }
    // a byte of the disk that is another one does not pass
    let mut bytes = std::fs::read(&target).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&target, &bytes).unwrap();
    let ran = diskimage(["check", text(&target)]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.text().contains("is not that of the manifest"), "{ran:?}");
}

#[test]
fn create_and_measure_know_packages() {
    let dir = tempfile::tempdir().unwrap();
    for (format, name) in [("ova", "empty.ova"), ("gce", "empty.tar.gz")] {
        let target = dir.path().join(name);
        diskimage(["create", "-f", format, text(&target), "3G"]).ok();
        let length = std::fs::metadata(&target).unwrap().len();
        let sizes =
            diskimage(["measure", "-O", format, "--size", "3G", "--output=json"]).ok().json();
        assert!(length <= sizes["required"].as_u64().unwrap(), "{length}: {sizes}");
        assert!(sizes["fully-allocated"].as_u64().unwrap() > 3 << 30, "{sizes}");
        if format == "ova" {
            let zeros = disk(dir.path(), "zeros", 3 << 30, &[]);
            diskimage(["compare", "-F", "raw", text(&target), text(&zeros)]).ok();
            diskimage(["check", text(&target)]).ok();
        } else {
            diskimage(["lint", "--for", "gce", text(&target)]).ok();
        }
        let help = diskimage(["create", "-f", format, "-o", "help", text(&target)]).ok();
        assert!(help.text().starts_with(&format!("Options of the format {format}:")), "{help:?}");
    }
}

#[test]
fn an_archive_that_compute_engine_would_refuse_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    if !has("tar") || !has("gzip") {
        return;
    }
    File::create(dir.path().join("disk.raw")).unwrap().set_len(1 << 30).unwrap();
    File::create(dir.path().join("other.raw")).unwrap().set_len(1 << 30).unwrap();
    File::create(dir.path().join("odd.raw")).unwrap().set_len((1 << 30) + 512).unwrap();
    let lint = |name: &str, args: &[&str]| {
        let args = [args, &["-Sczf", name]].concat();
        // options first, then names
        let (names, options): (Vec<&str>, Vec<&str>) =
            args.iter().copied().partition(|arg| arg.ends_with(".raw"));
        output_of(dir.path(), "tar", &[options, names].concat());
        let ran = diskimage(["lint", "--for", "gce", text(&dir.path().join(name))]);
        (ran.code, ran.text().to_owned())
    };
    let (code, told) = lint("good.tar.gz", &["--format=oldgnu", "disk.raw"]);
    assert_eq!(code, Some(0), "GNU tar's own is taken: {told}");
    let (code, told) = lint("posix.tar.gz", &["--format=posix", "disk.raw"]);
    assert!(code == Some(3) && told.contains("POSIX's"), "{told}");
    let (code, told) = lint("named.tar.gz", &["--format=oldgnu", "other.raw"]);
    assert!(code == Some(3) && told.contains("called 'disk.raw'; it has 'other.raw'"), "{told}");
    std::fs::rename(dir.path().join("odd.raw"), dir.path().join("disk.raw")).unwrap();
    let (code, told) = lint("odd.tar.gz", &["--format=oldgnu", "disk.raw"]);
    assert!(code == Some(3) && told.contains("whole multiples of 1073741824 (1 GiB)"), "{told}");
    let whole = std::fs::read(dir.path().join("good.tar.gz")).unwrap();
    let cut = dir.path().join("cut.tar.gz");
    std::fs::write(&cut, &whole[..whole.len() - 9]).unwrap();
    let ran = diskimage(["lint", "--for", "gce", text(&cut)]);
    assert!(ran.code == Some(3) && ran.text().contains("cannot be read"), "{ran:?}");
    std::fs::write(dir.path().join("disk.img"), [0; 4096]).unwrap();
    output_of(dir.path(), "gzip", &["disk.img"]);
    let ran = diskimage(["lint", "--for", "gce", text(&dir.path().join("disk.img.gz"))]);
    assert!(ran.code == Some(3) && ran.text().contains("inside is"), "{ran:?}");
}
