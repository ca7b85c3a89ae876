//! VHDX: headers, region tables, the log, the block allocation table.

use super::*;

const FILE: &str = "vhdx/plain.vhdx";
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const REGIONS: [u64; 2] = [192 << 10, 256 << 10];
const BAT: u64 = 3 << 20;
const MIB: u64 = 1 << 20;

fn read(file: &str) -> Vec<u8> {
    std::fs::read(&fixture(file).path).unwrap()
}

fn flip(at: u64) -> impl Fn(&mut Vec<u8>) {
    move |bytes| bytes[at as usize] ^= 1
}

/// Makes the checksum of a header or region table right.
fn seal(bytes: &mut [u8], at: u64, length: u64) {
    put(bytes, at + 4, &[0; 4]);
    let sum = crc32c::crc32c(&bytes[at as usize..(at + length) as usize]);
    put(bytes, at + 4, &sum.to_le_bytes());
}

#[test]
fn a_header_is_restored_from_the_other_one() {
    for at in HEADERS {
        let found = [(Code::RedundantCopyDamaged, at, "header")];
        for within in [0, 5, 20, 4095] {
            damaged(FILE, "a header", Then::Mended, &found, flip(at + within));
        }
        let mut bytes = read(FILE);
        put(&mut bytes, at, &[0; 4096]);
        qemu_img_agrees(Format::Vhdx, &read(FILE), &bytes);
    }
    // 2.2.2: the restored one has the next number, and becomes the current one
    let mut bytes = read(FILE);
    let number = |bytes: &[u8], at: u64| le64(bytes, at + 8);
    let greatest = number(&bytes, HEADERS[0]).max(number(&bytes, HEADERS[1]));
    bytes[HEADERS[0] as usize] ^= 1;
    let (after, _, _) = repair(Format::Vhdx, &bytes, None);
    assert_eq!(number(&after, HEADERS[0]), greatest + 1);
    let guid = |bytes: &[u8]| bytes[HEADERS[0] as usize + 16..HEADERS[0] as usize + 32].to_vec();
    assert!(
        guid(&after) != guid(&read(FILE)),
        "who writes to a file gives it another FileWriteGuid"
    );
}

#[test]
fn a_region_table_is_restored_from_the_other_one() {
    for at in REGIONS {
        let found = [(Code::RedundantCopyDamaged, at, "region table")];
        for within in [0, 5, 30, 65_535] {
            damaged(FILE, "a region table", Then::Mended, &found, flip(at + within));
        }
        let mut bytes = read(FILE);
        bytes[at as usize + 40] ^= 1;
        assert!(repair(Format::Vhdx, &bytes, None).0 == read(FILE));
        qemu_img_agrees(Format::Vhdx, &read(FILE), &bytes);
    }
    let found = [
        (Code::RedundantCopyDamaged, HEADERS[1], "header"),
        (Code::RedundantCopyDamaged, REGIONS[0], "region table"),
    ];
    damaged(FILE, "one of each", Then::Mended, &found, |bytes| {
        bytes[HEADERS[1] as usize + 9] ^= 1;
        bytes[REGIONS[0] as usize + 9] ^= 1;
    });
}

#[test]
fn a_log_is_written_to_its_places() {
    let logs = ["log", "log-after-old", "log-torn", "log-wrapped", "log-wrapped-more"];
    for name in logs {
        let file = format!("vhdx/{name}.vhdx");
        let good = read(&file);
        let log = (Code::LogDirty, MIB, "log");
        judge(Format::Vhdx, &file, &good, &good, Then::Mended, &[log]);
        qemu_img_agrees(Format::Vhdx, &good, &good);
        // and with what else can be restored
        for at in [HEADERS[0], HEADERS[1], REGIONS[0], REGIONS[1]] {
            let mut bytes = good.clone();
            bytes[at as usize + 1] ^= 1;
            judge(Format::Vhdx, &file, &good, &bytes, Then::Mended, &[log]);
        }
    }
}

#[test]
fn a_damaged_log_is_refused() {
    let mut bytes = read(FILE);
    for at in HEADERS {
        put(&mut bytes, at + 48, &[9; 16]);
        seal(&mut bytes, at, 4096);
    }
    let options = OpenOptions::new().format(Format::Vhdx);
    assert!(options.clone().open_image_storage(storage(&bytes), Path::new("image")).is_err());
    let trusting = options.trust_broken(true);
    let image = trusting.open_image_storage(storage(&bytes), Path::new("image")).unwrap();
    let report = image.check(Checking::new()).unwrap();
    assert!(report.findings.iter().any(|f| (f.code, f.offset) == (Code::LogDirty, Some(MIB))));
    let mut patch = MemoryPatch::new(bytes);
    let repaired = image.repair(RepairScope::All, &Checking::new(), &mut patch).unwrap();
    assert_eq!((repaired.refused[0].code, patch.writes()), (Code::LogDirty, 0));
}

#[test]
fn entries_that_cannot_be_are_found_where_they_are() {
    let name = "BAT entry of payload block 1";
    let other = le64(&read(FILE), BAT) & !0xfffff;
    let end = (read(FILE).len() as u64).next_multiple_of(MIB);
    for (what, value, code) in [
        ("state 4", 4, Code::InvalidEntry),
        ("state 5", 5 | other, Code::InvalidEntry),
        ("no parent", 7 | other, Code::InvalidEntry),
        ("reserved bits", 6 | 0x100 | end, Code::ReservedBits),
        ("a block twice", 6 | other, Code::Overlap),
        ("in the header section", 6, Code::Overlap),
        ("on the log", 6 | MIB, Code::Overlap),
        ("on the metadata", 6 | 2 << 20, Code::Overlap),
        ("on the table", 6 | 3 << 20, Code::Overlap),
        ("beyond the end", 6 | end, Code::BeyondEnd),
        ("far beyond", 6 | 0x7fff_ffff_fff0_0000, Code::BeyondEnd),
    ] {
        damaged(FILE, what, Then::Refused(code), &[(code, BAT + 8, name)], |bytes| {
            put(bytes, BAT + 8, &value.to_le_bytes());
        });
    }
}

#[test]
fn sector_bitmaps_must_be_there_and_nowhere_else() {
    // 4096 payload blocks of 1 MiB, and then the bitmap of them
    let (file, at) = ("vhdx/diff.vhdx", BAT + 8 * 4096);
    let (bitmap, name) = (le64(&read(file), at), "BAT entry of sector bitmap block 0");
    assert_eq!(bitmap & 7, 6);
    for (what, value, code) in [
        ("state 1", bitmap & !7 | 1, Code::InvalidEntry),
        ("reserved bits", bitmap | 8, Code::ReservedBits),
        ("on the log", MIB | 6, Code::Overlap),
        ("beyond the end", 1 << 40 | 6, Code::BeyondEnd),
    ] {
        damaged(file, what, Then::Refused(code), &[(code, at, name)], |bytes| {
            put(bytes, at, &value.to_le_bytes());
        });
    }
    let partial = (0..7).find(|i| le64(&read(file), BAT + 8 * i) & 7 == 7).unwrap();
    let name = format!("BAT entry of payload block {partial}");
    let found = [(Code::InvalidEntry, BAT + 8 * partial, &*name)];
    damaged(file, "no bitmap", Then::Refused(Code::InvalidEntry), &found, |bytes| {
        put(bytes, at, &[0; 8]);
    });
}

#[test]
fn the_largest_number_cannot_be_followed() {
    damaged(FILE, "the last header", Then::Refused(Code::CheckError), &[], |bytes| {
        put(bytes, HEADERS[0] + 8, &[0xff; 8]);
        seal(bytes, HEADERS[0], 4096);
        bytes[HEADERS[1] as usize] ^= 1;
    });
}
