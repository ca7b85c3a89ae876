//! `diskimage convert` from end to end: content, holes, standard output, progress.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use common::*;

/// Converts with fixed options and gives the target's bytes.
fn converted(fixture: &Fixture, target: &Path, more: &[&str]) -> Vec<u8> {
    let allow = allow();
    let fixed = ["convert", "--assume-raw", &allow, "-f", &fixture.format, fixture.text()];
    let ran = diskimage(fixed.iter().chain(&[target.to_str().unwrap()]).chain(more)).ok();
    assert!(ran.stdout.is_empty(), "{ran:?}");
    std::fs::read(target).unwrap()
}

/// The readable fixtures that fit in memory.
fn small() -> impl Iterator<Item = &'static Fixture> {
    readable().filter(|f| f.virtual_size <= 64 << 20)
}

#[test]
fn every_fixture_converts_to_its_content_with_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    for fixture in small() {
        for threads in ["1", "2", "3", "16"] {
            let bytes = converted(fixture, &target, &["--threads", threads]);
            assert_eq!(bytes.len() as u64, fixture.virtual_size, "{}", fixture.file);
            assert_eq!(Some(sha256(&bytes)), fixture.guest_sha256, "{} by {threads}", fixture.file);
        }
    }
}

#[test]
fn the_output_is_that_of_qemu_img_and_takes_no_more_room_where_zeros_are_looked_for() {
    if !has("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [target, theirs] = ["ours.raw", "theirs.raw"].map(|name| dir.path().join(name));
    for fixture in small() {
        // the default leaves copying to the kernel, which looks at nothing: no more than is stored
        let bytes = converted(fixture, &target, &[]);
        let stored = fixture.virtual_size.next_multiple_of(4096);
        assert!(allocated(&target) <= stored + stored / 20 + 4096, "{}", fixture.file);
        assert!(bytes == converted(fixture, &target, &["-S", "4k"]), "{}", fixture.file);
        let args = [
            "convert",
            "-f",
            &fixture.format,
            "-O",
            "raw",
            fixture.text(),
            theirs.to_str().unwrap(),
        ];
        output_of(fixture.folder(), "qemu-img", &args);
        let wanted = std::fs::read(&theirs).unwrap();
        // qemu-img rounds to whole sectors: raw disks up, others down
        let common = bytes.len().min(wanted.len());
        assert!(bytes[..common] == wanted[..common], "{}", fixture.file);
        assert!(wanted[common..].iter().all(|&b| b == 0));
        assert_eq!(bytes.len() != wanted.len(), fixture.qemu == "rounds-size", "{}", fixture.file);
        // what a file takes up is known when it is on its medium
        std::fs::File::open(&theirs).unwrap().sync_all().unwrap();
        let (ours, theirs) = (allocated(&target), allocated(&theirs));
        assert!(
            fixture.qemu != "ok" || ours <= theirs + theirs / 20,
            "{}: {ours} over {theirs}",
            fixture.file
        );
    }
}

#[test]
fn a_preallocated_image_costs_no_time_by_its_size() {
    if !has("qemu-img") {
        return;
    }
    // half a minute and more where holes of the file are read as data
    let dir = tempfile::tempdir().unwrap();
    let args = ["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "big.qcow2", "64G"];
    output_of(dir.path(), "qemu-img", &args);
    let [source, target] = ["big.qcow2", "big.raw"].map(|name| dir.path().join(name));
    let start = std::time::Instant::now();
    diskimage(["convert".as_ref(), source.as_os_str(), target.as_os_str()]).ok();
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    assert_eq!(std::fs::metadata(&target).unwrap().len(), 64 << 30);
}

#[test]
fn sparse_sizes_change_the_room_but_not_the_content() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    for file in ["cloud.qcow2", "raw/sparse.raw", "qcow2/v3-zstd-64k-mixed.qcow2"] {
        let fixture = fixture(file);
        let mut last = 0;
        for size in ["512", "4k", "64k", "0"] {
            let bytes = converted(fixture, &target, &["-S", size]);
            assert_eq!(Some(sha256(&bytes)), fixture.guest_sha256, "{file} -S {size}");
            let room = allocated(&target);
            assert!(room >= last, "{file} -S {size}: {room} after {last}");
            last = room;
        }
        assert!(last >= fixture.virtual_size, "{file} -S 0: {last}");
    }
    for size in ["100", "3k", "-1", "many"] {
        let size = format!("-S{size}");
        let ran = diskimage(["convert", &size, fixture("cloud.qcow2").text(), "/nowhere/x"]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
    }
}

#[test]
fn snapshots_convert_by_identifier_and_name() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    let mut seen = 0;
    for fixture in fixtures() {
        for snapshot in &fixture.snapshots {
            for key in ["id", "name"] {
                let wanted = snapshot[key].as_str().unwrap();
                let bytes = converted(fixture, &target, &["--snapshot", wanted]);
                assert_eq!(sha256(&bytes), snapshot["guest_sha256"].as_str().unwrap());
                seen += 1;
            }
        }
    }
    assert!(seen >= 8);
    let image = fixture("qcow2/v3-snapshots.qcow2");
    diskimage(["convert", "-l", "none", image.text(), "/nowhere/x"]).refused(
        1,
        &image.path,
        &["has no snapshot 'none'", ": list the snapshots"],
    );
}

#[test]
fn a_dash_is_standard_output() {
    for fixture in small().filter(|f| f.virtual_size <= 4 << 20) {
        let args =
            ["convert", "--assume-raw", &allow(), "-f", &fixture.format, fixture.text(), "-"];
        let ran = diskimage(args).ok();
        assert_eq!(Some(sha256(&ran.stdout)), fixture.guest_sha256, "{}", fixture.file);
    }
    // progress, if any, must not get between
    let image = fixture("cloud.qcow2");
    let ran = diskimage(["convert", "-p", "--threads=16", image.text(), "-"]);
    assert_eq!((ran.code, Some(sha256(&ran.stdout))), (Some(0), image.guest_sha256.clone()));
    assert!(ran.stderr.ends_with("    (100.00/100%)\n"), "{:?}", ran.stderr);
}

#[test]
fn a_reader_that_goes_away_ends_the_conversion_with_an_error() {
    let image = fixture("cloud.qcow2");
    let mut child = command(["convert", image.text(), "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 100_000]).unwrap();
    drop(stdout);
    let ran = finished(child);
    // it is standard output that fails, not the image
    ran.refused(1, Path::new("standard output"), &["cannot write: Broken pipe", "(at offset 0x"]);
    if let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") {
        let mut command = command(["convert", image.text(), "-"]);
        let ran = finished(command.stdout(full).stderr(Stdio::piped()).spawn().unwrap());
        ran.refused(1, Path::new("standard output"), &["No space left on device"]);
    }
}

#[test]
fn progress_is_lines_like_those_of_qemu_img_and_stays_out_of_the_report() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("qcow2/v3-sparse-8G.qcow2");
    let target = dir.path().join("out.raw");
    let ran = diskimage(["convert", "-p", image.text(), target.to_str().unwrap()]).ok();
    let mut lines = ran.text().strip_suffix('\n').unwrap().split('\r');
    for line in lines.clone() {
        let number = line.strip_prefix("    (").unwrap().strip_suffix("/100%)").unwrap();
        assert!((0.0..=100.0).contains(&number.parse::<f64>().unwrap()), "{line}");
    }
    assert_eq!(lines.next_back(), Some("    (100.00/100%)"));
    // the report is one JSON document, progress or not
    let args = ["convert", "-p", "--output=json", image.text(), target.to_str().unwrap()];
    let ran = diskimage(args);
    assert_eq!((ran.code, &ran.json()["virtual-size"]), (Some(0), &image.virtual_size.into()));
    assert_eq!(ran.json()["lost"], serde_json::json!([]));
    assert!(ran.json()["data-written"].as_u64().unwrap() < 1 << 20);
    assert!(ran.stderr.ends_with("(100.00/100%)\n"), "{ran:?}");
}

#[test]
fn some_formats_are_written_and_names_of_all_are_known() {
    let image = fixture("cloud.qcow2");
    diskimage(["convert", "-O", "qed", image.text(), "/nowhere/x"]).refused(
        1,
        &image.path,
        &["'qed' is not written yet", "raw, qcow2"],
    );
    for args in [["-O", "floppy"], ["-f", "floppy"]] {
        let ran = diskimage(["convert", args[0], args[1], image.text(), "/nowhere/x"]);
        assert_eq!(ran.code, Some(2));
        assert!(ran.stderr.contains("no format is called 'floppy'"), "{ran:?}");
    }
}

#[test]
fn a_bundle_goes_by_the_name_of_its_folder_and_opens_what_is_inside_only() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    let image = fixture("parallels/snapshots.hdd/DiskDescriptor.xml");
    let folder = image.path.parent().unwrap();
    let args = ["convert", "--allow-external", folder.to_str().unwrap(), target.to_str().unwrap()];
    diskimage(args).ok();
    assert_eq!(Some(sha256(&std::fs::read(&target).unwrap())), image.guest_sha256);
    // without leave nothing is opened, and what lies beside the folder is not inside
    let refused = diskimage(["convert", folder.to_str().unwrap(), target.to_str().unwrap()]);
    refused.refused(1, &image.path, &["needs the extent file 'snapshots.2.hds'"]);
    let earlier = fixture("parallels/earlier.hdd/DiskDescriptor.xml");
    let folder = earlier.path.parent().unwrap();
    let args = ["convert", "--allow-external", folder.to_str().unwrap(), target.to_str().unwrap()];
    diskimage(args).refused(1, &earlier.path, &["outside of the allowed folder"]);
}
