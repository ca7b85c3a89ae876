//! Checking and repairing whatever bytes there are.

use std::num::NonZeroUsize;
use std::path::Path;

use diskimage::check::{DryRun, MemoryPatch};
use diskimage::format::qcow2::{Header, rewrite_backing};
use diskimage::{
    CheckReport, Checking, Error, Format, Image, Limits, OpenOptions, RepairScope, Result,
    VirtualDisk,
};

use crate::check_error;
use crate::input::Input;

/// What a repair may make of the file: a log can make it as long as the disk.
const LARGEST: u64 = 64 << 20;
/// Content is compared in pieces of this many bytes.
const PIECE: u64 = 128 << 10;

/// Takes `input` for an image of this format: checks it, then repairs a copy, then checks that.
pub fn body(format: Format, input: &Input) {
    check(format, input);
    repair(format, input);
    if format == Format::Qcow2 {
        rename(input);
    }
}

fn image(format: Format, input: &Input) -> Result<Image> {
    let options = OpenOptions::new().format(format);
    let opened = options.open_image_storage(input.storage(), Path::new("fuzz"));
    // as the command does
    match opened {
        Err(_) if format == Format::Qcow2 => {
            options.trust_broken(true).open_image_storage(input.storage(), Path::new("fuzz"))
        }
        other => other,
    }
}

fn checking() -> Checking {
    Checking::new().max_memory(1 << 20).max_findings(50)
}

fn report(image: &Image, threads: usize) -> Result<CheckReport> {
    image.check(checking().threads(NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN)))
}

/// An error or a report, the same one on any number of threads, whose numbers agree with its
/// findings, which are in the order of the file.
fn check(format: Format, input: &Input) {
    let image = match image(format, input) {
        Ok(image) => image,
        Err(error) => return check_error(&error),
    };
    let found = match report(&image, 1) {
        Ok(found) => found,
        Err(error) => return check_error(&error),
    };
    assert_eq!(Some(&found), report(&image, 4).ok().as_ref(), "threads make a difference");
    assert!(found.findings.is_sorted_by_key(|finding| finding.offset));
    assert!(found.findings.len() <= 50);
    for finding in &found.findings {
        assert!(!finding.message.contains(char::is_control), "{finding:?}");
    }
    let told = u64::try_from(found.findings.len()).unwrap_or(u64::MAX);
    assert!(found.corruptions + found.check_errors <= told + found.more_findings, "{found:?}");
    // an L2 table of a QCOW2 image has room for clusters behind the end of the disk, which count
    let behind = format == Format::Qcow2;
    assert!(behind || found.allocated_clusters <= found.total_clusters, "{found:?}");
    assert!(found.fragmented_clusters <= found.allocated_clusters, "{found:?}");
}

/// What was announced is written and nothing else, the content stays, stopped half-way too, and a
/// second repair has nothing to do.
fn repair(format: Format, input: &Input) {
    let first = match image(format, input) {
        Ok(image) => image,
        Err(error) => return check_error(&error),
    };
    let mut plan = DryRun::new();
    match first.repair(RepairScope::All, &checking(), &mut plan) {
        Ok(_) => {}
        Err(error) => return check_error(&error),
    }
    let end = plan.writes.iter().map(|write| write.offset.saturating_add(write.length)).max();
    if plan.writes.is_empty() || plan.more_writes > 0 || end > Some(LARGEST) {
        return;
    }
    let before = content(format, input);
    let writes = plan.writes.len() as u64;
    for count in [writes / 2, writes] {
        let mut patch = MemoryPatch::new(input.to_vec()).stop_after(count);
        let done = first.repair(RepairScope::All, &checking(), &mut patch);
        assert_eq!((done.is_ok(), patch.writes()), (count == writes, count));
        let after = Input::new(patch.into_bytes());
        for (at, (new, old)) in after.iter().zip(input.iter()).enumerate() {
            let announced =
                |at: u64| plan.writes.iter().any(|w| w.offset <= at && at - w.offset < w.length);
            assert!(new == old || announced(at as u64), "{at:#x} was not announced");
        }
        // the partition table of a raw disk is content, and is what is mended
        if format != Format::Raw {
            for (old, new) in before.iter().zip(content(format, &after)) {
                assert!(old.is_err() || *old == new, "other content after {count} writes");
            }
        }
        if count == writes {
            let second = image(format, &after).expect("it opens still");
            let mut patch = MemoryPatch::new(after.to_vec());
            second.repair(RepairScope::All, &checking(), &mut patch).expect("it is repaired");
            assert_eq!(patch.writes(), 0, "a second repair finds something");
        }
    }
}

/// Another backing file, or none, is all that changes of a header.
fn rename(input: &Input) {
    let limits = Limits::default();
    let name = "name".repeat(input.first().map_or(0, |&byte| usize::from(byte)));
    let format = input.last().is_some_and(|byte| byte % 2 == 0).then_some("raw");
    let backing = (!name.is_empty()).then_some((name.as_bytes(), format));
    let mut patch = MemoryPatch::new(input.to_vec());
    if let Err(error) = rewrite_backing(&*input.storage(), &limits, backing, &mut patch) {
        assert_eq!(patch.writes(), 0);
        return check_error(&error);
    }
    let after = Input::new(patch.into_bytes());
    let [old, new] = [input, &after].map(|input| Header::read(&*input.storage(), &limits, false));
    let (old, new) = (old.expect("it was read"), new.expect("it is read again"));
    let named = new.backing_file.as_ref().map(|(name, _)| &**name);
    assert_eq!(named, backing.map(|(name, _)| name));
    let word = new.extensions.backing_format.as_ref().map(|(word, _)| &**word);
    assert_eq!(word, backing.and(format).map(str::as_bytes));
    let kept = |header: Header| {
        let found = header.extensions;
        let fields = (header.size, header.l1_table_offset, header.incompatible_features);
        let bitmaps = found.bitmaps.map(|bitmaps| (bitmaps.nb_bitmaps, bitmaps.directory_offset));
        let data_file = found.data_file.map(|(name, _)| name);
        (fields, bitmaps, data_file, found.crypto, found.unknown, found.feature_names)
    };
    let cluster = usize::try_from(old.cluster.size()).unwrap_or(usize::MAX).min(input.len());
    assert!(input[cluster..] == after[cluster..], "more than the first cluster was written");
    assert_eq!(kept(old), kept(new));
}

/// Some pieces of the disk, each with its bytes or the kind of its error.
fn content(format: Format, input: &Input) -> Vec<Result<Vec<u8>, diskimage::ErrorKind>> {
    // a repair may clear the mark of corruption, and what was read by force is compared too
    let options = OpenOptions::new().format(format).trust_broken(true);
    let disk = match options.open_storage(input.storage(), Path::new("fuzz")) {
        Ok(disk) => disk,
        Err(error) => return vec![Err(error.kind())],
    };
    let piece = |number: u64| {
        let start = disk.size() / 16 * number;
        let mut bytes = vec![0; PIECE.min(disk.size() - start) as usize];
        disk.read_exact_at(&mut bytes, start).map(|()| bytes).map_err(|e: Error| e.kind())
    };
    (0..16).map(piece).collect()
}
