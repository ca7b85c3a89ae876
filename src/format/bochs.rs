//! Bochs growing disks, by the Bochs development guide, section "Harddisk Images based on redologs".
//! All numbers are little-endian.
//!
//! | | |
//! |---|---|
//! | read | growing redologs of versions 1 and 2, sector bitmaps |
//! | checked | nothing: the format has nothing redundant |
//! | refused | other types and subtypes (undoable, volatile), by name |
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use diskimage::format::bochs::{GROWING, MAGIC, NOT_ALLOCATED, REDOLOG, VERSION_1};
//! use diskimage::storage::MemoryStorage;
//! use diskimage::{OpenOptions, VirtualDisk};
//!
//! // two extents of 4096 bytes; the second is in the file, and only its first sector was written
//! let mut image = vec![0; 512 + 8 + 512 + 4096];
//! let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
//! put(0, MAGIC);
//! put(0x20, REDOLOG);
//! put(0x30, GROWING);
//! put(0x40, &[VERSION_1, 512, 2, 1, 4096].map(u32::to_le_bytes).concat()); // header to extent
//! put(0x54, &8192u64.to_le_bytes()); // the disk
//! put(512, &[NOT_ALLOCATED, 0].map(u32::to_le_bytes).concat()); // the catalog
//! put(520, &[0b0000_0001]); // the bitmap
//! put(520 + 512, b"guest");
//!
//! let storage = Arc::new(MemoryStorage::new(image));
//! let disk = OpenOptions::new().open_storage(storage, Path::new("c.img"))?;
//! let mut bytes = [0; 5];
//! disk.read_exact_at(&mut bytes, 4096)?;
//! assert_eq!(&bytes, b"guest");
//! assert!(disk.extent_at(4096 + 512, u64::MAX)?.kind.is_zero());
//! # Ok::<(), diskimage::Error>(())
//! ```

use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};

use crate::bytes::LeCursor;
use crate::check::Checking;
use crate::error::{Error, Result};
use crate::format::fault::{Fault, check_limit, field, nothing_to_check};
use crate::format::{Format, LayerOptions};
use crate::layer::{Description, Layer, Mapping, MappingKind, Source};
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::{Storage, TableCache, check_inside, read_vec};
use crate::text::printable;

/// The magic, before NUL bytes up to 32.
pub const MAGIC: &[u8] = b"Bochs Virtual HD Image";
/// The type of the images that are read.
pub const REDOLOG: &[u8] = b"Redolog";
/// The subtype of the images that are read: a redolog without a disk below.
pub const GROWING: &[u8] = b"Growing";
/// The version whose disk size is at 0x50 and four bytes.
pub const VERSION_1: u32 = 0x0001_0000;
/// The version that has a time stamp before it.
pub const VERSION_2: u32 = 0x0002_0000;
/// The catalog's entry for an extent that is not in the file.
pub const NOT_ALLOCATED: u32 = 0xffff_ffff;

const SECTOR: Pow2 = Pow2::SECTOR;
const HEADER_SIZE: u32 = 512;
const AT_TYPE: u64 = 0x20;
const AT_SUBTYPE: u64 = 0x30;
const AT_VERSION: u64 = 0x40;
const AT_HEADER: u64 = 0x44;
const AT_CATALOG: u64 = 0x48;
const AT_BITMAP: u64 = 0x4c;
const AT_EXTENT: u64 = 0x50;

/// The header.
///
/// ```
/// use diskimage::format::LayerOptions;
/// use diskimage::format::bochs::{Header, MAGIC, VERSION_2};
/// use diskimage::storage::MemoryStorage;
///
/// let mut bytes = vec![0; 512 + 3 * 4]; // the catalog has three entries
/// let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
/// put(0, MAGIC);
/// put(0x20, b"Redolog");
/// put(0x30, b"Growing");
/// put(0x40, &[VERSION_2, 512, 3, 1, 4096].map(u32::to_le_bytes).concat());
/// put(0x58, &10_000u64.to_le_bytes()); // behind the time stamp of version 2
/// let header = Header::read(&MemoryStorage::new(bytes.clone()), &LayerOptions::default())?;
/// assert_eq!((header.catalog, header.extent, header.disk), (3, 4096, 10_000));
///
/// bytes[0x30..0x40].copy_from_slice(b"Undoable\0\0\0\0\0\0\0\0");
/// let error = Header::read(&MemoryStorage::new(bytes), &LayerOptions::default()).unwrap_err();
/// assert_eq!(error.kind(), diskimage::ErrorKind::Unsupported);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// The version of the format: 0x10000 or 0x20000.
    pub version: u32,
    /// The size of the header, bytes: where the catalog starts.
    pub header: u32,
    /// The number of entries of the catalog.
    pub catalog: u32,
    /// The size of an extent's bitmap, bytes: a bit for each sector.
    pub bitmap: u32,
    /// The size of an extent, bytes.
    pub extent: u32,
    /// The size of the disk, bytes.
    pub disk: u64,
}

impl Header {
    /// Reads and validates it.
    ///
    /// ```
    /// use diskimage::ErrorKind;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::bochs::{GROWING, Header, MAGIC, REDOLOG, VERSION_1};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// let mut bytes = vec![0; 1024];
    /// let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    /// put(0, MAGIC);
    /// put(0x20, REDOLOG);
    /// put(0x30, GROWING);
    /// put(0x40, &[VERSION_1, 512, 1, 1, 4096].map(u32::to_le_bytes).concat());
    /// put(0x54, &10_000u64.to_le_bytes()); // more than one extent of 4096 bytes
    /// let error = Header::read(&MemoryStorage::new(bytes), &LayerOptions::default()).unwrap_err();
    /// assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(0x48))); // the catalog
    /// ```
    pub fn read(storage: &dyn Storage, options: &LayerOptions) -> Result<Self> {
        let bytes = read_vec(storage, "the header", 0, to_usize(HEADER_SIZE.into()))?;
        let mut cursor = LeCursor::new(&bytes, 0);
        if text(cursor.bytes(32, "the magic")?) != MAGIC {
            return Err(Error::new(Fault::NotThis("Bochs")).at(0));
        }
        let unsupported = |text: String, at| Err(Error::new(Fault::Unsupported(text)).at(at));
        let (kind, subtype) =
            (text(cursor.bytes(16, "the type")?), cursor.bytes(16, "the subtype")?);
        if kind != REDOLOG {
            let text = format!("is a Bochs image of the type '{}'", printable(kind));
            return unsupported(text + "; 'Redolog' is read", AT_TYPE);
        }
        if text(subtype) != GROWING {
            let text = format!("is a Bochs redolog of the subtype '{}'", printable(text(subtype)));
            return unsupported(
                text + ", which needs the disk below; 'Growing' is read",
                AT_SUBTYPE,
            );
        }
        let version = cursor.u32("the version")?;
        if version != VERSION_1 && version != VERSION_2 {
            let text =
                format!("is a Bochs image of version {version:#x}; 0x10000 and 0x20000 are read");
            return unsupported(text, AT_VERSION);
        }
        let header = cursor.u32("the header field header")?;
        let catalog = cursor.u32("the header field catalog")?;
        let bitmap = cursor.u32("the header field bitmap")?;
        let extent = cursor.u32("the header field extent")?;
        if version == VERSION_2 {
            cursor.u32("the header field timestamp")?;
        }
        let at_disk = cursor.offset();
        let disk = cursor.u64("the header field disk")?;

        if header < HEADER_SIZE {
            return field("header", header, "at least 512", AT_HEADER);
        }
        if extent == 0 || !SECTOR.is_aligned(extent.into()) {
            return field("extent", extent, "a multiple of 512 above 0", AT_EXTENT);
        }
        if SECTOR.index(extent.into()) > u64::from(bitmap).saturating_mul(8) {
            return field("bitmap", bitmap, "a bit for each sector of an extent", AT_BITMAP);
        }
        if i64::try_from(disk).is_err() {
            return field("disk", disk, "below 2^63", at_disk);
        }
        if u64::from(catalog).saturating_mul(extent.into()) < disk {
            return field("catalog", catalog, "an entry for each extent of the disk", AT_CATALOG);
        }
        let found = Self { version, header, catalog, bitmap, extent, disk };
        check_limit("catalog", found.catalog_size(), options.limits.max_table_size)
            .and_then(|()| check_limit("bitmap", bitmap.into(), options.limits.max_table_size))
            .and_then(|()| {
                check_inside(storage, "the catalog", header.into(), found.catalog_size())
            })
            .map_err(|error| error.at(AT_CATALOG))?;
        Ok(found)
    }

    fn catalog_size(&self) -> u64 {
        u64::from(self.catalog).saturating_mul(4)
    }

    /// The place of the bitmap of the extent that is this number in the file. Its sectors follow.
    fn place(&self, number: u32) -> u64 {
        let stride = SECTOR.ceil(self.bitmap.into()).saturating_add(self.extent.into());
        let start = u64::from(self.header).saturating_add(self.catalog_size());
        start.saturating_add(stride.saturating_mul(number.into()))
    }
}

/// The bytes before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A Bochs growing disk as a layer.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::LayerOptions;
/// use diskimage::format::bochs::BochsLayer;
/// use diskimage::layer::{MappingKind, Source};
/// use diskimage::storage::MemoryStorage;
///
/// # let mut image = vec![0; 512 + 4 + 512 + 4096];
/// # let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
/// # put(0, b"Bochs Virtual HD Image");
/// # put(0x20, b"Redolog");
/// # put(0x30, b"Growing");
/// # put(0x40, &[0x0001_0000, 512, 1, 1, 4096].map(u32::to_le_bytes).concat());
/// # put(0x54, &4096u64.to_le_bytes());
/// # put(516, &[0b0000_0010]);
/// // one extent of eight sectors, of which the second was written
/// let layer = BochsLayer::open(Arc::new(MemoryStorage::new(image)), &LayerOptions::default())?;
/// assert_eq!(layer.header().extent, 4096);
/// let first = layer.map(0, u64::MAX)?;
/// assert!(matches!(first.kind, MappingKind::Zero { .. }));
/// assert_eq!(first.length, 512);
/// // behind the header, the catalog, the bitmap in its sector, and the first sector
/// let offset = 512 + 4 + 512 + 512;
/// let second = layer.map(512, u64::MAX)?;
/// assert_eq!(second.kind, MappingKind::Stored { source: Source::Own, offset });
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct BochsLayer {
    header: Header,
    cache: TableCache,
}

impl BochsLayer {
    /// Opens `storage` as a Bochs image.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::ErrorKind;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::bochs::BochsLayer;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut image = vec![0; 512 + 4000];
    /// # let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
    /// # put(0, b"Bochs Virtual HD Image");
    /// # put(0x20, b"Redolog");
    /// # put(0x30, b"Growing");
    /// # put(0x40, &[0x0001_0000, 512, 1000, 1, 4096].map(u32::to_le_bytes).concat());
    /// # put(0x54, &4_096_000u64.to_le_bytes());
    /// // a catalog of a thousand entries, and a caller who does not want to read so many
    /// let mut options = LayerOptions::default();
    /// options.limits.max_table_size = 1024;
    /// let error = BochsLayer::open(Arc::new(MemoryStorage::new(image)), &options).unwrap_err();
    /// assert_eq!((error.kind(), error.offset()), (ErrorKind::LimitExceeded, Some(0x48)));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let header = Header::read(&storage, options)?;
        let cache = TableCache::new(storage, options.limits.table_cache);
        Ok(Self { header, cache })
    }

    /// The header.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::Layer;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::bochs::{BochsLayer, VERSION_2};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut image = vec![0; 516];
    /// # let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
    /// # put(0, b"Bochs Virtual HD Image");
    /// # put(0x20, b"Redolog");
    /// # put(0x30, b"Growing");
    /// # put(0x40, &[VERSION_2, 512, 1, 1, 4096].map(u32::to_le_bytes).concat());
    /// # put(0x58, &4096u64.to_le_bytes());
    /// // `image` was made by hand
    /// let storage = Arc::new(MemoryStorage::new(image));
    /// let layer = BochsLayer::open(storage, &LayerOptions::default())?;
    /// let header = layer.header();
    /// assert_eq!((header.version, header.disk), (VERSION_2, layer.size()));
    /// assert_eq!(header.bitmap * 8 * 512, header.extent); // a bit for each sector
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The sectors of the extent that is the number `number` in the file, from its byte `within` on.
    fn map_extent(&self, number: u32, within: u64, max: u64) -> Result<Mapping> {
        let (header, place) = (&self.header, self.header.place(number));
        let (sector, size) = (SECTOR.index(within), u64::from(header.bitmap));
        let page = self.cache.page("an extent's bitmap", place, size, sector.wrapping_shr(3))?;
        let bit = |sector: u64| {
            let byte = sector.wrapping_shr(3).checked_sub(page.start)?;
            let byte = page.bytes.get(to_usize(byte))?;
            Some(byte.wrapping_shr(u32::try_from(sector & 7).unwrap_or_default()) & 1 != 0)
        };
        let stored = bit(sector);
        let rest = max.min(u64::from(header.extent).saturating_sub(within));
        let mut length = SECTOR.rest(within);
        while length < rest && bit(SECTOR.index(within.saturating_add(length))) == stored {
            length = length.saturating_add(SECTOR.size());
        }
        let kind = if stored == Some(true) {
            let offset = place.saturating_add(SECTOR.ceil(size)).saturating_add(within);
            MappingKind::Stored { source: Source::Own, offset }
        } else {
            MappingKind::Zero { allocated: false, stored: None }
        };
        Ok(Mapping { length: length.min(rest), kind })
    }
}

impl Layer for BochsLayer {
    fn format(&self) -> Format {
        Format::Bochs
    }

    fn size(&self) -> u64 {
        self.header.disk
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(u64::from(self.header.extent)).filter(|extent| extent.is_power_of_two())
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let (header, extent) = (&self.header, u64::from(self.header.extent));
        let max = max.min(header.disk.saturating_sub(offset));
        let index = offset.checked_div(extent).unwrap_or_default();
        let start = index.saturating_mul(extent);
        let guest = start..start.saturating_add(extent).min(header.disk);
        let position = index.saturating_mul(4);
        let page = self
            .cache
            .page("the catalog", header.header.into(), header.catalog_size(), position)
            .map_err(|error| error.affecting(guest.clone()))?;
        let from = to_usize(position.saturating_sub(page.start));
        let (entries, _) = page.bytes.get(from..).unwrap_or_default().as_chunks::<4>();
        let mut entries = entries.iter().map(|entry| LittleEndian::read_u32(entry));
        let within = offset.saturating_sub(start);
        let number = entries.next().unwrap_or(NOT_ALLOCATED);
        if number != NOT_ALLOCATED {
            let at = page.file_offset.saturating_add(to_u64(from));
            let mapping = self.map_extent(number, within, max);
            return mapping.map_err(|error| error.at(at).affecting(guest));
        }
        let mut length = extent.saturating_sub(within);
        while length < max && entries.next() == Some(NOT_ALLOCATED) {
            length = length.saturating_add(extent);
        }
        let kind = MappingKind::Zero { allocated: false, stored: None };
        Ok(Mapping { length: length.min(max), kind })
    }

    fn describe(&self) -> Result<Description> {
        let header = &self.header;
        let details = vec![
            ("subtype", "Growing".into()),
            ("version", (header.version >> 16).into()),
            ("catalog-entries", header.catalog.into()),
            ("bitmap-size", header.bitmap.into()),
            ("extent-size", header.extent.into()),
        ];
        Ok(Description { details, ..Description::default() })
    }

    fn check(&self, _checking: &Checking) -> Result<()> {
        Err(nothing_to_check(Format::Bochs))
    }
}
