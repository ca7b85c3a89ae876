//! VMDK: grain directories and tables with their redundant copies, streams, the descriptor.

use super::*;

const FILE: &str = "vmdk/backwards.vmdk";
const STREAM: &str = "vmdk/stream.vmdk";

fn read(file: &str) -> Vec<u8> {
    std::fs::read(&fixture(file).path).unwrap()
}

/// Where the redundant and the primary grain directory lie.
fn directories(bytes: &[u8]) -> [u64; 2] {
    [48, 56].map(|at| le64(bytes, at) * 512)
}

fn sector(bytes: &[u8], at: u64) -> u64 {
    u64::from(le32(bytes, at)) * 512
}

#[test]
fn a_grain_directory_is_restored_from_the_other_one() {
    for file in [FILE, "vmdk/qemu-sparse.vmdk", "vmdk/table-128.vmdk"] {
        let good = read(file);
        let tables = (le64(&good, 12) / le64(&good, 20)).div_ceil(le32(&good, 44).into());
        let names = ["redundant grain directory", "grain directory"];
        for (at, name) in directories(&good).into_iter().zip(names) {
            let found = [(Code::RedundantCopyDamaged, at, name)];
            let junk = vec![0xa5; 4 * tables as usize];
            for value in [&junk[..], &junk[..4], &[0; 4], &vec![0; junk.len()]] {
                let change = |bytes: &mut Vec<u8>| put(bytes, at, value);
                damaged(file, name, Then::Mended, &found, change);
                let mut bytes = good.clone();
                change(&mut bytes);
                // each table lies where writers put it, so that it is found there again
                assert!(repair(Format::Vmdk, &bytes, None).0 == good, "{file}: {name}");
                qemu_img_agrees(Format::Vmdk, &good, &bytes);
            }
        }
    }
}

/// One repair mended the redundant directory only, and the next one the primary.
#[test]
fn two_directories_that_are_damaged_somewhere_mend_each_other() {
    let [redundant, primary] = directories(&read(FILE));
    let found = [
        (Code::RedundantCopyDamaged, redundant, "redundant grain directory"),
        (Code::BeyondEnd, primary + 4, "grain directory"),
    ];
    damaged(FILE, "both directories", Then::Mended, &found, |bytes| {
        put(bytes, redundant, &[0xff; 4]);
        put(bytes, primary + 4, &[0xff; 4]);
    });
}

#[test]
fn a_directory_whose_tables_are_lost_shares_those_of_the_other_one() {
    let [_, at] = directories(&read(FILE));
    let found = [(Code::RedundantCopyDamaged, at, "grain directory")];
    let change = |bytes: &mut Vec<u8>| {
        // the directory, and the tables behind it
        bytes[at as usize..at as usize + 9 * 512].fill(0xa5);
    };
    damaged(FILE, "with its tables", Then::Mended, &found, change);
    let mut bytes = read(FILE);
    change(&mut bytes);
    qemu_img_agrees(Format::Vmdk, &read(FILE), &bytes);
}

#[test]
fn tables_that_differ_are_found_and_left_alone() {
    let good = read(FILE);
    let [redundant, primary] = directories(&good);
    let table = sector(&good, redundant);
    let used = (0..512).find(|i| le32(&good, table + 4 * i) != 0).unwrap();
    let refused = Then::Refused(Code::RedundantCopyDamaged);
    let at = table + 4 * used;
    let found = [(Code::RedundantCopyDamaged, at, "redundant grain table")];
    damaged(FILE, "a redundant entry", refused, &found, |bytes| put(bytes, at, &[0; 4]));
    let found = [(Code::BeyondEnd, sector(&good, primary) + 4 * used, "grain")];
    damaged(FILE, "a primary entry", refused, &found, |bytes| {
        put(bytes, sector(&good, primary) + 4 * used, &0x00ff_ffffu32.to_le_bytes());
    });
}

#[test]
fn a_header_that_leads_to_another_directory_proves_nothing_of_the_right_one() {
    // into the tables of the redundant directory, where all is zeros: its second entry then seems
    // to lie on the primary directory, and must not be cleared for that
    let refused = Then::Refused(Code::RedundantCopyDamaged);
    let [redundant, primary] = directories(&read(FILE));
    assert_eq!(sector(&read(FILE), redundant + 4), primary - 4 * 512);
    let found = [(Code::RedundantCopyDamaged, redundant, "redundant grain directory")];
    damaged(FILE, "gdOffset", refused, &found, |bytes| put(bytes, 56, &26u64.to_le_bytes()));
}

#[test]
fn entries_that_cannot_be_are_found_where_they_are() {
    let good = read(FILE);
    let [redundant, primary] = directories(&good);
    let tables = [sector(&good, primary), sector(&good, redundant)];
    let used: Vec<_> = (0..512).filter(|i| le32(&good, tables[0] + 4 * i) != 0).collect();
    let (one, two) = (used[0], used[1]);
    let at = tables[0] + 4 * two;
    let both = |value: u32| {
        move |bytes: &mut Vec<u8>| {
            for table in tables {
                put(bytes, table + 4 * two, &value.to_le_bytes());
            }
        }
    };
    let place = le32(&good, tables[0] + 4 * one);
    let in_table = |code| [(code, at, "grain table")];
    let overlap = Then::Refused(Code::Overlap);
    damaged(FILE, "a grain twice", overlap, &in_table(Code::Overlap), both(place));
    damaged(FILE, "on the descriptor", overlap, &in_table(Code::Overlap), both(3));
    damaged(FILE, "on the header", overlap, &in_table(Code::Overlap), both(1));
    damaged(FILE, "on a directory", overlap, &in_table(Code::Overlap), both(20));
    let beyond = [(Code::BeyondEnd, at, "grain")];
    damaged(FILE, "beyond the end", Then::Refused(Code::BeyondEnd), &beyond, both(0x00ff_ffff));
    // a grain between grains lies on two of them
    let place = le32(&good, at) + 1;
    damaged(FILE, "between grains", overlap, &[], both(place));
    // both directories lead to the table of the other half of the disk
    let found = [(Code::Overlap, primary + 4, "grain directory")];
    damaged(FILE, "a table twice", overlap, &found, |bytes| {
        for directory in [primary, redundant] {
            let table = le32(bytes, directory);
            put(bytes, directory + 4, &table.to_le_bytes());
        }
    });
    let found = [(Code::BeyondEnd, primary, "grain directory")];
    damaged(FILE, "both directories", Then::Refused(Code::BeyondEnd), &found, |bytes| {
        for directory in [primary, redundant] {
            put(bytes, directory, &0x00ff_ffffu32.to_le_bytes());
        }
    });
}

#[test]
fn a_stream_is_told_by_its_marks() {
    let good = read(STREAM);
    let end = good.len() as u64;
    let directory = le64(&good, end - 1024 + 56) * 512;
    let table = sector(&good, directory);
    let (number, grain) =
        (0..512).map(|i| (i, sector(&good, table + 4 * i))).find(|(_, place)| *place != 0).unwrap();
    let invalid = Then::Refused(Code::InvalidEntry);
    let found = [(Code::InvalidEntry, grain, "grain header")];
    damaged(STREAM, "the LBA of a grain", invalid, &found, |bytes| bytes[grain as usize] ^= 1);
    damaged(STREAM, "the size of a grain", invalid, &found, |bytes| {
        put(bytes, grain + 8, &u32::MAX.to_le_bytes());
    });
    damaged(STREAM, "a grain over the next", Then::Refused(Code::Overlap), &[], |bytes| {
        let size = le32(bytes, grain + 8);
        put(bytes, grain + 8, &(size + 1024).to_le_bytes());
    });
    let found = [(Code::BeyondEnd, table + 4 * number, "grain")];
    damaged(STREAM, "a grain beyond the end", Then::Refused(Code::BeyondEnd), &found, |bytes| {
        put(bytes, table + 4 * number, &0x00ff_ffffu32.to_le_bytes());
    });
    let footer = Then::Refused(Code::CheckError);
    for (what, at) in [("marker", end - 1536 + 12), ("footer", end - 1024), ("end", end - 512 + 8)]
    {
        damaged(STREAM, what, footer, &[], |bytes| bytes[at as usize] ^= 1);
        let mut bytes = good.clone();
        bytes[at as usize] ^= 1;
        let codes: Vec<_> = check(Format::Vmdk, &bytes).findings.iter().map(|f| f.code).collect();
        assert!(codes.contains(&Code::FooterMissing), "{what}: {codes:?}");
    }
    // a marker that a reader does not need is a note
    let mut bytes = good;
    put(&mut bytes, table - 512 + 12, &[9]);
    let report = check(Format::Vmdk, &bytes);
    let note = |f: &diskimage::Finding| (f.code, f.offset) == (Code::Unusual, Some(table - 512));
    assert!(report.is_clean() && report.findings.iter().any(note), "{:#?}", report.findings);
}

#[test]
fn a_parent_that_is_named_and_denied_is_found() {
    let file = "vmdk/delta.vmdk";
    let good = read(file);
    let start = good.windows(10).position(|w| w == b"parentCID=").unwrap() + 10;
    let hint = good.windows(19).position(|w| w == b"parentFileNameHint=").unwrap() as u64;
    let found = [(Code::InvalidEntry, hint, "descriptor")];
    damaged(file, "no parent CID", Then::Refused(Code::InvalidEntry), &found, |bytes| {
        bytes[start..start + 8].fill(b'f');
    });
}

#[test]
fn parts_in_other_files_are_not_passed_over_in_silence() {
    let report = check(Format::Vmdk, &read("vmdk/multi-flat.vmdk"));
    assert!(report.is_clean());
    assert!(report.findings.iter().any(|finding| finding.code == Code::NotChecked));
}
