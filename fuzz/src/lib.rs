//! The bodies of the fuzz targets: ordinary functions that panic where a promise is broken.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use diskimage::checksum::Algorithm;
use diskimage::format::probe::{HEAD, TAIL, probe, probe_bytes};
use diskimage::storage::MemoryStorage;
use diskimage::{
    Chain, Checksum, Compare, Error, ErrorKind, Format, Limits, OpenOptions, Result, Storage,
    VirtualDisk, VirtualDiskExt,
};

pub mod check;
pub mod mutate;

/// A body, and the name of its target.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("probe", probe_any),
    ("qcow2_open", qcow2_open),
    ("qcow2_read", qcow2_read),
    ("qcow2_content", qcow2_content),
    ("qcow2_check", qcow2_check),
    ("qcow2_repair", qcow2_repair),
    ("vmdk_open", vmdk_open),
    ("vmdk_read", vmdk_read),
    ("vmdk_content", vmdk_content),
    ("vhd_open", vhd_open),
    ("vhd_read", vhd_read),
    ("vhd_content", vhd_content),
    ("vhdx_open", vhdx_open),
    ("vhdx_read", vhdx_read),
    ("vhdx_content", vhdx_content),
    ("vdi_open", vdi_open),
    ("vdi_read", vdi_read),
    ("vdi_content", vdi_content),
    ("vmdk_check", vmdk_check),
    ("vmdk_repair", vmdk_repair),
    ("vhd_check", vhd_check),
    ("vhd_repair", vhd_repair),
    ("vhdx_check", vhdx_check),
    ("vhdx_repair", vhdx_repair),
    ("vdi_check", vdi_check),
    ("vdi_repair", vdi_repair),
    ("raw_check", raw_check),
    ("raw_repair", raw_repair),
    ("qcow_read", qcow_read),
    ("qed_read", qed_read),
    ("parallels_read", parallels_read),
    ("bochs_read", bochs_read),
    ("cloop_read", cloop_read),
    ("qed_check", qed_check),
    ("parallels_check", parallels_check),
    ("parallels_bundle", parallels_bundle),
];

/// Disks larger than this are not read as a whole.
const LARGEST_CONTENT: u64 = 4 << 20;
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
    ($($format:ident $open:ident $read:ident $content:ident)+) => {$(
        /// Opening and describing: see [`open_body`].
        pub fn $open(data: &[u8]) {
            open_body(Format::$format, data);
        }

        /// Reading: see [`read_body`].
        pub fn $read(data: &[u8]) {
            read_body(Format::$format, data);
        }

        /// Checksums and comparing: see [`content_body`].
        pub fn $content(data: &[u8]) {
            content_body(Format::$format, data);
        }
    )+};
}

bodies! {
    Qcow2 qcow2_open qcow2_read qcow2_content
    Vmdk vmdk_open vmdk_read vmdk_content
    Vhd vhd_open vhd_read vhd_content
    Vhdx vhdx_open vhdx_read vhdx_content
    Vdi vdi_open vdi_read vdi_content
}

macro_rules! check_bodies {
    ($($format:ident $check:ident $repair:ident)+) => {$(
        /// Checking: see [`check_body`](check::check_body).
        pub fn $check(data: &[u8]) {
            check::check_body(Format::$format, data);
        }

        /// Repairing: see [`repair_body`](check::repair_body).
        pub fn $repair(data: &[u8]) {
            check::repair_body(Format::$format, data);
        }
    )+};
}

check_bodies! {
    Qcow2 qcow2_check qcow2_repair
    Vmdk vmdk_check vmdk_repair
    Vhd vhd_check vhd_repair
    Vhdx vhdx_check vhdx_repair
    Vdi vdi_check vdi_repair
    Raw raw_check raw_repair
}

macro_rules! small_bodies {
    ($($format:ident $read:ident)+) => {$(
        /// All of [`open_body`], [`read_body`] and [`content_body`].
        pub fn $read(data: &[u8]) {
            open_body(Format::$format, data);
            read_body(Format::$format, data);
            content_body(Format::$format, data);
        }
    )+};
}

small_bodies! {
    Qcow qcow_read
    Qed qed_read
    Parallels parallels_read
    Bochs bochs_read
    Cloop cloop_read
}

/// Checking: see [`check_body`](check::check_body).
pub fn qed_check(data: &[u8]) {
    check::check_body(Format::Qed, data);
}

/// Checking: see [`check_body`](check::check_body).
pub fn parallels_check(data: &[u8]) {
    check::check_body(Format::Parallels, data);
}

/// The descriptor of a bundle: see [`open_body`].
pub fn parallels_bundle(data: &[u8]) {
    open_body(Format::Parallels, data);
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

/// Computes checksums of `data` as an image of this format, and compares it, by several numbers of
/// threads: all agree with one another and with the disk as it is read; or all are errors.
pub fn content_body(format: Format, data: &[u8]) {
    let disk = match open(format, data) {
        Ok(disk) if disk.size() <= LARGEST_CONTENT => disk,
        Ok(_) => return,
        Err(error) => return check_error(&error),
    };
    let mut bytes = vec![0; disk.size() as usize];
    let read = disk.read_exact_at(&mut bytes, 0);
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes));
    let raw = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("raw"));
    let raw = raw.expect("a raw disk is always one");
    let sums = |disk: &Chain, threads| {
        let job = Algorithm::ALL.iter().fold(Checksum::new(), |job, &a| job.algorithm(a));
        job.threads(threads).run(disk)
    };
    let flat = sums(&raw, NonZeroUsize::MIN).expect("memory can be read");
    for threads in [1, 3].into_iter().flat_map(NonZeroUsize::new) {
        let compare = Compare::new().threads(threads);
        let itself = compare.first(&disk, &disk);
        match (&read, sums(&disk, threads)) {
            (Ok(()), got) => {
                assert_eq!(got.expect("what reads has checksums"), flat, "by {threads}");
                assert_eq!(itself.expect("what reads can be compared"), None);
                assert_eq!(compare.first(&raw, &disk).expect("here too"), None);
                let ranges = compare.all(&disk, &raw, |range| panic!("{range:?} differs"));
                assert_eq!(ranges.expect("and here"), 0);
            }
            (Err(_), Err(error)) => {
                check_error(&error);
                check_error(&itself.expect_err("what cannot be read is not the same").error);
            }
            (Err(error), Ok(_)) => panic!("a checksum of what cannot be read: {error:?}"),
        }
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
