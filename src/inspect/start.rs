//! The start of a disk: what lies there, and whether its partition table is sane.

use crate::contents::{self, Boot, Bounds};
use crate::disk::VirtualDisk;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentKind, StorageId};
use crate::format::Format;
use crate::format::probe::probe_bytes;
use crate::num::to_usize;
use crate::storage::Storage;

/// How much of a disk is looked at: enough for a GPT of 4 KiB sectors, and for the volume
/// descriptors of ISO 9660.
pub(super) const HEAD: usize = 40 << 10;

/// What lies at the start of a disk.
///
/// ```
/// # use std::{path::Path, sync::Arc};
/// # use diskimage::storage::MemoryStorage;
/// use diskimage::Format;
/// use diskimage::inspect::{Inspect, Policy};
///
/// let mut disk = vec![0; 1 << 20];
/// disk[..2].copy_from_slice(&[0xeb, 0xfe]); // code
/// disk[446..462].copy_from_slice(&[0x12, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 0xff, 7, 0, 0]);
/// disk[510..512].copy_from_slice(&[0x55, 0xaa]);
/// # let storage = Arc::new(MemoryStorage::new(disk));
/// let verdict = Inspect::new(Policy::openstack()).storage(storage, Path::new("disk.raw"))?;
/// let start = verdict.facts.start.as_ref().expect("it can be read");
/// assert!(start.contents.contains(&Format::BootSector)); // but no partition table
/// assert!(start.is_bootable() && !start.el_torito);
/// assert_eq!(start.table_problem.as_deref(), Some("entry 1 has the boot flag 0x12"));
/// assert_eq!(verdict.reasons[0].rule, "partition-table");
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Start {
    /// Partition tables, file systems and boot sectors.
    pub contents: Vec<Format>,
    /// What firmware would not take of the partition table, as a clause.
    pub table_problem: Option<String>,
    /// What a machine might start from, as far as it shows here: a disc's boot catalog, say, lies
    /// further in.
    pub boot: Boot,
    /// Whether there is a boot record of El Torito ("El Torito" Bootable CD-ROM Format
    /// Specification 1.0, section 2.0): what a disc is started from.
    pub el_torito: bool,
}

impl Start {
    /// Looks at the first bytes of a disk of `size` bytes.
    pub(super) fn of(head: &[u8], size: u64) -> Self {
        let probe = probe_bytes(head, None);
        let contents: Vec<_> = probe.contents().map(|found| found.format).collect();
        let table_problem = table_problem(head, &contents);
        let looked = contents::look(&Head { bytes: head, size }, &Bounds::default());
        let boot = looked.map(|looked| looked.boot).unwrap_or_default();
        let record = head.get(17 * 2048..).unwrap_or_default();
        let el_torito = record.starts_with(b"\0CD001\x01EL TORITO SPECIFICATION");
        Self { contents, table_problem, boot, el_torito }
    }

    /// Whether a machine might start from it.
    #[must_use]
    pub fn is_bootable(&self) -> bool {
        self.boot.by_bios() || self.boot.by_uefi() || self.el_torito
    }
}

/// A disk of which only the start can be read.
#[derive(Debug)]
struct Head<'a> {
    bytes: &'a [u8],
    size: u64,
}

impl VirtualDisk for Head<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn cluster_size(&self) -> u64 {
        512
    }

    fn extent_at(&self, offset: u64, max: u64) -> Result<Extent> {
        let length = max.min(self.size.saturating_sub(offset));
        Ok(Extent { start: offset, length, depth: 0, kind: ExtentKind::Encoded })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let found = self.bytes.get(to_usize(offset)..).and_then(|rest| rest.get(..buf.len()));
        let found = found.ok_or_else(|| {
            Error::other(ErrorKind::Unsupported, "only the start of the disk is looked at")
        })?;
        buf.copy_from_slice(found);
        Ok(())
    }

    fn storage(&self, _id: StorageId) -> Option<&dyn Storage> {
        None
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
        let problem = |entries: &[[u8; 16]]| Start::of(&table(entries), 1 << 20).table_problem;
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
        assert_eq!(Start::of(&ntfs, 512).table_problem, None, "its first sector is its own");
        assert_eq!(Start::of(&[0; 100], 100).table_problem, None);
    }
}
