//! Every hostile image with every command that opens one: whatever it is, the answer comes at once,
//! in little memory, is safe to print, and nothing but the named file is touched.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;

use common::hostile::{Came, Run, Set, run_all, sets};
use common::*;
use serde_json::Value;

/// The commands; `TARGET` is where a conversion goes.
const COMMANDS: &[&[&str]] = &[
    &["info", "--output=json", "FILE"],
    &["map", "--output=json", "-l", "1T", "FILE"],
    &["check", "--threads=1", "FILE"],
    &["inspect", "--policy=openstack", "FILE"],
    &["inspect", "--policy=permissive", "--output=json", "FILE"],
    &["convert", "--threads=1", "--no-sync", "FILE", "TARGET"],
];

const FORMATS: [&str; 6] = ["raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi"];

/// Content that is written by the GiB, and a map of a million lines: one small cluster that is mapped
/// again and again. That takes as long as the answer is.
const LARGE: &[&str] = &["q2-amplify-2g.qcow2"];

/// What a run may take, here in a debug build.
const SECONDS: f64 = 1.0;
const MEMORY: u64 = 64 << 20;

fn args(command: &[&str], format: Option<&str>, file: &Path, target: &Path) -> Vec<String> {
    let word = |word: &&str| match *word {
        "FILE" => file.to_str().unwrap().to_owned(),
        "TARGET" => target.to_str().unwrap().to_owned(),
        other => other.to_owned(),
    };
    let mut args: Vec<_> = command.iter().map(word).collect();
    if let Some(format) = format {
        args.insert(1, format!("--format={format}"));
    }
    args
}

/// Whether what is wrong is the answer rather than an error.
fn told_in_the_answer(came: &Came) -> bool {
    came.args[0] == "check" || (came.args[0] == "inspect" && came.code == 3)
}

/// What speaks against a run, whatever the image.
fn complaint(came: &Came) -> Option<String> {
    let printed = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.contains(|c: char| (c.is_control() && c != '\n') || diskimage::text::is_invisible(c))
    };
    let words = || String::from_utf8_lossy(&came.err).into_owned();
    let bad = if !matches!(came.code, 0..=3 | 63) {
        format!("exit code {}: {}", came.code, words())
    } else if came.leaked {
        "bytes of a file outside came out".into()
    } else if printed(&came.out) || printed(&came.err) {
        "something that a terminal obeys came out".into()
    } else if came.peak > MEMORY {
        format!("{} KiB", came.peak >> 10)
    } else if came.seconds > SECONDS {
        format!("{} s", came.seconds)
    } else if came.converted && came.code != 0 {
        format!("exit code {} and a target", came.code)
    } else if came.code == 0 && !came.err.is_empty() && !is_spill_note(&words()) {
        format!("success, and {}", words())
    } else if came.code != 0 && !told_in_the_answer(came) && came.err.is_empty() {
        "a failure without a word".into()
    } else {
        return None;
    };
    Some(format!("{:?}: {bad}", came.args))
}

/// The one thing that is said of a success: a compressed image went through a temporary file.
fn is_spill_note(words: &str) -> bool {
    words.starts_with("diskimage: note: spilled ") && words.lines().count() == 1
}

/// Size, times and identity of every file of a set: a write would change them.
fn state(folder: &Path) -> BTreeMap<String, (u64, u64, i64, i64, u32)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let look = std::fs::symlink_metadata(entry.path()).unwrap();
            if look.is_dir() {
                folders.push(entry.path());
            }
            let name = entry.path().to_str().unwrap().to_owned();
            let state = (look.len(), look.ino(), look.ctime(), look.ctime_nsec(), look.mode());
            found.insert(name, state);
        }
    }
    found
}

/// All verdicts that the manifest allows.
fn verdicts(case: &Value) -> Vec<&str> {
    let others = case["alt_ok"].as_array().into_iter().flatten();
    others.chain([&case["expected"]]).map(|verdict| verdict.as_str().unwrap()).collect()
}

fn is_large(file: &str) -> bool {
    LARGE.contains(&file)
}

fn check_set(set: &Set) {
    let before = state(&set.folder);
    let targets = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (mut runs, mut refused) = (Vec::new(), BTreeMap::new());
    for (number, case) in set.cases.iter().enumerate() {
        let file = case["file"].as_str().unwrap();
        let path = set.folder.join(file);
        let mut add = |command: &[&str], format: Option<&str>, more: &[&str]| {
            if matches!(command[0], "convert" | "map") && is_large(file) {
                return None;
            }
            let target = targets.path().join(format!("{}.raw", runs.len()));
            let mut args = args(command, format, &path, &target);
            args.extend(more.iter().map(|&word| word.to_owned()));
            runs.push(Run { args: args.clone(), target });
            Some(args)
        };
        let format = case["open_as"].as_str();
        // header fields at their extremes are alike to a process: the library's tests have them all
        let some = case["class"].as_str().unwrap().ends_with("-fields") && number % 3 != 0;
        for command in COMMANDS.iter().filter(|_| !some) {
            let args = add(command, format, &[]);
            let must = verdicts(case).iter().all(|verdict| verdict.starts_with("must_reject"));
            // at the latest a conversion has to refuse
            refused.extend(args.filter(|_| must && command[0] == "convert").map(|args| (args, ())));
        }
        if case["refused_if_allowed"] == true {
            let args = add(COMMANDS[COMMANDS.len() - 1], format, &["--allow-external"]);
            refused.extend(args.map(|args| (args, ())));
        }
        // a sample with the format detected, and each one forced
        let other = number % (FORMATS.len() + 1);
        if number % 10 == 0 {
            for command in COMMANDS {
                add(command, FORMATS.get(other).copied(), &[]);
            }
        }
    }
    let (count, wrong) = (runs.len(), Mutex::new(Vec::new()));
    run_all(runs, |came| {
        let accepted = came.code == 0 && refused.contains_key(&came.args);
        let accepted = accepted.then(|| format!("{:?}: is accepted", came.args));
        wrong.lock().unwrap().extend(complaint(&came).or(accepted));
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(before == state(&set.folder), "an image was changed, or a file made beside it");
    assert!(entries(targets.path()).is_empty(), "{:?}", entries(targets.path()));
}

#[test]
fn every_command_answers_at_once_in_little_memory_and_touches_nothing() {
    for set in sets() {
        check_set(&set);
    }
}
