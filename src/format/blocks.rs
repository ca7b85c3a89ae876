//! How images of blocks are written: a block gets its place when the first of its data comes, so that
//! blocks lie in the order of the disk, and a table tells where each is.

use std::ops::Range;

use crate::bytes::is_zero;
use crate::error::Result;
use crate::num::{Pow2, to_u64, to_usize};
use crate::seed::Seed;
use crate::writer::{Checksum, Map, Plan, Run, RunKind};

/// What a format says of its blocks and of their table.
pub(super) trait Blocks {
    /// The table's bytes for the entry of block `number`, whose data lie at `offset` if it is in the
    /// file; with all that lies between it and the next block's.
    fn entry(&self, number: u64, offset: Option<u64>, out: &mut Vec<u8>);

    /// What belongs before a block's data, if anything.
    fn lead(&self, offset: u64, plan: &mut Plan) {
        let _ = (offset, plan);
    }
}

/// Where blocks lie.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// The data of a block.
    pub(super) block: Pow2,
    /// Guest bytes in all.
    pub(super) size: u64,
    /// Where the table lies.
    pub(super) table: u64,
    /// Where the data of the first block lie.
    pub(super) first: u64,
    /// How far the data of one block are from those of the next.
    pub(super) step: u64,
    /// Every block is in the file.
    pub(super) all: bool,
}

/// How much of a table is written at a time.
const PAGE: usize = 64 << 10;
/// How much of it is held at a time.
const HELD: u64 = 1 << 20;

impl Layout {
    /// How many blocks the disk has.
    pub(super) fn count(&self) -> u64 {
        self.block.count(self.size)
    }

    /// How many blocks are in the file if `map` decides.
    pub(super) fn stored(&self, map: &dyn Map) -> Result<u64> {
        if self.all {
            return Ok(self.count());
        }
        let (mut stored, mut next) = (0u64, 0);
        // runs are told in whole units, of which a block has several
        map.runs(0..Pow2::PAGE.ceil(self.size), &mut |guest, data| {
            if data {
                let first = self.block.index(guest.start).max(next);
                next = self.block.count(guest.end);
                stored = stored.saturating_add(next.saturating_sub(first));
            }
        })?;
        Ok(stored)
    }

    /// Where the file's blocks end if so many are stored.
    pub(super) fn end(&self, stored: u64) -> u64 {
        match stored.checked_sub(1) {
            None => self.first,
            Some(others) => {
                let last = self.first.saturating_add(others.saturating_mul(self.step));
                last.saturating_add(self.block.size())
            }
        }
    }
}

/// Gives blocks their places.
#[derive(Debug)]
pub(super) struct Placer {
    layout: Layout,
    stored: u64,
    checksum: Checksum,
    /// The block that is being filled: its number, and where its data lie.
    current: Option<(u64, u64)>,
    /// The end of what was written as data: the file reaches no further yet.
    written: u64,
    /// How many entries the table has by now.
    entries: u64,
    /// The entries that are not written yet, and where they go.
    page: Vec<u8>,
    at: u64,
}

impl Placer {
    pub(super) fn new(layout: Layout) -> Self {
        let at = layout.table;
        Self {
            layout,
            stored: 0,
            checksum: Checksum::default(),
            current: None,
            written: 0,
            entries: 0,
            page: Vec::new(),
            at,
        }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How many blocks are in the file by now.
    pub(super) fn stored(&self) -> u64 {
        self.stored
    }

    /// Where the blocks end by now.
    pub(super) fn end(&self) -> u64 {
        self.layout.end(self.stored)
    }

    /// What identifiers derive from: the content, and `text`.
    pub(super) fn seed(&self, text: &str) -> Seed {
        self.checksum.seed(self.layout.size, text)
    }

    /// The longest run whose part of the table, of entries of so many bytes, is no burden to hold.
    pub(super) fn longest_run(&self, entry: u64) -> u64 {
        let entries = HELD.checked_div(entry).unwrap_or(HELD);
        self.layout.block.offset_of(entries).unwrap_or(u64::MAX)
    }

    /// Gives the next runs their places. Whatever is said to be written here is said once: threads
    /// write it in any order.
    pub(super) fn place(&mut self, format: &dyn Blocks, runs: &[Run], plan: &mut Plan) {
        let block = self.layout.block;
        for run in runs {
            if let RunKind::Plain(_) = run.kind {
                self.checksum.add(run);
            }
            let mut at = run.guest.start;
            while at < run.guest.end.min(self.layout.size) {
                let from = match run.kind {
                    RunKind::Plain(from) => {
                        Some(from.saturating_add(to_usize(at.saturating_sub(run.guest.start))))
                    }
                    _ => None,
                };
                let is_open = self.current.is_some_and(|(number, _)| number == block.index(at));
                if from.is_none() && !is_open && !self.layout.all {
                    break;
                }
                let next = at.saturating_add(block.rest(at)).min(run.guest.end);
                self.place_part(format, at..next, from, plan);
                at = next;
            }
            self.fill(format, block.index(run.guest.end.min(self.layout.size)), plan);
        }
    }

    /// A part of one block: data that start at `from` in what was read, or zeros.
    fn place_part(
        &mut self,
        format: &dyn Blocks,
        guest: Range<u64>,
        from: Option<usize>,
        plan: &mut Plan,
    ) {
        let block = self.layout.block;
        let number = block.index(guest.start);
        let (within, length) = (block.within(guest.start), guest.end.saturating_sub(guest.start));
        let data = match self.current {
            Some((current, data)) if current == number => data,
            _ => {
                let data = self.open(format, number, plan);
                // what comes before its first data
                plan.zeros(data, within);
                data
            }
        };
        let offset = data.saturating_add(within);
        match from {
            Some(from) => {
                plan.plain(offset, from, length);
                self.written = offset.saturating_add(length);
            }
            None => plan.zeros(offset, length),
        }
    }

    /// Gives a block its place.
    fn open(&mut self, format: &dyn Blocks, number: u64, plan: &mut Plan) -> u64 {
        self.fill(format, number, plan);
        let place = self.stored.saturating_mul(self.layout.step);
        let data = self.layout.first.saturating_add(place);
        self.stored = self.stored.saturating_add(1);
        self.current = Some((number, data));
        format.entry(number, Some(data), &mut self.page);
        self.entries = number.saturating_add(1);
        format.lead(data, plan);
        data
    }

    /// Entries of blocks that are not in the file, up to that of `number`.
    fn fill(&mut self, format: &dyn Blocks, number: u64, plan: &mut Plan) {
        while self.entries < number {
            format.entry(self.entries, None, &mut self.page);
            self.entries = self.entries.saturating_add(1);
            if self.page.len() >= PAGE {
                self.flush(plan);
            }
        }
    }

    fn flush(&mut self, plan: &mut Plan) {
        let page = std::mem::take(&mut self.page);
        let at = self.at;
        self.at = at.saturating_add(to_u64(page.len()));
        if is_zero(&page) {
            plan.zeros(at, to_u64(page.len()));
        } else {
            plan.bytes(at, page);
        }
    }

    /// Writes what is left of the table and of the last block. All else is written by now.
    pub(super) fn finish(&mut self, format: &dyn Blocks, plan: &mut Plan) {
        self.fill(format, self.layout.count(), plan);
        self.flush(plan);
        let end = self.layout.end(self.stored);
        if self.stored > 0 && self.written < end {
            // zeros alone do not make the file as long as its blocks
            let last = end.saturating_sub(self.written).min(Pow2::SECTOR.size());
            let length = end.saturating_sub(self.written).saturating_sub(last);
            let tail = self.tail().min(length);
            plan.zeros(end.saturating_sub(last).saturating_sub(tail), tail);
            plan.bytes(end.saturating_sub(last), vec![0; to_usize(last)]);
        }
    }

    /// How much of the last block lies behind the end of the disk.
    fn tail(&self) -> u64 {
        let covered = Pow2::PAGE.ceil(self.layout.size);
        self.layout.block.ceil(covered).saturating_sub(covered)
    }
}
