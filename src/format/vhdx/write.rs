//! How a VHDX image is written: the header section, an empty log, the metadata and the block
//! allocation table, each from a whole MiB on, and the payload blocks in the order of the disk.

use std::borrow::Cow;

use crate::error::{Detail, ErrorKind, Result};
use crate::format::blocks::{Blocks, Layout, Placer};
use crate::num::{Pow2, to_u64, to_usize};
use crate::writer::{Forward, Map, Plan, Run, Writer};

use super::guid::Guid;
use super::layout::*;

/// What a VHDX image is to be like: a builder. The default is dynamic, with blocks of 32 MiB and
/// sectors of 512 bytes on a medium of 4096.
#[derive(Debug, Clone)]
pub struct VhdxOptions {
    fixed: bool,
    block_size: u64,
    logical_sector_size: u32,
    physical_sector_size: u32,
    seed: String,
}

impl Default for VhdxOptions {
    fn default() -> Self {
        Self {
            fixed: false,
            block_size: 32 << 20,
            logical_sector_size: 512,
            physical_sector_size: 4096,
            seed: String::new(),
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
/// Where the first metadata item lies in its region.
const FIRST_ITEM: u32 = 64 << 10;
/// What made the file, in the identifier.
const CREATOR: &str = "diskimage";

impl VhdxOptions {
    /// The default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All blocks are in the file from the start. Default: no.
    #[must_use]
    pub fn fixed(mut self, yes: bool) -> Self {
        self.fixed = yes;
        self
    }

    /// Bytes of a payload block: a power of two from 1 to 256 MiB. Default: 32 MiB, as Hyper-V.
    #[must_use]
    pub fn block_size(mut self, bytes: u64) -> Self {
        self.block_size = bytes;
        self
    }

    /// Bytes of a sector that the guest sees: 512 or 4096. Default: 512.
    #[must_use]
    pub fn logical_sector_size(mut self, bytes: u32) -> Self {
        self.logical_sector_size = bytes;
        self
    }

    /// Bytes of a sector of the medium, as the guest is told: 512 or 4096. Default: 4096.
    #[must_use]
    pub fn physical_sector_size(mut self, bytes: u32) -> Self {
        self.physical_sector_size = bytes;
        self
    }

    /// What identifiers derive from beside the content. Default: nothing.
    #[must_use]
    pub fn seed(mut self, seed: impl Into<String>) -> Self {
        self.seed = seed.into();
        self
    }

    /// What writes a disk of `size` bytes that way. Sizes are rounded up to whole logical sectors.
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
        let block = Pow2::from_size(self.block_size)
            .filter(|b| (MIN_BLOCK_SIZE.into()..=MAX_BLOCK_SIZE.into()).contains(&b.size()))
            .ok_or(WriteDetail::BlockSize(self.block_size))?;
        // 2.5: a sector bitmap's entry behind those of the blocks that it speaks of
        let chunk_bits = SECTOR_BITMAP_BITS.saturating_add(logical.bits());
        let chunk_ratio = Pow2::from_bits(chunk_bits.saturating_sub(block.bits()));
        let chunk_ratio = chunk_ratio.unwrap_or(block);
        let blocks = block.count(size);
        let entries = blocks.saturating_add(chunk_ratio.index(blocks.saturating_sub(1)));
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
            chunk_ratio,
            bat_length,
            blocks: Placer::new(layout),
        })
    }
}

/// Lays out a VHDX image; see [`VhdxOptions::writer`].
#[derive(Debug)]
pub struct VhdxWriter {
    options: VhdxOptions,
    chunk_ratio: Pow2,
    bat_length: u64,
    blocks: Placer,
}

/// The entries of the block allocation table (2.5.1).
struct Bat {
    chunk_ratio: Pow2,
    blocks: u64,
}

impl Blocks for Bat {
    fn entry(&self, number: u64, offset: Option<u64>, out: &mut Vec<u8>) {
        let entry = offset.map_or(0, |offset| (offset & BAT_FILE_OFFSET) | PAYLOAD_FULLY_PRESENT);
        out.extend(entry.to_le_bytes());
        let next = number.saturating_add(1);
        if self.chunk_ratio.is_aligned(next) && next < self.blocks {
            out.extend([0; 8]); // a sector bitmap that is not there
        }
    }
}

impl VhdxWriter {
    fn bat(&self) -> Bat {
        Bat { chunk_ratio: self.chunk_ratio, blocks: self.blocks.layout().count() }
    }

    fn guid(&self, name: &str) -> [u8; 16] {
        let seed = self.blocks.seed(&self.options.seed);
        stored(Guid::from_text_order(seed.identifier(name)))
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
        let flags = if layout.all { FILE_PARAMETERS_LEAVE_BLOCKS_ALLOCATED } else { 0 };
        let mut parameters = length(layout.block.size()).to_vec();
        parameters.extend(flags.to_le_bytes());
        let disk = METADATA_IS_VIRTUAL_DISK | METADATA_IS_REQUIRED;
        let items = [
            (ITEM_FILE_PARAMETERS, METADATA_IS_REQUIRED, parameters),
            (ITEM_VIRTUAL_DISK_SIZE, disk, layout.size.to_le_bytes().to_vec()),
            (ITEM_VIRTUAL_DISK_ID, disk, self.guid("VHDX virtual disk identifier").to_vec()),
            (ITEM_LOGICAL_SECTOR_SIZE, disk, self.options.logical_sector_size.to_le_bytes().into()),
            (
                ITEM_PHYSICAL_SECTOR_SIZE,
                disk,
                self.options.physical_sector_size.to_le_bytes().into(),
            ),
        ];
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

    fn longest_run(&self) -> u64 {
        self.blocks.longest_run(BAT_ENTRY_LENGTH)
    }

    fn file_size(&self, map: &dyn Map) -> Result<u64> {
        let layout = self.blocks.layout();
        Ok(layout.end(layout.stored(map)?))
    }

    fn begin(&mut self, _: Option<&dyn Map>, _: &mut Plan) -> Result<()> {
        Ok(())
    }

    fn place(&mut self, runs: &[Run], _: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        let bat = self.bat();
        self.blocks.place(&bat, runs, plan);
        Ok(())
    }

    fn wants_checksums(&self) -> bool {
        true
    }

    fn finish(&mut self, plan: &mut Plan) -> Result<()> {
        let bat = self.bat();
        self.blocks.finish(&bat, plan);
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
