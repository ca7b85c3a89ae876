//! QCOW version 1, QEMU's first format. There is no specification; the fields go by the names that
//! QEMU's and libqcow's descriptions give them. All numbers are big-endian.
//!
//! | | |
//! |---|---|
//! | read | clusters of 512 bytes to 64 KiB, deflate, sizes to the byte, backing files |
//! | checked | nothing: the format has nothing redundant |
//! | refused | AES encryption (named) |
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use diskimage::format::qcow::{HEADER_SIZE, MAGIC};
//! use diskimage::storage::MemoryStorage;
//! use diskimage::{OpenOptions, VirtualDisk};
//!
//! // the header and an L1 table, an L2 table, and the second of two clusters of 4096 bytes
//! let mut image = vec![0; 3 * 4096];
//! let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
//! put(0, &[MAGIC, 1].map(u32::to_be_bytes).concat());
//! put(24, &8192u64.to_be_bytes()); // size
//! put(32, &[12, 9]); // cluster_bits, l2_bits
//! put(40, &HEADER_SIZE.to_be_bytes()); // l1_table_offset
//! put(48, &4096u64.to_be_bytes()); // where the L2 table lies
//! put(4096 + 8, &8192u64.to_be_bytes()); // where the second cluster does
//! put(8192, b"guest");
//!
//! let storage = Arc::new(MemoryStorage::new(image));
//! let disk = OpenOptions::new().open_storage(storage, Path::new("disk.qcow"))?;
//! let mut bytes = [0; 5];
//! disk.read_exact_at(&mut bytes, 4096)?;
//! assert_eq!(&bytes, b"guest");
//! assert!(disk.extent_at(0, u64::MAX)?.kind.is_zero());
//! # Ok::<(), diskimage::Error>(())
//! ```

use std::sync::Arc;

use byteorder::{BigEndian, ByteOrder};

use crate::bytes::BeCursor;
use crate::check::Checking;
use crate::codec::Wrapper;
use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::format::fault::{Fault, backing_name, check_limit, field, nothing_to_check};
use crate::format::twolevel::{Entries, TwoLevel};
use crate::format::units::{Units, inflate};
use crate::format::{Format, LayerOptions};
use crate::layer::{Description, Layer, Mapping, MappingKind, Reference, Role, Source};
use crate::limits::Limits;
use crate::num::Pow2;
use crate::storage::{Storage, TableCache, check_inside, read_vec};

/// The magic: `QFI\xfb`.
pub const MAGIC: u32 = 0x5146_49fb;
/// The length of the header.
pub const HEADER_SIZE: u64 = 48;
/// The bit of an L2 entry that says that the cluster is compressed. Below it are the length of the
/// deflate stream, as many bits as the cluster size has, and its offset.
pub const COMPRESSED: u64 = 1 << 63;
/// `cluster_bits`: clusters of 512 bytes to 64 KiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u8> = 9..=16;
/// `l2_bits`: L2 tables of 512 bytes to 64 KiB.
const L2_BITS: std::ops::RangeInclusive<u8> = 6..=13;

const AT_BACKING: u64 = 8;
const AT_SIZE: u64 = 24;
const AT_CLUSTER_BITS: u64 = 32;
const AT_L2_BITS: u64 = 33;
const AT_CRYPT_METHOD: u64 = 36;
const AT_L1: u64 = 40;

/// The header.
///
/// ```
/// use diskimage::Limits;
/// use diskimage::format::qcow::Header;
/// use diskimage::storage::MemoryStorage;
///
/// let mut bytes = b"QFI\xfb\0\0\0\x01".to_vec();
/// bytes.extend(56u64.to_be_bytes()); // backing_file_offset
/// bytes.extend([4, 0].map(u32::to_be_bytes).concat()); // its length; mtime
/// bytes.extend((1u64 << 20).to_be_bytes()); // size
/// bytes.extend([12, 9, 0, 0, 0, 0, 0, 0]); // cluster_bits, l2_bits, padding, crypt_method
/// bytes.extend(48u64.to_be_bytes()); // l1_table_offset
/// bytes.extend([0; 8]); // an entry for 2 MiB
/// bytes.extend(b"base");
///
/// let header = Header::read(&MemoryStorage::new(bytes), &Limits::default())?;
/// assert_eq!((header.size, header.cluster.size(), header.encrypted), (1 << 20, 4096, false));
/// assert_eq!(header.l2_entries.size(), 512);
/// assert_eq!(header.backing_file, Some((b"base".to_vec(), 56)));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// `mtime`: when the backing file was changed last, seconds since 1970 began. QEMU writes 0.
    pub mtime: u32,
    /// `size`: the virtual size, bytes.
    pub size: u64,
    /// `cluster_bits`, as a size.
    pub cluster: Pow2,
    /// `l2_bits`: the number of entries of an L2 table.
    pub l2_entries: Pow2,
    /// `crypt_method`: 1 is AES.
    pub encrypted: bool,
    /// `l1_table_offset`, bytes.
    pub l1_table_offset: u64,
    /// The backing file's name, and where it lies.
    pub backing_file: Option<(Vec<u8>, u64)>,
    span: Pow2,
}

impl Header {
    /// Reads and validates it.
    ///
    /// ```
    /// use diskimage::Limits;
    /// use diskimage::format::qcow::{HEADER_SIZE, Header, MAGIC};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// let mut bytes = vec![0; 56];
    /// let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    /// put(0, &[MAGIC, 1].map(u32::to_be_bytes).concat());
    /// put(24, &(1u64 << 20).to_be_bytes());
    /// put(32, &[12, 9]);
    /// put(36, &1u32.to_be_bytes()); // crypt_method: AES
    /// put(40, &HEADER_SIZE.to_be_bytes());
    /// assert!(Header::read(&MemoryStorage::new(bytes.clone()), &Limits::default())?.encrypted);
    ///
    /// bytes[32] = 30; // clusters of 1 GiB
    /// let error = Header::read(&MemoryStorage::new(bytes), &Limits::default()).unwrap_err();
    /// assert_eq!(error.offset(), Some(32));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn read(storage: &dyn Storage, limits: &Limits) -> Result<Self> {
        let bytes = read_vec(storage, "the header", 0, 48)?;
        let mut cursor = BeCursor::new(&bytes, 0);
        if cursor.u32("the magic")? != MAGIC || cursor.u32("the version")? != 1 {
            return Err(Error::new(Fault::NotThis("QCOW version 1")).at(0));
        }
        let backing_offset = cursor.u64("the header field backing_file_offset")?;
        let backing_size = cursor.u32("the header field backing_file_size")?;
        let mtime = cursor.u32("the header field mtime")?;
        let size = cursor.u64("the header field size")?;
        let cluster_bits = cursor.u8("the header field cluster_bits")?;
        let l2_bits = cursor.u8("the header field l2_bits")?;
        cursor.u16("the header's padding")?;
        let crypt_method = cursor.u32("the header field crypt_method")?;
        let l1_table_offset = cursor.u64("the header field l1_table_offset")?;
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return field("cluster_bits", cluster_bits, "9 to 16", AT_CLUSTER_BITS);
        }
        if !L2_BITS.contains(&l2_bits) {
            return field("l2_bits", l2_bits, "6 to 13", AT_L2_BITS);
        }
        let bits = |bits: u8| Pow2::from_bits(bits.into()).unwrap_or(Pow2::SECTOR);
        let span = bits(cluster_bits.saturating_add(l2_bits));
        if i64::try_from(size).is_err() {
            return field("size", size, "below 2^63", AT_SIZE);
        }
        if crypt_method > 1 {
            return field("crypt_method", crypt_method, "0 or 1", AT_CRYPT_METHOD);
        }
        let l1_size = span.count(size).saturating_mul(8);
        check_limit("L1 table", l1_size, limits.max_table_size)
            .and_then(|()| check_inside(storage, "the L1 table", l1_table_offset, l1_size))
            .map_err(|error| error.at(AT_L1))?;
        if l1_table_offset < HEADER_SIZE && l1_size > 0 {
            return field("l1_table_offset", l1_table_offset, "behind the header", AT_L1);
        }
        let backing_file = match backing_offset {
            0 => None,
            offset => {
                let name = backing_name(storage, offset, backing_size);
                Some((name.map_err(|error| error.at(AT_BACKING))?, offset))
            }
        };
        Ok(Self {
            mtime,
            size,
            cluster: bits(cluster_bits),
            l2_entries: bits(l2_bits),
            encrypted: crypt_method == 1,
            l1_table_offset,
            backing_file,
            span,
        })
    }
}

/// A QCOW version 1 image as a layer.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::LayerOptions;
/// use diskimage::format::qcow::QcowLayer;
/// use diskimage::layer::{MappingKind, Source};
/// use diskimage::storage::MemoryStorage;
///
/// # let mut image = vec![0; 3 * 4096];
/// # let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
/// # put(0, b"QFI\xfb\0\0\0\x01");
/// # put(24, &8192u64.to_be_bytes());
/// # put(32, &[12, 9]);
/// # put(40, &48u64.to_be_bytes());
/// # put(48, &4096u64.to_be_bytes());
/// # put(4096, &8192u64.to_be_bytes());
/// // two clusters, of which the first was written
/// let layer = QcowLayer::open(Arc::new(MemoryStorage::new(image)), &LayerOptions::default())?;
/// assert_eq!(layer.header().cluster.size(), 4096);
/// let stored = layer.map(0, u64::MAX)?;
/// assert_eq!(stored.kind, MappingKind::Stored { source: Source::Own, offset: 8192 });
/// // the other one is the backing file's, if there were one
/// assert_eq!(layer.map(4096, u64::MAX)?.kind, MappingKind::Parent { stored: None });
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct QcowLayer {
    storage: Arc<dyn Storage>,
    header: Header,
    references: Vec<Reference>,
    tables: TwoLevel,
    units: Units,
}

impl QcowLayer {
    /// Opens `storage` as a QCOW version 1 image. Nothing else is opened.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::Layer;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::qcow::QcowLayer;
    /// use diskimage::layer::Role;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut image = vec![0; 4096];
    /// # let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
    /// # put(0, b"QFI\xfb\0\0\0\x01");
    /// # put(8, &56u64.to_be_bytes());
    /// # put(16, &8u32.to_be_bytes());
    /// # put(24, &8192u64.to_be_bytes());
    /// # put(32, &[12, 9]);
    /// # put(40, &48u64.to_be_bytes());
    /// # put(56, b"base.raw");
    /// // an image with a backing file, which is named and not opened
    /// let layer = QcowLayer::open(Arc::new(MemoryStorage::new(image)), &LayerOptions::default())?;
    /// let [backing] = layer.references() else { panic!("one reference") };
    /// assert_eq!((backing.role, &*backing.printable_name()), (Role::Parent, "base.raw"));
    /// assert_eq!(backing.format, None); // version 1 does not tell
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let header = Header::read(&storage, &options.limits)?;
        let parent = header.backing_file.clone().map(|(name, offset)| Reference {
            role: Role::Parent,
            names: vec![name],
            format: None,
            offset,
        });
        let tables = TwoLevel {
            cluster: header.cluster,
            span: header.span,
            size: header.size,
            l1_offset: header.l1_table_offset,
            number: BigEndian::read_u64,
            cache: TableCache::new(Arc::clone(&storage), options.limits.table_cache),
        };
        let units = Units::new(header.cluster.size());
        Ok(Self { storage, header, references: Vec::from_iter(parent), tables, units })
    }

    /// The header.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::Layer;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::qcow::QcowLayer;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut image = vec![0; 4096];
    /// # let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
    /// # put(0, b"QFI\xfb\0\0\0\x01");
    /// # put(24, &(3u64 << 20).to_be_bytes());
    /// # put(32, &[12, 9]);
    /// # put(40, &48u64.to_be_bytes());
    /// // `image` was made by hand
    /// let layer = QcowLayer::open(Arc::new(MemoryStorage::new(image)), &LayerOptions::default())?;
    /// let header = layer.header();
    /// assert_eq!(layer.size(), header.size);
    /// assert_eq!(layer.cluster_size(), Some(header.cluster.size()));
    /// // what one L2 table maps
    /// assert_eq!(header.cluster.offset_of(header.l2_entries.size()), Some(2 << 20));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The offset and the length of a compressed cluster.
    fn compressed(&self, entry: u64) -> (u64, u64) {
        let bits = self.header.cluster.bits();
        let shift = 63u32.saturating_sub(bits);
        let offset = entry & 1u64.wrapping_shl(shift).wrapping_sub(1);
        let length = self.header.cluster.within(entry.wrapping_shr(shift));
        (offset, length)
    }

    fn decode(&self, cluster: u64, unit: &mut [u8]) -> Result<()> {
        let start = self.header.cluster.offset_of(cluster).unwrap_or(u64::MAX);
        let guest = start..start.saturating_add(self.header.cluster.size());
        match self.tables.entry(start, self)? {
            Some((entry, at)) if entry & COMPRESSED != 0 => {
                let (offset, length) = self.compressed(entry);
                let bytes = offset..offset.saturating_add(length);
                inflate(&self.storage, bytes, Wrapper::Raw, unit, guest)
                    .map_err(|error| error.at(at))
            }
            _ => Err(Error::other(crate::ErrorKind::InvalidInput, "is not compressed")),
        }
    }
}

impl Entries for QcowLayer {
    fn table(&self, entry: u64) -> Result<Option<u64>> {
        if entry != 0 && entry < HEADER_SIZE {
            let (what, rule) = ("an L1 entry", "0 or the offset of an L2 table");
            return Err(Fault::Entry { what, value: entry, rule }.into());
        }
        Ok(Some(entry).filter(|&entry| entry != 0))
    }

    fn cluster(&self, entry: u64) -> Result<MappingKind> {
        let bad = |rule| Err(Fault::Entry { what: "an L2 entry", value: entry, rule }.into());
        if entry == 0 {
            return Ok(MappingKind::Parent { stored: None });
        }
        if entry & COMPRESSED == 0 {
            if entry < HEADER_SIZE {
                return bad("0 or the offset of a cluster");
            }
            return Ok(MappingKind::Stored { source: Source::Own, offset: entry });
        }
        let (offset, length) = self.compressed(entry);
        if length == 0 {
            return bad("the length of a compressed cluster, and is of none");
        }
        check_inside(&self.storage, "a compressed cluster", offset, length)?;
        Ok(MappingKind::Encoded)
    }
}

impl Layer for QcowLayer {
    fn format(&self) -> Format {
        Format::Qcow
    }

    fn size(&self) -> u64 {
        self.header.size
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.header.cluster.size())
    }

    fn references(&self) -> &[Reference] {
        &self.references
    }

    fn check_readable(&self) -> Result<()> {
        if self.header.encrypted {
            return Err(Error::new(Fault::Encrypted("AES")).at(AT_CRYPT_METHOD));
        }
        Ok(())
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        self.tables.map(offset, max, self)
    }

    fn read_encoded(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check_readable()?;
        self.units.read(buf, offset, |cluster, unit| self.decode(cluster, unit))
    }

    fn describe(&self) -> Result<Description> {
        let header = &self.header;
        let mut description = Description { encrypted: header.encrypted, ..Description::default() };
        description.details.push(("l2-entries", header.l2_entries.size().into()));
        if header.mtime != 0 {
            description.details.push(("mtime", header.mtime.into()));
        }
        for reference in &self.references {
            let text = format!("needs the backing file '{}'", reference.printable_name());
            let finding = Finding::new(Code::BackingFile, text).at(reference.offset);
            description.findings.push(finding);
        }
        if header.encrypted {
            description.details.push(("encryption", "aes".into()));
            let finding = Finding::new(Code::Encrypted, "is encrypted by the legacy AES method");
            description.findings.push(finding.at(AT_CRYPT_METHOD));
        }
        Ok(description)
    }

    fn check(&self, _checking: &Checking) -> Result<()> {
        Err(nothing_to_check(Format::Qcow))
    }
}
