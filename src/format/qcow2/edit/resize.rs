//! Making the disk longer or shorter.

use std::fmt;

use crate::bytes::is_zero;
use crate::check::{Checking, Patch};
use crate::disk::VirtualDisk;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::num::{Pow2, to_u64, to_usize};

use super::super::Qcow2Layer;
use super::super::header::Header;
use super::super::layout::*;
use super::space::Space;
use super::tables::{Table, change_table, copy_table, cut_off_read, read};
use super::tail::{Mend, Tail};
use super::{EditDetail, Fields, WITHOUT, check_whole, write_changed, write_header};

/// Most bytes of tables that hide what a long backing file has behind the old end.
const MOST_ZERO_TABLES: u64 = 1 << 30;

/// Gives the disk of an image another size, in the image file itself.
///
/// What the disk gains reads as zeros, also where a cluster or a backing file has other bytes there; what
/// it loses is given up. Snapshots keep their sizes. The image has to be whole: it is checked first.
///
/// All is written so that it can stop between any two writes: the image then has its old size or its
/// new one, is whole, and takes up more room at worst. Also after the last write the old tables, and
/// clusters behind the new end, are leaked: open it anew, and repair leaks.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::check::{Checking, MemoryPatch, RepairScope};
/// use diskimage::format::LayerOptions;
/// use diskimage::format::qcow2::{Qcow2Layer, Qcow2Options, Resize};
/// use diskimage::storage::MemoryStorage;
/// use diskimage::target::StreamTarget;
/// use diskimage::{Convert, Format, OpenOptions, Target, VirtualDisk};
///
/// # let storage = Arc::new(MemoryStorage::new(vec![7; 1 << 20]));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("raw"))?;
/// # let mut bytes = Vec::new();
/// # let target = StreamTarget::new(&mut bytes);
/// # let writer = Qcow2Options::new().writer(disk.size())?;
/// # Convert::new().image(&disk, Box::new(writer), None, &target)?;
/// # Box::new(target).finish()?;
/// let storage = Arc::new(MemoryStorage::new(bytes.clone()));
/// let layer = Qcow2Layer::open(storage, &LayerOptions::default())?;
/// let mut patch = MemoryPatch::new(bytes); // for a file: a FilePatch
/// Resize::new(10 << 30).run(&layer, &Checking::new(), &mut patch)?;
///
/// // opened anew, it gives free what it does not use any more
/// let bytes = patch.into_bytes();
/// let storage = Arc::new(MemoryStorage::new(bytes.clone()));
/// let image = OpenOptions::new().open_image_storage(storage, Path::new("image.qcow2"))?;
/// assert_eq!(image.layer().size(), 10 << 30);
/// image.repair(RepairScope::Leaks, &Checking::new(), &mut MemoryPatch::new(bytes))?;
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Clone)]
pub struct Resize<'a> {
    size: u64,
    shrink: bool,
    limits: Limits,
    backing: Option<&'a dyn VirtualDisk>,
}

impl fmt::Debug for Resize<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backing = self.backing.map(VirtualDisk::size);
        f.debug_struct("Resize")
            .field("size", &self.size)
            .field("shrink", &self.shrink)
            .field("backing", &backing)
            .finish_non_exhaustive()
    }
}

impl<'a> Resize<'a> {
    /// To `size` bytes, a multiple of 512. A disk that has more is not made shorter.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self { size, shrink: false, limits: Limits::default(), backing: None }
    }

    /// Whether what lies behind the new end may be lost. Default: no, and a smaller size is an error.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::check::{Checking, MemoryPatch};
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::qcow2::{Qcow2Layer, Qcow2Options, Resize};
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::target::MemoryTarget;
    /// use diskimage::{Convert, Layer, Target};
    ///
    /// # let target = MemoryTarget::new(1 << 20);
    /// # Convert::new().create(Box::new(Qcow2Options::new().writer(4 << 30)?), &target)?;
    /// # Box::new(target.clone()).finish()?;
    /// # let bytes = target.take().unwrap_or_default();
    /// let open = |bytes: &[u8]| {
    ///     let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    ///     Qcow2Layer::open(storage, &LayerOptions::default())
    /// };
    /// let layer = open(&bytes)?; // of 4 GiB
    /// let mut patch = MemoryPatch::new(bytes);
    /// let half = Resize::new(2 << 30);
    /// assert!(half.run(&layer, &Checking::new(), &mut patch).is_err());
    /// half.shrink(true).run(&layer, &Checking::new(), &mut patch)?;
    /// assert_eq!(open(&patch.into_bytes())?.size(), 2 << 30);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn shrink(mut self, yes: bool) -> Self {
        self.shrink = yes;
        self
    }

    /// The bounds: the largest virtual size, and the largest L1 table.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The disk of the backing file, which an image that has one needs to grow: what that has behind
    /// the old end must not show.
    #[must_use]
    pub fn backing(mut self, disk: &'a dyn VirtualDisk) -> Self {
        self.backing = Some(disk);
        self
    }

    /// Has `patch` write what changes the image. `checking` says with how much memory and how many
    /// threads it is checked before, and whom to tell how far that is.
    ///
    /// Refused, before anything is written: damage of any kind, marks of it (`Corrupt`), a size that makes
    /// no sense or would lose data (`InvalidInput`), tables above the limits (`LimitExceeded`),
    /// encryption, bitmaps, external data files, and snapshots in version 2 (`Unsupported`).
    pub fn run(
        &self,
        layer: &Qcow2Layer,
        checking: &Checking,
        patch: &mut dyn Patch,
    ) -> Result<()> {
        let header = layer.header();
        self.check_size(header)?;
        if header.version < 3 && !layer.snapshots().is_empty() {
            return Err(EditDetail::OldSnapshots.into());
        }
        if !layer.bitmaps().is_empty() {
            return Err(EditDetail::NotInPlace("images with bitmaps", WITHOUT).into());
        }
        let first = check_whole(layer, checking)?;
        if self.size == header.size {
            return Ok(());
        }
        let backing = match (self.backing, &header.backing_file) {
            (_, None) => None,
            (None, Some(_)) if self.size > header.size => {
                return Err(EditDetail::BackingMissing.into());
            }
            (backing, Some(_)) => backing,
        };
        let zeros = self.zeros(header, backing)?;
        let end = self.size.min(header.size);
        let shows = self.size > header.size && backing.is_some_and(|disk| disk.size() > end);
        let tail = Tail { layer, backing, end, shows };
        let change = Change::plan(layer, &tail, self.size, zeros, Space::new(layer, first), patch)?;
        change.write(patch)
    }

    fn check_size(&self, header: &Header) -> Result<()> {
        let size = self.size;
        if size == 0 || !Pow2::SECTOR.is_aligned(size) {
            return Err(EditDetail::NotSectors.into());
        }
        let limit = self.limits.max_virtual_size;
        if size > limit {
            return Err(EditDetail::LargeDisk { size, limit }.into());
        }
        if size < header.size && !self.shrink {
            return Err(EditDetail::Shrinks(header.size).into());
        }
        let table = header.l2_span().count(size).saturating_mul(8);
        let limit = self.limits.max_table_size.min(MAX_L1_TABLE_SIZE);
        if table > limit {
            return Err(EditDetail::LongTable { size, table, limit }.into());
        }
        Ok(())
    }

    /// Guest clusters that have to be called zeros, so that a backing file does not show in them.
    fn zeros(&self, header: &Header, backing: Option<&dyn VirtualDisk>) -> Result<(u64, u64)> {
        let start = header.cluster.count(header.size);
        let Some(backing) = backing.map(VirtualDisk::size) else { return Ok((start, start)) };
        let end = header.cluster.count(self.size.min(backing)).max(start);
        if end == start {
            return Ok((start, start));
        }
        let old = header.size;
        if header.version < 3 {
            return Err(Error::new(EditDetail::OldZeros { backing, old }));
        }
        let per_table = header.l2_span().bits().saturating_sub(header.cluster.bits());
        let tables = end.wrapping_shr(per_table).saturating_sub(start.wrapping_shr(per_table));
        let (tables, limit) = (tables.saturating_mul(header.cluster.size()), MOST_ZERO_TABLES);
        if tables > limit {
            return Err(EditDetail::ManyZeros { backing, old, tables, limit }.into());
        }
        Ok((start, end))
    }
}

/// Where the L2 table goes that the end of the disk lies in.
#[derive(Debug)]
enum Place {
    /// It stays as it is, if there is one.
    Same,
    /// It is changed where it is: its offset, what it holds and what it is to hold.
    Here(u64, Vec<u8>, Vec<u8>),
    /// Its L1 entry gets this value, which may be none.
    New(u64),
}

/// What is changed, all new clusters being written.
#[derive(Debug)]
struct Change<'a> {
    layer: &'a Qcow2Layer,
    space: Space<'a>,
    fields: Fields,
    mend: Mend,
    /// The L1 entry of the L2 table that the end of the disk lies in.
    index: u64,
    place: Place,
    /// The first L1 entry that is wholly behind the end.
    behind: u64,
    /// Where the tables lie that call clusters behind the old end zeros, and how many.
    zero_tables: (u64, u64),
    /// Whether the L1 table gets a new place.
    moved: bool,
}

impl<'a> Change<'a> {
    /// Writes what is new to clusters that nothing uses, and tells what is left to do.
    fn plan(
        layer: &'a Qcow2Layer,
        tail: &Tail<'_>,
        size: u64,
        zeros: (u64, u64),
        mut space: Space<'a>,
        patch: &mut dyn Patch,
    ) -> Result<Self> {
        let header = layer.header();
        let (cluster, span) = (header.cluster, header.l2_span());
        let (index, behind) = (span.index(tail.end), span.count(tail.end));
        let needed = u32::try_from(span.count(size)).unwrap_or(u32::MAX);
        let l1_size = needed.max(header.l1_size);
        let mut fields = Fields { size, l1_size, l1_table_offset: header.l1_table_offset };

        let value = l1_entry(layer, index)?;
        let mut mend = Mend::Nothing;
        let mut place = Place::Same;
        if index < behind {
            let offset = value & ENTRY_OFFSET;
            let table = match offset {
                0 => vec![0; to_usize(cluster.size())],
                offset => cut_off_read(layer, offset)?,
            };
            let (wanted, how) = boundary(tail, &table, zeros, &mut space, patch)?;
            mend = how;
            place = if wanted == table {
                Place::Same
            } else if offset != 0 && value & ENTRY_COPIED != 0 {
                Place::Here(offset, table, wanted)
            } else if is_zero(&wanted) {
                Place::New(0)
            } else {
                let offset = space.take(1)?;
                patch.write(offset, &wanted, "write the L2 table of the end anew")?;
                Place::New(offset | ENTRY_COPIED)
            };
        }
        let zero_tables = zero_tables(header, behind, zeros, &mut space, patch)?;
        let room = cluster.ceil(u64::from(header.l1_size).saturating_mul(8));
        let length = u64::from(l1_size).saturating_mul(8);
        let moved = length > room;
        if moved {
            fields.l1_table_offset = space.take(cluster.count(length))?;
        }
        let change = Self { layer, space, fields, mend, index, place, behind, zero_tables, moved };
        if moved {
            let table = Table {
                from: header.l1_table_offset,
                entries: header.l1_size.into(),
                to: fields.l1_table_offset,
                clusters: cluster.count(length),
                what: "write the L1 table anew",
            };
            copy_table(layer, &table, patch, |index, old| Ok(change.entry(index, old)))?;
        }
        Ok(change)
    }

    /// What an L1 entry is to be.
    fn entry(&self, index: u64, old: u64) -> u64 {
        if index < self.behind {
            return match self.place {
                Place::New(value) if index == self.index => value,
                _ => old,
            };
        }
        let (offset, count) = self.zero_tables;
        let number = index.saturating_sub(self.behind);
        if number >= count {
            return 0;
        }
        let cluster = self.layer.header().cluster;
        let step = cluster.offset_of(number).unwrap_or_default();
        offset.saturating_add(step) | ENTRY_COPIED
    }

    /// Counts what is new, and then changes what is there. What does not show comes before the
    /// header where the disk grows, and behind it where it shrinks: it is always behind the end.
    fn write(mut self, patch: &mut dyn Patch) -> Result<()> {
        let layer = self.layer;
        let space = std::mem::replace(&mut self.space, Space::new(layer, 0));
        space.count(patch)?;
        if self.fields.size > layer.header().size {
            self.change_tables(patch)?;
            write_header(layer, self.fields, patch, "have the header say the new size")
        } else {
            write_header(layer, self.fields, patch, "have the header say the new size")?;
            self.change_tables(patch)
        }
    }

    fn change_tables(&self, patch: &mut dyn Patch) -> Result<()> {
        let header = self.layer.header();
        if let Mend::Over(offset, length) = self.mend {
            let zeros = vec![0; to_usize(length)];
            patch.write(offset, &zeros, "write zeros behind the end of the disk")?;
        }
        if let Place::Here(offset, before, after) = &self.place {
            write_changed(patch, *offset, before, after, "change the L2 table of the end")?;
        }
        if !self.moved {
            let (table, there) = (header.l1_table_offset, u64::from(header.l1_size));
            let first = if self.index < self.behind { self.index } else { self.behind };
            let end = self.fields.l1_size.into();
            let new = |index, old| Ok(self.entry(index, old));
            change_table(self.layer, (table, there), (first, end), patch, new)?;
        }
        patch.barrier()
    }
}

/// An entry of the active L1 table; zero behind its end.
fn l1_entry(layer: &Qcow2Layer, index: u64) -> Result<u64> {
    let header = layer.header();
    if index >= header.l1_size.into() {
        return Ok(0);
    }
    let at = header.l1_table_offset.saturating_add(index.saturating_mul(8));
    let bytes = read(layer, "the L1 table", at, 8)?;
    Ok(bytes.first_chunk().map_or(0, |word| u64::from_be_bytes(*word)))
}

/// What the L2 table that the end of the disk lies in is to hold, and what is to be done about the
/// cluster of the end.
fn boundary(
    tail: &Tail<'_>,
    table: &[u8],
    zeros: (u64, u64),
    space: &mut Space<'_>,
    patch: &mut dyn Patch,
) -> Result<(Vec<u8>, Mend)> {
    let header = tail.layer.header();
    let (cluster, span) = (header.cluster, header.l2_span());
    let size = to_usize(header.l2_entry_size().size());
    let first = cluster.index(span.floor(tail.end));
    let (last, end) = (cluster.index(tail.end), cluster.count(tail.end));
    let mut wanted = table.to_vec();
    let mut mend = Mend::Nothing;
    for (number, entry) in (first..).zip(wanted.chunks_exact_mut(size)) {
        if number >= end {
            zero_entry(entry, (zeros.0..zeros.1).contains(&number));
        } else if number == last {
            mend = tail.mend(entry)?;
            if mend == Mend::Anew {
                let offset = space.take(1)?;
                patch.write(offset, &tail.content()?, "write the last data cluster anew")?;
                // with subclusters, all of them are there
                let all = u64::from(u32::MAX);
                fill_entry(entry, offset | ENTRY_COPIED, all);
            }
        }
    }
    Ok((wanted, mend))
}

/// Makes an entry that of a cluster which is zeros, or of none.
fn zero_entry(entry: &mut [u8], zero: bool) {
    match (zero, entry.len()) {
        (false, _) => entry.fill(0),
        (true, 8) => fill_entry(entry, L2_ZERO, 0),
        (true, _) => fill_entry(entry, 0, u64::from(u32::MAX).wrapping_shl(32)),
    }
}

fn fill_entry(entry: &mut [u8], value: u64, bitmap: u64) {
    for (word, value) in entry.as_chunks_mut::<8>().0.iter_mut().zip([value, bitmap]) {
        *word = value.to_be_bytes();
    }
}

/// Writes the L2 tables, from L1 entry `behind` on, that call clusters zeros; where, and how many.
fn zero_tables(
    header: &Header,
    behind: u64,
    (start, end): (u64, u64),
    space: &mut Space<'_>,
    patch: &mut dyn Patch,
) -> Result<(u64, u64)> {
    let span = header.l2_span();
    let per_table = span.bits().saturating_sub(header.cluster.bits());
    let first = behind.wrapping_shl(per_table).max(start);
    if first >= end {
        return Ok((0, 0));
    }
    let per_table = Pow2::from_bits(per_table).unwrap_or(span);
    let count = per_table.count(end).saturating_sub(behind);
    let offset = space.take(count)?;
    let mut bytes = vec![0; to_usize(header.cluster.size())];
    let size = to_usize(header.l2_entry_size().size());
    let mut at = offset;
    for table in behind..behind.saturating_add(count) {
        let clusters = per_table.offset_of(table).unwrap_or(u64::MAX);
        for (number, entry) in (clusters..).zip(bytes.chunks_exact_mut(size)) {
            zero_entry(entry, number < end);
        }
        patch.write(at, &bytes, "write an L2 table of zeros")?;
        at = at.saturating_add(to_u64(bytes.len()));
    }
    Ok((offset, count))
}
