//! What can be wrong with a VHD file, in words.

use std::borrow::Cow;

use crate::error::{Detail, ErrorKind};

#[derive(Debug, thiserror::Error)]
pub(super) enum VhdDetail {
    #[error("is no VHD file: neither its start nor its end has the cookie 'conectix'")]
    NotVhd,
    #[error("the footer of a fixed disk is missing at the end of the file")]
    FixedFooterMissing,
    #[error("is VHD {what} version {major}.{minor}; version 1 is read")]
    Version { what: &'static str, major: u32, minor: u32 },
    #[error("the disk type is {0}; fixed (2), dynamic (3) and differencing (4) disks are read")]
    DiskType(u32),
    #[error("the footer says 'fixed', but leads to the header of a dynamic disk")]
    FixedWithHeader,
    #[error("the {what} has the checksum {stored:#010x}, its bytes have {computed:#010x}")]
    Checksum { what: &'static str, stored: u32, computed: u32 },
    #[error("the {what} does not begin with the cookie 'cxsparse'")]
    HeaderCookie { what: &'static str },
    #[error("the {field} is {value:#x}, which must be {rule}")]
    Field { field: &'static str, value: u64, rule: &'static str },
    #[error("blocks of {0} bytes; blocks of up to 1 GiB are read")]
    LargeBlocks(u32),
    #[error(
        "the block allocation table has {entries} entries, the disk's {size} bytes need {needed}"
    )]
    TableTooSmall { entries: u64, needed: u64, size: u64 },
    #[error("the block allocation table of {size} bytes is above the limit of {limit}")]
    TableTooLarge { size: u64, limit: u64 },
    #[error("the {what} at {start:#x} lies upon the {other}")]
    Overlap { what: &'static str, start: u64, other: &'static str },
    #[error("the {what} at {start:#x} reaches beyond the end of the file at {end:#x}")]
    BeyondEnd { what: &'static str, start: u64, end: u64 },
    #[error("is a fixed disk of {size} bytes, of which the file holds {held}")]
    FixedTooShort { size: u64, held: u64 },
    #[error("the parent's identifier should be {wanted}, but is {found}")]
    WrongParent { wanted: String, found: String },
}

impl Detail for VhdDetail {
    fn is_cut_off(&self) -> bool {
        matches!(self, Self::BeyondEnd { .. })
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Version { .. } | Self::DiskType(_) | Self::LargeBlocks(_) => {
                ErrorKind::Unsupported
            }
            Self::TableTooLarge { .. } => ErrorKind::LimitExceeded,
            Self::NotVhd => ErrorKind::InvalidInput,
            _ => ErrorKind::Corrupt,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::NotVhd => "leave the format out to have it detected".into(),
            Self::Version { .. } | Self::DiskType(_) | Self::LargeBlocks(_) => {
                "convert it with the program that made it, or with a newer version of this one"
                    .into()
            }
            Self::Checksum { .. } => {
                "fetch the file again, or read it all the same with --trust-broken".into()
            }
            Self::TableTooLarge { .. } => "raise the limit if this is meant".into(),
            Self::WrongParent { .. } => {
                "put the parent that the image was made upon in the place of this one".into()
            }
            _ => "the file is damaged or truncated; fetch it again".into(),
        })
    }
}
