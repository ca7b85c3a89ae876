//! Images changed where they are: a new size of the disk, internal snapshots.
//!
//! What is new is written to clusters that nothing uses, counted, and then named; what is old stays
//! where it is, as leaked clusters, until a repair of leaks gives it free. So the image is whole
//! after each write, with what it held before or what it is to hold.

use std::borrow::Cow;

use crate::check::{Checking, Patch};
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::layer::Layer;
use crate::num::to_u64;

use super::Qcow2Layer;
use super::header::CryptMethod;
use super::layout::*;

mod resize;
mod snapshots;
mod space;
mod tables;
mod tail;

pub use resize::Resize;
pub use snapshots::SnapshotChange;

/// What to do about bitmaps.
const WITHOUT: &str = "convert it to an image without them, and change that";

#[derive(Debug, thiserror::Error)]
enum EditDetail {
    #[error("The new size must be a multiple of 512")]
    NotSectors,
    #[error("the disk has {0} bytes, and what lies behind the new end would be lost")]
    Shrinks(u64),
    #[error("the size of {size} bytes is above the limit of {limit}")]
    LargeDisk { size: u64, limit: u64 },
    #[error("Can't resize a v2 image which has snapshots")]
    OldSnapshots,
    #[error("has {corruptions} errors, and {unreadable} structures that cannot be read")]
    Damaged { corruptions: u64, unreadable: u64 },
    #[error("was opened as one of its snapshots, or without its snapshots and bitmaps")]
    InPart,
    #[error("was not closed properly, or is marked as corrupt")]
    Marked,
    #[error("{0} are not changed in place")]
    NotInPlace(&'static str, &'static str),
    #[error(
        "a disk of {size} bytes takes an L1 table of {table} bytes, above the limit of {limit}"
    )]
    LongTable { size: u64, table: u64, limit: u64 },
    #[error("has a backing file, whose length has to be known before the disk is made longer")]
    BackingMissing,
    #[error(
        "the backing file has {backing} bytes, which would show behind the old end at {old}, and \
         version 2 cannot say that there are zeros"
    )]
    OldZeros { backing: u64, old: u64 },
    #[error(
        "the backing file has {backing} bytes: to hide what it has behind the old end at {old} \
         takes {tables} bytes of tables, which is above the limit of {limit}"
    )]
    ManyZeros { backing: u64, old: u64, tables: u64, limit: u64 },
    #[error("the file is too long for more clusters")]
    TooLong,
    #[error("the name of the snapshot is longer than 255 bytes")]
    LongName,
    #[error("has as many snapshots as an image can have")]
    ManySnapshots,
    #[error("a reference count has no room for another snapshot")]
    CountFull,
}

impl Detail for EditDetail {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotSectors
            | Self::Shrinks(_)
            | Self::BackingMissing
            | Self::InPart
            | Self::LongName => ErrorKind::InvalidInput,
            Self::LargeDisk { .. }
            | Self::ManyZeros { .. }
            | Self::LongTable { .. }
            | Self::TooLong
            | Self::ManySnapshots
            | Self::CountFull => ErrorKind::LimitExceeded,
            Self::Damaged { .. } | Self::Marked => ErrorKind::Corrupt,
            Self::OldSnapshots | Self::NotInPlace(..) | Self::OldZeros { .. } => {
                ErrorKind::Unsupported
            }
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Shrinks(_) => "say that it is meant".into(),
            Self::Damaged { .. } | Self::Marked => {
                "mend it first with diskimage check --repair all".into()
            }
            Self::OldSnapshots => "convert it to an image without them, and change that".into(),
            Self::NotInPlace(_, instead) => (*instead).into(),
            Self::LongTable { .. } => {
                "convert it to an image with larger clusters, as with -o cluster_size=2M".into()
            }
            Self::BackingMissing => "hand it over".into(),
            Self::OldZeros { .. } | Self::ManyZeros { .. } => {
                "convert it to an image without a backing file, and change that".into()
            }
            Self::ManySnapshots => "delete one first".into(),
            Self::CountFull => {
                "convert it to an image with wider ones, as with -o refcount_bits=16".into()
            }
            Self::InPart => "open it whole".into(),
            Self::NotSectors | Self::LargeDisk { .. } | Self::TooLong | Self::LongName => {
                return None;
            }
        })
    }
}

/// Refuses an image that is not known to be whole, or that holds what would have to change with it.
/// Gives the first cluster behind all that is in use or counted.
fn check_whole(layer: &Qcow2Layer, checking: &Checking) -> Result<u64> {
    let header = layer.header();
    let snapshots = to_u64(layer.snapshots().len()) == u64::from(header.nb_snapshots);
    let bitmaps = !layer.bitmaps().is_empty()
        || header.autoclear_features & AUTOCLEAR_BITMAPS == 0
        || header.extensions.bitmaps.is_none_or(|bitmaps| bitmaps.nb_bitmaps == 0);
    if !snapshots || !bitmaps || layer.tables_at() != Some(header.l1_table_offset) {
        return Err(EditDetail::InPart.into());
    }
    if header.crypt_method != CryptMethod::None {
        return Err(EditDetail::NotInPlace("encrypted images", "decrypt it first").into());
    }
    if header.has_data_file() {
        return Err(EditDetail::NotInPlace(
            "images with an external data file",
            "convert it to one file first",
        )
        .into());
    }
    if header.is_dirty() || header.is_marked_corrupt() {
        return Err(Error::new(EditDetail::Marked).at(72));
    }
    if header.incompatible_features & !INCOMPATIBLE_KNOWN != 0 {
        return Err(EditDetail::NotInPlace(
            "images with unknown features",
            "use the program that made it",
        )
        .into());
    }
    let found = checking.scratch();
    super::check::check(layer, &found)?;
    // a read that was stopped may have passed for damage
    checking.watcher().check()?;
    let report = found.into_report();
    let (corruptions, unreadable) = (report.corruptions, report.check_errors);
    if corruptions > 0 || unreadable > 0 {
        return Err(EditDetail::Damaged { corruptions, unreadable }.into());
    }
    Ok(header.cluster.count(report.image_end_offset.unwrap_or(u64::MAX)))
}

/// Writes the part of `after` that differs from `before`, both of which lie at `offset`.
fn write_changed(
    patch: &mut dyn Patch,
    offset: u64,
    before: &[u8],
    after: &[u8],
    what: &str,
) -> Result<()> {
    let differs = |(old, new): (&u8, &u8)| old != new;
    let Some(start) = before.iter().zip(after).position(differs) else { return Ok(()) };
    let end = before.iter().zip(after).rposition(differs).unwrap_or(start).saturating_add(1);
    let bytes = after.get(start..end).unwrap_or_default();
    patch.write(offset.saturating_add(to_u64(start)), bytes, what)
}

/// Fields of the header that change together, in one write.
#[derive(Debug, Clone, Copy)]
struct Fields {
    size: u64,
    l1_size: u32,
    l1_table_offset: u64,
}

/// Has the header say the size and the place of the L1 table.
fn write_header(
    layer: &Qcow2Layer,
    fields: Fields,
    patch: &mut dyn Patch,
    what: &str,
) -> Result<()> {
    clear_unknown(layer, patch)?;
    let mut bytes = fields.size.to_be_bytes().to_vec();
    // between them lies crypt_method: none
    bytes.extend(0_u32.to_be_bytes());
    bytes.extend(fields.l1_size.to_be_bytes());
    bytes.extend(fields.l1_table_offset.to_be_bytes());
    patch.write(24, &bytes, what)?;
    patch.barrier()
}

/// Takes the bits off that speak of what is not kept up ("Header", autoclear_features).
fn clear_unknown(layer: &Qcow2Layer, patch: &mut dyn Patch) -> Result<()> {
    let features = layer.header().autoclear_features;
    let known = features & (AUTOCLEAR_BITMAPS | AUTOCLEAR_DATA_FILE_RAW);
    if features != known {
        patch.write(88, &known.to_be_bytes(), "take off the marks of what is not kept up")?;
        patch.barrier()?;
    }
    Ok(())
}
