//! `diskimage inspect`: verdicts, exit codes, policies from files, standard input, the sandbox.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use common::*;
use serde_json::Value;

fn inspect(args: &[&str], stdin: Option<&[u8]>) -> Output {
    let mut child = Command::new(DISKIMAGE)
        .arg("inspect")
        .args(args)
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if let (Some(bytes), Some(mut pipe)) = (stdin, child.stdin.take()) {
        // a refusal ends the reading
        let _ = pipe.write_all(bytes);
    }
    child.wait_with_output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn cloud() -> String {
    root().join("testdata/cloud.qcow2").to_str().unwrap().to_owned()
}

#[test]
fn the_exit_code_is_the_verdict_and_reasons_are_sentences() {
    let allowed = inspect(&["--declared", "qcow2", &cloud()], None);
    assert_eq!(allowed.status.code(), Some(0), "{allowed:?}");
    let text = String::from_utf8(allowed.stdout).unwrap();
    assert!(text.contains("allowed by the policy 'strict'"), "{text}");
    assert!(text.contains("virtual size:   64 MiB (67108864 bytes)"), "{text}");
    assert!(text.contains("bootable look:  has what a BIOS boots"), "{text}");

    let refused = inspect(&["--declared", "raw", "--policy", "openstack", &cloud()], None);
    assert_eq!(refused.status.code(), Some(3));
    assert!(refused.stderr.is_empty());
    let text = String::from_utf8(refused.stdout).unwrap();
    assert!(text.contains("REFUSED by the policy 'openstack'"), "{text}");
    assert!(
        text.contains("It is qcow2, but it was declared as raw. [declared-mismatch]"),
        "{text}"
    );

    for (args, word) in [
        (&["/nonexistent/image"][..], "/nonexistent/image"),
        (&["--policy", "/nonexistent/policy", &cloud()], "strict, openstack, permissive"),
        (&["--checksum", "blkhash", "-"], "block hash"),
        (&["--checksum", "sha256", &cloud()], "inspect - <FILE"),
    ] {
        let failed = inspect(args, Some(b""));
        assert_eq!(failed.status.code(), Some(1), "{failed:?}");
        let text = String::from_utf8(failed.stderr).unwrap();
        assert!(text.contains(word) && failed.stdout.is_empty(), "{text}");
    }
    assert_eq!(inspect(&["--declared", "qcow9", &cloud()], None).status.code(), Some(2));
}

#[test]
fn json_has_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let child = dir.path().join("child.qcow2");
    let (child, base) = (child.to_str().unwrap(), cloud());
    if !has("qemu-img") {
        return;
    }
    output_of(
        dir.path(),
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base, child],
    );
    let refused = inspect(&["--output=json", child], None);
    assert_eq!(refused.status.code(), Some(3));
    let found = json(&refused);
    assert_eq!(found["allowed"], false);
    assert_eq!(found["policy"], "strict");
    assert_eq!(found["references"][0]["names"][0], base.as_str());
    assert_eq!(found["references"][0]["role"], "backing file");
    assert!(found["contents"].is_null(), "the disk needs another file");
    let rules: Vec<_> = found["reasons"].as_array().unwrap().iter().map(|r| &r["rule"]).collect();
    assert!(rules.contains(&&Value::from("backing-file")), "{rules:?}");
    let found = json(&inspect(&["--output=json", "--policy=permissive", &base], None));
    for key in ["virtual-size", "file-size", "matches", "format", "subformat", "findings", "error"]
    {
        assert!(found.get(key).is_some(), "{key}");
    }
    assert_eq!((&found["compressed"], &found["encrypted"]), (&true.into(), &false.into()));
    assert_eq!(found["contents"]["bootable"], true);
}

#[test]
fn standard_input_is_judged_as_it_comes() {
    let bytes = std::fs::read(cloud()).unwrap();
    let args = ["--output=json", "--checksum=md5", "--checksum=sha256", "-"];
    let found = inspect(&args, Some(&bytes));
    assert_eq!(found.status.code(), Some(0), "{found:?}");
    let found = json(&found);
    assert_eq!(found["bytes-read"], bytes.len());
    assert_eq!(found["whole"], true);
    assert_eq!(found["checksums"]["sha256"], sha256(&bytes));
    // the same as of the file, but for what only a stream has
    let mut file = json(&inspect(&["--output=json", &cloud()], None));
    let mut stream = found;
    for key in ["filename", "bytes-read", "whole", "checksums"] {
        file.as_object_mut().unwrap().remove(key);
        stream.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(file, stream);

    let refused = inspect(&["--output=json", "--declared=vmdk", "-"], Some(&bytes.repeat(20)));
    assert_eq!(refused.status.code(), Some(3));
    let refused = json(&refused);
    assert_eq!(refused["whole"], false);
    assert!(refused["bytes-read"].as_u64().unwrap() <= 256 << 10, "{refused}");
    assert!(refused["checksums"].is_null());
    // cut off on the way
    let cut = inspect(&["--output=json", "-"], Some(&bytes[..bytes.len() - 70_000]));
    assert_eq!(cut.status.code(), Some(3));
    assert_eq!(json(&cut)["truncated"], true);
    assert_eq!(inspect(&["-"], Some(b"")).status.code(), Some(3));
}

#[test]
fn a_policy_can_be_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("site.toml");
    let policy = path.to_str().unwrap();
    std::fs::write(policy, "base = 'permissive'\nformats = ['qcow2']\nmax-virtual-size = '1M'\n")
        .unwrap();
    let refused = inspect(&["--policy", policy, &cloud()], None);
    assert_eq!(refused.status.code(), Some(3));
    let text = String::from_utf8(refused.stdout).unwrap();
    assert!(text.contains("67108864 bytes, above the limit of 1048576. [virtual-size]"), "{text}");
    std::fs::write(policy, "max-virtual-size = '1G'\n").unwrap();
    assert_eq!(inspect(&["--policy", policy, &cloud()], None).status.code(), Some(0));
    std::fs::write(policy, "max-size = 1\n").unwrap();
    let failed = inspect(&["--policy", policy, &cloud()], None);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8(failed.stderr).unwrap().contains("max-size"));
}

#[test]
fn bounds_hold() {
    let refused = inspect(&["--max-virtual-size", "1M", "--output=json", &cloud()], None);
    assert_eq!(refused.status.code(), Some(3));
    assert_eq!(json(&refused)["reasons"][0]["rule"], "unreadable");
    // standard input that never ends
    let mut child = Command::new(DISKIMAGE)
        .args(["inspect", "--timeout", "0.2", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!(output.status.code(), Some(124), "{output:?}");
}

/// What the process may do is given up before the first byte of an image is read, unasked.
#[cfg(target_os = "linux")]
#[test]
fn the_sandbox_is_entered_before_the_image_is_opened() {
    if !has("strace") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let trace = |more: &[&str]| {
        let log = dir.path().join("log");
        let calls = "trace=openat,openat2,open,seccomp,landlock_restrict_self";
        let status = Command::new("strace")
            .args(["-f", "-e", calls, "-o"])
            .arg(&log)
            .arg(DISKIMAGE)
            .arg("inspect")
            .args(more)
            .arg(cloud())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        std::fs::read_to_string(log).unwrap()
    };
    let log = trace(&[]);
    let lines: Vec<_> = log.lines().collect();
    // the first opening is one that cannot read (O_PATH): it says which file may be opened
    let opened = lines.iter().rposition(|line| line.contains("cloud.qcow2")).unwrap();
    let entered = lines.iter().position(|line| line.contains("seccomp("));
    // a kernel without it leaves nothing to look at
    assert!(entered.is_none_or(|entered| entered < opened), "{log}");
    let log = trace(&["--no-sandbox"]);
    assert!(!log.contains("seccomp(") && !log.contains("landlock"), "{log}");
}
