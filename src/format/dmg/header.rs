//! The trailer: where the parts of the file are.

use std::ops::Range;

use crate::bytes::BeCursor;
use crate::error::{Error, Result};
use crate::format::fault::{Fault, field};
use crate::num::{Pow2, to_usize};
use crate::storage::{Storage, check_inside, read_vec};

use super::layout::{CRC32, KOLY, KOLY_SIZE, KOLY_VERSION};

/// The trailer, `UDIFResourceFile`.
///
/// ```
/// use diskimage::format::dmg::{Checksum, Header};
/// use diskimage::storage::MemoryStorage;
///
/// let mut image = vec![0; 4096 + 512];
/// let trailer = &mut image[4096..];
/// let mut put = |at: usize, field: &[u8]| trailer[at..at + field.len()].copy_from_slice(field);
/// put(0, b"koly\0\0\0\x04\0\0\x02\0"); // signature, version, HeaderSize
/// put(24, &[0u64, 4096].map(u64::to_be_bytes).concat()); // the data fork
/// put(352, &[2u32, 32, 0xcafe].map(u32::to_be_bytes).concat()); // MasterChecksum: a CRC-32
/// put(492, &8u64.to_be_bytes()); // SectorCount
///
/// let header = Header::read(&MemoryStorage::new(image))?;
/// assert_eq!((header.offset, header.data_fork.clone(), header.size()), (4096, 0..4096, 4096));
/// assert_eq!(header.master_checksum, Checksum::Crc32(0xcafe));
/// # Ok::<(), diskimage::Error>(())
/// ```
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
///
/// ```
/// use diskimage::format::dmg::{Checksum, Header};
/// use diskimage::storage::MemoryStorage;
///
/// # // a table of two chunks, one by zlib and one of zeros, in a property list, and the trailer
/// # let mut stream = Vec::new();
/// # let zlib = diskimage::codec::Deflate::new(6, diskimage::codec::Wrapper::Zlib)?;
/// # zlib.encode(&[7; 4096], 4096, &mut stream)?;
/// # let length = stream.len() as u64;
/// # let mut table = b"mish\0\0\0\x01".to_vec();
/// # table.extend([0u64, 16, 0].map(u64::to_be_bytes).concat());
/// # table.resize(200, 0);
/// # table.extend(3u32.to_be_bytes());
/// # let [first, second, end] = [[0, 8, 0, length], [8, 8, 0, 0], [16, 0, 0, 0]];
/// # for (kind, run) in [(0x8000_0005u32, first), (0, second), (!0, end)] {
/// #     table.extend([kind, 0].map(u32::to_be_bytes).concat());
/// #     table.extend(run.map(u64::to_be_bytes).concat());
/// # }
/// # let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// # let six = |c: &[u8]| {
/// #     [c[0] >> 2, (c[0] & 3) << 4 | c[1] >> 4, (c[1] & 15) << 2 | c[2] >> 6, c[2] & 63]
/// # };
/// # let base64 = table.chunks(3).flat_map(six).map(|n| char::from(digits[usize::from(n)]));
/// # let base64: String = base64.collect();
/// # let plist = format!(
/// #     "<plist><dict><key>resource-fork</key><dict><key>blkx</key><array><dict>\
/// #      <key>Name</key><string>whole disk</string><key>Data</key><data>{base64}</data>\
/// #      </dict></array></dict></dict></plist>"
/// # );
/// # let mut trailer = vec![0; 512];
/// # let mut put = |at: usize, field: &[u8]| trailer[at..at + field.len()].copy_from_slice(field);
/// # put(0, b"koly\0\0\0\x04\0\0\x02\0\0\0\0\x01");
/// # put(24, &[0, length].map(u64::to_be_bytes).concat());
/// # put(216, &[length, plist.len() as u64].map(u64::to_be_bytes).concat());
/// # put(488, b"\0\0\0\x01");
/// # put(492, &16u64.to_be_bytes());
/// # let image = [stream, plist.into_bytes(), trailer].concat();
/// // `image` has 8 sectors by zlib, and 8 of zeros
/// match Header::read(&MemoryStorage::new(image))?.data_checksum {
///     Checksum::Crc32(sum) => println!("CRC-32 {sum:08x}"),
///     Checksum::Other(number) => println!("of type {number}, which is not compared"),
///     none => assert_eq!(none, Checksum::None),
/// }
/// # Ok::<(), diskimage::Error>(())
/// ```
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
