//! `diskimage compare` beside `qemu-img compare`: the same exit codes and words, but where the peer
//! is wrong.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;

/// A small generator with known output: SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn ours(folder: &Path, args: &[&str]) -> Ran {
    let allow = format!("--allow-external={}", folder.display());
    let mut command = command(["compare", &allow]);
    ran(command.args(args).current_dir(folder))
}

fn theirs(folder: &Path, args: &[&str]) -> Ran {
    ran(Command::new("qemu-img").arg("compare").args(args).current_dir(folder))
}

fn img(folder: &Path, args: &[&str]) {
    output_of(folder, "qemu-img", args);
}

/// Makes an image of these bytes: in any format, compressed or not, or in overlays.
fn make(folder: &Path, name: &str, bytes: &[u8], random: &mut Random) -> &'static str {
    let raw = format!("{name}.raw");
    write_sparse(&folder.join(&raw), bytes);
    let target = folder.join(name);
    let target = target.to_str().unwrap();
    let fixed = ["convert", "-f", "raw", "-O"];
    let convert = |format: &'static str, more: &[&str]| {
        img(folder, &[&fixed[..], &[format], more, &[&raw, target]].concat());
        format
    };
    // other formats cannot hold every size
    let even = bytes.len().is_multiple_of(65_536) && !bytes.is_empty();
    match random.below(if even { 9 } else { 5 }) {
        0 => {
            std::fs::rename(folder.join(&raw), target).unwrap();
            "raw"
        }
        1 => convert("qcow2", &[]),
        2 => convert("qcow2", &["-c", "-o", "cluster_size=4k"]),
        3 => convert("qcow2", &["-S", "0", "-o", "cluster_size=2M"]),
        4 => {
            let below = format!("{name}-below");
            img(folder, &[&fixed[..], &["qcow2", &raw, &below]].concat());
            let create = ["create", "-q", "-f", "qcow2", "-b", &below, "-F", "qcow2", target];
            img(folder, &create);
            // written anew with what is there
            let at = random.below(bytes.len() as u64 / 65_536 + 1) * 65_536;
            let end = (at as usize + 65_536).min(bytes.len());
            if end > at as usize {
                let patch = folder.join("patch");
                std::fs::write(&patch, &bytes[at as usize..end]).unwrap();
                let write = format!("write -s {} {at} {}", patch.display(), end - at as usize);
                output_of(folder, "qemu-io", &["-f", "qcow2", "-c", &write, target]);
            }
            "qcow2"
        }
        5 => convert("vmdk", &["-o", "subformat=monolithicSparse"]),
        6 => convert("vdi", &[]),
        7 => convert("vhdx", &["-o", "subformat=dynamic"]),
        _ => convert("vpc", &["-o", "subformat=dynamic,force_size=on"]),
    }
}

#[test]
fn it_agrees_with_qemu_img_in_a_sweep() {
    if !has("qemu-img") || !has("qemu-io") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(2027);
    let (mut same, mut different) = (0, 0);
    for round in 0..90 {
        let folder = dir.path().join(round.to_string());
        std::fs::create_dir(&folder).unwrap();
        let sizes = [0, 512, 65_536, 200_704, 1 << 20, (3 << 20) + 4096, 6 << 20];
        let size = sizes[random.below(7) as usize];
        let mut a = vec![0_u8; size];
        for _ in 0..random.below(12) {
            let at = random.below(size as u64 + 1) as usize;
            let end = (at + random.below(300_000) as usize).min(size);
            let pattern = random.below(256);
            for (i, byte) in a[at..end].iter_mut().enumerate() {
                *byte = (i as u64 % 97 * pattern / 7) as u8;
            }
        }
        let mut b = a.clone();
        match random.below(4) {
            0 => b.resize(sizes[random.below(7) as usize], 0),
            1 => b.extend(vec![random.below(2) as u8; 65_536]),
            _ => {}
        }
        for _ in 0..random.below(3) {
            if !b.is_empty() {
                let at = random.below(b.len() as u64) as usize;
                b[at] ^= random.below(3) as u8;
            }
        }
        let first = make(&folder, "a", &a, &mut random);
        let second = make(&folder, "b", &b, &mut random);
        let mut wanted = None;
        for threads in ["1", "2", "3", "16"] {
            let args = ["-f", first, "-F", second, "a", "b"];
            let theirs = wanted.get_or_insert_with(|| theirs(&folder, &args));
            let ours = ours(&folder, &[&args[..], &["-m", threads]].concat());
            let about = format!("{round}: {first} {second} by {threads}");
            assert_eq!((ours.code, ours.text()), (theirs.code, theirs.text()), "{about}");
            assert_eq!(ours.stderr, "", "{about}");
        }
        let code = wanted.unwrap().code;
        if code == Some(0) {
            same += 1
        } else {
            different += 1
        }
        // strict: qemu-img also tells apart how its answers about a run are split, so that it may
        // call disks different whose maps say the same; never the other way around
        let args = ["-s", "-f", first, "-F", second, "a", "b"];
        let (ours, theirs) = (ours(&folder, &args), theirs(&folder, &args));
        assert!(ours.code <= theirs.code, "{round} {first} {second}: {ours:?} {theirs:?}");
        if ours.text().contains("size") || theirs.text().contains("size") {
            assert_eq!(ours.text(), theirs.text(), "{round}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
    assert!(same > 20 && different > 20, "{same} {different}");
}

/// Two disks that differ at these places, and one that is longer by zeros.
fn three(folder: &Path) -> [PathBuf; 3] {
    let bytes: Vec<u8> = (0..300_000).map(|i| (i % 251) as u8 + 1).collect();
    let mut other = bytes.clone();
    other[1000] = 0;
    other[1600] = 0;
    other[250_000] = 0;
    let mut longer = bytes.clone();
    longer.resize(400_000, 0);
    let make = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    [make("a.raw", &bytes), make("b.raw", &other), make("c.raw", &longer)]
}

#[test]
fn codes_and_words_are_those_of_qemu_img() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    three(folder);
    let raw = ["-f", "raw", "-F", "raw"];
    for (args, code, text) in [
        (&["a.raw", "a.raw"][..], 0, "Images are identical.\n"),
        (&["a.raw", "b.raw"], 1, "Content mismatch at offset 512!\n"),
        (&["a.raw", "c.raw"], 0, "Warning: Image size mismatch!\nImages are identical.\n"),
        (&["-s", "a.raw", "c.raw"], 1, "Strict mode: Image size mismatch!\n"),
        (&["-q", "a.raw", "b.raw"], 1, ""),
        (&["-q", "a.raw", "a.raw"], 0, ""),
    ] {
        let args = [&raw, args].concat();
        let ran = ours(folder, &args);
        assert_eq!((ran.code, ran.text(), &*ran.stderr), (Some(code), text, ""), "{args:?}");
        if has("qemu-img") {
            let peer = theirs(folder, &args);
            assert_eq!((ran.code, ran.text()), (peer.code, peer.text()), "{args:?}");
        }
    }
    // beyond the shorter one's end
    std::fs::write(
        folder.join("d.raw"),
        [std::fs::read(folder.join("c.raw")).unwrap(), vec![1]].concat(),
    )
    .unwrap();
    let ran = ours(folder, &[&raw[..], &["a.raw", "d.raw"]].concat());
    let text = "Warning: Image size mismatch!\nContent mismatch at offset 399872!\n";
    assert_eq!((ran.code, ran.text()), (Some(1), text));
    for args in [["nowhere", "a.raw"], ["a.raw", "nowhere"]] {
        let args = [&raw[..], &args].concat();
        ours(folder, &args).refused(2, Path::new("nowhere"), &["No such file"]);
    }
    assert_eq!(ours(folder, &["a.raw"]).code, Some(2), "one image is wrong usage");
}

#[test]
fn qemu_img_misses_sizes_that_differ_within_a_sector() {
    // it rounds both up to 1024; a disk of 1001 bytes is no disk of 1000
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), vec![1; 1000]).unwrap();
    std::fs::write(dir.path().join("b"), [vec![1; 1000], vec![0]].concat()).unwrap();
    let args = ["-f", "raw", "-F", "raw", "a", "b"];
    let ran = ours(dir.path(), &args);
    assert_eq!(ran.text(), "Warning: Image size mismatch!\nImages are identical.\n");
    let strict = ours(dir.path(), &[&args[..], &["-s"]].concat());
    assert_eq!((strict.code, strict.text()), (Some(1), "Strict mode: Image size mismatch!\n"));
}

#[test]
fn damage_is_told_apart_by_its_code() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("qcow2/v3-zlib-2M.qcow2");
    let bytes = image.bytes();
    let path = dir.path().join("broken.qcow2");
    let name = path.to_str().unwrap();
    // cut off: the data of a cluster, for which qemu-img reads zeros if it is not compressed
    std::fs::write(&path, &bytes[..bytes.len() - 5000]).unwrap();
    for args in [[image.text(), name], [name, image.text()]] {
        ours(dir.path(), &args).refused(4, &path, &["at offset"]);
    }
    // an L2 table beyond the end of the file
    let l1 = u64::from_be_bytes(bytes[40..48].try_into().unwrap()) as usize;
    let mut broken = bytes.clone();
    broken[l1..l1 + 8].copy_from_slice(&(1_u64 << 63 | 1 << 40).to_be_bytes());
    std::fs::write(&path, &broken).unwrap();
    for args in [[image.text(), name], [name, image.text()]] {
        ours(dir.path(), &args).refused(3, &path, &["at offset"]);
    }
    std::fs::write(&path, &bytes[..50]).unwrap();
    assert_eq!(ours(dir.path(), &["-f", "qcow2", name, image.text()]).code, Some(2));
    // and with itself: the map is broken all the same
    std::fs::write(&path, &broken).unwrap();
    assert_eq!(ours(dir.path(), &[name, name]).code, Some(3));
}

#[test]
fn all_ranges_are_listed_in_both_forms() {
    let dir = tempfile::tempdir().unwrap();
    three(dir.path());
    let args = ["-f", "raw", "-F", "raw", "a.raw", "b.raw"];
    let ran = ours(dir.path(), &[&args[..], &["--all"]].concat());
    let wanted = "Content differs at offset 512 for 512 bytes\n\
                  Content differs at offset 1536 for 512 bytes\n\
                  Content differs at offset 249856 for 512 bytes\n\
                  Content mismatch at offset 512!\n";
    assert_eq!((ran.code, ran.text()), (Some(1), wanted));
    let json = ours(dir.path(), &[&args[..], &["--all", "--output", "json"]].concat()).json();
    let ranges = serde_json::json!([
        { "start": 512, "length": 512 },
        { "start": 1536, "length": 512 },
        { "start": 249_856, "length": 512 },
    ]);
    assert_eq!(json["ranges"], ranges);
    assert_eq!(json["different-bytes"], 1536);
    assert_eq!(json["first-difference"], serde_json::json!({ "kind": "content", "offset": 512 }));
    assert_eq!(
        json["images"][1],
        serde_json::json!({ "filename": "b.raw", "virtual-size": 300_000 })
    );
    // the first only, and none
    let json = ours(dir.path(), &[&args[..], &["--output", "json"]].concat()).json();
    assert_eq!((&json["identical"], &json["ranges"]), (&false.into(), &serde_json::json!([])));
    let same = ["-f", "raw", "-F", "raw", "a.raw", "c.raw", "--all", "--output", "json"];
    let json = ours(dir.path(), &same).json();
    assert_eq!((&json["identical"], &json["size-mismatch"]), (&true.into(), &true.into()));
    assert!(json["first-difference"].is_null());
}

#[test]
fn every_fixture_is_the_same_as_its_conversion() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("out.raw");
    let raw = raw.to_str().unwrap();
    let allow = allow();
    for fixture in readable().filter(|f| f.virtual_size <= 64 << 20) {
        let fixed = ["--assume-raw", &allow, "-f", &fixture.format, fixture.text()];
        diskimage(["convert"].iter().chain(&fixed).chain(&[raw])).ok();
        let ran = diskimage(["compare", "-F", "raw"].iter().chain(&fixed).chain(&[raw])).ok();
        assert_eq!(ran.text(), "Images are identical.\n", "{}", fixture.file);
    }
}
