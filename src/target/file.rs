//! A raw disk in a regular file or on a block device.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::stream::zeros;
use super::{Capabilities, Target};
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::num::to_u64;
use crate::storage::FileIdentity;
use crate::sys::{self, FileKind};

/// Writes a raw disk to a file.
#[derive(Debug)]
pub struct FileTarget {
    file: File,
    /// The name for messages.
    path: PathBuf,
    place: Place,
    fresh_zeros: bool,
    /// Held while a write runs. The kernel writes to one file for one thread at a time, and lets
    /// the others spin: waiting here leaves them the processor.
    writing: Mutex<()>,
}

/// How the file gets its name in the end.
#[derive(Debug)]
enum Place {
    /// It has it already: it existed before.
    Existing,
    /// It has none, and vanishes with its last descriptor.
    Nameless { final_path: PathBuf },
    /// It has another one, where the file system cannot make nameless files.
    Named(TemporaryName),
}

/// A name that is removed unless it is exchanged for the final one.
#[derive(Debug)]
struct TemporaryName {
    path: PathBuf,
    final_path: PathBuf,
    done: bool,
}

impl Drop for TemporaryName {
    fn drop(&mut self) {
        if !self.done {
            // nothing can be done about a failure here, and the name is not the final one
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What is known of an existing target's content.
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
}

impl Detail for TargetDetail {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }
    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::TooSmall { .. } => "make it larger first".into(),
            Self::NotPositional(_) => "write to standard output with - instead".into(),
            Self::TooLargeForFileSystem(_) => {
                "choose another file system (XFS, Btrfs, tmpfs), or raise the limit (ulimit -f)"
                    .into()
            }
            Self::DanglingLink => "name the file itself, or remove the link".into(),
        })
    }
}

impl FileTarget {
    /// A new file of `size` bytes that appears at `path`, replacing what is there, only when it is
    /// finished: until then it has no name, or a temporary one in the same folder. A block device
    /// at `path` is written in place, since it cannot be replaced.
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
        let nameless = sys::nameless_file(folder_of(&final_path))
            .map_err(|source| here(Error::io("create the file", source)))?;
        let (file, place) = match nameless {
            Some(file) => (file, Place::Nameless { final_path }),
            None => {
                let (file, name) = named_file(final_path).map_err(here)?;
                (file, Place::Named(name))
            }
        };
        let target = Self {
            file,
            path: path.to_owned(),
            place,
            fresh_zeros: true,
            writing: Mutex::default(),
        };
        if let Some(permissions) = replaced {
            let set = target.file.set_permissions(permissions);
            set.map_err(|source| here(Error::io("set the permissions", source)))?;
        }
        target.file.set_len(size).map_err(|source| match source.kind() {
            std::io::ErrorKind::FileTooLarge | std::io::ErrorKind::InvalidInput => {
                here(Error::new(TargetDetail::TooLargeForFileSystem(size)))
            }
            _ => here(Error::io("set the size", source)),
        })?;
        Ok(target)
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
        Ok(Self {
            file,
            path: path.to_owned(),
            place: Place::Existing,
            fresh_zeros,
            writing: Mutex::default(),
        })
    }

    /// What tells that this target is some other open file, where the system has such a thing. A
    /// new file differs from all.
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
}

impl Target for FileTarget {
    fn capabilities(&self) -> Capabilities {
        Capabilities { ascending: false, fresh_zeros: self.fresh_zeros }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let guard = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let written = sys::write_all_at(&self.file, buf, offset);
        drop(guard);
        written.map_err(|source| self.io("write", source).at(offset))
    }

    fn write_zeros(&self, offset: u64, length: u64) -> Result<()> {
        let punched = sys::zero_range(&self.file, offset, length);
        if punched.map_err(|source| self.io("write zeros", source).at(offset))? {
            return Ok(());
        }
        let mut at = offset;
        for piece in zeros(length) {
            self.write_at(piece, at)?;
            at = at.saturating_add(to_u64(piece.len()));
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let synced = self.file.sync_all();
        synced.map_err(|source| self.io("write the file to its medium", source))?;
        let named = match &mut self.place {
            Place::Existing => return Ok(()),
            Place::Nameless { final_path } => name_file(&self.file, final_path),
            Place::Named(name) => std::fs::rename(&name.path, &name.final_path).map(|()| {
                name.done = true;
                name.final_path.clone()
            }),
        };
        let final_path = named.map_err(|source| self.io("give the file its name", source))?;
        let synced = sys::sync_folder(folder_of(&final_path));
        synced.map_err(|source| self.io("write the folder to its medium", source))
    }
}

/// Gives a nameless file its name, replacing an older file of that name at once.
fn name_file(file: &File, final_path: &Path) -> std::io::Result<PathBuf> {
    match sys::link(file, final_path) {
        Ok(()) => return Ok(final_path.to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    // a link cannot replace a file, but a rename can
    let mut name = temporary_names(final_path, |path| sys::link(file, path))?.1;
    std::fs::rename(&name.path, &name.final_path)?;
    name.done = true;
    Ok(final_path.to_owned())
}

fn named_file(final_path: PathBuf) -> Result<(File, TemporaryName)> {
    let create =
        |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).open(path);
    temporary_names(&final_path, create)
        .map_err(|source| Error::io("create a file beside it", source))
}

/// Tries names beside `final_path` until `make` finds one that is free.
fn temporary_names<T>(
    final_path: &Path,
    make: impl Fn(&Path) -> std::io::Result<T>,
) -> std::io::Result<(T, TemporaryName)> {
    let base = final_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut number: u32 = 0;
    loop {
        let name = format!(".{base}.{}-{number}.part", std::process::id());
        let path = folder_of(final_path).join(name);
        match make(&path) {
            Ok(made) => {
                let final_path = final_path.to_owned();
                return Ok((made, TemporaryName { path, final_path, done: false }));
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && number < 100 => {
                number = number.saturating_add(1);
            }
            Err(error) => return Err(error),
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
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
        let target = FileTarget {
            file,
            path: path.clone(),
            place,
            fresh_zeros: true,
            writing: Mutex::default(),
        };
        target.write_at(b"x", 0).unwrap();
        Box::new(target).finish().unwrap();
        assert_eq!(names(dir.path()), ["out.raw"]);
        let (_, name) = named_file(path.clone()).unwrap();
        drop(name);
        assert_eq!(names(dir.path()), ["out.raw"]);
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
