//! Whether an image is whole: both copies of the footer, the dynamic header, and the block
//! allocation table held against the file and against itself.

use byteorder::{BigEndian, ByteOrder};

use crate::check::Checking;
use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::format::whole::{Places, Sort, note_unused, pieces};
use crate::layer::Layer;
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::read_vec;

use super::footer::{CopyState, DiskType, FooterPlace};
use super::header::DynamicHeader;
use super::layer::VhdLayer;
use super::layout::*;

/// What a check of the blocks comes to.
#[derive(Default)]
pub(super) struct Blocks {
    allocated: u64,
    fragmented: u64,
    /// Blocks of which a differencing disk has no sector.
    empty: u64,
    /// Where the last structure or block ends, as far as it lies in the file.
    pub(super) end: u64,
    /// Where it would end if the last block were whole, which may be cut where the disk ends.
    pub(super) whole_end: u64,
    /// Blocks that reach beyond the end of the file.
    pub(super) beyond: u64,
    /// Whether blocks lie upon each other or upon structures.
    damaged: bool,
    /// How many bytes of the file something is in, if nothing is damaged.
    taken: u64,
}

pub(super) fn check(layer: &VhdLayer, checking: &Checking) -> Result<()> {
    check_footers(layer, checking);
    let Some(header) = layer.header() else {
        check_fixed(layer, checking);
        return Ok(());
    };
    check_header(layer, header, checking)?;
    let blocks = check_blocks(layer, header, checking, true)?;
    if blocks.empty > 0 {
        let text = format!("{} blocks hold no sector of the disk", blocks.empty);
        checking.note(Finding::new(Code::UnusedSpace, text));
    }
    if !blocks.damaged && blocks.beyond == 0 {
        note_unused(checking, layer.copies().data_end().saturating_sub(blocks.taken));
    }
    let mut report = checking.report();
    report.total_clusters = Some(header.blocks);
    report.allocated_clusters = Some(blocks.allocated);
    report.fragmented_clusters = Some(blocks.fragmented);
    report.compressed_clusters = Some(0);
    report.image_end_offset = Some(blocks.end);
    Ok(())
}

fn check_footers(layer: &VhdLayer, checking: &Checking) {
    let (copies, footer) = (layer.copies(), layer.footer());
    let fixed = footer.disk_type == DiskType::Fixed;
    let end = copies.end_offset.unwrap_or(copies.file_size);
    let used = match copies.used {
        FooterPlace::Start => (copies.start, 0),
        FooterPlace::End => (copies.end, end),
    };
    let intact = used.0 == CopyState::Valid;
    if !intact {
        let at = used.1.saturating_add(to_u64(FOOTER_CHECKSUM));
        let text = "no copy of the footer has the right checksum";
        let found = Finding::new(Code::ChecksumMismatch, text).at(at);
        checking.corruption(found.in_structure("footer field Checksum"));
    }
    let places = [
        ("footer", copies.end, end),
        ("copy of the footer at the start of the file", copies.start, 0),
    ];
    for (name, state, at) in places.into_iter().take(if fixed { 1 } else { 2 }) {
        let text = match state {
            CopyState::Valid => continue,
            CopyState::Missing => format!("the {name} is missing"),
            CopyState::Damaged { stored, computed } => format!(
                "the {name} has the checksum {stored:#010x}, its bytes have {computed:#010x}"
            ),
        };
        let found = Finding::new(Code::FooterMissing, text).at(at).in_structure(name);
        let fix = "--repair all restores it from the other copy";
        checking.corruption(if intact { found.fix(fix) } else { found });
    }
    let valid = [copies.start, copies.end].iter().all(|state| *state == CopyState::Valid);
    if !fixed && valid && copies.differ {
        let text = "the footer and its copy at the start are both intact, but differ";
        checking
            .corruption(Finding::new(Code::FooterMismatch, text).at(end).in_structure("footer"));
    }
    if footer.saved_state {
        let text = "belongs to a machine in saved state: what it held in memory is not in here";
        let found = Finding::new(Code::Dirty, text).at(used.1.saturating_add(84));
        checking.note(found.in_structure("footer field Saved State"));
    }
}

fn check_fixed(layer: &VhdLayer, checking: &Checking) {
    let (size, held) = (layer.size(), layer.copies().data_end());
    if held < size {
        let text = format!("a fixed disk of {size} bytes, of which the file holds {held}");
        checking.corruption(Finding::new(Code::Truncated, text).at(held));
    }
    checking.report().image_end_offset = Some(layer.copies().file_size);
}

fn check_header(layer: &VhdLayer, header: &DynamicHeader, checking: &Checking) -> Result<()> {
    let at = |field: u64| header.offset.saturating_add(field);
    if !header.is_intact() {
        let (stored, computed) = (header.checksum, header.computed_checksum);
        let text = format!(
            "the dynamic header has the checksum {stored:#010x}, its bytes have {computed:#010x}"
        );
        let found = Finding::new(Code::ChecksumMismatch, text).at(at(to_u64(HEADER_CHECKSUM)));
        checking.corruption(found.in_structure("dynamic header field Checksum"));
    }
    let next = read_vec(layer.file(), "the dynamic header", at(8), 8)?;
    if next.iter().any(|&byte| byte != 0xff) {
        let found = Finding::new(Code::Unusual, "Data Offset is not all ones").at(at(8));
        checking.note(found.in_structure("dynamic header field Data Offset"));
    }
    if u64::from(header.max_table_entries) > header.blocks {
        let (entries, blocks) = (header.max_table_entries, header.blocks);
        let text = format!("the table has {entries} entries for {blocks} blocks");
        let found = Finding::new(Code::Unusual, text).at(at(28));
        checking.note(found.in_structure("dynamic header field Max Table Entries"));
    }
    if layer.footer().disk_type != DiskType::Differencing {
        return Ok(());
    }
    if header.parent_unique_id == [0; 16] {
        let text = "a differencing disk without the identifier of its parent";
        let found = Finding::new(Code::InvalidEntry, text).at(at(HEADER_PARENT_UNIQUE_ID));
        checking.corruption(found.in_structure("dynamic header field Parent Unique ID"));
    }
    let named = header.parent_name.is_some() || header.locators.iter().any(|l| l.name.is_some());
    for locator in &header.locators {
        if let Some(problem) = locator.problem {
            let code = crate::text::printable(&locator.platform_code);
            let text = format!("the parent locator '{code}' is of no use: {problem}");
            let found = |code| {
                Finding::new(code, &text).at(locator.offset).in_structure("parent locator entry")
            };
            // one that is of use is enough
            if named {
                checking.note(found(Code::Unusual));
            } else {
                checking.corruption(found(Code::InvalidEntry));
            }
        }
    }
    if !named && header.locators.iter().all(|locator| locator.problem.is_none()) {
        let text = "no parent locator names the parent: only its identifier tells it";
        checking.note(Finding::new(Code::Unusual, text).at(at(HEADER_LOCATORS)));
    }
    Ok(())
}

/// Goes through the block allocation table, and tells what is wrong if that is `wanted`.
pub(super) fn check_blocks(
    layer: &VhdLayer,
    header: &DynamicHeader,
    checking: &Checking,
    wanted: bool,
) -> Result<Blocks> {
    let silent = Checking::new();
    let told = if wanted { checking } else { &silent };
    let (mut invalid, mut beyond, mut shared) = (Sort::new(told), Sort::new(told), Sort::new(told));
    let (table, end) = (header.table(), layer.copies().data_end());
    let sector = Pow2::from_size(SECTOR_SIZE).unwrap_or(header.block);
    let whole_table = u64::from(header.max_table_entries).saturating_mul(4);
    let table_end = header.table_offset.saturating_add(whole_table);
    let structures = [FOOTER_SIZE, HEADER_SIZE, sector.ceil(whole_table)];
    let mut blocks = Blocks {
        end: FOOTER_SIZE.max(header.offset.saturating_add(HEADER_SIZE)).max(table_end),
        ..Blocks::default()
    };
    let stride = header.bitmap_size().saturating_add(header.block.size());
    let mut places = Places::new(sector, 0, checking.memory());
    let (mut first_round, mut expected) = (true, None);
    checking.watcher().start(table.end.saturating_sub(table.start));
    loop {
        for locator in &header.locators {
            let length = locator.place.end.saturating_sub(locator.place.start);
            if length == 0 || locator.place.end > end {
                continue;
            }
            blocks.end = blocks.end.max(locator.place.end);
            let upon = header.overlap(&locator.place, true).filter(|_| first_round);
            if upon.is_some() || places.take(locator.place.start, length) {
                let other = upon.unwrap_or("data of another locator");
                shared.corruption(|| {
                    let text = format!("a parent locator's data lie upon the {other}");
                    let found = Finding::new(Code::Overlap, text).at(locator.offset);
                    found.in_structure("parent locator entry")
                });
            }
        }
        let mut index: u64 = 0;
        pieces(
            layer.file(),
            "the block allocation table",
            table.clone(),
            checking,
            |bytes, at| {
                let entries =
                    bytes.as_chunks::<4>().0.iter().map(|entry| BigEndian::read_u32(entry));
                for (entry, at) in entries.zip((at..).step_by(4)) {
                    let number = index;
                    index = index.saturating_add(1);
                    if entry == BAT_UNUSED {
                        continue;
                    }
                    let name = || format!("BAT entry {number}");
                    let start = u64::from(entry).saturating_mul(SECTOR_SIZE);
                    let first = header.block.offset_of(number).unwrap_or(u64::MAX);
                    let used = layer.size().saturating_sub(first).min(header.block.size());
                    let length = header.bitmap_size().saturating_add(used);
                    let behind = start.saturating_add(length);
                    if first_round {
                        blocks.allocated = blocks.allocated.saturating_add(1);
                        let follows = expected.is_none_or(|expected| expected == start);
                        blocks.fragmented = blocks.fragmented.saturating_add(u64::from(!follows));
                        expected = Some(start.saturating_add(stride));
                    }
                    if let Some(other) = header.overlap(&(start..behind), true) {
                        if first_round {
                            let text = format!("leads to {start:#x}, upon the {other}");
                            invalid.corruption(|| finding(Code::Overlap, name(), &text, at));
                        }
                        continue;
                    }
                    if behind > end {
                        if first_round {
                            let text = format!(
                                "leads to a block that ends at {behind:#x}, beyond {end:#x}"
                            );
                            beyond.corruption(|| finding(Code::BeyondEnd, name(), &text, at));
                        }
                        continue;
                    }
                    // of the last block, all is there even if the disk ends in it; or as much as fits
                    let whole = stride.min(end.saturating_sub(start));
                    blocks.end = blocks.end.max(start.saturating_add(whole));
                    blocks.whole_end = blocks.whole_end.max(start.saturating_add(stride));
                    if places.take(start, whole) {
                        let text = format!("leads to {start:#x}, where another block lies");
                        shared.corruption(|| finding(Code::Overlap, name(), &text, at));
                    } else if first_round && layer.footer().disk_type == DiskType::Differencing {
                        check_bitmap(layer, told, number, start, used, &mut blocks)?;
                    }
                }
                Ok(())
            },
        )?;
        first_round = false;
        if !places.turn() {
            break;
        }
    }
    places.tell_rest(told);
    blocks.beyond = beyond.count();
    blocks.damaged = invalid.count() > 0 || shared.count() > 0;
    let fixed = structures.iter().fold(0u64, |sum, length| sum.saturating_add(*length));
    blocks.taken = fixed.saturating_add(places.taken());
    Ok(blocks)
}

/// Looks at the sector bitmap of a differencing disk's block.
fn check_bitmap(
    layer: &VhdLayer,
    checking: &Checking,
    number: u64,
    start: u64,
    used: u64,
    blocks: &mut Blocks,
) -> Result<()> {
    let Some(header) = layer.header() else { return Ok(()) };
    let length = to_usize(header.bitmap_size());
    let bitmap = read_vec(layer.file(), "a sector bitmap", start, length)?;
    if bitmap.iter().all(|&byte| byte == 0) {
        blocks.empty = blocks.empty.saturating_add(1);
    }
    // the highest bit of a byte comes first; only the disk's last block has sectors that are none
    let sectors = used.div_ceil(SECTOR_SIZE);
    let (byte, bit) = (to_usize(sectors.div_euclid(8)), sectors.rem_euclid(8));
    let rest = bitmap.get(byte..).unwrap_or_default();
    let mask = 0xffu8.wrapping_shr(u32::try_from(bit).unwrap_or_default());
    let odd = rest
        .split_first()
        .is_some_and(|(first, more)| first & mask != 0 || more.iter().any(|&byte| byte != 0));
    if odd && used < header.block.size() {
        let text = format!("the sector bitmap of block {number} has sectors beyond the disk's end");
        let found = Finding::new(Code::Unusual, text).at(start.saturating_add(to_u64(byte)));
        checking.note(found.in_structure("sector bitmap"));
    }
    Ok(())
}

fn finding(code: Code, name: String, text: &str, at: u64) -> Finding {
    Finding::new(code, format!("{name} {text}")).at(at).in_structure(name)
}
