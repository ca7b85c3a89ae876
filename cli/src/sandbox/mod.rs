//! The sandbox: what the process does not need it gives up before it reads a byte of an image, so
//! that even a fault in a parser could do no more than is left.

#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod linux;
mod needs;

use std::path::PathBuf;

use crate::report;

/// What a command needs of the file system.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Files that are read.
    files: Vec<PathBuf>,
    /// Folders below which files are read.
    folders: Vec<PathBuf>,
    /// Files and devices that exist and are written in place.
    written: Vec<PathBuf>,
    /// Folders in which new files appear.
    created_in: Vec<PathBuf>,
}

impl Needs {
    /// Files that are read, and nothing else.
    pub(crate) fn reading(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { files: files.into_iter().collect(), ..Self::default() }
    }

    /// Reads what lies below a folder too.
    pub(crate) fn beneath(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folders.push(folder.into());
        self
    }

    /// Writes into a file or device that exists.
    pub(crate) fn writing(mut self, file: impl Into<PathBuf>) -> Self {
        self.written.push(file.into());
        self
    }

    /// Makes new files in a folder.
    pub(crate) fn creating_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.created_in.push(folder.into());
        self
    }
}

/// Gives up all but `needs`, for all threads that start from now on: to be called before any does,
/// and before the first file is opened. What the system cannot do is left out; where the sandbox
/// was `asked` for a note tells so.
pub(crate) fn enter(needs: &Needs, asked: bool) {
    #[cfg(target_os = "linux")]
    let missing = linux::enter(needs);
    #[cfg(not(target_os = "linux"))]
    let missing = {
        let Needs { files: _, folders: _, written: _, created_in: _ } = needs;
        vec!["nothing of it is there on this system".to_owned()]
    };
    if asked && !missing.is_empty() {
        report::message(&format!("note: the sandbox is not whole: {}", missing.join("; ")));
    }
}
