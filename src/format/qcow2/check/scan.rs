//! Reading an L2 table whole: what its entries refer to, and what is wrong with them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use byteorder::{BigEndian, ByteOrder};

use crate::finding::{Code, Finding};
use crate::num::{to_u64, to_usize};

use super::super::entry::{L2Entry, Subclusters};
use super::super::layout::*;
use super::picture::{Picture, Uses, beyond_end};
use super::stored::Stored;
use super::survey::Survey;
use super::{MENDED, Told};

/// What is known of guest clusters, all L2 tables together.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) allocated: AtomicU64,
    pub(super) fragmented: AtomicU64,
    pub(super) compressed: AtomicU64,
}

impl Figures {
    pub(super) fn add(&self, table: &TableFigures, times: u64) {
        self.allocated.fetch_add(table.allocated.saturating_mul(times), Relaxed);
        self.fragmented.fetch_add(table.fragmented.saturating_mul(times), Relaxed);
        self.compressed.fetch_add(table.compressed.saturating_mul(times), Relaxed);
    }
}

/// The same of one table.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct TableFigures {
    allocated: u64,
    fragmented: u64,
    compressed: u64,
    /// Where the next cluster would follow the one before it.
    next: u64,
}

/// An L2 table that was read.
#[derive(Debug)]
pub(super) struct Table<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) uses: Uses,
}

/// What entries are held against.
pub(super) struct Scan<'a> {
    pub(super) survey: &'a Survey<'a>,
    pub(super) stored: &'a Stored<'a>,
    pub(super) picture: &'a Picture,
    /// And whether what is no matter of the window is told.
    pub(super) told: (&'a Told<'a>, bool),
}

/// An entry, and where it is.
#[derive(Debug, Clone, Copy)]
struct Entry {
    value: u64,
    /// The second half, where entries are extended.
    bitmap: u64,
    index: u64,
    at: u64,
}

const WHAT: &str = "L2 entry";

impl Scan<'_> {
    pub(super) fn table(&self, table: &Table<'_>) -> TableFigures {
        let mut figures = TableFigures::default();
        let extended = self.survey.header.extended_l2();
        let size = to_usize(self.survey.header.l2_entry_size().size());
        let mut position = 0_usize;
        loop {
            let rest = table.bytes.get(position..).unwrap_or_default();
            // most of most tables
            let zeros = leading_zeros(rest);
            position =
                position.saturating_add(zeros.saturating_sub(zeros.checked_rem(size).unwrap_or(0)));
            let rest = table.bytes.get(position..).unwrap_or_default();
            let Some((first, behind)) = rest.split_at_checked(size) else { return figures };
            let bitmap = if extended { second(first) } else { 0 };
            let entry = Entry {
                value: BigEndian::read_u64(first),
                bitmap,
                index: to_u64(position).checked_div(to_u64(size)).unwrap_or_default(),
                at: table.uses.table.saturating_add(to_u64(position)),
            };
            let count = if self.is_plain(&entry) {
                let more = self.alike(&entry, behind);
                let count = more.saturating_add(1);
                self.data(&entry, &table.uses, count, &mut figures);
                count
            } else {
                self.odd(&entry, &table.uses, &mut figures);
                1
            };
            position = position.saturating_add(to_usize(count).saturating_mul(size));
        }
    }

    /// Whether an entry has a host cluster and nothing to be told.
    fn is_plain(&self, entry: &Entry) -> bool {
        let header = self.survey.header;
        let flags = ENTRY_OFFSET | ENTRY_COPIED | self.zero_flag();
        let offset = entry.value & ENTRY_OFFSET;
        let states = Subclusters::decode(entry.bitmap);
        entry.value & !flags == 0
            && offset != 0
            && header.cluster.is_aligned(offset)
            && states.allocated & states.zero == 0
    }

    /// The zero flag, where entries have one.
    fn zero_flag(&self) -> u64 {
        let header = self.survey.header;
        if header.version >= 3 && !header.extended_l2() { L2_ZERO } else { 0 }
    }

    /// How many of the entries that follow are like this one, each a cluster further.
    fn alike(&self, entry: &Entry, behind: &[u8]) -> u64 {
        let step = self.survey.header.cluster.size();
        let mut last = entry.value;
        let mut follows = |value: u64| {
            let same = value == last.wrapping_add(step) && (value ^ last) & !ENTRY_OFFSET == 0;
            last = value;
            same
        };
        let count = if self.survey.header.extended_l2() {
            let entries = behind.as_chunks::<16>().0.iter();
            entries
                .take_while(|next| {
                    second(&next[..]) == entry.bitmap && follows(BigEndian::read_u64(&next[..]))
                })
                .count()
        } else {
            let entries = behind.as_chunks::<8>().0.iter();
            entries.take_while(|next| follows(BigEndian::read_u64(&next[..]))).count()
        };
        to_u64(count)
    }

    /// Tells what is wrong with an entry, once.
    fn tell<T: AsRef<str>>(&self, entry: &Entry, code: Code, text: impl FnOnce() -> T) {
        if self.told.1 {
            let finding = Finding::new(code, text()).at(entry.at).in_structure(WHAT);
            self.told.0.corruption(finding);
        }
    }

    /// `count` clusters from the one of this entry on, which lie one behind the other.
    fn data(&self, entry: &Entry, uses: &Uses, count: u64, figures: &mut TableFigures) {
        let cluster = self.survey.header.cluster;
        let offset = entry.value & ENTRY_OFFSET;
        figures.allocated = figures.allocated.saturating_add(count);
        if figures.next != 0 && figures.next != offset {
            figures.fragmented = figures.fragmented.saturating_add(1);
        }
        figures.next = offset.saturating_add(count.saturating_mul(cluster.size()));
        if self.survey.header.has_data_file() {
            self.external(entry, uses, offset, count);
            return;
        }
        let first = cluster.index(offset);
        let end = first.saturating_add(count);
        let inside = end.min(self.survey.clusters);
        self.picture.data(first..inside.max(first), uses.all);
        if uses.active > 0 && self.picture.known {
            self.copied(entry, first, inside);
        }
        if end > inside {
            self.beyond(entry, uses, first, inside.max(first)..end);
        } else if inside == self.survey.clusters {
            self.cut_off(entry, inside.saturating_sub(1), first);
        }
    }

    /// Clusters beyond the end of the file.
    fn beyond(&self, entry: &Entry, uses: &Uses, first: u64, clusters: std::ops::Range<u64>) {
        if !self.told.1 {
            return;
        }
        let header = self.survey.header;
        for number in clusters {
            let step = number.saturating_sub(first);
            let at = entry.at.saturating_add(step.saturating_mul(header.l2_entry_size().size()));
            let value = entry.value.wrapping_add(step.wrapping_mul(header.cluster.size()));
            let offset = value & ENTRY_OFFSET;
            let found = beyond_end("data cluster", offset, self.survey);
            self.told.0.corruption(found.at(at).in_structure(WHAT));
            if uses.active > 0 {
                self.stored.copied(self.told.0, value, offset, at, WHAT, true);
            }
        }
    }

    /// Whether guest data end in the middle of the file's last cluster.
    fn cut_off(&self, entry: &Entry, last: u64, first: u64) {
        let header = self.survey.header;
        let (cluster, size) = (header.cluster, self.survey.storage.size());
        let offset = cluster.offset_of(last).unwrap_or(u64::MAX);
        let states = Subclusters::decode(entry.bitmap);
        let needed = match (header.extended_l2(), entry.value & self.zero_flag() != 0) {
            (_, true) => 0,
            (false, false) => cluster.size(),
            (true, _) => {
                let used = 32u32.saturating_sub(states.allocated.leading_zeros());
                u64::from(used).saturating_mul(cluster.size().wrapping_shr(5))
            }
        };
        if offset.saturating_add(needed) > size {
            let step = last.saturating_sub(first);
            let at = entry.at.saturating_add(step.saturating_mul(header.l2_entry_size().size()));
            self.tell(&Entry { at, ..*entry }, Code::Truncated, || {
                format!(
                    "the file ends at {size:#x}, in the middle of the data cluster at {offset:#x}"
                )
            });
        }
    }

    /// Holds the flag COPIED against the stored counts.
    fn copied(&self, entry: &Entry, first: u64, end: u64) {
        let part = self.picture.part(first..end.max(first));
        let flag = entry.value & ENTRY_COPIED != 0;
        let mut index = self.picture.once.find(part.start, part.end, !flag);
        while index < part.end {
            let number = self.picture.window.start.saturating_add(index);
            let step = number.saturating_sub(first);
            let size = self.survey.header.l2_entry_size().size();
            let at = entry.at.saturating_add(step.saturating_mul(size));
            let value =
                entry.value.wrapping_add(step.wrapping_mul(self.survey.header.cluster.size()));
            self.told.0.copied(value, !flag, at, WHAT);
            index = self.picture.once.find(index.saturating_add(1), part.end, !flag);
        }
    }

    /// Data in an external file lie where the guest has them ("Standard Cluster Descriptor").
    /// and are counted once, without a count of theirs.
    fn external(&self, entry: &Entry, uses: &Uses, offset: u64, count: u64) {
        let header = self.survey.header;
        let guest = header
            .l2_span()
            .offset_of(uses.index)
            .unwrap_or(u64::MAX)
            .saturating_add(entry.index.saturating_mul(header.cluster.size()));
        if uses.active > 0 && entry.value & ENTRY_COPIED == 0 && self.told.1 {
            for step in 0..count {
                let at =
                    entry.at.saturating_add(step.saturating_mul(header.l2_entry_size().size()));
                let value = entry.value.wrapping_add(step.wrapping_mul(header.cluster.size()));
                self.told.0.copied(value, true, at, WHAT);
            }
        }
        if uses.active > 0 && offset != guest {
            self.tell(entry, Code::InvalidEntry, || {
                format!(
                    "names offset {offset:#x} of the external data file for guest offset \
                         {guest:#x}, which must be the same"
                )
            });
        }
    }

    /// Any entry that is not a plain one.
    fn odd(&self, entry: &Entry, uses: &Uses, figures: &mut TableFigures) {
        if entry.value & L2_COMPRESSED != 0 {
            self.compressed(entry, uses, figures);
            return;
        }
        let header = self.survey.header;
        let (value, offset) = (entry.value, entry.value & ENTRY_OFFSET);
        let mut reserved = !(ENTRY_OFFSET | ENTRY_COPIED | L2_ZERO);
        if header.extended_l2() {
            reserved |= L2_ZERO;
        }
        if value & reserved != 0 {
            self.tell(entry, Code::ReservedBits, || {
                format!("has reserved bits set: {value:#018x}")
            });
        } else if value & L2_ZERO != 0 && header.version < 3 {
            self.tell(entry, Code::InvalidEntry, || {
                format!("has the zero flag, which version 2 has not: {value:#018x}")
            });
        }
        let copied = value & ENTRY_COPIED != 0;
        let states = Subclusters::decode(entry.bitmap);
        if offset == 0 && !(header.has_data_file() && copied) {
            if copied {
                self.tell(entry, Code::InvalidEntry, || "has the flag COPIED, but no cluster");
            }
            if states.allocated != 0 {
                self.tell(
                    entry,
                    Code::SubclusterBits,
                    || "calls subclusters allocated, but has no cluster",
                );
            }
            return;
        }
        let both = (states.allocated & states.zero).count_ones();
        if both != 0 {
            self.tell(entry, Code::SubclusterBits, || {
                format!("calls {both} subclusters allocated and zero at once")
            });
        }
        if !header.cluster.is_aligned(offset) {
            self.tell(entry, Code::Misaligned, || {
                format!("names a data cluster at {offset:#x}, between two clusters")
            });
            // it lies in two of them, and does not follow the one before it
            if figures.next != 0 && figures.next != offset {
                figures.fragmented = figures.fragmented.saturating_add(1);
            }
            figures.next = 0;
            let mask = ENTRY_OFFSET & !header.cluster.size().wrapping_sub(1);
            let first = Entry { value: value & (mask | ENTRY_COPIED | self.zero_flag()), ..*entry };
            if first.value & ENTRY_OFFSET != 0 {
                self.data(&first, uses, 1, figures);
            } else {
                // it begins in the header's cluster
                figures.allocated = figures.allocated.saturating_add(1);
            }
            figures.next = offset.saturating_add(header.cluster.size());
            let number = header.cluster.index(offset).saturating_add(1);
            if !header.has_data_file() && number < self.survey.clusters {
                self.picture.data(number..number.saturating_add(1), uses.all);
            }
            return;
        }
        self.data(entry, uses, 1, figures);
    }

    fn compressed(&self, entry: &Entry, uses: &Uses, figures: &mut TableFigures) {
        let (header, survey) = (self.survey.header, self.survey);
        let decoded = L2Entry::decode(entry.value, None, header, 0);
        let Ok(L2Entry::Compressed { offset, length }) = decoded else {
            self.tell(
                entry,
                Code::InvalidEntry,
                || "is compressed, which an image with an external data file cannot be",
            );
            return;
        };
        figures.allocated = figures.allocated.saturating_add(1);
        figures.compressed = figures.compressed.saturating_add(1);
        figures.fragmented = figures.fragmented.saturating_add(1);
        if entry.value & ENTRY_COPIED != 0 && self.told.1 {
            let text = "has the flag COPIED, which compressed clusters never have";
            let finding = Finding::new(Code::CopiedFlag, text).at(entry.at);
            self.told.0.corruption(finding.in_structure(WHAT).fix(MENDED));
        }
        if entry.bitmap != 0 {
            self.tell(
                entry,
                Code::SubclusterBits,
                || "is compressed, but says something of subclusters",
            );
        }
        let clusters =
            header.cluster.index(offset)..header.cluster.count(offset.saturating_add(length));
        if clusters.end > survey.clusters || offset >= survey.storage.size() {
            if self.told.1 {
                let found = beyond_end("compressed cluster", offset, survey);
                self.told.0.corruption(found.at(entry.at).in_structure(WHAT));
            }
        } else {
            self.picture.data(clusters, uses.all);
        }
    }
}

/// The second half of an extended entry.
fn second(entry: &[u8]) -> u64 {
    entry.get(8..16).map(BigEndian::read_u64).unwrap_or_default()
}

/// How many bytes of zeros come first, in steps of 8.
fn leading_zeros(bytes: &[u8]) -> usize {
    let (blocks, _) = bytes.as_chunks::<128>();
    let is_zero = |block: &&[u8; 128]| {
        let (words, _) = block.as_chunks::<8>();
        words.iter().fold(0, |all, word| all | u64::from_ne_bytes(*word)) == 0
    };
    let skipped = blocks.iter().take_while(is_zero).count().saturating_mul(128);
    let (words, _) = bytes.get(skipped..).unwrap_or_default().as_chunks::<8>();
    let more = words.iter().take_while(|word| u64::from_ne_bytes(**word) == 0).count();
    skipped.saturating_add(more.saturating_mul(8))
}
