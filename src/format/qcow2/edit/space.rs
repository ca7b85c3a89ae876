//! Room for new structures: clusters behind all that is in use, and their reference counts.
//!
//! What is new is written first, then its counts are raised; what names it comes later. So whoever
//! stops in between leaves leaked clusters and nothing else.

use crate::check::Patch;
use crate::error::Result;
use crate::num::{Pow2, to_u64, to_usize};

use super::super::Qcow2Layer;
use super::super::error::Qcow2Detail;
use super::super::layout::*;
use super::super::refcount::{RefcountTable, set_count_at};
use super::tables::{Table, copy_table, cut_off_read};
use super::{EditDetail, write_changed};

/// Memory for pages of the refcount table.
const LOOKUP_CACHE: u64 = 1 << 20;

/// Clusters that are handed out one after the other.
#[derive(Debug)]
pub(super) struct Space<'a> {
    layer: &'a Qcow2Layer,
    first: u64,
    next: u64,
}

/// What it takes to count the clusters that were handed out.
struct Plan {
    /// Refcount blocks that there are none of yet, by number; their clusters come first.
    blocks: Vec<u64>,
    /// And then those of a new refcount table, if there are such blocks.
    table_clusters: u64,
    end: u64,
}

impl<'a> Space<'a> {
    /// `first` is the first cluster behind all that is in use or counted.
    pub(super) fn new(layer: &'a Qcow2Layer, first: u64) -> Self {
        // counts of less than a byte share none with counts that were changed just before
        let first = match layer.header().refcount_order {
            0..=2 => first.next_multiple_of(8),
            _ => first,
        };
        Self { layer, first, next: first }
    }

    /// The offset of so many clusters that follow each other.
    pub(super) fn take(&mut self, clusters: u64) -> Result<u64> {
        let start = self.next;
        self.next = start.saturating_add(clusters);
        self.offset(start)
    }

    fn cluster(&self) -> Pow2 {
        self.layer.header().cluster
    }

    fn offset(&self, cluster: u64) -> Result<u64> {
        let offset = self.cluster().offset_of(cluster);
        offset.filter(|&offset| offset <= ENTRY_OFFSET).ok_or_else(|| EditDetail::TooLong.into())
    }

    /// Counts what was handed out, all of which is written by then.
    pub(super) fn count(self, patch: &mut dyn Patch) -> Result<()> {
        if self.next == self.first {
            return Ok(());
        }
        let counts = self.layer.refcounts(LOOKUP_CACHE);
        let plan = self.plan(&counts)?;
        for (number, &block) in (self.next..).zip(&plan.blocks) {
            let mut bytes = vec![0; to_usize(self.cluster().size())];
            self.raise(&counts, block, plan.end, &mut bytes);
            patch.write(self.offset(number)?, &bytes, "write a new refcount block")?;
        }
        let table = self.next.saturating_add(to_u64(plan.blocks.len()));
        if !plan.blocks.is_empty() {
            self.write_table(&plan, table, patch)?;
        }
        patch.barrier()?;
        self.raise_stored(&counts, &plan, patch)?;
        patch.barrier()?;
        if !plan.blocks.is_empty() {
            let clusters = u32::try_from(plan.table_clusters).unwrap_or(u32::MAX);
            let mut fields = self.offset(table)?.to_be_bytes().to_vec();
            fields.extend(clusters.to_be_bytes());
            patch.write(48, &fields, "have the header name the new refcount table")?;
            patch.barrier()?;
        }
        Ok(())
    }

    /// New blocks and a new table are counted themselves, which may take another block.
    fn plan(&self, counts: &RefcountTable) -> Result<Plan> {
        let per_block = counts.block_entries();
        let header = self.layer.header();
        let mut plan = Plan { blocks: Vec::new(), table_clusters: 0, end: self.next };
        loop {
            let last = per_block.index(plan.end.saturating_sub(1));
            let mut blocks = Vec::new();
            for block in per_block.index(self.first)..=last {
                let start = per_block.offset_of(block).unwrap_or(u64::MAX);
                if counts.block_offset(start)?.is_none() {
                    blocks.push(block);
                }
            }
            let size = last.saturating_add(1).saturating_mul(8);
            if size > MAX_REFCOUNT_TABLE_SIZE {
                let (what, limit) = ("refcount table", MAX_REFCOUNT_TABLE_SIZE);
                return Err(Qcow2Detail::TooLarge { what, size, limit }.into());
            }
            let table_clusters = match blocks.is_empty() {
                true => 0,
                false => self.cluster().count(size).max(header.refcount_table_clusters.into()),
            };
            let more = to_u64(blocks.len()).saturating_add(table_clusters);
            let end = self.next.saturating_add(more);
            let is_same = end == plan.end && blocks.len() == plan.blocks.len();
            plan = Plan { blocks, table_clusters, end };
            if is_same {
                self.offset(end)?;
                return Ok(plan);
            }
        }
    }

    /// Counts the new clusters in a block, once each.
    fn raise(&self, counts: &RefcountTable, block: u64, end: u64, bytes: &mut [u8]) {
        let per_block = counts.block_entries();
        let start = per_block.offset_of(block).unwrap_or(u64::MAX);
        let behind = start.saturating_add(per_block.size());
        for number in start.max(self.first)..behind.min(end) {
            let entry = number.saturating_sub(start);
            set_count_at(bytes, entry, self.layer.header().refcount_order, 1);
        }
    }

    /// The same in the blocks that there are.
    fn raise_stored(
        &self,
        counts: &RefcountTable,
        plan: &Plan,
        patch: &mut dyn Patch,
    ) -> Result<()> {
        let per_block = counts.block_entries();
        for block in per_block.index(self.first)..=per_block.index(plan.end.saturating_sub(1)) {
            let start = per_block.offset_of(block).unwrap_or(u64::MAX);
            let Some(offset) = counts.block_offset(start)? else { continue };
            let before = cut_off_read(self.layer, offset)?;
            let mut bytes = before.clone();
            self.raise(counts, block, plan.end, &mut bytes);
            write_changed(patch, offset, &before, &bytes, "count the clusters of what is new")?;
        }
        Ok(())
    }

    fn write_table(&self, plan: &Plan, cluster: u64, patch: &mut dyn Patch) -> Result<()> {
        let header = self.layer.header();
        let old = self.cluster().offset_of(header.refcount_table_clusters.into());
        let table = Table {
            from: header.refcount_table_offset,
            entries: old.unwrap_or_default().wrapping_shr(3),
            to: self.offset(cluster)?,
            clusters: plan.table_clusters,
            what: "write a new refcount table",
        };
        copy_table(self.layer, &table, patch, |index, old| {
            match plan.blocks.binary_search(&index) {
                Ok(position) => self.offset(self.next.saturating_add(to_u64(position))),
                Err(_) => Ok(old),
            }
        })
    }
}
