//! `diskimage compare`: whether two images are the same disk, with the exit codes and the words of
//! qemu-img.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use diskimage::compare::{Difference, Failure, Side, Stage};
use diskimage::{Chain, Checksum, Compare, Error, Format, Progress, VirtualDisk};
use serde_json::{Value, json};

use crate::args::{CompareArgs, Output};
use crate::bounds::Bounds;
use crate::checksum::with_work;
use crate::watch::{Show, Signals, shown, watched};
use crate::{bar, manifest, output, report};

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
    let work = Work { args, bounds, progress: &bounds.progress() };
    let done = watched(show(args), &signals, work.progress, || work.run());
    let failed = match done {
        Ok(done) => return done.tell(),
        Err(failed) => failed,
    };
    if let Some(Err(error)) = failed.printed {
        return report::printed(Err(error));
    }
    report::error(&failed.error, failed.file);
    report::stop_code(&failed.error, signals.caught()).unwrap_or(failed.code)
}

/// What all of a run go by.
struct Work<'a> {
    args: &'a CompareArgs,
    bounds: &'a Bounds,
    progress: &'a Arc<Progress>,
}

/// Why nothing can be said.
struct Failed<'a> {
    error: Error,
    file: &'a Path,
    code: u8,
    /// How the answer that was begun was ended.
    printed: Option<io::Result<()>>,
}

/// What came of it.
struct Done<'a> {
    answer: Answer<'a>,
    found: Option<Difference>,
    sizes: [u64; 2],
}

impl Done<'_> {
    fn tell(self) -> u8 {
        let code = if self.found.is_none() { report::OK } else { DIFFERENT };
        code.max(report::printed(self.answer.end(self.found, self.sizes)))
    }
}

/// It cannot be opened.
fn refused<'a>(file: &'a Path) -> impl FnOnce(Error) -> Failed<'a> {
    move |error| Failed { error, file, code: OPEN, printed: None }
}

fn show(args: &CompareArgs) -> Option<Show> {
    // a list that is printed meanwhile is progress enough
    let lists = args.all || args.manifest.is_some();
    if args.quiet || (lists && !args.work.progress) {
        return None;
    }
    shown(args.work.progress, Show::at_once(args.output == Output::Json), lists)
}

impl<'a> Work<'a> {
    fn open(&self, path: &'a Path, format: Option<Format>) -> Result<Chain, Failed<'a>> {
        let Self { args, bounds, progress } = self;
        let options = args.open.options_as(path, format).map_err(refused(path))?;
        let options = bounds.spilling(options.limits(bounds.limits(2).0));
        options.progress(Arc::clone(progress)).open(path).map_err(refused(path))
    }

    fn run(&self) -> Result<Done<'a>, Failed<'a>> {
        let first = self.open(&self.args.first, self.args.open.format)?;
        let Some(path) = &self.args.second else {
            self.bounds.tell_spilled();
            return self.verify(&first);
        };
        // the format of the first image says nothing about the second
        let second = self.open(path, self.args.second_format)?;
        self.bounds.tell_spilled();
        self.compare([&first, &second], path)
    }

    fn compare(&self, disks: [&Chain; 2], second: &'a Path) -> Result<Done<'a>, Failed<'a>> {
        let &Self { args, bounds, progress } = self;
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
        let found = if args.all {
            let all = job.all(first, other, |range| {
                if answer.range(range.start, range.end - range.start).is_err() {
                    progress.cancel();
                }
            });
            all.map(|_| answer.first_range.map(Difference::Content))
        } else {
            job.first(first, other)
        };
        match found {
            Ok(found) => Ok(Done { answer, found, sizes }),
            Err(Failure { error, stage, .. }) => {
                let (side, code) = match stage {
                    Stage::Start => (Side::First, OPEN),
                    Stage::Map(side) => (side, MAP),
                    Stage::Read(side) => (side, READ),
                };
                let file = if side == Side::First { &args.first } else { second };
                Err(Failed { error, file, code, printed: Some(answer.abandon()) })
            }
        }
    }

    /// Compares with a manifest.
    fn verify(&self, disk: &Chain) -> Result<Done<'a>, Failed<'a>> {
        let &Self { args, bounds, progress } = self;
        let path = args.manifest.as_deref().unwrap_or(Path::new(""));
        let manifest = manifest::read(path).map_err(refused(path))?;
        let job = with_work(Checksum::new(), &args.work, bounds, progress);
        let ranges = manifest.verify(&job, disk).map_err(|error| Failed {
            error,
            file: &args.first,
            code: READ,
            printed: None,
        })?;
        let sizes = [disk.size(), manifest.size()];
        let mut answer = Answer::new(args, &[(&args.first, sizes[0]), (path, sizes[1])]);
        let told =
            ranges.iter().try_for_each(|range| answer.range(range.start, range.end - range.start));
        answer.failed = told.err();
        let found = ranges.first().map(|range| Difference::Content(range.start));
        Ok(Done { answer, found, sizes })
    }
}

/// The answer, written as it is found.
struct Answer<'a> {
    args: &'a CompareArgs,
    out: BufWriter<bar::Answer>,
    /// What comes before the list of ranges, until that is written.
    head: Option<String>,
    /// Why a range could not be printed.
    failed: Option<io::Error>,
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
        let out = BufWriter::new(bar::Answer::new());
        Self { args, out, head: Some(head), failed: None, first_range: None, bytes: 0 }
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
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
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
