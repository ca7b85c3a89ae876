//! Policies: what an image may be. The facts are the same for all of them.

use std::borrow::Cow;

use crate::container::Container;
use crate::finding::{Code, Severity};
use crate::format::{Class, Format};

use super::facts::{Facts, Part};

/// What an image may be, and what it must not be. Built from one of the three that have names, or
/// from [`Policy::new`], which allows all that can be read.
///
/// ```
/// use diskimage::Format;
/// use diskimage::inspect::Policy;
///
/// let mut policy = Policy::strict();
/// policy.name = "ours".into();
/// policy.formats = Some(vec![Format::Qcow2]);
/// policy.max_virtual_size = Some(2 << 40);
/// assert!(Policy::by_name("openstack").is_some());
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Policy {
    /// Its name, for people.
    pub name: Cow<'static, str>,
    /// The formats that are allowed. `None`: all that this crate reads. [`Format::Raw`] stands for
    /// the plain content of a disk; that of which the start is recognised ([`Format::Iso`],
    /// [`Format::Gpt`] and so on) is allowed by its own name too.
    pub formats: Option<Vec<Format>>,
    /// For some formats, the subformats that are allowed, in any case of letters: a VMDK's
    /// `createType`, say. Formats that are not named here may be of any sort.
    pub subformats: Vec<(Format, Vec<Cow<'static, str>>)>,
    /// The largest virtual size, bytes.
    pub max_virtual_size: Option<u64>,
    /// The largest file, bytes.
    pub max_file_size: Option<u64>,
    /// Findings that refuse an image.
    pub forbidden: Vec<Code>,
    /// Whether the partition table of a raw disk must be one that firmware takes: boot flags of 0
    /// or 0x80, a protective entry as UEFI has it, and one partition at least.
    pub sane_partition_table: bool,
    /// Whether archives and compressed files may pass if what lies in them may, also where
    /// [`formats`](Self::formats) does not name them.
    pub wrappers: bool,
    /// Whether an image may pass of which some parts were not seen, since it passed by only once.
    /// Without what describes it, none passes.
    pub allow_unseen: bool,
}

/// What an image was refused for.
///
/// ```
/// # use std::{path::Path, sync::Arc};
/// # use diskimage::storage::MemoryStorage;
/// use diskimage::inspect::{Inspect, Policy};
///
/// let mut policy = Policy::permissive();
/// policy.max_file_size = Some(1 << 10);
/// # let storage = Arc::new(MemoryStorage::new(vec![0; 4096]));
/// let verdict = Inspect::new(policy).storage(storage, Path::new("upload"))?;
/// let reason = verdict.reasons.iter().find(|reason| reason.rule == "file-size");
/// let reason = reason.expect("the file has 4096 bytes");
/// assert_eq!(reason.sentence, "The file has 4096 bytes, above the limit of 1024.");
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reason {
    /// The rule, as a stable word: the code of a finding such as `backing-file`, or one of
    /// `declared-mismatch`, `format-not-allowed`, `subformat-not-allowed`, `virtual-size`,
    /// `file-size`, `unreadable`, `partition-table`, `unseen`.
    pub rule: &'static str,
    /// A sentence for people.
    pub sentence: String,
}

/// Findings that make a reader go wrong, whoever it is.
const WRONG: &[Code] = &[
    Code::Polyglot,
    Code::Ambiguous,
    Code::UnknownFeature,
    Code::Corrupt,
    Code::Truncated,
    Code::NewlineMangled,
];

/// What makes an image ask for other files.
const OUTSIDE: &[Code] =
    &[Code::BackingFile, Code::DataFile, Code::ExternalExtents, Code::ExternalReference];

impl Default for Policy {
    fn default() -> Self {
        Self::strict()
    }
}

impl Policy {
    /// The names of those that have one.
    pub const NAMES: &[&str] = &["strict", "openstack", "permissive"];

    /// Allows all that can be read.
    ///
    /// ```
    /// use diskimage::Code;
    /// use diskimage::inspect::Policy;
    ///
    /// let mut policy = Policy::new("no children");
    /// policy.forbidden = vec![Code::BackingFile];
    /// assert!(policy.formats.is_none() && policy.allow_unseen);
    /// ```
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            formats: None,
            subformats: Vec::new(),
            max_virtual_size: None,
            max_file_size: None,
            forbidden: Vec::new(),
            sane_partition_table: false,
            wrappers: true,
            allow_unseen: true,
        }
    }

    /// The policy of one of the [names](Self::NAMES).
    ///
    /// ```
    /// use diskimage::inspect::Policy;
    ///
    /// for name in Policy::NAMES {
    ///     assert!(Policy::by_name(name).is_some_and(|policy| policy.name == *name));
    /// }
    /// assert!(Policy::by_name("lax").is_none());
    /// ```
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "strict" => Some(Self::strict()),
            "openstack" => Some(Self::openstack()),
            "permissive" => Some(Self::permissive()),
            _ => None,
        }
    }

    /// Whole images that stand alone, and of which nothing is odd: all that is a warning or worse
    /// refuses them, and so do encryption, internal snapshots, and parts that were not seen.
    #[must_use]
    pub fn strict() -> Self {
        let worth = |code: &Code| {
            code.severity() >= Severity::Warning || matches!(code, Code::InternalSnapshots)
        };
        Self {
            subformats: vec![(
                Format::Vmdk,
                vec!["monolithicSparse".into(), "streamOptimized".into()],
            )],
            forbidden: Code::ALL.iter().copied().filter(worth).collect(),
            allow_unseen: false,
            wrappers: false,
            ..Self::new("strict")
        }
    }

    /// Decides as the format inspector of OpenStack's oslo.utils does (`imageutils`, release 10.2),
    /// where it looks: no file outside, no feature that is not known, of VMDK two subformats, no
    /// QED, LUKS in its first version only, sane partition tables. It goes beyond that where the
    /// inspector does not look or sees wrong: extended L2 entries of QCOW2 are fine, a descriptor
    /// filled up with NUL bytes is a VMDK, the parents of VMDK, VHD, VHDX and VDI are files
    /// outside, and an image that is cut off, marked as corrupt or of two formats is refused.
    #[must_use]
    pub fn openstack() -> Self {
        let formats = [
            Format::Raw,
            Format::Qcow2,
            Format::Vmdk,
            Format::Vhd,
            Format::Vhdx,
            Format::Vdi,
            Format::Iso,
            Format::Udf,
            Format::Parallels,
            Format::Luks,
        ];
        Self {
            formats: Some(formats.to_vec()),
            sane_partition_table: true,
            forbidden: [OUTSIDE, WRONG].concat(),
            ..Self { name: "openstack".into(), allow_unseen: true, ..Self::strict() }
        }
    }

    /// All that can be read without going wrong. It may need other files, which whoever reads it
    /// still has to allow.
    #[must_use]
    pub fn permissive() -> Self {
        Self { forbidden: WRONG.to_vec(), ..Self::new("permissive") }
    }

    /// Why an image is refused; empty if it is allowed. `declared` is what it is said to be.
    ///
    /// ```
    /// # use std::{path::Path, sync::Arc};
    /// # use diskimage::storage::MemoryStorage;
    /// use diskimage::Format;
    /// use diskimage::inspect::{Inspect, Policy};
    ///
    /// # let image = {
    /// #     use diskimage::{Convert, Target, format::qcow2::Qcow2Options, target::SpillTarget};
    /// #     let mut image = Vec::new();
    /// #     let target = SpillTarget::new(&mut image, &std::env::temp_dir(), 1 << 20)?;
    /// #     Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 30)?), &target)?;
    /// #     Box::new(target).finish()?;
    /// #     image
    /// # };
    /// # let storage = Arc::new(MemoryStorage::new(image));
    /// // one look at the image, judged in several ways
    /// let facts = Inspect::new(Policy::permissive()).storage(storage, Path::new("upload"))?.facts;
    /// assert!(Policy::strict().judge(&facts, Some(Format::Qcow2)).is_empty());
    /// let mut small = Policy::openstack();
    /// small.max_virtual_size = Some(1 << 20);
    /// let reasons = small.judge(&facts, Some(Format::Raw));
    /// let rules: Vec<_> = reasons.iter().map(|reason| reason.rule).collect();
    /// assert_eq!(rules, ["declared-mismatch", "virtual-size"]);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn judge(&self, facts: &Facts, declared: Option<Format>) -> Vec<Reason> {
        let mut reasons = Reasons::default();
        self.judge_format(facts, declared, &mut reasons);
        self.judge_sizes(facts, &mut reasons);
        self.judge_findings(facts, declared, &mut reasons);
        if self.sane_partition_table
            && let Some(problem) =
                facts.start.as_ref().and_then(|start| start.table_problem.as_deref())
            && is_disk(facts)
        {
            reasons.add("partition-table", format!("Its partition table is not sane: {problem}."));
        }
        for inside in &facts.inside {
            let place = match inside.name.is_empty() {
                true => "Inside".to_owned(),
                false => format!("Of '{}' inside", crate::text::printable(&inside.name)),
            };
            for reason in self.judge(&inside.facts, None) {
                reasons.add(reason.rule, format!("{place}: {}", reason.sentence));
            }
        }
        for unseen in &facts.unseen {
            if !self.allow_unseen || unseen.part == Part::Description {
                reasons.add("unseen", unseen.sentence());
            }
        }
        reasons.0
    }

    fn judge_format(&self, facts: &Facts, declared: Option<Format>, reasons: &mut Reasons) {
        let Some(format) = facts.format else { return };
        if let Some(declared) = declared
            && !fits(facts, declared)
        {
            let (found, declared) = (named(facts), declared.name());
            reasons.add(
                "declared-mismatch",
                format!("It is {found}, but it was declared as {declared}."),
            );
        }
        let allowed = match &self.formats {
            Some(formats) => formats.iter().any(|&allowed| fits(facts, allowed)),
            None => self.wrappers || format.class() != Class::Wrapper,
        };
        if !allowed {
            let text = format!("It is {}, which the policy does not allow.", named(facts));
            reasons.add("format-not-allowed", text);
        }
        if let Some(error) = &facts.error {
            // a container that a policy names is allowed to be one whose content nobody reads
            let opaque = self.formats.as_ref().is_some_and(|formats| formats.contains(&format))
                && !format.is_read()
                && !Container::is_one(format);
            let key = facts.encrypted && !self.forbidden.contains(&Code::Encrypted);
            let told = facts.has(Code::Corrupt) && self.forbidden.contains(&Code::Corrupt);
            if !(opaque || key || told) {
                reasons.add("unreadable", format!("It cannot be read: {error}."));
            }
        }
        if format == Format::Luks
            && let Some(found) = facts.matches.iter().find(|m| m.format == Format::Luks)
            && self.formats.is_some()
            && !found.evidence.ends_with("version 1")
        {
            let text =
                format!("It is a LUKS container that is not of version 1 ({}).", found.evidence);
            reasons.add("subformat-not-allowed", text);
        }
        for (_, allowed) in self.subformats.iter().filter(|(of, _)| *of == format) {
            let found = facts.subformat.as_deref().unwrap_or("of a sort that it does not say");
            if facts.virtual_size.is_some()
                && !allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(found))
            {
                let text = format!(
                    "It is {} {}; of these only {} is allowed.",
                    format.name(),
                    crate::text::printable_str(found),
                    allowed.join(" and ")
                );
                reasons.add("subformat-not-allowed", text);
            }
        }
    }

    fn judge_sizes(&self, facts: &Facts, reasons: &mut Reasons) {
        if let (Some(size), Some(limit)) = (facts.virtual_size, self.max_virtual_size)
            && size > limit
        {
            let text = format!("Its virtual size is {size} bytes, above the limit of {limit}.");
            reasons.add("virtual-size", text);
        }
        if let Some(limit) = self.max_file_size
            && facts.file_size > limit
        {
            let size = facts.file_size;
            let text = format!("The file has {size} bytes, above the limit of {limit}.");
            reasons.add("file-size", text);
        }
    }

    fn judge_findings(&self, facts: &Facts, declared: Option<Format>, reasons: &mut Reasons) {
        for finding in &facts.findings {
            // nothing is guessed where a raw disk was declared
            let guess = finding.code == Code::FormatGuessed && declared == Some(Format::Raw);
            if guess || !self.forbidden.contains(&finding.code) {
                continue;
            }
            let outside = OUTSIDE.contains(&finding.code);
            let sentence = match facts.references.first().filter(|_| outside) {
                Some(reference) => {
                    let (noun, name) = (reference.role.noun(), reference.printable_name());
                    format!("It needs another file, the {noun} '{name}'.")
                }
                None => sentence(&finding.message),
            };
            reasons.add(finding.code.as_str(), sentence);
        }
    }
}

/// Reasons without one twice.
#[derive(Default)]
struct Reasons(Vec<Reason>);

impl Reasons {
    fn add(&mut self, rule: &'static str, sentence: String) {
        if self.0.iter().all(|reason| reason.sentence != sentence) {
            self.0.push(Reason { rule, sentence });
        }
    }
}

/// A finding's message, which says something of an image, as a sentence about it.
fn sentence(message: &str) -> String {
    let mut letters = message.chars();
    let first: String = letters.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// Whether it is the plain content of a disk.
fn is_disk(facts: &Facts) -> bool {
    facts.format == Some(Format::Raw)
}

/// Whether what was found is `wanted`, or is that beside being the content of a raw disk.
fn fits(facts: &Facts, wanted: Format) -> bool {
    if facts.format == Some(wanted) {
        return true;
    }
    wanted.class() == Class::Content
        && is_disk(facts)
        && facts.matches.iter().any(|m| m.format == wanted)
}

/// What it is, in words.
fn named(facts: &Facts) -> String {
    let formats: Vec<_> = facts.matches.iter().map(|m| m.format.name()).collect();
    match (facts.format, formats.as_slice()) {
        (Some(Format::Raw), []) => "of no format that is known".to_owned(),
        (Some(Format::Raw), names) => format!("raw ({})", names.join(", ")),
        (Some(format), _) => format.name().to_owned(),
        (None, names) => names.join(", "),
    }
}
