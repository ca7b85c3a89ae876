//! One thread of a comparison: it maps, reads and compares its own segments.

use std::ops::Range;

use super::side::{Disk, status};
use super::{Difference, Event, Failure, Job, PIECE, SEGMENT, Side, Stage};
use crate::bytes::AlignedBuffer;
use crate::bytes::is_zero;
use crate::extent::ExtentKind;
use crate::num::{Pow2, to_u64, to_usize};

pub(super) struct Worker<'w, 'a> {
    job: &'w Job<'a>,
    buffers: [AlignedBuffer; 2],
    /// The ranges of the segment that differ, if all are wanted.
    differing: Vec<Range<u64>>,
}

/// A run of bytes of which both maps say one thing each.
struct Run {
    end: u64,
    /// Whether the first and the second disk have to be read; neither if they are the same.
    read: [bool; 2],
    /// The unit to read it in: a compressed cluster is decoded whole, and of other data no more is
    /// read than stays in the core's cache.
    piece: Pow2,
}

impl<'w, 'a> Worker<'w, 'a> {
    pub(super) fn new(job: &'w Job<'a>) -> Self {
        let buffers = [AlignedBuffer::new(), AlignedBuffer::new()];
        Self { job, buffers, differing: Vec::new() }
    }

    pub(super) fn run(mut self) {
        let job = self.job;
        while let Some(segment) = job.segments.take() {
            if self.segment(&segment).is_err() {
                break;
            }
        }
    }

    /// Compares a segment. An error is noted already.
    fn segment(&mut self, segment: &Range<u64>) -> Result<(), ()> {
        let job = self.job;
        let mut at = segment.start;
        let mut skipped = false;
        while at < segment.end && !job.segments.is_beyond(at) {
            job.progress.check().map_err(|error| {
                job.end(at, Event::Failed(Failure { stage: Stage::Start, error }));
            })?;
            let run = self.look(at, segment.end).map_err(|event| job.end(at, event))?;
            skipped = run.read == [false, false];
            let end = if skipped { run.end } else { self.compare(at, segment.end, run.piece)? };
            job.progress.advance(end.saturating_sub(at));
            at = end;
        }
        self.tell(segment);
        if skipped && at == segment.end { self.explore() } else { Ok(()) }
    }

    /// Tells what differs in a range that was compared.
    fn tell(&mut self, range: &Range<u64>) {
        if self.job.all {
            let told = self.job.ranges.take(range, |ranges| {
                self.differing.drain(..).for_each(|range| ranges.push(range));
                Ok(())
            });
            debug_assert!(told.is_ok(), "telling does not fail");
        }
    }

    /// Looks as far as the tables tell at what nobody has taken on, so that a long run of what need
    /// not be read is one step. One worker at a time, since all would look at the same.
    fn explore(&mut self) -> Result<(), ()> {
        let job = self.job;
        let Ok(_one) = job.explorer.try_lock() else { return Ok(()) };
        loop {
            let from = job.segments.next();
            if from >= job.size || job.segments.is_beyond(from) || job.progress.check().is_err() {
                return Ok(());
            }
            // what differs or is damaged is met again when it is its turn
            let Ok(run) = self.look(from, job.size) else { return Ok(()) };
            if run.read != [false, false] || run.end.saturating_sub(from) < SEGMENT {
                return Ok(());
            }
            let end = if run.end < job.size { job.piece.floor(run.end) } else { run.end };
            let taken = job.segments.take_until(end);
            if !taken.is_empty() {
                job.progress.advance(taken.end.saturating_sub(taken.start));
                self.tell(&taken);
            }
        }
    }

    /// What both maps say of the bytes at `at`, looking at most to `end`.
    fn look(&self, at: u64, end: u64) -> Result<Run, Event> {
        let job = self.job;
        let extent = |disk: &Disk<'_>, side| {
            disk.extent_at(at, end)
                .map_err(|error| Event::Failed(Failure { stage: Stage::Map(side), error }))
        };
        let first = extent(&job.first, Side::First)?;
        let second = extent(&job.second, Side::Second)?;
        if job.strict && status(&first.kind) != status(&second.kind) {
            return Err(Event::Differs(Difference::Status(at)));
        }
        let same = job.first.shares(&first, &job.second, &second);
        let read = [&first, &second].map(|extent| same == 0 && !extent.kind.is_zero());
        let encoded = [first.kind, second.kind].contains(&ExtentKind::Encoded);
        let piece = if encoded { job.piece } else { PIECE };
        let end = first.end().min(second.end());
        let end = if same > 0 { end.min(at.saturating_add(same)) } else { end };
        Ok(Run { end, read, piece })
    }

    /// Compares the piece at `at`, whose first bytes have to be read. Gives its end.
    fn compare(&mut self, at: u64, limit: u64, piece: Pow2) -> Result<u64, ()> {
        let job = self.job;
        let mut end = at.saturating_add(piece.rest(at)).min(limit);
        let mut read = [false, false];
        let (mut behind, mut needed) = (at, at);
        while behind < end {
            let run = match self.look(behind, end) {
                Ok(run) if run.read == [false, false] || run.piece == piece => run,
                // damage is met again at the start of what comes next
                _ => {
                    end = behind;
                    break;
                }
            };
            behind = run.end;
            if run.read != [false, false] {
                needed = behind;
                let [first, second] = read;
                read = [first || run.read[0], second || run.read[1]];
            }
        }
        let range = at..needed;
        let length = to_usize(range.end.saturating_sub(range.start));
        let [first, second] = &mut self.buffers;
        let sides = [(&job.first, Side::First, first), (&job.second, Side::Second, second)];
        for ((disk, side, buffer), wanted) in sides.into_iter().zip(read) {
            if wanted {
                disk.read(buffer.get(length), at).map_err(|error| {
                    job.end(at, Event::Failed(Failure { stage: Stage::Read(side), error }));
                })?;
            }
        }
        let [first, second] = &mut self.buffers;
        let (first, second) = (&*first.get(length), &*second.get(length));
        let pair = match read {
            [true, true] => Pair(first, Some(second)),
            [true, false] => Pair(first, None),
            _ => Pair(second, None),
        };
        if !pair.is_same() {
            differ(job, &pair, at, &mut self.differing);
        }
        Ok(end)
    }
}

/// What was read of both sides; of one that was not there are zeros.
struct Pair<'b>(&'b [u8], Option<&'b [u8]>);

impl Pair<'_> {
    fn is_same(&self) -> bool {
        self.1.map_or_else(|| is_zero(self.0), |second| self.0 == second)
    }

    fn part(&self, range: &Range<usize>) -> Pair<'_> {
        let of = |bytes| <[u8]>::get(bytes, range.clone()).unwrap_or_default();
        Pair(of(self.0), self.1.map(of))
    }
}

/// Finds the sectors that differ of what lies at `start`.
fn differ(job: &Job<'_>, pair: &Pair<'_>, start: u64, differing: &mut Vec<Range<u64>>) {
    let end = start.saturating_add(to_u64(pair.0.len()));
    let mut at = start;
    while at < end {
        let next = at.saturating_add(Pow2::SECTOR.rest(at)).min(end);
        let place = |at: u64| to_usize(at.saturating_sub(start));
        if !pair.part(&(place(at)..place(next))).is_same() {
            let sector = Pow2::SECTOR.floor(at);
            if !job.all {
                return job.end(sector, Event::Differs(Difference::Content(sector)));
            }
            let behind = Pow2::SECTOR.ceil(next).min(job.size);
            match differing.last_mut() {
                Some(last) if last.end >= sector => last.end = behind,
                _ => differing.push(sector..behind),
            }
        }
        at = next;
    }
}
