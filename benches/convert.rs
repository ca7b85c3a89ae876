//! Whole conversions, from a QCOW2 image in memory to a target that only counts: everything that
//! the library does, without the system's part.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use diskimage::target::Capabilities;
use diskimage::{Convert, Result, Target, VirtualDisk};

mod support;
use support::{INFLATER, Packing, content, image_of, open};

/// The disk: 32 MiB, of which three quarters are stored.
const CLUSTERS: usize = 512;

/// A new file that takes no time.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Target for Counter {
    fn capabilities(&self) -> Capabilities {
        Capabilities { ascending: false, fresh_zeros: true }
    }

    fn write_at(&self, buf: &[u8], _offset: u64) -> Result<()> {
        self.0.fetch_add(black_box(buf).len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn write_zeros(&self, _offset: u64, _length: u64) -> Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

fn convert(c: &mut Criterion) {
    let content = content(CLUSTERS);
    let data: u64 =
        content.chunks(4096).filter(|b| b.iter().any(|&b| b != 0)).count() as u64 * 4096;
    let zlib = format!("zlib, {INFLATER}");
    let mut packings = vec![("plain", Packing::Plain), (&*zlib, Packing::Zlib)];
    if cfg!(feature = "zstd") {
        packings.push(("zstd", Packing::Zstd));
    }
    let mut group = c.benchmark_group("convert");
    // guest bytes that are written: holes would flatter
    group.throughput(Throughput::Bytes(data));
    for (name, packing) in packings {
        let disk = open(image_of(&content, packing));
        let mut read = vec![0; content.len()];
        disk.read_exact_at(&mut read, 0).unwrap();
        assert!(read == content, "{name}: the disk is not what went into the image");
        let one = Convert::new().threads(NonZeroUsize::MIN);
        for (threads, job) in [("one thread", one), ("all threads", Convert::new())] {
            let run = || {
                let target = Counter::default();
                let report = job.run(&disk, &target).unwrap();
                assert_eq!((report.written, target.0.into_inner()), (data, data));
            };
            group.bench_function(BenchmarkId::new(name, threads), |b| b.iter(run));
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = support::criterion();
    targets = convert
}
criterion_main!(benches);
