//! VMDKs that qemu-img writes: content, map and details agree with it.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::ffi::OsStr;
use std::path::Path;

use common::*;
use diskimage::layer::Value as Detail;
use diskimage::{Beneath, Chain, ExtentKind, OpenOptions, Result, VirtualDisk, VirtualDiskExt};
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::Value;

fn open(path: &Path) -> Result<Chain> {
    let folder = Beneath::new(path.parent().unwrap()).unwrap();
    OpenOptions::new().resolver(folder).open(path)
}

/// Runs qemu-img in `folder`; `None` where it is not installed.
fn qemu_img(folder: &Path, args: &[&str]) -> Option<Vec<u8>> {
    let script = format!("cd '{}' && exec qemu-img \"$@\"", folder.display());
    tool("qemu-img", &["--version".as_ref()])?;
    let mut all: Vec<&OsStr> = vec!["-c".as_ref(), script.as_ref(), "qemu-img".as_ref()];
    all.extend(args.iter().map(OsStr::new));
    tool_output("sh", &all)
}

fn qemu_io(folder: &Path, commands: &[&str], image: &str) -> Option<()> {
    let image = folder.join(image);
    let mut args: Vec<&OsStr> = Vec::new();
    for command in commands {
        args.extend([OsStr::new("-c"), OsStr::new(*command)]);
    }
    args.push(image.as_os_str());
    tool_output("qemu-io", &args).map(drop)
}

struct Random(TestRng);

impl Random {
    fn new(seed: u8) -> Self {
        Self(TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]))
    }
    fn below(&mut self, end: u64) -> u64 {
        self.0.next_u64() % end
    }
    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }
    /// A disk of zeros with runs of data that compress, and of data that do not.
    fn disk(&mut self, size: u64) -> Vec<u8> {
        let mut disk = vec![0; size as usize];
        for _ in 0..self.below(6) {
            let start = self.below(size);
            let end = size.min(start + self.one_of(&[1, 511, 4096, 65_536, 200_000]));
            let part = &mut disk[start as usize..end as usize];
            match self.below(2) {
                0 => self.0.fill_bytes(part),
                _ => part.fill(self.below(255) as u8 + 1),
            }
        }
        disk
    }
}

/// One entry of a map: start, length, present, zero, compressed, offset.
type Entry = (u64, u64, bool, bool, bool, Option<u64>);

fn our_map(disk: &Chain, depth: u32) -> Vec<Entry> {
    let mut map: Vec<Entry> = Vec::new();
    for extent in disk.extents(0..disk.size()) {
        let extent = extent.unwrap();
        assert!(extent.depth <= depth);
        let present = !matches!(extent.kind, ExtentKind::Zero { allocated: false, .. });
        let zero = extent.kind.is_zero();
        let compressed = extent.kind == ExtentKind::Encoded;
        let offset = extent.kind.location().map(|location| location.offset);
        push(&mut map, (extent.start, extent.length, present, zero, compressed, offset));
    }
    map
}

fn qemu_map(json: &[u8]) -> Vec<Entry> {
    let entries: Vec<Value> = serde_json::from_slice(json).unwrap();
    let mut map: Vec<Entry> = Vec::new();
    for entry in entries {
        let number = |key: &str| entry[key].as_u64();
        let flag = |key: &str| entry[key].as_bool().unwrap();
        let (start, length) = (number("start").unwrap(), number("length").unwrap());
        let (zero, compressed) = (flag("zero"), flag("compressed"));
        push(&mut map, (start, length, flag("present"), zero, compressed, number("offset")));
    }
    map
}

fn push(map: &mut Vec<Entry>, entry: Entry) {
    if let Some(last) = map.last_mut() {
        let same = (last.2, last.3, last.4) == (entry.2, entry.3, entry.4);
        if same && last.5.map(|offset| offset + last.1) == entry.5 {
            last.1 += entry.1;
            return;
        }
    }
    map.push(entry);
}

const SUBFORMATS: &[&str] = &[
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
];

#[test]
fn what_qemu_img_writes_reads_and_maps_as_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::new(7);
    for round in 0..60 {
        let size = random.one_of(&[1, 511, 65_536, 70_001, 1 << 20, 3_000_000, 5 << 20]);
        let size = size + random.below(2) * random.below(4096);
        let disk = random.disk(size);
        write_sparse(&dir.path().join("raw"), &disk);
        let subformat = SUBFORMATS[round % SUBFORMATS.len()];
        let options =
            random.one_of(&["", ",adapter_type=lsilogic", ",compat6=on", ",hwversion=11"]);
        let zeroed = if subformat.ends_with("Sparse") && random.below(2) == 0 {
            ",zeroed_grain=on"
        } else {
            ""
        };
        let options = format!("subformat={subformat}{options}{zeroed}");
        let args = ["convert", "-f", "raw", "-O", "vmdk", "-o", &options, "raw", "a.vmdk"];
        if qemu_img(dir.path(), &args).is_none() {
            return;
        }
        if !zeroed.is_empty() && size >= 65_536 {
            // leaves grains that are marked as zeros
            let _ = qemu_io(dir.path(), &["write -z 0 64k"], "a.vmdk");
        }
        let path = dir.path().join("a.vmdk");
        let ours = open(&path).unwrap_or_else(|e| panic!("{options}: {e}"));
        let args = ["convert", "-f", "vmdk", "-O", "raw", "a.vmdk", "back"];
        qemu_img(dir.path(), &args).unwrap();
        let theirs = std::fs::read(dir.path().join("back")).unwrap();
        assert!(content(&ours).unwrap() == theirs, "{options}, {size} bytes");
        diskimage::conformance::check(&ours, Some(&theirs)).unwrap();
        let map = qemu_img(dir.path(), &["map", "--output=json", "-f", "vmdk", "a.vmdk"]).unwrap();
        assert_eq!(our_map(&ours, 0), qemu_map(&map), "{options}, {size} bytes");
        let layer = ours.images()[0].layer();
        let found = layer.describe().unwrap().findings;
        let external = usize::from(!layer.references().is_empty());
        assert_eq!(found.len(), external, "{options}: {found:?}");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn details_are_those_of_qemu_img() {
    fn json(detail: &Detail) -> Value {
        match detail {
            Detail::Bool(yes) => (*yes).into(),
            Detail::Number(number) => (*number).into(),
            Detail::Text(text) => text.clone().into(),
            Detail::List(list) => list.iter().map(json).collect(),
            Detail::Map(map) => map.iter().map(|(k, v)| ((*k).to_owned(), json(v))).collect(),
        }
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("raw"), vec![7; 100_000]).unwrap();
    for subformat in SUBFORMATS {
        let options = format!("subformat={subformat}");
        let args = ["convert", "-f", "raw", "-O", "vmdk", "-o", &options, "raw", "sub/a.vmdk"];
        if qemu_img(dir.path(), &args).is_none() {
            return;
        }
        let path = dir.path().join("sub/a.vmdk");
        let info =
            tool_output("qemu-img", &["info".as_ref(), "--output=json".as_ref(), path.as_os_str()]);
        let info: Value = serde_json::from_slice(&info.unwrap()).unwrap();
        let disk = open(&path).unwrap();
        let layer = disk.images()[0].layer();
        let details = layer.describe().unwrap().details;
        for (key, theirs) in info["format-specific"]["data"].as_object().unwrap() {
            let ours = details.iter().find(|(k, _)| k == key).map(|(_, value)| json(value));
            // the folder may be reached through a link
            let canonical = dir.path().canonicalize().unwrap();
            let ours = ours.unwrap().to_string();
            let ours = ours.replace(canonical.to_str().unwrap(), dir.path().to_str().unwrap());
            assert_eq!(ours.parse::<Value>().unwrap(), *theirs, "{subformat}: {key}");
        }
        assert_eq!(layer.cluster_size(), info["cluster-size"].as_u64(), "{subformat}");
        assert_eq!(layer.size(), info["virtual-size"].as_u64().unwrap());
    }
}

#[test]
fn deltas_read_through_their_parents() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::new(9);
    for subformat in ["monolithicSparse", "twoGbMaxExtentSparse"] {
        let disk = random.disk(2 << 20);
        write_sparse(&dir.path().join("raw"), &disk);
        let options = format!("subformat={subformat}");
        let base = ["convert", "-f", "raw", "-O", "vmdk", "-o", &options, "raw", "base.vmdk"];
        if qemu_img(dir.path(), &base).is_none() {
            return;
        }
        let args = ["-f", "vmdk", "-o", &options, "-F", "vmdk", "-b"];
        let args = [&["create", "-q"], &args[..]].concat();
        qemu_img(dir.path(), &[&args[..], &["base.vmdk", "a.vmdk"]].concat()).unwrap();
        let writes = ["write -P 17 70000 5000", "write -P 18 1000k 200k"];
        if qemu_io(dir.path(), &writes, "a.vmdk").is_none() {
            return;
        }
        qemu_img(dir.path(), &[&args[..], &["a.vmdk", "b.vmdk"]].concat()).unwrap();
        qemu_io(dir.path(), &["write -P 19 1100k 64k"], "b.vmdk").unwrap();
        let ours = open(&dir.path().join("b.vmdk")).unwrap();
        assert_eq!(ours.images().len(), 3);
        let back = ["convert", "-f", "vmdk", "-O", "raw", "b.vmdk", "back"];
        qemu_img(dir.path(), &back).unwrap();
        let theirs = std::fs::read(dir.path().join("back")).unwrap();
        assert!(content(&ours).unwrap() == theirs);
        diskimage::conformance::check(&ours, Some(&theirs)).unwrap();
        let map = qemu_img(dir.path(), &["map", "--output=json", "b.vmdk"]).unwrap();
        assert_eq!(our_map(&ours, 2), qemu_map(&map));
        // a parent that was written to since is another one
        qemu_io(dir.path(), &["write -P 20 0 512"], "base.vmdk").unwrap();
        let error = open(&dir.path().join("b.vmdk")).unwrap_err();
        assert_eq!(error.kind(), diskimage::ErrorKind::Corrupt);
        assert!(error.to_string().contains("content identifier"), "{error}");
    }
}

#[test]
fn a_disk_of_several_extents_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let size = (5u64 << 30) + 1536;
    for subformat in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let options = format!("subformat={subformat}");
        let args = ["create", "-q", "-f", "vmdk", "-o", &options, "a.vmdk", &size.to_string()];
        if qemu_img(dir.path(), &args).is_none() {
            return;
        }
        let writes = [
            "write -P 1 2146435000 2000",
            "write -P 2 4293918720 64k",
            "write -P 3 5368709120 1536",
        ];
        if qemu_io(dir.path(), &writes, "a.vmdk").is_none() {
            return;
        }
        let ours = open(&dir.path().join("a.vmdk")).unwrap();
        assert_eq!(ours.size(), size);
        assert_eq!(ours.images()[0].layer().references().len(), 3);
        let args = ["convert", "-f", "vmdk", "-O", "raw", "a.vmdk", "back"];
        qemu_img(dir.path(), &args).unwrap();
        let theirs = OpenOptions::new()
            .format(diskimage::Format::Raw)
            .open(dir.path().join("back"))
            .unwrap();
        assert_eq!(sha256_of(&ours).unwrap(), sha256_of(&theirs).unwrap(), "{subformat}");
    }
}
