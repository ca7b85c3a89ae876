//! The header ("Header").

use crate::bytes::BeCursor;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::{Storage, read_vec};

use super::error::Qcow2Detail;
use super::extension::Extensions;
use super::layout::*;

/// A header whose fields make sense together, and within the file it was read from.
///
/// ```
/// use diskimage::Limits;
/// use diskimage::format::qcow2::{Header, Qcow2Options};
/// use diskimage::storage::MemoryStorage;
///
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = Box::new(Qcow2Options::new().extended_l2(true).writer(1 << 40)?);
/// # diskimage::Convert::new().create(writer, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of an empty disk
/// let header = Header::read(&MemoryStorage::new(bytes.clone()), &Limits::default(), false)?;
/// assert_eq!((header.version, header.size, header.cluster.size()), (3, 1 << 40, 64 << 10));
/// assert_eq!((header.refcount_order, header.header_length), (4, 112)); // counts of 16 bits
/// // an L2 table fills a cluster, and its entries are of 16 bytes here
/// assert!(header.extended_l2());
/// assert_eq!((header.l2_entry_size().size(), header.l2_span().size()), (16, 256 << 20));
///
/// bytes[79] |= 0b11; // incompatible features 0 and 1
/// let header = Header::read(&MemoryStorage::new(bytes), &Limits::default(), false)?;
/// assert!(header.is_dirty() && header.is_marked_corrupt());
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// The cluster size.
    pub cluster: Pow2,
    /// Virtual disk size in bytes.
    pub size: u64,
    /// How guest data are encrypted.
    pub crypt_method: CryptMethod,
    /// Number of entries in the active L1 table.
    pub l1_size: u32,
    /// Offset of the active L1 table.
    pub l1_table_offset: u64,
    /// Offset of the refcount table.
    pub refcount_table_offset: u64,
    /// Number of clusters that the refcount table occupies.
    pub refcount_table_clusters: u32,
    /// Number of snapshots.
    pub nb_snapshots: u32,
    /// Offset of the snapshot table.
    pub snapshots_offset: u64,
    /// Bitmask of incompatible features.
    pub incompatible_features: u64,
    /// Bitmask of compatible features.
    pub compatible_features: u64,
    /// Bitmask of autoclear features.
    pub autoclear_features: u64,
    /// Width of a reference count is `1 << refcount_order` bits.
    pub refcount_order: u32,
    /// Length of the header structure in bytes.
    pub header_length: u32,
    /// How compressed clusters are compressed.
    pub compression_type: CompressionType,
    /// The backing file's name, as bytes, and its offset.
    pub backing_file: Option<(Vec<u8>, u64)>,
    /// The header extensions.
    pub extensions: Extensions,
}

/// How guest data are encrypted.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::format::qcow2::Qcow2Options;
/// use diskimage::format::qcow2::{CryptMethod, Qcow2Layer};
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{ErrorKind, Layer};
///
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = Box::new(Qcow2Options::new().writer(1 << 20)?);
/// # diskimage::Convert::new().create(writer, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of an empty disk
/// bytes[35] = 1; // crypt_method
/// let layer = Qcow2Layer::open(Arc::new(MemoryStorage::new(bytes)), &LayerOptions::default())?;
/// assert_eq!(layer.header().crypt_method, CryptMethod::Aes);
/// // it is described, and its data are not given out
/// assert!(layer.describe()?.encrypted);
/// assert_eq!(layer.check_readable().unwrap_err().kind(), ErrorKind::Unsupported);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CryptMethod {
    /// Not at all.
    None,
    /// AES-CBC with the passphrase as key, the legacy method.
    Aes,
    /// LUKS, its header inside of the file.
    Luks,
}

/// How compressed clusters are compressed.
///
/// ```
/// use diskimage::format::qcow2::{CompressionType, Qcow2Options};
///
/// assert_eq!(CompressionType::Zlib.name(), "zlib");
/// // version 2 knows no other
/// let old = Qcow2Options::new().version(2);
/// assert!(old.clone().compression_type(CompressionType::Zlib).writer(1 << 20).is_ok());
/// assert!(old.compression_type(CompressionType::Zstd).writer(1 << 20).is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompressionType {
    /// Bare deflate, which the specification calls zlib.
    Zlib,
    /// Zstandard.
    Zstd,
    /// Unknown: no compressed cluster can be read.
    Unknown(u8),
}

impl CompressionType {
    /// QEMU's name for it.
    ///
    /// ```
    /// use diskimage::format::qcow2::CompressionType;
    ///
    /// assert_eq!(CompressionType::Zstd.name(), "zstd");
    /// assert_eq!(CompressionType::Unknown(7).name(), "unknown");
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// How much of the first cluster is read before it is known that more is needed.
const NEAR: usize = 64 << 10;

impl Header {
    /// Reads and validates the header at the start of `storage`.
    ///
    /// With `trust_broken`, unknown incompatible features and a misplaced refcount table pass, which
    /// reading does not need; all other bounds hold nevertheless.
    ///
    /// ```
    /// use diskimage::format::qcow2::Header;
    /// use diskimage::format::qcow2::Qcow2Options;
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{ErrorKind, Limits};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(Qcow2Options::new().writer(1 << 20)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// bytes[72] = 1; // a feature of bit 56
    /// let storage = MemoryStorage::new(bytes);
    /// let read = |trust| Header::read(&storage, &Limits::default(), trust);
    /// let error = read(false).unwrap_err();
    /// assert_eq!((error.kind(), error.offset()), (ErrorKind::Unsupported, Some(72)));
    /// assert_eq!(read(true)?.incompatible_features, 1 << 56);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn read(storage: &dyn Storage, limits: &Limits, trust_broken: bool) -> Result<Self> {
        // the largest cluster bounds the header with its extensions and names; read it in two
        // steps, since the first tells the cluster size
        let first = read_vec(storage, "the header", 0, to_usize(storage.size().min(112)))?;
        let mut cursor = BeCursor::new(&first, 0);
        let mut header = Self::parse(&mut cursor)?;
        let backing = (cursor_u64(&first, 8), cursor_u32(&first, 16));
        let area = header.cluster.size().min(storage.size());
        header.read_rest(storage, to_usize(area), backing, trust_broken)?;
        header.validate(storage, limits, trust_broken)?;
        Ok(header)
    }

    /// Parses the fixed fields.
    fn parse(cursor: &mut BeCursor<'_>) -> Result<Self> {
        let field = |field, value, rule, at| {
            Err(Error::new(Qcow2Detail::Field { field, value, rule }).at(at))
        };
        let magic = cursor.u32("the header")?;
        if magic != MAGIC {
            return Err(Error::new(Qcow2Detail::NotQcow2(magic)).at(0));
        }
        let version = cursor.u32("the header field version")?;
        if !matches!(version, 2 | 3) {
            return Err(Error::new(Qcow2Detail::Version(version)).at(4));
        }
        cursor.u64("the header field backing_file_offset")?;
        cursor.u32("the header field backing_file_size")?;
        let cluster_bits = cursor.u32("the header field cluster_bits")?;
        let cluster = match cluster_bits {
            MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS => Pow2::from_bits(cluster_bits),
            22..=30 => return Err(Error::new(Qcow2Detail::LargeClusters(cluster_bits)).at(20)),
            _ => None,
        };
        let Some(cluster) = cluster else {
            return field("cluster_bits", cluster_bits.into(), "9 to 21", 20);
        };
        let size = cursor.u64("the header field size")?;
        let crypt_method = match cursor.u32("the header field crypt_method")? {
            0 => CryptMethod::None,
            1 => CryptMethod::Aes,
            2 => CryptMethod::Luks,
            other => return field("crypt_method", other.into(), "0, 1 or 2", 32),
        };
        let l1_size = cursor.u32("the header field l1_size")?;
        let l1_table_offset = cursor.u64("the header field l1_table_offset")?;
        let refcount_table_offset = cursor.u64("the header field refcount_table_offset")?;
        let refcount_table_clusters = cursor.u32("the header field refcount_table_clusters")?;
        let nb_snapshots = cursor.u32("the header field nb_snapshots")?;
        let snapshots_offset = cursor.u64("the header field snapshots_offset")?;
        let mut header = Self {
            version,
            cluster,
            size,
            crypt_method,
            l1_size,
            l1_table_offset,
            refcount_table_offset,
            refcount_table_clusters,
            nb_snapshots,
            snapshots_offset,
            incompatible_features: 0,
            compatible_features: 0,
            autoclear_features: 0,
            refcount_order: V2_REFCOUNT_ORDER,
            header_length: V2_HEADER_LENGTH,
            compression_type: CompressionType::Zlib,
            backing_file: None,
            extensions: Extensions::default(),
        };
        if version >= 3 {
            header.parse_version_3(cursor)?;
        }
        Ok(header)
    }

    fn parse_version_3(&mut self, cursor: &mut BeCursor<'_>) -> Result<()> {
        self.incompatible_features = cursor.u64("the header field incompatible_features")?;
        self.compatible_features = cursor.u64("the header field compatible_features")?;
        self.autoclear_features = cursor.u64("the header field autoclear_features")?;
        self.refcount_order = cursor.u32("the header field refcount_order")?;
        self.header_length = cursor.u32("the header field header_length")?;
        let length = self.header_length;
        let fits = u64::from(length) <= self.cluster.size();
        if length < V3_MIN_HEADER_LENGTH || !length.is_multiple_of(8) || !fits {
            let rule = "a multiple of 8 from 104 to the cluster size";
            let detail = Qcow2Detail::Field { field: "header_length", value: length.into(), rule };
            return Err(Error::new(detail).at(100));
        }
        if self.refcount_order > MAX_REFCOUNT_ORDER {
            let (value, rule) = (self.refcount_order.into(), "at most 6");
            let detail = Qcow2Detail::Field { field: "refcount_order", value, rule };
            return Err(Error::new(detail).at(96));
        }
        let present = length > V3_MIN_HEADER_LENGTH;
        let compression =
            if present { cursor.u8("the header field compression_type")? } else { 0 };
        let bit = self.incompatible_features & INCOMPATIBLE_COMPRESSION_TYPE != 0;
        if bit != (compression != 0) {
            let rule = if bit {
                "other than 0, since the incompatible feature 'compression type' is set"
            } else {
                "0, since the incompatible feature 'compression type' is not set"
            };
            let value = compression.into();
            let detail = Qcow2Detail::Field { field: "compression_type", value, rule };
            return Err(Error::new(detail).at(104));
        }
        self.compression_type = match compression {
            0 => CompressionType::Zlib,
            1 => CompressionType::Zstd,
            other => CompressionType::Unknown(other),
        };
        Ok(())
    }

    /// Reads what follows the fixed fields in the first cluster: extensions, backing file name.
    fn read_rest(
        &mut self,
        storage: &dyn Storage,
        area: usize,
        (backing_offset, backing_size): (u64, u32),
        trust_broken: bool,
    ) -> Result<()> {
        let start = to_usize(self.header_length.into());
        if start > area {
            let (what, size) = ("header", storage.size());
            return Err(Error::new(Qcow2Detail::BeyondEnd { what, start: 0, size }).at(size));
        }
        // the extension area ends where the backing file name begins, or with the cluster
        let end = match backing_offset {
            0 => area,
            offset => to_usize(offset).clamp(start, area),
        };
        // nearly always they end long before the cluster, which may be 2 MiB
        let mut bytes = read_vec(storage, "the header", 0, end.min(NEAR))?;
        if end > NEAR && !Extensions::end_within(bytes.get(start..).unwrap_or_default()) {
            bytes = read_vec(storage, "the header", 0, end)?;
        }
        let bytes = bytes.get(start..).unwrap_or_default();
        self.extensions = Extensions::parse(bytes, to_u64(start))?;

        let unknown = self.incompatible_features & !INCOMPATIBLE_KNOWN;
        if unknown != 0 && !trust_broken {
            let names = self.extensions.feature_names(0, unknown);
            return Err(Error::new(Qcow2Detail::UnknownFeatures(names)).at(72));
        }
        if let CompressionType::Unknown(other) = self.compression_type
            && !trust_broken
        {
            return Err(Error::new(Qcow2Detail::CompressionType(other)).at(104));
        }
        if backing_offset == 0 {
            return Ok(());
        }
        let bad = |why| Err(Error::new(Qcow2Detail::BadName("backing file name", why)).at(8));
        if backing_size == 0 {
            return bad("announced, but empty");
        }
        if backing_size > MAX_NAME_LENGTH {
            return bad("longer than 1023 bytes");
        }
        let behind = backing_offset.checked_add(backing_size.into());
        if behind.is_none_or(|behind| behind > to_u64(area)) {
            return bad("not inside of the first cluster");
        }
        let length = to_usize(backing_size.into());
        let name = read_vec(storage, "the backing file name", backing_offset, length)?;
        if name.contains(&0) {
            return bad("cut by a NUL byte");
        }
        self.backing_file = Some((name, backing_offset));
        Ok(())
    }

    /// Holds the fields against each other, the limits and the file's length.
    fn validate(&self, storage: &dyn Storage, limits: &Limits, trust_broken: bool) -> Result<()> {
        if self.extended_l2() && self.cluster.bits() < MIN_EXTENDED_L2_CLUSTER_BITS {
            let (value, rule) =
                (self.cluster.bits().into(), "at least 14 with extended L2 entries");
            let detail = Qcow2Detail::Field { field: "cluster_bits", value, rule };
            return Err(Error::new(detail).at(20));
        }
        self.check_l1(storage, limits, self.l1_table_offset, self.l1_size, self.size)
            .map_err(|error| error.at(40))?;
        match self.check_refcount_table(storage) {
            Err(_) if trust_broken => {}
            other => other?,
        }
        self.check_data_file()
    }

    /// Holds the place and the size of the refcount table against the file.
    pub(super) fn check_refcount_table(&self, storage: &dyn Storage) -> Result<()> {
        let clusters = u64::from(self.refcount_table_clusters);
        let table = self.cluster.offset_of(clusters).unwrap_or(u64::MAX);
        if clusters == 0 {
            let rule = "at least 1";
            let detail = Qcow2Detail::Field { field: "refcount_table_clusters", value: 0, rule };
            return Err(Error::new(detail).at(56));
        }
        if table > MAX_REFCOUNT_TABLE_SIZE {
            let (what, limit) = ("refcount table", MAX_REFCOUNT_TABLE_SIZE);
            return Err(Error::new(Qcow2Detail::TooLarge { what, size: table, limit }).at(56));
        }
        self.check_table(storage, "refcount table", self.refcount_table_offset, table)
            .map_err(|error| error.at(48))
    }

    /// Holds an L1 table (the active one, a snapshot's) against the disk size it maps.
    pub(super) fn check_l1(
        &self,
        storage: &dyn Storage,
        limits: &Limits,
        offset: u64,
        entries: u32,
        size: u64,
    ) -> Result<()> {
        let table = u64::from(entries).saturating_mul(8);
        let limit = limits.max_table_size.min(MAX_L1_TABLE_SIZE);
        if table > limit {
            let what = "L1 table";
            return Err(Qcow2Detail::TooLarge { what, size: table, limit }.into());
        }
        let needed = self.l2_span().count(size);
        if u64::from(entries) < needed {
            return Err(Qcow2Detail::L1TooSmall { entries: entries.into(), needed, size }.into());
        }
        if entries == 0 {
            return Ok(());
        }
        self.check_table(storage, "L1 table", offset, table)
    }

    /// Refuses a table that is not aligned to a cluster, or not within the file.
    pub(super) fn check_table(
        &self,
        storage: &dyn Storage,
        what: &'static str,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        if !self.cluster.is_aligned(offset) || offset == 0 {
            let rule = "at a multiple of the cluster size, behind the header";
            return Err(Qcow2Detail::Misplaced { what, offset, rule }.into());
        }
        match offset.checked_add(length) {
            Some(end) if end <= storage.size() => Ok(()),
            _ => Err(Qcow2Detail::BeyondEnd { what, start: offset, size: storage.size() }.into()),
        }
    }

    fn check_data_file(&self) -> Result<()> {
        if !self.data_file_raw() {
            return Ok(());
        }
        if !self.has_data_file() {
            let why = "without an external data file";
            return Err(Error::new(Qcow2Detail::RawDataFile(why)).at(88));
        }
        if self.backing_file.is_some() {
            let why = "together with a backing file";
            return Err(Error::new(Qcow2Detail::RawDataFile(why)).at(88));
        }
        Ok(())
    }

    /// Whether L2 entries are 16 bytes long and have subclusters.
    ///
    /// ```
    /// use diskimage::Limits;
    /// use diskimage::format::qcow2::{Header, Qcow2Options};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(Qcow2Options::new().extended_l2(true).writer(1 << 20)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let header = Header::read(&MemoryStorage::new(bytes), &Limits::default(), false)?;
    /// assert!(header.extended_l2());
    /// assert_eq!(header.cluster.size() / 32, 2048); // of a subcluster
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn extended_l2(&self) -> bool {
        self.incompatible_features & INCOMPATIBLE_EXTENDED_L2 != 0
    }

    /// Whether guest data lie in another file.
    ///
    /// ```
    /// use diskimage::Limits;
    /// use diskimage::format::qcow2::{Header, Qcow2Options};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(Qcow2Options::new().writer(1 << 20)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let header = Header::read(&MemoryStorage::new(bytes), &Limits::default(), false)?;
    /// assert!(!header.has_data_file()); // clusters lie in the image itself
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn has_data_file(&self) -> bool {
        self.incompatible_features & INCOMPATIBLE_DATA_FILE != 0
    }

    /// Whether that file is a raw disk by itself.
    ///
    /// ```
    /// use diskimage::Limits;
    /// use diskimage::format::qcow2::{Header, Qcow2Options};
    /// use diskimage::storage::FileStorage;
    ///
    /// # use diskimage::{Convert, Target, Writer, target::FilesTarget};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("tables.qcow2");
    /// let options = Qcow2Options::new().data_file("data.raw", true);
    /// # let writer = options.writer(1 << 20)?;
    /// # let target = FilesTarget::create(&path, writer.files())?.durable(false);
    /// # Convert::new().create(Box::new(writer), &target)?;
    /// # Box::new(target).finish()?;
    /// let header = Header::read(&FileStorage::open(&path)?, &Limits::default(), false)?;
    /// assert!(options.has_data_file() && header.has_data_file());
    /// assert!(header.data_file_raw()); // whoever writes to it keeps `data.raw` a disk by itself
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn data_file_raw(&self) -> bool {
        self.autoclear_features & AUTOCLEAR_DATA_FILE_RAW != 0
    }

    /// Whether the image was not closed properly.
    ///
    /// ```
    /// use diskimage::Limits;
    /// use diskimage::format::qcow2::{Header, Qcow2Options};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(Qcow2Options::new().lazy_refcounts(true).writer(1 << 20)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// bytes[79] |= 1; // as QEMU leaves it when it is killed
    /// let header = Header::read(&MemoryStorage::new(bytes), &Limits::default(), false)?;
    /// assert!(header.is_dirty() && !header.is_marked_corrupt());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.incompatible_features & INCOMPATIBLE_DIRTY != 0
    }

    /// Whether the image is marked as corrupt.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::qcow2::{Qcow2Layer, Qcow2Options};
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{ErrorKind, Layer};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(Qcow2Options::new().writer(1 << 20)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// bytes[79] |= 2;
    /// let storage = Arc::new(MemoryStorage::new(bytes));
    /// let layer = Qcow2Layer::open(storage, &LayerOptions::default())?;
    /// assert!(layer.header().is_marked_corrupt());
    /// // its data are not given out unless somebody says that they are to be trusted
    /// assert_eq!(layer.check_readable().unwrap_err().kind(), ErrorKind::Corrupt);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn is_marked_corrupt(&self) -> bool {
        self.incompatible_features & INCOMPATIBLE_CORRUPT != 0
    }

    /// The size of an L2 entry: 8 or 16 bytes.
    ///
    /// ```
    /// use diskimage::Limits;
    /// use diskimage::format::qcow2::{Header, Qcow2Options};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(Qcow2Options::new().writer(1 << 20)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let header = Header::read(&MemoryStorage::new(bytes), &Limits::default(), false)?;
    /// let entries = header.cluster.size() / header.l2_entry_size().size(); // of an L2 table
    /// assert_eq!(entries, 8192);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn l2_entry_size(&self) -> Pow2 {
        let bits = if self.extended_l2() { 4 } else { 3 };
        Pow2::from_bits(bits).unwrap_or(self.cluster)
    }

    /// How many guest bytes one L2 table, which fills a cluster, maps.
    ///
    /// ```
    /// use diskimage::Limits;
    /// use diskimage::format::qcow2::{Header, Qcow2Options};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(Qcow2Options::new().writer(10 << 30)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let header = Header::read(&MemoryStorage::new(bytes), &Limits::default(), false)?;
    /// assert_eq!(header.l2_span().size(), 512 << 20);
    /// // an L1 entry for each of them
    /// assert_eq!(header.l2_span().count(header.size), u64::from(header.l1_size));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn l2_span(&self) -> Pow2 {
        let entries = self.cluster.bits().saturating_sub(self.l2_entry_size().bits());
        Pow2::from_bits(self.cluster.bits().saturating_add(entries)).unwrap_or(self.cluster)
    }
}

fn cursor_u64(bytes: &[u8], at: usize) -> u64 {
    BeCursor::new(bytes.get(at..).unwrap_or_default(), 0).u64("").unwrap_or_default()
}

fn cursor_u32(bytes: &[u8], at: usize) -> u32 {
    BeCursor::new(bytes.get(at..).unwrap_or_default(), 0).u32("").unwrap_or_default()
}
