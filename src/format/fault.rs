//! What the smaller formats share: what can be wrong with their files, in words, and the names they
//! hold.

use std::borrow::Cow;

use crate::error::{Detail, Error, ErrorKind, Result};
use crate::storage::{Storage, read_vec};

/// The longest name of another file.
const MAX_NAME_LENGTH: u64 = 1023;

#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("is no {0} file: its magic is missing")]
    NotThis(&'static str),
    #[error("{0}")]
    Unsupported(String),
    #[error("is encrypted ({0}); encrypted images are not read yet")]
    Encrypted(&'static str),
    #[error("uses features that are not known: {0:#x}")]
    UnknownFeatures(u64),
    #[error("the header field {field} is {value:#x}, which must be {rule}")]
    Field { field: &'static str, value: u64, rule: &'static str },
    #[error("the {what} of {size} bytes is above the limit of {limit}")]
    TooLarge { what: &'static str, size: u64, limit: u64 },
    #[error("{what} is {value:#x}, which must be {rule}")]
    Entry { what: &'static str, value: u64, rule: &'static str },
    #[error("the backing file name is {0}")]
    BadName(&'static str),
    #[error("{0}")]
    Corrupt(String),
}

impl Detail for Fault {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotThis(_) => ErrorKind::InvalidInput,
            Self::Unsupported(_) | Self::Encrypted(_) | Self::UnknownFeatures(_) => {
                ErrorKind::Unsupported
            }
            Self::TooLarge { .. } => ErrorKind::LimitExceeded,
            _ => ErrorKind::Corrupt,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::NotThis(_) => "leave the format out to have it detected".into(),
            Self::Unsupported(_) | Self::UnknownFeatures(_) => {
                "convert it with the program that made it".into()
            }
            Self::Encrypted(_) => "decrypt it first with the program that made it".into(),
            Self::TooLarge { .. } => "raise the limit if this is meant".into(),
            _ => "the file is damaged or truncated; fetch it again".into(),
        })
    }
}

/// The error of a header field that must be otherwise.
pub(super) fn field<T>(
    field: &'static str,
    value: impl Into<u64>,
    rule: &'static str,
    at: u64,
) -> Result<T> {
    Err(Error::new(Fault::Field { field, value: value.into(), rule }).at(at))
}

/// Refuses a table of `size` bytes above the limit.
pub(super) fn check_limit(what: &'static str, size: u64, limit: u64) -> Result<()> {
    if size > limit {
        return Err(Fault::TooLarge { what, size, limit }.into());
    }
    Ok(())
}

/// The name of a backing file, `length` bytes at `offset`.
pub(super) fn backing_name(storage: &dyn Storage, offset: u64, length: u32) -> Result<Vec<u8>> {
    let bad = |why| Err(Error::new(Fault::BadName(why)).at(offset));
    if length == 0 {
        return bad("announced, but empty");
    }
    if u64::from(length) > MAX_NAME_LENGTH {
        return bad("longer than 1023 bytes");
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let name = read_vec(storage, "the backing file name", offset, length)?;
    if name.contains(&0) {
        return bad("cut by a NUL byte");
    }
    Ok(name)
}

/// The answer of a format in which nothing could be wrong that reading does not tell.
#[cold]
pub(super) fn nothing_to_check(format: super::Format) -> Error {
    let message = format!("images in the format '{format}' are not checked");
    Error::other(ErrorKind::Unsupported, message)
}
