//! Writing for formats of fixed-size blocks, each in the file as a whole once anything in it is data.

use std::ops::Range;

use crate::num::{Pow2, to_u64};
use crate::writer::{Plan, Run, RunKind};

/// Where blocks go: one behind the other, in the order of the disk.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Guest bytes of a block.
    pub(super) block: Pow2,
    /// Bytes between two blocks, for what a format puts before each block's data.
    gap: u64,
    /// Where the data of the next block go.
    next: u64,
    /// The last block that was given a place: its number, and where its data lie.
    last: Option<(u64, u64)>,
    /// Up to where the file was written.
    written: u64,
    /// Every block gets a place, data or not.
    all: bool,
}

impl Blocks {
    /// The data of the first block go to `first`; between blocks are `gap` bytes.
    pub(super) fn new(block: Pow2, first: u64, gap: u64, all: bool) -> Self {
        Self { block, gap, next: first, last: None, written: first, all }
    }

    /// Writes a run; `placed` is told of blocks that get a place, and where their data lie.
    pub(super) fn place(
        &mut self,
        run: &Run,
        plan: &mut Plan,
        mut placed: impl FnMut(u64, u64, &mut Plan),
    ) {
        let block = self.block;
        let mut guest = run.guest.clone();
        let is_data = matches!(run.kind, RunKind::Plain(_));
        while guest.start < guest.end {
            let number = block.index(guest.start);
            let is_open = self.last.is_some_and(|(last, _)| last == number);
            if !is_data && !self.all && !is_open {
                // up to the end of the run nothing is stored
                return;
            }
            let end = guest.start.saturating_add(block.rest(guest.start)).min(guest.end);
            if !is_open {
                placed(number, self.next, plan);
                plan.zeros(self.next, block.within(guest.start));
                self.last = Some((number, self.next));
                self.next = self.next.saturating_add(block.size()).saturating_add(self.gap);
            }
            let data = self.last.map_or(0, |(_, data)| data);
            let at = data.saturating_add(block.within(guest.start));
            let length = end.saturating_sub(guest.start);
            match run.kind {
                RunKind::Plain(from) => {
                    let skip = guest.start.saturating_sub(run.guest.start);
                    plan.plain(at, from.saturating_add(crate::num::to_usize(skip)), length);
                    self.written = at.saturating_add(length);
                }
                _ => plan.zeros(at, length),
            }
            guest.start = end;
        }
    }

    /// The end of the last block.
    pub(super) fn end(&self) -> u64 {
        match self.last {
            Some((_, data)) => data.saturating_add(self.block.size()),
            None => self.written,
        }
    }

    /// Sees to it that the file goes on to the end of the last block.
    pub(super) fn finish(&self, plan: &mut Plan) {
        let end = self.end();
        if self.written < end {
            plan.zeros(self.written, end.saturating_sub(self.written));
            plan.bytes(end.saturating_sub(1), vec![0]);
        }
    }
}

/// How many blocks hold the data among runs that `tell` is told of.
pub(super) fn count(
    block: Pow2,
    runs: impl FnOnce(&mut dyn FnMut(Range<u64>, bool)) -> crate::error::Result<()>,
) -> crate::error::Result<u64> {
    let (mut count, mut behind) = (0u64, 0u64);
    runs(&mut |run, data| {
        if data && run.end > run.start {
            let first = block.index(run.start).max(behind);
            behind = block.count(run.end);
            count = count.saturating_add(behind.saturating_sub(first));
        }
    })?;
    Ok(count)
}

/// An identifier (RFC 9562, version 8) that is the same for the same `parts`.
pub(super) fn uuid(parts: &[&[u8]]) -> [u8; 16] {
    use md5::{Digest, Md5};
    let mut hash = Md5::new();
    for part in parts {
        hash.update(to_u64(part.len()).to_le_bytes());
        hash.update(part);
    }
    let mut uuid: [u8; 16] = hash.finalize().into();
    let [_, _, _, _, _, _, seventh, _, ninth, ..] = &mut uuid;
    *seventh = (*seventh & 0x0f) | 0x80;
    *ninth = (*ninth & 0x3f) | 0x80;
    uuid
}
