//! The stages of a conversion, one at a time: decoding, finding zeros, mapping, paging tables.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use diskimage::bytes::is_zero;
use diskimage::codec::{Wrapper, inflate_exact};
use diskimage::storage::{MemoryStorage, TableCache};
use diskimage::{VirtualDisk, VirtualDiskExt};

mod support;
use support::{CLUSTER, INFLATER, Layout, Map, Random, deflate, open, text};

/// Many different clusters, so that no branch is learnt by heart.
fn clusters() -> Vec<Vec<u8>> {
    let mut random = Random::new(3);
    (0..64).map(|_| text(CLUSTER, &mut random)).collect()
}

/// Decodes all of `streams`, having checked that they become `clusters`.
fn decode(
    c: &mut Criterion,
    name: &str,
    clusters: &[Vec<u8>],
    compress: impl Fn(&[u8]) -> Vec<u8>,
    decode: impl Fn(&[u8], &mut [u8]),
) {
    let streams: Vec<_> = clusters.iter().map(|cluster| compress(cluster)).collect();
    let mut out = vec![0; CLUSTER];
    for (stream, cluster) in streams.iter().zip(clusters) {
        decode(stream, &mut out);
        assert_eq!(&out, cluster);
    }
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Bytes((clusters.len() * CLUSTER) as u64));
    group.bench_function(name, |b| {
        b.iter(|| streams.iter().for_each(|stream| decode(black_box(stream), &mut out)));
    });
    group.finish();
}

fn codecs(c: &mut Criterion) {
    let clusters = clusters();
    let inflate = |stream: &[u8], out: &mut [u8]| inflate_exact(stream, out, Wrapper::Raw).unwrap();
    decode(c, &format!("deflate, {INFLATER}"), &clusters, deflate, inflate);
    #[cfg(feature = "zstd")]
    decode(c, "zstd", &clusters, support::zstd_frame, |stream, out| {
        diskimage::codec::zstd_exact(stream, out).unwrap();
    });
}

/// A buffer is looked at in blocks of 4 KiB, as a conversion does by default.
fn zeros(c: &mut Criterion) {
    // written, since fresh memory is one page of zeros over and over
    let zeros = |length| {
        let mut bytes = black_box(vec![1; length]);
        bytes.fill(0);
        bytes
    };
    let inputs = [
        ("data", text(128 << 10, &mut Random::new(5))),
        ("zeros in cache", zeros(128 << 10)),
        ("zeros in memory", zeros(64 << 20)),
    ];
    let mut group = c.benchmark_group("zero scan");
    for (name, buffer) in inputs {
        let count = |buffer: &[u8]| buffer.chunks(4096).filter(|block| is_zero(block)).count();
        let zeros = if name == "data" { 0 } else { buffer.len() / 4096 };
        assert_eq!(count(&buffer), zeros);
        group.throughput(Throughput::Bytes(buffer.len() as u64));
        group.bench_function(name, |b| b.iter(|| count(black_box(&buffer))));
    }
    group.finish();
}

/// Walks over all extents of images with 4 MiB of L2 tables, which the cache holds; the bytes are
/// those of the tables, eight for each cluster.
fn map(c: &mut Criterion) {
    const CLUSTERS: usize = 512 << 10;
    const TABLES: usize = CLUSTERS * 8 / CLUSTER;
    let mut group = c.benchmark_group("map");
    for (name, layout, extents) in [
        ("scattered", Layout::Scattered, CLUSTERS),
        ("contiguous", Layout::Contiguous, TABLES),
        ("holes", Layout::Holes, TABLES),
    ] {
        let disk = open(Map::new(CLUSTERS, layout));
        let walk = || disk.extents(0..disk.size()).filter(|extent| extent.is_ok()).count();
        assert_eq!(walk(), extents);
        let (elements, bytes) = (extents as u64, CLUSTERS as u64 * 8);
        group.throughput(Throughput::ElementsAndBytes { elements, bytes });
        group.bench_function(name, |b| b.iter(walk));
    }
    group.finish();
}

/// Looks up pages of tables: those that are held and those that must be read.
fn paging(c: &mut Criterion) {
    const PAGE: u64 = 64 << 10;
    const TABLE: u64 = 32 << 20;
    let storage = Arc::new(MemoryStorage::new(vec![1; TABLE as usize]));
    let cache = TableCache::new(storage, 8 << 20);
    let look = |pages: u64| {
        for page in 0..pages {
            let page = cache.page("the table", 0, TABLE, page * PAGE + 8).unwrap();
            assert_eq!(black_box(page).bytes.len() as u64, PAGE);
        }
    };
    let mut group = c.benchmark_group("table pages");
    for (name, pages) in [("held", 32), ("read", TABLE / PAGE)] {
        group.throughput(Throughput::ElementsAndBytes { elements: pages, bytes: pages * PAGE });
        group.bench_function(name, |b| b.iter(|| look(pages)));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = support::criterion();
    targets = codecs, zeros, map, paging
}
criterion_main!(benches);
