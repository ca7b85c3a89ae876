//! What lies on the disk that a guest sees: its partition table, and the file systems in the
//! partitions and on the whole disk, by their superblocks; through every format.
//!
//! ```
//! use diskimage::{OpenOptions, contents};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("disk.raw");
//! # let mut disk = vec![0; 1 << 20];
//! # disk[446..462].copy_from_slice(&[0x80, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 0xff, 7, 0, 0]);
//! # disk[510..512].copy_from_slice(&[0x55, 0xaa]);
//! # std::fs::write(&path, disk)?;
//! let disk = OpenOptions::new().open(&path)?;
//! let contents = contents::look(&disk, &contents::Bounds::default())?;
//! for partition in &contents.partitions {
//!     let kinds: Vec<_> = partition.superblocks.iter().map(|s| s.kind.name()).collect();
//!     println!("{}: {} bytes at {}: {kinds:?}", partition.number, partition.length, partition.start);
//! }
//! println!("{}", contents.boot);
//! assert_eq!((contents.partitions.len(), contents.boot.active), (1, Some(1)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Little is read (see [`Bounds`]), nothing is followed for long, and nothing is believed that the
//! disk does not hold: what contradicts itself is a finding. Names and identifiers have the form
//! that `blkid -p` gives them. The sources are named in the files that read each format; that of
//! the partition tables is the UEFI specification 2.10, sections 5.2 and 5.3, and for the types of
//! partitions the UAPI group's "Discoverable Partitions Specification".

use crate::disk::VirtualDisk;
use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::num::{Pow2, to_usize};
use crate::partition::mbr;
use crate::storage::Storage;

mod boot;
mod fs;
mod superblock;
mod table;
#[cfg(test)]
mod tests;
mod types;
mod view;

pub use boot::Boot;
pub use superblock::{Kind, Superblock, Usage};
pub use table::{Partition, PartitionType, Role, Table, TableKind};

use view::{Peek, View};

/// How far a disk is looked at.
///
/// ```
/// # use std::{path::Path, sync::Arc};
/// # use diskimage::{Format, OpenOptions, storage::MemoryStorage};
/// use diskimage::contents::{self, Bounds};
///
/// # let mut bytes = vec![0; 1 << 20];
/// # for (number, at) in (1u8..).zip([446, 462, 478]) {
/// #     bytes[at + 4] = 0x83;
/// #     bytes[at + 8] = number;
/// #     bytes[at + 12] = 1;
/// # }
/// # bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
/// let whole = contents::look(&disk, &Bounds::default())?;
/// assert_eq!(whole.partitions.len(), 3);
/// let mut bounds = Bounds::default();
/// bounds.max_partitions = 2;
/// bounds.max_read = 64 << 10;
/// let part = contents::look(&disk, &bounds)?;
/// assert_eq!(part.partitions.len(), 2);
/// assert!(part.bytes_read <= 64 << 10);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Bounds {
    /// How many bytes of the disk are read at most. What would take more is not looked at, and
    /// that is told where it is missing. Default: 1 MiB, enough for some 80 partitions.
    pub max_read: u64,
    /// How many partitions are listed. Default: 256.
    pub max_partitions: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { max_read: 1 << 20, max_partitions: 256 }
    }
}

/// What lies on a disk. Offsets and sizes are bytes of the disk; texts are free of control
/// characters.
///
/// ```
/// use diskimage::contents::{self, Bounds};
/// use diskimage::disk::EmptyDisk;
///
/// let contents = contents::look(&EmptyDisk(1 << 30), &Bounds::default())?;
/// assert!(contents.table.is_none() && contents.partitions.is_empty());
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Contents {
    /// The disk's size.
    pub size: u64,
    /// The partition table, if there is one.
    pub table: Option<Table>,
    /// The partitions, by their numbers.
    pub partitions: Vec<Partition>,
    /// What lies on the disk as a whole: a file system without partitions, the ISO 9660 file system
    /// of a hybrid. The first one is what other programs take it for.
    pub superblocks: Vec<Superblock>,
    /// Why not all of that could be told: what could not be read.
    pub error: Option<String>,
    /// What it could be started from.
    pub boot: Boot,
    /// What is odd or wrong.
    pub findings: Vec<Finding>,
    /// How many bytes of the disk were read.
    pub bytes_read: u64,
}

/// Looks at `disk`. What cannot be read is told beside the rest; only a disk whose first sector
/// cannot be read is an error.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::contents::{self, Bounds};
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Format, OpenOptions};
///
/// let mut bytes = vec![0; 64 << 10];
/// bytes[0x1000 - 10..0x1000].copy_from_slice(b"SWAPSPACE2");
/// bytes[1024..1032].copy_from_slice(&[1, 0, 0, 0, 15, 0, 0, 0]); // its version, the last page
/// let storage = Arc::new(MemoryStorage::new(bytes));
/// let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("swap"))?;
/// let contents = contents::look(&disk, &Bounds::default())?;
/// assert!(contents.table.is_none());
/// let swap = &contents.superblocks[0];
/// assert_eq!((swap.kind.name(), swap.size), ("swap", Some(64 << 10)));
/// # Ok::<(), diskimage::Error>(())
/// ```
pub fn look(disk: &dyn VirtualDisk, bounds: &Bounds) -> Result<Contents> {
    let peek = Peek::new(disk, bounds.max_read);
    let size = peek.size();
    let mut contents = Contents { size, ..Contents::default() };
    if size == 0 {
        return Ok(contents);
    }
    let mut sector = vec![0; to_usize(mbr::SECTOR.min(size))];
    peek.read_exact_at(&mut sector, 0)?;
    let whole = View { peek: &peek, start: 0, length: size };
    // before the partitions, so that these cannot use up the bytes that may be read
    let (mut found, mut failed) = fs::recognise(&whole, |_| true);
    table::read(&peek, &sector, bounds, &mut contents);
    look_into_all(&peek, &mut contents);
    let is_mbr = contents.table.as_ref().is_some_and(|table| table.kind == TableKind::Mbr);
    if is_mbr && contents.partitions.iter().all(is_blank) {
        try_large_sectors(&peek, &sector, bounds, &mut contents);
    }
    // the superblock at the end of the last partition is at the end of the disk too
    let inner = |one: &Superblock| {
        let partitions = contents.partitions.iter().filter(|partition| partition.start > 0);
        let mut theirs = partitions.flat_map(|partition| &partition.superblocks);
        theirs.any(|other| (one.kind, one.offset) == (other.kind, other.offset))
    };
    if found.iter().any(inner) {
        (found, failed) = fs::recognise(&whole, |one| !inner(one));
    }
    judge(&found, size, "the disk", &mut contents.findings);
    let is_iso = found.iter().any(|one| one.kind == Kind::Iso9660);
    if is_iso && contents.table.is_some() {
        let text = "an ISO 9660 file system and a partition table share the disk";
        contents.findings.push(Finding::new(Code::HybridIso, text));
    }
    let catalog = if is_iso { fs::el_torito(&whole) } else { Ok(None) };
    let catalog = catalog.unwrap_or_else(|error| {
        failed.get_or_insert(error);
        None
    });
    contents.superblocks = found;
    contents.error = failed.map(|error| error.to_string());
    contents.boot = boot::judge(&sector, &contents, catalog.unwrap_or_default());
    contents.bytes_read = peek.read();
    Ok(contents)
}

/// Whether nothing is known of what lies in it.
fn is_blank(partition: &Partition) -> bool {
    partition.superblocks.is_empty()
}

/// An MBR does not say how large the sectors are that it counts. Where nothing was found by those of
/// 512 bytes, and something is by those of 4096, it is the latter.
fn try_large_sectors(peek: &Peek<'_>, sector: &[u8], bounds: &Bounds, contents: &mut Contents) {
    let mut other = Contents { size: contents.size, ..Contents::default() };
    table::read_mbr(peek, sector, Pow2::PAGE, bounds, &mut other);
    look_into_all(peek, &mut other);
    if other.findings.is_empty() && !other.partitions.iter().all(is_blank) {
        let text = "the MBR counts in sectors of 4096 bytes: there are file systems where it says";
        let finding = Finding::new(Code::Unusual, text).at(mbr::AT_ENTRIES);
        other.findings.push(finding.in_structure("MBR"));
        // what was said of the GPT holds as before
        contents.findings.retain(|finding| finding.code == Code::Unreadable);
        other.findings.append(&mut contents.findings);
        *contents = other;
    }
}

fn look_into_all(peek: &Peek<'_>, contents: &mut Contents) {
    for index in 0..contents.partitions.len() {
        look_into(peek, index, contents);
    }
}

/// Recognises what lies in a partition.
fn look_into(peek: &Peek<'_>, index: usize, contents: &mut Contents) {
    let size = contents.size;
    let Some(partition) = contents.partitions.get_mut(index) else { return };
    if partition.role == Role::Extended {
        return;
    }
    let Some(left) = size.checked_sub(partition.start).filter(|&left| left > 0) else {
        partition.error = Some("it starts beyond the end of the disk".to_owned());
        return;
    };
    let length = partition.length.min(left);
    let view = View { peek, start: partition.start, length };
    let (found, failed) = fs::recognise(&view, |_| true);
    judge(&found, length, &format!("partition {}", partition.number), &mut contents.findings);
    partition.superblocks = found;
    partition.error = failed.map(|error| error.to_string());
}

/// What is odd about the superblocks in one place of `length` bytes.
fn judge(found: &[Superblock], length: u64, place: &str, findings: &mut Vec<Finding>) {
    for one in found {
        let name = one.kind.description();
        findings.extend(one.odd.iter().map(|odd| odd.clone().at(one.offset)));
        if let Some(size) = one.size.filter(|&size| size > length) {
            let text = format!("the {name} has {size} bytes, but {place} has only {length}");
            findings.push(Finding::new(Code::Truncated, text).at(one.offset));
        }
        if one.kind.usage() == Usage::Encrypted {
            let text = format!("{place} is encrypted: {name}");
            findings.push(Finding::new(Code::Encrypted, text).at(one.offset));
        }
    }
    // discs have both of these, and those of Apple's too
    let on_discs = [Kind::Iso9660, Kind::Udf, Kind::Hfs, Kind::HfsPlus, Kind::Apfs];
    let is_disc = found.iter().any(|one| one.kind == Kind::Iso9660);
    let others = found.iter().filter(|one| !is_disc || !on_discs.contains(&one.kind));
    let others: Vec<_> = others.map(|one| one.kind.name()).collect();
    if others.len().saturating_add(usize::from(is_disc)) > 1 {
        let names: Vec<_> = found.iter().map(|one| one.kind.name()).collect();
        let text = format!("more than one superblock fits {place}: {}", names.join(", "));
        findings.push(Finding::new(Code::Polyglot, text));
    }
}
