//! Whether an image is whole: its block map held against the file and against itself. And what can
//! be mended: the header's number of blocks.

use byteorder::{ByteOrder, LittleEndian};

use crate::check::{Checking, Patch, RepairScope, Repaired};
use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::format::whole::{Places, Sort, note_enough, note_unused, pieces, refuse_rest};
use crate::num::Pow2;

use super::header::ImageType;
use super::layer::VdiLayer;
use super::layout::{AT_BLOCKS_ALLOCATED, AT_LINKAGE, AT_TYPE, BLOCK_ZERO};

/// What the block map says, summed up.
#[derive(Default)]
struct Map {
    /// Blocks of the disk that are in the file.
    allocated: u64,
    /// Of these, how many do not follow the one before.
    fragmented: u64,
    /// Blocks of the file that the map names, each once.
    distinct: u64,
    /// One more than the largest number of a block that is named.
    count: u64,
    /// Where the last of them ends in the file.
    end: u64,
    /// Whether entries are such that nothing can be said of the blocks.
    damaged: bool,
}

pub(super) fn check(layer: &VdiLayer, checking: &Checking) -> Result<()> {
    let header = layer.header();
    let map = read_map(layer, checking, true)?;
    check_header(layer, checking, &map);
    let counted = u64::from(header.blocks_allocated).max(map.count);
    let end = match counted.checked_sub(1).map(|last| u32::try_from(last).unwrap_or(u32::MAX)) {
        Some(last) => header.block_data(last).saturating_add(header.block.size()),
        None => header.data_offset.into(),
    };
    note_unused(checking, layer.file_size().saturating_sub(end));
    let mut report = checking.report();
    report.total_clusters = Some(header.block.count(header.size));
    report.allocated_clusters = Some(map.allocated);
    report.fragmented_clusters = Some(map.fragmented);
    report.compressed_clusters = Some(0);
    report.image_end_offset = Some(end.min(layer.file_size()).max(map.end));
    Ok(())
}

/// Reads the block map, and tells what is wrong with its entries if that is `wanted`.
fn read_map(layer: &VdiLayer, checking: &Checking, wanted: bool) -> Result<Map> {
    let header = layer.header();
    let silent = Checking::new();
    let told = if wanted { checking } else { &silent };
    let (mut invalid, mut beyond, mut shared) = (Sort::new(told), Sort::new(told), Sort::new(told));
    let mut map = Map { end: header.data_offset.into(), ..Map::default() };
    let table = header.map();
    checking.watcher().start(table.end.saturating_sub(table.start));
    let one = Pow2::from_bits(0).unwrap_or(Pow2::PAGE);
    let mut places = Places::new(one, 0, checking.memory());
    let (mut first_round, mut previous) = (true, None);
    let mut given_up = None;
    loop {
        let mut index: u64 = 0;
        pieces(layer.file(), "the block map", table.clone(), checking, |bytes, at| {
            if [&invalid, &beyond, &shared].iter().any(|sort| sort.is_enough()) {
                given_up.get_or_insert(at);
                return Ok(());
            }
            let entries =
                bytes.as_chunks::<4>().0.iter().map(|entry| LittleEndian::read_u32(entry));
            for (entry, at) in entries.zip((at..).step_by(4)) {
                let block = index;
                index = index.saturating_add(1);
                if entry >= BLOCK_ZERO {
                    continue;
                }
                let name = || format!("block map entry {block}");
                if entry >= header.blocks {
                    if first_round {
                        invalid.corruption(|| {
                            let text = format!("is {entry:#x}, of {} blocks", header.blocks);
                            finding(Code::InvalidEntry, &name(), &text, at)
                        });
                    }
                    continue;
                }
                if first_round {
                    let start = header.block.offset_of(block).unwrap_or(u64::MAX);
                    let used = header.size.saturating_sub(start).min(header.block.size());
                    let end = header.block_data(entry).saturating_add(used);
                    if end > layer.file_size() {
                        beyond.corruption(|| {
                            let text = format!(
                                "leads to a block that ends at {end:#x}, beyond the end of the file"
                            );
                            finding(Code::BeyondEnd, &name(), &text, at)
                        });
                    } else {
                        map.end = map.end.max(end);
                    }
                    map.allocated = map.allocated.saturating_add(1);
                    let follows =
                        previous.is_none_or(|before: u32| before.checked_add(1) == Some(entry));
                    map.fragmented = map.fragmented.saturating_add(u64::from(!follows));
                    previous = Some(entry);
                    map.count = map.count.max(u64::from(entry).saturating_add(1));
                }
                if places.take(entry.into(), 1) {
                    shared.corruption(|| {
                        let text =
                            format!("leads to block {entry:#x} of the file, as another entry does");
                        finding(Code::Overlap, &name(), &text, at)
                    });
                }
            }
            Ok(())
        })?;
        first_round = false;
        if !places.turn() {
            break;
        }
    }
    places.tell_rest(told);
    if let Some(at) = given_up {
        note_enough(told, "block map", at);
    }
    map.distinct = places.taken();
    map.damaged = [&invalid, &beyond, &shared].iter().any(|sort| sort.count() > 0);
    Ok(map)
}

fn finding(code: Code, name: &str, text: &str, at: u64) -> Finding {
    Finding::new(code, format!("{name} {text}")).at(at).in_structure(name.to_owned())
}

/// Holds the header against what the map says.
fn check_header(layer: &VdiLayer, checking: &Checking, map: &Map) {
    let header = layer.header();
    let said = u64::from(header.blocks_allocated);
    let found = |code, text: String| {
        Finding::new(code, text)
            .at(AT_BLOCKS_ALLOCATED)
            .in_structure("header field cBlocksAllocated")
    };
    if said < map.count {
        let text = format!(
            "{said} blocks are in the file, says the header; the block map knows {}: who writes to \
             the image overwrites the others",
            map.count
        );
        checking.corruption(found(Code::CheckError, text).fix("--repair all counts them anew"));
    } else if said > u64::from(header.blocks) {
        let text = format!("says that {said} blocks are in the file, of {} in all", header.blocks);
        checking.corruption(found(Code::CheckError, text).fix("--repair all counts them anew"));
    } else if said > map.distinct && !map.damaged {
        let lost = said.saturating_sub(map.distinct);
        let text =
            format!("{lost} of the {said} blocks in the file are in no entry of the block map");
        let leak = found(Code::LeakedCluster, text);
        let leak = if said > map.count {
            leak.fix("--repair leaks gives up those at the end")
        } else {
            leak
        };
        checking.leak(lost, leak);
    }
    let unallocated = header.block.count(header.size).saturating_sub(map.allocated);
    if header.image_type == ImageType::Fixed && unallocated > 0 {
        let text = format!("{unallocated} blocks of a fixed image are not in the file");
        let note = Finding::new(Code::Unusual, text).at(AT_TYPE);
        checking.note(note.in_structure("header field u32Type"));
    }
    if header.image_type != ImageType::Differencing && header.parent_uuid.is_some() {
        let text = "names a parent, but is not of the differencing type";
        let note = Finding::new(Code::Unusual, text).at(AT_LINKAGE);
        checking.note(note.in_structure("header field uuidLinkage"));
    }
}

/// Writes the right number of blocks into the header: one more than the last one that is named, so
/// that whoever writes next writes behind all of them. That is one write within a sector.
pub(super) fn repair(
    layer: &VdiLayer,
    scope: RepairScope,
    checking: &Checking,
    patch: &mut dyn Patch,
) -> Result<Repaired> {
    let header = layer.header();
    let (said, map) = (u64::from(header.blocks_allocated), read_map(layer, checking, false)?);
    let mut repaired = Repaired::default();
    let too_few = said < map.count || said > u64::from(header.blocks);
    if map.damaged {
        let text = "the block map is damaged: which blocks are whose cannot be told";
        repaired.refused.push(Finding::new(Code::CheckError, text).at(header.map_offset.into()));
        refuse_rest(layer, checking, &mut repaired)?;
        return Ok(repaired);
    }
    if said != map.count && (scope == RepairScope::All || !too_few) {
        let count = u32::try_from(map.count).unwrap_or(u32::MAX);
        patch.write(
            AT_BLOCKS_ALLOCATED,
            &count.to_le_bytes(),
            "count the blocks in the file anew",
        )?;
        patch.barrier()?;
        if too_few {
            repaired.corruptions_fixed = 1;
        } else {
            repaired.leaks_fixed = said.saturating_sub(map.count);
        }
    }
    if map.count > map.distinct {
        let lost = map.count.saturating_sub(map.distinct);
        let text = format!("{lost} blocks lie before others that are in use: they are not moved");
        let refused = Finding::new(Code::LeakedCluster, text).at(AT_BLOCKS_ALLOCATED);
        repaired.refused.push(refused.fix("convert the image to a new one"));
    }
    Ok(repaired)
}
