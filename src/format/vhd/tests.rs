//! Images from hand-built bytes: what is odd but valid, and what must be refused.

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;

use crate::chain::{Chain, ChainImage};
use crate::conformance;
use crate::disk::VirtualDisk;
use crate::error::{Error, ErrorKind, Result};
use crate::finding::Code;
use crate::format::LayerOptions;
use crate::layer::{Identity, Layer, MappingKind, Source};
use crate::limits::Limits;
use crate::storage::MemoryStorage;

use super::layer::VhdLayer;
use super::layout::*;
use super::testimage::*;

fn open_with(file: &[u8], options: &LayerOptions) -> Result<VhdLayer> {
    VhdLayer::open(Arc::new(MemoryStorage::new(file.to_vec())), options)
}

fn open(file: &[u8]) -> VhdLayer {
    open_with(file, &LayerOptions::default()).unwrap()
}

fn image(file: &[u8]) -> ChainImage {
    let storage = Arc::new(MemoryStorage::new(file.to_vec()));
    ChainImage::new(PathBuf::from("x.vhd"), Box::new(open(file)), storage)
}

fn disk(file: &[u8]) -> Chain {
    Chain::new(image(file), Vec::new())
}

fn read(file: &[u8]) -> Result<Vec<u8>> {
    let options = LayerOptions::default();
    let layer = open_with(file, &options)?;
    let mut bytes = vec![0; layer.size() as usize];
    disk(file).read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn codes(layer: &VhdLayer) -> Vec<Code> {
    layer.describe().unwrap().findings.iter().map(|finding| finding.code).collect()
}

/// The error of opening and reading, which must say where in the file and what to do.
fn refused(file: &[u8]) -> Error {
    let error = read(file).unwrap_err();
    assert!(error.offset().is_some() && error.advice().is_some(), "{error}");
    error
}

fn utf16le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[test]
fn all_types_read_to_their_content_and_keep_the_law() {
    let parent = Builder { uuid: [9; 16], ..Builder::small(TYPE_FIXED) };
    let fixed = parent.content(&[]);
    conformance::check(&disk(&parent.build()), Some(&fixed)).unwrap();
    let dynamic = Builder::small(TYPE_DYNAMIC);
    conformance::check(&disk(&dynamic.build()), Some(&dynamic.content(&[]))).unwrap();
    let child = Builder::small(TYPE_DIFFERENCING);
    let chain = Chain::new(image(&child.build()), vec![image(&parent.build())]);
    conformance::check(&chain, Some(&child.content(&fixed))).unwrap();
    chain.images()[0].layer().check_parent(chain.images()[1].layer()).unwrap();
    for file in [parent.build(), dynamic.build()] {
        assert_eq!(codes(&open(&file)), []);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn random_chains_read_as_their_model(
        kinds in proptest::collection::vec((any::<bool>(), any::<[u8; 2]>()), 1..12),
        cut in 0u64..8192, fixed_parent: bool,
    ) {
        // sixteen sectors a block
        let blocks = |tag: u8| kinds.iter().enumerate().map(|(index, (present, bitmap))| {
            let value = |i: usize| tag ^ (index * 16 + i / 512) as u8 | 1;
            present.then(|| (bitmap.to_vec(), (0..8192).map(value).collect()))
        }).collect::<Vec<_>>();
        let size = kinds.len() as u64 * 8192 - cut;
        let mut parent = Builder::new(if fixed_parent { TYPE_FIXED } else { TYPE_DYNAMIC }, size, 8192);
        parent.blocks = blocks(0x80);
        parent.blocks.reverse();
        let below = parent.content(&[]);
        conformance::check(&disk(&parent.build()), Some(&below)).unwrap();
        let mut child = Builder::new(TYPE_DIFFERENCING, size, 8192);
        child.blocks = blocks(0);
        let chain = Chain::new(image(&child.build()), vec![image(&parent.build())]);
        conformance::check(&chain, Some(&child.content(&below))).unwrap();
    }
}

#[test]
fn mappings_say_what_qemu_img_says() {
    let file = Builder::small(TYPE_DYNAMIC).build();
    let layer = open(&file);
    let kind = |at: u64| layer.map(at, u64::MAX).unwrap();
    let stored = MappingKind::Stored { source: Source::Own, offset: DATA + 512 };
    assert_eq!((kind(0).length, kind(0).kind), (4096, stored));
    assert_eq!(kind(4096).kind, MappingKind::Zero { allocated: true, stored: None });
    assert_eq!(kind(3 * 4096).length, 4096 - 512, "the disk ends in the block");
    // the bitmap of a dynamic disk does not count: the sector that it calls unwritten is data
    assert_eq!(kind(2 * 4096).length, 4096);
    let layer = open(&Builder::small(TYPE_DIFFERENCING).build());
    let kind = |at: u64| layer.map(at, u64::MAX).unwrap();
    assert_eq!(kind(4096).kind, MappingKind::Parent { stored: None });
    let host = DATA + 512 + 4096 + 512;
    let room = Some((Source::Own, host + 512));
    assert_eq!(kind(2 * 4096).length, 512);
    assert_eq!(kind(2 * 4096 + 512).kind, MappingKind::Parent { stored: room });
    assert_eq!(kind(2 * 4096 + 3 * 512).length, 2 * 512);
}

#[test]
fn runs_of_absent_blocks_are_one_mapping() {
    let mut builder = Builder::new(TYPE_DYNAMIC, 512 * 3000, 512);
    builder.blocks = vec![None; 3000];
    let layer = open(&builder.build());
    assert_eq!(layer.map(100, u64::MAX).unwrap().length, 512 * 3000 - 100);
    assert_eq!(layer.map(100, 5000).unwrap().length, 5000);
    assert_eq!(layer.map(511, 2).unwrap().length, 2);
}

#[test]
fn either_copy_of_the_footer_suffices() {
    let whole = Builder::small(TYPE_DYNAMIC);
    let (good, content) = (whole.build(), whole.content(&[]));
    let end = good.len() - 512;
    let lost = |range: std::ops::Range<usize>| {
        let mut file = good.clone();
        file[range].fill(0);
        file
    };
    for file in [lost(end..end + 512), lost(0..512), good[..end].to_vec()] {
        assert_eq!(read(&file).unwrap(), content);
        assert_eq!(codes(&open(&file)), [Code::FooterMissing]);
    }
    // damaged rather than lost
    for start in [0, end] {
        let mut file = good.clone();
        file[start + 200] ^= 1;
        assert_eq!(read(&file).unwrap(), content);
        assert_eq!(codes(&open(&file)), [Code::FooterMismatch, Code::FooterMissing]);
    }
    // both are right and differ: the one at the end counts
    let mut file = good.clone();
    file[68] = 1;
    seal(&mut file[..512], 64);
    let layer = open(&file);
    assert_eq!(codes(&layer), [Code::FooterMismatch]);
    assert_eq!(layer.identity(), Some(Identity::Uuid([7; 16])));
}

#[test]
fn what_has_no_right_checksum_is_described_and_read_by_request_only() {
    let whole = Builder::small(TYPE_DYNAMIC);
    let mut footers = whole.build();
    let end = footers.len() - 512;
    footers[70] ^= 1;
    footers[end + 70] ^= 1;
    let mut header = whole.build();
    header[512 + 900] ^= 1;
    for (file, at) in [(footers, end + 64), (header, 512 + 36)] {
        let error = refused(&file);
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(at as u64)));
        assert!(codes(&open(&file)).contains(&Code::CheckError));
        let options = LayerOptions { trust_broken: true, ..LayerOptions::default() };
        let layer = open_with(&file, &options).unwrap();
        let storage = Arc::new(MemoryStorage::new(file));
        let disk = Chain::new(ChainImage::new("x".into(), Box::new(layer), storage), Vec::new());
        conformance::check(&disk, Some(&whole.content(&[]))).unwrap();
    }
    // damage that makes no sense is told as damage
    let mut file = whole.build();
    file[512 + 32..512 + 36].copy_from_slice(&3u32.to_be_bytes());
    assert!(refused(&file).to_string().contains("checksum"));
    let mut file = whole.build();
    file[end + 63] = 77;
    file[..512].fill(0);
    assert!(refused(&file).to_string().contains("checksum"));
}

#[test]
fn old_footers_have_511_bytes() {
    for kind in [TYPE_FIXED, TYPE_DYNAMIC] {
        let builder = Builder::small(kind);
        let mut file = builder.build();
        file.pop();
        assert_eq!(read(&file).unwrap(), builder.content(&[]));
        assert_eq!(codes(&open(&file)), []);
    }
}

#[test]
fn the_creator_decides_between_geometry_and_current_size() {
    // exactly a cylinder is missing
    let whole = Builder { geometry: [0, 2, 4, 17], ..Builder::new(TYPE_FIXED, 204 * 512, 512) };
    assert_eq!(codes(&open(&whole.build())), [Code::GeometryMismatch]);
    // 2 * 4 * 17 sectors
    let (by_geometry, size) = (2 * 4 * 17 * 512, 150 * 512);
    for (creator, geometry, wanted, mismatch) in [
        (*b"vpc ", [0, 2, 4, 17], by_geometry, true),
        (*b"qemu", [0, 2, 4, 17], by_geometry, true),
        (*b"qem2", [0, 2, 4, 17], size, false),
        (*b"win ", [0, 2, 4, 17], size, false),
        (*b"win ", [0, 1, 4, 17], size, true),
        (*b"win ", [0, 3, 4, 17], size, true),
        (*b"qemu", [0xff, 0xff, 16, 255], size, false),
        (*b"vpc ", [0, 0, 0, 0], size, false),
    ] {
        let builder = Builder { creator, geometry, ..Builder::new(TYPE_FIXED, size, 512) };
        let layer = open(&builder.build());
        assert_eq!(layer.size(), wanted, "{creator:?} {geometry:?}");
        let found = codes(&layer).contains(&Code::GeometryMismatch);
        assert_eq!(found, mismatch, "{creator:?} {geometry:?}");
    }
}

#[test]
fn a_fixed_disk_is_as_long_as_it_says() {
    let builder = Builder::small(TYPE_FIXED);
    let good = builder.build();
    let data = good.len() - 512;
    // shorter: what is there can be read, what is not is an error
    let mut short = good.clone();
    short.drain(..512);
    let layer = open(&short);
    assert_eq!(codes(&layer), [Code::Truncated]);
    let error = refused(&short);
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.guest_range(), Some(data as u64 - 512..data as u64));
    // longer: a finding
    let mut long = good.clone();
    long.splice(data..data, [0xee; 512]);
    assert_eq!(read(&long).unwrap(), builder.content(&[]));
    assert_eq!(codes(&open(&long)), [Code::FooterMismatch]);
    // no footer at the end: the file was cut, and what looks like one at the start is data
    let mut cut = Builder::small(TYPE_FIXED);
    cut.blocks[0] = Some((vec![0xff], [cut.footer(), vec![0; 4096 - 512]].concat()));
    let mut file = cut.build();
    assert_eq!(codes(&open(&file)), [Code::FooterMismatch]);
    file.truncate(data);
    assert!(refused(&file).to_string().contains("missing at the end"));
    // both types at once
    let mut both = Builder::small(TYPE_DYNAMIC).build();
    patch_footers(&mut both, 60, &TYPE_FIXED.to_be_bytes());
    assert!(refused(&both).to_string().contains("'fixed'"));
}

#[test]
fn what_contradicts_the_specification_is_refused() {
    let good = Builder::small(TYPE_DYNAMIC).build();
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        patch(&mut file, at, bytes);
        file
    };
    let footers = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        patch_footers(&mut file, at, bytes);
        file
    };
    let entry = |entry: u32| {
        let mut file = good.clone();
        file[TABLE as usize..TABLE as usize + 4].copy_from_slice(&entry.to_be_bytes());
        file
    };
    use ErrorKind::{Corrupt, InvalidInput, Unsupported};
    let last = ((good.len() - 512) / 512) as u32;
    for (file, kind, word) in [
        (vec![0; 4096], InvalidInput, "conectix"),
        (Vec::new(), InvalidInput, "conectix"),
        (footers(12, &[0, 2, 0, 0]), Unsupported, "version 2.0"),
        (footers(60, &[0, 0, 0, 5]), Unsupported, "type is 5"),
        (footers(48, &[0x80]), Corrupt, "Current Size"),
        (footers(16, &0u64.to_be_bytes()), Corrupt, "cxsparse"),
        (footers(16, &u64::MAX.to_be_bytes()), Corrupt, "cut off"),
        (patched(24, &[0, 2, 0, 0]), Unsupported, "version 2.0"),
        (patched(32, &0u32.to_be_bytes()), Corrupt, "Block Size"),
        (patched(32, &256u32.to_be_bytes()), Corrupt, "Block Size"),
        (patched(32, &5000u32.to_be_bytes()), Corrupt, "Block Size"),
        (patched(32, &(1u32 << 31).to_be_bytes()), Unsupported, "1 GiB"),
        (patched(28, &3u32.to_be_bytes()), Corrupt, "has 3 entries"),
        (patched(28, &u32::MAX.to_be_bytes()), Corrupt, "beyond the end"),
        (patched(16, &0u64.to_be_bytes()), Corrupt, "copy of the footer"),
        (patched(16, &0x200u64.to_be_bytes()), Corrupt, "upon the dynamic header"),
        (patched(16, &u64::MAX.to_be_bytes()), Corrupt, "beyond the end"),
        (entry(0), Corrupt, "copy of the footer"),
        (entry(2), Corrupt, "upon the dynamic header"),
        (entry(3), Corrupt, "upon the block allocation table"),
        (entry(last), Corrupt, "beyond the end"),
        (entry(BAT_UNUSED - 1), Corrupt, "beyond the end"),
    ] {
        let error = refused(&file);
        assert_eq!(error.kind(), kind, "{word}: {error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    let error = refused(&entry(3));
    assert_eq!((error.offset(), error.guest_range()), (Some(TABLE), Some(0..4096)));
    let limits = Limits { max_table_size: 8, ..Limits::default() };
    let options = LayerOptions { limits, ..LayerOptions::default() };
    assert_eq!(open_with(&good, &options).unwrap_err().kind(), ErrorKind::LimitExceeded);
}

#[test]
fn a_block_never_reaches_into_the_footer() {
    let good = Builder::small(TYPE_DYNAMIC).build();
    let entry = TABLE as usize + 8;
    // the last block, three sectors too late: its end lies upon the footer and beyond
    let mut file = good.clone();
    let at = u32::from_be_bytes(file[entry..entry + 4].try_into().unwrap()) + 3;
    file[entry..entry + 4].copy_from_slice(&at.to_be_bytes());
    let layer = open(&file);
    assert_eq!(layer.map(2 * 4096, u64::MAX).unwrap().length, 4096 - 3 * 512);
    let error = layer.map(3 * 4096 - 3 * 512, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!((error.offset(), error.guest_range()), (Some(entry as u64), Some(8192..12288)));
    // without the footer the end of the file is the bound, and the cut is told
    let mut file = good.clone();
    file.truncate(good.len() - 512 - 1000);
    assert_eq!(codes(&open(&file)), [Code::FooterMissing, Code::Truncated]);
    assert_eq!(refused(&file).kind(), ErrorKind::Corrupt);
}

#[test]
fn the_table_may_be_larger_than_needed() {
    let builder = Builder { more_entries: 100, ..Builder::small(TYPE_DYNAMIC) };
    assert_eq!(read(&builder.build()).unwrap(), builder.content(&[]));
}

#[test]
fn every_name_of_the_parent_is_given_relative_ones_first() {
    let mut builder = Builder::small(TYPE_DIFFERENCING);
    builder.parent_name = "C:\\disks\\base.vhd".into();
    builder.locators = vec![
        (*PLATFORM_W2KU, utf16le("C:\\disks\\bäse.vhd\0")),
        (*PLATFORM_MAC, vec![0xfe; 30]),
        (*PLATFORM_MACX, b"file://localhost/disks/my%20base.vhd".to_vec()),
        (*PLATFORM_W2RU, utf16le(".\\bäse.vhd")),
        (*PLATFORM_WI2R, b".\\old.vhd\0".to_vec()),
        (*PLATFORM_W2RU, utf16le(".\\bäse.vhd")),
    ];
    let layer = open(&builder.build());
    let reference = &layer.references()[0];
    let names: Vec<_> = reference.names.iter().map(|name| str::from_utf8(name).unwrap()).collect();
    let wanted = ["./bäse.vhd", "./old.vhd", "C:/disks/bäse.vhd", "/disks/my base.vhd"];
    assert_eq!(names, [&wanted[..], &["C:/disks/base.vhd"]].concat());
    assert_eq!(reference.format.as_deref(), Some(&b"vpc"[..]));
    assert_eq!(reference.offset, 512 + HEADER_LOCATORS + 3 * 24);
    assert_eq!(codes(&layer), [Code::BackingFile]);
}

#[test]
fn damaged_names_are_told_and_the_identifier_is_the_last_resort() {
    let mut builder = Builder::small(TYPE_DIFFERENCING);
    builder.locators = vec![
        (*PLATFORM_W2RU, vec![b'a', 0, b'b']),
        (*PLATFORM_W2KU, vec![0, 0xd8, 0, 0xd8]),
        (*PLATFORM_W2RU, utf16le("a\0b")),
        (*PLATFORM_W2RU, Vec::new()),
        (*PLATFORM_MACX, b"http://x/%zz".to_vec()),
        (*PLATFORM_MACX, b"file:///x%f".to_vec()),
        (*PLATFORM_WI2K, vec![0xff]),
    ];
    let mut file = builder.build();
    // one that lies beyond the end
    let entry = HEADER_LOCATORS as usize + 7 * LOCATOR_SIZE;
    patch(&mut file, entry, PLATFORM_W2RU);
    patch(&mut file, entry + 16, &u64::MAX.to_be_bytes());
    let layer = open(&file);
    let names = &layer.references()[0].names;
    assert_eq!(*names, [b"09090909-0909-0909-0909-090909090909".to_vec()]);
    assert_eq!(codes(&layer).iter().filter(|code| **code == Code::CheckError).count(), 8);
}

#[test]
fn only_the_parent_with_the_right_identifier_will_do() {
    let child = open(&Builder::small(TYPE_DIFFERENCING).build());
    let stranger = open(&Builder::small(TYPE_FIXED).build());
    let error = child.check_parent(&stranger).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(512 + 40)));
    assert!(error.to_string().contains("09090909-") && error.to_string().contains("07070707-"));
    let raw = crate::format::raw::RawLayer::new(Arc::new(MemoryStorage::default()));
    assert!(child.check_parent(&raw).is_err());
    let parent = Builder { uuid: [9; 16], ..Builder::small(TYPE_FIXED) };
    child.check_parent(&open(&parent.build())).unwrap();
}

#[test]
fn a_saved_state_and_the_details_are_told() {
    let builder = Builder { saved: 1, ..Builder::small(TYPE_DYNAMIC) };
    let description = open(&builder.build()).describe().unwrap();
    assert!(description.dirty);
    assert_eq!(description.findings[0].code, Code::Dirty);
    let get = |key: &str| description.details.iter().find(|(k, _)| *k == key).unwrap().1.clone();
    assert_eq!(get("type"), "dynamic".into());
    assert_eq!(get("block-size"), 4096u64.into());
    assert_eq!(get("creation-time"), (EPOCH + 1000).into());
    assert_eq!(get("creator-version"), "5.3".into());
    assert_eq!(get("uuid"), "07070707-0707-0707-0707-070707070707".into());
}

#[test]
fn no_prefix_of_an_image_reads_as_something_else() {
    for kind in [TYPE_FIXED, TYPE_DYNAMIC] {
        let builder = Builder::small(kind);
        let (file, content) = (builder.build(), builder.content(&[]));
        for length in (0..file.len()).step_by(97).chain(file.len() - 513..file.len() - 1) {
            if let Ok(bytes) = read(&file[..length]) {
                assert!(bytes == content && length >= file.len() - 512, "{kind} at {length}");
            }
        }
    }
}
