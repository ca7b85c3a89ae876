//! The guest's view: mapping through the block allocation table and the sector bitmaps.

use std::sync::Arc;

use byteorder::{BigEndian, ByteOrder};

use crate::check::{Checking, Patch, RepairScope, Repaired};
use crate::error::{Error, Result};
use crate::format::{Format, LayerOptions};
use crate::layer::{Description, Identity, Layer, Mapping, MappingKind, Reach, Reference, Source};
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, TableCache};
use crate::text::uuid;

use super::describe::describe;
use super::error::VhdDetail;
use super::footer::{DiskType, Footer, FooterCopies};
use super::header::DynamicHeader;
use super::layout::*;
use super::locator::parent_reference;
use super::{check, repair};

/// A VHD image as a layer.
///
/// The sector bitmap in front of each block counts for differencing disks only. For dynamic disks
/// the specification calls it a mark of what was never written, and demands that such sectors are
/// zeros in the file ("Block Allocation Table and Data Blocks"): going by the data gives the same
/// bytes for every image that keeps to that, and loses nothing for one that does not. All other
/// readers do the same.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::LayerOptions;
/// use diskimage::format::vhd::VhdOptions;
/// use diskimage::format::vhd::{CopyState, VhdLayer};
/// use diskimage::layer::MappingKind;
/// use diskimage::storage::FileStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.vhd");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = VhdOptions::new().time(1_700_000_000).writer(8 << 20)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let storage = Arc::new(FileStorage::open(&path)?);
/// let layer = VhdLayer::open(storage, &LayerOptions::default())?;
/// assert_eq!(layer.footer().time_stamp, 1_700_000_000 - 946_684_800);
/// assert_eq!(layer.copies().start, CopyState::Valid);
/// assert_eq!(layer.header().map(|header| header.blocks), Some(4));
/// // no block is in the file
/// let kind = MappingKind::Zero { allocated: true, stored: None };
/// assert_eq!(layer.map(0, u64::MAX)?.kind, kind);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct VhdLayer {
    storage: Arc<dyn Storage>,
    copies: FooterCopies,
    size: u64,
    /// None for fixed disks.
    header: Option<DynamicHeader>,
    references: Vec<Reference>,
    trust_broken: bool,
    look_over: u64,
    cache: TableCache,
}

impl VhdLayer {
    /// Opens `storage` as a VHD image. Nothing else is opened.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::vhd::{VhdLayer, VhdOptions};
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Code, Layer};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.vhd");
    /// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
    /// let writer = VhdOptions::new().writer(8 << 20)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `path` is the file that it makes of an empty disk
    /// let mut bytes = std::fs::read(&path)?;
    /// bytes.truncate(bytes.len() - 512); // the footer is lost, its copy at the start is there
    /// let layer = VhdLayer::open(Arc::new(MemoryStorage::new(bytes)), &LayerOptions::default())?;
    /// layer.check_readable()?;
    /// let findings = layer.describe()?.findings;
    /// assert!(findings.iter().any(|finding| finding.code == Code::FooterMissing));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let (limits, trust_broken) = (&options.limits, options.trust_broken);
        let copies = FooterCopies::read(&storage)?;
        let size = copies.footer.size();
        let header = match copies.footer.disk_type {
            DiskType::Fixed => {
                check_fixed(&storage, &copies)?;
                None
            }
            DiskType::Dynamic | DiskType::Differencing => {
                Some(DynamicHeader::read(&storage, &copies, limits)?)
            }
        };
        let references = match &header {
            Some(header) if copies.footer.disk_type == DiskType::Differencing => {
                vec![parent_reference(header)]
            }
            _ => Vec::new(),
        };
        let cache = TableCache::new(Arc::clone(&storage), limits.table_cache);
        let look_over = options.look_over;
        Ok(Self { storage, copies, size, header, references, trust_broken, look_over, cache })
    }

    pub(super) fn file(&self) -> &dyn Storage {
        &self.storage
    }

    /// The footer that counts.
    #[must_use]
    pub fn footer(&self) -> &Footer {
        &self.copies.footer
    }

    /// Both copies of it.
    #[must_use]
    pub fn copies(&self) -> &FooterCopies {
        &self.copies
    }

    /// The dynamic header; fixed disks have none.
    #[must_use]
    pub fn header(&self) -> Option<&DynamicHeader> {
        self.header.as_ref()
    }

    /// Refuses to give out data that may be wrong.
    fn check_readable(&self) -> Result<()> {
        if self.trust_broken {
            return Ok(());
        }
        self.copies.check()?;
        self.header.as_ref().map_or(Ok(()), DynamicHeader::check)
    }

    /// Whether describing it may look into its table.
    pub(super) fn looks_over(&self) -> bool {
        self.look_over > 0
    }

    fn is_differencing(&self) -> bool {
        self.copies.footer.disk_type == DiskType::Differencing
    }

    /// What a block that is not in the file reads as.
    fn unallocated(&self) -> MappingKind {
        if self.is_differencing() {
            MappingKind::Parent { stored: None }
        } else {
            MappingKind::Zero { allocated: true, stored: None }
        }
    }

    /// A fixed disk: the file itself, up to the footer.
    fn map_fixed(&self, offset: u64, max: u64) -> Result<Mapping> {
        let end = self.copies.data_end();
        let left = end.saturating_sub(offset);
        if left == 0 {
            let detail = VhdDetail::FixedTooShort { size: self.size, held: end };
            return Err(Error::new(detail).at(end).affecting(end..self.size));
        }
        let kind = MappingKind::Stored { source: Source::Own, offset };
        Ok(Mapping { length: max.min(left), kind })
    }

    /// The entries of the block allocation table from that of block `index` on, to the end of a
    /// page, and the offset in the file of the first.
    fn entries(
        &self,
        header: &DynamicHeader,
        index: u64,
    ) -> Result<(u64, impl Iterator<Item = u32> + use<>)> {
        let table = header.table();
        let length = table.end.saturating_sub(table.start);
        let position = index.saturating_mul(4);
        let what = "the block allocation table";
        let page = self.cache.page(what, table.start, length, position)?;
        let from = position.saturating_sub(page.start);
        let at = page.file_offset.saturating_add(from);
        let (bytes, from) = (page.bytes, to_usize(from));
        let entries = (from..)
            .step_by(4)
            .map_while(move |at| bytes.get(at..)?.get(..4).map(BigEndian::read_u32));
        Ok((at, entries))
    }

    fn map_blocks(&self, header: &DynamicHeader, offset: u64, max: u64) -> Result<Mapping> {
        let block = header.block;
        let start = block.floor(offset);
        let guest = start..start.saturating_add(block.size()).min(self.size);
        let entries = self.entries(header, block.index(offset));
        let (at, mut entries) = entries.map_err(|error| error.affecting(guest.clone()))?;
        let first = entries.next().unwrap_or(BAT_UNUSED);
        if first == BAT_UNUSED {
            let wanted = block.count(block.within(offset).saturating_add(max));
            let more = entries.take_while(|entry| *entry == BAT_UNUSED);
            let more = more.take(to_usize(wanted.saturating_sub(1))).count();
            let end =
                start.saturating_add(block.size().saturating_mul(to_u64(more).saturating_add(1)));
            let length = end.saturating_sub(offset).min(max);
            return Ok(Mapping { length, kind: self.unallocated() });
        }
        let piece = self.map_block(header, first, guest.end.saturating_sub(start), offset);
        let Mapping { length, kind } =
            piece.map_err(|error| error.at(at).affecting(guest.clone()))?;
        let length = length.min(guest.end.saturating_sub(offset)).min(max);
        Ok(Mapping { length, kind })
    }

    /// Maps within the block that `entry` says where it is; `used` bytes of it belong to the disk.
    fn map_block(
        &self,
        header: &DynamicHeader,
        entry: u32,
        used: u64,
        offset: u64,
    ) -> Result<Mapping> {
        let within = header.block.within(offset);
        let bitmap = u64::from(entry).saturating_mul(SECTOR_SIZE);
        let data = bitmap.saturating_add(header.bitmap_size());
        let what = "block";
        if let Some(other) = header.overlap(&(bitmap..data.saturating_add(used)), true) {
            return Err(VhdDetail::Overlap { what, start: bitmap, other }.into());
        }
        let (host, end) = (data.saturating_add(within), self.copies.data_end());
        if host >= end {
            return Err(VhdDetail::BeyondEnd { what, start: bitmap, end }.into());
        }
        let left = used.saturating_sub(within).min(end.saturating_sub(host));
        if !self.is_differencing() {
            let kind = MappingKind::Stored { source: Source::Own, offset: host };
            return Ok(Mapping { length: left, kind });
        }
        let position = within.div_euclid(SECTOR_SIZE);
        let size = header.bitmap_size();
        let page = self.cache.page("a sector bitmap", bitmap, size, position.div_euclid(8))?;
        let bits = position.saturating_sub(page.start.saturating_mul(8));
        let (set, sectors) = bit_run(&page.bytes, bits);
        let in_sector = within.rem_euclid(SECTOR_SIZE);
        let length = sectors.saturating_mul(SECTOR_SIZE).saturating_sub(in_sector).min(left);
        let kind = if set {
            MappingKind::Stored { source: Source::Own, offset: host }
        } else {
            MappingKind::Parent { stored: Some((Source::Own, host)) }
        };
        Ok(Mapping { length, kind })
    }

    /// Where the data end of block `index`, which the table's `entry` places.
    fn block_end(&self, header: &DynamicHeader, index: u64, entry: u32) -> u64 {
        let start = header.block.offset_of(index).unwrap_or(u64::MAX);
        let used = header.block.size().min(self.size.saturating_sub(start));
        let bitmap = u64::from(entry).saturating_mul(SECTOR_SIZE);
        bitmap.saturating_add(header.bitmap_size()).saturating_add(used)
    }

    fn reach_blocks(&self, header: &DynamicHeader, offset: u64) -> Result<Reach> {
        let first = header.block.index(offset);
        let (mut end, mut next) = (0, first);
        for (index, entry) in (first..header.blocks).zip(self.entries(header, first)?.1) {
            if entry != BAT_UNUSED {
                end = self.block_end(header, index, entry).max(end);
            }
            next = index.saturating_add(1);
        }
        let behind = header.block.offset_of(next).unwrap_or(u64::MAX).min(self.size);
        let length = behind.saturating_sub(offset).max(1);
        Ok(Reach { length, end, encoded: false })
    }

    /// Where the file would have to reach, if the block allocation table has an entry that says
    /// further than it does. Reads all of the table.
    pub(super) fn missing_end(&self) -> Option<u64> {
        let header = self.header.as_ref()?;
        let mut last = None;
        let mut index: u64 = 0;
        while index < header.blocks {
            let (_, entries) = self.entries(header, index).ok()?;
            let before = index;
            for entry in entries {
                if entry != BAT_UNUSED {
                    last = last.max(Some((entry, index)));
                }
                index = index.saturating_add(1);
            }
            if index == before {
                break;
            }
        }
        let (entry, index) = last?;
        let end = self.block_end(header, index, entry);
        Some(end).filter(|&end| end > self.copies.data_end())
    }
}

/// Refuses a file that is fixed by its type and dynamic by all else.
fn check_fixed(storage: &dyn Storage, copies: &FooterCopies) -> Result<()> {
    let footer = &copies.footer;
    let mut cookie = [0; HEADER_COOKIE.len()];
    let behind = footer.data_offset.checked_add(to_u64(cookie.len()));
    if behind.is_some_and(|behind| behind <= copies.data_end()) {
        storage.read_exact_at(&mut cookie, footer.data_offset)?;
        if cookie == *HEADER_COOKIE {
            let at = copies.data_end().saturating_add(16);
            return Err(Error::new(VhdDetail::FixedWithHeader).at(at));
        }
    }
    Ok(())
}

/// The bit number `index` of a sector bitmap, the highest bit of a byte first, and how many bits
/// from there on, to the end of `bytes`, are the same. A bit beyond the end is clear.
fn bit_run(bytes: &[u8], index: u64) -> (bool, u64) {
    let (byte, bit) = (to_usize(index.wrapping_shr(3)), index & 7);
    let Some((&first, rest)) = bytes.get(byte..).and_then(|bytes| bytes.split_first()) else {
        return (false, u64::MAX);
    };
    let shift = u32::try_from(bit).unwrap_or_default();
    let set = first.wrapping_shl(shift) & 0x80 != 0;
    // with the wanted bits as ones, a run is a number of leading ones
    let flip = |byte: u8| if set { byte } else { !byte };
    let left = 8u64.saturating_sub(bit);
    let mut run = u64::from(flip(first).wrapping_shl(shift).leading_ones()).min(left);
    if run == left {
        for &byte in rest {
            let ones = u64::from(flip(byte).leading_ones());
            run = run.saturating_add(ones);
            if ones < 8 {
                break;
            }
        }
    }
    (set, run)
}

impl Layer for VhdLayer {
    fn format(&self) -> Format {
        Format::Vhd
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn cluster_size(&self) -> Option<u64> {
        self.header.as_ref().map(|header| header.block.size())
    }

    fn stores_long_runs(&self) -> bool {
        self.header.is_none()
    }

    fn references(&self) -> &[Reference] {
        &self.references
    }

    fn identity(&self) -> Option<Identity> {
        Some(Identity::Uuid(self.copies.footer.unique_id))
    }

    /// The parent has the Unique ID that the child names.
    ///
    /// The specification wants the parent's modification time held against Parent Time Stamp too
    /// ("Modification of Parent Hard Disk Image"). That is a time of the parent's file, not of
    /// anything in it: every copy of the file changes it, and Windows itself writes zero. So it
    /// is told, and not checked.
    fn check_parent(&self, parent: &dyn Layer) -> Result<()> {
        let Some(header) = self.header.as_ref().filter(|_| self.is_differencing()) else {
            return Ok(());
        };
        let wanted = header.parent_unique_id;
        let found = parent.identity();
        if found == Some(Identity::Uuid(wanted)) || self.trust_broken {
            return Ok(());
        }
        let found = match found {
            Some(Identity::Uuid(found)) => uuid(&found),
            _ => "none".to_owned(),
        };
        let detail = VhdDetail::WrongParent { wanted: uuid(&wanted), found };
        Err(Error::new(detail).at(header.offset.saturating_add(HEADER_PARENT_UNIQUE_ID)))
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        self.check_readable()?;
        let max = max.min(self.size.saturating_sub(offset));
        match &self.header {
            None => self.map_fixed(offset, max),
            Some(header) => self.map_blocks(header, offset, max),
        }
    }

    fn check_readable(&self) -> Result<()> {
        Self::check_readable(self)
    }

    fn tables_at(&self) -> Option<u64> {
        self.header.as_ref().map(|header| header.table().start)
    }

    fn reach(&self, offset: u64) -> Result<Reach> {
        match &self.header {
            Some(header) => self.reach_blocks(header, offset),
            None => {
                let length = self.size.saturating_sub(offset).max(1);
                Ok(Reach { length, end: self.size, encoded: false })
            }
        }
    }

    fn check(&self, checking: &Checking) -> Result<()> {
        check::check(self, checking)
    }

    fn repair(
        &self,
        scope: RepairScope,
        checking: &Checking,
        patch: &mut dyn Patch,
    ) -> Result<Repaired> {
        repair::repair(self, scope, checking, patch)
    }

    fn describe(&self) -> Result<Description> {
        Ok(describe(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_of_bits_are_counted_from_the_highest_bit_on(
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(255), any::<u8>()], 1..20),
            start in 0usize..160,
        ) {
            let bits: Vec<bool> =
                bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte & (0x80 >> bit) != 0)).collect();
            let start = start % bits.len();
            let run = bits[start..].iter().take_while(|bit| **bit == bits[start]).count();
            prop_assert_eq!(bit_run(&bytes, start as u64), (bits[start], run as u64));
        }
    }
}
