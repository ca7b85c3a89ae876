//! The footer and its copy at the start ("Hard Disk Footer Format").

use crate::bytes::BeCursor;
use crate::error::{Error, Result};
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, read_vec};

use super::error::VhdDetail;
use super::layout::*;

/// A footer whose fields can be read; its checksum is another matter.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::format::vhd::{DiskType, VhdLayer, VhdOptions};
/// use diskimage::storage::MemoryStorage;
///
/// let options = VhdOptions::new().fixed(true).by_geometry(true);
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = Box::new(options.writer(1_000_000)?);
/// # diskimage::Convert::new().create(writer, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of an empty disk
/// let layer = VhdLayer::open(Arc::new(MemoryStorage::new(bytes)), &LayerOptions::default())?;
/// let footer = layer.footer();
/// assert_eq!((footer.disk_type, &footer.creator_application), (DiskType::Fixed, b"vpc "));
/// // Virtual PC goes by the geometry, so the size was rounded up to what one can say
/// assert!(footer.is_sized_by_geometry() && !footer.geometry_mismatches());
/// assert_eq!(footer.size(), footer.geometry_size());
/// assert!(footer.size() > 1_000_000);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Footer {
    /// Bit field of features.
    pub features: u32,
    /// File Format Version: major in the upper half, minor in the lower.
    pub version: u32,
    /// The offset of the dynamic header; all bits set for fixed disks.
    pub data_offset: u64,
    /// When the image was created: seconds since 2000 began, UTC.
    pub time_stamp: u32,
    /// Creator Application, four characters.
    pub creator_application: [u8; 4],
    /// Creator Version: major in the upper half, minor in the lower.
    pub creator_version: u32,
    /// Creator Host OS, four characters.
    pub creator_host_os: [u8; 4],
    /// The disk's size when it was made, bytes.
    pub original_size: u64,
    /// Current Size of the disk, bytes. See [`Footer::size`].
    pub current_size: u64,
    /// Disk Geometry.
    pub geometry: Geometry,
    /// Disk Type.
    pub disk_type: DiskType,
    /// Unique ID, in the order of its text form (the file is big-endian throughout).
    pub unique_id: [u8; 16],
    /// Whether the machine was in saved state.
    pub saved_state: bool,
}

/// Cylinders, heads, and sectors per track.
///
/// ```
/// use diskimage::format::vhd::Geometry;
/// use diskimage::format::vhd::layout::MAX_GEOMETRY;
///
/// let geometry = Geometry { cylinders: 1024, heads: 16, sectors: 63 };
/// assert_eq!(geometry.total_sectors() * 512, 504 << 20); // the old limit of a BIOS
/// let largest = Geometry { cylinders: 65_535, heads: 16, sectors: 255 };
/// assert_eq!(largest.total_sectors(), MAX_GEOMETRY);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders.
    pub cylinders: u16,
    /// Heads.
    pub heads: u8,
    /// Sectors per track.
    pub sectors: u8,
}

/// The kind of disk.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::format::vhd::VhdOptions;
/// use diskimage::format::vhd::{DiskType, VhdLayer};
/// use diskimage::storage::FileStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.vhd");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = VhdOptions::new().writer(8 << 20)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let storage = Arc::new(FileStorage::open(&path)?);
/// let layer = VhdLayer::open(storage, &LayerOptions::default())?;
/// let disk_type = layer.footer().disk_type;
/// assert_eq!((disk_type, disk_type.name()), (DiskType::Dynamic, "dynamic"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskType {
    /// All of the data, followed by the footer.
    Fixed,
    /// Blocks that are allocated when first written.
    Dynamic,
    /// A dynamic disk of what differs from another disk.
    Differencing,
}

impl DiskType {
    /// The name in lower case.
    ///
    /// ```
    /// use diskimage::format::vhd::DiskType;
    ///
    /// assert_eq!(DiskType::Differencing.name(), "differencing");
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        }
    }
}

impl Geometry {
    /// How many sectors it makes up.
    ///
    /// ```
    /// use diskimage::format::vhd::Geometry;
    ///
    /// let geometry = Geometry { cylinders: 306, heads: 4, sectors: 17 };
    /// assert_eq!(geometry.total_sectors() * 512, 10_653_696); // the disk of a PC XT
    /// ```
    #[must_use]
    pub fn total_sectors(self) -> u64 {
        u64::from(self.cylinders).saturating_mul(self.sectors_per_cylinder())
    }

    fn sectors_per_cylinder(self) -> u64 {
        u64::from(self.heads).saturating_mul(self.sectors.into())
    }
}

impl Footer {
    fn parse(bytes: &[u8], offset: u64) -> Result<Self> {
        let mut cursor = BeCursor::new(bytes, offset);
        cursor.bytes(FOOTER_COOKIE.len(), "the footer")?;
        let features = cursor.u32("the footer field Features")?;
        let version = cursor.u32("the footer field File Format Version")?;
        check_version("file", version).map_err(|error| error.at(offset.saturating_add(12)))?;
        let data_offset = cursor.u64("the footer field Data Offset")?;
        let time_stamp = cursor.u32("the footer field Time Stamp")?;
        let creator_application = four(&mut cursor, "the footer field Creator Application")?;
        let creator_version = cursor.u32("the footer field Creator Version")?;
        let creator_host_os = four(&mut cursor, "the footer field Creator Host OS")?;
        let original_size = cursor.u64("the footer field Original Size")?;
        let current_size = cursor.u64("the footer field Current Size")?;
        if i64::try_from(current_size).is_err() {
            let rule = "below 2^63";
            let detail = VhdDetail::Field { field: "Current Size", value: current_size, rule };
            return Err(Error::new(detail).at(offset.saturating_add(48)));
        }
        let geometry = Geometry {
            cylinders: cursor.u16("the footer field Disk Geometry")?,
            heads: cursor.u8("the footer field Disk Geometry")?,
            sectors: cursor.u8("the footer field Disk Geometry")?,
        };
        let disk_type = match cursor.u32("the footer field Disk Type")? {
            TYPE_FIXED => DiskType::Fixed,
            TYPE_DYNAMIC => DiskType::Dynamic,
            TYPE_DIFFERENCING => DiskType::Differencing,
            other => {
                let error = Error::new(VhdDetail::DiskType(other));
                return Err(error.at(offset.saturating_add(60)));
            }
        };
        cursor.u32("the footer field Checksum")?;
        let unique_id = sixteen(&mut cursor, "the footer field Unique ID")?;
        let saved_state = cursor.u8("the footer field Saved State")? != 0;
        Ok(Self {
            features,
            version,
            data_offset,
            time_stamp,
            creator_application,
            creator_version,
            creator_host_os,
            original_size,
            current_size,
            geometry,
            disk_type,
            unique_id,
            saved_state,
        })
    }

    /// The size of the disk, bytes.
    ///
    /// The specification gives both a Current Size and a geometry, and says that a machine with
    /// an ATA controller sees the geometry. What a creator's other programs hold to decides:
    /// see [`GEOMETRY_CREATORS`].
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::Layer;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::vhd::{VhdLayer, VhdOptions};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(VhdOptions::new().fixed(true).writer(8 << 20)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let layer = VhdLayer::open(Arc::new(MemoryStorage::new(bytes)), &LayerOptions::default())?;
    /// let footer = layer.footer();
    /// assert!(!footer.is_sized_by_geometry());
    /// assert_eq!((footer.size(), layer.size()), (footer.current_size, 8 << 20));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn size(&self) -> u64 {
        if self.is_sized_by_geometry() { self.geometry_size() } else { self.current_size }
    }

    /// Whether the geometry rather than the Current Size is the size of the disk.
    #[must_use]
    pub fn is_sized_by_geometry(&self) -> bool {
        let sectors = self.geometry.total_sectors();
        // none at all is no statement, and the largest one is only a lower bound
        sectors != 0
            && sectors < MAX_GEOMETRY
            && GEOMETRY_CREATORS.contains(&&self.creator_application)
    }

    /// What the geometry makes up, bytes.
    #[must_use]
    pub fn geometry_size(&self) -> u64 {
        self.geometry.total_sectors().saturating_mul(SECTOR_SIZE)
    }

    /// Whether geometry and Current Size contradict each other: by anything at all where the
    /// geometry is the size, else by a cylinder or more, since rounding down loses less.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::vhd::VhdLayer;
    /// use diskimage::format::vhd::VhdOptions;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(VhdOptions::new().fixed(true).writer(8 << 20)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let layer = VhdLayer::open(Arc::new(MemoryStorage::new(bytes)), &LayerOptions::default())?;
    /// let footer = layer.footer();
    /// // the geometry says a little less, as it must: sizes to the sector are the rule
    /// assert!(footer.geometry_size() <= footer.size());
    /// assert!(!footer.geometry_mismatches());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn geometry_mismatches(&self) -> bool {
        let (by_geometry, size) = (self.geometry_size(), self.current_size);
        if self.is_sized_by_geometry() {
            return by_geometry != size;
        }
        let sectors = self.geometry.total_sectors();
        if sectors == 0 || sectors >= MAX_GEOMETRY {
            return false;
        }
        let cylinder = self.geometry.sectors_per_cylinder().saturating_mul(SECTOR_SIZE);
        by_geometry > size || size.saturating_sub(by_geometry) >= cylinder
    }
}

/// Where a copy of the footer lies.
///
/// ```
/// use diskimage::format::vhd::VhdOptions;
/// use diskimage::format::vhd::{FooterCopies, FooterPlace};
/// use diskimage::storage::MemoryStorage;
///
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = Box::new(VhdOptions::new().fixed(true).writer(1 << 20)?);
/// # diskimage::Convert::new().create(writer, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of an empty disk
/// let copies = FooterCopies::read(&MemoryStorage::new(bytes))?;
/// assert_eq!((copies.used, copies.used.name()), (FooterPlace::End, "end"));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FooterPlace {
    /// At the start of the file: the copy.
    Start,
    /// At its end: the footer proper.
    End,
}

impl FooterPlace {
    /// `start` or `end`.
    ///
    /// ```
    /// use diskimage::format::vhd::FooterPlace;
    ///
    /// assert_eq!((FooterPlace::Start.name(), FooterPlace::End.name()), ("start", "end"));
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::End => "end",
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Start => "copy of the footer at the start",
            Self::End => "footer",
        }
    }
}

/// What was found where a copy of the footer should be.
///
/// ```
/// use diskimage::format::vhd::VhdOptions;
/// use diskimage::format::vhd::{CopyState, FooterCopies};
/// use diskimage::storage::MemoryStorage;
///
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = Box::new(VhdOptions::new().fixed(true).writer(1 << 20)?);
/// # diskimage::Convert::new().create(writer, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of an empty disk
/// let last = bytes.len() - 1;
/// bytes[last] ^= 1; // in the reserved bytes of the footer
/// let copies = FooterCopies::read(&MemoryStorage::new(bytes))?;
/// match copies.end {
///     CopyState::Missing => println!("no footer"),
///     CopyState::Damaged { stored, computed } => assert_eq!(computed, stored - 1),
///     CopyState::Valid => println!("as it should be"),
/// }
/// # assert!(matches!(copies.end, CopyState::Damaged { .. }));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyState {
    /// No cookie.
    Missing,
    /// A cookie, but another checksum than the bytes have.
    Damaged {
        /// The checksum in the file.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// A cookie and the right checksum.
    Valid,
}

/// Both copies of the footer, and the one that counts.
///
/// ```
/// use diskimage::format::vhd::VhdOptions;
/// use diskimage::format::vhd::{CopyState, FooterCopies, FooterPlace};
/// use diskimage::storage::MemoryStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.vhd");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = VhdOptions::new().writer(8 << 20)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let mut bytes = std::fs::read(&path)?;
/// let copies = FooterCopies::read(&MemoryStorage::new(bytes.clone()))?;
/// assert_eq!([copies.start, copies.end], [CopyState::Valid; 2]);
/// assert!(!copies.differ);
/// assert_eq!(copies.data_end() + 512, copies.file_size);
///
/// // a file that was cut off has its other copy
/// bytes.truncate(bytes.len() - 512);
/// let copies = FooterCopies::read(&MemoryStorage::new(bytes))?;
/// assert_eq!((copies.used, copies.end), (FooterPlace::Start, CopyState::Missing));
/// copies.check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FooterCopies {
    /// The footer to go by.
    pub footer: Footer,
    /// Where that was found.
    pub used: FooterPlace,
    /// The copy at the start. Fixed disks have none; what is there is the disk's first sector.
    pub start: CopyState,
    /// The footer at the end.
    pub end: CopyState,
    /// Whether both are there and their bytes differ.
    pub differ: bool,
    /// Where the footer at the end begins, damaged or not.
    pub end_offset: Option<u64>,
    /// Where the file ends.
    pub file_size: u64,
}

/// The bytes of a copy.
struct Found {
    bytes: Vec<u8>,
    offset: u64,
    state: CopyState,
}

impl FooterCopies {
    /// Reads both copies and decides, as the specification says ("Checksum"): the footer at the
    /// end counts, and if that is damaged the copy at the start. Where both are damaged one of
    /// them is taken if it makes any sense; [`check`](Self::check) tells.
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let file_size = storage.size();
        let end = find_end(storage)?;
        let start = find_start(storage, end.as_ref())?;
        let (used, found) = match (&end, &start) {
            (Some(end), _) if end.state == CopyState::Valid => (FooterPlace::End, end),
            (_, Some(start)) if start.state == CopyState::Valid => (FooterPlace::Start, start),
            (Some(end), _) => (FooterPlace::End, end),
            (None, Some(start)) => (FooterPlace::Start, start),
            (None, None) => return Err(Error::new(VhdDetail::NotVhd).at(0)),
        };
        let footer = Footer::parse(&found.bytes, found.offset)
            .map_err(|error| found.wrong_checksum(used).unwrap_or(error))?;
        if used == FooterPlace::Start && footer.disk_type == DiskType::Fixed {
            return Err(Error::new(VhdDetail::FixedFooterMissing).at(file_size));
        }
        let differ = match (&start, &end) {
            (Some(start), Some(end)) => {
                let length = to_usize(OLD_FOOTER_SIZE);
                start.bytes.get(..length) != end.bytes.get(..length)
            }
            _ => false,
        };
        let state = |found: &Option<Found>| found.as_ref().map_or(CopyState::Missing, |f| f.state);
        Ok(Self {
            used,
            start: state(&start),
            end: state(&end),
            differ,
            end_offset: end.as_ref().map(|end| end.offset),
            file_size,
            footer,
        })
    }

    /// Refuses a file that has no footer with the right checksum.
    ///
    /// ```
    /// use diskimage::format::vhd::FooterCopies;
    /// use diskimage::format::vhd::VhdOptions;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(VhdOptions::new().fixed(true).writer(1 << 20)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let last = bytes.len() - 1;
    /// bytes[last] ^= 1;
    /// let copies = FooterCopies::read(&MemoryStorage::new(bytes))?; // there is no other copy
    /// let error = copies.check().unwrap_err();
    /// assert_eq!(error.offset(), Some((1 << 20) + 64)); // of its checksum
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn check(&self) -> Result<()> {
        let (state, offset) = match self.used {
            FooterPlace::Start => (self.start, 0),
            FooterPlace::End => (self.end, self.end_offset.unwrap_or_default()),
        };
        wrong_checksum(state, self.used, offset).map_or(Ok(()), Err)
    }

    /// Where in the file the data end: the footer begins, or where that is lost, the file ends.
    ///
    /// ```
    /// use diskimage::format::vhd::FooterCopies;
    /// use diskimage::format::vhd::VhdOptions;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(VhdOptions::new().fixed(true).writer(1 << 20)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let copies = FooterCopies::read(&MemoryStorage::new(bytes))?;
    /// assert_eq!((copies.data_end(), copies.file_size), (1 << 20, (1 << 20) + 512));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn data_end(&self) -> u64 {
        self.end_offset.unwrap_or(self.file_size)
    }
}

impl Found {
    fn wrong_checksum(&self, place: FooterPlace) -> Option<Error> {
        wrong_checksum(self.state, place, self.offset)
    }
}

fn wrong_checksum(state: CopyState, place: FooterPlace, offset: u64) -> Option<Error> {
    let CopyState::Damaged { stored, computed } = state else { return None };
    let detail = VhdDetail::Checksum { what: place.noun(), stored, computed };
    Some(Error::new(detail).at(offset.saturating_add(to_u64(FOOTER_CHECKSUM))))
}

/// The footer in the last 512 bytes, or in the last 511.
fn find_end(storage: &dyn Storage) -> Result<Option<Found>> {
    for length in [FOOTER_SIZE, OLD_FOOTER_SIZE] {
        let Some(offset) = storage.size().checked_sub(length) else { continue };
        if let Some(found) = find_at(storage, offset, length)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The copy at the start, unless that is where the footer at the end lies.
fn find_start(storage: &dyn Storage, end: Option<&Found>) -> Result<Option<Found>> {
    let room = end.map_or(storage.size(), |end| end.offset);
    if room < FOOTER_SIZE { Ok(None) } else { find_at(storage, 0, FOOTER_SIZE) }
}

fn find_at(storage: &dyn Storage, offset: u64, length: u64) -> Result<Option<Found>> {
    let mut bytes = read_vec(storage, "the footer", offset, to_usize(length))?;
    if !bytes.starts_with(FOOTER_COOKIE) {
        return Ok(None);
    }
    bytes.resize(to_usize(FOOTER_SIZE), 0);
    let (stored, computed) = checksum(&bytes, FOOTER_CHECKSUM);
    let state =
        if stored == computed { CopyState::Valid } else { CopyState::Damaged { stored, computed } };
    Ok(Some(Found { bytes, offset, state }))
}

/// The checksum that is stored at `field`, and the one of all the other bytes: the complement of
/// their sum ("Checksum Calculation").
pub(super) fn checksum(bytes: &[u8], field: usize) -> (u32, u32) {
    let (before, rest) = bytes.split_at_checked(field).unwrap_or((bytes, &[]));
    let (stored, behind) = rest.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
    let sum = before.iter().chain(behind).fold(0u32, |sum, &b| sum.wrapping_add(b.into()));
    (u32::from_be_bytes(*stored), !sum)
}

/// Another minor version is compatible ("File Format Version").
pub(super) fn check_version(what: &'static str, version: u32) -> Result<()> {
    let (major, minor) = (version >> 16, version & 0xffff);
    if major == VERSION_MAJOR {
        Ok(())
    } else {
        Err(VhdDetail::Version { what, major, minor }.into())
    }
}

fn four(cursor: &mut BeCursor<'_>, what: &'static str) -> Result<[u8; 4]> {
    Ok(cursor.bytes(4, what)?.first_chunk().copied().unwrap_or_default())
}

pub(super) fn sixteen(cursor: &mut BeCursor<'_>, what: &'static str) -> Result<[u8; 16]> {
    Ok(cursor.bytes(16, what)?.first_chunk().copied().unwrap_or_default())
}
