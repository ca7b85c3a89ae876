//! Writing a disk as an image of a format: units are read and encoded by all threads, get their
//! places in turn, and are written by all threads again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::map::DiskMap;
use super::worker::Worker;
use super::{ConvertDetail, Job, as_length, length};
use crate::bytes::{AlignedBuffer, is_zero};
use crate::disk::VirtualDisk;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentKind, StorageId};
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::Storage;
use crate::target::{Reflink, Target, stream::zeros};
use crate::writer::{Bytes, Encoder, Forward, Map, Plan, Run, RunKind, Writer};

/// What the workers share beside the [`Job`].
pub(super) struct Composition<'a> {
    pub(super) unit: Pow2,
    encoder: Option<Arc<dyn Encoder>>,
    /// The map decides what is stored, and not the bytes.
    by_map: bool,
    /// Data are shared with the files of the disk, and not read.
    pub(super) shares: bool,
    backing: Option<Backing<'a>>,
    /// No run is longer.
    longest: u64,
    wants_checksums: bool,
    wants_digests: bool,
    placing: Mutex<Placing>,
    placed: Condvar,
    /// Buffers that nobody uses just now.
    idle: Mutex<Vec<Part>>,
    /// How many parts may wait for their turn: no thread waits for another before.
    most_waiting: usize,
}

/// What is done in turn.
struct Placing {
    writer: Box<dyn Writer>,
    /// Where a target stands that is written forward only.
    position: u64,
    /// The guest byte whose turn it is.
    at: u64,
    /// Parts of the disk whose turn has not come, by where they start.
    waiting: BTreeMap<u64, Part>,
    stopped: bool,
}

/// A part of the disk, read and encoded.
#[derive(Debug, Default)]
struct Part {
    guest: Range<u64>,
    units: AlignedBuffer,
    /// How many bytes of that are read.
    length: usize,
    packed: Vec<u8>,
    runs: Vec<Run>,
    plan: Plan,
}

impl<'a> Composition<'a> {
    pub(super) fn new(
        writer: Box<dyn Writer>,
        by_map: bool,
        backing: Option<&'a dyn VirtualDisk>,
    ) -> Self {
        let (unit, encoder, longest) = (writer.unit(), writer.encoder(), writer.longest_run());
        let waiting = BTreeMap::new();
        Self {
            unit,
            encoder,
            by_map,
            shares: false,
            backing: backing.map(|disk| Backing { disk, size: disk.size() }),
            longest: longest.max(unit.size()),
            wants_checksums: writer.wants_checksums(),
            wants_digests: writer.wants_digests(),
            placing: Mutex::new(Placing { writer, position: 0, at: 0, waiting, stopped: false }),
            placed: Condvar::new(),
            idle: Mutex::default(),
            most_waiting: 0,
        }
    }

    /// Whether data can be shared with the files of the disk: where nobody looks at them.
    pub(super) fn can_share(writer: &dyn Writer) -> bool {
        writer.forward() == Forward::ByMap
            && writer.encoder().is_none()
            && !writer.wants_checksums()
            && !writer.wants_digests()
    }

    /// Each of so many threads may have a part that waits beside the one that it works on.
    pub(super) fn with_threads(mut self, threads: usize) -> Self {
        self.most_waiting = if threads > 1 { threads } else { 0 };
        self
    }

    fn placing(&self) -> MutexGuard<'_, Placing> {
        self.placing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Part>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody is to wait any more.
    pub(super) fn stop(&self) {
        self.placing().stopped = true;
        self.placed.notify_all();
    }

    /// Waits until it is the turn of what starts at `start`, or `enough` says that it need not wait.
    fn wait(
        &self,
        start: u64,
        enough: impl Fn(&Placing) -> bool,
    ) -> Option<MutexGuard<'_, Placing>> {
        let mut placing = self.placing();
        while placing.at != start && !placing.stopped && !enough(&placing) {
            placing = self.placed.wait(placing).unwrap_or_else(PoisonError::into_inner);
        }
        (!placing.stopped).then_some(placing)
    }

    /// Gives `part` its place, and those that waited for it; or lets it wait. What has got its place
    /// is written when the next ones may have theirs.
    fn submit(&self, job: &Job<'_>, part: Part) -> Result<()> {
        let room = |placing: &Placing| placing.waiting.len() < self.most_waiting;
        let Some(mut placing) = self.wait(part.guest.start, room) else { return Ok(()) };
        if placing.at != part.guest.start {
            placing.waiting.insert(part.guest.start, part);
            return Ok(());
        }
        let map = self.map(job);
        let map = map.as_ref().map(|map| -> &dyn Map { map });
        let mut ready = Vec::new();
        let mut next = Some(part);
        while let Some(mut part) = next {
            placing.writer.place(&part.runs, map, &mut part.plan)?;
            if job.ascending {
                let buffers = (&*part.units.get(part.length), &*part.packed);
                write_forward(job.target, &mut placing.position, &mut part.plan, buffers)?;
            }
            let end = part.guest.end;
            placing.at = end;
            ready.push(part);
            next = placing.waiting.remove(&end);
        }
        drop(placing);
        self.placed.notify_all();
        for mut part in ready {
            if self.shares {
                share_anywhere(job, &part.guest, &mut part.plan)?;
            } else {
                let buffers = (&*part.units.get(part.length), &*part.packed);
                write_anywhere(job.target, &mut part.plan, buffers)?;
            }
            job.copied(length(&part.guest))?;
            self.idle().push(part);
        }
        Ok(())
    }

    /// The same for a range of which nothing is stored, however long.
    fn submit_absent(&self, job: &Job<'_>, range: &Range<u64>) -> Result<()> {
        let Some(mut placing) = self.wait(range.start, |_| false) else { return Ok(()) };
        let map = self.map(job);
        let map = map.as_ref().map(|map| -> &dyn Map { map });
        let end = if range.end < job.size { range.end } else { self.unit.ceil(range.end) };
        let mut at = range.start;
        while at < end {
            job.progress.check()?;
            let next = at.saturating_add(self.longest).min(end);
            let mut plan = Plan::default();
            let runs = [Run::new(at..next, RunKind::Absent)];
            placing.writer.place(&runs, map, &mut plan)?;
            write_all(job, &mut placing, &mut plan)?;
            at = next;
        }
        placing.at = range.end;
        let behind = placing.waiting.remove(&range.end);
        drop(placing);
        self.placed.notify_all();
        job.progress.advance(length(range));
        behind.map_or(Ok(()), |part| self.submit(job, part))
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

impl Worker<'_> {
    /// Reads and encodes a segment, and hands it over to be placed and written.
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
        let mut part = composition.idle().pop().unwrap_or_default();
        part.guest = segment.clone();
        if composition.shares {
            return self.share_segment(composition, part);
        }
        part.length = to_usize(composition.unit.ceil(length(segment)));
        let units = part.units.get(part.length);
        let (whole, padding) = units.split_at_mut(to_usize(length(segment)));
        self.fill(whole, segment)?;
        padding.fill(0);
        job.observer.map_or(Ok(()), |observer| observer.see(segment, Some(whole)))?;
        part.runs.clear();
        part.packed.clear();
        if composition.encoder.is_some() {
            // growing by doubling would take more than that
            part.packed.reserve(part.length.saturating_add(to_usize(composition.unit.size())));
        }
        self.find_runs(composition, &mut part)?;
        if let Some(encoder) = &composition.encoder {
            encode_runs(&**encoder, composition.unit, &mut part)?;
        }
        if composition.wants_digests {
            part.runs = single_units(std::mem::take(&mut part.runs), composition.unit);
        }
        let units = &*part.units.get(part.length);
        for run in part.runs.iter_mut().filter(|run| run.kind.is_data()) {
            let end = run.guest.end.min(segment.end);
            let [from, to] = [run.guest.start, run.guest.end]
                .map(|at| to_usize(at.saturating_sub(segment.start)));
            let data = units.get(from..to).unwrap_or_default();
            if composition.wants_checksums {
                run.checksum = [crc32fast::hash(data), crc32c::crc32c(data)];
            }
            #[cfg(feature = "checksum")]
            if composition.wants_digests {
                run.digest = Some(*blake3::hash(data).as_bytes());
            }
            self.written = self.written.saturating_add(end.saturating_sub(run.guest.start));
        }
        composition.submit(job, part)
    }

    /// Hands a segment over whose data are shared.
    fn share_segment(&mut self, composition: &Composition<'_>, mut part: Part) -> Result<()> {
        let (start, end) = (part.guest.start, composition.unit.ceil(part.guest.end));
        let runs = &mut part.runs;
        runs.clear();
        DiskMap::new(self.job, composition.unit).runs(start..end, &mut |guest, data| {
            let from = to_usize(guest.start.saturating_sub(start));
            let kind = if data { RunKind::Plain(from) } else { RunKind::Absent };
            runs.push(Run::new(guest, kind));
        })?;
        let data = runs.iter().filter(|run| run.kind.is_data()).map(|run| length(&run.guest));
        self.written = data.fold(self.written, u64::saturating_add);
        composition.submit(self.job, part)
    }

    /// What is to be stored of a segment that was read.
    fn find_runs(&mut self, composition: &Composition<'_>, part: &mut Part) -> Result<()> {
        let unit = composition.unit;
        let start = part.guest.start;
        let (units, runs) = (&*part.units.get(part.length), &mut part.runs);
        let place = |at: u64| to_usize(at.saturating_sub(start));
        let end = start.saturating_add(as_length(units));
        if composition.by_map {
            let map = DiskMap::new(self.job, unit);
            return map.runs(start..end, &mut |guest, data| {
                let from = place(guest.start);
                let kind = if data { RunKind::Plain(from) } else { RunKind::Absent };
                runs.push(Run::new(guest, kind));
            });
        }
        let below = match &composition.backing {
            Some(backing) => {
                let below = self.buffer.get(units.len());
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
            match runs.last_mut() {
                Some(last) if last.kind.continues_with(&kind) => last.guest.end = next,
                _ => runs.push(Run::new(at..next, kind)),
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
        composition.submit_absent(job, range)
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
const ENCODED: u64 = 512 << 10;

/// The same where data are not read at all: a call for each run is all that it takes.
const SHARED: u64 = 64 << 20;

impl Composition<'_> {
    /// How much of the disk a worker takes on at once, where an observer wants `observed`, and the
    /// memory that it needs beside that.
    pub(super) fn segment(&self, observed: u64) -> (u64, u64) {
        if self.shares {
            return (SHARED, 0);
        }
        let usual = if self.encoder.is_some() { ENCODED } else { PLAIN };
        let segment = usual.max(self.unit.size()).max(observed);
        let other = if self.backing.is_some() { segment } else { 0 };
        // what is encoded is no longer by much, and a part may wait while a thread works on another
        let packed = if self.encoder.is_some() { segment.saturating_mul(2) } else { 0 };
        let units = self.unit.size().saturating_mul(2);
        (segment, [segment, other, packed, units].into_iter().fold(0, u64::saturating_add))
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
        let placing = &mut *self.placing();
        placing.writer.begin(map, &mut plan)?;
        write_all(job, placing, &mut plan)
    }

    /// Writes what it ends with.
    pub(super) fn finish(&self, job: &Job<'_>) -> Result<()> {
        let mut plan = Plan::default();
        let placing = &mut *self.placing();
        placing.writer.finish(&mut plan)?;
        write_all(job, placing, &mut plan)
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
fn encode_runs(encoder: &dyn Encoder, unit: Pow2, part: &mut Part) -> Result<()> {
    let mut runs = single_units(std::mem::take(&mut part.runs), unit);
    let (units, packed) = (&*part.units.get(part.length), &mut part.packed);
    for run in &mut runs {
        let RunKind::Plain(from) = run.kind else { continue };
        let bytes = units.get(from..from.saturating_add(to_usize(unit.size())));
        let before = packed.len();
        if encoder.encode(bytes.unwrap_or_default(), run.guest.start, packed)? {
            run.kind = RunKind::Packed(before..packed.len());
        }
    }
    part.runs = runs;
    Ok(())
}

/// The same runs, data in units.
fn single_units(runs: Vec<Run>, unit: Pow2) -> Vec<Run> {
    let mut all = Vec::with_capacity(runs.len());
    for run in runs {
        let RunKind::Plain(from) = run.kind else {
            all.push(run);
            continue;
        };
        let mut at = run.guest.start;
        while at < run.guest.end {
            let next = at.saturating_add(unit.size()).min(run.guest.end);
            let from = from.saturating_add(to_usize(at.saturating_sub(run.guest.start)));
            all.push(Run::new(at..next, RunKind::Plain(from)));
            at = next;
        }
    }
    all
}

fn bytes_of<'b>(bytes: &'b Bytes, (plain, packed): (&'b [u8], &'b [u8])) -> &'b [u8] {
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
            bytes => target.write_at(bytes_of(bytes, buffers), write.offset)?,
        }
    }
    Ok(())
}

/// Writes what is not data of `guest`, and shares those with the files that they lie in.
fn share_anywhere(job: &Job<'_>, guest: &Range<u64>, plan: &mut Plan) -> Result<()> {
    let mut rest = Plan::default();
    for write in plan.take() {
        match &write.bytes {
            Bytes::Plain(range) => {
                let [from, to] =
                    [range.start, range.end].map(|at| guest.start.saturating_add(to_u64(at)));
                share(job, from..to.min(job.size), write.offset)?;
            }
            _ => rest.push(write),
        }
    }
    write_anywhere(job.target, &mut rest, (&[], &[]))
}

/// Shares what is stored of a range, from `to` on in the target.
fn share(job: &Job<'_>, range: Range<u64>, to: u64) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        job.progress.check()?;
        let extent = job.disk.extent_at(at, range.end.saturating_sub(at))?;
        let to = to.saturating_add(at.saturating_sub(range.start));
        let refuse =
            |detail: ConvertDetail| Error::new(detail).affecting(extent.start..extent.end());
        match extent.kind {
            kind if kind.is_zero() && job.target.capabilities().fresh_zeros => {}
            kind if kind.is_zero() => job.target.write_zeros(to, extent.length)?,
            ExtentKind::Stored(location) => {
                let file = job.disk.storage(location.storage).and_then(Storage::as_file);
                let file = file.ok_or_else(|| refuse(ConvertDetail::NoFile))?;
                let (offset, length) = (location.offset, extent.length);
                job.target.copy_from(file, offset, to, length, Reflink::Always)?;
            }
            _ => return Err(refuse(ConvertDetail::EncodedShared)),
        }
        at = extent.end();
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
                let bytes = bytes_of(bytes, buffers);
                target.write_at(bytes, write.offset)?;
                as_length(bytes)
            }
        };
        *position = write.offset.saturating_add(written);
    }
    Ok(())
}
