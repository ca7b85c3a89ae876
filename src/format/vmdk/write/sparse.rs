//! monolithicSparse ("Hosted Sparse Extents"): both grain directories with all their tables, then
//! the grains in the order of the disk.

use super::super::layout::*;
use super::{
    DESCRIPTOR_SECTORS, Fields, GRAIN_BITS, GTES, TABLE_BYTES, VmdkOptions, counts, entries,
    entry_of, header, sectors_of,
};
use crate::error::Result;
use crate::num::{Pow2, to_usize};
use crate::writer::{Checksum, Forward, Map, Plan, Run, RunKind, Writer};

/// Lays out a sparse extent; see [`VmdkOptions::writer`].
#[derive(Debug)]
pub struct SparseWriter {
    options: VmdkOptions,
    size: u64,
    grain: Pow2,
    /// Where each directory lies, and its first table: the redundant one first.
    places: [(u64, u64); 2],
    /// Where grains begin.
    data: u64,
    /// Where the next grain goes.
    at: u64,
    /// The grain table that is being filled, and its number.
    table: Option<(u64, Vec<u32>)>,
    checksum: Checksum,
}

impl SparseWriter {
    pub(super) fn new(options: &VmdkOptions, size: u64) -> Self {
        let grain = Pow2::from_bits(GRAIN_BITS).unwrap_or(Pow2::SECTOR);
        let tables = counts(size).1;
        let directory = Pow2::SECTOR.ceil(tables.saturating_mul(4));
        let tables = tables.saturating_mul(TABLE_BYTES);
        let first = sectors_of(DESCRIPTOR_SECTORS.saturating_add(1));
        let second = first.saturating_add(directory).saturating_add(tables);
        let end = second.saturating_add(directory).saturating_add(tables);
        let data = grain.ceil(end);
        let places = [first, second].map(|place| (place, place.saturating_add(directory)));
        let checksum = Checksum::default();
        Self {
            options: options.clone(),
            size,
            grain,
            places,
            data,
            at: data,
            table: None,
            checksum,
        }
    }

    fn close_table(&mut self, plan: &mut Plan) {
        let Some((number, table)) = self.table.take() else { return };
        for (_, tables) in self.places {
            let place = tables.saturating_add(number.saturating_mul(TABLE_BYTES));
            plan.bytes(place, entries(&table));
        }
    }

    /// Puts a grain into its table.
    fn enter(&mut self, grain: u64, plan: &mut Plan) -> Result<()> {
        let number = grain.checked_div(GTES).unwrap_or_default();
        if self.table.as_ref().is_none_or(|(open, _)| *open != number) {
            self.close_table(plan);
            self.table = Some((number, vec![0; to_usize(GTES)]));
        }
        let place = entry_of(self.at)?;
        let index = to_usize(grain.checked_rem(GTES).unwrap_or_default());
        if let Some((_, table)) = &mut self.table
            && let Some(entry) = table.get_mut(index)
        {
            *entry = place;
        }
        self.at = self.at.saturating_add(self.grain.size());
        Ok(())
    }
}

impl Writer for SparseWriter {
    fn size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> Pow2 {
        self.grain
    }

    fn forward(&self) -> Forward {
        Forward::Never
    }

    fn wants_checksums(&self) -> bool {
        true
    }

    fn file_size(&self, map: &dyn Map) -> Result<u64> {
        let mut data = 0u64;
        map.runs(0..self.grain.ceil(self.size), &mut |run, is_data| {
            let length = if is_data { run.end.saturating_sub(run.start) } else { 0 };
            data = data.saturating_add(length);
        })?;
        Ok(self.data.saturating_add(data))
    }

    fn begin(&mut self, _map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        let count = counts(self.size).1;
        let mut at = sectors_of(DESCRIPTOR_SECTORS.saturating_add(1));
        for (place, tables) in self.places {
            let entry =
                |number: u64| entry_of(tables.saturating_add(number.saturating_mul(TABLE_BYTES)));
            let directory = (0..count).map(entry).collect::<Result<Vec<_>>>()?;
            plan.bytes(place, entries(&directory));
            at = tables.saturating_add(count.saturating_mul(TABLE_BYTES));
            plan.zeros(tables, at.saturating_sub(tables));
        }
        // the file has its tables even where there are no grains
        if at < self.data {
            plan.bytes(at, vec![0; to_usize(self.data.saturating_sub(at))]);
        }
        Ok(())
    }

    fn place(&mut self, runs: &[Run], _map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        for run in runs {
            let RunKind::Plain(from) = run.kind else { continue };
            let length = run.guest.end.saturating_sub(run.guest.start);
            plan.plain(self.at, from, length);
            self.checksum.add(run);
            for grain in self.grain.index(run.guest.start)..self.grain.count(run.guest.end) {
                self.enter(grain, plan)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, plan: &mut Plan) -> Result<()> {
        self.close_table(plan);
        let [redundant, first] = self.places.map(|(place, _)| Pow2::SECTOR.index(place));
        let cid = [self.size.to_le_bytes(), self.checksum.value().to_le_bytes()].concat();
        let cid = self.options.cid(&cid);
        plan.bytes(SECTOR, self.options.descriptor(self.size, cid));
        let fields = Fields {
            version: 1,
            flags: FLAG_NEWLINE_TEST | FLAG_REDUNDANT,
            size: self.size,
            rgd_offset: redundant,
            gd_offset: first,
            overhead: Pow2::SECTOR.index(self.data),
            compress_algorithm: COMPRESSION_NONE,
        };
        plan.bytes(0, header(&fields));
        Ok(())
    }
}

const _: () = assert!(TABLE_BYTES == GTES * 4, "a table fills its sectors");
