//! The dynamic header ("Dynamic Disk Header Format").

use std::ops::Range;

use crate::bytes::BeCursor;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::{Storage, read_vec};

use super::error::VhdDetail;
use super::footer::{FooterCopies, check_version, checksum, sixteen};
use super::layout::*;
use super::locator::{ParentLocator, parent_name, read_locator};

/// The header of a dynamic or differencing disk, with a block allocation table that lies in the
/// file and has an entry for every block of the disk.
///
/// ```
/// use diskimage::Limits;
/// use diskimage::format::vhd::VhdOptions;
/// use diskimage::format::vhd::{DynamicHeader, FooterCopies};
/// use diskimage::storage::MemoryStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.vhd");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = VhdOptions::new().writer(9 << 20)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let mut bytes = std::fs::read(&path)?;
/// let read = |bytes: &[u8]| {
///     let storage = MemoryStorage::new(bytes.to_vec());
///     DynamicHeader::read(&storage, &FooterCopies::read(&storage)?, &Limits::default())
/// };
/// let header = read(&bytes)?;
/// assert_eq!((header.offset, header.table_offset), (512, 512 + 1024));
/// assert_eq!((header.block.size(), header.blocks), (2 << 20, 5));
/// assert!(header.is_intact() && header.locators.is_empty());
///
/// bytes[512 + 1023] ^= 1; // reserved, and summed up
/// let error = read(&bytes)?.check().unwrap_err();
/// assert_eq!(error.offset(), Some(512 + 36));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DynamicHeader {
    /// Where in the file it lies: the footer's Data Offset.
    pub offset: u64,
    /// The offset of the block allocation table.
    pub table_offset: u64,
    /// How many entries the table has; only the first [`blocks`](Self::blocks) of them count.
    pub max_table_entries: u32,
    /// The size of a block's data.
    pub block: Pow2,
    /// How many blocks the disk has.
    pub blocks: u64,
    /// The checksum in the file.
    pub checksum: u32,
    /// The checksum of its bytes.
    pub computed_checksum: u32,
    /// The parent's Unique ID, in the order of its text form.
    pub parent_unique_id: [u8; 16],
    /// When the parent's file was last modified: seconds since 2000 began, UTC; zero as far as
    /// Windows is concerned.
    pub parent_time_stamp: u32,
    /// Parent Unicode Name as it is stored; `None` if empty or no UTF-16.
    pub parent_name: Option<String>,
    /// The parent locators that are there.
    pub locators: Vec<ParentLocator>,
}

impl DynamicHeader {
    /// Reads and validates the header that `copies` leads to.
    pub fn read(storage: &dyn Storage, copies: &FooterCopies, limits: &Limits) -> Result<Self> {
        let offset = copies.footer.data_offset;
        let what = "the dynamic header";
        let bytes = read_vec(storage, what, offset, to_usize(HEADER_SIZE))?;
        if !bytes.starts_with(HEADER_COOKIE) {
            return Err(Error::new(VhdDetail::HeaderCookie { what: "dynamic header" }).at(offset));
        }
        let (stored, computed) = checksum(&bytes, HEADER_CHECKSUM);
        // a header that makes no sense and has a wrong checksum is damaged, whatever it says
        let blame = |error| {
            if stored == computed { error } else { wrong_checksum(offset, stored, computed) }
        };
        let mut header = Self::parse(&bytes, offset).map_err(blame)?;
        (header.checksum, header.computed_checksum) = (stored, computed);
        header.blocks = header.block.count(copies.footer.size());
        header.check_table(copies, limits).map_err(blame)?;
        header.read_locators(storage, &bytes)?;
        Ok(header)
    }

    /// Whether the checksum is right.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.checksum == self.computed_checksum
    }

    /// Refuses a header with a wrong checksum.
    pub fn check(&self) -> Result<()> {
        if self.is_intact() {
            return Ok(());
        }
        Err(wrong_checksum(self.offset, self.checksum, self.computed_checksum))
    }

    fn parse(bytes: &[u8], offset: u64) -> Result<Self> {
        let at = |field: u64| offset.saturating_add(field);
        let mut cursor = BeCursor::new(bytes, offset);
        cursor.bytes(HEADER_COOKIE.len(), "the dynamic header")?;
        cursor.u64("the dynamic header field Data Offset")?;
        let table_offset = cursor.u64("the dynamic header field Table Offset")?;
        let version = cursor.u32("the dynamic header field Header Version")?;
        check_version("dynamic header", version).map_err(|error| error.at(at(24)))?;
        let max_table_entries = cursor.u32("the dynamic header field Max Table Entries")?;
        let block_size = cursor.u32("the dynamic header field Block Size")?;
        let block = match Pow2::from_size(block_size.into()) {
            Some(_) if block_size > MAX_BLOCK_SIZE => {
                return Err(Error::new(VhdDetail::LargeBlocks(block_size)).at(at(32)));
            }
            Some(block) if block_size >= MIN_BLOCK_SIZE => block,
            _ => {
                let (value, rule) = (block_size.into(), "a power of two of at least 512");
                let detail = VhdDetail::Field { field: "Block Size", value, rule };
                return Err(Error::new(detail).at(at(32)));
            }
        };
        cursor.u32("the dynamic header field Checksum")?;
        let parent_unique_id = sixteen(&mut cursor, "the dynamic header field Parent Unique ID")?;
        let parent_time_stamp = cursor.u32("the dynamic header field Parent Time Stamp")?;
        cursor.u32("the dynamic header field Reserved")?;
        let name =
            cursor.bytes(PARENT_NAME_SIZE, "the dynamic header field Parent Unicode Name")?;
        Ok(Self {
            offset,
            table_offset,
            max_table_entries,
            block,
            blocks: 0,
            checksum: 0,
            computed_checksum: 0,
            parent_unique_id,
            parent_time_stamp,
            parent_name: parent_name(name),
            locators: Vec::new(),
        })
    }

    /// Holds the block allocation table against the disk, the file and the limits.
    fn check_table(&self, copies: &FooterCopies, limits: &Limits) -> Result<()> {
        let (entries, needed) = (u64::from(self.max_table_entries), self.blocks);
        if entries < needed {
            let size = copies.footer.size();
            let error = Error::new(VhdDetail::TableTooSmall { entries, needed, size });
            return Err(error.at(self.offset.saturating_add(28)));
        }
        let (start, end) = (self.table_offset, copies.data_end());
        let table = |error: VhdDetail| Err(Error::new(error).at(self.offset.saturating_add(16)));
        // all of the table is there, even if the disk does not need it all
        let what = "block allocation table";
        match start.checked_add(entries.saturating_mul(4)) {
            Some(behind) if behind <= end => {}
            _ => return table(VhdDetail::BeyondEnd { what, start, end }),
        }
        if let Some(other) = self.overlap(&self.table(), false) {
            return table(VhdDetail::Overlap { what, start, other });
        }
        let size = needed.saturating_mul(4);
        if size > limits.max_table_size {
            return table(VhdDetail::TableTooLarge { size, limit: limits.max_table_size });
        }
        Ok(())
    }

    fn read_locators(&mut self, storage: &dyn Storage, header: &[u8]) -> Result<()> {
        let entries = header.get(to_usize(HEADER_LOCATORS)..).unwrap_or_default();
        for (entry, index) in entries.chunks_exact(LOCATOR_SIZE).take(LOCATORS).zip(0u64..) {
            let at = index.saturating_mul(to_u64(LOCATOR_SIZE)).saturating_add(HEADER_LOCATORS);
            let locator = read_locator(storage, entry, self.offset.saturating_add(at))?;
            self.locators.extend(locator);
        }
        Ok(())
    }

    /// The bytes of the block allocation table that map the disk.
    pub(super) fn table(&self) -> Range<u64> {
        let length = self.blocks.saturating_mul(4);
        self.table_offset..self.table_offset.saturating_add(length)
    }

    /// The size of the sector bitmap in front of a block's data: a bit for each sector, padded to
    /// a sector ("Block Allocation Table and Data Blocks").
    pub(super) fn bitmap_size(&self) -> u64 {
        let sector = Pow2::from_size(SECTOR_SIZE).unwrap_or(self.block);
        sector.ceil(self.block.size().div_ceil(SECTOR_SIZE.saturating_mul(8)))
    }

    /// Which structure at the start of the file `range` lies upon, if it does.
    pub(super) fn overlap(&self, range: &Range<u64>, with_table: bool) -> Option<&'static str> {
        let header = self.offset..self.offset.saturating_add(HEADER_SIZE);
        let table = if with_table { self.table() } else { 0..0 };
        let structures = [
            ("copy of the footer", 0..FOOTER_SIZE),
            ("dynamic header", header),
            ("block allocation table", table),
        ];
        let overlaps = |other: &Range<u64>| range.start < other.end && other.start < range.end;
        structures.iter().find(|(_, other)| overlaps(other)).map(|(name, _)| *name)
    }
}

#[cold]
fn wrong_checksum(offset: u64, stored: u32, computed: u32) -> Error {
    let detail = VhdDetail::Checksum { what: "dynamic header", stored, computed };
    Error::new(detail).at(offset.saturating_add(to_u64(HEADER_CHECKSUM)))
}
