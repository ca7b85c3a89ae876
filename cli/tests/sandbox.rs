//! The sandbox: every command answers as without it, and has given up the rest before it reads.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::Path;
use std::process::Command;

use common::*;

/// Whether this kernel has all of it, as the command itself tells.
fn is_whole(ran: &Ran) -> bool {
    if ran.stderr.contains("note: the sandbox is not whole") {
        skipped(&ran.stderr);
        return false;
    }
    true
}

/// Runs the command with and without the sandbox: the same comes out.
#[track_caller]
fn same(args: &[&str]) -> Option<()> {
    let plain = diskimage(args.iter().copied());
    let boxed = diskimage(["--sandbox"].iter().chain(args).copied());
    if !is_whole(&boxed) {
        return None;
    }
    assert_eq!((boxed.code, &boxed.stderr), (plain.code, &plain.stderr), "{args:?}");
    assert!(boxed.stdout == plain.stdout, "{args:?}");
    Some(())
}

#[test]
fn every_command_answers_as_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    // some of each format: to the sandbox they are alike
    let small = fixtures().iter().filter(|f| f.virtual_size <= 4 << 20);
    for image in small.step_by(7) {
        let (file, allow, format) = (image.text(), allow(), format!("-f{}", image.format));
        for args in [
            &["probe", file][..],
            &["info", file],
            &["info", "--output=json", &allow, "--backing-chain", file],
            &["map", "--output=json", &allow, &format, file],
            &["check", file],
            &["checksum", &allow, &format, file],
            &["compare", &allow, &format, "-F", &image.format, file, file],
            &["convert", &allow, &format, file, "-"],
        ] {
            if same(args).is_none() {
                return;
            }
        }
    }
    let image = fixture("qcow2/v3-zlib-64k.qcow2");
    let lines = diskimage(["checksum", image.text()]).ok().stdout;
    std::fs::write(&list, lines).unwrap();
    same(&["checksum", "--check", list.to_str().unwrap()]);
    same(&["info", dir.path().to_str().unwrap()]);
    same(&["info", dir.path().join("missing").to_str().unwrap()]);
}

#[test]
fn every_way_to_write_works_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    let (image, to) = (fixture("qcow2/v3-zlib-64k.qcow2"), target.to_str().unwrap());
    for more in [
        &[][..],
        // there is an older file now
        &[],
        &["-n"],
        &["-S", "0", "--preallocation=full", "--threads=4"],
        &["--cache=drop", "--checksum=sha256", "-p"],
        &["--salvage"],
        &["--timeout=60"],
    ] {
        let args = ["--sandbox", "convert", image.text(), to];
        let ran = diskimage(args.iter().chain(more).copied());
        if !is_whole(&ran) {
            return;
        }
        ran.ok();
        assert_eq!(Some(sha256(&std::fs::read(&target).unwrap())), image.guest_sha256, "{more:?}");
        assert_eq!(entries(dir.path()), ["out.raw"], "{more:?}");
    }
    // and where the target is a name in the working folder, or behind a link
    std::os::unix::fs::symlink("out.raw", dir.path().join("link")).unwrap();
    for to in ["new.raw", "link"] {
        let args = ["convert", "--sandbox", image.text(), to];
        ran(command(args).current_dir(dir.path())).ok();
    }
    assert_eq!(entries(dir.path()), ["link", "new.raw", "out.raw"]);
    // a repair writes into its image
    let broken = dir.path().join("broken.qcow2");
    let mut bytes = image.bytes();
    let refcounts = qcow2::be64(&bytes, qcow2::be64(&bytes, 48) as usize) as usize;
    bytes[refcounts..refcounts + 2].fill(0);
    std::fs::write(&broken, bytes).unwrap();
    let args = ["check", "--sandbox", "--repair", "all", broken.to_str().unwrap()];
    assert_eq!(diskimage(args).code, Some(0));
    assert_eq!(diskimage(["check", broken.to_str().unwrap()]).code, Some(0));
}

/// The calls of a run, in order.
fn calls(args: &[&str]) -> Option<Vec<String>> {
    if !has("strace") {
        return None;
    }
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-o"]).arg(log.path()).arg(DISKIMAGE).args(args);
    let ran = ran(&mut command);
    let text = std::fs::read_to_string(log.path()).unwrap();
    if !text.contains("execve(") {
        skipped(&format!("tracing is not permitted: {}", ran.stderr.trim()));
        return None;
    }
    is_whole(&ran).then(|| text.lines().map(str::to_owned).collect())
}

#[test]
fn the_rest_is_given_up_before_the_image_is_read_and_before_threads_start() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    let (image, target) = (fixture("qcow2/v3-zlib-64k.qcow2"), target.to_str().unwrap());
    for args in [
        &["probe", image.text()][..],
        &["info", image.text()],
        &["map", image.text()],
        &["check", image.text()],
        &["checksum", image.text()],
        &["compare", image.text(), image.text()],
        &["convert", image.text(), target],
    ] {
        let args = [&["--sandbox"], args].concat();
        let Some(calls) = calls(&args) else { return };
        let first = |what: &str| calls.iter().position(|call| call.contains(what));
        let first_read = calls.iter().position(|call| {
            call.contains("read") && call.contains(&format!("<{}>", image.text()))
        });
        let read = first_read.unwrap_or_else(|| panic!("{args:?} reads nothing"));
        for what in
            ["PR_SET_NO_NEW_PRIVS", "PR_SET_DUMPABLE", "landlock_restrict_self(", "seccomp("]
        {
            let at = first(what).unwrap_or_else(|| panic!("{args:?}: no {what}"));
            assert!(at < read, "{args:?}: {what} comes after the first read");
            let thread = calls.iter().position(|call| call.contains("CLONE_THREAD"));
            assert!(
                thread.is_none_or(|thread| at < thread),
                "{args:?}: {what} comes after a thread"
            );
        }
        // without it nothing of it is done
        let Some(calls) = self::calls(&args[1..]) else { return };
        assert!(!calls.iter().any(|call| call.contains("landlock") || call.contains("seccomp(")));
    }
}

#[test]
fn a_parent_opens_only_where_it_is_allowed() {
    let image = fixture("qcow2/overlay-raw.qcow2");
    let plain = diskimage(["convert", &allow(), image.text(), "-"]).ok();
    let boxed = diskimage(["convert", "--sandbox", &allow(), image.text(), "-"]);
    if !is_whole(&boxed) {
        return;
    }
    assert!(boxed.ok().stdout == plain.stdout);
    let ran = diskimage(["convert", "--sandbox", image.text(), "-"]);
    ran.refused(1, Path::new(image.text()), &["other files are not opened unless allowed"]);
}
