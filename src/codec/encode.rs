//! Encoders of compressed clusters. Each thread takes one that is idle, or makes another.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::Wrapper;
use crate::error::{Error, ErrorKind, Result};

/// Encoders that nobody uses just now.
pub(super) struct Idle<T>(Mutex<Vec<T>>);

impl<T> Idle<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    pub(super) fn with<R>(&self, make: impl FnOnce() -> T, work: impl FnOnce(&mut T) -> R) -> R {
        let idle = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = idle().pop();
        let mut encoder = taken.unwrap_or_else(make);
        let done = work(&mut encoder);
        idle().push(encoder);
        done
    }
}

/// Deflate (RFC 1951), a whole buffer at a time, with matches at every distance up to 32 KiB.
pub struct Deflate {
    level: i32,
    wrapper: Wrapper,
    #[cfg(feature = "libdeflate")]
    idle: Idle<libdeflater::Compressor>,
    #[cfg(not(feature = "libdeflate"))]
    idle: Idle<flate2::Compress>,
}

impl fmt::Debug for Deflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflate").field("level", &self.level).finish_non_exhaustive()
    }
}

impl Deflate {
    /// The level where none is asked for.
    pub const DEFAULT_LEVEL: i32 = 6;
    /// The highest level.
    #[cfg(feature = "libdeflate")]
    pub const MAX_LEVEL: i32 = 12;
    /// The highest level.
    #[cfg(not(feature = "libdeflate"))]
    pub const MAX_LEVEL: i32 = 9;

    /// An encoder of this level, from 1 to [`MAX_LEVEL`](Self::MAX_LEVEL).
    pub fn new(level: i32, wrapper: Wrapper) -> Result<Self> {
        if !(1..=Self::MAX_LEVEL).contains(&level) {
            return Err(bad_level("deflate", level, 1, Self::MAX_LEVEL));
        }
        Ok(Self { level, wrapper, idle: Idle::new() })
    }

    /// Appends the encoded form of `input` to `out` if it takes up at most `room` bytes. `false`,
    /// with nothing appended, if not.
    #[cfg(feature = "libdeflate")]
    pub fn encode(&self, input: &[u8], room: usize, out: &mut Vec<u8>) -> Result<bool> {
        let before = out.len();
        out.resize(before.saturating_add(room), 0);
        let level = libdeflater::CompressionLvl::new(self.level);
        let make = || libdeflater::Compressor::new(level.unwrap_or_default());
        let done = self.idle.with(make, |encoder| {
            let part = out.get_mut(before..).unwrap_or_default();
            match self.wrapper {
                Wrapper::Raw => encoder.deflate_compress(input, part),
                Wrapper::Zlib => encoder.zlib_compress(input, part),
            }
        });
        let done = done.ok();
        out.truncate(before.saturating_add(done.unwrap_or(0)));
        Ok(done.is_some())
    }

    /// Appends the encoded form of `input` to `out` if it takes up at most `room` bytes. `false`,
    /// with nothing appended, if not.
    #[cfg(not(feature = "libdeflate"))]
    pub fn encode(&self, input: &[u8], room: usize, out: &mut Vec<u8>) -> Result<bool> {
        use flate2::{Compress, Compression, FlushCompress, Status};
        let before = out.len();
        out.resize(before.saturating_add(room), 0);
        let level = Compression::new(u32::try_from(self.level).unwrap_or(6));
        let make = || Compress::new(level, self.wrapper == Wrapper::Zlib);
        let done = self.idle.with(make, |encoder| {
            encoder.reset();
            let part = out.get_mut(before..).unwrap_or_default();
            let status = encoder.compress(input, part, FlushCompress::Finish);
            (matches!(status, Ok(Status::StreamEnd)), crate::num::to_usize(encoder.total_out()))
        });
        out.truncate(before.saturating_add(if done.0 { done.1 } else { 0 }));
        Ok(done.0)
    }
}

/// Zstandard (RFC 8878), one frame for each buffer, its size declared.
#[cfg(feature = "zstd")]
pub struct Zstd {
    level: i32,
    idle: Idle<zstd::zstd_safe::CCtx<'static>>,
}

#[cfg(feature = "zstd")]
impl fmt::Debug for Zstd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zstd").field("level", &self.level).finish_non_exhaustive()
    }
}

#[cfg(feature = "zstd")]
impl Zstd {
    /// The level where none is asked for.
    pub const DEFAULT_LEVEL: i32 = 3;
    /// The highest level.
    pub const MAX_LEVEL: i32 = 22;

    /// An encoder of this level, from 1 to [`MAX_LEVEL`](Self::MAX_LEVEL).
    pub fn new(level: i32) -> Result<Self> {
        if !(1..=Self::MAX_LEVEL).contains(&level) {
            return Err(bad_level("zstd", level, 1, Self::MAX_LEVEL));
        }
        Ok(Self { level, idle: Idle::new() })
    }

    /// Appends the encoded form of `input` to `out` if it takes up at most `room` bytes. `false`,
    /// with nothing appended, if not.
    pub fn encode(&self, input: &[u8], room: usize, out: &mut Vec<u8>) -> Result<bool> {
        let before = out.len();
        out.resize(before.saturating_add(room), 0);
        let part = out.get_mut(before..).unwrap_or_default();
        let done = self.idle.with(small_units, |encoder| {
            if self.level == Self::DEFAULT_LEVEL && input.len() <= SMALL_UNIT {
                encoder.compress2(part, input)
            } else {
                encoder.compress(part, input, self.level)
            }
        });
        out.truncate(before.saturating_add(done.unwrap_or(0)));
        match done {
            Ok(_) => Ok(true),
            Err(code) if zstd::zstd_safe::get_error_name(code) == TOO_SMALL => Ok(false),
            Err(code) => Err(failed(code)),
        }
    }
}

/// What zstd calls an output that does not fit.
#[cfg(feature = "zstd")]
const TOO_SMALL: &str = "Destination buffer is too small";

#[cfg(feature = "zstd")]
#[cold]
fn failed(code: zstd::zstd_safe::ErrorCode) -> Error {
    let name = zstd::zstd_safe::get_error_name(code);
    Error::other(ErrorKind::Io, format!("zstd cannot encode a unit: {name}"))
}

/// Units of at most this size are encoded by tables of their own at the default level.
#[cfg(feature = "zstd")]
const SMALL_UNIT: usize = 64 << 10;

/// A context for them: level 3 with tables of 32 and 64 KiB instead of 128 and 256, and matches from
/// 4 bytes on instead of 5, which makes up for what smaller tables forget. A tenth less time at no
/// more than the size. Its parameters outlive a unit that does not fit; they could not be set again
/// then.
#[cfg(feature = "zstd")]
fn small_units() -> zstd::zstd_safe::CCtx<'static> {
    use zstd::zstd_safe::{CCtx, CParameter, Strategy};
    let mut encoder = CCtx::create();
    let parameters = [
        CParameter::CompressionLevel(Zstd::DEFAULT_LEVEL),
        CParameter::WindowLog(16),
        CParameter::ChainLog(13),
        CParameter::HashLog(14),
        CParameter::SearchLog(1),
        CParameter::MinMatch(4),
        CParameter::Strategy(Strategy::ZSTD_dfast),
    ];
    for parameter in parameters {
        let set = encoder.set_parameter(parameter);
        // all are within their bounds, and what is left out costs time only
        debug_assert!(set.is_ok(), "{parameter:?}");
    }
    encoder
}

#[cold]
pub(super) fn bad_level(codec: &str, level: i32, least: i32, most: i32) -> Error {
    let message = format!("the level of {codec} is {level}, which must be from {least} to {most}");
    Error::other(ErrorKind::InvalidInput, message).advise("choose such a level")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(length: u32) -> Vec<u8> {
        (0..length).map(|i| ((i * i) >> 7) as u8 & 0x3f).collect()
    }

    #[test]
    fn what_is_encoded_decodes_at_every_level() {
        let data = sample(65_536);
        for level in 1..=Deflate::MAX_LEVEL {
            for wrapper in [Wrapper::Raw, Wrapper::Zlib] {
                let mut out = vec![7; 3];
                let encoder = Deflate::new(level, wrapper).unwrap();
                assert!(encoder.encode(&data, data.len(), &mut out).unwrap());
                let mut back = vec![0; data.len()];
                super::super::inflate_exact(&out[3..], &mut back, wrapper).unwrap();
                assert_eq!(back, data, "level {level}");
            }
        }
        assert!(Deflate::new(0, Wrapper::Raw).is_err());
        assert!(Deflate::new(Deflate::MAX_LEVEL + 1, Wrapper::Raw).is_err());
    }

    /// The decoders of this library, whichever features they come with; see docs/deflate.md.
    #[test]
    fn matches_from_far_back_decode() {
        let fresh: Vec<u8> =
            (0..32_768u32).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect();
        let data = [&fresh[..], &fresh[..]].concat();
        let mut out = Vec::new();
        let encoder = Deflate::new(6, Wrapper::Raw).unwrap();
        assert!(encoder.encode(&data, data.len(), &mut out).unwrap());
        for input in [out.clone(), [&out[..], &[0; 100]].concat()] {
            let mut back = vec![0; data.len()];
            super::super::inflate_exact(&input, &mut back, Wrapper::Raw).unwrap();
            assert_eq!(back, data);
            super::super::deflate::streaming(&input, &mut back, Wrapper::Raw).unwrap();
            assert_eq!(back, data);
        }
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn zstd_too() {
        let data = sample(65_536);
        let mut out = vec![7; 3];
        assert!(Zstd::new(3).unwrap().encode(&data, data.len(), &mut out).unwrap());
        let mut back = vec![0; data.len()];
        super::super::zstd_exact(&out[3..], &mut back).unwrap();
        assert_eq!(back, data);
    }

    /// A context stays within the frame that did not fit, where its parameters cannot be set.
    #[cfg(feature = "zstd")]
    #[test]
    fn zstd_goes_on_behind_what_does_not_fit() {
        let data = sample(65_536);
        for level in [1, 3, 4] {
            let encoder = Zstd::new(level).unwrap();
            for length in [65_536, 512, 65_536] {
                let mut out = vec![7; 3];
                assert!(!encoder.encode(&data, 10, &mut out).unwrap());
                assert_eq!(out, [7; 3]);
                assert!(encoder.encode(&data[..length], length, &mut out).unwrap());
                let mut back = vec![0; length];
                super::super::zstd_exact(&out[3..], &mut back).unwrap();
                assert_eq!(back, data[..length], "level {level}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_appends_nothing() {
        let data = sample(65_536);
        let mut out = vec![7; 3];
        let encoder = Deflate::new(6, Wrapper::Raw).unwrap();
        assert!(!encoder.encode(&data, 100, &mut out).unwrap());
        assert_eq!(out, [7; 3]);
        assert!(encoder.encode(&data, data.len(), &mut out).unwrap(), "and it goes on working");
    }
}
