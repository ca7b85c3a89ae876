//! The start of a disk: what lies there, and whether its partition table is sane.

use crate::format::Format;
use crate::format::probe::probe_bytes;

/// How much of a disk is looked at: enough for a GPT of 4 KiB sectors, and for the volume
/// descriptors of ISO 9660.
pub(super) const HEAD: usize = 40 << 10;

/// What lies at the start of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Start {
    /// Partition tables, file systems and boot sectors.
    pub contents: Vec<Format>,
    /// What firmware would not take of the partition table, as a clause.
    pub table_problem: Option<String>,
}

impl Start {
    pub(super) fn of(head: &[u8]) -> Self {
        let probe = probe_bytes(head, None);
        let contents: Vec<_> = probe.contents().map(|found| found.format).collect();
        let table_problem = table_problem(head, &contents);
        Self { contents, table_problem }
    }
}

/// File systems whose first sector is their own, and may end like a partition table.
const OWN_FIRST_SECTOR: &[Format] = &[Format::Fat, Format::Ntfs, Format::Exfat, Format::Iso];

/// What contradicts the UEFI specification 2.10, section 5.2, in the table of the first sector.
fn table_problem(head: &[u8], contents: &[Format]) -> Option<String> {
    let table = head.get(446..510).filter(|_| head.get(510..512) == Some(&[0x55, 0xaa]))?;
    if contents.iter().any(|format| OWN_FIRST_SECTOR.contains(format)) {
        return None;
    }
    let mut used = 0u32;
    for (number, entry) in (1u32..).zip(table.chunks_exact(16)) {
        let &[flag, head, sector, cylinder, kind, _, _, _, a, b, c, d, ..] = entry else {
            continue;
        };
        if flag & 0x7f != 0 {
            return Some(format!("entry {number} has the boot flag {flag:#04x}"));
        }
        if kind == 0xee {
            if number != 1 {
                return Some(format!("the protective entry is number {number}"));
            }
            if [head, sector, cylinder] != [0, 2, 0] || [a, b, c, d] != [1, 0, 0, 0] {
                return Some("the protective entry does not start at the second sector".to_owned());
            }
        }
        used = used.saturating_add(u32::from(kind != 0));
    }
    (used == 0).then(|| "it has a boot signature, but no partition".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[[u8; 16]]) -> Vec<u8> {
        let mut sector = vec![0; 512];
        for (index, entry) in entries.iter().enumerate() {
            sector[446 + 16 * index..462 + 16 * index].copy_from_slice(entry);
        }
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    #[test]
    fn tables_that_firmware_would_not_take_are_told() {
        let linux = [0x80, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0];
        let protective = [0, 0, 2, 0, 0xee, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0];
        let with = |at: usize, value: u8, mut entry: [u8; 16]| {
            entry[at] = value;
            entry
        };
        let problem = |entries: &[[u8; 16]]| Start::of(&table(entries)).table_problem;
        for good in [&[linux][..], &[protective], &[protective, linux]] {
            assert_eq!(problem(good), None);
        }
        for bad in [
            &[][..],
            &[with(0, 1, linux)],
            &[linux, protective],
            &[with(1, 1, protective)],
            &[with(8, 2, protective)],
        ] {
            assert!(problem(bad).is_some(), "{bad:?}");
        }
        let mut ntfs = table(&[]);
        ntfs[3..11].copy_from_slice(b"NTFS    ");
        assert_eq!(Start::of(&ntfs).table_problem, None, "its first sector is its own");
        assert_eq!(Start::of(&[0; 100]).table_problem, None);
    }
}
