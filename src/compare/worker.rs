//! One thread of a comparison: it maps, reads and compares its own segments.

use std::ops::Range;

use super::side::{Disk, part, status};
use super::{Difference, Event, Failure, Job, SECTOR, SEGMENT, Side, Stage};
use crate::bytes::AlignedBuffer;
use crate::convert::is_zero;
use crate::num::to_usize;

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
}

impl<'w, 'a> Worker<'w, 'a> {
    pub(super) fn new(job: &'w Job<'a>) -> Self {
        Self { job, buffers: Default::default(), differing: Vec::new() }
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
            let end = if skipped { run.end } else { self.compare(at, segment.end)? };
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
            if from >= job.size || job.segments.is_beyond(from) || job.progress.is_cancelled() {
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
        let read = [&first, &second].map(|extent| !same && !extent.kind.is_zero());
        Ok(Run { end: first.end().min(second.end()), read })
    }

    /// Compares the piece at `at`, whose first bytes have to be read. Gives its end.
    fn compare(&mut self, at: u64, limit: u64) -> Result<u64, ()> {
        let job = self.job;
        let mut end = at.saturating_add(job.piece.rest(at)).min(limit);
        let mut read = [false, false];
        let (mut behind, mut needed) = (at, at);
        while behind < end {
            let Ok(run) = self.look(behind, end) else {
                // met again at the start of what comes next
                end = behind;
                break;
            };
            behind = run.end;
            if run.read != [false, false] {
                needed = behind;
                let [first, second] = read;
                read = [first || run.read[0], second || run.read[1]];
            }
        }
        let range = at..needed;
        let [first, second] = &mut self.buffers;
        let sides = [(&job.first, Side::First, first), (&job.second, Side::Second, second)];
        for ((disk, side, buffer), wanted) in sides.into_iter().zip(read) {
            let length = to_usize(range.end.saturating_sub(range.start));
            let buffer = buffer.get(length);
            if wanted {
                disk.read(buffer, at).map_err(|error| {
                    job.end(at, Event::Failed(Failure { stage: Stage::Read(side), error }));
                })?;
            }
        }
        if !self.is_same(at, &range, read) {
            self.differ(at, &range, read);
        }
        Ok(end)
    }

    /// Whether a part of what was read at `start` is the same on both sides; the side that was not
    /// read is zeros.
    fn is_same(&self, start: u64, range: &Range<u64>, read: [bool; 2]) -> bool {
        let [first, second] = self.buffers.each_ref().map(|b| part(b.bytes(), start, range));
        match read {
            [true, true] => first == second,
            [true, false] => is_zero(first),
            [false, true] => is_zero(second),
            [false, false] => true,
        }
    }

    /// Finds the sectors that differ.
    fn differ(&mut self, start: u64, range: &Range<u64>, read: [bool; 2]) {
        let mut at = range.start;
        while at < range.end {
            let end = at.saturating_add(SECTOR.rest(at)).min(range.end);
            if !self.is_same(start, &(at..end), read) {
                let sector = SECTOR.floor(at);
                if !self.job.all {
                    return self.job.end(sector, Event::Differs(Difference::Content(sector)));
                }
                let behind = SECTOR.ceil(end).min(self.job.size);
                match self.differing.last_mut() {
                    Some(last) if last.end >= sector => last.end = behind,
                    _ => self.differing.push(sector..behind),
                }
            }
            at = end;
        }
    }
}
