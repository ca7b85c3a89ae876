//! How a VHD image is written.
//!
//! A fixed image is the disk and its footer. A dynamic one has the copy of the footer, the dynamic
//! header, the block allocation table, the blocks in the order of the disk, each with its sector
//! bitmap before it, and the footer. A differencing one has the name of its parent behind the table.

use std::borrow::Cow;

use crate::error::{Detail, ErrorKind, Result};
use crate::format::Format;
use crate::format::blocks::{Block, Blocks, Layout, Placer};
use crate::format::parent::{Parent, uuid};
use crate::layer::Layer;
use crate::num::{Pow2, to_u64, to_usize};
use crate::seed::Seed;
use crate::writer::{Checksum, Forward, Map, Plan, Run, RunKind, Writer};

use super::footer::{Geometry, checksum};
use super::layout::*;

/// What a VHD image is to be like: a builder. The default is dynamic, with blocks of 2 MiB and the
/// exact size.
///
/// ```
/// use diskimage::format::vhd::VhdOptions;
/// use diskimage::Writer;
///
/// let writer = VhdOptions::new().block_size(512 << 10).time(1_700_000_000).writer(1 << 30)?;
/// assert_eq!(writer.size(), 1 << 30);
/// assert!(VhdOptions::new().writer(3 << 40).is_err()); // more than 2040 GiB
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct VhdOptions {
    fixed: bool,
    block_size: Option<u64>,
    by_geometry: bool,
    seed: String,
    time: u64,
    /// The parent, and its Unique ID.
    parent: Option<Parent<[u8; 16]>>,
}

#[derive(Debug, thiserror::Error)]
enum WriteDetail {
    #[error("blocks of {0} bytes: their size must be a power of two from 64 KiB to 256 MiB")]
    BlockSize(u64),
    #[error("a fixed VHD has no blocks")]
    FixedBlocks,
    #[error("a fixed VHD has no parent")]
    FixedWithParent,
    #[error("a disk of {size} bytes is more than the {most} that a VHD holds")]
    TooLarge { size: u64, most: u64 },
    #[error("a disk of {0} bytes is more than cylinders, heads and sectors can say")]
    BeyondGeometry(u64),
    #[error("a VHD of 0 bytes cannot say its size by a geometry")]
    NoGeometry,
}

impl Detail for WriteDetail {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::BlockSize(_) => "choose such a size with block_size; 2M is usual".into(),
            Self::FixedBlocks => "leave block_size out".into(),
            Self::FixedWithParent => "leave subformat at dynamic".into(),
            Self::TooLarge { .. } => "write a vhdx instead".into(),
            Self::BeyondGeometry(_) | Self::NoGeometry => "leave force_size at on".into(),
        })
    }
}

/// The largest disk: 2040 GiB, as Hyper-V and QEMU hold to.
const MAX_SIZE: u64 = 2040 << 30;
/// The longest name of a parent, UTF-16 units: Parent Unicode Name ends with a NUL.
const MAX_PARENT_NAME: usize = 255;
/// Blocks may be so small: smaller ones have a bitmap of less than a few bytes.
const SMALLEST_BLOCK: u64 = 64 << 10;
const LARGEST_BLOCK: u64 = 256 << 20;
/// The creator of images whose size is what they say: all readers take it so, QEMU's of any version
/// included, which once went by the geometry of creators that they did not know.
const CREATOR: &[u8; 4] = b"qem2";
/// The creator of images whose size is what their geometry says.
const CREATOR_BY_GEOMETRY: &[u8; 4] = b"vpc ";

impl VhdOptions {
    /// The default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A fixed image: the whole disk and a footer. Default: a dynamic one.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::vhd::VhdOptions;
    /// use diskimage::writer::{Forward, Full};
    ///
    /// let fixed = VhdOptions::new().fixed(true);
    /// let writer = fixed.writer(8 << 20)?;
    /// assert_eq!(writer.file_size(&Full)?, (8 << 20) + 512);
    /// assert_eq!(writer.forward(), Forward::Always); // into a pipe, too
    /// assert!(fixed.block_size(2 << 20).writer(8 << 20).is_err()); // it has no blocks
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn fixed(mut self, yes: bool) -> Self {
        self.fixed = yes;
        self
    }

    /// Bytes of a block of a dynamic image. The specification says that 512 KiB and 2 MiB are what was
    /// tested. Default: 2 MiB.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::vhd::VhdOptions;
    /// use diskimage::writer::Full;
    ///
    /// let small = VhdOptions::new().block_size(512 << 10).writer(1 << 30)?;
    /// let usual = VhdOptions::new().writer(1 << 30)?;
    /// // each block has a bitmap before it, and an entry
    /// assert!(small.file_size(&Full)? > usual.file_size(&Full)?);
    /// assert!(VhdOptions::new().block_size(1000).writer(1 << 30).is_err());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn block_size(mut self, bytes: u64) -> Self {
        self.block_size = Some(bytes);
        self
    }

    /// Rounds the size up to what cylinders, heads and sectors can say, for Virtual PC and old versions
    /// of QEMU. Default: the size is exact, but for whole sectors.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::vhd::VhdOptions;
    ///
    /// let exact = VhdOptions::new();
    /// assert_eq!(exact.writer(1_000_000)?.size(), 1_000_448); // whole sectors
    /// assert!(exact.by_geometry(true).writer(1_000_000)?.size() > 1_000_448);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn by_geometry(mut self, yes: bool) -> Self {
        self.by_geometry = yes;
        self
    }

    /// What identifiers derive from beside the content. Default: nothing.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::vhd::{VhdLayer, VhdOptions};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// let id = |seed: &str| -> diskimage::Result<[u8; 16]> {
    ///     let options = VhdOptions::new().fixed(true).seed(seed);
    /// #     let mut bytes = Vec::new();
    /// #     let target = diskimage::target::StreamTarget::new(&mut bytes);
    ///     let writer = Box::new(options.writer(1 << 20)?);
    /// #     diskimage::Convert::new().create(writer, &target)?;
    /// #     diskimage::Target::finish(Box::new(target))?;
    ///     // `bytes` is what it makes of an empty disk
    ///     let storage = Arc::new(MemoryStorage::new(bytes));
    ///     Ok(VhdLayer::open(storage, &LayerOptions::default())?.footer().unique_id)
    /// };
    /// assert_eq!(id("web-1")?, id("web-1")?); // again the same bytes
    /// assert_ne!(id("web-1")?, id("web-2")?);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn seed(mut self, seed: impl Into<String>) -> Self {
        self.seed = seed.into();
        self
    }

    /// The Time Stamp, seconds since 1970 began. Default: the beginning of 2000, the earliest.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::vhd::layout::EPOCH;
    /// use diskimage::format::vhd::{VhdLayer, VhdOptions};
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = diskimage::target::StreamTarget::new(&mut bytes);
    /// let writer = Box::new(VhdOptions::new().fixed(true).time(1_700_000_000).writer(1 << 20)?);
    /// # diskimage::Convert::new().create(writer, &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `bytes` is what it makes of an empty disk
    /// let layer = VhdLayer::open(Arc::new(MemoryStorage::new(bytes)), &LayerOptions::default())?;
    /// assert_eq!(u64::from(layer.footer().time_stamp) + EPOCH, 1_700_000_000);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn time(mut self, seconds: u64) -> Self {
        self.time = seconds;
        self
    }

    /// Makes it a differencing image of the VHD `parent`, which it is to know by `name`, as from its own
    /// folder, and by its Unique ID ("Implementing a Differencing Hard Disk"). Both have one size. The
    /// disk of the parent is what [`Convert::image`](crate::Convert::image) takes as backing.
    ///
    /// Of the two names that Windows writes, it has the relative one; an absolute `name` is the other.
    /// The Parent Time Stamp is 0, as Windows has it.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::format::LayerOptions;
    /// use diskimage::format::vhd::{VhdLayer, VhdOptions};
    /// use diskimage::storage::FileStorage;
    /// use diskimage::{Convert, Layer, Target, target::FileTarget};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("base.vhd");
    /// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
    /// let writer = VhdOptions::new().writer(8 << 20)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `path` is the file that it makes of an empty disk
    /// let defaults = LayerOptions::default();
    /// let open = |path| VhdLayer::open(Arc::new(FileStorage::open(path)?), &defaults);
    /// let parent = open(&path)?;
    /// let options = VhdOptions::new().parent("base.vhd", &parent)?;
    /// let child = folder.path().join("child.vhd");
    /// let target = FileTarget::create(&child, 0)?;
    /// # let target = target.durable(false);
    /// Convert::new().create(Box::new(options.writer(parent.size())?), &target)?;
    /// Box::new(target).finish()?;
    ///
    /// let child = open(&child)?;
    /// assert_eq!(child.references()[0].printable_name(), "./base.vhd");
    /// child.check_parent(&parent)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parent(mut self, name: impl Into<String>, parent: &dyn Layer) -> Result<Self> {
        self.parent = Some(Parent::new(
            Format::Vhd,
            name.into(),
            MAX_PARENT_NAME,
            parent,
            "Unique ID",
            uuid,
        )?);
        Ok(self)
    }

    /// What writes a disk of `size` bytes that way. Sizes are rounded up to whole sectors.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::vhd::VhdOptions;
    ///
    /// assert_eq!(VhdOptions::new().writer(1000)?.size(), 1024);
    /// let error = VhdOptions::new().writer(3 << 40).unwrap_err();
    /// assert_eq!(error.advice(), Some("write a vhdx instead"));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn writer(&self, size: u64) -> Result<VhdWriter> {
        let rounded = Pow2::SECTOR.ceil(size);
        let (size, geometry) = if self.by_geometry {
            let geometry = holding(rounded)?;
            (geometry.total_sectors().saturating_mul(SECTOR_SIZE), geometry)
        } else {
            (rounded, within(rounded))
        };
        if size > MAX_SIZE {
            return Err(WriteDetail::TooLarge { size, most: MAX_SIZE }.into());
        }
        let block = self.block_size.unwrap_or(2 << 20);
        if self.fixed && self.block_size.is_some() {
            return Err(WriteDetail::FixedBlocks.into());
        }
        let block = Pow2::from_size(block)
            .filter(|b| (SMALLEST_BLOCK..=LARGEST_BLOCK).contains(&b.size()))
            .ok_or(WriteDetail::BlockSize(block))?;
        if let Some(parent) = &self.parent {
            if self.fixed {
                return Err(WriteDetail::FixedWithParent.into());
            }
            parent.check_size(size, false)?;
        }
        let table = FOOTER_SIZE.saturating_add(HEADER_SIZE);
        let entries = block.count(size);
        let behind = table.saturating_add(Pow2::SECTOR.ceil(entries.saturating_mul(4)));
        let locator = self.parent.as_ref().map(|parent| Locator::new(parent, behind));
        let behind = locator.as_ref().map_or(behind, Locator::end);
        let bitmap = bitmap_size(block);
        // data in step with the pages of the file, bitmaps before them
        let step = Pow2::PAGE.ceil(block.size().saturating_add(bitmap));
        let first = Pow2::PAGE.ceil(behind.saturating_add(bitmap));
        let layout = Layout { block, size, table, first, step, all: false };
        let blocks = (!self.fixed).then(|| Placer::new(layout));
        let time = self.time.saturating_sub(EPOCH);
        Ok(VhdWriter {
            size,
            geometry,
            creator: if self.by_geometry { CREATOR_BY_GEOMETRY } else { CREATOR },
            blocks,
            block,
            entries,
            behind,
            parent: self.parent.clone().zip(locator),
            time: u32::try_from(time).unwrap_or(u32::MAX),
            seed: self.seed.clone(),
            checksum: Checksum::default(),
        })
    }
}

/// The name of a parent, behind the block allocation table.
#[derive(Debug, Clone)]
struct Locator {
    code: &'static [u8; 4],
    place: u64,
    /// UTF-16 in the byte order of Windows.
    name: Vec<u8>,
}

impl Locator {
    fn new(parent: &Parent<[u8; 16]>, place: u64) -> Self {
        let (name, absolute) = parent.windows_name();
        let code = if absolute { PLATFORM_W2KU } else { PLATFORM_W2RU };
        Self { code, place, name: name.encode_utf16().flat_map(u16::to_le_bytes).collect() }
    }

    /// The room for it: whole sectors.
    fn space(&self) -> u64 {
        Pow2::SECTOR.ceil(to_u64(self.name.len()))
    }

    fn end(&self) -> u64 {
        self.place.saturating_add(self.space())
    }

    /// Its entry in the dynamic header. Platform Data Space is in bytes, as Windows has it; the
    /// specification says sectors.
    fn entry(&self) -> Vec<u8> {
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
        let mut entry = self.code.to_vec();
        entry.extend(number(self.space()));
        entry.extend(number(to_u64(self.name.len())));
        entry.extend([0; 4]); // Reserved
        entry.extend(self.place.to_be_bytes());
        entry
    }
}

/// The sector bitmap of a block: a bit for each sector, in whole sectors.
fn bitmap_size(block: Pow2) -> u64 {
    Pow2::SECTOR.ceil(Pow2::SECTOR.count(block.size()).div_ceil(8))
}

/// Lays out a VHD image; see [`VhdOptions::writer`].
///
/// ```
/// use diskimage::Writer;
/// use diskimage::format::vhd::VhdOptions;
/// use diskimage::writer::Forward;
///
/// let writer = VhdOptions::new().seed("web-1").writer(8 << 20)?;
/// assert_eq!((writer.size(), writer.has_parent()), (8 << 20, false));
/// assert_eq!(writer.forward(), Forward::Never); // the table is known in the end
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct VhdWriter {
    size: u64,
    geometry: Geometry,
    creator: &'static [u8; 4],
    /// Of dynamic images.
    blocks: Option<Placer>,
    block: Pow2,
    entries: u64,
    /// Where the table and the parent's name end.
    behind: u64,
    parent: Option<(Parent<[u8; 16]>, Locator)>,
    time: u32,
    seed: String,
    /// Of fixed images.
    checksum: Checksum,
}

/// Entries and bitmaps of a dynamic or differencing image.
struct Dynamic {
    bitmap: u64,
    differencing: bool,
}

impl Blocks for Dynamic {
    fn entry(&mut self, _: u64, block: Block<'_>, out: &mut Vec<u8>, plan: &mut Plan) {
        let Block::Stored { offset, present } = block else {
            out.extend(BAT_UNUSED.to_be_bytes());
            return;
        };
        let place = offset.saturating_sub(self.bitmap);
        let entry = u32::try_from(Pow2::SECTOR.index(place)).unwrap_or(BAT_UNUSED);
        out.extend(entry.to_be_bytes());
        // all sectors of a block are there, unless there is a parent
        let mut bitmap = vec![if self.differencing { 0 } else { 0xff }; to_usize(self.bitmap)];
        if self.differencing {
            for range in present {
                for sector in Pow2::SECTOR.index(range.start)..Pow2::SECTOR.count(range.end) {
                    let byte = bitmap.get_mut(to_usize(sector.wrapping_shr(3)));
                    let shift = u32::try_from(sector & 7).unwrap_or_default();
                    // the highest bit of a byte comes first
                    byte.into_iter().for_each(|byte| *byte |= 0x80u8.wrapping_shr(shift));
                }
            }
        }
        plan.bytes(place, bitmap);
    }
}

impl VhdWriter {
    fn dynamic(&self) -> Dynamic {
        Dynamic { bitmap: bitmap_size(self.block), differencing: self.parent.is_some() }
    }

    /// Where the footer of a dynamic image goes if its blocks end at `end`, of which so many are stored.
    fn footer_at(&self, stored: u64, end: u64) -> u64 {
        match stored {
            // right behind the table
            0 => self.behind,
            _ => end,
        }
    }

    /// What identifiers derive from.
    fn seed(&self) -> Seed {
        let text = match &self.parent {
            // a child that does not differ has another identifier, too
            Some((parent, _)) => format!("{}\0{}", self.seed, crate::text::uuid(&parent.id)),
            None => self.seed.clone(),
        };
        match &self.blocks {
            Some(blocks) => blocks.seed(&text),
            None => self.checksum.seed(self.size, &text),
        }
    }

    fn footer(&self) -> Vec<u8> {
        let (number, data_offset) = match (&self.blocks, &self.parent) {
            (None, _) => (TYPE_FIXED, u64::MAX),
            (_, None) => (TYPE_DYNAMIC, FOOTER_SIZE),
            (_, Some(_)) => (TYPE_DIFFERENCING, FOOTER_SIZE),
        };
        let mut footer = Vec::with_capacity(to_usize(FOOTER_SIZE));
        footer.extend(FOOTER_COOKIE);
        footer.extend(FEATURES_RESERVED.to_be_bytes());
        footer.extend(VERSION_1_0.to_be_bytes());
        footer.extend(data_offset.to_be_bytes());
        footer.extend(self.time.to_be_bytes());
        footer.extend(self.creator);
        footer.extend(VERSION_1_0.to_be_bytes()); // Creator Version
        footer.extend(HOST_WINDOWS);
        footer.extend(self.size.to_be_bytes()); // Original Size
        footer.extend(self.size.to_be_bytes()); // Current Size
        footer.extend(self.geometry.cylinders.to_be_bytes());
        footer.extend([self.geometry.heads, self.geometry.sectors]);
        footer.extend(number.to_be_bytes());
        footer.extend([0; 4]); // Checksum
        footer.extend(self.seed().identifier("VHD Unique ID"));
        footer.resize(to_usize(FOOTER_SIZE), 0);
        sealed(footer, FOOTER_CHECKSUM)
    }

    fn header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(to_usize(HEADER_SIZE));
        header.extend(HEADER_COOKIE);
        header.extend(u64::MAX.to_be_bytes()); // Data Offset
        header.extend(FOOTER_SIZE.saturating_add(HEADER_SIZE).to_be_bytes()); // Table Offset
        header.extend(VERSION_1_0.to_be_bytes());
        header.extend(u32::try_from(self.entries).unwrap_or(u32::MAX).to_be_bytes());
        header.extend(u32::try_from(self.block.size()).unwrap_or(u32::MAX).to_be_bytes());
        if let Some((parent, locator)) = &self.parent {
            header.extend([0; 4]); // Checksum
            header.extend(parent.id);
            header.extend([0; 8]); // Parent Time Stamp, Reserved
            let name = parent.name.replace('/', "\\");
            header.extend(name.encode_utf16().flat_map(u16::to_be_bytes));
            header.resize(to_usize(HEADER_LOCATORS), 0);
            header.extend(locator.entry());
        }
        header.resize(to_usize(HEADER_SIZE), 0);
        sealed(header, HEADER_CHECKSUM)
    }
}

/// With its checksum, which lies at `field`.
fn sealed(mut bytes: Vec<u8>, field: usize) -> Vec<u8> {
    let (_, sum) = checksum(&bytes, field);
    if let Some(place) = bytes.get_mut(field..field.saturating_add(4)) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

impl Writer for VhdWriter {
    fn size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> Pow2 {
        if self.blocks.is_some() { Pow2::PAGE } else { Pow2::SECTOR }
    }

    fn forward(&self) -> Forward {
        if self.blocks.is_some() { Forward::Never } else { Forward::Always }
    }

    fn has_parent(&self) -> bool {
        self.parent.is_some()
    }

    fn longest_run(&self) -> u64 {
        self.blocks.as_ref().map_or(u64::MAX, |blocks| blocks.longest_run(4))
    }

    fn file_size(&self, map: &dyn Map) -> Result<u64> {
        let data = match &self.blocks {
            None => self.size,
            Some(blocks) => {
                let stored = blocks.layout().stored(map)?;
                self.footer_at(stored, blocks.layout().end(stored))
            }
        };
        Ok(data.saturating_add(FOOTER_SIZE))
    }

    fn begin(&mut self, _: Option<&dyn Map>, _: &mut Plan) -> Result<()> {
        Ok(())
    }

    fn place(&mut self, runs: &[Run], _: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        let mut format = self.dynamic();
        if let Some(blocks) = &mut self.blocks {
            blocks.place(&mut format, runs, plan);
            return Ok(());
        }
        for run in runs {
            let length = run.guest.end.min(self.size).saturating_sub(run.guest.start);
            match run.kind {
                RunKind::Plain(from) => {
                    self.checksum.add(run);
                    plan.plain(run.guest.start, from, length);
                }
                _ => plan.zeros(run.guest.start, length),
            }
        }
        Ok(())
    }

    fn wants_checksums(&self) -> bool {
        true
    }

    fn finish(&mut self, plan: &mut Plan) -> Result<()> {
        let mut format = self.dynamic();
        let Some(blocks) = &mut self.blocks else {
            plan.bytes(self.size, self.footer());
            return Ok(());
        };
        blocks.finish(&mut format, plan);
        let (table, stored, end) = (blocks.layout().table, blocks.stored(), blocks.end());
        let entries = self.entries.saturating_mul(4);
        let rest = Pow2::SECTOR.ceil(entries).saturating_sub(entries);
        plan.bytes(table.saturating_add(entries), vec![0xff; to_usize(rest)]);
        if let Some((_, locator)) = &self.parent {
            let mut name = locator.name.clone();
            name.resize(to_usize(locator.space()), 0);
            plan.bytes(locator.place, name);
        }
        let footer = self.footer();
        plan.bytes(self.footer_at(stored, end), footer.clone());
        plan.bytes(0, footer);
        plan.bytes(FOOTER_SIZE, self.header());
        Ok(())
    }
}

/// The largest geometry within so many bytes ("CHS Calculation"): what is lost by rounding down is
/// lost to programs that go by the geometry.
fn within(size: u64) -> Geometry {
    let sectors = Pow2::SECTOR.index(size).min(MAX_GEOMETRY);
    let shape = |heads: u64, per_track: u64| {
        let cylinder = heads.saturating_mul(per_track);
        Geometry {
            cylinders: u16::try_from(sectors.checked_div(cylinder).unwrap_or(0))
                .unwrap_or(u16::MAX),
            heads: u8::try_from(heads).unwrap_or(u8::MAX),
            sectors: u8::try_from(per_track).unwrap_or(u8::MAX),
        }
    };
    if sectors >= LARGE_TRACKS {
        return shape(16, 255);
    }
    let tracks = sectors.checked_div(17).unwrap_or(0);
    let heads = tracks.div_ceil(1024).max(4);
    if tracks < heads.saturating_mul(1024) && heads <= 16 {
        return shape(heads, 17);
    }
    let tracks = sectors.checked_div(31).unwrap_or(0);
    if tracks < 16 * 1024 { shape(16, 31) } else { shape(16, 63) }
}

/// The smallest geometry that the calculation comes to and that holds so many bytes.
fn holding(size: u64) -> Result<Geometry> {
    let wanted = Pow2::SECTOR.count(size);
    if wanted == 0 {
        return Err(WriteDetail::NoGeometry.into());
    }
    let mut sectors = wanted;
    // the largest geometry is one too: what is larger has no other
    while sectors <= MAX_GEOMETRY {
        let geometry = within(sectors.saturating_mul(SECTOR_SIZE));
        if geometry.total_sectors() >= wanted {
            return Ok(geometry);
        }
        sectors = sectors.saturating_add(wanted.saturating_sub(geometry.total_sectors()));
    }
    Err(WriteDetail::BeyondGeometry(size).into())
}

/// From so many sectors on a track has 255 ("CHS Calculation").
const LARGE_TRACKS: u64 = 65_535 * 16 * 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_are_those_of_the_specification() {
        let of = |size: u64| {
            let geometry = within(size);
            (geometry.cylinders, geometry.heads, geometry.sectors)
        };
        // what qemu-img gives for the same sizes
        assert_eq!(of(16 << 20), (481, 4, 17));
        assert_eq!(of(1 << 30), (2080, 16, 63));
        assert_eq!(of(127 << 30), (65_278, 16, 255));
        assert_eq!(of(2040 << 30), (65_535, 16, 255));
        assert_eq!(of(0), (0, 4, 17));
    }

    proptest::proptest! {
        #[test]
        fn a_geometry_holds_the_disk_and_no_cylinder_more_than_needed(sectors in 1..=MAX_GEOMETRY) {
            let geometry = holding(sectors * 512).unwrap();
            assert!(geometry.total_sectors() >= sectors);
            assert_eq!(within(geometry.total_sectors() * 512), geometry);
        }
    }

    #[test]
    fn the_last_cylinder_can_be_used_and_no_sector_beyond_it() {
        // the first sector of the last cylinder, once refused
        for sectors in [65_534 * 16 * 255 + 1, MAX_GEOMETRY] {
            assert_eq!(holding(sectors * 512).unwrap().total_sectors(), MAX_GEOMETRY);
        }
        let beyond = holding((MAX_GEOMETRY + 1) * 512).unwrap_err();
        assert!(beyond.to_string().contains(&((MAX_GEOMETRY + 1) * 512).to_string()), "{beyond}");
    }
}
