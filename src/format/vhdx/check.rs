//! Whether an image is whole: its redundant structures, its log, and its block allocation table
//! held against the file and against itself.

use std::ops::Range;

use crate::bytes::is_zero;
use crate::check::Checking;
use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::format::whole::{Places, Sort, note_unused, pieces};
use crate::layer::Layer;
use crate::num::{Pow2, to_u64};
use crate::storage::Storage;

use super::bat::BatEntry;
use super::layer::VhdxLayer;
use super::layout::*;
use super::log::LogState;

pub(super) fn check(layer: &VhdxLayer, checking: &Checking) -> Result<()> {
    check_copies(layer, checking);
    let file = layer.file();
    let bat = layer.bat();
    let mut walk = Walk {
        layer,
        checking,
        invalid: Sort::new(checking),
        beyond: Sort::new(checking),
        shared: Sort::new(checking),
        places: Places::new(Pow2::from_size(MIB).unwrap_or(Pow2::PAGE), 0, checking.memory()),
        first_round: true,
        allocated: 0,
        fragmented: 0,
        expected: None,
        bitmap: None,
        end: layer.regions().end(),
    };
    let table = bat.table();
    checking.watcher().start(table.end.saturating_sub(table.start));
    loop {
        walk.table(&*file, table.clone())?;
        walk.first_round = false;
        if !walk.places.turn() {
            break;
        }
    }
    walk.places.tell_rest(checking);
    let damaged = [&walk.invalid, &walk.beyond, &walk.shared].iter().any(|sort| sort.count() > 0);
    if !damaged {
        let taken = walk.places.taken().saturating_add(layer.regions().reserved_length());
        note_unused(checking, bat.file_size().saturating_sub(taken));
    }
    let mut report = checking.report();
    report.total_clusters = Some(bat.blocks());
    report.allocated_clusters = Some(walk.allocated);
    report.fragmented_clusters = Some(walk.fragmented);
    report.compressed_clusters = Some(0);
    report.image_end_offset = Some(walk.end);
    Ok(())
}

/// Tells of headers, region tables and the log.
fn check_copies(layer: &VhdxLayer, checking: &Checking) {
    let (headers, regions) = (layer.headers(), layer.regions());
    for (name, damaged) in [("header", headers.damaged), ("region table", regions.damaged)] {
        if let Some(offset) = damaged {
            let text = format!("one of the two {name}s is damaged; the other one is in use");
            let found =
                Finding::new(Code::RedundantCopyDamaged, text).at(offset).in_structure(name);
            checking.corruption(found.fix("--repair all restores it from the other one"));
        }
    }
    if regions.contradicts {
        let text = "the two region tables are both intact, but differ; the first one is used";
        let [_, second] = REGION_TABLE_OFFSETS;
        let found = Finding::new(Code::CheckError, text).at(second);
        checking.corruption(found.in_structure("region table"));
    }
    let at = headers.current.log_offset;
    match layer.log() {
        LogState::Empty => {}
        LogState::Replayed { entries, .. } => {
            let text =
                format!("has a log of {entries} pending entries; it is checked as if applied");
            let found = Finding::new(Code::LogDirty, text).at(at).in_structure("log");
            checking.corruption(found.fix("--repair all writes them to their places"));
        }
        LogState::Ignored => {
            let text = "has a damaged log of pending writes, which are lost";
            checking.corruption(Finding::new(Code::LogDirty, text).at(at).in_structure("log"));
        }
    }
}

/// What goes through the table has met so far.
struct Walk<'a> {
    layer: &'a VhdxLayer,
    checking: &'a Checking,
    invalid: Sort<'a>,
    beyond: Sort<'a>,
    shared: Sort<'a>,
    places: Places,
    first_round: bool,
    allocated: u64,
    fragmented: u64,
    /// Where the next block would be if nothing were fragmented.
    expected: Option<u64>,
    /// The chunk whose sector bitmap was looked up last, and whether there is one.
    bitmap: Option<(u64, bool)>,
    end: u64,
}

impl Walk<'_> {
    fn table(&mut self, file: &dyn Storage, table: Range<u64>) -> Result<()> {
        let metadata = self.layer.metadata();
        let ratio = metadata.chunk_ratio().size();
        let chunk_entries = ratio.saturating_add(1);
        let mut index: u64 = 0;
        pieces(file, "the block allocation table", table, self.checking, |bytes, at| {
            if is_zero(bytes) {
                // nothing of these is in the file
                index = index.saturating_add(to_u64(bytes.len()).wrapping_shr(3));
                return Ok(());
            }
            for (entry, at) in bytes.as_chunks::<8>().0.iter().zip((at..).step_by(8)) {
                let value = u64::from_le_bytes(*entry);
                let chunk = index.checked_div(chunk_entries).unwrap_or_default();
                let within = index.checked_rem(chunk_entries).unwrap_or_default();
                index = index.saturating_add(1);
                if value == 0 {
                    continue;
                }
                if within == ratio {
                    self.bitmap_entry(chunk, value, at);
                } else {
                    let block = chunk.saturating_mul(ratio).saturating_add(within);
                    self.payload_entry(chunk, block, value, at)?;
                }
            }
            Ok(())
        })
    }

    fn payload_entry(&mut self, chunk: u64, block: u64, value: u64, at: u64) -> Result<()> {
        let layer = self.layer;
        let name = || format!("BAT entry of payload block {block}");
        if block >= layer.bat().blocks() {
            if self.first_round && value & BAT_STATE != 0 {
                let text = format!("is {value:#018x}, but the disk ends before it");
                self.checking.note(finding(Code::Unusual, name(), &text, at));
            }
            return Ok(());
        }
        let has_parent = layer.metadata().parent_locator.is_some();
        let entry = match BatEntry::decode(value, has_parent) {
            Ok(entry) => entry,
            Err(error) => {
                if self.first_round {
                    let known = matches!(value & BAT_STATE, 0..=3 | 6)
                        || (has_parent && value & BAT_STATE == 7);
                    let code = if known { Code::ReservedBits } else { Code::InvalidEntry };
                    let text = format!("is wrong: {error}");
                    self.invalid.corruption(|| finding(code, name(), &text, at));
                }
                return Ok(());
            }
        };
        if !entry.is_stored() {
            return Ok(());
        }
        let size = layer.metadata().block.size();
        if self.first_round {
            self.allocated = self.allocated.saturating_add(1);
            let follows = self.expected.is_none_or(|expected| expected == entry.offset);
            self.fragmented = self.fragmented.saturating_add(u64::from(!follows));
            self.expected = Some(entry.offset.saturating_add(size));
        }
        let partial = entry.state == super::bat::BlockState::PartiallyPresent;
        if self.first_round && partial && !self.has_bitmap(chunk)? {
            let text = "calls the block partially present, but its chunk has no sector bitmap";
            self.invalid.corruption(|| finding(Code::InvalidEntry, name(), text, at));
        }
        // the last block may be cut where the disk ends
        let rest = layer.size().saturating_sub(layer.bat().guest(block).start);
        self.place("payload block", entry.offset, size, size.min(rest), name, at);
        Ok(())
    }

    fn bitmap_entry(&mut self, chunk: u64, value: u64, at: u64) {
        let name = || format!("BAT entry of sector bitmap block {chunk}");
        let state = value & BAT_STATE;
        let has_parent = self.layer.metadata().parent_locator.is_some();
        if !has_parent {
            if self.first_round && state != 0 {
                let text = format!("is {value:#018x}, but the image has no parent");
                self.checking.note(finding(Code::Unusual, name(), &text, at));
            }
            return;
        }
        let wrong = match state {
            0 => return,
            BITMAP_PRESENT if value & BAT_RESERVED != 0 => Some(Code::ReservedBits),
            BITMAP_PRESENT => None,
            _ => Some(Code::InvalidEntry),
        };
        if let Some(code) = wrong {
            if self.first_round {
                let text =
                    format!("is {value:#018x}, which has a state or bits that there are not");
                self.invalid.corruption(|| finding(code, name(), &text, at));
            }
            return;
        }
        let length = SECTOR_BITMAP_LENGTH;
        self.place("sector bitmap block", value & BAT_FILE_OFFSET, length, length, name, at);
    }

    /// Takes the place of a block of `length` bytes, of which `needed` must be in the file.
    fn place(
        &mut self,
        what: &'static str,
        start: u64,
        length: u64,
        needed: u64,
        name: impl Fn() -> String,
        at: u64,
    ) {
        if let Err(error) = self.layer.regions().check_block(what, start, length) {
            if self.first_round {
                let text = format!("is wrong: {error}");
                self.invalid.corruption(|| finding(Code::Overlap, name(), &text, at));
            }
            return;
        }
        let end = start.saturating_add(needed);
        if end > self.layer.bat().file_size() {
            if self.first_round {
                let text =
                    format!("leads to a block that ends at {end:#x}, beyond the end of the file");
                self.beyond.corruption(|| finding(Code::BeyondEnd, name(), &text, at));
            }
            return;
        }
        self.end = self.end.max(end);
        if self.places.take(start, length) {
            let text = format!("leads to {start:#x}, where another block lies");
            self.shared.corruption(|| finding(Code::Overlap, name(), &text, at));
        }
    }

    /// Whether the sector bitmap of a chunk is in the file.
    fn has_bitmap(&mut self, chunk: u64) -> Result<bool> {
        if let Some((known, there)) = self.bitmap
            && known == chunk
        {
            return Ok(there);
        }
        let there = match self.layer.bat().bitmap_block(chunk) {
            Ok((found, _)) => found.is_ok(),
            Err(error) if error.is_no_damage() => return Err(error),
            // what is wrong with its entry is told with that
            Err(_) => true,
        };
        self.bitmap = Some((chunk, there));
        Ok(there)
    }
}

fn finding(code: Code, name: String, text: &str, at: u64) -> Finding {
    Finding::new(code, format!("the {name} {text}")).at(at).in_structure(name)
}
