//! What strangers write: bounds, damage, and what must not be believed.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::chain::Chain;
use crate::error::{Error, ErrorKind};
use crate::extent::{Extent, StorageId};
use crate::open::OpenOptions;
use crate::storage::MemoryStorage;

const SWAP: &[u8] = b"SWAPSPACE2";

fn disk(bytes: Vec<u8>) -> Chain {
    let storage = Arc::new(MemoryStorage::new(bytes));
    OpenOptions::new().format(crate::Format::Raw).open_storage(storage, Path::new("disk")).unwrap()
}

fn look_at(bytes: Vec<u8>) -> Contents {
    look(&disk(bytes), &Bounds::default()).unwrap()
}

fn put(bytes: &mut [u8], at: usize, what: impl AsRef<[u8]>) {
    bytes[at..][..what.as_ref().len()].copy_from_slice(what.as_ref());
}

/// An MBR's entry: the type, the first sector, how many.
fn entry(bytes: &mut [u8], table: usize, slot: usize, kind: u8, start: u32, sectors: u32) {
    put(bytes, table + 510, [0x55, 0xaa]);
    let at = table + 446 + slot * 16;
    bytes[at + 4] = kind;
    put(bytes, at + 8, start.to_le_bytes());
    put(bytes, at + 12, sectors.to_le_bytes());
}

/// Swap space in the `pages` from this offset on.
fn swap(bytes: &mut [u8], at: usize, label: &str, pages: u32) {
    put(bytes, at + 4086, SWAP);
    put(bytes, at + 1024, 1u32.to_le_bytes());
    put(bytes, at + 1028, (pages - 1).to_le_bytes());
    put(bytes, at + 1052, label);
}

/// A GPT of `count` partitions, 32 sectors each, in sectors of this size; both copies.
fn gpt(sectors: u64, size: usize, count: u64) -> Vec<u8> {
    let mut bytes = vec![0; sectors as usize * size];
    entry(&mut bytes, 0, 0, 0xee, 1, u32::try_from(sectors).unwrap() - 1);
    let mut entries = vec![0; 128 * 128];
    for index in 0..count {
        let at = index as usize * 128;
        put(&mut entries, at, b"\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4");
        put(&mut entries, at + 16, (index + 1).to_le_bytes());
        put(&mut entries, at + 32, (64 + index * 32).to_le_bytes());
        put(&mut entries, at + 40, (64 + index * 32 + 31).to_le_bytes());
    }
    let length = entries.len().div_ceil(size) as u64;
    let last = sectors - 1;
    for (own, other, place) in [(1, last, 2), (last, 1, last - length)] {
        let mut header = b"EFI PART\0\0\x01\0\x5c\0\0\0".to_vec();
        header.resize(92, 0);
        for (at, value) in [(24, own), (32, other), (40, 2 + length), (48, last - length - 1)] {
            put(&mut header, at, u64::to_le_bytes(value));
        }
        put(&mut header, 56, [7; 16]);
        put(&mut header, 72, place.to_le_bytes());
        put(&mut header, 80, [128u32.to_le_bytes(), 128u32.to_le_bytes()].concat());
        put(&mut header, 88, crc32fast::hash(&entries).to_le_bytes());
        let sum = crc32fast::hash(&header);
        put(&mut header, 16, sum.to_le_bytes());
        put(&mut bytes, own as usize * size, header);
        put(&mut bytes, place as usize * size, &entries);
    }
    bytes
}

fn codes(contents: &Contents) -> Vec<Code> {
    contents.findings.iter().map(|finding| finding.code).collect()
}

/// A disk of which some bytes cannot be read.
struct Broken(Chain, Range<u64>);

impl VirtualDisk for Broken {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn cluster_size(&self) -> u64 {
        self.0.cluster_size()
    }
    fn extent_at(&self, offset: u64, max: u64) -> Result<Extent> {
        self.0.extent_at(offset, max)
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if offset < self.1.end && offset + buf.len() as u64 > self.1.start {
            return Err(Error::other(ErrorKind::Corrupt, "a cluster is broken").at(self.1.start));
        }
        self.0.read_exact_at(buf, offset)
    }
    fn storage(&self, _: StorageId) -> Option<&dyn Storage> {
        None
    }
}

#[test]
fn an_unreadable_partition_does_not_hide_the_others() {
    let mut bytes = vec![0; 1 << 20];
    for (slot, start) in [(0, 256), (1, 512), (2, 1024)] {
        entry(&mut bytes, 0, slot, 0x82, start, 256);
        swap(&mut bytes, start as usize * 512, "fine", 32);
    }
    let broken = Broken(disk(bytes.clone()), 512 * 512..512 * 512 + 8192);
    let found = look(&broken, &Bounds::default()).unwrap();
    let seen: Vec<_> =
        found.partitions.iter().map(|p| (p.superblocks.len(), p.error.is_some())).collect();
    assert_eq!(seen, [(1, false), (0, true), (1, false)]);
    assert!(found.partitions[1].error.as_ref().unwrap().contains("a cluster is broken"));
    assert_eq!(found.error, None);
    // where the disk itself has superblocks
    let found = look(&Broken(disk(bytes.clone()), 0x8000..0x8001), &Bounds::default()).unwrap();
    assert!(found.error.is_some());
    assert_eq!(found.partitions.len(), 3);
    let error = look(&Broken(disk(bytes), 0..1), &Bounds::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn no_more_is_read_than_allowed_and_what_was_not_looked_at_says_so() {
    for (most, complete) in [(0, false), (512, false), (60 << 10, false), (2 << 20, true)] {
        let bytes = gpt(8192, 512, 100);
        let bounds = Bounds { max_read: most, ..Bounds::default() };
        let found = look(&disk(bytes), &bounds);
        let Ok(found) = found else {
            assert_eq!(most, 0);
            continue;
        };
        assert!(found.bytes_read <= most, "{} of {most}", found.bytes_read);
        let missing = found.partitions.iter().filter(|p| p.error.is_some()).count();
        let untold = found.error.is_some() || codes(&found).contains(&Code::Unreadable);
        assert_eq!(missing == 0 && !untold && found.partitions.len() == 100, complete, "{most}");
        assert!(complete || missing > 0 || untold, "{most}: {found:?}");
    }
    let bounds = Bounds { max_partitions: 5, ..Bounds::default() };
    let found = look(&disk(gpt(8192, 512, 100)), &bounds).unwrap();
    assert_eq!((found.partitions.len(), &codes(&found)[..]), (5, &[Code::Unreadable][..]));
}

#[test]
fn the_default_bound_reads_a_gpt_of_eighty_partitions_whole() {
    let found = look_at(gpt(8192, 512, 80));
    assert!(found.partitions.iter().all(|p| p.error.is_none()) && found.findings.is_empty());
    assert!(found.bytes_read <= 1 << 20);
}

#[test]
fn either_copy_of_a_gpt_is_enough_in_either_size_of_sectors() {
    for size in [512, 4096] {
        let whole = gpt(512, size, 2);
        let found = look_at(whole.clone());
        assert_eq!(found.table.as_ref().unwrap().sector_size, size as u64);
        let places: Vec<_> = found.partitions.iter().map(|p| (p.start, p.length)).collect();
        let unit = 32 * size as u64;
        assert_eq!(places, [(2 * unit, unit), (3 * unit, unit)]);
        assert!(found.findings.is_empty(), "{found:?}");
        for at in [size, 511 * size] {
            let mut one = whole.clone();
            one[at + 20] ^= 1;
            one[at + 60] ^= 1;
            let again = look_at(one);
            assert_eq!(again.partitions, found.partitions);
            assert_eq!(codes(&again), [Code::ChecksumMismatch]);
        }
        // entries that are not what their checksum says
        let mut neither = whole;
        neither[2 * size + 33] ^= 1;
        neither[511 * size - 128 * 128 + 33] ^= 1;
        let again = look_at(neither);
        assert_eq!((again.partitions.len(), again.table.is_some()), (0, true));
        assert_eq!(codes(&again), [Code::ChecksumMismatch; 2]);
    }
}

#[test]
fn chains_that_loop_or_leave_end_and_say_why() {
    for (next, reason) in
        [(0, "leads back"), (90_000, "leads out of"), (10, "without the signature")]
    {
        let mut bytes = vec![0; 1 << 20];
        entry(&mut bytes, 0, 0, 5, 100, 1000);
        entry(&mut bytes, 51_200, 0, 0x83, 1, 8);
        entry(&mut bytes, 51_200, 1, 5, next, 9);
        let found = look_at(bytes);
        assert_eq!(found.partitions.len(), 2, "{found:?}");
        assert_eq!((found.partitions[1].number, found.partitions[1].role), (5, Role::Logical));
        assert_eq!(codes(&found), [Code::InvalidEntry]);
        assert!(found.findings[0].message.contains(reason), "{found:?}");
    }
}

#[test]
fn partitions_that_the_disk_does_not_hold_are_told() {
    let mut bytes = vec![0; 1 << 20];
    entry(&mut bytes, 0, 0, 0x82, 1000, 0xffff_ffff);
    entry(&mut bytes, 0, 1, 0x83, 0xffff_ffff, 0xffff_ffff);
    entry(&mut bytes, 0, 2, 0x83, 900, 200);
    swap(&mut bytes, 512_000, "cut off", 1 << 20);
    let found = look_at(bytes);
    assert_eq!(found.partitions[0].superblocks[0].label.as_deref(), Some("cut off"));
    assert!(found.partitions[1].error.as_ref().unwrap().contains("beyond the end"));
    let wanted = [Code::Overlap, Code::BeyondEnd, Code::BeyondEnd, Code::Overlap, Code::Truncated];
    let (mut got, mut wanted) = (codes(&found), wanted.to_vec());
    got.sort();
    wanted.sort();
    wanted.dedup();
    got.dedup();
    assert_eq!(got, wanted);
}

#[test]
fn what_a_guest_calls_itself_cannot_reach_the_terminal() {
    let mut bytes = vec![0; 1 << 20];
    swap(&mut bytes, 0, "\x1b[31mred\n\u{202e}", 256);
    let found = look_at(bytes);
    assert_eq!(found.superblocks[0].label.as_deref(), Some("\\x1b[31mred\\x0a\\u{202e}"));
}

#[test]
fn two_superblocks_in_one_place_are_shouted() {
    let mut bytes = vec![0; 1 << 20];
    swap(&mut bytes, 0, "", 256);
    put(&mut bytes, 1024, b"\xe2\xe1\xf5\xe0");
    let found = look_at(bytes);
    assert_eq!(codes(&found), [Code::Polyglot]);
    assert_eq!(found.superblocks.len(), 2);
}

#[test]
fn what_ends_the_last_partition_is_not_the_whole_disks() {
    let mut bytes = vec![0; 1 << 20];
    entry(&mut bytes, 0, 0, 0xfd, 128, 2048 - 128);
    // version 1.0, by its place in the partition
    let place = (1 << 20) - 65_536 - 8192;
    let at = 65_536 + place;
    put(&mut bytes, at, b"\xfc\x4e\x2b\xa9\x01");
    put(&mut bytes, at + 144, (place as u64 / 512).to_le_bytes());
    // version 0.90 says nothing of its own place
    let mut other = vec![0; 1 << 20];
    entry(&mut other, 0, 0, 0xfd, 128, 2048 - 128);
    put(&mut other, (1 << 20) - 65_536, b"\xfc\x4e\x2b\xa9");
    for bytes in [bytes, other] {
        let found = look_at(bytes);
        assert_eq!(found.partitions[0].superblocks[0].kind, Kind::LinuxRaid);
        assert_eq!(found.superblocks, []);
    }
}

#[test]
fn small_disks_and_every_beginning_of_one_are_no_trouble() {
    let mut whole = gpt(512, 512, 4);
    swap(&mut whole, 64 * 512, "one", 4);
    put(&mut whole, 0x8001, b"CD001");
    whole[0x8000] = 1;
    for length in (0..whole.len()).step_by(499).chain(0..1100) {
        let found = look_at(whole[..length].to_vec());
        assert_eq!(found.size, length as u64);
    }
}

#[test]
fn names_of_kinds_and_types_are_distinct_and_well_formed() {
    let mut names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Kind::ALL.len());
    assert_eq!(types::of_byte(0x83), Some("Linux"));
    assert_eq!(types::of_guid("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"), Some("EFI system"));
    types::check();
}
