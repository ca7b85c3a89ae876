//! Target: what a conversion writes to.

use std::fs::File;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};

mod file;
mod files;
mod patch;
mod place;
mod spill;
pub(crate) mod stream;

pub use file::{Existing, FileTarget, Preallocation};
pub use files::FilesTarget;
pub use patch::FilePatch;
pub(crate) use place::named_file;
pub use spill::SpillTarget;
pub use stream::StreamTarget;

/// What a conversion writes to: the whole disk, byte for byte, in any order unless
/// [`Capabilities::ascending`] says otherwise.
///
/// Only [`finish`](Target::finish) makes the result appear: a target that is dropped without it
/// leaves nothing behind that could be taken for a whole disk.
///
/// A target that only counts:
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use diskimage::disk::EmptyDisk;
/// use diskimage::target::Capabilities;
/// use diskimage::{Convert, Result, Target};
///
/// #[derive(Default)]
/// struct Counting(AtomicU64);
///
/// impl Target for Counting {
///     fn capabilities(&self) -> Capabilities {
///         Capabilities { ascending: false, fresh_zeros: true }
///     }
///
///     fn write_at(&self, buf: &[u8], _offset: u64) -> Result<()> {
///         self.0.fetch_add(buf.len() as u64, Ordering::Relaxed);
///         Ok(())
///     }
///
///     fn write_zeros(&self, _offset: u64, _length: u64) -> Result<()> {
///         Ok(())
///     }
///
///     fn finish(self: Box<Self>) -> Result<()> {
///         Ok(())
///     }
/// }
///
/// let target = Counting::default();
/// Convert::new().run(&EmptyDisk(1 << 40), &target)?;
/// assert_eq!(target.0.into_inner(), 0); // nothing but zeros
/// # Ok::<(), diskimage::Error>(())
/// ```
pub trait Target: Send + Sync {
    /// What this target can and cannot do.
    fn capabilities(&self) -> Capabilities;

    /// The offsets of its files beside the first, where it is more than one file: ascending, none of
    /// them in two.
    fn files(&self) -> &[Range<u64>] {
        &[]
    }

    /// Writes `buf` at `offset`. Ranges of concurrent calls never overlap.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()>;

    /// Makes a range read as zeros, by whatever way is cheapest.
    fn write_zeros(&self, offset: u64, length: u64) -> Result<()>;

    /// Copies `length` bytes from `offset` of `source` to `to`, without their passing through this
    /// process. Gives how many bytes from the start on are copied: the caller reads and writes the
    /// rest. With [`Reflink::Always`] all is done, or it is an error.
    fn copy_from(
        &self,
        source: &File,
        offset: u64,
        to: u64,
        length: u64,
        reflink: Reflink,
    ) -> Result<u64> {
        let _ = (source, offset, to, length);
        match reflink {
            Reflink::Always => Err(Error::other(
                ErrorKind::Unsupported,
                "this target cannot share blocks with the image",
            )),
            Reflink::Auto | Reflink::Never => Ok(0),
        }
    }

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

/// Whether stored data are shared with the image where the file system can: both files then have
/// the same blocks on the medium, until one of them is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reflink {
    /// Shared where that works, else copied, by the kernel where that works.
    #[default]
    Auto,
    /// Shared, or an error. Only what is less than a block of the file system, at the ends of a run
    /// of data, is copied.
    Always,
    /// Copied byte by byte.
    Never,
}
