//! The bitmap directory ("Bitmaps").

use crate::bytes::BeCursor;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, read_vec};

use super::error::Qcow2Detail;
use super::header::Header;
use super::layout::*;

/// A persistent bitmap's directory entry ("Bitmap directory entry").
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
