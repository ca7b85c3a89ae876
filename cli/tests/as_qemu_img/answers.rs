//! What `info`, `check`, `map`, `measure` and `snapshot -l` answer: to programs and to people, word
//! for word.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::common::*;
use crate::lab::{Lab, words};

/// Images of many kinds, which are made once, and only read.
fn images() -> Option<&'static (Lab, Vec<&'static str>)> {
    static MADE: OnceLock<Option<(Lab, Vec<&'static str>)>> = OnceLock::new();
    let make = || {
        let lab = Lab::shared()?;
        let names = make(&lab);
        Some((lab, names))
    };
    MADE.get_or_init(make).as_ref()
}

fn make(lab: &Lab) -> Vec<&'static str> {
    lab.raw("a.raw");
    std::fs::write(lab.path("odd.raw"), [7; 1000]).unwrap();
    lab.image("qcow2", "a.qcow2", &[]);
    lab.image("qcow2", "packed.qcow2", &["-c"]);
    lab.image("qcow2", "old.qcow2", &["-o", "compat=0.10,cluster_size=4k"]);
    lab.image("qcow2", "new.qcow2", &["-o", "extended_l2=on,cluster_size=128k,refcount_bits=1"]);
    lab.make(&words("snapshot -c first a.qcow2"));
    lab.write("qcow2", "a.qcow2", &["write -P 8 64k 64k", "write -z 1M 64k"]);
    lab.make(&["snapshot", "-c", "a longer name than fits", "a.qcow2"]);
    lab.make(&words("bitmap --add a.qcow2 b0"));
    lab.make(&words("bitmap --add --disable -g 32768 a.qcow2 b1"));
    std::fs::create_dir(lab.path("sub")).unwrap();
    lab.make(&words("create -q -f qcow2 -b ../a.qcow2 -F qcow2 sub/over.qcow2"));
    lab.make(&words("create -q -f qcow2 -u -b missing -F raw bare.qcow2 1M"));
    lab.make(&words("create -q -f qcow2 -o data_file=data.raw,data_file_raw=on data.qcow2 1M"));
    let secret = words("create -q -f luks --object secret,id=s,data=abc -o");
    lab.make(&[&secret[..], &["key-secret=s,iter-time=10", "a.luks", "1M"]].concat());
    lab.image("vmdk", "a.vmdk", &[]);
    lab.image("vmdk", "stream.vmdk", &["-o", "subformat=streamOptimized"]);
    lab.image("vpc", "a.vpc", &[]);
    lab.image("vhdx", "a.vhdx", &[]);
    lab.image("vdi", "a.vdi", &[]);
    lab.image("qed", "a.qed", &[]);
    lab.image("qcow", "a.qcow", &[]);
    vec![
        "a.raw",
        "odd.raw",
        "a.qcow2",
        "packed.qcow2",
        "old.qcow2",
        "new.qcow2",
        "sub/over.qcow2",
        "bare.qcow2",
        "data.qcow2",
        "a.luks",
        "a.vmdk",
        "stream.vmdk",
        "a.vpc",
        "a.vhdx",
        "a.vdi",
        "a.qed",
        "a.qcow",
    ]
}

#[test]
fn info_is_that_of_qemu_img_field_by_field_and_word_for_word() {
    let Some((lab, names)) = images() else { return };
    for &name in names {
        lab.same(&["info", "--output=json", name]).ok();
        lab.same(&["info", name]).ok();
        let full = lab.path(name).display().to_string();
        lab.same(&["info", "-U", &full]).ok();
        // there the backing file or the secret is needed for that, too
        if !matches!(name, "bare.qcow2" | "a.luks") {
            lab.same(&["snapshot", "-l", name]).ok();
        }
    }
    for line in [
        "info --image-opts driver=qcow2,file.driver=file,file.filename=a.qcow2",
        "info json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"old.qcow2\"}}",
        "info file:a.qcow2",
        "info -b a.qcow2",
        "info --outp json --form qcow2 a.qcow2",
        "-T x info a.vdi",
    ] {
        let (theirs, ours) = (lab.theirs(&words(line)), lab.ours(&words(line)).ok());
        if line.contains("json ") {
            assert_eq!(ours.json(), theirs.json());
        } else {
            assert_eq!(ours.text(), theirs.text(), "{line}");
        }
    }
    // without a link, and behind options of the command itself
    for before in [&[][..], &["--max-memory", "64M"]] {
        let line = [before, &["qemu-img", "info", "--output=json", "a.qcow2"]].concat();
        let told = ran(command(line).current_dir(lab.folder())).ok();
        assert_eq!(told.json(), lab.theirs(&words("info --output=json a.qcow2")).json());
    }
    let sandboxed = command(["--sandbox", "qemu-img", "info", "--output=json", "a.qcow2"])
        .current_dir(lab.folder())
        .output()
        .unwrap();
    assert_eq!(sandboxed.status.code(), Some(0));
    let told: Value = serde_json::from_slice(&sandboxed.stdout).unwrap();
    assert_eq!(told["virtual-size"], 3 << 20);
}

/// What programs read of the form for people: the fields that OpenStack's oslo.utils has.
fn parsed(text: &str) -> Value {
    let mut found = json!({});
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("Snapshot list:") {
            let columns = lines.next().unwrap();
            assert!(columns.starts_with("ID ") && columns.contains("TAG"), "{text}");
            let mut snapshots = Vec::new();
            while let Some(row) = lines.next_if(|row| row.starts_with(|c: char| c.is_ascii_digit()))
            {
                snapshots.push(json!(row.split_whitespace().collect::<Vec<_>>().join(" ")));
            }
            found["snapshots"] = snapshots.into();
            continue;
        }
        let Some((key, value)) = line.split_once(": ").filter(|_| !line.starts_with(' ')) else {
            continue;
        };
        // a size is the number in brackets, or else the text
        let bytes = value.split_once('(').and_then(|(_, rest)| rest.split_once(" bytes)"));
        let bytes = bytes.and_then(|(bytes, _)| bytes.parse::<u64>().ok());
        let key = key.replace(' ', "_");
        found[key] = bytes.map_or_else(|| json!(value), |bytes| json!(bytes));
    }
    found
}

#[test]
fn parsers_of_the_human_form_find_their_fields() {
    let Some((lab, _)) = images() else { return };
    let found = parsed(lab.ours(&words("info sub/over.qcow2")).ok().text());
    assert_eq!(found["image"], "sub/over.qcow2");
    assert_eq!(found["file_format"], "qcow2");
    assert_eq!(found["virtual_size"], 3 << 20);
    assert_eq!(found["cluster_size"], "65536");
    assert_eq!(found["backing_file"], "../a.qcow2 (actual path: sub/../a.qcow2)");
    assert_eq!(found["backing_file_format"], "qcow2");
    assert!(found["disk_size"].as_str().unwrap().ends_with(" KiB"), "{found}");
    let found = parsed(lab.ours(&words("info a.qcow2")).ok().text());
    let snapshots = found["snapshots"].as_array().unwrap();
    assert_eq!(snapshots.len(), 2, "{found}");
    assert!(snapshots[0].as_str().unwrap().starts_with("1 first 0 B 20"), "{found}");
}

#[test]
fn maps_and_measures_are_those_of_qemu_img() {
    let Some((lab, names)) = images() else { return };
    for &name in names {
        let format = name.rsplit('.').next().unwrap();
        // these need another file; VHDX and qcow are one piece of data to qemu-img
        let alone = !["sub/over.qcow2", "bare.qcow2", "data.qcow2", "a.luks"].contains(&name);
        if !alone || format == "vhdx" {
            continue;
        }
        // there the last sector goes on behind the end of the file
        if format != "qcow" && name != "odd.raw" {
            let args = ["map", "--output=json", "-f", format, name];
            let map = |ran: Ran| joined(&ran.ok().json());
            assert_eq!(map(lab.ours(&args)), map(lab.theirs(&args)), "{name}");
        }
        if !matches!(name, "packed.qcow2" | "stream.vmdk" | "odd.raw" | "a.qcow") {
            lab.same(&["map", "-f", format, name]).ok();
        }
        for target in ["raw", "qcow2"] {
            if name == "odd.raw" && target == "raw" || format == "qcow" {
                continue;
            }
            lab.same(&["measure", "-f", format, "-O", target, name]).ok();
            lab.same(&["measure", "--output=json", "-f", format, "-O", target, name]).ok();
        }
    }
    for line in [
        "map --output=json --start-offset 64k --max-length 128k a.qcow2",
        "map -s 64k -l 128k a.qcow2",
        "measure -O qcow2 -o compat=0.10 a.qcow2",
        "measure -O qcow2 -o cluster_size=4k --output=json a.qcow2",
        "measure -O qcow2 -l first a.qcow2",
        "measure --size 1000 -O raw",
        "measure --size 10T -O qcow2",
        "measure --size 1G --output=json -O qcow2",
    ] {
        lab.same(&words(line)).ok();
    }
}

#[test]
fn checks_have_the_numbers_and_exit_codes_of_qemu_img() {
    let Some((lab, names)) = images() else { return };
    for &name in names {
        if matches!(name, "sub/over.qcow2" | "bare.qcow2" | "data.qcow2" | "a.luks") {
            continue;
        }
        // we check VHDs too
        if name == "a.vpc" {
            let ours = lab.ours(&["check", name]).ok();
            assert!(ours.text().starts_with("No errors were found on the image.\n"), "{ours:?}");
            continue;
        }
        let (ours, theirs) = (lab.ours(&["check", name]), lab.theirs(&["check", name]));
        assert_eq!((ours.code, &ours.stderr), (theirs.code, &theirs.stderr), "{name}: {ours:?}");
        if name.ends_with("qcow2") {
            lab.same(&["check", name]).ok();
            lab.same(&["check", "-q", name]).ok();
            lab.same(&["check", "--output=json", name]).ok();
        } else if theirs.code == Some(0) {
            assert!(ours.text().starts_with("No errors were found on the image.\n"), "{ours:?}");
        }
    }
}

/// Sets the refcount of a cluster, of 16 bits, in the first block of counts.
fn set_refcount(lab: &Lab, name: &str, cluster: usize, count: u16) {
    let mut bytes = std::fs::read(lab.path(name)).unwrap();
    let table = qcow2::be64(&bytes, 48) as usize;
    let block = qcow2::be64(&bytes, table) as usize;
    bytes[block + 2 * cluster..block + 2 * cluster + 2].copy_from_slice(&count.to_be_bytes());
    let end = (bytes.len().div_ceil(65536)).max(cluster + 1) * 65536;
    bytes.resize(end, 0);
    std::fs::write(lab.path(name), bytes).unwrap();
}

/// What a repair tells: where the image ends is each one's own, and a count that is mended together
/// with the flag that goes with it is one error or two.
fn counts(told: &Value) -> Value {
    let mut told = told.clone();
    let members = told.as_object_mut().unwrap();
    members.remove("image-end-offset");
    if let Some(fixed) = members.get_mut("corruptions-fixed") {
        *fixed = (fixed.as_u64().unwrap() > 0).into();
    }
    told
}

fn lines(told: &Ran) -> Vec<String> {
    let lines = told.text().lines().filter(|line| !line.starts_with("Image end"));
    lines.map(|line| line.replace("    2 corruptions", "    1 corruptions")).collect()
}

#[test]
fn damage_is_counted_and_repaired_as_there() {
    let Some(lab) = Lab::new() else { return };
    let damages: &[(&str, usize, u16, i32)] = &[("leak", 40, 1, 3), ("lost", 6, 0, 2)];
    for &(name, cluster, count, code) in damages {
        let damage = || {
            lab.image("qcow2", name, &[]);
            set_refcount(&lab, name, cluster, count);
        };
        damage();
        for more in [&[][..], &["-q"], &["--output=json"]] {
            let told = lab.same(&[&["check"], more, &[name]].concat());
            assert_eq!(told.code, Some(code));
        }
        for more in [&[][..], &["-q"], &["--output=json"]] {
            let args = [&["check", "-r", "all"], more, &[name]].concat();
            damage();
            let theirs = lab.theirs(&args);
            damage();
            let ours = lab.ours(&args);
            assert_eq!((ours.code, &*ours.stderr), (Some(0), ""), "{ours:?}");
            assert_eq!(theirs.code, Some(0));
            if more == ["--output=json"] {
                assert_eq!(counts(&ours.json()), counts(&theirs.json()));
            } else {
                assert_eq!(lines(&ours), lines(&theirs), "{args:?}");
            }
            assert_eq!(lab.theirs(&["check", name]).code, Some(0));
        }
    }
}
