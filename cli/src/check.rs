//! `diskimage check`: whether an image is whole, and its repair.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;

use diskimage::check::{DryRun, Repaired};
use diskimage::container::{Archive, Container};
use diskimage::format::probe::probe;
use diskimage::storage::FileStorage;
use diskimage::target::FilePatch;
use diskimage::{
    CheckReport, Checking, Code, Error, ErrorKind, Finding, Format, Image, OpenOptions, Progress,
    RepairScope, Result, inside,
};
use serde_json::{Value, json};

use crate::args::{CheckArgs, Output};
use crate::bar::above;
use crate::bounds::Bounds;
use crate::output::Documents;
use crate::report::worse;
use crate::several::Several;
use crate::watch::{Files, LONG, Show, Signals, Watch, shown};
use crate::{output, report, style};

/// What a check and perhaps a repair came to.
pub(crate) struct Outcome {
    pub(crate) format: Format,
    pub(crate) report: CheckReport,
    pub(crate) repaired: Option<Repaired>,
    planned: Option<DryRun>,
}

pub(crate) fn run(args: &CheckArgs, bounds: &Bounds) -> u8 {
    let signals = Signals::catch(args.repair.is_none() || args.dry_run);
    let count = 1 + args.more.len();
    let documents = Documents::of(count, args.output);
    let show = Show { to_stderr: args.output == Output::Json, after: LONG };
    let show = shown(args.progress, show, count > 1);
    let watch = Watch::new(show, signals, bounds.progress(), Files::of(count));
    let code = watch.worst(args.each(), |index, args| {
        if count > 1 && args.output == Output::Human {
            let before = if index > 0 { "\n" } else { "" };
            let name = style::heading(report::printable(&args.file));
            // a reader that went away shows with the answer
            let _ = above(|| writeln!(io::stdout(), "{before}{name}"));
        }
        check_one(&args, bounds, &documents, &watch)
    });
    worse(code, report::printed(documents.end()))
}

fn check_one(args: &CheckArgs, bounds: &Bounds, documents: &Documents, watch: &Watch) -> u8 {
    match outcome(args, bounds, watch) {
        Ok(Err(error)) => {
            report::error(&error, &args.file);
            report::NOT_CHECKED
        }
        Ok(Ok(outcome)) => {
            let printed = above(|| match args.output {
                Output::Json => documents.print(&outcome.json(args)),
                Output::Human => outcome.print(&mut io::stdout().lock()),
            });
            match report::printed(printed) {
                report::OK => outcome.code(),
                code => code,
            }
        }
        Err(error) => {
            report::error(&error, &args.file);
            report::code(&error, watch.caught())
        }
    }
}

/// Checks, and repairs where that is asked for. An inner error says that the format has nothing to
/// check or to repair, or is known by name only.
pub(crate) fn outcome(args: &CheckArgs, bounds: &Bounds, watch: &Watch) -> Result<Result<Outcome>> {
    watch.each(|| check(&Run { args, bounds, progress: &watch.progress }))
}

/// What all of a run go by.
struct Run<'a> {
    args: &'a CheckArgs,
    bounds: &'a Bounds,
    progress: &'a Arc<Progress>,
}

fn check(run: &Run<'_>) -> Result<Result<Outcome>> {
    let unsupported = |error: &Error| error.kind() == ErrorKind::Unsupported;
    if let Some(archive) = archive(run)? {
        return check_archive(run, &archive).map(Ok);
    }
    let image = match open(run) {
        Err(error) if unsupported(&error) && !is_read(run.args) => return Ok(Err(error)),
        other => other?,
    };
    run.bounds.tell_spilled();
    match judge(run, &image) {
        Err(error) if unsupported(&error) => Ok(Err(error)),
        other => other.map(Ok),
    }
}

/// The archive that is named, if it is one.
fn archive(run: &Run<'_>) -> Result<Option<Archive>> {
    match options(run).open_container(&run.args.file)? {
        Some(Container::Archive(archive)) => Ok(Some(archive)),
        _ => Ok(None),
    }
}

/// Checks an archive and the disks in it.
fn check_archive(run: &Run<'_>, archive: &Archive) -> Result<Outcome> {
    check_repairable(run)?;
    let checking = checking(run);
    inside::check(archive, &options(run), &checking)?;
    let (format, report) = (archive.format(), checking.into_report());
    Ok(Outcome { format, report, repaired: None, planned: None })
}

/// What lies in a container is not written to.
fn check_repairable(run: &Run<'_>) -> Result<()> {
    if run.args.repair.is_some() {
        let message = "what lies in a container is not repaired";
        return Err(Error::other(ErrorKind::InvalidInput, message)
            .in_file(&run.args.file)
            .advise("unpack it first"));
    }
    Ok(())
}

/// Whether images of the file's format are read at all, be it one that is named or detected.
fn is_read(args: &CheckArgs) -> bool {
    if let Some(format) = args.format {
        return format.is_read();
    }
    let found = FileStorage::open(&args.file).and_then(|file| probe(&file));
    found.is_ok_and(|found| found.matches.iter().any(|found| found.format.is_read()))
}

fn judge(run: &Run<'_>, image: &Image) -> Result<Outcome> {
    let args = run.args;
    let format = image.layer().format();
    let report = image.check(checking(run))?;
    let mut outcome = Outcome { format, report, repaired: None, planned: None };
    let Some(scope) = args.repair else { return Ok(outcome) };
    if image.storage().as_file().is_none() {
        check_repairable(run)?;
    }
    if outcome.report.is_clean() {
        outcome.repaired = Some(Repaired::default());
        return Ok(outcome);
    }
    let checking = checking(run);
    if args.dry_run {
        let mut plan = DryRun::new();
        outcome.repaired = Some(image.repair(scope.into(), &checking, &mut plan)?);
        outcome.planned = Some(plan);
        return Ok(outcome);
    }
    repair(run, scope.into(), image, &mut outcome)?;
    Ok(outcome)
}

/// Repairs the image, and checks again what has become of it.
fn repair(run: &Run<'_>, scope: RepairScope, image: &Image, outcome: &mut Outcome) -> Result<()> {
    let identity = image.storage().identity();
    let mut patch = FilePatch::open(&run.args.file, identity, Arc::clone(run.progress))?;
    let repaired = image.repair(scope, &checking(run), &mut patch)?;
    let changed = patch.has_written();
    patch.finish()?;
    outcome.repaired = Some(repaired);
    if changed {
        outcome.report = open(run)?.check(checking(run))?;
    }
    Ok(())
}

fn options(run: &Run<'_>) -> OpenOptions {
    let args = run.args;
    let mut limits = run.bounds.limits(1).0;
    limits.table_cache = limits.table_cache.min(run.bounds.memory_for_check() / 8);
    let mut options = OpenOptions::new().limits(limits).progress(Arc::clone(run.progress));
    if let Some(format) = args.format {
        options = options.format(format);
    }
    run.bounds.spilling(options)
}

/// Opens the image, also where it is marked as broken, and no other file.
fn open(run: &Run<'_>) -> Result<Image> {
    let (args, options) = (run.args, options(run));
    // one extent of a VMDK is no disk to read, but tables to check, and so is what is broken
    options.open_image(&args.file).or_else(|error| {
        let bare = error.kind() == ErrorKind::InvalidInput;
        let broken = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::LimitExceeded);
        let trusting = options.trust_broken(true);
        let opened = (bare || broken).then(|| trusting.open_image(&args.file).ok()).flatten();
        let tells = |image: &Image| bare || image.layer().format() == Format::Qcow2;
        opened.filter(tells).ok_or(error)
    })
}

fn checking(run: &Run<'_>) -> Checking {
    let processors = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = run.args.threads.unwrap_or_else(processors);
    let memory = run.bounds.memory_for_check();
    Checking::new().threads(threads).max_memory(memory).progress(Arc::clone(run.progress))
}

impl Outcome {
    /// qemu-img's exit code.
    pub(crate) fn code(&self) -> u8 {
        match &self.report {
            report if report.check_errors > 0 => report::ERROR,
            report if report.corruptions > 0 => report::CORRUPT,
            report if report.leaks > 0 => report::LEAKS,
            _ => report::OK,
        }
    }

    /// qemu-img's fields, and what is zero left out as there.
    pub(crate) fn numbers(&self, args: &CheckArgs) -> Value {
        let report = &self.report;
        let fixed = self.repaired.as_ref().filter(|_| self.planned.is_none());
        let mut object = json!({
            "filename": output::text_of(args.file.as_os_str().as_encoded_bytes()),
            "format": self.format.name(),
            "check-errors": report.check_errors,
        });
        let numbers = [
            ("image-end-offset", report.image_end_offset),
            ("total-clusters", report.total_clusters),
            ("allocated-clusters", report.allocated_clusters),
            ("fragmented-clusters", report.fragmented_clusters),
            ("compressed-clusters", report.compressed_clusters),
            ("corruptions", Some(report.corruptions)),
            ("leaks", Some(report.leaks)),
            ("corruptions-fixed", fixed.map(|fixed| fixed.corruptions_fixed)),
            ("leaks-fixed", fixed.map(|fixed| fixed.leaks_fixed)),
        ];
        for (name, number) in numbers {
            if let Some(number) = number.filter(|&number| number != 0) {
                object[name] = json!(number);
            }
        }
        object
    }

    /// The same, then ours.
    fn json(&self, args: &CheckArgs) -> Value {
        let (report, mut object) = (&self.report, self.numbers(args));
        object["findings"] = output::findings(&report.findings);
        object["more-findings"] = json!(report.more_findings);
        if let Some(repaired) = &self.repaired {
            object["refused"] = output::findings(&repaired.refused);
        }
        if let Some(plan) = &self.planned {
            let writes = plan.writes.iter().map(|write| {
                json!({ "offset": write.offset, "length": write.length, "what": write.what })
            });
            object["planned-writes"] = Value::Array(writes.collect());
            object["more-planned-writes"] = json!(plan.more_writes);
        }
        object
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let report = &self.report;
        for finding in report.findings.iter().filter(|finding| finding.code != Code::CheckError) {
            print_finding(out, finding)?;
        }
        if report.more_findings > 0 {
            writeln!(out, "… and {} more", report.more_findings)?;
        }
        if let Some(plan) = &self.planned {
            print_plan(out, plan)?;
        }
        if let Some(repaired) = &self.repaired {
            for finding in &repaired.refused {
                write!(out, "not repaired: ")?;
                print_finding(out, finding)?;
            }
            let (errors, leaks) = (repaired.corruptions_fixed, repaired.leaks_fixed);
            if self.planned.is_some() {
                writeln!(out, "A repair would mend {errors} errors and free {leaks} clusters.")?;
            } else if errors > 0 || leaks > 0 {
                writeln!(out, "Repaired: {errors} errors, {leaks} leaked clusters.")?;
            }
        }
        self.print_summary(out)
    }

    fn print_summary(&self, out: &mut impl Write) -> io::Result<()> {
        let report = &self.report;
        if report.is_clean() {
            writeln!(out, "No errors were found on the image.")?;
        }
        if report.corruptions > 0 {
            writeln!(out, "{} errors were found on the image.", report.corruptions)?;
            writeln!(out, "Data may be lost, or be lost when the image is written to.")?;
        }
        if report.leaks > 0 {
            writeln!(out, "{} leaked clusters were found on the image.", report.leaks)?;
            writeln!(out, "They take up room, and harm nothing else.")?;
        }
        if report.check_errors > 0 {
            writeln!(out, "{} structures could not be read.", report.check_errors)?;
        }
        if let (Some(total), Some(allocated)) = (report.total_clusters, report.allocated_clusters)
            && total > 0
        {
            let percent = |part: Option<u64>, of: u64| {
                let part = part.unwrap_or(0);
                if of == 0 { 0.0 } else { part as f64 * 100.0 / of as f64 }
            };
            writeln!(
                out,
                "{allocated}/{total} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed \
                 clusters",
                percent(Some(allocated), total),
                percent(report.fragmented_clusters, allocated),
                percent(report.compressed_clusters, allocated),
            )?;
        }
        if let Some(end) = report.image_end_offset.filter(|&end| end > 0) {
            writeln!(out, "Image end offset: {end}")?;
        }
        Ok(())
    }
}

/// `error: overlap at 0x5000 (L2 entry): what is wrong: what to do`.
pub(crate) fn print_finding(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    write!(out, "{}: {}", style::severity(finding.code.severity()), finding.code)?;
    if let Some(offset) = finding.offset {
        write!(out, " at {offset:#x}")?;
    }
    if let Some(structure) = &finding.structure {
        write!(out, " ({structure})")?;
    }
    write!(out, ": {}", finding.message)?;
    match &finding.fix {
        Some(fix) => writeln!(out, ": {fix}"),
        None => writeln!(out),
    }
}

fn print_plan(out: &mut impl Write, plan: &DryRun) -> io::Result<()> {
    for write in &plan.writes {
        let (offset, length, what) = (write.offset, write.length, &write.what);
        writeln!(out, "would write {length} bytes at {offset:#x}: {what}")?;
    }
    if plan.more_writes > 0 {
        writeln!(out, "… and {} more writes", plan.more_writes)?;
    }
    Ok(())
}
