//! Writing a disk as an image of a format: units are read and encoded by all threads, get their
//! places in turn, and are written by all threads again.

use std::ops::Range;
use std::sync::Arc;

use super::worker::Worker;
use super::{Job, as_length, length};
use crate::bytes::{AlignedBuffer, is_zero};
use crate::disk::VirtualDisk;
use crate::error::Result;
use crate::extent::{Extent, ExtentKind, StorageId};
use crate::num::{Pow2, to_u64, to_usize};
use crate::parallel::Turn;
use crate::target::{Target, stream::zeros};
use crate::writer::{Bytes, Encoder, Map, Plan, Run, RunKind, Writer};

/// What the workers share beside the [`Job`].
pub(super) struct Composition<'a> {
    pub(super) unit: Pow2,
    pub(super) encoder: Option<Arc<dyn Encoder>>,
    /// The map decides what is stored, and not the bytes.
    pub(super) by_map: bool,
    pub(super) backing: Option<Backing<'a>>,
    /// No run is longer.
    pub(super) longest: u64,
    pub(super) turn: Turn<Placing>,
}

/// What is done in turn.
pub(super) struct Placing {
    pub(super) writer: Box<dyn Writer>,
    /// Where a target stands that is written forward only.
    position: u64,
}

impl<'a> Composition<'a> {
    pub(super) fn new(
        writer: Box<dyn Writer>,
        by_map: bool,
        backing: Option<&'a dyn VirtualDisk>,
    ) -> Self {
        Self {
            unit: writer.unit(),
            encoder: writer.encoder(),
            by_map,
            backing: backing.map(|disk| Backing { disk, size: disk.size() }),
            longest: writer.longest_run().max(writer.unit().size()),
            turn: Turn::new(Placing { writer, position: 0 }),
        }
    }
}

/// The disk that the image is to differ from; behind its end are zeros.
pub(super) struct Backing<'a> {
    disk: &'a dyn VirtualDisk,
    size: u64,
}

impl Backing<'_> {
    fn extent_at(&self, at: u64, max: u64) -> Result<Extent> {
        if at < self.size {
            return self.disk.extent_at(at, max);
        }
        let kind = ExtentKind::Zero { allocated: false, stored: None };
        Ok(Extent { start: at, length: max, depth: 0, kind })
    }

    fn read(&self, buf: &mut [u8], at: u64) -> Result<()> {
        let here = to_usize(self.size.saturating_sub(at)).min(buf.len());
        let (inside, beyond) = buf.split_at_mut(here);
        beyond.fill(0);
        if inside.is_empty() { Ok(()) } else { self.disk.read_exact_at(inside, at) }
    }

    /// Whether both extents are known to be of the same bytes without reading them.
    fn is_same(&self, disk: &dyn VirtualDisk, mine: &Extent, other: &Extent) -> bool {
        let file = |disk: &dyn VirtualDisk, id: StorageId| {
            let storage = disk.storage(id)?;
            storage.as_file().and_then(|_| storage.identity())
        };
        match (mine.kind, other.kind) {
            (here, there) if here.is_zero() && there.is_zero() => true,
            (ExtentKind::Stored(here), ExtentKind::Stored(there)) => {
                let own = file(disk, here.storage);
                own.is_some()
                    && own == file(self.disk, there.storage)
                    && here.offset == there.offset
            }
            (ExtentKind::Encoded, ExtentKind::Encoded) => {
                let here = disk.encoded_in(mine.depth);
                here.is_some() && here == self.disk.encoded_in(other.depth)
            }
            _ => false,
        }
    }
}

/// What a disk's extents tell beforehand.
pub(super) struct DiskMap<'a> {
    pub(super) disk: &'a dyn VirtualDisk,
    pub(super) unit: Pow2,
    /// What cannot be told is read in its turn, and is lost then.
    pub(super) salvage: bool,
    /// Zeros are stored too.
    pub(super) everything: bool,
}

impl<'a> DiskMap<'a> {
    fn new(job: &Job<'a>, unit: Pow2) -> Self {
        let everything = job.sparse.is_none();
        Self { disk: job.disk, unit, salvage: job.salvage, everything }
    }
}

impl Map for DiskMap<'_> {
    fn runs(&self, range: Range<u64>, tell: &mut dyn FnMut(Range<u64>, bool)) -> Result<()> {
        if self.everything {
            tell(range, true);
            return Ok(());
        }
        let size = self.disk.size();
        let end = range.end.min(size);
        let (mut at, mut told, mut behind) = (range.start, range.start, range.start);
        // behind: the end of the units that hold data; told: the end of what was told
        let mut data_from = None;
        while at < end {
            let extent = match self.disk.extent_at(at, end.saturating_sub(at)) {
                Ok(extent) => (extent.end(), !extent.kind.is_zero()),
                Err(error) if self.salvage && !error.kind().is_stop() => {
                    (self.unit.floor(at).saturating_add(self.unit.size()).min(end), true)
                }
                Err(error) => return Err(error),
            };
            if extent.1 {
                let from = self.unit.floor(at).max(range.start);
                if data_from.is_none() || from > behind {
                    if let Some(from) = data_from.replace(from) {
                        tell(from..behind, true);
                        told = behind;
                    }
                    if from > told {
                        tell(told..from, false);
                    }
                }
                behind = self.unit.ceil(extent.0);
            }
            at = extent.0;
        }
        if let Some(from) = data_from {
            tell(from..behind, true);
            told = behind;
        }
        if range.end > told {
            tell(told..range.end, false);
        }
        Ok(())
    }
}

/// The buffers of a worker that composes.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    other: AlignedBuffer,
    packed: Vec<u8>,
    runs: Vec<Run>,
}

impl Worker<'_> {
    /// Reads, encodes, places and writes a segment.
    pub(super) fn compose_segment(
        &mut self,
        composition: &Composition<'_>,
        segment: &Range<u64>,
    ) -> Result<()> {
        let job = self.job;
        job.progress.check()?;
        if job.sparse.is_some() && self.is_known(composition, segment) {
            self.place_absent(composition, segment)?;
            return self.explore_known(composition);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut buffers = std::mem::take(&mut self.composing);
        let padded = to_usize(composition.unit.ceil(length(segment)));
        let units = buffer.get(padded);
        let done = self.compose(composition, segment, units, &mut buffers);
        self.buffer = buffer;
        self.composing = buffers;
        done
    }

    fn compose(
        &mut self,
        composition: &Composition<'_>,
        segment: &Range<u64>,
        units: &mut [u8],
        buffers: &mut Buffers,
    ) -> Result<()> {
        let job = self.job;
        let (whole, padding) = units.split_at_mut(to_usize(length(segment)));
        self.fill(whole, segment)?;
        padding.fill(0);
        job.observer.map_or(Ok(()), |observer| observer.see(segment, Some(whole)))?;
        buffers.runs.clear();
        buffers.packed.clear();
        self.find_runs(composition, segment, units, buffers)?;
        if let Some(encoder) = &composition.encoder {
            encode_runs(&**encoder, composition.unit, units, buffers)?;
        }
        for run in buffers.runs.iter().filter(|run| run.kind.is_data()) {
            let end = run.guest.end.min(segment.end);
            self.written = self.written.saturating_add(end.saturating_sub(run.guest.start));
        }
        let map = composition.map(job);
        let map = map.as_ref().map(|map| -> &dyn Map { map });
        let mut plan = Plan::default();
        composition.turn.take(segment, |placing| {
            placing.writer.place(&buffers.runs, map, &mut plan)?;
            if job.ascending {
                let position = &mut placing.position;
                write_forward(job.target, position, &mut plan, (units, &buffers.packed))?;
            }
            Ok(())
        })?;
        write_anywhere(job.target, &mut plan, (units, &buffers.packed))?;
        job.copied(length(segment))
    }

    /// What is to be stored of a segment that was read.
    fn find_runs(
        &self,
        composition: &Composition<'_>,
        segment: &Range<u64>,
        units: &[u8],
        buffers: &mut Buffers,
    ) -> Result<()> {
        let unit = composition.unit;
        let start = segment.start;
        let place = |at: u64| to_usize(at.saturating_sub(start));
        let end = start.saturating_add(as_length(units));
        if composition.by_map {
            let map = DiskMap::new(self.job, unit);
            return map.runs(start..end, &mut |guest, data| {
                let from = place(guest.start);
                let kind = if data { RunKind::Plain(from) } else { RunKind::Absent };
                buffers.runs.push(Run { guest, kind });
            });
        }
        let below = match &composition.backing {
            Some(backing) => {
                let below = buffers.other.get(units.len());
                backing.read(below, start)?;
                Some(&*below)
            }
            None => None,
        };
        let step = self.job.sparse.map_or(unit, |sparse| sparse.max(unit));
        let mut at = start;
        while at < end {
            let next = at.saturating_add(step.rest(at)).min(end);
            let part = place(at)..place(next);
            let bytes = units.get(part.clone()).unwrap_or_default();
            let kind = match below.map(|below| below.get(part.clone()).unwrap_or_default()) {
                Some(below) if below == bytes => RunKind::Absent,
                Some(_) if is_zero(bytes) => RunKind::Zero,
                None if self.job.sparse.is_some() && is_zero(bytes) => RunKind::Absent,
                _ => RunKind::Plain(part.start),
            };
            match buffers.runs.last_mut() {
                Some(last) if last.kind.continues_with(&kind) => last.guest.end = next,
                _ => buffers.runs.push(Run { guest: at..next, kind }),
            }
            at = next;
        }
        Ok(())
    }

    /// Whether the maps tell that nothing of a segment is stored.
    fn is_known(&self, composition: &Composition<'_>, segment: &Range<u64>) -> bool {
        if self.job.observer.is_some() && !self.is_hole(segment) {
            return false;
        }
        self.known_until(composition, segment.start, segment.end) == segment.end
    }

    /// Up to where the maps tell that nothing from `at` on is stored. Damage is met again when it
    /// is its turn.
    fn known_until(&self, composition: &Composition<'_>, at: u64, end: u64) -> u64 {
        let disk = self.job.disk;
        let Ok(mine) = disk.extent_at(at, end.saturating_sub(at)) else { return at };
        let Some(backing) = &composition.backing else {
            return if mine.kind.is_zero() { mine.end() } else { at };
        };
        let mut known = at;
        let mut mine = mine;
        loop {
            let max = mine.end().saturating_sub(known);
            let Ok(other) = backing.extent_at(known, max) else { return known };
            if !backing.is_same(disk, &mine, &other) {
                return known;
            }
            known = other.end().min(mine.end());
            if known >= end {
                return end;
            }
            match disk.extent_at(known, end.saturating_sub(known)) {
                Ok(next) => mine = next,
                Err(_) => return known,
            }
        }
    }

    /// Passes over a range of which nothing is stored.
    fn place_absent(&self, composition: &Composition<'_>, range: &Range<u64>) -> Result<()> {
        let job = self.job;
        job.observer.map_or(Ok(()), |observer| observer.see(range, None))?;
        let map = composition.map(job);
        let map = map.as_ref().map(|map| -> &dyn Map { map });
        let end = if range.end < job.size { range.end } else { composition.unit.ceil(range.end) };
        composition.turn.take(range, |placing| {
            let mut at = range.start;
            while at < end {
                job.progress.check()?;
                let next = at.saturating_add(composition.longest).min(end);
                let mut plan = Plan::default();
                let runs = [Run { guest: at..next, kind: RunKind::Absent }];
                placing.writer.place(&runs, map, &mut plan)?;
                if job.ascending {
                    write_forward(job.target, &mut placing.position, &mut plan, (&[], &[]))?;
                }
                write_anywhere(job.target, &mut plan, (&[], &[]))?;
                at = next;
            }
            Ok(())
        })?;
        job.progress.advance(length(range));
        Ok(())
    }

    /// Looks as far as the tables tell at what nobody has taken on.
    fn explore_known(&mut self, composition: &Composition<'_>) -> Result<()> {
        let job = self.job;
        let Ok(_one) = job.explorer.try_lock() else { return Ok(()) };
        let longest = job.observer.map_or(u64::MAX, super::Observer::longest_zeros);
        // what the backing file has is to be seen
        if longest <= job.segment || (job.observer.is_some() && composition.backing.is_some()) {
            return Ok(());
        }
        loop {
            job.progress.check()?;
            let from = job.segments.next();
            let end = job.size.min(from.saturating_add(longest));
            if from >= end {
                return Ok(());
            }
            let until = self.known_until(composition, from, end);
            let whole = Pow2::from_size(job.segment).filter(|_| until < job.size);
            let until = whole.map_or(until, |unit| unit.floor(until));
            if until <= from || (until < job.size && until.saturating_sub(from) < job.segment) {
                return Ok(());
            }
            let taken = job.segments.take_until(until);
            if !taken.is_empty() {
                self.place_absent(composition, &taken)?;
            }
        }
    }
}

/// What is read and written at a time where nothing is encoded: what stays in a core's cache.
const PLAIN: u64 = 256 << 10;
/// The same where units are encoded, which takes longer than taking turns by far.
const ENCODED: u64 = 1 << 20;

impl Composition<'_> {
    /// How much of the disk a worker takes on at once, where an observer wants `observed`, and the
    /// memory that it needs beside that.
    pub(super) fn segment(&self, observed: u64) -> (u64, u64) {
        let usual = if self.encoder.is_some() { ENCODED } else { PLAIN };
        let segment = usual.max(self.unit.size()).max(observed);
        let other = if self.backing.is_some() { segment } else { 0 };
        let packed = if self.encoder.is_some() { segment.saturating_mul(2) } else { 0 };
        (segment, other.saturating_add(packed))
    }

    /// What the writer may ask.
    pub(super) fn map<'j>(&self, job: &Job<'j>) -> Option<DiskMap<'j>> {
        self.by_map.then(|| DiskMap::new(job, self.unit))
    }

    /// Writes what the file starts with.
    pub(super) fn begin(&self, job: &Job<'_>) -> Result<()> {
        let map = self.map(job);
        let map = map.as_ref().map(|map| -> &dyn Map { map });
        let mut plan = Plan::default();
        self.turn.now(|placing| {
            placing.writer.begin(map, &mut plan)?;
            write_all(job, placing, &mut plan)
        })
    }

    /// Writes what it ends with.
    pub(super) fn finish(&self, job: &Job<'_>) -> Result<()> {
        let mut plan = Plan::default();
        self.turn.now(|placing| {
            placing.writer.finish(&mut plan)?;
            write_all(job, placing, &mut plan)
        })
    }
}

fn write_all(job: &Job<'_>, placing: &mut Placing, plan: &mut Plan) -> Result<()> {
    if job.ascending {
        write_forward(job.target, &mut placing.position, plan, (&[], &[]))?;
    }
    write_anywhere(job.target, plan, (&[], &[]))
}

impl RunKind {
    fn is_data(&self) -> bool {
        matches!(self, Self::Plain(_) | Self::Packed(_))
    }

    fn continues_with(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Absent, Self::Absent) | (Self::Zero, Self::Zero) => true,
            // runs of one segment follow one another in what was read too
            (Self::Plain(_), Self::Plain(_)) => true,
            _ => false,
        }
    }
}

/// Encodes all data, unit by unit.
fn encode_runs(
    encoder: &dyn Encoder,
    unit: Pow2,
    units: &[u8],
    buffers: &mut Buffers,
) -> Result<()> {
    let mut encoded = Vec::with_capacity(buffers.runs.len());
    for run in buffers.runs.drain(..) {
        let RunKind::Plain(from) = run.kind else {
            encoded.push(run);
            continue;
        };
        let mut at = run.guest.start;
        while at < run.guest.end {
            let next = at.saturating_add(unit.size()).min(run.guest.end);
            let start = from.saturating_add(to_usize(at.saturating_sub(run.guest.start)));
            let bytes = units.get(start..start.saturating_add(to_usize(unit.size())));
            let before = buffers.packed.len();
            let kind = if encoder.encode(bytes.unwrap_or_default(), &mut buffers.packed)? {
                RunKind::Packed(before..buffers.packed.len())
            } else {
                buffers.packed.truncate(before);
                RunKind::Plain(start)
            };
            encoded.push(Run { guest: at..next, kind });
            at = next;
        }
    }
    buffers.runs = encoded;
    Ok(())
}

fn part<'b>(bytes: &'b Bytes, (plain, packed): (&'b [u8], &'b [u8])) -> &'b [u8] {
    match bytes {
        Bytes::Plain(range) => plain.get(range.clone()).unwrap_or_default(),
        Bytes::Packed(range) => packed.get(range.clone()).unwrap_or_default(),
        Bytes::Own(bytes) => bytes,
        Bytes::Zeros(_) => &[],
    }
}

fn write_anywhere(target: &dyn Target, plan: &mut Plan, buffers: (&[u8], &[u8])) -> Result<()> {
    for write in plan.take() {
        match &write.bytes {
            Bytes::Zeros(length) if !target.capabilities().fresh_zeros => {
                target.write_zeros(write.offset, *length)?;
            }
            Bytes::Zeros(_) => {}
            bytes => target.write_at(part(bytes, buffers), write.offset)?,
        }
    }
    Ok(())
}

/// Writes in the order of the file; what lies between two writes is zeros.
fn write_forward(
    target: &dyn Target,
    position: &mut u64,
    plan: &mut Plan,
    buffers: (&[u8], &[u8]),
) -> Result<()> {
    for write in plan.take() {
        // a writer that goes back meets the target's own error
        for piece in zeros(write.offset.saturating_sub(*position)) {
            target.write_at(piece, *position)?;
            *position = position.saturating_add(to_u64(piece.len()));
        }
        let written = match &write.bytes {
            Bytes::Zeros(length) => {
                target.write_zeros(write.offset, *length)?;
                *length
            }
            bytes => {
                let bytes = part(bytes, buffers);
                target.write_at(bytes, write.offset)?;
                as_length(bytes)
            }
        };
        *position = write.offset.saturating_add(written);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    /// Extents of these lengths, data and zeros by turns.
    struct Striped(Vec<u64>);

    impl VirtualDisk for Striped {
        fn size(&self) -> u64 {
            self.0.iter().sum()
        }
        fn cluster_size(&self) -> u64 {
            512
        }
        fn extent_at(&self, offset: u64, max: u64) -> Result<Extent> {
            let mut end = 0;
            for (number, length) in self.0.iter().enumerate() {
                end += length;
                if offset < end {
                    let kind = if number % 2 == 0 {
                        ExtentKind::Encoded
                    } else {
                        ExtentKind::Zero { allocated: false, stored: None }
                    };
                    return Ok(Extent {
                        start: offset,
                        length: (end - offset).min(max),
                        depth: 0,
                        kind,
                    });
                }
            }
            Err(Error::other(ErrorKind::InvalidInput, "beyond the end"))
        }
        fn read_exact_at(&self, _: &mut [u8], _: u64) -> Result<()> {
            Ok(())
        }
        fn storage(&self, _: StorageId) -> Option<&dyn crate::storage::Storage> {
            None
        }
    }

    proptest::proptest! {
        #[test]
        fn a_unit_is_data_if_any_byte_of_it_may_be(
            lengths in proptest::collection::vec(1u64..40, 1..20),
            from in 0u64..10,
            to in 10u64..40,
        ) {
            let disk = Striped(lengths);
            let unit = Pow2::from_bits(3).unwrap();
            let size = disk.size();
            let all = 0..unit.ceil(size);
            let range = (from * 8).min(all.end)..(to * 8).min(all.end);
            let map = DiskMap { disk: &disk, unit, salvage: false, everything: false };
            let mut at = range.start;
            let mut last = None;
            map.runs(range.clone(), &mut |run, data| {
                assert_eq!(run.start, at);
                assert!(run.end > run.start && run.end % 8 == 0);
                assert_ne!(last.replace(data), Some(data), "runs are joined");
                for start in (run.start..run.end).step_by(8) {
                    let any = (start..(start + 8).min(size))
                        .any(|byte| !disk.extent_at(byte, 1).unwrap().kind.is_zero());
                    assert_eq!(any, data, "unit at {start}");
                }
                at = run.end;
            }).unwrap();
            assert_eq!(at, range.end);
        }
    }
}
