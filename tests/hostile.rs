//! The hostile and odd images beside the project, where they are present: each gets the verdict
//! that it must get, and none a panic.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::*;
use diskimage::check::MemoryPatch;
use diskimage::format::LayerOptions;
use diskimage::format::qcow2::{Qcow2Layer, Resize, SnapshotChange};
use diskimage::storage::MemoryStorage;
use diskimage::{Checking, Format, Image, OpenOptions, Result, VirtualDisk, VirtualDiskExt};
use serde_json::Value;

/// Content that takes longer than a test should: it is one small cluster mapped a million times.
const SLOW: &[&str] = &["q2-amplify-2g.qcow2"];

/// Guest bytes that are read at most: huge disks are read at their ends.
const MOST: u64 = 64 << 20;

fn options(case: &Value) -> OpenOptions {
    match case["open_as"].as_str() {
        Some(name) => OpenOptions::new().format(name.parse().unwrap()),
        None => OpenOptions::new(),
    }
}

/// What a conversion would read.
fn read(case: &Value, path: &Path) -> Result<Option<String>> {
    let disk = options(case).open(path)?;
    if disk.size() <= MOST {
        return sha256_of(&disk).map(Some);
    }
    let mut bytes = vec![0; 1 << 20];
    disk.read_exact_at(&mut bytes, 0)?;
    disk.read_exact_at(&mut bytes, disk.size() - (1 << 20))?;
    Ok(None)
}

fn codes(image: &Image) -> Vec<&'static str> {
    let findings = image.findings().unwrap_or_default();
    findings.iter().map(|finding| finding.code.as_str()).collect()
}

/// Flags that other commands than info answer, or that are not codes.
fn is_for_others(flag: &str) -> bool {
    matches!(flag, "check_error" | "none" | "escape_output") || flag.starts_with("detect:")
}

/// What speaks against this verdict, if anything.
fn complaint(
    case: &Value,
    verdict: &str,
    image: &Result<Image>,
    content: &Result<Option<String>>,
) -> Option<String> {
    match verdict {
        "must_open_same_content" => match (content, case["guest_sha256"].as_str()) {
            (Err(error), _) => Some(error.to_string()),
            (Ok(Some(got)), Some(wanted)) if got != wanted => Some("other content".into()),
            _ => None,
        },
        "must_reject_open" | "must_reject_by_policy" => {
            content.is_ok().then(|| "was read".to_owned())
        }
        "must_flag" => {
            let codes = image.as_ref().map(codes).unwrap_or_default();
            let flags = case["flags"].as_array().into_iter().flatten();
            let missing = flags
                .map(|flag| flag.as_str().unwrap())
                .filter(|flag| !is_for_others(flag))
                .find(|flag| !codes.contains(&flag.replace('_', "-").as_str()));
            missing.map(|flag| format!("{flag} is not reported, only {codes:?}"))
        }
        // that it came back is what counts
        _ => None,
    }
}

/// How many cases of a set were tried, and what is wrong with them.
fn judge(folder: &Path) -> (u32, Vec<String>) {
    let manifest = std::fs::read_to_string(folder.join("manifest.jsonl")).unwrap();
    let (mut tried, mut wrong) = (0, Vec::new());
    for case in manifest.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let file = case["file"].as_str().unwrap();
        let format = case["format"].as_str().unwrap().parse::<Format>();
        if !format.is_ok_and(Format::is_read) || SLOW.contains(&file) {
            continue;
        }
        let path = folder.join(file);
        let image = options(&case).open_image(&path);
        if image.as_ref().is_err_and(|error| error.to_string().contains("not read yet")) {
            continue;
        }
        tried += 1;
        let content = read(&case, &path);
        // the manifest allows other verdicts than the preferred one for some
        let others = case["alt_ok"].as_array().into_iter().flatten();
        let mut verdicts = std::iter::once(&case["expected"])
            .chain(others)
            .map(|verdict| complaint(&case, verdict.as_str().unwrap(), &image, &content));
        let first = verdicts.next().unwrap();
        let complaint = first.filter(|_| verdicts.all(|complaint| complaint.is_some()));
        if let Some(complaint) = complaint {
            wrong.push(format!("{file} ({}): {complaint}", case["attack"].as_str().unwrap()));
        }
    }
    (tried, wrong)
}

#[test]
fn every_case_of_a_format_that_is_read_gets_its_verdict() {
    let Some(folder) = hostile() else { return };
    let (tried, wrong) = judge(&folder);
    assert!(tried > 200, "only {tried} cases");
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
}

/// The longest that a check of one of these images may take: the set's own bound, in a debug build
/// beside other tests.
const QUICK: std::time::Duration = std::time::Duration::from_secs(5);

#[test]
fn a_check_finds_what_it_must_in_no_time() {
    let Some(folder) = hostile() else { return };
    let manifest = std::fs::read_to_string(folder.join("manifest.jsonl")).unwrap();
    let (mut checked, mut flagged) = (0, 0);
    for case in manifest.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let (file, format) = (case["file"].as_str().unwrap(), case["format"].as_str().unwrap());
        if !matches!(format, "qcow2" | "vmdk" | "vhd" | "vhdx" | "vdi" | "raw") {
            continue;
        }
        let start = std::time::Instant::now();
        let image = options(&case).open_image(folder.join(file));
        let report = image.and_then(|image| image.check(Checking::new().threads(threads(2))));
        let took = start.elapsed();
        assert!(took < QUICK, "{file}: {took:?}");
        checked += 1;
        let verdicts = case["alt_ok"].as_array().into_iter().flatten().chain([&case["expected"]]);
        let harmless = { verdicts.clone() }.any(|verdict| verdict == "must_open_same_content");
        let must_flag = !harmless && { verdicts.clone() }.any(|verdict| verdict == "must_flag");
        let refused = { verdicts.clone() }.any(|v| v.as_str().unwrap().starts_with("must_reject"));
        let any = { verdicts }.any(|verdict| verdict == "must_not_hang_or_balloon");
        let report = match report {
            Ok(report) => report,
            // nothing to check, or refused as it may be
            Err(error) => {
                let unsupported = error.kind() == diskimage::ErrorKind::Unsupported;
                assert!(!must_flag || refused || any || unsupported, "{file}: {error}");
                continue;
            }
        };
        let codes: Vec<_> = report.codes.iter().map(|code| code.as_str()).collect();
        let corrupt = codes.contains(&"corrupt");
        assert!(!corrupt || !report.is_clean(), "{file}: marked as corrupt, and no error");
        let flags = case["flags"].as_array().into_iter().flatten().filter(|_| must_flag);
        for flag in flags.map(|flag| flag.as_str().unwrap()) {
            let word = flag.replace('_', "-");
            let ours = [
                "check-error",
                "footer-missing",
                "footer-mismatch",
                "geometry-mismatch",
                "log-dirty",
            ];
            if ours.contains(&&*word) {
                assert!(codes.contains(&&*word), "{file}: no {word}, only {codes:?}");
                flagged += 1;
            }
        }
    }
    assert!(checked > 400 && flagged > 20, "{checked} checked, {flagged} flagged");
}

/// The set that the project makes itself.
fn made() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = root().join("testdata/make_hostile.py");
    tool_output("python3", &[script.as_os_str(), folder.path().as_os_str()])?;
    Some(folder)
}

#[test]
fn every_case_made_here_gets_its_verdict() {
    let Some(folder) = made() else { return };
    let (tried, wrong) = judge(folder.path());
    assert!(tried > 1100, "only {tried} cases");
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
    force_all(folder.path());
}

#[test]
fn every_case_as_every_format_is_a_clean_result() {
    let Some(folder) = hostile() else { return };
    force_all(&folder);
}

/// Reads and checks each image of a set as each format, whatever it is: nothing panics, takes long
/// or gives the bytes of a file outside, and an image read as a raw disk is just its bytes.
fn force_all(folder: &Path) {
    let manifest = std::fs::read_to_string(folder.join("manifest.jsonl")).unwrap();
    let files: Vec<_> = manifest
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["file"].as_str().unwrap().to_owned()
        })
        .collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(file) =
                    files.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    for format in ["raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi"] {
                        let path = folder.join(file);
                        let done = std::panic::catch_unwind(|| force(&path, format));
                        let took = done.unwrap_or_else(|_| panic!("{file} as {format} panics"));
                        assert!(took < QUICK, "{file} as {format}: {took:?}");
                    }
                }
            });
        }
    });
}

fn force(path: &Path, format: &str) -> std::time::Duration {
    let start = std::time::Instant::now();
    for options in [OpenOptions::new(), OpenOptions::new().trust_broken(true)] {
        let options = options.format(format.parse().unwrap());
        if let Ok(image) = options.open_image(path) {
            let _ = image.findings();
            let _ = image.layer().describe();
            let _ = image.check(Checking::new());
        }
        let Ok(disk) = options.open(path) else { continue };
        let _ = disk.extents(0..disk.size()).take(100).count();
        let length = usize::try_from(disk.size().min(128 << 10)).unwrap();
        let mut bytes = vec![0; length];
        for at in [0, disk.size() - length as u64] {
            let read = disk.read_exact_at(&mut bytes, at).is_ok();
            let seen = memchr::memmem::find(&bytes, b"diskimage canary").is_some();
            assert!(!(read && seen), "{path:?} as {format} gives a file outside");
        }
    }
    start.elapsed()
}

/// Whatever disk a stranger's image shows: looking at it reads little, and ends.
#[test]
fn what_lies_on_a_hostile_disk_is_told_within_bounds() {
    let Some(folder) = hostile() else { return };
    let manifest = std::fs::read_to_string(folder.join("manifest.jsonl")).unwrap();
    let bounds = diskimage::contents::Bounds::default();
    let mut seen = std::collections::BTreeMap::new();
    for case in manifest.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let file = case["file"].as_str().unwrap();
        let Ok(disk) = options(&case).open(folder.join(file)) else { continue };
        let start = std::time::Instant::now();
        let Ok(found) = diskimage::contents::look(&disk, &bounds) else { continue };
        assert!(start.elapsed().as_secs() < 5, "{file}");
        assert!(found.bytes_read <= bounds.max_read, "{file}: {}", found.bytes_read);
        for finding in &found.findings {
            assert!(!finding.message.contains(char::is_control), "{file}: {finding:?}");
        }
        seen.insert(file.to_owned(), found);
    }
    // either copy of a GPT with wrong numbers is told, and a chain that leads to itself
    for (file, count) in
        [("gpt-esz-0.raw", 2), ("gpt-esz-max.raw", 2), ("gpt-my-2.raw", 1), ("gpt-alt-max.raw", 1)]
    {
        assert_eq!(seen[file].findings.len(), count, "{file}: {:?}", seen[file]);
    }
    let chain = &seen["mbr-ebr-loop.raw"];
    assert!(chain.table.is_some() && !chain.findings.is_empty(), "{chain:?}");
    assert!(seen.len() > 100, "only {}", seen.len());
}

#[test]
fn a_change_in_place_is_refused_or_leaves_a_whole_image() {
    let Some(folder) = hostile() else { return };
    let manifest = std::fs::read_to_string(folder.join("manifest.jsonl")).unwrap();
    let (mut changed, mut refused) = (0, 0);
    for case in manifest.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let path = folder.join(case["file"].as_str().unwrap());
        let length = std::fs::metadata(&path).map_or(0, |found| found.len());
        if case["format"] != "qcow2" || length > 8 << 20 {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let layer = || {
            let storage = Arc::new(MemoryStorage::new(bytes.clone()));
            Qcow2Layer::open(storage, &LayerOptions::default())
        };
        let name = b"one".to_vec();
        let create = SnapshotChange::Create { name, date_sec: 0, date_nsec: 0 };
        type Change<'a> = &'a dyn Fn(&Qcow2Layer, &mut MemoryPatch) -> Result<()>;
        let grow = Resize::new(1 << 30).shrink(true);
        let changes: [Change<'_>; 3] = [
            &|layer, patch| Resize::new(512).shrink(true).run(layer, &Checking::new(), patch),
            &|layer, patch| grow.run(layer, &Checking::new(), patch),
            &|layer, patch| create.run(layer, &Checking::new(), patch),
        ];
        for change in changes {
            let Ok(layer) = layer() else { continue };
            let mut patch = MemoryPatch::new(bytes.clone());
            let start = std::time::Instant::now();
            let done = change(&layer, &mut patch);
            assert!(start.elapsed() < QUICK, "{}: {:?}", path.display(), start.elapsed());
            let now = patch.into_bytes();
            if done.is_err() {
                refused += 1;
                assert!(now == bytes, "{} was changed", path.display());
                continue;
            }
            changed += 1;
            let storage = Arc::new(MemoryStorage::new(now));
            let image = OpenOptions::new().format(Format::Qcow2).open_image_storage(storage, &path);
            let report = image.unwrap().check(Checking::new()).unwrap();
            let found = (report.corruptions, report.check_errors);
            assert_eq!(found, (0, 0), "{}: {report:?}", path.display());
        }
    }
    assert!(changed > 30 && refused > 30, "{changed} changed, {refused} refused");
}
