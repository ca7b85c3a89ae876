//! What the file system below can do: sharing and copying blocks, room set aside, the system's
//! cache passed by, media that fail. On real XFS, Btrfs and ext4, each in a file of its own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;

/// A file system in a file, mounted for as long as it lives.
struct Mounted {
    folder: PathBuf,
    _room: tempfile::TempDir,
}

impl Mounted {
    /// `mib` in size; `None` where such a thing cannot be made or mounted here.
    fn new(make: &str, options: &[&str], mib: u64) -> Option<Self> {
        if !has(make) {
            return None;
        }
        let room = tempfile::tempdir().unwrap();
        let (image, folder) = (room.path().join("image"), room.path().join("mounted"));
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        std::fs::create_dir(&folder).unwrap();
        let made = ran(Command::new(make).args(options).arg(&image));
        assert_eq!(made.code, Some(0), "{made:?}");
        let mounted = ran(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&folder));
        if mounted.code != Some(0) {
            skipped(&format!("nothing can be mounted here: {}", mounted.stderr.trim()));
            return None;
        }
        Some(Self { folder, _room: room })
    }

    fn xfs() -> Option<Self> {
        Self::new("mkfs.xfs", &["-q", "-m", "reflink=1"], 400)
    }

    fn btrfs() -> Option<Self> {
        Self::new("mkfs.btrfs", &["-q"], 400)
    }

    fn ext4() -> Option<Self> {
        Self::new("mkfs.ext4", &["-q", "-F"], 400)
    }

    /// A file of this name.
    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Bytes in use, all of them on the medium.
    fn used(&self) -> u64 {
        assert_eq!(ran(Command::new("sync").arg("-f").arg(&self.folder)).code, Some(0));
        let args = ["-B1", "--output=used"];
        let df = ran(Command::new("df").args(args).arg(&self.folder)).ok();
        df.text().lines().nth(1).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        ran(Command::new("umount").arg(&self.folder));
    }
}

/// Bytes without zeros and without a pattern, `length` of them, others for each seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8 | 1
    };
    (0..length).map(|_| next()).collect()
}

const DISK: u64 = 96 << 20;

/// A disk with data in 60 of its 96 MiB, an end within a sector apart, and holes between.
fn disk(folder: &Path) -> (PathBuf, Vec<u8>) {
    let mut bytes = vec![0; DISK as usize];
    bytes[1 << 20..41 << 20].copy_from_slice(&noise(1, 40 << 20));
    bytes[(64 << 20) + 512..(84 << 20) + 1024].copy_from_slice(&noise(2, (20 << 20) + 512));
    let path = folder.join("disk.raw");
    write_sparse(&path, &bytes);
    (path, bytes)
}

fn convert(more: &[&str], from: &Path, to: &Path) -> Ran {
    ran(command(["convert"]).args(more).arg(from).arg(to))
}

/// Makes an image of the disk on the file system by qemu-img.
fn image(on: &Mounted, disk: &Path, name: &str, options: &[&str]) -> PathBuf {
    let image = on.at(name);
    let mut made = Command::new("qemu-img");
    made.args(["convert", "-f", "raw"]).args(options).arg(disk).arg(&image);
    assert_eq!(ran(&mut made).code, Some(0), "{made:?}");
    image
}

const SHARED: &[(&str, &[&str])] = &[
    ("64k.qcow2", &["-O", "qcow2"]),
    ("4k.qcow2", &["-O", "qcow2", "-o", "cluster_size=4k"]),
    ("el2.qcow2", &["-O", "qcow2", "-o", "extended_l2=on,cluster_size=128k"]),
    ("a.vmdk", &["-O", "vmdk"]),
    ("a.vhdx", &["-O", "vhdx"]),
    ("fixed.vhd", &["-O", "vpc", "-o", "subformat=fixed,force_size=on"]),
    ("copy.raw", &["-O", "raw"]),
];

fn sharing_costs_no_room(on: &Mounted) {
    let room = tempfile::tempdir().unwrap();
    let (disk, bytes) = disk(room.path());
    for (name, options) in SHARED {
        let image = image(on, &disk, name, options);
        let format = if name.ends_with(".vhd") { "vpc" } else { options[1] };
        for more in [&["-f", format][..], &["-f", format, "--reflink=always", "--threads=3"]] {
            let before = on.used();
            let target = on.at("out.raw");
            convert(more, &image, &target).ok();
            // the ends of runs that are no whole blocks are copied, and tables of the file system
            let more_room = on.used().saturating_sub(before);
            assert!(more_room < 6 << 20, "{name} {more:?}: {more_room} bytes more");
            assert!(std::fs::read(&target).unwrap() == bytes, "{name} {more:?}");
            std::fs::remove_file(&target).unwrap();
        }
        std::fs::remove_file(&image).unwrap();
    }
}

#[test]
fn on_xfs_blocks_are_shared_and_cost_no_room() {
    if !has("qemu-img") {
        return;
    }
    if let Some(xfs) = Mounted::xfs() {
        sharing_costs_no_room(&xfs);
    }
}

#[test]
fn on_btrfs_blocks_are_shared_and_cost_no_room() {
    if !has("qemu-img") {
        return;
    }
    if let Some(btrfs) = Mounted::btrfs() {
        sharing_costs_no_room(&btrfs);
    }
}

#[test]
fn a_target_written_to_does_not_change_the_image_it_shares_blocks_with() {
    let Some(xfs) = Mounted::xfs() else { return };
    let room = tempfile::tempdir().unwrap();
    let (disk, bytes) = disk(room.path());
    let [source, target] = ["source.raw", "target.raw"].map(|name| xfs.at(name));
    std::fs::copy(&disk, &source).unwrap();
    // into a file with other content, which the disk does not fill
    let stale = [noise(3, DISK as usize), vec![0xaa; 5000]].concat();
    std::fs::write(&target, &stale).unwrap();
    convert(&["-f", "raw", "-n"], &source, &target).ok();
    let written = std::fs::read(&target).unwrap();
    assert!(written[..bytes.len()] == bytes && written[bytes.len()..] == stale[bytes.len()..]);
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(&target).unwrap();
    file.write_all_at(&[0xbb; 8192], 2 << 20).unwrap();
    file.sync_all().unwrap();
    assert!(std::fs::read(&source).unwrap() == bytes);
}

/// How many bytes the command reads by position.
fn bytes_read(args: &[&Path], log: &Path) -> Option<(Ran, u64)> {
    if !has("strace") {
        return None;
    }
    let mut traced = Command::new("strace");
    traced.args(["-f", "-e", "trace=pread64", "-o"]).arg(log).arg(DISKIMAGE).args(args);
    let ran = ran(&mut traced);
    let log = std::fs::read_to_string(log).unwrap();
    let read = log.lines().filter_map(|line| line.rsplit_once("= ")?.1.trim().parse::<u64>().ok());
    Some((ran, read.sum()))
}

fn shared_bytes_are_equal_without_reading(on: &Mounted) {
    let room = tempfile::tempdir().unwrap();
    let (disk, bytes) = disk(room.path());
    let source = image(on, &disk, "a.qcow2", &["-O", "qcow2"]);
    let copy = on.at("copy.raw");
    convert(&["--reflink=always"], &source, &copy).ok();
    let (log, words) = (room.path().join("log"), ["compare", "-F", "raw"].map(Path::new));
    let args = [&words[..], &[&source, &copy]].concat();
    let Some((same, read)) = bytes_read(&args, &log) else { return };
    assert_eq!((same.code, same.text()), (Some(0), "Images are identical.\n"), "{same:?}");
    assert!(read < 6 << 20, "{read} bytes of twice 60 MiB are read");
    // a byte that is written, and is not on the medium yet, lies elsewhere
    use std::os::unix::fs::FileExt;
    let at = 30 << 20;
    let file = std::fs::OpenOptions::new().write(true).open(&copy).unwrap();
    file.write_all_at(&[bytes[at + 7] ^ 1], at as u64 + 7).unwrap();
    let Some((other, read)) = bytes_read(&args, &log) else { return };
    let told = format!("Content mismatch at offset {at}!\n");
    assert_eq!((other.code, other.text()), (Some(1), &*told), "{other:?}");
    assert!(read < 6 << 20, "{read}");
}

#[test]
fn what_files_share_on_xfs_or_btrfs_is_equal_without_reading() {
    if !has("qemu-img") {
        return;
    }
    for on in [Mounted::xfs(), Mounted::btrfs()].iter().flatten() {
        shared_bytes_are_equal_without_reading(on);
    }
}

/// A raw disk, and an image of it, become a QCOW2 that takes up tables only.
#[test]
fn a_qcow2_shares_the_data_of_what_it_is_made_of() {
    if !has("qemu-img") {
        return;
    }
    let room = tempfile::tempdir().unwrap();
    let (disk, bytes) = disk(room.path());
    for on in [Mounted::xfs(), Mounted::btrfs()].iter().flatten() {
        let raw = on.at("a.raw");
        std::fs::copy(&disk, &raw).unwrap();
        let other = image(on, &disk, "a.qcow2", &["-O", "qcow2", "-o", "cluster_size=16k"]);
        for (source, format) in [(&raw, "raw"), (&other, "qcow2")] {
            for more in [&[][..], &["-o", "cluster_size=2M"], &["-o", "compat=0.10"]] {
                let target = on.at("out.qcow2");
                let before = on.used();
                let args = ["-f", format, "-O", "qcow2", "--reflink=always"];
                convert(&[&args[..], more].concat(), source, &target).ok();
                let after = on.used();
                assert!(after < before + (12 << 20), "{format} {more:?}: {before} {after}");
                let check = diskimage(["check", target.to_str().unwrap()]);
                assert_eq!(check.code, Some(0), "{check:?}");
                for args in [&["check", "-q"][..], &["compare", "-q", "-F", "raw"]] {
                    let mut files = vec![target.to_str().unwrap()];
                    if args[0] == "compare" {
                        files.push(disk.to_str().unwrap());
                    }
                    output_of(room.path(), "qemu-img", &[args, &files].concat());
                }
                std::fs::remove_file(&target).unwrap();
            }
            // the content decides which bytes another file has: nothing can be shared with that
            for more in [&["-O", "qcow2", "-c"][..], &["-O", "vhdx"], &["-O", "qcow2", "--dedupe"]]
            {
                let args = [&["-f", format, "--reflink=always"], more].concat();
                let refused = convert(&args, source, &on.at("out"));
                assert_eq!(refused.code, Some(1), "{refused:?}");
                assert!(refused.stderr.contains("blocks can be shared"), "{refused:?}");
                assert!(!on.at("out").exists());
            }
        }
        assert!(std::fs::read(&raw).unwrap() == bytes);
    }
}

#[test]
fn what_cannot_be_shared_is_refused_only_if_it_must_be() {
    if !has("qemu-img") {
        return;
    }
    let room = tempfile::tempdir().unwrap();
    let (disk, bytes) = disk(room.path());
    let cases: [(Option<Mounted>, &str, &[&str], &str); 4] = [
        (Mounted::ext4(), "plain.qcow2", &["-O", "qcow2"], "cannot share blocks with the image"),
        (Mounted::xfs(), "zlib.qcow2", &["-O", "qcow2", "-c"], "the data are compressed"),
        (Mounted::xfs(), "bitmap.vhd", &["-O", "vpc", "-o", "force_size=on"], "not in step"),
        (Mounted::btrfs(), "a.vdi", &["-O", "vdi"], "not in step"),
    ];
    for (on, name, options, words) in cases {
        let Some(on) = on else { continue };
        let image = image(&on, &disk, name, options);
        let target = on.at("out.raw");
        let refused = convert(&["--reflink=always"], &image, &target);
        assert_eq!(refused.code, Some(1), "{name}: {refused:?}");
        assert!(refused.stderr.contains(words), "{name}: {refused:?}");
        assert!(!target.exists(), "{name}");
        for more in [&[][..], &["--reflink=never"], &["--no-sync"]] {
            convert(more, &image, &target).ok();
            assert!(std::fs::read(&target).unwrap() == bytes, "{name} {more:?}");
        }
    }
    // a pipe has no blocks
    let refused = convert(&["-f", "raw", "--reflink=always"], &disk, Path::new("-"));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("leave --reflink at auto"), "{refused:?}");
}

#[test]
fn on_ext4_the_kernel_copies_and_nothing_passes_through_the_process() {
    if !has("qemu-img") || !has("strace") {
        return;
    }
    let Some(ext4) = Mounted::ext4() else { return };
    let room = tempfile::tempdir().unwrap();
    let (disk, bytes) = disk(room.path());
    let image = image(&ext4, &disk, "a.qcow2", &["-O", "qcow2"]);
    let (target, log) = (ext4.at("out.raw"), room.path().join("log"));
    let mut traced = Command::new("strace");
    traced.args(["-f", "-e", "trace=pread64,pwrite64,copy_file_range", "-o"]).arg(&log);
    traced.arg(DISKIMAGE).arg("convert").arg(&image).arg(&target);
    assert_eq!(ran(&mut traced).code, Some(0));
    assert!(std::fs::read(&target).unwrap() == bytes);
    let log = std::fs::read_to_string(log).unwrap();
    let moved = |call: &str| -> u64 {
        let lines = log.lines().filter(|line| line.contains(call));
        lines.filter_map(|line| line.rsplit_once("= ")?.1.trim().parse::<u64>().ok()).sum()
    };
    let by_process = moved("pread64") + moved("pwrite64");
    assert!(by_process < 2 << 20, "{by_process} bytes passed through the process");
    assert!(moved("copy_file_range") >= 60 << 20, "{log}");
}

#[test]
fn room_is_set_aside_at_the_start_or_the_lack_of_it_told() {
    let Some(ext4) = Mounted::ext4() else { return };
    let room = tempfile::tempdir().unwrap();
    let (disk, bytes) = disk(room.path());
    let target = ext4.at("out.raw");
    for how in ["off", "falloc", "full"] {
        convert(&["-f", "raw", "--preallocation", how], &disk, &target).ok();
        assert!(std::fs::read(&target).unwrap() == bytes, "{how}");
        assert_eq!(allocated(&target) >= DISK, how != "off", "{how}");
        if has("filefrag") {
            let extents = ran(Command::new("filefrag").arg("-v").arg(&target)).ok();
            assert_eq!(extents.text().contains("unwritten"), how == "falloc", "{how}: {extents:?}");
        }
        std::fs::remove_file(&target).unwrap();
    }
    let image = fixture("qcow2/v3-sparse-8G.qcow2");
    for how in ["falloc", "full"] {
        let ran = convert(&["--preallocation", how], &image.path, &target);
        ran.refused(1, &target, &["cannot set room aside: No space left on device"]);
        assert!(!target.exists());
    }
    let pipe = convert(&["-f", "raw", "--preallocation=full"], &disk, Path::new("-"));
    assert!(pipe.code == Some(1) && pipe.stdout.is_empty(), "{pipe:?}");
    let both = convert(&["-n", "--preallocation=full"], &image.path, &target);
    assert_eq!(both.code, Some(2), "{both:?}");
}

/// How much of a file the system's cache holds.
fn cached(path: &Path) -> u64 {
    let args = ["--bytes", "--noheadings", "--output", "RES"];
    let told = ran(Command::new("fincore").args(args).arg(path)).ok();
    told.text().trim().parse().unwrap()
}

#[test]
fn the_cache_forgets_both_files_if_it_is_told_to() {
    if !has("fincore") {
        return;
    }
    let Some(ext4) = Mounted::ext4() else { return };
    let room = tempfile::tempdir().unwrap();
    let (disk, bytes) = disk(room.path());
    let [source, target] = ["source.raw", "target.raw"].map(|name| ext4.at(name));
    std::fs::copy(&disk, &source).unwrap();
    std::fs::File::open(&source).unwrap().sync_all().unwrap();
    for reflink in ["--reflink=auto", "--reflink=never"] {
        convert(&["-f", "raw", reflink], &source, &target).ok();
        assert!(cached(&target) >= 60 << 20, "{reflink}");
        convert(&["-f", "raw", reflink, "--cache=drop"], &source, &target).ok();
        let (left, of_source) = (cached(&target), cached(&source));
        assert!(left < 1 << 20 && of_source < 1 << 20, "{reflink}: {left} {of_source}");
        assert!(std::fs::read(&target).unwrap() == bytes, "{reflink}");
    }
}

#[test]
fn past_the_cache_the_bytes_are_the_same() {
    let Some(ext4) = Mounted::ext4() else { return };
    let room = tempfile::tempdir().unwrap();
    let (_, bytes) = disk(room.path());
    let [source, target] = ["source.raw", "target.raw"].map(|name| ext4.at(name));
    // an end within a page, and within a sector
    for length in [DISK as usize, (70 << 20) + 4096 + 512, (3 << 20) + 1] {
        write_sparse(&source, &bytes[..length]);
        for more in [&[][..], &["-S", "512"], &["-S", "0"], &["--threads=3"]] {
            let fixed = ["-f", "raw", "--direct"];
            convert(&[&fixed[..], more].concat(), &source, &target).ok();
            assert!(std::fs::read(&target).unwrap() == bytes[..length], "{length} {more:?}");
        }
    }
    // other formats read their tables so, too
    for fixture in readable().filter(|fixture| fixture.virtual_size <= 8 << 20) {
        let target = ext4.at("fixture.raw");
        let allow = allow();
        let more = ["--direct", "--assume-raw", "-f", &fixture.format, &allow];
        let done = convert(&more, &fixture.path, &target);
        if done.stderr.contains("bypass the cache") {
            return skipped("the images' file system has no direct reads");
        }
        done.ok();
        let sum = sha256(&std::fs::read(&target).unwrap());
        assert_eq!(Some(sum), fixture.guest_sha256, "{}", fixture.file);
    }
}

#[test]
fn ext4_ends_at_16_tib_and_says_so_and_xfs_does_not() {
    let image = fixture("qcow2/v3-sparse-64T.qcow2");
    if let Some(ext4) = Mounted::ext4() {
        let target = ext4.at("out.raw");
        let words = ["a file of 70368744177664 bytes is more than", "ext4 ends at 16 TiB"];
        convert(&[], &image.path, &target).refused(1, &target, &words);
        assert!(!target.exists());
    }
    if let Some(xfs) = Mounted::xfs() {
        let target = xfs.at("out.raw");
        convert(&[], &image.path, &target).ok();
        assert_eq!(std::fs::metadata(&target).unwrap().len(), 64 << 40);
    }
}

/// A medium that ends before its device does: what lies behind cannot be read.
fn failing_device(file: &Path, good: u64) -> Option<PathBuf> {
    let made = ran(Command::new("losetup").args(["--find", "--show"]).arg(file));
    if made.code != Some(0) {
        skipped(&format!("no loop device can be made: {}", made.stderr.trim()));
        return None;
    }
    std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(good).unwrap();
    Some(PathBuf::from(made.text().trim()))
}

#[test]
fn a_medium_that_cannot_be_read_is_an_error_with_its_offset_and_salvage_lists_it() {
    if !has("losetup") {
        return;
    }
    let room = tempfile::tempdir().unwrap();
    let (disk, mut bytes) = disk(room.path());
    let (bad, size, target) = (80u64 << 20, 81u64 << 20, room.path().join("out.raw"));
    bytes.truncate(size as usize);
    std::fs::OpenOptions::new().write(true).open(&disk).unwrap().set_len(size).unwrap();
    let Some(device) = failing_device(&disk, bad) else { return };
    let failing = device.clone();
    let result = std::panic::catch_unwind(move || {
        for threads in ["1", "2", "3", "16"] {
            let more = ["-f", "raw", "--threads", threads];
            let failed = convert(&more, &device, &target);
            failed.refused(1, &device, &["cannot read: Input/output error", "(at offset 0x5"]);
            assert!(!target.exists(), "{threads}");
            let salvage = [&more[..], &["--salvage"]].concat();
            let lost = convert(&salvage, &device, &target);
            bytes[bad as usize..].fill(0);
            assert!(std::fs::read(&target).unwrap() == bytes, "{threads}");
            std::fs::remove_file(&target).unwrap();
            assert_eq!(lost.code, Some(3), "{lost:?}");
            let line = format!("lost {} bytes at guest offset {bad:#x}", size - bad);
            assert!(lost.stderr.trim_end().ends_with(&line), "{threads}: {lost:?}");
            assert_eq!(lost.stderr.lines().count(), 1, "{threads}: {lost:?}");
        }
    });
    ran(Command::new("losetup").arg("--detach").arg(&failing));
    result.unwrap();
}

#[test]
fn zeros_are_discarded_on_a_block_device_not_written() {
    if !has("losetup") {
        return;
    }
    let room = tempfile::tempdir().unwrap();
    let (disk, bytes) = disk(room.path());
    let medium = room.path().join("medium");
    std::fs::write(&medium, vec![0xaa; DISK as usize]).unwrap();
    let made = ran(Command::new("losetup").args(["--find", "--show"]).arg(&medium));
    if made.code != Some(0) {
        return skipped(&format!("no loop device can be made: {}", made.stderr.trim()));
    }
    let device = PathBuf::from(made.text().trim());
    let result = std::panic::catch_unwind(|| {
        convert(&["-f", "raw"], &disk, &device).ok();
        assert!(std::fs::read(&device).unwrap() == bytes);
    });
    ran(Command::new("losetup").arg("--detach").arg(&device));
    result.unwrap();
    std::fs::File::open(&medium).unwrap().sync_all().unwrap();
    let room = allocated(&medium);
    assert!(room < 62 << 20, "36 MiB of zeros are in holes, and {room} bytes taken up");
}
