//! Whether a DMG is whole: all sectors are decoded, and their checksums compared.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crc32fast::Hasher;

use crate::check::Checking;
use crate::crc::crc32_of_zeros;
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Code, Finding};
use crate::format::whole::pieces;
use crate::num::{to_u64, to_usize};
use crate::parallel;
use crate::storage::Storage;

use super::blocks::{Chunk, Kind, Table};
use super::header::Checksum;
use super::layer::DmgLayer;
use super::layout::MAX_CHUNK;

/// How much of a chunk that is not compressed is read at once.
const PIECE: usize = 256 << 10;

pub(super) fn check(layer: &DmgLayer, checking: &Checking) -> Result<()> {
    let (header, blocks) = (&layer.header, &layer.blocks);
    let fork = header.data_fork.clone();
    checking.watcher().start(fork.end.saturating_sub(fork.start).saturating_mul(2));
    if let Some((sectors, first)) = blocks.gaps(header) {
        let text = format!("no chunk holds {sectors} sectors of the disk, from {first} on");
        checking.corruption(Finding::new(Code::InvalidEntry, text).at(header.offset));
    }
    if let Checksum::Crc32(wanted) = header.data_checksum {
        let mut hasher = Hasher::new();
        pieces(&layer.storage, "the data fork", fork.clone(), checking, |piece, _| {
            hasher.update(piece);
            Ok(())
        })?;
        compare(checking, "the data fork", wanted, hasher.finalize(), fork.start);
    } else {
        note_unknown(checking, "the data fork", header.data_checksum, fork.start);
    }
    let sums = chunk_sums(layer, checking)?;
    for table in &blocks.tables {
        check_table(layer, checking, table, &sums);
    }
    check_master(layer, checking);
    let stored = blocks.chunks.iter().filter(|chunk| !chunk.kind.is_zero());
    let ends = stored.map(|chunk| chunk.offset.saturating_add(chunk.length));
    let end = header.plist.end.max(header.resources.end).max(header.offset.saturating_add(512));
    checking.report().image_end_offset = Some(ends.fold(end, u64::max).min(layer.storage.size()));
    Ok(())
}

fn compare(checking: &Checking, what: &str, wanted: u32, got: u32, at: u64) {
    if wanted != got {
        let text = format!("the checksum of {what} is {wanted:08x}, and should be {got:08x}");
        checking.corruption(Finding::new(Code::ChecksumMismatch, text).at(at));
    }
}

fn note_unknown(checking: &Checking, what: &str, checksum: Checksum, at: u64) {
    if let Checksum::Other(kind) = checksum {
        let text = format!("the checksum of {what} is of the type {kind}, which is not known");
        checking.note(Finding::new(Code::NotChecked, text).at(at));
    }
}

/// The CRC-32 of each chunk's sectors; `None` where it cannot be decoded, which is told.
fn chunk_sums(layer: &DmgLayer, checking: &Checking) -> Result<Vec<Option<u32>>> {
    let chunks = &layer.blocks.chunks;
    let encoded = chunks.iter().filter(|chunk| chunk.kind.is_encoded());
    let sizes = encoded.map(|chunk| chunk.guest().end.saturating_sub(chunk.guest().start));
    let largest = sizes.max().unwrap_or_default().clamp(to_u64(PIECE), MAX_CHUNK);
    // its compressed form is held beside it
    let each = largest.saturating_mul(2).saturating_add(4 << 20);
    let fit = to_usize(checking.memory().checked_div(each).unwrap_or_default()).max(1);
    let threads = checking.thread_count().get().min(fit).min(chunks.len()).max(1);
    let next = AtomicUsize::new(0);
    let sums = Mutex::new(vec![None; chunks.len()]);
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    parallel::run(threads, || {
        let mut buffer = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = chunks.get(index) else { break };
            match checking.watcher().check().and_then(|()| sum(layer, chunk, &mut buffer)) {
                Ok(sum) => {
                    let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(place) = sums.get_mut(index) {
                        *place = Some(sum);
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::Io | ErrorKind::Cancelled) => {
                    next.store(chunks.len(), Ordering::Relaxed);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    break;
                }
                Err(error) => tell(checking, chunk, &error),
            }
            checking.watcher().advance(chunk.length);
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(sums.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

fn tell(checking: &Checking, chunk: &Chunk, error: &Error) {
    let text = format!("the chunk of sector {}: {}", chunk.start, error.detail());
    let at = error.offset().unwrap_or(chunk.offset);
    let found = |code| Finding::new(code, &text).at(at).in_structure("chunk");
    match error.kind() {
        ErrorKind::Unsupported => checking.unreadable(found(Code::Unreadable)),
        _ if error.is_cut_off() => checking.corruption(found(Code::BeyondEnd)),
        _ => checking.corruption(found(Code::InvalidEntry)),
    }
}

fn sum(layer: &DmgLayer, chunk: &Chunk, buffer: &mut Vec<u8>) -> Result<u32> {
    let guest = chunk.guest();
    let length = guest.end.saturating_sub(guest.start);
    if chunk.kind.is_zero() {
        return Ok(crc32_of_zeros(length).finalize());
    }
    layer.check_chunk(chunk)?;
    if chunk.kind.is_encoded() {
        buffer.resize(to_usize(length), 0);
        layer.decode(chunk, buffer)?;
        return Ok(crc32fast::hash(buffer));
    }
    let mut hasher = Hasher::new();
    let mut done = 0;
    while done < length {
        buffer.resize(to_usize(length.saturating_sub(done)).min(PIECE), 0);
        layer.storage.read_exact_at(buffer, chunk.offset.saturating_add(done))?;
        hasher.update(buffer);
        done = done.saturating_add(to_u64(buffer.len()));
    }
    Ok(hasher.finalize())
}

fn check_table(layer: &DmgLayer, checking: &Checking, table: &Table, sums: &[Option<u32>]) {
    let what = format!("the table '{}'", table.name);
    let Checksum::Crc32(wanted) = table.checksum else {
        return note_unknown(checking, &what, table.checksum, table.offset);
    };
    let chunks = layer.blocks.chunks.get(table.chunks.clone()).unwrap_or_default();
    let sums = sums.get(table.chunks.clone()).unwrap_or_default();
    // what is ignored is not part of it with Apple's programs; some others count it as zeros
    let (mut without, mut with) = (Hasher::new(), Hasher::new());
    for (chunk, sum) in chunks.iter().zip(sums) {
        // what cannot be decoded was told
        let Some(sum) = sum else { return };
        let guest = chunk.guest();
        let part = Hasher::new_with_initial_len(*sum, guest.end.saturating_sub(guest.start));
        with.combine(&part);
        if chunk.kind != Kind::Ignore {
            without.combine(&part);
        }
    }
    let got = without.finalize();
    if with.finalize() != wanted {
        compare(checking, &what, wanted, got, table.offset);
    }
}

/// The master checksum is that of the tables' checksums, one behind the other.
fn check_master(layer: &DmgLayer, checking: &Checking) {
    let at = layer.header.offset;
    let Checksum::Crc32(wanted) = layer.header.master_checksum else {
        return note_unknown(checking, "all tables", layer.header.master_checksum, at);
    };
    let mut hasher = Hasher::new();
    for table in &layer.blocks.tables {
        let Checksum::Crc32(sum) = table.checksum else { return };
        hasher.update(&sum.to_be_bytes());
    }
    compare(checking, "all tables' checksums", wanted, hasher.finalize(), at);
}
