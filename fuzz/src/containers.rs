//! Archives and compressed files: what lies in them, and whatever the bytes are.

use std::io::{Cursor, Read};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex};

use diskimage::container::{Archive, Compressed, Container, Member};
use diskimage::format::probe::probe;
use diskimage::inspect::{Facts, Inspect, Policy, Verdict};
use diskimage::{Checking, Error, Format, Limits, OpenOptions, Storage, inside};

use crate::check_error;
use crate::input::Input;

/// Members larger than this are looked at in part.
const LARGEST: u64 = 256 << 10;

/// Takes `input` for an archive of this format. Its members lie within it and apart from each other,
/// and each reads the same in whole and in parts; a hole reads as zeros.
pub fn archive(format: Format, input: &Input) {
    let limits = Limits::default().within_memory(16 << 20);
    let storage: Arc<dyn Storage> = input.storage();
    let archive = match Archive::read(&storage, Path::new("fuzz"), format, &limits) {
        Ok(archive) => archive,
        Err(error) => return check_error(&error),
    };
    let mut behind = 0;
    for member in archive.members() {
        assert!(member.header >= behind, "{member:?} overlaps the one before it");
        assert!(member.data > member.header, "{member:?} overlaps its header");
        behind = member.data.checked_add(member.stored).expect("no offset wraps");
        assert!(behind <= storage.size(), "{member:?} reaches beyond the file");
        if member.is_file() {
            content(&archive, member);
        }
    }
    for finding in archive.describe().findings {
        assert!(!finding.message.contains(char::is_control), "{finding:?}");
    }
    let options = OpenOptions::new().limits(limits);
    for done in [
        inside::disks(&archive, &options).map(drop),
        inside::check(&archive, &options, &Checking::new()),
        archive.only_disk().map(drop),
    ] {
        if let Err(error) = done {
            check_error(&error);
        }
    }
    judged(input);
}

fn content(archive: &Archive, member: &Member) {
    let content = archive.open(member).expect("it lies in the archive");
    assert_eq!(content.size(), member.size);
    let size = content.size().min(LARGEST);
    let mut whole = vec![0xa5; size as usize];
    content.read_exact_at(&mut whole, 0).expect("it lies in the archive");
    let (mut at, mut data) = (0, 0);
    while at < size {
        let run = content.run_at(at, size - at).expect("memory can be asked");
        assert!(run.length > 0 && run.length <= size - at);
        let range = at as usize..(at + run.length) as usize;
        let mut part = vec![0x5a; range.len()];
        content.read_exact_at(&mut part, at).expect("here too");
        assert!(part == whole[range], "a part is another one alone");
        if run.hole {
            assert!(part.iter().all(|&byte| byte == 0), "a hole is no zeros");
        } else {
            data += run.length;
        }
        at += run.length;
    }
    assert!(size < content.size() || data == member.stored, "{data} of {member:?}");
    let behind = content.read_exact_at(&mut [0], content.size());
    check_error(&behind.expect_err("nothing lies behind the end"));
}

/// A verdict is one, of the file and of the same bytes as they come.
fn judged(input: &Input) {
    let inspect = || Inspect::new(Policy::permissive());
    let verdict =
        inspect().storage(input.storage(), Path::new("fuzz")).expect("memory can be read");
    let (passed, bytes) = inspect().read(Cursor::new(&input[..])).expect("here too");
    assert!(bytes <= input.len() as u64 + 1);
    let compressed = verdict.facts.format.is_some_and(Compressed::is_one);
    if compressed && !passed.early {
        assert_eq!(verdict.is_allowed(), passed.is_allowed(), "{verdict:?} {passed:?}");
    }
    // an archive that passed by, and all that it is was seen
    let archive = matches!(passed.facts.format, Some(Format::Tar | Format::Ova));
    if archive && !passed.early && !has_unseen(&passed.facts) {
        assert_eq!(verdict.is_allowed(), passed.is_allowed(), "{verdict:?} {passed:?}");
        let sizes = |verdict: &Verdict| {
            let inside = verdict.facts.inside.iter();
            inside.map(|i| (i.name.clone(), i.facts.virtual_size)).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&verdict), sizes(&passed));
    }
    for reason in verdict.reasons.iter().chain(&passed.reasons) {
        assert!(!reason.sentence.contains(char::is_control), "{reason:?}");
    }
}

fn has_unseen(facts: &Facts) -> bool {
    !facts.unseen.is_empty() || facts.inside.iter().any(|inside| has_unseen(&inside.facts))
}

/// Takes `input` for a compressed file: by one thread and by several it decodes to the same, or not
/// at all; and its start is the start of that.
pub fn wrapped(input: &Input) {
    let storage: Arc<dyn Storage> = input.storage();
    let found = probe(&storage).expect("memory can be read");
    let Some(format) = Container::format_of(&found).filter(|&f| Compressed::is_one(f)) else {
        return;
    };
    let compressed = Compressed::new(storage, Path::new("fuzz"), format, 32 << 20).limit(LARGEST);
    let decode = |threads, ascending| -> Result<Vec<u8>, Error> {
        let bytes = Mutex::new(vec![0; LARGEST as usize]);
        let size = compressed.decode(NonZeroUsize::new(threads), ascending, &|at, piece| {
            let at = at as usize;
            bytes.lock().expect("no thread panics")[at..at + piece.len()].copy_from_slice(piece);
            Ok(())
        })?;
        let mut bytes = bytes.into_inner().expect("no thread panics");
        bytes.truncate(size as usize);
        Ok(bytes)
    };
    let whole = decode(1, true);
    match (&whole, decode(4, false)) {
        (Ok(one), Ok(several)) => assert!(*one == several, "threads make a difference"),
        (Err(one), Err(several)) => {
            check_error(one);
            check_error(&several);
        }
        (one, several) => panic!("{one:?} by one thread, {several:?} by several"),
    }
    if let Ok(whole) = &whole {
        let mut read = Vec::new();
        let mut reader = compressed.reader().expect("it was decoded before");
        reader.read_to_end(&mut read).expect("here too");
        assert!(read == *whole);
        if input.len() < 500 << 10 {
            compressed.peek().expect("what can be decoded has a start");
        }
    } else if let Err(error) = compressed.peek() {
        check_error(&error);
    }
    judged(input);
}

/// Small archives and compressed files to start from.
#[must_use]
pub fn seeds(target: &str) -> Option<Vec<Vec<u8>>> {
    match target {
        "tar" => Some(vec![
            tar(&[header("a.raw", 1000, b'0', &[])], &[&disk()[..1000]]),
            old_sparse(),
            pax_sparse(),
            tar(
                &[
                    header("long", 9, b'L', &[]),
                    header("x", 3, b'0', &[]),
                    header("d/", 0, b'5', &[]),
                ],
                &[b"long name", b"abc", b""],
            ),
        ]),
        "ova" => Some(vec![ova(""), ova("ovf:compression=\"gzip\""), ova("ovf:chunkSize=\"5\"")]),
        "wrapped" => Some(vec![
            gzip(&disk()),
            [gzip(b"abc"), gzip(&disk()[..600])].concat(),
            zstd::bulk::compress(&disk(), 1).expect("it is small"),
            [0, 5000]
                .map(|at| zstd::bulk::compress(&disk()[at..at + 5000], 1).expect("so is it"))
                .concat(),
            BZIP2.to_vec(),
            XZ.to_vec(),
        ]),
        _ => None,
    }
}

/// Two blocks of xz, as `xz --block-size=300` writes 600 bytes of zeros.
const XZ: &[u8] = include_bytes!("../seeds/two-blocks.xz");
/// What `bzip2` writes of a text.
const BZIP2: &[u8] = include_bytes!("../seeds/text.bz2");

fn disk() -> Vec<u8> {
    let mut disk: Vec<u8> = (0..10_000u32).map(|i| ((i * i) >> 7) as u8).collect();
    disk[510..512].copy_from_slice(b"\x55\xaa");
    disk[3000..9000].fill(0);
    disk
}

/// Deflate without compression in one block.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u16).to_le_bytes();
    let mut out =
        vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, length[0], length[1], !length[0], !length[1]];
    out.extend(bytes);
    out.extend(crc32fast::hash(bytes).to_le_bytes());
    out.extend((bytes.len() as u32).to_le_bytes());
    out
}

/// A header, with some fields set at their places.
fn header(name: &str, size: usize, kind: u8, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\x000000000\x000000000\0");
    put(124, format!("{size:011o}\x0000000000000\0").as_bytes());
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    for (at, bytes) in fields {
        put(*at, bytes);
    }
    put(148, b"        ");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn tar(headers: &[Vec<u8>], contents: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for (header, content) in headers.iter().zip(contents) {
        out.extend(header);
        out.extend(*content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn old_sparse() -> Vec<u8> {
    let entry = |start: usize, length: usize| format!("{start:011o}\0{length:011o}\0");
    let map = [entry(0, 600), entry(9000, 1000), entry(10_000, 0)].concat();
    let size = format!("{:011o}\0", 10_000);
    let fields = [(257, &b"ustar  \0"[..]), (386, map.as_bytes()), (483, size.as_bytes())];
    let content = [&disk()[..600], &disk()[9000..]].concat();
    tar(&[header("sparse", 1600, b'S', &fields)], &[&content])
}

fn pax_sparse() -> Vec<u8> {
    let record = |text: &str| {
        let length = text.len() + 4;
        format!("{length} {text}\n")
    };
    let records: String = [
        "GNU.sparse.major=1",
        "GNU.sparse.minor=0",
        "GNU.sparse.name=s",
        "GNU.sparse.realsize=10000",
    ]
    .into_iter()
    .map(record)
    .collect();
    let mut content = b"2\n0\n600\n9000\n1000\n".to_vec();
    content.resize(512, 0);
    content.extend(&disk()[..600]);
    content.extend(&disk()[9000..]);
    let headers = [header("x", records.len(), b'x', &[]), header("y", content.len(), b'0', &[])];
    tar(&headers, &[records.as_bytes(), &content])
}

fn ova(more: &str) -> Vec<u8> {
    let ovf = format!(
        "<Envelope xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\"><References><File ovf:href=\"d\" \
         ovf:id=\"f\" ovf:size=\"10000\" {more}/></References><DiskSection><Disk ovf:diskId=\"i\" \
         ovf:fileRef=\"f\" ovf:capacity=\"10\" ovf:capacityAllocationUnits=\"byte * 2^10\"/></DiskSection>\
         <VirtualSystem ovf:id=\"vm\"/></Envelope>"
    );
    let manifest = "SHA1(d)= 0123456789012345678901234567890123456789\n";
    let headers = [
        header("v.ovf", ovf.len(), b'0', &[]),
        header("v.mf", manifest.len(), b'0', &[]),
        header("d", 10_000, b'0', &[]),
    ];
    tar(&headers, &[ovf.as_bytes(), manifest.as_bytes(), &disk()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_what_they_are_called() {
        for (target, format) in [("tar", Format::Tar), ("ova", Format::Ova)] {
            for seed in seeds(target).unwrap() {
                let storage: Arc<dyn Storage> = Input::new(seed).storage();
                let limits = Limits::default();
                let archive = Archive::read(&storage, Path::new("x"), format, &limits).unwrap();
                assert!(!archive.members().is_empty());
                assert!(format == Format::Tar || archive.ovf().is_some());
            }
        }
        for seed in seeds("wrapped").unwrap() {
            let storage: Arc<dyn Storage> = Input::new(seed).storage();
            let format = Container::format_of(&probe(&storage).unwrap()).unwrap();
            let file = Compressed::new(storage, Path::new("x"), format, 32 << 20);
            file.decode(None, true, &|_, _| Ok(())).unwrap();
        }
    }
}
