//! Holding an image against the table.

use super::rules::{AZURE_UPLOAD, GCE, INSPECTOR, LIBVIRT, OVF, Rules, Source, Takes};
use super::{Platform, Problem, Remedy};
use crate::container::Listing;
use crate::error::Result;
use crate::finding::Code;
use crate::format::Format;
use crate::inspect::{Facts, Reason};
use crate::layer::Role;
use crate::text::{printable, printable_str};

/// What is known of an image, and the platform that it is for.
pub(super) struct Judge<'a> {
    platform: Platform,
    rules: &'static Rules,
    facts: &'a Facts,
    /// What lies in a compressed archive.
    listing: Option<&'a Result<Listing>>,
    /// The Current Size of a VHD's footer.
    current_size: Option<u64>,
    problems: Vec<Problem>,
}

/// A VHD's footer, bytes.
const FOOTER: u64 = 512;
/// GNU tar's old format: `magic` and `version` of a header ("Basic Tar Format" in its manual).
const OLDGNU: &[u8] = b"ustar  \0";
/// Those of POSIX.
const POSIX: &[u8] = b"ustar\x0000";

impl<'a> Judge<'a> {
    pub(super) fn new(
        platform: Platform,
        facts: &'a Facts,
        listing: Option<&'a Result<Listing>>,
        current_size: Option<u64>,
    ) -> Self {
        let rules = platform.rules();
        Self { platform, rules, facts, listing, current_size, problems: Vec::new() }
    }

    /// All that is wrong; `reasons` are those of the policy that the image was inspected by.
    pub(super) fn problems(mut self, reasons: &[Reason]) -> Vec<Problem> {
        self.judge_format();
        self.judge_archive();
        self.judge_others();
        self.judge_size();
        self.judge_package();
        self.judge_state();
        if self.platform == Platform::OpenStack {
            self.take_reasons(reasons);
        }
        self.problems
    }

    fn add(
        &mut self,
        rule: &'static str,
        sentence: impl Into<String>,
        source: Option<&'static Source>,
        remedy: Remedy,
    ) {
        self.problems.push(Problem {
            rule,
            refused: true,
            sentence: sentence.into(),
            source,
            remedy,
        });
    }

    fn has(&self, rule: &str) -> bool {
        self.problems.iter().any(|problem| problem.rule == rule)
    }

    /// The entry for a format, if it is taken.
    fn taken(&self, facts: &Facts) -> Option<&'static Takes> {
        self.rules.takes.iter().find(|taken| facts.format == Some(taken.format))
    }

    fn judge_format(&mut self) {
        let (title, wanted) = (self.rules.title, self.rules.wanted);
        let source = Some(self.rules.formats);
        let Some(taken) = self.taken(self.facts) else {
            let what = what_is(self.facts);
            let sentence = format!("It is {what}; {title} takes {wanted}.");
            self.add("format", sentence, source, Remedy::Convert);
            return;
        };
        if let Some(other) = other_subformat(taken, self.facts) {
            let sentence = format!(
                "It is {} {} image; {title} takes {wanted}.",
                article(&other),
                named(&other, taken.format)
            );
            self.add("subformat", sentence, source, Remedy::Convert);
        }
    }

    /// A compressed archive, where the platform takes one.
    fn judge_archive(&mut self) {
        if self.platform != Platform::Gce || self.facts.format != Some(Format::Gzip) {
            return;
        }
        let listing = match self.listing {
            None => {
                let inside = self.facts.inside.first().map(|inside| what_is(&inside.facts));
                let inside = inside.unwrap_or_else(|| "nothing that can be read".to_owned());
                let sentence = format!(
                    "It is compressed, and inside is {inside}; {} takes {}.",
                    self.rules.title, self.rules.wanted
                );
                self.add("archive", sentence, Some(&GCE), Remedy::Convert);
                return;
            }
            Some(Err(error)) => {
                let sentence = format!("The archive cannot be read: {error}.");
                self.add("unreadable", sentence, None, Remedy::Other(FETCH_AGAIN));
                return;
            }
            Some(Ok(listing)) => listing,
        };
        let kind = match listing.magic.as_slice() {
            OLDGNU => None,
            POSIX => Some("POSIX's (ustar or pax)"),
            _ => Some("an older one"),
        };
        if let Some(kind) = kind {
            let sentence =
                format!("The archive's format is {kind}; it must be that of tar --format=oldgnu.");
            self.add("archive", sentence, Some(&GCE), Remedy::Convert);
        }
        let disk = listing.members.iter().find(|member| member.name == b"disk.raw");
        match disk.filter(|disk| disk.is_file()) {
            Some(disk) => self.judge_virtual_size(disk.size),
            None => {
                let names = listing.members.iter().take(4).map(|member| printable(&member.name));
                let names: Vec<_> = names.map(|name| format!("'{name}'")).collect();
                let sentence = format!(
                    "No file in the archive is called 'disk.raw'; it has {}.",
                    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
                );
                // the disk is there, under another name
                self.add("archive", sentence, Some(&GCE), Remedy::Convert);
            }
        }
    }

    fn judge_others(&mut self) {
        let Some(first) = self.facts.references.first() else { return };
        let (noun, name) = (first.role.noun(), first.printable_name());
        let (role, named) = (first.role, first.format.is_some());
        if !self.rules.others {
            let sentence = format!(
                "It needs another file, the {noun} '{name}'; {} takes one file alone.",
                self.rules.title
            );
            let source = Some(self.rules.formats).filter(|_| self.platform != Platform::OpenStack);
            let source = source.or(Some(&INSPECTOR));
            self.add("other-files", sentence, source, Remedy::ConvertWithOthers);
            return;
        }
        self.problems.push(Problem {
            rule: "other-files",
            refused: false,
            sentence: format!(
                "It is not whole without the {noun} '{name}', which must go with it."
            ),
            source: None,
            remedy: Remedy::ConvertWithOthers,
        });
        let is_qcow2 = self.facts.format == Some(Format::Qcow2);
        if self.platform == Platform::Kvm && is_qcow2 && role == Role::Parent && !named {
            let sentence =
                "It does not say which format its backing file has; libvirt refuses that.";
            self.add("backing-format", sentence, Some(&LIBVIRT), Remedy::ConvertWithOthers);
        }
    }

    fn judge_size(&mut self) {
        let size = self.current_size.or(self.facts.virtual_size);
        if let Some(size) = size {
            self.judge_virtual_size(size);
        }
        let is_azure = self.platform == Platform::Azure && self.facts.subformat_is("fixed");
        if let Some(size) = size.filter(|_| is_azure && self.current_size.is_some())
            && self.facts.file_size != size.saturating_add(FOOTER)
        {
            let sentence = format!(
                "The file has {} bytes, which is not its Current Size of {size} and a footer of \
                 {FOOTER}.",
                self.facts.file_size
            );
            self.add("file-size", sentence, Some(&AZURE_UPLOAD), Remedy::Convert);
        }
        for index in 0..self.facts.inside.len() {
            let inside = self.facts.inside.get(index);
            let is_package = self.facts.format == Some(Format::Ova);
            if let Some(size) = inside.filter(|_| is_package).and_then(|i| i.facts.virtual_size) {
                self.judge_virtual_size(size);
            }
        }
    }

    fn judge_virtual_size(&mut self, size: u64) {
        // an image that is written anew gets the right size too
        if let Some((least, source)) =
            self.rules.smallest.as_ref().filter(|(least, _)| size < *least)
        {
            let sentence = format!(
                "Its virtual size is {size} bytes; {} takes no less than {least}.",
                self.rules.title
            );
            self.add("virtual-size", sentence, Some(source), Remedy::Convert);
        }
        if let Some((step, source)) = self.rules.step.as_ref()
            && (size.checked_rem(*step) != Some(0) || size == 0)
        {
            let sentence = format!(
                "Its virtual size is {size} bytes; {} takes whole multiples of {step} ({}) only.",
                self.rules.title,
                words(*step)
            );
            self.add("virtual-size", sentence, Some(source), Remedy::Convert);
        }
        for bound in self.rules.largest {
            let applies = bound.format.is_none_or(|format| self.facts.format == Some(format));
            if !applies || size <= bound.size {
                continue;
            }
            let most = bound.size;
            let problem = match bound.limits {
                None => format!("Its virtual size is {size} bytes; at most {most} are taken."),
                Some(what) => format!("Its virtual size is {size} bytes; above {most}, {what}."),
            };
            self.problems.push(Problem {
                rule: "virtual-size",
                refused: bound.limits.is_none(),
                sentence: problem,
                source: Some(bound.source),
                remedy: match bound.format {
                    // there is a format that holds more
                    Some(Format::Vhd) => Remedy::Convert,
                    _ => Remedy::Other("make the disk smaller inside the guest, or split it"),
                },
            });
            if bound.limits.is_none() {
                break;
            }
        }
    }

    /// The disks of an OVA.
    fn judge_package(&mut self) {
        if self.facts.format != Some(Format::Ova) || self.taken(self.facts).is_none() {
            return;
        }
        for inside in &self.facts.inside {
            let name = printable(&inside.name);
            let (taken, wanted) = (self.taken(&inside.facts), self.rules.wanted);
            let title = self.rules.title;
            let other = match taken {
                None => Some(what_is(&inside.facts)),
                Some(taken) => other_subformat(taken, &inside.facts)
                    .map(|other| format!("{} {}", article(&other), named(&other, taken.format))),
            };
            // what cannot be read at all is told below
            if let Some(other) = other.filter(|_| inside.facts.error.is_none()) {
                let sentence =
                    format!("The disk '{name}' in it is {other}; {title} takes {wanted}.");
                self.add("subformat", sentence, Some(self.rules.formats), Remedy::Convert);
            }
            if let Some(error) = &inside.facts.error {
                let sentence = format!("The disk '{name}' in it cannot be read: {error}.");
                self.add("unreadable", sentence, None, Remedy::Other(FETCH_AGAIN));
            }
        }
        let broken = [Code::MissingMember, Code::SizeMismatch, Code::DuplicateMember];
        let found = self.facts.findings.iter().find(|finding| broken.contains(&finding.code));
        if let Some(finding) = found {
            let sentence = format!("The package contradicts itself: {}.", finding.message);
            self.add("archive", sentence, Some(&OVF), Remedy::Convert);
        }
    }

    /// What nobody could read.
    fn judge_state(&mut self) {
        // who converts it meets the same error, and its advice
        if let Some(error) = &self.facts.error {
            if !self.has("format") && !self.has("other-files") {
                let sentence = format!("It cannot be read: {error}.");
                self.add("unreadable", sentence, None, Remedy::Other(FETCH_AGAIN));
            }
        } else if self.facts.has(Code::FormatGuessed) && self.taken(self.facts).is_some() {
            self.problems.push(Problem {
                rule: "guessed",
                refused: false,
                sentence: "No signature tells what it is: it is taken for a raw disk.".into(),
                source: None,
                remedy: Remedy::Other("look at what it is"),
            });
        } else if self.facts.truncated {
            let sentence = "The file ends before what its tables speak of: it is cut off.";
            self.add("unreadable", sentence, None, Remedy::Other(FETCH_AGAIN));
        } else if let Some(finding) =
            self.facts.findings.iter().find(|finding| finding.code == Code::Corrupt)
        {
            let sentence = format!("It is marked as broken: {}.", finding.message);
            self.add("unreadable", sentence, None, Remedy::Other(REPAIR));
        }
    }

    /// What the policy of that name says, if it is not said yet.
    fn take_reasons(&mut self, reasons: &[Reason]) {
        for reason in reasons {
            let said = match reason.rule {
                "format-not-allowed" => "format",
                "subformat-not-allowed" => "subformat",
                "truncated" | "unreadable" | "corrupt" => "unreadable",
                "backing-file" | "data-file" | "external-extents" | "external-reference" => {
                    "other-files"
                }
                other => other,
            };
            if !self.has(said) {
                let sentence = printable_str(&reason.sentence);
                self.add(reason.rule, sentence, Some(&INSPECTOR), Remedy::Convert);
            }
        }
    }
}

/// For what is damaged.
const FETCH_AGAIN: &str = "fetch or export it again";
/// For what is marked so.
const REPAIR: &str = "look at it with diskimage check, and repair it";

impl Facts {
    /// Whether the subformat is this one.
    fn subformat_is(&self, name: &str) -> bool {
        self.subformat.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(name))
    }
}

/// The subformat, if it is none of those that are taken.
fn other_subformat(taken: &Takes, facts: &Facts) -> Option<String> {
    let fits = taken.subformats.is_empty() || facts.error.is_some();
    let fits = fits || taken.subformats.iter().any(|name| facts.subformat_is(name));
    (!fits).then(|| match &facts.subformat {
        Some(own) => printable_str(own),
        None => "unnamed".to_owned(),
    })
}

/// `dynamic VHD`, and the like: what is known by a longer name has a short one here.
fn named(subformat: &str, format: Format) -> String {
    let short = match format {
        Format::Vhd => "VHD",
        Format::Vhdx => "VHDX",
        Format::Vmdk => "VMDK",
        other => other.name(),
    };
    format!("{subformat} {short}")
}

fn article(word: &str) -> &'static str {
    let vowel = |c: char| "aeiou".contains(c.to_ascii_lowercase());
    if word.starts_with(vowel) { "an" } else { "a" }
}

/// What a file is, in words.
fn what_is(facts: &Facts) -> String {
    match facts.format {
        Some(Format::Raw) if facts.matches.is_empty() && facts.error.is_some() => {
            "in no format that is known".to_owned()
        }
        Some(format) => {
            let description = format.description();
            format!("{} {description}", article(description))
        }
        None => "in no format that is known".to_owned(),
    }
}

/// `1 MiB`, for powers of two that have such a name.
fn words(size: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (bits, unit) in UNITS {
        let count = size.checked_shr(bits).unwrap_or_default();
        if count > 0 && count.checked_shl(bits) == Some(size) {
            return format!("{count} {unit}");
        }
    }
    format!("{size} bytes")
}
