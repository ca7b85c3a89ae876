//! Watching and stopping a long operation from another thread.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::error::{Detail, ErrorKind, Result};

/// Shared between a long operation and whoever watches it: how many bytes are done (of a
/// conversion guest bytes, holes and zeros included; of a check bytes of tables; so that it always
/// reaches the total), and whether to stop.
///
/// Before an operation knows how much there is to do, the total is zero, and what is done are the
/// bytes read of the files that [`OpenOptions`](crate::OpenOptions) with this progress opened.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::disk::EmptyDisk;
/// use diskimage::target::StreamTarget;
/// use diskimage::{Convert, ErrorKind, Progress};
///
/// let progress = Arc::new(Progress::new());
/// progress.cancel(); // from any thread, at any time
/// let target = StreamTarget::new(std::io::sink());
/// let job = Convert::new().progress(Arc::clone(&progress));
/// let error = job.run(&EmptyDisk(1 << 40), &target).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Cancelled);
/// ```
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    /// Whether the operation counts itself, and not what is read.
    counted: AtomicBool,
    cancelled: AtomicBool,
    deadline: Option<Instant>,
}

#[derive(Debug, thiserror::Error)]
#[error("stopped on request")]
struct Cancelled;

impl Detail for Cancelled {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Cancelled
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it takes longer than the time that is allowed")]
struct TimedOut;

impl Detail for TimedOut {
    fn kind(&self) -> ErrorKind {
        ErrorKind::TimedOut
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some("allow more with --timeout".into())
    }
}

impl Progress {
    /// Nothing done, nothing known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, and the operation stops soon after `deadline` with an error of kind
    /// [`TimedOut`](ErrorKind::TimedOut).
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    /// use std::time::{Duration, Instant};
    ///
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{ErrorKind, Format, OpenOptions, Progress};
    ///
    /// let storage = Arc::new(MemoryStorage::new(vec![0; 4096]));
    /// let open = |seconds| {
    ///     let deadline = Instant::now() + Duration::from_secs(seconds);
    ///     let progress = Arc::new(Progress::until(deadline));
    ///     let options = OpenOptions::new().format(Format::Raw).progress(progress);
    ///     options.open_storage(storage.clone(), Path::new("disk.raw"))
    /// };
    /// assert!(open(3600).is_ok());
    /// assert_eq!(open(0).unwrap_err().kind(), ErrorKind::TimedOut);
    /// ```
    #[must_use]
    pub fn until(deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..Self::default() }
    }

    /// Bytes done so far.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Bytes in all; zero where nobody knows.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::target::StreamTarget;
    /// use diskimage::{Convert, Progress};
    ///
    /// let progress = Arc::new(Progress::new());
    /// let target = StreamTarget::new(std::io::sink());
    /// Convert::new().progress(Arc::clone(&progress)).run(&EmptyDisk(1 << 20), &target)?;
    /// // zeros count too
    /// assert_eq!((progress.done(), progress.total()), (1 << 20, 1 << 20));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Asks the operation to stop; it returns an error of kind
    /// [`Cancelled`](ErrorKind::Cancelled) soon.
    ///
    /// ```
    /// use std::io::{self, Write};
    /// # use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// # use diskimage::storage::MemoryStorage;
    /// use diskimage::target::StreamTarget;
    /// use diskimage::{Convert, ErrorKind, Progress};
    /// # use diskimage::{Format, OpenOptions};
    ///
    /// /// Who has seen enough at the first bytes.
    /// struct Enough(Arc<Progress>);
    ///
    /// impl Write for Enough {
    ///     fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
    ///         self.0.cancel();
    ///         Ok(buf.len())
    ///     }
    ///
    ///     fn flush(&mut self) -> io::Result<()> {
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # let storage = Arc::new(MemoryStorage::new(vec![7; 16 << 20]));
    /// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
    /// let progress = Arc::new(Progress::new());
    /// let target = StreamTarget::new(Enough(Arc::clone(&progress)));
    /// let error = Convert::new().progress(Arc::clone(&progress)).run(&disk, &target).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Cancelled);
    /// assert!(progress.done() < progress.total());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// An operation, or another part of one, begins: it has `total` bytes to do, and will tell by
    /// [`advance`](Self::advance) which of them are done. For whoever does long work of their own.
    ///
    /// ```
    /// let progress = diskimage::Progress::new();
    /// progress.start(100);
    /// progress.advance(30);
    /// assert_eq!((progress.done(), progress.total()), (30, 100));
    /// ```
    pub fn start(&self, total: u64) {
        self.begin(total, true);
    }

    /// The same for what reads files of `total` bytes from their start to their end (zero where
    /// nobody knows how many): what is read counts by itself, where the files were opened with this
    /// progress.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::{Format, OpenOptions, Progress, VirtualDisk};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.raw");
    /// # std::fs::write(&path, vec![7; 1 << 20])?;
    /// let progress = Arc::new(Progress::new());
    /// let options = OpenOptions::new().format(Format::Raw).progress(Arc::clone(&progress));
    /// let disk = options.open(&path)?; // of 1 MiB
    /// progress.start_reading(disk.size());
    /// let mut half = vec![0; 512 << 10];
    /// disk.read_exact_at(&mut half, 0)?;
    /// assert_eq!((progress.done(), progress.total()), (512 << 10, 1 << 20));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start_reading(&self, total: u64) {
        self.begin(total, false);
    }

    fn begin(&self, total: u64, counted: bool) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.counted.store(counted, Ordering::Relaxed);
    }

    /// So many bytes more are done.
    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes more were read.
    pub(crate) fn read(&self, bytes: u64) {
        // threads that convert do not wait for each other here
        if !self.counted.load(Ordering::Relaxed) {
            self.advance(bytes);
        }
    }

    /// The error to return if somebody asked to stop, or the time is over: for whoever does long
    /// work of their own.
    ///
    /// ```
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::{ErrorKind, Progress, Result, VirtualDisk, VirtualDiskExt};
    ///
    /// fn data_in(disk: &dyn VirtualDisk, progress: &Progress) -> Result<u64> {
    ///     let mut data = 0;
    ///     for extent in disk.extents(0..disk.size()) {
    ///         progress.check()?;
    ///         let extent = extent?;
    ///         data += if extent.kind.is_zero() { 0 } else { extent.length };
    ///     }
    ///     Ok(data)
    /// }
    ///
    /// let progress = Progress::new();
    /// assert_eq!(data_in(&EmptyDisk(1 << 40), &progress)?, 0);
    /// progress.cancel();
    /// assert!(progress.is_cancelled());
    /// let error = data_in(&EmptyDisk(1 << 40), &progress).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Cancelled);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(cancelled());
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(TimedOut.into()),
            _ => Ok(()),
        }
    }
}

/// The error of what was asked to stop.
#[cold]
pub(crate) fn cancelled() -> crate::Error {
    Cancelled.into()
}
