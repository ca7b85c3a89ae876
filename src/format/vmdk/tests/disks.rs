//! Disks of several files, and the other kinds of extents.

use std::sync::Arc;

use super::super::VmdkLayer;
use super::super::header::tests::put32;
use super::super::sesparse::tests::image as se_sparse;
use super::build::*;
use crate::conformance;
use crate::disk::VirtualDisk;
use crate::format::LayerOptions;
use crate::layer::{Layer, Role};
use crate::storage::{Run, Storage};
use crate::{Code, ErrorKind, ExtentKind, Result};

fn pattern(seed: u8, sectors: usize) -> Vec<u8> {
    (0..sectors * 512).map(|i| (i / 3) as u8 ^ seed).collect()
}

fn text(extents: &str) -> String {
    descriptor("twoGbMaxExtentFlat", extents)
}

#[test]
fn no_extent_is_skipped_and_offsets_are_kept() {
    let (a, b) = (pattern(1, 8), pattern(2, 20));
    let text = text(
        "RW 8 FLAT \"a\" 0\nRDONLY 4 FLAT \"b\" 10\nRW 3 ZERO\nRDONLY 5 VMFS \"b\"\nRW 0 ZERO\nRW 1 FLAT \"a\" 7",
    );
    let disk = chain(text.clone(), &[a.clone(), b.clone()]).unwrap();
    let content = [&a[..], &b[5120..7168], &[0; 1536], &b[..2560], &a[3584..]].concat();
    conformance::check(&disk, Some(&content)).unwrap();
    let layer = layer(text).unwrap();
    let names: Vec<_> = layer.references().iter().map(|r| r.printable_name()).collect();
    assert_eq!(names, ["a", "b"], "a file is named once");
    assert!(layer.references().iter().all(|r| r.role == Role::Extent));
    assert_eq!(layer.cluster_size(), None);
    assert_eq!(codes(&layer), [Code::ExternalExtents]);
}

#[test]
fn an_extent_that_must_not_be_read_is_an_error_and_never_zeros() {
    let text = text("RW 2 ZERO\nNOACCESS 8 FLAT \"secret\" 0\nNOACCESS 1 ZERO\nRW 1 ZERO");
    let disk = chain(text.clone(), &[pattern(1, 8)]).unwrap();
    disk.read_exact_at(&mut [0; 1024], 0).unwrap();
    disk.read_exact_at(&mut [0; 512], 11 * 512).unwrap();
    for offset in [1024, 5 * 512, 10 * 512] {
        let error = disk.read_exact_at(&mut [0; 1], offset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("NOACCESS"), "{error}");
        assert!(error.guest_range().unwrap().contains(&offset));
    }
    assert!(codes(&layer(text).unwrap()).contains(&Code::CheckError));
}

#[test]
fn a_file_that_is_too_short_or_not_there_is_an_error() {
    let text = text("RW 8 FLAT \"a\" 2");
    let error = chain(text.clone(), &[]).unwrap().extent_at(0, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("'a'"), "{error}");
    for sectors in [0, 1, 2, 5, 9] {
        let disk = chain(text.clone(), &[pattern(1, sectors)]).unwrap();
        assert!(disk.read_exact_at(&mut vec![0; 4096], 0).is_err(), "{sectors}");
    }
    let disk = chain(text, &[pattern(1, 10)]).unwrap();
    conformance::check(&disk, Some(&pattern(1, 10)[1024..])).unwrap();
}

/// A file with holes: every second 4 KiB.
#[derive(Debug)]
struct Holes(Vec<u8>);

impl Storage for Holes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
        Ok(())
    }
    fn run_at(&self, offset: u64, max: u64) -> Result<Run> {
        let rest = (4096 - offset % 4096).min(self.size() - offset);
        Ok(Run { hole: offset / 4096 % 2 == 1, length: rest.min(max) })
    }
}

#[test]
fn holes_of_a_flat_file_are_holes_of_the_disk() {
    let mut bytes = pattern(1, 24);
    bytes[4096..8192].fill(0);
    let text = text("RW 20 FLAT \"a\" 2");
    let storage = memory(text.into_bytes());
    let layer = VmdkLayer::open(Arc::clone(&storage), &LayerOptions::default()).unwrap();
    let mut image = crate::chain::ChainImage::new("x".into(), Box::new(layer), storage);
    image.attach(0, Arc::new(Holes(bytes.clone()))).unwrap();
    let disk = crate::Chain::new(image, Vec::new());
    conformance::check(&disk, Some(&bytes[1024..22 * 512])).unwrap();
    let hole = disk.extent_at(4096 - 1024, u64::MAX).unwrap();
    assert_eq!(hole.length, 4096);
    let ExtentKind::Hole(place) = hole.kind else { panic!("{hole:?}") };
    assert_eq!((place.storage, place.offset), (crate::StorageId(1), 4096));
}

#[test]
fn sparse_extents_in_files_of_their_own() {
    let first = Hosted { descriptor: Some(String::new()), ..Hosted::default() };
    let second = Hosted { compressed: true, short: 3, ..first.clone() };
    let lines = "RW 40 SPARSE \"s1\"\nRW 2 ZERO\nRW 37 SPARSE \"s2\"";
    let text = descriptor("twoGbMaxExtentSparse", lines);
    let files = [first.build().bytes, second.build().bytes];
    let disk = chain(text.clone(), &files).unwrap();
    let content = [&first.content()[..], &[0; 1024], &second.content()].concat();
    conformance::check(&disk, Some(&content)).unwrap();
    // grains of the second one are those of its own disk, errors those of the whole
    let mut broken = second.build();
    broken.put32(broken.tables[0] + 12, u32::MAX);
    let disk = chain(text.clone(), &[files[0].clone(), broken.bytes]).unwrap();
    let error = disk.read_exact_at(&mut vec![0; content.len()], 0).unwrap_err();
    let start = 42 * 512 + 3 * 4096;
    assert_eq!(error.guest_range(), Some(start..start + 4096));
    for (file, kind) in [
        (text.clone().into_bytes(), ErrorKind::Corrupt),
        (Vec::new(), ErrorKind::Corrupt),
        (Hosted { short: 1, ..first }.build().bytes, ErrorKind::Corrupt),
    ] {
        let error = chain(text.clone(), &[file]).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

/// A COWD extent of 2048 sectors with grains of one sector.
fn cowd(grains: &[usize]) -> (Vec<u8>, Vec<u8>) {
    let mut bytes = vec![0; 39 * 512];
    bytes[..4].copy_from_slice(b"COWD");
    for (at, value) in [(4, 1), (8, 3), (12, 2048), (16, 1), (20, 4), (24, 1), (4 * 512, 5)] {
        put32(&mut bytes, at, value);
    }
    let mut content = vec![0; 2048 * 512];
    for (number, &grain) in grains.iter().enumerate() {
        let place = bytes.len();
        put32(&mut bytes, 5 * 512 + grain * 4, place as u32 / 512);
        bytes.extend(pattern(number as u8, 1));
        content[grain * 512..][..512].copy_from_slice(&bytes[place..]);
    }
    (bytes, content)
}

#[test]
fn cowd_extents_are_read_through_a_descriptor() {
    let (bytes, content) = cowd(&[0, 1, 7, 2047]);
    let text = descriptor("vmfsSparse", "RW 2048 VMFSSPARSE \"delta.vmdk\"");
    let disk = chain(text.clone(), std::slice::from_ref(&bytes)).unwrap();
    conformance::check(&disk, Some(&content)).unwrap();
    assert_eq!(disk.cluster_size(), 512);
    assert_eq!(disk.extent_at(0, u64::MAX).unwrap().length, 1024, "neighbours are joined");
    let error = layer(bytes.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(error.advice().unwrap().contains("descriptor"));
    assert!(VmdkLayer::open(memory(bytes.clone()), &trusting()).is_ok());
    for (at, value) in [(24, 0), (20, u32::MAX), (20, 0), (20, 3), (4 * 512, 3), (4 * 512, 1 << 30)]
    {
        let mut bytes = bytes.clone();
        put32(&mut bytes, at, value);
        let read = chain(text.clone(), &[bytes])
            .and_then(|disk| disk.read_exact_at(&mut [0; 512], 0))
            .unwrap_err();
        assert_eq!(read.kind(), ErrorKind::Corrupt, "{at} {value}: {read}");
    }
}

#[test]
fn se_sparse_extents_are_read_through_a_descriptor() {
    let allocated = |number: u64| 0x3000_0000_0000_0000 | (number & 0xfff) << 48 | number >> 12;
    let grains = [
        (0, allocated(2)),
        (1, allocated(3)),
        (2, 0x1000_0000_0000_0000),
        (3, 0x2000_0000_0000_0000),
        (255, allocated(0)),
    ];
    let mut content = vec![0; 1 << 20];
    content[..4096].fill(3);
    content[4096..8192].fill(4);
    content[255 * 4096..].fill(1);
    let text = descriptor("seSparse", "RW 2048 SESPARSE \"x-sesparse.vmdk\"");
    let disk = chain(text.clone(), &[se_sparse(&grains)]).unwrap();
    conformance::check(&disk, Some(&content)).unwrap();
    assert_eq!(disk.cluster_size(), 4096);
    let zeros = disk.extent_at(2 * 4096, u64::MAX).unwrap();
    assert_eq!(zeros.length, 8192);
    assert!(matches!(zeros.kind, ExtentKind::Zero { allocated: true, .. }));
    let hole = disk.extent_at(4 * 4096, u64::MAX).unwrap();
    assert!(matches!(hole.kind, ExtentKind::Zero { allocated: false, .. }));
    for value in [1, 0x4000_0000_0000_0000, allocated(4), u64::MAX] {
        let disk = chain(text.clone(), &[se_sparse(&[(1, value)])]).unwrap();
        let error = disk.read_exact_at(&mut [0; 8192], 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{value:#x}: {error}");
        assert!(error.guest_range().unwrap().start == 4096, "{error:?}");
    }
    let mut dirty = se_sparse(&grains);
    dirty[536] = 1;
    let error = chain(text, &[dirty]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("journal"), "{error}");
}

#[test]
fn devices_and_what_is_not_known_are_refused_by_name() {
    for name in [
        "custom",
        "fullDevice",
        "partitionedDevice",
        "vmfsRaw",
        "vmfsRDM",
        "vmfsRDMP",
        "vmfsRawDeviceMap",
        "vmfsPassthroughRawDeviceMap",
        "no such thing",
    ] {
        let error = layer(descriptor(name, "RW 1 FLAT \"/dev/vda\" 0")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    for kind in ["VMFSRDM", "VMFSRAW"] {
        let error = layer(descriptor("vmfs", &format!("RW 1 {kind} \"x\""))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(kind), "{error}");
    }
    for (lines, kind) in [
        ("", ErrorKind::Corrupt),
        ("RW 1 FLAT \"\" 0", ErrorKind::Corrupt),
        ("RW 1 SPARSE \"a\" 1", ErrorKind::Corrupt),
        ("RW 36028797018963967 ZERO\nRW 1 ZERO", ErrorKind::Corrupt),
    ] {
        let error = layer(text(lines)).unwrap_err();
        assert_eq!(error.kind(), kind, "{lines}: {error}");
        assert!(error.advice().is_some());
    }
}

#[test]
fn a_descriptor_may_be_padded_by_nuls_and_by_nothing_else() {
    let text = text("RW 1 ZERO");
    let padded = [text.as_bytes(), &[0; 700]].concat();
    assert_eq!(layer(padded.clone()).unwrap().size(), 512);
    let marked = [b"\xef\xbb\xbf", text.as_bytes()].concat();
    assert_eq!(layer(marked).unwrap().size(), 512);
    for rest in ["\n", "\"\n", "ide\"\n"] {
        // what a longer text leaves that a shorter one was written over
        let left = [text.as_bytes(), b"\0", rest.as_bytes(), &[0; 100]].concat();
        assert_eq!(layer(left).unwrap().size(), 512, "{rest}");
    }
    let mut behind = padded.clone();
    behind.extend(b"x");
    let error = layer(behind.clone()).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(padded.len() as u64)));
    let mut large = padded;
    large.resize((1 << 20) + 1, 0);
    assert_eq!(layer(large).unwrap_err().kind(), ErrorKind::LimitExceeded);
    for other in [vec![0; 512], b"some text".to_vec(), vec![0xff; 2 << 20], Vec::new()] {
        assert_eq!(layer(other).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn an_empty_extent_may_carry_the_descriptor_of_others() {
    let text = descriptor("monolithicFlat", "RW 4 FLAT \"flat\" 0");
    let recipe = Hosted { cells: Vec::new(), descriptor: Some(text), ..Hosted::default() };
    let disk = chain(recipe.build().bytes, &[pattern(5, 4)]).unwrap();
    conformance::check(&disk, Some(&pattern(5, 4))).unwrap();
    let recipe = Hosted { cells: Vec::new(), ..Hosted::default() };
    assert_eq!(recipe.build().open().unwrap().size(), 0);
}

#[test]
fn encrypted_disks_are_told_and_refused() {
    let text = text("RW 1 ZERO\nencryptionKeys=\"vmware:key/list\"");
    let layer = layer(text).unwrap();
    assert!(layer.describe().unwrap().encrypted);
    assert!(codes(&layer).contains(&Code::Encrypted));
    assert_eq!(layer.map(0, 1).unwrap_err().kind(), ErrorKind::Unsupported);
}
