//! Compressed files around an image: what lies inside, and ways to read it.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::blocks::{self, Part};
use super::decoder::{Codec, Decoder, StorageReader};
use super::error::Fault;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::format::probe::{HEAD, Probe, TAIL, probe_bytes};
use crate::num::to_u64;
use crate::parallel;
use crate::storage::Storage;

/// How much is decoded at once.
const PIECE: usize = 256 << 10;
/// What a look at the start of a file may take: the dictionary of `xz -9` is 64 MiB. Of it only as
/// much is used as is decoded.
const PEEK: u64 = 72 << 20;
/// How much of the file such a look reads.
const PEEK_INPUT: u64 = 512 << 10;

/// A compressed file.
///
/// ```
/// use std::io::Read;
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::container::Compressed;
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Format, Storage};
///
/// # let image = {
/// #     use diskimage::{Convert, Target, format::qcow2::Qcow2Options, target::SpillTarget};
/// #     let mut image = Vec::new();
/// #     let target = SpillTarget::new(&mut image, &std::env::temp_dir(), 1 << 20)?;
/// #     Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 30)?), &target)?;
/// #     Box::new(target).finish()?;
/// #     image
/// # };
/// # let packed = {
/// #     use std::io::Write;
/// #     let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
/// #     gzip.write_all(&image)?;
/// #     gzip.finish()?
/// # };
/// assert!(Compressed::is_one(Format::Gzip));
/// let (storage, path) = (Arc::new(MemoryStorage::new(packed)), Path::new("disk.qcow2.gz"));
/// let compressed = Compressed::new(storage, path, Format::Gzip, 1 << 20);
/// let inside = compressed.peek()?; // a look at its start
/// assert!(inside.images().any(|found| found.format == Format::Qcow2));
/// let mut bytes = Vec::new();
/// compressed.reader()?.read_to_end(&mut bytes)?; // all of it
/// assert_eq!(bytes, image);
/// assert!(compressed.storage().size() < 10_000);
/// assert_eq!((compressed.path(), compressed.format()), (path, Format::Gzip));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Compressed {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    format: Format,
    memory: u64,
    limit: Option<u64>,
}

impl Compressed {
    /// `storage`, compressed in this format: one of gzip, xz, zstd and bzip2. `memory` bounds what
    /// decoding takes; `path` is the file's name.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, path: &Path, format: Format, memory: u64) -> Self {
        Self { storage, path: path.to_owned(), format, memory, limit: None }
    }

    /// Refuses to decode more than `limit` bytes of a disk.
    #[must_use]
    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Whether files of this format are such files.
    #[must_use]
    pub fn is_one(format: Format) -> bool {
        Codec::of(format).is_some()
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The compressed bytes.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The file's name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is inside, from its start to its end.
    pub fn reader(&self) -> Result<Decoder<StorageReader>> {
        let reader = StorageReader::new(Arc::clone(&self.storage), 0, self.storage.size());
        Decoder::new(self.format, reader, self.memory).map_err(|error| error.in_file(&self.path))
    }

    /// What is inside, by its first 68 KiB: formats that show themselves at the end only are not
    /// seen, unless all of it is that short. No more than 512 KiB are read.
    pub fn peek(&self) -> Result<Probe> {
        let (head, whole) = self.head()?;
        let tail = head.get(head.len().saturating_sub(TAIL)..).unwrap_or_default();
        Ok(probe_bytes(&head, whole.then_some((tail, to_u64(head.len())))))
    }

    /// The first bytes, and whether they are all. Where they take more than may be read, or the file
    /// is cut off, those that are there.
    pub(crate) fn head(&self) -> Result<(Vec<u8>, bool)> {
        let end = self.storage.size().min(PEEK_INPUT);
        let reader = StorageReader::new(Arc::clone(&self.storage), 0, end);
        let here = |error: Error| error.in_file(&self.path);
        let mut decoder = Decoder::new(self.format, reader, self.memory.max(PEEK)).map_err(here)?;
        let (mut head, mut length) = (vec![0; HEAD.saturating_add(1)], 0usize);
        let mut whole = false;
        while let Some(rest) = head.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match decoder.decode(rest) {
                Ok(0) => {
                    whole = end == self.storage.size();
                    break;
                }
                Ok(more) => length = length.saturating_add(more),
                Err(error) if error.is_cut_off() && (length > 0 || end < self.storage.size()) => {
                    break;
                }
                Err(error) => return Err(here(error)),
            }
        }
        whole &= length <= HEAD;
        head.truncate(length.min(HEAD));
        Ok((head, whole))
    }

    /// How many parts of it can be decoded at once.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.find_parts().map_or(1, |parts| parts.len())
    }

    fn find_parts(&self) -> Option<Vec<Part>> {
        let codec = Codec::of(self.format)?;
        // an index takes four times its length in memory
        blocks::parts(&self.storage, codec, self.memory.wrapping_shr(4))
    }

    /// Decodes all of it. `write` gets pieces of at most 256 KiB and where they lie: in the order of
    /// the file, one at a time, if it is `ascending` or one thread runs. Gives the size.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::{Arc, Mutex};
    ///
    /// use diskimage::ErrorKind;
    /// use diskimage::Format;
    /// use diskimage::container::Compressed;
    /// use diskimage::storage::MemoryStorage;
    ///
    /// # let image = vec![7; 1 << 20];
    /// # let packed = {
    /// #     use std::io::Write;
    /// #     let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    /// #     gzip.write_all(&image)?;
    /// #     gzip.finish()?
    /// # };
    /// let storage = Arc::new(MemoryStorage::new(packed));
    /// let compressed = Compressed::new(storage, Path::new("disk.raw.gz"), Format::Gzip, 1 << 20);
    /// assert_eq!(compressed.parts(), 1); // a gzip file is one stream
    ///
    /// let disk = Mutex::new(vec![0; 1 << 20]);
    /// let size = compressed.decode(None, true, &|at, bytes| {
    ///     disk.lock().expect("the disk")[at as usize..][..bytes.len()].copy_from_slice(bytes);
    ///     Ok(())
    /// })?;
    /// assert_eq!((size, disk.into_inner()?), (1 << 20, vec![7; 1 << 20]));
    ///
    /// let error = compressed.limit(1000).decode(None, true, &|_, _| Ok(())).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn decode(
        &self,
        threads: Option<NonZeroUsize>,
        ascending: bool,
        write: &(dyn Fn(u64, &[u8]) -> Result<()> + Sync),
    ) -> Result<u64> {
        let parts = if ascending { None } else { self.find_parts() };
        let write = &|at: u64, bytes: &[u8]| {
            let (size, limit) = (end_of(at, bytes), self.limit.unwrap_or(u64::MAX));
            if size > limit {
                return Err(Fault::TooLargeDisk(limit).into());
            }
            write(at, bytes)
        };
        let decoded = match parts {
            Some(parts) => self.decode_parts(&parts, threads, write),
            None => self.decode_whole(write),
        };
        decoded.map_err(|error| error.in_file(&self.path))
    }

    fn decode_whole(&self, write: &dyn Fn(u64, &[u8]) -> Result<()>) -> Result<u64> {
        let (mut decoder, mut buf, mut at) = (self.reader()?, vec![0; PIECE], 0u64);
        loop {
            let filled = decoder.fill(&mut buf)?;
            if filled == 0 {
                return Ok(at);
            }
            write(at, buf.get(..filled).unwrap_or_default())?;
            at = at.saturating_add(to_u64(filled));
        }
    }

    fn decode_parts(
        &self,
        parts: &[Part],
        threads: Option<NonZeroUsize>,
        write: &(dyn Fn(u64, &[u8]) -> Result<()> + Sync),
    ) -> Result<u64> {
        let each = parts.iter().map(|part| part.memory).max().unwrap_or_default();
        let threads = parallel::thread_count(threads, each, self.memory)?.min(parts.len());
        let memory = self.memory.checked_div(to_u64(threads)).unwrap_or_default();
        let (next, failed) = (AtomicUsize::new(0), Mutex::<Option<Error>>::default());
        let failure = || failed.lock().unwrap_or_else(PoisonError::into_inner);
        parallel::run(threads, || {
            let mut buf = vec![0; PIECE];
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                let done = part.decode(&self.storage, self.format, memory, &mut buf, write);
                if let Err(error) = done {
                    failure().get_or_insert(error);
                }
                if failure().is_some() {
                    return;
                }
            }
        });
        if let Some(error) = failure().take() {
            return Err(error);
        }
        Ok(parts.last().map_or(0, |last| last.start.saturating_add(last.size)))
    }
}

/// Blocks of zeros of this size are left out of a temporary file.
const HOLE: usize = 4 << 10;

/// Runs of blocks that are not all zeros.
pub(super) fn data_runs(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut blocks = bytes.chunks(HOLE).enumerate().peekable();
    std::iter::from_fn(move || {
        let first = blocks.find(|(_, block)| !crate::bytes::is_zero(block))?.0;
        let mut behind = first.saturating_add(1);
        while blocks.next_if(|(_, block)| !crate::bytes::is_zero(block)).is_some() {
            behind = behind.saturating_add(1);
        }
        let start = first.saturating_mul(HOLE);
        let end = behind.saturating_mul(HOLE).min(bytes.len());
        Some((start, bytes.get(start..end).unwrap_or_default()))
    })
}

/// A piece's end in a file.
pub(super) fn end_of(at: u64, bytes: &[u8]) -> u64 {
    at.saturating_add(to_u64(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_data_leave_blocks_of_zeros_out() {
        let mut bytes = vec![0u8; 5 * HOLE + 100];
        bytes[HOLE + 5] = 1;
        bytes[2 * HOLE] = 1;
        bytes[5 * HOLE + 99] = 1;
        let runs: Vec<_> = data_runs(&bytes).map(|(at, run)| (at, run.len())).collect();
        assert_eq!(runs, [(HOLE, 2 * HOLE), (5 * HOLE, 100)]);
        assert_eq!(data_runs(&[0; 100]).count(), 0);
        assert_eq!(data_runs(&[]).count(), 0);
    }
}
