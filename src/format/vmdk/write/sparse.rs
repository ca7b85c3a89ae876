//! monolithicSparse and twoGbMaxExtentSparse ("Hosted Sparse Extents"): in each extent both grain
//! directories with all their tables, then the grains in the order of the disk.

use std::ops::Range;

use super::super::layout::*;
use super::{
    DESCRIPTOR_SECTORS, FIRST_EXTENT, Fields, GRAIN_BITS, GTE_ZEROED, GTES, TABLE_BYTES,
    VmdkOptions, counts, entries, entry_of, header, sectors_of,
};
use crate::error::Result;
use crate::num::{Pow2, to_u64, to_usize};
use crate::writer::{Checksum, Forward, ImageFile, Map, Plan, Run, RunKind, Writer};

/// Lays out sparse extents; see [`VmdkOptions::writer`].
///
/// ```
/// use diskimage::Writer;
/// use diskimage::format::vmdk::{Subformat, VmdkOptions};
///
/// // `VmdkOptions::writer` chooses the writer
/// let split = VmdkOptions::new().subformat(Subformat::TwoGbMaxExtentSparse);
/// let writer = split.writer(3 << 30)?;
/// let names: Vec<_> = writer.files().iter().map(|file| &*file.name).collect();
/// assert_eq!(names, ["disk-s001.vmdk", "disk-s002.vmdk"]);
/// assert!(VmdkOptions::new().writer(3 << 30)?.files().is_empty()); // one file: monolithicSparse
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct SparseWriter {
    options: VmdkOptions,
    size: u64,
    grain: Pow2,
    /// Where they are files of their own.
    files: Vec<ImageFile>,
    /// At least one; they tile the disk.
    extents: Vec<Extent>,
    /// The one that was written to last.
    current: usize,
    checksum: Checksum,
}

/// A sparse extent: the header, perhaps the descriptor, directories and tables, grains.
#[derive(Debug)]
struct Extent {
    /// The part of the disk in it.
    guest: Range<u64>,
    grain: Pow2,
    /// Where its file begins. All that follows counts from there.
    base: u64,
    /// Whether the descriptor lies inside.
    descriptor: bool,
    /// Where each directory lies, and its first table: the redundant one first.
    places: [(u64, u64); 2],
    /// Where grains begin.
    data: u64,
    /// Where the next grain goes.
    at: u64,
    /// The grain table that is being filled, and its number.
    table: Option<(u64, Vec<u32>)>,
    /// Whether there are grains of zeros, which the parent has others for.
    zeroed: bool,
}

impl Extent {
    fn new(guest: Range<u64>, grain: Pow2, base: u64, descriptor: bool) -> Self {
        let tables = counts(length(&guest)).1;
        let directory = Pow2::SECTOR.ceil(tables.saturating_mul(4));
        let tables = tables.saturating_mul(TABLE_BYTES);
        let front = if descriptor { DESCRIPTOR_SECTORS.saturating_add(1) } else { 1 };
        let first = sectors_of(front);
        let second = first.saturating_add(directory).saturating_add(tables);
        let end = second.saturating_add(directory).saturating_add(tables);
        let data = grain.ceil(end);
        let places = [first, second].map(|place| (place, place.saturating_add(directory)));
        Self { guest, grain, base, descriptor, places, data, at: data, table: None, zeroed: false }
    }

    /// The most that its file may have.
    fn room(&self) -> u64 {
        self.data.saturating_add(self.grain.ceil(length(&self.guest)))
    }

    fn put(&self, place: u64, bytes: Vec<u8>, plan: &mut Plan) {
        plan.bytes(self.base.saturating_add(place), bytes);
    }

    /// Writes the directories, and sees to it that the file has its tables even where there are no
    /// grains.
    fn begin(&self, plan: &mut Plan) -> Result<()> {
        let count = counts(length(&self.guest)).1;
        let mut at = 0;
        for (place, tables) in self.places {
            let entry =
                |number: u64| entry_of(tables.saturating_add(number.saturating_mul(TABLE_BYTES)));
            let directory = (0..count).map(entry).collect::<Result<Vec<_>>>()?;
            self.put(place, entries(&directory), plan);
            at = tables.saturating_add(count.saturating_mul(TABLE_BYTES));
            plan.zeros(self.base.saturating_add(tables), at.saturating_sub(tables));
        }
        if let Some(last) = self.data.checked_sub(SECTOR).filter(|last| at <= *last) {
            plan.zeros(self.base.saturating_add(at), last.saturating_sub(at));
            self.put(last, vec![0; to_usize(SECTOR)], plan);
        }
        Ok(())
    }

    /// Gives a run of grains its place: data that start at `from` in what was read, or zeros.
    fn place(&mut self, guest: &Range<u64>, from: Option<usize>, plan: &mut Plan) -> Result<()> {
        if let Some(from) = from {
            plan.plain(self.base.saturating_add(self.at), from, length(guest));
        }
        let within = |at: u64| at.saturating_sub(self.guest.start);
        let grains = self.grain.index(within(guest.start))..self.grain.count(within(guest.end));
        for grain in grains {
            if from.is_none() {
                self.zeroed = true;
                self.enter(grain, GTE_ZEROED, plan);
                continue;
            }
            let place = entry_of(self.at)?;
            self.enter(grain, place, plan);
            self.at = self.at.saturating_add(self.grain.size());
        }
        Ok(())
    }

    /// Puts a grain into its table.
    fn enter(&mut self, grain: u64, place: u32, plan: &mut Plan) {
        let number = grain.checked_div(GTES).unwrap_or_default();
        if self.table.as_ref().is_none_or(|(open, _)| *open != number) {
            self.close_table(plan);
            self.table = Some((number, vec![0; to_usize(GTES)]));
        }
        let index = to_usize(grain.checked_rem(GTES).unwrap_or_default());
        if let Some((_, table)) = &mut self.table
            && let Some(entry) = table.get_mut(index)
        {
            *entry = place;
        }
    }

    fn close_table(&mut self, plan: &mut Plan) {
        let Some((number, table)) = self.table.take() else { return };
        for (_, tables) in self.places {
            let place = tables.saturating_add(number.saturating_mul(TABLE_BYTES));
            self.put(place, entries(&table), plan);
        }
    }

    /// Writes the header. All else is written by now.
    fn finish(&mut self, plan: &mut Plan) {
        self.close_table(plan);
        let [redundant, first] = self.places.map(|(place, _)| Pow2::SECTOR.index(place));
        let (version, more) = if self.zeroed { (2, FLAG_ZEROED_GRAIN) } else { (1, 0) };
        let fields = Fields {
            version,
            flags: FLAG_NEWLINE_TEST | FLAG_REDUNDANT | more,
            size: length(&self.guest),
            rgd_offset: redundant,
            gd_offset: first,
            overhead: Pow2::SECTOR.index(self.data),
            compress_algorithm: COMPRESSION_NONE,
            descriptor: self.descriptor,
        };
        self.put(0, header(&fields), plan);
    }
}

fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

impl SparseWriter {
    pub(super) fn new(options: &VmdkOptions, size: u64) -> Self {
        let grain = Pow2::from_bits(GRAIN_BITS).unwrap_or(Pow2::SECTOR);
        let (mut files, mut extents) = (Vec::new(), Vec::new());
        let mut base = FIRST_EXTENT;
        for (guest, name) in options.extents(size) {
            let extent = Extent::new(guest, grain, base, false);
            let end = base.saturating_add(extent.room());
            files.push(ImageFile { name, range: base..end, whole: false });
            extents.push(extent);
            base = end;
        }
        if extents.is_empty() {
            extents.push(Extent::new(0..size, grain, 0, true));
        }
        let (options, checksum) = (options.clone(), Checksum::default());
        Self { options, size, grain, files, extents, current: 0, checksum }
    }

    /// Gives a run its place, or as much of it as one extent has. Says where that ends.
    fn place_part(
        &mut self,
        guest: &Range<u64>,
        from: Option<usize>,
        plan: &mut Plan,
    ) -> Result<u64> {
        let number = self.extents.partition_point(|extent| extent.guest.end <= guest.start);
        if number != self.current
            && let Some(before) = self.extents.get_mut(self.current)
        {
            before.close_table(plan);
        }
        self.current = number;
        let Some(extent) = self.extents.get_mut(number) else { return Ok(guest.end) };
        // the last one may end within a grain
        let end = self.grain.ceil(extent.guest.end).min(guest.end);
        extent.place(&(guest.start..end), from, plan)?;
        Ok(end)
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

    fn files(&self) -> &[ImageFile] {
        &self.files
    }

    fn has_parent(&self) -> bool {
        self.options.parent.is_some()
    }

    fn wants_checksums(&self) -> bool {
        true
    }

    fn file_size(&self, map: &dyn Map) -> Result<u64> {
        let mut size = match self.files.len() {
            0 => 0,
            _ => to_u64(self.options.descriptor(self.size, 0).len()),
        };
        for extent in &self.extents {
            size = size.saturating_add(extent.data);
        }
        map.runs(0..self.grain.ceil(self.size), &mut |run, is_data| {
            size = size.saturating_add(if is_data { length(&run) } else { 0 });
        })?;
        Ok(size)
    }

    fn begin(&mut self, _map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        self.extents.iter().try_for_each(|extent| extent.begin(plan))
    }

    fn place(&mut self, runs: &[Run], _map: Option<&dyn Map>, plan: &mut Plan) -> Result<()> {
        for run in runs {
            let data = match run.kind {
                RunKind::Plain(from) => Some(from),
                RunKind::Zero => None,
                _ => continue,
            };
            self.checksum.add(run);
            let mut at = run.guest.start;
            while at < run.guest.end {
                let skip = to_usize(at.saturating_sub(run.guest.start));
                let from = data.map(|from| from.saturating_add(skip));
                at = self.place_part(&(at..run.guest.end), from, plan)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, plan: &mut Plan) -> Result<()> {
        for extent in &mut self.extents {
            extent.finish(plan);
        }
        let cid = self.options.cid_of(self.size, &self.checksum);
        let place = if self.files.is_empty() { SECTOR } else { 0 };
        plan.bytes(place, self.options.descriptor(self.size, cid));
        Ok(())
    }
}

const _: () = assert!(TABLE_BYTES == GTES * 4, "a table fills its sectors");
const _: () = assert!(super::TWO_GB.is_multiple_of(1 << GRAIN_BITS), "extents are whole grains");

#[cfg(test)]
mod tests {
    use super::super::{Subformat, TWO_GB};
    use super::*;

    #[test]
    fn a_run_over_the_end_of_an_extent_goes_on_in_the_next() {
        let grain = 64u64 << 10;
        let options = VmdkOptions::new().subformat(Subformat::TwoGbMaxExtentSparse);
        let mut writer = SparseWriter::new(&options, TWO_GB + 2 * grain);
        let starts: Vec<u64> = writer.files().iter().map(|file| file.range.start).collect();
        let data: Vec<u64> = writer.extents.iter().map(|extent| extent.data).collect();
        assert_eq!(starts.len(), 2);
        let mut plan = Plan::default();
        let guest = TWO_GB - grain..TWO_GB + 2 * grain;
        let run = Run { checksum: [1, 2], ..Run::new(guest, RunKind::Plain(7)) };
        writer.place(&[run], None, &mut plan).unwrap();
        let places: Vec<(u64, Option<Range<usize>>)> = plan
            .take()
            .into_iter()
            .map(|write| match write.bytes {
                crate::writer::Bytes::Plain(range) => (write.offset, Some(range)),
                _ => (write.offset, None),
            })
            .collect();
        let [one, two] = [starts[0] + data[0], starts[1] + data[1]];
        let [a, b, c] = [7, 7 + grain as usize, 7 + 3 * grain as usize];
        assert!(places.contains(&(one, Some(a..b))), "{places:?}");
        assert!(places.contains(&(two, Some(b..c))), "{places:?}");
    }
}
