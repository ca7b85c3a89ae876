//! Hosted sparse extents: tables, copies, streams.

use proptest::prelude::*;

use super::super::layout::*;
use super::build::*;
use crate::conformance;
use crate::disk::VirtualDisk;
use crate::layer::{Layer, MappingKind, Source};
use crate::{Code, ErrorKind, VirtualDiskExt};

fn read(disk: &dyn VirtualDisk) -> crate::Result<Vec<u8>> {
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// The error of reading everything of an image that opens.
fn error_of(built: &Built) -> crate::Error {
    built.open().and_then(|disk| read(&disk)).unwrap_err()
}

fn stream() -> Hosted {
    Hosted { compressed: true, footer: true, redundant: false, ..Hosted::default() }
}

#[test]
fn every_arrangement_of_tables_reads_to_its_content() {
    for (compressed, markers) in [(false, false), (true, false), (true, true)] {
        for (redundant, footer) in [(false, false), (true, false), (false, true)] {
            for short in [0, 1, 7] {
                let base = Hosted::default();
                let recipe = Hosted { compressed, markers, redundant, footer, short, ..base };
                let built = recipe.build();
                let disk = built.open().unwrap();
                conformance::check(&disk, Some(&recipe.content())).unwrap();
                let layer = layer(built.bytes.clone()).unwrap();
                assert_eq!(layer.cluster_size(), Some(4096));
                assert_eq!(codes(&layer), [], "{recipe:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_tables_map_and_read_as_the_model(
        cells in proptest::collection::vec(
            prop_oneof![3 => Just(Cell::None), 1 => Just(Cell::Zero), 3 => any::<u8>().prop_map(Cell::Data)],
            1..40,
        ),
        per_table in prop_oneof![1u32..9, Just(512)],
        grain in prop_oneof![Just(1u64), Just(8), Just(16)],
        compressed in any::<bool>(),
    ) {
        let recipe = Hosted { cells, per_table, grain, compressed, ..Hosted::default() };
        let disk = recipe.build().open().unwrap();
        conformance::check(&disk, Some(&recipe.content())).unwrap();
        let mut at = 0;
        for extent in disk.extents(0..u64::MAX) {
            let extent = extent.unwrap();
            while at < extent.end() {
                let cell = recipe.cells[(at / (grain * 512)) as usize];
                let allocated = matches!(extent.kind, crate::ExtentKind::Zero { allocated: true, .. });
                prop_assert_eq!(extent.kind.is_zero(), !matches!(cell, Cell::Data(_)));
                prop_assert_eq!(allocated, cell == Cell::Zero);
                at += grain * 512;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn damage_is_an_answer_or_an_error(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        head in any::<bool>(),
        footer in any::<bool>(),
        trust in any::<bool>(),
    ) {
        let recipe = Hosted { compressed: footer, footer, redundant: !footer, ..Hosted::default() };
        let mut bytes = recipe.build().bytes;
        let end = if head { 80 } else { bytes.len() };
        for (index, value) in changes {
            bytes[index.index(end)] = value;
        }
        let options = if trust { trusting() } else { Default::default() };
        if let Ok(layer) = super::super::VmdkLayer::open(memory(bytes), &options) {
            let _ = layer.describe().unwrap();
            let (mut at, mut buf) = (0, vec![0; 8192]);
            for _ in 0..100 {
                let Ok(mapping) = layer.map(at, u64::MAX) else { break };
                prop_assert!(mapping.length > 0 && mapping.length <= layer.size() - at);
                if mapping.kind == MappingKind::Encoded {
                    let length = mapping.length.min(8192) as usize;
                    let _ = layer.read_encoded(&mut buf[..length], at);
                }
                at += mapping.length;
                if at == layer.size() {
                    break;
                }
            }
        }
    }
}

#[test]
fn long_runs_without_tables_are_one_answer_a_page() {
    let cells = vec![Cell::None; 4096];
    let recipe = Hosted { cells, per_table: 1, descriptor: None, ..Hosted::default() };
    let layer = layer(recipe.build().bytes).unwrap();
    let mapping = layer.map(512, u64::MAX).unwrap();
    assert_eq!(mapping.length, 4096 * 4096 - 512);
    assert_eq!(mapping.kind, MappingKind::Parent { stored: None });
}

#[test]
fn neighbours_that_follow_each_other_are_joined() {
    let cells = vec![Cell::Data(1); 8];
    let recipe = Hosted { cells, per_table: 8, ..Hosted::default() };
    let built = recipe.build();
    let mapping = layer(built.bytes.clone()).unwrap().map(100, u64::MAX).unwrap();
    let offset = built.grains[0].unwrap() as u64 + 100;
    assert_eq!(mapping.kind, MappingKind::Stored { source: Source::Own, offset });
    assert_eq!(mapping.length, 8 * 4096 - 100);
    let recipe = Hosted { compressed: true, ..recipe };
    let mapping = layer(recipe.build().bytes).unwrap().map(100, 9000).unwrap();
    assert_eq!((mapping.length, mapping.kind), (9000, MappingKind::Encoded));
}

#[test]
fn the_other_directory_is_used_where_the_first_is_damaged() {
    let recipe = Hosted::default();
    let good = recipe.build();
    // beyond the file, on itself, on the header, on the descriptor
    let bad = [u32::MAX, good.directory as u32 / 512, 0, 2];
    for (index, value) in bad.into_iter().enumerate().filter(|(_, value)| *value != 0) {
        let mut built = good.clone();
        built.put32(built.directory, value);
        let disk = built.open().unwrap();
        assert_eq!(read(&disk).unwrap(), recipe.content(), "{index}");
        let found = codes(disk.images()[0].layer());
        assert_eq!(found, [Code::CheckError, Code::RedundantCopyDamaged], "{index}");
        // and with the other one damaged, too
        built.put32(built.redundant_directory, value);
        let error = error_of(&built);
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.offset(), Some(built.directory as u64), "{error}");
        assert_eq!(error.guest_range(), Some(0..4 * 4096));
    }
    // the other one alone does no harm, but is told
    let mut built = good.clone();
    built.put32(built.redundant_directory, u32::MAX);
    let disk = built.open().unwrap();
    assert_eq!(read(&disk).unwrap(), recipe.content());
    assert_eq!(codes(disk.images()[0].layer()), [Code::CheckError]);
    // without the flag there is no other one
    let mut built = good.clone();
    built.put32(8, FLAG_NEWLINE_TEST | FLAG_ZEROED_GRAIN);
    built.put32(good.directory, u32::MAX);
    assert_eq!(error_of(&built).kind(), ErrorKind::Corrupt);
}

#[test]
fn a_header_that_misplaces_its_directory_is_refused() {
    for place in [0, 1, 4, 1 << 40, u64::MAX >> 1] {
        let mut built = Hosted::default().build();
        built.put64(56, place);
        let error = built.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{place}: {error}");
    }
}

#[test]
fn a_grain_among_the_tables_or_beyond_the_end_is_an_error() {
    for compressed in [false, true] {
        let recipe = Hosted { compressed, ..Hosted::default() };
        let good = recipe.build();
        let places = [2, good.directory as u32 / 512, good.redundant_directory as u32 / 512];
        for value in places.into_iter().chain([u32::MAX, good.bytes.len() as u32 / 512]) {
            let mut built = good.clone();
            // entry 3 is the last one of the first table
            built.put32(built.tables[0] + 12, value);
            let error = error_of(&built);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{value}: {error}");
            assert_eq!(error.guest_range(), Some(3 * 4096..4 * 4096), "{value}: {error}");
            let disk = built.open().unwrap();
            assert!(disk.read_exact_at(&mut [0; 4096], 0).is_ok(), "the others can be read");
            let found = codes(disk.images()[0].layer());
            assert!(found.contains(&Code::CheckError) || found.contains(&Code::Truncated));
        }
    }
    // 1 is a zeroed grain only with the flag
    let mut built = Hosted::default().build();
    built.put32(8, FLAG_NEWLINE_TEST | FLAG_REDUNDANT);
    assert_eq!(error_of(&built).guest_range(), Some(2 * 4096..3 * 4096));
}

#[test]
fn a_truncated_file_is_an_error_and_a_finding() {
    for compressed in [false, true] {
        let recipe = Hosted { compressed, redundant: false, ..Hosted::default() };
        let mut built = recipe.build();
        let last = built.grains[4].unwrap();
        built.bytes.truncate(last + 5);
        let error = error_of(&built);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.guest_range().unwrap().end == 5 * 4096, "{error:?}");
        assert!(codes(&layer(built.bytes.clone()).unwrap()).contains(&Code::Truncated));
        // and every shorter one is refused at once or when read
        for length in (0..last).step_by(137) {
            let mut built = built.clone();
            built.bytes.truncate(length);
            error_of(&built);
        }
    }
}

#[test]
fn grains_that_lie_on_each_other_are_found() {
    let mut built = Hosted::default().build();
    let place = built.grains[0].unwrap() as u32 / 512;
    for tables in [built.tables.clone(), built.redundant_tables.clone()] {
        built.put32(tables[0] + 12, place);
    }
    assert_eq!(codes(&layer(built.bytes.clone()).unwrap()), [Code::CheckError]);
    let mut built = Hosted::default().build();
    built.put32(built.redundant_tables[1], place);
    assert_eq!(codes(&layer(built.bytes.clone()).unwrap()), [Code::CheckError]);
}

#[test]
fn an_unclean_shutdown_is_told() {
    let mut built = Hosted::default().build();
    built.bytes[72] = 1;
    let layer = layer(built.bytes).unwrap();
    assert!(layer.describe().unwrap().dirty);
    assert_eq!(codes(&layer), [Code::Dirty]);
}

#[test]
fn a_compressed_grain_must_be_what_the_tables_say() {
    let good = stream().build();
    let grain = good.grains[3].unwrap();
    let size = u32::from_le_bytes(good.bytes[grain + 8..grain + 12].try_into().unwrap());
    let broken = |change: &dyn Fn(&mut Built)| {
        let mut built = good.clone();
        change(&mut built);
        let error = error_of(&built);
        assert_eq!(error.guest_range(), Some(3 * 4096..4 * 4096), "{error}");
        assert_eq!(error.offset(), Some(grain as u64), "{error}");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        error.to_string()
    };
    assert!(broken(&|b| b.put64(grain, 16)).contains("sector 16, not 24"));
    assert!(broken(&|b| b.put32(grain + 8, 0)).contains("size of 0"));
    assert!(broken(&|b| b.put32(grain + 8, 8193)).contains("size of 8193"));
    assert!(broken(&|b| b.put32(grain + 8, size - 1)).contains("zlib"));
    assert!(broken(&|b| b.bytes[grain + 12] ^= 0xff).contains("zlib"));
    assert!(broken(&|b| b.bytes[grain + 11 + size as usize] ^= 1).contains("zlib"), "Adler-32");
    let replaced = |data: &[u8]| {
        let data = zlib(data);
        broken(&|b| {
            b.put32(grain + 8, data.len() as u32);
            b.bytes[grain + 12..grain + 12 + data.len()].copy_from_slice(&data);
        })
    };
    assert!(replaced(&[0; 4095]).contains("ends after 4095"));
    assert!(replaced(&[0; 4097]).contains("zlib"), "a grain that is too long");
}

#[test]
fn the_last_grain_may_be_stored_short() {
    let recipe = Hosted { short: 3, ..stream() };
    let mut built = recipe.build();
    let grain = built.grains[4].unwrap();
    let content = recipe.content();
    for (length, good) in [(5 * 512, true), (6 * 512, true), (5 * 512 - 1, false)] {
        let data = zlib(&recipe.grain_bytes(4)[..length]);
        built.put32(grain + 8, data.len() as u32);
        built.bytes[grain + 12..grain + 12 + data.len()].copy_from_slice(&data);
        let disk = built.open().unwrap();
        assert_eq!(read(&disk).ok(), good.then(|| content.clone()), "{length}");
        if good {
            conformance::check(&disk, Some(&content)).unwrap();
        }
    }
}

#[test]
fn a_footer_that_is_missing_or_wrong_is_told_and_nothing_is_read() {
    let good = stream().build();
    let end = good.bytes.len();
    let (marker, footer, eos) = (end - 1536, end - 1024, end - 512);
    type Change = Box<dyn Fn(&mut Built)>;
    let cases: [(&str, Code, Change); 9] = [
        ("cut", Code::FooterMissing, Box::new(move |b| b.bytes.truncate(eos))),
        ("cut", Code::FooterMissing, Box::new(|b| b.bytes.truncate(2560))),
        ("marker", Code::FooterMissing, Box::new(move |b| b.put32(marker + 12, 2))),
        ("magic", Code::FooterMissing, Box::new(move |b| b.bytes[footer] = b'X')),
        ("again", Code::FooterMissing, Box::new(move |b| b.put64(footer + 56, GD_AT_END))),
        ("end", Code::FooterMissing, Box::new(move |b| b.put32(eos + 12, 1))),
        ("capacity", Code::FooterMismatch, Box::new(move |b| b.put64(footer + 12, 48))),
        ("grain", Code::FooterMismatch, Box::new(move |b| b.put64(footer + 20, 16))),
        ("flags", Code::FooterMismatch, Box::new(move |b| b.put32(footer + 8, 1))),
    ];
    for (name, code, change) in cases {
        let mut built = good.clone();
        change(&mut built);
        let error = error_of(&built);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
        let layer = layer(built.bytes.clone()).unwrap();
        assert_eq!(codes(&layer), [code], "{name}");
        assert_eq!(layer.size(), 5 * 4096, "{name}");
        assert!(layer.read_encoded(&mut [0; 512], 0).is_err(), "{name}");
    }
    // what says nothing about the data is told, and does no harm
    let mut built = good.clone();
    built.put64(footer + 64, 77);
    assert_eq!(read(&built.open().unwrap()).unwrap(), stream().content());
    assert_eq!(codes(&layer(built.bytes).unwrap()), [Code::FooterMismatch]);
}

#[test]
fn a_transfer_in_text_mode_is_told_and_nothing_is_read() {
    let recipe = Hosted::default();
    let good = recipe.build().bytes;
    let unix = good.iter().copied().filter(|&b| b != b'\r').collect::<Vec<_>>();
    let dos = good.iter().flat_map(|&b| if b == b'\n' { vec![b'\r', b] } else { vec![b] });
    let single = [&good[..73], b"\r \r\n", &good[77..]].concat();
    for bytes in [unix, dos.collect(), single.clone()] {
        let image = layer(bytes.clone()).unwrap();
        assert_eq!(codes(&image), [Code::NewlineMangled]);
        assert!(image.size() > 0);
        let error = chain(bytes, &[]).and_then(|disk| read(&disk)).unwrap_err();
        assert!(error.to_string().contains("line ends"), "{error}");
        assert_eq!(error.offset(), Some(73));
    }
    let trusted = super::super::VmdkLayer::open(memory(single), &trusting()).unwrap();
    assert!(trusted.map(0, 1).is_ok(), "only the test is damaged");
}

#[test]
fn the_line_tells_the_size_that_the_header_rounds_up() {
    let recipe = Hosted { descriptor: Some(embedded(37)), ..Hosted::default() };
    let disk = recipe.build().open().unwrap();
    conformance::check(&disk, Some(&recipe.content()[..37 * 512])).unwrap();
    for sectors in [0, 1, 32, 41, 1 << 40] {
        let descriptor = Some(embedded(sectors));
        let built = Hosted { descriptor, ..Hosted::default() }.build();
        let error = built.open().unwrap_err();
        assert!(error.to_string().contains("40"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn a_rounded_capacity_does_not_ask_the_last_grain_for_more_than_the_disk_has() {
    let recipe = Hosted { descriptor: Some(embedded(37)), ..stream() };
    let mut built = recipe.build();
    let grain = built.grains[4].unwrap();
    let data = zlib(&recipe.grain_bytes(4)[..5 * 512]);
    built.put32(grain + 8, data.len() as u32);
    built.bytes[grain + 12..grain + 12 + data.len()].copy_from_slice(&data);
    let disk = built.open().unwrap();
    conformance::check(&disk, Some(&recipe.content()[..37 * 512])).unwrap();
}

#[test]
fn the_embedded_descriptor_speaks_of_this_file_only() {
    let open = |text: String| {
        let recipe = Hosted { descriptor: Some(text), ..Hosted::default() };
        recipe.build().open().map(|disk| disk.size())
    };
    let line = "RW 40 SPARSE \"\"";
    assert_eq!(open(descriptor("STREAMOptimized", line)).unwrap(), 40 * 512);
    for (kind, lines) in [
        ("monolithicSparse", ""),
        ("monolithicSparse", "RW 40 FLAT \"/etc/passwd\" 0"),
        ("monolithicSparse", "RW 40 VMFSSPARSE \"a\""),
        ("monolithicSparse", "RW 20 SPARSE \"a\"\nRW 20 SPARSE \"b\""),
        ("monolithicSparse", "RW 40 SPARSE \"a\" 8"),
        ("monolithicFlat", "RW 40 FLAT \"a\" 0"),
        ("nothing", line),
    ] {
        let error = open(descriptor(kind, lines)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{kind} {lines}: {error}");
    }
    // a bare extent is a part of something unknown
    let recipe = Hosted { descriptor: Some("\n".into()), ..Hosted::default() };
    let bytes = recipe.build().bytes;
    assert_eq!(layer(bytes.clone()).unwrap_err().kind(), ErrorKind::InvalidInput);
    let bare = super::super::VmdkLayer::open(memory(bytes), &trusting()).unwrap();
    assert_eq!(bare.size(), 40 * 512);
    assert!(bare.map(0, 1).is_ok());
}
