//! A sparse extent of any kind: its header, and what the entries of its tables mean. Offsets are
//! bytes from the start of the extent, unless they are places in its file.

use std::ops::Range;
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};

use crate::bytes::is_zero;
use crate::error::{Error, ErrorKind, Result};
use crate::format::LayerOptions;
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::{Storage, TableCache, read_vec};

use super::cowd::CowdHeader;
use super::error::VmdkDetail;
use super::header::{SparseHeader, read_footer};
use super::layout::*;
use super::sesparse::{SeSparseHeader, grain_number};

/// A file of grains and the tables that tell where they are.
#[derive(Debug)]
pub(super) struct Sparse {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) cache: TableCache,
    pub(super) kind: Kind,
    /// The size of the extent, bytes: what its header says, until its line is known.
    pub(super) capacity: u64,
    /// The size of a grain, bytes.
    pub(super) grain: Pow2,
    /// The size of an entry of either table.
    pub(super) entry: Pow2,
    /// Entries of a grain table.
    pub(super) per_table: u64,
    /// The grain directory in use.
    pub(super) directory: u64,
    /// The other one, if there is one: its place, and what is wrong with it if that is known.
    redundant: Option<u64>,
    damaged: Option<Error>,
    /// Places of the file's structures, where no grain can be: the header and the descriptor
    /// first, so many of them, the directories next.
    reserved: Vec<Range<u64>>,
    fixed: usize,
    /// Where the extent starts in the disk, for messages.
    start: u64,
}

/// What the three kinds have of their own.
#[derive(Debug)]
pub(super) enum Kind {
    Hosted(SparseHeader),
    Cowd(CowdHeader),
    SeSparse(SeSparseHeader),
}

/// What a grain directory entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Directory {
    None,
    Zero,
    Table(u64),
}

/// What a grain table entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grain {
    Unallocated,
    Zero,
    At(u64),
}

impl Sparse {
    /// Opens `storage` as the extent that starts at `start` of the disk; its magic tells the kind.
    pub(super) fn open(
        storage: Arc<dyn Storage>,
        start: u64,
        cache: u64,
        options: &LayerOptions,
    ) -> Result<Self> {
        let length = storage.size().min(8);
        let magic = read_vec(&storage, "the magic", 0, to_usize(length))?;
        match magic.as_slice() {
            [b'K', b'D', b'M', b'V', ..] => {
                let header = SparseHeader::read(&storage)?;
                let grain = header.validate(options.trust_broken)?;
                let directory = if header.gd_offset == GD_AT_END {
                    let footer = read_footer(&storage, &header)?;
                    let footer = footer.map_err(|(detail, at)| Error::new(detail).at(at))?;
                    footer.header.gd_offset
                } else {
                    header.gd_offset
                };
                Self::hosted(storage, header, grain, directory, start, cache, options)
            }
            [b'C', b'O', b'W', b'D', ..] => Self::cowd(storage, start, cache, options),
            [0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0] => Self::se_sparse(storage, start, cache, options),
            other => {
                let start = format!("\"{}\"", other.escape_ascii());
                Err(Error::new(VmdkDetail::NotSparse(start)).at(0))
            }
        }
    }

    /// A hosted sparse extent whose grain directory lies at sector `directory`.
    pub(super) fn hosted(
        storage: Arc<dyn Storage>,
        header: SparseHeader,
        grain: Pow2,
        directory: u64,
        start: u64,
        cache: u64,
        options: &LayerOptions,
    ) -> Result<Self> {
        let area = header.descriptor_area(storage.size())?;
        let redundant = header.rgd_offset.saturating_mul(SECTOR);
        let redundant = header.has_redundant_directory().then_some(redundant);
        let mut sparse = Self {
            cache: TableCache::new(Arc::clone(&storage), cache),
            storage,
            capacity: sectors(header.capacity).unwrap_or(u64::MAX),
            grain,
            entry: Pow2::from_bits(2).unwrap_or(grain),
            per_table: header.num_gtes_per_gt.into(),
            directory: directory.saturating_mul(SECTOR),
            redundant,
            damaged: None,
            fixed: if area.is_some() { 2 } else { 1 },
            reserved: Vec::from_iter([Some(0..SECTOR), area].into_iter().flatten()),
            kind: Kind::Hosted(header),
            start,
        };
        sparse.check_directory_size(options)?;
        let length = sparse.directory_length();
        for place in [Some(sparse.directory), sparse.redundant].into_iter().flatten() {
            // a place that makes no sense is found out by whoever looks there
            let end = place.checked_add(length).filter(|&end| end <= sparse.storage.size());
            if let Some(end) = end.filter(|&end| end > place && place >= SECTOR) {
                sparse.reserved.push(place..end);
            }
        }
        // a place that makes no sense is a damaged header rather than a damaged directory
        let placed = sparse.check_directory_place(sparse.directory);
        if !options.trust_broken {
            placed?;
        }
        if let Some(other) = sparse.redundant
            && let Some(error) = sparse.directory_damage(other)?
            && unless_io(sparse.check_directory(other))?.is_none()
        {
            sparse.redundant = Some(std::mem::replace(&mut sparse.directory, other));
            sparse.damaged = Some(error);
        }
        // entries that are wrong in both are errors for the part of the disk that they speak of
        Ok(sparse)
    }

    fn cowd(
        storage: Arc<dyn Storage>,
        start: u64,
        cache: u64,
        options: &LayerOptions,
    ) -> Result<Self> {
        let header = CowdHeader::read(&storage)?;
        let header_end = to_u64(COWD_HEADER_LENGTH);
        let mut sparse = Self {
            cache: TableCache::new(Arc::clone(&storage), cache),
            storage,
            capacity: u64::from(header.num_sectors).saturating_mul(SECTOR),
            grain: header.grain,
            entry: Pow2::from_bits(2).unwrap_or(header.grain),
            per_table: COWD_GTES_PER_GT,
            directory: u64::from(header.gd_offset).saturating_mul(SECTOR),
            redundant: None,
            damaged: None,
            reserved: vec![Range { start: 0, end: header_end }],
            fixed: 1,
            start,
            kind: Kind::Cowd(header.clone()),
        };
        sparse.check_directory_size(options)?;
        sparse.check_entries(header.num_gd_entries.into(), 24)?;
        sparse.check_directory_place(sparse.directory)?;
        let end = sparse.directory.saturating_add(sparse.directory_length());
        sparse.reserved.push(sparse.directory..end);
        Ok(sparse)
    }

    fn se_sparse(
        storage: Arc<dyn Storage>,
        start: u64,
        cache: u64,
        options: &LayerOptions,
    ) -> Result<Self> {
        let header = SeSparseHeader::read(&storage)?;
        let grain = Pow2::from_bits(12).ok_or(VmdkDetail::SizeOverflow)?;
        let entry = Pow2::from_bits(3).unwrap_or(grain);
        let entries = header.grain_directory_size.saturating_mul(SECTOR);
        let sparse = Self {
            cache: TableCache::new(Arc::clone(&storage), cache),
            storage,
            capacity: header.capacity.saturating_mul(SECTOR),
            grain,
            entry,
            per_table: entry.index(SESPARSE_GRAIN_TABLE.saturating_mul(SECTOR)),
            directory: header.grain_directory_offset.saturating_mul(SECTOR),
            redundant: None,
            damaged: None,
            reserved: vec![Range { start: 0, end: SECTOR }],
            fixed: 1,
            start,
            kind: Kind::SeSparse(header),
        };
        sparse.check_directory_size(options)?;
        sparse.check_entries(entry.index(entries), 136)?;
        sparse.check_directory_place(sparse.directory)?;
        Ok(sparse)
    }

    /// Entries of the grain directory that the extent's size takes.
    pub(super) fn directory_entries(&self) -> u64 {
        self.grain.count(self.capacity).div_ceil(self.per_table.max(1))
    }

    pub(super) fn directory_length(&self) -> u64 {
        self.entry.offset_of(self.directory_entries()).unwrap_or(u64::MAX)
    }

    fn check_directory_size(&self, options: &LayerOptions) -> Result<()> {
        let (size, limit) = (self.directory_length(), options.limits.max_table_size);
        if size > limit {
            return Err(VmdkDetail::TooLarge { what: "grain directory", size, limit }.into());
        }
        Ok(())
    }

    fn check_entries(&self, entries: u64, at: u64) -> Result<()> {
        let needed = self.directory_entries();
        if entries < needed {
            return Err(Error::new(VmdkDetail::DirectoryTooSmall { entries, needed }).at(at));
        }
        Ok(())
    }

    /// Whether a grain directory at `place` is within the file and beside its other structures.
    fn check_directory_place(&self, place: u64) -> Result<()> {
        let (what, length) = ("grain directory", self.directory_length());
        if length == 0 {
            return Ok(());
        }
        let size = self.storage.size();
        let Some(end) = place.checked_add(length).filter(|&end| end <= size) else {
            return Err(Error::new(VmdkDetail::BeyondEnd { what, start: place, size }).at(place));
        };
        if self.reserved.iter().take(self.fixed).any(|range| overlaps(range, &(place..end))) {
            return Err(Error::new(VmdkDetail::Misplaced { what, offset: place }).at(place));
        }
        Ok(())
    }

    /// Whether a grain directory at `place` is there, and all that it says makes sense.
    fn check_directory(&self, place: u64) -> Result<()> {
        self.check_directory_place(place)?;
        let (mut index, entries) = (0, self.directory_entries());
        while index < entries {
            let count = entries.saturating_sub(index).min(16_384);
            let at = place.saturating_add(self.entry.offset_of(index).unwrap_or(u64::MAX));
            let length = self.entry.offset_of(count).unwrap_or(u64::MAX);
            let bytes = read_vec(&self.storage, "the grain directory", at, to_usize(length))?;
            if is_zero(&bytes) {
                // no tables: what there may be very much of
                index = index.saturating_add(count);
                continue;
            }
            for (number, value) in (index..).zip(self.values(&bytes)) {
                let offset = self.entry.offset_of(number).unwrap_or(u64::MAX);
                self.decode_directory(value, number)
                    .map_err(|detail| Error::new(detail).at(place.saturating_add(offset)))?;
            }
            index = index.saturating_add(count);
        }
        Ok(())
    }

    /// What is wrong with the directory, by itself or by what the one at `other` has and it has not.
    fn directory_damage(&self, other: u64) -> Result<Option<Error>> {
        if let Err(error) = self.check_directory(self.directory) {
            return Ok(Some(error));
        }
        let Some(missing) = unless_io(self.check_missing(self.directory, other))? else {
            return Ok(None);
        };
        // where either lacks what the other one has nothing is clear
        let lacks = unless_io(self.check_missing(other, self.directory))?.is_some();
        Ok(Some(missing).filter(|_| !lacks))
    }

    /// Whether no entry of the grain directory at `place` is zero where the one at `other` leads to
    /// a table. Whoever adds a table writes it to both, so that such an entry was lost.
    fn check_missing(&self, place: u64, other: u64) -> Result<()> {
        let (mut index, entries) = (0, self.directory_entries());
        while index < entries {
            let count = entries.saturating_sub(index).min(16_384);
            let offset = self.entry.offset_of(index).unwrap_or(u64::MAX);
            let length = to_usize(self.entry.offset_of(count).unwrap_or(u64::MAX));
            let read = |place: u64| {
                let at = place.saturating_add(offset);
                read_vec(&self.storage, "the grain directory", at, length)
            };
            let (own, others) = (read(place)?, read(other)?);
            if is_zero(&others) {
                index = index.saturating_add(count);
                continue;
            }
            for (number, (own, other)) in (index..).zip(self.values(&own).zip(self.values(&others)))
            {
                let missing = own == 0
                    && matches!(self.decode_directory(other, number), Ok(Directory::Table(_)));
                if missing {
                    let offset = self.entry.offset_of(number).unwrap_or(u64::MAX);
                    let detail = VmdkDetail::MissingTable;
                    return Err(Error::new(detail).at(place.saturating_add(offset)));
                }
            }
            index = index.saturating_add(count);
        }
        Ok(())
    }

    pub(super) fn entry_size(&self) -> u64 {
        self.entry.size()
    }

    pub(super) fn grain(&self) -> Pow2 {
        self.grain
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(super) fn storage(&self) -> &dyn Storage {
        &self.storage
    }

    pub(super) fn directory_place(&self) -> u64 {
        self.directory
    }

    /// Where the entry starts that byte `position` of a table belongs to.
    pub(super) fn entry_start(&self, position: u64) -> u64 {
        self.entry.floor(position)
    }

    /// Where the structures at the front end, where the header says so.
    pub(super) fn overhead(&self) -> Option<u64> {
        match &self.kind {
            Kind::Hosted(header) => sectors(header.overhead),
            _ => None,
        }
    }

    /// The grain directory that is not in use.
    pub(super) fn redundant(&self) -> Option<u64> {
        self.redundant
    }

    /// The places of the file's structures, where neither tables nor grains can be.
    pub(super) fn reserved(&self) -> &[Range<u64>] {
        &self.reserved
    }

    /// What is wrong with the primary grain directory, if the redundant one is in use.
    pub(super) fn damaged(&self) -> Option<&Error> {
        self.damaged.as_ref()
    }

    pub(super) fn compressed(&self) -> bool {
        matches!(&self.kind, Kind::Hosted(header) if header.compressed())
    }

    /// Whether the extent was not closed properly.
    pub(super) fn is_dirty(&self) -> bool {
        match &self.kind {
            Kind::Hosted(header) => header.unclean_shutdown,
            Kind::Cowd(header) => header.unclean_shutdown,
            Kind::SeSparse(_) => false,
        }
    }

    /// How many entries the grain table number `index` needs: the last one may be cut short.
    pub(super) fn table_entries(&self, index: u64) -> u64 {
        let before = index.saturating_mul(self.per_table);
        self.grain.count(self.capacity).saturating_sub(before).min(self.per_table)
    }

    /// The bytes of the disk that a grain table maps.
    pub(super) fn span(&self) -> u64 {
        self.grain.offset_of(self.per_table).unwrap_or(u64::MAX)
    }

    /// A range of the extent as one of the disk.
    pub(super) fn guest(&self, range: Range<u64>) -> Range<u64> {
        let end = range.end.min(self.capacity);
        self.start.saturating_add(range.start)..self.start.saturating_add(end)
    }

    /// The entries in `bytes` of a table.
    pub(super) fn values<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = u64> + use<'a> {
        let wide = self.entry.size() == 8;
        bytes.chunks_exact(to_usize(self.entry.size())).map(move |entry| {
            if wide { LittleEndian::read_u64(entry) } else { LittleEndian::read_u32(entry).into() }
        })
    }

    /// Decodes the grain directory's entry number `index`.
    pub(super) fn decode_directory(&self, value: u64, index: u64) -> Result<Directory, VmdkDetail> {
        let place = match &self.kind {
            Kind::SeSparse(header) => match header.table(value)? {
                None => return Ok(Directory::None),
                Some(place) => place,
            },
            _ if value == 0 => return Ok(Directory::None),
            Kind::Hosted(header) if value == ZEROED_GRAIN && header.has_zeroed_grains() => {
                return Ok(Directory::Zero);
            }
            _ => value.saturating_mul(SECTOR),
        };
        let what = "grain table";
        let length = self.entry.offset_of(self.table_entries(index)).unwrap_or(u64::MAX);
        let size = self.storage.size();
        match place.checked_add(length) {
            Some(end) if end <= size => {
                if self.reserved.iter().any(|range| overlaps(range, &(place..end))) {
                    return Err(VmdkDetail::Misplaced { what, offset: place });
                }
                Ok(Directory::Table(place))
            }
            _ => Err(VmdkDetail::BeyondEnd { what, start: place, size }),
        }
    }

    /// Decodes a grain table entry. A grain beyond the end of the file is one nevertheless.
    pub(super) fn decode_grain(&self, value: u64) -> Result<Grain, VmdkDetail> {
        let place = match &self.kind {
            Kind::SeSparse(header) => {
                let bad = VmdkDetail::Entry { what: "grain table entry", value };
                match value & SESPARSE_GTE_TYPE {
                    SESPARSE_GTE_UNALLOCATED if value == 0 => return Ok(Grain::Unallocated),
                    SESPARSE_GTE_UNMAPPED | SESPARSE_GTE_ZERO => return Ok(Grain::Zero),
                    SESPARSE_GTE_ALLOCATED => header.grain(grain_number(value)).ok_or(bad)?,
                    _ => return Err(bad),
                }
            }
            _ if value == 0 => return Ok(Grain::Unallocated),
            Kind::Hosted(header) if value == ZEROED_GRAIN && header.has_zeroed_grains() => {
                return Ok(Grain::Zero);
            }
            _ => value.saturating_mul(SECTOR),
        };
        // of a compressed grain only the start is known
        let length = if self.compressed() { SECTOR } else { self.grain.size() };
        let range = place..place.saturating_add(length);
        if self.reserved.iter().any(|reserved| overlaps(reserved, &range)) {
            return Err(VmdkDetail::Misplaced { what: "grain", offset: place });
        }
        Ok(Grain::At(place))
    }
}

pub(super) fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// What is wrong by the file's own fault. A medium that fails says nothing about the file.
fn unless_io(checked: Result<()>) -> Result<Option<Error>> {
    match checked {
        Err(error) if error.kind() == ErrorKind::Io => Err(error),
        other => Ok(other.err()),
    }
}
