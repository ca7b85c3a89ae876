//! Repair: the reference counts and the flags COPIED, in an order that no stop between two writes
//! makes anything worse of.
//!
//! Counts are raised first, so that nothing in use can be taken for free; then flags that allow
//! writing in place are taken away where they must not be; only then is what leaks given free,
//! and flags are set. Guest data, and what an entry points at, are never changed.

use std::ops::Range;

use byteorder::{BigEndian, ByteOrder};

use crate::check::{CheckReport, Checking, Patch, RepairScope, Repaired};
use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::num::{to_u64, to_usize};
use crate::storage::read_vec;

use super::super::Qcow2Layer;
use super::super::layout::*;
use super::picture::{Picture, entries};
use super::rebuild::Rebuilt;
use super::stored::{Block, Stored};
use super::survey::Survey;
use super::{CHUNK, Exposure, LOOKUP_CACHE, Told, Verdict, judge};

/// Mends an image as far as that can be proven.
pub(in super::super) fn repair(
    layer: &Qcow2Layer,
    scope: RepairScope,
    checking: &Checking,
    patch: &mut dyn Patch,
) -> Result<Repaired> {
    let found = checking.scratch();
    let verdict = judge(layer, &found)?;
    let report = found.into_report();
    let silent = checking.scratch();
    let told = Told::new(&silent);
    let survey = Survey::new(layer, &told);
    let stored = Stored::new(&survey, layer.refcounts(LOOKUP_CACHE));
    let exposure = Exposure { survey: &survey, stored: &stored, checking, refcounts: true };
    let mut mender = Mender::new(exposure, patch);
    match scope {
        RepairScope::Leaks => mender.leaks(&verdict, &report),
        RepairScope::All => mender.all(&verdict, &report),
    }
}

/// What stays as it is, and why.
fn refused(report: &CheckReport, why: &'static str) -> Vec<Finding> {
    let left = report.findings.iter().filter(|finding| finding.fix.is_none());
    left.map(|finding| finding.clone().fix(why)).collect()
}

const NOT_PROVEN: &str = "left as it is, since nothing tells what was meant";
const IN_DOUBT: &str = "not everything that refers to clusters can be read, so none is given free";
const NEEDS_ALL: &str = "the reference counts themselves are damaged: --repair all is needed";
const OVERLAPS: &str = "things lie on each other, so nothing is written there";

/// Which counts are written. What was written before is not read back, so each step has to know
/// what the one before it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    Raise,
    Lower,
    /// The same, after others were raised.
    LowerRaised,
}

/// Which flags are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flags {
    Clear,
    Set,
    /// The same, after others were cleared.
    SetCleared,
}

/// What the stored counts are going to be, which the flags must fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// What they should be.
    Right,
    /// The larger of what they are and should be.
    Raised,
    /// The smaller of what they are and should be.
    Lowered,
}

pub(super) struct Mender<'a> {
    exposure: Exposure<'a>,
    patch: &'a mut dyn Patch,
    /// Counts and flags that were changed so far.
    changed: u64,
}

impl<'a> Mender<'a> {
    pub(super) fn new(exposure: Exposure<'a>, patch: &'a mut dyn Patch) -> Self {
        Self { exposure, patch, changed: 0 }
    }

    /// Raises counts to what is used.
    pub(super) fn raise(&mut self) -> Result<()> {
        self.counts(Counts::Raise)?;
        self.patch.barrier()
    }

    pub(super) fn barrier(&mut self) -> Result<()> {
        self.patch.barrier()
    }

    fn leaks(&mut self, verdict: &Verdict, report: &CheckReport) -> Result<Repaired> {
        let mut repaired = Repaired::default();
        if verdict.doubt || verdict.broken || verdict.overlaps {
            let why = match (verdict.broken, verdict.doubt) {
                (true, _) => NEEDS_ALL,
                (false, true) => IN_DOUBT,
                _ => OVERLAPS,
            };
            if report.leaks > 0 {
                let text = format!("{} leaked clusters are not given free", report.leaks);
                repaired.refused.push(Finding::new(Code::LeakedCluster, text).fix(why));
            }
            repaired.refused.extend(refused(report, NOT_PROVEN));
            return Ok(repaired);
        }
        self.counts(Counts::Lower)?;
        self.patch.barrier()?;
        let left = self.flags(Flags::Set, Goal::Lowered)?;
        self.patch.barrier()?;
        repaired.leaks_fixed = report.leaks;
        repaired.corruptions_fixed = verdict.copied.saturating_sub(left);
        Ok(repaired)
    }

    fn all(&mut self, verdict: &Verdict, report: &CheckReport) -> Result<Repaired> {
        let mut repaired = Repaired { refused: refused(report, NOT_PROVEN), ..Repaired::default() };
        let mut whole = !verdict.doubt && !verdict.overlaps;
        let mut goal = Goal::Right;
        if verdict.broken || verdict.missing {
            let rebuilt =
                if verdict.doubt { Rebuilt::Refused(IN_DOUBT) } else { self.rebuild(verdict)? };
            match rebuilt {
                Rebuilt::Done => {
                    // what lay on the old counts does no longer
                    whole = true;
                    repaired.refused.clear();
                    // flags are about what the new counts are going to be
                    self.exposure.refcounts = false;
                }
                Rebuilt::Refused(why) => {
                    let text = "the reference counts are not written anew";
                    repaired.refused.push(Finding::new(Code::RefcountMismatch, text).fix(why));
                    if verdict.broken {
                        return Ok(repaired);
                    }
                    whole = false;
                }
            }
        }
        if self.exposure.refcounts {
            self.raise()?;
        }
        if !whole {
            goal = Goal::Raised;
            if report.leaks > 0 {
                let text = format!("{} leaked clusters are not given free", report.leaks);
                let why = if verdict.doubt { IN_DOUBT } else { OVERLAPS };
                repaired.refused.push(Finding::new(Code::LeakedCluster, text).fix(why));
            }
        }
        if whole || !verdict.overlaps {
            self.flags(Flags::Clear, goal)?;
            self.patch.barrier()?;
        }
        if !whole {
            repaired.corruptions_fixed = self.changed.min(report.corruptions);
            return Ok(repaired);
        }
        if self.exposure.refcounts {
            self.counts(Counts::LowerRaised)?;
            self.patch.barrier()?;
        }
        self.flags(Flags::SetCleared, goal)?;
        self.patch.barrier()?;
        repaired.corruptions_fixed = report.corruptions.saturating_add(self.feature_bits()?);
        repaired.leaks_fixed = report.leaks;
        Ok(repaired)
    }

    /// Takes the marks off an image that is proven consistent; gives how many there were.
    fn feature_bits(&mut self) -> Result<u64> {
        let header = self.exposure.survey.header;
        let marks = INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT;
        let set = header.incompatible_features & marks;
        if set != 0 {
            let value = header.incompatible_features & !marks;
            let what = "take the marks 'dirty' and 'corrupt' off what is consistent now";
            self.patch.write(72, &value.to_be_bytes(), what)?;
            self.patch.barrier()?;
        }
        Ok(set.count_ones().into())
    }

    /// Writes counts that are wrong in this way, into the blocks that there are.
    fn counts(&mut self, which: Counts) -> Result<()> {
        let (stored, patch, changed) = (self.exposure.stored, &mut *self.patch, &mut self.changed);
        let mut bytes = Vec::new();
        self.exposure.each_window(None, |picture, _| {
            stored.each_block(None, |index, block| {
                let Block::At { offset, .. } = block else { return Ok(()) };
                let clusters = stored.block_clusters(index);
                let start = clusters.start.max(picture.window.start);
                let end = clusters.end.min(picture.window.end);
                if start >= end {
                    return Ok(());
                }
                stored.read_block(offset, &mut bytes)?;
                let mut range: Option<Range<usize>> = None;
                let mut count: u64 = 0;
                for cluster in start..end {
                    let entry = cluster.saturating_sub(clusters.start);
                    let (now, wanted) = (stored.count(&bytes, entry), picture.count(cluster));
                    let is_low = now < wanted && wanted <= stored.largest();
                    let (is_wrong, was_wrong) = match which {
                        Counts::Raise => (is_low, false),
                        Counts::Lower => (now > wanted, false),
                        Counts::LowerRaised => (now > wanted, is_low),
                    };
                    if is_wrong {
                        widen(&mut range, stored.set_count(&mut bytes, entry, wanted));
                        count = count.saturating_add(1);
                    } else if was_wrong {
                        stored.set_count(&mut bytes, entry, wanted);
                    }
                }
                let what = match which {
                    Counts::Raise => format!("raise {count} reference counts to what is used"),
                    _ => format!("lower {count} reference counts to what is used"),
                };
                if which == Counts::Raise {
                    *changed = changed.saturating_add(count);
                }
                write_range(patch, offset, &bytes, range, &what)
            })
        })
    }

    /// Writes flags COPIED that are wrong in this way, in the active tables. Gives how many are
    /// wrong in the other way.
    pub(super) fn flags(&mut self, which: Flags, goal: Goal) -> Result<u64> {
        let mut writer = FlagWriter {
            survey: self.exposure.survey,
            patch: &mut *self.patch,
            which,
            changed: 0,
            left: 0,
        };
        let stored = self.exposure.stored;
        self.exposure.each_window(None, |picture, _| {
            let aim = Aim { picture, now: Now::new(stored, picture, goal)? };
            writer.window(&aim)
        })?;
        let (changed, left) = (writer.changed, writer.left);
        if which == Flags::Clear {
            self.changed = self.changed.saturating_add(changed);
        }
        Ok(left)
    }

    fn rebuild(&mut self, verdict: &Verdict) -> Result<Rebuilt> {
        let exposure = Exposure { refcounts: false, ..self.exposure };
        super::rebuild::rebuild(&exposure, verdict, &mut *self.patch)
    }
}

/// Whether clusters of a window are going to be counted once.
struct Aim<'a> {
    picture: &'a Picture,
    now: Now,
}

/// The stored counts of a window, as far as a [`Goal`] depends on them.
struct Now {
    goal: Goal,
    /// Clusters counted, and counted more than once.
    some: super::count::Bits,
    more: super::count::Bits,
}

impl Now {
    fn new(stored: &Stored<'_>, picture: &Picture, goal: Goal) -> Result<Self> {
        let clusters = picture.window.end.saturating_sub(picture.window.start);
        let clusters = if goal == Goal::Right { 0 } else { clusters };
        let (some, more) = (super::count::Bits::new(clusters), super::count::Bits::new(clusters));
        if goal != Goal::Right {
            stored.each_count(picture.window.clone(), |index, count| {
                let index = index.saturating_sub(picture.window.start);
                some.set(index);
                if count > 1 {
                    more.set(index);
                }
            })?;
        }
        Ok(Self { goal, some, more })
    }
}

impl Aim<'_> {
    /// Whether a cluster of the window is going to be counted once; `None` outside of it.
    fn once(&self, number: u64) -> Option<bool> {
        let window = &self.picture.window;
        if !window.contains(&number) {
            return None;
        }
        let index = number.saturating_sub(window.start);
        let (some, more) = (self.now.some.get(index), self.now.more.get(index));
        let expected = self.picture.count(number);
        Some(match self.now.goal {
            Goal::Right => expected == 1,
            Goal::Raised => expected.max(if more { 2 } else { some.into() }) == 1,
            Goal::Lowered => some && (expected == 1 || (expected > 1 && !more)),
        })
    }
}

struct FlagWriter<'a> {
    survey: &'a Survey<'a>,
    patch: &'a mut dyn Patch,
    which: Flags,
    changed: u64,
    left: u64,
}

impl FlagWriter<'_> {
    fn window(&mut self, aim: &Aim<'_>) -> Result<()> {
        let survey = self.survey;
        let cluster = survey.header.cluster;
        let Some(l1) = survey.l1_tables.first() else { return Ok(()) };
        let mut batch = Vec::new();
        let what = "L1 table";
        let mut chunks = Vec::new();
        survey.each_entries(what, l1.offset, 0, l1.entries, |first, bytes| {
            if entries(bytes).any(|value| value != 0) {
                chunks.push((first, bytes.len()));
            }
            Ok(())
        })?;
        for (first, length) in chunks {
            let at = l1.offset.saturating_add(first.saturating_mul(8));
            let mut bytes = read_vec(survey.storage, what, at, length)?;
            batch.clear();
            for value in entries(&bytes) {
                let offset = value & ENTRY_OFFSET;
                let inside = cluster.index(offset) < survey.clusters;
                if offset != 0 && cluster.is_aligned(offset) && inside {
                    batch.push(offset);
                }
            }
            let range = self.table(&mut bytes, 8, |value| {
                let offset = value & ENTRY_OFFSET;
                let is_one = offset != 0 && cluster.is_aligned(offset);
                is_one.then(|| aim.once(cluster.index(offset))).flatten()
            });
            self.write(at, &bytes, range, "L1")?;
            batch.sort_unstable();
            batch.dedup();
            for table in batch.iter().copied() {
                self.l2_table(table, aim)?;
            }
        }
        Ok(())
    }

    fn l2_table(&mut self, table: u64, aim: &Aim<'_>) -> Result<()> {
        let (survey, header) = (self.survey, self.survey.header);
        let size = header.cluster.size().min(survey.storage.size().saturating_sub(table));
        let entry_size = to_usize(header.l2_entry_size().size());
        let mut done = 0;
        while done < size {
            let length = size.saturating_sub(done).min(to_u64(CHUNK));
            let at = table.saturating_add(done);
            let mut bytes = read_vec(survey.storage, "L2 table", at, to_usize(length))?;
            let range = if header.has_data_file() {
                // no window has their clusters, so it is done in the first
                let is_first = aim.picture.window.start == 0;
                self.table(&mut bytes, entry_size, |value| {
                    let is_one = value & L2_COMPRESSED == 0 && value & ENTRY_OFFSET != 0;
                    (is_first && is_one && header.cluster.is_aligned(value & ENTRY_OFFSET))
                        .then_some(true)
                })
            } else {
                self.table(&mut bytes, entry_size, |value| {
                    let offset = value & ENTRY_OFFSET;
                    if value & L2_COMPRESSED != 0 {
                        return Some(false); // it never has the flag
                    }
                    let is_one = offset != 0 && header.cluster.is_aligned(offset);
                    is_one.then(|| aim.once(header.cluster.index(offset))).flatten()
                })
            };
            self.write(at, &bytes, range, "L2")?;
            done = done.saturating_add(length);
        }
        Ok(())
    }

    /// Changes the flags of a table's entries; gives which bytes have changed.
    fn table(
        &mut self,
        bytes: &mut [u8],
        size: usize,
        once: impl Fn(u64) -> Option<bool>,
    ) -> Option<Range<usize>> {
        let mut range = None;
        let starts = (0_usize..).step_by(size.max(1));
        for (start, entry) in starts.zip(bytes.chunks_exact_mut(size.max(1))) {
            let Some(word) = entry.first_chunk_mut::<8>() else { continue };
            let value = BigEndian::read_u64(word);
            if value == 0 {
                continue;
            }
            let has = value & ENTRY_COPIED != 0;
            let Some(once) = once(value).filter(|&once| once != has) else { continue };
            if once == (self.which != Flags::Clear) {
                *word = (value ^ ENTRY_COPIED).to_be_bytes();
                widen(&mut range, start..start.saturating_add(8));
                self.changed = self.changed.saturating_add(1);
            } else if self.which == Flags::SetCleared {
                *word = (value ^ ENTRY_COPIED).to_be_bytes();
            } else {
                self.left = self.left.saturating_add(1);
            }
        }
        range
    }

    fn write(
        &mut self,
        at: u64,
        bytes: &[u8],
        range: Option<Range<usize>>,
        which: &str,
    ) -> Result<()> {
        let what = match self.which {
            Flags::Clear => format!("clear the flag COPIED in an {which} table"),
            Flags::Set | Flags::SetCleared => format!("set the flag COPIED in an {which} table"),
        };
        write_range(self.patch, at, bytes, range, &what)
    }
}

/// Makes `range` reach over `more` too.
fn widen(range: &mut Option<Range<usize>>, more: Range<usize>) {
    let (start, end) = match range.take() {
        Some(range) => (range.start.min(more.start), range.end.max(more.end)),
        None => (more.start, more.end),
    };
    *range = Some(start..end);
}

/// Writes the part of `bytes`, which lie at `offset`, that has changed.
fn write_range(
    patch: &mut dyn Patch,
    offset: u64,
    bytes: &[u8],
    range: Option<Range<usize>>,
    what: &str,
) -> Result<()> {
    let Some(range) = range else { return Ok(()) };
    let at = offset.saturating_add(to_u64(range.start));
    patch.write(at, bytes.get(range).unwrap_or_default(), what)
}
