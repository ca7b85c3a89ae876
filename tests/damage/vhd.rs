//! VHD: both copies of the footer, the dynamic header, the block allocation table.

use super::*;

const FILE: &str = "vhd/qemu-dynamic.vhd";
const DIFFERENCING: &str = "vhd/diff-over-dynamic.vhd";
const FRONT: &str = "copy of the footer at the start of the file";

fn read(file: &str) -> Vec<u8> {
    std::fs::read(&fixture(file).path).unwrap()
}

fn be32(bytes: &[u8], at: u64) -> u32 {
    le32(bytes, at).swap_bytes()
}

fn table(bytes: &[u8]) -> u64 {
    le64(bytes, 512 + 16).swap_bytes()
}

/// Makes the checksum of `length` bytes right, which lies `field` bytes into them.
fn seal(bytes: &mut [u8], at: u64, length: u64, field: u64) {
    put(bytes, at + field, &[0; 4]);
    let sum: u32 = bytes[at as usize..(at + length) as usize].iter().map(|&b| u32::from(b)).sum();
    put(bytes, at + field, &(!sum).to_be_bytes());
}

#[test]
fn a_footer_is_restored_from_its_copy() {
    for file in [FILE, "vhd/creator-win.vhd", "vhd/block-16k.vhd", "vhd/block-8m.vhd"] {
        let end = read(file).len() as u64 - 512;
        let front = [(Code::FooterMissing, 0, FRONT)];
        let back = [(Code::FooterMissing, end, "footer")];
        let flip = |at: u64| move |bytes: &mut Vec<u8>| bytes[at as usize] ^= 1;
        let wipe = |at: u64| move |bytes: &mut Vec<u8>| put(bytes, at, &[0; 512]);
        damaged(file, "front flipped", Then::Mended, &front, flip(100));
        damaged(file, "front wiped", Then::Mended, &front, wipe(0));
        damaged(file, "end flipped", Then::Mended, &back, flip(end + 70));
        damaged(file, "end cookie lost", Then::Mended, &back[..0], flip(end));
        damaged(file, "end wiped", Then::Mended, &back[..0], wipe(end));
        damaged(file, "end cut off", Then::Mended, &back, |bytes| bytes.truncate(end as usize));
        damaged(file, "end torn", Then::Mended, &[], |bytes| bytes.truncate(end as usize + 77));
    }
    // what has the footer in its old place is as long as it was
    let (good, mut bytes) = (read(FILE), read(FILE));
    let end = bytes.len() - 512;
    // a part of the last block that is beyond the disk's end is no loss
    for length in [end - 4096, end, end + 77, end + 512] {
        bytes.truncate(length);
        let at = end.min(length);
        bytes[at..].fill(0);
        assert!(repair(Format::Vhd, &bytes, None).0 == good, "{length:#x}");
        qemu_img_agrees(Format::Vhd, &good, &bytes);
        bytes = good.clone();
    }
    bytes[..512].fill(0);
    qemu_img_agrees(Format::Vhd, &good, &bytes);
}

#[test]
fn what_has_no_copy_or_no_place_is_refused() {
    let end = read(FILE).len() as u64 - 512;
    let sum = (Code::ChecksumMismatch, end + 64, "footer field Checksum");
    let refused = Then::Refused(Code::ChecksumMismatch);
    damaged(FILE, "both footers", refused, &[sum], |bytes| {
        bytes[100] ^= 1;
        bytes[end as usize + 100] ^= 1;
    });
    let found = [(Code::ChecksumMismatch, 512 + 36, "dynamic header field Checksum")];
    damaged(FILE, "the dynamic header", refused, &found, |bytes| bytes[512 + 900] ^= 1);
    let found = [(Code::FooterMismatch, end, "footer")];
    damaged(FILE, "intact and different", Then::Refused(Code::FooterMismatch), &found, |bytes| {
        bytes[70] ^= 1;
        seal(bytes, 0, 512, 64);
    });
    // blocks are cut off, too: where the footer was is not known
    damaged(FILE, "cut", Then::Refused(Code::FooterMissing), &[], |bytes| {
        bytes.truncate(end as usize - (2 << 20));
    });
    let fixed = "vhd/fixed-win.vhd";
    let end = read(fixed).len() as u64 - 512;
    let sum = (Code::ChecksumMismatch, end + 64, "footer field Checksum");
    damaged(fixed, "the only footer", refused, &[sum], |bytes| bytes[end as usize + 200] ^= 1);
}

#[test]
fn entries_that_cannot_be_are_found_where_they_are() {
    let at = table(&read(FILE));
    let refused = Then::Refused;
    let entry = |code| [(code, at + 8, "BAT entry 2")];
    let set = |value: u32| move |bytes: &mut Vec<u8>| put(bytes, at + 8, &value.to_be_bytes());
    let overlap = entry(Code::Overlap);
    let other = be32(&read(FILE), at);
    damaged(FILE, "a block twice", refused(Code::Overlap), &overlap, set(other));
    damaged(FILE, "half a block", refused(Code::Overlap), &overlap, set(other + 100));
    for (what, value) in [("footer", 0), ("header", 1), ("table", at as u32 / 512)] {
        damaged(FILE, what, refused(Code::Overlap), &overlap, set(value));
    }
    let beyond = entry(Code::BeyondEnd);
    damaged(FILE, "beyond the end", refused(Code::BeyondEnd), &beyond, set(0xffff_fff0));
    let last = (read(FILE).len() as u32 - 512) / 512;
    damaged(FILE, "on the footer", refused(Code::BeyondEnd), &beyond, set(last - 1));
}

#[test]
fn a_differencing_disk_must_know_its_parent() {
    let found = [(Code::InvalidEntry, 512 + 40, "dynamic header field Parent Unique ID")];
    damaged(DIFFERENCING, "no parent", Then::Refused(Code::InvalidEntry), &found, |bytes| {
        put(bytes, 512 + 40, &[0; 16]);
        seal(bytes, 512, 1024, 36);
    });
    let locator = 512 + 576;
    let found = [(Code::InvalidEntry, locator, "parent locator entry")];
    damaged(DIFFERENCING, "no names", Then::Refused(Code::InvalidEntry), &found, |bytes| {
        put(bytes, 512 + 64, &[0; 512]);
        for index in 0..2 {
            put(bytes, locator + 24 * index + 16, &u64::MAX.to_be_bytes());
        }
        seal(bytes, 512, 1024, 36);
    });
    let found = [(Code::Overlap, locator, "parent locator entry")];
    damaged(DIFFERENCING, "on the table", Then::Refused(Code::Overlap), &found, |bytes| {
        let at = table(bytes);
        put(bytes, locator + 16, &at.to_be_bytes());
        seal(bytes, 512, 1024, 36);
    });
    // one name that is of no use beside others is a note
    let mut bytes = read(DIFFERENCING);
    put(&mut bytes, locator + 16, &u64::MAX.to_be_bytes());
    seal(&mut bytes, 512, 1024, 36);
    let report = check(Format::Vhd, &bytes);
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert!(report.findings.iter().any(|f| (f.code, f.offset) == (Code::Unusual, Some(locator))));
}

#[test]
fn the_numbers_are_right() {
    let report = check(Format::Vhd, &read("vhd/block-512k.vhd"));
    assert_eq!((report.total_clusters, report.allocated_clusters), (Some(11), Some(9)));
    assert_eq!(report.fragmented_clusters, Some(8), "they are stored backwards");
    let end = read("vhd/block-512k.vhd").len() as u64 - 512;
    assert_eq!(report.image_end_offset, Some(end));
}
