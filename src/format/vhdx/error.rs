//! What can be wrong with a VHDX file, in words.

use std::borrow::Cow;

use crate::error::{Detail, ErrorKind};

use super::guid::Guid;

#[derive(Debug, thiserror::Error)]
pub(super) enum VhdxDetail {
    #[error("is no VHDX file: it does not start with 'vhdxfile'")]
    NotVhdx,
    #[error("both copies of the {0} are damaged: a signature or checksum is wrong")]
    NoCopy(&'static str),
    #[error("the two headers are valid and of the same sequence number {0}, but differ")]
    HeadersContradict(u64),
    #[error("the two region tables are valid, but differ")]
    RegionTablesContradict,
    #[error("is VHDX version {0}; version 1 is read")]
    Version(u16),
    #[error("has a log of pending writes of version {0}; version 0 is read")]
    LogVersion(u16),
    #[error("the {field} is {value:#x}, which must be {rule}")]
    Field { field: &'static str, value: u64, rule: &'static str },
    #[error("the {what} has {count} entries, which must be at most {limit}")]
    TooManyEntries { what: &'static str, count: u64, limit: u64 },
    #[error("needs a region that is not known: {0}")]
    UnknownRegion(Guid),
    #[error("needs a metadata item that is not known: {0}")]
    UnknownItem(Guid),
    #[error("the {what} {guid} appears twice")]
    Duplicate { what: &'static str, guid: Guid },
    #[error("has no {0}")]
    Missing(&'static str),
    #[error("the {what} at {start:#x} overlaps the {other}")]
    Overlap { what: &'static str, start: u64, other: &'static str },
    #[error("the {what} lies at {offset:#x}, which must be {rule}")]
    Misplaced { what: &'static str, offset: u64, rule: &'static str },
    #[error("the {what} at {start:#x} reaches beyond the end of the file at {size:#x}")]
    BeyondEnd { what: &'static str, start: u64, size: u64 },
    #[error("the metadata item '{what}' is {length} bytes long, {needed} are needed")]
    ItemTooShort { what: &'static str, length: u64, needed: u64 },
    #[error("a metadata item is {0} bytes long, which must be at most 1 MiB")]
    ItemTooLong(u64),
    #[error("the block allocation table has room for {entries} entries, the disk needs {needed}")]
    BatTooSmall { entries: u64, needed: u64 },
    #[error("a BAT entry has the state {0}, which is none")]
    UnknownState(u64),
    #[error("a BAT entry has reserved bits set: {0:#018x}")]
    ReservedBits(u64),
    #[error("a BAT entry calls a block partially present, but the image has no parent")]
    PartialWithoutParent,
    #[error("a block is partially present, but its sector bitmap is not there (state {0})")]
    NoSectorBitmap(u64),
    #[error("the parent locator {0}")]
    BadLocator(&'static str),
    #[error("a parent locator of a type that is not known: {0}")]
    LocatorType(Guid),
    #[error("has a parent locator, but is not marked as a differencing image")]
    LocatorWithoutParent,
    #[error("was made upon a parent of the identifier {wanted}, the one found has {found}")]
    WrongParent { wanted: String, found: String },
    #[error("has a log of pending writes that holds no valid sequence of entries")]
    NoActiveLog,
    #[error("the log tells that the file had {flushed:#x} bytes; it ends at {size:#x}")]
    LogFileCut { flushed: u64, size: u64 },
    #[error("the log extends the file to {last:#x} bytes, more than the disk can take")]
    LogFileGrown { last: u64 },
    #[error("a log descriptor writes to {start:#x}..+{length:#x}, which must be {rule}")]
    LogWrite { start: u64, length: u64, rule: &'static str },
    #[error("the {what} of {size} is above the limit of {limit}")]
    TooLarge { what: &'static str, size: u64, limit: u64 },
}

impl Detail for VhdxDetail {
    fn is_cut_off(&self) -> bool {
        matches!(self, Self::BeyondEnd { .. })
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotVhdx => ErrorKind::InvalidInput,
            Self::Version(_)
            | Self::LogVersion(_)
            | Self::UnknownRegion(_)
            | Self::UnknownItem(_)
            | Self::LocatorType(_) => ErrorKind::Unsupported,
            Self::TooLarge { .. } => ErrorKind::LimitExceeded,
            _ => ErrorKind::Corrupt,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::NotVhdx => "leave the format out to have it detected".into(),
            Self::Version(_)
            | Self::LogVersion(_)
            | Self::UnknownRegion(_)
            | Self::UnknownItem(_)
            | Self::LocatorType(_) => {
                "convert it with the program that made it, or with a newer version of this one"
                    .into()
            }
            Self::WrongParent { .. } => {
                "give the parent as it was when this image was made upon it".into()
            }
            Self::RegionTablesContradict => {
                "fetch it again, or read it by the first one with --trust-broken".into()
            }
            Self::NoActiveLog => {
                "fetch it again, or read it without its last writes with --trust-broken".into()
            }
            Self::TooLarge { .. } => "raise the limit if this is meant".into(),
            _ => "the file is damaged or truncated; fetch it again".into(),
        })
    }
}
