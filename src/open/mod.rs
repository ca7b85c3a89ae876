//! Opening: from a path or a storage to one image, or to the disk of a whole chain.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use crate::chain::{Chain, ChainImage};
use crate::container::{Compressed, Container, Found, Place, Way, split_name};
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::format::probe::{Probe, probe};
use crate::format::{Format, LayerOptions};
use crate::layer::{Layer, Reference, Role};
use crate::progress::Progress;
use crate::resolve::Resolved;
use crate::split::{self, Join};
use crate::storage::{FileStorage, PieceStorage, Storage, WatchedStorage};
use crate::text::printable;

mod image;
mod options;

pub use image::Image;
pub use options::OpenOptions;

/// What every image of a chain may keep of its tables: a page of 64 KiB for each of the two
/// generations of a cache.
const MIN_TABLE_CACHE: u64 = 128 << 10;

#[derive(Debug, thiserror::Error)]
enum OpenDetail {
    #[error("is in no format that is known")]
    Unknown,
    #[error("fits more than one format: {0}")]
    Ambiguous(String),
    #[error("is {0}, whose content is not read yet")]
    NotReadYet(&'static str),
    #[error("is a container ({0}), which is not looked into here")]
    Container(&'static str),
    #[error("says that its {} '{name}' is in the format '{format}', which is not known", role.noun())]
    UnknownParentFormat { role: Role, name: String, format: String },
    #[error("the chain of backing files leads back to this file")]
    Cycle,
    #[error("the chain of backing files is longer than {0} images")]
    TooLong(u32),
    #[error("the virtual size of {size} bytes is above the limit of {limit}")]
    TooLarge { size: u64, limit: u64 },
}

impl Detail for OpenDetail {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown | Self::Ambiguous(_) => ErrorKind::InvalidInput,
            Self::NotReadYet(_) | Self::Container(_) | Self::UnknownParentFormat { .. } => {
                ErrorKind::Unsupported
            }
            Self::Cycle => ErrorKind::Corrupt,
            Self::TooLong(_) | Self::TooLarge { .. } => ErrorKind::LimitExceeded,
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::Unknown => {
                "if it is a raw disk, say so with -f raw (in a container: --assume-raw)".into()
            }
            Self::Ambiguous(_) => "say which one with -f, if you trust its maker".into(),
            Self::NotReadYet(_) => "unpack or convert it with another program first".into(),
            Self::Container(_) => "unpack it first".into(),
            Self::UnknownParentFormat { .. } => "name the backing format in the image".into(),
            Self::Cycle => "the image cannot be read; fetch it again".into(),
            Self::TooLong(_) => "flatten the chain, or allow more with --max-chain".into(),
            Self::TooLarge { .. } => "allow more with --max-virtual-size, if this is meant".into(),
        })
    }
}

impl OpenOptions {
    /// Opens the file at `path` and everything it needs, as one disk. `FILE#MEMBER` is a member of
    /// an archive; an archive of one disk, or a compressed file, stands for the disk in it.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Chain> {
        let source = self.source(path.as_ref(), true)?;
        let chain = self.open_source(source, &Purpose::Read).and_then(chain_of)?;
        let is_raw = chain.images().first().is_some_and(|top| top.layer().format() == Format::Raw);
        if is_raw && self.join == Join::Refuse {
            split::check_alone(path.as_ref())?;
        }
        Ok(chain)
    }

    /// The same for any storage; `path` is its name, from which relative names start.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::storage::{FileStorage, WindowStorage};
    /// use diskimage::{Format, OpenOptions, VirtualDisk};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("firmware.bin");
    /// # std::fs::write(&path, vec![7; 8192])?;
    /// // a disk that lies in a larger file
    /// let part = WindowStorage::new(FileStorage::open(&path)?, 4096, 4096)?;
    /// let options = OpenOptions::new().format(Format::Raw);
    /// let disk = options.open_storage(Arc::new(part), Path::new("firmware.bin+0x1000"))?;
    /// assert_eq!(disk.size(), 4096);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_storage(&self, storage: Arc<dyn Storage>, path: &Path) -> Result<Chain> {
        let source = self.way(true).find(self.watched(storage), path, None)?;
        self.open_source(source, &Purpose::Read).and_then(chain_of)
    }

    /// The bytes of what `path` names, whatever it is: a file, or `FILE#MEMBER` in an archive.
    ///
    /// ```
    /// # use diskimage::format::qcow2::Qcow2Options;
    /// use diskimage::OpenOptions;
    /// # use diskimage::target::FileTarget;
    /// # use diskimage::{Convert, Storage, Target};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.qcow2");
    /// # let target = FileTarget::create(&path, 0)?;
    /// # Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 20)?), &target)?;
    /// # Box::new(target).finish()?;
    /// let bytes = OpenOptions::new().open_bytes(&path)?;
    /// let mut magic = [0; 4];
    /// bytes.read_exact_at(&mut magic, 0)?;
    /// assert_eq!(&magic, b"QFI\xfb"); // of the file, not of the disk inside
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_bytes(&self, path: impl AsRef<Path>) -> Result<Arc<dyn Storage>> {
        Ok(self.source(path.as_ref(), false)?.storage)
    }

    /// What a name stands for: a file, a member of an archive, and `to_disk` the disk in it.
    fn source(&self, path: &Path, to_disk: bool) -> Result<Found> {
        let path = &*in_bundle(path);
        if self.join == Join::Parts {
            let parts = split::parts(path)?.into_iter().map(|part| {
                let part: Arc<dyn Storage> = Arc::new(FileStorage::open(part)?);
                Ok(self.watched(part))
            });
            let parts = parts.collect::<Result<Vec<_>>>()?;
            let joined = Arc::new(PieceStorage::joined(parts, path.to_owned()));
            return self.way(to_disk).find(joined, path, None);
        }
        let (file, member) = split_name(path);
        let storage = self.watched(Arc::new(FileStorage::open(&file)?));
        self.way(to_disk).find(storage, &file, member)
    }

    /// What `member` of the file is, whatever it is: nothing is decoded.
    pub(crate) fn open_named(
        &self,
        storage: Arc<dyn Storage>,
        path: &Path,
        member: Option<Vec<u8>>,
    ) -> Result<Found> {
        self.way(false).find(storage, path, member)
    }

    fn way(&self, to_disk: bool) -> Way<'_> {
        let (limits, spill) = (&self.layer.limits, self.spill.as_deref());
        Way { format: self.format, limits, spill, progress: self.watcher(), to_disk }
    }

    /// The container that `path` names, if it is one and is not said to be something else. What lies
    /// in it is not opened.
    ///
    /// ```
    /// # use std::io::Write;
    /// use diskimage::{Format, OpenOptions};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.raw.gz");
    /// # let file = std::fs::File::create(&path)?;
    /// # let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    /// # gzip.write_all(&[7; 4096])?;
    /// # gzip.finish()?;
    /// # let raw = folder.path().join("disk.raw");
    /// # std::fs::write(&raw, [7; 4096])?;
    /// let format_of = |path| -> diskimage::Result<Option<Format>> {
    ///     Ok(OpenOptions::new().open_container(path)?.map(|container| container.format()))
    /// };
    /// assert_eq!(format_of(&path)?, Some(Format::Gzip)); // disk.raw.gz
    /// assert_eq!(format_of(&raw)?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_container(&self, path: impl AsRef<Path>) -> Result<Option<Container>> {
        let Found { storage, path, .. } = self.source(path.as_ref(), false)?;
        if let Some(format) = self.format {
            return match Container::is_one(format) {
                true => Container::open_as(format, &storage, &path, &self.layer.limits),
                false => Ok(None),
            };
        }
        let probe = probe(&storage).map_err(|error| error.in_file(&path))?;
        Container::open(&storage, &path, &probe, &self.layer.limits)
    }

    /// The compressed file that `path` names, if a raw disk is inside: its bytes are those of the
    /// disk, and can be taken as they come.
    ///
    /// ```
    /// # use std::io::Write;
    /// use diskimage::target::StreamTarget;
    /// use diskimage::{Convert, OpenOptions, Target};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.raw.gz");
    /// # let file = std::fs::File::create(&path)?;
    /// # let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    /// # gzip.write_all(&[7; 4096])?;
    /// # gzip.finish()?;
    /// let options = OpenOptions::new().assume_raw(true); // of what is inside
    /// let mut raw = Vec::new();
    /// if let Some(compressed) = options.open_compressed_disk(&path)? {
    ///     // no temporary file is needed
    ///     let target = StreamTarget::new(&mut raw);
    ///     Convert::new().run_compressed(&compressed, &target)?;
    ///     Box::new(target).finish()?;
    /// }
    /// assert_eq!(raw, [7; 4096]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_compressed_disk(&self, path: impl AsRef<Path>) -> Result<Option<Compressed>> {
        if let Some(Container::Compressed(compressed)) = self.open_container(path)? {
            let inside = compressed.peek()?;
            // what shows itself at the end only could be another format
            if self.choose(&inside).is_ok_and(|format| format == Format::Raw) {
                return Ok(Some(compressed.limit(self.layer.limits.max_virtual_size)));
            }
        }
        Ok(None)
    }

    /// Opens the file at `path` and its parents, the nearest first, to describe them: no other
    /// file is opened, and what can be described but not read passes.
    ///
    /// ```
    /// # use diskimage::format::qcow2::Qcow2Options;
    /// # use diskimage::target::FileTarget;
    /// # use diskimage::{Convert, Target};
    /// use diskimage::{Beneath, Format, OpenOptions};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// # std::fs::write(folder.join("base.raw"), vec![7; 1 << 20])?;
    /// # let target = FileTarget::create(folder.join("new.qcow2"), 0)?;
    /// # let options = Qcow2Options::new().backing("base.raw", Some("raw"));
    /// # Convert::new().create(Box::new(options.writer(1 << 20)?), &target)?;
    /// # Box::new(target).finish()?;
    /// let options = OpenOptions::new().resolver(Beneath::new(folder)?);
    /// let images = options.open_chain_images(folder.join("new.qcow2"))?;
    /// let formats: Vec<_> = images.iter().map(|image| image.layer().format()).collect();
    /// assert_eq!(formats, [Format::Qcow2, Format::Raw]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_chain_images(&self, path: impl AsRef<Path>) -> Result<Vec<ChainImage>> {
        let source = self.source(path.as_ref(), true)?;
        self.open_source(source, &Purpose::Describe)
    }

    fn open_source(&self, source: Found, purpose: &Purpose) -> Result<Vec<ChainImage>> {
        let Found { storage, path, mut place } = source;
        let mut seen = Vec::from_iter(storage.identity());
        let mut seen_members = Vec::from_iter(place.as_ref().map(|_| path.clone()));
        let options = self.layer_options(0);
        let top =
            self.open_one(storage, &path, place.as_ref(), self.inner_format(), &options, purpose)?;
        let mut next = parent_of(&top);
        let mut images = vec![top];
        while let (Some(reference), Some(child)) = (next.take(), images.last()) {
            let from = child.path();
            if images.len() >= usize_of(self.layer.limits.max_chain) {
                return Err(
                    Error::new(OpenDetail::TooLong(self.layer.limits.max_chain)).in_file(from)
                );
            }
            let mut resolved = self.resolve(from, &reference, place.as_ref())?;
            log_resolved(from, &reference, &resolved.path);
            resolved.storage = self.watched(resolved.storage);
            place = place.and_then(|place| place.of_sibling(&resolved.path));
            if place.is_some() {
                if seen_members.contains(&resolved.path) {
                    return Err(Error::new(OpenDetail::Cycle).at(reference.offset).in_file(from));
                }
                seen_members.push(resolved.path.clone());
            }
            if let Some(identity) = resolved.storage.identity() {
                if seen.contains(&identity) {
                    return Err(Error::new(OpenDetail::Cycle).at(reference.offset).in_file(from));
                }
                seen.push(identity);
            }
            let format = self.declared_format(from, &reference)?;
            let options = self.layer_options(images.len());
            let Resolved { storage, path, .. } = resolved;
            let parent =
                self.open_one(storage, &path, place.as_ref(), format, &options, purpose)?;
            let fits = child.layer().check_parent(parent.layer());
            fits.map_err(|error| error.in_file(child.path()))?;
            next = parent_of(&parent);
            images.push(parent);
        }
        Ok(images)
    }

    /// The format of the image, where the one that was named is not that of a container around it.
    fn inner_format(&self) -> Option<Format> {
        self.format.filter(|&format| !Container::is_one(format))
    }

    fn resolve(&self, from: &Path, to: &Reference, place: Option<&Place>) -> Result<Resolved> {
        match place {
            Some(place) => self.resolver.resolve_within(from, to, place),
            None => self.resolver.resolve(from, to),
        }
    }

    /// A storage whose reads stop when they are asked to, if anybody may ask.
    pub(crate) fn watched(&self, storage: Arc<dyn Storage>) -> Arc<dyn Storage> {
        match &self.progress {
            Some(progress) => Arc::new(WatchedStorage::new(storage, Arc::clone(progress))),
            None => storage,
        }
    }

    /// Who watches what is opened, if anybody does.
    pub(crate) fn watcher(&self) -> Option<&Progress> {
        self.progress.as_deref()
    }

    /// A read that was stopped may have passed for damage that is not needed to open: nothing that
    /// came of it counts.
    fn check_stopped(&self) -> Result<()> {
        self.progress.as_ref().map_or(Ok(()), |progress| progress.check())
    }

    /// The options for the image at this depth of the chain.
    fn layer_options(&self, depth: usize) -> LayerOptions {
        let mut options = self.layer.clone();
        if depth > 0 {
            // a snapshot is the top image's
            options.snapshot = None;
        }
        // how long the chain is shows only when it is open, so each image gets half of what is left
        let halvings = u32::try_from(depth).unwrap_or(u32::MAX).saturating_add(1);
        let share = options.limits.table_cache.checked_shr(halvings).unwrap_or_default();
        options.limits.table_cache = share.max(MIN_TABLE_CACHE);
        options
    }

    /// Opens the one file at `path` and nothing else, whatever it names: to describe or check it.
    ///
    /// ```
    /// # use diskimage::format::qcow2::Qcow2Options;
    /// # use diskimage::target::FileTarget;
    /// # use diskimage::{Convert, Target};
    /// use diskimage::OpenOptions;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("new.qcow2");
    /// # let target = FileTarget::create(&path, 0)?;
    /// # let options = Qcow2Options::new().backing("/nowhere/base.raw", Some("raw"));
    /// # Convert::new().create(Box::new(options.writer(1 << 20)?), &target)?;
    /// # Box::new(target).finish()?;
    /// // its backing file is not there, and is not asked for
    /// let image = OpenOptions::new().open_image(&path)?;
    /// assert_eq!(image.layer().size(), 1 << 20);
    /// assert_eq!(image.layer().references()[0].printable_name(), "/nowhere/base.raw");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_image(&self, path: impl AsRef<Path>) -> Result<Image> {
        let source = self.source(path.as_ref(), true)?;
        let mut image = self.open_found(source)?;
        if self.join == Join::Refuse && image.layer().format() == Format::Raw {
            image.named.extend(split::finding(path.as_ref()));
        }
        Ok(image)
    }

    /// The same for any storage; `path` is its name.
    ///
    /// ```
    /// use std::path::Path;
    /// use std::sync::Arc;
    ///
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Code, Format, OpenOptions};
    ///
    /// // what is in no known format is described as a raw disk, and says that this was guessed
    /// let storage = Arc::new(MemoryStorage::new(vec![7; 4096]));
    /// let image = OpenOptions::new().open_image_storage(storage, Path::new("upload"))?;
    /// assert_eq!(image.layer().format(), Format::Raw);
    /// assert!(!image.is_forced());
    /// assert_eq!(image.findings()?[0].code, Code::FormatGuessed);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn open_image_storage(&self, storage: Arc<dyn Storage>, path: &Path) -> Result<Image> {
        self.open_found(self.way(true).find(self.watched(storage), path, None)?)
    }

    fn open_found(&self, found: Found) -> Result<Image> {
        let Found { storage, path, .. } = found;
        let probe = probe(&storage).map_err(|error| error.in_file(&path))?;
        self.open_image_probed(storage, &path, probe)
    }

    /// The same where it has been looked for formats that fit.
    pub(crate) fn open_image_probed(
        &self,
        storage: Arc<dyn Storage>,
        path: &Path,
        probe: Probe,
    ) -> Result<Image> {
        let layer = self
            .open_to_describe(&storage, self.inner_format(), &probe, &self.layer)
            .and_then(|layer| self.within_limits(layer))
            .map_err(|error| error.in_file(path))?;
        self.check_stopped().map_err(|error| error.in_file(path))?;
        log_opened(path, &*layer);
        let (path, forced, named) = (path.to_owned(), self.format.is_some(), Vec::new());
        Ok(Image { path, storage, layer, probe, forced, named })
    }

    /// Reads only what the disk needs; see [`LayerOptions::disk_only`].
    pub(crate) fn disk_only(mut self) -> Self {
        self.layer.disk_only = true;
        self
    }

    /// How many bytes of tables describing an image may look over; see
    /// [`LayerOptions::look_over`].
    pub(crate) fn look_over(mut self, bytes: u64) -> Self {
        self.layer.look_over = bytes;
        self
    }

    fn open_one(
        &self,
        storage: Arc<dyn Storage>,
        path: &Path,
        place: Option<&Place>,
        format: Option<Format>,
        options: &LayerOptions,
        purpose: &Purpose,
    ) -> Result<ChainImage> {
        let open = || {
            if *purpose == Purpose::Describe {
                let probe = probe(&storage)?;
                let layer = self.open_to_describe(&storage, format, &probe, options);
                return self.within_limits(layer?);
            }
            let format = match format {
                Some(format) => format,
                None => self.choose(&probe(&storage)?)?,
            };
            let layer = format.open(Arc::clone(&storage), options)?;
            layer.check_readable()?;
            self.within_limits(layer)
        };
        let layer = open().map_err(|error: Error| error.in_file(path))?;
        self.check_stopped().map_err(|error| error.in_file(path))?;
        log_opened(path, &*layer);
        let mut image = ChainImage::new(path.to_owned(), layer, storage);
        if *purpose == Purpose::Read {
            self.attach_files(&mut image, place)?;
        }
        Ok(image)
    }

    /// The layer, unless it is larger than is allowed.
    fn within_limits(&self, layer: Box<dyn Layer>) -> Result<Box<dyn Layer>> {
        let (size, limit) = (layer.size(), self.layer.limits.max_virtual_size);
        if size > limit {
            return Err(OpenDetail::TooLarge { size, limit }.into());
        }
        Ok(layer)
    }

    /// Opens the files other than parents that an image names.
    fn attach_files(&self, image: &mut ChainImage, place: Option<&Place>) -> Result<()> {
        let references = image.layer().references().to_vec();
        for (index, reference) in references.iter().enumerate() {
            if reference.role != Role::Parent {
                let resolved = self.resolve(image.path(), reference, place)?;
                log_resolved(image.path(), reference, &resolved.path);
                image.attach(index, self.watched(resolved.storage))?;
            }
        }
        Ok(())
    }

    fn declared_format(&self, from: &Path, reference: &Reference) -> Result<Option<Format>> {
        let Some(word) = &reference.format else { return Ok(None) };
        let known = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
        known.map(Some).ok_or_else(|| {
            Error::new(OpenDetail::UnknownParentFormat {
                role: reference.role,
                name: reference.printable_name(),
                format: printable(word),
            })
            .at(reference.offset)
            .in_file(from)
        })
    }

    /// The one format to read a file as, by what was found in it.
    fn choose(&self, probe: &Probe) -> Result<Format> {
        let mut images = probe.images();
        match (images.next(), images.next()) {
            (None, _) if probe.is_disguised() => {
                let names: Vec<_> = probe.matches.iter().map(|m| m.format.name()).collect();
                Err(OpenDetail::Ambiguous(names.join(", ")).into())
            }
            (Some(only), None) if only.format.is_described() => Ok(only.format),
            (Some(only), None) => Err(OpenDetail::NotReadYet(only.format.description()).into()),
            (Some(_), Some(_)) => {
                let names: Vec<_> = probe.images().map(|m| m.format.name()).collect();
                Err(OpenDetail::Ambiguous(names.join(", ")).into())
            }
            (None, _) if probe.is_raw_disk() || self.assume_raw => Ok(Format::Raw),
            (None, _) => match probe.matches.first() {
                Some(found) if Container::is_one(found.format) => {
                    Err(OpenDetail::Container(found.format.description()).into())
                }
                Some(found) => Err(OpenDetail::NotReadYet(found.format.description()).into()),
                None => Err(OpenDetail::Unknown.into()),
            },
        }
    }

    /// Opens a layer to describe it, which does no harm: what is not known is described as a raw
    /// disk, and what fits several formats as the first of them that makes sense, with a finding
    /// that says so.
    fn open_to_describe(
        &self,
        storage: &Arc<dyn Storage>,
        format: Option<Format>,
        probe: &Probe,
        options: &LayerOptions,
    ) -> Result<Box<dyn Layer>> {
        let open = |format: Format| format.open(Arc::clone(storage), options);
        if let Some(format) = format {
            return open(format);
        }
        match self.choose(probe) {
            Ok(format) => open(format),
            Err(_) if probe.matches.is_empty() => open(Format::Raw),
            Err(error) if probe.images().count() > 1 => {
                let mut formats = probe.read_formats().chain([Format::Raw]);
                formats.find_map(|format| open(format).ok()).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }
}

/// Tells whoever listens what a file was taken for, and where what leads to its bytes lies.
fn log_opened(path: &Path, layer: &dyn Layer) {
    log::debug!(
        "{}: opened as {}, disk of {} bytes, tables at {:#x}, {} references",
        printable(path.as_os_str().as_encoded_bytes()),
        layer.format(),
        layer.size(),
        layer.tables_at().unwrap_or_default(),
        layer.references().len()
    );
}

/// The same for what a name in an image was found to be.
fn log_resolved(from: &Path, reference: &Reference, to: &Path) {
    log::debug!(
        "{}: its {} '{}' (named at offset {:#x}) is {}",
        printable(from.as_os_str().as_encoded_bytes()),
        reference.role.noun(),
        reference.printable_name(),
        reference.offset,
        printable(to.as_os_str().as_encoded_bytes())
    );
}

/// The descriptor of a Parallels bundle, where `path` is the folder of one.
fn in_bundle(path: &Path) -> Cow<'_, Path> {
    let descriptor = path.join("DiskDescriptor.xml");
    if path.is_dir() && descriptor.is_file() { descriptor.into() } else { path.into() }
}

/// What a chain is opened for.
#[derive(Debug, PartialEq, Eq)]
enum Purpose {
    Read,
    Describe,
}

fn chain_of(images: Vec<ChainImage>) -> Result<Chain> {
    let mut images = images.into_iter();
    let Some(top) = images.next() else { return Err(OpenDetail::Unknown.into()) };
    Ok(Chain::new(top, images.collect()))
}

fn parent_of(image: &ChainImage) -> Option<Reference> {
    image.layer().references().iter().find(|r| r.role == Role::Parent).cloned()
}

fn usize_of(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
