//! What can be mended: the log is written to its places, and the header and the region table are
//! restored from their other copies.

use std::hash::{BuildHasher, RandomState};

use crate::check::{Checking, Patch, RepairScope, Repaired};
use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::format::whole::refuse_rest;
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, read_vec};

use super::layer::VhdxLayer;
use super::layout::*;
use super::log::LogState;
use super::overlay::LogOverlay;

/// How much of a run of zeros is looked at or written at once.
const PIECE: u64 = 1 << 20;

/// Where in a header its fields lie (2.2.2).
const AT_CHECKSUM: usize = 4;
const AT_SEQUENCE_NUMBER: usize = 8;
const AT_FILE_WRITE_GUID: usize = 16;
const AT_LOG_GUID: usize = 48;

/// Killed between any two writes, the image is what it was: as long as a header names the log,
/// whoever opens the file replays it, over what was written as well; the header that is in use is
/// never written to, but for the time when the other one has become that; and a table whose other
/// copy is intact is not missed.
pub(super) fn repair(
    layer: &VhdxLayer,
    scope: RepairScope,
    checking: &Checking,
    patch: &mut dyn Patch,
) -> Result<Repaired> {
    let mut repaired = Repaired::default();
    let (headers, regions) = (layer.headers(), layer.regions());
    let mut refuse = |code, text: &str, at| {
        repaired.refused.push(Finding::new(code, text).at(at));
    };
    if regions.contradicts {
        let text =
            "the region tables are both intact, but differ: which one is meant cannot be told";
        refuse(Code::CheckError, text, regions.offset);
    }
    if layer.log() == LogState::Ignored {
        let text = "the log is damaged: the writes that it held are lost";
        refuse(Code::LogDirty, text, headers.current.log_offset);
        // a header without it would hide that
        return Ok(repaired);
    }
    if headers.current.sequence_number >= u64::MAX.saturating_sub(1) {
        let text = "the header has the largest sequence number: no other one can follow it";
        refuse(Code::CheckError, text, headers.current.offset);
        return Ok(repaired);
    }
    if scope == RepairScope::Leaks {
        return Ok(repaired);
    }
    let mut fixed = 0u64;
    if let Some(overlay) = layer.overlay() {
        write_log(layer.base(), overlay, patch)?;
        write_header(layer, 1, patch, "say in the other header that the log is empty")?;
        write_header(layer, 2, patch, "and say it in the first one, too")?;
        fixed = 1;
    }
    if headers.damaged.is_some() {
        if layer.overlay().is_none() {
            write_header(layer, 1, patch, "restore the header from the other one")?;
        }
        fixed = fixed.saturating_add(1);
    }
    if let Some(damaged) = regions.damaged {
        let what = "the region table";
        let bytes = read_vec(&layer.file(), what, regions.offset, REGION_TABLE_LENGTH)?;
        patch.write(damaged, &bytes, "restore the region table from the other one")?;
        patch.barrier()?;
        fixed = fixed.saturating_add(1);
    }
    repaired.corruptions_fixed = fixed;
    refuse_rest(layer, checking, &mut repaired)?;
    Ok(repaired)
}

/// Writes all that the log has to its places, and makes the file as long as it says.
fn write_log(base: &dyn Storage, overlay: &LogOverlay, patch: &mut dyn Patch) -> Result<()> {
    let what = "write what the log holds to its place";
    for (run, zeros) in overlay.replaced() {
        let mut at = run.start;
        while at < run.end {
            let mut length = PIECE.min(run.end.saturating_sub(at));
            let mut wanted = true;
            if zeros {
                let left = base.size().saturating_sub(at);
                if left == 0 {
                    // what lies beyond the end is zeros once the file is longer
                    break;
                }
                let there = base.run_at(at, length.min(left))?;
                length = there.length;
                wanted = !there.hole && {
                    let bytes = read_vec(base, "what the log replaces", at, to_usize(length))?;
                    bytes.iter().any(|&byte| byte != 0)
                };
            }
            if wanted {
                let bytes = read_vec(overlay, "what the log holds", at, to_usize(length))?;
                patch.write(at, &bytes, what)?;
            }
            at = at.saturating_add(length);
        }
    }
    if overlay.size() > base.size() {
        let start = overlay.size().saturating_sub(LOG_SECTOR).max(base.size());
        let length = to_usize(overlay.size().saturating_sub(start));
        let bytes = read_vec(overlay, "what the log holds", start, length)?;
        patch.write(start, &bytes, "make the file as long as the log says")?;
    }
    patch.barrier()
}

/// Writes the header that follows the current one as number `step`: into the other place if that
/// is 1, into its own if 2 (2.2.2, "the non-current header is updated").
fn write_header(layer: &VhdxLayer, step: u64, patch: &mut dyn Patch, what: &str) -> Result<()> {
    let current = &layer.headers().current;
    let [first, second] = HEADER_OFFSETS;
    let other = if current.offset == first { second } else { first };
    let mut bytes = read_vec(layer.base(), "the header", current.offset, HEADER_LENGTH)?;
    let number = current.sequence_number.saturating_add(step);
    put(&mut bytes, AT_SEQUENCE_NUMBER, &number.to_le_bytes());
    put(&mut bytes, AT_FILE_WRITE_GUID, &new_guid());
    put(&mut bytes, AT_LOG_GUID, &[0; 16]);
    put(&mut bytes, AT_CHECKSUM, &[0; 4]);
    let checksum = crc32c::crc32c(&bytes);
    put(&mut bytes, AT_CHECKSUM, &checksum.to_le_bytes());
    patch.write(if step == 1 { other } else { current.offset }, &bytes, what)?;
    patch.barrier()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let slot = bytes.get_mut(at..at.saturating_add(value.len()));
    slot.unwrap_or_default().copy_from_slice(value);
}

/// A GUID that nobody has: a file that was written to must have another one (2.2.2).
fn new_guid() -> [u8; 16] {
    let random = || RandomState::new().hash_one(to_u64(HEADER_LENGTH)).to_le_bytes();
    let mut guid = [0; 16];
    put(&mut guid, 0, &random());
    put(&mut guid, 8, &random());
    // version 4, variant 1 (RFC 9562); the third field is little-endian
    if let Some(byte) = guid.get_mut(7) {
        *byte = *byte & 0x0f | 0x40;
    }
    if let Some(byte) = guid.get_mut(8) {
        *byte = *byte & 0x3f | 0x80;
    }
    guid
}
