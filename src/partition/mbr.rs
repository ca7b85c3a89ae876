//! The partition table of the first sector, and the chain of an extended partition.

use std::collections::BTreeSet;

use byteorder::{ByteOrder, LittleEndian};

use crate::error::Result;
use crate::num::{Pow2, to_usize};
use crate::storage::{Storage, read_vec};

/// The unit of the table.
pub(crate) const SECTOR: u64 = 512;
/// Where its four entries lie.
pub(crate) const AT_ENTRIES: u64 = 446;
/// The length of an entry.
pub(crate) const ENTRY: u64 = 16;
/// Where its signature lies, 0x55 and 0xaa.
pub(crate) const AT_SIGNATURE: u64 = 510;
pub(crate) const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// The type of the partition that stands before a GPT.
pub(crate) const PROTECTIVE: u8 = 0xee;
/// The types of extended partitions.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// How many logical partitions are looked for.
const MOST_LOGICAL: usize = 1024;

/// An entry that is in use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// Where it lies in the file.
    pub(crate) at: u64,
    /// Which of the four it is, from 1.
    pub(crate) slot: u32,
    /// Whether it is marked as the one to boot from.
    pub(crate) active: bool,
    pub(crate) kind: u8,
    /// The first sector, and the one behind the last.
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Entry {
    pub(crate) fn is_extended(&self) -> bool {
        EXTENDED.contains(&self.kind)
    }
}

/// The entries in use of the sector `bytes`, which lies at `at`; their starts count from `base`.
pub(crate) fn entries(bytes: &[u8], at: u64, base: u64) -> Vec<Entry> {
    let table = bytes.get(to_usize(AT_ENTRIES)..to_usize(AT_SIGNATURE)).unwrap_or_default();
    let mut found = Vec::new();
    for ((entry, place), slot) in
        table.chunks_exact(to_usize(ENTRY)).zip((AT_ENTRIES..).step_by(16)).zip(1u32..)
    {
        let kind = entry.get(4).copied().unwrap_or_default();
        let number = |from: usize| {
            u64::from(entry.get(from..).and_then(|e| e.get(..4)).map_or(0, LittleEndian::read_u32))
        };
        if kind != 0 {
            let start = base.saturating_add(number(8));
            let end = start.saturating_add(number(12));
            let active = entry.first() == Some(&0x80);
            found.push(Entry { at: at.saturating_add(place), slot, active, kind, start, end });
        }
    }
    found
}

/// Whether a sector ends as a table does.
pub(crate) fn is_signed(bytes: &[u8]) -> bool {
    bytes.get(to_usize(AT_SIGNATURE)..).is_some_and(|end| end.starts_with(&SIGNATURE))
}

/// What was found along the chain of an extended partition.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    pub(crate) logical: Vec<Entry>,
    /// Why the chain ends too early, and where.
    pub(crate) broken: Option<(&'static str, u64)>,
}

/// Follows the chain of the `extended` partition (each link has one partition, whose start counts
/// from the link, and the next link, whose start counts from the first one), in sectors of this size.
/// What was found before an error stays in `chain`.
pub(crate) fn follow(
    storage: &dyn Storage,
    sector: Pow2,
    extended: &Entry,
    chain: &mut Chain,
) -> Result<()> {
    let (mut link, mut at, mut seen) = (extended.start, extended.at, BTreeSet::new());
    loop {
        let place = sector.offset_of(link).unwrap_or(u64::MAX);
        let why = if !seen.insert(link) {
            "leads back to a link before"
        } else if link < extended.start || link >= extended.end {
            "leads out of the extended partition"
        } else if place.saturating_add(SECTOR) > storage.size() {
            "leads beyond the end of the disk"
        } else if seen.len() > MOST_LOGICAL {
            "is longer than 1024 links"
        } else {
            ""
        };
        if !why.is_empty() {
            chain.broken = Some((why, at));
            return Ok(());
        }
        let bytes = read_vec(storage, "an extended partition's table", place, to_usize(SECTOR))?;
        if !is_signed(&bytes) {
            chain.broken = Some(("leads to a sector without the signature", place));
            return Ok(());
        }
        let mut next = None;
        for entry in entries(&bytes, place, 0) {
            if entry.is_extended() {
                next = Some((extended.start.saturating_add(entry.start), entry.at));
            } else {
                let (start, end) =
                    (link.saturating_add(entry.start), link.saturating_add(entry.end));
                chain.logical.push(Entry { start, end, ..entry });
            }
        }
        match next {
            Some(next) => (link, at) = next,
            None => return Ok(()),
        }
    }
}
