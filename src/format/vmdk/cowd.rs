//! The header of a COWD extent ("ESX Server Sparse Extents").

use crate::bytes::LeCursor;
use crate::error::{Error, Result};
use crate::num::Pow2;
use crate::storage::{Storage, read_vec};

use super::error::VmdkDetail;
use super::layout::*;

const WHAT: &str = "COWD header";

/// A `COWDisk_Header` whose fields make sense together.
///
/// ```
/// use diskimage::format::vmdk::CowdHeader;
/// use diskimage::storage::MemoryStorage;
///
/// let mut bytes = b"COWD".to_vec();
/// // version, flags, numSectors, grainSize, gdOffset, numGDEntries
/// bytes.extend([1u32, 3, 1 << 21, 1, 4, 512].map(u32::to_le_bytes).concat());
/// bytes.resize(2048, 0);
/// bytes[1648] = 1; // uncleanShutdown
/// let header = CowdHeader::read(&MemoryStorage::new(bytes))?;
/// assert_eq!((header.num_sectors, header.grain.size()), (1 << 21, 512));
/// assert_eq!((header.gd_offset, header.num_gd_entries), (4, 512));
/// assert!(header.unclean_shutdown);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CowdHeader {
    /// The size of the extent, sectors.
    pub num_sectors: u32,
    /// The size of a grain, bytes.
    pub grain: Pow2,
    /// Where the grain directory lies, sectors.
    pub gd_offset: u32,
    /// Entries of the grain directory.
    pub num_gd_entries: u32,
    /// Whether the extent was not closed properly.
    pub unclean_shutdown: bool,
}

impl CowdHeader {
    /// Reads and validates the header at the start of `storage`.
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let bytes = read_vec(storage, "the COWD header", 0, COWD_HEADER_LENGTH)?;
        let mut cursor = LeCursor::new(&bytes, 0);
        let field = |field, value: u32, rule, at| {
            let value = value.into();
            Err(Error::new(VmdkDetail::Field { what: WHAT, field, value, rule }).at(at))
        };
        let magic = cursor.u32("the COWD header")?;
        if magic != COWD_MAGIC {
            return Err(Error::new(VmdkDetail::NotSparse(format!("{magic:#010x}"))).at(0));
        }
        let version = cursor.u32("the COWD header")?;
        if version != COWD_VERSION {
            let detail = VmdkDetail::Version { what: WHAT, version: version.into() };
            return Err(Error::new(detail).at(4));
        }
        // 3 always, says the note, and not what for
        let _flags = cursor.u32("the COWD header")?;
        let num_sectors = cursor.u32("the COWD header")?;
        let grain_size = cursor.u32("the COWD header")?;
        let gd_offset = cursor.u32("the COWD header")?;
        let num_gd_entries = cursor.u32("the COWD header")?;
        let grain = sectors(grain_size.into()).and_then(Pow2::from_size);
        let Some(grain) = grain.filter(|_| u64::from(grain_size) <= MAX_GRAIN) else {
            let rule = "a power of two of at most 0x200000 sectors";
            return field("grainSize", grain_size, rule, 16);
        };
        cursor.bytes(1648usize.saturating_sub(28), "the COWD header")?;
        let unclean_shutdown = cursor.u32("the COWD header")? != 0;
        Ok(Self { num_sectors, grain, gd_offset, num_gd_entries, unclean_shutdown })
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::tests::put32;
    use super::*;
    use crate::ErrorKind;
    use crate::storage::MemoryStorage;

    #[test]
    fn fields_are_held_against_their_rules() {
        let mut bytes = vec![0; 2048];
        bytes[..4].copy_from_slice(b"COWD");
        for (at, value) in [(4, 1), (8, 3), (12, 2048), (16, 1), (20, 4), (24, 1), (1648, 1)] {
            put32(&mut bytes, at, value);
        }
        let read = |bytes: &[u8]| CowdHeader::read(&MemoryStorage::new(bytes.to_vec()));
        let header = read(&bytes).unwrap();
        assert_eq!((header.num_sectors, header.grain.size(), header.gd_offset), (2048, 512, 4));
        assert!(header.unclean_shutdown);
        for (at, value, kind) in [
            (0, 0, ErrorKind::Corrupt),
            (4, 2, ErrorKind::Unsupported),
            (16, 0, ErrorKind::Corrupt),
            (16, 3, ErrorKind::Corrupt),
            (16, 1 << 31, ErrorKind::Corrupt),
        ] {
            let mut bytes = bytes.clone();
            put32(&mut bytes, at, value);
            let error = read(&bytes).unwrap_err();
            assert_eq!((error.kind(), error.offset()), (kind, Some(at as u64)), "{error}");
        }
        assert_eq!(read(&bytes[..2047]).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
