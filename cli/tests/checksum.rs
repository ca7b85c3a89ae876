//! `diskimage checksum` from end to end: its lines, lists that are checked, manifests, and
//! conversions with a checksum.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::*;

fn digest_of(ran: &Ran) -> &str {
    ran.text().split_whitespace().next().unwrap()
}

#[test]
fn every_fixture_has_the_hash_of_its_manifest() {
    let allow = allow();
    for fixture in readable().filter(|f| f.virtual_size <= 64 << 20) {
        let Some(hash) = &fixture.guest_sha256 else { continue };
        let args = ["checksum", "--assume-raw", &allow, "-f", &fixture.format, fixture.text()];
        let ran = diskimage(args).ok();
        assert_eq!(ran.text(), format!("{hash}  {}\n", fixture.text()));
    }
    // the only form of a large one that takes no time
    let huge = fixture("qcow2/v3-sparse-64T.qcow2");
    let ran = diskimage(["checksum", "--tag", "-a", "crc32", huge.text()]).ok();
    assert!(ran.text().starts_with(&format!("CRC32 ({}) = ", huge.text())), "{ran:?}");
}

#[test]
fn several_algorithms_are_told_apart() {
    let image = fixture("cloud.qcow2");
    let args = ["checksum", "-a", "md5", "-a", "SHA256", "-a", "blkhash", image.text()];
    let ran = diskimage(args).ok();
    let lines: Vec<_> = ran.text().lines().collect();
    let hash = image.guest_sha256.as_ref().unwrap();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with(&format!("MD5 ({}) = ", image.text())));
    assert_eq!(lines[1], format!("SHA256 ({}) = {hash}", image.text()));
    let json = diskimage(args.iter().chain(&["--output", "json"])).ok().json();
    assert_eq!(json[0]["checksums"]["sha256"], **hash);
    assert_eq!(json[0]["virtual-size"], image.virtual_size);
    assert_eq!(json[0]["filename"], image.text());
    let blkhash = lines[2].rsplit(' ').next().unwrap();
    assert_eq!(json[0]["checksums"]["blkhash"], blkhash);
    let refused = diskimage(["checksum", "-a", "sha3", image.text()]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("blkhash"), "the choice is not named: {refused:?}");
}

#[test]
fn lists_are_those_of_sha256sum_names_included() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["plain.raw", " lead.raw", "line\nend.raw", "back\\slash.raw", "ret\rurn.raw"];
    for (index, name) in names.iter().enumerate() {
        std::fs::write(dir.path().join(name), vec![index as u8; 3000]).unwrap();
    }
    let in_folder = |args: &[&str]| ran(command(args).current_dir(dir.path()));
    for (program, algorithm) in
        [("sha256sum", "sha256"), ("md5sum", "md5"), ("sha1sum", "sha1"), ("sha512sum", "sha512")]
    {
        for tag in [&["--tag"][..], &[]] {
            let ours = [&["checksum", "-f", "raw", "-a", algorithm], tag, &names].concat();
            let ours = in_folder(&ours).ok();
            let theirs = output_of(dir.path(), program, &[tag, &names].concat());
            assert_eq!(ours.stdout, theirs, "{program}");
            // each reads the other's list
            std::fs::write(dir.path().join("list"), &theirs).unwrap();
            let args = ["checksum", "-f", "raw", "-c", "-a", algorithm, "list"];
            let checked = in_folder(&args).ok();
            assert_eq!(checked.text().matches(": OK\n").count(), names.len(), "{checked:?}");
            output_of(dir.path(), program, &["-c", "list"]);
        }
    }
}

#[test]
fn what_differs_or_is_missing_fails_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("qcow2/v3-zlib-2M.qcow2");
    let list = dir.path().join("list");
    let path = list.to_str().unwrap();
    let (hash, name) = (image.guest_sha256.as_ref().unwrap(), image.text());
    let wrong = "0".repeat(64);
    let md5 = diskimage(["checksum", "-a", "md5", name]).ok();
    let md5 = digest_of(&md5);
    let text = format!(
        "# made by hand\n{hash}  {name}\nMD5 ({name}) = {md5}\nbad line\n{wrong} *{name}\n{hash}  nowhere\n"
    );
    std::fs::write(&list, text).unwrap();
    let ran = diskimage(["checksum", "--check", path]);
    assert_eq!(ran.code, Some(1));
    let wanted = format!("{name}: OK\n{name}: OK\n{name}: FAILED\nnowhere: FAILED open or read\n");
    assert_eq!(ran.text(), wanted);
    let warnings = [
        "diskimage: nowhere: cannot open the file: No such file or directory (os error 2)".into(),
        format!("diskimage: {path}: WARNING: 1 line is improperly formatted"),
        format!("diskimage: {path}: WARNING: 1 listed file could not be read"),
        format!("diskimage: {path}: WARNING: 1 computed checksum did NOT match"),
    ];
    assert_eq!(ran.stderr.lines().collect::<Vec<_>>(), warnings);
    let json = diskimage(["checksum", "--check", "--output", "json", path]).json();
    let statuses: Vec<_> =
        json.as_array().unwrap().iter().map(|line| line["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["ok", "ok", "failed", "unreadable"]);
    std::fs::write(&list, "nothing of use\n").unwrap();
    diskimage(["checksum", "-c", path]).refused(1, &list, &["no properly formatted"]);
}

#[test]
fn a_corrupt_cluster_is_an_error_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("qcow2/v3-zlib-2M.qcow2");
    let broken = dir.path().join("broken.qcow2");
    let bytes = image.bytes();
    std::fs::write(&broken, &bytes[..bytes.len() - 5000]).unwrap();
    let ran = diskimage(["checksum", broken.to_str().unwrap(), image.text()]);
    assert_eq!(ran.code, Some(1));
    let hash = image.guest_sha256.as_ref().unwrap();
    assert_eq!(ran.text(), format!("{hash}  {}\n", image.text()));
    ran.told(&broken, &["at offset"]);
    let ran = diskimage(["checksum", "--blocks", "64k", broken.to_str().unwrap()]);
    assert_eq!(ran.code, Some(1));
    assert!(serde_json::from_slice::<serde_json::Value>(&ran.stdout).is_err(), "{ran:?}");
}

#[test]
fn manifests_verify_images_of_any_format_and_name_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("qcow2/v3-zlib-2M.qcow2");
    let [raw, manifest] = ["disk.raw", "manifest"].map(|name| dir.path().join(name));
    let [raw_text, manifest_text] = [&raw, &manifest].map(|path| path.to_str().unwrap());
    diskimage(["convert", image.text(), raw_text]).ok();
    let written = diskimage(["checksum", "--blocks", "64k", image.text()]).ok();
    let json = written.json();
    assert_eq!(json["version"], 1);
    assert_eq!(json["block-size"], 65_536);
    assert_eq!(json["size"], image.virtual_size);
    let bytes = std::fs::read(&raw).unwrap();
    let mut blocks = bytes.chunks(65_536);
    for entry in json["hashes"].as_array().unwrap() {
        match entry.as_u64() {
            Some(count) => (0..count).for_each(|_| {
                assert!(blocks.next().unwrap().iter().all(|&byte| byte == 0));
            }),
            None => assert_eq!(entry.as_str(), Some(&*sha256(blocks.next().unwrap()))),
        }
    }
    assert!(blocks.next().is_none());

    std::fs::write(&manifest, &written.stdout).unwrap();
    let compare = |more: &[&str]| {
        let args = ["compare", "--manifest", manifest_text, "-f", "raw", raw_text];
        diskimage(args.iter().chain(more))
    };
    assert_eq!(compare(&[]).ok().text(), "The image is as the manifest says.\n");
    let mut changed = bytes.clone();
    for at in [70_000, 140_000, 1_000_000] {
        changed[at] ^= 1;
    }
    std::fs::write(&raw, &changed).unwrap();
    let ran = compare(&[]);
    assert_eq!(ran.code, Some(1));
    let wanted = "Content differs at offset 65536 for 131072 bytes\n\
                  Content differs at offset 983040 for 65536 bytes\n\
                  Content mismatch at offset 65536!\n";
    assert_eq!(ran.text(), wanted);
    let json = compare(&["--output", "json"]).json();
    assert_eq!(json["ranges"][1], serde_json::json!({ "start": 983_040, "length": 65_536 }));
    assert_eq!((&json["identical"], &json["different-bytes"]), (&false.into(), &196_608.into()));
    assert_eq!(compare(&["-q"]).stdout, b"");
    for text in ["", "{}", "[1]", "{\"version\":1,\"hashes\":[]}", "{\"version\":2}"] {
        std::fs::write(&manifest, text).unwrap();
        compare(&[]).refused(2, &manifest, &["is no manifest"]);
    }
    let short = "{\"version\":1,\"algorithm\":\"md5\",\"block-size\":512,\"size\":2,\"hashes\":[]}";
    std::fs::write(&manifest, short).unwrap();
    compare(&[]).refused(2, &manifest, &["fewer blocks"]);
    assert_eq!(diskimage(["checksum", "--blocks", "5", raw_text, "-f", "raw"]).code, Some(1));
    assert_eq!(diskimage(["checksum", "--blocks", "64k", raw_text, raw_text]).code, Some(2));
}

#[test]
fn a_conversion_tells_the_hash_of_the_content_and_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    let text = target.to_str().unwrap();
    for name in ["cloud.qcow2", "qcow2/v3-sparse-8G.qcow2"] {
        let image = fixture(name);
        let algorithm = if name == "cloud.qcow2" { "sha256" } else { "crc32" };
        let args = ["convert", "--checksum", algorithm, image.text(), text];
        let ran = diskimage(args).ok();
        let check = diskimage(["checksum", "-a", algorithm, "-f", "raw", text]).ok();
        let (hash, tag) = (digest_of(&check), algorithm.to_uppercase());
        let wanted = format!("{tag} (content of the disk) = {hash}\n{tag} ({text}) = {hash}\n");
        assert_eq!(ran.text(), wanted);
        let json = diskimage(args.iter().chain(&["--output", "json"])).ok().json();
        assert_eq!(json["content-checksums"][algorithm], hash);
        assert_eq!(json["file-checksums"][algorithm], hash);
    }
    let image = fixture("cloud.qcow2");
    let hash = image.guest_sha256.as_ref().unwrap();
    // the disk itself goes to standard output
    let ran = diskimage(["convert", "--checksum", "sha256", image.text(), "-"]);
    assert_eq!((ran.code, sha256(&ran.stdout)), (Some(0), hash.clone()));
    assert_eq!(ran.stderr.matches(&**hash).count(), 2, "{}", ran.stderr);
    // a file that goes on behind the disk has another hash, which is not known
    std::fs::File::create(&target).unwrap().set_len(image.virtual_size + 1).unwrap();
    let args = ["convert", "-n", "--checksum", "sha256", "--output", "json", image.text(), text];
    let json = diskimage(args).ok().json();
    assert_eq!(json["content-checksums"]["sha256"], **hash);
    assert!(json["file-checksums"].is_null());
}

#[test]
fn what_was_lost_has_no_checksum_of_its_content() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("qcow2/v3-zlib-2M.qcow2");
    let [broken, target] = ["broken.qcow2", "out.raw"].map(|name| dir.path().join(name));
    let bytes = image.bytes();
    std::fs::write(&broken, &bytes[..bytes.len() - 5000]).unwrap();
    let [broken, target_text] = [&broken, &target].map(|path| path.to_str().unwrap());
    let args = ["convert", "--salvage", "--checksum", "sha256", "--output", "json"];
    let ran = diskimage(args.iter().chain(&[broken, target_text]));
    assert_eq!(ran.code, Some(3));
    let json = ran.json();
    assert!(json["content-checksums"].is_null() && !json["lost"].as_array().unwrap().is_empty());
    let written = sha256(&std::fs::read(&target).unwrap());
    assert_eq!(json["file-checksums"]["sha256"], *written);
}

#[test]
fn a_signal_ends_it_with_its_code_and_no_checksum() {
    let image = fixture("qcow2/v3-sparse-64T.qcow2");
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let child = command(["checksum", image.text()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let script = format!("kill -{signal} {}", child.id());
        assert_eq!(ran(Command::new("sh").args(["-c", &script])).code, Some(0));
        finished(child).refused(code, Path::new(image.text()), &["stopped on request"]);
    }
}

#[test]
fn progress_goes_where_the_answer_does_not() {
    let image = fixture("qcow2/v3-sparse-8G.qcow2");
    let ran = diskimage(["checksum", "-p", "-a", "crc32", image.text()]);
    assert_eq!(ran.code, Some(0));
    assert_eq!(ran.text().lines().count(), 1);
    assert!(ran.stderr.ends_with("    (100.00/100%)\n"), "{ran:?}");
}
