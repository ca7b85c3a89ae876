//! Verdicts: those of a file that passes by are those of the file, whatever the pieces it comes in.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::*;
use diskimage::conformance::check_verdicts;
use diskimage::finding::Code;
use diskimage::inspect::{Inspect, Part, Policy, Refused, Verdict};
use diskimage::storage::FileStorage;
use diskimage::{Format, Storage};
use serde_json::Value;

/// Files that are longer are not pushed.
const LONGEST: u64 = 64 << 20;

fn policies() -> [Policy; 3] {
    [Policy::strict(), Policy::openstack(), Policy::permissive()]
}

/// Holds the verdicts of files and streams against each other; tells which streams missed what.
fn hold(images: &[PathBuf], pieces: &[usize]) -> Vec<(String, Vec<Part>)> {
    let (mut wrong, mut blind) = (Vec::new(), Vec::new());
    for path in images {
        let storage: Arc<dyn Storage> = Arc::new(FileStorage::open(path).unwrap());
        let mut missed = Vec::new();
        for inspect in policies().map(Inspect::new) {
            for &piece in pieces {
                match check_verdicts(&inspect, &storage, piece) {
                    Ok(unseen) => missed = if unseen.is_empty() { missed } else { unseen },
                    Err(what) => wrong.push(format!("{} by {piece}: {what}", path.display())),
                }
            }
        }
        if !missed.is_empty() {
            blind.push((path.file_name().unwrap().to_str().unwrap().to_owned(), missed));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    blind
}

fn small(paths: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    paths.filter(|path| path.metadata().is_ok_and(|m| m.is_file() && m.len() <= LONGEST)).collect()
}

#[test]
fn the_verdict_of_a_stream_is_that_of_the_file() {
    let images = small(fixtures().iter().map(|fixture| fixture.path.clone()));
    assert!(images.len() > 200);
    for (name, unseen) in hold(&images, &[65_537]) {
        let late = match &*name {
            // QEMU puts the data in front of the table that places them
            "qemu-large-clusters.qed" => Part::Contents,
            // where their compressed data end is held against the end of the file only
            name if name.ends_with(".qcow") || name.ends_with(".cloop") => Part::Tables,
            name if name.ends_with(".dmg") => Part::Tables,
            // a log of pending writes is longer than what is kept
            log if log.starts_with("log") && log.ends_with(".vhdx") => Part::Description,
            other => panic!("{other}: {unseen:?}"),
        };
        assert_eq!(unseen, [late], "{name}");
    }
}

#[test]
fn the_sizes_of_the_pieces_make_no_difference() {
    let names = [
        "cloud.qcow2",
        "qcow2/v3-snapshots.qcow2",
        "qcow2/v3-backing.qcow2",
        "vmdk/stream.vmdk",
        "vhd/dynamic.vhd",
        "vhdx/plain.vhdx",
        "vdi/dynamic.vdi",
    ];
    let known = |name: &&str| fixtures().iter().find(|fixture| fixture.file == **name);
    let images: Vec<_> = names.iter().filter_map(known).map(|found| found.path.clone()).collect();
    assert!(images.len() > 3, "{images:?}");
    hold(&images, &[512, 4097, 1 << 20, LONGEST as usize]);
    let tiny: Vec<_> =
        images.into_iter().filter(|path| path.metadata().unwrap().len() < 1 << 20).collect();
    assert!(!tiny.is_empty());
    hold(&tiny, &[1, 17]);
}

#[test]
fn the_corpus_gets_the_same_verdict_as_a_stream() {
    let images = small(corpus_images(|_, _| true).into_iter().map(|image| image.path));
    for (name, unseen) in hold(&images, &[256 << 10]) {
        // what has its tables at the end, or in front of what leads to them, is not seen
        assert!(!unseen.is_empty(), "{name}");
        eprintln!("{name}: {unseen:?} not seen");
    }
}

fn verdicts(case: &Value) -> Vec<&str> {
    let others = case["alt_ok"].as_array().into_iter().flatten();
    others.chain([&case["expected"]]).map(|verdict| verdict.as_str().unwrap()).collect()
}

#[test]
fn hostile_images_get_their_verdict() {
    let Some(folder) = hostile() else { return };
    let manifest = std::fs::read_to_string(folder.join("manifest.jsonl")).unwrap();
    let (mut wrong, mut files, mut judged) = (Vec::new(), Vec::new(), 0);
    for case in manifest.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let path = folder.join(case["file"].as_str().unwrap());
        let judge = |policy: Policy| {
            let inspect = Inspect::new(policy);
            let forced = case["open_as"].as_str().map(|name| name.parse::<Format>().unwrap());
            forced.map_or(inspect.clone(), |format| inspect.format(format)).file(&path)
        };
        let (Ok(openstack), Ok(strict), Ok(permissive)) =
            (judge(Policy::openstack()), judge(Policy::strict()), judge(Policy::permissive()))
        else {
            // a folder, a FIFO: nothing to judge
            continue;
        };
        judged += 1;
        let verdicts = verdicts(&case);
        let complaint = if verdicts.contains(&"must_reject_by_policy") {
            let passed = openstack.is_allowed() || strict.is_allowed();
            passed.then(|| "is allowed, though it needs other files".to_owned())
        } else if verdicts == ["must_open_same_content"]
            && !permissive.is_allowed()
            // a descriptor over a raw disk is refused whatever reads it
            && !permissive.facts.has(Code::Ambiguous)
        {
            Some(format!("is refused: {:?}", permissive.reasons))
        } else if case["file"].as_str().unwrap().starts_with("vmdk-stream-trunc") {
            // what ends without its footer is cut off, whatever it was
            openstack.is_allowed().then(|| "is allowed without its end".to_owned())
        } else if verdicts == ["must_flag"] {
            missing_flag(&case, &strict)
        } else {
            None
        };
        wrong.extend(complaint.map(|what| format!("{}: {what}", case["file"])));
        if case["open_as"].is_null() {
            files.push(path);
        }
    }
    assert!(judged > 500, "{judged}");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    hold(&small(files.into_iter()), &[100_000]);
}

/// A flag of the manifest that is no finding of the verdict.
fn missing_flag(case: &Value, verdict: &Verdict) -> Option<String> {
    let found: Vec<_> = verdict.facts.findings.iter().map(|f| f.code.as_str()).collect();
    let flags = case["flags"].as_array().into_iter().flatten().map(|flag| flag.as_str().unwrap());
    // what only a check finds, and what is no code
    let others = |flag: &&str| {
        let is_code = Code::ALL.iter().any(|code| code.as_str() == flag.replace('_', "-"));
        // that it is LUKS is the format there
        let is_format = verdict.facts.format.is_some_and(|format| format.name() == *flag);
        is_code && *flag != "check_error" && !is_format
    };
    let mut flags = flags.filter(others).map(|flag| flag.replace('_', "-"));
    let missing = flags.find(|flag| !found.contains(&flag.as_str()))?;
    Some(format!("{missing} is not told, only {found:?}"))
}

fn judge(policy: Policy, bytes: &[u8], declared: Option<Format>) -> Verdict {
    let mut inspect = Inspect::new(policy);
    if let Some(declared) = declared {
        inspect = inspect.declared(declared);
    }
    let storage = diskimage::storage::MemoryStorage::new(bytes.to_vec());
    inspect.storage(Arc::new(storage), Path::new("upload")).unwrap()
}

fn rules(verdict: &Verdict) -> Vec<&'static str> {
    verdict.reasons.iter().map(|reason| reason.rule).collect()
}

#[test]
fn openstack_decides_better_where_its_inspector_is_wrong() {
    let openstack =
        |name: &str| Inspect::new(Policy::openstack()).file(&fixture(name).path).unwrap();
    let by = |wanted: &dyn Fn(&Fixture) -> bool| {
        fixtures().iter().find(|fixture| wanted(fixture)).unwrap().file.clone()
    };
    // extended L2 entries are a feature that is known
    let extended =
        by(&|fixture| fixture.file.contains("extl2") || fixture.file.contains("extended"));
    assert!(openstack(&extended).is_allowed(), "{:?}", openstack(&extended).reasons);
    // a descriptor that is filled up with NUL bytes is a VMDK, and its extents are files outside
    let mut text = b"# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n\
        createType=\"monolithicFlat\"\nRW 8 FLAT \"/etc/passwd\" 0\n"
        .to_vec();
    text.resize(1024, 0);
    let verdict = judge(Policy::openstack(), &text, Some(Format::Raw));
    for rule in ["declared-mismatch", "subformat-not-allowed", "external-extents"] {
        assert!(rules(&verdict).contains(&rule), "{:?}", verdict.reasons);
    }
    // the parents of all formats that have them
    let mut parents = 0;
    for fixture in fixtures() {
        let verdict = Inspect::new(Policy::openstack()).file(&fixture.path).unwrap();
        if verdict.facts.has(Code::BackingFile) {
            let needs =
                verdict.reasons.iter().any(|r| r.sentence.starts_with("It needs another file"));
            assert!(needs && !verdict.is_allowed(), "{}", fixture.file);
            parents += 1;
        }
    }
    assert!(parents > 10, "{parents}");
}

#[test]
fn what_was_declared_is_held_against_what_is_there() {
    let qcow2 = std::fs::read(&fixture("cloud.qcow2").path).unwrap();
    assert!(judge(Policy::strict(), &qcow2, Some(Format::Qcow2)).is_allowed());
    for other in [Format::Raw, Format::Vmdk, Format::Iso] {
        assert_eq!(rules(&judge(Policy::permissive(), &qcow2, Some(other))), ["declared-mismatch"]);
    }
    let plain = vec![7; 4096];
    assert!(judge(Policy::strict(), &plain, Some(Format::Raw)).is_allowed());
    assert_eq!(rules(&judge(Policy::strict(), &plain, None)), ["format-guessed"]);
    assert_eq!(
        rules(&judge(Policy::openstack(), &plain, Some(Format::Qcow2))),
        ["declared-mismatch"]
    );
    let mut disc = vec![0; 64 << 10];
    disc[0x8001..0x8006].copy_from_slice(b"CD001");
    for declared in [Format::Iso, Format::Raw] {
        let verdict = judge(Policy::openstack(), &disc, Some(declared));
        assert!(verdict.is_allowed(), "{:?}", verdict.reasons);
    }
    assert_eq!(rules(&judge(Policy::openstack(), &disc, Some(Format::Gpt))), ["declared-mismatch"]);
}

#[test]
fn policies_set_bounds() {
    let bytes = std::fs::read(&fixture("cloud.qcow2").path).unwrap();
    let mut policy = Policy::permissive();
    policy.max_virtual_size = Some(1 << 20);
    policy.max_file_size = Some(1000);
    policy.formats = Some(vec![Format::Vmdk]);
    policy.subformats = vec![(Format::Qcow2, vec!["0.10".into()])];
    let verdict = judge(policy, &bytes, None);
    let all = ["format-not-allowed", "subformat-not-allowed", "virtual-size", "file-size"];
    assert_eq!(rules(&verdict), all);
    for reason in &verdict.reasons {
        assert!(
            reason.sentence.ends_with('.') && reason.sentence.starts_with("It")
                || reason.sentence.starts_with("The")
        );
    }
}

#[test]
fn a_refusal_comes_as_soon_as_it_is_clear() {
    let path = &fixture("cloud.qcow2").path;
    let bytes = std::fs::read(path).unwrap();
    let mut stream = Inspect::new(Policy::permissive()).declared(Format::Vmdk).stream();
    let taken = bytes.chunks(4096).take_while(|piece| !stream.push(piece).is_refused()).count();
    assert!(taken * 4096 <= 72 << 10, "{taken}");
    assert_eq!(stream.reasons()[0].rule, "declared-mismatch");
    let verdict = stream.finish();
    assert!(verdict.early && !verdict.is_allowed());
    // one that is too long is not taken to its end
    let mut policy = Policy::permissive();
    policy.max_file_size = Some(100 << 10);
    let mut stream = Inspect::new(policy).stream();
    assert!(!stream.push(&[1; 100 << 10]).is_refused());
    assert!(stream.push(&[1]).is_refused());
}

#[test]
fn readers_and_writers_judge_what_passes() {
    let bytes = std::fs::read(&fixture("cloud.qcow2").path).unwrap();
    let inspect = Inspect::new(Policy::strict());
    let mut reader = inspect.clone().stream().reader(&bytes[..]);
    let mut through = Vec::new();
    reader.read_to_end(&mut through).unwrap();
    assert!(through == bytes);
    assert!(reader.finish().1.is_allowed());

    let mut writer = inspect.clone().stream().writer(Vec::new());
    bytes.chunks(999).for_each(|piece| writer.write_all(piece).unwrap());
    let (written, verdict) = writer.finish();
    assert!(written == bytes && verdict.is_allowed());

    let refusing = inspect.declared(Format::Raw);
    let mut reader = refusing.clone().stream().reader(&bytes[..]);
    for _ in 0..2 {
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        let refused = error.get_ref().unwrap().downcast_ref::<Refused>().unwrap();
        assert_eq!(refused.0[0].rule, "declared-mismatch");
        assert!(error.to_string().contains("declared as raw"), "{error}");
    }
    let mut writer = refusing.stream().writer(Vec::new());
    assert!(writer.write_all(&bytes).is_err() && writer.write_all(b"more").is_err());
    assert!(writer.finish().0.is_empty(), "what refuses it is not passed on");
}

#[cfg(feature = "checksum")]
#[test]
fn checksums_are_those_of_the_bytes() {
    use diskimage::checksum::Algorithm;
    let bytes = std::fs::read(&fixture("cloud.qcow2").path).unwrap();
    let mut inspect = Inspect::new(Policy::strict());
    for algorithm in [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512] {
        inspect = inspect.algorithm(algorithm).unwrap();
    }
    assert!(inspect.clone().algorithm(Algorithm::Blkhash).is_err());
    let mut stream = inspect.stream();
    bytes.chunks(1001).for_each(|piece| assert!(!stream.push(piece).is_refused()));
    assert_eq!(stream.bytes(), bytes.len() as u64);
    let digests = stream.finish().digests;
    assert_eq!(digests[1].to_string(), sha256(&bytes));
    for (digest, tool) in digests.iter().zip(["md5sum", "sha256sum", "sha512sum"]) {
        let path = fixture("cloud.qcow2").path.clone();
        let Some(told) = tool_output(tool, &[path.as_os_str()]) else { return };
        let told = String::from_utf8(told).unwrap();
        assert_eq!(told.split(' ').next().unwrap(), digest.to_string());
    }
}

/// Apart, since the traits of both worlds have the same methods.
#[cfg(feature = "tokio")]
mod asynchronous {
    use diskimage::Format;
    use diskimage::inspect::{Inspect, Policy};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::common::fixture;

    #[test]
    fn readers_and_writers_judge_what_passes() {
        let bytes = std::fs::read(&fixture("cloud.qcow2").path).unwrap();
        let inspect = Inspect::new(Policy::strict());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut reader = inspect.clone().stream().reader(&bytes[..]);
            let mut through = Vec::new();
            reader.read_to_end(&mut through).await.unwrap();
            assert!(through == bytes && reader.finish().1.is_allowed());

            // a pipe with little room takes only parts of what is written
            let (near, mut far) = tokio::io::duplex(100);
            let mut writer = inspect.clone().stream().writer(near);
            let take = async {
                let mut taken = Vec::new();
                far.read_to_end(&mut taken).await.unwrap();
                taken
            };
            let give = async {
                writer.write_all(&bytes).await.unwrap();
                writer.shutdown().await.unwrap();
                writer.finish().1
            };
            let (taken, verdict) = tokio::join!(take, give);
            assert!(taken == bytes && verdict.is_allowed(), "{:?}", verdict.reasons);

            let mut reader = inspect.declared(Format::Raw).stream().reader(&bytes[..]);
            let error = reader.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        });
    }
}
