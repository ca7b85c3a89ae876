//! The calls of those that live with qemu-img, each as it is made.

use crate::common::*;
use crate::lab::{Lab, limited, words};

/// Sources of all formats that services take.
fn sources(lab: &Lab) -> Vec<&'static str> {
    lab.raw("raw");
    lab.image("qcow2", "qcow2", &["-c"]);
    for format in ["vmdk", "vhdx", "vpc", "vdi"] {
        lab.image(format, format, &[]);
    }
    vec!["raw", "qcow2", "vmdk", "vhdx", "vpc", "vdi"]
}

/// Progress that the pattern of Kubernetes' importer finds, `\((\d?\d\.\d\d)\/100%\)`, or the end.
#[track_caller]
fn shows_progress(printed: &str) {
    let parts: Vec<_> = printed.split(['\r', '\n']).filter(|part| !part.is_empty()).collect();
    assert_eq!(parts.last(), Some(&"    (100.00/100%)"), "{printed:?}");
    for part in parts {
        let number = part.strip_prefix("    (").and_then(|part| part.strip_suffix("/100%)"));
        let (whole, fraction) = number.unwrap().split_once('.').unwrap();
        assert!(whole.parse::<u8>().is_ok() && fraction.len() == 2, "{printed:?}");
    }
}

#[test]
fn glance_looks_and_converts_and_takes_every_word_on_standard_error_for_a_failure() {
    let Some(lab) = Lab::new() else { return };
    for format in sources(&lab) {
        let info = lab.same(&["info", "-f", format, format, "--output=json"]).ok().json();
        assert_eq!(info["format"], format);
        for to in ["qcow2", "raw", "vmdk"] {
            lab.writes("dst", &["convert", "-f", format, "-O", to, format, "dst"]);
        }
    }
}

#[test]
fn nova_looks_at_images_that_are_in_use_and_makes_disks_of_them() {
    let Some(lab) = Lab::new() else { return };
    lab.image("qcow2", "base", &[]);
    let path = lab.path("base").display().to_string();
    lab.same(&["info", &path, "--force-share", "--output=json"]).ok();
    lab.same(&["info", &path, "--force-share", "--output=json", "-f", "qcow2"]).ok();
    for line in [
        "convert -t none -O raw -f qcow2 base dst",
        "convert -t writeback -O qcow2 -f qcow2 -c base dst",
        "convert -t writeback -O raw --image-opts driver=qcow2,file.filename=base dst",
        "convert -t none -O raw -f qcow2 --object secret,id=sec,data=abc base dst",
    ] {
        lab.writes("dst", &words(line));
    }
    lab.writes("raw", &words("create -f raw raw 1M"));
    let printed = lab.writes_into(
        || lab.make(&words("create -q -f raw raw 1M")),
        "raw",
        &words("resize -f raw raw 5M"),
    );
    assert_eq!(printed, "Image resized.\n");
    let create = "create -f qcow2 -o backing_file=base,backing_fmt=qcow2,cluster_size=64k over 4M";
    lab.writes("over", &words(create));
    // what is encrypted is not written
    let encrypt = "convert -f qcow2 -O luks --object secret,id=s,data=x -o key-secret=s base dst";
    lab.refused(&words(encrypt), 1, &["Unknown file format 'luks'"]);
    let encrypt = "convert -f qcow2 -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s base dst";
    lab.refused(&words(encrypt), 1, &["does not write encrypted images"]);
    // after a resize or a migration: over another base of the same content, or none
    lab.image("qcow2", "moved", &["-o", "cluster_size=4k"]);
    let make = || {
        lab.make(&words("create -q -f qcow2 -b base -F qcow2 disk 4M"));
        lab.write("qcow2", "disk", &["write -P 7 64k 64k"]);
    };
    for line in [
        "rebase -b moved -F qcow2 disk",
        "rebase -b base -F qcow2 disk",
        "rebase -u -b moved -F qcow2 disk",
    ] {
        lab.changes(make, &["disk"], &words(line));
    }
    lab.changes(make, &["disk"], &["rebase", "-b", "", "disk"]);
    // what changes an image is told not to be there, and leaves it alone
    let before = std::fs::read(lab.path("over")).unwrap();
    // and what needs its backing file
    lab.refused(&words("resize -f qcow2 over 9M"), 1, &["base", "--allow-external"]);
    assert_eq!(std::fs::read(lab.path("over")).unwrap(), before);
}

#[test]
fn nova_converts_overlays_where_their_folder_is_allowed() {
    let Some(lab) = Lab::new() else { return };
    std::fs::create_dir(lab.path("_base")).unwrap();
    lab.image("qcow2", "_base/b", &[]);
    std::fs::create_dir(lab.path("instance")).unwrap();
    lab.make(&words("create -q -f qcow2 -b ../_base/b -F qcow2 instance/disk"));
    lab.write("qcow2", "instance/disk", &["write -P 7 64k 64k"]);
    lab.same(&words("info --output=json instance/disk")).ok();
    let convert = words("convert -f qcow2 -O raw instance/disk dst");
    lab.refused(&convert, 1, &["../_base/b", "--allow-external", "DISKIMAGE_ALLOW_EXTERNAL=DIR"]);
    assert!(!lab.path("dst").exists());
    let folder = lab.folder().display().to_string();
    let allow = [("DISKIMAGE_ALLOW_EXTERNAL", &*folder)];
    lab.ours_with(&allow, &convert).ok();
    lab.make(&words("convert -f qcow2 -O raw instance/disk theirs"));
    let read = |name: &str| std::fs::read(lab.path(name)).unwrap();
    assert!(read("dst") == read("theirs"));
    for line in [
        "info --backing-chain --output=json instance/disk",
        "info --backing-chain instance/disk",
        "map --output=json instance/disk",
        "check instance/disk",
    ] {
        let (theirs, ours) = (lab.theirs(&words(line)), lab.ours_with(&allow, &words(line)).ok());
        if line.contains("json") {
            assert_eq!(ours.json(), theirs.json(), "{line}");
        } else {
            assert_eq!(ours.text(), theirs.text(), "{line}");
        }
    }
    let option = format!("--allow-external={folder}");
    let ours =
        lab.ours(&[&["compare", &option, "-F", "raw"][..], &["instance/disk", "dst"]].concat());
    assert_eq!(ours.ok().text(), "Images are identical.\n");
}

#[test]
fn cinder_reads_the_version_and_converts_and_extends() {
    let Some(lab) = Lab::new() else { return };
    for option in ["--version", "-V"] {
        let told = lab.ours(&[option]).ok();
        // qemu-img version ([0-9\.]*)
        let version = told.text().strip_prefix("qemu-img version ").unwrap();
        let version: String =
            version.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let numbers: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
        assert!(numbers >= vec![2, 10], "{version}");
        assert!(told.text().lines().next().unwrap().contains("diskimage"), "{told:?}");
    }
    lab.image("qcow2", "src", &[]);
    lab.raw("raw");
    for line in [
        "convert -O raw -t none -f qcow2 src dst",
        "convert -O raw -S 0 -f qcow2 src dst",
        "convert -O qcow2 -c -f raw raw dst",
        "convert -O vmdk -o subformat=streamOptimized -f qcow2 src dst",
        "convert -O vpc -f qcow2 src dst",
        "convert -O vpc -o subformat=fixed,force_size=on -f qcow2 src dst",
        "convert -O vhdx -f qcow2 src dst",
        "convert -O vdi -f qcow2 src dst",
    ] {
        // a fixed VHD is a raw disk to qemu-img, which has a footer with the time
        if line.contains("fixed") {
            lab.ours(&words(line)).ok();
            let same = lab.theirs(&words("compare -f raw -F vpc raw dst"));
            assert_eq!(same.code, Some(0), "{same:?}");
        } else {
            lab.writes("dst", &words(line));
        }
    }
    lab.writes_into(|| lab.raw("vol"), "vol", &words("resize -f raw vol 50M"));
    let make = || {
        lab.raw("raw");
        lab.make(&words("create -q -f qcow2 -b raw -F raw snap 3M"));
        lab.write("qcow2", "snap", &["write -P 5 1M 100k"]);
        lab.make(&words("create -q -f qcow2 -b snap -F qcow2 snap2 3M"));
        lab.write("qcow2", "snap2", &["write -P 6 1M 64k", "write -P 4 64k 512"]);
    };
    // a snapshot of a volume in a file is deleted
    lab.changes(make, &["snap", "raw", "snap2"], &words("commit snap"));
    lab.changes(make, &["snap2", "snap"], &words("commit -f qcow2 snap2"));
    lab.changes(make, &["snap2"], &words("rebase -u -b raw -F raw snap2"));
    lab.changes(make, &["snap2"], &words("rebase -u -f qcow2 -b raw -F raw snap2"));
    let luks = "convert -O raw --object secret,id=luks_sec,format=raw,file=k --image-opts \
                driver=luks,file.filename=src,key-secret=luks_sec dst";
    lab.refused(&words(luks), 1, &["does not read encrypted images"]);
}

#[test]
fn ironic_converts_within_a_limit_of_memory() {
    let Some(lab) = Lab::new() else { return };
    lab.image("qcow2", "src", &["-c"]);
    lab.raw("raw");
    for line in
        ["convert -f qcow2 -O raw src dst", "convert -f qcow2 -O raw -t directsync -S 0 -W src dst"]
    {
        lab.writes("dst", &words(line));
        std::fs::remove_file(lab.path("dst")).unwrap();
        limited(&lab, "-v 2097152", line).ok();
        assert!(std::fs::read(lab.path("dst")).unwrap() == std::fs::read(lab.path("raw")).unwrap());
    }
}

#[test]
fn cdi_imports_shows_progress_and_resizes() {
    let Some(lab) = Lab::new() else { return };
    lab.image("qcow2", "src", &[]);
    let info = lab.same(&words("info --output=json src")).ok().json();
    assert!(info["backing-filename"].is_null() && info["virtual-size"] == 3 << 20);
    for line in [
        "convert -t none -p -O raw src dst",
        "convert -t writeback -p -O raw src dst",
        "convert -t none -p -O raw -S 0 src dst",
        "convert -t none -p -O raw -o preallocation=falloc src dst",
        "convert -t none -p -O raw -o preallocation=full src dst",
    ] {
        shows_progress(&lab.writes("dst", &words(line)));
    }
    assert!(allocated(&lab.path("dst")) >= 3 << 20);
    let metadata = words("convert -t none -p -O raw -o preallocation=metadata src new");
    lab.refused(&metadata, 1, &["Unsupported preallocation mode"]);
    assert!(!lab.path("new").exists());
    lab.writes("blank", &words("create -f raw blank 4M -o preallocation=falloc"));
    assert!(allocated(&lab.path("blank")) >= 4 << 20);
    for (line, room) in [
        ("resize -f raw vol 5M", 0),
        ("resize -f raw vol 5M --preallocation=off", 0),
        ("resize -f raw vol 5M --preallocation=falloc", 2 << 20),
        ("resize -f raw vol 5M --preallocation=full", 2 << 20),
    ] {
        lab.writes_into(|| lab.raw("vol"), "vol", &words(line));
        assert!(allocated(&lab.path("vol")) >= room, "{line}");
    }
    // what was imported on top of an older disk goes into it
    let make = || {
        lab.raw("raw");
        lab.make(&words("create -q -f qcow2 -b gone -F raw -u delta 3M"));
        lab.write_unopened("delta", &["write -P 5 1M 100k", "write -z 64k 64k"]);
    };
    let (told, _) = lab.changes(
        || {
            make();
            lab.make(&words("rebase -u -F qcow2 -b src delta"));
        },
        &["delta"],
        &words("rebase -p -u -F raw -b raw delta"),
    );
    shows_progress(told.text());
    let (told, _) = lab.changes(
        || {
            make();
            lab.make(&words("rebase -u -F raw -b raw delta"));
        },
        &["delta", "raw"],
        &words("commit -p delta"),
    );
    let progress = told.text().strip_suffix("Image committed.\n");
    shows_progress(progress.unwrap());
}

#[test]
fn ovirt_measures_and_writes_into_volumes_that_exist() {
    let Some(lab) = Lab::new() else { return };
    lab.image("qcow2", "src", &[]);
    lab.raw("base");
    lab.same(&words("measure --output json -f qcow2 -O qcow2 src")).ok();
    lab.same(&words("measure --output json -f qcow2 -O raw src")).ok();
    lab.same(&words("check --output json -f qcow2 src")).ok();
    lab.same(&words("map --output json -f qcow2 src")).ok();
    let printed = lab.ours(&words("compare -p -f qcow2 -F raw src base")).ok();
    assert!(printed.text().contains("Images are identical."), "{printed:?}");
    let blank = || lab.make(&words("create -q -f raw vol 3M"));
    let into = "convert -p -t none -T none -f qcow2 -O raw -W -n --target-is-zero src vol";
    shows_progress(&lab.writes_into(blank, "vol", &words(into)));
    let full = || std::fs::write(lab.path("vol"), vec![9; 3 << 20]).unwrap();
    let into = "convert -p -t none -T none -f qcow2 -O raw -W -n src vol";
    shows_progress(&lab.writes_into(full, "vol", &words(into)));
    // an overlay with what differs only
    lab.writes("vol", &words("create -f qcow2 -o compat=1.1 -b base -F raw vol"));
    lab.write("qcow2", "src", &["write -P 3 2M 64k"]);
    lab.writes("vol", &words("convert -f qcow2 -O qcow2 -o compat=1.1 -B base -F raw src vol"));
    // bitmaps, of which one is broken
    lab.make(&words("bitmap --add src b0"));
    lab.writes("vol", &words("convert -f qcow2 -O qcow2 -o compat=1.1 --bitmaps src vol"));
    let info = lab.theirs(&words("info --output=json vol")).ok().json();
    assert_eq!(info["format-specific"]["data"]["bitmaps"][0]["name"], "b0");
    let skip = "convert -f qcow2 -O qcow2 --bitmaps --skip-broken-bitmaps src vol";
    lab.writes("vol", &words(skip));
    // a chain that exists is not rewritten
    lab.make(&words("create -q -f qcow2 -b base -F raw over"));
    let before = std::fs::read(lab.path("over")).unwrap();
    let into = "convert -f qcow2 -O qcow2 -n -B base -F raw src over";
    lab.refused(&words(into), 1, &["over", "other files that it names", "leave -n out"]);
    assert_eq!(std::fs::read(lab.path("over")).unwrap(), before);
    lab.refused(&words("bitmap --add src b1"), 1, &["has no 'bitmap'"]);
}

#[test]
fn proxmox_writes_into_volumes_takes_snapshots_out_and_limits_the_rate() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("src.raw");
    lab.image("qcow2", "src.qcow2", &["-o", "extended_l2=on,cluster_size=128k"]);
    lab.make(&words("snapshot -c snap1 src.qcow2"));
    lab.write("qcow2", "src.qcow2", &["write -P 9 0 1M"]);
    lab.make(&words("snapshot -c 1 src.qcow2"));
    lab.same(&words("info --output=json src.qcow2")).ok();
    lab.same(&words("snapshot -l src.qcow2")).ok();
    let blank = || lab.make(&words("create -q -f raw vol 3M"));
    lab.writes_into(blank, "vol", &words("convert -p -n -f raw -O raw src.raw vol"));
    // a filter of Proxmox' own qemu-img, for targets that read as zeros
    blank();
    lab.ours(&words("convert -p -n -f raw -O raw src.raw zeroinit:vol")).ok();
    assert!(std::fs::read(lab.path("vol")).unwrap() == std::fs::read(lab.path("src.raw")).unwrap());
    let create =
        "create -q -f qcow2 -o preallocation=metadata,extended_l2=on,cluster_size=128k vol";
    for (size, line) in [
        ("3M", "convert -p -n -f raw -O qcow2 src.raw vol"),
        ("3M", "convert -p -n -f qcow2 -O qcow2 -l snapshot.name=snap1 src.qcow2 vol"),
        ("3M", "convert -p -n -f qcow2 -O qcow2 -l snapshot.name=1 src.qcow2 vol"),
        ("3M", "convert -p -n -f qcow2 -O qcow2 -l snapshot.id=1 src.qcow2 vol"),
        ("3M", "convert -p -n -f qcow2 -O qcow2 -l snap1 src.qcow2 vol"),
        ("5M", "convert -p -n -f raw -O qcow2 src.raw vol"),
    ] {
        let blank = || lab.make(&[&words(create)[..], &[size]].concat());
        lab.writes_into(blank, "vol", &words(line));
    }
    lab.make(&words("create -q -f qcow2 full 4M"));
    lab.write("qcow2", "full", &["write -P 1 0 4M"]);
    let into = words("convert -n -f raw -O qcow2 src.raw full");
    lab.refused(&into, 1, &["data behind the end"]);
    // 270 KB at 200 KiB in a second, of which the first piece is free
    lab.raw("small");
    let start = std::time::Instant::now();
    lab.ours(&words("convert -r 100K -f raw -O raw small slow")).ok();
    assert!(start.elapsed() > std::time::Duration::from_millis(500));
    assert!(std::fs::read(lab.path("small")).unwrap() == std::fs::read(lab.path("slow")).unwrap());
    for line in
        ["snapshot -c x src.qcow2", "snapshot -a snap1 src.qcow2", "snapshot -d x src.qcow2"]
    {
        assert_eq!(lab.ours(&words(line)).ok().text(), "");
        assert_eq!(lab.theirs(&words("check src.qcow2")).code, Some(0), "{line}");
    }
    // what Proxmox' patches of dd add; the program itself has them not
    let source = std::fs::read(lab.path("src.raw")).unwrap();
    std::fs::write(lab.path("vol"), vec![9; 4 << 20]).unwrap();
    lab.ours(&words("dd -n -f raw -O raw bs=1k osize=528k if=src.raw of=vol")).ok();
    let found = std::fs::read(lab.path("vol")).unwrap();
    assert!(found[..528 << 10] == source[..528 << 10] && found[528 << 10..] == [9; 3568 << 10]);
    for line in
        ["dd -n -f raw -O raw osize=2M if=/dev/stdin of=vol", "dd -n -f raw osize=2M of=vol"]
    {
        std::fs::write(lab.path("vol"), vec![9; 4 << 20]).unwrap();
        lab.ours_fed(&source, &words(line)).ok();
        let found = std::fs::read(lab.path("vol")).unwrap();
        assert!(found[..2 << 20] == source[..2 << 20] && found[2 << 20..] == [9; 2 << 20]);
    }
    lab.ours_fed(&source[..1 << 20], &words("dd -f raw isize=1M osize=2M of=small.vol")).ok();
    let found = std::fs::read(lab.path("small.vol")).unwrap();
    assert!(found[..1 << 20] == source[..1 << 20] && found[1 << 20..] == [0; 1 << 20]);
    let cut = lab.ours_fed(&source[..1 << 20], &words("dd -f raw osize=2M of=cut.vol"));
    assert_eq!(cut.code, Some(1), "{cut:?}");
    assert!(cut.stderr.contains("Input ended unexpectedly"), "{cut:?}");
    assert!(!lab.path("cut.vol").exists());
}

#[test]
fn odds_end_as_they_do_there() {
    let Some(lab) = Lab::new() else { return };
    lab.raw("a");
    lab.make(&words("create -q -f raw small 1M"));
    lab.image("qcow2", "q", &[]);
    let before = std::fs::read(lab.path("a")).unwrap();
    for line in [
        "convert -f raw -O raw a a",
        "convert -f raw -O raw a ./a",
        "convert -f raw -O qcow2 a a",
        "convert -f raw -O raw -n a missing",
        "convert -f raw -O qcow2 -n a missing",
        "convert -f qcow2 -O raw -n q small",
        "convert -f raw -O vhdx -c a new",
        "convert -f raw -O raw -c a new",
        "convert -f raw -O raw a missing/new",
    ] {
        let (theirs, ours) = (lab.theirs(&words(line)), lab.ours(&words(line)));
        assert_eq!((ours.code, theirs.code), (Some(1), Some(1)), "{line}: {ours:?} {theirs:?}");
        assert!(ours.stderr.starts_with("qemu-img: "), "{ours:?}");
    }
    assert_eq!(std::fs::read(lab.path("a")).unwrap(), before);
    assert!(!lab.path("new").exists() && !lab.path("missing").exists());
    // there it ends well, and nothing is compressed
    lab.refused(&words("convert -f raw -O vmdk -c a new"), 1, &["streamOptimized"]);
    // several sources follow each other
    lab.writes("new", &words("convert -f raw -O raw a small a new"));
    lab.writes("new", &words("convert -f raw -O qcow2 -c a small a new"));
    // a file of that name, not standard output
    lab.writes("-", &words("convert -f raw -O raw a -"));
    lab.writes("new", &words("convert -f raw -O raw -C a new"));
    lab.writes("new", &words("convert -f raw -O raw --salvage -m 16 -W -U -q -S 1536 a new"));
}
