//! Systems that are not Unix: the portable minimum.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Component, Path};

use super::FileKind;
use crate::storage::{FileIdentity, Run, SharedRun};

pub(crate) fn open_read(path: &Path) -> io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|m| Metadata::is_dir(&m)) {
        return Err(io::Error::new(ErrorKind::IsADirectory, "it is a directory"));
    }
    File::open(path)
}

pub(crate) fn open_write(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new().write(true).open(path)
}

pub(crate) fn open_read_write(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new().read(true).write(true).open(path)
}

pub(crate) fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(std::fs::TryLockError::WouldBlock) => Ok(false),
        Err(std::fs::TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
            Ok(true)
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

pub(crate) fn file_kind(file: &File) -> io::Result<FileKind> {
    let metadata = file.metadata()?;
    Ok(if metadata.is_file() {
        FileKind::Regular { size: metadata.len() }
    } else {
        FileKind::Other("no regular file")
    })
}

pub(crate) fn look(_path: &Path) -> Option<&'static str> {
    None
}

pub(crate) fn identity(_file: &File) -> Option<FileIdentity> {
    None
}

pub(crate) fn allocated_size(_file: &File) -> Option<u64> {
    None
}

#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buf.is_empty() {
        match file.seek_read(buf, offset) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = buf.get_mut(n..).unwrap_or_default();
                offset = offset.saturating_add(crate::num::to_u64(n));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(windows)]
pub(crate) fn write_all_at(file: &File, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buf.is_empty() {
        match file.seek_write(buf, offset) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = buf.get(n..).unwrap_or_default();
                offset = offset.saturating_add(crate::num::to_u64(n));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(crate) fn run_at(_file: &File, offset: u64, size: u64) -> io::Result<Run> {
    Ok(Run { hole: false, length: size.saturating_sub(offset) })
}

pub(crate) fn zero_range(_file: &File, _offset: u64, _length: u64) -> io::Result<bool> {
    Ok(false)
}

pub(crate) fn copy_range(_: &File, _: u64, _: &File, _: u64, _: u64) -> Option<u64> {
    None
}

pub(crate) fn share_range(_: &File, _: u64, _: &File, _: u64, _: u64) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

pub(crate) fn block_size(_file: &File) -> u64 {
    4096
}

pub(crate) fn preallocate(_file: &File, _size: u64) -> io::Result<bool> {
    Ok(false)
}

pub(crate) fn expect_sequence(_file: &File) {}

pub(crate) fn forget(_file: &File) {}

pub(crate) fn set_direct(_file: &File, _direct: bool) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

pub(crate) fn read_up_to(_file: &File, _buf: &mut [u8], _offset: u64) -> io::Result<usize> {
    Err(ErrorKind::Unsupported.into())
}

pub(crate) fn nameless_file(_folder: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

pub(crate) fn link(_file: &File, _path: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

pub(crate) fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// Refuses every name with a link, a `..` or a prefix in it; then opens.
pub(crate) fn open_beneath(folder: &Path, name: &Path) -> io::Result<File> {
    let denied = |why| Err(io::Error::new(ErrorKind::PermissionDenied, why));
    let mut path = folder.to_owned();
    for component in name.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) if is_special(part) => {
                return denied("it is the name of a device or a stream");
            }
            Component::Normal(part) => path.push(part),
            _ => return denied("leaves the allowed folder"),
        }
        if std::fs::symlink_metadata(&path)?.is_symlink() {
            return denied("it is a symbolic link");
        }
    }
    if !std::fs::metadata(&path)?.is_file() {
        return denied("it is not a regular file");
    }
    File::open(path)
}

/// Whether Windows takes a name for a device, in whatever folder, or for a stream of a file.
fn is_special(part: &OsStr) -> bool {
    let name = part.to_string_lossy().to_uppercase();
    let stem = name.split('.').next().unwrap_or_default().trim_end();
    let numbered = ["COM", "LPT"].iter().filter_map(|prefix| stem.strip_prefix(prefix));
    name.contains(':') || ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&stem) || {
        numbered
    }
    .any(|number| number.chars().count() == 1)
}

pub(crate) fn shared_runs(_file: &File) -> Vec<SharedRun> {
    Vec::new()
}
