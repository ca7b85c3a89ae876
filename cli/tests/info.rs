//! `diskimage info` from end to end, held against qemu-img.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::Path;

use common::*;
use serde_json::Value;

fn info(args: &[&str]) -> Value {
    diskimage(["info", "--output=json"].iter().chain(args)).ok().json()
}

fn codes(answer: &Value) -> Vec<&str> {
    let findings = answer["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

/// Every field that qemu-img has must be there and say the same.
fn compare(ours: &Value, qemu: &Value, at: &str, fixture: &Fixture) {
    match qemu {
        Value::Object(fields) => {
            for (key, value) in fields {
                let at = format!("{at}.{key}");
                // what is inside of the LUKS header is not read
                if at.ends_with(".format-specific.data.encrypt") {
                    assert_eq!(ours[key]["format"], value["format"], "{}", fixture.file);
                // of these formats it does not tell
                } else if at == ".dirty-flag" && fixture.is("dirty") && !fixture.is_raw_or_qcow2() {
                    assert_eq!((&ours[key], value), (&true.into(), &false.into()));
                // qemu-img counts whole sectors only
                } else if at == ".virtual-size" && fixture.qemu == "rounds-size" {
                    assert_eq!(ours[key], fixture.virtual_size, "{}", fixture.file);
                    assert!(value.as_u64().unwrap().abs_diff(fixture.virtual_size) < 512);
                } else {
                    compare(&ours[key], value, &at, fixture);
                }
            }
        }
        Value::Array(list) => {
            assert_eq!(ours.as_array().map(Vec::len), Some(list.len()), "{} {at}", fixture.file);
            for (index, value) in list.iter().enumerate() {
                compare(&ours[index], value, &format!("{at}[{index}]"), fixture);
            }
        }
        value => assert_eq!(ours, value, "{} {at}", fixture.file),
    }
}

#[test]
fn every_field_of_qemu_img_says_the_same() {
    if !has("qemu-img") {
        return;
    }
    let mut seen = 0;
    let formats = ["raw", "qcow2", "qcow", "qed", "parallels", "bochs", "cloop", "dmg"];
    for fixture in fixtures().iter().filter(|f| formats.contains(&&*f.format)) {
        // the BAT of one is too short, which it does not mind
        let is_bad = fixture.format == "dmg" && fixture.expect.starts_with("refuse");
        if fixture.qemu == "refuses" || is_bad || fixture.file == "parallels/short-bat.parallels" {
            continue;
        }
        let args = ["info", "--output=json", "-f", &fixture.format, fixture.text()];
        let qemu: Value =
            serde_json::from_slice(&output_of(fixture.folder(), "qemu-img", &args)).unwrap();
        let ours = info(&["-f", &fixture.format, fixture.text()]);
        compare(&ours, &qemu, "", fixture);
        // and what it leaves out for a reason is left out
        for key in [
            "encrypted",
            "snapshots",
            "backing-filename",
            "full-backing-filename",
            "backing-filename-format",
        ] {
            assert_eq!(ours.get(key).is_some(), qemu.get(key).is_some(), "{} {key}", fixture.file);
        }
        seen += 1;
    }
    assert!(seen > 80, "only {seen}");
}

#[test]
fn names_are_as_qemu_img_gives_them_for_relative_paths_too() {
    if !has("qemu-img") {
        return;
    }
    let folder = unpacked();
    fixtures();
    for (cwd, file) in [
        ("", "qcow2/overlay-inner.qcow2"),
        ("qcow2", "overlay-inner.qcow2"),
        ("qcow2/sub", "./inner.qcow2"),
    ] {
        let cwd = folder.join(cwd);
        let args = ["info", "--output=json", "--backing-chain", file];
        let qemu: Value = serde_json::from_slice(&output_of(&cwd, "qemu-img", &args)).unwrap();
        let ours = ran(command(args).arg("--allow-external").current_dir(&cwd)).ok().json();
        let names = |answer: &Value| -> Vec<_> {
            answer
                .as_array()
                .unwrap()
                .iter()
                .map(|i| (i["filename"].clone(), i["full-backing-filename"].clone()))
                .collect()
        };
        assert_eq!(names(&ours), names(&qemu), "{file}");
    }
}

#[test]
fn a_backing_chain_is_an_array_as_qemu_img_makes_it() {
    if !has("qemu-img") {
        return;
    }
    let mut longest = 0;
    for fixture in fixtures().iter().filter(|f| f.is("backing") && f.is_raw_or_qcow2()) {
        let args = ["info", "--output=json", "--backing-chain", fixture.text()];
        let qemu: Value =
            serde_json::from_slice(&output_of(fixture.folder(), "qemu-img", &args)).unwrap();
        let ours = info(&["--backing-chain", "--assume-raw", &allow(), fixture.text()]);
        let of = |answer: &Value| -> Vec<_> {
            let images = answer.as_array().unwrap().iter();
            images
                .map(|i| {
                    (
                        Path::new(i["filename"].as_str().unwrap()).canonicalize().unwrap(),
                        i["format"].clone(),
                    )
                })
                .collect()
        };
        assert_eq!(of(&ours), of(&qemu), "{}", fixture.file);
        longest = longest.max(of(&ours).len());
    }
    assert_eq!(longest, 3);
}

#[test]
fn a_chain_is_described_even_where_it_is_not_read() {
    // the top is encrypted or marked as corrupt, or a data file is not allowed
    for file in [
        "qcow2/v3-luks.qcow2",
        "qcow2/v3-corrupt-bit.qcow2",
        "qcow2/data-file.qcow2",
        "raw/odd.raw",
    ] {
        let answer = info(&["--backing-chain", fixture(file).text()]);
        assert_eq!(answer.as_array().unwrap().len(), 1, "{file}");
    }
    let overlay = fixture("qcow2/overlay-raw.qcow2");
    diskimage(["info", "--backing-chain", overlay.text()]).refused(
        1,
        &overlay.path,
        &["needs the backing file 'base.raw'", "--allow-external"],
    );
}

#[test]
fn what_is_odd_has_a_stable_code() {
    for (file, wanted) in [
        ("qcow2/v3-plain-64k.qcow2", &[][..]),
        ("qcow2/v3-dirty.qcow2", &["dirty"]),
        ("qcow2/v3-corrupt-bit.qcow2", &["corrupt"]),
        ("qcow2/overlay-raw.qcow2", &["backing-file", "external-reference"]),
        ("qcow2/data-file.qcow2", &["data-file", "external-reference"]),
        ("qcow2/v3-luks.qcow2", &["encrypted", "luks"]),
        ("qcow2/v2-aes.qcow2", &["encrypted"]),
        ("qcow2/v3-snapshots.qcow2", &["internal-snapshots"]),
        ("raw/sparse.raw", &["format-guessed"]),
        ("raw/mbr.raw", &[]),
    ] {
        assert_eq!(codes(&info(&[fixture(file).text()])), wanted, "{file}");
    }
    let backing = &info(&[fixture("qcow2/overlay-raw.qcow2").text()])["findings"][0];
    assert_eq!(backing["severity"], "warning");
    assert!(
        backing["offset"].is_u64() && backing["message"].as_str().unwrap().contains("base.raw")
    );
}

#[test]
fn people_get_the_same_in_lines() {
    let image = fixture("qcow2/v3-snapshots.qcow2");
    let ran = diskimage(["info", image.text()]).ok();
    for line in [
        &format!("image:          {}", image.text()),
        "format:         qcow2 (QEMU QCOW2 image)",
        "virtual size:   3 MiB (3145728 bytes)",
        "cluster size:   64 KiB (65536 bytes)",
        "    compat: 1.1",
        "    refcount-bits: 16",
    ] {
        assert!(ran.text().lines().any(|l| l == line), "no {line:?} in\n{}", ran.text());
    }
    assert!(ran.text().contains("after resize") && ran.text().contains("[internal-snapshots]"));
    let chain = diskimage([
        "info",
        "--backing-chain",
        "--assume-raw",
        &allow(),
        fixture("qcow2/overlay-chain.qcow2").text(),
    ])
    .ok();
    assert_eq!(chain.text().matches("\nformat:").count(), 3, "{}", chain.text());
    assert!(chain.text().contains("backing file:   base.raw (format raw)"));
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error_and_a_closed_pipe_is_none() {
    let image = fixture("qcow2/v3-plain-64k.qcow2");
    if let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") {
        for output in ["human", "json"] {
            let child = command(["info", "--output", output, image.text()])
                .stdout(full.try_clone().unwrap())
                .stderr(std::process::Stdio::piped())
                .spawn();
            let ran = finished(child.unwrap());
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert!(ran.stderr.contains("cannot write the answer: No space left"), "{ran:?}");
        }
    }
    let script = "\"$0\" info \"$1\" | true; exit ${PIPESTATUS:-0}";
    let ran = ran(std::process::Command::new("sh").args(["-c", script, DISKIMAGE, image.text()]));
    assert_eq!((ran.code, &*ran.stderr), (Some(0), ""));
}
