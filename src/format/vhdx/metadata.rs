//! The metadata region: its table and items (2.6).

use crate::bytes::LeCursor;
use crate::error::{Error, Result};
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::{Storage, read_vec};

use super::error::VhdxDetail;
use super::guid::Guid;
use super::layout::*;
use super::locator::ParentLocator;
use super::region::Region;

/// What the metadata say of the disk.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::format::vhdx::{VhdxLayer, VhdxOptions};
/// use diskimage::storage::FileStorage;
///
/// let options = VhdxOptions::new().block_size(1 << 20).logical_sector_size(4096);
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.vhdx");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = options.writer(1 << 30)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let storage = Arc::new(FileStorage::open(&path)?);
/// let layer = VhdxLayer::open(storage, &LayerOptions::default())?;
/// let metadata = layer.metadata();
/// assert_eq!((metadata.virtual_disk_size, metadata.block.size()), (1 << 30, 1 << 20));
/// assert_eq!((metadata.logical_sector.size(), metadata.physical_sector_size), (4096, 4096));
/// assert!(!metadata.leave_blocks_allocated && metadata.parent_locator.is_none());
/// // 2^23 sectors of 4 KiB, in blocks of 1 MiB
/// assert_eq!(metadata.chunk_ratio().size(), 32 << 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Metadata {
    /// The block size.
    pub block: Pow2,
    /// Whether blocks are never freed: a fixed image.
    pub leave_blocks_allocated: bool,
    /// Virtual disk size in bytes.
    pub virtual_disk_size: u64,
    /// The disk's own identifier, which a copy of the disk keeps (SCSI page 83).
    pub virtual_disk_id: Guid,
    /// The logical sector size: 512 or 4096. What a sector bitmap counts in.
    pub logical_sector: Pow2,
    /// The physical sector size: 512 or 4096.
    pub physical_sector_size: u32,
    /// The parent, which makes the image a differencing one.
    pub parent_locator: Option<ParentLocator>,
    /// Required items that are not known, if they were let pass.
    pub unknown: Vec<Guid>,
}

/// An entry of the metadata table.
#[derive(Debug, Clone, Copy)]
struct Item {
    guid: Guid,
    is_user: bool,
    required: bool,
    /// In the region.
    offset: u64,
    length: u64,
    /// Where the entry itself lies in the file.
    at: u64,
}

impl Metadata {
    /// Reads and validates the metadata in `region` of `storage`.
    ///
    /// With `trust_broken`, required items that are not known pass.
    ///
    /// ```
    /// use diskimage::format::vhdx::VhdxOptions;
    /// use diskimage::format::vhdx::{Headers, Metadata, RegionTable};
    /// use diskimage::storage::FileStorage;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.vhdx");
    /// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
    /// let writer = VhdxOptions::new().fixed(true).writer(1 << 20)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `path` is the file that it makes of an empty disk
    /// // the way that the specification goes: headers, regions, metadata
    /// let storage = FileStorage::open(&path)?;
    /// let headers = Headers::read(&storage)?;
    /// let regions = RegionTable::read(&storage, &headers.current, false)?;
    /// let metadata = Metadata::read(&storage, &regions.metadata, false)?;
    /// assert!(metadata.leave_blocks_allocated); // a fixed image
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(storage: &dyn Storage, region: &Region, trust_broken: bool) -> Result<Self> {
        let items = read_table(storage, region)?;
        let is_known = |item: &Item| !item.is_user && KNOWN.contains(&item.guid);
        let unknown: Vec<_> =
            items.iter().filter(|item| item.required && !is_known(item)).collect();
        if let Some(item) = unknown.first()
            && !trust_broken
        {
            return Err(Error::new(VhdxDetail::UnknownItem(item.guid)).at(item.at));
        }
        let unknown = unknown.into_iter().map(|item| item.guid).collect();
        let reader = Reader { storage, region, items: &items };

        let (bytes, at) = reader.fixed(ITEM_FILE_PARAMETERS, "file parameters", 8)?;
        let mut cursor = LeCursor::new(&bytes, at);
        let block_size = cursor.u32("the file parameters")?;
        let flags = cursor.u32("the file parameters")?;
        let block = Pow2::from_size(block_size.into())
            .filter(|_| (MIN_BLOCK_SIZE..=MAX_BLOCK_SIZE).contains(&block_size));
        let Some(block) = block else {
            let rule = "a power of two from 1 MiB to 256 MiB";
            return Err(field("block size", block_size.into(), rule, at));
        };

        let name = "logical sector size";
        let (value, at) = reader.u32(ITEM_LOGICAL_SECTOR_SIZE, name)?;
        let sector = Pow2::from_size(value.into()).filter(|_| matches!(value, 512 | 4096));
        let Some(logical_sector) = sector else {
            return Err(field(name, value.into(), "512 or 4096", at));
        };
        let name = "physical sector size";
        let (physical_sector_size, at) = reader.u32(ITEM_PHYSICAL_SECTOR_SIZE, name)?;
        if !matches!(physical_sector_size, 512 | 4096) {
            return Err(field(name, physical_sector_size.into(), "512 or 4096", at));
        }

        let name = "virtual disk size";
        let (bytes, at) = reader.fixed(ITEM_VIRTUAL_DISK_SIZE, name, 8)?;
        let virtual_disk_size = LeCursor::new(&bytes, at).u64("the virtual disk size")?;
        let fits = virtual_disk_size <= MAX_VIRTUAL_DISK_SIZE;
        if !fits || !logical_sector.is_aligned(virtual_disk_size) {
            let rule = "a whole number of logical sectors, at most 64 TiB";
            return Err(field(name, virtual_disk_size, rule, at));
        }
        let (bytes, at) = reader.fixed(ITEM_VIRTUAL_DISK_ID, "virtual disk identifier", 16)?;
        let mut cursor = LeCursor::new(&bytes, at);
        let virtual_disk_id = Guid::read(&mut cursor, "the virtual disk identifier")?;

        let has_parent = flags & FILE_PARAMETERS_HAS_PARENT != 0;
        let parent_locator = match (reader.item(ITEM_PARENT_LOCATOR), has_parent) {
            (None, false) => None,
            (None, true) => {
                return Err(Error::new(VhdxDetail::Missing("parent locator")).at(region.offset));
            }
            // which of the two is wrong nobody knows, and one of them would be silently so
            (Some(item), false) => {
                return Err(Error::new(VhdxDetail::LocatorWithoutParent).at(item.at));
            }
            (Some(item), true) => {
                let (bytes, at) = reader.bytes(item, "parent locator", item.length)?;
                Some(ParentLocator::parse(&bytes, at)?)
            }
        };
        Ok(Self {
            block,
            leave_blocks_allocated: flags & FILE_PARAMETERS_LEAVE_BLOCKS_ALLOCATED != 0,
            virtual_disk_size,
            virtual_disk_id,
            logical_sector,
            physical_sector_size,
            parent_locator,
            unknown,
        })
    }

    /// How many payload blocks one sector bitmap block speaks of (2.5, the chunk ratio).
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::vhdx::{VhdxLayer, VhdxOptions};
    /// use diskimage::storage::FileStorage;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.vhdx");
    /// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
    /// let writer = VhdxOptions::new().writer(1 << 30)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `path` is the file that it makes of an empty disk
    /// let storage = Arc::new(FileStorage::open(&path)?);
    /// let layer = VhdxLayer::open(storage, &LayerOptions::default())?;
    /// // 2^23 sectors of 512 bytes are 4 GiB: so many blocks of 32 MiB
    /// assert_eq!(layer.metadata().chunk_ratio().size(), 128);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn chunk_ratio(&self) -> Pow2 {
        // 2^23 sectors, between 4 and 4096 MiB, in blocks of at most 256 MiB: never below 16
        let bits = SECTOR_BITMAP_BITS.saturating_add(self.logical_sector.bits());
        Pow2::from_bits(bits.saturating_sub(self.block.bits())).unwrap_or(self.block)
    }
}

/// The items that this crate knows.
const KNOWN: [Guid; 6] = [
    ITEM_FILE_PARAMETERS,
    ITEM_VIRTUAL_DISK_SIZE,
    ITEM_VIRTUAL_DISK_ID,
    ITEM_LOGICAL_SECTOR_SIZE,
    ITEM_PHYSICAL_SECTOR_SIZE,
    ITEM_PARENT_LOCATOR,
];

#[cold]
fn field(field: &'static str, value: u64, rule: &'static str, at: u64) -> Error {
    Error::new(VhdxDetail::Field { field, value, rule }).at(at)
}

fn read_table(storage: &dyn Storage, region: &Region) -> Result<Vec<Item>> {
    let what = "the metadata table";
    let bytes = read_vec(storage, what, region.offset, to_usize(METADATA_TABLE_LENGTH))?;
    let mut cursor = LeCursor::new(&bytes, region.offset);
    if cursor.bytes(8, what)? != METADATA_SIGNATURE {
        let rule = "'metadata'";
        let value = LeCursor::new(&bytes, 0).u64(what)?;
        return Err(field("metadata table's signature", value, rule, region.offset));
    }
    cursor.u16(what)?;
    let count = u32::from(cursor.u16(what)?);
    cursor.bytes(20, what)?;
    if count > MAX_TABLE_ENTRIES {
        let (count, limit) = (count.into(), MAX_TABLE_ENTRIES.into());
        let detail = VhdxDetail::TooManyEntries { what: "metadata table", count, limit };
        return Err(Error::new(detail).at(region.offset.saturating_add(10)));
    }
    let mut items: Vec<Item> = Vec::with_capacity(to_usize(count.into()));
    for _ in 0..count {
        let at = cursor.offset();
        let guid = Guid::read(&mut cursor, what)?;
        let offset = u64::from(cursor.u32(what)?);
        let length = u64::from(cursor.u32(what)?);
        let flags = cursor.u32(what)?;
        cursor.u32(what)?;
        let (is_user, required) =
            (flags & METADATA_IS_USER != 0, flags & METADATA_IS_REQUIRED != 0);
        let item = Item { guid, is_user, required, offset, length, at };
        item.check(region)?;
        items.push(item);
    }
    let users = items.iter().filter(|item| item.is_user).count();
    if users > MAX_USER_ITEMS {
        let (count, limit) = (to_u64(users), to_u64(MAX_USER_ITEMS));
        let detail =
            VhdxDetail::TooManyEntries { what: "users' part of the metadata", count, limit };
        return Err(Error::new(detail).at(region.offset));
    }
    let mut places: Vec<_> = items.iter().map(|i| (i.offset, i.length, i.at)).collect();
    places.retain(|&(_, length, _)| length > 0);
    places.sort_unstable();
    for ((offset, length, _), (next, _, at)) in places.iter().zip(places.iter().skip(1)) {
        if *next < offset.saturating_add(*length) {
            let (what, other) = ("metadata item", "item before it");
            let start = region.offset.saturating_add(*next);
            return Err(Error::new(VhdxDetail::Overlap { what, start, other }).at(*at));
        }
    }
    let mut names: Vec<_> = items.iter().map(|item| (item.guid, item.is_user, item.at)).collect();
    names.sort_unstable();
    for ((guid, user, _), (next, next_user, at)) in names.iter().zip(names.iter().skip(1)) {
        if (guid, user) == (next, next_user) {
            let detail = VhdxDetail::Duplicate { what: "metadata item", guid: *guid };
            return Err(Error::new(detail).at(*at));
        }
    }
    Ok(items)
}

impl Item {
    /// An item lies behind the table and within the region; or it is empty, at offset zero.
    fn check(&self, region: &Region) -> Result<()> {
        if self.length > MAX_METADATA_ITEM {
            return Err(Error::new(VhdxDetail::ItemTooLong(self.length)).at(self.at));
        }
        let end = self.offset.saturating_add(self.length);
        let empty = self.offset == 0 && self.length == 0;
        if !empty && (self.offset < METADATA_TABLE_LENGTH || end > region.length) {
            let (what, rule) = ("metadata item", "behind the table and within the region");
            let detail = VhdxDetail::Misplaced { what, offset: self.offset, rule };
            return Err(Error::new(detail).at(self.at));
        }
        Ok(())
    }
}

struct Reader<'a> {
    storage: &'a dyn Storage,
    region: &'a Region,
    items: &'a [Item],
}

impl Reader<'_> {
    fn item(&self, guid: Guid) -> Option<&Item> {
        self.items.iter().find(|item| item.guid == guid && !item.is_user)
    }

    /// The first `length` bytes of an item, and where they lie.
    fn bytes(&self, item: &Item, what: &'static str, length: u64) -> Result<(Vec<u8>, u64)> {
        if item.length < length {
            let detail = VhdxDetail::ItemTooShort { what, length: item.length, needed: length };
            return Err(Error::new(detail).at(item.at));
        }
        let at = self.region.offset.saturating_add(item.offset);
        Ok((read_vec(self.storage, "a metadata item", at, to_usize(length))?, at))
    }

    /// A required item of a fixed length.
    fn fixed(&self, guid: Guid, what: &'static str, length: u64) -> Result<(Vec<u8>, u64)> {
        let Some(item) = self.item(guid) else {
            return Err(Error::new(VhdxDetail::Missing(what)).at(self.region.offset));
        };
        self.bytes(item, what, length)
    }

    fn u32(&self, guid: Guid, what: &'static str) -> Result<(u32, u64)> {
        let (bytes, at) = self.fixed(guid, what, 4)?;
        Ok((LeCursor::new(&bytes, at).u32("a metadata item")?, at))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Builder, Item as Spec};
    use super::*;
    use crate::ErrorKind;
    use crate::storage::MemoryStorage;

    fn read(builder: &Builder, trust: bool) -> Result<Metadata> {
        let bytes = builder.build().bytes;
        let region =
            Region { guid: REGION_METADATA, offset: 2 << 20, length: 1 << 20, required: true };
        Metadata::read(&MemoryStorage::new(bytes), &region, trust)
    }

    fn fails(change: impl Fn(&mut Builder), kind: ErrorKind, text: &str) {
        let mut builder = Builder::new(1 << 20, 4 << 20);
        change(&mut builder);
        let error = read(&builder, false).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error} does not say '{text}'");
        assert!(error.offset().unwrap() >= 2 << 20, "{error}");
    }

    #[test]
    fn values_outside_of_their_bounds_are_corrupt() {
        let corrupt = ErrorKind::Corrupt;
        for block in [0, 0x8_0000, 0xf_ffff, 0x30_0000, 512 << 20, u32::MAX] {
            fails(
                |b| b.item(ITEM_FILE_PARAMETERS).data[..4].copy_from_slice(&block.to_le_bytes()),
                corrupt,
                "block size",
            );
        }
        for sector in [0u32, 1, 513, 1024, 8192, u32::MAX] {
            let bytes = sector.to_le_bytes();
            fails(|b| b.item(ITEM_LOGICAL_SECTOR_SIZE).data = bytes.to_vec(), corrupt, "logical");
            fails(|b| b.item(ITEM_PHYSICAL_SECTOR_SIZE).data = bytes.to_vec(), corrupt, "physical");
        }
        for size in [511u64, 513, (64 << 40) + 512, !511] {
            let bytes = size.to_le_bytes();
            fails(|b| b.item(ITEM_VIRTUAL_DISK_SIZE).data = bytes.to_vec(), corrupt, "disk size");
        }
    }

    #[test]
    fn items_must_be_there_once_long_enough_and_inside() {
        let corrupt = ErrorKind::Corrupt;
        for guid in &KNOWN[..5] {
            fails(|b| b.items.retain(|item| item.guid != *guid), corrupt, "has no");
            fails(
                |b| b.items.push(b.items.iter().find(|i| i.guid == *guid).unwrap().clone()),
                corrupt,
                "twice",
            );
            fails(|b| b.item(*guid).data.truncate(1), corrupt, "1 bytes long");
            fails(|b| b.item(*guid).data.clear(), corrupt, "0 bytes long");
            fails(|b| b.item(*guid).place = Some((0, 8)), corrupt, "lies at 0x0");
            fails(|b| b.item(*guid).place = Some((65_535, 8)), corrupt, "behind the table");
            fails(|b| b.item(*guid).place = Some(((1 << 20) - 3, 4)), corrupt, "within the region");
            fails(|b| b.item(*guid).place = Some((65_536, u32::MAX)), corrupt, "at most 1 MiB");
            fails(
                |b| b.item(*guid).flags |= METADATA_IS_USER | METADATA_IS_REQUIRED,
                ErrorKind::Unsupported,
                "not known",
            );
        }
        fails(|b| b.entry_count = Some(2048), corrupt, "at most 2047");
        fails(|b| b.metadata_signature = *b"metaData", corrupt, "signature");
    }

    #[test]
    fn unknown_items_are_refused_if_required_and_passed_over_if_not() {
        let unknown = Guid::of(1, 2, 3, 4);
        let with = |flags| {
            let mut builder = Builder::new(1 << 20, 4 << 20);
            builder.items.push(Spec { guid: unknown, flags, data: vec![1; 9], place: None });
            // a user's item may have the identifier of a known one, and may be empty
            let data = Vec::new();
            let flags = METADATA_IS_USER;
            builder.items.push(Spec { guid: ITEM_VIRTUAL_DISK_ID, flags, data, place: None });
            builder
        };
        let metadata = read(&with(METADATA_IS_USER), false).unwrap();
        assert_eq!(metadata.virtual_disk_size, 4 << 20);
        let error = read(&with(METADATA_IS_REQUIRED), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(&unknown.to_string()));
        let trusted = read(&with(METADATA_IS_REQUIRED), true).unwrap();
        assert_eq!(trusted.unknown, [unknown]);
    }

    #[test]
    fn items_must_not_overlap_and_users_have_1024() {
        let corrupt = ErrorKind::Corrupt;
        let place = Some((65_536 + 7, 8));
        fails(|b| b.item(ITEM_VIRTUAL_DISK_SIZE).place = place, corrupt, "overlaps the item");
        let fill = |count: u32| {
            move |builder: &mut Builder| {
                let flags = METADATA_IS_USER;
                builder.items.extend((0..count).map(|number| {
                    let guid = Guid::of(number, 1, 1, 1);
                    Spec { guid, flags, data: vec![1], place: None }
                }));
            }
        };
        fails(fill(1025), corrupt, "1025 entries, which must be at most 1024");
        let mut builder = Builder::new(1 << 20, 4 << 20);
        fill(1024)(&mut builder);
        read(&builder, false).unwrap();
    }

    #[test]
    fn the_chunk_ratio_follows_sector_and_block() {
        for (block, sector, ratio) in
            [(1u64 << 20, 512u32, 4096u64), (256 << 20, 512, 16), (32 << 20, 4096, 1024)]
        {
            let mut builder = Builder::new(block as u32, 4 << 20);
            builder.logical_sector(sector);
            assert_eq!(read(&builder, false).unwrap().chunk_ratio().size(), ratio);
        }
    }

    #[test]
    fn flag_and_locator_go_together() {
        let mut builder = Builder::new(1 << 20, 4 << 20);
        builder.parent("{00000001-0002-0003-0405-060708090a0b}", &[("relative_path", "p.vhdx")]);
        assert!(read(&builder, false).unwrap().parent_locator.is_some());
        let mut without = builder.clone();
        without.item(ITEM_FILE_PARAMETERS).data[4] = 0;
        assert!(read(&without, true).unwrap_err().to_string().contains("not marked"));
        builder.items.retain(|item| item.guid != ITEM_PARENT_LOCATOR);
        assert!(read(&builder, true).unwrap_err().to_string().contains("no parent locator"));
    }
}
