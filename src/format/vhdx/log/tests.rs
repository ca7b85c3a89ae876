use super::*;
use crate::ErrorKind;
use crate::format::vhdx::layer::VhdxLayer;
use crate::format::vhdx::testing::{BAT, Builder, Image, LOG, LOG_GUID, LogEntry, Write};
use crate::layer::Layer;
use proptest::prelude::*;

const RING: u64 = 1 << 20;

/// An image of two blocks in the file, 0x400000..0x600000, whose log counts.
fn image() -> Image {
    let mut builder = Builder::new(1 << 20, 2 << 20);
    builder.data(0, vec![0x11; 1 << 20]);
    builder.data(1, vec![0x22; 1 << 20]);
    let mut image = builder.build();
    image.mark_log();
    image
}

fn sector(at: u64, byte: u8) -> Write {
    let mut bytes = vec![byte; 4096];
    bytes[..8].copy_from_slice(b"leading!");
    bytes[4092..].copy_from_slice(b"ends");
    Write::Sector { at, bytes }
}

/// An entry that writes its sequence number to a sector of the first block.
fn numbered(number: u64, tail: u64) -> LogEntry {
    LogEntry::new(number, tail, 6 << 20, vec![sector(0x40_0000 + number * 4096, number as u8)])
}

/// Which of the numbered entries count.
fn replayed(image: &Image) -> Vec<u64> {
    let layer = image.open().unwrap();
    let storage = layer.storage().unwrap();
    let has = |number: &u64| {
        let mut byte = [0];
        storage.read_exact_at(&mut byte, 0x40_0000 + number * 4096 + 100).unwrap();
        byte[0] == *number as u8
    };
    (1..17).filter(has).collect()
}

fn refused(image: &Image, kind: ErrorKind, text: &str) {
    let Err(error) = image.open() else { panic!("it was opened") };
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(text), "{error} does not say '{text}'");
    assert!((LOG..2 * LOG).contains(&error.offset().unwrap()), "{error}");
}

#[test]
fn entries_are_replayed_in_order_and_the_file_is_untouched() {
    let mut image = image();
    let writes = vec![
        sector(0x40_0000, 0xa1),
        Write::Zeros { at: 0x50_0000, length: 0x3000 },
        sector(0x50_1000, 0xa2),
    ];
    let second = vec![sector(0x50_1000, 0xa3), Write::Zeros { at: 0x40_0000, length: 4096 }];
    let size = image.bytes.len();
    let next = image.put_log(0, &LogEntry::new(7, 0, size, writes));
    image.put_log(next, &LogEntry::new(8, 0, size, second));
    let before = image.bytes.clone();
    let disk = image.chain(&[]).unwrap();
    let mut wanted = [vec![0x11; 1 << 20], vec![0x22; 1 << 20]].concat();
    wanted[..4096].fill(0);
    wanted[1 << 20..(1 << 20) + 0x3000].fill(0);
    wanted[(1 << 20) + 0x1000..(1 << 20) + 0x2000].fill(0xa3);
    wanted[(1 << 20) + 0x1000..(1 << 20) + 0x1008].copy_from_slice(b"leading!");
    wanted[(1 << 20) + 0x1ffc..(1 << 20) + 0x2000].copy_from_slice(b"ends");
    crate::conformance::check(&disk, Some(&wanted)).unwrap();
    assert_eq!(image.bytes, before);
    let state = LogState::Replayed {
        entries: 2,
        sequence_number: 8,
        sectors: 3,
        zeros: 0x4000,
        file_size: size as u64,
    };
    assert_eq!(image.open().unwrap().log(), state);
    assert!(disk.images()[0].storage().unwrap().as_file().is_none());
}

#[test]
fn the_block_allocation_table_is_read_as_the_log_has_it() {
    let mut image = image();
    let (one, two) = (image.bat(0), image.bat(1));
    let mut table = vec![0; 4096];
    table[..8].copy_from_slice(&two.to_le_bytes());
    table[8..16].copy_from_slice(&one.to_le_bytes());
    let write = Write::Sector { at: BAT, bytes: table };
    image.put_log(0, &LogEntry::new(1, 0, image.bytes.len(), vec![write]));
    let disk = image.chain(&[]).unwrap();
    let wanted = [vec![0x22; 1 << 20], vec![0x11; 1 << 20]].concat();
    crate::conformance::check(&disk, Some(&wanted)).unwrap();
}

#[test]
fn replay_starts_at_the_tail_of_the_last_entry() {
    let mut image = image();
    image.put_log(0, &numbered(3, 0));
    image.put_log(0x2000, &numbered(4, 0));
    image.put_log(0x4000, &numbered(5, 0x2000));
    assert_eq!(replayed(&image), [4, 5]);
}

#[test]
fn a_sequence_may_go_around_the_end() {
    let mut image = image();
    // the second entry is split between its header and its data, the third lies at the start
    image.put_log(RING - 0x3000, &numbered(5, RING - 0x3000));
    image.put_log(RING - 0x1000, &numbered(6, RING - 0x3000));
    image.put_log(0x1000, &numbered(7, RING - 0x3000));
    assert_eq!(replayed(&image), [5, 6, 7]);
    // what it overwrote, further on, does not belong to it
    image.put_log(0x3000, &numbered(4, 0x3000));
    assert_eq!(replayed(&image), [5, 6, 7]);
}

#[test]
fn a_torn_last_entry_leaves_the_ones_before_it() {
    for (at, what) in [
        (0x4000, "signature"),
        (0x4004, "checksum"),
        (0x400c, "tail"),
        (0x4040, "descriptor"),
        (0x4050, "offset"),
        (0x5000, "data sector"),
        (0x5100, "data"),
        (0x5ffc, "data sector's end"),
    ] {
        let mut image = image();
        image.put_log(0, &numbered(3, 0));
        image.put_log(0x2000, &numbered(4, 0));
        image.put_log(0x4000, &numbered(5, 0));
        assert_eq!(replayed(&image), [3, 4, 5]);
        image.bytes[(LOG + at) as usize] ^= 1;
        assert_eq!(replayed(&image), [3, 4], "{what}");
    }
}

#[test]
fn of_two_sequences_the_later_complete_one_counts() {
    let mut image = image();
    image.put_log(0, &numbered(3, 0));
    image.put_log(0x8000, &numbered(7, 0x8000));
    image.put_log(0x1_0000, &numbered(5, 0x1_0000));
    assert_eq!(replayed(&image), [7]);
    // a later one that lost its tail does not
    image.put_log(0x2_0000, &numbered(9, 0x1_e000));
    assert_eq!(replayed(&image), [7]);
    // numbers must follow at once, and no entry of another log counts
    image.put_log(0xa000, &numbered(9, 0x8000));
    assert_eq!(replayed(&image), [7]);
    let mut other = numbered(8, 0x8000);
    other.guid = Guid::of(9, 9, 9, 9);
    image.put_log(0xa000, &other);
    assert_eq!(replayed(&image), [7]);
    image.put_log(0xa000, &numbered(8, 0x8000));
    assert_eq!(replayed(&image), [7, 8]);
}

#[test]
fn no_sequence_at_all_is_corrupt_unless_trusted() {
    let mut other = numbered(1, 0);
    other.guid = Guid::of(9, 9, 9, 9);
    for entry in [None, Some(other), Some(numbered(0, 0)), Some(numbered(1, 0x1000))] {
        let mut image = image();
        if let Some(entry) = &entry {
            image.put_log(0, entry);
        }
        refused(&image, ErrorKind::Corrupt, "no valid sequence");
        let layer = image.trust().unwrap();
        assert_eq!(layer.log(), LogState::Ignored);
        assert!(layer.storage().is_none());
    }
}

#[test]
fn an_entry_may_be_empty_and_the_last_number_may_be_the_greatest() {
    let mut image = image();
    image.put_log(0, &LogEntry::new(u64::MAX - 1, 0, 6 << 20, Vec::new()));
    image.put_log(0x1000, &LogEntry::new(u64::MAX, 0, 6 << 20, Vec::new()));
    image.put_log(0x2000, &LogEntry::new(0, 0, 6 << 20, Vec::new()));
    let LogState::Replayed { entries, sequence_number, .. } = image.open().unwrap().log() else {
        panic!("not replayed");
    };
    assert_eq!((entries, sequence_number), (2, u64::MAX));
}

#[test]
fn descriptors_beyond_one_sector_are_read() {
    let mut image = image();
    let writes = (0..200).map(|i| sector(0x40_0000 + i * 4096, i as u8)).collect();
    image.put_log(RING - 0x1000, &LogEntry::new(1, RING - 0x1000, 6 << 20, writes));
    let storage = image.open().unwrap().storage().unwrap();
    for i in 0..200u64 {
        let mut byte = [0];
        storage.read_exact_at(&mut byte, 0x40_0000 + i * 4096 + 9).unwrap();
        assert_eq!(u64::from(byte[0]), i);
    }
}

#[test]
fn writes_to_where_none_belong_are_corrupt() {
    let zeros = |at, length| Write::Zeros { at, length };
    for (write, text) in [
        (zeros(0x40_0001, 4096), "whole sectors"),
        (zeros(0x40_0000, 4095), "whole sectors"),
        (zeros(0x60_0000, 4096), "within the file"),
        (zeros(0x5f_f000, 0x2000), "within the file"),
        (zeros(!4095, 4096), "within the file"),
        (zeros(0, 1 << 62), "within the file"),
        (zeros(0x2_0000, 4096), "behind the headers"),
        (zeros(LOG - 4096, 8192), "outside of the log"),
        (sector(0x40_0200, 1), "whole sectors"),
        (sector(0x60_0000, 1), "within the file"),
        (sector(LOG, 1), "outside of the log"),
    ] {
        let mut image = image();
        image.put_log(0, &LogEntry::new(1, 0, 6 << 20, vec![write]));
        refused(&image, ErrorKind::Corrupt, text);
    }
}

#[test]
fn the_file_must_be_as_long_as_the_log_says_and_may_have_to_grow() {
    let mut image = image();
    let mut entry = numbered(1, 0);
    entry.flushed = (6 << 20) + 1;
    image.put_log(0, &entry);
    refused(&image, ErrorKind::Corrupt, "ends at 0x600000");

    entry.flushed = 6 << 20;
    entry.last = 7 << 20;
    entry.writes = vec![sector(0x60_1000, 0x33)];
    image.put_log(0, &entry);
    image.set_bat(1, (6 << 20) | 6);
    let disk = image.chain(&[]).unwrap();
    let mut wanted = vec![0; 2 << 20];
    wanted[..1 << 20].fill(0x11);
    let grown = &mut wanted[(1 << 20) + 0x1000..(1 << 20) + 0x2000];
    grown.fill(0x33);
    grown[..8].copy_from_slice(b"leading!");
    grown[4092..].copy_from_slice(b"ends");
    crate::conformance::check(&disk, Some(&wanted)).unwrap();

    // what an earlier entry wrote counts even if the file was to be shorter afterwards
    let mut later = numbered(2, 0);
    later.writes.clear();
    let next = image.put_log(0, &entry);
    image.put_log(next, &later);
    assert_eq!(image.open().unwrap().storage().unwrap().size(), (6 << 20) + 0x2000);

    entry.last = 1 << 60;
    let next = image.put_log(0, &entry);
    image.put(LOG + next, &[0; 4]);
    refused(&image, ErrorKind::Corrupt, "extends the file");
}

#[test]
fn the_limits_hold() {
    let mut image = image();
    image.put_log(0, &numbered(1, 0));
    let mut options = crate::format::LayerOptions::default();
    options.limits.max_directory_size = (1 << 20) - 1;
    let error = VhdxLayer::open(image.storage(), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");

    // a log of nothing but descriptors, each for a sector of its own
    let count = to_u64(MAX_LOG_RUNS) + 1;
    let writes = (0..count).map(|i| Write::Zeros { at: (1 << 30) + i * 8192, length: 4096 });
    let mut entry = LogEntry::new(1, 0, 1 << 20, writes.collect());
    entry.last = 1 << 40;
    let mut bytes = vec![0; 1 << 20];
    bytes.extend(entry.bytes());
    bytes.resize(bytes.len().next_multiple_of(1 << 20), 0);
    let mut header = image.open().unwrap().headers().current.clone();
    header.log_length = to_u64(bytes.len()) - LOG;
    let base: Arc<dyn Storage> = Arc::new(crate::storage::MemoryStorage::new(bytes));
    let error = replay(&base, &header, &Limits::default(), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
    assert_eq!(header.log_guid, LOG_GUID);
}

fn entries() -> impl Strategy<Value = Vec<Vec<(bool, u64, u64, u8)>>> {
    let write = (any::<bool>(), 0..512u64, 1..40u64, any::<u8>());
    proptest::collection::vec(proptest::collection::vec(write, 0..6), 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn replay_is_what_writing_would_have_done(
        entries in entries(),
        start in 0..256u64,
        tail in any::<prop::sample::Index>(),
        torn in any::<Option<prop::sample::Index>>(),
    ) {
        let mut image = image();
        let tail = tail.index(entries.len());
        let torn = torn.map_or(entries.len(), |index| index.index(entries.len()));
        let mut positions = Vec::new();
        let mut position = start * 4096;
        let mut model = image.bytes[0x40_0000..].to_vec();
        for (index, writes) in entries.iter().enumerate() {
            let mut list = Vec::new();
            for &(zeros, at, length, byte) in writes {
                let at = at * 4096;
                if zeros {
                    let length = (length * 4096).min((2 << 20) - at);
                    list.push(Write::Zeros { at: 0x40_0000 + at, length });
                } else {
                    list.push(sector(0x40_0000 + at, byte));
                }
            }
            positions.push(position);
            let start = if index >= tail { tail } else { 0 };
            let entry = LogEntry::new(index as u64 + 1, positions[start], 6 << 20, list.clone());
            position = image.put_log(position, &entry);
            if index == torn {
                // a byte of its checksum; nothing was written behind it
                image.bytes[(LOG + positions[index] + 5) as usize] ^= 0x10;
                break;
            }
            if index >= tail || torn <= tail {
                for write in &list {
                    match write {
                        Write::Zeros { at, length } => {
                            let at = (at - 0x40_0000) as usize;
                            model[at..at + *length as usize].fill(0);
                        }
                        Write::Sector { at, bytes } => {
                            let at = (at - 0x40_0000) as usize;
                            model[at..at + 4096].copy_from_slice(bytes);
                        }
                    }
                }
            }
        }
        match image.open() {
            Ok(layer) => {
                prop_assert!(torn > 0);
                let mut got = vec![0; 2 << 20];
                layer.storage().unwrap().read_exact_at(&mut got, 0x40_0000).unwrap();
                prop_assert!(got == model, "tail {tail}, torn {torn}");
            }
            Err(error) => prop_assert!(torn == 0, "{error}"),
        }
    }
}
