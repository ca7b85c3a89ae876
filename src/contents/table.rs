//! The partition table of a disk, as a list.

use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::format::Format;
use crate::format::probe::probe_bytes;
use crate::num::{Pow2, to_usize};
use crate::partition::gpt::{self, Gpt};
use crate::partition::mbr;

use super::fs::{wide_label, wide_le};
use super::view::Peek;
use super::{Bounds, Contents, Superblock, types};

/// A partition table.
///
/// ```
/// # use std::{path::Path, sync::Arc};
/// # use diskimage::{Format, OpenOptions, storage::MemoryStorage};
/// use diskimage::contents::{self, Bounds, TableKind};
///
/// let mut sector = vec![0; 512];
/// sector[440..444].copy_from_slice(&0x1234_abcd_u32.to_le_bytes()); // the disk's number
/// sector[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
/// sector[510..512].copy_from_slice(&[0x55, 0xaa]);
/// # sector.resize(4096, 0);
/// # let storage = Arc::new(MemoryStorage::new(sector));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
/// let contents = contents::look(&disk, &Bounds::default())?;
/// let table = contents.table.expect("an MBR");
/// assert_eq!((table.kind, table.sector_size), (TableKind::Mbr, 512));
/// assert_eq!(table.id.as_deref(), Some("1234abcd"));
/// assert!(!table.is_hybrid);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Table {
    /// What kind it is.
    pub kind: TableKind,
    /// The unit that it counts in, bytes. An MBR does not tell: it is 512, unless file systems
    /// lie where it has partitions if that is 4096, and none if it is 512.
    pub sector_size: u64,
    /// The disk's identifier: a GUID, or the number in the MBR as eight digits in hexadecimal.
    pub id: Option<String>,
    /// A GPT whose MBR lists partitions of its own beside the protective one.
    pub is_hybrid: bool,
}

/// A kind of partition table.
///
/// ```
/// use diskimage::contents::TableKind;
///
/// // what sfdisk calls them
/// assert_eq!([TableKind::Gpt, TableKind::Mbr].map(TableKind::name), ["gpt", "dos"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TableKind {
    /// A GUID partition table.
    Gpt,
    /// The table in the first sector, and the chains of extended partitions.
    Mbr,
}

impl TableKind {
    /// The name: `gpt`, `dos`, as `blkid` and `sfdisk` have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt => "gpt",
            Self::Mbr => "dos",
        }
    }
}

/// What a partition is within its table.
///
/// ```
/// # use std::{path::Path, sync::Arc};
/// # use diskimage::{Format, OpenOptions, storage::MemoryStorage};
/// use diskimage::contents::{self, Bounds, Role};
///
/// let mut bytes = vec![0; 16 << 10];
/// // an extended partition from sector 2 on, 16 sectors
/// bytes[446..462].copy_from_slice(&[0, 0, 3, 0, 5, 0, 0, 0, 2, 0, 0, 0, 16, 0, 0, 0]);
/// bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
/// // in its own table a partition that starts at its second sector, and has 8
/// bytes[1470..1486].copy_from_slice(&[0, 0, 4, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0]);
/// bytes[1534..1536].copy_from_slice(&[0x55, 0xaa]);
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
/// let found = contents::look(&disk, &Bounds::default())?.partitions;
/// let found: Vec<_> = found.iter().map(|one| (one.number, one.role, one.start / 512)).collect();
/// assert_eq!(found, [(1, Role::Extended, 2), (5, Role::Logical, 3)]);
/// assert_eq!(Role::Logical.as_str(), "logical");
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// It stands in the table.
    Primary,
    /// It stands in the table of an MBR and holds the logical ones.
    Extended,
    /// It lies in an extended one.
    Logical,
}

impl Role {
    /// The name in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Extended => "extended",
            Self::Logical => "logical",
        }
    }
}

/// What a partition is said to be for.
///
/// ```
/// # use std::{path::Path, sync::Arc};
/// # use diskimage::{Format, OpenOptions, storage::MemoryStorage};
/// use diskimage::contents::{self, Bounds};
///
/// # let mut sector = vec![0; 512];
/// # sector[440] = 1;
/// sector[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0]);
/// sector[462..478].copy_from_slice(&[0, 0, 5, 0, 0x7f, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0]);
/// # sector[510..512].copy_from_slice(&[0x55, 0xaa]);
/// # sector.resize(4096, 0);
/// # let storage = Arc::new(MemoryStorage::new(sector));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
/// let [linux, other] = &contents::look(&disk, &Bounds::default())?.partitions[..] else {
///     panic!("two partitions");
/// };
/// assert_eq!((&*linux.kind.id, linux.kind.name), ("0x83", Some("Linux")));
/// assert_eq!((&*other.kind.id, other.kind.name), ("0x7f", None));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionType {
    /// A GUID in lower case, or a byte as `0x83`.
    pub id: String,
    /// What it means, where that is known.
    pub name: Option<&'static str>,
}

/// A partition.
///
/// ```
/// # use std::{path::Path, sync::Arc};
/// # use diskimage::{Format, OpenOptions, storage::MemoryStorage};
/// use diskimage::contents::{self, Bounds, Kind, Role};
///
/// let mut bytes = vec![0; 64 << 10];
/// bytes[440..444].copy_from_slice(&[1, 0, 0, 0]); // the disk's number
/// // the table's first entry: active, swap space, from sector 8 on, 120 sectors
/// bytes[446..462].copy_from_slice(&[0x80, 0, 9, 0, 0x82, 0, 0, 0, 8, 0, 0, 0, 120, 0, 0, 0]);
/// bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
/// bytes[0x2000 - 10..0x2000].copy_from_slice(b"SWAPSPACE2"); // the end of its first page
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
/// let partition = &contents::look(&disk, &Bounds::default())?.partitions[0];
/// assert_eq!((partition.number, partition.role), (1, Role::Primary));
/// assert_eq!((partition.start, partition.length), (4096, 120 * 512));
/// assert!(partition.bootable);
/// assert_eq!(partition.uuid.as_deref(), Some("00000001-01"));
/// assert_eq!(partition.superblocks[0].kind, Kind::Swap);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Partition {
    /// Its number, from 1; logical ones count from 5.
    pub number: u32,
    /// What it is within its table.
    pub role: Role,
    /// Where it starts, bytes.
    pub start: u64,
    /// How long it is by the table, bytes; the disk may end before that.
    pub length: u64,
    /// What it is said to be for.
    pub kind: PartitionType,
    /// Its name in a GPT.
    pub name: Option<String>,
    /// Its identifier: a GUID, or that of the disk and its number, as `blkid` has it.
    pub uuid: Option<String>,
    /// Whether a BIOS is to boot from it: the active one of an MBR, bit 2 in a GPT.
    pub bootable: bool,
    /// The attributes of a GPT (UEFI 2.10, table 5.8); zero in an MBR.
    pub attributes: u64,
    /// What lies in it. The first one is what other programs take it for.
    pub superblocks: Vec<Superblock>,
    /// Why that could not be told in whole.
    pub error: Option<String>,
}

/// Reads the table of the disk whose first sector is `sector`.
pub(super) fn read(peek: &Peek<'_>, sector: &[u8], bounds: &Bounds, contents: &mut Contents) {
    match Gpt::find(peek) {
        Ok(Some(found)) => {
            if let Err(error) = read_gpt(peek, sector, &found, bounds, contents) {
                unreadable(contents, "GPT", &error);
            }
            return hold_against_disk(contents);
        }
        Ok(None) => {}
        Err(error) => unreadable(contents, "GPT", &error),
    }
    read_mbr(peek, sector, Pow2::SECTOR, bounds, contents);
}

fn unreadable(contents: &mut Contents, what: &'static str, error: &Error) {
    let text = format!("the {what} could not be read: {error}");
    contents.findings.push(Finding::new(Code::Unreadable, text).in_structure(what));
}

fn read_gpt(
    peek: &Peek<'_>,
    sector: &[u8],
    found: &Gpt,
    bounds: &Bounds,
    contents: &mut Contents,
) -> Result<()> {
    for (copy, name) in
        [(&found.primary, "primary GPT header"), (&found.backup, "backup GPT header")]
    {
        if let Some(problem) = &copy.problem {
            let text = format!("the {name} is damaged: {}", problem.text);
            let finding = Finding::new(problem.code, text).at(problem.at).in_structure(name);
            contents.findings.push(finding);
        }
    }
    let own = mbr::entries(sector, 0, 0);
    let protective = own.iter().filter(|entry| entry.kind == mbr::PROTECTIVE).count();
    let is_hybrid = mbr::is_signed(sector) && protective > 0 && own.len() > protective;
    if is_hybrid {
        let text = "the MBR lists partitions beside the GPT's: programs will disagree";
        let finding = Finding::new(Code::Unusual, text).at(mbr::AT_ENTRIES);
        contents.findings.push(finding.in_structure("protective MBR"));
    }
    let used = found.used();
    let header = used.and_then(|used| used.header.as_ref());
    contents.table = Some(Table {
        kind: TableKind::Gpt,
        sector_size: found.sector.size(),
        id: header.map(|header| guid(header.disk_guid)),
        is_hybrid,
    });
    let Some(used) = used else { return Ok(()) };
    for entry in used.partitions(peek, found.sector)? {
        let bytes = |lba| found.sector.offset_of(lba).unwrap_or(u64::MAX);
        let number = entry.index.saturating_add(1);
        if entry.last_lba < entry.first_lba {
            let text = format!("partition {number} ends before it starts");
            let finding = Finding::new(Code::InvalidEntry, text).at(entry.at);
            contents.findings.push(finding.in_structure("GPT entry"));
        }
        let start = bytes(entry.first_lba);
        let kind = guid(entry.kind);
        let partition = Partition {
            number: u32::try_from(number).unwrap_or(u32::MAX),
            role: Role::Primary,
            start,
            length: bytes(entry.last_lba.saturating_add(1)).saturating_sub(start),
            kind: PartitionType { name: types::of_guid(&kind), id: kind },
            name: wide_label(wide_le(&entry.name)),
            uuid: Some(guid(entry.guid)),
            bootable: entry.attributes & gpt::LEGACY_BOOT != 0,
            attributes: entry.attributes,
            superblocks: Vec::new(),
            error: None,
        };
        if !push(contents, bounds, partition) {
            break;
        }
    }
    Ok(())
}

/// Reads the table in the first sector, which counts in this `unit`.
pub(super) fn read_mbr(
    peek: &Peek<'_>,
    sector: &[u8],
    unit: Pow2,
    bounds: &Bounds,
    contents: &mut Contents,
) {
    // tells a table from the boot sector of a file system
    let is_table = probe_bytes(sector, None).matches.iter().any(|m| m.format == Format::Mbr);
    if is_table {
        list_mbr(peek, sector, unit, bounds, contents);
        hold_against_disk(contents);
    }
}

fn list_mbr(peek: &Peek<'_>, sector: &[u8], unit: Pow2, bounds: &Bounds, contents: &mut Contents) {
    let number = sector.get(440..444).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
    let id = format!("{:08x}", u32::from_le_bytes(number));
    contents.table = Some(Table {
        kind: TableKind::Mbr,
        sector_size: unit.size(),
        id: Some(id.clone()),
        is_hybrid: false,
    });
    let partition = |entry: &mbr::Entry, number: u32, role| Partition {
        number,
        role,
        start: entry.start.saturating_mul(unit.size()),
        length: entry.end.saturating_sub(entry.start).saturating_mul(unit.size()),
        kind: PartitionType {
            id: format!("{:#04x}", entry.kind),
            name: types::of_byte(entry.kind),
        },
        name: None,
        uuid: Some(format!("{id}-{number:02x}")),
        bootable: entry.active,
        attributes: 0,
        superblocks: Vec::new(),
        error: None,
    };
    let entries = mbr::entries(sector, 0, 0);
    for entry in &entries {
        if entry.kind == mbr::PROTECTIVE {
            let text = "the MBR announces a GPT, but neither of its copies is there";
            let finding = Finding::new(Code::InvalidEntry, text).at(entry.at);
            contents.findings.push(finding.in_structure("protective MBR"));
        }
        let role = if entry.is_extended() { Role::Extended } else { Role::Primary };
        if !push(contents, bounds, partition(entry, entry.slot, role)) {
            return;
        }
    }
    let mut number = 5u32;
    for extended in entries.iter().filter(|entry| entry.is_extended()) {
        let mut chain = mbr::Chain::default();
        let followed = mbr::follow(peek, unit, extended, &mut chain);
        if let Some((why, at)) = chain.broken {
            let text = format!("the chain of the extended partition {why}");
            let finding = Finding::new(Code::InvalidEntry, text).at(at);
            contents.findings.push(finding.in_structure("extended partition"));
        }
        for entry in &chain.logical {
            if !push(contents, bounds, partition(entry, number, Role::Logical)) {
                return;
            }
            number = number.saturating_add(1);
        }
        if let Err(error) = followed {
            unreadable(contents, "extended partition", &error);
        }
    }
}

/// Adds a partition, unless there are too many, which is told.
fn push(contents: &mut Contents, bounds: &Bounds, partition: Partition) -> bool {
    let fits = contents.partitions.len() < to_usize(bounds.max_partitions.into());
    if fits {
        contents.partitions.push(partition);
    } else {
        let text =
            format!("there are more than {} partitions; these are listed", bounds.max_partitions);
        contents.findings.push(Finding::new(Code::Unreadable, text));
    }
    fits
}

/// Tells partitions that the disk does not hold, or that share room.
fn hold_against_disk(contents: &mut Contents) {
    let mut sorted: Vec<_> = contents
        .partitions
        .iter()
        .map(|one| (one.start, one.start.saturating_add(one.length), one))
        .collect();
    sorted.sort_by_key(|&(start, end, one)| (start, end, one.number));
    let mut findings = Vec::new();
    let mut before: Option<(u64, u32)> = None;
    for (start, end, one) in sorted {
        if end > contents.size {
            let text = format!(
                "partition {} ends at {end:#x}, beyond the disk's {:#x} bytes",
                one.number, contents.size
            );
            findings.push(Finding::new(Code::BeyondEnd, text).at(start));
        }
        if one.role == Role::Extended {
            continue;
        }
        if let Some((_, other)) = before.filter(|&(until, _)| start < until && start < end) {
            let text = format!("partition {} starts within partition {other}", one.number);
            findings.push(Finding::new(Code::Overlap, text).at(start));
        }
        if before.is_none_or(|(until, _)| until < end) {
            before = Some((end, one.number));
        }
    }
    contents.findings.extend(findings);
}

/// A GUID, as it is stored, in the form of its text.
fn guid(stored: [u8; 16]) -> String {
    let [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p] = stored;
    crate::text::uuid(&[a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
}
