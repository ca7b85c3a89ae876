//! Target: what a conversion writes to.

use crate::error::Result;

mod file;
mod stream;

pub use file::{Existing, FileTarget};
pub use stream::StreamTarget;

/// What a conversion writes to: the whole disk, byte for byte, in any order unless
/// [`Capabilities::ascending`] says otherwise.
///
/// Only [`finish`](Target::finish) makes the result appear: a target that is dropped without it
/// leaves nothing behind that could be taken for a whole disk.
pub trait Target: Send + Sync {
    /// What this target can and cannot do.
    fn capabilities(&self) -> Capabilities;

    /// Writes `buf` at `offset`. Ranges of concurrent calls never overlap.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()>;

    /// Makes a range read as zeros, by whatever way is cheapest.
    fn write_zeros(&self, offset: u64, length: u64) -> Result<()>;

    /// Makes the result durable, and visible where it was not.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// What a [`Target`] can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Writes must come in ascending order without gaps, one at a time.
    pub ascending: bool,
    /// What is never written reads as zeros.
    pub fresh_zeros: bool,
}
