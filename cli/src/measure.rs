//! `diskimage measure`: how large an image would be.

use std::sync::Arc;

use diskimage::convert::{Measured, data_size, measure};
use diskimage::disk::EmptyDisk;
use diskimage::{Error, ErrorKind, Progress, Result, VirtualDisk};
use serde_json::json;

use crate::args::{MeasureArgs, Output, argument_bytes};
use crate::bounds::Bounds;
use crate::image::Spec;
use crate::{output, report};

pub(crate) fn run(args: &MeasureArgs, bounds: &Bounds) -> u8 {
    if let Some(help) = args.target.help(args.output_format) {
        print!("{help}");
        return report::OK;
    }
    let file = args.file.as_deref().unwrap_or(std::path::Path::new("measure"));
    match sizes(args, bounds) {
        Ok(sizes) => report::printed(print(args, &sizes)),
        Err(error) => {
            report::error(&error, file);
            report::code(&error, None)
        }
    }
}

/// Required, with everything stored, and an estimate of what it comes to compressed.
pub(crate) type Sizes = (u64, u64, Option<u64>);

fn sizes(args: &MeasureArgs, bounds: &Bounds) -> Result<Sizes> {
    of_source(args, bounds, of_disk)
}

/// Hands over what is measured: how it is to be written, and the disk.
pub(crate) fn of_source<T>(
    args: &MeasureArgs,
    bounds: &Bounds,
    take: impl FnOnce(&Spec, &dyn VirtualDisk, &Progress) -> Result<T>,
) -> Result<T> {
    let mut spec = args.target.parse(args.output_format, None)?;
    if args.compress {
        spec.compress()?;
    }
    let progress = bounds.progress();
    match (&args.file, args.size) {
        (Some(file), None) => {
            let (limits, _) = bounds.limits(1);
            let mut options = args.open.options(file)?.limits(limits);
            if let Some(snapshot) = &args.snapshot {
                options = options.snapshot(argument_bytes(snapshot));
            }
            let disk = options.progress(Arc::clone(&progress)).open(file)?;
            take(&spec, &disk, &progress)
        }
        (None, Some(size)) => take(&spec, &EmptyDisk(size), &progress),
        _ => Err(Error::other(ErrorKind::InvalidInput, "neither an image nor a size is given")
            .advise("name an image, or give --size")),
    }
}

pub(crate) fn of_disk(spec: &Spec, disk: &dyn VirtualDisk, progress: &Progress) -> Result<Sizes> {
    match spec.writer(disk.size())? {
        None => Ok((data_size(disk, progress)?, disk.size(), None)),
        Some(writer) => {
            let Measured { required, full, estimate, .. } = measure(disk, &*writer, progress)?;
            let more = spec.packages.overhead(spec.format);
            Ok((required + more, full + more, estimate.map(|bytes| bytes + more)))
        }
    }
}

fn print(args: &MeasureArgs, &(required, full, estimate): &Sizes) -> std::io::Result<()> {
    if args.output == Output::Json {
        let mut answer = json!({ "required": required, "fully-allocated": full });
        if let Some(estimate) = estimate {
            answer["compressed-estimate"] = estimate.into();
        }
        return output::print_json(&answer);
    }
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "required size: {required}\nfully allocated size: {full}")?;
    if let Some(estimate) = estimate {
        writeln!(out, "compressed, by samples: about {estimate}")?;
    }
    Ok(())
}
