//! What differs between operating systems, and nothing else: the only place with `cfg(unix)` and
//! its like.

#[cfg(not(unix))]
mod other;
#[cfg(unix)]
mod unix;

#[cfg(not(unix))]
pub(crate) use other::*;
#[cfg(unix)]
pub(crate) use unix::*;

/// What kind of file an open file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// A regular file.
    Regular { size: u64 },
    /// A block device.
    #[cfg_attr(not(unix), expect(dead_code, reason = "only Unix has such files"))]
    Block { size: u64 },
    /// Anything else, in words: "a FIFO".
    Other(&'static str),
}
