//! Findings: what is odd, dangerous or broken about an image, as data.

use std::borrow::Cow;
use std::fmt;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal, $severity:ident;)+) => {
        /// What a [`Finding`] is about. The texts are stable: scripts may rely on them.
        ///
        /// ```
        /// use diskimage::{Code, Severity};
        ///
        /// // all that may do harm, for the handbook of a service
        /// let harm = |code: &&Code| code.severity() == Severity::Danger;
        /// let names: Vec<_> = Code::ALL.iter().filter(harm).map(|code| code.as_str()).collect();
        /// assert_eq!(names, ["polyglot", "ambiguous", "corrupt", "duplicate-member"]);
        /// assert_eq!(Code::LeakedCluster.meaning(), "Room is taken up that nothing refers to.");
        /// assert_eq!(Code::LeakedCluster.to_string(), "leaked-cluster");
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The stable name, such as `backing-file`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// What it means, a sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }

            /// How bad it is.
            #[must_use]
            pub fn severity(self) -> Severity {
                match self {
                    $(Self::$variant => Severity::$severity,)+
                }
            }
        }
    };
}

codes! {
    /// The image names a parent (a backing file): its content is not whole without it.
    BackingFile = "backing-file", Warning;
    /// The guest's data lie in another file that the image names.
    DataFile = "data-file", Warning;
    /// Parts of the disk lie in other files that a descriptor names.
    ExternalExtents = "external-extents", Warning;
    /// The image names another file in some way: follows each of the three codes above.
    ExternalReference = "external-reference", Warning;
    /// More than one format's signature fits: readers will disagree.
    Polyglot = "polyglot", Danger;
    /// The signature may have been written by the guest of a raw disk.
    Ambiguous = "ambiguous", Danger;
    /// No signature was found: taken as a raw disk because nothing else fits.
    FormatGuessed = "format-guessed", Warning;
    /// The image was not closed properly; its reference counts may be wrong.
    Dirty = "dirty", Warning;
    /// The image is marked as corrupt by the program that wrote it.
    Corrupt = "corrupt", Danger;
    /// An incompatible feature bit is set that this crate does not know.
    UnknownFeature = "unknown-feature", Error;
    /// The guest's data are encrypted.
    Encrypted = "encrypted", Warning;
    /// The data are encrypted with LUKS.
    Luks = "luks", Info;
    /// The image holds internal snapshots: older states of the disk travel with it.
    InternalSnapshots = "internal-snapshots", Info;
    /// The image holds persistent bitmaps that are not in use or marked as inconsistent.
    BitmapsInconsistent = "bitmaps-inconsistent", Warning;
    /// The virtual size is so large that a service should look twice.
    VirtualSizeHuge = "virtual-size-huge", Warning;
    /// The file ends before what its tables and headers speak of.
    Truncated = "truncated", Error;
    /// A log of pending writes is still in the file; reading applies it in memory.
    LogDirty = "log-dirty", Warning;
    /// One of two copies of the footer is missing or damaged.
    FooterMissing = "footer-missing", Warning;
    /// The two copies of the footer, or the fields of one, contradict each other.
    FooterMismatch = "footer-mismatch", Warning;
    /// The geometry and the size disagree.
    GeometryMismatch = "geometry-mismatch", Warning;
    /// A redundant structure is damaged; the other copy was used.
    RedundantCopyDamaged = "redundant-copy-damaged", Warning;
    /// A transfer in text mode changed the line ends of a binary file.
    NewlineMangled = "newline-mangled", Error;
    /// The tables contradict each other or the specification.
    CheckError = "check-error", Error;
    /// Room is taken up that nothing refers to.
    LeakedCluster = "leaked-cluster", Warning;
    /// What is referred to is counted as used fewer times than that, or not at all.
    RefcountMismatch = "refcount-mismatch", Error;
    /// The flag that says whether a cluster is used exactly once says the wrong thing.
    CopiedFlag = "copied-flag", Error;
    /// Two things lie at the same place of the file.
    Overlap = "overlap", Error;
    /// An entry points beyond the end of the file.
    BeyondEnd = "beyond-end", Error;
    /// An entry points between the places where such a thing can lie.
    Misaligned = "misaligned", Error;
    /// Bits are set that have no meaning.
    ReservedBits = "reserved-bits", Error;
    /// An entry calls a subcluster allocated and zero at once, or allocated without a cluster.
    SubclusterBits = "subcluster-bits", Error;
    /// An entry says what this version of the format, or this kind of image, does not have.
    InvalidEntry = "invalid-entry", Error;
    /// A structure could not be read, so what it says could not be checked.
    Unreadable = "unreadable", Error;
    /// A checksum is wrong.
    ChecksumMismatch = "checksum-mismatch", Error;
    /// Something is not as it usually is, which loses no data.
    Unusual = "unusual", Info;
    /// Bytes of the file belong to nothing.
    UnusedSpace = "unused-space", Info;
    /// A part of the disk lies in another file, and was not looked at.
    NotChecked = "not-checked", Info;
    /// An ISO 9660 file system and a partition table share the file.
    HybridIso = "hybrid-iso", Info;
    /// An OVA archive: the disks are inside.
    Ova = "ova", Info;
    /// Two members of an archive have one name: readers will disagree about which one counts.
    DuplicateMember = "duplicate-member", Danger;
    /// An archive names a file that is not in it.
    MissingMember = "missing-member", Error;
    /// Two descriptions of one thing give it different sizes.
    SizeMismatch = "size-mismatch", Warning;
    /// A part of a disk that was split into several files.
    SplitPart = "split-part", Warning;
    /// QED, a format that its makers gave up.
    Qed = "qed", Info;
    /// Parallels' format, called ploop by image services.
    Ploop = "ploop", Info;
}

/// How bad a [`Finding`] is.
///
/// ```
/// use diskimage::{Code, Finding, Severity};
///
/// let findings = [
///     Finding::new(Code::InternalSnapshots, "holds 2 internal snapshots"),
///     Finding::new(Code::BeyondEnd, "an entry leads beyond the end").at(0x30000),
/// ];
/// let worst = findings.iter().map(|finding| finding.code.severity()).max();
/// assert_eq!(worst, Some(Severity::Error));
/// assert!(Severity::Error < Severity::Danger);
/// assert_eq!(Severity::Error.as_str(), "error");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Look before you use it.
    Warning,
    /// Something is wrong with the image.
    Error,
    /// Using it may harm.
    Danger,
}

impl Severity {
    /// The name in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Danger => "danger",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One thing that is odd, dangerous or broken about an image.
///
/// ```
/// use diskimage::{Code, Finding, Severity};
///
/// let finding = Finding::new(Code::LeakedCluster, "cluster 7 is counted and not used")
///     .at(0x70000)
///     .in_structure("refcount block")
///     .fix("free it with --repair=leaks");
/// assert_eq!(finding.code.as_str(), "leaked-cluster");
/// assert_eq!(finding.code.severity(), Severity::Warning);
/// assert_eq!(finding.structure.as_deref(), Some("refcount block"));
/// // names that a file holds do no harm in it
/// assert_eq!(Finding::new(Code::BackingFile, "\u{1b}[2J").message, r"\x1b[2J");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What it is about.
    pub code: Code,
    /// A sentence for people; free of control characters.
    pub message: String,
    /// Where in the file, where that can be said.
    pub offset: Option<u64>,
    /// The structure that it is about, in the specification's words: `L2 table`, `BAT entry 7`.
    pub structure: Option<Cow<'static, str>>,
    /// What to do about it, as a clause, where something can be done.
    pub fix: Option<Cow<'static, str>>,
}

impl Finding {
    /// A finding; the message is made printable.
    #[must_use]
    pub fn new(code: Code, message: impl AsRef<str>) -> Self {
        let message = crate::text::printable_str(message.as_ref());
        Self { code, message, offset: None, structure: None, fix: None }
    }

    /// What findings are put in order by: those about the file as a whole, then those about a place.
    pub(crate) fn order(&self) -> impl Ord + '_ {
        (self.offset, self.code, &self.message, &self.structure)
    }

    /// With the file offset that it is about.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// With the structure that it is about.
    #[must_use]
    pub fn in_structure(mut self, structure: impl Into<Cow<'static, str>>) -> Self {
        self.structure = Some(structure.into());
        self
    }

    /// With what to do about it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<Cow<'static, str>>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn code_names_are_distinct_words_with_dashes() {
        let names: HashSet<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for name in names {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
        }
    }
}
