//! QCOW2 images changed in place, by both programs.

use std::io::Read;
use std::process::{Command, Stdio};

use crate::common::*;
use crate::lab::{Lab, words};

/// Images with data, and what they are made with.
const IMAGES: &[&[&str]] = &[
    &[],
    &["-c"],
    &["-o", "compat=0.10"],
    &["-o", "cluster_size=512"],
    &["-o", "extended_l2=on,cluster_size=128k"],
    &["-c", "-o", "compression_type=zstd,lazy_refcounts=on"],
];

#[test]
fn nova_and_cinder_and_glance_resize_disks_of_strangers() {
    let Some(lab) = Lab::new() else { return };
    for options in IMAGES {
        for line in [
            "resize -f qcow2 vol 50M",
            "resize vol +512",
            "resize vol 3M",
            "resize -f qcow2 --shrink vol 1M",
            "resize --shrink vol -2000k",
            "resize -q --shrink vol 512",
            "resize -f qcow2 --image-opts vol 4M",
        ] {
            if line.contains("--image-opts") {
                lab.image("qcow2", "vol", options);
                lab.same(&words(line));
                continue;
            }
            let printed =
                lab.writes_into(|| lab.image("qcow2", "vol", options), "vol", &words(line));
            assert_eq!(printed, if line.contains("-q") { "" } else { "Image resized.\n" });
        }
    }
    // the file ends where what is used does
    lab.image("qcow2", "vol", &[]);
    let before = std::fs::metadata(lab.path("vol")).unwrap().len();
    lab.ours(&words("resize --shrink vol 512")).ok();
    assert!(std::fs::metadata(lab.path("vol")).unwrap().len() < before);
}

/// There the bytes that were cut off are there again (10.0.2).
#[test]
fn what_was_cut_off_is_gone() {
    let Some(lab) = Lab::new() else { return };
    lab.make(&words("create -q -f qcow2 vol 128k"));
    lab.write("qcow2", "vol", &["write -P 0xaa 0 128k"]);
    lab.ours(&words("resize --shrink vol 66048")).ok();
    lab.make(&words("resize -q vol 128k"));
    lab.write("qcow2", "vol", &["read -P 0xaa 0 66048"]);
    lab.make(&words("convert -O raw vol raw"));
    assert!(std::fs::read(lab.path("raw")).unwrap()[66_048..].iter().all(|&byte| byte == 0));
}

#[test]
fn what_makes_no_sense_is_told_as_there() {
    let Some(lab) = Lab::new() else { return };
    lab.image("qcow2", "q", &[]);
    lab.image("qcow2", "old", &["-o", "compat=0.10"]);
    lab.make(&words("snapshot -c one old"));
    for line in [
        "resize q 1M",
        "resize q -1M",
        "resize q 0",
        "resize q -9M",
        "resize q 4000001",
        "resize --shrink q 1000001",
        "resize q",
        "resize --shrink --preallocation=falloc q 1M",
        "resize -f qcow2 missing 1M",
        "snapshot -c x missing",
        "snapshot -d nosuch q",
        "snapshot -a nosuch q",
        "snapshot -c x -d x q",
        "snapshot -U -c x q",
        "snapshot -c x",
    ] {
        let (theirs, ours) = (lab.theirs(&words(line)), lab.ours(&words(line)));
        assert_ne!(theirs.code, Some(0), "{line}");
        assert_eq!(
            (ours.code, &*ours.stderr, ours.text()),
            (theirs.code, &*theirs.stderr, theirs.text()),
            "{line}"
        );
    }
    lab.refused(&words("resize old 9M"), 1, &["Can't resize a v2 image which has snapshots"]);
    lab.refused(&words("resize q 3E"), 1, &["L1 table", "above the limit"]);
    for mode in ["falloc", "full", "metadata"] {
        let option = format!("--preallocation={mode}");
        let word = format!("Unsupported preallocation mode: {mode}");
        lab.refused(&["resize", &option, "q", "9M"], 1, &[&word]);
    }
    let bounded = lab.ours(&words("resize q 9M"));
    assert_eq!(bounded.code, Some(0), "{bounded:?}");
    assert_eq!(lab.theirs(&words("check q")).code, Some(0));
}

/// How long the backing file is decides what the new bytes are.
#[test]
fn overlays_grow_where_their_folder_is_allowed() {
    let Some(lab) = Lab::new() else { return };
    std::fs::create_dir(lab.path("_base")).unwrap();
    std::fs::create_dir(lab.path("instance")).unwrap();
    std::fs::write(lab.path("_base/b"), vec![0xbb; 3 << 20]).unwrap();
    let make = |name: &str, size: &str| {
        let path = format!("instance/{name}");
        lab.make(&["create", "-q", "-f", "qcow2", "-b", "../_base/b", "-F", "raw", &path, size]);
    };
    make("disk", "1049088");
    let before = std::fs::read(lab.path("instance/disk")).unwrap();
    let resize = words("resize -f qcow2 instance/disk 5M");
    lab.refused(&resize, 1, &["../_base/b", "--allow-external", "DISKIMAGE_ALLOW_EXTERNAL=DIR"]);
    assert!(std::fs::read(lab.path("instance/disk")).unwrap() == before);
    let folder = lab.folder().display().to_string();
    for size in ["1049088", "3M", "4M"] {
        make("disk", size);
        make("theirs", size);
        let ours = lab.ours_with(&[("DISKIMAGE_ALLOW_EXTERNAL", &*folder)], &resize).ok();
        assert_eq!((ours.text(), &*ours.stderr), ("Image resized.\n", ""));
        lab.make(&words("resize -q instance/theirs 5M"));
        for line in ["compare instance/disk instance/theirs", "check instance/disk"] {
            assert_eq!(lab.theirs(&words(line)).code, Some(0), "{size}: {line}");
        }
    }
    // what is cut off needs no other file
    lab.ours(&words("resize --shrink instance/disk 1M")).ok();
    // and the sandbox reads what is allowed
    make("disk", "1049088");
    make("theirs", "1049088");
    lab.make(&words("resize -q instance/theirs 5M"));
    let allow = format!("--allow-external={folder}");
    let boxed = lab.sandboxed(&["resize", &allow, "instance/disk", "5M"]);
    assert_eq!(boxed.code, Some(0), "{boxed:?}");
    assert_eq!(lab.theirs(&words("compare instance/disk instance/theirs")).code, Some(0));
}

#[test]
fn an_image_in_use_is_not_changed() {
    let Some(lab) = Lab::new() else { return };
    lab.image("qcow2", "q", &[]);
    let mut held = Command::new("qemu-io")
        .args(["-f", "qcow2", "q"])
        .current_dir(lab.folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // its prompt appears when the image is open
    let mut prompt = [0; 7];
    held.stdout.as_mut().unwrap().read_exact(&mut prompt).unwrap();
    for line in ["resize q 4M", "snapshot -c x q"] {
        lab.refused(&words(line), 1, &["q", "in use"]);
    }
    drop(held.stdin.take());
    waited(&mut held);
    lab.ours(&words("resize q 4M")).ok();
}

#[test]
fn snapshots_are_made_applied_and_deleted_as_there() {
    let Some(lab) = Lab::new() else { return };
    let list = |name: &str| {
        let ran = lab.theirs(&["snapshot", "-l", name]).ok();
        // but for when
        let lines = ran.text().lines().map(|line| line.get(..34).unwrap_or(line).to_owned());
        lines.collect::<Vec<_>>()
    };
    for options in IMAGES {
        lab.image("qcow2", "ours", options);
        std::fs::copy(lab.path("ours"), lab.path("theirs")).unwrap();
        for line in [
            "snapshot -c one X",
            "snapshot -c one X",
            "resize X 4M",
            "snapshot -q -c three X",
            "snapshot -d 1 X",
            "snapshot -a 2 X",
            "snapshot -d one X",
            "snapshot -a three X",
            "snapshot -d three X",
            "snapshot -d one X",
            "snapshot -c again X",
        ] {
            let args = |name: &'static str| -> Vec<&str> {
                words(line).into_iter().map(|word| if word == "X" { name } else { word }).collect()
            };
            let (theirs, ours) = (lab.theirs(&args("theirs")), lab.ours(&args("ours")));
            // version 2 in our words, with theirs in them
            assert_eq!(
                (ours.code, ours.text()),
                (theirs.code, theirs.text()),
                "{options:?} {line}"
            );
            if !line.starts_with("resize") {
                assert_eq!(ours.stderr, theirs.stderr, "{options:?} {line}");
            }
            assert_eq!(list("ours"), list("theirs"), "{options:?} {line}");
            for line in ["check ours", "compare -s ours theirs"] {
                let ran = lab.theirs(&words(line));
                // how much is allocated differs where a snapshot has another size
                let is_well =
                    ran.code == Some(0) || line.contains("-s") && !ran.text().contains("mismatch");
                assert!(is_well, "{options:?} {line}: {ran:?}");
            }
            // what is written now is no snapshot's
            for name in ["ours", "theirs"] {
                lab.write("qcow2", name, &["write -P 3 100k 300k"]);
            }
        }
    }
    lab.raw("raw");
    for line in ["snapshot -f raw -c x raw", "snapshot -f raw -d x raw", "snapshot -f raw -a x raw"]
    {
        let (theirs, ours) = (lab.theirs(&words(line)), lab.ours(&words(line)));
        assert_eq!((ours.code, ours.stderr), (theirs.code, theirs.stderr), "{line}");
    }
    let boxed = lab.sandboxed(&["snapshot", "-c", "boxed", "ours"]);
    assert_eq!(boxed.code, Some(0), "{boxed:?}");
    assert!(list("ours").concat().contains("boxed"));
}
