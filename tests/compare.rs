//! Comparing disks: the smallest difference whatever the threads, every range where all are wanted,
//! nothing read that need not be, and damage never taken for sameness.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::sweep::Random;
use common::*;
use diskimage::compare::{Compare, Difference, Failure, Side, Stage};
use diskimage::storage::{Fault, FaultStorage, MemoryStorage};
use diskimage::{Chain, ErrorKind, Format, OpenOptions, Progress, Storage, VirtualDisk};

fn threads(count: usize) -> Compare {
    Compare::new().threads(NonZeroUsize::new(count).unwrap())
}

fn raw(bytes: Vec<u8>) -> Chain {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes));
    OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("raw")).unwrap()
}

/// What differs by definition: sectors, the shorter one goes on with zeros.
fn differing(a: &[u8], b: &[u8]) -> Vec<Range<u64>> {
    let size = a.len().max(b.len());
    let mut padded = [a.to_vec(), b.to_vec()];
    padded.iter_mut().for_each(|bytes| bytes.resize(size.next_multiple_of(512), 0));
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (index, (a, b)) in padded[0].chunks(512).zip(padded[1].chunks(512)).enumerate() {
        let (start, end) = (index as u64 * 512, (index as u64 * 512 + 512).min(size as u64));
        match ranges.last_mut() {
            _ if a == b => {}
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    ranges
}

fn all(job: &Compare, a: &dyn VirtualDisk, b: &dyn VirtualDisk) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let bytes = job.all(a, b, |range| ranges.push(range)).unwrap();
    assert_eq!(bytes, ranges.iter().map(|range| range.end - range.start).sum::<u64>());
    ranges
}

#[test]
fn every_fixture_is_the_same_as_its_raw_disk_and_differs_where_that_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let mut random = Random(7);
    for fixture in small_fixtures().filter(|f| f.virtual_size <= 8 << 20) {
        let disk = open_fixture(fixture).unwrap();
        let bytes = content(&disk).unwrap();
        let flat = raw(bytes.clone());
        write_sparse(&path, &bytes);
        let sparse = OpenOptions::new().format(Format::Raw).open(&path).unwrap();
        let mut changed = bytes.clone();
        for _ in 0..random.below(6) {
            if !changed.is_empty() {
                let at = random.below(changed.len() as u64) as usize;
                changed[at] ^= 1 + random.below(255) as u8;
            }
        }
        if random.below(3) == 0 {
            changed.resize(random.below(bytes.len() as u64 + 9000) as usize, 0);
        }
        let wanted = differing(&bytes, &changed);
        let changed = raw(changed);
        let first = wanted.first().map(|range| Difference::Content(range.start));
        for count in [1, 2, 3, 16] {
            let job = threads(count);
            for same in [&flat, &sparse, &disk] {
                assert_eq!(job.first(&disk, same).unwrap(), None, "{}", fixture.file);
                assert_eq!(all(&job, same, &disk), [], "{}", fixture.file);
            }
            assert_eq!(job.first(&disk, &changed).unwrap(), first, "{} by {count}", fixture.file);
            assert_eq!(job.first(&changed, &sparse).unwrap(), first, "{} by {count}", fixture.file);
            assert_eq!(all(&job, &disk, &changed), wanted, "{} by {count}", fixture.file);
        }
    }
}

#[test]
fn third_party_images_are_the_same_as_their_conversions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let readable = |format: &str, verdict: &str| {
        format.parse().is_ok_and(Format::is_read)
            && (verdict.starts_with("ok") || verdict.starts_with("needs-log-replay"))
    };
    for image in corpus_images(readable) {
        let disk = OpenOptions::new()
            .format(image.format.parse().unwrap())
            .resolver(diskimage::Beneath::new(image.path.parent().unwrap()).unwrap())
            .trust_broken(image.comment.contains("checksum wrong"))
            .open(&image.path)
            .unwrap_or_else(|e| panic!("{}: {e}", image.name));
        let target = diskimage::target::FileTarget::create(&path, disk.size()).unwrap();
        diskimage::Convert::new().run(&disk, &target).unwrap();
        diskimage::Target::finish(Box::new(target)).unwrap();
        let converted = OpenOptions::new().format(Format::Raw).open(&path).unwrap();
        assert_eq!(Compare::new().first(&disk, &converted).unwrap(), None, "{}", image.name);
    }
}

#[test]
fn many_differences_are_told_in_order_whatever_the_threads() {
    let size = (21 << 20) + 100;
    let a: Vec<u8> = (0..size).map(|i| (i / 700 % 250) as u8).collect();
    let mut b = a.clone();
    let mut random = Random(3);
    for _ in 0..5000 {
        let at = random.below(size as u64) as usize;
        b[at] = b[at].wrapping_add(1);
    }
    b[4 << 20..9 << 20].fill(0);
    let wanted = differing(&a, &b);
    assert!(wanted.len() > 1000);
    let (a, b) = (raw(a), raw(b));
    for count in [1, 2, 3, 16] {
        assert_eq!(all(&threads(count), &a, &b), wanted);
        let first = threads(count).first(&a, &b).unwrap();
        assert_eq!(first, Some(Difference::Content(wanted[0].start)));
    }
}

#[test]
fn sizes_and_maps_count_only_if_strict() {
    let a = raw(vec![0; 10_000]);
    let b = raw(vec![0; 10_001]);
    assert_eq!(Compare::new().first(&a, &b).unwrap(), None);
    let strict = Compare::new().strict(true);
    assert_eq!(strict.first(&a, &b).unwrap(), Some(Difference::Size));
    assert_eq!(strict.first(&a, &a).unwrap(), None);
    // the same zeros, once stored and once not
    let stored = open_fixture(fixture("qcow2/v3-plain-64k.qcow2")).unwrap();
    let bytes = content(&stored).unwrap();
    let found = strict.first(&stored, &raw(bytes)).unwrap();
    assert!(matches!(found, Some(Difference::Status(_))), "{found:?}");
}

#[test]
fn huge_empty_disks_take_no_time() {
    let huge = open_fixture(fixture("qcow2/v3-sparse-64T.qcow2")).unwrap();
    let other = open_fixture(fixture("qcow2/v3-sparse-1T.qcow2")).unwrap();
    let start = Instant::now();
    for count in [1, 2, 16] {
        let progress = Arc::new(Progress::new());
        let job = threads(count).progress(Arc::clone(&progress));
        assert_eq!(job.first(&huge, &huge).unwrap(), None);
        assert_eq!((progress.done(), progress.total()), (64 << 40, 64 << 40));
        job.first(&huge, &other).unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// Writes bytes over those at `offset` of a file.
fn damage(path: &Path, offset: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[0xff; 64], offset).unwrap();
}

#[test]
fn what_lies_at_the_same_place_is_not_read() {
    // two overlays over one compressed image, of which a cluster is damaged: where neither has data
    // of its own they are the same, whatever that is
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let run = |args: &[&str]| {
        let args: Vec<_> = args.iter().map(std::ffi::OsStr::new).collect();
        tool_output("qemu-img", &args)
    };
    let disk: Vec<u8> = (0..1_u32 << 20).map(|i| (i / 256) as u8 ^ (i * 7) as u8).collect();
    std::fs::write(path("disk"), &disk).unwrap();
    for options in [&["-c"][..], &[]] {
        let [raw, base] = [text("disk"), text("base.qcow2")];
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
        args.extend(options);
        args.extend([&*raw, &base]);
        if run(&args).is_none() {
            return;
        }
        for name in ["a.qcow2", "b.qcow2"] {
            let create = ["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2"];
            run(&[&create[..], &[&text(name)]].concat()).unwrap();
        }
        let open = |name: &str| {
            let options = OpenOptions::new().resolver(diskimage::Beneath::new(dir.path()).unwrap());
            options.open(path(name)).unwrap()
        };
        // the first data cluster lies behind header, tables and refcounts
        damage(&path("base.qcow2"), 5 * 65_536 + 64);
        let (a, b, base) = (open("a.qcow2"), open("b.qcow2"), open("base.qcow2"));
        assert_eq!(Compare::new().first(&a, &b).unwrap(), None);
        let whole = OpenOptions::new().format(Format::Raw).open(path("disk")).unwrap();
        if options.is_empty() {
            let found = Compare::new().first(&a, &whole).unwrap();
            assert_eq!(found, Some(Difference::Content(0)));
            assert_eq!(Compare::new().first(&a, &base).unwrap(), None);
        } else {
            let failure = Compare::new().first(&whole, &a).unwrap_err();
            assert_eq!(failure.stage, Stage::Read(Side::Second));
            assert_eq!(failure.error.kind(), ErrorKind::Corrupt);
            // the opened image may show a snapshot, so that its clusters are read
            assert!(Compare::new().first(&base, &base).is_err());
        }
    }
}

fn faulty(fixture: &Fixture, bytes: &[u8], fault: Fault) -> diskimage::Result<Chain> {
    let storage: Arc<dyn Storage> =
        Arc::new(FaultStorage::new(MemoryStorage::new(bytes.to_vec()), fault));
    let options = OpenOptions::new().format(fixture.format.parse().unwrap());
    options.open_storage(storage, Path::new("faulty"))
}

#[test]
fn whichever_read_fails_the_disks_are_not_called_the_same() {
    let wanted = |f: &&Fixture| f.parents.is_empty() && f.virtual_size <= 4 << 20;
    let mut failures = 0;
    for fixture in small_fixtures().filter(wanted) {
        let bytes = std::fs::read(&fixture.path).unwrap();
        let whole = open_fixture(fixture).unwrap();
        let flat = raw(content(&whole).unwrap());
        for n in 0..60 {
            let Ok(disk) = faulty(fixture, &bytes, Fault::NthRead(n)) else { continue };
            let job = threads(1 + n as usize % 3);
            match job.first(&disk, &flat) {
                Err(Failure { stage, error, .. }) => {
                    assert!(matches!(stage, Stage::Map(Side::First) | Stage::Read(Side::First)));
                    assert_eq!(error.kind(), ErrorKind::Io, "{} read {n}: {error}", fixture.file);
                    assert!(error.offset().is_some(), "{} read {n}: {error}", fixture.file);
                    failures += 1;
                }
                // there is no n-th read
                Ok(found) => {
                    assert_eq!(found, None, "{}", fixture.file);
                    break;
                }
            }
        }
    }
    assert!(failures > 200, "only {failures} failures");
}

#[test]
fn the_first_event_counts_be_it_a_difference_or_damage() {
    // a difference in every MiB, and from the middle on nothing can be read
    let size = 64_u64 << 20;
    let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
    let mut other = bytes.clone();
    let fault = Fault::Bytes { start: size / 2 + 5, end: size };
    let storage: Arc<dyn Storage> =
        Arc::new(FaultStorage::new(MemoryStorage::new(bytes.clone()), fault));
    let broken = OpenOptions::new().format(Format::Raw);
    let broken = broken.open_storage(storage, Path::new("faulty")).unwrap();
    for (at, damaged) in [(33 << 20, true), (31 << 20, false), (5 << 20, false)] {
        other[at] ^= 1;
        let second = raw(other.clone());
        for count in [1, 2, 3, 16] {
            let found = threads(count).first(&broken, &second);
            if damaged {
                assert_eq!(found.unwrap_err().stage, Stage::Read(Side::First));
            } else {
                assert_eq!(found.unwrap(), Some(Difference::Content(at as u64)));
            }
        }
    }
}

#[test]
fn it_stops_when_asked_to() {
    let (a, b) = (raw(vec![1; 64 << 20]), raw(vec![1; 64 << 20]));
    let progress = Arc::new(Progress::new());
    progress.cancel();
    let failure = Compare::new().progress(progress).first(&a, &b).unwrap_err();
    assert_eq!(failure.error.kind(), ErrorKind::Cancelled);
}
