//! The format extension: what an image holds beside the disk. It is named, not read.

use crate::bytes::LeCursor;
use crate::error::{Error, Result};
use crate::format::fault::{Fault, check_limit};
use crate::layer::Value;
use crate::limits::Limits;
use crate::num::{Pow2, to_usize};
use crate::storage::{Storage, read_vec};

use super::expandable::{AT_EXT_OFF, Header};

/// The magic of the format extension.
const MAGIC: u64 = 0xab23_4cef_23dc_ea87;
/// The feature section of a dirty bitmap.
const DIRTY_BITMAP: u64 = 0x2038_5fae_252c_b34a;
/// The length of what precedes the first section: magic and MD5.
const PREFIX: u64 = 24;

/// The feature sections, one after the other, each as what is shown of it.
pub(super) fn sections(
    storage: &dyn Storage,
    header: &Header,
    limits: &Limits,
) -> Result<Vec<Value>> {
    let start = Pow2::SECTOR.offset_of(header.ext_off).unwrap_or(u64::MAX);
    let (size, limit) = (header.cluster(), limits.max_directory_size);
    let bytes = check_limit("format extension", size, limit)
        .and_then(|()| read_vec(storage, "the format extension", start, to_usize(size)))
        .map_err(|error| error.at(AT_EXT_OFF))?;
    let mut cursor = LeCursor::new(&bytes, start);
    let magic = cursor.u64("the format extension's magic")?;
    if magic != MAGIC {
        let (what, rule) = ("the format extension's magic", "0xab234cef23dcea87");
        return Err(Error::new(Fault::Entry { what, value: magic, rule }).at(start));
    }
    cursor.bytes(16, "the format extension's checksum")?;
    let first = start.saturating_add(PREFIX);
    let mut sections = Vec::new();
    loop {
        let magic = cursor.u64("a feature section")?;
        let flags = cursor.u64("a feature section")?;
        let length = cursor.u32("a feature section")?;
        cursor.u32("a feature section")?;
        if magic == 0 {
            return Ok(sections);
        }
        if sections.len() >= to_usize(limits.max_snapshots.into()) {
            let text = "the format extension has too many sections".to_owned();
            return Err(Error::new(Fault::Corrupt(text)).at(cursor.offset()));
        }
        let at = cursor.offset();
        let data = cursor.bytes(to_usize(length.into()), "a feature section's data")?;
        cursor.pad_to(8, first);
        sections.push(section(magic, flags, LeCursor::new(data, at))?);
    }
}

fn section(magic: u64, flags: u64, mut data: LeCursor<'_>) -> Result<Value> {
    if magic != DIRTY_BITMAP {
        return Ok(Value::Map(vec![
            ("feature", format!("{magic:#018x}").into()),
            ("necessary", (flags & 1 != 0).into()),
        ]));
    }
    let sectors = data.u64("the bitmap's size")?;
    let id = data.bytes(16, "the bitmap's id")?;
    let granularity = data.u32("the bitmap's granularity")?;
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Value::Map(vec![
        ("feature", "dirty-bitmap".into()),
        ("id", id.into()),
        ("sectors", sectors.into()),
        ("granularity", Pow2::SECTOR.offset_of(granularity.into()).unwrap_or(u64::MAX).into()),
    ]))
}
