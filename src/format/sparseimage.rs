//! Apple's sparse images (`.sparseimage`). There is no specification; the layout is that of public
//! descriptions (libmodi's documentation of the format, and what other readers expect of images of
//! more than a thousand bands). All numbers are big-endian.
//!
//! | | |
//! |---|---|
//! | read | version 3; bands of any size, any number of lists of them |
//! | checked | whether each band lies in the file; room that nothing uses |
//! | refused | a band that is there twice, lists of bands in other places than behind their predecessors' bands |
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use diskimage::format::sparseimage::{HEADER_BANDS, NODE_SIZE, SIGNATURE, VERSION};
//! use diskimage::storage::MemoryStorage;
//! use diskimage::{OpenOptions, VirtualDisk};
//!
//! // a disk of two bands of 8 sectors, of which the second is in the file
//! let mut image = vec![0; NODE_SIZE as usize + 4096];
//! let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
//! put(0, SIGNATURE);
//! put(4, &[VERSION, 8, 0, 16].map(u32::to_be_bytes).concat());
//! put(HEADER_BANDS as usize, &2u32.to_be_bytes()); // counted from 1
//! put(NODE_SIZE as usize, b"guest");
//!
//! let storage = Arc::new(MemoryStorage::new(image));
//! let disk = OpenOptions::new().open_storage(storage, Path::new("home.sparseimage"))?;
//! let mut bytes = [0; 5];
//! disk.read_exact_at(&mut bytes, 4096)?;
//! assert_eq!(&bytes, b"guest");
//! assert!(disk.extent_at(0, u64::MAX)?.kind.is_zero());
//! # Ok::<(), diskimage::Error>(())
//! ```

use std::ops::Range;
use std::sync::Arc;

use crate::bytes::BeCursor;
use crate::check::Checking;
use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::format::fault::{Fault, check_limit, field};
use crate::format::whole::{Sort, note_unused};
use crate::format::{Format, LayerOptions};
use crate::layer::{Description, Layer, Mapping, MappingKind, Source};
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::{Storage, read_vec};

/// The signature of the header, and of each list of bands behind it.
pub const SIGNATURE: &[u8; 4] = b"sprs";
/// The version that is read.
pub const VERSION: u32 = 3;
/// The length of the header and of a list of bands, which end with the numbers of the bands that
/// follow in the file.
pub const NODE_SIZE: u64 = 4096;
/// Where those numbers start in the header, and in the lists that follow.
pub const HEADER_BANDS: u64 = 64;
/// See [`HEADER_BANDS`].
pub const LIST_BANDS: u64 = 56;

/// The header.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::format::sparseimage::{NODE_SIZE, SIGNATURE, SparseImageLayer, VERSION};
/// use diskimage::storage::MemoryStorage;
///
/// let mut bytes = SIGNATURE.to_vec();
/// // sectors of a band, flags, sectors of the disk in 32 bits
/// bytes.extend([VERSION, 2048, 1, 1 << 21].map(u32::to_be_bytes).concat());
/// bytes.resize(NODE_SIZE as usize, 0); // no band is in the file
/// let storage = Arc::new(MemoryStorage::new(bytes));
/// let layer = SparseImageLayer::open(storage, &LayerOptions::default())?;
/// let header = layer.header();
/// assert_eq!((header.sectors_per_band, header.sectors), (2048, 1 << 21));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// How many sectors a band has.
    pub sectors_per_band: u32,
    /// How many the disk has.
    pub sectors: u64,
}

impl Header {
    fn band(&self) -> u64 {
        u64::from(self.sectors_per_band) << 9
    }

    fn size(&self) -> u64 {
        Pow2::SECTOR.offset_of(self.sectors).unwrap_or(u64::MAX)
    }

    fn bands(&self) -> u64 {
        self.sectors.div_ceil(u64::from(self.sectors_per_band).max(1))
    }
}

/// A band of the disk that is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Band {
    /// Which one of the disk, from 0 on.
    number: u32,
    /// Which list it is in, from 0 on.
    list: u32,
    /// Which one of the file, from 0 on.
    place: u32,
}

/// A sparse image as a layer.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::LayerOptions;
/// use diskimage::format::sparseimage::SparseImageLayer;
/// use diskimage::layer::{MappingKind, Source};
/// use diskimage::storage::MemoryStorage;
///
/// # let mut image = vec![0; 3 * 4096];
/// # let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
/// # put(0, b"sprs");
/// # put(4, &[3u32, 8, 0, 16].map(u32::to_be_bytes).concat());
/// # put(64, &[2u32, 1].map(u32::to_be_bytes).concat());
/// // two bands, the second one first in the file
/// let storage = Arc::new(MemoryStorage::new(image));
/// let layer = SparseImageLayer::open(storage, &LayerOptions::default())?;
/// assert_eq!(layer.header().sectors, 16);
/// let first = layer.map(0, u64::MAX)?;
/// assert_eq!(first.kind, MappingKind::Stored { source: Source::Own, offset: 8192 });
/// assert_eq!(first.length, 4096);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct SparseImageLayer {
    storage: Arc<dyn Storage>,
    header: Header,
    /// In the order of the disk.
    bands: Vec<Band>,
}

impl SparseImageLayer {
    /// Opens `storage` as a sparse image.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::ErrorKind;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::sparseimage::SparseImageLayer;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut image = vec![0; 3 * 4096];
    /// # let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
    /// # put(0, b"sprs");
    /// # put(4, &[3u32, 8, 0, 16].map(u32::to_be_bytes).concat());
    /// # put(64, &[2u32, 2].map(u32::to_be_bytes).concat());
    /// // a list that has the second band twice: which of them is the disk's?
    /// let storage = Arc::new(MemoryStorage::new(image));
    /// let error = SparseImageLayer::open(storage, &LayerOptions::default()).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Corrupt);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let bytes = read_vec(&storage, "the header", 0, to_usize(NODE_SIZE))?;
        let (header, mut next) = read_header(&bytes)?;
        let mut layer = Self { storage, header, bands: Vec::new() };
        let (mut list, mut place) = (0u32, 0u32);
        let mut numbers = (bytes, HEADER_BANDS, 0u64);
        loop {
            let (bytes, skipped, at) = &numbers;
            place = layer.add(bytes, *skipped, *at, list, place)?;
            let held = to_u64(layer.bands.len()).saturating_mul(to_u64(size_of::<Band>()));
            check_limit("list of bands", held, options.limits.max_directory_size)
                .map_err(|error| error.at(*at))?;
            if next == 0 {
                break;
            }
            list = list.saturating_add(1);
            // it follows the bands of the one before it
            let wanted = layer.place(Band { number: 0, list, place }).saturating_sub(NODE_SIZE);
            if next != wanted {
                let text = format!("a list of bands is at {next:#x}, and should be at {wanted:#x}");
                return Err(Error::new(Fault::Corrupt(text)).at(*at));
            }
            let bytes = read_vec(&layer.storage, "a list of bands", next, to_usize(NODE_SIZE))?;
            let mut cursor = BeCursor::new(&bytes, next);
            if cursor.bytes(4, "the signature")? != SIGNATURE {
                let text = "a list of bands has no signature".to_owned();
                return Err(Error::new(Fault::Corrupt(text)).at(next));
            }
            cursor.bytes(8, "a list of bands")?;
            let behind = cursor.u64("the offset of a list of bands")?;
            numbers = (bytes, LIST_BANDS, std::mem::replace(&mut next, behind));
        }
        layer.bands.sort_unstable();
        let twice = layer.bands.windows(2).find_map(|pair| match pair {
            [a, b] if a.number == b.number => Some(*b),
            _ => None,
        });
        if let Some(band) = twice {
            let text = format!("the band {} is in the file twice", band.number);
            return Err(Error::new(Fault::Corrupt(text)).at(layer.place(band)));
        }
        Ok(layer)
    }

    /// The header.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::Layer;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::sparseimage::SparseImageLayer;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut image = b"sprs".to_vec();
    /// # image.extend([3u32, 2048, 0, 1 << 21].map(u32::to_be_bytes).concat());
    /// # image.resize(4096, 0);
    /// // `image` was made by hand
    /// let storage = Arc::new(MemoryStorage::new(image));
    /// let layer = SparseImageLayer::open(storage, &LayerOptions::default())?;
    /// let header = layer.header();
    /// assert_eq!((header.sectors * 512, layer.size()), (1 << 30, 1 << 30));
    /// assert_eq!(layer.cluster_size(), Some(u64::from(header.sectors_per_band) * 512));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Adds the bands of a list; gives the place behind the last one.
    fn add(&mut self, bytes: &[u8], skip: u64, at: u64, list: u32, first: u32) -> Result<u32> {
        let rest = bytes.get(to_usize(skip)..).unwrap_or_default();
        let mut cursor = BeCursor::new(rest, at.saturating_add(skip));
        let mut place = first;
        while !cursor.rest().is_empty() {
            let at = cursor.offset();
            let number = cursor.u32("the number of a band")?;
            if u64::from(number) > self.header.bands() {
                return Err(Error::new(Fault::Entry {
                    what: "the number of a band",
                    value: number.into(),
                    rule: "that of a band of the disk",
                })
                .at(at));
            }
            if let Some(number) = number.checked_sub(1) {
                self.bands.push(Band { number, list, place });
            }
            place = place.saturating_add(1);
        }
        Ok(place)
    }

    /// Where a band is in the file: behind the lists and bands before it.
    fn place(&self, band: Band) -> u64 {
        let lists = u64::from(band.list).saturating_add(1).saturating_mul(NODE_SIZE);
        lists.saturating_add(u64::from(band.place).saturating_mul(self.header.band()))
    }

    fn guest(&self, band: Band) -> Range<u64> {
        let start = u64::from(band.number).saturating_mul(self.header.band());
        start..start.saturating_add(self.header.band()).min(self.header.size())
    }
}

fn read_header(bytes: &[u8]) -> Result<(Header, u64)> {
    let mut cursor = BeCursor::new(bytes, 0);
    if cursor.bytes(4, "the signature")? != SIGNATURE {
        return Err(Error::new(Fault::NotThis("sparse image")).at(0));
    }
    let version = cursor.u32("the version")?;
    if version != VERSION {
        let text = format!("is a sparse image of version {version}; version 3 is read");
        return Err(Error::new(Fault::Unsupported(text)).at(4));
    }
    let sectors_per_band = cursor.u32("the number of sectors of a band")?;
    cursor.u32("the flags")?;
    let low = cursor.u32("the number of sectors")?;
    let next = cursor.u64("the offset of the next list of bands")?;
    let whole = cursor.u64("the number of sectors")?;
    if sectors_per_band == 0 {
        return field("sectors per band", sectors_per_band, "above 0", 8);
    }
    // the number in 64 bits is not always there
    let sectors = if whole == 0 { low.into() } else { whole };
    if sectors & u64::from(u32::MAX) != u64::from(low) {
        return field("sectors", whole, "the same as in its 32 bits", 28);
    }
    let header = Header { sectors_per_band, sectors };
    if sectors.checked_mul(512).is_none_or(|size| i64::try_from(size).is_err()) {
        return field("sectors", sectors, "below 2^54", 28);
    }
    if u32::try_from(header.bands()).is_err() {
        return field("sectors", sectors, "below 2^32 bands", 28);
    }
    Ok((header, next))
}

impl Layer for SparseImageLayer {
    fn format(&self) -> Format {
        Format::SparseImage
    }

    fn size(&self) -> u64 {
        self.header.size()
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.header.band()).filter(|band| band.is_power_of_two())
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let number = offset.checked_div(self.header.band()).unwrap_or_default();
        let mut index = self.bands.partition_point(|band| u64::from(band.number) < number);
        let band = |index: usize| self.bands.get(index).copied();
        let held = band(index).filter(|band| u64::from(band.number) == number);
        let Some(first) = held else {
            let end = band(index).map_or(self.size(), |band| self.guest(band).start);
            let kind = MappingKind::Zero { allocated: false, stored: None };
            return Ok(Mapping { length: end.saturating_sub(offset).min(max), kind });
        };
        let (start, mut end) = (self.place(first), self.guest(first).end);
        let within = offset.saturating_sub(self.guest(first).start);
        while end.saturating_sub(offset) < max {
            index = index.saturating_add(1);
            let length = end.saturating_sub(self.guest(first).start);
            let follows = |next: &Band| {
                self.guest(*next).start == end && self.place(*next) == start.saturating_add(length)
            };
            let Some(next) = band(index).filter(follows) else { break };
            end = self.guest(next).end;
        }
        let kind =
            MappingKind::Stored { source: Source::Own, offset: start.saturating_add(within) };
        Ok(Mapping { length: end.saturating_sub(offset).min(max), kind })
    }

    fn describe(&self) -> Result<Description> {
        let details = vec![
            ("band-size", self.header.band().into()),
            ("bands", self.header.bands().into()),
            ("bands-in-file", to_u64(self.bands.len()).into()),
        ];
        Ok(Description { details, ..Description::default() })
    }

    fn check(&self, checking: &Checking) -> Result<()> {
        let mut beyond = Sort::new(checking);
        let (mut end, size) = (NODE_SIZE, self.storage.size());
        for band in &self.bands {
            checking.watcher().check()?;
            let (at, guest) = (self.place(*band), self.guest(*band));
            let behind = at.saturating_add(guest.end.saturating_sub(guest.start));
            if behind > size {
                beyond.corruption(|| {
                    let text = format!("the band {} ends beyond the file", band.number);
                    Finding::new(Code::BeyondEnd, text).at(at).in_structure("band")
                });
            }
            end = end.max(at.saturating_add(self.header.band()));
        }
        note_unused(checking, size.saturating_sub(end));
        let mut report = checking.report();
        report.image_end_offset = Some(end);
        report.total_clusters = Some(self.header.bands());
        report.allocated_clusters = Some(to_u64(self.bands.len()));
        Ok(())
    }
}
