//! `qemu-img snapshot`: the list, and snapshots of QCOW2 images made, applied and deleted in place.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use diskimage::format::qcow2::SnapshotChange;
use diskimage::layer::Snapshot;
use diskimage::text::printable;
use diskimage::{Format, Layer, OpenOptions, Result};
use serde_json::Value;

use super::getopt::Given;
use super::resize::detect;
use super::size::human;
use super::{Failure, Session, failed, in_place, one_file, source};
use crate::args::{Command, InfoArgs, OpenArgs, Output};
use crate::deferred::Deferred;
use crate::info::{date, options, snapshot_json};
use crate::report;

pub(super) fn run(session: &Session, given: &Given) -> std::result::Result<u8, Failure> {
    let asked = ["list", "create", "apply", "delete"].into_iter().filter(|name| given.has(name));
    let asked: Vec<_> = asked.collect();
    if asked.len() > 1 {
        return Err(Failure::usage("snapshot", "Cannot mix '-l', '-a', '-c', '-d'"));
    }
    let file = one_file("snapshot", given)?;
    if let Some(&what) = asked.first().filter(|what| **what != "list") {
        return change(session, given, file, what);
    }
    let image = source::existing(given, file, "format", "image-opts")?;
    let unknown = image.unknown();
    let args = InfoArgs {
        open: source::open_args(given, image.format)?,
        file: image.path,
        more: Vec::new(),
        backing_chain: false,
        contents: false,
        output: Output::Human,
    };
    let mut command = Command::Info(Deferred(args));
    session.begin(&mut command, unknown)?;
    let Command::Info(Deferred(args)) = command else { return Ok(report::USAGE) };
    let found = options(&args, &session.bounds, &session.bounds.progress())
        .and_then(|options| of_image(&options, &args.file));
    let found: Vec<_> = match found {
        Ok(found) => found.iter().map(snapshot_json).collect(),
        Err(error) => return Ok(failed(&error, &args.file)),
    };
    if found.is_empty() {
        return Ok(report::OK);
    }
    Ok(report::printed(print(&found, &mut io::stdout().lock())))
}

/// Creates, applies or deletes the snapshot that is named.
fn change(
    session: &Session,
    given: &Given,
    file: &OsStr,
    what: &str,
) -> std::result::Result<u8, Failure> {
    let name = given.last(what).unwrap_or_default().as_encoded_bytes();
    let shown = printable(name);
    let fail = |why: &str| Failure::new(format!("Could not {what} snapshot '{shown}': {why}"));
    if given.has("force-share") {
        let text = "force-share=on can only be used with read-only images";
        return Err(Failure::open(&printable(file.as_encoded_bytes()), text));
    }
    let image = source::existing(given, file, "format", "image-opts")?;
    let unknown = image.unknown();
    let path = &*image.path;
    session.begin_change(&source::open_args(given, image.format)?, path, unknown)?;
    let format = match image.format.map_or_else(|| detect(path), Ok) {
        Ok(format) => format,
        Err(error) => return Ok(failed(&error, path)),
    };
    if format != Format::Qcow2 {
        return Err(fail(match what {
            "create" => "Operation not supported",
            "apply" => "Block driver does not support snapshots",
            _ => "snapshot not found",
        }));
    }
    let changed = in_place::snapshots(session, path, |layer| {
        let snapshots = layer.describe().map(|description| description.snapshots);
        let snapshots = snapshots.unwrap_or_default();
        let named = snapshots.iter().find(|snapshot| snapshot.name == name);
        match what {
            "create" => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Ok(SnapshotChange::Create {
                    // qemu-img cuts longer names off, too
                    name: name[..name.len().min(255)].to_owned(),
                    date_sec: u32::try_from(now.as_secs()).unwrap_or(u32::MAX),
                    date_nsec: now.subsec_nanos(),
                })
            }
            "apply" => {
                let by_id = snapshots.iter().any(|snapshot| snapshot.id == name);
                if !by_id && named.is_none() {
                    return Err(fail("Failed to load snapshot: No such file or directory"));
                }
                Ok(SnapshotChange::Apply(name.to_owned()))
            }
            _ => match named {
                Some(snapshot) => Ok(SnapshotChange::Delete(snapshot.id.clone())),
                None => Err(fail("snapshot not found")),
            },
        }
    })?;
    Ok(changed.map_or_else(|error| failed(&error, path), |()| report::OK))
}

fn of_image(options: &OpenOptions, path: &Path) -> Result<Vec<Snapshot>> {
    let image = options.open_image(path)?;
    let description = image.layer().describe().map_err(|error| error.in_file(path))?;
    Ok(description.snapshots)
}

/// The identifier, or else the name, that `-l` of other commands means: it is the word itself, or
/// `snapshot.id=…` and `snapshot.name=…`, of which one or both are given.
pub(super) fn named(
    session: &Session,
    parameter: &str,
    open: &OpenArgs,
    path: &Path,
) -> std::result::Result<std::ffi::OsString, Failure> {
    if !parameter.starts_with("snapshot.") {
        return Ok(parameter.into());
    }
    session.not_in_sandbox("a snapshot by snapshot.id or snapshot.name")?;
    let (mut id, mut name) = (None, None);
    for part in parameter.split(',') {
        match part.split_once('=') {
            Some(("snapshot.id", value)) => id = Some(value.as_bytes()),
            Some(("snapshot.name", value)) => name = Some(value.as_bytes()),
            _ => {
                let key = part.split('=').next().unwrap_or_default();
                return Err(Failure::new(format!(
                    "Failed in parsing snapshot param '{parameter}': Invalid parameter '{key}'"
                )));
            }
        }
    }
    let found = open.options(path).and_then(|options| of_image(&options, path));
    let found = found.map_err(|error| Failure::open(&report::printable(path), error))?;
    let fits = |snapshot: &&Snapshot| {
        id.is_none_or(|id| snapshot.id == id) && name.is_none_or(|name| snapshot.name == name)
    };
    let missing = || Failure::new("Failed to load snapshot: Can't find snapshot");
    let found = found.iter().find(fits).ok_or_else(missing)?;
    Ok(super::getopt::os(&found.id))
}

/// The table that `info` shows too.
pub(super) fn print(snapshots: &[Value], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "Snapshot list:")?;
    writeln!(
        out,
        "{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}",
        "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"
    )?;
    for snapshot in snapshots {
        let number = |name: &str| snapshot[name].as_u64().unwrap_or_default();
        let text = |name: &str| printable(snapshot[name].as_str().unwrap_or_default().as_bytes());
        let clock = number("vm-clock-sec");
        let clock = format!(
            "{:04}:{:02}:{:02}.{:03}",
            clock / 3600,
            clock / 60 % 60,
            clock % 60,
            number("vm-clock-nsec") / 1_000_000
        );
        let icount = snapshot["icount"].as_u64().map_or("--".into(), |count| count.to_string());
        writeln!(
            out,
            "{:<7} {:<16} {:>8} {:>19} {clock:>15} {icount:>10}",
            text("id"),
            text("name"),
            human(number("vm-state-size")),
            date(number("date-sec")),
        )?;
    }
    Ok(())
}
