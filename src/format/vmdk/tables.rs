//! The grain directory and the grain tables of a sparse extent, read whole and held against the
//! file, against each other and against their redundant copies.

use std::ops::Range;

use crate::bytes::is_zero;
use crate::check::Checking;
use crate::error::{ErrorKind, Result};
use crate::finding::{Code, Finding};
use crate::format::whole::{Grid, Places, Sort, pieces};
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::{read_or_hole, read_vec};

use super::error::VmdkDetail;
use super::layout::*;
use super::marker::{GrainHeader, Marker};
use super::sparse::{Directory, Grain, Kind, Sparse};

/// What the tables come to.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) allocated: u64,
    pub(super) fragmented: u64,
    /// The furthest byte that an entry speaks of.
    pub(super) furthest: u64,
    /// Where the last thing ends that lies in the file.
    pub(super) end: u64,
    pub(super) lowest_grain: u64,
    /// How many bytes behind the structures at the front something is in.
    pub(super) taken_behind: u64,
    /// Whether grains lie at odd distances from each other.
    pub(super) misaligned: bool,
    /// The first table of a stream that no marker announces, and where that should be.
    pub(super) unmarked: Option<(u64, u64)>,
    /// Whether anything was found.
    pub(super) damaged: bool,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            allocated: 0,
            fragmented: 0,
            furthest: 0,
            end: 0,
            lowest_grain: u64::MAX,
            taken_behind: 0,
            misaligned: false,
            unmarked: None,
            damaged: false,
        }
    }
}

/// What a walk through the tables meets, with the place in the file of each entry.
pub(super) enum Item<'a> {
    /// An entry of the grain directory.
    Directory { index: u64, value: u64, at: u64 },
    /// The bytes of a grain table that the directory's entry leads to.
    Table { index: u64, place: u64, at: u64, bytes: &'a [u8] },
    /// An entry of it, of the grain of this number in the extent.
    Grain { number: u64, value: u64, at: u64 },
}

/// Goes through the grain directory at `directory` and its tables: as many of them as `budget`
/// bytes hold, and the last one.
pub(super) fn walk(
    sparse: &Sparse,
    directory: u64,
    checking: &Checking,
    mut budget: u64,
    mut visit: impl FnMut(Item<'_>) -> Result<()>,
) -> Result<()> {
    let table = directory..directory.saturating_add(sparse.directory_length());
    let size = sparse.entry_size();
    let (mut index, mut last) = (0u64, None);
    pieces(sparse.storage(), "the grain directory", table, checking, |bytes, at| {
        if is_zero(bytes) && has_no_copy(sparse, index, bytes.len())? {
            // no tables: what there may be very much of
            let entries = to_u64(bytes.len()).checked_div(size).unwrap_or_default();
            index = index.saturating_add(entries);
            return Ok(());
        }
        for (value, at) in sparse.values(bytes).zip((at..).step_by(to_usize(size))) {
            let number = index;
            index = index.saturating_add(1);
            visit(Item::Directory { index: number, value, at })?;
            if let Ok(Directory::Table(place)) = sparse.decode_directory(value, number) {
                let cost = table_length(sparse, number);
                if cost <= budget {
                    budget = budget.saturating_sub(cost);
                    walk_table(sparse, number, place, at, &mut visit)?;
                } else {
                    last = Some((number, place, at));
                }
            }
        }
        Ok(())
    })?;
    match last {
        Some((index, place, at)) => walk_table(sparse, index, place, at, &mut visit),
        None => Ok(()),
    }
}

/// Whether the redundant directory, if there is one, has no tables in so many bytes from the entry
/// number `index` on either.
fn has_no_copy(sparse: &Sparse, index: u64, length: usize) -> Result<bool> {
    let Some(copy) = sparse.redundant() else { return Ok(true) };
    let at = index.checked_mul(sparse.entry_size()).and_then(|start| copy.checked_add(start));
    let (Some(at), storage) = (at, sparse.storage()) else { return Ok(false) };
    if at.saturating_add(to_u64(length)) > storage.size() {
        return Ok(false);
    }
    let mut bytes = vec![0; length];
    read_or_hole(storage, &mut bytes, at)?;
    Ok(is_zero(&bytes))
}

fn walk_table(
    sparse: &Sparse,
    index: u64,
    place: u64,
    at: u64,
    visit: &mut impl FnMut(Item<'_>) -> Result<()>,
) -> Result<()> {
    let bytes = read_table(sparse, index, place)?;
    visit(Item::Table { index, place, at, bytes: &bytes })?;
    let first = index.saturating_mul(sparse.table_entries(0));
    let places = (place..).step_by(to_usize(sparse.entry_size()));
    for ((number, value), at) in (first..).zip(sparse.values(&bytes)).zip(places) {
        // most entries of most tables
        if value != 0 {
            visit(Item::Grain { number, value, at })?;
        }
    }
    Ok(())
}

pub(super) fn table_length(sparse: &Sparse, index: u64) -> u64 {
    sparse.entry_size().saturating_mul(sparse.table_entries(index))
}

pub(super) fn read_table(sparse: &Sparse, index: u64, place: u64) -> Result<Vec<u8>> {
    let length = to_usize(table_length(sparse, index));
    read_vec(sparse.storage(), "a grain table", place, length)
}

/// Files of up to this size fit into one window of the bitmap of sectors.
const ONE_WINDOW: u64 = 128 << 30;

/// Goes through the tables and tells what is wrong with them.
pub(super) fn check_tables(sparse: &Sparse, checking: &Checking, budget: u64) -> Result<Summary> {
    let sector = Pow2::from_size(SECTOR).unwrap_or(Pow2::PAGE);
    let (mut unit, mut phase) = (sector, 0);
    checking.watcher().start(sparse.directory_length());
    if sparse.storage().size() > ONE_WINDOW && !sparse.compressed() {
        // in units of grains the file takes fewer rounds
        let mut grid = Grid::default();
        walk(sparse, sparse.directory_place(), checking, budget, |item| {
            match item {
                Item::Table { index, place, .. } => {
                    grid.add(place, sector.ceil(table_length(sparse, index)));
                    if let Some(Ok(Directory::Table(other))) = redundant(sparse, index)? {
                        grid.add(other, sector.ceil(table_length(sparse, index)));
                    }
                }
                Item::Grain { value, .. } => {
                    if let Ok(Grain::At(start)) = sparse.decode_grain(value) {
                        grid.add(start, sparse.grain().size());
                    }
                }
                Item::Directory { .. } => {}
            }
            Ok(())
        })?;
        (unit, phase) = grid.unit();
    }
    let mut look = Look {
        sparse,
        sector,
        entries: Sort::new(checking),
        beyond: Sort::new(checking),
        shared: Sort::new(checking),
        copies: Sort::new(checking),
        marks: Sort::new(checking),
        places: Places::new(unit, phase, checking.memory()),
        grid: Grid::default(),
        first_round: true,
        expected: None,
        front: 0,
        summary: Summary::default(),
    };
    loop {
        walk(sparse, sparse.directory_place(), checking, budget, |item| look.item(item))?;
        look.first_round = false;
        if !look.places.turn() {
            break;
        }
    }
    look.places.tell_rest(checking);
    Ok(look.finish())
}

/// What the other directory says of a table, if there is one that is in use.
fn redundant(sparse: &Sparse, index: u64) -> Result<Option<Result<Directory, VmdkDetail>>> {
    let Some(directory) = sparse.redundant().filter(|_| sparse.damaged().is_none()) else {
        return Ok(None);
    };
    let value = directory_value(sparse, directory, index)?;
    Ok(value.map(|value| sparse.decode_directory(value, index)))
}

/// Entry number `index` of the grain directory at `directory`; `None` if that is not in the file.
pub(super) fn directory_value(sparse: &Sparse, directory: u64, index: u64) -> Result<Option<u64>> {
    let position = index.saturating_mul(sparse.entry_size());
    let (what, length) = ("the redundant grain directory", sparse.directory_length());
    let page = match sparse.cache.page(what, directory, length, position) {
        Ok(page) => page,
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(None),
        Err(error) => return Err(error),
    };
    let from = to_usize(position.saturating_sub(page.start));
    Ok(sparse.values(page.bytes.get(from..).unwrap_or_default()).next())
}

struct Look<'a> {
    sparse: &'a Sparse,
    sector: Pow2,
    entries: Sort<'a>,
    beyond: Sort<'a>,
    shared: Sort<'a>,
    copies: Sort<'a>,
    marks: Sort<'a>,
    places: Places,
    grid: Grid,
    first_round: bool,
    /// Where the next grain would be if nothing were fragmented.
    expected: Option<u64>,
    /// Bytes of tables among the structures at the front.
    front: u64,
    summary: Summary,
}

impl Look<'_> {
    fn item(&mut self, item: Item<'_>) -> Result<()> {
        match item {
            Item::Directory { index, value, at } => self.directory(index, value, at),
            Item::Table { index, place, at, bytes } => self.table(index, place, at, bytes),
            Item::Grain { number, value, at } => self.grain(number, value, at),
        }
    }

    fn directory(&mut self, index: u64, value: u64, at: u64) -> Result<()> {
        if !self.first_round {
            return Ok(());
        }
        let entry = self.sparse.decode_directory(value, index);
        if let Err(detail) = &entry {
            let known = matches!(redundant(self.sparse, index)?, Some(Ok(_)));
            self.entries.corruption(|| {
                let text = format!("grain directory entry {index}: {detail}");
                let found = Finding::new(code(detail), text).at(at);
                let found = found.in_structure("grain directory");
                if known {
                    found.fix("--repair all restores it from the redundant one")
                } else {
                    found
                }
            });
            return Ok(());
        }
        let Some(other) = self.sparse.redundant().filter(|_| self.sparse.damaged().is_none())
        else {
            return Ok(());
        };
        let copy = redundant(self.sparse, index)?;
        let lost = match (&entry, &copy) {
            (Ok(Directory::Table(_)), Some(Ok(Directory::Table(_)))) => return Ok(()),
            (Ok(one), Some(Ok(two))) if one == two => return Ok(()),
            (Ok(Directory::Table(_)), Some(Ok(Directory::None))) => true,
            (_, other) => !matches!(other, Some(Ok(_))),
        };
        let offset = index.saturating_mul(self.sparse.entry_size());
        self.copies.corruption(|| {
            let what = if lost { "is damaged" } else { "says other things than the primary one's" };
            let text = format!("entry {index} of the redundant grain directory {what}");
            let found = Finding::new(Code::RedundantCopyDamaged, text);
            let found = found.at(other.saturating_add(offset));
            let found = found.in_structure("redundant grain directory");
            if lost { found.fix("--repair all restores it from the primary one") } else { found }
        });
        Ok(())
    }

    fn table(&mut self, index: u64, place: u64, at: u64, bytes: &[u8]) -> Result<()> {
        let length = self.sector.ceil(to_u64(bytes.len()));
        self.count_front(place, length);
        self.take(place..place.saturating_add(length), |text| {
            let text = format!("grain directory entry {index} leads to a table {text}");
            Finding::new(Code::Overlap, text).at(at).in_structure("grain directory")
        });
        if self.first_round {
            self.check_marker(index, place)?;
        }
        let Some(Ok(Directory::Table(other))) = redundant(self.sparse, index)? else {
            return Ok(());
        };
        if other == place {
            return Ok(());
        }
        self.count_front(other, length);
        self.take(other..other.saturating_add(length), |text| {
            let text = format!("redundant grain directory entry {index} leads to a table {text}");
            Finding::new(Code::Overlap, text).at(other).in_structure("redundant grain directory")
        });
        if !self.first_round {
            return Ok(());
        }
        let copy = read_table(self.sparse, index, other)?;
        if let Some(at) = copy.iter().zip(bytes).position(|(one, two)| one != two) {
            let at = self.sparse.entry_start(to_u64(at)).saturating_add(other);
            self.copies.corruption(|| {
                let text = format!(
                    "redundant grain table {index} does not say the same as the primary one"
                );
                let found = Finding::new(Code::RedundantCopyDamaged, text).at(at);
                found.in_structure("redundant grain table")
            });
        }
        Ok(())
    }

    /// In a stream, a marker announces each table.
    fn check_marker(&mut self, index: u64, place: u64) -> Result<()> {
        let Kind::Hosted(header) = &self.sparse.kind else { return Ok(()) };
        if header.gd_offset != GD_AT_END || !header.has_markers() {
            return Ok(());
        }
        let at = place.saturating_sub(SECTOR);
        let bytes = read_vec(self.sparse.storage(), "a marker", at, HEADER_LENGTH)?;
        if !matches!(Marker::parse(&bytes, at), Ok(Marker::GrainTable(_))) {
            self.summary.unmarked.get_or_insert((index, at));
        }
        Ok(())
    }

    fn grain(&mut self, number: u64, value: u64, at: u64) -> Result<()> {
        let sparse = self.sparse;
        let start = match sparse.decode_grain(value) {
            Ok(Grain::At(start)) => start,
            Ok(_) => return Ok(()),
            Err(detail) => {
                if self.first_round {
                    self.entries.corruption(|| {
                        let text = format!("grain table entry of grain {number}: {detail}");
                        Finding::new(code(&detail), text).at(at).in_structure("grain table")
                    });
                }
                return Ok(());
            }
        };
        let (grain, size) = (sparse.grain(), sparse.storage().size());
        let offset = grain.offset_of(number).unwrap_or(u64::MAX);
        // the last grain may be cut off where the extent ends
        let left = sparse.capacity().saturating_sub(offset).min(grain.size());
        let length =
            if sparse.compressed() { self.compressed(number, start, offset)? } else { left };
        let end = start.saturating_add(length);
        if self.first_round {
            self.summary.allocated = self.summary.allocated.saturating_add(1);
            let follows = self.expected.is_none_or(|expected| expected == start);
            self.summary.fragmented = self.summary.fragmented.saturating_add(u64::from(!follows));
            let next = if sparse.compressed() {
                self.sector.ceil(end)
            } else {
                start.saturating_add(grain.size())
            };
            self.expected = Some(next);
            self.summary.furthest = self.summary.furthest.max(end);
            if end > size {
                self.beyond.corruption(|| {
                    let text = format!(
                        "grain {number} ends at {end:#x}, beyond the end of the file at {size:#x}"
                    );
                    Finding::new(Code::BeyondEnd, text).at(at).in_structure("grain")
                });
            } else {
                self.summary.lowest_grain = self.summary.lowest_grain.min(start);
                self.grid.add(start, grain.size());
            }
        }
        if end <= size {
            // all of the last grain is there, even if the extent ends in it; or as much as fits
            let whole = if sparse.compressed() { length } else { grain.size() };
            self.take(start..start.saturating_add(whole).min(size), |text| {
                let text = format!("grain {number} lies {text}");
                Finding::new(Code::Overlap, text).at(at).in_structure("grain table")
            });
        }
        Ok(())
    }

    /// The length of the compressed grain at `start`, with its header; a sector where that is unknown.
    fn compressed(&mut self, number: u64, start: u64, offset: u64) -> Result<u64> {
        let (sparse, size) = (self.sparse, self.sparse.storage().size());
        if !matches!(&sparse.kind, Kind::Hosted(header) if header.has_markers()) {
            return Ok(SECTOR.min(size.saturating_sub(start)).max(1));
        }
        let head = to_u64(GRAIN_HEADER_LENGTH);
        if start.saturating_add(head) > size {
            return Ok(head);
        }
        let bytes = read_vec(sparse.storage(), "a grain header", start, GRAIN_HEADER_LENGTH)?;
        let header = GrainHeader::parse(&bytes, start);
        let header = header.and_then(|h| h.check(offset, sparse.grain().size()).map(|()| h));
        match header {
            Ok(header) => Ok(u64::from(header.size).saturating_add(head)),
            Err(error) => {
                if self.first_round {
                    self.marks.corruption(|| {
                        let text = format!("the header of the compressed grain {number}: {error}");
                        Finding::new(Code::InvalidEntry, text)
                            .at(start)
                            .in_structure("grain header")
                    });
                }
                Ok(SECTOR.min(size.saturating_sub(start)))
            }
        }
    }

    fn count_front(&mut self, place: u64, length: u64) {
        if self.first_round && self.sparse.overhead().is_some_and(|end| place < end) {
            self.front = self.front.saturating_add(length);
        }
    }

    fn take(&mut self, place: Range<u64>, tell: impl FnOnce(&str) -> Finding) {
        self.summary.end = self.summary.end.max(place.end);
        let length = place.end.saturating_sub(place.start);
        if self.places.take(place.start, length) {
            let text = format!("at {:#x}, where something else does", place.start);
            self.shared.corruption(|| tell(&text));
        }
    }

    fn finish(self) -> Summary {
        let sorts = [&self.entries, &self.beyond, &self.shared, &self.copies, &self.marks];
        let mut summary = self.summary;
        summary.damaged = sorts.iter().any(|sort| sort.count() > 0);
        summary.taken_behind = self.places.taken().saturating_sub(self.front);
        summary.misaligned = !self.sparse.compressed()
            && summary.allocated > 1
            && self.grid.unit().0.size() < self.sparse.grain().size().min(1 << 30);
        if summary.end == 0 {
            summary.end =
                self.sparse.directory_place().saturating_add(self.sparse.directory_length());
        }
        summary
    }
}

/// The code for what is wrong with an entry.
fn code(detail: &VmdkDetail) -> Code {
    match detail {
        VmdkDetail::BeyondEnd { .. } => Code::BeyondEnd,
        VmdkDetail::Misplaced { .. } => Code::Overlap,
        _ => Code::InvalidEntry,
    }
}
