//! VirtualDisk: the disk a guest sees, whatever files it is made of.

use std::io;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentKind, StorageId};
use crate::num::{to_u64, to_usize};
use crate::storage::{FileIdentity, Storage};

/// The disk a guest sees. Any number of threads read it at once.
///
/// # The law of extents
///
/// For every `offset` below [`size`](Self::size) and `max` of at least 1,
/// [`extent_at`](Self::extent_at) answers with an extent that starts at `offset` and is
/// 1..=`max` bytes long and ends within the disk. Queried one after the other the extents tile
/// any range. The same query gives the same answer. The *kind* of the answer does not depend on
/// where the query starts, only its length may. An extent of kind zero reads as zeros. No I/O is
/// done beyond the tables that hold the entry at `offset`. Where the image is damaged the answer
/// is an error, never an extent: [`conformance::check`](crate::conformance::check) tests all this.
///
/// ```
/// use diskimage::disk::EmptyDisk;
/// use diskimage::{ExtentKind, VirtualDisk, VirtualDiskExt};
///
/// let disk: &dyn VirtualDisk = &EmptyDisk(1 << 40);
/// let extent = disk.extent_at(4096, u64::MAX)?;
/// assert_eq!((extent.start, extent.end()), (4096, 1 << 40));
/// assert_eq!(extent.kind, ExtentKind::Zero { allocated: false, stored: None });
/// assert_eq!(disk.extents(0..8192).count(), 1);
/// # Ok::<(), diskimage::Error>(())
/// ```
///
/// One that counts what is read of another. What a wrapper leaves out would be the default's answer, so it
/// passes on every method:
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use diskimage::disk::GrownDisk;
/// use diskimage::storage::FileIdentity;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::target::SpillTarget;
/// use diskimage::{Convert, Extent, Result, Storage, StorageId, VirtualDisk};
/// # use diskimage::{Format, OpenOptions};
///
/// struct Counting<'a> {
///     disk: &'a dyn VirtualDisk,
///     read: AtomicU64,
/// }
///
/// impl VirtualDisk for Counting<'_> {
///     fn size(&self) -> u64 {
///         self.disk.size()
///     }
///
///     fn cluster_size(&self) -> u64 {
///         self.disk.cluster_size()
///     }
///
///     fn extent_at(&self, offset: u64, max: u64) -> Result<Extent> {
///         self.disk.extent_at(offset, max)
///     }
///
///     fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
///         self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
///         self.disk.read_exact_at(buf, offset)
///     }
///
///     fn storage(&self, id: StorageId) -> Option<&dyn Storage> {
///         self.disk.storage(id)
///     }
///
///     fn encoded_in(&self, depth: u32) -> Option<(FileIdentity, &'static str)> {
///         self.disk.encoded_in(depth)
///     }
///
///     fn storage_count(&self) -> usize {
///         self.disk.storage_count()
///     }
/// }
///
/// # let storage = std::sync::Arc::new(MemoryStorage::new(vec![7; 1 << 20]));
/// # let path = std::path::Path::new("disk.raw");
/// # let raw = OpenOptions::new().format(Format::Raw).open_storage(storage, path)?;
/// // 1 MiB of data, and zeros up to 1 GiB
/// let disk = GrownDisk::new(&raw, 1 << 30);
/// let counting = Counting { disk: &disk, read: AtomicU64::new(0) };
/// # let target = SpillTarget::new(std::io::sink(), &std::env::temp_dir(), 1 << 30)?;
/// Convert::new().run(&counting, &target)?;
/// assert_eq!(counting.read.into_inner(), 1 << 20); // zeros are not read
/// # Ok::<(), diskimage::Error>(())
/// ```
pub trait VirtualDisk: Send + Sync {
    /// The virtual size, bytes.
    fn size(&self) -> u64;

    /// The unit that is cheapest to read in whole: a power of two, bytes.
    ///
    /// Reading in such units decodes nothing twice:
    ///
    /// ```
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::{Result, VirtualDisk};
    ///
    /// /// Whether a sector of the disk starts with `what`.
    /// fn find(disk: &dyn VirtualDisk, what: &[u8]) -> Result<Option<u64>> {
    ///     let mut unit = vec![0; disk.cluster_size() as usize];
    ///     for start in (0..disk.size()).step_by(unit.len()) {
    ///         let length = unit.len().min((disk.size() - start) as usize);
    ///         disk.read_exact_at(&mut unit[..length], start)?;
    ///         let found = unit[..length].chunks(512).position(|sector| sector.starts_with(what));
    ///         if let Some(found) = found {
    ///             return Ok(Some(start + found as u64 * 512));
    ///         }
    ///     }
    ///     Ok(None)
    /// }
    ///
    /// assert_eq!(find(&EmptyDisk(1 << 20), b"EFI PART")?, None);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    fn cluster_size(&self) -> u64;

    /// What the bytes from `offset` on are, looking at most `max` bytes far.
    ///
    /// ```
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::{Result, VirtualDisk};
    ///
    /// /// Where the first byte lies that may be none of zeros.
    /// fn first_data(disk: &dyn VirtualDisk) -> Result<Option<u64>> {
    ///     let mut at = 0;
    ///     while at < disk.size() {
    ///         let extent = disk.extent_at(at, u64::MAX)?;
    ///         if !extent.kind.is_zero() {
    ///             return Ok(Some(at));
    ///         }
    ///         at = extent.end();
    ///     }
    ///     Ok(None)
    /// }
    ///
    /// assert_eq!(first_data(&EmptyDisk(1 << 40))?, None);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    fn extent_at(&self, offset: u64, max: u64) -> Result<Extent>;

    /// Fills `buf` with guest bytes from `offset` on. Reading past the size is an error of kind
    /// [`InvalidInput`](ErrorKind::InvalidInput).
    ///
    /// ```
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::{ErrorKind, VirtualDisk};
    ///
    /// let disk = EmptyDisk(1000);
    /// let mut sector = [1; 512];
    /// disk.read_exact_at(&mut sector, 488)?; // at any offset, and of any length
    /// assert_eq!(sector, [0; 512]);
    /// let error = disk.read_exact_at(&mut sector, 489).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidInput);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// The container file that extents speak of by this number.
    fn storage(&self, id: StorageId) -> Option<&dyn Storage>;

    /// What tells that compressed bytes of this depth of two disks, at one guest offset, are the
    /// same: the image that holds them and the name of its format. `None` where more than that
    /// matters: the opened image may show a snapshot, and other files may hold the bytes.
    fn encoded_in(&self, depth: u32) -> Option<(FileIdentity, &'static str)> {
        let _ = depth;
        None
    }

    /// How many container files there are to speak of: their numbers lie below it.
    ///
    /// All that has to be kept as long as the disk is read:
    ///
    /// ```
    /// use std::path::{Path, PathBuf};
    /// use std::sync::Arc;
    ///
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Format, OpenOptions, StorageId, VirtualDisk};
    ///
    /// fn files(disk: &dyn VirtualDisk) -> Vec<PathBuf> {
    ///     let path = |number| Some(disk.storage(StorageId(number))?.path()?.to_owned());
    ///     (0..disk.storage_count()).filter_map(path).collect()
    /// }
    ///
    /// let storage = Arc::new(MemoryStorage::new(vec![7; 4096]));
    /// let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
    /// assert!(files(&disk).is_empty()); // it is in memory
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    fn storage_count(&self) -> usize {
        0
    }
}

/// A disk of this many bytes to which nothing was ever written.
///
/// ```
/// use diskimage::VirtualDisk;
/// use diskimage::disk::EmptyDisk;
///
/// assert!(EmptyDisk(1 << 40).extent_at(0, u64::MAX)?.kind.is_zero());
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmptyDisk(pub u64);

impl VirtualDisk for EmptyDisk {
    fn size(&self) -> u64 {
        self.0
    }

    fn cluster_size(&self) -> u64 {
        64 << 10
    }

    fn extent_at(&self, offset: u64, max: u64) -> Result<Extent> {
        check_range(self.0, offset, 1)?;
        let kind = ExtentKind::Zero { allocated: false, stored: None };
        let length = max.min(self.0.saturating_sub(offset));
        Ok(Extent { start: offset, length, depth: 0, kind })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.0, offset, to_u64(buf.len()))?;
        buf.fill(0);
        Ok(())
    }

    fn storage(&self, _id: StorageId) -> Option<&dyn Storage> {
        None
    }
}

/// A disk with zeros behind its end.
///
/// ```
/// use diskimage::disk::{EmptyDisk, GrownDisk};
/// use diskimage::VirtualDisk;
///
/// let disk = EmptyDisk(1000);
/// assert_eq!(GrownDisk::new(&disk, 4096).size(), 4096);
/// ```
pub struct GrownDisk<'a> {
    disk: &'a dyn VirtualDisk,
    size: u64,
}

impl<'a> GrownDisk<'a> {
    /// `disk`, grown to `size` bytes, if that is more than it has.
    ///
    /// ```
    /// use diskimage::VirtualDisk;
    /// use diskimage::disk::{EmptyDisk, GrownDisk};
    ///
    /// let disk = EmptyDisk(5 << 20);
    /// let to = |unit: u64| GrownDisk::new(&disk, disk.size().next_multiple_of(unit)).size();
    /// assert_eq!(to(1 << 20), 5 << 20); // as it is
    /// assert_eq!(to(1 << 30), 1 << 30); // as some clouds want it
    /// ```
    #[must_use]
    pub fn new(disk: &'a dyn VirtualDisk, size: u64) -> Self {
        Self { disk, size: size.max(disk.size()) }
    }
}

impl std::fmt::Debug for GrownDisk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrownDisk").field("size", &self.size).finish_non_exhaustive()
    }
}

impl VirtualDisk for GrownDisk<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn cluster_size(&self) -> u64 {
        self.disk.cluster_size()
    }

    fn extent_at(&self, offset: u64, max: u64) -> Result<Extent> {
        let end = self.disk.size();
        if offset < end {
            return self.disk.extent_at(offset, max.min(end.saturating_sub(offset)));
        }
        EmptyDisk(self.size).extent_at(offset, max)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, to_u64(buf.len()))?;
        let own = to_usize(self.disk.size().saturating_sub(offset)).min(buf.len());
        let (inside, beyond) = buf.split_at_mut(own);
        beyond.fill(0);
        if inside.is_empty() { Ok(()) } else { self.disk.read_exact_at(inside, offset) }
    }

    fn storage(&self, id: StorageId) -> Option<&dyn Storage> {
        self.disk.storage(id)
    }

    fn encoded_in(&self, depth: u32) -> Option<(FileIdentity, &'static str)> {
        self.disk.encoded_in(depth)
    }

    fn storage_count(&self) -> usize {
        self.disk.storage_count()
    }
}

/// A part of a disk, as a disk of its own.
///
/// ```
/// use diskimage::disk::{EmptyDisk, PartDisk};
/// use diskimage::VirtualDisk;
///
/// let disk = EmptyDisk(1000);
/// assert_eq!(PartDisk::new(&disk, 512..700).size(), 188);
/// assert_eq!(PartDisk::new(&disk, 512..4096).size(), 488); // as far as the disk goes
/// ```
pub struct PartDisk<'a> {
    disk: &'a dyn VirtualDisk,
    range: Range<u64>,
}

impl<'a> PartDisk<'a> {
    /// The bytes of `range` of `disk`, as far as it has them.
    #[must_use]
    pub fn new(disk: &'a dyn VirtualDisk, range: Range<u64>) -> Self {
        let end = range.end.min(disk.size());
        Self { disk, range: range.start.min(end)..end }
    }

    /// Where in the disk it is that lies at `offset` here.
    fn place(&self, offset: u64) -> u64 {
        self.range.start.saturating_add(offset)
    }
}

impl std::fmt::Debug for PartDisk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartDisk").field("range", &self.range).finish_non_exhaustive()
    }
}

impl VirtualDisk for PartDisk<'_> {
    fn size(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    fn cluster_size(&self) -> u64 {
        self.disk.cluster_size()
    }

    fn extent_at(&self, offset: u64, max: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let rest = self.size().saturating_sub(offset);
        let extent = self.disk.extent_at(self.place(offset), max.min(rest))?;
        Ok(Extent { start: offset, ..extent })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, to_u64(buf.len()))?;
        self.disk.read_exact_at(buf, self.place(offset))
    }

    fn storage(&self, id: StorageId) -> Option<&dyn Storage> {
        self.disk.storage(id)
    }

    fn storage_count(&self) -> usize {
        self.disk.storage_count()
    }
}

/// Conveniences for every [`VirtualDisk`].
///
/// ```
/// use std::io::Read;
///
/// use diskimage::VirtualDiskExt;
/// use diskimage::disk::EmptyDisk;
///
/// let disk = EmptyDisk(1000);
/// let mut bytes = Vec::new();
/// disk.reader().read_to_end(&mut bytes)?;
/// assert_eq!(bytes, vec![0; 1000]);
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait VirtualDiskExt: VirtualDisk {
    /// The extents that tile `range`, which is cut to the disk's size. Ends after the first error.
    ///
    /// ```
    /// use diskimage::disk::EmptyDisk;
    /// use diskimage::{Result, VirtualDisk, VirtualDiskExt};
    ///
    /// fn data_in(disk: &dyn VirtualDisk) -> Result<u64> {
    ///     let data = disk.extents(0..disk.size()).filter(|extent| match extent {
    ///         Ok(extent) => !extent.kind.is_zero(),
    ///         Err(_) => true, // not to be lost
    ///     });
    ///     data.map(|extent| extent.map(|extent| extent.length)).sum()
    /// }
    ///
    /// assert_eq!(data_in(&EmptyDisk(1 << 40))?, 0);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    fn extents(&self, range: Range<u64>) -> Extents<'_, Self> {
        let end = range.end.min(self.size());
        Extents { disk: self, position: range.start.min(end), end }
    }

    /// The whole disk as [`io::Read`] and [`io::Seek`].
    fn reader(&self) -> Reader<'_, Self> {
        Reader { disk: self, position: 0 }
    }
}

impl<D: VirtualDisk + ?Sized> VirtualDiskExt for D {}

/// Iterator over the extents of a range; see [`VirtualDiskExt::extents`]. Neighbours are not
/// joined beyond what one table says: see [`Extent::continues_with`].
///
/// ```
/// use diskimage::disk::GrownDisk;
/// # use diskimage::storage::MemoryStorage;
/// use diskimage::{Extent, Result, VirtualDiskExt};
/// # use diskimage::{Format, OpenOptions};
///
/// # let storage = std::sync::Arc::new(MemoryStorage::new(vec![7; 4096]));
/// # let path = std::path::Path::new("disk.raw");
/// # let raw = OpenOptions::new().format(Format::Raw).open_storage(storage, path)?;
/// let disk = GrownDisk::new(&raw, 1 << 20); // from 4096 bytes
/// let extents: Vec<Extent> = disk.extents(1024..u64::MAX).collect::<Result<_>>()?;
/// let [data, zeros] = &*extents else { panic!("data, and then zeros") };
/// assert_eq!((data.start, data.end(), data.kind.is_zero()), (1024, 4096, false));
/// assert_eq!((zeros.start, zeros.end(), zeros.kind.is_zero()), (4096, 1 << 20, true));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct Extents<'a, D: ?Sized> {
    disk: &'a D,
    position: u64,
    end: u64,
}

impl<D: VirtualDisk + ?Sized> Iterator for Extents<'_, D> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        let max = self.end.saturating_sub(self.position);
        if max == 0 {
            return None;
        }
        let extent = self.disk.extent_at(self.position, max);
        self.position = extent.as_ref().map_or(self.end, Extent::end);
        Some(extent)
    }
}

impl<D: VirtualDisk + ?Sized> std::iter::FusedIterator for Extents<'_, D> {}

/// A disk as a byte stream; see [`VirtualDiskExt::reader`].
///
/// ```
/// use std::io::{Read, Seek, SeekFrom};
///
/// # use diskimage::storage::MemoryStorage;
/// use diskimage::VirtualDiskExt;
/// # use diskimage::{Format, OpenOptions};
///
/// # let mut bytes = vec![0; 1024];
/// # bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
/// # let storage = std::sync::Arc::new(MemoryStorage::new(bytes));
/// # let path = std::path::Path::new("disk.raw");
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, path)?;
/// let mut reader = disk.reader();
/// reader.seek(SeekFrom::Start(510))?;
/// let mut signature = [0; 2];
/// reader.read_exact(&mut signature)?;
/// assert_eq!(signature, [0x55, 0xaa]); // of an MBR
/// assert_eq!(reader.bytes().count(), 512); // to the end of the disk
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Reader<'a, D: ?Sized> {
    disk: &'a D,
    position: u64,
}

impl<D: VirtualDisk + ?Sized> io::Read for Reader<'_, D> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.disk.size().saturating_sub(self.position);
        let length = to_usize(rest).min(buf.len());
        let part = buf.get_mut(..length).unwrap_or_default();
        self.disk.read_exact_at(part, self.position)?;
        self.position = self.position.saturating_add(to_u64(length));
        Ok(length)
    }
}

impl<D: VirtualDisk + ?Sized> io::Seek for Reader<'_, D> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let target = match to {
            io::SeekFrom::Start(offset) => Some(offset),
            io::SeekFrom::End(delta) => self.disk.size().checked_add_signed(delta),
            io::SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// Refuses a read that does not lie within a disk of `size` bytes.
pub(crate) fn check_range(size: u64, offset: u64, length: u64) -> Result<()> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::other(
            ErrorKind::InvalidInput,
            format!("guest bytes {offset}..+{length} lie beyond the disk's {size} bytes"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::Arc;

    use crate::chain::{Chain, ChainImage};
    use crate::format::raw::RawLayer;
    use crate::storage::MemoryStorage;

    #[test]
    fn a_part_is_a_disk_by_the_law_of_extents() {
        let bytes: Vec<u8> = (0..5000u32).map(|at| (at % 251) as u8).collect();
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes.clone()));
        let layer = Box::new(RawLayer::new(Arc::clone(&storage)));
        let disk = Chain::new(ChainImage::new(Path::new("x").into(), layer, storage), Vec::new());
        for range in [0..5000, 1..4999, 700..700, 512..9000] {
            let part = PartDisk::new(&disk, range.clone());
            let wanted = &bytes[range.start as usize..range.end.min(5000) as usize];
            crate::conformance::check(&part, Some(wanted)).unwrap();
            assert!(part.read_exact_at(&mut [0; 1], part.size()).is_err());
        }
        assert_eq!(PartDisk::new(&disk, 6000..7000).size(), 0);
    }
}
