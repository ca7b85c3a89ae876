//! QCOW2 images changed in place: under a lock, and then what is not used any more is given free.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use diskimage::chain::Chain;
use diskimage::format::LayerOptions;
use diskimage::format::qcow2::{Qcow2Layer, Resize, SnapshotChange};
use diskimage::layer::Role;
use diskimage::storage::FileStorage;
use diskimage::target::FilePatch;
use diskimage::{
    Checking, Error, ErrorKind, Format, Layer, Limits, OpenOptions, Progress, RepairScope, Result,
    Storage,
};

use super::resize::Task;
use super::{Failure, Session};
use crate::args::{OpenArgs, Room};
use crate::bounds::Bounds;

/// An image that nobody else may write to until this is dropped. The lock is the process's, and ends
/// when any handle of the file is closed: so none is, before all are.
struct Locked<'a> {
    run: &'a Run<'a>,
    handles: Vec<Arc<FileStorage>>,
    patch: FilePatch,
}

/// What all of a run go by.
struct Run<'a> {
    path: &'a Path,
    bounds: &'a Bounds,
    progress: Arc<Progress>,
}

impl Run<'_> {
    fn limits(&self) -> Limits {
        let mut limits = self.bounds.limits(1).0;
        limits.table_cache = limits.table_cache.min(self.bounds.memory_for_check() / 8);
        limits
    }

    fn layer(&self, storage: Arc<FileStorage>) -> Result<Qcow2Layer> {
        let mut options = LayerOptions::default();
        options.limits = self.limits();
        Qcow2Layer::open(storage, &options).map_err(|error| error.in_file(self.path))
    }

    fn checking(&self) -> Checking {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let memory = self.bounds.memory_for_check();
        Checking::new().threads(threads).max_memory(memory).progress(Arc::clone(&self.progress))
    }

    /// The disk of the backing file, if the image has one.
    fn backing(&self, layer: &Qcow2Layer, open: &OpenArgs) -> Result<Option<Chain>> {
        if !layer.references().iter().any(|reference| reference.role == Role::Parent) {
            return Ok(None);
        }
        let options = open.options(self.path)?.format(Format::Qcow2);
        let options = options.limits(self.limits()).progress(Arc::clone(&self.progress));
        let mut images = options.open_chain_images(self.path)?.into_iter().skip(1);
        let Some(top) = images.next() else { return Ok(None) };
        let parents: Vec<_> = images.collect();
        for image in std::iter::once(&top).chain(&parents) {
            image.layer().check_readable().map_err(|error| error.in_file(image.path()))?;
        }
        Ok(Some(Chain::new(top, parents)))
    }
}

impl<'a> Locked<'a> {
    /// Locks the file that `handle` has open.
    fn new(run: &'a Run<'a>, handle: Arc<FileStorage>) -> Result<Self> {
        let patch = FilePatch::open(run.path, handle.identity(), Arc::clone(&run.progress))?;
        Ok(Self { run, handles: vec![handle], patch })
    }

    /// The file as it is now.
    fn storage(&mut self) -> Result<Arc<FileStorage>> {
        let path = self.run.path;
        let file = self.handles[0].file().try_clone();
        let file = file.map_err(|source| Error::io("open the file", source).in_file(path))?;
        let storage = Arc::new(FileStorage::from_file(file, path)?);
        self.handles.push(Arc::clone(&storage));
        Ok(storage)
    }

    /// The image, if it is still what it was before the lock.
    fn layer(&mut self, before: &Qcow2Layer) -> Result<Qcow2Layer> {
        let layer = self.run.layer(self.storage()?)?;
        let is_same = layer.header().size == before.header().size
            && layer.header().backing_file == before.header().backing_file;
        if !is_same {
            let changed = Error::other(ErrorKind::Io, "was changed by another program meanwhile");
            return Err(changed.in_file(self.run.path));
        }
        Ok(layer)
    }

    /// Gives free what is not used any more; with `cut`, the file ends behind what is.
    fn finish(mut self, cut: bool) -> Result<()> {
        let (run, path) = (self.run, self.run.path);
        let options = OpenOptions::new().format(Format::Qcow2).limits(run.limits());
        let image = options.open_image_storage(self.storage()?, path)?;
        image.repair(RepairScope::Leaks, &run.checking(), &mut self.patch)?;
        if cut {
            let image = options.open_image_storage(self.storage()?, path)?;
            if let Some(end) = image.check(run.checking())?.image_end_offset {
                self.patch.truncate(end)?;
            }
        }
        self.patch.finish()
    }
}

pub(super) fn resize(
    session: &Session,
    task: &Task<'_>,
    open: &OpenArgs,
) -> std::result::Result<Result<()>, Failure> {
    let bounds = &session.bounds;
    let run = Run { path: task.path, bounds, progress: bounds.progress() };
    let handle = FileStorage::open(run.path).map(Arc::new);
    let opened = handle.and_then(|handle| Ok((run.layer(Arc::clone(&handle))?, handle)));
    let (layer, handle) = match opened {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(error)),
    };
    let old = layer.header().size;
    let new = task.size(old)?;
    if !new.is_multiple_of(512) {
        return Err(Failure::new("The new size must be a multiple of 512"));
    }
    if let Some(mode) = match task.room {
        Room::Off => None,
        Room::Falloc => Some("falloc"),
        Room::Full => Some("full"),
    } {
        return Err(Failure::new(format!(
            "Unsupported preallocation mode: {mode}: diskimage sets no room aside in a qcow2 that \
             grows, so leave --preallocation out"
        )));
    }
    Ok(change(&run, (handle, &layer), (old, new), open))
}

fn change(
    run: &Run<'_>,
    (handle, seen): (Arc<FileStorage>, &Qcow2Layer),
    (old, new): (u64, u64),
    open: &OpenArgs,
) -> Result<()> {
    let backing = if new > old { run.backing(seen, open)? } else { None };
    let mut locked = Locked::new(run, handle)?;
    let layer = locked.layer(seen)?;
    let mut resize = Resize::new(new).shrink(new < old).limits(run.limits());
    if let Some(backing) = &backing {
        resize = resize.backing(backing);
    }
    let changed = resize.run(&layer, &run.checking(), &mut locked.patch);
    changed.map_err(|error| error.in_file(run.path))?;
    locked.finish(new < old)
}

/// Changes the snapshots of the image at `path` as `change` says of it.
pub(super) fn snapshots(
    session: &Session,
    path: &Path,
    change: impl FnOnce(&Qcow2Layer) -> std::result::Result<SnapshotChange, Failure>,
) -> std::result::Result<Result<()>, Failure> {
    let bounds = &session.bounds;
    let run = Run { path, bounds, progress: bounds.progress() };
    let locked = FileStorage::open(path).and_then(|handle| Locked::new(&run, Arc::new(handle)));
    let opened = locked.and_then(|mut locked| {
        let layer = run.layer(locked.storage()?)?;
        Ok((locked, layer))
    });
    let (mut locked, layer) = match opened {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(error)),
    };
    let changed = change(&layer)?.run(&layer, &run.checking(), &mut locked.patch);
    let changed = changed.map_err(|error| error.in_file(path));
    Ok(changed.and_then(|()| locked.finish(false)))
}
