//! Checksums of content: equal to what the usual tools say of the raw disk, whatever the format and
//! the number of threads; and an error, never a checksum, where something cannot be read.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::*;
use diskimage::checksum::{Algorithm, Block, Checksum, Manifest};
use diskimage::storage::{Fault, FaultStorage, MemoryStorage};
use diskimage::target::StreamTarget;
use diskimage::{
    Beneath, Chain, Convert, ErrorKind, OpenOptions, Progress, Result, Storage, VirtualDisk,
};
use sha2::{Digest, Sha256};

/// The programs whose answers count, but for CRC-32.
const TOOLS: &[(Algorithm, &str)] = &[
    (Algorithm::Sha256, "sha256sum"),
    (Algorithm::Sha512, "sha512sum"),
    (Algorithm::Sha1, "sha1sum"),
    (Algorithm::Md5, "md5sum"),
    (Algorithm::Blake3, "b3sum"),
];

fn of_all() -> Checksum {
    Algorithm::ALL.iter().fold(Checksum::new(), |job, &algorithm| job.algorithm(algorithm))
}

fn text(job: &Checksum, disk: &dyn VirtualDisk) -> Vec<String> {
    job.run(disk).unwrap().iter().map(ToString::to_string).collect()
}

/// The block hash by its definition.
fn blkhash(bytes: &[u8], block: usize) -> String {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(512), 0);
    let mut outer = Sha256::new();
    padded.chunks(block).for_each(|block| outer.update(Sha256::digest(block)));
    outer.update((padded.len() as u64).to_le_bytes());
    hex(&outer.finalize())
}

/// A raw disk in memory.
fn raw(bytes: Vec<u8>) -> Chain {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes));
    OpenOptions::new().format(diskimage::Format::Raw).open_storage(storage, "raw".as_ref()).unwrap()
}

/// What a tool says of files, by name.
fn said_by(program: &str, args: &[&str], folder: &Path) -> Option<HashMap<String, String>> {
    let mut command = vec![std::ffi::OsStr::new("-c")];
    let script = format!("cd '{}' && {program} {} *", folder.display(), args.join(" "));
    tool(program, &["--version".as_ref()])?;
    command.push(script.as_ref());
    let output = String::from_utf8(tool_output("sh", &command)?).unwrap();
    let pair = |line: &str| {
        let (hash, name) = line.split_once("  ").unwrap();
        (name.to_owned(), hash.to_owned())
    };
    Some(output.lines().map(pair).collect())
}

#[test]
fn every_fixture_has_the_checksums_of_its_raw_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut ours = HashMap::new();
    // neighbours are alike
    let some = small_fixtures().filter(|f| f.virtual_size <= 16 << 20);
    for (index, fixture) in some.step_by(common::sweep::every(2)).enumerate() {
        let disk = open_fixture(fixture).unwrap();
        let bytes = content(&disk).unwrap();
        let name = format!("{index:03}");
        write_sparse(&dir.path().join(&name), &bytes);
        let digests = of_all().run(&disk).unwrap();
        for (digest, &algorithm) in digests.iter().zip(Algorithm::ALL) {
            assert_eq!(digest.algorithm, algorithm);
            assert_eq!(digest.bytes.len(), algorithm.digest_length());
            match algorithm {
                Algorithm::Sha256 => {
                    assert_eq!(Some(digest.to_string()), fixture.guest_sha256, "{}", fixture.file);
                }
                Algorithm::Blkhash => {
                    assert_eq!(digest.to_string(), blkhash(&bytes, 65_536), "{}", fixture.file);
                }
                _ => {}
            }
            ours.insert((name.clone(), algorithm), (digest.to_string(), &fixture.file));
        }
    }
    assert!(ours.len() > 700);
    let script = "import sys, zlib\nfor f in sys.argv[1:]: print('%08x  %s' % (zlib.crc32(open(f, 'rb').read()), f))";
    let script = format!("-c \"{script}\"");
    let crc32 = (Algorithm::Crc32, "python3", vec![&*script]);
    let others = TOOLS.iter().map(|&(algorithm, program)| (algorithm, program, vec![]));
    for (algorithm, program, args) in others.chain([crc32]) {
        let Some(theirs) = said_by(program, &args, dir.path()) else { continue };
        for ((name, _), (digest, file)) in ours.iter().filter(|((_, a), _)| *a == algorithm) {
            assert_eq!(digest, &theirs[name], "{algorithm} of {file}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    // smaller disks are one piece of work
    let large = small_fixtures().filter(|f| ((1 << 20) + 1..=8 << 20).contains(&f.virtual_size));
    for fixture in large.step_by(common::sweep::every(3)) {
        let disk = open_fixture(fixture).unwrap();
        let wanted = text(&of_all().threads(threads(1)), &disk);
        for count in [2, 3, 16] {
            let got = text(&of_all().threads(threads(count)), &disk);
            assert_eq!(got, wanted, "{} by {count} threads", fixture.file);
        }
        // each alone, as it is seldom asked for with others
        for (algorithm, wanted) in Algorithm::ALL.iter().zip(&wanted) {
            let got = text(&Checksum::new().algorithm(*algorithm).threads(threads(3)), &disk);
            assert_eq!(got, std::slice::from_ref(wanted), "{} {algorithm}", fixture.file);
        }
    }
}

#[test]
fn disks_of_all_sizes_around_segments_have_the_right_checksums() {
    // the tree of BLAKE3 has another shape at each of them
    const MIB: usize = 1 << 20;
    let bytes: Vec<u8> = (0..9 * MIB).map(|i| (i % 251) as u8 ^ (i >> 16) as u8).collect();
    let sizes = [0, 1, 511, 513, 1024, 1025, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB, 4 * MIB];
    for size in
        sizes.into_iter().chain([4 * MIB + 1, 5 * MIB, 6 * MIB + 7, 7 * MIB, 8 * MIB, 9 * MIB])
    {
        let disk = raw(bytes[..size].to_vec());
        let got = text(&of_all().threads(threads(3)), &disk);
        let wanted = [
            (Algorithm::Sha256, sha256(&bytes[..size])),
            (Algorithm::Blake3, blake3::hash(&bytes[..size]).to_string()),
            (Algorithm::Crc32, format!("{:08x}", crc32fast::hash(&bytes[..size]))),
            (Algorithm::Blkhash, blkhash(&bytes[..size], 65_536)),
        ];
        for (algorithm, wanted) in wanted {
            let place = Algorithm::ALL.iter().position(|a| *a == algorithm).unwrap();
            assert_eq!(got[place], wanted, "{algorithm} of {size} bytes");
        }
    }
}

/// The content that a line of the vectors speaks of.
fn vector_content(name: &str, size: usize) -> Vec<u8> {
    let byte = |i: usize| match name {
        "zeros" => 0,
        "mod251" => (i % 251) as u8,
        "sparse" if i % (8 << 20) < 1 << 20 => 0x55,
        "sparse" => 0,
        other => panic!("what is {other}?"),
    };
    (0..size).map(byte).collect()
}

fn check_vector(name: &str, size: usize, block: u64, value: &str) {
    let job = Checksum::new().algorithm(Algorithm::Blkhash).blkhash_block(block);
    let bytes = vector_content(name, size);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    // with holes, which are not read, and without
    write_sparse(&path, &bytes);
    let sparse = OpenOptions::new().format(diskimage::Format::Raw).open(&path).unwrap();
    for count in [1, 3] {
        let job = job.clone().threads(threads(count));
        assert_eq!(text(&job, &sparse), [value], "{name} {size} {block}, sparse");
        assert_eq!(text(&job, &raw(bytes.clone())), [value], "{name} {size} {block}");
    }
}

#[test]
fn block_hashes_are_those_of_blksum() {
    for (name, size, block, value) in [
        ("zeros", 0, 65_536, "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc"),
        (
            "mod251",
            65_537,
            131_072,
            "c26a21e4d7e5a0e3f0428c074edf0b6f69c1c5f70ef36bb63178c7ac7856e104",
        ),
        (
            "sparse",
            16_777_216,
            65_536,
            "d7ac0804fff2e142e5597d098c47f0a63dfda00bb9b3bb9507ff523f2a9c06f0",
        ),
    ] {
        check_vector(name, size, block, value);
    }
    let vectors = root().join("../shared/blkhash-vectors.tsv");
    let Ok(vectors) = std::fs::read_to_string(vectors) else {
        eprintln!("skipped: there are no vectors at ../shared/blkhash-vectors.tsv");
        return;
    };
    let lines: Vec<Vec<&str>> = vectors.lines().skip(1).map(|l| l.split('\t').collect()).collect();
    assert_eq!(lines.len(), 51);
    for line in lines {
        let block = if line[3] == "default" { 65_536 } else { line[3].parse().unwrap() };
        check_vector(line[0], line[1].parse().unwrap(), block, line[4]);
    }
}

#[test]
fn third_party_images_have_the_checksum_of_independent_readers() {
    let readable = |format: &str, verdict: &str| {
        format.parse().is_ok_and(diskimage::Format::is_read)
            && (verdict.starts_with("ok") || verdict.starts_with("needs-log-replay"))
    };
    for image in corpus_images(readable) {
        let disk = OpenOptions::new()
            .format(image.format.parse().unwrap())
            .resolver(Beneath::new(image.path.parent().unwrap()).unwrap())
            .trust_broken(image.comment.contains("checksum wrong"))
            .open(&image.path)
            .unwrap_or_else(|e| panic!("{}: {e}", image.name));
        let got = Checksum::new().run(&disk).unwrap_or_else(|e| panic!("{}: {e}", image.name));
        assert_eq!(Some(got[0].to_string()), image.guest_sha256, "{}", image.name);
    }
}

#[test]
fn a_run_of_zeros_costs_nothing_and_counts_in_full() {
    let huge = open_fixture(fixture("qcow2/v3-sparse-64T.qcow2")).unwrap();
    let start = Instant::now();
    let crc32 = Checksum::new().algorithm(Algorithm::Crc32);
    text(&crc32, &huge);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    // by the map, by looking, and by another implementation
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zeros");
    std::fs::File::create(&path).unwrap().set_len((100 << 20) + 5).unwrap();
    let hole = OpenOptions::new().format(diskimage::Format::Raw).open(&path).unwrap();
    let wanted = crc32fast::hash(&vec![0; (100 << 20) + 5]);
    assert_eq!(text(&crc32, &hole), [format!("{wanted:08x}")]);
}

fn open(fixture: &Fixture, bytes: &[u8], fault: Fault) -> Result<Chain> {
    let storage: Arc<dyn Storage> =
        Arc::new(FaultStorage::new(MemoryStorage::new(bytes.to_vec()), fault));
    let options = OpenOptions::new().format(fixture.format.parse().unwrap());
    options.open_storage(storage, Path::new("faulty"))
}

/// Fixtures that stand alone and are quick to read many times.
fn candidates() -> impl Iterator<Item = &'static Fixture> {
    small_fixtures().filter(|f| f.parents.is_empty() && f.virtual_size <= 4 << 20)
}

#[test]
fn whichever_read_fails_there_is_no_checksum() {
    for fixture in candidates() {
        let bytes = std::fs::read(&fixture.path).unwrap();
        for n in 0..100 {
            let job = of_all().threads(threads(1 + n as usize % 3));
            match open(fixture, &bytes, Fault::NthRead(n)).and_then(|disk| job.run(&disk)) {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Io, "{} read {n}: {error}", fixture.file);
                    assert!(error.offset().is_some(), "{} read {n}: {error}", fixture.file);
                }
                // there is no n-th read
                Ok(digests) => {
                    assert_eq!(Some(digests[0].to_string()), fixture.guest_sha256);
                    break;
                }
            }
        }
    }
}

#[test]
fn an_unreadable_or_lost_end_is_an_error_or_not_needed() {
    let mut failures = 0;
    for fixture in candidates() {
        let bytes = std::fs::read(&fixture.path).unwrap();
        let (length, cut) = (bytes.len() as u64, bytes.len() * 3 / 4);
        for count in [1, 2, 3, 16] {
            let job = Checksum::new().threads(threads(count));
            let fault = Fault::Bytes { start: cut as u64, end: length };
            let faulty = open(fixture, &bytes, fault).and_then(|disk| job.run(&disk));
            let none = Fault::NthRead(u64::MAX);
            let short = open(fixture, &bytes[..cut], none).and_then(|disk| job.run(&disk));
            for (result, is_cut) in [(faulty, false), (short, true)] {
                match result {
                    Err(_) => failures += 1,
                    // a raw disk of any length is whole
                    Ok(_) if is_cut && fixture.format == "raw" => {}
                    Ok(digests) => {
                        let got = Some(digests[0].to_string());
                        assert_eq!(got, fixture.guest_sha256, "{}", fixture.file);
                    }
                }
            }
        }
    }
    assert!(failures > 100, "only {failures} failures");
}

#[test]
fn it_stops_when_asked_to() {
    // eight GiB of zeros take seconds to hash
    let disk = open_fixture(fixture("qcow2/v3-sparse-8G.qcow2")).unwrap();
    for algorithm in [Algorithm::Md5, Algorithm::Blake3] {
        let progress = Arc::new(Progress::new());
        let job = Checksum::new().algorithm(algorithm).progress(Arc::clone(&progress));
        let start = Instant::now();
        let error = std::thread::scope(|scope| {
            let running = scope.spawn(|| job.run(&disk));
            while progress.done() == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            progress.cancel();
            running.join().unwrap().unwrap_err()
        });
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}

#[test]
fn progress_reaches_the_whole() {
    for name in ["qcow2/v3-zlib-2M.qcow2", "qcow2/v3-sparse-64T.qcow2", "cloud.qcow2"] {
        let disk = open_fixture(fixture(name)).unwrap();
        let progress = Arc::new(Progress::new());
        let job = Checksum::new().algorithm(Algorithm::Crc32).progress(Arc::clone(&progress));
        job.run(&disk).unwrap();
        assert_eq!((progress.done(), progress.total()), (disk.size(), disk.size()), "{name}");
    }
}

#[test]
fn a_conversion_is_hashed_in_the_same_pass() {
    for fixture in small_fixtures().filter(|f| f.virtual_size <= 8 << 20) {
        let disk = open_fixture(fixture).unwrap();
        let wanted = content(&disk).unwrap();
        assert_eq!(Some(sha256(&wanted)), fixture.guest_sha256, "{}", fixture.file);
        for (count, sparse) in [(1, None), (2, Some(0)), (3, Some(65_536)), (16, None)] {
            let mut job = Convert::new().threads(threads(count));
            if let Some(sparse) = sparse {
                job = job.sparse(sparse);
            }
            let target = Memory::new(disk.size());
            let (report, digests) = Checksum::new().convert(&job, &disk, &target).unwrap();
            assert_eq!(report.size, disk.size());
            assert_eq!(Some(digests[0].to_string()), fixture.guest_sha256, "{}", fixture.file);
            assert!(target.0.into_inner().unwrap() == wanted, "{}", fixture.file);
            let written = Arc::new(Mutex::new(Vec::new()));
            let stream = StreamTarget::new(Kept(Arc::clone(&written)));
            let (_, digests) = Checksum::new().convert(&job, &disk, &stream).unwrap();
            assert_eq!(Some(digests[0].to_string()), fixture.guest_sha256, "{}", fixture.file);
            assert!(*written.lock().unwrap() == wanted, "{}", fixture.file);
        }
    }
}

/// A stream that is kept.
struct Kept(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Kept {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn manifest_of(disk: &Chain, algorithm: Algorithm, block: u64, count: usize) -> Manifest {
    let mut manifest = Manifest::new(algorithm, block, disk.size()).unwrap();
    let job = Checksum::new().algorithm(algorithm).threads(threads(count));
    job.blocks(disk, block, |block| manifest.push(block)).unwrap();
    manifest
}

#[test]
fn manifests_hold_the_hash_of_every_block_and_name_what_differs() {
    let size = (3 << 20) + 700;
    let mut bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
    bytes[1 << 20..2 << 20].fill(0);
    let disk = raw(bytes.clone());
    let mut told = Vec::new();
    let tell = |block: Block<'_>| {
        told.push(match block {
            Block::Digest(digest) => hex(digest),
            Block::Zeros(blocks) => blocks.to_string(),
        });
        Ok(())
    };
    Checksum::new().blocks(&disk, 1 << 19, tell).unwrap();
    let wanted = |block: usize| sha256(bytes.chunks(1 << 19).nth(block).unwrap());
    let (a, b, c, d, e) = (wanted(0), wanted(1), wanted(4), wanted(5), wanted(6));
    assert_eq!(told, [a, b, "2".to_owned(), c, d, e]);

    for algorithm in [Algorithm::Sha256, Algorithm::Blake3, Algorithm::Crc32, Algorithm::Md5] {
        for block in [512, 4096, 65_536, 4 << 20] {
            let manifest = manifest_of(&disk, algorithm, block, 3);
            assert_eq!(manifest, manifest_of(&disk, algorithm, block, 1));
            assert_eq!(manifest.verify(&Checksum::new(), &disk).unwrap(), []);
            let mut other = bytes.clone();
            for at in [5, 4096 + 5, (1 << 20) + 65_536 * 3, size - 1] {
                other[at] ^= 1;
            }
            let unit = |at: u64| at / block * block;
            let end = |at: u64| (unit(at) + block).min(size as u64);
            let mut wanted: Vec<std::ops::Range<u64>> = Vec::new();
            for at in [5, 4096 + 5, (1 << 20) + 65_536 * 3, size as u64 - 1] {
                match wanted.last_mut() {
                    Some(last) if last.end >= unit(at) => last.end = end(at),
                    _ => wanted.push(unit(at)..end(at)),
                }
            }
            let got = manifest.verify(&Checksum::new(), &raw(other)).unwrap();
            assert_eq!(got, wanted, "{algorithm} {block}");
            // a shorter and a longer disk differ from the last common block on
            for length in [size - 10_000, size + 10_000] {
                let mut other = bytes.clone();
                other.resize(length, 0);
                let start = unit(length.min(size) as u64);
                let got = manifest.verify(&Checksum::new(), &raw(other)).unwrap();
                let rest = start..length.max(size) as u64;
                assert_eq!(got, std::slice::from_ref(&rest), "{algorithm} {block} {length}");
            }
        }
    }
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    assert!(Manifest::new(Algorithm::Sha256, 1000, 0).is_err());
    assert!(Manifest::new(Algorithm::Sha256, 8 << 20, 0).is_err());
    assert!(Manifest::new(Algorithm::Blkhash, 4096, 0).is_err());
    let mut manifest = Manifest::new(Algorithm::Crc32, 4096, 10_000).unwrap();
    assert!(manifest.push(Block::Digest(&[1, 2, 3])).is_err());
    let error = manifest.verify(&Checksum::new(), &raw(vec![0; 10_000])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "a block is missing: {error}");
    manifest.push(Block::Zeros(3)).unwrap();
    assert_eq!(manifest.verify(&Checksum::new(), &raw(vec![0; 10_000])).unwrap(), []);
    assert!(manifest.push(Block::Zeros(1)).is_err());
    assert!(manifest.push(Block::Zeros(u64::MAX)).is_err());
}
