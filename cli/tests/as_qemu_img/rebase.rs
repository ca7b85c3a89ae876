//! `rebase`, beside the program itself.

use crate::lab::{Lab, words};

/// Bases of several sizes and layouts, which differ here and there.
fn bases(lab: &Lab) {
    lab.raw("one");
    lab.raw("two");
    lab.write("raw", "two", &["write -P 3 128k 64k", "write -P 4 1M 4k", "write -z 0 64k"]);
    lab.raw("short");
    lab.make(&words("resize -q -f raw --shrink short 1234k"));
    lab.raw("long");
    lab.make(&words("resize -q -f raw long 5M"));
    lab.write("raw", "long", &["write -P 9 4M 1M"]);
    lab.make(&words("convert -f raw -O qcow2 -o cluster_size=4k two small"));
    lab.make(&words("convert -f raw -O qcow2 -c long packed"));
}

/// An overlay of `one` with data, zeros over data, and what it does not have.
fn overlay(lab: &Lab, options: &str, size: &str) {
    let create = format!("create -q -f qcow2 -b one -F raw {options} over {size}");
    lab.make(&words(&create));
    let writes = ["write -P 7 64k 64k", "write -z 1088k 64k", "write -P 8 1M 512", "write -z 0 4k"];
    lab.write("qcow2", "over", &writes);
}

#[test]
fn the_guest_sees_the_same_over_another_base() {
    let Some(lab) = Lab::new() else { return };
    bases(&lab);
    for (options, size) in [
        ("", "3M"),
        ("-o compat=0.10", "3M"),
        ("-o cluster_size=4k,lazy_refcounts=on", "4M"),
        ("-o extended_l2=on,cluster_size=64k,refcount_bits=8", "2M"),
        ("-o compression_type=zstd,cluster_size=512", "2097664"),
    ] {
        for (base, format) in [
            ("one", "raw"),
            ("two", "raw"),
            ("short", "raw"),
            ("long", "raw"),
            ("small", "qcow2"),
            ("packed", "qcow2"),
        ] {
            // all of them under two layouts, the ones that differ most under the others
            if !matches!(options, "" | "-o compat=0.10") && !matches!(base, "short" | "packed") {
                continue;
            }
            let line = format!("rebase -b {base} -F {format} over");
            let make = || overlay(&lab, options, size);
            let (_, lengths) = lab.changes(make, &["over"], &words(&line));
            let [ours, theirs] = lengths[0];
            assert!(ours <= theirs + 65_536, "{options} {base}: {ours} bytes, there {theirs}");
        }
        let make = || overlay(&lab, options, size);
        lab.changes(make, &["over"], &["rebase", "-q", "-b", "", "over"]);
        let make = || {
            overlay(&lab, options, size);
            lab.make(&["rebase", "-b", "", "over"]);
        };
        // data over an image that had no base
        lab.changes(make, &["over"], &words("rebase -t none -T none -b two -F raw over"));
    }
}

#[test]
fn a_chain_gets_shorter_and_longer() {
    let Some(lab) = Lab::new() else { return };
    bases(&lab);
    let make = || {
        lab.make(&words("create -q -f qcow2 -b two -F raw middle 2M"));
        lab.write("qcow2", "middle", &["write -P 5 192k 64k", "write -z 1M 64k"]);
        lab.make(&words("create -q -f qcow2 -b middle -F qcow2 over 4M"));
        lab.write("qcow2", "over", &["write -P 6 3M 64k"]);
    };
    for line in ["rebase -b two -F raw over", "rebase -p -b small -F qcow2 -f qcow2 over"] {
        lab.changes(make, &["over", "middle"], &words(line));
    }
    // over a chain of two
    let make = || {
        make();
        overlay(&lab, "", "3M");
    };
    let (_, lengths) = lab.changes(make, &["over"], &words("rebase -b middle -F qcow2 over"));
    assert!(lengths[0][0] <= lengths[0][1] + 65_536, "{lengths:?}");
}

#[test]
fn what_is_compressed_stays_so_and_what_comes_new_can_be() {
    let Some(lab) = Lab::new() else { return };
    bases(&lab);
    let make = || {
        let _ = std::fs::remove_file(lab.path("over"));
        lab.make(&words("convert -c -f raw -O qcow2 -B two -F raw long over"));
    };
    let (_, lengths) = lab.changes(make, &["over"], &words("rebase -b one -F raw over"));
    assert!(lengths[0][0] <= lengths[0][1] + 65_536, "{lengths:?}");
    let make = || lab.make(&words("create -q -f qcow2 -b one -F raw over 3M"));
    let (_, lengths) = lab.changes(make, &["over"], &["rebase", "-c", "-b", "", "over"]);
    assert!(lengths[0][0] <= lengths[0][1] + 65_536, "{lengths:?}");
}

#[test]
fn the_name_alone_changes_with_u() {
    let Some(lab) = Lab::new() else { return };
    bases(&lab);
    let full = "n".repeat(1023);
    for options in ["", "-o compat=0.10", "-o cluster_size=4k", "-o extended_l2=on"] {
        let make = || {
            overlay(&lab, options, "3M");
            lab.make(&words("snapshot -c s over"));
            if options != "-o compat=0.10" {
                lab.make(&words("bitmap --add over b"));
            }
        };
        for line in [
            "rebase -u -b two -F raw over",
            "rebase -u -b ./small -F qcow2 over",
            "rebase -u -F raw over",
            "rebase -U -u over",
            "rebase -u -c -b long -F raw over",
        ] {
            let (_, lengths) = lab.changes(make, &["over"], &words(line));
            make();
            let before = std::fs::metadata(lab.path("over")).unwrap().len();
            assert_eq!(lengths[0][0], before, "{line}: written in place");
        }
        // a name as long as can be; nobody looks at the file
        make();
        lab.ours(&["rebase", "-u", "-b", &full, "-F", "vmdk", "over"]).ok();
        let info = lab.theirs(&words("info --output=json over")).ok().json();
        assert_eq!(
            (&info["backing-filename"], &info["backing-filename-format"]),
            (&full.as_str().into(), &"vmdk".into())
        );
        lab.ours(&["rebase", "-u", "-b", "one", "-F", "raw", "over"]).ok();
        assert_eq!(lab.theirs(&words("check over")).code, Some(0));
        lab.theirs(&words("compare -f qcow2 -F qcow2 over over")).ok();
    }
    // in the sandbox too
    let (folder, link) = (lab.folder(), env!("CARGO_BIN_EXE_diskimage"));
    let args = words("--sandbox qemu-img rebase -u -b two -F raw over");
    let mut command = std::process::Command::new(link);
    crate::common::ran(command.args(args).current_dir(folder)).ok();
    let mut command = std::process::Command::new(link);
    let args = words("--sandbox qemu-img rebase -b two -F raw over");
    let refused = crate::common::ran(command.args(args).current_dir(folder));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("rebase without -u does not go with --sandbox"), "{refused:?}");
}

#[test]
fn what_cannot_be_done_leaves_the_image_alone() {
    let Some(lab) = Lab::new() else { return };
    bases(&lab);
    overlay(&lab, "", "3M");
    let long = "n".repeat(1024);
    lab.leaves("over", &format!("rebase -u -b {long} -F raw over"), &["longer than 1023 bytes"]);
    for (line, word) in [
        ("rebase -u -b nbd:x -F raw over", "protocol"),
        ("rebase -u -b json:{} -F raw over", "protocol"),
        ("rebase -u -b over -F qcow2 over", "the image itself"),
        ("rebase -b over -F qcow2 over", "the image itself"),
        ("rebase -b ./over -F raw over", "the image itself"),
        ("rebase -b . -F raw over", "Could not open new backing file '.'"),
        ("rebase -b bin -F raw over", "Could not open new backing file 'bin'"),
        ("rebase -b two -F qcow2 over", "QCOW2"),
        ("rebase -f vmdk -u over", "over"),
    ] {
        lab.leaves("over", line, &[word]);
    }
    // a base that is itself over the image
    lab.make(&words("create -q -f qcow2 -b over -F qcow2 above 3M"));
    lab.leaves("over", "rebase -b above -F qcow2 over", &["over"]);
    // its backing file may not be opened; what the caller names may
    let told = lab.ours(&words("rebase -b two -F raw over"));
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stderr.contains("DISKIMAGE_ALLOW_EXTERNAL=DIR"), "{told:?}");
    // what a new image would not have
    for (add, word) in [("snapshot -c s over", "snapshots"), ("bitmap --add over b", "bitmaps")] {
        overlay(&lab, "", "3M");
        lab.make(&words(add));
        lab.leaves("over", "rebase -b two -F raw over", &["over: ", word, "convert it"]);
    }
    // other formats
    lab.make(&words("create -q -f qed -b one -F raw qed 3M"));
    lab.leaves("qed", "rebase -u -b two -F raw qed", &["a qcow2 only", "qed"]);
    lab.image("vmdk", "vmdk", &[]);
    lab.leaves("vmdk", "rebase -u -b two -F raw vmdk", &["a qcow2 only", "vmdk"]);
    // damage
    overlay(&lab, "", "3M");
    let whole = std::fs::read(lab.path("over")).unwrap();
    for length in [3, 100, 70_000, whole.len() - 70_000] {
        std::fs::write(lab.path("over"), &whole[..length]).unwrap();
        lab.leaves("over", "rebase -f qcow2 -b two -F raw over", &["over"]);
    }
    for length in [3, 100, 60_000] {
        std::fs::write(lab.path("over"), &whole[..length]).unwrap();
        lab.leaves("over", "rebase -f qcow2 -u -b two -F raw over", &["over"]);
    }
    let mut corrupt = whole;
    corrupt[79] |= 2;
    std::fs::write(lab.path("over"), &corrupt).unwrap();
    lab.leaves("over", "rebase -u -b two -F raw over", &["marked as corrupt"]);
    lab.leaves("over", "rebase -b two -F raw over", &["marked as corrupt"]);
}

#[test]
fn an_image_in_use_is_not_rebased() {
    let Some(lab) = Lab::new() else { return };
    bases(&lab);
    overlay(&lab, "", "3M");
    let held = lab.held("qcow2", "over");
    lab.leaves("over", "rebase -u -b two -F raw over", &["in use"]);
    lab.leaves("over", "rebase -b two -F raw over", &["in use"]);
    lab.leaves("over", "commit over", &["in use"]);
    lab.let_go(held);
    let held = lab.held("raw", "one");
    lab.leaves("one", "commit over", &["one", "in use"]);
    lab.let_go(held);
    lab.ours(&words("commit --allow-external over")).ok();
}
