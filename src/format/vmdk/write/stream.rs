//! streamOptimized ("Stream-Optimized Compressed Sparse Extents"): written from start to end.

use std::sync::Arc;

use super::super::layout::*;
use super::{
    DESCRIPTOR_SECTORS, Fields, GRAIN_BITS, GTE_ZEROED, GTES, TABLE_BYTES, VmdkOptions, counts,
    entries, entry_of, header, sectors_of,
};
use crate::codec::Deflate;
use crate::error::Result;
use crate::num::{Pow2, to_u64, to_usize};
use crate::writer::{Encoder, Forward, Map, Plan, Run, RunKind, Writer};

/// Lays out a stream; see [`VmdkOptions::writer`].
///
/// ```
/// use diskimage::Writer;
/// use diskimage::format::vmdk::{Subformat, VmdkOptions};
/// use diskimage::writer::Forward;
///
/// // `VmdkOptions::writer` chooses the writer
/// let writer = VmdkOptions::new().subformat(Subformat::StreamOptimized).writer(1 << 30)?;
/// assert_eq!((writer.unit().size(), writer.forward()), (64 << 10, Forward::Always));
/// assert!(writer.encoder().is_some()); // each grain is compressed
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct StreamWriter {
    options: VmdkOptions,
    size: u64,
    encoder: Arc<Grains>,
    /// Where the next grain or marker goes.
    at: u64,
    directory: Vec<u32>,
    /// The grain table that is being filled, and its number.
    table: Option<(u64, Vec<u32>)>,
}

/// Where grains begin: VMware's own streams start at a whole grain, too.
const OVERHEAD: u64 = 128;

/// Encodes grains, each with its header and whole sectors.
#[derive(Debug)]
struct Grains {
    deflate: Deflate,
    grain: Pow2,
}

/// The most that deflate adds to a grain: what stored blocks, zlib's wrapper and an encoder that
/// reckons in its own way may need, far below.
const SLACK: u64 = SECTOR - 12;

impl Encoder for Grains {
    fn encode(&self, unit: &[u8], guest: u64, out: &mut Vec<u8>) -> Result<bool> {
        let start = out.len();
        out.extend(Pow2::SECTOR.index(guest).to_le_bytes());
        out.extend([0; 4]);
        let room = to_usize(self.grain.size().saturating_add(SLACK));
        if !self.deflate.encode(unit, room, out)? {
            // there is no other way to store a grain
            let message = "a grain grows too long when it is compressed";
            return Err(crate::Error::other(crate::ErrorKind::Unsupported, message));
        }
        let length = out.len().saturating_sub(start);
        let size = u32::try_from(length.saturating_sub(GRAIN_HEADER_LENGTH)).unwrap_or_default();
        if let Some(field) = out.get_mut(start.saturating_add(8)..start.saturating_add(12)) {
            field.copy_from_slice(&size.to_le_bytes());
        }
        let whole = to_usize(Pow2::SECTOR.ceil(to_u64(length)));
        out.resize(start.saturating_add(whole), 0);
        Ok(true)
    }
}

impl StreamWriter {
    pub(super) fn new(options: &VmdkOptions, size: u64, deflate: Deflate) -> Self {
        let grain = Pow2::from_bits(GRAIN_BITS).unwrap_or(Pow2::SECTOR);
        let directory = vec![0; to_usize(counts(size).1)];
        Self {
            options: options.clone(),
            size,
            encoder: Arc::new(Grains { deflate, grain }),
            at: sectors_of(OVERHEAD),
            directory,
            table: None,
        }
    }

    fn header(&self, gd_offset: u64) -> Vec<u8> {
        // whether there are grains of zeros is known in the end only
        let zeroed = if self.has_parent() { FLAG_ZEROED_GRAIN } else { 0 };
        header(&Fields {
            version: 3,
            flags: FLAG_NEWLINE_TEST | FLAG_COMPRESSED | FLAG_MARKERS | zeroed,
            size: self.size,
            rgd_offset: 0,
            gd_offset,
            overhead: OVERHEAD,
            compress_algorithm: COMPRESSION_DEFLATE,
            descriptor: true,
        })
    }

    /// Writes a marker and what it announces. Gives where that lies.
    fn announce(&mut self, kind: u32, bytes: Vec<u8>, plan: &mut Plan) -> u64 {
        let mut marker = Pow2::SECTOR.index(to_u64(bytes.len())).to_le_bytes().to_vec();
        marker.extend([0; 4]);
        marker.extend(kind.to_le_bytes());
        marker.resize(HEADER_LENGTH, 0);
        let place = self.at.saturating_add(SECTOR);
        plan.bytes(self.at, marker);
        self.at = place.saturating_add(to_u64(bytes.len()));
        if !bytes.is_empty() {
            plan.bytes(place, bytes);
        }
        place
    }

    /// Begins the table that a grain belongs to, where that is another one than the last: which is
    /// written before.
    fn open_table(&mut self, grain: u64, plan: &mut Plan) -> Result<()> {
        let number = grain.checked_div(GTES).unwrap_or_default();
        if self.table.as_ref().is_none_or(|(open, _)| *open != number) {
            self.close_table(plan)?;
            self.table = Some((number, vec![0; to_usize(GTES)]));
        }
        Ok(())
    }

    /// Puts a grain into its table, which is open.
    fn enter(&mut self, grain: u64, place: u32) {
        let index = to_usize(grain.checked_rem(GTES).unwrap_or_default());
        if let Some((_, table)) = &mut self.table
            && let Some(entry) = table.get_mut(index)
        {
            *entry = place;
        }
    }

    fn close_table(&mut self, plan: &mut Plan) -> Result<()> {
        let Some((number, table)) = self.table.take() else { return Ok(()) };
        let place = entry_of(self.announce(MARKER_GT, entries(&table), plan))?;
        let entry = self.directory.get_mut(to_usize(number));
        entry.into_iter().for_each(|entry| *entry = place);
        Ok(())
    }
}

impl Writer for StreamWriter {
    fn size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> Pow2 {
        self.encoder.grain
    }

    fn encoder(&self) -> Option<Arc<dyn Encoder>> {
        let encoder: Arc<dyn Encoder> = Arc::<Grains>::clone(&self.encoder);
        Some(encoder)
    }

    fn forward(&self) -> Forward {
        Forward::Always
    }

    fn has_parent(&self) -> bool {
        self.options.parent.is_some()
    }

    fn file_size(&self, map: &dyn Map) -> Result<u64> {
        let grain = self.unit();
        let (mut grains, mut tables, mut last) = (0u64, 0u64, None);
        map.runs(0..grain.ceil(self.size), &mut |run, data| {
            let (first, behind) = (grain.index(run.start), grain.index(run.end));
            if data && behind > first {
                grains = grains.saturating_add(behind.saturating_sub(first));
                let from = first.checked_div(GTES).unwrap_or_default();
                let to = behind.saturating_sub(1).checked_div(GTES).unwrap_or_default();
                let same = u64::from(last == Some(from));
                let count = to.saturating_sub(from).saturating_add(1).saturating_sub(same);
                tables = tables.saturating_add(count);
                last = Some(to);
            }
        })?;
        let grains = grains.saturating_mul(grain.size().saturating_add(SECTOR));
        let tables = tables.saturating_mul(TABLE_BYTES.saturating_add(SECTOR));
        let directory = to_u64(entries(&self.directory).len());
        // markers of directory and footer, the footer, the end
        let end = directory.saturating_add(sectors_of(4));
        let sizes = [sectors_of(OVERHEAD), grains, tables, end];
        Ok(sizes.into_iter().fold(0, u64::saturating_add))
    }

    fn begin(&mut self, _map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        plan.bytes(0, self.header(GD_AT_END));
        let cid = self.options.cid(&self.size.to_le_bytes());
        plan.bytes(SECTOR, self.options.descriptor(self.size, cid));
        let used = DESCRIPTOR_SECTORS.saturating_add(1);
        plan.zeros(sectors_of(used), sectors_of(OVERHEAD.saturating_sub(used)));
        Ok(())
    }

    fn place(&mut self, runs: &[Run], _map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        for run in runs {
            let grain = self.unit();
            let grains = grain.index(run.guest.start)..grain.count(run.guest.end);
            match &run.kind {
                RunKind::Packed(range) => {
                    self.open_table(grains.start, plan)?;
                    self.enter(grains.start, entry_of(self.at)?);
                    plan.packed(self.at, range.clone());
                    self.at = self.at.saturating_add(to_u64(range.len()));
                }
                RunKind::Zero => {
                    for grain in grains {
                        self.open_table(grain, plan)?;
                        self.enter(grain, GTE_ZEROED);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn finish(&mut self, plan: &mut Plan) -> Result<()> {
        self.close_table(plan)?;
        let directory = entries(&self.directory);
        let place = self.announce(MARKER_GD, directory, plan);
        let footer = self.header(Pow2::SECTOR.index(place));
        self.announce(MARKER_FOOTER, footer, plan);
        self.announce(MARKER_EOS, Vec::new(), plan);
        Ok(())
    }
}
