//! Mapping through the grain directory and the grain tables, and decoding.

use std::cell::RefCell;

use crate::bytes::AlignedBuffer;
use crate::codec::{CodecError, Wrapper, inflate_exact};
use crate::error::{Error, Result};
use crate::layer::{Mapping, MappingKind, Reach, Source};
use crate::num::{to_u64, to_usize};
use crate::storage::{TableCache, check_inside};

use super::error::VmdkDetail;
use super::layout::*;
use super::marker::GrainHeader;
use super::sparse::{Directory, Grain, Kind, Sparse};

const UNALLOCATED: MappingKind = MappingKind::Parent { stored: None };
const ZERO: MappingKind = MappingKind::Zero { allocated: true, stored: None };

/// What lies at an offset: a grain table, or so many bytes that have none.
enum Found {
    Table(u64),
    Run { zero: bool, length: u64 },
}

impl Sparse {
    /// The grain table for `offset`; or, where there is none, how far there is none, as far as
    /// one page of the directory tells.
    fn table(&self, offset: u64) -> Result<Found> {
        let span = self.span();
        let first = offset.checked_div(span).unwrap_or_default();
        let start = first.saturating_mul(span);
        let guest = || self.guest(start..start.saturating_add(span));
        let position = self.entry.offset_of(first).unwrap_or(u64::MAX);
        let length = self.directory_length();
        let page = self.cache.page("the grain directory", self.directory, length, position);
        let page = page.map_err(|error| error.affecting(guest()))?;
        let from = to_usize(position.saturating_sub(page.start));
        let mut run: Option<(bool, u64)> = None;
        let entries = self.values(page.bytes.get(from..).unwrap_or_default());
        for (index, value) in (first..).zip(entries) {
            match (self.decode_directory(value, index), &mut run) {
                (Ok(Directory::Table(place)), None) => return Ok(Found::Table(place)),
                (Err(detail), None) => {
                    let at = self.directory.saturating_add(position);
                    return Err(Error::new(detail).at(at).affecting(guest()));
                }
                (Ok(Directory::None), None) => run = Some((false, 1)),
                (Ok(Directory::Zero), None) => run = Some((true, 1)),
                (Ok(Directory::None), Some((false, count)))
                | (Ok(Directory::Zero), Some((true, count))) => *count = count.saturating_add(1),
                // what it says is found out when it is its turn
                _ => break,
            }
        }
        let (zero, count) = run.unwrap_or((false, 1));
        let end = start.saturating_add(span.saturating_mul(count));
        Ok(Found::Run { zero, length: end.saturating_sub(offset) })
    }

    /// The entries of the grain table at `table` from the one for `offset` on, to the end of a
    /// page, and the place of the first.
    fn with_entries<T>(
        &self,
        table: u64,
        offset: u64,
        visit: impl FnOnce(&[u8], u64) -> Result<T>,
    ) -> Result<T> {
        let span = self.span();
        let index = offset.checked_div(span).unwrap_or_default();
        let start = index.saturating_mul(span);
        let number = self.grain.index(offset.saturating_sub(start));
        let position = self.entry.offset_of(number).unwrap_or(u64::MAX);
        let length = self.entry.offset_of(self.table_entries(index)).unwrap_or(u64::MAX);
        let page = self.cache.page("a grain table", table, length, position);
        let page =
            page.map_err(|error| error.affecting(self.guest(start..start.saturating_add(span))))?;
        let from = position.saturating_sub(page.start);
        let bytes = page.bytes.get(to_usize(from)..).unwrap_or_default();
        visit(bytes, page.file_offset.saturating_add(from))
    }

    /// What lies at `offset`, for at most `max` bytes. Stored bytes are said to lie in `source`.
    pub(super) fn map(&self, source: Source, offset: u64, max: u64) -> Result<Mapping> {
        let max = max.min(self.capacity.saturating_sub(offset));
        let table = match self.table(offset)? {
            Found::Table(table) => table,
            Found::Run { zero, length } => {
                let kind = if zero { ZERO } else { UNALLOCATED };
                return Ok(Mapping { length: length.min(max), kind });
            }
        };
        self.with_entries(table, offset, |bytes, at| {
            let mut entries = self.values(bytes);
            let first = self.grain.floor(offset);
            let fail = |detail| {
                let guest = first..first.saturating_add(self.grain.size());
                Error::new(detail).at(at).affecting(self.guest(guest))
            };
            let within = self.grain.within(offset);
            let kind = self.grain_at(entries.next().unwrap_or_default()).map_err(fail)?;
            let kind = self.mapping(kind, source, within);
            let mut length = self.grain.rest(offset);
            if kind == UNALLOCATED {
                // most entries of most tables: worth being fast
                let more = to_u64(entries.take_while(|&value| value == 0).count());
                length = length.saturating_add(self.grain.offset_of(more).unwrap_or(u64::MAX));
                return Ok(Mapping { length: length.min(max), kind });
            }
            // join what follows while it is of the same kind, grain by grain
            while length < max {
                let next = entries.next().and_then(|value| self.grain_at(value).ok());
                let Some(next) = next.map(|next| self.mapping(next, source, 0)) else { break };
                if !kind.continues_with(length, &next) {
                    break;
                }
                length = length.saturating_add(self.grain.size());
            }
            Ok(Mapping { length: length.min(max), kind })
        })
    }

    /// How far its file is needed for what one page of a grain table maps from `offset` on. Of
    /// compressed grains the furthest one's header tells its length.
    pub(super) fn reach(&self, offset: u64) -> Result<Reach> {
        let table = match self.table(offset)? {
            Found::Table(table) => table,
            Found::Run { length, .. } => return Ok(Reach { length, end: 0, encoded: false }),
        };
        let (mut furthest, length) = self.with_entries(table, offset, |bytes, at| {
            let (mut furthest, mut length) = (None, self.grain.rest(offset));
            let mut guest = self.grain.floor(offset);
            for (index, value) in (0u64..).zip(self.values(bytes)) {
                let grain = self.decode_grain(value).map_err(|detail| {
                    let at = at.saturating_add(self.entry.offset_of(index).unwrap_or_default());
                    Error::new(detail).at(at)
                })?;
                if let Grain::At(place) = grain {
                    let used = self.grain.size().min(self.capacity.saturating_sub(guest));
                    furthest = furthest.max(Some((place, guest, used)));
                }
                guest = guest.saturating_add(self.grain.size());
                length = guest.saturating_sub(offset);
            }
            Ok((furthest, length))
        })?;
        let encoded = self.compressed() && furthest.is_some();
        if encoded
            && self.has_markers()
            && let Some((place, guest, used)) = &mut furthest
        {
            let mut head = [0; GRAIN_HEADER_LENGTH];
            check_inside(&self.storage, "compressed grain", *place, to_u64(head.len()))?;
            self.storage.read_exact_at(&mut head, *place)?;
            let header = GrainHeader::parse(&head, *place)?;
            header.check(*guest, self.grain.size())?;
            *used = u64::from(header.size).saturating_add(to_u64(head.len()));
        } else if encoded && let Some((_, _, used)) = &mut furthest {
            // nothing tells the length of the stream, but the stream
            *used = 1;
        }
        let end = furthest.map_or(0, |(place, _, used)| place.saturating_add(used));
        Ok(Reach { length, end, encoded })
    }

    /// How many bytes one page of a grain table maps.
    pub(super) fn page_span(&self) -> u64 {
        let page = self.grain.offset_of(self.entry.index(TableCache::PAGE)).unwrap_or(u64::MAX);
        page.min(self.span())
    }

    fn has_markers(&self) -> bool {
        matches!(&self.kind, Kind::Hosted(header) if header.has_markers())
    }

    /// Decodes a grain table entry; a compressed grain must be in the file. (Whoever reads stored
    /// bytes holds them against its end.)
    fn grain_at(&self, value: u64) -> Result<Grain, VmdkDetail> {
        let (grain, size) = (self.decode_grain(value)?, self.storage.size());
        match grain {
            Grain::At(start) if self.compressed() && start >= size => {
                Err(VmdkDetail::BeyondEnd { what: "compressed grain", start, size })
            }
            grain => Ok(grain),
        }
    }

    fn mapping(&self, grain: Grain, source: Source, within: u64) -> MappingKind {
        match grain {
            Grain::Unallocated => UNALLOCATED,
            Grain::Zero => ZERO,
            Grain::At(_) if self.compressed() => MappingKind::Encoded,
            Grain::At(place) => {
                MappingKind::Stored { source, offset: place.saturating_add(within) }
            }
        }
    }

    /// Decodes the compressed grain that starts at `offset` into `buf`, which has its size. The
    /// last grain of an extent may hold less; it must reach to the extent's end.
    pub(super) fn read_grain(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let guest = self.guest(offset..offset.saturating_add(self.grain.size()));
        let Found::Table(table) = self.table(offset)? else { return Err(not_encoded()) };
        let (place, at) = self.with_entries(table, offset, |bytes, at| {
            let value = self.values(bytes).next().unwrap_or_default();
            match self.decode_grain(value) {
                Ok(Grain::At(place)) => Ok((place, at)),
                Ok(_) => Err(not_encoded()),
                Err(detail) => Err(Error::new(detail).at(at).affecting(guest.clone())),
            }
        })?;
        thread_local! {
            static INPUT: RefCell<AlignedBuffer> = const { RefCell::new(AlignedBuffer::new()) };
        }
        INPUT
            .with_borrow_mut(|input| {
                let data = self.read_compressed(input, place, offset)?;
                let needed = to_usize(self.capacity.saturating_sub(offset)).min(buf.len());
                match inflate_exact(data, buf, Wrapper::Zlib) {
                    Err(CodecError::Short { got, .. }) if got >= needed && needed < buf.len() => {
                        let part = buf.get_mut(..got).unwrap_or_default();
                        inflate_exact(data, part, Wrapper::Zlib)
                    }
                    other => other,
                }
                .map_err(Error::new)
            })
            .map_err(|error: Error| error.at(place).affecting(guest).at(at))
    }

    /// Reads the compressed grain at `place`; gives its data.
    fn read_compressed<'a>(
        &self,
        input: &'a mut AlignedBuffer,
        place: u64,
        offset: u64,
    ) -> Result<&'a [u8]> {
        let size = self.storage.size();
        let beyond = |what| VmdkDetail::BeyondEnd { what, start: place, size };
        let rest = size.saturating_sub(place);
        let limit = GrainHeader::limit(self.grain.size());
        let limit = limit.saturating_add(to_u64(GRAIN_HEADER_LENGTH));
        let input = input.get(to_usize(rest.min(limit)));
        if !self.has_markers() {
            // nothing tells the length of the stream, but the stream
            self.storage.read_exact_at(input, place)?;
            return Ok(input);
        }
        let (head, more) = input.split_at_mut(input.len().min(to_usize(SECTOR)));
        self.storage.read_exact_at(head, place)?;
        if head.len() < GRAIN_HEADER_LENGTH {
            return Err(beyond("compressed grain's header").into());
        }
        let header = GrainHeader::parse(head, place)?;
        header.check(offset, self.grain.size())?;
        let length = u64::from(header.size).saturating_add(to_u64(GRAIN_HEADER_LENGTH));
        if length > rest {
            return Err(beyond("compressed grain").into());
        }
        let behind = to_usize(length).saturating_sub(head.len());
        if let Some(more) = more.get_mut(..behind).filter(|more| !more.is_empty()) {
            self.storage.read_exact_at(more, place.saturating_add(to_u64(head.len())))?;
        }
        Ok(input.get(GRAIN_HEADER_LENGTH..to_usize(length)).unwrap_or_default())
    }
}

#[cold]
fn not_encoded() -> Error {
    Error::other(crate::ErrorKind::InvalidInput, "the grain is not compressed")
}
