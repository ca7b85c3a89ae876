//! The bodies of the fuzz targets: ordinary functions that panic where a promise is broken.

use std::path::Path;
use std::sync::Arc;

use diskimage::check::{CheckReport, Checking, MemoryPatch, RepairScope, Repaired};
use diskimage::format::probe::{HEAD, TAIL, probe, probe_bytes};
use diskimage::storage::MemoryStorage;
use diskimage::{
    Chain, Error, ErrorKind, Format, Limits, OpenOptions, Result, Storage, VirtualDisk,
    VirtualDiskExt,
};

pub mod mutate;

/// A body, and the name of its target.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("probe", probe_any),
    ("qcow2_open", qcow2_open),
    ("qcow2_read", qcow2_read),
    ("qcow2_check", qcow2_check),
    ("qcow2_repair", qcow2_repair),
    ("vmdk_open", vmdk_open),
    ("vmdk_read", vmdk_read),
    ("vhd_open", vhd_open),
    ("vhd_read", vhd_read),
    ("vhdx_open", vhdx_open),
    ("vhdx_read", vhdx_read),
    ("vdi_open", vdi_open),
    ("vdi_read", vdi_read),
];

/// Disks larger than this are read at some places only.
const SMALL: u64 = 256 << 10;

/// Whatever the bytes are: the answer is the same each time, and in pieces as in whole.
pub fn probe_any(data: &[u8]) {
    let storage = MemoryStorage::new(data.to_vec());
    let found = probe(&storage).expect("memory can be read");
    let tail = &data[data.len().saturating_sub(TAIL)..];
    let head = &data[..data.len().min(HEAD)];
    assert_eq!(found, probe_bytes(head, Some((tail, data.len() as u64))));
    for m in &found.matches {
        assert!(m.offset < data.len().max(1) as u64, "{m:?} lies outside of the file");
    }
    for finding in found.findings() {
        assert!(!finding.message.contains(char::is_control));
    }
}

macro_rules! bodies {
    ($($format:ident $open:ident $read:ident)+) => {$(
        /// Opening and describing: see [`open_body`].
        pub fn $open(data: &[u8]) {
            open_body(Format::$format, data);
        }

        /// Reading: see [`read_body`].
        pub fn $read(data: &[u8]) {
            read_body(Format::$format, data);
        }
    )+};
}

bodies! {
    Qcow2 qcow2_open qcow2_read
    Vmdk vmdk_open vmdk_read
    Vhd vhd_open vhd_read
    Vhdx vhdx_open vhdx_read
    Vdi vdi_open vdi_read
}

macro_rules! check_bodies {
    ($($format:ident $check:ident $repair:ident)+) => {$(
        /// Checking: see [`check_body`].
        pub fn $check(data: &[u8]) {
            check_body(Format::$format, data);
        }

        /// Repairing: see [`repair_body`].
        pub fn $repair(data: &[u8]) {
            repair_body(Format::$format, data);
        }
    )+};
}

check_bodies! {
    Qcow2 qcow2_check qcow2_repair
}

fn check(format: Format, data: &[u8], threads: usize) -> Result<CheckReport> {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(data.to_vec()));
    let image = OpenOptions::new().format(format).open_image_storage(storage, Path::new("fuzz"))?;
    image.check(Checking::new().threads(threads))
}

fn repair(format: Format, data: &[u8], patch: &mut MemoryPatch) -> Result<Repaired> {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(data.to_vec()));
    let image = OpenOptions::new().format(format).open_image_storage(storage, Path::new("fuzz"))?;
    image.repair(RepairScope::All, &Checking::new(), patch)
}

/// Checks `data` as an image of this format: a report or an error, the same on any number of
/// threads, the findings in the order of the file and without control characters.
pub fn check_body(format: Format, data: &[u8]) {
    match (check(format, data, 1), check(format, data, 3)) {
        (Ok(one), Ok(three)) => {
            assert_eq!(one, three, "the number of threads makes a difference");
            assert!(one.findings.is_sorted_by_key(|finding| finding.offset));
            for finding in &one.findings {
                assert!(!finding.message.contains(char::is_control), "{finding:?}");
            }
        }
        (Err(one), Err(_)) => check_error(&one),
        (one, three) => panic!("{one:?} on one thread, {three:?} on three"),
    }
}

/// Repairs `data` as an image of this format, whole and stopped half-way: what could be read reads
/// the same, and a second repair finds nothing that it could mend.
pub fn repair_body(format: Format, data: &[u8]) {
    let mut patch = MemoryPatch::new(data.to_vec());
    if let Err(error) = repair(format, data, &mut patch) {
        assert_eq!(patch.writes(), 0, "it failed in the middle: {error:?}");
        return check_error(&error);
    }
    let writes = patch.writes();
    let whole = patch.into_bytes();
    same_content(format, data, &whole);
    let mut again = MemoryPatch::new(whole.clone());
    repair(format, &whole, &mut again).expect("it was repaired before");
    assert_eq!(again.writes(), 0, "a second repair writes again");
    if writes > 1 {
        let mut half = MemoryPatch::new(data.to_vec()).stop_after(writes / 2);
        let stopped = repair(format, data, &mut half).expect_err("it is stopped");
        assert_eq!(stopped.kind(), ErrorKind::Cancelled);
        same_content(format, data, &half.into_bytes());
    }
}

/// What can be read of the disk in `before` reads the same in `after`.
fn same_content(format: Format, before: &[u8], after: &[u8]) {
    let open = |data: &[u8]| {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(data.to_vec()));
        let options = OpenOptions::new().format(format).trust_broken(true);
        options.open_storage(storage, Path::new("fuzz"))
    };
    let Ok(old) = open(before) else { return };
    let new = open(after).expect("it could be opened before");
    assert_eq!(old.size(), new.size());
    let (mut a, mut b) = (vec![0; 4096], vec![0; 4096]);
    for start in [0, old.size() / 2, old.size().saturating_sub(SMALL)] {
        let end = start.saturating_add(SMALL).min(old.size());
        for at in (start..end).step_by(4096) {
            let length = (end - at).min(4096) as usize;
            if old.read_exact_at(&mut a[..length], at).is_ok() {
                new.read_exact_at(&mut b[..length], at).expect("it could be read before");
                assert!(a[..length] == b[..length], "other bytes at {at}");
            }
        }
    }
}

/// Opens and describes `data` as an image of this format: an error or an image, and no name with
/// control characters in messages.
pub fn open_body(format: Format, data: &[u8]) {
    let options = OpenOptions::new().format(format);
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(data.to_vec()));
    match options.open_image_storage(storage, Path::new("fuzz")) {
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

/// Opens `data` as an image of this format and reads the disk in several ways, which must agree:
/// its extents, in one piece, and in odd pieces.
pub fn read_body(format: Format, data: &[u8]) {
    let disk = match open(format, data) {
        Ok(disk) => disk,
        Err(error) => return check_error(&error),
    };
    let size = disk.size();
    for start in [0, size / 2, size.saturating_sub(SMALL)] {
        let end = start.saturating_add(SMALL).min(size);
        check_range(&disk, start, end);
    }
}

fn open(format: Format, data: &[u8]) -> Result<Chain> {
    let mut limits = Limits::default();
    limits.table_cache = 1 << 20;
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(data.to_vec()));
    OpenOptions::new().format(format).limits(limits).open_storage(storage, Path::new("fuzz"))
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

/// An error about bytes in memory blames the file, the format or a limit; never the system.
fn check_error(error: &Error) {
    assert!(
        matches!(
            error.kind(),
            ErrorKind::Corrupt
                | ErrorKind::Unsupported
                | ErrorKind::LimitExceeded
                | ErrorKind::Denied
                | ErrorKind::InvalidInput
        ),
        "{error:?}"
    );
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_holds_on_mutated_seeds() {
        for (name, body) in TARGETS {
            let seeds = mutate::seeds(name);
            assert!(seeds.len() > 5, "{name} has {} seeds", seeds.len());
            let mut mutator = mutate::Mutator::new(1);
            for _ in 0..100 {
                let input = mutator.next(&seeds);
                let result = std::panic::catch_unwind(|| body(&input));
                assert!(result.is_ok(), "{name}: {} bytes", input.len());
            }
        }
    }
}
