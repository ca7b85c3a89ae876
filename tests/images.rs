//! Every image of `testdata/` and of the corpus reads to the content that its manifest names, and
//! every disk keeps the law of extents.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use common::*;
use diskimage::conformance;
use diskimage::format::probe::probe;
use diskimage::storage::FileStorage;
use diskimage::{Beneath, ErrorKind, OpenOptions, VirtualDisk};

#[test]
fn every_fixture_reads_to_its_hash() {
    for fixture in fixtures().iter().filter(|f| f.is_readable()) {
        let disk = open_fixture(fixture).unwrap_or_else(|e| panic!("{}: {e}", fixture.file));
        assert_eq!(disk.size(), fixture.virtual_size, "{}", fixture.file);
        if let Some(hash) = &fixture.guest_sha256 {
            let got = sha256_of(&disk).unwrap_or_else(|e| panic!("{}: {e}", fixture.file));
            assert_eq!(&got, hash, "{}", fixture.file);
        }
        for sample in &fixture.samples {
            let mut bytes = vec![0; sample["length"].as_u64().unwrap() as usize];
            disk.read_exact_at(&mut bytes, sample["offset"].as_u64().unwrap()).unwrap();
            assert_eq!(sha256(&bytes), sample["sha256"].as_str().unwrap(), "{}", fixture.file);
        }
    }
}

#[test]
fn every_snapshot_reads_to_its_hash_by_id_and_by_name() {
    let mut seen = 0;
    for fixture in fixtures() {
        for snapshot in &fixture.snapshots {
            let hash = snapshot["guest_sha256"].as_str().unwrap();
            for key in ["id", "name"] {
                let wanted = snapshot[key].as_str().unwrap();
                let disk = allow_testdata().snapshot(wanted).open(&fixture.path).unwrap();
                assert_eq!(disk.size(), snapshot["virtual_size"].as_u64().unwrap());
                assert_eq!(sha256_of(&disk).unwrap(), hash, "{} at {wanted}", fixture.file);
            }
            seen += 1;
        }
    }
    assert!(seen >= 4, "only {seen} snapshots");
    let error = OpenOptions::new().snapshot("none").open(&fixture("cloud.qcow2").path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn what_must_be_refused_is_refused_for_its_own_reason() {
    for fixture in refused() {
        let error =
            open_fixture(fixture).and_then(|disk| sha256_of(&disk)).expect_err(&fixture.file);
        let (kinds, word): (&[ErrorKind], _) = match fixture.expect.as_str() {
            "refuse-encrypted" => (&[ErrorKind::Unsupported], "encrypted"),
            "refuse-corrupt-bit" => (&[ErrorKind::Corrupt], "marked as corrupt"),
            "refuse-unknown-feature" => (&[ErrorKind::Unsupported], "'quantum clusters' (bit 7)"),
            "refuse-corrupt" => (&[ErrorKind::Corrupt], ""),
            "refuse-unsupported" => (&[ErrorKind::Unsupported], ""),
            "refuse-missing-parent" => (&[ErrorKind::Io, ErrorKind::Denied], "needs the"),
            other => panic!("{}: {other}?", fixture.file),
        };
        assert!(kinds.contains(&error.kind()), "{}: {error:?}", fixture.file);
        assert!(error.to_string().contains(word), "{}: {error}", fixture.file);
        assert!(error.file().is_some(), "{}: {error}", fixture.file);
        assert!(error.advice().is_some(), "{}: {error}", fixture.file);
    }
}

#[test]
fn what_is_marked_as_broken_reads_when_trusted_and_encrypted_data_never_do() {
    for fixture in refused() {
        let options = allow_testdata().trust_broken(true);
        let read = options.open(&fixture.path).and_then(|disk| sha256_of(&disk));
        match fixture.expect.as_str() {
            "refuse-encrypted" => assert!(read.is_err(), "{}: ciphertext was read", fixture.file),
            "refuse-corrupt-bit" | "refuse-unknown-feature" => {
                assert_eq!(read.unwrap().len(), 64, "{}", fixture.file);
            }
            _ => {}
        }
    }
}

/// Images that must be refused, of the formats that are read.
fn refused() -> impl Iterator<Item = &'static Fixture> {
    fixtures().iter().filter(|f| {
        f.expect.starts_with("refuse") && f.format.parse().is_ok_and(diskimage::Format::is_read)
    })
}

#[test]
fn other_files_are_denied_by_default() {
    let external: Vec<_> =
        fixtures().iter().filter(|f| f.expect == "ok-with-external" && f.is_readable()).collect();
    assert!(external.len() > 10);
    for fixture in external {
        let error = OpenOptions::new().open(&fixture.path).expect_err(&fixture.file);
        assert_eq!(error.kind(), ErrorKind::Denied, "{}: {error}", fixture.file);
        assert_eq!(error.file(), Some(&*fixture.path));
        assert!(OpenOptions::new().open_image(&fixture.path).is_ok(), "it can be described");
    }
}

#[test]
fn every_disk_keeps_the_law_of_extents() {
    for fixture in small_fixtures().filter(|f| f.virtual_size <= 8 << 20) {
        let disk = open_fixture(fixture).unwrap();
        let flat = content(&disk).unwrap();
        conformance::check(&disk, Some(&flat)).unwrap_or_else(|e| panic!("{}: {e}", fixture.file));
    }
}

#[test]
fn third_party_images_read_to_the_hash_of_independent_readers() {
    let readable = |format: &str, verdict: &str| {
        is_read(format) && (verdict.starts_with("ok") || verdict.starts_with("needs-log-replay"))
    };
    for image in corpus_images(readable) {
        // a wrong checksum is refused unless trusted, says the manifest
        let disk = OpenOptions::new()
            .format(image.format.parse().unwrap())
            .resolver(Beneath::new(image.path.parent().unwrap()).unwrap())
            .trust_broken(image.comment.contains("checksum wrong"))
            .open(&image.path)
            .unwrap_or_else(|e| panic!("{}: {e}", image.name));
        assert_eq!(Some(disk.size()), image.virtual_size, "{}", image.name);
        let hash = sha256_of(&disk).unwrap_or_else(|e| panic!("{}: {e}", image.name));
        assert_eq!(Some(hash), image.guest_sha256, "{}", image.name);
    }
}

#[test]
fn third_party_images_that_must_be_refused_are() {
    for image in corpus_images(|format, verdict| {
        is_read(format) && !verdict.starts_with("ok") && !verdict.starts_with("needs-log-replay")
    }) {
        let folder = Beneath::new(image.path.parent().unwrap()).unwrap();
        let options = OpenOptions::new().resolver(folder);
        let opened = options.open(&image.path).and_then(|disk| sha256_of(&disk));
        assert!(opened.is_err(), "{} ({}) was read", image.name, image.verdict);
    }
}

fn is_read(format: &str) -> bool {
    format.parse().is_ok_and(diskimage::Format::is_read)
}

#[test]
fn third_party_images_are_what_their_manifest_says() {
    let mut wrong = Vec::new();
    for image in corpus_images(|_, _| true) {
        let storage = FileStorage::open(&image.path).unwrap();
        let found = probe(&storage).unwrap();
        let names: Vec<_> = found.matches.iter().map(|m| m.format.name()).collect();
        let wanted = match image.format.as_str() {
            "vhd" => "vpc",
            "luks1" => "luks",
            "dmg" if image.subformat.contains("encrypted") => "encrypted-dmg",
            // an OVA is a tar archive, and says more
            "tar" => "ova",
            // its disk is found by its content, or is in no format that is known
            "raw" => {
                if found.images().next().is_some() {
                    wrong.push(format!("{}: {names:?} instead of a raw disk", image.name));
                }
                continue;
            }
            other => other,
        };
        if names.first() != Some(&wanted) {
            wrong.push(format!("{}: {names:?} instead of {wanted}", image.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn seven_zip_reads_the_same() {
    // 7-Zip 16.02 does not look at QCOW2's incompatible feature bits, nor does it pass over the
    // extra data before each block of a VDI (cbBlockExtra of its header), so it misreads these
    let unknown = |f: &Fixture| {
        f.file.contains("extl2") || f.file.contains("zstd") || f.file == "vdi/block-extra.vdi"
    };
    let (mut same, mut differing) = (0, Vec::new());
    for fixture in small_fixtures().filter(|f| f.parents.is_empty() && f.format != "raw") {
        let args = ["e".as_ref(), "-so".as_ref(), fixture.path.as_os_str()];
        let Some(output) = tool("7z", &args) else { return };
        let ours = content(&open_fixture(fixture).unwrap()).unwrap();
        // of some it extracts the partitions, and some it refuses
        if !output.status.success() || unknown(fixture) || output.stdout.len() != ours.len() {
            continue;
        }
        if output.stdout == ours {
            same += 1;
        } else {
            differing.push(&*fixture.file);
        }
    }
    assert!(differing.is_empty(), "{differing:?}");
    assert!(same > 30, "only {same} images");
}
