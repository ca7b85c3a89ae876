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
///
/// One that holds only the start of a file, as far as it has come:
///
/// ```
/// use std::ops::Range;
/// use std::sync::Mutex;
///
/// use diskimage::storage::Run;
/// use diskimage::{Error, ErrorKind, Result, Storage};
///
/// #[derive(Debug)]
/// struct Arriving {
///     bytes: Vec<u8>,
///     size: u64,
///     wanted: Mutex<Vec<Range<u64>>>,
/// }
///
/// impl Storage for Arriving {
///     fn size(&self) -> u64 {
///         self.size
///     }
///
///     fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
///         self.check_available(offset, buf.len() as u64)?;
///         buf.copy_from_slice(&self.bytes[offset as usize..][..buf.len()]);
///         Ok(())
///     }
///
///     fn check_available(&self, offset: u64, length: u64) -> Result<()> {
///         match offset.checked_add(length) {
///             Some(end) if end <= self.bytes.len() as u64 => Ok(()),
///             // says nothing about the file, so it is not `Corrupt`
///             _ => Err(Error::other(ErrorKind::Io, "has not come yet").at(offset)),
///         }
///     }
///
///     fn expect(&self, offset: u64, length: u64) {
///         self.wanted.lock().expect("no panic").push(offset..offset + length);
///     }
/// }
///
/// let storage = Arriving { bytes: vec![7; 4096], size: 1 << 20, wanted: Mutex::default() };
/// let mut bytes = [0; 512];
/// storage.read_exact_at(&mut bytes, 0)?;
/// let error = storage.read_exact_at(&mut bytes, 8192).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Io);
/// storage.expect(8192, 512);
/// assert_eq!(storage.wanted.lock().expect("no panic")[..], [8192..8704]);
/// // of holes, names and files it need not know
/// assert_eq!(storage.run_at(0, 512)?, Run { hole: false, length: 512 });
/// assert!(storage.path().is_none() && storage.as_file().is_none());
/// # Ok::<(), diskimage::Error>(())
/// ```
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
    ///
    /// ```
    /// use diskimage::Storage;
    /// use diskimage::storage::{MemoryStorage, PieceStorage};
    ///
    /// let sparse = PieceStorage::new(1 << 40, "holes".into());
    /// let run = sparse.run_at(4096, u64::MAX)?;
    /// assert_eq!((run.hole, run.length), (true, (1 << 40) - 4096)); // to the end, at most
    /// let full = MemoryStorage::new(vec![0; 4096]);
    /// assert!(!full.run_at(0, 512)?.hole); // its zeros are stored
    /// # Ok::<(), diskimage::Error>(())
    /// ```
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
    ///
    /// Whether what is read would be overwritten:
    ///
    /// ```
    /// use diskimage::Storage;
    /// use diskimage::storage::{FileStorage, WindowStorage};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let [path, other] = ["image", "other"].map(|name| folder.path().join(name));
    /// # std::fs::write(&path, [0; 4096])?;
    /// # std::fs::write(&other, [0; 4096])?;
    /// let part = WindowStorage::new(FileStorage::open(&path)?, 512, 512)?;
    /// let overwrites = |target: &FileStorage| {
    ///     target.identity().is_some_and(|target| part.lies_in().contains(&target))
    /// };
    /// assert_eq!(part.identity(), None); // its offsets are not those of a file
    /// # #[cfg(unix)]
    /// assert!(overwrites(&FileStorage::open(&path)?));
    /// assert!(!overwrites(&FileStorage::open(&other)?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn lies_in(&self) -> Vec<FileIdentity> {
        Vec::from_iter(self.identity())
    }
}

/// How the bytes of a storage are going to be used.
///
/// ```
/// use diskimage::Storage;
/// use diskimage::storage::{Access, FileStorage};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("image");
/// # std::fs::write(&path, [7; 8192])?;
/// let storage = FileStorage::open(&path)?;
/// if storage.advise(Access::Direct).is_err() {
///     // a system or a file system without that: at least leave its cache to others
///     storage.advise(Access::Sequential)?;
/// }
/// let mut bytes = [0; 100];
/// storage.read_exact_at(&mut bytes, 5000)?; // in step with nothing
/// assert_eq!(bytes, [7; 100]);
/// storage.advise(Access::Forget)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// The runs of a file of 1 MiB that is a hole but for its first page:
///
/// ```
/// use diskimage::storage::Run;
/// use diskimage::{Result, Storage};
///
/// #[derive(Debug)]
/// struct Sparse([u8; 4096]);
///
/// impl Storage for Sparse {
///     fn size(&self) -> u64 {
///         1 << 20
///     }
///
///     fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
///         for (byte, at) in buf.iter_mut().zip(offset..) {
///             *byte = self.0.get(at as usize).copied().unwrap_or_default();
///         }
///         Ok(())
///     }
///
///     fn run_at(&self, offset: u64, max: u64) -> Result<Run> {
///         let (hole, end) = if offset < 4096 { (false, 4096) } else { (true, self.size()) };
///         Ok(Run { hole, length: max.min(end - offset) })
///     }
///
///     fn allocated_size(&self) -> Option<u64> {
///         Some(4096)
///     }
/// }
///
/// let storage = Sparse([7; 4096]);
/// let (mut at, mut data) = (0, 0);
/// while at < storage.size() {
///     let run = storage.run_at(at, storage.size() - at)?;
///     data += if run.hole { 0 } else { run.length };
///     at += run.length;
/// }
/// assert_eq!(Some(data), storage.allocated_size());
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Whether it is a hole, which reads as zeros.
    pub hole: bool,
    /// Its length in bytes, at least one.
    pub length: u64,
}

/// A run of bytes that several files have in one place of their medium.
///
/// ```
/// use diskimage::Storage;
/// use diskimage::storage::{FileStorage, SharedRun};
///
/// /// How many bytes would be free if the file were removed.
/// fn own(storage: &dyn Storage) -> Option<u64> {
///     let length = |run: &SharedRun| run.length;
///     let shared: u64 = storage.shared_runs().iter().map(length).sum();
///     Some(storage.allocated_size()?.saturating_sub(shared))
/// }
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("image");
/// # std::fs::write(&path, [7; 8192])?;
/// // a new file, of which no other has a reflink
/// let storage = FileStorage::open(&path)?;
/// assert_eq!(storage.shared_runs(), []);
/// assert_eq!(own(&storage), storage.allocated_size());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use diskimage::Storage;
/// use diskimage::storage::FileStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let [path, link] = ["image", "link"].map(|name| folder.path().join(name));
/// # std::fs::write(&path, "bytes")?;
/// # std::fs::hard_link(&path, &link)?;
/// let [first, second] = [FileStorage::open(&path)?, FileStorage::open(&link)?];
/// assert_ne!(first.path(), second.path());
/// # #[cfg(unix)]
/// assert!(first.identity().is_some());
/// assert_eq!(first.identity(), second.identity()); // one file of two names
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
