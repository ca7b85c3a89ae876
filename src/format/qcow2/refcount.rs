//! Reference counts of host clusters ("Host cluster management").

use std::ops::Range;
use std::sync::Arc;

use byteorder::{BigEndian, ByteOrder};

use crate::error::{Error, Result};
use crate::num::{Pow2, to_usize};
use crate::storage::{Storage, TableCache};

use super::error::Qcow2Detail;
use super::header::Header;
use super::layout::*;

/// The two-level table of reference counts, read page by page.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::qcow2::Qcow2Options;
/// use diskimage::format::qcow2::{Header, RefcountTable};
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Limits, Storage};
///
/// # let mut bytes = Vec::new();
/// # let target = diskimage::target::StreamTarget::new(&mut bytes);
/// let writer = Box::new(Qcow2Options::new().writer(1 << 30)?);
/// # diskimage::Convert::new().create(writer, &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `bytes` is what it makes of an empty disk
/// let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes));
/// let header = Header::read(&storage, &Limits::default(), false)?;
/// let counts = RefcountTable::new(storage, &header, 1 << 20);
/// assert_eq!(counts.get(0)?, 1); // the header's cluster
/// assert_eq!(counts.get(1 << 30)?, 0); // far behind the end of the file
/// // a cluster of 64 KiB holds counts of 16 bits for 2 GiB of the file
/// assert_eq!(header.cluster.offset_of(counts.block_entries().size()), Some(2 << 30));
/// assert_eq!(counts.block_offset(0)?, Some(1 << 16));
/// assert_eq!(counts.block_offset(1 << 30)?, None);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct RefcountTable {
    cache: TableCache,
    offset: u64,
    size: u64,
    cluster: Pow2,
    order: u32,
}

impl RefcountTable {
    /// The refcount table that `header`, read from the same `storage`, speaks of.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, header: &Header, cache: u64) -> Self {
        let clusters = u64::from(header.refcount_table_clusters);
        Self {
            cache: TableCache::new(storage, cache),
            offset: header.refcount_table_offset,
            size: header.cluster.offset_of(clusters).unwrap_or_default(),
            cluster: header.cluster,
            order: header.refcount_order,
        }
    }

    /// How many host clusters one refcount block counts.
    #[must_use]
    pub fn block_entries(&self) -> Pow2 {
        let bits = self.cluster.bits().saturating_add(3).saturating_sub(self.order);
        Pow2::from_bits(bits).unwrap_or(self.cluster)
    }

    /// The offset of the refcount block that counts host cluster number `index`; `None` if there
    /// is none, so that the count is zero.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::qcow2::{Header, Qcow2Options, RefcountTable};
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Limits, Storage};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(Qcow2Options::new().writer(1 << 30)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes));
    /// let header = Header::read(&storage, &Limits::default(), false)?;
    /// let counts = RefcountTable::new(storage, &header, 1 << 20);
    /// assert_eq!(counts.block_offset(0)?, Some(1 << 16)); // behind the header
    /// assert_eq!(counts.block_offset(counts.block_entries().size())?, None); // the next one
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn block_offset(&self, index: u64) -> Result<Option<u64>> {
        let position = self.block_entries().index(index).saturating_mul(8);
        if position >= self.size {
            return Ok(None);
        }
        let page = self.cache.page("the refcount table", self.offset, self.size, position)?;
        let at = position.saturating_sub(page.start);
        let bytes = page.bytes.get(to_usize(at)..).and_then(|rest| rest.get(..8));
        let value = bytes.map(BigEndian::read_u64).unwrap_or_default();
        let error = |detail| Error::new(detail).at(self.offset.saturating_add(position));
        let offset = value & REFCOUNT_BLOCK_OFFSET;
        if value != offset {
            return Err(error(Qcow2Detail::ReservedBits { what: "refcount table entry", value }));
        }
        if !self.cluster.is_aligned(offset) {
            let rule = "at a multiple of the cluster size";
            return Err(error(Qcow2Detail::Misplaced { what: "refcount block", offset, rule }));
        }
        Ok(Some(offset).filter(|&offset| offset != 0))
    }

    /// The reference count of host cluster number `index`.
    pub fn get(&self, index: u64) -> Result<u64> {
        let Some(block) = self.block_offset(index)? else { return Ok(0) };
        let entry = self.block_entries().within(index);
        // in bits, since entries are 1 to 64 bits wide
        let bit = entry.wrapping_shl(self.order);
        let page =
            self.cache.page("a refcount block", block, self.cluster.size(), bit.wrapping_shr(3))?;
        // entries never lie in two pages
        let skipped = page.start.wrapping_shl(3).wrapping_shr(self.order);
        Ok(count_at(&page.bytes, entry.saturating_sub(skipped), self.order))
    }
}

/// The largest reference count whose width is `1 << order` bits.
pub(super) fn largest(order: u32) -> u64 {
    u64::MAX.wrapping_shr(64u32.saturating_sub(1u32.wrapping_shl(order)))
}

/// Entry number `index` of a refcount block ("Refcount block").
pub(super) fn count_at(block: &[u8], index: u64, order: u32) -> u64 {
    let bit = index.wrapping_shl(order);
    let bytes = block.get(to_usize(bit.wrapping_shr(3))..).unwrap_or_default();
    match order {
        // "If refcount_bits is less than 8, the least significant bit comes first"
        0..=2 => {
            let byte = u64::from(bytes.first().copied().unwrap_or_default());
            let shift = u32::try_from(bit & 7).unwrap_or_default();
            byte.wrapping_shr(shift) & largest(order)
        }
        order => {
            let width = to_usize(1u64.wrapping_shl(order.saturating_sub(3)));
            bytes.get(..width).map(|b| BigEndian::read_uint(b, width)).unwrap_or_default()
        }
    }
}

/// Sets entry number `index` of a refcount block; gives the bytes that it lies in.
pub(super) fn set_count_at(block: &mut [u8], index: u64, order: u32, count: u64) -> Range<usize> {
    let bit = index.wrapping_shl(order);
    let at = to_usize(bit.wrapping_shr(3));
    let bytes = block.get_mut(at..).unwrap_or_default();
    match order {
        0..=2 => {
            let shift = u32::try_from(bit & 7).unwrap_or_default();
            if let Some(byte) = bytes.first_mut() {
                let mask = largest(order).wrapping_shl(shift);
                let value = (u64::from(*byte) & !mask) | count.wrapping_shl(shift) & mask;
                *byte = u8::try_from(value & 0xff).unwrap_or_default();
            }
            at..at.saturating_add(1)
        }
        order => {
            let width = to_usize(1u64.wrapping_shl(order.saturating_sub(3)));
            if let Some(bytes) = bytes.get_mut(..width) {
                BigEndian::write_uint(bytes, count, width);
            }
            at..at.saturating_add(width)
        }
    }
}
