//! Bytes that are put together from pieces of other storages.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Access, DATA, FileIdentity, Run, Storage, beyond_end};
use crate::error::Result;
use crate::num::{to_u64, to_usize};

/// A file whose bytes lie elsewhere, piece by piece, with holes between the pieces: a sparse member
/// of an archive, or a disk that was split into several files.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::Storage;
/// use diskimage::storage::{MemoryStorage, PieceStorage};
///
/// let parts: Vec<Arc<dyn Storage>> =
///     vec![Arc::new(MemoryStorage::new(vec![1; 3])), Arc::new(MemoryStorage::new(vec![2; 3]))];
/// let joined = PieceStorage::joined(parts, "disk.001".into());
/// let mut bytes = [0; 6];
/// joined.read_exact_at(&mut bytes, 0)?;
/// assert_eq!(bytes, [1, 1, 1, 2, 2, 2]);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct PieceStorage {
    storages: Vec<Arc<dyn Storage>>,
    /// Ascending, and none overlaps another.
    pieces: Vec<Piece>,
    size: u64,
    path: PathBuf,
}

/// A run of bytes that lie together.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: u64,
    length: u64,
    /// Which storage, and where in it.
    storage: usize,
    offset: u64,
}

impl PieceStorage {
    /// A file of holes, `size` bytes long; `path` is its name for messages.
    ///
    /// ```
    /// use diskimage::Storage;
    /// use diskimage::storage::PieceStorage;
    ///
    /// let file = PieceStorage::new(1 << 40, "empty.raw".into());
    /// let mut bytes = [1; 512];
    /// file.read_exact_at(&mut bytes, 1 << 39)?;
    /// assert_eq!((bytes, file.allocated_size()), ([0; 512], Some(0)));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn new(size: u64, path: PathBuf) -> Self {
        Self { storages: Vec::new(), pieces: Vec::new(), size, path }
    }

    /// The files one behind the other; `path` is the name of what they make.
    #[must_use]
    pub fn joined(parts: Vec<Arc<dyn Storage>>, path: PathBuf) -> Self {
        let mut whole = Self::new(0, path);
        for part in parts {
            let (start, length) = (whole.size, part.size());
            let storage = whole.storages.len();
            whole.size = start.saturating_add(length);
            whole.storages.push(part);
            whole.pieces.push(Piece { start, length, storage, offset: 0 });
        }
        whole
    }

    /// The same file, which has these pieces of `storage`: where each starts, its length, and where
    /// it lies. They must ascend, and lie inside of both files: what does not is left out.
    pub(crate) fn with_pieces(
        mut self,
        storage: Arc<dyn Storage>,
        pieces: impl Iterator<Item = (u64, u64, u64)>,
    ) -> Self {
        let (index, size) = (self.storages.len(), storage.size());
        let inside =
            |at: u64, length: u64, size: u64| at.checked_add(length).is_some_and(|end| end <= size);
        for (start, length, offset) in pieces {
            let behind =
                self.pieces.last().map_or(0, |last| last.start.saturating_add(last.length));
            let fits = inside(start, length, self.size) && inside(offset, length, size);
            if length > 0 && start >= behind && fits {
                self.pieces.push(Piece { start, length, storage: index, offset });
            }
        }
        self.storages.push(storage);
        self
    }

    /// The piece that holds `offset`, or else where the next one starts.
    fn piece_at(&self, offset: u64) -> Result<&Piece, u64> {
        let behind = self.pieces.partition_point(|piece| piece.start <= offset);
        let before = behind.checked_sub(1).and_then(|index| self.pieces.get(index));
        match before.filter(|piece| offset.saturating_sub(piece.start) < piece.length) {
            Some(piece) => Ok(piece),
            None => Err(self.pieces.get(behind).map_or(self.size, |next| next.start)),
        }
    }

    /// Goes through a range: `work` gets each run of it, as a storage and an offset in that, or as
    /// a hole.
    fn each(
        &self,
        offset: u64,
        length: u64,
        mut work: impl FnMut(Option<(&dyn Storage, u64)>, u64) -> Result<()>,
    ) -> Result<()> {
        let end = match offset.checked_add(length) {
            Some(end) if end <= self.size => end,
            _ => return Err(beyond_end(DATA, self.size, length, offset)),
        };
        let mut at = offset;
        while at < end {
            let (place, next) = match self.piece_at(at) {
                Ok(piece) => {
                    let within = at.saturating_sub(piece.start);
                    let place = self.storages.get(piece.storage).map(|storage| {
                        let storage: &dyn Storage = storage;
                        (storage, piece.offset.saturating_add(within))
                    });
                    (place, piece.start.saturating_add(piece.length))
                }
                Err(next) => (None, next),
            };
            let run = next.min(end).saturating_sub(at).max(1);
            work(place, run)?;
            at = at.saturating_add(run);
        }
        Ok(())
    }
}

#[deny(clippy::missing_trait_methods)]
impl Storage for PieceStorage {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let (length, mut rest) = (to_u64(buf.len()), buf);
        self.each(offset, length, |place, run| {
            let (part, behind) =
                std::mem::take(&mut rest).split_at_mut_checked(to_usize(run)).unwrap_or_default();
            rest = behind;
            match place {
                Some((storage, at)) => storage.read_exact_at(part, at),
                None => {
                    part.fill(0);
                    Ok(())
                }
            }
        })
    }

    fn check_available(&self, offset: u64, length: u64) -> Result<()> {
        self.each(offset, length, |place, run| match place {
            Some((storage, at)) => storage.check_available(at, run),
            None => Ok(()),
        })
    }

    fn expect(&self, offset: u64, length: u64) {
        // what lies outside is asked for in vain
        let _ = self.each(offset, length, |place, run| {
            if let Some((storage, at)) = place {
                storage.expect(at, run);
            }
            Ok(())
        });
    }

    fn run_at(&self, offset: u64, max: u64) -> Result<Run> {
        let max = max.min(self.size.saturating_sub(offset));
        match self.piece_at(offset) {
            Ok(piece) => {
                let within = offset.saturating_sub(piece.start);
                let max = max.min(piece.length.saturating_sub(within));
                match self.storages.get(piece.storage) {
                    Some(storage) => storage.run_at(piece.offset.saturating_add(within), max),
                    None => Ok(Run { hole: false, length: max }),
                }
            }
            Err(next) => Ok(Run { hole: true, length: max.min(next.saturating_sub(offset)) }),
        }
    }

    fn allocated_size(&self) -> Option<u64> {
        Some(self.pieces.iter().fold(0, |sum: u64, piece| sum.saturating_add(piece.length)))
    }

    fn as_file(&self) -> Option<&std::fs::File> {
        None
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn advise(&self, access: Access) -> Result<()> {
        self.storages.iter().try_for_each(|storage| storage.advise(access))
    }

    fn shared_runs(&self) -> Vec<super::SharedRun> {
        Vec::new()
    }

    fn identity(&self) -> Option<FileIdentity> {
        None
    }

    fn lies_in(&self) -> Vec<FileIdentity> {
        self.storages.iter().flat_map(|storage| storage.lies_in()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    fn numbers(range: std::ops::Range<u8>) -> Arc<dyn Storage> {
        Arc::new(MemoryStorage::new(range.collect()))
    }

    #[test]
    fn holes_lie_between_pieces_and_read_as_zeros() {
        let pieces = [(10, 5, 0), (15, 0, 5), (20, 5, 5)].into_iter();
        let sparse = PieceStorage::new(30, "x".into()).with_pieces(numbers(1..11), pieces);
        let mut all = [9; 30];
        sparse.read_exact_at(&mut all, 0).unwrap();
        let mut wanted = [0; 30];
        wanted[10..15].copy_from_slice(&[1, 2, 3, 4, 5]);
        wanted[20..25].copy_from_slice(&[6, 7, 8, 9, 10]);
        assert_eq!(all, wanted);
        let mut runs = Vec::new();
        let mut at = 0;
        while at < 30 {
            let run = sparse.run_at(at, 30).unwrap();
            runs.push((run.hole, run.length));
            at += run.length;
        }
        assert_eq!(runs, [(true, 10), (false, 5), (true, 5), (false, 5), (true, 5)]);
        assert_eq!(sparse.allocated_size(), Some(10));
        assert!(sparse.read_exact_at(&mut all, 1).is_err());
        for start in 0..30 {
            let mut part = vec![0; (30 - start).min(7)];
            sparse.read_exact_at(&mut part, start as u64).unwrap();
            assert_eq!(part, wanted[start..start + part.len()]);
        }
    }

    #[test]
    fn what_overlaps_or_lies_outside_is_no_piece() {
        let pieces = [(0, 4, 0), (3, 4, 4), (28, 4, 0), (4, 8, 5), (u64::MAX, 2, 0)].into_iter();
        let sparse = PieceStorage::new(30, "x".into()).with_pieces(numbers(0..10), pieces);
        assert_eq!(sparse.allocated_size(), Some(4));
    }

    #[test]
    fn joined_files_read_as_one() {
        let parts = vec![numbers(0..10), numbers(10..10), numbers(10..17), numbers(17..30)];
        let whole = PieceStorage::joined(parts, "x".into());
        assert_eq!(whole.size(), 30);
        let mut all = [0; 30];
        whole.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(all.to_vec(), (0..30).collect::<Vec<_>>());
        let mut part = [0; 12];
        whole.read_exact_at(&mut part, 8).unwrap();
        assert_eq!(part.to_vec(), (8..20).collect::<Vec<_>>());
    }
}
