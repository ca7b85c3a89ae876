//! What the benches measure with: inputs that they build themselves, the same on every machine.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use diskimage::storage::MemoryStorage;
use diskimage::{Chain, OpenOptions, Result, Storage};
use flate2::Compression;
use flate2::write::DeflateEncoder;

/// The cluster size of nearly every QCOW2 image.
pub(crate) const CLUSTER: usize = 64 << 10;

/// Which inflater this build of the library tries first; part of the names of benches, so that
/// figures of different builds are never taken for a change.
pub(crate) const INFLATER: &str = if cfg!(feature = "libdeflate") {
    "libdeflate"
} else if cfg!(feature = "zlib-rs") {
    "zlib-rs"
} else {
    "miniz_oxide"
};

/// Short enough for all benches in less than two minutes, long enough for two digits.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .without_plots()
}

/// A stream of numbers (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.number() >> 33) % bound
    }
}

/// Words of a made-up language, the short and early ones the most frequent: deflate makes a third
/// of it, as of the files of a real system.
pub(crate) fn text(length: usize, random: &mut Random) -> Vec<u8> {
    // the language is the same for all
    let mut letters = Random::new(1);
    let words: Vec<Vec<u8>> = (0..4096u32)
        .map(|rank| {
            let length = 2 + u64::from((rank + 1).ilog2()) / 2 + letters.below(5);
            (0..length)
                .map(|_| b"etaoinshrdlucmfwypvbgkqjxz_0123E"[skewed(&mut letters, 32)])
                .collect()
        })
        .collect();
    let mut bytes = Vec::with_capacity(length + 128);
    while bytes.len() < length {
        if random.below(8) == 0 && bytes.len() >= 4096 {
            // a phrase again
            let from = bytes.len() - 80 - random.below(4000) as usize;
            bytes.extend_from_within(from..from + 16 + random.below(64) as usize);
        }
        bytes.extend(&words[skewed(random, words.len())]);
        bytes.push(if random.below(10) == 0 { b'\n' } else { b' ' });
    }
    bytes.truncate(length);
    bytes
}

/// An index below `length`, a small one more likely.
fn skewed(random: &mut Random, length: usize) -> usize {
    let bound = 1 + random.below(length as u64);
    random.below(bound) as usize
}

/// Bytes that nothing compresses.
pub(crate) fn noise(length: usize, random: &mut Random) -> Vec<u8> {
    (0..length).map(|_| (random.number() >> 56) as u8).collect()
}

/// A disk's content: of 16 clusters 4 are holes, 1 is noise and 11 are text, every third of those
/// with zeros at its end, as behind a file's last byte.
pub(crate) fn content(clusters: usize) -> Vec<u8> {
    let mut random = Random::new(7);
    let mut bytes = Vec::with_capacity(clusters * CLUSTER);
    for index in 0..clusters {
        let end = bytes.len() + CLUSTER;
        match index % 16 {
            0..4 => {}
            4 => bytes.extend(noise(CLUSTER, &mut random)),
            other if other % 3 == 0 => bytes.extend(text(CLUSTER * 5 / 8, &mut random)),
            _ => bytes.extend(text(CLUSTER, &mut random)),
        }
        bytes.resize(end, 0);
    }
    bytes
}

pub(crate) fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).unwrap()
}

/// How the clusters of an image are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Zlib,
    Zstd,
}

/// An image of `content`, which is whole clusters, as `qemu-img convert` would lay it out.
pub(crate) fn image_of(content: &[u8], packing: Packing) -> MemoryStorage {
    let mut image = Qcow2::new(content.len() / CLUSTER, packing == Packing::Zstd);
    for (index, cluster) in content.chunks(CLUSTER).enumerate() {
        if cluster.iter().all(|&byte| byte == 0) {
            continue;
        }
        let packed = match packing {
            Packing::Plain => None,
            Packing::Zlib => Some(deflate(cluster)),
            Packing::Zstd => Some(zstd_frame(cluster)),
        };
        let entry = match packed.filter(|packed| packed.len() < CLUSTER) {
            Some(packed) => image.add_compressed(&packed),
            None => image.add(cluster),
        };
        image.map(index, entry);
    }
    MemoryStorage::new(image.finish())
}

/// What the clusters of a [`Map`] are to their neighbours.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Layout {
    /// No two lie side by side.
    Scattered,
    /// All lie in a row.
    Contiguous,
    /// None is stored, but the tables that say so are.
    Holes,
}

/// The tables of an image, without the clusters that they speak of.
#[derive(Debug)]
pub(crate) struct Map {
    tables: MemoryStorage,
    size: u64,
}

impl Map {
    pub(crate) fn new(clusters: usize, layout: Layout) -> Self {
        let mut image = Qcow2::new(clusters, false);
        let first = image.add(&[]);
        for index in 0..clusters {
            match layout {
                // an odd number times the index takes every value below a power of two once
                Layout::Scattered => {
                    image.map(index, first + (index * 7919 % clusters * CLUSTER) as u64);
                }
                Layout::Contiguous => image.map(index, first + (index * CLUSTER) as u64),
                Layout::Holes => {}
            }
        }
        let tables = image.finish();
        let size = (tables.len() + clusters * CLUSTER) as u64;
        Self { tables: MemoryStorage::new(tables), size }
    }
}

impl Storage for Map {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if offset >= self.tables.size() {
            // the format is looked for at the end too
            buf.fill(0);
            return Ok(());
        }
        self.tables.read_exact_at(buf, offset)
    }
}

/// A QCOW2 image of version 3 under construction: the header, an empty refcount table (readers do
/// not look at it), the L1 table and all L2 tables one after the other, then the clusters.
pub(crate) struct Qcow2(Vec<u8>);

impl Qcow2 {
    const L1_TABLE: usize = 2 * CLUSTER;
    const L2_TABLES: usize = 3 * CLUSTER;

    pub(crate) fn new(clusters: usize, zstd: bool) -> Self {
        let tables = (clusters * 8).div_ceil(CLUSTER);
        assert!(tables * 8 <= CLUSTER, "the L1 table has one cluster");
        let mut image = Self(vec![0; Self::L2_TABLES + tables * CLUSTER]);
        image.put_u32(0, 0x5146_49fb);
        image.put_u32(4, 3);
        image.put_u32(20, CLUSTER.ilog2());
        image.put_u64(24, (clusters * CLUSTER) as u64);
        image.put_u32(36, tables as u32);
        image.put_u64(40, Self::L1_TABLE as u64);
        image.put_u64(48, CLUSTER as u64); // the refcount table's offset and clusters
        image.put_u32(56, 1);
        image.put_u64(72, u64::from(zstd) << 3); // the incompatible features
        image.put_u32(96, 4); // the refcount order
        image.put_u32(100, 112); // the header's length
        image.0[104] = u8::from(zstd);
        for table in 0..tables {
            let offset = (Self::L2_TABLES + table * CLUSTER) as u64;
            image.put_u64(Self::L1_TABLE + table * 8, offset | 1 << 63);
        }
        image
    }

    /// Stores a cluster as it is; gives its L2 entry.
    pub(crate) fn add(&mut self, cluster: &[u8]) -> u64 {
        self.0.resize(self.0.len().next_multiple_of(CLUSTER), 0);
        let offset = self.0.len() as u64;
        self.0.extend(cluster);
        offset | 1 << 63
    }

    /// Stores a compressed cluster behind the last one; gives its L2 entry.
    pub(crate) fn add_compressed(&mut self, stream: &[u8]) -> u64 {
        let offset = self.0.len() as u64;
        self.0.extend(stream);
        let last = self.0.len() as u64 - 1;
        let additional_sectors = last / 512 - offset / 512;
        offset | additional_sectors << (62 - (CLUSTER.ilog2() - 8)) | 1 << 62
    }

    /// Makes `entry` the L2 entry of guest cluster `index`.
    pub(crate) fn map(&mut self, index: usize, entry: u64) {
        self.put_u64(Self::L2_TABLES + index * 8, entry);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }
}

/// The disk in an image that lies in memory.
pub(crate) fn open(image: impl Storage + 'static) -> Chain {
    OpenOptions::new().open_storage(Arc::new(image), Path::new("in memory")).unwrap()
}
