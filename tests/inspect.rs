//! Verdicts: those of a file that passes by are those of the file, whatever the pieces it comes in.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::io::Read;
use std::path::{Path, PathBuf};

use common::*;
use diskimage::inspect::{Inspect, Part, Policy, Stream, Verdict};

/// A file is pushed up to here; those that are longer are not looked at as streams.
const LONGEST: u64 = 64 << 20;

/// What is equal between the verdicts of a file and of the same as a stream.
fn essence(verdict: &Verdict) -> Vec<String> {
    let facts = &verdict.facts;
    let mut lines = vec![
        format!("allowed {}", verdict.is_allowed()),
        format!("format {:?} {:?}", facts.format, facts.subformat),
        format!("sizes {:?} {}", facts.virtual_size, facts.file_size),
        format!("matches {:?}", facts.matches),
        format!("references {:?}", facts.references),
        format!("snapshots {}", facts.snapshots),
        format!("encrypted {} truncated {}", facts.encrypted, facts.truncated),
        format!("compressed {}", facts.compressed),
        format!("start {:?}", facts.start),
        format!("error {:?}", facts.error.as_ref().map(|e| (e.kind(), e.offset(), e.to_string()))),
    ];
    lines.extend(facts.findings.iter().map(|finding| format!("finding {finding:?}")));
    lines.extend(verdict.reasons.iter().map(|reason| format!("reason {reason:?}")));
    lines
}

fn pushed(mut stream: Stream, path: &Path, piece: usize) -> Verdict {
    let mut file = std::fs::File::open(path).unwrap();
    let mut buf = vec![0; piece];
    loop {
        let length = file.read(&mut buf).unwrap();
        if length == 0 || stream.push(&buf[..length]).is_refused() {
            return stream.finish();
        }
    }
}

/// What differs between the file and the stream, if anything; and what the stream did not see.
fn compare(inspect: &Inspect, path: &Path, piece: usize) -> (Vec<String>, Vec<Part>) {
    let file = inspect.file(path).unwrap();
    let stream = pushed(inspect.clone().stream(), path, piece);
    let unseen = stream.facts.unseen.iter().map(|unseen| unseen.part).collect();
    if stream.early {
        let rules: Vec<_> = file.reasons.iter().map(|reason| reason.rule).collect();
        let all = stream.reasons.iter().all(|reason| rules.contains(&reason.rule));
        let wrong = (file.is_allowed() || !all)
            .then(|| format!("early {:?}, file {:?}", stream.reasons, file.reasons));
        return (Vec::from_iter(wrong), unseen);
    }
    if !stream.facts.unseen.is_empty() {
        // what was not seen is not claimed: nothing is refused for less, or let pass that is not
        let wrong = (stream.is_allowed() && !file.is_allowed())
            .then(|| format!("passes, the file does not: {:?}", file.reasons));
        return (Vec::from_iter(wrong), unseen);
    }
    let (file, stream) = (essence(&file), essence(&stream));
    let wrong = file.iter().filter(|line| !stream.contains(line)).map(|l| format!("file: {l}"));
    let more = stream.iter().filter(|line| !file.contains(line)).map(|l| format!("stream: {l}"));
    (wrong.chain(more).collect(), unseen)
}

fn policies() -> [Policy; 3] {
    [Policy::strict(), Policy::openstack(), Policy::permissive()]
}

fn hold(images: &[PathBuf], pieces: &[usize]) -> Vec<(PathBuf, Vec<Part>)> {
    let (mut wrong, mut blind) = (Vec::new(), Vec::new());
    for path in images {
        for policy in policies() {
            let inspect = Inspect::new(policy);
            for &piece in pieces {
                let (differences, unseen) = compare(&inspect, path, piece);
                for difference in differences {
                    wrong.push(format!("{} in pieces of {piece}: {difference}", path.display()));
                }
                if !unseen.is_empty() && !blind.iter().any(|(seen, _)| seen == path) {
                    blind.push((path.clone(), unseen));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    blind
}

/// Images whose readers know too late what matters: a log of pending writes that is longer than
/// what is kept, and grain tables that only the footer at the end leads to.
const LATE: &[(&str, &[Part])] = &[];

#[test]
fn the_verdict_of_a_stream_is_that_of_the_file() {
    let images: Vec<_> = fixtures()
        .iter()
        .map(|fixture| fixture.path.clone())
        .filter(|path| path.metadata().unwrap().len() <= LONGEST)
        .collect();
    assert!(images.len() > 200);
    let blind = hold(&images, &[65_537]);
    let blind: Vec<_> = blind
        .iter()
        .map(|(path, unseen)| (path.file_name().unwrap().to_str().unwrap(), unseen.as_slice()))
        .collect();
    let wanted: Vec<_> = LATE.iter().map(|(name, parts)| (*name, *parts)).collect();
    assert_eq!(blind, wanted);
}
