//! What separates the parts of a stream ("Stream-Optimized Compressed Sparse Extents").
//!
//! Everything here is told by the bytes alone, so that a reader that only goes forward can use it.

use crate::bytes::LeCursor;
use crate::error::{Error, Result};

use super::error::VmdkDetail;
use super::layout::*;

/// What a sector of a stream announces.
///
/// ```
/// use diskimage::format::vmdk::Marker;
/// use diskimage::format::vmdk::{Subformat, VmdkOptions};
///
/// # let storage = std::sync::Arc::new(diskimage::storage::MemoryStorage::new(vec![7; 64 << 10]));
/// # let raw = diskimage::OpenOptions::new().format(diskimage::Format::Raw);
/// # let disk = raw.open_storage(storage, "raw".as_ref())?;
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = VmdkOptions::new().subformat(Subformat::StreamOptimized).writer(64 << 10)?;
/// # diskimage::Convert::new().image(&disk, writer, None, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of a disk of sevens
/// // from the first grain on, at sector 128, to the end of the stream
/// let (mut at, mut kinds) = (128 * 512, Vec::new());
/// while let Some(sector) = bytes.get(at..at + 512) {
///     let (name, length) = match Marker::parse(sector, at as u64)? {
///         Marker::Grain(grain) => ("grain", 12 + grain.size as usize),
///         Marker::GrainTable(sectors) => ("table", 512 + 512 * sectors as usize),
///         Marker::GrainDirectory(sectors) => ("directory", 512 + 512 * sectors as usize),
///         Marker::Footer(sectors) => ("footer", 512 + 512 * sectors as usize),
///         _ => ("end", 512),
///     };
///     kinds.push(name);
///     at += length.next_multiple_of(512);
/// }
/// assert_eq!(kinds, ["grain", "table", "directory", "footer", "end"]);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Marker {
    /// A compressed grain starts with this very sector.
    Grain(GrainHeader),
    /// The end of the stream.
    EndOfStream,
    /// A grain table follows, so many sectors long.
    GrainTable(u64),
    /// The grain directory follows, so many sectors long.
    GrainDirectory(u64),
    /// The footer follows, so many sectors long.
    Footer(u64),
}

/// The header of a compressed grain.
///
/// ```
/// use diskimage::format::vmdk::GrainHeader;
/// use diskimage::format::vmdk::{Subformat, VmdkOptions};
///
/// # let storage = std::sync::Arc::new(diskimage::storage::MemoryStorage::new(vec![7; 64 << 10]));
/// # let raw = diskimage::OpenOptions::new().format(diskimage::Format::Raw);
/// # let disk = raw.open_storage(storage, "raw".as_ref())?;
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = VmdkOptions::new().subformat(Subformat::StreamOptimized).writer(64 << 10)?;
/// # diskimage::Convert::new().image(&disk, writer, None, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of a disk of sevens
/// let at = 128 * 512; // where the first grain lies in our streams
/// let header = GrainHeader::parse(&bytes[at..at + 12], at as u64)?;
/// assert_eq!(header.lba, 0);
/// header.check(0, 64 << 10)?; // it is the grain of the first 64 KiB
/// assert!(header.check(64 << 10, 64 << 10).is_err()); // and no other one
/// assert!(u64::from(header.size) < GrainHeader::limit(64 << 10));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrainHeader {
    /// The sector of the disk that the grain starts at.
    pub lba: u64,
    /// How many bytes of compressed data follow the header.
    pub size: u32,
}

impl Marker {
    /// Parses a marker from the `bytes` of a sector that lies at `at` in the file.
    ///
    /// ```
    /// use diskimage::format::vmdk::Marker;
    ///
    /// let mut sector = [0; 512];
    /// sector[0] = 4; // sectors that follow
    /// sector[12] = 1; // MARKER_GT
    /// assert_eq!(Marker::parse(&sector, 0)?, Marker::GrainTable(4));
    /// assert_eq!(Marker::parse(&[0; 512], 0)?, Marker::EndOfStream);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn parse(bytes: &[u8], at: u64) -> Result<Self> {
        let header = GrainHeader::parse(bytes, at)?;
        if header.size != 0 {
            return Ok(Self::Grain(header));
        }
        let rest = bytes.get(GRAIN_HEADER_LENGTH..).unwrap_or_default();
        let mut cursor = LeCursor::new(rest, at.saturating_add(12));
        match cursor.u32("a marker")? {
            MARKER_EOS if header.lba == 0 => Ok(Self::EndOfStream),
            MARKER_EOS => {
                let (what, field, rule) = ("end-of-stream marker", "val", "0");
                let value = header.lba;
                Err(Error::new(VmdkDetail::Field { what, field, value, rule }).at(at))
            }
            MARKER_GT => Ok(Self::GrainTable(header.lba)),
            MARKER_GD => Ok(Self::GrainDirectory(header.lba)),
            MARKER_FOOTER => Ok(Self::Footer(header.lba)),
            other => {
                let (what, field, value) = ("marker", "type", other.into());
                let rule = "from 0 to 3";
                let detail = VmdkDetail::Field { what, field, value, rule };
                Err(Error::new(detail).at(at.saturating_add(12)))
            }
        }
    }
}

impl GrainHeader {
    /// Parses the twelve bytes that start a compressed grain at `at` in the file.
    ///
    /// ```
    /// use diskimage::format::vmdk::GrainHeader;
    ///
    /// let bytes = b"\x80\0\0\0\0\0\0\0\x0b\x01\0\0";
    /// let header = GrainHeader::parse(bytes, 0)?;
    /// assert_eq!((header.lba, header.size), (128, 267));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn parse(bytes: &[u8], at: u64) -> Result<Self> {
        let mut cursor = LeCursor::new(bytes, at);
        Ok(Self { lba: cursor.u64("a grain header")?, size: cursor.u32("a grain header")? })
    }

    /// Holds the header against the grain that a grain table says is there: `start` is its byte
    /// offset in the extent, `grain` its length.
    ///
    /// ```
    /// use diskimage::format::vmdk::GrainHeader;
    ///
    /// let header = GrainHeader::parse(b"\x80\0\0\0\0\0\0\0\x0b\x01\0\0", 0)?;
    /// header.check(128 * 512, 64 << 10)?;
    /// let error = header.check(0, 64 << 10).unwrap_err(); // a table that leads to another's grain
    /// assert_eq!(error.kind(), diskimage::ErrorKind::Corrupt);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn check(&self, start: u64, grain: u64) -> Result<()> {
        if sectors(self.lba) != Some(start) {
            let wanted = start.checked_div(SECTOR).unwrap_or_default();
            return Err(VmdkDetail::GrainLba { found: self.lba, wanted }.into());
        }
        let (size, limit) = (u64::from(self.size), Self::limit(grain));
        if size == 0 || size > limit {
            return Err(VmdkDetail::GrainSize { size, limit }.into());
        }
        Ok(())
    }

    /// The most bytes that a compressed grain of `grain` bytes is allowed: twice as many, which
    /// no deflate encoder needs.
    ///
    /// ```
    /// use diskimage::format::vmdk::GrainHeader;
    ///
    /// assert_eq!(GrainHeader::limit(64 << 10), 128 << 10);
    /// ```
    #[must_use]
    pub fn limit(grain: u64) -> u64 {
        grain.saturating_mul(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(val: u64, size: u32, kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..8].copy_from_slice(&val.to_le_bytes());
        bytes[8..12].copy_from_slice(&size.to_le_bytes());
        bytes[12..16].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn the_size_tells_grains_from_markers() {
        let parse = |bytes: Vec<u8>| Marker::parse(&bytes, 0x200);
        let grain = GrainHeader { lba: 128, size: 5 };
        assert_eq!(parse(sector(128, 5, 77)).unwrap(), Marker::Grain(grain));
        assert_eq!(parse(sector(0, 0, 0)).unwrap(), Marker::EndOfStream);
        assert_eq!(parse(sector(4, 0, 1)).unwrap(), Marker::GrainTable(4));
        assert_eq!(parse(sector(1, 0, 2)).unwrap(), Marker::GrainDirectory(1));
        assert_eq!(parse(sector(1, 0, 3)).unwrap(), Marker::Footer(1));
        assert_eq!(parse(sector(0, 0, 4)).unwrap_err().offset(), Some(0x20c));
        assert!(parse(sector(1, 0, 0)).is_err(), "an end with a value");
        assert!(Marker::parse(&[0; 15], 0).is_err());
    }

    #[test]
    fn a_grain_header_must_fit_its_grain() {
        let header = |lba, size| GrainHeader { lba, size };
        assert!(header(128, 1).check(65_536, 65_536).is_ok());
        assert!(header(128, 131_072).check(65_536, 65_536).is_ok());
        assert!(header(128, 131_073).check(65_536, 65_536).is_err());
        assert!(header(128, 0).check(65_536, 65_536).is_err());
        assert!(header(0, 9).check(65_536, 65_536).is_err());
        assert!(header(u64::MAX, 9).check(65_536, 65_536).is_err());
    }
}
