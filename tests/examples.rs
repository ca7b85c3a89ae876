//! The programs of `examples/` do what they say, on the image that the README names.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::*;

/// The built example of this name. A build of a single test builds no examples.
fn example(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().and_then(Path::parent).unwrap().join("examples");
    let path = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if !path.exists() {
        let required = std::env::var_os("DISKIMAGE_REQUIRE_TOOLS").is_some_and(|v| v == "1");
        assert!(!required, "{} is missing: cargo build --examples", path.display());
        eprintln!("skipped: {} is not built", path.display());
        return None;
    }
    Some(path)
}

fn run(name: &str, args: &[&Path], input: Stdio) -> Option<Output> {
    let mut command = Command::new(example(name)?);
    Some(command.args(args).stdin(input).output().unwrap())
}

fn cloud() -> PathBuf {
    root().join("testdata/cloud.qcow2")
}

/// The raw disk, by testdata/manifest.json.
const CLOUD_SHA256: &str = "e218a812a2656066390267f4270c3d276afa84fd91ce22678f00cb08ca13ce9b";

fn assert_is_cloud(raw: &Path, name: &str) {
    assert_eq!(sha256(&std::fs::read(raw).unwrap()), CLOUD_SHA256, "{name}");
}

#[test]
fn three_ways_lead_to_the_same_raw_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut names = vec!["convert", "object_storage"];
    if cfg!(feature = "tokio") {
        names.push("async_upload");
    }
    for name in names {
        let raw = folder.path().join(name);
        let Some(output) = run(name, &[&cloud(), &raw], Stdio::null()) else { return };
        assert!(output.status.success(), "{name}: {output:?}");
        assert_is_cloud(&raw, name);
    }
}

#[test]
fn an_image_is_written_in_each_format() {
    let folder = tempfile::tempdir().unwrap();
    for extension in ["qcow2", "vmdk", "vhd", "vhdx", "vdi"] {
        let image = folder.path().join("cloud").with_extension(extension);
        let Some(output) = run("write_image", &[&cloud(), &image], Stdio::null()) else { return };
        assert!(output.status.success(), "{extension}: {output:?}");
        let raw = folder.path().join("raw");
        let output = run("convert", &[&image, &raw], Stdio::null()).unwrap();
        assert!(output.status.success(), "{extension}: {output:?}");
        assert_is_cloud(&raw, extension);
    }
}

#[test]
fn what_is_shown_is_what_is_there() {
    let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    let args = [&*cloud(), Path::new("510"), Path::new("2")];
    let Some(output) = run("read_at", &args, Stdio::null()) else { return };
    // the mark at the end of a boot sector
    assert!(text(&output).starts_with("000001fe  55 aa "), "{output:?}");

    let output = run("walk_extents", &[&cloud()], Stdio::null()).unwrap();
    let last = text(&output).lines().last().map(str::to_owned);
    assert_eq!(last.as_deref(), Some("2818048 of 67108864 bytes are data"), "{output:?}");

    if cfg!(feature = "checksum") {
        let output = run("hash", &[&cloud(), Path::new("sha256")], Stdio::null()).unwrap();
        assert_eq!(text(&output), format!("sha256 {CLOUD_SHA256} 67108864 bytes\n"));
    }
}

#[test]
fn an_upload_that_is_not_what_it_is_said_to_be_is_refused() {
    let upload = || Stdio::from(std::fs::File::open(cloud()).unwrap());
    let Some(output) = run("probe_upload", &[Path::new("qcow2")], upload()) else { return };
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = run("probe_upload", &[Path::new("vmdk")], upload()).unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("declared-mismatch"), "{output:?}");
}
