//! Tables that are read, and written where they are or to another place.

use byteorder::{BigEndian, ByteOrder};

use crate::check::Patch;
use crate::error::Result;
use crate::num::{to_u64, to_usize};
use crate::storage::read_vec;

use super::super::Qcow2Layer;
use super::write_changed;

/// How much of a table is read at once.
const CHUNK: u64 = 256 << 10;

/// A table of 8-byte entries that gets a new place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) from: u64,
    pub(super) entries: u64,
    pub(super) to: u64,
    /// How many clusters it takes up there; zeros follow the entries.
    pub(super) clusters: u64,
    pub(super) what: &'static str,
}

/// Writes a table to its new place, with the entries that `new` makes of the old ones.
pub(super) fn copy_table(
    layer: &Qcow2Layer,
    table: &Table,
    patch: &mut dyn Patch,
    mut new: impl FnMut(u64, u64) -> Result<u64>,
) -> Result<()> {
    let length = layer.header().cluster.offset_of(table.clusters).unwrap_or_default();
    let old = table.entries.saturating_mul(8);
    let mut done = 0;
    while done < length {
        let part = length.saturating_sub(done).min(CHUNK);
        let there = old.saturating_sub(done).min(part);
        let mut bytes = match there {
            0 => Vec::new(),
            there => read(layer, "a table", table.from.saturating_add(done), there)?,
        };
        bytes.resize(to_usize(part), 0);
        each_entry(&mut bytes, done.wrapping_shr(3), &mut new)?;
        patch.write(table.to.saturating_add(done), &bytes, table.what)?;
        done = done.saturating_add(part);
    }
    Ok(())
}

/// Changes entries of a table where it is, from number `first` to before `end`; those from number
/// `there` on are read as zeros, and written whatever they are.
pub(super) fn change_table(
    layer: &Qcow2Layer,
    (table, there): (u64, u64),
    (first, end): (u64, u64),
    patch: &mut dyn Patch,
    mut new: impl FnMut(u64, u64) -> Result<u64>,
) -> Result<()> {
    const WHAT: &str = "change entries of the L1 table";
    let mut index = first;
    while index < end {
        // what is there, and what is not, are written each for itself
        let stop = if index < there { there.min(end) } else { end };
        let count = stop.saturating_sub(index).min(CHUNK.wrapping_shr(3));
        let (at, length) = (table.saturating_add(index.saturating_mul(8)), count.saturating_mul(8));
        let is_there = index < there;
        let before = match is_there {
            true => read(layer, "the L1 table", at, length)?,
            false => vec![0; to_usize(length)],
        };
        let mut bytes = before.clone();
        each_entry(&mut bytes, index, &mut new)?;
        if is_there {
            write_changed(patch, at, &before, &bytes, WHAT)?;
        } else {
            patch.write(at, &bytes, "make the L1 table longer")?;
        }
        index = index.saturating_add(count);
    }
    Ok(())
}

/// Bytes of the file, which must be there.
pub(super) fn read(
    layer: &Qcow2Layer,
    what: &'static str,
    at: u64,
    length: u64,
) -> Result<Vec<u8>> {
    read_vec(layer.storage(), what, at, to_usize(length))
}

fn each_entry(
    bytes: &mut [u8],
    first: u64,
    mut new: impl FnMut(u64, u64) -> Result<u64>,
) -> Result<()> {
    for (index, entry) in (first..).zip(bytes.as_chunks_mut::<8>().0) {
        *entry = new(index, BigEndian::read_u64(entry))?.to_be_bytes();
    }
    Ok(())
}

/// A cluster of the file; where the file ends in it, zeros follow.
pub(super) fn cut_off_read(layer: &Qcow2Layer, offset: u64) -> Result<Vec<u8>> {
    let size = layer.header().cluster.size();
    let length = size.min(layer.storage().size().saturating_sub(offset));
    let mut bytes = read(layer, "a table", offset, length)?;
    bytes.resize(to_usize(size), 0);
    debug_assert_eq!(to_u64(bytes.len()), size);
    Ok(bytes)
}
