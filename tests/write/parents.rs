//! Images that differ from a parent of their own format.

use super::*;
use diskimage::Layer;

/// What makes the writer of a disk of so many bytes, over a parent if there is one, by its name.
type Make<'a> = &'a dyn Fn(u64, Option<(&str, &dyn Layer)>) -> diskimage::Result<Box<dyn Writer>>;

fn vmdk(options: &VmdkOptions, size: u64, parent: Option<(&str, &dyn Layer)>) -> Made {
    let options = options.clone();
    match parent {
        Some((name, layer)) => options.parent(name, layer)?.writer(size),
        None => options.writer(size),
    }
}

type Made = diskimage::Result<Box<dyn Writer>>;

fn vhd(options: &VhdOptions, size: u64, parent: Option<(&str, &dyn Layer)>) -> Made {
    let options = options.clone();
    match parent {
        Some((name, layer)) => Ok(Box::new(options.parent(name, layer)?.writer(size)?)),
        None => Ok(Box::new(options.writer(size)?)),
    }
}

fn vhdx(options: &VhdxOptions, size: u64, parent: Option<(&str, &dyn Layer)>) -> Made {
    let options = options.clone();
    match parent {
        Some((name, layer)) => Ok(Box::new(options.parent(name, layer)?.writer(size)?)),
        None => Ok(Box::new(options.writer(size)?)),
    }
}

/// The same disk but for some bytes, many of them zeros.
fn changed(random: &mut Random, mut bytes: Vec<u8>, size: usize) -> Vec<u8> {
    bytes.resize(size, 0);
    for kind in 0..6 {
        let at = random.below(bytes.len() as u64) as usize;
        let length = [1, 512, 5000, 100_000, 2_500_000][random.below(5) as usize];
        let end = (at + length).min(bytes.len());
        bytes[at..end].fill(if kind < 3 { 0 } else { kind });
    }
    bytes
}

/// Writes `top` as a child of the image `base`, by any number of threads the same, into `path`.
fn child(base: &Path, top: &Path, path: &Path, make: Make<'_>, what: &str) {
    let (below, disk) = (beside(base).open(base).unwrap(), raw(top));
    let name = base.file_name().unwrap().to_str().unwrap();
    let mut bytes: Option<Vec<u8>> = None;
    for threads in [1, 2, 7] {
        let parent = below.images()[0].layer();
        let writer =
            make(disk.size(), Some((name, parent))).unwrap_or_else(|e| panic!("{what}: {e}"));
        let target = FilesTarget::create(path, writer.files()).unwrap().durable(false);
        let job = Convert::new().threads(NonZeroUsize::new(threads).unwrap());
        job.image(&disk, writer, Some(&below), &target).unwrap();
        Box::new(target).finish().unwrap();
        let these = std::fs::read(path).unwrap();
        assert!(bytes.get_or_insert_with(|| these.clone()) == &these, "{what} by {threads}");
    }
    let image = OpenOptions::new().open_image(path).unwrap();
    let report = image.check(Checking::new()).unwrap();
    let found = (report.corruptions, report.leaks, report.check_errors);
    assert_eq!(found, (0, 0, 0), "{what}: {:?}", report.findings);
    let back = beside(path).open(path).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(back.images().len(), below.images().len() + 1, "{what}");
    assert!(content(&back).unwrap() == std::fs::read(top).unwrap(), "{what}: the content differs");
}

/// A parent, its child and the child's child. Each of them as others read it, which `read` tells.
fn family(
    random: &mut Random,
    ending: &str,
    size: u64,
    grow: u64,
    make: Make<'_>,
    read: &dyn Fn(&Path, &Path),
) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = dir.path().join("source.raw");
    disk(random, size, &source);
    let mut base = dir.path().join(format!("base.{ending}"));
    written(&raw(&source), make(size, None).unwrap(), 2, &base);
    for (generation, size) in [(1, size + grow), (2, size + grow)] {
        let bytes = changed(random, std::fs::read(&source).unwrap(), size as usize);
        std::fs::write(&source, bytes).unwrap();
        let path = dir.path().join(format!("child {generation}.{ending}"));
        child(&base, &source, &path, make, &format!("{ending}, {size}, generation {generation}"));
        read(&source, &path);
        base = path;
    }
}

fn seven_zip(kind: &str, meant: &Path, path: &Path) {
    let kind = format!("-t{kind}");
    let args = [OsStr::new("x"), OsStr::new("-so"), OsStr::new(&kind), path.as_os_str()];
    let Some(theirs) = tool_output("7z", &args) else { return };
    assert!(theirs == std::fs::read(meant).unwrap(), "{path:?}: {} bytes", theirs.len());
}

#[test]
fn a_vmdk_delta_holds_what_its_parent_does_not() {
    let mut random = Random(16);
    let kinds = [Subformat::MonolithicSparse, Subformat::StreamOptimized];
    for round in 0..rounds(4) {
        let options = VmdkOptions::new().subformat(kinds[round as usize % 2]);
        let size = [3 << 20, (5 << 20) + 512, 512, (40 << 20) + 7 * 512][round as usize % 4];
        family(
            &mut random,
            "vmdk",
            size,
            0,
            &|size, parent| vmdk(&options, size, parent),
            &|meant, path| {
                qemu_img(&["compare", "-q", "-f", "raw", "-F", "vmdk"], &[meant, path]);
                if !options.is_compressed() {
                    qemu_img(&["check", "-q", "-f", "vmdk"], &[path]);
                }
            },
        );
    }
}

#[test]
fn a_differencing_vhd_holds_what_its_parent_does_not() {
    let mut random = Random(17);
    for round in 0..rounds(4) {
        let block = 1 << (16 + random.below(6));
        let options = VhdOptions::new().block_size(block);
        let size = [3 << 20, (5 << 20) + 512, 512, (9 << 20) + 7 * 512][round as usize % 4];
        family(
            &mut random,
            "vhd",
            size,
            0,
            &|size, parent| vhd(&options, size, parent),
            &|meant, path| seven_zip("VHD", meant, path),
        );
    }
}

#[test]
fn a_differencing_vhdx_holds_what_its_parent_does_not() {
    let mut random = Random(18);
    for round in 0..rounds(4) {
        let sector = [512, 4096][round as usize % 2];
        let options = VhdxOptions::new().logical_sector_size(sector).block_size(1 << 20);
        // 7-Zip takes no VHDX of an odd number of sectors
        let size = [3 << 20, (5 << 20) + 8192, 4096, 9 << 20][round as usize % 4];
        // a child may be larger, which 7-Zip does not take
        let grow = if round == 1 { (3 << 20) + 4096 } else { 0 };
        family(
            &mut random,
            "vhdx",
            size,
            grow,
            &|size, parent| vhdx(&options, size, parent),
            &|meant, path| {
                if grow == 0 {
                    seven_zip("VHDX", meant, path);
                }
            },
        );
    }
}

/// The sector bitmaps of several chunks, each before the first block of its chunk that is stored.
#[test]
fn far_blocks_of_a_differencing_vhdx_are_found_again() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (source, base) = (dir.path().join("disk.raw"), dir.path().join("base.vhdx"));
    let size = (13u64 << 30) + 4096;
    let file = std::fs::File::create(&source).unwrap();
    file.set_len(size).unwrap();
    let old = [(1u64 << 20, 1u8), ((4 << 30) - 1, 2), (9 << 30, 3), (size - 1, 4)];
    old.iter().for_each(|&(place, byte)| file.write_all_at(&[byte], place).unwrap());
    let options = VhdxOptions::new();
    written(&raw(&source), vhdx(&options, size, None).unwrap(), 2, &base);
    // one is zeros now, two are new, and the others as before
    let new = [(9u64 << 30, 0u8), (4 << 30, 5), (12 << 30, 6)];
    new.iter().for_each(|&(place, byte)| file.write_all_at(&[byte], place).unwrap());
    let path = dir.path().join("child.vhdx");
    let (below, disk) = (OpenOptions::new().open(&base).unwrap(), raw(&source));
    let writer = vhdx(&options, size, Some(("base.vhdx", below.images()[0].layer()))).unwrap();
    let target = FileTarget::create(&path, 0).unwrap().durable(false);
    Convert::new().image(&disk, writer, Some(&below), &target).unwrap();
    Box::new(target).finish().unwrap();
    let back = beside(&path).open(&path).unwrap();
    for (place, _) in old.into_iter().chain(new) {
        let mut pair = [[0; 2], [0; 2]];
        let at = place.min(size - 2);
        back.read_exact_at(&mut pair[0], at).unwrap();
        disk.read_exact_at(&mut pair[1], at).unwrap();
        assert_eq!(pair[0], pair[1], "at {place}");
    }
    let report = OpenOptions::new().open_image(&path).unwrap().check(Checking::new()).unwrap();
    assert_eq!((report.corruptions, report.check_errors), (0, 0), "{report:?}");
    assert_eq!(report.allocated_clusters, Some(3), "{report:?}");
    // it is another image, and the same disk, as Windows has it
    let [child, parent] = [&back.images()[0], &below.images()[0]].map(|image| image.layer());
    assert_ne!(child.identity(), parent.identity());
    assert!(child.disk_id().is_some() && child.disk_id() == parent.disk_id());
}

/// What was on a device before shows through nowhere, and zeros that need no place do not lie upon
/// what has it then.
#[test]
fn a_differencing_vhdx_is_whole_where_something_was_before() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (source, base) = (dir.path().join("disk.raw"), dir.path().join("base.vhdx"));
    let mut bytes = vec![3; 8 << 20];
    std::fs::write(&source, &bytes).unwrap();
    let options = VhdxOptions::new().block_size(1 << 20);
    written(&raw(&source), vhdx(&options, 8 << 20, None).unwrap(), 2, &base);
    bytes[..1 << 20].fill(0);
    bytes[(1 << 20) + 5000..(2 << 20)].fill(4);
    bytes[(2 << 20) - 4096..5 << 20].fill(0);
    bytes[(5 << 20) + 8192..(6 << 20) - 4096].fill(5);
    bytes[(7 << 20) + 8192..].fill(0);
    std::fs::write(&source, &bytes).unwrap();
    let (below, disk) = (OpenOptions::new().open(&base).unwrap(), raw(&source));
    for threads in [1, 7] {
        let path = dir.path().join("child.vhdx");
        std::fs::write(&path, vec![0xaa; 16 << 20]).unwrap();
        let over = Some(("base.vhdx", below.images()[0].layer()));
        let content_before = diskimage::target::Existing::Unknown;
        let target = FileTarget::existing(&path, 16 << 20, content_before).unwrap().durable(false);
        let job = Convert::new().threads(NonZeroUsize::new(threads).unwrap());
        let writer = vhdx(&options, disk.size(), over).unwrap();
        job.image(&disk, writer, Some(&below), &target).unwrap();
        Box::new(target).finish().unwrap();
        let back = beside(&path).open(&path).unwrap();
        assert!(content(&back).unwrap() == bytes, "by {threads}");
        let report = OpenOptions::new().open_image(&path).unwrap().check(Checking::new()).unwrap();
        assert_eq!((report.corruptions, report.check_errors), (0, 0), "{report:?}");
        // of eight blocks, four are zeros and one is as before
        assert_eq!(report.allocated_clusters, Some(3), "{report:?}");
    }
}

/// libvhdi reads names and identifiers of parents of VHD and VHDX.
#[test]
fn vhdiinfo_shows_the_parent() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut kinds: Vec<(&str, Make<'_>, &str)> = Vec::new();
    let (vhds, vhdxs) = (VhdOptions::new(), VhdxOptions::new());
    let make: Make<'_> = &|size, parent| vhd(&vhds, size, parent);
    kinds.push(("vhd", make, "base.vhd"));
    let make: Make<'_> = &|size, parent| vhdx(&vhdxs, size, parent);
    kinds.push(("vhdx", make, r"\base.vhdx"));
    for (ending, make, name) in kinds {
        let base = dir.path().join(format!("base.{ending}"));
        let path = dir.path().join(format!("child.{ending}"));
        written(&EmptyDisk(3 << 20), make(3 << 20, None).unwrap(), 1, &base);
        let below = OpenOptions::new().open(&base).unwrap();
        let parent = below.images()[0].layer();
        // an absolute name, which is the one of a VHDX that it shows
        let absolute = format!("/{}", base.file_name().unwrap().to_str().unwrap());
        let named = if ending == "vhd" { absolute[1..].to_owned() } else { absolute };
        let target = FileTarget::create(&path, 0).unwrap().durable(false);
        let writer = make(3 << 20, Some((&named, parent))).unwrap();
        Convert::new().create(writer, &target).unwrap();
        Box::new(target).finish().unwrap();
        let Some(told) = tool_output("vhdiinfo", &[path.as_os_str()]) else { return };
        let told = String::from_utf8_lossy(&told).into_owned();
        let Some(diskimage::layer::Identity::Uuid(id)) = parent.identity() else { panic!() };
        let id = diskimage::text::uuid(&id);
        for word in ["Differential", &format!(": {id}\n"), &format!(": {name}\n")] {
            assert!(told.contains(word), "no {word:?} in {told}");
        }
    }
}

#[test]
fn a_parent_that_cannot_be_is_refused_in_words() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let size = 3u64 << 20;
    let image = |name: &str, writer: Box<dyn Writer>| {
        let path = dir.path().join(name);
        written(&EmptyDisk(size), writer, 1, &path);
        OpenOptions::new().open(&path).unwrap()
    };
    let (vmdks, vhds, vhdxs) = (VmdkOptions::new(), VhdOptions::new(), VhdxOptions::new());
    let a_vmdk = image("a.vmdk", vmdks.writer(size).unwrap());
    let a_vhd = image("a.vhd", Box::new(vhds.writer(size).unwrap()));
    let a_vhdx = image("a.vhdx", Box::new(vhdxs.writer(size).unwrap()));
    let layer = |chain: &Chain, take: &dyn Fn(&dyn Layer) -> Made| take(chain.images()[0].layer());
    let refused = |made: Made, word: &str| {
        let error = made.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert!(error.advice().is_some(), "{error}");
    };
    refused(layer(&a_vhd, &|p| vmdk(&vmdks, size, Some(("p", p)))), "must be one, too");
    refused(layer(&a_vmdk, &|p| vhd(&vhds, size, Some(("p", p)))), "must be one, too");
    refused(layer(&a_vhd, &|p| vhdx(&vhdxs, size, Some(("p", p)))), "must be one, too");
    for other in [size - 512, size + 512] {
        refused(layer(&a_vmdk, &|p| vmdk(&vmdks, other, Some(("p", p)))), "has 3145728 bytes");
        refused(layer(&a_vhd, &|p| vhd(&vhds, other, Some(("p", p)))), "has 3145728 bytes");
    }
    refused(layer(&a_vhdx, &|p| vhdx(&vhdxs, size - 512, Some(("p", p)))), "has 3145728 bytes");
    let large = vhdxs.clone().logical_sector_size(4096);
    refused(layer(&a_vhdx, &|p| vhdx(&large, size, Some(("p", p)))), "sectors have 512 bytes");
    let flat = vmdks.clone().subformat(Subformat::MonolithicFlat);
    refused(layer(&a_vmdk, &|p| vmdk(&flat, size, Some(("p", p)))), "monolithicFlat has no parent");
    let fixed = vhds.clone().fixed(true);
    refused(layer(&a_vhd, &|p| vhd(&fixed, size, Some(("p", p)))), "fixed VHD has no parent");
    let fixed = vhdxs.clone().fixed(true);
    refused(layer(&a_vhdx, &|p| vhdx(&fixed, size, Some(("p", p)))), "fixed VHDX has no parent");
    for (name, word) in [("", "empty"), ("a\"b", "quotation"), ("a\nb", "control")] {
        refused(layer(&a_vmdk, &|p| vmdk(&vmdks, size, Some((name, p)))), word);
    }
    let long = "x".repeat(256);
    refused(layer(&a_vhd, &|p| vhd(&vhds, size, Some((&long, p)))), "too long");
    // a parent without an identity
    let path = dir.path().join("a.vmdk");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|word| word == b"CID=").unwrap();
    bytes[at + 4..at + 12].copy_from_slice(b"ffffffff");
    std::fs::write(&path, bytes).unwrap();
    let nobody = OpenOptions::new().open(&path).unwrap();
    refused(layer(&nobody, &|p| vmdk(&vmdks, size, Some(("p", p)))), "no content identifier");
    // what names no parent would read as zeros where it is the same
    let writer = vmdks.writer(size).unwrap();
    let target = Memory::new(1 << 20);
    let error = Convert::new().image(&a_vhd, writer, Some(&a_vhd), &target).unwrap_err();
    assert!(error.to_string().contains("names no parent"), "{error}");
    // and the other way round, zeros would be its data
    let writer = layer(&a_vhd, &|p| vhd(&vhds, size, Some(("p", p)))).unwrap();
    let error = Convert::new().image(&EmptyDisk(size), writer, None, &target).unwrap_err();
    assert!(error.to_string().contains("names a parent"), "{error}");
}

/// Only zeros differ: identifiers that derive from data alone would be the parent's.
#[test]
fn identifiers_tell_zeros_apart() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (source, base) = (dir.path().join("disk.raw"), dir.path().join("base.vhd"));
    std::fs::write(&source, vec![1; 1 << 20]).unwrap();
    let options = VhdOptions::new();
    written(&raw(&source), vhd(&options, 1 << 20, None).unwrap(), 2, &base);
    let mut seen = Vec::new();
    for zeros in [0..0, 0..4096, 8192..16_384] {
        let mut bytes = vec![1; 1 << 20];
        bytes[zeros].fill(0);
        std::fs::write(&source, bytes).unwrap();
        let path = dir.path().join("child.vhd");
        child(&base, &source, &path, &|size, parent| vhd(&options, size, parent), "zeros");
        let image = OpenOptions::new().open_image(&path).unwrap();
        seen.push(image.layer().identity());
    }
    seen.push(OpenOptions::new().open_image(&base).unwrap().layer().identity());
    for (number, one) in seen.iter().enumerate() {
        assert!(!seen[..number].contains(one), "{seen:?}");
    }
}

/// Parents that Windows made, and what its own children of them hold.
#[test]
fn a_child_of_what_windows_made_is_what_windows_own_child_is() {
    for image in corpus_images(|_, verdict| verdict == "ok-with-parent") {
        let (format, kind) = match &*image.format {
            "vhd" => (Format::Vhd, "VHD"),
            "vhdx" => (Format::Vhdx, "VHDX"),
            _ => continue,
        };
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let theirs = beside(&image.path).open(&image.path).unwrap();
        let parent = theirs.images()[1].path();
        let name = parent.file_name().unwrap().to_str().unwrap();
        std::fs::copy(parent, dir.path().join(name)).unwrap();
        let below = OpenOptions::new().open(dir.path().join(name)).unwrap();
        let over = Some((name, below.images()[0].layer()));
        let writer = match format {
            Format::Vhd => vhd(&VhdOptions::new(), theirs.size(), over).unwrap(),
            _ => vhdx(&VhdxOptions::new(), theirs.size(), over).unwrap(),
        };
        let path = dir.path().join("ours");
        let target = FileTarget::create(&path, 0).unwrap().durable(false);
        Convert::new().image(&theirs, writer, Some(&below), &target).unwrap();
        Box::new(target).finish().unwrap();
        let ours = beside(&path).open(&path).unwrap();
        assert_eq!(sha256_of(&ours).unwrap(), image.guest_sha256.unwrap(), "{}", image.name);
        let meant = dir.path().join("meant");
        std::fs::write(&meant, content(&theirs).unwrap()).unwrap();
        seven_zip(kind, &meant, &path);
    }
}
