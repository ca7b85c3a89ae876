//! The writes of a repair, into the image file itself.

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::check::Patch;
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::progress::Progress;
use crate::storage::FileIdentity;
use crate::sys;

/// Writes a repair into an image file. Nothing else may have the file open for writing: a lock
/// that another process holds on it, as QEMU does, is respected, and one is held until the end.
///
/// ```
/// # use diskimage::format::vhd::VhdOptions;
/// # use diskimage::target::FileTarget;
/// # use diskimage::{Convert, Target};
/// use diskimage::target::FilePatch;
/// use diskimage::{Checking, OpenOptions, Progress, RepairScope};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.vhd");
/// # let target = FileTarget::create(&path, 0)?;
/// # Convert::new().create(Box::new(VhdOptions::new().writer(1 << 20)?), &target)?;
/// # Box::new(target).finish()?;
/// # let mut bytes = std::fs::read(&path)?;
/// # let footer = bytes.len() - 512;
/// # bytes[footer..].fill(0);
/// # std::fs::write(&path, bytes)?;
/// // a VHD whose footer is gone: a copy of it is at the start
/// let image = OpenOptions::new().open_image(&path)?;
/// // an error if it is another file by now, or if a machine runs on it
/// let mut patch = FilePatch::open(&path, image.storage().identity(), Progress::new().into())?;
/// let repaired = image.repair(RepairScope::All, &Checking::new(), &mut patch)?;
/// assert_eq!((repaired.corruptions_fixed, patch.has_written()), (1, true));
/// patch.finish()?;
/// let image = OpenOptions::new().open_image(&path)?;
/// assert!(image.check(Checking::new())?.is_clean());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FilePatch {
    file: File,
    path: PathBuf,
    progress: Arc<Progress>,
    written: bool,
}

#[derive(Debug, thiserror::Error)]
enum PatchDetail {
    #[error("is in use: another process holds a lock on it")]
    InUse,
    #[error("is another file than the one that was checked")]
    Replaced,
    #[error("is {0}, which cannot be written by position")]
    NotPositional(&'static str),
}

impl Detail for PatchDetail {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::InUse | Self::Replaced => ErrorKind::Io,
            Self::NotPositional(_) => ErrorKind::InvalidInput,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::InUse => "stop the machine or the program that uses it first".into(),
            Self::Replaced => "check it again".into(),
            Self::NotPositional(_) => "copy it to a regular file first".into(),
        })
    }
}

impl FilePatch {
    /// Opens the file at `path`, which must be the one that was checked, for writing. Between its
    /// writes it sees whether `progress` asks it to stop.
    pub fn open(
        path: impl AsRef<Path>,
        checked: Option<FileIdentity>,
        progress: Arc<Progress>,
    ) -> Result<Self> {
        let path = path.as_ref();
        let open = || {
            let file = sys::open_read_write(path)
                .map_err(|source| Error::io("open the file for writing", source))?;
            let kind =
                sys::file_kind(&file).map_err(|source| Error::io("examine the file", source))?;
            if let sys::FileKind::Other(what) = kind {
                return Err(PatchDetail::NotPositional(what).into());
            }
            if checked.is_some_and(|checked| sys::identity(&file) != Some(checked)) {
                return Err(PatchDetail::Replaced.into());
            }
            match sys::lock(&file) {
                Ok(true) => Ok(file),
                Ok(false) => Err(PatchDetail::InUse.into()),
                Err(source) => Err(Error::io("lock the file", source)),
            }
        };
        let file = open().map_err(|error: Error| error.in_file(path))?;
        Ok(Self { file, path: path.to_owned(), progress, written: false })
    }

    /// Whether anything was written.
    #[must_use]
    pub fn has_written(&self) -> bool {
        self.written
    }

    /// Has the file end at `size`, where it is longer and a regular file. What was written before is on
    /// its medium by then.
    pub fn truncate(&mut self, size: u64) -> Result<()> {
        self.progress.check()?;
        self.barrier()?;
        let here = |what, source| Error::io(what, source).in_file(&self.path);
        match sys::file_kind(&self.file).map_err(|source| here("examine the file", source))? {
            sys::FileKind::Regular { size: length } if length > size => {
                self.written = true;
                self.file.set_len(size).map_err(|source| here("set the size", source))
            }
            _ => Ok(()),
        }
    }

    /// Brings what was written to its medium.
    pub fn finish(mut self) -> Result<()> {
        self.barrier()
    }
}

impl Patch for FilePatch {
    fn write(&mut self, offset: u64, bytes: &[u8], _what: &str) -> Result<()> {
        self.progress.check()?;
        self.written = true;
        sys::write_all_at(&self.file, bytes, offset)
            .map_err(|source| Error::io("write", source).at(offset).in_file(&self.path))
    }

    fn barrier(&mut self) -> Result<()> {
        let synced = self.file.sync_data();
        synced
            .map_err(|source| Error::io("write the file to its medium", source).in_file(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_go_into_the_file_that_was_checked_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("image"), dir.path().join("other"));
        std::fs::write(&path, [7; 10]).unwrap();
        std::fs::write(&other, [7; 10]).unwrap();
        let identity = sys::identity(&File::open(&path).unwrap());
        let mut patch = FilePatch::open(&path, identity, Arc::default()).unwrap();
        patch.write(8, &[1, 2, 3, 4], "test it").unwrap();
        assert!(patch.has_written());
        patch.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [7, 7, 7, 7, 7, 7, 7, 7, 1, 2, 3, 4]);
        let error = FilePatch::open(&other, identity, Arc::default()).unwrap_err();
        assert!(error.to_string().contains("another file"), "{error}");
    }

    #[test]
    fn the_file_is_cut_and_never_made_longer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, [7; 10]).unwrap();
        let mut patch = FilePatch::open(&path, None, Arc::default()).unwrap();
        patch.truncate(11).unwrap();
        assert!(!patch.has_written());
        patch.truncate(4).unwrap();
        patch.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [7; 4]);
    }

    #[test]
    fn a_stop_comes_between_two_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, [7; 4]).unwrap();
        let progress = Arc::new(Progress::new());
        let mut patch = FilePatch::open(&path, None, Arc::clone(&progress)).unwrap();
        patch.write(0, &[1], "test it").unwrap();
        progress.cancel();
        assert_eq!(patch.write(1, &[1], "test it").unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(std::fs::read(&path).unwrap(), [1, 7, 7, 7]);
    }
}
