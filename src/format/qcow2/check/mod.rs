//! Whether an image is whole: all references to host clusters are counted, and held against the
//! counts that are stored ("Host cluster management").

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::check::Checking;
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Code, Finding};

use super::Qcow2Layer;
use super::layout::ENTRY_COPIED;

mod count;
mod picture;
mod rebuild;
mod repair;
mod scan;
mod share;
mod stored;
mod survey;

pub(super) use repair::repair;
pub(super) use share::share;

use count::Width;
use picture::{Camera, Frame, Picture};
use scan::Figures;
use stored::{Block, Stored};
use survey::Survey;

/// How much of a table is read at once.
const CHUNK: usize = 256 << 10;
/// How often all tables are read at most, for files too long to be looked at in one piece.
const MOST_WINDOWS: u32 = 64;
/// Memory for pages of the refcount table that are looked up out of order.
const LOOKUP_CACHE: u64 = 1 << 20;

/// What a repair of everything mends.
const MENDED: &str = "diskimage check --repair all mends it";
/// What a repair of leaks frees.
const FREED: &str = "diskimage check --repair leaks frees it";
/// What a repair writes anew.
const REBUILT: &str = "diskimage check --repair all writes the reference counts anew";

/// Where what is found goes to.
#[derive(Debug)]
struct Told<'a> {
    checking: &'a Checking,
    /// Whether something was found that makes the references uncertain.
    doubt: AtomicBool,
    /// Whether the refcount table or a block is no good.
    broken: AtomicBool,
    /// How many flags COPIED were found wrong.
    copied: AtomicU64,
    /// What kept the medium from being looked at, where nothing could be done about it at once.
    failed: Mutex<Option<Error>>,
}

impl<'a> Told<'a> {
    fn new(checking: &'a Checking) -> Self {
        let (doubt, broken) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { checking, doubt, broken, copied: AtomicU64::new(0), failed: Mutex::default() }
    }

    fn fail(&self, error: Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn failed(&self) -> Result<()> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    fn corruption(&self, finding: Finding) {
        if finding.fix.is_none() && finding.code != Code::Overlap {
            self.doubt();
        }
        self.checking.corruption(finding);
    }

    fn doubt(&self) {
        self.doubt.store(true, Relaxed);
    }

    fn broken_refcounts(&self) {
        self.broken.store(true, Relaxed);
    }

    fn unreadable(&self, error: &Error, what: &'static str, at: u64) {
        let text = format!("the {what} cannot be read: {error}");
        self.checking.unreadable(Finding::new(Code::Unreadable, text).at(at).in_structure(what));
        self.doubt();
    }

    /// The flag COPIED of an entry says the wrong thing.
    fn copied(&self, value: u64, once: bool, at: u64, what: &'static str) {
        let text = if value & ENTRY_COPIED == 0 {
            format!("lacks the flag COPIED for a cluster that is counted once: {value:#018x}")
        } else {
            debug_assert!(!once);
            format!("has the flag COPIED for a cluster that is not counted once: {value:#018x}")
        };
        let finding = Finding::new(Code::CopiedFlag, text).at(at).in_structure(what);
        self.corruption(finding.fix(MENDED));
        self.copied.fetch_add(1, Relaxed);
    }
}

/// What an image came to.
#[derive(Debug, Default)]
struct Verdict {
    /// Whether something was found that makes the references uncertain.
    doubt: bool,
    /// Whether the refcount table or a block is no good.
    broken: bool,
    /// Whether there is no block for something that is used.
    missing: bool,
    /// Whether things lie on each other.
    overlaps: bool,
    /// How many flags COPIED contradict the stored counts.
    copied: u64,
    /// The last cluster that is in use or counted.
    highest: Option<u64>,
}

/// Checks an image, and tells `checking`.
pub(super) fn check(layer: &Qcow2Layer, checking: &Checking) -> Result<()> {
    judge(layer, checking).map(drop)
}

fn judge(layer: &Qcow2Layer, checking: &Checking) -> Result<Verdict> {
    let told = Told::new(checking);
    let survey = Survey::new(layer, &told);
    let stored = Stored::new(&survey, layer.refcounts(LOOKUP_CACHE));
    let mut verdict = Verdict::default();
    let exposure = Exposure { survey: &survey, stored: &stored, checking, refcounts: true };
    exposure.each_window(Some(&told), |picture, told| {
        if let Some(told) = told {
            compare(&survey, &stored, picture, told, &mut verdict)?;
        }
        Ok(())
    })?;
    verdict.doubt |= told.doubt.load(Relaxed);
    verdict.broken |= told.broken.load(Relaxed);
    verdict.copied = told.copied.load(Relaxed);
    let mut report = checking.report();
    let end = verdict.highest.and_then(|highest| highest.checked_add(1));
    report.image_end_offset = end.and_then(|end| layer.header().cluster.offset_of(end));
    report.total_clusters = Some(layer.header().cluster.count(layer.header().size));
    Ok(verdict)
}

/// How pictures of an image are taken, window by window.
#[derive(Debug, Clone, Copy)]
struct Exposure<'a> {
    survey: &'a Survey<'a>,
    stored: &'a Stored<'a>,
    checking: &'a Checking,
    /// Whether the refcount table and its blocks are in them.
    refcounts: bool,
}

impl Exposure<'_> {
    /// How many clusters a picture shows: whole refcount blocks of them.
    fn clusters(&self, width: Width) -> u64 {
        let memory = self.checking.memory();
        let bits =
            memory.saturating_sub(memory.wrapping_shr(2).saturating_add(memory.wrapping_shr(3)));
        let clusters = bits.saturating_mul(8).checked_div(Picture::bits(width)).unwrap_or_default();
        let block = self.stored.block_entries();
        block.floor(clusters).max(block.size())
    }

    /// Hands over the pictures of all windows in which something is, one after the other; and
    /// whom to tell what is found in them, if `told` is to be told.
    fn each_window(
        &self,
        told: Option<&Told<'_>>,
        mut visit: impl FnMut(&Picture, Option<&Told<'_>>) -> Result<()>,
    ) -> Result<()> {
        let all = self.survey.clusters;
        let mut width = if self.clusters(Width::Wide) >= all { Width::Wide } else { Width::Narrow };
        let (mut start, mut tries) = (0, 0_u32);
        let mut first = true;
        while start < all {
            if tries >= MOST_WINDOWS {
                let text = "is too long to be checked with this much memory";
                let error = Error::other(ErrorKind::LimitExceeded, text);
                return Err(error.advise("give it more with --max-memory"));
            }
            tries = tries.saturating_add(1);
            let end = start.saturating_add(self.clusters(width)).min(all);
            // what a picture that comes to nothing told is forgotten
            let scratch = self.checking.scratch();
            let attempt = Told::new(&scratch);
            let camera = Camera {
                survey: self.survey,
                stored: self.stored,
                told: &attempt,
                checking: self.checking,
                figures: Figures::default(),
            };
            let frame = Frame { width, refcounts: self.refcounts, first };
            let picture = camera.take(start..end, frame)?;
            attempt.failed()?;
            let Some(picture) = picture else {
                width = Width::Wide;
                continue;
            };
            visit(&picture, told.is_some().then_some(&attempt))?;
            if let Some(told) = told {
                told.doubt.fetch_or(attempt.doubt.load(Relaxed), Relaxed);
                told.broken.fetch_or(attempt.broken.load(Relaxed), Relaxed);
                told.copied.fetch_add(attempt.copied.load(Relaxed), Relaxed);
                let figures = camera.figures;
                told.checking.absorb(scratch.into_report());
                if first {
                    let mut report = told.checking.report();
                    report.allocated_clusters = Some(figures.allocated.into_inner());
                    report.fragmented_clusters = Some(figures.fragmented.into_inner());
                    report.compressed_clusters = Some(figures.compressed.into_inner());
                }
            }
            first = false;
            start = self.next_window(&picture)?;
        }
        Ok(())
    }

    /// Where the next window starts: at the next block with something in it.
    fn next_window(&self, picture: &Picture) -> Result<u64> {
        let block = self.stored.block_entries();
        let mut next = block.floor(picture.next.load(Relaxed)).max(picture.window.end);
        if picture.window.end < self.survey.clusters {
            self.stored.each_block(None, |index, block| {
                let start = self.stored.block_clusters(index).start;
                if start >= picture.window.end && block != Block::Absent {
                    next = next.min(start);
                }
                Ok(())
            })?;
        }
        Ok(next)
    }
}

/// Holds the stored counts of a window against the references.
fn compare(
    survey: &Survey<'_>,
    stored: &Stored<'_>,
    picture: &Picture,
    told: &Told<'_>,
    verdict: &mut Verdict,
) -> Result<()> {
    let mut judge = Judge { survey, stored, picture, told, verdict };
    if !stored.is_there() {
        judge.unknown(picture.window.clone());
        return Ok(());
    }
    let mut at = picture.window.start;
    let mut bytes = Vec::new();
    stored.each_block(None, |index, block| {
        judge.block(index, block);
        let clusters = stored.block_clusters(index);
        let start = clusters.start.max(picture.window.start);
        let end = clusters.end.min(picture.window.end);
        if start >= end {
            return Ok(());
        }
        told.checking.watcher().check()?;
        judge.uncounted(at..start);
        at = end;
        match block {
            Block::Absent => judge.uncounted(start..end),
            Block::Broken => judge.unknown(start..end),
            Block::At { offset, .. } => match stored.read_block(offset, &mut bytes) {
                Ok(()) => {
                    for cluster in start..end {
                        let entry = cluster.saturating_sub(clusters.start);
                        judge.cluster(cluster, stored.count(&bytes, entry));
                    }
                }
                // a medium that fails says nothing about the block
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                Err(error) => {
                    told.unreadable(&error, "refcount block", offset);
                    told.broken_refcounts();
                    judge.unknown(start..end);
                }
            },
        }
        Ok(())
    })?;
    judge.uncounted(at..picture.window.end);
    Ok(())
}

/// Judges one cluster after the other.
struct Judge<'a> {
    survey: &'a Survey<'a>,
    stored: &'a Stored<'a>,
    picture: &'a Picture,
    told: &'a Told<'a>,
    verdict: &'a mut Verdict,
}

impl Judge<'_> {
    /// A block lies in a cluster of its own.
    fn block(&mut self, index: u64, block: Block) {
        let Block::At { offset, counted: true } = block else { return };
        let number = self.survey.header.cluster.index(offset);
        if !self.picture.window.contains(&number) || self.picture.count(number) == 1 {
            return;
        }
        let text = format!("refcount block {index} lies where other things do");
        let finding = Finding::new(Code::Overlap, text).at(offset).in_structure("refcount block");
        self.told.corruption(finding.fix(REBUILT));
        self.told.broken_refcounts();
    }

    /// Clusters without stored counts.
    fn uncounted(&mut self, clusters: Range<u64>) {
        let mut at = self.picture.next_used(clusters.start, clusters.end);
        while at < clusters.end {
            self.verdict.missing |= self.picture.count(at) > 0;
            self.cluster(at, 0);
            at = self.picture.next_used(at.saturating_add(1), clusters.end);
        }
    }

    /// Clusters whose stored counts are not known.
    fn unknown(&mut self, clusters: Range<u64>) {
        let mut at = self.picture.next_used(clusters.start, clusters.end);
        while at < clusters.end {
            if self.picture.count(at) > 0 {
                self.verdict.highest = self.verdict.highest.max(Some(at));
            }
            at = self.picture.next_used(at.saturating_add(1), clusters.end);
        }
    }

    fn cluster(&mut self, number: u64, stored: u64) {
        let expected = self.picture.count(number);
        if stored == 0 && expected == 0 {
            return;
        }
        self.verdict.highest = self.verdict.highest.max(Some(number));
        let overlaps = self.picture.overlaps(number);
        if stored == expected && !overlaps {
            return;
        }
        let offset = self.survey.header.cluster.offset_of(number).unwrap_or(u64::MAX);
        let counts = format!("counted {stored} times, referred to {expected} times");
        let place = |code, text: String| {
            Finding::new(code, text).at(offset).in_structure(format!("cluster {number}"))
        };
        if overlaps {
            self.verdict.overlaps = true;
            let text = format!("holds metadata, and something else refers to it; {counts}");
            self.told.corruption(place(Code::Overlap, text));
        } else if stored > expected {
            let finding = place(Code::LeakedCluster, counts).fix(FREED);
            self.told.checking.leak(1, finding);
        } else if expected > self.stored.largest() {
            let text = format!("{counts}, which its reference count has no room for");
            self.told.corruption(place(Code::RefcountMismatch, text));
        } else {
            self.told.corruption(place(Code::RefcountMismatch, counts).fix(MENDED));
        }
    }
}
