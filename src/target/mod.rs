//! Target: what a conversion writes to.

use std::fs::File;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};

mod file;
mod files;
mod memory;
mod patch;
mod place;
mod spill;
pub(crate) mod stream;

pub use file::{Existing, FileTarget, Preallocation};
pub use files::FilesTarget;
pub use memory::MemoryTarget;
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
    ///
    /// ```
    /// use diskimage::Target;
    /// use diskimage::target::{Existing, FileTarget};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.raw");
    /// # std::fs::write(&path, vec![9; 100_000])?;
    /// let target = FileTarget::existing(&path, 100_000, Existing::Unknown)?;
    /// target.write_zeros(10, 99_000)?; // where whole pages lie in it, they become a hole
    /// Box::new(target).finish()?;
    /// let bytes = std::fs::read(&path)?;
    /// assert_eq!((bytes[9], bytes[10], bytes[99_009], bytes[99_010]), (9, 0, 0, 9));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn write_zeros(&self, offset: u64, length: u64) -> Result<()>;

    /// Copies `length` bytes from `offset` of `source` to `to`, without their passing through this
    /// process. Gives how many bytes from the start on are copied: the caller reads and writes the
    /// rest. With [`Reflink::Always`] all is done, or it is an error.
    ///
    /// What a converter does for bytes that are stored as they are:
    ///
    /// ```
    /// use std::fs::File;
    ///
    /// use diskimage::target::{FileTarget, Reflink};
    /// use diskimage::{Result, Target};
    ///
    /// fn copy(source: &File, bytes: &[u8], target: &dyn Target) -> Result<()> {
    ///     let copied = target.copy_from(source, 0, 0, bytes.len() as u64, Reflink::Auto)?;
    ///     target.write_at(&bytes[copied as usize..], copied) // the rest, or all
    /// }
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let [path, new] = ["old.raw", "new.raw"].map(|name| folder.path().join(name));
    /// # let bytes = vec![7; 100_000];
    /// # std::fs::write(&path, &bytes)?;
    /// let target = FileTarget::create(&new, 100_000)?;
    /// copy(&File::open(&path)?, &bytes, &target)?;
    /// Box::new(target).finish()?;
    /// assert_eq!(std::fs::read(&new)?, bytes);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
///
/// ```
/// use diskimage::Target;
/// use diskimage::target::{FileTarget, StreamTarget};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.raw");
/// // a pipe takes one byte after the other, zeros too
/// let stream = StreamTarget::new(std::io::sink()).capabilities();
/// assert!(stream.ascending && !stream.fresh_zeros);
/// // a new file takes them in any order, and is zeros where nothing was written
/// let file = FileTarget::create(&path, 1 << 20)?.capabilities();
/// assert!(!file.ascending && file.fresh_zeros);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Writes must come in ascending order without gaps, one at a time.
    pub ascending: bool,
    /// What is never written reads as zeros.
    pub fresh_zeros: bool,
}

/// Whether stored data are shared with the image where the file system can: both files then have
/// the same blocks on the medium, until one of them is written to.
///
/// ```
/// use diskimage::disk::EmptyDisk;
/// use diskimage::target::{Reflink, StreamTarget};
/// use diskimage::{Convert, ErrorKind};
///
/// let target = StreamTarget::new(std::io::sink());
/// // a pipe shares no blocks with anything
/// let job = Convert::new().reflink(Reflink::Always);
/// let error = job.run(&EmptyDisk(4096), &target).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidInput);
/// Convert::new().reflink(Reflink::Auto).run(&EmptyDisk(4096), &target)?;
/// # Ok::<(), diskimage::Error>(())
/// ```
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
