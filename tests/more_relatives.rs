//! More of the smaller formats: DMG, Android sparse, sparse images, ASIF and LUKS, against other
//! programs, rule by rule, and damaged.
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
use diskimage::layer::Value;
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
        let report =
            image(disk.image(), "dmg").unwrap().check(Checking::new().threads(threads(2))).unwrap();
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

/// Where the first bitmap is: the entry behind those of the first group says so.
fn asif_bitmap(bytes: &[u8]) -> usize {
    let at = (128 << 10) + 2048 * 8;
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize * (128 << 10)
}

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
    ("android-sparse/plain.simg", |b| b[0] = 0, "magic"),
    ("android-sparse/plain.simg", |b| b[4] = 2, "version 2"),
    ("android-sparse/plain.simg", |b| b[8] = 27, "file_hdr_sz"),
    ("android-sparse/plain.simg", |b| b[10] = 11, "chunk_hdr_sz"),
    ("android-sparse/plain.simg", |b| b[12] = 2, "blk_sz"),
    ("android-sparse/plain.simg", |b| b[13] = 0, "blk_sz"),
    (
        "android-sparse/plain.simg",
        |b| b[12..20].copy_from_slice(&[0xfc, 255, 255, 255, 255, 255, 255, 255]),
        "total_blks",
    ),
    ("sparseimage/bands-16.sparseimage", |b| b[0] = 0, "magic"),
    ("sparseimage/bands-16.sparseimage", |b| b[7] = 4, "version 4"),
    ("sparseimage/bands-16.sparseimage", |b| b[11] = 0, "sectors per band"),
    ("sparseimage/bands-16.sparseimage", |b| b[19] ^= 1, "32 bits"),
    ("sparseimage/bands-16.sparseimage", |b| b[28] = 0x7f, "sectors"),
    ("sparseimage/bands-16.sparseimage", |b| b[29] = 0x3f, "2^32 bands"),
    ("sparseimage/bands-16.sparseimage", |b| b[68] = 1, "number of a band"),
    ("sparseimage/bands-16.sparseimage", |b| b[71] = 1, "twice"),
    ("sparseimage/bands-16.sparseimage", |b| b[26] = 1, "list of bands"),
    ("sparseimage/three-lists.sparseimage", |b| b[4096 + 1008 * 512] = 0, "no signature"),
    (
        "sparseimage/three-lists.sparseimage",
        |b| b.truncate(4096 + 1008 * 512 + 100),
        "list of bands is cut off",
    ),
    ("asif/full.asif", |b| b[0] = 0, "magic"),
    ("asif/full.asif", |b| b[7] = 2, "version 2"),
    ("asif/full.asif", |b| b[10] = 0, "header size"),
    ("asif/full.asif", |b| b[15] = 1, "features"),
    ("asif/full.asif", |b| b[0x11] = 0xff, "directory"),
    ("asif/full.asif", |b| b[0x19] = 0xff, "directory"),
    ("asif/full.asif", |b| b[0x44] = 3, "sector size"),
    ("asif/full.asif", |b| b[0x43] = 3, "chunk size"),
    ("asif/full.asif", |b| b[0x40..0x44].copy_from_slice(&[0, 0, 2, 0]), "chunk size"),
    ("asif/full.asif", |b| b[0x40] = 0x10, "chunk size"),
    ("asif/full.asif", |b| b[0x40..0x44].copy_from_slice(&[0x10, 0, 0, 0]), "64 MiB"),
    ("asif/full.asif", |b| b[0x30] = 1, "number of sectors"),
    ("asif/full.asif", |b| b[0x38] = 0x7f, "largest number"),
    ("asif/full.asif", |b| b[0x39] = 0x3f, "directory"),
    ("luks/version-1.luks", |b| b[0] = 0, "magic"),
    ("luks/version-1.luks", |b| b[7] = 3, "version 3"),
    ("luks/version-1.luks", |b| b.truncate(591), "header"),
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
    ("android-sparse/plain.simg", |b| b[37] = 1, "total_sz", Code::InvalidEntry),
    ("android-sparse/plain.simg", |b| b[24 + 8] = 0xff, "total_sz", Code::InvalidEntry),
    ("android-sparse/plain.simg", |b| b[20] = 1, "the disk has", Code::InvalidEntry),
    ("android-sparse/plain.simg", |b| b.truncate(30), "cut off", Code::BeyondEnd),
    ("android-sparse/plain.simg", |b| b.truncate(9000), "cut off", Code::BeyondEnd),
    ("android-sparse/too-many.simg", |_| {}, "ends behind", Code::InvalidEntry),
    ("sparseimage/cut.sparseimage", |_| {}, "cut off", Code::BeyondEnd),
    ("asif/cut.asif", |_| {}, "cut off", Code::BeyondEnd),
    ("asif/beyond-end.asif", |_| {}, "cut off", Code::BeyondEnd),
    ("asif/no-bitmap.asif", |_| {}, "bitmap", Code::InvalidEntry),
    ("asif/full.asif", |b| b[65536 + 8] = 0xff, "entry of the directory", Code::InvalidEntry),
    ("asif/full.asif", |b| b[65536 + 12] = 0xff, "table is cut off", Code::InvalidEntry),
    (
        "asif/partial.asif",
        |b| {
            let at = asif_bitmap(b);
            b[at] = 0xff
        },
        "state 3",
        Code::InvalidEntry,
    ),
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
        let error = read(bytes.clone(), &fixture.format).map(|_| ()).expect_err(file);
        let kinds = [ErrorKind::Corrupt, ErrorKind::Unsupported];
        assert!(kinds.contains(&error.kind()), "{number} {file}: {error}");
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
        let report =
            image(bytes, "dmg").unwrap().check(Checking::new().threads(threads(2))).unwrap();
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

/// Disks with runs of zeros, of one number, and of other bytes.
fn blocks(random: &mut Random, count: u64) -> Vec<u8> {
    let mut data = Vec::new();
    for _ in 0..count {
        let length = 4096 * (1 + random.below(9) as usize);
        match random.below(4) {
            0 => data.resize(data.len() + length, 0),
            1 => data.extend((random.next() as u32).to_le_bytes().repeat(length / 4)),
            _ => data.extend((0..length / 8).flat_map(|_| random.next().to_le_bytes())),
        }
    }
    data
}

#[test]
fn random_android_images_read_as_their_own_tools_say() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [raw, simg, out] = ["raw", "simg", "out"].map(|name| folder.path().join(name));
    let mut random = Random(11);
    for round in 0..10 {
        let data = blocks(&mut random, 1 + round);
        std::fs::write(&raw, &data).unwrap();
        let args =
            [raw.as_os_str(), simg.as_os_str(), OsStr::new(["4096", "1024"][round as usize % 2])];
        if tool_output("img2simg", &args).is_none() {
            return;
        }
        let disk = OpenOptions::new().open(&simg).unwrap();
        conformance::check(&disk, Some(&data)).unwrap_or_else(|error| panic!("{round}: {error}"));
        let image = OpenOptions::new().open_image(&simg).unwrap();
        let report = image.check(Checking::new()).unwrap();
        assert!(report.is_clean() && report.findings.is_empty(), "{round}: {report:?}");
    }
    for name in ["plain", "checksums", "zero-fill", "blocks-1k"] {
        let fixture = fixture(&format!("android-sparse/{name}.simg"));
        let args = [fixture.path.as_os_str(), out.as_os_str()];
        if tool_output("simg2img", &args).is_none() {
            return;
        }
        // it leaves out what lies behind the last block that matters
        let mut theirs = std::fs::read(&out).unwrap();
        theirs.resize(fixture.virtual_size as usize, 0);
        assert!(theirs == content(&open_fixture(fixture).unwrap()).unwrap(), "{name}");
    }
}

#[test]
fn a_check_of_sparse_images_counts_and_compares() {
    let report = |file: &str| {
        let (bytes, fixture) = bytes_of(file);
        image(bytes, &fixture.format).unwrap().check(Checking::new()).unwrap()
    };
    for fixture in fixtures().iter().filter(|f| {
        ["android-sparse", "sparseimage", "asif"].contains(&&*f.format) && f.expect == "ok"
    }) {
        let report = report(&fixture.file);
        let wrong = fixture.file.contains("wrong-sum");
        assert_eq!(report.is_clean(), !wrong, "{}: {report:?}", fixture.file);
        assert_eq!(told(report.codes), if wrong { vec![Code::ChecksumMismatch] } else { vec![] });
        assert_eq!(
            report.image_end_offset,
            Some(std::fs::metadata(&fixture.path).unwrap().len()),
            "{}",
            fixture.file
        );
    }
    let counts = |file| {
        let report = report(file);
        (report.total_clusters, report.allocated_clusters)
    };
    assert_eq!(counts("android-sparse/blocks-1k.simg"), (Some(800), Some(800)));
    assert_eq!(counts("sparseimage/three-lists.sparseimage"), (Some(2500), Some(2500)));
    assert_eq!(counts("asif/full.asif"), (Some(3), Some(2)));
    assert_eq!(counts("asif/empty.asif"), (Some(3), Some(0)));
}

#[test]
fn luks_is_described_and_never_read() {
    let containers: Vec<_> = fixtures().iter().filter(|f| f.format == "luks").collect();
    assert_eq!(containers.len(), 4);
    for fixture in containers {
        let image = OpenOptions::new().open_image(&fixture.path).unwrap();
        assert_eq!(image.layer().size(), fixture.virtual_size, "{}", fixture.file);
        let codes: Vec<_> = image.findings().unwrap().into_iter().map(|f| f.code).collect();
        assert_eq!(codes, [Code::Encrypted, Code::Luks], "{}", fixture.file);
        for options in [OpenOptions::new(), OpenOptions::new().assume_raw(true).trust_broken(true)]
        {
            let error = options.open(&fixture.path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("is encrypted (LUKS)"), "{error}");
            assert!(error.advice().is_some());
        }
        // as a file it can be copied
        let raw = OpenOptions::new().format(diskimage::Format::Raw).open(&fixture.path).unwrap();
        assert!(content(&raw).unwrap() == std::fs::read(&fixture.path).unwrap());
        // any length, or none
        let bytes = std::fs::read(&fixture.path).unwrap();
        for cut in (0..70_000).step_by(97).chain(1 << 20..(1 << 20) + 3) {
            let cut = MemoryStorage::new(bytes[..cut].to_vec());
            let options = OpenOptions::new().format(diskimage::Format::Luks);
            if let Ok(image) = options.open_image_storage(Arc::new(cut), Path::new("cut")) {
                image.findings().unwrap();
            }
        }
    }
}

/// What a command says behind `Key:` in the line that has it.
fn said<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(key));
    line.unwrap_or_else(|| panic!("no {key} in {text}")).trim()
}

#[test]
fn luks_is_described_as_cryptsetup_does() {
    for fixture in fixtures().iter().filter(|f| f.format == "luks") {
        let args = [OsStr::new("luksDump"), fixture.path.as_os_str()];
        let Some(dump) = tool_output("cryptsetup", &args) else { return };
        let dump = String::from_utf8(dump).unwrap();
        let image = OpenOptions::new().open_image(&fixture.path).unwrap();
        let details = image.layer().describe().unwrap().details;
        let find =
            |key: &str| details.iter().find(|(name, _)| *name == key).map(|(_, v)| v.clone());
        let number = |key: &str| match find(key) {
            Some(Value::Number(number)) => number,
            other => panic!("{key}: {other:?}"),
        };
        let text = |key: &str| match find(key) {
            Some(Value::Text(text)) => text,
            other => panic!("{key}: {other:?}"),
        };
        assert_eq!(number("version").to_string(), said(&dump, "Version:"));
        assert_eq!(text("uuid"), said(&dump, "UUID:"));
        let Some(Value::List(slots)) = find("slots") else { panic!("{details:?}") };
        let Some(Value::Map(slot)) = slots.first() else { panic!("{slots:?}") };
        assert!(slot.contains(&("active", Value::Bool(true))), "{slot:?}");
        if number("version") == 1 {
            let sectors: u64 = said(&dump, "Payload offset:").parse().unwrap();
            assert_eq!(number("payload-offset"), sectors * 512);
            assert_eq!(text("hash-alg"), said(&dump, "Hash spec:"));
            let mode = said(&dump, "Cipher mode:");
            assert!(mode.starts_with(&format!("{}-{}", text("cipher-mode"), text("ivgen-alg"))));
            assert_eq!(slots.len(), 8);
        } else {
            let offset = said(&dump, "offset:").trim_end_matches(" [bytes]");
            assert_eq!(number("payload-offset").to_string(), offset);
            assert_eq!(number("sequence").to_string(), said(&dump, "Epoch:"));
            let kdf = said(&dump, "PBKDF:");
            assert!(slot.contains(&("kdf", Value::Text(kdf.to_owned()))), "{slot:?}");
            assert!(slot.contains(&("priority", Value::Text("normal".to_owned()))), "{slot:?}");
            assert_eq!(text("cipher-alg"), "aes-256");
            assert_eq!(slots.len(), 1);
        }
    }
}

#[test]
fn a_damaged_header_of_luks_2_is_told_and_the_second_one_used() {
    let (whole, _) = bytes_of("luks/version-2.luks");
    let codes = |bytes: &[u8]| {
        let image = image(bytes.to_vec(), "luks").unwrap();
        let description = image.layer().describe().unwrap();
        let has_slots = description.details.iter().any(|(name, _)| *name == "slots");
        let codes: Vec<_> = description.findings.iter().map(|finding| finding.code).collect();
        (codes[2..].to_vec(), has_slots)
    };
    assert_eq!(codes(&whole), (vec![], true));
    let mut first = whole.clone();
    first[4096 + 10] ^= 1;
    assert_eq!(codes(&first), (vec![Code::ChecksumMismatch, Code::RedundantCopyDamaged], true));
    let mut both = first.clone();
    both[16384 + 4096 + 10] ^= 1;
    assert_eq!(codes(&both).0.first(), Some(&Code::ChecksumMismatch));
    for (value, code) in
        [(u64::MAX, Code::InvalidEntry), (4 << 20, Code::Truncated), (0, Code::InvalidEntry)]
    {
        let mut size = whole[..1 << 20].to_vec();
        put64(&mut size, 8, value);
        assert_eq!(codes(&size), (vec![code], false), "{value:#x}");
    }
    let mut nonsense = whole.clone();
    nonsense[4096] = b'[';
    assert!(codes(&nonsense[..20_000]).0.contains(&Code::InvalidEntry));
    let mut deep = whole[..20_000].to_vec();
    deep[4096..16384].fill(b'[');
    assert!(codes(&deep).0.contains(&Code::InvalidEntry));
}
