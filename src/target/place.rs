//! How a new file gets its name only when it is whole.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::sys;

/// How the file gets its name in the end.
#[derive(Debug)]
pub(super) enum Place {
    /// It has it already: it existed before.
    Existing,
    /// It has none, and vanishes with its last descriptor.
    Nameless { final_path: PathBuf },
    /// It has another one, where the file system cannot make nameless files.
    Named(TemporaryName),
}

/// A name that is removed unless it is exchanged for the final one.
#[derive(Debug)]
pub(crate) struct TemporaryName {
    pub(super) path: PathBuf,
    pub(super) final_path: PathBuf,
    pub(super) done: bool,
}

impl Drop for TemporaryName {
    fn drop(&mut self) {
        if !self.done {
            // nothing can be done about a failure here, and the name is not the final one
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl TemporaryName {
    /// Exchanges it for the final one, replacing an older file of that name at once.
    pub(super) fn replace(&mut self) -> std::io::Result<PathBuf> {
        std::fs::rename(&self.path, &self.final_path)?;
        self.done = true;
        Ok(self.final_path.clone())
    }

    /// The same unless there is a file of that name.
    pub(super) fn take(&mut self) -> std::io::Result<PathBuf> {
        match std::fs::hard_link(&self.path, &self.final_path) {
            Ok(()) => Ok(self.final_path.clone()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(error),
            // a file system without links
            Err(_) if std::fs::symlink_metadata(&self.final_path).is_err() => self.replace(),
            Err(_) => Err(std::io::ErrorKind::AlreadyExists.into()),
        }
    }
}

/// Gives a nameless file its name, replacing an older file of that name at once.
pub(super) fn name_file(file: &File, final_path: &Path) -> std::io::Result<PathBuf> {
    match sys::link(file, final_path) {
        Ok(()) => return Ok(final_path.to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    // a link cannot replace a file, but a rename can
    temporary_names(final_path, |path| sys::link(file, path))?.1.replace()
}

pub(crate) fn named_file(final_path: PathBuf) -> Result<(File, TemporaryName)> {
    let create =
        |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).open(path);
    temporary_names(&final_path, create)
        .map_err(|source| Error::io("create a file beside it", source))
}

/// Tries names beside `final_path` until `make` finds one that is free.
pub(super) fn temporary_names<T>(
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

pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
