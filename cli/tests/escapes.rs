//! Nothing that a terminal obeys comes out, whoever wrote it: images, the names of files, the
//! arguments of a command line that was put together from them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use common::hostile::made;
use common::*;

/// What a terminal would obey, or what would hide or turn around text: C0 and C1 controls,
/// direction overrides, line separators, tags, and bytes that are no UTF-8.
const NAME: &[u8] = b"\x1b]0;x\x07\x1b[2J\xc2\x9b31m\xe2\x80\xaegnp\xe2\x81\xa6\xe2\x80\xa8\xd8\x9c\x7f\xf3\xa0\x81\x81\xff.q";

/// What must not come out of a run. A line of checksums for programs holds the name as it is.
fn check(args: &[OsString], ran: &std::process::Output) {
    for bytes in [&ran.stdout, &ran.stderr] {
        let text = std::str::from_utf8(bytes).unwrap_or_else(|_| panic!("{args:?}: no UTF-8"));
        // qemu-img's lines of progress go back to the start of the line
        let text = text.replace("/100%)\r", "/100%)");
        let bad = |c: char| (c.is_control() && c != '\n') || diskimage::text::is_invisible(c);
        assert!(!text.contains(bad), "{args:?}: {text:?}");
    }
    assert!(ran.status.code().is_some(), "{args:?}: {ran:?}");
}

fn run(args: &[&OsStr]) {
    let args: Vec<OsString> = args.iter().map(|&arg| arg.to_owned()).collect();
    let ran = command(&args).stdin(std::process::Stdio::null()).output().unwrap();
    check(&args, &ran);
}

/// Every command on an image, with and without what it names allowed.
fn drive(image: &OsStr, target: &OsStr) {
    let s = OsStr::new;
    let json = s("--output=json");
    let allow = s("--allow-external");
    run(&[s("probe"), image]);
    run(&[s("probe"), json, image]);
    for more in [&[][..], &[allow, json]] {
        run(&[&[s("info"), s("--backing-chain"), image], more].concat());
        run(&[&[s("info"), image], more].concat());
        run(&[&[s("map"), image], more].concat());
        run(&[s("checksum"), json, image]);
        run(&[&[s("compare"), image, image], more].concat());
        run(&[&[s("convert"), s("-p"), image, target], more].concat());
    }
    for more in [&[][..], &[json], &[s("--repair=all"), s("--dry-run")]] {
        run(&[&[s("check"), image], more].concat());
    }
    run(&[s("map"), s("--snapshot"), OsStr::from_bytes(NAME), image]);
    run(&[s("convert"), s("-l"), OsStr::from_bytes(NAME), image, target]);
    run(&[s("compare"), s("--manifest"), image, image]);
    run(&[s("checksum"), s("--check"), image]);
}

#[test]
fn no_string_of_an_image_comes_out_raw() {
    let Some(set) = made() else { return };
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    let mut driven = 0;
    for case in &set.cases {
        if case["class"] == "terminal-injection" || case["attack"].as_str().unwrap().contains("x1b")
        {
            driven += 1;
            // of images that differ in the kind of extent only, some
            if case["class"] == "terminal-injection" || driven % 9 == 0 {
                let image = set.folder.join(case["file"].as_str().unwrap());
                drive(image.as_os_str(), target.as_os_str());
            }
        }
    }
    assert!(driven > 25, "only {driven}");
}

#[test]
fn no_name_of_a_file_comes_out_raw() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, target) =
        (dir.path().join("images"), dir.path().join(OsStr::from_bytes(b"\x1b[2Jout")));
    std::fs::create_dir(&folder).unwrap();
    let named = |bytes: &[u8]| -> PathBuf { folder.join(OsStr::from_bytes(bytes)) };
    let mut broken = fixture("qcow2/v3-zlib-64k.qcow2").bytes();
    let cluster = *qcow2::compressed_clusters(&broken).first().unwrap();
    qcow2::spoil_compressed(&mut broken, cluster);
    for (name, bytes) in [
        (&b"whole"[..], fixture("qcow2/v3-zlib-64k.qcow2").bytes()),
        (b"broken", broken),
        (b"overlay", fixture("qcow2/overlay-raw.qcow2").bytes()),
        (b"text", b"no image".to_vec()),
    ] {
        let image = named(&[NAME, name].concat());
        std::fs::write(&image, bytes).unwrap();
        drive(image.as_os_str(), target.as_os_str());
        run(&["convert".as_ref(), "--salvage".as_ref(), image.as_os_str(), target.as_os_str()]);
        run(&["info".as_ref(), "--timeout=0.000001".as_ref(), image.as_os_str()]);
        run(&["--sandbox".as_ref(), "info".as_ref(), image.as_os_str()]);
    }
    drive(named(&[NAME, b"missing"].concat()).as_os_str(), target.as_os_str());
    drive(folder.as_os_str(), target.as_os_str());
}

#[test]
fn no_argument_comes_out_raw() {
    let name = OsStr::from_bytes(NAME);
    let with = |option: &str| {
        let mut whole = OsString::from(option);
        whole.push(name);
        whole
    };
    for args in [
        vec![name.to_owned()],
        vec!["info".into(), name.to_owned(), name.to_owned()],
        vec!["info".into(), with("--format="), "x".into()],
        vec!["info".into(), with("--output="), "x".into()],
        vec!["info".into(), with("--"), "x".into()],
        vec!["map".into(), with("--max-memory="), "x".into()],
        vec!["map".into(), with("--timeout="), "x".into()],
        vec!["map".into(), with("--resolve="), "x".into()],
        vec!["map".into(), with("--allow-external="), "x".into()],
        vec!["checksum".into(), with("--algorithm="), "x".into()],
    ] {
        let args: Vec<_> = args.iter().map(OsString::as_os_str).collect();
        run(&args);
    }
}
