//! A seeded sweep of what is written, over targets, options, sizes and contents: the same bytes by
//! any number of threads, the same disk for our reader and qemu-img's, nothing wrong for either's
//! check. `DISKIMAGE_SWEEP=N` runs N rounds instead of a few.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;
#[path = "write/files.rs"]
mod files;
#[path = "write/parents.rs"]
mod parents;

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::path::Path;

use common::sweep::{Random, rounds};
use common::*;
use diskimage::check::Checking;
use diskimage::convert::measure;
use diskimage::disk::EmptyDisk;
use diskimage::format::qcow2::{CompressionType, Qcow2Options};
use diskimage::format::vdi::VdiOptions;
use diskimage::format::vhd::VhdOptions;
use diskimage::format::vhdx::VhdxOptions;
use diskimage::format::vmdk::{Subformat, VmdkOptions};
use diskimage::target::{FileTarget, FilesTarget, StreamTarget};
use diskimage::writer::{Forward, Full};
use diskimage::{
    Beneath, Chain, Convert, Format, OpenOptions, Progress, Target, VirtualDisk, Writer,
};

/// Writes a disk of `size` bytes with data, zeros and holes here and there.
fn disk(random: &mut Random, size: u64, path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for _ in 0..random.below(10) {
        let start = random.below(size.max(1));
        let length = [1, 511, 512, 4096, 70_000, 300_000, 1_500_000][random.below(7) as usize];
        let length = length.min(size - start);
        let kind = random.below(4);
        let word = format!("some words {} ", random.next());
        let bytes: Vec<u8> = match kind {
            0 => vec![0; length as usize],
            1 => (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect(),
            _ => word.bytes().cycle().take(length as usize).collect(),
        };
        file.write_all_at(&bytes[..length as usize], start).unwrap();
    }
}

fn raw(path: &Path) -> Chain {
    OpenOptions::new().format(Format::Raw).open(path).unwrap()
}

fn written(disk: &dyn VirtualDisk, writer: Box<dyn Writer>, threads: usize, path: &Path) {
    let target = FilesTarget::create(path, writer.files()).unwrap().durable(false);
    let job = Convert::new().threads(NonZeroUsize::new(threads).unwrap());
    job.image(disk, writer, None, &target).unwrap();
    Box::new(target).finish().unwrap();
}

/// Names and bytes of all files of a folder, by name.
fn files_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// What may open the files beside an image.
fn beside(path: &Path) -> OpenOptions {
    OpenOptions::new().resolver(Beneath::new(path.parent().unwrap()).unwrap())
}

fn streamed(disk: &dyn VirtualDisk, writer: Box<dyn Writer>, path: &Path) {
    let target = StreamTarget::new(std::fs::File::create(path).unwrap());
    Convert::new()
        .threads(NonZeroUsize::new(3).unwrap())
        .image(disk, writer, None, &target)
        .unwrap();
    Box::new(target).finish().unwrap();
}

fn qemu_img(args: &[&str], files: &[&Path]) {
    let args = args.iter().map(OsStr::new).chain(files.iter().map(|path| path.as_os_str()));
    tool_output("qemu-img", &args.collect::<Vec<_>>());
}

/// Everybody finds nothing wrong with it, and the disk that is meant.
fn accepted(path: &Path, format: Format, meant: &Path, what: &str) {
    let image = OpenOptions::new().open_image(path).unwrap();
    assert_eq!(image.layer().format(), format, "{what}");
    let report = image.check(Checking::new()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let found = (report.corruptions, report.leaks, report.check_errors);
    assert_eq!(found, (0, 0, 0), "{what}: {:?}", report.findings);
    assert_eq!(image.findings().unwrap(), [], "{what}");
    let size = std::fs::metadata(meant).unwrap().len();
    let disk = OpenOptions::new().open(path).unwrap();
    assert_eq!(disk.size(), size.next_multiple_of(512), "{what}");
    let (mut ours, wanted) = (content(&disk).unwrap(), std::fs::read(meant).unwrap());
    assert!(ours[wanted.len()..].iter().all(|&byte| byte == 0), "{what}");
    ours.truncate(wanted.len());
    assert!(ours == wanted, "{what}: the content differs");
    if format != Format::Vhd {
        qemu_img(&["check", "-q", "-f", format.name()], &[path]);
    }
    // it takes a footer at the start for that of a dynamic image, which a fixed one of no bytes has
    if size > 0 || format != Format::Vhd {
        qemu_img(&["compare", "-q", "-f", "raw", "-F", format.name()], &[meant, path]);
    }
}

/// By any number of threads, as a file and where it can as a stream, and of the size that was told.
fn whole(
    source: &Path,
    folder: &Path,
    format: Format,
    what: &str,
    make: &dyn Fn(u64) -> Box<dyn Writer>,
) {
    let disk = raw(source);
    let path = folder.join("image");
    let mut bytes: Option<Vec<u8>> = None;
    for threads in [1, 2, 7] {
        written(&disk, make(disk.size()), threads, &path);
        let these = std::fs::read(&path).unwrap();
        assert!(bytes.get_or_insert_with(|| these.clone()) == &these, "{what} by {threads}");
    }
    accepted(&path, format, source, what);
    let writer = make(disk.size());
    let measured = measure(&disk, &*writer, &Progress::new()).unwrap();
    let length = bytes.as_ref().unwrap().len() as u64;
    assert!(length <= measured.required, "{what}: {length}, {measured:?}");
    assert!(measured.required <= measured.full, "{what}: {measured:?}");
    if writer.forward() != Forward::Never {
        let stream = folder.join("stream");
        streamed(&disk, make(disk.size()), &stream);
        accepted(&stream, format, source, what);
        let length = std::fs::metadata(&stream).unwrap().len();
        match writer.forward() {
            Forward::ByMap => assert_eq!(length, measured.required, "{what}"),
            _ => assert!(std::fs::read(&stream).unwrap() == bytes.unwrap(), "{what}"),
        }
    }
}

const SIZES: &[u64] =
    &[0, 1, 511, 512, 513, 65_535, 65_537, 1_000_000, 5 << 20, (40 << 20) + 12_345];

/// Options of a QCOW2 that go together.
fn qcow2(random: &mut Random) -> Qcow2Options {
    let mut options = Qcow2Options::new();
    let bits = [9, 10, 12, 14, 16, 16, 18, 21][random.below(8) as usize];
    options = options.cluster_size(1 << bits);
    if random.below(5) == 0 {
        options = options.version(2);
    } else {
        options = options.refcount_bits(1 << random.below(7)).lazy_refcounts(random.below(4) == 0);
        if bits >= 14 && random.below(3) == 0 {
            options = options.extended_l2(true);
        }
        if random.below(3) == 0 {
            options = options.compression_type(CompressionType::Zstd);
        }
    }
    match random.below(4) {
        0 | 1 => options.compressed(true),
        2 => options.allocate(true),
        _ => options,
    }
}

#[test]
fn qcow2_is_what_was_read_whatever_the_options() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = folder.path().join("disk.raw");
    let mut random = Random(9);
    for round in 0..rounds(30) {
        let size = SIZES[round as usize % SIZES.len()];
        disk(&mut random, size, &source);
        let options = qcow2(&mut random);
        let what = format!("round {round}, {size} bytes, {options:?}");
        whole(&source, folder.path(), Format::Qcow2, &what, &|size| {
            Box::new(options.writer(size).unwrap())
        });
    }
}

#[test]
fn an_external_data_file_is_the_disk_and_the_image_its_tables() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = folder.path().join("source");
    let mut random = Random(12);
    for round in 0..rounds(20) {
        let size = SIZES[round as usize % SIZES.len()];
        disk(&mut random, size, &source);
        let raw_file = random.below(2) == 0;
        let bits = [9, 12, 14, 16, 21][random.below(5) as usize];
        let options = Qcow2Options::new().cluster_size(1 << bits).data_file("data", raw_file);
        let extended = bits >= 14 && random.below(2) == 0;
        let options = options.extended_l2(extended).allocate(random.below(3) == 0);
        let what = format!("round {round}, {size} bytes, {options:?}");
        let disk = raw(&source);
        let mut before = None;
        for threads in [1, 3] {
            let place = tempfile::tempdir_in(folder.path()).unwrap();
            let path = place.path().join("image");
            written(&disk, Box::new(options.writer(size).unwrap()), threads, &path);
            let files = files_of(place.path());
            let mut meant = std::fs::read(&source).unwrap();
            meant.resize(meant.len().next_multiple_of(512), 0);
            assert_eq!(files[0].0, "data");
            assert!(files[0].1 == meant, "{what}");
            assert!(before.get_or_insert_with(|| files.clone()) == &files, "{what}");
            let back = beside(&path).open(&path).unwrap();
            assert!(content(&back).unwrap() == meant, "{what}");
            let report = OpenOptions::new().open_image(&path).unwrap().check(Checking::new());
            let report = report.unwrap();
            let found = (report.corruptions, report.leaks, report.check_errors);
            assert_eq!(found, (0, 0, 0), "{what}: {:?}", report.findings);
            // by its name alone it is looked for in the working directory
            let text = |path: &Path| path.to_str().unwrap().to_owned();
            let (image, data) = (text(&path), text(&place.path().join("data")));
            let image = format!("driver=qcow2,file.filename={image},data-file.filename={data}");
            let disk = format!("driver=raw,file.filename={}", text(&source));
            qemu_img(&["check", "-q", "--image-opts", &image], &[]);
            qemu_img(&["compare", "-q", "--image-opts", &disk, &image], &[]);
        }
    }
    let refused = |options: Qcow2Options, word: &str| {
        let error = options.writer(1 << 20).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    let options = || Qcow2Options::new().data_file("data", true);
    refused(options().compressed(true), "cannot be compressed");
    refused(options().version(2), "version 3");
    refused(options().backing("b", None), "of a backing file");
    for name in ["", "a/b", "nbd:x", "..", "a\0"] {
        refused(Qcow2Options::new().data_file(name, false), "plain name");
    }
}

#[test]
#[cfg(feature = "checksum")]
fn clusters_of_the_same_content_are_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    // five contents, a dozen times each and not in step, and an end that is like none
    let mut random = Random(11);
    let kinds: Vec<Vec<u8>> =
        (0..5).map(|_| (0..64 << 7).flat_map(|_| random.next().to_le_bytes()).collect()).collect();
    let order: Vec<_> = (0..60).map(|_| random.below(5) as usize).collect();
    let mut bytes: Vec<u8> = order.iter().flat_map(|&kind| kinds[kind].clone()).collect();
    bytes.extend(&kinds[0][..5000]);
    std::fs::write(&source, &bytes).unwrap();
    for (cluster, bits) in
        [(64 << 10, 16), (64 << 10, 1), (64 << 10, 4), (4096, 16), (512, 2), (2 << 20, 8)]
    {
        for (compressed, version) in [(false, 3), (true, 3), (false, 2), (true, 2)] {
            if version == 2 && bits != 16 {
                continue;
            }
            let options = Qcow2Options::new().cluster_size(cluster).refcount_bits(bits);
            let options = options.version(version).compressed(compressed).dedupe(true);
            let what = format!("{options:?}");
            whole(&source, folder.path(), Format::Qcow2, &what, &|size| {
                Box::new(options.writer(size).unwrap())
            });
            let length = std::fs::metadata(folder.path().join("image")).unwrap().len();
            let (all, few) = (bytes.len() as u64, 1 << 20);
            // a count of one bit cannot be two, and clusters of 2 MiB are all different
            let shares = bits > 2 && cluster <= 64 << 10;
            assert_eq!(length < few, shares, "{length} of {all}: {what}");
        }
    }
}

#[test]
fn vmdk_is_what_was_read_whatever_the_options() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = folder.path().join("disk.raw");
    let mut random = Random(10);
    for round in 0..rounds(14) {
        let size = SIZES[round as usize % SIZES.len()];
        // a VMDK of nothing is refused by qemu-img
        let size = size.max(1);
        disk(&mut random, size, &source);
        let stream = round % 2 == 0;
        let kind = if stream { Subformat::StreamOptimized } else { Subformat::MonolithicSparse };
        let adapter = *random.pick(&[&"ide", &"lsilogic", &"buslogic"]);
        let options = VmdkOptions::new().subformat(kind).adapter(adapter).name("image");
        let what = format!("round {round}, {size} bytes, {options:?}");
        whole(&source, folder.path(), Format::Vmdk, &what, &|size| options.writer(size).unwrap());
    }
}

/// The formats of blocks: where blocks lie, what a table says, where the file ends.
#[test]
fn vhd_vhdx_and_vdi_are_what_was_read_whatever_the_options() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = folder.path().join("disk.raw");
    let mut random = Random(14);
    for round in 0..rounds(30) {
        let size = SIZES[round as usize % SIZES.len()];
        disk(&mut random, size, &source);
        let fixed = random.below(3) == 0;
        let block = 1 << (16 + random.below(6));
        let what = format!("round {round}, {size} bytes, blocks of {block}, fixed: {fixed}");
        let vhd = VhdOptions::new().fixed(fixed);
        let vhd = if fixed { vhd } else { vhd.block_size(block) };
        whole(&source, folder.path(), Format::Vhd, &what, &|size| {
            Box::new(vhd.writer(size).unwrap())
        });
        let vdi = VdiOptions::new().fixed(fixed);
        whole(&source, folder.path(), Format::Vdi, &what, &|size| {
            Box::new(vdi.writer(size).unwrap())
        });
        let vhdx = VhdxOptions::new().fixed(fixed).block_size(block.max(1 << 20));
        if size == 0 {
            vhdx.writer(0).unwrap_err();
            continue;
        }
        whole(&source, folder.path(), Format::Vhdx, &what, &|size| {
            Box::new(vhdx.writer(size).unwrap())
        });
    }
}

/// Tables of many pages, and the entries of sector bitmaps between those of VHDX blocks.
#[test]
fn far_blocks_are_found_again() {
    use std::os::unix::fs::FileExt;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = folder.path().join("disk.raw");
    let file = std::fs::File::create(&source).unwrap();
    let size = (70u64 << 30) + 512;
    file.set_len(size).unwrap();
    let places = [0, (4 << 30) - 1, 4 << 30, (33 << 30) + 777, size - 1];
    for (number, place) in places.into_iter().enumerate() {
        file.write_all_at(&[number as u8 + 1], place).unwrap();
    }
    let disk = raw(&source);
    let path = folder.path().join("image");
    let writers: [(Format, Box<dyn Writer>); 3] = [
        (Format::Vhd, Box::new(VhdOptions::new().block_size(512 << 10).writer(size).unwrap())),
        (Format::Vdi, Box::new(VdiOptions::new().writer(size).unwrap())),
        (Format::Vhdx, Box::new(VhdxOptions::new().block_size(1 << 20).writer(size).unwrap())),
    ];
    for (format, writer) in writers {
        written(&disk, writer, 2, &path);
        let back = OpenOptions::new().open(&path).unwrap();
        for (number, place) in places.into_iter().enumerate() {
            let mut byte = [0];
            back.read_exact_at(&mut byte, place).unwrap();
            assert_eq!(byte, [number as u8 + 1], "{format} at {place}");
        }
        let report = OpenOptions::new().open_image(&path).unwrap().check(Checking::new()).unwrap();
        assert_eq!((report.corruptions, report.leaks, report.check_errors), (0, 0, 0), "{format}");
        if format != Format::Vhdx {
            // which it reads whole, having no map of it
            qemu_img(&["compare", "-q", "-f", "raw", "-F", format.name()], &[&source, &path]);
        }
    }
}

/// Virtual PC's rule, by which QEMU reads images of the creators `vpc ` and `qemu`.
#[test]
fn a_vhd_by_geometry_has_the_size_that_qemu_makes_of_it() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for size in [1u64 << 20, 16 << 20, (1 << 30) + 512, 40 << 30, 120 << 30] {
        let (ours, theirs) = (folder.path().join("ours.vhd"), folder.path().join("theirs.vhd"));
        let writer = VhdOptions::new().by_geometry(true).writer(size).unwrap();
        let told = writer.size();
        written(&EmptyDisk(size), Box::new(writer), 2, &ours);
        assert_eq!(OpenOptions::new().open(&ours).unwrap().size(), told);
        let wanted = size.to_string();
        let args = ["create", "-q", "-f", "vpc"].map(OsStr::new);
        let args = [&args[..], &[theirs.as_os_str(), OsStr::new(&wanted)]].concat();
        let Some(_) = tool_output("qemu-img", &args) else { return };
        assert_eq!(OpenOptions::new().open(&theirs).unwrap().size(), told, "{size}");
    }
}

/// 7-Zip follows the specification where QEMU does not: it refuses streams without their markers.
#[test]
fn seven_zip_reads_what_is_written() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = folder.path().join("disk.raw");
    let mut random = Random(11);
    // it takes no VHDX of an odd number of sectors
    disk(&mut random, (3 << 20) + 4096, &source);
    let meant = std::fs::read(&source).unwrap();
    let image = raw(&source);
    let qcow2 = Qcow2Options::new();
    let vmdk = |kind| VmdkOptions::new().subformat(kind).writer(image.size()).unwrap();
    let writers: Vec<(&str, Box<dyn Writer>)> = vec![
        ("plain.qcow2", Box::new(qcow2.writer(image.size()).unwrap())),
        ("packed.qcow2", Box::new(qcow2.compressed(true).writer(image.size()).unwrap())),
        ("stream.vmdk", vmdk(Subformat::StreamOptimized)),
        ("sparse.vmdk", vmdk(Subformat::MonolithicSparse)),
        ("dynamic.vhd", Box::new(VhdOptions::new().writer(image.size()).unwrap())),
        ("fixed.vhd", Box::new(VhdOptions::new().fixed(true).writer(image.size()).unwrap())),
        ("dynamic.vdi", Box::new(VdiOptions::new().writer(image.size()).unwrap())),
        ("fixed.vdi", Box::new(VdiOptions::new().fixed(true).writer(image.size()).unwrap())),
        ("dynamic.vhdx", Box::new(VhdxOptions::new().writer(image.size()).unwrap())),
        ("fixed.vhdx", Box::new(VhdxOptions::new().fixed(true).writer(image.size()).unwrap())),
    ];
    for (name, writer) in writers {
        let path = folder.path().join(name);
        written(&image, writer, 2, &path);
        let args = [OsStr::new("x"), OsStr::new("-so"), path.as_os_str()];
        let Some(theirs) = tool_output("7z", &args) else { return };
        assert!(theirs == meant, "{name}: {} bytes", theirs.len());
    }
}

/// Matches at every distance that deflate has: QEMU's own encoder goes no farther back than 4 KiB,
/// and its decoder is told so.
#[test]
fn readers_take_matches_at_every_distance() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = folder.path().join("disk.raw");
    let mut random = Random(12);
    for cluster in [64u64 << 10, 2 << 20] {
        let mut bytes: Vec<u8> = Vec::new();
        let all = rounds(1) > 1;
        // without the long sweep, every 97th distance and those around powers of two
        let wanted = |d: u64| all || d % 97 == 1 || (d & (d - 1)) == 0 || d >= 32_760;
        let mut distances = (1..=32_768u64).filter(|&d| wanted(d)).peekable();
        while distances.peek().is_some() {
            let mut unit: Vec<u8> = Vec::new();
            while let Some(&distance) = distances.peek() {
                // what was not there before, and then a piece of it again from so far back
                let fresh = (0..distance.div_ceil(8)).flat_map(|_| random.next().to_le_bytes());
                let start = unit.len();
                if start + distance as usize + 40 > cluster as usize {
                    break;
                }
                unit.extend(fresh.take(distance as usize));
                (0..40).for_each(|at| unit.push(unit[start + at]));
                distances.next();
            }
            unit.resize(cluster as usize, 7);
            bytes.extend(unit);
        }
        std::fs::write(&source, &bytes).unwrap();
        let disk = raw(&source);
        for level in [1, 6, 9] {
            let options = Qcow2Options::new().cluster_size(cluster).compressed(true).level(level);
            let path = folder.path().join("far.qcow2");
            written(&disk, Box::new(options.writer(disk.size()).unwrap()), 2, &path);
            accepted(&path, Format::Qcow2, &source, &format!("clusters of {cluster}, {level}"));
        }
        let path = folder.path().join("far.qcow2");
        let args = [OsStr::new("x"), OsStr::new("-so"), path.as_os_str()];
        let Some(theirs) = tool_output("7z", &args) else { return };
        assert!(theirs == bytes, "7-Zip, clusters of {cluster}");
    }
}

#[test]
fn only_what_differs_from_the_backing_file_is_written() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (base, top) = (folder.path().join("base.raw"), folder.path().join("top.raw"));
    let mut random = Random(13);
    for round in 0..rounds(8) {
        disk(&mut random, (3 << 20) + 5 * 512, &base);
        // the same disk but for some bytes, some of them zeros; longer or shorter
        let mut bytes = std::fs::read(&base).unwrap();
        bytes.resize([2 << 20, (3 << 20) + 5 * 512, 4 << 20][random.below(3) as usize], 0);
        for kind in 0..6 {
            let at = random.below(bytes.len() as u64) as usize;
            let end = (at + 100_000).min(bytes.len());
            bytes[at..end].fill(if kind < 3 { 0 } else { kind });
        }
        std::fs::write(&top, &bytes).unwrap();
        let mut options = qcow2(&mut random).allocate(false);
        options = options.backing("base.raw", Some("raw"));
        let (below, disk) = (raw(&base), raw(&top));
        let path = folder.path().join("top.qcow2");
        let what = format!("round {round}: {options:?}");
        let writer = Box::new(options.writer(disk.size()).unwrap());
        let target = FileTarget::create(&path, 0).unwrap().durable(false);
        let done = Convert::new().image(&disk, writer, Some(&below), &target).unwrap();
        Box::new(target).finish().unwrap();
        assert!(done.written <= bytes.len() as u64, "{what}");
        let allow = diskimage::Beneath::new(folder.path()).unwrap();
        let back = OpenOptions::new().resolver(allow).open(&path).unwrap();
        assert!(content(&back).unwrap() == bytes, "{what}");
        let report = OpenOptions::new().open_image(&path).unwrap().check(Checking::new()).unwrap();
        assert_eq!((report.corruptions, report.leaks, report.check_errors), (0, 0, 0), "{what}");
        qemu_img(&["check", "-q"], &[&path]);
        qemu_img(&["compare", "-q", "-f", "raw", "-F", "qcow2"], &[&top, &path]);
    }
    // of what is all the same nothing is written
    let writer = Qcow2Options::new().backing("base.raw", Some("raw")).writer(raw(&base).size());
    let target = Memory::new(1 << 20);
    let same = raw(&base);
    let done = Convert::new().image(&same, Box::new(writer.unwrap()), Some(&same), &target);
    assert_eq!(done.unwrap().written, 0);
}

#[test]
fn the_identifier_tells_contents_apart() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut seen = Vec::new();
    for (content, seed) in [("one", ""), ("two", ""), ("two", "x")] {
        let source = folder.path().join("disk.raw");
        std::fs::write(&source, content.repeat(100_000)).unwrap();
        let disk = raw(&source);
        let path = folder.path().join("image.vmdk");
        let options = VmdkOptions::new().seed(seed);
        written(&disk, options.writer(disk.size()).unwrap(), 2, &path);
        let head = std::fs::read(&path).unwrap()[512..2048].to_vec();
        let text = String::from_utf8(head).unwrap();
        seen.push(text.lines().find(|line| line.starts_with("CID=")).unwrap().to_owned());
    }
    seen.dedup();
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let refused = |options: Qcow2Options, word: &str| {
        let error = options.writer(1 << 30).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert!(error.advice().is_some(), "{error}");
    };
    let new = Qcow2Options::new;
    refused(new().version(4), "version 4");
    refused(new().cluster_size(256), "256 bytes");
    refused(new().cluster_size(4 << 20), "4194304 bytes");
    refused(new().cluster_size(65_537), "65537 bytes");
    refused(new().refcount_bits(3), "3 bits");
    refused(new().refcount_bits(128), "128 bits");
    refused(new().version(2).extended_l2(true), "extended_l2");
    refused(new().version(2).compression_type(CompressionType::Zstd), "zstd");
    refused(new().cluster_size(8192).extended_l2(true), "16 KiB");
    refused(new().compressed(true).level(40), "level");
    refused(new().compressed(true).allocate(true), "set aside");
    refused(new().backing("x".repeat(1024), None), "longer than 1023");
    refused(new().backing("", None), "empty");
    refused(new().backing("nbd:somewhere", None), "protocol");
    assert!(new().backing("./a:b", None).writer(1 << 20).is_ok());
    refused(new().cluster_size(512).backing("x".repeat(450), None), "take up");
    let large = new().cluster_size(512).writer(1 << 40).unwrap_err();
    assert!(large.to_string().contains("can map"), "{large}");
    // and the largest that can be takes no time to lay out
    let huge = new().writer(1 << 50).unwrap();
    let measured = measure(&EmptyDisk(1 << 50), &huge, &Progress::new()).unwrap();
    assert!(measured.required < 64 << 20 && measured.full == huge.file_size(&Full).unwrap());
}
