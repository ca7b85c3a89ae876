//! For seeded sweeps against qemu-img: random numbers, and maps in its words.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::ffi::OsStr;
use std::path::Path;

use diskimage::{Beneath, Chain, Extent, ExtentKind, OpenOptions, VirtualDisk, VirtualDiskExt};
use serde_json::Value;

/// A small generator with known output: SplitMix64.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// How often to draw, if not `usual` times: `DISKIMAGE_SWEEP`.
pub fn rounds(usual: u64) -> u64 {
    std::env::var("DISKIMAGE_SWEEP").ok().map_or(usual, |rounds| rounds.parse().unwrap())
}

/// Every how many of a list to take: all of them where `DISKIMAGE_SWEEP` is set.
pub fn every(usual: usize) -> usize {
    if std::env::var_os("DISKIMAGE_SWEEP").is_some() { 1 } else { usual }
}

/// What qemu-img's map says, neighbours joined.
pub fn qemu_map(path: &Path, format: Option<&str>) -> Option<Vec<Value>> {
    let mut args: Vec<&OsStr> = ["map", "--output=json"].map(OsStr::new).into();
    if let Some(format) = format {
        args.extend(["-f", format].map(OsStr::new));
    }
    args.push(path.as_os_str());
    let out = super::tool_output("qemu-img", &args)?;
    let mut entries: Vec<Value> = serde_json::from_slice(&out).unwrap();
    // an empty disk has no extents; qemu-img shows one of no length
    entries.retain(|entry| entry["length"] != 0);
    Some(join(entries))
}

pub fn join(entries: Vec<Value>) -> Vec<Value> {
    let mut joined: Vec<Value> = Vec::new();
    for entry in entries {
        let number = |value: &Value, key: &str| value[key].as_u64();
        if let Some(last) = joined.last_mut() {
            let length = number(last, "length").unwrap();
            let same = ["depth", "present", "zero", "data", "compressed"]
                .iter()
                .all(|key| last[*key] == entry[*key]);
            let follows = number(last, "offset").map(|o| o + length) == number(&entry, "offset");
            if same && follows {
                last["length"] = (length + number(&entry, "length").unwrap()).into();
                continue;
            }
        }
        joined.push(entry);
    }
    joined
}

/// Our extents in qemu-img's words, neighbours joined. With `no_holes`, holes of the file under
/// stored data count as data: of dynamic images other than QCOW2, qemu-img does not look for them.
pub fn our_map(disk: &Chain, no_holes: bool) -> Vec<Value> {
    let entry = |extent: Extent| {
        let (present, zero, compressed) = match extent.kind {
            ExtentKind::Stored(_) => (true, false, false),
            ExtentKind::Hole(_) => (true, !no_holes, false),
            ExtentKind::Encoded => (true, false, true),
            ExtentKind::Zero { allocated, .. } => (allocated, true, false),
        };
        let is_raw =
            |depth: u32| disk.images()[depth as usize].layer().format() == diskimage::Format::Raw;
        let is_hole = matches!(extent.kind, ExtentKind::Hole(_));
        let data = !zero || (is_hole && !is_raw(extent.depth));
        let mut entry = serde_json::json!({
            "start": extent.start, "length": extent.length, "depth": extent.depth,
            "present": present, "zero": zero, "data": data, "compressed": compressed,
        });
        if let Some(location) = extent.kind.location() {
            entry["offset"] = location.offset.into();
        }
        entry
    };
    join(disk.extents(0..disk.size()).map(|extent| entry(extent.unwrap())).collect())
}

/// The disk has the content that qemu-img converts it to, and its map. See [`our_map`].
pub fn assert_same_as_qemu_img(path: &Path, no_holes: bool, description: &str) -> Option<()> {
    let folder = Beneath::new(path.parent().unwrap()).unwrap();
    let disk = OpenOptions::new().resolver(folder).open(path);
    let disk = disk.unwrap_or_else(|e| panic!("{description}: {e}"));
    let raw = path.with_extension("converted");
    let args =
        ["convert".as_ref(), "-O".as_ref(), "raw".as_ref(), path.as_os_str(), raw.as_os_str()];
    super::tool_output("qemu-img", &args)?;
    let wanted = std::fs::read(&raw).unwrap();
    assert_eq!(disk.size(), wanted.len() as u64, "{description}");
    assert!(super::content(&disk).unwrap() == wanted, "{description}: the content differs");
    assert_eq!(our_map(&disk, no_holes), qemu_map(path, None)?, "{description}");
    Some(())
}
