//! The block allocation table (2.5).

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::bytes::is_zero;
use crate::error::{Error, Result};
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::{Storage, TableCache};

use super::error::VhdxDetail;
use super::layout::*;
use super::metadata::Metadata;
use super::region::RegionTable;

/// What a payload block is (2.5.1.1).
///
/// ```
/// use diskimage::format::vhdx::{BatEntry, BlockState};
///
/// assert_eq!(BatEntry::decode(0, false)?.state, BlockState::NotPresent);
/// assert_eq!(BatEntry::decode(2, false)?.state, BlockState::Zero);
/// // partly there is only what has a parent for the rest
/// assert_eq!(BatEntry::decode(5 << 20 | 7, true)?.state, BlockState::PartiallyPresent);
/// assert!(BatEntry::decode(5 << 20 | 7, false).is_err());
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockState {
    /// Not in the file: the parent's, or never written.
    NotPresent,
    /// Its content is undefined. It reads as zeros here, never as the parent's.
    Undefined,
    /// Zeros.
    Zero,
    /// Freed by the guest. It reads as zeros here, never as the parent's.
    Unmapped,
    /// In the file.
    FullyPresent,
    /// The sector bitmap tells which sectors are in the file; the others are the parent's.
    PartiallyPresent,
}

/// An entry for a payload block.
///
/// ```
/// use diskimage::format::vhdx::{BatEntry, BlockState};
///
/// let entry = BatEntry::decode(5 << 20 | 6, false)?;
/// assert_eq!((entry.state, entry.offset), (BlockState::FullyPresent, 5 << 20));
/// assert!(entry.is_stored());
/// assert!(!BatEntry::decode(0, false)?.is_stored());
/// assert!(BatEntry::decode(1 << 3, false).is_err()); // a reserved bit
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatEntry {
    /// What the block is.
    pub state: BlockState,
    /// Where it lies, which only the last two states say.
    pub offset: u64,
}

impl BatEntry {
    /// Decodes an entry. `has_parent` tells whether the image is a differencing one.
    pub fn decode(value: u64, has_parent: bool) -> Result<Self> {
        let state = match value & BAT_STATE {
            0 => BlockState::NotPresent,
            1 => BlockState::Undefined,
            2 => BlockState::Zero,
            3 => BlockState::Unmapped,
            6 => BlockState::FullyPresent,
            7 if has_parent => BlockState::PartiallyPresent,
            7 => return Err(VhdxDetail::PartialWithoutParent.into()),
            other => return Err(VhdxDetail::UnknownState(other).into()),
        };
        if value & BAT_RESERVED != 0 {
            return Err(VhdxDetail::ReservedBits(value).into());
        }
        Ok(Self { state, offset: value & BAT_FILE_OFFSET })
    }

    /// Whether the block has a place in the file.
    ///
    /// ```
    /// use diskimage::format::vhdx::BatEntry;
    ///
    /// let stored = |value| BatEntry::decode(value, true).map(|entry| entry.is_stored());
    /// assert!(stored(5 << 20 | 6)? && stored(5 << 20 | 7)?); // all of it, a part of it
    /// assert!(!stored(0)? && !stored(2)?);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn is_stored(&self) -> bool {
        matches!(self.state, BlockState::FullyPresent | BlockState::PartiallyPresent)
    }
}

/// The table, read page by page.
#[derive(Debug)]
pub(super) struct Bat {
    cache: TableCache,
    /// Of the image with its log replayed.
    file_size: u64,
    regions: RegionTable,
    /// How many payload blocks there are.
    blocks: u64,
    /// The size of what counts of the table, bytes.
    size: u64,
    chunk_ratio: Pow2,
    block: Pow2,
    sector: Pow2,
    has_parent: bool,
}

impl Bat {
    /// The table in its region of `storage`; `cache` bounds the memory for its pages, bytes.
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        regions: RegionTable,
        metadata: &Metadata,
        cache: u64,
    ) -> Result<Self> {
        let (block, chunk_ratio) = (metadata.block, metadata.chunk_ratio());
        let blocks = block.count(metadata.virtual_disk_size);
        let has_parent = metadata.parent_locator.is_some();
        let entries = if has_parent {
            let chunk = chunk_ratio.size().saturating_add(1);
            chunk_ratio.count(blocks).saturating_mul(chunk)
        } else {
            // the last chunk's sector bitmap is left out, since there is none
            blocks.saturating_add(chunk_ratio.index(blocks.saturating_sub(1)))
        };
        let size = entries.saturating_mul(BAT_ENTRY_LENGTH);
        if size > regions.bat.length {
            let room = regions.bat.length.wrapping_shr(BAT_ENTRY_LENGTH.trailing_zeros());
            let detail = VhdxDetail::BatTooSmall { entries: room, needed: entries };
            return Err(Error::new(detail).at(regions.bat.offset));
        }
        let (file_size, sector) = (storage.size(), metadata.logical_sector);
        let cache = TableCache::new(storage, cache);
        Ok(Self { cache, file_size, regions, blocks, size, chunk_ratio, block, sector, has_parent })
    }

    /// The length of the file with its log replayed.
    pub(super) fn file_size(&self) -> u64 {
        self.file_size
    }

    /// Where in the file the entries lie that count.
    pub(super) fn table(&self) -> std::ops::Range<u64> {
        self.regions.bat.offset..self.at(self.size)
    }

    /// How many payload blocks there are.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// How many sector bitmap blocks there may be.
    pub(super) fn bitmaps(&self) -> u64 {
        if self.has_parent { self.chunk_ratio.count(self.blocks) } else { 0 }
    }

    pub(super) fn regions(&self) -> &RegionTable {
        &self.regions
    }

    /// The payload block number `first`, or the first one behind the page with its entry (or the
    /// hole of the file) if all entries from it on are zero: such blocks were never written, and there may be very many.
    pub(super) fn skip_unwritten(&self, first: u64) -> Result<u64> {
        let position = self.position(first);
        let rest = self.size.saturating_sub(position);
        let run = self.cache.storage().run_at(self.at(position), rest.max(1))?;
        let end = if run.hole && run.length >= BAT_ENTRY_LENGTH {
            position.saturating_add(run.length.min(rest))
        } else {
            let (bytes, start) = self.page(position)?;
            let within = position.saturating_sub(start);
            if !is_zero(bytes.get(to_usize(within)..).unwrap_or_default()) {
                return Ok(first);
            }
            start.saturating_add(to_u64(bytes.len()))
        };
        let entries = end.wrapping_shr(BAT_ENTRY_LENGTH.trailing_zeros());
        // one entry of each chunk is that of its sector bitmap
        let chunk = self.chunk_ratio.size().saturating_add(1);
        let chunks = entries.checked_div(chunk).unwrap_or_default();
        Ok(entries.saturating_sub(chunks).max(first.saturating_add(1)).min(self.blocks))
    }

    /// Calls `visit` with the payload block number `first` and those behind it whose entries lie
    /// in the same page, with their entries and these entries' file offsets, until it says stop.
    pub(super) fn visit(
        &self,
        first: u64,
        mut visit: impl FnMut(u64, Result<BatEntry>, u64) -> ControlFlow<()>,
    ) -> Result<()> {
        let (bytes, start) = self.page(self.position(first))?;
        for block in first..self.blocks {
            let position = self.position(block);
            let Some(value) = entry_at(&bytes, position.saturating_sub(start)) else { break };
            let at = self.at(position);
            let entry =
                self.decode(value).map_err(|error| error.at(at).affecting(self.guest(block)));
            if visit(block, entry, at).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Where the sector bitmap block of a chunk of payload blocks lies, or its state if there is
    /// none; and the file offset of its entry.
    pub(super) fn bitmap_block(&self, chunk: u64) -> Result<(Result<u64, u64>, u64)> {
        let (_, behind) = self.chunk(chunk);
        let position = behind.saturating_add(chunk).saturating_mul(BAT_ENTRY_LENGTH);
        let (bytes, start) = self.page(position)?;
        let at = self.at(position);
        let value = entry_at(&bytes, position.saturating_sub(start)).unwrap_or_default();
        if value & BAT_STATE != BITMAP_PRESENT {
            return Ok((Err(value & BAT_STATE), at));
        }
        if value & BAT_RESERVED != 0 {
            return Err(Error::new(VhdxDetail::ReservedBits(value)).at(at));
        }
        let (what, offset) = ("sector bitmap", value & BAT_FILE_OFFSET);
        self.regions.check_block(what, offset, SECTOR_BITMAP_LENGTH).map_err(|e| e.at(at))?;
        if offset.saturating_add(SECTOR_BITMAP_LENGTH) > self.file_size {
            let detail = VhdxDetail::BeyondEnd { what, start: offset, size: self.file_size };
            return Err(Error::new(detail).at(at));
        }
        Ok((Ok(offset), at))
    }

    /// Of a payload block that is partially present: whether its byte `within` is in the file,
    /// and for how many bytes that stays so, up to the block's end.
    pub(super) fn sector_run(&self, block: u64, within: u64) -> Result<(bool, u64)> {
        let affecting = |error: Error| error.affecting(self.guest(block));
        let (found, at) = self.bitmap_block(self.chunk_ratio.index(block)).map_err(affecting)?;
        let bitmap = found
            .map_err(|state| affecting(Error::new(VhdxDetail::NoSectorBitmap(state)).at(at)))?;
        // a block's bits fill whole bytes, and never more than a page
        let sectors = Pow2::from_bits(self.block.bits().saturating_sub(self.sector.bits()));
        let sectors = sectors.unwrap_or(self.block);
        let first = sectors.offset_of(self.chunk_ratio.within(block)).unwrap_or_default();
        let (what, byte) = ("a sector bitmap", first.wrapping_shr(3));
        let page = self.cache.page(what, bitmap, SECTOR_BITMAP_LENGTH, byte).map_err(affecting)?;
        let bits = page.bytes.get(to_usize(byte.saturating_sub(page.start))..).unwrap_or_default();
        let bits = bits.get(..to_usize(sectors.size().wrapping_shr(3))).unwrap_or(bits);
        let sector = self.sector.index(within);
        let present = bit(bits, sector);
        let end = self.sector.offset_of(run_end(bits, sector, present, sectors.size()));
        Ok((present, end.unwrap_or(self.block.size()).saturating_sub(within)))
    }

    /// The guest bytes of a payload block.
    pub(super) fn guest(&self, block: u64) -> std::ops::Range<u64> {
        let start = block.saturating_mul(self.block.size());
        start..start.saturating_add(self.block.size())
    }

    fn decode(&self, value: u64) -> Result<BatEntry> {
        let entry = BatEntry::decode(value, self.has_parent)?;
        if entry.is_stored() {
            self.regions.check_block("payload block", entry.offset, self.block.size())?;
        }
        Ok(entry)
    }

    /// The numbers of the first payload block of a chunk, and of the one behind its last.
    fn chunk(&self, chunk: u64) -> (u64, u64) {
        let first = self.chunk_ratio.offset_of(chunk).unwrap_or(u64::MAX);
        (first, first.saturating_add(self.chunk_ratio.size()))
    }

    /// Where in the table the entry of a payload block lies: behind each chunk's entries is one
    /// for the chunk's sector bitmap block.
    fn position(&self, block: u64) -> u64 {
        block.saturating_add(self.chunk_ratio.index(block)).saturating_mul(BAT_ENTRY_LENGTH)
    }

    fn at(&self, position: u64) -> u64 {
        self.regions.bat.offset.saturating_add(position)
    }

    /// The page that holds byte `position` of the table, and where in the table it starts.
    fn page(&self, position: u64) -> Result<(Arc<[u8]>, u64)> {
        let offset = self.regions.bat.offset;
        let page = self.cache.page("the block allocation table", offset, self.size, position)?;
        Ok((page.bytes, page.start))
    }
}

fn entry_at(bytes: &[u8], at: u64) -> Option<u64> {
    bytes.get(to_usize(at)..)?.first_chunk().map(|&entry| u64::from_le_bytes(entry))
}

/// The bit number `index`: the lowest bit of a byte comes first.
fn bit(bits: &[u8], index: u64) -> bool {
    let byte = bits.get(to_usize(index.wrapping_shr(3))).copied().unwrap_or_default();
    byte.wrapping_shr(u32::try_from(index & 7).unwrap_or_default()) & 1 != 0
}

/// The first bit behind number `index` that is not `value`, at most `count`.
fn run_end(bits: &[u8], index: u64, value: bool, count: u64) -> u64 {
    let same = if value { 0xff } else { 0 };
    let mut index = index.saturating_add(1);
    while index < count {
        if index.is_multiple_of(8) {
            let rest = bits.get(to_usize(index.wrapping_shr(3))..).unwrap_or_default();
            let bytes = rest.iter().take_while(|&&byte| byte == same).count();
            index = index.saturating_add(to_u64(bytes).saturating_mul(8));
        }
        if index >= count || bit(bits, index) != value {
            break;
        }
        index = index.saturating_add(1);
    }
    index.min(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use proptest::prelude::*;

    #[test]
    fn states_are_those_of_the_specification() {
        let at = 5u64 << 20;
        let state = |value, has_parent| BatEntry::decode(value, has_parent).map(|e| e.state);
        for (value, wanted) in [
            (0, BlockState::NotPresent),
            (1, BlockState::Undefined),
            (2, BlockState::Zero),
            (3, BlockState::Unmapped),
            (6, BlockState::FullyPresent),
        ] {
            assert_eq!(state(value | at, false).unwrap(), wanted);
            assert_eq!(state(value | at, true).unwrap(), wanted);
        }
        assert_eq!(state(7 | at, true).unwrap(), BlockState::PartiallyPresent);
        assert_eq!(BatEntry::decode(6 | at, true).unwrap().offset, at);
        for bad in [4, 5, 7, 6 | 1 << 3, 6 | 1 << 19, 1 << 10] {
            let error = BatEntry::decode(bad, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }

    proptest! {
        #[test]
        fn runs_of_bits_end_where_they_do(bits in proptest::collection::vec(
            prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 1..40), from: usize) {
            let count = bits.len() * 8;
            let from = from % count;
            let value = bits[from / 8] >> (from % 8) & 1 != 0;
            let end = (from..count).find(|i| (bits[i / 8] >> (i % 8) & 1 != 0) != value);
            prop_assert_eq!(bit(&bits, from as u64), value);
            let got = run_end(&bits, from as u64, value, count as u64);
            prop_assert_eq!(got, end.unwrap_or(count) as u64);
        }
    }
}
