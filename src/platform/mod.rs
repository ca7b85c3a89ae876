//! Platforms: what a cloud or a hypervisor would refuse of an image, why, and what mends it.
//!
//! ```
//! use diskimage::platform::{Lint, Platform};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("disk.vhd");
//! # std::fs::write(&path, [0; 4096])?;
//! let report = Lint::new(Platform::Azure).file(&path)?;
//! for problem in &report.problems {
//!     println!("{} ({})", problem.sentence, problem.source.map_or("", |source| source.url));
//! }
//! # assert!(report.is_refused());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Each rule is from the platform's own documentation, which a [`Source`] names; what is written
//! nowhere is no rule here. The rules are in one table, `rules.rs`. Whether a machine starts from the
//! disk (drivers, boot loaders, agents) is not looked at.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use crate::container::{Compressed, Listing, split_name};
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::format::Format;
use crate::inspect::{Facts, Inspect, Policy};
use crate::limits::Limits;
use crate::open::OpenOptions;
use crate::progress::Progress;
use crate::storage::{FileStorage, Storage};

mod judge;
mod rules;

pub use rules::{Need, Preset, Source};

/// Where images are taken to.
///
/// ```
/// use diskimage::{Format, Platform};
///
/// let azure: Platform = "azure".parse()?;
/// assert_eq!(azure.preset(None).map(|preset| preset.format), Some(Format::Vhd));
/// assert_eq!(azure.rounded_size((50 << 20) + 1), Some(51 << 20)); // whole MiB
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Platform {
    /// OpenStack: Glance and Nova.
    OpenStack,
    /// QEMU and libvirt on a Linux host.
    Kvm,
    /// Microsoft Azure.
    Azure,
    /// Amazon EC2, by VM Import/Export.
    Aws,
    /// Google Compute Engine.
    Gce,
    /// VMware vSphere and ESXi.
    Vsphere,
    /// Microsoft Hyper-V.
    HyperV,
    /// Oracle VirtualBox.
    VirtualBox,
    /// Proxmox VE.
    Proxmox,
}

impl Platform {
    /// Every platform.
    pub const ALL: &[Self] = &[
        Self::OpenStack,
        Self::Kvm,
        Self::Azure,
        Self::Aws,
        Self::Gce,
        Self::Vsphere,
        Self::HyperV,
        Self::VirtualBox,
        Self::Proxmox,
    ];

    /// The name, such as `azure`.
    ///
    /// ```
    /// use diskimage::Platform;
    ///
    /// assert_eq!((Platform::Gce.name(), Platform::Gce.title()), ("gce", "Compute Engine"));
    /// assert_eq!(Platform::Gce.to_string(), "gce");
    /// ```
    #[must_use]
    pub fn name(self) -> &'static str {
        self.rules().name
    }

    /// The name as its makers write it, such as `Azure`.
    #[must_use]
    pub fn title(self) -> &'static str {
        self.rules().title
    }

    /// How an image is best written for it: in `format`, or else in the one that suits it best. `None`
    /// if it does not take that format, or an image of it is not written.
    #[must_use]
    pub fn preset(self, format: Option<Format>) -> Option<&'static Preset> {
        let mut presets = self.rules().presets.iter();
        match format {
            None => presets.next(),
            Some(wanted) => presets.find(|preset| preset.format == wanted),
        }
    }

    /// Every way to write an image for it, the best first.
    ///
    /// ```
    /// use diskimage::{Format, Platform};
    ///
    /// let presets = Platform::HyperV.presets();
    /// assert_eq!([Format::Vhdx, Format::Vhd], [presets[0].format, presets[1].format]);
    /// assert_eq!(Platform::HyperV.preset(None), presets.first());
    /// assert_eq!(Platform::HyperV.preset(Some(Format::Qcow2)), None);
    /// ```
    #[must_use]
    pub fn presets(self) -> &'static [Preset] {
        self.rules().presets
    }

    /// The size that a disk of `size` bytes must be given: that rounded up to what the platform takes.
    /// `None` where there is no such number.
    ///
    /// ```
    /// use diskimage::Platform;
    ///
    /// assert_eq!(Platform::Gce.rounded_size(700 << 20), Some(1 << 30)); // whole GiB
    /// assert_eq!(Platform::Azure.rounded_size(512), Some(20 << 20)); // no less than that
    /// assert_eq!(Platform::Kvm.rounded_size(512), Some(512));
    /// ```
    #[must_use]
    pub fn rounded_size(self, size: u64) -> Option<u64> {
        let rules = self.rules();
        let least = size.max(rules.smallest.as_ref().map_or(0, |(least, _)| *least));
        match &rules.step {
            None => Some(least),
            Some((step, _)) => least.max(1).checked_next_multiple_of(*step),
        }
    }
}

impl Platform {
    /// Whether an image may go there together with the files that it needs.
    ///
    /// ```
    /// use diskimage::Platform;
    ///
    /// assert!(Platform::Kvm.takes_others()); // a child and its backing file
    /// assert!(!Platform::OpenStack.takes_others());
    /// ```
    #[must_use]
    pub fn takes_others(self) -> bool {
        self.rules().others
    }

    /// The subformats of this format that it takes, if not all of them: a VMDK's `createType`, `fixed`
    /// and `dynamic` of VHD and VHDX.
    ///
    /// ```
    /// use diskimage::{Format, Platform};
    ///
    /// assert_eq!(Platform::Azure.subformats(Format::Vhd), ["fixed"]);
    /// assert!(Platform::HyperV.subformats(Format::Vhd).is_empty()); // any
    /// ```
    #[must_use]
    pub fn subformats(self, format: Format) -> &'static [&'static str] {
        let taken = self.rules().takes.iter().find(|taken| taken.format == format);
        taken.map_or(&[], |taken| taken.subformats)
    }

    /// Whether a disk of `size` bytes is taken in this format: an error that says why not.
    ///
    /// ```
    /// use diskimage::{ErrorKind, Format, Platform};
    ///
    /// Platform::HyperV.check_size(Format::Vhdx, 4 << 40)?;
    /// // of these 2040 GiB at most
    /// let error = Platform::HyperV.check_size(Format::Vhd, 4 << 40).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidInput);
    /// assert!(error.advice().is_some_and(|advice| advice.contains("another format")));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn check_size(self, format: Format, size: u64) -> Result<()> {
        let applies = |bound: &&rules::Largest| {
            bound.limits.is_none() && bound.format.is_none_or(|only| only == format)
        };
        match self.rules().largest.iter().filter(applies).find(|bound| size > bound.size) {
            None => Ok(()),
            Some(bound) => Err(PlatformDetail::TooLarge {
                size,
                most: bound.size,
                title: self.title(),
                source_url: bound.source.url,
            }
            .into()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// The names, in any case of letters.
    fn from_str(name: &str) -> Result<Self> {
        let wanted = name.to_ascii_lowercase();
        let found = Self::ALL.iter().find(|platform| platform.name() == wanted);
        Ok(*found.ok_or_else(|| PlatformDetail::Unknown(crate::text::printable_str(name)))?)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[derive(Debug, thiserror::Error)]
enum PlatformDetail {
    #[error("no platform is called '{0}'")]
    Unknown(String),
    #[error("a disk of {size} bytes: {title} takes at most {most} ({source_url})")]
    TooLarge { size: u64, most: u64, title: &'static str, source_url: &'static str },
}

impl Detail for PlatformDetail {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }

    fn advice(&self) -> Option<std::borrow::Cow<'static, str>> {
        let names: Vec<_> = Platform::ALL.iter().map(|platform| platform.name()).collect();
        Some(match self {
            Self::Unknown(_) => format!("choose among {}", names.join(", ")).into(),
            Self::TooLarge { .. } => {
                "choose another format with -O, or make the disk smaller".into()
            }
        })
    }
}

/// Something that a platform would not take, or only for some uses.
///
/// ```
/// # use std::{path::Path, sync::Arc};
/// # use diskimage::storage::MemoryStorage;
/// use diskimage::Format;
/// use diskimage::platform::{Lint, Platform, Remedy};
///
/// # let storage = Arc::new(MemoryStorage::new(vec![0; 1 << 20]));
/// let lint = Lint::new(Platform::Azure).format(Format::Raw);
/// let report = lint.storage(storage, Path::new("disk.raw"))?;
/// let problem = &report.problems[0];
/// assert_eq!(problem.sentence, "It is a raw disk; Azure takes fixed VHDs only.");
/// assert_eq!((problem.rule, problem.refused), ("format", true));
/// assert_eq!(problem.remedy, Remedy::Convert);
/// assert!(problem.source.is_some_and(|source| source.url.starts_with("https://learn.microsoft")));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Problem {
    /// The rule, as a stable word: `format`, `subformat`, `virtual-size`, `file-size`, `other-files`,
    /// `backing-format`, `archive`, `guessed`, `unreadable`; or, for OpenStack, that of the
    /// [policy](crate::inspect::Reason::rule) of this name.
    pub rule: &'static str,
    /// Whether the image is refused. If not, it is taken, but not for every use.
    pub refused: bool,
    /// What is wrong and what is wanted, in words.
    pub sentence: String,
    /// Where that is written. `None` where nobody could take such an image.
    pub source: Option<&'static Source>,
    /// What mends it.
    pub remedy: Remedy,
}

/// What mends a [`Problem`].
///
/// ```
/// # use std::{path::Path, sync::Arc};
/// # use diskimage::storage::MemoryStorage;
/// use diskimage::Format;
/// use diskimage::platform::{Lint, Platform, Remedy};
///
/// # let storage = Arc::new(MemoryStorage::new(vec![0; 1 << 20]));
/// let lint = Lint::new(Platform::Vsphere).format(Format::Raw);
/// let report = lint.storage(storage, Path::new("disk.raw"))?;
/// let preset = Platform::Vsphere.preset(None).expect("an OVA");
/// let advice = match report.problems[0].remedy {
///     Remedy::Convert => format!("write it as {}", preset.format),
///     Remedy::ConvertWithOthers => format!("write it and its parents as {}", preset.format),
///     Remedy::Other(what) => what.to_owned(),
///     _ => String::new(),
/// };
/// assert_eq!(advice, "write it as ova");
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Writing the disk anew by the platform's [preset](Platform::preset).
    Convert,
    /// The same, with the files that the image needs.
    ConvertWithOthers,
    /// Nothing that can be done to the image from outside: what else, in words.
    Other(&'static str),
}

/// What [`Lint`] found.
///
/// ```
/// # use std::{path::Path, sync::Arc};
/// # use diskimage::storage::MemoryStorage;
/// use diskimage::Format;
/// use diskimage::platform::{Lint, Platform};
///
/// let disk = Arc::new(MemoryStorage::new(vec![0; 1 << 20]));
/// for (platform, refused) in [(Platform::Kvm, false), (Platform::Azure, true)] {
///     let lint = Lint::new(platform).format(Format::Raw);
///     let report = lint.storage(disk.clone(), Path::new("disk.raw"))?;
///     assert_eq!((report.platform, report.is_refused()), (platform, refused));
///     assert_eq!(report.facts.virtual_size, Some(1 << 20));
/// }
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// The platform.
    pub platform: Platform,
    /// What the image is.
    pub facts: Facts,
    /// What is wrong with it there; empty if nothing was found.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether the platform would refuse the image.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.problems.iter().any(|problem| problem.refused)
    }
}

/// How to look at an image for a platform: a builder.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::platform::{Lint, Platform};
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Format, Limits, Progress};
///
/// let disk = Arc::new(MemoryStorage::new(vec![0; 1 << 20]));
/// let progress = Arc::new(Progress::new()); // for whoever may stop it
/// let lint = Lint::new(Platform::Azure)
///     .format(Format::Raw)
///     .limits(Limits::default().within_memory(64 << 20))
///     .progress(Arc::clone(&progress));
/// let report = lint.storage(disk, Path::new("disk.raw"))?;
/// assert!(report.is_refused());
/// for problem in &report.problems {
///     println!("{} {:?}", problem.sentence, problem.remedy);
/// }
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Lint {
    platform: Platform,
    format: Option<Format>,
    limits: Limits,
    progress: Option<Arc<Progress>>,
}

impl Lint {
    /// For this platform.
    #[must_use]
    pub fn new(platform: Platform) -> Self {
        Self { platform, format: None, limits: Limits::default(), progress: None }
    }

    /// Takes the image for this format instead of detecting one.
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

    /// Who may stop it.
    #[must_use]
    pub fn progress(mut self, progress: Arc<Progress>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Looks at the file at `path`, or at the member `FILE#MEMBER` of an archive. No other file is
    /// opened. An archive in a gzip file is decoded from its start to its end. An error is the
    /// environment's: what is wrong with the image is in the report.
    ///
    /// ```
    /// use diskimage::Format;
    /// use diskimage::platform::{Lint, Platform};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("disk.raw");
    /// std::fs::write(&path, vec![0; 1 << 20])?;
    /// let report = Lint::new(Platform::Aws).format(Format::Raw).file(&path)?;
    /// assert!(!report.is_refused());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn file(&self, path: impl AsRef<Path>) -> Result<Report> {
        let path = path.as_ref();
        let (file, member) = split_name(path);
        let storage: Arc<dyn Storage> = Arc::new(FileStorage::open(&file)?);
        let found = self.options().open_named(storage, &file, member)?;
        self.storage(found.storage, &found.path)
    }

    /// The same for any storage; `path` is its name.
    pub fn storage(&self, storage: Arc<dyn Storage>, path: &Path) -> Result<Report> {
        let policy = match self.platform {
            Platform::OpenStack => Policy::openstack(),
            _ => Policy::new(self.platform.name()),
        };
        let mut inspect = Inspect::new(policy).limits(self.limits.clone());
        if let Some(format) = self.format {
            inspect = inspect.format(format);
        }
        if let Some(progress) = &self.progress {
            inspect = inspect.progress(Arc::clone(progress));
        }
        let storage = self.options().watched(storage);
        let verdict = inspect.storage(Arc::clone(&storage), path)?;
        let facts = verdict.facts;
        let listing = self.listing(&facts, &storage, path)?;
        let current_size = self.current_size(&facts, &storage, path)?;
        let judge = judge::Judge::new(self.platform, &facts, listing.as_ref(), current_size);
        let problems = judge.problems(&verdict.reasons);
        Ok(Report { platform: self.platform, facts, problems })
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new().limits(self.limits.clone());
        if let Some(format) = self.format {
            options = options.format(format);
        }
        if let Some(progress) = &self.progress {
            options = options.progress(Arc::clone(progress));
        }
        options
    }

    /// What lies in a compressed archive, where the platform takes such a one.
    fn listing(
        &self,
        facts: &Facts,
        storage: &Arc<dyn Storage>,
        path: &Path,
    ) -> Result<Option<Result<Listing>>> {
        let is_tar = facts.inside.first().is_some_and(|i| i.facts.format == Some(Format::Tar));
        if self.platform != Platform::Gce || facts.format != Some(Format::Gzip) || !is_tar {
            return Ok(None);
        }
        let memory = self.limits.max_decoder_memory;
        let compressed = Compressed::new(Arc::clone(storage), path, Format::Gzip, memory);
        if let Some(progress) = &self.progress {
            progress.start_reading(storage.size());
        }
        match compressed.list(&self.limits) {
            Err(error) if error.is_no_damage() => Err(error),
            listing => Ok(Some(listing)),
        }
    }

    /// The size that a VHD's footer tells, which is not the one that all readers go by.
    fn current_size(
        &self,
        facts: &Facts,
        storage: &Arc<dyn Storage>,
        path: &Path,
    ) -> Result<Option<u64>> {
        if facts.format != Some(Format::Vhd) || facts.error.is_some() {
            return Ok(None);
        }
        let image = self.options().open_image_storage(Arc::clone(storage), path)?;
        let details = image.layer().describe()?.details;
        Ok(details.into_iter().find_map(|(key, value)| match value {
            crate::layer::Value::Number(size) if key == "current-size" => Some(size),
            _ => None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_platforms() {
        for &platform in Platform::ALL {
            assert_eq!(platform.name().parse::<Platform>().unwrap(), platform);
            assert_eq!(
                platform.title().parse::<Platform>().ok(),
                Some(platform)
                    .filter(|_| { platform.title().eq_ignore_ascii_case(platform.name()) })
            );
        }
        let error = "cloud".parse::<Platform>().unwrap_err();
        assert!(error.advice().unwrap().contains("openstack, kvm, azure"));
    }

    #[test]
    fn sizes_are_rounded_up_and_never_wrapped() {
        let mib = 1 << 20;
        assert_eq!(Platform::Azure.rounded_size(1), Some(20 * mib), "the smallest that is taken");
        assert_eq!(Platform::Azure.rounded_size(64 * mib), Some(64 * mib));
        assert_eq!(Platform::Azure.rounded_size(64 * mib + 512), Some(65 * mib));
        assert_eq!(Platform::Gce.rounded_size(0), Some(1 << 30));
        assert_eq!(Platform::Gce.rounded_size(u64::MAX), None);
        assert_eq!(Platform::Kvm.rounded_size(513), Some(513));
    }

    /// What is written by default is what the platform takes.
    #[test]
    fn presets_obey_their_own_rules() {
        for &platform in Platform::ALL {
            let rules = platform.rules();
            assert!(!rules.presets.is_empty(), "{platform}");
            for preset in rules.presets {
                let taken = rules.takes.iter().find(|taken| taken.format == preset.format);
                let taken = taken.unwrap_or_else(|| panic!("{platform}: {}", preset.format));
                if !taken.subformats.is_empty() && preset.format != Format::Ova {
                    let chosen = preset.options.iter().find(|need| need.key == "subformat");
                    let chosen = chosen.unwrap_or_else(|| panic!("{platform}: {}", preset.format));
                    assert!(taken.subformats.contains(&chosen.value), "{platform}");
                }
            }
        }
    }
}
