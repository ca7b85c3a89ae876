//! Pages of on-disk tables, kept within a bound.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;

use super::{Storage, read_shared};
use crate::error::Result;
use crate::num::{to_u64, to_usize};

/// Pages of the tables that map a disk (L1 and L2 tables, block allocation tables, grain tables),
/// read when first needed and dropped, the longest unused first, beyond a bound.
///
/// Two generations make that a constant-time affair: what is used moves to the young one; when
/// the young one holds half the bound, it becomes the old one and the old one is dropped.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::storage::{MemoryStorage, TableCache};
///
/// let cache = TableCache::new(Arc::new(MemoryStorage::new(vec![9; 4096])), 1 << 20);
/// let page = cache.page("the L1 table", 1024, 512, 100)?;
/// assert_eq!((page.start, page.file_offset, page.bytes.len()), (0, 1024, 512));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct TableCache {
    storage: Arc<dyn Storage>,
    bound: u64,
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u64, Arc<[u8]>, RandomState>,
    old: HashMap<u64, Arc<[u8]>, RandomState>,
    young_bytes: u64,
}

/// A part of a table: the page that holds a wanted entry.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::storage::{MemoryStorage, TableCache};
///
/// // a table of 64-bit entries behind a header, and its entry number 9000
/// let mut file = vec![0; 512];
/// file.extend((0..10_000u64).flat_map(u64::to_le_bytes));
/// let cache = TableCache::new(Arc::new(MemoryStorage::new(file)), 1 << 20);
/// let position = 9000 * 8;
/// let page = cache.page("the allocation table", 512, 80_000, position)?;
/// assert_eq!((page.start, page.file_offset), (TableCache::PAGE, 512 + TableCache::PAGE));
/// let within = (position - page.start) as usize;
/// assert_eq!(page.bytes[within..within + 8], 9000u64.to_le_bytes());
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TablePage {
    /// The bytes of the page.
    pub bytes: Arc<[u8]>,
    /// Where in the table the page starts, bytes.
    pub start: u64,
    /// Where in the file the page starts, bytes.
    pub file_offset: u64,
}

impl TableCache {
    /// The largest piece of a table that is read at once, bytes.
    pub const PAGE: u64 = 64 << 10;

    /// What the tables lie in.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::storage::{MemoryStorage, TableCache};
    ///
    /// let cache = TableCache::new(Arc::new(MemoryStorage::new(vec![0; 4096])), 1 << 20);
    /// // what the table says is held against the file that it lies in
    /// let (offset, length) = (4000, 4096);
    /// assert!(offset + length > cache.storage().size());
    /// assert!(cache.page("the allocation table", offset, length, 0).is_err());
    /// ```
    #[must_use]
    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// A cache over `storage` that keeps at most about `bound` bytes.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, bound: u64) -> Self {
        Self { storage, bound, generations: Mutex::default() }
    }

    /// The page that holds byte `position` of the table that lies at `table_offset` in the file
    /// and is `table_size` bytes long. Pages start at multiples of 64 KiB from the table's start.
    /// `what` is the table's name for messages.
    pub fn page(
        &self,
        what: &'static str,
        table_offset: u64,
        table_size: u64,
        position: u64,
    ) -> Result<TablePage> {
        let start = position.saturating_sub(position.checked_rem(Self::PAGE).unwrap_or(0));
        let length = Self::PAGE.min(table_size.saturating_sub(start));
        let file_offset = table_offset.saturating_add(start);
        if let Some(bytes) = self.lookup(file_offset, length) {
            return Ok(TablePage { bytes, start, file_offset });
        }
        let bytes = read_shared(&self.storage, what, file_offset, to_usize(length))?;
        self.insert(file_offset, &bytes);
        Ok(TablePage { bytes, start, file_offset })
    }

    fn lookup(&self, offset: u64, length: u64) -> Option<Arc<[u8]>> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = generations.young.get(&offset) {
            return (to_u64(bytes.len()) == length).then(|| Arc::clone(bytes));
        }
        let bytes = generations.old.remove(&offset)?;
        generations.insert(offset, &bytes, self.bound);
        (to_u64(bytes.len()) == length).then_some(bytes)
    }

    fn insert(&self, offset: u64, bytes: &Arc<[u8]>) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.insert(offset, bytes, self.bound);
    }
}

impl Generations {
    fn insert(&mut self, offset: u64, bytes: &Arc<[u8]>, bound: u64) {
        let length = to_u64(bytes.len());
        if self.young_bytes.saturating_add(length) > bound >> 1 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(offset, Arc::clone(bytes)).is_none() {
            self.young_bytes = self.young_bytes.saturating_add(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Fault, FaultStorage, MemoryStorage};

    #[test]
    fn pages_are_read_once_and_memory_stays_bounded() {
        let bytes = (0..20).map(|page| vec![page; 1 << 16]).collect::<Vec<_>>().concat();
        let storage =
            Arc::new(FaultStorage::new(MemoryStorage::new(bytes), Fault::NthRead(u64::MAX)));
        let cache = TableCache::new(Arc::clone(&storage) as Arc<dyn Storage>, 1 << 20);
        for _ in 0..2 {
            for position in [0, 100, 65_535] {
                let page = cache.page("the table", 0, 20 << 16, position).unwrap();
                assert_eq!((page.start, page.bytes.len()), (0, 65_536));
            }
        }
        assert_eq!(storage.reads(), 1);
        for i in 0..20u64 {
            assert_eq!(cache.page("the table", 0, 20 << 16, i << 16).unwrap().bytes[0], i as u8);
        }
        let generations = cache.generations.lock().unwrap();
        let held: usize =
            generations.young.values().chain(generations.old.values()).map(|page| page.len()).sum();
        assert!(held <= 1 << 20, "{held} bytes are held");
    }

    #[test]
    fn the_last_page_is_as_short_as_the_table() {
        let cache = TableCache::new(Arc::new(MemoryStorage::new(vec![1; 70_000])), 1 << 20);
        assert_eq!(
            cache.page("the table", 512, 69_000, 66_000).unwrap().bytes.len(),
            69_000 - 65_536
        );
        let error = cache.page("the table", 512, 80_000, 66_000).unwrap_err();
        assert_eq!(error.offset(), Some(512 + 65_536));
    }
}
