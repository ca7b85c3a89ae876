//! QED, QEMU's enhanced disk format, by its specification (QEMU's `docs/interop/qed_spec.rst`). All
//! numbers are little-endian.
//!
//! | | |
//! |---|---|
//! | read | clusters of 4 KiB to 64 MiB, tables of 1 to 16 clusters, zero clusters, backing files (one that is called raw is never probed) |
//! | named | an image that needs a check (dirty); unknown compatible and autoclear features do no harm |
//! | checked | by the section "Consistency checking": each cluster is referred to once, tables and clusters lie in the file |
//! | refused | unknown features |
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use diskimage::format::qed::ZERO_CLUSTER;
//! use diskimage::storage::MemoryStorage;
//! use diskimage::{ExtentKind, OpenOptions, VirtualDisk};
//!
//! // the header, the L1 table, an L2 table, one cluster: of 4096 bytes each
//! let mut image = vec![0; 4 * 4096];
//! let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
//! put(0, b"QED\0");
//! // cluster_size, table_size, header_size
//! put(4, &[4096u32, 1, 1].map(u32::to_le_bytes).concat());
//! put(40, &4096u64.to_le_bytes()); // l1_table_offset
//! put(48, &8192u64.to_le_bytes()); // image_size
//! put(4096, &8192u64.to_le_bytes());
//! put(8192, &[12_288, ZERO_CLUSTER].map(u64::to_le_bytes).concat());
//! put(12_288, b"guest");
//!
//! let storage = Arc::new(MemoryStorage::new(image));
//! let disk = OpenOptions::new().open_storage(storage, Path::new("disk.qed"))?;
//! let mut bytes = [0; 5];
//! disk.read_exact_at(&mut bytes, 0)?;
//! assert_eq!(&bytes, b"guest");
//! let second = disk.extent_at(4096, u64::MAX)?;
//! assert_eq!(second.kind, ExtentKind::Zero { allocated: true, stored: None });
//! # Ok::<(), diskimage::Error>(())
//! ```

use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};

use crate::bytes::LeCursor;
use crate::check::Checking;
use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::format::fault::{Fault, backing_name, check_limit, field};
use crate::format::twolevel::{Entries, TwoLevel};
use crate::format::{Format, LayerOptions};
use crate::layer::{Description, Layer, Mapping, MappingKind, Reference, Role, Source};
use crate::num::Pow2;
use crate::storage::{Storage, TableCache, check_inside, read_vec};

mod check;

/// `QED_F_BACKING_FILE`: the image has a backing file.
pub const BACKING_FILE: u64 = 1;
/// `QED_F_NEED_CHECK`: the image was not closed properly.
pub const NEED_CHECK: u64 = 2;
/// `QED_F_BACKING_FORMAT_NO_PROBE`: the backing file is a raw disk.
pub const BACKING_FORMAT_NO_PROBE: u64 = 4;
/// The feature bits that the specification knows.
pub const KNOWN_FEATURES: u64 = BACKING_FILE | NEED_CHECK | BACKING_FORMAT_NO_PROBE;
/// An L2 entry of a cluster that is zeros and has no room in the file.
pub const ZERO_CLUSTER: u64 = 1;

const MAGIC: &[u8] = b"QED\0";
const AT_CLUSTER_SIZE: u64 = 4;
const AT_TABLE_SIZE: u64 = 8;
const AT_HEADER_SIZE: u64 = 12;
const AT_FEATURES: u64 = 16;
const AT_L1: u64 = 40;
const AT_IMAGE_SIZE: u64 = 48;
const AT_BACKING: u64 = 56;

/// The header.
///
/// ```
/// use diskimage::format::LayerOptions;
/// use diskimage::format::qed::{BACKING_FILE, Header, NEED_CHECK};
/// use diskimage::storage::MemoryStorage;
///
/// let mut bytes = vec![0; 3 * 4096]; // the header, and an L1 table of two clusters
/// let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
/// put(0, b"QED\0");
/// put(4, &[4096u32, 2, 1].map(u32::to_le_bytes).concat());
/// put(16, &(BACKING_FILE | NEED_CHECK).to_le_bytes());
/// put(40, &4096u64.to_le_bytes());
/// put(48, &(1u64 << 30).to_le_bytes());
/// put(56, &[64u32, 8].map(u32::to_le_bytes).concat()); // the backing file's name
/// put(64, b"base.raw");
///
/// let header = Header::read(&MemoryStorage::new(bytes), &LayerOptions::default())?;
/// assert_eq!((header.image_size, header.cluster.size()), (1 << 30, 4096));
/// assert_eq!((header.header_end(), header.table_bytes()), (4096, 8192));
/// assert!(header.features & NEED_CHECK != 0); // it was not closed properly
/// assert_eq!(header.backing_file, Some((b"base.raw".to_vec(), 64)));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// `cluster_size`.
    pub cluster: Pow2,
    /// `table_size`: the clusters of an L1 or L2 table.
    pub table_size: u32,
    /// `header_size`: the clusters before the first that is data or a table.
    pub header_size: u32,
    /// `features`.
    pub features: u64,
    /// `compat_features`: none is known, and unknown ones do no harm.
    pub compat_features: u64,
    /// `autoclear_features`: none is known, and unknown ones do no harm.
    pub autoclear_features: u64,
    /// `l1_table_offset`, bytes.
    pub l1_table_offset: u64,
    /// `image_size`: the virtual size, bytes.
    pub image_size: u64,
    /// The backing file's name, and where it lies.
    pub backing_file: Option<(Vec<u8>, u64)>,
    span: Pow2,
}

impl Header {
    /// Reads and validates it.
    ///
    /// ```
    /// use diskimage::ErrorKind;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::qed::Header;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = vec![0; 8192];
    /// // `bytes` was made by hand
    /// let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    /// # put(0, b"QED\0");
    /// # put(4, &[4096u32, 1, 1].map(u32::to_le_bytes).concat());
    /// # put(40, &4096u64.to_le_bytes());
    /// # put(48, &8192u64.to_le_bytes());
    /// put(16, &(1u64 << 40).to_le_bytes()); // a feature that the specification does not know
    /// let storage = MemoryStorage::new(bytes);
    /// let mut options = LayerOptions::default();
    /// let error = Header::read(&storage, &options).unwrap_err();
    /// assert_eq!((error.kind(), error.offset()), (ErrorKind::Unsupported, Some(16)));
    /// options.trust_broken = true;
    /// assert_eq!(Header::read(&storage, &options)?.features, 1 << 40);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn read(storage: &dyn Storage, options: &LayerOptions) -> Result<Self> {
        let bytes = read_vec(storage, "the header", 0, 64)?;
        let mut cursor = LeCursor::new(&bytes, 0);
        if cursor.bytes(4, "the magic")? != MAGIC {
            return Err(Error::new(Fault::NotThis("QED")).at(0));
        }
        let cluster_size = cursor.u32("the header field cluster_size")?;
        let table_size = cursor.u32("the header field table_size")?;
        let header_size = cursor.u32("the header field header_size")?;
        let features = cursor.u64("the header field features")?;
        let compat_features = cursor.u64("the header field compat_features")?;
        let autoclear_features = cursor.u64("the header field autoclear_features")?;
        let l1_table_offset = cursor.u64("the header field l1_table_offset")?;
        let image_size = cursor.u64("the header field image_size")?;
        let name_offset = cursor.u32("the header field backing_filename_offset")?;
        let name_size = cursor.u32("the header field backing_filename_size")?;

        let unknown = features & !KNOWN_FEATURES;
        if unknown != 0 && !options.trust_broken {
            return Err(Error::new(Fault::UnknownFeatures(unknown)).at(AT_FEATURES));
        }
        let cluster = match Pow2::from_size(cluster_size.into()) {
            Some(cluster) if (12..=26).contains(&cluster.bits()) => cluster,
            _ => {
                let rule = "a power of two from 4 KiB to 64 MiB";
                return field("cluster_size", cluster_size, rule, AT_CLUSTER_SIZE);
            }
        };
        let table = match Pow2::from_size(table_size.into()) {
            Some(table) if table_size <= 16 => table,
            _ => return field("table_size", table_size, "1, 2, 4, 8 or 16", AT_TABLE_SIZE),
        };
        // entries of 8 bytes
        let table_bits = cluster.bits().saturating_add(table.bits()).saturating_sub(3);
        let bits = table_bits.saturating_add(cluster.bits());
        let span = Pow2::from_bits(bits).unwrap_or(cluster);
        if header_size == 0 {
            return field("header_size", header_size, "at least 1", AT_HEADER_SIZE);
        }
        if !image_size.is_multiple_of(512) || i64::try_from(image_size).is_err() {
            let rule = "a multiple of 512 below 2^63";
            return field("image_size", image_size, rule, AT_IMAGE_SIZE);
        }
        if span.count(image_size) > 1u64.wrapping_shl(table_bits) {
            return field("image_size", image_size, "what the tables can map", AT_IMAGE_SIZE);
        }
        let mut header = Self {
            cluster,
            table_size,
            header_size,
            features,
            compat_features,
            autoclear_features,
            l1_table_offset,
            image_size,
            backing_file: None,
            span,
        };
        check_inside(storage, "the header", 0, header.header_end())
            .map_err(|error| error.at(AT_HEADER_SIZE))?;
        if !cluster.is_aligned(l1_table_offset) || l1_table_offset < header.header_end() {
            let rule = "a multiple of cluster_size behind the header";
            return field("l1_table_offset", l1_table_offset, rule, AT_L1);
        }
        // the table is as long as any, but only what the disk needs is read
        let needed = span.count(image_size).saturating_mul(8);
        check_limit("L1 table", needed, options.limits.max_table_size)
            .and_then(|()| {
                check_inside(storage, "the L1 table", l1_table_offset, header.table_bytes())
            })
            .map_err(|error| error.at(AT_L1))?;
        if features & BACKING_FILE != 0 {
            let end = u64::from(name_offset).saturating_add(name_size.into());
            if end > header.header_end() {
                let rule = "inside the header's clusters";
                return field("backing_filename_offset", name_offset, rule, AT_BACKING);
            }
            let name = backing_name(storage, name_offset.into(), name_size);
            let name = name.map_err(|error| error.at(AT_BACKING))?;
            header.backing_file = Some((name, name_offset.into()));
        }
        Ok(header)
    }

    /// Where the header's clusters end.
    ///
    /// ```
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::qed::Header;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// let mut bytes = vec![0; 3 * 4096];
    /// let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    /// put(0, b"QED\0");
    /// put(4, &[4096u32, 1, 2].map(u32::to_le_bytes).concat()); // a header of two clusters
    /// put(40, &8192u64.to_le_bytes());
    /// let header = Header::read(&MemoryStorage::new(bytes), &LayerOptions::default())?;
    /// assert_eq!((header.header_end(), header.l1_table_offset), (8192, 8192));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn header_end(&self) -> u64 {
        self.cluster.size().saturating_mul(self.header_size.into())
    }

    /// The length of an L1 or L2 table.
    ///
    /// ```
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::qed::Header;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// let mut bytes = vec![0; 5 * 4096];
    /// let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    /// put(0, b"QED\0");
    /// put(4, &[4096u32, 4, 1].map(u32::to_le_bytes).concat()); // tables of four clusters
    /// put(40, &4096u64.to_le_bytes());
    /// let header = Header::read(&MemoryStorage::new(bytes), &LayerOptions::default())?;
    /// assert_eq!(header.table_bytes() / 8, 2048); // entries
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn table_bytes(&self) -> u64 {
        self.cluster.size().saturating_mul(self.table_size.into())
    }
}

/// A QED image as a layer.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::format::qed::QedLayer;
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Checking, Layer};
///
/// # let mut image = vec![0; 4 * 4096];
/// # let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
/// # put(0, b"QED\0");
/// # put(4, &[4096u32, 1, 1].map(u32::to_le_bytes).concat());
/// # put(40, &4096u64.to_le_bytes());
/// # put(48, &8192u64.to_le_bytes());
/// # put(4096, &8192u64.to_le_bytes());
/// # put(8192, &[12_288, 12_288].map(u64::to_le_bytes).concat());
/// // an image whose two L2 entries name the same cluster
/// let layer = QedLayer::open(Arc::new(MemoryStorage::new(image)), &LayerOptions::default())?;
/// assert_eq!(layer.header().image_size, 8192);
/// let checking = Checking::new();
/// layer.check(&checking)?;
/// assert_eq!(checking.into_report().corruptions, 1);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct QedLayer {
    storage: Arc<dyn Storage>,
    header: Header,
    references: Vec<Reference>,
    tables: TwoLevel,
}

impl QedLayer {
    /// Opens `storage` as a QED image. Nothing else is opened.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::Layer;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::qed::{BACKING_FILE, BACKING_FORMAT_NO_PROBE, QedLayer};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut image = vec![0; 2 * 4096];
    /// # let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
    /// # put(0, b"QED\0");
    /// # put(4, &[4096u32, 1, 1].map(u32::to_le_bytes).concat());
    /// # put(16, &(BACKING_FILE | BACKING_FORMAT_NO_PROBE).to_le_bytes());
    /// # put(40, &4096u64.to_le_bytes());
    /// # put(48, &8192u64.to_le_bytes());
    /// # put(56, &[64u32, 8].map(u32::to_le_bytes).concat());
    /// # put(64, b"base.raw");
    /// // whatever the backing file begins with, it is a raw disk
    /// let layer = QedLayer::open(Arc::new(MemoryStorage::new(image)), &LayerOptions::default())?;
    /// assert!(layer.header().features & BACKING_FORMAT_NO_PROBE != 0);
    /// let backing = &layer.references()[0];
    /// assert_eq!(backing.format.as_deref(), Some(&b"raw"[..]));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let header = Header::read(&storage, options)?;
        let raw = header.features & BACKING_FORMAT_NO_PROBE != 0;
        let parent = header.backing_file.clone().map(|(name, offset)| Reference {
            role: Role::Parent,
            names: vec![name],
            format: raw.then(|| b"raw".to_vec()),
            offset,
        });
        let tables = TwoLevel {
            cluster: header.cluster,
            span: header.span,
            size: header.image_size,
            l1_offset: header.l1_table_offset,
            number: LittleEndian::read_u64,
            cache: TableCache::new(Arc::clone(&storage), options.limits.table_cache),
        };
        Ok(Self { storage, header, references: Vec::from_iter(parent), tables })
    }

    /// The header.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::Layer;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::qed::{NEED_CHECK, QedLayer};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut image = vec![0; 8192];
    /// # let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
    /// # put(0, b"QED\0");
    /// # put(4, &[4096u32, 1, 1].map(u32::to_le_bytes).concat());
    /// # put(16, &NEED_CHECK.to_le_bytes());
    /// # put(40, &4096u64.to_le_bytes());
    /// # put(48, &8192u64.to_le_bytes());
    /// // `image` was made by hand
    /// let layer = QedLayer::open(Arc::new(MemoryStorage::new(image)), &LayerOptions::default())?;
    /// assert_eq!(layer.header().image_size, layer.size());
    /// assert_eq!(layer.header().features & NEED_CHECK != 0, layer.describe()?.dirty);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether a cluster or table can lie there: at a cluster, behind the header.
    fn is_place(&self, offset: u64) -> bool {
        self.header.cluster.is_aligned(offset) && offset >= self.header.header_end()
    }
}

impl Entries for QedLayer {
    fn table(&self, entry: u64) -> Result<Option<u64>> {
        if entry != 0 && !self.is_place(entry) {
            let (what, rule) = ("an L1 entry", "0 or the offset of a cluster behind the header");
            return Err(Fault::Entry { what, value: entry, rule }.into());
        }
        Ok(Some(entry).filter(|&entry| entry != 0))
    }

    fn cluster(&self, entry: u64) -> Result<MappingKind> {
        match entry {
            0 => Ok(MappingKind::Parent { stored: None }),
            ZERO_CLUSTER => Ok(MappingKind::Zero { allocated: true, stored: None }),
            offset if self.is_place(offset) => {
                Ok(MappingKind::Stored { source: Source::Own, offset })
            }
            value => {
                let rule = "0, 1 or the offset of a cluster behind the header";
                Err(Fault::Entry { what: "an L2 entry", value, rule }.into())
            }
        }
    }
}

impl Layer for QedLayer {
    fn format(&self) -> Format {
        Format::Qed
    }

    fn size(&self) -> u64 {
        self.header.image_size
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.header.cluster.size())
    }

    fn references(&self) -> &[Reference] {
        &self.references
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        self.tables.map(offset, max, self)
    }

    fn describe(&self) -> Result<Description> {
        let header = &self.header;
        let dirty = header.features & NEED_CHECK != 0;
        let mut description = Description { dirty, ..Description::default() };
        description.details = vec![
            ("table-size", header.table_size.into()),
            ("header-size", header.header_size.into()),
        ];
        for (name, bits) in [
            ("compat-features", header.compat_features),
            ("autoclear-features", header.autoclear_features),
        ] {
            if bits != 0 {
                description.details.push((name, bits.into()));
            }
        }
        let mut found = vec![Finding::new(Code::Qed, "is in the format QED").at(0)];
        for reference in &self.references {
            let text = format!("needs the backing file '{}'", reference.printable_name());
            found.push(Finding::new(Code::BackingFile, text).at(reference.offset));
        }
        if dirty {
            let text = "was not closed properly: its tables may contradict each other";
            found.push(Finding::new(Code::Dirty, text).at(AT_FEATURES));
        }
        let unknown = header.features & !KNOWN_FEATURES;
        if unknown != 0 {
            let text = format!("uses features that are not known: {unknown:#x}");
            found.push(Finding::new(Code::UnknownFeature, text).at(AT_FEATURES));
        }
        description.findings = found;
        Ok(description)
    }

    fn check(&self, checking: &Checking) -> Result<()> {
        check::check(self, checking)
    }
}
