//! What can be wrong with a VMDK, in words.

use std::borrow::Cow;

use crate::error::{Detail, ErrorKind};

#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum VmdkDetail {
    #[error("is no VMDK: it starts with {0}, and has no descriptor")]
    NotVmdk(String),
    #[error("is no sparse extent: it starts with {0}")]
    NotSparse(String),
    #[error("the {what} has version {version:#x}, which is not known")]
    Version { what: &'static str, version: u64 },
    #[error("the {what} field {field} is {value:#x}, which must be {rule}")]
    Field { what: &'static str, field: &'static str, value: u64, rule: &'static str },
    #[error("the header has flags that are not known: {0:#x}")]
    UnknownFlags(u32),
    #[error("grains are compressed by a method that is not known: {0}")]
    Compression(u16),
    #[error("the header's flags and its field compressAlgorithm ({0}) contradict each other")]
    CompressionContradiction(u16),
    #[error("a transfer in text mode changed the line ends of the file: the header has {0}")]
    NewlineMangled(String),
    #[error("the footer is missing or damaged: {0}")]
    Footer(&'static str),
    #[error("the footer contradicts the header: {0}")]
    FooterMismatch(&'static str),
    #[error("is one extent of a disk, without the descriptor that tells its parent and its place")]
    BareExtent,
    #[error("the {what} of {size} bytes is above the limit of {limit}")]
    TooLarge { what: &'static str, size: u64, limit: u64 },
    #[error("the {what} at {start:#x} reaches beyond the end of the file at {size:#x}")]
    BeyondEnd { what: &'static str, start: u64, size: u64 },
    #[error("the {what} lies at {offset:#x}, among the file's own structures")]
    Misplaced { what: &'static str, offset: u64 },
    #[error("the {what} has an impossible value: {value:#018x}")]
    Entry { what: &'static str, value: u64 },
    #[error("the grain directory lacks a table that the other one has")]
    MissingTable,
    #[error("the grain directory has {entries} entries, the extent needs {needed}")]
    DirectoryTooSmall { entries: u64, needed: u64 },
    #[error("a compressed grain is marked as the one at sector {found}, not {wanted}")]
    GrainLba { found: u64, wanted: u64 },
    #[error("a compressed grain has a size of {size} bytes, which must be from 1 to {limit}")]
    GrainSize { size: u64, limit: u64 },
    #[error("its journal holds changes that were not written to their places yet")]
    JournalDirty,
    #[error("the descriptor's line {line}: {why}: '{text}'")]
    Line { line: usize, why: &'static str, text: String },
    #[error("the descriptor has {0} twice, with different values")]
    Contradiction(String),
    #[error("the descriptor has data behind its end")]
    TrailingData,
    #[error("the descriptor has no createType")]
    NoCreateType,
    #[error("the disk type '{0}' is not read")]
    CreateType(String),
    #[error("the descriptor names no extent")]
    NoExtents,
    #[error("an extent line has no file name")]
    NoName,
    #[error("the embedded descriptor {0}")]
    Embedded(&'static str),
    #[error("the extent lines make a disk of more than 2^64 bytes")]
    SizeOverflow,
    #[error("the extent '{name}' is of the type {kind}, which is not read")]
    ExtentType { name: String, kind: &'static str },
    #[error("the extent '{0}' must not be read: its access is NOACCESS")]
    NoAccess(String),
    #[error("the extent line says {line} sectors, the extent's header {capacity}")]
    SizeMismatch { line: u64, capacity: u64 },
    #[error("the disk is encrypted ({0}); encrypted disks are not read yet")]
    Encrypted(&'static str),
    #[error("the parent's content identifier is {found:08x}, the child was made upon {wanted:08x}")]
    ParentChanged { found: u32, wanted: u32 },
    #[error("the parent has no content identifier, the child was made upon {wanted:08x}")]
    ParentWithoutId { wanted: u32 },
    #[error("the parent's UUID is {found}, the child was made upon {wanted}")]
    ParentUuid { found: String, wanted: String },
    #[error(
        "the descriptor names a parent file, and says with parentCID=ffffffff that it has none"
    )]
    ParentContradiction,
}

const DAMAGED: &str = "the file is damaged or truncated; fetch it again";

impl Detail for VmdkDetail {
    fn is_cut_off(&self) -> bool {
        matches!(self, Self::BeyondEnd { .. })
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Version { .. }
            | Self::UnknownFlags(_)
            | Self::Compression(_)
            | Self::JournalDirty
            | Self::CreateType(_)
            | Self::ExtentType { .. }
            | Self::NoAccess(_)
            | Self::Encrypted(_) => ErrorKind::Unsupported,
            Self::TooLarge { .. } => ErrorKind::LimitExceeded,
            Self::NotVmdk(_) | Self::BareExtent => ErrorKind::InvalidInput,
            _ => ErrorKind::Corrupt,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::NotVmdk(_) => "leave the format out to have it detected".into(),
            Self::Version { .. } | Self::UnknownFlags(_) | Self::Compression(_) => {
                "convert it with the program that made it, or with a newer version of this one"
                    .into()
            }
            Self::NewlineMangled(_) => "fetch it again, in binary mode".into(),
            Self::BareExtent => {
                "open the descriptor that names it, or read it alone with --trust-broken".into()
            }
            Self::TooLarge { .. } => "raise the limit if this is meant".into(),
            Self::JournalDirty => "open it once with the program that made it".into(),
            Self::CreateType(_) | Self::ExtentType { .. } => {
                "convert it with VMware's own tools first".into()
            }
            Self::NoAccess(_) => "give it the access RDONLY in the descriptor if it is data".into(),
            Self::Encrypted(_) => "decrypt it first with the program that made it".into(),
            Self::SizeMismatch { .. } => {
                "correct the extent line, or read what both have with --trust-broken".into()
            }
            Self::ParentChanged { .. }
            | Self::ParentWithoutId { .. }
            | Self::ParentUuid { .. }
            | Self::ParentContradiction => {
                "give the right parent, or read with this one by --trust-broken".into()
            }
            Self::Line { .. }
            | Self::Contradiction(_)
            | Self::NoCreateType
            | Self::NoExtents
            | Self::NoName
            | Self::Embedded(_)
            | Self::SizeOverflow => "correct the descriptor, if you know what it means".into(),
            _ => DAMAGED.into(),
        })
    }
}
