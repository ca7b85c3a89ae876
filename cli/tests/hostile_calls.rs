//! What the command asks the system for on hostile images: it opens the named file, for reading, and
//! no other, also where the image names one; it makes no socket, and writes where it was told to.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use common::hostile::sets;
use common::*;

/// The commands; `TARGET` is where a conversion goes.
const COMMANDS: &[&[&str]] = &[
    &["info", "--output=json", "FILE"],
    &["map", "FILE"],
    &["check", "--threads=1", "FILE"],
    &["convert", "--threads=1", "--no-sync", "FILE", "TARGET"],
];

/// How many images one shell goes through under one strace.
const BATCH: usize = 60;

/// An image, and the format to force.
type Case = (PathBuf, Option<String>);

/// The images that name other files, and every tenth of the others.
fn cases() -> Vec<Case> {
    let mut chosen = Vec::new();
    for set in sets() {
        let mut others = 0;
        for case in &set.cases {
            let outside = case["expected"] == "must_reject_by_policy"
                || case["class"].as_str().unwrap().starts_with("external");
            others += u32::from(!outside);
            let huge = case["file"].as_str().unwrap().contains("amplify");
            if outside || (others % 20 == 0 && !huge) {
                let format = case["open_as"].as_str().map(str::to_owned);
                chosen.push((set.folder.join(case["file"].as_str().unwrap()), format));
            }
        }
    }
    chosen
}

/// What the program itself and its libraries are made of.
fn is_of_the_system(path: &str) -> bool {
    let own = [
        "/lib",
        "/usr/lib",
        "/etc/ld.so",
        "/proc/self/",
        "/sys/fs/cgroup",
        "/sys/devices/system/cpu",
    ];
    own.iter().any(|start| path.starts_with(start)) || path == DISKIMAGE
}

/// The names in a line of strace.
fn names(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2)
}

/// What speaks against a call of a run on `image`, if anything.
fn complaint(line: &str, image: &str, targets: &str) -> Option<String> {
    let call = line.split_once(' ').map_or(line, |(_, call)| call.trim_start());
    let bad = |why: &str| Some(format!("{image}: {why}: {line}"));
    if ["socket(", "connect(", "bind(", "sendto("].iter().any(|start| call.starts_with(start)) {
        return bad("a socket");
    }
    if call.starts_with("execve(") {
        return None;
    }
    for name in names(call).filter(|name| !name.is_empty()) {
        // on the way to the target links are looked for
        let inside = name == targets
            || name.starts_with(&format!("{targets}/"))
            || (call.starts_with("readlink(") && targets.starts_with(name));
        if !(inside || name == image || is_of_the_system(name)) {
            return bad("another file");
        }
        let writes =
            ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"].iter().any(|flag| call.contains(flag));
        let changes =
            ["unlink", "rename", "link", "mkdir", "chmod", "truncate", "symlink", "mknod"]
                .iter()
                .any(|start| call.starts_with(start));
        if (writes || changes) && !inside && !name.starts_with("/proc/self/fd/") {
            return bad("a write");
        }
    }
    None
}

/// Runs all commands on these images, and tells what is wrong with their calls; `None` where
/// tracing is not permitted.
fn trace(batch: &[Case]) -> Option<Vec<String>> {
    let work = tempfile::tempdir().unwrap();
    let targets = work.path().join("targets");
    std::fs::create_dir(&targets).unwrap();
    let mut script = String::from("exec >/dev/null 2>&1 </dev/null\n");
    let mut images = Vec::new();
    for (number, (image, format)) in batch.iter().enumerate() {
        // a map and a check of every fourth
        for command in COMMANDS
            .iter()
            .filter(|command| matches!(command[0], "info" | "convert") || number % 4 == 0)
        {
            let format = format.as_ref().map(|format| format!(" -f {format}"));
            let words = command.iter().map(|word| match *word {
                "FILE" => format!("'{}'", image.display()),
                "TARGET" => format!("'{}/out.raw'", targets.display()),
                other => other.to_owned(),
            });
            let words: Vec<_> = words.collect();
            script += &format!("'{DISKIMAGE}' {}{}\n", words.join(" "), format.unwrap_or_default());
            images.push(image.to_str().unwrap());
        }
    }
    std::fs::write(work.path().join("script"), script).unwrap();
    let log = work.path().join("log");
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "--seccomp-bpf",
        "-s",
        "4096",
        "-e",
        "trace=%file,%network",
        "-e",
        "signal=none",
    ]);
    // the test runner names folders there that the loader would look into
    strace.env_remove("LD_LIBRARY_PATH");
    // where what is compressed may be decoded to
    strace.env("TMPDIR", &targets);
    strace.arg("-o").arg(&log).args(["sh", "script"]).current_dir(work.path());
    let ended = strace.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
    if !text.contains("execve(") {
        skipped(&format!("tracing is not permitted: {}", String::from_utf8_lossy(&ended.stderr)));
        return None;
    }
    let started = format!("execve(\"{DISKIMAGE}\"");
    let (mut number, mut wrong) = (0usize, Vec::new());
    for line in text.lines() {
        if line.contains(&started) {
            number += 1;
        }
        let Some(image) = images.get(number.wrapping_sub(1)) else { continue };
        // the shell itself does nothing between two commands but to end
        wrong.extend(complaint(line, image, targets.to_str().unwrap()));
    }
    assert_eq!(number, images.len(), "runs that were traced");
    Some(wrong)
}

#[test]
fn no_file_but_the_named_one_is_opened_and_no_socket_made() {
    if !has("strace") {
        return;
    }
    let cases = cases();
    let batches = Mutex::new(cases.chunks(BATCH).collect::<Vec<_>>());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = batches.lock().unwrap().pop();
                    let Some(found) = next.and_then(trace) else { break };
                    wrong.lock().unwrap().extend(found);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_complaints_are_made() {
    let told = |line: &str| complaint(line, "/images/a", "/out").is_some();
    for line in [
        "7 openat(AT_FDCWD, \"/images/a\", O_RDONLY|O_CLOEXEC) = 3",
        "7 openat(AT_FDCWD, \"/out\", O_RDWR|O_TMPFILE, 0666) = 4",
        "7 linkat(AT_FDCWD, \"/proc/self/fd/4\", AT_FDCWD, \"/out/out.raw\", AT_SYMLINK_FOLLOW) = 0",
        "7 openat(AT_FDCWD, \"/lib/x86_64-linux-gnu/libc.so.6\", O_RDONLY) = 3",
    ] {
        assert!(!told(line), "{line}");
    }
    for line in [
        "7 openat(AT_FDCWD, \"/images/b\", O_RDONLY|O_CLOEXEC) = -1 ENOENT",
        "7 openat(AT_FDCWD, \"/images/a\", O_RDWR) = 3",
        "7 statx(AT_FDCWD, \"/etc/passwd\", 0, 0, 0) = 0",
        "7 unlink(\"/images/a\") = 0",
        "7 socket(AF_INET, SOCK_STREAM, 0) = 5",
        "7 openat2(3, \"base\", {flags=O_PATH}) = 4",
    ] {
        assert!(told(line), "{line}");
    }
    assert!(is_of_the_system(DISKIMAGE) && Path::new(DISKIMAGE).exists());
}
