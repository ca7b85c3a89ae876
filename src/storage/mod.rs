//! Storage: the bytes of one container file, by position.

use std::fmt::Debug;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Detail, Error, ErrorKind, Result};
use crate::num::to_u64;

mod cache;
mod fault;
mod file;
mod memory;
#[cfg(feature = "mmap")]
mod mmap;
mod pieces;
mod watched;
mod window;

pub use cache::{TableCache, TablePage};
pub use fault::{Fault, FaultStorage};
pub use file::FileStorage;
pub use memory::MemoryStorage;
#[cfg(feature = "mmap")]
pub use mmap::MmapStorage;
pub use pieces::PieceStorage;
pub(crate) use watched::WatchedStorage;
pub use window::WindowStorage;

/// The bytes of one container file. Any number of threads read it at once.
///
/// The size is taken once, when the storage is made; a file that shrinks afterwards is an error
/// of the read that meets it.
///
/// ```
/// use diskimage::{ErrorKind, Storage};
/// use diskimage::storage::{MemoryStorage, WindowStorage};
///
/// let storage = WindowStorage::new(MemoryStorage::new((0..100).collect()), 10, 5)?;
/// let mut bytes = [0; 5];
/// storage.read_exact_at(&mut bytes, 0)?;
/// assert_eq!(bytes, [10, 11, 12, 13, 14]);
/// let error = storage.read_exact_at(&mut bytes, 1).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Corrupt); // the file ends before
/// # Ok::<(), diskimage::Error>(())
/// ```
///
/// The [guide](crate::guide::storage) has one over an object store.
pub trait Storage: Send + Sync + Debug {
    /// The size in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset` on. Ending early is an error of kind
    /// [`Corrupt`](ErrorKind::Corrupt); the system's failures are of kind [`Io`](ErrorKind::Io).
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// Whether the bytes of a range that lies inside can be read at all, asked before room is made
    /// for them. Only what holds a part of a file says no.
    fn check_available(&self, offset: u64, length: u64) -> Result<()> {
        let _ = (offset, length);
        Ok(())
    }

    /// Says that a range is going to be asked for once more is known, so that what passes by only
    /// once is kept until then.
    fn expect(&self, offset: u64, length: u64) {
        let _ = (offset, length);
    }

    /// What lies at `offset`, and for how many bytes (1..=`max`): data, or a hole that reads as
    /// zeros. Saying data is always right; `offset` lies below the size and `max` is at least 1.
    fn run_at(&self, offset: u64, max: u64) -> Result<Run> {
        Ok(Run { hole: false, length: max.min(self.size().saturating_sub(offset)) })
    }

    /// The bytes that the file takes up on its medium, where the system tells.
    fn allocated_size(&self) -> Option<u64> {
        None
    }

    /// The operating system's file behind it, if there is one and its offsets are the same: what
    /// lets a converter leave copying to the kernel.
    fn as_file(&self) -> Option<&File> {
        None
    }

    /// The name of the file, for messages.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// Says how the bytes are going to be used. What has no cache of the system below it has
    /// nothing to do. [`Access::Direct`] is an error where the system refuses it.
    fn advise(&self, access: Access) -> Result<()> {
        let _ = access;
        Ok(())
    }

    /// The runs of bytes that the file shares with other files on its medium (reflinks), ascending,
    /// as far as the system tells; what is not told may be shared too.
    fn shared_runs(&self) -> Vec<SharedRun> {
        Vec::new()
    }

    /// What tells that two storages are the same file, where the system has such a thing.
    fn identity(&self) -> Option<FileIdentity> {
        None
    }

    /// The files whose bytes these are, or are made of: that of [`identity`](Self::identity), but for
    /// a part of a file, or several files in one. Whoever writes into one of them changes these.
    fn lies_in(&self) -> Vec<FileIdentity> {
        Vec::from_iter(self.identity())
    }
}

/// How the bytes of a storage are going to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// From the start to the end: the system may read far ahead.
    Sequential,
    /// Once: the system may forget what was read so far.
    Forget,
    /// Past the system's cache, from now on (`O_DIRECT`).
    Direct,
}

/// A run of bytes of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Whether it is a hole, which reads as zeros.
    pub hole: bool,
    /// Its length in bytes, at least one.
    pub length: u64,
}

/// A run of bytes that several files have in one place of their medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedRun {
    /// The byte offset in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Where it lies on the medium: the same for all files of one device that share it.
    pub place: u64,
}

/// Device and inode number of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// The file system's device number.
    pub device: u64,
    /// The inode number in it.
    pub inode: u64,
}

/// What a storage can be wrong about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageDetail {
    /// A structure or guest data lies beyond the end.
    #[error("{what} is cut off: {wanted} bytes are needed, the file ends at {size:#x}")]
    BeyondEnd { what: &'static str, size: u64, wanted: u64 },
}

impl Detail for StorageDetail {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
    fn is_cut_off(&self) -> bool {
        true
    }
    fn advice(&self) -> Option<std::borrow::Cow<'static, str>> {
        Some("the file is truncated or damaged; fetch it again".into())
    }
}

/// The error of a read of `wanted` bytes of `what` at `offset` from a file of `size` bytes.
#[cold]
pub(crate) fn beyond_end(what: &'static str, size: u64, wanted: u64, offset: u64) -> Error {
    Error::new(StorageDetail::BeyondEnd { what, size, wanted }).at(offset)
}

/// What a read without a better name is called in messages.
pub(crate) const DATA: &str = "the data";

/// Refuses a range that does not lie inside the storage, before anything is allocated for it.
pub(crate) fn check_inside(
    storage: &dyn Storage,
    what: &'static str,
    offset: u64,
    length: u64,
) -> Result<()> {
    match offset.checked_add(length) {
        Some(end) if end <= storage.size() => Ok(()),
        _ => Err(beyond_end(what, storage.size(), length, offset)),
    }
}

/// Fills `buf` from a table that may be a hole for the most part: what is one is not read.
pub(crate) fn read_or_hole(storage: &dyn Storage, buf: &mut [u8], offset: u64) -> Result<()> {
    let length = to_u64(buf.len());
    let inside = length > 0 && offset.checked_add(length).is_some_and(|end| end <= storage.size());
    let run = if inside { storage.run_at(offset, length)? } else { Run { hole: false, length } };
    if run.hole && run.length >= length {
        buf.fill(0);
        return Ok(());
    }
    storage.read_exact_at(buf, offset)
}

/// Reads `length` bytes at `offset`, having checked that the file holds them.
pub(crate) fn read_vec(
    storage: &dyn Storage,
    what: &'static str,
    offset: u64,
    length: usize,
) -> Result<Vec<u8>> {
    check_inside(storage, what, offset, to_u64(length))?;
    storage.check_available(offset, to_u64(length))?;
    let mut bytes = vec![0; length];
    storage.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// The same, to be shared.
pub(crate) fn read_shared(
    storage: &dyn Storage,
    what: &'static str,
    offset: u64,
    length: usize,
) -> Result<Arc<[u8]>> {
    check_inside(storage, what, offset, to_u64(length))?;
    storage.check_available(offset, to_u64(length))?;
    let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, length).collect();
    if let Some(bytes) = Arc::get_mut(&mut bytes) {
        storage.read_exact_at(bytes, offset)?;
    }
    Ok(bytes)
}

macro_rules! forward_storage {
    ($($pointer:ty),+) => {$(
        impl<S: Storage + ?Sized> Storage for $pointer {
            fn size(&self) -> u64 {
                (**self).size()
            }
            fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
                (**self).read_exact_at(buf, offset)
            }
            fn check_available(&self, offset: u64, length: u64) -> Result<()> {
                (**self).check_available(offset, length)
            }
            fn expect(&self, offset: u64, length: u64) {
                (**self).expect(offset, length);
            }
            fn run_at(&self, offset: u64, max: u64) -> Result<Run> {
                (**self).run_at(offset, max)
            }
            fn allocated_size(&self) -> Option<u64> {
                (**self).allocated_size()
            }
            fn as_file(&self) -> Option<&File> {
                (**self).as_file()
            }
            fn path(&self) -> Option<&Path> {
                (**self).path()
            }
            fn advise(&self, access: Access) -> Result<()> {
                (**self).advise(access)
            }
            fn shared_runs(&self) -> Vec<SharedRun> {
                (**self).shared_runs()
            }
            fn identity(&self) -> Option<FileIdentity> {
                (**self).identity()
            }
            fn lies_in(&self) -> Vec<FileIdentity> {
                (**self).lies_in()
            }
        }
    )+};
}
forward_storage!(Arc<S>, Box<S>);
