//! The headers and entries of an seSparse extent, which VMware has not published: as observed.

use crate::bytes::LeCursor;
use crate::error::{Error, Result};
use crate::storage::{Storage, read_vec};

use super::error::VmdkDetail;
use super::layout::*;

const WHAT: &str = "seSparse header";

/// The constant header of an seSparse extent whose fields make sense together. Sizes and places
/// are sectors.
///
/// ```
/// use diskimage::format::vmdk::SeSparseHeader;
/// use diskimage::format::vmdk::layout::*;
/// use diskimage::storage::MemoryStorage;
///
/// let mut bytes = vec![0; 1024];
/// let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
/// let mut fields = [0; 25];
/// fields[..5].copy_from_slice(&[SESPARSE_MAGIC, SESPARSE_VERSION, 1 << 21, SESPARSE_GRAIN, 64]);
/// fields[10] = 1; // the volatile header is in the next sector
/// fields[16..20].copy_from_slice(&[2, 1, 3, 64]); // grain directory, grain tables
/// fields[24] = 128; // grains
/// put(0, &fields.map(u64::to_le_bytes).concat());
/// put(512, &SESPARSE_VOLATILE_MAGIC.to_le_bytes());
///
/// let header = SeSparseHeader::read(&MemoryStorage::new(bytes))?;
/// assert_eq!(sectors(header.capacity), Some(1 << 30));
/// assert_eq!((header.grain_directory_offset, header.grain_tables_offset), (2, 3));
/// assert_eq!(header.grains_offset, 128);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SeSparseHeader {
    /// The size of the extent.
    pub capacity: u64,
    /// Where the grain directory lies.
    pub grain_directory_offset: u64,
    /// Its size.
    pub grain_directory_size: u64,
    /// Where the grain tables lie, one after the other.
    pub grain_tables_offset: u64,
    /// The size of all of them.
    pub grain_tables_size: u64,
    /// Where grains lie.
    pub grains_offset: u64,
}

impl SeSparseHeader {
    /// Reads and validates both headers of `storage`. A journal that is to be replayed is refused.
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let bytes = read_vec(storage, "the seSparse header", 0, SESPARSE_HEADER_LENGTH)?;
        let mut cursor = LeCursor::new(&bytes, 0);
        let mut next = || cursor.u64("the seSparse header");
        let magic = next()?;
        if magic != SESPARSE_MAGIC {
            return Err(Error::new(VmdkDetail::NotSparse(format!("{magic:#018x}"))).at(0));
        }
        let version = next()?;
        if version != SESPARSE_VERSION {
            return Err(Error::new(VmdkDetail::Version { what: WHAT, version }).at(8));
        }
        let capacity = next()?;
        let grain_size = next()?;
        let grain_table_size = next()?;
        let flags = next()?;
        for _reserved in 0..4 {
            next()?;
        }
        let volatile_header_offset = next()?;
        let _volatile_header_size = next()?;
        // the journal: its header's place and size, its own place and size
        for _journal in 0..4 {
            next()?;
        }
        let grain_directory_offset = next()?;
        let grain_directory_size = next()?;
        let grain_tables_offset = next()?;
        let grain_tables_size = next()?;
        // the bitmap of free grains and the back map speak of writing only
        for _unused in 0..4 {
            next()?;
        }
        let grains_offset = next()?;
        for (field, value, rule, good, at) in [
            ("capacity", capacity, "below 2^54", capacity < 1 << 54, 16),
            ("grain size", grain_size, "8", grain_size == SESPARSE_GRAIN, 24),
            ("grain table size", grain_table_size, "64", grain_table_size == 64, 32),
            ("flags", flags, "0", flags == 0, 40),
        ] {
            if !good {
                return Err(Error::new(VmdkDetail::Field { what: WHAT, field, value, rule }).at(at));
            }
        }
        check_volatile(storage, volatile_header_offset)?;
        Ok(Self {
            capacity,
            grain_directory_offset,
            grain_directory_size,
            grain_tables_offset,
            grain_tables_size,
            grains_offset,
        })
    }

    /// The place in the file of the grain table that a grain directory entry names; `None` if it
    /// names none.
    pub(super) fn table(&self, entry: u64) -> Result<Option<u64>, VmdkDetail> {
        if entry == 0 {
            return Ok(None);
        }
        let bad = VmdkDetail::Entry { what: "grain directory entry", value: entry };
        if entry & SESPARSE_GDE_TYPE != SESPARSE_GDE_TABLE {
            return Err(bad);
        }
        let place = (entry & !SESPARSE_GDE_TYPE).saturating_mul(SESPARSE_GRAIN_TABLE);
        if place.saturating_add(SESPARSE_GRAIN_TABLE) > self.grain_tables_size {
            return Err(bad);
        }
        let place = self.grain_tables_offset.checked_add(place).and_then(sectors);
        place.map(Some).ok_or(bad)
    }

    /// The place in the file of the grain of this number.
    pub(super) fn grain(&self, number: u64) -> Option<u64> {
        let place = number.checked_mul(SESPARSE_GRAIN)?;
        self.grains_offset.checked_add(place).and_then(sectors)
    }
}

/// The number of the grain in an entry of the type allocated: its low twelve bits come last.
pub(super) fn grain_number(entry: u64) -> u64 {
    let low = (entry & 0x0fff_0000_0000_0000).wrapping_shr(48);
    let high = (entry & 0x0000_ffff_ffff_ffff).wrapping_shl(12);
    high | low
}

fn check_volatile(storage: &dyn Storage, offset: u64) -> Result<()> {
    let at = offset.saturating_mul(SECTOR);
    let bytes = read_vec(storage, "the volatile header", at, 32)?;
    let mut cursor = LeCursor::new(&bytes, at);
    let magic = cursor.u64("the volatile header")?;
    if magic != SESPARSE_VOLATILE_MAGIC {
        let (what, field, rule) = ("volatile header", "magic", "0xcafecafe");
        return Err(Error::new(VmdkDetail::Field { what, field, value: magic, rule }).at(at));
    }
    let _free_table = cursor.u64("the volatile header")?;
    let _next_transaction = cursor.u64("the volatile header")?;
    let offset = cursor.offset();
    if cursor.u64("the volatile header")? != 0 {
        return Err(Error::new(VmdkDetail::JournalDirty).at(offset));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::header::tests::put64;
    use super::*;
    use crate::ErrorKind;
    use crate::storage::MemoryStorage;

    /// An seSparse extent of 1 MiB whose grain table has the entries `grains`; room for four
    /// grains, each filled by its number.
    pub(in super::super) fn image(grains: &[(usize, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; 0x100 * 512 + 4 * 4096];
        let fields = [
            (0, SESPARSE_MAGIC),
            (8, SESPARSE_VERSION),
            (16, 2048),
            (24, 8),
            (32, 64),
            (80, 1),
            (88, 1),
            (128, 0x10),
            (136, 0x10),
            (144, 0x20),
            (152, 0x40),
            (192, 0x100),
            (200, 0x20),
            (512, SESPARSE_VOLATILE_MAGIC),
            (0x10 * 512, SESPARSE_GDE_TABLE),
        ];
        for (at, value) in fields {
            put64(&mut bytes, at, value);
        }
        for &(index, value) in grains {
            put64(&mut bytes, 0x20 * 512 + index * 8, value);
        }
        for number in 0..4 {
            let at = 0x100 * 512 + number * 4096;
            bytes[at..at + 4096].fill(number as u8 + 1);
        }
        bytes
    }

    #[test]
    fn the_number_of_a_grain_is_scattered() {
        assert_eq!(grain_number(0x3000_0000_0000_0000), 0);
        assert_eq!(grain_number(0x3001_0000_0000_0000), 1);
        assert_eq!(grain_number(0x3fff_0000_0000_0001), 0x1fff);
        assert_eq!(grain_number(0x3234_0000_0000_0001), 0x1234);
    }

    #[test]
    fn fields_are_held_against_their_rules() {
        let read = |at: usize, value: u64| {
            let mut bytes = image(&[]);
            put64(&mut bytes, at, value);
            SeSparseHeader::read(&MemoryStorage::new(bytes))
        };
        assert_eq!(read(40, 0).unwrap().capacity, 2048);
        for (at, value, kind) in [
            (0, 0, ErrorKind::Corrupt),
            (8, 3, ErrorKind::Unsupported),
            (16, u64::MAX, ErrorKind::Corrupt),
            (24, 16, ErrorKind::Corrupt),
            (32, 0, ErrorKind::Corrupt),
            (40, 1, ErrorKind::Corrupt),
            (80, u64::MAX, ErrorKind::Corrupt),
            (512, 0, ErrorKind::Corrupt),
            (536, 1, ErrorKind::Unsupported),
        ] {
            assert_eq!(read(at, value).unwrap_err().kind(), kind, "{at}");
        }
        let header = read(40, 0).unwrap();
        assert_eq!(header.table(0).unwrap(), None);
        assert_eq!(header.table(SESPARSE_GDE_TABLE).unwrap(), Some(0x4000));
        assert!(header.table(SESPARSE_GDE_TABLE | 1).is_err(), "beyond the tables");
        assert!(header.table(0x2000_0000_0000_0000).is_err());
        assert!(header.table(1).is_err());
    }
}
