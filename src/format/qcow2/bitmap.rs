//! The bitmap directory ("Bitmaps").

use crate::bytes::BeCursor;
use crate::error::{Error, Result};
use crate::layer::DirtyBitmap;
use crate::limits::Limits;
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, read_vec};
use crate::text::printable;

use super::error::Qcow2Detail;
use super::header::Header;
use super::layer::Qcow2Layer;
use super::layout::*;

/// A persistent bitmap's directory entry ("Bitmap directory entry").
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::format::qcow2::Qcow2Layer;
/// use diskimage::storage::FileStorage;
/// use diskimage::{format::qcow2::Qcow2Options, layer::DirtyBitmap};
///
/// # let nightly = DirtyBitmap {
/// #     name: b"nightly".to_vec(),
/// #     granularity: 64 << 10,
/// #     auto: true,
/// #     is_consistent: true,
/// #     bits: vec![0b101, 0],
/// # };
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.qcow2");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = Qcow2Options::new().bitmaps(vec![nightly]).writer(1 << 20)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let storage = Arc::new(FileStorage::open(&path)?);
/// let layer = Qcow2Layer::open(storage, &LayerOptions::default())?;
/// let [bitmap] = layer.bitmaps() else { panic!("one bitmap") };
/// assert_eq!((&*bitmap.name, bitmap.granularity), (&b"nightly"[..], 64 << 10));
/// assert_eq!(bitmap.table_size, 1); // one cluster is enough for its bits
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bitmap {
    /// The name, as bytes.
    pub name: Vec<u8>,
    /// How many guest bytes a bit stands for.
    pub granularity: u64,
    /// Its flags.
    pub flags: BitmapFlags,
    /// Offset of its table.
    pub table_offset: u64,
    /// Number of entries of its table.
    pub table_size: u32,
    /// Where its directory entry lies.
    pub(super) offset: u64,
    /// Whether it has a type or flags that are reserved.
    pub(super) reserved: bool,
}

/// The flags of a bitmap.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::format::qcow2::Qcow2Layer;
/// use diskimage::storage::FileStorage;
/// use diskimage::{format::qcow2::Qcow2Options, layer::DirtyBitmap};
///
/// # let nightly = DirtyBitmap {
/// #     name: b"nightly".to_vec(),
/// #     granularity: 64 << 10,
/// #     auto: true,
/// #     is_consistent: true,
/// #     bits: vec![0b101, 0],
/// # };
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.qcow2");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = Qcow2Options::new().bitmaps(vec![nightly]).writer(1 << 20)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let storage = Arc::new(FileStorage::open(&path)?);
/// let layer = Qcow2Layer::open(storage, &LayerOptions::default())?;
/// // whether a backup can go by it, and whether it goes on by itself
/// let flags = layer.bitmaps()[0].flags;
/// assert_eq!((flags.in_use, flags.auto), (false, true));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BitmapFlags {
    /// Not saved properly: its content means nothing.
    pub in_use: bool,
    /// Tracks writes from the next open on.
    pub auto: bool,
}

/// Reads the bitmap directory into `bitmaps`, up to what is wrong with it, if the autoclear feature says that it is consistent.
pub(super) fn read_bitmaps(
    storage: &dyn Storage,
    header: &Header,
    limits: &Limits,
    bitmaps: &mut Vec<Bitmap>,
) -> Result<()> {
    if header.autoclear_features & AUTOCLEAR_BITMAPS == 0 {
        return Ok(());
    }
    let Some(extension) = header.extensions.bitmaps else {
        return Err(Error::new(Qcow2Detail::BitmapsMissing).at(88));
    };
    let (count, size) = (extension.nb_bitmaps, extension.directory_size);
    if count > limits.max_snapshots {
        let (what, limit) = ("bitmaps", limits.max_snapshots.into());
        let detail = Qcow2Detail::TooMany { what, count: count.into(), limit };
        return Err(Error::new(detail).at(extension.offset));
    }
    if size > limits.max_directory_size {
        let (what, limit) = ("bitmap directory", limits.max_directory_size);
        let detail = Qcow2Detail::TooLarge { what, size, limit };
        return Err(Error::new(detail).at(extension.offset));
    }
    let start = extension.directory_offset;
    header
        .check_table(storage, "bitmap directory", start, size)
        .map_err(|error| error.at(extension.offset))?;
    let bytes = read_vec(storage, "the bitmap directory", start, to_usize(size))?;
    let mut cursor = BeCursor::new(&bytes, start);
    for _ in 0..count {
        bitmaps.push(parse(&mut cursor)?);
    }
    Ok(())
}

/// The bits of all bitmaps ("Bitmap table", "Bitmap data").
pub(super) fn read_bits(layer: &Qcow2Layer, max: u64) -> Result<Vec<DirtyBitmap>> {
    let mut left = max;
    layer.bitmaps().iter().map(|bitmap| bitmap.read_bits(layer, max, &mut left)).collect()
}

impl Bitmap {
    fn read_bits(&self, layer: &Qcow2Layer, max: u64, left: &mut u64) -> Result<DirtyBitmap> {
        let (header, storage) = (layer.header(), layer.storage());
        let here = |detail: Qcow2Detail| Error::new(detail).at(self.offset);
        let name = self.name.clone();
        if self.reserved {
            return Err(here(Qcow2Detail::UnknownBitmap(printable(&name))));
        }
        let mut read = DirtyBitmap {
            name,
            granularity: self.granularity,
            auto: self.flags.auto,
            is_consistent: !self.flags.in_use,
            bits: Vec::new(),
        };
        if self.flags.in_use {
            return Ok(read);
        }
        let size = header.size.div_ceil(self.granularity.max(1)).div_ceil(8);
        let too_large =
            || here(Qcow2Detail::TooLarge { what: "bits of bitmaps", size, limit: max });
        *left = left.checked_sub(size).ok_or_else(too_large)?;
        let entries = u64::from(self.table_size);
        if entries != header.cluster.count(size) {
            let (field, rule) = ("bitmap_table_size", "as many entries as the disk needs");
            return Err(here(Qcow2Detail::Field { field, value: entries, rule }));
        }
        let length = entries.saturating_mul(8);
        header
            .check_table(storage, "bitmap table", self.table_offset, length)
            .map_err(|e| e.at(self.offset))?;
        let table = read_vec(storage, "a bitmap table", self.table_offset, to_usize(length))?;
        let mut cursor = BeCursor::new(&table, self.table_offset);
        while to_u64(read.bits.len()) < size {
            let at = cursor.offset();
            let entry = cursor.u64("an entry of a bitmap table")?;
            let wanted = to_usize(size).saturating_sub(read.bits.len());
            let wanted = wanted.min(to_usize(header.cluster.size()));
            let end = read.bits.len().saturating_add(wanted);
            let offset = entry & ENTRY_OFFSET;
            let reserved = if offset == 0 { !1 } else { !ENTRY_OFFSET };
            if entry & reserved != 0 {
                let detail = Qcow2Detail::ReservedBits { what: "bitmap table entry", value: entry };
                return Err(Error::new(detail).at(at));
            }
            match offset {
                0 => read.bits.resize(end, if entry & 1 != 0 { 0xff } else { 0 }),
                _ => read.bits.extend(read_vec(storage, "bits of a bitmap", offset, wanted)?),
            }
        }
        // behind the end of the disk there is nothing
        let bits = header.size.div_ceil(self.granularity.max(1)) % 8;
        if let (Some(last), 1..) = (read.bits.last_mut(), bits) {
            *last &= u8::MAX.wrapping_shr(8u32.saturating_sub(u32::try_from(bits).unwrap_or(8)));
        }
        Ok(read)
    }
}

fn parse(cursor: &mut BeCursor<'_>) -> Result<Bitmap> {
    const WHAT: &str = "a bitmap directory entry";
    let at = cursor.offset();
    let table_offset = cursor.u64(WHAT)?;
    let table_size = cursor.u32(WHAT)?;
    let flags = cursor.u32(WHAT)?;
    let kind = cursor.u8(WHAT)?;
    let granularity_bits = cursor.u8(WHAT)?;
    let name_length = cursor.u16(WHAT)?;
    let extra_length = cursor.u32(WHAT)?;
    debug_assert_eq!(cursor.offset().saturating_sub(at), BITMAP_FIXED_LENGTH);
    cursor.bytes(to_usize(extra_length.into()), WHAT)?;
    let name = cursor.bytes(name_length.into(), WHAT)?.to_owned();
    cursor.pad_to(8, at);
    let granularity = 1u64.checked_shl(granularity_bits.into());
    let Some(granularity) = granularity.filter(|_| granularity_bits < 63) else {
        let (value, rule) = (to_u64(granularity_bits.into()), "at most 62");
        let detail = Qcow2Detail::Field { field: "granularity_bits of a bitmap", value, rule };
        return Err(Error::new(detail).at(at));
    };
    let known = BITMAP_IN_USE | BITMAP_AUTO | BITMAP_EXTRA_DATA_COMPATIBLE;
    let reserved = flags & !known != 0 || kind != BITMAP_TYPE_DIRTY;
    let flags = BitmapFlags { in_use: flags & BITMAP_IN_USE != 0, auto: flags & BITMAP_AUTO != 0 };
    Ok(Bitmap { name, granularity, flags, table_offset, table_size, offset: at, reserved })
}
