//! Decoders and encoders of compressed clusters: a whole buffer in, a whole buffer out.

use std::borrow::Cow;

use crate::error::{Detail, ErrorKind};

mod deflate;
mod encode;
#[cfg(feature = "zstd")]
mod zstandard;

pub use deflate::{Wrapper, inflate_exact};
pub use encode::Deflate;
#[cfg(feature = "zstd")]
pub use encode::Zstd;
#[cfg(feature = "zstd")]
pub use zstandard::zstd_exact;

/// Why compressed bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The stream contradicts its format.
    #[error("the {codec} stream is damaged: {why}")]
    Damaged {
        /// `deflate`, `zlib` or `zstd`.
        codec: &'static str,
        /// The decoder's reason.
        why: String,
    },
    /// The stream ends before the buffer is full.
    #[error("the {codec} stream ends after {got} of {wanted} bytes")]
    Short {
        /// `deflate`, `zlib` or `zstd`.
        codec: &'static str,
        /// Bytes decoded.
        got: usize,
        /// Bytes the cluster has.
        wanted: usize,
    },
}

impl Detail for CodecError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
    fn advice(&self) -> Option<Cow<'static, str>> {
        Some("the file is truncated or damaged; fetch it again".into())
    }
}
