//! Conversions that are stopped half-way: by signals, a full disk, a limit. Nothing that could be
//! taken for a whole disk may stay behind.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::*;

/// A conversion that takes seconds: it writes 8 GiB of zeros.
fn long(target: &Path) -> Child {
    let image = fixture("qcow2/v3-sparse-8G.qcow2");
    let mut command = command(["convert", "-S", "0", image.text(), target.to_str().unwrap()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn send(signal: &str, child: &Child) {
    let script = format!("kill -{signal} {}", child.id());
    assert_eq!(ran(Command::new("sh").args(["-c", &script])).code, Some(0));
}

#[test]
fn a_signal_ends_it_with_its_code_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    let image = fixture("qcow2/v3-sparse-8G.qcow2");
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let child = long(&target);
        std::thread::sleep(Duration::from_millis(150));
        send(signal, &child);
        finished(child).refused(code, &image.path, &["stopped on request"]);
        assert!(entries(dir.path()).is_empty(), "{signal}: {:?}", entries(dir.path()));
    }
    // an older file is still there, as it was
    std::fs::write(&target, "old").unwrap();
    let child = long(&target);
    std::thread::sleep(Duration::from_millis(150));
    send("INT", &child);
    assert_eq!(finished(child).code, Some(130));
    assert_eq!(std::fs::read(&target).unwrap(), b"old");
    assert_eq!(entries(dir.path()), ["out.raw"]);
}

#[test]
fn a_signal_ends_it_while_it_waits_for_a_reader() {
    let image = fixture("cloud.qcow2");
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let child = command(["convert", image.text(), "-"]).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        // the pipe is full by now, and nobody empties it
        std::thread::sleep(Duration::from_millis(150));
        send(signal, &child);
        assert_eq!(waited(&mut child), Some(code), "{signal}");
    }
}

#[test]
fn killed_at_any_moment_it_leaves_the_whole_file_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    let image = fixture("qcow2/v3-zlib-2M.qcow2");
    let mut outcomes = [0, 0];
    for round in 0..60u64 {
        let args = ["convert", image.text(), target.to_str().unwrap()];
        let mut child = command(args).stderr(Stdio::null()).spawn().unwrap();
        // moments all over a conversion's time, which is some tens of milliseconds
        std::thread::sleep(Duration::from_micros(round * round * 20));
        child.kill().unwrap();
        child.wait().unwrap();
        match &entries(dir.path())[..] {
            [] => outcomes[0] += 1,
            [only] if only == "out.raw" => {
                let bytes = std::fs::read(&target).unwrap();
                assert_eq!(Some(sha256(&bytes)), image.guest_sha256, "round {round}");
                std::fs::remove_file(&target).unwrap();
                outcomes[1] += 1;
            }
            other => panic!("round {round}: {other:?}"),
        }
    }
    assert!(outcomes[0] > 0, "it was never killed in time: {outcomes:?}");
    // and in the middle of a long one
    for delay in [50, 120, 300] {
        let mut child = long(&target);
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(entries(dir.path()).is_empty(), "{:?}", entries(dir.path()));
    }
}

/// A raw disk and an overlay over it, 4 MiB each, that differ in half of it.
fn overlay(folder: &Path) -> [std::path::PathBuf; 2] {
    let [base, over, new] = ["base", "over", "new"].map(|name| folder.join(name));
    let content: Vec<u8> = (0..4u32 << 20).map(|at| (at / 4096 % 251) as u8 + 1).collect();
    std::fs::write(&base, &content).unwrap();
    let mut content = content;
    content.chunks_mut(65_536).step_by(2).for_each(|part| part.fill(7));
    std::fs::write(&new, content).unwrap();
    let paths = [&new, &over].map(|path| path.to_str().unwrap());
    let convert = ["convert", "-f", "raw", "-O", "qcow2", "-F", "raw", "-B", "base"];
    diskimage([&convert[..], &paths].concat()).ok();
    std::fs::remove_file(new).unwrap();
    [base, over]
}

/// What the guest sees.
fn guest(image: &Path) -> String {
    diskimage(["checksum", "-a", "crc32", "--allow-external", image.to_str().unwrap()])
        .ok()
        .text()
        .to_owned()
}

#[test]
fn killed_at_any_moment_a_commit_or_a_rebase_leaves_the_disk_as_it_was() {
    for call in [&["commit"][..], &["commit", "-d"], &["rebase", "-b", ""]] {
        let dir = tempfile::tempdir().unwrap();
        let [base, over] = overlay(dir.path());
        let (seen, first) = (guest(&over), std::fs::read(&over).unwrap());
        let old = std::fs::read(&base).unwrap();
        let args = |limit: &'static [&str]| {
            let call = [&["qemu-img", call[0], "--allow-external"][..], &call[1..], limit].concat();
            command([&call[..], &[over.to_str().unwrap()]].concat())
        };
        let mut killed = 0;
        for round in 0..12u64 {
            std::fs::write(&over, &first).unwrap();
            std::fs::write(&base, &old).unwrap();
            let mut child = args(&[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(round * round * 500));
            killed += usize::from(child.kill().is_ok() && !child.wait().unwrap().success());
            assert_eq!(guest(&over), seen, "{call:?}, round {round}");
            assert_eq!(entries(dir.path()), ["base", "over"], "{call:?}, round {round}");
            if round % 6 == 0 {
                // it can be repeated
                args(&[]).output().unwrap();
                assert_eq!(guest(&over), seen, "{call:?}, round {round}");
            }
        }
        assert!(killed > 2, "{call:?}: it was killed in time {killed} times");
        if call[0] == "commit" {
            std::fs::write(&over, &first).unwrap();
            let child = args(&["-r", "1M"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
            let child = child.unwrap();
            std::thread::sleep(Duration::from_millis(150));
            send("INT", &child);
            let told = finished(child);
            assert_eq!((told.code, told.text()), (Some(130), ""), "{told:?}");
            assert!(told.stderr.contains("stopped on request"), "{told:?}");
            assert!(std::fs::read(&over).unwrap() == first, "{call:?}");
            assert_eq!(guest(&over), seen, "{call:?}");
        }
    }
}

/// Runs a script of the shell in a mount namespace of its own, where it may mount; `None` where
/// that is not permitted.
fn with_mounts(folder: &Path, script: &str, args: &[&str]) -> Option<Ran> {
    if !has("unshare") {
        return None;
    }
    let try_out = "mount -t tmpfs tmpfs \"$0\"";
    for flags in ["-m", "-rm"] {
        let probe = ran(Command::new("unshare").args([flags, "sh", "-c", try_out]).arg(folder));
        if probe.code == Some(0) {
            let mut command = Command::new("unshare");
            command.args([flags, "sh", "-c", script]).arg(folder).arg(DISKIMAGE).args(args);
            return Some(ran(&mut command));
        }
    }
    skipped("mounting is not permitted");
    None
}

#[test]
fn a_full_disk_is_told_with_the_offset_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let image = fixture("qcow2/v3-zlib-2M.qcow2");
    let script = "mount -t tmpfs -o size=1m tmpfs \"$0\" && cd \"$0\" || exit 99
        \"$1\" convert -S 0 \"$2\" out.raw; code=$?; ls -A; exit $code";
    let Some(ran) = with_mounts(dir.path(), script, &[image.text()]) else { return };
    let words = ["cannot write: No space left on device", "(at offset 0x"];
    ran.refused(1, Path::new("out.raw"), &words);
}

#[test]
fn a_limit_on_files_is_told_instead_of_dying_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let (image, target) = (fixture("qcow2/v3-zlib-64k.qcow2"), dir.path().join("out.raw"));
    let script = "ulimit -f 100 && exec \"$0\" convert \"$1\" \"$2\"";
    let args = ["-c", script, DISKIMAGE, image.text(), target.to_str().unwrap()];
    let words = ["a file of 2097152 bytes is more than", "ulimit -f"];
    ran(Command::new("sh").args(args)).refused(1, &target, &words);
    assert!(entries(dir.path()).is_empty());
}
