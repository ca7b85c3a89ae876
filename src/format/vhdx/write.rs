//! How a VHDX is written: dynamic or fixed. Behind the header section lie an empty log, the metadata,
//! the block allocation table, and the blocks in the order of the disk.

use super::guid::Guid;
use super::layout::*;
use crate::error::{Error, ErrorKind, Result};
use crate::format::blockwise::{Blocks, count, uuid};
use crate::num::{Pow2, to_u64, to_usize};
use crate::writer::{Checksum, Forward, Map, Plan, Run, Writer};

/// What a VHDX is to be like: a builder. The default is dynamic, with blocks of 2 MiB up to 2 TiB and
/// larger ones beyond.
#[derive(Debug, Clone, Default)]
pub struct VhdxOptions {
    fixed: bool,
    block_size: Option<u64>,
    seed: String,
}

/// Where the log lies, and its length.
const LOG: (u64, u64) = (MIB, MIB);
/// Where the metadata lie, and their length.
const METADATA: (u64, u64) = (2 * MIB, MIB);
/// Where the block allocation table lies.
const TABLE: u64 = 3 * MIB;
/// The logical and the physical sector.
const SECTORS: [u32; 2] = [512, 4096];
/// Blocks that the usual block size is chosen for.
const USUAL_BLOCKS: u64 = 1 << 20;

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

    /// Bytes of a block: a power of two from 1 MiB to 256 MiB.
    #[must_use]
    pub fn block_size(mut self, bytes: u64) -> Self {
        self.block_size = Some(bytes);
        self
    }

    /// What identifiers derive from beside the content. Default: nothing.
    #[must_use]
    pub fn seed(mut self, seed: impl Into<String>) -> Self {
        self.seed = seed.into();
        self
    }

    /// What writes a disk of `size` bytes that way; sizes are rounded up to whole sectors.
    pub fn writer(&self, size: u64) -> Result<VhdxWriter> {
        let invalid = |message| Error::other(ErrorKind::InvalidInput, message);
        let size = Pow2::SECTOR.ceil(size);
        if size > MAX_VIRTUAL_DISK_SIZE {
            let message = format!("a disk of {size} bytes is more than a VHDX has: 64 TiB");
            return Err(invalid(message).advise("choose another format"));
        }
        let usual = size.div_ceil(USUAL_BLOCKS).next_power_of_two().max(2 * MIB);
        let bytes = self.block_size.unwrap_or(usual);
        let allowed = u64::from(MIN_BLOCK_SIZE)..=u64::from(MAX_BLOCK_SIZE);
        let block = Pow2::from_size(bytes).filter(|_| allowed.contains(&bytes));
        let block = block.ok_or_else(|| {
            let rule = "it must be a power of two from 1 MiB to 256 MiB";
            invalid(format!("blocks of {bytes} bytes: {rule}")).advise("choose such a size")
        })?;
        let ratio_bits = SECTOR_BITMAP_BITS.saturating_add(9).saturating_sub(block.bits());
        let ratio = Pow2::from_bits(ratio_bits).unwrap_or(Pow2::SECTOR);
        let blocks = block.count(size);
        // behind each chunk but the last there is an entry for its sector bitmap
        let entries = blocks.saturating_add(ratio.index(blocks.saturating_sub(1)));
        let table = entries.saturating_mul(BAT_ENTRY_LENGTH).max(1).next_multiple_of(MIB);
        let data = TABLE.saturating_add(table);
        Ok(VhdxWriter {
            options: self.clone(),
            size,
            ratio,
            data,
            blocks: Blocks::new(block, data, 0, self.fixed),
            table: vec![0; to_usize(entries)],
            checksum: Checksum::default(),
        })
    }
}

/// Lays out a VHDX; see [`VhdxOptions::writer`].
#[derive(Debug)]
pub struct VhdxWriter {
    options: VhdxOptions,
    size: u64,
    /// How many blocks there are for each sector bitmap.
    ratio: Pow2,
    /// Where the first block lies.
    data: u64,
    blocks: Blocks,
    table: Vec<u64>,
    checksum: Checksum,
}

/// Fully present (2.5.1.1).
const PRESENT: u64 = 6;

/// Puts the checksum of a structure into its bytes 4 to 7, which are zero.
fn seal(mut bytes: Vec<u8>, length: usize) -> Vec<u8> {
    bytes.resize(length, 0);
    let sum = crc32c::crc32c(&bytes);
    let field = bytes.get_mut(4..8);
    field.into_iter().for_each(|field| field.copy_from_slice(&sum.to_le_bytes()));
    bytes
}

/// A GUID as Windows stores it.
fn stored(guid: Guid) -> [u8; 16] {
    // the way there is the way back
    *Guid::from_stored(*guid.as_bytes()).as_bytes()
}

impl VhdxWriter {
    fn guid(&self, what: &str) -> [u8; 16] {
        let (size, content) = (self.size.to_le_bytes(), self.checksum.value().to_le_bytes());
        uuid(&[what.as_bytes(), self.options.seed.as_bytes(), &size, &content])
    }

    fn identifier() -> Vec<u8> {
        let mut bytes = FILE_IDENTIFIER_SIGNATURE.to_vec();
        bytes.extend("diskimage".encode_utf16().flat_map(u16::to_le_bytes));
        bytes.resize(HEADER_LENGTH, 0);
        bytes
    }

    fn header(&self, sequence_number: u64) -> Vec<u8> {
        let mut header = HEADER_SIGNATURE.to_vec();
        header.extend([0; 4]);
        header.extend(sequence_number.to_le_bytes());
        header.extend(self.guid("FileWriteGuid"));
        header.extend(self.guid("DataWriteGuid"));
        header.extend([0; 16]); // LogGuid: there is nothing to replay
        header.extend(LOG_VERSION.to_le_bytes());
        header.extend(VERSION.to_le_bytes());
        header.extend(u32::try_from(LOG.1).unwrap_or_default().to_le_bytes());
        header.extend(LOG.0.to_le_bytes());
        seal(header, HEADER_LENGTH)
    }

    fn region_table(&self) -> Vec<u8> {
        let mut table = REGION_TABLE_SIGNATURE.to_vec();
        table.extend([0; 4]);
        table.extend(2u32.to_le_bytes());
        table.extend([0; 4]);
        let bat = (TABLE, self.data.saturating_sub(TABLE));
        for (guid, (offset, length)) in [(REGION_BAT, bat), (REGION_METADATA, METADATA)] {
            table.extend(stored(guid));
            table.extend(offset.to_le_bytes());
            table.extend(u32::try_from(length).unwrap_or_default().to_le_bytes());
            table.extend(REGION_REQUIRED.to_le_bytes());
        }
        seal(table, REGION_TABLE_LENGTH)
    }

    /// The metadata table and its items.
    fn metadata(&self) -> Vec<u8> {
        /// The item speaks of the virtual disk, not of the file (2.6.1.2).
        const IS_VIRTUAL_DISK: u32 = 1 << 1;
        let block = u32::try_from(self.blocks.block.size()).unwrap_or_default();
        let leave = if self.options.fixed { FILE_PARAMETERS_LEAVE_BLOCKS_ALLOCATED } else { 0 };
        let parameters = [block.to_le_bytes(), leave.to_le_bytes()].concat();
        let [logical, physical] = SECTORS.map(|size| size.to_le_bytes().to_vec());
        let disk = METADATA_IS_REQUIRED | IS_VIRTUAL_DISK;
        let items = [
            (ITEM_FILE_PARAMETERS, METADATA_IS_REQUIRED, parameters),
            (ITEM_VIRTUAL_DISK_SIZE, disk, self.size.to_le_bytes().to_vec()),
            (ITEM_VIRTUAL_DISK_ID, disk, self.guid("VirtualDiskId").to_vec()),
            (ITEM_LOGICAL_SECTOR_SIZE, disk, logical),
            (ITEM_PHYSICAL_SECTOR_SIZE, disk, physical),
        ];
        let mut table = METADATA_SIGNATURE.to_vec();
        table.extend([0; 2]);
        table.extend(u16::try_from(items.len()).unwrap_or_default().to_le_bytes());
        table.resize(32, 0);
        let mut data: Vec<u8> = Vec::new();
        for (guid, flags, item) in &items {
            let place = METADATA_TABLE_LENGTH.saturating_add(to_u64(data.len()));
            table.extend(stored(*guid));
            table.extend(u32::try_from(place).unwrap_or_default().to_le_bytes());
            table.extend(u32::try_from(item.len()).unwrap_or_default().to_le_bytes());
            table.extend(flags.to_le_bytes());
            table.extend([0; 4]);
            data.extend(item);
        }
        table.resize(to_usize(METADATA_TABLE_LENGTH), 0);
        table.extend(data);
        table.resize(to_usize(METADATA.1), 0);
        table
    }
}

impl Writer for VhdxWriter {
    fn size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> Pow2 {
        Pow2::from_bits(16).unwrap_or(Pow2::PAGE)
    }

    fn forward(&self) -> Forward {
        Forward::Never
    }

    fn wants_checksums(&self) -> bool {
        true
    }

    fn longest_run(&self) -> u64 {
        // each block of a fixed image is told of
        if self.options.fixed { 1 << 30 } else { u64::MAX }
    }

    fn file_size(&self, map: &dyn Map) -> Result<u64> {
        let block = self.blocks.block;
        let end = self.unit().ceil(self.size);
        let count = match self.options.fixed {
            true => block.count(self.size),
            false => count(block, |tell| map.runs(0..end, tell))?,
        };
        Ok(self.data.saturating_add(block.offset_of(count).unwrap_or(u64::MAX)))
    }

    fn begin(&mut self, _map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        plan.zeros(0, TABLE);
        Ok(())
    }

    fn place(&mut self, runs: &[Run], _map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        for run in runs {
            self.checksum.add(run);
            let (table, ratio) = (&mut self.table, self.ratio);
            self.blocks.place(run, plan, |number, data, _| {
                let entry = number.saturating_add(ratio.index(number));
                let place = table.get_mut(to_usize(entry));
                place.into_iter().for_each(|place| *place = data | PRESENT);
            });
        }
        Ok(())
    }

    fn finish(&mut self, plan: &mut Plan) -> Result<()> {
        self.blocks.finish(plan);
        let mut table: Vec<u8> = self.table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        table.resize(to_usize(self.data.saturating_sub(TABLE)), 0);
        plan.bytes(TABLE, table);
        plan.bytes(METADATA.0, self.metadata());
        for (place, number) in HEADER_OFFSETS.into_iter().zip(1..) {
            plan.bytes(place, self.header(number));
        }
        for place in REGION_TABLE_OFFSETS {
            plan.bytes(place, self.region_table());
        }
        // the identifier last: without it, it is no image
        plan.bytes(0, Self::identifier());
        Ok(())
    }
}
