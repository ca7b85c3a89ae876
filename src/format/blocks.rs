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
    /// The table's bytes for the entry of block `number`, with all that lies between it and the next
    /// block's. What belongs to a block beside its data goes into the plan.
    fn entry(&mut self, number: u64, block: Block<'_>, out: &mut Vec<u8>, plan: &mut Plan);

    /// How many bytes are left free before the data of block `number`, which is about to be stored.
    fn gap(&self, number: u64) -> u64 {
        let _ = number;
        0
    }

    /// Whether an entry can say that a block is zeros, whatever the parent has.
    fn has_zeros(&self) -> bool {
        false
    }
}

/// What becomes of a block.
#[derive(Debug, Clone, Copy)]
pub(super) enum Block<'a> {
    /// It is not in the file.
    Absent,
    /// The same, and it is zeros whatever the parent has.
    Zero,
    /// It is in the file.
    Stored {
        /// Where its data lie.
        offset: u64,
        /// Which of its bytes are this image's, ascending; the others are the parent's, if there is one.
        present: &'a [Range<u64>],
    },
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
    /// How far the data of one block are from those of the next, if there is no gap.
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
    /// Where the data of the next block lie, if there is no gap before them.
    next: u64,
    checksum: Checksum,
    current: Option<Current>,
    /// The end of what was written as data: the file reaches no further yet.
    written: u64,
    /// How many entries the table has by now.
    entries: u64,
    /// The entries that are not written yet, and where they go.
    page: Vec<u8>,
    at: u64,
}

/// The block that is being filled.
#[derive(Debug)]
struct Current {
    number: u64,
    /// Where its data lie.
    data: u64,
    /// Where they would lie without a gap.
    before: u64,
    /// As in [`Block::Stored`].
    present: Vec<Range<u64>>,
    /// Whether anything is said of what lies there: not while it may turn out to be zeros that need no
    /// place, so that nothing is said twice of what another block gets.
    begun: bool,
}

/// Bytes of a block.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// Data that start there in what was read.
    Data(usize),
    /// Zeros.
    Zeros,
    /// What is not the image's own.
    Absent,
}

impl Placer {
    pub(super) fn new(layout: Layout) -> Self {
        let (next, at) = (layout.first, layout.table);
        Self {
            layout,
            stored: 0,
            next,
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
        if self.stored == 0 {
            return self.layout.first;
        }
        self.next.saturating_sub(self.layout.step).saturating_add(self.layout.block.size())
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
    pub(super) fn place(&mut self, format: &mut dyn Blocks, runs: &[Run], plan: &mut Plan) {
        let block = self.layout.block;
        for run in runs {
            self.checksum.add(run);
            let mut at = run.guest.start;
            while at < run.guest.end.min(self.layout.size) {
                let part = match run.kind {
                    RunKind::Plain(from) => {
                        let skip = to_usize(at.saturating_sub(run.guest.start));
                        Part::Data(from.saturating_add(skip))
                    }
                    RunKind::Zero => Part::Zeros,
                    _ => Part::Absent,
                };
                let is_open =
                    self.current.as_ref().is_some_and(|open| open.number == block.index(at));
                if matches!(part, Part::Absent) && !is_open && !self.layout.all {
                    break;
                }
                let next = at.saturating_add(block.rest(at)).min(run.guest.end);
                self.place_part(format, at..next, part, plan);
                at = next;
            }
            self.fill(format, block.index(run.guest.end.min(self.layout.size)), plan);
        }
    }

    /// A part of one block.
    fn place_part(
        &mut self,
        format: &mut dyn Blocks,
        guest: Range<u64>,
        part: Part,
        plan: &mut Plan,
    ) {
        let block = self.layout.block;
        let number = block.index(guest.start);
        let (within, length) = (block.within(guest.start), guest.end.saturating_sub(guest.start));
        if self.current.as_ref().is_none_or(|open| open.number != number) {
            self.fill(format, number, plan);
            let data = self.next.saturating_add(format.gap(number));
            self.current = Some(Current {
                number,
                data,
                before: self.next,
                present: Vec::new(),
                begun: false,
            });
            self.stored = self.stored.saturating_add(1);
            self.next = data.saturating_add(self.layout.step);
        }
        let Some(current) = &mut self.current else { return };
        let offset = current.data.saturating_add(within);
        let waits = matches!(part, Part::Zeros) && format.has_zeros() && !current.begun;
        if !waits && !current.begun {
            // what comes before
            plan.zeros(current.data, within);
            current.begun = true;
        }
        match part {
            Part::Data(from) => {
                plan.plain(offset, from, length);
                self.written = offset.saturating_add(length);
            }
            Part::Zeros | Part::Absent if !waits => plan.zeros(offset, length),
            Part::Zeros | Part::Absent => {}
        }
        if !matches!(part, Part::Absent) {
            let end = guest.end.min(self.layout.size).saturating_sub(guest.start);
            let end = within.saturating_add(end);
            match current.present.last_mut() {
                Some(last) if last.end == within => last.end = end,
                _ => current.present.push(within..end),
            }
        }
    }

    /// The entries of blocks up to that of `number`.
    fn fill(&mut self, format: &mut dyn Blocks, number: u64, plan: &mut Plan) {
        while self.entries < number {
            let entry = self.entries;
            match self.current.take_if(|open| open.number == entry) {
                Some(open) => self.close(format, &open, plan),
                None => format.entry(entry, Block::Absent, &mut self.page, plan),
            }
            self.entries = entry.saturating_add(1);
            if self.page.len() >= PAGE {
                self.flush(plan);
            }
        }
    }

    /// The entry of a block that was begun.
    fn close(&mut self, format: &mut dyn Blocks, open: &Current, plan: &mut Plan) {
        let start = self.layout.block.offset_of(open.number).unwrap_or(u64::MAX);
        let used = self.layout.block.size().min(self.layout.size.saturating_sub(start));
        let is_zeros = !open.begun && open.present.iter().eq([&(0..used)]);
        let block = if is_zeros && !self.layout.all {
            // no other has a place behind it yet
            self.next = open.before;
            self.stored = self.stored.saturating_sub(1);
            Block::Zero
        } else {
            if !open.begun {
                plan.zeros(open.data, self.layout.block.size());
            }
            Block::Stored { offset: open.data, present: &open.present }
        };
        format.entry(open.number, block, &mut self.page, plan);
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
    pub(super) fn finish(&mut self, format: &mut dyn Blocks, plan: &mut Plan) {
        self.fill(format, self.layout.count(), plan);
        self.flush(plan);
        let end = self.end();
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
