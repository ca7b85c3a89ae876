//! One image, opened by itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chain::{Chain, ChainImage};
use crate::check::{CheckReport, Checking, Patch, RepairScope, Repaired};
use crate::error::{Error, Result};
use crate::finding::{Code, Finding};
use crate::format::probe::Probe;
use crate::layer::Layer;
use crate::storage::Storage;

/// Virtual sizes from here on are worth a second look: more than an ext4 file can hold.
const HUGE: u64 = 16 << 40;

/// All that is odd about an image: what its format finds, what probing found, and what can be
/// said of every format.
fn findings(layer: &dyn Layer, probe: Option<&Probe>) -> Result<Vec<Finding>> {
    let mut findings = probe.map(Probe::findings).unwrap_or_default();
    findings.extend(layer.describe()?.findings);
    if let Some(reference) = layer.references().first() {
        let text = format!("names another file: '{}'", reference.printable_name());
        findings.push(Finding::new(Code::ExternalReference, text).at(reference.offset));
    }
    if layer.size() >= HUGE {
        let text = format!("the virtual size is {} TiB", layer.size().wrapping_shr(40));
        findings.push(Finding::new(Code::VirtualSizeHuge, text));
    }
    Ok(findings)
}

/// One image file, opened without anything it names.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Code, Format, OpenOptions};
///
/// let storage = Arc::new(MemoryStorage::new(vec![0; 1 << 20]));
/// let image = OpenOptions::new().assume_raw(true).open_image_storage(storage, Path::new("disk"))?;
/// assert_eq!(image.layer().format(), Format::Raw);
/// assert_eq!(image.findings()?[0].code, Code::FormatGuessed);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct Image {
    pub(super) path: PathBuf,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) layer: Box<dyn Layer>,
    pub(super) probe: Probe,
    pub(super) forced: bool,
    /// What is odd about its name.
    pub(super) named: Vec<Finding>,
}

impl Image {
    /// The file's name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes.
    #[must_use]
    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// What the format makes of it.
    #[must_use]
    pub fn layer(&self) -> &dyn Layer {
        &*self.layer
    }

    /// Every format that fits it.
    ///
    /// ```
    /// # use std::path::Path;
    /// # use std::sync::Arc;
    /// # use diskimage::format::qcow2::Qcow2Options;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::StreamTarget;
    /// # use diskimage::{Convert, Target};
    /// use diskimage::{Format, OpenOptions};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = StreamTarget::new(&mut bytes);
    /// # Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 20)?), &target)?;
    /// # Box::new(target).finish()?;
    /// # let storage = Arc::new(MemoryStorage::new(bytes));
    /// // a QCOW2 that somebody wants to have read as a raw disk
    /// let options = OpenOptions::new().format(Format::Raw);
    /// let image = options.open_image_storage(storage, Path::new("disk.raw"))?;
    /// assert_eq!((image.path(), image.is_forced()), (Path::new("disk.raw"), true));
    /// assert_eq!(image.layer().size(), image.storage().size());
    /// let formats: Vec<_> = image.probe().images().map(|found| found.format).collect();
    /// assert_eq!(formats, [Format::Qcow2]); // as its bytes have it
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// All that is odd, dangerous or broken about it.
    pub fn findings(&self) -> Result<Vec<Finding>> {
        let findings = findings(&*self.layer, Some(&self.probe));
        let mut findings = findings.map_err(|error| error.in_file(&self.path))?;
        findings.extend(self.named.iter().cloned());
        // nothing was guessed where the caller named the format
        findings.retain(|finding| !self.forced || finding.code != Code::FormatGuessed);
        Ok(findings)
    }

    /// Reads its tables whole, without opening any other file, and tells what is wrong: what the
    /// format's check finds, and [what is odd anyway](Self::findings). An image that is marked as
    /// corrupt, was not closed properly or is cut off is not without errors.
    ///
    /// An error of kind [`Unsupported`](crate::ErrorKind::Unsupported) means that there is nothing in this
    /// format to check.
    ///
    /// ```
    /// # use std::path::Path;
    /// # use std::sync::Arc;
    /// # use diskimage::format::vhd::VhdOptions;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::SpillTarget;
    /// # use diskimage::{Convert, Target};
    /// use diskimage::{Checking, OpenOptions};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = SpillTarget::new(&mut bytes, &std::env::temp_dir(), 1 << 20)?;
    /// # Convert::new().create(Box::new(VhdOptions::new().writer(1 << 20)?), &target)?;
    /// # Box::new(target).finish()?;
    /// # bytes[..512].fill(0);
    /// # let storage = Arc::new(MemoryStorage::new(bytes));
    /// // a dynamic VHD whose copy of the footer, at its start, is gone
    /// let image = OpenOptions::new().open_image_storage(storage, Path::new("disk.vhd"))?;
    /// let report = image.check(Checking::new())?;
    /// assert_eq!(report.corruptions, 1);
    /// for finding in &report.findings {
    ///     println!("{}: {}", finding.code, finding.message);
    /// }
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn check(&self, checking: Checking) -> Result<CheckReport> {
        let in_file = |error: Error| error.in_file(&self.path);
        self.layer.check(&checking).map_err(in_file)?;
        let found = checking.report().codes.clone();
        for finding in self.findings()? {
            match finding.code {
                // what the check has told already, it has told with its place
                code if code == Code::CheckError || found.contains(&code) => {}
                Code::Truncated if found.contains(&Code::BeyondEnd) => checking.note(finding),
                Code::Corrupt | Code::Dirty | Code::Truncated | Code::NewlineMangled => {
                    checking.corruption(finding);
                }
                _ => checking.note(finding),
            }
        }
        let (corruptions, errors) = {
            let report = checking.report();
            (report.corruptions, report.check_errors)
        };
        if (corruptions > 0 || errors > 0) && !found.contains(&Code::CheckError) {
            let text = format!("{corruptions} error(s), and {errors} unreadable structure(s)");
            checking.note(Finding::new(Code::CheckError, text));
        }
        // a read that was stopped may have passed for damage
        checking.watcher().check().map_err(in_file)?;
        Ok(checking.into_report())
    }

    /// Has `patch` write what mends it. `checking` says with how much memory and how many threads,
    /// and whom to tell how far it is.
    ///
    /// [`Repaired`] has an example in memory, and the [guide](crate::guide::check) one of a file. What
    /// would be done to an image that is whole:
    ///
    /// ```
    /// # use std::path::Path;
    /// # use std::sync::Arc;
    /// # use diskimage::format::qcow2::Qcow2Options;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::StreamTarget;
    /// # use diskimage::{Convert, Target};
    /// use diskimage::check::DryRun;
    /// use diskimage::{Checking, OpenOptions, RepairScope};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = StreamTarget::new(&mut bytes);
    /// # Convert::new().create(Box::new(Qcow2Options::new().writer(1 << 20)?), &target)?;
    /// # Box::new(target).finish()?;
    /// # let storage = Arc::new(MemoryStorage::new(bytes));
    /// let image = OpenOptions::new().open_image_storage(storage, Path::new("disk.qcow2"))?;
    /// let mut plan = DryRun::new();
    /// image.repair(RepairScope::All, &Checking::new(), &mut plan)?;
    /// assert!(plan.writes.is_empty());
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn repair(
        &self,
        scope: RepairScope,
        checking: &Checking,
        patch: &mut dyn Patch,
    ) -> Result<Repaired> {
        let repaired = self.layer.repair(scope, checking, patch);
        repaired.map_err(|error| error.in_file(&self.path))
    }

    /// The disk inside, where it needs no other file; `None` where it does.
    pub(crate) fn into_disk(self) -> Result<Option<Chain>> {
        if !self.layer.references().is_empty() {
            return Ok(None);
        }
        self.layer.check_readable()?;
        Ok(Some(Chain::new(ChainImage::new(self.path, self.layer, self.storage), Vec::new())))
    }

    /// Whether the format was named by the caller rather than detected.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.forced
    }
}

impl ChainImage {
    /// All that is odd, dangerous or broken about it; how it was detected is not told.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::chain::ChainImage;
    /// use diskimage::format::LayerOptions;
    /// use diskimage::storage::MemoryStorage;
    /// use diskimage::{Code, Format, Storage};
    ///
    /// let descriptor = "# Disk DescriptorFile\nversion=1\nCID=0000beef\nparentCID=ffffffff\n\
    ///     createType=\"monolithicFlat\"\nRW 8 FLAT \"disk-flat.vmdk\" 0\n";
    /// let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(descriptor.into()));
    /// let layer = Format::Vmdk.open(Arc::clone(&storage), &LayerOptions::default())?;
    /// let image = ChainImage::new("disk.vmdk".into(), layer, storage);
    /// let codes: Vec<_> = image.findings()?.iter().map(|finding| finding.code).collect();
    /// assert!(codes.contains(&Code::ExternalExtents));
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    pub fn findings(&self) -> Result<Vec<Finding>> {
        findings(self.layer(), None)
    }
}
