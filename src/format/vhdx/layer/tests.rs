use super::*;
use crate::conformance;
use crate::disk::{VirtualDisk, VirtualDiskExt};
use crate::format::vhdx::testing::{
    BAT, Builder, FIRST_BLOCK, Image, LOG, LogEntry, METADATA, Write, seal,
};
use crate::{ErrorKind, ExtentKind};
use proptest::prelude::*;

const MIB: usize = 1 << 20;
const LINKAGE: &str = "{00000002-0002-0002-0000-000000000002}";

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length / 8).flat_map(|_| next().to_le_bytes()).collect()
}

fn error_of(image: &Image, offset: u64) -> Error {
    let disk = image.chain(&[]).unwrap();
    disk.read_exact_at(&mut [0; 512], offset).unwrap_err()
}

#[test]
fn each_state_reads_as_the_specification_says() {
    let mut builder = Builder::new(1 << 20, 7 << 20);
    let (one, two) = (noise(1, MIB), noise(2, MIB));
    builder.data(1, one.clone());
    builder.data(2, two.clone());
    for (block, state) in [(3, 1), (4, 2), (5, 3)] {
        builder.state(block, state);
    }
    let mut image = builder.build();
    // states without a place may have one left over
    image.set_bat(5, 3 | FIRST_BLOCK);
    let zeros = vec![0; MIB];
    let wanted = [&zeros, &one, &two, &zeros, &zeros, &zeros, &zeros].map(|v| &v[..]).concat();
    let disk = image.chain(&[]).unwrap();
    conformance::check(&disk, Some(&wanted)).unwrap();
    let extents: Vec<_> = disk.extents(0..u64::MAX).map(|e| e.unwrap()).collect();
    assert_eq!(extents.len(), 3, "neighbours of one kind and place are one: {extents:?}");
    assert!(matches!(extents[0].kind, ExtentKind::Zero { allocated: true, stored: None }));
    assert_eq!(extents[1].kind.location().unwrap().offset, FIRST_BLOCK);
    assert_eq!(extents[1].length, 2 << 20);
}

#[test]
fn the_last_block_may_reach_beyond_the_disk_but_not_lie_beyond_the_file() {
    let mut builder = Builder::new(1 << 20, (3 << 20) + 512);
    builder.fixed();
    let blocks: Vec<_> = (0..4).map(|i| noise(i, MIB)).collect();
    for (index, block) in blocks.iter().enumerate() {
        builder.data(index as u64, block.clone());
    }
    let mut image = builder.build();
    let wanted = &blocks.concat()[..3 * MIB + 512];
    conformance::check(&image.chain(&[]).unwrap(), Some(wanted)).unwrap();
    // cut where the disk ends: all there is
    image.bytes.truncate(7 * MIB + 512);
    conformance::check(&image.chain(&[]).unwrap(), Some(wanted)).unwrap();
    image.bytes.truncate(7 * MIB + 511);
    let error = error_of(&image, 3 << 20);
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.offset(), Some((7 << 20) + 511));
    image.bytes.truncate(5 * MIB + 100);
    let error = error_of(&image, 2 << 20);
    assert_eq!(error.guest_range(), Some(2 << 20..(2 << 20) + 512));
    let disk = image.chain(&[]).unwrap();
    disk.read_exact_at(&mut [0; 100], 1 << 20).expect("what is there can be read");
}

#[test]
fn entries_of_sector_bitmaps_lie_between_those_of_blocks() {
    for (block_size, sector, ratio) in [(1u64 << 20, 512, 4096), (32 << 20, 4096, 1024)] {
        let blocks = 2 * ratio + 2;
        let mut builder = Builder::new(block_size as u32, block_size * blocks);
        builder.logical_sector(sector);
        let mut image = builder.build();
        let mut content = noise(9, MIB);
        content.resize(block_size as usize, 0);
        // a place for each, of the same bytes, to save memory
        let place = image.append(&content);
        let used = [0, ratio - 1, ratio, 2 * ratio - 1, 2 * ratio, blocks - 1];
        for block in used {
            image.set_bat(block, place | 6);
        }
        // in an image without parent they mean nothing, and programs have put rubbish there
        image.set_bitmap(0, u64::MAX);
        image.set_bitmap(1, 5);
        let disk = image.chain(&[]).unwrap();
        let mut bytes = vec![0; 4096];
        for extent in disk.extents(0..disk.size()) {
            let extent = extent.unwrap();
            let first = extent.start / block_size;
            assert_eq!(!extent.kind.is_zero(), used.contains(&first), "{extent:?}");
        }
        for block in used {
            disk.read_exact_at(&mut bytes, block * block_size).unwrap();
            assert_eq!(bytes, content[..4096], "block {block}");
        }
    }
}

#[test]
fn a_damaged_entry_is_an_error_with_its_place_and_guest_range() {
    let mut builder = Builder::new(1 << 20, 4 << 20);
    builder.data(0, noise(1, MIB));
    for (value, text) in [
        (4, "state 4"),
        (5, "state 5"),
        (FIRST_BLOCK | 7, "no parent"),
        (FIRST_BLOCK | 6 | 8, "reserved"),
        (6, "overlaps the header section"),
        (1 << 20 | 6, "overlaps the log"),
        (2 << 20 | 6, "overlaps the metadata region"),
        (3 << 20 | 6, "overlaps the block allocation table"),
        (u64::MAX << 20 | 6, "within 64 bits"),
    ] {
        let mut image = builder.build();
        image.set_bat(1, value);
        let error = error_of(&image, (1 << 20) + 512);
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(text), "{error} does not say '{text}'");
        assert_eq!(error.offset(), Some(image.bat_place(1)));
        assert_eq!(error.guest_range(), Some(1 << 20..2 << 20));
        assert!(error.advice().is_some());
        // what lies before it is read
        let disk = image.chain(&[]).unwrap();
        disk.read_exact_at(&mut vec![0; MIB], 0).unwrap();
    }
    let mut image = builder.build();
    image.set_bat(1, 1 << 40 | 6);
    assert_eq!(error_of(&image, 1 << 20).offset(), Some(1 << 40));
}

#[test]
fn a_table_that_is_too_small_for_the_disk_is_corrupt() {
    let room = (1 << 20) / 8;
    let size = |blocks: u64| Builder::new(1 << 20, blocks << 20).build().open();
    // of the entries, one in 4097 is a sector bitmap's
    let blocks = room - (room - 1) / 4097;
    assert_eq!(size(blocks).unwrap().size(), blocks << 20);
    let error = size(blocks + 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("has room for 131072 entries"), "{error}");
    // a differencing image has all entries of its last chunk
    let chunks = room / 4097;
    for (blocks, fits) in [(chunks * 4096, true), (chunks * 4096 + 1, false)] {
        let mut builder = Builder::new(1 << 20, blocks << 20);
        builder.parent(LINKAGE, &[("relative_path", "p.vhdx")]);
        assert_eq!(builder.build().open().is_ok(), fits);
    }
}

#[test]
fn an_empty_disk_is_one() {
    for has_parent in [false, true] {
        let mut builder = Builder::new(1 << 20, 0);
        if has_parent {
            builder.parent(LINKAGE, &[("relative_path", "p.vhdx")]);
        }
        let image = builder.build();
        conformance::check(&image.chain(&[]).unwrap(), Some(&[])).unwrap();
        assert!(image.open().unwrap().describe().unwrap().details.len() > 5);
    }
}

fn child(size: u64, sector: u32) -> Builder {
    let mut builder = Builder::new(1 << 20, size);
    builder.logical_sector(sector);
    builder.parent(LINKAGE, &[("relative_path", r".\p.vhdx")]);
    builder
}

#[test]
fn a_differencing_image_takes_from_its_parent_what_it_has_not() {
    let mut parent = Builder::new(1 << 20, 6 << 20);
    let base: Vec<_> = (0..6).map(|i| noise(i, MIB)).collect();
    for (index, block) in base.iter().enumerate() {
        parent.data(index as u64, block.clone());
    }
    for sector in [512usize, 4096] {
        let mut builder = child(6 << 20, sector as u32);
        let (full, some) = (noise(10, MIB), noise(11, MIB));
        builder.data(1, full.clone());
        let present: Vec<bool> =
            (0..MIB / sector).map(|i| i % 7 < 3 || (64..160).contains(&i)).collect();
        builder.partial(2, some.clone(), present.clone());
        for (block, state) in [(3, 1), (4, 2), (5, 3)] {
            builder.state(block, state);
        }
        let mut mixed = base[2].clone();
        for (index, _) in present.iter().enumerate().filter(|(_, p)| **p) {
            let range = index * sector..(index + 1) * sector;
            mixed[range.clone()].copy_from_slice(&some[range]);
        }
        let zeros = vec![0; 3 * MIB];
        let wanted = [&base[0], &full, &mixed, &zeros].map(|v| &v[..]).concat();
        let (image, parent) = (builder.build(), parent.build());
        let disk = image.chain(&[&parent]).unwrap();
        conformance::check(&disk, Some(&wanted)).unwrap();
        assert_eq!(disk.extent_at(0, 512).unwrap().depth, 1);
        assert_eq!(disk.extent_at(3 << 20, 512).unwrap().depth, 0);
        // without a parent there are zeros, and a place for them
        let alone = image.chain(&[]).unwrap();
        let hole = alone.extent_at((2 << 20) + 3 * sector as u64, 1 << 20).unwrap();
        assert_eq!(hole.length, 4 * sector as u64);
        assert!(hole.kind.is_zero() && hole.kind.location().is_some());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn chains_of_random_states_read_as_a_model(
        layers in proptest::collection::vec(
            proptest::collection::vec((0u8..7, any::<u64>()), 5), 1..4),
        four_k: bool,
    ) {
        let sector = if four_k { 4096 } else { 512 };
        let size = 4 * MIB + 8192;
        let mut model = vec![0; 5 * MIB];
        let mut images = Vec::new();
        for (depth, blocks) in layers.iter().enumerate() {
            let mut builder = child(size as u64, sector as u32);
            if depth == 0 {
                builder = Builder::new(1 << 20, size as u64);
                builder.logical_sector(sector as u32);
            }
            for (index, &(state, seed)) in blocks.iter().enumerate() {
                let part = &mut model[index * MIB..(index + 1) * MIB];
                let content = noise(seed, MIB);
                match state {
                    0 => {}
                    1..=3 => {
                        part.fill(0);
                        builder.state(index as u64, state.into());
                    }
                    6 if depth > 0 => {
                        let bits = noise(seed ^ 1, MIB / sector);
                        let present: Vec<bool> = bits.iter().map(|b| b & 0x30 != 0).collect();
                        for (i, _) in present.iter().enumerate().filter(|(_, p)| **p) {
                            let range = i * sector..(i + 1) * sector;
                            part[range.clone()].copy_from_slice(&content[range]);
                        }
                        builder.partial(index as u64, content, present);
                    }
                    _ => {
                        part.copy_from_slice(&content);
                        builder.data(index as u64, content);
                    }
                }
            }
            images.push(builder.build());
        }
        let (top, parents) = images.split_last().unwrap();
        let parents: Vec<_> = parents.iter().rev().collect();
        let disk = top.chain(&parents).unwrap();
        conformance::check(&disk, Some(&model[..size])).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn a_partially_present_block_needs_its_bitmap() {
    let image = || {
        let mut builder = child(4 << 20, 512);
        builder.partial(2, noise(1, MIB), vec![true; 2048]);
        builder.build()
    };
    let disk = image().chain(&[]).unwrap();
    disk.read_exact_at(&mut vec![0; MIB], 2 << 20).unwrap();
    for (value, text) in [
        (0, "not there (state 0)"),
        (3, "not there (state 3)"),
        (7 | FIRST_BLOCK, "not there (state 7)"),
        (6 | 8 | FIRST_BLOCK, "reserved"),
        (6, "overlaps the header section"),
        (6 | 3 << 20, "overlaps the block allocation table"),
        (6 | 1 << 40, "beyond the end"),
        (6 | u64::MAX << 20, "within 64 bits"),
    ] {
        let mut image = image();
        image.set_bitmap(0, value);
        let error = error_of(&image, (2 << 20) + 512);
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(text), "{error} does not say '{text}'");
        assert_eq!(error.guest_range(), Some(2 << 20..3 << 20));
        let place = BAT + 8 * 4096;
        assert_eq!(error.offset(), Some(place), "{error}");
    }
}

#[test]
fn the_parent_is_known_by_its_identifier() {
    let child = child(4 << 20, 512).build().open().unwrap();
    let mut parent = Builder::new(1 << 20, 4 << 20);
    child.check_parent(&parent.build().open().unwrap()).unwrap();
    parent.data_write_guid = Guid::of(2, 2, 2, 3);
    let error = child.check_parent(&parent.build().open().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("00000002-0002-0002-0000-000000000003"), "{error}");
    let raw = crate::format::raw::RawLayer::new(Arc::new(crate::storage::MemoryStorage::default()));
    assert!(child.check_parent(&raw).is_err());
    assert_eq!(child.references()[0].names, [b"./p.vhdx"]);
    assert!(parent.build().open().unwrap().check_parent(&raw).is_ok(), "it has no parent");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn whatever_a_file_says_is_answered(
        changes in proptest::collection::vec((0..7usize, 0..320usize, any::<u8>()), 1..5),
        trust: bool,
    ) {
        let mut builder = child(4 << 20, 512);
        builder.data(0, noise(1, MIB));
        builder.partial(1, noise(2, MIB), (0..2048).map(|i| i % 3 == 0).collect());
        let mut image = builder.build();
        image.mark_log();
        let size = image.bytes.len();
        let writes = vec![
            Write::Zeros { at: FIRST_BLOCK, length: 4096 },
            Write::Sector { at: FIRST_BLOCK + 8192, bytes: noise(3, 4096) },
        ];
        let entries = [LogEntry::new(5, 0, size, writes), LogEntry::new(6, 0, size, Vec::new())];
        let mut position = 0;
        for entry in &entries {
            position = image.put_log(position, entry);
        }
        for &(place, at, byte) in &changes {
            let in_entry = |image: &mut Image| {
                let entry = &mut image.bytes[LOG as usize..LOG as usize + 8192];
                entry[at] = byte;
                seal(entry);
            };
            match place {
                0 | 1 => image.header(place, |header| header[at % 80] = byte),
                2 | 3 => image.region_table(place - 2, |table| table[at % 80] = byte),
                4 => image.bytes[METADATA as usize + at] = byte,
                5 => image.bytes[METADATA as usize + 65_536 + at] = byte,
                6 if at % 2 == 0 => image.bytes[BAT as usize + at] = byte,
                _ => in_entry(&mut image),
            }
        }
        // answers of any kind will do, as long as they keep the law
        if let Ok(layer) = if trust { image.trust() } else { image.open() } {
            let _ = layer.describe();
            let size = layer.size();
            let mut at = 0;
            while at < size.min(1 << 30) {
                let Ok(mapping) = layer.map(at, u64::MAX) else { break };
                prop_assert!(mapping.length > 0 && at + mapping.length <= size);
                at += mapping.length;
            }
        }
        if let Ok(disk) = image.chain(&[]) {
            let mut bytes = vec![0; MIB];
            let _ = disk.read_exact_at(&mut bytes, 0);
        }
    }
}
