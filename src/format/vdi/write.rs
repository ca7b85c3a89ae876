//! How a VDI is written: the header, the block map, the blocks in the order of the disk.

use super::layout::*;
use crate::error::{Error, ErrorKind, Result};
use crate::format::blockwise::{Blocks, count, uuid};
use crate::num::{Pow2, to_u64, to_usize};
use crate::writer::{Checksum, Forward, Map, Plan, Run, Writer};

/// What a VDI is to be like: a builder. The default grows, and has blocks of 1 MiB.
#[derive(Debug, Clone, Default)]
pub struct VdiOptions {
    fixed: bool,
    seed: String,
}

/// Every VDI that is known has blocks of 1 MiB, and QEMU reads no others.
const BLOCK_BITS: u32 = 20;
/// Where the block map lies, as in VirtualBox's and QEMU's.
const MAP: u64 = 512;
/// Entries of the block map that are set aside, at most: a map of 1 GiB.
const MAX_BLOCKS: u64 = 1 << 28;

impl VdiOptions {
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

    /// What identifiers derive from beside the content. Default: nothing.
    #[must_use]
    pub fn seed(mut self, seed: impl Into<String>) -> Self {
        self.seed = seed.into();
        self
    }

    /// What writes a disk of `size` bytes that way; sizes are rounded up to whole sectors.
    pub fn writer(&self, size: u64) -> Result<VdiWriter> {
        let block = Pow2::from_bits(BLOCK_BITS).unwrap_or(Pow2::SECTOR);
        let size = Pow2::SECTOR.ceil(size);
        let blocks = block.count(size);
        if blocks > MAX_BLOCKS {
            let message = format!("a disk of {size} bytes is more than a VDI maps");
            return Err(
                Error::other(ErrorKind::InvalidInput, message).advise("choose another format")
            );
        }
        let data = Pow2::PAGE.ceil(MAP.saturating_add(blocks.saturating_mul(4)));
        Ok(VdiWriter {
            options: self.clone(),
            size,
            data,
            blocks: Blocks::new(block, data, 0, self.fixed),
            map: vec![BLOCK_FREE; to_usize(blocks)],
            checksum: Checksum::default(),
        })
    }
}

/// Lays out a VDI; see [`VdiOptions::writer`].
#[derive(Debug)]
pub struct VdiWriter {
    options: VdiOptions,
    size: u64,
    /// Where the first block lies.
    data: u64,
    blocks: Blocks,
    map: Vec<u32>,
    checksum: Checksum,
}

impl VdiWriter {
    fn header(&self) -> Vec<u8> {
        let mut header = b"<<< Oracle VM VirtualBox Disk Image >>>\n".to_vec();
        header.resize(FILE_INFO_SIZE, 0);
        let put = |header: &mut Vec<u8>, value: u32| header.extend(value.to_le_bytes());
        put(&mut header, SIGNATURE);
        put(&mut header, (VERSION_MAJOR << 16) | VERSION_MINOR);
        put(&mut header, HEADER1PLUS_SIZE);
        put(&mut header, if self.options.fixed { TYPE_FIXED } else { TYPE_NORMAL });
        put(&mut header, 0); // fFlags
        header.resize(header.len().saturating_add(COMMENT_SIZE), 0);
        put(&mut header, u32::try_from(MAP).unwrap_or_default());
        put(&mut header, u32::try_from(self.data).unwrap_or_default());
        [0; 3].into_iter().for_each(|part| put(&mut header, part)); // LegacyGeometry
        put(&mut header, SECTOR_SIZE);
        put(&mut header, 0); // u32Dummy
        header.extend(self.size.to_le_bytes());
        put(&mut header, u32::try_from(self.blocks.block.size()).unwrap_or_default());
        put(&mut header, 0); // cbBlockExtra
        put(&mut header, u32::try_from(self.map.len()).unwrap_or_default());
        let allocated = self.map.iter().filter(|&&entry| entry != BLOCK_FREE).count();
        put(&mut header, u32::try_from(allocated).unwrap_or_default());
        let (size, content) = (self.size.to_le_bytes(), self.checksum.value().to_le_bytes());
        for what in ["uuidCreate", "uuidModify"] {
            let seed = self.options.seed.as_bytes();
            header.extend(uuid(&[what.as_bytes(), seed, &size, &content]));
        }
        // no parent; LCHSGeometry is for the BIOS to find out
        header.resize(to_usize(MAP), 0);
        header
    }
}

impl Writer for VdiWriter {
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
            true => to_u64(self.map.len()),
            false => count(block, |tell| map.runs(0..end, tell))?,
        };
        Ok(self.data.saturating_add(block.offset_of(count).unwrap_or(u64::MAX)))
    }

    fn begin(&mut self, _map: Option<&dyn Map>, _plan: &mut Plan) -> Result<()> {
        Ok(())
    }

    fn place(&mut self, runs: &[Run], _map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        for run in runs {
            self.checksum.add(run);
            let (map, start, block) = (&mut self.map, self.data, self.blocks.block);
            self.blocks.place(run, plan, |number, data, _| {
                let entry = block.index(data.saturating_sub(start));
                let place = map.get_mut(to_usize(number));
                place
                    .into_iter()
                    .for_each(|place| *place = u32::try_from(entry).unwrap_or(BLOCK_FREE));
            });
        }
        Ok(())
    }

    fn finish(&mut self, plan: &mut Plan) -> Result<()> {
        self.blocks.finish(plan);
        let mut map: Vec<u8> = self.map.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        map.resize(to_usize(self.data.saturating_sub(MAP)), 0);
        plan.bytes(MAP, map);
        plan.bytes(0, self.header());
        Ok(())
    }
}
