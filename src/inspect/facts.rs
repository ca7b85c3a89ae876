//! What an image is, put together for a verdict: from a file, or from what was kept of one that
//! passed by. Both ways go through the same code, and through the parsers that read the bytes.

use std::path::Path;
use std::sync::Arc;

use crate::disk::VirtualDisk;
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Code, Finding};
use crate::format::probe::{Match, Probe};
use crate::format::{Class, Format};
use crate::layer::{Reference, Value};
use crate::num::to_usize;
use crate::open::{Image, OpenOptions};
use crate::storage::Storage;

use super::inside::Inside;
use super::passing::Passing;
use super::start::{self, Start};
use super::walk::{Walk, Walked};

/// What an image is.
///
/// ```
/// # use std::{path::Path, sync::Arc};
/// # use diskimage::storage::MemoryStorage;
/// use diskimage::inspect::{Inspect, Policy};
/// use diskimage::{Code, Format};
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
/// let facts = Inspect::new(Policy::strict()).storage(storage, Path::new("upload"))?.facts;
/// assert_eq!(facts.format, Some(Format::Qcow2));
/// assert_eq!(facts.subformat.as_deref(), Some("1.1")); // its `compat` level
/// assert_eq!(facts.virtual_size, Some(1 << 30));
/// assert!(facts.references.is_empty() && !facts.encrypted && !facts.truncated);
/// assert!(!facts.has(Code::Dirty));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Facts {
    /// Every format that fits, with the evidence.
    pub matches: Vec<Match>,
    /// The one that it is taken for; the plain content of a disk is [`Format::Raw`].
    pub format: Option<Format>,
    /// What sort of image its format calls it: a VMDK's `createType`, `fixed` and `dynamic` of
    /// VHD, VHDX and VDI, the `compat` level of QCOW2.
    pub subformat: Option<String>,
    /// The size of the disk that a guest sees, bytes. `None` where it cannot be told.
    pub virtual_size: Option<u64>,
    /// The bytes of the file.
    pub file_size: u64,
    /// What it needs from other files. None of them was opened.
    pub references: Vec<Reference>,
    /// Whether the guest's data are encrypted.
    pub encrypted: bool,
    /// Whether any of them are stored compressed.
    pub compressed: bool,
    /// Whether the file ends before what its tables speak of. Where it ends before the tables
    /// themselves, [`error`](Self::error) says so.
    pub truncated: bool,
    /// The number of its internal snapshots.
    pub snapshots: usize,
    /// What lies at the start of the disk, and whether a machine might start from it. `None` where
    /// that cannot be read.
    pub start: Option<Start>,
    /// What is odd, dangerous or broken.
    pub findings: Vec<Finding>,
    /// Why the disk cannot be read, if so.
    pub error: Option<Error>,
    /// What lies in it, if it is an archive or a compressed file: each disk.
    pub inside: Vec<Inside>,
    /// What could not be looked at, since the image passed by only once.
    pub unseen: Vec<Unseen>,
}

/// Something of an image that passed by before it was known to matter.
///
/// ```
/// use diskimage::inspect::{Inspect, Part, Policy};
///
/// // gzip's magic, and zeros: what lies in it is for `Inspect::read`
/// let mut stream = Inspect::new(Policy::permissive()).stream();
/// stream.push(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0, 0]);
/// let verdict = stream.finish();
/// let [unseen] = &verdict.facts.unseen[..] else { panic!("one thing was not seen") };
/// assert_eq!((unseen.part, unseen.offset), (Part::Description, None));
/// assert_eq!(verdict.reasons[0].sentence, unseen.sentence());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unseen {
    /// What it is.
    pub part: Part,
    /// Where in the file it lies, if that is known.
    pub offset: Option<u64>,
}

/// Parts of an image that a look at it can miss.
///
/// ```
/// use diskimage::inspect::{Inspect, Part, Policy};
///
/// let mut stream = Inspect::new(Policy::permissive()).stream();
/// stream.push(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0, 0]); // a gzip file
/// let verdict = stream.finish();
/// for unseen in &verdict.facts.unseen {
///     match unseen.part {
///         Part::Description => println!("keep it, and judge the file"),
///         _ => println!("a policy may allow that: {}", unseen.sentence()),
///     }
/// }
/// assert_eq!(verdict.facts.unseen[0].part, Part::Description);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// What describes the image as a whole, without which it cannot be judged.
    Description,
    /// Some of the tables that map the disk: whether the file holds all that they speak of, and
    /// whether anything is compressed.
    Tables,
    /// The start of the disk.
    Contents,
}

impl Unseen {
    /// What was missed, as a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let at = self.offset.map(|at| format!(" (at offset {at:#x})")).unwrap_or_default();
        match self.part {
            Part::Description => format!(
                "What describes the image{at} passed by before it was known to matter, or is too \
                 large to be kept: only the whole file can be judged."
            ),
            Part::Tables => format!(
                "Some of its tables{at} passed by before they were known to be tables: whether the \
                 file holds all that they speak of was not seen."
            ),
            Part::Contents => format!(
                "The start of the disk{at} passed by before its place was known: what lies there was \
                 not seen."
            ),
        }
    }
}

/// Findings that come of tables, which may have been made up where what is gone reads as zeros.
const OF_TABLES: &[Code] = &[
    Code::CheckError,
    Code::Truncated,
    Code::BeyondEnd,
    Code::InvalidEntry,
    Code::Misaligned,
    Code::RedundantCopyDamaged,
    Code::ChecksumMismatch,
];

impl Facts {
    /// Looks at `storage`. An error is the environment's; what is wrong with the image is a fact.
    pub(super) fn of_file(
        options: &OpenOptions,
        storage: Arc<dyn Storage>,
        path: &Path,
        probe: Probe,
    ) -> Result<Self> {
        let mut facts = Self::new(&probe, storage.size());
        let opened = options.open_image_probed(Arc::clone(&storage), path, probe);
        let image = match opened {
            Ok(image) => image,
            Err(error) if is_outer(&error) => return Err(error),
            Err(error) => {
                facts.error = Some(error);
                return Ok(facts);
            }
        };
        facts.describe(&image)?;
        let walked = Walk::whole(image.layer(), options.watcher());
        facts.take_walked(walked.map_err(|error| error.in_file(path))?);
        facts.look_inside(image)?;
        Ok(facts)
    }

    /// The same for a file that has passed by, and ended. `walk` is what was seen of the tables of
    /// an image of a format and a size.
    pub(super) fn of_passing(
        options: &OpenOptions,
        passing: &Arc<Passing>,
        path: &Path,
        probe: &Probe,
        walk: impl FnOnce(&Image) -> Walked,
    ) -> Self {
        let storage: Arc<dyn Storage> = Arc::<Passing>::clone(passing);
        let mut facts = Self::new(probe, storage.size());
        passing.missed();
        let open = || options.open_image_probed(Arc::clone(&storage), path, probe.clone());
        let (mut opened, missed) = (open(), passing.missed());
        if let Some(gone) = missed.ranges.first() {
            facts.miss(Part::Description, Some(gone.start));
            passing.fill_with_zeros(true);
            opened = open();
        }
        match opened {
            Ok(image) => {
                facts.describe_passing(&image, passing);
                facts.take_walked(walk(&image));
                passing.fill_with_zeros(false);
                passing.missed();
                // an image whose description was made up has no disk to look at
                if facts.unseen.iter().all(|unseen| unseen.part != Part::Description)
                    && let Err(error) = facts.look_inside(image)
                {
                    facts.miss(Part::Contents, error.offset());
                }
            }
            // what was read as zeros may have brought the error
            Err(error) if facts.unseen.is_empty() => facts.error = Some(error),
            Err(_) => {}
        }
        facts
    }

    /// The same for an archive or a compressed file of this format, into which nobody looked.
    pub(super) fn of_passed_container(probe: &Probe, size: u64, format: Format) -> Self {
        let mut facts = Self::new(probe, size);
        facts.format = Some(format);
        facts.miss(Part::Description, None);
        facts
    }

    /// What signatures tell of a file.
    pub(super) fn new(probe: &Probe, file_size: u64) -> Self {
        Self {
            matches: probe.matches.clone(),
            format: match probe.matches.first() {
                Some(first) if first.format.class() != Class::Content => Some(first.format),
                _ => Some(Format::Raw),
            },
            subformat: None,
            virtual_size: None,
            file_size,
            references: Vec::new(),
            encrypted: false,
            compressed: false,
            truncated: false,
            snapshots: 0,
            start: None,
            findings: probe.findings(),
            error: None,
            inside: Vec::new(),
            unseen: Vec::new(),
        }
    }

    fn miss(&mut self, part: Part, offset: Option<u64>) {
        if self.unseen.iter().all(|unseen| unseen.part != part) {
            self.unseen.push(Unseen { part, offset });
        }
    }

    /// What the image says of itself.
    fn describe(&mut self, image: &Image) -> Result<()> {
        let layer = image.layer();
        self.format = Some(layer.format());
        self.virtual_size = Some(layer.size());
        self.references = layer.references().to_vec();
        let description = layer.describe().map_err(|error| error.in_file(image.path()))?;
        self.encrypted = description.encrypted;
        self.snapshots = description.snapshots.len();
        let text = |wanted: &str| {
            description.details.iter().find_map(|(key, value)| match value {
                Value::Text(text) if *key == wanted => Some(text.clone()),
                _ => None,
            })
        };
        self.subformat = ["create-type", "type", "compat"].into_iter().find_map(text);
        self.findings = image.findings().map_err(|error| error.in_file(image.path()))?;
        if let Err(error) = layer.check_readable() {
            self.error = Some(error.in_file(image.path()));
        }
        self.truncated = self.has(Code::Truncated);
        Ok(())
    }

    fn describe_passing(&mut self, image: &Image, passing: &Passing) {
        passing.missed();
        let described = self.describe(image);
        let missed = passing.missed();
        let Some(gone) = missed.ranges.first() else {
            if let Err(error) = described {
                self.error = Some(error);
            }
            return;
        };
        self.miss(Part::Description, Some(gone.start));
        passing.fill_with_zeros(true);
        // what can be said without what is gone
        let _ = self.describe(image);
        self.findings.retain(|finding| !OF_TABLES.contains(&finding.code));
        self.truncated = false;
    }

    /// Whether something of this code was found.
    #[must_use]
    pub fn has(&self, code: Code) -> bool {
        self.findings.iter().any(|finding| finding.code == code)
    }

    fn take_walked(&mut self, walked: Walked) {
        self.compressed = walked.encoded;
        for finding in walked.findings(self.file_size) {
            let same = |other: &Finding| {
                other.code == finding.code
                    && (other.offset == finding.offset || finding.code == Code::Truncated)
            };
            if !self.findings.iter().any(same) {
                self.findings.push(finding);
            }
        }
        self.truncated = self.has(Code::Truncated);
        if walked.unseen > 0 {
            self.miss(Part::Tables, walked.first_unseen);
        }
    }

    /// Looks at the start of the disk, where it can be read without another file.
    fn look_inside(&mut self, image: Image) -> Result<()> {
        if self.error.is_some() {
            return Ok(());
        }
        let path = image.path().to_owned();
        match read_start(image) {
            Ok(head) => {
                let size = self.virtual_size.unwrap_or_default();
                self.start = head.map(|head| Start::of(&head, size));
            }
            Err(error) if is_outer(&error) => return Err(error.in_file(&path)),
            // the findings say what is broken
            Err(_) => {}
        }
        Ok(())
    }

    /// Adds what an image says of itself of which only the start is there.
    pub(super) fn add_described(&mut self, image: &Image) {
        let probed = std::mem::take(&mut self.findings);
        if let Err(error) = self.describe(image) {
            self.error = Some(error);
        }
        let own = std::mem::replace(&mut self.findings, probed);
        let new: Vec<_> = own.into_iter().filter(|one| !self.findings.contains(one)).collect();
        self.findings.extend(new);
    }
}

/// Whether it says nothing of the image.
pub(super) fn is_outer(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::Cancelled)
}

/// The first bytes of the disk; `None` where that needs another file.
pub(super) fn read_start(image: Image) -> Result<Option<Vec<u8>>> {
    let Some(disk) = image.into_disk()? else { return Ok(None) };
    let mut head = vec![0; start::HEAD.min(to_usize(disk.size()))];
    disk.read_exact_at(&mut head, 0)?;
    Ok(Some(head))
}
