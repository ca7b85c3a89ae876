//! What can be mended: a copy of the footer, from the other one.

use crate::check::{Checking, Patch, RepairScope, Repaired};
use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::format::whole::refuse_rest;
use crate::num::{Pow2, to_usize};
use crate::storage::read_vec;

use super::check::check_blocks;
use super::footer::CopyState;
use super::layer::VhdLayer;
use super::layout::*;

/// Writes the copy of the footer that is missing or damaged. That is one write, and until it is
/// done the other copy is in use as before.
pub(super) fn repair(
    layer: &VhdLayer,
    scope: RepairScope,
    checking: &Checking,
    patch: &mut dyn Patch,
) -> Result<Repaired> {
    let mut repaired = Repaired::default();
    let copies = layer.copies();
    let end = copies.end_offset.unwrap_or(copies.file_size);
    let mut refuse = |code, text: &str, at| {
        repaired.refused.push(Finding::new(code, text).at(at));
    };
    let (valid_start, valid_end) =
        (copies.start == CopyState::Valid, copies.end == CopyState::Valid);
    let Some(header) = layer.header() else {
        if !valid_end {
            refuse(Code::ChecksumMismatch, "a fixed disk has no other copy of the footer", end);
        }
        refuse_rest(layer, checking, &mut repaired)?;
        return Ok(repaired);
    };
    if !header.is_intact() {
        let text = "the dynamic header is damaged, and there is no copy of it";
        refuse(Code::ChecksumMismatch, text, header.offset);
    }
    match (valid_start, valid_end) {
        (true, true) if copies.differ => {
            let text = "both copies of the footer are intact, but differ: which one is meant \
                        cannot be told";
            refuse(Code::FooterMismatch, text, end);
        }
        (true, true) => {}
        (false, false) => {
            let text = "both copies of the footer are damaged";
            refuse(Code::ChecksumMismatch, text, end);
        }
        _ if scope == RepairScope::Leaks => {}
        (false, true) => {
            let bytes = footer_bytes(layer, end)?;
            patch.write(0, &bytes, "restore the copy of the footer from the footer")?;
            patch.barrier()?;
            repaired.corruptions_fixed = 1;
        }
        (true, false) => match end_place(layer, checking)? {
            Ok(place) => {
                let bytes = footer_bytes(layer, 0)?;
                patch.write(place, &bytes, "restore the footer from its copy at the start")?;
                patch.barrier()?;
                repaired.corruptions_fixed = 1;
            }
            Err(why) => refuse(Code::FooterMissing, why, end),
        },
    }
    refuse_rest(layer, checking, &mut repaired)?;
    Ok(repaired)
}

/// The bytes of the copy at `offset`; the byte that old footers lack is a reserved one.
fn footer_bytes(layer: &VhdLayer, offset: u64) -> Result<Vec<u8>> {
    let length = FOOTER_SIZE.min(layer.copies().file_size.saturating_sub(offset));
    let mut bytes = read_vec(layer.file(), "the footer", offset, to_usize(length))?;
    bytes.resize(to_usize(FOOTER_SIZE), 0);
    Ok(bytes)
}

/// Where the footer at the end belongs: where a damaged one is, or behind all blocks in the last
/// sector of the file, or behind the file. An error says why that cannot be told.
fn end_place(layer: &VhdLayer, checking: &Checking) -> Result<Result<u64, &'static str>> {
    let (copies, Some(header)) = (layer.copies(), layer.header()) else {
        return Ok(Err("a fixed disk has no other copy of the footer"));
    };
    let blocks = check_blocks(layer, header, checking, false)?;
    if blocks.beyond > 0 {
        return Ok(Err("the file is cut off: blocks reach beyond its end"));
    }
    if let Some(place) = copies.end_offset {
        return Ok(Ok(place));
    }
    let sector = Pow2::from_size(SECTOR_SIZE).unwrap_or(header.block);
    let (size, behind) = (copies.file_size, sector.ceil(blocks.end.max(blocks.whole_end)));
    // a last sector that belongs to nothing held the footer once, and so did a part of one
    let rest = size.saturating_sub(behind);
    let place = match rest {
        0 => behind,
        _ if rest <= FOOTER_SIZE => behind,
        _ if sector.is_aligned(size) => size.saturating_sub(FOOTER_SIZE),
        _ => sector.floor(size),
    };
    Ok(Ok(place))
}
