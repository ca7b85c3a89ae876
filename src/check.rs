//! Checking and repairing one image: the vocabulary that formats speak in.
//!
//! A format's [`Layer::check`](crate::Layer::check) reads its tables and tells a [`Checking`] what it
//! finds; [`Layer::repair`](crate::Layer::repair) tells a [`Patch`] what to write. Neither opens a
//! file, and neither reads what it wrote.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::finding::{Code, Finding};
use crate::num::{to_u64, to_usize};
use crate::progress::Progress;

/// How to check, and the place where a format's check puts what it finds. Shared by its threads.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use diskimage::storage::MemoryStorage;
/// use diskimage::{Checking, ErrorKind, Format, OpenOptions};
///
/// # let storage = Arc::new(MemoryStorage::new(vec![0; 1 << 20]));
/// let options = OpenOptions::new().format(Format::Raw);
/// let image = options.open_image_storage(storage, Path::new("disk.raw"))?;
/// // without a partition table there is nothing to check in a raw disk
/// let error = image.check(Checking::new()).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Unsupported);
/// # Ok::<(), diskimage::Error>(())
/// ```
///
/// A format's [check](crate::Layer::check) tells it what it finds:
///
/// ```
/// use diskimage::{Checking, Code, Finding, Result};
///
/// /// Each entry is the offset of a block of 512 bytes of the file, or zero.
/// fn check_table(entries: &[u64], file_size: u64, checking: &Checking) -> Result<()> {
///     for &entry in entries {
///         checking.watcher().check()?; // somebody may have asked to stop
///         if entry % 512 != 0 {
///             let text = format!("an entry leads to {entry:#x}, into a block");
///             checking.corruption(Finding::new(Code::Misaligned, text));
///         } else if entry >= file_size {
///             checking.corruption(Finding::new(Code::BeyondEnd, "an entry leads beyond the end"));
///         }
///     }
///     checking.report().total_clusters = Some(entries.len() as u64);
///     Ok(())
/// }
///
/// let checking = Checking::new();
/// check_table(&[512, 700, 0, 4096], 2048, &checking)?;
/// checking.leak(1, Finding::new(Code::LeakedCluster, "nothing refers to a block").at(1024));
/// let report = checking.into_report();
/// assert_eq!((report.corruptions, report.leaks, report.total_clusters), (2, 1, Some(4)));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug)]
pub struct Checking {
    threads: NonZeroUsize,
    max_memory: u64,
    max_findings: usize,
    progress: Arc<Progress>,
    report: Mutex<CheckReport>,
}

/// What a check found. The numbers are those of `qemu-img check`.
///
/// ```
/// # use std::path::Path;
/// # use std::sync::Arc;
/// # use diskimage::format::qcow2::Qcow2Options;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::target::StreamTarget;
/// # use diskimage::{Convert, Target};
/// use diskimage::{Checking, Code, OpenOptions};
///
/// # let mut bytes = Vec::new();
/// # let target = StreamTarget::new(&mut bytes);
/// # let writer = Qcow2Options::new().cluster_size(512).writer(1 << 20)?;
/// # Convert::new().create(Box::new(writer), &target)?;
/// # Box::new(target).finish()?;
/// # // cluster 100 is counted and not used: its count of 16 bits is in the first block of counts
/// # let at = |bytes: &[u8], offset: usize| {
/// #     bytes[offset..offset + 8].iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte))
/// # };
/// # let block = at(&bytes, at(&bytes, 0x30));
/// # bytes[block + 201] = 1;
/// # bytes.resize(101 * 512, 0);
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// # let path = Path::new("disk.qcow2");
/// let image = OpenOptions::new().open_image_storage(storage, path)?;
/// let report = image.check(Checking::new())?;
/// assert!(!report.is_clean());
/// assert_eq!((report.corruptions, report.leaks), (0, 1));
/// let leak = report.findings.iter().find(|finding| finding.code == Code::LeakedCluster);
/// assert_eq!(leak.and_then(|leak| leak.offset), Some(100 * 512));
/// assert_eq!((report.total_clusters, report.allocated_clusters), (Some(2048), Some(0)));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// What is wrong or odd, in the order of the file; the first ones of it if there are too many.
    pub findings: Vec<Finding>,
    /// How many findings did not find room in [`findings`](Self::findings).
    pub more_findings: u64,
    /// The codes of all findings, also of those.
    pub codes: BTreeSet<Code>,
    /// How many things contradict each other or the specification so that data may be lost.
    pub corruptions: u64,
    /// How many clusters take up room that nothing refers to. Harmless but for the room.
    pub leaks: u64,
    /// How many structures could not be checked because they could not be read.
    pub check_errors: u64,
    /// Where the last byte in use ends, in the image file.
    pub image_end_offset: Option<u64>,
    /// Clusters (grains, blocks) of the virtual disk, where the format has such a thing.
    pub total_clusters: Option<u64>,
    /// Of these, how many hold data.
    pub allocated_clusters: Option<u64>,
    /// Of these, how many do not follow the one before them in the file.
    pub fragmented_clusters: Option<u64>,
    /// And how many are compressed.
    pub compressed_clusters: Option<u64>,
}

impl Default for Checking {
    fn default() -> Self {
        Self {
            threads: NonZeroUsize::MIN,
            max_memory: 48 << 20,
            max_findings: 1000,
            progress: Arc::default(),
            report: Mutex::default(),
        }
    }
}

impl Checking {
    /// One thread, 48 MiB, a thousand findings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of threads. The result never depends on it.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    /// Bound on the memory of bitmaps and buffers, bytes.
    #[must_use]
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = bytes;
        self
    }

    /// How many findings are kept; the others are counted.
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    ///
    /// use diskimage::{Checking, Code, Finding};
    ///
    /// let four = NonZeroUsize::MIN.saturating_add(3);
    /// let checking = Checking::new().threads(four).max_memory(16 << 20).max_findings(1);
    /// // what a format divides its work by
    /// assert_eq!((checking.thread_count(), checking.memory()), (four, 16 << 20));
    /// assert_eq!(checking.most_findings(), 1);
    ///
    /// checking.unreadable(Finding::new(Code::Unreadable, "the table cannot be read").at(0x3000));
    /// checking.note(Finding::new(Code::Unusual, "the header is longer than usual").at(0x1000));
    /// checking.more_corruptions(7); // for which there is no room
    /// let report = checking.into_report();
    /// assert_eq!(report.findings[0].offset, Some(0x1000)); // the first one of the file
    /// assert_eq!((report.corruptions, report.check_errors, report.more_findings), (7, 1, 8));
    /// assert!(report.codes.contains(&Code::Unreadable)); // of those too that were not kept
    /// ```
    #[must_use]
    pub fn max_findings(mut self, count: usize) -> Self {
        self.max_findings = count;
        self
    }

    /// Where to report progress, in bytes of tables, and who may cancel.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use diskimage::{Checking, ErrorKind, Progress};
    ///
    /// let progress = Arc::new(Progress::new());
    /// let checking = Checking::new().progress(Arc::clone(&progress));
    /// progress.cancel(); // from any thread, while the check runs
    /// let error = checking.watcher().check().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Cancelled);
    /// ```
    #[must_use]
    pub fn progress(mut self, progress: Arc<Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// What was found, in the order of the file.
    #[must_use]
    pub fn into_report(self) -> CheckReport {
        let mut report = self.report.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.keep_first(self.max_findings);
        report
    }

    /// Where the format reports its progress and sees whether to stop.
    #[must_use]
    pub fn watcher(&self) -> &Progress {
        &self.progress
    }

    /// How many threads may run.
    #[must_use]
    pub fn thread_count(&self) -> NonZeroUsize {
        self.threads
    }

    /// How many bytes bitmaps and buffers may take.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.max_memory
    }

    /// How many findings find room.
    #[must_use]
    pub fn most_findings(&self) -> usize {
        self.max_findings
    }

    /// So many more corruptions that are not worth a finding each, since there is no room.
    pub fn more_corruptions(&self, count: u64) {
        let mut report = self.report();
        report.corruptions = report.corruptions.saturating_add(count);
        report.more_findings = report.more_findings.saturating_add(count);
    }

    /// Something that data may be lost by.
    pub fn corruption(&self, finding: Finding) {
        let mut report = self.report();
        report.corruptions = report.corruptions.saturating_add(1);
        self.keep(&mut report, finding);
    }

    /// `clusters` of room that nothing refers to.
    pub fn leak(&self, clusters: u64, finding: Finding) {
        let mut report = self.report();
        report.leaks = report.leaks.saturating_add(clusters);
        self.keep(&mut report, finding);
    }

    /// Something that could not be read, and so could not be checked.
    pub fn unreadable(&self, finding: Finding) {
        let mut report = self.report();
        report.check_errors = report.check_errors.saturating_add(1);
        self.keep(&mut report, finding);
    }

    /// Something odd that loses no data.
    pub fn note(&self, finding: Finding) {
        let mut report = self.report();
        self.keep(&mut report, finding);
    }

    /// The report itself, for its numbers.
    pub fn report(&self) -> MutexGuard<'_, CheckReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One like this, for what may turn out to be no finding.
    pub(crate) fn scratch(&self) -> Self {
        Self {
            threads: self.threads,
            max_memory: self.max_memory,
            max_findings: self.max_findings,
            progress: Arc::clone(&self.progress),
            report: Mutex::default(),
        }
    }

    /// Takes over the findings of another one, and their numbers.
    pub(crate) fn absorb(&self, other: CheckReport) {
        let mut report = self.report();
        report.corruptions = report.corruptions.saturating_add(other.corruptions);
        report.leaks = report.leaks.saturating_add(other.leaks);
        report.check_errors = report.check_errors.saturating_add(other.check_errors);
        report.more_findings = report.more_findings.saturating_add(other.more_findings);
        report.codes.extend(other.codes);
        for finding in other.findings {
            self.keep(&mut report, finding);
        }
    }

    /// Keeps a finding; of too many, those that lie first in the file, whoever found them when.
    fn keep(&self, report: &mut CheckReport, finding: Finding) {
        report.codes.insert(finding.code);
        report.findings.push(finding);
        if report.findings.len() > self.max_findings.saturating_mul(2) {
            report.keep_first(self.max_findings);
        }
    }
}

impl CheckReport {
    /// Whether nothing is wrong. What is only odd does not count.
    ///
    /// ```
    /// use diskimage::{Checking, Code, Finding};
    ///
    /// let checking = Checking::new();
    /// checking.note(Finding::new(Code::UnusedSpace, "nothing refers to the last sector").at(0x30000));
    /// let report = checking.into_report();
    /// assert!(report.is_clean());
    /// assert_eq!(report.findings.len(), 1); // only odd
    /// ```
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.corruptions == 0 && self.leaks == 0 && self.check_errors == 0
    }

    fn keep_first(&mut self, count: usize) {
        self.findings.sort_by(|a, b| a.order().cmp(&b.order()));
        let dropped = self.findings.len().saturating_sub(count);
        self.more_findings = self.more_findings.saturating_add(to_u64(dropped));
        self.findings.truncate(count);
    }
}

/// What may be repaired.
///
/// ```
/// # use std::path::Path;
/// # use std::sync::Arc;
/// # use diskimage::format::vhd::VhdOptions;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::target::SpillTarget;
/// # use diskimage::{Convert, Target};
/// use diskimage::check::DryRun;
/// use diskimage::{Checking, OpenOptions, RepairScope};
///
/// # let mut bytes = Vec::new();
/// # let target = SpillTarget::new(&mut bytes, &std::env::temp_dir(), 1 << 20)?;
/// # Convert::new().create(Box::new(VhdOptions::new().writer(1 << 20)?), &target)?;
/// # Box::new(target).finish()?;
/// # let footer = bytes.len() - 512;
/// # bytes[footer..].fill(0);
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// # let path = Path::new("disk.vhd");
/// // a VHD whose footer is gone: a copy of it is at the start
/// let image = OpenOptions::new().open_image_storage(storage, path)?;
/// let fixed = |scope| -> diskimage::Result<u64> {
///     let repaired = image.repair(scope, &Checking::new(), &mut DryRun::new())?;
///     Ok(repaired.corruptions_fixed)
/// };
/// assert_eq!(fixed(RepairScope::Leaks)?, 0); // which this is none of
/// assert_eq!(fixed(RepairScope::All)?, 1);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RepairScope {
    /// Only leaked clusters, which cannot harm.
    Leaks,
    /// Everything that can be proven.
    All,
}

/// What takes the writes of a repair, in order. Killed between any two of them, the image is no
/// worse than before: that is for the format to see to.
///
/// One that keeps what it overwrites:
///
/// ```
/// use diskimage::Result;
/// use diskimage::check::Patch;
///
/// struct Undo {
///     image: Vec<u8>,
///     before: Vec<(usize, Vec<u8>)>,
/// }
///
/// impl Patch for Undo {
///     fn write(&mut self, offset: u64, bytes: &[u8], what: &str) -> Result<()> {
///         println!("{what}");
///         let start = offset as usize;
///         let end = start + bytes.len();
///         self.image.resize(self.image.len().max(end), 0);
///         self.before.push((start, self.image[start..end].to_vec()));
///         self.image[start..end].copy_from_slice(bytes);
///         Ok(())
///     }
///
///     fn barrier(&mut self) -> Result<()> {
///         Ok(()) // memory has no order of its own
///     }
/// }
///
/// let mut undo = Undo { image: vec![1; 4], before: Vec::new() };
/// undo.write(2, &[7; 4], "restore the header from its copy")?;
/// undo.barrier()?;
/// assert_eq!(undo.image, [1, 1, 7, 7, 7, 7]);
/// assert_eq!(undo.before, [(2, vec![1, 1, 0, 0])]);
/// # Ok::<(), diskimage::Error>(())
/// ```
pub trait Patch {
    /// Writes `bytes` at `offset` of the image file, which grows where needed. `what` says why, as
    /// a clause for people: `restore the header from its copy`.
    fn write(&mut self, offset: u64, bytes: &[u8], what: &str) -> Result<()>;

    /// Nothing that follows reaches the medium before all that went before.
    fn barrier(&mut self) -> Result<()>;
}

/// A patch that writes nothing, but tells what would be written.
///
/// ```
/// use diskimage::check::{DryRun, Patch};
///
/// let mut plan = DryRun::new();
/// plan.write(512, &[0; 8], "restore the header from its copy")?;
/// assert_eq!((plan.writes[0].offset, plan.writes[0].length), (512, 8));
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct DryRun {
    /// The writes, in their order.
    pub writes: Vec<PlannedWrite>,
    /// How many writes found no room in [`writes`](Self::writes), which holds ten thousand.
    pub more_writes: u64,
}

/// A write that a repair would do.
///
/// ```
/// # use std::path::Path;
/// # use std::sync::Arc;
/// # use diskimage::format::vhd::VhdOptions;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::target::SpillTarget;
/// # use diskimage::{Convert, Target};
/// use diskimage::check::DryRun;
/// use diskimage::{Checking, OpenOptions, RepairScope};
///
/// # let mut bytes = Vec::new();
/// # let target = SpillTarget::new(&mut bytes, &std::env::temp_dir(), 1 << 20)?;
/// # Convert::new().create(Box::new(VhdOptions::new().writer(1 << 20)?), &target)?;
/// # Box::new(target).finish()?;
/// # bytes[..512].fill(0);
/// # let storage = Arc::new(MemoryStorage::new(bytes));
/// # let path = Path::new("disk.vhd");
/// // a dynamic VHD whose copy of the footer, at its start, is gone
/// let image = OpenOptions::new().open_image_storage(storage, path)?;
/// let mut plan = DryRun::new();
/// image.repair(RepairScope::All, &Checking::new(), &mut plan)?;
/// let line = |write: &diskimage::check::PlannedWrite| {
///     format!("{} bytes at {:#x}: {}", write.length, write.offset, write.what)
/// };
/// let lines: Vec<_> = plan.writes.iter().map(line).collect();
/// assert_eq!(lines, ["512 bytes at 0x0: restore the copy of the footer from the footer"]);
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedWrite {
    /// Where in the image file.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// Why, as a clause.
    pub what: String,
}

impl DryRun {
    const MOST: usize = 10_000;

    /// Nothing is planned yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Patch for DryRun {
    fn write(&mut self, offset: u64, bytes: &[u8], what: &str) -> Result<()> {
        if self.writes.len() < Self::MOST {
            let length = to_u64(bytes.len());
            self.writes.push(PlannedWrite { offset, length, what: what.to_owned() });
        } else {
            self.more_writes = self.more_writes.saturating_add(1);
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A patch over an image in memory, which can be made to stop in the middle: for tests of what a
/// killed repair leaves behind.
///
/// ```
/// use diskimage::check::{MemoryPatch, Patch};
///
/// let mut patch = MemoryPatch::new(vec![0; 4]).stop_after(1);
/// patch.write(0, b"a", "for a reason")?;
/// assert!(patch.write(1, b"b", "and another").is_err());
/// assert_eq!(patch.into_bytes(), b"a\0\0\0");
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct MemoryPatch {
    bytes: Vec<u8>,
    writes: u64,
    stop_after: Option<u64>,
}

impl MemoryPatch {
    /// Writes into `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, writes: 0, stop_after: None }
    }

    /// Does `count` writes; the next one is an error of kind
    /// [`Cancelled`](crate::ErrorKind::Cancelled), and so are all behind it.
    ///
    /// A repair that is killed leaves nothing worse behind, wherever that happens:
    ///
    /// ```
    /// # use std::path::Path;
    /// # use std::sync::Arc;
    /// # use diskimage::format::vhd::VhdOptions;
    /// # use diskimage::storage::MemoryStorage;
    /// # use diskimage::target::SpillTarget;
    /// # use diskimage::{Convert, Target};
    /// use diskimage::check::MemoryPatch;
    /// use diskimage::{Checking, ErrorKind, OpenOptions, RepairScope};
    ///
    /// # let mut bytes = Vec::new();
    /// # let target = SpillTarget::new(&mut bytes, &std::env::temp_dir(), 1 << 20)?;
    /// # Convert::new().create(Box::new(VhdOptions::new().writer(1 << 20)?), &target)?;
    /// # Box::new(target).finish()?;
    /// # bytes[..512].fill(0);
    /// let open = |bytes: &[u8]| {
    ///     let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    ///     OpenOptions::new().open_image_storage(storage, Path::new("disk.vhd"))
    /// };
    /// let image = open(&bytes)?;
    /// let mut writes = 0;
    /// loop {
    ///     let mut patch = MemoryPatch::new(bytes.clone()).stop_after(writes);
    ///     let repaired = image.repair(RepairScope::All, &Checking::new(), &mut patch);
    ///     let report = open(&patch.into_bytes())?.check(Checking::new())?;
    ///     let Err(error) = repaired else {
    ///         assert!(report.is_clean());
    ///         break;
    ///     };
    ///     assert_eq!(error.kind(), ErrorKind::Cancelled);
    ///     assert_eq!(report.corruptions, 1); // as before
    ///     writes += 1;
    /// }
    /// assert_eq!(writes, 1);
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn stop_after(mut self, count: u64) -> Self {
        self.stop_after = Some(count);
        self
    }

    /// How many writes were done.
    ///
    /// ```
    /// use diskimage::check::{MemoryPatch, Patch};
    ///
    /// let mut patch = MemoryPatch::new(b"image".to_vec());
    /// patch.write(0, b"I", "begin with a capital letter")?;
    /// assert_eq!(patch.writes(), 1);
    /// assert_eq!(patch.into_bytes(), b"Image");
    /// # Ok::<(), diskimage::Error>(())
    /// ```
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// The bytes as they are now.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl Patch for MemoryPatch {
    fn write(&mut self, offset: u64, bytes: &[u8], _what: &str) -> Result<()> {
        if self.stop_after.is_some_and(|count| self.writes >= count) {
            return Err(crate::progress::cancelled());
        }
        self.writes = self.writes.saturating_add(1);
        let (start, end) = (to_usize(offset), to_usize(offset).saturating_add(bytes.len()));
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        if let Some(place) = self.bytes.get_mut(start..end) {
            place.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What a repair did, or would do.
///
/// ```
/// # use std::path::Path;
/// # use std::sync::Arc;
/// # use diskimage::format::vhd::VhdOptions;
/// # use diskimage::storage::MemoryStorage;
/// # use diskimage::target::SpillTarget;
/// # use diskimage::{Convert, Target};
/// use diskimage::check::MemoryPatch;
/// use diskimage::{Checking, OpenOptions, RepairScope};
///
/// # let mut bytes = Vec::new();
/// # let target = SpillTarget::new(&mut bytes, &std::env::temp_dir(), 1 << 20)?;
/// # Convert::new().create(Box::new(VhdOptions::new().writer(1 << 20)?), &target)?;
/// # Box::new(target).finish()?;
/// # let footer = bytes.len() - 512;
/// # bytes[footer..].fill(0);
/// # let path = Path::new("disk.vhd");
/// // a VHD whose footer is gone: a copy of it is at the start
/// let storage = Arc::new(MemoryStorage::new(bytes.clone()));
/// let image = OpenOptions::new().open_image_storage(storage, path)?;
/// let mut patch = MemoryPatch::new(bytes);
/// let repaired = image.repair(RepairScope::All, &Checking::new(), &mut patch)?;
/// assert_eq!((repaired.corruptions_fixed, repaired.leaks_fixed), (1, 0));
/// assert!(repaired.refused.is_empty());
///
/// let storage = Arc::new(MemoryStorage::new(patch.into_bytes()));
/// let image = OpenOptions::new().open_image_storage(storage, path)?;
/// assert!(image.check(Checking::new())?.is_clean());
/// # Ok::<(), diskimage::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// Corruptions that are no more.
    pub corruptions_fixed: u64,
    /// Leaked clusters that are free again.
    pub leaks_fixed: u64,
    /// What was found and is left as it is, each with the reason.
    pub refused: Vec<Finding>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_findings_the_first_of_the_file_are_kept() {
        for step in [1, 3, 7] {
            let checking = Checking::new().max_findings(5);
            for number in 0..100u64 {
                let at = number * step % 101;
                checking.corruption(Finding::new(Code::CheckError, "wrong").at(at));
            }
            let report = checking.into_report();
            let mut places: Vec<_> = (0..100u64).map(|number| Some(number * step % 101)).collect();
            places.sort();
            let kept: Vec<_> = report.findings.iter().map(|finding| finding.offset).collect();
            assert_eq!(kept, places[..5]);
            assert_eq!((report.corruptions, report.more_findings), (100, 95));
        }
    }

    #[test]
    fn a_stopped_patch_has_done_what_came_before() {
        let mut patch = MemoryPatch::new(vec![0; 4]).stop_after(2);
        patch.write(3, &[1, 2], "").unwrap();
        patch.write(0, &[9], "").unwrap();
        assert_eq!(patch.write(1, &[7], "").unwrap_err().kind(), crate::ErrorKind::Cancelled);
        assert_eq!(patch.into_bytes(), [9, 0, 0, 1, 2]);
    }
}
