//! Two levels of tables of 64-bit entries that map a disk, as QCOW version 1 and QED have them.

use std::ops::Range;

use crate::error::Result;
use crate::layer::{Mapping, MappingKind};
use crate::num::{Pow2, to_usize};
use crate::storage::{TableCache, TablePage};

/// What the entries mean.
pub(super) trait Entries {
    /// Where the L2 table lies that an L1 entry names, if it names one.
    fn table(&self, entry: u64) -> Result<Option<u64>>;

    /// What an L2 entry makes of its cluster, from the cluster's start on. 0 is the answer for
    /// clusters without an L2 table.
    fn cluster(&self, entry: u64) -> Result<MappingKind>;
}

/// The tables.
#[derive(Debug)]
pub(super) struct TwoLevel {
    /// The size of a cluster, bytes.
    pub(super) cluster: Pow2,
    /// The bytes of the disk that one L2 table maps.
    pub(super) span: Pow2,
    /// The size of the disk, bytes.
    pub(super) size: u64,
    /// Where the L1 table lies.
    pub(super) l1_offset: u64,
    /// The byte order of the entries.
    pub(super) number: fn(&[u8]) -> u64,
    pub(super) cache: TableCache,
}

impl TwoLevel {
    /// The bytes of the L1 table that the disk needs.
    pub(super) fn l1(&self) -> Range<u64> {
        let length = self.span.count(self.size).saturating_mul(8);
        self.l1_offset..self.l1_offset.saturating_add(length)
    }

    /// The bytes of an L2 table.
    pub(super) fn l2_size(&self) -> u64 {
        self.cluster.index(self.span.size()).saturating_mul(8)
    }

    /// See [`Layer::map`](crate::Layer::map).
    pub(super) fn map(&self, offset: u64, max: u64, entries: &impl Entries) -> Result<Mapping> {
        let max = max.min(self.size.saturating_sub(offset));
        let (table, run) = self.table(offset, max, entries)?;
        let Some(table) = table else {
            return Ok(Mapping { length: run.min(max), kind: entries.cluster(0)? });
        };
        let (cluster, guest) = (self.cluster, self.guest(self.cluster, offset));
        let (page, from) = self.l2_page(table, offset)?;
        let mut numbers = self.numbers(&page, from);
        let at = page.file_offset.saturating_add(from);
        let first = entries.cluster(numbers.next().unwrap_or_default());
        let first = first.map_err(|error| error.at(at).affecting(guest))?;
        let rest = numbers.map(|entry| entries.cluster(entry));
        Ok(Mapping::joined(first, cluster.size(), cluster.within(offset), max, rest))
    }

    /// The L2 entry for `offset`, and where it lies; `None` where there is no L2 table.
    pub(super) fn entry(&self, offset: u64, entries: &impl Entries) -> Result<Option<(u64, u64)>> {
        let (Some(table), _) = self.table(offset, 1, entries)? else { return Ok(None) };
        let (page, from) = self.l2_page(table, offset)?;
        let entry = self.numbers(&page, from).next();
        Ok(entry.map(|entry| (entry, page.file_offset.saturating_add(from))))
    }

    /// The L2 table for `offset`; and where there is none, how many bytes from `offset` on have
    /// none either, as far as one page of the L1 table tells and `max` needs.
    fn table(&self, offset: u64, max: u64, entries: &impl Entries) -> Result<(Option<u64>, u64)> {
        let (span, l1, guest) = (self.span, self.l1(), self.guest(self.span, offset));
        let position = span.index(offset).saturating_mul(8);
        let page = self
            .cache
            .page("the L1 table", l1.start, l1.end.saturating_sub(l1.start), position)
            .map_err(|error| error.affecting(guest.clone()))?;
        let from = position.saturating_sub(page.start);
        let at = page.file_offset.saturating_add(from);
        let mut numbers = self.numbers(&page, from);
        let table = entries
            .table(numbers.next().unwrap_or_default())
            .map_err(|error| error.at(at).affecting(guest))?;
        let mut run = span.rest(offset);
        while table.is_none() && run < max {
            // what a later entry says is found out when it is its turn
            let Some(Ok(None)) = numbers.next().map(|entry| entries.table(entry)) else { break };
            run = run.saturating_add(span.size());
        }
        Ok((table, run))
    }

    /// The page of an L2 table that holds the entry for `offset`, and where in it that lies.
    fn l2_page(&self, table: u64, offset: u64) -> Result<(TablePage, u64)> {
        let position = self.cluster.index(self.span.within(offset)).saturating_mul(8);
        let page = self
            .cache
            .page("an L2 table", table, self.l2_size(), position)
            .map_err(|error| error.affecting(self.guest(self.span, offset)))?;
        let from = position.saturating_sub(page.start);
        Ok((page, from))
    }

    fn numbers<'a>(&self, page: &'a TablePage, from: u64) -> impl Iterator<Item = u64> + 'a {
        let number = self.number;
        let (entries, _) = page.bytes.get(to_usize(from)..).unwrap_or_default().as_chunks::<8>();
        entries.iter().map(move |entry| number(entry))
    }

    /// The part of the disk in the unit that `offset` lies in.
    fn guest(&self, unit: Pow2, offset: u64) -> Range<u64> {
        let start = unit.floor(offset);
        start..start.saturating_add(unit.size()).min(self.size)
    }
}
