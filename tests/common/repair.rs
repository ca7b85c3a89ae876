//! What a repair must never do, whatever the format: tried by stopping it everywhere.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use diskimage::check::{CheckReport, Checking, Patch, RepairScope, Repaired};
use diskimage::storage::MemoryStorage;
use diskimage::{Format, Image, OpenOptions, Result, VirtualDisk};

use super::{sha256, threads};

/// A step of a repair.
#[derive(Debug, Clone)]
pub enum Step {
    Write { offset: u64, bytes: Vec<u8>, what: String },
    Barrier,
}

/// A patch that keeps what it is told.
#[derive(Debug, Default)]
pub struct Recorded(pub Vec<Step>);

impl Patch for Recorded {
    fn write(&mut self, offset: u64, bytes: &[u8], what: &str) -> Result<()> {
        assert!(!what.is_empty() && !what.contains(char::is_control), "{what:?} says not why");
        self.0.push(Step::Write { offset, bytes: bytes.to_vec(), what: what.to_owned() });
        Ok(())
    }

    fn barrier(&mut self) -> Result<()> {
        self.0.push(Step::Barrier);
        Ok(())
    }
}

/// `bytes` with a step done.
pub fn apply(bytes: &mut Vec<u8>, step: &Step) {
    if let Step::Write { offset, bytes: new, .. } = step {
        let (start, end) = (*offset as usize, *offset as usize + new.len());
        bytes.resize(bytes.len().max(end), 0);
        bytes[start..end].copy_from_slice(new);
    }
}

pub fn image(format: Format, bytes: &[u8]) -> Image {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    let open = |trust| {
        let options = OpenOptions::new().format(format).trust_broken(trust);
        options.open_image_storage(storage.clone(), Path::new("image"))
    };
    // as the command does
    open(false).or_else(|_| open(true)).unwrap()
}

pub fn check(format: Format, bytes: &[u8]) -> CheckReport {
    let one = image(format, bytes).check(Checking::new()).unwrap();
    let four = image(format, bytes).check(Checking::new().threads(threads(4))).unwrap();
    assert_eq!(one, four, "the number of threads makes a difference");
    one
}

pub fn repair(format: Format, bytes: &[u8], scope: RepairScope) -> (Repaired, Vec<Step>) {
    let mut patch = Recorded::default();
    let repaired = image(format, bytes).repair(scope, &Checking::new(), &mut patch).unwrap();
    (repaired, patch.0)
}

/// A hash of every piece of the disk that can be read, and of those of its internal snapshots.
pub type Content = BTreeMap<(Vec<u8>, u64), String>;

pub fn content(format: Format, bytes: &[u8]) -> Content {
    const PIECE: u64 = 4096;
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    let options = OpenOptions::new().format(format).trust_broken(true);
    let mut content = Content::new();
    let mut add = |name: Vec<u8>, options: &OpenOptions| {
        let Ok(disk) = options.open_storage(storage.clone(), Path::new("image")) else { return };
        let mut piece = vec![0; PIECE as usize];
        for start in (0..disk.size()).step_by(PIECE as usize) {
            let length = PIECE.min(disk.size() - start) as usize;
            if disk.read_exact_at(&mut piece[..length], start).is_ok() {
                content.insert((name.clone(), start), sha256(&piece[..length]));
            }
        }
    };
    add(Vec::new(), &options);
    let image = options.open_image_storage(storage.clone(), Path::new("image"));
    let description = image.and_then(|image| image.layer().describe());
    for snapshot in description.map(|d| d.snapshots).unwrap_or_default() {
        add(snapshot.id.clone(), &options.clone().snapshot(snapshot.id));
    }
    content
}

/// Nothing that could be read before reads otherwise now.
#[track_caller]
pub fn assert_kept(before: &Content, now: &Content, when: &str) {
    for (piece, hash) in before {
        assert_eq!(now.get(piece), Some(hash), "{when}: {piece:?} is not what it was");
    }
}

/// Repairs a copy of the image, and another one that is stopped after the n-th write, for all n,
/// and others where of what follows the last barrier only one write arrived: nothing that could be
/// read is lost, and a new repair ends where the whole one does. Gives the repaired image.
#[track_caller]
pub fn crash_safe(format: Format, damaged: &[u8], scope: RepairScope) -> (Vec<u8>, Repaired) {
    let before = content(format, damaged);
    let (repaired, steps) = repair(format, damaged, scope);
    let mut whole = damaged.to_vec();
    steps.iter().for_each(|step| apply(&mut whole, step));
    assert_kept(&before, &content(format, &whole), "after the repair");
    let goal = check(format, &whole);
    let (again, more) = repair(format, &whole, scope);
    assert!(
        !more.iter().any(|step| matches!(step, Step::Write { .. })),
        "a second repair writes again: {more:?}"
    );
    assert_eq!((again.corruptions_fixed, again.leaks_fixed), (0, 0));

    let (mut so_far, mut durable) = (damaged.to_vec(), damaged.to_vec());
    for (number, step) in steps.iter().enumerate() {
        if let Step::Barrier = step {
            durable.clone_from(&so_far);
            continue;
        }
        let mut alone = durable.clone();
        apply(&mut alone, step);
        for (now, how) in [(&so_far, "stopped before"), (&alone, "only")] {
            let when = format!("{how} step {number}, {step:.60?}");
            assert_kept(&before, &content(format, now), &when);
            let (_, rest) = repair(format, now, scope);
            let mut end = now.clone();
            rest.iter().for_each(|step| apply(&mut end, step));
            assert_kept(&before, &content(format, &end), &format!("{when}, then repaired"));
            let report = check(format, &end);
            assert_eq!(
                (report.corruptions, report.leaks, report.check_errors),
                (goal.corruptions, goal.leaks, goal.check_errors),
                "{when}: a new repair ends elsewhere: {:?}",
                report.findings
            );
        }
        apply(&mut so_far, step);
    }
    (whole, repaired)
}
