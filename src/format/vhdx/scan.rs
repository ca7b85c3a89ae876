//! A look at the whole block allocation table for what contradicts itself.

use std::ops::ControlFlow;

use crate::error::Result;
use crate::finding::{Code, Finding};

use super::bat::Bat;
use super::layout::*;

/// Blocks that have a place in the file, by MiB. What fits in this many is looked through for
/// blocks that share a place: 2 Mi of them, in 16 MiB of memory.
const MAX_PLACES: usize = 2 << 20;

/// What is wrong with entries of the table, each kind once with its count. Nothing is read beyond
/// the first `limit` bytes of the table.
pub(super) fn scan(bat: &Bat, block_size: u64, disk_size: u64, limit: u64) -> Result<Vec<Finding>> {
    let mut invalid = Tally::default();
    let mut beyond = Tally::default();
    let mut places: Vec<u64> = Vec::new();
    let scanned = bat.blocks().min(limit.wrapping_shr(BAT_ENTRY_LENGTH.trailing_zeros()));
    let mut next = 0;
    while next < scanned {
        next = bat.skip_unwritten(next)?;
        let first = next;
        if first >= scanned {
            break;
        }
        bat.visit(first, |block, entry, at| {
            next = block.saturating_add(1);
            match entry {
                Err(error) => invalid.add(at, || error.to_string()),
                Ok(entry) if entry.is_stored() => {
                    // the last block may be cut where the disk ends
                    let rest = disk_size.saturating_sub(bat.guest(block).start);
                    let end = entry.offset.saturating_add(block_size.min(rest));
                    if end > bat.file_size() {
                        beyond.add(at, || format!("payload block {block} ends at {end:#x}"));
                    } else if places.len() < MAX_PLACES {
                        places.push(entry.offset | PAYLOAD);
                    }
                }
                Ok(_) => {}
            }
            ControlFlow::Continue(())
        })?;
        if next == first {
            break;
        }
    }
    for chunk in 0..bat.bitmaps().min(scanned) {
        match bat.bitmap_block(chunk) {
            Ok((Ok(offset), _)) if places.len() < MAX_PLACES => places.push(offset),
            Ok(_) => {}
            Err(error) if error.is_no_damage() => return Err(error),
            Err(error) => invalid.add(error.offset().unwrap_or_default(), || error.to_string()),
        }
    }
    let mut findings = Vec::new();
    if let Some((count, at, text)) = invalid.result() {
        let text = format!("{count} BAT entries are invalid, the first one: {text}");
        findings.push(Finding::new(Code::CheckError, text).at(at));
    }
    if let Some((count, at, text)) = beyond.result() {
        let size = bat.file_size();
        let text = format!("{count} blocks lie beyond the end of the file at {size:#x}: {text}");
        findings.push(Finding::new(Code::Truncated, text).at(at));
    }
    if let Some((count, place)) = shared(&mut places, block_size) {
        let text =
            format!("{count} blocks overlap others in the file, the first one at {place:#x}");
        findings.push(Finding::new(Code::CheckError, text).at(place));
    }
    Ok(findings)
}

/// Marks the place of a payload block among those of sector bitmaps: places are whole MiB.
const PAYLOAD: u64 = 1;

/// How many blocks start within another one, and where the first of them does.
fn shared(places: &mut [u64], block_size: u64) -> Option<(u64, u64)> {
    places.sort_unstable();
    let (mut count, mut first, mut end) = (0u64, 0, 0);
    for place in places.iter() {
        let start = place & BAT_FILE_OFFSET;
        if start < end {
            if count == 0 {
                first = start;
            }
            count = count.saturating_add(1);
        }
        let length = if place & PAYLOAD != 0 { block_size } else { SECTOR_BITMAP_LENGTH };
        end = end.max(start.saturating_add(length));
    }
    (count > 0).then_some((count, first))
}

/// Counts, and remembers the first.
#[derive(Default)]
struct Tally {
    count: u64,
    first: Option<(u64, String)>,
}

impl Tally {
    fn add(&mut self, at: u64, text: impl FnOnce() -> String) {
        self.count = self.count.saturating_add(1);
        self.first.get_or_insert_with(|| (at, text()));
    }

    fn result(self) -> Option<(u64, u64, String)> {
        self.first.map(|(at, text)| (self.count, at, text))
    }
}
