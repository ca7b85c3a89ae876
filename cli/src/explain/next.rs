//! What to do with an image next: commands that can be pasted into a shell.

use std::path::{Path, PathBuf};

use diskimage::container::{Container, split_name};
use diskimage::format::Class;
use diskimage::layer::Reference;
use diskimage::{Code, Format};

use super::{Checked, Found};
use crate::lint::target_name;
use crate::report::quoted;

/// Something to do, and the command for it.
pub(super) struct Step {
    pub(super) why: String,
    pub(super) command: Option<String>,
}

impl Step {
    fn new(why: impl Into<String>, command: String) -> Self {
        Self { why: why.into(), command: Some(command) }
    }

    fn advice(why: impl Into<String>) -> Self {
        Self { why: why.into(), command: None }
    }
}

/// Formats of which something can be repaired.
const REPAIRED: &[Format] =
    &[Format::Qcow2, Format::Vhd, Format::Vhdx, Format::Vmdk, Format::Vdi, Format::Raw];

/// What to do with `file`, what is urgent first.
pub(super) fn steps(found: &Found, file: &Path, (is_forced, allowed): (bool, bool)) -> Vec<Step> {
    let (facts, name) = (&found.facts, quoted(file));
    let format = found.format();
    let has = |code: Code| facts.has(code);
    if found.is_container() {
        return of_container(found, file);
    }
    let mut steps = Vec::new();
    if has(Code::Polyglot) || has(Code::Ambiguous) {
        steps.push(Step::new(
            "Do not let a program guess what it is. If you know its maker, and what it is to be, \
             name the format, and see what that makes of it:",
            format!("diskimage info -f {format} {name}"),
        ));
        return steps;
    }
    if has(Code::NewlineMangled) {
        steps.push(Step::advice(
            "Get the file again, in binary mode: a transfer in text mode has changed its bytes, \
             and nothing brings them back.",
        ));
    } else if facts.truncated {
        steps.push(Step::advice("Get the file again: it was probably cut off on its way."));
    }
    if facts.encrypted {
        steps.push(Step::advice(
            "Decrypt it where its key is known (qemu-img takes the keys of QCOW2, cryptsetup those \
             of LUKS); this program has no use for keys.",
        ));
        return steps;
    }
    let is_lost = facts.truncated || has(Code::NewlineMangled);
    if format == Format::Raw && facts.matches.is_empty() && !is_forced {
        steps.push(Step::new(
            "If you know that it is a raw disk, say so:",
            format!("diskimage explain -f raw {name}"),
        ));
        return steps;
    }
    if let Some(report) = found.repairable().filter(|_| REPAIRED.contains(&format) && !is_lost) {
        let what = if report.corruptions > 0 { "all" } else { "leaks" };
        if split_name(file).1.is_none() {
            steps.push(Step::new(
                "See what a repair would write. It mends what can be proven; without --dry-run it \
                 is done, to be on the safe side in a copy:",
                format!("diskimage check --repair {what} --dry-run {name}"),
            ));
        }
    }
    let raw = quoted(&target(file, "raw", found));
    match &found.inner {
        Some(Ok(_)) => {}
        Some(Err(_)) if !facts.references.is_empty() && format == Format::Vdi => {
            // it knows its parent by a number only
            let parent = facts.references.iter().map(Reference::printable_name).next();
            let parent = parent.unwrap_or_default();
            steps.push(Step::advice(format!(
                "Find the image whose UUID is {parent}, and name it: --resolve {parent}=FILE."
            )));
            return steps;
        }
        Some(Err(error)) if !facts.references.is_empty() && allowed => {
            let advice = error.advice().map(|advice| format!(": {advice}")).unwrap_or_default();
            steps.push(Step::advice(format!(
                "Find the file that it needs, put it where it is looked for or name it with \
                 --resolve NAME=FILE{advice}."
            )));
            return steps;
        }
        Some(Err(_)) if !facts.references.is_empty() => {
            steps.push(Step::new(
                "If you trust what it names, and that lies in its folder, allow it to be opened:",
                format!("diskimage explain --allow-external {name}"),
            ));
            return steps;
        }
        Some(Err(_)) | None if found.description.is_some() => {
            steps.push(Step::new(
                "Save what can be read; what is lost is listed:",
                format!("diskimage convert --trust-broken --salvage {name} {raw}"),
            ));
            return steps;
        }
        Some(Err(error)) => {
            let advice = error.advice().unwrap_or("ask whoever made it for another copy");
            steps.push(Step::advice(super::sentence(advice)));
            return steps;
        }
        None => {
            steps.push(Step::advice("Ask whoever made it for another copy."));
            return steps;
        }
    }
    let allow = if facts.references.is_empty() { "" } else { "--allow-external " };
    let forced = if format == Format::Raw && facts.matches.is_empty() { "-f raw " } else { "" };
    let damaged = matches!(&found.check, Checked::Done(report)
        if report.corruptions > 0 || report.check_errors > 0);
    if damaged || facts.truncated {
        steps.push(Step::new(
            "Save what can be read; what is lost is listed:",
            format!("diskimage convert {allow}{forced}--salvage {name} {raw}"),
        ));
        return steps;
    }
    if format == Format::Raw {
        let small = quoted(&target(file, "qcow2", found));
        steps.push(Step::new(
            "Make a compressed image of it:",
            format!("diskimage convert {forced}-c -O qcow2 {name} {small}"),
        ));
    } else {
        steps.push(Step::new(
            "Write the disk out, as a file without any format:",
            format!("diskimage convert {allow}{name} {raw}"),
        ));
    }
    steps.push(Step::new(
        "See where its data lie:",
        format!("diskimage map --picture=- {allow}{forced}{name}"),
    ));
    if facts.references.is_empty() {
        steps.push(Step::new(
            "Hear what a cloud would refuse of it (azure, aws, gce, openstack, …):",
            format!("diskimage lint --for openstack {name}"),
        ));
    }
    steps
}

fn of_container(found: &Found, file: &Path) -> Vec<Step> {
    let facts = &found.facts;
    let name = quoted(file);
    if facts.error.is_some() || !Container::is_one(found.format()) {
        return vec![Step::advice(
            "Unpack it with the program that it is of, or get it again, and have what is inside \
             explained.",
        )];
    }
    // what is compressed stands for what is inside
    let direct: Vec<_> = facts.inside.iter().filter(|one| !one.name.is_empty()).collect();
    let mut steps = Vec::new();
    let is_disk = |format: Option<Format>| {
        format.is_some_and(|format| format.is_read() || format.class() != Class::Wrapper)
    };
    match &direct[..] {
        [] if facts.inside.is_empty() => {
            steps.push(Step::new("See what is in it:", format!("diskimage info {name}")));
        }
        [] | [_] => {
            steps.push(Step::new(
                "Write the disk inside out, as a file without any format:",
                format!("diskimage convert {name} {}", quoted(&target(file, "raw", found))),
            ));
        }
        many => {
            for one in many.iter().filter(|one| is_disk(one.facts.format)).take(4) {
                let mut member = file.as_os_str().to_owned();
                member.push("#");
                member.push(&*String::from_utf8_lossy(&one.name));
                let member = PathBuf::from(member);
                let member = quoted(&member);
                steps.push(Step::new(
                    "Have one of the disks inside explained:",
                    format!("diskimage explain {member}"),
                ));
            }
        }
    }
    steps.push(Step::new("Check it, and every disk inside:", format!("diskimage check {name}")));
    steps
}

/// A name beside the image for what is made of it.
fn target(file: &Path, extension: &str, found: &Found) -> PathBuf {
    let target = target_name(file, found.facts.format, extension);
    if target != file {
        return target;
    }
    let stem = file.file_stem().map_or_else(|| "disk".into(), std::ffi::OsStr::to_os_string);
    let mut name = stem;
    name.push("-copy.");
    name.push(extension);
    file.with_file_name(name)
}
