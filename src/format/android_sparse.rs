//! Android sparse images (`simg`), as `sparse_format.h` of the Android Open Source Project describes
//! them: chunks one behind the other, each with a header that says how many blocks of the disk it
//! is, and how they are stored. All numbers are little-endian.
//!
//! | | |
//! |---|---|
//! | read | version 1: raw, fill, don't-care (zeros) and CRC-32 chunks |
//! | checked | where each chunk lies, how many blocks they are, and every checksum: of chunks and of the image |
//! | refused | other major versions, unknown chunks, chunks that are not as many blocks as the disk has |
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use diskimage::format::android_sparse::{CHUNK_HEADER, FILE_HEADER, FILL, MAGIC, RAW};
//! use diskimage::storage::MemoryStorage;
//! use diskimage::{OpenOptions, VirtualDisk};
//!
//! // two blocks: one as it is, and one of four bytes that are repeated
//! let mut image = MAGIC.to_le_bytes().to_vec();
//! image.extend([1, 0, FILE_HEADER, CHUNK_HEADER].map(u16::to_le_bytes).concat());
//! image.extend([4096, 2, 2, 0].map(u32::to_le_bytes).concat());
//! for (kind, content) in [(RAW, vec![7; 4096]), (FILL, b"fill".to_vec())] {
//!     image.extend([kind, 0].map(u16::to_le_bytes).concat());
//!     let length = u32::from(CHUNK_HEADER) + content.len() as u32;
//!     image.extend([1, length].map(u32::to_le_bytes).concat());
//!     image.extend(content);
//! }
//! let storage = Arc::new(MemoryStorage::new(image));
//! let disk = OpenOptions::new().open_storage(storage, Path::new("super.img"))?;
//! let mut bytes = [0; 8];
//! disk.read_exact_at(&mut bytes, 4092)?;
//! assert_eq!(&bytes, b"\x07\x07\x07\x07fill");
//! # Ok::<(), diskimage::Error>(())
//! ```

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crc32fast::Hasher;

use crate::bytes::LeCursor;
use crate::check::Checking;
use crate::crc::crc32_of_zeros;
use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::format::fault::{Fault, check_limit, field};
use crate::format::whole::{note_unused, pieces};
use crate::format::{Format, LayerOptions};
use crate::layer::{Description, Layer, Mapping, MappingKind, Reach, Source};
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, read_vec};

/// The magic, `SPARSE_HEADER_MAGIC`.
pub const MAGIC: u32 = 0xed26_ff3a;
/// The version that is read, `major_version`. Later minor ones may have longer headers.
pub const MAJOR_VERSION: u16 = 1;
/// The length of the header, `file_hdr_sz`, and of that of a chunk, `chunk_hdr_sz`.
pub const FILE_HEADER: u16 = 28;
/// See [`FILE_HEADER`].
pub const CHUNK_HEADER: u16 = 12;

/// `CHUNK_TYPE_RAW`: blocks as they are.
pub const RAW: u16 = 0xcac1;
/// `CHUNK_TYPE_FILL`: four bytes that are repeated.
pub const FILL: u16 = 0xcac2;
/// `CHUNK_TYPE_DONT_CARE`: nothing is stored, and what is there does not matter: zeros.
pub const DONT_CARE: u16 = 0xcac3;
/// `CHUNK_TYPE_CRC32`: the checksum of all blocks before it, what does not matter being zeros.
pub const CRC32: u16 = 0xcac4;

/// How many chunks a look at the file's reach covers.
const REACH: usize = 4096;

/// The header.
///
/// ```
/// use diskimage::format::android_sparse::{Header, MAGIC};
/// use diskimage::storage::MemoryStorage;
///
/// let mut bytes = MAGIC.to_le_bytes().to_vec();
/// bytes.extend([1, 0, 28, 12].map(u16::to_le_bytes).concat()); // version 1.0, lengths of headers
/// bytes.extend([4096, 256, 1, 0].map(u32::to_le_bytes).concat()); // blocks, a chunk, no checksum
/// let header = Header::read(&MemoryStorage::new(bytes.clone()))?;
/// assert_eq!((header.block_size, header.total_blocks, header.total_chunks), (4096, 256, 1));
///
/// bytes[12] = 1; // blk_sz is no multiple of 4 then
/// let error = Header::read(&MemoryStorage::new(bytes)).unwrap_err();
/// assert_eq!(error.offset(), Some(12));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// `minor_version`.
    pub minor_version: u16,
    /// `file_hdr_sz`.
    pub file_header: u16,
    /// `chunk_hdr_sz`.
    pub chunk_header: u16,
    /// `blk_sz`: the size of a block, bytes.
    pub block_size: u32,
    /// `total_blks`: the blocks of the disk.
    pub total_blocks: u32,
    /// `total_chunks`.
    pub total_chunks: u32,
    /// `image_checksum`: the CRC-32 of the disk; 0 if nobody computed it.
    pub image_checksum: u32,
}

impl Header {
    /// Reads and validates it.
    ///
    /// ```
    /// use diskimage::ErrorKind;
    /// use diskimage::format::android_sparse::{Header, MAGIC};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// let mut bytes = MAGIC.to_le_bytes().to_vec();
    /// bytes.extend([2, 0, 28, 12].map(u16::to_le_bytes).concat()); // version 2.0
    /// bytes.resize(28, 0);
    /// let error = Header::read(&MemoryStorage::new(bytes)).unwrap_err();
    /// assert_eq!((error.kind(), error.offset()), (ErrorKind::Unsupported, Some(4)));
    /// ```
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let bytes = read_vec(storage, "the header", 0, usize::from(FILE_HEADER))?;
        let mut cursor = LeCursor::new(&bytes, 0);
        if cursor.u32("the magic")? != MAGIC {
            return Err(Error::new(Fault::NotThis("Android sparse")).at(0));
        }
        let major = cursor.u16("the header field major_version")?;
        if major != MAJOR_VERSION {
            let text = format!("is an Android sparse image of version {major}; version 1 is read");
            return Err(Error::new(Fault::Unsupported(text)).at(4));
        }
        let header = Self {
            minor_version: cursor.u16("the header field minor_version")?,
            file_header: cursor.u16("the header field file_hdr_sz")?,
            chunk_header: cursor.u16("the header field chunk_hdr_sz")?,
            block_size: cursor.u32("the header field blk_sz")?,
            total_blocks: cursor.u32("the header field total_blks")?,
            total_chunks: cursor.u32("the header field total_chunks")?,
            image_checksum: cursor.u32("the header field image_checksum")?,
        };
        if header.file_header < FILE_HEADER {
            return field("file_hdr_sz", header.file_header, "at least 28", 8);
        }
        if header.chunk_header < CHUNK_HEADER {
            return field("chunk_hdr_sz", header.chunk_header, "at least 12", 10);
        }
        if header.block_size == 0 || !header.block_size.is_multiple_of(4) {
            return field("blk_sz", header.block_size, "a multiple of 4 above 0", 12);
        }
        if i64::try_from(header.size()).is_err() {
            return field("total_blks", header.total_blocks, "that of a disk below 2^63 bytes", 16);
        }
        Ok(header)
    }

    fn size(&self) -> u64 {
        u64::from(self.block_size).saturating_mul(self.total_blocks.into())
    }
}

/// How blocks are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// As they are, from this offset of the file on.
    Raw(u64),
    /// As four bytes.
    Fill([u8; 4]),
    DontCare,
    /// No blocks, but the checksum of those before.
    Crc32(u32),
}

/// Some blocks of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    start: u64,
    blocks: u32,
    kind: Kind,
}

/// How far the chunks are known: each tells where the next one is.
#[derive(Debug)]
struct Known {
    /// Those that have blocks.
    chunks: Vec<Chunk>,
    /// How many there were, with the others.
    seen: u32,
    /// Where the next one is.
    at: u64,
    /// The first block behind them.
    blocks: u64,
}

/// An Android sparse image as a layer.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Layer;
/// use diskimage::format::LayerOptions;
/// use diskimage::format::android_sparse::AndroidSparseLayer;
/// use diskimage::layer::{MappingKind, Source};
/// use diskimage::storage::MemoryStorage;
///
/// # use diskimage::format::android_sparse::{DONT_CARE, MAGIC, RAW};
/// # let mut image = MAGIC.to_le_bytes().to_vec();
/// # image.extend([1, 0, 28, 12].map(u16::to_le_bytes).concat());
/// # image.extend([4096, 100, 2, 0].map(u32::to_le_bytes).concat());
/// # for (kind, blocks, content) in [(RAW, 1, vec![7; 4096]), (DONT_CARE, 99, Vec::new())] {
/// #     image.extend([kind, 0].map(u16::to_le_bytes).concat());
/// #     image.extend([blocks, 12 + content.len() as u32].map(u32::to_le_bytes).concat());
/// #     image.extend(content);
/// # }
/// // a raw chunk of one block, and one of 99 that do not matter
/// let storage = Arc::new(MemoryStorage::new(image));
/// let layer = AndroidSparseLayer::open(storage, &LayerOptions::default())?;
/// assert_eq!(layer.header().total_blocks, 100);
/// let data = layer.map(0, u64::MAX)?;
/// assert_eq!(data.kind, MappingKind::Stored { source: Source::Own, offset: 28 + 12 });
/// let zeros = layer.map(4096, u64::MAX)?;
/// assert!(matches!(zeros.kind, MappingKind::Zero { .. }));
/// assert_eq!(zeros.length, 99 * 4096);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct AndroidSparseLayer {
    storage: Arc<dyn Storage>,
    header: Header,
    most: u64,
    known: Mutex<Known>,
}

impl AndroidSparseLayer {
    /// Opens `storage` as an Android sparse image.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::android_sparse::{AndroidSparseLayer, MAGIC};
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{ErrorKind, Layer};
    ///
    /// let mut image = MAGIC.to_le_bytes().to_vec();
    /// image.extend([1, 0, 28, 12].map(u16::to_le_bytes).concat());
    /// image.extend([4096, 1, 1, 0].map(u32::to_le_bytes).concat());
    /// image.extend([0xcac9u16, 0].map(u16::to_le_bytes).concat()); // a chunk of an unknown type
    /// image.extend([1, 12].map(u32::to_le_bytes).concat());
    /// // the chunks are read as the disk is
    /// let storage = Arc::new(MemoryStorage::new(image));
    /// let layer = AndroidSparseLayer::open(storage, &LayerOptions::default())?;
    /// let error = layer.map(0, 4096).unwrap_err();
    /// assert_eq!((error.kind(), error.offset()), (ErrorKind::Unsupported, Some(28)));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn open(storage: Arc<dyn Storage>, options: &LayerOptions) -> Result<Self> {
        let header = Header::read(&storage)?;
        let at = header.file_header.into();
        let known = Mutex::new(Known { chunks: Vec::new(), seen: 0, at, blocks: 0 });
        Ok(Self { storage, header, most: options.limits.max_directory_size, known })
    }

    /// The header.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::Layer;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::android_sparse::{AndroidSparseLayer, MAGIC};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut image = MAGIC.to_le_bytes().to_vec();
    /// # image.extend([1, 0, 28, 12].map(u16::to_le_bytes).concat());
    /// # image.extend([4096, 256, 0, 0xcafe].map(u32::to_le_bytes).concat());
    /// // `image` was made by hand
    /// let storage = Arc::new(MemoryStorage::new(image));
    /// let layer = AndroidSparseLayer::open(storage, &LayerOptions::default())?;
    /// let header = layer.header();
    /// assert_eq!(layer.size(), u64::from(header.block_size) * u64::from(header.total_blocks));
    /// assert_eq!(header.image_checksum, 0xcafe); // what `check` holds the disk against
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn bytes(&self, blocks: u64) -> u64 {
        blocks.saturating_mul(self.header.block_size.into())
    }

    fn guest(&self, chunk: &Chunk) -> Range<u64> {
        let start = self.bytes(chunk.start);
        start..start.saturating_add(self.bytes(chunk.blocks.into()))
    }

    /// Reads the chunk at this place of the file, which starts with this block; and where the next
    /// one is.
    fn read_chunk(&self, at: u64, start: u64) -> Result<(Chunk, u64)> {
        let header = &self.header;
        let bytes = read_vec(&self.storage, "a chunk's header", at, CHUNK_HEADER.into())?;
        let mut cursor = LeCursor::new(&bytes, at);
        let kind = cursor.u16("a chunk's type")?;
        cursor.u16("a chunk's header")?;
        let blocks = cursor.u32("a chunk's chunk_sz")?;
        let total = cursor.u32("a chunk's total_sz")?;
        let body = at.saturating_add(header.chunk_header.into());
        let wanted = match kind {
            RAW => self.bytes(blocks.into()),
            FILL | CRC32 => 4,
            DONT_CARE => 0,
            other => {
                let text = format!("has a chunk of the type {other:#x}, which is not known");
                return Err(Error::new(Fault::Unsupported(text)).at(at));
            }
        };
        let wanted = wanted.saturating_add(header.chunk_header.into());
        if u64::from(total) != wanted {
            let text = format!("a chunk's total_sz is {total}, which must be {wanted}");
            return Err(Error::new(Fault::Corrupt(text)).at(at.saturating_add(8)));
        }
        let word = || {
            let bytes = read_vec(&self.storage, "a chunk", body, 4)?;
            Ok::<[u8; 4], Error>(bytes.first_chunk().copied().unwrap_or_default())
        };
        let kind = match kind {
            RAW => Kind::Raw(body),
            FILL => Kind::Fill(word()?),
            CRC32 => Kind::Crc32(u32::from_le_bytes(word()?)),
            _ => Kind::DontCare,
        };
        let blocks = if matches!(kind, Kind::Crc32(_)) { 0 } else { blocks };
        if start.saturating_add(blocks.into()) > header.total_blocks.into() {
            let text = format!("a chunk ends behind the disk's {} blocks", header.total_blocks);
            return Err(Error::new(Fault::Corrupt(text)).at(at.saturating_add(4)));
        }
        Ok((Chunk { start, blocks, kind }, at.saturating_add(wanted)))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chunk that holds this byte of the disk.
    fn find(&self, offset: u64) -> Result<Chunk> {
        let block = offset.checked_div(self.header.block_size.into()).unwrap_or_default();
        let mut known = self.lock();
        while known.blocks <= block {
            let guest = self.bytes(known.blocks)..self.header.size();
            if known.seen >= self.header.total_chunks {
                let text = format!(
                    "the chunks have {} blocks, the disk has {}",
                    known.blocks, self.header.total_blocks
                );
                return Err(Error::new(Fault::Corrupt(text)).at(known.at).affecting(guest));
            }
            let (chunk, next) =
                self.read_chunk(known.at, known.blocks).map_err(|error| error.affecting(guest))?;
            known.at = next;
            known.seen = known.seen.saturating_add(1);
            if chunk.blocks > 0 {
                let held = to_u64(known.chunks.len()).saturating_mul(to_u64(size_of::<Chunk>()));
                check_limit("list of chunks", held, self.most)?;
                known.chunks.push(chunk);
                known.blocks = known.blocks.saturating_add(chunk.blocks.into());
            }
        }
        let index = known.chunks.partition_point(|chunk| chunk.start <= block).saturating_sub(1);
        known
            .chunks
            .get(index)
            .copied()
            .ok_or_else(|| Fault::Corrupt("has no chunk with blocks".to_owned()).into())
    }

    /// What the chunk's bytes are, from its byte `within` on.
    fn kind(chunk: &Chunk, within: u64) -> MappingKind {
        match chunk.kind {
            Kind::Raw(at) => {
                MappingKind::Stored { source: Source::Own, offset: at.saturating_add(within) }
            }
            Kind::Fill([0, 0, 0, 0]) => MappingKind::Zero { allocated: true, stored: None },
            Kind::Fill(_) => MappingKind::Encoded,
            _ => MappingKind::Zero { allocated: false, stored: None },
        }
    }

    /// Whether any checksum is to be compared.
    fn check_chunks(&self, checking: &Checking) -> Result<()> {
        let header = &self.header;
        checking.watcher().start(self.storage.size());
        let (mut at, mut block, mut allocated) = (u64::from(header.file_header), 0u64, 0u64);
        let mut sum = Hasher::new();
        for _ in 0..header.total_chunks {
            checking.watcher().check()?;
            let (chunk, next) = match self.read_chunk(at, block) {
                Ok(read) => read,
                Err(error) => return tell(checking, error, at),
            };
            let length = self.bytes(chunk.blocks.into());
            match chunk.kind {
                Kind::Raw(from) => {
                    let range = from..next;
                    let read = pieces(&self.storage, "a chunk", range, checking, |piece, _| {
                        sum.update(piece);
                        Ok(())
                    });
                    if let Err(error) = read {
                        return tell(checking, error, at);
                    }
                }
                Kind::Fill([0, 0, 0, 0]) | Kind::DontCare => {
                    sum.combine(&crc32_of_zeros(length));
                }
                Kind::Fill(pattern) => {
                    let buffer = pattern.repeat(16 << 10);
                    let mut left = to_usize(length);
                    while left > 0 {
                        checking.watcher().check()?;
                        let piece = buffer.get(..left).unwrap_or(&buffer);
                        sum.update(piece);
                        left = left.saturating_sub(piece.len());
                    }
                }
                Kind::Crc32(wanted) => compare(checking, "a chunk", wanted, &sum, at),
            }
            if !matches!(chunk.kind, Kind::DontCare) {
                allocated = allocated.saturating_add(chunk.blocks.into());
            }
            block = block.saturating_add(chunk.blocks.into());
            at = next;
        }
        if block < header.total_blocks.into() {
            let total = header.total_blocks;
            let text = format!("the chunks have {block} blocks, the disk has {total}");
            checking.corruption(Finding::new(Code::InvalidEntry, text).at(at));
        } else if header.image_checksum != 0 {
            compare(checking, "the header", header.image_checksum, &sum, 24);
        }
        note_unused(checking, self.storage.size().saturating_sub(at));
        let mut report = checking.report();
        report.image_end_offset = Some(at);
        report.total_clusters = Some(header.total_blocks.into());
        report.allocated_clusters = Some(allocated);
        Ok(())
    }
}

/// Tells of what ends the walk over the chunks, unless it is the environment's fault.
fn tell(checking: &Checking, error: Error, at: u64) -> Result<()> {
    use crate::error::ErrorKind::{Cancelled, Io, Unsupported};
    let found = |code| {
        let at = error.offset().unwrap_or(at);
        Finding::new(code, error.detail().to_string()).at(at).in_structure("chunk")
    };
    match error.kind() {
        Io | Cancelled => return Err(error),
        Unsupported => checking.unreadable(found(Code::Unreadable)),
        _ if error.is_cut_off() => checking.corruption(found(Code::BeyondEnd)),
        _ => checking.corruption(found(Code::InvalidEntry)),
    }
    Ok(())
}

fn compare(checking: &Checking, what: &str, wanted: u32, sum: &Hasher, at: u64) {
    let got = sum.clone().finalize();
    if wanted != got {
        let text = format!("the checksum in {what} is {wanted:08x}, and should be {got:08x}");
        checking.corruption(Finding::new(Code::ChecksumMismatch, text).at(at));
    }
}

impl Layer for AndroidSparseLayer {
    fn format(&self) -> Format {
        Format::AndroidSparse
    }

    fn size(&self) -> u64 {
        self.header.size()
    }

    fn cluster_size(&self) -> Option<u64> {
        Some(u64::from(self.header.block_size)).filter(|size| size.is_power_of_two())
    }

    fn map(&self, offset: u64, max: u64) -> Result<Mapping> {
        let chunk = self.find(offset)?;
        let guest = self.guest(&chunk);
        let within = offset.saturating_sub(guest.start);
        let length = guest.end.saturating_sub(offset).min(max);
        Ok(Mapping { length, kind: Self::kind(&chunk, within) })
    }

    fn reach(&self, offset: u64) -> Result<Reach> {
        // a pattern is no stream that could be cut off
        let mut reach = Reach { length: 0, end: 0, encoded: false };
        for _ in 0..REACH {
            let at = offset.saturating_add(reach.length);
            if at >= self.size() {
                break;
            }
            match self.find(at) {
                Ok(chunk) => {
                    let guest = self.guest(&chunk);
                    if let Kind::Raw(from) = chunk.kind {
                        let length = guest.end.saturating_sub(guest.start);
                        reach.end = reach.end.max(from.saturating_add(length));
                    }
                    reach.length = guest.end.saturating_sub(offset);
                }
                Err(error) if reach.length == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(reach)
    }

    fn read_encoded(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let chunk = self.find(at)?;
            let length = to_usize(self.guest(&chunk).end.saturating_sub(at)).min(rest.len());
            let (part, behind) = rest.split_at_mut(length.max(1));
            let Kind::Fill(pattern) = chunk.kind else {
                let text = "these blocks are not a pattern".to_owned();
                return Err(Fault::Corrupt(text).into());
            };
            // blocks are multiples of four bytes
            let bytes = pattern.iter().cycle().skip(to_usize(at & 3));
            part.iter_mut().zip(bytes).for_each(|(byte, pattern)| *byte = *pattern);
            at = at.saturating_add(to_u64(part.len()));
            rest = behind;
        }
        Ok(())
    }

    fn describe(&self) -> Result<Description> {
        let header = &self.header;
        let mut details = vec![
            ("version", format!("{MAJOR_VERSION}.{}", header.minor_version).into()),
            ("block-size", header.block_size.into()),
            ("blocks", header.total_blocks.into()),
            ("chunks", header.total_chunks.into()),
        ];
        if header.image_checksum != 0 {
            details.push(("checksum", format!("crc32 {:08x}", header.image_checksum).into()));
        }
        Ok(Description { details, ..Description::default() })
    }

    fn check(&self, checking: &Checking) -> Result<()> {
        self.check_chunks(checking)
    }
}
