//! Decoders and encoders of compressed clusters: a whole buffer in, a whole buffer out.

use std::borrow::Cow;

use crate::error::{Detail, ErrorKind};

mod adc;
#[cfg(feature = "bzip2")]
mod bzip;
mod deflate;
mod encode;
mod lzfse;
mod lzvn;
mod pieces;
#[cfg(feature = "xz")]
mod xz;
#[cfg(feature = "zstd")]
mod zstandard;

pub use adc::adc_exact;
#[cfg(feature = "bzip2")]
pub use bzip::bzip2_exact;
pub use deflate::{Wrapper, inflate_exact};
pub use encode::Deflate;
#[cfg(feature = "zstd")]
pub use encode::Zstd;
pub use lzfse::lzfse_exact;
pub use pieces::DeflatePieces;
#[cfg(feature = "xz")]
pub use xz::xz_exact;
#[cfg(feature = "zstd")]
pub use zstandard::zstd_exact;

/// Why compressed bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The stream contradicts its format.
    #[error("the {codec} stream is damaged: {why}")]
    Damaged {
        /// Its name, such as `zlib`.
        codec: &'static str,
        /// The decoder's reason.
        why: String,
    },
    /// The stream ends before the buffer is full.
    #[error("the {codec} stream ends after {got} of {wanted} bytes")]
    Short {
        /// Its name, such as `zlib`.
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

/// What our own decoders of matches and literals write to: a whole buffer, from its start on.
struct Output<'a> {
    codec: &'static str,
    bytes: &'a mut [u8],
    position: usize,
}

impl<'a> Output<'a> {
    fn new(codec: &'static str, bytes: &'a mut [u8]) -> Self {
        Self { codec, bytes, position: 0 }
    }

    fn position(&self) -> usize {
        self.position
    }

    fn is_full(&self) -> bool {
        self.position >= self.bytes.len()
    }

    #[cold]
    fn ends_early(&self) -> CodecError {
        CodecError::Short { codec: self.codec, got: self.position, wanted: self.bytes.len() }
    }

    #[cold]
    fn damaged(&self, why: &str) -> CodecError {
        CodecError::Damaged { codec: self.codec, why: why.to_owned() }
    }

    /// Where `length` bytes end that come next.
    #[inline]
    fn end(&self, length: usize) -> Result<usize, CodecError> {
        let end = self.position.saturating_add(length);
        if end > self.bytes.len() { Err(self.damaged("it has too many bytes")) } else { Ok(end) }
    }

    /// Writes these bytes.
    #[inline]
    fn literals(&mut self, literals: &[u8]) -> Result<(), CodecError> {
        let end = self.end(literals.len())?;
        if let Some(place) = self.bytes.get_mut(self.position..end) {
            place.copy_from_slice(literals);
        }
        self.position = end;
        Ok(())
    }

    /// Repeats `length` bytes that start `distance` bytes before, which may be bytes of themselves.
    #[inline]
    fn copy(&mut self, distance: usize, length: usize) -> Result<(), CodecError> {
        let end = self.end(length)?;
        let start = self.position.checked_sub(distance).filter(|_| distance > 0);
        let start = start.ok_or_else(|| self.damaged("it repeats what is before its start"))?;
        while self.position < end {
            // all that is there already can be repeated at once, twice as much with every turn
            let there = self.position.saturating_sub(start);
            let step = there.min(end.saturating_sub(self.position));
            self.bytes.copy_within(start..start.saturating_add(step), self.position);
            self.position = self.position.saturating_add(step);
        }
        Ok(())
    }
}
