//! Persistent bitmaps ("Bitmaps", "Bitmap directory", "Bitmap table", "Bitmap data").

use super::WriteDetail;
use super::space::Space;
use crate::error::Result;
use crate::format::qcow2::layout::*;
use crate::layer::DirtyBitmap;
use crate::num::{Pow2, to_u64, to_usize};
use crate::text::printable;
use crate::writer::Plan;

/// Granularities that the specification allows ("Bitmap directory entry", granularity_bits).
const GRANULARITY_BITS: std::ops::RangeInclusive<u32> = 9..=31;

/// Where the bitmap directory lies, and how long it is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Directory {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// Refuses bitmaps that an image of `size` bytes cannot have.
pub(super) fn check(bitmaps: &[DirtyBitmap], size: u64) -> Result<()> {
    for (index, bitmap) in bitmaps.iter().enumerate() {
        let bits = Pow2::from_size(bitmap.granularity).map(Pow2::bits);
        let length = size.div_ceil(bitmap.granularity.max(1)).div_ceil(8);
        let before = bitmaps.get(..index).unwrap_or_default();
        let why = match bitmap {
            _ if !bits.is_some_and(|bits| GRANULARITY_BITS.contains(&bits)) => {
                "has a granularity that is no power of two from 512 bytes to 2 GiB"
            }
            _ if bitmap.name.is_empty() || bitmap.name.len() > to_usize(MAX_NAME_LENGTH.into()) => {
                "has a name of no byte or of more than 1023"
            }
            _ if before.iter().any(|other| other.name == bitmap.name) => {
                "has the name of another one"
            }
            _ if !bitmap.is_consistent => "was not saved properly, and means nothing",
            _ if to_u64(bitmap.bits.len()) != length => "is one of a disk of another size",
            _ => continue,
        };
        return Err(WriteDetail::Bitmap { name: printable(&bitmap.name), why }.into());
    }
    Ok(())
}

/// How many clusters they take up.
pub(super) fn clusters(bitmaps: &[DirtyBitmap], cluster: Pow2) -> u64 {
    let pieces = |bitmap: &DirtyBitmap| cluster.count(to_u64(bitmap.bits.len()));
    let each = bitmaps.iter().map(|bitmap| {
        let pieces = pieces(bitmap);
        pieces.saturating_add(cluster.count(pieces.saturating_mul(8)).max(1))
    });
    let names: u64 = bitmaps.iter().map(|bitmap| to_u64(bitmap.name.len())).sum();
    let fixed = BITMAP_FIXED_LENGTH.saturating_add(8).saturating_mul(to_u64(bitmaps.len()));
    each.fold(cluster.count(names.saturating_add(fixed)), u64::saturating_add)
}

/// Writes all of them.
pub(super) fn write(bitmaps: &[DirtyBitmap], space: &mut Space, plan: &mut Plan) -> Directory {
    if bitmaps.is_empty() {
        return Directory::default();
    }
    let cluster = space.cluster;
    let mut directory = Vec::new();
    for bitmap in bitmaps {
        let pieces = bitmap.bits.chunks(to_usize(cluster.size()));
        let count = pieces.len();
        let mut table = Vec::new();
        for piece in pieces {
            let entry = if crate::bytes::is_zero(piece) {
                0
            } else if to_u64(piece.len()) == cluster.size() && piece.iter().all(|&b| b == 0xff) {
                BITMAP_ALL_ONES
            } else {
                let (offset, _) = space.run(1, plan);
                plan.bytes(offset, piece.to_vec());
                plan.zeros(
                    offset.saturating_add(to_u64(piece.len())),
                    cluster.size().saturating_sub(to_u64(piece.len())),
                );
                offset
            };
            table.extend(entry.to_be_bytes());
        }
        let table_offset = place(table, space, plan);
        directory.extend(table_offset.to_be_bytes());
        directory.extend(u32::try_from(count).unwrap_or_default().to_be_bytes());
        directory.extend(if bitmap.auto { BITMAP_AUTO } else { 0 }.to_be_bytes());
        let granularity_bits = u8::try_from(bitmap.granularity.trailing_zeros());
        directory.extend([BITMAP_TYPE_DIRTY, granularity_bits.unwrap_or_default()]);
        directory.extend(u16::try_from(bitmap.name.len()).unwrap_or_default().to_be_bytes());
        directory.extend(0u32.to_be_bytes()); // extra_data_size
        directory.extend(&bitmap.name);
        directory.resize(directory.len().next_multiple_of(8), 0);
    }
    let size = to_u64(directory.len());
    Directory { offset: place(directory, space, plan), size }
}

/// Writes a table to clusters of its own; its offset.
fn place(mut bytes: Vec<u8>, space: &mut Space, plan: &mut Plan) -> u64 {
    let clusters = space.cluster.count(to_u64(bytes.len())).max(1);
    let offset = space.contiguous(clusters, plan);
    bytes.resize(to_usize(space.cluster.offset_of(clusters).unwrap_or_default()), 0);
    plan.bytes(offset, bytes);
    offset
}
