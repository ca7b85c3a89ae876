//! Images in archives and compressed files, made by the programs that people make them with.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::{Path, PathBuf};

use common::*;
use serde_json::Value;

/// A raw disk: a partition table, and data with holes between.
fn disk() -> Vec<u8> {
    let mut disk = vec![0u8; 3 << 20];
    disk[446 + 4] = 0x83;
    disk[446 + 8] = 1;
    disk[446 + 12] = 100;
    disk[510..512].copy_from_slice(b"\x55\xaa");
    for (start, length) in [(4096, 5000), (700_000, 300_000), (2 << 20, 100), ((3 << 20) - 7, 7)] {
        for (index, byte) in disk[start..start + length].iter_mut().enumerate() {
            *byte = ((start + index) * 31 % 253) as u8 + 1;
        }
    }
    disk
}

/// A folder with `disk.raw`, which is sparse.
struct Made {
    dir: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_sparse(&dir.path().join("disk.raw"), &disk());
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Runs a program in the folder; its output is the file `to`, if one is named.
    fn run(&self, program: &str, args: &[&str], to: &str) {
        let output = output_of(self.dir.path(), program, args);
        if !to.is_empty() {
            self.write(to, &output);
        }
    }

    /// What a conversion of `name` writes.
    #[track_caller]
    fn converted(&self, name: &str, options: &[&str]) -> Vec<u8> {
        let (from, to) = (self.text(name), self.text("out.raw"));
        let ran = diskimage(["convert", &from, &to].iter().chain(options));
        assert_eq!(ran.code, Some(0), "{name}: {ran:?}");
        let bytes = std::fs::read(&to).unwrap();
        std::fs::remove_file(&to).unwrap();
        bytes
    }
}

fn small_qcow2() -> &'static Fixture {
    let fits = |f: &&Fixture| {
        f.format == "qcow2"
            && f.parents.is_empty()
            && f.virtual_size <= 16 << 20
            && f.expect == "ok"
            && f.bytes().len() < 1 << 20
            && f.guest_sha256.is_some()
    };
    fixtures().iter().find(fits).unwrap()
}

#[test]
fn every_format_of_tar_is_read_in_place() {
    if !has("tar") {
        return;
    }
    let made = Made::new();
    let long = format!("{}/{}", "folder".repeat(12), "name".repeat(20));
    std::fs::create_dir(made.path(&"folder".repeat(12))).unwrap();
    made.write(&long, b"just a file");
    let kinds: &[&[&str]] = &[
        &["--format=v7"],
        &["--format=ustar"],
        &["--format=oldgnu"],
        &["--format=gnu"],
        &["--format=posix"],
        &["--format=oldgnu", "-S"],
        &["--format=gnu", "-S"],
        &["--format=posix", "-S", "--sparse-version=0.0"],
        &["--format=posix", "-S", "--sparse-version=0.1"],
        &["--format=posix", "-S", "--sparse-version=1.0"],
    ];
    for kind in kinds {
        let names: &[&str] =
            if kind[0] == "--format=v7" { &["disk.raw"] } else { &[&long, "disk.raw"] };
        made.run("tar", &[&["-cf", "x.tar"], *kind, names].concat(), "");
        assert!(made.converted("x.tar", &[]) == disk(), "{kind:?}");
        assert!(made.converted("x.tar#disk.raw", &[]) == disk(), "{kind:?}");
        assert!(made.converted("x.tar#./disk.raw", &["--sandbox"]) == disk(), "{kind:?}");
        if names.len() > 1 {
            assert_eq!(made.converted(&format!("x.tar#{long}"), &["-f", "raw"]), b"just a file");
        }
        let info = diskimage(["info", "--output", "json", &made.text("x.tar")]).ok().json();
        let members = info["members"].as_array().unwrap();
        assert_eq!(members.len(), names.len(), "{info}");
        let member = members.last().unwrap();
        assert_eq!((&member["name"], &member["size"]), (&"disk.raw".into(), &(3 << 20).into()));
        assert_eq!(member["sparse"], Value::Bool(kind.contains(&"-S")));
        assert_eq!(info["disks"][0]["format"], "raw", "{info}");
        // what is a hole in the archive is one of the disk
        if kind.contains(&"-S") {
            let map = diskimage(["map", "--output", "json", &made.text("x.tar")]).ok().json();
            let extents = map.as_array().unwrap();
            assert!(extents.iter().any(|e| e["zero"] == Value::Bool(true)), "{map}");
        }
    }
}

#[test]
fn archives_of_other_programs_are_read_too() {
    if !has("python3") {
        return;
    }
    let made = Made::new();
    for format in ["USTAR_FORMAT", "GNU_FORMAT", "PAX_FORMAT"] {
        let script = format!(
            "import tarfile\nt=tarfile.open('x.tar','w',format=tarfile.{format})\n\
             t.add('disk.raw')\nt.close()"
        );
        made.run("python3", &["-c", &script], "");
        assert!(made.converted("x.tar", &[]) == disk(), "{format}");
    }
    if has("7z") {
        made.run("7z", &["a", "-ttar", "y.tar", "disk.raw"], "");
        assert!(made.converted("y.tar", &[]) == disk());
        // and it reads what we read in the same place
        let theirs = output_of(made.dir.path(), "7z", &["e", "-so", "x.tar", "disk.raw"]);
        assert!(theirs == disk());
    }
}

#[test]
fn one_of_several_disks_has_to_be_named() {
    if !has("tar") {
        return;
    }
    let made = Made::new();
    let qcow2 = small_qcow2();
    made.write("a#b.qcow2", &qcow2.bytes());
    made.run("tar", &["-cf", "x.tar", "disk.raw", "a#b.qcow2"], "");
    let (tar, out) = (made.text("x.tar"), made.text("out.raw"));
    let several = diskimage(["convert", &tar, &out]);
    several.refused(1, &made.path("x.tar"), &["'disk.raw', 'a#b.qcow2'", "FILE#MEMBER"]);
    let none = diskimage(["convert", &made.text("x.tar#none"), &out]);
    none.refused(1, &made.path("x.tar"), &["no member 'none'", "'disk.raw'"]);
    let content = made.converted("x.tar#a#b.qcow2", &[]);
    assert_eq!(Some(sha256(&content)), qcow2.guest_sha256);
    // a file of that name wins
    made.write("x.tar#a", &disk());
    assert!(made.converted("x.tar#a", &[]) == disk());
    std::fs::remove_file(made.path("x.tar#a")).unwrap();
    let twice = diskimage(["compare", &made.text("x.tar#disk.raw"), &made.text("disk.raw")]);
    assert_eq!(twice.code, Some(0), "{twice:?}");
    let check = diskimage(["check", &made.text("x.tar#a#b.qcow2")]);
    assert_eq!(check.code, Some(0), "{check:?}");
    let repair = diskimage(["check", "--repair", "all", &made.text("x.tar#a#b.qcow2")]);
    assert!(matches!(repair.code, Some(0 | 1)), "{repair:?}");
    assert!(!made.path("out.raw").exists());
}

/// A compressor, and what it is called with.
const COMPRESSORS: &[(&str, &[&str])] = &[
    ("gzip", &["-c"]),
    ("xz", &["-c", "-1"]),
    ("xz", &["-c", "-1", "-T2", "--block-size=500000"]),
    ("xz", &["-c", "-1", "--check=sha256"]),
    ("xz", &["-c", "--x86", "--lzma2=preset=1"]),
    ("zstd", &["-c", "-q"]),
    ("zstd", &["-c", "-q", "--long=24", "--check"]),
    // begins with a frame to pass over
    ("pzstd", &["-c", "-q", "-p2"]),
    ("bzip2", &["-c"]),
];

#[test]
fn compressed_disks_are_written_as_they_are_decoded() {
    let made = Made::new();
    let sum = sha256(&disk());
    for (program, options) in COMPRESSORS.iter().filter(|(program, _)| has(program)) {
        made.run(program, &[options, &["disk.raw"][..]].concat(), "x.z");
        let path = made.text("x.z");
        let out = made.text("out.raw");
        diskimage(["convert", &path, &out]).ok();
        assert!(std::fs::read(&out).unwrap() == disk(), "{program} {options:?}");
        assert!(allocated(&made.path("out.raw")) < 1 << 20, "its holes are holes");
        let told = diskimage(["checksum", &path]).ok();
        assert!(told.text().starts_with(&sum), "{program} {options:?}");
        let told = diskimage(["convert", "--checksum", "sha256", &path, &out]).ok();
        assert!(told.text().contains(&sum), "{program} {options:?}");
        // by position it takes a temporary file, which is told
        let compared = diskimage(["compare", "--sandbox", &path, &made.text("disk.raw")]);
        assert_eq!(compared.code, Some(0), "{compared:?}");
        assert!(compared.stderr.contains("spilled 3145728 bytes"), "{compared:?}");
        let stdout = diskimage(["convert", &path, "-"]);
        assert!(stdout.stdout == disk(), "{program}");
        let probe = diskimage(["probe", &path]).ok();
        assert!(probe.text().contains("inside: raw disk: mbr"), "{}", probe.text());
        let glance = diskimage(["probe", "--glance", &path]).ok();
        let words = "disk_format raw, container_format compressed";
        assert!(glance.text().contains(words), "{}", glance.text());
        let info = diskimage(["info", "--output", "json", &path]).ok().json();
        assert_eq!(info["format-specific"]["data"]["inside"][0], "mbr");
    }
}

#[test]
fn several_streams_are_one_file() {
    let made = Made::new();
    let all = disk();
    made.write("a", &all[..1_000_000]);
    made.write("b", &all[1_000_000..]);
    for (program, options) in COMPRESSORS.iter().filter(|(program, _)| has(program)) {
        made.run(program, &[options, &["a"][..]].concat(), "x.z");
        let mut both = std::fs::read(made.path("x.z")).unwrap();
        made.run(program, &[options, &["b"][..]].concat(), "x.z");
        both.extend(std::fs::read(made.path("x.z")).unwrap());
        made.write("x.z", &both);
        for threads in ["1", "4"] {
            let converted = made.converted("x.z", &["-m", threads]);
            assert!(converted == all, "{program} {options:?}");
        }
        for (change, what) in
            [(&both[..both.len() - 5], "cut off"), (&[&both[..], b"garbage"].concat(), "garbage")]
        {
            made.write("bad.z", change);
            let ran = diskimage(["convert", &made.text("bad.z"), &made.text("out.raw")]);
            assert_eq!(ran.code, Some(1), "{program} {what}: {ran:?}");
            assert!(!made.path("out.raw").exists(), "{program} {what}");
            let ran = diskimage(["checksum", &made.text("bad.z")]);
            assert_eq!(ran.code, Some(1), "{program} {what}: {ran:?}");
        }
    }
}

#[test]
fn an_image_in_a_compressed_file_is_judged_without_a_temporary_file_and_read_with_one() {
    if !has("gzip") {
        return;
    }
    let made = Made::new();
    let qcow2 = small_qcow2();
    made.write("q.qcow2", &qcow2.bytes());
    made.run("gzip", &["-k", "q.qcow2"], "");
    let path = made.text("q.qcow2.gz");
    let content = made.converted("q.qcow2.gz", &[]);
    assert_eq!(Some(sha256(&content)), qcow2.guest_sha256);
    let none = diskimage(["convert", "--max-spill", "0", &path, &made.text("out.raw")]);
    none.refused(1, &made.path("q.qcow2.gz"), &["temporary file", "--max-spill"]);
    let little = diskimage(["convert", "--max-spill", "4096", &path, &made.text("out.raw")]);
    little.refused(1, &made.path("q.qcow2.gz"), &["4096 bytes", "--max-spill"]);
    // judged: by the policy on both
    let judge = |args: &[&str]| {
        let ran = diskimage(["inspect", "--output", "json"].iter().chain(args));
        (ran.code, ran.json())
    };
    let (code, strict) = judge(&[&path]);
    assert_eq!((code, &strict["reasons"][0]["rule"]), (Some(3), &"format-not-allowed".into()));
    assert_eq!(strict["inside"][0]["format"], "qcow2", "{strict}");
    assert_eq!(strict["inside"][0]["virtual-size"], qcow2.virtual_size);
    made.write("p.toml", b"base = 'openstack'\nformats = ['gzip', 'qcow2']\n");
    let policy = made.text("p.toml");
    let (code, allowed) = judge(&["--policy", &policy, &path]);
    assert_eq!(code, Some(0), "{allowed}");
    made.write("p.toml", b"base = 'openstack'\nformats = ['gzip', 'vmdk']\n");
    let (code, refused) = judge(&["--policy", &policy, &path]);
    assert_eq!(code, Some(3), "{refused}");
    assert!(refused["reasons"][0]["sentence"].as_str().unwrap().starts_with("Inside: "));
    let (code, declared) = judge(&["--policy", "permissive", "--declared", "qcow2", &path]);
    assert_eq!((code, &declared["reasons"][0]["rule"]), (Some(3), &"declared-mismatch".into()));
    // damage is no pass
    let mut bytes = std::fs::read(made.path("q.qcow2.gz")).unwrap();
    let at = bytes.len() - 6;
    bytes[at] ^= 1;
    made.write("q.qcow2.gz", &bytes);
    let (code, damaged) = judge(&["--policy", "permissive", &path]);
    assert_eq!((code, &damaged["reasons"][0]["rule"]), (Some(3), &"unreadable".into()));
    // of what cannot be decoded at all, nothing is said
    made.write("q.qcow2.gz", &bytes[..12]);
    let (code, nothing) = judge(&["--policy", "permissive", &path]);
    assert_eq!((code, &nothing["reasons"][0]["rule"]), (Some(3), &"unreadable".into()));
    assert_eq!(nothing["inside"], Value::Null, "{nothing}");
}

#[test]
fn an_upload_that_is_compressed_is_decoded_as_it_comes() {
    if !has("gzip") {
        return;
    }
    let made = Made::new();
    made.write("q.qcow2", &small_qcow2().bytes());
    made.run("gzip", &["-k", "q.qcow2"], "");
    let bytes = std::fs::read(made.path("q.qcow2.gz")).unwrap();
    let args =
        ["inspect", "--policy", "permissive", "--checksum", "sha256", "--output", "json", "-"];
    let mut command = command(args);
    command.stdin(std::fs::File::open(made.path("q.qcow2.gz")).unwrap());
    let output = command.output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &told["format"]), (Some(0), &"gzip".into()), "{told}");
    assert_eq!(told["inside"][0]["format"], "qcow2");
    assert_eq!(told["checksums"]["sha256"], sha256(&bytes));
    assert_eq!(told["bytes-read"], bytes.len());
}

#[test]
fn a_fixed_vhd_in_a_compressed_file_is_not_taken_for_a_raw_disk() {
    let fits = |f: &&Fixture| {
        f.format == "vpc"
            && f.expect == "ok"
            && f.virtual_size <= 16 << 20
            && f.parents.is_empty()
            && !f.bytes().starts_with(b"conectix")
            && f.guest_sha256.is_some()
    };
    let Some(vhd) = fixtures().iter().find(fits) else { return skipped("no fixed VHD") };
    if !has("gzip") {
        return;
    }
    let made = Made::new();
    // with a partition table it looks like a raw disk until its end is seen
    let mut bytes = vhd.bytes();
    bytes[446 + 4] = 0x83;
    bytes[446 + 8] = 1;
    bytes[446 + 12] = 1;
    bytes[510..512].copy_from_slice(b"\x55\xaa");
    made.write("d.vhd", &bytes);
    let plain = made.converted("d.vhd", &[]);
    made.run("gzip", &["d.vhd"], "");
    assert!(made.converted("d.vhd.gz", &[]) == plain);
    let sum = diskimage(["checksum", &made.text("d.vhd.gz")]);
    assert!(sum.text().starts_with(&sha256(&plain)), "{sum:?}");
}

#[test]
fn an_archive_that_is_compressed_is_read_through() {
    if !has("tar") || !has("gzip") {
        return;
    }
    // as an image for Google's cloud is made
    let made = Made::new();
    made.run("tar", &["--format=oldgnu", "-Sczf", "image.tar.gz", "disk.raw"], "");
    assert!(made.converted("image.tar.gz", &[]) == disk());
    assert!(made.converted("image.tar.gz#disk.raw", &[]) == disk());
    let judged = diskimage(["inspect", "--policy", "permissive", &made.text("image.tar.gz")]);
    // the archive passes by as it is decoded, and each file in it
    assert_eq!(judged.code, Some(0), "{judged:?}");
    for word in ["inside:         tar", "inside:         'disk.raw': raw, 3 MiB"] {
        assert!(judged.text().contains(word), "{word}: {judged:?}");
    }
    judged_as_it_comes(&made, "image.tar.gz");
    made.run("tar", &["-cf", "a.tar", "image.tar.gz"], "");
    assert!(made.converted("a.tar", &[]) == disk());
    assert!(made.converted("a.tar#image.tar.gz#disk.raw", &[]) == disk());
    made.run("tar", &["-cf", "b.tar", "a.tar"], "");
    let deep = diskimage(["convert", &made.text("b.tar"), &made.text("out.raw")]);
    assert_eq!(deep.code, Some(1), "{deep:?}");
    assert!(deep.stderr.contains("more than 3 times"), "{deep:?}");
}

/// The verdict of a file is that of the same bytes in a pipe.
fn judged_as_it_comes(made: &Made, name: &str) -> Value {
    let args = ["inspect", "--policy", "permissive", "--output", "json"];
    let file = diskimage(args.iter().copied().chain([&*made.text(name)]));
    let mut piped = command(args.iter().copied().chain(["--checksum", "sha256", "-"]));
    piped.stdin(std::fs::File::open(made.path(name)).unwrap());
    let piped = piped.output().unwrap();
    assert_eq!(file.code, piped.status.code(), "{name}: {file:?} {piped:?}");
    let (file, piped) = (file.json(), serde_json::from_slice::<Value>(&piped.stdout).unwrap());
    let essence = |told: &Value| {
        let mut told = told.clone();
        // where it lies is a part of these
        let text = told.to_string().replace(&made.text(name), "-");
        told = serde_json::from_str(&text).unwrap();
        for key in ["filename", "file", "bytes-read", "whole", "checksums"] {
            told.as_object_mut().unwrap().remove(key);
        }
        told
    };
    assert_eq!(essence(&file), essence(&piped), "{name}");
    if piped["whole"] == true {
        assert_eq!(piped["checksums"]["sha256"], sha256(&std::fs::read(made.path(name)).unwrap()));
    }
    piped
}

#[test]
fn an_archive_in_a_pipe_is_judged_as_the_file_is() {
    if !has("tar") || !has("gzip") {
        return;
    }
    let (made, vmdk) = (Made::new(), vmdk());
    let bytes = vmdk.bytes();
    made.write("disk1.vmdk", &bytes);
    for (kind, name) in [("--format=oldgnu", "a.tar"), ("--format=posix", "b.tar")] {
        made.run("tar", &[kind, "-Scf", name, "disk.raw", "disk1.vmdk"], "");
        let told = judged_as_it_comes(&made, name);
        assert_eq!(told["inside"][0]["virtual-size"], disk().len(), "{told}");
        assert_eq!(told["inside"][1]["virtual-size"], vmdk.virtual_size, "{told}");
    }
    // a hole that nobody would wait for
    std::fs::File::create(made.path("big.raw")).unwrap().set_len(1 << 42).unwrap();
    made.run("tar", &["--format=oldgnu", "-Scf", "big.tar", "big.raw", "disk.raw"], "");
    assert_eq!(judged_as_it_comes(&made, "big.tar")["inside"][0]["name"], "disk.raw");
    // one that is no disk does not matter, and one that needs another file does
    made.write("README", b"some text\n");
    let child = fixtures().iter().find(|f| f.format == "qcow2" && !f.parents.is_empty()).unwrap();
    made.write("child.qcow2", &child.bytes());
    made.run("tar", &["-cf", "c.tar", "README", "disk1.vmdk"], "");
    assert_eq!(judged_as_it_comes(&made, "c.tar")["inside"][0]["name"], "disk1.vmdk");
    made.run("tar", &["-czf", "d.tar.gz", "disk1.vmdk", "child.qcow2"], "");
    let strict = diskimage(["inspect", "--policy", "openstack", &made.text("d.tar.gz")]);
    assert_eq!(strict.code, Some(3), "{strict:?}");
    assert!(strict.text().contains("Of 'child.qcow2' inside"), "{strict:?}");
    // an OVA: what its description says is compared, and its manifest is read
    for (size, capacity) in
        [(bytes.len() as u64, vmdk.virtual_size), (7, vmdk.virtual_size), (bytes.len() as u64, 512)]
    {
        ova(&made, &ovf(size, capacity), Some("SHA256(vm.ovf)= 00\nnonsense\n"));
        let told = judged_as_it_comes(&made, "x.ova");
        let codes = told["findings"].to_string();
        let wrong = (size, capacity) != (bytes.len() as u64, vmdk.virtual_size);
        assert_eq!(codes.contains("size-mismatch"), wrong, "{told}");
        made.run("gzip", &["-kf", "x.ova"], "");
        judged_as_it_comes(&made, "x.ova.gz");
    }
    // what is cut off is said to be
    let whole = std::fs::read(made.path("x.ova")).unwrap();
    for cut in [300, 700, 2000, whole.len() / 2] {
        made.write("cut.ova", &whole[..cut]);
        judged_as_it_comes(&made, "cut.ova");
    }
}

/// An OVA of two disks, by the texts in it.
fn ova(made: &Made, ovf: &str, manifest: Option<&str>) {
    made.write("vm.ovf", ovf.as_bytes());
    let mut names = vec!["vm.ovf"];
    if let Some(manifest) = manifest {
        made.write("vm.mf", manifest.as_bytes());
        names.push("vm.mf");
    }
    names.push("disk1.vmdk");
    made.run("tar", &[&["--format=ustar", "-cf", "x.ova"][..], &names].concat(), "");
}

fn vmdk() -> &'static Fixture {
    let fits = |f: &&Fixture| {
        f.format == "vmdk"
            && f.expect == "ok"
            && f.parents.is_empty()
            && f.bytes().len() < 1 << 20
            && f.guest_sha256.is_some()
            && f.bytes().starts_with(b"KDMV")
    };
    fixtures().iter().find(fits).unwrap()
}

fn ovf(size: u64, capacity: u64) -> String {
    format!(
        r#"<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References><File ovf:href="disk1.vmdk" ovf:id="f1" ovf:size="{size}"/></References>
<DiskSection><Info/><Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="{capacity}" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
<VirtualSystem ovf:id="vm"><Name>a machine</Name><OperatingSystemSection><Description>Debian</Description></OperatingSystemSection></VirtualSystem></Envelope>"#
    )
}

#[test]
fn an_ova_is_described_verified_and_read() {
    if !has("tar") {
        return;
    }
    let (made, vmdk) = (Made::new(), vmdk());
    let bytes = vmdk.bytes();
    made.write("disk1.vmdk", &bytes);
    let text = ovf(bytes.len() as u64, vmdk.virtual_size);
    let manifest = format!(
        "SHA256(vm.ovf)= {}\nSHA256(disk1.vmdk)= {}\n",
        sha256(text.as_bytes()),
        sha256(&bytes)
    );
    ova(&made, &text, Some(&manifest));
    let path = made.text("x.ova");
    let info = diskimage(["info", "--output", "json", &path]).ok().json();
    let told = &info["format-specific"]["data"];
    assert_eq!((&told["name"], &told["operating-system"]), (&"a machine".into(), &"Debian".into()));
    assert_eq!(told["disks"][0]["capacity"], vmdk.virtual_size);
    assert_eq!(info["disks"][0]["virtual-size"], vmdk.virtual_size, "{info}");
    let codes = |info: &Value| {
        let findings = info["findings"].as_array().unwrap().iter();
        findings.map(|f| f["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(codes(&info), ["ova"], "{info}");
    assert!(diskimage(["info", &path]).ok().text().contains("FILE#MEMBER"));
    assert_eq!(Some(sha256(&made.converted("x.ova", &[]))), vmdk.guest_sha256);
    assert_eq!(Some(sha256(&made.converted("x.ova#disk1.vmdk", &[]))), vmdk.guest_sha256);
    let member = diskimage(["info", "--output", "json", &made.text("x.ova#disk1.vmdk")]).ok();
    assert_eq!(member.json()["format"], "vmdk");
    let probed = diskimage(["probe", &made.text("x.ova#disk1.vmdk")]).ok().text().to_owned();
    assert!(probed.contains("[vmdk]"), "{probed}");
    assert_eq!(diskimage(["check", &path]).code, Some(0));
    let permissive = diskimage(["inspect", "--policy", "permissive", &path]);
    assert_eq!(permissive.code, Some(0), "{permissive:?}");
    let openstack = diskimage(["inspect", "--policy", "openstack", &path]);
    assert_eq!(openstack.code, Some(3), "{openstack:?}");
    // another hash, another size, a file that is not there
    ova(&made, &text, Some(&manifest.replace(&sha256(&bytes), &sha256(b"other"))));
    let checked = diskimage(["check", "--output", "json", &path]);
    assert_eq!(checked.code, Some(2), "{checked:?}");
    assert!(codes(&checked.json()).contains(&"checksum-mismatch".into()), "{checked:?}");
    ova(&made, &text, Some(&format!("{manifest}SHA256(gone.vmdk)= {}\n", sha256(b""))));
    let checked = diskimage(["check", "--output", "json", &path]);
    assert!(codes(&checked.json()).contains(&"missing-member".into()), "{checked:?}");
    ova(&made, &ovf(bytes.len() as u64 + 1, vmdk.virtual_size + 512), None);
    let info = diskimage(["info", "--output", "json", &path]).ok().json();
    assert_eq!(codes(&info), ["ova", "size-mismatch", "size-mismatch"], "{info}");
    ova(&made, &text.replace("disk1.vmdk", "disk2.vmdk"), None);
    let info = diskimage(["info", "--output", "json", &path]).ok().json();
    assert!(codes(&info).contains(&"missing-member".into()), "{info}");
    let chunked =
        text.replace("ovf:href=\"disk1.vmdk\"", "ovf:href=\"d.vmdk\" ovf:chunkSize=\"10\"");
    ova(&made, &chunked, None);
    let refused = diskimage(["convert", &path, &made.text("out.raw")]);
    refused.refused(1, &made.path("x.ova"), &["chunks"]);
}

#[test]
fn many_disks_and_a_manifest_that_repeats_itself_cost_little() {
    if !has("tar") {
        return;
    }
    let made = Made::new();
    made.write("disk1.vmdk", b"x");
    let path = made.text("x.ova");
    let disk = |number: usize| format!(r#"<Disk ovf:diskId="x{number}" ovf:fileRef="f1"/>"#);
    let disks: String = (0..300).map(disk).collect();
    let text = ovf(1, 1);
    ova(&made, &text.replace("</DiskSection>", &format!("{disks}</DiskSection>")), None);
    let info = diskimage(["info", &path]).ok().text().to_owned();
    assert!(info.contains("more than 256 disks"), "{info}");
    let line = format!("SHA256(disk1.vmdk)= {}\n", sha256(b"x"));
    ova(&made, &text, Some(&line.repeat(3)));
    let checked = diskimage(["check", "--output", "json", &path]);
    assert!(checked.text().contains("more than once"), "{checked:?}");
    ova(&made, &text, Some(&line.repeat(2000)));
    let checked = diskimage(["check", "--output", "json", &path]);
    assert!(checked.text().contains("more than 1024 lines"), "{checked:?}");
}

#[test]
fn what_an_image_names_is_a_member_of_its_archive_or_nothing() {
    if !has("tar") {
        return;
    }
    let made = Made::new();
    let descriptor = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
                      createType=\"monolithicFlat\"\nRW 6144 FLAT \"disk-flat.vmdk\" 0\n";
    made.write("disk.vmdk", descriptor.as_bytes());
    made.write("disk-flat.vmdk", &disk());
    made.run("tar", &["-cf", "x.tar", "disk.vmdk", "disk-flat.vmdk"], "");
    std::fs::remove_file(made.path("disk-flat.vmdk")).unwrap();
    let (image, out) = (made.text("x.tar#disk.vmdk"), made.text("out.raw"));
    let denied = diskimage(["convert", &image, &out]);
    denied.refused(1, &made.path("x.tar#disk.vmdk"), &["--allow-external"]);
    assert!(made.converted("x.tar#disk.vmdk", &["--allow-external"]) == disk());
    // a file beside the archive is not in it
    made.write("outside.vmdk", &disk());
    for name in ["outside.vmdk", "../outside.vmdk", &made.text("outside.vmdk")] {
        made.write("disk.vmdk", descriptor.replace("disk-flat.vmdk", name).as_bytes());
        made.run("tar", &["-cf", "x.tar", "disk.vmdk"], "");
        let refused = diskimage(["convert", "--allow-external", &image, &out]);
        refused.refused(1, &made.path("x.tar#disk.vmdk"), &["no member of the same archive"]);
    }
}

#[test]
fn what_is_read_is_never_the_target() {
    if !has("tar") || !has("gzip") {
        return;
    }
    let made = Made::new();
    made.run("tar", &["-cf", "x.tar", "disk.raw"], "");
    made.run("gzip", &["-k", "disk.raw"], "");
    for (image, target) in
        [("x.tar", "x.tar"), ("x.tar#disk.raw", "x.tar"), ("disk.raw.gz", "disk.raw.gz")]
    {
        let before = std::fs::read(made.path(target)).unwrap();
        for option in [&[][..], &["-n"], &["--salvage"]] {
            let (from, to) = (made.text(image), made.text(target));
            let ran = diskimage(["convert", &from, &to].iter().chain(option));
            assert_eq!(ran.code, Some(1), "{image} {option:?}: {ran:?}");
            assert!(std::fs::read(made.path(target)).unwrap() == before, "{image} {option:?}");
        }
    }
}

#[test]
fn a_split_disk_is_read_whole_or_not_at_all() {
    let made = Made::new();
    for (number, part) in disk().chunks(1_000_000).enumerate() {
        made.write(&format!("d.{:03}", number + 1), part);
        made.write(&format!("l.a{}", char::from(b'a' + number as u8)), part);
    }
    for (first, second) in [("d.001", "d.002"), ("l.aa", "l.ab")] {
        let (from, out) = (made.text(first), made.text("out.raw"));
        let alone = diskimage(["convert", &from, &out]);
        alone.refused(1, &made.path(first), &[second, "--join"]);
        assert!(made.converted(first, &["--join"]) == disk());
        assert!(made.converted(first, &["--join", "--sandbox"]) == disk());
        assert_eq!(made.converted(first, &["--join=no"]), disk()[..1_000_000]);
        let info = diskimage(["info", &from]).ok();
        assert!(info.text().contains("[split-part]"), "{info:?}");
        let joined = diskimage(["info", "--join", "--output", "json", &from]).ok().json();
        assert_eq!(joined["virtual-size"], 3 << 20);
        let other = diskimage(["convert", "--join", &made.text(second), &out]);
        other.refused(1, &made.path(second), &[first]);
        std::fs::remove_file(made.path(second)).unwrap();
        let gap = diskimage(["convert", "--join", &from, &out]);
        gap.refused(1, &made.path(first), &[second, "missing"]);
    }
    // the name of an image that is none of a set says nothing
    assert!(made.converted("disk.raw", &[]) == disk());
}

#[test]
fn the_archive_of_the_corpus_is_what_it_is() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/glance");
    let Ok(packed) = std::fs::read(folder.join("testserver.ova.zst")) else {
        return skipped("there is no corpus");
    };
    let made = Made::new();
    made.write("t.ova", &zstd::stream::decode_all(&packed[..]).unwrap());
    let info = diskimage(["info", "--output", "json", &made.text("t.ova")]).ok().json();
    assert_eq!(info["format-specific"]["data"]["disks"][0]["capacity"], 8u64 << 30, "{info}");
    assert_eq!(info["format-specific"]["data"]["operating-system"], "Ubuntu_64");
    // its disk is a file of four bytes
    let refused = diskimage(["convert", &made.text("t.ova"), &made.text("out.raw")]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let glance = diskimage(["probe", "--glance", &made.text("t.ova")]).ok();
    assert!(glance.text().contains("container_format ova"), "{glance:?}");
}
