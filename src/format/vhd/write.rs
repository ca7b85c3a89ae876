//! How a VHD is written: fixed or dynamic, of the exact size.

use super::layout::*;
use crate::error::{Error, ErrorKind, Result};
use crate::format::blockwise::{Blocks, count, uuid};
use crate::num::{Pow2, to_u64, to_usize};
use crate::writer::{Checksum, Forward, Map, Plan, Run, RunKind, Writer};

/// What a VHD is to be like: a builder. The default is dynamic, with blocks of 2 MiB.
#[derive(Debug, Clone, Default)]
pub struct VhdOptions {
    fixed: bool,
    seed: String,
    time: u64,
}

/// The block that everybody has ("Dynamic Disk Header Format").
const BLOCK_BITS: u32 = 21;
/// The largest disk that Windows takes: 2040 GiB.
const MAX_SIZE: u64 = 2040 << 30;
/// Where the block allocation table lies.
const TABLE: u64 = FOOTER_SIZE + HEADER_SIZE;
/// Bytes of a sector bitmap: one bit for each sector of a block.
const BITMAP: u64 = 512;

impl VhdOptions {
    /// The default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All of the disk, followed by a footer. Default: no.
    #[must_use]
    pub fn fixed(mut self, yes: bool) -> Self {
        self.fixed = yes;
        self
    }

    /// What the identifier derives from beside the content. Default: nothing.
    #[must_use]
    pub fn seed(mut self, seed: impl Into<String>) -> Self {
        self.seed = seed.into();
        self
    }

    /// When the disk was made, as it says: seconds since 1970. Default: the earliest it can say.
    #[must_use]
    pub fn time(mut self, seconds: u64) -> Self {
        self.time = seconds;
        self
    }

    /// What writes a disk of `size` bytes that way; sizes are rounded up to whole sectors.
    pub fn writer(&self, size: u64) -> Result<VhdWriter> {
        let size = Pow2::SECTOR.ceil(size);
        if size > MAX_SIZE {
            let message = format!("a disk of {size} bytes is more than a VHD has: {MAX_SIZE}");
            return Err(Error::other(ErrorKind::InvalidInput, message)
                .advise("choose another format, vhdx for example"));
        }
        let block = Pow2::from_bits(BLOCK_BITS).unwrap_or(Pow2::SECTOR);
        let entries = block.count(size);
        let table = Pow2::SECTOR.ceil(entries.saturating_mul(4));
        // data start at whole pages, and the bitmap right before them
        let first = Pow2::PAGE.ceil(TABLE.saturating_add(table).saturating_add(BITMAP));
        let gap = Pow2::PAGE.size();
        Ok(VhdWriter {
            options: self.clone(),
            size,
            blocks: Blocks::new(block, first, gap, false),
            first,
            table: vec![BAT_UNUSED; to_usize(entries)],
            checksum: Checksum::default(),
        })
    }
}

/// Lays out a VHD; see [`VhdOptions::writer`].
#[derive(Debug)]
pub struct VhdWriter {
    options: VhdOptions,
    size: u64,
    blocks: Blocks,
    /// Where the data of the first block lie.
    first: u64,
    table: Vec<u32>,
    checksum: Checksum,
}

/// Cylinders, heads and sectors that come closest, as the specification computes them ("Appendix:
/// CHS Calculation").
fn geometry(size: u64) -> (u16, u8, u8) {
    let sectors = Pow2::SECTOR.index(size).min(MAX_GEOMETRY);
    let div = |a: u64, b: u64| a.checked_div(b).unwrap_or_default();
    let (track, heads, cylinders) = if sectors >= 65_535 * 16 * 63 {
        (255, 16, div(sectors, 255))
    } else {
        let mut track = 17;
        let mut cylinders = div(sectors, track);
        let mut heads = div(cylinders.saturating_add(1023), 1024).max(4);
        if cylinders >= heads.saturating_mul(1024) || heads > 16 {
            (track, heads) = (31, 16);
            cylinders = div(sectors, track);
        }
        if cylinders >= heads.saturating_mul(1024) {
            (track, heads) = (63, 16);
            cylinders = div(sectors, track);
        }
        (track, heads, cylinders)
    };
    let small = |value: u64| u8::try_from(value).unwrap_or(u8::MAX);
    let cylinders = u16::try_from(div(cylinders, heads)).unwrap_or(u16::MAX);
    (cylinders, small(heads), small(track))
}

/// Puts the checksum of all bytes into the field at `at`, which is zero.
fn seal(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0u32, |sum, &byte| sum.wrapping_add(byte.into()));
    let field = bytes.get_mut(at..at.saturating_add(4));
    field.into_iter().for_each(|field| field.copy_from_slice(&(!sum).to_be_bytes()));
}

impl VhdWriter {
    fn footer(&self) -> Vec<u8> {
        let mut footer = FOOTER_COOKIE.to_vec();
        footer.extend(2u32.to_be_bytes()); // Features: a bit that is always set
        footer.extend((VERSION_MAJOR << 16).to_be_bytes());
        let header = if self.options.fixed { u64::MAX } else { FOOTER_SIZE };
        footer.extend(header.to_be_bytes());
        let time = u32::try_from(self.options.time.saturating_sub(EPOCH)).unwrap_or(u32::MAX);
        footer.extend(time.to_be_bytes());
        // of creators that QEMU does not know it takes the geometry for the size; of this, its own
        // where the size is exact, it does not
        footer.extend(b"qem2");
        footer.extend(0x5_0003u32.to_be_bytes());
        footer.extend(b"Wi2k");
        footer.extend(self.size.to_be_bytes());
        footer.extend(self.size.to_be_bytes());
        let (cylinders, heads, sectors) = geometry(self.size);
        footer.extend(cylinders.to_be_bytes());
        footer.extend([heads, sectors]);
        let kind = if self.options.fixed { TYPE_FIXED } else { TYPE_DYNAMIC };
        footer.extend(kind.to_be_bytes());
        footer.extend([0; 4]);
        let (size, content) = (self.size.to_be_bytes(), self.checksum.value().to_be_bytes());
        footer.extend(uuid(&[b"Unique ID", self.options.seed.as_bytes(), &size, &content]));
        footer.resize(to_usize(FOOTER_SIZE), 0);
        seal(&mut footer, FOOTER_CHECKSUM);
        footer
    }

    fn header(&self) -> Vec<u8> {
        let mut header = HEADER_COOKIE.to_vec();
        header.extend(u64::MAX.to_be_bytes());
        header.extend(TABLE.to_be_bytes());
        header.extend((VERSION_MAJOR << 16).to_be_bytes());
        header.extend(u32::try_from(self.table.len()).unwrap_or_default().to_be_bytes());
        let block = u32::try_from(self.blocks.block.size()).unwrap_or_default();
        header.extend(block.to_be_bytes());
        header.resize(to_usize(HEADER_SIZE), 0);
        seal(&mut header, HEADER_CHECKSUM);
        header
    }
}

impl Writer for VhdWriter {
    fn size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> Pow2 {
        // of a fixed disk every sector has its place, and its end is not rounded up further
        let bits = if self.options.fixed { 9 } else { 16 };
        Pow2::from_bits(bits).unwrap_or(Pow2::SECTOR)
    }

    fn forward(&self) -> Forward {
        if self.options.fixed { Forward::Always } else { Forward::Never }
    }

    fn wants_checksums(&self) -> bool {
        true
    }

    fn file_size(&self, map: &dyn Map) -> Result<u64> {
        if self.options.fixed {
            return Ok(self.size.saturating_add(FOOTER_SIZE));
        }
        let block = self.blocks.block;
        let end = self.unit().ceil(self.size);
        let count = count(block, |tell| map.runs(0..end, tell))?;
        let stride = block.size().saturating_add(Pow2::PAGE.size());
        let data = match count.checked_sub(1) {
            Some(others) => others.saturating_mul(stride).saturating_add(block.size()),
            None => 0,
        };
        Ok(self.first.saturating_add(data).saturating_add(FOOTER_SIZE))
    }

    fn begin(&mut self, _map: Option<&dyn Map>, _plan: &mut Plan) -> Result<()> {
        Ok(())
    }

    fn place(&mut self, runs: &[Run], _map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        for run in runs {
            self.checksum.add(run);
            if self.options.fixed {
                let length = run.guest.end.saturating_sub(run.guest.start);
                match run.kind {
                    RunKind::Plain(from) => plan.plain(run.guest.start, from, length),
                    _ => plan.zeros(run.guest.start, length),
                }
                continue;
            }
            let table = &mut self.table;
            self.blocks.place(run, plan, |number, data, plan| {
                let bitmap = data.saturating_sub(BITMAP);
                // every sector is in the file: what is not data is zeros
                plan.bytes(bitmap, vec![0xff; to_usize(BITMAP)]);
                let entry = u32::try_from(Pow2::SECTOR.index(bitmap)).unwrap_or(BAT_UNUSED);
                table.get_mut(to_usize(number)).into_iter().for_each(|place| *place = entry);
            });
        }
        Ok(())
    }

    fn finish(&mut self, plan: &mut Plan) -> Result<()> {
        let footer = self.footer();
        if self.options.fixed {
            plan.bytes(self.size, footer);
            return Ok(());
        }
        self.blocks.finish(plan);
        let mut table: Vec<u8> = self.table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        // entries that are not there lead nowhere either
        table.resize(to_usize(Pow2::SECTOR.ceil(to_u64(table.len()))), 0xff);
        plan.bytes(TABLE, table);
        plan.bytes(FOOTER_SIZE, self.header());
        plan.bytes(self.blocks.end(), footer.clone());
        plan.bytes(0, footer);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_geometry_is_the_specification_s() {
        // what Virtual PC and Windows compute for such sizes
        assert_eq!(geometry(1 << 30), (2080, 16, 63));
        assert_eq!(geometry(128 << 20), (963, 16, 17));
        assert_eq!(geometry(127 << 30), (65_279, 16, 255));
        assert_eq!(geometry(2040 << 30), (65_535, 16, 255));
    }
}
