//! Making internal snapshots, going back to one, and giving one up.

use crate::check::{Checking, Patch};
use crate::error::Result;
use crate::num::{to_u64, to_usize};

use super::super::Qcow2Layer;
use super::super::check::share;
use super::super::layout::*;
use super::super::snapshot::{SnapshotEntry, find};
use super::space::Space;
use super::tables::{Table, copy_table, read};
use super::{EditDetail, Fields, WITHOUT, check_whole, clear_unknown, write_header};

/// Longest name of a snapshot that QEMU shows, bytes.
const MAX_NAME: usize = 255;
/// Most snapshots that QEMU takes.
const MAX_SNAPSHOTS: usize = 65_536;

/// A change of the internal snapshots of an image, in the image file itself ("Snapshots").
///
/// The image has to be whole: it is checked first. All is written so that it can stop between any two
/// writes: the disk and its snapshots are then those from before or those from after, and nothing is
/// worse than a flag COPIED that a check mends, and leaks. Also after the last write what is not used any
/// more is leaked: open the image anew, and repair leaks.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::check::{Checking, MemoryPatch};
/// use diskimage::format::LayerOptions;
/// use diskimage::format::qcow2::{Qcow2Layer, Qcow2Options, SnapshotChange};
/// use diskimage::storage::MemoryStorage;
/// use diskimage::target::StreamTarget;
/// use diskimage::{Convert, Format, Layer, OpenOptions, Target, VirtualDisk};
///
/// # let storage = Arc::new(MemoryStorage::new(vec![7; 1 << 20]));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("raw"))?;
/// # let mut bytes = Vec::new();
/// # let target = StreamTarget::new(&mut bytes);
/// # let writer = Qcow2Options::new().writer(disk.size())?;
/// # Convert::new().image(&disk, Box::new(writer), None, &target)?;
/// # Box::new(target).finish()?;
/// let open = |bytes: &[u8]| {
///     let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
///     Qcow2Layer::open(storage, &LayerOptions::default())
/// };
/// let mut patch = MemoryPatch::new(bytes.clone()); // for a file: a FilePatch
/// let create = SnapshotChange::Create { name: b"before".to_vec(), date_sec: 0, date_nsec: 0 };
/// create.run(&open(&bytes)?, &Checking::new(), &mut patch)?;
///
/// let snapshots = open(&patch.into_bytes())?.describe()?.snapshots;
/// assert_eq!((&*snapshots[0].id, &*snapshots[0].name), (&b"1"[..], &b"before"[..]));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotChange {
    /// The disk as it is gets another snapshot, whose identifier is a number above all others.
    Create {
        /// Its name, of at most 255 bytes.
        name: Vec<u8>,
        /// When, in seconds since 1970.
        date_sec: u32,
        /// And the nanoseconds of that second.
        date_nsec: u32,
    },
    /// The disk becomes what it was: the snapshot of this identifier, or else of this name, which stays.
    Apply(Vec<u8>),
    /// The snapshot of this identifier, or else of this name, is given up.
    Delete(Vec<u8>),
}

impl SnapshotChange {
    /// Has `patch` write what changes the image. `checking` says with how much memory and how many
    /// threads it is checked before, and whom to tell how far that is.
    ///
    /// Refused, before anything is written: damage of any kind, marks of it (`Corrupt`), a name that is
    /// too long or that no snapshot has (`InvalidInput`), too many snapshots, reference counts that have no
    /// room (`LimitExceeded`), encryption, external data files, bitmaps where the disk changes
    /// (`Unsupported`).
    pub fn run(
        &self,
        layer: &Qcow2Layer,
        checking: &Checking,
        patch: &mut dyn Patch,
    ) -> Result<()> {
        match self {
            Self::Create { name, date_sec, date_nsec } => {
                if name.len() > MAX_NAME {
                    return Err(EditDetail::LongName.into());
                }
                if layer.snapshots().len() >= MAX_SNAPSHOTS {
                    return Err(EditDetail::ManySnapshots.into());
                }
                let first = check_whole(layer, checking)?;
                let entry = Entry { name, date_sec: *date_sec, date_nsec: *date_nsec };
                create(layer, first, &entry, checking, patch)
            }
            Self::Apply(wanted) => {
                let snapshot = find(layer.snapshots(), wanted)?;
                if !layer.bitmaps().is_empty() {
                    return Err(EditDetail::NotInPlace("disks with bitmaps", WITHOUT).into());
                }
                let first = check_whole(layer, checking)?;
                apply(layer, first, snapshot, checking, patch)
            }
            Self::Delete(wanted) => {
                let snapshot = find(layer.snapshots(), wanted)?;
                let first = check_whole(layer, checking)?;
                delete(layer, first, snapshot, patch)
            }
        }
    }
}

/// What is said of a new snapshot.
struct Entry<'a> {
    name: &'a [u8],
    date_sec: u32,
    date_nsec: u32,
}

impl Entry<'_> {
    /// The table entry, padded.
    fn bytes(&self, layer: &Qcow2Layer, l1_table_offset: u64) -> Vec<u8> {
        let header = layer.header();
        let id = new_id(layer.snapshots());
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or_default().to_be_bytes();
        let mut bytes = l1_table_offset.to_be_bytes().to_vec();
        bytes.extend(header.l1_size.to_be_bytes());
        bytes.extend(length(&id));
        bytes.extend(length(self.name));
        bytes.extend(self.date_sec.to_be_bytes());
        bytes.extend(self.date_nsec.to_be_bytes());
        // no machine: its clock, the size of its state
        bytes.extend(0_u64.to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
        // extra data: the size of its state in 64 bits, the disk size, the instruction count
        bytes.extend(24_u32.to_be_bytes());
        bytes.extend(0_u64.to_be_bytes());
        bytes.extend(header.size.to_be_bytes());
        bytes.extend(0_u64.to_be_bytes());
        bytes.extend(&id);
        bytes.extend(self.name);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }
}

/// A number above those of all snapshots, as far as these have numbers.
fn new_id(snapshots: &[SnapshotEntry]) -> Vec<u8> {
    let ids = snapshots.iter().map(|snapshot| &snapshot.description.id);
    let numbers = ids.filter_map(|id| std::str::from_utf8(id).ok()?.parse::<u32>().ok());
    let next = u64::from(numbers.max().unwrap_or_default()).saturating_add(1);
    next.to_string().into_bytes()
}

fn create(
    layer: &Qcow2Layer,
    first: u64,
    entry: &Entry<'_>,
    checking: &Checking,
    patch: &mut dyn Patch,
) -> Result<()> {
    let header = layer.header();
    share_table(layer, (header.l1_table_offset, header.l1_size), checking, patch)?;
    let mut space = Space::new(layer, first);
    let copy = copy_l1(layer, (header.l1_table_offset, header.l1_size), &mut space, patch)?;
    let mut table = snapshot_table(layer, None)?;
    table.extend(entry.bytes(layer, copy));
    let number = layer.snapshots().len().saturating_add(1);
    write_snapshots(layer, (number, &table), space, patch)
}

fn apply(
    layer: &Qcow2Layer,
    first: u64,
    snapshot: &SnapshotEntry,
    checking: &Checking,
    patch: &mut dyn Patch,
) -> Result<()> {
    let table = (snapshot.l1_table_offset, snapshot.l1_size);
    share_table(layer, table, checking, patch)?;
    let mut space = Space::new(layer, first);
    let l1_table_offset = copy_l1(layer, table, &mut space, patch)?;
    space.count(patch)?;
    let size = snapshot.description.virtual_size;
    let fields = Fields { size, l1_size: snapshot.l1_size, l1_table_offset };
    write_header(layer, fields, patch, "have the header say what the snapshot does")
}

fn delete(
    layer: &Qcow2Layer,
    first: u64,
    snapshot: &SnapshotEntry,
    patch: &mut dyn Patch,
) -> Result<()> {
    let table = snapshot_table(layer, Some(snapshot))?;
    let number = layer.snapshots().len().saturating_sub(1);
    write_snapshots(layer, (number, &table), Space::new(layer, first), patch)
}

/// Counts once more what an L1 table leads to.
fn share_table(
    layer: &Qcow2Layer,
    (offset, entries): (u64, u32),
    checking: &Checking,
    patch: &mut dyn Patch,
) -> Result<()> {
    match share(layer, (offset, entries.into()), checking, patch)? {
        true => Ok(()),
        false => Err(EditDetail::CountFull.into()),
    }
}

/// Writes a copy of an L1 table whose clusters are counted more than once; gives where it lies.
fn copy_l1(
    layer: &Qcow2Layer,
    (from, entries): (u64, u32),
    space: &mut Space<'_>,
    patch: &mut dyn Patch,
) -> Result<u64> {
    let length = u64::from(entries).saturating_mul(8);
    let clusters = layer.header().cluster.count(length);
    let to = space.take(clusters)?;
    let what = "write a copy of the L1 table";
    let table = Table { from, entries: entries.into(), to, clusters, what };
    copy_table(layer, &table, patch, |_, old| Ok(old & !ENTRY_COPIED))?;
    Ok(to)
}

/// The entries of the snapshot table, as they are, but for one.
fn snapshot_table(layer: &Qcow2Layer, without: Option<&SnapshotEntry>) -> Result<Vec<u8>> {
    let mut table = Vec::new();
    for entry in layer.snapshots() {
        if without.is_none_or(|without| without.offset != entry.offset) {
            // the padding of the last one may be cut off
            let end = entry.end.min(layer.storage().size());
            let length = end.saturating_sub(entry.offset);
            table.extend(read(layer, "the snapshot table", entry.offset, length)?);
            table.resize(table.len().next_multiple_of(8), 0);
        }
    }
    Ok(table)
}

/// Writes a snapshot table, counts all that is new, and then has the header name it.
fn write_snapshots(
    layer: &Qcow2Layer,
    (number, table): (usize, &[u8]),
    mut space: Space<'_>,
    patch: &mut dyn Patch,
) -> Result<()> {
    let cluster = layer.header().cluster;
    let mut offset = 0;
    if number > 0 {
        let clusters = cluster.count(to_u64(table.len()));
        offset = space.take(clusters)?;
        let mut bytes = table.to_vec();
        bytes.resize(to_usize(cluster.ceil(to_u64(table.len()))), 0);
        patch.write(offset, &bytes, "write the snapshot table anew")?;
    }
    space.count(patch)?;
    clear_unknown(layer, patch)?;
    let mut fields = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    fields.extend(offset.to_be_bytes());
    patch.write(60, &fields, "have the header name the new snapshot table")?;
    patch.barrier()
}
