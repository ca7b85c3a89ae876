//! VHD and VDI against the programs that write them: what qemu-img makes of random disks, and
//! what the corpus has from Windows, VirtualBox, mkimg and others.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::ffi::OsStr;

use common::sweep::{Random, our_map, qemu_map};
use common::*;
use diskimage::conformance;
use diskimage::{Beneath, Code, ErrorKind, Format, OpenOptions, VirtualDisk};

/// A disk of `size` bytes with a few runs of data.
fn random_disk(random: &mut Random, size: u64) -> Vec<u8> {
    let mut disk = vec![0; size as usize];
    for _ in 0..random.below(6) {
        let start = random.below(size);
        let length = (1 << random.below(21)).min(size - start);
        let tag = random.next() as u8 | 1;
        for (at, byte) in (start..start + length).zip(&mut disk[start as usize..]) {
            *byte = (at >> 9) as u8 ^ tag;
        }
    }
    disk
}

fn args<'a>(list: &[&'a dyn AsRef<OsStr>]) -> Vec<&'a OsStr> {
    list.iter().map(|arg| (*arg).as_ref()).collect()
}

#[test]
fn what_qemu_img_writes_reads_and_maps_as_qemu_img_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, path) = (folder.path().join("raw"), folder.path().join("image"));
    let mut random = Random(20_061_011);
    let options = [
        ("vpc", "subformat=dynamic"),
        ("vpc", "subformat=dynamic,force_size=on"),
        ("vpc", "subformat=fixed"),
        ("vpc", "subformat=fixed,force_size=on"),
        ("vdi", "static=off"),
        ("vdi", "static=on"),
    ];
    for round in 0..60 {
        let (format, option) = options[round % options.len()];
        let size = 1 + random.below(if round % 3 == 0 { 70_000 } else { 9 << 20 });
        let disk = random_disk(&mut random, size);
        write_sparse(&raw, &disk);
        let convert: [&dyn AsRef<OsStr>; 9] =
            [&"convert", &"-f", &"raw", &"-O", &format, &"-o", &option, &raw, &path];
        if tool_output("qemu-img", &args(&convert)).is_none() {
            return;
        }
        let is_dynamic = option.contains("dynamic") || option.contains("static=off");
        let ours = OpenOptions::new().format(format.parse().unwrap()).open(&path).unwrap();
        let case = format!("round {round}: {format} {option}, {size} bytes");
        // qemu-img makes disks of whole sectors, or of what a geometry can say
        assert!(ours.size() >= size && ours.size() % 512 == 0, "{case}");
        let mut wanted = disk;
        wanted.resize(ours.size() as usize, 0);
        conformance::check(&ours, Some(&wanted)).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(our_map(&ours, is_dynamic), qemu_map(&path, Some(format)).unwrap(), "{case}");
        let image = OpenOptions::new().open_image(&path).unwrap();
        assert_eq!(image.layer().format(), format.parse::<Format>().unwrap(), "{case}: detected");
        assert_eq!(image.layer().describe().unwrap().findings, [], "{case}");
        // a file that lost its end is never read to a whole disk
        let mut file = std::fs::read(&path).unwrap();
        let data = if format == "vpc" { file.len() - 512 } else { file.len() };
        file.truncate(data - 1 - random.below(300) as usize);
        std::fs::write(&path, &file).unwrap();
        let cut = OpenOptions::new().format(format.parse().unwrap()).open(&path);
        if let Ok(bytes) = cut.and_then(|disk| content(&disk)) {
            assert!(bytes == wanted, "{case}, cut");
        }
    }
}

#[test]
fn the_corpus_reads_to_the_hash_of_independent_readers() {
    let mut seen = 0;
    for image in corpus_images(|format, verdict| {
        matches!(format, "vhd" | "vdi") && verdict.starts_with("ok")
    }) {
        let format = image.format.parse().unwrap();
        let beneath = Beneath::new(image.path.parent().unwrap()).unwrap();
        let mut options = OpenOptions::new().format(format).resolver(beneath);
        let read = |options: &OpenOptions| -> diskimage::Result<_> {
            let disk = options.open(&image.path)?;
            Ok((Some(disk.size()), Some(sha256_of(&disk)?)))
        };
        if image.comment.contains("checksum wrong") {
            let error = read(&options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", image.name);
            let findings = options.open_image(&image.path).unwrap().layer().describe().unwrap();
            assert!(findings.findings.iter().any(|f| f.code == Code::CheckError));
            options = options.trust_broken(true);
        }
        let got = read(&options).unwrap_or_else(|e| panic!("{}: {e}", image.name));
        assert_eq!(got, (image.virtual_size, image.guest_sha256.clone()), "{}", image.name);
        // and detected without being told, fixed disks by their footer
        let detected = OpenOptions::new().open_image(&image.path).unwrap();
        assert_eq!(detected.layer().format(), format, "{}", image.name);
        if image.verdict == "ok-with-parent" {
            let error = OpenOptions::new().open(&image.path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied, "{}", image.name);
        }
        seen += 1;
    }
    assert!(corpus().is_none() || seen >= 21, "only {seen} images");
}
