//! Converting: a disk into a target, in parallel.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::disk::VirtualDisk;
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::extent::StorageId;
use crate::num::{Pow2, to_u64, to_usize};
use crate::progress::Progress;
use crate::storage::Access;
use crate::target::{Reflink, Target};

mod salvage;
mod worker;
mod zero;

use worker::Worker;
pub use zero::is_zero;

/// How to convert: a builder. The default finds zeros in blocks of 4 KiB, uses every processor
/// and stops at the first damage.
#[derive(Debug, Clone)]
pub struct Convert {
    threads: Option<NonZeroUsize>,
    sparse: Option<u64>,
    reflink: Reflink,
    forget: bool,
    max_memory: u64,
    salvage: bool,
    progress: Arc<Progress>,
}

/// What a conversion did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Report {
    /// Guest bytes in all.
    pub size: u64,
    /// Guest bytes written as data.
    pub written: u64,
    /// The guest ranges that could not be read, ascending and apart from each other: zeros stand
    /// in their place. Always empty unless [`Convert::salvage`] was asked for.
    pub lost: Vec<Range<u64>>,
}

/// The most threads that are started without being asked for.
const MAX_DEFAULT_THREADS: usize = 16;
/// How much of the disk a worker takes on at once: a multiple of every cluster size.
const SEGMENT: u64 = 4 << 20;
/// The unit of reading and writing: what stays in a core's cache.
const PIECE: u64 = 128 << 10;
/// The blocks of zeros that are left out unless another size is asked for.
const DEFAULT_SPARSE: u64 = 4096;
/// How much may be read before the system's cache is told to forget it.
const FORGET_EVERY: u64 = 64 << 20;
/// Memory that a thread takes apart from its piece: its stack, decoder and compressed input.
const THREAD_OVERHEAD: u64 = 384 << 10;

#[derive(Debug, thiserror::Error)]
enum ConvertDetail {
    #[error("a thread needs {wanted} bytes of memory for its buffers, {limit} are allowed")]
    Memory { wanted: u64, limit: u64 },
    #[error("blocks can be shared with a file only, and not when damage is passed over")]
    CannotShare,
    #[error("the data are compressed, and cannot be shared with the image")]
    EncodedShared,
    #[error("the image's bytes are not those of a file, and cannot be shared")]
    NoFile,
    #[error("the granularity of zeros is {0}, which must be 0 or a power of two of at least 512")]
    Sparse(u64),
}

impl Detail for ConvertDetail {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Memory { .. } => ErrorKind::LimitExceeded,
            Self::Sparse(_) | Self::CannotShare => ErrorKind::InvalidInput,
            Self::EncodedShared | Self::NoFile => ErrorKind::Unsupported,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Memory { .. } => "allow more with --max-memory".into(),
            Self::Sparse(_) => "give such a size with -S".into(),
            Self::CannotShare | Self::EncodedShared | Self::NoFile => {
                "leave --reflink at auto".into()
            }
        })
    }
}

impl Default for Convert {
    fn default() -> Self {
        Self {
            threads: None,
            sparse: None,
            reflink: Reflink::Auto,
            forget: false,
            max_memory: 48 << 20,
            salvage: false,
            progress: Arc::default(),
        }
    }
}

impl Convert {
    /// The default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of threads. Default: one for each processor, at most 16. The result never
    /// depends on it. Fewer run if [`max_memory`](Self::max_memory) does not allow as many.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Blocks of this many bytes that hold only zeros are not written: a power of two of at least
    /// 512, or 0 to write everything, holes included. Default: 4096 for what passes through this
    /// process; what the kernel copies or shares is not looked at. Asked for, all is looked at.
    #[must_use]
    pub fn sparse(mut self, granularity: u64) -> Self {
        self.sparse = Some(granularity);
        self
    }

    /// Whether stored data are shared with the image, or copied by the kernel. Default:
    /// [`Reflink::Auto`], which does so where it works and no granularity of zeros is asked for.
    #[must_use]
    pub fn reflink(mut self, reflink: Reflink) -> Self {
        self.reflink = reflink;
        self
    }

    /// Lets the system's cache forget what was read from the image's files. Default: no.
    #[must_use]
    pub fn forget(mut self, yes: bool) -> Self {
        self.forget = yes;
        self
    }

    /// Bound on the memory of buffers, bytes; cached tables come on top, see
    /// [`Limits::table_cache`](crate::Limits::table_cache). Default: 48 MiB.
    #[must_use]
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = bytes;
        self
    }

    /// Goes on past damage: what cannot be read becomes zeros, and the report lists it.
    #[must_use]
    pub fn salvage(mut self, yes: bool) -> Self {
        self.salvage = yes;
        self
    }

    /// Where to report progress, and who may cancel.
    #[must_use]
    pub fn progress(mut self, progress: Arc<Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Writes all of `disk` to `target`. The caller finishes the target, if that is what it wants
    /// after seeing the report.
    pub fn run(&self, disk: &dyn VirtualDisk, target: &dyn Target) -> Result<Report> {
        let sparse = match self.sparse.unwrap_or(DEFAULT_SPARSE) {
            0 => None,
            unit if unit >= 512 => Some(Pow2::from_size(unit).ok_or(ConvertDetail::Sparse(unit))?),
            unit => return Err(ConvertDetail::Sparse(unit).into()),
        };
        let ascending = target.capabilities().ascending;
        let always = self.reflink == Reflink::Always;
        if always && (ascending || self.salvage) {
            return Err(ConvertDetail::CannotShare.into());
        }
        let offload = match self.reflink {
            Reflink::Always => true,
            Reflink::Auto => self.sparse.is_none_or(|unit| unit == 0) && !self.salvage,
            Reflink::Never => false,
        };
        // a compressed cluster is decoded in one piece
        let piece = PIECE.max(disk.cluster_size().min(SEGMENT));
        let segment = if ascending { piece.max(1 << 20) } else { SEGMENT };
        let buffer = if ascending { segment } else { piece };
        let threads = self.thread_count(buffer, disk.cluster_size())?;
        let job = Job {
            disk,
            target,
            size: disk.size(),
            piece,
            segment,
            sparse,
            salvage: self.salvage,
            reflink: offload.then_some(self.reflink),
            forget: self.forget,
            read: AtomicU64::new(0),
            ascending,
            progress: &self.progress,
            next: AtomicU64::new(0),
            explorer: Mutex::default(),
            failed: AtomicBool::new(false),
            outcome: Mutex::default(),
            turn: Mutex::new(0),
            turned: Condvar::new(),
        };
        self.progress.start(job.size);
        job.advise(Access::Sequential)?;
        if threads == 1 {
            Worker::new(&job).run();
        } else {
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| Worker::new(&job).run());
                }
            });
        }
        if job.forget {
            job.advise(Access::Forget)?;
        }
        let outcome = job.outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        match outcome.error {
            Some(error) => Err(error),
            None => Ok(Report {
                size: job.size,
                written: outcome.written,
                lost: salvage::join(outcome.lost),
            }),
        }
    }

    fn thread_count(&self, buffer: u64, cluster: u64) -> Result<usize> {
        let wanted = self.threads.map_or_else(
            || {
                let processors = std::thread::available_parallelism();
                processors.map_or(1, NonZeroUsize::get).min(MAX_DEFAULT_THREADS)
            },
            NonZeroUsize::get,
        );
        // the compressed form of a cluster is held beside its piece
        let each = buffer.saturating_add(cluster.min(SEGMENT)).saturating_add(THREAD_OVERHEAD);
        let fit = to_usize(self.max_memory.checked_div(each).unwrap_or(0));
        if fit == 0 {
            return Err(ConvertDetail::Memory { wanted: each, limit: self.max_memory }.into());
        }
        Ok(wanted.min(fit))
    }
}

/// What the workers of one conversion share.
struct Job<'a> {
    disk: &'a dyn VirtualDisk,
    target: &'a dyn Target,
    size: u64,
    piece: u64,
    segment: u64,
    sparse: Option<Pow2>,
    salvage: bool,
    /// How stored data are copied without passing through here, if they may be.
    reflink: Option<Reflink>,
    forget: bool,
    /// Guest bytes copied since the system's cache was told to forget.
    read: AtomicU64,
    ascending: bool,
    progress: &'a Progress,
    /// The first guest byte that no worker has taken on.
    next: AtomicU64,
    /// Held by the one worker that looks for long holes.
    explorer: Mutex<()>,
    failed: AtomicBool,
    outcome: Mutex<Outcome>,
    /// For targets that take ascending writes only: the byte whose turn it is.
    turn: Mutex<u64>,
    turned: Condvar,
}

#[derive(Debug, Default)]
struct Outcome {
    written: u64,
    lost: Vec<Range<u64>>,
    error: Option<Error>,
}

impl Job<'_> {
    /// Takes the next segment; `None` when all are taken or somebody failed.
    fn take(&self) -> Option<Range<u64>> {
        if self.failed.load(Ordering::Relaxed) {
            return None;
        }
        let behind = |start: u64| start.saturating_add(self.segment).min(self.size);
        let taken = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |start| {
            (start < self.size).then(|| behind(start))
        });
        taken.ok().map(|start| start..behind(start))
    }

    /// Takes on all that nobody has yet, up to `end`.
    fn take_until(&self, end: u64) -> Range<u64> {
        let start = self.next.fetch_max(end, Ordering::Relaxed);
        start.min(end)..end
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: Error) {
        self.outcome().error.get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
        // taken under the lock, so that nobody misses it between looking and waiting
        drop(self.turn.lock());
        self.turned.notify_all();
    }

    /// Waits until all before `start` is written; `false` if that will never be.
    fn wait_for_turn(&self, start: u64) -> bool {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        while *turn != start {
            if self.failed.load(Ordering::Relaxed) {
                return false;
            }
            turn = self.turned.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    fn pass_turn(&self, end: u64) {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = end;
        self.turned.notify_all();
    }

    /// Counts what was copied, and lets the system's cache forget the image's files from time to
    /// time.
    fn copied(&self, length: u64) -> Result<()> {
        self.progress.advance(length);
        if !self.forget {
            return Ok(());
        }
        let before = self.read.fetch_add(length, Ordering::Relaxed);
        let after = before.saturating_add(length);
        if before.checked_div(FORGET_EVERY) != after.checked_div(FORGET_EVERY) {
            self.advise(Access::Forget)?;
        }
        Ok(())
    }

    fn advise(&self, access: Access) -> Result<()> {
        (0..self.disk.storage_count())
            .filter_map(|number| self.disk.storage(StorageId(number)))
            .try_for_each(|storage| storage.advise(access))
    }

    fn lost(&self, range: Range<u64>) {
        self.outcome().lost.push(range);
    }

    fn count(&self, worker_written: u64) {
        let mut outcome = self.outcome();
        outcome.written = outcome.written.saturating_add(worker_written);
    }
}

/// The cluster that holds `at`.
fn cluster_around(disk: &dyn VirtualDisk, at: u64) -> Range<u64> {
    let cluster = Pow2::from_size(disk.cluster_size());
    let unit = cluster.or(Pow2::from_bits(16));
    unit.map_or(at..at.saturating_add(1), |unit| {
        unit.floor(at)..unit.floor(at).saturating_add(unit.size())
    })
}

fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

fn as_length(buf: &[u8]) -> u64 {
    to_u64(buf.len())
}
