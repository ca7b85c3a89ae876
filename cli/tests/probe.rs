//! `diskimage probe` from end to end.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::process::{Command, Stdio};

use common::*;

#[test]
fn every_fixture_is_what_its_manifest_says() {
    let paths: Vec<_> = fixtures().iter().map(|f| &f.path).collect();
    let ran = diskimage(
        ["probe", "--output=json"]
            .iter()
            .map(AsRef::as_ref)
            .chain(paths.iter().map(|p| p.as_os_str())),
    );
    assert_eq!((ran.code, &*ran.stderr), (Some(1), ""), "some raw disks have no signature");
    let answers = ran.json();
    assert_eq!(answers.as_array().unwrap().len(), fixtures().len());
    for (answer, fixture) in answers.as_array().unwrap().iter().zip(fixtures()) {
        assert_eq!(answer["filename"], fixture.text());
        if fixture.is("extent") {
            // a part of a disk, whatever it looks like
        } else if fixture.format == "raw" {
            let known = fixture.is("mbr") || fixture.is("gpt");
            assert_eq!(
                answer["format"],
                if known { "raw".into() } else { serde_json::Value::Null }
            );
            let guessed = answer["findings"][0]["code"] == "format-guessed";
            assert_eq!(guessed, !known, "{answer}");
        } else {
            assert_eq!(answer["format"], fixture.format, "{answer}");
        }
    }
}

#[test]
fn all_matches_are_told_with_their_evidence() {
    let gpt = fixture("raw/gpt.raw");
    let answer = diskimage(["probe", "--output=json", gpt.text()]).ok().json();
    let matches = answer[0]["matches"].as_array().unwrap();
    let formats: Vec<_> = matches.iter().map(|m| m["format"].as_str().unwrap()).collect();
    assert_eq!(
        formats,
        ["gpt", "mbr"].map(String::from).as_slice().iter().rev().collect::<Vec<_>>()
    );
    assert!(matches.iter().all(|m| m["class"] == "content" && m["evidence"].is_string()));
    let ran = diskimage(["probe", gpt.text()]).ok();
    let line = ran.text();
    assert!(line.starts_with(&format!("{}: raw disk: ", gpt.text())), "{line}");
    assert!(line.contains("[mbr]") && line.contains("; also GPT partition table [gpt]"), "{line}");
}

#[test]
fn two_formats_in_one_file_are_shouted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("polyglot");
    let mut bytes = fixture("qcow2/v3-plain-64k.qcow2").bytes();
    bytes[0x40..0x44].copy_from_slice(b"\x7f\x10\xda\xbe");
    std::fs::write(&path, bytes).unwrap();
    let text = diskimage(["probe", path.to_str().unwrap()]).ok();
    assert!(text.text().contains("MORE THAN ONE FORMAT FITS"), "{text:?}");
    let answer = diskimage(["probe", "--output=json", path.to_str().unwrap()]).ok().json();
    assert_eq!(answer[0]["format"], serde_json::Value::Null);
    assert_eq!(answer[0]["findings"][0]["code"], "polyglot");
    assert_eq!(answer[0]["findings"][0]["severity"], "danger");
}

#[test]
fn the_exit_code_is_the_worst_of_all_files() {
    let dir = tempfile::tempdir().unwrap();
    let [known, unknown, missing] = ["known", "unknown", "missing"].map(|n| dir.path().join(n));
    std::fs::write(&known, b"QFI\xfb\0\0\0\x03").unwrap();
    std::fs::write(&unknown, "nothing of note").unwrap();
    let code = |files: &[&std::path::Path]| {
        let args =
            [std::ffi::OsStr::new("probe")].into_iter().chain(files.iter().map(|f| f.as_os_str()));
        diskimage(args).code.unwrap()
    };
    assert_eq!(code(&[&known]), 0);
    assert_eq!(code(&[&unknown]), 1);
    assert_eq!(code(&[&missing]), 2);
    assert_eq!(code(&[&known, &unknown, &known]), 1);
    assert_eq!(code(&[&missing, &unknown, &known]), 2);
    assert_eq!(code(&[&unknown, &missing, &known]), 2);
    // an error does not keep the others from being told
    let ran = diskimage([std::ffi::OsStr::new("probe"), missing.as_ref(), known.as_ref()]);
    assert!(ran.text().contains("[qcow2]"), "{ran:?}");
    ran.told(&missing, &["No such file"]);
}

#[test]
fn what_is_no_file_to_read_is_an_error_and_nothing_hangs() {
    let dir = tempfile::tempdir().unwrap();
    diskimage(["probe".as_ref(), dir.path().as_os_str()]).refused(2, dir.path(), &["directory"]);
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let ran = diskimage(["probe".as_ref(), empty.as_os_str()]);
    assert_eq!(ran.code, Some(1), "an empty file is of no known kind");
    if has("mkfifo") {
        let fifo = dir.path().join("fifo");
        output_of(dir.path(), "mkfifo", &["fifo"]);
        diskimage(["probe".as_ref(), fifo.as_os_str()]).refused(2, &fifo, &["a FIFO"]);
    }
}

#[test]
fn a_dash_is_standard_input() {
    let image = fixture("qcow2/v3-zlib-2M.qcow2");
    for (file, code, word) in
        [(&*image.path, 0, "[qcow2]"), (std::path::Path::new("/dev/null"), 1, "unknown")]
    {
        let child = command(["probe", "-"])
            .stdin(std::fs::File::open(file).unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let ran = finished(child);
        assert_eq!((ran.code, &*ran.stderr), (Some(code), ""));
        assert!(ran.text().starts_with("-: ") && ran.text().contains(word), "{ran:?}");
    }
    // only the head is needed: who writes on may find the pipe closed, and is not waited for
    let ran = ran(Command::new("sh").args(["-c", "yes | \"$0\" probe --output=json -", DISKIMAGE]));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(ran.json()[0]["filename"], "-");
}

#[test]
fn hostile_names_and_missing_arguments_are_usage_errors_or_printable() {
    assert_eq!(diskimage(["probe"]).code, Some(2));
    assert_eq!(diskimage(["probe", "--output=xml", "x"]).code, Some(2));
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().join("\u{1b}[31mred\nline");
    std::fs::write(&name, b"QFI\xfb\0\0\0\x03").unwrap();
    let ran = diskimage(["probe".as_ref(), name.as_os_str()]).ok();
    assert!(ran.text().contains("\\x1b[31mred\\x0aline: "), "{ran:?}");
}
