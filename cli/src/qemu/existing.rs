//! Images that exist and get another content: `qemu-img convert -n` into a QCOW2, `rebase`, `commit`.
//!
//! We change an image in place only where one write does it. Else a new one is written that has the
//! layout of the old one, and takes its place when it is whole; so what the old one holds besides its
//! layout must be nothing.

use std::path::Path;

use diskimage::convert::data_size;
use diskimage::format::qcow2::Header;
use diskimage::layer::Role;
use diskimage::{Format, Layer, Limits, OpenOptions, Progress, Result, Storage};

use super::{Failure, Session};
use crate::args::OpenArgs;
use crate::image::{Spec, TargetArgs};
use crate::output::described_map;
use crate::report;

/// The layout of a QCOW2, as options of the format; and what a new image would not have.
pub(super) struct Layout {
    pub(super) options: Vec<String>,
    /// The size of its disk.
    pub(super) size: u64,
    /// What speaks against replacing it.
    pub(super) holds: Option<&'static str>,
    /// The backing file as the image names it, and the word for its format.
    pub(super) backing: Option<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Layout {
    pub(super) fn of(layer: &dyn Layer, storage: &dyn Storage, limits: &Limits) -> Result<Self> {
        let description = layer.describe()?;
        let details = described_map(&description.details);
        let word = |name: &str| match &details[name] {
            serde_json::Value::Bool(true) => "on".to_owned(),
            serde_json::Value::Bool(false) => "off".to_owned(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let mut found = Vec::new();
        for (option, name) in [
            ("compat", "compat"),
            ("compression_type", "compression-type"),
            ("refcount_bits", "refcount-bits"),
            ("lazy_refcounts", "lazy-refcounts"),
            ("extended_l2", "extended-l2"),
        ] {
            if !details[name].is_null() {
                found.push(format!("{option}={}", word(name)));
            }
        }
        found.extend(layer.cluster_size().map(|size| format!("cluster_size={size}")));
        let (parents, others): (Vec<_>, Vec<_>) =
            layer.references().iter().partition(|reference| reference.role == Role::Parent);
        let header = Header::read(storage, limits, false)?;
        let holds = if description.encrypted {
            Some("encrypted data")
        } else if !description.snapshots.is_empty() {
            Some("snapshots")
        } else if !details["bitmaps"].is_null() {
            Some("bitmaps")
        } else if !others.is_empty() {
            Some("other files that it names")
        } else if !header.extensions.unknown.is_empty() {
            Some("header extensions that are not known")
        } else {
            None
        };
        let backing = parents.first().and_then(|parent| {
            let name = parent.names.first()?.clone();
            Some((name, parent.format.clone()))
        });
        Ok(Self { options: found, size: layer.size(), holds, backing })
    }

    /// Refuses an image that cannot be replaced.
    pub(super) fn check(&self, path: &Path, instead: &str) -> std::result::Result<(), Failure> {
        let Some(holds) = self.holds else { return Ok(()) };
        Err(Failure::new(format!(
            "{}: the image that exists has {holds}, and diskimage would write it anew: {instead}",
            report::printable(path)
        )))
    }

    /// What writes such an image over the same backing file.
    pub(super) fn spec(&self) -> Result<Spec> {
        let options = self.options.clone();
        let options = TargetArgs { options, seed: None, backing_format: None };
        let mut spec = options.parse(None, Format::Qcow2, None)?;
        if let Some((name, format)) = &self.backing {
            spec.over(name, format.as_deref())?;
        }
        Ok(spec)
    }
}

/// Whether both names lead to one file. Neither is opened.
pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    let [one, other] = [one, other].map(|path| path.canonicalize().ok());
    one.is_some() && one == other
}

/// The size of the disks in a row, each of whole sectors.
pub(super) fn size_of(
    session: &Session,
    open: &OpenArgs,
    sources: &[&Path],
) -> std::result::Result<u64, Failure> {
    let limits = session.bounds.limits(1).0;
    let mut size = 0u64;
    for source in sources {
        let options = open.options(source).map(|options| options.limits(limits.clone()));
        let image = options.and_then(|options| options.open_image(source));
        let image = image.map_err(|error| Failure::open(&report::printable(source), error))?;
        size = size.saturating_add(image.layer().size().next_multiple_of(512));
    }
    Ok(size)
}

/// Sees to it that a new image has the layout of that at `target`, which is to hold a disk of `size`
/// bytes, and gives the size of its own disk.
pub(super) fn anew(
    session: &Session,
    target: &Path,
    written: &mut TargetArgs,
    size: u64,
) -> std::result::Result<u64, Failure> {
    session.not_in_sandbox("-n for a qcow2")?;
    let shown = report::printable(target);
    let limits = session.bounds.limits(1).0;
    let options = OpenOptions::new().format(Format::Qcow2).limits(limits.clone());
    let old = options.open_image(target).and_then(|image| {
        let mut old = Layout::of(image.layer(), image.storage(), &limits)?;
        if old.backing.is_some() {
            old.holds = old.holds.or(Some("other files that it names"));
        }
        Ok(old)
    });
    let old = old.map_err(|error| Failure::open(&shown, error))?;
    old.check(target, "leave -n out, or use QEMU's own qemu-img")?;
    if old.size < size {
        return Err(Failure::new("output file is smaller than input file"));
    }
    if old.size > size {
        let stored = options.open(target).and_then(|disk| data_size(&disk, &Progress::new()));
        if stored.map_err(|error| Failure::open(&shown, error))? > 0 {
            return Err(Failure::new(format!(
                "{shown}: the image that exists has data behind the end of what is written, and \
                 diskimage would write it anew: leave -n out, or use QEMU's own qemu-img"
            )));
        }
    }
    written.options.splice(0..0, old.options);
    Ok(old.size)
}
