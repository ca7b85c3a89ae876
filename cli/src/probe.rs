//! `diskimage probe`: what files are.

use std::io::{self, Read, Write};
use std::path::Path;

use diskimage::format::Class;
use diskimage::format::probe::{HEAD, Probe, TAIL, probe, probe_bytes};
use diskimage::storage::FileStorage;
use diskimage::{Error, Format, Result};
use serde_json::{Value, json};

use crate::args::{Output, ProbeArgs};
use crate::{output, report};

pub(crate) fn run(args: &ProbeArgs) -> u8 {
    let mut code = report::OK;
    let mut answers = Vec::new();
    for file in &args.files {
        let found = if file.as_os_str() == "-" { probe_stdin() } else { probe_file(file) };
        match found {
            Err(error) => {
                report::error(&error, file);
                code = report::USAGE;
            }
            Ok(found) => {
                if found.matches.is_empty() {
                    code = code.max(report::ERROR);
                }
                match args.output {
                    Output::Json => answers.push(json(file, &found)),
                    Output::Human => {
                        let line = format!("{}: {}", report::printable(file), sentence(&found));
                        if let Err(error) = writeln!(io::stdout(), "{line}") {
                            return report::printed(Err(error)).max(code);
                        }
                    }
                }
            }
        }
    }
    if args.output == Output::Json {
        code = code.max(report::printed(output::print_json(&Value::Array(answers))));
    }
    code
}

fn probe_file(path: &Path) -> Result<Probe> {
    probe(&FileStorage::open(path)?).map_err(|error| error.in_file(path))
}

/// Standard input is read as far as needed; its end is known only where it is short.
fn probe_stdin() -> Result<Probe> {
    let mut head = Vec::new();
    let limit = HEAD as u64 + 1;
    let read = io::stdin().lock().take(limit).read_to_end(&mut head);
    read.map_err(|error| Error::io("read standard input", error))?;
    let whole = head.len() as u64 != limit;
    let tail = &head[head.len().saturating_sub(TAIL)..];
    Ok(probe_bytes(&head, whole.then_some((tail, head.len() as u64))))
}

fn json(file: &Path, found: &Probe) -> Value {
    let matches = found.matches.iter().map(|m| {
        json!({
            "format": m.format.name(),
            "description": m.format.description(),
            "class": class(m.format),
            "read": m.format.is_read(),
            "offset": m.offset,
            "evidence": m.evidence,
        })
    });
    let images: Vec<_> = found.images().collect();
    let format = match &images[..] {
        [only] => Some(only.format.name()),
        [] if found.is_raw_disk() => Some(Format::Raw.name()),
        [] => found.matches.first().map(|m| m.format.name()),
        _ => None,
    };
    json!({
        "filename": output::text_of(file.as_os_str().as_encoded_bytes()),
        "format": format,
        "matches": matches.collect::<Vec<_>>(),
        "findings": output::findings(&found.findings()),
    })
}

fn class(format: Format) -> &'static str {
    match format.class() {
        Class::Image => "image",
        Class::Content => "content",
        Class::Wrapper => "wrapper",
    }
}

/// One line on all that fits.
fn sentence(found: &Probe) -> String {
    if found.matches.is_empty() {
        return "unknown: no known signature (a raw disk may have none either)".into();
    }
    let one = |m: &diskimage::format::probe::Match| {
        format!("{} [{}], {}", m.format.description(), m.format.name(), m.evidence)
    };
    let all: Vec<_> = found.matches.iter().map(one).collect();
    let prefix = if found.is_raw_disk() { "raw disk: " } else { "" };
    let warning = if found.images().count() > 1 { "MORE THAN ONE FORMAT FITS: " } else { "" };
    format!("{warning}{prefix}{}", all.join("; also "))
}
