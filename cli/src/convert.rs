//! `diskimage convert`: an image into a raw disk.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diskimage::convert::Report;
use diskimage::storage::Access;
use diskimage::target::{Existing, FileTarget, StreamTarget};
use diskimage::{
    Chain, Convert, Error, ErrorKind, Format, Limits, Progress, Result, Target, VirtualDisk,
};
use serde_json::json;

use crate::args::{Cache, ConvertArgs, Output, argument_bytes};
use crate::watch::{Show, Signals, watched};
use crate::{output, report};

pub(crate) fn run(args: &ConvertArgs) -> u8 {
    // where there is no file to clean up the first signal ends it: a pipe that nobody reads blocks
    // for ever
    let signals = Signals::catch(to_stdout(args));
    match convert(args, &signals) {
        Ok(report) => conclude(args, &report),
        Err(error) => {
            let stream = to_stdout(args) && error.kind() == ErrorKind::Io;
            let file = if stream { Path::new("standard output") } else { &*args.source };
            report::error(&error, file);
            report::code(&error, signals.caught())
        }
    }
}

fn to_stdout(args: &ConvertArgs) -> bool {
    args.target.as_os_str() == "-"
}

fn convert(args: &ConvertArgs, signals: &Signals) -> Result<Report> {
    if args.output_format != Format::Raw {
        let message = format!("the format '{}' is not written yet, only raw", args.output_format);
        return Err(Error::other(ErrorKind::Unsupported, message));
    }
    // tables get up to a quarter of the memory, buffers the rest
    let mut limits = Limits::default();
    limits.table_cache = limits.table_cache.min(args.max_memory / 4);
    let buffers = args.max_memory - limits.table_cache;
    let mut options = args.open.options(&args.source)?.limits(limits);
    if let Some(snapshot) = &args.snapshot {
        options = options.snapshot(argument_bytes(snapshot));
    }
    let disk = options.open(&args.source)?;
    let target = open_target(args, &disk)?;
    if args.direct {
        for storage in disk.storages() {
            storage.advise(Access::Direct)?;
        }
    }
    let progress = Arc::new(Progress::new());
    let forget = args.cache == Cache::Drop;
    let mut job = Convert::new()
        .reflink(args.reflink.into())
        .forget(forget)
        .max_memory(buffers)
        .salvage(args.salvage)
        .progress(Arc::clone(&progress));
    if let Some(granularity) = args.sparse {
        job = job.sparse(granularity);
    }
    if let Some(threads) = args.threads {
        job = job.threads(threads);
    }
    // where qemu-img prints it, unless the disk or the report goes there
    let to_stderr = to_stdout(args) || args.output == Output::Json;
    let show = args.progress.then_some(Show { to_stderr, after: Duration::ZERO });
    watched(show, signals, &progress, || {
        let report = job.run(&disk, &*target)?;
        if signals.caught().is_some() {
            return Err(Error::other(ErrorKind::Cancelled, "stopped on request"));
        }
        target.finish()?;
        Ok(report)
    })
}

fn open_target(args: &ConvertArgs, disk: &Chain) -> Result<Box<dyn Target>> {
    let size = disk.size();
    if to_stdout(args) {
        return Ok(Box::new(StreamTarget::new(io::stdout())));
    }
    let target = if args.no_create {
        let content = if args.target_is_zero { Existing::Zeros } else { Existing::Unknown };
        FileTarget::existing(&args.target, size, content)?
    } else {
        FileTarget::create(&args.target, size)?.preallocate(size, args.preallocation.into())?
    };
    let mut target = target.forget(args.cache == Cache::Drop);
    if args.direct {
        target = target.direct()?;
    }
    if let Some(identity) = target.identity()
        && disk.storages().any(|storage| storage.identity() == Some(identity))
    {
        let message = "is the image that is read, or one of its backing files";
        return Err(Error::other(ErrorKind::InvalidInput, message)
            .in_file(&args.target)
            .advise("choose another target"));
    }
    Ok(Box::new(target))
}

/// Tells what was lost, if anything, and the exit code.
fn conclude(args: &ConvertArgs, done: &Report) -> u8 {
    let lost = done.lost.iter().map(|range| (range.start, range.end - range.start));
    let mut code = report::OK;
    for (start, length) in lost.clone() {
        let name = report::printable(&args.source);
        report::message(&format!("{name}: lost {length} bytes at guest offset {start:#x}"));
        code = report::LOST;
    }
    if args.output == Output::Json && !to_stdout(args) {
        let lost = lost.map(|(start, length)| json!({ "start": start, "length": length }));
        let answer = json!({
            "virtual-size": done.size,
            "data-written": done.written,
            "lost": lost.collect::<Vec<_>>(),
        });
        code = code.max(report::printed(output::print_json(&answer)));
    }
    code
}
