//! `qemu-img convert -n` into a QCOW2: an image that exists gets a disk's content.
//!
//! We change no image in place. A new one is written that has the layout of the old one, and takes
//! its place when it is whole; so what the old one holds besides its layout must be nothing.

use std::path::Path;

use diskimage::convert::data_size;
use diskimage::{Format, OpenOptions, Progress, Result};

use super::{Failure, Session};
use crate::args::OpenArgs;
use crate::image::TargetArgs;
use crate::output::described_map;
use crate::report;

/// The layout of an image, as options of the format; and what speaks against replacing it.
struct Old {
    options: Vec<String>,
    size: u64,
    is_empty: bool,
    holds: Option<&'static str>,
}

/// Sees to it that a new image has the layout of that at `target`, and gives the size of its disk.
pub(super) fn anew(
    session: &Session,
    target: &Path,
    written: &mut TargetArgs,
    (open, sources): (&OpenArgs, &[&Path]),
) -> std::result::Result<u64, Failure> {
    session.not_in_sandbox("-n for a qcow2")?;
    let shown = report::printable(target);
    let limits = session.bounds.limits(1).0;
    let options = OpenOptions::new().format(Format::Qcow2).limits(limits.clone());
    let old = look(&options, target).map_err(|error| Failure::open(&shown, error))?;
    if let Some(holds) = old.holds {
        return Err(Failure::new(format!(
            "{shown}: the image that exists has {holds}, and diskimage would write it anew: leave -n \
             out, or use QEMU's own qemu-img"
        )));
    }
    let mut size = 0u64;
    for source in sources {
        let options = open.options(source).map(|options| options.limits(limits.clone()));
        let image = options.and_then(|options| options.open_image(source));
        let image = image.map_err(|error| Failure::open(&report::printable(source), error))?;
        size = size.saturating_add(image.layer().size().next_multiple_of(512));
    }
    if old.size < size {
        return Err(Failure::new("output file is smaller than input file"));
    }
    if old.size > size && !old.is_empty {
        return Err(Failure::new(format!(
            "{shown}: the image that exists has data behind the end of what is written, and \
             diskimage would write it anew: leave -n out, or use QEMU's own qemu-img"
        )));
    }
    written.options.splice(0..0, old.options);
    Ok(old.size)
}

fn look(options: &OpenOptions, target: &Path) -> Result<Old> {
    let image = options.open_image(target)?;
    let description = image.layer().describe()?;
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
    found.extend(image.layer().cluster_size().map(|size| format!("cluster_size={size}")));
    let holds = if description.encrypted {
        Some("encrypted data")
    } else if !description.snapshots.is_empty() {
        Some("snapshots")
    } else if !details["bitmaps"].is_null() {
        Some("bitmaps")
    } else if !image.layer().references().is_empty() {
        Some("other files that it names")
    } else {
        None
    };
    // an image that names others cannot be read here, and is refused anyway
    let is_empty = holds.is_none() && data_size(&options.open(target)?, &Progress::new())? == 0;
    Ok(Old { options: found, size: image.layer().size(), is_empty, holds })
}
