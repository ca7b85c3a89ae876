//! A raw disk in a compressed file, written as it is decoded: it never lies in a temporary file.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::{Convert, DEFAULT_SPARSE, Report, zero};
use crate::container::Compressed;
use crate::error::Result;
use crate::format::probe::{TAIL, probe_bytes};
use crate::num::{Pow2, to_u64, to_usize};
use crate::target::Target;

/// Who gets all bytes too, in their order.
type Seeing<'a> = Mutex<dyn FnMut(&[u8]) + Send + 'a>;

impl Convert {
    /// Writes the raw disk inside `compressed` to `target`, in parallel where the file has parts that
    /// can be decoded on their own, and gives the report. `None` where its end shows that it is no
    /// raw disk, but an image in a format that is told by what lies there: then what was written is
    /// of no use, and the file has to be decoded first. The target grows with the disk, and has to
    /// take the report's size in the end.
    ///
    /// ```
    /// # use std::io::Write;
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::container::Compressed;
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::target::SpillTarget;
    /// use diskimage::{Convert, Format, Target};
    ///
    /// # let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    /// # gzip.write_all(&[7; 4096])?;
    /// # gzip.write_all(&[0; 4096])?;
    /// # let storage = Arc::new(MemoryStorage::new(gzip.finish()?));
    /// let compressed = Compressed::new(storage, Path::new("disk.raw.gz"), Format::Gzip, 1 << 20);
    /// let mut raw = Vec::new();
    /// let target = SpillTarget::new(&mut raw, &std::env::temp_dir(), 1 << 30)?;
    /// let report = Convert::new().run_compressed(&compressed, &target)?;
    /// let report = report.expect("no image of another format is inside");
    /// assert_eq!((report.size, report.written), (8192, 4096)); // the rest is zeros
    /// # target.write_zeros(0, report.size)?;
    /// # Box::new(target).finish()?;
    /// # assert_eq!(raw.len(), 8192);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run_compressed(
        &self,
        compressed: &Compressed,
        target: &dyn Target,
    ) -> Result<Option<Report>> {
        self.run_compressed_seen(compressed, target, None)
    }

    /// The same, while `see` gets all bytes in their order.
    pub(crate) fn run_compressed_seen(
        &self,
        compressed: &Compressed,
        target: &dyn Target,
        see: Option<&Seeing<'_>>,
    ) -> Result<Option<Report>> {
        let unit = self.sparse_unit()?;
        let capabilities = target.capabilities();
        let unit = unit.filter(|_| capabilities.fresh_zeros);
        let head = compressed.head()?.0;
        let (tail, written) = (Mutex::<Tail>::default(), Mutex::new(0u64));
        let ascending = capabilities.ascending || see.is_some();
        self.progress.start_reading(compressed.storage().size());
        let size = compressed.decode(self.threads, ascending, &|at, bytes| {
            if let Some(see) = see {
                (see.lock().unwrap_or_else(PoisonError::into_inner))(bytes);
            }
            tail.lock().unwrap_or_else(PoisonError::into_inner).take(at, bytes);
            let mut sum = 0u64;
            match unit {
                None => {
                    sum = to_u64(bytes.len());
                    target.write_at(bytes, at)?;
                }
                Some(unit) => {
                    for (_, run) in zero::runs(bytes, at, unit).filter(|(data, _)| *data) {
                        let part = bytes.get(run.clone()).unwrap_or_default();
                        sum = sum.saturating_add(to_u64(part.len()));
                        target.write_at(part, at.saturating_add(to_u64(run.start)))?;
                    }
                }
            }
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            *written = written.saturating_add(sum);
            Ok(())
        })?;
        self.progress.start(size);
        self.progress.advance(size);
        let tail = tail.into_inner().unwrap_or_else(PoisonError::into_inner).bytes(size);
        if probe_bytes(&head, Some((&tail, size))).images().next().is_some() {
            return Ok(None);
        }
        let written = written.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(Report { size, written, lost: Vec::new() }))
    }

    /// The granularity in which zeros are left out.
    pub(super) fn sparse_unit(&self) -> Result<Option<Pow2>> {
        match self.sparse.unwrap_or(DEFAULT_SPARSE) {
            0 => Ok(None),
            unit if unit >= 512 => {
                Ok(Some(Pow2::from_size(unit).ok_or(super::ConvertDetail::Sparse(unit))?))
            }
            unit => Err(super::ConvertDetail::Sparse(unit).into()),
        }
    }
}

/// The last bytes of a file that comes in pieces, which may be out of order.
#[derive(Debug, Default)]
struct Tail {
    /// The ends of pieces, by where they end.
    pieces: BTreeMap<u64, Vec<u8>>,
}

impl Tail {
    fn take(&mut self, at: u64, bytes: &[u8]) {
        let end = at.saturating_add(to_u64(bytes.len()));
        let last = bytes.get(bytes.len().saturating_sub(TAIL)..).unwrap_or_default();
        let furthest = self.pieces.last_key_value().map_or(end, |(&furthest, _)| furthest.max(end));
        // what ends further back is not among the last bytes, wherever the file ends
        let back = furthest.saturating_sub(to_u64(TAIL));
        if end > back {
            self.pieces.insert(end, last.to_vec());
        }
        while let Some(first) = self.pieces.first_entry().filter(|first| *first.key() <= back) {
            first.remove();
        }
    }

    /// The last bytes of a file of this size.
    fn bytes(&self, size: u64) -> Vec<u8> {
        let length = TAIL.min(to_usize(size));
        let start = size.saturating_sub(to_u64(length));
        let mut tail = vec![0; length];
        for (&end, bytes) in &self.pieces {
            let at = end.saturating_sub(to_u64(bytes.len()));
            // a piece may begin before the last bytes do
            let skip = to_usize(start.saturating_sub(at)).min(bytes.len());
            let to = to_usize(at.saturating_sub(start));
            let part = bytes.get(skip..).unwrap_or_default();
            if let Some(room) = tail.get_mut(to..).and_then(|room| room.get_mut(..part.len())) {
                room.copy_from_slice(part);
            }
        }
        tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_known_whatever_the_order_of_pieces() {
        let all: Vec<u8> = (0..5000u32).map(|i| (i * 7) as u8).collect();
        for piece in [1, 100, 511, 512, 513, 4096, 5000] {
            let mut pieces: Vec<_> = all.chunks(piece).enumerate().collect();
            for order in 0..3 {
                match order {
                    1 => pieces.reverse(),
                    2 => pieces.sort_by_key(|(number, _)| (number * 7) % 11),
                    _ => {}
                }
                let mut tail = Tail::default();
                for (number, bytes) in &pieces {
                    tail.take((number * piece) as u64, bytes);
                }
                assert_eq!(tail.bytes(5000), all[5000 - TAIL..], "{piece} {order}");
                assert!(tail.pieces.len() <= TAIL + 1);
            }
        }
        let mut short = Tail::default();
        short.take(0, b"abc");
        assert_eq!(short.bytes(3), b"abc");
    }
}
