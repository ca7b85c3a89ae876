//! A raw disk in a regular file or on a block device.
// long: a quarter of it is documentation

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::place::{Place, TemporaryName, folder_of, name_file, named_file};
use super::stream::zeros;
use super::{Capabilities, Reflink, Target};
use crate::bytes::AlignedBuffer;
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::num::{Pow2, to_u64, to_usize};
use crate::storage::FileIdentity;
use crate::sys::{self, FileKind};

/// Writes a raw disk to a file.
///
/// ```
/// use diskimage::Target;
/// use diskimage::target::FileTarget;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.raw");
/// let target = FileTarget::create(&path, 1 << 20)?;
/// target.write_at(b"boot", 0)?;
/// assert!(!path.exists()); // not before it is whole
/// Box::new(target).finish()?;
/// assert_eq!(std::fs::read(&path)?.len(), 1 << 20);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FileTarget {
    file: File,
    /// The name for messages.
    path: PathBuf,
    place: Place,
    /// Whether it takes the place of no other file.
    only_new: bool,
    fresh_zeros: bool,
    /// Whether room that is set aside stays so: zeros are written, not punched out.
    keep_room: bool,
    /// Whether what is written is forgotten by the system's cache.
    forget: bool,
    /// Whether whole pages are written past the system's cache.
    direct: bool,
    /// Whether all is on its medium before the file gets its name.
    durable: bool,
    /// Whether the kernel has refused to copy from another file.
    no_offload: AtomicBool,
    /// Held while a write runs. The kernel writes to one file for one thread at a time, and lets
    /// the others spin: waiting here leaves them the processor.
    writing: Mutex<Writing>,
}

/// What belongs to the one write that runs.
#[derive(Debug, Default)]
struct Writing {
    /// Whether the file is set to bypass the cache just now.
    direct: bool,
    /// Bytes written since the cache was told to forget.
    since: u64,
    aligned: AlignedBuffer,
}

/// How much may be written before the system's cache is told to forget it.
const FORGET_EVERY: u64 = 32 << 20;

/// Whether room on the medium is set aside for the whole of a new file.
///
/// ```
/// use diskimage::Target;
/// use diskimage::storage::FileStorage;
/// use diskimage::target::{FileTarget, Preallocation};
/// # use diskimage::Storage;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.raw");
/// // a disk that is full shows itself now, and not after an hour
/// let target = FileTarget::create(&path, 1 << 20)?.preallocate(1 << 20, Preallocation::Full)?;
/// assert!(!target.capabilities().fresh_zeros); // zeros are written too
/// target.write_zeros(0, 1 << 20)?;
/// Box::new(target).finish()?;
/// assert_eq!(FileStorage::open(&path)?.size(), 1 << 20);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Preallocation {
    /// Only what is written takes up room.
    #[default]
    Off,
    /// All room is set aside at once, so that a full disk shows itself at the start.
    Falloc,
    /// The same, and zeros are written too, so that no later write has to allocate or convert.
    Full,
}

/// What is known of an existing target's content.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::storage::MemoryStorage;
/// use diskimage::target::{Existing, FileTarget};
/// use diskimage::{Convert, Format, OpenOptions, Target, VirtualDisk};
///
/// # let folder = tempfile::tempdir()?;
/// # let volume = folder.path().join("volume");
/// # std::fs::write(&volume, [9; 8192])?;
/// # let storage = Arc::new(MemoryStorage::new([[7; 4096], [0; 4096]].concat()));
/// # let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
/// // onto a volume with what somebody else left there
/// let target = FileTarget::existing(&volume, disk.size(), Existing::Unknown)?;
/// Convert::new().run(&disk, &target)?;
/// Box::new(target).finish()?;
/// assert_eq!(std::fs::read(&volume)?, [[7; 4096], [0; 4096]].concat());
/// // on one that was cleared just now nothing is to be done for zeros
/// let cleared = FileTarget::existing(&volume, disk.size(), Existing::Zeros)?;
/// assert!(cleared.capabilities().fresh_zeros);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Anything: zeros are written too.
    Unknown,
    /// All zeros, says the caller: zeros are left out.
    Zeros,
}

#[derive(Debug, thiserror::Error)]
enum TargetDetail {
    #[error("holds {holds} bytes, the disk has {needed}")]
    TooSmall { holds: u64, needed: u64 },
    #[error("is {0}, which cannot be written by position")]
    NotPositional(&'static str),
    #[error("a file of {0} bytes is more than the file system or the limit of the process allows")]
    TooLargeForFileSystem(u64),
    #[error("is a symbolic link to a file that does not exist")]
    DanglingLink,
    #[error("exists, and may belong to another image")]
    Exists,
    #[error(
        "cannot share blocks here: the data lie at {offset:#x} of the image, which is not in step \
         with the file system's blocks of {block} bytes"
    )]
    NotAligned { offset: u64, block: u64 },
    #[error("cannot share blocks with the image: {0}")]
    NotShared(std::io::Error),
}

impl Detail for TargetDetail {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAligned { .. } | Self::NotShared(_) => ErrorKind::Unsupported,
            _ => ErrorKind::InvalidInput,
        }
    }
    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::TooSmall { .. } => "make it larger first".into(),
            Self::NotPositional(_) => "write to standard output with - instead".into(),
            Self::TooLargeForFileSystem(_) => {
                "ext4 ends at 16 TiB: choose another file system (XFS, Btrfs, tmpfs), or raise the \
                 limit (ulimit -f)"
                    .into()
            }
            Self::DanglingLink => "name the file itself, or remove the link".into(),
            Self::Exists => "remove it, or choose another name for the image".into(),
            Self::NotAligned { .. } => "leave --reflink at auto".into(),
            Self::NotShared(_) => {
                "put both on one file system that shares blocks (XFS, Btrfs), or leave --reflink \
                 at auto"
                    .into()
            }
        })
    }
}

impl FileTarget {
    /// A new file of `size` bytes that appears at `path`, replacing what is there, only when it is
    /// finished: until then it has no name, or a temporary one in the same folder. A block device
    /// at `path` is written in place, since it cannot be replaced.
    ///
    /// ```
    /// use diskimage::Target;
    /// use diskimage::target::FileTarget;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.raw");
    /// # std::fs::write(&path, "old")?;
    /// let target = FileTarget::create(&path, 4096)?;
    /// target.write_at(&[7; 512], 0)?;
    /// drop(target); // not finished: something went wrong
    /// assert_eq!(std::fs::read(&path)?, b"old");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn create(path: impl AsRef<Path>, size: u64) -> Result<Self> {
        let path = path.as_ref();
        let here = |error: Error| error.in_file(path);
        // a link is followed, so that the file behind it is replaced and not the link
        let final_path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let replaced = match std::fs::symlink_metadata(&final_path) {
            Ok(metadata) if metadata.is_file() => {
                // a rename would replace even what must not be written, or fail when all is done
                sys::open_write(&final_path)
                    .map_err(|source| here(Error::io("open the file for writing", source)))?;
                Some(metadata.permissions())
            }
            Ok(metadata) if metadata.is_symlink() => {
                return Err(here(Error::new(TargetDetail::DanglingLink)));
            }
            Ok(_) => return Self::existing(path, size, Existing::Unknown),
            Err(_) => None,
        };
        let target = Self::unnamed(path, final_path, size)?;
        if let Some(permissions) = replaced {
            let set = target.file.set_permissions(permissions);
            set.map_err(|source| here(Error::io("set the permissions", source)))?;
        }
        Ok(target)
    }

    /// The same where there is no file of that name, now and when it is finished: it is an error if
    /// there is one.
    ///
    /// ```
    /// use diskimage::ErrorKind;
    /// use diskimage::target::FileTarget;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk-flat.vmdk");
    /// # std::fs::write(&path, "of another image")?;
    /// let error = FileTarget::create_new(&path, 1 << 20).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidInput);
    /// assert_eq!(error.advice(), Some("remove it, or choose another name for the image"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn create_new(path: impl AsRef<Path>, size: u64) -> Result<Self> {
        let path = path.as_ref();
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(Error::new(TargetDetail::Exists).in_file(path));
        }
        let mut target = Self::unnamed(path, path.to_owned(), size)?;
        target.only_new = true;
        Ok(target)
    }

    /// A new file that is to be named `final_path`.
    fn unnamed(path: &Path, final_path: PathBuf, size: u64) -> Result<Self> {
        let here = |error: Error| error.in_file(path);
        let nameless = sys::nameless_file(folder_of(&final_path))
            .map_err(|source| here(Error::io("create the file", source)))?;
        let (file, place) = match nameless {
            Some(file) => (file, Place::Nameless { final_path }),
            None => {
                let (file, name) = named_file(final_path).map_err(here)?;
                (file, Place::Named(name))
            }
        };
        let target = Self::new(file, path, place, true);
        target.resize(size)?;
        Ok(target)
    }

    /// Gives a new file its size, where that was not known when it was made.
    ///
    /// ```
    /// use diskimage::Target;
    /// use diskimage::target::FileTarget;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.raw");
    /// // what comes from a stream, whose length shows itself at its end
    /// let target = FileTarget::create(&path, 0)?;
    /// target.write_at(b"boot", 0)?;
    /// target.resize(1 << 20)?;
    /// Box::new(target).finish()?;
    /// assert_eq!(std::fs::metadata(&path)?.len(), 1 << 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resize(&self, size: u64) -> Result<()> {
        self.file.set_len(size).map_err(|source| match source.kind() {
            std::io::ErrorKind::FileTooLarge | std::io::ErrorKind::InvalidInput => {
                Error::new(TargetDetail::TooLargeForFileSystem(size)).in_file(&self.path)
            }
            _ => self.io("set the size", source),
        })
    }

    /// A file or block device that exists, keeps its size and must hold `size` bytes.
    pub fn existing(path: impl AsRef<Path>, size: u64, content: Existing) -> Result<Self> {
        let path = path.as_ref();
        let here = |error: Error| error.in_file(path);
        // look before opening: opening a FIFO for writing blocks
        let look = std::fs::metadata(path);
        let look = look.map_err(|source| here(Error::io("open the file", source)))?;
        if look.is_dir() {
            return Err(here(Error::new(TargetDetail::NotPositional("a directory"))));
        }
        let file = sys::open_write(path);
        let file = file.map_err(|source| here(Error::io("open the file for writing", source)))?;
        let kind = sys::file_kind(&file);
        let holds = match kind.map_err(|source| here(Error::io("examine the file", source)))? {
            FileKind::Regular { size } | FileKind::Block { size } => size,
            FileKind::Other(what) => {
                return Err(here(Error::new(TargetDetail::NotPositional(what))));
            }
        };
        if holds < size {
            return Err(here(Error::new(TargetDetail::TooSmall { holds, needed: size })));
        }
        let fresh_zeros = content == Existing::Zeros;
        Ok(Self::new(file, path, Place::Existing, fresh_zeros))
    }

    fn new(file: File, path: &Path, place: Place, fresh_zeros: bool) -> Self {
        Self {
            file,
            path: path.to_owned(),
            place,
            only_new: false,
            fresh_zeros,
            keep_room: false,
            forget: false,
            direct: false,
            durable: true,
            no_offload: AtomicBool::new(false),
            writing: Mutex::default(),
        }
    }

    /// Sets room aside for the first `size` bytes. Where the file system cannot, zeros are written
    /// as with [`Preallocation::Full`].
    pub fn preallocate(mut self, size: u64, preallocation: Preallocation) -> Result<Self> {
        if preallocation == Preallocation::Off {
            return Ok(self);
        }
        self.keep_room = true;
        let set_aside = sys::preallocate(&self.file, size);
        let set_aside = set_aside.map_err(|source| self.io("set room aside", source))?;
        if !set_aside || preallocation == Preallocation::Full {
            self.fresh_zeros = false;
        }
        Ok(self)
    }

    /// Lets the system's cache forget what is written, so that a large conversion does not push
    /// everything else out of it. Costs waiting for the medium.
    #[must_use]
    pub fn forget(mut self, yes: bool) -> Self {
        self.forget = yes;
        self
    }

    /// Whether [`finish`](Target::finish) waits until all is on its medium. Default: yes. Without,
    /// a power failure soon afterwards may leave a file under its name that is not whole.
    ///
    /// ```
    /// use diskimage::Target;
    /// use diskimage::target::FileTarget;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("scratch.raw");
    /// // a scratch file that may be lost: nobody waits, and the system's cache is left to others
    /// let target = FileTarget::create(&path, 4096)?.durable(false).forget(true);
    /// target.write_at(&[7; 512], 0)?;
    /// Box::new(target).finish()?;
    /// assert_eq!(std::fs::read(&path)?[..512], [7; 512]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn durable(mut self, yes: bool) -> Self {
        self.durable = yes;
        self
    }

    /// Writes whole pages past the system's cache (`O_DIRECT`). An error where the system refuses.
    ///
    /// ```
    /// use diskimage::Target;
    /// use diskimage::target::FileTarget;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.raw");
    /// let target = match FileTarget::create(&path, 1 << 20)?.direct() {
    ///     Ok(target) => target,
    ///     // a system or a file system without that
    ///     Err(_) => FileTarget::create(&path, 1 << 20)?.forget(true),
    /// };
    /// target.write_at(&[7; 10_000], 100)?; // in step with nothing
    /// Box::new(target).finish()?;
    /// assert_eq!(std::fs::read(&path)?[100..10_100], [7; 10_000]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn direct(mut self) -> Result<Self> {
        for direct in [true, false] {
            let set = sys::set_direct(&self.file, direct);
            set.map_err(|source| self.io("bypass the cache of the system", source))?;
        }
        self.direct = true;
        Ok(self)
    }

    /// What tells that this target is some other open file, where the system has such a thing. A
    /// new file differs from all.
    ///
    /// ```
    /// use diskimage::Storage;
    /// use diskimage::storage::FileStorage;
    /// use diskimage::target::{Existing, FileTarget};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.raw");
    /// # std::fs::write(&path, [7; 4096])?;
    /// let source = FileStorage::open(&path)?;
    /// let target = FileTarget::existing(&path, 4096, Existing::Unknown)?;
    /// // the image would be written over itself
    /// # #[cfg(unix)]
    /// assert!(target.identity().is_some_and(|target| source.lies_in().contains(&target)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn identity(&self) -> Option<FileIdentity> {
        match &self.place {
            Place::Existing => sys::identity(&self.file),
            Place::Nameless { final_path } | Place::Named(TemporaryName { final_path, .. }) => {
                sys::identity(&sys::open_read(final_path).ok()?)
            }
        }
    }

    fn io(&self, operation: &'static str, source: std::io::Error) -> Error {
        Error::io(operation, source).in_file(&self.path)
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes whole pages past the cache, and what is less than one at either end as usual.
    fn write_pages(&self, writing: &mut Writing, buf: &[u8], offset: u64) -> std::io::Result<()> {
        let end = offset.saturating_add(to_u64(buf.len()));
        let first = Pow2::PAGE.ceil(offset).min(end);
        let behind = Pow2::PAGE.floor(end).max(first);
        let (head, rest) = buf.split_at(to_usize(first.saturating_sub(offset)).min(buf.len()));
        let pages = to_usize(behind.saturating_sub(first)).min(rest.len());
        let (pages, tail) = rest.split_at(pages);
        if !pages.is_empty() {
            if !writing.direct {
                sys::set_direct(&self.file, true)?;
                writing.direct = true;
            }
            let aligned = writing.aligned.get(pages.len());
            aligned.copy_from_slice(pages);
            sys::write_all_at(&self.file, aligned, first)?;
        }
        for (part, at) in [(head, offset), (tail, behind)] {
            if !part.is_empty() {
                if writing.direct {
                    sys::set_direct(&self.file, false)?;
                    writing.direct = false;
                }
                sys::write_all_at(&self.file, part, at)?;
            }
        }
        Ok(())
    }

    /// Counts what was written, and lets the cache forget it from time to time.
    fn written(&self, writing: &mut Writing, length: u64) -> std::io::Result<()> {
        writing.since = writing.since.saturating_add(length);
        if self.forget && writing.since >= FORGET_EVERY {
            writing.since = 0;
            // only what is on the medium can be forgotten
            self.file.sync_data()?;
            sys::forget(&self.file);
        }
        Ok(())
    }

    /// Sees to it that all that was written is on its medium, if that is wanted.
    pub(super) fn settle(&self) -> Result<()> {
        if self.writing().direct {
            let unset = sys::set_direct(&self.file, false);
            unset.map_err(|source| self.io("use the cache of the system", source))?;
        }
        if self.durable {
            let synced = self.file.sync_all();
            synced.map_err(|source| self.io("write the file to its medium", source))?;
        }
        if self.forget {
            sys::forget(&self.file);
        }
        Ok(())
    }

    /// Gives a new file its name, and says which that is.
    pub(super) fn name(&mut self) -> Result<Option<PathBuf>> {
        let named = match (&mut self.place, self.only_new) {
            (Place::Existing, _) => return Ok(None),
            (Place::Nameless { final_path }, false) => name_file(&self.file, final_path),
            (Place::Nameless { final_path }, true) => {
                sys::link(&self.file, final_path).map(|()| final_path.clone())
            }
            (Place::Named(name), false) => name.replace(),
            (Place::Named(name), true) => name.take(),
        };
        match named {
            Ok(name) => Ok(Some(name)),
            Err(error) if self.only_new && error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Error::new(TargetDetail::Exists).in_file(&self.path))
            }
            Err(error) => Err(self.io("give the file its name", error)),
        }
    }

    /// Sees to it that the folder's entry for `name` is on its medium.
    pub(super) fn sync_folder(&self, name: &Path) -> Result<()> {
        let synced = sys::sync_folder(folder_of(name));
        synced.map_err(|source| self.io("write the folder to its medium", source))
    }

    fn put_zeros(&self, offset: u64, length: u64) -> Result<()> {
        let mut at = offset;
        for piece in zeros(length) {
            self.write_at(piece, at)?;
            at = at.saturating_add(to_u64(piece.len()));
        }
        Ok(())
    }

    /// Shares whole blocks of the file system, and copies what is less than one at either end.
    fn share(&self, source: &File, offset: u64, to: u64, length: u64) -> Result<()> {
        let unit = Pow2::from_size(sys::block_size(&self.file)).unwrap_or(Pow2::PAGE);
        let refused = |detail: TargetDetail| Error::new(detail).at(to).in_file(&self.path);
        if unit.within(offset) != unit.within(to) {
            let block = unit.size();
            return Err(refused(TargetDetail::NotAligned { offset, block }));
        }
        let end = to.saturating_add(length);
        let first = unit.ceil(to).min(end);
        let behind = unit.floor(end).max(first);
        let from = |at: u64| offset.saturating_add(at.saturating_sub(to));
        sys::share_range(source, from(first), &self.file, first, behind.saturating_sub(first))
            .map_err(|source| refused(TargetDetail::NotShared(source)))?;
        for (at, end) in [(to, first), (behind, end)] {
            let mut part = vec![0; to_usize(end.saturating_sub(at))];
            sys::read_exact_at(source, &mut part, from(at))
                .and_then(|()| sys::write_all_at(&self.file, &part, at))
                .map_err(|source| self.io("copy", source).at(at))?;
        }
        Ok(())
    }
}

impl Target for FileTarget {
    fn capabilities(&self) -> Capabilities {
        Capabilities { ascending: false, fresh_zeros: self.fresh_zeros }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let mut writing = self.writing();
        let written = if self.direct {
            self.write_pages(&mut writing, buf, offset)
        } else {
            sys::write_all_at(&self.file, buf, offset)
        };
        written
            .and_then(|()| self.written(&mut writing, to_u64(buf.len())))
            .map_err(|source| self.io("write", source).at(offset))
    }

    fn write_zeros(&self, offset: u64, length: u64) -> Result<()> {
        let end = offset.saturating_add(length);
        // devices punch whole blocks only
        let (first, behind) = (Pow2::PAGE.ceil(offset).min(end), Pow2::PAGE.floor(end));
        if self.keep_room || first >= behind {
            return self.put_zeros(offset, length);
        }
        let pages = behind.saturating_sub(first);
        let punched = sys::zero_range(&self.file, first, pages);
        if !punched.map_err(|source| self.io("write zeros", source).at(first))? {
            return self.put_zeros(offset, length);
        }
        self.put_zeros(offset, first.saturating_sub(offset))?;
        self.put_zeros(behind, end.saturating_sub(behind))
    }

    fn copy_from(
        &self,
        source: &File,
        offset: u64,
        to: u64,
        length: u64,
        reflink: Reflink,
    ) -> Result<u64> {
        let mut writing = self.writing();
        let copied = match reflink {
            Reflink::Never => 0,
            Reflink::Always => {
                self.share(source, offset, to, length)?;
                length
            }
            // what passes through the cache has no place in direct writing
            Reflink::Auto if self.direct || self.no_offload.load(Ordering::Relaxed) => 0,
            Reflink::Auto => match sys::copy_range(source, offset, &self.file, to, length) {
                Some(copied) => copied,
                None => {
                    log::debug!(
                        "the kernel does not copy between these files: bytes are read and written"
                    );
                    self.no_offload.store(true, Ordering::Relaxed);
                    0
                }
            },
        };
        let told = self.written(&mut writing, copied);
        told.map_err(|source| self.io("write", source).at(to))?;
        Ok(copied)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.settle()?;
        match self.name()? {
            Some(name) if self.durable => self.sync_folder(&name),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_appears_only_when_finished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.raw");
        let target = FileTarget::create(&path, 10_000).unwrap();
        target.write_at(b"abc", 5000).unwrap();
        assert!(!path.exists());
        drop(target);
        assert!(names(dir.path()).is_empty(), "a dropped target leaves nothing");
        let target = FileTarget::create(&path, 10_000).unwrap();
        target.write_at(b"abc", 5000).unwrap();
        Box::new(target).finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 10_000);
        assert_eq!(&bytes[4999..5004], b"\0abc\0");
    }

    #[test]
    fn an_older_file_stays_until_the_new_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.raw");
        std::fs::write(&path, "old").unwrap();
        let target = FileTarget::create(&path, 4).unwrap();
        target.write_at(b"new!", 0).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        Box::new(target).finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new!");
        assert_eq!(names(dir.path()), ["out.raw"]);
    }

    #[test]
    fn the_named_way_works_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.raw");
        let (file, name) = named_file(path.clone()).unwrap();
        assert_eq!(names(dir.path()).len(), 1);
        let place = Place::Named(name);
        let target = FileTarget::new(file, &path, place, true);
        target.write_at(b"x", 0).unwrap();
        Box::new(target).finish().unwrap();
        assert_eq!(names(dir.path()), ["out.raw"]);
        let (_, name) = named_file(path.clone()).unwrap();
        drop(name);
        assert_eq!(names(dir.path()), ["out.raw"]);
    }

    #[test]
    fn what_is_to_be_new_takes_the_place_of_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.raw");
        for nameless in [true, false] {
            let make = || {
                let mut target = FileTarget::create_new(&path, 1).unwrap();
                if !nameless {
                    let (file, name) = named_file(path.clone()).unwrap();
                    target = FileTarget::new(file, &path, Place::Named(name), true);
                    target.only_new = true;
                }
                target.write_at(b"x", 0).unwrap();
                Box::new(target)
            };
            let target = make();
            std::fs::write(&path, "another's").unwrap();
            let error = target.finish().unwrap_err();
            assert!(error.to_string().contains("another image"), "{error}");
            let early = FileTarget::create_new(&path, 1).unwrap_err();
            assert_eq!(early.to_string(), error.to_string());
            assert_eq!(std::fs::read(&path).unwrap(), b"another's");
            assert_eq!(names(dir.path()), ["out.raw"]);
            std::fs::remove_file(&path).unwrap();
            make().finish().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"x");
            assert_eq!(names(dir.path()), ["out.raw"]);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn an_existing_target_keeps_its_size_and_its_tail() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, [7; 20_000]).unwrap();
        let small = FileTarget::existing(&path, 20_001, Existing::Unknown).unwrap_err();
        assert_eq!(small.kind(), ErrorKind::InvalidInput);
        let target = FileTarget::existing(&path, 100, Existing::Unknown).unwrap();
        target.write_zeros(10, 12_000).unwrap();
        Box::new(target).finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 20_000);
        assert!(bytes[..10].iter().chain(&bytes[12_010..]).all(|&b| b == 7));
        assert!(bytes[10..12_010].iter().all(|&b| b == 0));
    }
}
