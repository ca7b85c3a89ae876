//! `qemu-img check`.

use std::io::{self, Write};

use diskimage::{Code, Format, Severity};

use super::getopt::Given;
use super::{CacheMode, Failure, Session, one_file, output, source};
use crate::args::{CheckArgs, Command, Output, Scope};
use crate::check::{Outcome, outcome, print_finding};
use crate::deferred::Deferred;
use crate::output::print_json;
use crate::report;
use crate::watch::{Files, Signals, Watch};

pub(super) fn run(session: &Session, given: &Given) -> Result<u8, Failure> {
    let form = output("check", given)?;
    let repair = match given.text("repair").as_deref() {
        None => None,
        Some("leaks") => Some(Scope::Leaks),
        Some("all") => Some(Scope::All),
        Some(other) => {
            let text = format!("--repair (-r) expects 'leaks' or 'all' not '{other}'");
            return Err(Failure::usage("check", text));
        }
    };
    CacheMode::given(given, "cache", "source cache")?;
    let name = one_file("check", given)?;
    if repair.is_some() && given.has("force-share") {
        let name = diskimage::text::printable(name.as_encoded_bytes());
        let text = "force-share=on can only be used with read-only images";
        return Err(Failure::open(&name, text));
    }
    let image = source::existing(given, name, "format", "image-opts")?;
    let unknown = image.unknown();
    let args = CheckArgs {
        file: image.path,
        more: Vec::new(),
        format: image.format,
        repair,
        dry_run: false,
        progress: false,
        threads: None,
        output: form,
    };
    let mut command = Command::Check(Deferred(args));
    session.begin(&mut command, unknown)?;
    let Command::Check(Deferred(args)) = command else { return Ok(report::USAGE) };
    let unsupported = || {
        let failure = Failure::new("This image format does not support checks");
        failure.with_code(report::NOT_CHECKED)
    };
    let signals = Signals::catch(repair.is_none());
    let watch = Watch::new(None, signals, session.bounds.progress(), Files::of(1));
    let found = match watch.all(|| outcome(&args, &session.bounds, &watch)) {
        Ok(Ok(found)) if found.format == Format::Raw => return Err(unsupported()),
        Ok(Ok(found)) => found,
        Ok(Err(_)) => return Err(unsupported()),
        Err(error) => {
            report::error(&error, &args.file);
            return Ok(report::code(&error, watch.caught()));
        }
    };
    let code = found.code();
    if code != report::OK {
        tell(&found);
    }
    let printed = match form {
        Output::Json => print_json(&found.numbers(&args)),
        Output::Human if given.has("quiet") => Ok(()),
        Output::Human => print(&found, &mut io::stdout().lock()),
    };
    Ok(code.max(report::printed(printed)))
}

/// What was found, on standard error as there, in our words.
fn tell(found: &Outcome) {
    let report = &found.report;
    // the numbers follow anyway
    let bad = report.findings.iter().filter(|finding| finding.code != Code::CheckError);
    let bad = bad.filter(|finding| {
        finding.code.severity() == Severity::Error || finding.code == Code::LeakedCluster
    });
    let refused = found.repaired.iter().flat_map(|repaired| &repaired.refused);
    for (how, finding) in bad.map(|bad| ("", bad)).chain(refused.map(|bad| ("not repaired: ", bad)))
    {
        let mut line = how.as_bytes().to_vec();
        // nothing fails that is written to memory
        let _ = print_finding(&mut line, finding);
        report::line(String::from_utf8_lossy(&line).trim_end());
    }
    if report.more_findings > 0 {
        report::line(&format!("... and {} more", report.more_findings));
    }
}

fn print(found: &Outcome, out: &mut impl Write) -> io::Result<()> {
    let report = &found.report;
    let fixed = found.repaired.as_ref().map(|fixed| (fixed.leaks_fixed, fixed.corruptions_fixed));
    if let Some((leaks, corruptions)) = fixed.filter(|fixed| *fixed != (0, 0)) {
        writeln!(
            out,
            "The following inconsistencies were found and repaired:\n\n    {leaks} leaked clusters\n    \
             {corruptions} corruptions\n\nDouble checking the fixed image now..."
        )?;
    }
    if report.is_clean() {
        writeln!(out, "No errors were found on the image.")?;
    }
    if report.corruptions > 0 {
        writeln!(
            out,
            "\n{} errors were found on the image.\n\
             Data may be corrupted, or further writes to the image may corrupt it.",
            report.corruptions
        )?;
    }
    if report.leaks > 0 {
        writeln!(
            out,
            "\n{} leaked clusters were found on the image.\n\
             This means waste of disk space, but no harm to data.",
            report.leaks
        )?;
    }
    if report.check_errors > 0 {
        writeln!(out, "\n{} internal errors have occurred during the check.", report.check_errors)?;
    }
    let number = |number: Option<u64>| number.unwrap_or(0);
    let (total, taken) = (number(report.total_clusters), number(report.allocated_clusters));
    if total > 0 && taken > 0 {
        let percent = |part: u64, of: u64| part as f64 * 100.0 / of as f64;
        writeln!(
            out,
            "{taken}/{total} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            percent(taken, total),
            percent(number(report.fragmented_clusters), taken),
            percent(number(report.compressed_clusters), taken),
        )?;
    }
    match report.image_end_offset {
        Some(end) if end > 0 => writeln!(out, "Image end offset: {end}"),
        _ => Ok(()),
    }
}
