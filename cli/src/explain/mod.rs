//! `diskimage explain`: what an image is, in sentences. Only what was looked at is spoken of.

mod inside;
mod next;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diskimage::container::Container;
use diskimage::format::Class;
use diskimage::inspect::{Facts, Inspect, Policy};
use diskimage::layer::{Description, Value};
use diskimage::{
    CheckReport, Checking, Code, Error, ErrorKind, Finding, Format, Image, OpenOptions, Progress,
    Result, Severity,
};

use crate::args::OpenArgs;
use crate::bar::above;
use crate::bounds::Bounds;
use crate::size::{human_size, sized};
use crate::style::{heading, severity, text_width, wrapped};
use crate::watch::{Files, Signals, Watch, automatic};
use crate::{info, report};
use inside::Inner;

/// The exit codes of `explain`, for its help.
pub(crate) const EXPLAIN_HELP: &str = "\
Exit codes: 0 all files are explained, whatever is wrong with them; 1 an error: nothing can be said \
of a file. No other file is opened unless it is allowed (--allow-external).

Examples:
    diskimage explain cloud.qcow2
    diskimage explain appliance.ova disk.vmdk";

/// So many things that are wrong are told; `check` tells all.
const MOST: usize = 12;
const MOST_OF_EACH: usize = 3;

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// The images, or FILE#MEMBER in an archive
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
    /// Threads [default: one for each processor]
    #[arg(short = 'm', long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Keeps what the process could do; without this it gives up all but reading the images, where
    /// the system can do that
    #[arg(long, conflicts_with = "sandbox")]
    pub(crate) no_sandbox: bool,
}

pub(crate) fn run(args: &ExplainArgs, bounds: &Bounds) -> u8 {
    let count = args.files.len();
    let (show, files) = (automatic(count > 1), Files::of(count));
    let watch = Watch::new(show, Signals::catch(true), bounds.progress(), files);
    watch.all(|| explain_all(args, bounds, &watch))
}

fn explain_all(args: &ExplainArgs, bounds: &Bounds, watch: &Watch) -> u8 {
    let mut code = report::OK;
    for (index, file) in args.files.iter().enumerate() {
        let run = Run { args, bounds, file, progress: &watch.progress };
        match watch.each(|| run.look()) {
            Ok(found) => {
                let printed = above(|| run.print(&found, index > 0, &mut io::stdout().lock()));
                code = code.max(report::printed(printed));
            }
            Err(error) => {
                report::error(&error, file);
                if let Some(code) = report::stop_code(&error, watch.caught()) {
                    return code;
                }
                code = report::ERROR;
            }
        }
    }
    code
}

struct Run<'a> {
    args: &'a ExplainArgs,
    bounds: &'a Bounds,
    file: &'a Path,
    progress: &'a Arc<Progress>,
}

/// What is known of a file.
struct Found {
    facts: Facts,
    /// What an image says of itself; `None` of what is none, or cannot be opened.
    description: Option<Description>,
    /// What the file takes up.
    allocated: Option<u64>,
    check: Checked,
    /// What lies on the disk; an error if nobody could look.
    inner: Option<Result<Inner>>,
}

/// What came of the check.
enum Checked {
    Done(CheckReport),
    /// There is nothing in this format to check.
    Nothing,
    /// The image could not be opened.
    Not,
}

/// Whether it says nothing of the image.
fn is_outer(error: &Error) -> bool {
    error.kind() == ErrorKind::Io || error.kind().is_stop()
}

impl Run<'_> {
    fn options(&self) -> Result<OpenOptions> {
        let options = self.args.open.options(self.file)?.limits(self.bounds.limits(1).0);
        Ok(options.progress(Arc::clone(self.progress)))
    }

    /// An error is the environment's: what is wrong with the image is part of the answer.
    fn look(&self) -> Result<Found> {
        let mut inspect = Inspect::new(Policy::permissive())
            .limits(self.bounds.limits(1).0)
            .progress(Arc::clone(self.progress));
        if let Some(format) = self.args.open.format {
            inspect = inspect.format(format);
        }
        let facts = inspect.file(self.file)?.facts;
        let mut found =
            Found { facts, description: None, allocated: None, check: Checked::Not, inner: None };
        if found.is_container() {
            return Ok(found);
        }
        let options = self.options()?;
        let image = match options.open_image(self.file) {
            Err(error) if is_outer(&error) => return Err(error),
            // what is broken is looked at all the same
            Err(_) => options.clone().trust_broken(true).open_image(self.file).ok(),
            Ok(image) => Some(image),
        };
        if let Some(image) = image {
            found.allocated = image.storage().allocated_size();
            found.description = image.layer().describe().ok();
            found.check = self.check(&image)?;
        }
        let inner = options.open(self.file).and_then(|disk| Inner::look(&disk, self.progress));
        found.inner = match inner {
            Err(error) if error.kind().is_stop() => return Err(error),
            // the file itself was read; that another one is missing is part of the answer
            Err(error) if is_outer(&error) && found.facts.references.is_empty() => {
                return Err(error);
            }
            other => Some(other),
        };
        self.progress.check()?;
        Ok(found)
    }

    /// Whether the format was named, or is to be taken for raw, and whether other files are opened.
    fn trusts(&self) -> (bool, bool) {
        let open = &self.args.open;
        (
            open.format.is_some() || open.assume_raw,
            open.allow_external.is_some() || !open.resolve.is_empty(),
        )
    }

    fn check(&self, image: &Image) -> Result<Checked> {
        let threads = self.args.threads.unwrap_or(NonZeroUsize::MIN);
        let checking = Checking::new()
            .threads(threads)
            .max_memory(self.bounds.memory_for_check())
            .progress(Arc::clone(self.progress));
        match image.check(checking) {
            Ok(report) => Ok(Checked::Done(report)),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(Checked::Nothing),
            Err(error) if is_outer(&error) => Err(error),
            Err(_) => Ok(Checked::Not),
        }
    }

    fn print(&self, found: &Found, is_next: bool, out: &mut impl Write) -> io::Result<()> {
        if is_next {
            writeln!(out)?;
        }
        writeln!(out, "{}", heading(report::printable(self.file)))?;
        let mut section = |title: &str, paragraphs: &[String]| -> io::Result<()> {
            writeln!(out, "\n{}", heading(title))?;
            paragraphs
                .iter()
                .try_for_each(|text| writeln!(out, "{}", wrapped(text, text_width(), "    ")))
        };
        section("What it is", &found.what())?;
        if !found.is_container() {
            section("Who made it", &[found.maker()])?;
            section("What it needs", &found.needs())?;
        }
        section("What is inside", &found.inside())?;
        section("Whether it is whole", &found.whole())?;
        let wrong = found.wrong();
        section("What is wrong or odd", &[])?;
        if wrong.is_empty() {
            writeln!(out, "    Nothing that was seen.")?;
        }
        let shown = some_of_each(&wrong);
        for finding in &shown {
            let at = finding.offset.map(|at| format!(" (at offset {at:#x})")).unwrap_or_default();
            let word = finding.code.severity();
            let text =
                wrapped(&format!("{word}: {}{at}", finding.message), text_width() - 2, "      ");
            // the word has its colour where the line has been cut to its length
            let rest = text.trim_start().strip_prefix(word.as_str()).unwrap_or_default();
            writeln!(out, "    - {}{rest}", severity(word))?;
        }
        if wrong.len() > shown.len() {
            writeln!(
                out,
                "    … and {} more, which `diskimage check` lists",
                wrong.len() - shown.len()
            )?;
        }
        writeln!(out, "\n{}", heading("What to do next"))?;
        for step in next::steps(found, self.file, self.trusts()) {
            writeln!(out, "{}", wrapped(&step.why, text_width(), "    "))?;
            if let Some(command) = step.command {
                writeln!(out, "        {command}")?;
            }
        }
        Ok(())
    }
}

/// The first ones of each code, and not too many of all.
fn some_of_each(findings: &[Finding]) -> Vec<&Finding> {
    let mut counts = BTreeMap::<Code, usize>::new();
    let few = findings.iter().filter(|finding| {
        let count = counts.entry(finding.code).or_default();
        *count += 1;
        *count <= MOST_OF_EACH
    });
    few.take(MOST).collect()
}

/// `description` with its article.
fn with_article(description: &str) -> String {
    let spelt = ["MBR", "XFS", "NTFS", "FAT", "F2FS", "HFS", "LVM", "LZ4", "xz"];
    let vowel = description.starts_with(|c: char| "aeioAEIO".contains(c));
    let an = vowel || spelt.iter().any(|name| description.starts_with(name));
    format!("{} {description}", if an { "an" } else { "a" })
}

/// With a capital.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().into_iter().flat_map(char::to_uppercase);
    let text: String = first.chain(chars).collect();
    if text.ends_with(['.', '!', '?', ':']) { text } else { format!("{text}.") }
}

/// `3 things`, `1 thing`.
fn counted(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

impl Found {
    fn format(&self) -> Format {
        self.facts.format.unwrap_or(Format::Raw)
    }

    fn is_container(&self) -> bool {
        let format = self.format();
        Container::is_one(format) || format == Format::Vma || format.class() == Class::Wrapper
    }

    fn detail(&self, key: &str) -> Option<&Value> {
        let details = &self.description.as_ref()?.details;
        details.iter().find_map(|(name, value)| (*name == key).then_some(value))
    }

    fn text(&self, key: &str) -> Option<String> {
        match self.detail(key)? {
            Value::Text(text) => Some(diskimage::text::printable_str(text)),
            _ => None,
        }
    }

    fn what(&self) -> Vec<String> {
        let facts = &self.facts;
        let images: Vec<_> =
            facts.matches.iter().filter(|m| m.format.class() == Class::Image).collect();
        let format = self.format();
        let sort = facts.subformat.as_ref().map(|sort| diskimage::text::printable_str(sort));
        let sort = match (format, sort.as_deref()) {
            (Format::Qcow2, Some("0.10")) => " of version 2 (compat 0.10)".to_owned(),
            (Format::Qcow2, Some("1.1")) => " of version 3 (compat 1.1)".to_owned(),
            (_, Some(sort)) => format!(" of the sort '{sort}'"),
            (_, None) => String::new(),
        };
        let contents: Vec<_> = facts.matches.iter().map(|m| m.format).collect();
        let first = if format == Format::Raw && images.is_empty() {
            match contents.first() {
                None => {
                    "Nothing in its bytes tells what it is. It may be a raw disk that is empty \
                         or encrypted, or no disk at all; it is looked at as a raw disk."
                        .to_owned()
                }
                Some(first) => format!(
                    "It is a raw disk: its bytes are those of the disk. {} shows that.",
                    sentence(&with_article(first.description())).trim_end_matches('.')
                ),
            }
        } else {
            let names: Vec<_> =
                images.iter().map(|m| m.format).filter(|other| *other != format).collect();
            let others = names.iter().map(|other| with_article(other.description()));
            let others = others.collect::<Vec<_>>().join(" and ");
            let also = if names.is_empty() {
                String::new()
            } else {
                format!(" It is {others} too: what is read depends on who reads it.")
            };
            let what = if format == Format::Raw {
                "taken for a raw disk".to_owned()
            } else {
                with_article(format.description())
            };
            format!("It is {what}{sort}.{also}")
        };
        let mut file = format!("The file is {} long", sized(facts.file_size));
        if let Some(allocated) = self.allocated.filter(|&size| size < facts.file_size) {
            file.push_str(&format!(
                ", of which {} take up room on its medium",
                human_size(allocated)
            ));
        }
        let mut second = match facts.virtual_size {
            Some(size) => format!("The disk that a guest sees has {}. {file}.", sized(size)),
            None if self.is_container() => format!("{file}."),
            None => format!("How large its disk is cannot be told. {file}."),
        };
        if let Some(Ok(inner)) = &self.inner {
            second.push(' ');
            second.push_str(&inner.usage());
        }
        let mut told = vec![first, second];
        if facts.snapshots > 0 {
            told.push(format!(
                "It holds {}: older states of the disk, which travel with it.",
                counted(facts.snapshots as u64, "internal snapshot")
            ));
        }
        told
    }

    /// What the file says of who made it; nothing proves that.
    fn maker(&self) -> String {
        let silent = || "The file does not say; this format has no place for it.".to_owned();
        let Some(description) = &self.description else {
            return "That cannot be told: the image could not be opened.".to_owned();
        };
        let named = |name: &str| format!("It says '{name}' of itself, which nothing proves.");
        let told = match self.format() {
            Format::Vhd => self.vhd_maker(),
            Format::Vdi | Format::Vhdx => {
                self.text("creator").filter(|name| !name.is_empty()).map(|name| named(&name))
            }
            Format::Vmdk => self.text("hw-version").map(|version| {
                format!(
                    "The file does not say who made it; it is meant for virtual hardware of \
                     VMware's version {version}."
                )
            }),
            _ => return silent(),
        };
        let _ = description;
        told.unwrap_or_else(|| "The file does not say.".to_owned())
    }

    fn vhd_maker(&self) -> Option<String> {
        let name = self.text("creator-application").filter(|name| !name.is_empty())?;
        let program = match &*name {
            "vpc" => " (Microsoft Virtual PC)",
            "vs" => " (Microsoft Virtual Server)",
            "win" => " (Windows or Hyper-V)",
            "qemu" | "qem2" => " (QEMU)",
            "vbox" => " (VirtualBox)",
            "tap" => " (Xen)",
            "d2v" => " (Disk2vhd)",
            _ => "",
        };
        let version = self.text("creator-version").unwrap_or_default();
        let when = match self.detail("creation-time") {
            Some(Value::Number(seconds)) => format!(", on {} (UTC)", info::date(*seconds)),
            _ => String::new(),
        };
        Some(format!(
            "Its footer names the program '{name}'{program}, version {version}{when}. Nothing proves \
             that."
        ))
    }

    fn needs(&self) -> Vec<String> {
        let mut told = Vec::new();
        for reference in &self.facts.references {
            let format = reference.format.as_ref().map(|format| {
                format!(", said to be in the format '{}'", diskimage::text::printable(format))
            });
            let seen = match &self.inner {
                Some(Ok(_)) => "It was found and opened.",
                _ => "It was not looked at.",
            };
            told.push(format!(
                "It needs the {} '{}'{}: without that its disk is not whole. {seen}",
                reference.role.noun(),
                reference.printable_name(),
                format.unwrap_or_default(),
            ));
        }
        if self.facts.encrypted {
            told.push("It needs a key: the guest's data are encrypted.".to_owned());
        }
        if self.text("compression-type").as_deref() == Some("zstd") {
            told.push("Its reader must know zstd: QEMU does since version 5.1.".to_owned());
        }
        if self.detail("extended-l2") == Some(&Value::Bool(true)) {
            told.push("Its reader must know subclusters: QEMU does since version 5.2.".to_owned());
        }
        if self.description.is_none() {
            told.push("More cannot be told: the image could not be opened.".to_owned());
        } else if told.is_empty() {
            told.push("It names no other file and asks for no key: it stands alone.".to_owned());
        }
        told
    }

    fn inside(&self) -> Vec<String> {
        if self.is_container() {
            return inside::of_container(&self.facts);
        }
        match &self.inner {
            Some(Ok(inner)) => inner.sentences(),
            Some(Err(error)) => {
                let advice = error.advice().map(|a| format!("; {a}")).unwrap_or_default();
                let error = format!("{error}{advice}");
                vec![
                    "Nobody could look, since the disk cannot be read. The reason that was met:"
                        .to_owned(),
                    diskimage::text::printable_str(&error),
                ]
            }
            None => vec!["Nobody could look.".to_owned()],
        }
    }

    fn whole(&self) -> Vec<String> {
        if self.is_container() {
            let mut told = vec![match &self.facts.error {
                Some(_) => "It could not be read to its end.".to_owned(),
                None => "What is around the disks could be read. Checksums, and the disks \
                         themselves, were not checked."
                    .to_owned(),
            }];
            told.extend(self.facts.unseen.iter().map(diskimage::inspect::Unseen::sentence));
            return told;
        }
        let others = match self.facts.references.is_empty() {
            true => "",
            false => " The other files that it needs were not checked.",
        };
        let first = match &self.check {
            Checked::Not => "It was not checked: it could not be opened for that.".to_owned(),
            Checked::Nothing => {
                "That was not checked: there is nothing in this format to check it by.".to_owned()
            }
            Checked::Done(report) if report.is_clean() => format!(
                "{} and no error was found. What the guest wrote was not judged.{others}",
                match self.format() {
                    Format::Raw => "What there is of partition tables was checked,",
                    _ => "Its headers and tables were checked,",
                }
            ),
            Checked::Done(report) => {
                let mut found = Vec::new();
                if report.corruptions > 0 {
                    found.push(counted(report.corruptions, "error"));
                }
                if report.leaks > 0 {
                    found.push(format!(
                        "{} (they take up room, and harm nothing else)",
                        counted(report.leaks, "leaked cluster")
                    ));
                }
                if report.check_errors > 0 {
                    found.push(format!(
                        "{} that could not be read",
                        counted(report.check_errors, "structure")
                    ));
                }
                format!("It is not as it should be. A check found {}.{others}", found.join(", "))
            }
        };
        let mut told = vec![first];
        if self.facts.truncated {
            told.push("It is cut off: the file ends before what it speaks of.".to_owned());
        }
        if let Some(error) = self.facts.error.as_ref().filter(|_| self.inner.is_none()) {
            told.push(sentence(&format!("Its disk cannot be read: {error}")));
        }
        told
    }

    /// What is wrong or odd, the worst first; what was told as what it needs is not told again.
    fn wrong(&self) -> Vec<Finding> {
        const TOLD: &[Code] = &[
            Code::BackingFile,
            Code::DataFile,
            Code::ExternalExtents,
            Code::ExternalReference,
            Code::FormatGuessed,
            Code::InternalSnapshots,
        ];
        let mut all: Vec<Finding> = Vec::new();
        let checked: &[Finding] = match &self.check {
            Checked::Done(report) => &report.findings,
            _ => &[],
        };
        let inner = self.inner.iter().flatten().flat_map(|inner| inner.findings());
        for finding in checked.iter().chain(&self.facts.findings).chain(inner) {
            let same = |other: &Finding| {
                [
                    other.code == finding.code,
                    other.message == finding.message,
                    other.offset == finding.offset,
                ]
                .into_iter()
                .filter(|same| *same)
                .count()
                    > 1
            };
            let is_news = finding.code.severity() > Severity::Info && !TOLD.contains(&finding.code);
            // a check that counts its findings says nothing new
            let is_sum = finding.code == Code::CheckError && finding.offset.is_none();
            if is_news && !is_sum && !all.iter().any(same) {
                all.push(finding.clone());
            }
        }
        if let Some(error) = self.facts.error.as_ref().filter(|_| all.is_empty()) {
            let text = diskimage::text::printable_str(&error.to_string());
            all.push(Finding::new(Code::Unreadable, text));
        }
        all.sort_by_key(|finding| std::cmp::Reverse(finding.code.severity()));
        all
    }

    /// How much the check found to repair.
    fn repairable(&self) -> Option<&CheckReport> {
        match &self.check {
            Checked::Done(report) if report.corruptions > 0 || report.leaks > 0 => Some(report),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_begin_and_end_as_such() {
        assert_eq!(sentence("has what UEFI boots"), "Has what UEFI boots.");
        assert_eq!(sentence("Done."), "Done.");
        assert_eq!(with_article("Apple sparse image"), "an Apple sparse image");
        assert_eq!(with_article("UDF file system"), "a UDF file system");
        assert_eq!(with_article("MBR partition table"), "an MBR partition table");
        assert_eq!((counted(1, "file"), counted(0, "file")), ("1 file".into(), "0 files".into()));
    }
}
