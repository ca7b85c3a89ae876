//! `diskimage checksum`: checksums of content, their lists, and manifests.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskimage::checksum::{Algorithm, Block, Digest};
use diskimage::storage::FileStorage;
use diskimage::{Checksum, Error, ErrorKind, OpenOptions, Progress, Result, Storage, VirtualDisk};
use serde_json::{Value, json};

use crate::args::{ChecksumArgs, Output, WorkArgs, argument_bytes};
use crate::bar::Answer;
use crate::bounds::Bounds;
pub(crate) use crate::checklist::digest_line;
use crate::checklist::{Line, parse_line};
use crate::watch::{Files, Show, Signals, Watch, shown};
use crate::{output, report};

/// Longer lists are none.
const LONGEST_LIST: u64 = 64 << 20;

/// What all of a run go by.
struct Run<'a> {
    args: &'a ChecksumArgs,
    bounds: &'a Bounds,
    watch: Watch,
}

pub(crate) fn run(args: &ChecksumArgs, bounds: &Bounds) -> u8 {
    let count = args.files.len();
    let prints =
        args.blocks.is_some() || (args.output == Output::Human && (args.check || count > 1));
    // the answer goes to standard output, so that progress does not
    let show = shown(args.work.progress, Show::at_once(true), prints);
    let files = if args.check { Files::unknown() } else { Files::of(count) };
    let watch = Watch::new(show, Signals::catch(false), bounds.progress(), files);
    let run = Run { args, bounds, watch };
    if let Some(block_size) = args.blocks {
        return run.watch.all(|| manifest(&run, block_size));
    }
    let mut answers = Vec::new();
    let mut code = match run.watch.all(|| answer(&run, &mut answers)) {
        Ok(code) => code,
        Err(code) => return code,
    };
    if args.output == Output::Json {
        code = code.max(report::printed(output::print_json(&Value::Array(answers))));
    }
    code
}

/// Prints the answers about all files, or gives them for programs. An error is the code of what was
/// stopped.
fn answer(run: &Run<'_>, answers: &mut Vec<Value>) -> Result<u8, u8> {
    let mut code = report::OK;
    for file in &run.args.files {
        let done =
            if run.args.check { check(run, file, answers) } else { print(run, file, answers) };
        match done {
            Ok(done) => code = code.max(done),
            Err(error) => {
                report::error(&error, file);
                if let Some(code) = report::stop_code(&error, run.watch.caught()) {
                    return Err(code);
                }
                code = report::ERROR;
            }
        }
    }
    Ok(code)
}

/// A job for these algorithms.
pub(crate) fn job_of(algorithms: &[Algorithm]) -> Checksum {
    algorithms.iter().fold(Checksum::new(), |job, &algorithm| job.algorithm(algorithm))
}

/// The same with the options of the command line, and where it reports.
pub(crate) fn with_work(
    mut job: Checksum,
    work: &WorkArgs,
    bounds: &Bounds,
    progress: &Arc<Progress>,
) -> Checksum {
    if let Some(threads) = work.threads {
        job = job.threads(threads);
    }
    job.max_memory(bounds.limits(1).1).progress(Arc::clone(progress))
}

impl Run<'_> {
    fn options(&self, file: &Path) -> Result<OpenOptions> {
        let options = self.args.open.options(file)?.limits(self.bounds.limits(1).0);
        let mut options = options.progress(Arc::clone(&self.watch.progress));
        if let Some(snapshot) = &self.args.snapshot {
            options = options.snapshot(argument_bytes(snapshot));
        }
        Ok(self.bounds.spilling(options))
    }

    /// The checksums of an image, and the size of its disk.
    fn digests(&self, algorithms: &[Algorithm], file: &Path) -> Result<(Vec<Digest>, u64)> {
        self.watch.each(|| self.digests_of(algorithms, file))
    }

    fn digests_of(&self, algorithms: &[Algorithm], file: &Path) -> Result<(Vec<Digest>, u64)> {
        let options = self.options(file)?;
        let (work, progress) = (&self.args.work, &self.watch.progress);
        let job = with_work(job_of(algorithms), work, self.bounds, progress);
        if !algorithms.contains(&Algorithm::Blkhash)
            && let Some(compressed) = options.open_compressed_disk(file)?
            && let Some(done) = job.run_compressed(&compressed)?
        {
            return Ok(done);
        }
        let disk = options.open(file)?;
        self.bounds.tell_spilled();
        Ok((job.run(&disk)?, disk.size()))
    }
}

/// Prints the checksums of one image.
fn print(run: &Run<'_>, file: &Path, answers: &mut Vec<Value>) -> Result<u8> {
    let args = run.args;
    let (digests, size) = run.digests(&args.algorithm, file)?;
    if args.output == Output::Json {
        answers.push(json!({
            "filename": output::text_of(file.as_os_str().as_encoded_bytes()),
            "virtual-size": size,
            "checksums": output::digests(&digests),
        }));
        return Ok(report::OK);
    }
    let mut out = Answer::new();
    let lines = digests.iter().try_for_each(|digest| {
        let mut line = digest_line(digest, file, args.tag || digests.len() > 1);
        if out.is_terminal {
            line = diskimage::text::printable(&line).into_bytes();
        }
        line.push(b'\n');
        out.write_all(&line)
    });
    Ok(report::printed(lines))
}

/// The lines of a list, and how many of them are none.
fn read_list(list: &Path, algorithm: Option<Algorithm>) -> Result<(Vec<Line>, usize)> {
    let storage = FileStorage::open(list)?;
    if storage.size() > LONGEST_LIST {
        let message = "is too long for a list of checksums";
        return Err(Error::other(ErrorKind::LimitExceeded, message));
    }
    let mut bytes = vec![0; usize::try_from(storage.size()).unwrap_or_default()];
    storage.read_exact_at(&mut bytes, 0)?;
    let written = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let is_comment = |line: &[u8]| line.starts_with(b"#");
    let (mut lines, mut malformed) = (Vec::new(), 0);
    for line in written.filter(|line| !is_comment(line)) {
        match parse_line(line, algorithm) {
            Some(line) => lines.push(line),
            None => malformed += 1,
        }
    }
    if lines.is_empty() {
        let message = "no properly formatted checksum lines found";
        return Err(Error::other(ErrorKind::InvalidInput, message));
    }
    Ok((lines, malformed))
}

/// The images that a list names.
pub(crate) fn listed_files(list: &Path) -> Vec<PathBuf> {
    let lines = read_list(list, None).map(|(lines, _)| lines).unwrap_or_default();
    lines.into_iter().map(|line| line.file).collect()
}

/// Checks what a list says.
fn check(run: &Run<'_>, list: &Path, answers: &mut Vec<Value>) -> Result<u8> {
    let args = run.args;
    let (lines, malformed) = read_list(list, args.algorithm.first().copied())?;
    let (mut unreadable, mut different) = (0, 0);
    // several checksums of one file take one pass
    for group in lines.chunk_by(|a, b| a.file == b.file) {
        let Some(first) = group.first() else { continue };
        let algorithms: Vec<_> = group.iter().map(|line| line.digest.algorithm).collect();
        let got = match run.digests(&algorithms, &first.file) {
            Ok((got, _)) => got,
            Err(error) if error.kind().is_stop() => return Err(error.in_file(&first.file)),
            Err(error) => {
                report::error(&error, &first.file);
                unreadable += group.len();
                Vec::new()
            }
        };
        for (index, line) in group.iter().enumerate() {
            let (status, words) = match got.get(index) {
                None => ("unreadable", "FAILED open or read"),
                Some(got) if *got == line.digest => ("ok", "OK"),
                Some(_) => {
                    different += 1;
                    ("failed", "FAILED")
                }
            };
            if args.output == Output::Json {
                answers.push(checked(line, got.get(index), status));
            } else {
                let name = report::printable(&line.file);
                let printed = writeln!(Answer::new(), "{name}: {words}");
                if printed.is_err() {
                    return Ok(report::printed(printed));
                }
            }
        }
    }
    for (count, one, many) in [
        (malformed, "line is improperly formatted", "lines are improperly formatted"),
        (unreadable, "listed file could not be read", "listed files could not be read"),
        (different, "computed checksum did NOT match", "computed checksums did NOT match"),
    ] {
        if count > 0 {
            let what = if count == 1 { one } else { many };
            report::message(&format!("{}: WARNING: {count} {what}", report::printable(list)));
        }
    }
    Ok(if unreadable + different > 0 { report::ERROR } else { report::OK })
}

fn checked(line: &Line, got: Option<&Digest>, status: &str) -> Value {
    json!({
        "filename": output::text_of(line.file.as_os_str().as_encoded_bytes()),
        "algorithm": line.digest.algorithm.name(),
        "expected": line.digest.to_string(),
        "actual": got.map(ToString::to_string),
        "status": status,
    })
}

/// Writes a manifest as it is computed, so that one of any length takes no memory.
fn manifest(run: &Run<'_>, block_size: u64) -> u8 {
    let args = run.args;
    let ([file], [] | [_]) = (&*args.files, &*args.algorithm) else {
        report::message("--blocks takes one image and one algorithm");
        return report::USAGE;
    };
    let progress = &run.watch.progress;
    let written = run.watch.each(|| {
        let disk = run.options(file)?.open(file)?;
        run.bounds.tell_spilled();
        let job = with_work(job_of(&args.algorithm), &args.work, run.bounds, progress);
        let algorithm = args.algorithm.first().copied().unwrap_or(Algorithm::Sha256);
        let mut form = Form::new(algorithm, block_size, disk.size());
        let done = job.blocks(&disk, block_size, |block| {
            form.block(block);
            if form.failed.is_some() {
                progress.cancel();
            }
            Ok(())
        });
        match (form.failed.take(), done) {
            (Some(failed), _) => Ok(Err(failed)),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Ok(form.end()),
        }
    });
    match written {
        Ok(printed) => report::printed(printed),
        Err(error) => {
            report::error(&error, file);
            report::code(&error, run.watch.caught())
        }
    }
}

/// A manifest in JSON: a text for each block that holds data, a number for so many blocks of zeros.
struct Form {
    out: BufWriter<Answer>,
    /// What waits for the first block, so that a refusal prints nothing.
    head: Option<String>,
    failed: Option<io::Error>,
}

impl Form {
    fn new(algorithm: Algorithm, block_size: u64, size: u64) -> Self {
        let head = format!(
            "{{\n  \"version\": 1,\n  \"algorithm\": \"{algorithm}\",\n  \"block-size\": \
             {block_size},\n  \"size\": {size},\n  \"hashes\": ["
        );
        Self { out: BufWriter::new(Answer::new()), head: Some(head), failed: None }
    }

    fn block(&mut self, block: Block<'_>) {
        let before = self.head.take().unwrap_or_else(|| ",".to_owned());
        let text = match block {
            Block::Zeros(blocks) => blocks.to_string(),
            Block::Digest(digest) => {
                let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("\"{hex}\"")
            }
        };
        if self.failed.is_none() {
            self.failed = write!(self.out, "{before}\n    {text}").err();
        }
    }

    fn end(mut self) -> io::Result<()> {
        write!(self.out, "{}\n  ]\n}}\n", self.head.take().unwrap_or_default())?;
        self.out.flush()
    }
}
