//! What `diskimage convert` writes to, and what it leaves alone.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;

fn convert(args: &[&str], source: &Path, target: &Path) -> Ran {
    let paths = [source.to_str().unwrap(), target.to_str().unwrap()];
    diskimage(["convert"].iter().chain(args).chain(&paths))
}

/// A readable image of 2 MiB without companions, and its content.
fn image() -> (&'static Fixture, Vec<u8>) {
    let image = fixture("qcow2/v3-zlib-64k-mixed.qcow2");
    let ran = diskimage(["convert", image.text(), "-"]).ok();
    assert_eq!(Some(sha256(&ran.stdout)), image.guest_sha256);
    (image, ran.stdout)
}

#[test]
fn an_older_file_is_replaced_and_its_mode_kept() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    let (image, content) = image();
    for mode in [0o600, 0o664, 0o644] {
        std::fs::write(&target, vec![7; 5 << 20]).unwrap();
        std::fs::set_permissions(&target, PermissionsExt::from_mode(mode)).unwrap();
        let before = std::fs::metadata(&target).unwrap().ino();
        convert(&[], &image.path, &target).ok();
        assert!(std::fs::read(&target).unwrap() == content);
        let metadata = std::fs::metadata(&target).unwrap();
        assert_eq!(metadata.mode() & 0o7777, mode);
        assert_ne!(metadata.ino(), before, "it is a new file");
        assert_eq!(entries(dir.path()), ["out.raw"]);
    }
}

#[test]
fn a_link_is_followed_and_stays_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (image, content) = image();
    let [real, link] = ["sub/real.raw", "link.raw"].map(|name| dir.path().join(name));
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(&real, "old").unwrap();
    symlink("sub/real.raw", &link).unwrap();
    convert(&[], &image.path, &link).ok();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(std::fs::read(&real).unwrap() == content);
    assert_eq!(entries(&dir.path().join("sub")), ["real.raw"]);
    let dangling = dir.path().join("dangling.raw");
    symlink("nowhere.raw", &dangling).unwrap();
    convert(&[], &image.path, &dangling).refused(
        1,
        &dangling,
        &["a symbolic link to a file that does not exist: "],
    );
    assert_eq!(entries(dir.path()), ["dangling.raw", "link.raw", "sub"]);
}

#[test]
fn the_source_and_its_backing_files_are_never_written() {
    let dir = tempfile::tempdir().unwrap();
    for name in
        ["overlay-chain.qcow2", "overlay-raw.qcow2", "base.raw", "data-file.qcow2", "data-file.raw"]
    {
        std::fs::copy(&fixture(&format!("qcow2/{name}")).path, dir.path().join(name)).unwrap();
    }
    symlink("base.raw", dir.path().join("soft")).unwrap();
    std::fs::hard_link(dir.path().join("base.raw"), dir.path().join("hard")).unwrap();
    let untouched = || -> Vec<(String, String)> {
        let names = entries(dir.path()).into_iter();
        names.map(|n| (sha256(&std::fs::read(dir.path().join(&n)).unwrap()), n)).collect()
    };
    let before = untouched();
    let overlay = dir.path().join("overlay-chain.qcow2");
    for name in [
        "overlay-chain.qcow2",
        "./overlay-chain.qcow2",
        "overlay-raw.qcow2",
        "base.raw",
        "soft",
        "hard",
    ] {
        let target = dir.path().join(name);
        let options = ["--allow-external", "--assume-raw"];
        let words = ["is the image that is read", ": choose another target"];
        convert(&options, &overlay, &target).refused(1, &target, &words);
        // here some are too small as well
        convert(&[&options[..], &["-n"]].concat(), &overlay, &target).refused(1, &target, &[]);
    }
    let (image, file) = (dir.path().join("data-file.qcow2"), dir.path().join("data-file.raw"));
    convert(&["--allow-external"], &image, &file).refused(1, &file, &["is the image that is read"]);
    assert_eq!(untouched(), before);
}

#[test]
fn what_cannot_be_a_target_is_refused_and_nothing_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let (image, _) = image();
    let inside = |name: &str| dir.path().join(name);
    let missing = inside("missing/out.raw");
    convert(&[], &image.path, &missing).refused(1, &missing, &["No such file or directory"]);
    convert(&[], &image.path, dir.path()).refused(1, dir.path(), &["is a directory", ": write to"]);
    convert(&["-n"], &image.path, dir.path()).refused(1, dir.path(), &["is a directory"]);
    if Path::new("/dev/full").exists() {
        let full = Path::new("/dev/full");
        convert(&[], &image.path, full).refused(1, full, &["is a character device"]);
    }
    if has("mkfifo") {
        output_of(dir.path(), "mkfifo", &["fifo"]);
        for more in [&[][..], &["-n"]] {
            // without a reader, opening a FIFO for writing fails or blocks
            convert(more, &image.path, &inside("fifo")).refused(1, &inside("fifo"), &[]);
        }
    }
    assert!(entries(dir.path()).iter().all(|name| name == "fifo"));
}

#[test]
fn without_permission_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (image, _) = image();
    let [source, locked] = ["source.qcow2", "locked.raw"].map(|name| dir.path().join(name));
    std::fs::copy(&image.path, &source).unwrap();
    std::fs::write(&locked, "keep").unwrap();
    let closed = dir.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    for (path, mode) in
        [(dir.path(), 0o777), (&*source, 0o644), (&*locked, 0o444), (&*closed, 0o555)]
    {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    let as_nobody = |target: &Path| {
        let mut command = if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", DISKIMAGE]);
            command
        } else {
            Command::new(DISKIMAGE)
        };
        ran(command.arg("convert").arg(&source).arg(target))
    };
    if !has("setpriv") {
        return;
    }
    let fine = as_nobody(&dir.path().join("fine.raw"));
    if fine.code != Some(0) {
        return skipped(&format!("the command does not run as another user: {}", fine.stderr));
    }
    as_nobody(&closed.join("out.raw")).refused(1, &closed.join("out.raw"), &["Permission denied"]);
    // the folder would allow it to be replaced, but the file says no
    as_nobody(&locked).refused(1, &locked, &["Permission denied"]);
    assert_eq!(std::fs::read(&locked).unwrap(), b"keep");
    assert_eq!(entries(dir.path()), ["closed", "fine.raw", "locked.raw", "source.qcow2"]);
}

#[test]
fn an_existing_target_keeps_its_size_and_tail_and_loses_stale_data() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("disk");
    let (image, content) = image();
    for more in [&["-n"][..], &["-n", "-S", "0"], &["-n", "--threads=3", "-S", "64k"]] {
        std::fs::write(&target, vec![0xaa; 3 << 20]).unwrap();
        let before = std::fs::metadata(&target).unwrap().ino();
        convert(more, &image.path, &target).ok();
        assert_eq!(std::fs::metadata(&target).unwrap().ino(), before, "it is the same file");
        let bytes = std::fs::read(&target).unwrap();
        assert_eq!(bytes.len(), 3 << 20);
        assert!(bytes[..content.len()] == content, "{more:?}");
        assert!(bytes[content.len()..].iter().all(|&b| b == 0xaa), "{more:?}");
    }
}

#[test]
fn a_target_said_to_be_zero_gets_data_only() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("disk");
    let (image, content) = image();
    let file = std::fs::File::create(&target).unwrap();
    file.set_len(3 << 20).unwrap();
    convert(&["-n", "--target-is-zero"], &image.path, &target).ok();
    let bytes = std::fs::read(&target).unwrap();
    assert!(bytes[..content.len()] == content && bytes[content.len()..].iter().all(|&b| b == 0));
    // whoever says so wrongly keeps what was there: nothing is written where zeros are known
    std::fs::write(&target, vec![0xaa; 2 << 20]).unwrap();
    convert(&["-n", "--target-is-zero"], &image.path, &target).ok();
    assert!(std::fs::read(&target).unwrap().contains(&0xaa));
    assert_eq!(convert(&["--target-is-zero"], &image.path, &target).code, Some(2));
}

#[test]
fn an_existing_target_must_exist_and_be_large_enough() {
    let dir = tempfile::tempdir().unwrap();
    let (image, content) = image();
    let [missing, small, exact] = ["missing", "small", "exact"].map(|name| dir.path().join(name));
    convert(&["-n"], &image.path, &missing).refused(1, &missing, &["No such file"]);
    let old = vec![0xaa; content.len() - 1];
    std::fs::write(&small, &old).unwrap();
    let words = ["holds 2097151 bytes, the disk has 2097152", ": make it larger first"];
    convert(&["-n"], &image.path, &small).refused(1, &small, &words);
    assert!(std::fs::read(&small).unwrap() == old);
    std::fs::write(&exact, vec![0xaa; content.len()]).unwrap();
    convert(&["-n"], &image.path, &exact).ok();
    assert!(std::fs::read(&exact).unwrap() == content);
    assert_eq!(entries(dir.path()), ["exact", "small"]);
}

/// A loop device over a file, for as long as it lives.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path) -> Option<Self> {
        if !has("losetup") {
            return None;
        }
        let made = ran(Command::new("losetup").args(["--find", "--show"]).arg(file));
        if made.code != Some(0) {
            skipped(&format!("no loop device can be made: {}", made.stderr.trim()));
            return None;
        }
        Some(Self(PathBuf::from(made.text().trim())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        ran(Command::new("losetup").arg("--detach").arg(&self.0));
    }
}

#[test]
fn a_block_device_is_written_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let (image, content) = image();
    let file = dir.path().join("disk");
    for more in [&[][..], &["-n"], &["-S", "0"]] {
        std::fs::write(&file, vec![0xaa; 3 << 20]).unwrap();
        let Some(device) = Loop::over(&file) else { return };
        convert(more, &image.path, &device.0).ok();
        let bytes = std::fs::read(&device.0).unwrap();
        assert!(bytes[..content.len()] == content, "{more:?}");
        assert!(bytes[content.len()..].iter().all(|&b| b == 0xaa), "{more:?}");
        // and read as an image, its end being the device's
        let read = diskimage(["convert", "-f", "raw", device.0.to_str().unwrap(), "-"]).ok();
        assert!(read.stdout == bytes);
    }
    std::fs::write(&file, vec![0xaa; 1 << 20]).unwrap();
    let Some(device) = Loop::over(&file) else { return };
    convert(&[], &image.path, &device.0).refused(1, &device.0, &["holds 1048576 bytes"]);
    assert!(std::fs::read(&device.0).unwrap().iter().all(|&b| b == 0xaa));
}
