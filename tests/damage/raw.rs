//! Raw disks: GPT and MBR.

use super::*;

const FILE: &str = "raw/gpt.raw";

fn read(file: &str) -> Vec<u8> {
    std::fs::read(&fixture(file).path).unwrap()
}

/// A header of `lba`, its checksums right.
struct Table {
    sector: u64,
    lbas: u64,
    entries: Vec<u8>,
    usable: (u64, u64),
}

impl Table {
    /// A table of 128 entries on a disk of so many sectors, with partitions of these LBAs.
    fn new(sector: u64, lbas: u64, partitions: &[(u64, u64)]) -> Self {
        let mut entries = vec![0; 128 * 128];
        for (index, (first, last)) in partitions.iter().enumerate() {
            let entry = &mut entries[128 * index..128 * index + 128];
            entry[..16].fill(0x83);
            entry[16..32].fill(index as u8 + 1);
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
        }
        let room = (128 * 128) / sector;
        Self { sector, lbas, entries, usable: (2 + room, lbas - 2 - room) }
    }

    fn header(&self, lba: u64) -> Vec<u8> {
        let room = (128 * 128) / self.sector;
        let (other, entries) =
            if lba == 1 { (self.lbas - 1, 2) } else { (1, self.lbas - 1 - room) };
        let mut header = b"EFI PART\0\0\x01\0\x5c\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        for value in [lba, other, self.usable.0, self.usable.1] {
            header.extend(value.to_le_bytes());
        }
        header.extend([7; 16]);
        header.extend(entries.to_le_bytes());
        for value in [128, 128, crc32fast::hash(&self.entries)] {
            header.extend(u32::to_le_bytes(value));
        }
        let sum = crc32fast::hash(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header
    }

    fn disk(&self) -> Vec<u8> {
        let mut disk = vec![0; (self.sector * self.lbas) as usize];
        disk[446..462].copy_from_slice(&[
            0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
        ]);
        let sectors = u32::try_from(self.lbas - 1).unwrap();
        disk[458..462].copy_from_slice(&sectors.to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let last = self.lbas - 1;
        let room = (128 * 128) / self.sector;
        put(&mut disk, self.sector, &self.header(1));
        put(&mut disk, 2 * self.sector, &self.entries);
        put(&mut disk, (last - room) * self.sector, &self.entries);
        put(&mut disk, last * self.sector, &self.header(last));
        disk
    }
}

/// What other programs say of a disk that was repaired.
fn others_agree(bytes: &[u8]) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk");
    write_sparse(&path, &repair(Format::Raw, bytes, None).0);
    if let Some(output) = tool_output("sgdisk", &["-v".as_ref(), path.as_os_str()]) {
        let text = String::from_utf8_lossy(&output).into_owned();
        assert!(text.contains("No problems found"), "{text}");
    }
    if let Some(output) = tool_output("sfdisk", &["--verify".as_ref(), path.as_os_str()]) {
        let text = String::from_utf8_lossy(&output).into_owned();
        assert!(text.contains("No errors detected"), "{text}");
    }
}

#[test]
fn either_copy_of_a_gpt_is_restored_from_the_other_one() {
    let wide = Table::new(4096, 600, &[(6, 100), (200, 594)]);
    let narrow = Table::new(512, 4096, &[(34, 40), (64, 4062)]);
    for (good, sector) in [(read(FILE), 512), (narrow.disk(), 512), (wide.disk(), 4096u64)] {
        let end = good.len() as u64;
        let (last, room) = (end - sector, 128 * 128);
        let names = ["primary GPT header", "backup GPT header"];
        for (name, header, entries) in
            [(names[0], sector, 2 * sector), (names[1], last, last - room)]
        {
            for (what, at, found) in [
                ("signature", header, (Code::RedundantCopyDamaged, header)),
                ("checksum", header + 17, (Code::ChecksumMismatch, header + 16)),
                ("disk GUID", header + 60, (Code::ChecksumMismatch, header + 16)),
                ("entries", entries + 33, (Code::ChecksumMismatch, entries)),
            ] {
                let mut bytes = good.clone();
                bytes[at as usize] ^= 1;
                let found = [(found.0, found.1, name)];
                judge(Format::Raw, what, &good, &bytes, Then::Mended, &found);
                if sector == 512 {
                    others_agree(&bytes);
                }
            }
            let mut bytes = good.clone();
            put(&mut bytes, header, &vec![0; sector as usize]);
            put(&mut bytes, entries, &vec![0x5a; room as usize]);
            let found = [(Code::RedundantCopyDamaged, header, name)];
            judge(Format::Raw, "all of it", &good, &bytes, Then::Mended, &found);
        }
    }
}

#[test]
fn the_protective_mbr_is_written_where_nothing_is() {
    let good = Table::new(512, 4096, &[(64, 4062)]).disk();
    let mut bytes = good.clone();
    bytes[446..512].fill(0);
    bytes[..400].fill(0x90);
    let mut wanted = good;
    wanted[..400].fill(0x90);
    let found = [(Code::InvalidEntry, 446, "protective MBR")];
    judge(Format::Raw, "no MBR", &wanted, &bytes, Then::Mended, &found);
    others_agree(&bytes);
    // another table in its place is not touched
    bytes[450] = 0x83;
    bytes[454] = 1;
    bytes[458] = 1;
    let then = Then::Refused(Code::InvalidEntry);
    judge(Format::Raw, "another MBR", &wanted, &bytes, then, &found);
}

#[test]
fn partitions_are_held_against_the_disk_and_each_other() {
    let entry = |index: u64| 1024 + 128 * index;
    for (partitions, code, at) in [
        (&[(64, 200), (200, 300)][..], Code::Overlap, entry(1)),
        (&[(300, 400), (64, 350)], Code::Overlap, entry(0)),
        (&[(64, 1000), (100, 200), (900, 950)], Code::Overlap, entry(2)),
        (&[(64, 63)], Code::InvalidEntry, entry(0)),
        (&[(20, 63)], Code::InvalidEntry, entry(0)),
        (&[(64, 4070)], Code::InvalidEntry, entry(0)),
        (&[(64, 5000)], Code::BeyondEnd, entry(0)),
    ] {
        let bytes = Table::new(512, 4096, partitions).disk();
        let name = format!("GPT entry {}", (at - 1024) / 128);
        let found = [(code, at, &*name)];
        judge(Format::Raw, "partitions", &bytes, &bytes, Then::Refused(code), &found);
    }
    let mut table = Table::new(512, 4096, &[(64, 200)]);
    table.usable = (20, 4062);
    let found = [(Code::InvalidEntry, 512 + 40, "GPT header")];
    let then = Then::Refused(Code::InvalidEntry);
    judge(Format::Raw, "usable", &table.disk(), &table.disk(), then, &found);
}

#[test]
fn what_cannot_be_proven_is_refused() {
    let good = Table::new(512, 4096, &[(64, 200)]).disk();
    let last = good.len() as u64 - 512;
    let names = ["primary GPT header", "backup GPT header"];
    let mut bytes = good.clone();
    bytes[512 + 60] ^= 1;
    bytes[last as usize + 60] ^= 1;
    let found =
        [(Code::ChecksumMismatch, 528, names[0]), (Code::ChecksumMismatch, last + 16, names[1])];
    let then = Then::Refused(Code::ChecksumMismatch);
    judge(Format::Raw, "both", &good, &bytes, then, &found);
    // both are intact, but speak of other partitions
    let mut bytes = good.clone();
    let other = Table::new(512, 4096, &[(64, 300)]);
    put(&mut bytes, last, &other.header(4095));
    put(&mut bytes, last - 128 * 128, &other.entries);
    let then = Then::Refused(Code::CheckError);
    judge(Format::Raw, "differ", &good, &bytes, then, &[(Code::CheckError, last, names[1])]);
    let mut bytes = good.clone();
    bytes.truncate(3000 * 512);
    let found = [(Code::BeyondEnd, last, names[1])];
    judge(Format::Raw, "cut", &good, &bytes, Then::Refused(Code::BeyondEnd), &found);
    // neither copy, but the MBR that announces them
    let mut bytes = good.clone();
    bytes[512] = 0;
    bytes[last as usize] = 0;
    let then = Then::Refused(Code::CheckError);
    judge(Format::Raw, "gone", &good, &bytes, then, &[(Code::CheckError, 512, names[0])]);
    // a disk that was made larger is whole: its table is where it says
    let mut bytes = good;
    bytes.resize(bytes.len() + (1 << 20), 0);
    let report = check(Format::Raw, &bytes);
    assert!(report.is_clean() && report.findings.iter().any(|f| f.code == Code::Unusual));
}

/// Kind, start, length.
type Entry = (u8, u32, u32);

/// Makes a first sector, or a link of an extended partition, with these entries.
fn mbr(bytes: &mut [u8], at: u64, entries: &[Entry]) {
    for (index, (kind, start, length)) in entries.iter().enumerate() {
        let place = at + 446 + 16 * index as u64;
        put(bytes, place + 4, &[*kind]);
        put(bytes, place + 8, &start.to_le_bytes());
        put(bytes, place + 12, &length.to_le_bytes());
    }
    put(bytes, at + 510, &[0x55, 0xaa]);
}

#[test]
fn an_mbr_and_its_extended_partition_are_followed() {
    let disk = |primary: &[Entry], links: &[(u64, &[Entry])]| {
        let mut bytes = vec![0; 4096 * 512];
        mbr(&mut bytes, 0, primary);
        for (sector, entries) in links {
            mbr(&mut bytes, sector * 512, entries);
        }
        bytes
    };
    let extended = [(0x83, 64, 936), (5, 1000, 3000)];
    let (first, second) = ((0x83, 10, 400), (0x83, 10, 100));
    let good = disk(&extended, &[(1000, &[first, (5, 1000, 500)]), (2000, &[second])]);
    let report = check(Format::Raw, &good);
    assert!(report.is_clean() && report.findings.is_empty(), "{:#?}", report.findings);
    let (entry, chain) = ("MBR entry", "extended partition");
    for (bytes, code, at, name) in [
        (disk(&[(0x83, 64, 936), (0x83, 999, 10)], &[]), Code::Overlap, 462, entry),
        (disk(&[(0x83, 64, 4033)], &[]), Code::BeyondEnd, 446, entry),
        (disk(&extended, &[]), Code::InvalidEntry, 512_000, chain),
        (disk(&extended, &[(1000, &[first, (5, 0, 5)])]), Code::InvalidEntry, 512_000 + 462, chain),
        (
            disk(&extended, &[(1000, &[first, (5, 9000, 5)])]),
            Code::InvalidEntry,
            512_000 + 462,
            chain,
        ),
        (disk(&extended, &[(1000, &[(0x83, 10, 3000)])]), Code::InvalidEntry, 512_000 + 446, chain),
        (
            disk(&extended, &[(1000, &[(0x83, 10, 1200), (5, 1000, 500)]), (2000, &[second])]),
            Code::Overlap,
            2000 * 512 + 446,
            entry,
        ),
    ] {
        judge(Format::Raw, "MBR", &bytes, &bytes, Then::Refused(code), &[(code, at, name)]);
    }
}

#[test]
fn a_disk_without_a_table_has_nothing_to_check() {
    for bytes in [vec![], vec![0; 512], vec![1; 100_000]] {
        let error = image(Format::Raw, &bytes).check(Checking::new()).unwrap_err();
        assert_eq!(error.kind(), diskimage::ErrorKind::Unsupported);
    }
}
