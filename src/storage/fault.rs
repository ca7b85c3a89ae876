//! A storage that fails on purpose.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Access, FileIdentity, Run, SharedRun, Storage};
use crate::error::{Error, Result};

/// How a [`FaultStorage`] fails.
///
/// ```
/// use diskimage::Storage;
/// use diskimage::storage::{Fault, FaultStorage, MemoryStorage};
///
/// // a bad sector
/// let fault = Fault::Bytes { start: 512, end: 1024 };
/// let storage = FaultStorage::new(MemoryStorage::new(vec![7; 4096]), fault);
/// let mut sector = [0; 512];
/// assert!(storage.read_exact_at(&mut sector, 600).is_err());
/// storage.read_exact_at(&mut sector, 1024)?;
/// assert_eq!(storage.reads(), 2);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The n-th read fails, counted from zero; the others work.
    NthRead(u64),
    /// Every read that touches these bytes fails.
    Bytes {
        /// The first bad byte.
        start: u64,
        /// The first good byte behind.
        end: u64,
    },
}

/// Wraps a storage and fails some of its reads with an I/O error, so that callers can test that
/// they lose nothing silently.
///
/// ```
/// use diskimage::{ErrorKind, Storage};
/// use diskimage::storage::{Fault, FaultStorage, MemoryStorage};
///
/// let storage = FaultStorage::new(MemoryStorage::new(vec![0; 10]), Fault::NthRead(1));
/// let mut byte = [0];
/// let reads: Vec<_> = (0..2).map(|_| storage.read_exact_at(&mut byte, 0)).collect();
/// let failed = reads.iter().find_map(|read| read.as_ref().err());
/// assert_eq!(failed.map(|error| error.kind()), Some(ErrorKind::Io));
/// ```
#[derive(Debug)]
pub struct FaultStorage<S> {
    inner: S,
    fault: Fault,
    reads: AtomicU64,
}

impl<S: Storage> FaultStorage<S> {
    /// `inner`, failing as `fault` says.
    #[must_use]
    pub fn new(inner: S, fault: Fault) -> Self {
        Self { inner, fault, reads: AtomicU64::new(0) }
    }

    /// How many reads there were so far, failed ones included.
    ///
    /// Each read in turn fails once, and none of these faults passes for zeros:
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::storage::{Fault, FaultStorage, MemoryStorage};
    /// use diskimage::{Format, OpenOptions, Result, VirtualDisk};
    ///
    /// let read = |fault| -> (Result<()>, u64) {
    ///     let storage = Arc::new(FaultStorage::new(MemoryStorage::new(vec![7; 4096]), fault));
    ///     let options = OpenOptions::new().format(Format::Raw);
    ///     let opened = options.open_storage(storage.clone(), Path::new("disk.raw"));
    ///     let mut bytes = [0; 4096];
    ///     let result = opened.and_then(|disk| disk.read_exact_at(&mut bytes, 0));
    ///     (result, storage.reads())
    /// };
    /// let (whole, reads) = read(Fault::NthRead(u64::MAX));
    /// assert!(whole.is_ok());
    /// for number in 0..reads {
    ///     assert!(read(Fault::NthRead(number)).0.is_err());
    /// }
    /// ```
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

// Wrappers answer for every method of the trait, so that a new one cannot pass by the fault.
#[deny(clippy::missing_trait_methods)]
impl<S: Storage> Storage for FaultStorage<S> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let number = self.reads.fetch_add(1, Ordering::Relaxed);
        let end = offset.saturating_add(crate::num::to_u64(buf.len()));
        let fails = match self.fault {
            Fault::NthRead(n) => n == number,
            Fault::Bytes { start, end: bad_end } => offset < bad_end && start < end,
        };
        if fails {
            return Err(Error::io("read", std::io::Error::other("injected fault")).at(offset));
        }
        self.inner.read_exact_at(buf, offset)
    }

    fn check_available(&self, offset: u64, length: u64) -> Result<()> {
        self.inner.check_available(offset, length)
    }

    fn expect(&self, offset: u64, length: u64) {
        self.inner.expect(offset, length);
    }

    fn run_at(&self, offset: u64, max: u64) -> Result<Run> {
        self.inner.run_at(offset, max)
    }

    fn allocated_size(&self) -> Option<u64> {
        self.inner.allocated_size()
    }

    fn as_file(&self) -> Option<&std::fs::File> {
        None
    }

    fn path(&self) -> Option<&std::path::Path> {
        self.inner.path()
    }

    fn advise(&self, access: Access) -> Result<()> {
        self.inner.advise(access)
    }

    fn shared_runs(&self) -> Vec<SharedRun> {
        // what is shared need not be read, and would pass by the fault
        Vec::new()
    }

    fn identity(&self) -> Option<FileIdentity> {
        self.inner.identity()
    }

    fn lies_in(&self) -> Vec<FileIdentity> {
        self.inner.lies_in()
    }
}
