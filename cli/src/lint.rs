//! `diskimage lint`: what a platform would refuse of images.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskimage::platform::{Lint, Platform, Remedy, Report, Source};
use diskimage::{Format, Progress, Result};
use serde_json::{Value, json};

use crate::args::{Output, parse_format};
use crate::bar::above;
use crate::bounds::Bounds;
use crate::package::parse_platform;
use crate::report::{quoted, worse};
use crate::suggest::{self, named};
use crate::watch::{Files, Watch};
use crate::{output, report, style};

/// The exit codes of `lint`, for its help.
pub(crate) const LINT_EXIT_CODES: &str = "\
Exit codes: 0 nothing was found that the platform would refuse, 3 refused (any of the files), 1 an \
error: nothing can be said of a file. No other file is opened, whatever an image names.

The rules are from the platforms' documentation, which is named beside each. Whether a machine starts \
from the disk (drivers, boot loader, agents) is not looked at.

Platforms: openstack, kvm, azure, aws, gce, vsphere, hyperv, virtualbox, proxmox.

Examples:
    diskimage lint --for azure disk.vhd
    diskimage lint --for openstack --output json *.qcow2";

#[derive(Debug, clap::Args)]
pub(crate) struct LintArgs {
    /// Where the images are to be taken to
    #[arg(long = "for", value_name = "PLATFORM", value_parser = named(parse_platform, suggest::platforms), hide_possible_values = true)]
    pub(crate) platform: Platform,
    /// The images, or FILE#MEMBER in an archive
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Takes the images for this format instead of detecting it
    #[arg(short, long, value_name = "FORMAT", value_parser = named(parse_format, suggest::formats), hide_possible_values = true)]
    pub(crate) format: Option<Format>,
    /// The form of the answer
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) output: Output,
}

pub(crate) fn run(args: &LintArgs, bounds: &Bounds) -> u8 {
    let count = args.files.len();
    let prints = count > 1 && args.output == Output::Human;
    let watch = Watch::reading(bounds.progress(), Files::of(count), prints);
    let mut told = Vec::new();
    let mut code = watch.all(|| look_at_all(args, bounds, &watch, &mut told));
    if code == report::TIMED_OUT {
        return code;
    }
    if args.output == Output::Json {
        let platform = args.platform;
        let answer = json!({ "platform": platform.name(), "files": told });
        code = worse(code, report::printed(output::print_json(&answer)));
    }
    code
}

/// Prints what is found, or tells it for programs.
fn look_at_all(args: &LintArgs, bounds: &Bounds, watch: &Watch, told: &mut Vec<Value>) -> u8 {
    let mut code = report::OK;
    for file in &args.files {
        match watch.each(|| look(args, file, bounds, &watch.progress)) {
            Ok(found) => {
                let own = if found.is_refused() { report::REFUSED } else { report::OK };
                code = worse(code, own);
                match args.output {
                    Output::Json => told.push(object(file, &found)),
                    Output::Human => {
                        let printed = above(|| print(file, &found, &mut io::stdout().lock()));
                        code = worse(code, report::printed(printed));
                    }
                }
            }
            Err(error) => {
                code = worse(code, report::fail(&error, file));
                if code == report::TIMED_OUT {
                    break;
                }
            }
        }
    }
    code
}

fn look(args: &LintArgs, file: &Path, bounds: &Bounds, progress: &Arc<Progress>) -> Result<Report> {
    let mut lint =
        Lint::new(args.platform).limits(bounds.limits(1).0).progress(Arc::clone(progress));
    if let Some(format) = args.format {
        lint = lint.format(format);
    }
    lint.file(file)
}

fn object(file: &Path, found: &Report) -> Value {
    let problems = found.problems.iter().map(|problem| {
        let source = |source: &Source| json!({ "title": source.title, "url": source.url });
        json!({
            "rule": problem.rule,
            "refused": problem.refused,
            "sentence": problem.sentence,
            "source": problem.source.map(source),
            "fix": fix_of(found.platform, file, problem.remedy, &found.facts.format),
        })
    });
    json!({
        "filename": output::text_of(file.as_os_str().as_encoded_bytes()),
        "refused": found.is_refused(),
        "format": found.facts.format.map(Format::name),
        "subformat": found.facts.subformat,
        "virtual-size": found.facts.virtual_size,
        "problems": problems.collect::<Vec<_>>(),
    })
}

fn print(file: &Path, found: &Report, out: &mut impl Write) -> io::Result<()> {
    let (name, title) = (report::printable(file), found.platform.title());
    if found.problems.is_empty() {
        return writeln!(out, "{name}: nothing was found that {title} would refuse");
    }
    let word = match found.is_refused() {
        true => style::bad("REFUSED"),
        false => style::heading("taken, not for every use,"),
    };
    writeln!(out, "{name}: {word} by {title}")?;
    let mut fixes: Vec<String> = Vec::new();
    for problem in &found.problems {
        let sentence = diskimage::text::printable_str(&problem.sentence);
        writeln!(out, "    {sentence} [{}]", problem.rule)?;
        if let Some(source) = problem.source {
            writeln!(out, "        {}: {}", source.title, source.url)?;
        }
        // a note is no reason to do anything
        let fix = fix_of(found.platform, file, problem.remedy, &found.facts.format);
        if problem.refused && !fixes.contains(&fix) {
            // what no conversion mends comes before one
            match problem.remedy {
                Remedy::Other(_) => fixes.insert(0, fix),
                _ => fixes.push(fix),
            }
        }
    }
    for fix in fixes {
        writeln!(out, "    to do: {fix}")?;
    }
    Ok(())
}

/// What mends it: a command where there is one.
fn fix_of(platform: Platform, file: &Path, remedy: Remedy, format: &Option<Format>) -> String {
    let others = match remedy {
        Remedy::Other(words) => return words.to_owned(),
        Remedy::ConvertWithOthers => "--allow-external ",
        _ => "",
    };
    let Some(preset) = platform.preset(None) else { return String::new() };
    let target = target_name(file, *format, preset.extension);
    // it must not be the file that is read
    let target = if target == file {
        file.with_file_name(format!("{platform}.{}", preset.extension))
    } else {
        target
    };
    format!("diskimage convert --for {platform} {others}{} {}", quoted(file), quoted(&target))
}

/// A name beside `file` for what is made of it, with another extension.
pub(crate) fn target_name(file: &Path, format: Option<Format>, extension: &str) -> PathBuf {
    // what lies in an archive is written beside it
    let (outer, member) = diskimage::container::split_name(file);
    let member = member.map(|name| String::from_utf8_lossy(&name).into_owned());
    let own = member.as_deref().map_or(file, Path::new);
    let mut target = own.file_stem().map_or_else(|| "disk".into(), std::ffi::OsStr::to_os_string);
    // what was x.tar.gz
    if let Some(inner) = Path::new(&target).file_stem().filter(|_| format == Some(Format::Gzip)) {
        target = inner.to_os_string();
    }
    target.push(".");
    target.push(extension);
    outer.with_file_name(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fix_can_be_pasted_into_a_shell() {
        let fix = |name: &str, format| {
            fix_of(Platform::Azure, Path::new(name), Remedy::Convert, &Some(format))
        };
        assert_eq!(
            fix("dir/a.qcow2", Format::Qcow2),
            "diskimage convert --for azure dir/a.qcow2 dir/a.vhd"
        );
        assert_eq!(
            fix("my disk's.vhd", Format::Vhd),
            r"diskimage convert --for azure 'my disk'\''s.vhd' azure.vhd"
        );
        assert_eq!(
            fix("-f.tar.gz", Format::Gzip),
            "diskimage convert --for azure ./-f.tar.gz ./-f.vhd"
        );
    }
}
