//! How a VDI image is written: the header, the block map, and from a whole MiB on the blocks, in the
//! order of the disk.

use std::borrow::Cow;

use crate::error::{Detail, ErrorKind, Result};
use crate::format::blocks::{Block, Blocks, Layout, Placer};
use crate::num::{Pow2, to_usize};
use crate::writer::{Forward, Map, Plan, Run, Writer};

use super::layout::*;

/// What a VDI image is to be like: a builder. The default is one that grows.
///
/// ```
/// use diskimage::format::vdi::VdiOptions;
/// use diskimage::Writer;
///
/// let writer = VdiOptions::new().fixed(true).writer(1 << 30)?;
/// assert_eq!(writer.file_size(&diskimage::writer::Full)?, (1 << 30) + (1 << 20));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct VdiOptions {
    fixed: bool,
    seed: String,
}

#[derive(Debug, thiserror::Error)]
enum WriteDetail {
    #[error("a disk of {size} bytes is more than the {most} that a VDI holds")]
    TooLarge { size: u64, most: u64 },
}

impl Detail for WriteDetail {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::TooLarge { .. } => "choose another format".into(),
        })
    }
}

/// Numbers of blocks that VirtualBox and QEMU take: what a map below 4 GiB holds.
const MAX_BLOCKS: u64 = 0x3fff_ffff;
/// The size of blocks, the only one that VirtualBox and QEMU read, and what data are in step with.
const MIB: u64 = 1 << 20;
/// What the text at the start says, as all that can be told of it.
const FILE_INFO: &[u8] = b"<<< diskimage VDI >>>\n";
/// Where the block map lies: behind the header, in a sector of its own.
const MAP: u64 = 512;
/// Where `uuidCreate` lies.
const AT_UUIDS: usize = 0x188;

impl VdiOptions {
    /// The default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All blocks are in the file from the start. Default: no.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::vdi::VdiOptions;
    /// use diskimage::writer::Full;
    ///
    /// let writer = VdiOptions::new().fixed(true).writer(8 << 20)?;
    /// assert_eq!(writer.file_size(&Full)?, 9 << 20); // a MiB before the blocks
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn fixed(mut self, yes: bool) -> Self {
        self.fixed = yes;
        self
    }

    /// What identifiers derive from beside the content. Default: nothing.
    ///
    /// ```
    /// use diskimage::Limits;
    /// use diskimage::format::vdi::{Header, VdiOptions};
    /// use diskimage::storage::FileStorage;
    ///
    /// // VirtualBox refuses a second disk of the same identifier
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("one.vdi");
    /// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
    /// let writer = VdiOptions::new().seed("web-1").writer(1 << 20)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // `path` is the file that it makes of an empty disk
    /// # let other = folder.path().join("other.vdi");
    /// # let target = diskimage::target::FileTarget::create(&other, 0)?.durable(false);
    /// let writer = VdiOptions::new().seed("web-2").writer(1 << 20)?;
    /// # diskimage::Convert::new().create(Box::new(writer), &target)?;
    /// # diskimage::Target::finish(Box::new(target))?;
    /// // and `other` is what this one makes
    /// let read = |path| Header::read(&FileStorage::open(path)?, &Limits::default());
    /// assert_ne!(read(&path)?.uuid, read(&other)?.uuid);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn seed(mut self, seed: impl Into<String>) -> Self {
        self.seed = seed.into();
        self
    }

    /// What writes a disk of `size` bytes that way. Sizes are rounded up to whole sectors.
    ///
    /// ```
    /// use diskimage::Writer;
    /// use diskimage::format::vdi::VdiOptions;
    ///
    /// assert_eq!(VdiOptions::new().writer(1000)?.size(), 1024);
    /// // the block map has numbers of 32 bits, and VirtualBox takes fewer
    /// let error = VdiOptions::new().writer(1 << 50).unwrap_err();
    /// assert_eq!(error.advice(), Some("choose another format"));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn writer(&self, size: u64) -> Result<VdiWriter> {
        let size = Pow2::SECTOR.ceil(size);
        let block = Pow2::from_size(MIB).unwrap_or(Pow2::PAGE);
        let most = MAX_BLOCKS.saturating_mul(block.size());
        if size > most {
            return Err(WriteDetail::TooLarge { size, most }.into());
        }
        let map = MAP.saturating_add(block.count(size).saturating_mul(4));
        let first = map.max(1).div_ceil(MIB).saturating_mul(MIB);
        let layout = Layout { block, size, table: MAP, first, step: block.size(), all: self.fixed };
        Ok(VdiWriter { blocks: Placer::new(layout), seed: self.seed.clone() })
    }
}

/// Lays out a VDI image; see [`VdiOptions::writer`].
///
/// ```
/// use diskimage::Writer;
/// use diskimage::format::vdi::VdiOptions;
/// use diskimage::writer::{Forward, Full};
///
/// let writer = VdiOptions::new().writer(8 << 20)?;
/// // a MiB for the header and the block map, and the blocks
/// assert_eq!(writer.file_size(&Full)?, 9 << 20);
/// // how many blocks there are stands in the header, which is written last
/// assert_eq!(writer.forward(), Forward::Never);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct VdiWriter {
    blocks: Placer,
    seed: String,
}

/// The entries of the block map: numbers of blocks in the file.
struct BlockMap {
    first: u64,
    block: Pow2,
}

impl Blocks for BlockMap {
    fn entry(&mut self, _: u64, block: Block<'_>, out: &mut Vec<u8>, _: &mut Plan) {
        let entry = match block {
            Block::Stored { offset, .. } => {
                let number = self.block.index(offset.saturating_sub(self.first));
                u32::try_from(number).unwrap_or(BLOCK_FREE)
            }
            Block::Absent | Block::Zero => BLOCK_FREE,
        };
        out.extend(entry.to_le_bytes());
    }
}

impl VdiWriter {
    fn map(&self) -> BlockMap {
        let layout = self.blocks.layout();
        BlockMap { first: layout.first, block: layout.block }
    }

    fn header(&self) -> Vec<u8> {
        let layout = self.blocks.layout();
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        let seed = self.blocks.seed(&self.seed);
        let mut header = FILE_INFO.to_vec();
        header.resize(FILE_INFO_SIZE, 0);
        header.extend(SIGNATURE.to_le_bytes());
        header.extend((VERSION_MAJOR.wrapping_shl(16) | VERSION_MINOR).to_le_bytes());
        header.extend(HEADER1PLUS_SIZE.to_le_bytes()); // cbHeader
        header.extend(if layout.all { TYPE_FIXED } else { TYPE_NORMAL }.to_le_bytes());
        header.extend([0; 4]); // fFlags
        header.extend([0; COMMENT_SIZE]);
        header.extend(number(MAP)); // offBlocks
        header.extend(number(layout.first)); // offData
        header.extend([0; 12]); // LegacyGeometry: the reader's choice
        header.extend(SECTOR_SIZE.to_le_bytes());
        header.extend([0; 4]); // u32Dummy
        header.extend(layout.size.to_le_bytes()); // cbDisk
        header.extend(number(layout.block.size())); // cbBlock
        header.extend([0; 4]); // cbBlockExtra
        header.extend(number(layout.count())); // cBlocks
        header.extend(number(self.blocks.stored())); // cBlocksAllocated
        debug_assert_eq!(header.len(), AT_UUIDS, "the fields before uuidCreate");
        for name in ["VDI uuidCreate", "VDI uuidModify"] {
            header.extend(stored(seed.identifier(name)));
        }
        header.resize(to_usize(MAP), 0);
        header
    }
}

/// A UUID as VirtualBox stores it: its first three numbers little-endian.
fn stored(uuid: [u8; 16]) -> [u8; 16] {
    let [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p] = uuid;
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

impl Writer for VdiWriter {
    fn size(&self) -> u64 {
        self.blocks.layout().size
    }

    fn unit(&self) -> Pow2 {
        Pow2::PAGE
    }

    fn forward(&self) -> Forward {
        Forward::Never
    }

    fn longest_run(&self) -> u64 {
        self.blocks.longest_run(4)
    }

    fn file_size(&self, map: &dyn Map) -> Result<u64> {
        let layout = self.blocks.layout();
        Ok(layout.end(layout.stored(map)?))
    }

    fn begin(&mut self, _: Option<&dyn Map>, _: &mut Plan) -> Result<()> {
        Ok(())
    }

    fn place(&mut self, runs: &[Run], _: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        let mut map = self.map();
        self.blocks.place(&mut map, runs, plan);
        Ok(())
    }

    fn wants_checksums(&self) -> bool {
        true
    }

    fn finish(&mut self, plan: &mut Plan) -> Result<()> {
        let mut map = self.map();
        self.blocks.finish(&mut map, plan);
        if self.blocks.stored() == 0 {
            // the file reaches to where the first block would lie, as VirtualBox leaves it
            plan.bytes(self.blocks.end().saturating_sub(1), vec![0]);
        }
        plan.bytes(0, self.header());
        Ok(())
    }
}
