//! The trailer: where the parts of the file are.

use std::ops::Range;

use crate::bytes::BeCursor;
use crate::error::{Error, Result};
use crate::format::fault::{Fault, field};
use crate::num::{Pow2, to_usize};
use crate::storage::{Storage, check_inside, read_vec};

use super::layout::{CRC32, KOLY, KOLY_SIZE, KOLY_VERSION};

/// The trailer, `UDIFResourceFile`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// Where it lies.
    pub offset: u64,
    /// `Flags`: 1 is flattened, 4 is enabled for the internet.
    pub flags: u32,
    /// `DataForkOffset` and `DataForkLength`: where the chunks are.
    pub data_fork: Range<u64>,
    /// `RsrcForkOffset` and `RsrcForkLength`: resources in the binary form; may be empty.
    pub resources: Range<u64>,
    /// `XMLOffset` and `XMLLength`: the same as a property list; may be empty.
    pub plist: Range<u64>,
    /// `SegmentID`.
    pub segment_id: [u8; 16],
    /// `DataChecksum`: of the data fork as it is.
    pub data_checksum: Checksum,
    /// `MasterChecksum`: of the checksums of the tables.
    pub master_checksum: Checksum,
    /// `ImageVariant`: 1 is a disk, 2 a partition.
    pub variant: u32,
    /// `SectorCount`: the size of the disk.
    pub sector_count: u64,
}

/// A checksum, `UDIFChecksum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checksum {
    /// There is none.
    None,
    /// A CRC-32.
    Crc32(u32),
    /// Of another type, by its number.
    Other(u32),
}

impl Checksum {
    /// Reads one of the 136 bytes it takes.
    pub(super) fn read(cursor: &mut BeCursor<'_>) -> Result<Self> {
        let kind = cursor.u32("the type of a checksum")?;
        let bits = cursor.u32("the size of a checksum")?;
        let first = cursor.u32("a checksum")?;
        cursor.bytes(124, "a checksum")?;
        Ok(match (kind, bits) {
            (0, _) | (_, 0) => Self::None,
            (CRC32, _) => Self::Crc32(first),
            (other, _) => Self::Other(other),
        })
    }
}

impl Header {
    /// Finds and reads it: at the end of the file, else at its start.
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let last = storage.size().checked_sub(KOLY_SIZE);
        for offset in last.into_iter().chain(last.map(|_| 0)) {
            let bytes = read_vec(storage, "the trailer", offset, to_usize(KOLY_SIZE))?;
            if bytes.starts_with(KOLY) {
                return Self::parse(&bytes, offset, storage);
            }
        }
        let start = read_vec(storage, "the start", 0, to_usize(storage.size().min(8)))?;
        let end = last.map(|last| last.saturating_add(KOLY_SIZE).saturating_sub(8));
        let end = end.map(|end| read_vec(storage, "the end", end, 8)).transpose()?;
        if start == b"encrcdsa" || end.is_some_and(|end| end == b"cdsaencr") {
            return Err(Error::new(Fault::Encrypted("an encrypted Apple disk image")).at(0));
        }
        Err(Error::new(Fault::NotThis("DMG")).at(last.unwrap_or_default()))
    }

    fn parse(bytes: &[u8], offset: u64, storage: &dyn Storage) -> Result<Self> {
        let mut cursor = BeCursor::new(bytes, offset);
        cursor.u32("the signature")?;
        let version = cursor.u32("the trailer's version")?;
        if version != KOLY_VERSION {
            let text = format!("is a DMG of version {version}; version 4 is read");
            return Err(Error::new(Fault::Unsupported(text)).at(offset.saturating_add(4)));
        }
        let size = cursor.u32("the trailer field HeaderSize")?;
        if u64::from(size) != KOLY_SIZE {
            return field("HeaderSize", size, "512", offset.saturating_add(8));
        }
        let flags = cursor.u32("the trailer field Flags")?;
        cursor.u64("the trailer field RunningDataForkOffset")?;
        let data_fork = range(&mut cursor, storage, "the data fork")?;
        let resources = range(&mut cursor, storage, "the resource fork")?;
        let at_segment = cursor.offset();
        let number = cursor.u32("the trailer field SegmentNumber")?;
        let count = cursor.u32("the trailer field SegmentCount")?;
        if count > 1 {
            let text = format!("is part {number} of an image in {count} files, which is not read");
            return Err(Error::new(Fault::Unsupported(text)).at(at_segment));
        }
        let id = cursor.bytes(16, "the trailer field SegmentID")?;
        let segment_id = id.first_chunk().copied().unwrap_or_default();
        let data_checksum = Checksum::read(&mut cursor)?;
        let plist = range(&mut cursor, storage, "the property list")?;
        cursor.bytes(120, "the trailer")?;
        let master_checksum = Checksum::read(&mut cursor)?;
        let variant = cursor.u32("the trailer field ImageVariant")?;
        let at_count = cursor.offset();
        let sector_count = cursor.u64("the trailer field SectorCount")?;
        let size = Pow2::SECTOR.offset_of(sector_count);
        if size.is_none_or(|size| i64::try_from(size).is_err()) {
            return field("SectorCount", sector_count, "below 2^54", at_count);
        }
        Ok(Self {
            offset,
            flags,
            data_fork,
            resources,
            plist,
            segment_id,
            data_checksum,
            master_checksum,
            variant,
            sector_count,
        })
    }

    /// The size of the disk, bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        Pow2::SECTOR.offset_of(self.sector_count).unwrap_or(u64::MAX)
    }
}

/// A part of the file: its offset and its length.
fn range(
    cursor: &mut BeCursor<'_>,
    storage: &dyn Storage,
    what: &'static str,
) -> Result<Range<u64>> {
    let at = cursor.offset();
    let (offset, length) = (cursor.u64(what)?, cursor.u64(what)?);
    if length == 0 {
        return Ok(0..0);
    }
    check_inside(storage, what, offset, length).map_err(|error| error.at(at))?;
    Ok(offset..offset.saturating_add(length))
}
