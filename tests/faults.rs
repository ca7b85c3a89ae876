//! A medium that fails: whichever read it is, the result is an error, never a panic, never other
//! bytes; and salvaging keeps an exact list.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use common::*;
use diskimage::storage::{Fault, FaultStorage, MemoryStorage};
use diskimage::{Chain, Convert, ErrorKind, OpenOptions, Result, Storage, VirtualDisk};

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
