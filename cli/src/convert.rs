//! `diskimage convert`: an image into a raw disk.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use diskimage::convert::Report;
use diskimage::storage::Access;
use diskimage::target::{Existing, FileTarget, StreamTarget};
use diskimage::{
    Chain, Convert, Error, ErrorKind, Format, Limits, Progress, Result, Target, VirtualDisk,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

use crate::args::{Cache, ConvertArgs, Output, argument_bytes};
use crate::{output, report};

/// How often progress is shown, and signals are looked for.
const TICK: Duration = Duration::from_millis(100);

pub(crate) fn run(args: &ConvertArgs) -> u8 {
    let signal = Arc::new(AtomicUsize::new(0));
    // the second signal ends the process at once, and so does the first where there is no file to
    // clean up: a pipe that nobody reads blocks for ever
    let at_once = Arc::new(AtomicBool::new(to_stdout(args)));
    for number in [SIGINT, SIGTERM, SIGHUP] {
        // without the handlers the process just ends, and leaves no file either
        let _ = flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&at_once));
        let _ = flag::register(number, Arc::clone(&at_once));
        let _ = flag::register_usize(number, Arc::clone(&signal), number as usize);
    }
    // a file that exceeds the limit of the process is an error that can be told
    let _ = flag::register(SIGXFSZ, Arc::default());
    let caught = || u8::try_from(signal.load(Ordering::Relaxed)).ok().filter(|&s| s != 0);
    match convert(args, &signal) {
        Ok(report) => conclude(args, &report),
        Err(error) => {
            let stream = to_stdout(args) && error.kind() == ErrorKind::Io;
            let file = if stream { Path::new("standard output") } else { &*args.source };
            report::error(&error, file);
            report::code(&error, caught())
        }
    }
}

fn to_stdout(args: &ConvertArgs) -> bool {
    args.target.as_os_str() == "-"
}

fn convert(args: &ConvertArgs, signal: &AtomicUsize) -> Result<Report> {
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
    watched(args, signal, &progress, || {
        let report = job.run(&disk, &*target)?;
        if signal.load(Ordering::Relaxed) != 0 {
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
    let mut target = target.forget(args.cache == Cache::Drop).durable(!args.no_sync);
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

/// Runs `work` while another thread shows its progress and passes on signals.
fn watched<T>(
    args: &ConvertArgs,
    signal: &AtomicUsize,
    progress: &Progress,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (done, is_done) = mpsc::channel::<bool>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut display = args.progress.then(|| Display::new(args));
            let success = loop {
                match is_done.recv_timeout(TICK) {
                    Ok(success) => break success,
                    Err(RecvTimeoutError::Disconnected) => break false,
                    Err(RecvTimeoutError::Timeout) => {}
                }
                if signal.load(Ordering::Relaxed) != 0 {
                    progress.cancel();
                }
                if let Some(display) = &mut display {
                    display.show(progress);
                }
            };
            if let Some(display) = display {
                display.end(success);
            }
        });
        let result = work();
        // the watcher has nothing left to do if it is gone already
        let _ = done.send(result.is_ok());
        result
    })
}

/// A bar on a terminal, or qemu-img's lines.
enum Display {
    Bar(ProgressBar),
    Lines(Box<dyn Write + Send>),
}

impl Display {
    fn new(args: &ConvertArgs) -> Self {
        if io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let template = "{bar:40} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            return Self::Bar(bar);
        }
        // where qemu-img prints it, unless the disk or the report goes there
        let taken = to_stdout(args) || args.output == Output::Json;
        Self::Lines(if taken { Box::new(io::stderr()) } else { Box::new(io::stdout()) })
    }

    fn show(&mut self, progress: &Progress) {
        let (done, total) = (progress.done(), progress.total());
        match self {
            Self::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Self::Lines(out) => {
                let percent = if total == 0 { 0.0 } else { done as f64 * 100.0 / total as f64 };
                // progress that nobody reads is no failure of the conversion
                let _ = write!(out, "    ({percent:.2}/100%)\r").and_then(|()| out.flush());
            }
        }
    }

    fn end(self, success: bool) {
        match self {
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Lines(mut out) => {
                let last = if success { "    (100.00/100%)\n" } else { "\n" };
                let _ = write!(out, "{last}").and_then(|()| out.flush());
            }
        }
    }
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
