//! What can be wrong with a VDI file, in words.

use std::borrow::Cow;

use crate::error::{Detail, ErrorKind};

#[derive(Debug, thiserror::Error)]
pub(super) enum VdiDetail {
    #[error("is no VDI file: its signature is {0:#010x}")]
    NotVdi(u32),
    #[error("is VDI version {major}.{minor}; versions 1.0 and 1.1 are read")]
    Version { major: u32, minor: u32 },
    #[error("the image type is {0}; normal (1), fixed (2) and differencing (4) images are read")]
    ImageType(u32),
    #[error("the header field {field} is {value:#x}, which must be {rule}")]
    Field { field: &'static str, value: u64, rule: &'static str },
    #[error("blocks of {0} bytes; blocks of up to 1 GiB are read")]
    LargeBlocks(u32),
    #[error("the block map has {blocks} entries, the disk's {size} bytes need {needed}")]
    MapTooSmall { blocks: u64, needed: u64, size: u64 },
    #[error("the block map of {size} bytes is above the limit of {limit}")]
    MapTooLarge { size: u64, limit: u64 },
    #[error("the block map at {start:#x} reaches beyond the end of the file at {end:#x}")]
    MapBeyondEnd { start: u64, end: u64 },
    #[error("the {what} at {start:#x} lies upon the {other}")]
    Overlap { what: &'static str, start: u64, other: &'static str },
    #[error("a differencing image without the identifier of its parent")]
    NoParent,
    #[error("a block map entry is {entry:#x}, of {blocks} blocks")]
    EntryTooLarge { entry: u32, blocks: u32 },
    #[error("the parent's identifier should be {wanted}, but is {found}")]
    WrongParent { wanted: String, found: String },
    #[error(
        "the parent was changed after the image was made: its state should be {wanted}, but is {found}"
    )]
    ChangedParent { wanted: String, found: String },
}

impl Detail for VdiDetail {
    fn is_cut_off(&self) -> bool {
        matches!(self, Self::MapBeyondEnd { .. })
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Version { .. } | Self::ImageType(_) | Self::LargeBlocks(_) => {
                ErrorKind::Unsupported
            }
            Self::MapTooLarge { .. } => ErrorKind::LimitExceeded,
            Self::NotVdi(_) => ErrorKind::InvalidInput,
            _ => ErrorKind::Corrupt,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::NotVdi(_) => "leave the format out to have it detected".into(),
            Self::Version { .. } | Self::ImageType(_) | Self::LargeBlocks(_) => {
                "convert it with the program that made it, or with a newer version of this one"
                    .into()
            }
            Self::MapTooLarge { .. } => "raise the limit if this is meant".into(),
            Self::WrongParent { .. } => {
                "put the parent that the image was made upon in the place of this one".into()
            }
            Self::ChangedParent { .. } => {
                "put the parent's old state back, or read it all the same with --trust-broken"
                    .into()
            }
            _ => "the file is damaged or truncated; fetch it again".into(),
        })
    }
}
