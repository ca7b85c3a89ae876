//! More of the smaller formats: DMG, against qemu-img and 7-Zip, rule by rule, and damaged.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;
#[path = "common/dmg.rs"]
mod dmg;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use common::sweep::Random;
use common::*;
use diskimage::storage::MemoryStorage;
use diskimage::{Checking, Code, ErrorKind, Image, OpenOptions, conformance};
use dmg::{Disk, Kind};

fn image(bytes: Vec<u8>, format: &str) -> diskimage::Result<Image> {
    let options = OpenOptions::new().format(format.parse().unwrap());
    options.open_image_storage(Arc::new(MemoryStorage::new(bytes)), Path::new("image"))
}

fn read(bytes: Vec<u8>, format: &str) -> diskimage::Result<Vec<u8>> {
    let options = OpenOptions::new().format(format.parse().unwrap());
    content(&options.open_storage(Arc::new(MemoryStorage::new(bytes)), Path::new("image"))?)
}

fn bytes_of(file: &str) -> (Vec<u8>, &'static Fixture) {
    let fixture = fixture(file);
    (std::fs::read(&fixture.path).unwrap(), fixture)
}

#[test]
fn random_dmgs_read_as_qemu_img_and_7_zip_say() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, out) = (folder.path().join("disk.dmg"), folder.path().join("out.raw"));
    let mut random = Random(9);
    let mut by_seven = 0;
    for round in 0..40 {
        // of the others, qemu-img needs libraries that its package has not
        let for_qemu = round % 2 == 0;
        let kinds: &[Kind] = if for_qemu {
            &[Kind::Zero, Kind::Ignore, Kind::Raw, Kind::Zlib]
        } else {
            &[Kind::Zero, Kind::Ignore, Kind::Raw, Kind::Zlib, Kind::Bzip2, Kind::Lzfse]
        };
        let disk = Disk::random(&mut random, kinds);
        std::fs::write(&path, disk.image()).unwrap();
        let opened = OpenOptions::new().open(&path).unwrap();
        assert!(content(&opened).unwrap() == disk.content, "round {round}: {:?}", disk.tables);
        conformance::check(&opened, Some(&disk.content)).unwrap();
        let report = image(disk.image(), "dmg").unwrap().check(Checking::new().threads(2)).unwrap();
        assert!(report.is_clean() && report.findings.is_empty(), "round {round}: {report:?}");
        if for_qemu {
            let args = ["convert", "-f", "dmg", "-O", "raw"].map(OsStr::new);
            let args = [&args[..], &[path.as_os_str(), out.as_os_str()]].concat();
            if tool_output("qemu-img", &args).is_none() {
                return;
            }
            assert!(std::fs::read(&out).unwrap() == disk.content, "round {round}: qemu-img");
        }
        // it has a file for each table
        if disk.tables.len() == 1 {
            let args = ["e".as_ref(), "-so".as_ref(), "-tdmg".as_ref(), path.as_os_str()];
            let Some(output) = tool("7z", &args) else { return };
            if output.status.success() {
                assert!(output.stdout == disk.content, "round {round}: 7-Zip");
                by_seven += 1;
            }
        }
    }
    assert!(by_seven > 3, "7-Zip read only {by_seven}");
}

type Change = fn(&mut Vec<u8>);

/// Where the trailer is.
fn koly(bytes: &[u8]) -> usize {
    bytes.len() - 512
}

/// Where the n-th chunk of the first table of a resource fork is.
fn run(bytes: &[u8], number: usize) -> usize {
    bytes.windows(4).position(|w| w == b"mish").unwrap() + 204 + 40 * number
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// Changes a place relative to the trailer.
fn trailer(bytes: &mut [u8], at: usize, value: u64) {
    let at = koly(bytes) + at;
    put64(bytes, at, value);
}

/// Changes text of the same length in the property list.
fn text(bytes: &mut Vec<u8>, old: &[u8], new: &[u8]) {
    let at = bytes.windows(old.len()).position(|w| w == old).unwrap();
    bytes.splice(at..at + old.len(), new.iter().copied());
}

/// What must be refused when the image is opened, each with a word of the reason.
const HEADERS: &[(&str, Change, &str)] = &[
    ("dmg/udzo.dmg", |b| *b = b[..400].to_vec(), "magic"),
    ("dmg/udzo.dmg", |b| b.truncate(b.len() - 1), "magic"),
    (
        "dmg/udzo.dmg",
        |b| {
            let at = koly(b);
            b[at + 7] = 5
        },
        "version 5",
    ),
    (
        "dmg/udzo.dmg",
        |b| {
            let at = koly(b);
            b[at + 10] = 4
        },
        "HeaderSize",
    ),
    ("dmg/udzo.dmg", |b| trailer(b, 0x20, 1 << 40), "data fork"),
    ("dmg/udzo.dmg", |b| trailer(b, 0x18, u64::MAX), "data fork"),
    ("dmg/resources.dmg", |b| trailer(b, 0x30, 1 << 40), "resource fork"),
    ("dmg/resources.dmg", |b| trailer(b, 0x30, 0), "neither"),
    ("dmg/udzo.dmg", |b| trailer(b, 0xe0, 1 << 40), "property list"),
    ("dmg/udzo.dmg", |b| trailer(b, 0xe0, 0), "neither"),
    ("dmg/udzo.dmg", |b| trailer(b, 0x1ec, 1 << 60), "SectorCount"),
    ("dmg/udzo.dmg", |b| trailer(b, 0x1ec, 0), "the disk has 0"),
    ("dmg/udzo.dmg", |b| text(b, b"</plist>", b"</plost>"), "no XML"),
    ("dmg/udzo.dmg", |b| text(b, b".dtd\">", b"[xx]\">"), "document type"),
    ("dmg/udzo.dmg", |b| text(b, b"resource-fork", b"resource-frok"), "blkx"),
    ("dmg/udzo.dmg", |b| text(b, b"<key>blkx", b"<key>blkz"), "blkx"),
    ("dmg/udzo.dmg", |b| text(b, b"bWlzaAAA", b"bWlzaA=="), "no data"),
    ("dmg/udzo.dmg", |b| text(b, b"bWlz", b"bWl6"), "signature"),
    ("dmg/udzo.dmg", |b| text(b, b"<data>", b"<dato>"), "no XML"),
    ("dmg/udzo.dmg", |b| text(b, b"<plist", b"<pli\xffs"), "UTF-8"),
    (
        "dmg/resources.dmg",
        |b| {
            let at = run(b, 0) - 197;
            b[at] = 9
        },
        "version 9",
    ),
    (
        "dmg/resources.dmg",
        |b| {
            let at = run(b, 0) - 4;
            put32(b, at, 1 << 20)
        },
        "chunks has only",
    ),
    (
        "dmg/resources.dmg",
        |b| {
            let at = run(b, 0) - 196;
            put64(b, at, 1 << 40)
        },
        "sectors from",
    ),
    (
        "dmg/resources.dmg",
        |b| {
            let at = run(b, 0) - 188;
            put64(b, at, u64::MAX)
        },
        "sectors from",
    ),
    (
        "dmg/resources.dmg",
        |b| {
            let at = run(b, 0) + 16;
            put64(b, at, 41)
        },
        "leaves its table",
    ),
    (
        "dmg/resources.dmg",
        |b| {
            let at = run(b, 0) + 8;
            put64(b, at, u64::MAX)
        },
        "overlaps",
    ),
    (
        "dmg/resources.dmg",
        |b| {
            let at = run(b, 0) - 208;
            put32(b, at, 1 << 24)
        },
        "overlap",
    ),
    (
        "dmg/resources.dmg",
        |b| {
            let at = u64::from_be_bytes(b[koly(b) + 0x28..][..8].try_into().unwrap()) as usize;
            put32(b, at + 4, u32::MAX);
        },
        "cut off",
    ),
];

#[test]
fn each_rule_of_the_trailer_and_the_tables_is_held() {
    for (number, (file, change, word)) in HEADERS.iter().enumerate() {
        let (mut bytes, fixture) = bytes_of(file);
        change(&mut bytes);
        let error =
            image(bytes, &fixture.format).map(|_| ()).expect_err(&format!("{number} {file}"));
        assert!(error.to_string().contains(word), "{number} {file}: {error}, not of {word}");
        assert!(error.offset().is_some(), "{number} {file}: {error}");
        assert!(error.advice().is_some(), "{number} {file}: {error}");
    }
}

/// What must be refused where it is met, with the code that a check has for it.
const ENTRIES: &[(&str, Change, &str, Code)] = &[
    (
        "dmg/resources.dmg",
        |b| {
            let at = run(b, 0) - 180;
            put64(b, at, u64::MAX)
        },
        "data fork",
        Code::InvalidEntry,
    ),
    (
        "dmg/resources.dmg",
        |b| {
            let at = run(b, 0) + 24;
            put64(b, at, 1 << 40)
        },
        "data fork",
        Code::InvalidEntry,
    ),
    (
        "dmg/resources.dmg",
        |b| {
            let at = run(b, 0) + 32;
            put64(b, at, 1 << 40)
        },
        "not much more",
        Code::InvalidEntry,
    ),
    (
        "dmg/resources.dmg",
        |b| {
            let at = run(b, 0) + 32;
            put64(b, at, 9)
        },
        "zlib",
        Code::InvalidEntry,
    ),
    (
        "dmg/resources.dmg",
        |b| {
            let at = run(b, 0);
            put32(b, at, 1)
        },
        "at least that of",
        Code::InvalidEntry,
    ),
    (
        "dmg/resources.dmg",
        |b| {
            let at = run(b, 0) + 16;
            put32(b, at - 16, 2);
            put64(b, at, 39)
        },
        "no chunk holds",
        Code::InvalidEntry,
    ),
    (
        "dmg/resources.dmg",
        |b| {
            trailer(b, 0x20, 0);
            let at = run(b, 0) + 24;
            put64(b, at, 1 << 40)
        },
        "cut off",
        Code::BeyondEnd,
    ),
    (
        "dmg/resources.dmg",
        |b| {
            let at = run(b, 0) + 24;
            put64(b, at, 1)
        },
        "stream",
        Code::InvalidEntry,
    ),
];

#[test]
fn each_rule_of_the_chunks_is_held() {
    for (number, (file, change, word, code)) in ENTRIES.iter().enumerate() {
        let (mut bytes, fixture) = bytes_of(file);
        change(&mut bytes);
        let error = read(bytes.clone(), &fixture.format).expect_err(file);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{number} {file}: {error}");
        assert!(error.to_string().contains(word), "{number} {file}: {error}, not of {word}");
        assert!(error.offset().is_some() && error.guest_range().is_some(), "{file}: {error:?}");
        let report = image(bytes, &fixture.format).unwrap().check(Checking::new()).unwrap();
        assert!(report.codes.contains(code), "{number} {file}: {report:?}");
        assert!(!report.is_clean(), "{number} {file}");
    }
}

/// The codes, but for the one that comes with every error.
fn told(codes: BTreeSet<Code>) -> Vec<Code> {
    codes.into_iter().filter(|code| *code != Code::CheckError).collect()
}

#[test]
fn a_check_compares_the_checksums_of_a_dmg() {
    let codes = |bytes: Vec<u8>| {
        let report = image(bytes, "dmg").unwrap().check(Checking::new().threads(2)).unwrap();
        (report.is_clean(), told(report.codes), report.corruptions)
    };
    for file in ["udro", "udzo", "udbz", "udco", "ulfo", "ulmo", "mixed", "both", "empty"] {
        assert_eq!(codes(bytes_of(&format!("dmg/{file}.dmg")).0), (true, vec![], 0), "{file}");
    }
    // where its trailer is is unusual
    assert_eq!(codes(bytes_of("dmg/front.dmg").0), (true, vec![Code::Unusual], 0));
    // what its writer did not compute is not compared
    assert_eq!(codes(bytes_of("dmg/no-sums.dmg").0), (true, vec![], 0));
    // the master's is that of the checksums, right or wrong
    assert_eq!(codes(bytes_of("dmg/wrong-sum.dmg").0), (false, vec![Code::ChecksumMismatch], 1));
    let mut bytes = bytes_of("dmg/udro.dmg").0;
    bytes[10] ^= 1;
    // the data fork's, and the table's
    assert_eq!(codes(bytes), (false, vec![Code::ChecksumMismatch], 2));
    let mut bytes = bytes_of("dmg/udzo.dmg").0;
    let at = koly(&bytes) + 0x168;
    bytes[at] ^= 1;
    assert_eq!(codes(bytes), (false, vec![Code::ChecksumMismatch], 1));
}

#[test]
fn a_check_of_other_peoples_dmgs_finds_nothing() {
    let mut seen = 0;
    for image in corpus_images(|format, verdict| format == "dmg" && verdict == "ok") {
        let opened = OpenOptions::new().open_image(&image.path).unwrap();
        let report = opened.check(Checking::new()).unwrap();
        assert!(report.is_clean() && report.findings.is_empty(), "{}: {report:?}", image.name);
        seen += 1;
    }
    assert!(seen == 0 || seen >= 5, "only {seen}");
}

#[test]
fn an_encrypted_dmg_is_refused_as_such() {
    let mut first = vec![0u8; 2000];
    first[1992..].copy_from_slice(b"cdsaencr");
    let mut second = vec![0u8; 2000];
    second[..8].copy_from_slice(b"encrcdsa");
    for bytes in [first, second] {
        for format in [None, Some("dmg"), Some("encrypted-dmg")] {
            let options = OpenOptions::new();
            let options = match format {
                Some(format) => options.format(format.parse().unwrap()),
                None => options,
            };
            let storage = Arc::new(MemoryStorage::new(bytes.clone()));
            let error = options.open_storage(storage, Path::new("image")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains("encrypted"), "{error}");
        }
    }
}
