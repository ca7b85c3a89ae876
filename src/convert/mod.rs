//! Converting: a disk into a target, in parallel.
// long: two fifths of it is documentation

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{EmptyDisk, VirtualDisk};
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::extent::{Extent, StorageId};
use crate::num::{Pow2, to_u64};
use crate::parallel::{self, Segments, Turn};
use crate::progress::Progress;
use crate::storage::Access;
use crate::target::{Reflink, Target};
use crate::writer::{Forward, Writer};

mod decode;
mod image;
mod map;
mod measure;
mod salvage;
mod worker;
mod zero;

use image::Composition;
pub use measure::{Measured, data_size, measure};
use worker::Worker;

/// How to convert: a builder. The default finds zeros in blocks of 4 KiB, uses every processor
/// and stops at the first damage.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::storage::MemoryStorage;
/// use diskimage::target::StreamTarget;
/// use diskimage::{Convert, Format, OpenOptions, Target};
///
/// # let storage = Arc::new(MemoryStorage::new(vec![7; 1 << 20]));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
/// let mut raw = Vec::new();
/// let target = StreamTarget::new(&mut raw);
/// let report = Convert::new().max_memory(16 << 20).run(&disk, &target)?;
/// Box::new(target).finish()?;
/// assert_eq!((report.size, raw.len()), (1 << 20, 1 << 20));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Convert {
    threads: Option<NonZeroUsize>,
    sparse: Option<u64>,
    reflink: Reflink,
    forget: bool,
    max_memory: u64,
    salvage: bool,
    above: Option<u32>,
    progress: Arc<Progress>,
}

/// What a conversion did.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::storage::{Fault, FaultStorage, MemoryStorage};
/// use diskimage::target::StreamTarget;
/// use diskimage::{Convert, Format, OpenOptions};
///
/// // a medium with a bad sector
/// let storage = MemoryStorage::new(vec![7; 1 << 20]);
/// let storage = FaultStorage::new(storage, Fault::Bytes { start: 5120, end: 5121 });
/// let options = OpenOptions::new().format(Format::Raw);
/// let disk = options.open_storage(Arc::new(storage), Path::new("disk.raw"))?;
/// let target = StreamTarget::new(std::io::sink());
/// assert!(Convert::new().run(&disk, &target).is_err());
///
/// let target = StreamTarget::new(std::io::sink());
/// let report = Convert::new().salvage(true).run(&disk, &target)?;
/// assert_eq!((report.size, report.lost), (1 << 20, vec![5120..5632]));
/// # Ok::<(), diskimage::Error>(())
/// ```
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

/// How much of the disk a worker takes on at once: a multiple of every cluster size.
const SEGMENT: u64 = 4 << 20;
/// The same where segments are dealt with in turn.
pub(crate) const IN_TURN: u64 = 1 << 20;
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
    #[error(
        "blocks can be shared with a file only that is a raw disk or a QCOW2 with nothing compressed, \
         and not when damage is passed over"
    )]
    CannotShare,
    #[error("the data are compressed, and cannot be shared with the image")]
    EncodedShared,
    #[error("the image's bytes are not those of a file, and cannot be shared")]
    NoFile,
    #[error("an image that names no parent is to hold only what differs from one")]
    NoParent,
    #[error(
        "an image that names a parent is to be written without it: zeros would be the parent's data"
    )]
    OnlyParent,
    #[error("the image consists of {0} files, which are not those of the target")]
    OtherFiles(usize),
    #[error("this image cannot be written from its start to its end without going back")]
    NotForward,
    #[error(
        "what images hold above others is written into a raw disk that exists, and nothing else"
    )]
    NotInPlace,
    #[error("the granularity of zeros is {0}, which must be 0 or a power of two of at least 512")]
    Sparse(u64),
}

impl Detail for ConvertDetail {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Sparse(_)
            | Self::CannotShare
            | Self::NotInPlace
            | Self::NoParent
            | Self::OnlyParent
            | Self::OtherFiles(_) => ErrorKind::InvalidInput,
            Self::EncodedShared | Self::NoFile | Self::NotForward => ErrorKind::Unsupported,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Sparse(_) => "give such a size with -S".into(),
            Self::NotForward => "write it to a file".into(),
            Self::NotInPlace => "open the disk of that depth as a target that exists".into(),
            Self::NoParent => "name the parent in the options of the format".into(),
            Self::OnlyParent => "give the parent's disk as the backing".into(),
            Self::OtherFiles(_) => "make the target of what the writer says of its files".into(),
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
            above: None,
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
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    ///
    /// use diskimage::Convert;
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::target::StreamTarget;
    ///
    /// // one of many jobs of a service: a single thread, and little memory
    /// let job = Convert::new().threads(NonZeroUsize::MIN).max_memory(4 << 20).forget(true);
    /// let report = job.run(&EmptyDisk(1 << 20), &StreamTarget::new(std::io::sink()))?;
    /// assert_eq!(report.size, 1 << 20);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Blocks of this many bytes that hold only zeros are not written: a power of two of at least
    /// 512, or 0 to write everything, holes included. Default: 4096 for what passes through this
    /// process; what the kernel copies or shares is not looked at. Asked for, all is looked at.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::target::SpillTarget;
    /// use diskimage::{Convert, Format, OpenOptions, Result};
    ///
    /// // a file of 1 MiB that stores zeros but for one sector
    /// let mut bytes = vec![0; 1 << 20];
    /// bytes[1000] = 7;
    /// let storage = Arc::new(MemoryStorage::new(bytes));
    /// let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
    /// let written = |granularity| -> Result<u64> {
    ///     let target = SpillTarget::new(std::io::sink(), &std::env::temp_dir(), 1 << 20)?;
    ///     Ok(Convert::new().sparse(granularity).run(&disk, &target)?.written)
    /// };
    /// assert_eq!((written(512)?, written(64 << 10)?, written(0)?), (512, 64 << 10, 1 << 20));
    /// assert!(written(1000).is_err()); // is no power of two
    /// # Ok::<(), diskimage::Error>(())
    /// ```
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
    ///
    /// ```
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::target::StreamTarget;
    /// use diskimage::{Convert, ErrorKind};
    ///
    /// let run = |bytes| {
    ///     let target = StreamTarget::new(std::io::sink());
    ///     Convert::new().max_memory(bytes).run(&EmptyDisk(1 << 20), &target)
    /// };
    /// assert!(run(4 << 20).is_ok()); // by as many threads as that allows
    /// let error = run(64 << 10).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::LimitExceeded); // not even by one
    /// ```
    #[must_use]
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = bytes;
        self
    }

    /// Goes on past damage: what cannot be read becomes zeros, and the report lists it.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::storage::{Fault, FaultStorage, MemoryStorage};
    /// use diskimage::target::StreamTarget;
    /// use diskimage::{Convert, Format, OpenOptions, Target};
    ///
    /// # let fault = Fault::Bytes { start: 512, end: 1024 };
    /// # let storage = Arc::new(FaultStorage::new(MemoryStorage::new(vec![7; 2048]), fault));
    /// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
    /// // a disk whose second sector cannot be read
    /// let mut raw = Vec::new();
    /// let target = StreamTarget::new(&mut raw);
    /// let report = Convert::new().salvage(true).run(&disk, &target)?;
    /// Box::new(target).finish()?;
    /// assert_eq!(report.lost, vec![512..1024]);
    /// assert_eq!(raw, [[7; 512], [0; 512], [7; 512], [7; 512]].concat());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn salvage(mut self, yes: bool) -> Self {
        self.salvage = yes;
        self
    }

    /// Writes only what images hold that lie less deep than `depth` in the chain of the disk, the
    /// opened one being 0: what the ones below hold stays as it is in the target. So a raw disk
    /// that is the image of this depth gets what is stored over it. It must hold as many bytes as
    /// the disk; a run that was stopped can be repeated. For [`run`](Self::run), and a target that
    /// [exists](crate::target::FileTarget::existing) with any content.
    ///
    /// ```
    /// use diskimage::format::qcow2::Qcow2Options;
    /// use diskimage::target::{Existing, FileTarget};
    /// use diskimage::{Beneath, Convert, Format, OpenOptions, Target, VirtualDisk};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let [base, over, new] = ["base", "over", "new"].map(|name| folder.path().join(name));
    /// # std::fs::write(&base, [vec![1; 65_536], vec![2; 65_536]].concat())?;
    /// # std::fs::write(&new, [vec![7; 65_536], vec![2; 65_536]].concat())?;
    /// # let raw = OpenOptions::new().format(Format::Raw);
    /// # let writer = Qcow2Options::new().backing("base", Some("raw")).writer(131_072)?;
    /// # let target = FileTarget::create(&over, 0)?;
    /// # Convert::new().image(&raw.open(&new)?, Box::new(writer), Some(&raw.open(&base)?), &target)?;
    /// # Box::new(target).finish()?;
    /// // `over` differs from its backing file `base` in the first 64 KiB
    /// let disk = OpenOptions::new().resolver(Beneath::new(folder.path())?).open(&over)?;
    /// let target = FileTarget::existing(&base, disk.size(), Existing::Unknown)?;
    /// let report = Convert::new().above(1).run(&disk, &target)?;
    /// Box::new(target).finish()?;
    /// assert_eq!(report.written, 65_536);
    /// # assert_eq!(std::fs::read(&base)?, std::fs::read(&new)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn above(mut self, depth: u32) -> Self {
        self.above = Some(depth);
        self
    }

    /// Where to report progress, and who may cancel.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::target::StreamTarget;
    /// use diskimage::{Convert, Progress};
    ///
    /// let progress = Arc::new(Progress::new());
    /// let watched = Arc::clone(&progress);
    /// let job = std::thread::spawn(move || {
    ///     let target = StreamTarget::new(std::io::sink());
    ///     Convert::new().progress(progress).run(&EmptyDisk(4 << 20), &target)
    /// });
    /// // meanwhile, as often as it is to be shown
    /// println!("{} of {} bytes", watched.done(), watched.total());
    /// job.join().expect("no panic")?;
    /// assert_eq!(watched.done(), watched.total());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn progress(mut self, progress: Arc<Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Writes all of `disk` to `target`. The caller finishes the target, if that is what it wants
    /// after seeing the report.
    ///
    /// ```
    /// use diskimage::disk::{EmptyDisk, GrownDisk};
    /// use diskimage::target::StreamTarget;
    /// use diskimage::{Convert, Target};
    ///
    /// let mut raw = Vec::new();
    /// let target = StreamTarget::new(&mut raw);
    /// let disk = EmptyDisk(1000);
    /// let report = Convert::new().run(&GrownDisk::new(&disk, 4096), &target)?; // and make it larger
    /// Box::new(target).finish()?;
    /// assert_eq!((report.size, raw), (4096, vec![0; 4096]));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn run(&self, disk: &dyn VirtualDisk, target: &dyn Target) -> Result<Report> {
        self.run_observed(disk, Output::Raw, target, None)
    }

    /// Writes all of `disk` to `target` as an image that `writer` lays out. With `backing`, what is
    /// the same there is left out: the writer has to name that image as the backing file. Otherwise
    /// what is zeros is left out: the writer must not name any.
    ///
    /// Where the writer says that the image has [several files](Writer::files), the target is a
    /// [`FilesTarget`](crate::target::FilesTarget) of these.
    ///
    /// With [`Reflink::Always`] the map decides what is stored, and all of it is shared: zeros that were
    /// stored stay stored. That is for a QCOW2 without a backing file in which nothing is compressed.
    ///
    /// A target that takes ascending writes only gets what the [map](VirtualDisk::extent_at) calls
    /// data, where the writer must know beforehand: zeros that were stored stay stored then.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::vmdk::{Subformat, VmdkOptions};
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::target::StreamTarget;
    /// use diskimage::{Convert, Format, OpenOptions, Target, VirtualDisk};
    ///
    /// # let storage = Arc::new(MemoryStorage::new(vec![7; 1 << 20]));
    /// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
    /// let options = VmdkOptions::new().subformat(Subformat::StreamOptimized);
    /// let mut image = Vec::new();
    /// let target = StreamTarget::new(&mut image);
    /// Convert::new().image(&disk, options.writer(disk.size())?, None, &target)?;
    /// Box::new(target).finish()?;
    ///
    /// let storage = Arc::new(MemoryStorage::new(image));
    /// let image = OpenOptions::new().open_image_storage(storage, Path::new("disk.vmdk"))?;
    /// assert_eq!((image.layer().format(), image.layer().size()), (Format::Vmdk, 1 << 20));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn image(
        &self,
        disk: &dyn VirtualDisk,
        writer: Box<dyn Writer>,
        backing: Option<&dyn VirtualDisk>,
        target: &dyn Target,
    ) -> Result<Report> {
        self.run_observed(disk, Output::Image { writer, backing }, target, None)
    }

    /// Writes an image to which nothing was written yet: its disk is zeros, or what the parent has that
    /// the writer names.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::qcow2::Qcow2Options;
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::target::StreamTarget;
    /// use diskimage::{Convert, OpenOptions, Target};
    ///
    /// // what a machine writes goes into this one, and base.qcow2 stays as it is
    /// let options = Qcow2Options::new().backing("base.qcow2", Some("qcow2"));
    /// let mut image = Vec::new();
    /// let target = StreamTarget::new(&mut image);
    /// Convert::new().create(Box::new(options.writer(10 << 30)?), &target)?;
    /// Box::new(target).finish()?;
    /// assert!(image.len() < 1 << 20);
    ///
    /// let storage = Arc::new(MemoryStorage::new(image));
    /// let image = OpenOptions::new().open_image_storage(storage, Path::new("new.qcow2"))?;
    /// assert_eq!(image.layer().references()[0].printable_name(), "base.qcow2");
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn create(&self, writer: Box<dyn Writer>, target: &dyn Target) -> Result<Report> {
        let disk = EmptyDisk(writer.size());
        self.run_observed(&disk, Output::Empty { writer }, target, None)
    }

    /// The same, while `observer` sees all of the disk.
    pub(crate) fn run_observed(
        &self,
        disk: &dyn VirtualDisk,
        output: Output<'_>,
        target: &dyn Target,
        observer: Option<&dyn Observer>,
    ) -> Result<Report> {
        let sparse = self.sparse_unit()?;
        let ascending = target.capabilities().ascending;
        let always = self.reflink == Reflink::Always;
        let in_place = matches!(output, Output::Raw) && observer.is_none() && !self.salvage;
        if self.above.is_some() && (!in_place || ascending || target.capabilities().fresh_zeros) {
            return Err(ConvertDetail::NotInPlace.into());
        }
        // of an empty disk, what is absent is to be the parent's
        let empty = matches!(output, Output::Empty { .. });
        let composition = match output {
            Output::Raw => None,
            Output::Image { writer, backing } => Some((writer, backing)),
            Output::Empty { writer } => Some((writer, None)),
        };
        let composition = match composition {
            None => None,
            Some((writer, backing)) => {
                let files = writer.files();
                if !files.iter().map(|file| &file.range).eq(target.files()) {
                    let count = files.len().saturating_add(1);
                    return Err(ConvertDetail::OtherFiles(count).into());
                }
                match (&backing, writer.has_parent()) {
                    (Some(_), false) => return Err(ConvertDetail::NoParent.into()),
                    (None, true) if !empty => return Err(ConvertDetail::OnlyParent.into()),
                    _ => {}
                }
                let needs_map = writer.needs_map();
                let shares =
                    always && !ascending && backing.is_none() && Composition::can_share(&*writer);
                let by_map = match writer.forward() {
                    _ if shares => true,
                    Forward::Always => false,
                    Forward::ByMap if backing.is_none() => ascending || needs_map,
                    _ if needs_map => return Err(ConvertDetail::NotForward.into()),
                    _ if ascending => return Err(ConvertDetail::NotForward.into()),
                    _ => false,
                };
                let mut composition = Composition::new(writer, by_map, backing);
                composition.shares = shares;
                Some(composition)
            }
        };
        let is_image = composition.is_some();
        let shares = composition.as_ref().is_some_and(|composition| composition.shares);
        if always && (ascending || (is_image && !shares) || self.salvage || observer.is_some()) {
            return Err(ConvertDetail::CannotShare.into());
        }
        let offload = match self.reflink {
            Reflink::Always => true,
            Reflink::Auto => self.sparse.is_none_or(|unit| unit == 0) && !self.salvage,
            Reflink::Never => false,
        };
        // a compressed cluster is decoded in one piece
        let piece = PIECE.max(disk.cluster_size().min(SEGMENT));
        // what is done in turn is read as a whole before
        let whole = ascending || is_image || observer.is_some();
        let wanted = observer.map_or(IN_TURN, Observer::segment);
        let (wanted, more) = match &composition {
            Some(composition) => composition.segment(observer.map_or(0, Observer::segment)),
            None => (wanted, 0),
        };
        let segment = if whole { piece.max(wanted) } else { SEGMENT };
        let buffer = if whole && !shares { segment } else { piece };
        // the compressed form of a cluster is held beside its piece
        let beside = disk.cluster_size().min(SEGMENT).saturating_add(THREAD_OVERHEAD);
        let each = buffer.saturating_add(beside).saturating_add(more);
        let threads = parallel::thread_count(self.threads, each, self.max_memory)?;
        let job = Job {
            disk,
            target,
            size: disk.size(),
            piece,
            segment,
            sparse,
            salvage: self.salvage,
            reflink: offload.then_some(self.reflink),
            above: self.above,
            forget: self.forget,
            read: AtomicU64::new(0),
            ascending,
            progress: &self.progress,
            observer,
            segments: Segments::new(disk.size(), segment),
            explorer: Mutex::default(),
            outcome: Mutex::default(),
            turn: Turn::new(()),
            composition: composition.map(|composition| composition.with_threads(threads)),
        };
        self.progress.start(job.size);
        log::debug!(
            "converting {} bytes in segments of {segment}, by {threads} threads; what is stored as it is \
             goes {}",
            job.size,
            if offload { "by the kernel where it copies or shares" } else { "through buffers" }
        );
        job.advise(Access::Sequential)?;
        if let Some(composition) = &job.composition {
            composition.begin(&job)?;
        }
        parallel::run(threads, || Worker::new(&job).run());
        if let Some(composition) = &job.composition
            && job.outcome().error.is_none()
        {
            composition.finish(&job)?;
        }
        if job.forget {
            job.advise(Access::Forget)?;
        }
        let outcome = job.outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        match outcome.error {
            Some(error) => Err(error),
            // a read that was stopped may have passed for damage
            None if !outcome.lost.is_empty() && self.progress.check().is_err() => {
                Err(self.progress.check().err().unwrap_or_else(crate::progress::cancelled))
            }
            None => Ok(Report {
                size: job.size,
                written: outcome.written,
                lost: salvage::join(outcome.lost),
            }),
        }
    }
}

/// What a disk is written as.
pub(crate) enum Output<'a> {
    /// Byte for byte.
    Raw,
    /// As an image that may have a backing file.
    Image { writer: Box<dyn Writer>, backing: Option<&'a dyn VirtualDisk> },
    /// As an image of which nothing is stored.
    Empty { writer: Box<dyn Writer> },
}

/// What sees every byte of the disk beside the target: whole segments, from any thread and in any
/// order. It may let a thread wait until all before its segment was seen.
pub(crate) trait Observer: Sync {
    /// The length of all segments but the last, a power of two.
    fn segment(&self) -> u64;

    /// The longest run of zeros that takes hardly more time than a short one: where it is more than
    /// a segment, it is a whole number of them.
    fn longest_zeros(&self) -> u64;

    /// The bytes of a segment; of one or more segments that are zeros, none.
    fn see(&self, range: &Range<u64>, bytes: Option<&[u8]>) -> Result<()>;

    /// Nobody is to wait any more.
    fn stop(&self);
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
    /// From which depth on what is stored stays as it is in the target.
    above: Option<u32>,
    forget: bool,
    /// Guest bytes copied since the system's cache was told to forget.
    read: AtomicU64,
    ascending: bool,
    progress: &'a Progress,
    observer: Option<&'a dyn Observer>,
    segments: Segments,
    /// Held by the one worker that looks for long holes.
    explorer: Mutex<()>,
    outcome: Mutex<Outcome>,
    /// For targets that take ascending writes only.
    turn: Turn<()>,
    /// How an image is written; a raw disk without it.
    composition: Option<Composition<'a>>,
}

#[derive(Debug, Default)]
struct Outcome {
    written: u64,
    lost: Vec<Range<u64>>,
    error: Option<Error>,
}

impl Job<'_> {
    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: Error) {
        self.outcome().error.get_or_insert(error);
        self.segments.stop_at(0);
        self.turn.stop();
        if let Some(composition) = &self.composition {
            composition.stop();
        }
        if let Some(observer) = self.observer {
            observer.stop();
        }
    }

    /// Whether the target has these bytes already.
    fn has(&self, extent: &Extent) -> bool {
        self.above.is_some_and(|depth| extent.depth >= depth)
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
