//! `qemu-img rebase`: another backing file, or none.
//!
//! Without a look at the files (`-u`) that is one write of the header. Else the image is written anew
//! with what differs from the new backing file, and replaced when it is whole.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use diskimage::format::Class;
use diskimage::format::probe::probe;
use diskimage::format::qcow2::rewrite_backing;
use diskimage::layer::MappingKind;
use diskimage::storage::FileStorage;
use diskimage::target::FilePatch;
use diskimage::{Error, Format, Layer, OpenOptions, Progress, Result};

use super::existing::{Layout, is_same};
use super::getopt::Given;
use super::source::Image;
use super::{CacheMode, Failure, Session, convert, failed, one_file, source};
use crate::args::{BackingArgs, Cache, ConvertArgs, WorkArgs};
use crate::image::{TargetArgs, beside};
use crate::report;
use crate::watch::{Show, Signals, watched};

pub(super) fn run(session: &Session, given: &Given) -> std::result::Result<u8, Failure> {
    let file = one_file("rebase", given)?;
    let is_unsafe = given.has("backing-unsafe");
    let written = CacheMode::given(given, "cache", "cache")?;
    let read = CacheMode::given(given, "backing-cache", "source cache")?;
    if !is_unsafe && !given.has("backing") {
        let mode = "unsafe";
        let text = format!("Must specify backing file (-b) or use {mode} mode (-u)");
        return Err(Failure::usage("rebase", text));
    }
    let image = source::existing(given, file, "format", "image-opts")?;
    let backing = given.last("backing").filter(|name| !name.is_empty());
    let backing_format = backing_format(given)?;
    let unknown = image.unknown();
    if !is_unsafe {
        session.not_in_sandbox("rebase without -u")?;
    }
    // with -u no other file is opened, whatever is allowed
    let alone = BackingArgs { allow_external: None }.open_args();
    session.begin_change(&alone, &image.path, unknown)?;
    let progress = session.bounds.progress();
    let limits = session.bounds.limits(1).0;
    let old = match open(&image, &OpenOptions::new().limits(limits.clone())) {
        Ok(old) => old,
        Err(error) => return Ok(failed(&error, &image.path)),
    };
    let format = old.layer().format();
    if format != Format::Qcow2 {
        return Err(not_ours(&image.path, format, backing));
    }
    let new = backing.map(|name| beside(&image.path, Path::new(name)));
    if let Some(new) = &new {
        let shown = diskimage::text::printable(backing.unwrap_or_default().as_encoded_bytes());
        if !is_unsafe && let Err(error) = FileStorage::open(new) {
            let looked = std::fs::metadata(new).err();
            let text = looked.map_or_else(|| told(&error), |why| source::unopened(new, &why));
            return Err(Failure::new(format!("Could not open new backing file '{shown}': {text}")));
        }
        if is_same(new, &image.path) {
            return Err(changing(backing, "it is the image itself"));
        }
        if backing_format.is_none() {
            return Err(changing(backing, "backing format must be specified"));
        }
    }
    let shows = given.has("progress") && !given.has("quiet");
    if is_unsafe {
        let signals = Signals::catch(false);
        let show = shows.then_some(Show::at_once(false));
        let new = backing.map(|name| (name.as_encoded_bytes(), backing_format.map(Format::name)));
        let done = watched(show, &signals, &progress, || {
            let own = old.storage().identity();
            let mut patch = FilePatch::open(&image.path, own, Arc::clone(&progress))?;
            rewrite_backing(old.storage(), &limits, new, &mut patch)?;
            patch.finish()
        });
        return match done {
            Ok(()) => Ok(report::OK),
            Err(error) => Err(changing(backing, &told(&error))),
        };
    }
    let layout = Layout::of(old.layer(), old.storage(), &limits);
    let (layout, compressed) =
        match layout.and_then(|layout| Ok((layout, holds_compressed(old.layer(), &progress)?))) {
            Ok(found) => found,
            Err(error) => return Ok(failed(&error, &image.path)),
        };
    layout.check(&image.path, "convert it, or use QEMU's own qemu-img")?;
    // seen here before anything is read; and once more before it is replaced
    let own = old.storage().identity();
    if let Err(error) = FilePatch::open(&image.path, own, progress) {
        return Ok(failed(&error, &image.path));
    }
    let open = source::open_args(given, Some(format))?;
    let backing_format = backing_format.filter(|_| backing.is_some());
    let options = TargetArgs { options: layout.options, seed: None, backing_format };
    let args = ConvertArgs {
        backing: backing.map(Into::into),
        compress: given.has("compress") || compressed,
        cache: if read == Some(CacheMode::Direct) { Cache::Drop } else { Cache::Keep },
        // not without a wait for the medium: the old image is gone then
        direct: written == Some(CacheMode::Direct),
        work: WorkArgs { progress: shows, threads: None },
        replaces_source: true,
        ..convert::plain((image.path.clone(), image.path), open, format, options)
    };
    Ok(crate::convert::run(&args, &session.bounds))
}

/// The image alone; what has no signature is no image that could be changed.
fn open(image: &Image, options: &OpenOptions) -> Result<diskimage::Image> {
    let options = match image.format {
        Some(format) => options.clone().format(format),
        None => {
            let storage = FileStorage::open(&image.path)?;
            let found = probe(&storage).map_err(|error| error.in_file(&image.path))?;
            let is_raw = found.images().next().is_none();
            if is_raw { options.clone().format(Format::Raw) } else { options.clone() }
        }
    };
    options.open_image(&image.path)
}

/// The format that is named for the backing file.
fn backing_format(given: &Given) -> std::result::Result<Option<Format>, Failure> {
    let Some(name) = given.text("backing-format") else { return Ok(None) };
    let known = name.parse().ok().filter(|format: &Format| format.class() == Class::Image);
    known.map(Some).ok_or_else(|| Failure::new(format!("Invalid format name: '{name}'")))
}

fn not_ours(path: &Path, format: Format, backing: Option<&OsStr>) -> Failure {
    if format == Format::Raw {
        return changing(backing, "Operation not supported");
    }
    Failure::new(format!(
        "{}: diskimage changes the backing file of a qcow2 only, and this is a {}: use QEMU's own \
         qemu-img, or convert it",
        report::printable(path),
        format.name()
    ))
}

fn changing(backing: Option<&OsStr>, why: &str) -> Failure {
    let name = diskimage::text::printable(backing.unwrap_or_default().as_encoded_bytes());
    Failure::new(format!("Could not change the backing file to '{name}': {why}"))
}

fn told(error: &Error) -> String {
    let advice = error.advice().map(|advice| format!(": {advice}")).unwrap_or_default();
    format!("{error}{advice}")
}

/// Whether an image stores anything compressed: what is written anew is compressed then, so that it
/// does not grow.
pub(super) fn holds_compressed(layer: &dyn Layer, progress: &Progress) -> Result<bool> {
    let mut at = 0;
    while at < layer.size() {
        progress.check()?;
        let mapping = layer.map(at, layer.size() - at)?;
        if mapping.kind == MappingKind::Encoded {
            return Ok(true);
        }
        at += mapping.length.max(1);
    }
    Ok(false)
}
