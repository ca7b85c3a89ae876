//! `diskimage create`: an empty image.

use std::sync::Arc;

use diskimage::disk::EmptyDisk;
use diskimage::target::{FileTarget, FilesTarget};
use diskimage::{Chain, Convert, Error, ErrorKind, Format, Progress, Result, Target, Writer};

use crate::args::CreateArgs;
use crate::bounds::Bounds;
use crate::package::Aim;
use crate::watch::{Signals, automatic, watched};
use crate::{image, report};

pub(crate) fn run(args: &CreateArgs, bounds: &Bounds) -> u8 {
    let aim = match args.aimed.aim(args.format) {
        Ok(aim) => aim,
        Err(error) => return report::fail(&error, &args.file),
    };
    if let Some(help) = args.target.help(aim.1) {
        print!("{help}");
        return report::OK;
    }
    let signals = Signals::catch(false);
    let progress = bounds.progress();
    let created = watched(automatic(false), &signals, &progress, || {
        create(args, aim, bounds, &progress, &signals)
    });
    match created {
        Ok(_) => report::OK,
        Err(error) => {
            report::error(&error, &args.file);
            report::code(&error, signals.caught())
        }
    }
}

/// Makes the image, and gives the size of its disk.
pub(crate) fn create(
    args: &CreateArgs,
    (aim, format): (Option<Aim>, Format),
    bounds: &Bounds,
    progress: &Arc<Progress>,
    signals: &Signals,
) -> Result<u64> {
    let mut spec = args.target.parse(aim.as_ref(), format, args.backing.as_deref())?;
    if let Some(aim) = aim.filter(|_| spec.backing.is_some()) {
        aim.refuse_backing()?;
    }
    spec.set_name(&args.file);
    let (limits, buffers) = bounds.limits(1);
    let backing = if args.unopened {
        spec.name_backing()?;
        None
    } else {
        spec.open_backing(&args.file, &args.open.open_args(), |options| {
            options.limits(limits).progress(Arc::clone(progress))
        })?
    };
    let size = args.size.or(image::size_of(backing.as_ref()));
    let size = size.ok_or_else(|| {
        Error::other(ErrorKind::InvalidInput, "no size is given, and no backing file has one")
            .advise("give a size such as 10G")
    })?;
    let asked = size;
    let size = aim.map_or(Ok(size), |aim| aim.size(size))?;
    let writer = spec.writer(size)?;
    let (length, (room, how)) = match &writer {
        None => (size, (size, spec.room.into())),
        Some(writer) => (0, spec.room_of(&**writer)?),
    };
    let read = backing.iter().flat_map(Chain::storages);
    let files = writer.as_ref().map_or(&[][..], |writer| writer.files());
    let target: Box<dyn Target> = if files.is_empty() {
        let target = FileTarget::create(&args.file, length)?;
        image::refuse_own_source(&target, &args.file, read)?;
        Box::new(target.preallocate(room, how)?.durable(!args.no_sync))
    } else {
        let target = FilesTarget::create(&args.file, files)?;
        image::refuse_own_source(target.main(), &args.file, read)?;
        Box::new(target.durable(!args.no_sync))
    };
    let inner = writer.as_deref().map_or(0, Writer::size);
    let target = spec.packages.wrap(spec.format, target, inner)?;
    let job = Convert::new().max_memory(buffers).progress(Arc::clone(progress));
    match writer {
        None => job.run(&EmptyDisk(size), &*target)?,
        Some(writer) => job.create(writer, &*target)?,
    };
    if signals.caught().is_some() {
        return Err(Error::other(ErrorKind::Cancelled, "stopped on request"));
    }
    target.finish()?;
    if let Some(aim) = aim {
        aim.tell(&args.file, asked, size);
    }
    Ok(size)
}
