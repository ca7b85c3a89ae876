//! How a VMDK is written: one file with its descriptor inside, or a descriptor and other files.
//!
//! ```
//! use diskimage::Writer;
//! use diskimage::format::vmdk::{Subformat, VmdkOptions};
//! use diskimage::writer::Forward;
//!
//! for &subformat in Subformat::ALL {
//!     let writer = VmdkOptions::new().subformat(subformat).writer(1 << 30)?;
//!     // a stream goes into a pipe; the others know in the end what their start says
//!     assert_eq!(writer.forward() == Forward::Always, subformat == Subformat::StreamOptimized);
//!     println!("{}: {} other files", subformat.name(), writer.files().len());
//! }
//! # Ok::<(), diskimage::Error>(())
//! ```

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use super::layout::*;
use crate::codec::{Deflate, Wrapper};
use crate::error::{Detail, ErrorKind, Result};
use crate::format::Format;
use crate::format::parent::Parent;
use crate::layer::{Identity, Layer};
use crate::num::{Pow2, to_u64, to_usize};
use crate::writer::{Checksum, ImageFile, Writer};

mod flat;
mod sparse;
mod stream;

pub use flat::FlatWriter;
pub use sparse::SparseWriter;
pub use stream::StreamWriter;

/// The subformats that are written, by their `createType`.
///
/// ```
/// use diskimage::format::vmdk::Subformat;
///
/// // by the word of a descriptor's createType
/// let wanted = "streamOptimized";
/// let found = Subformat::ALL.iter().find(|subformat| subformat.name() == wanted);
/// assert_eq!(found, Some(&Subformat::StreamOptimized));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subformat {
    /// `monolithicSparse`: grains as they are, tables before them.
    MonolithicSparse,
    /// `streamOptimized`: compressed grains, tables behind them, a footer, all with markers.
    StreamOptimized,
    /// `monolithicFlat`: a descriptor, and the disk in a file of its own.
    MonolithicFlat,
    /// `twoGbMaxExtentFlat`: the same, the disk in files of less than 2 GiB.
    TwoGbMaxExtentFlat,
    /// `twoGbMaxExtentSparse`: a descriptor, and grains and tables in files of less than 2 GiB.
    TwoGbMaxExtentSparse,
}

impl Subformat {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::MonolithicSparse,
        Self::StreamOptimized,
        Self::MonolithicFlat,
        Self::TwoGbMaxExtentFlat,
        Self::TwoGbMaxExtentSparse,
    ];

    /// The word of the descriptor.
    ///
    /// ```
    /// use diskimage::format::vmdk::Subformat;
    ///
    /// assert_eq!(Subformat::TwoGbMaxExtentSparse.name(), "twoGbMaxExtentSparse");
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::StreamOptimized => "streamOptimized",
            Self::MonolithicFlat => "monolithicFlat",
            Self::TwoGbMaxExtentFlat => "twoGbMaxExtentFlat",
            Self::TwoGbMaxExtentSparse => "twoGbMaxExtentSparse",
        }
    }

    /// Whether the disk lies in the extents byte for byte.
    fn is_flat(self) -> bool {
        matches!(self, Self::MonolithicFlat | Self::TwoGbMaxExtentFlat)
    }

    /// How long the extents are, bytes, and what their names have behind that of the image; `None`
    /// where all is one file.
    fn extents(self) -> Option<(u64, &'static str)> {
        match self {
            Self::MonolithicSparse | Self::StreamOptimized => None,
            Self::MonolithicFlat => Some((u64::MAX, "flat")),
            Self::TwoGbMaxExtentFlat => Some((TWO_GB, "f")),
            Self::TwoGbMaxExtentSparse => Some((TWO_GB, "s")),
        }
    }
}

/// What a VMDK is to be like: a builder. The default is what qemu-img writes: monolithicSparse,
/// grains of 64 KiB, an IDE adapter, virtual hardware version 4.
///
/// ```
/// use diskimage::format::vmdk::{Subformat, VmdkOptions};
/// use diskimage::Writer;
///
/// let options = VmdkOptions::new().subformat(Subformat::StreamOptimized).adapter("lsilogic");
/// assert!(options.is_compressed());
/// assert_eq!(options.writer(1 << 30)?.size(), 1 << 30);
/// assert!(VmdkOptions::new().adapter("scsi").writer(1 << 30).is_err());
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct VmdkOptions {
    subformat: Subformat,
    adapter: String,
    hardware: u32,
    level: i32,
    name: String,
    seed: String,
    /// The parent, and its content identifier.
    parent: Option<Parent<u32>>,
}

impl Default for VmdkOptions {
    fn default() -> Self {
        Self {
            subformat: Subformat::MonolithicSparse,
            adapter: "ide".into(),
            hardware: 4,
            level: Deflate::DEFAULT_LEVEL,
            name: "disk.vmdk".into(),
            seed: String::new(),
            parent: None,
        }
    }
}

/// The adapters that a descriptor may name ("The Disk Database").
///
/// ```
/// use diskimage::format::vmdk::VmdkOptions;
/// use diskimage::format::vmdk::write::ADAPTERS;
///
/// for adapter in ADAPTERS {
///     VmdkOptions::new().adapter(*adapter).writer(1 << 30)?;
/// }
/// let error = VmdkOptions::new().adapter("nvme").writer(1 << 30).unwrap_err();
/// assert!(error.advice().is_some_and(|advice| advice.contains("lsilogic")));
/// # Ok::<(), diskimage::Error>(())
/// ```
pub const ADAPTERS: &[&str] = &["ide", "buslogic", "lsilogic", "legacyESX"];

#[derive(Debug, thiserror::Error)]
enum WriteDetail {
    #[error("there is no adapter type '{0}'")]
    Adapter(String),
    #[error("a {0} has no parent")]
    FlatWithParent(&'static str),
    #[error("the file's name cannot stand in a descriptor: {0}")]
    Name(&'static str),
    #[error("a disk of {0} bytes is more than a sparse VMDK maps: {1}")]
    TooLarge(u64, u64),
    #[error(
        "a disk of {0} bytes has so many extents that their names do not fit into a descriptor"
    )]
    TooManyExtents(u64),
    #[error("the file grows beyond 2 TiB, where entries of a grain table end")]
    PastEntries,
}

impl Detail for WriteDetail {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::PastEntries => ErrorKind::Unsupported,
            _ => ErrorKind::InvalidInput,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Adapter(_) => format!("choose among {}", ADAPTERS.join(", ")).into(),
            Self::FlatWithParent(_) => "choose a sparse subformat".into(),
            Self::Name(_) => "name it otherwise".into(),
            Self::TooLarge(..) | Self::PastEntries => "choose another format".into(),
            Self::TooManyExtents(_) => "choose a monolithic subformat".into(),
        })
    }
}

/// A grain: 64 KiB, as everybody has it.
const GRAIN_BITS: u32 = 16;
/// Entries of a grain table.
const GTES: u64 = 512;
/// The entry of a grain of zeros, as it lies in a table.
const GTE_ZEROED: u32 = 1;
/// Bytes of a grain table: 512 entries of 32 bits.
const TABLE_BYTES: u64 = 2048;
/// Sectors of the embedded descriptor.
const DESCRIPTOR_SECTORS: u64 = 20;
/// The largest disk: 64 TiB, whose grain directory has 8 MiB.
const MAX_SIZE: u64 = 64 << 40;
/// The most of the disk in one of several extents: 4192256 sectors, as VMware has it, so that no file
/// with its tables comes to 2 GiB. They are whole grains and, but for the last, whole grain tables.
const TWO_GB: u64 = (2 << 30) - (1 << 20);
/// Where the offsets of extents begin that are files of their own: behind the largest descriptor.
const FIRST_EXTENT: u64 = MAX_DESCRIPTOR;

impl VmdkOptions {
    /// The default options.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::vmdk::VmdkOptions;
    ///
    /// let options = VmdkOptions::new();
    /// assert!(!options.is_compressed());
    /// assert!(options.writer(1 << 30)?.files().is_empty()); // the descriptor lies inside
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Which kind of VMDK. Default: monolithicSparse.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::vmdk::{Subformat, VmdkOptions};
    ///
    /// let writer = VmdkOptions::new().subformat(Subformat::TwoGbMaxExtentFlat).writer(5 << 30)?;
    /// assert_eq!(writer.files().len(), 3);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn subformat(mut self, subformat: Subformat) -> Self {
        self.subformat = subformat;
        self
    }

    /// Whether grains are compressed: those of a stream are.
    ///
    /// ```
    /// use diskimage::format::vmdk::{Subformat, VmdkOptions};
    ///
    /// assert!(!VmdkOptions::new().is_compressed());
    /// assert!(VmdkOptions::new().subformat(Subformat::StreamOptimized).is_compressed());
    /// ```
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.subformat == Subformat::StreamOptimized
    }

    /// The adapter that the disk is to hang on: one of [`ADAPTERS`]. Default: `ide`.
    ///
    /// ```
    /// use diskimage::format::vmdk::{Descriptor, Subformat, VmdkOptions};
    ///
    /// let options = VmdkOptions::new().subformat(Subformat::StreamOptimized);
    /// let options = options.adapter("lsilogic").hardware_version(21).name("web.vmdk").level(9);
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = options.writer(1 << 30)?;
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let text = bytes[512..21 * 512].split(|&byte| byte == 0).next().unwrap_or_default();
    /// let descriptor = Descriptor::parse(text, 512, false)?;
    /// assert_eq!(descriptor.text("ddb.adaptertype").as_deref(), Some("lsilogic"));
    /// assert_eq!(descriptor.text("ddb.virtualhwversion").as_deref(), Some("21"));
    /// assert_eq!(descriptor.extents[0].name, b"web.vmdk");
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn adapter(mut self, adapter: impl Into<String>) -> Self {
        self.adapter = adapter.into();
        self
    }

    /// `virtualHWVersion`. Default: 4.
    ///
    /// ```
    /// use diskimage::format::vmdk::{Descriptor, Subformat, VmdkOptions};
    ///
    /// let stream = VmdkOptions::new().subformat(Subformat::StreamOptimized);
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = stream.hardware_version(21).writer(1 << 30)?;
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let text = bytes[512..21 * 512].split(|&byte| byte == 0).next().unwrap_or_default();
    /// let descriptor = Descriptor::parse(text, 512, false)?;
    /// assert_eq!(descriptor.text("ddb.virtualhwversion").as_deref(), Some("21"));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn hardware_version(mut self, version: u32) -> Self {
        self.hardware = version;
        self
    }

    /// How hard grains are compressed, as [`Deflate::new`] has it. Default: 6.
    ///
    /// ```
    /// use diskimage::format::vmdk::{Subformat, VmdkOptions};
    ///
    /// let stream = VmdkOptions::new().subformat(Subformat::StreamOptimized);
    /// assert!(stream.clone().level(9).writer(1 << 30).is_ok());
    /// assert!(stream.level(99).writer(1 << 30).is_err());
    /// ```
    #[must_use]
    pub fn level(mut self, level: i32) -> Self {
        self.level = level;
        self
    }

    /// The name of the file, which its descriptor repeats, and which the names of extents begin with.
    /// Default: `disk.vmdk`.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::vmdk::{Subformat, VmdkOptions};
    ///
    /// let options = VmdkOptions::new().subformat(Subformat::MonolithicFlat);
    /// let writer = options.clone().name("web.vmdk").writer(1 << 30)?;
    /// assert_eq!(writer.files()[0].name, "web-flat.vmdk");
    /// assert!(options.name("../web.vmdk").writer(1 << 30).is_err()); // the files lie side by side
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What the content identifier derives from beside the content; of a stream, whose descriptor
    /// comes before its content, beside the size. Default: nothing.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::Layer;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::vmdk::{Subformat, VmdkLayer, VmdkOptions};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// let identity = |seed: &str| -> diskimage::Result<_> {
    ///     let options = VmdkOptions::new().subformat(Subformat::StreamOptimized).seed(seed);
    /// #     let mut bytes = Vec::new();
    /// #     let target = diskimage::target::StreamTarget::new(&mut bytes);
    ///     let writer = options.writer(1 << 20)?;
    /// #     diskimage::Convert::new().create(writer, &target)?;
    /// #     diskimage::Target::finish(Box::new(target))?;
    ///     // `bytes` is what it makes of an empty disk
    ///     let storage = Arc::new(MemoryStorage::new(bytes));
    ///     Ok(VmdkLayer::open(storage, &LayerOptions::default())?.identities())
    /// };
    /// assert_eq!(identity("web-1")?, identity("web-1")?);
    /// assert_ne!(identity("web-1")?, identity("web-2")?);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn seed(mut self, seed: impl Into<String>) -> Self {
        self.seed = seed.into();
        self
    }

    /// Makes it a delta of the VMDK `parent`, which it is to know by `name`, as from its own folder, and
    /// by its content identifier ("Delta Links"): whoever changes the parent makes the child invalid.
    /// Both have one size. The disk of the parent is what [`Convert::image`](crate::Convert::image)
    /// takes as backing.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::Layer;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::vmdk::{Subformat, VmdkLayer, VmdkOptions};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// let open = |bytes| {
    ///     VmdkLayer::open(Arc::new(MemoryStorage::new(bytes)), &LayerOptions::default())
    /// };
    /// let options = VmdkOptions::new().subformat(Subformat::StreamOptimized);
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = options.writer(1 << 20)?;
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let parent = open(bytes)?;
    /// let options = options.parent("base.vmdk", &parent)?;
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = options.writer(1 << 20)?;
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let child = open(bytes)?;
    /// assert_eq!(child.references()[0].printable_name(), "base.vmdk");
    /// child.check_parent(&parent)?;
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn parent(mut self, name: impl Into<String>, parent: &dyn Layer) -> Result<Self> {
        let id = |identity| match identity {
            Identity::ContentId(cid) if cid != CID_NO_PARENT => Some(cid),
            _ => None,
        };
        let what = "content identifier";
        self.parent = Some(Parent::new(Format::Vmdk, name.into(), 1024, parent, what, id)?);
        Ok(self)
    }

    /// What writes a disk of `size` bytes that way; sizes are rounded up to whole sectors. Where that is
    /// several files, a [`FilesTarget`](crate::target::FilesTarget) takes them.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::vmdk::VmdkOptions;
    ///
    /// assert_eq!(VmdkOptions::new().writer(1000)?.size(), 1024);
    /// let error = VmdkOptions::new().writer(65 << 40).unwrap_err();
    /// assert_eq!(error.kind(), diskimage::ErrorKind::InvalidInput);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn writer(&self, size: u64) -> Result<Box<dyn Writer>> {
        if !ADAPTERS.contains(&&*self.adapter) {
            let adapter = crate::text::printable_str(&self.adapter);
            return Err(WriteDetail::Adapter(adapter).into());
        }
        if self.name.contains(|c: char| c == '"' || c.is_control()) {
            return Err(WriteDetail::Name("it has quotation marks or control characters").into());
        }
        if self.subformat.extents().is_some() && self.name.contains(['/', '\\']) {
            return Err(WriteDetail::Name("it has slashes").into());
        }
        if self.name.len() > 1024 {
            return Err(WriteDetail::Name("it is too long").into());
        }
        if size > MAX_SIZE {
            return Err(WriteDetail::TooLarge(size, MAX_SIZE).into());
        }
        let size = Pow2::SECTOR.ceil(size);
        if let Some(parent) = &self.parent {
            if self.subformat.is_flat() {
                return Err(WriteDetail::FlatWithParent(self.subformat.name()).into());
            }
            parent.check_size(size, false)?;
        }
        match self.subformat {
            Subformat::MonolithicSparse | Subformat::TwoGbMaxExtentSparse => {
                let writer = SparseWriter::new(self, size);
                self.check_length(size, writer.files())?;
                Ok(Box::new(writer))
            }
            Subformat::StreamOptimized => {
                let deflate = Deflate::new(self.level, Wrapper::Zlib)?;
                Ok(Box::new(StreamWriter::new(self, size, deflate)))
            }
            Subformat::MonolithicFlat | Subformat::TwoGbMaxExtentFlat => {
                let writer = FlatWriter::new(self, size);
                self.check_length(size, writer.files())?;
                Ok(Box::new(writer))
            }
        }
    }

    /// The bytes of the disk in each extent, and the name of its file, where extents are files of their
    /// own. A disk of no bytes has one extent, too.
    fn extents(&self, size: u64) -> Vec<(Range<u64>, String)> {
        let Some((length, kind)) = self.subformat.extents() else { return Vec::new() };
        // as others name them: what the name ends with comes behind
        let (stem, dot, ending) = match self.name.rsplit_once('.') {
            Some((stem, ending)) => (stem, ".", ending),
            None => (&*self.name, "", ""),
        };
        let (mut extents, mut at) = (Vec::new(), 0u64);
        loop {
            let end = at.saturating_add(length).min(size);
            let number = match length {
                u64::MAX => String::new(),
                _ => format!("{:03}", extents.len().saturating_add(1)),
            };
            extents.push((at..end, format!("{stem}-{kind}{number}{dot}{ending}")));
            if end >= size {
                return extents;
            }
            at = end;
        }
    }

    /// Whether a descriptor that names these files is one that readers take.
    fn check_length(&self, size: u64, files: &[ImageFile]) -> Result<()> {
        let length = if files.is_empty() { 0 } else { self.descriptor(size, 0).len() };
        if to_u64(length) > MAX_DESCRIPTOR {
            return Err(WriteDetail::TooManyExtents(size).into());
        }
        Ok(())
    }

    /// The descriptor ("The VMDK Descriptor"). Where it lies in the image's one file, it has as many
    /// sectors as there is room for.
    fn descriptor(&self, size: u64, cid: u32) -> Vec<u8> {
        let sectors = Pow2::SECTOR.count(size);
        let heads: u64 = if self.adapter == "ide" { 16 } else { 255 };
        let track = 63u64;
        let cylinders = sectors.checked_div(heads.saturating_mul(track)).unwrap_or_default();
        let extents = self.extents(size);
        let mut lines = String::new();
        for (range, name) in &extents {
            let sectors = Pow2::SECTOR.count(range.end.saturating_sub(range.start));
            let _ = match self.subformat.is_flat() {
                true => writeln!(lines, "RW {sectors} FLAT \"{name}\" 0"),
                false => writeln!(lines, "RW {sectors} SPARSE \"{name}\""),
            };
        }
        if extents.is_empty() {
            let _ = writeln!(lines, "RW {sectors} SPARSE \"{}\"", self.name);
        }
        let (parent, hint) = match &self.parent {
            None => (CID_NO_PARENT, String::new()),
            Some(parent) => (parent.id, format!("parentFileNameHint=\"{}\"\n", parent.name)),
        };
        // QEMU's words where both say the same; without the encoding readers take their own
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={cid:08x}\n\
             parentCID={parent:08x}\ncreateType=\"{}\"\n{hint}\n# Extent description\n\
             {lines}\n# The Disk Data Base\n#DDB\n\n\
             ddb.virtualHWVersion = \"{}\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
             ddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"{track}\"\n\
             ddb.adapterType = \"{}\"\nddb.toolsVersion = \"2147483647\"\n",
            self.subformat.name(),
            self.hardware,
            self.adapter,
        );
        let mut bytes = text.into_bytes();
        if extents.is_empty() {
            bytes.resize(to_usize(sectors_of(DESCRIPTOR_SECTORS)), 0);
        }
        bytes
    }

    /// A content identifier from the seed and all of the disk.
    fn cid_of(&self, size: u64, checksum: &Checksum) -> u32 {
        self.cid(&[size.to_le_bytes(), checksum.value().to_le_bytes()].concat())
    }

    /// A content identifier from the seed and `more`. The two that mean something else are avoided.
    fn cid(&self, more: &[u8]) -> u32 {
        let mut hash = crc32fast::Hasher::new();
        hash.update(self.seed.as_bytes());
        hash.update(&[0]);
        hash.update(more);
        if let Some(parent) = &self.parent {
            hash.update(&parent.id.to_le_bytes());
        }
        match hash.finalize() {
            0 | CID_NO_PARENT | 0xffff_fffe => 1,
            cid => cid,
        }
    }
}

fn sectors_of(count: u64) -> u64 {
    count.saturating_mul(SECTOR)
}

/// The fields of a header that differ.
#[derive(Debug, Clone, Copy)]
struct Fields {
    version: u32,
    flags: u32,
    /// Bytes of the disk.
    size: u64,
    rgd_offset: u64,
    gd_offset: u64,
    overhead: u64,
    compress_algorithm: u16,
    /// Whether the descriptor lies inside, behind the header.
    descriptor: bool,
}

/// A `SparseExtentHeader`.
fn header(fields: &Fields) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(SPARSE_MAGIC.to_le_bytes());
    header.extend(fields.version.to_le_bytes());
    header.extend(fields.flags.to_le_bytes());
    let grain = Pow2::from_bits(GRAIN_BITS).map_or(0, |grain| Pow2::SECTOR.index(grain.size()));
    // without one, the offset is 0 ("Hosted Sparse Extents")
    let (descriptor, length) = if fields.descriptor { (1, DESCRIPTOR_SECTORS) } else { (0, 0) };
    let numbers = [Pow2::SECTOR.count(fields.size), grain, descriptor, length];
    numbers.iter().for_each(|number| header.extend(number.to_le_bytes()));
    header.extend(u32::try_from(GTES).unwrap_or_default().to_le_bytes());
    let places = [fields.rgd_offset, fields.gd_offset, fields.overhead];
    places.iter().for_each(|number| header.extend(number.to_le_bytes()));
    header.push(0); // uncleanShutdown
    header.extend(NEWLINE_TEST);
    header.extend(fields.compress_algorithm.to_le_bytes());
    header.resize(HEADER_LENGTH, 0);
    header
}

/// Table entries as they lie in the file, whole sectors.
fn entries(values: &[u32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let whole = Pow2::SECTOR.ceil(to_u64(bytes.len()));
    bytes.resize(to_usize(whole), 0);
    bytes
}

/// The sector that `offset` lies at, as an entry tells it.
fn entry_of(offset: u64) -> Result<u32> {
    Ok(u32::try_from(Pow2::SECTOR.index(offset)).map_err(|_| WriteDetail::PastEntries)?)
}

/// How many grains and grain tables map `size` bytes.
fn counts(size: u64) -> (u64, u64) {
    let grains = Pow2::from_bits(GRAIN_BITS).map_or(0, |grain| grain.count(size));
    (grains, grains.div_ceil(GTES))
}
