//! What can be wrong with a QCOW2 file, in words.

use std::borrow::Cow;

use crate::error::{Detail, ErrorKind};

#[derive(Debug, thiserror::Error)]
pub(super) enum Qcow2Detail {
    #[error("is no QCOW2 file: its magic is {0:#010x}")]
    NotQcow2(u32),
    #[error("is QCOW2 version {0}; versions 2 and 3 are read")]
    Version(u32),
    #[error("the header field {field} is {value:#x}, which must be {rule}")]
    Field { field: &'static str, value: u64, rule: &'static str },
    #[error("the header field cluster_bits is {0}; clusters of up to 2 MiB (21) are read")]
    LargeClusters(u32),
    #[error("uses incompatible features that are not known: {0}")]
    UnknownFeatures(String),
    #[error("is marked as corrupt by the program that wrote it")]
    MarkedCorrupt,
    #[error("is encrypted ({0}); encrypted images are not read yet")]
    Encrypted(&'static str),
    #[error("clusters are compressed by a method that is not known: {0}")]
    CompressionType(u8),
    #[cfg(not(feature = "zstd"))]
    #[error("a cluster is compressed by zstd, which this build leaves out")]
    NoZstd,
    #[error("the header extension {0:#010x} appears twice")]
    DuplicateExtension(u32),
    #[error("the header extension {kind:#010x} is {length} bytes long, which must be {rule}")]
    ExtensionLength { kind: u32, length: u64, rule: &'static str },
    #[error("the {0} is {1}")]
    BadName(&'static str, &'static str),
    #[error("the {what} of {size} bytes is above the limit of {limit}")]
    TooLarge { what: &'static str, size: u64, limit: u64 },
    #[error("{count} {what} are above the limit of {limit}")]
    TooMany { what: &'static str, count: u64, limit: u64 },
    #[error("the L1 table has {entries} entries, the disk's {size} bytes need {needed}")]
    L1TooSmall { entries: u64, needed: u64, size: u64 },
    #[error("the {what} lies at {offset:#x}, which must be {rule}")]
    Misplaced { what: &'static str, offset: u64, rule: &'static str },
    #[error("the {what} has reserved bits set: {value:#018x}")]
    ReservedBits { what: &'static str, value: u64 },
    #[error("an L2 entry has the zero flag, which version 2 does not have: {0:#018x}")]
    ZeroFlagInVersion2(u64),
    #[error("a compressed cluster in an image with an external data file")]
    CompressedInDataFile,
    #[error("an L2 entry with subclusters calls {0} of them allocated and zero at once")]
    BothSubclusterBits(u32),
    #[error("an L2 entry with subclusters calls some allocated, but has no cluster")]
    SubclustersWithoutCluster,
    #[error("the {what} at {start:#x} reaches beyond the end of the file at {size:#x}")]
    BeyondEnd { what: &'static str, start: u64, size: u64 },
    #[error("has no snapshot '{0}'")]
    NoSnapshot(String),
    #[error("the bitmap '{0}' is of a kind that is not known")]
    UnknownBitmap(String),
    #[error("autoclear feature 'bitmaps' is set without a bitmaps extension")]
    BitmapsMissing,
    #[error("autoclear feature 'raw external data' is set {0}")]
    RawDataFile(&'static str),
}

impl Detail for Qcow2Detail {
    fn is_cut_off(&self) -> bool {
        matches!(self, Self::BeyondEnd { .. })
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Version(_)
            | Self::LargeClusters(_)
            | Self::UnknownFeatures(_)
            | Self::Encrypted(_)
            | Self::UnknownBitmap(_)
            | Self::CompressionType(_) => ErrorKind::Unsupported,
            #[cfg(not(feature = "zstd"))]
            Self::NoZstd => ErrorKind::Unsupported,
            Self::TooLarge { .. } | Self::TooMany { .. } => ErrorKind::LimitExceeded,
            Self::NotQcow2(_) | Self::NoSnapshot(_) => ErrorKind::InvalidInput,
            _ => ErrorKind::Corrupt,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::NotQcow2(_) => "leave the format out to have it detected".into(),
            Self::Version(_) | Self::UnknownFeatures(_) | Self::CompressionType(_) => {
                "convert it with the program that made it, or with a newer version of this one"
                    .into()
            }
            Self::LargeClusters(_) => "convert it to clusters of at most 2 MiB first".into(),
            #[cfg(not(feature = "zstd"))]
            Self::NoZstd => "build with the feature 'zstd'".into(),
            Self::MarkedCorrupt => {
                "repair it first, or read it all the same with --trust-broken".into()
            }
            Self::Encrypted(_) => "decrypt it first with the program that made it".into(),
            Self::NoSnapshot(_) => "list the snapshots with the command info".into(),
            Self::TooLarge { .. } | Self::TooMany { .. } => {
                "raise the limit if this is meant".into()
            }
            _ => "the file is damaged or truncated; fetch it again".into(),
        })
    }
}
