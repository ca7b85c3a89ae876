//! The header (`VDIPREHEADER` and `VDIHEADER1PLUS`).

use std::ops::Range;

use crate::bytes::LeCursor;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::num::{Pow2, to_usize};
use crate::storage::{Storage, read_vec};

use super::error::VdiDetail;
use super::layout::*;

/// A header whose fields make sense together, and within the file it was read from.
///
/// ```
/// use diskimage::Limits;
/// use diskimage::format::vdi::VdiOptions;
/// use diskimage::format::vdi::{Header, ImageType};
/// use diskimage::storage::FileStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.vdi");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = VdiOptions::new().writer(8 << 20)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let header = Header::read(&FileStorage::open(&path)?, &Limits::default())?;
/// assert_eq!((header.image_type, header.version), (ImageType::Dynamic, 0x0001_0001));
/// assert_eq!((header.size, header.block.size(), header.blocks), (8 << 20, 1 << 20, 8));
/// assert_eq!(header.blocks_allocated, 0); // nothing was written yet
/// assert_eq!((header.map_offset, header.data_offset), (512, 1 << 20));
/// assert_eq!(header.parent_uuid, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Header {
    /// `szFileInfo`: what the maker calls itself, up to the first NUL.
    pub file_info: Vec<u8>,
    /// `u32Version`: major in the upper half, minor in the lower.
    pub version: u32,
    /// `cbHeader`.
    pub header_size: u32,
    /// `u32Type`.
    pub image_type: ImageType,
    /// `fFlags`.
    pub flags: u32,
    /// `szComment`, up to the first NUL.
    pub comment: Vec<u8>,
    /// `offBlocks`: where the block map lies.
    pub map_offset: u32,
    /// `offData`: where the first block lies.
    pub data_offset: u32,
    /// Cylinders, heads and sectors of `LegacyGeometry`.
    pub geometry: [u32; 3],
    /// `cbDisk`: the size of the disk, bytes.
    pub size: u64,
    /// `cbBlock`: the size of a block's data.
    pub block: Pow2,
    /// `cbBlockExtra`: how many bytes lie before each block's data.
    pub block_extra: u32,
    /// `cBlocks`: entries of the block map.
    pub blocks: u32,
    /// `cBlocksAllocated`: blocks in the file.
    pub blocks_allocated: u32,
    /// `uuidCreate`: the image's identifier, in the order of its text form.
    pub uuid: [u8; 16],
    /// `uuidModify`: the identifier of its state.
    pub modification_uuid: [u8; 16],
    /// `uuidLinkage`: the parent's identifier, if there is a parent.
    pub parent_uuid: Option<[u8; 16]>,
    /// `uuidParentModify`: the parent's state when the image was made, if noted.
    pub parent_modification_uuid: Option<[u8; 16]>,
}

/// The kind of image.
///
/// ```
/// use diskimage::Limits;
/// use diskimage::format::vdi::VdiOptions;
/// use diskimage::format::vdi::{Header, ImageType};
/// use diskimage::storage::FileStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.vdi");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = VdiOptions::new().fixed(true).writer(8 << 20)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let header = Header::read(&FileStorage::open(&path)?, &Limits::default())?;
/// assert_eq!(header.image_type, ImageType::Fixed);
/// assert_eq!(header.image_type.name(), "fixed");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageType {
    /// It grows.
    Dynamic,
    /// It has all blocks from the start.
    Fixed,
    /// It has what differs from another image.
    Differencing,
}

impl ImageType {
    /// The name in lower case.
    ///
    /// ```
    /// use diskimage::format::vdi::ImageType;
    ///
    /// assert_eq!(ImageType::Differencing.name(), "differencing");
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dynamic => "dynamic",
            Self::Fixed => "fixed",
            Self::Differencing => "differencing",
        }
    }
}

impl Header {
    /// Reads and validates the header at the start of `storage`.
    pub fn read(storage: &dyn Storage, limits: &Limits) -> Result<Self> {
        let length = to_usize(storage.size().min(HEADER_END));
        let bytes = read_vec(storage, "the header", 0, length)?;
        let mut cursor = LeCursor::new(&bytes, 0);
        let header = Self::parse(&mut cursor)?;
        header.validate(storage, limits)?;
        Ok(header)
    }

    fn parse(cursor: &mut LeCursor<'_>) -> Result<Self> {
        let file_info = until_nul(cursor.bytes(FILE_INFO_SIZE, "the header")?);
        let signature = cursor.u32("the signature")?;
        if signature != SIGNATURE {
            return Err(Error::new(VdiDetail::NotVdi(signature)).at(0x40));
        }
        let version = cursor.u32("the header field u32Version")?;
        let (major, minor) = (version >> 16, version & 0xffff);
        if major != VERSION_MAJOR || minor > VERSION_MINOR {
            return Err(Error::new(VdiDetail::Version { major, minor }).at(0x44));
        }
        let header_size = cursor.u32("the header field cbHeader")?;
        let image_type = match cursor.u32("the header field u32Type")? {
            TYPE_NORMAL => ImageType::Dynamic,
            TYPE_FIXED => ImageType::Fixed,
            TYPE_DIFF => ImageType::Differencing,
            other => return Err(Error::new(VdiDetail::ImageType(other)).at(AT_TYPE)),
        };
        let flags = cursor.u32("the header field fFlags")?;
        let comment = until_nul(cursor.bytes(COMMENT_SIZE, "the header field szComment")?);
        let map_offset = cursor.u32("the header field offBlocks")?;
        let data_offset = cursor.u32("the header field offData")?;
        let mut geometry = [0; 3];
        for part in &mut geometry {
            *part = cursor.u32("the header field LegacyGeometry")?;
        }
        let sector_size = cursor.u32("the header field cbSector")?;
        if sector_size != SECTOR_SIZE {
            return field("cbSector", sector_size, "512", AT_SECTOR_SIZE);
        }
        cursor.u32("the header field u32Dummy")?;
        let size = cursor.u64("the header field cbDisk")?;
        let block_size = cursor.u32("the header field cbBlock")?;
        let block = match Pow2::from_size(block_size.into()) {
            Some(_) if block_size > MAX_BLOCK_SIZE => {
                return Err(Error::new(VdiDetail::LargeBlocks(block_size)).at(AT_BLOCK_SIZE));
            }
            Some(block) if block_size >= MIN_BLOCK_SIZE => block,
            _ => {
                return field(
                    "cbBlock",
                    block_size,
                    "a power of two of at least 512",
                    AT_BLOCK_SIZE,
                );
            }
        };
        let block_extra = cursor.u32("the header field cbBlockExtra")?;
        let blocks = cursor.u32("the header field cBlocks")?;
        let blocks_allocated = cursor.u32("the header field cBlocksAllocated")?;
        let uuid = guid(cursor, "the header field uuidCreate")?;
        let modification_uuid = guid(cursor, "the header field uuidModify")?;
        let linkage = guid(cursor, "the header field uuidLinkage")?;
        let parent_modify = guid(cursor, "the header field uuidParentModify")?;
        let set = |uuid: [u8; 16]| Some(uuid).filter(|uuid| *uuid != [0; 16]);
        Ok(Self {
            file_info,
            version,
            header_size,
            image_type,
            flags,
            comment,
            map_offset,
            data_offset,
            geometry,
            size,
            block,
            block_extra,
            blocks,
            blocks_allocated,
            uuid,
            modification_uuid,
            parent_uuid: set(linkage),
            parent_modification_uuid: set(parent_modify),
        })
    }

    /// Holds the fields against each other, the limits and the file's length.
    fn validate(&self, storage: &dyn Storage, limits: &Limits) -> Result<()> {
        if self.header_size < HEADER1_SIZE {
            return field("cbHeader", self.header_size, "at least 0x180", AT_HEADER_SIZE);
        }
        if i64::try_from(self.size).is_err() {
            let (field, value, rule) = ("cbDisk", self.size, "below 2^63");
            return Err(Error::new(VdiDetail::Field { field, value, rule }).at(AT_DISK_SIZE));
        }
        let (blocks, needed) = (u64::from(self.blocks), self.block.count(self.size));
        if blocks < needed {
            let detail = VdiDetail::MapTooSmall { blocks, needed, size: self.size };
            return Err(Error::new(detail).at(AT_BLOCK_COUNT));
        }
        // VirtualBox says "should be", but writes nothing else, and QEMU reads nothing else
        for (name, value, at) in
            [("offBlocks", self.map_offset, AT_BLOCKS), ("offData", self.data_offset, AT_DATA)]
        {
            if !value.is_multiple_of(SECTOR_SIZE) {
                return field(name, value, "a multiple of 512", at);
            }
        }
        let start = u64::from(self.map_offset);
        if start < PREHEADER_SIZE.saturating_add(self.header_size.into()) {
            let detail = VdiDetail::Overlap { what: "block map", start, other: "header" };
            return Err(Error::new(detail).at(AT_BLOCKS));
        }
        let behind = start.saturating_add(blocks.saturating_mul(4));
        if behind > storage.size() {
            let detail = VdiDetail::MapBeyondEnd { start, end: storage.size() };
            return Err(Error::new(detail).at(AT_BLOCKS));
        }
        let data = u64::from(self.data_offset);
        if data < behind {
            let other = if data < start { "header" } else { "block map" };
            let detail = VdiDetail::Overlap { what: "first block", start: data, other };
            return Err(Error::new(detail).at(AT_DATA));
        }
        let (size, limit) = (needed.saturating_mul(4), limits.max_table_size);
        if size > limit {
            return Err(Error::new(VdiDetail::MapTooLarge { size, limit }).at(AT_BLOCK_COUNT));
        }
        if self.image_type == ImageType::Differencing && self.parent_uuid.is_none() {
            return Err(Error::new(VdiDetail::NoParent).at(AT_LINKAGE));
        }
        Ok(())
    }

    /// The bytes of the block map that map the disk.
    pub(super) fn map(&self) -> Range<u64> {
        let start = u64::from(self.map_offset);
        start..start.saturating_add(self.block.count(self.size).saturating_mul(4))
    }

    /// Where in the file the data of the block with this number lie.
    pub(super) fn block_data(&self, number: u32) -> u64 {
        let extra = u64::from(self.block_extra);
        let stride = self.block.size().saturating_add(extra);
        u64::from(number)
            .saturating_mul(stride)
            .saturating_add(self.data_offset.into())
            .saturating_add(extra)
    }
}

fn field<T>(field: &'static str, value: u32, rule: &'static str, at: u64) -> Result<T> {
    Err(Error::new(VdiDetail::Field { field, value: value.into(), rule }).at(at))
}

fn until_nul(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|&b| b == 0).next().unwrap_or_default().to_owned()
}

/// A UUID whose first three fields are little-endian numbers, in the order of its text form.
fn guid(cursor: &mut LeCursor<'_>, what: &'static str) -> Result<[u8; 16]> {
    let mut bytes: [u8; 16] = cursor.bytes(16, what)?.first_chunk().copied().unwrap_or_default();
    for field in [0..4, 4..6, 6..8] {
        bytes.get_mut(field).unwrap_or_default().reverse();
    }
    Ok(bytes)
}
