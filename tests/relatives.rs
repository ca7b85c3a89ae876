//! The smaller formats against the program that writes them: what qemu-img makes of random disks,
//! and what it says of damaged ones.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use common::sweep::{Random, assert_same_as_qemu_img};
use common::*;
use diskimage::{Beneath, Checking, Code, ErrorKind, Format, Image, OpenOptions};
use serde_json::Value;

fn run(program: &str, args: &[&str]) -> Option<Vec<u8>> {
    let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
    tool_output(program, &args)
}

/// Options of a format that go together, and the size of a cluster.
fn options(random: &mut Random, format: &str) -> (String, u64) {
    let cluster = [4096, 16_384, 65_536][random.below(3) as usize];
    match format {
        "qed" => {
            // it makes tables of one cluster, and does not open them
            let table = random.pick(&["2", "4", "16"]);
            (format!("cluster_size={cluster},table_size={table}"), cluster)
        }
        "parallels" => (format!("cluster_size={cluster}"), cluster),
        _ => (String::new(), 4096),
    }
}

/// Arguments for qemu-io that write here and there, and compress single clusters.
fn writes(random: &mut Random, format: &str, size: u64, cluster: u64) -> Vec<String> {
    let mut commands = Vec::new();
    for _ in 0..random.below(12) {
        let unit = [512, 4096, cluster][random.below(3) as usize];
        let offset = random.below((size / unit).max(1)) * unit;
        let length = ((1 + random.below(6)) * unit).min(size.saturating_sub(offset));
        if length == 0 {
            continue;
        }
        let pattern = 1 + random.below(255);
        let whole = size / cluster;
        commands.push(match (format, random.below(4)) {
            ("qed", 0) => format!("write -z {offset} {length}"),
            ("qcow", 0 | 1) if whole > 0 => {
                let offset = random.below(whole) * cluster;
                format!("write -c -P {pattern} {offset} {cluster}")
            }
            _ => format!("write -P {pattern} {offset} {length}"),
        });
    }
    commands
}

/// Makes an image; gives its path and how it was made. `None` where qemu-img is missing.
fn make(
    folder: &Path,
    random: &mut Random,
    format: &str,
    name: &str,
    below: Option<(&str, &str)>,
) -> Option<(PathBuf, String)> {
    let size = [512, 65_536 * 3 + 512, 1 << 20, (2 << 20) + 4096 + 512][random.below(4) as usize];
    let (options, mut cluster) = options(random, format);
    let path = folder.join(name);
    let name = path.to_str().unwrap().to_owned();
    let size_text = size.to_string();
    let mut args = vec!["create", "-q", "-f", format, "-o", &options];
    if options.is_empty() {
        args.truncate(4);
    }
    if let Some((parent, format)) = below {
        args.extend(["-b", parent, "-F", format]);
        // upon another image, QCOW version 1 has clusters of a sector
        cluster = if options.is_empty() { 512 } else { cluster };
    }
    args.extend([&*name, &size_text]);
    run("qemu-img", &args)?;
    let commands = writes(random, format, size, cluster);
    if !commands.is_empty() {
        let mut args = vec!["-f", format];
        args.extend(commands.iter().flat_map(|command| ["-c", command]));
        args.push(&name);
        run("qemu-io", &args)?;
    }
    let description = format!("{format} {options} {size} {commands:?}");
    Some((path, description))
}

#[test]
fn random_images_read_and_map_as_qemu_img_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(8);
    for round in 0..36 {
        let format = ["qcow", "qed", "parallels"][round % 3];
        let name = format!("{round}.{format}");
        let made = make(dir.path(), &mut random, format, &name, None);
        let Some((path, description)) = made else { return };
        assert_same_as_qemu_img(&path, true, &description);
    }
}

#[test]
fn random_chains_read_and_map_as_qemu_img_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(88);
    for round in 0..10 {
        let mut below: Option<(String, &str)> = None;
        let mut description = format!("{round}:");
        for level in 0..3 {
            let format = ["qcow", "qed"][random.below(2) as usize];
            let name = format!("{round}-{level}.{format}");
            let parent = below.as_ref().map(|(name, format)| (&**name, *format));
            let made = make(dir.path(), &mut random, format, &name, parent);
            let Some((path, more)) = made else { return };
            description += &format!(" [{more}]");
            assert_same_as_qemu_img(&path, true, &description);
            below = Some((name, format));
        }
    }
}

/// A damage that `qemu-img check` knows: the image, what is changed, and the code it has here.
type Damage = (&'static str, &'static str, fn(&mut Vec<u8>), Option<Code>);

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// The first entries in use of the first L2 table of a QED image of clusters of 4 KiB.
fn qed_entries(bytes: &[u8]) -> Vec<usize> {
    let table = (4096..12_288).step_by(8).map(|at| le64(bytes, at)).find(|&entry| entry != 0);
    let table = table.unwrap() as usize;
    (table..table + 8192).step_by(8).filter(|&at| le64(bytes, at) > 1).collect()
}

const DAMAGES: &[Damage] = &[
    ("qed/backwards.qed", "whole", |_| {}, None),
    ("qed/qemu-dynamic.qed", "whole", |_| {}, None),
    ("qed/dirty.qed", "dirty", |_| {}, Some(Code::Dirty)),
    ("qed/backwards.qed", "a leak", |b| b.extend([7; 8192]), Some(Code::LeakedCluster)),
    (
        "qed/backwards.qed",
        "an entry between clusters",
        |b| {
            let at = qed_entries(b)[0];
            let entry = le64(b, at);
            put64(b, at, entry + 512);
        },
        Some(Code::Misaligned),
    ),
    (
        "qed/backwards.qed",
        "an entry beyond the end",
        |b| {
            let at = qed_entries(b)[1];
            let end = b.len() as u64;
            put64(b, at, end);
        },
        Some(Code::BeyondEnd),
    ),
    (
        "qed/backwards.qed",
        "a cluster twice",
        |b| {
            let entries = qed_entries(b);
            let entry = le64(b, entries[0]);
            put64(b, entries[1], entry);
        },
        Some(Code::Overlap),
    ),
    (
        "qed/backwards.qed",
        "a table in the header",
        |b| put64(b, 4096 + 16, 512),
        Some(Code::Misaligned),
    ),
    ("parallels/qemu-small-clusters.parallels", "whole", |_| {}, None),
    ("parallels/odd-clusters.parallels", "whole", |_| {}, None),
    ("parallels/old.parallels", "whole", |_| {}, None),
    ("parallels/dirty.parallels", "dirty", |_| {}, Some(Code::Dirty)),
    ("parallels/bitmap.parallels", "an extension", |_| {}, None),
    (
        "parallels/odd-clusters.parallels",
        "a leak",
        |b| b.extend([7; 33 * 1024]),
        Some(Code::LeakedCluster),
    ),
    (
        "parallels/odd-clusters.parallels",
        "an entry beyond the end",
        |b| b[68..72].copy_from_slice(&[0, 0, 1, 0]),
        Some(Code::BeyondEnd),
    ),
    (
        "parallels/odd-clusters.parallels",
        "a cluster twice",
        |b| b.copy_within(64..68, 68),
        Some(Code::Overlap),
    ),
    (
        "parallels/odd-clusters.parallels",
        "no start of the data",
        |b| b[48..52].fill(0),
        Some(Code::InvalidEntry),
    ),
];

fn image(bytes: Vec<u8>, format: &str) -> diskimage::Result<Image> {
    let storage = std::sync::Arc::new(diskimage::storage::MemoryStorage::new(bytes));
    let options = OpenOptions::new().format(format.parse().unwrap());
    options.open_image_storage(storage, Path::new("image"))
}

#[test]
fn a_check_finds_what_qemu_img_finds() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (file, what, change, code) in DAMAGES {
        let fixture = fixture(file);
        let mut bytes = std::fs::read(&fixture.path).unwrap();
        change(&mut bytes);
        let path = folder.path().join("image");
        std::fs::write(&path, &bytes).unwrap();
        let report = image(bytes, &fixture.format).unwrap().check(Checking::new()).unwrap();
        let name = format!("{file} with {what}: {report:?}");
        assert_eq!(report.is_clean(), code.is_none(), "{name}");
        assert!(code.is_none_or(|code| report.codes.contains(&code)), "{name}");
        let args = ["check", "-f", &fixture.format, "--output=json"].map(OsStr::new);
        let args = [&args[..], &[path.as_os_str()]].concat();
        let Some(output) = tool("qemu-img", &args) else { return };
        let Ok(theirs) = serde_json::from_slice::<Value>(&output.stdout) else {
            // it falls over an assertion of its own
            assert_eq!((&*fixture.format, *what), ("parallels", "an entry beyond the end"));
            continue;
        };
        let number = |key: &str| theirs[key].as_u64().unwrap_or(0);
        // it mends a QED image that is marked as dirty before it looks
        if *what != "dirty" {
            assert_eq!(report.corruptions > 0, number("corruptions") > 0, "{name}, {theirs}");
        }
        if report.corruptions == 0 {
            // it takes the cluster of a format extension for a leak
            let extension = u64::from(*what == "an extension");
            assert_eq!(report.leaks + extension, number("leaks"), "{name}, {theirs}");
            for (ours, key) in [
                (report.total_clusters, "total-clusters"),
                (report.allocated_clusters, "allocated-clusters"),
                (report.fragmented_clusters, "fragmented-clusters"),
            ] {
                assert_eq!(ours, Some(number(key)), "{key} of {name}, {theirs}");
            }
        }
    }
}

#[test]
fn formats_without_a_check_say_so() {
    for file in ["qcow/mixed.qcow", "bochs/version-2.bochs", "cloop/blocks-64k.cloop"] {
        let image = OpenOptions::new().open_image(&fixture(file).path).unwrap();
        let error = image.check(Checking::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{file}: {error}");
    }
}

type Change = fn(&mut Vec<u8>);

/// Headers that must be refused, each with a word of the reason.
const HEADERS: &[(&str, Change, &str)] = &[
    ("qcow/mixed.qcow", |b| b[32] = 8, "cluster_bits"),
    ("qcow/mixed.qcow", |b| b[32] = 17, "cluster_bits"),
    ("qcow/mixed.qcow", |b| b[33] = 5, "l2_bits"),
    ("qcow/mixed.qcow", |b| b[33] = 14, "l2_bits"),
    ("qcow/mixed.qcow", |b| b[39] = 2, "crypt_method"),
    ("qcow/mixed.qcow", |b| b[24] = 0x40, "L1 table"),
    ("qcow/mixed.qcow", |b| b[24] = 0x80, "size"),
    ("qcow/mixed.qcow", |b| b[40] = 1, "L1 table"),
    ("qcow/mixed.qcow", |b| b[47] = 8, "l1_table_offset"),
    ("qcow/qemu-child.qcow", |b| b[18..20].copy_from_slice(&[4, 0]), "backing file name"),
    ("qcow/qemu-child.qcow", |b| b[19] = 0, "backing file name"),
    ("qcow/qemu-child.qcow", |b| b[50] = 0, "backing file name"),
    ("qed/backwards.qed", |b| b[5] = 8, "cluster_size"),
    ("qed/backwards.qed", |b| b[7] = 8, "cluster_size"),
    ("qed/backwards.qed", |b| b[8] = 3, "table_size"),
    ("qed/backwards.qed", |b| b[8] = 32, "table_size"),
    ("qed/backwards.qed", |b| b[12] = 0, "header_size"),
    ("qed/backwards.qed", |b| b[15] = 1, "header"),
    ("qed/backwards.qed", |b| b[20] = 1, "features"),
    ("qed/backwards.qed", |b| b[41] = 0, "l1_table_offset"),
    ("qed/backwards.qed", |b| b[40] = 8, "l1_table_offset"),
    ("qed/backwards.qed", |b| b[44] = 1, "L1 table"),
    ("qed/backwards.qed", |b| b[48] = 1, "image_size"),
    ("qed/backwards.qed", |b| b[54] = 1, "image_size"),
    ("qed/qemu-child.qed", |b| b[59] = 1, "backing_filename_offset"),
    ("qed/qemu-child.qed", |b| b[60] = 0, "backing file name"),
    ("parallels/old.parallels", |b| b[16] = 3, "version"),
    ("parallels/old.parallels", |b| b[28] = 0, "tracks"),
    ("parallels/old.parallels", |b| b[31] = 1, "tracks"),
    ("parallels/odd-clusters.parallels", |b| b[43] = 1, "nb_sectors"),
    ("parallels/odd-clusters.parallels", |b| b[35] = 1, "BAT"),
    ("parallels/odd-clusters.parallels", |b| b[32] = 1, "nb_bat_entries"),
    ("bochs/version-2.bochs", |b| b[0x20] = b'X', "type"),
    ("bochs/version-2.bochs", |b| b[0x30..0x38].copy_from_slice(b"Volatile"), "Volatile"),
    ("bochs/version-2.bochs", |b| b[0x42] = 3, "version"),
    ("bochs/version-2.bochs", |b| b[0x45] = 1, "header"),
    ("bochs/version-2.bochs", |b| b[0x4b] = 1, "catalog"),
    ("bochs/version-2.bochs", |b| b[0x48] = 1, "catalog"),
    ("bochs/version-2.bochs", |b| b[0x4c] = 1, "bitmap"),
    ("bochs/version-2.bochs", |b| b[0x51] = 0, "extent"),
    ("bochs/version-2.bochs", |b| b[0x50] = 1, "extent"),
    ("bochs/version-2.bochs", |b| b[0x5f] = 0x80, "disk"),
    ("cloop/blocks-64k.cloop", |b| b[129] = 0, "block_size"),
    ("cloop/blocks-64k.cloop", |b| b[131] = 1, "block_size"),
    ("cloop/blocks-64k.cloop", |b| b[128] = 1, "block_size"),
    ("cloop/blocks-64k.cloop", |b| b[133] = 8, "table of offsets"),
];

#[test]
fn each_rule_of_the_headers_is_held() {
    for (file, change, word) in HEADERS {
        let fixture = fixture(file);
        let mut bytes = std::fs::read(&fixture.path).unwrap();
        change(&mut bytes);
        let error = image(bytes, &fixture.format).map(|_| ()).expect_err(file);
        assert!(error.to_string().contains(word), "{file}: {error}, not of {word}");
        assert!(error.offset().is_some(), "{file}: {error}");
        assert!(error.advice().is_some(), "{file}: {error}");
    }
}

fn put_be64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// Sets the first L2 entry of a QCOW version 1 image without a backing file.
fn set_qcow(bytes: &mut [u8], value: u64) {
    let table = u64::from_be_bytes(bytes[48..56].try_into().unwrap());
    put_be64(bytes, table as usize, value);
}

/// Sets the first L2 entry in use of a QED image.
fn set_qed(bytes: &mut [u8], value: u64) {
    let at = qed_entries(bytes)[0];
    put64(bytes, at, value);
}

/// Entries that must be refused where they are met, each with words of the reason.
const ENTRIES: &[(&str, Change, &str)] = &[
    ("qcow/mixed.qcow", |b| put_be64(b, 48, 8), "an L1 entry is 0x8"),
    ("qcow/mixed.qcow", |b| put_be64(b, 48, u64::MAX), "an L2 table is cut off"),
    ("qcow/mixed.qcow", |b| set_qcow(b, 8), "an L2 entry is 0x8"),
    ("qcow/mixed.qcow", |b| set_qcow(b, 1 << 40), "guest data is cut off"),
    ("qcow/mixed.qcow", |b| set_qcow(b, 1 << 63 | 99), "a compressed cluster, and is"),
    (
        "qcow/mixed.qcow",
        |b| set_qcow(b, 1 << 63 | 5 << 51 | 1 << 40),
        "a compressed cluster is cut off",
    ),
    ("qed/backwards.qed", |b| put64(b, 4096, 512), "an L1 entry is 0x200"),
    ("qed/backwards.qed", |b| put64(b, 4096, 1 << 50), "an L2 table is cut off"),
    ("qed/backwards.qed", |b| set_qed(b, 2), "an L2 entry is 0x2"),
    ("qed/backwards.qed", |b| set_qed(b, 1 << 50), "guest data is cut off"),
    ("parallels/odd-clusters.parallels", |b| b[49] = 0xff, "a BAT entry is"),
    ("parallels/odd-clusters.parallels", |b| b[67] = 0xff, "guest data is cut off"),
    ("bochs/version-2.bochs", |b| b[514] = 0xff, "an extent's bitmap is cut off"),
    ("cloop/blocks-64k.cloop", |b| put_be64(b, 136, 8), "behind the table"),
    ("cloop/blocks-64k.cloop", |b| b.copy_within(136..144, 144), "above the one before"),
    ("cloop/blocks-64k.cloop", |b| put_be64(b, 144, 1 << 40), "not much more than a block"),
];

#[test]
fn each_rule_of_the_entries_is_held() {
    for (file, change, word) in ENTRIES {
        let fixture = fixture(file);
        let mut bytes = std::fs::read(&fixture.path).unwrap();
        change(&mut bytes);
        let storage = std::sync::Arc::new(diskimage::storage::MemoryStorage::new(bytes));
        let options = OpenOptions::new().format(fixture.format.parse().unwrap());
        let disk = options.open_storage(storage, Path::new("image")).unwrap();
        let error = content(&disk).expect_err(file);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{file}: {error}");
        assert!(error.to_string().contains(word), "{file}: {error}, not of {word}");
        assert!(error.offset().is_some() && error.guest_range().is_some(), "{file}: {error:?}");
    }
}

#[test]
fn a_qed_image_marked_as_such_never_probes_its_backing_file() {
    // a guest wrote the header of another format into its raw disk
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (base, top) = (folder.path().join("base"), folder.path().join("top.qed"));
    let mut bytes = std::fs::read(&fixture("qed/backwards.qed").path).unwrap();
    bytes.truncate(1 << 20);
    std::fs::write(&base, &bytes).unwrap();
    let base_name = base.to_str().unwrap();
    let args = ["create", "-q", "-f", "qed", "-b", base_name, "-F", "raw", top.to_str().unwrap()];
    if run("qemu-img", &args).is_none() {
        return;
    }
    let options = OpenOptions::new().resolver(Beneath::new(folder.path()).unwrap());
    let disk = options.open(&top).unwrap();
    assert_eq!(disk.images()[1].layer().format(), Format::Raw);
    assert!(content(&disk).unwrap()[..bytes.len()] == bytes);
}

#[test]
fn an_unknown_feature_of_qed_is_read_only_when_trusted() {
    let path = &fixture("qed/unknown-feature.qed").path;
    let image = OpenOptions::new().trust_broken(true).open_image(path).unwrap();
    assert!(image.findings().unwrap().iter().any(|f| f.code == Code::UnknownFeature));
    assert!(OpenOptions::new().trust_broken(true).open(path).is_ok());
    assert_eq!(OpenOptions::new().open(path).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_bundle_opens_by_the_name_of_its_folder() {
    for file in ["parallels/single.hdd", "parallels/snapshots.hdd"] {
        let fixture = fixture(&format!("{file}/DiskDescriptor.xml"));
        let folder = fixture.path.parent().unwrap();
        let options = OpenOptions::new().resolver(Beneath::new(folder).unwrap());
        let disk = options.open(folder).unwrap();
        assert_eq!(Some(sha256_of(&disk).unwrap()), fixture.guest_sha256, "{file}");
        let image = options.open_image(folder).unwrap();
        assert_eq!(image.path(), fixture.path);
        assert_eq!(image.layer().format(), Format::Parallels);
    }
    // other folders are no images
    let error = OpenOptions::new().open(root()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn descriptors_that_are_made_to_harm_are_refused() {
    let around = |inside: &str| {
        format!(
            "<?xml version='1.0'?><Parallels_disk_image Version='1.0'>{inside}</Parallels_disk_image>"
        )
    };
    let deep = "<a>".repeat(100_000);
    let wide = "<a/>".repeat(200_000);
    let entities = "<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><Parallels_disk_image/>";
    let outside = "<!DOCTYPE x SYSTEM 'file:///etc/passwd'><Parallels_disk_image/>";
    for text in [
        around(&deep),
        around(&wide),
        entities.into(),
        outside.into(),
        around(""),
        "<other/>".into(),
        "<\0>".into(),
        " ".repeat(60) + "<" + &" ".repeat(2 << 20),
    ] {
        let error = image(text.clone().into_bytes(), "parallels").map(|_| ()).unwrap_err();
        assert!(!matches!(error.kind(), ErrorKind::Io), "{error}: {:.80}", text);
        assert!(!error.to_string().contains(char::is_control), "{error}");
    }
}
