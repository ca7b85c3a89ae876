//! What must be refused is, with one printable line, and without touching anything else.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use tempfile::TempDir;

const COMMANDS: [&[&str]; 3] =
    [&["convert", "FILE", "-"], &["map", "FILE"], &["map", "--output=json", "FILE"]];

/// Runs every command that reads a disk.
#[track_caller]
fn all_refuse(file: &Path, options: &[&str], words: &[&str]) {
    for command in COMMANDS {
        let name = file.to_str().unwrap();
        let args = command.iter().map(|word| if *word == "FILE" { name } else { word });
        let ran = diskimage(args.chain(options.iter().copied()));
        ran.refused(1, file, words);
    }
}

#[test]
fn fixtures_that_must_be_refused_are() {
    for (file, words) in [
        ("v3-luks", ["is encrypted (LUKS, crypt_method 2)", "(at offset 0x20): decrypt it"]),
        ("v2-aes", ["is encrypted (AES, crypt_method 1)", "(at offset 0x20): decrypt it"]),
        ("v3-corrupt-bit", ["is marked as corrupt", "(at offset 0x48): repair it first"]),
        ("v3-unknown-feature", ["'quantum clusters' (bit 7)", "(at offset 0x48): convert it"]),
    ] {
        all_refuse(&fixture(&format!("qcow2/{file}.qcow2")).path, &[], &words);
    }
    let unknown = fixture("qcow2/v3-unknown-feature.qcow2");
    diskimage(["info", unknown.text()]).refused(1, &unknown.path, &["quantum clusters"]);
    // programs get to know what the file is nevertheless
    let ran = diskimage(["info", "--output=json", unknown.text()]);
    assert_eq!((ran.code, &ran.json()["format"]), (Some(1), &"qcow2".into()));
    for file in ["qcow2/v3-corrupt-bit.qcow2", "qcow2/v3-unknown-feature.qcow2"] {
        diskimage(["convert", "--trust-broken", fixture(file).text(), "-"]).ok();
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let inside = |name: &str| dir.path().join(name);
    std::fs::write(inside("text"), "dear diary,\n".repeat(100)).unwrap();
    all_refuse(&inside("text"), &[], &["is in no format that is known: ", "-f raw"]);
    all_refuse(&inside("text"), &["-f", "qcow2"], &["is no QCOW2 file", "(at offset 0x0)"]);
    all_refuse(dir.path(), &[], &["is a directory"]);
    all_refuse(&inside("missing"), &[], &["No such file or directory"]);
    if has("mkfifo") {
        output_of(dir.path(), "mkfifo", &["fifo"]);
        all_refuse(&inside("fifo"), &[], &["is a FIFO", ": an image is read by position"]);
        diskimage(["info".as_ref(), inside("fifo").as_os_str()]).refused(
            1,
            &inside("fifo"),
            &["is a FIFO"],
        );
    }
    diskimage(["convert", "-f", "raw", inside("text").to_str().unwrap(), "-"]).ok();
    for format in ["vmdk7", ""] {
        let ran = diskimage(["info", "-f", format, inside("text").to_str().unwrap()]);
        assert_eq!((ran.code, ran.stdout.len()), (Some(2), 0), "{ran:?}");
    }
}

#[test]
fn an_image_cut_off_in_its_tables_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = fixture("qcow2/v3-plain-64k.qcow2").bytes();
    for (length, word) in [
        (3, "is in no format"),
        (60, "header"),
        (0x300, "L1 table"),
        (0x20000, "table"),
        (0x30004, "table"),
        (0x40000, "L2 table"),
        (0x48000, "L2 table"),
    ] {
        let path = dir.path().join(format!("cut-{length:x}"));
        std::fs::write(&path, &bytes[..length]).unwrap();
        let ran = diskimage(["convert", path.to_str().unwrap(), "-"]).refused(1, &path, &[word]);
        assert!(length < 4 || ran.stderr.contains("(at offset 0x"), "{ran:?}");
    }
}

/// A folder with `images/top.qcow2`, over a backing file of this name.
fn over(name: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let mut bytes = fixture("qcow2/overlay-raw.qcow2").bytes();
    qcow2::set_backing_name(&mut bytes, name);
    let top = images.join("top.qcow2");
    std::fs::write(&top, bytes).unwrap();
    std::fs::copy(&fixture("qcow2/base.raw").path, dir.path().join("base.raw")).unwrap();
    (dir, top)
}

#[test]
fn backing_files_are_opened_only_where_they_are_allowed() {
    let (_dir, top) = over(b"base.raw");
    all_refuse(
        &top,
        &[],
        &["needs the backing file 'base.raw'", "(at offset 0x", "--allow-external"],
    );
    // missing
    all_refuse(&top, &["--allow-external"], &["No such file or directory", ": put the file there"]);
    std::fs::copy(&fixture("qcow2/base.raw").path, top.with_file_name("base.raw")).unwrap();
    diskimage(["convert", "--allow-external", top.to_str().unwrap(), "-"]).ok();
    let elsewhere = tempfile::tempdir().unwrap();
    let option = format!("--allow-external={}", elsewhere.path().display());
    all_refuse(&top, &[&option], &["lies outside of the allowed folder"]);
    let ran =
        diskimage(["convert", "--allow-external=/nowhere/at/all", top.to_str().unwrap(), "-"]);
    ran.refused(1, Path::new("/nowhere/at/all"), &["find the allowed folder"]);
}

#[test]
fn a_listed_name_opens_the_file_it_stands_for_and_no_other() {
    let (dir, top) = over(b"/etc/passwd");
    let file = dir.path().join("base.raw");
    let option = |name: &str| format!("--resolve={name}={}", file.display());
    diskimage(["convert", &option("/etc/passwd"), top.to_str().unwrap(), "-"]).ok();
    all_refuse(&top, &[&option("passwd")], &["needs the backing file '/etc/passwd'"]);
    assert_eq!(diskimage(["info", "--resolve=x", top.to_str().unwrap()]).code, Some(2));
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused() {
    for name in ["../base.raw", "../images/../base.raw", "/etc/passwd", "sub/../../base.raw"] {
        let (dir, top) = over(name.as_bytes());
        all_refuse(&top, &["--allow-external"], &["lies outside of the allowed folder", name]);
        let option = format!("--allow-external={}", dir.path().display());
        if name == "../base.raw" {
            diskimage(["convert", &option, top.to_str().unwrap(), "-"]).ok();
        }
    }
    for name in ["json:{\"driver\":\"raw\"}", "nbd://host/x", "file:base.raw", "fat:/etc"] {
        let (_dir, top) = over(name.as_bytes());
        all_refuse(&top, &["--allow-external"], &["No such file or directory"]);
    }
}

#[test]
fn links_fifos_and_devices_are_no_backing_files_and_nothing_hangs() {
    let (dir, top) = over(b"base");
    let base = top.with_file_name("base");
    symlink(dir.path().join("base.raw"), &base).unwrap();
    all_refuse(&top, &["--allow-external"], &["it is a symbolic link", "regular file"]);
    std::fs::remove_file(&base).unwrap();
    symlink(".", top.with_file_name("loop")).unwrap();
    std::fs::create_dir(&base).unwrap();
    all_refuse(&top, &["--allow-external"], &["it is not a regular file"]);
    std::fs::remove_dir(&base).unwrap();
    if has("mkfifo") {
        output_of(top.parent().unwrap(), "mkfifo", &["base"]);
        all_refuse(&top, &["--allow-external"], &["it is not a regular file"]);
    }
    let (_dir, top) = over(b"top.qcow2");
    let mut bytes = std::fs::read(&top).unwrap();
    // the extension that calls the backing file raw: without it the file is its own parent
    let at = bytes.windows(4).position(|w| w == 0xe279_2aca_u32.to_be_bytes()).unwrap();
    bytes[at..at + 4].copy_from_slice(b"\x00\x11\x22\x33");
    std::fs::write(&top, bytes).unwrap();
    all_refuse(&top, &["--allow-external"], &["leads back to this file"]);
}

#[test]
fn names_that_terminals_obey_come_out_printable() {
    let name = b"\x1b[2J\n\x07\xff\xc2\x9b\xe2\x80\xaex";
    let (_dir, top) = over(name);
    let shown = "\\x1b[2J\\x0a\\x07\\xff\\u{9b}\\u{202e}x";
    all_refuse(&top, &[], &[shown]);
    all_refuse(&top, &["--allow-external"], &[shown]);
    for output in ["human", "json"] {
        let ran = diskimage(["info", "--output", output, top.to_str().unwrap()]).ok();
        let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!ran.text().contains(bad), "{output}: {ran:?}");
        assert!(output == "json" || ran.text().contains(shown));
    }
}

/// The names that a command opens.
fn opened(args: &[&str]) -> Option<Vec<String>> {
    if !has("strace") {
        return None;
    }
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("strace");
    command.args(["-f", "-e", "trace=open,openat,openat2,execve,connect", "-o"]).arg(log.path());
    let ran = ran(command.arg(DISKIMAGE).args(args));
    let text = std::fs::read_to_string(log.path()).unwrap();
    if !text.contains("execve(") {
        skipped(&format!("tracing is not permitted: {}", ran.stderr.trim()));
        return None;
    }
    Some(text.lines().map(str::to_owned).collect())
}

#[test]
fn a_denied_backing_file_is_not_even_looked_at() {
    let (_dir, top) = over(b"base.raw");
    std::fs::copy(&fixture("qcow2/base.raw").path, top.with_file_name("base.raw")).unwrap();
    let (data, image) = (fixture("qcow2/data-file.qcow2"), top.to_str().unwrap());
    for args in [
        &["info", image][..],
        &["convert", image, "-"],
        &["map", image],
        &["info", data.text()],
        &["convert", data.text(), "-"],
        &["probe", image],
    ] {
        let Some(calls) = opened(args) else { return };
        assert!(calls.iter().any(|call| call.contains(".qcow2\"")), "{calls:#?}");
        let other = |call: &&String| {
            call.contains("base.raw") || call.contains("data-file.raw") || call.contains("connect(")
        };
        assert_eq!(calls.iter().find(other), None, "{args:?}");
    }
    // allowed, it is opened once it is known to be a regular file
    let Some(calls) = opened(&["convert", "--allow-external", image, "-"]) else { return };
    assert!(calls.iter().any(|call| call.contains("openat2(") && call.contains("O_PATH")));
    assert_eq!(calls.iter().filter(|call| call.contains("base.raw")).count(), 2, "{calls:#?}");
}
