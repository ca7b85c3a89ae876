//! Checking and repairing one image: the vocabulary that formats speak in.
//!
//! A format's [`Layer::check`](crate::Layer::check) reads its tables and tells a [`Checking`] what it
//! finds; [`Layer::repair`](crate::Layer::repair) tells a [`Patch`] what to write. Neither opens a
//! file, and neither reads what it wrote.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::finding::Finding;
use crate::progress::Progress;

/// How to check, and the place where a format's check puts what it finds. Shared by its threads.
#[derive(Debug)]
pub struct Checking {
    threads: usize,
    max_memory: u64,
    max_findings: usize,
    progress: Arc<Progress>,
    report: Mutex<CheckReport>,
}

/// What a check found. The numbers are those of `qemu-img check`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// What is wrong or odd, in the order of the file; the first ones if there are too many.
    pub findings: Vec<Finding>,
    /// How many findings did not find room in [`findings`](Self::findings).
    pub more_findings: u64,
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
            threads: 1,
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
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Bound on the memory of bitmaps and buffers, bytes.
    #[must_use]
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = bytes;
        self
    }

    /// How many findings are kept; the others are counted.
    #[must_use]
    pub fn max_findings(mut self, count: usize) -> Self {
        self.max_findings = count;
        self
    }

    /// Where to report progress, in bytes of tables, and who may cancel.
    #[must_use]
    pub fn progress(mut self, progress: Arc<Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// What was found so far.
    #[must_use]
    pub fn into_report(self) -> CheckReport {
        self.report.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the format reports its progress and sees whether to stop.
    #[must_use]
    pub fn watcher(&self) -> &Progress {
        &self.progress
    }

    /// How many threads may run.
    #[must_use]
    pub fn thread_count(&self) -> usize {
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

    fn keep(&self, report: &mut CheckReport, finding: Finding) {
        if report.findings.len() < self.max_findings {
            report.findings.push(finding);
        } else {
            report.more_findings = report.more_findings.saturating_add(1);
        }
    }
}

/// What may be repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairScope {
    /// Only leaked clusters, which cannot harm.
    Leaks,
    /// Everything that can be proven.
    All,
}

/// What takes the writes of a repair, in order. Killed between any two of them, the image is no
/// worse than before: that is for the format to see to.
pub trait Patch {
    /// Writes `bytes` at `offset` of the image file, which grows where needed. `what` says why, as
    /// a clause for people: `restore the header from its copy`.
    fn write(&mut self, offset: u64, bytes: &[u8], what: &str) -> Result<()>;

    /// Nothing that follows reaches the medium before all that went before.
    fn barrier(&mut self) -> Result<()>;
}

/// What a repair did, or would do.
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
