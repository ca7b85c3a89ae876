//! Host clusters in the order of the file, and their reference counts ("Host cluster management").
//!
//! A refcount block stands at the start of what it counts, so that counts are written as soon as
//! the file has grown past it, and no more than one or two blocks are held.

use std::collections::BTreeMap;

use crate::num::{Pow2, to_u64, to_usize};
use crate::writer::Plan;

/// Which host clusters are taken: all of them up to one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    /// The first cluster that is free.
    pub(super) next: u64,
    /// How many refcount blocks there are.
    covered: u64,
    /// How many clusters a block counts.
    per_block: Pow2,
}

impl Cursor {
    /// The header's cluster is taken.
    pub(super) fn new(cluster: Pow2, refcount_order: u32) -> Self {
        // a block has as many bits as a cluster
        let bits = cluster.bits().saturating_add(3).saturating_sub(refcount_order);
        let per_block = Pow2::from_bits(bits).unwrap_or(cluster);
        Self { next: 1, covered: 0, per_block }
    }

    /// Takes a cluster for the next refcount block.
    fn block(&mut self) -> u64 {
        self.covered = self.covered.saturating_add(1);
        self.one()
    }

    fn one(&mut self) -> u64 {
        let cluster = self.next;
        self.next = self.next.saturating_add(1);
        cluster
    }

    fn is_covered(&self, cluster: u64) -> bool {
        self.per_block.index(cluster) < self.covered
    }

    /// Takes up to `wanted` clusters in a row; `block` is told of refcount blocks before them.
    pub(super) fn run(&mut self, wanted: u64, mut block: impl FnMut(u64)) -> (u64, u64) {
        while !self.is_covered(self.next) {
            block(self.block());
        }
        let end = self.covered.saturating_mul(self.per_block.size());
        let count = wanted.min(end.saturating_sub(self.next)).max(1);
        let start = self.next;
        self.next = start.saturating_add(count);
        (start, count)
    }

    /// Takes all of `wanted` clusters in a row, with the refcount blocks for all of them before.
    pub(super) fn contiguous(&mut self, wanted: u64, mut block: impl FnMut(u64)) -> u64 {
        let last = |next: u64| next.saturating_add(wanted.max(1)).saturating_sub(1);
        while !self.is_covered(last(self.next)) {
            block(self.block());
        }
        let start = self.next;
        self.next = start.saturating_add(wanted);
        start
    }

    /// Takes clusters for the refcount table that names all blocks, with the blocks for those.
    pub(super) fn table(&mut self, cluster: Pow2, mut block: impl FnMut(u64)) -> (u64, u64) {
        let needed = |covered: u64| cluster.count(covered.saturating_mul(8)).max(1);
        let last =
            |cursor: &Self| cursor.next.saturating_add(needed(cursor.covered)).saturating_sub(1);
        while !self.is_covered(last(self)) {
            block(self.block());
        }
        let (start, count) = (self.next, needed(self.covered));
        self.next = start.saturating_add(count);
        (start, count)
    }
}

/// The clusters of a file that is being written.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) cursor: Cursor,
    pub(super) cluster: Pow2,
    order: u32,
    /// Where each refcount block lies.
    blocks: Vec<u64>,
    /// Blocks whose counts may still grow.
    open: BTreeMap<u64, Vec<u8>>,
    /// How many clusters the file will have, where that is known: then each is referred to once,
    /// and blocks are written before what they count.
    end: Option<u64>,
    /// Where the next compressed cluster goes, if that is within a host cluster.
    packing: Option<u64>,
    /// Blocks that count clusters up to this one are not final yet: those may be referred to again.
    kept: Option<u64>,
}

impl Space {
    pub(super) fn new(cluster: Pow2, order: u32, end: Option<u64>) -> Self {
        let cursor = Cursor::new(cluster, order);
        let (blocks, open) = (Vec::new(), BTreeMap::new());
        Self { cursor, cluster, order, blocks, open, end, packing: None, kept: None }
    }

    fn offset(&self, cluster: u64) -> u64 {
        self.cluster.offset_of(cluster).unwrap_or(u64::MAX)
    }

    /// Takes up to `wanted` clusters in a row: the offset of the first, and how many.
    pub(super) fn run(&mut self, wanted: u64, plan: &mut Plan) -> (u64, u64) {
        let mut placed = Vec::new();
        let (start, count) = self.cursor.run(wanted, |block| placed.push(block));
        self.taken(&placed, start, count, plan);
        (self.offset(start), count)
    }

    /// Takes clusters that lie in a row.
    pub(super) fn contiguous(&mut self, wanted: u64, plan: &mut Plan) -> u64 {
        let mut placed = Vec::new();
        let start = self.cursor.contiguous(wanted, |block| placed.push(block));
        self.taken(&placed, start, wanted, plan);
        self.offset(start)
    }

    /// Takes what the refcount table needs and writes it and all blocks: its offset, and how many
    /// clusters it has.
    pub(super) fn finish(&mut self, plan: &mut Plan) -> (u64, u64) {
        let mut placed = Vec::new();
        let (start, count) = self.cursor.table(self.cluster, |block| placed.push(block));
        self.taken(&placed, start, count, plan);
        for (number, block) in std::mem::take(&mut self.open) {
            plan.bytes(self.block_offset(number), block);
        }
        let mut table = vec![0; to_usize(self.offset(count))];
        for (entry, block) in table.as_chunks_mut::<8>().0.iter_mut().zip(&self.blocks) {
            *entry = block.to_be_bytes();
        }
        plan.bytes(self.offset(start), table);
        (self.offset(start), count)
    }

    fn block_offset(&self, number: u64) -> u64 {
        self.blocks.get(to_usize(number)).copied().unwrap_or_default()
    }

    /// Notes new blocks, and counts all that was taken.
    fn taken(&mut self, placed: &[u64], start: u64, count: u64, plan: &mut Plan) {
        for &block in placed {
            let number = to_u64(self.blocks.len());
            self.blocks.push(self.offset(block));
            let mut counts = vec![0; to_usize(self.cluster.size())];
            if let Some(end) = self.end {
                let first = self.cursor.per_block.offset_of(number).unwrap_or(u64::MAX);
                let ones = end.saturating_sub(first).min(self.cursor.per_block.size());
                (0..ones).for_each(|index| add(&mut counts, index, self.order));
                plan.bytes(self.offset(block), counts);
                continue;
            }
            if number == 0 {
                // the header
                add(&mut counts, 0, self.order);
            }
            self.open.insert(number, counts);
        }
        if self.end.is_none() {
            placed.iter().for_each(|&block| self.count(block));
            (start..start.saturating_add(count)).for_each(|cluster| self.count(cluster));
            self.close(plan);
        }
    }

    fn count(&mut self, cluster: u64) {
        let per_block = self.cursor.per_block;
        if let Some(block) = self.open.get_mut(&per_block.index(cluster)) {
            add(block, per_block.within(cluster), self.order);
        }
    }

    /// Writes the blocks whose counts are final.
    fn close(&mut self, plan: &mut Plan) {
        let packing = self.packing.map(|at| self.cluster.index(at));
        let growing = packing.unwrap_or(u64::MAX).min(self.cursor.next);
        let first = self.cursor.per_block.index(growing);
        let kept = |cluster| self.cursor.per_block.index(cluster).saturating_add(1);
        let from = self.kept.map_or(0, kept).min(first);
        while let Some((&number, _)) = self.open.range(from..first).next() {
            let block = self.open.remove(&number).unwrap_or_default();
            plan.bytes(self.block_offset(number), block);
        }
    }

    /// Keeps the counts of the clusters that hold a range open.
    pub(super) fn keep(&mut self, host: u64, length: u64) {
        let last = self.cluster.index(host.saturating_add(length).saturating_sub(1));
        self.kept = Some(self.kept.map_or(last, |kept| kept.max(last)));
    }

    /// Counts the clusters that hold a range once more; not if one of them cannot be.
    pub(super) fn refer(&mut self, host: u64, length: u64) -> bool {
        let last = self.cluster.index(host.saturating_add(length).saturating_sub(1));
        let clusters = self.cluster.index(host)..=last;
        let can = clusters.clone().all(|cluster| self.count_of(cluster) < max_count(self.order));
        if can {
            clusters.for_each(|cluster| self.count(cluster));
        }
        can
    }

    /// Takes room for a compressed cluster: behind the one before, if there is some, whole host
    /// clusters otherwise.
    pub(super) fn pack(&mut self, length: u64, plan: &mut Plan) -> u64 {
        let cluster = self.cluster;
        if let Some(at) = self.packing {
            let rest = cluster.rest(at);
            let behind = cluster.index(at).saturating_add(1);
            let goes_on = behind == self.cursor.next && self.cursor.is_covered(behind);
            let is_full = self.count_of(cluster.index(at)) >= max_count(self.order);
            if !is_full && (length <= rest || goes_on) {
                self.count(cluster.index(at));
                if length > rest {
                    self.run(1, plan);
                }
                return self.packed(at, length, plan);
            }
            self.packing = None;
        }
        let (at, _) = self.run(1, plan);
        self.packed(at, length, plan)
    }

    fn packed(&mut self, at: u64, length: u64, plan: &mut Plan) -> u64 {
        let end = at.saturating_add(length);
        self.packing = Some(end).filter(|&end| !self.cluster.is_aligned(end));
        self.close(plan);
        at
    }

    fn count_of(&self, cluster: u64) -> u64 {
        let per_block = self.cursor.per_block;
        let block = self.open.get(&per_block.index(cluster));
        block.map_or(u64::MAX, |block| get(block, per_block.within(cluster), self.order))
    }
}

/// The largest count of `1 << order` bits.
fn max_count(order: u32) -> u64 {
    let bits = 1u32.wrapping_shl(order);
    u64::MAX.wrapping_shr(64u32.saturating_sub(bits))
}

/// Where the count number `index` lies: its bytes; or its byte, and how far it is shifted therein.
fn place(index: u64, order: u32) -> (usize, usize, u32) {
    let first_bit = index.wrapping_shl(order);
    let byte = to_usize(first_bit.wrapping_shr(3));
    let width = 1usize.wrapping_shl(order.saturating_sub(3));
    let shift = u32::try_from(first_bit & 7).unwrap_or_default();
    (byte, byte.saturating_add(width), shift)
}

fn get(block: &[u8], index: u64, order: u32) -> u64 {
    let (from, to, shift) = place(index, order);
    let bytes = block.get(from..to).unwrap_or_default();
    let value = bytes.iter().fold(0u64, |value, &byte| value.wrapping_shl(8) | u64::from(byte));
    // "bit 0 means the least significant bit" of counts of less than a byte
    value.wrapping_shr(shift) & max_count(order)
}

fn add(block: &mut [u8], index: u64, order: u32) {
    let (from, to, shift) = place(index, order);
    let Some(bytes) = block.get_mut(from..to) else { return };
    match bytes {
        [byte] => *byte = byte.wrapping_add(1u8.wrapping_shl(shift)),
        bytes => {
            for byte in bytes.iter_mut().rev() {
                *byte = byte.wrapping_add(1);
                if *byte != 0 {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width_go_up_and_leave_their_neighbours() {
        for order in 0..=6 {
            let mut block = vec![0; 512];
            for _ in 0..max_count(order).min(300) {
                add(&mut block, 5, order);
            }
            assert_eq!(get(&block, 5, order), max_count(order).min(300), "order {order}");
            assert_eq!((get(&block, 4, order), get(&block, 6, order)), (0, 0), "order {order}");
        }
    }

    #[test]
    fn every_cluster_is_covered_by_a_block_whatever_is_taken() {
        for order in [0, 4, 6] {
            let cluster = Pow2::SECTOR;
            let mut cursor = Cursor::new(cluster, order);
            let mut blocks = 0;
            for step in 0..400u64 {
                if step % 3 == 0 {
                    cursor.contiguous(step * 7, |_| blocks += 1);
                } else {
                    let (start, count) = cursor.run(step, |_| blocks += 1);
                    assert!(count >= 1 && cursor.next == start + count);
                }
                assert!(cursor.next <= blocks * cursor.per_block.size(), "step {step}");
            }
            let (start, count) = cursor.table(cluster, |_| blocks += 1);
            assert_eq!(cursor.next, start + count);
            assert!(cursor.next <= blocks * cursor.per_block.size());
            assert!(count * 512 >= blocks * 8);
        }
    }
}
