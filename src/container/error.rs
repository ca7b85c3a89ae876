//! What can be wrong with a container, in words.

use std::borrow::Cow;

use crate::error::{Detail, ErrorKind};
use crate::text::printable;

#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the checksum of a header of the archive is wrong")]
    Checksum,
    #[error("{0} is no number that makes sense")]
    Number(&'static str),
    #[error("an extended header is malformed")]
    Record,
    #[error(
        "a global header gives all members one name or size, which readers understand differently"
    )]
    GlobalHeader,
    #[error("the archive ends behind a header that describes the next member")]
    Dangling,
    #[error("a member has no name, or one with a NUL byte in it")]
    BadName,
    #[error("a member is of the unknown type {0:#04x}")]
    UnknownType(u8),
    #[error(
        "a member that is {kind} has a content of {size} bytes, which readers understand differently"
    )]
    ContentOfNone { kind: &'static str, size: u64 },
    #[error("the map of a sparse member {0}")]
    Sparse(&'static str),
    #[error("the map of a sparse member speaks of {sum} bytes, {stored} are stored")]
    SparseSum { sum: u64, stored: u64 },
    #[error("{what} of {size} bytes is above the limit of {limit}")]
    TooLarge { what: &'static str, size: u64, limit: u64 },
    #[error("the archive has more than {limit} {what}")]
    TooMany { what: &'static str, limit: usize },
    #[error("holds {0}, which is not read")]
    Unsupported(&'static str),
    #[error("holds no member '{name}': it has {has}")]
    NoMember { name: String, has: String },
    #[error("holds more than one member '{0}': readers disagree about which one counts")]
    Duplicate(String),
    #[error("the member '{name}' is {kind}, not a file")]
    NoFile { name: String, kind: &'static str },
    #[error("holds {0}, and no member of it is named")]
    Several(String),
    #[error("holds no disk: it has {0}")]
    NoDisk(String),
    #[error("is no archive, and has no members")]
    NoArchive,
    #[error("containers lie in one another more than {0} times")]
    TooDeep(usize),
    #[error("the OVF description is malformed: {0}")]
    Ovf(String),
    #[error("the disk '{0}' is stored in chunks (ovf:chunkSize), which are not read")]
    Chunked(String),
    #[error("the {codec} stream is damaged: {why}")]
    Damaged { codec: &'static str, why: String },
    #[error("the {0} stream is cut off")]
    CutOff(&'static str),
    #[error("bytes that are none of its own follow the {0} stream")]
    Trailing(&'static str),
    #[error("to decode {codec} takes more than the {limit} bytes of memory that are allowed")]
    Memory { codec: &'static str, limit: u64 },
    #[cfg(not(all(feature = "bzip2", feature = "xz", feature = "zstd")))]
    #[error("files compressed by {0} are not read by this build")]
    NotBuilt(&'static str),
    #[error("the disk inside needs a temporary file to be read, and none is allowed")]
    NoSpill,
    #[error(
        "what is compressed takes more than the {0} bytes that are allowed for a temporary file"
    )]
    SpillFull(u64),
    #[error("the disk inside is larger than the limit of {0} bytes")]
    TooLargeDisk(u64),
    #[error("{0}")]
    Corrupt(String),
}

impl Detail for Fault {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::TooLarge { .. }
            | Self::TooMany { .. }
            | Self::TooDeep(_)
            | Self::TooLargeDisk(_)
            | Self::Memory { .. }
            | Self::SpillFull(_) => ErrorKind::LimitExceeded,
            Self::Unsupported(_) | Self::Chunked(_) | Self::NoSpill => ErrorKind::Unsupported,
            #[cfg(not(all(feature = "bzip2", feature = "xz", feature = "zstd")))]
            Self::NotBuilt(_) => ErrorKind::Unsupported,
            Self::NoMember { .. }
            | Self::NoFile { .. }
            | Self::Several(_)
            | Self::NoDisk(_)
            | Self::NoArchive => ErrorKind::InvalidInput,
            _ => ErrorKind::Corrupt,
        }
    }

    fn is_cut_off(&self) -> bool {
        matches!(self, Self::CutOff(_))
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::NoMember { .. } | Self::Several(_) => "name one of them, as FILE#MEMBER".into(),
            Self::NoDisk(_) => {
                "name a raw disk that has no signature as FILE#MEMBER, with -f raw".into()
            }
            Self::NoFile { .. } | Self::NoArchive => "name a file of an archive".into(),
            Self::Duplicate(_) | Self::GlobalHeader | Self::ContentOfNone { .. } => {
                "unpack it with a program you trust, and look at what comes out".into()
            }
            Self::Unsupported(_) | Self::UnknownType(_) | Self::Chunked(_) | Self::TooDeep(_) => {
                "unpack it with another program first".into()
            }
            #[cfg(not(all(feature = "bzip2", feature = "xz", feature = "zstd")))]
            Self::NotBuilt(_) => {
                "decompress it first, or build with the feature of that name".into()
            }
            Self::NoSpill => "decompress it first, or allow one with --max-spill".into(),
            Self::TooLargeDisk(_) => "allow more with --max-virtual-size, if this is meant".into(),
            Self::SpillFull(_) => "allow more with --max-spill, if this is meant".into(),
            Self::Memory { .. } => "allow more with --max-memory".into(),
            Self::TooLarge { .. } | Self::TooMany { .. } => {
                "raise the limit if this is meant".into()
            }
            _ => "the file is damaged or truncated; fetch it again".into(),
        })
    }
}

/// A few names, safe to print, in quotes: for messages about what there is.
pub(super) fn list<'a>(names: impl Iterator<Item = &'a [u8]>) -> String {
    const MOST: usize = 8;
    let mut names = names.map(|name| format!("'{}'", printable(name)));
    let first: Vec<_> = names.by_ref().take(MOST).collect();
    match (first.len(), names.count()) {
        (0, _) => "none".to_owned(),
        (_, 0) => first.join(", "),
        (_, more) => format!("{} and {more} more", first.join(", ")),
    }
}
