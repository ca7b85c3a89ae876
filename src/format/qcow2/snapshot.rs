//! The snapshot table ("Snapshots").

use crate::bytes::BeCursor;
use crate::error::{Error, Result};
use crate::layer::Snapshot;
use crate::limits::Limits;
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, read_vec};

use super::error::Qcow2Detail;
use super::header::Header;
use super::layout::*;

/// An internal snapshot: what describes it, and the L1 table that is its content.
#[derive(Debug, Clone)]
pub(super) struct SnapshotEntry {
    pub(super) description: Snapshot,
    pub(super) l1_table_offset: u64,
    pub(super) l1_size: u32,
    /// Where its table entry lies.
    pub(super) offset: u64,
    /// And where it ends, padding included.
    pub(super) end: u64,
    /// Whether it lacks the extra data that version 3 must have.
    pub(super) incomplete: bool,
}

/// Reads the snapshot table into `entries`, up to what is wrong with it.
pub(super) fn read_snapshots(
    storage: &dyn Storage,
    header: &Header,
    limits: &Limits,
    entries: &mut Vec<SnapshotEntry>,
) -> Result<()> {
    let count = header.nb_snapshots;
    if count == 0 {
        return Ok(());
    }
    if count > limits.max_snapshots {
        let (what, limit) = ("snapshots", limits.max_snapshots.into());
        let detail = Qcow2Detail::TooMany { what, count: count.into(), limit };
        return Err(Error::new(detail).at(60));
    }
    let start = header.snapshots_offset;
    let least = u64::from(count).saturating_mul(SNAPSHOT_FIXED_LENGTH);
    header.check_table(storage, "snapshot table", start, least).map_err(|error| error.at(64))?;
    // entries are of any length, so the table's end is not known before it is read
    let length = storage.size().saturating_sub(start).min(limits.max_directory_size);
    let mut table = Window { storage, start, bytes: Vec::new(), length };
    let mut at = start;
    for _ in 0..count {
        let (entry, behind) = parse(&mut table, at, header)?;
        entries.push(entry);
        at = behind;
    }
    Ok(())
}

/// The table as far as it has been needed, read in steps that double.
struct Window<'a> {
    storage: &'a dyn Storage,
    start: u64,
    bytes: Vec<u8>,
    length: u64,
}

impl Window<'_> {
    /// A cursor over everything read from `at` on: at least `length` bytes, if there are so many.
    fn cursor(&mut self, at: u64, length: u64) -> Result<BeCursor<'_>> {
        let from = at.saturating_sub(self.start);
        let wanted = from.saturating_add(length);
        if wanted > to_u64(self.bytes.len()) {
            let grown = wanted.max(to_u64(self.bytes.len()).saturating_mul(2)).max(4096);
            self.bytes = read_vec(
                self.storage,
                "the snapshot table",
                self.start,
                to_usize(grown.min(self.length)),
            )?;
        }
        Ok(BeCursor::new(self.bytes.get(to_usize(from)..).unwrap_or_default(), at))
    }
}

fn parse(table: &mut Window<'_>, at: u64, header: &Header) -> Result<(SnapshotEntry, u64)> {
    const WHAT: &str = "a snapshot table entry";
    let mut cursor = table.cursor(at, SNAPSHOT_FIXED_LENGTH)?;
    let l1_table_offset = cursor.u64(WHAT)?;
    let l1_size = cursor.u32(WHAT)?;
    let id_length = cursor.u16(WHAT)?;
    let name_length = cursor.u16(WHAT)?;
    let date_sec = cursor.u32(WHAT)?;
    let date_nsec = cursor.u32(WHAT)?;
    let vm_clock_nsec = cursor.u64(WHAT)?;
    let vm_state_size = cursor.u32(WHAT)?;
    let extra_length = cursor.u32(WHAT)?;
    if extra_length > MAX_SNAPSHOT_EXTRA {
        let (what, limit) = ("extra data of a snapshot", MAX_SNAPSHOT_EXTRA.into());
        let detail = Qcow2Detail::TooLarge { what, size: extra_length.into(), limit };
        return Err(Error::new(detail).at(at));
    }
    let variable =
        u64::from(extra_length).saturating_add(id_length.into()).saturating_add(name_length.into());
    let total = SNAPSHOT_FIXED_LENGTH.saturating_add(variable);
    let mut cursor = table.cursor(at, total)?;
    cursor.bytes(to_usize(SNAPSHOT_FIXED_LENGTH), WHAT)?;
    let extra_offset = cursor.offset();
    let extra = cursor.bytes(to_usize(extra_length.into()), WHAT)?;
    let id = cursor.bytes(id_length.into(), WHAT)?.to_owned();
    let name = cursor.bytes(name_length.into(), WHAT)?.to_owned();
    cursor.pad_to(8, at);
    // extra data: state size in 64 bits, disk size, instruction count; each from version 3 on
    let mut extra = BeCursor::new(extra, extra_offset);
    let state_64 = extra.u64("").ok();
    let disk_size = extra.u64("").ok();
    let icount = extra.u64("").ok();
    let description = Snapshot {
        id,
        name,
        virtual_size: disk_size.unwrap_or(header.size),
        vm_state_size: state_64.unwrap_or(vm_state_size.into()),
        date_sec,
        date_nsec,
        vm_clock_nsec,
        icount: icount.filter(|&count| count != u64::MAX),
    };
    let behind = cursor.offset();
    let incomplete = header.version >= 3 && extra_length < V3_MIN_SNAPSHOT_EXTRA;
    let (offset, end) = (at, behind);
    let entry = SnapshotEntry { description, l1_table_offset, l1_size, offset, end, incomplete };
    Ok((entry, behind))
}

/// Finds a snapshot by identifier, or else by name.
pub(super) fn find<'a>(entries: &'a [SnapshotEntry], wanted: &[u8]) -> Result<&'a SnapshotEntry> {
    let by_id = entries.iter().find(|entry| entry.description.id == wanted);
    let found = by_id.or_else(|| entries.iter().find(|entry| entry.description.name == wanted));
    found.ok_or_else(|| Qcow2Detail::NoSnapshot(crate::text::printable(wanted)).into())
}
