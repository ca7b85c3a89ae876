//! A medium that fails: whichever read it is, the result is an error, never a panic, never other
//! bytes; and salvaging keeps an exact list.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::*;
use diskimage::check::DryRun;
use diskimage::layer::Reference;
use diskimage::resolve::{Listed, Resolved};
use diskimage::storage::{Fault, FaultStorage, FileStorage, MemoryStorage};
use diskimage::{
    Chain, Checking, Compare, Convert, ErrorKind, Format, OpenOptions, RepairScope, Resolver,
    Result, Storage, VirtualDisk, VirtualDiskExt,
};

fn open(fixture: &Fixture, bytes: &[u8], fault: Fault) -> Result<(Chain, Arc<dyn Storage>)> {
    let faulty = FaultStorage::new(MemoryStorage::new(bytes.to_vec()), fault);
    let storage: Arc<dyn Storage> = Arc::new(faulty);
    let options = OpenOptions::new().format(fixture.format.parse().unwrap());
    let disk = options.open_storage(Arc::clone(&storage), Path::new("faulty"))?;
    Ok((disk, storage))
}

/// Fixtures that stand alone and are quick to read many times.
fn candidates() -> impl Iterator<Item = &'static Fixture> {
    small_fixtures().filter(|f| f.parents.is_empty() && f.virtual_size <= 4 << 20)
}

/// A file that was opened.
type Opened = (PathBuf, Arc<FaultStorage<Arc<dyn Storage>>>);

/// Opens what an image needs, and lets a read of one of these files fail.
#[derive(Debug, Clone)]
struct Failing {
    inner: Arc<Listed>,
    /// Which file, in the order of opening; the image itself is 0.
    file: usize,
    read: u64,
    opened: Arc<Mutex<Vec<Opened>>>,
}

impl Failing {
    fn new(fixture: &Fixture, file: usize, read: u64) -> Self {
        let inner = Arc::new(resolver_of(fixture));
        Self { inner, file, read, opened: Arc::default() }
    }

    fn wrap(&self, storage: Arc<dyn Storage>, path: &Path) -> Arc<dyn Storage> {
        let mut opened = self.opened.lock().unwrap();
        let read = if opened.len() == self.file { self.read } else { u64::MAX };
        let storage = Arc::new(FaultStorage::new(storage, Fault::NthRead(read)));
        opened.push((path.to_owned(), Arc::clone(&storage)));
        storage
    }

    /// The files that were opened, each with the number of its reads.
    fn reads(&self) -> Vec<(PathBuf, u64)> {
        let opened = self.opened.lock().unwrap();
        opened.iter().map(|(path, storage)| (path.clone(), storage.reads())).collect()
    }
}

impl Resolver for Failing {
    fn resolve(&self, from: &Path, reference: &Reference) -> Result<Resolved> {
        let found = self.inner.resolve(from, reference)?;
        Ok(Resolved { storage: self.wrap(found.storage, &found.path), path: found.path })
    }
}

/// What is done with an image: a name, and the answer in words.
type Job = (&'static str, fn(&OpenOptions, Arc<dyn Storage>, &Path) -> Result<String>);

fn two() -> NonZeroUsize {
    NonZeroUsize::new(2).unwrap()
}

const JOBS: &[Job] = &[
    ("describe", |options, storage, path| {
        let image = options.open_image_storage(storage, path)?;
        let described = image.layer().describe().map_err(|error| error.in_file(path))?;
        Ok(format!("{described:?} {:?}", image.findings()?))
    }),
    ("check", |options, storage, path| {
        // what an ordinary opening refuses is not what this is about
        let image = options.open_image_storage(storage, path)?;
        image.check(Checking::new().threads(two())).map(|report| format!("{report:?}"))
    }),
    ("repair", |options, storage, path| {
        let image = options.open_image_storage(storage, path)?;
        let mut plan = DryRun::new();
        image.repair(RepairScope::All, &Checking::new().threads(two()), &mut plan)?;
        Ok(format!("{:?}", plan.writes))
    }),
    ("map", |options, storage, path| {
        let disk = options.open_storage(storage, path)?;
        let extents: Result<Vec<_>> = disk.extents(0..disk.size()).collect();
        extents.map(|extents| format!("{extents:?}"))
    }),
    ("read", |options, storage, path| {
        content(&options.open_storage(storage, path)?).map(|bytes| sha256(&bytes))
    }),
    ("convert", |options, storage, path| {
        let disk = options.open_storage(storage, path)?;
        let target = Memory::new(disk.size());
        Convert::new().threads(two()).run(&disk, &target)?;
        Ok(sha256(&target.0.into_inner().unwrap()))
    }),
    #[cfg(feature = "checksum")]
    ("checksum", |options, storage, path| {
        let job = diskimage::Checksum::new().algorithm(diskimage::checksum::Algorithm::Crc32);
        let sums = job.threads(two()).run(&options.open_storage(storage, path)?)?;
        Ok(format!("{sums:?}"))
    }),
    ("compare", |options, storage, path| {
        let disk = options.open_storage(storage, path)?;
        // against nothing at all, so that all of it is looked at
        let empty: Arc<dyn Storage> = Arc::new(MemoryStorage::new(Vec::new()));
        let raw = OpenOptions::new().format(Format::Raw).open_storage(empty, path)?;
        let mut ranges = Vec::new();
        let compared = Compare::new().threads(two()).all(&disk, &raw, |range| ranges.push(range));
        compared.map_err(|failure| failure.error)?;
        Ok(format!("{ranges:?}"))
    }),
];

/// The quickest fixture of each class: what differs from others in format or features.
fn classes() -> Vec<&'static Fixture> {
    let mut classes: BTreeMap<(&str, &[String]), &Fixture> = BTreeMap::new();
    for fixture in small_fixtures().filter(|f| f.virtual_size <= 8 << 20) {
        let class = classes.entry((&fixture.format, &fixture.features)).or_insert(fixture);
        if fixture.virtual_size < class.virtual_size {
            *class = fixture;
        }
    }
    classes.into_values().collect()
}

/// Which of so many reads fail in turn: all of a few; of many the first, the last and some between,
/// since what happens in the middle is always the same.
fn chosen(reads: u64) -> impl Iterator<Item = u64> {
    let step = reads.div_ceil(8).max(1);
    (0..reads).filter(move |n| *n < 12 || n % step == 0 || reads - n <= 3)
}

#[test]
fn whichever_read_of_whichever_file_fails_every_job_says_so() {
    let (mut failures, mut formats) = (0, BTreeSet::new());
    for fixture in classes() {
        let run = |job: &Job, failing: &Failing| {
            let file: Arc<dyn Storage> = Arc::new(FileStorage::open(&fixture.path).unwrap());
            let options = OpenOptions::new().format(fixture.format.parse().unwrap());
            let options = options.assume_raw(true).resolver(failing.clone());
            job.1(&options, failing.wrap(file, &fixture.path), &fixture.path)
        };
        for job in JOBS {
            let whole = Failing::new(fixture, usize::MAX, 0);
            let wanted = match run(job, &whole) {
                Ok(wanted) => wanted,
                // a raw disk without a partition table has nothing to check
                Err(error) if error.kind() == ErrorKind::Unsupported => continue,
                Err(error) => panic!("{} {}: {error}", job.0, fixture.file),
            };
            for (file, (path, reads)) in whole.reads().into_iter().enumerate() {
                for n in chosen(reads) {
                    let what = || format!("{} {}, {path:?} read {n}", job.0, fixture.file);
                    match run(job, &Failing::new(fixture, file, n)) {
                        Err(error) => {
                            let told = format!("{}: {error}", what());
                            assert_eq!(error.kind(), ErrorKind::Io, "{told}");
                            assert_eq!(error.file(), Some(&*path), "{told}");
                            assert!(error.offset().is_some(), "{told}");
                            failures += 1;
                        }
                        // another copy does as well, and it is told why it was needed
                        Ok(got) if got.contains("injected fault (at offset 0x") => {
                            assert!(got.contains("RedundantCopyDamaged"), "{}: {got}", what());
                        }
                        Ok(got) => assert_eq!(got, wanted, "{}", what()),
                    }
                }
            }
            formats.insert(&fixture.format);
        }
    }
    assert!(formats.len() >= 6, "{formats:?}");
    assert!(failures > 1000, "only {failures} failures");
}

#[test]
fn whichever_read_fails_the_result_is_an_error() {
    for fixture in candidates() {
        let bytes = std::fs::read(&fixture.path).unwrap();
        let mut failures = 0;
        for n in 0.. {
            let read =
                open(fixture, &bytes, Fault::NthRead(n)).and_then(|(disk, _)| content(&disk));
            match read {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Io, "{} read {n}: {error}", fixture.file);
                    assert_eq!(error.file(), Some(Path::new("faulty")));
                    failures += 1;
                }
                // there is no n-th read
                Ok(content) => {
                    assert_eq!(Some(sha256(&content)), fixture.guest_sha256, "{}", fixture.file);
                    break;
                }
            }
            // images of many tiny clusters are sampled: their reads are all of one kind
            if n > 300 {
                break;
            }
        }
        assert!(failures > 0 || fixture.virtual_size == 0, "{}", fixture.file);
    }
}

#[test]
fn a_conversion_stops_all_threads_at_the_first_failure() {
    for fixture in candidates().filter(|f| f.virtual_size >= 1 << 20) {
        let bytes = std::fs::read(&fixture.path).unwrap();
        // the last quarter of the file is unreadable
        let fault = Fault::Bytes { start: bytes.len() as u64 * 3 / 4, end: bytes.len() as u64 };
        for threads in [1, 2, 3, 16] {
            let Ok((disk, _)) = open(fixture, &bytes, fault) else { continue };
            let target = Memory::new(disk.size());
            let job = Convert::new().threads(NonZeroUsize::new(threads).unwrap());
            match job.run(&disk, &target) {
                Err(error) => assert_eq!(error.kind(), ErrorKind::Io, "{}", fixture.file),
                // nothing that the guest sees lies there
                Ok(_) => assert_eq!(
                    Some(sha256(&target.0.lock().unwrap())),
                    fixture.guest_sha256,
                    "{}",
                    fixture.file
                ),
            }
        }
    }
}

#[test]
fn salvaging_loses_what_it_lists_and_nothing_else() {
    let mut lossy = 0;
    for fixture in candidates() {
        let bytes = std::fs::read(&fixture.path).unwrap();
        let whole = {
            let disk = open_fixture(fixture).unwrap();
            content(&disk).unwrap()
        };
        // a bad sector somewhere in every sixteenth of the file
        for part in 1..16u64 {
            let start = (bytes.len() as u64 * part / 16) & !511;
            let fault = Fault::Bytes { start, end: start + 512 };
            let Ok((disk, _)) = open(fixture, &bytes, fault) else { continue };
            let mut reports = Vec::new();
            for threads in [1, 3] {
                let target = Memory::new(disk.size());
                let threads = NonZeroUsize::new(threads).unwrap();
                let job = Convert::new().threads(threads).salvage(true);
                let report = job.run(&disk, &target).unwrap();
                let got = target.0.lock().unwrap();
                let mut wanted = whole.clone();
                for lost in &report.lost {
                    wanted[lost.start as usize..lost.end as usize].fill(0);
                }
                assert!(*got == wanted, "{} with {start:#x} bad", fixture.file);
                lossy += usize::from(!report.lost.is_empty());
                reports.push(report.lost);
            }
            assert_eq!(reports[0], reports[1], "the list depends on the threads");
        }
    }
    assert!(lossy > 50, "only {lossy} conversions lost something");
}
