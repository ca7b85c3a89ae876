//! `commit`, beside the program itself.

use crate::lab::{Lab, words};

/// A raw disk, and overlays of several sizes over it.
fn raw_base(lab: &Lab, options: &str, size: &str) {
    lab.raw("base");
    lab.make(&words(&format!("create -q -f qcow2 -b base -F raw {options} over {size}")));
    let writes = ["write -P 7 64k 64k", "write -z 1088k 64k", "write -P 8 1M 512", "write -z 0 4k"];
    lab.write("qcow2", "over", &writes);
}

/// The options of overlays, and their sizes.
const OVERLAYS: [(&str, &str); 5] = [
    ("", "3M"),
    ("-o compat=0.10", "5M"),
    ("-o cluster_size=4k", "2M"),
    ("-o extended_l2=on,cluster_size=64k", "3M"),
    ("-o cluster_size=512", "2097664"),
];

#[test]
fn a_raw_base_gets_what_lies_over_it() {
    let Some(lab) = Lab::new() else { return };
    for (options, size) in OVERLAYS {
        for line in ["commit over", "commit -d over", "commit -q over", "commit -t none -p over"] {
            // how it is called makes no difference to what the layouts are
            if !options.is_empty() && line != "commit over" {
                continue;
            }
            let make = || raw_base(&lab, options, size);
            let (_, lengths) = lab.changes(make, &["over", "base"], &words(line));
            let [ours, theirs] = lengths[0];
            assert!(ours <= theirs + 65_536, "{options}: {ours} bytes, there {theirs}");
        }
    }
}

#[test]
fn a_qcow2_base_is_written_anew_with_its_layout_over_its_own_base() {
    let Some(lab) = Lab::new() else { return };
    for (base, format, options, size) in [
        ("", "", "", "3M"),
        ("-o compat=0.10,cluster_size=4k", "-b ground -F raw", "", "5M"),
        ("-o extended_l2=on", "-b ground -F raw", "-o compat=0.10", "2M"),
        ("-o refcount_bits=64,lazy_refcounts=on", "-b ground -F raw", "-o cluster_size=512", "3M"),
    ] {
        let make = || {
            lab.raw("ground");
            lab.make(&words(&format!("create -q -f qcow2 {format} {base} base 3M")));
            lab.write(
                "qcow2",
                "base",
                &["write -P 2 2M 1M", "write -P 3 0 128k", "write -z 1M 64k"],
            );
            lab.make(&words(&format!("create -q -f qcow2 -b base -F qcow2 {options} over {size}")));
            let writes = ["write -P 7 64k 64k", "write -z 1088k 64k", "write -P 8 1M 512"];
            lab.write("qcow2", "over", &writes);
        };
        let files = ["over", "base", "ground"];
        for line in ["commit over", "commit -d over", "commit -b base over"] {
            let (_, lengths) = lab.changes(make, &files, &words(line));
            let [ours, theirs] = lengths[1];
            assert!(ours <= theirs + 65_536, "{base}: {ours} bytes, there {theirs}");
        }
        if !format.is_empty() {
            lab.changes(make, &files, &words("commit -b ground over"));
        }
    }
}

#[test]
fn images_between_that_are_shorter_read_as_zeros() {
    let Some(lab) = Lab::new() else { return };
    let make = || {
        lab.make(&words("create -q -f raw ground 4M"));
        lab.write("raw", "ground", &["write -P 1 0 4M"]);
        lab.make(&words("create -q -f qcow2 -b ground -F raw middle 2M"));
        lab.write("qcow2", "middle", &["write -P 5 192k 64k", "write -z 1M 64k"]);
        lab.make(&words("create -q -f qcow2 -b middle -F qcow2 over 4M"));
        lab.write("qcow2", "over", &["write -P 6 3M 64k"]);
    };
    lab.changes(make, &["middle", "over", "ground"], &words("commit over"));
    // the guest saw zeros behind the end of the middle one, and sees them still
    make();
    lab.make(&words("convert -f qcow2 -O raw over wanted"));
    lab.ours(&words("commit --allow-external -b ground over")).ok();
    lab.theirs(&words("compare -f raw -F raw wanted ground")).ok();
}

#[test]
fn what_is_compressed_is_committed_and_stays_small() {
    let Some(lab) = Lab::new() else { return };
    let make = || {
        lab.raw("new");
        lab.write("raw", "new", &["write -P 3 128k 512k"]);
        lab.raw("old");
        let _ = std::fs::remove_file(lab.path("base"));
        let _ = std::fs::remove_file(lab.path("over"));
        lab.make(&words("convert -c -f raw -O qcow2 old base"));
        lab.make(&words("convert -c -f raw -O qcow2 -B base -F qcow2 new over"));
    };
    let (_, lengths) = lab.changes(make, &["over", "base"], &words("commit over"));
    assert!(lengths[1][0] <= lengths[1][1], "{lengths:?}");
    let make = || {
        make();
        std::fs::rename(lab.path("old"), lab.path("base")).unwrap();
        lab.make(&words("rebase -u -b base -F raw over"));
    };
    lab.changes(make, &["over", "base"], &words("commit -r 100M over"));
}

#[test]
fn what_cannot_be_done_leaves_both_alone() {
    let Some(lab) = Lab::new() else { return };
    raw_base(&lab, "", "3M");
    for file in ["over", "base"] {
        lab.leaves(file, "commit -b bin over", &["Did not find 'bin' in the backing chain"]);
        lab.leaves(file, "commit -f vmdk over", &["over"]);
        let told = lab.ours(&words("commit over"));
        assert_eq!(told.code, Some(1), "{told:?}");
        assert!(told.stderr.contains("DISKIMAGE_ALLOW_EXTERNAL=DIR"), "{told:?}");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_diskimage"));
        let args = words("--sandbox qemu-img commit over");
        let told = crate::common::ran(command.args(args).current_dir(lab.folder()));
        assert!(told.code == Some(1) && told.stderr.contains("--sandbox"), "{told:?}");
    }
    // an image that is not whole is not committed
    let whole = std::fs::read(lab.path("over")).unwrap();
    for length in [3, 100, 70_000, whole.len() - 70_000] {
        std::fs::write(lab.path("over"), &whole[..length]).unwrap();
        lab.leaves("over", "commit -f qcow2 over", &["over"]);
        lab.leaves("base", "commit -f qcow2 over", &["over"]);
    }
    // what a new image would not have: with -d it need not be empty afterwards
    raw_base(&lab, "", "3M");
    lab.make(&words("snapshot -c s over"));
    lab.leaves("over", "commit over", &["snapshots", "add -d"]);
    lab.leaves("base", "commit over", &["snapshots", "add -d"]);
    lab.ours(&words("commit --allow-external -d over")).ok();
    lab.theirs(&words("compare -f qcow2 -F raw over base")).ok();
    // a base that cannot be written anew
    lab.image("qcow2", "base", &[]);
    lab.make(&words("snapshot -c s base"));
    lab.make(&words("create -q -f qcow2 -b base -F qcow2 over"));
    lab.write("qcow2", "over", &["write -P 7 64k 64k"]);
    lab.leaves("base", "commit over", &["base: ", "snapshots", "convert the image"]);
    lab.leaves("over", "commit over", &["base: ", "snapshots", "convert the image"]);
    lab.image("vdi", "vdi", &[]);
    lab.make(&words("create -q -f qcow2 -b vdi -F vdi over"));
    lab.leaves("vdi", "commit over", &["vdi: ", "raw disks and qcow2 images only", "a vdi"]);
    lab.image("raw", "base", &[]);
    lab.make(&words("create -q -f qed -b base -F raw qed 3M"));
    lab.write("qed", "qed", &["write -P 7 64k 64k"]);
    lab.leaves("qed", "commit qed", &["empties a qcow2 only", "a qed", "add -d"]);
    lab.changes(
        || {
            lab.raw("base");
            lab.make(&words("create -q -f qed -b base -F raw qed 3M"));
            lab.write("qed", "qed", &["write -P 7 64k 64k"]);
        },
        &["qed", "base"],
        &words("commit -d qed"),
    );
    std::fs::remove_file(lab.path("vdi")).unwrap();
    lab.leaves("over", "commit over", &["vdi", "No such file"]);
}

#[test]
fn a_base_that_must_not_be_written_stops_it() {
    let Some(lab) = Lab::new() else { return };
    raw_base(&lab, "", "3M");
    let base = lab.path("base");
    let mut rights = std::fs::metadata(&base).unwrap().permissions();
    rights.set_readonly(true);
    std::fs::set_permissions(&base, rights).unwrap();
    if std::fs::OpenOptions::new().write(true).open(&base).is_ok() {
        return crate::common::skipped("this user may write to every file");
    }
    lab.leaves("over", "commit over", &["base", "Permission denied"]);
}
