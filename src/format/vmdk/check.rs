//! A look over the tables of a sparse extent: what contradicts itself.

use std::ops::Range;

use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::num::to_usize;
use crate::storage::read_vec;

use super::layout::SECTOR;
use super::sparse::{Directory, Grain, Sparse};

/// A piece of the file that something was found to be in.
struct Piece {
    place: Range<u64>,
    /// The guest grain, counted from the start of the extent; `None` for a grain table.
    grain: Option<u64>,
}

struct Look<'a> {
    sparse: &'a Sparse,
    pieces: Vec<Piece>,
    findings: Vec<Finding>,
    /// The furthest byte that an entry speaks of.
    end: u64,
}

/// Looks over the grain directory and the grain tables, as many of them as `budget` bytes hold,
/// and the last one: whether they point beyond the end of the file, at each other or at the same
/// grain twice, and whether the redundant tables say the same. One finding of each sort.
pub(super) fn look_over(sparse: &Sparse, budget: u64) -> Vec<Finding> {
    let mut look = Look { sparse, pieces: Vec::new(), findings: Vec::new(), end: 0 };
    // a directory that cannot be read is found out by reading the disk
    let _ = look.tables(budget);
    look.overlaps();
    let (end, size) = (look.end, sparse.storage().size());
    if end > size {
        let text = format!("the file ends at {size:#x}, its tables speak of {end:#x}");
        look.findings.push(Finding::new(Code::Truncated, text).at(size));
    }
    look.findings
}

impl Look<'_> {
    fn find(&mut self, text: String, at: u64) {
        if !self.findings.iter().any(|finding| finding.message == text) {
            self.findings.push(Finding::new(Code::CheckError, text).at(at));
        }
    }

    fn tables(&mut self, mut budget: u64) -> Result<()> {
        let sparse = self.sparse;
        let (entries, mut index) = (sparse.directory_entries(), 0);
        let mut last = None;
        while index < entries {
            let count = entries.saturating_sub(index).min(8192);
            let values = self.directory(sparse.directory_place(), index, count)?;
            for (index, value) in (index..).zip(values) {
                match sparse.decode_directory(value, index) {
                    Ok(Directory::Table(place)) => {
                        let cost = self.table_length(index);
                        if cost <= budget {
                            budget = budget.saturating_sub(cost);
                            self.table(place, index)?;
                        } else {
                            last = last.max(Some((place, index)));
                        }
                    }
                    Ok(_) => {}
                    Err(detail) => self.find(detail.to_string(), sparse.directory_place()),
                }
            }
            index = index.saturating_add(count);
        }
        if let Some((place, index)) = last {
            self.table(place, index)?;
        }
        Ok(())
    }

    /// `count` entries of the grain directory at `place`, from the one of number `index` on.
    fn directory(&self, place: u64, index: u64, count: u64) -> Result<Vec<u64>> {
        let size = self.sparse.entry_size();
        let at = place.saturating_add(size.saturating_mul(index));
        let length = to_usize(size.saturating_mul(count));
        let bytes = read_vec(self.sparse.storage(), "the grain directory", at, length)?;
        Ok(self.sparse.values(&bytes).collect())
    }

    fn table_length(&self, index: u64) -> u64 {
        self.sparse.entry_size().saturating_mul(self.sparse.table_entries(index))
    }

    fn read_table(&self, place: u64, index: u64) -> Result<Vec<u8>> {
        let length = to_usize(self.table_length(index));
        read_vec(self.sparse.storage(), "a grain table", place, length)
    }

    fn table(&mut self, place: u64, index: u64) -> Result<()> {
        let sparse = self.sparse;
        let bytes = self.read_table(place, index)?;
        let end = place.saturating_add(self.table_length(index));
        self.pieces.push(Piece { place: place..end, grain: None });
        let length = if sparse.compressed() { SECTOR } else { sparse.grain().size() };
        let first = index.saturating_mul(sparse.table_entries(0));
        for (number, value) in (first..).zip(sparse.values(&bytes)) {
            match sparse.decode_grain(value) {
                Ok(Grain::At(start)) => {
                    // the last grain may be cut off where the extent ends
                    let offset = sparse.grain().offset_of(number).unwrap_or(u64::MAX);
                    let left = sparse.capacity().saturating_sub(offset).min(length);
                    self.end = self.end.max(start.saturating_add(left));
                    let place = start..start.saturating_add(length);
                    self.pieces.push(Piece { place, grain: Some(number) });
                }
                Ok(_) => {}
                Err(detail) => self.find(detail.to_string(), place),
            }
        }
        if let Some(other) = sparse.redundant().filter(|_| sparse.damaged().is_none()) {
            self.compare(&bytes, other, index)?;
        }
        Ok(())
    }

    /// Holds the redundant copy of a grain table against it.
    fn compare(&mut self, bytes: &[u8], redundant: u64, index: u64) -> Result<()> {
        let same = self.directory(redundant, index, 1).and_then(|values| {
            let value = values.first().copied().unwrap_or_default();
            match self.sparse.decode_directory(value, index) {
                Ok(Directory::Table(place)) => Ok(self.read_table(place, index)? == bytes),
                _ => Ok(false),
            }
        });
        if !same.unwrap_or(false) {
            let text = "a redundant grain table does not say the same as the other one";
            self.find(text.to_owned(), redundant);
        }
        Ok(())
    }

    /// Finds pieces that lie on each other.
    fn overlaps(&mut self) {
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.sort_unstable_by_key(|piece| piece.place.start);
        let mut end: u64 = 0;
        for piece in &pieces {
            if piece.place.start < end {
                let what = match piece.grain {
                    Some(_) => "a grain lies where another one or a grain table does",
                    None => "a grain table lies where another one or a grain does",
                };
                self.find(what.to_owned(), piece.place.start);
                break;
            }
            end = piece.place.end;
        }
    }
}
