//! VMDKs of several files.

use super::*;

const OF_SEVERAL_FILES: [Subformat; 3] =
    [Subformat::MonolithicFlat, Subformat::TwoGbMaxExtentFlat, Subformat::TwoGbMaxExtentSparse];

#[test]
fn vmdk_of_several_files_is_what_was_read() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = dir.path().join("disk.raw");
    let mut random = Random(15);
    for round in 0..rounds(9) {
        let size = SIZES[round as usize % SIZES.len()].max(1);
        disk(&mut random, size, &source);
        let (kind, raw) = (OF_SEVERAL_FILES[round as usize % 3], raw(&source));
        let options = VmdkOptions::new().subformat(kind).name("an image.vmdk");
        let what = format!("round {round}, {size} bytes, {options:?}");
        let mut found: Option<Vec<(String, Vec<u8>)>> = None;
        for threads in [1, 2, 7] {
            let folder = tempfile::tempdir_in(dir.path()).unwrap();
            let path = folder.path().join("an image.vmdk");
            written(&raw, options.writer(size).unwrap(), threads, &path);
            let these = files_of(folder.path());
            assert!(found.get_or_insert_with(|| these.clone()) == &these, "{what} by {threads}");
            if threads > 1 {
                continue;
            }
            let names: Vec<&str> = these.iter().map(|(name, _)| &**name).collect();
            let extent = ["an image-flat.vmdk", "an image-f001.vmdk", "an image-s001.vmdk"];
            assert_eq!(names, [extent[round as usize % 3], "an image.vmdk"], "{what}");
            let measured = measure(&raw, &*options.writer(size).unwrap(), &Progress::new());
            let length: usize = these.iter().map(|(_, bytes)| bytes.len()).sum();
            assert!(length as u64 <= measured.unwrap().required, "{what}");
            accepted_beside(&path, &source, &what);
        }
    }
}

/// The same as [`accepted`] of a VMDK that names other files.
fn accepted_beside(path: &Path, meant: &Path, what: &str) {
    let wanted = std::fs::read(meant).unwrap();
    let disk = beside(path).open(path).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(disk.size(), (wanted.len() as u64).next_multiple_of(512), "{what}");
    let ours = content(&disk).unwrap();
    assert!(ours[..wanted.len()] == wanted, "{what}: the content differs");
    assert!(ours[wanted.len()..].iter().all(|&byte| byte == 0), "{what}");
    let image = OpenOptions::new().open_image(path).unwrap();
    let report = image.check(Checking::new()).unwrap();
    let found = (report.corruptions, report.leaks, report.check_errors);
    assert_eq!(found, (0, 0, 0), "{what}: {:?}", report.findings);
    for (name, _) in files_of(path.parent().unwrap()).iter().filter(|(name, _)| name.contains("-s"))
    {
        let extent = path.parent().unwrap().join(name);
        let extent = OpenOptions::new().trust_broken(true).open_image(extent).unwrap();
        let report = extent.check(Checking::new()).unwrap();
        assert_eq!((report.corruptions, report.check_errors), (0, 0), "{what}: {report:?}");
    }
    qemu_img(&["compare", "-q", "-f", "raw", "-F", "vmdk"], &[meant, path]);
    let args = [OsStr::new("x"), OsStr::new("-so"), path.as_os_str()];
    if let Some(theirs) = tool_output("7z", &args) {
        assert!(theirs == ours, "{what}: 7-Zip reads {} bytes", theirs.len());
    }
}

/// Extents end 1 MiB below 2 GiB, as VMware's do, so that no file with its tables comes to 2 GiB.
#[test]
fn a_large_vmdk_goes_on_in_the_next_extent() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let source = dir.path().join("disk.raw");
    let file = std::fs::File::create(&source).unwrap();
    let (size, border) = ((4u64 << 30) + 3 * 512, (2u64 << 30) - (1 << 20));
    file.set_len(size).unwrap();
    for (place, length) in [(0, 1), (border - 100_000, 200_000), (2 * border - 1, 2), (size - 1, 1)]
    {
        file.write_all_at(&vec![0x77; length], place).unwrap();
    }
    let raw = raw(&source);
    for kind in OF_SEVERAL_FILES {
        let folder = tempfile::tempdir_in(dir.path()).unwrap();
        let path = folder.path().join("large.vmdk");
        let writer = VmdkOptions::new().subformat(kind).name("large.vmdk").writer(size).unwrap();
        written(&raw, writer, 2, &path);
        let names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), entry.metadata().unwrap().len()))
            .collect();
        if kind == Subformat::MonolithicFlat {
            assert!(names.contains(&("large-flat.vmdk".into(), size)), "{names:?}");
        } else {
            assert_eq!(names.len(), 4, "{names:?}");
            assert!(names.iter().all(|(_, length)| *length < 2 << 30), "{names:?}");
        }
        let disk = beside(&path).open(&path).unwrap();
        assert_eq!(disk.size(), size);
        for (at, length) in
            [(0, 2), (border - 100_001, 200_002), (2 * border - 2, 4), (size - 2, 2)]
        {
            let mut pair = [vec![0; length], vec![0; length]];
            disk.read_exact_at(&mut pair[0], at).unwrap();
            raw.read_exact_at(&mut pair[1], at).unwrap();
            assert!(pair[0] == pair[1], "{kind:?} at {at}");
        }
        qemu_img(&["compare", "-q", "-f", "raw", "-F", "vmdk"], &[&source, &path]);
    }
}

/// A target of one file would be a mix of all of them.
#[test]
fn an_image_of_several_files_needs_a_target_of_these() {
    let options = VmdkOptions::new().subformat(Subformat::MonolithicFlat);
    let memory = Memory::new(4 << 20);
    let writer = options.writer(1 << 20).unwrap();
    let error = Convert::new().image(&EmptyDisk(1 << 20), writer, None, &memory).unwrap_err();
    assert!(error.to_string().contains("consists of 2 files"), "{error}");
    let refused = |name: &str, word: &str| {
        let error = options.clone().name(name).writer(1 << 20).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    };
    refused("../x.vmdk", "slashes");
    refused("a\"b", "quotation marks");
    let many = VmdkOptions::new().subformat(Subformat::TwoGbMaxExtentFlat).name("x".repeat(900));
    let error = many.writer(60 << 40).unwrap_err();
    assert!(error.to_string().contains("so many extents"), "{error}");
}
