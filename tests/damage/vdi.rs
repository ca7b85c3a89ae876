//! VDI: the block map, and the header's number of blocks.

use super::*;

const FILE: &str = "vdi/oracle.vdi";
const AT_ALLOCATED: u64 = 0x184;
const ALLOCATED: &str = "header field cBlocksAllocated";

fn map(bytes: &[u8]) -> u64 {
    le32(bytes, 0x154).into()
}

fn good() -> Vec<u8> {
    std::fs::read(&fixture(FILE).path).unwrap()
}

/// The numbers of the entries that lead to a block.
fn used(bytes: &[u8]) -> Vec<u64> {
    (0..6).filter(|index| le32(bytes, map(bytes) + 4 * index) < 0xffff_fffe).collect()
}

#[test]
fn entries_that_cannot_be_are_found_where_they_are() {
    let (at, used) = (map(&good()), used(&good()));
    let entry = |index: u64| at + 4 * index;
    let (one, two) = (used[0], used[1]);
    let name = format!("block map entry {two}");
    let refused = Then::Refused(Code::CheckError);
    damaged(FILE, "a block twice", refused, &[(Code::Overlap, entry(two), &name)], |bytes| {
        let other = le32(bytes, entry(one));
        put(bytes, entry(two), &other.to_le_bytes());
    });
    damaged(FILE, "no such block", refused, &[(Code::InvalidEntry, entry(two), &name)], |bytes| {
        put(bytes, entry(two), &6u32.to_le_bytes());
    });
    let last = good().len() as u64;
    let found = [(Code::BeyondEnd, entry(two), &*name)];
    damaged(FILE, "beyond the end", refused, &found, |bytes| {
        let number = (last - u64::from(le32(bytes, 0x158))) / (1 << 20);
        put(bytes, entry(two), &(number as u32).to_le_bytes());
        put(bytes, AT_ALLOCATED, &(number as u32 + 1).to_le_bytes());
    });
}

#[test]
fn the_number_of_blocks_is_counted_anew() {
    for count in [0u32, 1, 3, 7, u32::MAX] {
        let found = [(Code::CheckError, AT_ALLOCATED, ALLOCATED)];
        let change = |bytes: &mut Vec<u8>| put(bytes, AT_ALLOCATED, &count.to_le_bytes());
        damaged(FILE, &format!("{count} blocks"), Then::Mended, &found, change);
        let mut bytes = good();
        change(&mut bytes);
        qemu_img_agrees(Format::Vdi, &good(), &bytes);
    }
}

#[test]
fn blocks_that_nothing_leads_to_are_leaks() {
    let leak = [(Code::LeakedCluster, AT_ALLOCATED, ALLOCATED)];
    let behind = |bytes: &mut Vec<u8>| {
        bytes.extend(vec![7; 1 << 20]);
        put(bytes, AT_ALLOCATED, &5u32.to_le_bytes());
    };
    damaged(FILE, "a block behind the others", Then::Mended, &leak, behind);
    let mut bytes = good();
    behind(&mut bytes);
    let report = check(Format::Vdi, &bytes);
    assert_eq!((report.leaks, report.corruptions), (1, 0));
    qemu_img_agrees(Format::Vdi, &good(), &bytes);
    // one that others lie behind is not moved; blocks are stored backwards
    let refused = Then::Refused(Code::LeakedCluster);
    let last = *used(&good()).last().unwrap();
    damaged(FILE, "a block before the others", refused, &leak, |bytes| {
        let at = map(bytes) + 4 * last;
        put(bytes, at, &u32::MAX.to_le_bytes());
    });
}

#[test]
fn the_numbers_are_right() {
    let report = check(Format::Vdi, &good());
    assert_eq!((report.total_clusters, report.allocated_clusters), (Some(6), Some(4)));
    assert_eq!((report.fragmented_clusters, report.compressed_clusters), (Some(3), Some(0)));
    assert_eq!(report.image_end_offset, Some(good().len() as u64));
}
