//! `diskimage compare`: whether two images are the same disk, with the exit codes and the words of
//! qemu-img.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use diskimage::compare::{Difference, Failure, Side, Stage};
use diskimage::{Chain, Checksum, Compare, Error, Progress, VirtualDisk};
use serde_json::{Value, json};

use crate::args::{CompareArgs, Output};
use crate::bounds::Bounds;
use crate::checksum::with_work;
use crate::watch::{Show, Signals, shown, watched};
use crate::{manifest, output, report};

/// The images differ.
const DIFFERENT: u8 = 1;
/// An image cannot be opened.
const OPEN: u8 = 2;
/// Where the bytes of an image lie cannot be told.
const MAP: u8 = 3;
/// Bytes of an image cannot be read.
const READ: u8 = 4;

pub(crate) fn run(args: &CompareArgs, bounds: &Bounds) -> u8 {
    let signals = Signals::catch(false);
    let progress = bounds.progress();
    let open = |path: &Path, format| {
        let options = args.open.options_as(path, format)?.limits(bounds.limits(2).0);
        bounds.spilling(options).progress(Arc::clone(&progress)).open(path)
    };
    let work = Work { args, bounds, signals: &signals, progress: &progress };
    let first = match open(&args.first, args.open.format) {
        Ok(first) => first,
        Err(error) => return refused(&error, &args.first),
    };
    let Some(path) = &args.second else {
        bounds.tell_spilled();
        return verify(&work, &first);
    };
    // the format of the first image says nothing about the second
    match open(path, args.second_format) {
        Ok(second) => {
            bounds.tell_spilled();
            compare(&work, [&first, &second], path)
        }
        Err(error) => refused(&error, path),
    }
}

/// What all of a run go by.
struct Work<'a> {
    args: &'a CompareArgs,
    bounds: &'a Bounds,
    signals: &'a Signals,
    progress: &'a Arc<Progress>,
}

fn refused(error: &Error, path: &Path) -> u8 {
    report::error(error, path);
    report::stop_code(error, None).unwrap_or(OPEN)
}

fn show(args: &CompareArgs) -> Option<Show> {
    // a list that is printed meanwhile is progress enough
    let lists = args.all || args.manifest.is_some();
    if args.quiet || (lists && !args.work.progress) {
        return None;
    }
    shown(args.work.progress, Show::at_once(args.output == Output::Json))
}

fn compare(work: &Work<'_>, disks: [&Chain; 2], second: &Path) -> u8 {
    let &Work { args, bounds, signals, progress } = work;
    let [first, other] = disks;
    let mut job = Compare::new()
        .strict(args.strict)
        .max_memory(bounds.limits(2).1)
        .progress(Arc::clone(progress));
    if let Some(threads) = args.work.threads {
        job = job.threads(threads);
    }
    let sizes = [first.size(), other.size()];
    let mut answer = Answer::new(args, &[(&args.first, sizes[0]), (second, sizes[1])]);
    let found = watched(show(args), signals, progress, || {
        if !args.all {
            return job.first(first, other);
        }
        job.all(first, other, |range| {
            if answer.range(range.start, range.end - range.start).is_err() {
                progress.cancel();
            }
        })?;
        Ok(answer.first_range.map(Difference::Content))
    });
    let printed = match &found {
        Ok(found) => answer.end(*found, sizes),
        Err(_) => answer.abandon(),
    };
    let code = match found {
        Ok(None) => report::OK,
        Ok(Some(_)) => DIFFERENT,
        Err(failure) => return failed(args, second, failure, signals, printed),
    };
    code.max(report::printed(printed))
}

fn failed(
    args: &CompareArgs,
    second: &Path,
    failure: Failure,
    signals: &Signals,
    printed: io::Result<()>,
) -> u8 {
    if let Err(error) = printed {
        return report::printed(Err(error));
    }
    let (side, code) = match failure.stage {
        Stage::Start => (Side::First, OPEN),
        Stage::Map(side) => (side, MAP),
        Stage::Read(side) => (side, READ),
    };
    report::error(&failure.error, if side == Side::First { &args.first } else { second });
    report::stop_code(&failure.error, signals.caught()).unwrap_or(code)
}

/// Compares with a manifest.
fn verify(work: &Work<'_>, disk: &Chain) -> u8 {
    let &Work { args, bounds, signals, progress } = work;
    let Some(path) = &args.manifest else { return report::USAGE };
    let manifest = match manifest::read(path) {
        Ok(manifest) => manifest,
        Err(error) => return refused(&error, path),
    };
    let job = with_work(Checksum::new(), &args.work, bounds, progress);
    let found = watched(show(args), signals, progress, || manifest.verify(&job, disk));
    let ranges = match found {
        Ok(ranges) => ranges,
        Err(error) => {
            report::error(&error, &args.first);
            return report::stop_code(&error, signals.caught()).unwrap_or(READ);
        }
    };
    let sizes = [disk.size(), manifest.size()];
    let mut answer = Answer::new(args, &[(&args.first, sizes[0]), (path, sizes[1])]);
    let told =
        ranges.iter().try_for_each(|range| answer.range(range.start, range.end - range.start));
    let first = ranges.first().map(|range| Difference::Content(range.start));
    let printed = told.and_then(|()| answer.end(first, sizes));
    let code = if ranges.is_empty() { report::OK } else { DIFFERENT };
    code.max(report::printed(printed))
}

/// The answer, written as it is found.
struct Answer<'a> {
    args: &'a CompareArgs,
    out: BufWriter<io::Stdout>,
    /// What comes before the list of ranges, until that is written.
    head: Option<String>,
    first_range: Option<u64>,
    bytes: u64,
}

impl<'a> Answer<'a> {
    fn new(args: &'a CompareArgs, files: &[(&Path, u64)]) -> Self {
        let file = |(path, size): &(&Path, u64)| {
            let name = output::text_of(path.as_os_str().as_encoded_bytes());
            let object = json!({ "filename": name, "virtual-size": size });
            output::escape(&object.to_string())
        };
        let files: Vec<_> = files.iter().map(file).collect();
        let head = format!("{{\n  \"images\": [{}],\n  \"ranges\": [", files.join(", "));
        let out = BufWriter::new(io::stdout());
        Self { args, out, head: Some(head), first_range: None, bytes: 0 }
    }

    fn is_silent(&self) -> bool {
        self.args.quiet
    }

    /// A range that differs, of a list of all.
    fn range(&mut self, start: u64, length: u64) -> io::Result<()> {
        let is_first = self.first_range.is_none();
        self.first_range.get_or_insert(start);
        self.bytes += length;
        if self.is_silent() {
            return Ok(());
        }
        match self.args.output {
            Output::Human => {
                writeln!(self.out, "Content differs at offset {start} for {length} bytes")
            }
            Output::Json => {
                let separator = if is_first { "" } else { "," };
                let head = self.head.take().unwrap_or_default();
                let range = format!("{{\"start\": {start}, \"length\": {length}}}");
                write!(self.out, "{head}{separator}\n    {range}")
            }
        }
    }

    fn end(mut self, found: Option<Difference>, [first, second]: [u64; 2]) -> io::Result<()> {
        if self.is_silent() {
            return Ok(());
        }
        if self.args.output == Output::Json {
            let (kind, offset) = match found {
                None => (None, None),
                Some(Difference::Size) => (Some("size"), None),
                Some(Difference::Status(offset)) => (Some("status"), Some(offset)),
                Some(Difference::Content(offset)) => (Some("content"), Some(offset)),
            };
            let difference = kind.map(|kind| json!({ "kind": kind, "offset": offset }));
            let bytes = self.lists().then_some(self.bytes);
            return self.tail(Some(found.is_none()), first != second, difference, bytes);
        }
        let warn = "Warning: Image size mismatch!";
        // what both have is compared before it is seen that one has more
        let warning = match found {
            None => first != second,
            Some(Difference::Content(offset)) => first != second && offset >= first.min(second),
            Some(_) => false,
        };
        if warning {
            writeln!(self.out, "{warn}")?;
        }
        match found {
            None if self.args.manifest.is_some() => {
                writeln!(self.out, "The image is as the manifest says.")?;
            }
            None => writeln!(self.out, "Images are identical.")?,
            Some(Difference::Size) => writeln!(self.out, "Strict mode: Image size mismatch!")?,
            Some(Difference::Status(offset)) => {
                writeln!(self.out, "Strict mode: Offset {offset} block status mismatch!")?;
            }
            Some(Difference::Content(offset)) => {
                writeln!(self.out, "Content mismatch at offset {offset}!")?;
            }
        }
        self.out.flush()
    }

    /// Whether ranges are listed.
    fn lists(&self) -> bool {
        self.args.all || self.args.manifest.is_some()
    }

    /// Ends a JSON answer that was begun, and prints none that was not.
    fn abandon(mut self) -> io::Result<()> {
        if self.args.output == Output::Json && self.head.is_none() {
            return self.tail(None, false, None, None);
        }
        self.out.flush()
    }

    fn tail(
        &mut self,
        identical: Option<bool>,
        size_mismatch: bool,
        difference: Option<Value>,
        bytes: Option<u64>,
    ) -> io::Result<()> {
        let close = if self.head.is_some() { "" } else { "\n  " };
        let head = self.head.take().unwrap_or_default();
        let mut members = json!({
            "identical": identical,
            "size-mismatch": size_mismatch,
            "first-difference": difference,
        });
        if bytes.is_some() {
            members["different-bytes"] = json!(bytes);
        }
        write!(self.out, "{head}{close}]")?;
        for (name, value) in members.as_object().into_iter().flatten() {
            write!(self.out, ",\n  \"{name}\": {value}")?;
        }
        writeln!(self.out, "\n}}")?;
        self.out.flush()
    }
}
