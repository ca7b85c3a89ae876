//! A regular file or a block device.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Access, DATA, FileIdentity, Run, SharedRun, Storage, beyond_end};
use crate::bytes::AlignedBuffer;
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::num::{Pow2, to_u64, to_usize};
use crate::sys;

/// A file of the operating system, read by position.
///
/// ```
/// use diskimage::Storage;
/// use diskimage::storage::FileStorage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("file");
/// # std::fs::write(&path, "bytes")?;
/// let storage = FileStorage::open(&path)?;
/// let mut bytes = [0; 4];
/// storage.read_exact_at(&mut bytes, 1)?;
/// assert_eq!(&bytes, b"ytes");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    path: PathBuf,
    size: u64,
    /// Whether holes are asked for: a regular file of a system that tells.
    sparse: bool,
    /// The run of data that was found last: most queries lie in it, and finding the end of a run
    /// can take the system long.
    data: Mutex<Range<u64>>,
    /// Whether reads bypass the system's cache.
    direct: AtomicBool,
}

/// What offsets, lengths and memory are multiples of where the system's cache is bypassed: the
/// page, which no device exceeds.
const DIRECT_UNIT: Pow2 = Pow2::PAGE;
/// The most that is read at once past the system's cache.
const DIRECT_READ: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
enum FileDetail {
    #[error("is {0}, not a regular file or block device")]
    NotPositional(&'static str),
}

impl Detail for FileDetail {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }
    fn advice(&self) -> Option<Cow<'static, str>> {
        let Self::NotPositional(what) = self;
        Some(if *what == "a directory" {
            "name an image inside it".into()
        } else {
            "an image is read by position: copy it to a regular file first".into()
        })
    }
}

impl FileStorage {
    /// Opens `path` for reading. Only regular files and block devices are taken: a FIFO, socket,
    /// character device or directory is an error of kind [`InvalidInput`](ErrorKind::InvalidInput),
    /// and opening one neither blocks nor reads.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if let Some(what) = sys::look(path) {
            return Err(Error::new(FileDetail::NotPositional(what)).in_file(path));
        }
        let file = sys::open_read(path)
            .map_err(|source| Error::io("open the file", source).in_file(path))?;
        Self::from_file(file, path)
    }

    /// Takes an open file; `path` is its name for messages.
    ///
    /// ```
    /// use diskimage::Storage;
    /// use diskimage::storage::FileStorage;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("image");
    /// # std::fs::write(&path, "bytes")?;
    /// // one that was opened elsewhere: by whoever may, before the process gave its rights away
    /// let file = std::fs::File::open(&path)?;
    /// let storage = FileStorage::from_file(file, "upload-17")?;
    /// assert_eq!((storage.size(), storage.file().metadata()?.len()), (5, 5));
    /// let error = storage.read_exact_at(&mut [0; 6], 0).unwrap_err();
    /// assert_eq!(error.file(), Some("upload-17".as_ref()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_file(file: File, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        match sys::file_kind(&file) {
            Err(source) => Err(Error::io("examine the file", source).in_file(&path)),
            Ok(sys::FileKind::Other(what)) => {
                Err(Error::new(FileDetail::NotPositional(what)).in_file(&path))
            }
            Ok(sys::FileKind::Regular { size }) => Ok(Self::new(file, path, size, true)),
            Ok(sys::FileKind::Block { size }) => Ok(Self::new(file, path, size, false)),
        }
    }

    fn new(file: File, path: PathBuf, size: u64, sparse: bool) -> Self {
        Self { file, path, size, sparse, data: Mutex::default(), direct: AtomicBool::new(false) }
    }

    /// Reads through aligned memory, as the system demands it where its cache is bypassed.
    fn read_direct(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        thread_local! {
            static ALIGNED: RefCell<AlignedBuffer> = const { RefCell::new(AlignedBuffer::new()) };
        }
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let within = to_usize(DIRECT_UNIT.within(at));
            let wanted = within.saturating_add(rest.len()).min(DIRECT_READ);
            let length = wanted.next_multiple_of(to_usize(DIRECT_UNIT.size()));
            let copied = ALIGNED.with_borrow_mut(|aligned| -> std::io::Result<usize> {
                let aligned = aligned.get(length);
                let read = sys::read_up_to(&self.file, aligned, DIRECT_UNIT.floor(at))?;
                let bytes = aligned.get(within..read).unwrap_or_default();
                let length = bytes.len().min(rest.len());
                if let (Some(to), Some(from)) = (rest.get_mut(..length), bytes.get(..length)) {
                    to.copy_from_slice(from);
                }
                Ok(length)
            })?;
            if copied == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            at = at.saturating_add(to_u64(copied));
            rest = rest.get_mut(copied..).unwrap_or_default();
        }
        Ok(())
    }

    /// The file itself.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Storage for FileStorage {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let read = if self.direct.load(Ordering::Relaxed) {
            self.read_direct(buf, offset)
        } else {
            sys::read_exact_at(&self.file, buf, offset)
        };
        read.map_err(|source| {
            if source.kind() == std::io::ErrorKind::UnexpectedEof {
                let size = self.file.metadata().map_or(self.size, |m| m.len());
                return beyond_end(DATA, size, to_u64(buf.len()), offset).in_file(&self.path);
            }
            Error::io("read", source).at(offset).in_file(&self.path)
        })
    }

    fn run_at(&self, offset: u64, max: u64) -> Result<Run> {
        let all = max.min(self.size.saturating_sub(offset));
        if !self.sparse {
            return Ok(Run { hole: false, length: all });
        }
        // data is always a right answer, even where a hole was made since
        let known = self.data.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.contains(&offset) {
            return Ok(Run { hole: false, length: known.end.saturating_sub(offset).min(all) });
        }
        let run = sys::run_at(&self.file, offset, self.size)
            .map_err(|source| Error::io("find the holes", source).at(offset).in_file(&self.path))?;
        if !run.hole {
            *self.data.lock().unwrap_or_else(PoisonError::into_inner) =
                offset..offset.saturating_add(run.length);
        }
        Ok(Run { hole: run.hole, length: run.length.min(all) })
    }

    fn allocated_size(&self) -> Option<u64> {
        sys::allocated_size(&self.file)
    }

    fn as_file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn advise(&self, access: Access) -> Result<()> {
        match access {
            Access::Sequential => sys::expect_sequence(&self.file),
            Access::Forget => sys::forget(&self.file),
            Access::Direct => {
                sys::set_direct(&self.file, true).map_err(|source| {
                    Error::io("bypass the cache of the system", source).in_file(&self.path)
                })?;
                self.direct.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn shared_runs(&self) -> Vec<SharedRun> {
        if self.sparse { sys::shared_runs(&self.file) } else { Vec::new() }
    }

    fn identity(&self) -> Option<FileIdentity> {
        sys::identity(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write};

    #[test]
    fn a_read_past_the_end_says_where_the_file_ends() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 100]).unwrap();
        let storage = FileStorage::open(file.path()).unwrap();
        let error = storage.read_exact_at(&mut [0; 10], 95).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.offset(), Some(95));
        assert_eq!(error.file(), Some(file.path()));
    }

    #[test]
    fn a_file_that_became_shorter_has_no_hole_at_its_old_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let storage = FileStorage::open(file.path()).unwrap();
        file.as_file().set_len(1 << 16).unwrap();
        assert!(!storage.run_at(1 << 19, u64::MAX).unwrap().hole);
        assert!(storage.read_exact_at(&mut [0; 10], 1 << 19).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn reads_past_the_cache_give_the_same_bytes_and_errors() {
        let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let bytes: Vec<u8> = (0..3_000_001u32).map(|i| (i % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        let storage = FileStorage::open(file.path()).unwrap();
        if let Err(error) = storage.advise(Access::Direct) {
            assert!(error.to_string().contains("bypass"), "{error}");
            eprintln!("skipped: this file system has no direct reads");
            return;
        }
        for (offset, length) in [(0, 1), (4095, 2), (1000, 2_500_000), (2_999_999, 2)] {
            let mut buf = vec![0; length];
            storage.read_exact_at(&mut buf, offset as u64).unwrap();
            assert!(buf == bytes[offset..offset + length], "{offset} {length}");
        }
        let error = storage.read_exact_at(&mut [0; 3], 2_999_999).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_directory_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = FileStorage::open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("directory"), "{error}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn holes_are_seen() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.seek(SeekFrom::Start(1 << 20)).unwrap();
        file.write_all(&[7; 1 << 16]).unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        let storage = FileStorage::open(file.path()).unwrap();
        let first = storage.run_at(0, u64::MAX).unwrap();
        if !first.hole {
            eprintln!("skipped: this file system does not tell holes");
            return;
        }
        assert_eq!(first, Run { hole: true, length: 1 << 20 });
        let data = storage.run_at(1 << 20, u64::MAX).unwrap();
        assert_eq!(data, Run { hole: false, length: 1 << 16 });
        let tail = storage.run_at((1 << 20) + (1 << 16), u64::MAX).unwrap();
        assert_eq!(tail, Run { hole: true, length: (3 << 20) - (1 << 16) });
        assert_eq!(storage.run_at(100, 5).unwrap(), Run { hole: true, length: 5 });
    }
}
