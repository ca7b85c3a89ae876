//! The bounds that a user sets: every command keeps to them, and tells which one was met.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::*;

/// The commands that read a disk.
const READING: [&[&str]; 5] = [
    &["info", "FILE"],
    &["map", "FILE"],
    &["check", "FILE"],
    &["checksum", "FILE"],
    &["convert", "FILE", "TARGET"],
];

fn run_with(command: &[&str], file: &str, target: &str, options: &[&str]) -> Ran {
    let words = command.iter().map(|word| match *word {
        "FILE" => file,
        "TARGET" => target,
        other => other,
    });
    diskimage(words.chain(options.iter().copied()))
}

#[test]
fn a_disk_above_the_limit_is_refused_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    let image = fixture("qcow2/v3-zlib-64k.qcow2");
    let size = image.virtual_size;
    for command in READING {
        let words = [
            &*format!("virtual size of {size} bytes is above the limit of 1048576"),
            "--max-virtual-size",
        ];
        let to = target.to_str().unwrap();
        run_with(command, image.text(), to, &["--max-virtual-size=1M"]).refused(
            1,
            &image.path,
            &words,
        );
        run_with(command, image.text(), to, &["--max-virtual-size", &size.to_string()]).ok();
    }
    let words = ["is above the limit of 1048576"];
    diskimage(["compare", "--max-virtual-size=1M", image.text(), image.text()]).refused(
        2,
        &image.path,
        &words,
    );
    // before the command too
    diskimage(["--max-virtual-size=1M", "map", image.text()]).refused(1, &image.path, &words);
}

#[test]
fn a_chain_above_the_limit_is_refused() {
    let image = fixture("qcow2/overlay-raw.qcow2");
    for command in [&["map"][..], &["checksum"], &["info", "--backing-chain"]] {
        let with = |limit: &str| {
            let more = ["--max-chain", limit, &allow(), image.text()].map(str::to_owned);
            diskimage(command.iter().map(|&word| word.to_owned()).chain(more))
        };
        with("1").refused(1, &image.path, &["longer than 1 images", "--max-chain"]);
        with("2").ok();
    }
    for wrong in ["0", "-1", "many", "4294967296"] {
        let ran = diskimage(["map", &format!("--max-chain={wrong}"), image.text()]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains("such as 1 or 64"), "{ran:?}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_what_would() {
    let image = fixture("qcow2/v3-zlib-64k.qcow2");
    for (option, words) in [
        ("--max-memory=lots", "such as 4096, 64k or 1.5G"),
        ("--max-memory=64MiB", "did you mean 64M?"),
        ("--max-virtual-size=10GB", "did you mean 10G?"),
        ("--max-virtual-size=-1", "such as 4096"),
        ("--timeout=soon", "such as 30, 2.5, 500ms, 30s or 5m"),
        ("--timeout=0", "more than no time"),
        ("--timeout=1d", "such as 30"),
    ] {
        for command in ["info", "map", "check", "checksum", "probe"] {
            let ran = diskimage([command, option, image.text()]);
            assert_eq!((ran.code, ran.stdout.len()), (Some(2), 0), "{ran:?}");
            assert!(ran.stderr.contains(words), "{option}: {ran:?}");
        }
    }
}

#[test]
fn memory_bounds_directories_and_caches_too() {
    let image = fixture("qcow2/v3-sparse-64T.qcow2");
    // little is enough for what is read in pages
    let small = diskimage(["map", "--max-memory=1M", image.text()]).ok();
    assert!(small.stdout == diskimage(["map", image.text()]).ok().stdout);
    diskimage(["info", "--max-memory=1M", image.text()]).ok();
    let small = diskimage(["check", "--max-memory=2M", image.text()]);
    assert_eq!(small.stdout, diskimage(["check", image.text()]).stdout);
}

#[test]
fn a_timeout_ends_it_with_its_own_code_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    let image = fixture("qcow2/v3-sparse-8G.qcow2");
    let words = ["takes longer than the time that is allowed", "--timeout"];
    // seconds of work: 8 GiB of zeros that are written
    let args = ["convert", "-S0", "--timeout=150ms", image.text(), target.to_str().unwrap()];
    let start = Instant::now();
    diskimage(args).refused(124, &image.path, &words);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(entries(dir.path()).is_empty(), "{:?}", entries(dir.path()));
    // an older file stays as it was
    std::fs::write(&target, "old").unwrap();
    diskimage(args).refused(124, &image.path, &words);
    assert_eq!(std::fs::read(&target).unwrap(), b"old");
    assert_eq!(entries(dir.path()), ["out.raw"]);
    // what takes hardly any time is too long for no time, with any command
    let to = dir.path().join("none.raw");
    for command in READING {
        let ran = run_with(command, image.text(), to.to_str().unwrap(), &["--timeout=0.000001"]);
        ran.refused(124, &image.path, &words);
    }
    let args = ["compare", "--timeout=0.000001", image.text(), image.text()];
    diskimage(args).refused(124, &image.path, &words);
    let args = ["info", "--output=json", "--timeout=0.000001", image.text()];
    diskimage(args).refused(124, &image.path, &words);
    let args = ["convert", "--salvage", "--timeout=0.000001", image.text(), to.to_str().unwrap()];
    diskimage(args).refused(124, &image.path, &words);
    assert_eq!(entries(dir.path()), ["out.raw"]);
    // and enough is enough
    for command in READING {
        let small = fixture("qcow2/v3-zlib-64k.qcow2");
        run_with(command, small.text(), to.to_str().unwrap(), &["--timeout=5m"]).ok();
    }
}

#[test]
fn a_timeout_ends_what_the_system_lets_wait() {
    let image = fixture("cloud.qcow2");
    // a pipe that nobody reads, and one that nobody writes
    let args = ["convert", "--timeout=0.3", image.text(), "-"];
    let mut child = command(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(waited(&mut child), Some(124));
    let mut child = command(["probe", "--timeout=0.3", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let _open = child.stdin.take();
    assert_eq!(waited(&mut child), Some(124));
}

#[test]
fn what_is_no_regular_file_is_named_for_what_it_is_and_nothing_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut odd = vec![(socket, "a socket"), (dir.path().to_owned(), "a directory")];
    odd.push(("/dev/null".into(), "a character device"));
    if has("mkfifo") {
        output_of(dir.path(), "mkfifo", &["fifo"]);
        odd.push((dir.path().join("fifo"), "a FIFO"));
    }
    let to = dir.path().join("out.raw");
    for (path, what) in odd {
        for command in READING {
            let ran = run_with(command, path.to_str().unwrap(), to.to_str().unwrap(), &[]);
            ran.refused(1, &path, &[what, "not a regular file or block device"]);
            let ran =
                run_with(command, path.to_str().unwrap(), to.to_str().unwrap(), &["-f", "raw"]);
            ran.refused(1, &path, &[what]);
        }
        diskimage(["probe", path.to_str().unwrap()]).refused(2, &path, &[what]);
    }
    assert!(!to.exists() && !Path::new("out.raw").exists());
}
