//! How a QCOW2 image is written.
//!
//! The layout, for every option: the header, a refcount block, the L1 table; then for each L2 table
//! that is needed the table itself and the clusters that it maps, in the order of the disk; refcount
//! blocks where what they count begins; the refcount table. So whoever reads the file from its start
//! has each table before what it maps, and where things lie depends on the content of the disk alone.
//!
//! ```
//! use diskimage::Limits;
//! use diskimage::format::qcow2::{Header, Qcow2Options};
//! use diskimage::storage::MemoryStorage;
//!
//! # let mut bytes = Vec::new();
//! # let target = diskimage::target::StreamTarget::new(&mut bytes);
//! let writer = Box::new(Qcow2Options::new().writer(1 << 30)?);
//! # diskimage::Convert::new().create(writer, &target)?;
//! # diskimage::Target::finish(Box::new(target))?;
//! // `bytes` is what it makes of an empty disk
//! let header = Header::read(&MemoryStorage::new(bytes), &Limits::default(), false)?;
//! assert_eq!(header.l1_table_offset, 2 << 16); // behind the header and a refcount block
//! assert!(header.refcount_table_offset > header.l1_table_offset); // in the end
//! # Ok::<(), diskimage::Error>(())
//! ```
// long: two fifths of it is documentation

use std::borrow::Cow;
use std::sync::Arc;

use super::header::CompressionType;
use super::layout::*;
use crate::codec::{Deflate, Wrapper};
use crate::error::{Detail, ErrorKind, Result};
use crate::layer::DirtyBitmap;
use crate::num::{Pow2, to_u64, to_usize};
use crate::text::printable_str;
use crate::writer::Encoder;

mod backing;
mod bitmaps;
mod place;
mod share;
mod space;

pub use backing::rewrite_backing;
pub use place::Qcow2Writer;

/// What a QCOW2 image is to be like: a builder. The default is what qemu-img writes: version 3,
/// clusters of 64 KiB, counts of 16 bits, nothing compressed.
///
/// ```
/// use diskimage::format::qcow2::Qcow2Options;
/// use diskimage::Writer;
///
/// let options = Qcow2Options::new().cluster_size(2 << 20).extended_l2(true);
/// assert_eq!(options.writer(1 << 40)?.size(), 1 << 40);
/// assert!(Qcow2Options::new().cluster_size(3000).writer(1 << 40).is_err());
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Qcow2Options {
    version: u32,
    cluster_size: u64,
    refcount_bits: u64,
    compression: CompressionType,
    compressed: bool,
    level: Option<i32>,
    lazy_refcounts: bool,
    extended_l2: bool,
    allocate: bool,
    dedupe: bool,
    /// Its name, and whether it is a raw disk by itself.
    data_file: Option<(String, bool)>,
    bitmaps: Vec<DirtyBitmap>,
    backing: Option<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Default for Qcow2Options {
    fn default() -> Self {
        Self {
            version: 3,
            cluster_size: 64 << 10,
            refcount_bits: 16,
            compression: CompressionType::Zlib,
            compressed: false,
            level: None,
            lazy_refcounts: false,
            extended_l2: false,
            allocate: false,
            dedupe: false,
            data_file: None,
            bitmaps: Vec::new(),
            backing: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum WriteDetail {
    #[error("there is no version {0} of QCOW2 to write")]
    Version(u32),
    #[error("clusters of {0} bytes: their size must be a power of two from 512 bytes to 2 MiB")]
    ClusterSize(u64),
    #[error("reference counts of {0} bits: it must be 1, 2, 4, 8, 16, 32 or 64")]
    RefcountBits(u64),
    #[error("{0} needs version 3 (compat=1.1)")]
    NeedsVersion3(&'static str),
    #[error("extended L2 entries need clusters of at least 16 KiB")]
    ExtendedL2,
    #[error("this build does not write clusters compressed by {0}")]
    Compression(&'static str),
    #[error("clusters cannot be compressed and set aside before both")]
    CompressedAndAllocated,
    #[error("clusters in an external data file cannot be {0}")]
    DataFileAnd(&'static str),
    #[error(
        "the external data file is called '{0}', which must be a plain name without '/' and ':'"
    )]
    DataFileName(String),
    #[error("the bitmap '{name}' {why}")]
    Bitmap { name: String, why: &'static str },
    #[error("clusters cannot be shared and {0}")]
    SharedAnd(&'static str),
    #[error("clusters cannot be set aside where a backing file shows through")]
    BackingAndAllocated,
    #[error("the name of the backing file is {0}")]
    BackingName(&'static str),
    #[error(
        "the header and the name of the backing file take up {0} bytes, more than a cluster has"
    )]
    HeaderTooLong(usize),
    #[error("a disk of {size} bytes is more than clusters of {cluster} bytes can map: {most}")]
    TooLarge { size: u64, cluster: u64, most: u64 },
    #[error("the file grows beyond what an entry for a compressed cluster can tell")]
    PackedTooFar,
}

impl Detail for WriteDetail {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Compression(_) | Self::PackedTooFar => ErrorKind::Unsupported,
            _ => ErrorKind::InvalidInput,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Version(_) => "choose 2 or 3 (compat=0.10 or 1.1)".into(),
            Self::ClusterSize(_) => "choose such a size with cluster_size".into(),
            Self::RefcountBits(_) => "choose one with refcount_bits".into(),
            Self::NeedsVersion3(_) => "leave compat at 1.1".into(),
            Self::ExtendedL2 | Self::TooLarge { .. } | Self::HeaderTooLong(_) => {
                "choose larger clusters with cluster_size".into()
            }
            Self::Compression(_) => "choose another with compression_type".into(),
            Self::CompressedAndAllocated | Self::BackingAndAllocated => {
                "leave preallocation at off".into()
            }
            Self::DataFileAnd(_) => "leave that or the data file out".into(),
            Self::DataFileName(_) => "the file lies beside the image: name it only".into(),
            Self::Bitmap { .. } => "leave the bitmaps out, or this one".into(),
            Self::SharedAnd(_) => "leave dedupe, preallocation or extended_l2 out".into(),
            Self::BackingName(_) => "name it otherwise, ./NAME for example".into(),
            Self::PackedTooFar => "do not compress it, or choose smaller clusters".into(),
        })
    }
}

impl Qcow2Options {
    /// The default options.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::qcow2::Qcow2Options;
    ///
    /// let writer = Qcow2Options::new().writer(1 << 30)?;
    /// assert_eq!(writer.unit().size(), 64 << 10);
    /// assert!(writer.encoder().is_none() && writer.files().is_empty());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// 2, which QEMU calls `compat=0.10`, or 3 (`1.1`). Default: 3.
    ///
    /// ```
    /// use diskimage::format::qcow2::Qcow2Options;
    ///
    /// let old = Qcow2Options::new().version(2);
    /// assert!(old.writer(1 << 30).is_ok());
    /// let error = old.lazy_refcounts(true).writer(1 << 30).unwrap_err();
    /// assert_eq!(error.to_string(), "lazy_refcounts needs version 3 (compat=1.1)");
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Bytes of a cluster: a power of two from 512 to 2 MiB. Default: 64 KiB.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::qcow2::Qcow2Options;
    ///
    /// let writer = Qcow2Options::new().cluster_size(2 << 20).writer(1 << 40)?;
    /// assert_eq!(writer.unit().size(), 2 << 20);
    /// let error = Qcow2Options::new().cluster_size(4 << 20).writer(1 << 40).unwrap_err();
    /// assert_eq!(error.advice(), Some("choose such a size with cluster_size"));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn cluster_size(mut self, bytes: u64) -> Self {
        self.cluster_size = bytes;
        self
    }

    /// The width of a reference count: 1, 2, 4, 8, 16, 32 or 64. Default: 16.
    ///
    /// ```
    /// use diskimage::Limits;
    /// use diskimage::format::qcow2::{Header, Qcow2Options};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// # let options = Qcow2Options::new().refcount_bits(1).lazy_refcounts(true);
    /// let writer = Box::new(options.writer(1 << 30)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let header = Header::read(&MemoryStorage::new(bytes), &Limits::default(), false)?;
    /// assert_eq!(1 << header.refcount_order, 1); // no snapshots for such an image
    /// assert!(Qcow2Options::new().refcount_bits(12).writer(1 << 30).is_err());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn refcount_bits(mut self, bits: u64) -> Self {
        self.refcount_bits = bits;
        self
    }

    /// How clusters are compressed, now or by whoever writes to the image later. Default: deflate.
    ///
    /// ```
    /// use diskimage::format::qcow2::{CompressionType, Qcow2Options};
    /// use diskimage::{Writer, writer::Forward};
    ///
    /// let zstd = Qcow2Options::new().compression_type(CompressionType::Zstd).level(9);
    /// # #[cfg(feature = "zstd")]
    /// # {
    /// let writer = zstd.compressed(true).writer(1 << 30)?;
    /// assert!(writer.encoder().is_some());
    /// // how long clusters become is not known beforehand
    /// assert_eq!(writer.forward(), Forward::Never);
    /// # }
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn compression_type(mut self, compression: CompressionType) -> Self {
        self.compression = compression;
        self
    }

    /// Compresses clusters that are shorter then. Default: no.
    ///
    /// ```
    /// use diskimage::VirtualDisk;
    /// use diskimage::format::qcow2::Qcow2Options;
    ///
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::FileTarget;
    /// # use diskimage::{Convert, Format, OpenOptions, Target};
    /// # let folder = tempfile::tempdir()?;
    /// # let [plain, small] = ["plain.qcow2", "small.qcow2"].map(|name| folder.path().join(name));
    /// # let storage = std::sync::Arc::new(MemoryStorage::new(vec![7; 1 << 20]));
    /// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, "raw".as_ref())?;
    /// let options = Qcow2Options::new();
    /// let best = options.clone().compressed(true).level(9);
    /// for (path, options) in [(&plain, options), (&small, best)] {
    ///     let target = FileTarget::create(path, 0)?.durable(false);
    ///     Convert::new().image(&disk, Box::new(options.writer(disk.size())?), None, &target)?;
    ///     Box::new(target).finish()?;
    /// }
    /// assert!(std::fs::metadata(&small)?.len() * 2 < std::fs::metadata(&plain)?.len());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn compressed(mut self, yes: bool) -> Self {
        self.compressed = yes;
        self
    }

    /// How hard the encoder tries: 1 to 12 for deflate (9 in a build without libdeflate), 1 to 22 for
    /// zstd. Default: 6 for deflate, 3 for zstd.
    ///
    /// ```
    /// use diskimage::format::qcow2::Qcow2Options;
    ///
    /// let options = Qcow2Options::new().compressed(true);
    /// assert!(options.clone().level(1).writer(1 << 30).is_ok());
    /// assert!(options.level(99).writer(1 << 30).is_err());
    /// ```
    #[must_use]
    pub fn level(mut self, level: i32) -> Self {
        self.level = Some(level);
        self
    }

    /// Allows whoever writes to the image to count lazily. Default: no.
    ///
    /// ```
    /// use diskimage::Limits;
    /// use diskimage::format::qcow2::layout::COMPATIBLE_LAZY_REFCOUNTS;
    /// use diskimage::format::qcow2::{Header, Qcow2Options};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(Qcow2Options::new().lazy_refcounts(true).writer(1 << 20)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let header = Header::read(&MemoryStorage::new(bytes), &Limits::default(), false)?;
    /// assert_eq!(header.compatible_features, COMPATIBLE_LAZY_REFCOUNTS);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn lazy_refcounts(mut self, yes: bool) -> Self {
        self.lazy_refcounts = yes;
        self
    }

    /// Extended L2 entries: a cluster has 32 subclusters that are written or not each by itself.
    /// Default: no.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::qcow2::Qcow2Options;
    ///
    /// let options = Qcow2Options::new().extended_l2(true);
    /// // what is written or not is no longer a whole cluster
    /// assert_eq!(options.writer(1 << 30)?.unit().size(), 2 << 10);
    /// assert!(options.cluster_size(4096).writer(1 << 30).is_err()); // too small to be parted
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn extended_l2(mut self, yes: bool) -> Self {
        self.extended_l2 = yes;
        self
    }

    /// Gives every cluster of the disk its place, whether it holds data or not. Default: no.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::qcow2::Qcow2Options;
    ///
    /// let options = Qcow2Options::new().allocate(true);
    /// assert!(options.is_allocated());
    /// assert!(options.writer(1 << 30)?.file_size(&diskimage::writer::Full)? > 1 << 30);
    /// // how long a compressed cluster becomes is not known beforehand
    /// assert!(options.compressed(true).writer(1 << 30).is_err());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn allocate(mut self, yes: bool) -> Self {
        self.allocate = yes;
        self
    }

    /// Stores clusters of the same content once, as far as the first million different ones go. They
    /// are told by BLAKE3. Whoever changes such a cluster later copies it first. Default: no.
    ///
    /// ```
    /// use diskimage::VirtualDisk;
    /// use diskimage::format::qcow2::Qcow2Options;
    ///
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::FileTarget;
    /// # use diskimage::{Convert, Format, OpenOptions, Target};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.qcow2");
    /// # let storage = std::sync::Arc::new(MemoryStorage::new(vec![7; 4 << 20]));
    /// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, "raw".as_ref())?;
    /// // 64 clusters of the same content
    /// let writer = Qcow2Options::new().dedupe(true).writer(disk.size())?;
    /// let target = FileTarget::create(&path, 0)?.durable(false);
    /// Convert::new().image(&disk, Box::new(writer), None, &target)?;
    /// Box::new(target).finish()?;
    /// assert!(std::fs::metadata(&path)?.len() < 1 << 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "checksum")]
    #[must_use]
    pub fn dedupe(mut self, yes: bool) -> Self {
        self.dedupe = yes;
        self
    }

    /// Puts the data into a file of their own beside the image, which is called `name`; the image is
    /// tables then ("External data file name string"). `raw` says that this file stays a raw disk by
    /// itself whatever is written to the image later. Default: none.
    ///
    /// ```
    /// use diskimage::format::qcow2::Qcow2Options;
    /// use diskimage::target::FilesTarget;
    /// use diskimage::{Convert, Target, Writer};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// let options = Qcow2Options::new().data_file("data.raw", true);
    /// let writer = options.writer(1 << 20)?;
    /// let path = folder.path().join("tables.qcow2");
    /// let target = FilesTarget::create(&path, writer.files())?;
    /// # let target = target.durable(false);
    /// Convert::new().create(Box::new(writer), &target)?;
    /// Box::new(target).finish()?;
    /// assert_eq!(std::fs::metadata(path.with_file_name("data.raw"))?.len(), 1 << 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn data_file(mut self, name: impl Into<String>, raw: bool) -> Self {
        self.data_file = Some((name.into(), raw));
        self
    }

    /// Keeps these bitmaps, all of the disk that is written: those of
    /// [`dirty_bitmaps`](crate::Layer::dirty_bitmaps). Default: none.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::qcow2::{Qcow2Layer, Qcow2Options};
    /// use diskimage::layer::DirtyBitmap;
    /// use diskimage::storage::FileStorage;
    /// use diskimage::Layer;
    ///
    /// let nightly = DirtyBitmap {
    ///     name: b"nightly".to_vec(),
    ///     granularity: 64 << 10,
    ///     auto: true,
    ///     is_consistent: true,
    ///     bits: vec![0b101, 0], // for the 16 parts of 1 MiB
    /// };
    /// let options = Qcow2Options::new().bitmaps(vec![nightly.clone()]);
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.qcow2");
    /// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
    /// let writer = options.writer(1 << 20)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `path` is the file that it makes of an empty disk
    /// let storage = Arc::new(FileStorage::open(&path)?);
    /// let layer = Qcow2Layer::open(storage, &LayerOptions::default())?;
    /// assert_eq!(layer.dirty_bitmaps(4096)?, [nightly]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn bitmaps(mut self, bitmaps: Vec<DirtyBitmap>) -> Self {
        self.bitmaps = bitmaps;
        self
    }

    /// The name of the backing file, and the word for its format, as the image will tell them.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::qcow2::{Qcow2Layer, Qcow2Options};
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::Layer;
    ///
    /// let options = Qcow2Options::new().backing("base.raw", Some("raw"));
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(options.writer(1 << 30)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let storage = Arc::new(MemoryStorage::new(bytes));
    /// let layer = Qcow2Layer::open(storage, &LayerOptions::default())?;
    /// let backing = &layer.references()[0];
    /// assert_eq!(backing.printable_name(), "base.raw");
    /// assert_eq!(backing.format.as_deref(), Some(&b"raw"[..]));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn backing(mut self, name: impl Into<Vec<u8>>, format: Option<&str>) -> Self {
        self.backing = Some((name.into(), format.map(|format| format.as_bytes().to_vec())));
        self
    }

    /// Whether the data go into a file of their own.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::qcow2::Qcow2Options;
    ///
    /// let options = Qcow2Options::new().data_file("data.raw", false);
    /// assert!(options.has_data_file());
    /// assert_eq!(options.writer(1 << 30)?.files()[0].name, "data.raw");
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn has_data_file(&self) -> bool {
        self.data_file.is_some()
    }

    /// Whether every cluster gets its place.
    ///
    /// ```
    /// use diskimage::format::qcow2::Qcow2Options;
    ///
    /// assert!(!Qcow2Options::new().is_allocated());
    /// assert!(Qcow2Options::new().allocate(true).is_allocated());
    /// ```
    #[must_use]
    pub fn is_allocated(&self) -> bool {
        self.allocate
    }

    /// What writes a disk of `size` bytes that way. Sizes are rounded up to whole sectors of 512
    /// bytes: QEMU reads the image so, and would leave out what lies behind the last whole sector.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::qcow2::Qcow2Options;
    ///
    /// let options = Qcow2Options::new().cluster_size(4096);
    /// assert_eq!(options.writer((1 << 20) + 1)?.size(), (1 << 20) + 512);
    /// // an L1 table of 32 MiB maps no more than 8 TiB by such clusters
    /// let error = options.writer(9 << 40).map(|writer| writer.size()).unwrap_err();
    /// assert_eq!(error.advice(), Some("choose larger clusters with cluster_size"));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn writer(&self, size: u64) -> Result<Qcow2Writer> {
        Qcow2Writer::new(self, size)
    }

    fn check(&self) -> Result<Shape> {
        if !matches!(self.version, 2 | 3) {
            return Err(WriteDetail::Version(self.version).into());
        }
        let bits = MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS;
        let cluster = Pow2::from_size(self.cluster_size).filter(|c| bits.contains(&c.bits()));
        let cluster = cluster.ok_or(WriteDetail::ClusterSize(self.cluster_size))?;
        let width = Pow2::from_size(self.refcount_bits).filter(|w| w.bits() <= MAX_REFCOUNT_ORDER);
        let width = width.ok_or(WriteDetail::RefcountBits(self.refcount_bits))?;
        if self.version == 2 {
            let needs = [
                (self.extended_l2, "extended_l2"),
                (!self.bitmaps.is_empty(), "a bitmap"),
                (self.data_file.is_some(), "data_file"),
                (self.lazy_refcounts, "lazy_refcounts"),
                (self.compression != CompressionType::Zlib, "compression_type=zstd"),
                (width.bits() != V2_REFCOUNT_ORDER, "refcount_bits other than 16"),
            ];
            if let Some((_, what)) = needs.iter().find(|(wanted, _)| *wanted) {
                return Err(WriteDetail::NeedsVersion3(what).into());
            }
        }
        if self.extended_l2 && cluster.bits() < MIN_EXTENDED_L2_CLUSTER_BITS {
            return Err(WriteDetail::ExtendedL2.into());
        }
        if self.allocate && self.compressed {
            return Err(WriteDetail::CompressedAndAllocated.into());
        }
        if let Some((name, raw)) = &self.data_file {
            let alone = [
                (self.compressed, "compressed"),
                (self.dedupe, "shared"),
                (*raw && self.backing.is_some(), "those of a backing file, where it is raw"),
            ];
            if let Some((_, what)) = alone.iter().find(|(wanted, _)| *wanted) {
                return Err(WriteDetail::DataFileAnd(what).into());
            }
            let is_plain = |name: &str| {
                let most = to_usize(MAX_NAME_LENGTH.into());
                !name.is_empty() && name.len() <= most && !name.contains(['/', ':', '\0'])
            };
            if !is_plain(name) || matches!(&**name, "." | "..") {
                return Err(WriteDetail::DataFileName(printable_str(name)).into());
            }
        }
        if self.dedupe && (self.allocate || self.extended_l2) {
            let what =
                if self.allocate { "set aside one by one" } else { "parted into subclusters" };
            return Err(WriteDetail::SharedAnd(what).into());
        }
        if self.allocate && self.backing.is_some() {
            return Err(WriteDetail::BackingAndAllocated.into());
        }
        if let Some((name, format)) = &self.backing {
            backing::check_names(name, format.as_deref())?;
        }
        let entry_bits = if self.extended_l2 { 4 } else { 3 };
        Ok(Shape {
            version: self.version,
            cluster,
            refcount_order: width.bits(),
            extended_l2: self.extended_l2,
            entry: Pow2::from_bits(entry_bits).unwrap_or(cluster),
            allocate: self.allocate,
        })
    }

    fn encoder(&self, cluster: Pow2) -> Result<Option<Arc<dyn Encoder>>> {
        if !self.compressed {
            return Ok(None);
        }
        // what is no shorter is stored as it is
        let room = to_usize(cluster.size()).saturating_sub(1);
        match self.compression {
            CompressionType::Zlib => {
                let level = self.level.unwrap_or(Deflate::DEFAULT_LEVEL);
                Ok(Some(Arc::new(Deflated(Deflate::new(level, Wrapper::Raw)?, room))))
            }
            #[cfg(feature = "zstd")]
            CompressionType::Zstd => {
                use crate::codec::Zstd;
                let level = self.level.unwrap_or(Zstd::DEFAULT_LEVEL);
                Ok(Some(Arc::new(Zstandard(Zstd::new(level)?, room))))
            }
            other => Err(WriteDetail::Compression(other.name()).into()),
        }
    }

    /// The first cluster: the header with its extensions, and the backing file's name.
    fn header(&self, shape: &Shape, fields: &Fields) -> Result<Vec<u8>> {
        let mut extensions = Vec::new();
        let mut extension = |kind: u32, data: &[u8]| {
            extensions.extend(kind.to_be_bytes());
            extensions.extend(u32::try_from(data.len()).unwrap_or_default().to_be_bytes());
            extensions.extend(data);
            extensions.resize(extensions.len().next_multiple_of(8), 0);
        };
        if let Some((_, Some(format))) = &self.backing {
            extension(EXTENSION_BACKING_FORMAT, format);
        }
        if let Some((name, _)) = &self.data_file {
            extension(EXTENSION_DATA_FILE, name.as_bytes());
        }
        let zstd = self.compression == CompressionType::Zstd;
        let incompatible = [
            (self.data_file.is_some(), INCOMPATIBLE_DATA_FILE, 2, "external data file"),
            (zstd, INCOMPATIBLE_COMPRESSION_TYPE, 3, "compression type"),
            (self.extended_l2, INCOMPATIBLE_EXTENDED_L2, 4, "extended L2 entries"),
        ];
        let used = incompatible.iter().filter(|(used, ..)| *used);
        let mut names = Vec::new();
        for (_, _, bit, name) in used.clone() {
            let mut entry = vec![0, *bit];
            entry.extend(name.as_bytes());
            entry.resize(FEATURE_NAME_LENGTH, 0);
            names.extend(entry);
        }
        if !names.is_empty() {
            // so that a program that does not know a feature can name it
            extension(EXTENSION_FEATURE_NAMES, &names);
        }
        if let Some(count) = u32::try_from(self.bitmaps.len()).ok().filter(|&count| count > 0) {
            let mut data = Vec::from(count.to_be_bytes());
            data.extend([0; 4]);
            data.extend(fields.bitmaps.size.to_be_bytes());
            data.extend(fields.bitmaps.offset.to_be_bytes());
            extension(EXTENSION_BITMAPS, &data);
        }
        extension(EXTENSION_END, &[]);
        let length = if shape.version == 2 { V2_HEADER_LENGTH } else { WRITTEN_HEADER_LENGTH };
        let (name, at) = match &self.backing {
            Some((name, _)) => (&**name, to_usize(length.into()).saturating_add(extensions.len())),
            None => (&[][..], 0),
        };
        let mut header = Vec::new();
        let put32 = |header: &mut Vec<u8>, value: u32| header.extend(value.to_be_bytes());
        let put64 = |header: &mut Vec<u8>, value: u64| header.extend(value.to_be_bytes());
        put32(&mut header, MAGIC);
        put32(&mut header, shape.version);
        put64(&mut header, to_u64(at));
        put32(&mut header, u32::try_from(name.len()).unwrap_or_default());
        put32(&mut header, shape.cluster.bits());
        put64(&mut header, fields.size);
        put32(&mut header, 0); // crypt_method
        put32(&mut header, fields.l1_size);
        put64(&mut header, fields.l1_table_offset);
        put64(&mut header, fields.refcount_table.0);
        put32(&mut header, u32::try_from(fields.refcount_table.1).unwrap_or_default());
        put32(&mut header, 0); // nb_snapshots
        put64(&mut header, 0); // snapshots_offset
        if shape.version == 3 {
            put64(&mut header, used.fold(0, |bits, (_, bit, ..)| bits | bit));
            put64(&mut header, if self.lazy_refcounts { COMPATIBLE_LAZY_REFCOUNTS } else { 0 });
            let bitmaps = if self.bitmaps.is_empty() { 0 } else { AUTOCLEAR_BITMAPS };
            let raw = matches!(self.data_file, Some((_, true)));
            put64(&mut header, bitmaps | if raw { AUTOCLEAR_DATA_FILE_RAW } else { 0 });
            put32(&mut header, shape.refcount_order);
            put32(&mut header, length);
            header.push(u8::from(zstd));
            header.extend([0; 7]);
        }
        header.extend(extensions);
        header.extend(name);
        if header.len() > to_usize(shape.cluster.size()) {
            return Err(WriteDetail::HeaderTooLong(header.len()).into());
        }
        header.resize(to_usize(shape.cluster.size()), 0);
        Ok(header)
    }
}

/// Length of the version 3 header that is written: with the compression type.
const WRITTEN_HEADER_LENGTH: u32 = 112;

/// What the options come to.
#[derive(Debug, Clone, Copy)]
struct Shape {
    version: u32,
    cluster: Pow2,
    refcount_order: u32,
    extended_l2: bool,
    /// Bytes of an L2 entry.
    entry: Pow2,
    allocate: bool,
}

impl Shape {
    /// Guest bytes that are stored or not by themselves with extended L2 entries.
    fn subcluster(&self) -> Pow2 {
        let bits = self.cluster.bits().saturating_sub(SUBCLUSTERS.trailing_zeros());
        Pow2::from_bits(bits).unwrap_or(self.cluster)
    }

    /// Guest bytes that an L2 table maps.
    fn span(&self) -> Pow2 {
        let entries = self.cluster.bits().saturating_sub(self.entry.bits());
        let bits = self.cluster.bits().saturating_add(entries);
        Pow2::from_bits(bits).unwrap_or(self.cluster)
    }
}

/// Fields of the header that the layout brings.
#[derive(Debug, Clone, Copy)]
struct Fields {
    size: u64,
    l1_size: u32,
    l1_table_offset: u64,
    /// Its offset, and how many clusters it has.
    refcount_table: (u64, u64),
    bitmaps: bitmaps::Directory,
}

#[derive(Debug)]
struct Deflated(Deflate, usize);

impl Encoder for Deflated {
    fn encode(&self, unit: &[u8], _guest: u64, out: &mut Vec<u8>) -> Result<bool> {
        self.0.encode(unit, self.1, out)
    }
}

#[cfg(feature = "zstd")]
#[derive(Debug)]
struct Zstandard(crate::codec::Zstd, usize);

#[cfg(feature = "zstd")]
impl Encoder for Zstandard {
    fn encode(&self, unit: &[u8], _guest: u64, out: &mut Vec<u8>) -> Result<bool> {
        self.0.encode(unit, self.1, out)
    }
}
