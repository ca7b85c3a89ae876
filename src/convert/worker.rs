//! One thread of a conversion: it maps, reads, decodes and writes its own segments.

use std::ops::Range;

use super::salvage::Salvage;
use super::{ConvertDetail, Job, Observer, PIECE, as_length, length, zero};
use crate::bytes::AlignedBuffer;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentKind};
use crate::num::{Pow2, to_usize};
use crate::storage::Storage;
use crate::target::Reflink;

pub(super) struct Worker<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) buffer: AlignedBuffer,
    pub(super) written: u64,
}

impl<'a> Worker<'a> {
    pub(super) fn new(job: &'a Job<'a>) -> Self {
        Self { job, buffer: AlignedBuffer::new(), written: 0 }
    }

    pub(super) fn run(mut self) {
        while let Some(segment) = self.job.segments.take() {
            let done = if let Some(composition) = &self.job.composition {
                self.compose_segment(composition, &segment)
            } else if self.job.ascending || self.job.observer.is_some() {
                self.whole_segment(&segment)
            } else {
                self.place_segment(segment)
            };
            if let Err(error) = done {
                self.job.fail(error);
                break;
            }
        }
        self.job.count(self.written);
    }

    /// Converts a segment for a target that can be written anywhere.
    fn place_segment(&mut self, segment: Range<u64>) -> Result<()> {
        let job = self.job;
        let mut at = segment.start;
        while at < segment.end {
            job.progress.check()?;
            match job.disk.extent_at(at, segment.end.saturating_sub(at)) {
                Ok(extent) if extent.kind.is_zero() || job.has(&extent) => {
                    self.put_absent(&extent, at..extent.end())?;
                    at = extent.end();
                    if at == segment.end && job.sparse.is_some() {
                        self.explore()?;
                    }
                }
                Ok(extent) => {
                    let copied = self.offload(&extent, segment.end)?;
                    if copied > at {
                        at = copied;
                        continue;
                    }
                    let piece = self.piece_of(&extent);
                    let end = self.data_end(&extent, segment.end, piece);
                    self.copy(at..end, piece)?;
                    at = end;
                }
                Err(error) => {
                    let lost = self.unmapped(at, segment.end, error)?;
                    self.put_zeros(lost.clone())?;
                    at = lost.end;
                }
            }
        }
        Ok(())
    }

    /// Looks as far as the tables tell at what nobody has taken on, so that a long hole is one
    /// step. One worker at a time, since all would look at the same.
    fn explore(&mut self) -> Result<()> {
        let job = self.job;
        let Ok(_one) = job.explorer.try_lock() else { return Ok(()) };
        loop {
            job.progress.check()?;
            let from = job.segments.next();
            let longest = job.observer.map_or(u64::MAX, Observer::longest_zeros);
            let rest = job.size.saturating_sub(from).min(longest);
            if rest == 0 || longest <= job.segment {
                return Ok(());
            }
            // what is damaged is met again when it is its turn
            let Ok(extent) = job.disk.extent_at(from, rest) else { return Ok(()) };
            let absent = extent.kind.is_zero() || job.has(&extent);
            if !absent || extent.length < job.segment {
                return Ok(());
            }
            // segments go on starting at whole pieces, and whole ones if they are observed
            let unit = job.observer.map_or(job.piece, |_| job.segment);
            let unit = Pow2::from_size(unit).filter(|_| extent.end() < job.size);
            let end = unit.map_or(extent.end(), |unit| unit.floor(extent.end()));
            let taken = job.segments.take_until(end);
            if !taken.is_empty() {
                self.put_absent(&extent, taken.clone())?;
                job.observer.map_or(Ok(()), |observer| observer.see(&taken, None))?;
            }
        }
    }

    /// Lets the kernel copy stored data, with what follows in the same place. Gives where it
    /// stopped: at the extent's start if it did nothing.
    fn offload(&mut self, extent: &Extent, limit: u64) -> Result<u64> {
        let job = self.job;
        let Some(reflink) = job.reflink else { return Ok(extent.start) };
        let always = reflink == Reflink::Always;
        let refuse = |detail: ConvertDetail| {
            let error = Error::new(detail).affecting(extent.start..extent.end());
            if always { Err(error) } else { Ok(extent.start) }
        };
        let ExtentKind::Stored(location) = extent.kind else {
            return refuse(ConvertDetail::EncodedShared);
        };
        let file = job.disk.storage(location.storage).and_then(Storage::as_file);
        let Some(file) = file else { return refuse(ConvertDetail::NoFile) };
        let mut run = *extent;
        while run.end() < limit {
            match job.disk.extent_at(run.end(), limit.saturating_sub(run.end())) {
                Ok(next) if run.continues_with(&next) => {
                    run.length = run.length.saturating_add(next.length);
                }
                // another place, or damage, which is met again when it is its turn
                _ => break,
            }
        }
        let (offset, start, length) = (location.offset, run.start, run.length);
        let copied = job.target.copy_from(file, offset, start, length, reflink)?.min(length);
        self.written = self.written.saturating_add(copied);
        job.copied(copied)?;
        Ok(start.saturating_add(copied))
    }

    /// The unit to read data in that start with `extent`: a compressed cluster is decoded whole,
    /// and of other data no more is read than stays in the core's cache.
    fn piece_of(&self, extent: &Extent) -> u64 {
        if extent.kind == ExtentKind::Encoded { self.job.piece } else { PIECE }
    }

    /// Where data end that start with `extent`: small extents are joined up to a piece, so that
    /// they are written together.
    fn data_end(&self, extent: &Extent, limit: u64, piece: u64) -> u64 {
        let job = self.job;
        let mut end = extent.end();
        let enough = piece_end(extent.start, piece).min(limit);
        while end < enough {
            match job.disk.extent_at(end, enough.saturating_sub(end)) {
                Ok(next) if job.has(&next) => break,
                Ok(next) if !next.kind.is_zero() && self.piece_of(&next) == piece => {
                    end = next.end();
                }
                // zeros end the run, and what is damaged is met again when it is its turn
                _ => break,
            }
        }
        end.min(limit)
    }

    /// Copies data, a piece at a time.
    fn copy(&mut self, range: Range<u64>, piece: u64) -> Result<()> {
        let job = self.job;
        let mut at = range.start;
        while at < range.end {
            job.progress.check()?;
            let end = piece_end(at, piece).min(range.end);
            let mut buffer = std::mem::take(&mut self.buffer);
            let part = buffer.get(to_usize(end.saturating_sub(at)));
            let copied = self.read(part, at).and_then(|()| self.put(part, at));
            self.buffer = buffer;
            copied?;
            job.copied(end.saturating_sub(at))?;
            at = end;
        }
        Ok(())
    }

    fn read(&self, part: &mut [u8], at: u64) -> Result<()> {
        match self.job.disk.read_exact_at(part, at) {
            Err(error) if self.job.salvage => Salvage { job: self.job }.read(part, at, error),
            other => other,
        }
    }

    /// Writes a piece, leaving out blocks of zeros where they need no writing.
    fn put(&mut self, part: &[u8], at: u64) -> Result<()> {
        let target = self.job.target;
        let Some(unit) = self.job.sparse else {
            self.written = self.written.saturating_add(as_length(part));
            return target.write_at(part, at);
        };
        for (data, run) in zero::runs(part, at, unit) {
            let bytes = part.get(run.clone()).unwrap_or_default();
            let start = at.saturating_add(crate::num::to_u64(run.start));
            if data {
                self.written = self.written.saturating_add(as_length(bytes));
                target.write_at(bytes, start)?;
            } else if !target.capabilities().fresh_zeros {
                target.write_zeros(start, as_length(bytes))?;
            }
        }
        Ok(())
    }

    /// Deals with a range of `extent`, which holds no data for the target.
    fn put_absent(&mut self, extent: &Extent, range: Range<u64>) -> Result<()> {
        if self.job.has(extent) {
            self.job.progress.advance(length(&range));
            return Ok(());
        }
        self.put_zeros(range)
    }

    /// Makes a range zeros, by writing only if it must be.
    fn put_zeros(&mut self, range: Range<u64>) -> Result<()> {
        let job = self.job;
        if job.sparse.is_none() {
            // everything is to be written, holes included
            let mut at = range.start;
            while at < range.end {
                job.progress.check()?;
                let end = piece_end(at, PIECE).min(range.end);
                let part = self.buffer.get(to_usize(end.saturating_sub(at)));
                part.fill(0);
                job.target.write_at(part, at)?;
                self.written = self.written.saturating_add(as_length(part));
                at = end;
            }
        } else if !job.target.capabilities().fresh_zeros {
            job.target.write_zeros(range.start, length(&range))?;
        }
        job.progress.advance(length(&range));
        Ok(())
    }

    /// Converts a segment in one piece: for a target that takes ascending writes, or for somebody
    /// who looks at it. It is read out of turn, and written in turn.
    fn whole_segment(&mut self, segment: &Range<u64>) -> Result<()> {
        let job = self.job;
        job.progress.check()?;
        if let Some(observer) = job.observer.filter(|_| !job.ascending)
            && self.is_hole(segment)
        {
            self.put_zeros(segment.clone())?;
            observer.see(segment, None)?;
            return if job.sparse.is_some() { self.explore() } else { Ok(()) };
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let whole = buffer.get(to_usize(length(segment)));
        let done = self.fill(whole, segment).and_then(|()| self.pass_on(whole, segment));
        self.buffer = buffer;
        done
    }

    /// Whether the map tells that a segment is all zeros. Damage is met again when it is read.
    pub(super) fn is_hole(&self, segment: &Range<u64>) -> bool {
        let extent = self.job.disk.extent_at(segment.start, length(segment));
        extent.is_ok_and(|extent| extent.kind.is_zero() && extent.end() == segment.end)
    }

    fn pass_on(&mut self, whole: &[u8], segment: &Range<u64>) -> Result<()> {
        let job = self.job;
        if job.ascending {
            job.turn.take(segment, |()| job.target.write_at(whole, segment.start))?;
            self.written = self.written.saturating_add(as_length(whole));
        } else {
            self.put(whole, segment.start)?;
        }
        job.observer.map_or(Ok(()), |observer| observer.see(segment, Some(whole)))?;
        job.copied(as_length(whole))
    }

    pub(super) fn fill(&self, whole: &mut [u8], segment: &Range<u64>) -> Result<()> {
        let piece = to_usize(self.job.piece);
        let mut at = segment.start;
        for part in whole.chunks_mut(piece.max(1)) {
            self.job.progress.check()?;
            self.read(part, at)?;
            at = at.saturating_add(as_length(part));
        }
        Ok(())
    }

    /// What is lost because the map at `at` cannot be read; or the error itself, unless salvaging.
    fn unmapped(&self, at: u64, end: u64, error: Error) -> Result<Range<u64>> {
        if !self.job.salvage {
            return Err(error);
        }
        Salvage { job: self.job }.unmapped(at, end, error)
    }
}

/// Pieces end at multiples of their size, so that whole clusters are decoded.
fn piece_end(at: u64, piece: u64) -> u64 {
    at.saturating_add(Pow2::from_size(piece).map_or(piece, |unit| unit.rest(at)))
}
