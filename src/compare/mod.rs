//! Comparing the content of two disks, whatever formats they are in.
//!
//! ```
//! # use diskimage::format::{qcow2::Qcow2Options, vmdk::VmdkOptions};
//! # use diskimage::target::FileTarget;
//! # use diskimage::{Convert, Error, Target};
//! use diskimage::{Compare, OpenOptions};
//!
//! # let folder = tempfile::tempdir().map_err(|source| Error::io("make a folder", source))?;
//! # let [a, b] = ["a.qcow2", "b.vmdk"].map(|name| folder.path().join(name));
//! # let target = FileTarget::create(&a, 0)?;
//! # Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 20)?), &target)?;
//! # Box::new(target).finish()?;
//! # let target = FileTarget::create(&b, 0)?;
//! # Convert::new().create(VmdkOptions::new().writer(1 << 20)?, &target)?;
//! # Box::new(target).finish()?;
//! let first = OpenOptions::new().open(&a)?; // a.qcow2
//! let second = OpenOptions::new().open(&b)?; // b.vmdk
//! let difference = Compare::new().first(&first, &second)?;
//! assert_eq!(difference, None); // they are the same disk
//! # Ok::<(), Error>(())
//! ```

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::VirtualDisk;
use crate::error::{Error, Result};
use crate::num::Pow2;
use crate::parallel::{self, Segments, Turn};
use crate::progress::Progress;

mod side;
mod worker;

use side::Disk;
use worker::Worker;

/// How to compare: a builder. The default uses every processor and compares content only.
///
/// Content is compared in sectors of 512 bytes. The shorter disk is taken to go on with zeros. What
/// both maps call zeros is not read, nor is what both disks take from the same place of the same
/// file.
///
/// ```
/// use diskimage::compare::Difference;
/// use diskimage::disk::EmptyDisk;
/// use diskimage::{Compare, Error};
///
/// let (first, second) = (EmptyDisk(1 << 40), EmptyDisk(1 << 41));
/// // the shorter one is taken to go on with zeros
/// assert_eq!(Compare::new().first(&first, &second).map_err(Error::from)?, None);
/// let strict = Compare::new().strict(true).first(&first, &second).map_err(Error::from)?;
/// assert_eq!(strict, Some(Difference::Size));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Compare {
    threads: Option<NonZeroUsize>,
    max_memory: u64,
    strict: bool,
    progress: Arc<Progress>,
}

/// The first thing that differs. Which one is found depends on nothing but the two disks. These are
/// all there can be: what else a disk has (its format, its snapshots) is not compared.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::compare::Difference;
/// use diskimage::disk::EmptyDisk;
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Compare, Error, Format, OpenOptions};
///
/// let mut bytes = vec![0; 1 << 20];
/// let open = |bytes: &[u8]| {
///     let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
///     OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk.raw"))
/// };
/// let zeros = open(&bytes)?;
/// bytes[5000] = 7;
/// let disk = open(&bytes)?;
/// let found = Compare::new().first(&zeros, &disk).map_err(Error::from)?;
/// assert_eq!(found, Some(Difference::Content(4608))); // the start of the sector
/// // the same bytes, stored by one of them only
/// let empty = EmptyDisk(1 << 20);
/// let found = Compare::new().strict(true).first(&zeros, &empty).map_err(Error::from)?;
/// assert_eq!(found, Some(Difference::Status(0)));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The sizes: looked at only if [`strict`](Compare::strict), and then before all else.
    Size,
    /// What the maps say of the bytes at this guest offset: whether an image holds them, whether
    /// they are zeros, compressed, or have a place. Looked at only if [`strict`](Compare::strict).
    Status(u64),
    /// The bytes of the sector at this guest offset.
    Content(u64),
}

/// Which of the two disks.
///
/// ```
/// use diskimage::compare::{Side, Stage};
///
/// /// The file that is at fault, for a message.
/// fn at_fault<'a>(stage: Stage, names: [&'a str; 2]) -> Option<&'a str> {
///     match stage {
///         Stage::Start => None,
///         Stage::Map(Side::First) | Stage::Read(Side::First) => Some(names[0]),
///         Stage::Map(Side::Second) | Stage::Read(Side::Second) => Some(names[1]),
///     }
/// }
///
/// let names = ["a.qcow2", "b.vmdk"];
/// assert_eq!(at_fault(Stage::Map(Side::Second), names), Some("b.vmdk"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first.
    First,
    /// The second.
    Second,
}

/// What was being done.
///
/// ```
/// use diskimage::Compare;
/// use diskimage::compare::{Failure, Stage};
/// use diskimage::disk::EmptyDisk;
///
/// // not enough memory for a single thread
/// let disk = EmptyDisk(1 << 20);
/// let failed = Compare::new().max_memory(1).first(&disk, &disk);
/// assert!(matches!(failed, Err(Failure { stage: Stage::Start, .. })));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing with a disk yet.
    Start,
    /// Looking up where bytes lie.
    Map(Side),
    /// Reading or decoding bytes.
    Read(Side),
}

/// Why two disks could not be compared.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::compare::{Side, Stage};
/// use diskimage::disk::EmptyDisk;
/// use diskimage::storage::{Fault, FaultStorage, MemoryStorage};
/// use diskimage::{Compare, ErrorKind, Format, OpenOptions};
///
/// // a medium with a bad sector
/// let storage = MemoryStorage::new(vec![0; 1 << 20]);
/// let storage = FaultStorage::new(storage, Fault::Bytes { start: 5120, end: 5632 });
/// let options = OpenOptions::new().format(Format::Raw);
/// let disk = options.open_storage(Arc::new(storage), Path::new("disk.raw"))?;
/// let failure = Compare::new().first(&EmptyDisk(1 << 20), &disk).unwrap_err();
/// assert_eq!(failure.stage, Stage::Read(Side::Second));
/// assert_eq!(failure.error.kind(), ErrorKind::Io);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
#[non_exhaustive]
pub struct Failure {
    /// What was being done.
    pub stage: Stage,
    /// What went wrong.
    pub error: Error,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// How much a worker takes on at once: a multiple of every piece.
const SEGMENT: u64 = 4 << 20;
/// The unit of reading and comparing: what stays in a core's cache, twice.
const PIECE: Pow2 = match Pow2::from_bits(17) {
    Some(piece) => piece,
    None => Pow2::PAGE,
};
/// Memory that a thread takes apart from its pieces: its stack, decoder and compressed input.
const THREAD_OVERHEAD: u64 = 512 << 10;

impl Default for Compare {
    fn default() -> Self {
        Self { threads: None, max_memory: 48 << 20, strict: false, progress: Arc::default() }
    }
}

impl Compare {
    /// The default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of threads. Default: one for each processor, at most 16. The result never
    /// depends on it.
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// use std::sync::Arc;
    ///
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::{Compare, Error, Progress};
    ///
    /// let (disk, progress) = (EmptyDisk(1 << 40), Arc::new(Progress::new()));
    /// let job = Compare::new().threads(NonZeroUsize::MIN).max_memory(4 << 20);
    /// let job = job.progress(Arc::clone(&progress));
    /// assert_eq!(job.first(&disk, &disk).map_err(Error::from)?, None);
    /// assert_eq!(progress.done(), 1 << 40); // of which nothing was read
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Bound on the memory of buffers, bytes. Default: 48 MiB.
    #[must_use]
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = bytes;
        self
    }

    /// Disks that differ in size, or in what their maps say, differ.
    #[must_use]
    pub fn strict(mut self, yes: bool) -> Self {
        self.strict = yes;
        self
    }

    /// Where to report progress, and who may cancel.
    #[must_use]
    pub fn progress(mut self, progress: Arc<Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// The first difference; none if they are the same disk. Damage that lies before it is a
    /// failure.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::compare::Difference;
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::storage::{Fault, FaultStorage, MemoryStorage};
    /// use diskimage::{Compare, Error, Format, OpenOptions};
    ///
    /// // what cannot be read lies behind a difference: there is no need to
    /// let storage = MemoryStorage::new(vec![7; 64 << 20]);
    /// let storage = FaultStorage::new(storage, Fault::Bytes { start: 32 << 20, end: 33 << 20 });
    /// let options = OpenOptions::new().format(Format::Raw);
    /// let disk = options.open_storage(Arc::new(storage), Path::new("disk.raw"))?;
    /// let found = Compare::new().first(&EmptyDisk(64 << 20), &disk).map_err(Error::from)?;
    /// assert_eq!(found, Some(Difference::Content(0)));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn first(
        &self,
        first: &dyn VirtualDisk,
        second: &dyn VirtualDisk,
    ) -> Result<Option<Difference>, Failure> {
        if self.strict && first.size() != second.size() {
            return Ok(Some(Difference::Size));
        }
        let mut nothing = |_| {};
        let job = Job::new(self, first, second, &mut nothing, false);
        job.run(self)
    }

    /// Tells all guest ranges whose content differs, in whole sectors but for the end of the disk,
    /// ascending and apart from each other. Gives how many bytes they are.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Compare, Error, Format, OpenOptions};
    ///
    /// let mut bytes = vec![0; 1 << 20];
    /// bytes[1000..2000].fill(7);
    /// bytes[9000] = 7;
    /// let storage = Arc::new(MemoryStorage::new(bytes));
    /// let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
    /// let mut ranges = Vec::new();
    /// let count = Compare::new().all(&EmptyDisk(1 << 20), &disk, |range| ranges.push(range));
    /// assert_eq!(count.map_err(Error::from)?, 3 * 512 + 512);
    /// assert_eq!(ranges, [512..2048, 8704..9216]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn all(
        &self,
        first: &dyn VirtualDisk,
        second: &dyn VirtualDisk,
        mut tell: impl FnMut(Range<u64>) + Send,
    ) -> Result<u64, Failure> {
        let relaxed = self.clone().strict(false);
        let mut bytes = 0_u64;
        let mut count = |range: Range<u64>| {
            bytes = bytes.saturating_add(range.end.saturating_sub(range.start));
            tell(range);
        };
        Job::new(&relaxed, first, second, &mut count, true).run(&relaxed)?;
        Ok(bytes)
    }
}

/// What ends a comparison, or would.
#[derive(Debug)]
enum Event {
    Differs(Difference),
    Failed(Failure),
}

/// What the workers of one comparison share.
struct Job<'a> {
    first: Disk<'a>,
    second: Disk<'a>,
    size: u64,
    piece: Pow2,
    strict: bool,
    /// Whether all differences are wanted.
    all: bool,
    segments: Segments,
    /// Held by the one worker that looks for long runs of what need not be read.
    explorer: Mutex<()>,
    progress: &'a Progress,
    /// The event with the lowest offset so far.
    event: Mutex<Option<(u64, Event)>>,
    ranges: Turn<Ranges<'a>>,
}

/// Tells ranges, neighbours joined.
struct Ranges<'a> {
    pending: Option<Range<u64>>,
    tell: &'a mut (dyn FnMut(Range<u64>) + Send),
}

impl Ranges<'_> {
    fn push(&mut self, range: Range<u64>) {
        match &mut self.pending {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            pending => {
                if let Some(done) = pending.replace(range) {
                    (self.tell)(done);
                }
            }
        }
    }
}

impl<'a> Job<'a> {
    fn new(
        options: &'a Compare,
        first: &'a dyn VirtualDisk,
        second: &'a dyn VirtualDisk,
        tell: &'a mut (dyn FnMut(Range<u64>) + Send),
        all: bool,
    ) -> Self {
        let size = first.size().max(second.size());
        // a compressed cluster is decoded in one piece
        let cluster = first.cluster_size().max(second.cluster_size()).min(SEGMENT);
        let piece = Pow2::from_size(cluster).unwrap_or(PIECE).max(PIECE);
        let (mut first, mut second) = (Disk::new(first), Disk::new(second));
        first.find_shared(&second);
        second.find_shared(&first);
        Self {
            first,
            second,
            size,
            piece,
            strict: options.strict,
            all,
            segments: Segments::new(size, SEGMENT),
            explorer: Mutex::default(),
            progress: &options.progress,
            event: Mutex::default(),
            ranges: Turn::new(Ranges { pending: None, tell }),
        }
    }

    fn run(self, options: &Compare) -> Result<Option<Difference>, Failure> {
        let each = self.piece.size().saturating_mul(3).saturating_add(THREAD_OVERHEAD);
        let threads = parallel::thread_count(options.threads, each, options.max_memory)
            .map_err(|error| Failure { stage: Stage::Start, error })?;
        self.progress.start(self.size);
        parallel::run(threads, || Worker::new(&self).run());
        let mut ranges = self.ranges.into_inner();
        if let Some(last) = ranges.pending.take() {
            (ranges.tell)(last);
        }
        match self.event.into_inner().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(None),
            Some((_, Event::Differs(difference))) => Ok(Some(difference)),
            Some((_, Event::Failed(failure))) => Err(failure),
        }
    }

    /// Something ends the comparison at `offset`, unless something does before it.
    fn end(&self, offset: u64, event: Event) {
        let mut first = self.event.lock().unwrap_or_else(PoisonError::into_inner);
        if first.as_ref().is_none_or(|(at, _)| offset < *at) {
            *first = Some((offset, event));
        }
        // who is before it goes on, since there may be an earlier one
        self.segments.stop_at(offset);
        if self.all {
            self.ranges.stop();
        }
    }
}
