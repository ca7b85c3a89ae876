//! Whether a QED image is whole, by the section "Consistency checking" of the specification: each
//! cluster is referred to once, tables and clusters lie in the file.

use crate::check::Checking;
use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::format::whole::{Places, Sort, pieces};
use crate::storage::Storage;

use super::{QedLayer, ZERO_CLUSTER};

/// What the tables say, summed up.
struct Walk<'a> {
    layer: &'a QedLayer,
    checking: &'a Checking,
    misplaced: Sort<'a>,
    beyond: Sort<'a>,
    shared: Sort<'a>,
    places: Places,
    /// Where the last whole cluster of the file ends.
    end: u64,
    /// How many L2 tables can still be read in this round: no more than the file has room for,
    /// since one that is named a second time may lie outside of the window.
    tables_left: u64,
    first_round: bool,
    allocated: u64,
    fragmented: u64,
    previous: Option<u64>,
    image_end: u64,
}

pub(super) fn check(layer: &QedLayer, checking: &Checking) -> Result<()> {
    let (header, cluster) = (&layer.header, layer.header.cluster);
    let mut walk = Walk {
        layer,
        checking,
        misplaced: Sort::new(checking),
        beyond: Sort::new(checking),
        shared: Sort::new(checking),
        places: Places::new(cluster, 0, checking.memory()),
        end: cluster.floor(layer.storage.size()),
        tables_left: 0,
        first_round: true,
        allocated: 0,
        fragmented: 0,
        previous: None,
        image_end: header.header_end(),
    };
    checking.watcher().start(header.table_bytes());
    loop {
        walk.round()?;
        walk.first_round = false;
        if !walk.places.turn() {
            break;
        }
    }
    walk.places.tell_rest(checking);
    let wrong = [&walk.misplaced, &walk.beyond, &walk.shared].iter().any(|sort| sort.count() > 0);
    // beside damage, what looks lost may be what a damaged entry meant
    let lost = cluster.index(walk.end.saturating_sub(walk.places.taken()));
    if lost > 0 && !wrong {
        let text = format!("{lost} clusters of the file are in no table");
        checking.leak(lost, Finding::new(Code::LeakedCluster, text));
    }
    let mut report = checking.report();
    report.total_clusters = Some(cluster.count(header.image_size));
    report.allocated_clusters = Some(walk.allocated);
    report.fragmented_clusters = Some(walk.fragmented);
    report.compressed_clusters = Some(0);
    report.image_end_offset = Some(walk.image_end);
    Ok(())
}

impl Walk<'_> {
    /// Goes through all tables once.
    fn round(&mut self) -> Result<()> {
        let header = &self.layer.header;
        self.places.take(0, header.header_end());
        self.tables_left = self.end.checked_div(header.table_bytes()).unwrap_or_default();
        let start = header.l1_table_offset;
        self.take_table(start);
        // what lies behind the entries that the disk needs is not in use, but is in the tables
        let table = start..start.saturating_add(header.table_bytes());
        let layer = self.layer;
        let mut guest: u64 = 0;
        pieces(&layer.storage, "the L1 table", table, self.checking, |bytes, at| {
            for (entry, at) in bytes.as_chunks::<8>().0.iter().zip((at..).step_by(8)) {
                self.l1_entry(u64::from_le_bytes(*entry), at, guest)?;
                guest = guest.saturating_add(layer.header.span.size());
            }
            Ok(())
        })
    }

    fn take_table(&mut self, start: u64) -> bool {
        let length = self.layer.header.table_bytes();
        self.image_end = self.image_end.max(start.saturating_add(length));
        self.places.take(start, length)
    }

    fn l1_entry(&mut self, entry: u64, at: u64, guest: u64) -> Result<()> {
        let length = self.layer.header.table_bytes();
        if entry == 0 || !self.is_whole(entry, length, "L1 entry", at) {
            return Ok(());
        }
        if self.take_table(entry) || self.tables_left == 0 {
            self.shared.corruption(|| found(Code::Overlap, "L1 entry", entry, "is in use", at));
            // its entries were told, or are not entries
            return Ok(());
        }
        self.tables_left = self.tables_left.saturating_sub(1);
        let (layer, cluster) = (self.layer, self.layer.header.cluster.size());
        let table = entry..entry.saturating_add(length);
        let mut guest = guest;
        pieces(&layer.storage, "an L2 table", table, self.checking, |bytes, at| {
            for (entry, at) in bytes.as_chunks::<8>().0.iter().zip((at..).step_by(8)) {
                self.l2_entry(u64::from_le_bytes(*entry), at, guest);
                guest = guest.saturating_add(cluster);
            }
            Ok(())
        })
    }

    fn l2_entry(&mut self, entry: u64, at: u64, guest: u64) {
        let cluster = self.layer.header.cluster.size();
        if entry == 0 || entry == ZERO_CLUSTER {
            return;
        }
        if guest < self.layer.header.image_size && self.first_round {
            self.allocated = self.allocated.saturating_add(1);
            let follows =
                self.previous.is_none_or(|before| before.checked_add(cluster) == Some(entry));
            self.fragmented = self.fragmented.saturating_add(u64::from(!follows));
            self.previous = Some(entry);
        }
        if !self.is_whole(entry, cluster, "L2 entry", at) {
            return;
        }
        self.image_end = self.image_end.max(entry.saturating_add(cluster));
        if self.places.take(entry, cluster) {
            self.shared.corruption(|| found(Code::Overlap, "L2 entry", entry, "is in use", at));
        }
    }

    /// Whether what an entry leads to lies in the file; says so if not.
    fn is_whole(&mut self, entry: u64, length: u64, name: &'static str, at: u64) -> bool {
        let (code, text, sort) = if !self.layer.is_place(entry) {
            (Code::Misaligned, "is no cluster behind the header", &mut self.misplaced)
        } else if entry.checked_add(length).is_none_or(|end| end > self.end) {
            (Code::BeyondEnd, "reaches beyond the end of the file", &mut self.beyond)
        } else {
            return true;
        };
        if self.first_round {
            sort.corruption(|| found(code, name, entry, text, at));
        }
        false
    }
}

fn found(code: Code, name: &'static str, entry: u64, text: &str, at: u64) -> Finding {
    Finding::new(code, format!("{name}: {entry:#x} {text}")).at(at).in_structure(name)
}
