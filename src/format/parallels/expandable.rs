//! An expandable image: its header, and mapping through its BAT.

use std::ops::Range;
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};

use crate::bytes::LeCursor;
use crate::error::{Error, Result};
use crate::format::LayerOptions;
use crate::format::fault::{Fault, check_limit, field};
use crate::layer::{Mapping, MappingKind, Source};
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::{Storage, TableCache, check_inside, read_vec};

/// The magic of images whose BAT entries are sectors.
pub const MAGIC: &[u8] = b"WithoutFreeSpace";
/// The magic of images whose BAT entries are clusters.
pub const MAGIC_EXT: &[u8] = b"WithouFreSpacExt";
/// `in_use` of an image that is open for writing.
pub const IN_USE: u32 = 0x746f_6e59;
/// `in_use` of an image that was closed.
pub const CLOSED: u32 = 0x312e_3276;
/// `flags`: nothing was ever written.
pub const EMPTY_IMAGE: u32 = 1;

/// The length of the header; the BAT follows.
pub(super) const HEADER_SIZE: u64 = 64;
pub(super) const AT_IN_USE: u64 = 44;
pub(super) const AT_DATA_OFF: u64 = 48;
pub(super) const AT_FLAGS: u64 = 52;
pub(super) const AT_EXT_OFF: u64 = 56;
const AT_VERSION: u64 = 16;
const AT_TRACKS: u64 = 28;
const AT_BAT_ENTRIES: u64 = 32;
const AT_SECTORS: u64 = 36;
const SECTOR: Pow2 = Pow2::SECTOR;

/// A cluster that no BAT entry names.
const NOT_STORED: MappingKind = MappingKind::Zero { allocated: false, stored: None };
/// The largest cluster that is read: 1 GiB. Known images have 1 MiB or less.
const MAX_TRACKS: u32 = 1 << 21;

/// The header.
///
/// ```
/// use diskimage::format::LayerOptions;
/// use diskimage::format::parallels::{Header, IN_USE, MAGIC_EXT};
/// use diskimage::storage::MemoryStorage;
///
/// let mut bytes = MAGIC_EXT.to_vec();
/// bytes.extend([2, 16, 4, 2048, 2].map(u32::to_le_bytes).concat()); // version to nb_bat_entries
/// bytes.extend(4096u64.to_le_bytes()); // nb_sectors
/// bytes.extend([IN_USE, 0, 0].map(u32::to_le_bytes).concat()); // in_use, data_off, flags
/// bytes.extend([0; 8]); // ext_off
/// bytes.extend([0; 2 * 4]); // the BAT
/// let header = Header::read(&MemoryStorage::new(bytes), &LayerOptions::default())?;
/// assert_eq!((header.size(), header.cluster()), (2 << 20, 1 << 20));
/// assert_eq!((header.geometry, header.bat_entries), ([16, 4], 2));
/// assert_eq!(header.in_use, IN_USE); // whoever had it open did not close it
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// Whether the magic is `WithouFreSpacExt`: the BAT counts in clusters.
    pub is_ext: bool,
    /// `heads` and `cylinders`, of the guest's geometry.
    pub geometry: [u32; 2],
    /// `tracks`: the size of a cluster, sectors.
    pub tracks: u32,
    /// `nb_bat_entries`.
    pub bat_entries: u32,
    /// `nb_sectors`: the size of the disk, sectors.
    pub sectors: u64,
    /// `in_use`: the mark of whoever had it open last.
    pub in_use: u32,
    /// `data_off`, sectors: 0 means right behind the BAT.
    pub data_off: u32,
    /// `flags`.
    pub flags: u32,
    /// `ext_off`: where the format extension lies, sectors; 0 if there is none.
    pub ext_off: u64,
}

impl Header {
    /// Reads and validates it.
    pub fn read(storage: &dyn Storage, options: &LayerOptions) -> Result<Self> {
        let bytes = read_vec(storage, "the header", 0, to_usize(HEADER_SIZE))?;
        let mut cursor = LeCursor::new(&bytes, 0);
        let magic = cursor.bytes(16, "the magic")?;
        let is_ext = magic == MAGIC_EXT;
        if magic != MAGIC && !is_ext {
            return Err(Error::new(Fault::NotThis("Parallels")).at(0));
        }
        let version = cursor.u32("the header field version")?;
        if version != 2 {
            let text = format!("is Parallels version {version}; version 2 is read");
            return Err(Error::new(Fault::Unsupported(text)).at(AT_VERSION));
        }
        let heads = cursor.u32("the header field heads")?;
        let cylinders = cursor.u32("the header field cylinders")?;
        let tracks = cursor.u32("the header field tracks")?;
        let bat_entries = cursor.u32("the header field nb_bat_entries")?;
        let mut sectors = cursor.u64("the header field nb_sectors")?;
        let in_use = cursor.u32("the header field in_use")?;
        let data_off = cursor.u32("the header field data_off")?;
        let flags = cursor.u32("the header field flags")?;
        let ext_off = cursor.u64("the header field ext_off")?;
        if !is_ext {
            sectors &= u64::from(u32::MAX);
        }
        if tracks == 0 || tracks > MAX_TRACKS {
            return field("tracks", tracks, "from 1 sector to 1 GiB", AT_TRACKS);
        }
        if sectors.checked_mul(512).is_none_or(|size| i64::try_from(size).is_err()) {
            return field("nb_sectors", sectors, "below 2^63 bytes", AT_SECTORS);
        }
        if u64::from(bat_entries).saturating_mul(tracks.into()) < sectors {
            let rule = "an entry for each cluster of the disk";
            return field("nb_bat_entries", bat_entries, rule, AT_BAT_ENTRIES);
        }
        let header = Self {
            is_ext,
            geometry: [heads, cylinders],
            tracks,
            bat_entries,
            sectors,
            in_use,
            data_off,
            flags,
            ext_off,
        };
        let bat = header.bat();
        let length = bat.end.saturating_sub(bat.start);
        check_limit("BAT", length, options.limits.max_table_size)
            .and_then(|()| check_inside(storage, "the BAT", bat.start, length))
            .map_err(|error| error.at(AT_BAT_ENTRIES))?;
        Ok(header)
    }

    /// The size of the disk, bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        SECTOR.offset_of(self.sectors).unwrap_or(u64::MAX)
    }

    /// The size of a cluster, bytes.
    #[must_use]
    pub fn cluster(&self) -> u64 {
        SECTOR.size().saturating_mul(self.tracks.into())
    }

    /// The bytes of the BAT.
    pub(super) fn bat(&self) -> Range<u64> {
        let length = u64::from(self.bat_entries).saturating_mul(4);
        HEADER_SIZE..HEADER_SIZE.saturating_add(length)
    }

    /// Where the first cluster can lie: at `data_off`, and behind the BAT in any case.
    pub(super) fn data_start(&self) -> u64 {
        let said = SECTOR.offset_of(self.data_off.into()).unwrap_or(u64::MAX);
        said.max(SECTOR.ceil(self.bat().end))
    }

    /// Where the cluster lies that a BAT entry names; `None` if it names none.
    pub(super) fn place(&self, entry: u32) -> Result<Option<u64>> {
        if entry == 0 {
            return Ok(None);
        }
        let unit = if self.is_ext { self.cluster() } else { SECTOR.size() };
        let (value, place) = (u64::from(entry), unit.saturating_mul(entry.into()));
        let bad = |rule| Err(Fault::Entry { what: "a BAT entry", value, rule }.into());
        if place < self.data_start() {
            return bad("0 or a place behind the start of the data");
        }
        if self.flags & EMPTY_IMAGE != 0 {
            return bad("0 in an image that is marked as empty");
        }
        Ok(Some(place))
    }
}

/// An expandable image: a file of a bundle, or one by itself.
#[derive(Debug)]
pub(super) struct Expandable {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) header: Header,
    cache: TableCache,
}

impl Expandable {
    pub(super) fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let header = Header::read(&storage, options)?;
        let cache = TableCache::new(Arc::clone(&storage), options.limits.table_cache);
        Ok(Self { storage, header, cache })
    }

    /// See [`Layer::map`](crate::Layer::map): what is not stored is zeros, or a parent's.
    pub(super) fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let (header, cluster) = (&self.header, self.header.cluster());
        let max = max.min(header.size().saturating_sub(offset));
        let index = offset.checked_div(cluster).unwrap_or_default();
        let start = index.saturating_mul(cluster);
        let guest = start..start.saturating_add(cluster).min(header.size());
        let (bat, position) = (header.bat(), index.saturating_mul(4));
        let page = self
            .cache
            .page("the BAT", bat.start, bat.end.saturating_sub(bat.start), position)
            .map_err(|error| error.affecting(guest.clone()))?;
        let from = to_usize(position.saturating_sub(page.start));
        let at = page.file_offset.saturating_add(to_u64(from));
        let (entries, _) = page.bytes.get(from..).unwrap_or_default().as_chunks::<4>();
        let mut kinds = entries.iter().map(|entry| {
            let place = header.place(LittleEndian::read_u32(entry))?;
            Ok(place
                .map_or(NOT_STORED, |offset| MappingKind::Stored { source: Source::Own, offset }))
        });
        let first = kinds.next().unwrap_or(Ok(NOT_STORED));
        let first = first.map_err(|error: Error| error.at(at).affecting(guest))?;
        Ok(Mapping::joined(first, cluster, offset.saturating_sub(start), max, kinds))
    }
}
