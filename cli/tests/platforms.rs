//! `lint`, and what `convert --for` writes: nothing that the platform would refuse.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::Path;

use common::*;
use diskimage::Platform;
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The rules that an image breaks, those that refuse it first.
#[track_caller]
fn rules(platform: &str, file: &Path) -> (Vec<String>, Vec<String>) {
    let ran = diskimage(["lint", "--for", platform, "--output=json", text(file)]);
    let answer = ran.json();
    let problems = answer["files"][0]["problems"].as_array().unwrap().clone();
    let of = |refused: bool| {
        let some = problems.iter().filter(|problem| problem["refused"] == refused);
        some.map(|problem| problem["rule"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let refused = of(true);
    assert_eq!(ran.code, Some(if refused.is_empty() { 0 } else { 3 }), "{answer}");
    assert_eq!(answer["files"][0]["refused"], !refused.is_empty(), "{answer}");
    (refused, of(false))
}

#[test]
fn what_is_written_for_a_platform_is_what_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("raw/mbr.raw");
    let size = image.virtual_size;
    for &platform in Platform::ALL {
        for (number, preset) in platform.presets().iter().enumerate() {
            let target = dir.path().join(format!("{platform}-{number}.{}", preset.extension));
            let name = match preset.format.name() {
                "gzip" => "gce",
                name => name,
            };
            let args = ["convert", "--no-sync", "--for", platform.name(), "-O", name];
            let ran = diskimage(args.iter().chain(&[image.text(), text(&target)]));
            assert_eq!(ran.code, Some(0), "{platform} {name}: {ran:?}");
            let grows = platform.rounded_size(size) != Some(size);
            assert_eq!(ran.stderr.contains("the disk grows from 1048576 to"), grows, "{ran:?}");
            assert_eq!(ran.stderr.is_empty(), !grows, "{ran:?}");
            let ran = diskimage(["lint", "--for", platform.name(), text(&target)]).ok();
            assert!(ran.text().contains("nothing was found that"), "{platform} {name}: {ran:?}");
            let ran = diskimage(["compare", image.text(), text(&target)]);
            assert_eq!(ran.code, Some(0), "{platform} {name}: {ran:?}");
            assert!(ran.text().contains("identical"), "{ran:?}");
            if number == 0 {
                // what suits it most, where no format is named
                let other = dir.path().join("other");
                let args = ["convert", "--for", platform.name(), image.text(), text(&other)];
                assert_eq!(diskimage(args).code, Some(0));
                rules(platform.name(), &other).0.is_empty().then_some(()).unwrap();
            }
        }
    }
}

#[test]
fn what_is_asked_for_and_contradicts_the_platform_is_refused_by_both_names() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("cloud.qcow2");
    let target = dir.path().join("out");
    for (args, words) in [
        (
            &["--for", "azure", "-O", "qcow2"][..],
            &["--for azure", "the format qcow2", "takes vpc"][..],
        ),
        (&["--for", "gce", "-O", "raw"], &["--for gce", "the format raw", "takes gce"]),
        (
            &["--for", "azure", "-o", "subformat=dynamic"],
            &["--for azure", "-o subformat=dynamic", "subformat=fixed only"],
        ),
        (&["--for", "azure", "-o", "force_size=off"], &["force_size=on only"]),
        (
            &["--for", "aws", "-O", "vmdk", "-o", "subformat=monolithicSparse"],
            &["--for aws", "streamOptimized only"],
        ),
        (
            &["--for", "openstack", "-O", "vmdk", "-o", "subformat=monolithicFlat"],
            &["subformat=monolithicFlat", "streamOptimized or monolithicSparse"],
        ),
        (&["--for", "openstack", "-o", "data_file=x"], &["--for openstack", "-o data_file=x"]),
        (&["--for", "openstack", "-B", "base.qcow2"], &["--for openstack", "a backing file"]),
        (&["--for", "azure", "-c"], &["'vpc' has no compression"]),
        (&["--for", "vsphere", "-o", "cluster_size=64k"], &["'ova' has no option 'cluster_size'"]),
        (&["-O", "ova", "-o", "cpus=many"], &["'many', which must be a number"]),
        (&["-O", "ova", "-o", "cpus=0"], &["a machine of 0 processors"]),
        (&["-O", "ova", "-o", "memory=1000"], &["whole MiB"]),
        (&["-O", "ova", "-o", "firmware=coreboot"], &["bios or efi"]),
        (&["-O", "gce", "-o", "level=13"], &["the level of deflate is 13"]),
        (&["-O", "gce", "-B", "base.raw"], &["'gce' has no backing file"]),
        (&["-O", "gce", "--preallocation=full"], &["not set aside for the format 'gce'"]),
        (&["-O", "tar"], &["'tar' is not written yet", "ova, gce"]),
    ] {
        let args = [&["convert"], args, &[image.text(), text(&target)]].concat();
        diskimage(&args).refused(1, &image.path, words);
        assert!(!target.exists(), "{args:?}");
    }
    for args in [&["--for", "cloud"][..], &["-O", "gzip"]] {
        let ran = diskimage([&["convert"], args, &[image.text(), text(&target)]].concat());
        assert_eq!(ran.code, Some(2), "{ran:?}");
    }
    // what suits most can be chosen otherwise
    let args = ["convert", "--for", "aws", "-o", "adapter_type=ide", image.text(), text(&target)];
    diskimage(args).ok();
    let info = diskimage(["info", "--output=json", text(&target)]).ok().json();
    assert_eq!(info["format-specific"]["data"]["adapter-type"], "ide", "{info}");
}

#[test]
fn what_a_platform_would_refuse_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("cloud.qcow2");
    let made = |name: &str, args: &[&str]| {
        let path = dir.path().join(name);
        let args = [&["convert"], args, &[image.text(), text(&path)]].concat();
        diskimage(args).ok();
        path
    };
    let raw = made("disk.raw", &[]);
    let sparse = made("sparse.vmdk", &["-O", "vmdk"]);
    let stream = made("stream.vmdk", &["-O", "vmdk", "-o", "subformat=streamOptimized"]);
    let dynamic = made("dynamic.vhd", &["-O", "vpc"]);
    let vhdx = made("disk.vhdx", &["-O", "vhdx"]);
    let small = dir.path().join("small.vhd");
    diskimage(["create", "-f", "vpc", "-o", "subformat=fixed", text(&small), "1025K"]).ok();
    let odd = dir.path().join("odd.vhd");
    diskimage(["create", "-f", "vpc", "-o", "subformat=fixed", text(&odd), "20970496"]).ok();
    let by_geometry = dir.path().join("geometry.vhd");
    let options = "subformat=fixed,force_size=off";
    diskimage(["create", "-f", "vpc", "-o", options, text(&by_geometry), "64M"]).ok();
    let large = dir.path().join("large.vhdx");
    diskimage(["create", "-f", "vhdx", text(&large), "17T"]).ok();
    let middle = dir.path().join("middle.vhdx");
    diskimage(["create", "-f", "vhdx", text(&middle), "9T"]).ok();
    let backed = &fixture("qcow2/overlay-raw.qcow2").path;
    let unnamed = &fixture("qcow2/overlay-raw-no-format.qcow2").path;
    let data_file = &fixture("qcow2/data-file.qcow2").path;
    let cut = dir.path().join("cut.qcow2");
    let bytes = image.bytes();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let nothing = dir.path().join("nothing");
    std::fs::write(&nothing, "no disk").unwrap();
    for (platform, file, refused, noted) in [
        ("azure", &image.path, &["format"][..], &[][..]),
        ("azure", &vhdx, &["format"], &[]),
        ("azure", &dynamic, &["subformat"], &[]),
        ("azure", &small, &["virtual-size", "virtual-size"], &[]),
        ("azure", &odd, &["virtual-size", "virtual-size"], &[]),
        ("azure", &by_geometry, &["virtual-size"], &[]),
        ("azure", &nothing, &["format", "virtual-size", "virtual-size"], &[]),
        ("aws", &image.path, &["format"], &[]),
        ("aws", &sparse, &["subformat"], &[]),
        ("aws", &stream, &[], &[]),
        ("aws", &dynamic, &[], &[]),
        ("aws", &raw, &[], &[]),
        ("aws", &large, &["virtual-size"], &[]),
        ("aws", &middle, &[], &["virtual-size"]),
        ("aws", &nothing, &[], &["guessed"]),
        ("gce", &raw, &["format", "virtual-size"], &[]),
        ("vsphere", &sparse, &["subformat"], &[]),
        ("vsphere", &stream, &[], &[]),
        ("hyperv", &stream, &["format"], &[]),
        ("hyperv", &large, &[], &[]),
        ("virtualbox", &image.path, &["format"], &[]),
        ("virtualbox", &sparse, &[], &[]),
        ("proxmox", &sparse, &[], &[]),
        ("openstack", &image.path, &[], &[]),
        ("openstack", backed, &["other-files"], &[]),
        ("openstack", data_file, &["other-files"], &[]),
        ("openstack", &cut, &["unreadable"], &[]),
        ("kvm", &image.path, &[], &[]),
        ("kvm", backed, &[], &["other-files"]),
        ("kvm", unnamed, &["backing-format"], &["other-files"]),
        ("kvm", &cut, &["unreadable"], &[]),
    ] {
        let found = rules(platform, file);
        let wanted = (
            refused.iter().map(|&rule| rule.to_owned()).collect::<Vec<_>>(),
            noted.iter().map(|&rule: &&str| rule.to_owned()).collect::<Vec<_>>(),
        );
        assert_eq!(found, wanted, "{platform}: {}", file.display());
    }
    // the file has something behind the disk that is no footer
    let bytes = std::fs::read(made("fixed.vhd", &["-O", "vpc", "-o", "subformat=fixed"])).unwrap();
    let (disk, footer) = bytes.split_at(bytes.len() - 512);
    let longer = dir.path().join("longer.vhd");
    std::fs::write(&longer, [disk, &[0; 1024], footer].concat()).unwrap();
    assert_eq!(rules("azure", &longer).0, ["file-size"]);
}

#[test]
fn the_sentence_the_source_and_the_fix_are_for_people() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("cloud.qcow2");
    let source = dir.path().join("my disk.qcow2");
    std::fs::copy(&image.path, &source).unwrap();
    let ran = diskimage(["lint", "--for", "azure", text(&source)]);
    assert_eq!((ran.code, &*ran.stderr), (Some(3), ""), "{ran:?}");
    let folder = dir.path().display();
    for line in [
        format!("{folder}/my disk.qcow2: REFUSED by Azure\n"),
        "    It is a QEMU QCOW2 image; Azure takes fixed VHDs only. [format]\n".to_owned(),
        "        Azure, Prepare Linux for imaging: https://learn.microsoft.com/".to_owned(),
        format!(
            "    to do: diskimage convert --for azure '{folder}/my disk.qcow2' '{folder}/my disk.vhd'\n"
        ),
    ] {
        assert!(ran.text().contains(&line), "no {line:?} in {}", ran.text());
    }
    // and it does what it says
    let line = ran.text().lines().last().unwrap().split_once("diskimage ").unwrap().1.to_owned();
    let script = format!("'{DISKIMAGE}' {line}");
    let ran = common::ran(std::process::Command::new("sh").args(["-c", &script]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    diskimage(["lint", "--for", "azure", text(&dir.path().join("my disk.vhd"))]).ok();
}

#[test]
fn several_files_are_looked_at_and_the_worst_decides() {
    let dir = tempfile::tempdir().unwrap();
    let (good, bad) = (fixture("cloud.qcow2"), fixture("qcow2/overlay-raw.qcow2"));
    let missing = dir.path().join("missing");
    let lint = |files: &[&str]| diskimage([&["lint", "--for", "openstack"], files].concat());
    assert_eq!(lint(&[good.text(), good.text()]).code, Some(0));
    let ran = lint(&[good.text(), bad.text(), good.text()]);
    assert_eq!((ran.code, ran.stderr.is_empty()), (Some(3), true), "{ran:?}");
    assert_eq!(ran.text().matches("nothing was found").count(), 2, "{ran:?}");
    let ran = lint(&[bad.text(), text(&missing), good.text()]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("missing: cannot open the file"), "{ran:?}");
    assert!(ran.text().contains("nothing was found"), "it goes on: {ran:?}");
    let ran = diskimage(["lint", "--for", "kvm", "--output=json", good.text(), bad.text()]);
    let answer = ran.json();
    let fields = answer["files"].as_array().unwrap();
    assert_eq!((&answer["platform"], fields.len()), (&Value::from("kvm"), 2), "{answer}");
    assert_eq!(fields[0]["virtual-size"], 64 << 20, "{answer}");
    assert_eq!(diskimage(["lint", good.text()]).code, Some(2), "a platform must be named");
    let ran = diskimage(["lint", "--for", "cloud", good.text()]);
    assert!(ran.code == Some(2) && ran.stderr.contains("choose among openstack"), "{ran:?}");
}

#[test]
fn what_is_made_empty_and_measured_for_a_platform_is_what_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("raw/mbr.raw");
    for &platform in Platform::ALL {
        let preset = platform.presets().first().unwrap();
        let made = dir.path().join(format!("{platform}.{}", preset.extension));
        // a size that nobody aligned
        let asked = (1 << 20) + 512;
        let args = ["create", "--no-sync", "--for", platform.name(), text(&made), "1049088"];
        let ran = diskimage(args);
        assert_eq!(ran.code, Some(0), "{platform}: {ran:?}");
        let rounded = platform.rounded_size(asked).unwrap();
        assert_eq!(ran.stderr.contains("grows from 1049088 to"), rounded != asked, "{ran:?}");
        assert_eq!(rules(platform.name(), &made).0, Vec::<String>::new(), "{platform}");
        if !matches!(preset.format.name(), "gzip" | "ova") {
            let info = diskimage(["info", "--output=json", text(&made)]).ok().json();
            assert_eq!(info["virtual-size"], rounded, "{platform}: {info}");
        }

        let written = dir.path().join("written");
        diskimage(["convert", "--for", platform.name(), image.text(), text(&written)]);
        let args = ["measure", "--output=json", "--for", platform.name(), image.text()];
        let measured = diskimage(args).ok().json();
        let length = written.metadata().unwrap().len();
        let required = measured["required"].as_u64().unwrap();
        let exact = matches!(preset.format.name(), "qcow2" | "vhdx" | "vdi" | "vpc");
        assert!(required >= length && (!exact || required == length), "{platform}: {measured}");
    }
    let target = dir.path().join("out");
    for (args, words) in [
        (&["-f", "qcow2", "--for", "azure"][..], &["--for azure", "the format qcow2"][..]),
        (&["--for", "openstack", "-b", "base.qcow2"], &["--for openstack", "a backing file"]),
    ] {
        let ran = diskimage([&["create"], args, &[text(&target), "1M"]].concat());
        ran.refused(1, &target, words);
        assert!(!target.exists());
    }
}
