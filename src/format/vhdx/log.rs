//! The log of pending writes (2.3), replayed in memory.

use std::sync::Arc;

use crate::bytes::LeCursor;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::num::{to_u64, to_usize};
use crate::storage::{Storage, read_vec};

use super::error::VhdxDetail;
use super::guid::Guid;
use super::header::{Header, is_intact};
use super::layout::*;
use super::overlay::{LogOverlay, Sector};

/// What was found of a log.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::format::LayerOptions;
/// use diskimage::format::vhdx::VhdxOptions;
/// use diskimage::format::vhdx::{LogState, VhdxLayer};
/// use diskimage::storage::FileStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.vhdx");
/// # let target = diskimage::target::FileTarget::create(&path, 0)?.durable(false);
/// let writer = VhdxOptions::new().writer(1 << 30)?;
/// # diskimage::Convert::new().create(Box::new(writer), &target)?;
/// # diskimage::Target::finish(Box::new(target))?;
/// // `path` is the file that it makes of an empty disk
/// let storage = Arc::new(FileStorage::open(&path)?);
/// match VhdxLayer::open(storage, &LayerOptions::default())?.log() {
///     LogState::Replayed { entries, sectors, .. } => {
///         println!("not closed properly: {entries} entries with {sectors} sectors waited");
///     }
///     LogState::Ignored => println!("the log is damaged, so what is read may be old"),
///     state => assert_eq!(state, LogState::Empty),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogState {
    /// There is nothing to replay.
    Empty,
    /// It was replayed in memory.
    Replayed {
        /// How many entries count.
        entries: u64,
        /// The sequence number of the last one.
        sequence_number: u64,
        /// How many sectors of 4 KiB they write.
        sectors: u64,
        /// How many bytes they fill with zeros.
        zeros: u64,
        /// How long the file is then.
        file_size: u64,
    },
    /// It is damaged, and the caller wants to read the image without it.
    Ignored,
}

/// The bytes of the log, which is a ring.
struct Ring {
    bytes: Vec<u8>,
    guid: Guid,
}

/// A valid log entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// Where it starts in the log.
    position: u64,
    length: u64,
    /// Where the entry starts from which the log is to be replayed, if this is the last one.
    tail: u64,
    sequence_number: u64,
    descriptors: u64,
    /// The length of the file that everything before this entry relies on.
    flushed_file_offset: u64,
    /// The length that the file must have after this entry.
    last_file_offset: u64,
}

/// A descriptor of an entry.
#[derive(Debug, Clone, Copy)]
enum Descriptor {
    Zero { length: u64, offset: u64 },
    Data { offset: u64, leading: [u8; 8], trailing: [u8; 4] },
}

/// Replays the log that `header` speaks of: what there is of it, and `base` with the log's writes
/// in it, where there are any.
///
/// With `trust_broken`, a log without any valid sequence of entries is left alone.
pub(super) fn replay(
    base: &Arc<dyn Storage>,
    header: &Header,
    limits: &Limits,
    trust_broken: bool,
) -> Result<(LogState, Option<Arc<LogOverlay>>)> {
    if header.log_guid.is_nil() {
        return Ok((LogState::Empty, None));
    }
    let (offset, length) = (header.log_offset, header.log_length);
    // it is held in memory, so that its sequence is looked for and replayed in one reading
    if length > limits.max_directory_size {
        let (what, limit) = ("log, in bytes,", limits.max_directory_size);
        return Err(Error::new(VhdxDetail::TooLarge { what, size: length, limit }).at(offset));
    }
    let bytes = read_vec(base, "the log", offset, to_usize(length))?;
    let ring = Ring { bytes, guid: header.log_guid };
    let Some((head, entries)) = ring.active_sequence() else {
        if trust_broken {
            return Ok((LogState::Ignored, None));
        }
        return Err(Error::new(VhdxDetail::NoActiveLog).at(offset));
    };
    let at = |entry: &Entry, within: u64| {
        offset.saturating_add(ring.wrap(entry.position.saturating_add(within)))
    };
    if base.size() < head.flushed_file_offset {
        let (flushed, size) = (head.flushed_file_offset, base.size());
        return Err(Error::new(VhdxDetail::LogFileCut { flushed, size }).at(at(&head, 48)));
    }
    let mut overlay = LogOverlay::new(Arc::clone(base), head.last_file_offset);
    // an earlier entry may have been written when the file was to be longer
    let lasts = entries.iter().map(|entry| entry.last_file_offset);
    let most = lasts.fold(overlay.size(), u64::max);
    let (mut sectors, mut zeros) = (0u64, 0u64);
    let log = offset..offset.saturating_add(length);
    for entry in &entries {
        let mut data_sector = entry.descriptor_area();
        for (index, place) in (0..entry.descriptors).zip(descriptor_places()) {
            let Some(descriptor) = ring.descriptor(entry, index) else { continue };
            let (start, length) = descriptor.range();
            let end = start.checked_add(length);
            let rule = if !start.is_multiple_of(LOG_SECTOR) || !length.is_multiple_of(LOG_SECTOR) {
                "whole sectors of 4 KiB"
            } else if end.is_none_or(|end| end > most) {
                "within the file"
            } else if start < REGION_TABLE_OFFSETS[0] {
                "behind the headers, which no log speaks of"
            } else if start < log.end && end.is_some_and(|end| end > log.start) {
                "outside of the log itself"
            } else {
                ""
            };
            if !rule.is_empty() {
                let detail = VhdxDetail::LogWrite { start, length, rule };
                return Err(Error::new(detail).at(at(entry, place)));
            }
            overlay.grow(start.saturating_add(length));
            match descriptor {
                Descriptor::Zero { .. } => {
                    zeros = zeros.saturating_add(length);
                    overlay.put_zeros(start, length);
                }
                Descriptor::Data { leading, trailing, .. } => {
                    sectors = sectors.saturating_add(1);
                    let sector = Sector { at: at(entry, data_sector), leading, trailing };
                    overlay.put_sector(start, sector);
                    data_sector = data_sector.saturating_add(LOG_SECTOR);
                }
            }
            if overlay.runs() > MAX_LOG_RUNS {
                let (what, size) = ("log's number of separate writes", to_u64(overlay.runs()));
                let detail = VhdxDetail::TooLarge { what, size, limit: to_u64(MAX_LOG_RUNS) };
                return Err(Error::new(detail).at(at(entry, place)));
            }
        }
    }
    let state = LogState::Replayed {
        entries: to_u64(entries.len()),
        sequence_number: head.sequence_number,
        sectors,
        zeros,
        file_size: overlay.size(),
    };
    Ok((state, Some(Arc::new(overlay))))
}

/// Where in an entry its descriptors start.
fn descriptor_places() -> impl Iterator<Item = u64> {
    (LOG_ENTRY_HEADER_LENGTH..).step_by(to_usize(LOG_DESCRIPTOR_LENGTH))
}

impl Ring {
    fn length(&self) -> u64 {
        to_u64(self.bytes.len())
    }

    /// `position` in the ring.
    fn wrap(&self, position: u64) -> u64 {
        position.checked_rem(self.length()).unwrap_or_default()
    }

    /// Bytes from `position` on, which do not cross a sector's end.
    fn at(&self, position: u64, length: u64) -> &[u8] {
        let bytes = self.bytes.get(to_usize(self.wrap(position))..);
        bytes.and_then(|rest| rest.get(..to_usize(length))).unwrap_or_default()
    }

    /// The active sequence (2.3.3): of the sequences of valid entries, each of which follows the
    /// one before at once and has the next sequence number, the one that ends in the greatest
    /// number among those that hold the tail of their last entry. Gives the last entry, and those
    /// to be replayed.
    ///
    /// Each sector is looked at a few times at most: sectors inside of an entry do not look like
    /// its first one, so that no entry can start within what was taken for another one.
    fn active_sequence(&self) -> Option<(Entry, Vec<Entry>)> {
        let mut active: Option<(Entry, Vec<Entry>)> = None;
        let mut start = 0;
        while start < self.length() {
            let mut sequence: Vec<Entry> = Vec::new();
            let mut position = start;
            while let Some(entry) = self.entry(self.wrap(position)) {
                let follows = sequence.last().is_none_or(|last| {
                    last.sequence_number.checked_add(1) == Some(entry.sequence_number)
                });
                let end = position.saturating_add(entry.length);
                // once around and no further
                if !follows || end.saturating_sub(start) > self.length() {
                    break;
                }
                sequence.push(entry);
                position = end;
            }
            let Some(&head) = sequence.last() else {
                start = start.saturating_add(LOG_SECTOR);
                continue;
            };
            start = position;
            let tail = sequence.iter().position(|entry| entry.position == head.tail);
            let greater =
                |(other, _): &(Entry, Vec<Entry>)| head.sequence_number > other.sequence_number;
            if let Some(tail) = tail
                && active.as_ref().is_none_or(greater)
            {
                active = Some((head, sequence.split_off(tail)));
            }
        }
        active
    }

    /// The entry that starts at `position`, if there is a valid one.
    fn entry(&self, position: u64) -> Option<Entry> {
        let header = self.at(position, LOG_ENTRY_HEADER_LENGTH);
        if !header.starts_with(LOG_ENTRY_SIGNATURE) {
            return None;
        }
        let mut cursor = LeCursor::new(header, 0);
        let what = "the log entry";
        cursor.u64(what).ok()?;
        let length = u64::from(cursor.u32(what).ok()?);
        let tail = u64::from(cursor.u32(what).ok()?);
        let sequence_number = cursor.u64(what).ok()?;
        let descriptors = u64::from(cursor.u32(what).ok()?);
        cursor.u32(what).ok()?;
        let guid = Guid::read(&mut cursor, what).ok()?;
        let flushed_file_offset = cursor.u64(what).ok()?;
        let last_file_offset = cursor.u64(what).ok()?;
        let entry = Entry {
            position,
            length,
            tail,
            sequence_number,
            descriptors,
            flushed_file_offset,
            last_file_offset,
        };
        let plausible = guid == self.guid
            && sequence_number > 0
            && length.is_multiple_of(LOG_SECTOR)
            && length <= self.length()
            && entry.descriptor_area() <= length;
        // what is inside comes before the checksum: see `active_sequence`
        (plausible && self.is_well_formed(&entry) && self.is_intact(&entry)).then_some(entry)
    }

    /// Whether the descriptors and the data sectors are those of this entry, and all there is.
    fn is_well_formed(&self, entry: &Entry) -> bool {
        let mut end = entry.descriptor_area();
        for index in 0..entry.descriptors {
            match self.descriptor(entry, index) {
                None => return false,
                Some(Descriptor::Zero { .. }) => {}
                Some(Descriptor::Data { .. }) => {
                    let sector = self.at(entry.position.saturating_add(end), LOG_SECTOR);
                    if end >= entry.length || !is_data_sector(sector, entry.sequence_number) {
                        return false;
                    }
                    end = end.saturating_add(LOG_SECTOR);
                }
            }
        }
        end == entry.length
    }

    fn is_intact(&self, entry: &Entry) -> bool {
        let behind = entry.position.saturating_add(entry.length).saturating_sub(self.length());
        let first = self.at(entry.position, entry.length.saturating_sub(behind));
        let rest = if behind > 0 { self.at(0, behind) } else { &[] };
        is_intact(&[first, rest])
    }

    /// The descriptor number `index` of an entry, if it is one of that entry.
    fn descriptor(&self, entry: &Entry, index: u64) -> Option<Descriptor> {
        let within =
            index.saturating_mul(LOG_DESCRIPTOR_LENGTH).saturating_add(LOG_ENTRY_HEADER_LENGTH);
        let bytes = self.at(entry.position.saturating_add(within), LOG_DESCRIPTOR_LENGTH);
        let mut cursor = LeCursor::new(bytes, 0);
        let what = "the log descriptor";
        let signature = cursor.bytes(4, what).ok()?;
        let trailing = *cursor.bytes(4, what).ok()?.first_chunk()?;
        let leading: [u8; 8] = *cursor.bytes(8, what).ok()?.first_chunk()?;
        let offset = cursor.u64(what).ok()?;
        if cursor.u64(what).ok()? != entry.sequence_number {
            return None;
        }
        match signature {
            ZERO_DESCRIPTOR_SIGNATURE => {
                Some(Descriptor::Zero { length: u64::from_le_bytes(leading), offset })
            }
            DATA_DESCRIPTOR_SIGNATURE => Some(Descriptor::Data { offset, leading, trailing }),
            _ => None,
        }
    }
}

impl Entry {
    /// The length of the header and the descriptors, in whole sectors.
    fn descriptor_area(&self) -> u64 {
        let descriptors = self.descriptors.saturating_mul(LOG_DESCRIPTOR_LENGTH);
        descriptors.saturating_add(LOG_ENTRY_HEADER_LENGTH).next_multiple_of(LOG_SECTOR)
    }
}

impl Descriptor {
    /// Where it writes, and how much.
    fn range(&self) -> (u64, u64) {
        match *self {
            Self::Zero { length, offset } => (offset, length),
            Self::Data { offset, .. } => (offset, LOG_SECTOR),
        }
    }
}

/// Whether a sector carries the marks of the entry of this number at both ends.
fn is_data_sector(sector: &[u8], sequence_number: u64) -> bool {
    let [l0, l1, l2, l3, h0, h1, h2, h3] = sequence_number.to_le_bytes();
    sector.starts_with(DATA_SECTOR_SIGNATURE)
        && sector.get(4..8) == Some(&[h0, h1, h2, h3])
        && sector.ends_with(&[l0, l1, l2, l3])
}

#[cfg(test)]
mod tests;
