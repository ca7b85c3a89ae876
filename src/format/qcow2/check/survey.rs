//! What an image consists of besides its guest data: the list of its structures.

use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, read_vec};

use super::super::Qcow2Layer;
use super::super::bitmap::Bitmap;
use super::super::header::Header;
use super::super::layout::*;
use super::{CHUNK, REBUILT, Told};

/// Clusters that one structure takes up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) what: &'static str,
    pub(super) offset: u64,
    pub(super) length: u64,
    /// Where it is named.
    pub(super) named_at: u64,
}

/// An L1 table: the active one, or that of one or more snapshots.
#[derive(Debug, Clone, Copy)]
pub(super) struct L1Table {
    pub(super) offset: u64,
    pub(super) entries: u64,
    pub(super) active: bool,
    /// How many times it is referred to.
    pub(super) uses: u64,
}

/// The table of a bitmap.
#[derive(Debug, Clone, Copy)]
pub(super) struct BitmapTable {
    pub(super) offset: u64,
    pub(super) entries: u64,
}

/// The structures of an image, as its header and directories name them.
#[derive(Debug)]
pub(super) struct Survey<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) header: &'a Header,
    /// Host clusters, the last of which may be cut off.
    pub(super) clusters: u64,
    pub(super) pieces: Vec<Piece>,
    /// The active L1 table first.
    pub(super) l1_tables: Vec<L1Table>,
    pub(super) bitmap_tables: Vec<BitmapTable>,
    /// Whether the header names a refcount table that can be one.
    pub(super) refcount_table: bool,
}

/// Bound on all L1 tables together, or all tables of bitmaps, bytes: what no real image comes near.
const MAX_TABLES: u64 = 1 << 30;

impl<'a> Survey<'a> {
    /// Lists the structures; what makes no sense is told and left out.
    pub(super) fn new(layer: &'a Qcow2Layer, told: &Told<'_>) -> Self {
        let (storage, header) = (layer.storage(), layer.header());
        let mut survey = Self {
            storage,
            header,
            clusters: header.cluster.count(storage.size()),
            pieces: Vec::new(),
            l1_tables: Vec::new(),
            bitmap_tables: Vec::new(),
            refcount_table: header.check_refcount_table(storage).is_ok(),
        };
        for fault in layer.faults() {
            if fault.structure.as_deref() == Some("header") {
                told.broken_refcounts();
                told.corruption(fault.clone().fix(REBUILT));
            } else {
                told.corruption(fault.clone());
            }
        }
        survey.piece("header", 0, header.cluster.size(), 0);
        survey.l1_tables(layer, told);
        survey.snapshot_table(layer);
        if let Some((offset, length)) = header.extensions.crypto {
            survey.aligned_piece("encryption header", offset, length, 0, told);
        }
        survey.bitmaps(layer, told);
        if survey.refcount_table {
            let table = u64::from(header.refcount_table_clusters);
            let length = header.cluster.offset_of(table).unwrap_or(u64::MAX);
            survey.piece("refcount table", header.refcount_table_offset, length, 48);
        }
        survey
    }

    fn piece(&mut self, what: &'static str, offset: u64, length: u64, named_at: u64) {
        if length > 0 {
            self.pieces.push(Piece { what, offset, length, named_at });
        }
    }

    /// A structure that may be misplaced; gives whether it is not.
    fn aligned_piece(
        &mut self,
        what: &'static str,
        offset: u64,
        length: u64,
        named_at: u64,
        told: &Told<'_>,
    ) -> bool {
        let cluster = self.header.cluster;
        if !cluster.is_aligned(offset) {
            let text = format!("the {what} lies at {offset:#x}, which is not at a cluster's start");
            told.corruption(Finding::new(Code::Misaligned, text).at(named_at).in_structure(what));
            return false;
        }
        self.piece(what, offset, length, named_at);
        // the last cluster may be cut off
        let end = cluster.offset_of(self.clusters).unwrap_or(u64::MAX);
        offset.checked_add(length).is_some_and(|behind| behind <= end)
    }

    fn l1_tables(&mut self, layer: &Qcow2Layer, told: &Told<'_>) {
        let active = (self.header.l1_table_offset, u64::from(self.header.l1_size));
        self.piece("L1 table", active.0, active.1.saturating_mul(8), 40);
        let mut tables =
            vec![L1Table { offset: active.0, entries: active.1, active: true, uses: 1 }];
        let mut total = active.1.saturating_mul(8);
        for snapshot in layer.snapshots() {
            let (offset, entries) = (snapshot.l1_table_offset, u64::from(snapshot.l1_size));
            let length = entries.saturating_mul(8);
            let what = "L1 table of a snapshot";
            let wrong = |text: String| {
                let finding = Finding::new(Code::InvalidEntry, text).at(snapshot.offset);
                told.corruption(finding.in_structure("snapshot table"));
            };
            let needed = self.header.l2_span().count(snapshot.description.virtual_size);
            if snapshot.incomplete {
                wrong("an entry lacks the disk size, which version 3 must have".to_owned());
            }
            if length > MAX_L1_TABLE_SIZE || total.saturating_add(length) > MAX_TABLES {
                wrong(format!("the {what} has {entries} entries, which is more than is read"));
                continue;
            } else if entries < needed && !snapshot.incomplete {
                wrong(format!("the {what} has {entries} entries, its disk needs {needed}"));
            }
            total = total.saturating_add(length);
            if self.aligned_piece(what, offset, length, snapshot.offset, told) {
                tables.push(L1Table { offset, entries, active: false, uses: 1 });
            }
        }
        // the same table named twice is one that is used twice; tables that overlap are not followed
        if let Some(snapshots) = tables.get_mut(1..) {
            snapshots.sort_unstable_by_key(|table| (table.offset, table.entries));
        }
        let mut end = 0;
        for table in tables {
            match self.l1_tables.last_mut() {
                Some(last)
                    if !last.active
                        && (last.offset, last.entries) == (table.offset, table.entries) =>
                {
                    last.uses = last.uses.saturating_add(1);
                }
                Some(last) if !last.active && table.offset < end => told.doubt(),
                _ => {
                    end = table.offset.saturating_add(table.entries.saturating_mul(8));
                    self.l1_tables.push(table);
                }
            }
        }
    }

    fn snapshot_table(&mut self, layer: &Qcow2Layer) {
        if let Some(last) = layer.snapshots().last() {
            let start = self.header.snapshots_offset;
            self.piece("snapshot table", start, last.end.saturating_sub(start), 64);
        }
    }

    fn bitmaps(&mut self, layer: &Qcow2Layer, told: &Told<'_>) {
        let Some(extension) = self.header.extensions.bitmaps else { return };
        if self.header.autoclear_features & AUTOCLEAR_BITMAPS == 0 || extension.nb_bitmaps == 0 {
            return;
        }
        // a directory that is not there was told as a fault
        let at = Some(extension.offset);
        if layer.faults().iter().any(|fault| fault.offset == at) {
            return;
        }
        let (start, length) = (extension.directory_offset, extension.directory_size);
        self.aligned_piece("bitmap directory", start, length, extension.offset, told);
        let mut tables = Vec::new();
        let mut total: u64 = 0;
        for bitmap in layer.bitmaps() {
            let entries = u64::from(bitmap.table_size);
            let length = entries.saturating_mul(8);
            let inside =
                self.aligned_piece("bitmap table", bitmap.table_offset, length, start, told);
            total = total.saturating_add(length);
            self.bitmap(bitmap, told);
            if inside && entries > 0 && total <= MAX_TABLES {
                tables.push(BitmapTable { offset: bitmap.table_offset, entries });
            } else if entries > 0 {
                told.doubt();
            }
        }
        // tables that lie on each other are told by their counts, and read once
        tables.sort_unstable_by_key(|table| table.offset);
        let mut end = 0;
        for table in tables {
            if table.offset < end {
                told.doubt();
                continue;
            }
            end = table.offset.saturating_add(table.entries.saturating_mul(8));
            self.bitmap_tables.push(table);
        }
    }

    /// Holds a directory entry against the specification and the size of the disk.
    fn bitmap(&self, bitmap: &Bitmap, told: &Told<'_>) {
        let wrong = |text: String| {
            let finding = Finding::new(Code::BitmapsInconsistent, text).at(bitmap.offset);
            told.corruption(finding.in_structure("bitmap directory"));
        };
        if bitmap.reserved {
            wrong("a bitmap has a type or flags that are reserved".to_owned());
        }
        let bytes = self.header.size.div_ceil(bitmap.granularity.max(1)).div_ceil(8);
        let (entries, needed) = (u64::from(bitmap.table_size), self.header.cluster.count(bytes));
        // one that was not saved may speak of a disk of another size
        if entries != needed && !bitmap.flags.in_use {
            wrong(format!("a bitmap table has {entries} entries, the disk needs {needed}"));
        }
    }

    /// Hands over the entries of a table of 8-byte entries, from number `first` on and `count` of
    /// them, in pieces: the number of the first, and the bytes. Holes of the file are left out.
    pub(super) fn each_entries(
        &self,
        what: &'static str,
        table: u64,
        first: u64,
        count: u64,
        mut visit: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let start = table.saturating_add(first.saturating_mul(8));
        let end = start.saturating_add(count.saturating_mul(8));
        let mut at = start;
        while at < end {
            let rest = end.saturating_sub(at);
            let run = self.storage.run_at(at, rest)?;
            if run.hole {
                // an entry that lies half in the hole is read
                let skip = run.length.saturating_sub(run.length & 7);
                if skip > 0 {
                    at = at.saturating_add(skip);
                    continue;
                }
            }
            let length = rest.min(to_u64(CHUNK));
            let bytes = read_vec(self.storage, what, at, to_usize(length))?;
            visit(at.saturating_sub(table).wrapping_shr(3), &bytes)?;
            at = at.saturating_add(length);
        }
        Ok(())
    }
}
