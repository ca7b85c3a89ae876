//! `qemu-img commit`: what an image holds goes into its backing file, or into one further down.
//!
//! A raw disk is written in place: only what is stored over it, which can be repeated after a stop
//! at any point. A QCOW2 is written anew and replaced when it is whole. Not before all that is on its
//! medium, an empty image takes the place of the one that was committed.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskimage::chain::ChainImage;
use diskimage::disk::PartDisk;
use diskimage::target::{Existing, FilePatch, FileTarget};
use diskimage::{
    Chain, Convert, Error, ErrorKind, Format, Limits, OpenOptions, Progress, Result, Storage,
    Target, VirtualDisk,
};

use super::existing::{Layout, is_same};
use super::getopt::Given;
use super::rebase::holds_compressed;
use super::{CacheMode, Failure, Session, convert, failed, one_file, source};
use crate::image::beside;
use crate::joined::Joined;
use crate::paced::Paced;
use crate::report;
use crate::watch::{Show, Signals, shown, watched};

pub(super) fn run(session: &Session, given: &Given) -> std::result::Result<u8, Failure> {
    let file = one_file("commit", given)?;
    let cache = CacheMode::given(given, "cache", "cache")?;
    let rate = convert::rate(given)?;
    let image = source::existing(given, file, "format", "image-opts")?;
    let open = source::open_args(given, image.format)?;
    let unknown = image.unknown();
    let path = image.path;
    session.not_in_sandbox("commit")?;
    session.begin_change(&open, &path, unknown)?;
    let signals = Signals::catch(false);
    // the image, its backing file, and what lies below that
    let (limits, buffers) = session.bounds.limits(3);
    let progress = session.bounds.progress();
    let options = open.options(&path);
    let options =
        options.map(|options| options.limits(limits.clone()).progress(Arc::clone(&progress)));
    let opened = options.and_then(|options| Ok((options.open(&path)?, options)));
    let (disk, options) = match opened {
        Ok(opened) => opened,
        Err(error) => return Ok(failed(&error, &path)),
    };
    let depth = base_of(&disk, &path, given)?;
    let commit = Commit {
        path: &path,
        disk: &disk,
        depth,
        options: &options,
        limits,
        buffers,
        direct: cache == Some(CacheMode::Direct),
        rate,
        signals: &signals,
        progress: &progress,
    };
    // as there: who names the base keeps the image as it is
    let keeps = given.has("drop") || given.has("base");
    let empty = match keeps {
        true => None,
        false => Some(commit.layout(0, "empties a qcow2", "add -d, which leaves it as it is")?),
    };
    let base = commit.base_layout()?;
    let quiet = given.has("quiet");
    let show = shown(given.has("progress") && !quiet, Show::at_once(false), false);
    let done = watched(show, &signals, &progress, || commit.run(base.as_ref(), empty.as_ref()));
    if let Err(error) = done {
        report::error(&error, &path);
        return Ok(report::code(&error, signals.caught()));
    }
    if quiet {
        return Ok(report::OK);
    }
    Ok(report::printed(std::io::Write::write_all(&mut std::io::stdout(), b"Image committed.\n")))
}

/// How deep in the chain the image lies that is committed to.
fn base_of(disk: &Chain, path: &Path, given: &Given) -> std::result::Result<usize, Failure> {
    let Some(name) = given.last("base") else {
        return match disk.images() {
            [_, _, ..] => Ok(1),
            _ => Err(Failure::new("Image does not have a backing file")),
        };
    };
    // a name starts from the image's folder, as in the image
    let named = beside(path, Path::new(name));
    let is_named = |image: &ChainImage| is_same(&named, &file_of(image));
    let found = disk.images().iter().skip(1).position(is_named);
    found.map(|depth| depth + 1).ok_or_else(|| {
        Failure::new(format!(
            "Did not find '{}' in the backing chain of '{}'",
            diskimage::text::printable(name.as_encoded_bytes()),
            report::printable(path)
        ))
    })
}

struct Commit<'a> {
    path: &'a Path,
    disk: &'a Chain,
    depth: usize,
    options: &'a OpenOptions,
    limits: Limits,
    buffers: u64,
    direct: bool,
    rate: Option<NonZeroU64>,
    signals: &'a Signals,
    progress: &'a Arc<Progress>,
}

impl Commit<'_> {
    fn base(&self) -> &ChainImage {
        &self.disk.images()[self.depth]
    }

    /// The layout of an image of the chain that is to be written anew; `does` says what for, and
    /// with what else it would do.
    fn layout(
        &self,
        depth: usize,
        does: &str,
        instead: &str,
    ) -> std::result::Result<Layout, Failure> {
        let image = &self.disk.images()[depth];
        let (path, format) = (file_of(image), image.layer().format());
        let shown = report::printable(&path);
        let storage = image.storage().filter(|_| format == Format::Qcow2).ok_or_else(|| {
            Failure::new(format!(
                "{shown}: diskimage {does} only, and this is a {}: {instead}, or use QEMU's own qemu-img",
                format.name()
            ))
        })?;
        let layout = Layout::of(image.layer(), storage, &self.limits).and_then(|layout| {
            // what cannot be written shows before anything is
            layout.spec()?.writer(layout.size)?;
            Ok(layout)
        });
        let layout = layout.map_err(|error| Failure::new(format!("{shown}: {error}")))?;
        layout.check(&path, &format!("{instead}, or use QEMU's own qemu-img"))?;
        Ok(layout)
    }

    /// The same of the image that is committed to; nothing for a raw disk.
    fn base_layout(&self) -> std::result::Result<Option<Layout>, Failure> {
        if self.base().layer().format() == Format::Raw {
            return Ok(None);
        }
        let layout = self.layout(
            self.depth,
            "commits into raw disks and qcow2 images",
            "convert the image, which writes a whole one",
        )?;
        let (own, size) = (layout.size, self.disk.size());
        if own > size && size % 512 != 0 {
            return Err(Failure::new(format!(
                "{}: the disk of {size} bytes has no whole sectors, and is shorter than its base: \
                 use QEMU's own qemu-img",
                report::printable(self.path)
            )));
        }
        Ok(Some(layout))
    }

    fn run(&self, base: Option<&Layout>, empty: Option<&Layout>) -> Result<()> {
        let base_path = file_of(self.base());
        // locks of other processes are seen before anything is written
        let lock = |image: &ChainImage| {
            let own = image.storage().and_then(Storage::identity);
            FilePatch::open(file_of(image), own, Arc::clone(self.progress))
        };
        let _image = lock(&self.disk.images()[0])?;
        match base {
            Some(layout) => {
                lock(self.base())?;
                self.write_anew(layout, &base_path)?;
            }
            None => {
                // held as long as it is written
                let _base = lock(self.base())?;
                self.write_in_place(&base_path).map_err(|error| error.in_file(&base_path))?;
            }
        }
        match empty {
            Some(layout) => self.empty(layout),
            None => Ok(()),
        }
    }

    fn job(&self) -> Convert {
        Convert::new().max_memory(self.buffers).progress(Arc::clone(self.progress))
    }

    /// Writes what lies above it into a raw disk.
    fn write_in_place(&self, path: &Path) -> Result<()> {
        let (own, size) = (self.base().layer().size(), self.disk.size());
        let is_file = std::fs::metadata(path).is_ok_and(|found| found.is_file());
        let target = FileTarget::existing(path, if is_file { 0 } else { size }, Existing::Unknown)?;
        if own < size && is_file {
            target.resize(size)?;
        }
        let target = self.paced(target)?;
        let depth = u32::try_from(self.depth).unwrap_or(u32::MAX);
        self.job().above(depth).run(self.disk, &*target)?;
        self.check_stopped()?;
        target.finish()
    }

    /// Writes a QCOW2 that has the content of the disk, and puts it in the base's place.
    fn write_anew(&self, layout: &Layout, path: &Path) -> Result<()> {
        let base = self.opened(self.depth)?;
        let below = match self.disk.images().get(self.depth + 1) {
            Some(_) => Some(self.opened(self.depth + 1)?),
            None => None,
        };
        // where the base is longer, its end stays
        let tail = PartDisk::new(&base, self.disk.size()..base.size());
        let joined = Joined::of([self.disk as &dyn VirtualDisk, &tail]);
        let longer = base.size() > self.disk.size();
        let disk: &dyn VirtualDisk = if longer { &joined } else { self.disk };
        let mut spec = layout.spec()?;
        if holds_compressed(self.base().layer(), self.progress)? {
            spec.compress()?;
        }
        let writer = spec.writer(disk.size())?;
        let writer = writer.ok_or_else(|| Error::other(ErrorKind::Unsupported, "is no qcow2"))?;
        let target = self.paced(FileTarget::create(path, 0)?)?;
        let below = below.as_ref().map(|below| -> &dyn VirtualDisk { below });
        self.job().image(disk, writer, below, &*target)?;
        self.check_stopped()?;
        crate::convert::unused(path, Some(&base), self.progress)?;
        target.finish()
    }

    /// Puts an empty image in the place of the one that was committed.
    fn empty(&self, layout: &Layout) -> Result<()> {
        let writer = layout.spec()?.writer(layout.size)?;
        let writer = writer.ok_or_else(|| Error::other(ErrorKind::Unsupported, "is no qcow2"))?;
        let target = FileTarget::create(self.path, 0)?;
        // how far the work before it came stays shown
        Convert::new().max_memory(self.buffers).create(writer, &target)?;
        self.check_stopped()?;
        crate::convert::unused(self.path, Some(self.disk), self.progress)?;
        Box::new(target).finish()
    }

    /// The disk of an image of the chain and of those below it.
    fn opened(&self, depth: usize) -> Result<Chain> {
        let image = &self.disk.images()[depth];
        let path = file_of(image);
        let disk = self.options.clone().format(image.layer().format()).open(&path)?;
        let identity = |image: &ChainImage| image.storage().and_then(Storage::identity);
        if disk.images().first().and_then(identity) != identity(image) {
            let message = "is another file than the one that was read";
            return Err(Error::other(ErrorKind::Io, message).in_file(&path));
        }
        Ok(disk)
    }

    fn paced(&self, target: FileTarget) -> Result<Box<dyn Target>> {
        let target = Box::new(if self.direct { target.direct()? } else { target });
        Ok(match self.rate {
            Some(rate) => Box::new(Paced::new(target, rate.get(), Arc::clone(self.progress))),
            None => target,
        })
    }

    fn check_stopped(&self) -> Result<()> {
        match self.signals.caught() {
            Some(_) => Err(Error::other(ErrorKind::Cancelled, "stopped on request")),
            None => Ok(()),
        }
    }
}

/// The name that an image of the chain is opened by.
fn file_of(image: &ChainImage) -> PathBuf {
    let path = image.storage().and_then(Storage::path);
    path.unwrap_or(image.path()).to_owned()
}
