//! Opening, describing, mapping and reading whatever bytes there are.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use diskimage::checksum::Algorithm;
use diskimage::storage::MemoryStorage;
use diskimage::target::Capabilities;
use diskimage::{
    Chain, Checksum, Compare, Convert, Format, Limits, OpenOptions, Result, Storage, Target,
    VirtualDisk, VirtualDiskExt,
};

use crate::check_error;
use crate::input::Input;

/// Disks larger than this are not read as a whole.
const LARGEST_CONTENT: u64 = 10 << 20;
/// Disks larger than this are read at some places only, and have the cheapest checksum only.
const SMALL: u64 = 256 << 10;
/// The numbers of threads that must not make a difference.
const THREADS: [usize; 2] = [1, 4];

/// Takes `input` for an image of this format: opens and describes it, reads it in several ways that
/// must agree, converts it, computes checksums, and compares it with itself.
pub fn body(format: Format, input: &Input) {
    open_and_describe(format, input);
    match open(format, input) {
        Ok(disk) => {
            read(&disk);
            contents(&disk);
        }
        Err(error) => check_error(&error),
    }
}

/// An error or an image, and no control characters in what is said of it.
fn open_and_describe(format: Format, input: &Input) {
    let options = OpenOptions::new().format(format);
    match options.open_image_storage(input.storage(), Path::new("fuzz")) {
        Err(error) => check_error(&error),
        Ok(image) => match image.layer().describe() {
            Err(error) => check_error(&error),
            Ok(description) => {
                for finding in description.findings {
                    assert!(!finding.message.contains(char::is_control), "{finding:?}");
                }
                for reference in image.layer().references() {
                    assert!(!reference.names.is_empty());
                }
            }
        },
    }
}

/// Reads a disk in several ways, which must agree: its extents, in one piece, and in odd pieces.
pub fn read(disk: &Chain) {
    let size = disk.size();
    for start in [0, size / 2, size.saturating_sub(SMALL)] {
        let end = start.saturating_add(SMALL).min(size);
        check_range(disk, start, end);
    }
}

/// Converts a disk, computes its checksums, and compares it, by several numbers of threads: all
/// agree with one another and with the disk as it is read; or all are errors.
pub fn contents(disk: &Chain) {
    if disk.size() > LARGEST_CONTENT {
        return;
    }
    let mut bytes = vec![0; disk.size() as usize];
    let read = disk.read_exact_at(&mut bytes, 0);
    let threads = THREADS.into_iter().flat_map(NonZeroUsize::new);
    let mut salvaged = None;
    for threads in threads.clone() {
        let (converted, target) = convert(disk, &Convert::new().threads(threads));
        match (&read, converted) {
            (Ok(()), converted) => {
                converted.expect("what reads can be converted");
                assert!(*target == bytes, "converted by {threads} it is another disk");
            }
            (Err(_), Err(error)) => check_error(&error),
            (Err(error), Ok(_)) => panic!("converted what cannot be read: {error:?}"),
        }
        if read.is_err() {
            let (report, target) = convert(disk, &Convert::new().threads(threads).salvage(true));
            let report = report.expect("what is damaged can be salvaged");
            assert!(!report.lost.is_empty(), "nothing was lost, but it cannot be read");
            for lost in &report.lost {
                let range = lost.start as usize..lost.end as usize;
                assert!(target[range].iter().all(|&b| b == 0), "{lost:?} is lost, and not zeros");
            }
            let new = (report.lost, target);
            let old = salvaged.get_or_insert_with(|| new.clone());
            assert!(*old == new, "threads make a difference to what is lost: {:?}", old.0);
        }
    }
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes));
    let raw = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("raw"));
    let raw = raw.expect("a raw disk is always one");
    let is_small = disk.size() <= SMALL;
    let algorithms: &[_] = if is_small { Algorithm::ALL } else { &[Algorithm::Crc32] };
    let sums = |disk: &Chain, threads| {
        let job = algorithms.iter().fold(Checksum::new(), |job, &a| job.algorithm(a));
        job.threads(threads).run(disk)
    };
    let flat = sums(&raw, NonZeroUsize::MIN).expect("memory can be read");
    for threads in threads {
        let compare = Compare::new().threads(threads);
        let itself = compare.first(disk, disk);
        match (&read, sums(disk, threads)) {
            (Ok(()), got) => {
                assert_eq!(got.expect("what reads has checksums"), flat, "by {threads}");
                assert_eq!(itself.expect("what reads can be compared"), None);
                assert_eq!(compare.first(&raw, disk).expect("here too"), None);
                if is_small {
                    let ranges = compare.all(disk, &raw, |range| panic!("{range:?} differs"));
                    assert_eq!(ranges.expect("and here"), 0);
                }
            }
            (Err(_), Err(error)) => {
                check_error(&error);
                check_error(&itself.expect_err("what cannot be read is not the same").error);
            }
            (Err(error), Ok(_)) => panic!("a checksum of what cannot be read: {error:?}"),
        }
    }
}

fn open(format: Format, input: &Input) -> Result<Chain> {
    let mut limits = Limits::default();
    limits.table_cache = 1 << 20;
    let options = OpenOptions::new().format(format).limits(limits);
    options.open_storage(input.storage(), Path::new("fuzz"))
}

/// Converts into memory.
fn convert(disk: &Chain, job: &Convert) -> (Result<diskimage::convert::Report>, Vec<u8>) {
    let target = Memory(Mutex::new(vec![0; disk.size() as usize]));
    let report = job.run(disk, &target);
    (report, target.0.into_inner().unwrap_or_else(PoisonError::into_inner))
}

#[derive(Debug)]
struct Memory(Mutex<Vec<u8>>);

impl Target for Memory {
    fn capabilities(&self) -> Capabilities {
        Capabilities { ascending: false, fresh_zeros: true }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bytes[offset as usize..][..buf.len()].copy_from_slice(buf);
        Ok(())
    }

    fn write_zeros(&self, offset: u64, length: u64) -> Result<()> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bytes[offset as usize..][..length as usize].fill(0);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

fn check_range(disk: &Chain, start: u64, end: u64) {
    let mut at = start;
    let mut bytes = Vec::new();
    let mut steps = 0;
    while at < end && steps < 4096 {
        steps += 1;
        let extent = match disk.extent_at(at, end - at) {
            Ok(extent) => extent,
            Err(error) => {
                check_error(&error);
                if let Some(guest) = error.guest_range() {
                    assert!(guest.contains(&at), "{error:?} is not about {at}");
                }
                return;
            }
        };
        assert!(extent.start == at && extent.length > 0 && extent.end() <= end, "{extent:?}");
        assert_eq!(disk.extent_at(at, end - at).ok(), Some(extent), "another answer");
        let middle = at + extent.length / 2;
        let inner = disk.extent_at(middle, 1).expect("an extent is readable all over");
        assert_eq!(inner.kind, extent.kind.advanced(middle - at), "{extent:?}");
        let mut piece = vec![0xa5; extent.length as usize];
        match disk.read_exact_at(&mut piece, at) {
            Ok(()) => {
                assert!(!extent.kind.is_zero() || piece.iter().all(|&b| b == 0));
                // an odd piece of it reads the same
                let (from, to) = (piece.len() / 3, piece.len() - piece.len() / 5);
                let mut odd = vec![0x5a; to - from];
                disk.read_exact_at(&mut odd, at + from as u64).expect("a part of it reads too");
                assert!(odd == piece[from..to], "a part of {extent:?} reads other bytes");
            }
            Err(error) => {
                check_error(&error);
                return;
            }
        }
        bytes.extend_from_slice(&piece);
        at = extent.end();
    }
    let mut whole = vec![0; bytes.len()];
    disk.read_exact_at(&mut whole, start).expect("all of its pieces read");
    assert!(whole == bytes, "the whole differs from its pieces");
    let tiled: u64 = disk.extents(start..at).flatten().map(|extent| extent.length).sum();
    assert_eq!(tiled, at - start);
}
