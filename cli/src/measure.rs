//! `diskimage measure`: how large an image would be.

use std::sync::Arc;

use diskimage::convert::{Measured, data_size, measure};
use diskimage::disk::{EmptyDisk, GrownDisk};
use diskimage::{Error, ErrorKind, Format, Progress, Result, VirtualDisk};
use serde_json::json;

use crate::args::{MeasureArgs, Output, argument_bytes};
use crate::bounds::Bounds;
use crate::image::Spec;
use crate::package::Aim;
use crate::watch::{Signals, automatic, watched};
use crate::{output, report};

pub(crate) fn run(args: &MeasureArgs, bounds: &Bounds) -> u8 {
    let file = args.file.as_deref().unwrap_or(std::path::Path::new("measure"));
    let aim = match args.aimed.aim(args.output_format) {
        Ok(aim) => aim,
        Err(error) => return report::fail(&error, file),
    };
    if let Some(help) = args.target.help(aim.1) {
        print!("{help}");
        return report::OK;
    }
    let signals = Signals::catch(true);
    let progress = bounds.progress();
    let measured =
        watched(automatic(false), &signals, &progress, || sizes(args, aim, bounds, &progress));
    match measured {
        Ok(sizes) => report::printed(print(args, &sizes)),
        Err(error) => {
            report::error(&error, file);
            report::code(&error, None)
        }
    }
}

/// Required, with everything stored, and an estimate of what it comes to compressed.
pub(crate) type Sizes = (u64, u64, Option<u64>);

fn sizes(
    args: &MeasureArgs,
    aim: (Option<Aim>, Format),
    bounds: &Bounds,
    progress: &Arc<Progress>,
) -> Result<Sizes> {
    of_source(args, aim, bounds, progress, of_disk)
}

/// Hands over what is measured: how it is to be written, and the disk.
pub(crate) fn of_source<T>(
    args: &MeasureArgs,
    (aim, format): (Option<Aim>, Format),
    bounds: &Bounds,
    progress: &Arc<Progress>,
    take: impl FnOnce(&Spec, &dyn VirtualDisk, &Progress) -> Result<T>,
) -> Result<T> {
    let mut spec = args.target.parse(aim.as_ref(), format, None)?;
    if args.compress {
        spec.compress()?;
    }
    let size_for = |size| aim.map_or(Ok(size), |aim| aim.size(size));
    match (&args.file, args.size) {
        (Some(file), None) => {
            let (limits, _) = bounds.limits(1);
            let mut options = args.open.options(file)?.limits(limits);
            if let Some(snapshot) = &args.snapshot {
                options = options.snapshot(argument_bytes(snapshot));
            }
            let disk = options.progress(Arc::clone(progress)).open(file)?;
            take(&spec, &GrownDisk::new(&disk, size_for(disk.size())?), progress)
        }
        (None, Some(size)) => take(&spec, &EmptyDisk(size_for(size)?), progress),
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
