//! Chain: an image and its parents as one disk. The one implementation of backing semantics.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{VirtualDisk, check_range};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentKind, Location, StorageId};
use crate::layer::{Layer, Mapping, MappingKind, Role, Source};
use crate::num::{to_u64, to_usize};
use crate::storage::{FileIdentity, Storage, beyond_end};

/// The unit of reading for formats that have none of their own.
const DEFAULT_CLUSTER: u64 = 64 << 10;

/// One image of a chain, with the files that its layer speaks of.
///
/// ```
/// use std::sync::Arc;
///
/// use diskimage::chain::{Chain, ChainImage};
/// use diskimage::format::LayerOptions;
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Format, Storage, VirtualDisk};
///
/// let descriptor = "# Disk DescriptorFile\nversion=1\nCID=0000beef\nparentCID=ffffffff\n\
///     createType=\"monolithicFlat\"\nRW 8 FLAT \"disk-flat.vmdk\" 0\n";
/// let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(descriptor.into()));
/// let layer = Format::Vmdk.open(Arc::clone(&storage), &LayerOptions::default())?;
/// let mut image = ChainImage::new("disk.vmdk".into(), layer, storage);
/// assert_eq!(image.layer().references()[0].printable_name(), "disk-flat.vmdk");
///
/// // the file of that name, wherever its bytes are
/// image.attach(0, Arc::new(MemoryStorage::new(vec![7; 8 * 512])))?;
/// let disk = Chain::new(image, Vec::new());
/// let mut byte = [0];
/// disk.read_exact_at(&mut byte, 4095)?;
/// assert_eq!((disk.size(), byte), (4096, [7]));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct ChainImage {
    path: PathBuf,
    layer: Box<dyn Layer>,
    /// The image's own file first, then one for each reference (its own again where that is not
    /// a file of stored bytes): so that a [`Source`] is an index.
    storages: Vec<Option<Arc<dyn Storage>>>,
}

impl ChainImage {
    /// An image without the files it refers to.
    #[must_use]
    pub fn new(path: PathBuf, layer: Box<dyn Layer>, storage: Arc<dyn Storage>) -> Self {
        let mut storages = vec![Some(layer.storage().unwrap_or(storage))];
        storages.resize(layer.references().len().saturating_add(1), None);
        Self { path, layer, storages }
    }

    /// Hands over the file behind the reference number `index`.
    pub fn attach(&mut self, index: usize, storage: Arc<dyn Storage>) -> Result<()> {
        self.layer
            .attach(index, Arc::clone(&storage))
            .map_err(|error| error.in_file(storage.path().unwrap_or(&self.path)))?;
        if let Some(slot) = self.storages.get_mut(index.saturating_add(1)) {
            *slot = Some(storage);
        }
        Ok(())
    }

    /// Whether asking for the holes of one of the files pays: always where runs are long, else
    /// where the file takes up less than nine tenths of its length (preallocated tables do that).
    fn has_holes(&self, storage: Option<&dyn Storage>) -> bool {
        let Some(storage) = storage else { return false };
        let cluster = self.layer.cluster_size().unwrap_or_default();
        let sparse = storage.allocated_size().is_some_and(|taken| {
            let slack = taken.checked_div(9).unwrap_or_default().max(cluster.saturating_mul(2));
            taken.saturating_add(slack) <= storage.size()
        });
        sparse || self.layer.stores_long_runs()
    }

    /// The file's name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the format makes of it.
    #[must_use]
    pub fn layer(&self) -> &dyn Layer {
        &*self.layer
    }

    /// The image file itself.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Format, OpenOptions};
    ///
    /// let storage = Arc::new(MemoryStorage::new(vec![7; 4096]));
    /// let disk = OpenOptions::new().format(Format::Raw).open_storage(storage, Path::new("disk"))?;
    /// for image in disk.images() {
    ///     let taken = image.storage().and_then(|file| file.allocated_size());
    ///     println!("{}: {taken:?} bytes on its medium", image.path().display());
    /// }
    /// # assert_eq!(disk.images()[0].path(), Path::new("disk"));
    /// # assert_eq!(disk.images()[0].storage().map(|file| file.size()), Some(4096));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn storage(&self) -> Option<&dyn Storage> {
        self.storages.first()?.as_deref()
    }
}

/// An image and its parents, read as one [`VirtualDisk`].
///
/// Where a parent is shorter than its child, the child reads zeros beyond the parent's end; where
/// it is longer, the child's size holds.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::chain::{Chain, ChainImage};
/// use diskimage::format::raw::RawLayer;
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Storage, VirtualDisk};
///
/// let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(vec![7; 4096]));
/// let layer = Box::new(RawLayer::new(Arc::clone(&storage)));
/// let disk = Chain::new(ChainImage::new("disk.raw".into(), layer, storage), Vec::new());
/// assert_eq!((disk.size(), disk.images().len()), (4096, 1));
/// ```
#[derive(Debug)]
pub struct Chain {
    /// The opened image first, its parent next, and so on. Never empty.
    images: Vec<ChainImage>,
    /// For each image, the number of its first storage.
    first_storage: Vec<usize>,
    storages: Vec<Option<Arc<dyn Storage>>>,
    /// For each storage, whether its holes are asked for.
    sparse: Vec<bool>,
    size: u64,
    cluster_size: u64,
}

impl Chain {
    /// A disk of `top` and its `parents`, the nearest first.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::chain::{Chain, ChainImage};
    /// use diskimage::format::LayerOptions;
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Format, Result, Storage, VirtualDisk};
    /// # use diskimage::format::qcow2::Qcow2Options;
    /// # use diskimage::target::StreamTarget;
    /// # use diskimage::{Convert, Target};
    /// # let mut child = Vec::new();
    /// # let target = StreamTarget::new(&mut child);
    /// # let options = Qcow2Options::new().backing("base.raw", Some("raw"));
    /// # Convert::new().create(Box::new(options.writer(1 << 20)?), &target)?;
    /// # Box::new(target).finish()?;
    ///
    /// let image = |name: &str, format: Format, bytes: Vec<u8>| -> Result<ChainImage> {
    ///     let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes));
    ///     let layer = format.open(Arc::clone(&storage), &LayerOptions::default())?;
    ///     Ok(ChainImage::new(name.into(), layer, storage))
    /// };
    /// let base = image("base.raw", Format::Raw, vec![7; 1 << 20])?;
    /// let disk = Chain::new(image("new.qcow2", Format::Qcow2, child)?, vec![base]);
    ///
    /// assert_eq!(disk.extent_at(0, 1)?.depth, 1); // the parent has it
    /// let formats = disk.images().iter().map(|image| image.layer().format());
    /// assert!(formats.eq([Format::Qcow2, Format::Raw]));
    /// let longest = disk.storages().map(|file| file.size()).max();
    /// assert_eq!(longest, Some(1 << 20));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn new(top: ChainImage, parents: Vec<ChainImage>) -> Self {
        let size = top.layer.size();
        let cluster_size = top.layer.cluster_size().unwrap_or(DEFAULT_CLUSTER);
        let mut images = vec![top];
        images.extend(parents);
        let (mut first_storage, mut storages, mut sparse) = (Vec::new(), Vec::new(), Vec::new());
        for image in &images {
            first_storage.push(storages.len());
            storages.extend(image.storages.iter().cloned());
            sparse.extend(image.storages.iter().map(|storage| image.has_holes(storage.as_deref())));
        }
        Self { images, first_storage, storages, sparse, size, cluster_size }
    }

    /// The images, the opened one first.
    #[must_use]
    pub fn images(&self) -> &[ChainImage] {
        &self.images
    }

    /// Every file the disk is read from.
    pub fn storages(&self) -> impl Iterator<Item = &dyn Storage> {
        self.storages.iter().flatten().map(|storage| &**storage)
    }

    /// The mapping at `offset`, from the uppermost image that has one, and that image's depth.
    fn lookup(&self, offset: u64, max: u64) -> Result<(u32, Mapping)> {
        let length = max.min(self.size.saturating_sub(offset));
        let mut found = (0, Mapping { length, kind: MappingKind::Parent { stored: None } });
        for (depth, image) in (0u32..).zip(&self.images) {
            let rest = image.layer.size().saturating_sub(offset);
            if rest == 0 {
                // a parent that is shorter: the image above it reads zeros here
                break;
            }
            let mapping = image.layer.map(offset, found.1.length.min(rest));
            found = (depth, mapping.map_err(|error| error.in_file(&image.path))?);
            if !matches!(found.1.kind, MappingKind::Parent { .. }) {
                break;
            }
        }
        Ok(found)
    }

    /// Stored bytes, or a hole of their file; shortens `length` to where that changes.
    fn stored(&self, depth: u32, location: Location, length: &mut u64) -> Result<ExtentKind> {
        let storage = self.storage(location.storage);
        let asked = storage.filter(|_| self.sparse.get(location.storage.0).is_some_and(|&s| s));
        if let Some(storage) = asked {
            let run = storage
                .run_at(location.offset, *length)
                .map_err(|error| error.in_file(self.path_of(depth, location)))?;
            *length = run.length.min(*length).max(1);
            if run.hole {
                return Ok(ExtentKind::Hole(location));
            }
        }
        Ok(ExtentKind::Stored(location))
    }

    /// The name of a file that an image of this depth has its data in, for messages.
    fn path_of(&self, depth: u32, location: Location) -> &Path {
        let own = self.images.get(to_usize(depth.into())).map(|image| &*image.path);
        let path = self.storage(location.storage).and_then(|storage| storage.path());
        path.or(own).unwrap_or(Path::new(""))
    }

    /// Reads the bytes of an extent, or as many from its start as `part` holds.
    fn read_extent(&self, extent: &Extent, part: &mut [u8]) -> Result<()> {
        match extent.kind {
            ExtentKind::Zero { .. } | ExtentKind::Hole(_) => part.fill(0),
            ExtentKind::Stored(location) => {
                let storage = self.storage(location.storage).ok_or_else(|| {
                    Error::other(crate::ErrorKind::Denied, "needs a file that was not opened")
                })?;
                storage.read_exact_at(part, location.offset).map_err(|error| {
                    let path = self.path_of(extent.depth, location);
                    error.affecting(extent.start..extent.end()).in_file(path)
                })?;
            }
            ExtentKind::Encoded => {
                if let Some(image) = self.images.get(to_usize(extent.depth.into())) {
                    let read = image.layer.read_encoded(part, extent.start);
                    read.map_err(|error| error.in_file(&image.path))?;
                }
            }
        }
        Ok(())
    }

    fn location(&self, depth: u32, source: Source, offset: u64) -> Result<Location> {
        let index = match source {
            Source::Own => 0,
            Source::Reference(index) => index.saturating_add(1),
        };
        let first = self.first_storage.get(to_usize(depth.into())).copied().unwrap_or_default();
        let storage = StorageId(first.saturating_add(index));
        if self.storage(storage).is_none() {
            return Err(self.unattached(depth, source));
        }
        Ok(Location { storage, offset })
    }

    #[cold]
    fn unattached(&self, depth: u32, source: Source) -> Error {
        let image = self.images.get(to_usize(depth.into()));
        let reference = match (image, source) {
            (Some(image), Source::Reference(index)) => image.layer.references().get(index),
            _ => None,
        };
        match (reference, image) {
            (Some(reference), Some(image)) => reference.denied().in_file(&image.path),
            _ => Error::other(crate::ErrorKind::Denied, "needs a file that was not opened"),
        }
    }
}

impl VirtualDisk for Chain {
    fn size(&self) -> u64 {
        self.size
    }

    fn cluster_size(&self) -> u64 {
        self.cluster_size
    }

    fn extent_at(&self, offset: u64, max: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        let (depth, Mapping { mut length, kind }) = self.lookup(offset, max.max(1))?;
        let place = |found: Option<(Source, u64)>| {
            found.map(|(source, at)| self.location(depth, source, at)).transpose()
        };
        let kind = match kind {
            MappingKind::Stored { source, offset: at } => {
                let location = self.location(depth, source, at)?;
                // the one place that holds every format's data against the end of its file
                let storage = self.storage(location.storage);
                let size = storage.map_or(0, |storage| storage.size());
                let left = size.saturating_sub(at);
                if left == 0 {
                    let guest = offset..offset.saturating_add(length);
                    return Err(beyond_end("guest data", size, length, at)
                        .affecting(guest)
                        .in_file(self.path_of(depth, location)));
                }
                length = length.min(left);
                self.stored(depth, location, &mut length)?
            }
            MappingKind::Encoded => ExtentKind::Encoded,
            MappingKind::Zero { allocated, stored } => {
                ExtentKind::Zero { allocated, stored: place(stored)? }
            }
            MappingKind::Parent { stored } => {
                ExtentKind::Zero { allocated: false, stored: place(stored)? }
            }
        };
        Ok(Extent { start: offset, length, depth, kind })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, to_u64(buf.len()))?;
        let mut done = 0;
        // the bytes that were read last, since many clusters may share one place
        let mut last: Option<(Location, Range<usize>)> = None;
        while done < buf.len() {
            let at = offset.saturating_add(to_u64(done));
            let extent = self.extent_at(at, to_u64(buf.len().saturating_sub(done)))?;
            let end = done.saturating_add(to_usize(extent.length)).min(buf.len());
            match (extent.kind, &last) {
                (ExtentKind::Stored(location), Some((same, range)))
                    if location == *same && range.len() == end.saturating_sub(done) =>
                {
                    buf.copy_within(range.clone(), done);
                }
                (kind, _) => {
                    self.read_extent(&extent, buf.get_mut(done..end).unwrap_or_default())?;
                    if let ExtentKind::Stored(location) = kind {
                        last = Some((location, done..end));
                    }
                }
            }
            done = end;
        }
        Ok(())
    }

    fn storage(&self, id: StorageId) -> Option<&dyn Storage> {
        self.storages.get(id.0)?.as_deref()
    }

    fn encoded_in(&self, depth: u32) -> Option<(FileIdentity, &'static str)> {
        let image = self.images.get(to_usize(depth.into())).filter(|_| depth > 0)?;
        let others = image.layer.references().iter().any(|other| other.role != Role::Parent);
        let storage = image.storage().filter(|storage| !others && storage.as_file().is_some())?;
        Some((storage.identity()?, image.layer.format().name()))
    }

    fn storage_count(&self) -> usize {
        self.storages.len()
    }
}
