//! The counts as they are stored: the refcount table and its blocks.

use std::ops::Range;

use crate::error::{ErrorKind, Result};
use crate::finding::{Code, Finding};
use crate::num::{Pow2, to_usize};

use super::super::layout::{ENTRY_COPIED, REFCOUNT_BLOCK_OFFSET};
use super::super::refcount::{RefcountTable, count_at, largest, set_count_at};
use super::picture::{beyond_end, entries};
use super::survey::Survey;
use super::{REBUILT, Told};

/// A refcount block, by its entry of the refcount table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    /// There is none: all counts are zero.
    Absent,
    /// It lies here, and its cluster is counted as used by it unless its entry is odd.
    At { offset: u64, counted: bool },
    /// Its entry makes no sense: its counts are not known.
    Broken,
}

/// The stored counts of an image.
#[derive(Debug)]
pub(super) struct Stored<'a> {
    survey: &'a Survey<'a>,
    table: RefcountTable,
}

impl<'a> Stored<'a> {
    pub(super) fn new(survey: &'a Survey<'a>, table: RefcountTable) -> Self {
        Self { survey, table }
    }

    /// Whether there is a table; if not, no count is known.
    pub(super) fn is_there(&self) -> bool {
        self.survey.refcount_table
    }

    /// How many clusters a block counts.
    pub(super) fn block_entries(&self) -> Pow2 {
        self.table.block_entries()
    }

    /// The largest count that fits.
    pub(super) fn largest(&self) -> u64 {
        largest(self.survey.header.refcount_order)
    }

    /// Hands over every block that there is, by number, and tells which entries make no sense.
    pub(super) fn each_block(
        &self,
        told: Option<&Told<'_>>,
        mut visit: impl FnMut(u64, Block) -> Result<()>,
    ) -> Result<()> {
        if !self.is_there() {
            return Ok(());
        }
        let header = self.survey.header;
        let clusters = u64::from(header.refcount_table_clusters);
        let length = header.cluster.offset_of(clusters).unwrap_or_default();
        let table = header.refcount_table_offset;
        let count = length.wrapping_shr(3);
        self.survey.each_entries("refcount table", table, 0, count, |first, bytes| {
            for (index, value) in (first..).zip(entries(bytes)).filter(|&(_, value)| value != 0) {
                let at = table.saturating_add(index.saturating_mul(8));
                let (block, wrong) = self.block(value);
                if let (Some(told), Some(wrong)) = (told, wrong) {
                    let wrong = wrong.at(at).in_structure("refcount table entry");
                    told.corruption(wrong.fix(REBUILT));
                    told.broken_refcounts();
                }
                visit(index, block)?;
            }
            Ok(())
        })
    }

    fn block(&self, value: u64) -> (Block, Option<Finding>) {
        let (offset, cluster) = (value & REFCOUNT_BLOCK_OFFSET, self.survey.header.cluster);
        if value != offset {
            let text = format!("has reserved bits set: {value:#018x}");
            let block = match cluster.is_aligned(offset) {
                true if cluster.index(offset) < self.survey.clusters => {
                    Block::At { offset, counted: false }
                }
                _ => Block::Broken,
            };
            return (block, Some(Finding::new(Code::ReservedBits, text)));
        }
        if !cluster.is_aligned(offset) {
            let text = format!("names a refcount block at {offset:#x}, between two clusters");
            return (Block::Broken, Some(Finding::new(Code::Misaligned, text)));
        }
        if cluster.index(offset) >= self.survey.clusters {
            return (Block::Absent, Some(beyond_end("refcount block", offset, self.survey)));
        }
        (Block::At { offset, counted: true }, None)
    }

    /// Reads a block; where the file ends in it, zeros follow.
    pub(super) fn read_block(&self, offset: u64, buffer: &mut Vec<u8>) -> Result<()> {
        let storage = self.survey.storage;
        let size = self.survey.header.cluster.size();
        buffer.clear();
        buffer.resize(to_usize(size), 0);
        let length = to_usize(size.min(storage.size().saturating_sub(offset)));
        storage.read_exact_at(buffer.get_mut(..length).unwrap_or_default(), offset)
    }

    /// The clusters that block number `index` counts.
    pub(super) fn block_clusters(&self, index: u64) -> Range<u64> {
        let entries = self.block_entries().size();
        let first = index.saturating_mul(entries);
        first..first.saturating_add(entries)
    }

    /// Hands over all counts of the window that are not zero. Gives whether all are known: blocks
    /// that make no sense or cannot be read count nothing here, and whoever compares them tells.
    pub(super) fn each_count(
        &self,
        window: Range<u64>,
        mut visit: impl FnMut(u64, u64),
    ) -> Result<bool> {
        let mut bytes = Vec::new();
        let mut known = self.is_there();
        self.each_block(None, |index, block| {
            let clusters = self.block_clusters(index);
            if clusters.end <= window.start || clusters.start >= window.end {
                return Ok(());
            }
            let offset = match block {
                Block::At { offset, .. } => offset,
                Block::Absent => return Ok(()),
                Block::Broken => {
                    known = false;
                    return Ok(());
                }
            };
            match self.read_block(offset, &mut bytes) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                Err(_) => {
                    known = false;
                    return Ok(());
                }
            }
            let end = clusters.end.min(window.end);
            for cluster in clusters.start.max(window.start)..end {
                let entry = cluster.saturating_sub(clusters.start);
                match self.count(&bytes, entry) {
                    0 => {}
                    count => visit(cluster, count),
                }
            }
            Ok(())
        })?;
        Ok(known)
    }

    /// Entry number `index` of a block.
    pub(super) fn count(&self, block: &[u8], index: u64) -> u64 {
        count_at(block, index, self.survey.header.refcount_order)
    }

    /// Sets entry number `index` of a block; gives the byte that it starts in.
    pub(super) fn set_count(&self, block: &mut [u8], index: u64, count: u64) -> Range<usize> {
        set_count_at(block, index, self.survey.header.refcount_order, count)
    }

    /// Holds the flag COPIED of an entry for a cluster beyond the end of the file against its
    /// count, which may be stored all the same.
    pub(super) fn copied(
        &self,
        told: &Told<'_>,
        value: u64,
        offset: u64,
        at: u64,
        what: &'static str,
        first: bool,
    ) {
        if !self.is_there() {
            return;
        }
        let once = match self.table.get(self.survey.header.cluster.index(offset)) {
            Ok(count) => count == 1,
            Err(error) if error.kind() == ErrorKind::Io => return told.fail(error),
            Err(_) => false,
        };
        if first && once != (value & ENTRY_COPIED != 0) {
            told.copied(value, once, at, what);
        }
    }
}
