//! QCOW2 images changed in place: stopped after any write they are whole, with what they held before
//! or what they are to hold; done, they are what qemu-img makes of them.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use common::qemu::*;
use common::repair::{Recorded, Step, apply, check, repair};
use common::*;
use diskimage::check::{Checking, RepairScope};
use diskimage::format::LayerOptions;
use diskimage::format::qcow2::{Qcow2Layer, Resize, SnapshotChange};
use diskimage::storage::MemoryStorage;
use diskimage::{Beneath, Code, ErrorKind, Format, Limits, OpenOptions, Result, VirtualDisk};

const Q: Format = Format::Qcow2;

/// Images as qemu-img and qemu-io make them, in a folder.
struct Lab(tempfile::TempDir);

impl Lab {
    fn new() -> Option<Self> {
        let has = |name| tool(name, &["--version".as_ref()]).is_some();
        (has("qemu-img") && has("qemu-io")).then(|| Self(folder()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    #[track_caller]
    fn run(&self, program: &str, args: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(program).args(args).current_dir(self.0.path()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }

    #[track_caller]
    fn qemu(&self, line: &str) {
        let args: Vec<_> = line.split_whitespace().collect();
        let (code, text) = self.run("qemu-img", &args);
        assert_eq!(code, Some(0), "{line}: {text}");
    }

    /// An image with these options, of this size; written to by qemu-io's commands.
    #[track_caller]
    fn make(&self, options: &str, size: &str, writes: &[&str]) -> Vec<u8> {
        let _ = std::fs::remove_file(self.path("image"));
        self.qemu(&format!("create -q -f qcow2 {options} image {size}"));
        self.write(writes)
    }

    #[track_caller]
    fn write(&self, writes: &[&str]) -> Vec<u8> {
        for write in writes {
            let (code, text) = self.run("qemu-io", &["-f", "qcow2", "-c", write, "image"]);
            assert!(code == Some(0) && !text.contains("failed"), "{write}: {text}");
        }
        std::fs::read(self.path("image")).unwrap()
    }

    /// What the guest sees, of the image or one of its snapshots.
    #[track_caller]
    fn content(&self, bytes: &[u8], snapshot: Option<&[u8]>) -> Vec<u8> {
        let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
        let mut options =
            OpenOptions::new().format(Q).resolver(Beneath::new(self.0.path()).unwrap());
        if let Some(snapshot) = snapshot {
            options = options.snapshot(snapshot);
        }
        content(&options.open_storage(storage, &self.path("image")).unwrap()).unwrap()
    }

    /// qemu-img finds nothing but leaks, and none of these if the image is to be `clean`.
    #[track_caller]
    fn accepted(&self, bytes: &[u8], clean: bool, when: &str) {
        let path = self.path("checked");
        let _ = std::fs::remove_file(&path);
        write_sparse(&path, bytes);
        let (code, value) = qemu_check(&path).unwrap();
        assert!(code == 0 || code == 3 && !clean, "{when}: {value}");
    }
}

fn layer(bytes: &[u8]) -> Result<Qcow2Layer> {
    Qcow2Layer::open(Arc::new(MemoryStorage::new(bytes.to_vec())), &LayerOptions::default())
}

/// The steps of a resize.
fn resize(bytes: &[u8], resize: &Resize<'_>) -> Result<Vec<Step>> {
    let mut patch = Recorded::default();
    resize.run(&layer(bytes)?, &Checking::new(), &mut patch)?;
    Ok(patch.0)
}

fn after(bytes: &[u8], steps: &[Step]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    steps.iter().for_each(|step| apply(&mut bytes, step));
    bytes
}

/// What is left when the old things are given free.
fn freed(bytes: &[u8]) -> Vec<u8> {
    after(bytes, &repair(Q, bytes, RepairScope::Leaks).1)
}

/// The states that a stop can leave: after each write, and with only one of those since the last
/// barrier; of writes that do the same one after the other, the first.
fn states(before: &[u8], steps: &[Step]) -> Vec<(String, Vec<u8>)> {
    let (mut so_far, mut durable) = (before.to_vec(), before.to_vec());
    let (mut states, mut last) = (Vec::new(), "");
    for (number, step) in steps.iter().enumerate() {
        let Step::Write { what, .. } = step else {
            durable.clone_from(&so_far);
            last = "";
            continue;
        };
        if *what == last {
            apply(&mut so_far, step);
            continue;
        }
        last = what;
        let mut alone = durable.clone();
        apply(&mut alone, step);
        apply(&mut so_far, step);
        states.push((format!("only step {number}, {step:.80?}"), alone));
        states.push((format!("after step {number}, {step:.80?}"), so_far.clone()));
    }
    assert!(matches!(steps.last(), None | Some(Step::Barrier)), "the end is not on its medium");
    states
}

/// Resizes, and sees what any stop leaves; gives the image with what is old given free.
#[track_caller]
fn resized(lab: &Lab, before: &[u8], to: &Resize<'_>, size: u64, name: &str) -> Vec<u8> {
    let old = lab.content(before, None);
    let snapshots: Vec<_> = {
        let image = common::repair::image(Q, before);
        image.layer().describe().unwrap().snapshots.into_iter().map(|found| found.id).collect()
    };
    let held: Vec<_> = snapshots.iter().map(|id| lab.content(before, Some(id))).collect();
    let steps = resize(before, to).unwrap_or_else(|error| panic!("{name}: {error}"));
    let done = after(before, &steps);
    let mut new = old.clone();
    new.resize(size as usize, 0);
    for (how, bytes) in
        states(before, &steps).into_iter().chain([("done".to_owned(), done.clone())])
    {
        let when = format!("{name}: {how}");
        let report = check(Q, &bytes);
        assert_eq!((report.corruptions, report.check_errors), (0, 0), "{when}: {report:?}");
        if how.starts_with("after") {
            lab.accepted(&bytes, false, &when);
        }
        let now = lab.content(&bytes, None);
        assert!(now == old || now == new, "{when}: other content, {} bytes", now.len());
        for (id, held) in snapshots.iter().zip(&held) {
            assert!(lab.content(&bytes, Some(id)) == *held, "{when}: another snapshot");
        }
    }
    assert!(lab.content(&done, None) == new, "{name}: other content");
    let done = freed(&done);
    lab.accepted(&done, true, name);
    assert!(check(Q, &done).is_clean(), "{name}");
    assert!(lab.content(&done, None) == new, "{name}: other content");
    for (id, held) in snapshots.iter().zip(&held) {
        assert!(lab.content(&done, Some(id)) == *held, "{name}: another snapshot");
    }
    done
}

/// The options of images, a size, and what is written; each size is no whole number of clusters.
const IMAGES: &[(&str, &str, &[&str])] = &[
    ("-o compat=0.10", "200704", &["write -P 1 0 200704"]),
    ("-o cluster_size=512", "70144", &["write -P 2 1000 60000"]),
    ("-o cluster_size=512,refcount_bits=64", "70144", &["write -P 3 0 70144"]),
    ("-o cluster_size=512,refcount_bits=1", "70144", &["write -P 4 0 70144"]),
    ("-o refcount_bits=2,lazy_refcounts=on", "100352", &["write -P 5 0 90000"]),
    ("-o cluster_size=2M", "4195328", &["write -P 6 4M 512"]),
    (
        "-o extended_l2=on,cluster_size=16k",
        "50688",
        &["write -P 7 0 3000", "write -P 8 49000 1000"],
    ),
    ("-o compression_type=zstd", "100352", &["write -c -P 9 0 64k", "write -c -P 9 64k 34816"]),
    ("", "100352", &["write -P 1 0 100352", "write -z 64k 34816"]),
    ("-o preallocation=metadata", "100352", &[]),
];

#[test]
fn disks_grow_and_shrink_and_grow_again() {
    let Some(lab) = Lab::new() else { return };
    for (options, size, writes) in IMAGES {
        let start = lab.make(options, size, writes);
        let size: u64 = size.parse().unwrap();
        let mut bytes = start;
        // one sector more, a whole table more, all but one cluster less, nearly all away, and back
        for to in [size + 512, size + (3 << 20), size + 66_048, 1536, size] {
            let name = format!("{options}, {size} to {to}");
            bytes = resized(&lab, &bytes, &Resize::new(to).shrink(true), to, &name);
        }
        let gone = lab.content(&bytes, None).split_off(1536);
        assert!(gone.iter().all(|&byte| byte == 0), "{options}: what was cut off is there again");
    }
}

#[test]
fn a_table_that_needs_a_new_place_and_new_counts_gets_them() {
    let Some(lab) = Lab::new() else { return };
    for (options, to) in [
        ("-o cluster_size=512", 1 << 30),
        ("-o cluster_size=512,refcount_bits=64", 3 << 30),
        ("-o cluster_size=512,refcount_bits=1", 5 << 30),
        ("-o compat=0.10,cluster_size=512", 40 << 30),
    ] {
        let before = lab.make(options, "1M", &["write -P 3 0 1M"]);
        let steps = resize(&before, &Resize::new(to)).unwrap();
        let what = |wanted: &str| {
            steps
                .iter()
                .any(|step| matches!(step, Step::Write { what, .. } if what.contains(wanted)))
        };
        assert!(what("write the L1 table anew") && what("write a new refcount block"), "{options}");
        assert!(what("have the header name the new refcount table"), "{options}");
        let mut so_far = before.clone();
        for (number, step) in steps.iter().enumerate() {
            apply(&mut so_far, step);
            // what is not named yet does not matter; so the last steps only
            if number + 12 > steps.len() {
                let report = check(Q, &so_far);
                assert_eq!(
                    (report.corruptions, report.check_errors),
                    (0, 0),
                    "{options} {step:.80?}"
                );
            }
        }
        let done = freed(&so_far);
        lab.accepted(&done, true, options);
        write_sparse(&lab.path("ours"), &done);
        write_sparse(&lab.path("theirs"), &before);
        lab.qemu(&format!("resize -q theirs {to}"));
        lab.qemu("compare -q ours theirs");
        let size = OpenOptions::new().open(lab.path("ours")).unwrap().size();
        assert_eq!(size, to);
    }
}

#[test]
fn snapshots_keep_their_sizes_and_bytes() {
    let Some(lab) = Lab::new() else { return };
    for options in ["", "-o cluster_size=512", "-o extended_l2=on,cluster_size=16k"] {
        lab.make(options, "100352", &["write -P 1 0 100352"]);
        lab.qemu("snapshot -c one image");
        let mut bytes = lab.write(&["write -P 2 0 40000"]);
        for to in [512, 100_352, 4 << 20, 66_048] {
            let name = format!("{options} with a snapshot to {to}");
            bytes = resized(&lab, &bytes, &Resize::new(to).shrink(true), to, &name);
        }
    }
}

#[test]
fn a_backing_file_shows_nothing_behind_the_old_end() {
    let Some(lab) = Lab::new() else { return };
    std::fs::write(lab.path("base"), vec![0xbb; 3 << 20]).unwrap();
    let base = OpenOptions::new().format(Format::Raw).open(lab.path("base")).unwrap();
    for options in ["", "-o cluster_size=512", "-o extended_l2=on,cluster_size=16k"] {
        for writes in [&[][..], &["write -P 1 100000 352"]] {
            let options = format!("{options} -b base -F raw");
            let before = lab.make(&options, "100352", writes);
            for to in [100_864, 2 << 20, 5 << 20] {
                let name = format!("{options} {writes:?} to {to}");
                let to_size = Resize::new(to).backing(&base);
                let ours = resized(&lab, &before, &to_size, to, &name);
                write_sparse(&lab.path("ours"), &ours);
                std::fs::write(lab.path("theirs"), &before).unwrap();
                lab.qemu(&format!("resize -q theirs {to}"));
                lab.qemu("compare -q ours theirs");
            }
            // what is cut off does not come back, and the backing file's bytes do not either
            let shorter = resized(&lab, &before, &Resize::new(1024).shrink(true), 1024, &options);
            let back = resized(&lab, &shorter, &Resize::new(9216).backing(&base), 9216, &options);
            assert!(lab.content(&back, None)[1024..].iter().all(|&byte| byte == 0), "{options}");
            let error = resize(&before, &Resize::new(1 << 20)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
    }
    // version 2 has no zeros; where none are needed it grows
    let before = lab.make("-o compat=0.10 -b base -F raw", "100352", &[]);
    let within = resized(&lab, &before, &Resize::new(131_072).backing(&base), 131_072, "version 2");
    let error = resize(&within, &Resize::new(1 << 20).backing(&base)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

/// An image may have clusters behind the end of its disk: they are none of the bytes that it gains.
#[test]
fn what_lies_behind_the_end_does_not_show_when_the_disk_grows() {
    let Some(lab) = Lab::new() else { return };
    for options in ["", "-o cluster_size=512", "-o compat=0.10"] {
        let mut bytes = lab.make(options, "1M", &["write -P 7 0 1M"]);
        bytes[24..32].copy_from_slice(&100_352_u64.to_be_bytes());
        assert!(check(Q, &bytes).is_clean());
        resized(&lab, &bytes, &Resize::new(3 << 20), 3 << 20, options);
    }
}

#[test]
fn a_bit_that_nobody_knows_is_taken_off() {
    let Some(lab) = Lab::new() else { return };
    let mut bytes = lab.make("", "1M", &[]);
    put64(&mut bytes, 88, 1 << 63);
    let done = resized(&lab, &bytes, &Resize::new(2 << 20), 2 << 20, "an unknown bit");
    assert_eq!(be64(&done, 88), 0);
}

fn set32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[test]
fn what_is_not_whole_or_not_kept_up_is_refused_before_anything_is_written() {
    let Some(lab) = Lab::new() else { return };
    let plain = lab.make("", "1M", &["write -P 1 0 1M"]);
    let changed = |how: fn(&mut Vec<u8>)| {
        let mut bytes = plain.clone();
        how(&mut bytes);
        bytes
    };
    let with = |make: &dyn Fn()| {
        lab.make("", "1M", &["write -P 1 0 1M"]);
        make();
        std::fs::read(lab.path("image")).unwrap()
    };
    let old = {
        lab.make("-o compat=0.10", "1M", &[]);
        lab.qemu("snapshot -c one image");
        std::fs::read(lab.path("image")).unwrap()
    };
    let cases: &[(&str, Vec<u8>, u64, ErrorKind)] = &[
        ("shorter", plain.clone(), 512, ErrorKind::InvalidInput),
        ("no sectors", plain.clone(), (2 << 20) + 1, ErrorKind::InvalidInput),
        ("nothing", plain.clone(), 0, ErrorKind::InvalidInput),
        ("too long a table", plain.clone(), 3 << 60, ErrorKind::LimitExceeded),
        ("dirty", changed(|b| put64(b, 72, 1)), 2 << 20, ErrorKind::Corrupt),
        ("corrupt", changed(|b| put64(b, 72, 2)), 2 << 20, ErrorKind::Corrupt),
        ("a wrong flag", changed(|b| set32(b, 0x30000, 0)), 2 << 20, ErrorKind::Corrupt),
        ("a wrong count", changed(|b| set32(b, 0x20000, 0)), 2 << 20, ErrorKind::Corrupt),
        ("cut off", changed(|b| b.truncate(b.len() - 512)), 2 << 20, ErrorKind::Corrupt),
        ("encrypted", changed(|b| set32(b, 32, 1)), 2 << 20, ErrorKind::Unsupported),
        ("a bitmap", with(&|| lab.qemu("bitmap --add image b")), 2 << 20, ErrorKind::Unsupported),
        ("a snapshot in version 2", old, 2 << 20, ErrorKind::Unsupported),
    ];
    for (name, bytes, size, kind) in cases {
        let error = resize(bytes, &Resize::new(*size)).unwrap_err();
        assert_eq!(error.kind(), *kind, "{name}: {error}");
    }
    // what is not all of an image would be taken for leaks
    lab.make("", "1M", &["write -P 1 0 1M"]);
    lab.qemu("snapshot -c one image");
    let bytes = std::fs::read(lab.path("image")).unwrap();
    let mut options = LayerOptions::default();
    for (disk_only, snapshot) in [(true, None), (false, Some(b"one".to_vec()))] {
        (options.disk_only, options.snapshot) = (disk_only, snapshot);
        let storage = Arc::new(MemoryStorage::new(bytes.clone()));
        let part = Qcow2Layer::open(storage, &options).unwrap();
        let mut patch = Recorded::default();
        let done = Resize::new(2 << 20).run(&part, &Checking::new(), &mut patch);
        assert_eq!(done.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(patch.0.is_empty());
    }
    let mut limits = Limits::default();
    limits.max_virtual_size = 1 << 30;
    let error = resize(&plain, &Resize::new(2 << 30).limits(limits)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    // leaks are no damage, and the same size is nothing to do
    let leaking = changed(|b| {
        let end = b.len();
        b.resize(end + 65_536, 1);
        b[0x20000 + end / 65_536 * 2 + 1] = 1;
    });
    assert_eq!(check(Q, &leaking).leaks, 1);
    let done = resized(&lab, &leaking, &Resize::new(2 << 20), 2 << 20, "leaking");
    assert!(resize(&done, &Resize::new(2 << 20)).unwrap().is_empty());
}

/// What a disk holds, and its snapshots by identifier.
type Held = (Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

#[track_caller]
fn held(lab: &Lab, bytes: &[u8]) -> Held {
    let image = common::repair::image(Q, bytes);
    let snapshots = image.layer().describe().unwrap().snapshots.into_iter();
    let of = |id: Vec<u8>| (id.clone(), lab.content(bytes, Some(&id)));
    (lab.content(bytes, None), snapshots.map(|found| of(found.id)).collect())
}

/// Changes the snapshots, and sees what any stop leaves; gives the image with what is old given free.
#[track_caller]
fn changed(lab: &Lab, before: &[u8], change: &SnapshotChange, name: &str) -> Vec<u8> {
    let mut patch = Recorded::default();
    let done = change.run(&layer(before).unwrap(), &Checking::new(), &mut patch);
    done.unwrap_or_else(|error| panic!("{name}: {error}"));
    let steps = patch.0;
    let done = after(before, &steps);
    let (old, new) = (held(lab, before), held(lab, &done));
    for (how, bytes) in states(before, &steps) {
        let when = format!("{name}: {how}");
        let report = check(Q, &bytes);
        let harmless =
            [Code::CopiedFlag, Code::LeakedCluster, Code::InternalSnapshots, Code::CheckError];
        let worse = report.codes.iter().find(|code| !harmless.contains(code));
        assert_eq!(worse, None, "{when}: {report:?}");
        let now = held(lab, &bytes);
        assert!(now == old || now == new, "{when}: other content");
        let mended = after(&bytes, &repair(Q, &bytes, RepairScope::All).1);
        assert!(check(Q, &mended).is_clean() && held(lab, &mended) == now, "{when}, then repaired");
    }
    let done = freed(&done);
    lab.accepted(&done, true, name);
    assert!(check(Q, &done).is_clean(), "{name}");
    assert!(held(lab, &done) == new, "{name}: other content when all is done");
    done
}

fn create(name: &str) -> SnapshotChange {
    SnapshotChange::Create { name: name.into(), date_sec: 1_700_000_000, date_nsec: 5 }
}

#[test]
fn snapshots_are_made_applied_and_given_up() {
    let Some(lab) = Lab::new() else { return };
    for (options, writes) in [
        ("-o compat=0.10", "write -P 1 0 100k"),
        ("-o cluster_size=512", "write -P 1 0 70k"),
        ("-o cluster_size=512,refcount_bits=64", "write -P 1 0 70k"),
        ("-o refcount_bits=2", "write -P 1 1k 100k"),
        ("-o extended_l2=on,cluster_size=16k", "write -P 1 1k 3k"),
        ("", "write -c -P 1 64k 64k"),
    ] {
        let empty = lab.make(options, "200k", &[]);
        let name = |what: &str| format!("{options}: {what}");
        let bytes = changed(&lab, &empty, &create("empty"), &name("create"));
        std::fs::write(lab.path("image"), &bytes).unwrap();
        let bytes = lab.write(&[writes]);
        let bytes = changed(&lab, &bytes, &create("full"), &name("create another"));
        // qemu-img knows both, and what it writes now is not theirs
        std::fs::write(lab.path("image"), &bytes).unwrap();
        let list = lab.run("qemu-img", &["snapshot", "-l", "image"]).1;
        for line in ["1       empty", "2       full", "2023-11-14"] {
            assert!(list.contains(line), "{options}: {list}");
        }
        let (_, before) = held(&lab, &bytes);
        let bytes = lab.write(&["write -P 9 512 150k", "write -z 64k 64k"]);
        lab.accepted(&bytes, true, &name("written to by qemu-io"));
        let (active, now) = held(&lab, &bytes);
        assert!(now == before && active != now[1].1, "{options}: a snapshot was written to");
        lab.qemu("convert -l full -O raw image full");
        assert!(std::fs::read(lab.path("full")).unwrap() == now[1].1, "{options}");

        let back = changed(&lab, &bytes, &SnapshotChange::Apply(b"full".to_vec()), &name("apply"));
        assert!(held(&lab, &back) == (now[1].1.clone(), now.clone()), "{options}: other content");
        let first = SnapshotChange::Delete(b"1".to_vec());
        let bytes = changed(&lab, &back, &first, &name("delete"));
        assert!(held(&lab, &bytes) == (now[1].1.clone(), now[1..].to_vec()), "{options}");
        let bytes = changed(&lab, &bytes, &create("third"), &name("create a third"));
        std::fs::write(lab.path("image"), &bytes).unwrap();
        // what is left is qemu-img's to work with
        lab.qemu("snapshot -d full image");
        lab.qemu("snapshot -a third image");
        let bytes = std::fs::read(lab.path("image")).unwrap();
        let bytes =
            changed(&lab, &bytes, &SnapshotChange::Delete(b"third".to_vec()), &name("last"));
        assert!(held(&lab, &bytes) == (now[1].1.clone(), Vec::new()), "{options}");
        assert_eq!(be64(&bytes, 64), 0);
    }
}

#[test]
fn a_snapshot_brings_its_size_back() {
    let Some(lab) = Lab::new() else { return };
    let bytes = lab.make("-o cluster_size=512", "100352", &["write -P 1 0 100352"]);
    let bytes = changed(&lab, &bytes, &create("long"), "create");
    let shorter = resized(&lab, &bytes, &Resize::new(1024).shrink(true), 1024, "shorter");
    let back = changed(&lab, &shorter, &SnapshotChange::Apply(b"long".to_vec()), "apply");
    assert_eq!(held(&lab, &back), held(&lab, &bytes));
}

#[test]
fn snapshots_that_cannot_be_are_refused_before_anything_is_written() {
    let Some(lab) = Lab::new() else { return };
    let narrow = lab.make("-o refcount_bits=1", "1M", &["write 0 64k"]);
    let plain = lab.make("", "1M", &["write 0 64k"]);
    let mut damaged = plain.clone();
    set32(&mut damaged, 0x20000, 0);
    lab.qemu("bitmap --add image b");
    lab.qemu("snapshot -c one image");
    let marked = std::fs::read(lab.path("image")).unwrap();
    let missing = SnapshotChange::Delete(b"nosuch".to_vec());
    for (bytes, change, kind) in [
        (&narrow, create("x"), ErrorKind::LimitExceeded),
        (&plain, create(&"x".repeat(256)), ErrorKind::InvalidInput),
        (&damaged, create("x"), ErrorKind::Corrupt),
        (&plain, missing, ErrorKind::InvalidInput),
        (&marked, SnapshotChange::Apply(b"one".to_vec()), ErrorKind::Unsupported),
    ] {
        let mut patch = Recorded::default();
        let done = change.run(&layer(bytes).unwrap(), &Checking::new(), &mut patch);
        let error = done.unwrap_err();
        assert!(error.kind() == kind && patch.0.is_empty(), "{change:?}: {error}");
    }
}
