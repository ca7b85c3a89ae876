//! Apple Sparse Image Format (ASIF), of macOS 26. There is no specification; the layout is that of
//! public descriptions (the repository `asif-format`, and dissect.hypervisor). What has not been
//! characterised by them is refused. All numbers are big-endian.
//!
//! Two directories, of which the one with the higher sequence number counts, lead to tables, and
//! these to chunks. In a table, a group of entries for chunks is followed by one for their bitmap:
//! two bits for each sector of theirs.
//!
//! | | |
//! |---|---|
//! | read | version 1; sectors of 512 bytes and more, chunks of up to 64 MiB, partly written chunks |
//! | checked | where each table and chunk lies, what each entry says |
//! | refused | flags, states and versions that nobody has described |
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use diskimage::format::asif::{HEADER_SIZE, MAGIC, VERSION};
//! use diskimage::storage::MemoryStorage;
//! use diskimage::{OpenOptions, VirtualDisk};
//!
//! // chunks of 32 KiB: the header with two directories, a table, and one chunk of the disk
//! let mut image = vec![0; 96 << 10];
//! let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
//! put(0, MAGIC);
//! put(4, &[VERSION, HEADER_SIZE as u32].map(u32::to_be_bytes).concat());
//! put(0x10, &[0x200u64, 0x400].map(u64::to_be_bytes).concat()); // the directories
//! put(0x30, &[128u64, 128].map(u64::to_be_bytes).concat()); // sectors now, and at most
//! put(0x40, &(32u32 << 10).to_be_bytes());
//! put(0x44, &512u16.to_be_bytes());
//! put(0x200, &[1u64, 1].map(u64::to_be_bytes).concat()); // sequence number; the table is chunk 1
//! put(32 << 10, &(1u64 << 62 | 2).to_be_bytes()); // all sectors were written; it is chunk 2
//! put(64 << 10, b"guest");
//!
//! let storage = Arc::new(MemoryStorage::new(image));
//! let disk = OpenOptions::new().open_storage(storage, Path::new("disk.asif"))?;
//! let mut bytes = [0; 5];
//! disk.read_exact_at(&mut bytes, 0)?;
//! assert_eq!((&bytes, disk.size()), (b"guest", 64 << 10));
//! assert!(disk.extent_at(32 << 10, u64::MAX)?.kind.is_zero());
//! # Ok::<(), diskimage::Error>(())
//! ```

use std::ops::Range;
use std::sync::Arc;

use byteorder::{BigEndian, ByteOrder};

use crate::bytes::BeCursor;
use crate::check::Checking;
use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::format::fault::{Fault, check_limit, field};
use crate::format::whole::{Sort, pieces};
use crate::format::{Format, LayerOptions};
use crate::layer::{Description, Layer, Mapping, MappingKind, Source};
use crate::num::{Pow2, to_usize};
use crate::storage::{Storage, TableCache, check_inside, read_vec};
use crate::text::uuid;

/// The magic.
pub const MAGIC: &[u8; 4] = b"shdw";
/// The version that is read.
pub const VERSION: u32 = 1;
/// How much of the header is known.
pub const HEADER_SIZE: u64 = 80;
/// The bits of an entry that tell which chunk of the file it is.
pub const CHUNK_NUMBER: u64 = (1 << 55) - 1;
/// The bits of an entry of which nobody knows what they mean.
pub const RESERVED: u64 = 0x7f << 55;
/// The largest chunk that is read. Those of macOS are of 1 MiB.
pub const MAX_CHUNK: u32 = 64 << 20;

/// The status of a chunk, the highest two bits of its entry: nothing is written.
const EMPTY: u64 = 0b00;
/// All of its sectors are.
const FULL: u64 = 0b01;
/// Some are, says the bitmap.
const PARTIAL: u64 = 0b11;

/// The header.
///
/// ```
/// use diskimage::format::asif::{CHUNK_NUMBER, Header, MAGIC};
/// use diskimage::storage::MemoryStorage;
///
/// let mut bytes = [MAGIC.to_vec(), [1u32, 80, 0].map(u32::to_be_bytes).concat()].concat();
/// bytes.extend([0x200u64, 0x10_0000].map(u64::to_be_bytes).concat()); // directories
/// bytes.extend([0x5a; 16]); // the UUID
/// bytes.extend([2 << 20, 8u64 << 20].map(u64::to_be_bytes).concat()); // sectors now, and at most
/// bytes.extend((1u32 << 20).to_be_bytes()); // bytes of a chunk
/// bytes.extend(512u16.to_be_bytes()); // bytes of a sector
/// bytes.resize(80, 0);
///
/// let header = Header::read(&MemoryStorage::new(bytes))?;
/// assert_eq!(header.sector.offset_of(header.sectors), Some(1 << 30)); // 1 GiB
/// assert_eq!(header.chunk.size(), 1 << 20);
/// assert!(header.directories[1] < header.chunk.offset_of(CHUNK_NUMBER).unwrap_or(u64::MAX));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// The flags.
    pub flags: u32,
    /// Where the directories are.
    pub directories: [u64; 2],
    /// The UUID.
    pub uuid: [u8; 16],
    /// The size of the disk, sectors.
    pub sectors: u64,
    /// The size up to which it can grow, sectors: that of the directories.
    pub max_sectors: u64,
    /// The size of a chunk, bytes.
    pub chunk: Pow2,
    /// The size of a sector, bytes.
    pub sector: Pow2,
}

impl Header {
    /// Reads and validates it.
    ///
    /// ```
    /// use diskimage::format::asif::{Header, MAGIC, MAX_CHUNK};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = vec![0; 80];
    /// // `bytes` was made by hand
    /// let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    /// # put(0, MAGIC);
    /// # put(4, &[1u32, 80].map(u32::to_be_bytes).concat());
    /// # put(0x44, &512u16.to_be_bytes());
    /// put(0x40, &(2 * MAX_CHUNK).to_be_bytes()); // what no known program writes
    /// let error = Header::read(&MemoryStorage::new(bytes)).unwrap_err();
    /// assert_eq!((error.kind(), error.offset()), (diskimage::ErrorKind::Unsupported, Some(0x40)));
    /// ```
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let bytes = read_vec(storage, "the header", 0, to_usize(HEADER_SIZE))?;
        let mut cursor = BeCursor::new(&bytes, 0);
        if cursor.bytes(4, "the magic")? != MAGIC {
            return Err(Error::new(Fault::NotThis("ASIF")).at(0));
        }
        let version = cursor.u32("the header's version")?;
        if version != VERSION {
            let text = format!("is an ASIF image of version {version}; version 1 is read");
            return Err(Error::new(Fault::Unsupported(text)).at(4));
        }
        let size = cursor.u32("the header's size")?;
        if u64::from(size) < HEADER_SIZE {
            return field("header size", size, "at least 80", 8);
        }
        let flags = cursor.u32("the header's flags")?;
        let directories =
            [cursor.u64("the offset of a directory")?, cursor.u64("the offset of a directory")?];
        let uuid = cursor.bytes(16, "the UUID")?.first_chunk().copied().unwrap_or_default();
        let sectors = cursor.u64("the number of sectors")?;
        let max_sectors = cursor.u64("the largest number of sectors")?;
        let chunk_size = cursor.u32("the size of a chunk")?;
        let sector_size = cursor.u16("the size of a sector")?;
        let Some(sector) = Pow2::from_size(sector_size.into()).filter(|s| s.size() >= 512) else {
            return field("sector size", sector_size, "a power of two from 512 on", 0x44);
        };
        let chunk = Pow2::from_size(chunk_size.into());
        let Some(chunk) = chunk.filter(|chunk| chunk.size() >= sector.size()) else {
            return field("chunk size", chunk_size, "a power of two, and a sector at least", 0x40);
        };
        if chunk_size > MAX_CHUNK {
            let text = format!("has chunks of {chunk_size} bytes; up to 64 MiB are read");
            return Err(Error::new(Fault::Unsupported(text)).at(0x40));
        }
        let header = Self { flags, directories, uuid, sectors, max_sectors, chunk, sector };
        if header.groups() == 0 {
            return field("chunk size", chunk_size, "that of a group of entries at least", 0x40);
        }
        if sectors > max_sectors {
            return field("number of sectors", sectors, "no more than the largest one", 0x30);
        }
        let bytes = sector.offset_of(max_sectors);
        if bytes.is_none_or(|bytes| i64::try_from(bytes).is_err()) {
            return field("largest number of sectors", max_sectors, "below 2^63 bytes", 0x38);
        }
        Ok(header)
    }

    /// How many chunks a group has: as many as one bitmap is enough for.
    fn group(&self) -> u64 {
        self.sector.size().saturating_mul(4)
    }

    /// How many groups a table has.
    fn groups(&self) -> u64 {
        let entries = self.group().saturating_add(1).saturating_mul(8);
        self.chunk.size().checked_div(entries).unwrap_or_default()
    }

    /// The length of a table, bytes.
    fn table(&self) -> u64 {
        self.group().saturating_add(1).saturating_mul(8).saturating_mul(self.groups())
    }

    /// How many bytes of the disk a table is for.
    fn span(&self) -> u64 {
        self.chunk.size().saturating_mul(self.group()).saturating_mul(self.groups())
    }

    fn size(&self) -> u64 {
        self.sector.offset_of(self.sectors).unwrap_or(u64::MAX)
    }

    /// The length of a directory: a sequence number, and an entry for each table.
    fn directory(&self) -> u64 {
        let largest = self.sector.offset_of(self.max_sectors).unwrap_or(u64::MAX);
        largest.div_ceil(self.span().max(1)).saturating_add(1).saturating_mul(8)
    }
}

/// An ASIF image as a layer.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::LayerOptions;
/// use diskimage::format::asif::AsifLayer;
/// use diskimage::layer::{MappingKind, Source};
/// use diskimage::storage::MemoryStorage;
///
/// # let mut image = vec![0; 96 << 10];
/// # let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
/// # put(0, b"shdw");
/// # put(4, &[1u32, 80].map(u32::to_be_bytes).concat());
/// # put(0x10, &[0x200u64, 0x400].map(u64::to_be_bytes).concat());
/// # put(0x30, &[128u64, 128].map(u64::to_be_bytes).concat());
/// # put(0x40, &(32u32 << 10).to_be_bytes());
/// # put(0x44, &512u16.to_be_bytes());
/// # put(0x200, &[1u64, 1].map(u64::to_be_bytes).concat());
/// # put(32 << 10, &(1u64 << 62 | 2).to_be_bytes());
/// // two chunks of 32 KiB, of which the first lies at the third of the file
/// let layer = AsifLayer::open(Arc::new(MemoryStorage::new(image)), &LayerOptions::default())?;
/// assert_eq!(layer.header().chunk.size(), 32 << 10);
/// let stored = layer.map(512, 4096)?;
/// let offset = (64 << 10) + 512;
/// assert_eq!(stored.kind, MappingKind::Stored { source: Source::Own, offset });
/// assert!(matches!(layer.map(32 << 10, 4096)?.kind, MappingKind::Zero { .. }));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct AsifLayer {
    storage: Arc<dyn Storage>,
    header: Header,
    /// Where the directory is that counts, and its sequence number.
    directory: u64,
    sequence: u64,
    cache: TableCache,
}

/// What the disk is from an offset on.
struct Run {
    kind: MappingKind,
    length: u64,
}

impl AsifLayer {
    /// Opens `storage` as an ASIF image.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::ErrorKind;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::asif::AsifLayer;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut image = vec![0; 96 << 10];
    /// # let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
    /// # put(0, b"shdw");
    /// # put(4, &[1u32, 80, 1].map(u32::to_be_bytes).concat());
    /// # put(0x10, &[0x200u64, 0x400].map(u64::to_be_bytes).concat());
    /// # put(0x30, &[128u64, 128].map(u64::to_be_bytes).concat());
    /// # put(0x40, &(32u32 << 10).to_be_bytes());
    /// # put(0x44, &512u16.to_be_bytes());
    /// // a header with a flag of which nobody knows what it means
    /// let storage = Arc::new(MemoryStorage::new(image));
    /// let mut options = LayerOptions::default();
    /// let error = AsifLayer::open(storage.clone(), &options).unwrap_err();
    /// assert_eq!((error.kind(), error.offset()), (ErrorKind::Unsupported, Some(0x0c)));
    /// options.trust_broken = true;
    /// assert_eq!(AsifLayer::open(storage, &options)?.header().flags, 1);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let header = Header::read(&storage)?;
        if header.flags != 0 && !options.trust_broken {
            // a layer upon another image may be marked by one of them
            let error = Error::new(Fault::UnknownFeatures(header.flags.into()));
            return Err(error.at(0x0c));
        }
        let length = header.directory();
        check_limit("directory", length, options.limits.max_table_size)
            .map_err(|error| error.at(0x38))?;
        let mut found: Option<(u64, u64)> = None;
        for (index, offset) in (0u64..).zip(header.directories) {
            check_inside(&storage, "a directory", offset, length)
                .map_err(|error| error.at(index.saturating_mul(8).saturating_add(0x10)))?;
            let bytes = read_vec(&storage, "a directory", offset, 8)?;
            let sequence = BigEndian::read_u64(&bytes);
            if found.is_none_or(|(_, other)| sequence > other) {
                found = Some((offset, sequence));
            }
        }
        let (directory, sequence) = found.unwrap_or_default();
        let cache = TableCache::new(Arc::clone(&storage), options.limits.table_cache);
        Ok(Self { storage, header, directory, sequence, cache })
    }

    /// The header.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::Layer;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::asif::AsifLayer;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut image = vec![0; 32 << 10];
    /// # let mut put = |at: usize, field: &[u8]| image[at..at + field.len()].copy_from_slice(field);
    /// # put(0, b"shdw");
    /// # put(4, &[1u32, 80].map(u32::to_be_bytes).concat());
    /// # put(0x10, &[0x200u64, 0x400].map(u64::to_be_bytes).concat());
    /// # put(0x30, &[128u64, 256].map(u64::to_be_bytes).concat());
    /// # put(0x40, &(32u32 << 10).to_be_bytes());
    /// # put(0x44, &512u16.to_be_bytes());
    /// // `image` was made by hand
    /// let layer = AsifLayer::open(Arc::new(MemoryStorage::new(image)), &LayerOptions::default())?;
    /// let header = layer.header();
    /// assert_eq!(header.sector.offset_of(header.sectors), Some(layer.size()));
    /// assert_eq!(header.max_sectors, 2 * header.sectors); // it can grow to twice its size
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The number at this place of a table, and the page that holds it.
    fn number(&self, what: &'static str, table: Range<u64>, at: u64) -> Result<u64> {
        let length = table.end.saturating_sub(table.start);
        let page = self.cache.page(what, table.start, length, at)?;
        let from = to_usize(at.saturating_sub(page.start));
        let entry = page.bytes.get(from..).and_then(|rest| rest.first_chunk::<8>());
        Ok(BigEndian::read_u64(entry.unwrap_or(&[0; 8])))
    }

    /// Where the chunk of this number is in the file.
    fn chunk_at(&self, entry: u64) -> Result<u64> {
        self.header.chunk.offset_of(entry & CHUNK_NUMBER).ok_or_else(|| {
            let rule = "that of a chunk of a file";
            Fault::Entry { what: "the number of a chunk", value: entry, rule }.into()
        })
    }

    /// The table for this byte of the disk; `None` if there is none, so that all is zeros.
    fn table(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let index = offset.checked_div(self.header.span()).unwrap_or_default();
        let at = index.saturating_add(1).saturating_mul(8);
        let directory = self.directory..self.directory.saturating_add(self.header.directory());
        let place = self.directory.saturating_add(at);
        let found = || {
            let entry = self.number("the directory", directory, at)?;
            if entry == 0 {
                return Ok(None);
            }
            if entry & !CHUNK_NUMBER != 0 {
                let what = "an entry of the directory";
                return Err(Fault::Entry { what, value: entry, rule: "below 2^55" }.into());
            }
            let start = self.chunk_at(entry)?;
            // of a table only the pages count that tell of the disk
            Ok(Some(start..start.saturating_add(self.header.table())))
        };
        let start = index.saturating_mul(self.header.span());
        let guest = start..start.saturating_add(self.header.span()).min(self.size());
        found().map_err(|error: Error| error.at(place).affecting(guest))
    }

    /// What a chunk is, from its byte `within` on.
    fn chunk(&self, table: &Range<u64>, index: u64, within: u64) -> Result<Run> {
        let (header, group) = (&self.header, self.header.group());
        let number = index.checked_div(group).unwrap_or_default();
        // each group before it has an entry for its bitmap
        let at = index.saturating_add(number).saturating_mul(8);
        let found = || {
            let entry = self.number("a table", table.clone(), at)?;
            let length = header.chunk.size().saturating_sub(within);
            let unknown =
                || Fault::Unsupported(format!("has an entry {entry:#x}, which is not known"));
            if entry & RESERVED != 0 {
                return Err(unknown().into());
            }
            let stored = |within: u64| -> Result<MappingKind> {
                let offset = self.chunk_at(entry)?.saturating_add(within);
                Ok(MappingKind::Stored { source: Source::Own, offset })
            };
            match (entry.wrapping_shr(62), entry & CHUNK_NUMBER) {
                (EMPTY, 0) => {
                    Ok(Run { kind: MappingKind::Zero { allocated: false, stored: None }, length })
                }
                (FULL, 1..) => Ok(Run { kind: stored(within)?, length }),
                (PARTIAL, 1..) => {
                    let bitmap = number.saturating_mul(group.saturating_add(1));
                    let bitmap = bitmap.saturating_add(group).saturating_mul(8);
                    let bitmap = self.number("a table", table.clone(), bitmap)?;
                    if bitmap == 0 || bitmap & !CHUNK_NUMBER != 0 {
                        return Err(Fault::Entry {
                            what: "the entry of a bitmap",
                            value: bitmap,
                            rule: "that of a chunk",
                        }
                        .into());
                    }
                    let chunk = index.saturating_sub(number.saturating_mul(group));
                    let first = header.sector.index(chunk.saturating_mul(header.chunk.size()));
                    let (written, length) = self.sectors(self.chunk_at(bitmap)?, first, within)?;
                    let kind = match written {
                        true => stored(within)?,
                        false => MappingKind::Zero { allocated: false, stored: None },
                    };
                    Ok(Run { kind, length })
                }
                _ => Err(unknown().into()),
            }
        };
        let place = table.start.saturating_add(at);
        found()
            .map_err(|error: Error| if error.offset().is_some() { error } else { error.at(place) })
    }

    /// Whether the sector at this byte of a chunk was written, by a bitmap in which the chunk's first
    /// sector has this number; and for how many bytes that is so.
    fn sectors(&self, bitmap: u64, first: u64, within: u64) -> Result<(bool, u64)> {
        let (header, size) = (&self.header, self.header.chunk.size());
        let mut sector = header.sector.index(within);
        let end = header.sector.index(size);
        // the bits of a chunk are in one page: they are no more than 32 KiB, and a power of two
        let page = self.cache.page("a bitmap", bitmap, size, first.saturating_add(sector) >> 2)?;
        let mut found = None;
        while sector < end {
            let bit = first.saturating_add(sector);
            let byte = page.bytes.get(to_usize((bit >> 2).saturating_sub(page.start)));
            let shift = u32::try_from(bit & 3).unwrap_or_default().saturating_mul(2);
            let state = byte.copied().unwrap_or_default().wrapping_shr(shift) & 3;
            if state > 1 {
                let text = format!("has a sector in the state {state}, which is not known");
                let at = bitmap.saturating_add(bit >> 2);
                return Err(Error::new(Fault::Unsupported(text)).at(at));
            }
            if *found.get_or_insert(state) != state {
                break;
            }
            sector = sector.saturating_add(1);
        }
        let behind = header.sector.offset_of(sector).unwrap_or(u64::MAX).min(size);
        Ok((found == Some(1), behind.saturating_sub(within)))
    }

    fn run(&self, table: &Range<u64>, offset: u64) -> Result<Run> {
        let (chunk, span) = (self.header.chunk, self.header.span());
        let within = offset.checked_rem(span).unwrap_or_default();
        let guest = chunk.floor(within).saturating_add(offset.saturating_sub(within));
        let guest = guest..guest.saturating_add(chunk.size()).min(self.size());
        self.chunk(table, chunk.index(within), chunk.within(within))
            .map_err(|error| error.affecting(guest))
    }
}

impl Layer for AsifLayer {
    fn format(&self) -> Format {
        Format::Asif
    }

    fn size(&self) -> u64 {
        self.header.size()
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(self.header.chunk.size())
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let span = self.header.span();
        let rest = span.saturating_sub(offset.checked_rem(span).unwrap_or_default());
        let max = max.min(self.size().saturating_sub(offset));
        let Some(table) = self.table(offset)? else {
            let kind = MappingKind::Zero { allocated: false, stored: None };
            return Ok(Mapping { length: rest.min(max), kind });
        };
        let Run { kind, mut length } = self.run(&table, offset)?;
        // as many chunks as a page of the table is for
        let most = self.header.chunk.size().saturating_mul(TableCache::PAGE >> 3).min(rest);
        while length < max.min(most) {
            let Ok(next) = self.run(&table, offset.saturating_add(length)) else { break };
            if !kind.continues_with(length, &next.kind) {
                break;
            }
            length = length.saturating_add(next.length);
        }
        Ok(Mapping { length: length.min(rest).min(max), kind })
    }

    fn tables_at(&self) -> Option<u64> {
        Some(self.directory)
    }

    fn page_span(&self) -> Option<u64> {
        Some(self.header.span())
    }

    fn describe(&self) -> Result<Description> {
        let header = &self.header;
        let details = vec![
            ("uuid", uuid(&header.uuid).into()),
            ("sector-size", header.sector.size().into()),
            ("chunk-size", header.chunk.size().into()),
            ("max-size", header.sector.offset_of(header.max_sectors).unwrap_or_default().into()),
            ("sequence", self.sequence.into()),
        ];
        Ok(Description { details, ..Description::default() })
    }

    fn check(&self, checking: &Checking) -> Result<()> {
        let header = &self.header;
        let mut beyond = Sort::new(checking);
        let mut wrong = Sort::new(checking);
        let (mut allocated, mut end, size) = (0u64, 0u64, self.storage.size());
        checking.watcher().start(header.directory());
        let mut start = 0;
        while start < header.size() {
            checking.watcher().check()?;
            let behind = start.saturating_add(header.span());
            let whole = |table: Option<Range<u64>>| {
                let Some(table) = table else { return Ok(None) };
                check_inside(&self.storage, "a table", table.start, header.table())
                    .map_err(|error| error.at(table.start))?;
                Ok(Some(table))
            };
            match self.table(start).and_then(whole) {
                Ok(None) => {}
                Err(error) => wrong_entry(&mut wrong, error)?,
                Ok(Some(table)) => {
                    end = end.max(header.chunk.ceil(table.end).min(size));
                    let entries = header.group().saturating_add(1);
                    let mut index = 0u64;
                    pieces(&self.storage, "a table", table, checking, |piece, at| {
                        for (number, entry) in (0u64..).zip(piece.as_chunks::<8>().0) {
                            let entry = BigEndian::read_u64(entry);
                            let within = index.checked_rem(entries).unwrap_or_default();
                            let groups = index.checked_div(entries).unwrap_or_default();
                            let before = groups.saturating_mul(header.group());
                            let guest = header.chunk.offset_of(before.saturating_add(within));
                            let guest = guest.map(|offset| start.saturating_add(offset));
                            // the last table has room for more than the disk has
                            let is_of_disk = guest.is_some_and(|guest| guest < header.size());
                            let counts = within != header.group() && is_of_disk;
                            index = index.saturating_add(1);
                            let chunk = entry & CHUNK_NUMBER;
                            if chunk == 0 {
                                continue;
                            }
                            allocated = allocated.saturating_add(u64::from(counts));
                            let behind = header.chunk.offset_of(chunk.saturating_add(1));
                            end = end.max(behind.unwrap_or_default().min(size));
                            if behind.is_none_or(|behind| behind > size) {
                                beyond.corruption(|| {
                                    let at = at.saturating_add(number.saturating_mul(8));
                                    let text = "a chunk ends beyond the file";
                                    Finding::new(Code::BeyondEnd, text).at(at).in_structure("table")
                                });
                            }
                        }
                        Ok(())
                    })?;
                    // what entries and bitmaps say
                    let mut at = start;
                    while at < behind.min(header.size()) {
                        checking.watcher().check()?;
                        match self.map(at, behind.saturating_sub(at)) {
                            Ok(mapping) => at = at.saturating_add(mapping.length.max(1)),
                            Err(error) => {
                                let next = error.guest_range().map_or(behind, |range| range.end);
                                wrong_entry(&mut wrong, error)?;
                                at = next.max(at.saturating_add(1));
                            }
                        }
                    }
                }
            }
            start = behind;
        }
        let mut report = checking.report();
        report.image_end_offset = Some(end);
        report.total_clusters = Some(header.chunk.count(header.size()));
        report.allocated_clusters = Some(allocated);
        Ok(())
    }
}

/// Tells of an entry, unless it is the environment's fault that it cannot be read.
fn wrong_entry(sort: &mut Sort<'_>, error: Error) -> Result<()> {
    use crate::error::ErrorKind::{Cancelled, Io};
    if matches!(error.kind(), Io | Cancelled) {
        return Err(error);
    }
    sort.corruption(|| {
        let found = Finding::new(Code::InvalidEntry, error.detail().to_string());
        error.offset().map_or(found.clone(), |at| found.at(at))
    });
    Ok(())
}
