//! Headers of the tar archives that are written: POSIX.1-2017 `pax`, "ustar Interchange Format", and
//! GNU's old format with its sparse members ("Basic Tar Format" and "Old GNU Format" in the manual of
//! GNU tar).

use std::ops::Range;

use super::tar::BLOCK;
use crate::num::{Pow2, to_u64, to_usize};

/// Blocks are written in records of 20 of them, as tar does.
pub(super) const RECORD: u64 = 10_240;

/// GNU's old format: `magic` and `version` of a header.
pub(super) const OLD_GNU: &[u8; 8] = b"ustar  \0";

/// A header of a file that has no holes; `magic` says in which format.
pub(super) fn header(magic: &[u8; 8], name: &str, size: u64, time: u64) -> Vec<u8> {
    let mut block = start(magic, name, size, time);
    put(&mut block, 156..157, b"0");
    seal(&mut block);
    block
}

/// The header of a sparse file in the old GNU format, with its map: the runs that are stored, one
/// behind the other, ascending. What lies behind the last one is a hole.
pub(super) fn sparse_header(name: &str, size: u64, runs: &[Range<u64>], time: u64) -> Vec<u8> {
    let length = |run: &Range<u64>| run.end.saturating_sub(run.start);
    let stored = runs.iter().map(length).fold(0, u64::saturating_add);
    let mut entries: Vec<_> = runs.iter().map(|run| (run.start, length(run))).collect();
    // it is this entry by which GNU tar gives the file its size
    if runs.last().is_none_or(|last| last.end < size) {
        entries.push((size, 0));
    }
    let mut block = start(OLD_GNU, name, stored, time);
    put(&mut block, 156..157, b"S");
    let (first, rest) = entries.split_at(entries.len().min(IN_HEADER));
    put_entries(&mut block, 386, first);
    put(&mut block, 482..483, &[u8::from(!rest.is_empty())]);
    put_number(&mut block, 483..495, size);
    seal(&mut block);
    let mut left = rest;
    while !left.is_empty() {
        let (some, rest) = left.split_at(left.len().min(IN_BLOCK));
        let mut more = vec![0; BLOCK];
        put_entries(&mut more, 0, some);
        put(&mut more, 504..505, &[u8::from(!rest.is_empty())]);
        block.extend(more);
        left = rest;
    }
    block
}

/// How many entries of a map lie in the header, and in each block behind it.
const IN_HEADER: usize = 4;
const IN_BLOCK: usize = 21;

/// What comes behind a member of `size` bytes, up to the next header.
pub(super) fn padding(size: u64) -> usize {
    to_usize(Pow2::SECTOR.ceil(size).saturating_sub(size))
}

fn start(magic: &[u8; 8], name: &str, size: u64, time: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    put(&mut block, 0..100, name.as_bytes());
    put(&mut block, 100..108, b"0000644\0");
    put(&mut block, 108..116, b"0000000\0");
    put(&mut block, 116..124, b"0000000\0");
    put_number(&mut block, 124..136, size);
    put_number(&mut block, 136..148, time);
    put(&mut block, 257..265, magic);
    // POSIX has numbers in every field
    if magic != OLD_GNU {
        put(&mut block, 329..337, b"0000000\0");
        put(&mut block, 337..345, b"0000000\0");
    }
    block
}

/// Fills in the checksum, for which its own field counts as blanks.
fn seal(block: &mut [u8]) {
    put(block, 148..156, b"        ");
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    put(block, 148..156, format!("{sum:06o}\0 ").as_bytes());
}

fn put_entries(block: &mut [u8], at: usize, entries: &[(u64, u64)]) {
    let mut at = at;
    for (start, length) in entries {
        put_number(block, at..at.saturating_add(12), *start);
        put_number(block, at.saturating_add(12)..at.saturating_add(24), *length);
        at = at.saturating_add(24);
    }
}

/// A number of eleven octal digits, or in base 256 where that is not enough: 8 GiB.
fn put_number(block: &mut [u8], field: Range<usize>, value: u64) {
    if value < 1 << 33 {
        put(block, field, format!("{value:011o}\0").as_bytes());
        return;
    }
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    put(block, field, &[0x80, 0, 0, 0, a, b, c, d, e, f, g, h]);
}

fn put(block: &mut [u8], field: Range<usize>, bytes: &[u8]) {
    let field = block.get_mut(field).unwrap_or_default();
    for (to, from) in field.iter_mut().zip(bytes) {
        *to = *from;
    }
}

/// How long an archive is that has so many bytes: two blocks of zeros end it, and the record is full.
pub(super) fn whole(length: u64) -> u64 {
    let blocks = to_u64(BLOCK).saturating_mul(2);
    length.saturating_add(blocks).checked_next_multiple_of(RECORD).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::container::Archive;
    use crate::format::Format;
    use crate::limits::Limits;
    use crate::storage::{MemoryStorage, Storage};

    fn read(bytes: Vec<u8>) -> Vec<crate::container::Member> {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes));
        let archive = Archive::read(&storage, Path::new("x"), Format::Tar, &Limits::default());
        archive.unwrap().members().to_vec()
    }

    #[test]
    fn what_is_written_is_read_as_it_was_meant() {
        for magic in [b"ustar\x0000", OLD_GNU] {
            let mut bytes = header(magic, "a-disk1.vmdk", 700, 12);
            bytes.resize(512 + 1024 + 1024, 0);
            let members = read(bytes);
            assert_eq!((members[0].size, members[0].data), (700, 512));
            assert_eq!(members[0].name, b"a-disk1.vmdk");
        }
        for count in [0u64, 1, 3, 4, 5, 25, 26, 1000] {
            let runs: Vec<_> = (0..count).map(|n| n * 20_000..n * 20_000 + 512).collect();
            for size in [count * 20_000 + 7, 12 << 40, runs.last().map_or(0, |last| last.end)] {
                let mut bytes = sparse_header("disk.raw", size, &runs, 0);
                let data = bytes.len() as u64;
                assert_eq!(bytes.len() % 512, 0);
                bytes.resize(bytes.len() + 512 * count as usize + 1024, 0);
                let members = read(bytes);
                let disk = &members[0];
                assert_eq!(
                    (disk.size, disk.stored, disk.data),
                    (size, 512 * count, data),
                    "{count}"
                );
            }
        }
    }

    #[test]
    fn numbers_beyond_eleven_digits_are_in_base_256() {
        let field = |value| {
            let mut block = [0; 12];
            put_number(&mut block, 0..12, value);
            block
        };
        assert_eq!(&field(0o77_777_777_777), b"77777777777\0");
        assert_eq!(field(1 << 33), [0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(whole(0), RECORD);
        assert_eq!(whole(RECORD - 1024), RECORD);
        assert_eq!(whole(RECORD - 1023), 2 * RECORD);
    }
}
