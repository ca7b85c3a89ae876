//! Inspecting: one call that answers a service's question about an image from a stranger. Is it
//! what it is said to be, is it whole, does it need other files, and may it pass by a [`Policy`]?
//!
//! ```
//! use diskimage::inspect::{Inspect, Policy};
//! use diskimage::Format;
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("upload.qcow2");
//! # std::fs::write(&path, b"#!/bin/sh")?;
//! let verdict = Inspect::new(Policy::openstack()).declared(Format::Qcow2).file(&path)?;
//! if !verdict.is_allowed() {
//!     for reason in &verdict.reasons {
//!         println!("{}", reason.sentence);
//!     }
//! }
//! # assert_eq!(verdict.reasons[0].rule, "declared-mismatch");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The parsers that give the verdict are those that give the bytes, so that a conversion sees the
//! image that was judged. No file but the named one is opened.
//!
//! An upload can be judged while it arrives, by a [`Stream`]:
//!
//! ```
//! use diskimage::inspect::{Inspect, Policy};
//! use std::io::Read;
//!
//! # let mut upload: &[u8] = b"#!/bin/sh";
//! let mut stream = Inspect::new(Policy::strict()).stream();
//! let mut buf = vec![0; 64 << 10];
//! while let length @ 1.. = upload.read(&mut buf)? {
//!     if stream.push(&buf[..length]).is_refused() {
//!         break; // nothing that follows can make it pass
//!     }
//! }
//! let verdict = stream.finish();
//! assert!(!verdict.is_allowed()); // it is no image at all
//! # Ok::<(), std::io::Error>(())
//! ```

use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "checksum")]
use crate::checksum::{Algorithm, Digest, Hashers};
use crate::container::split_name;
use crate::error::Result;
use crate::format::Format;
use crate::format::probe::probe;
use crate::limits::Limits;
use crate::open::OpenOptions;
use crate::progress::Progress;
use crate::storage::{FileStorage, Storage};

mod adapter;
mod archive;
#[cfg(feature = "tokio")]
mod asynchronous;
mod blocks;
mod facts;
mod inside;
mod passing;
mod policy;
mod start;
mod stream;
mod walk;

pub use adapter::{Reader, Refused, Writer};
pub use facts::{Facts, Part, Unseen};
pub use inside::Inside;
pub use policy::{Policy, Reason};
pub use start::Start;
pub use stream::{Status, Stream};

/// How to judge an image: a builder.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::inspect::{Inspect, Policy};
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Format, Limits, Progress};
///
/// let upload = Arc::new(MemoryStorage::new(b"not an image".repeat(100)));
/// let progress = Arc::new(Progress::new()); // for whoever may stop it
/// let inspect = Inspect::new(Policy::strict())
///     .declared(Format::Qcow2)
///     .limits(Limits::default().within_memory(64 << 20))
///     .progress(Arc::clone(&progress));
/// let verdict = inspect.storage(upload, Path::new("upload"))?;
/// assert!(verdict.reasons.iter().any(|reason| reason.rule == "declared-mismatch"));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Inspect {
    policy: Policy,
    declared: Option<Format>,
    format: Option<Format>,
    limits: Limits,
    progress: Option<Arc<Progress>>,
    #[cfg(feature = "checksum")]
    algorithms: Vec<Algorithm>,
}

/// What was found of an image, and whether it may pass.
///
/// ```
/// use diskimage::Format;
/// use diskimage::inspect::{Inspect, Policy};
///
/// let mut stream = Inspect::new(Policy::permissive()).format(Format::Raw).stream();
/// stream.push(&[0; 4096]);
/// let verdict = stream.finish();
/// assert!(verdict.is_allowed() && !verdict.early);
/// assert_eq!(verdict.facts.virtual_size, Some(4096));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Verdict {
    /// What it is.
    pub facts: Facts,
    /// Why it is refused, as sentences; empty if it is allowed.
    pub reasons: Vec<Reason>,
    /// Whether that was clear before the image had ended; the facts are those of its start.
    pub early: bool,
    /// Checksums of the bytes of the file, as they were asked for. None after an early refusal.
    #[cfg(feature = "checksum")]
    pub digests: Vec<Digest>,
}

impl Verdict {
    /// Whether it may pass.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.reasons.is_empty()
    }
}

impl Inspect {
    /// Judges by `policy`.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// What the image is said to be. [`Format::Raw`] means the plain content of a disk: an image in
    /// any other format is refused then, since a reader that detects formats would take it for that.
    #[must_use]
    pub fn declared(mut self, format: Format) -> Self {
        self.declared = Some(format);
        self
    }

    /// Takes the image for this format instead of detecting one, as a reader that is told so will.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// The bounds on what a file can make this crate do.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Who may stop it: a file is not read on once it is asked to stop or its time is over.
    #[must_use]
    pub fn progress(mut self, progress: Arc<Progress>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Computes a checksum of the bytes of a [`Stream`] while they pass. An error for
    /// [`Algorithm::Blkhash`], which is one of disks.
    ///
    /// ```
    /// use diskimage::Format;
    /// use diskimage::checksum::Algorithm;
    /// use diskimage::inspect::{Inspect, Policy};
    ///
    /// let inspect = Inspect::new(Policy::permissive()).format(Format::Raw);
    /// let mut stream = inspect.algorithm(Algorithm::Crc32)?.stream();
    /// stream.push(b"123456789");
    /// let verdict = stream.finish();
    /// assert_eq!(verdict.digests[0].to_string(), "cbf43926");
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[cfg(feature = "checksum")]
    pub fn algorithm(mut self, algorithm: Algorithm) -> Result<Self> {
        Hashers::new(&[algorithm])?;
        self.algorithms.push(algorithm);
        Ok(self)
    }

    /// Judges the file at `path`, or the member `FILE#MEMBER` of an archive. Of an archive each disk
    /// is judged, and of a compressed file what is inside, which is decoded and not kept: an image, or
    /// an archive of images. What is compressed in that once more is not looked into. An error is the
    /// environment's: what is wrong with the image is in the verdict.
    ///
    /// ```
    /// use diskimage::inspect::{Inspect, Policy};
    /// use diskimage::{ErrorKind, Format};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("upload");
    /// # let image = {
    /// #     use diskimage::{Convert, Target, format::qcow2::Qcow2Options, target::SpillTarget};
    /// #     let mut image = Vec::new();
    /// #     let target = SpillTarget::new(&mut image, &std::env::temp_dir(), 1 << 20)?;
    /// #     Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 30)?), &target)?;
    /// #     Box::new(target).finish()?;
    /// #     image
    /// # };
    /// std::fs::write(&path, &image[..image.len() / 2])?; // cut off
    /// let verdict = Inspect::new(Policy::strict()).declared(Format::Qcow2).file(&path)?;
    /// assert_eq!(verdict.reasons[0].rule, "unreadable");
    /// let error = verdict.facts.error.expect("why it cannot be read");
    /// assert_eq!(error.kind(), ErrorKind::Corrupt);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn file(&self, path: impl AsRef<Path>) -> Result<Verdict> {
        let path = path.as_ref();
        let (file, member) = split_name(path);
        let storage = Arc::new(FileStorage::open(&file)?);
        let options = self.options(self.limits.clone());
        let found = options.open_named(storage, &file, member)?;
        self.storage(found.storage, &found.path)
    }

    /// The same for any storage; `path` is its name.
    pub fn storage(&self, storage: Arc<dyn Storage>, path: &Path) -> Result<Verdict> {
        let options = self.options(self.limits.clone());
        let storage = options.watched(storage);
        let probe = probe(&storage).map_err(|error| error.in_file(path))?;
        let facts = match self.look_into(&storage, path, &probe)? {
            Some(facts) => facts,
            None => Facts::of_file(&options, storage, path, probe)?,
        };
        Ok(self.verdict(facts))
    }

    /// Judges an image while it passes by.
    #[must_use]
    pub fn stream(self) -> Stream {
        Stream::new(self)
    }

    fn options(&self, limits: Limits) -> OpenOptions {
        let mut options = OpenOptions::new().limits(limits).look_over(0);
        if let Some(format) = self.format {
            options = options.format(format);
        }
        if let Some(progress) = &self.progress {
            options = options.progress(Arc::clone(progress));
        }
        options
    }

    fn verdict(&self, facts: Facts) -> Verdict {
        let reasons = self.policy.judge(&facts, self.declared);
        Verdict {
            facts,
            reasons,
            early: false,
            #[cfg(feature = "checksum")]
            digests: Vec::new(),
        }
    }
}
