//! `diskimage inspect`: may an image pass?

use std::io::{self, Write};
use std::sync::Arc;

use diskimage::inspect::{Facts, Inspect, Verdict};
use diskimage::{Error, ErrorKind, Progress, Result};
use serde_json::{Value, json};

use crate::args::{InspectArgs, Output};
use crate::bar::above;
use crate::bounds::Bounds;
use crate::output::Documents;
use crate::report::worse;
use crate::several::Several;
use crate::size::sized;
use crate::watch::{Files, Watch};
use crate::{output, policy, report, style};

pub(crate) fn run(args: &InspectArgs, bounds: &Bounds) -> u8 {
    let count = 1 + args.more.len();
    let documents = Documents::of(count, args.output);
    let watch = Watch::reading(bounds.progress(), Files::of(count), count > 1);
    let code = watch.worst(args.each(), |index, args| {
        if index > 0 && args.output == Output::Human {
            // a reader that went away shows with the answer
            let _ = above(|| writeln!(io::stdout()));
        }
        judge(&args, bounds, &watch, &documents)
    });
    worse(code, report::printed(documents.end()))
}

fn judge(args: &InspectArgs, bounds: &Bounds, watch: &Watch, documents: &Documents) -> u8 {
    match watch.each(|| answer(args, bounds, &watch.progress)) {
        Ok((verdict, bytes)) => {
            let printed = above(|| match args.output {
                Output::Json => documents.print(&json(args, &verdict, bytes)),
                Output::Human => print(args, &verdict, bytes, &mut io::stdout().lock()),
            });
            let printed = report::printed(printed);
            if printed != report::OK || verdict.is_allowed() { printed } else { report::REFUSED }
        }
        Err(error) => report::fail(&error, &args.file),
    }
}

/// The verdict, and how many bytes were read where they came from standard input.
fn answer(
    args: &InspectArgs,
    bounds: &Bounds,
    progress: &Arc<Progress>,
) -> Result<(Verdict, Option<u64>)> {
    let policy = policy::read(&args.policy)?;
    let mut inspect =
        Inspect::new(policy).limits(bounds.limits(1).0).progress(Arc::clone(progress));
    if let Some(declared) = args.declared {
        inspect = inspect.declared(declared);
    }
    if let Some(format) = args.format {
        inspect = inspect.format(format);
    }
    if args.file.as_os_str() != "-" && !args.checksum.is_empty() {
        let what = "checksums of bytes are those of standard input";
        let error = Error::other(ErrorKind::InvalidInput, what);
        return Err(error.advise("give the file as standard input: diskimage inspect - <FILE"));
    }
    if args.file.as_os_str() != "-" {
        return Ok((inspect.file(&args.file)?, None));
    }
    for &algorithm in &args.checksum {
        inspect = inspect.algorithm(algorithm)?;
    }
    let (verdict, bytes) = inspect.read(io::stdin().lock())?;
    Ok((verdict, Some(bytes)))
}

fn json(args: &InspectArgs, verdict: &Verdict, bytes: Option<u64>) -> Value {
    let facts = &verdict.facts;
    let reasons = verdict
        .reasons
        .iter()
        .map(|reason| json!({ "rule": reason.rule, "sentence": reason.sentence }));
    let mut object = json!({
        "filename": output::text_of(args.file.as_os_str().as_encoded_bytes()),
        "allowed": verdict.is_allowed(),
        "policy": args.policy,
        "declared": args.declared.map(diskimage::Format::name),
        "reasons": reasons.collect::<Vec<_>>(),
    });
    tell(facts, &mut object);
    if let Some(bytes) = bytes {
        object["bytes-read"] = json!(bytes);
        object["whole"] = json!(!verdict.early);
        object["checksums"] = output::digests(&verdict.digests);
    }
    object
}

/// Adds the facts, and those of what lies inside.
fn tell(facts: &Facts, object: &mut Value) {
    let matches = facts.matches.iter().map(|found| {
        json!({
            "format": found.format.name(),
            "offset": found.offset,
            "evidence": found.evidence,
        })
    });
    let references = facts.references.iter().map(|reference| {
        json!({
            "role": reference.role.noun(),
            "names": reference.names.iter().map(|name| output::text_of(name)).collect::<Vec<_>>(),
            "format": reference.format.as_ref().map(|format| output::text_of(format)),
            "offset": reference.offset,
        })
    });
    let told = json!({
        "format": facts.format.map(diskimage::Format::name),
        "subformat": facts.subformat,
        "matches": matches.collect::<Vec<_>>(),
        "virtual-size": facts.virtual_size,
        "file-size": facts.file_size,
        "references": references.collect::<Vec<_>>(),
        "encrypted": facts.encrypted,
        "compressed": facts.compressed,
        "truncated": facts.truncated,
        "snapshots": facts.snapshots,
        "contents": contents(facts),
        "findings": output::findings(&facts.findings),
        "error": facts.error.as_ref().map(ToString::to_string),
        "unseen": facts.unseen.iter().map(|unseen| unseen.sentence()).collect::<Vec<_>>(),
    });
    for (key, value) in told.as_object().into_iter().flatten() {
        object[key] = value.clone();
    }
    if !facts.inside.is_empty() {
        let inside = facts.inside.iter().map(|inside| {
            let mut object = json!({ "name": output::text_of(&inside.name) });
            tell(&inside.facts, &mut object);
            object
        });
        object["inside"] = Value::Array(inside.collect());
    }
}

fn contents(facts: &Facts) -> Value {
    match &facts.start {
        Some(start) => json!({
            "formats": start.contents.iter().map(|format| format.name()).collect::<Vec<_>>(),
            "partition-table-problem": start.table_problem,
            "bootable": start.is_bootable(),
            "boot": {
                "boot-sector": start.boot.signature && start.boot.code,
                "active-partition": start.boot.active,
                "efi-system-partition": start.boot.efi_system,
                "el-torito": start.el_torito,
            },
        }),
        None => Value::Null,
    }
}

fn print(
    args: &InspectArgs,
    verdict: &Verdict,
    bytes: Option<u64>,
    out: &mut impl Write,
) -> io::Result<()> {
    let facts = &verdict.facts;
    let word = if verdict.is_allowed() { style::good("allowed") } else { style::bad("REFUSED") };
    writeln!(
        out,
        "{}: {word} by the policy '{}'",
        report::printable(&args.file),
        printable(&args.policy)
    )?;
    for reason in &verdict.reasons {
        writeln!(out, "    {} [{}]", reason.sentence, reason.rule)?;
    }
    let mut line = |key: &str, value: &str| writeln!(out, "{}{value}", style::key(key));
    let format = facts.format.map_or("unknown", diskimage::Format::name);
    let sort = facts.subformat.as_ref().map(|sort| format!(" ({})", printable(sort)));
    line("format", &format!("{format}{}", sort.unwrap_or_default()))?;
    let others = facts.matches.iter().map(|found| {
        format!("{} [{}], {}", found.format.description(), found.format, found.evidence)
    });
    line(
        "matches",
        &if facts.matches.is_empty() {
            "none".to_owned()
        } else {
            others.collect::<Vec<_>>().join("; ")
        },
    )?;
    line("virtual size", &facts.virtual_size.map_or("not known".to_owned(), sized))?;
    match bytes {
        Some(bytes) if verdict.early => line("read", &format!("{}, and no further", sized(bytes)))?,
        _ => line("file size", &sized(facts.file_size))?,
    }
    for reference in &facts.references {
        line("needs", &format!("the {} '{}'", reference.role.noun(), reference.printable_name()))?;
    }
    let flags = [
        (facts.encrypted, "encrypted"),
        (facts.compressed, "compressed"),
        (facts.truncated, "truncated"),
        (facts.snapshots > 0, "with internal snapshots"),
    ];
    let flags: Vec<_> = flags.iter().filter(|(yes, _)| *yes).map(|(_, word)| *word).collect();
    if !flags.is_empty() {
        line("data", &flags.join(", "))?;
    }
    for inside in inside_of(facts) {
        line("inside", &inside)?;
    }
    if let Some(start) = &facts.start
        && !start.contents.is_empty()
    {
        let names: Vec<_> = start.contents.iter().map(|format| format.description()).collect();
        line("contents", &names.join(", "))?;
    }
    if let Some(start) = &facts.start {
        let torito = if start.el_torito { "has what discs are booted by (El Torito)" } else { "" };
        let boot = start.boot.to_string();
        line("bootable look", if start.el_torito { torito } else { &boot })?;
    }
    for digest in &verdict.digests {
        line(digest.algorithm.name(), &digest.to_string())?;
    }
    for unseen in &facts.unseen {
        line("not seen", &unseen.sentence())?;
    }
    if !facts.findings.is_empty() {
        writeln!(out, "{}", style::heading("findings:"))?;
        for finding in &facts.findings {
            output::print_finding(finding, 4, out)?;
        }
    }
    Ok(())
}

/// What lies in it, and in that: an archive may be compressed.
fn inside_of(facts: &Facts) -> Vec<String> {
    let mut lines = Vec::new();
    for inside in &facts.inside {
        let format = inside.facts.format.map_or("unknown", diskimage::Format::name);
        let size = inside.facts.virtual_size.map(|size| format!(", {}", sized(size)));
        let name = match inside.name.is_empty() {
            true => String::new(),
            false => format!("'{}': ", diskimage::text::printable(&inside.name)),
        };
        lines.push(format!("{name}{format}{}", size.unwrap_or_default()));
        lines.extend(inside_of(&inside.facts));
    }
    lines
}

fn printable(text: &str) -> String {
    diskimage::text::printable_str(text)
}
