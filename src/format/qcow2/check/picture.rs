//! Who refers to which host cluster: the counts as they should be, for a window of the file.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use byteorder::{BigEndian, ByteOrder};

use crate::check::Checking;
use crate::error::{ErrorKind, Result};
use crate::finding::{Code, Finding};
use crate::num::{to_u64, to_usize};

use super::super::layout::*;
use super::count::{Bits, Counters, Width};
use super::scan::{Figures, Scan, Table};
use super::stored::{Block, Stored};
use super::survey::{Piece, Survey};
use super::{CHUNK, Told};

/// How many L1 entries are looked at together, so that tables that several snapshots share are
/// read once.
const BATCH: usize = 64 << 10;
/// How many L1 tables are looked at side by side.
const SIDE_BY_SIDE: usize = 512;

/// The references to some host clusters.
#[derive(Debug)]
pub(super) struct Picture {
    /// The host clusters that it shows.
    pub(super) window: Range<u64>,
    counters: Counters,
    /// Whether the stored count is 1; later whether it is going to be.
    pub(super) once: Bits,
    /// Whether all stored counts are known.
    pub(super) known: bool,
    /// Two bits for each cluster: L2 table, other metadata, or both where things overlap.
    tables: Bits,
    metadata: Bits,
    /// The first cluster behind the window that something refers to.
    pub(super) next: AtomicU64,
}

/// How a picture is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) width: Width,
    /// Whether the refcount table and its blocks are in it.
    pub(super) refcounts: bool,
    /// Whether this is the first window: what is found about no cluster in particular is told.
    pub(super) first: bool,
}

/// An L2 table, and how often it is referred to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uses {
    pub(super) table: u64,
    /// By how many L1 entries, each counted as often as its table is used.
    pub(super) all: u64,
    /// By how many of the active L1 table.
    pub(super) active: u64,
    /// The number of such an L1 entry.
    pub(super) index: u64,
}

impl Picture {
    fn new(window: Range<u64>, width: Width, most: usize) -> Self {
        let clusters = window.end.saturating_sub(window.start);
        Self {
            counters: Counters::new(clusters, width, most),
            once: Bits::new(clusters),
            known: true,
            tables: Bits::new(clusters),
            metadata: Bits::new(clusters),
            next: AtomicU64::new(u64::MAX),
            window,
        }
    }

    /// How many bits a cluster takes.
    pub(super) const fn bits(width: Width) -> u64 {
        width.bits().wrapping_add(3)
    }

    /// The part of `clusters` that lies in the window, counted from its start.
    pub(super) fn part(&self, clusters: Range<u64>) -> Range<u64> {
        if clusters.end > self.window.end {
            self.next.fetch_min(clusters.start.max(self.window.end), Relaxed);
        }
        let start = clusters.start.clamp(self.window.start, self.window.end);
        let end = clusters.end.clamp(start, self.window.end);
        let first = self.window.start;
        start.saturating_sub(first)..end.saturating_sub(first)
    }

    /// How many references there are to host cluster number `index`.
    pub(super) fn count(&self, index: u64) -> u64 {
        if !self.window.contains(&index) {
            return 0;
        }
        self.counters.get(index.saturating_sub(self.window.start))
    }

    /// The first cluster from `index` on, below `end`, that may be referred to.
    pub(super) fn next_used(&self, index: u64, end: u64) -> u64 {
        let start = self.window.start;
        let found = self.counters.next_used(index.saturating_sub(start), end.saturating_sub(start));
        found.saturating_add(start)
    }

    /// Whether things of different kinds lie in this cluster.
    pub(super) fn overlaps(&self, index: u64) -> bool {
        let index = index.saturating_sub(self.window.start);
        self.tables.get(index) && self.metadata.get(index)
    }

    /// References from L2 entries to guest data.
    pub(super) fn data(&self, clusters: Range<u64>, weight: u64) {
        let part = self.part(clusters);
        let count = part.end.saturating_sub(part.start);
        self.counters.add_run(part.start, count, weight);
        let (start, end) = (part.start, part.end);
        let is_free = |bits: &Bits| bits.find(start, end, true) == end;
        if !is_free(&self.tables) || !is_free(&self.metadata) {
            for index in part {
                if self.tables.get(index) || self.metadata.get(index) {
                    self.tables.set(index);
                    self.metadata.set(index);
                }
            }
        }
    }

    /// References to structures that each cluster can hold only one of.
    fn metadata(&self, clusters: Range<u64>) {
        for index in self.part(clusters) {
            self.counters.add(index, 1);
            if self.metadata.set(index) {
                self.tables.set(index);
            }
        }
    }

    fn table(&self, cluster: u64, weight: u64) {
        for index in self.part(cluster..cluster.saturating_add(1)) {
            self.counters.add(index, weight);
            self.tables.set(index);
        }
    }
}

/// Takes pictures of one image.
#[derive(Debug)]
pub(super) struct Camera<'a> {
    pub(super) survey: &'a Survey<'a>,
    pub(super) stored: &'a Stored<'a>,
    pub(super) told: &'a Told<'a>,
    pub(super) checking: &'a Checking,
    pub(super) figures: Figures,
}

impl Camera<'_> {
    /// The picture of a window; `None` if too many clusters are shared for this width.
    pub(super) fn take(&self, window: Range<u64>, frame: Frame) -> Result<Option<Picture>> {
        let most = self.checking.memory().wrapping_shr(2).checked_div(40).unwrap_or_default();
        let mut picture = Picture::new(window, frame.width, to_usize(most));
        self.metadata(&picture, frame)?;
        self.l2_tables_themselves(&picture, frame)?;
        picture.known = self.stored_once(&picture)?;
        self.l2_tables(&picture, frame)?;
        Ok((!picture.counters.is_full()).then_some(picture))
    }

    fn report(&self, frame: Frame, finding: impl FnOnce() -> Finding) {
        if frame.first {
            self.told.corruption(finding());
        }
    }

    /// Clusters of a range, as far as the file has them.
    fn clusters(&self, offset: u64, length: u64) -> (Range<u64>, bool) {
        let cluster = self.survey.header.cluster;
        let end = offset.saturating_add(length);
        let clusters = cluster.index(offset)..cluster.count(end);
        (clusters.clone(), clusters.end <= self.survey.clusters)
    }

    fn piece(&self, picture: &Picture, frame: Frame, piece: &Piece) {
        let (clusters, inside) = self.clusters(piece.offset, piece.length);
        if inside {
            picture.metadata(clusters);
        } else {
            self.report(frame, || {
                beyond_end(piece.what, piece.offset, self.survey).at(piece.named_at)
            });
        }
    }

    fn metadata(&self, picture: &Picture, frame: Frame) -> Result<()> {
        let survey = self.survey;
        for piece in &survey.pieces {
            if frame.refcounts || piece.what != "refcount table" {
                self.piece(picture, frame, piece);
            }
        }
        for table in &survey.bitmap_tables {
            let what = "bitmap table";
            let read = survey.each_entries(what, table.offset, 0, table.entries, |first, bytes| {
                self.checking.watcher().check()?;
                for (index, value) in (first..).zip(entries(bytes)) {
                    let at = table.offset.saturating_add(index.saturating_mul(8));
                    self.bitmap_entry(picture, frame, value, at);
                }
                Ok(())
            });
            self.read(read, what, table.offset, frame)?;
        }
        if frame.refcounts {
            let told = frame.first.then_some(self.told);
            self.stored.each_block(told, |_, block| {
                if let Block::At { offset, counted: true } = block {
                    picture.metadata(self.clusters(offset, survey.header.cluster.size()).0);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn bitmap_entry(&self, picture: &Picture, frame: Frame, value: u64, at: u64) {
        let (offset, survey) = (value & ENTRY_OFFSET, self.survey);
        let what = "bitmap table entry";
        // bit 0 says what all bits of the cluster are, and has a meaning only where there is none
        let reserved = if offset == 0 { !1 } else { !ENTRY_OFFSET };
        if value & reserved != 0 || !survey.header.cluster.is_aligned(offset) {
            self.report(frame, || {
                let text = format!("says {value:#018x}, which no such entry can");
                Finding::new(Code::BitmapsInconsistent, text).at(at).in_structure(what)
            });
        } else if offset != 0 {
            let length = survey.header.cluster.size();
            let piece = Piece { what: "cluster of a bitmap", offset, length, named_at: at };
            self.piece(picture, frame, &piece);
        }
    }

    /// What is to be done about a table that could not be read: that the file ends before it is told,
    /// and the rest goes on. A medium that fails may do so at any of the passes over a table, and
    /// what is missed then would look like leaks.
    fn read(&self, read: Result<()>, what: &'static str, at: u64, frame: Frame) -> Result<()> {
        match read {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                if frame.first {
                    self.told.unreadable(&error, what, at);
                }
                Ok(())
            }
            other => other,
        }
    }

    /// Counts what L1 entries refer to.
    fn l2_tables_themselves(&self, picture: &Picture, frame: Frame) -> Result<()> {
        let cluster = self.survey.header.cluster;
        let mut total: u64 = 0;
        for l1 in &self.survey.l1_tables {
            let what = "L1 table";
            let visit = |first: u64, bytes: &[u8]| {
                self.checking.watcher().check()?;
                for (index, value) in (first..).zip(entries(bytes)) {
                    if value == 0 {
                        continue;
                    }
                    let at = l1.offset.saturating_add(index.saturating_mul(8));
                    self.l1_entry(value, at, l1.active, frame);
                    let offset = value & ENTRY_OFFSET;
                    let inside = cluster.index(offset) < self.survey.clusters;
                    if offset != 0 && cluster.is_aligned(offset) && inside {
                        picture.table(cluster.index(offset), l1.uses);
                        total = total.saturating_add(cluster.size());
                    }
                }
                Ok(())
            };
            let read = self.survey.each_entries(what, l1.offset, 0, l1.entries, visit);
            self.read(read, what, l1.offset, frame)?;
        }
        if frame.first {
            self.checking.watcher().start(total);
        }
        Ok(())
    }

    /// Tells what is wrong with an L1 entry that is not zero, but for its flag.
    fn l1_entry(&self, value: u64, at: u64, active: bool, frame: Frame) {
        let (offset, survey) = (value & ENTRY_OFFSET, self.survey);
        let found = |code, text: String| {
            self.report(frame, || Finding::new(code, text).at(at).in_structure("L1 entry"));
        };
        if value & !(ENTRY_OFFSET | ENTRY_COPIED) != 0 {
            found(Code::ReservedBits, format!("has reserved bits set: {value:#018x}"));
        }
        if offset == 0 && value & ENTRY_COPIED != 0 {
            found(Code::InvalidEntry, "has the flag COPIED, but no L2 table".to_owned());
        } else if !survey.header.cluster.is_aligned(offset) {
            let text = format!("names an L2 table at {offset:#x}, between two clusters");
            found(Code::Misaligned, text);
        } else if survey.header.cluster.index(offset) >= survey.clusters {
            self.report(frame, || {
                beyond_end("L2 table", offset, survey).at(at).in_structure("L1 entry")
            });
            if active && value & ENTRY_COPIED != 0 {
                self.stored.copied(self.told, value, offset, at, "L1 entry", frame.first);
            }
        }
    }

    /// Notes which clusters are counted once.
    fn stored_once(&self, picture: &Picture) -> Result<bool> {
        self.stored.each_count(picture.window.clone(), |index, count| {
            if count == 1 {
                picture.once.set(index.saturating_sub(picture.window.start));
            }
        })
    }

    /// Reads all L2 tables, each once where possible.
    fn l2_tables(&self, picture: &Picture, frame: Frame) -> Result<()> {
        for tables in self.survey.l1_tables.chunks(SIDE_BY_SIDE) {
            let longest = tables.iter().map(|table| table.entries).max().unwrap_or_default();
            let step = BATCH.checked_div(tables.len()).unwrap_or(BATCH).max(1);
            let mut first = 0;
            while first < longest {
                let end = first.saturating_add(to_u64(step)).min(longest);
                let mut batch = Vec::new();
                for l1 in tables.iter().filter(|l1| l1.entries > first) {
                    let count = l1.entries.min(end).saturating_sub(first);
                    let read = self.survey.each_entries(
                        "L1 table",
                        l1.offset,
                        first,
                        count,
                        |number, bytes| {
                            for (index, value) in (number..).zip(entries(bytes)) {
                                self.batch_entry(picture, &mut batch, l1, index, value);
                            }
                            Ok(())
                        },
                    );
                    // what cannot be read was told before
                    self.read(read, "L1 table", l1.offset, Frame { first: false, ..frame })?;
                }
                self.scan(picture, frame, merged(batch))?;
                first = end;
            }
        }
        Ok(())
    }

    fn batch_entry(
        &self,
        picture: &Picture,
        batch: &mut Vec<Uses>,
        l1: &super::survey::L1Table,
        index: u64,
        value: u64,
    ) {
        let (offset, cluster) = (value & ENTRY_OFFSET, self.survey.header.cluster);
        let number = cluster.index(offset);
        if offset == 0 || !cluster.is_aligned(offset) || number >= self.survey.clusters {
            return;
        }
        let active = if l1.active { l1.uses } else { 0 };
        batch.push(Uses { table: offset, all: l1.uses, active, index });
        let part = picture.part(number..number.saturating_add(1));
        if l1.active && picture.known && !part.is_empty() {
            let once = picture.once.get(part.start);
            if once != (value & ENTRY_COPIED != 0) {
                let at = l1.offset.saturating_add(index.saturating_mul(8));
                self.told.copied(value, once, at, "L1 entry");
            }
        }
    }

    /// Scans L2 tables, whose offsets ascend, on all threads.
    fn scan(&self, picture: &Picture, frame: Frame, tables: Vec<Uses>) -> Result<()> {
        let cluster = to_usize(self.survey.header.cluster.size());
        let per_read = CHUNK.checked_div(cluster).unwrap_or(1).max(1);
        // neighbours are read at once
        let reads: Vec<&[Uses]> = tables
            .chunk_by(|a, b| a.table.saturating_add(self.survey.header.cluster.size()) == b.table)
            .flat_map(|run| run.chunks(per_read))
            .collect();
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(None);
        let work = || {
            let mut buffer = Vec::new();
            while let Some(run) = reads.get(next.fetch_add(1, Relaxed)) {
                if let Err(error) = self.scan_run(picture, frame, run, &mut buffer) {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    next.store(reads.len(), Relaxed);
                }
            }
        };
        let threads = self.checking.thread_count().get().min(reads.len().div_ceil(16));
        if threads > 1 {
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(work);
                }
            });
        } else {
            work();
        }
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn scan_run(
        &self,
        picture: &Picture,
        frame: Frame,
        run: &[Uses],
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        self.checking.watcher().check()?;
        let Some(first) = run.first() else { return Ok(()) };
        let storage = self.survey.storage;
        let size = self.survey.header.cluster.size();
        let wanted = to_u64(run.len()).saturating_mul(size);
        // the last table of a file may be cut off in the middle, which is to be told
        let length = wanted.min(storage.size().saturating_sub(first.table));
        if length < wanted {
            let what = "L2 table";
            let found = beyond_end(what, storage.size(), self.survey).at(first.table);
            self.report(frame, || found.in_structure(what));
        }
        if to_u64(buffer.len()) < length {
            buffer.resize(to_usize(length), 0);
        }
        let bytes = buffer.get_mut(..to_usize(length)).unwrap_or_default();
        let is_hole =
            storage.run_at(first.table, length).is_ok_and(|r| r.hole && r.length >= length);
        if !is_hole {
            let read = storage.read_exact_at(bytes, first.table);
            if read.is_err() {
                return self.read(read, "L2 table", first.table, frame);
            }
            let told = (self.told, frame.first);
            let scan = Scan { survey: self.survey, stored: self.stored, picture, told };
            for (uses, bytes) in run.iter().zip(bytes.chunks(to_usize(size))) {
                let figures = scan.table(&Table { bytes, uses: *uses });
                if frame.first {
                    self.figures.add(&figures, uses.active);
                }
            }
        }
        self.checking.watcher().advance(if frame.first { length } else { 0 });
        Ok(())
    }
}

/// The big-endian numbers of a table.
pub(super) fn entries(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.as_chunks::<8>().0.iter().map(|entry| BigEndian::read_u64(entry))
}

/// Sorts references by table, one for each.
fn merged(mut batch: Vec<Uses>) -> Vec<Uses> {
    batch.sort_unstable_by_key(|uses| (uses.table, uses.active == 0, uses.index));
    batch.dedup_by(|next, kept| {
        let same = next.table == kept.table;
        if same {
            kept.all = kept.all.saturating_add(next.all);
            kept.active = kept.active.saturating_add(next.active);
        }
        same
    });
    batch
}

/// The finding that a structure lies beyond the end of the file.
pub(super) fn beyond_end(what: &str, offset: u64, survey: &Survey<'_>) -> Finding {
    let size = survey.storage.size();
    let text = format!("the {what} at {offset:#x} reaches beyond the end of the file at {size:#x}");
    Finding::new(Code::BeyondEnd, text)
}
