//! How a VHDX image is written: the header section, an empty log, the metadata and the block
//! allocation table, each from a whole MiB on, and the payload blocks in the order of the disk.

use std::borrow::Cow;
use std::ops::Range;

use crate::bytes::is_zero;
use crate::error::{Detail, ErrorKind, Result};
use crate::format::Format;
use crate::format::blocks::{Block, Blocks, Layout, Placer};
use crate::format::parent::{Parent, uuid};
use crate::layer::Layer;
use crate::num::{Pow2, to_u64, to_usize};
use crate::writer::{Forward, Map, Plan, Run, Writer};

use super::guid::Guid;
use super::layout::*;

/// What a VHDX image is to be like: a builder. The default is dynamic, with blocks of 32 MiB and
/// sectors of 512 bytes on a medium of 4096.
///
/// ```
/// use diskimage::format::vhdx::VhdxOptions;
/// use diskimage::Writer;
///
/// let writer = VhdxOptions::new().fixed(true).physical_sector_size(512).writer(1 << 30)?;
/// assert!(writer.file_size(&diskimage::writer::Full)? > 1 << 30);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct VhdxOptions {
    fixed: bool,
    block_size: Option<u64>,
    logical_sector_size: u32,
    physical_sector_size: u32,
    seed: String,
    /// The parent, and its `DataWriteGuid` in the order of its text form.
    parent: Option<Parent<[u8; 16]>>,
}

impl Default for VhdxOptions {
    fn default() -> Self {
        Self {
            fixed: false,
            block_size: None,
            logical_sector_size: 512,
            physical_sector_size: 4096,
            seed: String::new(),
            parent: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum WriteDetail {
    #[error("blocks of {0} bytes: their size must be a power of two from 1 to 256 MiB")]
    BlockSize(u64),
    #[error("{what} sectors of {size} bytes: they must have 512 or 4096")]
    SectorSize { what: &'static str, size: u32 },
    #[error("a disk of {0} bytes is more than the 64 TiB that a VHDX holds")]
    TooLarge(u64),
    #[error("a fixed VHDX has no parent")]
    FixedWithParent,
    #[error("a VHDX of 0 bytes cannot be written")]
    Empty,
}

impl Detail for WriteDetail {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::BlockSize(_) => "choose such a size with block_size".into(),
            Self::SectorSize { .. } => "choose one of them".into(),
            Self::FixedWithParent => "leave subformat at dynamic".into(),
            Self::TooLarge(_) => "write a qcow2 with larger clusters instead".into(),
            Self::Empty => "write another format".into(),
        })
    }
}

/// Where the log lies, which has this length.
const LOG: u64 = MIB;
/// Where the metadata lie, which have this length.
const METADATA: u64 = 2 * MIB;
/// Where the block allocation table lies.
const BAT: u64 = 3 * MIB;
/// How much of a sector bitmap block is written at a time: most of it is zeros.
const BITMAP_PIECE: usize = 4 << 10;
/// Where the first metadata item lies in its region.
const FIRST_ITEM: u32 = 64 << 10;
/// The longest name of a parent, UTF-16 units: what Windows takes, well within an item.
const MAX_PARENT_NAME: usize = 32_000;
/// What made the file, in the identifier.
const CREATOR: &str = "diskimage";

impl VhdxOptions {
    /// The default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All blocks are in the file from the start. Default: no.
    ///
    /// ```
    /// use diskimage::format::vhdx::VhdxOptions;
    ///
    /// let options = VhdxOptions::new().fixed(true);
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.vhdx");
    /// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
    /// let writer = options.writer(32 << 20)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `path` is the file that it makes of an empty disk
    /// assert_eq!(std::fs::metadata(&path)?.len(), 36 << 20); // though the disk is empty
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn fixed(mut self, yes: bool) -> Self {
        self.fixed = yes;
        self
    }

    /// Bytes of a payload block: a power of two from 1 to 256 MiB. Default: 32 MiB, or 2 MiB of a
    /// differencing image, as Hyper-V.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::vhdx::VhdxOptions;
    /// use diskimage::writer::Full;
    ///
    /// // small blocks leave more out, large ones need less of a table
    /// let small = VhdxOptions::new().block_size(1 << 20).writer(1 << 40)?;
    /// let large = VhdxOptions::new().block_size(256 << 20).writer(1 << 40)?;
    /// assert!(small.file_size(&Full)? > large.file_size(&Full)?);
    /// assert!(VhdxOptions::new().block_size(3 << 20).writer(1 << 40).is_err());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn block_size(mut self, bytes: u64) -> Self {
        self.block_size = Some(bytes);
        self
    }

    /// Bytes of a sector that the guest sees: 512 or 4096. Default: 512.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::vhdx::VhdxOptions;
    ///
    /// let options = VhdxOptions::new().logical_sector_size(4096).physical_sector_size(4096);
    /// assert_eq!(options.writer((1 << 20) + 512)?.size(), (1 << 20) + 4096);
    /// assert!(options.logical_sector_size(1024).writer(1 << 20).is_err());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn logical_sector_size(mut self, bytes: u32) -> Self {
        self.logical_sector_size = bytes;
        self
    }

    /// Bytes of a sector of the medium, as the guest is told: 512 or 4096. Default: 4096.
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
    /// let writer = VhdxOptions::new().physical_sector_size(512).writer(1 << 30)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `path` is the file that it makes of an empty disk
    /// let storage = Arc::new(FileStorage::open(&path)?);
    /// let layer = VhdxLayer::open(storage, &LayerOptions::default())?;
    /// assert_eq!(layer.metadata().physical_sector_size, 512);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn physical_sector_size(mut self, bytes: u32) -> Self {
        self.physical_sector_size = bytes;
        self
    }

    /// What identifiers derive from beside the content. Default: nothing.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::Layer;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::vhdx::{VhdxLayer, VhdxOptions};
    /// use diskimage::storage::FileStorage;
    ///
    /// // the same disk and the same seed are the same bytes; another seed is another disk
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("one.vhdx");
    /// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
    /// let writer = VhdxOptions::new().seed("web-1").writer(1 << 20)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `path` is the file that it makes of an empty disk
    /// # let other = folder.path().join("other.vhdx");
    /// # let target = diskimage::target::FileTarget::create(&other, 0)?.durable(false);
    /// let writer = VhdxOptions::new().seed("web-2").writer(1 << 20)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // and `other` is what this one makes
    /// let defaults = LayerOptions::default();
    /// let open = |path| VhdxLayer::open(Arc::new(FileStorage::open(path)?), &defaults);
    /// assert_ne!(open(&path)?.disk_id(), open(&other)?.disk_id());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn seed(mut self, seed: impl Into<String>) -> Self {
        self.seed = seed.into();
        self
    }

    /// Makes it a differencing image of the VHDX `parent`, which it is to know by `name`, as from its own
    /// folder, and by its `DataWriteGuid` (2.6.2.6). The parent has sectors of the same size, and is no
    /// larger. The disk of the parent is what [`Convert::image`](crate::Convert::image) takes as backing.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::vhdx::{VhdxLayer, VhdxOptions};
    /// use diskimage::storage::FileStorage;
    /// use diskimage::{Convert, Layer, Target, target::FileTarget};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("base.vhdx");
    /// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
    /// let writer = VhdxOptions::new().writer(1 << 30)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `path` is the file that it makes of an empty disk
    /// let defaults = LayerOptions::default();
    /// let open = |path| VhdxLayer::open(Arc::new(FileStorage::open(path)?), &defaults);
    /// let parent = open(&path)?;
    /// let options = VhdxOptions::new().parent("base.vhdx", &parent)?;
    /// let child = folder.path().join("child.vhdx");
    /// let target = FileTarget::create(&child, 0)?;
    /// # let target = target.durable(false);
    /// Convert::new().create(Box::new(options.writer(2 << 30)?), &target)?; // it may be larger
    /// Box::new(target).finish()?;
    ///
    /// let child = open(&child)?;
    /// child.check_parent(&parent)?;
    /// assert_eq!((child.size(), child.disk_id()), (2 << 30, parent.disk_id()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parent(mut self, name: impl Into<String>, parent: &dyn Layer) -> Result<Self> {
        let name = name.into();
        let what = "DataWriteGuid";
        self.parent = Some(Parent::new(Format::Vhdx, name, MAX_PARENT_NAME, parent, what, uuid)?);
        Ok(self)
    }

    /// What writes a disk of `size` bytes that way. Sizes are rounded up to whole logical sectors.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::vhdx::VhdxOptions;
    ///
    /// assert_eq!(VhdxOptions::new().writer(1000)?.size(), 1024);
    /// let error = VhdxOptions::new().writer(65 << 40).unwrap_err();
    /// assert_eq!(error.advice(), Some("write a qcow2 with larger clusters instead"));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn writer(&self, size: u64) -> Result<VhdxWriter> {
        let sector = |what, size: u32| match size {
            512 | 4096 => Pow2::from_size(size.into())
                .ok_or_else(|| WriteDetail::SectorSize { what, size }.into()),
            _ => Err(crate::error::Error::from(WriteDetail::SectorSize { what, size })),
        };
        let logical = sector("logical", self.logical_sector_size)?;
        sector("physical", self.physical_sector_size)?;
        let size = logical.ceil(size);
        if size == 0 {
            return Err(WriteDetail::Empty.into());
        }
        if size > MAX_VIRTUAL_DISK_SIZE {
            return Err(WriteDetail::TooLarge(size).into());
        }
        if let Some(parent) = &self.parent {
            if self.fixed {
                return Err(WriteDetail::FixedWithParent.into());
            }
            parent.check_sectors(logical.size())?;
            parent.check_size(size, true)?;
        }
        let has_parent = self.parent.is_some();
        let usual = if has_parent { 2 << 20 } else { 32 << 20 };
        let block = self.block_size.unwrap_or(usual);
        let block = Pow2::from_size(block)
            .filter(|b| (MIN_BLOCK_SIZE.into()..=MAX_BLOCK_SIZE.into()).contains(&b.size()))
            .ok_or(WriteDetail::BlockSize(block))?;
        // 2.5: a sector bitmap's entry behind those of the blocks that it speaks of
        let chunk_bits = SECTOR_BITMAP_BITS.saturating_add(logical.bits());
        let chunk_ratio = Pow2::from_bits(chunk_bits.saturating_sub(block.bits()));
        let chunk_ratio = chunk_ratio.unwrap_or(block);
        let blocks = block.count(size);
        let entries = if has_parent {
            // all of each chunk's
            let chunk = chunk_ratio.size().saturating_add(1);
            chunk_ratio.count(blocks).saturating_mul(chunk)
        } else {
            blocks.saturating_add(chunk_ratio.index(blocks.saturating_sub(1)))
        };
        let bat_length = entries.saturating_mul(BAT_ENTRY_LENGTH).div_ceil(MIB).saturating_mul(MIB);
        let layout = Layout {
            block,
            size,
            table: BAT,
            first: BAT.saturating_add(bat_length),
            step: block.size(),
            all: self.fixed,
        };
        Ok(VhdxWriter {
            options: self.clone(),
            bat: Bat {
                chunk_ratio,
                blocks,
                block,
                size,
                sector: logical,
                has_parent,
                bitmap: None,
            },
            bat_length,
            blocks: Placer::new(layout),
        })
    }
}

/// Lays out a VHDX image; see [`VhdxOptions::writer`].
///
/// ```
/// use diskimage::Writer;
/// use diskimage::format::vhdx::VhdxOptions;
/// use diskimage::writer::Full;
///
/// let writer = VhdxOptions::new().writer(1 << 30)?;
/// assert_eq!((writer.size(), writer.has_parent()), (1 << 30, false));
/// // headers, log, metadata and block allocation table have a MiB each
/// assert_eq!(writer.file_size(&Full)?, (1 << 30) + (4 << 20));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct VhdxWriter {
    options: VhdxOptions,
    bat: Bat,
    bat_length: u64,
    blocks: Placer,
}

/// The entries of the block allocation table (2.5.1).
#[derive(Debug)]
struct Bat {
    chunk_ratio: Pow2,
    blocks: u64,
    block: Pow2,
    size: u64,
    sector: Pow2,
    has_parent: bool,
    /// Where the sector bitmap block of the chunk lies that is being written, and its bytes, once a
    /// block of the chunk is in the file.
    bitmap: Option<(u64, Vec<u8>)>,
}

impl Blocks for Bat {
    fn entry(&mut self, number: u64, block: Block<'_>, out: &mut Vec<u8>, plan: &mut Plan) {
        let entry = match block {
            Block::Absent => 0,
            Block::Zero => PAYLOAD_ZERO,
            Block::Stored { offset, present } => {
                (offset & BAT_FILE_OFFSET) | self.state(number, offset, present)
            }
        };
        out.extend(entry.to_le_bytes());
        let next = number.saturating_add(1);
        if self.has_parent && (self.chunk_ratio.is_aligned(next) || next == self.blocks) {
            // the chunk's other blocks, behind the end of the disk
            let others = self.chunk_ratio.ceil(next).saturating_sub(next);
            let length = to_usize(others.saturating_mul(BAT_ENTRY_LENGTH));
            out.resize(out.len().saturating_add(length), 0);
            let entry = match self.bitmap.take() {
                None => 0,
                Some((place, bitmap)) => {
                    let mut at = place;
                    for piece in bitmap.chunks(BITMAP_PIECE) {
                        match is_zero(piece) {
                            true => plan.zeros(at, to_u64(piece.len())),
                            false => plan.bytes(at, piece.to_vec()),
                        }
                        at = at.saturating_add(to_u64(piece.len()));
                    }
                    (place & BAT_FILE_OFFSET) | BITMAP_PRESENT
                }
            };
            out.extend(entry.to_le_bytes());
        } else if self.chunk_ratio.is_aligned(next) && next < self.blocks {
            out.extend([0; 8]); // a sector bitmap that is not there
        }
    }

    fn gap(&self, _: u64) -> u64 {
        if self.has_parent && self.bitmap.is_none() { SECTOR_BITMAP_LENGTH } else { 0 }
    }

    fn has_zeros(&self) -> bool {
        true
    }
}

impl Bat {
    /// The state of a block that is in the file; its sectors are marked in the bitmap of its chunk,
    /// which lies before the first block of it.
    fn state(&mut self, number: u64, offset: u64, present: &[Range<u64>]) -> u64 {
        let start = self.block.offset_of(number).unwrap_or(u64::MAX);
        let used = self.block.size().min(self.size.saturating_sub(start));
        if !self.has_parent {
            return PAYLOAD_FULLY_PRESENT;
        }
        let (_, bitmap) = self.bitmap.get_or_insert_with(|| {
            let place = offset.saturating_sub(SECTOR_BITMAP_LENGTH);
            (place, vec![0; to_usize(SECTOR_BITMAP_LENGTH)])
        });
        let sectors = self.sector.index(self.block.size());
        let first = self.chunk_ratio.within(number).saturating_mul(sectors);
        for range in present {
            for sector in self.sector.index(range.start)..self.sector.count(range.end) {
                let bit = first.saturating_add(sector);
                let byte = bitmap.get_mut(to_usize(bit.wrapping_shr(3)));
                let shift = u32::try_from(bit & 7).unwrap_or_default();
                // the lowest bit of a byte comes first
                byte.into_iter().for_each(|byte| *byte |= 1u8.wrapping_shl(shift));
            }
        }
        if present.iter().eq([&(0..used)]) {
            PAYLOAD_FULLY_PRESENT
        } else {
            PAYLOAD_PARTIALLY_PRESENT
        }
    }
}

impl VhdxWriter {
    fn guid(&self, name: &str) -> [u8; 16] {
        let text = match &self.options.parent {
            // a child that does not differ has another identifier, too
            Some(parent) => format!("{}\0{}", self.options.seed, crate::text::uuid(&parent.id)),
            None => self.options.seed.clone(),
        };
        stored(Guid::from_text_order(self.blocks.seed(&text).identifier(name)))
    }

    /// 2.6.2.3. A child is the same disk as its parent, as Windows has it.
    fn disk_id(&self) -> [u8; 16] {
        match self.options.parent.as_ref().and_then(|parent| parent.disk_id) {
            Some(id) => stored(Guid::from_text_order(id)),
            None => self.guid("VHDX virtual disk identifier"),
        }
    }

    /// 2.2.1.
    fn identifier() -> Vec<u8> {
        let mut bytes = FILE_IDENTIFIER_SIGNATURE.to_vec();
        bytes.extend(CREATOR.encode_utf16().flat_map(u16::to_le_bytes));
        bytes
    }

    /// 2.2.2.
    fn header(&self, sequence_number: u64) -> Vec<u8> {
        let mut bytes = HEADER_SIGNATURE.to_vec();
        bytes.extend([0; 4]); // Checksum
        bytes.extend(sequence_number.to_le_bytes());
        bytes.extend(self.guid("VHDX FileWriteGuid"));
        bytes.extend(self.guid("VHDX DataWriteGuid"));
        bytes.extend([0; 16]); // LogGuid: the log is empty
        bytes.extend(LOG_VERSION.to_le_bytes());
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(length(MIB)); // LogLength
        bytes.extend(LOG.to_le_bytes());
        sealed(bytes, HEADER_LENGTH)
    }

    /// 2.2.3.
    fn region_table(&self) -> Vec<u8> {
        let regions = [(REGION_BAT, BAT, self.bat_length), (REGION_METADATA, METADATA, MIB)];
        let mut bytes = REGION_TABLE_SIGNATURE.to_vec();
        bytes.extend([0; 4]); // Checksum
        bytes.extend(length(to_u64(regions.len())));
        bytes.extend([0; 4]);
        for (guid, offset, size) in regions {
            bytes.extend(stored(guid));
            bytes.extend(offset.to_le_bytes());
            bytes.extend(length(size));
            bytes.extend(REGION_REQUIRED.to_le_bytes());
        }
        sealed(bytes, REGION_TABLE_LENGTH)
    }

    /// 2.6: the table and its items.
    fn metadata(&self) -> Vec<u8> {
        let layout = self.blocks.layout();
        let flags = match &self.options.parent {
            Some(_) => FILE_PARAMETERS_HAS_PARENT,
            None if layout.all => FILE_PARAMETERS_LEAVE_BLOCKS_ALLOCATED,
            None => 0,
        };
        let mut parameters = length(layout.block.size()).to_vec();
        parameters.extend(flags.to_le_bytes());
        let disk = METADATA_IS_VIRTUAL_DISK | METADATA_IS_REQUIRED;
        let mut items = vec![
            (ITEM_FILE_PARAMETERS, METADATA_IS_REQUIRED, parameters),
            (ITEM_VIRTUAL_DISK_SIZE, disk, layout.size.to_le_bytes().to_vec()),
            (ITEM_VIRTUAL_DISK_ID, disk, self.disk_id().to_vec()),
            (ITEM_LOGICAL_SECTOR_SIZE, disk, self.options.logical_sector_size.to_le_bytes().into()),
            (
                ITEM_PHYSICAL_SECTOR_SIZE,
                disk,
                self.options.physical_sector_size.to_le_bytes().into(),
            ),
        ];
        if let Some(parent) = &self.options.parent {
            items.push((ITEM_PARENT_LOCATOR, METADATA_IS_REQUIRED, locator(parent)));
        }
        let mut table = METADATA_SIGNATURE.to_vec();
        table.extend([0; 2]);
        table.extend(u16::try_from(items.len()).unwrap_or_default().to_le_bytes());
        table.extend([0; 20]);
        let mut at = FIRST_ITEM;
        let mut data = Vec::new();
        for (guid, flags, item) in items {
            let size = u32::try_from(item.len()).unwrap_or_default();
            table.extend(stored(guid));
            table.extend(at.to_le_bytes());
            table.extend(size.to_le_bytes());
            table.extend(flags.to_le_bytes());
            table.extend([0; 4]);
            at = at.saturating_add(size);
            data.extend(item);
        }
        table.resize(to_usize(FIRST_ITEM.into()), 0);
        table.extend(data);
        table
    }
}

/// 2.6.2.6: what the parent is known by, and the one name that it has.
fn locator(parent: &Parent<[u8; 16]>) -> Vec<u8> {
    let (name, absolute) = parent.windows_name();
    let linkage = format!("{{{}}}", Guid::from_text_order(parent.id));
    let [relative, _, other] = KEYS_OF_PATHS;
    let key = if absolute { other } else { relative };
    let pairs = [(KEY_PARENT_LINKAGE, &*linkage), (key, &*name)];
    let mut bytes = stored(PARENT_LOCATOR_TYPE).to_vec();
    bytes.extend([0; 2]); // Reserved
    bytes.extend(u16::try_from(pairs.len()).unwrap_or_default().to_le_bytes());
    let mut at =
        PARENT_LOCATOR_HEADER_LENGTH.saturating_add(PARENT_LOCATOR_ENTRY_LENGTH.saturating_mul(2));
    let mut strings: Vec<u8> = Vec::new();
    for (key, value) in pairs {
        let mut lengths = Vec::new();
        for text in [key, value] {
            bytes.extend(length(at));
            let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            lengths.extend(u16::try_from(units.len()).unwrap_or_default().to_le_bytes());
            at = at.saturating_add(to_u64(units.len()));
            strings.extend(units);
        }
        bytes.extend(lengths);
    }
    bytes.extend(strings);
    bytes
}

fn length(bytes: u64) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes()
}

/// A GUID as Windows stores it.
fn stored(guid: Guid) -> [u8; 16] {
    // swapping the first three numbers goes both ways
    *Guid::from_stored(*guid.as_bytes()).as_bytes()
}

/// A structure of this length, with its checksum.
fn sealed(mut bytes: Vec<u8>, length: usize) -> Vec<u8> {
    bytes.resize(length, 0);
    let sum = crc32c::crc32c(&bytes);
    if let Some(place) = bytes.get_mut(4..8) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

impl Writer for VhdxWriter {
    fn size(&self) -> u64 {
        self.blocks.layout().size
    }

    fn unit(&self) -> Pow2 {
        Pow2::PAGE
    }

    fn forward(&self) -> Forward {
        Forward::Never
    }

    fn has_parent(&self) -> bool {
        self.options.parent.is_some()
    }

    fn longest_run(&self) -> u64 {
        self.blocks.longest_run(BAT_ENTRY_LENGTH)
    }

    fn file_size(&self, map: &dyn Map) -> Result<u64> {
        let layout = self.blocks.layout();
        let stored = layout.stored(map)?;
        let bitmaps = if self.has_parent() {
            // one for each chunk, if there is a block in it
            self.bat.chunk_ratio.count(self.bat.blocks).min(stored)
        } else {
            0
        };
        Ok(layout.end(stored).saturating_add(bitmaps.saturating_mul(SECTOR_BITMAP_LENGTH)))
    }

    fn begin(&mut self, _: Option<&dyn Map>, _: &mut Plan) -> Result<()> {
        Ok(())
    }

    fn place(&mut self, runs: &[Run], _: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        self.blocks.place(&mut self.bat, runs, plan);
        Ok(())
    }

    fn wants_checksums(&self) -> bool {
        true
    }

    fn finish(&mut self, plan: &mut Plan) -> Result<()> {
        self.blocks.finish(&mut self.bat, plan);
        if self.blocks.stored() == 0 {
            // the table is as long as it is said to be
            plan.bytes(self.blocks.end().saturating_sub(1), vec![0]);
        }
        plan.bytes(0, Self::identifier());
        for (sequence_number, offset) in (0u64..).zip(HEADER_OFFSETS) {
            plan.bytes(offset, self.header(sequence_number));
        }
        for offset in REGION_TABLE_OFFSETS {
            plan.bytes(offset, self.region_table());
        }
        plan.zeros(LOG, MIB);
        plan.bytes(METADATA, self.metadata());
        Ok(())
    }
}
