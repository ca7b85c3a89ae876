//! How much memory and reading a command may take.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::path::Path;
use std::process::Command;

use common::*;

const MIB: u64 = 1 << 20;

/// The most memory that the command had when it succeeds, in bytes, and the seconds that it computed.
fn measured(args: &[&str]) -> Option<(u64, f64)> {
    let (ran, peak, seconds) = watched::measured(args)?;
    ran.ok();
    Some((peak, seconds))
}

/// How many bytes the command reads from files.
fn bytes_read(args: &[&str]) -> Option<u64> {
    if !has("strace") {
        return None;
    }
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("strace");
    command.args(["-f", "-e", "trace=read,pread64,readv,preadv,mmap,execve", "-o"]).arg(log.path());
    let ran = ran(command.arg(DISKIMAGE).args(args));
    let text = std::fs::read_to_string(log.path()).unwrap();
    if !text.contains("execve(") {
        skipped(&format!("tracing is not permitted: {}", ran.stderr.trim()));
        return None;
    }
    let reads = text.lines().filter(|line| line.contains("read") && line.contains(" = "));
    Some(reads.filter_map(|line| line.rsplit_once(" = ")?.1.trim().parse::<u64>().ok()).sum())
}

#[test]
fn describing_a_huge_image_reads_little() {
    for name in ["8G", "1T", "64T"] {
        let image = fixture(&format!("qcow2/v3-sparse-{name}.qcow2"));
        for args in [
            &["probe", image.text()][..],
            &["info", image.text()],
            &["info", "--output=json", image.text()],
        ] {
            let Some(read) = bytes_read(args) else { return };
            assert!((1000..MIB).contains(&read), "{args:?} read {read} bytes");
        }
        // a map reads the tables, and no data
        let Some(read) = bytes_read(&["map", image.text()]) else { return };
        assert!(read < 4 * MIB, "the map of {name} read {read} bytes");
    }
}

#[test]
fn memory_stays_bounded_whatever_the_clusters_and_the_size() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    let images = ["v3-zlib-2M", "v3-zstd-2M", "v3-cluster-2M", "v3-sparse-1T", "v3-zlib-512"];
    for image in images.map(|name| fixture(&format!("qcow2/{name}.qcow2"))) {
        for threads in ["1", "16", "64"] {
            let args = ["convert", "--threads", threads, image.text(), target.to_str().unwrap()];
            let Some((peak, _)) = measured(&args) else { return };
            assert!(peak < 64 * MIB, "{} with {threads} threads: {} KiB", image.file, peak >> 10);
        }
    }
    let image = fixture("qcow2/v3-sparse-64T.qcow2");
    for args in [&["info", image.text()][..], &["map", image.text()], &["probe", image.text()]] {
        let Some((peak, _)) = measured(args) else { return };
        assert!(peak < 64 * MIB, "{args:?}: {} KiB", peak >> 10);
    }
}

#[test]
fn a_long_chain_takes_no_more_memory_and_more_threads_take_no_more_work() {
    // the tables of each of these images would fill a cache of their own
    let dir = tempfile::tempdir().unwrap();
    for number in 0..40 {
        let backing = (number > 0).then(|| format!("{}.qcow2", number - 1));
        let (bytes, size) = qcow2::empty_tables(160, backing.as_deref().map(str::as_bytes));
        let path = dir.path().join(format!("{number}.qcow2"));
        write_sparse(&path, &bytes);
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(size).unwrap();
    }
    let [top, target] = ["39.qcow2", "out.raw"].map(|name| dir.path().join(name));
    let (top, target) = (top.to_str().unwrap(), target.to_str().unwrap());
    let with = |threads: &str| {
        let measured = measured(&["convert", "--allow-external", threads, top, target])?;
        assert!(measured.0 < 64 * MIB, "{threads}: {} KiB", measured.0 >> 10);
        assert_eq!(std::fs::metadata(target).unwrap().len(), 160 << 29);
        Some(measured.1)
    };
    let (Some(one), Some(many)) = (with("--threads=1"), with("--threads=16")) else { return };
    assert!(many < 4.0 * one + 1.0, "16 threads compute for {many} s, one for {one} s");
}

#[test]
fn the_largest_image_converts_where_the_file_system_allows() {
    let image = fixture("qcow2/v3-sparse-64T.qcow2");
    // many file systems end at 16 TiB; one in memory does not
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let target = dir.path().join("out.raw");
    let args = ["convert", "--threads=16", image.text(), target.to_str().unwrap()];
    let whole = diskimage(args);
    if whole.code == Some(1) {
        whole.refused(
            1,
            &target,
            &["a file of 70368744177664 bytes is more than", "another file system"],
        );
        assert!(entries(dir.path()).is_empty());
        return skipped("no file system here holds 64 TiB");
    }
    whole.ok();
    assert_eq!(std::fs::metadata(&target).unwrap().len(), 64 << 40);
    for sample in &image.samples {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; sample["length"].as_u64().unwrap() as usize];
        let file = std::fs::File::open(&target).unwrap();
        file.read_exact_at(&mut bytes, sample["offset"].as_u64().unwrap()).unwrap();
        assert_eq!(sha256(&bytes), sample["sha256"].as_str().unwrap());
    }
    assert!(allocated(&target) < MIB);
    let Some((peak, _)) = measured(&args) else { return };
    assert!(peak < 64 * MIB, "{} KiB", peak >> 10);
}

#[test]
fn too_little_memory_is_said_and_little_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.raw");
    let image = fixture("qcow2/v3-zlib-2M.qcow2");
    let with = |memory: &str| {
        diskimage(["convert", "--max-memory", memory, image.text(), target.to_str().unwrap()])
    };
    for memory in ["0", "64k", "4M"] {
        let words = ["a thread needs ", " bytes of memory", ": allow more with --max-memory"];
        with(memory).refused(1, &image.path, &words);
        assert!(entries(dir.path()).is_empty(), "{memory}");
    }
    with("8M").ok();
    assert_eq!(Some(sha256(&std::fs::read(&target).unwrap())), image.guest_sha256);
    for wrong in [["--threads", "0"], ["--threads", "many"], ["--max-memory", "lots"]] {
        let ran =
            diskimage(["convert", wrong[0], wrong[1], image.text(), target.to_str().unwrap()]);
        assert_eq!(ran.code, Some(2), "{wrong:?}");
    }
    assert!(Path::new(DISKIMAGE).exists());
}
