//! A temporary file for what can only be decoded from its start on.

use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::compressed::{Compressed, data_runs, end_of};
use super::error::Fault;
use crate::error::{Error, Result};
use crate::num::Pow2;
use crate::storage::{FileStorage, PieceStorage, Storage};
use crate::sys;

/// Where decoded files go that have to be read by position: one file without a name, in a folder,
/// that is gone with the process. Blocks of zeros take up no room in it.
///
/// ```
/// use std::num::NonZeroUsize;
/// use std::sync::Arc;
///
/// use diskimage::container::Spill;
/// use diskimage::{OpenOptions, VirtualDisk};
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
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.qcow2.gz");
/// # std::fs::write(&path, packed)?;
/// let spill = Arc::new(Spill::new(std::env::temp_dir(), 10 << 30).threads(NonZeroUsize::MIN));
/// let options = OpenOptions::new().spill(Arc::clone(&spill));
/// assert_eq!(spill.bytes(), 0);
/// spill.prepare()?; // else it is made when it is needed
/// let disk = options.open(&path)?;
/// assert_eq!(disk.size(), 1 << 30);
/// assert_eq!(spill.bytes(), image.len() as u64); // the image that gzip packed
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Spill {
    folder: PathBuf,
    /// Bytes, holes counted.
    limit: u64,
    threads: Option<NonZeroUsize>,
    state: Mutex<State>,
    /// Bytes of decoded files, holes counted.
    bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    file: Option<File>,
    /// What lies behind is free.
    end: u64,
}

impl Spill {
    /// A file of at most `limit` bytes in `folder`; it is made when it is needed.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>, limit: u64) -> Self {
        let (folder, state, bytes) = (folder.into(), Mutex::default(), AtomicU64::new(0));
        Self { folder, limit, threads: None, state, bytes }
    }

    /// How many threads decode what can be decoded in parts. Default: one for each processor.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Makes the file now: for a process that is going to give up making files.
    pub fn prepare(&self) -> Result<()> {
        self.file(&mut self.state()).map(drop)
    }

    /// How many bytes were decoded into it, holes counted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, state: &mut State) -> Result<File> {
        let here = |source| Error::io("make a temporary file", source).in_file(&self.folder);
        if state.file.is_none() {
            let file = sys::nameless_file(&self.folder).map_err(here)?;
            let file = match file {
                Some(file) => file,
                // it has no name for long
                None => {
                    let (file, name) = crate::target::named_file(self.folder.join("spill"))?;
                    drop(name);
                    file
                }
            };
            state.file = Some(file);
        }
        let file = state.file.as_ref().ok_or(Fault::NoSpill)?;
        file.try_clone().map_err(here)
    }

    /// Decodes `compressed` into the file, whole; `path` is the name of what comes out.
    pub(super) fn take(&self, compressed: &Compressed, path: &Path) -> Result<Arc<dyn Storage>> {
        let mut state = self.state();
        let file = self.file(&mut state)?;
        let io = |source| Error::io("write the temporary file", source).in_file(&self.folder);
        let start = state.end;
        let size = compressed.decode(self.threads, false, &|at, bytes| {
            let at = start.saturating_add(at);
            if end_of(at, bytes) > self.limit {
                return Err(Fault::SpillFull(self.limit).into());
            }
            data_runs(bytes).try_for_each(|(skip, run)| {
                let at = at.saturating_add(crate::num::to_u64(skip));
                sys::write_all_at(&file, run, at).map_err(io)
            })
        })?;
        let end = start.saturating_add(size);
        file.set_len(end).map_err(io)?;
        state.end = Pow2::PAGE.ceil(end);
        self.bytes.fetch_add(size, Ordering::Relaxed);
        log::info!(
            "{}: decoded {size} bytes into a temporary file, from offset {start:#x} on",
            crate::text::printable(path.as_os_str().as_encoded_bytes())
        );
        let spilled: Arc<dyn Storage> = Arc::new(FileStorage::from_file(file, path)?);
        let whole = PieceStorage::new(size, path.to_owned())
            .with_pieces(spilled, std::iter::once((0, size, start)))
            // whoever writes into the compressed file changes what it was made of
            .with_pieces(Arc::clone(compressed.storage()), std::iter::empty());
        Ok(Arc::new(whole))
    }
}
