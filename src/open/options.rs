//! How to open: what is believed, allowed and bounded.

use std::sync::Arc;

use crate::container::Spill;
use crate::format::{Format, LayerOptions};
use crate::limits::Limits;
use crate::progress::Progress;
use crate::resolve::{DenyAll, Resolver};
use crate::split::Join;

/// How to open an image: a builder. The default detects the format, opens no other file and
/// refuses what is marked as corrupt.
///
/// ```
/// use diskimage::{Format, Limits, OpenOptions, VirtualDisk};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.raw");
/// # std::fs::write(&path, vec![0; 1 << 20])?;
/// // nothing tells a raw disk from a damaged image, so it is not guessed
/// assert!(OpenOptions::new().open(&path).is_err());
///
/// let mut limits = Limits::default();
/// limits.max_virtual_size = 1 << 40;
/// let disk = OpenOptions::new().format(Format::Raw).limits(limits).open(&path)?;
/// assert_eq!(disk.size(), 1 << 20);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct OpenOptions {
    pub(super) format: Option<Format>,
    pub(super) assume_raw: bool,
    pub(super) resolver: Arc<dyn Resolver>,
    pub(super) layer: LayerOptions,
    pub(super) progress: Option<Arc<Progress>>,
    pub(super) spill: Option<Arc<Spill>>,
    pub(super) join: Join,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            format: None,
            assume_raw: false,
            resolver: Arc::new(DenyAll),
            layer: LayerOptions::default(),
            progress: None,
            spill: None,
            join: Join::Refuse,
        }
    }
}

impl OpenOptions {
    /// The default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the image for this format instead of detecting one. Parents are not affected.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{ErrorKind, Format, OpenOptions, VirtualDisk};
    ///
    /// let storage = Arc::new(MemoryStorage::new(vec![0; 4096]));
    /// let open = |format| {
    ///     OpenOptions::new().format(format).open_storage(storage.clone(), Path::new("upload"))
    /// };
    /// assert_eq!(open(Format::Raw)?.size(), 4096);
    /// // what was said and what it is are two things: nothing else is tried
    /// assert_eq!(open(Format::Qcow2).unwrap_err().kind(), ErrorKind::InvalidInput);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// Takes files without any known signature for raw disks, parents included. Without it they
    /// are refused, because a damaged or unknown image looks just like that.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{OpenOptions, VirtualDisk};
    ///
    /// // no signature: a raw disk, or an image whose start was lost
    /// let storage = Arc::new(MemoryStorage::new(vec![7; 4096]));
    /// let path = Path::new("disk");
    /// assert!(OpenOptions::new().open_storage(storage.clone(), path).is_err());
    /// let disk = OpenOptions::new().assume_raw(true).open_storage(storage, path)?;
    /// assert_eq!(disk.size(), 4096);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn assume_raw(mut self, yes: bool) -> Self {
        self.assume_raw = yes;
        self
    }

    /// Who decides about files that images name. Default: [`DenyAll`].
    ///
    /// ```
    /// # use diskimage::format::qcow2::Qcow2Options;
    /// # use diskimage::target::FileTarget;
    /// # use diskimage::{Convert, Target};
    /// use diskimage::{Beneath, ErrorKind, OpenOptions, VirtualDisk};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// # let child = folder.join("new.qcow2");
    /// # std::fs::write(folder.join("base.raw"), vec![7; 1 << 20])?;
    /// # let target = FileTarget::create(&child, 0)?;
    /// # let options = Qcow2Options::new().backing("base.raw", Some("raw"));
    /// # Convert::new().create(Box::new(options.writer(1 << 20)?), &target)?;
    /// # Box::new(target).finish()?;
    /// // an image over base.raw, which lies beside it
    /// let error = OpenOptions::new().open(&child).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Denied);
    /// let disk = OpenOptions::new().resolver(Beneath::new(folder)?).open(&child)?;
    /// let mut byte = [0];
    /// disk.read_exact_at(&mut byte, 0)?;
    /// assert_eq!(byte, [7]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn resolver(mut self, resolver: impl Resolver + 'static) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    /// The bounds.
    ///
    /// ```
    /// # use std::path::Path;
    /// # use std::sync::Arc;
    /// # use diskimage::format::qcow2::Qcow2Options;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::StreamTarget;
    /// # use diskimage::{Convert, Target};
    /// use diskimage::{ErrorKind, Limits, OpenOptions};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = StreamTarget::new(&mut bytes);
    /// # Convert::new().create(Box::new(Qcow2Options::new().writer(4 << 40)?), &target)?;
    /// # Box::new(target).finish()?;
    /// # let storage = Arc::new(MemoryStorage::new(bytes));
    /// let mut limits = Limits::default().within_memory(32 << 20);
    /// limits.max_virtual_size = 2 << 40;
    /// // a small file that claims a disk of 4 TiB
    /// let options = OpenOptions::new().limits(limits);
    /// let error = options.open_storage(storage, Path::new("upload.qcow2")).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.layer.limits = limits;
        self
    }

    /// Reads the internal snapshot of this identifier, or else of this name, as the disk.
    ///
    /// ```
    /// # use std::path::Path;
    /// # use std::sync::Arc;
    /// # use diskimage::format::qcow2::Qcow2Options;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::StreamTarget;
    /// # use diskimage::{Convert, Target};
    /// use diskimage::{ErrorKind, OpenOptions};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = StreamTarget::new(&mut bytes);
    /// # Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 20)?), &target)?;
    /// # Box::new(target).finish()?;
    /// # let storage = Arc::new(MemoryStorage::new(bytes));
    /// // the image has none of that name: nothing else is read for it
    /// let options = OpenOptions::new().snapshot("before-upgrade");
    /// let error = options.open_storage(storage, Path::new("disk.qcow2")).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidInput);
    /// assert!(error.to_string().contains("'before-upgrade'"));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    ///
    ///
    /// [`Snapshot`](crate::layer::Snapshot) has an example with one that is there.
    #[must_use]
    pub fn snapshot(mut self, id_or_name: impl Into<Vec<u8>>) -> Self {
        self.layer.snapshot = Some(id_or_name.into());
        self
    }

    /// Reads images that are marked as corrupt, that have incompatible features this crate does not
    /// know, or whose broken structures are not needed to read. What comes out may be wrong.
    ///
    /// ```
    /// # use std::path::Path;
    /// # use std::sync::Arc;
    /// # use diskimage::format::qcow2::Qcow2Options;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::StreamTarget;
    /// # use diskimage::{Convert, Target};
    /// use diskimage::{ErrorKind, OpenOptions, VirtualDisk};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = StreamTarget::new(&mut bytes);
    /// # Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 20)?), &target)?;
    /// # Box::new(target).finish()?;
    /// bytes[79] |= 1 << 1; // the "corrupt bit" of a QCOW2's incompatible features
    /// let storage = Arc::new(MemoryStorage::new(bytes));
    /// let path = Path::new("disk.qcow2");
    /// let error = OpenOptions::new().open_storage(storage.clone(), path).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Corrupt);
    /// let disk = OpenOptions::new().trust_broken(true).open_storage(storage, path)?;
    /// assert_eq!(disk.size(), 1 << 20);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn trust_broken(mut self, yes: bool) -> Self {
        self.layer.trust_broken = yes;
        self
    }

    /// Who may stop what is opened, now and later: every read of its files fails once it is asked
    /// to stop or its time is over.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{ErrorKind, Format, OpenOptions, Progress, VirtualDisk};
    ///
    /// let progress = Arc::new(Progress::new());
    /// let storage = Arc::new(MemoryStorage::new(vec![7; 4096]));
    /// let options = OpenOptions::new().format(Format::Raw).progress(Arc::clone(&progress));
    /// let disk = options.open_storage(storage, Path::new("disk.raw"))?;
    /// let mut byte = [0];
    /// disk.read_exact_at(&mut byte, 0)?;
    /// progress.cancel(); // when a client hangs up, say
    /// let error = disk.read_exact_at(&mut byte, 0).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Cancelled);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn progress(mut self, progress: Arc<Progress>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Where files that are compressed are decoded to, if they have to be read by position. Without
    /// it, those are refused.
    ///
    /// ```
    /// # use std::io::Write;
    /// # use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::container::Spill;
    /// # use diskimage::storage::MemoryStorage;
    /// use diskimage::{ErrorKind, OpenOptions, VirtualDisk};
    /// # use diskimage::format::qcow2::Qcow2Options;
    /// # use diskimage::target::StreamTarget;
    /// # use diskimage::{Convert, Target};
    /// # let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    /// # let target = StreamTarget::new(&mut gzip);
    /// # Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 20)?), &target)?;
    /// # Box::new(target).finish()?;
    /// # let storage = Arc::new(MemoryStorage::new(gzip.finish()?));
    /// # let path = Path::new("disk.qcow2.gz");
    ///
    /// // disk.qcow2.gz
    /// let options = OpenOptions::new();
    /// let error = options.open_storage(storage.clone(), path).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Unsupported);
    /// let spill = Arc::new(Spill::new(std::env::temp_dir(), 1 << 30));
    /// let disk = options.spill(spill).open_storage(storage, path)?;
    /// assert_eq!(disk.size(), 1 << 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn spill(mut self, spill: Arc<Spill>) -> Self {
        self.spill = Some(spill);
        self
    }

    /// What to do with a file that looks like a part of a split disk. Default: [`Join::Refuse`].
    #[must_use]
    pub fn join(mut self, join: Join) -> Self {
        self.join = join;
        self
    }
}
